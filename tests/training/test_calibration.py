"""The caption threshold: kept is what proves its precision on pairs never fed, and nothing where none does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibration import NOTHING_KEPT, choose_threshold, lower_bound

FALLING = np.linspace(0.9, 0.1, 100)


def test_nine_in_ten_is_proven_by_29_without_an_error() -> None:
    """At 95 %, 29 of 29 or 45 of 46 prove 9 in 10; 28 of 28 and a lucky handful do not."""
    assert lower_bound(29, 29, 0.95) >= 0.9 > lower_bound(28, 28, 0.95)
    assert lower_bound(45, 46, 0.95) >= 0.9 > lower_bound(44, 45, 0.95)
    assert lower_bound(5, 5, 0.95) == pytest.approx(0.05 ** (1 / 5))
    assert lower_bound(0, 7, 0.95) == 0.0


@given(st.integers(1, 60), st.floats(0.5, 0.999), st.data())
def test_the_bound_is_the_precision_at_which_so_many_are_unlikely(
    kept: int, confidence: float, data: st.DataObject
) -> None:
    """At the bound, so many right answers or more have the chance 1 - confidence (Clopper and Pearson)."""
    right = data.draw(st.integers(1, kept))
    p = lower_bound(right, kept, confidence)
    tail = sum(math.comb(kept, k) * p**k * (1 - p) ** (kept - k) for k in range(right, kept + 1))
    assert tail == pytest.approx(1 - confidence, abs=1e-6)
    assert p <= right / kept


def test_as_much_is_kept_as_is_proven() -> None:
    """The lowest cut that proves the target is taken: 60 right answers and three wrong ones, then only wrong ones."""
    right = np.arange(100) < 63
    right[[20, 40, 62]] = False
    cut = choose_threshold(FALLING, right, 0.9)
    assert (cut.reached, cut.kept, cut.threshold) == (True, 62, FALLING[61])
    assert 0.9 <= cut.lower_bound < 0.92
    assert choose_threshold(FALLING, np.ones(100, bool), 0.9).kept == 100


def test_a_target_that_is_not_proven_keeps_nothing() -> None:
    """Twenty right answers at the top, or four in five all along, are no proof of 9 in 10: no cosine is high enough."""
    for right in (np.arange(100) < 20, np.arange(100) % 5 > 0, np.zeros(100, bool)):
        cut = choose_threshold(FALLING, right, 0.9)
        assert not cut.reached
        assert cut.threshold == NOTHING_KEPT > 1.0
        assert cut.lower_bound < 0.9
    assert choose_threshold(FALLING, np.arange(100) < 20, 0.9).lower_bound == pytest.approx(0.05 ** (1 / 20))
    assert choose_threshold(FALLING[:0], np.zeros(0, bool), 0.9).threshold == NOTHING_KEPT


def test_equal_scores_are_kept_or_left_together() -> None:
    """A cut lies between scores, never within equal ones, where it would choose by their order."""
    scores = np.array([0.8] * 30 + [0.5] * 10)
    right = np.arange(40) < 31
    cut = choose_threshold(scores, right, 0.9)
    assert (cut.kept, cut.threshold) == (30, 0.8)


def test_what_is_worth_less_is_rarely_believed() -> None:
    """Of 500 calibrations of answers that are right 85 times in 100, at most one in twenty claims 9 in 10."""
    generator = np.random.default_rng(1)
    scores = np.linspace(1, 0, 125)
    believed = sum(choose_threshold(scores, generator.random(125) < 0.85, 0.9).reached for _ in range(500))
    assert believed <= 25
