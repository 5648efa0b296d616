"""Removal requests: their states and deadlines, what they match, and the tombstones that keep what was removed out.

A request is received, held (what it may concern is deferred), approved or rejected, and, approved, applied. Requests
arrive by URL, page, domain, content or sample; a removal acts on content: every occurrence of equal bytes is matched.

Tombstones take force as one file, `tombstones/current.json`: keyed tokens of what may never come back, and the slots
of datasets that are empty from now on, so that a trainer needs neither the ledger nor a key. The ledger's rows follow.
"""

from __future__ import annotations

import calendar
import contextlib
import dataclasses
import enum
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from policy.durable import write_durably
from policy.errors import InputError, IntegrityError, KeyFileError, RefusedError, StorageError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.provenance import canonical_json

TOMBSTONES_FILE: Final = "current.json"
TOMBSTONES_VERSION: Final = 1
NAMED_KINDS: Final = ("page_url", "image_url", "domain", "content", "sample_key")
CCPA_DAYS: Final = 45


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── matching ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence that a request concerns; keys in hex, None where it has none (never fetched, never captioned).

    `method`: the kind that was named, "same-content" for another occurrence of equal bytes, or "near-…" for one of a
    near duplicate that the approval took in, with how that was found; `score` then is one less its distance.
    """

    pair_key: str | None
    url_key: str | None
    content_sha256: str | None
    sample_key: str | None
    method: str
    score: float = 1.0


# Each finds (pair_key, url_key, content_sha256) of what `$value` names; any of them may be NULL.
_NAMED: Final[Mapping[str, str]] = {
    "page_url": "SELECT pair_key, url_key, NULL FROM occurrence WHERE page_url = $value",
    "image_url": """
        SELECT pair_key, url_key, NULL FROM occurrence WHERE image_url = $value
        UNION SELECT NULL, url_key, NULL FROM "fetch" WHERE kind = 'image' AND (url = $value OR final_url = $value)""",
    # The host, with or without its port, or one below it; a URL in the ledger is canonical, without userinfo.
    "domain": r"""
        SELECT pair_key, url_key, NULL FROM occurrence, LATERAL (
            SELECT unnest([page_url, image_url]) AS url
        ), LATERAL (
            SELECT regexp_extract(url, '^https?://([^/?#]+)', 1) AS place
        ), LATERAL (
            SELECT regexp_replace(place, ':[0-9]+$', '') AS host
        )
        WHERE $value IN (place, host) OR ends_with(place, '.' || $value) OR ends_with(host, '.' || $value)""",
    "content": "SELECT NULL, NULL, $value",
    "sample_key": """
        SELECT pair_key, NULL, if(pair_key IS NULL, content_sha256, NULL) FROM caption WHERE sample_key = $value
        UNION SELECT pair_key, NULL, if(pair_key IS NULL, content_sha256, NULL) FROM slot WHERE sample_key = $value""",
}

_MATCH: Final = """
    WITH named(pair_key, url_key, content_sha256) AS (
        {named}
    ),
    carried AS (  -- which pair shows which bytes: found under its URL, or said so when it was captioned or sealed
        SELECT o.pair_key, o.url_key, c.content_sha256
        FROM occurrence o LEFT JOIN content c ON c.url_key = o.url_key WHERE o.pair_key IS NOT NULL
        UNION SELECT NULL, url_key, content_sha256 FROM content WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM evidence WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM caption WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM slot WHERE content_sha256 IS NOT NULL
    ),
    direct AS (
        SELECT carried.* FROM carried SEMI JOIN named ON carried.pair_key = named.pair_key
        UNION SELECT carried.* FROM carried SEMI JOIN named ON carried.url_key = named.url_key
        UNION SELECT carried.* FROM carried SEMI JOIN named ON carried.content_sha256 = named.content_sha256
    ),
    concerned AS (  -- one step over equal bytes, never a chain
        SELECT *, true AS is_direct FROM direct
        UNION
        SELECT carried.*, false FROM carried SEMI JOIN direct ON carried.content_sha256 = direct.content_sha256
    ),
    placed AS (  -- what is known without its URL or pair adds nothing where the whole occurrence is known
        SELECT
            pair_key,
            coalesce(url_key, max(url_key) OVER (PARTITION BY pair_key, content_sha256)) AS url_key,
            content_sha256,
            bool_or(is_direct) AS is_direct
        FROM concerned GROUP BY pair_key, url_key, content_sha256
        QUALIFY pair_key IS NOT NULL
            OR max(pair_key) OVER (PARTITION BY url_key, content_sha256) IS NULL
    ),
    samples AS (
        SELECT sample_key, pair_key, content_sha256 FROM caption WHERE sample_key IS NOT NULL
        UNION SELECT sample_key, pair_key, content_sha256 FROM slot WHERE sample_key IS NOT NULL
    )
    SELECT placed.pair_key, placed.url_key, placed.content_sha256, samples.sample_key,
        CASE WHEN bool_or(is_direct) THEN $kind ELSE 'same-content' END
    FROM placed LEFT JOIN samples
        ON samples.content_sha256 = placed.content_sha256
        AND (samples.pair_key = placed.pair_key OR placed.pair_key IS NULL)
    GROUP BY ALL
    ORDER BY ALL
"""


def match(ledger: Ledger, named_kind: str, value: str) -> tuple[Match, ...]:
    """What a request concerns: the occurrences it names and every other occurrence of the same bytes.

    `value`: a canonical URL, a host name (with or without port), a sha256 or sample key in hex. What the ledger never
    saw matches nothing here, and is kept out by its tombstone all the same. Raises `InputError`.
    """
    if named_kind not in _NAMED:
        raise InputError(f"cannot look for a {named_kind}", remedy=f"Name one of {', '.join(NAMED_KINDS)}")
    sql = _MATCH.format(named=_NAMED[named_kind])
    return tuple(Match(*row) for row in ledger.query(sql, {"value": value, "kind": named_kind}))


def record_matches(ledger: Ledger, removal: str, matches: Sequence[Match], *, now: datetime) -> bool:
    """Write the matches down as proposed; the same set for the same removal is written once."""
    rows = [
        {"removal": removal, **dataclasses.asdict(found), "state": "matched", "matched_at": now} for found in matches
    ]
    digest = hashlib.sha256(canonical_json([dataclasses.asdict(found) for found in matches]).encode()).hexdigest()
    return ledger.append("removal_match", rows, key=f"matched:{removal}:{digest[:16]}")


_STOOD_FOR: Final = "json_extract_string(body_json, '$.duplicate.representative')"
_MATCHED: Final = "SELECT {column} FROM removal_match WHERE removal = $removal AND {column} IS NOT NULL"


def erasure_predicates() -> Mapping[str, str]:
    """What `Ledger.erase` empties for a removal: every row about its matches. Parameter `$removal`.

    The rows of a page and of its origin's documents stay: they are about others, too. Texts elsewhere that came from
    an erased alt text (captions of other pictures, the caption bank) are lineage and are handled there.
    """

    def by(*columns: str) -> str:
        return " OR ".join(f"{column} IN ({_MATCHED.format(column=column)})" for column in columns)

    slots = f"SELECT dataset, ordinal FROM slot WHERE {by('sample_key', 'content_sha256', 'pair_key')}"  # noqa: S608
    # The evidence of a copy names what stood for it.
    named = f"{_STOOD_FOR} IN ({_MATCHED.format(column='content_sha256')})"
    evidence = f"{by('pair_key', 'content_sha256')} OR {named}"
    images = f"SELECT evidence_id FROM evidence WHERE {evidence}"  # noqa: S608
    return {
        "fetch": f"kind = 'image' AND ({by('url_key')})",
        "occurrence": by("pair_key", "url_key"),
        "content": by("content_sha256", "url_key"),
        "score": by("content_sha256"),
        "duplicate": f"{by('content_sha256')} OR representative_sha256 IN ({_MATCHED.format(column='content_sha256')})",
        "evidence": evidence,
        "caption": by("sample_key", "content_sha256", "pair_key"),
        "signal": f"{by('pair_key')} OR evidence_id IN ({images})",
        "decision": f"{by('pair_key')} OR evidence_id IN ({images})",
        "reservation": by("pair_key", "url_key"),
        "slot": by("sample_key", "content_sha256", "pair_key"),
        "attribution": f"(dataset, ordinal) IN ({slots})",
        "removal": "removal = $removal",
        "removal_match": "removal = $removal",
    }


# ── tombstones ─────────────────────────────────────────────────────────────────────────────────────────────────────

TOKEN_KINDS: Final = ("url", "content", "sample", "domain")
_NO_TOKENS: Final[Mapping[str, Mapping[str, str]]] = {kind: {} for kind in TOKEN_KINDS}


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What may never come back. `epoch` rises with every change; 0: nothing was ever removed.

    `tokens`: kind -> token -> removal id. `slots`: dataset -> ordinal -> removal id. `key_id`: the token key's.
    """

    epoch: int = 0
    key_id: str | None = None
    tokens: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=lambda: _NO_TOKENS)
    slot_removals: Mapping[str, Mapping[int, str]] = dataclasses.field(default_factory=dict)
    keys: KeyRing | None = dataclasses.field(default=None, repr=False, compare=False)

    # ── asking ─────────────────────────────────────────────────────────────────────────────────────────────────

    def covers_url(self, canonical: str) -> str | None:
        """The removal that keeps this URL (page or image), or its domain, out; None: none does.

        Raises `KeyFileError` without the key: nobody may be told "not covered" by who cannot tell.
        """
        keys = self._key()
        found = self._covers(keys, "url", canonical)
        if found is None and self.tokens["domain"]:
            found = next(filter(None, (self._covers(keys, "domain", name) for name in _domains(canonical))), None)
        return found

    def covers_content(self, sha256: str) -> str | None:
        """The removal that keeps these bytes out, by their sha256 in hex; None: none does."""
        return self._covers(self._key(), "content", sha256)

    def covers_sample(self, sample_key: str) -> str | None:
        """The removal that keeps this sample out; None: none does."""
        return self._covers(self._key(), "sample", sample_key)

    def slots(self, dataset: str) -> frozenset[int]:
        """The ordinals of a dataset that are empty from now on; needs no key."""
        return frozenset(self.slot_removals.get(dataset, {}))

    @property
    def removals(self) -> tuple[str, ...]:
        """The removals that have a tombstone, sorted."""
        by_token = {removal for known in self.tokens.values() for removal in known.values()}
        by_slot = {removal for known in self.slot_removals.values() for removal in known.values()}
        return tuple(sorted(by_token | by_slot))

    # ── changing ───────────────────────────────────────────────────────────────────────────────────────────────

    def with_added(
        self,
        removal: str,
        *,
        keys: KeyRing | None = None,
        urls: Iterable[str] = (),
        contents: Iterable[str] = (),
        samples: Iterable[str] = (),
        domains: Iterable[str] = (),
        slots: Mapping[str, Iterable[int]] | None = None,
    ) -> Self:
        """With these kept out for a removal, one epoch on; what is kept out already stays with its first removal."""
        ring = dataclasses.replace(self, keys=keys or self.keys)._key()
        named = {"url": urls, "content": contents, "sample": samples, "domain": domains}
        tokens = {
            kind: {**{ring.token(kind, value): removal for value in values}, **self.tokens.get(kind, {})}
            for kind, values in named.items()
        }
        emptied = {dataset: dict(known) for dataset, known in self.slot_removals.items()}
        for dataset, ordinals in (slots or {}).items():
            emptied[dataset] = {**dict.fromkeys(ordinals, removal), **emptied.get(dataset, {})}
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            key_id=ring.key_id("token"),
            tokens=tokens,
            slot_removals=emptied,
            keys=ring,
        )

    # ── the file ───────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(cls, directory: Path, keys: KeyRing | None = None) -> Self:
        """Read `current.json`; none there: empty, which `check_against` tells from lost.

        `keys`: needed for every question but `slots`. Raises `IntegrityError` for a damaged file or one of a newer
        version, `KeyFileError` when the tokens were made with another key.
        """
        path = directory / TOMBSTONES_FILE
        try:
            data = json.loads(path.read_bytes())
            body = data["tombstones"]
            if data["version"] > TOMBSTONES_VERSION:
                raise IntegrityError("written by a newer version", where=str(path), remedy="Update Custody")
            if data["sha256"] != _digest(body):
                raise IntegrityError("the tombstones were changed or damaged", where=str(path))
            tombstones = cls(
                epoch=body["epoch"],
                key_id=body["key_id"],
                tokens={kind: dict(body["tokens"].get(kind, {})) for kind in TOKEN_KINDS},
                slot_removals={
                    dataset: {int(ordinal): removal for ordinal, removal in known.items()}
                    for dataset, known in body["slots"].items()
                },
                keys=keys,
            )
        except FileNotFoundError:
            return cls(keys=keys)
        except OSError as error:
            raise StorageError(f"cannot read the tombstones ({error.strerror})", where=str(path)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"not a tombstone file ({error!r})", where=str(path)) from error
        if keys is not None and tombstones.key_id != keys.key_id("token"):
            raise KeyFileError("the tombstones were made with another key", where=str(path), remedy="Restore keys/")
        return tombstones

    def store(self, directory: Path) -> None:
        """Put these in force: written, fsynced, renamed. Stored already: nothing is done.

        Raises `IntegrityError` when they would not continue what is in force (an epoch that does not rise, a tombstone
        that would be lost: load again and add), `StorageError`.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory):
                current = type(self).load(directory)
                if current == self:
                    return
                if self.epoch <= current.epoch or not current._is_within(self):
                    raise IntegrityError(
                        f"epoch {self.epoch} does not continue epoch {current.epoch}",
                        where=str(directory / TOMBSTONES_FILE),
                        remedy="Load the tombstones again and add to them",
                    )
                write_durably(directory / TOMBSTONES_FILE, self._to_json().encode())
        except OSError as error:
            raise StorageError(f"cannot store the tombstones ({error.strerror})", where=str(directory)) from error

    def rows(self, removal: str, now: datetime) -> list[dict[str, object]]:
        """The ledger's `tombstone` rows of one removal; a slot's token is "<dataset>:<ordinal>"."""
        slots = {
            f"{dataset}:{ordinal}": by for dataset, known in self.slot_removals.items() for ordinal, by in known.items()
        }
        return [
            {
                "removal": removal,
                "kind": kind,
                "token": token,
                "key_id": None if kind == "slot" else self.key_id,
                "epoch": self.epoch,
                "in_force_at": now,
            }
            for kind, known in {**self.tokens, "slot": slots}.items()
            for token, by in sorted(known.items())
            if by == removal
        ]

    def check_against(self, ledger: Ledger) -> None:
        """Every tombstone on the ledger's record is in this file; the file may be ahead, it takes force first.

        Raises `IntegrityError`: the file was lost or is an old copy, and nothing may be let in by it.
        """
        known = {(kind, token) for kind, tokens in self.tokens.items() for token in tokens}
        known |= {("slot", f"{name}:{ordinal}") for name, slots in self.slot_removals.items() for ordinal in slots}
        on_record = ledger.query("SELECT DISTINCT kind, token, epoch FROM tombstone WHERE token IS NOT NULL")
        missing = [row for row in on_record if (row[0], row[1]) not in known]
        if missing or max((epoch for _, _, epoch in on_record), default=0) > self.epoch:
            raise IntegrityError(
                f"{len(missing)} tombstones on record are not in the tombstone file, which is of epoch {self.epoch}",
                where=TOMBSTONES_FILE,
                remedy="Restore the file from its copy before anything else runs",
            )

    # ── within ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self) -> KeyRing:
        if self.keys is None:
            raise KeyFileError("tombstones cannot be asked without the token key", remedy="Restore keys/")
        if self.key_id is not None and self.key_id != self.keys.key_id("token"):
            raise KeyFileError("the tombstones were made with another key", remedy="Restore keys/")
        return self.keys

    def _covers(self, keys: KeyRing, kind: str, value: str) -> str | None:
        known = self.tokens.get(kind)
        return known.get(keys.token(kind, value)) if known else None

    def _is_within(self, other: Self) -> bool:
        return all(known.items() <= other.tokens.get(kind, {}).items() for kind, known in self.tokens.items()) and all(
            known.items() <= other.slot_removals.get(name, {}).items() for name, known in self.slot_removals.items()
        )

    def _to_json(self) -> str:
        body: dict[str, Any] = {
            "epoch": self.epoch,
            "key_id": self.key_id,
            "tokens": {kind: dict(known) for kind, known in self.tokens.items()},
            "slots": {
                dataset: {str(ordinal): removal for ordinal, removal in sorted(known.items())}
                for dataset, known in sorted(self.slot_removals.items())
            },
        }
        return canonical_json({"version": TOMBSTONES_VERSION, "sha256": _digest(body), "tombstones": body}) + "\n"


def _digest(body: object) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _domains(canonical: str) -> Iterator[str]:
    """The host of a URL with its port, without it, and every domain above it that is not a bare top level."""
    parts = urlsplit(canonical)
    host = parts.hostname or ""
    if parts.port is not None:
        yield parts.netloc.lower()
    yield host
    while host.count(".") > 1 and not host.replace(".", "").isdigit():
        host = host.partition(".")[2]
        yield host


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One storer at a time."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
