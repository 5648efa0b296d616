"""Seal: a selection over what policy allows becomes a dataset, an ordered list of slots, in WebDataset shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from curation.pixel_store import PixelStore
from curation.shard_files import SealedSample, generation_name
from curation.shard_reader import DatasetReader
from curation.shards import prune, reseal, write_dataset
from flows.home import Home, utc_now
from flows.stages.decide import judge_pairs, unwanted
from flows.stages.registries import require_current
from flows.terminal import Progress, silent
from policy.errors import InputError
from policy.evidence import Evidence, LicenceClaim, embedded_from_plain
from policy.ledger import Ledger
from policy.licences import Attribution, attribution
from policy.people import changes_of
from policy.personal_data import contact_data, person_name
from policy.provenance import ClassRange, DatasetManifest, Generation, dataset_root, utc_text
from policy.removals import Done, record_steps
from policy.revocability import Revocability, class_ranges, classes_from_json, classes_json, revocability
from policy.snapshot import publish
from policy.tombstones import StandingTombstones, Tombstones

_as_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: `json.dumps` would make one a sample
TOLD = 100  # samples between two words of progress
NO_LICENCE = "NOASSERTION"  # SPDX's word, for a ruleset that does not judge licences
COLUMNS = (
    *("sample_key", "pair_key", "content_sha256", "caption", "caption_origin", "caption_run", "licence"),
    *("page_url", "image_url", "width", "height"),
)
SLOT = (
    *("ordinal", "sample_key", "pair_key", "content_sha256", "caption", "caption_origin", "licence"),
    "commitment",
)
CREDITS = ("title", "creator", "source_url", "licence", "licence_url", "changes")


@dataclass(frozen=True, slots=True)
class SealedShard:
    """One shard as `custody seal --json` says it."""

    path: str
    sha256: str
    count: int


@dataclass(frozen=True, slots=True)
class SealedClass:
    """How many slots are of one class of revocability, by number and in words, as `custody seal --json` says it."""

    revocability: int
    words: str
    slots: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """The contract of `custody seal --json`. `without_pixels`: allowed samples left out since theirs are not kept.

    `occurrences`, `near_duplicates`: what the slots stand for, see `policy.provenance.DatasetManifest`.
    `classes`: those that occur, rising; none of a dataset that was sealed before slots had classes.
    """

    dataset: str
    root: str
    slots: int
    shards: tuple[SealedShard, ...]
    without_pixels: int = 0
    occurrences: int | None = None
    near_duplicates: int | None = None
    classes: tuple[SealedClass, ...] = ()


def seal(
    home: Home, *, where: str = "true", name: str | None = None, purpose: str = "training", progress: Progress = silent
) -> Sealed:
    """Seal the samples of the view `trainable` for which `where` holds, ordered by revocability, then by sample key.

    Slots and their commitments enter the ledger before the first byte of a shard is written, so that a sealing that
    was killed goes on with the same dataset.

    Raises:
        InputError: the selection is no SQL, selects nothing whose pixels are kept, or its name is taken by another
            dataset.
        RefusedError: a list that the ruleset requires is missing or overdue.
    """
    if name is not None:
        _check_name(name)
    with home.ledger() as ledger:
        require_current(home, ledger)
        # Judged now, not when it was crawled: evidence grows old, and a removal may have come.
        changed, _, _ = judge_pairs(ledger, home.ruleset, home, progress)
        store = PixelStore(home.pixels_path)
        store.delete_all(unwanted(ledger, home))
        try:
            selected, without = _with_pixels(home, store, select(ledger, home, where), where)
            selected = _classed(ledger, selected)
            ready = _fixed(ledger, home, name or _name_of(selected), selected, where, purpose)
        except InputError:
            publish(ledger, home.snapshot_path, now=utc_now())  # there it can be asked why
            raise
        if changed:
            publish(ledger, home.snapshot_path, now=utc_now(), force=True)
    return replace(_write(home, ready, store, progress), without_pixels=without)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A dataset whose slots stand in the ledger: what its shards are written from.

    `credits`, `replaced` (the texts in whose place captions stand), `transforms` (what was done to the pixels): by
    ordinal.
    """

    manifest: DatasetManifest
    slots: Sequence[Mapping[str, Any]]
    credits: Mapping[int, Mapping[str, Any]]
    replaced: Mapping[int, str]
    transforms: Mapping[int, Sequence[str]]
    tombstones: Tombstones


def select(ledger: Ledger, home: Home, where: str) -> list[dict[str, Any]]:
    """The rows of `trainable` that `where` selects, by sample key, less what a tombstone covers by now."""
    # Without access to files, and in a transaction that cannot write: the operator's SQL, but only a selection.
    statement = f"SELECT {', '.join(COLUMNS)} FROM trainable WHERE ({where}) ORDER BY sample_key"  # noqa: S608  # see above
    try:
        rows = ledger.query(statement)
    except InputError as error:
        raise InputError(
            f"{where!r} selects nothing that can be sealed ({error.what})",
            where="custody seal --where",
            remedy="Write a condition on the columns of trainable, such as: caption LIKE '%apple%'",
        ) from error
    tombstones = home.tombstones(ledger)
    named = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    return [
        r
        for r in named
        if not (
            tombstones.covers_sample(r["sample_key"])
            or tombstones.covers_content(r["content_sha256"])
            or tombstones.covers_url(r["image_url"])
            or (r["page_url"] and tombstones.covers_url(r["page_url"]))
            or tombstones.covers_said({"text": (r["caption"],)}, content=r["content_sha256"], url=r["image_url"])
        )
    ]


def _with_pixels(
    home: Home, store: PixelStore, selected: list[dict[str, Any]], where: str
) -> tuple[list[dict[str, Any]], int]:
    """Those whose pixels are kept, and how many are not. Raises InputError where that leaves none."""
    if not selected:
        raise InputError(
            f"nothing to seal: no trainable sample matches {where!r}",
            where="custody seal",
            remedy="`custody sql 'SELECT verdict, rule, reason_code, count(*) FROM standing GROUP BY ALL'` shows why",
        )
    # What was denied when it was crawled has no pixels any more; a grant or another ruleset may allow it since.
    kept = frozenset(store.keys())
    there = [sample for sample in selected if sample["content_sha256"] in kept]
    without = len(selected) - len(there)
    if not there:
        raise InputError(
            f"nothing to seal: the pixels of all {without} samples are gone, since they were denied once",
            where=str(home.pixels_path),
            remedy="Crawl their pages again; `custody sql 'SELECT DISTINCT page_url FROM trainable'` names them",
        )
    return there, without


# What each pair that shows a picture is allowed by, whoever it was sealed for: the weakest permission counts, since
# one that ends denies the picture wherever it hangs. A pair that nobody judged yet has none to name.
_PERMISSIONS = """
WITH showing AS (
    SELECT DISTINCT content_sha256, pair_key FROM evidence
    WHERE pair_key IS NOT NULL AND content_sha256 IN (SELECT unnest($contents::VARCHAR[]))
), latest AS (  -- as the view latest_decision, which would look at every pair there is
    SELECT
        pair_key,
        rule,
        max_by(
            {verdict: verdict, code: reason_code, detail: if(rule = 'licence', reason_detail, NULL)},
            (batch_seq << 31) | row_no
        ) AS said
    FROM decision SEMI JOIN showing USING (pair_key)
    GROUP BY pair_key, rule
), permitted AS (
    SELECT
        pair_key,
        max(said.detail) AS licence,
        bool_or(said.code = 'granted') AS granted,
        bool_or(rule = 'faces' AND said.code = 'no-face') AS faceless
    FROM latest
    WHERE said.verdict = 'allow'
    GROUP BY pair_key
)
SELECT DISTINCT content_sha256, licence, coalesce(granted, false), coalesce(faceless, false)
FROM showing LEFT JOIN permitted USING (pair_key)
"""


def _classed(ledger: Ledger, selected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples with their classes of revocability, in slot order: by class, then by sample key."""
    known: dict[str, Revocability] = {}
    contents = sorted({r["content_sha256"] for r in selected})
    for content, licence, granted, faceless in ledger.query(_PERMISSIONS, {"contents": contents}):
        here = revocability(licence, granted=granted, face=False if faceless else None)
        known[content] = max(here, known.get(content, here))
    classed = [{**r, "revocability": int(known.get(r["content_sha256"], Revocability.CONSENTED))} for r in selected]
    return sorted(classed, key=lambda r: (r["revocability"], r["sample_key"]))


def _write(home: Home, ready: _Ready, store: PixelStore, progress: Progress) -> Sealed:
    """Write (or finish writing) the shards of a dataset whose slots stand in the ledger, and record them."""
    manifest = ready.manifest
    generation = write_dataset(
        home.dataset(manifest.dataset),
        manifest,
        [bytes.fromhex(s["commitment"]) for s in ready.slots],
        _samples(home, ready, store, progress),
        shard_slots=home.settings.seal.shard_slots,
    )
    generation = _recorded(home, manifest.dataset, generation)
    directory = f"{home.dataset_where(manifest.dataset)}/{generation_name(generation.number)}"
    return Sealed(
        manifest.dataset,
        manifest.root,
        manifest.slots,
        tuple(SealedShard(f"{directory}/{s.path}", s.sha256, s.live) for s in generation.shards),
        occurrences=manifest.occurrences,
        near_duplicates=manifest.near_duplicates,
        classes=_counted(manifest.classes or ()),
    )


def _recorded(home: Home, dataset: str, generation: Generation) -> Generation:
    """Record the generation that was sealed, or the one without what was asked to go while it was being written.

    The last look at the tombstones is under the ledger's lock: an approval comes before it, and counts, or after the
    record, and finds the generation there to be emptied.
    """
    emptied_for: set[str] = set()
    while True:
        with home.ledger() as ledger:
            removed = home.tombstones(ledger).slot_removals.get(dataset, {})
            late = _still_stored(home, dataset, removed)
            if not late:
                record_generation(ledger, generation, ",".join(sorted(emptied_for)) or None)
                steps = [Done(name, "bytes", "left-out-of-sealing", dataset) for name in sorted(emptied_for)]
                record_steps(ledger, steps, now=utc_now())
                publish(ledger, home.snapshot_path, now=utc_now())
                return generation
        place, names = home.dataset(dataset), {removed[ordinal] for ordinal in late}
        generation = reseal(place, late, names)
        prune(place)
        emptied_for |= names


def _still_stored(home: Home, dataset: str, removed: Mapping[int, str]) -> list[int]:
    """Which of these slots hold a sample by now."""
    if not removed:
        return []
    with DatasetReader.open(home.dataset(dataset), verify=False) as reader:
        return [ordinal for ordinal in removed if reader.is_live(ordinal)]


def _counted(ranges: Sequence[ClassRange]) -> tuple[SealedClass, ...]:
    sizes = {each: sum(r.stop - r.start for r in ranges if r.revocability == each) for each in Revocability}
    return tuple(SealedClass(int(each), each.words, size) for each, size in sizes.items() if size)


def record_generation(ledger: Ledger, generation: Generation, removal: str | None = None) -> None:
    """Record where a dataset's slots lie now."""
    key = f"{generation.dataset}/generation-{generation.number}"
    shards = [
        {
            "dataset": generation.dataset,
            "generation": generation.number,
            "shard": number,
            "path": s.path,
            "sha256": s.sha256,
            "size_bytes": s.size_bytes,
            "first_ordinal": s.first_ordinal,
            "slots": s.slots,
            "live": s.live,
        }
        for number, s in enumerate(generation.shards)
    ]
    row = {
        "dataset": generation.dataset,
        "generation": generation.number,
        "root": generation.root,
        "removal": removal,
        "sealed_at": utc_now().replace(tzinfo=None),
    }
    ledger.append_many([("generation", [row], key), ("shard", shards, f"{key}/shards")])


def slots_of(ledger: Ledger, dataset: str) -> list[dict[str, Any]]:
    """A dataset's slots with their commitments, in order."""
    rows = ledger.query(f"SELECT {', '.join(SLOT)} FROM slot WHERE dataset = ? ORDER BY ordinal", [dataset])  # noqa: S608  # names of ours
    return [dict(zip(SLOT, row, strict=True)) for row in rows]


def _fixed(
    ledger: Ledger, home: Home, dataset: str, selected: Sequence[Mapping[str, Any]], where: str, purpose: str
) -> _Ready:
    """The dataset of these samples, recorded where it is new. Raises InputError where it has others.

    One that is known keeps its order and classes, whatever has been learnt of its samples since.
    """
    if slots := slots_of(ledger, dataset):
        # An erased slot has no key any more, and then it is another dataset than this selection's.
        if sorted(s["sample_key"] or "" for s in slots) != sorted(r["sample_key"] for r in selected):
            raise InputError(
                f"the dataset {dataset!r} exists and has other samples",
                where="custody seal",
                remedy="A dataset never changes: give the new one another --name",
            )
        credits = _credits(ledger, dataset)
    else:
        attributions = _attributions(ledger, home, dataset, selected)
        slots = _record_slots(ledger, home, dataset, selected, where, purpose, attributions)
        credits = {row["ordinal"]: {name: row[name] for name in CREDITS} for row in attributions}
    manifest, replaced, transforms = _manifest(ledger, dataset), _replaced(ledger, dataset), _changed(ledger, dataset)
    return _Ready(manifest, slots, credits, replaced, transforms, home.tombstones(ledger))


def _replaced(ledger: Ledger, dataset: str) -> dict[int, str]:
    """The alt texts in whose place captions stand; not those by which somebody can be named or reached."""
    return {
        ordinal: alt
        for ordinal, alt in ledger.query(_REPLACED, [dataset])
        if contact_data(alt) is None and person_name(alt) is None
    }


_REPLACED = """
WITH said AS (
    SELECT pair_key, json_extract_string(body_json, '$.alt') AS alt FROM evidence
    WHERE pair_key IN (
        SELECT pair_key FROM slot WHERE dataset = $1 AND caption_origin NOT IN ('alt', 'figcaption', 'title')
    )
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT ordinal, alt FROM slot JOIN said USING (pair_key) WHERE dataset = $1 AND alt IS NOT NULL AND alt <> ''
"""


def _changed(ledger: Ledger, dataset: str) -> dict[int, Sequence[str]]:
    """What was done to the kept pixels of those slots that were changed by more than size and encoding."""
    return {ordinal: json.loads(transforms) for ordinal, transforms in ledger.query(_TRANSFORMS, [dataset])}


_TRANSFORMS = """
WITH said AS (
    SELECT pair_key, json_extract(body_json, '$.transforms')::VARCHAR AS transforms FROM evidence
    WHERE pair_key IN (SELECT pair_key FROM slot WHERE dataset = $1)
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT ordinal, transforms FROM slot JOIN said USING (pair_key) WHERE dataset = $1 AND transforms IS NOT NULL
"""


def _record_slots(
    ledger: Ledger,
    home: Home,
    dataset: str,
    selected: Sequence[Mapping[str, Any]],
    where: str,
    purpose: str,
    attributions: Sequence[Mapping[str, object]],
) -> list[dict[str, Any]]:
    rows = [
        {
            "dataset": dataset,
            "ordinal": ordinal,
            "sample_key": r["sample_key"],
            "content_sha256": r["content_sha256"],
            "pair_key": r["pair_key"],
            "caption": r["caption"],
            "caption_origin": r["caption_origin"],
            "caption_run": r["caption_run"],
            "licence": r["licence"],
            "revocability": r["revocability"],
        }
        for ordinal, r in enumerate(selected)
    ]
    committed = ledger.commit_rows("slot", rows)
    commitments = committed.column("commitment").to_pylist()
    row = {
        "dataset": dataset,
        "root": dataset_root([bytes.fromhex(c) for c in commitments]),
        "slots": len(rows),
        "selection": where,
        "purpose": purpose,
        "ruleset_digest": home.ruleset.digest,
        "image_size": home.settings.images.size,
        "parent": None,
        "sealed_at": utc_now().replace(tzinfo=None),
        "classes_json": classes_json(class_ranges(r["revocability"] for r in rows)),
    }
    ledger.append_many(
        [
            ("dataset", [row], f"dataset/{dataset}"),
            ("slot", committed, f"dataset/{dataset}/slots"),
            ("attribution", attributions, f"dataset/{dataset}/attribution"),
        ]
    )
    return [
        {name: r[name] for name in SLOT[:-1]} | {"commitment": commitment}
        for r, commitment in zip(rows, commitments, strict=True)
    ]


_CLAIMS = """
SELECT pair_key, body_json FROM evidence
WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
"""


def _attributions(
    ledger: Ledger, home: Home, dataset: str, selected: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One attribution row a slot: title, creator, source, licence (CC BY and BY-SA ask for it; the rest deserve it)."""
    said = dict(ledger.query(_CLAIMS, [[r["pair_key"] for r in selected]]))
    smaller = f"shorter side at most {home.settings.images.size} px, encoded anew as JPEG without metadata"
    known: dict[tuple[str, str, str], Attribution] = {}
    rows = []
    for ordinal, sample in enumerate(selected):
        licence, evidence = sample["licence"] or NO_LICENCE, json.loads(said[sample["pair_key"]])
        claims = evidence.get("embedded"), evidence.get("licence_claims")
        changes = "; ".join(filter(None, (changes_of(evidence.get("transforms", ())), smaller)))
        # Many pictures come with the very same claims; beside those an attribution rests on their addresses alone.
        if (credit := known.get(key := (repr(claims), licence, changes))) is None:
            credit = known[key] = attribution(_claiming(*claims), licence, changes)
        rows.append(
            {
                "dataset": dataset,
                "ordinal": ordinal,
                "title": credit.title,
                "creator": credit.creator,
                "source_url": credit.source_url or evidence.get("page_url") or evidence["image_url"],
                "licence": credit.licence,
                "licence_url": credit.licence_url,
                "changes": credit.changes,
            }
        )
    return rows


def _claiming(embedded: dict[str, Any] | None, claims: list[dict[str, Any]] | None) -> Evidence:
    """Evidence of which nothing is known but what is claimed, in the picture and beside it."""
    return Evidence(
        page_url=None,
        image_url="",
        observed_at=datetime.min.replace(tzinfo=UTC),
        observer="",
        observer_version="",
        embedded=None if embedded is None else embedded_from_plain(embedded),
        licence_claims=None if claims is None else tuple(LicenceClaim(**claim) for claim in claims),
    )


def _samples(home: Home, ready: _Ready, store: PixelStore, progress: Progress) -> Iterator[SealedSample]:
    slots, credits = ready.slots, ready.credits
    standing = StandingTombstones(home.tombstones_path, ready.tombstones)
    missing = 0
    for done, slot in enumerate(slots, 1):
        if slot["sample_key"] is None or standing.now().covers_sample(slot["sample_key"]):
            continue
        try:
            jpeg = store.get(slot["content_sha256"])
        except InputError:
            # Removed at this moment, its pixels went first for whoever looks here.
            missing += standing.now().covers_sample(slot["sample_key"]) is None
            continue
        metadata = {
            "key": slot["sample_key"],
            "ordinal": slot["ordinal"],
            "content_sha256": slot["content_sha256"],
            "caption_origin": slot["caption_origin"],
            **({"alt": ready.replaced[slot["ordinal"]]} if slot["ordinal"] in ready.replaced else {}),
            **({"transforms": ready.transforms[slot["ordinal"]]} if slot["ordinal"] in ready.transforms else {}),
            **credits[slot["ordinal"]],
        }
        yield SealedSample(
            slot["ordinal"],
            slot["sample_key"],
            jpeg,
            "jpg",
            slot["caption"],
            _as_json(metadata),
        )
        if done % TOLD == 0 or done == len(slots):
            progress(done, len(slots), "seal: ")
    if missing:
        raise InputError(
            f"the kept pixels of {missing} samples are gone",
            where=str(home.pixels_path),
            remedy="Crawl their pages again; nothing was sealed without them",
        )


def _credits(ledger: Ledger, dataset: str) -> dict[int, dict[str, Any]]:
    statement = f"SELECT ordinal, {', '.join(CREDITS)} FROM attribution WHERE dataset = ?"  # noqa: S608  # names of ours
    return {ordinal: dict(zip(CREDITS, values, strict=True)) for ordinal, *values in ledger.query(statement, [dataset])}


def _manifest(ledger: Ledger, dataset: str) -> DatasetManifest:
    ((root, slots, selection, purpose, digest, size, sealed_at, classes),) = ledger.query(
        "SELECT root, slots, selection, purpose, ruleset_digest, image_size, sealed_at, classes_json FROM dataset "
        "WHERE dataset = ?",
        [dataset],
    )
    selected = hashlib.sha256(selection.encode()).hexdigest()
    ((occurrences, near),) = ledger.query(_STANDS_FOR, {"dataset": dataset})
    return DatasetManifest(
        *(dataset, root, slots, size, purpose, digest, selected, None, utc_text(sealed_at), occurrences, near),
        classes=classes_from_json(classes),
    )


# Counted up to the batch that fixed the slots, so that a sealing that goes on later says the same.
_STANDS_FOR = """
WITH fixed AS (SELECT batch_seq FROM dataset WHERE dataset = $dataset),
sealed AS (SELECT DISTINCT content_sha256 FROM slot WHERE dataset = $dataset AND content_sha256 IS NOT NULL),
showing AS (
    SELECT pair_key, content_sha256 FROM evidence
    WHERE pair_key IS NOT NULL AND batch_seq < (SELECT batch_seq FROM fixed)
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
), newest AS (
    SELECT content_sha256, representative_sha256 FROM duplicate
    WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
    AND batch_seq < (SELECT batch_seq FROM fixed)
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT (SELECT count(*) FROM showing SEMI JOIN sealed USING (content_sha256)),
       (SELECT count(*) FROM newest SEMI JOIN sealed ON sealed.content_sha256 = newest.representative_sha256
        WHERE newest.content_sha256 <> newest.representative_sha256)
"""


def _name_of(selected: Sequence[Mapping[str, Any]]) -> str:
    keys = "\n".join(sorted(r["sample_key"] for r in selected))  # whatever their order: classes may change
    return "ds-" + hashlib.blake2b(keys.encode(), digest_size=6).hexdigest()


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        raise InputError(
            f"{name!r} cannot name a dataset", where="--name", remedy="Use lower-case letters, digits, '.', '_' and '-'"
        )
