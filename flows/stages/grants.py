"""Grants: consents and agreements are recorded, listed and ended; policy/grants.py says what each covers."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from curation.pair import canonical_url, host_of, secret_in_url
from flows.home import Home, utc_now
from policy.errors import InputError
from policy.evidence import Grant
from policy.grants import CAPACITIES, Grants, check
from policy.ledger import Ledger, utc_naive
from policy.origins import is_registry_suffix
from policy.snapshot import publish


@dataclass(frozen=True, slots=True)
class GrantState:
    """The contract of `custody grant … --json`. `state`: valid | future (not begun) | expired | ended."""

    id: str
    state: str
    giver: str
    capacity: str
    scope_kind: str
    scope: str
    mechanisms: tuple[str, ...]
    valid_from: datetime
    valid_to: datetime | None
    document_sha256: str
    ended_at: datetime | None


def add(
    home: Home,
    *,
    giver: str,
    capacity: str,
    scope_kind: str,
    scope: str,
    document: Path,
    covers: Sequence[str] | None = None,
    valid_from: str | None = None,
    valid_to: str | None = None,
) -> GrantState:
    """Record a grant. `covers` None: all that this capacity may give. Of the document only its sha256 is kept.

    Raises:
        InputError: this giver cannot give that, the scope is none, it ends before it begins, or no document is there.
    """
    mechanisms = tuple(sorted(set(covers))) if covers is not None else tuple(sorted(CAPACITIES.get(capacity, ())))
    check(capacity, scope_kind, mechanisms, giver)
    begins = _day(valid_from, "--from", last=False) or utc_now()
    ends = _day(valid_to, "--to", last=True)
    if ends is not None and ends < begins:
        raise InputError(f"it ends {ends:%Y-%m-%d}, before it begins {begins:%Y-%m-%d}", where="--to")
    scope, digest = _scope(scope_kind, scope), _digest(document)
    grant = f"grant-{secrets.token_hex(6)}"
    row = {
        "consent": grant,
        "giver": " ".join(giver.split()),
        "capacity": capacity,
        "scope_kind": scope_kind,
        "scope": scope,
        "mechanisms": ",".join(mechanisms),
        "valid_from": utc_naive(begins),
        "valid_to": None if ends is None else utc_naive(ends),
        "document_sha256": digest,
        "state": "given",
        "recorded_at": utc_naive(utc_now()),
    }
    with home.ledger() as ledger:
        ledger.append("consent", [row], key=f"{grant}/given")
        publish(ledger, home.snapshot_path, now=utc_now())
        return _shown(_find(ledger, grant))


def list_grants(home: Home) -> tuple[GrantState, ...]:
    """All grants, the oldest first."""
    return tuple(_shown(grant) for grant in home.grants().all)


def end(home: Home, grant: str, *, reason: str) -> GrantState:
    """End a grant: from the next decide on nothing rests on it. Ended already: nothing changes.

    Raises:
        InputError: there is no such grant, or no reason.
    """
    if not reason.strip():
        raise InputError("the end of a grant carries a reason", where="--reason")
    now = utc_now()
    with home.ledger() as ledger:
        if _find(ledger, grant).ended_at is None:
            # Who gave it, and for what, stands in its first row and need not be said twice.
            row = {"consent": grant, "state": "ended", "recorded_at": utc_naive(now)}
            event = {"kind": "grant-ended", "subject": grant, "detail": reason, "happened_at": utc_naive(now)}
            ledger.append_many([("consent", [row], f"{grant}/ended"), ("event", [event], f"{grant}/ended")])
            publish(ledger, home.snapshot_path, now=now)
        return _shown(_find(ledger, grant))


def _find(ledger: Ledger, grant: str) -> Grant:
    found = next((g for g in Grants.of(ledger).all if g.grant == grant), None)
    if found is None:
        raise InputError("there is no such grant", where=grant, remedy="`custody grant list` names them")
    return found


def _shown(grant: Grant) -> GrantState:
    return GrantState(
        *(grant.grant, _state(grant, utc_now()), grant.giver, grant.capacity, grant.scope_kind, grant.scope),
        mechanisms=grant.mechanisms,
        valid_from=grant.valid_from,
        valid_to=grant.valid_to,
        document_sha256=grant.document_sha256,
        ended_at=grant.ended_at,
    )


def _state(grant: Grant, now: datetime) -> str:
    if grant.ended_at is not None and grant.ended_at <= now:
        return "ended"
    if grant.valid_to is not None and grant.valid_to < now:
        return "expired"
    return "future" if grant.valid_from > now else "valid"


# ── what is written at the prompt ──────────────────────────────────────────────────────────────────────────────────


def _scope(kind: str, value: str) -> str:
    """The scope as it is compared: a canonical URL, a host in ASCII, a creator's name, a digest."""
    text = " ".join(value.split())
    match kind:
        case "url":
            url = canonical_url(text)
            if secret_in_url(url) is not None:
                raise InputError("the URL carries a password or a signature", where="--url")
            return url
        case "domain":
            return _domain(text)
        case "creator":
            if not text:
                raise InputError("nobody's name", where="--creator")
            return text
        case _:
            if not re.fullmatch(r"[0-9a-f]{64}", text.lower()):
                raise InputError(f"{text!r} is not 64 hex digits", where="--sha256")
            return text.lower()


def _domain(text: str) -> str:
    """A host, without anything around it: a grant must not become wider than it was given."""
    refused = InputError(
        f"{text!r} is no host name", where="--domain", remedy="Write it as example.org; what lies below it is covered"
    )
    try:
        url = canonical_url(f"http://{text}/")
    except InputError:
        raise refused from None
    if ":" in text and not text.startswith("["):
        raise refused
    host = host_of(url).rstrip(".")
    if url != f"http://{host_of(url)}/" or not re.fullmatch(r"[a-z0-9_.-]+|\[[0-9a-f:.]+\]", host):
        raise refused
    if host.startswith("[") or host.replace(".", "").isdigit() or host == "localhost":
        return host.strip("[]")
    if is_registry_suffix(host):
        raise InputError(f"{text!r} is a public suffix: nobody speaks for all below it", where="--domain")
    return host


def _day(text: str | None, where: str, *, last: bool) -> datetime | None:
    """A time in UTC; a day without an hour is its beginning, or its last second."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is no date", where=where, remedy="Write it as 2026-11-21") from None
    if last and re.fullmatch(r"[0-9-]+", text.strip()):
        at += timedelta(days=1, seconds=-1)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _digest(document: Path) -> str:
    try:
        with document.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            size = file.tell()
    except OSError as error:
        raise InputError(
            f"the document cannot be read ({error.strerror})", where=str(document), remedy="Name the signed paper"
        ) from error
    if not size:
        raise InputError("the document is empty", where=str(document))
    return digest.hexdigest()
