"""Many byte patterns at once in what is read: in streams, across every border of a chunk, and in columns of values.

One automaton (Aho and Corasick, "Efficient string matching", CACM 1975; the Rust crate by way of ahocorasick-rs) holds
the forms of all needles and the first bytes of pictures. What it finds is counted by kind; nothing that is searched for
leaves this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = "bytes | bytearray | memoryview"

CHUNK_BYTES: Final = 4 << 20
MAX_PICTURE_BYTES: Final = 32 << 20  # of one that lies in the midst of other bytes
_LOOKAHEAD: Final = 2  # bytes behind a match that say whether it is the whole of a name


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bytes to look for. `whole`: found only where the name does not go on, before it or behind it.

    A URL that is the beginning of another one, which may stay, is looked for so. `folded`: a text, found as well where
    its words are parted by other white space.
    """

    kind: str
    value: bytes = field(repr=False)
    whole: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something begins that is looked into: a picture, or data in base64. `at`: its offset in what was given."""

    what: str
    at: int


# First bytes, and how far before them the thing begins.
_MARKS: Final[tuple[tuple[bytes, str, int], ...]] = (
    (b"\xff\xd8\xff", "jpeg", 0),
    (b"\x89PNG\r\n\x1a\n", "png", 0),
    (b"GIF87a", "gif", 0),
    (b"GIF89a", "gif", 0),
    (b"WEBPVP8", "webp", 8),
    (b"ftypavif", "avif", 4),
    (b"ftypavis", "avif", 4),
    (b"ftypmif1", "avif", 4),
    (b";base64,", "base64", 0),
)

_LONGEST_MARK: Final = 16  # with what lies before it

OnMark = Callable[[Mark, memoryview, bool], int | None]
"""Looks into what begins at a mark in this buffer; the last argument: nothing follows the buffer. None: more of it is
needed, else anything."""


class Search:
    """The patterns as an automaton. Cheap to ask, not to make: make one a process."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        from ahocorasick_rs import BytesAhoCorasick

        self.patterns = tuple(patterns)
        self._longest = max([_LONGEST_MARK, *(len(p.value) for p in self.patterns)])
        self._automaton: Any = BytesAhoCorasick([p.value for p in self.patterns] + [mark for mark, *_ in _MARKS])
        self._spaced = tuple(p for p in self.patterns if p.folded and b" " in p.value)
        self._folding: Any = BytesAhoCorasick([p.value for p in self._spaced]) if self._spaced else None

    # ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def in_bytes(self, data: Bytes) -> Counter[str]:
        """How often each kind is found in a piece that is whole by itself: a name, a value."""
        found: Counter[str] = Counter()
        view = memoryview(data).cast("B")
        for pattern, start, end in self._matches(view):
            if pattern < len(self.patterns) and self._counts(pattern, view, start, end):
                found[self.patterns[pattern].kind] += 1
        return found | self._in_folded(view)

    def in_stream(self, read: Callable[[int], Bytes], on_mark: OnMark | None = None) -> tuple[Counter[str], int]:
        """How often each kind is found in all that `read(n)` gives until it gives nothing, and how many bytes it was.

        Memory: some chunks, and as much as the largest picture. A match is counted once, wherever chunks meet.
        """
        found: Counter[str] = Counter()
        held = bytearray()
        base = seen = 0  # offset of `held`, and up to where matches were counted
        waiting: list[Mark] = []  # by their offset in the whole
        final = False
        while not final:
            chunk = read(CHUNK_BYTES)
            final = not len(memoryview(chunk))
            held += chunk
            safe = len(held) if final else max(0, len(held) - _LOOKAHEAD)
            with memoryview(held) as view:
                if on_mark is not None:
                    waiting = [m for m in waiting if not self._looked(on_mark, m, base, view, final)]
                first = max(0, seen - base - self._longest)
                with view[first:] as fresh:
                    for pattern, start, end in self._matches(fresh):
                        start, end = start + first, end + first
                        if end > safe or base + end <= seen:
                            continue
                        if pattern < len(self.patterns):
                            found[self.patterns[pattern].kind] += self._counts(pattern, view, start, end)
                        elif on_mark is not None:
                            mark = _mark(pattern - len(self.patterns), base + start)
                            if not self._looked(on_mark, mark, base, view, final):
                                waiting.append(mark)
                    found |= self._in_folded(fresh)
            seen = base + safe
            keep = min([seen - self._longest - 1, *(m.at for m in waiting)])
            if keep > base:
                del held[: keep - base]
                base = keep
        return found, base + len(held)

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────

    def in_values(self, data: Bytes, offsets: npt.NDArray[np.int64], on_mark: OnMark | None = None) -> Counter[str]:
        """The same in values that lie one behind the other: value i is data[offsets[i]:offsets[i + 1]]; none runs over.

        No white space is made equal here: `in_folded_values` does that for texts.
        """
        found: Counter[str] = Counter()
        view = memoryview(data).cast("B")
        for pattern, start, end, begin, stop in self._placed(view, offsets):
            with view[begin:stop] as value:
                if pattern < len(self.patterns):
                    found[self.patterns[pattern].kind] += self._counts(pattern, value, start, end)
                elif on_mark is not None and (mark := _mark(pattern - len(self.patterns), start)).at >= 0:
                    on_mark(mark, value, True)
        return found | self._in_folded(view)

    def places_in(self, texts: Any) -> Iterator[tuple[int, bytes, int, int]]:
        """(number of the pattern, value, from where to where in it) of an Arrow array of strings."""
        data, offsets = texts_of(texts)
        for pattern, start, end, begin, stop in self._placed(data, offsets):
            if pattern < len(self.patterns):
                yield pattern, bytes(data[begin:stop]), start, end

    def _placed(self, view: memoryview, offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int, int, int]]:
        """(pattern, start and end within a value, where the value begins and stops in the whole)."""
        if len(offsets) < 2 or offsets[-1] == offsets[0]:
            return
        first = int(offsets[0])
        ends = offsets[1:]
        with view[first : int(offsets[-1])] as part:
            for pattern, start, end in self._matches(part):
                row = int(np.searchsorted(ends, start + first, side="right"))
                begin, stop = int(ends[row - 1]) if row else first, int(ends[row])
                if end + first <= stop:
                    yield pattern, start + first - begin, end + first - begin, begin, stop

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _matches(self, view: memoryview) -> Iterator[tuple[int, int, int]]:
        return iter(self._automaton.find_matches_as_indexes(view, overlapping=True))

    def _counts(self, pattern: int, view: memoryview, start: int, end: int) -> bool:
        return not self.patterns[pattern].whole or not (_goes_on_before(view, start) or _goes_on_behind(view, end))

    def _in_folded(self, view: memoryview) -> Counter[str]:
        """What texts hold whose white space is another; of what is no text, nothing."""
        found: Counter[str] = Counter()
        begun = bytes(view[:4096])
        if self._folding is None or begun.count(0) * 20 > len(begun):
            return found
        text = view.tobytes()
        if b"\n" in text or b"\t" in text or b"  " in text:
            for pattern, _, _ in self._folding.find_matches_as_indexes(b" ".join(text.split())):
                found[self._spaced[pattern].kind] += 1
        return found

    @staticmethod
    def _looked(on_mark: OnMark, mark: Mark, base: int, view: memoryview, final: bool) -> bool:
        """Whether a mark is settled: looked into, or too far back to be held any longer."""
        at = mark.at - base
        if at < 0:
            return True
        whole = final or len(view) - at >= MAX_PICTURE_BYTES
        return on_mark(Mark(mark.what, at), view, whole) is not None or whole


def texts_of(array: Any) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """The bytes of an Arrow array of strings or binaries (not of views), and where in them each value begins and ends.

    What is null has no bytes.
    """
    import pyarrow as pa

    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return memoryview(b""), np.zeros(0, np.int64)
    starts = np.frombuffer(offsets, np.int64 if large else np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data).cast("B"), starts.astype(np.int64)


def _mark(number: int, start: int) -> Mark:
    _, what, back = _MARKS[number]
    return Mark(what, start - back)


_IN_NAMES: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_~%")
_AFTER_NAMES: Final = _IN_NAMES | frozenset(b"/?#&=+")


def _goes_on_before(view: memoryview, start: int) -> bool:
    """Whether a URL without its scheme, or a path, is but the end of a longer one."""
    return start > 0 and (view[start - 1] in _IN_NAMES or view[start - 1] == ord("."))


def _goes_on_behind(view: memoryview, end: int) -> bool:
    """Whether a URL is but the beginning of a longer one. A full stop or a colon belongs to it if a letter follows."""
    if end >= len(view):
        return False
    if view[end] in b".:":
        return end + 1 < len(view) and view[end + 1] in _IN_NAMES
    return view[end] in _AFTER_NAMES
