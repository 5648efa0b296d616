"""Grants: consents and agreements on record, what each may cover, and judgements under them.

A grant covers what its giver may give: a rights holder's what is reserved in the work, wherever it is said; a site
operator's what the operator's own site says of access; a depicted person's the face. None covers a tombstone, a list,
a removal's hold, or a rule of safety and quality. It answers a statement ("no", "only against payment", "no licence
is stated"), never silence: what was not observed, is too old or could not be read stays what it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from policy.errors import InputError
from policy.evidence import Evidence, Grant
from policy.judgements import reason
from policy.origins import host_of, same_site
from policy.verdict import Judgement, Stance, Verdict

if TYPE_CHECKING:
    from policy.ledger import Ledger

CAPACITIES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "rights-holder": frozenset(
            {"ai_agents", "content_usage", "content_signal", "rsl", "tdmrep", "x_robots", "ai_txt", "trust_txt"}
            | {"xmp", "c2pa", "licence"}
        ),
        "site-operator": frozenset(
            {"robots", "ai_agents", "content_usage", "content_signal", "x_robots", "ai_txt", "trust_txt"}
        ),
        "depicted-person": frozenset({"faces"}),
    }
)
SCOPES: Final = ("url", "domain", "creator", "sha256")
# Who runs a site runs its addresses, not a person's works or one picture's bytes.
_SCOPES_OF: Mapping[str, tuple[str, ...]] = {"site-operator": ("url", "domain")}
LICENCE_PREFIX: Final = "LicenseRef-"  # SPDX: a licence that is not on its list


def check(capacity: str, scope_kind: str, mechanisms: Iterable[str], giver: str) -> None:
    """Raise InputError for what this giver cannot give."""
    where = "custody grant add"
    if not giver.strip():
        raise InputError("a grant needs somebody who gives it", where="--giver")
    may = CAPACITIES.get(capacity)
    if may is None:
        raise InputError(f"unknown capacity {capacity!r}", where=where, remedy=f"There are {', '.join(CAPACITIES)}")
    if scope_kind not in (scopes := _SCOPES_OF.get(capacity, SCOPES)):
        raise InputError(
            f"a {capacity} cannot give for a {scope_kind}", where=where, remedy=f"Name a {' or a '.join(scopes)}"
        )
    named = tuple(mechanisms)
    if not named:
        raise InputError("a grant that covers nothing is none", where="--covers")
    for name in named:
        if name not in may:
            givers = [c for c, gives in CAPACITIES.items() if name in gives]
            remedy = f"A {capacity} may give {', '.join(sorted(may))}"
            if givers:
                raise InputError(f"only a {' or a '.join(givers)} can give {name}", where="--covers", remedy=remedy)
            raise InputError(f"no grant covers {name!r}", where="--covers", remedy=remedy)


# ── the grants on record ───────────────────────────────────────────────────────────────────────────────────────────

_GIVEN = """
SELECT given.consent, given.giver, given.capacity, given.scope_kind, given.scope, given.mechanisms, given.valid_from,
    given.valid_to, given.document_sha256, ended.ended_at
FROM consent AS given
LEFT JOIN (SELECT consent, min(recorded_at) AS ended_at FROM consent WHERE state = 'ended' GROUP BY consent) AS ended
    ON ended.consent = given.consent
WHERE given.state = 'given' AND given.scope IS NOT NULL
ORDER BY given.batch_seq, given.row_no
"""


@dataclass(frozen=True, slots=True)
class Grants:
    """The grants on record, found by what they are for."""

    all: tuple[Grant, ...] = ()
    _by: Mapping[str, Mapping[str, tuple[Grant, ...]]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """From rows in the order of `Grant`'s fields: mechanisms with commas, times without a zone being UTC."""
        grants = tuple(
            Grant(
                *(grant, giver, capacity, scope_kind, scope, tuple(mechanisms.split(","))),
                valid_from=_utc(valid_from),
                valid_to=None if valid_to is None else _utc(valid_to),
                document_sha256=document,
                ended_at=None if ended_at is None else _utc(ended_at),
            )
            for (
                *(grant, giver, capacity, scope_kind, scope, mechanisms, valid_from, valid_to, document, ended_at),
            ) in rows
        )
        by: dict[str, dict[str, tuple[Grant, ...]]] = {}
        for one in grants:
            key = _name(one.scope) if one.scope_kind == "creator" else one.scope
            known = by.setdefault(one.scope_kind, {})
            known[key] = (*known.get(key, ()), one)
        return cls(grants, by)

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """All grants that the ledger holds, ended ones included; an erased one covers nothing."""
        return cls.load(ledger.query(_GIVEN))

    def grants_for(self, evidence: Evidence) -> tuple[Grant, ...]:
        """Those whose scope covers the pair, valid or not.

        A page, or the site it is on, covers the pictures of that very site, as a page's licence does; a picture on
        another host has its own. A site operator's grant is about the site: whatever of it the pair touches.
        """
        if not self.all:
            return ()
        return tuple(dict.fromkeys(g for g in self._found(evidence) if _covers_pair(g, evidence)))

    def may_fetch(self, url: str, mechanism: str, now: datetime) -> bool:
        """Whether a site operator lets this canonical URL be asked for, whatever `mechanism` says of it."""
        operators = (g for g in self._at(url) if g.capacity == "site-operator" and mechanism in g.mechanisms)
        return any(is_valid(g, now) for g in operators)

    def _found(self, evidence: Evidence) -> Iterator[Grant]:
        for url in dict.fromkeys(_urls(evidence)):
            yield from self._at(url)
        if (sha256 := evidence.content_sha256) is not None:
            yield from self._by.get("sha256", {}).get(sha256, ())
        if creators := self._by.get("creator"):
            for name in _creators(evidence):
                yield from creators.get(name, ())

    def _at(self, url: str) -> Iterator[Grant]:
        yield from self._by.get("url", {}).get(url, ())
        if domains := self._by.get("domain"):
            for name in _domains(host_of(url)):
                yield from domains.get(name, ())


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _name(creator: str) -> str:
    return " ".join(creator.casefold().split())


def _urls(evidence: Evidence) -> Iterator[str]:
    yield evidence.image_url
    if evidence.page_url is not None:
        yield evidence.page_url
    for hop in evidence.hops or ():
        yield hop.url


def _creators(evidence: Evidence) -> Iterator[str]:
    """Who the picture is said to be by: near it, or on the page where it is the page's own."""
    page = evidence.page_url
    for claim in evidence.licence_claims or ():
        near = claim.scope in ("image", "figure")
        if claim.creator and (near or (page is not None and same_site(page, evidence.image_url))):
            yield _name(claim.creator)


@functools.lru_cache(maxsize=65_536)
def _domains(host: str) -> tuple[str, ...]:
    """A host and all domains above it; an address stands for itself."""
    labels = host.rstrip(".").split(".")
    if host.replace(".", "").isdigit():
        return (host,)
    return tuple(".".join(labels[i:]) for i in range(len(labels)))


def in_scope(grant: Grant, url: str) -> bool:
    """Whether a URL is the one, or lies on the domain, that a grant is for."""
    if grant.scope_kind == "domain":
        return grant.scope in _domains(host_of(url))
    return grant.scope_kind == "url" and grant.scope == url


def _covers_pair(grant: Grant, evidence: Evidence) -> bool:
    if grant.scope_kind not in ("url", "domain") or grant.capacity == "site-operator":
        return True
    own = (evidence.image_url, *(hop.url for hop in evidence.hops or ()))
    if any(in_scope(grant, url) for url in own):
        return True
    return evidence.page_url is not None and same_site(evidence.page_url, evidence.image_url)


# ── judgements under them ──────────────────────────────────────────────────────────────────────────────────────────


def is_valid(grant: Grant, now: datetime) -> bool:
    """Whether a grant is in force: begun, not run out, not ended."""
    ended = grant.ended_at is not None and grant.ended_at <= now
    return grant.valid_from <= now and (grant.valid_to is None or now <= grant.valid_to) and not ended


# What these say is no statement of anybody: there is nothing that a grant could answer.
_NOT_SAID: Final = frozenset(
    {"not-asked", "not-observed", "evidence-stale", "evidence-incomplete", "fetch-failed", "mechanism-not-built"}
)
_LICENCE_CODES: Final = frozenset(
    {"licence-unknown", "licence-not-listed", "licence-denied", "licence-reserved", "licence-conflict"}
    | {"licence-share-alike", "licence-incompatible", "licence-no-derivatives"}
)
_FACE_CODES: Final = frozenset({"face-found", "face-without-consent", "face-not-blurred"})
_AGAINST: Final = frozenset({Stance.DENY, Stance.CONSTRAINED})
_UNTOLD: Final = frozenset({Stance.ERROR, Stance.UNREACHABLE})
_URL = re.compile(r"https?://[^\s,;\"']+")


def under_grants(judged: Judgement, evidence: Evidence, now: datetime) -> Judgement:
    """The judgement, or ALLOW naming the grant that covers its mechanism for this pair and is valid now.

    Of the licence rule's the reason's detail is "LicenseRef-<grant>", which is then the sample's licence.
    """
    if not evidence.grants or judged.verdict not in (Verdict.DENY, Verdict.DEFER):
        return judged
    covering = [g for g in evidence.grants if judged.mechanism in _gives(g) and is_valid(g, now)]
    covering = [g for g in covering if judged.mechanism in g.mechanisms and _answers(g, judged)]
    if not covering or not _enough(covering, judged, evidence):
        return judged
    grant = max(covering, key=lambda g: (g.valid_to is None, g.valid_to or now, g.grant))
    until = "without an end" if grant.valid_to is None else f"until {grant.valid_to:%Y-%m-%d}"
    said = f"{grant.grant} ({grant.capacity}, {until}): {judged.reason.code}"
    if judged.mechanism != "licence":
        return replace(judged, verdict=Verdict.ALLOW, reason=reason("granted", said))
    where = f"{said}; {judged.where}" if judged.where else said
    return replace(judged, verdict=Verdict.ALLOW, reason=reason("granted", LICENCE_PREFIX + grant.grant), where=where)


def _gives(grant: Grant) -> frozenset[str]:
    return CAPACITIES.get(grant.capacity, frozenset())


def _answers(grant: Grant, judged: Judgement) -> bool:
    """Whether what was said is a statement, and one that this giver may answer.

    A mechanism's own signals tell: one that could not be read, or nobody who answered, and it is not known what
    else would have been said. A site operator answers only for what the operator's own site said.
    """
    if judged.reason.code in _NOT_SAID:
        return False
    if judged.mechanism == "licence":
        return judged.reason.code in _LICENCE_CODES
    if judged.mechanism == "faces":
        return judged.reason.code in _FACE_CODES
    against = [s for s in judged.signals if s.stance in _AGAINST]
    if not against or any(s.stance in _UNTOLD for s in judged.signals):
        return False
    return grant.capacity != "site-operator" or all(_own(grant, s.where) for s in against)


def _own(grant: Grant, where: str) -> bool:
    """Whether a place of a signal ("https://a.example/robots.txt:12", "X-Robots-Tag, https://…") is the giver's."""
    hosts = {host_of(url) for url in _URL.findall(where)}
    if grant.scope_kind == "url":
        return hosts == {host_of(grant.scope)}
    return bool(hosts) and all(grant.scope in _domains(host) for host in hosts)


def _enough(covering: Sequence[Grant], judged: Judgement, evidence: Evidence) -> bool:
    """Of a face rule every person in the picture has to have consented: one giver a face."""
    if judged.mechanism != "faces":
        return True
    counted = re.match(r"(\d+) face", judged.reason.detail)
    faces = int(counted[1]) if counted else len(evidence.faces or ())
    return len({_name(g.giver) for g in covering}) >= faces
