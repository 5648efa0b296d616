"""What a removed picture leaves behind to be recognised by, and what is held since it is like one.

At approval, while its pixels are still kept, each removed content leaves marks (curation/recognition.py) in the
suppression list, encrypted. What is like it and was in the home before stays, where somebody has compared the two: the
rest is denied by its hash at the next `custody decide`, or held by its embedding at the next look.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress as suppress_errors
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.home import Home, utc_now
from flows.terminal import Progress, say, silent
from policy.errors import InputError, RefusedError
from policy.evidence import REMOVED_LIKENESS
from policy.filed import store_filed
from policy.ledger import Ledger
from policy.removals import RemovalRequest, requests
from policy.snapshot import publish
from policy.suppression import Marks, Suppression, store_copy
from policy.tombstones import Tombstones

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curation.near_embedding import Embedder
    from curation.recognition import Recogniser

SUPPRESSED_BY = "suppression/1"  # who gave a picture the score by which it is held
EMBEDDED_AT_ONCE = 1_024  # pictures between two files of embeddings
MARKED_AT_ONCE = 64  # contents between two versions of the list, so that a kill costs no more than their embedding

_MATCHED = """
SELECT removal, content_sha256 FROM removal_taken
WHERE list_contains($removals::VARCHAR[], removal) AND content_sha256 IS NOT NULL
UNION SELECT removal, lower(named_value) FROM removal
WHERE list_contains($removals::VARCHAR[], removal) AND named_kind IN ('content', 'picture') AND named_value IS NOT NULL
ORDER BY ALL
"""
# Of each removed content its hash, where one was measured.
_HASHES = """
SELECT content_sha256, any_value(pdq ORDER BY batch_seq, row_no), any_value(pdq_quality ORDER BY batch_seq, row_no)
FROM content WHERE pdq IS NOT NULL AND content_sha256 IN (SELECT unnest(?::VARCHAR[])) GROUP BY content_sha256
"""
# Everything that was compared with the others, pixel by pixel, and what stands for it.
_COMPARED = """
WITH newest AS (
    SELECT content_sha256, representative_sha256 FROM duplicate
    WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT newest.content_sha256, any_value(c.pdq ORDER BY c.batch_seq, c.row_no)
FROM newest LEFT JOIN content c ON c.content_sha256 = newest.content_sha256 AND c.pdq IS NOT NULL
GROUP BY newest.content_sha256 ORDER BY newest.content_sha256
"""
_HELD = """
WITH shown AS (
    SELECT e.pair_key, e.content_sha256, o.page_url, o.image_url,
        list_last(list_filter(from_json(json_extract(e.body_json, '$.scores'),
            '[{"name": "VARCHAR", "value": "DOUBLE"}]'), s -> s.name = $score)).value AS likeness
    FROM (
        SELECT * FROM evidence WHERE pair_key IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    ) e LEFT JOIN (
        SELECT * FROM occurrence WHERE pair_key IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    ) o USING (pair_key)
    WHERE contains(e.body_json, $score)
)
SELECT content_sha256, max(likeness), list(DISTINCT image_url ORDER BY image_url) FILTER (WHERE image_url IS NOT NULL),
    list(DISTINCT page_url ORDER BY page_url) FILTER (WHERE page_url IS NOT NULL)
FROM shown WHERE likeness IS NOT NULL AND content_sha256 IS NOT NULL
GROUP BY content_sha256 ORDER BY max(likeness) DESC, content_sha256
"""


@dataclass(frozen=True, slots=True)
class HeldPicture:
    """A picture that is kept out since it is like a removed one: where it is to be seen, and how like it is."""

    content_sha256: str
    likeness: float
    image_urls: tuple[str, ...]
    page_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """The contract of `custody removal release --json`."""

    content_sha256: str
    epoch: int


# ── marking ────────────────────────────────────────────────────────────────────────────────────────────────────────


def suppress(home: Home, *approved: str, embedder: Embedder | None = None, progress: Progress = silent) -> Suppression:
    """Mark what approved removals took, and bring the copy outside the home up to date; done before, it does nothing.

    Its pixels are looked at while they are still kept; the ledger is held in between only. With `suppression = "exact"`
    in the ruleset nothing is marked.

    Raises:
        ConfigurationError: the packaged model is missing. StorageError, IntegrityError: the copy cannot be written, or
            is ahead of this home.
    """
    if approved and home.ruleset.tombstone.suppression == "near":
        with home.ledger(readonly=True) as ledger:
            taken = _taken(home, ledger, approved)
            known = home.suppression(ledger)
            waiting = [(removal, sha) for removal, sha in taken if not known.is_marked(sha)]
            contents = [sha for _, sha in waiting]
            hashes = {sha: (pdq, quality or 0) for sha, pdq, quality in ledger.query(_HASHES, [contents])}
        gone = frozenset(sha for _, sha in taken)
        for start in range(0, len(waiting), MARKED_AT_ONCE):
            part = waiting[start : start + MARKED_AT_ONCE]
            marks = dict(_marks(home, [sha for _, sha in part], hashes, embedder))
            with home.ledger() as ledger:
                spared = _left_in(home, ledger, [(removal, marks[sha]) for removal, sha in part], gone)
                suppression = home.suppression(ledger)
                for removal in dict.fromkeys(removal for removal, _ in part):
                    suppression = suppression.with_added(
                        removal,
                        {sha: marks[sha] for by, sha in part if by == removal},
                        spared=spared.get(removal, ()),
                    )
                suppression.store(home.tombstones_path)
                suppression.record(ledger, utc_now())
            progress(min(start + MARKED_AT_ONCE, len(waiting)), len(waiting), "removal: marks of what is removed")
    with home.ledger() as ledger:
        tombstones, suppression = home.tombstones(ledger), home.suppression(ledger)
        suppression.record(ledger, utc_now())  # where a kill came between the file and its rows
        filed = in_force(ledger, tombstones)
    copy_outside(home, tombstones, suppression, filed)
    return suppression


def in_force(ledger: Ledger, tombstones: Tombstones) -> tuple[RemovalRequest, ...]:
    """The requests that have tombstones: those that a restored home has to carry through again."""
    names = frozenset(tombstones.removals)
    return tuple(request for request in requests(ledger) if request.removal in names)


def copy_outside(
    home: Home, tombstones: Tombstones, suppression: Suppression, filed: Sequence[RemovalRequest] = ()
) -> None:
    """Bring the copy that custody.toml names up to date. Raises StorageError, IntegrityError.

    `filed`: the requests in force, of which it keeps kind, regime and dates.
    """
    if named := home.settings.removals.suppression_copy:
        copy = copy_path(home, named)
        store_filed(copy, filed, home.keys)  # first: a restore that knows a removal knows its dates
        store_copy(copy, tombstones, suppression)


def _taken(home: Home, ledger: Ledger, approved: Sequence[str]) -> list[tuple[str, str]]:
    """(removal, content) of what approved removals took, each content once: of what they matched, or name, what the
    tombstones cover."""
    tombstones = home.tombstones(ledger)
    found: dict[str, str] = {}
    for removal, sha in ledger.query(_MATCHED, {"removals": list(approved)}):
        if sha not in found and tombstones.covers_content(sha):
            found[sha] = removal
    return [(removal, sha) for sha, removal in found.items()]


def copy_path(home: Home, named: str) -> Path:
    """Where `removals.suppression_copy` is; a relative path is the home's."""
    return home.path / named


def _marks(
    home: Home, contents: Sequence[str], hashes: Mapping[str, tuple[str, int]], embedder: Embedder | None
) -> Iterator[tuple[str, Marks]]:
    """The marks of each content: of its pixels where they are kept, else of its hash."""
    from curation.near_embedding import NearEmbedder
    from curation.recognition import marks_of, marks_of_hash

    model, there = embedder or NearEmbedder(), dict(_pictures(home, contents))
    for sha in contents:
        known = hashes.get(sha)
        if sha in there:
            yield sha, marks_of(there[sha], model, known=known)
        else:
            yield sha, marks_of_hash(*known) if known is not None else Marks()


def _left_in(
    home: Home, ledger: Ledger, removed: Sequence[tuple[str, Marks]], gone: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    """Removal -> the contents that are like what it removed and stay: somebody has compared all of them."""
    from curation.near_embedding import NearEmbedder, VectorCache

    recogniser = recogniser_of(home, removed)
    rows = [(sha, pdq) for sha, pdq in ledger.query(_COMPARED) if sha not in gone]
    if not rows:
        return {}
    by_hash = recogniser.by_hash([pdq for _, pdq in rows])
    cache = VectorCache(home.vectors_path, NearEmbedder.digest)
    vectors, there = cache.load([sha for sha, _ in rows])
    by_vector = recogniser.by_vector(vectors)
    left: dict[str, tuple[str, ...]] = {}
    for (sha, _), hashed, embedded, has in zip(rows, by_hash, by_vector, there.tolist(), strict=True):
        if (like := hashed or (embedded if has else None)) is not None:
            left[like.removal] = (*left.get(like.removal, ()), sha)
    return left


# ── recognising ────────────────────────────────────────────────────────────────────────────────────────────────────


def recogniser_of(home: Home, removed: Sequence[tuple[str, Marks]]) -> Recogniser:
    """Who recognises these within the ruleset's bounds."""
    from curation.near_embedding import NearEmbedder
    from curation.recognition import Recogniser

    rules = home.ruleset.tombstone
    found = Recogniser(
        removed,
        max_distance=rules.pdq_max_distance,
        min_cosine=rules.min_cosine,
        model=NearEmbedder.digest,
    )
    if found.of_other_models:
        _tell_of_other_models(found.of_other_models)
    return found


@functools.cache
def _tell_of_other_models(count: int) -> None:
    """Once a process: it is no reason to stop, and nothing can be done about it, since the pictures are gone."""
    say(f"the marks of {count} removed pictures were made by another model: copies are known by their hashes alone")


def alike(
    home: Home, contents: Sequence[str], *, embedder: Embedder | None = None, progress: Progress = silent
) -> dict[str, float]:
    """Which of these kept pictures are like a removed one by their embeddings, and how like (cosine).

    What was never embedded is, with and without its surround: it came before there was anything to be recognised.
    """
    with home.ledger(readonly=True) as ledger:
        suppression = home.suppression(ledger)
    recogniser = recogniser_of(home, suppression.marks()) if suppression else None
    if recogniser is None or not recogniser.embeds or not contents:
        return {}
    from curation.near_embedding import NearEmbedder, VectorCache
    from curation.recognition import is_plain, views_of

    model = embedder or NearEmbedder()
    cache = VectorCache(home.vectors_path, model.digest)
    vectors, there = cache.load(contents)
    found = {
        sha: like.likeness
        for sha, like, has in zip(contents, recogniser.by_vector(vectors), there.tolist(), strict=True)
        if has and like is not None
    }
    missing = [sha for sha, has in zip(contents, there.tolist(), strict=True) if not has]
    for start in range(0, len(missing), EMBEDDED_AT_ONCE):
        held = list(_pictures(home, missing[start : start + EMBEDDED_AT_ONCE]))
        if held:
            views = views_of([picture for _, picture in held], model)
            cache.add([sha for sha, _ in held], views.own)
            for (sha, _), like in zip(held, recogniser.by_views(views), strict=True):
                if like is not None:
                    found[sha] = like.likeness
        progress(min(start + EMBEDDED_AT_ONCE, len(missing)), len(missing), "look: like what was removed")
    with home.ledger(readonly=True) as ledger:
        quality = {sha: value for sha, _, value in ledger.query(_HASHES, [sorted(found)])} if found else {}
    # Of what was never measured it is not known to be plain.
    seen = {sha: like for sha, like in found.items() if sha not in quality or not is_plain(quality[sha])}
    return {sha: like for sha, like in seen.items() if not suppression.is_spared(sha)}


def _pictures(home: Home, contents: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The kept pixels of those that can be decoded."""
    from curation.images import decode
    from curation.pixel_store import PixelStore

    store = PixelStore(home.pixels_path)
    for sha in contents:
        with suppress_errors(InputError):  # gone meanwhile, or damaged
            yield sha, decode(store.get(sha))


# ── what is held ───────────────────────────────────────────────────────────────────────────────────────────────────


def held(home: Home) -> tuple[HeldPicture, ...]:
    """The pictures that wait for somebody to look, the likest first."""
    with home.ledger(readonly=True) as ledger:
        suppression = home.suppression(ledger)
        rows = ledger.query(_HELD, {"score": REMOVED_LIKENESS})
    return tuple(
        HeldPicture(sha, likeness, tuple(images or ()), tuple(pages or ()))
        for sha, likeness, images, pages in rows
        if not suppression.is_spared(sha)
    )


def release(home: Home, content_sha256: str, *, by: str, reason: str) -> Released:
    """Let a picture in that is like a removed one: somebody has looked, and it is another. The next crawl takes it.

    Raises:
        InputError: no digest, nobody's name, or no reason. RefusedError: an approved removal covers these very bytes,
            or nothing was ever removed.
    """
    from flows.stages.removing.requests import hex_digits, require_name

    sha = hex_digits(content_sha256, 64, "custody removal release")
    require_name(by)
    if not reason.strip():
        raise InputError("a release carries a reason", where="--reason")
    with home.ledger() as ledger:
        tombstones, suppression = home.tombstones(ledger), home.suppression(ledger)
        if (removal := tombstones.covers_content(sha)) is not None:
            raise RefusedError(
                "an approved removal covers these very bytes", where=removal, remedy="A removal is final"
            )
        if not suppression:
            raise RefusedError("nothing was ever removed that it could be like", where="custody removal release")
        suppression = suppression.with_added("", {}, spared=[sha])
        suppression.store(home.tombstones_path)
        suppression.record(ledger, utc_now())
        event = {
            "kind": "near-released",
            "subject": sha,
            "detail": json.dumps({"by": by, "reason": reason}),
            "happened_at": utc_now().replace(tzinfo=None),
        }
        ledger.append("event", [event], key=f"near-released/{suppression.epoch}/{sha}")
        publish(ledger, home.snapshot_path, now=utc_now())
    copy_outside(home, tombstones, suppression)
    return Released(sha, suppression.epoch)
