"""How fast a stage goes and how long it will still take, told with its progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from flows.terminal import Progress

_SECONDS_BETWEEN_TELLINGS = 0.2


class Pace:
    """Counts what is done of a stage and tells it: "look: nsfw, 12.3/s, 4 min left".

    The rate is that since the first of it was done here, so that what an earlier run had done makes it no faster.
    """

    def __init__(
        self, progress: Progress, name: str, total: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._name, self.total, self._clock = progress, name, total, clock
        self.done = 0
        self._started = self._told_at = clock()

    def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = self._clock()
        if self.done < self.total and now - self._told_at < _SECONDS_BETWEEN_TELLINGS:
            return
        self._told_at = now
        self._progress(self.done, max(self.total, self.done), self.note)

    @property
    def note(self) -> str:
        """The name, the rate, and what remains at that rate; the name ends in a colon where nothing is known yet."""
        seconds = self._clock() - self._started
        if not self.done or seconds <= 0:
            return f"{self._name}:"
        rate = self.done / seconds
        shown = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        left = "" if self.done >= self.total else f", {_told((self.total - self.done) / rate)} left"
        return f"{self._name}: {shown}{left}"


def _told(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
