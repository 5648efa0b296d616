"""The order: a keyed bijection, the same in Python, in SQL and in another process."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.order
from policy.errors import InputError
from policy.provenance import NumericContract, Phase, ScheduleEntry, Segment, TrainingRun
from training.order import (
    Exposures,
    Order,
    Permutation,
    WindowedPermutation,
    effective_segments,
    exposure,
    order_version,
    whole_epochs,
)

MACROS = Path(training.order.__file__).parents[1] / "policy/sql/views/0001_permutation.sql"

slots = st.integers(1, 3000)
keys = st.text("0123456789abcdef", min_size=1, max_size=32)


def a_segment(number: int = 0, first_position: int = 0, batch_size: int = 4, epochs: int = 3) -> Segment:
    contract = NumericContract(1, 1, "cpu", "fp32", True, ())
    phases = (Phase(((0, 10),), epochs),)
    return Segment(number, "d", "root", 10, 1, "key", first_position, batch_size, phases, contract)


def a_run(*segments: Segment) -> TrainingRun:
    return TrainingRun("r", "diffusion", "c", "{}", "v", "d", "root", 0, (), None, "2026-01-01T00:00:00Z", segments)


@given(slots, keys, st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_epoch_feeds_every_slot_exactly_once(n, key, phase, epoch):
    """A permutation is a bijection, and its inverse finds every place again."""
    permutation = Permutation(n, key, phase=phase, epochs=epoch)
    order = permutation.forward(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(permutation.inverse(order), np.arange(n))


@given(st.integers(1, 1 << 62), keys, st.data())
@settings(max_examples=60, deadline=None)
def test_the_inverse_holds_at_any_scale(n, key, data):
    """Places up to 2**62 come back from their slots without any stored table."""
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    permutation = Permutation(n, key)
    order = permutation.forward(places)
    assert ((order >= 0) & (order < n)).all()
    assert np.array_equal(permutation.inverse(order), places)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 64, 100, 329, 4097])
def test_the_sql_macro_computes_the_same_order(n):
    """DuckDB's macro and Python agree on every place and on every epoch of a slot."""
    with duckdb.connect() as connection:
        connection.execute(MACROS.read_text())
        rows = connection.execute(
            "SELECT slot FROM order_slots('ab12', 1, 3, $1, 0, $1) ORDER BY place", [n]
        ).fetchall()
        places = connection.execute(
            "SELECT place FROM order_places('ab12', 1, 5, $1, $2) ORDER BY epoch", [n, n // 2]
        ).fetchall()
    assert [row[0] for row in rows] == Permutation(n, "ab12", phase=1, epochs=3).forward(np.arange(n)).tolist()
    by_epoch = Permutation(n, "ab12", phase=1, epochs=np.arange(5)).inverse(np.full(5, n // 2))
    assert [row[0] for row in places] == by_epoch.tolist()


def test_the_sql_macro_agrees_at_the_largest_order():
    """Nothing overflows in SQL where halves have 31 bits."""
    n = 1 << 62
    with duckdb.connect() as connection:
        connection.execute(MACROS.read_text())
        rows = connection.execute(
            "SELECT slot FROM order_slots('k', 0, 0, $1, $1 - 3, $1) ORDER BY place", [n]
        ).fetchall()
    assert [row[0] for row in rows] == Permutation(n, "k").forward([n - 3, n - 2, n - 1]).tolist()


def test_the_order_is_the_same_in_another_process():
    """The order is fixed by its version: pinned values, recomputed in a fresh interpreter with another hash seed."""
    pinned = Permutation(1000, "00ff", phase=2, epochs=7).forward(np.arange(6)).tolist()
    assert pinned == [815, 428, 235, 133, 173, 707]
    script = (
        "import numpy as np; from training.order import Permutation;"
        "print(Permutation(1000, '00ff', phase=2, epochs=7).forward(np.arange(6)).tolist())"
    )
    root = Path(training.order.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(pinned)


@given(slots, st.integers(1, 200), st.integers(1, 9), keys, st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_an_epoch_in_windows_feeds_every_slot_exactly_once(n, shard_slots, window_shards, key, epoch):
    """A windowed permutation is a bijection with an exact inverse, whatever the last shard and window are short of."""
    permutation = WindowedPermutation(n, shard_slots, window_shards, key, epochs=epoch)
    order = permutation.forward(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(permutation.inverse(order), np.arange(n))


@given(slots, st.integers(1, 200), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_window_holds_few_shards_and_each_shard_is_read_in_one_window(n, shard_slots, window_shards, epoch):
    """A shard's slots all come up between those of the same few shards, so that each is fetched once an epoch."""
    shards = WindowedPermutation(n, shard_slots, window_shards, "k", epochs=epoch).forward(np.arange(n)) // shard_slots
    windows, seen = [], set()
    at = 0
    while at < n:  # a window ends where as many shards as it holds are used up
        inside = list(dict.fromkeys(shards[at:].tolist()))[:window_shards]
        size = sum(min(shard_slots, n - shard * shard_slots) for shard in inside)
        assert set(shards[at : at + size].tolist()) == set(inside)
        assert not seen & set(inside)
        seen.update(inside)
        windows.append(size)
        at += size
    assert sum(windows) == n
    assert len(windows) == math.ceil(math.ceil(n / shard_slots) / window_shards)


@given(st.integers(1, 1 << 62), st.integers(1, 1 << 40), st.integers(1, 1 << 20), st.data())
@settings(max_examples=60, deadline=None)
def test_the_windowed_inverse_holds_at_any_scale(n, shard_slots, window_shards, data):
    """Nothing overflows and nothing is stored, up to 2**62 slots, with an epoch of its own for every value."""
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9)))
    epochs = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(places), max_size=len(places))))
    permutation = WindowedPermutation(n, shard_slots, window_shards, "k", epochs=epochs)
    order = permutation.forward(places)
    assert ((order >= 0) & (order < n)).all()
    assert np.array_equal(permutation.inverse(order), places)


@pytest.mark.parametrize(
    ("n", "shard_slots", "window_shards"), [(1, 1, 1), (10, 3, 2), (65, 8, 2), (64, 8, 2), (329, 10, 40), (1000, 16, 5)]
)
def test_the_sql_macro_computes_the_same_windows(n, shard_slots, window_shards):
    """DuckDB's macros and Python agree on every place of an epoch in windows, and on every epoch of a slot."""
    shape = [n, shard_slots, window_shards]
    with duckdb.connect() as connection:
        connection.execute(MACROS.read_text())
        rows = connection.execute(
            "SELECT slot FROM order_window_slots('ab12', 1, 3, $1, $2, $3, 0, $1) ORDER BY place", shape
        ).fetchall()
        places = connection.execute(
            "SELECT place FROM order_window_places('ab12', 1, 5, $1, $2, $3, $4) ORDER BY epoch", [*shape, n // 2]
        ).fetchall()
    python = WindowedPermutation(n, shard_slots, window_shards, "ab12", phase=1, epochs=3)
    assert [row[0] for row in rows] == python.forward(np.arange(n)).tolist()
    by_epoch = WindowedPermutation(n, shard_slots, window_shards, "ab12", phase=1, epochs=np.arange(5))
    assert [row[0] for row in places] == by_epoch.inverse(np.full(5, n // 2)).tolist()


def test_the_windowed_order_is_pinned():
    """Version 2 is fixed: these values are what runs on record were trained in."""
    epoch = WindowedPermutation(1000, 30, 4, "00ff", phase=2, epochs=7)
    assert epoch.forward(np.arange(6)).tolist() == [303, 865, 226, 237, 726, 302]
    assert WindowedPermutation(10**12, 10_000, 64, "00ff").forward([0, 10**12 - 1]).tolist() == [
        506974062850,
        907505906303,
    ]


def test_a_windowed_order_looks_random_within_its_windows():
    """Places and slots are uncorrelated within a window, and each epoch mixes other shards."""
    n, size = 8000, 50 * 40
    epochs = [WindowedPermutation(n, 50, 40, "k", epochs=e).forward(np.arange(n)) for e in range(2)]
    for order in epochs:
        inside = order[:size]
        assert abs(np.corrcoef(np.arange(size), inside)[0, 1]) < 5 / np.sqrt(size)
        assert abs(np.corrcoef(inside[:-1], inside[1:])[0, 1]) < 5 / np.sqrt(size)
    first = [set((order[:size] // 50).tolist()) for order in epochs]
    assert 0 < len(first[0] & first[1]) < 25


def test_an_order_looks_random():
    """Neighbours are not fed together and epochs differ: correlations stay within what chance gives."""
    n = 5000
    one = Permutation(n, "k", epochs=0).forward(np.arange(n))
    other = Permutation(n, "k", epochs=1).forward(np.arange(n))
    for a, b in [(np.arange(n), one), (one[:-1], one[1:]), (one, other)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    assert (one == other).sum() < 12


@pytest.mark.parametrize("window", [(0, 0), (3, 2)])
def test_every_position_of_every_epoch_is_found_again(window):
    """positions_of is the exact inverse of at, over phases with several ranges, and -1 follows the last position."""
    phases = (Phase(((20, 31), (0, 5)), 2, *window), Phase(((3, 7),), 3, *window), Phase(((40, 41),), 1))
    order = Order("k", phases, batch_size=7)
    ordinals, epochs = order.at(np.arange(order.positions + 3))
    assert ordinals[-3:].tolist() == [-1, -1, -1]
    assert order.positions == 2 * 16 + 3 * 4 + 1
    assert epochs.max() == 5
    for ordinal in range(45):
        assert order.positions_of(ordinal).tolist() == np.flatnonzero(ordinals == ordinal).tolist()
    asked = [40, 6, 99, 6, 21]
    for end in (0, 1, 17, 33, order.positions, order.positions + 9, None):
        which, positions = order.positions_of_each(asked, end)
        for i, ordinal in enumerate(asked):
            assert positions[which == i].tolist() == [p for p in order.positions_of(ordinal) if end is None or p < end]
        assert (np.diff(which) >= 0).all()
    segment = replace(a_segment(), slots=45, phases=phases, order_version=2)
    assert Exposures(a_run(segment)).ranges() == ((0, 7), (20, 31), (40, 41))
    pairs = set(zip(ordinals[:-3].tolist(), epochs[:-3].tolist(), strict=True))
    assert len(pairs) == order.positions


def test_a_batch_may_span_epochs_and_phases():
    """Steps cut the positions without gap or overlap."""
    order = Order("k", (Phase(((0, 5),), 2), Phase(((5, 8),), 1)), batch_size=4)
    fed = np.concatenate([order.at_step(s)[0] for s in range(order.steps)])
    assert order.steps == 4
    assert np.array_equal(fed[:13], order.at(np.arange(13))[0])
    assert (fed[13:] == -1).all()
    assert [order.epochs_done(s) for s in range(5)] == [0, 0, 1, 2, 3]
    assert order.phase_ends() == {3, 4}


def test_exposure_is_what_was_fed_and_not_after_the_slot_went_empty():
    """Exposure counts steps below the checkpoint's and below the first empty step."""
    run = a_run(a_segment())
    order = Order.of(run.segments[0])
    steps = [s for s in range(order.steps) if 6 in order.at_step(s)[0]]
    assert len(steps) == 3
    assert exposure(run, (), 6, 8) == tuple(steps)
    assert exposure(run, (), 6, steps[1]) == (steps[0],)
    assert exposure(run, (ScheduleEntry(6, steps[1]),), 6, 8) == (steps[0],)
    assert exposure(run, (ScheduleEntry(6, 0),), 6, 8) == ()
    assert exposure(run, (), 10, 8) == ()


def test_a_segment_that_a_resume_went_back_behind_no_longer_counts():
    """Later segments take over from their first position on; the union still feeds every position once."""
    first, second, third = a_segment(0, 0), a_segment(1, 16), a_segment(2, 8)
    run = a_run(first, second, third)
    assert effective_segments(run) == ((first, 8), (third, None))
    assert exposure(run, (), 6, 8) == exposure(a_run(first), (), 6, 8)


def test_an_unknown_order_version_is_refused():
    """An order of a later version is not computed by guesswork, nor windows under the version that has none."""
    with pytest.raises(InputError, match="version 3"):
        Order.of(replace(a_segment(), order_version=3))
    windowed = whole_epochs(10, 3, 4, shard_slots=2, window_shards=2)
    assert order_version(windowed) == 2
    assert order_version(whole_epochs(10, 3, 4, shard_slots=2)) == order_version(a_segment().phases) == 1
    with pytest.raises(InputError, match="windows, which order version 1"):
        Order.of(replace(a_segment(), phases=windowed))
    assert Order.of(replace(a_segment(), phases=windowed, order_version=2)).positions == 20


def test_a_run_of_an_older_build_keeps_its_order():
    """A record without windows, as version 1 wrote it, is read, and computes what it did; version 2 agrees with it."""
    run = a_run(a_segment())
    data = json.loads(run.to_json())
    for phase in data["segments"][0]["phases"]:
        del phase["shard_slots"], phase["window_shards"]
    assert TrainingRun.from_json(json.dumps(data)) == run
    both = [Order.of(replace(run.segments[0], order_version=version)) for version in (1, 2)]
    assert np.array_equal(both[0].at(np.arange(30))[0], both[1].at(np.arange(30))[0])


def test_the_order_does_not_depend_on_workers_or_ranks():
    """However the positions of a step are dealt out, to workers or ranks, together they are the same batch."""
    order = Order("k", whole_epochs(100, 9, 16, shard_slots=9, window_shards=3), 16)
    for step in range(order.steps):
        ordinals, epochs = order.at_step(step)
        for world_size in (2, 3, 16):
            for rank in range(world_size):
                of_rank = order.at(np.arange(step * 16 + rank, (step + 1) * 16, world_size))
                assert np.array_equal(of_rank[0], ordinals[rank::world_size])
                assert np.array_equal(of_rank[1], epochs[rank::world_size])


def test_ranges_that_overlap_are_refused():
    """A slot in two ranges of a phase would come up twice an epoch, and (epoch, ordinal) name two exposures."""
    with pytest.raises(InputError, match="overlap"):
        Order("k", (Phase(((0, 5), (4, 9)), 1),), 2)


def test_exposures_of_many_are_those_of_each():
    """Asked together or one by one, over segments with orders of their own, the steps are the same."""
    run = a_run(a_segment(0, 0), replace(a_segment(1, 12), order_key="other"), replace(a_segment(2, 20), order_key="x"))
    every = Exposures(run)
    which, steps = every.steps_of(np.arange(12), 7)
    for ordinal in range(12):
        assert tuple(steps[which == ordinal].tolist()) == exposure(run, (), ordinal, 7)
    assert every.ranges() == ((0, 10),)
    fed = [
        (ordinal, position // 4)
        for segment, first, end in zip(run.segments, (0, 12, 20), (12, 20, 28), strict=True)
        for position, ordinal in enumerate(Order.of(segment).at(np.arange(28))[0].tolist())
        if first <= position < end
    ]
    assert sorted(fed) == sorted(zip(which.tolist(), steps.tolist(), strict=True))
    assert len(Exposures(run, upto_segment=0).steps_of(np.arange(10), 7)[1]) == 28


def test_whole_epochs_cover_the_steps_that_are_asked_for():
    """The default layout has enough epochs for every step."""
    assert whole_epochs(10, 8, 4) == (Phase(((0, 10),), 4),)
    assert whole_epochs(100, 1, 4) == (Phase(((0, 100),), 1),)


@pytest.mark.parametrize("value", [-1, 10])
def test_a_value_outside_the_order_is_refused(value):
    """No silent wrap-around."""
    with pytest.raises(InputError, match="outside"):
        Permutation(10, "k").forward([value])


@pytest.mark.parametrize("batch_size", [3, 5000])
def test_steps_are_the_same_however_they_are_asked_for(batch_size):
    """A step holds what stands at its positions, whichever was asked for before; what is given may be changed."""
    order = Order("key", (Phase(((0, 9_001),), 2),), batch_size)
    steps = [*range(0, order.steps, max(1, order.steps // 50)), order.steps - 1]
    for step in [*steps, *reversed(steps)]:
        given, expected = order.at_step(step), order.at(np.arange(step * batch_size, (step + 1) * batch_size))
        assert all(np.array_equal(ours, other) for ours, other in zip(given, expected, strict=True))
        given[0][:] = -7
