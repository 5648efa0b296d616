"""Names of requests: what was removed by one does not come back as another picture; of what came to nothing they go."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.caption_bank import LIST, BankText
from curation.pixel_store import PixelStore
from flows import settings
from flows.home import Home
from flows.stages import crawl
from flows.stages.captioning.bank import StandingTexts
from flows.stages.decide import decide
from flows.stages.removing import answering, applying, approving, requests, reviewing
from flows.stages.removing.keyed import covered_matches, leftovers
from flows.stages.seal import select
from policy.removal_matches import Answer
from policy.ruleset import Ruleset
from policy.tombstones import TOMBSTONES_FILE
from tests.builders import ask, replaced
from tests.flows import removable
from tests.flows import site as shown
from tests.flows.comebacks import MECHANISMS, page
from tests.flows.site import Site

PLAIN = "a barn beside a green hill"
LATER = "a harbour full of small red boats"
SECRET = "the walled garden of my grandmother"


def by(artist: str, seed: int) -> shown.Answer:
    """A picture whose own bytes say who made it."""
    colours = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    picture, held = Image.fromarray(colours).resize((96, 96), Image.Resampling.BILINEAR), io.BytesIO()
    exif = Image.Exif()
    exif[0x013B] = artist
    picture.save(held, "JPEG", exif=exif)
    return shown.Answer(held.getvalue(), "image/jpeg")


def opened(path: Path, site: Site) -> Home:
    """A home that may crawl the site, with rules that need no model."""
    default = Ruleset.default_text()
    named = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    policy = replaced(default, {named: MECHANISMS, 'suppression = "near"': 'suppression = "exact"'})
    told = {"allow_addresses = []": f"allow_addresses = {json.dumps([site.address])}"}
    text = replaced(settings.DEFAULT_TEXT, told | {"decode_workers = 2": "decode_workers = 1"})
    return Home.create(path, settings_text=text, policy_text=policy)


FIRST = {
    "/hers.jpg": "a windmill in the evening light",
    "/namesake.jpg": "a lighthouse by the sea",
    "/garden.jpg": SECRET,
    "/later.jpg": LATER,
}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Site]]:
    """Two pictures by an Ann Bee, of which one was removed by her name and one left in, and one removed by its text."""
    with Site({"/robots.txt": shown.Answer(b"", "text/plain"), "/": page(FIRST)}) as site:
        for number, path in enumerate(FIRST):
            site.answers[path] = by({"/garden.jpg": "Cy Dee", "/later.jpg": "Di Ef"}.get(path, "Ann Bee"), number)
        home = opened(tmp_path_factory.mktemp("names") / "home", site)
        crawl.crawl(home, [site.url("/")])
        decide(home)
        ann = requests.add(home, "creator", "ANN  Bee")
        assert len(ann.matches) == 2
        [(other,)] = ask(home, "SELECT content_sha256 FROM evidence WHERE body_json LIKE '%namesake%'")
        answers: dict[str, tuple[Answer, str]] = {
            str(m.group): ("reject", "another Ann Bee") if m.group == other else ("approve", "") for m in ann.matches
        }
        reviewing.review(home, ann.id, answers, by="Op")
        garden = requests.add(home, "text", SECRET)
        approving.approve_all(home, ann.id, garden.id, by="Op")
        applying.apply(home, ann.id, garden.id, scan=False, receipts=False)
        yield home, site


def test_a_new_picture_with_a_removed_name_is_not_taken(crawled: tuple[Home, Site]) -> None:
    """By the bytes' own words or the page's: nothing of it is left, and where the page says it nothing is asked. What
    a reviewer left in stays, and what only contains the name is taken: that is for somebody to ask for. No page is kept
    that shows what was removed, also where that was found out by its bytes alone.
    """
    home, site = crawled
    pictures = {
        "/new.jpg": ("a mill in the morning", by("ann bee", 11)),
        "/said.jpg": (f" {SECRET.upper()} ", by("Eve", 12)),
        "/sons.jpg": ("a bridge over a river", by("Ann Bee and sons", 13)),
        "/plain.jpg": (PLAIN, by("Eve", 14)),
        "/copy.jpg": ("a mill at noon", site.answers["/hers.jpg"]),  # removed bytes, at an address that nobody knew
        "/namesake.jpg": (FIRST["/namesake.jpg"], site.answers["/namesake.jpg"]),
    }
    # Each on a page of its own: HTML that names what was removed is not kept.
    for path, (alt, answer) in pictures.items():
        site.answers[path] = answer
        site.answers[f"{path}.html"] = page({path: alt})
    site.requests.clear()
    summary = crawl.crawl(home, [site.url(f"{path}.html") for path in pictures])
    decide(home)
    outcomes = dict(summary.outcomes)
    assert outcomes["picture", "refused-by-policy (tombstoned-name)"] == 2
    assert (site.requests["/said.jpg"], site.requests["/new.jpg"]) == (0, 1)
    fates = {path: bool(ask(home, "SELECT 1 FROM trainable WHERE image_url = ?", site.url(path))) for path in pictures}
    assert fates == {
        "/new.jpg": False,
        "/said.jpg": False,
        "/copy.jpg": False,
        "/sons.jpg": True,
        "/plain.jpg": True,
        "/namesake.jpg": True,
    }
    for path in ("/new.jpg", "/said.jpg", "/copy.jpg"):
        for table, column in (("occurrence", "image_url"), ("fetch", "url")):
            assert ask(home, f'SELECT 1 FROM "{table}" WHERE {column} = ?', site.url(path)) == []  # noqa: S608
    assert hashlib.sha256(site.answers["/new.jpg"].body).hexdigest() not in set(PixelStore(home.pixels_path).keys())
    kept = {url for (url,) in ask(home, _HTML)}
    assert kept == {site.url(f"{path}.html") for path in ("/sons.jpg", "/plain.jpg", "/namesake.jpg")}


_HTML = """
SELECT url FROM "fetch" JOIN document USING (body_sha256) WHERE "fetch".kind = 'page' AND contains(url, '.jpg.html')
"""


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return removable.copied(removable.made_once(tmp_path_factory), tmp_path / "home")


def test_a_name_is_known_wherever_it_turns_up(home: Home) -> None:
    """What came by another way is denied at the next decide, is not sealed or given as a caption, and is found by its
    token alone; not what a reviewer left in, nor what only contains it.
    """
    text = removable.text_of(7)
    [(pair, url, left_in)] = ask(
        home,
        "SELECT pair_key, image_url, content_sha256 FROM occurrence JOIN content USING (url_key) WHERE alt = ?",
        text,
    )
    named = home.tombstones().with_added("removal-x", said={"text": [text.upper()], "creator": ["Nobody"]})
    named.store(home.tombstones_path)
    with home.ledger(readonly=True) as ledger:
        standing = StandingTexts(ledger, named, 1)
        listed = [BankText(words, ("list:a:1",), LIST, ()) for words in (text, PLAIN)]
        assert [each and each.text for each in standing(listed)] == [None, PLAIN]
        assert len(select(ledger, home, "true")) == removable.COUNT - 1
        found = covered_matches(ledger, named)
        assert [(m.pair_key, m.content_sha256) for m in found["removal-x"]] == [(pair, left_in)]
        assert leftovers(home, ledger, named).of("removal-x")["rows"] == 1
    decide(home)
    [(verdict, code, detail)] = ask(
        home,
        "SELECT verdict, reason_code, reason_detail FROM latest_decision WHERE rule = 'tombstone' AND pair_key = ?",
        pair,
    )
    assert (verdict, code, detail) == ("deny", "tombstoned", "removal removal-x")
    for known in (left_in, url):
        stays = named.with_added("removal-x", stays=[known])
        with home.ledger(readonly=True) as ledger:
            assert covered_matches(ledger, stays) == {}


def test_what_a_closed_request_named_is_forgotten_and_recognised(home: Home) -> None:
    """By the daily flow, or by hand, once nobody waits for it: the ledger's file and the snapshot hold it no more. Who
    files the same again finds out what became of it; what an open request named stays. None of them left a tombstone.
    """
    name = "Bartholomew Quixote"
    rejected, waiting = requests.add(home, "text", name), requests.add(home, "creator", "Dulcinea del Toboso")
    asked = requests.add(home, "url", removable.image_url(3), kind="access")
    requests.reject(home, rejected.id, by="Op", reason="nobody of that name")
    assert answering.answer(home, asked.id, by="Op").about == (removable.image_url(3),)
    assert name.encode() in home.ledger_path.read_bytes()
    requests.look_again(home)
    for path in (home.ledger_path, home.snapshot_path):
        assert name.encode() not in path.read_bytes()
        assert b"Dulcinea del Toboso" in path.read_bytes()
    assert ask(home, "SELECT removal FROM removal WHERE named_value IS NULL ORDER BY received_at") == [
        (rejected.id,), (asked.id,)
    ]  # fmt: skip
    assert "not kept any more" in answering.for_requester(home, asked.id).text
    again = requests.add(home, "text", f" {name.upper()}")
    assert f"the same was asked before: {rejected.id} (rejected)" in again.advice
    assert requests.forget(home, waiting.id, by="Op").state == "held"
    assert not (home.tombstones_path / TOMBSTONES_FILE).exists()
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT named_value FROM removal WHERE removal = ?", [waiting.id]) == [
            ("Dulcinea del Toboso",)
        ]
        assert ledger.verify(home.keys) == ()


def test_what_a_killed_crawl_left_of_it_goes_and_the_crawl_ends_as_it_would(crawled: tuple[Home, Site]) -> None:
    """Address, text and bytes, also under an address that nobody knew: an apply leaves nothing of them in its files,
    and when it is run again nothing else is lost and nothing is asked twice.
    """
    home, site = crawled
    later = {"/later.jpg": f"{LATER} again", "/late-copy.jpg": "a mill at noon", "/kept.jpg": PLAIN}
    site.answers |= {"/late-copy.jpg": site.answers["/later.jpg"], "/kept.jpg": by("Eve", 22), "/later": page(later)}
    begun = crawl.open_crawl(home, [site.url("/later")])
    while units := crawl.page_units(home, begun):
        for unit in units:
            crawl.run_page_unit(home, begun, unit)
    crawl.run_image_units(home, begun, crawl.image_units(home, begun))
    site.requests.clear()

    removal = requests.add(home, "url", site.url("/later.jpg")).id
    approving.approve(home, removal, by="Op")
    applied = applying.apply(home, removal, receipts=False)[0]
    assert (applied.scan, crawl.unfinished(home)) == ("clean", [begun])
    gone = hashlib.sha256(site.answers["/later.jpg"].body).hexdigest()
    assert gone not in set(PixelStore(home.pixels_path).keys())

    summary = crawl.crawl(home, [site.url("/later")])
    decide(home)
    assert (summary.pictures, summary.pairs, set(site.requests) - {"/robots.txt"}) == (3, 1, set())
    urls = [site.url(path) for path in later]
    of_these = "SELECT DISTINCT image_url FROM {} WHERE list_contains(?::VARCHAR[], image_url)"
    for table in ("trainable", "occurrence"):
        assert ask(home, of_these.format(table), urls) == [(site.url("/kept.jpg"),)]
    assert ask(home, 'SELECT DISTINCT url FROM "fetch" WHERE list_contains(?::VARCHAR[], url)', urls) == [
        (site.url("/kept.jpg"),)
    ]
