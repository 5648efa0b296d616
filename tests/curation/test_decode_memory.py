"""What a picture is said to take to be decoded, and what it takes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from curation.decode_memory import bytes_wanted, webp_bytes_wanted
from curation.decode_pool import _warm_up
from curation.images import read_header, shape
from curation.worker_pool import worker_environment
from tests.builders import ROOT
from tests.hostile import png

SIZE = (1600, 1200)
PIXELS = SIZE[0] * SIZE[1]
SLACK_BYTES = 16 << 20  # what is made of it, and what malloc keeps


def encoded(kind: str, mode: str = "RGB", **settings: object) -> bytes:
    held = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").convert(mode).save(held, kind, **settings)
    return held.getvalue()


def with_key(body: bytes, key: bytes) -> bytes:
    """A PNG with a colour that is transparent."""
    chunk = b"tRNS" + key
    at = body.index(b"IDAT") - 4
    return body[:at] + len(key).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + body[at:]


# Made on demand: a process that has made them has room for them left.
PICTURES: dict[str, Callable[[], bytes]] = {
    **{f"png {depth} {colour}": partial(png, *SIZE, depth, colour) for colour in (0, 2, 4, 6) for depth in (8, 16)},
    "png 8 3": lambda: png(*SIZE, 8, 3),
    "png 8 0 key": lambda: with_key(png(*SIZE, 8, 0), bytes(2)),
    "png 8 2 key": lambda: with_key(png(*SIZE, 8, 2), bytes(6)),
    "png 16 0 key": lambda: with_key(png(*SIZE, 16, 0), bytes(2)),
    "png 8 3 key": lambda: with_key(png(*SIZE, 8, 3), bytes(1)),
    "webp": lambda: encoded("WEBP", quality=30, method=0),
    "webp alpha": lambda: encoded("WEBP", "RGBA", quality=30, method=0),
    "webp lossless": lambda: encoded("WEBP", lossless=True, quality=0, method=0),
    "avif": lambda: encoded("AVIF", quality=30, speed=10),
    "avif alpha": lambda: encoded("AVIF", "RGBA", quality=30, speed=10),
    "gif": lambda: encoded("GIF", "P"),
    "jpeg": lambda: encoded("JPEG"),
    "jpeg grey": lambda: encoded("JPEG", "L"),
    "jpeg cmyk": lambda: encoded("JPEG", "CMYK"),
    "jpeg progressive": lambda: encoded("JPEG", progressive=True),
    "jpeg progressive 444": lambda: encoded("JPEG", progressive=True, subsampling=0),
    "jpeg progressive cmyk": lambda: encoded("JPEG", "CMYK", progressive=True),
}


def measure() -> None:
    """For each body of standard input, by length, how much address space its shaping took: as JSON."""
    _warm_up(None)
    took = []
    for length in json.loads(sys.stdin.buffer.readline()):
        body = sys.stdin.buffer.read(length)
        ours, theirs = os.pipe()
        if os.fork() == 0:  # a peak is never forgotten: each has a process
            before = _status_bytes("VmSize")
            shape(body)
            os.write(theirs, b"%d" % (_status_bytes("VmPeak") - before))
            os._exit(0)
        os.wait()
        took.append(int(os.read(ours, 100)))
        os.close(ours)
        os.close(theirs)
    print(json.dumps(took))


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    return {name: make() for name, make in PICTURES.items()}


@pytest.fixture(scope="module")
def took(bodies: dict[str, bytes]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.curation.test_decode_memory import measure; measure()"],
        input=json.dumps([*map(len, bodies.values())]).encode() + b"\n" + b"".join(bodies.values()),
        env=worker_environment(),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return dict(zip(bodies, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", PICTURES)
def test_no_picture_takes_more_than_is_said(bodies: dict[str, bytes], took: dict[str, int], name: str) -> None:
    """Of each kind of pixels, format and coding."""
    assert took[name] <= bytes_wanted(bodies[name], read_header(bodies[name])) + SLACK_BYTES


def test_a_jpeg_that_is_scaled_down_takes_no_more_than_its_bytes(bodies: dict[str, bytes]) -> None:
    """A photograph of any size is small work, but for one that comes in scans."""
    body, progressive = bodies["jpeg"], bodies["jpeg progressive"]
    assert bytes_wanted(body, read_header(body)) == len(body)
    assert bytes_wanted(progressive, read_header(progressive)) == len(progressive) + 8 * PIXELS
    fill = body[:2] + b"\xff\xff" + body[2:]
    assert bytes_wanted(fill, read_header(body)) == len(fill)


def test_what_no_frame_is_found_in_is_large(bodies: dict[str, bytes]) -> None:
    """A JPEG whose segments lead nowhere is held for the worst."""
    body = bodies["jpeg"]
    odd = body[:2] + b"\0" + body[2:]
    assert bytes_wanted(odd, read_header(body)) == len(odd) + 8 * PIXELS


@pytest.mark.parametrize(
    "settings", [{"quality": 30}, {"lossless": True}, {"mode": "RGBA"}, {"exif": b"Exif\0\0II*\0"}]
)
def test_a_webp_is_measured_without_being_opened(settings: dict[str, object]) -> None:
    """Lossy, lossless and extended files say by their own first bytes what they do when they are opened."""
    body = encoded("WEBP", **settings)  # type: ignore[arg-type]
    assert webp_bytes_wanted(body) == bytes_wanted(body, read_header(body))


@pytest.mark.parametrize("body", [b"", b"RIFF", b"RIFF\0\0\0\0WEBPVP8X", encoded("JPEG"), encoded("GIF", "P")])
def test_what_is_no_webp_wants_nothing_as_one(body: bytes) -> None:
    """Other formats, and what ends before it says its size, are measured otherwise."""
    assert webp_bytes_wanted(body) <= len(body) + 16
