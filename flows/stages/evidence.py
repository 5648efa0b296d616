"""Evidence in the ledger: written with what it shares kept once, read back by pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

from policy.evidence import Evidence, PartMemory, Shared, document_digests, part_ids
from policy.ledger import Ledger

_NEWEST = """
SELECT pair_key, body_json FROM evidence WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
"""


def evidence_batches(
    ledger: Ledger, evidence: Iterable[tuple[str, Evidence]], unit: str, key: str
) -> list[tuple[str, list[dict[str, object]], str]]:
    """What `Ledger.append_many` takes to record the evidence of pairs: their rows, and the parts that are new."""
    rows: list[dict[str, object]] = []
    parts: dict[str, tuple[str, str]] = {}
    memory = PartMemory()
    for pair, observed in evidence:
        stored = observed.stored(memory)
        parts |= stored.parts
        rows.append(
            {
                "evidence_id": stored.evidence_id,
                "pair_key": pair,
                "content_sha256": observed.content_sha256,
                "body_json": stored.text,
                "observed_at": observed.observed_at.astimezone(UTC).replace(tzinfo=None),
                "observer": observed.observer,
                "unit_id": unit,
            }
        )
    known = {
        name
        for (name,) in ledger.query(
            "SELECT part_id FROM evidence_part WHERE part_id IN (SELECT unnest(?::VARCHAR[]))", [list(parts)]
        )
    }
    new: list[dict[str, object]] = [
        {"part_id": name, "kind": kind, "body_json": text}
        for name, (kind, text) in sorted(parts.items())
        if name not in known
    ]
    batches: list[tuple[str, list[dict[str, object]], str]] = [
        ("evidence_part", new, f"{key}/evidence_part"),
        ("evidence", rows, f"{key}/evidence"),
    ]
    return [batch for batch in batches if batch[1]]


def shared_texts(ledger: Ledger) -> tuple[dict[str, str], dict[str, bytes]]:
    """What all evidence on record shares: the parts by their ids, the bodies of documents by their digests."""
    return _parts(ledger), _bodies(ledger)


def newest_evidence(ledger: Ledger, pairs: Sequence[str], *, bodies: bool = False) -> dict[str, Evidence]:
    """The newest evidence of each pair; without `bodies` its documents are known by their digests only."""
    found = ledger.query(_NEWEST, [list(pairs)])
    named = {name for _, body in found for name in part_ids(body)}
    parts = dict(ledger.query(_NAMED_PARTS, [sorted(named)])) if named else {}
    texts = {}
    if bodies:
        digests = {sha for text in parts.values() for sha in document_digests(text)}
        texts = {sha: bytes(body) for sha, body in ledger.query(_NAMED_BODIES, [sorted(digests)])} if digests else {}
    shared = Shared(parts, texts)
    return {pair: Evidence.from_json(body, shared) for pair, body in found}


_NAMED_PARTS = "SELECT part_id, body_json FROM evidence_part WHERE part_id IN (SELECT unnest(?::VARCHAR[]))"
_NAMED_BODIES = (
    "SELECT body_sha256, body FROM document WHERE body IS NOT NULL AND body_sha256 IN (SELECT unnest(?::VARCHAR[]))"
)


def _parts(ledger: Ledger) -> dict[str, str]:
    return dict(ledger.query("SELECT part_id, body_json FROM evidence_part WHERE part_id IS NOT NULL"))


def _bodies(ledger: Ledger) -> dict[str, bytes]:
    """The bodies of the documents that judging reads: those of origins and declared ones, not the pages."""
    rows = ledger.query(
        "SELECT body_sha256, body FROM document WHERE body IS NOT NULL AND body_sha256 IN "
        "(SELECT body_sha256 FROM \"fetch\" WHERE kind NOT IN ('page', 'image'))"
    )
    return {sha: bytes(body) for sha, body in rows}
