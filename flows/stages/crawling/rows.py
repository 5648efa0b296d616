"""The rows of a crawl's parts, and what they become: fetches, facts, pairs again.

Three kinds of part: pages (asked, or out of an archive), pictures (asked, or imported), and the pairs of a picture
unit, which wait for their pictures. A part holds all that the ledger is told of its rows, so that a crawl goes on
from its parts alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import pyarrow as pa

from curation.fetch import Fetched, Request
from curation.images import DecodeError, Shaped
from curation.pages import pair_of_plain
from curation.pair import ImageTextPair
from flows.home import utc_now
from policy.evidence import (
    C2pa,
    Embedded,
    Face,
    Hop,
    LicenceClaim,
    c2pa_from_plain,
    canonical_json,
    embedded_from_plain,
    plain,
)
from policy.names import Said, said

_ASKED = {
    "url": pa.string(),
    "outcome": pa.string(),
    "detail": pa.string(),
    "status": pa.int32(),
    "final_url": pa.string(),
    "refused_url": pa.string(),
    "hops_json": pa.string(),
    "started_at": pa.timestamp("us", tz="UTC"),
    "elapsed_ms": pa.float64(),
}
# `body`: HTML only. `page_json`: what was read of the page. `body_sha256`: of a body that the ledger holds already.
PAGES = pa.schema(_ASKED | {"body": pa.binary(), "body_sha256": pa.string(), "page_json": pa.string()})
PICTURES = pa.schema(
    _ASKED
    | {
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
        "faces_blurred": pa.bool_(),
        "transforms_json": pa.string(),
        "embedded_json": pa.string(),
        "c2pa_json": pa.string(),
    }
)
# `page_json`: what was observed of the page (`PageSeen`), null where it was not asked. `prior_key`: the pair on record
# whose newest evidence says all but the picture. `expected_sha256`: what a list says the bytes are.
PAIRS = pa.schema(
    {
        "page_url": pa.string(),
        "image_url": pa.string(),
        "alt": pa.string(),
        "text_origin": pa.string(),
        "claims_json": pa.string(),
        "page_json": pa.dictionary(pa.int32(), pa.string()),
        "prior_key": pa.string(),
        "expected_sha256": pa.string(),
    }
)

NOT_MODIFIED = "not-modified"
# Somebody else has fetched it, or could not: nothing was observed on the way, and our own fetcher has to ask.
IMPORTED, IMPORT_FAILED = "imported", "import-failed"
# Outcomes after which the picture's facts are known although the fetch was no "ok".
_FACTS_KNOWN = ("ok", NOT_MODIFIED, IMPORTED)


# ── fetches ────────────────────────────────────────────────────────────────────────────────────────────────────────


def fetch_row(fetched: Fetched) -> dict[str, object]:
    """What was asked and answered, as the columns that pages and pictures share."""
    return {
        "url": fetched.url,
        "outcome": fetched.outcome,
        "detail": fetched.detail,
        "status": fetched.status,
        "final_url": fetched.final_url,
        "refused_url": fetched.refused_url,
        "hops_json": hops_json(fetched.hops),
        "started_at": fetched.started_at or utc_now(),  # refused before it was asked
        "elapsed_ms": fetched.elapsed_s * 1000,
    }


def imported_row(url: str, outcome: str, detail: str = "") -> dict[str, object]:
    """A picture's row of which nothing was observed on the way to it."""
    return fetch_row(Fetched(Request(url, "image"), outcome, detail=detail))


def fetched_of(row: Mapping[str, Any], kind: Literal["page", "image"]) -> Fetched:
    """A part's row as the fetch it came from, without the body. A picture that would not decode was fetched well."""
    outcome = str(row["outcome"])
    well = outcome in _FACTS_KNOWN or outcome.startswith("decode-")
    return Fetched(
        Request(row["url"], kind),
        "ok" if well else outcome,
        status=row["status"],
        hops=hops_of(row["hops_json"]),
        final_url=row["final_url"],
        detail=row["detail"] or "",
        refused_url=row["refused_url"],
        elapsed_s=row["elapsed_ms"] / 1000,
        started_at=row["started_at"],
    )


def hops_json(hops: tuple[Hop, ...]) -> str:
    told = [{"url": h.url, "status": h.status, "headers": h.headers} for h in hops]
    try:
        return orjson.dumps(told).decode()
    except TypeError:  # a header that is no Unicode
        return json.dumps([{"url": plain(h.url), "status": h.status, "headers": plain(h.headers)} for h in hops])


def hops_of(text: str) -> tuple[Hop, ...]:
    return tuple(Hop(h["url"], h["status"], tuple(map(tuple, h["headers"]))) for h in orjson.loads(text))


def content_type(fetched: Fetched) -> str | None:
    """The last Content-Type of the final response."""
    kinds = [v for h in fetched.hops[-1:] for n, v in h.headers if n.lower() == "content-type"]
    return kinds[-1] if kinds else None


def is_html(fetched: Fetched) -> bool:
    kind = content_type(fetched)
    return kind is None or "html" in kind.lower()


def outcome_of(row: Mapping[str, Any]) -> str:
    """The outcome; of what was not asked, also why."""
    outcome = str(row["outcome"])
    return f"{outcome} ({row['detail']})" if outcome == "refused-by-policy" and row["detail"] else outcome


def naive(moment: datetime) -> datetime:
    """UTC without a zone, as DuckDB's TIMESTAMP has it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


# ── pages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PageRead:
    """What `page_json` kept of a page; nothing where it was no HTML, or took too much to read.

    `rsl` None: not observed, as of a page that an archive's metadata tell of.
    """

    pairs: tuple[ImageTextPair, ...] = ()
    links: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    rsl: tuple[tuple[str, str], ...] | None = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> PageRead:
        if row["page_json"] is None:
            return cls()
        data = json.loads(row["page_json"])
        return cls(
            tuple(map(pair_of_plain, data["pairs"])),
            tuple(data["links"]),
            tuple((name, content) for name, content in data["meta"]),
            tuple((kind, value) for kind, value in data["rsl"]) if data["whole"] else None,
        )


def links_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The links of a page, without making pairs of the rest."""
    return tuple(json.loads(row["page_json"])["links"]) if row["page_json"] is not None else ()


# ── pairs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def page_seen_json(row: Mapping[str, Any], read: PageRead) -> str:
    """What was observed of a page, as all of its pairs' evidence holds it."""
    return json.dumps(
        {
            "url": row["url"],
            "final_url": row["final_url"],
            "hops": row["hops_json"],
            "meta": read.meta,
            "rsl": read.rsl,
            "seen_at": row["started_at"].isoformat(),
        },
        ensure_ascii=False,
    )


@dataclass(frozen=True, slots=True)
class PageSeen:
    """What was observed of a pair's page."""

    fetched: Fetched
    meta: tuple[tuple[str, str], ...]
    rsl: tuple[tuple[str, str], ...] | None
    seen_at: datetime

    @classmethod
    def of(cls, text: str) -> PageSeen:
        data = json.loads(text)
        seen_at = datetime.fromisoformat(data["seen_at"])
        hops = hops_of(data["hops"])
        status = hops[-1].status if hops else None
        request = Request(data["url"], "page")
        return cls(
            Fetched(request, "ok", status=status, hops=hops, final_url=data["final_url"], started_at=seen_at),
            tuple((name, content) for name, content in data["meta"]),
            None if data["rsl"] is None else tuple((kind, value) for kind, value in data["rsl"]),
            seen_at,
        )


def pair_row(pair: ImageTextPair, page: str | None = None, expected_sha256: str | None = None) -> dict[str, object]:
    """A pair that waits for its picture. `page`: what `page_seen_json` gave."""
    return {
        "page_url": pair.page_url,
        "image_url": pair.image_url,
        "alt": pair.alt,
        "text_origin": pair.text_origin,
        "claims_json": claims_json(pair.licence_claims),
        "page_json": page,
        "prior_key": None,
        "expected_sha256": expected_sha256,
    }


def prior_row(pair_key: str, image_url: str) -> dict[str, object]:
    """A pair on record whose picture is asked again; all else of it stands in its newest evidence."""
    empty = dict.fromkeys(PAIRS.names)
    return empty | {"image_url": image_url, "prior_key": pair_key}


def pair_of(row: Mapping[str, Any]) -> ImageTextPair:
    claims = _claims_of(row["claims_json"])
    return ImageTextPair(row["page_url"], row["image_url"], row["alt"], row["text_origin"], licence_claims=claims)


def said_in(row: Mapping[str, Any]) -> Said:
    """What a pair's row says of its picture: its text, and what its page claims."""
    claims = _claims_of(row["claims_json"]) if row["claims_json"] else ()
    return said(texts=(row["alt"],), claims=claims)


def said_by(row: Mapping[str, Any]) -> Said:
    """What a picture's own bytes say of it, by its row."""
    return said(embedded=_embedded_of(row["embedded_json"]) if row["embedded_json"] else None)


def claims_json(claims: tuple[LicenceClaim, ...]) -> str:
    return json.dumps([plain(c) for c in claims], ensure_ascii=False) if claims else "[]"


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def shaped_row(shaped: Shaped) -> dict[str, object]:
    """The facts of a picture, as columns."""
    return {
        "content_sha256": shaped.content_sha256,
        "content_md5": shaped.content_md5,
        "media_type": shaped.media_type,
        "width": shaped.width,
        "height": shaped.height,
        "pdq": shaped.pdq,
        "pdq_quality": shaped.pdq_quality,
        # Not looked for, or the detector failed, is not "no face".
        "faces_json": None if shaped.faces is None else json.dumps([plain(f) for f in shaped.faces]),
        "face_detector": shaped.face_detector,
        "faces_blurred": shaped.faces_blurred,
        "transforms_json": json.dumps(shaped.transforms) if shaped.transforms else None,
        "embedded_json": None if shaped.embedded is None else _json_of_alike(shaped.embedded),
        "c2pa_json": None if shaped.c2pa is None else _json_of_alike(shaped.c2pa),
    }


def facts_of(row: Mapping[str, Any]) -> Shaped | DecodeError | None:
    """What the bytes came to; None where there were none."""
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
        faces=faces_of(row["faces_json"]),
        face_detector=row["face_detector"],
        faces_blurred=row.get("faces_blurred"),
        transforms=tuple(json.loads(row.get("transforms_json") or "[]")),
        embedded=_embedded_of(row["embedded_json"]) if row["embedded_json"] else None,
        c2pa=_c2pa_of(row["c2pa_json"]) if row["c2pa_json"] else None,
        content_md5=row["content_md5"],
    )


# Of most pictures they say what they say of many others.
@functools.lru_cache(maxsize=4_096)
def _json_of_alike(measured: Embedded | C2pa) -> str:
    return canonical_json(plain(measured))


@functools.lru_cache(maxsize=4_096)
def _embedded_of(text: str) -> Embedded:
    return embedded_from_plain(orjson.loads(text))


@functools.lru_cache(maxsize=4_096)
def _c2pa_of(text: str) -> C2pa:
    return c2pa_from_plain(orjson.loads(text))


@functools.lru_cache(maxsize=4_096)
def _claims_of(text: str) -> tuple[LicenceClaim, ...]:
    return tuple(LicenceClaim(**claim) for claim in orjson.loads(text))


def faces_of(text: str | None) -> tuple[Face, ...] | None:
    return None if text is None else tuple(Face(**f) for f in orjson.loads(text))
