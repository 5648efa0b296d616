"""The order: a keyed bijection, the same in Python, in SQL and in another process."""

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
from training.order import Order, Permutation, effective_segments, exposure, whole_epochs

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


def test_an_order_looks_random():
    """Neighbours are not fed together and epochs differ: correlations stay within what chance gives."""
    n = 5000
    one = Permutation(n, "k", epochs=0).forward(np.arange(n))
    other = Permutation(n, "k", epochs=1).forward(np.arange(n))
    for a, b in [(np.arange(n), one), (one[:-1], one[1:]), (one, other)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    assert (one == other).sum() < 12


def test_every_position_of_every_epoch_is_found_again():
    """positions_of is the exact inverse of at, over phases with several ranges, and -1 follows the last position."""
    phases = (Phase(((0, 5), (20, 31)), 2), Phase(((3, 7),), 3), Phase(((40, 41),), 1))
    order = Order("k", phases, batch_size=7)
    ordinals, epochs = order.at(np.arange(order.positions + 3))
    assert ordinals[-3:].tolist() == [-1, -1, -1]
    assert order.positions == 2 * 16 + 3 * 4 + 1
    assert epochs.max() == 5
    for ordinal in range(45):
        assert order.positions_of(ordinal).tolist() == np.flatnonzero(ordinals == ordinal).tolist()
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
    """An order of a later version is not computed by guesswork."""
    with pytest.raises(InputError, match="version 2"):
        Order.of(replace(a_segment(), order_version=2))


def test_whole_epochs_cover_the_steps_that_are_asked_for():
    """The default layout has enough epochs for every step."""
    assert whole_epochs(10, 8, 4) == (Phase(((0, 10),), 4),)
    assert whole_epochs(100, 1, 4) == (Phase(((0, 100),), 1),)


@pytest.mark.parametrize("value", [-1, 10])
def test_a_value_outside_the_order_is_refused(value):
    """No silent wrap-around."""
    with pytest.raises(InputError, match="outside"):
        Permutation(10, "k").forward([value])
