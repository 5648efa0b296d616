"""Several processes that train one model: each feeds its part of every batch, and all take the same step.

What is fed, and in which order, does not depend on their number: rank r of n takes the r-th n-th of a step's slots, and
gradients and losses are the sums over all slots, as they are with one process. Added up is in the order of the ranks,
gathered first, so that the sum has the same bits whatever way the library would reduce it; it is another order than
that of one process, so the number of ranks belongs to the numeric contract. All ranks hold the same weights, since they
start from the same ones and take the same steps; the first one alone writes. It is also the one that looks for
tombstones and newer generations: what it finds is told to all before a step.

The processes find one another by a file and talk over loopback (gloo; NCCL between GPUs, one a rank).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from policy.errors import ConfigurationError, CustodyError, StorageError

S = TypeVar("S")
T = TypeVar("T")

_PATIENCE = timedelta(hours=6)  # a rank that waits for the first one's checkpoint is no dead one
_PR_SET_PDEATHSIG = 1
_AGAIN = "Run the command again: it goes on from the last checkpoint"
_OUR_PACKAGES = ("flows", "training", "curation", "policy")


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process's place among those that train together: `rank` of `size`. Alone, nothing is sent anywhere.

    Raises StorageError from every call, where another process is gone.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """Which places of a batch are this process's. ConfigurationError where they cannot be shared equally."""
        if batch_size % self.size:
            raise ConfigurationError(
                f"a batch of {batch_size} cannot be shared equally by {self.size} processes",
                where="[training] ranks",
                remedy="Take a number that divides the batch",
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in their order."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        with _others_are_there():
            dist.all_gather_object(held, value)
        return held

    def together(self, work: Callable[[], T], said: Callable[[T], S]) -> tuple[T, list[S]]:
        """A rank's result of its own work, and what every rank says of its one, in their order.

        What one of them raises on purpose is raised in all.
        """
        if self.size == 1:
            result = work()
            return result, [said(result)]
        failed = None
        try:
            result = work()
            answer: S | None = said(result)
        except CustodyError as error:
            answer, failed = None, (type(error), error.what, error.where, error.remedy)
        answers = self.gathered((answer, failed))
        for _, failure in answers:
            if failure is not None:
                kind, what, where, remedy = failure
                raise kind(what, where=where, remedy=remedy)
        return result, [answer for answer, _ in answers]  # type: ignore[misc]

    def by_first(self, work: Callable[[], T]) -> T:
        """The result of work that the first rank alone does, in every process; so is what it raises on purpose."""
        if self.size == 1:
            return work()
        _, answers = self.together(lambda: work() if self.is_first else None, lambda result: result)
        return answers[0]  # type: ignore[return-value]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, added in their order; shape and device as given."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        with _others_are_there():
            dist.all_gather(parts, value.contiguous())
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Every parameter's gradient becomes the sum over all ranks; at once, as one row of numbers."""
        if self.size == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        row = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in held])
        total, at = self.sum(row), 0
        for parameter in held:
            parameter.grad = total[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()


ALONE = Ranks()


def train_together(
    task: Callable[[Ranks], T], size: int, *, others: Callable[[Ranks], object] | None = None, device: str = "cpu"
) -> T:
    """Run `task` here as the first rank, and `others` in `size - 1` new processes; returns the first one's result.

    others: picklable (by default `task`); it is called with a rank's place, and opens what it needs by itself. The new
    processes end with this one, also where it is killed.

    Raises:
        StorageError: another process ended. Whatever `task` raises.
    """
    if size == 1:
        return task(ALONE)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="custody-ranks-") as folder:
        store = Path(folder) / "store"
        processes = [
            context.Process(target=_other, args=(others or task, rank, size, store, device, os.getpid()), daemon=True)
            for rank in range(1, size)
        ]
        for process in processes:
            process.start()
        try:
            _wait_for(processes, store)
            with _told_why(store, size), _joined(0, size, store, device):
                return task(Ranks(0, size))
        finally:
            for process in processes:
                process.join(timeout=10)  # it has the result too, or finds that nobody talks to it any more
                if process.is_alive():
                    process.kill()
                    process.join()


def _other(task: Callable[[Ranks], object], rank: int, size: int, store: Path, device: str, first: int) -> None:
    _end_with(first)
    _ready(store, rank).touch()
    # What went wrong is the first rank's to tell: it has been sent there, or shows in that this process is gone.
    try:
        with suppress(CustodyError), _joined(rank, size, store, device):
            try:
                task(Ranks(rank, size))
            except CustodyError:
                raise
            except Exception as error:  # said before the first one finds that nobody talks to it any more
                _failed(store, rank).write_text(f"{type(error).__name__} at {_place(error)}")
                raise
    except Exception:
        sys.exit(1)  # not with a traceback: its message may hold what no terminal should


def _place(error: Exception) -> str:
    """The innermost line of our own code, as module:line; of anybody's, where none is ours."""
    frames = list(traceback.walk_tb(error.__traceback__))
    named = [(str(frame.f_globals.get("__name__", "")), line) for frame, line in frames]
    ours = [(name, line) for name, line in named if name.partition(".")[0] in _OUR_PACKAGES and name != __name__]
    name, line = (ours or named)[-1]
    return f"{name}:{line}"


def _failed(store: Path, rank: int) -> Path:
    return store.with_name(f"failed-{rank}")


@contextmanager
def _told_why(store: Path, size: int) -> Iterator[None]:
    """That another process ended, with what it ended by, where that could still be said."""
    try:
        yield
    except StorageError as error:
        for rank in range(size):
            if _failed(store, rank).exists():
                raise StorageError(
                    f"another process of this run ended ({_failed(store, rank).read_text()})",
                    where="training",
                    remedy=_AGAIN + "; if it ends like this again, set [training] ranks = 1 and report what it says",
                ) from error
        raise


def _ready(store: Path, rank: int) -> Path:
    return store.with_name(f"ready-{rank}")


def _wait_for(processes: Sequence[BaseProcess], store: Path) -> None:
    """Until all have begun: one that ends before it joins would be waited for as long as one that is at work."""
    for rank, process in enumerate(processes, 1):
        while not _ready(store, rank).exists():
            process.join(timeout=0.05)
            if process.exitcode is not None and not _ready(store, rank).exists():
                raise StorageError(
                    f"another process of this run ended before it began (exit status {process.exitcode})",
                    where="training",
                    remedy="Its own message stands above; is there memory for as many as [training] ranks asks for?",
                )


@contextmanager
def _joined(rank: int, size: int, store: Path, device: str) -> Iterator[None]:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(rank)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    with _others_are_there():
        dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _others_are_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StorageError(
            f"another process of this run ended ({str(error).splitlines()[0][:120]})",
            where="training",
            remedy=_AGAIN,
        ) from error


def _end_with(parent: int) -> None:
    """This process gets SIGKILL when its parent ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that was said
        os._exit(1)
