"""Decide: every pair is judged from its newest stored evidence; what changed is appended, the rest confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from curation.images import PixelStore
from flows.home import Home, utc_now
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.evidence import Evidence
from policy.judgements import judgement
from policy.ledger import Ledger
from policy.removals import Tombstones
from policy.ruleset import KNOWN, Ruleset
from policy.snapshot import publish
from policy.verdict import Judgement

CHUNK = 2000

_NEWEST_EVIDENCE = """
SELECT pair_key, evidence_id, body_json
FROM evidence WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
ORDER BY pair_key
"""
_NEWEST_DECISIONS = """
SELECT pair_key, rule, rule_version, verdict, reason_code, reason_detail, where_found
FROM decision WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key, rule ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_STANDING = """
SELECT verdict, CASE verdict WHEN 'allow' THEN '' ELSE rule END AS decided_by,
       CASE verdict WHEN 'allow' THEN '' ELSE reason_code END AS reason, count(*) AS pairs
FROM standing GROUP BY ALL ORDER BY verdict, pairs DESC, decided_by, reason
"""


@dataclass(frozen=True, slots=True)
class DecideSummary:
    """`standing`: (verdict, deciding rule, reason code, pairs) after the run."""

    decide: str
    judged: int
    changed: int
    ruleset_digest: str
    standing: tuple[tuple[str, str, str, int], ...]
    pixels_deleted: int


def decide(home: Home, progress: Progress = silent) -> DecideSummary:
    """Judge every pair under the home's ruleset; append changed decisions; delete the pixels of what is denied."""
    ruleset = home.ruleset
    with home.ledger() as ledger:
        changed, judged, decide_id = judge_pairs(ledger, ruleset, home, progress)
        standing = tuple((v, r, c, n) for v, r, c, n in ledger.query(_STANDING))
        publish(ledger, home.snapshot_path, now=utc_now())
        denied = [s for (s,) in ledger.query("SELECT content_sha256 FROM standing_content WHERE denied")]
    store = PixelStore(home.pixels_path)
    deleted = sum(store.delete(sha) for sha in denied)
    return DecideSummary(decide_id, judged, changed, ruleset.digest, standing, deleted)


def judge_pairs(ledger: Ledger, ruleset: Ruleset, home: Home, progress: Progress = silent) -> tuple[int, int, str]:
    """Judge all pairs that have evidence. Returns (pairs changed, pairs judged, decide id)."""
    rows, tombstones = ledger.query(_NEWEST_EVIDENCE), home.tombstones(ledger)
    standing = _by_pair(ledger.query(_NEWEST_DECISIONS))
    head, _ = ledger.head()
    decide_id = unit_id("decide", ruleset.digest, str(len(ledger.query("SELECT decide_id FROM confirmation"))))
    bodies = {s: bytes(b) for s, b in ledger.query("SELECT body_sha256, body FROM document WHERE body IS NOT NULL")}
    ledger.append(
        "ruleset",
        [{"digest": ruleset.digest, "body": ruleset.text_body, "first_used_at": _now()}],
        key=f"ruleset/{ruleset.digest}",
    )
    for start in range(0, len(rows), CHUNK):
        decisions: list[dict[str, object]] = []
        signals: list[dict[str, object]] = []
        for pair, evidence_id, body in rows[start : start + CHUNK]:
            evidence, stood = _under(Evidence.from_json(body, bodies), tombstones), standing.get(pair, {})
            judged = (*ruleset.decide(evidence, utc_now()), *_dropped(stood, ruleset))
            new = [
                (j, row)
                for j, row in _rows(pair, evidence_id, ruleset, judged, decide_id)
                if _differs(row, stood.get(j.mechanism))
            ]
            decisions += (row for _, row in new)
            signals += (s for j, _ in new for s in _signal_rows(pair, evidence_id, j, decide_id))
        chunk = f"decide/{decide_id}/{head}/{start}"
        ledger.append_many([(t, r, f"{chunk}/{t}") for t, r in (("decision", decisions), ("signal", signals)) if r])
        progress(min(start + CHUNK, len(rows)), len(rows), "decide: ")
    # Counted from the ledger, not while judging: a run that was killed and run again says the same.
    ((changed,),) = ledger.query("SELECT count(DISTINCT pair_key) FROM decision WHERE decide_id = ?", [decide_id])
    confirmation = {
        "decide_id": decide_id,
        "ruleset_digest": ruleset.digest,
        "judged": len(rows),
        "unchanged": len(rows) - changed,
        "changed": changed,
        "decided_at": _now(),
    }
    ledger.append("confirmation", [confirmation], key=f"decide/{decide_id}/{head}/confirmation")
    return changed, len(rows), decide_id


def _under(evidence: Evidence, tombstones: Tombstones) -> Evidence:
    """The evidence with what the tombstones say now, whatever they said when it was gathered."""
    removal = (
        tombstones.covers_url(evidence.image_url)
        or (evidence.page_url and tombstones.covers_url(evidence.page_url))
        or (evidence.content_sha256 and tombstones.covers_content(evidence.content_sha256))
    )
    return replace(evidence, tombstoned=removal or "")


def _dropped(stood: Mapping[str, Mapping[str, object]], ruleset: Ruleset) -> Iterator[Judgement]:
    """An end to what stands of mechanisms that the ruleset names no more; a removal's hold is none of those."""
    for rule in stood.keys() & KNOWN - set(ruleset.mechanisms):
        yield judgement(rule, None, "not-asked")


def _rows(
    pair: str, evidence_id: str, ruleset: Ruleset, judged: Iterable[Judgement], decide_id: str
) -> Iterator[tuple[Judgement, dict[str, object]]]:
    for said in judged:
        yield (
            said,
            {
                "pair_key": pair,
                "evidence_id": evidence_id,
                "rule": said.mechanism,
                "rule_version": ruleset.rule_version(said.mechanism),
                "verdict": said.verdict.value if said.verdict else "unset",
                "reason_code": said.reason.code,
                "reason_detail": said.reason.detail,
                "where_found": said.where,
                "ruleset_digest": ruleset.digest,
                "decide_id": decide_id,
                "decided_at": _now(),
            },
        )


def _signal_rows(pair: str, evidence_id: str, said: Judgement, decide_id: str) -> Iterable[dict[str, object]]:
    for signal in said.signals:
        yield {
            "pair_key": pair,
            "evidence_id": evidence_id,
            "mechanism": signal.mechanism,
            "stance": signal.stance.value,
            "where_found": signal.where,
            "value": signal.value,
            "document_sha256": signal.document_sha256,
            "decide_id": decide_id,
        }


# Not the evidence id or the ruleset's digest: the same answer on newer evidence is confirmed, not repeated.
_COMPARED = ("rule_version", "verdict", "reason_code", "reason_detail", "where_found")


def _differs(row: Mapping[str, object], standing: Mapping[str, object] | None) -> bool:
    return standing is None or any(row[c] != standing[c] for c in _COMPARED)


def _by_pair(rows: Iterable[tuple[object, ...]]) -> dict[str, dict[str, dict[str, object]]]:
    standing: dict[str, dict[str, dict[str, object]]] = {}
    for pair, rule, *values in rows:
        standing.setdefault(str(pair), {})[str(rule)] = dict(zip(_COMPARED, values, strict=True))
    return standing


def _now() -> object:
    return utc_now().replace(tzinfo=None)
