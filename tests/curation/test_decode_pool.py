"""Worker processes for untrusted pictures: nothing is lost, nobody is blamed for another, nothing runs for ever."""

from __future__ import annotations

import io
import os
import select
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.decode_pool import DecodePool, Result
from curation.images import DecodeError, DecodeLimits, ShapeConfig, Shaped, shape
from policy.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def picture(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, x ^ y], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)  # type: ignore[arg-type]
    return held.getvalue()


def png_declaring(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def code_of(result: Result) -> str:
    return result.code if isinstance(result, DecodeError) else "ok"


GOOD = encoded(picture(), "JPEG")

# The height of a picture says what the analyser does when it sees it.
ANALYSERS = """
import os, signal, time

class Killer:
    id = "killer"
    def detect(self, rgb):
        height = rgb.shape[0]
        if height == 13:
            os.kill(os.getpid(), signal.SIGSEGV)
        if height == 14:
            while True:
                pass
        if height == 16:
            time.sleep(3600)
        if height == 17:
            time.sleep(0.02)
        return ()

class WhoAmI(Killer):
    @property
    def id(self):
        return str(os.getpid())

class Leaking(WhoAmI):
    held = []
    def detect(self, rgb):
        import numpy
        self.held.append(numpy.empty(3 << 19, dtype=numpy.uint8))
        return ()

def failing():
    from policy.errors import ConfigurationError
    raise ConfigurationError("no weights", where="weights.onnx", remedy="Install them")

def dying():
    os._exit(3)

def threads():
    class Threads(Killer):
        id = os.environ["OMP_NUM_THREADS"] + str("torch" in __import__("sys").modules)
    return Threads()
"""
CRASH, LOOP, FINE, SLEEP, SLOW = (encoded(picture(40, height), "PNG") for height in (13, 14, 15, 16, 17))


@pytest.fixture
def analysers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_analysers.py").write_text(ANALYSERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


# ── what goes in comes out ───────────────────────────────────────────────────────────────────────────────────────
def test_a_pool_shapes_a_stream_and_survives_what_is_in_it() -> None:
    """Every picture handed in comes back once, the good ones as they would in this process."""
    stream: list[tuple[object, bytes]] = [(f"good {i}", GOOD) for i in range(8)]
    stream[3:3] = [("html", b"<html>"), ("empty", b""), ("cut", GOOD[:900]), ("many", png_declaring(20_000, 20_000))]
    with DecodePool(2, config=ShapeConfig(size_px=32)) as pool:
        results = list(pool.shape_all(stream))
        assert pool.unanswered == 0
    assert len(results) == len(stream)
    assert {tag: code_of(result) for tag, result in results} == {
        **{f"good {i}": "ok" for i in range(8)},
        **{"html": "unknown-format", "empty": "unknown-format", "cut": "truncated", "many": "too-many-pixels"},
    }
    assert dict(results)["good 0"] == shape(GOOD, ShapeConfig(size_px=32))


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="DMI-PROHIBITED"/></rdf:RDF>
</x:xmpmeta>"""


@pytest.mark.parametrize(
    "body",
    [
        encoded(picture(), "JPEG", xmp=XMP.encode()),
        encoded(picture(), "JPEG")[:-2],  # metadata that are damaged: no end
        encoded(picture(), "JPEG") + b"jumdc2pa c2pa.assertions",  # bits of a manifest store
        encoded(picture(), "AVIF"),
        encoded(picture(900, 700), "PNG"),
        encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3)).astype(np.uint8)), "PNG"),
    ],
    ids=["xmp", "damaged", "manifest", "avif", "large", "noise"],
)
def test_whatever_was_measured_survives_the_way_back(body: bytes) -> None:
    """Metadata, damage, manifest stores and large JPEGs come out of a worker as this process makes them."""
    with DecodePool(1, config=ShapeConfig(size_px=800)) as pool:
        ((_, result),) = pool.shape_all([("x", body)])
        assert (
            result == shape(body, ShapeConfig(size_px=800))
            if isinstance(result, Shaped)
            else _code(body) == result.code
        )


def _code(body: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        shape(body)
    return caught.value.code


@pytest.mark.usefixtures("analysers")
def test_faces_come_back_and_workers_are_single_threaded_and_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has one thread to compute with and no torch."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with DecodePool(1, analyser="odd_analysers:threads") as pool:
        ((_, result),) = pool.shape_all([("x", FINE)])
    assert isinstance(result, Shaped)
    assert (result.faces, result.face_detector) == ((), "1False")


@pytest.mark.usefixtures("analysers")
def test_an_analyser_that_is_not_to_be_asked_sees_nothing() -> None:
    """The same worker measures one picture with it and another without: what it would have said is not observed."""
    with DecodePool(1, analyser="odd_analysers:Killer") as pool:
        pool.submit("asked", FINE)
        pool.submit("not asked", CRASH, analyse=False)
        found = dict(pool.drain())
    seen, unseen = found["asked"], found["not asked"]
    assert isinstance(seen, Shaped)
    assert isinstance(unseen, Shaped)
    assert (seen.faces, seen.face_detector) == ((), "killer")
    assert (unseen.faces, unseen.face_detector) == (None, None)
    assert unseen == shape(CRASH)


# ── overlap ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.usefixtures("analysers")
def test_a_worker_goes_on_while_its_parent_is_busy() -> None:
    """As many pictures as its queue is deep are worked off without the parent lifting a finger."""
    with DecodePool(1, analyser="odd_analysers:Killer", queue_depth=4) as pool:
        list(pool.shape_all([("warm", FINE)]))
        for number in range(6):
            pool.submit(number, SLOW)
        (worker,) = pool._workers
        assert worker is not None
        begun_by = time.monotonic() + 30
        while worker._begun[8] != 1 + 4:  # the number of the last of the four that it has at hand
            assert time.monotonic() < begun_by
            time.sleep(0.01)
        assert pool.unanswered == 6
        assert sorted(tag for tag, _ in pool.drain()) == list(range(6))  # type: ignore[type-var]


@pytest.mark.usefixtures("analysers")
def test_handing_in_does_not_wait_for_busy_workers() -> None:
    """While every worker hangs, pictures are taken in up to the bytes that may wait, and not refused beyond."""
    limits = DecodeLimits(wall_s=1.5)
    body = FINE.ljust(100_000, b"\0")
    with DecodePool(1, analyser="odd_analysers:Killer", limits=limits, max_bytes=5_000_000) as pool:
        list(pool.shape_all([("warm", FINE)]))
        pool.submit("hangs", SLEEP)
        for number in range(40):
            pool.submit(number, body)
        assert pool.unanswered == 41  # nothing has come, so nothing was waited for
        assert not pool.is_full
        for number in range(40, 60):
            pool.submit(number, body)
        assert pool.unanswered * 100_000 <= 5_100_000
        results = dict(pool.drain())
    assert code_of(results.pop("hangs")) == "timeout"
    assert len(results) == 60
    assert {code_of(result) for result in results.values()} == {"ok"}


def test_a_picture_larger_than_all_that_may_wait_is_shaped() -> None:
    """The bound on bytes never keeps the only picture out."""
    with DecodePool(1, max_bytes=10) as pool:
        assert [code_of(r) for _, r in pool.shape_all([(0, GOOD), (1, GOOD.ljust(3_000_000, b"\0"))])] == ["ok", "ok"]


def test_a_loop_can_sleep_on_the_pool() -> None:
    """The descriptor is readable when an answer is there, and quiet when all have been taken."""
    with DecodePool(2) as pool:
        pool.start()
        for number in range(5):
            pool.submit(number, GOOD)
        taken: list[object] = []
        while len(taken) < 5:
            assert select.select([pool], [], [], 60)[0]
            taken += [tag for tag, _ in pool.ready()]
        assert sorted(taken) == list(range(5))  # type: ignore[type-var]
        assert not pool.wait(0.0)
        assert not select.select([pool], [], [], 0)[0]
        pool.submit("again", GOOD)
        assert pool.wait(60)
        assert [tag for tag, _ in pool.ready()] == ["again"]


# ── what kills a worker ──────────────────────────────────────────────────────────────────────────────────────────
def test_a_bomb_ends_its_worker_and_not_the_run() -> None:
    """What needs more memory, processor time or patience than a picture may have is named, and the next one goes on."""
    bomb, good = encoded(Image.new("1", (6000, 6000)), "PNG"), encoded(picture(), "PNG")
    for limits, codes in (
        (DecodeLimits(memory_bytes=30 << 20), {"out-of-memory", "decoder-killed"}),
        (DecodeLimits(wall_s=0.02), {"timeout"}),
    ):
        with DecodePool(1, limits=limits) as pool:
            pool.submit("bomb", bomb)
            ((_, result),) = pool.drain()
            assert code_of(result) in codes
        with DecodePool(1, limits=DecodeLimits(memory_bytes=limits.memory_bytes)) as pool:
            assert [code_of(r) for _, r in pool.shape_all([("bomb", bomb), ("good", good)])][-1] == "ok"


@pytest.mark.usefixtures("analysers")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_costs_its_picture_only(workers: int) -> None:
    """A crash and an endless loop in native code end the worker; the pictures queued behind them are shaped."""
    bodies = [FINE, CRASH, FINE, LOOP, FINE, CRASH, CRASH, FINE]
    with DecodePool(workers, limits=DecodeLimits(cpu_s=1), analyser="odd_analysers:Killer", queue_depth=4) as pool:
        for tag, body in enumerate(bodies):
            pool.submit(tag, body)
        results = dict(pool.drain())
    for tag, body in enumerate(bodies):
        assert code_of(results[tag]) == ("ok" if body is FINE else "decoder-killed")
    assert isinstance(results[1], DecodeError)
    assert results[1].detail == f"signal {int(signal.SIGSEGV)}"


@pytest.mark.usefixtures("analysers")
def test_a_picture_that_hangs_is_given_up() -> None:
    """Time runs from when a picture is begun: what stood behind one that hung has its own, all of it."""
    with DecodePool(1, limits=DecodeLimits(wall_s=1.0), analyser="odd_analysers:Killer", queue_depth=4) as pool:
        for tag, body in enumerate([SLEEP, FINE, SLEEP, FINE]):
            pool.submit(tag, body)
        results = dict(pool.drain())
    assert [code_of(results[i]) for i in range(4)] == ["timeout", "ok", "timeout", "ok"]


@pytest.mark.usefixtures("analysers")
def test_a_worker_that_grows_is_replaced() -> None:
    """What pictures leave behind in a worker does not eat the memory of the next, and no picture is lost by that."""
    with DecodePool(1, limits=DecodeLimits(memory_bytes=1 << 30), analyser="odd_analysers:Leaking") as pool:
        results = list(pool.shape_all((number, FINE) for number in range(300)))
    assert sorted(tag for tag, _ in results) == list(range(300))  # type: ignore[type-var]
    workers = {result.face_detector if isinstance(result, Shaped) else result.code for _, result in results}
    assert len(workers) == 2
    assert all(worker is not None and worker.isdecimal() for worker in workers)


@pytest.mark.usefixtures("analysers")
def test_a_worker_that_is_killed_between_pictures_costs_none() -> None:
    """Whoever ends an idle worker ends no picture: it is done by a fresh one."""
    with DecodePool(1, analyser="odd_analysers:WhoAmI") as pool:
        pids = []
        for _ in range(3):
            ((_, result),) = pool.shape_all([("x", FINE)])
            assert isinstance(result, Shaped)
            pids.append(int(result.face_detector or "0"))
            os.kill(pids[-1], signal.SIGKILL)
            os.waitid(os.P_PID, pids[-1], os.WEXITED | os.WNOWAIT)
    assert len(set(pids)) == 3


def test_out_of_memory_costs_its_picture_and_its_worker() -> None:
    """After a picture that was too large for the memory the next one has the whole of it again."""
    noise = np.random.default_rng(0).integers(0, 2, (3000, 3000)).astype(bool)
    bomb, good = encoded(Image.fromarray(noise), "PNG"), encoded(picture(), "PNG")
    with DecodePool(1, limits=DecodeLimits(memory_bytes=20 << 20), queue_depth=4) as pool:
        for tag, body in enumerate([bomb, good, bomb, good, good]):
            pool.submit(tag, body)
        results = dict(pool.drain())
    assert [code_of(results[i]) for i in (1, 3, 4)] == ["ok"] * 3
    assert {code_of(results[i]) for i in (0, 2)} <= {"out-of-memory", "decoder-killed"}


def test_a_webp_that_is_too_large_for_the_memory_is_not_called_damaged() -> None:
    """libwebp fails alike for want of memory and for damage: what wants more than there may be ran out of memory."""
    large, good = encoded(picture(3000, 3000), "WEBP"), encoded(picture(), "WEBP")
    with DecodePool(1, limits=DecodeLimits(memory_bytes=40 << 20)) as pool:
        results = dict(pool.shape_all([("large", large), ("cut", good[: len(good) // 2]), ("good", good)]))
    assert {tag: code_of(result) for tag, result in results.items()} == {
        "large": "out-of-memory",
        "cut": code_of(results["cut"]),
        "good": "ok",
    }
    assert code_of(results["cut"]) in ("truncated", "corrupt")


@pytest.mark.usefixtures("analysers")
@pytest.mark.parametrize(
    ("analyser", "said"), [("odd_analysers:failing", "no weights"), ("nonsense", "module:factory")]
)
def test_an_analyser_that_cannot_start_is_the_callers_error(analyser: str, said: str) -> None:
    """A worker that cannot be set up raises where the pool is used, with the analyser's own words."""
    with DecodePool(1, analyser=analyser) as pool:
        pool.submit("x", GOOD)
        with pytest.raises(ConfigurationError, match=said):
            list(pool.drain())


@pytest.mark.usefixtures("analysers")
def test_a_worker_that_ends_while_it_starts_is_told() -> None:
    """A worker that dies of its analyser raises instead of being started for ever."""
    with DecodePool(1, analyser="odd_analysers:dying") as pool:
        pool.submit("x", GOOD)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="before it was ready"):
                list(pool.drain())


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"queue_depth": 0}, {"max_bytes": 0}])
def test_a_pool_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    """No workers, no queue and no memory are a wrong setting."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        DecodePool(**wrong)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


@pytest.mark.usefixtures("analysers")
def test_closing_leaves_nothing_behind() -> None:
    """Neither processes nor descriptors outlive a pool, with pictures in hand or after deaths."""
    before, children = _open_descriptors(), set(_children())
    for last in (FINE, CRASH, SLEEP):
        with DecodePool(2, analyser="odd_analysers:Killer") as pool:
            for number in range(10):
                pool.submit(number, FINE if number < 9 else last)
            if last is not SLEEP:
                list(pool.drain())
    assert set(_children()) == children
    assert len(_open_descriptors()) == len(before)


ORPHANED = """
import os, signal, sys
from curation.decode_pool import DecodePool
pool = DecodePool(1)
pool.submit("x", open(sys.argv[1], "rb").read())
list(pool.drain())
print(pool._workers[0].process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 of the crawl leaves no decoder behind."""
    (tmp_path / "x.jpg").write_bytes(GOOD)
    code = [sys.executable, "-c", ORPHANED, str(tmp_path / "x.jpg")]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    worker, gone_by = int(done.stdout), time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and b"Z" not in Path(f"/proc/{worker}/stat").read_bytes().split(b")")[-1]:
        assert time.monotonic() < gone_by
        time.sleep(0.05)
