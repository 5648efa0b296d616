"""Proof that who asks for a removal controls what it names: a token that only they can publish.

The token is an HMAC of the request and the domain under the token key: nobody who lacks the key can make it, it speaks
for one request alone, and it need not be stored. It is looked for at the domain itself (`/.well-known/`, RFC 8615) or
in a TXT record of its DNS; an operator may vouch for somebody instead, and that is recorded as what it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from policy.errors import InputError
from policy.keys import KeyRing
from policy.ledger import Ledger

WELL_KNOWN, DNS, OPERATOR = "well-known", "dns", "operator"
ASKED, PROVEN, FAILED = "asked", "proven", "failed"
WELL_KNOWN_PATH: Final = "/.well-known/custody-removal.txt"
DNS_LABEL: Final = "_custody-removal"
TOKEN_PREFIX: Final = "custody-removal="
MAX_ANSWER_BYTES: Final = 16 * 1024  # of the file: a few tokens


@dataclass(frozen=True, slots=True)
class Proof:
    """What a look at a proof came to. `method`: well-known, dns or operator; `outcome`: asked, proven or failed."""

    method: str
    domain: str
    outcome: str
    detail: str
    checked_at: datetime


def proof_token(keys: KeyRing, removal: str, domain: str) -> str:
    """What is to be published for one request at one domain."""
    return TOKEN_PREFIX + keys.token("removal-proof", f"{removal} {domain.lower()}").partition(":")[2]


def holds_token(text: str, token: str) -> bool:
    """Whether a published text has the token, as a line or a word of its own."""
    return token in text.split()


def record_proof(
    ledger: Ledger, removal: str, method: str, domain: str, outcome: str, *, now: datetime, detail: str = ""
) -> bool:
    """Write down that a proof was asked for, or what a look at it came to. False: it was asked for before."""
    if method not in (WELL_KNOWN, DNS, OPERATOR) or outcome not in (ASKED, PROVEN, FAILED):
        raise InputError(f"{method!r} that is {outcome!r} is no proof", where=removal)
    row = {"removal": removal, "method": method, "domain": domain, "outcome": outcome, "detail": detail or None}
    key = f"proof:{removal}:{method}:{domain}:{outcome}"
    if outcome != ASKED:
        key += f":{now.astimezone(UTC).isoformat()}"
    return ledger.append("removal_proof", [{**row, "checked_at": now}], key=key)


def proofs(ledger: Ledger, removal: str) -> tuple[Proof, ...]:
    """All that is on record of proofs for a request, the oldest first; what was erased is left out."""
    rows = ledger.query(
        "SELECT method, domain, outcome, coalesce(detail, ''), checked_at FROM removal_proof"
        " WHERE removal = ? AND domain IS NOT NULL ORDER BY batch_seq, row_no",
        [removal],
    )
    return tuple(
        Proof(method, domain, outcome, detail, at.replace(tzinfo=UTC)) for method, domain, outcome, detail, at in rows
    )


def proven_domains(found: Iterable[Proof]) -> frozenset[str]:
    """The domains whose control was proven by what they publish."""
    return frozenset(one.domain for one in found if one.outcome == PROVEN and one.method != OPERATOR)


def vouched_for(found: Iterable[Proof]) -> bool:
    """Whether an operator vouched for who asks."""
    return any(one.outcome == PROVEN and one.method == OPERATOR for one in found)


def is_within(place: str, domain: str) -> bool:
    """Whether a host, with its port where it has one, is a domain or below it; a domain with a port means that port."""
    host = place if place.endswith("]") else place.rpartition(":")[0] or place
    return any(one == domain or one.endswith(f".{domain}") for one in (place, host))
