"""Near hashes among millions: every pair within a distance, in all eight orientations, without comparing all.

Of two hashes of 256 bits that differ in at most d, cut into m chunks of which chunk i may differ in t_i, some chunk
differs in no more than its t_i as long as the sum of all t_i + 1 is over d (Norouzi, Punjani and Fleet, "Fast search in
Hamming space with multi-index hashing", CVPR 2012; the unequal t_i are the generalised pigeonhole of Qin et al., ICDE
2018). Looking up every chunk and its neighbours therefore misses none.

A mirrored or turned picture negates or swaps whole classes of PDQ's cosine coefficients: those of odd frequency across,
those of odd frequency down (curation/fingerprints.py). Bits are kept class by class here, a 64-bit word each, so that a
chunk lies within one class: it is itself or its complement in every orientation, and the distances in four orientations
follow from one comparison. What is found is what comparing with `fingerprints.turned_hash` of each orientation finds.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]  # [N, 4]: a word for each class of coefficients

MAX_DISTANCE: Final = 47  # beyond it so many neighbours are looked up that comparing all is quicker
_CHUNKS: Final = ((0, 21), (21, 21), (42, 22))  # of each word: first bit and number of bits
_COMPARED_ROWS: Final = 4_096  # so few are compared outright
_AT_ONCE: Final = 64  # queries of which one chunk is looked up at once
_BLOCK: Final = 4_096  # queries looked up at once
_PAIRS_AT_ONCE: Final = 4_000_000

# Which bits of a hash (row by row of 16 x 16 coefficients) belong to each class. Row and column r hold frequency r + 1.
_PLACE = np.arange(256).reshape(16, 16)
_CLASSES = tuple(_PLACE[row::2, column::2].ravel() for row, column in ((1, 1), (0, 1), (1, 0), (0, 0)))
_ORDER = np.concatenate(_CLASSES)
_TRANSPOSED = np.concatenate([_PLACE.T[row::2, column::2].ravel() for row, column in ((1, 1), (0, 1), (1, 0), (0, 0))])
# Turning upside down negates classes 1 and 3, mirroring classes 2 and 3: which words are complemented by each.
_FLIPS: Final = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]], dtype=np.int16)
# The orientation, as `fingerprints.pdq_orientations` numbers them, of (transposed, flip).
_ORIENTATION: Final = np.array([[0, 6, 4, 2], [5, 1, 3, 7]], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs of near hashes: rows of the queries and of the index, bits that differ, orientation in which they do."""

    query: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    distance: npt.NDArray[np.uint8]
    orientation: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.query)


def words_of(hashes: Sequence[str]) -> Words:
    """Hashes of 64 hex digits as they are looked up: uint64 [N, 4]. Raises ValueError for what is no hash."""
    if not hashes:
        return np.empty((0, 4), np.uint64)
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)
    if raw.size != 32 * len(hashes) or any(len(one) != 64 for one in hashes):
        raise ValueError("a PDQ hash has 64 hex digits")
    return _packed(_bits(raw.reshape(-1, 32)), _ORDER)


def transposed(words: Words) -> Words:
    """The words of the pictures mirrored along their diagonal."""
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    back = np.empty_like(bits)
    back[:, _ORDER] = bits
    return _packed(back, _TRANSPOSED)


def _bits(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A bit a coefficient, [N, 256]; `fingerprints` packs them last one first."""
    return np.unpackbits(raw, axis=1)[:, ::-1]


def _packed(bits: npt.NDArray[np.uint8], order: npt.NDArray[np.int64]) -> Words:
    packed = np.packbits(bits[:, order], axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def distances(one: Words, other: Words, *, turned: bool = True) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Bits that differ of rows that stand for each other, and which of four flips (0: none) makes them so few."""
    counts = np.bitwise_count(one ^ other).astype(np.int16)
    if not turned:
        return counts.sum(axis=1, dtype=np.int16), np.zeros(len(counts), np.uint8)
    flipped = np.stack([np.where(flip, 64 - counts, counts).sum(axis=1, dtype=np.int16) for flip in _FLIPS], axis=1)
    best = flipped.argmin(axis=1)
    return flipped[np.arange(len(best)), best], best.astype(np.uint8)


class HashIndex:
    """Hashes asked for what is near them; `turned`: in all eight orientations. About 250 bytes a hash at a million."""

    def __init__(self, words: Words, max_distance: int, *, turned: bool = True) -> None:
        if not 0 <= max_distance <= MAX_DISTANCE:
            raise ValueError(f"a distance of 0 to {MAX_DISTANCE} bits can be looked up, not {max_distance}")
        self._words, self._max, self._turned = words, max_distance, turned
        self._columns = [np.ascontiguousarray(words[:, word]) for word in (0, 1)]
        self._tables: list[_Table] = []
        if len(words) > _COMPARED_ROWS:
            places = [(word, *chunk) for word in range(4) for chunk in _CHUNKS]
            spare, more = divmod(max_distance + 1, len(places))
            for number, (word, first, bits) in enumerate(places):
                # The words that are never complemented are looked up once: they come first, and may differ in more.
                near = spare + (number < more) - 1
                if near >= 0:
                    self._tables.append(_Table(words, word, first, bits, near))

    def near(self, queries: Words, *, most: int = 16, threads: int = 0) -> NearPairs:
        """Every pair within the distance, of each query the `most` nearest, nearest first.

        `threads`: as many blocks of queries are looked up at once; 0: as many as there are cores.
        """
        starts = range(0, len(queries), _BLOCK)
        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(lambda start: self._near(queries[start : start + _BLOCK], start, most), starts))
        if not found:
            nothing = np.empty(0, np.int64)
            return NearPairs(nothing, nothing, nothing.astype(np.uint8), nothing.astype(np.uint8))
        columns = zip(*((p.query, p.row, p.distance, p.orientation) for p in found), strict=True)
        return NearPairs(*(np.concatenate(column) for column in columns))

    def _near(self, queries: Words, start: int, most: int) -> NearPairs:
        parts = []
        for turn in (0, 1) if self._turned else (0,):
            asked = transposed(queries) if turn else queries
            for query, row in self._candidates(asked):
                query, row = self._not_far(asked, query, row)
                bits, flip = distances(asked[query], self._words[row], turned=self._turned)
                near = bits <= self._max
                parts.append((query[near], row[near], bits[near], _ORIENTATION[turn, flip[near]]))
        query, row, bits, orientation = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Each pair once, in its nearest orientation, and of each query the nearest ones.
        order = np.lexsort((orientation, bits, row, query))
        query, row, bits, orientation = query[order], row[order], bits[order], orientation[order]
        fresh = np.ones(len(query), np.bool_)
        fresh[1:] = (query[1:] != query[:-1]) | (row[1:] != row[:-1])
        query, row, bits, orientation = query[fresh], row[fresh], bits[fresh], orientation[fresh]
        order = np.lexsort((row, bits, query))
        query, row, bits, orientation = query[order], row[order], bits[order], orientation[order]
        kept = np.arange(len(query)) - np.searchsorted(query, query) < most
        return NearPairs(
            query[kept] + start, row[kept].astype(np.int64), bits[kept].astype(np.uint8), orientation[kept]
        )

    def _not_far(self, asked: Words, query: Rows, row: Rows) -> tuple[Rows, Rows]:
        """Those whose first two words alone do not differ in too much: most are settled by 16 of their 32 bytes."""
        least = np.zeros(len(query), np.uint8)
        for word in (0, 1):
            other = np.bitwise_count(self._columns[word].take(row) ^ np.ascontiguousarray(asked[:, word]).take(query))
            least = least + (np.minimum(other, 64 - other) if word and self._turned else other)
            near = np.flatnonzero(least <= self._max)
            query, row, least = query.take(near), row.take(near), least.take(near)
        return query, row

    def _candidates(self, asked: Words) -> Iterator[tuple[Rows, Rows]]:
        if not self._tables:
            rows = max(1, _PAIRS_AT_ONCE // max(1, len(self._words)))
            for start in range(0, len(asked), rows):
                count = min(rows, len(asked) - start)
                yield (
                    np.repeat(np.arange(start, start + count), len(self._words)),
                    np.tile(np.arange(len(self._words)), count),
                )
            return
        for table in self._tables:
            yield from table.sharing(asked, both=self._turned)


class _Table:
    """Rows by the value of one chunk: where a value begins, how many have it, and the rows themselves.

    Looked up are some thousand values a query, so what is read for each is kept small enough for the caches.
    """

    def __init__(self, words: Words, word: int, first: int, bits: int, near: int) -> None:
        self._word, self._first, self._bits = word, first, bits
        values = self._values(words)
        self._rows = np.argsort(values, kind="stable").astype(np.uint32)
        counts = np.bincount(values, minlength=1 << bits)
        self._starts = np.zeros((1 << bits) + 1, np.uint32)
        np.cumsum(counts, out=self._starts[1:])
        self._any = counts > 0
        self._complement = np.intp((1 << bits) - 1)
        flips = [sum(1 << bit for bit in set_) for n in range(near + 1) for set_ in combinations(range(bits), n)]
        self._flips = np.array(flips, np.intp)

    def _values(self, words: Words) -> npt.NDArray[np.intp]:
        mask = np.uint64((1 << self._bits) - 1)
        return ((words[:, self._word] >> np.uint64(self._first)) & mask).astype(np.intp)

    def sharing(self, asked: Words, *, both: bool) -> Iterator[tuple[Rows, Rows]]:
        """(query, row) of all that share this chunk, or nearly so; `both`: or its complement, where it may be one."""
        for start in range(0, len(asked), _AT_ONCE):
            values = self._values(asked[start : start + _AT_ONCE])
            for seen in (values, values ^ self._complement) if both and self._word else (values,):
                for query, row in self._with(seen):
                    yield query + start, row

    def _with(self, seen: npt.NDArray[np.intp]) -> Iterator[tuple[Rows, Rows]]:
        near = (seen[:, None] ^ self._flips).ravel()
        hit = np.flatnonzero(self._any.take(near))
        value = near.take(hit)
        query, first = hit // len(self._flips), self._starts.take(value).astype(np.int64)
        count = self._starts.take(value + 1).astype(np.int64) - first
        # A value that very many share is taken in parts.
        ends = np.cumsum(count)
        full = np.arange(_PAIRS_AT_ONCE, int(ends[-1]) if len(ends) else 0, _PAIRS_AT_ONCE)
        for low, high in itertools.pairwise((0, *np.searchsorted(ends, full).tolist(), len(hit))):
            some = count[low:high]
            if total := int(some.sum()):
                place = np.arange(total) + np.repeat(first[low:high] - (np.cumsum(some) - some), some)
                yield np.repeat(query[low:high], some), self._rows.take(place).astype(np.int64)
