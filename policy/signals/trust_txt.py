"""trust.txt: datatrainingallowed=no speaks for the whole site (JournalList, trust.txt specification of April 2024)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from policy.evidence import Document, Evidence
from policy.judgements import judgement, worst
from policy.signals.places import judge_documents
from policy.signals.robots import Remembered, RobotsRules, readable, text_of
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "trust_txt"


class TrustFile(NamedTuple):
    """What a trust.txt says of training: each statement's line number, value (lower case) and line; and the damage."""

    statements: tuple[tuple[int, str, str], ...]
    bad_lines: tuple[int, ...]


# The variable however it is spelt; what follows it up to a comment is its value.
_STATEMENT = re.compile(
    r"\n[ \t\v\f]*+(?P<line>(?ai:data[ _-]?training[ _-]?allowed)(?![A-Za-z0-9_-])(?P<value>[^\n#\0]*+)[^\n]*+)"
)
_MAX_STATEMENTS = 100
_AROUND = " \t\v\f=:\"'"


def parse(body: bytes) -> TrustFile:
    """Read a trust.txt of any bytes. Of masses of equal statements the first is kept."""
    text, bad_lines = text_of(body)
    text = "\n" + text
    first: dict[str, tuple[int, str]] = {}
    for match in _STATEMENT.finditer(text):
        value = readable(match["value"][:200]).strip(_AROUND).lower()
        if value not in first and (len(first) < _MAX_STATEMENTS or value == "no"):
            first[value] = text.count("\n", 0, match.start() + 1), readable(match["line"][:1_000]).strip()
    return TrustFile(tuple((no, value, line) for value, (no, line) in first.items()), bad_lines)


_PARSED = Remembered(parse, max_bytes=8 * 2**20)


def judge_trust_txt(evidence: Evidence, documents: RobotsRules, max_age_days: int, now: datetime) -> Judgement:
    """What the site of the page, of the image and of each redirect says of training."""

    def read(body: bytes, document: Document, _: str) -> Judgement:
        return worst(_judge_file(_PARSED.get(body), document))

    return worst(judge_documents(MECHANISM, evidence, documents, now, max_age_days, read))


def _judge_file(file: TrustFile, document: Document) -> Iterator[Judgement]:
    for line_no, value, line in file.statements:
        verdict, code, stance = _MEANINGS.get(value, _UNKNOWN)
        where = f"{document.url}:{line_no}"
        signal = Signal(MECHANISM, where, stance, line, document.body_sha256)
        yield judgement(MECHANISM, verdict, code, line, where, (signal,))
    if file.bad_lines:
        where, detail = f"{document.url}:{file.bad_lines[0]}", "bytes that are no text"
        signal = Signal(MECHANISM, where, Stance.ERROR, detail, document.body_sha256)
        yield judgement(MECHANISM, Verdict.DEFER, "trust-txt-bad-encoding", detail, where, (signal,))
    if not file.statements:
        signal = Signal(MECHANISM, document.url, Stance.UNSET, "", document.body_sha256)
        yield judgement(MECHANISM, None, "trust-txt-silent", "", document.url, (signal,))


_MEANINGS = {
    "no": (Verdict.DENY, "trust-txt-no", Stance.DENY),
    "yes": (Verdict.ALLOW, "trust-txt-yes", Stance.ALLOW),
}
_UNKNOWN = (Verdict.DEFER, "trust-txt-unknown", Stance.ERROR)
