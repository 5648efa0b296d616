"""Recheck: what is due is asked again, a new no becomes a reservation, silence waits until the age is over."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import settings
from flows.home import Home
from flows.stages import crawl, decide, recheck, seal, train, verify
from flows.stages.evidence import evidence_batches, newest_evidence
from policy.errors import InputError
from policy.evidence import Evidence, OriginEvidence
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.site import Answer, Site, picture

CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
MECHANISMS = '["robots", "rsl", "x_robots", "licence"]'
PAGE = f"""<title>Fruit</title><a rel="license" href="{CC0}">CC0</a>
<img src="/a.png" alt="a green pear"><img src="/b.png" alt="a red apple">"""


def answers() -> dict[str, Answer]:
    return {
        "/": Answer(PAGE.encode()),
        **{f"/{name}.png": Answer(picture(n), "image/png") for n, name in enumerate("ab")},
    }


@pytest.fixture(scope="module")
def opened() -> Iterator[Site]:
    with Site(answers()) as opened:
        yield opened


@pytest.fixture
def site(opened: Site) -> Site:
    """The site as it was when it was crawled; it was not asked for anything since."""
    opened.answers = answers()
    opened.requests.clear()
    return opened


def sealed_home(path: Path, site: Site) -> Home:
    """A home that crawled a site, in which both pictures are allowed and sealed."""
    made = Home.create(
        path,
        settings_text=replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = []": f'allow_addresses = ["{site.address}"]',
                "decode_workers = 2": "decode_workers = 1",
            },
        ),
        policy_text=re.sub(r"(?ms)^mechanisms = \[.*?\]$", f"mechanisms = {MECHANISMS}", Ruleset.default_text()),
    )
    crawl.crawl(made, (site.url("/"),))
    sealed = seal.seal(made, name="fruit")
    assert sealed.slots == 2
    return made


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, opened: Site) -> Home:
    return sealed_home(tmp_path_factory.mktemp("sealed") / "home", opened)


@pytest.fixture
def home(sealed: Home, site: Site, tmp_path: Path) -> Home:
    """A home that crawled the site, in which both pictures are allowed and sealed: a copy."""
    return Home.open(Path(shutil.copytree(sealed.path, tmp_path / "home")))


def _age(home: Home, days: int) -> None:
    """Let the time of everything that was observed be so many days ago."""
    past = timedelta(days=days)

    def older(evidence: Evidence) -> Evidence:
        origins = tuple(
            OriginEvidence(o.origin, tuple((n, replace(d, fetched_at=d.fetched_at - past)) for n, d in o.documents))
            for o in evidence.origins
        )
        return replace(evidence, observed_at=evidence.observed_at - past, origins=origins)

    with home.ledger() as ledger:
        pairs = [p for (p,) in ledger.query("SELECT DISTINCT pair_key FROM evidence")]
        aged = [(pair, older(e)) for pair, e in newest_evidence(ledger, pairs).items()]
        key = f"aged/{ledger.head()[0]}"
        ledger.append_many(evidence_batches(ledger, aged, key, key))
    shutil.rmtree(home.origins_path, ignore_errors=True)


def _standing(home: Home) -> dict[str, tuple[str, str]]:
    """Image path -> verdict and reason."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT DISTINCT image_url, verdict, reason_code FROM standing JOIN occurrence USING (pair_key)"
        )
    return {"/" + url.rpartition("/")[2]: (verdict, code) for url, verdict, code in rows}


def _reservations(home: Home) -> list[tuple[Any, ...]]:
    with home.ledger(readonly=True) as ledger:
        return ledger.query("SELECT mechanism, reason_code, state FROM reservation ORDER BY batch_seq, row_no")


def test_within_its_age_nothing_is_asked_twice(home: Home, site: Site) -> None:
    """What was observed just now is not asked again, neither by a recheck nor before training."""
    before = Counter(site.requests)
    done = recheck.recheck(home)
    assert train.clear(home, "fruit") == frozenset()
    assert site.requests == before
    assert (done.pairs, done.new_evidence, done.reserved) == (2, 0, 0)


def test_what_grows_old_is_asked_once_and_young_again(home: Home, site: Site) -> None:
    """Of evidence that is nearly too old the page, each picture and the origin's documents are asked, once each."""
    _age(home, 28)
    site.requests.clear()
    done = recheck.recheck(home)
    assert site.requests == {"/robots.txt": 1, "/": 1, "/a.png": 1, "/b.png": 1}
    assert (done.pages, done.pictures, done.new_evidence, done.changed) == (1, 2, 2, 0)
    assert recheck.recheck(home).new_evidence == 0
    assert {verdict for verdict, _ in _standing(home).values()} == {"allow"}


def test_a_new_no_is_a_reservation_that_its_source_lifts(home: Home, site: Site) -> None:
    """A picture whose answer says noai now is out of new training at once, and back when the answer takes it back."""
    site.answers["/a.png"].headers.append(("X-Robots-Tag", "noai"))
    _age(home, 28)
    withheld = train.clear(home, "fruit")
    assert len(withheld) == 1
    assert _standing(home)["/a.png"] == ("deny", "x-robots-noai")
    assert _standing(home)["/b.png"][0] == "allow"
    assert _reservations(home) == [("x_robots", "x-robots-noai", "reserved")]
    assert recheck.recheck(home).reserved == 0  # once said is said

    site.answers["/a.png"].headers.clear()
    _age(home, 28)
    assert recheck.recheck(home).lifted == 1
    assert _reservations(home)[1:] == [("x_robots", "x-robots-absent", "lifted")]
    assert train.clear(home, "fruit") == frozenset()


def test_robots_txt_that_forbids_now_reserves_the_whole_site(home: Home, site: Site) -> None:
    """A new Disallow is honoured before the page is asked, and every picture of the dataset is withheld."""
    site.answers["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /\n", "text/plain")
    _age(home, 28)
    site.requests.clear()
    with pytest.raises(InputError, match="none of the 2 samples"):
        train.clear(home, "fruit")
    assert site.requests == {"/robots.txt": 1}
    assert {code for _, code in _standing(home).values()} == {"robots-disallow"}


def test_a_licence_that_was_withdrawn_ends_new_use(home: Home, site: Site) -> None:
    """A page that states another licence now is believed now."""
    site.answers["/"] = Answer(PAGE.replace(CC0, "https://creativecommons.org/licenses/by-nc/4.0/").encode())
    _age(home, 85)
    recheck.recheck(home)
    assert {code for _, code in _standing(home).values()} == {"licence-denied"}
    assert [state for *_, state in _reservations(home)] == ["reserved", "reserved"]


def test_a_licence_document_that_is_declared_now_is_read(home: Home, site: Site) -> None:
    """A robots.txt that names an RSL document now has it fetched and obeyed."""
    rsl = """<rsl xmlns="https://rslstandard.org/rsl"><content url="/"><license>
      <prohibits type="usage">ai-train</prohibits></license></content></rsl>"""
    site.answers["/rsl.xml"] = Answer(rsl.encode(), "application/rsl+xml")
    site.answers["/robots.txt"] = Answer(f"User-agent: *\nAllow: /\nLicense: {site.url('/rsl.xml')}\n".encode())
    site.answers["/robots.txt"].media_type = "text/plain"
    _age(home, 28)
    site.requests.clear()
    recheck.recheck(home)
    assert site.requests["/rsl.xml"] == 1
    assert set(_standing(home).values()) == {("deny", "rsl-prohibited")}
    assert [mechanism for mechanism, *_ in _reservations(home)] == ["rsl", "rsl"]


def test_silence_changes_nothing_until_the_age_is_over(tmp_path: Path) -> None:
    """A site that answers nobody keeps its standing verdict, and loses it the day its evidence is too old."""
    with Site(answers()) as site:
        home = sealed_home(tmp_path / "home", site)
    _age(home, 28)
    done = recheck.recheck(home)
    assert (done.new_evidence, done.changed) == (0, 0)
    assert done.unreachable > 0
    assert {verdict for verdict, _ in _standing(home).values()} == {"allow"}
    _age(home, 3)
    decide.decide(home)
    assert set(_standing(home).values()) == {("defer", "evidence-stale")}


def test_training_offline_asks_nobody(home: Home, site: Site) -> None:
    """With --offline what is within its age is used without asking; what is not is left out."""
    _age(home, 28)
    site.requests.clear()
    assert train.clear(home, "fruit", offline=True) == frozenset()
    _age(home, 3)
    with pytest.raises(InputError, match="may be used"):
        train.clear(home, "fruit", offline=True)
    assert not site.requests


def test_what_was_let_go_is_left_out_of_a_sealing_until_it_is_crawled_again(home: Home, site: Site) -> None:
    """A picture that was denied and is allowed since has no pixels: it blocks nobody, and comes back by a crawl."""
    site.answers["/a.png"].headers.append(("X-Robots-Tag", "noai"))
    _age(home, 28)
    recheck.recheck(home)
    site.answers["/a.png"].headers.clear()
    _age(home, 28)
    recheck.recheck(home)
    sealed = seal.seal(home, name="again")
    assert (sealed.slots, sealed.without_pixels) == (1, 1)
    assert not verify.verify(home)
    crawl.crawl(home, (site.url("/"),))
    sealed = seal.seal(home, name="whole")
    assert (sealed.slots, sealed.without_pixels) == (2, 0)
