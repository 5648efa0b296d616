"""How fast a stage goes, and how long it will still take."""

from __future__ import annotations

import pytest

from flows.pace import Pace


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("total", "done", "seconds", "note"),
    [
        (1_000, 100, 10.0, "look: 10/s, 90 s left"),
        (1_000, 500, 10.0, "look: 50/s, 10 s left"),
        (100_000, 1_000, 20.0, "look: 50/s, 33 min left"),
        (1_000_000, 1_000, 100.0, "look: 10/s, 27.8 h left"),
        (10, 1, 2.0, "look: 0.5/s, 18 s left"),
        (10, 10, 4.0, "look: 2.5/s"),
    ],
)
def test_the_rest_is_reckoned_from_the_rate(total: int, done: int, seconds: float, note: str) -> None:
    """What remains is told in the unit that a person would use, and not at all once nothing remains."""
    told: list[tuple[int, int, str]] = []
    clock = Clock()
    pace = Pace(lambda d, t, n="": told.append((d, t, n)), "look", total, clock=clock)
    assert pace.note == "look:"
    clock.now += seconds
    pace.add(done)
    assert told == [(done, total, note)]


def test_it_is_told_now_and_then_and_at_the_end() -> None:
    """A thousand steps in a moment are told once, with the last."""
    told: list[int] = []
    pace = Pace(lambda done, total, note="": told.append(done), "look", 1_000, clock=Clock())
    for _ in range(1_000):
        pace.add(1)
    assert told == [1_000]
