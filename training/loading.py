"""Batches made ahead of the steps that need them, by threads, and a reader that never stays behind its dataset.

Threads, because what costs most releases the interpreter: libjpeg, Pillow and reading files. So there is nothing to
send between processes, and nothing is left of a trainer that is killed. A draft says what a step feeds as far as is
known when it is made; what became empty since is taken out when it is handed over (training/batches.py). The batches
are therefore the same, bit for bit, for any number of workers and however far ahead they are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from curation.shard_reader import DatasetReader
from policy.errors import CustodyError, IntegrityError, StorageError
from training.batches import Batch, Batcher, Draft, EmptySlots

AHEAD_BYTES = 1 << 30
DAY_S = 86_400.0
_LOOKS_A_LIFE = 24
_SHARD_STEPS = 1_000  # how far ahead shards are looked for, where a few of them last that long
_FETCHERS = 2


class Loader:
    """Hands over the batches of a run's steps; a context manager, and for one thread.

    `workers` threads make drafts of up to `ahead` steps before they are due (by default two for each worker), in at
    most `AHEAD_BYTES` of memory; 0: every batch is made when it is asked for. `stop`: the step before which to stop.
    Where shards have to be fetched (s3://), two more threads have those of the coming steps fetched in time, as many
    as the cache can hold beside those in use.

    What goes wrong in a thread is raised when its step is asked for, as it would be without threads.
    """

    def __init__(
        self, batcher: Batcher, *, workers: int = 0, ahead: int | None = None, stop: int | None = None
    ) -> None:
        config = batcher.config
        self._batcher, self._workers = batcher, workers
        self._stop = batcher.order.steps if stop is None else min(stop, batcher.order.steps)
        batch_bytes = 3 * config.batch_size * config.denoiser.image_size**2
        self._ahead = max(1, min(2 * workers if ahead is None else ahead, AHEAD_BYTES // batch_bytes))
        self._drafts: dict[int, Future[Draft]] = {}
        self._pool = ThreadPoolExecutor(workers, "loader") if workers else None
        self._shards = (
            _ShardsAhead(batcher, self._stop) if workers and batcher.reader.shards_at_once is not None else None
        )

    def batch(self, step: int, empty: EmptySlots) -> Batch:
        """The batch of a step under the schedule as it is now.

        `empty` may have grown since the last call, never shrunk. Raises IntegrityError, StorageError.
        """
        if self._pool is None:
            return self._batcher.batch(step, empty)
        if self._shards is not None:
            self._shards.go_to(step)
        for past in [s for s in self._drafts if not step <= s < step + self._ahead]:
            self._drafts.pop(past).cancel()
        for coming in range(step, max(step + 1, min(step + self._ahead, self._stop))):
            if coming not in self._drafts:
                self._drafts[coming] = self._pool.submit(self._batcher.draft, coming, empty)
        return self._batcher.finished(self._drafts.pop(step).result(), empty)

    def close(self) -> None:
        """Ends the threads, once they have finished what they have in hand; the dataset may be closed after it."""
        if self._shards is not None:
            self._shards.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._drafts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _ShardsAhead:
    """Threads that have the shards of the coming steps fetched, in the order in which they will be needed.

    A failure is not theirs to tell: who needs the shard asks for it again, and raises it.
    """

    def __init__(self, batcher: Batcher, stop: int) -> None:
        self._batcher, self._most, self._stop = batcher, batcher.reader.shards_at_once or 1, stop
        self._changed = threading.Condition()
        self._step = self._looked_to = 0  # where the run is, and up to which step its shards are known
        self._needed_by: dict[int, int] = {}  # shard -> the last of those steps that needs it
        self._queue: deque[int] = deque()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._run, name=f"shards-{n}", daemon=True) for n in range(_FETCHERS)]
        for thread in self._threads:
            thread.start()

    def go_to(self, step: int) -> None:
        """The run is at this step now."""
        with self._changed:
            self._step = step
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads; a fetch that has begun is waited for."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (shard := self._next()) is not None:
            with suppress(CustodyError):
                self._batcher.reader.fetch(shard)

    def _next(self) -> int | None:
        """The next shard to fetch, waiting until there is room for one; None when there is no more to do."""
        with self._changed:
            while not self._is_closed:
                self._needed_by = {shard: step for shard, step in self._needed_by.items() if step >= self._step}
                if self._queue:
                    return self._queue.popleft()
                self._looked_to = max(self._looked_to, self._step)
                is_far = self._looked_to >= min(self._stop, self._step + _SHARD_STEPS)
                if is_far or len(self._needed_by) >= self._most:
                    self._changed.wait()
                else:
                    self._look_at(self._looked_to)
                    self._looked_to += 1
            return None

    def _look_at(self, step: int) -> None:
        ordinals, _ = self._batcher.order.at_step(step)
        for shard in dict.fromkeys(self._batcher.reader.shard_of(o) for o in ordinals.tolist() if o >= 0):
            if shard not in self._needed_by:
                if len(self._needed_by) >= self._most:
                    continue  # a step of so many shards fetches the rest when it is due
                self._queue.append(shard)
            self._needed_by[shard] = step


class GenerationWatch:
    """Sees to it that a run does not go on reading a generation that was superseded.

    It is looked for a newer one a few times in `max_age_s` (by default hourly, in a day). A look that fails is
    repeated; where none succeeds for so long, the run is stopped rather than reading what may have been removed.
    `clock`: seconds, those in which the machine slept included.
    """

    def __init__(
        self,
        reader: DatasetReader,
        *,
        max_age_s: float = DAY_S,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._reader, self._max_age_s, self._clock = reader, max_age_s, clock
        self._known_at = self._looked_at = clock()

    def look(self) -> frozenset[int] | None:
        """All ordinals that are not stored any more if the reader went on with a newer generation, else None.

        Raises:
            IntegrityError: the current generation could not be opened for `max_age_s`.
        """
        now = self._clock()
        if now - self._looked_at < self._max_age_s / _LOOKS_A_LIFE:
            return None
        self._looked_at = now
        try:
            is_newer = self._reader.renew()
        except (IntegrityError, StorageError) as error:
            if now - self._known_at < self._max_age_s:
                return None
            raise IntegrityError(
                f"the dataset's current generation cannot be opened, and the one that is being read was last known to "
                f"be current {(now - self._known_at) / 3600:.1f} hours ago: {error.what}",
                where=error.where or str(self._reader.directory),
                remedy="Mend it and go on from the last checkpoint; `custody verify` names what is damaged",
            ) from error
        self._known_at = now
        return frozenset(np.flatnonzero(~self._reader.live()).tolist()) if is_newer else None
