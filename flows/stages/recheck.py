"""Recheck: the documents of every origin that a standing yes rests on are asked again, and judged anew.

A document that answers replaces the one on record; an origin that does not answer keeps its standing verdict until
the ruleset's age for that evidence is over. Nothing that is young enough is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from curation.pair import origin_of
from flows.home import Home, utc_now
from flows.stages.crawl import OBSERVER, append_origins, evidence_row, observer_at
from flows.stages.decide import decide
from flows.stages.parts import unit_id
from flows.stages.seal import newest_evidence
from flows.terminal import Progress, silent
from policy.evidence import Document, Evidence, OriginEvidence

_ALLOWED = "SELECT pair_key FROM standing WHERE verdict = 'allow' ORDER BY pair_key"


@dataclass(frozen=True, slots=True)
class RecheckSummary:
    """Origins asked, those that did not answer, pairs whose evidence changed, and pairs whose decisions changed."""

    origins: int
    unreachable: int
    pairs: int
    new_evidence: int
    changed: int


def recheck(home: Home, progress: Progress = silent) -> RecheckSummary:
    """Ask the origins of every allowed pair again; append what changed and decide."""
    with home.ledger(readonly=True) as ledger:
        allowed = [p for (p,) in ledger.query(_ALLOWED)]
        evidence = newest_evidence(ledger, allowed)
        rechecks = len(ledger.query("SELECT 1 FROM event WHERE kind = 'recheck'"))
    origins = sorted(
        {o.origin for e in evidence.values() for o in e.origins} | {origin_of(e.image_url) for e in evidence.values()}
    )
    fresh = observer_at(home).documents(origins)
    progress(len(origins), len(origins), "recheck: origins")
    newer = {pair: _renewed(e, fresh) for pair, e in evidence.items()}
    changed_pairs = sorted(p for p, e in newer.items() if e.origins != evidence[p].origins)
    key = f"recheck/{rechecks}/{unit_id(*origins)[:12]}"
    with home.ledger() as ledger:
        append_origins(ledger, key, fresh)
        rows = [evidence_row(p, replace(newer[p], observer=OBSERVER), key) for p in changed_pairs]
        event = {"kind": "recheck", "subject": None, "detail": key, "happened_at": utc_now().replace(tzinfo=None)}
        batches = [("evidence", rows, f"{key}/evidence")] if rows else []
        ledger.append_many([*batches, ("event", [event], f"{key}/event")])
    decided = decide(home, progress)
    silent_origins = sum(any(d.status is None for _, d in o.documents) for o in fresh.values())
    return RecheckSummary(len(origins), silent_origins, len(allowed), len(changed_pairs), decided.changed)


def _renewed(evidence: Evidence, fresh: Mapping[str, OriginEvidence]) -> Evidence:
    return replace(evidence, origins=tuple(_merged(o, fresh.get(o.origin)) for o in evidence.origins))


def _merged(known: OriginEvidence, fresh: OriginEvidence | None) -> OriginEvidence:
    """What answered replaces what is known; what did not answer leaves it, and its age, as it is."""
    if fresh is None:
        return known
    old, new = dict(known.documents), dict(fresh.documents)
    names = sorted(old.keys() | new.keys())
    return OriginEvidence(known.origin, tuple((n, _newer(old.get(n), new.get(n))) for n in names))


def _newer(old: Document | None, new: Document | None) -> Document:
    if new is None or (old is not None and not _answered(new)):
        assert old is not None  # one of the two holds this name
        return old
    return replace(new, body=None)


def _answered(document: Document) -> bool:
    return document.status is not None and document.status < 500 and document.status != 429
