"""Requests: filed, listed, rejected. What one matches is held until it is decided."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from curation.pair import canonical_url
from flows.home import Home, utc_now
from flows.stages.removing.standing import Removal, shown
from policy import removals
from policy.errors import InputError
from policy.ledger import Ledger
from policy.removal_matches import match, record_matches
from policy.removals import RemovalRequest, State
from policy.snapshot import publish

# Each request has a rule of its own, so that the end of one lifts no other.
HOLD_RULE = "removal/{removal}"
SOON = timedelta(days=7)

_NEWEST_EVIDENCE_OF = """
SELECT pair_key, evidence_id FROM evidence
WHERE pair_key IN (SELECT pair_key FROM removal_match WHERE removal = $removal AND pair_key IS NOT NULL)
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY pair_key
"""


def add(home: Home, named: str, value: str, *, kind: str = "erasure", regime: str = "gdpr") -> Removal:
    """File a request by url, domain, sha256 or sample; hold what it matches until it is decided.

    A request that matches nothing is kept all the same: once approved it keeps out what a future crawl finds.

    Raises:
        InputError: the value is no URL, host, digest or key.
    """
    now = utc_now()
    with home.ledger() as ledger:
        home.tombstones(ledger)  # lost ones are no place to begin
        named_kind, named_value = _named(ledger, named, value)
        request = RemovalRequest.receive(named_kind, named_value, now=now, kind=kind, regime=regime)
        removals.record(ledger, request)
        record_matches(ledger, request.removal, match(ledger, named_kind, named_value), now=now)
        decide_pairs(ledger, home, request.removal, "defer", "removal-held")
        removals.advance(ledger, request.removal, State.HELD, now=now)
        publish(ledger, home.snapshot_path, now=now)
        return shown(ledger, home, request.removal)


def reject(home: Home, removal: str, *, by: str, reason: str) -> Removal:
    """Reject, with a reason: the hold ends.

    Raises:
        InputError: no such request, nobody's name, no reason. RefusedError: it was approved before.
    """
    require_name(by)
    if not reason.strip():
        raise InputError("a rejection carries a reason", where="--reason")
    with home.ledger() as ledger:
        removals.advance(ledger, removal, State.REJECTED, now=utc_now(), by_whom=by, reason=reason)
        decide_pairs(ledger, home, removal, "unset", "removal-rejected")
        publish(ledger, home.snapshot_path, now=utc_now())
        return shown(ledger, home, removal)


def show(home: Home, removal: str) -> Removal:
    """One request as it stands. Raises InputError when there is none."""
    with home.ledger(readonly=True) as ledger:
        return shown(ledger, home, removal)


def list_removals(home: Home) -> tuple[Removal, ...]:
    """All requests, the oldest first."""
    with home.ledger(readonly=True) as ledger:
        return tuple(shown(ledger, home, request.removal) for request in removals.requests(ledger))


def check_deadlines(home: Home) -> dict[str, int]:
    """Requests by state, and of the undecided how many are due within a week or overdue."""
    now = utc_now()
    counts: Counter[str] = Counter()
    for request in list_removals(home):
        counts[request.state] += 1
        if request.state not in (State.APPLIED.value, State.REJECTED.value):
            counts["overdue"] += request.due_at < now
            counts["due within a week"] += now <= request.due_at < now + SOON
    return dict(counts)


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _named(ledger: Ledger, named: str, value: str) -> tuple[str, str]:
    """The kind and value as policy.removals knows them; a URL is an image's unless only pages are known by it."""
    match named:
        case "url":
            url = canonical_url(value)
            pages_only = not match(ledger, "image_url", url) and match(ledger, "page_url", url)
            return ("page_url" if pages_only else "image_url"), url
        case "domain":
            host = value.strip().lower().rstrip(".")
            if not host or "/" in host or " " in host:
                raise InputError(f"{value!r} is no host name", where="--domain", remedy="Write it as example.org")
            return "domain", host
        case "sha256":
            return "content", hex_digits(value, 64, "--sha256")
        case _:
            return "sample_key", hex_digits(value, 32, "--key")


def hex_digits(value: str, digits: int, where: str) -> str:
    text = value.strip().lower()
    if len(text) != digits or set(text) - set("0123456789abcdef"):
        raise InputError(f"{value!r} is not {digits} hex digits", where=where)
    return text


def require_name(by: str) -> None:
    if not by.strip():
        raise InputError("nobody's name: a decision says who made it", where="--by")


def decide_pairs(ledger: Ledger, home: Home, removal: str, verdict: str, code: str) -> None:
    """A decision of the request on each pair that it matches, resting on the pair's newest evidence."""
    rows: list[dict[str, Any]] = [
        {
            "pair_key": pair,
            "evidence_id": evidence,
            "rule": HOLD_RULE.format(removal=removal),
            "rule_version": 1,
            "verdict": verdict,
            "reason_code": code,
            "reason_detail": removal,
            "where_found": "",
            "ruleset_digest": home.ruleset.digest,
            "decide_id": removal,
            "decided_at": utc_now().replace(tzinfo=None),
        }
        for pair, evidence in ledger.query(_NEWEST_EVIDENCE_OF, {"removal": removal})
    ]
    if rows:
        ledger.append("decision", rows, key=f"{removal}/{code}")
