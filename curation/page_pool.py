"""Worker processes that read untrusted HTML: a page of a few KB that would take gigabytes or hours costs itself alone.

The parser is quadratic in what a page may hold (formatting that is made anew in every paragraph, attributes of one
element, depth), as HTML asks, and allocates accordingly; nothing inside the process that calls it can stop it.
How a page travels, and what becomes of one that its worker dies of, `curation.worker_pool` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from selectolax.lexbor import SelectolaxError

from curation.pages import Page, page_json, pair_of_plain, read_page
from curation.worker_pool import OUT_OF_MEMORY, Do, NotDone, WorkerPool, serve
from policy.errors import InputError
from policy.evidence import LicenceClaim

TOO_COSTLY, FAILED = "too-costly", "failed"


class PageError(InputError):
    """A page that could not be read. `code`: "too-costly" (memory, time, or what was found), "failed" (our fault)."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code, self.detail = code, detail
        super().__init__(f"the page cannot be read: {code}" + (f" ({detail})" if detail else ""))


@dataclass(frozen=True, slots=True)
class PageLimits:
    """Bounds of one page. `memory_bytes`: what a worker may take beyond its own start; `json_bytes`: what is found."""

    memory_bytes: int = 256 << 20
    cpu_s: int = 5
    wall_s: float = 20.0
    json_bytes: int = 32 << 20


@dataclass(frozen=True, slots=True)
class ReadPage:
    """What was read of a page: `json` as `page_json` made it, and what is wanted without taking that apart.

    `title`, `licence_claims` (of page scope) and `refused_images` are not in `json`.
    """

    url: str
    json: str
    pairs: int
    rsl: tuple[tuple[str, str], ...]
    title: str | None
    licence_claims: tuple[LicenceClaim, ...]
    refused_images: int

    def page(self) -> Page:
        """The page as `read_page` gives it (without links, if none were asked for)."""
        data = json.loads(self.json)
        return Page(
            url=self.url,
            pairs=tuple(map(pair_of_plain, data["pairs"])),
            links=tuple(data["links"]),
            meta=tuple((name, content) for name, content in data["meta"]),
            licence_claims=self.licence_claims,
            title=self.title,
            refused_images=self.refused_images,
            rsl=self.rsl,
        )


Result = ReadPage | PageError


class PagePool(WorkerPool[Result]):
    """Reads untrusted pages in worker processes, within `limits` of memory, CPU and time for each.

    As a `DecodePool` does pictures: workers are fresh interpreters, started by the first page or by `start`; at most
    `queue_depth` pages are laid out for each; up to `max_bytes` of HTML may be waiting in all. Not for several threads.
    `with_links` False leaves the links out of what comes back.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        limits: PageLimits | None = None,
        with_links: bool = True,
        queue_depth: int = 8,
        max_bytes: int = 64 << 20,
    ) -> None:
        self.limits = limits or PageLimits()
        super().__init__(
            workers,
            entry="curation.page_pool:work",
            greeting={"limits": asdict(self.limits), "with_links": with_links},
            limits=self.limits,
            queue_depth=queue_depth,
            max_bytes=max_bytes,
        )

    def submit(self, tag: object, html: bytes, base_url: str, content_type: str | None = None) -> None:
        """Hand in a page as `read_page` takes it; waits only while `max_bytes` of pages are unanswered."""
        self.submit_piece(tag, json.dumps([base_url, content_type]).encode(), html)

    def read_all(self, pages: Iterable[tuple[object, bytes, str, str | None]]) -> Iterator[tuple[object, Result]]:
        """Read a stream of (tag, HTML, base URL, content type), results as they finish."""
        for page in pages:
            self.submit(*page)
            yield from self.ready()
        yield from self.drain()

    def made(self, made: bytes, told: Any) -> Result:
        url, pairs, rsl, title, claims, refused_images = told
        return ReadPage(
            url=url,
            json=made.decode(),
            pairs=pairs,
            rsl=tuple((kind, value) for kind, value in rsl),
            title=title,
            licence_claims=tuple(LicenceClaim(**claim) for claim in claims),
            refused_images=refused_images,
        )

    def not_made(self, why: NotDone) -> Result:
        if why.code == FAILED:
            return PageError(FAILED, why.detail)
        return PageError(TOO_COSTLY, f"{why.code}: {why.detail}" if why.detail else why.code)


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────
def work() -> None:
    """A worker's whole life."""
    serve(_prepare)


def _prepare(greeting: Mapping[str, Any]) -> Do:
    limits, with_links = PageLimits(**greeting["limits"]), bool(greeting["with_links"])
    read_page(_WARM_UP, "https://a.example/")

    def do(head: bytes, html: bytes) -> tuple[bytes, bytes] | NotDone:
        base_url, content_type = json.loads(head)
        try:
            page = read_page(html, base_url, content_type, with_links=with_links)
            text = page_json(page, with_links=with_links).encode()
        except (MemoryError, SelectolaxError):  # the parser's own word for it
            return NotDone(OUT_OF_MEMORY)
        except Exception as error:  # whatever it stumbles over is one page's; nothing of the page stands in its name
            return NotDone(FAILED, type(error).__name__)
        if len(text) > limits.json_bytes:
            return NotDone("too-much", f"{math.ceil(len(text) / 1e6)} MB were found")
        claims = [asdict(claim) for claim in page.licence_claims]
        told = [page.url, len(page.pairs), page.rsl, page.title, claims, page.refused_images]
        return text, json.dumps(told).encode()

    return do


# Something of each kind, since what is loaded on first use has to be loaded before memory is limited.
_WARM_UP = b"""<title>x</title><base href=/x><meta name=robots content=noai><a rel=license href=l>l</a><a href=m>m</a>
<script type=application/ld+json>{"@type": "ImageObject", "contentUrl": "i", "license": "l"}</script>
<figure itemscope itemtype=http://schema.org/ImageObject><picture><source srcset="a 1x, b 2x"><img src=i></picture>
<figcaption property=dc:title>c</figcaption></figure>"""
