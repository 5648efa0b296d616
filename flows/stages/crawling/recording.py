"""The ledger takes over what a crawl found: part by part, each batch under a key that the ledger keeps.

A part is read group by group, and a picture unit's pairs meet its pictures here, so that neither the number of pages
nor of pictures needs memory. Killed and run again it goes on where it was: a batch whose key is there is not appended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from curation.duplicates import MIN_QUALITY
from curation.fetch import TRANSIENT_OUTCOMES
from curation.images import DecodeError, Shaped
from curation.observe import QUARANTINE, WITHHELD_BY, observe, observe_again, quarantined, withheld, without_picture
from curation.pair import ImageTextPair, canonical_url, sample_key, url_key
from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.crawling import plan
from flows.stages.crawling.changed import changed_contents, taken_back
from flows.stages.crawling.looks import Looks
from flows.stages.crawling.observer import OBSERVER
from flows.stages.crawling.recognising import REMOVED, WITHHELD, InForce, is_said_on_page, said_urls
from flows.stages.crawling.rows import PageSeen, facts_of, fetched_of, naive, outcome_of, pair_of, said_by
from flows.stages.duplicates import forget_vectors
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.origins import DocumentFiles, OriginFiles
from flows.stages.parts import part_groups, read_part, unit_id
from flows.stages.quarantine import is_listed, reduced_content, reduced_fetch, reduced_occurrence
from flows.stages.removing.suppressing import SUPPRESSED_BY
from policy.evidence import REMOVED_LIKENESS, Document, Evidence, OriginEvidence, Score
from policy.ledger import Ledger
from policy.registries import Registries
from policy.signals import registry, rsl
from policy.text import is_description

_KNOWN_BODIES = "SELECT body_sha256 FROM document WHERE body_sha256 IN (SELECT unnest(?::VARCHAR[]))"
# What a captioner has said of these bytes stays said, whenever and wherever they are seen again.
_CAPTIONED = """
SELECT content_sha256, CASE WHEN state = 'kept' THEN caption END, score
FROM caption WHERE model_digest IS NOT NULL AND content_sha256 IN (SELECT unnest(?::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
"""
# URLs that a crawl measured and that held something else when they were measured before.
_CHANGED = """
WITH now AS (
    SELECT url_key, content_sha256, batch_seq FROM content
    WHERE unit_id IN (SELECT unnest(?::VARCHAR[])) AND url_key IS NOT NULL
), before AS (
    SELECT c.url_key, arg_max(c.content_sha256, (c.batch_seq << 31) | c.row_no) AS content_sha256
    FROM content c JOIN now ON now.url_key = c.url_key AND c.batch_seq < now.batch_seq GROUP BY c.url_key
)
SELECT count(DISTINCT url_key) FROM now JOIN before USING (url_key) WHERE now.content_sha256 <> before.content_sha256
"""
_KNOWN_CONTENTS = """
SELECT DISTINCT content_sha256 FROM content WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[]))
"""
MISMATCH = "sha256-mismatch"
_ORIGINS_KEPT = 4_096
_MET = ("url", "outcome", "detail", "content_sha256", "pdq", "pdq_quality")


class _Remembered(dict[str, Any]):
    """A mapping on disk, each entry looked up once, the absent ones too; forgotten when there are too many."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        super().__init__()
        self._source = source

    def __missing__(self, key: str) -> Any:
        if len(self) >= _ORIGINS_KEPT:
            self.clear()
        found = self[key] = self._source.get(key)
        return found

    def __contains__(self, key: object) -> bool:
        return self[str(key)] is not None


class Recorder:
    """Appends one crawl's parts to the ledger that it was last told of."""

    ledger: Ledger
    in_force: InForce
    lists: Registries | None  # None: the ruleset does not ask them

    def __init__(self, home: Home, crawl: str) -> None:
        self.home, self.crawl, self.ruleset = home, crawl, home.ruleset
        self.origins: Mapping[str, OriginEvidence] = _Remembered(OriginFiles(home.origins_path))
        self.declared: Mapping[str, Document] = _Remembered(DocumentFiles(home.declared_path))
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.pairs = 0
        self._used: set[str] = set()
        self._in_force: InForce | None = None
        self._met: tuple[tuple[int, int], frozenset[str]] | None = None  # of which epochs: `_removed_pictures`
        self._gone: set[str] = set()  # contents that were kept by the crawl, and must not be any more

    def write_to(self, ledger: Ledger) -> None:
        """Append to this ledger from now on; what was asked to go, or listed, meanwhile counts."""
        self.ledger = ledger
        self.in_force = self._in_force = InForce.at(self.home, ledger, self._in_force)
        self.lists = self.home.registries(ledger) if registry.MECHANISM in self.ruleset.mechanisms else None

    def origins_asked(self, origins: Mapping[str, OriginEvidence]) -> None:
        """Append what origins say of themselves."""
        append_origins(self.ledger, self.crawl, origins)

    def documents(self) -> None:
        """Append the licence documents that the crawl's pairs declare, and the requests that nobody answered."""
        append_declared(self.ledger, self.crawl, {url: self.declared[url] for url in sorted(self._used)})
        append_silences(self.ledger, self.crawl, DocumentFiles(self.home.silences_path))

    def changed_contents(self) -> int:
        """How many URLs of this crawl hold other bytes than they held when they were seen before."""
        units = [u.unit for u in self._units()]
        [(changed,)] = self.ledger.query(_CHANGED, [units])
        return int(changed)

    # ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────

    def pages(self, part: Path) -> None:
        """Append a page part: what was asked, and the HTML of pages that name nothing that was removed."""
        for number, rows in enumerate(part_groups(part, [*_FETCH_COLUMNS, "body", "body_sha256", "page_json"])):
            self.outcomes.update(("page", outcome_of(row)) for row in rows)
            key = f"{self.crawl}/{part.stem}/{number}"
            kept = [row for row in rows if not self._is_covered(str(row["url"]), None) and not _is_removed(row)]
            whole = [row for row in kept if row["body"] is not None and not self._names_removed(row["page_json"])]
            _append_documents(self.ledger, key, [(Document.digest(row["body"]), row["body"]) for row in whole])
            fetches = [_ledger_fetch(row, "page", part.stem) for row in kept]
            if fetches:
                self.ledger.append("fetch", fetches, key=f"{key}/fetch")

    # ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────

    def pictures(self, unit: str) -> None:
        """Append a picture unit: what was asked and measured, and the pairs with their evidence."""
        rows = read_part(plan.part(self.home, self.crawl, "pictures", unit))
        self.outcomes.update(("picture", outcome_of(row)) for row in rows)
        # What a tombstone covers leaves no row: its URL or digest would be personal data that had just been erased.
        rows = [row for row in rows if not _is_removed(row) and not self._is_gone(row)]
        rows = self._not_said(rows, plan.pairs_file(self.home, self.crawl, unit))
        key = f"{self.crawl}/{unit}"
        listed = {str(row["url"]) for row in rows if row["outcome"] == WITHHELD or self._is_listed(row)}
        if rows:
            fetches = [_ledger_fetch(row, "image", unit, is_listed=row["url"] in listed) for row in rows]
            content = [
                reduced_content(c) if row["url"] in listed else c
                for row in rows
                if row["content_sha256"] is not None and (c := _content_row(row, unit))
            ]
            batches = [("fetch", fetches, f"{key}/fetch"), ("content", content, f"{key}/content")]
            # With the first of the unit's rows: before any evidence says that the pixels are others now.
            changed = changed_contents(self.ledger, rows)
            gone = taken_back(self.home, self.ledger, changed, key, naive(rows[0]["started_at"]))
            self.ledger.append_many([*(batch for batch in batches if batch[1]), *gone])
        pictures = {str(row["url"]): row for row in rows}
        shas = sorted({str(row["content_sha256"]) for row in rows if row["content_sha256"] is not None})
        captioned = {sha: (text, score) for sha, text, score in self.ledger.query(_CAPTIONED, [shas])} if shas else {}
        looks = Looks.of(self.ledger, shas)
        for number, waiting in enumerate(part_groups(plan.pairs_file(self.home, self.crawl, unit))):
            self._pairs(unit, f"{key}/{number}", waiting, pictures, captioned, looks, listed)

    def _pairs(
        self,
        unit: str,
        key: str,
        waiting: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, Mapping[str, Any]],
        captioned: Mapping[str, tuple[str | None, float | None]],
        looks: Looks,
        listed: Collection[str],
    ) -> None:
        """Append a group of pairs, each with its picture. One that a tombstone covers leaves no row at all.

        Of one whose picture is on a hash list hashes, times and states stay; of one that is like a removed picture what
        somebody needs who goes to look at it.
        """
        shown = [row for row in waiting if row["image_url"] in pictures and not self._is_covered(row["page_url"], None)]
        standing = self._standing(shown, pictures)
        occurrences, evidences, captions = [], [], []
        pages: dict[str, PageSeen] = {}
        for row in shown:
            picture = pictures[row["image_url"]]
            if picture["outcome"] == WITHHELD:
                pair_key = row["prior_key"] or pair_of(row).key
                if row["prior_key"] is None:
                    found_there = reduced_occurrence(_occurrence_row(pair_key, row, unit, picture["started_at"]))
                    occurrences.append(found_there | {name: row[name] for name in ("page_url", "image_url")})
                evidences.append((pair_key, _withheld(row, picture)))
                continue
            if row["prior_key"] is not None:
                found = self._again(standing.get(row["prior_key"]), picture)
                if found is None:
                    continue
                pair_key, evidence = row["prior_key"], found
            else:
                pair, page = pair_of(row), None
                if (text := row["page_json"]) is not None:
                    page = pages.get(text) or pages.setdefault(text, PageSeen.of(text))
                pair_key = pair.key
                evidence = self._evidence(pair, row["expected_sha256"], page, picture, standing.get(pair_key))
                seen_at = page.seen_at if page is not None else picture["started_at"]
                found_there = _occurrence_row(pair_key, row, unit, seen_at)
                occurrences.append(reduced_occurrence(found_there) if row["image_url"] in listed else found_there)
            if row["image_url"] in listed:
                evidences.append((pair_key, quarantined(evidence)))
                continue
            evidence = looks.onto(pair_key, self._with_declared(evidence))
            sha = evidence.content_sha256
            described = evidence.alt is not None and is_description(evidence.alt, self.ruleset.text)
            if not described and sha is not None and sha in captioned:
                caption, score = captioned[sha]
                evidence = replace(evidence, caption=caption, caption_score=score)
            evidences.append((pair_key, evidence))
            if described and evidence.alt is not None and sha is not None:
                captions.append(_alt_row(pair_key, sha, evidence))
        self.pairs += len(evidences)
        batches = [("occurrence", occurrences, f"{key}/occurrence"), ("caption", captions, f"{key}/caption")]
        observed = evidence_batches(self.ledger, evidences, unit, key)
        if found_any := [*(batch for batch in batches if batch[1]), *observed]:
            self.ledger.append_many(found_any)

    def _standing(
        self, rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Evidence]:
        """The newest evidence of pairs that are asked again, and of those whose picture did not answer this time."""
        keys = [
            row["prior_key"] or pair_of(row).key
            for row in rows
            if row["prior_key"] is not None or pictures[row["image_url"]]["outcome"] in TRANSIENT_OUTCOMES
        ]
        found = newest_evidence(self.ledger, keys, bodies=True) if keys else {}
        return {key: evidence for key, evidence in found.items() if evidence.observer != WITHHELD_BY}

    def _evidence(
        self,
        pair: ImageTextPair,
        expected_sha256: str | None,
        page: PageSeen | None,
        picture: Mapping[str, Any],
        standing: Evidence | None,
    ) -> Evidence:
        """The evidence of a pair that was found. What did not answer this time leaves what is known of the picture."""
        evidence = observed_pair(pair, page, picture, facts_of(picture), self.origins)
        if picture["outcome"] in TRANSIENT_OUTCOMES and standing is not None and standing.content_sha256 is not None:
            return observe_again(standing, page=evidence)
        if expected_sha256 is not None and evidence.content_sha256 not in (None, expected_sha256):
            # The list speaks of other bytes than those that hang there now.
            return without_picture(evidence, MISMATCH)
        return evidence

    def _again(self, standing: Evidence | None, picture: Mapping[str, Any]) -> Evidence | None:
        """The evidence of a pair on record whose picture was asked again; None where nothing new was seen."""
        if (
            standing is None
            or standing.observer in (QUARANTINE, WITHHELD_BY)
            or picture["outcome"] in TRANSIENT_OUTCOMES
        ):
            return None  # of what was quarantined or withheld only its page's next crawl tells more
        fetched, now = fetched_of(picture, "image"), picture["started_at"]
        return observe_again(standing, image=fetched, facts=facts_of(picture), origins=self.origins, now=now)

    def _with_declared(self, evidence: Evidence) -> Evidence:
        """The evidence with the licence documents that it declares."""
        if rsl.MECHANISM not in self.ruleset.mechanisms:
            return evidence
        urls = [u for u in rsl.declared_urls(evidence, self.ruleset.robots) if u in self.declared]
        self._used.update(urls)
        return replace(evidence, declared=tuple(self.declared[url] for url in urls)) if urls else evidence

    def _is_listed(self, row: Mapping[str, Any]) -> bool:
        """Whether a hash list names a picture's bytes."""
        sha = row["content_sha256"]
        if self.lists is None or not self.lists.lists or sha is None:
            return False
        return is_listed(self.lists, sha256=sha, md5=row["content_md5"], pdq=row["pdq"])

    def _is_covered(self, url: str | None, sha256: str | None) -> bool:
        tombstones = self.in_force.tombstones
        if url is not None and tombstones.covers_url(url):
            return True
        return sha256 is not None and tombstones.covers_content(sha256) is not None

    def _names_removed(self, page_json: str | None) -> bool:
        """Whether the page shows a picture that was removed, known by its address, as what it was found to be when it
        was asked, or by what is said of it: the HTML would bring back what was erased.
        """
        if page_json is None or not self.in_force.tombstones.removals:
            return False
        removed = self._removed_pictures()
        return any(
            pair["image_url"] in removed
            or self._is_covered(pair["image_url"], None)
            or is_said_on_page(self.in_force.tombstones, pair)
            for pair in json.loads(page_json)["pairs"]
        )

    def _removed_pictures(self) -> frozenset[str]:
        """The addresses at which this crawl met what was removed, whatever had been known of them."""
        epochs = self.in_force.epochs
        if self._met is None or self._met[0] != epochs:
            parts = [plan.part(self.home, self.crawl, "pictures", u.unit) for u in self._units()]
            rows = (row for part in parts if part.exists() for rows in part_groups(part, _MET) for row in rows)
            met = frozenset(str(row["url"]) for row in rows if _is_removed(row) or self._is_removed_now(row))
            self._met = epochs, met
        return self._met[1]

    def _units(self) -> Sequence[plan.PictureUnit]:
        return plan.picture_units(self.home, self.crawl) or ()

    def _is_gone(self, row: Mapping[str, Any]) -> bool:
        """Whether a picture was removed, or is a removed one's copy, by now: what the crawl kept of it goes as well."""
        is_gone = self._is_removed_now(row)
        if is_gone and row["content_sha256"] is not None:
            self._gone.add(row["content_sha256"])
        return is_gone

    def _is_removed_now(self, row: Mapping[str, Any]) -> bool:
        sha = row["content_sha256"]
        told = row["pdq"] if (row["pdq_quality"] or 0) >= MIN_QUALITY else None
        return self._is_covered(str(row["url"]), sha) or (sha is not None and self.in_force.is_copy(sha, told))

    def _not_said(self, rows: list[dict[str, Any]], pairs: Path) -> list[dict[str, Any]]:
        """The rows of pictures of which nobody says that they are what was removed, and that are no others' bytes.

        A name or text on one page, or in the bytes, is enough: equal bytes go together.
        """
        tombstones = self.in_force.tombstones
        if not tombstones.hears:
            return rows
        said = said_urls(tombstones, pairs)
        named = [
            row
            for row in rows
            if (row["url"] in said and not tombstones.stays(row["content_sha256"]))
            or tombstones.covers_said(said_by(row), content=row["content_sha256"], url=str(row["url"]))
        ]
        urls, shas = {row["url"] for row in named}, {row["content_sha256"] for row in named} - {None}
        self._gone |= shas
        return [row for row in rows if row["url"] not in urls and row["content_sha256"] not in shas]

    def forget_gone(self) -> int:
        """Delete the pixels and embeddings that were kept of pictures before they were removed; how many there were.

        To be called once their rows are passed over. What still has another row is somebody else's to decide on.
        """
        if not self._gone:
            return 0
        known = {sha for (sha,) in self.ledger.query(_KNOWN_CONTENTS, [sorted(self._gone)])}
        orphans = sorted(self._gone - known)
        self._gone.clear()
        forget_vectors(self.home, orphans)
        return PixelStore(self.home.pixels_path).delete_all(orphans)


def _is_removed(row: Mapping[str, Any]) -> bool:
    """Whether the way ended at what was removed: the address that led there would be a hint to it."""
    return row["outcome"] == "refused-by-policy" and row["detail"] in REMOVED


def _withheld(row: Mapping[str, Any], picture: Mapping[str, Any]) -> Evidence:
    likeness = Score(REMOVED_LIKENESS, float(picture["detail"]), SUPPRESSED_BY)
    return withheld(row["page_url"], row["image_url"], picture["content_sha256"], likeness, picture["started_at"])


def observed_pair(
    pair: ImageTextPair,
    page: PageSeen | None,
    picture: Mapping[str, Any],
    facts: Shaped | DecodeError | None,
    origins: Mapping[str, OriginEvidence],
) -> Evidence:
    """The evidence of a pair that was found: its page, the row of its picture, and what came of that one's bytes."""
    moments = [picture["started_at"], *([page.seen_at] if page is not None else [])]
    return observe(
        pair,
        page=page.fetched if page is not None else None,
        page_meta=page.meta if page is not None else None,
        page_rsl=page.rsl if page is not None else None,
        image=fetched_of(picture, "image"),
        origins=origins,
        facts=facts,
        tombstoned="",  # asked just before: what a tombstone covers leaves no row at all
        now=min(moments),  # as old as the older of the two
    )


# ── documents ──────────────────────────────────────────────────────────────────────────────────────────────────────


def append_origins(ledger: Ledger, crawl: str, origins: Mapping[str, OriginEvidence]) -> None:
    """Append what origins say of themselves: bodies and requests, some hundred origins at a time."""
    names = list(origins)
    for number, start in enumerate(range(0, max(len(names), 1), _ORIGINS_AT_ONCE)):
        some = [origins[name] for name in names[start : start + _ORIGINS_AT_ONCE]]
        documents = [(f"origin-{n}", d) for o in some for n, d in o.documents]
        key = f"{crawl}/origins" + (f"/{number}" if number else "")
        _append_documents(ledger, key, ((d.body_sha256, d.body) for _, d in documents))
        ledger.append("fetch", [_document_row(kind, d, crawl) for kind, d in documents], key=f"{key}/fetch")


_ORIGINS_AT_ONCE = 500


def append_declared(ledger: Ledger, key: str, documents: Mapping[str, Document]) -> None:
    """Append documents that were asked for because somebody declared them, bodies and requests."""
    if documents:
        _append_documents(ledger, f"{key}/declared", ((d.body_sha256, d.body) for d in documents.values()))
        rows = [_document_row("declared", d, key) for _, d in sorted(documents.items())]
        ledger.append("fetch", rows, key=f"{key}/declared/fetch")


def append_silences(ledger: Ledger, key: str, silences: Mapping[str, Document]) -> None:
    """Append the requests that nobody answered while an older copy counts: the copy's evidence does not show them."""
    if rows := [_document_row("unanswered", d, key) for _, d in sorted(silences.items())]:
        ledger.append("fetch", rows, key=f"{key}/silences/fetch")


def _document_row(kind: str, document: Document, unit: str) -> dict[str, object]:
    return {
        "url": document.url,
        "url_key": url_key(canonical_url(document.url)),
        "kind": kind,
        "status": document.status,
        "outcome": document.error or ("ok" if document.status in (200, 203) else f"http-{document.status}"),
        "final_url": document.url,
        "hops_json": json.dumps([{"url": document.url, "status": document.status, "headers": document.headers}]),
        "body_sha256": document.body_sha256,
        "size_bytes": len(document.body or b""),
        "started_at": naive(document.fetched_at),
        "elapsed_ms": None,
        "observer": OBSERVER,
        "unit_id": unit,
    }


def _append_documents(ledger: Ledger, key: str, bodies: Iterable[tuple[str | None, bytes | None]]) -> None:
    wanted = {sha: body for sha, body in bodies if sha is not None and body is not None}
    known = {sha for (sha,) in ledger.query(_KNOWN_BODIES, [list(wanted)])} if wanted else set()
    rows = [
        {"body_sha256": sha, "body": body, "media_type": None, "size_bytes": len(body)}
        for sha, body in sorted(wanted.items())
        if sha not in known
    ]
    if rows:
        # The same place may be appended twice: killed in between, it finds documents that were asked for anew.
        ledger.append("document", rows, key=f"{key}/document/{unit_id(*(str(r['body_sha256']) for r in rows))[:16]}")


# ── rows of the ledger ─────────────────────────────────────────────────────────────────────────────────────────────

_FETCH_COLUMNS = ("url", "outcome", "detail", "status", "final_url", "hops_json", "started_at", "elapsed_ms")


def _ledger_fetch(row: Mapping[str, Any], kind: str, unit: str, *, is_listed: bool = False) -> dict[str, object]:
    body = row.get("body")
    known = row.get("body_sha256") or row.get("content_sha256")
    fetched = {
        "url": row["url"],
        "url_key": url_key(row["url"]),
        "kind": kind,
        "status": row["status"],
        "outcome": row["outcome"],
        "final_url": row["final_url"],
        "hops_json": row["hops_json"],
        "body_sha256": Document.digest(body) if body is not None else known,
        "size_bytes": len(body) if body is not None else row.get("size_bytes"),
        "started_at": naive(row["started_at"]),
        "elapsed_ms": row["elapsed_ms"],
        "observer": OBSERVER,
        "unit_id": unit,
    }
    return reduced_fetch(fetched) if is_listed else fetched


def _content_row(row: Mapping[str, Any], unit: str) -> dict[str, object]:
    return {
        "content_sha256": row["content_sha256"],
        "url_key": url_key(str(row["url"])),
        "media_type": row["media_type"],
        "width": row["width"],
        "height": row["height"],
        "size_bytes": row["size_bytes"],
        "pdq": row["pdq"],
        "pdq_quality": row["pdq_quality"],
        "faces_json": row["faces_json"],
        "face_count": None if row["faces_json"] is None else len(json.loads(str(row["faces_json"]))),
        "face_detector": row["face_detector"],
        "unit_id": unit,
        "observed_at": naive(row["started_at"]),
    }


def _occurrence_row(pair_key: str, row: Mapping[str, Any], unit: str, seen_at: datetime) -> dict[str, object]:
    return {
        "pair_key": pair_key,
        "page_url": row["page_url"],
        "page_key": None if row["page_url"] is None else url_key(row["page_url"]),
        "image_url": row["image_url"],
        "url_key": url_key(row["image_url"]),
        "alt": row["alt"],
        "text_origin": row["text_origin"],
        "hints_json": row["claims_json"],
        "unit_id": unit,
        "seen_at": naive(seen_at),
    }


def _alt_row(key: str, sha: str, evidence: Evidence) -> dict[str, object]:
    text, origin = evidence.alt or "", evidence.text_origin or "alt"
    return {
        "sample_key": sample_key(sha, text, origin),
        "pair_key": key,
        "content_sha256": sha,
        "caption": text,
        "caption_origin": origin,
        "source": None,
        "source_kind": "page",
        "state": "kept",
        "captioned_at": naive(evidence.observed_at),
    }
