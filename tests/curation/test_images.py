"""Bytes to pixels within bounds, and the pixels that are kept."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg  # type: ignore[import-untyped]  # it ships no types
from PIL import Image, ImageOps

from curation.images import (
    DecodeError,
    DecodeLimits,
    ShapeConfig,
    decode,
    encode_jpeg,
    fit,
    read_header,
    resize,
    shape,
)
from policy.errors import InputError
from policy.evidence import Face
from tests import hostile

Rgb = npt.NDArray[np.uint8]


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture without symmetry: red grows to the right, green downwards, blue marks a corner."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // width, y * 255 // height
    blue = np.where((x < width // 3) & (y < height // 3), 255, 0)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)  # type: ignore[arg-type]
    return held.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def difference(one: Rgb, other: Rgb) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


PLAIN = np.asarray(picture())


# ── decode ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("body", "tolerance"),
    [
        (encoded(picture(), "PNG"), 0.0),
        (encoded(picture(), "JPEG", quality=95, subsampling=0), 2.0),
        (encoded(picture(), "JPEG", quality=95, progressive=True), 4.0),
        (encoded(picture().convert("CMYK"), "JPEG", quality=95), 4.0),
        (encoded(picture(), "WEBP", lossless=True), 0.0),
        (encoded(picture(), "WEBP", quality=95), 4.0),
        (encoded(picture(), "AVIF", quality=95), 4.0),
        (encoded(picture(), "GIF"), 12.0),
        (encoded(picture().quantize(256), "PNG"), 12.0),
        (encoded(picture(), "PNG", save_all=True, append_images=[Image.new("RGB", (96, 64))]), 0.0),
        (encoded(picture(), "AVIF", quality=95, save_all=True, append_images=[Image.new("RGB", (96, 64))]), 4.0),
        (encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64))]), 12.0),
        (encoded(picture(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (96, 64))]), 0.0),
        (encoded(picture(), "JPEG", quality=95, subsampling=0) + b"trailing rubbish", 2.0),
    ],
)
def test_every_allowed_format_decodes_to_the_same_pixels(body: bytes, tolerance: float) -> None:
    """JPEG (baseline, progressive, CMYK), PNG, WebP, AVIF, GIF give RGB of the first frame within their own losses."""
    rgb = decode(body)
    assert (rgb.shape, rgb.dtype) == (PLAIN.shape, np.uint8)
    assert difference(rgb, PLAIN) <= tolerance


def test_transparency_lies_on_white() -> None:
    """What is transparent shows white, in every way a format can say so."""
    alpha = Image.new("L", (96, 64), 0)
    alpha.paste(255, (0, 0, 48, 64))
    rgba = picture().copy()
    rgba.putalpha(alpha)
    palette = rgba.quantize(64)
    key = Image.new("RGB", (8, 8), (1, 2, 3))
    grey = Image.merge("LA", (Image.new("L", (96, 64), 7), alpha))
    for body in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True), encoded(palette, "PNG")):
        rgb = decode(body)
        assert (rgb[:, 60:] == 255).all()
        assert difference(rgb[:, :48], PLAIN[:, :48]) < 12
    assert (decode(encoded(key, "PNG", transparency=(1, 2, 3))) == 255).all()
    assert (decode(encoded(grey, "PNG"))[:, [10, 60]] == np.array([[7] * 3, [255] * 3])).all()


def test_sixteen_bits_one_bit_and_grey_become_eight_bit_rgb() -> None:
    """Depth is scaled, not clipped."""
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    assert (decode(encoded(Image.fromarray(ramp), "PNG"))[:, :, 0] == ramp >> 8).all()
    grey = picture().convert("L")
    assert (decode(encoded(grey, "PNG")) == np.asarray(grey)[:, :, None]).all()
    assert difference(decode(encoded(grey, "JPEG", quality=95)), np.asarray(grey.convert("RGB"))) < 2
    assert set(np.unique(decode(encoded(grey.convert("1"), "PNG")))) == {0, 255}


def test_four_inks_are_read_as_adobe_writes_them() -> None:
    """CMYK and YCCK JPEG, whose inks Adobe's programs invert, come out as the picture and not as its negative."""
    inks = 255 - np.asarray(picture().convert("CMYK"))
    ycck = simplejpeg.encode_jpeg(np.ascontiguousarray(inks), 95, "CMYK", "444")
    assert simplejpeg.decode_jpeg_header(ycck)[2] == "YCCK"
    assert difference(decode(ycck), PLAIN) < 4
    small = decode(encoded(picture(1600, 1200).convert("CMYK"), "JPEG", quality=95), min_side_px=200)
    assert 200 <= min(small.shape[:2]) < 400


def png(bits: int, colours: int, size: tuple[int, int], rows: bytes, key: tuple[int, ...]) -> bytes:
    """A PNG of that depth and colour type with one colour that is transparent."""
    header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 0)
    chunks = (b"IHDR", header), (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (png(2, 0, (4, 1), b"\0" + bytes([0b00011011]), (1,)), [[0] * 3, [255] * 3, [170] * 3, [255] * 3]),
        (png(4, 0, (2, 1), b"\0" + bytes([0x3A]), (3,)), [[255] * 3, [170] * 3]),
        (png(8, 0, (2, 1), b"\0" + bytes([3, 9]), (3,)), [[255] * 3, [9] * 3]),
        (png(16, 0, (2, 1), b"\0" + struct.pack(">2H", 0x0102, 0x8000), (0x0102,)), [[255] * 3, [128] * 3]),
        (
            png(16, 2, (2, 1), b"\0" + struct.pack(">6H", 0x102, 0x304, 0x506, 0x8000, 0, 0), (0x102, 0x304, 0x506)),
            [[255] * 3, [128, 0, 0]],
        ),
    ],
)
def test_a_transparent_colour_is_found_in_every_depth(body: bytes, shown: list[list[int]]) -> None:
    """The one colour that a PNG calls transparent lies on white at 2, 4, 8 and 16 bits; its neighbours do not."""
    assert decode(body)[0].tolist() == shown


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_pictures_stand_as_they_are_displayed(orientation: int, kind: str) -> None:
    """Orientation (EXIF; AVIF's own properties) is applied once, to pixels and to the reported size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encoded(picture(), kind, exif=exif)
    displayed = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    rgb, header = decode(body), read_header(body)
    assert (header.height, header.width) == rgb.shape[:2] == (displayed.height, displayed.width)
    assert difference(rgb, np.asarray(displayed)) < 2
    shaped = shape(body, ShapeConfig(size_px=32))
    kept = displayed.resize((48, 32) if displayed.width > displayed.height else (32, 48))
    assert difference(decode(shaped.jpeg), np.asarray(kept)) < 6


def test_avif_is_turned_by_its_properties_alone() -> None:
    """What an AVIF's EXIF says of orientation turns nothing: HEIF leaves that to irot and imir (ISO 23008-12)."""
    exif = Image.Exif()
    exif[0x0103] = 6
    body = encoded(picture(), "AVIF", exif=exif)
    entry = struct.pack(">HHLH", 0x0103, 3, 1, 6)
    assert body.count(entry) == 1
    turned = body.replace(entry, struct.pack(">HHLH", 0x0112, 3, 1, 6))
    assert difference(decode(turned), PLAIN) < 4


def test_avif_is_known_by_any_of_its_brands() -> None:
    """A general major brand with AVIF among the compatible ones is AVIF; HEIC is not on the list."""
    body = encoded(picture(), "AVIF", quality=95)
    general = body.replace(b"ftypavif\0\0\0\0avif", b"ftypmif1\0\0\0\0avif")
    assert general != body
    assert read_header(general).media_type == "image/avif"
    assert difference(decode(general), PLAIN) < 4
    with pytest.raises(DecodeError) as caught:
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + body[32:])
    assert (caught.value.code, caught.value.detail) == ("unknown-format", "heic")


def test_a_damaged_exif_block_turns_nothing() -> None:
    """EXIF that cannot be read leaves the picture as it is."""
    body = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode(body).shape == PLAIN.shape


def _with_segment(jpeg: bytes, marker: int, payload: bytes, *, before: bytes) -> bytes:
    """The same with a segment put before the first one that begins with these bytes."""
    at = jpeg.index(before)
    segment = bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload
    return jpeg[:at] + segment + jpeg[at:]


def test_a_jpeg_in_its_place_is_the_same_as_by_itself() -> None:
    """Whatever came before it: pixels, or the code of what is wrong, do not depend on heads that are known."""
    plain = encode_jpeg(np.asarray(picture(48, 32)))
    other = encode_jpeg(np.asarray(picture(48, 32).rotate(180)), 60)
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored: of the same size
    turned = [_with_segment(plain, 0xE1, exif.tobytes(), before=at) for at in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda")]
    hidden = _with_segment(plain, 0xE2, b"\xff\xda\0\2" + plain[2:20], before=b"\xff\xdb")
    of_another_size = encode_jpeg(np.asarray(picture(32, 48)))
    grey = simplejpeg.encode_jpeg(np.asarray(picture(48, 32).convert("L"))[:, :, None], 90, "GRAY")
    cut = [plain[: len(plain) // 2], plain[:-2], plain[:200], plain[:620]]
    damaged = plain[:700] + bytes(40) + plain[740:]
    bodies = [plain, other, *turned, hidden, of_another_size, grey, *cut, damaged, plain + b"\0\0"]
    bodies.append(_with_segment(hidden, 0xE1, exif.tobytes(), before=b"\xff\xda\0\x0c"))
    assert len({found if isinstance(found, str) else found.tobytes() for found in map(_pixels_or_code, bodies)}) > 6
    for body in [*bodies, *reversed(bodies)]:
        alone, into = _pixels_or_code(body), np.full((32, 48, 3), 7, dtype=np.uint8)
        found = _pixels_or_code(body, into)
        assert type(found) is type(alone)
        assert found == alone if isinstance(found, str) else np.array_equal(found, alone)
    assert decode(plain, min_side_px=32, into=into) is into
    assert decode(plain, min_side_px=16, into=into) is not into


def _pixels_or_code(body: bytes, into: Rgb | None = None) -> Rgb | str:
    try:
        return decode(body, into=into)
    except DecodeError as error:
        return error.code


def test_a_large_jpeg_is_decoded_small() -> None:
    """With a least side, a JPEG is scaled while decoding, never below that side."""
    body = encoded(picture(1600, 1200), "JPEG", quality=90)
    rgb = decode(body, min_side_px=200)
    assert 200 <= min(rgb.shape[:2]) < 400
    assert difference(np.asarray(Image.fromarray(rgb).resize((96, 64))), PLAIN) < 4


def png_declaring(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def avif_declaring(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(), "AVIF"))
    extents = body.index(b"ispe")
    body[extents + 8 : extents + 16] = struct.pack(">II", width, height)
    return bytes(body)


def jpeg_declaring(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(), "JPEG"))
    frame = body.index(b"\xff\xc0")
    body[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(body)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "unknown-format"),
        (b"<!doctype html><title>404</title>", "unknown-format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown-format"),
        (encoded(picture(), "TIFF"), "unknown-format"),
        (encoded(picture(), "BMP"), "unknown-format"),
        (encoded(picture(), "ICO"), "unknown-format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unknown-format"),
        (png_declaring(20_000, 20_000), "too-many-pixels"),
        (png_declaring(10_000, 10_000), "too-many-pixels"),
        (png_declaring(40_000, 10), "too-many-pixels"),
        (jpeg_declaring(65_000, 65_000), "too-many-pixels"),
        (avif_declaring(10_000, 10_000), "too-many-pixels"),
        (avif_declaring(100_000, 100_000), {"too-many-pixels", "corrupt"}),
        (encoded(picture(), "AVIF")[:300], {"truncated", "corrupt"}),
        (b"\0\0\0\x20ftypavif" + b"\0" * 100, {"truncated", "corrupt"}),
        (encoded(picture(), "JPEG")[:900], "truncated"),
        (encoded(picture(800, 800), "JPEG", progressive=True)[:4000], "truncated"),
        (encoded(picture(), "PNG")[:150], {"truncated", "corrupt"}),
        (encoded(picture(), "WEBP")[:100], {"truncated", "corrupt"}),
        (encoded(picture(), "GIF")[:500], {"truncated", "corrupt"}),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, {"truncated", "corrupt"}),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, {"truncated", "corrupt"}),
        (b"GIF89a" + b"\0" * 100, {"truncated", "corrupt"}),
        (b"RIFF\xff\xff\xff\xffWEBP" + b"VP8 " * 30, {"truncated", "corrupt"}),
    ],
)
def test_what_is_no_whole_picture_has_a_code(body: bytes, code: str | set[str]) -> None:
    """Other formats, too many pixels and damage are named, before anything is unpacked where that can be."""
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.code in ({code} if isinstance(code, str) else code)
    assert isinstance(caught.value, InputError)


def test_damage_anywhere_gives_pixels_or_a_code() -> None:
    """Whatever byte is changed, a picture or a DecodeError comes out, nothing else."""
    rng = np.random.default_rng(7)
    codes = set()
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF"):
        whole = encoded(picture(32, 32), kind)
        for _ in range(150):
            body = bytearray(whole)
            for at in rng.integers(8, len(body), size=3):
                body[at] = rng.integers(0, 256)
            try:
                assert decode(bytes(body), DecodeLimits(max_pixels=1_000_000)).ndim == 3
            except DecodeError as error:
                codes.add(error.code)
    assert codes <= {"truncated", "corrupt", "too-many-pixels", "unknown-format"}


# ── shape ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("size", "kept"), [((400, 300), (267, 200)), ((300, 400), (200, 267)), ((90, 60), (90, 60)), ((5000, 3), (5000, 3))]
)
def test_the_shorter_side_is_shrunk_and_never_grown(size: tuple[int, int], kept: tuple[int, int]) -> None:
    """resize() brings the shorter side to the size, keeps the shape, and leaves smaller pictures alone."""
    resized = resize(np.asarray(picture(*size)), 200)
    assert (resized.shape[1], resized.shape[0]) == kept


def test_a_png_with_fewer_rows_than_it_declares_is_truncated() -> None:
    """Compressed data that end in good order but too early are no picture with black rows."""
    whole = shape(hostile.png(70, 50, rows=50), ShapeConfig(size_px=32))
    assert (whole.width, whole.height) == (70, 50)
    with pytest.raises(DecodeError) as caught:
        shape(hostile.png(70, 50, rows=5), ShapeConfig(size_px=32))
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(("full", "kept"), [(True, "444"), (False, "420")])
def test_colour_is_kept_as_finely_as_configured(full: bool, kept: str) -> None:
    """With `full_chroma` colour has every pixel's resolution, without it a quarter; all else is the same."""
    body = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80, 3), dtype=np.uint8)), "PNG")
    shaped = shape(body, ShapeConfig(size_px=64, full_chroma=full))
    height, width, _, subsampling = simplejpeg.decode_jpeg_header(shaped.jpeg)
    assert (width, height, subsampling) == (64, 72, kept)
    assert shaped.pdq == shape(body, ShapeConfig(size_px=64)).pdq


@pytest.mark.parametrize("size", [(512, 512), (640, 480), (1000, 667), (667, 1000), (1365, 2048), (2048, 1365)])
def test_a_scaled_decode_keeps_the_pictures_proportions(size: tuple[int, int]) -> None:
    """What libjpeg shrinks while decoding has the size and the place of what is shrunk from full size."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    waves = (127 + 120 * np.sin(x / width * 60) * np.sin(y / height * 60)).astype(np.uint8)
    body = encoded(Image.fromarray(waves).convert("RGB"), "JPEG", quality=95)
    kept = Image.open(io.BytesIO(shape(body, ShapeConfig(size_px=256)).jpeg))
    full = Image.fromarray(decode(body)).resize(kept.size, Image.Resampling.LANCZOS)
    assert kept.size == (round(width * 256 / min(size)), round(height * 256 / min(size)))
    assert difference(np.asarray(kept), np.asarray(full)) < 1.5


def test_fit_bounds_the_longer_side() -> None:
    """fit() bounds the longer side, also of a line."""
    assert fit(np.asarray(picture(400, 300)), 100).shape == (75, 100, 3)
    assert fit(np.asarray(picture(400, 1)), 100).shape == (1, 100, 3)


def test_what_is_kept_holds_no_metadata() -> None:
    """Our JPEG has full chroma and neither EXIF nor comment nor colour profile."""
    exif = Image.Exif()
    exif[0x9286] = "personal comment"
    body = encoded(picture(), "JPEG", exif=exif, comment=b"personal", icc_profile=b"personal profile")
    shaped = shape(body, ShapeConfig(size_px=32))
    assert b"personal" in body
    assert b"personal" not in shaped.jpeg
    kept = Image.open(io.BytesIO(shaped.jpeg))
    assert kept.size == (48, 32)
    assert not kept.getexif()
    assert "comment" not in kept.info
    assert "icc_profile" not in kept.info
    assert shaped.jpeg.count(b"\xff\xe1") == 0


def test_a_shaped_picture_tells_the_originals_size_and_digest() -> None:
    """Width, height and sha256 are the original's, not the kept picture's."""
    body = encoded(picture(640, 480), "PNG")
    shaped = shape(body, ShapeConfig(size_px=64))
    assert (shaped.width, shaped.height, shaped.media_type) == (640, 480, "image/png")
    assert len(shaped.content_sha256) == len(shaped.pdq) == 64
    assert len(shaped.content_md5 or "") == 32
    assert shaped.faces is None
    assert shaped.face_detector is None


class OneFace:
    """Finds a face in the right half of whatever it is shown."""

    id = "one-face-1"

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        self.shown.append(rgb.shape)
        height, width = rgb.shape[:2]
        return (Face(width / 2, 0.0, width / 2, float(height), 0.9),)


class Stumbling(OneFace):
    """Fails on every picture."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        raise RuntimeError("no session")


def test_faces_are_reported_in_the_originals_pixels() -> None:
    """A detector sees a picture of bounded size; its boxes come back in pixels of the original."""
    detector = OneFace()
    body = encoded(picture(2400, 1200), "JPEG")
    shaped = shape(body, ShapeConfig(size_px=64, analysis_px=600), analyser=detector)
    assert detector.shown == [(300, 600, 3)]
    assert shaped.faces == (Face(1200.0, 0.0, 1200.0, 1200.0, 0.9),)
    assert shaped.face_detector == "one-face-1"


def test_a_failing_detector_has_not_observed() -> None:
    """When the detector fails the faces are None, not none."""
    shaped = shape(encoded(picture(), "PNG"), analyser=Stumbling())
    assert shaped.faces is None
    assert shaped.analyser_error == "RuntimeError: no session"


class Blocks(OneFace):
    """Sees a face where there is pure red, as wide as that is."""

    id = "blocks-1"

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        self.shown.append(rgb.shape)
        red = (rgb[:, :, 0] > 200) & (rgb[:, :, 1:].max(axis=2) < 60)
        ys, xs = np.nonzero(red)
        if not len(ys):
            return ()
        x, y = float(xs.min()), float(ys.min())
        return (Face(x, y, float(xs.max()) + 1 - x, float(ys.max()) + 1 - y, 0.8),)


def red_block(kind: str = "PNG", orientation: int = 1, size: tuple[int, int] = (800, 600)) -> bytes:
    """A grey picture with a red frame, a tenth of its width, in its upper left quarter: blurred it is red no more."""
    image = Image.new("RGB", size, (120, 120, 120))
    left, top, side = size[0] // 8, size[1] // 8, size[0] // 10
    image.paste((255, 0, 0), (left, top, left + side, top + side))
    image.paste((0, 0, 0), (left + side // 6, top + side // 6, left + side - side // 6, top + side - side // 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, quality=95)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_faces_are_blurred_in_what_is_kept_and_looked_for_anew(kind: str, orientation: int) -> None:
    """Digests are the original's, the boxes too; the kept pixels have none of them, whichever way the picture lies."""
    body = red_block(kind, orientation)
    plain, blurred = (
        shape(body, ShapeConfig(size_px=128, blur_from=score), analyser=Blocks()) for score in (None, 0.5)
    )
    assert (plain.faces_blurred, plain.transforms) == (None, ())
    assert (blurred.faces_blurred, blurred.transforms) == (True, ("blur-faces/1 n=1 from=0.5",))
    for name in ("content_sha256", "content_md5", "pdq", "pdq_quality", "width", "height", "faces", "face_detector"):
        assert getattr(plain, name) == getattr(blurred, name)
    before, after = decode(plain.jpeg), decode(blurred.jpeg)
    assert before.shape == after.shape
    assert Blocks().detect(before)
    assert not Blocks().detect(after)
    (face,) = blurred.faces or ()
    scale = before.shape[1] / blurred.width
    changed = np.abs(before.astype(int) - after).max(axis=2) > 40
    ys, xs = np.nonzero(changed)
    assert face.x * scale - 8 < xs.min() < xs.max() < (face.x + face.w) * scale + 8
    assert face.y * scale - 8 < ys.min() < ys.max() < (face.y + face.h) * scale + 8


def test_nothing_is_blurred_below_the_score_or_without_a_face() -> None:
    """A detection that the ruleset takes for none is left alone, and a picture without a face is not blurred."""
    below = shape(red_block(), ShapeConfig(size_px=64, blur_from=0.9), analyser=Blocks())
    none = shape(encoded(Image.new("RGB", (80, 60), "grey"), "PNG"), ShapeConfig(blur_from=0.5), analyser=Blocks())
    for shaped in (below, none):
        assert (shaped.faces_blurred, shaped.transforms) == (None, ())


class Persistent(Blocks):
    """Sees a face whatever is shown."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        return (Face(1.0, 1.0, 8.0, 8.0, 0.9),)


class OnlyOnce(Blocks):
    """Fails from the second picture on."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        if self.shown:
            raise RuntimeError("no session")
        return super().detect(rgb)


class Shy(Blocks):
    """Sees a second face as soon as the first is gone."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        scale = rgb.shape[1] / 800
        hidden = rgb[int(400 * scale) : int(440 * scale), int(600 * scale) : int(640 * scale)]
        second = (Face(600 * scale, 400 * scale, 40 * scale, 40 * scale, 0.7),) if hidden[..., 2].std() > 20 else ()
        return super().detect(rgb) or second


@pytest.mark.parametrize("detector", [Persistent(), OnlyOnce()])
def test_blurring_that_no_new_look_proves_is_not_said_to_be_one(detector: OneFace) -> None:
    """While a face is seen, or nothing is seen because the detector fails, the picture does not count as blurred."""
    shaped = shape(red_block(), ShapeConfig(size_px=64, blur_from=0.5), analyser=detector)
    assert shaped.faces_blurred is False
    assert shaped.transforms


def test_a_face_that_only_the_new_look_finds_is_blurred_too() -> None:
    """The next round has the faces of all looks, and wider margins."""
    image = Image.open(io.BytesIO(red_block()))
    stripes = (np.indices((40, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image.paste(Image.fromarray(np.dstack([stripes] * 3)), (600, 400))
    shaped = shape(encoded(image, "PNG"), ShapeConfig(size_px=600, blur_from=0.5), analyser=Shy())
    assert shaped.faces_blurred is True
    assert shaped.transforms != ("blur-faces/1 n=1 from=0.5",)
    kept = decode(shaped.jpeg)
    assert kept[400:440, 600:640].std() < 10


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("L", (300, 200), 90), "PNG"),
        (Image.fromarray(np.full((200, 300), 40_000, np.uint16)), "PNG"),
        (Image.new("P", (300, 200), 3), "GIF"),
        (Image.new("CMYK", (300, 200), (0, 200, 200, 0)), "JPEG"),
        (Image.new("RGBA", (300, 200), (255, 0, 0, 128)), "PNG"),
        (Image.new("RGB", (1, 1), (255, 0, 0)), "PNG"),
        (Image.new("RGB", (20_000, 10), (255, 0, 0)), "PNG"),
        (Image.new("RGB", (10, 9_000), (255, 0, 0)), "JPEG"),
    ],
)
def test_pictures_of_every_mode_and_shape_are_looked_at_and_blurred(image: Image.Image, kind: str) -> None:
    """Grey, 16-bit, palette, CMYK, transparent, one pixel, a ribbon: the detector gets RGB, what is kept is right."""
    detector = Blocks()
    shaped = shape(encoded(image, kind), ShapeConfig(size_px=64, blur_from=0.5), analyser=detector)
    assert all(len(seen) == 3 and seen[2] == 3 and max(seen[:2]) <= 1024 for seen in detector.shown)
    assert shaped.faces is not None
    kept = Image.open(io.BytesIO(shaped.jpeg))
    assert min(kept.size) == min(64, *image.size)
    assert shaped.faces_blurred in (None, False) if not shaped.faces else shaped.faces_blurred is not None


@pytest.mark.parametrize("size", [(20_000, 100), (16, 2_000), (1_200, 17)])
def test_a_long_picture_in_which_no_face_would_be_left_is_not_observed(size: tuple[int, int]) -> None:
    """Shrunk to what a detector is shown it has no pixels for a face: to see none there is not "no face"."""
    detector = Blocks()
    shaped = shape(encoded(Image.new("RGB", size, (255, 0, 0)), "PNG"), ShapeConfig(size_px=64), analyser=detector)
    assert (shaped.faces, shaped.face_detector, detector.shown) == (None, None, [])
    assert f"{size[0]}x{size[1]} is too long" in (shaped.analyser_error or "")
    assert shape(encoded(Image.new("RGB", (1_024, 16)), "PNG"), analyser=detector).faces == ()


def test_of_an_animation_the_frame_that_is_kept_is_the_one_that_is_looked_at() -> None:
    """A face of the first frame is found and blurred; later frames are neither looked at nor kept."""
    frames = [Image.open(io.BytesIO(red_block())), Image.new("RGB", (800, 600), "blue")]
    body = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    detector = Blocks()
    shaped = shape(body, ShapeConfig(size_px=64, blur_from=0.5), analyser=detector)
    assert shaped.faces_blurred is True
    assert decode(shaped.jpeg)[..., 2].mean() < 200


def test_our_jpeg_is_close_to_its_pixels() -> None:
    """Encoding and decoding again loses little."""
    assert difference(decode(encode_jpeg(PLAIN)), PLAIN) < 2


# ── the module ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_importing_the_decoder_is_light() -> None:
    """The module that every worker imports brings neither torch nor the network."""
    code = "import sys, curation.images; print(sorted({'torch', 'pycurl', 'duckdb', 'onnxruntime'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
