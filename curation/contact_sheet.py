"""Pictures side by side with what is said of each, as PNG or as one HTML file that loads nothing.

It draws what it is given. Text from the web is shown as text: in the page it is escaped, and the page's own policy
forbids scripts and requests of any kind.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

Rgb = npt.NDArray[np.uint8]

TONES = {"allow": "#1a7f37", "defer": "#9a6700", "deny": "#b42318"}
_NO_TONE = "#57606a"
_NONE_KEPT = "no picture kept"
_BOX = "#ff2bd6"  # a colour that few pictures have
MAX_SHEET_PIXELS = 120_000_000  # of a PNG: what viewers still open
SUFFIXES = (".png", ".html", ".htm")
_MADE_BY = "custody contact sheet"  # by which a sheet is known, under whatever name it lies
_HEAD_BYTES = 4096


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet that was drawn here. Raises OSError."""
    with path.open("rb") as file:
        return _MADE_BY.encode() in file.read(_HEAD_BYTES)


@dataclass(frozen=True, slots=True)
class Box:
    """A frame over the picture, in shares of its width and height (0 to 1), with a few letters beside it."""

    x: float
    y: float
    w: float
    h: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of the sheet. `picture`: JPEG bytes, None where there is none to show; then its `shape`, (width,
    height), still gives the boxes a frame.

    `title`: its text. `badge`: a word of `TONES` with its reason, shown in that colour. `facts`: short lines below.
    """

    picture: bytes | None
    title: str
    tone: str
    badge: str
    facts: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    shape: tuple[int, int] | None = None


# ── HTML ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex, noai">
<meta name="generator" content="{made_by}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
header p {{ margin: .2rem 0; color: GrayText; }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({side}px, 1fr)); gap: 1rem;
      list-style: none; padding: 0; }}
li {{ border: 1px solid #8885; border-radius: 6px; overflow: hidden; }}
figure {{ margin: 0; }}
.picture {{ height: {side}px; display: flex; align-items: center; justify-content: center; background: #8882; }}
.frame {{ position: relative; display: inline-block; line-height: 0; }}
.frame img {{ max-width: {side}px; max-height: {side}px; }}
.empty {{ border: 1px dashed #8888; text-align: center; }}
.empty p {{ line-height: 1.4; }}
.box {{ position: absolute; border: 2px solid {box}; box-sizing: border-box; }}
.box span {{ position: absolute; left: -2px; top: 100%; font: 11px/1.2 sans-serif; color: #000;
             background: {box}; padding: 0 3px; }}
figcaption {{ padding: .5rem .7rem; overflow-wrap: anywhere; }}
.title {{ font-weight: 600; margin: 0 0 .3rem; max-height: 8.4em; overflow: auto; }}
.badge {{ display: inline-block; color: #fff; border-radius: 4px; padding: 0 .4rem; }}
.facts {{ font-size: 12px; margin: .3rem 0 0; color: GrayText; }}
</style>
</head>
<body>
<header><h1>{title}</h1>{notes}</header>
<main><ul>
{tiles}
</ul></main>
</body>
</html>
"""


def as_html(tiles: Iterable[Tile], *, title: str, notes: Sequence[str] = (), side: int = 224) -> str:
    """One file: pictures as data URIs of at most `side` pixels a side, boxes over them, text that can be copied."""
    return _PAGE.format(
        made_by=_MADE_BY,
        title=html.escape(title),
        notes="".join(f"<p>{html.escape(note)}</p>" for note in notes),
        side=side,
        box=_BOX,
        tiles="\n".join(_item(tile, side) for tile in tiles),
    )


def _item(tile: Tile, side: int) -> str:
    facts = "".join(f"<div>{html.escape(fact)}</div>" for fact in tile.facts)
    return (
        f'<li><figure><div class="picture">{_framed(tile, side)}</div><figcaption>'
        f'<p class="title" dir="auto">{html.escape(tile.title) or "(no text)"}</p>'
        f'<span class="badge" style="background:{TONES.get(tile.tone, _NO_TONE)}">{html.escape(tile.badge)}</span>'
        f'<div class="facts" dir="auto">{facts}</div></figcaption></figure></li>'
    )


def _framed(tile: Tile, side: int) -> str:
    picture = _picture(tile.picture, side)
    if picture is None and not (tile.boxes and tile.shape):
        return f"<span>{_NONE_KEPT}</span>"
    boxes = "".join(
        f'<div class="box" style="left:{100 * b.x:.2f}%;top:{100 * b.y:.2f}%;width:{100 * b.w:.2f}%;'
        f'height:{100 * b.h:.2f}%"><span>{html.escape(b.label)}</span></div>'
        for b in tile.boxes
    )
    if picture is None:
        width, height = _fitted(tile.shape or (1, 1), side)
        return f'<div class="frame empty" style="width:{width}px;height:{height}px"><p>{_NONE_KEPT}</p>{boxes}</div>'
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=85)
    data = base64.b64encode(held.getvalue()).decode()
    alt = html.escape(tile.title)
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<div class="frame"><img alt="{alt}" {size} src="data:image/jpeg;base64,{data}">{boxes}</div>'


# ── PNG ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_GAP, _LINE = 10, 16


def as_png(tiles: Sequence[Tile], *, columns: int, side: int = 224) -> bytes:
    """A grid of `columns`, each picture fitted into `side` pixels.

    Its font has Latin letters only; what it has none for becomes an empty box. Raises ValueError where the sheet would
    have more than `MAX_SHEET_PIXELS`.
    """
    lines = 3 + max((len(tile.facts) for tile in tiles), default=0)  # two lines of title, the badge, the facts
    width, height = side + _GAP, side + lines * _LINE + 2 * _GAP
    rows = -(-len(tiles) // columns)
    size = (columns * width + _GAP, rows * height + _GAP)
    if size[0] * size[1] > MAX_SHEET_PIXELS:
        raise ValueError(f"{len(tiles)} pictures make a sheet of {size[0]} x {size[1]} pixels")
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, tile in enumerate(tiles):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        _draw(sheet, pen, font, tile, left, top, side)
    held = io.BytesIO()
    told = PngInfo()
    told.add_text("Software", _MADE_BY)
    sheet.save(held, "PNG", optimize=True, pnginfo=told)
    return held.getvalue()


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _draw(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, font: _Font, tile: Tile, left: int, top: int, side: int
) -> None:
    picture = _picture(tile.picture, side)
    pen.rectangle((left, top, left + side - 1, top + side - 1), fill="#f0f1f2")
    width, height = picture.size if picture else _fitted(tile.shape or (side, side), side)
    x, y = left + (side - width) // 2, top + (side - height) // 2
    if picture is not None:
        sheet.paste(picture, (x, y))
    else:
        pen.text((left + 8, top + side - 20), _NONE_KEPT, fill=_NO_TONE, font=font)
    for box in tile.boxes:
        corner = (x + box.x * width, y + box.y * height)
        opposite = (corner[0] + max(0.0, box.w * width), corner[1] + max(0.0, box.h * height))
        pen.rectangle((*corner, *opposite), outline=_BOX, width=2)
        pen.text((corner[0] + 3, corner[1] + 2), box.label, fill=_BOX, font=font)
    y = top + side + 4
    for line in _wrapped(tile.title or "(no text)", font, side, 2):
        pen.text((left, y), line, fill="black", font=font)
        y += _LINE
    y = top + side + 4 + 2 * _LINE
    pen.text((left, y), _cut(tile.badge, font, side), fill=TONES.get(tile.tone, _NO_TONE), font=font)
    for fact in tile.facts:
        y += _LINE
        pen.text((left, y), _cut(fact, font, side), fill=_NO_TONE, font=font)


def _picture(jpeg: bytes | None, side: int) -> Image.Image | None:
    """The picture within a square of `side` pixels, never enlarged; None where it cannot be decoded."""
    if jpeg is None:
        return None
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _fitted(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height within a square of `side` pixels."""
    longer = max(*shape, 1)
    return max(1, round(shape[0] * side / longer)), max(1, round(shape[1] * side / longer))


def _wrapped(text: str, font: _Font, width: int, most: int) -> list[str]:
    """The text in at most so many lines of `width` pixels; the last one is cut where it does not fit."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(_cut(line, font, width))
    if words:
        lines.append(_cut(" ".join(words), font, width))
    return lines


def _cut(text: str, font: _Font, width: int) -> str:
    text = text[:400]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
