"""Each image tower, at each precision: killed and resumed, or replayed without a slot, it ends with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import training.clip
from curation import clip_model
from curation.clip_model import ClipSpec
from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError
from tests.training.toy_dataset import COLOURS, flat_picture, noon, seal
from training.checkpoint import list_checkpoints
from training.clip import ClipResult, held_out_of, train_clip
from training.clip_config import ClipConfig, for_tower
from training.clip_inputs import ClipInputs, picture
from training.clip_towers import embed_pictures, image_tower, trained_parameters
from training.order import Order, exposure
from training.replay import begin_replay, plan_replay
from training.step_log import effective_rows, read_steps

ROOT = Path(training.clip.__file__).parents[1]
SLOTS, STEPS = 30, 4
SMALL = {
    "image_size": 32,
    "scratch_model": "test_vit",
    "steps": 40,
    "batch_size": 6,
    "micro_batch": 3,
    "views": 2,
    "held_out": 2,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
}
# Of the head at fp32 tests/training/test_clip.py speaks.
KINDS = [("head", "bf16"), ("finetune", "bf16"), ("scratch", "fp32")]
KILLED = """
import os, signal, sys
from pathlib import Path
from curation.clip_model import import_open_clip
from tests.training.test_clip_towers import KINDS, config_of, run

import_open_clip()
def progress(what, done, total):
    if (what, done) == ("train", 3):
        os.kill(os.getpid(), signal.SIGKILL)

for tower, precision in KINDS:
    child = os.fork()
    if not child:
        run(Path(sys.argv[1]), Path(sys.argv[2]) / tower / precision, config_of(tower, precision), progress=progress)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


TEXTS = [f"{colour} thing {i}" for i in range(8) for colour in COLOURS]


def different(i: int) -> bytes:
    """No two pictures have the same bytes, so that some may be held out; what follows a JPEG's end changes no pixel."""
    return flat_picture(i) + bytes([i])


def config_of(tower: str, precision: str) -> ClipConfig:
    # What is new each time is never kept in memory: the other way through the inputs.
    views = 0 if tower == "scratch" else 2
    return for_tower(tower, **SMALL | {"precision": precision, "views": views, "unlocked_from": 7})


def run(dataset: Path, run_dir: Path, config: ClipConfig, **options: object) -> ClipResult:
    with DatasetReader.open(dataset) as reader:
        return train_clip(reader, config, run_dir, now=noon, stop_after=STEPS, **options)  # type: ignore[arg-type]


def weights(result: ClipResult) -> list[bytes]:
    return [(result.checkpoints[-1] / f"{name}.safetensors").read_bytes() for name in ("model", "adamw")]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 small pictures, each with a text of its own, so that some may be held out."""
    folder = tmp_path_factory.mktemp("clip-toys")
    return seal(folder / "toys", SLOTS, different, TEXTS)


@pytest.fixture(scope="module")
def whole(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ClipResult]:
    """Each kind, undisturbed."""
    place = tmp_path_factory.mktemp("whole")
    return {kind: run(toys, place / "-".join(kind), config_of(*kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def killed(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each kind that were killed with SIGKILL after their third step, a step after the first checkpoint."""
    place = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", KILLED, str(toys), str(place)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize(("tower", "precision"), KINDS)
def test_a_killed_run_ends_with_the_same_bits(
    whole: dict[tuple[str, str], ClipResult], killed: Path, toys: Path, tower: str, precision: str
) -> None:
    """After kill -9 between checkpoints, weights, optimizer, tally and the log's rows are those of a run left alone."""
    run_dir, undisturbed = killed / tower / precision, whole[tower, precision]
    assert [p.name for p in list_checkpoints(run_dir)] == ["step-0000002"]
    resumed = run(toys, run_dir, config_of(tower, precision))
    assert weights(resumed) == weights(undisturbed)
    assert (resumed.last.state, resumed.last.tally) == ("exact", undisturbed.last.tally)
    rows = [effective_rows(read_steps(r.checkpoints[0].parent / "steps.log")) for r in (resumed, undisturbed)]
    assert np.array_equal(rows[0], rows[1])
    assert resumed.run.segments[0].contract.precision == precision


@pytest.mark.parametrize(("tower", "precision"), KINDS)
def test_a_removed_slot_was_never_there(
    whole: dict[tuple[str, str], ClipResult], toys: Path, tmp_path: Path, tower: str, precision: str
) -> None:
    """A replay from the last checkpoint that had not seen a slot is bit for bit the run that never had it."""
    seen = whole[tower, precision]
    firsts = {o: exposure(seen.run, (), o, STEPS)[:1] for o in range(SLOTS)}
    victim = next(o for o, steps in firsts.items() if steps and steps[0] >= 2)
    run_dir = seen.checkpoints[0].parent
    plan = plan_replay(run_dir, [victim])
    assert plan.first_step == 2
    begin_replay(plan, run_dir, tmp_path / "replayed")
    replayed = run(toys, tmp_path / "replayed", config_of(tower, precision))
    never = run(toys, tmp_path / "never", replace(config_of(tower, precision)), withheld=[victim])
    assert held_out_of(never.run) == held_out_of(replayed.run)
    assert weights(replayed) == weights(never)
    assert weights(never) != weights(seen)
    assert (replayed.last.tally, replayed.last.schedule) == (never.last.tally, never.last.schedule)


@pytest.mark.parametrize(("tower", "precision"), KINDS)
def test_what_was_trained_is_what_is_loaded(
    whole: dict[tuple[str, str], ClipResult], toys: Path, tower: str, precision: str
) -> None:
    """A checkpoint holds all that was trained: loaded anew it embeds pictures as the trainer did, and names its base.

    Up to bf16's own noise where it was trained in bf16; what is loaded runs in fp32.
    """
    result, config = whole[tower, precision], config_of(tower, precision)
    loaded = clip_model.load_clip(ClipSpec(None, f"trained:{result.checkpoints[-1].parent}"))
    assert loaded.digest == result.model_digest
    assert ("EfficientNet" in loaded.component.licence) == (tower != "scratch")
    cut = image_tower(loaded.model, config)
    with DatasetReader.open(toys) as reader:
        inputs = ClipInputs(reader, loaded.model, cut, replace(config, views=1))
        ordinals = np.arange(4)
        batch = inputs.batch(ordinals, np.zeros(4, np.int64), np.ones(4, bool))
        pictures = [picture(reader, o) for o in range(4)]
    with torch.no_grad():
        own = embed_pictures(cut, batch.images, torch.ones(4, cut.dropout_width), config, slice(0, 4))
    assert np.abs(loaded.encode_images(pictures) - own.numpy()).max() < (1e-5 if precision == "fp32" else 0.05)


def test_what_is_trained_is_what_the_tower_says() -> None:
    """Of "finetune" the stages from the named one on change and no BatchNorm statistic does; a "head" leaves all.

    The temperature is among it unless it is fixed.
    """
    trained = {}
    for tower in ("head", "finetune"):
        model = clip_model.build_clip(config_of(tower, "fp32").model)
        model.logit_scale.requires_grad_(tower == "head")
        names = [n for n, _ in trained_parameters(model, tuple(config_of(tower, "fp32").model["frozen"]))]
        assert ("logit_scale" in names) == (tower == "head")
        trained[tower] = {".".join(n.split(".")[2:5]) for n in names if n.startswith("visual.trunk")}
    assert trained["head"] == set()
    assert {n for n in trained["finetune"] if n.startswith("backbone.blocks")} == {"backbone.blocks.6"}
    assert not any(module.training for module in model.modules())


def test_a_backbone_in_two_parts_is_the_backbone() -> None:
    """Cut at any stage, the frozen and the trained part together give the bits of the whole."""
    model = clip_model.build_clip(config_of("finetune", "fp32").model)
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.visual.trunk(pixels)
        for first in range(1, 9):
            trunk = model.visual.trunk
            assert torch.equal(trunk.from_stage(trunk.below_stage(pixels, first), first), expected)


def test_inputs_that_are_kept_are_those_made_anew(toys: Path) -> None:
    """Whether what the frozen part gives fits into memory or not, a step is fed the same bits."""
    config = config_of("finetune", "fp32")
    model = clip_model.build_clip(config.model)
    ordinals, epochs = np.array([5, 29, 0, 5, -1, 8]), np.array([0, 3, 1, 1, -1, 2])  # one of them twice
    fed = np.array([True, True, False, True, False, True])
    with DatasetReader.open(toys) as reader:
        batches = []
        for feature_bytes in (0, 10**9):
            inputs = ClipInputs(reader, model, image_tower(model, config), replace(config, feature_bytes=feature_bytes))
            inputs.read({0}, lambda what, done, total: None)
            batches.append(inputs.batch(ordinals, epochs, fed))
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].texts, batches[1].texts)
    assert batches[0].images[[0, 1, 3, 5]].abs().sum(1).min() > 0
    assert not batches[0].images[[2, 4]].any()


@pytest.mark.parametrize("views", [1, 0])
def test_a_picture_that_cannot_be_decoded_is_out_from_its_step_on(
    whole: dict[tuple[str, str], ClipResult], tmp_path: Path, views: int
) -> None:
    """A damaged picture is named once, enters the schedule and is fed to no step, whether kept or made anew."""
    order = Order.of(whole["head", "bf16"].run.segments[0])
    victim = int(order.at_step(0)[0][2])
    damaged = seal(tmp_path / "damaged", SLOTS, lambda i: b"no picture" if i == victim else different(i), TEXTS)
    events: list[tuple[str, str, str]] = []
    config = for_tower("head", **SMALL | {"views": views})
    result = run(damaged, tmp_path / "run", config, on_event=lambda *event: events.append(event))
    assert [e[:2] for e in events] == [("picture-undecodable", f"slot {victim}")]
    assert [(e.ordinal, e.first_empty_step) for e in result.last.schedule] == [(victim, 0)]
    assert exposure(result.run, result.last.schedule, victim, STEPS) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scratch_model": "resnet18"}, "normalises over the batch"),
        ({"scratch_model": "vit_no_such"}, "vit_no_such"),
    ],
)
def test_models_that_cannot_be_replayed_or_found_are_refused(
    toys: Path, tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    """A model whose pictures depend on their neighbours, or that timm does not know, is refused by name."""
    with pytest.raises(ConfigurationError, match=named):
        run(toys, tmp_path / "run", for_tower("scratch", **SMALL | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 4},
        {"image_tower": "head2"},
        {"views": -1},
        {"precision": "fp16"},
        {"batch_size": 1},
        {"unlocked_from": 9},
        {"learning_rate": 0.0},
        {"initial_scale": 101.0},
    ],
)
def test_impossible_settings_are_named(changes: dict[str, object]) -> None:
    """A setting out of range is refused with its name and what it must be."""
    with pytest.raises(ConfigurationError, match=f"{next(iter(changes))} must be"):
        replace(for_tower("head", **SMALL), **changes)
    with pytest.raises(ConfigurationError, match="no image tower"):
        for_tower("heads")
    with pytest.raises(ConfigurationError, match="unknown setting"):
        for_tower("head", stepps=3)
