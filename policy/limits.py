"""The bounds within which the ruleset's numbers must lie, so that no date reckoned with them leaves the calendar."""

from __future__ import annotations

MAX_DAYS = 36_500


def within(key: str, value: int, low: int, high: int | None = None) -> None:
    """Raises ValueError naming key, value and bounds where the value lies outside."""
    if value < low or (high is not None and value > high):
        bounds = f"lie in {low} to {high}" if high is not None else f"be at least {low}"
        said = str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
        raise ValueError(f"{key} must {bounds}, is {said}")


def days(key: str, value: int) -> None:
    """A number of days: none to a hundred years."""
    within(key, value, 0, MAX_DAYS)
