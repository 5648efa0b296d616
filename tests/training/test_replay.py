"""Replay: the model that never saw a sample, from the last checkpoint that had not."""

import pytest

from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, InputError
from policy.provenance import ScheduleEntry
from tests.training.toy_dataset import HashedWords, file_tombstone, noon, seal
from training.config import preset
from training.loop import train
from training.order import exposure
from training.replay import begin_replay, plan_replay

CONFIG = preset("tiny", checkpoint_every=2, keep_checkpoints=9)


def run_to(run_dir, reader, **arguments):
    return train(
        reader,
        CONFIG,
        run_dir,
        upstream=(),
        text_encoder=HashedWords(),
        progress=lambda *_: None,
        now=noon,
        **arguments,
    )


def weights(record):
    return [pair for pair in record.files if pair[0].endswith(".safetensors")]


@pytest.fixture(scope="module")
def wide_reader(tmp_path_factory):
    """Forty slots: an epoch is ten steps, so some samples come up late."""
    with DatasetReader.open(seal(tmp_path_factory.mktemp("wide") / "toys", slots=40)) as reader:
        yield reader


@pytest.fixture(scope="module")
def original(wide_reader, tmp_path_factory):
    return run_to(tmp_path_factory.mktemp("original") / "run", wide_reader)


def first_seen_at(run, step):
    return next(o for o in range(40) if exposure(run, (), o, 12)[:1] == (step,))


@pytest.mark.parametrize(("first_seen", "base"), [(5, 4), (6, 6), (0, 0)])
def test_a_replay_equals_a_run_that_never_saw_the_sample(original, wide_reader, tmp_path, first_seen, base):
    """From the last checkpoint before the sample, or from scratch: equal bit for bit to training without it."""
    gone = first_seen_at(original.run, first_seen)
    old_dir = original.checkpoints[0].parent
    plan = plan_replay(old_dir, [gone])
    assert plan.first_step == base
    run = begin_replay(plan, old_dir, tmp_path / "replayed")
    assert begin_replay(plan, old_dir, tmp_path / "replayed") == run
    replayed = run_to(tmp_path / "replayed", wide_reader)

    file_tombstone(tmp_path / "tombstones", [gone])
    never = run_to(tmp_path / "never", wide_reader, tombstones_dir=tmp_path / "tombstones")
    assert never.last.schedule == replayed.last.schedule == (ScheduleEntry(gone, 0),)
    assert weights(replayed.last) == weights(never.last) != weights(original.last)
    assert replayed.last.tally == never.last.tally
    assert replayed.last.state == "exact"
    assert exposure(replayed.run, replayed.last.schedule, gone, 12) == ()


def test_several_removals_share_one_replay(original, wide_reader, tmp_path):
    """The base had seen none of them, and slots that the run itself emptied later go to step 0 with them."""
    late, early = first_seen_at(original.run, 8), first_seen_at(original.run, 5)
    plan = plan_replay(original.checkpoints[0].parent, [late, early])
    assert plan.first_step == 4
    assert {e.ordinal for e in plan.schedule} == {late, early}


def test_a_directory_that_holds_something_else_is_refused(original, tmp_path):
    """A replay never overwrites another run, and needs one to start from."""
    old_dir = original.checkpoints[0].parent
    plan = plan_replay(old_dir, [first_seen_at(original.run, 5)])
    with pytest.raises(ConfigurationError, match="another run"):
        begin_replay(plan, old_dir, old_dir)
    with pytest.raises(InputError, match="not a run"):
        plan_replay(tmp_path, [1])
