"""Proof of control: what is to be published where, whether it is there, and what is held once it is.

One look is one request to the domain itself over https, which may not lead to another host, and one question for TXT
records; both are bounded and go through the same guards as a crawl. What each came to is recorded, failures too.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from curation.fetch import Fetcher, Request
from flows.home import Home, utc_now
from flows.stages.crawling.observer import fetch_config
from flows.stages.removing.guarding import guard_of, place_of
from flows.stages.removing.requests import hold, host_name, require_name
from policy import removals
from policy.errors import ConfigurationError, InputError, RefusedError
from policy.removal_matches import matches_of
from policy.removal_proofs import (
    ASKED,
    DNS,
    DNS_LABEL,
    FAILED,
    MAX_ANSWER_BYTES,
    OPERATOR,
    PROVEN,
    WELL_KNOWN,
    WELL_KNOWN_PATH,
    holds_token,
    proof_token,
    record_proof,
)
from policy.removals import RemovalRequest
from policy.snapshot import publish

METHODS: Final = (WELL_KNOWN, DNS)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a proof came to: the method, whether the token was there, and if not why, as a code."""

    method: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Proving:
    """What is to be published, and what looking for it came to. `is_proven`: the request needs no more proof.

    `url`: of a file that has the token on a line of its own; `dns_name`: of a TXT record that is the token; "" where a
    domain can have none.
    """

    id: str
    domain: str
    token: str
    url: str
    dns_name: str
    looks: tuple[Look, ...]
    is_proven: bool
    state: str


def instructions(home: Home, removal: str, *, domain: str | None = None) -> Proving:
    """What whoever asks is to publish, and where. `domain`: by default the one that the request names.

    Raises:
        InputError: no such request, or no domain to prove. RefusedError: the request is closed.
    """
    return _prove(home, removal, domain, (), record=METHODS)


def check(home: Home, removal: str, *, domain: str | None = None, methods: Sequence[str] = METHODS) -> Proving:
    """Look whether the token is published; what was waiting for the proof is held from now on. Raises as above."""
    with home.ledger(readonly=True) as ledger:
        place = _domain_of(removals.find(ledger, removal), domain)
    token = proof_token(home.keys, removal, place)
    looks: list[Look] = []
    for method in methods:
        looks.append(_at_domain(home, place, token) if method == WELL_KNOWN else _in_dns(home, place, token))
        if looks[-1].outcome == PROVEN:
            break
    return _prove(home, removal, domain, tuple(looks))


def vouch(home: Home, removal: str, *, by: str, reason: str) -> Proving:
    """An operator says in their own name that whoever asks controls what they name, and how that is known.

    Raises:
        InputError: no such request, nobody's name, or no reason. RefusedError: the request is closed.
    """
    require_name(by)
    if not reason.strip():
        raise InputError("say how you know that it is theirs", where="--reason")
    return _prove(home, removal, None, (Look(OPERATOR, PROVEN, f"{by.strip()}: {reason.strip()}"),))


def _prove(
    home: Home, removal: str, domain: str | None, looks: tuple[Look, ...], *, record: Sequence[str] = ()
) -> Proving:
    now = utc_now()
    with home.ledger() as ledger:
        request = removals.find(ledger, removal)
        if not request.state.is_undecided:
            raise RefusedError(f"the request is {request.state.value}: there is nothing to prove", where=removal)
        vouched = any(look.method == OPERATOR for look in looks)
        place = (request.named_value or "") if vouched else _domain_of(request, domain)
        for method in record:
            record_proof(ledger, removal, method, place, ASKED, now=now)
        for look in looks:
            record_proof(ledger, removal, look.method, place, look.outcome, now=now, detail=look.detail)
        if any(look.outcome == PROVEN for look in looks):
            hold(ledger, home, [removal], now=now)
        publish(ledger, home.snapshot_path, now=now)
        request = removals.find(ledger, removal)
        guard = guard_of(ledger, home, request, matches_of(ledger, removal))
    proven = guard.is_proven if guard.is_guarded else any(look.outcome == PROVEN for look in looks)
    host = _bare(place)
    return Proving(
        removal,
        "" if vouched else place,
        "" if vouched else proof_token(home.keys, removal, place),
        "" if vouched else f"https://{place}{WELL_KNOWN_PATH}",
        f"{DNS_LABEL}.{host}" if not vouched and _has_dns(host) else "",
        tuple(dataclasses.replace(look, detail="") if look.method == OPERATOR else look for look in looks),
        proven,
        request.state.value,
    )


def _domain_of(request: RemovalRequest, domain: str | None) -> str:
    if domain is not None:
        return host_name(domain, "--domain")
    match request.named_kind:
        case "domain":
            return request.named_value or ""
        case "image_url" | "page_url":
            return place_of(request.named_value or "")
    raise InputError(
        "the request names no domain",
        where=request.removal,
        remedy="Say with --domain whose control is to be proven, or vouch with --by and --reason",
    )


# ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _at_domain(home: Home, place: str, token: str) -> Look:
    """The file at the domain; a redirect to another host, or to plain http, is none of the domain's word."""

    def gate(url: str) -> str | None:
        return None if url.startswith("https://") and place_of(url) == place else "other-host"

    config = dataclasses.replace(fetch_config(home), retries=0, deadline_s=home.settings.removals.proof_timeout_s)
    fetcher = Fetcher(config)
    try:
        request = Request(f"https://{place}{WELL_KNOWN_PATH}", "document", max_bytes=MAX_ANSWER_BYTES)
        answer = fetcher.fetch(request, gate=gate)
    except RefusedError:
        return Look(WELL_KNOWN, FAILED, "no-contact")
    finally:
        fetcher.close()
    if not answer.ok:
        return Look(WELL_KNOWN, FAILED, answer.detail if answer.outcome == "refused-by-policy" else answer.outcome)
    if not holds_token(answer.body.decode("utf-8", "replace"), token):
        return Look(WELL_KNOWN, FAILED, "no-token")
    return Look(WELL_KNOWN, PROVEN)


def _in_dns(home: Home, place: str, token: str) -> Look:
    """The TXT records of the domain; long ones come in pieces (RFC 1035, 3.3.14)."""
    import dns.exception
    import dns.resolver

    host = _bare(place)
    if not _has_dns(host):
        return Look(DNS, FAILED, "no-domain-name")
    server, timeout_s = home.settings.removals.dns_server, home.settings.removals.proof_timeout_s
    try:
        resolver = dns.resolver.Resolver(configure=not server)
        if server:
            address, resolver.port = _endpoint(server, where=str(home.settings_path))
            resolver.nameservers = [address]
        found = resolver.resolve(f"{DNS_LABEL}.{host}.", "TXT", lifetime=timeout_s, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return Look(DNS, FAILED, "no-record")
    except dns.exception.DNSException as error:
        return Look(DNS, FAILED, type(error).__name__.lower())
    texts = [b"".join(record.strings).decode("utf-8", "replace") for record in found]
    return Look(DNS, PROVEN) if any(holds_token(text, token) for text in texts) else Look(DNS, FAILED, "no-token")


def _bare(place: str) -> str:
    """A host without its port."""
    return place if place.endswith("]") else place.partition(":")[0]


def _has_dns(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "." in host
    return False


def _endpoint(server: str, *, where: str) -> tuple[str, int]:
    """ "address", "address:port", "[address]:port" -> (address, port). Raises ConfigurationError."""
    text, _, port = server.rpartition(":") if server.count(":") == 1 or "]:" in server else (server, "", "53")
    try:
        if not 0 < int(port) < 65_536:
            raise ValueError
        return str(ipaddress.ip_address(text.strip("[]"))), int(port)
    except ValueError:
        raise ConfigurationError(
            f"removals.dns_server is {server!r}", where=where, remedy="Write 192.0.2.53 or 192.0.2.53:5353"
        ) from None
