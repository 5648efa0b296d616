"""Crawl: seeds -> pages -> pairs -> pictures, in work units whose parts the ledger takes over.

A crawl is a directory under crawls/: plan.json (the seeds), one frontier a depth, one list of picture units, and the
units' parts. It is gone when the ledger has everything. All of it can be killed anywhere: a unit without its part is
run again, a part that is there is used, and the ledger knows each batch by its key.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from curation.fetch import FetchConfig, Fetched, Fetcher, Request
from curation.hosts import DeclaredDocuments, FileClaims, OriginDocuments
from curation.images import DecodeError, DecodeLimits, DecodePool, PixelStore, ShapeConfig, Shaped
from curation.observe import observe
from curation.pages import read_page
from curation.pair import ImageTextPair, canonical_url, origin_of, sample_key, secret_in_url, url_key
from flows.home import Home, utc_now
from flows.stages.evidence import evidence_batches
from flows.stages.origins import DocumentFiles, OriginFiles
from flows.stages.parts import read_part, unit_id, write_part
from flows.terminal import Progress, silent
from policy.durable import sweep_unfinished, write_durably
from policy.errors import ConfigurationError, InputError
from policy.evidence import (
    Document,
    Evidence,
    Face,
    Hop,
    LicenceClaim,
    OriginEvidence,
    c2pa_from_plain,
    embedded_from_plain,
)
from policy.grants import Grants
from policy.ledger import Ledger
from policy.origins import host_of, site_of
from policy.registries import Registries
from policy.removals import Tombstones
from policy.ruleset import Ruleset
from policy.signals import registry, robots, rsl
from policy.signals.c2pa import check_trust_anchors
from policy.snapshot import publish
from policy.text import is_description
from policy.verdict import Judgement, Stance, Verdict

OBSERVER = "custody-crawl/1"
# What a captioner has said of these bytes stays said, whenever and wherever they are seen again.
_CAPTIONED = """
SELECT content_sha256, CASE WHEN state = 'kept' THEN caption END, score
FROM caption WHERE model_digest IS NOT NULL AND content_sha256 IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
"""
# A redirect to an origin whose documents nobody has asked for stops before it is contacted; the documents are
# fetched and the URL is asked again, at most this often.
REDIRECT_ROUNDS = 4
ORIGIN_NOT_ASKED = "origin-not-asked"

PAGE_SCHEMA = pa.schema(
    {
        "url": pa.string(),
        "outcome": pa.string(),
        "detail": pa.string(),
        "status": pa.int32(),
        "final_url": pa.string(),
        "refused_url": pa.string(),
        "hops_json": pa.string(),
        "body": pa.binary(),
        "started_at": pa.timestamp("us", tz="UTC"),
        "elapsed_ms": pa.float64(),
        "page_json": pa.string(),
    }
)
IMAGE_SCHEMA = pa.schema(
    {
        "url": pa.string(),
        "outcome": pa.string(),
        "detail": pa.string(),
        "status": pa.int32(),
        "final_url": pa.string(),
        "refused_url": pa.string(),
        "hops_json": pa.string(),
        "started_at": pa.timestamp("us", tz="UTC"),
        "elapsed_ms": pa.float64(),
        "content_sha256": pa.string(),
        "content_md5": pa.string(),
        "media_type": pa.string(),
        "size_bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "pdq": pa.string(),
        "pdq_quality": pa.int32(),
        "faces_json": pa.string(),
        "face_detector": pa.string(),
        "embedded_json": pa.string(),
        "c2pa_json": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work of seconds to minutes: its id and the URLs it asks."""

    unit: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What a unit did, in counts by outcome; no URL in it."""

    unit: str
    outcomes: tuple[tuple[str, int], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class CrawlSummary:
    """What a crawl found. `outcomes`: ((kind, outcome), count)."""

    crawl: str
    pages: int
    pairs: int
    pictures: int
    outcomes: tuple[tuple[tuple[str, str], int], ...]


def read_seeds(arguments: Sequence[str]) -> tuple[str, ...]:
    """Seeds as canonical URLs: each argument is a URL, or a file with one a line (# begins a comment).

    Raises:
        InputError: no seed, a file that is not there, or one that is no http(s) URL (naming file and line).
    """
    seeds: dict[str, None] = {}
    for argument in arguments:
        if "://" not in argument and Path(argument).is_file():
            for number, line in enumerate(Path(argument).read_text("utf-8", "replace").splitlines(), 1):
                text = line.partition("#")[0].strip() if line.lstrip().startswith("#") else line.strip()
                if text:
                    seeds[_seed(text, f"{argument}:{number}")] = None
        else:
            seeds[_seed(argument, "seed")] = None
    if not seeds:
        raise InputError("no seed given", where="custody crawl", remedy="Name a page URL, or a file of them")
    return tuple(sorted(seeds))


def _seed(text: str, where: str) -> str:
    try:
        url = canonical_url(text)
    except InputError as error:
        raise InputError(
            f"{text!r} is no http(s) URL and no file ({error.what})", where=where, remedy="Write it as https://host/…"
        ) from error
    if secret_in_url(url) is not None:
        raise InputError(
            "the URL carries a password or a signature", where=where, remedy="Such URLs are neither asked nor stored"
        )
    return url


# ── the crawl's own files ──────────────────────────────────────────────────────────────────────────────────────────


def open_crawl(home: Home, seeds: tuple[str, ...]) -> str:
    """Go on with the unfinished crawl of these seeds, or begin the next one."""
    asked_before = -1
    for plan in _plans(home):
        if plan["finished"]:
            _let_go(home, plan["crawl"])  # killed after its last word, it may have left its files
        if plan["seeds_digest"] == unit_id(*seeds):
            if not plan["finished"]:
                return str(plan["crawl"])
            asked_before = max(asked_before, plan["number"])
    number = asked_before + 1
    crawl = unit_id("crawl", str(number), *seeds)[:16]
    plan = {
        "crawl": crawl,
        "number": number,
        "seeds_digest": unit_id(*seeds),
        "seeds": list(seeds),
        "finished": False,
        "opened_at": utc_now().isoformat(),
    }
    write_durably(_directory(home, crawl) / "plan.json", json.dumps(plan).encode())
    return crawl


def unfinished(home: Home) -> list[str]:
    """The crawls that were begun and not finished."""
    return [p["crawl"] for p in _plans(home) if not p["finished"]]


def finished(home: Home) -> list[str]:
    """The crawls that the ledger holds whole."""
    return [p["crawl"] for p in _plans(home) if p["finished"]]


def page_units(home: Home, crawl: str) -> list[str]:
    """The page units that can be run now, by depth; empty when every page within the limits has been asked.

    Called again after they ran, it lays the next depth's frontier out of the links they found.
    """
    for depth in range(home.settings.crawl.max_depth + 1):
        frontier = _frontier(home, crawl, depth)
        if frontier is None:
            frontier = _lay_frontier(home, crawl, depth)
        waiting = [u.unit for u in frontier if not _part(home, crawl, "pages", u.unit).exists()]
        if waiting or not frontier:
            return waiting
    return []


def image_units(home: Home, crawl: str) -> list[str]:
    """The picture units that still have to run."""
    units = _units(_directory(home, crawl) / "pictures.json")
    if units is None:
        urls = {pair["image_url"] for row in _pages(home, crawl) for pair in _page_json(row)["pairs"]}
        units = _split(sorted(urls), home.settings.crawl.images_per_unit, f"{crawl}/pictures")
        _store_units(_directory(home, crawl) / "pictures.json", units)
    return [u.unit for u in units if not _part(home, crawl, "pictures", u.unit).exists()]


def crawl(home: Home, seeds: tuple[str, ...], progress: Progress = silent) -> CrawlSummary:
    """The whole crawl in this process.

    Raises:
        InputError: not one picture was found; what was asked is in the ledger all the same.
    """
    name = open_crawl(home, seeds)
    ran = 0
    while units := page_units(home, name):
        for unit in units:
            run_page_unit(home, name, unit)
            ran += 1
            progress(ran, ran + len(units) - 1 - units.index(unit), "pages: ")
    pictures = image_units(home, name)
    for done, unit in enumerate(pictures):
        run_image_unit(
            home, name, unit, lambda n, of, done=done: progress(done * of + n, len(pictures) * of, "pictures: ")
        )
    return append_crawl(home, name, progress)


# ── units ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_page_unit(home: Home, crawl: str, unit: str) -> UnitSummary:
    """Ask a unit's pages and read the pairs on them; the unit's part is the outcome."""
    started = utc_now()
    urls = next(u.urls for u in _all_page_units(home, crawl) if u.unit == unit)
    observer = observer_at(home)
    rows = []
    for fetched in observer.fetch(urls, "page"):
        row = _fetch_row(fetched)
        html = fetched.body if fetched.ok and _is_html(fetched) else None
        row["body"] = html
        row["page_json"] = _read_page_json(html, fetched) if html is not None else None
        rows.append(row)
    rows.sort(key=lambda r: str(r["url"]))
    observer.declared(_seen(row, observer.known()) for row in rows if row["page_json"] is not None)
    write_part(_part(home, crawl, "pages", unit), rows, PAGE_SCHEMA)
    return _summary(unit, rows, started)


def run_image_unit(home: Home, crawl: str, unit: str, progress: Any = lambda done, total: None) -> UnitSummary:
    """Ask a unit's pictures; decode, fingerprint and look for faces; keep the pixels that we encoded."""
    started = utc_now()
    units = _units(_directory(home, crawl) / "pictures.json") or ()
    urls = next(u.urls for u in units if u.unit == unit)
    observer = observer_at(home)
    settings, pixels = home.settings.images, PixelStore(home.pixels_path)
    rows: list[dict[str, object]] = []

    def shaped(results: Iterable[tuple[object, Shaped | DecodeError]]) -> None:
        for row, result in results:
            assert isinstance(row, dict)  # the tag is the row that waits for its picture
            if isinstance(result, Shaped):
                if not observer.keeps_out(result):
                    pixels.put(result.content_sha256, result.jpeg)
                row |= _shaped_row(result)
            else:
                row |= {"outcome": f"decode-{result.code}", "detail": result.what}
            rows.append(row)

    with DecodePool(
        settings.decode_workers,
        config=ShapeConfig(settings.size, settings.quality, c2pa_trust_anchors=trust_anchors(home)),
        limits=DecodeLimits(max_pixels=settings.max_pixels),
        analyser="curation.face_detection:default_detector",
    ) as pool:
        for fetched in observer.fetch(urls, "image"):
            if fetched.ok:
                pool.submit(_fetch_row(fetched) | {"size_bytes": len(fetched.body)}, fetched.body)
            else:
                rows.append(_fetch_row(fetched))
            shaped(pool.ready())
            progress(len(rows), len(urls))
        shaped(pool.drain())
    progress(len(rows), len(urls))
    rows.sort(key=lambda r: str(r["url"]))
    observer.declared(_seen(row, observer.known()) for row in rows)
    write_part(_part(home, crawl, "pictures", unit), rows, IMAGE_SCHEMA)
    return _summary(unit, rows, started)


def trust_anchors(home: Home) -> str | None:
    """The certificates of [images] c2pa_trust_anchors in PEM; None trusts nobody. A relative path is the home's.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    named = home.settings.images.c2pa_trust_anchors
    if not named:
        return None
    file, where = home.path / named, f"{home.settings_path}, images.c2pa_trust_anchors"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigurationError(
            f"{file} cannot be read ({told})", where=where, remedy='Name a PEM file, or "" to trust nobody'
        ) from error
    try:
        check_trust_anchors(text)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}", where=where) from error
    return text


class Observer:
    """The network as one unit sees it: the fetcher behind the gate of tombstones, lists and the origins' documents."""

    def __init__(
        self,
        fetcher: Fetcher,
        origins: OriginDocuments,
        ruleset: Ruleset,
        tombstones: Tombstones,
        agent: str,
        registries: Registries | None = None,
        grants: Grants | None = None,
        declared: DeclaredDocuments | None = None,
    ) -> None:
        self.ruleset, self.tombstones = ruleset, tombstones
        self.registries, self.grants = registries or Registries(), grants or Grants()
        self._fetcher, self._origins, self._agent = fetcher, origins, agent
        self._declared = declared
        self._known: dict[str, OriginEvidence] = {}

    def fetch(
        self, urls: Sequence[str], kind: Literal["page", "image"], max_bytes: int | None = None
    ) -> Iterator[Fetched]:
        """Ask each URL once, its origin's documents before it; each redirect target's before it is contacted."""
        waiting = list(urls)
        for remaining in reversed(range(REDIRECT_ROUNDS)):
            # What is kept out anyway is no reason to ask its origin.
            self.documents(origin_of(u) for u in waiting if self._kept_out(u) is None)
            unasked: dict[str, list[str]] = {}
            for fetched in self._fetcher.fetch_all((Request(u, kind, max_bytes) for u in waiting), gate=self.gate):
                if fetched.detail == ORIGIN_NOT_ASKED and fetched.refused_url is not None and remaining:
                    unasked.setdefault(origin_of(fetched.refused_url), []).append(fetched.url)
                else:
                    yield fetched
            self.documents(unasked)
            waiting = [u for group in unasked.values() for u in group]

    def gate(self, url: str) -> str | None:
        """Why a URL may not be contacted, or None: nothing has been contacted for it yet."""
        if (code := self._kept_out(url)) is not None:
            return code
        origin = self._known.get(origin_of(url))
        if origin is None:
            return ORIGIN_NOT_ASKED
        if "robots" not in self.ruleset.mechanisms:
            return None
        judged = robots.may_fetch(origin.get("robots"), url, self._agent, utc_now(), self.ruleset.robots)
        if judged.verdict in (None, Verdict.ALLOW) or self._is_let_in(url, judged):
            return None
        return judged.reason.code

    def _kept_out(self, url: str) -> str | None:
        """Why a URL is out whatever its origin says."""
        url = canonical_url(url)
        if self.tombstones.covers_url(url):
            return "tombstoned"
        return "registry-listed" if self.registries.covers_url(url) else None

    def keeps_out(self, picture: Shaped) -> bool:
        """Whether a removal or a hash list names these bytes: they are known by their digests, and never kept."""
        if self.tombstones.covers_content(picture.content_sha256):
            return True
        answers = self.registries.answers(sha256=picture.content_sha256, md5=picture.content_md5, pdq=picture.pdq)
        return any(answer.match for answer in answers)

    def _is_let_in(self, url: str, judged: Judgement) -> bool:
        """Whether who runs the site has agreed, whatever its robots.txt says; silence is no answer to that."""
        said_no = any(signal.stance is Stance.DENY for signal in judged.signals)
        return said_no and self.grants.may_fetch(canonical_url(url), robots.MECHANISM, utc_now())

    def known(self) -> Mapping[str, OriginEvidence]:
        """What the origins asked so far say of themselves."""
        return self._known

    def documents(self, origins: Iterable[str]) -> dict[str, OriginEvidence]:
        """What these origins say of themselves, asked once each (and not again within 24 hours)."""
        wanted = sorted(set(origins) - self._known.keys())
        if wanted:
            self._known |= self._origins.for_origins(wanted, utc_now())
        return dict(self._known)

    def declared(self, seen: Iterable[Evidence]) -> dict[str, Document]:
        """The licence documents that this evidence declares, by address, asked once each (and again after 24 hours)."""
        if self._declared is None or rsl.MECHANISM not in self.ruleset.mechanisms:
            return {}
        urls = {url for evidence in seen for url in rsl.declared_urls(evidence, self.ruleset.robots)}
        return self._declared.for_urls(sorted(url for url in urls if self._may_be_read(url)), utc_now())

    def _may_be_read(self, url: str) -> bool:
        """Whether a declared address may be contacted: a web address without secrets, that nothing keeps out."""
        try:
            return secret_in_url(canonical_url(url)) is None and self._kept_out(url) is None
        except InputError:
            return False


def observer_at(home: Home) -> Observer:
    """An observer as the home sets it up: rules, tombstones, lists, grants; origins are asked again after 24 hours."""
    settings = home.settings.crawl
    fetcher = Fetcher(
        FetchConfig(
            product=home.product,
            contact=settings.contact or None,
            allow_addresses=settings.allow_addresses,
            concurrency=settings.concurrency,
            per_origin_concurrency=settings.concurrency_per_origin,
            per_origin_delay_s=settings.delay_per_origin_s,
            deadline_s=settings.deadline_s,
            min_rate_bytes_per_s=settings.min_rate_bytes_s,
            max_redirects=settings.max_redirects,
            max_page_bytes=settings.max_page_bytes,
            max_image_bytes=settings.max_image_bytes,
            max_document_bytes=home.ruleset.robots.max_bytes,
        )
    )
    silences = DocumentFiles(home.silences_path)
    origins = OriginDocuments(
        fetcher,
        home.ruleset.origin_documents,
        OriginFiles(home.origins_path),
        claims=FileClaims(home.origins_path),
        silences=silences,
    )
    declared = DeclaredDocuments(
        fetcher, DocumentFiles(home.declared_path), claims=FileClaims(home.declared_path), silences=silences
    )
    registries = home.registries() if registry.MECHANISM in home.ruleset.mechanisms else None
    return Observer(
        fetcher, origins, home.ruleset, home.tombstones(), home.product, registries, home.grants(), declared
    )


# ── the ledger takes over ──────────────────────────────────────────────────────────────────────────────────────────


def append_crawl(home: Home, crawl: str, progress: Progress = silent) -> CrawlSummary:
    """Append a crawl's parts to the ledger, unit by unit, then let the crawl's files go."""
    origins, declared = OriginFiles(home.origins_path), DocumentFiles(home.declared_path)
    used: dict[str, Document] = {}
    pictures: dict[str, dict[str, Any]] = {str(row["url"]): row for row in _pictures(home, crawl)}
    tombstones, ruleset = home.tombstones(), home.ruleset
    page_parts = sorted((_directory(home, crawl) / "parts" / "pages").glob("*.parquet"))
    outcomes: Counter[tuple[str, str]] = Counter(("picture", _outcome(r)) for r in pictures.values())
    pairs = 0
    with home.ledger() as ledger:
        append_origins(ledger, crawl, origins)
        _append_pictures(ledger, crawl, home, tombstones)
        for done, part in enumerate(page_parts, 1):
            rows = read_part(part)
            outcomes.update(("page", _outcome(r)) for r in rows)
            pairs += _append_pages(
                ledger, crawl, part.stem, rows, pictures, origins, declared, used, tombstones, ruleset
            )
            progress(done, len(page_parts), "ledger: ")
        append_declared(ledger, crawl, used)
        append_silences(ledger, crawl, DocumentFiles(home.silences_path))
        publish(ledger, home.snapshot_path, now=utc_now())
    unanswered = {d.error for seed in _plan(home, crawl).get("seeds", ()) for d in _documents(origins, origin_of(seed))}
    _finish(home, crawl)
    sweep_unfinished(home.pixels_path)
    summary = CrawlSummary(
        crawl, outcomes.total() - len(pictures), pairs, len(pictures), tuple(sorted(outcomes.items()))
    )
    if not pairs:
        said = ", ".join(f"{k} {o}: {n}" for (k, o), n in summary.outcomes) or "nothing was asked"
        raise InputError(
            f"no image-text pair was found ({said})", where="custody crawl", remedy=_remedy(summary, unanswered)
        )
    return summary


def _outcome(row: Mapping[str, Any]) -> str:
    """The outcome; of what was not asked, also why."""
    outcome = str(row["outcome"])
    return f"{outcome} ({row['detail']})" if outcome == "refused-by-policy" and row["detail"] else outcome


def _documents(origins: Mapping[str, OriginEvidence], origin: str) -> list[Document]:
    return [d for _, d in origins[origin].documents] if origin in origins else []


def _remedy(summary: CrawlSummary, unanswered: Collection[str | None]) -> str:
    """What to try next. `unanswered`: why the seeds' origins did not answer for their documents."""
    if "forbidden-address" in unanswered:
        return "A seed leads to no public address: if it is yours, name it in allow_addresses of custody.toml"
    said = {outcome for (kind, outcome), _ in summary.outcomes if kind == "page"}
    if said == {"ok"}:
        return "The pages were read and hold no pictures: name others"
    if "refused-by-policy (robots-unreachable)" in said:
        return "The site does not answer for its robots.txt: try a page in a browser; it is asked again after an hour"
    return "Try a seed with `custody inspect fetch URL`"


def append_origins(ledger: Ledger, crawl: str, origins: Mapping[str, OriginEvidence]) -> None:
    documents = [(f"origin-{n}", d) for o in origins.values() for n, d in o.documents]
    _append_documents(ledger, f"{crawl}/origins", {d.body_sha256: d.body for _, d in documents})
    rows = [_document_row(kind, d, crawl) for kind, d in documents]
    ledger.append("fetch", rows, key=f"{crawl}/origins/fetch")


def append_declared(ledger: Ledger, key: str, documents: Mapping[str, Document]) -> None:
    """Append documents that were asked for because somebody declared them, bodies and requests."""
    if documents:
        _append_documents(ledger, f"{key}/declared", {d.body_sha256: d.body for d in documents.values()})
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
        "started_at": _naive(document.fetched_at),
        "elapsed_ms": None,
        "observer": OBSERVER,
        "unit_id": unit,
    }


def _append_documents(ledger: Ledger, key: str, bodies: Mapping[str | None, bytes | None]) -> None:
    wanted = {sha: body for sha, body in bodies.items() if sha is not None and body is not None}
    known = {s for (s,) in ledger.query("SELECT body_sha256 FROM document WHERE body_sha256 IS NOT NULL")}
    rows = [
        {"body_sha256": sha, "body": body, "media_type": None, "size_bytes": len(body)}
        for sha, body in sorted(wanted.items())
        if sha not in known
    ]
    if rows:
        # The same place may be appended twice: killed in between, it finds documents that were asked for anew.
        ledger.append("document", rows, key=f"{key}/document/{unit_id(*(str(r['body_sha256']) for r in rows))[:16]}")


def _append_pictures(ledger: Ledger, crawl: str, home: Home, tombstones: Tombstones) -> None:
    for part in sorted((_directory(home, crawl) / "parts" / "pictures").glob("*.parquet")):
        # What a tombstone covers leaves no row: its URL or digest would be personal data that had just been erased.
        rows = [
            r
            for r in read_part(part)
            if not tombstones.covers_url(str(r["url"]))
            and not (r["content_sha256"] and tombstones.covers_content(str(r["content_sha256"])))
        ]
        if rows:
            fetches = [_ledger_fetch(r, "image", part.stem) for r in rows]
            ledger.append("fetch", fetches, key=f"{crawl}/{part.stem}/fetch")
        content = [
            {
                "content_sha256": r["content_sha256"],
                "url_key": url_key(str(r["url"])),
                "media_type": r["media_type"],
                "width": r["width"],
                "height": r["height"],
                "size_bytes": r["size_bytes"],
                "pdq": r["pdq"],
                "pdq_quality": r["pdq_quality"],
                "faces_json": r["faces_json"],
                "face_count": None if r["faces_json"] is None else len(json.loads(str(r["faces_json"]))),
                "face_detector": r["face_detector"],
                "unit_id": part.stem,
                "observed_at": _naive(r["started_at"]),
            }
            for r in rows
            if r["content_sha256"] is not None
        ]
        if content:
            ledger.append("content", content, key=f"{crawl}/{part.stem}/content")


def _append_pages(
    ledger: Ledger,
    crawl: str,
    unit: str,
    rows: Sequence[dict[str, Any]],
    pictures: Mapping[str, dict[str, Any]],
    origins: Mapping[str, OriginEvidence],
    declared: Mapping[str, Document],
    used: dict[str, Document],
    tombstones: Tombstones,
    ruleset: Ruleset,
) -> int:
    occurrences, evidences, captions = [], [], []
    bodies: dict[str | None, bytes | None] = {}
    captioned = {sha: (caption, score) for sha, caption, score in ledger.query(_CAPTIONED)}
    for row in rows:
        if row["body"] is not None:
            bodies[Document.digest(row["body"])] = row["body"]
        if row["page_json"] is None:
            continue
        page = _page_json(row)
        for pair in (_pair(p) for p in page["pairs"]):
            picture = pictures.get(pair.image_url)
            if _tombstoned(pair, picture, tombstones):
                continue
            observed_at: datetime = (picture or row)["started_at"]
            evidence = _evidence(pair, row, page, picture, origins, observed_at)
            documents = {u: declared[u] for u in rsl.declared_urls(evidence, ruleset.robots) if u in declared}
            evidence = replace(evidence, declared=tuple(documents.values()))
            bodies |= {d.body_sha256: d.body for d in documents.values()}
            used |= documents
            text, sha = evidence.alt, evidence.content_sha256
            described = text is not None and is_description(text, ruleset.text)
            if not described and sha in captioned:
                caption, score = captioned[sha]
                evidence = replace(evidence, caption=caption, caption_score=score)
            occurrences.append(_occurrence_row(pair, unit, row))
            evidences.append((pair.key, evidence))
            if described and text is not None and sha is not None:
                captions.append(_alt_row(pair.key, sha, text, evidence.text_origin or "alt", observed_at))
    _append_documents(ledger, f"{crawl}/{unit}", bodies)
    ledger.append("fetch", [_ledger_fetch(r, "page", unit) for r in rows], key=f"{crawl}/{unit}/fetch")
    batches = [(t, rows, f"{crawl}/{unit}/{t}") for t, rows in (("occurrence", occurrences), ("caption", captions))]
    observed = evidence_batches(ledger, evidences, unit, f"{crawl}/{unit}")
    ledger.append_many([*(batch for batch in batches if batch[1]), *observed])
    return len(occurrences)


def _evidence(
    pair: ImageTextPair,
    page_row: Mapping[str, Any],
    page: Mapping[str, Any],
    picture: Mapping[str, Any] | None,
    origins: Mapping[str, OriginEvidence],
    observed_at: datetime,
) -> Evidence:
    return observe(
        pair,
        page=_fetched(page_row, "page"),
        page_meta=tuple((name, content) for name, content in page["meta"]),
        page_rsl=tuple((kind, value) for kind, value in page["rsl"]),
        image=_fetched(picture, "image") if picture is not None else None,
        origins=origins,
        facts=_facts(picture) if picture is not None else None,
        tombstoned="",  # asked just before: what a tombstone covers leaves no row at all
        now=observed_at,
    )


def _seen(row: Mapping[str, Any], origins: Mapping[str, OriginEvidence]) -> Evidence:
    """A page or a picture by itself, as far as it may declare licence documents."""
    hops = _hops(row["hops_json"])
    about = dict.fromkeys(origin_of(url) for url in (row["url"], *(hop.url for hop in hops)))
    return Evidence(
        page_url=None,
        image_url=row["url"],
        observed_at=row["started_at"],
        observer=OBSERVER,
        observer_version="",
        origins=tuple(origins[origin] for origin in about if origin in origins),
        page_rsl=tuple((kind, value) for kind, value in _page_json(row)["rsl"]) if row.get("page_json") else None,
        hops=hops,
    )


def _tombstoned(pair: ImageTextPair, picture: Mapping[str, Any] | None, tombstones: Tombstones) -> bool:
    sha = picture["content_sha256"] if picture is not None else None
    return bool(
        tombstones.covers_url(pair.image_url)
        or (pair.page_url is not None and tombstones.covers_url(pair.page_url))
        or (sha is not None and tombstones.covers_content(sha))
    )


# ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fetch_row(fetched: Fetched) -> dict[str, object]:
    return {
        "url": fetched.url,
        "outcome": fetched.outcome,
        "detail": fetched.detail,
        "status": fetched.status,
        "final_url": fetched.final_url,
        "refused_url": fetched.refused_url,
        "hops_json": json.dumps([asdict(h) for h in fetched.hops], ensure_ascii=False),
        "started_at": fetched.started_at or utc_now(),  # refused before it was asked
        "elapsed_ms": fetched.elapsed_s * 1000,
    }


def _shaped_row(shaped: Shaped) -> dict[str, object]:
    return {
        "content_sha256": shaped.content_sha256,
        "content_md5": shaped.content_md5,
        "media_type": shaped.media_type,
        "width": shaped.width,
        "height": shaped.height,
        "pdq": shaped.pdq,
        "pdq_quality": shaped.pdq_quality,
        # Not looked for, or the detector failed, is not "no face".
        "faces_json": None if shaped.faces is None else json.dumps([asdict(f) for f in shaped.faces]),
        "face_detector": shaped.face_detector,
        "embedded_json": None if shaped.embedded is None else json.dumps(asdict(shaped.embedded)),
        "c2pa_json": None if shaped.c2pa is None else json.dumps(asdict(shaped.c2pa)),
    }


def _ledger_fetch(row: Mapping[str, Any], kind: str, unit: str) -> dict[str, object]:
    body = row.get("body")
    return {
        "url": row["url"],
        "url_key": url_key(row["url"]),
        "kind": kind,
        "status": row["status"],
        "outcome": row["outcome"],
        "final_url": row["final_url"],
        "hops_json": row["hops_json"],
        "body_sha256": Document.digest(body) if body is not None else row.get("content_sha256"),
        "size_bytes": len(body) if body is not None else row.get("size_bytes"),
        "started_at": _naive(row["started_at"]),
        "elapsed_ms": row["elapsed_ms"],
        "observer": OBSERVER,
        "unit_id": unit,
    }


def _occurrence_row(pair: ImageTextPair, unit: str, page_row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "pair_key": pair.key,
        "page_url": pair.page_url,
        "page_key": pair.page_key,
        "image_url": pair.image_url,
        "url_key": pair.url_key,
        "alt": pair.alt,
        "text_origin": pair.text_origin,
        "hints_json": json.dumps([asdict(c) for c in pair.licence_claims], ensure_ascii=False),
        "unit_id": unit,
        "seen_at": _naive(page_row["started_at"]),
    }


def _alt_row(key: str, sha: str, text: str, origin: str, observed_at: datetime) -> dict[str, object]:
    return {
        "sample_key": sample_key(sha, text, origin),
        "pair_key": key,
        "content_sha256": sha,
        "caption": text,
        "caption_origin": origin,
        "source": None,
        "source_kind": "page",
        "state": "kept",
        "captioned_at": _naive(observed_at),
    }


def _faces(text: Any) -> tuple[Face, ...] | None:
    return None if text is None else tuple(Face(**f) for f in json.loads(text))


def _naive(moment: Any) -> datetime:
    """UTC without a zone, as DuckDB's TIMESTAMP has it."""
    return datetime.fromtimestamp(moment.timestamp(), tz=utc_now().tzinfo).replace(tzinfo=None)


def _hops(text: str) -> tuple[Hop, ...]:
    return tuple(Hop(h["url"], h["status"], tuple((n, v) for n, v in h["headers"])) for h in json.loads(text))


def _fetched(row: Mapping[str, Any], kind: Literal["page", "image"]) -> Fetched:
    """A part's row as the fetch it came from, without the body. A picture that would not decode was fetched well."""
    decoded = not str(row["outcome"]).startswith("decode-")
    return Fetched(
        Request(row["url"], kind),
        row["outcome"] if decoded else "ok",
        status=row["status"],
        hops=_hops(row["hops_json"]),
        final_url=row["final_url"],
        detail=row["detail"] or "",
        refused_url=row["refused_url"],
        elapsed_s=row["elapsed_ms"] / 1000,
        started_at=row["started_at"],
    )


def _facts(row: Mapping[str, Any]) -> Shaped | DecodeError | None:
    if str(row["outcome"]).startswith("decode-"):
        return DecodeError(str(row["outcome"]).removeprefix("decode-"), row["detail"] or "")
    if row["content_sha256"] is None:
        return None
    return Shaped(
        content_sha256=row["content_sha256"],
        media_type=row["media_type"],
        width=row["width"],
        height=row["height"],
        pdq=row["pdq"],
        pdq_quality=row["pdq_quality"],
        jpeg=b"",
        faces=_faces(row["faces_json"]),
        face_detector=row["face_detector"],
        embedded=embedded_from_plain(json.loads(row["embedded_json"])) if row["embedded_json"] else None,
        c2pa=c2pa_from_plain(json.loads(row["c2pa_json"])) if row["c2pa_json"] else None,
        content_md5=row.get("content_md5"),  # a part that an older version left has none
    )


def _pair(data: Mapping[str, Any]) -> ImageTextPair:
    claims = tuple(LicenceClaim(**c) for c in data["licence_claims"])
    return ImageTextPair(**dict(data) | {"licence_claims": claims, "alternates": tuple(data["alternates"])})


def _is_html(fetched: Fetched) -> bool:
    kinds = [v.lower() for h in fetched.hops[-1:] for n, v in h.headers if n.lower() == "content-type"]
    return not kinds or "html" in kinds[-1]


def _read_page_json(html: bytes, fetched: Fetched) -> str:
    kinds = [v for h in fetched.hops[-1:] for n, v in h.headers if n.lower() == "content-type"]
    page = read_page(html, fetched.final_url or fetched.url, kinds[-1] if kinds else None)
    return json.dumps(
        {
            "pairs": [asdict(p) for p in page.pairs],
            "links": list(page.links),
            "meta": [list(m) for m in page.meta],
            "rsl": [list(r) for r in page.rsl],
        },
        ensure_ascii=False,
    )


def _page_json(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["page_json"] is None:
        return {"pairs": [], "links": [], "meta": [], "rsl": []}
    data: dict[str, Any] = json.loads(row["page_json"])
    return data


# ── files of a crawl ───────────────────────────────────────────────────────────────────────────────────────────────


def _directory(home: Home, crawl: str) -> Path:
    return home.crawls_path / crawl


def _part(home: Home, crawl: str, kind: str, unit: str) -> Path:
    return _directory(home, crawl) / "parts" / kind / f"{unit}.parquet"


def _plans(home: Home) -> list[dict[str, Any]]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(home.crawls_path.glob("*/plan.json"))]


def _plan(home: Home, crawl: str) -> dict[str, Any]:
    path = _directory(home, crawl) / "plan.json"
    if not path.is_file():
        raise InputError(f"no crawl {crawl!r}", where=str(home.path))
    plan: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return plan


def _units(path: Path) -> list[Unit] | None:
    if not path.is_file():
        return None
    return [Unit(u["unit"], tuple(u["urls"])) for u in json.loads(path.read_text("utf-8"))]


def _store_units(path: Path, units: Sequence[Unit]) -> None:
    write_durably(path, json.dumps([asdict(u) for u in units]).encode())


def _split(urls: Sequence[str], size: int, what: str) -> list[Unit]:
    step = max(size, 1)
    groups = (tuple(urls[i : i + step]) for i in range(0, len(urls), step))
    return [Unit(unit_id(what, *group), group) for group in groups]


def _frontier(home: Home, crawl: str, depth: int) -> list[Unit] | None:
    return _units(_directory(home, crawl) / f"pages-{depth}.json")


def _all_page_units(home: Home, crawl: str) -> Iterator[Unit]:
    depth = 0
    while (frontier := _frontier(home, crawl, depth)) is not None:
        yield from frontier
        depth += 1


def _lay_frontier(home: Home, crawl: str, depth: int) -> list[Unit]:
    """The pages of a depth: the seeds, or the links found one depth above that are new, near and within the limits."""
    settings, seeds = home.settings.crawl, tuple(_plan(home, crawl)["seeds"])
    if depth == 0:
        urls: list[str] = list(seeds)
    else:
        asked = {u for unit in _all_page_units(home, crawl) for u in unit.urls}
        sites = {site_of(host_of(s)) for s in seeds}
        above = {u.unit for u in _frontier(home, crawl, depth - 1) or ()}
        found = {
            link
            for unit in sorted(above)
            for row in read_part(_part(home, crawl, "pages", unit))
            for link in _page_json(row)["links"]
            if link not in asked and (not settings.same_site or site_of(host_of(link)) in sites)
        }
        urls = sorted(found)[: max(settings.max_pages - len(asked), 0)]
    units = _split(urls, settings.pages_per_unit, f"{crawl}/pages-{depth}")
    _store_units(_directory(home, crawl) / f"pages-{depth}.json", units)
    return units


def _pages(home: Home, crawl: str) -> Iterator[dict[str, Any]]:
    for part in sorted((_directory(home, crawl) / "parts" / "pages").glob("*.parquet")):
        yield from read_part(part)


def _pictures(home: Home, crawl: str) -> Iterator[dict[str, Any]]:
    for part in sorted((_directory(home, crawl) / "parts" / "pictures").glob("*.parquet")):
        yield from read_part(part)


def _finish(home: Home, crawl: str) -> None:
    """Mark the crawl finished, then let its files go: URLs stay in the ledger alone, where an erasure finds them."""
    plan = _plan(home, crawl)
    done = {k: plan[k] for k in ("crawl", "number", "seeds_digest")} | {"finished": True}
    write_durably(_directory(home, crawl) / "plan.json", json.dumps(done).encode())
    _let_go(home, crawl)


def _let_go(home: Home, crawl: str) -> None:
    for path in _directory(home, crawl).iterdir():
        if path.name != "plan.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _summary(unit: str, rows: Sequence[Mapping[str, object]], started: datetime) -> UnitSummary:
    counts = Counter(str(r["outcome"]) for r in rows)
    return UnitSummary(unit, tuple(sorted(counts.items())), (utc_now() - started).total_seconds())
