"""Whether a PNG holds all the rows that it declares.

Pillow says nothing where a PNG's compressed data end in good order but too early, as other readers do: the rows that
are not there stay zero. It fills a picture's memory with zeros before it decodes, and writes whole rows, so where the
last row is not all zero every row before it was there. Else, or where the rows come interlaced, the data are unpacked
once more and counted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

_PIECE_BYTES = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG, third edition, 11.2.1)
# Where the seven passes of an interlaced picture begin and how far apart their pixels lie: x, y, dx, dy (8.1, Adam7).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def rows_are_missing(body: bytes, image: Image.Image) -> bool:
    """Whether fewer rows came out of a PNG than it declares; `image` is what Pillow has loaded of it, not converted."""
    header = _Header.of(body)
    if not header.interlaced:
        last = image.crop((0, image.height - 1, image.width, image.height))
        if last.tobytes().strip(b"\0"):
            return False
    return _unpacked_bytes(body, header.data_bytes) < header.data_bytes


@dataclass(frozen=True, slots=True)
class _Header:
    """The IHDR chunk, which comes first in every PNG."""

    width: int
    height: int
    bits_per_pixel: int
    interlaced: bool

    @classmethod
    def of(cls, body: bytes) -> _Header:
        width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", body, 16)
        return cls(width, height, depth * _CHANNELS[colour], interlace != 0)

    @property
    def data_bytes(self) -> int:
        """What all rows take, each with the byte that names its filter (7.2, 9.2)."""
        if not self.interlaced:
            return self._rows_bytes(self.width, self.height)
        return sum(
            self._rows_bytes((self.width - x + dx - 1) // dx, (self.height - y + dy - 1) // dy)
            for x, y, dx, dy in _PASSES
            if x < self.width and y < self.height
        )

    def _rows_bytes(self, width: int, height: int) -> int:
        return height * (1 + (width * self.bits_per_pixel + 7) // 8)


def _unpacked_bytes(body: bytes, enough: int) -> int:
    """How many bytes the picture's data are unpacked; no more are counted than are enough, or come before damage."""
    inflate = zlib.decompressobj()
    unpacked = 0
    for data in _picture_data(body):
        packed: bytes | memoryview = data
        while packed and not inflate.eof and unpacked < enough:
            try:
                unpacked += len(inflate.decompress(packed, _PIECE_BYTES))
            except zlib.error:
                return unpacked
            packed = inflate.unconsumed_tail
    # What the last piece left inside it comes without more input.
    while not inflate.eof and unpacked < enough and (more := inflate.decompress(b"", _PIECE_BYTES)):
        unpacked += len(more)
    return unpacked


def _picture_data(body: bytes) -> Iterator[memoryview]:
    """The contents of the IDAT chunks, one after the other."""
    view = memoryview(body)
    position = 8
    while position + 8 <= len(body):
        length, kind = struct.unpack_from(">I4s", body, position)
        if kind == b"IDAT":
            yield view[position + 8 : position + 8 + length]
        position += 12 + length
