"""Sampling: the same seed gives the same pictures, and grids say what was asked for."""

import pytest
import torch
from PIL import Image

from policy.errors import InputError, IntegrityError
from tests.training.toy_dataset import HashedWords, noon
from training.config import preset
from training.loop import train
from training.sampling import grid_png, integrate, load_denoiser, sample, strip_png

PROMPTS = ("red apple", "blue plum")


@pytest.fixture
def checkpoint_dir(reader, tmp_path):
    config = preset("tiny", steps=4)
    nothing = {"upstream": (), "text_encoder": HashedWords(), "progress": lambda *_: None, "now": noon}
    return train(reader, config, tmp_path / "run", **nothing).checkpoints[-1]


def test_the_same_seed_gives_the_same_pictures(checkpoint_dir, encoder):
    """Pictures are a function of checkpoint, prompts, seed, steps and guidance; other seeds give others."""
    loaded = load_denoiser(checkpoint_dir)
    one = sample(loaded.model, encoder, PROMPTS, loaded.config, seed=3, steps=3)
    assert one.shape == (2, 3, 16, 16)
    assert one.abs().max() <= 1
    assert torch.equal(one, sample(loaded.model, encoder, PROMPTS, loaded.config, seed=3, steps=3))
    assert not torch.equal(one, sample(loaded.model, encoder, PROMPTS, loaded.config, seed=4, steps=3))
    last_weights = load_denoiser(checkpoint_dir, ema=False)
    assert not torch.equal(one, sample(last_weights.model, encoder, PROMPTS, loaded.config, seed=3, steps=3))


def test_the_way_goes_from_noise_to_the_picture(checkpoint_dir, encoder):
    """The moments run from t = 1 to t = 0, one more than steps, and end with the picture."""
    loaded = load_denoiser(checkpoint_dir)
    moments = list(integrate(loaded.model, encoder, PROMPTS, loaded.config, seed=0, steps=4, guidance=2.0))
    assert [round(m.t, 2) for m in moments] == [1.0, 0.75, 0.5, 0.25, 0.0]
    picture = sample(loaded.model, encoder, PROMPTS, loaded.config, seed=0, steps=4, guidance=2.0)
    assert torch.equal(moments[-1].x_t.clamp(-1, 1), picture)
    assert moments[0].x_t.std() == pytest.approx(1.0, abs=0.1)
    with pytest.raises(InputError, match="at least one prompt"):
        sample(loaded.model, encoder, (), loaded.config)


def test_grid_and_strip_are_pictures_with_a_caption_line(checkpoint_dir, encoder, tmp_path):
    """Both PNGs open, have room for every picture, and long or odd prompts do no harm."""
    loaded = load_denoiser(checkpoint_dir)
    prompts = (*PROMPTS, "ein sehr langer Satz über Äpfel, der nicht unter das Bild paßt 🍎")
    images = sample(loaded.model, encoder, prompts, loaded.config, steps=2)
    grid_png(images, prompts, tmp_path / "samples/grid.png", columns=2, scale=4)
    with Image.open(tmp_path / "samples/grid.png") as grid:
        assert grid.size == (2 * (64 + 12) + 12, 2 * (64 + 26 + 12) + 12)
        assert len(grid.getcolors(10_000) or ()) > 10
    moments = list(integrate(loaded.model, encoder, prompts, loaded.config, seed=0, steps=6, guidance=2.0))
    strip_png(moments, prompts, tmp_path / "strip.png", shown=5, scale=2)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width == 5 * (32 + 6) + 6


def test_a_damaged_checkpoint_is_not_sampled(checkpoint_dir):
    """Loading verifies the MANIFEST first."""
    path = checkpoint_dir / "ema.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"ema\.safetensors"):
        load_denoiser(checkpoint_dir)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_denoiser(checkpoint_dir.parent / "step-0000099")
