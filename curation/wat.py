"""Common Crawl's WAT files: pages as their archive described them, without the pages themselves.

A WAT record holds a response's headers and, of its HTML, the metas, the links and the images' `src`, `alt` and
`title` (commoncrawl/ia-web-commons, ExtractingParseObserver). It does not hold the bodies of scripts (JSON-LD, inline
RSL), figures, microdata, RDFa, srcset or lazy loaders' attributes. So each page of a WAT carries a claim which says
that it was not read (kind "unread"): a licence that it states is recorded, and not relied upon until the page was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, Final

import orjson

from curation.fetch import Fetched, Request
from curation.page_addresses import PageBase
from curation.pages import (
    META_CLAIMS,
    Page,
    is_licence_rel,
    is_robots_like,
    is_secret,
    links_of,
    new_pair,
    read_meta,
    text_of,
)
from curation.pair import ImageTextPair
from curation.transfer import COMPLETE
from curation.warc import (
    START,
    ArchivedPage,
    Damage,
    Place,
    Record,
    address_of,
    archived_date,
    archived_url,
    name_of,
    read_records,
)
from policy.errors import InputError
from policy.evidence import Headers, Hop, LicenceClaim

MAX_RECORD_BYTES = 16 * 1024 * 1024  # one page's metadata
_MAX_CLAIMS = 256

UNREAD: Final = LicenceClaim(
    "seen through an archive's metadata only", source="wat", scope="page", where="WAT record", kind="unread"
)


def read_wat(
    file: BinaryIO | str,
    *,
    start_offset: Place | int = START,
    counts: Counter[str] | None = None,
    with_links: bool = True,
) -> Iterator[ArchivedPage | Damage]:
    """The responses that a WAT file describes (.wat, .wat.gz; a seekable file, or a location as in curation.storage).

    `fetched` is what was archived: outcome, status, stored headers as its only hop, the capture's date, no body.
    `page` is there where the outcome is ok and the archive read the response as HTML; its `licence_claims`, and those
    of its pairs, end with `UNREAD`. Its `rsl` holds links only: what stands in the page was not seen. Its `links` are
    empty unless `with_links`: most of a WAT is links, and half of the work.

    `counts` is kept up to date with every item: records by kind, descriptions of anything but responses (other),
    responses left out (not-http, bad-url, userinfo, signed-url), those without a page (not-html), damage (damaged).

    Raises InputError where the file is no WARC file at all, or cannot be opened.
    """
    counts = Counter() if counts is None else counts
    for found in read_records(file, {"metadata"}, MAX_RECORD_BYTES, start_offset, counts):
        if isinstance(found, Damage):
            yield found
        elif b"HTTP-Response-Metadata" not in found.block and found.complete:
            counts["other"] += 1
        elif isinstance(item := _item(found, name_of(file), counts, with_links), Damage):
            counts["damaged"] += 1
            yield item
        elif item is not None:
            yield item


def _item(record: Record, where: str, counts: Counter[str], with_links: bool) -> ArchivedPage | Damage | None:
    if not record.complete:
        return Damage(where, "too-large", record.offset, f"{record.length} bytes of metadata")
    try:
        envelope = _mapping(orjson.loads(record.block), "Envelope")
        about, payload = _mapping(envelope, "WARC-Header-Metadata"), _mapping(envelope, "Payload-Metadata")
        answer = _mapping(payload, "HTTP-Response-Metadata")
        if (url := archived_url(_text(about, "WARC-Target-URI"), counts)) is None:
            return None
        if (started_at := archived_date(_text(about, "WARC-Date"))) is None:
            return Damage(where, "bad-header", record.offset, "WARC-Date")
        outcome, status, detail = _outcome(about, _text(_mapping(answer, "Response-Message", {}), "Status"))
        page = None
        if outcome == "ok" and "HTML-Metadata" in answer:
            page = _Described(_mapping(answer, "HTML-Metadata"), url).page(with_links)
        elif outcome == "ok":
            counts["not-html"] += 1
        hops = () if status is None else (Hop(url, status, _headers(_mapping(answer, "Headers"))),)
    except (ValueError, TypeError, AttributeError) as error:  # no JSON, or not the shape that a WAT has
        return Damage(where, "bad-json", record.offset, str(error)[:80])
    fetched = Fetched(
        request=Request(url, "page"),
        outcome=outcome,
        status=status,
        hops=hops,
        final_url=url,
        address=address_of(_text(about, "WARC-IP-Address"), url),
        detail=detail,
        started_at=started_at,
    )
    return ArchivedPage(fetched, record.offset, record.end_offset, page)


def _outcome(about: Mapping[str, object], status: str) -> tuple[str, int | None, str]:
    if not (status.isascii() and status.isdigit() and len(status) == 3):
        return "bad-response", None, "not HTTP"
    if int(status) not in COMPLETE:
        return f"http-{status}", int(status), ""
    if truncated := _text(about, "WARC-Truncated"):
        return "truncated", int(status), f"by the archive ({truncated})"
    return "ok", int(status), ""


def _mapping(value: object, name: str, default: object = None) -> Mapping[str, object]:
    """An object of the record; raises TypeError where something else stands there, or nothing without a default."""
    found = value.get(name, default) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise TypeError(f"{name} is no object")
    return found


def _text(value: Mapping[str, object], name: str) -> str:
    found = value.get(name, "")
    if not isinstance(found, str):
        raise TypeError(f"{name} is no text")
    return found


def _objects(value: Mapping[str, object], name: str) -> list[dict[str, str]]:
    """A list of objects, of texts as a rule; raises TypeError where something else stands there."""
    found = value.get(name, [])
    if not isinstance(found, list) or not {dict}.issuperset(map(type, found)):
        raise TypeError(f"{name} is no list of objects")
    return found


def _headers(stored: Mapping[str, object]) -> Headers:
    """Headers as they were stored; one that came several times is a list there."""
    pairs: list[tuple[str, str]] = []
    for name, value in stored.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str):
                raise TypeError(f"the header {name[:40]} is no text")
            pairs.append((name, one))
    return tuple(pairs)


class _Described:
    """A page out of its HTML-Metadata: read as curation.pages reads the elements they were taken from."""

    def __init__(self, html: Mapping[str, object], url: str) -> None:
        self.url = url
        self.head = _mapping(html, "Head", {})
        self.links = _objects(html, "Links")
        self.base = PageBase(url)
        if base := _text(self.head, "Base"):
            with suppress(InputError):  # an unusable one leaves the page's own URL
                self.base = PageBase(self.base.join(base.strip()) or url)
        self.meta: list[tuple[str, str]] = []
        self.rsl: list[tuple[str, str]] = []
        self.claims: dict[LicenceClaim, None] = {}
        self.creator: str | None = None
        self.refused = 0

    def page(self, with_links: bool) -> Page:
        for attributes in _objects(self.head, "Metas"):
            self._meta(attributes)
        for attributes in _objects(self.head, "Link"):
            if "rel" in attributes:
                self._rel(attributes, "link")
        hrefs: dict[str, None] = {}
        images: list[dict[str, str]] = []
        for link in self.links:
            path = link.get("path")
            if path == "A@/href" or path == "AREA@/href":
                if "rel" in link:
                    self._rel(link, "a")
                if href := link.get("url"):
                    hrefs[href] = None
            elif path == "IMG@/src":
                images.append(link)
        claims = (*self._page_claims(), UNREAD)
        return Page(
            url=self.url,
            pairs=self._pairs(images, claims),
            links=links_of(self.base, hrefs) if with_links else (),
            meta=tuple(self.meta),
            licence_claims=claims,
            title=text_of(_text(self.head, "Title")),
            refused_images=self.refused,
            rsl=tuple(self.rsl),
        )

    def _meta(self, attributes: dict[str, str]) -> None:
        if not all(isinstance(value, str) for value in attributes.values()):
            raise TypeError("a meta is no text")
        name, content = read_meta(attributes)
        if not name:
            return
        if name == "author":
            self.creator = self.creator or text_of(content) or content
        if name in META_CLAIMS:
            self._claim(content, "meta", f"meta {name}", META_CLAIMS[name])
        if is_robots_like(name, content):
            self.meta.append((name, content))

    def _rel(self, attributes: dict[str, str], element: str) -> None:
        rel, href = attributes.get("rel", ""), attributes.get("url", "")
        if element == "a" and "author" in rel.lower().split():
            self.creator = self.creator or text_of(attributes.get("text"))
        if not href or not is_licence_rel(rel):
            return
        # RSL declares its documents by the same rel; they are no licence of the picture.
        if attributes.get("type", "").partition(";")[0].strip().lower() == "application/rsl+xml":
            self.rsl.append(("link", self.base.join(href) or href.strip()))
        else:
            self._claim(self.base.join(href) or href, "rel-license", f"rel=license on <{element}>", "licence")

    def _claim(self, value: str, source: str, where: str, kind: str) -> None:
        value = value.strip()[:2_000]
        if value and len(self.claims) < _MAX_CLAIMS:
            if value.startswith(("/", "http:", "https:", "./", "../")):
                value = self.base.join(value) or value
            self.claims[LicenceClaim(value, source, "page", where=where, kind=kind)] = None

    def _page_claims(self) -> Iterator[LicenceClaim]:
        for claim in self.claims:
            yield LicenceClaim(
                claim.value, claim.source, "page", creator=self.creator, where=claim.where, kind=claim.kind
            )

    def _pairs(self, images: list[dict[str, str]], claims: tuple[LicenceClaim, ...]) -> tuple[ImageTextPair, ...]:
        written = [image.get("url", "").strip() for image in images]
        wanted = dict.fromkeys([address for address in written if address and address[:5].lower() != "data:"])
        urls = dict(zip(wanted, self.base.join_all(wanted), strict=True))
        pairs: dict[tuple[str, str | None], ImageTextPair] = {}
        for image, address in zip(images, written, strict=True):
            if address not in urls:
                continue
            if (url := urls[address]) is None or (("?" in url or "@" in url) and is_secret(url)):
                self.refused += 1
                continue
            raw_alt = image.get("alt")
            text, origin = text_of(raw_alt), "alt"
            if text is None:
                text, origin = text_of(image.get("title")), "title"
            if (url, text) not in pairs:
                said = None if text is None else origin
                pairs[url, text] = new_pair(self.url, url, text, said, raw_alt, claims, ())
        return tuple(pairs.values())
