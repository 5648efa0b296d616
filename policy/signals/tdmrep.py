"""TDMRep: tdmrep.json, headers, meta elements and embedded tdm: properties (W3C TDM Reservation Protocol, 2024).

For one resource the header overrides the file, the meta element the header, what is embedded all of them; silence
overrides nothing. Page and image are two resources: a reservation of either counts. What is there and cannot be read
is never overridden into a yes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from policy.evidence import Document, Evidence, Headers
from policy.judgements import is_stale, judgement, not_observed, unless_stale, worst
from policy.limits import days
from policy.origins import path_of
from policy.signals.places import are_silent, asked_urls, judge_documents, metas
from policy.signals.robots import PathPattern, Remembered, RobotsRules
from policy.signals.xmp_packet import NESTED
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM: Final = "tdmrep"

# A longer file is not read: as JSON it would take a hundred times its size.
MAX_FILE_BYTES = 2**17

_RESERVATION: Final = "tdm-reservation"
_POLICY: Final = "tdm-policy"


@dataclass(frozen=True, slots=True)
class TdmrepRules:
    """`invalid_deny_days`: after so many days an invalid tdmrep.json counts as a no; until then it DEFERs."""

    invalid_deny_days: int

    def __post_init__(self) -> None:
        days("invalid_deny_days", self.invalid_deny_days)


def judge_tdmrep(
    evidence: Evidence, rules: TdmrepRules, documents: RobotsRules, max_age_days: int, now: datetime
) -> Judgement:
    """What is said of the image, at every hop on the way to it, and of its page: the most restrictive counts."""
    asked = _Asked(evidence, rules, documents, max_age_days, now)
    if _only_files_speak(asked):
        urls = [hop.url for hop in evidence.hops or ()] or [evidence.image_url]
        urls += [evidence.page_url] if evidence.page_url is not None else []
        urls += [url for url in asked_urls(evidence) if url not in urls]
        return worst(_overridden([_judge_file(asked, url)]) for url in urls)
    return worst(_judge_resources(asked))


class _Asked(NamedTuple):
    """The evidence, and what it is weighed by."""

    evidence: Evidence
    rules: TdmrepRules
    documents: RobotsRules
    max_age_days: int
    now: datetime

    def observed(self, judged: Judgement) -> Judgement:
        """A judgement on headers or meta elements, which are as old as the observation."""
        return unless_stale(judged, self.evidence.observed_at, self.now, self.max_age_days)


def _only_files_speak(asked: _Asked) -> bool:
    """Whether everything else was seen, is young enough and says nothing, as of most evidence: it overrides no file."""
    evidence, embedded = asked.evidence, asked.evidence.embedded
    if embedded is None or embedded.fields or embedded.needles or embedded.errors:
        return False
    if not are_silent(evidence, _RESERVATION, _POLICY) or (
        evidence.page_meta is None and evidence.page_url is not None
    ):
        return False
    if any(name.strip().lower() in (_RESERVATION, _POLICY) for name, _ in evidence.page_meta or ()):
        return False
    return not is_stale(evidence.observed_at, asked.now, asked.max_age_days)


# ── resources and their precedence ─────────────────────────────────────────────────────────────────────────────────


_STATEMENTS = frozenset({"tdmrep-reserved", "tdmrep-constrained", "tdmrep-not-reserved"})


def _judge_resources(asked: _Asked) -> Iterator[Judgement]:
    """A judgement for each asked address: its file, overridden by what its own answer says."""
    evidence = asked.evidence
    if evidence.hops is None:
        yield not_observed(MECHANISM, "the headers of the image's answer", evidence.image_url)
    resources: list[tuple[str | None, list[Judgement]]] = [
        (hop.url, [asked.observed(_judge_headers(hop.headers, f"hop {number}, {hop.url}"))])
        for number, hop in enumerate(evidence.hops or (), 1)
    ] or [(evidence.image_url, [])]
    resources[-1][1].extend(_judge_embedded(evidence))
    resources.append((evidence.page_url, list(_judge_page(asked))))
    seen = {url for url, _ in resources}
    resources += [(url, []) for url in asked_urls(evidence) if url not in seen]
    for url, layers in resources:
        layers = layers if url is None else [_judge_file(asked, url), *layers]
        if layers:
            yield _overridden(layers)


def _overridden(layers: Sequence[Judgement]) -> Judgement:
    """What is said of one resource: of its statements the last, beside whatever was not to be had or to be read."""
    statements = [judged for judged in layers if judged.reason.code in _STATEMENTS]
    others = [judged for judged in layers if judged.reason.code not in _STATEMENTS]
    decided = worst([*statements[-1:], *others])
    signals = tuple(signal for judged in layers for signal in judged.signals)
    return Judgement(MECHANISM, decided.verdict, decided.reason, decided.where, signals)


# ── headers, meta elements, embedded metadata ──────────────────────────────────────────────────────────────────────


def _judge_headers(headers: Headers, place: str) -> Judgement:
    values = [value for name, value in headers if name.strip().lower() == _RESERVATION]
    policies = [value for name, value in headers if name.strip().lower() == _POLICY]
    return _judge_values(values, policies, f"{_RESERVATION}, {place}")


def _judge_page(asked: _Asked) -> Iterator[Judgement]:
    evidence = asked.evidence
    if evidence.page_headers is not None:
        yield asked.observed(_judge_headers(evidence.page_headers, evidence.page_url or "the page"))
    elif evidence.page_url is not None:
        yield not_observed(MECHANISM, "the page's headers", evidence.page_url)
    reservations = list(metas(MECHANISM, evidence, _RESERVATION))
    policies = [found[1] for found in metas(MECHANISM, evidence, _POLICY) if not isinstance(found, Judgement)]
    yield from (found for found in reservations if isinstance(found, Judgement))
    said = [found for found in reservations if not isinstance(found, Judgement)]
    if said or policies:
        where = said[0][0] if said else f'meta name="{_POLICY}", {evidence.page_url or "the page"}'
        yield asked.observed(_judge_values([content for _, content in said], policies, where))


def _judge_embedded(evidence: Evidence) -> Iterator[Judgement]:
    """tdm: properties of the image's own metadata, and damage that may hide one. Neither ages."""
    url, embedded = evidence.image_url, evidence.embedded
    if embedded is None:
        if evidence.fetch_error:
            yield judgement(MECHANISM, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        else:
            yield not_observed(MECHANISM, "the image's own metadata", url)
        return
    own = [field for field in embedded.fields if field.name == "tdm:reservation"]
    # Another picture's, kept in this one's metadata: its no counts, its yes does not.
    nested = [f for f in embedded.fields if f.name == NESTED + "tdm:reservation" and _reserves(f.value) is True]
    policies = [field.value for field in embedded.fields if field.name == "tdm:policy"]
    if found := [*own, *nested]:
        yield _judge_values([field.value for field in found], policies, f"{found[0].where}, {url}", "tdm:")
    if "tdm:reservation" in embedded.needles:
        signal = Signal(MECHANISM, f"damaged metadata, {url}", Stance.DENY, "tdm:reservation")
        detail = "tdm:reservation"
        yield judgement(MECHANISM, Verdict.DENY, "tdmrep-damaged-reservation", detail, signal.where, (signal,))
    if embedded.errors:
        yield _damaged("; ".join(embedded.errors), url)


_VALUES = {"1": True, "true": True, "0": False, "false": False}
_NO_TEXT = re.compile("[^\t\x20-\x7e]")


def _reserves(value: str) -> bool | None:
    """Whether a value reserves; None: a protocol error, which is to count as unset (section 3.1)."""
    return _VALUES.get(value.strip(" \t\r\n\"'").lower())


def _judge_values(values: Sequence[str], policies: Sequence[str], where: str, prefix: str = "tdm-") -> Judgement:
    """What the values of one place say, repeated or in a list: the most restrictive."""
    policy = next((text for policy in policies if (text := policy.strip())), "")
    said = [f"{prefix}reservation: {', '.join(values)}"] if values else []
    text = ", ".join([*said, *([f"{prefix}policy: {policy}"] if policy else [])])
    if not text:
        return judgement(MECHANISM, None, "tdmrep-absent", where=where)
    found = [_reserves(piece) for value in values for piece in value.split(",")]
    if True in found:
        return _reserved(text, policy, where, None)
    if any(map(_NO_TEXT.search, values)):
        return _damaged(text, where)
    if None in found:
        return _said(None, "tdmrep-protocol-error", Stance.ERROR, text, where, None)
    if not found:
        return _said(None, "tdmrep-absent", Stance.UNSET, text, where, None)
    return _said(Verdict.ALLOW, "tdmrep-not-reserved", Stance.ALLOW, text, where, None)


def _damaged(detail: str, where: str) -> Judgement:
    return _said(Verdict.DEFER, "tdmrep-damaged", Stance.ERROR, detail, where, None)


def _reserved(detail: str, policy: str, where: str, sha256: str | None) -> Judgement:
    """A no; with a policy, which is not fetched, one that a licence may lift: a grant on record."""
    code, stance = ("tdmrep-constrained", Stance.CONSTRAINED) if policy else ("tdmrep-reserved", Stance.DENY)
    return _said(Verdict.DENY, code, stance, detail, where, sha256)


def _said(verdict: Verdict | None, code: str, stance: Stance, detail: str, where: str, sha256: str | None) -> Judgement:
    return judgement(MECHANISM, verdict, code, detail, where, (Signal(MECHANISM, where, stance, detail, sha256),))


# ── tdmrep.json ────────────────────────────────────────────────────────────────────────────────────────────────────


class Entry(NamedTuple):
    """A rule of the file that can be read: its number, where it holds, what it says."""

    number: int
    patterns: tuple[PathPattern, ...]
    reserved: bool
    policy: str
    text: str

    def matches(self, path: str) -> bool:
        """One with its location given twice reserves in either place, and frees where both agree."""
        found = (pattern.matches(path) for pattern in self.patterns)
        return any(found) if self.reserved else all(found)


class TdmFile(NamedTuple):
    """A tdmrep.json: its entries that can be read, and what is wrong with it ("": it is valid)."""

    entries: tuple[Entry, ...]
    error: str


class _Members(tuple[tuple[str, Any], ...]):
    """A JSON object with its members as they stand, a repeated name among them."""

    def of(self, name: str) -> list[Any]:
        return [value for key, value in self if key == name]


def parse(body: bytes) -> TdmFile:
    """Read a tdmrep.json of at most MAX_FILE_BYTES; whatever it holds."""
    try:
        text = body.decode(json.detect_encoding(body))
        content = json.loads(text, object_pairs_hook=_Members, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        return TdmFile((), f"no JSON: {str(problem)[:200]}")
    error = "" if isinstance(content, list) else "no array"
    entries: list[Entry] = []
    for number, item in enumerate(content if isinstance(content, list) else [content], 1):
        entry, wrong = _read_entry(number, item)
        if entry is not None:
            entries.append(entry)
        if wrong and not error:
            error = f"entry {number}: {wrong}"
    return TdmFile(tuple(entries), error)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_FILE_VALUES = {1: True, "1": True, 0: False, "0": False}  # true and 1.0 are 1 to a dict


def _read_entry(number: int, item: object) -> tuple[Entry | None, str]:
    """The entry as far as it can be read, and what is wrong with it. Of a member given twice both count."""
    if not isinstance(item, _Members):
        return None, "no object"
    locations = [value for value in item.of("location") if isinstance(value, str) and value.startswith(("/", "*"))]
    given = item.of(_RESERVATION)
    values = [_FILE_VALUES.get(value) if isinstance(value, int | float | str) else None for value in given]
    policies = [value for value in item.of(_POLICY) if value is not None]
    wrong = ""
    if not locations or len(locations) < len(item.of("location")):
        wrong = "no location that is a path"
    elif not values or None in values:
        wrong = f"no {_RESERVATION} that is 0 or 1"
    elif not all(isinstance(policy, str) for policy in policies):
        wrong = f"a {_POLICY} that is no text"
    if not locations or (True not in values and (not values or None in values)):
        return None, wrong
    reserved = True in values
    patterns = tuple(PathPattern(location, wide=reserved) for location in locations)
    policy = next((policy for policy in policies if isinstance(policy, str)), "")
    said = {"location": locations[0][:500], _RESERVATION: int(reserved), **({_POLICY: policy[:500]} if policy else {})}
    return Entry(number, patterns, reserved, policy, json.dumps(said)), wrong


_PARSED = Remembered(parse, max_bytes=2**20)


def _judge_file(asked: _Asked, url: str) -> Judgement:
    def read(body: bytes, document: Document, url: str) -> Judgement:
        if len(body) > MAX_FILE_BYTES:
            detail = f"{len(body)} bytes"
            return _said(Verdict.DEFER, "tdmrep-too-large", Stance.ERROR, detail, document.url, document.body_sha256)
        return _judge_entries(_PARSED.get(body), document, path_of(url), asked)

    (judged,) = judge_documents(
        MECHANISM, asked.evidence, asked.documents, asked.now, asked.max_age_days, read, urls=(url,)
    )
    return judged


def _judge_entries(file: TdmFile, document: Document, path: str, asked: _Asked) -> Judgement:
    """The first entry that matches; in a file that is not valid, any that matches and reserves."""
    if file.error:
        return _judge_invalid(file, document, path, asked)
    entry = next((entry for entry in file.entries if entry.matches(path)), None)
    if entry is None:
        return judgement(MECHANISM, None, "tdmrep-no-match", where=document.url)
    where = f"{document.url}, entry {entry.number}"
    if entry.reserved:
        return _reserved(entry.text, entry.policy, where, document.body_sha256)
    return _said(Verdict.ALLOW, "tdmrep-not-reserved", Stance.ALLOW, entry.text, where, document.body_sha256)


def _judge_invalid(file: TdmFile, document: Document, path: str, asked: _Asked) -> Judgement:
    sha256 = document.body_sha256
    invalid = Signal(MECHANISM, document.url, Stance.ERROR, file.error, sha256)
    for entry in file.entries:
        if entry.reserved and entry.matches(path):
            where = f"{document.url}, entry {entry.number}"
            signals = invalid, Signal(MECHANISM, where, Stance.DENY, entry.text, sha256)
            return judgement(MECHANISM, Verdict.DENY, "tdmrep-invalid-reservation", entry.text, where, signals)
    since = document.since or document.fetched_at
    if asked.now - since > timedelta(days=asked.rules.invalid_deny_days):
        return judgement(MECHANISM, Verdict.DENY, "tdmrep-invalid-long", file.error, document.url, (invalid,))
    return judgement(MECHANISM, Verdict.DEFER, "tdmrep-invalid", file.error, document.url, (invalid,))
