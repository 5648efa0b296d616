"""The cases of the comparison: what stands on a site or in a picture, and what that means for training on the picture.

Each case is about one mechanism of the table of opt-out signals (1 to 13); all others are silent in it. The right
answers are the specifications', written down before any of the three programs was run; where they leave a choice or
say nothing they are our table's, which fails closed, and marked `by_policy`:
 1 RFC 9309
 3, 4 draft-ietf-aipref-vocab and -attach (August 2026), RFC 9651     5 contentsignals.org     6 rslstandard.org 1.0
 7 W3C TDM Reservation Protocol (2024)    8 Google's grammar of X-Robots-Tag, DeviantArt's noai and noimageai
 9 Spawning's ai.txt   10 JournalList's trust.txt   11 IPTC Photo Metadata 2025.1, PLUS   12 C2PA 2.2, CAWG 1.1
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.benchmarks import peers_images as images
from tests.benchmarks.peers_images import Picture, data_mining, signed, with_xmp
from tests.benchmarks.peers_site import Answer, Headers

Right = Literal["no", "wait", "nothing", "yes"]

# Of the mechanisms of the table: the name that `custody inspect judge` gives them.
NUMBERS: Mapping[str, int] = {
    **{"robots": 1, "ai_agents": 2, "content_usage": 3, "content_usage header": 4, "content_signal": 5, "rsl": 6},
    **{"tdmrep": 7, "x_robots": 8, "ai_txt": 9, "trust_txt": 10, "xmp": 11, "c2pa": 12, "registry": 13},
}
TITLES: Mapping[int, str] = {
    1: "robots.txt",
    2: "other AI agents' groups",
    3: "AIPREF in robots.txt",
    4: "AIPREF header",
    5: "Content Signals",
    6: "RSL 1.0",
    7: "TDMRep",
    8: "X-Robots-Tag, meta robots",
    9: "ai.txt",
    10: "trust.txt",
    11: "IPTC / PLUS Data Mining",
    12: "C2PA / CAWG",
    13: "registries, hash lists",
}
IMAGE_PATH, PAGE_PATH = "/pictures/x", "/page.html"


@dataclass(frozen=True, slots=True)
class Listed:
    """A list that the operator imported: what it names ("" nothing of this case), and how old it is."""

    kind: Literal["url", "domain", "sha256", "md5", "pdq"]
    names_it: bool = True
    days_old: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `right`: no | wait (it cannot be known) | nothing (nothing is said) | yes.

    `by_policy`: the specifications leave it open, and this is the table's strict reading. `documents`: the image's
    origin's, by path; `page_documents`: those of the page's, which is another origin then. `hop`: headers
    of a redirect on the way to the image; `target_documents`: those of the origin it leads to. `later`: what the
    image's origin answers a day later, when it is asked again. `days_ago`: when the documents were asked for.
    `required`: a list that the ruleset requires.
    """

    number: int
    what: str
    right: Right
    by_policy: bool = False
    documents: Mapping[str, Answer] = field(default_factory=dict)
    page_documents: Mapping[str, Answer] | None = None
    target_documents: Mapping[str, Answer] = field(default_factory=dict)
    image: Picture = field(default_factory=images.plain)
    extension: str = "jpg"
    image_headers: Headers = ()
    hop: Headers | None = None
    page_headers: Headers = ()
    head: str = ""
    later: Mapping[str, Answer] | None = None
    days_ago: int = 0
    listed: Listed | None = None
    required: str = ""

    @property
    def mechanism(self) -> str:
        """As `custody inspect judge` names it."""
        return next(name for name, number in NUMBERS.items() if number == self.number).partition(" ")[0]

    @property
    def is_a_choice(self) -> bool:
        """Whether the answer is a reading of ours: none says what a page or a redirect means for an image."""
        return self.by_policy or self.page_documents is not None or self.hop is not None or bool(self.page_headers)

    @property
    def name(self) -> str:
        return f"{self.number}: {self.what}"


def text(body: str | bytes, status: int | None = 200, **more: object) -> Answer:
    """A text document's answer."""
    return Answer(body.encode() if isinstance(body, str) else body, status, **more)  # type: ignore[arg-type]


HTML = Answer(b"<!DOCTYPE html><title>Not here</title><p>There is no such page.", media_type="text/html")
SILENT = Answer(status=None)


def _unanswered(number: int, path: str, document: str) -> Iterator[Case]:
    """What an origin may answer for a document instead of it: the rules of row 1, which all of them share."""
    name = path.rpartition("/")[2]
    for status in (404, 410):
        yield Case(number, f"{name}: {status}", "nothing", documents={path: text("", status)})
    yield Case(number, f"{name}: 200 with an HTML page", "nothing", documents={path: HTML})
    for status in (401, 403):
        yield Case(number, f"{name}: {status}", "no", by_policy=True, documents={path: text("", status)})
    # RFC 9309 wants an origin that errs or is silent taken for one that disallows all; of the others nobody speaks.
    open_else = number != NUMBERS["robots"]
    for status in (429, 500, 503):
        answers = {path: text("", status)}
        yield Case(number, f"{name}: {status}", "wait", by_policy=open_else or status == 429, documents=answers)
    for what, answer in (
        ("the connection is closed without an answer", SILENT),
        ("cut short on the way", text(document, cut=True)),
    ):
        yield Case(number, f"{name}: {what}", "wait", by_policy=open_else, documents={path: answer})
    yield Case(number, f"{name}: no answer for 31 days", "no", by_policy=True, documents={path: SILENT}, days_ago=31)


# ── 1, 2: robots.txt ───────────────────────────────────────────────────────────────────────────────────────────────

ROBOTS = "/robots.txt"
ALL_NO = "User-agent: *\nDisallow: /\n"


def _robots(number: int, what: str, right: Right, body: str | bytes, **more: object) -> Case:
    return Case(number, what, right, documents={ROBOTS: text(body)}, **more)  # type: ignore[arg-type]


def _robots_cases() -> Iterator[Case]:
    yield _robots(1, "`Disallow: /` for all", "no", ALL_NO)
    yield _robots(1, "a group of ours in capitals disallows", "no", "User-agent: CUSTODY\nDisallow: /pictures/\n")
    yield _robots(1, "all are disallowed, a group of ours allows", "yes", f"{ALL_NO}\nUser-agent: custody\nAllow: /\n")
    yield _robots(
        1, "a group of ours disallows, all are allowed", "no", "User-agent: custody\nDisallow: /\n\nUser-agent: *\n"
    )
    yield _robots(
        1,
        "the longer pattern allows",
        "yes",
        "User-agent: *\nDisallow: /\nAllow: /pictures/\nDisallow: /pages/\nAllow: /page.html\n",
    )
    yield _robots(1, "the longer pattern disallows", "no", "User-agent: *\nAllow: /pictures/\nDisallow: /pictures/x\n")
    yield _robots(
        1, "two patterns of one length: a tie allows", "yes", "User-agent: *\nDisallow: /pictures/\nAllow: /pictures/\n"
    )
    yield _robots(1, "`Disallow: /*.jpg$`", "no", "User-agent: *\nDisallow: /*.jpg$\n")
    yield _robots(1, "another path is disallowed", "nothing", "User-agent: *\nDisallow: /private/\n")
    yield _robots(1, "only another agent is disallowed", "nothing", "User-agent: otherbot\nDisallow: /\n")
    yield _robots(1, "an empty file", "nothing", "")
    yield _robots(
        1,
        "unknown lines do not close a group: Content-Signal before the rule",
        "no",
        "User-agent: custody\nContent-Signal: search=yes\nDisallow: /\n",
    )
    yield _robots(
        1,
        "unknown lines do not close a group: Crawl-delay between two agents",
        "no",
        "User-agent: custody\nCrawl-delay: 5\nUser-agent: otherbot\nDisallow: /\n",
    )
    yield _robots(1, "a UTF-8 byte order mark", "no", b"\xef\xbb\xbf" + ALL_NO.encode())
    yield _robots(1, "UTF-16 with a byte order mark", "no", ALL_NO.encode("utf-16"))
    yield _robots(1, "lines that end with CR alone", "no", ALL_NO.replace("\n", "\r"))
    yield _robots(
        1, "the rule stands 490 KiB into the file", "no", "User-agent: *\n" + "# nothing\n" * 50_176 + "Disallow: /\n"
    )
    yield _robots(
        1,
        "a hostile pattern (`*a` 3,000 times) that does not match",
        "nothing",
        f"User-agent: *\nDisallow: /{'*a' * 3_000}\n",
    )
    yield _robots(1, "a rule's name with a byte that is no text", "wait", b"User-agent: *\nDisal\xfflow: /\n")
    yield Case(1, "the page's origin disallows, the image's is silent", "no", page_documents={ROBOTS: text(ALL_NO)})
    yield Case(
        1, "the origin that a redirect leads to disallows", "no", hop=(), target_documents={ROBOTS: text(ALL_NO)}
    )
    yield Case(
        1,
        "disallowed yesterday, 503 today: the copy counts",
        "no",
        documents={ROBOTS: text(ALL_NO)},
        later={ROBOTS: text("", 503)},
    )
    yield from _unanswered(1, ROBOTS, ALL_NO)


def _ai_agents_cases() -> Iterator[Case]:
    for agent in ("GPTBot", "ccbot", "Google-Extended", "meta-externalagent", "img2dataset", "LAIONDownloader"):
        robots = f"User-agent: {agent}\nDisallow: /\n"
        yield _robots(2, f"`{agent}`, which collects for training, is disallowed", "no", robots, by_policy=True)
    yield _robots(
        2,
        "GPTBot in a group with a search engine is disallowed",
        "no",
        "User-agent: otherbot\nUser-agent: GPTBot\nDisallow: /pictures/\n",
        by_policy=True,
    )
    yield _robots(2, "GPTBot is disallowed another path", "nothing", "User-agent: GPTBot\nDisallow: /private/\n")
    yield _robots(2, "GPTBot is allowed: no yes to us", "nothing", "User-agent: GPTBot\nAllow: /\n")
    yield _robots(
        2, "`OAI-SearchBot`, which only searches, is disallowed", "nothing", "User-agent: OAI-SearchBot\nDisallow: /\n"
    )
    yield _robots(
        2,
        "`ChatGPT-User`, which fetches for a person, is disallowed",
        "nothing",
        "User-agent: ChatGPT-User\nDisallow: /\n",
    )
    yield _robots(2, "no crawler is named", "nothing", "User-agent: *\nDisallow: /private/\n")
    yield Case(
        2,
        "the page's origin disallows GPTBot",
        "no",
        by_policy=True,
        page_documents={ROBOTS: text("User-agent: GPTBot\nDisallow: /\n")},
    )
    yield Case(2, "robots.txt: 503", "wait", documents={ROBOTS: text("", 503)})


# ── 3, 4: AIPREF ───────────────────────────────────────────────────────────────────────────────────────────────────


def _aipref_cases() -> Iterator[Case]:
    def lines(what: str, right: Right, *usage: str, agent: str = "*") -> Case:
        body = "".join(f"Content-Usage: {line}\n" for line in usage)
        return _robots(3, what, right, f"User-agent: {agent}\n{body}Disallow: /private/\n")

    yield lines("`train-ai=n`", "no", "train-ai=n")
    yield lines("`train-ai=y`", "yes", "train-ai=y")
    yield lines("`/pictures/ train-ai=n`", "no", "/pictures/ train-ai=n")
    yield lines("`/private/ train-ai=n`: another path", "nothing", "/private/ train-ai=n")
    yield lines("n for all, y for the longer path", "yes", "train-ai=n", "/pictures/ train-ai=y", "/page train-ai=y")
    yield lines("y for all, n for the longer path", "no", "train-ai=y", "/pictures/ train-ai=n")
    yield lines("one path, y and n: the more restrictive", "no", "/pictures/ train-ai=n", "/pictures/ train-ai=y")
    yield lines('`train-ai=n;why="art"`: parameters say nothing', "no", 'train-ai=n;why="art"')
    yield lines("`train-ai=N`: not a known value", "nothing", "train-ai=N")
    yield lines("`search=n` alone", "nothing", "search=n")
    yield lines("`train-ai=n` for another agent", "nothing", "train-ai=n", agent="otherbot")
    yield lines("`Train-AI=n`: not parsable, and speaks of training", "wait", "Train-AI=n")
    yield lines("`train-ai=n; ==`: broken", "wait", "train-ai=n; ==")
    yield Case(3, "robots.txt: 500", "wait", documents={ROBOTS: text("", 500)})
    yield Case(3, "robots.txt: 404", "nothing", documents={ROBOTS: text("", 404)})
    yield Case(
        3,
        "the page's origin says `train-ai=n`",
        "no",
        page_documents={ROBOTS: text("User-agent: *\nContent-Usage: train-ai=n\n")},
    )

    def header(what: str, right: Right, *values: str, **more: object) -> Case:
        headers = tuple(("Content-Usage", value) for value in values)
        return Case(4, what, right, image_headers=headers, **more)  # type: ignore[arg-type]

    yield header("`train-ai=n`", "no", "train-ai=n")
    yield header("`train-ai=y`", "yes", "train-ai=y")
    yield header("`train-ai=y, train-ai=n`: the last counts", "no", "train-ai=y, train-ai=n")
    yield header("`train-ai=n, train-ai=y`: the last counts", "yes", "train-ai=n, train-ai=y")
    yield header("two headers, y then n", "no", "train-ai=y", "train-ai=n")
    yield header("`train-ai` without a value", "nothing", "train-ai")
    yield header('`train-ai="n"`: a string is no token', "nothing", 'train-ai="n"')
    yield header("`search=n` alone", "nothing", "search=n")
    yield header("`Train_AI: no`: not parsable, speaks of training", "wait", "Train_AI: no")
    yield header("`=;=`: not parsable, speaks of nothing", "nothing", "=;=")
    yield header("no header", "nothing")
    yield Case(4, "`train-ai=n` on a redirect", "no", hop=(("Content-Usage", "train-ai=n"),))
    yield Case(4, "`train-ai=n` on the page", "no", page_headers=(("Content-Usage", "train-ai=n"),))


# ── 5: Content Signals ─────────────────────────────────────────────────────────────────────────────────────────────


def _content_signal_cases() -> Iterator[Case]:
    def line(what: str, right: Right, signal: str, agent: str = "*") -> Case:
        return _robots(5, what, right, f"User-agent: {agent}\nContent-Signal: {signal}\nDisallow: /private/\n")

    yield line("`ai-train=no`", "no", "ai-train=no")
    yield line("`search=yes, ai-input=no, ai-train=no`", "no", "search=yes, ai-input=no, ai-train=no")
    yield line("`search=yes,ai-train=yes`", "yes", "search=yes,ai-train=yes")
    yield line("`search=yes`: absence neither grants nor reserves", "nothing", "search=yes")
    yield line("`ai-input=no` alone", "nothing", "ai-input=no")
    yield line("`ai-train=ask`: an unknown value", "no", "ai-train=ask")
    yield line("`ai-train=no` for another agent", "nothing", "ai-train=no", agent="otherbot")
    yield line("`Search=Yes, AI-Train=No`", "no", "Search=Yes, AI-Train=No")
    yield _robots(5, "no line", "nothing", "User-agent: *\nDisallow: /private/\n")
    yield Case(5, "header `ai-train=no`", "no", image_headers=(("Content-Signal", "ai-train=no"),))
    yield Case(5, "header `ai-train=no` on the page", "no", page_headers=(("Content-Signal", "ai-train=no"),))
    yield Case(5, "robots.txt: no answer", "wait", documents={ROBOTS: SILENT})


# ── 6: RSL ─────────────────────────────────────────────────────────────────────────────────────────────────────────

LICENCE = "/license.xml"
DECLARED = text("User-agent: *\nDisallow: /private/\n\nLicense: {origin}/license.xml\n")
RSL_TYPE = "application/rsl+xml"


def rsl(licence: str, url: str = "/", *, namespace: str = "https://rslstandard.org/rsl", before: str = "") -> str:
    """A licence document for one content."""
    inside = f"<license>{licence}</license>"
    return f'<?xml version="1.0"?>{before}<rsl xmlns="{namespace}"><content url="{url}">{inside}</content></rsl>'


NEVER = '<prohibits type="usage">ai-train</prohibits>'
FREE = '<permits type="usage">ai-train</permits><payment type="free"/>'


def _rsl_cases() -> Iterator[Case]:
    def declared(what: str, right: Right, body: str | Answer, **more: object) -> Case:
        answer = body if isinstance(body, Answer) else text(body, media_type=RSL_TYPE)
        return Case(6, what, right, documents={ROBOTS: DECLARED, LICENCE: answer}, **more)  # type: ignore[arg-type]

    for word in ("ai-train", "ai-all", "all", "train-ai"):
        yield declared(f"prohibits usage {word}", "no", rsl(f'<prohibits type="usage">{word}</prohibits>'))
    yield declared("permits usage search alone", "no", rsl('<permits type="usage">search</permits>'))
    yield declared("permits ai-train, free", "yes", rsl(FREE))
    yield declared("prohibits usage search alone", "nothing", rsl('<prohibits type="usage">search</prohibits>'))
    yield declared("permits and prohibits ai-train: the prohibition wins", "no", rsl(FREE + NEVER))
    permits = '<permits type="usage">ai-train</permits>'
    for what, condition in (
        ("payment", '<payment type="training"><amount currency="EUR">5</amount></payment>'),
        ("user", '<permits type="user">education</permits>'),
        ("geo", '<permits type="geo">DE</permits>'),
    ):
        yield declared(f"permits ai-train under a {what} condition", "no", rsl(permits + condition))
    yield declared("prohibits, for `/pictures/*.jpg$`", "no", rsl(NEVER, "/pictures/*.jpg$"))
    yield declared("prohibits, for another path", "nothing", rsl(NEVER, "/private/"))
    yield declared("with a DTD", "no", rsl(FREE, before='<!DOCTYPE rsl [<!ENTITY a "b">]>'))
    yield declared("an entity bomb", "no", rsl(FREE, before=_bomb()))
    yield declared("XML that does not end", "no", rsl(FREE)[:-8])
    yield declared("another namespace", "no", rsl(FREE, namespace="https://rsl.example/"))
    yield declared("declared, an HTML page", "no", HTML)
    yield declared("declared, 404", "no", text("", 404))
    yield declared("declared, 500", "wait", text("", 500))
    yield declared("declared, no answer", "wait", SILENT)
    document = {LICENCE: text(rsl(NEVER), media_type=RSL_TYPE)}
    link = f'<{{origin}}/license.xml>; rel="license"; type="{RSL_TYPE}"'
    yield Case(6, "declared by a Link header", "no", documents=document, image_headers=(("Link", link),))
    yield Case(6, "declared by a Link header of the page", "no", documents=document, page_headers=(("Link", link),))
    yield Case(
        6,
        "declared by the page's `<link>`",
        "no",
        documents=document,
        head=f'<link rel="license" type="{RSL_TYPE}" href="/license.xml">',
    )
    yield Case(6, "inline in the page", "no", head=f'<script type="{RSL_TYPE}">{rsl(NEVER)}</script>')
    yield Case(6, "nothing is declared", "nothing", documents={ROBOTS: text("User-agent: *\nDisallow: /private/\n")})


def _bomb() -> str:
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE rsl [<!ENTITY e0 "ha">{lines}]>'


# ── 7: TDMRep ──────────────────────────────────────────────────────────────────────────────────────────────────────

TDMREP = "/.well-known/tdmrep.json"
RESERVED, NOT_RESERVED = (("tdm-reservation", "1"),), (("tdm-reservation", "0"),)


def _tdmrep_cases() -> Iterator[Case]:
    def file(what: str, right: Right, *entries: tuple[str, object], **more: object) -> Case:
        body = json.dumps([{"location": location, "tdm-reservation": value} for location, value in entries])
        return Case(7, what, right, documents={TDMREP: text(body)}, **more)  # type: ignore[arg-type]

    yield file("file: `/` reserved", "no", ("/", 1))
    yield file("file: `/` not reserved", "yes", ("/", 0))
    yield file("file: another path reserved", "nothing", ("/private/", 1))
    yield file("file: the first match counts, and does not reserve", "yes", ("/pictures/", 0), ("/page", 0), ("/", 1))
    yield file("file: the first match counts, and reserves", "no", ("/", 1), ("/pictures/", 0))
    yield file("file: `/pictures/*.jpg$` reserved", "no", ("/pictures/*.jpg$", 1), ("/", 0))
    yield file('file: `"1"` counts as 1', "no", ("/", "1"))
    yield file("file: `true` counts as 1", "no", ("/", True))
    policy = {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.example/policy.json"}
    yield Case(7, "file: reserved with a policy", "no", documents={TDMREP: text(json.dumps([policy]))})
    yield Case(7, "file: no JSON", "wait", documents={TDMREP: text("[{")})
    yield Case(7, "file: no array", "wait", documents={TDMREP: text('{"location": "/"}')})
    yield Case(7, "file: no JSON for 31 days", "no", by_policy=True, documents={TDMREP: text("[{")}, days_ago=31)
    yield Case(7, "header: 1", "no", image_headers=RESERVED)
    yield Case(7, "header: 0", "yes", image_headers=NOT_RESERVED)
    yield Case(7, "header: `0, 1`: the more restrictive", "no", image_headers=(("tdm-reservation", "0, 1"),))
    yield Case(7, "two headers, 0 and 1", "no", image_headers=NOT_RESERVED + RESERVED)
    yield Case(
        7, "header: 1 with a policy", "no", image_headers=(*RESERVED, ("tdm-policy", "https://a.example/policy.json"))
    )
    yield Case(7, "header: 2, a protocol error", "nothing", image_headers=(("tdm-reservation", "2"),))
    yield Case(7, "header: 1 on a redirect", "no", hop=RESERVED)
    yield Case(7, "header: 1 on the page", "no", page_headers=RESERVED)
    yield file("the header's 0 overrides the file's 1", "yes", ("/pictures/", 1), image_headers=NOT_RESERVED)
    yield file("the header's 1 overrides the file's 0", "no", ("/", 0), image_headers=RESERVED)
    yield file("a silent header does not reset the file's 1", "no", ("/", 1), image_headers=(("tdm-policy", ""),))
    yield Case(7, "meta: 1", "no", head='<meta name="tdm-reservation" content="1">')
    yield Case(
        7,
        "meta: 1 over the page's header 0",
        "no",
        head='<meta name="tdm-reservation" content="1">',
        page_headers=NOT_RESERVED,
    )
    yield Case(
        7,
        "meta: 0 over the page's header 1",
        "yes",
        head='<meta name="tdm-reservation" content="0">',
        page_headers=RESERVED,
    )
    xmp = {value: with_xmp(images.tdm_reservation(value)) for value in "01"}
    yield Case(7, "XMP: 1", "no", image=xmp["1"])
    yield Case(7, "XMP: 1 over the header's 0", "no", image=xmp["1"], image_headers=NOT_RESERVED)
    yield Case(7, "XMP: 0 over the header's 1", "yes", image=xmp["0"], image_headers=RESERVED)
    yield Case(
        7,
        "XMP cut short after tdm:reservation",
        "no",
        image=with_xmp(images.cut(images.tdm_reservation("1"), b"<tdm:reservation>")),
    )
    yield Case(
        7,
        "the page's origin reserves in its file",
        "no",
        page_documents={TDMREP: text('[{"location": "/", "tdm-reservation": 1}]')},
    )
    yield from _unanswered(7, TDMREP, '[{"location": "/", "tdm-reservation": 1}]')


# ── 8: X-Robots-Tag and meta robots ────────────────────────────────────────────────────────────────────────────────


def _x_robots_cases() -> Iterator[Case]:
    def header(what: str, right: Right, *values: str, **more: object) -> Case:
        headers = tuple(("X-Robots-Tag", value) for value in values)
        return Case(8, what, right, image_headers=headers, **more)  # type: ignore[arg-type]

    for value in ("noai", "noimageai", "noml", "NoAI", "nofollow, noai", "custody: noai", "CUSTODY: noai", "*: noai"):
        yield header(f"`{value}`", "no", value)
    yield header("`otherbot: nofollow, custody: noai`", "no", "otherbot: nofollow, custody: noai")
    yield header("`custody: nofollow, noai`: a prefix holds for what follows", "no", "custody: nofollow, noai")
    yield header("`otherbot: noai`", "nothing", "otherbot: noai")
    yield header("`otherbot: nofollow, noai`", "nothing", "otherbot: nofollow, noai")
    for value in ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "max-snippet: 5, noai"):
        yield header(f"`{value}`: a value, no agent", "no", value)
    yield header("two headers, the second says noai", "no", "nofollow", "noai")
    for value in ("none", "noindex", "noimageindex"):
        yield header(f"`{value}`", "no", value, by_policy=True)
    yield header("`all`", "nothing", "all")
    yield header("`nofollow, noarchive`", "nothing", "nofollow, noarchive")
    yield header("no header", "nothing")
    yield header("`no\u00d6ai`: damaged", "wait", "no\u00d6ai")
    yield Case(8, "header name in lower case", "no", image_headers=(("x-robots-tag", "noai"),))
    yield Case(8, "noai on a redirect", "no", hop=(("X-Robots-Tag", "noai"),))
    yield Case(8, "noai on the page's response", "no", page_headers=(("X-Robots-Tag", "noai"),))
    for name, content, right in (
        ("robots", "noai", "no"),
        ("ROBOTS", "NoImageAI", "no"),
        ("custody", "noml", "no"),
        ("otherbot", "noai", "nothing"),
        ("robots", "index, follow", "nothing"),
    ):
        element = f'<meta name="{name}" content="{content}">'
        yield Case(8, f"`{element}`", right, head=element)  # type: ignore[arg-type]


# ── 9, 10: ai.txt, trust.txt ───────────────────────────────────────────────────────────────────────────────────────

AI_TXT, TRUST_TXT = "/ai.txt", "/.well-known/trust.txt"


def _ai_txt_cases() -> Iterator[Case]:
    def file(what: str, right: Right, body: str) -> Case:
        return Case(9, what, right, documents={AI_TXT: text(body)})

    yield file("`Disallow: *.jpg`", "no", "User-Agent: *\nDisallow: *.jpg\n")
    yield file("`Disallow: /`", "no", "User-Agent: *\nDisallow: /\n")
    yield file("a group of ours disallows", "no", "User-Agent: custody\nDisallow: /pictures/\n")
    yield file("`Disallow: *.png`: other media", "nothing", "User-Agent: *\nDisallow: *.png\n")
    yield file("`Allow: *.jpg`, the rest disallowed", "yes", "User-Agent: *\nDisallow: /\nAllow: *.jpg\n")
    yield file("another shape: prose", "nothing", "# How we use AI\n\nOur editors write every word.\n")
    yield Case(
        9,
        "only the page's host disallows: it does not serve the image",
        "nothing",
        page_documents={AI_TXT: text("User-Agent: *\nDisallow: /\n")},
    )
    yield Case(
        9,
        "the host that a redirect leads to disallows",
        "no",
        hop=(),
        target_documents={AI_TXT: text("User-Agent: *\nDisallow: *.jpg\n")},
    )
    yield from _unanswered(9, AI_TXT, "User-Agent: *\nDisallow: /\n")


def _trust_txt_cases() -> Iterator[Case]:
    def file(what: str, right: Right, body: str | bytes) -> Case:
        return Case(10, what, right, documents={TRUST_TXT: text(body)})

    yield file("`datatrainingallowed=no`", "no", "member=https://a.example/\ndatatrainingallowed=no\n")
    yield file("`DataTrainingAllowed = No`", "no", "DataTrainingAllowed = No\n")
    yield file("`datatrainingallowed=yes`", "yes", "datatrainingallowed=yes\n")
    yield file("nothing of training", "nothing", "member=https://a.example/\n")
    yield file("only in a comment", "nothing", "# datatrainingallowed=no\n")
    yield file("`datatrainingallowed=perhaps`", "wait", "datatrainingallowed=perhaps\n")
    yield file("bytes that are no text in the line", "wait", b"datatraining\xffallowed=no\n")
    yield Case(10, "no, at /trust.txt", "no", documents={"/trust.txt": text("datatrainingallowed=no\n")})
    yield Case(10, "the page's site says no", "no", page_documents={TRUST_TXT: text("datatrainingallowed=no\n")})
    yield from _unanswered(10, TRUST_TXT, "datatrainingallowed=no\n")


# ── 11: IPTC / PLUS ────────────────────────────────────────────────────────────────────────────────────────────────


def _xmp_cases() -> Iterator[Case]:
    for word in (
        *("PROHIBITED", "PROHIBITED-AIMLTRAINING", "PROHIBITED-GENAIMLTRAINING"),
        *("PROHIBITED-EXCEPTSEARCHENGINEINDEXING", "PROHIBITED-SEECONSTRAINT"),
    ):
        yield Case(11, f"DMI-{word}", "no", image=with_xmp(data_mining(word)))
    yield Case(11, "DMI-ALLOWED", "yes", image=with_xmp(data_mining("ALLOWED")))
    yield Case(11, "DMI-UNSPECIFIED", "nothing", image=with_xmp(data_mining("UNSPECIFIED")))
    yield Case(11, "no metadata", "nothing")
    yield Case(11, "as an attribute", "no", image=with_xmp(images.data_mining_attribute("PROHIBITED")))
    yield Case(11, "as rdf:resource", "no", image=with_xmp(images.data_mining_resource("PROHIBITED")))
    yield Case(11, "under another prefix", "no", image=with_xmp(data_mining("PROHIBITED", prefix="p")))
    yield Case(
        11,
        "a spoofed namespace under the prefix plus",
        "nothing",
        image=with_xmp(data_mining("PROHIBITED", namespace="http://spoof.example/")),
    )
    prohibited = data_mining("PROHIBITED-GENAIMLTRAINING")
    for kind, extension in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tiff"), ("AVIF", "avif")):
        yield Case(11, f"in a {kind}", "no", image=with_xmp(prohibited, kind), extension=extension)
    yield Case(
        11, "in a compressed iTXt of a PNG", "no", extension="png", image=with_xmp(prohibited, "PNG", compressed=True)
    )
    yield Case(11, "in ExtendedXMP of a JPEG", "no", image=images.with_extended_xmp(prohibited))
    yield Case(
        11, "a packet cut short after the value", "no", image=with_xmp(images.cut(prohibited, b"GENAIMLTRAINING"))
    )
    yield Case(
        11,
        "a packet cut short before any value",
        "no",
        by_policy=True,
        image=with_xmp(images.cut(prohibited, b"xmlns:dc")),
    )


# ── 12: C2PA ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _c2pa_cases() -> Iterator[Case]:
    never = signed({"cawg.ai_generative_training": "notAllowed"})
    yes = {"cawg.ai_generative_training": "allowed"}
    for use in ("ai_generative_training", "ai_training", "data_mining"):
        yield Case(12, f"cawg.{use}: notAllowed", "no", image=signed({f"cawg.{use}": "notAllowed"}))
    for use in ("ai_generative_training", "data_mining"):
        entries = {f"c2pa.{use}": "notAllowed"}
        yield Case(
            12,
            f"the legacy assertion: c2pa.{use}: notAllowed",
            "no",
            image=signed(entries, label="c2pa.training-mining"),
        )
    yield Case(
        12,
        "the legacy assertion: c2pa.ai_training: constrained",
        "no",
        image=signed({"c2pa.ai_training": "constrained"}, label="c2pa.training-mining"),
    )
    yield Case(12, "constrained, and no grant", "no", image=signed({"cawg.ai_training": "constrained"}))
    yield Case(12, "only ai_inference: notAllowed", "nothing", image=signed({"cawg.ai_inference": "notAllowed"}))
    yield Case(
        12,
        "only c2pa.ai_inference: notAllowed",
        "nothing",
        image=signed({"c2pa.ai_inference": "notAllowed"}, label="c2pa.training-mining"),
    )
    yield Case(
        12,
        "in a PNG: notAllowed",
        "no",
        extension="png",
        image=signed({"c2pa.data_mining": "notAllowed"}, kind="PNG", label="c2pa.training-mining"),
    )
    yield Case(12, "an ingredient: notAllowed, the whole: allowed", "no", image=signed(yes, ingredient=never))
    yield Case(
        12,
        "an ingredient (legacy assertion): notAllowed",
        "no",
        image=signed(None, ingredient=signed({"c2pa.ai_training": "notAllowed"}, label="c2pa.training-mining")),
    )
    legacy = signed({"c2pa.ai_training": "notAllowed"}, label="c2pa.training-mining")
    yield Case(12, "notAllowed under a broken signature", "no", image=images.with_broken_signature(legacy))
    yield Case(12, "notAllowed, the pixels changed since", "no", image=images.with_changed_pixels(legacy))
    yield Case(12, "allowed, by a signer who is trusted", "yes", image=signed(yes))
    yield Case(
        12,
        "allowed, the pixels changed since: it does not count",
        "nothing",
        image=images.with_changed_pixels(signed(yes)),
    )
    yield Case(
        12, "allowed and notAllowed for different uses", "no", image=signed({**yes, "cawg.data_mining": "notAllowed"})
    )
    yield Case(12, "a manifest that says nothing of training", "nothing", image=signed(None))
    yield Case(12, "no manifest", "nothing")
    yield Case(12, "a store cut short", "no", by_policy=True, image=images.with_cut_store(signed(None)))
    yield Case(12, "a remote manifest: it is not fetched", "no", by_policy=True, image=signed(None, remote=True))


# ── 13: registries ─────────────────────────────────────────────────────────────────────────────────────────────────


def _registry_cases() -> Iterator[Case]:
    for kind in ("url", "domain", "sha256", "md5"):
        yield Case(13, f"an imported list of {kind} names it", "no", listed=Listed(kind))  # type: ignore[arg-type]
    yield Case(13, "an imported list holds a PDQ hash 20 bits away", "no", listed=Listed("pdq"))
    yield Case(13, "an overdue list names it", "no", listed=Listed("url", days_old=60))
    yield Case(13, "no imported list names it", "nothing", listed=Listed("url", names_it=False))
    yield Case(
        13, "the list that does not name it is overdue", "wait", listed=Listed("url", names_it=False, days_old=60)
    )
    yield Case(13, "a list that the policy names was never imported", "wait", required="have-i-been-trained")


# Of these too the specifications say nothing, or less: the answer is the table's, which fails closed.
_LEFT_OPEN = frozenset(
    {
        *("1: UTF-16 with a byte order mark", "1: a rule's name with a byte that is no text"),
        *("3: `Train-AI=n`: not parsable, and speaks of training", "3: `train-ai=n; ==`: broken"),
        "4: `Train_AI: no`: not parsable, speaks of training",
        *("5: `ai-train=ask`: an unknown value", "5: header `ai-train=no`", "5: robots.txt: no answer"),
        *("6: with a DTD", "6: an entity bomb", "6: XML that does not end", "6: another namespace"),
        *("6: declared, an HTML page", "6: declared, 404", "6: declared, 500", "6: declared, no answer"),
        *('7: file: `"1"` counts as 1', "7: file: `true` counts as 1", "7: file: no JSON", "7: file: no array"),
        *("7: header: `0, 1`: the more restrictive", "7: two headers, 0 and 1"),
        *("7: XMP cut short after tdm:reservation", "8: `*: noai`", "8: `no\u00d6ai`: damaged"),
        *("10: `datatrainingallowed=perhaps`", "10: bytes that are no text in the line"),
        *("11: a packet cut short after the value", "12: notAllowed under a broken signature"),
        *("13: an imported list holds a PDQ hash 20 bits away", "13: an overdue list names it"),
        "13: the list that does not name it is overdue",
        "13: a list that the policy names was never imported",
    }
)


def cases() -> tuple[Case, ...]:
    """Every case, in the order of the table."""
    found = (
        *(*_robots_cases(), *_ai_agents_cases(), *_aipref_cases(), *_content_signal_cases(), *_rsl_cases()),
        *(*_tdmrep_cases(), *_x_robots_cases(), *_ai_txt_cases(), *_trust_txt_cases()),
        *(*_xmp_cases(), *_c2pa_cases(), *_registry_cases()),
    )
    marked = (replace(case, by_policy=True) if case.name in _LEFT_OPEN else case for case in found)
    return tuple(sorted(marked, key=lambda case: case.number))
