"""Licence claims: what they are in SPDX's words, what they cover, and what the ruleset's purpose makes of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from policy.evidence import Evidence, LicenceClaim
from policy.judgements import judgement, not_observed, unless_stale
from policy.origins import host_of, same_site, site_of
from policy.verdict import Judgement, Signal, Stance, Verdict

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
    licence (CC-BY-3.0-DE) falls back on the row of the unported one. `asset_hosts`: a site (registrable domain or
    host) and the hosts that serve its images, which a page's licence then covers too.
    """

    purpose: Literal["commercial", "research"]
    max_age_days: int
    unknown: Literal["deny", "defer"]
    not_listed: Literal["deny", "defer"]
    share_alike: bool
    asset_hosts: Mapping[str, tuple[str, ...]]
    table: Mapping[str, LicenceUse]


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a licence asks to be said beside the work: title, author, source, licence (SPDX and its URL), changes."""

    title: str
    creator: str
    source_url: str
    licence: str
    licence_url: str
    changes: str


# ── claims to SPDX ids ─────────────────────────────────────────────────────────────────────────────────────────────

# SPDX has ids for these ports only; any other port has the same elements as the unported text.
_PORTS = frozenset(
    {"CC-BY-2.5-AU", "CC-BY-3.0-AT", "CC-BY-3.0-AU", "CC-BY-3.0-DE", "CC-BY-3.0-IGO", "CC-BY-3.0-NL", "CC-BY-3.0-US"}
    | {"CC-BY-NC-3.0-DE", "CC-BY-NC-ND-3.0-DE", "CC-BY-NC-ND-3.0-IGO", "CC-BY-NC-SA-2.0-DE", "CC-BY-NC-SA-2.0-FR"}
    | {"CC-BY-NC-SA-2.0-UK", "CC-BY-NC-SA-3.0-DE", "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-3.0-DE", "CC-BY-SA-2.0-UK"}
    | {"CC-BY-SA-2.1-JP", "CC-BY-SA-3.0-AT", "CC-BY-SA-3.0-DE", "CC-BY-SA-3.0-IGO"}
)
_ELEMENTS = ("BY", "NC", "ND", "SA")
_LICENCES = frozenset({"BY", "BY-NC", "BY-ND", "BY-SA", "BY-NC-ND", "BY-NC-SA"})
_VERSIONS = frozenset({"1.0", "2.0", "2.5", "3.0", "4.0"})

_URL = re.compile(
    r"(?:https?:)?//(?:www\.|mirrors\.)?creativecommons\.org/"
    r"(?P<area>licen[sc]es|publicdomain)/(?P<name>[a-z-]+)/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3}|scotland))?"
    r"(?:/(?:deed|legalcode|rdf|legalcode-plain)?(?:\.[a-z_-]{2,12})?)?/?(?:[?#].*)?\Z",
    re.IGNORECASE,
)
_SPDX_URL = re.compile(r"(?:https?:)?//(?:www\.)?spdx\.org/licenses/(?P<id>[A-Za-z0-9.+-]+?)(?:\.html|\.json)?/?\Z")
_ABBREVIATED = re.compile(
    r"(?:cc|\(cc\)|creative[ -]commons)[ -]+(?P<elements>(?:by|nc|nd|sa)(?:[ -](?:by|nc|nd|sa))*)[ -]*"
    r"(?:v(?:ersion)?[ .]?)?(?P<version>\d\.\d)(?:[ -](?P<port>[a-z]{2,3}|international|unported|generic))?"
    r"(?: licen[sc]e| deed)?\Z",
    re.IGNORECASE,
)
_WRITTEN_OUT = re.compile(
    r"(?:creative[ -]commons[ -]+|cc[ -]+)?(?P<words>attribution(?:[ -]+(?:non[ -]?commercial|no[ -]?deriv(?:ative)?s?"
    r"(?:[ -]works)?|share[ -]?alike))*)[ -]+(?:licen[sc]e[ -]+)?(?:v(?:ersion)?[ .]?)?(?P<version>\d\.\d)"
    r"(?:[ -]+(?:international|unported|generic|(?P<port>[a-z]{2,3})))?(?:[ -]+(?:public )?licen[sc]e)?"
    r"(?:[ -]*\(cc[ -]by[a-z0-9. -]*\))?\Z",
    re.IGNORECASE,
)
_ZERO = re.compile(
    r"(?:cc[ -]?0|creative commons (?:cc[ -]?0|zero))(?:[ -]?(?:v(?:ersion)?[ .]?)?1\.0)?(?: universal)?"
    r"(?: public domain dedication)?(?: licen[sc]e)?\Z",
    re.IGNORECASE,
)
_MARK = re.compile(r"(?:cc[ -]?pdm|pdm|(?:creative commons )?public domain mark)(?:[ -]1\.0)?\Z", re.IGNORECASE)
_RESERVED = re.compile(
    r"all rights? reserved|tous droits r[ée]serv[ée]s|alle rechte vorbehalten|todos los derechos reservados"
    r"|tutti i diritti riservati|todos os direitos reservados|alle rechten voorbehouden"
    r"|©|\(c\) ?\d{4}|\bcopyright(?:ed)?\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=65_536)
def spdx_id(value: str) -> str | None:
    """The SPDX id of a Creative Commons licence, CC0 or the Public Domain Mark, by URL or name; None: none of these.

    A name without its version ("CC BY") is no licence that could be looked up.
    """
    text = " ".join(value.replace("\u2013", "-").replace("\u2010", "-").replace("_", " ").split()).strip(" .")
    if len(text) > 500:
        return None
    if url := _URL.match(text):
        name, port = url["name"].lower(), (url["port"] or "").upper()
        if url["area"].lower() == "publicdomain":
            return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0"}.get(name) if url["version"] == "1.0" else None
        return _creative_commons(name.split("-"), url["version"], port)
    if listed := _SPDX_URL.match(text):
        return spdx_id(listed["id"])
    if short := _ABBREVIATED.match(text):
        port = (short["port"] or "").upper()
        return _creative_commons(re.split("[ -]", short["elements"]), short["version"], port)
    if written := _WRITTEN_OUT.match(text):
        return _creative_commons(_elements_of(written["words"]), written["version"], (written["port"] or "").upper())
    if _ZERO.match(text):
        return "CC0-1.0"
    return "CC-PDM-1.0" if _MARK.match(text) else None


def _elements_of(words: str) -> list[str]:
    words = words.lower()
    spelt = (("by", "attribution"), ("nc", "commercial"), ("nd", "deriv"), ("sa", "alike"))
    return [short for short, long in spelt if long in words]


def _creative_commons(elements: list[str], version: str, port: str) -> str | None:
    named = {element.upper() for element in elements}
    # Version 1.0 wrote its elements in another order ("by-nd-nc"); SPDX knows one order.
    name = "-".join(element for element in _ELEMENTS if element in named)
    if name not in _LICENCES or not named <= set(_ELEMENTS):
        return None
    ported = f"CC-{name}-{version}-{port}"
    if ported in _PORTS:
        return ported
    return f"CC-{name}-{version}" if version in _VERSIONS else None


def licence_url(spdx: str) -> str:
    """Where a licence's text is: the deed of a Creative Commons licence, else SPDX's page."""
    if spdx == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    if spdx == "CC-PDM-1.0":
        return "https://creativecommons.org/publicdomain/mark/1.0/"
    if match := re.match(r"CC-(?P<name>[A-Z-]+)-(?P<version>\d\.\d)(?:-(?P<port>[A-Z]+))?\Z", spdx):
        name = "by-nd-nc" if (match["name"], match["version"]) == ("BY-NC-ND", "1.0") else match["name"].lower()
        port = f"{match['port'].lower()}/" if match["port"] else ""
        return f"https://creativecommons.org/licenses/{name}/{match['version']}/{port}"
    if spdx.startswith("LicenseRef-"):
        return ""  # an agreement with its giver, which the ledger knows by its id, and no public text
    return f"https://spdx.org/licenses/{spdx}.html"


# ── what covers the image, and what the purpose makes of it ────────────────────────────────────────────────────────


def covers(claim: LicenceClaim, evidence: Evidence, rules: LicenceRules) -> bool:
    """Whether a claim speaks of this image: a page's does on the page's own site and its asset hosts only."""
    if claim.scope != "page":
        return claim.scope in ("image", "figure")
    if evidence.page_url is None:
        return False
    page, image = host_of(evidence.page_url), host_of(evidence.image_url)
    assets = (*rules.asset_hosts.get(page, ()), *rules.asset_hosts.get(site_of(page), ()))
    return same_site(evidence.page_url, evidence.image_url) or image in assets


@dataclass(frozen=True, slots=True)
class _Reading:
    """A covering claim, read: its SPDX id (None: a statement of reserved rights) and what it makes of the image."""

    claim: LicenceClaim
    spdx: str | None
    verdict: Verdict
    code: str

    @property
    def rank(self) -> tuple[int, int]:
        """How much it restricts: the verdict first, then the number of obligations."""
        weight = {Verdict.ALLOW: 0, Verdict.DEFER: 1, Verdict.DENY: 2}[self.verdict]
        return weight, (self.spdx or "").count("-")


def recognise(value: str, rules: LicenceRules) -> str | None:
    """The SPDX id of a claim's value: a Creative Commons one, or an id that the ruleset's table lists."""
    if known := spdx_id(value):
        return known
    text = value.strip()
    named = _SPDX_URL.match(text)
    wanted = (named["id"] if named else text).lower()
    return next((listed for listed in rules.table if listed.lower() == wanted), None)


def _read(claim: LicenceClaim, rules: LicenceRules) -> _Reading | None:
    spdx = recognise(claim.value, rules)
    if spdx is None:
        reserved = _RESERVED.search(claim.value) is not None
        return _Reading(claim, None, Verdict.DENY, "licence-reserved") if reserved else None
    use = _use(spdx, rules)
    if use is None:
        verdict = Verdict.DENY if rules.not_listed == "deny" else Verdict.DEFER
        return _Reading(claim, spdx, verdict, "licence-not-listed")
    if use == "share-alike" and not rules.share_alike:
        return _Reading(claim, spdx, Verdict.DENY, "licence-share-alike")
    if use == "deny":
        return _Reading(claim, spdx, Verdict.DENY, "licence-denied")
    return _Reading(claim, spdx, Verdict.ALLOW, "licence-allowed")


def _use(spdx: str, rules: LicenceRules) -> Use | None:
    row = rules.table.get(spdx) or rules.table.get(re.sub(r"(?<=\d)-[A-Z]+\Z", "", spdx))
    if row is None:
        return None
    return row.commercial if rules.purpose == "commercial" else row.research


def judge_licence(evidence: Evidence, rules: LicenceRules, now: datetime) -> Judgement:
    """The most restrictive of the recognised claims that cover the image; reserved rights against a licence DEFER.

    Of an ALLOW the reason's detail is the SPDX id, nothing else.
    """
    if evidence.licence_claims is None:
        return not_observed(MECHANISM, "nobody looked for licence claims", evidence.page_url or evidence.image_url)
    covering = [claim for claim in evidence.licence_claims if covers(claim, evidence, rules)]
    readings = [r for claim in covering if (r := _read(claim, rules)) is not None]
    signals = tuple(_signal(claim, evidence, rules) for claim in evidence.licence_claims)
    judged = _decide(readings, evidence, rules, signals)
    return unless_stale(judged, evidence.observed_at, now, rules.max_age_days)


def _decide(
    readings: list[_Reading], evidence: Evidence, rules: LicenceRules, signals: tuple[Signal, ...]
) -> Judgement:
    if not readings:
        verdict = Verdict.DENY if rules.unknown == "deny" else Verdict.DEFER
        claims = evidence.licence_claims or ()
        detail = "; ".join(f"{c.value} ({c.source}, {c.scope})" for c in claims) or "no claim"
        return judgement(MECHANISM, verdict, "licence-unknown", detail, signals=signals)
    deciding = max(readings, key=lambda r: r.rank)
    where = _place(deciding.claim)
    if deciding.spdx is None:
        freer = next((r for r in readings if r.verdict is Verdict.ALLOW), None)
        if freer is None:
            return judgement(MECHANISM, Verdict.DENY, "licence-reserved", deciding.claim.value, where, signals)
        detail = f"{deciding.claim.value!r} against {freer.spdx}"
        return judgement(MECHANISM, Verdict.DEFER, "licence-conflict", detail, where, signals)
    detail = deciding.spdx if deciding.verdict is Verdict.ALLOW else f"{deciding.spdx} for {rules.purpose} use"
    return judgement(MECHANISM, deciding.verdict, deciding.code, detail, where, signals)


def _place(claim: LicenceClaim) -> str:
    place = f"{claim.source}, {claim.scope}"
    return f"{place}, {claim.where}" if claim.where else place


def _signal(claim: LicenceClaim, evidence: Evidence, rules: LicenceRules) -> Signal:
    if not covers(claim, evidence, rules):
        return Signal(MECHANISM, f"{_place(claim)}, does not cover the image", Stance.UNSET, claim.value)
    reading = _read(claim, rules)
    if reading is None:
        return Signal(MECHANISM, _place(claim), Stance.UNSET, claim.value)
    stance = Stance.ALLOW if reading.verdict is Verdict.ALLOW else Stance.DENY
    return Signal(MECHANISM, _place(claim), stance, claim.value)


def attribution(
    evidence: Evidence, spdx: str, changes: str = "resized, re-encoded as JPEG without metadata"
) -> Attribution:
    """The attribution of a sample that is used under `spdx`: each part from the nearest claim that names it.

    A claim of page scope counts where it states that licence: only then is the decision sure to rest on it.
    """
    nearness = {"image": 0, "figure": 1, "page": 2}
    stated = [c for c in evidence.licence_claims or () if c.scope in ("image", "figure") or _states(c.value, spdx)]
    claims = sorted(stated, key=lambda c: (not _states(c.value, spdx), nearness.get(c.scope, 3)))
    return Attribution(
        title=next((c.title for c in claims if c.title), ""),
        creator=next((c.creator or c.credit or "" for c in claims if c.creator or c.credit), ""),
        source_url=evidence.page_url or evidence.image_url,
        licence=spdx,
        licence_url=licence_url(spdx),
        changes=changes,
    )


def _states(value: str, spdx: str) -> bool:
    return (spdx_id(value) or value.strip()).lower() == spdx.lower()
