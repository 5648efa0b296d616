"""Grants: what each giver may give, for which pairs, until when; and what becomes of a no under one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.errors import InputError
from policy.evidence import Document, Embedded, Evidence, Face, Grant, Hop, LicenceClaim, OriginEvidence
from policy.grants import CAPACITIES, Grants, check, under_grants
from policy.judgements import judgement
from policy.ledger import Ledger
from policy.licences import attribution
from policy.ruleset import KNOWN, Ruleset, judge
from policy.verdict import Judgement, Signal, Stance, Verdict

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
RULES = Ruleset.default()
ROBOTS = b"User-agent: *\nDisallow: /private/\n"
PAIR = Evidence(
    page_url="https://www.museum.example/rooms/1",
    image_url="https://www.museum.example/private/a.jpg",
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(
        OriginEvidence(
            "https://www.museum.example",
            (("robots", Document("https://www.museum.example/robots.txt", 200, NOW, (), ROBOTS, "0" * 64)),),
        ),
    ),
    page_headers=(),
    page_meta=(),
    hops=(Hop("https://www.museum.example/private/a.jpg", 200, (("X-Robots-Tag", "noai"),)),),
    licence_claims=(LicenceClaim("All rights reserved", "meta", "image", creator="Ada  Lovelace"),),
    content_sha256="ab" * 32,
    embedded=Embedded("image/jpeg"),
    faces=(Face(1, 1, 9, 9, 0.9),),
)


def grant(
    capacity: str = "rights-holder",
    scope_kind: str = "domain",
    scope: str = "museum.example",
    mechanisms: Iterable[str] | None = None,
    **changes: object,
) -> Grant:
    """A grant that is valid now and covers all that its giver may give."""
    given = tuple(sorted(CAPACITIES[capacity])) if mechanisms is None else tuple(mechanisms)
    one = Grant("grant-0a1b2c3d4e5f", "A. Giver", capacity, scope_kind, scope, given, NOW, None, "0" * 64)
    return replace(one, **changes)  # type: ignore[arg-type]


def under(mechanism: str, *grants: Grant, pair: Evidence = PAIR, now: datetime = NOW) -> Judgement:
    """What the strict ruleset makes of the pair with these grants on record."""
    found = Grants.load([_row(g) for g in grants]).grants_for(pair)
    return judge(RULES, mechanism, replace(pair, grants=found), now)


def _row(g: Grant) -> tuple[object, ...]:
    times = (g.valid_from, g.valid_to, g.document_sha256, g.ended_at)
    return (g.grant, g.giver, g.capacity, g.scope_kind, g.scope, ",".join(g.mechanisms), *times)


# ── what may be given ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mechanism", sorted(KNOWN | {"removal/removal-1", "nonsense", ""}))
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_nobody_gives_what_is_not_theirs(capacity: str, mechanism: str) -> None:
    """Tombstones, lists, safety, duplicates, size, text and holds by nobody; each other mechanism by its giver."""
    covered = {
        "rights-holder": "ai_agents content_usage content_signal rsl tdmrep x_robots ai_txt trust_txt xmp c2pa licence",
        "site-operator": "robots ai_agents content_usage content_signal x_robots ai_txt trust_txt",
        "depicted-person": "faces",
    }
    if mechanism in covered[capacity].split():
        check(capacity, "domain", [mechanism], "A. Giver")
    else:
        with pytest.raises(InputError) as refusal:
            check(capacity, "domain", [mechanism], "A. Giver")
        others = [c for c, names in covered.items() if mechanism in names.split()]
        assert all(f"a {other}" in str(refusal.value) for other in others)


@pytest.mark.parametrize(
    ("capacity", "scope_kind", "mechanisms", "giver"),
    [
        ("rights-holder", "url", ["licence"], " "),
        ("rights-holder", "url", [], "A. Giver"),
        ("passer-by", "url", ["licence"], "A. Giver"),
        ("site-operator", "sha256", ["robots"], "A. Giver"),
        ("site-operator", "creator", ["robots"], "A. Giver"),
    ],
)
def test_a_grant_of_nobody_or_nothing_is_none(
    capacity: str, scope_kind: str, mechanisms: list[str], giver: str
) -> None:
    """Giver, something that is covered, and a scope that the giver can speak for."""
    with pytest.raises(InputError):
        check(capacity, scope_kind, mechanisms, giver)


# ── for which pairs ────────────────────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = replace(
    PAIR, image_url="https://cdn.other.example/a.jpg", hops=(Hop("https://cdn.other.example/a.jpg", 200, ()),)
)


@pytest.mark.parametrize(
    ("capacity", "scope_kind", "scope", "pair", "covered"),
    [
        ("rights-holder", "url", "https://www.museum.example/private/a.jpg", PAIR, True),
        ("rights-holder", "url", "https://www.museum.example/rooms/1", PAIR, True),
        ("rights-holder", "url", "https://www.museum.example/rooms/", PAIR, False),
        ("rights-holder", "url", "https://www.museum.example/rooms/1", ELSEWHERE, False),
        ("rights-holder", "domain", "museum.example", PAIR, True),
        ("rights-holder", "domain", "www.museum.example", PAIR, True),
        ("rights-holder", "domain", "useum.example", PAIR, False),
        ("rights-holder", "domain", "api.museum.example", PAIR, False),
        ("rights-holder", "domain", "museum.example", ELSEWHERE, False),
        ("rights-holder", "domain", "other.example", ELSEWHERE, True),
        ("rights-holder", "creator", "ADA lovelace", PAIR, True),
        ("rights-holder", "creator", "Ada", PAIR, False),
        ("rights-holder", "sha256", "ab" * 32, PAIR, True),
        ("rights-holder", "sha256", "ac" * 32, PAIR, False),
        ("site-operator", "domain", "museum.example", ELSEWHERE, True),
        ("depicted-person", "domain", "museum.example", ELSEWHERE, False),
    ],
)
def test_a_grant_is_for_what_it_names(
    capacity: str, scope_kind: str, scope: str, pair: Evidence, covered: bool
) -> None:
    """A page and its site cover the site's own pictures; a picture on another host has its own."""
    one = grant(capacity, scope_kind, scope)
    assert Grants.load([_row(one)]).grants_for(pair) == ((one,) if covered else ())


def test_a_redirects_host_is_the_pictures_too() -> None:
    """Who holds the rights of a domain gives them for what is delivered from it."""
    hops = (Hop(ELSEWHERE.image_url, 302, ()), Hop("https://files.third.example/a.jpg", 200, ()))
    one = grant(scope="third.example")
    assert Grants.load([_row(one)]).grants_for(replace(ELSEWHERE, hops=hops)) == (one,)


def test_a_creator_named_by_a_page_is_not_that_of_a_strangers_picture() -> None:
    """A page's claim speaks of its own site's pictures; a claim near the picture of that picture."""
    one = grant(scope_kind="creator", scope="ada lovelace")
    claim = LicenceClaim("CC0", "meta", "page", creator="Ada Lovelace")
    grants = Grants.load([_row(one)])
    assert grants.grants_for(replace(PAIR, licence_claims=(claim,))) == (one,)
    assert grants.grants_for(replace(ELSEWHERE, licence_claims=(claim,))) == ()
    assert grants.grants_for(replace(ELSEWHERE, licence_claims=(replace(claim, scope="figure"),))) == (one,)


def test_a_grant_found_twice_is_one() -> None:
    """By page and picture, or by two hops: it is listed once."""
    assert len(Grants.load([_row(grant())]).grants_for(PAIR)) == 1


# ── what becomes of a no ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_statement_that_is_covered_becomes_a_permission_that_names_its_grant() -> None:
    """The verdict changes, what was said stays on record, and the reason says on what the permission rests."""
    said = under("x_robots", grant(valid_to=NOW + timedelta(days=40)))
    assert under("x_robots").verdict is Verdict.DENY
    assert (said.verdict, said.reason.code) == (Verdict.ALLOW, "granted")
    assert said.reason.detail == "grant-0a1b2c3d4e5f (rights-holder, until 2026-12-31): x-robots-noai"
    assert Stance.DENY in {signal.stance for signal in said.signals}
    assert "A. Giver" not in repr(said)


@pytest.mark.parametrize(
    "changes",
    [
        {"valid_from": NOW + timedelta(seconds=1)},
        {"valid_to": NOW - timedelta(seconds=1)},
        {"ended_at": NOW},
        {"mechanisms": ("tdmrep",)},
        {"scope": "other.example"},
    ],
)
def test_a_grant_that_is_not_in_force_covers_nothing(changes: dict[str, object]) -> None:
    """Not begun, run out, ended, for another mechanism or another site: the no stands."""
    assert under("x_robots", grant()).verdict is Verdict.ALLOW
    assert under("x_robots", replace(grant(), **changes)) == under("x_robots")  # type: ignore[arg-type]


def test_a_permission_falls_with_its_grant() -> None:
    """The same evidence, judged after the grant's last day, is denied again."""
    one = grant(valid_to=NOW + timedelta(days=2))
    assert under("x_robots", one, now=NOW + timedelta(days=2)).verdict is Verdict.ALLOW
    assert under("x_robots", one, now=NOW + timedelta(days=2, seconds=1)).verdict is Verdict.DENY


def test_of_several_grants_the_one_that_lasts_longest_is_named() -> None:
    """A decision changes only when what it rests on does."""
    short = grant(grant="grant-000000000001", valid_to=NOW + timedelta(days=1))
    long = grant(grant="grant-000000000002", valid_to=NOW + timedelta(days=9))
    assert under("x_robots", short, long) == under("x_robots", long, short)
    assert under("x_robots", short, long).reason.detail.startswith("grant-000000000002 (")


@pytest.mark.parametrize("stance", [Stance.ERROR, Stance.UNREACHABLE])
@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.DEFER])
def test_what_could_not_be_read_is_covered_by_nobody(stance: Stance, verdict: Verdict) -> None:
    """Beside a no that was read, too: what else would have been said is not known."""
    pair = replace(PAIR, grants=(grant(),))
    no = Signal("tdmrep", "https://www.museum.example/", Stance.DENY)
    unread = judgement("tdmrep", verdict, "tdmrep-unreachable", signals=(replace(no, stance=stance),))
    assert under_grants(unread, pair, NOW) is unread
    both = replace(unread, signals=(*unread.signals, no))
    assert under_grants(both, pair, NOW) is both
    assert under_grants(replace(unread, signals=(no,)), pair, NOW).verdict is Verdict.ALLOW


@pytest.mark.parametrize("code", ["not-observed", "evidence-stale", "evidence-incomplete", "mechanism-not-built"])
def test_silence_is_covered_by_nobody(code: str) -> None:
    """What was never looked at, or too long ago, stays out whoever agrees."""
    no = Signal("licence", "x", Stance.DENY)
    for mechanism in ("licence", "x_robots", "xmp"):
        silent = judgement(mechanism, Verdict.DEFER, code, signals=(replace(no, mechanism=mechanism),))
        assert under_grants(silent, replace(PAIR, grants=(grant(),)), NOW) is silent


def test_a_condition_is_a_statement() -> None:
    """Against payment, or constrained: that is what an agreement answers."""
    constrained = judgement(
        "rsl", Verdict.DENY, "robots-disallow", signals=(Signal("rsl", "x", Stance.CONSTRAINED, "payment"),)
    )
    assert under_grants(constrained, replace(PAIR, grants=(grant(),)), NOW).reason.code == "granted"


def test_unset_and_allow_stay_as_they_are() -> None:
    """A grant answers a no; where there is none it has nothing to say."""
    for verdict in (None, Verdict.ALLOW):
        said = judgement("x_robots", verdict, "x-robots-absent")
        assert under_grants(said, replace(PAIR, grants=(grant(),)), NOW) is said


@pytest.mark.parametrize("mechanism", ["tombstone", "registry", "size", "text", "safety", "duplicate"])
def test_no_grant_reaches_what_none_may_cover_though_its_row_says_so(mechanism: str) -> None:
    """A row that claims more than its giver may give (another version, another hand) covers no more for that."""
    no = judgement(mechanism, Verdict.DENY, "tombstoned", signals=(Signal(mechanism, "x", Stance.DENY),))
    for capacity in CAPACITIES:
        wide = grant(capacity, mechanisms=sorted(KNOWN))
        assert under_grants(no, replace(PAIR, grants=(wide,)), NOW) is no
    robots = judge(RULES, "robots", replace(PAIR, grants=(grant(mechanisms=["robots"]),)), NOW)
    assert robots.verdict is Verdict.DENY


# ── a site operator ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_site_operator_opens_the_own_robots_txt() -> None:
    """The rule of access is the site's, and so is the exception."""
    said = under("robots", grant("site-operator"))
    assert (said.verdict, said.reason.code) == (Verdict.ALLOW, "granted")
    assert said.reason.detail.endswith(": robots-disallow")
    assert under("robots", grant("site-operator", "url", PAIR.image_url)).verdict is Verdict.ALLOW
    assert under("robots", grant("rights-holder")).verdict is Verdict.DENY


def test_a_site_operator_does_not_open_anothers() -> None:
    """The page's operator has no say over the host of the picture, nor over a redirect's."""
    other = OriginEvidence(
        "https://cdn.other.example",
        (
            (
                "robots",
                Document("https://cdn.other.example/robots.txt", 200, NOW, (), b"User-agent: *\nDisallow: /", "1" * 64),
            ),
        ),
    )
    pair = replace(ELSEWHERE, origins=(*PAIR.origins, other))
    page, host = grant("site-operator"), grant("site-operator", scope="other.example", grant="grant-000000000002")
    assert under("robots", page, pair=pair).verdict is Verdict.DENY
    assert under("robots", host, pair=pair).verdict is Verdict.ALLOW
    both_say_no = replace(pair, page_url="https://www.museum.example/private/")
    assert under("robots", page, host, pair=both_say_no).verdict is Verdict.DENY


def test_a_site_operator_answers_for_the_headers_of_the_own_host() -> None:
    """A header of a hop says whose it is."""
    hops = (Hop("https://cdn.other.example/a.jpg", 200, (("X-Robots-Tag", "noai"),)),)
    pair = replace(ELSEWHERE, hops=hops)
    assert under("x_robots", grant("site-operator"), pair=pair).verdict is Verdict.DENY
    assert under("x_robots", grant("site-operator", scope="other.example"), pair=pair).verdict is Verdict.ALLOW


def test_the_gate_lets_in_what_the_operator_of_that_host_agreed_to() -> None:
    """Before anything is contacted only the URL is known: its own host's operator, robots covered, valid now."""
    grants = Grants.load([_row(grant("site-operator", mechanisms=["robots"], valid_to=NOW + timedelta(days=1)))])
    assert grants.may_fetch(PAIR.image_url, "robots", NOW)
    assert not grants.may_fetch(PAIR.image_url, "x_robots", NOW)
    assert not grants.may_fetch("https://cdn.other.example/a.jpg", "robots", NOW)
    assert not grants.may_fetch(PAIR.image_url, "robots", NOW + timedelta(days=2))
    assert not Grants.load([_row(grant(mechanisms=["robots"]))]).may_fetch(PAIR.image_url, "robots", NOW)


# ── licences ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ((), "licence-unknown"),
        (("All rights reserved",), "licence-reserved"),
        (("https://creativecommons.org/licenses/by-nd/4.0/",), "licence-denied"),
        (("https://creativecommons.org/licenses/by-sa/4.0/",), "licence-share-alike"),
        (("All rights reserved", "https://creativecommons.org/licenses/by/4.0/"), "licence-conflict"),
    ],
)
def test_an_agreement_with_the_rights_holder_is_a_licence_of_its_own(claims: tuple[str, ...], code: str) -> None:
    """Its SPDX name is LicenseRef-<grant>, alone in the detail as everywhere a licence is read from it."""
    pair = replace(PAIR, licence_claims=tuple(LicenceClaim(c, "meta", "image") for c in claims), embedded=Embedded(""))
    assert under("licence", pair=pair).reason.code == code
    said = under("licence", grant(), pair=pair)
    assert (said.verdict, said.reason.code) == (Verdict.ALLOW, "granted")
    assert said.reason.detail == "LicenseRef-grant-0a1b2c3d4e5f"
    assert f"grant-0a1b2c3d4e5f (rights-holder, without an end): {code}" in said.where


def test_an_agreement_is_attributed_without_a_public_text() -> None:
    """Title and creator come from the claims as ever; the licence's address is none."""
    credit = attribution(PAIR, "LicenseRef-grant-0a1b2c3d4e5f")
    assert (credit.licence, credit.licence_url) == ("LicenseRef-grant-0a1b2c3d4e5f", "")
    assert credit.creator == "Ada  Lovelace"


def test_a_licence_that_allows_needs_no_grant() -> None:
    """CC BY stays CC BY: the attribution it asks for is owed."""
    pair = replace(
        PAIR, licence_claims=(LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "meta", "image"),)
    )
    assert under("licence", grant(), pair=pair).reason.detail == "CC-BY-4.0"


def test_licence_claims_that_nobody_looked_for_are_not_granted() -> None:
    """Not observed is not observed."""
    assert under("licence", grant(), pair=replace(PAIR, licence_claims=None)).reason.code == "not-observed"


# ── people ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["deny", "blur", "allow"])
def test_a_face_is_the_persons_to_give(mode: str) -> None:
    """Under every mode of the face rule; nobody else's agreement counts."""
    rules = replace(RULES, faces=replace(RULES.faces, mode=mode))  # type: ignore[arg-type]
    person, owner = grant("depicted-person"), grant("rights-holder", mechanisms=["faces"])
    assert judge(rules, "faces", replace(PAIR, grants=(owner,)), NOW).verdict is not Verdict.ALLOW
    said = judge(rules, "faces", replace(PAIR, grants=(person,)), NOW)
    assert (said.verdict, said.reason.code) == (Verdict.ALLOW, "granted")


def test_one_person_does_not_consent_for_another() -> None:
    """A picture of two needs two; the same giver twice is one."""
    two = replace(PAIR, faces=(Face(1, 1, 9, 9, 0.9), Face(20, 1, 9, 9, 0.9), Face(40, 1, 9, 9, 0.1)))
    one, again = grant("depicted-person"), grant("depicted-person", grant="grant-2", giver="a.  giver")
    other = grant("depicted-person", grant="grant-3", giver="B. Giver")
    assert under("faces", one, again, pair=two).verdict is Verdict.DENY
    assert under("faces", one, other, pair=two).verdict is Verdict.ALLOW


def test_faces_that_nobody_looked_for_are_not_granted() -> None:
    """Without a detector nobody knows who is in the picture."""
    assert under("faces", grant("depicted-person"), pair=replace(PAIR, faces=None)).verdict is Verdict.DEFER


# ── on record ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_end_of_a_grant_is_a_row_of_its_own(ledger: Ledger) -> None:
    """Nothing is changed or taken back: a row says that it ended, and since when it covers nothing."""
    row = {"consent": "grant-1", "giver": "A. Giver", "capacity": "rights-holder", "scope_kind": "sha256"}
    row |= {"scope": "ab" * 32, "mechanisms": "licence,xmp", "state": "given", "document_sha256": "0" * 64}
    ledger.append("consent", [{**row, "valid_from": NOW, "recorded_at": NOW}], key="1")
    [given] = Grants.of(ledger).all
    assert (given.mechanisms, given.valid_from, given.valid_to, given.ended_at) == (("licence", "xmp"), NOW, None, None)
    ledger.append("consent", [{"consent": "grant-1", "state": "ended", "recorded_at": NOW}], key="2")
    [ended] = Grants.of(ledger).all
    assert (ended.ended_at, ended.giver) == (NOW, "A. Giver")


@pytest.mark.parametrize("scope_kind", ["url", "domain", "creator", "sha256"])
def test_an_erased_grant_covers_nothing(ledger: Ledger, scope_kind: str) -> None:
    """Its scope is gone, and nobody can say any more what it was for."""
    row = {"consent": "grant-1", "giver": "A. Giver", "capacity": "rights-holder", "scope_kind": scope_kind}
    row |= {"scope": "museum.example", "mechanisms": "licence", "state": "given", "valid_from": NOW, "recorded_at": NOW}
    ledger.append("consent", [row], key="1")
    ledger.append("removal_event", [{"removal": "r", "state": "approved"}], key="r")
    ledger.erase("r", {"consent": "true"})
    assert Grants.of(ledger).all == ()
