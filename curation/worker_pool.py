"""Worker processes for untrusted bytes: what takes too much ends its worker, not the run, and costs itself alone.

How a piece of work travels: each worker has a few slots, anonymous files in memory (memfd) that it shares with its
parent, and a socket for messages of a few bytes. The parent writes a body into a free slot and says so; the worker
answers in the same slot, bytes and some JSON, never a pickle. Writing does not wait for anybody, and with several
slots a worker has its next pieces at hand whatever its parent does meanwhile. A page of memory tells which piece the
worker has begun, and when, so that the one it died of is known from those that only stood behind it.

What is done with the bytes is said twice: in the parent by a subclass of `WorkerPool`, in the worker by what it hands
to `serve`. Where several workers with all the memory of their limits would be too much for the machine, each has
`usual_bytes`, and what needs more is done `alone`: by one of them at a time.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import mmap
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_SEQPACKET, socket, socketpair
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from policy import errors
from policy.errors import ConfigurationError

# What becomes of a piece of work that its worker does not answer.
KILLED, TIMEOUT, OUT_OF_MEMORY = "killed", "timeout", "out-of-memory"

_GIVEN = struct.Struct("<IQQQ")  # slot, bytes of the head, bytes of the body behind it, the piece's number
_ANSWER = struct.Struct("<BQQ")  # one of the four below, bytes of what was made, bytes of the JSON behind it
_READY, _FAILED, _DONE, _NOT_DONE = range(4)
_BEGUN = struct.Struct("<dQ")  # when (time.monotonic), and the number of the piece
_PAGE_BYTES = 4096  # of what is begun; behind it the greeting, or what kept a worker from starting

_START_S = 300.0
_ATTEMPTS = 3  # of a piece whose workers die before they have begun anything
_TURN_POLL_S = 0.01
_SLOT_KEEPS_BYTES = 1 << 20  # what a slot keeps of memory between two pieces
_ANSWER_BYTES = 256 << 20  # more than any answer has


class Limits(Protocol):
    """Bounds of one piece of work. `memory_bytes`: what a worker may take beyond its own start."""

    @property
    def memory_bytes(self) -> int: ...
    @property
    def cpu_s(self) -> int: ...
    @property
    def wall_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class NotDone:
    """Why nothing came of a piece of work."""

    code: str
    detail: str = ""


# A piece's head and body -> the bytes that were made of it, and what else is to be said, as JSON.
Do = Callable[[bytes, bytes], tuple[bytes, bytes] | NotDone]
Result = TypeVar("Result")


class WorkerPool(ABC, Generic[Result]):
    """Does work on untrusted bytes in worker processes, within limits of memory, CPU and time for each piece.

    Workers are fresh interpreters (no fork, no import of the caller's main module), one thread each, started by the
    first piece or by `start`; each runs `entry` ("module:function"), which calls `serve` and is given `greeting`. At
    most `queue_depth` pieces are laid out for each; up to `max_bytes` may be waiting in all. Not for several threads.
    `usual_bytes`: what a worker may take beyond its start while it is not `alone`, by default what its limits allow.

    A worker that cannot start raises out of whatever is called then, with its own words.
    """

    def __init__(
        self,
        workers: int,
        *,
        entry: str,
        greeting: Mapping[str, object],
        limits: Limits,
        queue_depth: int,
        max_bytes: int,
        usual_bytes: int | None = None,
    ) -> None:
        self.entry, self.queue_depth, self.max_bytes = entry, queue_depth, max_bytes
        usual = limits.memory_bytes if usual_bytes is None or workers == 1 else usual_bytes
        self.greeting = {**greeting, "usual_bytes": min(usual, limits.memory_bytes)}
        for name, number in (("workers", workers), ("queue_depth", queue_depth), ("max_bytes", max_bytes)):
            if number < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {number}", where=self.where)
        self._limits = limits
        self._turn = os.memfd_create("turn")  # locked by the worker that is alone
        self._poll = select.epoll()
        self._workers: list[_Worker | None] = [None] * workers
        self._by_socket: dict[int, tuple[int, _Worker]] = {}
        self._look_every_s, self._look_at = min(0.25, limits.wall_s / 4), 0.0  # for what is overdue
        self._waiting: deque[_Piece] = deque()
        self._done: deque[tuple[object, Result]] = deque()
        self._numbers = 0
        self._unanswered = self._unanswered_bytes = 0

    @property
    def where(self) -> str:
        """What an error of these workers is said to be about."""
        return self.entry.partition(":")[0].rpartition(".")[2]

    @abstractmethod
    def made(self, made: bytes, told: Any) -> Result:
        """The result that a worker's answer says: bytes, and JSON. Raises ValueError, TypeError or KeyError."""

    @abstractmethod
    def not_made(self, why: NotDone) -> Result:
        """The result where there is no answer: the worker's own code, or one of those above."""

    @property
    def unanswered(self) -> int:
        """Pieces that were submitted and whose results have not come yet."""
        return self._unanswered

    @property
    def is_full(self) -> bool:
        """Whether `submit` would wait: `max_bytes` are in hand."""
        return self._unanswered_bytes >= self.max_bytes

    def fileno(self) -> int:
        """A descriptor that is readable when a worker has answered: to sleep on in select, poll or another epoll.

        Time limits are watched by `ready`, `wait` and `submit`, so one of them has to be called every now and then.
        """
        return self._poll.fileno()

    def start(self) -> None:
        """Start the workers now, so that they load while the first bodies are on their way; does not wait for them."""
        for place, worker in enumerate(self._workers):
            if worker is None:
                worker = _Worker(self.entry, self.greeting, self._limits, self.queue_depth, self._turn)
                self._workers[place] = worker
                self._by_socket[worker.socket.fileno()] = (place, worker)
                self._poll.register(worker.socket, select.EPOLLIN)

    def submit_piece(self, tag: object, head: bytes, body: bytes) -> None:
        """Hand in a piece of work; waits only while `max_bytes` are unanswered."""
        self._numbers += 1
        self._waiting.append(_Piece(tag, head, body, self._numbers))
        self._unanswered += 1
        self._unanswered_bytes += len(body)
        self._pump(0.0)
        while self._unanswered_bytes > self.max_bytes and self._unanswered > 1:
            self._pump(1.0)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a result is ready or the time is over; whether one is."""
        self._pump(0.0)
        until = time.monotonic() + timeout_s
        while not self._done and (left_s := until - time.monotonic()) > 0:
            self._pump(left_s)
        return bool(self._done)

    def ready(self) -> Iterator[tuple[object, Result]]:
        """What is finished by now, in no order."""
        self._pump(0.0)
        while self._done:
            yield self._done.popleft()

    def drain(self) -> Iterator[tuple[object, Result]]:
        """Everything that was submitted, as it finishes."""
        while self._done or self._unanswered:
            if not self._done:
                self._pump(1.0)
            while self._done:
                yield self._done.popleft()

    def close(self) -> None:
        """End the workers; what they have in hand is lost."""
        for place, worker in enumerate(self._workers):
            if worker is not None:
                self._end(place, worker, kill=bool(worker.pieces))
        self._poll.close()
        os.close(self._turn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pump(self, timeout_s: float) -> None:
        """Lay out work, take what comes within the time (or a part of it), end what is overdue, lay out again."""
        self._hand_out()
        for descriptor, _ in self._poll.poll(min(timeout_s, self._look_every_s)):
            place, worker = self._by_socket[descriptor]
            if not self._take(worker):
                self._bury(place, worker, KILLED)
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + self._look_every_s
            self._end_overdue(now)
        self._hand_out()

    def _end_overdue(self, now: float) -> None:
        for place, worker in enumerate(self._workers):
            if worker is not None and worker.overdue_at() <= now:
                self._take(worker)  # it may just have made it
                if worker.overdue_at() <= now:
                    self._bury(place, worker, TIMEOUT)

    def _hand_out(self) -> None:
        """Give each waiting piece to the worker with the fewest, as long as one has a slot free."""
        while self._waiting:
            self.start()  # all that are missing at once: their imports overlap
            worker = min(filter(None, self._workers), key=_Worker.laid_out)
            if not worker.free:
                return
            if worker.give(self._waiting[0]):
                self._waiting.popleft()
            else:
                self._take(worker)
                self._bury(self._workers.index(worker), worker, KILLED)

    def _take(self, worker: _Worker) -> bool:
        """Every answer that has come; False when no more will."""
        while True:
            try:
                message = worker.socket.recv(_ANSWER.size, MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it left with pieces unread; what it had answered before is still to come
            if not message:
                return False
            if (answer := worker.read(*_ANSWER.unpack(message))) is not None:
                self._answer(answer[0], self._result(worker, *answer))

    def _result(self, worker: _Worker, piece: _Piece, is_done: bool, made: bytes, told: bytes) -> Result:
        try:
            said = json.loads(told)
            return self.made(made, said) if is_done else self.not_made(NotDone(*said))
        except (ValueError, TypeError, KeyError, RecursionError):  # what has its worker in hand may say this
            worker.process.kill()
            return self.not_made(NotDone(KILLED, "its answer could not be read"))

    def _answer(self, piece: _Piece, result: Result) -> None:
        self._unanswered -= 1
        self._unanswered_bytes -= len(piece.body)
        self._done.append((piece.tag, result))

    def _bury(self, place: int, worker: _Worker, code: str) -> None:
        """End a worker that died or has to; what it had begun is lost, what stood behind that goes to a fresh one."""
        status = self._end(place, worker, kill=code == TIMEOUT)
        pieces = list(worker.pieces)
        if not worker.is_ready:
            self._waiting.extendleft(reversed(pieces))
            raise ConfigurationError("a worker ended before it was ready", where=self.where)
        if pieces and pieces[0].number == worker.begun:
            detail = f"longer than {self._limits.wall_s:g} s"
            if code == KILLED:
                detail = f"signal {-status}" if status < 0 else f"exit status {status}"
            self._answer(pieces.pop(0), self.not_made(NotDone(code, detail)))
        elif pieces and not worker.answers:
            pieces[0].attempts += 1
            if pieces[0].attempts >= _ATTEMPTS:
                why = NotDone(KILLED, "its workers end before they begin it")
                self._answer(pieces.pop(0), self.not_made(why))
        self._waiting.extendleft(reversed(pieces))

    def _end(self, place: int, worker: _Worker, *, kill: bool) -> int:
        self._workers[place] = None
        del self._by_socket[worker.socket.fileno()]
        self._poll.unregister(worker.socket)
        return worker.end(kill=kill)


@dataclass(slots=True)
class _Piece:
    """A piece of work on its way: kept until it is answered, since its worker may die."""

    tag: object
    head: bytes
    body: bytes
    number: int
    slot: int = -1
    attempts: int = 0


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, entry: str, greeting: Mapping[str, object], limits: Limits, queue_depth: int, turn: int) -> None:
        self.limits = limits
        self.pieces: deque[_Piece] = deque()  # laid out, the one in hand first
        self.is_ready, self.answers, self.begun = False, 0, 0
        self.since = time.monotonic()  # it was started, or got or answered something

        self._page = os.memfd_create("page")
        os.ftruncate(self._page, _PAGE_BYTES)
        _write(self._page, json.dumps(greeting).encode(), _PAGE_BYTES)
        self._begun = mmap.mmap(self._page, _PAGE_BYTES, prot=mmap.PROT_READ)
        self.slots = [os.memfd_create("slot") for _ in range(queue_depth)]
        self.free = list(range(queue_depth))
        self.socket, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        shared = (theirs.fileno(), self._page, turn, *self.slots)
        module, _, function = entry.partition(":")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {module} import {function} as work; work()", *map(str, shared)],
                pass_fds=shared,
                stdin=subprocess.DEVNULL,
                env=worker_environment(),
            )

    def laid_out(self) -> int:
        return len(self.pieces)

    def give(self, piece: _Piece) -> bool:
        """Lay out a piece in a free slot; False when the process is gone."""
        slot = self.free[-1]
        if piece.head:
            _write(self.slots[slot], piece.head, 0)
        _write(self.slots[slot], piece.body, len(piece.head))
        try:
            self.socket.send(_GIVEN.pack(slot, len(piece.head), len(piece.body), piece.number))
        except OSError:
            return False
        piece.slot = self.free.pop()
        if not self.pieces:
            self.since = time.monotonic()
        self.pieces.append(piece)
        return True

    def read(self, kind: int, made_bytes: int, told_bytes: int) -> tuple[_Piece, bool, bytes, bytes] | None:
        """An answer: of which piece, whether it is done, what was made, and the JSON.

        None: the worker is ready. Raises what kept it from starting.
        """
        self.since = time.monotonic()
        if kind in (_READY, _FAILED):
            self.is_ready = True
            if kind == _FAILED:
                raise _not_started(os.pread(self._page, told_bytes, _PAGE_BYTES))
            return None
        self.answers += 1
        piece = self.pieces.popleft()
        slot = self.slots[piece.slot]
        made = os.pread(slot, min(made_bytes, _ANSWER_BYTES), 0)
        told = os.pread(slot, min(told_bytes, _ANSWER_BYTES), len(made))
        if max(len(piece.body), len(made) + len(told)) > _SLOT_KEEPS_BYTES:
            os.ftruncate(slot, 0)
        self.free.append(piece.slot)
        return piece, kind == _DONE, made, told

    def overdue_at(self) -> float:
        """When the piece in hand has had its time; a worker that does not even begin one has as much."""
        if not self.is_ready:
            return self.since + _START_S
        if not self.pieces:
            return math.inf
        begun_at, number = _BEGUN.unpack_from(self._begun)
        return (begun_at if number == self.pieces[0].number else self.since) + self.limits.wall_s

    def end(self, *, kill: bool) -> int:
        """End the process and let go of what was shared with it; its exit status."""
        self.socket.close()  # an idle worker leaves by itself when its socket is gone
        if kill:
            self.process.kill()
        try:
            status = self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.begun = _BEGUN.unpack_from(self._begun)[1]
        self._begun.close()
        for descriptor in (self._page, *self.slots):
            os.close(descriptor)
        return status


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """All of it; a single write takes at most 2 GiB."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)


def _not_started(told: bytes) -> errors.CustodyError:
    answer = json.loads(told)
    kind = getattr(errors, answer["kind"], ConfigurationError)
    error: errors.CustodyError = kind(answer["what"], where=answer["where"], remedy=answer["remedy"])
    return error


def worker_environment() -> dict[str, str]:
    """The environment of a worker: one thread, and a malloc that keeps some of what it has."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    # glibc gives the memory of each picture back and takes it again for the next, page fault by page fault: a sixth of
    # the time of a 512 px picture. It may keep up to 32 MiB instead.
    malloc = {"ARENA_MAX": 1, "MMAP_THRESHOLD_": 4 << 20, "TRIM_THRESHOLD_": 32 << 20, "TOP_PAD_": 1 << 20}
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **one_thread, **{f"MALLOC_{k}": str(v) for k, v in malloc.items()}, "PYTHONPATH": path}


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────
def serve(prepare: Callable[[Mapping[str, Any]], Do]) -> None:
    """A worker's whole life: greeted, limited, then one piece after another until its parent is gone.

    `prepare` makes of the greeting (whose "limits" are the worker's) what is done to each piece, and loads all that
    would be loaded on first use: memory is limited from then on.
    """
    global _self  # it is one worker as long as it lives
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    talk, page, turn, *slots = map(int, sys.argv[1:])
    parent = socket(AF_UNIX, SOCK_SEQPACKET, fileno=talk)
    greeting = json.loads(os.pread(page, os.fstat(page).st_size, _PAGE_BYTES))
    try:
        do = prepare(greeting)
    except Exception as error:  # anything that keeps it from starting is the parent's to report
        words = {name: str(getattr(error, name, "")) for name in ("where", "remedy")}
        what = str(getattr(error, "what", f"{type(error).__name__}: {error}"))
        failed = json.dumps({"what": what, "kind": type(error).__name__, **words}).encode()
        _write(page, failed, _PAGE_BYTES)
        parent.send(_ANSWER.pack(_FAILED, 0, len(failed)))
        return
    _self = worker = _Self(page, turn, greeting)
    cpu_s = greeting["limits"]["cpu_s"]
    parent.send(_ANSWER.pack(_READY, 0, 0))

    while message := parent.recv(_GIVEN.size):
        slot, head_bytes, body_bytes, number = _GIVEN.unpack(message)
        worker.begin(number)
        _limit_cpu(cpu_s)
        answer = _do(do, slots[slot], head_bytes, body_bytes)
        if isinstance(answer, NotDone):
            kind, made, told = _NOT_DONE, b"", json.dumps([answer.code, answer.detail]).encode()
        else:
            kind, (made, told) = _DONE, answer
        os.pwritev(slots[slot], [made, told], 0)
        try:
            parent.send(_ANSWER.pack(kind, len(made), len(told)))
        except BrokenPipeError:  # it is gone
            break
        if isinstance(answer, NotDone) and answer.code == OUT_OF_MEMORY:
            break  # its heap is in pieces: the next one gets a fresh worker
        del answer, made, told
        if worker.keeps_much():
            break  # nor may what one left take from the next one's memory
    os._exit(0)


@contextmanager
def alone() -> Iterator[None]:
    """In a worker: with all the memory of its limits, while no other worker of its pool is; it waits for that.

    Waiting costs nothing of the piece's time. Elsewhere it means nothing.
    """
    if _self is None:
        yield
        return
    _self.take_turn()
    try:
        yield
    finally:
        _self.leave_turn()


class _Self:
    """A worker's own end: what it has begun, and the memory it may take."""

    def __init__(self, page: int, turn: int, greeting: Mapping[str, Any]) -> None:
        self._begun = mmap.mmap(page, _PAGE_BYTES)
        self._turn = turn
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        self._number = 0
        self._usual: int = greeting["usual_bytes"]
        self._most: int = greeting["limits"]["memory_bytes"]
        self._started_with = _memory_bytes(self._statm)
        self._may_take(self._usual)

    def begin(self, number: int) -> None:
        self._number = number
        self._say_begun()

    def _say_begun(self) -> None:
        now = time.monotonic()
        _BEGUN.pack_into(self._begun, 0, now, 0)  # in two steps, since the parent may look at any time
        _BEGUN.pack_into(self._begun, 0, now, self._number)

    def _may_take(self, size: int) -> None:
        _limit_memory(self._started_with + size, self._started_with + self._most)

    def take_turn(self) -> None:
        while True:
            try:
                fcntl.lockf(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who dies lets go of it
                break
            except OSError:
                time.sleep(_TURN_POLL_S)
            finally:
                self._say_begun()
        self._may_take(self._most)

    def leave_turn(self) -> None:
        self._may_take(self._usual)
        if self._trim is not None:
            self._trim(0)  # before the next one takes as much
        fcntl.lockf(self._turn, fcntl.LOCK_UN)

    def keeps_much(self) -> bool:
        """Whether more is left of what was done than leaves room for the next piece."""
        kept_bytes = _memory_bytes(self._statm) - self._started_with
        return kept_bytes > min(self._most // 4, self._usual // 2)


_self: _Self | None = None


def _do(do: Do, slot: int, head_bytes: int, body_bytes: int) -> tuple[bytes, bytes] | NotDone:
    try:
        head = os.pread(slot, head_bytes, 0) if head_bytes else b""
        return do(head, os.pread(slot, body_bytes, head_bytes))
    except MemoryError:
        return NotDone(OUT_OF_MEMORY)


def _memory_bytes(statm: int) -> int:
    """The size of this process's address space."""
    return int(os.pread(statm, 64, 0).split()[0]) * resource.getpagesize()


def _limit_memory(limit: int, most: int) -> None:
    """Of address space; up to `most` it may be raised again."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ANSWER_BYTES, _ANSWER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))
