"""From which score on answers are kept: where those that reach it prove a precision.

A cut is believed when the captions it keeps prove the target precision, not when they happen to show it: the exact
one-sided lower bound of Clopper and Pearson (1934). 9 in 10 at 95 % takes 29 captions without an error, or 46 with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

# A threshold above every score: nothing is kept.
NOTHING_KEPT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Scores of at least `threshold` are kept: `kept` of those it was chosen from, proving `lower_bound`.

    `reached`: whether that is the target precision; if not, `threshold` keeps nothing, and the rest tells of the cut
    that comes closest.
    """

    threshold: float
    reached: bool
    kept: int
    lower_bound: float


def lower_bound(right: int, kept: int, confidence: float) -> float:
    """The precision that `right` of `kept` prove at `confidence`: the p at which so many or more have 1 - confidence.

    Clopper and Pearson 1934, one-sided.
    """
    if right == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_least(right, kept, middle) > 1 - confidence else (middle, high)
    return low


def choose_threshold(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], target: float, confidence: float = 0.95
) -> Cut:
    """The lowest cut whose kept answers prove the target; one that keeps nothing where there is none.

    scores, right: [N]. Equal scores are kept or left together. That the cut is chosen among many makes the confidence
    a nominal one: of 125 or 500 answers that are right 88 times in 100, one set in twenty "proves" 9 in 10 at 95 %. So
    what a cut is worth is measured on other pairs.
    """
    if not len(scores):
        return Cut(NOTHING_KEPT, False, 0, 0.0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(right[order])
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    cuts = np.flatnonzero(last_of_equals) + 1
    # The bound reaches the target where so many right answers would be unlikely at the target.
    chances = np.array([_at_least(int(hits[kept - 1]), int(kept), target) for kept in cuts])
    proven = np.flatnonzero(chances <= 1 - confidence)
    kept = int(cuts[proven[-1] if len(proven) else chances.argmin()])
    threshold = float(ranked[kept - 1]) if len(proven) else NOTHING_KEPT
    return Cut(threshold, bool(len(proven)), kept, lower_bound(int(hits[kept - 1]), kept, confidence))


def _at_least(right: int, kept: int, p: float) -> float:
    """The chance that a binomial (kept, p) is at least `right`."""
    if p <= 0.0 or p >= 1.0:
        return float(p >= 1.0 or right == 0)
    counts = np.arange(right, kept + 1)
    logs = _log_choose(kept)[counts] + counts * np.log(p) + (kept - counts) * np.log1p(-p)
    return float(np.exp(logs).sum())


@lru_cache(maxsize=4096)
def _log_choose(n: int) -> npt.NDArray[np.float64]:
    """log of n over k for k = 0 … n."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return np.asarray(logs[n] - logs - logs[::-1])
