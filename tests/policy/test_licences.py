"""Licences: claims become SPDX ids, cover what they may cover, and the most restrictive one decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.evidence import Evidence, LicenceClaim
from policy.licences import attribution, judge_licence, licence_url, spdx_id
from policy.ruleset import Ruleset
from policy.verdict import Stance, Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULES = Ruleset.default().licence
BY = "https://creativecommons.org/licenses/by/4.0/"
NC = "https://creativecommons.org/licenses/by-nc/4.0/"
SA = "https://creativecommons.org/licenses/by-sa/4.0/"
ZERO = "https://creativecommons.org/publicdomain/zero/1.0/"


def claim(value: str, scope: str = "image", source: str = "json-ld", **more: str) -> LicenceClaim:
    return LicenceClaim(value, source, scope, **more)


def evidence(
    *claims: LicenceClaim, page: str | None = "https://a.example/", image: str = "https://a.example/x.jpg"
) -> Evidence:
    return Evidence(page, image, NOW, "test", "1", licence_claims=claims)


@pytest.mark.parametrize(
    ("value", "spdx"),
    [
        (BY, "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by/4.0", "CC-BY-4.0"),
        ("//creativecommons.org/licenses/by-sa/3.0/", "CC-BY-SA-3.0"),
        ("https://www.creativecommons.org/licenses/by-nc-nd/2.0/deed.de", "CC-BY-NC-ND-2.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode.txt", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/2.0/?ref=openverse", "CC-BY-2.0"),
        ("HTTPS://CreativeCommons.org/Licenses/BY/4.0/", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("https://creativecommons.org/licenses/by-nc-sa/2.5/", "CC-BY-NC-SA-2.5"),
        ("https://creativecommons.org/licenses/by/3.0/de/", "CC-BY-3.0-DE"),
        ("https://creativecommons.org/licenses/by/3.0/igo/", "CC-BY-3.0-IGO"),
        ("https://creativecommons.org/licenses/by/3.0/fr/deed.fr", "CC-BY-3.0"),
        ("https://creativecommons.org/licenses/by/2.5/scotland/", "CC-BY-2.5"),
        ("https://creativecommons.org/licenses/by-sa/2.1/jp/", "CC-BY-SA-2.1-JP"),
        (ZERO, "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.en", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://spdx.org/licenses/CC-BY-4.0.html", "CC-BY-4.0"),
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("CC BY-NC-SA 4.0 International", "CC-BY-NC-SA-4.0"),
        ("CC_BY_4.0", "CC-BY-4.0"),
        ("Creative Commons BY-ND 2.0", "CC-BY-ND-2.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("Creative Commons Attribution-ShareAlike 3.0 Unported License", "CC-BY-SA-3.0"),
        ("Attribution-NonCommercial-NoDerivs 2.0 Generic", "CC-BY-NC-ND-2.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0)", "CC-BY-NC-SA-4.0"),
        ("CC0", "CC0-1.0"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("Creative Commons Zero", "CC0-1.0"),
        ("Public Domain Mark 1.0", "CC-PDM-1.0"),
        # none of them
        ("", None),
        ("CC BY", None),
        ("CC BY 5.0", None),
        ("CC NC 4.0", None),
        ("https://creativecommons.org/licenses/by/9.9/", None),
        ("https://creativecommons.org/licenses/sampling+/1.0/", None),
        ("https://creativecommons.org.evil.example/licenses/by/4.0/", None),
        ("https://evil.example/?https://creativecommons.org/licenses/by/4.0/", None),
        ("https://creativecommons.org/", None),
        ("not CC BY 4.0", None),
        ("CC BY 4.0 for the text only", None),
        ("All rights reserved", None),
        ("x" * 100_000, None),
    ],
)
def test_claims_become_spdx_ids(value: str, spdx: str | None) -> None:
    """Creative Commons URLs and names are normalised; what is not surely one of them is none."""
    assert spdx_id(value) == spdx


@pytest.mark.parametrize("spdx", ["CC-BY-4.0", "CC-BY-NC-ND-1.0", "CC-BY-3.0-DE", "CC0-1.0", "CC-PDM-1.0"])
def test_a_licences_url_is_that_licence(spdx: str) -> None:
    """The URL named in an attribution leads back to the same SPDX id."""
    assert spdx_id(licence_url(spdx)) == spdx


@pytest.mark.parametrize(
    ("claims", "verdict", "code", "detail"),
    [
        ((claim(BY),), Verdict.ALLOW, "licence-allowed", "CC-BY-4.0"),
        ((claim(ZERO),), Verdict.ALLOW, "licence-allowed", "CC0-1.0"),
        ((claim("CC-BY-3.0-DE"),), Verdict.ALLOW, "licence-allowed", "CC-BY-3.0-DE"),
        ((claim(NC),), Verdict.DENY, "licence-denied", "CC-BY-NC-4.0 for commercial use"),
        ((claim("CC-BY-ND-4.0"),), Verdict.DENY, "licence-denied", "CC-BY-ND-4.0 for commercial use"),
        ((claim(SA),), Verdict.DENY, "licence-share-alike", "CC-BY-SA-4.0 for commercial use"),
        ((), Verdict.DENY, "licence-unknown", "no claim"),
        ((claim("see the imprint"),), Verdict.DENY, "licence-unknown", "see the imprint (json-ld, image)"),
        ((claim("All rights reserved."),), Verdict.DENY, "licence-reserved", "All rights reserved."),
        # conflicts: the most restrictive explicit claim; what is not recognised is none
        ((claim(BY), claim(NC, "page")), Verdict.DENY, "licence-denied", "CC-BY-NC-4.0 for commercial use"),
        ((claim(NC), claim(BY, "page")), Verdict.DENY, "licence-denied", "CC-BY-NC-4.0 for commercial use"),
        ((claim(ZERO), claim(BY)), Verdict.ALLOW, "licence-allowed", "CC-BY-4.0"),
        ((claim("see the imprint"), claim(BY)), Verdict.ALLOW, "licence-allowed", "CC-BY-4.0"),
        (
            (claim("(c) 2020 A. Photographer", source="xmp"), claim(BY, "page")),
            Verdict.DEFER,
            "licence-conflict",
            "'(c) 2020 A. Photographer' against CC-BY-4.0",
        ),
    ],
)
def test_the_most_restrictive_claim_decides(
    claims: tuple[LicenceClaim, ...], verdict: Verdict, code: str, detail: str
) -> None:
    """The purpose's column of the table is applied; an ALLOW's detail is the SPDX id and nothing else."""
    judged = judge_licence(evidence(*claims), RULES, NOW)
    assert (judged.verdict, judged.reason.code, judged.reason.detail) == (verdict, code, detail)


def test_claims_that_nobody_looked_for_keep_out() -> None:
    """Not having looked for a licence is not the same as having found none."""
    judged = judge_licence(replace(evidence(), licence_claims=None), RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "not-observed")


@pytest.mark.parametrize(
    ("page", "image", "covered"),
    [
        ("https://a.example/", "https://a.example/x.jpg", True),
        ("https://www.a.example/", "https://static.a.example:8443/x.jpg", True),
        ("https://www.museum.co.uk/", "https://img.museum.co.uk/x.jpg", True),
        ("https://a.co.uk/", "https://b.co.uk/x.jpg", False),
        ("https://a.example/", "https://b.example/x.jpg", False),
        ("https://alice.github.io/", "https://bob.github.io/x.jpg", False),
        ("http://127.0.0.1:8001/", "http://127.0.0.1:8002/x.jpg", True),
        ("http://127.0.0.1/", "http://127.0.0.2/x.jpg", False),
        ("http://10.0.0.1/", "http://11.0.0.1/x.jpg", False),
        ("http://localhost:1/", "http://localhost:2/x.jpg", True),
        ("http://[::1]:1/", "http://[::1]:2/x.jpg", True),
        (None, "https://a.example/x.jpg", False),
    ],
)
def test_a_pages_licence_covers_its_own_site_only(page: str | None, image: str, covered: bool) -> None:
    """rel=license of a page says nothing of an image that lies with somebody else."""
    found = evidence(claim(BY, "page", "rel-license"), page=page, image=image)
    judged = judge_licence(found, RULES, NOW)
    assert judged.verdict is (Verdict.ALLOW if covered else Verdict.DENY)
    assert [s.stance for s in judged.signals] == [Stance.ALLOW if covered else Stance.UNSET]


def test_a_configured_asset_host_is_covered() -> None:
    """A site's images on a host that the ruleset names belong to the site."""
    rules = replace(RULES, asset_hosts={"a.example": ("cdn.test",)})
    found = evidence(claim(BY, "page"), page="https://www.a.example/", image="https://cdn.test/x.jpg")
    assert judge_licence(found, rules, NOW).verdict is Verdict.ALLOW
    assert judge_licence(replace(found, page_url="https://b.example/"), rules, NOW).verdict is Verdict.DENY


def test_a_page_claim_elsewhere_neither_permits_nor_forbids() -> None:
    """Out of its scope a claim counts for nothing, in either direction, and is recorded as such."""
    found = evidence(claim(BY), claim(NC, "page"), image="https://b.example/x.jpg")
    judged = judge_licence(found, RULES, NOW)
    assert judged.verdict is Verdict.ALLOW
    assert "does not cover" in judged.signals[1].where


def test_purpose_and_undertakings_change_the_answer() -> None:
    """Research takes NC; share-alike is taken where the ruleset undertakes it; unknown may be deferred."""
    research = replace(RULES, purpose="research")
    assert judge_licence(evidence(claim(NC)), research, NOW).verdict is Verdict.ALLOW
    assert judge_licence(evidence(claim("CC-BY-NC-SA-4.0")), research, NOW).verdict is Verdict.DENY
    sharing = replace(RULES, share_alike=True)
    assert judge_licence(evidence(claim(SA)), sharing, NOW).reason.detail == "CC-BY-SA-4.0"
    assert judge_licence(evidence(), replace(RULES, unknown="defer"), NOW).verdict is Verdict.DEFER


def test_a_licence_without_a_row_is_not_taken() -> None:
    """A recognised licence that the table does not list is refused; one that it lists by its SPDX id is read."""
    short = replace(RULES, table={"MIT": RULES.table["CC-BY-4.0"]})
    assert judge_licence(evidence(claim(BY)), short, NOW).reason.code == "licence-not-listed"
    assert judge_licence(evidence(claim("mit")), short, NOW).reason.detail == "MIT"


def test_a_licence_seen_long_ago_must_be_seen_again() -> None:
    """A permission rests on an observation within its age; a refusal stands."""
    later = NOW + timedelta(days=RULES.max_age_days + 1)
    assert judge_licence(evidence(claim(BY)), RULES, later).reason.code == "evidence-stale"
    assert judge_licence(evidence(claim(NC)), RULES, later).reason.code == "licence-denied"


def test_an_attribution_takes_each_part_from_the_nearest_claim() -> None:
    """Title, author, source, licence and its URL, changes: what the licence asks to be said."""
    found = evidence(
        claim(BY, "page", "rel-license", title="The page", creator="The museum"),
        claim(BY, "image", "json-ld", title="Red apple", credit="A. Painter"),
    )
    credit = attribution(found, "CC-BY-4.0")
    assert (credit.title, credit.creator) == ("Red apple", "A. Painter")
    assert (credit.source_url, credit.licence, credit.licence_url) == ("https://a.example/", "CC-BY-4.0", BY)
    assert credit.changes


def test_an_attribution_leaves_out_claims_the_decision_did_not_rest_on() -> None:
    """A page's claim of another licence names nobody."""
    found = evidence(claim(BY), claim(ZERO, "page", creator="Somebody else"))
    assert attribution(found, "CC-BY-4.0").creator == ""
