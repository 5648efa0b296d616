"""Whether a picture that lies somewhere shows what was removed: by its bytes, its pixels, its PDQ in any orientation.

PDQ of small or flat pictures is near that of many others, so a picture counts only where it is nearer to one that was
removed than to any that stays; where it is as near to both it cannot be told, and is counted apart.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from curation.duplicates import MIN_QUALITY
from curation.fingerprints import pdq
from curation.images import DecodeError, DecodeLimits, decode, read_header
from flows.stages.removing.searching import Pattern, Search
from policy.turned_hashes import turned_hashes

Rgb = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]  # [N, 4]: hashes of 256 bits
Likeness = Literal["removed", "either", "other"]

_LIMITS: Final = DecodeLimits()
_WHOLE_PIXELS: Final = 4_000_000  # up to so many a picture is decoded as it is, more at a smaller scale
_SCALED_SIDE_PX: Final = 512


@dataclass(frozen=True, slots=True)
class RemovedPictures:
    """What pictures that were removed are known by, and what stays that looks like them.

    `file_sha256s`: of the renditions that were kept. `pixels`: CRC-32 and `pixels_sha256` of what they show. `rows`:
    some rows of pixels of each, as a grid without loss shows them. `pdqs`: of originals and renditions, hex; `staying`:
    of those that stay and are near. `max_distance`: in bits.
    """

    file_sha256s: frozenset[bytes] = field(default=frozenset(), repr=False)
    pixels: frozenset[tuple[int, bytes]] = field(default=frozenset(), repr=False)
    rows: tuple[frozenset[bytes], ...] = field(default=(), repr=False)
    pdqs: tuple[str, ...] = field(default=(), repr=False)
    staying: tuple[str, ...] = field(default=(), repr=False)
    max_distance: int = 31


class Pictures:
    """Removed pictures, as they are asked for; one a process."""

    def __init__(self, removed: RemovedPictures) -> None:
        self.removed = removed
        self._known: dict[bytes, Likeness] = {}

    @cached_property
    def _gone(self) -> Words:
        return _words([turned for one in self.removed.pdqs for turned in turned_hashes(one)])

    @cached_property
    def _staying(self) -> Words:
        return _words([turned for one in self.removed.staying for turned in turned_hashes(one)])

    @cached_property
    def _rows(self) -> Search:
        rows = frozenset().union(*self.removed.rows)
        return Search([Pattern(row.hex(), row) for row in rows])

    @cached_property
    def _pixels(self) -> Mapping[int, frozenset[bytes]]:
        found: dict[int, frozenset[bytes]] = {}
        for crc, digest in self.removed.pixels:
            found[crc] = found.get(crc, frozenset()) | {digest}
        return found

    def judge(self, body: bytes) -> Likeness:
        """What a picture's file shows. Raises DecodeError: it is none, or cannot be had within bounds."""
        digest = hashlib.sha256(body).digest()
        if (known := self._known.get(digest)) is None:
            if len(self._known) > 200_000:
                self._known.clear()
            known = self._known[digest] = self._judged(body, digest)
        return known

    def _has_pixels(self, rgb: Rgb) -> bool:
        """A CRC takes a quarter of the time of a digest, and most pictures are others."""
        known = self._pixels.get(zlib.crc32(rgb.data))
        return known is not None and pixels_sha256(rgb) in known

    def _holds_rows(self, rgb: Rgb) -> bool:
        """Whether it is a grid, or a larger picture, in which one of them stands pixel by pixel."""
        if not self.removed.rows:
            return False
        met = self._rows.in_bytes(rgb.data)
        return any(all(met[row.hex()] for row in rows) for rows in self.removed.rows)

    @classmethod
    def pixels_of(cls, rgb: Rgb) -> tuple[int, bytes]:
        """What `RemovedPictures.pixels` holds of a picture."""
        rgb = np.ascontiguousarray(rgb)
        return zlib.crc32(rgb.data), pixels_sha256(rgb)

    def _judged(self, body: bytes, digest: bytes) -> Likeness:
        header = read_header(body, _LIMITS)
        small = header.width * header.height <= _WHOLE_PIXELS
        rgb = np.ascontiguousarray(decode(body, _LIMITS, min_side_px=None if small else _SCALED_SIDE_PX))
        if digest in self.removed.file_sha256s or self._has_pixels(rgb):
            return "removed"
        if header.media_type == "image/png" and self._holds_rows(rgb):
            return "removed"
        if not len(self._gone):
            return "other"
        found, quality = pdq(rgb, (header.width, header.height))
        if quality < MIN_QUALITY:
            return "other"
        one = _words([found])
        away = _distance(one, self._gone)
        if away > self.removed.max_distance:
            return "other"
        from_staying = _distance(one, self._staying) if len(self._staying) else 257
        return "removed" if away < from_staying else "either" if away == from_staying else "other"


_ROW_PX: Final = 64
_DISTINCT: Final = 16  # bytes of a row that differ: one of background is in most pictures


def pixel_rows(rgb: Rgb) -> frozenset[bytes]:
    """Three rows of a picture, their first 64 pixels, those that are not flat; none if fewer than two are not."""
    rows = {rgb[number, :_ROW_PX].tobytes() for number in (rgb.shape[0] * n // 4 for n in (1, 2, 3))}
    found = frozenset(row for row in rows if len(set(row)) >= _DISTINCT)
    return found if len(found) > 1 else frozenset()


def pixels_sha256(rgb: Rgb) -> bytes:
    """Of size and pixels: what a copy without loss has in common with it, whatever its format."""
    digest = hashlib.sha256(f"{rgb.shape[1]}x{rgb.shape[0]} ".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.digest()


def _words(hashes: Sequence[str]) -> Words:
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 4)


def _distance(one: Words, others: Words) -> int:
    return int(np.bitwise_count(one ^ others).sum(axis=1, dtype=np.int16).min())


# ── where a picture ends that lies in the midst of other bytes ─────────────────────────────────────────────────────

NO_PICTURE: Final = -1
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOF: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def picture_end(what: str, view: memoryview, at: int) -> int | None:
    """The offset behind the picture that begins at `at`; None: the buffer ends before it, NO_PICTURE: it is none."""
    try:
        match what:
            case "jpeg":
                return _jpeg_end(view, at)
            case "png":
                return _png_end(view, at)
            case "gif":
                return _gif_end(view, at)
            case "webp":
                end = at + 8 + int.from_bytes(view[at + 4 : at + 8], "little")
                return (end if end <= len(view) else None) if bytes(view[at : at + 4]) == b"RIFF" else NO_PICTURE
            case _:
                return _avif_end(view, at)
    except IndexError:
        return None


def _jpeg_end(view: memoryview, at: int) -> int | None:
    """ITU-T T.81, annex B: segments up to a scan, entropy-coded data up to the next marker, until EOI."""
    place, has_frame = at + 2, False
    while True:
        if view[place] != 0xFF:
            return NO_PICTURE
        marker = view[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == 0xD9:
            return place + 2 if has_frame else NO_PICTURE
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            return NO_PICTURE
        else:
            length = view[place + 2] << 8 | view[place + 3]
            if length < 2:
                return NO_PICTURE
            has_frame = has_frame or marker in _SOF
            place += 2 + length
            if marker == 0xDA:
                if not has_frame:
                    return NO_PICTURE
                with view[place:] as scan:
                    found = _NEXT_MARKER.search(scan)
                    behind = found.start() if found else -1
                if behind < 0:
                    return None
                place += behind


def _png_end(view: memoryview, at: int) -> int | None:
    place = at + 8
    while True:
        length, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        if len(kind) < 4:
            return None
        if not kind.isalpha():
            return NO_PICTURE
        place += 12 + length
        if place > len(view):
            return None
        if kind == b"IEND":
            return place


def _gif_end(view: memoryview, at: int) -> int | None:
    """GIF89a: a palette, then extensions and images in sub-blocks, until the trailer."""
    place = at + 13 + _palette_bytes(view[at + 10])
    while True:
        match view[place]:
            case 0x3B:
                return place + 1
            case 0x21:
                place += 2
            case 0x2C:
                place += 11 + _palette_bytes(view[place + 9])
            case _:
                return NO_PICTURE
        while size := view[place]:
            place += size + 1
        place += 1


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _avif_end(view: memoryview, at: int) -> int | None:
    """ISO/IEC 14496-12: boxes of known kinds, one after another; behind the last stands something else."""
    if at < 0:
        return NO_PICTURE
    place, has_data = at, False
    while place + 8 <= len(view):
        size, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        if kind not in (b"ftyp", b"meta", b"mdat", b"free", b"skip", b"moov", b"uuid") or size < 8:
            return place if has_data else NO_PICTURE
        has_data = has_data or kind == b"mdat"
        place += size
    return place if has_data and place <= len(view) else None


def has_header(body: bytes) -> bool:
    """Whether a decoder takes the beginning of these bytes for that of a picture."""
    try:
        read_header(body, _LIMITS)
    except DecodeError as error:
        return error.code == "too-many-pixels"
    return True
