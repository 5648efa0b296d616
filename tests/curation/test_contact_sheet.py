"""Contact sheets: what is drawn is what was given, and a page that loads nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from selectolax.lexbor import LexborHTMLParser

from curation.contact_sheet import MAX_SHEET_PIXELS, TONES, Box, Tile, as_html, as_png

RED, BLUE = (220, 30, 30), (30, 30, 220)
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)


def jpeg(colour: tuple[int, int, int], width: int = 60, height: int = 40) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(held, "JPEG", quality=95)
    return held.getvalue()


def page(*tiles: Tile, **more: str) -> LexborHTMLParser:
    return LexborHTMLParser(as_html(tiles, title="Sheet", **more))  # type: ignore[arg-type]  # notes are not given here


def pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def is_near(pixel: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixel.astype(int) - colour) < 12).all())


@given(TEXTS, TEXTS, TEXTS)
def test_text_comes_out_as_it_went_in(title: str, badge: str, fact: str) -> None:
    """Whatever a page on the web wrote is text on the sheet, and never markup."""
    read = page(Tile(None, title, "allow", badge, (fact,)))
    assert read.css_first(".title").text() == (title or "(no text)")
    assert read.css_first(".badge").text() == badge
    assert read.css_first(".facts").text() == fact
    assert len(read.css("li *")) == 8


def test_a_page_loads_nothing() -> None:
    """Pictures stand in the file, and its own policy forbids scripts and requests, whatever a text tries."""
    evil = '"><img src="https://evil.example/x.png"><script>fetch("https://evil.example")</script>'
    read = page(Tile(jpeg(RED), evil, "deny", evil, (evil,), (Box(0, 0, 1, 1, evil),)))
    [picture] = read.css("img")
    assert (picture.attributes["src"] or "").startswith("data:image/jpeg;base64,")
    assert picture.attributes["alt"] == evil
    assert not read.css("script, link, iframe, object, a, [onload], [onerror]")
    policy = read.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_boxes_lie_where_they_are_said_to() -> None:
    """A box is placed in shares of its picture, in the page and in the PNG."""
    tile = Tile(jpeg(BLUE, 100, 100), "", "allow", "", (), (Box(0.25, 0.5, 0.5, 0.25, "0.98"),))
    [box] = page(tile).css(".box")
    assert box.attributes["style"] == "left:25.00%;top:50.00%;width:50.00%;height:25.00%"
    assert box.text() == "0.98"
    drawn = pixels(as_png([tile], columns=1, side=100))
    assert is_near(drawn[10 + 60, 10 + 25], (255, 43, 214))  # the left edge
    assert is_near(drawn[10 + 30, 10 + 25], BLUE)


def test_pictures_stand_in_rows() -> None:
    """The PNG has `columns` pictures a row, each fitted into its square and never enlarged."""
    tiles = [Tile(jpeg(colour, 200, 100), "x", "allow", "allow") for colour in (RED, BLUE, RED)]
    drawn = pixels(as_png(tiles, columns=2, side=100))
    assert is_near(drawn[60, 60], RED)
    assert is_near(drawn[60, 170], BLUE)
    assert drawn.shape[1] == 2 * 110 + 10
    below = 100 + 3 * 16 + 20
    assert is_near(drawn[below + 60, 60], RED)
    small = pixels(as_png([Tile(jpeg(RED, 10, 10), "", "", "")], columns=1, side=100))
    assert (np.abs(small.astype(int) - RED) < 12).all(axis=2).sum() == 100


@pytest.mark.parametrize("body", [None, b"", b"no JPEG", jpeg(RED)[:200]])
def test_what_cannot_be_shown_says_so(body: bytes | None) -> None:
    """A picture that is not kept, or is damaged, leaves its text and the outline of its boxes."""
    tile = Tile(body, "gone", "deny", "deny: faces", (), (Box(0.1, 0.1, 0.2, 0.2),), (400, 100))
    read = page(tile)
    assert "no picture kept" in read.css_first(".picture").text()
    assert "width:224px;height:56px" in (read.css_first(".frame").attributes["style"] or "")
    assert read.css(".box")
    assert (pixels(as_png([tile], columns=1)) == (255, 43, 214)).all(axis=2).any()


def test_a_verdict_has_its_colour() -> None:
    """Each verdict is told by its word and by its colour."""
    for tone, colour in TONES.items():
        assert colour in (page(Tile(None, "", tone, tone)).css_first(".badge").attributes["style"] or "")


def test_a_sheet_too_large_is_refused() -> None:
    """A PNG that no viewer opens is not made."""
    many = [Tile(None, "", "", "")] * (MAX_SHEET_PIXELS // (200 * 200))
    with pytest.raises(ValueError, match="make a sheet of"):
        as_png(many, columns=10)


def test_long_words_stay_within_their_column() -> None:
    """A text without spaces is cut, not drawn over its neighbour."""
    tile = Tile(None, "x" * 5_000, "deny", "y" * 5_000, ("z" * 5_000,))
    drawn = pixels(as_png([tile, Tile(None, "", "", "")], columns=2, side=120))
    assert (drawn[140:, 132:140] > 200).all()
