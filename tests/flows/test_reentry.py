"""What was removed does not come back: under other addresses, as other bytes, in an import, or from a paused crawl."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from curation.fingerprints import pdq_orientations
from curation.images import decode
from flows.stages import crawl
from flows.stages.decide import decide
from flows.stages.look import look
from flows.stages.removing import suppressing
from policy.errors import InputError, IntegrityError, RefusedError
from policy.suppression import SUPPRESSION_FILE
from tests.builders import ask
from tests.curation.drawn import face, photo_like
from tests.flows.comebacks import Comeback, copies_of, jpeg, page, png, text_of
from tests.flows.downloaded import downloaded
from tests.flows.site import Answer, Site

PICTURES = {
    "windmill": photo_like(1, 200, 150),
    "lighthouse": photo_like(2, 160, 200),
    "clown": face("smile"),
    "barn": photo_like(4, 180, 180),
}
TILE = np.ones((15, 15, 3), np.uint8)
REMOVED = ("windmill", "clown")
KEPT = {f"/{name}.png": text_of(name) for name in ("lighthouse", "barn")}
WAY = "/way"  # leads to where a removed picture hung


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site({}) as opened:
        yield opened


@pytest.fixture(scope="module")
def back(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Comeback:
    """Four pictures were crawled, and two of them removed."""
    found = Comeback.begin(tmp_path_factory.mktemp("back") / "home", site, PICTURES)
    assert {found.fate(f"/{name}.png") for name in PICTURES} == {"trainable"}
    found.remove(*REMOVED)
    return found


@dataclass(frozen=True, slots=True)
class Again:
    """What was crawled after that: the files of the copies, what became of each address, and how often the place that
    WAY leads to had been asked for before."""

    files: Mapping[str, Mapping[str, bytes]]
    fates: Mapping[str, str]
    asked: int


@pytest.fixture(scope="module")
def again(back: Comeback) -> Again:
    """Copies of what was removed were shown under new addresses and crawled, with a way to where it hung."""
    back.site.answers[WAY] = Answer(status=302, headers=[("Location", back.site.url("/windmill.png"))])
    files, asked = {name: copies_of(PICTURES[name]) for name in REMOVED}, back.site.requests["/windmill.png"]
    return Again(files, back.show_copies(files, keep={**KEPT, WAY: text_of("windmill")}), asked)


def test_no_copy_of_a_removed_picture_comes_back(back: Comeback, again: Again) -> None:
    """Equal bytes and seven kinds of copies under new addresses: none is trainable, what is no copy stays; and of what
    was recognised neither pixels nor, unless somebody has to look, a word is left.
    """
    files, fates = again.files, again.fates
    assert [path for path, fate in fates.items() if fate == "trainable"] == list(KEPT)
    copies = {path: fate for path, fate in fates.items() if path not in (*KEPT, WAY)}
    assert len(copies) == 14
    assert set(copies.values()) == {"nothing on record", "defer near-tombstoned"}
    assert back.kept() == {back.sha("lighthouse"), back.sha("barn")}
    held = suppressing.held(back.home)
    assert {one.image_urls[0] for one in held} == {
        back.site.url(path) for path, fate in copies.items() if fate == "defer near-tombstoned"
    }
    assert all(one.likeness >= back.home.ruleset.tombstone.min_cosine for one in held)
    gone = [path for path, fate in copies.items() if fate == "nothing on record"]
    hashes = [h for name in REMOVED for h in pdq_orientations(decode(png(PICTURES[name])))]
    looked_at = {one.content_sha256 for one in held}
    with back.home.ledger(readonly=True) as ledger:
        for table, column, value in [
            *(("occurrence", "image_url", back.site.url(path)) for path in gone),
            *(("fetch", "url", back.site.url(path)) for path in gone),
            *(("content", "content_sha256", hashlib.sha256(body).hexdigest()) for body in files["windmill"].values()),
            *(("content", "pdq", value) for value in hashes),
        ]:
            found = ledger.query(f'SELECT count(*) FROM "{table}" WHERE {column} = ?', [value])  # noqa: S608  # a test's
            assert found == [(0,)] or (column == "content_sha256" and value in looked_at), (table, column)


def test_a_picture_that_is_held_is_let_in_by_name_and_reason(back: Comeback, again: Again) -> None:
    """Somebody looks and finds another picture: the next crawl takes it, whole; what was removed nobody lets in."""
    path, copies = "/again/looked-at", again.files["clown"]
    sha, held_at = hashlib.sha256(copies["crop of 10 %"]).hexdigest(), f"/again/clown-{[*copies].index('crop of 10 %')}"
    assert again.fates[held_at].startswith("defer")
    back.site.answers[path] = back.site.answers[held_at]
    for by, reason, digest, error in (
        ("", "another clown", sha, InputError),
        ("A. Reviewer", " ", sha, InputError),
        ("A. Reviewer", "another clown", "no digest", InputError),
        ("A. Reviewer", "another clown", back.sha("clown"), RefusedError),
    ):
        with pytest.raises(error):
            suppressing.release(back.home, digest, by=by, reason=reason)
    released = suppressing.release(back.home, sha, by="A. Reviewer", reason="another clown")
    assert sha not in {one.content_sha256 for one in suppressing.held(back.home)}
    assert back.home.suppression().epoch == released.epoch
    told = ask(back.home, "SELECT subject, detail FROM event WHERE kind = 'near-released'")
    assert told == [(sha, '{"by": "A. Reviewer", "reason": "another clown"}')]
    back.show({path: text_of("clown"), **KEPT})
    assert back.fate(path) == "trainable"


def test_a_lost_or_old_list_lets_nothing_in(back: Comeback) -> None:
    """Without the list that the ledger knows nothing is crawled, decided or looked at; with it back all goes on."""
    file = back.home.tombstones_path / SUPPRESSION_FILE
    body = file.read_bytes()
    for damage in (None, body.replace(b"1", b"2", 1), b"{}"):
        file.unlink() if damage is None else file.write_bytes(damage)
        for stage in (decide, look, lambda home: crawl.crawl(home, [back.site.url("/")])):
            with pytest.raises(IntegrityError):
                stage(back.home)
    file.write_bytes(body)
    decide(back.home)


def test_no_way_leads_to_a_removed_address(back: Comeback, again: Again) -> None:
    """A redirect to what was removed is not followed, and the address that leads there is not written down."""
    assert back.site.requests[WAY]
    assert back.site.requests["/windmill.png"] == again.asked
    assert again.fates[WAY] == "nothing on record"
    assert ask(back.home, 'SELECT count(*) FROM "fetch" WHERE url = ?', back.site.url(WAY)) == [(0,)]


def test_a_folder_brings_no_copy_in(back: Comeback, tmp_path: Path) -> None:
    """What img2dataset downloaded meets the same checks: no pixels of a copy are kept."""
    copies = copies_of(PICTURES["windmill"])
    files = {name: png(decode(copies[name])) for name in ("the same bytes", "mirrored", "crop of 10 %")}
    assert files["the same bytes"] == copies["the same bytes"]
    named = {f"/given/{number}": body for number, body in enumerate(files.values())}
    folder = downloaded(tmp_path / "given", {back.site.url(path): body for path, body in named.items()}, licence="CC0")
    kept = back.kept()
    crawl.crawl(back.home, crawl.job(back.home, (), [crawl.source("img2dataset", str(folder))]))
    decide(back.home)
    assert back.kept() == kept
    assert [back.fate(path).rpartition(" ")[2] for path in named] == ["record", "record", "near-tombstoned"]


# ── what was on its way, or in the home before ─────────────────────────────────────────────────────────────────────


def test_what_is_removed_while_it_is_crawled_is_not_kept(site: Site, tmp_path: Path) -> None:
    """An approval between two requests of a crawl keeps out what was not asked yet without asking it, and what was,
    before it is on record; so are copies, and no pixels are left of either.
    """
    mill = photo_like(11, 90)
    pictures = {"mill": mill, "twin": decode(jpeg(mill, 40)), "clown": face("open", size=90)}
    back = Comeback.begin(tmp_path / "home", site, pictures)
    site.answers["/copy.jpg"] = Answer(copies_of(pictures["mill"])["JPEG q40"], "image/jpeg")
    site.answers["/new.png"] = Answer(png(np.kron(np.eye(6, dtype=np.uint8)[:, ::-1, None] * 200, TILE)), "image/png")
    shown = {path: text_of(path[1:4]) for path in ("/mill.png", "/clown.png", "/copy.jpg", "/new.png")}
    site.answers["/"] = page(shown)
    name = crawl.open_crawl(back.home, [site.url("/")])
    for unit in crawl.page_units(back.home, name):
        crawl.run_page_unit(back.home, name, unit)
    waiting, asked = crawl.image_units(back.home, name), site.requests["/clown.png"]
    back.remove("clown", apply=False)
    crawl.run_image_units(back.home, name, waiting)
    assert site.requests["/clown.png"] == asked
    back.remove("mill", apply=False)
    crawl.append_crawl(back.home, name)
    decide(back.home)
    assert {path: back.fate(path) for path in shown} == {
        "/mill.png": "deny tombstoned",  # both were on record before
        "/clown.png": "deny tombstoned",
        "/copy.jpg": "nothing on record",
        "/new.png": "trainable",
    }
    assert back.fate("/twin.png") == "deny tombstoned-copy"  # a copy on record that nobody has compared
    assert back.kept() == {hashlib.sha256(site.answers["/new.png"].body).hexdigest()}
