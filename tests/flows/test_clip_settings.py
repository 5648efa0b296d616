"""[clip] of custody.toml: each key reaches the run, and what cannot be is refused before anything starts."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from flows import settings
from flows.stages.train import clip_config
from policy.errors import ConfigurationError
from training.clip_config import for_tower


def parsed(**changes: str) -> settings.Settings:
    """The default settings with some keys of [clip] changed."""
    before, clip, after = settings.DEFAULT_TEXT.partition("[clip]")
    for key, value in changes.items():
        (line,) = (line for line in after.partition("[seal]")[0].splitlines() if line.startswith(f"{key} = "))
        after = after.replace(line, f"{key} = {value}", 1)
    return settings.parse(before + clip + after)


def test_the_default_is_the_small_head_as_it_always_was() -> None:
    """Without a change a home trains the projection over frozen towers, on pictures as they are."""
    config = clip_config(parsed())
    assert config == for_tower("head", held_out=250, seed=1, threads=2)
    assert (config.steps, config.batch_size, config.learning_rate, config.views) == (400, 256, 2e-3, 1)


def test_every_key_reaches_the_run() -> None:
    """What stands in custody.toml is what the run's record will say; --steps and --seed go before."""
    asked = {
        "image_tower": '"scratch"',
        "unlocked_from": "3",
        "scratch_model": '"vit_small_patch16_224"',
        "steps": "40",
        "batch_size": "64",
        "micro_batch": "16",
        "views": "0",
        "learning_rate": "0.25",
        "precision": '"bf16"',
        "device": '"cuda"',
        "feature_bytes": "7",
        "held_out": "31",
        "target_precision": "0.75",
        "confidence": "0.8",
        "seed": "9",
    }
    assert asked.keys() == asdict(parsed().clip).keys()
    config = asdict(clip_config(parsed(**asked)))
    # What is asked of a threshold decides captions, and no weight.
    assert {asked.pop(name) for name in ("target_precision", "confidence")} == {"0.75", "0.8"}
    assert not config.keys() & {"target_precision", "confidence"}
    assert {key: str(config[key]) for key in asked} == {key: value.strip('"') for key, value in asked.items()}
    assert clip_config(parsed(image_tower='"scratch"')).learning_rate == for_tower("scratch").learning_rate
    assert clip_config(parsed(), steps=3, seed=0).steps == 3
    assert clip_config(parsed(), steps=3, seed=0).seed == 0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_tower", '"resnet"', "no image tower 'resnet'"),
        ("micro_batch", "100", "micro_batch must be 0 or a divisor of 256"),
        ("precision", '"fp16"', "precision must be fp32 or bf16"),
        ("unlocked_from", "9", "clip.unlocked_from must be from 1 to 8"),
        ("target_precision", "1.0", "clip.target_precision must be"),
        ("batch_size", "1", "clip.batch_size must be"),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: str, said: str) -> None:
    """A wrong value is named with what it must be."""
    with pytest.raises(ConfigurationError, match=said):
        clip_config(parsed(**{key: value}))
