"""HTML to image-text pairs and page-level hints: pure, one parse and one CSS pass a page.

What is found is reported as found: whether a text is a description, whether a claim covers an image and what a
robots-like meta means, policy decides.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from selectolax.lexbor import LexborHTMLParser, LexborNode

from curation.pair import ImageTextPair, UrlBase, secret_in_url
from policy.errors import InputError
from policy.evidence import LicenceClaim

# The one pass. Elements come in document order.
_SELECTOR = "base,title,meta,a,area,link,img,script,[itemprop='creator'],[property='cc:attributionName']"

# Attributes that lazy loaders keep the real address in; `src` beside one of them is a placeholder.
_LAZY_SRC = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-image", "data-url")
_LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set")

# What a robots-like <meta> is: by its name, or because it says something only a robots meta says (GPTBot, "ccbot",
# "anthropic-ai", our own product token: the names cannot be listed, so the content decides).
_META_NAMES = frozenset({"robots", "tdm-reservation", "tdm-policy"})
_META_SAYS = re.compile(r"\b(?:noai|noimageai|noml|noindex|noimageindex|nofollow|noarchive|nosnippet)\b", re.IGNORECASE)

_MAX_ANCESTORS = 48  # a figure is looked for this far up: a page 10,000 elements deep stays linear
_MAX_LD_NODES = 20_000
_MAX_TEXT_CHARS = 10_000

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{1,40})", re.IGNORECASE)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{1,40})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """What one page holds.

    `meta`: (name in lower case, content) of the robots-like metas. `licence_claims`: those of page scope.
    `refused_images`: image addresses that were left out because they are secrets (userinfo, signatures) or no URLs.
    `rsl`: ("link", URL) of the RSL documents that are declared, ("inline", XML) of those that stand in the page.
    """

    url: str
    pairs: tuple[ImageTextPair, ...]
    links: tuple[str, ...]
    meta: tuple[tuple[str, str], ...]
    licence_claims: tuple[LicenceClaim, ...]
    title: str | None
    refused_images: int = 0
    rsl: tuple[tuple[str, str], ...] = ()


def read_page(html: bytes, base_url: str, content_type: str | None = None) -> Page:
    """Read the pairs, links, metas and licence claims of a page.

    `base_url` is the canonical URL the bytes came from (after redirects); `content_type` its header.
    Raises InputError when `base_url` is no URL; whatever the HTML is, a page comes out.
    """
    return _PageReader(html, base_url, content_type).read()


@dataclass(slots=True)
class _Found:
    """An <img> with what stood near it, before claims are joined."""

    urls: tuple[str, ...]
    alt: str | None
    raw_alt: str | None
    text_origin: str | None
    figures: tuple[int, ...]  # mem_ids of the figures around it, innermost first


class _PageReader:
    def __init__(self, html: bytes, base_url: str, content_type: str | None) -> None:
        self.url = base_url
        self.base = UrlBase(base_url)
        self.tree = LexborHTMLParser(_as_utf8(html, content_type))
        self.links: dict[str, None] = {}
        self.meta: list[tuple[str, str]] = []
        self.rsl: list[tuple[str, str]] = []
        self.title: str | None = None
        self.images: list[_Found] = []
        self.refused = 0
        # (figure or None for the page) -> claims, creator
        self.claims: list[tuple[int | None, LicenceClaim]] = []
        self.creators: dict[int | None, str] = {}
        self.linked_data: list[tuple[str, Mapping[str, object]]] = []
        self.scripts = 0

    def read(self) -> Page:
        self._set_base()
        for node in self.tree.css(_SELECTOR):
            self._visit(node)
        page_claims = tuple(self._with_creator(c, None) for figure, c in self.claims if figure is None)
        return Page(
            url=self.url,
            pairs=_unique(self._pair(found, page_claims) for found in self.images),
            links=tuple(self.links),
            meta=tuple(self.meta),
            licence_claims=page_claims,
            title=self.title,
            refused_images=self.refused,
            rsl=tuple(self.rsl),
        )

    def _set_base(self) -> None:
        # Only the first <base href> counts (HTML, 4.2.3); an unusable one leaves the page's own URL.
        node = self.tree.css_first("base[href]")
        href = node.attributes.get("href") if node is not None else None
        if href:
            try:
                self.base = UrlBase(self.base.join(href.strip()))
            except InputError:
                return

    def _visit(self, node: LexborNode) -> None:
        attributes = node.attributes
        match node.tag:
            case "a" | "area":
                self._link(node, attributes)
            case "img":
                self._image(node, attributes)
            case "meta":
                self._meta(attributes)
            case "link":
                self._rel(node, attributes, "link")
            case "title" if self.title is None and (node.parent is None or node.parent.tag == "head"):
                self.title = _text(node.text())
            case "script" if (attributes.get("type") or "").strip().lower().startswith("application/ld+json"):
                self._script(node)
            case "script" if _media_type(attributes) == "application/rsl+xml":
                self.rsl.append(("inline", node.text()))
        if attributes.get("itemprop") == "creator" or attributes.get("property") == "cc:attributionName":
            self._creator(node, attributes.get("content") or node.text())

    # ── links, metas ──────────────────────────────────────────────────────────────────────────────────────────
    def _link(self, node: LexborNode, attributes: Mapping[str, str | None]) -> None:
        href = attributes.get("href")
        if not href:
            return
        if "rel" in attributes:
            self._rel(node, attributes, "a")
        if (url := self._join(href)) is not None and secret_in_url(url) is None:
            self.links.setdefault(url)

    def _rel(self, node: LexborNode, attributes: Mapping[str, str | None], element: str) -> None:
        rels = (attributes.get("rel") or "").lower().split()
        if "author" in rels and element == "a":
            self._creator(node, node.text())
        href = attributes.get("href")
        if "license" not in rels or not href:
            return
        # RSL declares its documents by the same rel; they are no licence of the picture.
        if _media_type(attributes) == "application/rsl+xml":
            self.rsl.append(("link", self._join(href) or href.strip()))
            return
        figure = next(iter(_figures(node)), None)
        claim = LicenceClaim(
            value=self._join(href) or href.strip(),
            source="rel-license",
            scope="page" if figure is None else "figure",
            where=f"rel=license on <{element}>" + ("" if figure is None else " in <figure>"),
        )
        self.claims.append((None if figure is None else figure.mem_id, claim))

    def _creator(self, node: LexborNode, text: str | None) -> None:
        figure = next(iter(_figures(node)), None)
        if (name := _text(text)) is not None:
            self.creators.setdefault(None if figure is None else figure.mem_id, name)

    def _meta(self, attributes: Mapping[str, str | None]) -> None:
        content = attributes.get("content")
        if content is None:
            return
        name = (attributes.get("name") or attributes.get("property") or "").strip().lower()
        if (attributes.get("http-equiv") or "").strip().lower() == "x-robots-tag":
            name = "robots"  # the header's twin in HTML: read as what it plainly means
        if not name:
            return
        if name == "author":
            self.creators.setdefault(None, _text(content) or content)
        if name in _META_NAMES or name.endswith("bot") or _META_SAYS.search(content):
            self.meta.append((name, content))

    # ── images ────────────────────────────────────────────────────────────────────────────────────────────────
    def _image(self, node: LexborNode, attributes: Mapping[str, str | None]) -> None:
        figures, picture = _ancestors(node)
        addresses = list(_addresses(attributes))
        if picture is not None:
            for source in picture.css("source"):
                addresses.extend(_addresses(source.attributes))
        urls = tuple(dict.fromkeys(url for address in addresses if (url := self._image_url(address)) is not None))
        if not urls:
            return
        raw_alt = (attributes["alt"] or "") if "alt" in attributes else None
        text, origin = _text(raw_alt), "alt"
        if text is None and figures:
            caption = figures[0].css_first("figcaption")
            text, origin = (_text(caption.text()) if caption is not None else None), "figcaption"
        if text is None:
            text, origin = _text(attributes.get("title")), "title"
        self.images.append(
            _Found(urls, text, raw_alt, None if text is None else origin, tuple(f.mem_id for f in figures))
        )

    def _image_url(self, address: str) -> str | None:
        if address.lstrip()[:5].lower() == "data:":
            return None  # the picture itself, or a lazy loader's placeholder: not an address
        url = self._join(address)
        if url is None or secret_in_url(url) is not None:
            self.refused += 1
            return None
        return url

    def _pair(self, found: _Found, page_claims: tuple[LicenceClaim, ...]) -> ImageTextPair:
        figure_claims = (
            self._with_creator(claim, figure)
            for wanted in found.figures
            for figure, claim in self.claims
            if figure == wanted
        )
        claims = (*self._linked_claims(found.urls), *figure_claims, *page_claims)
        return ImageTextPair(
            page_url=self.url,
            image_url=found.urls[0],
            alt=found.alt,
            text_origin=found.text_origin,
            raw_alt=found.raw_alt,
            licence_claims=tuple(dict.fromkeys(claims)),
            alternates=found.urls[1:],
        )

    def _with_creator(self, claim: LicenceClaim, figure: int | None) -> LicenceClaim:
        creator = self.creators.get(figure) or self.creators.get(None)
        return replace(claim, creator=creator) if creator and claim.creator is None else claim

    # ── JSON-LD ───────────────────────────────────────────────────────────────────────────────────────────────
    def _script(self, node: LexborNode) -> None:
        number, self.scripts = self.scripts, self.scripts + 1
        try:
            data = json.loads(_LD_WRAPPING.sub("", node.text()), strict=False)
        except (ValueError, RecursionError):
            return  # one malformed script loses nothing else
        for pointer, item in _objects(data):
            if _is_image_object(item):
                self.linked_data.append((f"script[{number}]#{pointer}", item))

    def _linked_claims(self, urls: tuple[str, ...]) -> Iterator[LicenceClaim]:
        for pointer, item in self.linked_data:
            addresses = (a for name in ("contentUrl", "url", "@id") for a in _strings(item.get(name)))
            if not any(self._join(address) in urls for address in addresses):
                continue
            for value in _strings(item.get("license")):
                yield LicenceClaim(
                    value=value.strip(),
                    source="json-ld",
                    scope="image",
                    title=_first(item, "name", "headline", "caption"),
                    creator=_first(item, "creator", "author"),
                    credit=_first(item, "creditText", "copyrightNotice"),
                    where=f"{pointer}/license",
                )

    def _join(self, address: str) -> str | None:
        try:
            return self.base.join(address)
        except InputError:
            return None


# Scripts are still wrapped in comments or CDATA for browsers of the last century.
_LD_WRAPPING = re.compile(r"^\s*(?://\s*)?(?:<!--|<!\[CDATA\[)|(?://\s*)?(?:-->|\]\]>)\s*$")


def _media_type(attributes: Mapping[str, str | None]) -> str:
    return (attributes.get("type") or "").partition(";")[0].strip().lower()


def _ancestors(node: LexborNode) -> tuple[list[LexborNode], LexborNode | None]:
    """The <figure>s around a node, innermost first, and the <picture> it is directly in."""
    figures: list[LexborNode] = []
    picture = None
    above = node.parent
    for _ in range(_MAX_ANCESTORS):
        if above is None or above.tag == "body":
            break
        if above.tag == "figure":
            figures.append(above)
        elif above.tag == "picture" and picture is None:
            picture = above
        above = above.parent
    return figures, picture


def _figures(node: LexborNode) -> list[LexborNode]:
    return _ancestors(node)[0]


def _addresses(attributes: Mapping[str, str | None]) -> Iterator[str]:
    """Every address an <img> or <source> names, the one to fetch first.

    A lazy loader's attribute before `src` (a placeholder beside it), `src` before the candidates of a srcset
    (it is the one that every reader of the page gets), the largest candidate first.
    """
    for name in _LAZY_SRC:
        if value := attributes.get(name):
            yield value.strip()
    for name in _LAZY_SRCSET:
        yield from _candidates(attributes.get(name) or "")
    if value := attributes.get("src"):
        yield value.strip()
    yield from _candidates(attributes.get("srcset") or "")


_NEXT_ADDRESS = re.compile(r"[\s,]*(\S+)")


def _candidates(srcset: str) -> list[str]:
    """The addresses of a srcset, largest first (HTML, 4.8.4.2.2; one linear pass)."""
    found: list[tuple[str, float]] = []
    position = 0
    while (match := _NEXT_ADDRESS.match(srcset, position)) is not None:
        address, position = match[1], match.end()
        if not address.rstrip(","):
            continue
        # A comma that ends the address ends the candidate; commas inside an address are legal and common.
        size = 1.0
        if not address.endswith(","):
            end = srcset.find(",", position)
            end = len(srcset) if end < 0 else end
            size = _candidate_size(srcset[position:end])
            position = end
        found.append((address.rstrip(","), size))
    return [address for address, _ in sorted(found, key=lambda f: -f[1])]


def _candidate_size(descriptor: str) -> float:
    number = next(iter(descriptor.split()), "")
    try:
        # 2x and 640w are never mixed in one valid srcset, so their numbers may be compared.
        return float(number[:-1]) if number[-1:] in ("w", "x") else 1.0
    except ValueError:
        return 0.0


def _is_image_object(item: Mapping[str, object]) -> bool:
    kinds = {kind.rsplit("/", 1)[-1].rsplit(":", 1)[-1] for kind in _strings(item.get("@type"))}
    return bool(kinds & {"ImageObject", "Photograph", "VisualArtwork"})


def _objects(data: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every JSON object in `data` with its JSON pointer; without recursion, up to a limit."""
    waiting: list[tuple[str, object]] = [("", data)]
    for _ in range(_MAX_LD_NODES):
        if not waiting:
            return
        pointer, value = waiting.pop()
        if isinstance(value, dict):
            yield pointer, value
            waiting.extend((f"{pointer}/{_escape(k)}", v) for k, v in value.items() if isinstance(v, dict | list))
        elif isinstance(value, list):
            waiting.extend((f"{pointer}/{i}", v) for i, v in enumerate(value) if isinstance(v, dict | list))


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _strings(value: object) -> list[str]:
    """The texts of a JSON-LD value: a text, an object's name or address, or a list of them."""
    values = value if isinstance(value, list) else [value]
    texts = []
    for entry in values:
        if isinstance(entry, dict):
            entry = next((entry[k] for k in ("url", "@id", "name", "@value") if isinstance(entry.get(k), str)), None)
        if isinstance(entry, str) and entry.strip():
            texts.append(entry)
    return texts


def _first(item: Mapping[str, object], *names: str) -> str | None:
    for name in names:
        value = item.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, dict):
            value = value.get("name") or value.get("@value")
        if isinstance(value, str) and (text := _text(value)) is not None:
            return text
    return None


def _unique(pairs: Iterable[ImageTextPair]) -> tuple[ImageTextPair, ...]:
    """The same image with the same text counts once a page; what covers any of its places covers it."""
    merged: dict[tuple[str, str | None], ImageTextPair] = {}
    for pair in pairs:
        key = (pair.image_url, pair.alt)
        if (first := merged.get(key)) is None:
            merged[key] = pair
            continue
        merged[key] = replace(
            first,
            licence_claims=tuple(dict.fromkeys((*first.licence_claims, *pair.licence_claims))),
            alternates=tuple(dict.fromkeys((*first.alternates, *pair.alternates))),
        )
    return tuple(merged.values())


def _text(value: str | None) -> str | None:
    """White space runs become one space; nothing left is None."""
    if value is None:
        return None
    return " ".join(value[:_MAX_TEXT_CHARS].split()) or None


def _as_utf8(html: bytes, content_type: str | None) -> bytes:
    """The page in UTF-8, by byte order mark, header, <meta charset>, or what its bytes allow (in that order)."""
    encoding = _encoding(html, content_type)
    return html if encoding == "utf-8" else html.decode(encoding, "replace").encode()


def _encoding(html: bytes, content_type: str | None) -> str:
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if html.startswith(mark):
            return name
    declared = [m[1] for m in [_HEADER_CHARSET.search(content_type or "")] if m]
    declared += [m[1].decode("ascii") for m in [_META_CHARSET.search(html[:2048])] if m]
    for name in declared:
        try:
            codec = codecs.lookup(name).name
        except LookupError:
            continue
        # A declared latin-1 or ASCII is windows-1252 on the web (Encoding Standard); a <meta> in ASCII letters
        # cannot be UTF-16.
        if codec in ("iso8859-1", "ascii"):
            return "cp1252"
        if not codec.startswith("utf-16") and codec in _TEXT_CODECS:
            return codec
    try:
        html.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


# Python's codecs that are encodings of the web (Encoding Standard): never "zlib", "idna" or "unicode_escape".
_TEXT_CODECS = frozenset(
    codecs.lookup(name).name
    for name in (
        *("utf-8", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp866"),
        *("cp874", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8"),
        *("iso8859-10", "iso8859-13", "iso8859-14", "iso8859-15", "iso8859-16", "koi8-r", "koi8-u", "mac-roman"),
        *("gbk", "gb2312", "gb18030", "big5", "euc-jp", "iso2022_jp", "shift_jis", "cp932", "euc-kr", "cp949"),
    )
)
