"""A removal request as it stands: what it matches, which slots it empties, what is proposed, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flows.home import Home
from flows.stages.duplicates import nearby
from policy import removals
from policy.ledger import Ledger
from policy.removal_matches import Match
from policy.removals import RemovalRequest, State

_SLOTS_OF = """
SELECT DISTINCT dataset, ordinal FROM slot
WHERE content_sha256 IN (
    SELECT content_sha256 FROM removal_match WHERE removal = $removal AND content_sha256 IS NOT NULL
)
   OR sample_key IN (SELECT sample_key FROM removal_match WHERE removal = $removal AND sample_key IS NOT NULL)
   OR pair_key IN (SELECT pair_key FROM removal_match WHERE removal = $removal AND pair_key IS NOT NULL)
ORDER BY dataset, ordinal
"""
_SHOWING = """
SELECT content_sha256, count(DISTINCT pair_key) FROM evidence
WHERE pair_key IS NOT NULL AND content_sha256 IN (SELECT unnest(?::VARCHAR[])) GROUP BY content_sha256
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a sealed dataset."""

    dataset: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Other bytes that were verified to show what a request matches: for whoever decides to take in or leave out.

    `method`, `distance`: how they were found, and of the pixels, as in `policy.evidence.DuplicateOf`; of one that is
    like a third which stands for both, its own match to that one. `occurrences`: pairs that show it.
    """

    content_sha256: str
    method: str
    distance: float
    occurrences: int


@dataclass(frozen=True, slots=True)
class Removal:
    """The contract of `custody removal … --json`. `advice` says what to do next; `proposals`: until it is decided."""

    id: str
    kind: str
    regime: str
    state: str
    received_at: datetime
    due_at: datetime
    matches: tuple[Match, ...]
    slots: tuple[Slot, ...]
    advice: tuple[str, ...]
    proposals: tuple[Proposal, ...] = ()


def shown(ledger: Ledger, home: Home, removal: str) -> Removal:
    request = removals.find(ledger, removal)
    names = ("pair_key", "url_key", "content_sha256", "sample_key", "method", "score")
    rows = ledger.query(
        "SELECT pair_key, url_key, content_sha256, sample_key, method, score FROM removal_match WHERE removal = ? "
        "ORDER BY batch_seq, row_no",
        [removal],
    )
    emptied = [
        Slot(dataset, ordinal)
        for dataset, known in sorted(home.tombstones(ledger).slot_removals.items())
        for ordinal, by in sorted(known.items())
        if by == removal
    ]
    undecided = request.state in (State.RECEIVED, State.HELD)
    proposals = proposals_for(ledger, removal) if undecided else ()
    return Removal(
        removal,
        request.kind,
        request.regime,
        request.state.value,
        request.received_at,
        request.due_at,
        tuple(Match(**dict(zip(names, row, strict=True))) for row in rows),
        tuple(emptied or removal_slots(ledger, removal)),
        _advice(request, len(proposals)),
        proposals,
    )


def _advice(request: RemovalRequest, proposed: int) -> tuple[str, ...]:
    match request.state:
        case State.RECEIVED | State.HELD:
            held = f"held until decided: custody removal approve {request.removal} --by NAME"
            look = f"{proposed} near duplicates are not held: approve with --with-near, or --near SHA256, takes them in"
            return (held, look) if proposed else (held,)
        case State.APPROVED:
            return ("in force: nothing new may use it", f"next: custody removal apply {request.removal}")
        case State.APPLIED:
            return ("carried through: `custody trace` names the checkpoints that saw it",)
        case State.REJECTED:
            return ("the hold has ended",)


def proposals_for(ledger: Ledger, removal: str) -> tuple[Proposal, ...]:
    """What was verified to show the same as the request's matches, and is not among them."""
    matched = ledger.query(
        "SELECT DISTINCT content_sha256 FROM removal_match WHERE removal = ? AND content_sha256 IS NOT NULL", [removal]
    )
    found = nearby(ledger, [sha for (sha,) in matched])
    showing = dict(ledger.query(_SHOWING, [[sha for sha, *_ in found]])) if found else {}
    return tuple(Proposal(sha, method, distance, showing.get(sha, 0)) for sha, method, distance in found)


def removal_slots(ledger: Ledger, removal: str) -> list[Slot]:
    return [Slot(dataset, ordinal) for dataset, ordinal in ledger.query(_SLOTS_OF, {"removal": removal})]
