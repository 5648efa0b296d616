"""Removal requests: what is asked, until when it must be answered, where it stands, and what was done for it.

A request is received, held (what it may concern is deferred), approved or rejected, and, approved, applied. What it
matches is policy/removal_matches.py's matter, what keeps it out policy/tombstones.py's.
"""

from __future__ import annotations

import calendar
import dataclasses
import enum
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Self

from policy.errors import InputError, KeyFileError, RefusedError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.provenance import canonical_json

NAMED_KINDS: Final = ("page_url", "image_url", "domain", "content", "sample_key")
CCPA_DAYS: Final = 45


class State(enum.Enum):
    """Where a request stands."""

    RECEIVED = "received"
    HELD = "held"
    APPROVED = "approved"
    REJECTED = "rejected"
    APPLIED = "applied"


_NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.RECEIVED: frozenset({State.HELD, State.APPROVED, State.REJECTED}),
    State.HELD: frozenset({State.APPROVED, State.REJECTED}),
    State.APPROVED: frozenset({State.APPLIED}),
    State.REJECTED: frozenset(),
    State.APPLIED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class RemovalRequest:
    """What somebody asks to be taken out, and until when it must be answered.

    `kind`: who asks and in which right (erasure | rights-holder | operator). `regime`: gdpr | ccpa.
    `named_value` is None once the request itself has been erased.
    """

    removal: str
    kind: str
    regime: str
    named_kind: str
    named_value: str | None
    received_at: datetime
    due_at: datetime
    state: State

    @classmethod
    def receive(
        cls,
        named_kind: str,
        named_value: str,
        *,
        now: datetime,
        kind: str = "erasure",
        regime: str = "gdpr",
        removal: str | None = None,
    ) -> Self:
        """A new request, with a random id and its deadline; URLs in canonical form. Raises `InputError`."""
        if named_kind not in NAMED_KINDS:
            raise InputError(f"cannot look for a {named_kind}", remedy=f"Name one of {', '.join(NAMED_KINDS)}")
        if not named_value:
            raise InputError("the request names nothing", where=named_kind)
        return cls(
            removal=removal or f"removal-{secrets.token_hex(6)}",
            kind=kind,
            regime=regime,
            named_kind=named_kind,
            named_value=named_value.lower() if named_kind in ("domain", "content", "sample_key") else named_value,
            received_at=now,
            due_at=due_at(now, regime),
            state=State.RECEIVED,
        )


def due_at(received_at: datetime, regime: str) -> datetime:
    """The last moment (UTC, to the second) for an answer.

    gdpr: one month (Art. 12(3)), counted as Regulation (EEC, Euratom) 1182/71 Art. 3 has it: the day of receipt does
    not count; the month ends with the last hour of the day of the same number, or of the month's last day where there
    is none (31 January -> 28 or 29 February); a Saturday or Sunday moves to Monday (Art. 3(4)). Public holidays
    differ by state and are not known here: they do not move it, which errs on the early side. Days are UTC days.
    ccpa: 45 calendar days (Cal. Civ. Code 1798.130(a)(2)), to the end of the last.
    """
    day = received_at.astimezone(UTC).date()
    match regime:
        case "gdpr":
            year, month = (day.year, day.month + 1) if day.month < 12 else (day.year + 1, 1)
            last = day.replace(year=year, month=month, day=min(day.day, calendar.monthrange(year, month)[1]))
            while last.weekday() >= calendar.SATURDAY:
                last += timedelta(days=1)
        case "ccpa":
            last = day + timedelta(days=CCPA_DAYS)
        case _:
            raise InputError(f"unknown regime {regime!r}", remedy="Name gdpr or ccpa")
    return datetime.combine(last, time(23, 59, 59), UTC)


def record(
    ledger: Ledger,
    request: RemovalRequest,
    *,
    by_whom: str = "",
    requester: str | None = None,
    keys: KeyRing | None = None,
) -> bool:
    """Write a new request down, with its first state; False when it is there already.

    `requester`: who asks, kept apart and encrypted, for which `keys` are needed (`KeyFileError`).
    """
    removal, key = request.removal, f"received:{request.removal}"
    row = {field.name: getattr(request, field.name) for field in dataclasses.fields(request) if field.name != "state"}
    batches: list[tuple[str, Sequence[Mapping[str, object]], str]] = [
        ("removal", [row], key),
        ("removal_event", [_event(removal, State.RECEIVED, by_whom, "", request.received_at)], key),
    ]
    if requester is not None:
        if keys is None:
            raise KeyFileError("a requester is kept encrypted only", remedy="Open the home with its keys")
        identity = keys.encrypt(requester.encode(), associated=removal.encode())
        batches.append(
            ("requester", [{"removal": removal, "identity": identity, "key_id": keys.key_id("encryption")}], key)
        )
    return ledger.append_many(batches)[0]


def requester_of(ledger: Ledger, removal: str, keys: KeyRing) -> str | None:
    """Who asked, decrypted; None when that was not recorded or is erased."""
    rows = ledger.query("SELECT identity FROM requester WHERE removal = ? AND identity IS NOT NULL", [removal])
    return keys.decrypt(rows[-1][0], associated=removal.encode()).decode() if rows else None


def advance(
    ledger: Ledger, removal: str, state: State, *, now: datetime, by_whom: str = "", reason: str = ""
) -> RemovalRequest:
    """Take a request to its next state; being there already changes nothing.

    Raises `RefusedError` where no step leads there, `InputError` for an unknown request.
    """
    request = find(ledger, removal)
    if request.state is state:
        return request
    if state not in _NEXT[request.state]:
        raise RefusedError(f"a request that is {request.state.value} cannot become {state.value}", where=removal)
    ledger.append("removal_event", [_event(removal, state, by_whom, reason, now)], key=f"{state.value}:{removal}")
    return dataclasses.replace(request, state=state)


def find(ledger: Ledger, removal: str) -> RemovalRequest:
    """One request as it stands; raises `InputError` when there is none of that id."""
    found = _requests(ledger, "WHERE removal.removal = ?", [removal])
    if not found:
        raise InputError("there is no such removal request", where=removal)
    return found[0]


def requests(ledger: Ledger) -> tuple[RemovalRequest, ...]:
    """All requests as they stand, the oldest first."""
    return _requests(ledger, "", [])


def _requests(ledger: Ledger, condition: str, params: list[object]) -> tuple[RemovalRequest, ...]:
    rows = ledger.query(
        f"""
        SELECT removal.removal, kind, regime, named_kind, named_value, received_at, due_at, stands.state
        FROM removal JOIN (
            SELECT removal, state FROM removal_event
            QUALIFY row_number() OVER (PARTITION BY removal ORDER BY batch_seq DESC, row_no DESC) = 1
        ) AS stands ON stands.removal = removal.removal {condition}
        ORDER BY received_at, removal.removal
        """,  # noqa: S608 - both conditions are written above
        params,
    )
    return tuple(
        RemovalRequest(
            *(removal, kind, regime, named_kind, named_value),
            received_at=received_at.replace(tzinfo=UTC),
            due_at=due.replace(tzinfo=UTC),
            state=State(state),
        )
        for removal, kind, regime, named_kind, named_value, received_at, due, state in rows
    )


def _event(removal: str, state: State, by_whom: str, reason: str, now: datetime) -> dict[str, object]:
    return {
        "removal": removal,
        "state": state.value,
        "by_whom": by_whom or None,
        "reason": reason or None,
        "happened_at": now,
    }


# ── what was done ──────────────────────────────────────────────────────────────────────────────────────────────────


def record_step(
    ledger: Ledger,
    removal: str,
    part: str,
    action: str,
    subject: str,
    *,
    now: datetime,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> bool:
    """Write down what was done for a removal: the receipt is built from these rows. False: it stands there already.

    `part`: tombstones, bytes, ledger, models, scan, … `action`: a code. `subject`: what it was done to (a dataset's
    name, a checkpoint, a table). `before`, `after`: how that stood, as JSON objects. All of it without personal data:
    it is never erased. The same step with the same outcome is written once, however often the command is run again.
    """
    row = {
        "removal": removal,
        "part": part,
        "action": action,
        "subject": subject,
        "before_json": None if before is None else canonical_json(before),
        "after_json": None if after is None else canonical_json(after),
    }
    digest = hashlib.sha256(canonical_json(row).encode()).hexdigest()
    return ledger.append("removal_step", [{**row, "done_at": now}], key=f"step:{removal}:{digest[:16]}")


@dataclass(frozen=True, slots=True)
class Done:
    """What was done for a removal, as `record_step` takes it: for many at once."""

    removal: str
    part: str
    action: str
    subject: str
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


def record_steps(ledger: Ledger, done: Sequence[Done], *, now: datetime) -> int:
    """Write down many steps, of many removals, in one batch; those that stand there already are left out.

    How many were new. What `record_step` says of each holds for all.
    """
    rows = {}
    for each in done:
        row = {
            **{"removal": each.removal, "part": each.part, "action": each.action, "subject": each.subject},
            "before_json": None if each.before is None else canonical_json(each.before),
            "after_json": None if each.after is None else canonical_json(each.after),
        }
        rows[tuple(row.values())] = row
    known = ledger.query(
        "SELECT removal, part, action, subject, before_json, after_json FROM removal_step "
        "WHERE list_contains($removals::VARCHAR[], removal)",
        {"removals": sorted({each.removal for each in done})},
    )
    there = set(known)
    new = [row for key, row in rows.items() if key not in there]
    if not new:
        return 0
    digest = hashlib.sha256(canonical_json(new).encode()).hexdigest()
    ledger.append("removal_step", [{**row, "done_at": now} for row in new], key=f"steps:{digest[:32]}")
    return len(new)


@dataclass(frozen=True, slots=True)
class Step:
    """A row of `removal_step`; `before`, `after` as JSON texts."""

    part: str
    action: str
    subject: str
    before: str | None
    after: str | None
    done_at: datetime


def steps(ledger: Ledger, removal: str) -> tuple[Step, ...]:
    """What was done for a removal, in its order."""
    rows = ledger.query(
        "SELECT part, action, subject, before_json, after_json, done_at FROM removal_step WHERE removal = ? "
        "ORDER BY batch_seq, row_no",
        [removal],
    )
    return tuple(
        Step(part, action, subject, before, after, done_at.replace(tzinfo=UTC))
        for part, action, subject, before, after, done_at in rows
    )
