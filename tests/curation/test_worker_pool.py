"""Workers of a pool that share a machine's memory: what each may take at any time, and what one of them may alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curation.worker_pool import KILLED, OUT_OF_MEMORY, Do, NotDone, WorkerPool, alone, serve

Result = NotDone | tuple[float, float]
MUCH, LITTLE = str(100 << 20), str(1 << 20)


@dataclass(frozen=True, slots=True)
class Limits:
    memory_bytes: int = 160 << 20
    cpu_s: int = 10
    wall_s: float = 20.0


class Pool(WorkerPool[Result]):
    """Takes memory: a piece is how, and how many bytes; what comes back is when it began to and when it let go."""

    def __init__(self, workers: int, limits: Limits | None = None, usual_bytes: int | None = 32 << 20) -> None:
        limits = limits or Limits()
        super().__init__(
            workers,
            entry="tests.curation.test_worker_pool:work",
            greeting={"limits": {"memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s}},
            limits=limits,
            queue_depth=2,
            max_bytes=1 << 20,
            usual_bytes=usual_bytes,
        )

    def made(self, made: bytes, told: Any) -> Result:
        return told[0], told[1]

    def not_made(self, why: NotDone) -> Result:
        return why

    def take(self, *pieces: tuple[str, str]) -> list[Result]:
        """What came of each piece."""
        for number, (how, size) in enumerate(pieces):
            self.submit_piece(number, how.encode(), size.encode())
        return [result for _, result in sorted(self.drain(), key=lambda end: end[0])]  # type: ignore[arg-type, return-value]


def work() -> None:
    serve(_prepare)


def _prepare(greeting: Mapping[str, Any]) -> Do:
    def take(size: int) -> tuple[bytes, bytes]:
        began = time.monotonic()
        held = bytearray(size)
        time.sleep(0.15)
        del held
        return b"", json.dumps([began, time.monotonic()]).encode()

    def do(head: bytes, body: bytes) -> tuple[bytes, bytes]:
        if head == b"beside":
            return take(int(body))
        with alone():
            if head == b"dies":
                os.kill(os.getpid(), signal.SIGKILL)
            return take(int(body))

    return do


def test_one_worker_at_a_time_takes_much() -> None:
    """Of several workers one is alone at a time, with all the memory of its limits; the others go on with theirs."""
    with Pool(3) as pool:
        ends = pool.take(*[("alone", MUCH)] * 5, *[("beside", LITTLE)] * 3)
    assert not [end for end in ends if isinstance(end, NotDone)]
    turns = sorted(end for end in ends[:5] if not isinstance(end, NotDone))
    assert all(left <= began for (_, left), (began, _) in itertools.pairwise(turns))


def test_beside_others_a_worker_has_its_usual_memory() -> None:
    """What was not announced ends with its piece; where there is one worker, or nothing usual is said, it may."""
    with Pool(2) as pool:
        assert pool.take(("beside", MUCH), ("beside", LITTLE))[0] == NotDone(OUT_OF_MEMORY)
    for workers, usual_bytes in ((1, 32 << 20), (2, None)):
        with Pool(workers, usual_bytes=usual_bytes) as pool:
            assert not isinstance(pool.take(("beside", MUCH))[0], NotDone)


def test_waiting_for_its_turn_costs_a_piece_none_of_its_time() -> None:
    """Six pieces that are to be alone take longer together than one of them may."""
    with Pool(6, Limits(wall_s=0.7)) as pool:
        ends = pool.take(*[("alone", LITTLE)] * 6)
    assert not [end for end in ends if isinstance(end, NotDone)]


def test_who_dies_lets_go_of_its_turn() -> None:
    """A worker that is killed while it is alone takes its own piece with it, and nobody else's."""
    with Pool(2) as pool:
        ends = pool.take(("dies", LITTLE), ("alone", MUCH), ("alone", MUCH))
    assert ends[0] == NotDone(KILLED, "signal 9")
    assert not [end for end in ends[1:] if isinstance(end, NotDone)]


def test_elsewhere_alone_means_nothing() -> None:
    """What a worker does can be done without one."""
    with alone(), alone():
        pass
