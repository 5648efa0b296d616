"""HTML to image-text pairs and page-level hints: pure, one parse and one CSS pass a page.

What is found is reported as found: whether a text is a description, whether a claim covers an image and what a
robots-like meta means, policy decides.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode

from curation.page_addresses import PageBase
from curation.pair import SIGNATURE_PARAMETERS, ImageTextPair, secret_in_url
from policy.errors import InputError
from policy.evidence import LicenceClaim

# The one pass: elements come in document order, once for each selector that they match. Each selector costs some 15 µs
# a page of 150 KB, less than to search its bytes for one word. <image> is SVG's; elsewhere the parser makes an <img>
# of it. A script that is data has a "+" in its type.
_TELLING = (
    'img,meta,script[type*="+"],input[type*="image" i],figure,picture,image,'
    "[rel],[itemscope],[typeof],[about],[itemprop],[property]"
)
_WITH_LINKS, _WITHOUT_LINKS = f"[href],{_TELLING}", f"base[href],{_TELLING}"
_UNKNOWN_NAMES = ("itemscope", "typeof", "about", "itemprop", "property")  # to the parser, which knows HTML's own

# Attributes that lazy loaders keep the real address in; `src` beside one of them is a placeholder. Of lazysizes,
# lozad, jQuery Lazy and unveil, WordPress and its plugins (a3, WP Rocket, Jetpack, Smush), Slick, Flickity, Splide,
# Cloudflare Mirage, mod_pagespeed, Ezoic, NitroPack, LiteSpeed, Zhihu, Shopify's and Magento's themes.
_LAZY_SRC = (
    *("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-image", "data-url"),
    *("data-lazyload", "data-lazyload-src", "data-lazy-original", "data-echo", "data-real-src", "data-img-src"),
    *("data-image-src", "data-defer-src", "data-delayed-url", "data-actualsrc", "data-flickity-lazyload"),
    *("data-splide-lazy", "data-cfsrc", "data-pagespeed-lazy-src", "pagespeed_lazy_src", "data-ezsrc"),
    *("nitro-lazy-src", "data-litespeed-src", "data-orig-src", "data-hi-res-src", "data-large-file"),
)
_LAZY_SRCSET = (
    *("data-srcset", "data-lazy-srcset", "data-original-set", "data-flickity-lazyload-srcset", "data-ezsrcset"),
    *("data-splide-lazy-srcset", "nitro-lazy-srcset", "data-orig-srcset", "data-bgset", "data-widths-srcset"),
)
_LAZY = frozenset((*_LAZY_SRC, *_LAZY_SRCSET))
# An <img> with none of these says nothing but its address and its text.
_SAYS_MORE = _LAZY | {"srcset", "rel", "itemprop", "property", "itemscope", "typeof", "about"}

# What a robots-like <meta> is: by its name, or because it says something only a robots meta says (GPTBot, "ccbot",
# "anthropic-ai", our own product token: the names cannot be listed, so the content decides).
_META_NAMES = frozenset({"robots", "tdm-reservation", "tdm-policy"})
_META_SAYS = re.compile(
    r"[nN](?<=\b.)[oO](?i:ai|imageai|ml|index|imageindex|follow|archive|snippet)\b"  # each begins with "no"
)

_MAX_ANCESTORS = 48  # a figure is looked for this far up: a page 10,000 elements deep stays linear
_MAX_LD_NODES = 20_000
_SPEAKS_OF_RIGHTS = re.compile(r"licen[sc]e|copyright|usageinfo|creativecommons|rights", re.IGNORECASE)
_MAX_LD_CHARS = 512_000  # a longer script is passed over like a malformed one: as objects it would be fifty times that
_MAX_ITEMS = 2_000  # image objects of a page, in whatever notation
_MAX_ITEM_NODES = 60_000  # elements read for all of them
_MAX_CLAIMS = 256  # of a page, a figure, an image
_MAX_CLAIM_CHARS = 2_000
_MAX_DEEP_TEXTS = 2_000  # elements whose text is read whole; of more, only what stands in them directly
_MAX_TEXT_CHARS = 10_000
_MAX_SOURCES = 256  # addresses of a <picture> beside its <img>'s own

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([a-z0-9_:.+-]{1,40})")  # in small letters
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


def page_json(page: Page, *, whole: bool = True, with_links: bool = True) -> str:
    """What a page holds, as a crawl keeps it: pairs, links, metas, RSL; its title and its claims stand in no pair.

    `whole`: its HTML was read; of one that an archive's metadata tell of, inline RSL was not.
    """
    return json.dumps(
        {
            "pairs": [_plain_pair(pair) for pair in page.pairs],
            "links": page.links if with_links else (),
            "meta": page.meta,
            "rsl": page.rsl,
            "whole": whole,
        },
        ensure_ascii=False,
    )


def pair_of_plain(data: Mapping[str, Any]) -> ImageTextPair:
    """A pair out of what `page_json` made."""
    claims = tuple(LicenceClaim(**claim) for claim in data["licence_claims"])
    return ImageTextPair(**dict(data) | {"licence_claims": claims, "alternates": tuple(data["alternates"])})


def _plain_pair(pair: ImageTextPair) -> dict[str, object]:
    # Without asdict, which copies all that it meets and takes five times as long; a page has hundreds of pairs.
    plain = dict(zip(_PAIR_FIELDS, _PAIR_VALUES(pair), strict=True))
    plain["licence_claims"] = [dict(zip(_CLAIM_FIELDS, _CLAIM_VALUES(c), strict=True)) for c in pair.licence_claims]
    return plain


_PAIR_FIELDS, _CLAIM_FIELDS = (tuple(f.name for f in fields(kind)) for kind in (ImageTextPair, LicenceClaim))
_PAIR_VALUES, _CLAIM_VALUES = attrgetter(*_PAIR_FIELDS), attrgetter(*_CLAIM_FIELDS)


def read_page(html: bytes, base_url: str, content_type: str | None = None, *, with_links: bool = True) -> Page:
    """Read the pairs, links, metas and licence claims of a page.

    `base_url` is the canonical URL the bytes came from (after redirects); `content_type` its header. Its `links` are
    empty unless `with_links`: they take up to a third of the time.
    Raises InputError when `base_url` is no URL; whatever the HTML is, a page comes out.
    """
    return _PageReader(html, base_url, content_type).read(with_links)


def read_meta(attributes: Mapping[str, str | None]) -> tuple[str, str]:
    """The name (in lower case) and the content of a <meta>; the name is empty where it says nothing."""
    content = attributes.get("content")
    if content is None:
        return "", ""
    if (attributes.get("http-equiv") or "").strip().lower() == "x-robots-tag":
        return "robots", content  # the header's twin in HTML: read as what it plainly means
    return (attributes.get("name") or attributes.get("property") or "").strip().lower(), content


def is_robots_like(name: str, content: str) -> bool:
    """Whether a meta of this name and content may be an opt-out."""
    return name in _META_NAMES or name.endswith("bot") or _META_SAYS.search(content) is not None


def is_licence_rel(rel: str | None) -> bool:
    """Whether a rel attribute says that its link is a licence."""
    return rel is not None and not _LICENCE_RELS.isdisjoint(rel.lower().split())


def is_secret(canonical: str) -> bool:
    """Whether `secret_in_url` finds something; most URLs need not be taken apart for it."""
    if "?" not in canonical:
        return "@" in canonical and secret_in_url(canonical) is not None
    low = canonical.lower()
    # Every name of a secret holds one of these, or is written with percent signs.
    named = "sig" in low or "token" in low or "access" in low or "credential" in low or "key-pair-id" in low
    if not (named or "%" in low or "+" in low or "@" in low):
        return False
    return _MAY_BE_SECRET.search(canonical) is not None and secret_in_url(canonical) is not None


# A parameter's name may be written with percent signs, and then it is looked at closely.
_MAY_BE_SECRET = re.compile(
    rf"@|[?&](?:[^=&?%+]*[%+]|(?i:{'|'.join(map(re.escape, sorted(SIGNATURE_PARAMETERS)))})(?:[=&]|\Z))"
)


def links_of(base: PageBase, hrefs: Collection[str]) -> tuple[str, ...]:
    """What hrefs refer to, in canonical spelling and once; none that is a secret."""
    urls = dict.fromkeys(base.join_all(hrefs))
    return tuple([url for url in urls if url is not None and not (("?" in url or "@" in url) and is_secret(url))])


def text_of(value: str | None) -> str | None:
    """White space runs become one space; nothing left is None."""
    if value is None:
        return None
    return " ".join(value[:_MAX_TEXT_CHARS].split()) or None


# What a page says of a picture where it shows it; if it says the same again, that is read once. Its addresses as they
# are written, alt (False where there is none, None where it has no value), title, and the mem_ids of the figures around
# it, innermost first.
_Said = tuple[tuple[str, ...], str | Literal[False] | None, str | None, tuple[int, ...]]


@dataclass(slots=True)
class _Item:
    """An object of linked data that stands for an image: what it is known by, what is claimed of it.

    `claims`: (kind, value). `images`: the <img>s that stand in it.
    """

    source: str
    where: str
    addresses: list[str] = field(default_factory=list)
    claims: list[tuple[str, str]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    title: str | None = None
    creator: str | None = None
    credit: str | None = None

    def made(self, scope: str) -> list[LicenceClaim]:
        """Its claims; one place, so that a copyright notice is known to go with the licence beside it."""
        return [
            LicenceClaim(
                value=value.strip()[:_MAX_CLAIM_CHARS],
                source=self.source,
                scope=scope,
                title=self.title,
                creator=self.creator,
                credit=self.credit,
                where=f"{self.where}/{name}",
                kind=_KIND_OF[name],
            )
            for name, value in dict.fromkeys(self.claims[:_MAX_CLAIMS])
        ]


# What is claimed, by the local name of its property (schema.org, Dublin Core, ccREL) -> what kind of claim it is.
_KIND_OF: Mapping[str, str] = {
    "license": "licence",
    "copyrightNotice": "rights",
    "rights": "rights",
    "usageInfo": "terms",
    "acquireLicensePage": "terms",
}
_ADDRESS_OF = frozenset({"contentUrl", "url", "thumbnailUrl", "embedUrl"})
_TITLE_OF, _CREATOR_OF = ("name", "title", "headline", "caption"), ("creator", "author", "attributionName")
_CREDIT_OF = ("creditText", "copyrightNotice", "copyrightHolder")


class _PageReader:
    def __init__(self, html: bytes, base_url: str, content_type: str | None) -> None:
        self.url = base_url
        self.base = PageBase(base_url)
        # Without what a browser does on events: copies of a chosen <option>, which show no other picture.
        self.tree = LexborHTMLParser(_as_utf8(html, content_type), options=LexborDocumentOptions.WO_EVENTS)
        self.has_figures = False  # so far: a figure comes before what stands in it
        self.sources: dict[int, list[str]] = {}  # of a <picture>, by its mem_id
        self.captions: dict[int, LexborNode] | None = None  # of each figure that has one, once one is wanted
        self.caption_texts: dict[int, str | None] = {}
        self.meta: list[tuple[str, str]] = []
        self.rsl: list[tuple[str, str]] = []
        self.places: list[tuple[LexborNode, _Said]] = []  # where pictures are shown
        self.shown: dict[_Said, tuple[str, ...]] = {}  # those that have URLs
        self.boxes: dict[int, list[int]] = {}  # of a gallery, by the image that stands in each
        self.refused = 0
        # (figure or None for the page) -> claims, creator, address to be credited
        self.claims: dict[int | None, dict[LicenceClaim, None]] = {}
        self.creators: dict[int | None, str] = {}
        self.credits: dict[int | None, str] = {}
        self.loose: list[tuple[LexborNode, LicenceClaim]] = []  # links that stand in no figure
        self.items: list[_Item] = []
        self.item_nodes = _MAX_ITEM_NODES
        self.settled: set[int] = set()  # elements that an item has read
        self.scripts = 0
        self.deep_texts = _MAX_DEEP_TEXTS

    def read(self, with_links: bool) -> Page:
        hrefs = self._visit_all(with_links)
        self._find_images()
        self._settle_loose()
        by_address, by_image = self._settle_items()
        claims = {place: tuple(self._with_creator(c, place) for c in found) for place, found in self.claims.items()}
        return Page(
            url=self.url,
            pairs=self._pairs(claims, by_address, by_image),
            links=links_of(self.base, hrefs),
            meta=tuple(self.meta),
            licence_claims=claims.get(None, ()),
            title=self._title(),
            refused_images=self.refused,
            rsl=tuple(self.rsl),
        )

    def _visit_all(self, with_links: bool) -> dict[str, None]:
        """Read all that tells something; gives the hrefs of the links."""
        self._know_names()
        nodes = self.tree.css(_WITH_LINKS if with_links else _WITHOUT_LINKS)
        tags = [node.tag for node in nodes]
        if "base" in tags:
            self._set_base()
        hrefs: list[str] = []
        linked = visited = 0
        for node, tag in zip(nodes, tags, strict=True):
            at = node.mem_id
            if with_links and (tag == "a" or tag == "area") and at != linked:
                linked = at
                if href := node.attrs.get("href"):
                    hrefs.append(href)
                    continue  # if it says more, it comes again
            if at == visited:
                continue
            visited, attributes = at, node.attributes
            src = attributes.get("src") if tag == "img" and not self.has_figures else None
            if src and _SAYS_MORE.isdisjoint(attributes):  # as most images are
                said: _Said = ((src.strip(),), attributes.get("alt", False), attributes.get("title"), ())
                self.places.append((node, said))
            else:
                self._visit(node, tag, attributes)
        return dict.fromkeys(hrefs)

    def _set_base(self) -> None:
        # Only the first <base href> counts (HTML, 4.2.3); an unusable one leaves the page's own URL.
        node = self.tree.css_first("base[href]")
        if node is not None and (href := node.attributes.get("href")):
            with suppress(InputError):
                self.base = PageBase(self.base.join(href.strip()) or self.url)

    def _know_names(self) -> None:
        # A name that no element has is looked up anew for each of them; that an element outside the page has it spares
        # a third of the search.
        attributes = self.tree.create_node("i").attrs
        for name in _UNKNOWN_NAMES:
            attributes[name] = ""

    def _title(self) -> str | None:
        """The document's title: not a drawing's."""
        head = self.tree.head
        if head is None:
            return None
        titles = (text_of(node.text()) for node in head.iter() if node.tag == "title")
        return next((title for title in titles if title is not None), None)

    def _visit(self, node: LexborNode, tag: str | None, attributes: Mapping[str, str | None]) -> None:
        if "itemscope" in attributes or "typeof" in attributes or "about" in attributes:
            self._item(node, attributes)
        if tag == "figure" or tag == "picture":
            self.has_figures = True
        if tag == "picture":
            self._bare_picture(node)
        match tag:
            case "a" | "area":
                if attributes.get("href") and "rel" in attributes:
                    self._rel(node, attributes, "a")
            case "img" | "image":
                self._image(node, attributes)
            case "input" if (attributes.get("type") or "").strip().lower() == "image":
                self._image(node, attributes)
            case "meta":
                self._meta(attributes)
            case "script" if (attributes.get("type") or "").strip().lower().startswith("application/ld+json"):
                self._script(node)
            case "script" if _media_type(attributes) == "application/rsl+xml":
                self.rsl.append(("inline", node.text()))
            case _ if "rel" in attributes:  # RDFa puts it anywhere
                self._rel(node, attributes, tag or "")
        if "itemprop" in attributes or "property" in attributes:
            self._property(node, attributes)

    def _property(self, node: LexborNode, attributes: Mapping[str, str | None]) -> None:
        if attributes.get("itemprop") == "creator" or attributes.get("property") == "cc:attributionName":
            self._creator(node, attributes.get("content") or self._said(node))
            if "attributionurl" in (attributes.get("rel") or "").lower() and (href := attributes.get("href")):
                figure = next(iter(_figures(node)), None)
                self.credits.setdefault(None if figure is None else figure.mem_id, self.base.join(href) or href)
        for notation in _NOTATIONS:
            names = (attributes.get(notation.property) or "").split()
            if "license" not in map(_local, names) or node.mem_id in self.settled or not _is_of_page(node, notation):
                continue
            value = _address(attributes) or attributes.get("content") or self._said(node)
            if "rel" not in attributes or not is_licence_rel(attributes.get("rel")):
                self._claim(None, value, notation.source, "page", f"{notation.property}=license on <{node.tag}>")

    def _claim(self, place: int | None, value: str, source: str, scope: str, where: str, kind: str = "licence") -> None:
        """Keep a claim of the page or of a figure."""
        value = value.strip()[:_MAX_CLAIM_CHARS]
        known = self.claims.setdefault(place, {})
        if value and len(known) < _MAX_CLAIMS:
            known.setdefault(LicenceClaim(self._licence_address(value), source, scope, where=where, kind=kind))

    def _licence_address(self, value: str) -> str:
        """A value as an address where it is written as one, in full."""
        return self.base.join(value) or value if value.startswith(("/", "http:", "https:", "./", "../")) else value

    # ── links, metas ──────────────────────────────────────────────────────────────────────────────────────────
    def _rel(self, node: LexborNode, attributes: Mapping[str, str | None], element: str) -> None:
        rels = (attributes.get("rel") or "").lower().split()
        if "author" in rels and element == "a":
            self._creator(node, self._said(node))
        if _LICENCE_RELS.isdisjoint(rels) or not (href := attributes.get("href") or attributes.get("resource")):
            return
        # RSL declares its documents by the same rel; they are no licence of the picture.
        if _media_type(attributes) == "application/rsl+xml":
            self.rsl.append(("link", self.base.join(href) or href.strip()))
            return
        if node.mem_id in self.settled or "about" in attributes:
            return  # said of an object, which has it
        figure = next(iter(_figures(node)), None)
        value, where = self.base.join(href) or href.strip(), f"rel=license on <{element}>"
        if figure is not None:
            self._claim(figure.mem_id, value, "rel-license", "figure", where + " in <figure>")
        elif element == "link":
            self._claim(None, value, "rel-license", "page", where)
        elif len(self.loose) < _MAX_LOOSE:
            self.loose.append((node, LicenceClaim(value[:_MAX_CLAIM_CHARS], "rel-license", "page", where=where)))
        else:
            self._claim(None, value, "rel-license", "page", where)

    def _settle_loose(self) -> None:
        """Links that stand in no figure: in a small box with one picture they are its own, else the page's."""
        if not self.loose:
            return
        images = [node for node, said in self.places if said in self.shown]
        boxes = _Boxes(images, [node for node, _ in self.loose])
        for node, claim in self.loose:
            if (box := boxes.of(node)) is None:
                self._claim(None, claim.value, claim.source, "page", claim.where)
                continue
            self._claim(box.mem_id, claim.value, claim.source, "figure", f"{claim.where} in <{box.tag}>")
            self.boxes.setdefault(boxes.image_in(box), []).append(box.mem_id)

    def _said(self, node: LexborNode) -> str:
        self.deep_texts -= 1
        return node.text(deep=self.deep_texts >= 0)

    def _creator(self, node: LexborNode, text: str | None) -> None:
        if (name := text_of(text)) is not None:
            figure = next(iter(_figures(node)), None)
            self.creators.setdefault(None if figure is None else figure.mem_id, name)

    def _meta(self, attributes: Mapping[str, str | None]) -> None:
        name, content = read_meta(attributes)
        if not name:
            return
        if name == "author":
            self.creators.setdefault(None, text_of(content) or content)
        if name in META_CLAIMS:
            self._claim(None, content, "meta", "page", f"meta {name}", META_CLAIMS[name])
        if is_robots_like(name, content):
            self.meta.append((name, content))

    # ── images ────────────────────────────────────────────────────────────────────────────────────────────────
    def _image(self, node: LexborNode, attributes: Mapping[str, str | None]) -> None:
        figures, picture = _ancestors(node) if self.has_figures else ((), None)
        addresses = _addresses(attributes)
        if picture is not None:
            addresses += self._sources(picture)
        self._show(node, attributes, addresses, figures)

    def _bare_picture(self, node: LexborNode) -> None:
        """A <picture> whose <img> a script would add."""
        if node.css_first("img") is None:
            self._show(node, node.attributes, self._sources(node), _figures(node))

    def _show(
        self,
        node: LexborNode,
        attributes: Mapping[str, str | None],
        addresses: Iterable[str],
        figures: Iterable[LexborNode],
    ) -> None:
        around = tuple([figure.mem_id for figure in figures])
        said: _Said = (tuple(addresses), attributes.get("alt", False), attributes.get("title"), around)
        self.places.append((node, said))

    def _sources(self, picture: LexborNode) -> list[str]:
        """The addresses that a <picture> adds to whatever <img> stands in it."""
        at = picture.mem_id
        if (known := self.sources.get(at)) is None:
            each = (address for source in picture.css("source") for address in _addresses(source.attributes))
            known = self.sources[at] = list(islice(each, _MAX_SOURCES))
        return known

    def _caption(self, figure: int) -> str | None:
        """The text of the first <figcaption> in a figure, by its mem_id."""
        if self.captions is None:
            self.captions = {}
            for caption in self.tree.css("figcaption"):
                for above in _figures(caption):
                    self.captions.setdefault(above.mem_id, caption)
        if (found := self.captions.get(figure)) is None:
            return None
        if (at := found.mem_id) not in self.caption_texts:
            self.caption_texts[at] = text_of(found.text())
        return self.caption_texts[at]

    def _find_images(self) -> None:
        """Which of what is shown has URLs."""
        said = dict.fromkeys([said for _, said in self.places])
        # What is no address: the picture itself, or a lazy loader's placeholder.
        written = dict.fromkeys([a for one in said for a in one[0] if a[:5].lower() != "data:"])
        urls = dict(zip(written, self.base.join_all(written), strict=True))
        refused = dict[_Said, int]()
        for one in said:
            found = [urls[address] for address in one[0] if address in urls]
            usable = [url for url in found if url is not None and not (("?" in url or "@" in url) and is_secret(url))]
            if len(usable) < len(found):
                refused[one] = len(found) - len(usable)
            if usable:
                self.shown[one] = tuple(dict.fromkeys(usable)) if len(usable) > 1 else tuple(usable)
        if refused:
            self.refused = sum([refused.get(said, 0) for _, said in self.places])

    def _pairs(
        self,
        claims: Mapping[int | None, tuple[LicenceClaim, ...]],
        by_address: Mapping[str, list[LicenceClaim]],
        by_image: Mapping[int, list[LicenceClaim]],
    ) -> tuple[ImageTextPair, ...]:
        """The same image with the same text counts once a page; what covers any of its places covers it."""
        merged: dict[tuple[str, str | None], ImageTextPair] = {}
        page_claims = claims.get(None, ())
        is_plain = not (by_address or by_image or claims.keys() - {None})  # all images have the page's claims alone
        places = [(None, said) for said in self.shown] if is_plain else self.places
        for node, said in places:
            if (urls := self.shown.get(said)) is None:
                continue
            _, alt, title, figures = said
            raw_alt = None if alt is False else alt or ""
            text, origin = text_of(raw_alt), "alt"
            if text is None and figures:
                text, origin = self._caption(figures[0]), "figcaption"
            if text is None:
                text, origin = text_of(title), "title"
            covering = page_claims
            if node is not None:
                near = self._near(node.mem_id, urls, figures, claims, by_address, by_image)
                covering = tuple(dict.fromkeys((*near, *page_claims)))
            pair = new_pair(self.url, urls[0], text, None if text is None else origin, raw_alt, covering, urls[1:])
            first = merged.setdefault((urls[0], text), pair)
            if first is not pair:
                merged[urls[0], text] = _merged(first, pair)
        return tuple(merged.values())

    def _near(
        self,
        image: int,
        urls: Iterable[str],
        figures: Iterable[int],
        claims: Mapping[int | None, tuple[LicenceClaim, ...]],
        by_address: Mapping[str, list[LicenceClaim]],
        by_image: Mapping[int, list[LicenceClaim]],
    ) -> list[LicenceClaim]:
        """The claims that cover an image alone, and those of what it stands in."""
        near = list(by_image.get(image, ()))
        if by_address:
            near += [claim for url in urls for claim in by_address.get(_without_scheme(url), ())]
        around = (*figures, *self.boxes.get(image, ()))
        return near + [claim for place in around for claim in claims.get(place, ())]

    def _with_creator(self, claim: LicenceClaim, figure: int | None) -> LicenceClaim:
        creator = claim.creator or self.creators.get(figure) or self.creators.get(None)
        credit = claim.credit or self.credits.get(figure) or self.credits.get(None)
        if creator == claim.creator and credit == claim.credit:
            return claim
        return replace(claim, creator=creator, credit=credit)

    # ── objects that stand for images: JSON-LD, microdata, RDFa ───────────────────────────────────────────────
    def _settle_items(self) -> tuple[dict[str, list[LicenceClaim]], dict[int, list[LicenceClaim]]]:
        """The claims of image scope, by the address of the image and by its element."""
        by_address: dict[str, list[LicenceClaim]] = {}
        by_image: dict[int, list[LicenceClaim]] = {}
        for item in self.items:
            if not item.claims:
                continue
            urls = {_without_scheme(url) for a in item.addresses if (url := self.base.join(a)) is not None}
            made = item.made("image")
            for url in urls:
                known = by_address.setdefault(url, [])
                known.extend(made[: _MAX_CLAIMS - len(known)])
            if len(item.images) == 1:  # the one picture that stands in an object is that object, in whatever size
                by_image.setdefault(item.images[0], []).extend(made)
        return by_address, by_image

    def _script(self, node: LexborNode) -> None:
        number, self.scripts = self.scripts, self.scripts + 1
        text = node.text()
        try:
            if len(text) > _MAX_LD_CHARS:
                raise ValueError(f"{len(text)} characters")
            wrapped = text.lstrip()[:1] in ("/", "<") or text.rstrip()[-1:] == ">"
            data = json.loads(_LD_WRAPPING.sub("", text) if wrapped else text, strict=False)
            if _HALF_CHARACTER.search(text):  # an unpaired one is no character: it can be neither stored nor said
                data = json.loads(_whole_characters(json.dumps(data, ensure_ascii=False)))
        except (ValueError, RecursionError):
            # One malformed script loses nothing else; but what it may have said of rights is not silence.
            if _SPEAKS_OF_RIGHTS.search(text):
                unread = "linked data that speaks of rights and cannot be read"
                claim = LicenceClaim(unread, "json-ld", "page", where=f"script[{number}]", kind="unread")
                self.claims.setdefault(None, {}).setdefault(claim)
            return
        objects = list(_objects(data))
        by_id = {str(one["@id"]): one for _, one in objects if isinstance(one.get("@id"), str) and len(one) > 1}
        for pointer, one in objects:
            kinds = _kinds(one)
            of_page = not kinds.isdisjoint(_PAGE_TYPES) and _AT_THE_TOP.match(pointer) is not None
            if not of_page and kinds.isdisjoint(_IMAGE_TYPES):
                continue
            item = _linked(one, by_id, f"script[{number}]#{pointer}")
            if of_page:
                known = self.claims.setdefault(None, {})
                known.update(dict.fromkeys(item.made("page")[: _MAX_CLAIMS - len(known)]))
            elif len(self.items) < _MAX_ITEMS:
                self.items.append(item)

    def _item(self, node: LexborNode, attributes: Mapping[str, str | None]) -> None:
        """Read an element that stands for an image, in microdata or RDFa, with what is said inside it."""
        if len(self.items) >= _MAX_ITEMS:
            return
        about = attributes.get("about")
        for notation in _NOTATIONS:
            types = (attributes.get(notation.type) or "").split()
            is_image = notation.scope in attributes and not _IMAGE_TYPES.isdisjoint(map(_local, types))
            if is_image or (notation.source == "rdfa" and about is not None and self._is_pictures(about)):
                item = _Item(notation.source, f"{notation.source}[{len(self.items)}]")
                own = (attributes.get(name) for name in ("itemid", "about", "resource", "src"))
                item.addresses.extend(address for address in own if address)
                self._read_item(item, node, attributes, notation)
                if not is_image:  # the subject is named; what stands in the element need not be it
                    item.images.clear()
                self.items.append(item)
                return
        if about is not None and is_licence_rel(attributes.get("rel")) and (href := attributes.get("href")):
            self._claim(None, self.base.join(href) or href, "rel-license", "page", f"rel=license on <{node.tag}>")

    def _is_pictures(self, about: str) -> bool:
        """Whether a subject is surely no page: the address of a picture, by its ending or by an <img> of it."""
        path = about.partition("?")[0].partition("#")[0].lower()
        return path.endswith(_PICTURE_ENDINGS)

    def _read_item(
        self, item: _Item, root: LexborNode, attributes: Mapping[str, str | None], notation: _Notation
    ) -> None:
        if notation.source == "rdfa":
            self._read_property(item, root, attributes, notation)
        waiting = [*reversed(list(root.iter()))]
        for name in (attributes.get("itemref") or "").split()[:8]:
            if _PLAIN_ID.match(name) and (more := self.tree.css_first(f"#{name}")) is not None:
                waiting.append(more)
        while waiting and self.item_nodes > 0:
            self.item_nodes -= 1
            node = waiting.pop()
            inner = node.attributes
            if node.tag == "img":
                item.images.append(node.mem_id)
            self._read_property(item, node, inner, notation)
            if notation.scope not in inner and "about" not in inner:
                waiting.extend(reversed(list(node.iter())))

    def _read_property(
        self, item: _Item, node: LexborNode, attributes: Mapping[str, str | None], notation: _Notation
    ) -> None:
        names = [_local(name) for name in (attributes.get(notation.property) or "").split()]
        if is_licence_rel(attributes.get("rel")):
            names.append("license")
        if "attributionurl" in (attributes.get("rel") or "").lower() and (href := attributes.get("href")):
            item.credit = item.credit or self.base.join(href)
        for name in dict.fromkeys(names):
            if name in _KIND_OF:
                value = _address(attributes) or attributes.get("content") or self._said(node)
                item.claims.append((name, self.base.join(value) or value if _address(attributes) else value))
                self.settled.add(node.mem_id)
            if name in _ADDRESS_OF and (address := _address(attributes) or attributes.get("content")):
                item.addresses.append(address)
            said = text_of(attributes.get("content") or self._said(node)) if name in _SAID_OF else None
            if name in _TITLE_OF:
                item.title = item.title or said
            if name in _CREATOR_OF:
                item.creator = item.creator or said
            if name in _CREDIT_OF:
                item.credit = item.credit or said


# Scripts are still wrapped in comments or CDATA for browsers of the last century.
_LD_WRAPPING = re.compile(r"^\s*(?://\s*)?(?:<!--|<!\[CDATA\[)|(?://\s*)?(?:-->|\]\]>)\s*$")

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def _whole_characters(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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


def _addresses(attributes: Mapping[str, str | None]) -> list[str]:
    """Every address an <img> or <source> names, the one to fetch first.

    A lazy loader's attribute before `src` (a placeholder beside it), `src` before the candidates of a srcset
    (it is the one that every reader of the page gets), the largest candidate first. SVG's <image> has an href.
    """
    found: list[str] = []
    if not _LAZY.isdisjoint(attributes):
        found += [value.strip() for name in _LAZY_SRC if (value := attributes.get(name))]
        for name in _LAZY_SRCSET:
            if value := attributes.get(name):
                found += _candidates(value)
    if value := attributes.get("src"):
        found.append(value.strip())
    if value := attributes.get("srcset"):
        found += _candidates(value)
    if not found and (value := attributes.get("href") or attributes.get("xlink:href")):
        found.append(value.strip())
    return found


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


class _Notation(NamedTuple):
    """How a notation of linked data in HTML calls its attributes."""

    source: str
    scope: str
    type: str
    property: str


_NOTATIONS = (
    _Notation("microdata", "itemscope", "itemtype", "itemprop"),
    _Notation("rdfa", "typeof", "typeof", "property"),
)
_SAID_OF = frozenset((*_TITLE_OF, *_CREATOR_OF, *_CREDIT_OF))
_IMAGE_TYPES = frozenset(
    {"ImageObject", "Photograph", "VisualArtwork", "Painting", "Drawing", "Map", "ImageObjectSnapshot", "StillImage"}
)
_PAGE_TYPES = frozenset(
    {
        "WebPage",
        "ItemPage",
        "CollectionPage",
        "AboutPage",
        "ProfilePage",
        "MediaGallery",
        "ImageGallery",
        "CreativeWork",
    }
    | {"Article", "NewsArticle", "BlogPosting", "ScholarlyArticle", "WebSite", "Blog"}
)
# The objects of a script that are the page: the outermost ones, and what it is mainly about.
_AT_THE_TOP = re.compile(r"(?:/\d+)?(?:/@graph(?:/\d+)?)?(?:/mainEntity(?:OfPage)?)?\Z")
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".tif", ".tiff", ".svg", ".jfif", ".heic")
_PLAIN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}\Z")
_LICENCE_RELS = frozenset({"license", "cc:license", "dct:license", "dcterms:license", "dc:license", "xhv:license"})
_LICENCE_RELS |= {"schema:license", "copyright"}  # "copyright": as HTML has it, for pages of old (4.6.7.9)
META_CLAIMS: Mapping[str, str] = {
    **dict.fromkeys(("license", "licence", "dc.license", "dcterms.license", "dc.rights.license"), "licence"),
    **dict.fromkeys(("dct:license", "dcterms:license", "cc:license"), "licence"),
    **dict.fromkeys(("copyright", "rights", "dc.rights", "dcterms.rights", "dc:rights", "dcterms:rights"), "rights"),
    **dict.fromkeys(("dcterms.rightsholder", "rights-standard", "dc.rights.rightsstatement"), "rights"),
}
_MAX_LOOSE = 1_000


def _local(name: str) -> str:
    """A property's or a type's name without its vocabulary: "schema:license", "https://schema.org/license"."""
    return name.rsplit("/", 1)[-1].rsplit("#", 1)[-1].rsplit(":", 1)[-1]


def _address(attributes: Mapping[str, str | None]) -> str | None:
    return next((v for n in ("href", "src", "resource", "data") if (v := attributes.get(n))), None)


def _is_of_page(node: LexborNode, notation: _Notation) -> bool:
    """Whether a property is said of the page: by no object, or by one that is the page."""
    above = node.parent
    for _ in range(_MAX_ANCESTORS):
        if above is None:
            return True
        attributes = above.attributes
        if notation.scope in attributes:
            return not _PAGE_TYPES.isdisjoint(map(_local, (attributes.get(notation.type) or "").split()))
        above = above.parent
    return False


def _without_scheme(url: str) -> str:
    return url.partition(":")[2]


def _chain(node: LexborNode) -> list[int]:
    """The elements around one, by their ids, innermost first, up to the body."""
    found: list[int] = []
    above = node.parent
    while above is not None and above.tag != "body" and len(found) < _MAX_ANCESTORS:
        found.append(above.mem_id)
        above = above.parent
    return found


class _Boxes:
    """Which small box around a licence's link holds one picture and no other licence: a gallery's entry.

    A list item or a table's cell is one by itself; any other element only among its like, since a page with one
    picture is a box with one picture too.
    """

    def __init__(self, images: list[LexborNode], links: list[LexborNode]) -> None:
        self._images, self._links = _counted(images), _counted(links)
        self._last = {above: image.mem_id for image in images for above in _chain(image)}

    def image_in(self, box: LexborNode) -> int:
        """The one picture in a box that `of` gave."""
        return self._last[box.mem_id]

    def of(self, link: LexborNode) -> LexborNode | None:
        above = link.parent
        for _ in range(_MAX_BOX_LEVELS):
            if above is None or above.tag == "body":
                return None
            if images := self._images.get(above.mem_id):
                single = images == 1 and self._links.get(above.mem_id) == 1
                return above if single and (above.tag in _BOX_TAGS or self._is_repeated(above)) else None
            above = above.parent
        return None

    def _is_repeated(self, box: LexborNode) -> bool:
        for step in ("prev", "next"):
            beside = getattr(box, step)
            for _ in range(8):
                if beside is None:
                    break
                if beside.tag == box.tag:
                    at = beside.mem_id
                    return self._images.get(at) == 1 and self._links.get(at) == 1
                beside = getattr(beside, step)
        return False


_MAX_BOX_LEVELS = 6
_BOX_TAGS = frozenset({"li", "td", "dd"})


def _counted(nodes: Iterable[LexborNode]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for node in nodes:
        for above in _chain(node):
            counts[above] = counts.get(above, 0) + 1
    return counts


def _kinds(item: Mapping[str, object]) -> frozenset[str]:
    return frozenset(_local(kind) for kind in _strings(item.get("@type")))


def _property(item: Mapping[str, object], name: str) -> object:
    """The value of a property under any of the names that JSON-LD may give it."""
    for key in (name, f"schema:{name}", f"http://schema.org/{name}", f"https://schema.org/{name}"):
        if key in item:
            return item[key]
    return next((item[k] for k in (f"dcterms:{name}", f"dct:{name}", f"dc:{name}", f"cc:{name}") if k in item), None)


def _linked(item: Mapping[str, object], by_id: Mapping[str, Mapping[str, object]], where: str) -> _Item:
    """A JSON-LD object as an item; what it only refers to is looked up."""

    def looked_up(value: object) -> object:
        if isinstance(value, list):
            return [looked_up(one) for one in value[:_MAX_CLAIMS] if not isinstance(one, list)]
        if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("@id"), str):
            return by_id.get(value["@id"], value)
        return value

    def first(names: Iterable[str]) -> str | None:
        said = ((name, looked_up(_property(item, name))) for name in names)
        return next((text for name, value in said if (text := _first({name: value}, name)) is not None), None)

    addresses = [*_ADDRESS_OF, "image"] if "ImageObject" not in _kinds(item) else _ADDRESS_OF
    return _Item(
        source="json-ld",
        where=where,
        addresses=[a for name in addresses for a in _strings(_property(item, name))] + _strings(item.get("@id")),
        claims=[(name, v) for name in _KIND_OF for v in _strings(looked_up(_property(item, name)))],
        title=first(_TITLE_OF),
        creator=first(_CREATOR_OF),
        credit=first(_CREDIT_OF),
    )


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
        if isinstance(value, str) and (text := text_of(value)) is not None:
            return text
    return None


def new_pair(
    page_url: str,
    image_url: str,
    alt: str | None,
    text_origin: str | None,
    raw_alt: str | None,
    licence_claims: tuple[LicenceClaim, ...],
    alternates: tuple[str, ...],
) -> ImageTextPair:
    """An `ImageTextPair`, in a third of the time that a frozen class takes to set its fields."""
    pair = _NEW(ImageTextPair)
    _PUT[0](pair, page_url)
    _PUT[1](pair, image_url)
    _PUT[2](pair, alt)
    _PUT[3](pair, text_origin)
    _PUT[4](pair, raw_alt)
    _PUT[5](pair, licence_claims)
    _PUT[6](pair, alternates)
    return pair


_NEW, _PUT = ImageTextPair.__new__, tuple(getattr(ImageTextPair, name).__set__ for name in _PAIR_FIELDS)


def _merged(first: ImageTextPair, pair: ImageTextPair) -> ImageTextPair:
    if pair.licence_claims == first.licence_claims and pair.alternates == first.alternates:
        return first
    return replace(
        first,
        licence_claims=tuple(dict.fromkeys((*first.licence_claims, *pair.licence_claims))),
        alternates=tuple(dict.fromkeys((*first.alternates, *pair.alternates))),
    )


def _as_utf8(html: bytes, content_type: str | None) -> bytes:
    """The page in UTF-8, by byte order mark, header, <meta charset>, or what its bytes allow (in that order)."""
    encoding = _encoding(html, content_type)
    if encoding == "utf-8":
        return html.removeprefix(codecs.BOM_UTF8)  # left there it would be text, and open the body before the head
    return html.decode(encoding, "replace").encode()


def _encoding(html: bytes, content_type: str | None) -> str:
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if html.startswith(mark):
            return name
    declared = [m[1] for m in [_HEADER_CHARSET.search(content_type or "")] if m]
    declared += [m[1].decode("ascii") for m in [_META_CHARSET.search(html[:2048].lower())] if m]
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
