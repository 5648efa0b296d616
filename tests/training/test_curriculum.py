"""Revocable data last: the phases that a run is cut into, what it feeds when, and what a removal then redoes."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError
from policy.provenance import ClassRange, Phase
from tests.training.toy_dataset import HashedWords, noon, seal
from training.checkpoint import list_checkpoints
from training.config import preset
from training.curriculum import plan
from training.loop import train
from training.order import Order, whole_epochs
from training.redo import expected_redo, first_steps, kept_steps, redone_steps
from training.replay import begin_replay, plan_replay

LAST = preset("tiny", curriculum="revocable-last")


def ranges(*sizes):
    """Classes 0, 1, … of so many slots each; none of a class without slots."""
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(ClassRange(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(ends)) if a < b)


def fed(order, steps):
    """The ordinals of so many steps, one array a step."""
    return [order.at_step(step)[0] for step in range(steps)]


@st.composite
def runs(draw):
    sizes = draw(st.lists(st.integers(0, 25), min_size=4, max_size=4).filter(sum))
    config = replace(
        LAST,
        steps=draw(st.integers(1, 60)),
        batch_size=draw(st.integers(1, 7)),
        revocable_steps=draw(st.floats(0.01, 0.99)),
        window_shards=draw(st.sampled_from([0, 0, 2])),
    )
    return sizes, config


@given(runs())
@settings(max_examples=60, deadline=None)
def test_what_can_be_taken_back_comes_in_the_last_share_of_the_steps_alone(run):
    """For any sizes: the boundary is a step, no more than the share lies behind it, and before it all is permanent."""
    sizes, config = run
    found = plan(config, sum(sizes), ranges(*sizes), shard_slots=3)
    order = Order("k", found.phases, config.batch_size)
    permanent, revocable = sum(sizes[:2]), sum(sizes[2:])
    assert order.steps >= config.steps
    if not permanent or not revocable or config.steps == 1:
        assert found.note.startswith("uniform order: ")
        windows = {"shard_slots": 3, "window_shards": config.window_shards}
        assert found.phases == whole_epochs(sum(sizes), config.steps, config.batch_size, **windows)
        return
    last = config.steps - found.revocable_from
    assert last == max(1, int(config.revocable_steps * config.steps + 1e-9))
    assert found.revocable_from in order.phase_ends()
    assert sum(p.slots * p.epochs for p in found.phases[:-1]) == found.revocable_from * config.batch_size
    steps = fed(order, config.steps)
    assert all((ordinals < permanent).all() for ordinals in steps[: found.revocable_from])
    mixed = found.phases[-1]
    others = mixed.slots - revocable
    assert others >= min(permanent, revocable)
    assert bool(found.note) == (others < revocable)
    # Permanent slots take turns: before the last phase none is ahead of another by more than one.
    times = Counter(o for ordinals in steps[: found.revocable_from] for o in ordinals.tolist())
    each = [times[o] for o in range(permanent)]
    assert max(each) - min(each) <= 1
    # And in the last phase a revocable one does not come up more often than in a uniform order, but for one epoch.
    assert (mixed.epochs - 1) * sum(sizes) <= config.steps * config.batch_size


def test_a_share_is_taken_of_each_permanent_class():
    """What is fed once more, and what is mixed in at the end, is not of the first class alone."""
    found = plan(replace(LAST, steps=20, batch_size=4), 100, ranges(40, 40, 20))
    assert found.phases == (
        Phase(((0, 34), (40, 74)), 1),
        Phase(((0, 4), (34, 44), (74, 100)), 1),
    )
    assert found.revocable_from == 17
    assert found.note == ""


def test_few_revocable_slots_are_not_shown_more_often_than_in_a_uniform_order():
    """Two of a hundred slots would fill half of the last phase many times over: more of the others come with them."""
    config = replace(LAST, steps=100, batch_size=10)
    found = plan(config, 100, ranges(60, 38, 2))
    order = Order("k", found.phases, config.batch_size)
    times = Counter(o for ordinals in fed(order, 100) for o in ordinals.tolist())
    assert all(times[o] <= 10 for o in (98, 99))
    assert found.phases[-1].slots == 15


@pytest.mark.parametrize(
    ("sizes", "steps", "note"),
    [
        ((50, 50), 20, "uniform order: none of the slots is revocable"),
        ((0, 0, 60, 40), 20, "uniform order: every slot is revocable"),
        ((50, 50, 20), 1, "uniform order: 1 steps are too few"),
        ((10, 0, 30), 20, "30 revocable slots, and only 10 others to mix them with"),
    ],
)
def test_what_cannot_be_had_is_said(sizes, steps, note):
    """A curriculum without a first or a last part is a uniform order that says why; too few others are named."""
    assert plan(replace(LAST, steps=steps), sum(sizes), ranges(*sizes)).note.startswith(note)


def test_a_uniform_run_keeps_the_digest_that_it_had_before_there_was_a_curriculum():
    """The settings count where they change something only; impossible ones are refused."""
    assert preset("tiny").digest == preset("tiny", revocable_steps=0.5).digest
    assert LAST.digest != preset("tiny").digest
    assert LAST.digest != replace(LAST, revocable_steps=0.5).digest
    for wrong in ({"curriculum": "last"}, {"revocable_steps": 0.0}, {"revocable_steps": 1.0}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            preset("tiny", **wrong)


# ── what a removal redoes ──────────────────────────────────────────────────────────────────────────────────────────


@given(runs(), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_first_steps_are_those_of_the_order(run, every, keep_last):
    """A slot's first step is where it is fed first; of few slots all are asked, of more each class by its weight."""
    sizes, config = run
    found = plan(config, sum(sizes), ranges(*sizes), shard_slots=3)
    order = Order("k", found.phases, config.batch_size)
    first = first_steps(order, np.arange(sum(sizes)))
    by_scan = {}
    for step, ordinals in enumerate(fed(order, order.steps)):
        for o in ordinals[ordinals >= 0].tolist():
            by_scan.setdefault(o, step)
    assert first.tolist() == [by_scan.get(o, order.steps) for o in range(sum(sizes))]
    kept = kept_steps(order, config.steps, checkpoint_every=every, keep_last=keep_last)
    redone = redone_steps(order, config.steps, kept, np.arange(sum(sizes)))
    told = expected_redo(order, config.steps, ranges(*sizes), checkpoint_every=every, keep_last=keep_last)
    assert told.of_any.mean == pytest.approx(redone.mean() / config.steps)
    assert told.of_any.worst == redone.max() / config.steps
    assert (told.of_any.slots, told.of_any.asked) == (sum(sizes), sum(sizes))


def test_a_sample_of_many_slots_tells_nearly_the_same():
    """Asked of 500 of 20,000 slots the mean is within two points of all, for each group."""
    classes, config = ranges(9000, 7000, 3000, 1000), replace(LAST, steps=2000, batch_size=64)
    order = Order("k", plan(config, 20_000, classes).phases, config.batch_size)
    arguments = {"checkpoint_every": 250, "keep_last": 2}
    everything = expected_redo(order, config.steps, classes, most_slots=20_000, **arguments)
    some = expected_redo(order, config.steps, classes, most_slots=500, **arguments)
    assert some.of_any.asked == 500
    assert some.of_any.mean == pytest.approx(everything.of_any.mean, abs=0.02)
    assert some.of_revocable.mean == pytest.approx(everything.of_revocable.mean, abs=0.02)
    assert everything.of_revocable.worst <= 0.15


@pytest.fixture(scope="module")
def classed_reader(tmp_path_factory):
    """Forty slots of three classes, the last ten of them revocable."""
    place = seal(tmp_path_factory.mktemp("classed") / "toys", slots=40, classes=ranges(12, 18, 10))
    with DatasetReader.open(place) as reader:
        yield reader


def run_to(run_dir, reader, config, **arguments):
    return train(
        reader,
        config,
        run_dir,
        upstream=(),
        text_encoder=HashedWords(),
        progress=lambda *_: None,
        now=noon,
        **arguments,
    )


@pytest.mark.parametrize("curriculum", ["uniform", "revocable-last"])
def test_the_expected_redo_is_what_replays_of_all_slots_redo(curriculum, classed_reader, tmp_path):
    """On a run that was trained: the checkpoints foretold are on the disk, and every replay begins where was said."""
    config = preset(
        "tiny", curriculum=curriculum, revocable_steps=0.3, steps=27, checkpoint_every=5, keep_checkpoints=1
    )
    result = run_to(tmp_path / "run", classed_reader, config)
    [segment] = result.run.segments
    order, classes = Order.of(segment), classed_reader.manifest.classes
    kept = kept_steps(order, config.steps, checkpoint_every=5, keep_last=1)
    assert [int(path.name.removeprefix("step-")) for path in list_checkpoints(tmp_path / "run")] == kept.tolist()
    redone = np.array([config.steps - plan_replay(tmp_path / "run", [o]).first_step for o in range(40)])
    told = expected_redo(order, config.steps, classes, checkpoint_every=5, keep_last=1)
    assert told.of_any.mean * config.steps == pytest.approx(redone.mean())
    assert told.of_any.worst * config.steps == redone.max()
    assert told.of_revocable.mean * config.steps == pytest.approx(redone[30:].mean())
    assert redone_steps(order, config.steps, kept, np.arange(40)).tolist() == redone.tolist()
    if curriculum == "revocable-last":
        assert plan(config, 40, classes).revocable_from == 19 in kept
        assert told.of_revocable.worst == 8 / 27


def test_a_replay_of_the_last_part_gives_the_model_that_never_saw_the_slot(classed_reader, tmp_path):
    """Stopped within the last phase, resumed, and replayed from its beginning: bit for bit the run without the slot."""
    config = replace(LAST, steps=16, revocable_steps=0.25, checkpoint_every=5)
    run_to(tmp_path / "run", classed_reader, config, stop_after=14)
    result = run_to(tmp_path / "run", classed_reader, config)
    gone = 30 + int(np.argmin(first_steps(Order.of(result.run.segments[0]), range(30, 40))))
    told = plan_replay(tmp_path / "run", [gone])
    assert told.first_step == plan(config, 40, classed_reader.manifest.classes).revocable_from == 12
    begin_replay(told, tmp_path / "run", tmp_path / "replayed")
    replayed = run_to(tmp_path / "replayed", classed_reader, config)
    never = run_to(tmp_path / "never", classed_reader, config, withheld=[gone])
    weights = [[pair for pair in r.last.files if pair[0].endswith(".safetensors")] for r in (replayed, never)]
    assert weights[0] == weights[1]
    assert replayed.last.schedule == never.last.schedule
