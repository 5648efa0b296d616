"""Needles: all that a removed sample was known by, gathered before it is erased and held in memory alone.

What is looked for afterwards must belong to what was removed and to nothing else: a page on which other pictures stay,
a text that is another picture's too, a creator with other works are left out, and counted. Whether something stays is
judged by the matches of the request, not by what the erasure takes: an erasure that forgets a row is found out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from curation.duplicates import MIN_QUALITY
from curation.fingerprints import pdq
from curation.hash_index import MAX_DISTANCE, HashIndex, words_of
from curation.images import decode
from curation.near_embedding import VectorCache
from curation.page_addresses import PageBase
from curation.pair import canonical_url, url_key
from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from flows.home import Home
from flows.stages.captioning.bank import phrase_files
from flows.stages.removing.forms import (
    MIN_TEXT_CHARS,
    bare_url,
    digest_forms,
    passages,
    text_forms,
    url_forms,
    windows,
)
from flows.stages.removing.likeness import Pictures, RemovedPictures, pixel_rows
from flows.stages.removing.searching import Pattern, Search
from policy import removals
from policy.errors import CustodyError, InputError, RefusedError
from policy.ledger import Ledger
from policy.removals import State
from policy.turned_hashes import turned_hashes

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, repr=False)
class Needles:
    """Everything to look for. Never written anywhere: neither `repr` nor a report shows a value.

    `patterns`: all forms of all values. `pictures`: what pictures are compared with. `too_common`, `shared`: values
    that are not looked for, by kind: short ones and texts of others; and values that others, which stay, have as well.
    """

    patterns: tuple[Pattern, ...]
    pictures: RemovedPictures = field(default_factory=RemovedPictures)
    too_common: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many forms of each kind are looked for."""
        return dict(sorted(Counter(p.kind for p in self.patterns).items()))

    def __repr__(self) -> str:
        return f"Needles({len(self.patterns)} forms of {len(self.kinds)} kinds, {len(self.pictures.pdqs)} hashes)"

    def joined(self, other: Needles) -> Needles:
        """These and others; pictures are compared with those of the other."""
        forms = {pattern.value: pattern for pattern in (*self.patterns, *other.patterns)}
        common = Counter(self.too_common) + Counter(other.too_common)
        return Needles(tuple(forms.values()), other.pictures, common, Counter(self.shared) + Counter(other.shared))

    @classmethod
    def of_values(cls, values: Iterable[str]) -> Needles:
        """Values that somebody names: URLs (with their keys), digests in hex, and texts. Raises `InputError`."""
        known = _Known()
        for value in values:
            text = value.strip()
            if re.fullmatch(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{32}", text):
                known.digests.setdefault("given", set()).add(text.lower())
            elif re.match(r"https?://", text):
                known.urls.setdefault("given", set()).update({text, canonical_url(text)})
                known.digests.setdefault("given", set()).add(url_key(canonical_url(text)))
            elif len(text) < MIN_TEXT_CHARS:
                raise InputError(f"a text of {len(text)} characters is found everywhere", where="--needle",
                                 remedy=f"Give one of {MIN_TEXT_CHARS} or more")  # fmt: skip
            else:
                known.texts.setdefault("given", set()).add(text)
        if not any((known.urls, known.digests, known.texts)):
            raise InputError("there is nothing to look for", where="--needle")
        return cls(_patterns(known, _Others()))


def gather(home: Home, ledger: Ledger, removal_ids: Sequence[str]) -> Needles:
    """All that these requests' matches are known by. To be called before `apply`, with the ledger that is open.

    Raises:
        InputError: there is no such request. RefusedError: one is applied, and what it named is gone.
    """
    requests = [removals.find(ledger, removal) for removal in removal_ids]
    for request in requests:
        if request.state is State.APPLIED:
            raise RefusedError(
                "what it named is erased, here as well: there is nothing left to look for",
                where=request.removal,
                remedy="Name values that you know: --needle VALUE, or --needle-file FILE",
            )
    asked = {"removals": [request.removal for request in requests]}
    known = _known(home, ledger, asked)
    for request in requests:
        _add_named(known, request)
        if (requester := removals.requester_of(ledger, request.removal, home.keys)) is not None:
            known.texts.setdefault("requester", set()).update(_names(requester))
    renditions = list(_renditions(home, ledger, asked, known))
    _add_pixels(known, renditions)
    others = _others(home, ledger, asked, known)
    return Needles(
        _patterns(known, others),
        _removed_pictures(home, ledger, asked, known, renditions, others),
        dict(sorted(others.too_common.items())),
        dict(sorted(others.shared.items())),
    )


# ── what is known ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Known:
    """Values by kind, before they become patterns. `raw`: bytes as they lie in files."""

    urls: dict[str, set[str]] = field(default_factory=dict)
    digests: dict[str, set[str]] = field(default_factory=dict)
    texts: dict[str, set[str]] = field(default_factory=dict)
    raw: dict[str, set[bytes]] = field(default_factory=dict)
    pdqs: set[str] = field(default_factory=set)

    def add(self, where: dict[str, set[str]], kind: str, values: Iterable[str | None]) -> None:
        where.setdefault(kind, set()).update(value for value in values if value)


# What the requests take out, and, by it, which rows of a table are about what goes. Matches that nobody accepted stay.
_GONE: Final = """
WITH gone AS (SELECT * FROM removal_taken WHERE list_contains($removals::VARCHAR[], removal)),
gone_pair AS (SELECT DISTINCT pair_key FROM gone WHERE pair_key IS NOT NULL),
gone_url AS (SELECT DISTINCT url_key FROM gone WHERE url_key IS NOT NULL),
gone_content AS (SELECT DISTINCT content_sha256 FROM gone WHERE content_sha256 IS NOT NULL),
gone_sample AS (SELECT DISTINCT sample_key FROM gone WHERE sample_key IS NOT NULL),
"""
_PAIR, _URL, _CONTENT, _SAMPLE = (
    f"coalesce({column} IN (SELECT {column} FROM {table}), false)"  # noqa: S608
    for column, table in (
        ("pair_key", "gone_pair"),
        ("url_key", "gone_url"),
        ("content_sha256", "gone_content"),
        ("sample_key", "gone_sample"),
    )
)
_SHOWN: Final = f"({_PAIR} OR {_URL})"  # an occurrence that goes
_HELD: Final = f"({_PAIR} OR {_CONTENT} OR {_SAMPLE})"  # a caption or a slot that goes

_OCCURRENCES: Final = f"""{_GONE} own AS (SELECT * FROM occurrence WHERE {_SHOWN})
SELECT pair_key, page_url, page_key, image_url, url_key, alt, hints_json FROM own"""  # noqa: S608
_FETCHES: Final = f"""{_GONE} own AS (SELECT * FROM "fetch" WHERE kind = 'image' AND {_URL})
SELECT url, final_url, hops_json, body_sha256 FROM own"""  # noqa: S608
_CONTENTS: Final = f"""{_GONE} own AS (SELECT * FROM content WHERE {_CONTENT} OR {_URL})
SELECT content_sha256, url_key, pdq, pdq_quality FROM own"""  # noqa: S608
_EVIDENCE: Final = f"""{_GONE} own AS (SELECT * FROM evidence WHERE {_PAIR} OR {_CONTENT})
SELECT evidence_id, body_json FROM own"""  # noqa: S608
_CAPTIONS: Final = f"""{_GONE} own AS (
    SELECT pair_key, content_sha256, sample_key, caption FROM caption
    UNION SELECT pair_key, content_sha256, sample_key, caption FROM slot
) SELECT sample_key, caption FROM own WHERE {_HELD}"""  # noqa: S608
_SLOTS: Final = f"""{_GONE} own AS (SELECT * FROM slot WHERE {_HELD})
SELECT DISTINCT dataset, ordinal FROM own WHERE dataset IS NOT NULL ORDER BY ALL"""  # noqa: S608
_ATTRIBUTIONS: Final = f"""{_GONE} own AS (SELECT dataset, ordinal FROM slot WHERE {_HELD})
SELECT title, creator, source_url FROM attribution SEMI JOIN own USING (dataset, ordinal)"""  # noqa: S608
_KEYS: Final = f"""{_GONE} own AS (SELECT * FROM gone)
SELECT pair_key, url_key, content_sha256, sample_key FROM own"""  # noqa: S608
_PAGES: Final = """
SELECT page.url, document.body FROM "fetch" page JOIN document USING (body_sha256)
WHERE page.kind = 'page' AND document.body IS NOT NULL AND list_contains($pages::VARCHAR[], page.url)
"""


def _known(home: Home, ledger: Ledger, asked: Mapping[str, object]) -> _Known:
    known = _Known()
    for pair, url, content, sample in ledger.query(_KEYS, asked):
        for kind, key in (("pair_key", pair), ("url_key", url), ("sha256", content), ("sample_key", sample)):
            known.add(known.digests, kind, [key])
    for pair, page, page_key, image, key, alt, hints in ledger.query(_OCCURRENCES, asked):
        known.add(known.digests, "pair_key", [pair])
        known.add(known.digests, "page_key", [page_key])
        known.add(known.digests, "url_key", [key])
        known.add(known.urls, "page_url", [page])
        known.add(known.urls, "image_url", [image])
        known.add(known.texts, "alt", [alt])
        _add_claims(known, json.loads(hints) if hints else [])
    for url, final, hops, sha in ledger.query(_FETCHES, asked):
        known.add(known.urls, "image_url", [url, final, *(hop["url"] for hop in json.loads(hops or "[]"))])
        known.add(known.digests, "sha256", [sha])
    for sha, key, found, quality in ledger.query(_CONTENTS, asked):
        known.add(known.digests, "sha256", [sha])
        known.add(known.digests, "url_key", [key])
        if found and (quality or 0) >= MIN_QUALITY:
            known.pdqs.add(found)
    for evidence_id, body in ledger.query(_EVIDENCE, asked):
        known.add(known.digests, "evidence_id", [evidence_id])
        _add_evidence(known, orjson.loads(body) if body else {})
    for sample, caption in ledger.query(_CAPTIONS, asked):
        known.add(known.digests, "sample_key", [sample])
        known.add(known.texts, "caption", [caption])
    for title, creator, source in ledger.query(_ATTRIBUTIONS, asked):
        known.add(known.texts, "title", [title])
        known.add(known.texts, "creator", [creator])
        known.add(known.urls, "source_url", [source] if source and "://" in source else [])
    _add_passages(known, ledger)
    _add_vectors(known, home)
    return known


def _add_claims(known: _Known, claims: Iterable[Mapping[str, Any]]) -> None:
    for claim in claims:
        known.add(known.texts, "title", [claim.get("title")])
        known.add(known.texts, "creator", [claim.get("creator"), claim.get("credit")])


def _add_evidence(known: _Known, body: Mapping[str, Any]) -> None:
    """What the original's bytes said of themselves, and what they were known by; the rest stands in other tables."""
    known.add(known.texts, "alt", [body.get("alt")])
    known.add(known.digests, "md5", [body.get("content_md5")])
    embedded = body.get("embedded") or {}
    known.add(known.texts, "embedded", (entry.get("value") for entry in embedded.get("fields", ())))
    known.add(known.digests, "embedded", [embedded.get("packet_sha256")])
    known.add(known.urls, "image_url", (hop.get("url") for hop in body.get("hops") or ()))
    _add_claims(known, body.get("licence_claims") or ())


_TAG: Final = re.compile(rb"<(?:img|source|a|meta|link|input|video|object|image)\b[^<>]{1,8000}>", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(rb"""=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_CANDIDATE: Final = re.compile(rb"[^\s,]+")  # of a srcset


def _add_passages(known: _Known, ledger: Ledger) -> None:
    """The tags by which pages show the picture, and its address as it is written there, out of the pages' HTML."""
    pictures = known.urls.get("image_url", set())
    for url, body in ledger.query(_PAGES, {"pages": sorted(known.urls.get("page_url", ()))}):
        base = PageBase(url)
        for tag in _TAG.findall(body):
            written = {part for groups in _ATTRIBUTE.findall(tag) for part in _CANDIDATE.findall(b" ".join(groups))}
            for one in written:
                address = one.decode("utf-8", "replace")
                if base.join(address) in pictures:
                    known.add(known.texts, "page_text", [" ".join(tag.decode("utf-8", "replace").split())])
                    known.add(known.urls, "address", [address])


def _add_vectors(known: _Known, home: Home) -> None:
    """The embeddings of these contents, whatever model made them."""
    contents = sorted(known.digests.get("sha256", ()))
    for directory in sorted(home.vectors_path.glob("*/")):
        vectors, there = VectorCache(home.vectors_path, directory.name).load(contents)
        for row in np.flatnonzero(there):
            known.raw.setdefault("vector", set()).update(windows(vectors[row].tobytes()))


def _add_named(known: _Known, request: removals.RemovalRequest) -> None:
    """What the request itself names, in its own words."""
    if (value := request.named_value) is None:
        return
    match request.named_kind:
        case "page_url" | "image_url":
            known.add(known.urls, request.named_kind, [value])
        case "content" | "picture":
            known.add(known.digests, "sha256", [value])
        case "sample_key":
            known.add(known.digests, "sample_key", [value])
        case "domain":
            known.add(known.urls, "domain", [value])
        case _:  # a creator, a licensor, a text
            known.add(known.texts, "named", [value])


def _names(requester: str) -> Iterator[str]:
    """Who asks: all that was written down, and each name and address in it."""
    yield requester
    yield from filter(None, (part.strip() for part in re.split(r"[<>,;\n\"{}\[\]]|:\s", requester)))


# ── renditions ───────────────────────────────────────────────────────────────────────────────────────────────────


def _renditions(home: Home, ledger: Ledger, asked: Mapping[str, object], known: _Known) -> Iterator[tuple[bytes, Rgb]]:
    """(file, pixels) of every picture of these that is kept: in the pixel store and in sealed datasets."""
    kept: set[bytes] = set()
    store = PixelStore(home.pixels_path)
    for sha in sorted(known.digests.get("sha256", ())):
        with suppress(InputError):  # none is kept
            kept.add(store.get(sha))
    by_dataset: dict[str, list[int]] = {}
    for dataset, ordinal in ledger.query(_SLOTS, asked):
        by_dataset.setdefault(dataset, []).append(ordinal)
    for dataset, ordinals in by_dataset.items():
        with suppress(CustodyError), DatasetReader.open(home.dataset(dataset), verify=False) as reader:
            kept.update(filter(None, map(reader.image_bytes, ordinals)))
    for body in sorted(kept):
        with suppress(InputError):
            yield body, decode(body)


def _add_pixels(known: _Known, renditions: Iterable[tuple[bytes, Rgb]]) -> None:
    """Rows of pixels, as a grid without loss or an array on disk would hold them."""
    for _, rgb in renditions:
        known.raw.setdefault("pixels", set()).update(pixel_rows(rgb))


_STAYING_PDQS: Final = f"""{_GONE} own AS (SELECT * FROM content WHERE NOT ({_CONTENT} OR {_URL}))
SELECT content_sha256, pdq FROM own WHERE pdq IS NOT NULL AND content_sha256 IS NOT NULL AND pdq_quality >= $quality
"""  # noqa: S608
_NEAR_AT_ONCE: Final = 1_000_000
_MOST_NEAR: Final = 64


def _removed_pictures(
    home: Home,
    ledger: Ledger,
    asked: Mapping[str, object],
    known: _Known,
    renditions: Sequence[tuple[bytes, Rgb]],
    others: _Others,
) -> RemovedPictures:
    """What pictures are compared with: hashes of originals and renditions, and what stays that is near to them."""
    hashes = set(known.pdqs) | {found for _, rgb in renditions for found in _told(rgb)}
    staying: set[str] = set()
    near: set[str] = set()
    if hashes:
        rows: list[tuple[str, str]] = []
        for batch in ledger.query_batches(_STAYING_PDQS, {**asked, "quality": MIN_QUALITY}, rows=100_000):
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if len(rows) >= _NEAR_AT_ONCE:
                _nearest(rows, hashes, near, staying)
                rows = []
        _nearest(rows, hashes, near, staying)
    store = PixelStore(home.pixels_path)
    for sha in sorted(near):
        with suppress(InputError):
            staying.update(_told(decode(store.get(sha))))
    others.shared.update({"pdq": len(hashes & staying)} if hashes & staying else {})
    return RemovedPictures(
        frozenset(hashlib.sha256(body).digest() for body, _ in renditions),
        frozenset(Pictures.pixels_of(rgb) for _, rgb in renditions),
        tuple(filter(None, (pixel_rows(rgb) for _, rgb in renditions))),
        tuple(sorted(hashes)),
        tuple(sorted(staying)),
        home.ruleset.duplicate.pdq_max_distance,
    )


def _told(rgb: Rgb) -> Iterator[str]:
    """A picture's hash, if it has structure enough to tell it from others."""
    found, quality = pdq(rgb)
    if quality >= MIN_QUALITY:
        yield found


def _nearest(rows: Sequence[tuple[str, str]], hashes: set[str], near: set[str], staying: set[str]) -> None:
    if rows:
        index = HashIndex(words_of([found for _, found in rows]), MAX_DISTANCE)
        found = index.near(words_of(sorted(hashes)), most=_MOST_NEAR, threads=1)
        near.update(rows[row][0] for row in found.row.tolist())
        staying.update(rows[row][1] for row in found.row.tolist())


# ── what others have as well ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Others:
    """What stays and is equal, or holds it. `whole`: URLs that others go on from."""

    texts: set[str] = field(default_factory=set)
    urls: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    too_common: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)


_STAYING_URLS: Final = f"""{_GONE} own AS (SELECT * FROM occurrence WHERE NOT {_SHOWN})
SELECT page_url, image_url FROM own"""  # noqa: S608
_STAYING_TEXTS: Final = f"""{_GONE} own AS (
    SELECT pair_key, content_sha256, sample_key, caption FROM caption
    UNION ALL SELECT pair_key, content_sha256, sample_key, caption FROM slot
), own_texts AS (
    SELECT caption AS text FROM own WHERE NOT {_HELD}
    UNION ALL SELECT alt FROM occurrence WHERE NOT {_SHOWN}
) SELECT text FROM own_texts WHERE text IS NOT NULL"""  # noqa: S608
_STAYING_RIGHTS: Final = f"""{_GONE} own_slots AS (SELECT dataset, ordinal FROM slot WHERE {_HELD})
SELECT concat_ws(' ', title, creator, source_url) FROM attribution ANTI JOIN own_slots USING (dataset, ordinal)
UNION ALL SELECT hints_json FROM occurrence WHERE hints_json <> '[]' AND NOT {_SHOWN}
UNION ALL SELECT concat_ws(' ', body_json->>'$.embedded', body_json->>'$.licence_claims')
    FROM evidence WHERE NOT ({_PAIR} OR {_CONTENT})"""  # noqa: S608
_STAYING_KEYS: Final = f"""{_GONE} own AS (SELECT * FROM occurrence WHERE NOT {_SHOWN})
SELECT DISTINCT page_key FROM own WHERE list_contains($keys::VARCHAR[], page_key)"""  # noqa: S608
_OF_RIGHTS: Final = ("creator", "title", "embedded", "requester", "named")


def _others(home: Home, ledger: Ledger, asked: Mapping[str, object], known: _Known) -> _Others:
    """Which of these values stay with somebody else: judged by the rows of those who are not matched, and by the phrase
    lists that the operator keeps in the home."""
    others = _Others()
    keys = sorted(known.digests.get("page_key", ()))
    others.digests |= {key for (key,) in ledger.query(_STAYING_KEYS, {**asked, "keys": keys})}

    urls = sorted(set().union(*known.urls.values())) if known.urls else []
    for url, value, start, end in _met(ledger, _STAYING_URLS, asked, {url: bare_url(url) for url in urls}):
        before = value[:start]
        is_end = end == len(value)
        if is_end and (before.endswith((b"/", b"://")) or not before or url.startswith("/")):
            others.urls.add(url)
        else:
            others.whole.add(url)
    texts = {part: part for kind, some in known.texts.items() for text in some for part in passages(text) if part}
    others.texts.update(text for text, *_ in _met(ledger, _STAYING_TEXTS, asked, texts))
    rights = {p: p for kind in _OF_RIGHTS for text in known.texts.get(kind, ()) for p in passages(text)}
    if rights:
        others.texts.update(text for text, *_ in _met(ledger, _STAYING_RIGHTS, asked, rights))
    lists = [path for path in phrase_files(home) if path.is_file()]
    if texts and lists:
        search = Search([Pattern(text, text.encode()) for text in texts])
        for path in lists:
            with path.open("rb") as file:
                others.texts.update(search.in_stream(file.read)[0])
    return others


def _met(
    ledger: Ledger, sql: str, asked: Mapping[str, object], wanted: Mapping[str, str]
) -> Iterator[tuple[str, bytes, int, int]]:
    """(what is wanted, the value it stands in, from where to where), of all texts that a query gives."""
    wanted = {name: text for name, text in wanted.items() if len(text) >= 2}
    if not wanted:
        return
    names = list(wanted)
    search = Search([Pattern("", wanted[name].encode("utf-8", "surrogatepass")) for name in names])
    for batch in ledger.query_batches(sql, asked):
        for column in batch.columns:
            for pattern, value, start, end in search.places_in(column):
                yield names[pattern], value, start, end


# ── patterns ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _patterns(known: _Known, others: _Others) -> tuple[Pattern, ...]:
    """The forms of what is looked for; what is left out is counted with the others."""
    found: dict[bytes, Pattern] = {}

    def put(kind: str, forms: Iterable[bytes], *, whole: bool = False, folded: bool = False) -> None:
        for form in forms:
            found.setdefault(form, Pattern(kind, form, whole, folded))

    for kind, digests in known.digests.items():
        for digest in digests:
            if digest in others.digests:
                others.shared[kind] += 1
            else:
                put(kind, digest_forms(digest))
    for kind, urls in known.urls.items():
        for url in urls:
            if url in others.urls:
                (others.too_common if kind == "address" else others.shared)[kind] += 1
            elif len(bare_url(url)) < MIN_TEXT_CHARS:
                others.too_common[kind] += 1
            else:
                put(kind, url_forms(url), whole=kind in ("address", "domain") or url in others.whole)
    for kind, texts in known.texts.items():
        for text in texts:
            parts = [" ".join(part.split()) for part in passages(text)]
            parts = [p for p in parts if p not in others.texts and len(p) >= MIN_TEXT_CHARS]
            others.too_common[kind] += not parts
            for part in parts:
                put(kind, text_forms(part), folded=True)
    for kind, rows in known.raw.items():
        put(kind, rows)
    put("pdq", chain.from_iterable(digest_forms(turned) for one in known.pdqs for turned in turned_hashes(one)))
    others.too_common += Counter()  # without those of which nothing was left out
    return tuple(sorted(found.values(), key=lambda pattern: (pattern.kind, pattern.value)))
