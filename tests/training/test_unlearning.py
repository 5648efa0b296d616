"""Approximate unlearning: bounded, repeatable, verifiable, measured, and never called exact."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.images import encode_jpeg
from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, InputError, IntegrityError
from policy.provenance import CheckpointRecord, ScheduleEntry
from tests.training.recomputed import good_checkpoints, run_failures, times_fed
from tests.training.toy_dataset import HashedWords, file_tombstone, noise, noon, seal
from training.checkpoint import load_run, load_schedule, open_checkpoint
from training.conditioning import CaptionTokens
from training.config import preset
from training.loop import train
from training.membership import Samples, log_losses, sample_losses
from training.order import exposure
from training.recompute import Recorded, check_checkpoints
from training.replay import begin_replay, plan_replay
from training.sampling import load_denoiser
from training.step_log import read_steps
from training.unlearning import UnlearningConfig, never_fed, seen_by, unlearn

FED, SLOTS = 24, 65
HELD_OUT = tuple(range(FED, SLOTS - 1))
REMOVED = {"rem-1": (2, 5), "rem-2": (5, 8, 13, 17, 21)}
GONE = (2, 5, 8, 13, 17, 21)
CONFIG = preset("tiny", steps=48, batch_size=8, precision="fp32", flip=False, checkpoint_every=24)
HOW = UnlearningConfig(least_steps=10, passes=8, forget_batch=6, draws=4, forget_weight=0.3, learning_rate=3e-3)


def picture(i):
    """Fed are flat pictures, which are learnt at once; held out are spots, so that there is something to forget."""
    if i == SLOTS - 1:
        return picture(3)  # the last slot repeats one that is fed
    if i >= FED:
        return encode_jpeg(noise(i, 20, 24))
    colour = np.random.default_rng(i).integers(0, 256, 3, dtype=np.uint8)
    return encode_jpeg(np.ascontiguousarray(np.broadcast_to(colour, (20, 24, 3))))


def train_it(reader, run_dir, **arguments):
    return train(
        reader,
        CONFIG,
        run_dir,
        upstream=(),
        text_encoder=HashedWords(),
        progress=lambda *_: None,
        now=noon,
        **{"withheld": range(FED, SLOTS), **arguments},
    )


@pytest.fixture(scope="module")
def slots(tmp_path_factory):
    with DatasetReader.open(seal(tmp_path_factory.mktemp("sealed") / "toys", SLOTS, picture)) as reader:
        yield reader


@pytest.fixture(scope="module")
def old(slots, tmp_path_factory):
    """A run that saw the removed slots; its held-out ones were empty from step 0."""
    return train_it(slots, tmp_path_factory.mktemp("runs") / "old")


@pytest.fixture
def forget(old, slots, tmp_path):
    """Unlearn into tmp_path / name, with whatever is changed."""

    def call(name="new", **changes):
        arguments = {
            "run_dir": old.checkpoints[-1].parent,
            "checkpoint": old.checkpoints[-1],
            "removed": REMOVED,
            "reader": slots,
            "held_out": Samples(slots, HELD_OUT),
            "out_run_dir": tmp_path / name,
            "text_encoder": HashedWords(),
            "now": noon,
            "config": HOW,
        }
        return unlearn(**{**arguments, **changes})

    return call


@pytest.fixture(scope="module")
def new(old, slots):
    """The same, once for all tests that only look at it; beside the old run, where its ancestors are looked for."""
    return unlearn(
        old.checkpoints[-1].parent,
        old.checkpoints[-1],
        REMOVED,
        slots,
        held_out=Samples(slots, HELD_OUT),
        out_run_dir=old.checkpoints[-1].parent.parent / "new",
        text_encoder=HashedWords(),
        now=noon,
        config=HOW,
    )


def weights(record):
    return [pair for pair in record.files if pair[0].endswith(".safetensors")]


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


# ── what it leaves behind ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_unlearnt_checkpoint_says_what_it_is(old, new):
    """Tainted, chained to the checkpoint that it began from, with method, settings, slots, removals and measurement."""
    record = new.checkpoint
    assert record.state == "tainted"
    assert (record.parent, record.parent_sha256) == (old.last.checkpoint, old.last.digest)
    assert (new.run.kind, new.run.parent_checkpoint) == ("unlearning", old.last.checkpoint)
    said = record.unlearning
    assert (said.method, said.steps, said.ordinals) == ("loss-matching", 10, GONE)
    assert (said.removals, json.loads(said.config_json)["passes"]) == (("rem-1", "rem-2"), 8)
    assert (said.forgetting.auc_before.members, said.forgetting.auc_before.non_members) == (6, len(HELD_OUT) // 2)
    assert said.forgetting == new.forgetting
    stored = open_checkpoint(new.path).record
    assert stored == record
    assert CheckpointRecord.from_json(record.to_json()).unlearning == said


def test_records_of_what_was_not_unlearnt_keep_their_digest(old):
    """The field that a record gained is not in the JSON of one that has nothing to say in it."""
    assert old.last.unlearning is None
    assert "unlearning" not in json.loads(old.last.to_json())


def test_the_run_verifies_and_feeds_nothing_that_was_removed_or_held_out(new, slots):
    """Its step log follows from its order; the slots to forget are empty in it from step 0, as are unseen ones."""
    run_dir = new.path.parent
    assert run_failures(run_dir, slots) == []
    fed, failures = times_fed(run_dir, slots)
    assert failures == []
    assert {ordinal for _, ordinal in fed} == set(range(FED)) - set(GONE)
    emptied = {*GONE, *range(FED, SLOTS)}
    assert load_schedule(run_dir) == tuple(ScheduleEntry(o, 0) for o in sorted(emptied))
    assert all(exposure(new.run, new.checkpoint.schedule, o, new.steps) == () for o in GONE)


def test_no_weights_of_the_old_checkpoint_are_left(old, new):
    """Averaged and last weights are both the unlearnt ones, and no optimizer remembers."""
    files = dict(new.checkpoint.files)
    assert files["model.safetensors"] == files["ema.safetensors"]
    assert {name for name in files if name.endswith(".safetensors")} == {"model.safetensors", "ema.safetensors"}
    assert not {digest for _, digest in weights(new.checkpoint)} & {digest for _, digest in weights(old.last)}
    assert not torch.equal(
        load_denoiser(new.path).model.patch_out.weight, load_denoiser(old.checkpoints[-1]).model.patch_out.weight
    )


def test_one_that_calls_itself_exact_fails_verification(new):
    """Neither the state nor the account of how it was made can be left out."""
    (checkpoint,), _ = good_checkpoints(new.path.parent)
    log = new.path.parent / "steps.log"
    for lie in ({"state": "exact"}, {"unlearning": None}):
        said = Recorded(replace(checkpoint.record, **lie), checkpoint.state.log_rows, checkpoint.state.log_sha256)
        told = [what for _, what in check_checkpoints(new.run, log, read_steps(log), [said])]
        assert told == ["it approximates not having seen some slots, and does not say so"]


def test_it_cannot_be_trained_on_nor_replayed_from(new, slots):
    """What is not exact cannot become so by going on: training and replay refuse its run."""
    with pytest.raises(ConfigurationError, match="kind unlearning"):
        train_it(slots, new.path.parent)
    with pytest.raises(InputError, match="old-0000048"):
        plan_replay(new.path.parent, [3])


# ── what it does ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_removed_slots_lose_more_like_unknown_ones(old, new, forget, slots):
    """They are pulled towards what is held out, and told from it less well; fine-tuning alone forgets less."""
    captions = CaptionTokens(HashedWords(), 8)
    tuned = forget("tuned", config=replace(HOW, forget_weight=0.0))

    def lost(path, ordinals):
        return float(log_losses(sample_losses(path, slots, ordinals, captions=captions, draws=4)).mean())

    aim = lost(old.checkpoints[-1], HELD_OUT)
    off = {name: abs(lost(path, GONE) - aim) for name, path in (("new", new.path), ("tuned", tuned.path))}
    assert off["new"] < off["tuned"] / 2
    assert new.forgetting.auc_before.value == 1
    assert new.forgetting.auc_after.value < tuned.forgetting.auc_after.value


def test_the_same_is_unlearnt_again_bit_for_bit(new, forget):
    """Its weights are a function of checkpoint, slots and settings: equal again, others under another seed."""
    again = forget("again")
    assert weights(again.checkpoint) == weights(new.checkpoint)
    assert again.forgetting == new.forgetting
    assert weights(forget("other", config=replace(HOW, seed=1)).checkpoint) != weights(new.checkpoint)


def test_what_was_stopped_is_done_again_and_what_is_done_stays(new, forget, tmp_path):
    """A kill in the middle changes nothing; asking for what is complete returns it, asking for something else fails."""

    def stop(done, steps, loss):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget("stopped", on_progress=stop)
    assert not list((tmp_path / "stopped").glob("step-*"))
    made = forget("stopped")
    assert weights(made.checkpoint) == weights(new.checkpoint)
    before = contents(tmp_path / "stopped")
    again = forget("stopped")
    assert (again.checkpoint, again.forgetting, again.seconds) == (made.checkpoint, made.forgetting, 0)
    with pytest.raises(ConfigurationError, match="unlearnt otherwise"):
        forget("stopped", removed={"rem-3": GONE})
    assert contents(tmp_path / "stopped") == before


def test_a_loss_that_is_no_number_stops_it(old, forget, tmp_path):
    """Nothing is saved, the old run is as it was, and other settings may go on in the same place."""
    before = contents(old.checkpoints[-1].parent)
    with pytest.raises(IntegrityError, match="is no number"):
        forget("diverged", config=replace(HOW, learning_rate=1e30))
    assert not list((tmp_path / "diverged").glob("step-*"))
    assert contents(old.checkpoints[-1].parent) == before
    assert forget("diverged").checkpoint.state == "tainted"


def test_a_tombstone_is_in_force_at_the_next_step(forget, slots, tmp_path):
    """A slot that is removed meanwhile is fed no more, and the log still follows from the schedule."""

    def file_it(done, steps, loss):
        if done == 3:
            file_tombstone(tmp_path / "tombstones", [3])

    made = forget(tombstones_dir=tmp_path / "tombstones", on_progress=file_it)
    assert ScheduleEntry(3, 3) in made.checkpoint.schedule
    assert run_failures(made.path.parent, slots) == []


def test_a_replay_is_what_it_is_measured_against(old, forget, slots, tmp_path):
    """The exact counterfactual gives the reference's figures, and none that saw a slot may stand in for it."""
    old_dir = old.checkpoints[-1].parent
    begin_replay(plan_replay(old_dir, GONE), old_dir, tmp_path / "replayed")
    replayed = train_it(slots, tmp_path / "replayed")
    told = forget(reference=replayed.checkpoints[-1]).forgetting
    assert told.auc_reference is not None
    assert told.above_reference.value == pytest.approx(told.auc_after.value - told.auc_reference.value)
    assert told.calibrated_before.value > told.calibrated_after.value
    with pytest.raises(InputError, match="saw slot 2, 5, 8, 13, 17 and 1 more: it is no reference"):
        forget("other", reference=old.checkpoints[-1])


# ── what was seen, and what is refused ─────────────────────────────────────────────────────────────────────────────


def test_what_was_seen_is_known_through_every_ancestor(old, new, forget, slots, tmp_path):
    """An unlearnt checkpoint has seen what its parent saw: of it, too, slots can be unlearnt, and none held out."""
    old_dir = old.checkpoints[-1].parent
    assert np.flatnonzero(seen_by(old_dir, old.last)).tolist() == list(range(FED))
    assert np.array_equal(seen_by(new.path.parent, new.checkpoint), seen_by(old_dir, old.last))
    # The last slot was not fed, and its picture was.
    assert never_fed(new.path.parent, new.path, slots).ordinals == HELD_OUT
    few = never_fed(new.path.parent, new.path, slots, withheld=HELD_OUT[:4], most=9).ordinals
    assert len(few) in (8, 9)
    assert set(few) <= set(HELD_OUT[4:])
    further = forget("further", run_dir=new.path.parent, checkpoint=new.path)
    assert further.checkpoint.parent == new.checkpoint.checkpoint
    # Its parent is not beside it: nobody could say what it saw.
    with pytest.raises(IntegrityError, match="what it saw cannot be told"):
        seen_by(further.path.parent, further.checkpoint)
    with pytest.raises(ConfigurationError, match="cannot begin from itself"):
        forget("new", run_dir=new.path.parent, checkpoint=new.path)


def test_what_cannot_be_unlearnt_is_refused(old, forget, slots, tmp_path):
    """Slots that were never seen or are none, an unknown checkpoint or run, and no slots at all; nothing is begun."""
    old_dir, busy_dir = old.checkpoints[-1].parent, tmp_path / "busy"
    begin_replay(plan_replay(old_dir, GONE), old_dir, busy_dir)
    for wrong, said in (
        ({"removed": {"rem": (2, 30, 31)}}, "never saw slot 30, 31: there is nothing to forget"),
        ({"removed": {"rem": (2, 999)}}, "never saw slot 999"),
        ({"removed": {}}, "no slots were named"),
        ({"checkpoint": old_dir / "step-0000099"}, "no such checkpoint"),
        ({"run_dir": tmp_path}, "not a run's directory"),
        ({"out_run_dir": old_dir}, "cannot begin from itself"),
        ({"out_run_dir": busy_dir}, "another run"),
    ):
        with pytest.raises((InputError, ConfigurationError), match=said):
            forget(**wrong)
    assert not (tmp_path / "new").exists()
    for field, value in (("method", "wish"), ("learning_rate", 0.0), ("forget_batch", 0), ("forget_weight", -1.0)):
        with pytest.raises(ConfigurationError, match=field):
            replace(HOW, **{field: value})


def test_only_what_the_checkpoint_cannot_know_is_held_out(old, forget, slots, tmp_path):
    """Neither a slot that was fed, nor its picture in another slot or dataset, nor one removed, nor too few of them."""
    sibling_dir = seal(tmp_path / "sibling", 45, lambda i: picture(i + 1) if i < 1 else picture(i + 200))
    with DatasetReader.open(sibling_dir) as sibling:
        for held_out, said in (
            (Samples(slots, (*HELD_OUT, 4)), "trained on the picture of slot 4"),
            (Samples(slots, (*HELD_OUT, SLOTS - 1)), f"trained on the picture of slot {SLOTS - 1}"),
            (Samples(sibling, tuple(range(45))), "trained on the picture of slot 0"),
            (Samples(slots, (*HELD_OUT, HELD_OUT[0])), "named twice"),
            (Samples(slots, (*HELD_OUT, 999)), "slot 999 holds no sample"),
            (Samples(slots, HELD_OUT[:12]), "20 at least"),
        ):
            with pytest.raises(InputError, match=said):
                forget(held_out=held_out)
        file_tombstone(tmp_path / "tombstones", [HELD_OUT[0]])
        with pytest.raises(InputError, match=f"slot {HELD_OUT[0]} is under a tombstone"):
            forget(tombstones_dir=tmp_path / "tombstones")
        unknown = never_fed(old.checkpoints[-1].parent, old.checkpoints[-1], slots, among=sibling)
        assert unknown == Samples(sibling, tuple(range(1, 45)))
        made = forget(held_out=unknown)
        assert made.forgetting.auc_before.non_members == 22


def test_a_removal_too_small_to_measure_is_refused_or_says_so(forget):
    """One slot says nothing of forgetting: asked for all the same, the record says that nothing was measured."""
    with pytest.raises(InputError, match="1 removed and 20 held-out samples are too few"):
        forget(removed={"rem": (2,)})
    made = forget(removed={"rem": (2,)}, unmeasured=True)
    assert made.forgetting is None
    assert open_checkpoint(made.path).record.unlearning.forgetting is None
    assert load_run(made.path.parent) == made.run
