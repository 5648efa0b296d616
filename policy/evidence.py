"""Evidence: the documents and observations of one image-text pair.

A field that is None was not observed; None never means "fine". An observed absence is a value:
a `Document` with status 404, an empty tuple of faces.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

import orjson

_Part = TypeVar("_Part")
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})

Headers = tuple[tuple[str, str], ...]

# The documents of an origin, by their short names, with the path each is asked at.
ORIGIN_DOCUMENTS: Mapping[str, str] = {
    "robots": "/robots.txt",
    "tdmrep": "/.well-known/tdmrep.json",
    "ai_txt": "/ai.txt",
    "trust_txt": "/.well-known/trust.txt",
    "rsl": "/license.xml",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was answered, or not answered.

    `status` None with `error`: the origin was asked and did not answer (unreachable).
    `body` may be left out (None) where only its digest travels; the ledger keeps it by `body_sha256`.
    `truncated`: longer than the limit; nothing may be concluded from what is missing.
    `since`: since when it has been answered with these very bytes, or has not been answered at all; None: `fetched_at`.
    """

    url: str
    status: int | None
    fetched_at: datetime
    headers: Headers = ()
    body: bytes | None = None
    body_sha256: str | None = None
    error: str | None = None
    truncated: bool = False
    since: datetime | None = None

    @staticmethod
    def digest(body: bytes) -> str:
        return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, slots=True)
class OriginEvidence:
    """What one origin (scheme://host:port) says of itself; a missing name was not asked."""

    origin: str
    documents: tuple[tuple[str, Document], ...] = ()

    def get(self, name: str) -> Document | None:
        for known, document in self.documents:  # a handful; asked a dozen times a pair
            if known == name:
                return document
        return None


@dataclass(frozen=True, slots=True)
class Hop:
    """One response on the way to the image: the URL asked, its status, its headers in order."""

    url: str
    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face: box in pixels of the original picture (x, y: top left), score in [0, 1]."""

    x: float
    y: float
    w: float
    h: float
    score: float


@dataclass(frozen=True, slots=True)
class Score:
    """A number that a measure or a model gave the kept picture, or the picture and its text. `by`: which, with its
    digest, so that a score of another model is not taken for this one's.
    """

    name: str
    value: float
    by: str


@dataclass(frozen=True, slots=True)
class DuplicateOf:
    """The picture that stands for this one among near duplicates: a direct, verified match, never a chain.

    `representative`: its content's sha256, in hex; this picture's own where it stands for itself. `distance`: bits
    (pdq) or one less the correlation (embedding). `reserved`: the mechanism by which a verified match carries a
    reservation in its own bytes; "": none does.
    """

    representative: str
    method: str
    distance: float
    reserved: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """The language that a text is likely in: ISO 639-1 code and probability in [0, 1]."""

    code: str
    probability: float


@dataclass(frozen=True, slots=True)
class LicenceClaim:
    """A claim as found: its raw value (URL or words), how it was made, and what it covers.

    `source`: rel-license | json-ld | microdata | rdfa | xmp | exif | iptc | meta | given.
    `scope`: image | figure | page. `kind`: licence | rights (a copyright notice, usage terms) | terms (the address of
    a page to acquire a licence at, a web statement of rights) | unread (something that speaks of rights and is broken).
    """

    value: str
    source: str
    scope: str
    title: str | None = None
    creator: str | None = None
    credit: str | None = None
    where: str = ""
    kind: str = "licence"


@dataclass(frozen=True, slots=True)
class EmbeddedField:
    """A rights property found in the image's own bytes.

    `name` with the prefixes of policy.signals.embedded ("plus:DataMining", "tdm:reservation", "cc:license",
    "exif:Copyright"), whatever prefix the packet used; `where` names the container's part for a reader.
    """

    name: str
    value: str
    where: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the image's own bytes say of rights: XMP, EXIF and IPTC fields.

    `errors`: what could not be read. `needles`: words of a reservation found by scanning bytes that would not parse.
    """

    media_type: str
    fields: tuple[EmbeddedField, ...] = ()
    packet_sha256: str | None = None
    errors: tuple[str, ...] = ()
    needles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class C2paEntry:
    """One use in a training-mining assertion. `use`: ai_generative_training, data_mining, …; `value`: allowed |
    notAllowed | constrained, or the word that stood there; `ingredient`: it is an ingredient's, not the image's own.
    """

    use: str
    value: str
    assertion: str
    manifest: str
    ingredient: bool = False
    constraint: str = ""


@dataclass(frozen=True, slots=True)
class C2pa:
    """The C2PA manifest store of the image's bytes.

    `state`: absent | trusted (valid, and signed by somebody whom the operator trusts) | valid | invalid | remote
    (declared elsewhere, and never asked for) | unreadable.
    """

    state: str
    entries: tuple[C2paEntry, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """What one imported list says of a pair: `match` is what was found in it ("domain example.org"), "" nothing.

    `dated_at` None: the list that the ruleset names was never imported.
    """

    name: str
    kind: str
    dated_at: datetime | None
    max_age_days: int
    sha256: str = ""
    match: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """A consent or an agreement: who gives it in which capacity, for what, covering which mechanisms, until when.

    `capacity`: rights-holder | site-operator | depicted-person. `scope_kind`: url | domain | creator | sha256.
    """

    grant: str
    giver: str
    capacity: str
    scope_kind: str
    scope: str
    mechanisms: tuple[str, ...]
    valid_from: datetime
    valid_to: datetime | None
    document_sha256: str
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RemovedLikeness:
    """That a picture is like one that was removed, and was let in by nobody. `method`: pdq | embedding; `likeness`: one
    less the share of bits that differ, or the cosine. `removal`: "" where it is not known any more.
    """

    removal: str
    method: str
    likeness: float


REMOVED_LIKENESS = "removed-likeness"  # the score of a picture that was held for what its embedding is like


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was observed of one pair, by whom and when. None: not observed."""

    page_url: str | None
    image_url: str
    observed_at: datetime
    observer: str
    observer_version: str
    origins: tuple[OriginEvidence, ...] = ()
    page_headers: Headers | None = None
    page_meta: tuple[tuple[str, str], ...] | None = None  # (name, content) of the page's robots-like <meta>
    page_rsl: tuple[tuple[str, str], ...] | None = None  # ("link", URL) and ("inline", XML) of the page's HTML
    declared: tuple[Document, ...] = ()  # documents asked at an address that somebody declared (RSL), by their URL
    hops: tuple[Hop, ...] | None = None
    embedded: Embedded | None = None
    c2pa: C2pa | None = None
    licence_claims: tuple[LicenceClaim, ...] | None = None
    content_sha256: str | None = None
    content_md5: str | None = None  # of the original bytes, for hash lists that know no better
    width: int | None = None
    height: int | None = None
    pdq: str | None = None
    faces: tuple[Face, ...] | None = None
    face_detector: str | None = None
    faces_blurred: bool | None = None  # whether every face in `faces` is blurred in the pixels that are kept
    alt: str | None = None
    text_origin: str | None = None  # where `alt` came from: alt | figcaption | title; None with alt None
    caption: str | None = None
    caption_score: float | None = None
    text_language: Language | None = None  # of `alt`
    transforms: tuple[str, ...] = ()  # what was done to the pixels that are kept, before they were made smaller
    scores: tuple[Score, ...] = ()  # a name that is missing was not measured
    duplicate: DuplicateOf | None = None  # None: not compared with the others yet
    tombstoned: str | None = None  # the removal id whose tombstone matches; "" = asked, none matches
    removed_likeness: RemovedLikeness | None = None  # asked anew, not stored; None: like none that was removed
    registry: tuple[RegistryAnswer, ...] | None = None  # asked anew at every decide, like the tombstones: not stored
    grants: tuple[Grant, ...] = ()  # those whose scope covers this pair, valid or not; asked anew, not stored
    refused_url: str | None = (
        None  # where the way to the image ended because it may not be contacted: a redirect's target
    )
    fetch_error: str | None = None  # why the image could not be had: a code of curation.fetch

    def origin(self, origin: str) -> OriginEvidence | None:
        for known in self.origins:
            if known.origin == origin:
                return known
        return None

    def score(self, name: str) -> float | None:
        """The newest value under this name; None: not measured."""
        for known in reversed(self.scores):
            if known.name == name:
                return known.value
        return None

    def to_json(self) -> str:
        """Canonical JSON. Documents' bodies are kept once, by their digest, and so are `parts`, by their ids."""
        return self.stored().text

    def parts(self) -> dict[str, tuple[str, str]]:
        """What this evidence may share with others, id -> (kind, canonical JSON): origins, declared, the page."""
        return self.stored().parts

    def stored(self, memory: PartMemory | None = None) -> StoredEvidence:
        """The text that is stored, its id and the parts it names. `memory`: of what other evidence shares with this."""
        memory = memory if memory is not None else PartMemory()
        said: dict[str, Any] = {}
        for name in _OWN_FIELDS:
            value = getattr(self, name)
            if value is not None and not (value == () and name in _LEFT_OUT_EMPTY):
                said[name] = plain(value) if name not in _ALIKE else _plain_of_alike(value)
        if self.hops is not None:
            said["hops"] = _plain_hops(self.hops)
        parts: dict[str, tuple[str, str]] = {}
        said["origins"] = [memory.part("origin", o, parts) for o in self.origins]
        said["declared"] = [memory.part("declared", d, parts) for d in self.declared]
        if any(value is not None for value in (self.page_headers, self.page_meta, self.page_rsl)):
            said["page"] = memory.page(self, parts)
        try:
            text = canonical_json(said)
        except TypeError:  # a header that is no Unicode
            text = canonical_json(said | {"hops": plain(self.hops)})
        return StoredEvidence(text, hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), parts)

    @staticmethod
    def from_json(text: str, shared: Shared, **anew: Any) -> Evidence:
        """Read `to_json` back, with what it shares looked up; raises KeyError where a part of it is gone.

        `anew`: fields that count whatever was stored of them.
        """
        return _evidence_from_plain(orjson.loads(text), shared, anew)

    @property
    def evidence_id(self) -> str:
        """blake2b-16 of the canonical JSON, in hex."""
        return self.stored().evidence_id

    def bodies(self) -> dict[str, bytes]:
        """The document bodies this evidence rests on, by digest."""
        documents = [d for o in self.origins for _, d in o.documents] + list(self.declared)
        return {d.body_sha256: d.body for d in documents if d.body is not None and d.body_sha256 is not None}


_NOT_STORED = frozenset({"body", "registry", "grants", "removed_likeness"})
_OF_THE_PAGE = ("page_headers", "page_meta", "page_rsl")
_SHARED = frozenset({"origins", "declared", *_OF_THE_PAGE})
_LEFT_OUT_EMPTY = frozenset({"transforms", "scores"})  # their absence says the same
_OWN_FIELDS = tuple(f.name for f in fields(Evidence) if f.name not in _NOT_STORED | _SHARED | {"hops"})
_ALIKE = frozenset({"embedded", "c2pa", "licence_claims"})  # of most pictures they say what they say of many others


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """Evidence as it is stored: its canonical JSON, the id that follows from it, the parts that it names by theirs."""

    text: str
    evidence_id: str
    parts: dict[str, tuple[str, str]]


class PartMemory:
    """The parts of evidence that was stored before: the pairs of one page, or of one origin, write them out once."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[object, str, str]] = {}

    def part(self, kind: str, value: object, into: dict[str, tuple[str, str]]) -> str:
        """The id of a part, which is put into `into` with its kind and text.

        Remembered by the very object: pairs that share an origin hold the same one, and comparing its documents costs
        more than writing them.
        """
        return self._remembered((kind, id(value)), kind, value, lambda: plain(value), into)

    def page(self, evidence: Evidence, into: dict[str, tuple[str, str]]) -> str:
        """The id of what was observed of the page."""
        said = tuple(getattr(evidence, name) for name in _OF_THE_PAGE)

        def page() -> dict[str, Any]:
            return {name: plain(v) for name, v in zip(_OF_THE_PAGE, said, strict=True) if v is not None}

        return self._remembered(said, "page", said, page, into)

    def _remembered(
        self, key: object, kind: str, value: object, made: Callable[[], Any], into: dict[str, tuple[str, str]]
    ) -> str:
        known = self._known.get(key)
        if known is None:
            text = canonical_json(made())
            # The value is kept with it: while it lives no other object has its id.
            known = self._known[key] = value, hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text
        into[known[1]] = kind, known[2]
        return known[1]


def part_ids(text: str) -> tuple[str, ...]:
    """The ids of the parts that stored evidence names."""
    data = orjson.loads(text)
    named = [*data["origins"], *data.get("declared", ()), *((data["page"],) if "page" in data else ())]
    return tuple(name for name in named if isinstance(name, str))  # evidence of before there were parts names none


def document_digests(text: str) -> tuple[str, ...]:
    """The digests of the documents that a part tells of."""
    data = orjson.loads(text)
    documents = [d for _, d in data["documents"]] if "documents" in data else [data]
    return tuple(d["body_sha256"] for d in documents if "body_sha256" in d)


def canonical_json(value: Any) -> str:
    """One text a value: keys sorted, no white space, no escapes that are not needed.

    Raises TypeError for text that is no Unicode, which `plain` leaves none of.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


class Shared:
    """What many pairs' evidence has in common, each read once: the parts by their ids, the bodies by their digests.

    Pairs of one origin then hold the very same object, which is what makes judging a million of them quick.
    """

    def __init__(self, parts: Mapping[str, str] = MappingProxyType({}), bodies: Mapping[str, bytes] = _NOTHING) -> None:
        self._texts, self._bodies = parts, bodies
        self._read: dict[str, Any] = {}

    @classmethod
    def of(cls, *evidence: Evidence) -> Shared:
        """What these share."""
        parts = {name: text for e in evidence for name, (_, text) in e.parts().items()}
        return cls(parts, {sha: body for e in evidence for sha, body in e.bodies().items()})

    def origin(self, name: str | dict[str, Any]) -> OriginEvidence:
        if isinstance(name, dict):  # evidence of before there were parts holds its origins itself
            return _origin_from_plain(name, self._bodies)
        return self._part(name, lambda d: _origin_from_plain(d, self._bodies))

    def declared(self, name: str) -> Document:
        return self._part(name, lambda d: _document_from_plain(d, self._bodies))

    def page(self, name: str) -> dict[str, Any]:
        return self._part(name, lambda d: {field: _pairs(value) for field, value in d.items()})

    def _part(self, name: str, read: Callable[[dict[str, Any]], _Part]) -> _Part:
        if name not in self._read:
            self._read[name] = read(orjson.loads(self._texts[name]))
        part: _Part = self._read[name]
        return part


def plain(value: Any) -> Any:
    """What evidence is made of, as JSON has it: dataclasses to dicts (bodies and None left out), times to ISO 8601,
    lone surrogates to "?"."""
    kind = type(value)  # asked of every header of every hop: by the type itself, the commonest first
    if kind is str:
        return value if value.isascii() else value.encode("utf-8", errors="replace").decode("utf-8")
    if kind is tuple:
        return [plain(v) for v in value]
    if kind in _AS_THEY_ARE:
        return value
    if kind is datetime:
        return value.isoformat()
    items = ((name, getattr(value, name)) for name in _stored_names(cast(Hashable, kind)))
    return {k: plain(v) for k, v in items if v is not None}


def _plain_hops(hops: tuple[Hop, ...]) -> list[dict[str, Any]]:
    """What `plain` makes of hops, most of what evidence holds, without a look at every header."""
    return [
        {"url": h.url, "headers": h.headers}
        if h.status is None
        else {"url": h.url, "status": h.status, "headers": h.headers}
        for h in hops
    ]


@functools.lru_cache(maxsize=4_096)
def _plain_of_alike(value: Hashable) -> Any:
    return plain(value)


_AS_THEY_ARE = frozenset({int, float, bool, type(None)})


@functools.cache
def _stored_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cast(Any, kind)) if f.name not in _NOT_STORED)


def _pairs(value: Any) -> Headers:
    return tuple([(k, v) for k, v in value])


def _document_from_plain(d: dict[str, Any], bodies: Mapping[str, bytes]) -> Document:
    sha = d.get("body_sha256")
    return Document(
        url=d["url"],
        status=d.get("status"),
        fetched_at=datetime.fromisoformat(d["fetched_at"]),
        headers=_pairs(d.get("headers", ())),
        body=bodies.get(sha) if sha else None,
        body_sha256=sha,
        error=d.get("error"),
        truncated=bool(d.get("truncated", False)),
        since=datetime.fromisoformat(d["since"]) if "since" in d else None,
    )


def embedded_from_plain(d: Mapping[str, Any]) -> Embedded:
    """An `Embedded` out of what `asdict` or `to_json` made of it."""
    if len(d) == 4 and not (d["fields"] or d["errors"] or d["needles"]):
        return Embedded(d["media_type"])
    return Embedded(
        d["media_type"],
        tuple(EmbeddedField(**f) for f in d["fields"]),
        d.get("packet_sha256"),
        tuple(d["errors"]),
        tuple(d["needles"]),
    )


def c2pa_from_plain(d: Mapping[str, Any]) -> C2pa:
    """A `C2pa` out of what `asdict` or `to_json` made of it."""
    return C2pa(d["state"], tuple(C2paEntry(**e) for e in d["entries"]), tuple(d["errors"]))


def _origin_from_plain(d: dict[str, Any], bodies: Mapping[str, bytes]) -> OriginEvidence:
    return OriginEvidence(d["origin"], tuple((n, _document_from_plain(doc, bodies)) for n, doc in d["documents"]))


def _evidence_from_plain(d: dict[str, Any], shared: Shared, anew: Mapping[str, Any]) -> Evidence:
    page: dict[str, Any] = shared.page(d["page"]) if "page" in d else {n: _pairs(d[n]) for n in _OF_THE_PAGE if n in d}
    return Evidence(
        **({k: v for k, v in d.items() if k not in _COMPOUND} | page | dict(anew)),
        page_url=d.get("page_url"),  # a picture out of a list may stand on no page
        observed_at=datetime.fromisoformat(d["observed_at"]),
        origins=tuple(shared.origin(o) for o in d["origins"]),
        declared=tuple(shared.declared(name) for name in d.get("declared", ())),
        embedded=embedded_from_plain(d["embedded"]) if "embedded" in d else None,
        c2pa=c2pa_from_plain(d["c2pa"]) if "c2pa" in d else None,
        hops=tuple(Hop(h["url"], h["status"], _pairs(h["headers"])) for h in d["hops"]) if "hops" in d else None,
        licence_claims=tuple(LicenceClaim(**c) for c in d["licence_claims"]) if "licence_claims" in d else None,
        faces=tuple(Face(**f) for f in d["faces"]) if "faces" in d else None,
        text_language=Language(**d["text_language"]) if "text_language" in d else None,
        transforms=tuple(d.get("transforms", ())),
        scores=tuple(Score(**s) for s in d.get("scores", ())),
        duplicate=DuplicateOf(**d["duplicate"]) if "duplicate" in d else None,
    )


_COMPOUND = frozenset(
    {"page_url", "observed_at", "origins", "page", "declared", "hops", "embedded", "c2pa", "licence_claims", "faces"}
    | {"text_language", "transforms", "scores", "duplicate"}
    | set(_OF_THE_PAGE)
)
