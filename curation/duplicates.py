"""Which pictures are one, among many: each near duplicate is matched, directly and by its pixels, to a representative.

Candidates come from PDQ hashes (curation/hash_index.py: recompressed, rescaled, mirrored and turned copies), from
thumbnails (curation/near_thumbnail.py: small drawings of which compression left little) and from embeddings
(curation/near_embedding.py: crops, borders, words laid over); they only propose, since by any of them alone an emoji is
its neighbour's copy. What decides is the comparison of pixels (curation/geometry.py).

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
MIN_THUMBNAIL_COSINE: Final = 0.93  # a quarter of the size and JPEG quality 10 leave 0.94 and more
NEIGHBOURS: Final = 8  # of a picture, by each of the ways
COMPARED: Final = 8  # representatives that a picture is held against at most
METHODS: Final = ("pdq", "thumbnail", "embedding")  # how a pair was proposed: by the first of these that did
_SKETCHES: Final = 2_048  # of 70 KB each


@dataclass(frozen=True, slots=True)
class Match:
    """What stands for a picture: `representative` is its place in the order, its own where it stands for itself.

    `method`: how it was proposed, one of METHODS, with "-turned" for another orientation; "" for itself. `distance`: of
    the pixels, one less the correlation over the overlap.
    """

    representative: int
    method: str = ""
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidates:
    """Whom each picture may be a duplicate of: places before its own, likeliest first, and how they were proposed, as
    places in METHODS.
    """

    starts: Places
    others: Places
    methods: npt.NDArray[np.int8]

    def of(self, place: int) -> Iterator[tuple[int, str]]:
        """(another's place, the method that proposed it) of one picture."""
        low, high = self.starts[place], self.starts[place + 1]
        for other, method in zip(self.others[low:high].tolist(), self.methods[low:high].tolist(), strict=True):
            yield other, METHODS[method]


def candidates(
    hashes: Sequence[str | None],
    qualities: Sequence[int | None],
    vectors: Vectors,
    there: npt.NDArray[np.bool_],
    thumbnails: Vectors,
    *,
    max_distance: int = 31,
    asking: Places | None = None,
) -> Candidates:
    """Whom each may be a duplicate of. Sub-quadratic: see hash_index and near_embedding.

    `there`: which have a vector, [N]. `thumbnails`: [N, WIDTH], zeros where there is none. `asking`: the places of
    those that are new, by default all; pairs of which neither is new are not looked for. Raises ValueError for a
    distance that cannot be looked up.
    """
    asked = np.ones(len(hashes), np.bool_)
    if asking is not None:
        asked[:] = False
        asked[asking] = True
    ways: tuple[_Pairs, ...] = (
        _by_pdq(hashes, qualities, asked, max_distance),
        _by_cosine(thumbnails, np.any(thumbnails != 0, axis=1), asked, MIN_THUMBNAIL_COSINE),
        _by_cosine(vectors, there, asked, MIN_COSINE),
    )
    one, other = (np.concatenate([found[side] for found in ways]) for side in (0, 1))
    rank = np.concatenate([found[2] for found in ways])
    method = np.repeat(np.arange(len(ways), dtype=np.int8), [len(found) for found, *_ in ways])
    # Whoever comes later is held against the earlier: a pair that either of them found is the later one's.
    later, earlier = np.maximum(one, other), np.minimum(one, other)
    # Of many that a small drawing's hash is near to, what the thumbnails say as well comes first.
    likely = np.array([1, 0, 2], np.int8)[method]
    order = np.lexsort((rank, likely, earlier, later))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = np.diff(later[order]).astype(np.bool_) | np.diff(earlier[order]).astype(np.bool_)
    first = np.flatnonzero(fresh)
    named = np.minimum.reduceat(method[order], first) if len(first) else method
    order = order[first]
    by_likelihood = np.lexsort((rank[order], likely[order], later[order]))
    order, named = order[by_likelihood], named[by_likelihood]
    return Candidates(np.searchsorted(later[order], np.arange(len(hashes) + 1)), earlier[order], named)


_Pairs = tuple[Places, Places, npt.NDArray[np.float32]]


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
    return one[kept], other[kept], distance[kept]


def _by_cosine(vectors: Vectors, there: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_], at_least: float) -> _Pairs:
    told = np.flatnonzero(there)
    queries = np.flatnonzero(asked[told])
    rows, found = nearest(vectors[told], queries, NEIGHBOURS)
    query, column = np.nonzero((rows >= 0) & (found >= at_least))
    return told[queries[query]], told[rows[query, column]], 1 - found[query, column]


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
    for other, proposed_by in found.of(place):
        representative = stands.get(other, other)
        if mine is None or len(held) >= COMPARED:
            break
        if representative in held or representative == place:
            continue
        held.add(representative)
        theirs = drawn(representative)
        if theirs is not None and (copy := same(theirs, mine)) is not None:
            method = f"{proposed_by}-turned" if copy.orientation else proposed_by
            return Match(representative, method, round(1 - copy.correlation, 4))
    return Match(place)
