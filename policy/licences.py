"""Licence claims: what they are in SPDX's words, what they cover, and what the ruleset's purpose makes of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from policy.evidence import Embedded, EmbeddedField, Evidence, LicenceClaim
from policy.judgements import judgement, not_observed, unless_stale
from policy.licence_words import (
    Terms,
    elements,
    licence_url,
    read_terms,
    share_alike_compatible,
    spdx_id,
    unported,
)
from policy.origins import host_of, same_site, site_of
from policy.people import changes_of
from policy.verdict import Judgement, Signal, Stance, Verdict

__all__ = [
    *("MECHANISM", "Attribution", "LicenceRules", "LicenceUse", "attribution", "covers", "embedded_claims"),
    *("judge_licence", "licence_url", "share_alike_compatible", "spdx_id"),
]

MECHANISM = "licence"

Use = Literal["allow", "deny", "share-alike"]


@dataclass(frozen=True, slots=True)
class LicenceUse:
    """What a licence means for each purpose; share-alike: allowed where the ruleset undertakes it."""

    commercial: Use
    research: Use


@dataclass(frozen=True, slots=True)
class LicenceRules:
    """The purpose x licence table and its edges.

    `unknown`: no recognised claim covers the image. `not_listed`: recognised, but no row in `table`; a ported
    licence (CC-BY-3.0-DE) falls back on the row of the unported one. `share_alike`: whether what is trained is shared
    under a compatible licence; `export_licence`: which one, an SPDX id, or "" where that is not settled yet.
    `asset_hosts`: a site (registrable domain or host) and the hosts that serve its images, which a page's licence
    then covers too.
    """

    purpose: Literal["commercial", "research"]
    max_age_days: int
    unknown: Literal["deny", "defer"]
    not_listed: Literal["deny", "defer"]
    share_alike: bool
    export_licence: str
    asset_hosts: Mapping[str, tuple[str, ...]]
    table: Mapping[str, LicenceUse]

    def __hash__(self) -> int:
        """One value for rules that differ in their tables alone: equality tells them apart."""
        return hash((self.purpose, self.unknown, self.not_listed, self.share_alike, self.export_licence))

    def __post_init__(self) -> None:
        if self.export_licence and (spdx_id(self.export_licence) or "") != self.export_licence:
            raise ValueError(f"export_licence {self.export_licence!r} is no SPDX id that is known")
        if self.export_licence and "SA" not in elements(self.export_licence):
            raise ValueError(f"export_licence {self.export_licence!r} does not share alike; leave it empty")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a licence asks to be said beside the work: title, author, source, licence (SPDX and its URL), changes."""

    title: str
    creator: str
    source_url: str
    licence: str
    licence_url: str
    changes: str


# ── what the image's own bytes claim ───────────────────────────────────────────────────────────────────────────────

# Property -> what kind of statement it is. The names are those of policy.signals.embedded.
_EMBEDDED_KINDS: Mapping[str, str] = {
    "cc:license": "licence",
    "dcterms:license": "licence",
    "xmpRights:WebStatement": "terms",
    "plus:LicensorURL": "terms",
    "plus:TermsAndConditionsURL": "terms",
    "cc:morePermissions": "terms",
    "xmpRights:UsageTerms": "rights",
    "plus:TermsAndConditionsText": "rights",
    "plus:OtherConstraints": "rights",
    "dc:rights": "rights",
    "dcterms:rights": "rights",
    "exif:Copyright": "rights",
    "iptc:CopyrightNotice": "rights",
    "xmpRights:Marked": "rights",
    "photoshop:Instructions": "rights",
    "iptc:SpecialInstructions": "rights",
}
# What is said of something else, or in passing: it may restrict, it neither permits nor is a statement of rights.
_NESTED = "nested/"
_IN_PASSING = frozenset({"photoshop:Instructions", "iptc:SpecialInstructions", "plus:OtherConstraints"})
_CREATORS = ("cc:attributionName", "dc:creator", "iptc:By-line", "iptc:Byline", "exif:Artist", "plus:ImageCreatorName")
_CREDITS = ("cc:attributionURL", "photoshop:Credit", "iptc:Credit")
_TITLES = ("dc:title", "iptc:ObjectName")
_IN_THE_BYTES = frozenset({"xmp", "exif", "iptc"})


def embedded_claims(embedded: Embedded) -> tuple[LicenceClaim, ...]:
    """The licence claims and rights statements in an image's XMP, EXIF and IPTC fields, of image scope."""
    if not embedded.fields:
        return ()
    said: dict[str, str] = {}
    for field in embedded.fields:
        said.setdefault(field.name, field.value)
    title, creator, credit = (
        next((said[name] for name in names if said.get(name)), None) for names in (_TITLES, _CREATORS, _CREDITS)
    )
    claims = (
        LicenceClaim(
            value=value,
            source=_source(field.name),
            scope="image",
            title=title,
            creator=creator,
            credit=credit,
            where=f"{field.name}, {field.where}" if field.where else field.name,
            kind=_EMBEDDED_KINDS[field.name.removeprefix(_NESTED)],
        )
        for field in embedded.fields
        if field.name.removeprefix(_NESTED) in _EMBEDDED_KINDS and (value := _said(field))
    )
    return tuple(dict.fromkeys(claims))


def _said(field: EmbeddedField) -> str:
    if field.name.endswith("xmpRights:Marked"):  # "true": a copyright is claimed; "false" is every tool's default
        return "Copyrighted (xmpRights:Marked)" if field.value.strip().lower() in ("true", "1") else ""
    return field.value.strip()


def _may_only_restrict(claim: LicenceClaim) -> bool:
    name = claim.where.partition(",")[0]
    return claim.source in _IN_THE_BYTES and (name.startswith(_NESTED) or name in _IN_PASSING)


def _source(name: str) -> str:
    prefix = name.removeprefix(_NESTED).partition(":")[0]
    return prefix if prefix in ("exif", "iptc") else "xmp"


def _all_claims(evidence: Evidence) -> tuple[LicenceClaim, ...]:
    """The claims of the image's own bytes, then those made beside it."""
    embedded = embedded_claims(evidence.embedded) if evidence.embedded is not None else ()
    return (*embedded, *(evidence.licence_claims or ()))


# ── what covers the image, and what the purpose makes of it ────────────────────────────────────────────────────────


def covers(claim: LicenceClaim, evidence: Evidence, rules: LicenceRules) -> bool:
    """Whether a claim speaks of this image: a page's does on the page's own site and its asset hosts only.

    Where the image's address leads on, the place that answered counts too: a page cannot license what it only links.
    """
    if claim.scope != "page":
        return claim.scope in ("image", "figure")
    if evidence.page_url is None:
        return False
    urls = [evidence.image_url]
    if evidence.hops and evidence.hops[-1].url != evidence.image_url:
        urls.append(evidence.hops[-1].url)
    return all(_of_the_site(url, evidence.page_url, rules) for url in urls)


def _of_the_site(url: str, page_url: str, rules: LicenceRules) -> bool:
    if same_site(page_url, url):
        return True
    page = host_of(page_url)
    return host_of(url) in (*rules.asset_hosts.get(page, ()), *rules.asset_hosts.get(site_of(page), ()))


# What a reading is: a licence; a condition in words that are no licence; a statement of reserved rights, or a mere
# copyright notice; a statement of rights in the image's own bytes that nobody can read here.
_Kind = Literal["licence", "condition", "reserved", "notice", "statement"]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A covering claim, read: what it is, its SPDX id where it is a licence, and what it makes of the image."""

    claim: LicenceClaim
    kind: _Kind
    verdict: Verdict
    code: str
    spdx: str = ""

    @property
    def rank(self) -> tuple[int, int]:
        """How much it restricts: the verdict first, then the number of obligations."""
        return _WEIGHT[self.verdict], _obligations(self.spdx)


_WEIGHT: Mapping[Verdict, int] = {Verdict.ALLOW: 0, Verdict.DEFER: 1, Verdict.DENY: 2}


@functools.lru_cache(maxsize=4_096)
def _obligations(spdx: str) -> int:
    return sum(len(elements(part)) for part in spdx.split(" AND ")) if spdx else 0


def _read(claim: LicenceClaim, rules: LicenceRules) -> tuple[_Reading, ...]:
    embedded = claim.source in _IN_THE_BYTES
    found = _meanings(claim.value, embedded and claim.kind != "licence", embedded and _may_only_restrict(claim), rules)
    return tuple(_Reading(claim, *meaning) for meaning in found)


# What a reading is beside its claim: kind, verdict, reason code, SPDX id.
_Meaning = tuple[_Kind, Verdict, str, str]


@functools.lru_cache(maxsize=65_536)
def _meanings(value: str, is_statement: bool, may_only_restrict: bool, rules: LicenceRules) -> tuple[_Meaning, ...]:
    """What a claim's value makes of an image under these rules."""
    terms = _terms(value, rules)
    found: list[_Meaning] = []
    if terms.any_of:
        # Where one may choose, the choice is the one that suits best.
        options = [_option(ids, rules) for ids in terms.any_of]
        found.append(min(options, key=lambda o: (_WEIGHT[o[1]], _obligations(o[3]))))
    elif terms.elements and (code := _condition(terms.elements, rules)) is not None:
        said = "-".join(("CC-BY", *terms.elements)) + " (without a version)"
        found.append(("condition", Verdict.DENY, code, said))
    if terms.reserved:
        found.append(("reserved" if terms.reserved == "all" else "notice", Verdict.DENY, "licence-reserved", ""))
    elif not found and is_statement:
        found.append(("statement", Verdict.DEFER, "licence-conflict", ""))
    if may_only_restrict:
        found = [m for m in found if m[0] in ("reserved", "condition") or (m[0] == "licence" and m[1] is Verdict.DENY)]
    return tuple(found)


def _terms(value: str, rules: LicenceRules) -> Terms:
    """What a claim's value comes to; an id that the ruleset's table lists counts whatever else knows it."""
    wanted = value.strip().lower()
    listed = next((spdx for spdx in rules.table if spdx.lower() == wanted), None)
    return Terms(((listed,),)) if listed else read_terms(value)


def _option(ids: Sequence[str], rules: LicenceRules) -> _Meaning:
    """Licences that hold together: the one that restricts most decides."""
    verdict, code = max((_weigh(spdx, rules) for spdx in ids), key=lambda weighed: _WEIGHT[weighed[0]])
    return "licence", verdict, code, " AND ".join(ids)


def _weigh(spdx: str, rules: LicenceRules) -> tuple[Verdict, str]:
    use = _use(spdx, rules)
    if use is None:
        return (Verdict.DENY if rules.not_listed == "deny" else Verdict.DEFER), "licence-not-listed"
    if use == "deny":
        return Verdict.DENY, "licence-denied"
    if use == "share-alike":
        if not rules.share_alike:
            return Verdict.DENY, "licence-share-alike"
        if rules.export_licence and not share_alike_compatible(spdx, rules.export_licence):
            return Verdict.DENY, "licence-incompatible"
    return Verdict.ALLOW, "licence-allowed"


def _use(spdx: str, rules: LicenceRules) -> Use | None:
    row = rules.table.get(spdx) or rules.table.get(unported(spdx))
    if row is None:
        return None
    return row.commercial if rules.purpose == "commercial" else row.research


def _condition(named: tuple[str, ...], rules: LicenceRules) -> str | None:
    """Why conditions that no version goes with forbid the use: judged as 4.0's, None where they do not."""
    kind = "BY-NC-ND" if {"NC", "ND"} <= set(named) else "-".join(("BY", *named))
    use = _use(f"CC-{kind}-4.0", rules) or "deny"
    if use == "share-alike":
        return "licence-share-alike"  # compatible with what, only a version could tell
    return "licence-denied" if use == "deny" else None


# ── the judgement ──────────────────────────────────────────────────────────────────────────────────────────────────


def judge_licence(evidence: Evidence, rules: LicenceRules, now: datetime) -> Judgement:
    """The most restrictive of the recognised claims that cover the image; reserved rights against a licence DEFER.

    Of an ALLOW the reason's detail is the SPDX id ("A AND B" where both hold), nothing else.
    """
    where = evidence.page_url or evidence.image_url
    if evidence.licence_claims is None and evidence.embedded is None:
        return not_observed(MECHANISM, "nobody looked for licence claims", where)
    read = [(claim, _read(claim, rules) if covers(claim, evidence, rules) else None) for claim in _all_claims(evidence)]
    signals = tuple(_signal(claim, readings) for claim, readings in read)
    judged = _decide([r for _, readings in read for r in readings or ()], evidence, rules, signals)
    if judged.verdict is not Verdict.DENY or judged.reason.code == "licence-unknown":
        judged = _unless_unseen(judged, evidence, where)
    return unless_stale(judged, evidence.observed_at, now, rules.max_age_days)


def _unless_unseen(judged: Judgement, evidence: Evidence, where: str) -> Judgement:
    """The judgement, or DEFER where a place was not looked at, or not read, in which more may be said."""
    if evidence.licence_claims is None:
        unseen = not_observed(MECHANISM, "nobody looked for licence claims", where)
    elif evidence.embedded is None and evidence.content_sha256 is not None:
        unseen = not_observed(MECHANISM, "the image's own metadata", evidence.image_url)
    elif evidence.embedded is not None and evidence.embedded.errors and judged.verdict is Verdict.ALLOW:
        detail = "; ".join(evidence.embedded.errors)
        unseen = judgement(MECHANISM, Verdict.DEFER, "licence-unreadable", detail, evidence.image_url)
    elif judged.verdict is Verdict.ALLOW and judged.where.split(", ")[1:2] == ["page"] and (lost := _unread(evidence)):
        # A claim for the whole page; what was made for this very image may have said otherwise.
        unseen = judgement(MECHANISM, Verdict.DEFER, "licence-unreadable", lost.value, _place(lost))
    else:
        return judged
    return replace(unseen, signals=judged.signals)


def _unread(evidence: Evidence) -> LicenceClaim | None:
    """Something of the page that speaks of rights and could not be read."""
    return next((claim for claim in evidence.licence_claims or () if claim.kind == "unread"), None)


def _decide(
    readings: list[_Reading], evidence: Evidence, rules: LicenceRules, signals: tuple[Signal, ...]
) -> Judgement:
    licences = [r for r in readings if r.kind in ("licence", "condition")]
    against = [r for r in readings if r.kind not in ("licence", "condition") and not _is_answered(r, licences)]
    reserved = [r for r in against if r.kind != "statement"]
    deciding = max(licences, key=lambda r: r.rank, default=None)
    if deciding is None or (reserved and deciding.verdict is Verdict.DEFER):
        if reserved:
            first = reserved[0]
            return judgement(
                MECHANISM, Verdict.DENY, "licence-reserved", first.claim.value, _place(first.claim), signals
            )
        return _unknown(evidence, rules, signals)
    where = _place(deciding.claim)
    if deciding.verdict is not Verdict.ALLOW:
        detail = f"{deciding.spdx} for {rules.purpose} use"
        if deciding.code == "licence-incompatible":
            detail = f"{deciding.spdx} in what is shared under {rules.export_licence}"
        return judgement(MECHANISM, deciding.verdict, deciding.code, detail, where, signals)
    # What stands in the image's own bytes and cannot be read is a conflict with what somebody else says of it.
    statements = [r for r in against if r.kind == "statement"]
    if objection := next(iter((*reserved, *statements)), None):
        detail = f"{objection.claim.value!r} against {deciding.spdx}"
        return judgement(MECHANISM, Verdict.DEFER, "licence-conflict", detail, _place(objection.claim), signals)
    if evidence.transforms and (kept_whole := next((r for r in licences if _forbids_changes(r.spdx)), None)):
        # A part of it was painted over, which is more than the change of size or format that every licence permits.
        detail = f"{kept_whole.spdx}, and {changes_of(evidence.transforms)}"
        place = _place(kept_whole.claim)
        return judgement(MECHANISM, Verdict.DENY, "licence-no-derivatives", detail, place, signals)
    return judgement(MECHANISM, Verdict.ALLOW, deciding.code, deciding.spdx, where, signals)


def _forbids_changes(spdx: str) -> bool:
    """Whether a licence, or one of those that hold together, lets nobody share what was adapted (ND)."""
    return any("ND" in elements(part) for part in spdx.split(" AND "))


def _unknown(evidence: Evidence, rules: LicenceRules, signals: tuple[Signal, ...]) -> Judgement:
    verdict = Verdict.DENY if rules.unknown == "deny" else Verdict.DEFER
    detail = "; ".join(f"{c.value} ({c.source}, {c.scope})" for c in _all_claims(evidence)) or "no claim"
    return judgement(MECHANISM, verdict, "licence-unknown", detail, signals=signals)


_NEARNESS: Mapping[str, int] = {"image": 0, "figure": 1, "page": 2}


def _is_answered(reading: _Reading, licences: list[_Reading]) -> bool:
    """Whether a copyright notice, or a statement, goes with a licence that the same source states.

    Whoever grants a Creative Commons licence is its copyright's holder, and says so. A notice of the whole page gives
    way to a licence that is nearer to the image. Rights that are reserved in so many words give way to nothing.
    """
    if reading.kind == "reserved":
        return False
    ours, near = _place_group(reading.claim), _NEARNESS.get(reading.claim.scope, 2)
    embedded = reading.claim.source in _IN_THE_BYTES
    return any(
        _place_group(r.claim) == ours or (not embedded and _NEARNESS.get(r.claim.scope, 2) < near) for r in licences
    )


def _place_group(claim: LicenceClaim) -> tuple[str, str]:
    """What a claim was made together with: the image's bytes, the object of linked data, the figure, the page."""
    if claim.source in _IN_THE_BYTES:
        return "bytes", ""
    if claim.scope == "page":
        return "page", ""
    return f"{claim.scope} {claim.source}", claim.where.rpartition("/")[0]


def _place(claim: LicenceClaim) -> str:
    place = f"{claim.source}, {claim.scope}"
    return f"{place}, {claim.where}" if claim.where else place


def _signal(claim: LicenceClaim, readings: tuple[_Reading, ...] | None) -> Signal:
    if readings is None:
        return Signal(MECHANISM, f"{_place(claim)}, does not cover the image", Stance.UNSET, claim.value)
    stated = [r.verdict for r in readings if r.kind != "statement"]
    if not stated:
        return Signal(MECHANISM, _place(claim), Stance.UNSET, claim.value)
    stance = Stance.ALLOW if all(v is Verdict.ALLOW for v in stated) else Stance.DENY
    return Signal(MECHANISM, _place(claim), stance, claim.value)


# ── attribution ────────────────────────────────────────────────────────────────────────────────────────────────────


def attribution(
    evidence: Evidence, spdx: str, changes: str = "resized, re-encoded as JPEG without metadata"
) -> Attribution:
    """The attribution of a sample that is used under `spdx`: each part from the nearest claim that names it.

    A claim of page scope counts where it states that licence: only then is the decision sure to rest on it. A
    credit that is an address (cc:attributionURL) is the source that the licensor wants to be named.
    """
    claims = [c for c in _all_claims(evidence) if not _may_only_restrict(c)]
    claims = [c for c in claims if c.scope in ("image", "figure") or _states(c.value, spdx)]
    claims.sort(key=lambda c: (not _states(c.value, spdx), _NEARNESS.get(c.scope, 3)))
    credits = [c.credit for c in claims if c.credit]
    address = next((credit for credit in credits if _is_address(credit)), None)
    return Attribution(
        title=next((c.title for c in claims if c.title), ""),
        creator=next(iter(_creators(claims)), ""),
        source_url=address or evidence.page_url or evidence.image_url,
        licence=spdx,
        licence_url=licence_url(spdx),
        changes=changes,
    )


def _creators(claims: Sequence[LicenceClaim]) -> Iterator[str]:
    for claim in claims:
        if claim.creator:
            yield claim.creator
        elif claim.credit and not _is_address(claim.credit):
            yield claim.credit


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def _states(value: str, spdx: str) -> bool:
    if value.strip().lower() == spdx.lower():
        return True
    return any(spdx == " AND ".join(ids) for ids in read_terms(value).any_of)
