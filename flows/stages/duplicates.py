"""Near duplicates: what stands for each picture among those that every cheaper rule lets pass.

What was found stays in the ledger (table `duplicate`, a row whenever it changes) and is not looked for again: a run
over known pictures and new ones holds the new against the known. A picture whose representative no longer passes, since
its source said no or somebody had it removed, is held against the others anew, and takes its place if it is the first.

Killed at any moment it is run again: vectors are kept a unit at a time, and what stands for what is settled for a
picture on its own, in one order, whatever was settled before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows.home import Home, utc_now
from flows.pace import Pace
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.evidence import DuplicateOf
from policy.ledger import Ledger

if TYPE_CHECKING:
    from curation.near_embedding import Embedder, Vectors

Rgb = npt.NDArray[np.uint8]
Pictures = Callable[[Sequence[tuple[int, str]]], Iterator[tuple[int, Rgb]]]

UNIT = 2_048  # pictures that are embedded between two files of vectors
RECORDED_AT_ONCE = 2_000  # rows of one append: as many comparisons are lost by a kill, at most
VERSION = "near/4"  # of order, candidates and comparison: rows of another are looked for anew

_KNOWN = """
SELECT content_sha256, any_value(pdq ORDER BY batch_seq, row_no), any_value(pdq_quality ORDER BY batch_seq, row_no),
       max(width::BIGINT * height), min((batch_seq << 31) | row_no)
FROM content WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[])) GROUP BY content_sha256
"""
_SETTLED = """
SELECT content_sha256, representative_sha256, method, distance FROM duplicate
WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_STOOD_FOR = """
WITH newest AS (
    SELECT pair_key, content_sha256, json_extract_string(body_json, '$.duplicate.representative') AS representative
    FROM evidence WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT pair_key FROM newest
WHERE list_contains($contents::VARCHAR[], representative) AND NOT list_contains($contents::VARCHAR[], content_sha256)
ORDER BY pair_key
"""
_NEARBY = """
WITH newest AS (
    SELECT content_sha256, representative_sha256, split_part(method, ' ', 2) AS method, distance FROM duplicate
    WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
), asked AS (SELECT unnest(?::VARCHAR[]) AS content_sha256),
heads AS (SELECT DISTINCT representative_sha256 FROM newest SEMI JOIN asked USING (content_sha256))
SELECT content_sha256, method, distance FROM newest
SEMI JOIN heads USING (representative_sha256) ANTI JOIN asked USING (content_sha256)
ORDER BY content_sha256
"""
# What carries a reservation in its own bytes, and the mechanism that read it. Its pixels are not kept: hashes must do.
_RESERVED = """
WITH said AS (
    SELECT pair_key, rule FROM latest_decision WHERE rule IN ('xmp', 'c2pa') AND verdict = 'deny'
), carried AS (
    SELECT evidence.content_sha256, min(said.rule) AS rule FROM evidence JOIN said USING (pair_key)
    WHERE evidence.content_sha256 IS NOT NULL GROUP BY evidence.content_sha256
)
SELECT content_sha256, any_value(rule), any_value(pdq ORDER BY batch_seq, row_no)
FROM content JOIN carried USING (content_sha256)
WHERE pdq IS NOT NULL AND pdq_quality >= ? GROUP BY content_sha256 ORDER BY content_sha256
"""


def find_duplicates(
    home: Home, contents: Sequence[str], progress: Progress = silent, *, embedder: Embedder | None = None
) -> Mapping[str, DuplicateOf]:
    """What stands for each of these contents; what is new of it is in the ledger when this returns.

    `contents`: sha256s of all pictures that pass everything cheaper, known ones included, their pixels kept. What is
    not among them stands for nobody. `embedder`: by default the packaged model.

    Raises:
        ConfigurationError: the weights of the packaged model are missing, or are not those that are expected.
    """
    from curation.duplicates import candidates
    from curation.near_embedding import NearEmbedder
    from curation.near_thumbnail import Thumbnails

    with home.ledger(readonly=True) as ledger:
        known = _known(ledger, contents)
        settled = _settled(ledger, frozenset(sha for sha, *_ in known))
        reserved = _reserved(ledger, known, home.ruleset.duplicate.pdq_max_distance)
    # What is settled comes first, those that stand for themselves before their duplicates: it stays so, whatever is
    # found later. The new follow, the largest first, then what was seen first.
    rank = {sha: 0 if found.representative == sha else 1 for sha, found in settled.items()}
    known.sort(key=lambda row: (rank.get(row[0], 2), -(row[3] or 0), row[4], row[0]))
    order = [sha for sha, *_ in known]
    vectors, there = vectors_of(home, order, embedder or NearEmbedder(), progress)
    thumbnails, _ = vectors_of(home, order, Thumbnails(), progress)
    place = {sha: number for number, sha in enumerate(order)}
    asking = np.array([place[sha] for sha in order if sha not in settled], np.int64)
    near = candidates(
        [pdq for _, pdq, *_ in known],
        [quality for _, _, quality, *_ in known],
        vectors,
        there,
        thumbnails,
        max_distance=home.ruleset.duplicate.pdq_max_distance,
        asking=asking,
    )
    new: dict[str, DuplicateOf] = {}
    for part in _batched(_matched(home, order, near, settled, asking, progress), RECORDED_AT_ONCE):
        _record(home, part)
        new |= dict(part)
    found = {sha: settled[sha] if sha in settled else new[sha] for sha in order}
    return {sha: _with_reserved(sha, one, reserved) for sha, one in found.items()}


def forget_vectors(home: Home, contents: Sequence[str]) -> int:
    """Overwrite the embeddings of contents that were removed, whatever model made them; how many there were."""
    if not home.vectors_path.exists():
        return 0
    from curation.near_embedding import forget

    return forget(home.vectors_path, contents)


def release(ledger: Ledger, contents: Sequence[str], removal: str) -> int:
    """Write the evidence anew, as not compared, of the pairs for whose pictures one of these stood; how many there are.

    The evidence that names a removed picture goes with it, whosever it is; what else was observed of the pair stays
    so. It waits until the next look has compared it with the others.
    """
    pairs = [pair for (pair,) in ledger.query(_STOOD_FOR, {"contents": list(contents)})]
    evidence = newest_evidence(ledger, pairs)
    anew = [(pair, replace(evidence[pair], duplicate=None)) for pair in pairs]
    if anew:
        ledger.append_many(evidence_batches(ledger, anew, "release", f"release/{removal}"))
    return len(anew)


def nearby(ledger: Ledger, contents: Sequence[str]) -> tuple[tuple[str, str, float], ...]:
    """(content, method, distance) of what was verified to show the same as one of these: what stands for it, and what
    stands for the same. To be proposed to whoever reviews a removal; equal bytes are not among them.
    """
    return tuple((sha, method, distance) for sha, method, distance in ledger.query(_NEARBY, [list(contents)]))


def _known(ledger: Ledger, contents: Sequence[str]) -> list[tuple[str, str | None, int | None, int | None, int]]:
    """(sha256, pdq, its quality, pixels of the original, when it came) of those that the ledger knows."""
    return [tuple(row) for row in ledger.query(_KNOWN, [list(dict.fromkeys(contents))])]


def _settled(ledger: Ledger, there: frozenset[str]) -> dict[str, DuplicateOf]:
    """What was found of these before, where what stands for them still does."""
    rows = {
        sha: DuplicateOf(r, m.removeprefix(f"{VERSION} "), d)
        for sha, r, m, d in ledger.query(_SETTLED)
        if m.startswith(f"{VERSION} ")
    }
    heads = {sha for sha, found in rows.items() if found.representative == sha and sha in there}
    return {sha: found for sha, found in rows.items() if sha in there and found.representative in heads}


def _reserved(
    ledger: Ledger, known: Sequence[tuple[str, str | None, int | None, int | None, int]], max_distance: int
) -> dict[str, DuplicateOf]:
    """Which of these are near, by their hashes, to a picture that carries a reservation: the nearest, and which."""
    from curation.duplicates import MIN_QUALITY
    from curation.hash_index import HashIndex, words_of

    rows = ledger.query(_RESERVED, [MIN_QUALITY])
    told = [(sha, pdq) for sha, pdq, quality, *_ in known if pdq is not None and (quality or 0) >= MIN_QUALITY]
    if not rows or not told:
        return {}
    index = HashIndex(words_of([pdq for _, _, pdq in rows]), max_distance)
    near = index.near(words_of([pdq for _, pdq in told]), most=2)
    found: dict[str, DuplicateOf] = {}
    for query, row, bits in zip(near.query.tolist(), near.row.tolist(), near.distance.tolist(), strict=True):
        sha, (other, rule, _) = told[query][0], rows[row]
        if sha != other:
            found.setdefault(sha, DuplicateOf(other, "pdq", float(bits), reserved=rule))
    return found


def vectors_of(
    home: Home, contents: Sequence[str], embedder: Embedder, progress: Progress, *, pictures: Pictures | None = None
) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """The vectors of these contents, those that were not known computed and kept; and which of them have one.

    `pictures`: the pixels of those that are asked for, (place, content) to (place, pixels); by default what is kept.
    """
    from curation.near_embedding import VectorCache

    read = pictures or partial(_pictures, home)

    cache = VectorCache(home.vectors_path, embedder.digest)
    vectors, there = cache.load(contents)
    missing = np.flatnonzero(~there)
    pace = Pace(progress, "duplicates: embeddings", len(missing))
    for start in range(0, len(missing), UNIT):
        unit = missing[start : start + UNIT]
        held = list(read([(place, contents[place]) for place in unit.tolist()]))
        if held:
            places = np.array([place for place, _ in held])
            vectors[places] = embedder.embed([rgb for _, rgb in held])
            there[places] = True
            cache.add([contents[place] for place in places], vectors[places])
        pace.add(len(unit))
    return vectors, there


def _pictures(home: Home, places: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Rgb]]:
    """(place, pixels) of those whose kept pixels are there and can be decoded."""
    from curation.images import decode
    from curation.pixel_store import PixelStore
    from policy.errors import InputError

    store = PixelStore(home.pixels_path)
    for place, sha in places:
        try:
            yield place, decode(store.get(sha))
        except InputError:
            continue  # gone meanwhile, or damaged: it is compared by its hash alone, and so stands for itself


def _matched(
    home: Home,
    order: Sequence[str],
    near: Any,
    settled: Mapping[str, DuplicateOf],
    asking: npt.NDArray[np.int64],
    progress: Progress,
) -> Iterator[tuple[str, DuplicateOf]]:
    """What stands for each of those that ask, by comparing pixels."""
    from curation.duplicates import Match, representatives

    def picture(place: int) -> Rgb | None:
        return next((rgb for _, rgb in _pictures(home, [(place, order[place])])), None)

    place = {sha: number for number, sha in enumerate(order)}
    before: dict[int, Match] = {place[sha]: Match(place[found.representative]) for sha, found in settled.items()}
    pace = Pace(progress, "duplicates: compared", len(asking))
    for number, match in representatives(near, picture, settled=before, places=asking.tolist()):
        yield order[number], DuplicateOf(order[match.representative], match.method, match.distance)
        pace.add(1)


def _record(home: Home, new: Sequence[tuple[str, DuplicateOf]]) -> None:
    """Append what was found: a row a content that had not been compared, or that something else stands for now.

    What was removed while it was being compared is named in no row, and its embedding goes.
    """
    rows: list[dict[str, object]] = [
        {
            "content_sha256": sha,
            "representative_sha256": found.representative,
            "method": f"{VERSION} {found.method}",
            "distance": found.distance,
            "verified": True,
            "observed_at": utc_now().replace(tzinfo=None),
        }
        for sha, found in new
    ]
    with home.ledger() as ledger:
        tombstones = home.tombstones(ledger)
        named = {content for sha, found in new for content in (sha, found.representative)}
        if gone := {content for content in named if tombstones.covers_content(content)}:
            forget_vectors(home, sorted(gone))
        rows = [row for row in rows if gone.isdisjoint({row["content_sha256"], row["representative_sha256"]})]
        head, _ = ledger.head()
        ledger.append("duplicate", rows, key=f"duplicates/{head}/{unit_id(*(sha for sha, _ in new))}")


def _with_reserved(sha: str, found: DuplicateOf, reserved: Mapping[str, DuplicateOf]) -> DuplicateOf:
    """What stands for a picture; one that is near to a reserved picture is that one's duplicate before all else."""
    return reserved.get(sha) or found


def _batched(found: Iterator[tuple[str, DuplicateOf]], size: int) -> Iterator[tuple[tuple[str, DuplicateOf], ...]]:
    while part := tuple(itertools.islice(found, size)):
        yield part
