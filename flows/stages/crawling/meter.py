"""How a crawl is going, counted once and told twice: at the prompt and in Prefect's artifact."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from flows.terminal import Progress, silent

_SHOWN_OUTCOMES = 4
_SECONDS_BETWEEN_TELLINGS = 0.2


@dataclass(slots=True)
class Meter:
    """Counts of one stage of a crawl. `total`: of what is to be done, as far as it is known.

    Bytes are those of bodies, as decoded. The clock starts with the first count, so that a resumed crawl's rate is
    that of what it does now.
    """

    progress: Progress = silent
    name: str = "pictures"
    total: int = 0
    clock: Callable[[], float] = time.monotonic
    outcomes: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    started: float | None = None
    told_at: float = 0.0

    def count(self, outcome: str | None, size_bytes: int = 0) -> None:
        """One more with this outcome; None: bytes of one that is not done yet."""
        if self.started is None:
            self.started = self.clock()
        self.bytes += size_bytes
        if outcome is not None:
            self.outcomes[outcome] += 1
            now = self.clock()
            if now - self.told_at >= _SECONDS_BETWEEN_TELLINGS or self.done == self.total:
                self.told_at = now
                self.progress(self.done, max(self.total, self.done), self.note)

    @property
    def done(self) -> int:
        return self.outcomes.total()

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else max(self.clock() - self.started, 1e-9)

    @property
    def note(self) -> str:
        """Name, rates and the commonest outcomes: "pictures: 812/s 31.4 MB/s, ok 1,204, http-404 12"."""
        seconds = self.seconds or 1.0
        common = self.outcomes.most_common(_SHOWN_OUTCOMES)
        rest = self.done - sum(n for _, n in common)
        counts = [f"{outcome} {n:,}" for outcome, n in common] + ([f"other {rest:,}"] if rest else [])
        rates = f"{self.done / seconds:,.0f}/s {self.bytes / seconds / 1e6:,.1f} MB/s"
        return f"{self.name}: {', '.join([rates, *counts])}"
