"""The policy alone, offline: one case as a JSON line in, one answer out (`custody inspect judge`).

A line gives what was observed; DESIGN.md section 9 has its shape, and beside it "alt", "caption", "caption_score",
"md5" and "tombstoned" ("" or null: none). Of a mechanism of whose input the line gives something, what it does not
mention of the page and the image's responses said nothing; an origin whose document it does not give was not asked,
and a mechanism of whose input it gives nothing has not been observed.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urljoin

from policy.errors import CustodyError, InputError
from policy.evidence import (
    ORIGIN_DOCUMENTS,
    C2pa,
    Document,
    Embedded,
    Evidence,
    Face,
    Headers,
    Hop,
    Language,
    LicenceClaim,
    OriginEvidence,
    RegistryAnswer,
    Score,
)
from policy.origins import origin_of
from policy.ruleset import KNOWN, Ruleset, judge
from policy.signals import robots
from policy.verdict import Judgement, combine


class PairHints(Protocol):
    """An image on a page, with the licence claims made near it."""

    @property
    def image_url(self) -> str: ...
    @property
    def licence_claims(self) -> tuple[LicenceClaim, ...]: ...


class PageHints(Protocol):
    """What a page reader found: robots-like meta elements, RSL, the page's licence claims, and its images."""

    @property
    def meta(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def rsl(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def licence_claims(self) -> tuple[LicenceClaim, ...]: ...
    @property
    def pairs(self) -> Sequence[PairHints]: ...


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was read out of an image's file; width and height None: it does not decode."""

    content_sha256: str
    content_md5: str
    embedded: Embedded
    c2pa: C2pa
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Readers:
    """What reads what a line names, and the imported lists, where there are any.

    `page(html, base_url, content_type)`; `image(path)`, which raises InputError for a file that cannot be read.
    """

    page: Callable[[bytes, str, str | None], PageHints]
    image: Callable[[str], ImageFacts]
    registries: Callable[[Evidence], tuple[RegistryAnswer, ...]] | None = None


# The order in which decisions are answered.
MECHANISMS = (
    *("robots", "ai_agents", "content_usage", "content_signal", "rsl", "tdmrep", "x_robots", "ai_txt", "trust_txt"),
    *("xmp", "c2pa", "registry", "licence", "faces", "tombstone", "size", "text", "safety", "duplicate", "quality"),
)

# Mechanisms whose lines may stand in robots.txt: without `mechanisms` they are judged only where it has such lines.
_IN_ROBOTS = frozenset({"ai_agents", "content_usage", "content_signal", "rsl"})

_KEYS = frozenset(
    {"url", "page_url", "agent", "now", "origins", "page", "image", "licence", "faces", "width", "height", "sha256"}
    | {
        "pdq",
        "md5",
        "nsfw",
        "scores",
        "language",
        "mechanisms",
        "alt",
        "caption",
        "caption_score",
        "tombstoned",
        *ORIGIN_DOCUMENTS,
    }
)


def judge_line(line: str, ruleset: Ruleset, readers: Readers, *, now: datetime | None = None) -> dict[str, Any]:
    """Judge one JSON line; a line that is no case gives {"error": …}.

    `now` counts where the line names none (None: the clock). Keys that nobody reads are named under "ignored".
    """
    try:
        case = _Case(json.loads(line, parse_int=_whole))
        at = case.time("now", now or datetime.now(UTC))
        evidence = _evidence(case, at, readers)
        asked = case.mechanisms()
        agent = case.text("agent")
    except (json.JSONDecodeError, RecursionError) as error:
        return {"error": f"not JSON: {error}"}
    except _TooLong:
        return {"error": "a number has too many digits"}
    except (CustodyError, ValueError, OverflowError) as error:
        return {"error": str(error)}
    rules = ruleset.for_agent(agent) if agent is not None else ruleset
    given = frozenset(_given(case, evidence))
    silent = _with_silence(evidence)
    chosen = asked if asked is not None else [name for name in MECHANISMS if name in given]
    observed = given | (_IN_ROBOTS if any(origin.get("robots") for origin in evidence.origins) else frozenset())
    judged = [judge(rules, name, silent if name in observed else evidence, at) for name in chosen]
    answer = {
        "url": evidence.image_url,
        "verdict": combine(j.verdict for j in judged).value,
        "decisions": [_decision(j) for j in judged],
    }
    ignored = sorted(case.keys - _KEYS)
    return {**answer, "ignored": ignored} if ignored else answer


def _decision(judged: Judgement) -> dict[str, str]:
    return {
        "mechanism": judged.mechanism,
        "verdict": judged.verdict.value if judged.verdict is not None else "unset",
        "reason": judged.reason.code,
        "detail": judged.reason.detail,
        "where": judged.where,
    }


# ── what the line gives ────────────────────────────────────────────────────────────────────────────────────────────


def _given(case: _Case, evidence: Evidence) -> Iterator[str]:
    """The mechanisms of whose input the line gives something."""
    documents = {name: d for o in evidence.origins for name, d in o.documents}
    yield from documents
    page, image = case.has("page"), case.has("image")
    if page or image:
        yield "x_robots"
    names = {name.strip().lower() for headers in _all_headers(evidence) for name, _ in headers}
    metas = {name.strip().lower() for name, _ in evidence.page_meta or ()}
    files = [robots.parsed(body) for body in _bodies(evidence, "robots")]
    lines = {line.name for file in files for line in file.extensions}
    if any(agent != "*" for file in files for agent in file.agents):
        yield "ai_agents"
    if "content-usage" in names | lines:
        yield "content_usage"
    if "content-signal" in names | lines:
        yield "content_signal"
    linked = any("rsl+xml" in value.lower() for headers in _all_headers(evidence) for _, value in headers)
    if "license" in lines or evidence.page_rsl or linked:
        yield "rsl"
    if {"tdm-reservation", "tdm-policy"} & (names | metas):
        yield "tdmrep"
    if evidence.embedded is not None:
        from policy.licences import embedded_claims

        yield from ("xmp", "c2pa")
        if any(field.name.startswith("tdm:") for field in evidence.embedded.fields):
            yield "tdmrep"
        if embedded_claims(evidence.embedded):
            yield "licence"
    if evidence.registry is not None and any(map(case.has, ("sha256", "md5", "pdq"))):
        yield "registry"
    for key, mechanism in (("licence", "licence"), ("faces", "faces"), ("width", "size"), ("height", "size")):
        if case.has(key):
            yield mechanism
    for key, mechanism in (("alt", "text"), ("caption", "text"), ("tombstoned", "tombstone"), ("nsfw", "safety")):
        if case.has(key):
            yield mechanism
    if any(evidence.score(name) is not None for name in ("entropy", "sharpness", "flatness", "screenshot")):
        yield "quality"
    if evidence.score("nsfw") is not None:
        yield "safety"
    if page and case.child("page").has("html"):
        yield "licence"


def _all_headers(evidence: Evidence) -> Iterator[Headers]:
    yield evidence.page_headers or ()
    for hop in evidence.hops or ():
        yield hop.headers


def _bodies(evidence: Evidence, name: str) -> Iterator[bytes]:
    for origin in evidence.origins:
        document = origin.get(name)
        if document is not None and document.body is not None:
            yield document.body


def _with_silence(evidence: Evidence) -> Evidence:
    """The evidence with responses and page that said nothing in the place of those that were not observed."""
    return dataclasses.replace(
        evidence,
        hops=evidence.hops if evidence.hops is not None else (),
        page_headers=evidence.page_headers if evidence.page_headers is not None else (),
        page_meta=evidence.page_meta if evidence.page_meta is not None else (),
        page_rsl=evidence.page_rsl if evidence.page_rsl is not None else (),
        embedded=evidence.embedded if evidence.embedded is not None else Embedded(""),
        c2pa=evidence.c2pa if evidence.c2pa is not None else C2pa("absent"),
    )


# ── the line as evidence ───────────────────────────────────────────────────────────────────────────────────────────


def _evidence(case: _Case, now: datetime, readers: Readers) -> Evidence:
    url, page_url = case.required_text("url"), case.text("page_url")
    origin_of(url)
    if page_url is not None:
        origin_of(page_url)
    meta, rsl, claims = _page(case, url, page_url, readers)
    if (licence := case.text("licence")) is not None:
        claims = (*(claims or ()), LicenceClaim(licence, "given", "image"))
    elif case.has("licence"):  # null: looked for, none found
        claims = claims or ()
    facts = _image(case, readers)
    if facts is not None and claims is None:
        claims = ()
    width, height = case.whole("width"), case.whole("height")
    evidence = Evidence(
        page_url=page_url,
        image_url=url,
        observed_at=now,
        observer="inspect judge",
        observer_version="1",
        origins=_origins(case, url, now),
        page_headers=case.child("page").headers("headers") if case.has("page") else None,
        page_meta=meta,
        page_rsl=rsl,
        hops=_hops(case, url),
        embedded=facts.embedded if facts is not None else None,
        c2pa=facts.c2pa if facts is not None else None,
        licence_claims=claims,
        content_sha256=_digest(case, "sha256", 64) or (facts.content_sha256 if facts is not None else None),
        content_md5=_digest(case, "md5", 32) or (facts.content_md5 if facts is not None else None),
        width=width if width is not None or facts is None else facts.width,
        height=height if height is not None or facts is None else facts.height,
        pdq=_digest(case, "pdq", 64),
        faces=case.faces(),
        alt=case.text("alt"),
        text_origin="alt" if case.has("alt") else None,
        caption=case.text("caption"),
        caption_score=case.number("caption_score"),
        text_language=_language(case),
        scores=tuple(_scores(case)),
        tombstoned=(case.text("tombstoned") or "") if case.has("tombstoned") else None,
    )
    if readers.registries is None:
        return evidence
    return dataclasses.replace(evidence, registry=readers.registries(evidence))


def _scores(case: _Case) -> Iterator[Score]:
    """The scores that the line gives; `nsfw` by itself, as it has always been."""
    given = case.child("scores") if case.has("scores") else None
    for holder, names in ((case, ("nsfw",)), (given, sorted(given.keys) if given is not None else ())):
        for name in names:
            if holder is not None and (value := holder.number(name)) is not None:
                yield Score(name, value, "given")


def _language(case: _Case) -> Language | None:
    if not case.has("language"):
        return None
    said = case.child("language").only(("code", "probability"))
    probability = said.number("probability")
    return Language(said.required_text("code"), 1.0 if probability is None else probability)


class _TooLong(Exception):
    """A number longer than Python reads."""


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise _TooLong from None


def _digest(case: _Case, key: str, digits: int) -> str | None:
    text = case.text(key)
    if text is not None and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise InputError(f"must be {digits} hex digits", where=key)
    return text.lower() if text is not None else None


def _image(case: _Case, readers: Readers) -> ImageFacts | None:
    """What the file that the line names holds."""
    path = case.child("image").only(_IMAGE).text("path") if case.has("image") else None
    return readers.image(path) if path is not None else None


def _page(
    case: _Case, url: str, page_url: str | None, readers: Readers
) -> tuple[tuple[tuple[str, str], ...] | None, tuple[tuple[str, str], ...] | None, tuple[LicenceClaim, ...] | None]:
    """Meta elements, RSL and licence claims of the page's HTML, those near this very image first."""
    html = case.child("page").only(_PAGE).text("html") if case.has("page") else None
    if html is None:
        return None, None, None
    content_type = "text/html; charset=utf-8"
    page = readers.page(html.encode("utf-8", errors="replace"), page_url or url, content_type)
    near = [claim for pair in page.pairs if pair.image_url == url for claim in pair.licence_claims]
    return page.meta, page.rsl, tuple(dict.fromkeys((*near, *page.licence_claims)))


def _origins(case: _Case, url: str, now: datetime) -> tuple[OriginEvidence, ...]:
    documents: dict[str, dict[str, Document]] = {}
    if case.has("origins"):
        origins = case.child("origins")
        for key in sorted(origins.keys):
            given = origins.child(key).only(ORIGIN_DOCUMENTS)
            _add(documents.setdefault(origin_of(key), {}), origin_of(key), _documents(given, origin_of(key), now))
    _add(documents.setdefault(origin_of(url), {}), origin_of(url), _documents(case, origin_of(url), now))
    return tuple(OriginEvidence(origin, tuple(found.items())) for origin, found in documents.items() if found)


def _add(documents: dict[str, Document], origin: str, more: Iterable[tuple[str, Document]]) -> None:
    for name, document in more:
        if name in documents:
            raise InputError(f"{name} of {origin} is given twice")
        documents[name] = document


def _documents(case: _Case, origin: str, now: datetime) -> Iterator[tuple[str, Document]]:
    for name, path in ORIGIN_DOCUMENTS.items():
        if case.has(name):
            yield name, case.child(name).document(origin + path, now)


def _hops(case: _Case, url: str) -> tuple[Hop, ...] | None:
    """The hops of the image's answer; each goes where the Location of the one before it points."""
    if not case.has("image"):
        return None
    image = case.child("image")
    if image.has("path") and not (image.has("hops") or image.has("headers")):
        return None  # a file; how it was answered was not observed
    if image.has("hops") and image.has("headers"):
        raise InputError("give hops or headers, not both", where="image")
    answers = image.list_of_headers("hops") if image.has("hops") else (image.headers("headers"),)
    hops: list[Hop] = []
    for number, headers in enumerate(answers):
        hops.append(Hop(url, 200 if number == len(answers) - 1 else 302, headers))
        location = next((v for k, v in headers if k.strip().lower() == "location"), None)
        if location is not None and number < len(answers) - 1:
            url = urljoin(url, location.strip())
            origin_of(url)
    return tuple(hops)


_DOCUMENT = ("status", "body", "body_base64", "fetched_at", "since", "truncated", "error")
_PAGE = ("headers", "html")
_IMAGE = ("headers", "hops", "path")


class _Case:
    """A JSON object read with its types checked; raises InputError naming the key."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise InputError(f"must be a JSON object, is {_kind(value)}", where=path)
        self._values: Mapping[str, Any] = value
        self._path = path

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._values)

    def has(self, key: str) -> bool:
        return key in self._values

    def only(self, known: Iterable[str]) -> _Case:
        """This very case; raises InputError where it has another key: a misspelt one must not read as silence."""
        names = list(known)
        for key in sorted(self._values):
            if key not in names:
                near = difflib.get_close_matches(key.lower(), names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
                said = repr(key) if len(key) <= 60 else f"of {len(key)} letters"
                raise InputError(f"unknown key {said}{hint}", where=self._path)
        return self

    def child(self, key: str) -> _Case:
        return _Case(self._values[key], self._name(key))

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise InputError("the key is missing", where=self._name(key))
        return value

    def number(self, key: str) -> float | None:
        value = self._values.get(key)
        if value is not None and not _is_number(value):
            raise self._wrong(key, "a number")
        return None if value is None else float(value)

    def whole(self, key: str) -> int | None:
        value = self._values.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise self._wrong(key, "a whole number")
        return value

    def time(self, key: str, default: datetime) -> datetime:
        text = self.text(key)
        if text is None:
            return default
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise self._wrong(key, "an ISO 8601 time") from None
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)

    def headers(self, key: str) -> Headers:
        return self._headers(self._values.get(key, []), key)

    def list_of_headers(self, key: str) -> tuple[Headers, ...]:
        return tuple(self._headers(hop, key) for hop in self._list(key))

    def mechanisms(self) -> tuple[str, ...] | None:
        if not self.has("mechanisms"):
            return None
        names = self._list("mechanisms")
        for name in names:
            if not isinstance(name, str) or name not in KNOWN:
                raise InputError(f"no mechanism is called {name!r}", where="mechanisms")
        return tuple(dict.fromkeys(names))

    def faces(self) -> tuple[Face, ...] | None:
        if self._values.get("faces") is None:
            return None
        rows = self._list("faces")
        if not all(isinstance(row, list) and len(row) == 5 and all(map(_is_number, row)) for row in rows):
            raise self._wrong("faces", "a list of [x, y, w, h, score]")
        return tuple(Face(*map(float, row)) for row in rows)

    def document(self, url: str, now: datetime) -> Document:
        self.only(_DOCUMENT)
        status = self.whole("status")
        if not self.has("status"):
            raise InputError("the key is missing", where=self._name("status"))
        if self.has("truncated") and not isinstance(self._values["truncated"], bool):
            raise self._wrong("truncated", "true or false")
        if self.text("body") is not None and self.text("body_base64") is not None:
            raise InputError("give body or body_base64, not both", where=self._path)
        if status == 200 and self.text("body") is None and self.text("body_base64") is None:
            raise InputError("a document with status 200 needs body or body_base64", where=self._path)
        body = self._body()
        return Document(
            url=url,
            status=status,
            fetched_at=self.time("fetched_at", now),
            body=body if status is not None else None,
            body_sha256=Document.digest(body) if body is not None and status is not None else None,
            error=self.text("error") or ("no answer" if status is None else None),
            truncated=self._values.get("truncated") is True,
            since=self.time("since", now) if self.text("since") is not None else None,
        )

    def _body(self) -> bytes:
        if (coded := self.text("body_base64")) is not None:
            try:
                return base64.b64decode(coded, validate=True)
            except (binascii.Error, ValueError):
                raise self._wrong("body_base64", "base64") from None
        return (self.text("body") or "").encode("utf-8", errors="surrogatepass")

    def _headers(self, value: object, key: str) -> Headers:
        rows = value if isinstance(value, list) else None
        if rows is None or not all(
            isinstance(r, list) and len(r) == 2 and isinstance(r[0], str) and isinstance(r[1], str) for r in rows
        ):
            raise self._wrong(key, "a list of [name, value]")
        return tuple((name, text) for name, text in rows)

    def _list(self, key: str) -> list[Any]:
        value = self._values[key]
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _wrong(self, key: str, wanted: str) -> InputError:
        return InputError(f"must be {wanted}", where=self._name(key))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
