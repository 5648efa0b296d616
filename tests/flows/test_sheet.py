"""`custody sheet`: what a condition selects, to be looked at."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from selectolax.lexbor import LexborHTMLParser

from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.removing import approving, requests
from flows.stages.sheet import sheet
from policy.errors import InputError

APPLE, PEAR = "a" * 64, "b" * 64


@pytest.fixture
def home(tmp_path: Path, fresh_home: Callable[..., Home]) -> Home:
    """Two pairs: an apple that is allowed, whose pixels are kept, and a face that is not."""
    home = fresh_home(tmp_path / "home")
    held = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 20, 20)).save(held, "JPEG")
    store = PixelStore(home.pixels_path)
    store.put(APPLE, held.getvalue())
    store.settle()
    faces = json.dumps([{"x": 10, "y": 20, "w": 50, "h": 25, "score": 0.98}])
    pairs = (
        ("p1", APPLE, "u1", "IMG_1.png", "[]", "allow", "text"),
        ("p2", PEAR, "u2", "<b>me</b>", faces, "deny", "faces"),
    )
    with home.ledger() as ledger:
        for pair, sha, url, alt, found, verdict, rule in pairs:
            seen = {"pair_key": pair, "url_key": url, "image_url": f"https://a.example/{url}.png", "alt": alt}
            ledger.append(
                "occurrence", [seen | {"page_url": "https://a.example/", "text_origin": "alt"}], key=f"o{pair}"
            )
            ledger.append("evidence", [{"pair_key": pair, "content_sha256": sha, "body_json": "{}"}], key=f"e{pair}")
            measured = {"content_sha256": sha, "url_key": url, "width": 100, "height": 100, "faces_json": found}
            ledger.append("content", [measured], key=f"c{pair}")
            decided = {"pair_key": pair, "rule": rule, "verdict": verdict, "reason_code": "face-found"}
            ledger.append("decision", [decided], key=f"d{pair}")
            for name, value in (("nsfw", 0.9 if pair == "p2" else 0.1), ("entropy", 3.0)):
                row = {"content_sha256": sha, "name": name, "value": value, "model_digest": "m"}
                ledger.append("score", [row], key=f"s{pair}{name}")
        caption = {
            "pair_key": "p1",
            "content_sha256": APPLE,
            "sample_key": "s",
            "caption": "red apple",
            "state": "kept",
        }
        ledger.append("caption", [caption | {"caption_origin": "clip-retrieval", "score": 0.31}], key="t")
    return home


def test_a_sheet_shows_text_scores_boxes_and_verdicts(home: Home, tmp_path: Path) -> None:
    """Each tile carries its caption beside the alt text it replaced, its scores, its boxes and what was decided."""
    out = tmp_path / "sheet.html"
    made = sheet(home, out)
    assert (made.shown, made.matching, made.without_pixels) == (2, 2, 1)
    read = LexborHTMLParser(out.read_text())
    apple, face = read.css("li")
    assert apple.css_first(".title").text() == "red apple"
    assert apple.css_first(".badge").text() == "allow"
    assert [fact.text() for fact in apple.css(".facts div")][:3] == [
        "text: clip-retrieval 0.310 (kept)",
        "alt: IMG_1.png",
        "entropy 3.00 nsfw 0.10",
    ]
    assert face.css_first(".title").text() == "<b>me</b>"
    assert face.css_first(".badge").text() == "deny: faces, face-found"
    assert face.css_first(".box").attributes["style"] == "left:10.00%;top:20.00%;width:50.00%;height:25.00%"


def test_a_proposal_is_no_text(home: Home, tmp_path: Path) -> None:
    """What a captioner was not sure enough of stands in brackets, as a question."""
    unsure = {"pair_key": "p2", "content_sha256": PEAR, "sample_key": "t", "caption": "red ball", "state": "deferred"}
    with home.ledger() as ledger:
        ledger.append("caption", [unsure | {"caption_origin": "clip-retrieval", "score": 0.2}], key="u")
    sheet(home, tmp_path / "sheet.html", where="caption_state = 'deferred'")
    titles = [t.text() for t in LexborHTMLParser((tmp_path / "sheet.html").read_text()).css(".title")]
    assert titles == ["(red ball?)"]


def test_a_condition_asks_for_measures(home: Home, tmp_path: Path) -> None:
    """What is selected, in which order and how many, is SQL over the view `tile`."""
    assert sheet(home, tmp_path / "a.png", where="scores['nsfw'] > 0.5").shown == 1
    first = sheet(home, tmp_path / "b.html", order="scores['nsfw'] DESC", limit=1)
    assert (first.shown, first.matching) == (1, 2)
    assert "&lt;b&gt;me" in (tmp_path / "b.html").read_text()
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.format == "PNG"


def test_what_was_removed_is_shown_to_nobody(home: Home, tmp_path: Path) -> None:
    """A picture under a tombstone is on no sheet, and the next one takes its place."""
    request = requests.add(home, "sha256", APPLE)
    approving.approve(home, request.id, by="somebody")
    made = sheet(home, tmp_path / "a.html", limit=1)
    assert made.shown == 1
    assert "red apple" not in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"where": "colour = 'red'"}, "colour"),
        ({"where": "false"}, "no pair matches"),
        ({"order": "nothing"}, "nothing"),
        ({"where": "(SELECT count(*) FROM read_text('/etc/hostname')) > 0"}, "disabled"),
    ],
)
def test_a_bad_condition_is_explained(home: Home, tmp_path: Path, given: dict[str, str], said: str) -> None:
    """What is no SQL over the view, selects nothing, or reads files gets one message and leaves no file."""
    with pytest.raises(InputError, match=said):
        sheet(home, tmp_path / "a.png", **given)  # type: ignore[arg-type]  # two texts
    assert not (tmp_path / "a.png").exists()


def test_only_two_kinds_of_file_are_written(home: Home, tmp_path: Path) -> None:
    """Another ending than .png and .html is refused before anything is asked."""
    with pytest.raises(InputError, match=r"\.png or \.html"):
        sheet(home, tmp_path / "a.jpg")
