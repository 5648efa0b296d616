"""Sitemaps: what a site lists of its pages and pictures (sitemaps.org 0.9, Google's image extension). Pure.

Bytes come from anybody, so they are read within bounds: decoded size, number of URLs, depth, no entities.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from curation.pages import text_of
from curation.pair import ImageTextPair, UrlBase, secret_in_url
from policy.errors import InputError
from policy.evidence import LicenceClaim

MAX_BYTES: Final = 50 * 1024 * 1024  # decoded; this and the number of URLs are the protocol's own limits
MAX_URLS: Final = 50_000
MAX_IMAGES_OF_A_PAGE: Final = 1_000
MAX_SITEMAPS_OF_ROBOTS: Final = 1_000
_MAX_DEPTH: Final = 16
_MAX_ELEMENTS: Final = 2_000_000
_MAX_TEXT_CHARS: Final = 16_384
_SCHEMES = ("http://www.sitemaps.org/schemas/sitemap/", "https://www.sitemaps.org/schemas/sitemap/")
_OLD_SCHEMES = ("http://www.google.com/schemas/sitemap/",)
_IMAGE = "http://www.google.com/schemas/sitemap-image/"


@dataclass(frozen=True, slots=True)
class Sitemap:
    """What a sitemap lists, in canonical URLs, each once: whether they are of its own site the caller has to look.

    `urls`: pages. `sitemaps`: of an index, further sitemaps. `pairs`: pictures of the image extension with their
    pages; the text is the caption's or the title's ("sitemap" its origin), a licence a claim of image scope.
    `refused`: addresses that are none, or secrets. `is_whole`: False where a limit or an error ended the reading;
    `problem` says which: not-a-sitemap | too-large | too-many | bad-xml | bad-compression | cut.
    """

    urls: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    pairs: tuple[ImageTextPair, ...] = ()
    refused: int = 0
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        return not self.problem


def read_sitemap(body: bytes, url: str) -> Sitemap:
    """Read a sitemap, a sitemap index or a plain list of URLs, gzipped or not, that came from `url`.

    What stood before an error or a limit is kept. Raises InputError when `url` is no URL.
    """
    base = UrlBase(url)
    listed = _Listed(base)
    try:
        text = _unpacked(body)
        if _is_xml(text):
            _read_xml(text, listed)
        elif text.lstrip()[:1] == b"<" or b"\0" in text[:1024]:
            raise _EndedError("not-a-sitemap")
        else:
            _read_text(text, listed)
    except _EndedError as ended:
        return listed.sitemap(ended.problem)
    return listed.sitemap("")


def sitemap_urls(robots_txt: bytes) -> tuple[str, ...]:
    """The addresses of a robots.txt's `Sitemap:` lines, as written, each once; they stand in no group (RFC 9309)."""
    found: dict[str, None] = {}
    if robots_txt.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        robots_txt = robots_txt.decode("utf-16", "replace").encode()
    for line in robots_txt.removeprefix(codecs.BOM_UTF8).splitlines():
        if match := _SITEMAP_LINE.match(line):
            found.setdefault(match[1].decode("utf-8", "replace"))
            if len(found) >= MAX_SITEMAPS_OF_ROBOTS:
                break
    return tuple(found)


_SITEMAP_LINE = re.compile(rb"[ \t]*site-?map[ \t]*:[ \t]*([^\s#]\S{0,8191})", re.IGNORECASE)


class _EndedError(Exception):
    """Reading ended before the sitemap did."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class _Listed:
    """What was listed so far."""

    def __init__(self, base: UrlBase) -> None:
        self.base = base
        self.urls: dict[str, None] = {}
        self.sitemaps: dict[str, None] = {}
        self.pairs: dict[tuple[str, str], ImageTextPair] = {}
        self.refused = 0
        self.seen = 0

    def sitemap(self, problem: str) -> Sitemap:
        return Sitemap(tuple(self.urls), tuple(self.sitemaps), tuple(self.pairs.values()), self.refused, problem)

    def add(self, address: str, place: dict[str, None]) -> str | None:
        self.seen += 1
        if self.seen > MAX_URLS:
            raise _EndedError("too-many")
        if (url := self.canonical(address)) is not None:
            place.setdefault(url)
        return url

    def canonical(self, address: str) -> str | None:
        try:
            url = self.base.join(address.strip())
        except InputError:
            url = None
        if url is None or secret_in_url(url) is not None:
            self.refused += 1
            return None
        return url

    def add_image(self, page_url: str, said: Mapping[str, str]) -> None:
        url = self.canonical(said.get("loc", ""))
        if url is None or len(self.pairs) >= MAX_URLS:
            return
        title, text = text_of(said.get("title")), text_of(said.get("caption")) or text_of(said.get("title"))
        licence = said.get("license", "").strip()
        claim = LicenceClaim(licence[:2_000], "sitemap", "image", title=title, where="image:license")
        pair = ImageTextPair(
            page_url, url, text, None if text is None else "sitemap", licence_claims=(claim,) if licence else ()
        )
        self.pairs.setdefault((page_url, url), pair)


def _unpacked(body: bytes) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        if len(body) > MAX_BYTES:
            raise _EndedError("too-large")
        return body
    inflate = zlib.decompressobj(31)
    try:
        text = inflate.decompress(body, MAX_BYTES + 1)
    except zlib.error as error:
        raise _EndedError("bad-compression") from error
    if len(text) > MAX_BYTES:
        raise _EndedError("too-large")
    if not inflate.eof:
        raise _EndedError("cut")
    return text


_XML_ROOT = re.compile(rb"<(?:[A-Za-z][\w.-]{0,40}:)?(?:urlset|sitemapindex)[\s>/]")


def _is_xml(text: bytes) -> bool:
    head = text[:4096]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "replace").encode()
    return _XML_ROOT.search(head) is not None


def _read_text(text: bytes, listed: _Listed) -> None:
    for line in text.decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            listed.add(line, listed.urls)


def _read_xml(text: bytes, listed: _Listed) -> None:
    """Fed piece by piece to a parser that builds no tree: depth and texts are bounded by its target."""
    target = _Target(listed)
    parser = DefusedXMLParser(target=target, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    try:
        for at in range(0, len(text), 65_536):
            parser.feed(text[at : at + 65_536])
        parser.close()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise _EndedError("bad-xml") from error


class _Target:
    """What the parser tells, element by element."""

    def __init__(self, listed: _Listed) -> None:
        self.listed = listed
        self.path: list[str] = []
        self.text: list[str] = []
        self.chars = self.elements = 0
        self.page: str | None = None
        self.images: list[dict[str, str]] = []
        self.image: dict[str, str] = {}

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.elements += 1
        if len(self.path) >= _MAX_DEPTH or self.elements > _MAX_ELEMENTS:
            raise _EndedError("bad-xml" if self.elements <= _MAX_ELEMENTS else "too-many")
        self.path.append(_name(tag))
        self.text, self.chars = [], 0
        match self.path:
            case [_, "url"]:
                self.page, self.images = None, []
            case [_, "url", "image:image"]:
                self.image = {}

    def data(self, text: str) -> None:
        if self.chars < _MAX_TEXT_CHARS:
            self.text.append(text)
            self.chars += len(text)

    def end(self, tag: str) -> None:
        text = "".join(self.text)[:_MAX_TEXT_CHARS]
        self.text, self.chars = [], 0
        match self.path:
            case ["urlset", "url", "loc"]:
                self.page = self.listed.add(text, self.listed.urls)
            case ["sitemapindex", "sitemap", "loc"]:
                self.listed.add(text, self.listed.sitemaps)
            case ["urlset", "url", "image:image", name] if name.startswith("image:"):
                self.image.setdefault(name.removeprefix("image:"), text)
            case ["urlset", "url", "image:image"] if len(self.images) < MAX_IMAGES_OF_A_PAGE:
                self.images.append(self.image)
            case ["urlset", "url"] if self.page is not None:
                for image in self.images:
                    self.listed.add_image(self.page, image)
        self.path.pop()

    def close(self) -> None:
        return None


def _name(tag: str) -> str:
    """An element's name: plain for the protocol's own (by its namespace, or in none), image:name for the extension."""
    namespace, brace, local = tag.rpartition("}")
    namespace = namespace.lstrip("{")
    if namespace.startswith(_IMAGE):
        return f"image:{local}"
    return local if not brace or namespace.startswith((*_SCHEMES, *_OLD_SCHEMES)) else f"other:{local}"
