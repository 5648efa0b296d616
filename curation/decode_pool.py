"""Worker processes that decode untrusted pictures: a bomb kills its worker, not the run, and costs its picture alone.

How a picture travels: each worker has a few slots, anonymous files in memory (memfd) that it shares with its parent,
and a socket for messages of a few bytes. The parent writes a body into a free slot and says so; the worker answers in
the same slot, our JPEG and what was measured as JSON, never a pickle. Writing does not wait for anybody, and with
several slots a worker has its next pictures at hand whatever its parent does meanwhile. A page of memory tells which
picture the worker has begun, and when, so that the one it died of is known from those that only stood behind it.
"""

from __future__ import annotations

import io
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
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_SEQPACKET, socket, socketpair
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from curation.images import Analyser, DecodeError, DecodeLimits, ShapeConfig, Shaped, shape
from policy import errors
from policy.errors import ConfigurationError
from policy.evidence import C2pa, Embedded, Face, c2pa_from_plain, embedded_from_plain

Result = Shaped | DecodeError

_GIVEN = struct.Struct("<IQQ")  # slot, bytes of the body, the picture's number
_ANSWER = struct.Struct("<BQQ")  # one of the four below, bytes of the JPEG, bytes of the JSON behind it
_READY, _FAILED, _SHAPED, _NOT_DECODED = range(4)
_BEGUN = struct.Struct("<dQ")  # when (time.monotonic), and the number of the picture
_PAGE_BYTES = 4096  # of what is begun; behind it the greeting, or what kept a worker from starting

_START_S = 300.0
_ATTEMPTS = 3  # of a picture whose workers die before they have begun anything
_SLOT_KEEPS_BYTES = 1 << 20  # what a slot keeps of memory between two pictures
_ANSWER_BYTES = 256 << 20  # more than any answer has
_GROWTH_CHECKED_EVERY = 256  # pictures


class DecodePool:
    """Shapes untrusted pictures in worker processes, within `limits` of memory, CPU and time for each.

    `analyser`: "module:factory" of an `Analyser`, built once a worker. Workers are fresh interpreters (no fork, no
    import of the caller's main module, no torch), one thread each, started by the first picture or by `start`. At most
    `queue_depth` pictures are laid out for each; up to `max_bytes` of bodies may be waiting in all. Not for several
    threads.

    ::

        with DecodePool(2, analyser="curation.face_detection:default_detector") as pool:
            for fetched in fetcher.fetch_all(…):        # a loop of its own may sleep on pool.fileno()
                pool.submit(fetched.url, fetched.body)
                for tag, result in pool.ready(): …
            for tag, result in pool.drain(): …

    A worker that cannot start raises out of whatever is called then, with its analyser's own words.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        config: ShapeConfig | None = None,
        limits: DecodeLimits | None = None,
        analyser: str | None = None,
        queue_depth: int = 4,
        max_bytes: int = 64 << 20,
    ) -> None:
        for name, number in (("workers", workers), ("queue_depth", queue_depth), ("max_bytes", max_bytes)):
            if number < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {number}", where="decode")
        self.config, self.limits = config or ShapeConfig(), limits or DecodeLimits()
        self.analyser, self.queue_depth, self.max_bytes = analyser, queue_depth, max_bytes
        self._poll = select.epoll()
        self._workers: list[_Worker | None] = [None] * workers
        self._by_socket: dict[int, tuple[int, _Worker]] = {}
        self._look_every_s, self._look_at = min(0.25, self.limits.wall_s / 4), 0.0  # for what is overdue
        self._waiting: deque[_Picture] = deque()
        self._done: deque[tuple[object, Result]] = deque()
        self._numbers = 0
        self._unanswered = self._unanswered_bytes = 0

    @property
    def unanswered(self) -> int:
        """Pictures that were submitted and whose results have not come yet."""
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
                worker = self._workers[place] = _Worker(self)
                self._by_socket[worker.socket.fileno()] = (place, worker)
                self._poll.register(worker.socket, select.EPOLLIN)

    def submit(self, tag: object, body: bytes) -> None:
        """Hand in a picture; waits only while `max_bytes` of pictures are unanswered."""
        self._numbers += 1
        self._waiting.append(_Picture(tag, body, self._numbers))
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

    def shape_all(self, pictures: Iterable[tuple[object, bytes]]) -> Iterator[tuple[object, Result]]:
        """Shape a stream of (tag, bytes), results as they finish."""
        for tag, body in pictures:
            self.submit(tag, body)
            yield from self.ready()
        yield from self.drain()

    def close(self) -> None:
        """End the workers; what they have in hand is lost."""
        for place, worker in enumerate(self._workers):
            if worker is not None:
                self._end(place, worker, kill=bool(worker.pictures))
        self._poll.close()

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
                self._bury(place, worker, "decoder-killed")
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + self._look_every_s
            self._end_overdue(now)
        self._hand_out()

    def _end_overdue(self, now: float) -> None:
        for place, worker in enumerate(self._workers):
            if worker is not None and worker.overdue_at() <= now:
                self._take(worker)  # it may just have made it
                if worker.overdue_at() <= now:
                    self._bury(place, worker, "timeout")

    def _hand_out(self) -> None:
        """Give each waiting picture to the worker with the fewest, as long as one has a slot free."""
        while self._waiting:
            self.start()  # all that are missing at once: their imports overlap
            worker = min(filter(None, self._workers), key=_Worker.laid_out)
            if not worker.free:
                return
            if worker.give(self._waiting[0]):
                self._waiting.popleft()
            else:
                self._take(worker)
                self._bury(self._workers.index(worker), worker, "decoder-killed")

    def _take(self, worker: _Worker) -> bool:
        """Every answer that has come; False when no more will."""
        while True:
            try:
                message = worker.socket.recv(_ANSWER.size, MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it left with pictures unread; what it had answered before is still to come
            if not message:
                return False
            picture, result = worker.read(*_ANSWER.unpack(message))
            if picture is not None:
                self._answer(picture, result)

    def _answer(self, picture: _Picture, result: Result) -> None:
        self._unanswered -= 1
        self._unanswered_bytes -= len(picture.body)
        self._done.append((picture.tag, result))

    def _bury(self, place: int, worker: _Worker, code: str) -> None:
        """End a worker that died or has to; what it had begun is lost, what stood behind that goes to a fresh one."""
        status = self._end(place, worker, kill=code == "timeout")
        pictures = list(worker.pictures)
        if not worker.is_ready:
            self._waiting.extendleft(reversed(pictures))
            raise ConfigurationError("a decoding worker ended before it was ready", where="decode")
        if pictures and pictures[0].number == worker.begun:
            detail = f"longer than {self.limits.wall_s:g} s"
            if code == "decoder-killed":
                detail = f"signal {-status}" if status < 0 else f"exit status {status}"
            self._answer(pictures.pop(0), DecodeError(code, detail))
        elif pictures and not worker.answers:
            pictures[0].attempts += 1
            if pictures[0].attempts >= _ATTEMPTS:
                self._answer(pictures.pop(0), DecodeError("decoder-killed", "its workers end before they begin it"))
        self._waiting.extendleft(reversed(pictures))

    def _end(self, place: int, worker: _Worker, *, kill: bool) -> int:
        self._workers[place] = None
        del self._by_socket[worker.socket.fileno()]
        self._poll.unregister(worker.socket)
        return worker.end(kill=kill)


@dataclass(slots=True)
class _Picture:
    """A picture on its way: kept until it is answered, since its worker may die."""

    tag: object
    body: bytes
    number: int
    slot: int = -1
    attempts: int = 0


class _Worker:
    """The parent's end of one decoding process."""

    def __init__(self, pool: DecodePool) -> None:
        self.limits = pool.limits
        self.pictures: deque[_Picture] = deque()  # laid out, the one in hand first
        self.is_ready, self.answers, self.begun = False, 0, 0
        self.since = time.monotonic()  # it was started, or got or answered something

        greeting = {"config": asdict(pool.config), "limits": asdict(pool.limits), "analyser": pool.analyser}
        self._page = os.memfd_create("page")
        os.ftruncate(self._page, _PAGE_BYTES)
        _write(self._page, json.dumps(greeting).encode(), _PAGE_BYTES)
        self._begun = mmap.mmap(self._page, _PAGE_BYTES, prot=mmap.PROT_READ)
        self.slots = [os.memfd_create("slot") for _ in range(pool.queue_depth)]
        self.free = list(range(pool.queue_depth))
        self.socket, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        shared = (theirs.fileno(), self._page, *self.slots)
        code = "from curation.decode_pool import work; work()"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, *map(str, shared)],
                pass_fds=shared,
                stdin=subprocess.DEVNULL,
                env=_worker_environment(),
            )

    def laid_out(self) -> int:
        return len(self.pictures)

    def give(self, picture: _Picture) -> bool:
        """Lay out a picture in a free slot; False when the process is gone."""
        slot = self.free[-1]
        _write(self.slots[slot], picture.body, 0)
        try:
            self.socket.send(_GIVEN.pack(slot, len(picture.body), picture.number))
        except OSError:
            return False
        picture.slot = self.free.pop()
        if not self.pictures:
            self.since = time.monotonic()
        self.pictures.append(picture)
        return True

    def read(self, kind: int, jpeg_bytes: int, json_bytes: int) -> tuple[_Picture | None, Result]:
        """What an answer says, of which picture; raises what kept the worker from starting."""
        self.since = time.monotonic()
        if kind in (_READY, _FAILED):
            self.is_ready = True
            if kind == _FAILED:
                raise _not_started(os.pread(self._page, json_bytes, _PAGE_BYTES))
            return None, DecodeError("decoder-killed")
        self.answers += 1
        picture = self.pictures.popleft()
        slot = self.slots[picture.slot]
        jpeg = os.pread(slot, min(jpeg_bytes, _ANSWER_BYTES), 0)
        said = os.pread(slot, min(json_bytes, _ANSWER_BYTES), len(jpeg))
        if max(len(picture.body), len(jpeg) + len(said)) > _SLOT_KEEPS_BYTES:
            os.ftruncate(slot, 0)
        self.free.append(picture.slot)
        try:
            return picture, DecodeError(*json.loads(said)) if kind == _NOT_DECODED else _shaped(json.loads(said), jpeg)
        except (ValueError, TypeError, KeyError, RecursionError):  # a picture that has its worker in hand may say this
            self.process.kill()
            return picture, DecodeError("decoder-killed", "its answer could not be read")

    def overdue_at(self) -> float:
        """When the picture in hand has had its time; a worker that does not even begin one has as much."""
        if not self.is_ready:
            return self.since + _START_S
        if not self.pictures:
            return math.inf
        begun_at, number = _BEGUN.unpack_from(self._begun)
        return (begun_at if number == self.pictures[0].number else self.since) + self.limits.wall_s

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


def _worker_environment() -> dict[str, str]:
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    # glibc gives the memory of each picture back and takes it again for the next, page fault by page fault: a sixth of
    # the time of a 512 px picture. It may keep up to 32 MiB instead.
    malloc = {"ARENA_MAX": 1, "MMAP_THRESHOLD_": 4 << 20, "TRIM_THRESHOLD_": 32 << 20, "TOP_PAD_": 1 << 20}
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **one_thread, **{f"MALLOC_{k}": str(v) for k, v in malloc.items()}, "PYTHONPATH": path}


# ── what was measured, as JSON ───────────────────────────────────────────────────────────────────────────────────
def _told(shaped: Shaped) -> list[Any]:
    """Everything but the JPEG, in order; metadata that hold nothing as one word, which most do."""
    embedded, c2pa, faces = shaped.embedded, shaped.c2pa, shaped.faces
    return [
        shaped.content_sha256,
        shaped.content_md5,
        shaped.media_type,
        shaped.width,
        shaped.height,
        shaped.pdq,
        shaped.pdq_quality,
        None if faces is None else [(f.x, f.y, f.w, f.h, f.score) for f in faces],
        shaped.face_detector,
        shaped.analyser_error,
        embedded and (embedded.media_type if embedded == Embedded(embedded.media_type) else asdict(embedded)),
        c2pa and (c2pa.state if c2pa == C2pa(c2pa.state) else asdict(c2pa)),
    ]


def _shaped(told: list[Any], jpeg: bytes) -> Shaped:
    sha256, md5, media_type, width, height, pdq, pdq_quality, faces, detector, error, embedded, c2pa = told
    return Shaped(
        content_sha256=sha256,
        media_type=media_type,
        width=width,
        height=height,
        pdq=pdq,
        pdq_quality=pdq_quality,
        jpeg=jpeg,
        faces=None if faces is None else tuple(Face(*face) for face in faces),
        face_detector=detector,
        analyser_error=error,
        embedded=Embedded(embedded) if isinstance(embedded, str) else embedded and embedded_from_plain(embedded),
        c2pa=C2pa(c2pa) if isinstance(c2pa, str) else c2pa and c2pa_from_plain(c2pa),
        content_md5=md5,
    )


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────
def work() -> None:
    """A worker's whole life: greeted, limited, then one picture after another until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    talk, page, *slots = map(int, sys.argv[1:])
    parent = socket(AF_UNIX, SOCK_SEQPACKET, fileno=talk)
    greeting = json.loads(os.pread(page, os.fstat(page).st_size, _PAGE_BYTES))
    limits, config = DecodeLimits(**greeting["limits"]), ShapeConfig(**greeting["config"])
    try:
        analyser = None if greeting["analyser"] is None else _build(greeting["analyser"])
        _warm_up(analyser)
    except Exception as error:  # anything that keeps it from starting is the parent's to report
        words = {name: str(getattr(error, name, "")) for name in ("where", "remedy")}
        what = str(getattr(error, "what", f"{type(error).__name__}: {error}"))
        failed = json.dumps({"what": what, "kind": type(error).__name__, **words}).encode()
        _write(page, failed, _PAGE_BYTES)
        parent.send(_ANSWER.pack(_FAILED, 0, len(failed)))
        return
    begun = mmap.mmap(page, _PAGE_BYTES)
    started_with = _memory_bytes()
    _limit_memory(limits.memory_bytes)
    parent.send(_ANSWER.pack(_READY, 0, 0))

    pictures = 0
    while message := parent.recv(_GIVEN.size):
        slot, body_bytes, number = _GIVEN.unpack(message)
        now = time.monotonic()
        _BEGUN.pack_into(begun, 0, now, 0)  # in two steps, since the parent may look at any time
        _BEGUN.pack_into(begun, 0, now, number)
        _limit_cpu(limits.cpu_s)
        kind, jpeg, told = _shape(os.pread(slots[slot], body_bytes, 0), config, limits, analyser)
        os.pwritev(slots[slot], [jpeg, told], 0)
        parent.send(_ANSWER.pack(kind, len(jpeg), len(told)))
        pictures += 1
        if kind == _NOT_DECODED and told.startswith(b'["out-of-memory"'):
            break  # its heap is in pieces: the next picture gets a fresh one
        if not pictures % _GROWTH_CHECKED_EVERY and _memory_bytes() > started_with + limits.memory_bytes // 4:
            break  # nor may what others left take from the next one's memory
    os._exit(0)


def _shape(
    body: bytes, config: ShapeConfig, limits: DecodeLimits, analyser: Analyser | None
) -> tuple[int, bytes, bytes]:
    """An answer's kind, its JPEG and its JSON."""
    try:
        shaped = shape(body, config, limits, analyser)
    except DecodeError as error:
        return _NOT_DECODED, b"", json.dumps([error.code, error.detail]).encode()
    except MemoryError:
        return _NOT_DECODED, b"", b'["out-of-memory", ""]'
    return _SHAPED, shaped.jpeg, json.dumps(_told(shaped)).encode()


def _build(factory: str) -> Analyser:
    module, colon, name = factory.partition(":")
    if not colon:
        raise ConfigurationError(f"{factory!r} is not written as module:factory", where="analyser")
    analyser: Analyser = getattr(import_module(module), name)()
    return analyser


def _warm_up(analyser: Analyser | None) -> None:
    """Everything that is loaded on first use is loaded before memory is limited."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "WEBP", "GIF", "JPEG"):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, kind)
        shape(held.getvalue(), None, None, analyser)


def _memory_bytes() -> int:
    """The size of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_memory(beyond_bytes: int) -> None:
    limit = _memory_bytes() + beyond_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ANSWER_BYTES, _ANSWER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))
