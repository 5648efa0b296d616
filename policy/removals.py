"""Removal requests: what is asked, until when it must be answered, where it stands, and what was done for it.

A request is received, held (what it may concern is deferred), approved or rejected, and, approved, applied. Where four
eyes are needed it waits for the second pair between. An objection ends as a reservation, a correction of a credit line
and an access request without anything being taken out. What a request matches is policy/removal_matches.py's matter,
what keeps it out policy/tombstones.py's.

Who asked is kept apart, encrypted, and can be forgotten at any time (`forget_requester`): an erasure of its own. So is
what a request named that was rejected, or otherwise came to nothing (`forget_named`); of that a token stays.
"""

from __future__ import annotations

import calendar
import dataclasses
import enum
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Self

from policy.errors import InputError, KeyFileError, RefusedError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.personal import FORGETTING, SPENT
from policy.provenance import canonical_json

NAMED_KINDS: Final = (
    *("page_url", "image_url", "domain", "content", "sample_key"),
    "picture",  # the digest of a picture file: what equals it, and what was verified to show the same
    "person",  # a photo, of which nothing is kept: there is no value
    *("creator", "licensor", "text"),
)
KINDS: Final = ("erasure", "objection", "access", "attribution")
REGIMES: Final = ("gdpr", "ccpa", "own")
CCPA_DAYS: Final = 45
_LOWERED: Final = frozenset({"domain", "content", "sample_key", "picture"})


class State(enum.Enum):
    """Where a request stands."""

    RECEIVED = "received"
    HELD = "held"  # what it matches is deferred
    AWAITING_SECOND = "awaiting-second"  # one has approved, another must
    APPROVED = "approved"
    REJECTED = "rejected"
    APPLIED = "applied"
    RESERVED = "reserved"  # an objection that was granted: no new use, nothing erased
    LIFTED = "lifted"  # and taken back by who objected
    CREDITED = "credited"  # the credit line was set right
    ANSWERED = "answered"  # an access request that was answered

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for what was asked."""
        return self in _OPEN

    @property
    def is_spent(self) -> bool:
        """Whether what was named serves nobody any more: rejected, taken back, credited or answered."""
        return self in _SPENT

    @property
    def is_undecided(self) -> bool:
        """Whether nobody has said yes or no for good."""
        return self in _UNDECIDED


_UNDECIDED: Final = frozenset({State.RECEIVED, State.HELD, State.AWAITING_SECOND})
# Closed, and nothing rests on what was named: of an erasure that was carried through it is gone anyway.
_SPENT: Final = frozenset(map(State, SPENT))
_OPEN: Final = _UNDECIDED | {State.APPROVED}
_GRANTED: Final = frozenset({State.APPROVED, State.RESERVED, State.CREDITED, State.ANSWERED})
_NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.RECEIVED: frozenset({State.HELD, State.AWAITING_SECOND, State.REJECTED}) | _GRANTED,
    State.HELD: frozenset({State.AWAITING_SECOND, State.REJECTED}) | _GRANTED,
    # Back where it was: a review after the first approval changes what was approved.
    State.AWAITING_SECOND: frozenset({State.RECEIVED, State.HELD, State.REJECTED}) | _GRANTED,
    State.APPROVED: frozenset({State.APPLIED}),
    State.REJECTED: frozenset(),
    State.APPLIED: frozenset(),
    State.RESERVED: frozenset({State.LIFTED}),
    State.LIFTED: frozenset(),
    State.CREDITED: frozenset(),
    State.ANSWERED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class RemovalRequest:
    """What somebody asks to be taken out, and until when it must be answered.

    `kind`: erasure | objection (no new use) | access (what is held) | attribution (the credit line is wrong).
    `regime`: gdpr | ccpa | own. `due_at`: with an extension, where there is one. `named_value` is None once the request
    itself has been erased, and of a person, of whose photo nothing is kept.
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
        named_value: str | None,
        *,
        now: datetime,
        kind: str = "erasure",
        regime: str = "gdpr",
        removal: str | None = None,
        due_on: date | None = None,
        own_days: int | None = None,
    ) -> Self:
        """A new request, with a random id and its deadline; URLs in canonical form.

        `due_on`, `own_days`: the deadline of the regime `own`, as a day or as days from receipt. Raises `InputError`.
        """
        if named_kind not in NAMED_KINDS:
            raise InputError(f"cannot look for a {named_kind}", remedy=f"Name one of {', '.join(NAMED_KINDS)}")
        if kind not in KINDS:
            raise InputError(f"unknown kind {kind!r}", remedy=f"Name one of {', '.join(KINDS)}")
        if (named_kind == "person") is not (named_value is None) or (
            named_value is not None and not named_value.strip()
        ):
            raise InputError("the request names nothing", where=named_kind)
        return cls(
            removal=removal or f"removal-{secrets.token_hex(6)}",
            kind=kind,
            regime=regime,
            named_kind=named_kind,
            named_value=named_value.lower() if named_value and named_kind in _LOWERED else named_value,
            received_at=now,
            due_at=due_at(now, regime, due_on=due_on, own_days=own_days),
            state=State.RECEIVED,
        )


def due_at(
    received_at: datetime,
    regime: str,
    *,
    due_on: date | None = None,
    own_days: int | None = None,
    extended: bool = False,
) -> datetime:
    """The last moment (UTC, to the second) for an answer; `extended`: after an extension by what the law allows.

    gdpr: one month (Art. 12(3)), counted as Regulation (EEC, Euratom) 1182/71 Art. 3 has it: the day of receipt does
    not count; the month ends with the last hour of the day of the same number, or of the month's last day where there
    is none (31 January -> 28 or 29 February); a Saturday or Sunday moves to Monday (Art. 3(4)). Public holidays
    differ by state and are not known here: they do not move it, which errs on the early side. Days are UTC days.
    Extended (Art. 12(3), second sentence): by two further months, so three from receipt.
    ccpa: 45 calendar days (Cal. Civ. Code 1798.130(a)(2)), to the end of the last; extended once by 45 more.
    own: the day `due_on`, or `own_days` after receipt; it is set by nobody's law and not extended.
    Raises `InputError`.
    """
    day = received_at.astimezone(UTC).date()
    if regime != "own" and due_on is not None:
        raise InputError(
            f"the law sets the deadline of {regime}", where="due", remedy="A date goes with the regime own"
        )
    match regime:
        case "gdpr":
            last = _months_on(day, 3 if extended else 1)
            while last.weekday() >= calendar.SATURDAY:
                last += timedelta(days=1)
        case "ccpa":
            last = day + timedelta(days=2 * CCPA_DAYS if extended else CCPA_DAYS)
        case "own" if extended:
            raise InputError("a deadline of one's own is not extended", where="regime own")
        case "own":
            if due_on is None and own_days is None:
                raise InputError("the regime own needs a date", where="due", remedy="Write it as 2026-12-31")
            last = due_on if due_on is not None else day + timedelta(days=own_days or 0)
            if last < day:
                raise InputError(f"due on {last}, before it was received on {day}", where="due")
        case _:
            raise InputError(f"unknown regime {regime!r}", remedy=f"Name one of {', '.join(REGIMES)}")
    return datetime.combine(last, time(23, 59, 59), UTC)


def _months_on(day: date, months: int) -> date:
    """The day of the same number so many months later, or that month's last."""
    year, month = divmod(day.month - 1 + months, 12)
    last = calendar.monthrange(day.year + year, month + 1)[1]
    return day.replace(year=day.year + year, month=month + 1, day=min(day.day, last))


def same_name(one: str, other: str) -> bool:
    """Whether two names are one person's as far as anybody can tell: case, width, spaces and what nobody sees aside."""
    return folded(one) == folded(other)


def folded(text: str) -> str:
    """A text as it is compared: Unicode NFKC, without case, without what nobody sees, its white space single."""
    plain = unicodedata.normalize("NFKC", text)
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf" and not _UNSEEN.match(c))
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


# Beside format characters: those of Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt) that are none,
# such as variation selectors and fillers; the blank of Braille; controls that are no white space.
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)


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
    return record_many(ledger, [(request, requester)], key=f"received:{request.removal}", by_whom=by_whom, keys=keys)


def record_many(
    ledger: Ledger,
    filed: Sequence[tuple[RemovalRequest, str | None]],
    *,
    key: str,
    by_whom: str = "",
    keys: KeyRing | None = None,
) -> bool:
    """Write (request, who asks) pairs down in one transaction, all or none; False when `key` is there already."""
    names = [field.name for field in dataclasses.fields(RemovalRequest) if field.name != "state"]
    batches: list[tuple[str, Sequence[Mapping[str, object]], str]] = [
        ("removal", [{name: getattr(request, name) for name in names} for request, _ in filed], key),
        ("removal_event", [_event(r.removal, State.RECEIVED, by_whom, "", r.received_at) for r, _ in filed], key),
    ]
    if any(requester is not None for _, requester in filed):
        if keys is None:
            raise KeyFileError("a requester is kept encrypted only", remedy="Open the home with its keys")
        identities: list[dict[str, object]] = [
            {
                "removal": request.removal,
                "identity": keys.encrypt(requester.encode(), associated=request.removal.encode()),
                "key_id": keys.key_id("encryption"),
            }
            for request, requester in filed
            if requester is not None
        ]
        batches.append(("requester", identities, key))
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
    # A state that it was in before is another event, not the same one written again.
    [(before,)] = ledger.query(
        "SELECT count(*) FROM removal_event WHERE removal = ? AND state = ?", [removal, state.value]
    )
    key = f"{state.value}:{removal}" + (f":{before}" if before else "")
    at = _not_before(ledger, [removal], now)[removal]
    ledger.append("removal_event", [_event(removal, state, by_whom, reason, at)], key=key)
    return dataclasses.replace(request, state=state)


def advance_many(
    ledger: Ledger, names: Sequence[str], state: State, *, now: datetime, by_whom: str = "", reason: str = ""
) -> int:
    """Take many requests to their next state in one batch; how many were not there yet. Raises as `advance` does."""
    known = {request.removal: request.state for request in requests(ledger)} if names else {}
    moving = [name for name in names if known.get(name) is not state]
    for name in moving:
        if name not in known or state not in _NEXT[known[name]]:
            advance(ledger, name, state, now=now)  # which refuses, and says why
    if moving:
        digest = hashlib.sha256(canonical_json([*moving, now.isoformat()]).encode()).hexdigest()
        at = _not_before(ledger, moving, now)
        rows = [_event(name, state, by_whom, reason, at[name]) for name in moving]
        ledger.append("removal_event", rows, key=f"{state.value}:{digest[:32]}")
    return len(moving)


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
        SELECT removal.removal, kind, regime, named_kind, named_value, received_at, due_at, stands.state, extended.due
        FROM removal JOIN (
            SELECT removal, state FROM removal_event WHERE state IN ({_STATES})
            QUALIFY row_number() OVER (PARTITION BY removal ORDER BY batch_seq DESC, row_no DESC) = 1
        ) AS stands ON stands.removal = removal.removal
        LEFT JOIN (
            SELECT removal, any_value(json_extract_string(after_json, '$.due_at')) AS due
            FROM removal_step WHERE part = '{DEADLINE}' AND action = '{EXTENDED}' GROUP BY removal
        ) AS extended ON extended.removal = removal.removal {condition}
        ORDER BY received_at, removal.removal
        """,  # noqa: S608 - both conditions are written above
        params,
    )
    return tuple(
        RemovalRequest(
            *(removal, kind, regime, named_kind, named_value),
            received_at=received_at.replace(tzinfo=UTC),
            due_at=due.replace(tzinfo=UTC) if later is None else datetime.fromisoformat(later),
            state=State(state),
        )
        for removal, kind, regime, named_kind, named_value, received_at, due, state, later in rows
    )


def events(ledger: Ledger, removal: str, state: State) -> tuple[tuple[str | None, str | None, datetime], ...]:
    """(by whom, why, when) of each time that a request came to a state, the oldest first."""
    rows = ledger.query(
        "SELECT by_whom, reason, happened_at FROM removal_event WHERE removal = ? AND state = ? "
        "ORDER BY batch_seq, row_no",
        [removal, state.value],
    )
    return tuple((by, reason, at.replace(tzinfo=UTC)) for by, reason, at in rows)


def _not_before(ledger: Ledger, names: Sequence[str], now: datetime) -> dict[str, datetime]:
    """When what happens now happens to each of these: not before what came before it, though a clock was set back."""
    rows = ledger.query(
        "SELECT removal, max(happened_at) FROM removal_event "
        "WHERE list_contains($removals::VARCHAR[], removal) GROUP BY removal",
        {"removals": list(names)},
    )
    last = {removal: at.replace(tzinfo=UTC) for removal, at in rows if at is not None}
    return {name: max(now, last.get(name, now)) for name in names}


def _event(removal: str, state: State | str, by_whom: str, reason: str, now: datetime) -> dict[str, object]:
    return {
        "removal": removal,
        "state": state.value if isinstance(state, State) else state,
        "by_whom": by_whom or None,
        "reason": reason or None,
        "happened_at": now,
    }


# ── deadlines ──────────────────────────────────────────────────────────────────────────────────────────────────────

DEADLINE: Final = "deadline"  # the part of a removal's steps that is about it
EXTENDED, ESCALATED = "extended", "escalated"
_STATES: Final = ", ".join(f"'{state.value}'" for state in State)


def extend(ledger: Ledger, removal: str, *, now: datetime, by_whom: str, reason: str) -> RemovalRequest:
    """Extend the time for an answer, once and before it is over, by what the regime allows (`due_at`).

    The requester is to be told, and why (GDPR Art. 12(3)): the reason is recorded. Raises `InputError`, `RefusedError`.
    """
    if not by_whom.strip() or not reason.strip():
        raise InputError("an extension says who grants it, and why", where=removal)
    request = find(ledger, removal)
    if not request.state.is_open:
        raise RefusedError(f"the request is {request.state.value}: there is nothing to wait for", where=removal)
    if any(step.part == DEADLINE and step.action == EXTENDED for step in steps(ledger, removal)):
        raise RefusedError(f"it was extended before, to {request.due_at:%Y-%m-%d}", where=removal)
    if now > request.due_at:
        raise RefusedError(
            f"it was due on {request.due_at:%Y-%m-%d}, and is extended before that day only", where=removal
        )
    later = due_at(request.received_at, request.regime, extended=True)
    ledger.append("removal_event", [_event(removal, EXTENDED, by_whom, reason, now)], key=f"{EXTENDED}:{removal}")
    before, after = ({"due_at": moment.isoformat()} for moment in (request.due_at, later))
    record_step(ledger, removal, DEADLINE, EXTENDED, request.regime, now=now, before=before, after=after)
    return dataclasses.replace(request, due_at=later)


def extensions(ledger: Ledger, removal: str) -> tuple[str, ...]:
    """Why a request was given more time: what its requester is to be told."""
    rows = ledger.query(
        "SELECT reason FROM removal_event WHERE removal = ? AND state = ? AND reason IS NOT NULL", [removal, EXTENDED]
    )
    return tuple(reason for (reason,) in rows)


def escalate(ledger: Ledger, request: RemovalRequest, *, now: datetime) -> bool:
    """Write down that a request was not answered in time; False: not due yet, closed, or written down before."""
    if not request.state.is_open or now <= request.due_at:
        return False
    due = {"due_at": request.due_at.isoformat()}
    return record_step(ledger, request.removal, DEADLINE, ESCALATED, request.regime, now=now, after=due)


def escalated(ledger: Ledger) -> frozenset[str]:
    """The requests that were not answered in time, by what is on record."""
    rows = ledger.query(
        "SELECT DISTINCT removal FROM removal_step WHERE part = ? AND action = ?", [DEADLINE, ESCALATED]
    )
    return frozenset(removal for (removal,) in rows)


# ── who asked ──────────────────────────────────────────────────────────────────────────────────────────────────────


def forget_requester(ledger: Ledger, removal: str, *, now: datetime, by_whom: str = "", reason: str = "") -> bool:
    """Erase who asked, whatever became of the request; False: nobody is on record.

    It is an erasure of its own, "forget:<id>", that is recorded with who ordered it and why, and reaches nothing but
    identities (policy/ledger.py, policy/verification.py). The bytes are gone after `Ledger.compact`.
    """
    find(ledger, removal)
    if not ledger.query("SELECT 1 FROM requester WHERE removal = ? AND erased_by IS NULL LIMIT 1", [removal]):
        return False
    name = f"{FORGETTING}{removal}"
    ledger.append("removal_event", [_event(name, State.APPROVED, by_whom, reason, now)], key=name)
    ledger.erase(name, {"requester": "removal = $removal"}, {"removal": removal})
    return True


def forget_named(
    ledger: Ledger, removal: str, token: str, *, now: datetime, by_whom: str = "", reason: str = ""
) -> bool:
    """Erase what a request named, and of which domain control was proven, once it serves nobody; False: nothing left.

    `token`: of what it named (`policy.names.named_token`), which stays, as a step `request / named`, so that the same
    request is recognised when it is filed again. Part of the same erasure as `forget_requester`. Raises `RefusedError`
    while the request is open, or in force.
    """
    request = find(ledger, removal)
    if request.named_value is None:
        return False
    if not request.state.is_spent:
        raise RefusedError(f"the request is {request.state.value}: what it named is needed", where=removal)
    record_step(ledger, removal, "request", NAMED, request.named_kind, now=now, after={"token": token})
    name = f"{FORGETTING}{removal}"
    ledger.append("removal_event", [_event(name, State.APPROVED, by_whom, reason, now)], key=name)
    own = "removal = $removal"
    ledger.erase(name, {"removal": own, "removal_proof": own}, {"removal": removal})
    return True


NAMED: Final = "named"  # the action of the step that keeps the token of what a request named


def tokens_of_named(ledger: Ledger) -> dict[str, str]:
    """Removal -> token of what it named, of requests of which nothing else of that is left."""
    rows = ledger.query(
        "SELECT removal, json_extract_string(after_json, '$.token') FROM removal_step "
        "WHERE part = 'request' AND action = ?",
        [NAMED],
    )
    return dict(rows)


def identities(ledger: Ledger) -> frozenset[str]:
    """The requests of which is known who asked."""
    rows = ledger.query("SELECT DISTINCT removal FROM requester WHERE erased_by IS NULL AND removal IS NOT NULL")
    return frozenset(removal for (removal,) in rows)


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
    return record_steps(ledger, [Done(removal, part, action, subject, before, after)], now=now) == 1


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
