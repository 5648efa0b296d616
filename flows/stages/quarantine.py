"""Quarantine: of a picture that is on a hash list only hashes, times and states stay.

A crawl that meets one keeps no pixels of it and records it reduced. One that was recorded before its list was imported
is reduced by the `custody decide` that finds it there: what everybody reads, the newest rows, then say no more of it.
The rows before them stay in the ledger until a removal erases them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation.observe import QUARANTINE, quarantined
from flows.home import Home, utc_now
from flows.stages.duplicates import forget_vectors
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from policy.ledger import Ledger
from policy.registries import Registries
from policy.signals import registry

# Pairs that a list denied at some time, whose newest evidence is of a picture and not reduced.
_LISTED = """
WITH listed AS (
    SELECT DISTINCT pair_key FROM decision WHERE rule = $rule AND verdict = 'deny' AND pair_key IS NOT NULL
)
SELECT pair_key FROM (
    SELECT pair_key, observer, content_sha256 FROM evidence SEMI JOIN listed USING (pair_key)
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
) WHERE observer <> $quarantine AND content_sha256 IS NOT NULL ORDER BY pair_key
"""
_OCCURRENCES = """
SELECT pair_key, page_key, url_key, unit_id, seen_at FROM occurrence
WHERE pair_key IN (SELECT unnest(?::VARCHAR[])) AND url_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY pair_key
"""


def is_listed(lists: Registries, *, sha256: str | None, md5: str | None, pdq: str | None) -> bool:
    """Whether a hash list names these bytes."""
    # Asked without URLs, lists of URLs and domains have nothing to say.
    return any(answer.match for answer in lists.answers(sha256=sha256, md5=md5, pdq=pdq))


def reduced_fetch(row: Mapping[str, object]) -> dict[str, object]:
    """A row of `fetch` without the address, and what was answered beside the bytes."""
    kept = ("url_key", "kind", "outcome", "body_sha256", "started_at", "observer", "unit_id")
    return {name: row[name] for name in kept} | {"hops_json": "[]"}


def reduced_content(row: Mapping[str, object]) -> dict[str, object]:
    """A row of `content` without what was measured."""
    return {name: row[name] for name in ("content_sha256", "url_key", "unit_id", "observed_at")}


def reduced_occurrence(row: Mapping[str, object]) -> dict[str, object]:
    """A row of `occurrence` without addresses, text and hints; by its keys `custody why` still finds it."""
    return {name: row[name] for name in ("pair_key", "page_key", "url_key", "unit_id", "seen_at")}


def quarantine(home: Home, ledger: Ledger) -> frozenset[str]:
    """Reduce what stands recorded of pictures that a hash list names by now, and forget their embeddings; returns their
    contents, whose pixels have to go.
    """
    if registry.MECHANISM not in home.ruleset.mechanisms:
        return frozenset()
    given = {"rule": registry.MECHANISM, "quarantine": QUARANTINE}
    pairs = [pair for (pair,) in ledger.query(_LISTED, given)]
    if not pairs:
        return frozenset()
    lists = home.registries(ledger)
    evidence = {
        pair: e
        for pair, e in sorted(newest_evidence(ledger, pairs).items())
        if is_listed(lists, sha256=e.content_sha256, md5=e.content_md5, pdq=e.pdq)
    }
    if not evidence:
        return frozenset()
    names = ("pair_key", "page_key", "url_key", "unit_id", "seen_at")
    known = [dict(zip(names, row, strict=True)) for row in ledger.query(_OCCURRENCES, [list(evidence)])]
    key = f"quarantine/{ledger.head()[0]}/{unit_id(*evidence)}"
    written = evidence_batches(ledger, ((p, quarantined(e)) for p, e in evidence.items()), "quarantine", key)
    occurrences: list[dict[str, Any]] = [reduced_occurrence(row) for row in known]
    event = {
        "kind": "quarantine",
        "subject": None,
        "detail": str(len(evidence)),
        "happened_at": utc_now().replace(tzinfo=None),
    }
    ledger.append_many([*written, ("occurrence", occurrences, f"{key}/occurrence"), ("event", [event], f"{key}/event")])
    contents = frozenset(e.content_sha256 for e in evidence.values() if e.content_sha256 is not None)
    forget_vectors(home, sorted(contents))
    return contents
