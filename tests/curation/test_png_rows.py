"""PNGs that end in good order, but before all their rows are there."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.png_rows import _PASSES, rows_are_missing
from tests.hostile import png

KINDS = [
    (1, 0),
    (2, 0),
    (4, 0),
    (8, 0),
    (16, 0),
    (8, 2),
    (16, 2),
    (1, 3),
    (4, 3),
    (8, 3),
    (8, 4),
    (16, 4),
    (8, 6),
    (16, 6),
]


def missing(body: bytes) -> bool:
    """Pillow itself says so where not a single row is there."""
    with Image.open(io.BytesIO(body), formats=("PNG",)) as image:
        try:
            image.load()
        except OSError as error:
            return "truncated" in str(error)
        return rows_are_missing(body, image)


def interlaced(width: int, height: int, *, without_bytes: int, grey: int = 7) -> bytes:
    """A grey PNG of one colour, its rows in Adam7 order, the last bytes of them left out."""
    rows = bytearray()
    for x, y, dx, dy in _PASSES:
        across, down = len(range(x, width, dx)), len(range(y, height, dy))
        rows += (b"\0" + bytes([grey]) * across) * down if across else b""
    body = png(width, height, 8, 0, rows=0)
    data = zlib.compress(bytes(rows[: len(rows) - without_bytes]))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)), (b"IDAT", data), (b"IEND", b"")]
    return body[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(("depth", "colour"), KINDS)
def test_missing_rows_are_seen_at_any_depth(depth: int, colour: int) -> None:
    """Of a black picture, whose last row looks like none, in every kind of pixel; a whole one is whole."""
    for rows in (1, 7, 12):
        assert missing(png(21, 13, depth, colour, rows=rows))
    assert not missing(png(21, 13, depth, colour))


@given(st.integers(1, 20), st.integers(2, 20), st.integers(0, 19), st.sampled_from([1, 2, 3, 4]))
@settings(deadline=None, max_examples=60)
def test_a_row_is_missing_or_it_is_not(width: int, height: int, rows: int, channels: int) -> None:
    """Whatever stands in the rows: fewer than declared are missing, all of them or more are not."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    noise = (
        np.random.default_rng(rows)
        .integers(0, 3, (height, width, channels), dtype=np.uint8)
        .squeeze(2 if channels == 1 else ())
    )
    held = io.BytesIO()
    Image.fromarray(noise, mode).save(held, "PNG")
    whole = held.getvalue()
    assert not missing(whole)
    said = struct.unpack_from(">II", whole, 16)
    assert said == (width, height)
    header = bytearray(whole[8:33])
    struct.pack_into(">I", header, 12, rows + 1)  # fewer rows declared, or more
    struct.pack_into(">I", header, 21, zlib.crc32(bytes(header[4:21])))
    assert missing(whole[:8] + bytes(header) + whole[33:]) == (rows + 1 > height)


@pytest.mark.parametrize(("width", "height"), [*itertools.product((1, 2, 3, 5, 8, 9, 16), repeat=2)])
def test_missing_rows_are_seen_in_any_pass(width: int, height: int) -> None:
    """Interlaced, in all sizes that leave passes out: a byte too few is missing, none is not."""
    assert not missing(interlaced(width, height, without_bytes=0))
    assert missing(interlaced(width, height, without_bytes=1))


def test_what_the_tests_mean_by_interlaced_is_what_pillow_reads() -> None:
    """Every pixel of the tests' interlaced pictures is where it belongs."""
    body = interlaced(9, 9, without_bytes=0, grey=200)
    with Image.open(io.BytesIO(body)) as image:
        assert image.info["interlace"] == 1
        assert image.getextrema() == (200, 200)


def test_many_small_chunks_are_one_stream() -> None:
    """The data may be cut into chunks anywhere, empty ones among them."""
    whole, cut = png(300, 200), png(300, 200, rows=199)
    for body, expected in ((whole, False), (cut, True)):
        at = body.index(b"IDAT")
        length = struct.unpack_from(">I", body, at - 4)[0]
        data = body[at + 4 : at + 4 + length]
        pieces = [data[i : i + 7] for i in range(0, length, 7)] + [b""]
        chunks = b"".join(
            struct.pack(">I", len(piece)) + b"IDAT" + piece + struct.pack(">I", zlib.crc32(b"IDAT" + piece))
            for piece in pieces
        )
        assert missing(body[: at - 4] + chunks + body[at + 8 + length :]) == expected


def test_a_large_picture_is_counted_in_pieces() -> None:
    """A picture of 49 megapixels without rows costs no more than the row that is looked at."""
    assert missing(png(7000, 7000, rows=5))
