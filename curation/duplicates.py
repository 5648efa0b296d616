"""Which pictures are one, among many: each near duplicate is matched, directly and by its pixels, to a representative.

Candidates come from PDQ hashes (curation/hash_index.py: recompressed, rescaled, mirrored and turned copies) and from
embeddings (curation/near_embedding.py: crops, borders, words laid over); both only propose, since by either alone an
emoji is its neighbour's copy. What decides is the comparison of pixels (curation/geometry.py).

Pictures are gone through in a fixed order, and each is held against the representatives before it alone: so a match is
always direct, and a chain of pictures, each a little like the next, never becomes one. A candidate that is itself a
duplicate is replaced by what stands for it. What was matched before stays, so that a run over known pictures and new
ones says of the known what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.geometry import Sketch, same, sketch
from curation.hash_index import HashIndex, words_of
from curation.near_embedding import Vectors, nearest

Rgb = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

MIN_QUALITY: Final = 50  # of PDQ: below it a hash says hardly anything (the reference's own bound)
MIN_COSINE: Final = 0.8  # crops of 10 % lie above 0.85, of 25 % mostly above 0.8 (docs/benchmarks.md, duplicates)
NEIGHBOURS: Final = 8  # of a picture, by each of the two ways
COMPARED: Final = 8  # representatives that a picture is held against at most
_SKETCHES: Final = 2_048  # of 70 KB each


@dataclass(frozen=True, slots=True)
class Match:
    """What stands for a picture: `representative` is its place in the order, its own where it stands for itself.

    `method`: how it was proposed, pdq or embedding, with "-turned" for another orientation; "" for itself. `distance`:
    of the pixels, one less the correlation over the overlap.
    """

    representative: int
    method: str = ""
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidates:
    """Whom each picture may be a duplicate of: places before its own, likeliest first, and how they were proposed."""

    starts: Places
    others: Places
    by_pdq: npt.NDArray[np.bool_]

    def of(self, place: int) -> Iterator[tuple[int, bool]]:
        """(another's place, whether PDQ proposed it) of one picture."""
        low, high = self.starts[place], self.starts[place + 1]
        return zip(self.others[low:high].tolist(), self.by_pdq[low:high].tolist(), strict=True)


def candidates(
    hashes: Sequence[str | None],
    qualities: Sequence[int | None],
    vectors: Vectors,
    there: npt.NDArray[np.bool_],
    *,
    max_distance: int = 31,
    asking: Places | None = None,
) -> Candidates:
    """Whom each may be a duplicate of. Sub-quadratic: see hash_index and near_embedding.

    `there`: which have a vector, [N]. `asking`: the places of those that are new, by default all; pairs of which
    neither is new are not looked for. Raises ValueError for a distance that cannot be looked up.
    """
    asked = np.ones(len(hashes), np.bool_)
    if asking is not None:
        asked[:] = False
        asked[asking] = True
    told, seen = _by_pdq(hashes, qualities, asked, max_distance), _by_embedding(vectors, there, asked)
    one, other = np.concatenate([told[0], seen[0]]), np.concatenate([told[1], seen[1]])
    rank, by_pdq = np.concatenate([told[2], seen[2]]), np.concatenate([told[3], seen[3]])
    # Whoever comes later is held against the earlier: a pair that either of them found is the later one's.
    later, earlier = np.maximum(one, other), np.minimum(one, other)
    order = np.lexsort((rank, ~by_pdq, earlier, later))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = np.diff(later[order]).astype(np.bool_) | np.diff(earlier[order]).astype(np.bool_)
    order = order[fresh]
    order = order[np.lexsort((rank[order], ~by_pdq[order], later[order]))]
    return Candidates(np.searchsorted(later[order], np.arange(len(hashes) + 1)), earlier[order], by_pdq[order])


_Pairs = tuple[Places, Places, npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def _by_pdq(
    hashes: Sequence[str | None], qualities: Sequence[int | None], asked: npt.NDArray[np.bool_], max_distance: int
) -> _Pairs:
    enough = ((q or 0) >= MIN_QUALITY and h is not None for h, q in zip(hashes, qualities, strict=True))
    told = np.flatnonzero(np.fromiter(enough, np.bool_, len(hashes)))
    words = words_of([hashes[place] or "" for place in told.tolist()])
    # Of equal hashes the first alone is looked up: ten thousand copies of one picture do not find one another.
    unique, first, which = np.unique(words, axis=0, return_index=True, return_inverse=True)
    head = told[first][which.reshape(-1)]
    queries = np.unique(which.reshape(-1)[asked[told]])
    near = HashIndex(unique, max_distance).near(unique[queries], most=NEIGHBOURS + 1)
    one = np.concatenate([told, told[first[queries[near.query]]]])
    other = np.concatenate([head, told[first[near.row]]])
    distance = np.concatenate([np.zeros(len(told)), near.distance]).astype(np.float32)
    kept = one != other
    return one[kept], other[kept], distance[kept], np.ones(int(kept.sum()), np.bool_)


def _by_embedding(vectors: Vectors, there: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]) -> _Pairs:
    told = np.flatnonzero(there)
    queries = np.flatnonzero(asked[told])
    rows, found = nearest(vectors[told], queries, NEIGHBOURS)
    query, column = np.nonzero((rows >= 0) & (found >= MIN_COSINE))
    one, other = told[queries[query]], told[rows[query, column]]
    return one, other, 1 - found[query, column], np.zeros(len(one), np.bool_)


def representatives(
    found: Candidates,
    pictures: Callable[[int], Rgb | None],
    *,
    settled: Mapping[int, Match] = MappingProxyType({}),
    places: Iterable[int],
) -> Iterator[tuple[int, Match]]:
    """What stands for each of these places, in their order, which must rise: (place, match).

    `pictures`: the pixels of a place; None where there are none, and then it stands for itself. `settled`: what is
    known of others before these.
    """
    stands = {place: match.representative for place, match in settled.items()}

    @lru_cache(_SKETCHES)
    def drawn(place: int) -> Sketch | None:
        rgb = pictures(place)
        return None if rgb is None else sketch(rgb)

    for place in places:
        match = _match(place, found, stands, drawn)
        stands[place] = match.representative
        yield place, match


def _match(place: int, found: Candidates, stands: Mapping[int, int], drawn: Callable[[int], Sketch | None]) -> Match:
    mine, held = drawn(place), set[int]()
    for other, by_pdq in found.of(place):
        representative = stands.get(other, other)
        if mine is None or len(held) >= COMPARED:
            break
        if representative in held or representative == place:
            continue
        held.add(representative)
        theirs = drawn(representative)
        if theirs is not None and (copy := same(theirs, mine)) is not None:
            method = ("pdq" if by_pdq else "embedding") + ("-turned" if copy.orientation else "")
            return Match(representative, method, round(1 - copy.correlation, 4))
    return Match(place)
