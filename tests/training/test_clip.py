"""CLIP's training: what it saw is known, what it held out it never saw, and what is saved is what was trained."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curation import clip_model
from curation.captions import BankEntry, CaptionBank, RetrievalCaptioner
from curation.clip_model import ClipModel, ClipSpec
from curation.images import encode_jpeg
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader
from curation.shards import reseal, write_dataset
from policy.errors import ConfigurationError, InputError, IntegrityError
from policy.keys import KeyRing
from policy.provenance import DatasetManifest, dataset_root
from policy.tombstones import Tombstones
from training import clip as trainer
from training.checkpoint import load_schedule, newest_checkpoint
from training.clip import ClipResult, train_clip
from training.clip_config import ClipConfig
from training.clip_inputs import ClipInputs, picture
from training.clip_towers import embed_pictures, image_tower
from training.order import Order, exposure
from training.retrieval import choose_held_out
from training.step_log import effective_rows, fed_digest, read_steps

COLOURS = ("red", "green", "blue", "yellow", "black", "purple", "orange", "brown")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"small": 10, "large": 28}
CONFIG = ClipConfig(image_size=64, steps=12, batch_size=16, held_out=12, checkpoint_every=4, warmup_steps=2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def draw(colour: str, shape: str, radius: int) -> np.ndarray:
    image = Image.new("RGB", (64, 64), "white")
    pen, box = ImageDraw.Draw(image), (32 - radius, 32 - radius, 32 + radius, 32 + radius)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon(((32, box[1]), (box[0], box[3]), (box[2], box[3])), fill=colour)
    elif shape == "cross":
        pen.line((box[0], box[1], box[2], box[3]), fill=colour, width=6)
        pen.line((box[0], box[3], box[2], box[1]), fill=colour, width=6)
    else:
        pen.ellipse(box, outline=colour, width=5)
    return np.asarray(image)


def seal_shapes(folder: Path) -> Path:
    names = [(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES]
    commitments = [hashlib.sha256(str(i).encode()).digest() for i in range(len(names))]
    manifest = DatasetManifest(
        "shapes", dataset_root(commitments), len(names), 64, "research", "r", "s", None, "2026-01-01T00:00:00Z"
    )
    samples = []
    for ordinal, (size, colour, shape) in enumerate(names):
        jpeg = encode_jpeg(draw(colour, shape, SIZES[size]))
        caption = f"{size} {colour} {shape}"
        key = hashlib.blake2b(jpeg + caption.encode(), digest_size=16).hexdigest()
        samples.append(SealedSample(ordinal, key, jpeg, "jpg", caption, '{"licence": "CC0-1.0"}'))
    write_dataset(folder, manifest, commitments, samples, 50)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal_shapes(tmp_path_factory.mktemp("clip") / "shapes")


def run(dataset: Path, run_dir: Path, config: ClipConfig = CONFIG, **options: object) -> ClipResult:
    with DatasetReader.open(dataset) as reader:
        return train_clip(reader, config, run_dir, now=lambda: NOW, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipResult:
    return run(dataset, tmp_path_factory.mktemp("clip-run") / "run")


@pytest.fixture(scope="module")
def loaded(finished: ClipResult) -> ClipModel:
    return clip_model.load_clip(ClipSpec(None, f"trained:{finished.checkpoints[-1].parent}"))


def test_a_finished_run_reports_what_it_is_worth(finished: ClipResult) -> None:
    """At the end stands retrieval on held-out pairs, stored beside the weights."""
    assert finished.steps == 12
    assert finished.n_heldout == 12
    assert 0 <= finished.r_at_1 <= finished.r_at_5 <= 1
    assert finished.r_at_5 > 5 / 12
    stored = clip_model.read_retrieval(finished.checkpoints[-1].parent)
    assert stored == finished.retrieval


def test_training_lowers_the_loss(finished: ClipResult) -> None:
    """The loss of the last steps is below that of the first."""
    losses = read_steps(finished.checkpoints[-1].parent / "steps.log")["loss"]
    assert losses[-3:].mean() < losses[:2].mean() - 0.3


def test_the_saved_model_is_the_trained_one(finished: ClipResult, loaded: ClipModel, dataset: Path) -> None:
    """On raw pictures the loaded model gives what the cached features gave while training, to the last bits."""
    assert loaded.digest == finished.model_digest
    assert loaded.component.training_data == f"run:{finished.run.run}"
    tower = image_tower(loaded.model, CONFIG)
    with DatasetReader.open(dataset) as reader:
        inputs = ClipInputs(reader, loaded.model, tower, CONFIG)
        inputs.read({0, 7}, lambda what, done, total: None)
        ordinals = np.array([1, 33, 79, 40, -1])
        batch = inputs.batch(ordinals, np.zeros(5, np.int64), ordinals >= 0)
        with torch.no_grad():
            own = embed_pictures(tower, batch.images, torch.ones(5, tower.dropout_width), CONFIG, slice(0, 4))
        pictures = [picture(reader, int(o)) for o in ordinals[:4]]
        captions = [reader.caption(int(o)) for o in ordinals[:4]]
    assert np.abs(loaded.encode_images(pictures) - own.numpy()).max() < 1e-5
    assert np.abs(loaded.encode_texts(captions) - batch.texts[:4].numpy()).max() < 1e-5
    assert not batch.images[4].any()
    assert not batch.texts[4].any()


def test_a_picture_has_the_same_bits_in_any_company(loaded: ClipModel) -> None:
    """A picture's embedding does not depend on the pictures encoded with it."""
    pictures = [draw(colour, shape, 20) for colour in COLOURS for shape in SHAPES]
    many = loaded.encode_images(pictures)
    assert np.array_equal(loaded.encode_images(pictures[17:18])[0], many[17])


def test_the_trained_clip_captions_pictures(loaded: ClipModel) -> None:
    """A captioner over the trained CLIP names the colour of large drawings, which it has learnt from a dozen steps."""
    bank = CaptionBank.build(
        [BankEntry(f"large {colour} square", f"list:{colour}", "list", ()) for colour in COLOURS], min_origins=1
    )
    captioner = RetrievalCaptioner(loaded, bank, threshold=0.0)
    results = captioner.caption_images([draw(colour, "square", 28) for colour in COLOURS])
    assert sum(colour in result.text for colour, result in zip(COLOURS, results, strict=True)) >= len(COLOURS) / 2
    assert {result.model_digest for result in results} == {loaded.digest}


def test_held_out_pairs_were_never_fed(finished: ClipResult, dataset: Path) -> None:
    """Of a held-out pair the arithmetic of exposure says: no step; every other slot comes up."""
    held_out = trainer.held_out_of(finished.run)
    assert len(held_out) == 12
    exposures = [exposure(finished.run, finished.last.schedule, o, finished.steps) for o in range(80)]
    assert all((not exposures[o]) == (o in held_out) for o in range(80))
    assert sum(map(len, exposures)) == 12 * 16 == dict(finished.last.tally)["CC0-1.0"]


def test_the_step_log_is_what_the_order_says(finished: ClipResult, dataset: Path) -> None:
    """Each row's digest covers exactly the slots that the order names for its step."""
    order = Order.of(finished.run.segments[0])
    rows = effective_rows(read_steps(finished.checkpoints[-1].parent / "steps.log"))
    with DatasetReader.open(dataset) as reader:
        for row in rows:
            ordinals, _ = order.at_step(int(row["step"]))
            fed = fed_digest((int(o), reader.commitment(int(o))) for o in ordinals)
            assert row["fed_sha256"].tobytes() == fed


def test_a_stopped_run_ends_with_the_same_bits(finished: ClipResult, dataset: Path, tmp_path: Path) -> None:
    """Stopped between checkpoints and started again, twice, a run ends bit for bit where the uninterrupted one does."""
    assert run(dataset, tmp_path / "run", stop_after=3).retrieval is None
    run(dataset, tmp_path / "run", stop_after=7)
    resumed = run(dataset, tmp_path / "run")
    for name in ("model.safetensors", "adamw.safetensors"):
        whole, parts = finished.checkpoints[-1] / name, resumed.checkpoints[-1] / name
        assert whole.read_bytes() == parts.read_bytes()
    assert resumed.last.state == "exact"
    assert resumed.retrieval == finished.retrieval


def test_a_tombstone_takes_force_while_training(dataset: Path, tmp_path: Path) -> None:
    """A slot tombstoned during the run is fed up to that step and never again; the schedule says from when."""
    keys = KeyRing.create(tmp_path / "keys")
    victim = next(o for o in range(80) if o not in _held_out(dataset))
    stones = tmp_path / "tombstones"
    stones.mkdir()

    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == ("train", 3):
            Tombstones().with_added("r1", keys=keys, slots={"shapes": [victim]}).store(stones)

    config = ClipConfig(**{**_fields(CONFIG), "batch_size": 34, "steps": 8})
    result = run(dataset, tmp_path / "run", config, tombstones_dir=stones, progress=progress, stop_after=7)
    entries = {e.ordinal: e.first_empty_step for e in load_schedule(tmp_path / "run")}
    assert entries == {victim: 3}
    seen = exposure(result.run, result.last.schedule, victim, 7)
    assert all(step < 3 for step in seen)
    order, rows = Order.of(result.run.segments[0]), read_steps(tmp_path / "run" / "steps.log")
    named = [step for step in range(7) if victim in order.at_step(step)[0]]
    assert [34 - int(row["real"]) for row in rows] == [int(s >= 3 and s in named) for s in range(7)]
    assert max(named) >= 3


def test_a_resealed_dataset_replays_to_the_bits_of_an_early_tombstone(dataset: Path, tmp_path: Path) -> None:
    """A slot whose bytes are gone and one that was tombstoned before the start give the same model."""
    victim = next(o for o in range(80) if o not in _held_out(dataset))
    keys, stones = KeyRing.create(tmp_path / "keys"), tmp_path / "tombstones"
    stones.mkdir()
    Tombstones().with_added("r1", keys=keys, slots={"shapes": [victim]}).store(stones)
    early = run(dataset, tmp_path / "early", stop_after=4, tombstones_dir=stones)
    gone = seal_shapes(tmp_path / "gone")
    reseal(gone, [victim], "r1")
    replayed = run(gone, tmp_path / "replayed", stop_after=4)
    models = [(r.checkpoints[-1] / "model.safetensors").read_bytes() for r in (early, replayed)]
    assert models[0] == models[1]
    assert exposure(replayed.run, replayed.last.schedule, victim, 4) == ()


def test_another_configuration_or_dataset_is_refused(finished: ClipResult, dataset: Path) -> None:
    """A run's directory goes on only with what it was begun with."""
    with pytest.raises(ConfigurationError, match="another"):
        run(dataset, finished.checkpoints[-1].parent, ClipConfig(**{**_fields(CONFIG), "seed": 5}))


def test_too_small_a_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    """A dataset that cannot spare the held-out pairs is refused, not measured on what it was trained on."""
    with pytest.raises(InputError, match="hold out"):
        run(dataset, tmp_path / "run", ClipConfig(**{**_fields(CONFIG), "held_out": 60}))


def test_a_measure_counts_only_for_its_own_model(finished: ClipResult, dataset: Path, tmp_path: Path) -> None:
    """A run that was not measured, or holds another model's measure, says so."""
    run(dataset, tmp_path / "run", stop_after=1)
    with pytest.raises(ConfigurationError, match="never measured"):
        clip_model.read_retrieval(tmp_path / "run")
    other = finished.checkpoints[-1].parent / clip_model.RETRIEVAL_FILE
    (tmp_path / "run" / other.name).write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match="model"):
        clip_model.read_retrieval(tmp_path / "run")
    (tmp_path / "run" / other.name).write_text("{}")
    with pytest.raises(IntegrityError, match="not a measure"):
        clip_model.read_retrieval(tmp_path / "run")


def test_damaged_weights_are_not_loaded(dataset: Path, tmp_path: Path) -> None:
    """A flipped byte in a trained CLIP's weights or configuration is named instead of being used."""
    result = run(dataset, tmp_path / "run", stop_after=1)
    for name in ("model.safetensors", clip_model.CONFIG_FILE):
        path = result.checkpoints[-1] / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=name):
            clip_model.load_clip(ClipSpec(None, f"trained:{tmp_path / 'run'}"))
        path.write_bytes(good)
    assert newest_checkpoint(tmp_path / "run")[0] is not None


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_ranges_cover_what_is_not_left_out(case: tuple[int, set[int]]) -> None:
    """The ranges hold every ordinal but those left out, once, in order."""
    slots, left_out = case
    covered = [o for start, stop in trainer.ranges_without(slots, sorted(left_out)) for o in range(start, stop)]
    assert covered == [o for o in range(slots) if o not in left_out]


def _held_out(dataset: Path) -> tuple[int, ...]:
    with DatasetReader.open(dataset) as reader:
        return choose_held_out(reader, CONFIG.held_out)


def _fields(config: ClipConfig) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(config)
