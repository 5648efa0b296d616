"""A removal request as it stands: what it matches, which slots it empties, what is proposed, what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.home import Home, utc_now
from flows.stages.duplicates import nearby
from flows.stages.removing.guarding import PROOF, SECOND, guard_of, needs
from policy import removals
from policy.ledger import Ledger
from policy.names import named_token
from policy.removal_matches import LIKELY, PROPOSED, TAKEN, Match, matches_of, matches_of_all
from policy.removals import RemovalRequest, State

_SLOTS_OF = """
WITH taken AS (SELECT * FROM removal_taken WHERE list_contains($removals::VARCHAR[], removal))
SELECT removal, dataset, ordinal FROM slot JOIN taken USING (content_sha256)
UNION SELECT removal, dataset, ordinal FROM slot JOIN taken USING (sample_key)
UNION SELECT removal, dataset, ordinal FROM slot JOIN taken USING (pair_key)
ORDER BY ALL
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
    """The contract of `custody removal … --json`. `advice` says what to do next; `proposals`: until it is decided.

    `scan`: once it is applied, what looking for leftovers came to: clean, hits, incomplete, values-gone or not-asked.
    `receipt`: the newest one, relative to the home. `days_left` of an open request, negative when it is overdue (it is
    due until the end of its last day). `needs`: what it waits for, `proof`, `second-approver`. `first_approver`: whose
    yes waits for another's. `escalated`: it was not answered in time, and that is on record. `requester`: whether it is
    known who asked.
    """

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
    scan: str = ""
    receipt: str = ""
    named_kind: str = ""
    days_left: int | None = None
    needs: tuple[str, ...] = ()
    first_approver: str = ""
    escalated: bool = False
    requester: bool = False


def all_shown(ledger: Ledger, home: Home, names: Sequence[str]) -> tuple[Removal, ...]:
    """Requests that were decided, as `shown` tells each, with few questions for all of them."""
    asked, known = {"removals": list(names)}, {r.removal: r for r in removals.requests(ledger)}
    matches = matches_of_all(ledger, names)
    slots: dict[str, list[Slot]] = {}
    for dataset, emptied in sorted(home.tombstones(ledger).slot_removals.items()):
        for ordinal, by in sorted(emptied.items()):
            slots.setdefault(by, []).append(Slot(dataset, ordinal))
    scans, receipts = dict(scan_outcomes(ledger, names)), dict(ledger.query(_RECEIPTS, asked))
    return tuple(
        Removal(
            *(name, (r := known[name]).kind, r.regime, r.state.value, r.received_at, r.due_at),
            tuple(matches.get(name, ())),
            tuple(slots.get(name, ())),
            _advice(r, 0),
            scan=scans.get(name, "not-asked" if r.state is State.APPLIED else ""),
            receipt=receipts.get(name, ""),
        )
        for name in names
    )


def listed(ledger: Ledger, home: Home) -> tuple[Removal, ...]:
    """All requests as `shown` tells each, with few questions for all of them: without proposals, and with those slots
    alone that are emptied.
    """
    requests, now = removals.requests(ledger), utc_now()
    names = [request.removal for request in requests]
    matches, known, late = matches_of_all(ledger, names), removals.identities(ledger), removals.escalated(ledger)
    scans, receipts = dict(scan_outcomes(ledger, names)), dict(ledger.query(_RECEIPTS, {"removals": names}))
    slots: dict[str, list[Slot]] = {}
    for dataset, emptied in sorted(home.tombstones(ledger).slot_removals.items()):
        for ordinal, by in sorted(emptied.items()):
            slots.setdefault(by, []).append(Slot(dataset, ordinal))
    told = []
    for one in requests:
        found = matches.get(one.removal, ())
        waits = needs(one, guard_of(ledger, home, one, found)) if one.state.is_undecided else ()
        approved = one.state is State.AWAITING_SECOND and removals.events(ledger, one.removal, State.AWAITING_SECOND)
        told.append(
            Removal(
                *(one.removal, one.kind, one.regime, one.state.value, one.received_at, one.due_at),
                found,
                tuple(slots.get(one.removal, ())),
                _advice(one, 0, found, waits),
                scan=scans.get(one.removal, ""),
                receipt=receipts.get(one.removal, ""),
                named_kind=one.named_kind,
                days_left=days_left(one, now),
                needs=waits,
                first_approver=(approved[-1][0] or "") if approved else "",
                escalated=one.removal in late,
                requester=one.removal in known,
            )
        )
    return tuple(told)


_RECEIPTS = """
SELECT removal, path FROM receipt WHERE list_contains($removals::VARCHAR[], removal)
QUALIFY row_number() OVER (PARTITION BY removal ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_SCANS = """
SELECT removal, action, after_json FROM removal_step
WHERE part = 'scan' AND action IN ('needles', 'tokens') AND list_contains($removals::VARCHAR[], removal)
QUALIFY row_number() OVER (PARTITION BY removal ORDER BY batch_seq DESC, row_no DESC) = 1
"""


def scan_outcomes(ledger: Ledger, names: Sequence[str]) -> list[tuple[str, str]]:
    """(removal, what its newest scan came to) of those that were scanned for."""
    return [
        (name, scan_outcome(action, json.loads(after)))
        for name, action, after in ledger.query(_SCANS, {"removals": list(names)})
    ]


def scan_outcome(action: str, said: Mapping[str, Any]) -> str:
    """What a scan came to, by its step: clean, hits, incomplete, or values-gone where none was possible any more.

    What was found by its values is not gone because nobody knows these any more: after hits that stays the answer.
    """
    if action == "tokens":
        return "hits" if any(said["left"].values()) or said.get("before") == "hits" else "values-gone"
    if said["hits"]:
        return "hits"
    return "incomplete" if said["unread"] else "clean"


def shown(ledger: Ledger, home: Home, removal: str) -> Removal:
    request, matches = removals.find(ledger, removal), matches_of(ledger, removal)
    guard = guard_of(ledger, home, request, matches)
    emptied = [
        Slot(dataset, ordinal)
        for dataset, known in sorted(home.tombstones(ledger).slot_removals.items())
        for ordinal, by in sorted(known.items())
        if by == removal
    ]
    proposals = proposals_for(ledger, removal) if request.state.is_undecided else ()
    approvals = removals.events(ledger, removal, State.AWAITING_SECOND)
    waits = needs(request, guard)
    return Removal(
        removal,
        request.kind,
        request.regime,
        request.state.value,
        request.received_at,
        request.due_at,
        matches,
        tuple(emptied or removal_slots(ledger, removal)),
        (*_advice(request, len(proposals), matches, waits), *_untold(ledger, request), *_before(ledger, home, request)),
        proposals,
        dict(scan_outcomes(ledger, [removal])).get(removal, ""),
        dict(ledger.query(_RECEIPTS, {"removals": [removal]})).get(removal, ""),
        request.named_kind,
        days_left(request, utc_now()),
        waits,
        approvals[-1][0] or "" if approvals and request.state is State.AWAITING_SECOND else "",
        removal in removals.escalated(ledger),
        removal in removals.identities(ledger),
    )


def days_left(request: RemovalRequest, now: datetime) -> int | None:
    """Whole days until the last day is over, 0 on that day; None: nobody waits any more."""
    return (request.due_at.date() - now.astimezone(UTC).date()).days if request.state.is_open else None


def _advice(
    request: RemovalRequest, proposed: int, matches: Sequence[Match] = (), waits: Sequence[str] = ()
) -> tuple[str, ...]:
    name = request.removal
    match request.state:
        case State.RECEIVED | State.HELD | State.AWAITING_SECOND:
            told = list(_undecided(request, waits))
            if not matches and request.named_value is not None:
                told.append("nothing here matches it yet: is it written as where it hangs? What comes later is matched")
            if proposed:
                look = "near duplicates are not held: approve with --with-near, or --near SHA256, takes them in"
                told.append(f"{proposed} {look}")
            if unsure := len({one.group for one in matches if one.state in (LIKELY, PROPOSED)}):
                told.append(f"{unsure} more that may be meant, none of them taken unless accepted: {_REVIEW} {name}")
            return tuple(told)
        case State.APPROVED:
            return ("in force: nothing new may use it", f"next: custody removal apply {name}")
        case State.APPLIED:
            return (f"carried through; models that saw it: custody removal models {name}",)
        case State.REJECTED:
            return ("the hold has ended",)
        case State.RESERVED:
            return ("in force: no new use; taken back by whoever objected: custody removal lift",)
        case State.LIFTED:
            return ("the objection was taken back",)
        case State.CREDITED:
            return ("the credit line was set right; nothing was taken out",)
        case State.ANSWERED:
            return ("answered",)


# What a search for a person could not tell of, by the names that its counts have.
PERSON_UNTOLD = {
    "without_pixels": "pictures with a face have no pixels left",
    "too_small": "faces are too small to tell",
    "failed": "pictures could not be looked at",
}
_SEARCHED = "SELECT after_json FROM removal_step WHERE removal = ? AND part = 'search' AND action = 'person'"


def _untold(ledger: Ledger, request: RemovalRequest) -> tuple[str, ...]:
    """Of a photo of a person: whom nobody could tell of, which is no "not found"."""
    if request.named_kind != "person" or not request.state.is_undecided:
        return ()
    searches = [json.loads(said) for (said,) in ledger.query(_SEARCHED, [request.removal])]
    counts = {name: sum(search[name] for search in searches) for name in PERSON_UNTOLD}
    found = [f"{count} {PERSON_UNTOLD[name]}" for name, count in counts.items() if count]
    return (f"the search could not tell of all: {', '.join(found)}",) if found else ()


def _before(ledger: Ledger, home: Home, request: RemovalRequest) -> tuple[str, ...]:
    """Of an undecided request: who asked the same before, and what became of it; by its token where no more is left."""
    if not request.state.is_undecided or request.named_value is None:
        return ()
    own, forgotten = named_token(home.keys, request.named_kind, request.named_value), removals.tokens_of_named(ledger)
    same = []
    for one in removals.requests(ledger):
        value, token = one.named_value, forgotten.get(one.removal)
        if one.removal == request.removal or one.state.is_undecided or (value is None and token is None):
            continue
        if own == (token if value is None else named_token(home.keys, one.named_kind, value)):
            same.append(f"{one.removal} ({one.state.value})")
    return (f"the same was asked before: {', '.join(same)}",) if same else ()


_REVIEW = "custody removal review"


def _undecided(request: RemovalRequest, waits: Sequence[str]) -> Iterator[str]:
    name = request.removal
    held = "held until decided" if request.state in (State.HELD, State.AWAITING_SECOND) else "not held"
    if request.kind == "access":
        yield f"next: custody removal answer {name} --by NAME"
    elif PROOF in waits:
        yield f"{held}; whoever asks must prove that it is theirs: custody removal prove {name}"
    elif request.state is State.AWAITING_SECOND:
        yield f"{held}; a second person must approve: custody removal approve {name} --by NAME"
    else:
        credit = " --credit-line TEXT" if request.kind == "attribution" else ""
        yield f"{held}: custody removal approve {name} --by NAME{credit}"
        if SECOND in waits:
            yield "it takes two people's approval"


def proposals_for(ledger: Ledger, removal: str) -> tuple[Proposal, ...]:
    """What was verified to show the same as the request's matches, and is not among them."""
    matches = matches_of(ledger, removal)
    known = {one.content_sha256 for one in matches}
    taken = sorted({one.content_sha256 for one in matches if one.content_sha256 and one.state in TAKEN})
    found = [near for near in nearby(ledger, taken) if near[0] not in known]
    showing = dict(ledger.query(_SHOWING, [[sha for sha, *_ in found]])) if found else {}
    return tuple(Proposal(sha, method, distance, showing.get(sha, 0)) for sha, method, distance in found)


def removal_slots(ledger: Ledger, removal: str) -> list[Slot]:
    """The slots that hold what a removal takes."""
    return slots_of_removals(ledger, [removal]).get(removal, [])


def slots_of_removals(ledger: Ledger, names: Sequence[str]) -> dict[str, list[Slot]]:
    """The same of many removals, in one pass; one that takes nothing of a dataset is not among them."""
    slots: dict[str, list[Slot]] = {}
    for removal, dataset, ordinal in ledger.query(_SLOTS_OF, {"removals": list(names)}):
        slots.setdefault(removal, []).append(Slot(dataset, ordinal))
    return slots
