"""What a picture costs between the fetch and the pixel store: each step, the whole, the pool around it, the store.

CPU in milliseconds a picture, best of five rounds over the crawl benchmark's pictures; and how far the shortcuts are
from doing it at full size.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pdqhash  # type: ignore[import-untyped]  # it ships no types
from PIL import Image

from curation import images
from curation.decode_pool import DecodePool
from curation.fingerprints import hamming, pdq, pdq_of_luma, sha256
from curation.images import DecodeLimits, ShapeConfig, decode, encode_jpeg, shape
from curation.pixel_store import PixelStore
from curation.worker_pool import worker_environment
from policy.durable import write_durably
from policy.signals.c2pa import read_c2pa
from policy.signals.embedded import read_embedded
from tests.benchmarks.crawl_site import make_bases
from tests.benchmarks.table import Table

ROUNDS = 5
SIZES = ("512", "1600")
SIZE_PX = ShapeConfig().size_px


def run() -> Table:
    """A column for each size of picture, a row for each step."""
    # A process of its own, with a worker's settings of malloc.
    code = "import json; from tests.benchmarks.pictures import measured; print(json.dumps(measured()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=worker_environment(), stdout=subprocess.PIPE, check=True)
    return Table(("ms of CPU a picture", *(f"{size} px" for size in SIZES)), json.loads(done.stdout))


def measured() -> list[tuple[str, ...]]:
    """The rows."""
    with tempfile.TemporaryDirectory() as folder:
        columns = [dict(_column(Path(folder), size)) for size in SIZES]
    return [(row, *(column[row] for column in columns)) for row in columns[0]]


def _column(folder: Path, size: Any) -> Iterator[tuple[str, str]]:
    bodies = [path.read_bytes() for path in sorted(make_bases(folder, size).iterdir())][:32]
    side = int(size)
    yield "KB a picture", f"{sum(map(len, bodies)) / len(bodies) / 1000:.0f}"

    opened = [images._open(body, DecodeLimits()) for body in bodies]
    decoded = [images._decoded(b, *o, SIZE_PX) for b, o in zip(bodies, opened, strict=True)]
    kept = [images._shrunk(picture, (side, side), SIZE_PX / side).convert("RGB") for picture in decoded]
    lumas = [np.asarray(picture.convert("L")) for picture in kept]
    pixels = [np.asarray(picture) for picture in kept]
    steps: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [
        (
            "decode, scaled in the DCT domain",
            lambda b: images._decoded(b, *images._open(b, DecodeLimits()), SIZE_PX),
            bodies,
        ),
        ("shrink", lambda p: images._shrunk(p, (side, side), SIZE_PX / side), decoded),
        ("PDQ", lambda luma: pdq_of_luma(luma, (side, side)), lumas),
        ("encode", encode_jpeg, pixels),
        ("sha256", sha256, bodies),
        ("md5", lambda b: hashlib.md5(b, usedforsecurity=False).digest(), bodies),
        ("rights fields (policy)", read_embedded, bodies),
        ("manifest store (policy)", read_c2pa, bodies),
        ("all of it: shape()", shape, bodies),
    ]
    for what, step, given in steps:
        yield what, f"{_cpu_ms(step, given):.2f}"

    pool = [_pooled(bodies * 8) for _ in range(2)]
    yield "the pool: in its worker", f"{min(worker for worker, _ in pool):.2f}"
    yield "the pool: in its parent", f"{min(parent for _, parent in pool):.2f}"

    named = [(sha256(body), shape(body).jpeg) for body in bodies]
    store, other = PixelStore(folder / f"pixels-{size}"), folder / f"one-by-one-{size}"
    begun = time.process_time()
    for key, jpeg in named:
        store.put(key, jpeg)
    store.settle()
    yield "PixelStore: put, settle at the end", f"{(time.process_time() - begun) / len(named) * 1e3:.2f}"
    begun = time.process_time()
    for key, jpeg in named:
        write_durably(other / key, jpeg)
    yield "the same, each made durable by itself", f"{(time.process_time() - begun) / len(named) * 1e3:.2f}"

    full = [decode(body) for body in bodies]
    psnr = [_psnr(np.asarray(_lanczos(f, k.size)), np.asarray(k)) for f, k in zip(full, kept, strict=True)]
    yield (
        "PSNR before encoding, against Lanczos from full size: mean, least",
        f"{np.mean(psnr):.1f}, {min(psnr):.1f} dB",
    )
    bits = [hamming(pdq(p, (side, side))[0], _reference(f)) for p, f in zip(pixels, full, strict=True)]
    yield "PDQ, bits from pdqhash at full size: mean, most", f"{np.mean(bits):.1f}, {max(bits)}"


def _cpu_ms(step: Callable[[Any], object], given: Sequence[Any]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for each in given:
            step(each)
        rounds.append(time.process_time() - begun)
    return min(rounds) / len(given) * 1e3


def _pooled(bodies: Sequence[bytes]) -> tuple[float, float]:
    """CPU of the worker and of its parent, ms a picture; start-up is not counted."""
    with DecodePool(1) as pool:
        list(pool.shape_all((n, body) for n, body in enumerate(bodies[:8])))
        (worker,) = pool._workers
        assert worker is not None
        before, begun = _clock_of(worker.process.pid), time.process_time()
        for n, body in enumerate(bodies):
            pool.submit(n, body)
        list(pool.drain())
        parent, after = time.process_time() - begun, _clock_of(worker.process.pid)
    return (after - before) / len(bodies) * 1e3, parent / len(bodies) * 1e3


def _clock_of(pid: int) -> float:
    """Seconds of CPU that another process has used, to the nanosecond (its scheduler statistics)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _lanczos(rgb: images.Rgb, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS)


def _psnr(one: images.Rgb, other: images.Rgb) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def _reference(rgb: images.Rgb) -> str:
    bits, _ = pdqhash.compute(np.ascontiguousarray(rgb))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()
