"""Licences: claims become SPDX ids, cover what they may cover, and the most restrictive one decides."""

# ruff: noqa: RUF001 - words of many languages, in their own letters

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy import licence_words
from policy.evidence import Embedded, EmbeddedField, Evidence, Hop, LicenceClaim
from policy.licence_words import read_terms
from policy.licences import (
    LicenceUse,
    attribution,
    embedded_claims,
    judge_licence,
    licence_url,
    share_alike_compatible,
    spdx_id,
)
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
    *claims: LicenceClaim,
    page: str | None = "https://a.example/",
    image: str = "https://a.example/x.jpg",
    embedded: tuple[tuple[str, str], ...] = (),
) -> Evidence:
    fields = tuple(EmbeddedField(name, value, "XMP") for name, value in embedded)
    return Evidence(page, image, NOW, "test", "1", licence_claims=claims, embedded=Embedded("image/jpeg", fields))


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
        # Creative Commons: the rest of its addresses
        ("creativecommons.org/licenses/by/4.0", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.zh-hant", "CC-BY-SA-4.0"),
        ("https://creativecommons.org/licenses/by-sa/4.0/legalcode.en#s3", "CC-BY-SA-4.0"),
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/igo/legalcode", "CC-BY-NC-SA-3.0-IGO"),
        ("https://creativecommons.org/licenses/by-sa/2.0/uk/", "CC-BY-SA-2.0-UK"),
        ("https://creativecommons.org/licenses/by/2.5/au/", "CC-BY-2.5-AU"),
        ("https://creativecommons.org/licenses/by/2.1/es/", "CC-BY-2.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/at/deed.de", "CC-BY-SA-3.0-AT"),
        ("https://creativecommons.org/licenses/by/3.0/us/", "CC-BY-3.0-US"),
        ("https://creativecommons.org/licenses/by/3.0/nl/", "CC-BY-3.0-NL"),
        ("https://creativecommons.org/licenses/by-nc-nd/3.0/de/", "CC-BY-NC-ND-3.0-DE"),
        ("https://creativecommons.org/licenses/sa/1.0/", "CC-SA-1.0"),
        ("https://creativecommons.org/licenses/publicdomain/", "CC-PDDC"),
        ("https://i.creativecommons.org/l/by-sa/3.0/88x31.png", "CC-BY-SA-3.0"),
        ("https://creativecommons.org/publicdomain/zero/2.0/", None),
        ("https://creativecommons.org/licenses/by-xx/4.0/", None),
        # its names
        ("CC-BY 4.0", "CC-BY-4.0"),
        ("CCBY 4.0", "CC-BY-4.0"),
        ("CC BY v4.0", "CC-BY-4.0"),
        ("CC BY version 3.0", "CC-BY-3.0"),
        ("CC BY 4.0 Deed", "CC-BY-4.0"),
        ("CC BY-SA 4.0 DEED", "CC-BY-SA-4.0"),
        ("CC BY-ND 4.0.", "CC-BY-ND-4.0"),
        ("CC BY 3.0 US", "CC-BY-3.0-US"),
        ("CC BY-SA 3.0 Germany", "CC-BY-SA-3.0-DE"),
        ("CC BY 3.0 IGO", "CC-BY-3.0-IGO"),
        ("CC BY-SA 2.5 Generic", "CC-BY-SA-2.5"),
        ("Attribution 2.0 UK: England & Wales", "CC-BY-2.0"),
        ("Creative Commons Attribution-Share Alike 4.0 International license", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution 4.0 International Public License", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "CC-BY-NC-ND-4.0"),
        ("Attribution Non-Commercial Share Alike 3.0", "CC-BY-NC-SA-3.0"),
        ("Attribution 3.0 United States", "CC-BY-3.0-US"),
        ("Attribution-ShareAlike 2.5 Netherlands", "CC-BY-SA-2.5"),
        ("Namensnennung 4.0 International", "CC-BY-4.0"),
        ("Namensnennung - Weitergabe unter gleichen Bedingungen 4.0 International", "CC-BY-SA-4.0"),
        ("Namensnennung-Nicht kommerziell 3.0 Deutschland", "CC-BY-NC-3.0-DE"),
        ("Reconocimiento-NoComercial 4.0", "CC-BY-NC-4.0"),
        ("CC BY 4.0 Atlantis only", None),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "CC0-1.0"),
        ("CC0 1.0", "CC0-1.0"),
        ("CC-0", "CC0-1.0"),
        ("CC Zero", "CC0-1.0"),
        ("CC0-1.0", "CC0-1.0"),
        ("CC-PDM-1.0", "CC-PDM-1.0"),
        # the public domain, in words
        ("Public domain", "LicenseRef-scancode-public-domain"),
        ("public-domain", "LicenseRef-scancode-public-domain"),
        ("This work is in the public domain.", "LicenseRef-scancode-public-domain"),
        ("Gemeinfrei", "LicenseRef-scancode-public-domain"),
        ("Domaine public", "LicenseRef-scancode-public-domain"),
        ("Dominio público", "LicenseRef-scancode-public-domain"),
        ("Public domain in the United States", "LicenseRef-rightsstatements-NoC-US"),
        ("not in the public domain", None),
        ("perhaps public domain", None),
        # Wikimedia's templates
        ("cc-zero", "CC0-1.0"),
        ("Cc-by-sa-3.0-de", "CC-BY-SA-3.0-DE"),
        ("cc-pd-mark", "CC-PDM-1.0"),
        ("CC-PD-Mark 1.0", "CC-PDM-1.0"),
        ("PD", "LicenseRef-scancode-public-domain"),
        ("PD-old", "LicenseRef-scancode-public-domain"),
        ("PD-old-100", "LicenseRef-scancode-public-domain"),
        ("PD-self", "LicenseRef-scancode-public-domain"),
        ("PD-Art (PD-old-100)", "LicenseRef-scancode-public-domain"),
        ("PD-USGov", "LicenseRef-scancode-us-govt-public-domain"),
        ("PD-USGov-NASA", "LicenseRef-scancode-us-govt-public-domain"),
        ("PD-US", "LicenseRef-rightsstatements-NoC-US"),
        ("PD-US-expired", "LicenseRef-rightsstatements-NoC-US"),
        ("Copyrighted free use", "LicenseRef-copyrighted-free-use"),
        ("Attribution", None),
        ("GFDL", "GFDL-1.1-or-later"),
        ("GFDL-self", "GFDL-1.1-or-later"),
        ("GNU Free Documentation License", "GFDL-1.1-or-later"),
        ("http://www.gnu.org/copyleft/fdl.html", "GFDL-1.1-or-later"),
        ("https://www.gnu.org/licenses/fdl-1.3.html", "GFDL-1.3-only"),
        ("GFDL 1.2", "GFDL-1.2-only"),
        ("GFDL-1.2+", "GFDL-1.2-or-later"),
        ("GFDL 1.2 or later", "GFDL-1.2-or-later"),
        ("GFDL-1.3-or-later", "GFDL-1.3-or-later"),
        ("Free Art License 1.3", "LAL-1.3"),
        ("FAL 1.3", "LAL-1.3"),
        ("Licence Art Libre 1.2", "LAL-1.2"),
        ("http://artlibre.org/licence/lal/en/", "LAL-1.3"),
        ("Free Art License", None),
        # Flickr
        ("Flickr license 1", "CC-BY-NC-SA-2.0"),
        ("Flickr license 2", "CC-BY-NC-2.0"),
        ("Flickr license 3", "CC-BY-NC-ND-2.0"),
        ("Flickr license 4", "CC-BY-2.0"),
        ("Flickr license 5", "CC-BY-SA-2.0"),
        ("Flickr license 6", "CC-BY-ND-2.0"),
        ("Flickr license 7", "LicenseRef-no-known-copyright"),
        ("Flickr license 8", "LicenseRef-scancode-us-govt-public-domain"),
        ("Flickr license 9", "CC0-1.0"),
        ("flickr:10", "CC-PDM-1.0"),
        ("flickr:11", "CC-BY-4.0"),
        ("flickr:12", "CC-BY-SA-4.0"),
        ("flickr:13", "CC-BY-ND-4.0"),
        ("flickr:14", "CC-BY-NC-4.0"),
        ("flickr:15", "CC-BY-NC-SA-4.0"),
        ("flickr:16", "CC-BY-NC-ND-4.0"),
        ("flickr:17", None),
        ("4", None),
        ("Some rights reserved", None),
        ("Attribution License", None),
        ("No known copyright restrictions", "LicenseRef-no-known-copyright"),
        ("https://www.flickr.com/commons/usage/", "LicenseRef-no-known-copyright"),
        ("United States Government Work", "LicenseRef-scancode-us-govt-public-domain"),
        ("U.S. Government Work", "LicenseRef-scancode-us-govt-public-domain"),
        ("https://www.usa.gov/government-works", "LicenseRef-scancode-us-govt-public-domain"),
        # rightsstatements.org
        ("http://rightsstatements.org/vocab/NKC/1.0/", "LicenseRef-no-known-copyright"),
        ("https://rightsstatements.org/page/NoC-US/1.0/?language=en", "LicenseRef-rightsstatements-NoC-US"),
        ("No Copyright - United States", "LicenseRef-rightsstatements-NoC-US"),
        ("http://rightsstatements.org/vocab/NoC-NC/1.0/", "LicenseRef-rightsstatements-NoC-NC"),
        ("http://rightsstatements.org/vocab/NoC-CR/1.0/", "LicenseRef-rightsstatements-NoC-restricted"),
        ("http://rightsstatements.org/vocab/CNE/1.0/", None),
        ("http://rightsstatements.org/vocab/UND/1.0/", None),
        ("Copyright Not Evaluated", None),
        # free stock
        ("Unsplash License", "LicenseRef-scancode-unsplash"),
        ("https://unsplash.com/license", "LicenseRef-scancode-unsplash"),
        ("https://www.pexels.com/license/", "LicenseRef-pexels"),
        ("Pixabay Content License", "LicenseRef-scancode-pixabay-content"),
        ("https://pixabay.com/service/license-summary/", "LicenseRef-scancode-pixabay-content"),
        # other ids of SPDX
        ("Apache-2.0", "Apache-2.0"),
        ("mit", "MIT"),
        ("GPL-3.0+", "GPL-3.0-or-later"),
        ("OGL-UK-3.0", "OGL-UK-3.0"),
        ("Open Government Licence v3.0", "OGL-UK-3.0"),
        ("https://spdx.org/licenses/ODbL-1.0.html", "ODbL-1.0"),
        ("commercial", None),
        ("Proprietary", None),
        ("BSD", None),
        # sentences
        ("This work is licensed under a Creative Commons Attribution 4.0 International License.", "CC-BY-4.0"),
        ("Licensed under CC BY-SA 3.0", "CC-BY-SA-3.0"),
        ("License: CC BY 4.0", "CC-BY-4.0"),
        ("Jane Doe (CC BY 2.0)", "CC-BY-2.0"),
        ("Photo: Jane Doe / CC BY-SA 4.0", "CC-BY-SA-4.0"),
        (
            "Jane Doe, CC BY-SA 4.0 <https://creativecommons.org/licenses/by-sa/4.0>, via Wikimedia Commons",
            "CC-BY-SA-4.0",
        ),
        ("Public domain, via Wikimedia Commons", "LicenseRef-scancode-public-domain"),
        ("CC BY 4.0, except where noted", None),
        ("Text: CC BY 4.0", None),
        ("Text is available under CC BY 4.0", None),
        ("Unless otherwise noted, CC BY 4.0", None),
        ("formerly CC BY 4.0", None),
        ("This image is licensed under CC BY 4.0, all other content is not", None),
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
    judged = judge_licence(replace(evidence(), licence_claims=None, embedded=None), RULES, NOW)
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


ND = "https://creativecommons.org/licenses/by-nd/4.0/"
KEPT_WHOLE = replace(RULES, table={**RULES.table, "CC-BY-ND-4.0": LicenceUse("allow", "allow")})
BLURRED = ("blur-faces/1 n=2 from=0.7",)


@pytest.mark.parametrize(
    ("claims", "transforms", "verdict", "code"),
    [
        ((claim(ND),), (), Verdict.ALLOW, "licence-allowed"),
        ((claim(ND),), BLURRED, Verdict.DENY, "licence-no-derivatives"),
        ((claim(ND),), ("a transform of later",), Verdict.DENY, "licence-no-derivatives"),
        ((claim(BY), claim(ND, source="microdata")), BLURRED, Verdict.DENY, "licence-no-derivatives"),
        ((claim("CC-BY-4.0 OR CC-BY-ND-4.0"),), BLURRED, Verdict.ALLOW, "licence-allowed"),
        ((claim("CC-BY-4.0 AND CC-BY-ND-4.0"),), BLURRED, Verdict.DENY, "licence-no-derivatives"),
        ((claim(BY),), BLURRED, Verdict.ALLOW, "licence-allowed"),
        ((claim(NC),), BLURRED, Verdict.DENY, "licence-denied"),
    ],
)
def test_a_licence_without_derivatives_refuses_what_was_changed(
    claims: tuple[LicenceClaim, ...], transforms: tuple[str, ...], verdict: Verdict, code: str
) -> None:
    """Where the table allows ND, a picture as it was may be used and one with blurred faces not."""
    judged = judge_licence(replace(evidence(*claims), transforms=transforms), KEPT_WHOLE, NOW)
    assert (judged.verdict, judged.reason.code) == (verdict, code)
    if code == "licence-no-derivatives" and transforms == BLURRED:
        assert "CC-BY-ND-4.0" in judged.reason.detail
        assert judged.reason.detail.endswith("2 faces blurred")


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


# ── choices, conditions, reserved rights ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "any_of"),
    [
        ("CC-BY-SA-3.0,2.5,2.0,1.0", ["CC-BY-SA-3.0", "CC-BY-SA-2.5", "CC-BY-SA-2.0", "CC-BY-SA-1.0"]),
        ("CC BY-SA 3.0-2.5-2.0-1.0", ["CC-BY-SA-3.0", "CC-BY-SA-2.5", "CC-BY-SA-2.0", "CC-BY-SA-1.0"]),
        ("cc-by-sa-all", [f"CC-BY-SA-{v}" for v in ("4.0", "3.0", "2.5", "2.0", "1.0")]),
        ("GFDL or CC BY-SA 3.0", ["GFDL-1.1-or-later", "CC-BY-SA-3.0"]),
        ("CC-BY-4.0 OR CC-BY-NC-4.0", ["CC-BY-4.0", "CC-BY-NC-4.0"]),
        ("CC-BY-4.0 AND CC-BY-NC-4.0", ["CC-BY-4.0 AND CC-BY-NC-4.0"]),
        ("(MIT OR Apache-2.0) AND CC-BY-4.0", ["MIT AND CC-BY-4.0", "Apache-2.0 AND CC-BY-4.0"]),
        ("CC BY 4.0, CC BY-NC 4.0", ["CC-BY-4.0 AND CC-BY-NC-4.0"]),
        ("CC BY 4.0 and CC BY-NC 4.0", ["CC-BY-4.0 AND CC-BY-NC-4.0"]),
    ],
)
def test_several_licences_are_a_choice_only_where_it_says_so(value: str, any_of: list[str]) -> None:
    """ "or", a list of versions and SPDX's OR let choose; what merely stands side by side holds together."""
    assert [" AND ".join(ids) for ids in read_terms(value).any_of] == any_of


@pytest.mark.parametrize(
    ("value", "elements", "reserved"),
    [
        ("CC BY-NC", ("NC",), ""),
        ("by-nc-nd", ("NC", "ND"), ""),
        ("CC-BY-SA", ("SA",), ""),
        ("CC BY", (), ""),
        ("Attribution-NonCommercial License", ("NC",), ""),
        ("https://creativecommons.org/licenses/by-nc/9.9/", ("NC",), ""),
        ("https://creativecommons.org/licenses/nc-sampling+/1.0/", ("NC",), ""),
        ("For non-commercial use only", ("NC",), ""),
        ("Nicht kommerziell", ("NC",), ""),
        ("no derivatives, please", ("ND",), ""),
        ("Free Art License", ("SA",), ""),
        ("© 2020 Jane Doe", (), "notice"),
        ("(c) Jane Doe", (), "notice"),
        ("Copyright Jane Doe", (), "notice"),
        ("All Rights Reserved", (), "all"),
        ("© Jane Doe. Alle Rechte vorbehalten.", (), "all"),
        ("Tous droits réservés", (), "all"),
        ("Все права защищены", (), "all"),
        ("版权所有", (), "all"),
        ("無断転載を禁じます", (), "all"),
        ("flickr:0", (), "all"),
        ("Royalty-free", (), "all"),
        ("Rights managed", (), "all"),
        ("Editorial use only", (), "all"),
        ("Free for personal use only", (), "all"),
        ("Do not use without permission", (), "all"),
        ("No reproduction without prior written consent", (), "all"),
        ("In Copyright - Educational Use Permitted", (), "all"),
        ("http://rightsstatements.org/vocab/InC/1.0/", (), "all"),
        ("http://rightsstatements.org/vocab/InC-EDU/1.0/", (), "all"),
        ("http://www.europeana.eu/rights/rr-f/", (), "all"),
        ("https://www.gettyimages.co.uk/detail/1", (), "all"),
        ("https://www.shutterstock.com/license", (), "all"),
        ("https://stock.adobe.com/license-terms", (), "all"),
        ("https://www.istockphoto.com/legal/license-agreement", (), "all"),
        ("https://www.alamy.com/terms/", (), "all"),
        ("https://notshutterstock.com/license", (), ""),
        ("Some rights reserved", (), ""),
        ("No Copyright - United States", (), ""),
        ("Copyrighted free use", (), ""),
        ("see the imprint", (), ""),
        ("https://e.org/all-rights-reserved", (), ""),
    ],
)
def test_what_is_no_licence_may_still_restrict(value: str, elements: tuple[str, ...], reserved: str) -> None:
    """A condition without a version, reserved rights and an agency's address permit nothing and count against."""
    terms = read_terms(value)
    assert (terms.elements, terms.reserved) == (elements, reserved)


@pytest.mark.parametrize(
    "value",
    [
        *("cc-by-" * 330, "attribution " * 160, "(" * 2_000, "pd-us-" * 300, "without the " * 160, "© " * 1_000),
        *("cc by 4.0 , " * 180, "GFDL " * 400, "(MIT OR " * 200, "\0" * 2_000, "\ud800", "x " * 1_000_000),
    ],
)
def test_hostile_words_are_read_in_bounded_time(value: str) -> None:
    """No wording costs more than a moment, and none raises."""
    started = time.perf_counter()
    read_terms.__wrapped__(value)
    assert time.perf_counter() - started < 0.5  # 25 ms on an idle machine


def test_the_licence_list_is_not_loaded_for_creative_commons() -> None:
    """Neither importing the policy nor reading a Creative Commons claim costs license-expression's 50 ms."""
    script = (
        "import sys; from policy.ruleset import Ruleset; from policy.licences import spdx_id; "
        "assert spdx_id('CC BY 4.0') and spdx_id('PD-old'); sys.exit('license_expression' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_id_of_the_table_is_known() -> None:
    """A row of the packaged table that no claim could ever reach would be a mistake."""
    assert [spdx for spdx in RULES.table if spdx_id(spdx) != spdx and not spdx.startswith("LicenseRef-")] == []
    reachable = {spdx for _, spdx in licence_words._NAMED}
    assert {spdx for spdx in RULES.table if spdx.startswith("LicenseRef-")} <= reachable


# ── what the image's own bytes claim ───────────────────────────────────────────────────────────────────────────────

EMBEDDED_BY = (("cc:license", BY),)


@pytest.mark.parametrize(
    ("claims", "embedded", "verdict", "code"),
    [
        # alone
        ((), EMBEDDED_BY, Verdict.ALLOW, "licence-allowed"),
        ((), (("xmpRights:WebStatement", BY),), Verdict.ALLOW, "licence-allowed"),
        ((), (("xmpRights:UsageTerms", "Licensed under CC BY 4.0"),), Verdict.ALLOW, "licence-allowed"),
        ((), (("exif:Copyright", "© Jane Doe, CC BY 4.0"),), Verdict.ALLOW, "licence-allowed"),
        ((), (("exif:Copyright", "© Jane Doe"),), Verdict.DENY, "licence-reserved"),
        ((), (("xmpRights:UsageTerms", "ask me"),), Verdict.DENY, "licence-unknown"),
        ((), (("cc:license", NC),), Verdict.DENY, "licence-denied"),
        # a notice of the same bytes goes with their licence; reserved rights do not
        ((), (*EMBEDDED_BY, ("exif:Copyright", "© Jane Doe")), Verdict.ALLOW, "licence-allowed"),
        ((), (*EMBEDDED_BY, ("xmpRights:Marked", "True")), Verdict.ALLOW, "licence-allowed"),
        ((), (*EMBEDDED_BY, ("iptc:CopyrightNotice", "All rights reserved")), Verdict.DEFER, "licence-conflict"),
        # against a freer page
        ((claim(BY, "page"),), (("exif:Copyright", "© Jane Doe"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("xmpRights:UsageTerms", "ask me"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("dc:rights", "All rights reserved"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("xmpRights:Marked", "True"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("xmpRights:Marked", "False"),), Verdict.ALLOW, "licence-allowed"),
        ((claim(BY, "page"),), (("xmpRights:WebStatement", "https://j.example/"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("plus:LicensorURL", "https://j.example/"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "image"),), (("exif:Copyright", "© Jane Doe"),), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, "page"),), (("cc:license", NC),), Verdict.DENY, "licence-denied"),
        ((claim(BY, "page"),), (("dc:creator", "Jane Doe"),), Verdict.ALLOW, "licence-allowed"),
        ((claim(NC, "page"),), (("exif:Copyright", "© Jane Doe"),), Verdict.DENY, "licence-denied"),
        # what is said of an ingredient, or in passing, may only restrict
        ((), (("nested/cc:license", BY),), Verdict.DENY, "licence-unknown"),
        ((claim(BY),), (("nested/cc:license", NC),), Verdict.DENY, "licence-denied"),
        ((claim(BY),), (("nested/dc:rights", "© Jane Doe"),), Verdict.ALLOW, "licence-allowed"),
        ((claim(BY),), (("photoshop:Instructions", "credit me"),), Verdict.ALLOW, "licence-allowed"),
        ((claim(BY),), (("photoshop:Instructions", "editorial use only"),), Verdict.DEFER, "licence-conflict"),
    ],
)
def test_the_images_own_bytes_are_heard(
    claims: tuple[LicenceClaim, ...], embedded: tuple[tuple[str, str], ...], verdict: Verdict, code: str
) -> None:
    """XMP, EXIF and IPTC claim licences, and what they reserve stands against a freer page."""
    judged = judge_licence(evidence(*claims, embedded=embedded), RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_an_embedded_claim_names_its_place_and_its_author() -> None:
    """The source follows the property; title and creator go with each claim."""
    fields = (("dc:title", "Apple"), ("exif:Artist", "Jane"), ("cc:attributionURL", "https://j.example/"), *EMBEDDED_BY)
    more = (("exif:Copyright", "© Jane"), ("iptc:CopyrightNotice", "© Jane"), ("xmpRights:WebStatement", BY))
    claims = embedded_claims(Embedded("", tuple(EmbeddedField(n, v, "part") for n, v in (*fields, *more))))
    assert [(c.source, c.kind, c.where) for c in claims] == [
        ("xmp", "licence", "cc:license, part"),
        ("exif", "rights", "exif:Copyright, part"),
        ("iptc", "rights", "iptc:CopyrightNotice, part"),
        ("xmp", "terms", "xmpRights:WebStatement, part"),
    ]
    assert {(c.scope, c.title, c.creator, c.credit) for c in claims} == {
        ("image", "Apple", "Jane", "https://j.example/")
    }


def test_bytes_that_nobody_looked_into_keep_out() -> None:
    """An image that was had and whose metadata was not read is not licensed by its page alone; a no stands."""
    unseen = replace(evidence(claim(BY)), embedded=None, content_sha256="0" * 64)
    assert judge_licence(unseen, RULES, NOW).reason.code == "not-observed"
    assert judge_licence(replace(unseen, licence_claims=(claim(NC),)), RULES, NOW).verdict is Verdict.DENY
    assert judge_licence(replace(unseen, content_sha256=None), RULES, NOW).verdict is Verdict.ALLOW
    assert (
        judge_licence(replace(evidence(embedded=EMBEDDED_BY), licence_claims=None), RULES, NOW).verdict is Verdict.DEFER
    )


def test_metadata_that_cannot_be_read_keeps_out() -> None:
    """What damaged metadata would have reserved is not known."""
    damaged = replace(evidence(claim(BY)), embedded=Embedded("image/jpeg", errors=("XMP: unclosed",)))
    judged = judge_licence(damaged, RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (Verdict.DEFER, "licence-unreadable")
    assert judge_licence(replace(damaged, licence_claims=(claim(NC),)), RULES, NOW).verdict is Verdict.DENY


# ── conflicts beside the image ─────────────────────────────────────────────────────────────────────────────────────


def notice(scope: str = "image", source: str = "json-ld", where: str = "script[0]#/copyrightNotice") -> LicenceClaim:
    return claim("© 2020 Jane Doe", scope, source, where=where, kind="rights")


@pytest.mark.parametrize(
    ("claims", "verdict", "code"),
    [
        # a notice goes with the licence of the same object, of the same page, or of a nearer place
        ((claim(BY, where="script[0]#/license"), notice()), Verdict.ALLOW, "licence-allowed"),
        (
            (claim(BY, "page", "rel-license"), notice("page", "meta", "meta copyright")),
            Verdict.ALLOW,
            "licence-allowed",
        ),
        ((claim(BY), notice("page", "meta", "meta copyright")), Verdict.ALLOW, "licence-allowed"),
        # and stands against one of elsewhere
        ((claim(BY, "page", "rel-license"), notice()), Verdict.DEFER, "licence-conflict"),
        ((claim(BY, where="script[1]#/license"), notice()), Verdict.DEFER, "licence-conflict"),
        ((notice(),), Verdict.DENY, "licence-reserved"),
        ((claim(BY), claim("All rights reserved", "page", "meta", kind="rights")), Verdict.DEFER, "licence-conflict"),
        # a licence without its version restricts and does not permit
        ((claim("CC BY-NC"),), Verdict.DENY, "licence-denied"),
        ((claim("CC BY-NC"), claim(BY)), Verdict.DENY, "licence-denied"),
        ((claim("CC BY-SA"), claim(BY)), Verdict.DENY, "licence-share-alike"),
        ((claim("CC BY"),), Verdict.DENY, "licence-unknown"),
        ((claim("CC BY"), claim(BY)), Verdict.ALLOW, "licence-allowed"),
        # where one may choose, what suits is chosen; what holds together, restricts together
        ((claim("CC-BY-NC-4.0 OR CC-BY-4.0"),), Verdict.ALLOW, "licence-allowed"),
        ((claim("CC-BY-NC-4.0 AND CC-BY-4.0"),), Verdict.DENY, "licence-denied"),
        ((claim("GFDL or CC BY 3.0"),), Verdict.ALLOW, "licence-allowed"),
        # the address of a page to acquire a licence at is none
        ((claim("https://shop.example/", kind="terms"), claim(BY)), Verdict.ALLOW, "licence-allowed"),
        ((claim("https://shop.example/", kind="terms"),), Verdict.DENY, "licence-unknown"),
        (
            (claim("https://www.gettyimages.com/eula", kind="terms"), claim(BY, "page")),
            Verdict.DEFER,
            "licence-conflict",
        ),
        # rows of the table beyond Creative Commons
        ((claim("Public domain"),), Verdict.ALLOW, "licence-allowed"),
        ((claim("No known copyright restrictions"),), Verdict.ALLOW, "licence-allowed"),
        ((claim("PD-US"),), Verdict.DENY, "licence-denied"),
        ((claim("Unsplash License"),), Verdict.DENY, "licence-not-listed"),
        ((claim("GFDL"),), Verdict.DENY, "licence-share-alike"),
    ],
)
def test_claims_beside_the_image_that_disagree(claims: tuple[LicenceClaim, ...], verdict: Verdict, code: str) -> None:
    """The most restrictive explicit claim decides; reserved rights against a freer claim are a person's to settle."""
    judged = judge_licence(evidence(*claims), RULES, NOW)
    assert (judged.verdict, judged.reason.code) == (verdict, code)


def test_an_unknown_claim_is_no_claim() -> None:
    """Words that nobody recognises neither permit nor restrict."""
    assert judge_licence(evidence(claim("see the imprint", "figure"), claim(BY)), RULES, NOW).verdict is Verdict.ALLOW


def test_the_page_does_not_license_what_another_host_answers_with() -> None:
    """An address on the page's site that leads to somebody else's host is not covered by rel=license."""
    hops = tuple(Hop(url, 200, ()) for url in ("https://a.example/x.jpg", "https://b.example/y.jpg"))
    found = replace(evidence(claim(BY, "page")), hops=hops)
    assert judge_licence(found, RULES, NOW).reason.code == "licence-unknown"
    assert judge_licence(replace(found, hops=hops[:1]), RULES, NOW).verdict is Verdict.ALLOW


# ── share-alike ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sample", "export", "compatible"),
    [
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-3.0", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-4.0", "CC-BY-SA-3.0", False),
        ("CC-BY-SA-2.5", "CC-BY-SA-3.0", True),
        ("CC-BY-SA-2.0", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-1.0", "CC-BY-SA-4.0", False),
        ("CC-BY-SA-1.0", "CC-BY-SA-1.0", True),
        ("CC-BY-SA-3.0-DE", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-3.0-DE", "CC-BY-SA-3.0", True),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0-AT", True),
        ("CC-BY-SA-2.1-JP", "CC-BY-SA-2.0", False),
        ("CC-BY-SA-4.0", "LAL-1.3", True),
        ("LAL-1.3", "CC-BY-SA-4.0", True),
        ("LAL-1.2", "CC-BY-SA-4.0", False),
        ("CC-BY-SA-3.0", "LAL-1.3", False),
        ("CC-BY-SA-4.0", "GPL-3.0-only", True),
        ("CC-BY-SA-3.0", "GPL-3.0-only", False),
        ("GPL-3.0-only", "CC-BY-SA-4.0", False),
        ("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", True),
        ("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0", False),
        ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", False),
        ("CC-BY-SA-4.0", "CC-BY-4.0", False),
        ("GFDL-1.2-only", "GFDL-1.3-only", False),
        ("GFDL-1.2-or-later", "GFDL-1.3-only", True),
        ("GFDL-1.3-only", "CC-BY-SA-4.0", False),
        ("CC-BY-4.0", "CC-BY-SA-4.0", True),
        ("CC0-1.0", "MIT", True),
    ],
)
def test_share_alike_leads_where_its_versions_say(sample: str, export: str, compatible: bool) -> None:
    """Creative Commons' published compatibility, each way by itself, version by version."""
    assert share_alike_compatible(sample, export) is compatible


def test_share_alike_samples_fit_the_licence_that_is_named() -> None:
    """With a licence for what is trained, only samples whose share-alike leads there are taken."""
    sharing = replace(RULES, share_alike=True, export_licence="CC-BY-SA-4.0")
    assert judge_licence(evidence(claim("CC-BY-SA-3.0")), sharing, NOW).verdict is Verdict.ALLOW
    refused = judge_licence(evidence(claim("GFDL")), sharing, NOW)
    assert (refused.verdict, refused.reason.code) == (Verdict.DENY, "licence-incompatible")
    # of several versions the one that fits is chosen, and recorded
    chosen = judge_licence(evidence(claim("CC-BY-SA-1.0 OR CC-BY-SA-2.0")), sharing, NOW)
    assert chosen.reason.detail == "CC-BY-SA-2.0"


@pytest.mark.parametrize("export", ["CC BY-SA 4.0", "CC-BY-4.0", "nonsense", "CC-BY-SA-9.0"])
def test_an_export_licence_must_share_alike(export: str) -> None:
    """A licence that is none, or that does not share alike, refuses to start."""
    with pytest.raises(ValueError, match="export_licence"):
        replace(RULES, share_alike=True, export_licence=export)


def test_an_attribution_names_the_source_that_the_licensor_wants() -> None:
    """cc:attributionURL is the address to be credited, cc:attributionName the name."""
    fields = (*EMBEDDED_BY, ("cc:attributionName", "Jane"), ("cc:attributionURL", "https://j.example/apple"))
    credit = attribution(evidence(embedded=fields), "CC-BY-4.0")
    assert (credit.creator, credit.source_url, credit.licence_url) == ("Jane", "https://j.example/apple", BY)


@pytest.mark.parametrize("licence", ["CC BY 4.0", "CC-BY-4.0", "cc by 4.0", "CC0", "Public Domain"])
@pytest.mark.parametrize(
    "more",
    [
        *(
            " NC",
            " ND",
            " SA",
            " NC-ND",
            " (NC)",
            " BY-NC",
            "-NC",
            " NoAI",
            " NonAI",
            " TDM reserved",
            " Reserved",
            "?",
        ),
        *(" Revoked", " Opt-Out", " DMI-PROHIBITED", " Prohibited", " AI Training Prohibited", " Restricted"),
        *(" Reserved", " nc"),
    ],
)
def test_a_licence_with_more_beside_it_that_may_limit_it_permits_nothing(licence: str, more: str) -> None:
    """No word beside a licence is taken for a name that may be an element, a reservation or a doubt."""
    assert read_terms(licence + more).any_of == ()


@pytest.mark.parametrize(
    ("scope", "code"), [("page", "licence-unreadable"), ("figure", "licence-allowed"), ("image", "licence-allowed")]
)
def test_linked_data_that_cannot_be_read_keeps_a_pages_licence_from_permitting(scope: str, code: str) -> None:
    """A page's licence may have been narrowed for the image in a broken script; one made for the image stands."""
    stated = LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "rel-license", scope)
    unread = LicenceClaim("linked data that cannot be read", "json-ld", "page", where="script[0]", kind="unread")
    judged = judge_licence(evidence(stated, unread), RULES, NOW)
    assert judged.reason.code == code


@pytest.mark.parametrize("place", ["{licence} {word}", "{licence}, {word}", "{word} {licence}"])
@pytest.mark.parametrize(
    "word",
    [
        *("NoTrain", "DoNotTrain", "Scraping", "Disallowed", "Denied", "Banned", "Excluded", "Embargoed", "Terminated"),
        *("Invalid", "Disputed", "Draft", "Proposed", "Unknown", "Maybe", "Research", "Educational", "Editorial"),
        *("Paid", "Proprietary", "Confidential", "Verboten", "Interdit", "Zzyzx"),
    ],
)
def test_a_lone_word_beside_a_licence_is_no_credit(place: str, word: str) -> None:
    """Whatever a word means that nobody here knows: alone beside a licence it permits nothing."""
    assert read_terms(place.format(licence="CC BY 4.0", word=word)).any_of == ()


@pytest.mark.parametrize(
    "text",
    [
        *("Jane Doe, CC BY 4.0", "CC BY 4.0 by Jane Doe", "CC BY 4.0 © Jane Doe", "Photo: Jane Doe / CC BY 4.0"),
        *("By Jane Doe - Own work, CC BY 4.0", "Jane Doe, CC BY 4.0, via Wikimedia Commons"),
    ],
)
def test_a_credit_beside_a_licence_is_one(text: str) -> None:
    """Names where credits stand, or after a word that names follow, limit nothing."""
    assert read_terms(text).any_of == (("CC-BY-4.0",),)
