"""Bytes to pixels within bounds, and pixels to the JPEG that we keep.

Only formats on the list are decoded (JPEG, PNG, WebP, AVIF, GIF; of animated ones the first frame), and pixels are
counted before anything is unpacked. Untrusted pictures are decoded in the worker processes of `curation.decode_pool`.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]  # it ships no types
from PIL import AvifImagePlugin, Image, ImageFile

from curation.faces.blurring import BLUR_ID, BLUR_ROUNDS, blur_boxes
from curation.fingerprints import pdq_of_luma, sha256
from curation.png_rows import rows_are_missing
from policy.errors import InputError
from policy.evidence import C2pa, Embedded, Face
from policy.signals.c2pa import read_c2pa
from policy.signals.embedded import read_embedded

Rgb = npt.NDArray[np.uint8]

DECODE_ERROR_CODES = frozenset(
    {"unknown-format", "too-many-pixels", "truncated", "corrupt", "decoder-killed", "timeout", "out-of-memory"}
)


class DecodeError(InputError):
    """A picture that cannot be had; `code` is one of `DECODE_ERROR_CODES`."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code, self.detail = code, detail
        super().__init__(f"the picture cannot be decoded: {code}" + (f" ({detail})" if detail else ""))


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds of one picture. `memory_bytes`: what a worker may take beyond its own start."""

    max_pixels: int = 50_000_000
    max_side_px: int = 30_000
    memory_bytes: int = 256 << 20
    cpu_s: int = 20
    wall_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded: size as displayed (EXIF orientation applied)."""

    media_type: str
    width: int
    height: int
    orientation: int

    @property
    def size_in_file(self) -> tuple[int, int]:
        """Width and height before the picture is turned."""
        return (self.width, self.height) if self.orientation < 5 else (self.height, self.width)


_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", "PNG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", "WEBP"),
    (re.compile(rb"GIF8[79]a"), "image/gif", "GIF"),
    # ISO media whose major brand, or one of those it is compatible with, is AVIF's (AV1 Image File Format, 6 and 7).
    (re.compile(rb"\0\0\0[\x10-\xff]ftyp(?:.{4}){0,60}?avi[fs]", re.DOTALL), "image/avif", "AVIF"),
)


# ── decode ───────────────────────────────────────────────────────────────────────────────────────────────────────
def read_header(body: bytes, limits: DecodeLimits | None = None) -> Header:
    """Format, size and orientation; nothing is unpacked. Raises DecodeError."""
    return _open(body, limits or DecodeLimits())[0]


def decode(
    body: bytes, limits: DecodeLimits | None = None, *, min_side_px: int | None = None, into: Rgb | None = None
) -> Rgb:
    """Decode to uint8 RGB [H, W, 3] as displayed: oriented, transparency on white, 8 bits, first frame.

    Oriented is by EXIF, and for AVIF by its own properties. With `min_side_px` a JPEG may come out smaller than it is
    (scaled in the DCT domain), its shorter side at least so. `into`, [H, W, 3] without gaps: a JPEG of just this size,
    upright and not to be scaled, is decoded into it, and it is what is returned; after a DecodeError it may hold
    anything. In this process and under the pixel limits only: untrusted bytes belong into a `DecodePool`. Raises
    DecodeError.
    """
    if into is not None and _fits(body, into, min_side_px):
        try:
            simplejpeg.decode_jpeg(body, "RGB", buffer=into)
        except (MemoryError, *_SIMPLEJPEG_ERRORS):
            _decode_jpeg(body, {"buffer": into}, "RGB")  # what is wrong with it, and whether it can be had all the same
        return into
    header, image = _open(body, limits or _LIMITS)
    if image is None and header.orientation == 1:
        return _decode_jpeg(body, _scaled(header, min_side_px), "RGB")
    return np.array(_turned(_decoded(body, header, image, min_side_px), header.orientation).convert("RGB"))


def _decoded(body: bytes, header: Header, image: ImageFile.ImageFile | None, min_side_px: int | None) -> Image.Image:
    """The picture as it lies in the file, of mode RGB or RGBX, on memory that it shares with nobody."""
    if image is None:
        rgbx = _decode_jpeg(body, _scaled(header, min_side_px), "RGBX")
        return Image.frombuffer("RGBX", (rgbx.shape[1], rgbx.shape[0]), rgbx, "raw", "RGBX", 0, 1)
    try:
        flat = _flatten(image, min_side_px)
        if header.media_type == "image/png" and rows_are_missing(body, image):
            raise DecodeError("truncated", "rows are missing")
        return flat
    except MemoryError as error:
        raise DecodeError("out-of-memory") from error
    except _PILLOW_ERRORS as error:
        raise _decode_error(error) from error


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


_LIMITS = DecodeLimits()

# One thread a picture: workers run side by side, and each thread would take its stack out of the picture's memory.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# What Pillow and its plugins are seen to raise on damaged input.
_PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, TypeError),
    RuntimeError,  # libavif
    zlib.error,
)
_SIMPLEJPEG_ERRORS = (ValueError, KeyError)  # KeyError: a colour space or subsampling it has no name for


def _open(body: bytes, limits: DecodeLimits) -> tuple[Header, ImageFile.ImageFile | None]:
    """Read the header with the one decoder of this format, and count the pixels; no image: libjpeg's to decode."""
    found = next(((media, name) for magic, media, name in _SIGNATURES if magic.match(body)), None)
    if found is None:
        raise DecodeError("unknown-format", _looks_like(body))
    media_type, name = found
    image = None
    if (size := _jpeg_size(body) if name == "JPEG" else None) is None:
        image = _open_lazily(body, name)
        size = image.size
    width, height = size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise DecodeError("too-many-pixels", f"{width}x{height}")
    if width < 1 or height < 1:
        raise DecodeError("corrupt", "no pixels")
    # Of an AVIF Pillow gives the turn of its irot and imir in place of what its EXIF says, as HEIF wants it.
    exif = _jpeg_exif(body) if image is None else image.info.get("exif")
    orientation = _orientation(exif) if isinstance(exif, bytes) else 1
    if orientation >= 5:
        width, height = height, width
    return Header(media_type, width, height, orientation), image


def _jpeg_size(body: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that libjpeg-turbo turns into RGB by itself; None for CMYK and oddities."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(body, strict=False)
    except _SIMPLEJPEG_ERRORS:
        return None
    return (width, height) if colours in ("YCbCr", "Gray", "RGB") else None


def _open_lazily(body: bytes, name: str) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which nobody asked for, and of large pictures
            return Image.open(io.BytesIO(body), formats=(name,))
    except MemoryError as error:
        raise DecodeError("out-of-memory") from error
    except Image.DecompressionBombError as error:  # Pillow's own, far higher guard
        raise DecodeError("too-many-pixels", "more than twice Pillow's limit") from error
    except _PILLOW_ERRORS as error:
        raise _decode_error(error) from error


def _jpeg_exif(body: bytes) -> bytes | None:
    """The EXIF block of a JPEG: the first APP1 segment of that kind before the picture's data."""
    if b"Exif\0\0" not in body:  # as in all that we encoded
        return None
    position = 2
    while position + 4 <= len(body) and body[position] == 0xFF:
        marker, length = body[position + 1], int.from_bytes(body[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0xDA or length < 2:  # the picture's data begin
            return None
        elif marker == 0xE1 and body.startswith(b"Exif\0\0", position + 4):
            return body[position + 4 : position + 2 + length]
        else:
            position += 2 + length
    return None


def _orientation(exif: bytes) -> int:
    """EXIF orientation 1 to 8; a block that cannot be read says nothing.

    One SHORT of the first directory is read, and nothing else of what EXIF may hold: Pillow's reader takes all of it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "L", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for i in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHLH", tiff, directory + 2 + 12 * i)
            if tag == 0x0112:
                return int(value) if kind == 3 and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


_HEADS_OF_A_SIZE, _HEAD_SIZES, _HEAD_BYTES = 8, 64, 4096
_UPRIGHT_HEADS: dict[tuple[int, ...], tuple[bytes, ...]] = {}
"""Shape -> heads of JPEGs that were found to be upright and of that shape. What it holds changes no result."""


def _fits(body: bytes, into: Rgb, min_side_px: int | None) -> bool:
    """Whether a JPEG is of just this size, upright and not to be scaled: then no more has to be known of it.

    Its head alone says so, and the pictures of a dataset mostly share one: a head that was read before is known again.
    """
    shape = into.shape
    if min_side_px is not None and min_side_px < shape[0] and min_side_px < shape[1]:
        return False
    known = _UPRIGHT_HEADS.get(shape, ())
    if body.startswith(known):
        return True
    if not body.startswith(b"\xff\xd8\xff") or b"Exif\0\0" in body or _jpeg_size(body) != (shape[1], shape[0]):
        return False
    # Heads that differ from picture to picture (Huffman tables of their own) are not worth keeping: the first few are.
    if len(known) < _HEADS_OF_A_SIZE and (known or len(_UPRIGHT_HEADS) < _HEAD_SIZES) and (head := _jpeg_head(body)):
        _UPRIGHT_HEADS[shape] = (*known, head)
    return True


def _jpeg_head(body: bytes) -> bytes | None:
    """All segments of a JPEG up to and with its first start of scan; None where they are odd, or very long."""
    position = 2
    while position + 4 <= min(len(body), _HEAD_BYTES) and body[position] == 0xFF:
        marker, length = body[position + 1], int.from_bytes(body[position + 2 : position + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF or length < 2:
            return None
        position += 2 + length
        if marker == 0xDA:
            return body[:position] if position <= len(body) else None
    return None


def _scaled(header: Header, min_side_px: int | None) -> Mapping[str, int]:
    """How small libjpeg may make a picture so that its shorter side is at least this, as simplejpeg is told it."""
    width, height = header.size_in_file
    if min_side_px is None or min(width, height) <= min_side_px:
        return {}
    return {"min_height": min_side_px} if height <= width else {"min_width": min_side_px}


def _decode_jpeg(body: bytes, options: Mapping[str, int | Rgb], channels: str) -> Rgb:
    """Pixels as they lie in the file, [H, W, 3] for channels RGB, [H, W, 4] for RGBX."""
    try:
        return _libjpeg(body, channels, options)
    except MemoryError as error:
        raise DecodeError("out-of-memory") from error


def _libjpeg(body: bytes, channels: str, options: Mapping[str, int | Rgb]) -> Rgb:
    try:
        pixels: Rgb = simplejpeg.decode_jpeg(body, channels, **options)
    except _SIMPLEJPEG_ERRORS as error:
        if "Premature end" in str(error):
            raise DecodeError("truncated", str(error)) from error
        # libjpeg warns of much that every browser shows (stray bytes before a marker, odd Huffman codes): as they do.
        try:
            pixels = simplejpeg.decode_jpeg(body, channels, strict=False, **options)
        except _SIMPLEJPEG_ERRORS as fatal:
            raise DecodeError("corrupt", str(fatal)) from fatal
    return pixels


def _flatten(image: ImageFile.ImageFile, min_side_px: int | None) -> Image.Image:
    """Any mode to RGB; what is transparent lies on white. A JPEG (here: CMYK) may be scaled while it is decoded."""
    shorter = min(image.size)
    if min_side_px is not None and shorter > min_side_px:
        image.draft(None, (image.width * min_side_px // shorter, image.height * min_side_px // shorter))
    key = _colour_key(image)
    image.load()
    if image.mode.startswith("I"):
        # 16-bit grey (PNG only): Pillow's own conversion clips instead of scaling.
        deep = np.asarray(image).astype(np.int32)
        grey = np.where(deep == key, 255, (deep >> 8).clip(0, 255)) if key is not None else (deep >> 8).clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if key is not None:
        image.info["transparency"] = key
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _colour_key(image: ImageFile.ImageFile) -> int | tuple[int, ...] | None:
    """The one colour that a PNG calls transparent, where Pillow would compare it in another depth than its pixels'."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or not image.tile:
        return None
    match image.tile[0].args:
        case "L;2" | "L;4" as raw:
            return int(key) * (85 if raw == "L;2" else 17)
        case "RGB;16B":
            return tuple(int(part) >> 8 for part in key)
        case "I;16B":
            return int(key)
    return None


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _decode_error(error: Exception) -> DecodeError:
    text = str(error)
    code = "truncated" if re.search(r"truncat|premature|unexpected end|not enough", text, re.IGNORECASE) else "corrupt"
    return DecodeError(code, f"{type(error).__name__}: {text}"[:200])


def _looks_like(body: bytes) -> str:
    """A word for what came instead of a picture."""
    head = body[:256].lstrip().lower()
    if not body:
        return "empty"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "html"
    if b"<svg" in head:
        return "svg"
    if body[4:8] == b"ftyp":
        return body[8:12].decode("latin-1")
    return ""


# ── shape ────────────────────────────────────────────────────────────────────────────────────────────────────────
def resize(rgb: Rgb, size_px: int) -> Rgb:
    """Shrink so that the shorter side is at most `size_px`; a smaller picture stays as it is."""
    return _resized(rgb, size_px / min(rgb.shape[:2]))


def fit(rgb: Rgb, max_side_px: int) -> Rgb:
    """Shrink so that the longer side is at most `max_side_px`; a smaller picture stays as it is."""
    return _resized(rgb, max_side_px / max(rgb.shape[:2]))


def _resized(rgb: Rgb, scale: float) -> Rgb:
    size = (rgb.shape[1], rgb.shape[0])
    return rgb if scale >= 1 else np.asarray(_shrunk(Image.fromarray(rgb), size, scale))


def _shrunk(image: Image.Image, size: tuple[int, int], scale: float) -> Image.Image:
    """A picture of this size at a scale below 1, each side at least a pixel; as it is at any other.

    `image` is it, or what scaling in the DCT domain made of it: so many eighths, with a last row and column that may
    reach beyond the picture. Hamming shrinks without ringing, about as sharp as bicubic, in half the time of Lanczos.
    Mean PSNR of nine photos of 512 to 2,048 px at 256 px, against Lanczos from full size: 42 dB; after scaling in the
    DCT domain 38 to 41 dB; of a box filter (OpenCV's INTER_AREA) 37 to 43 dB.
    """
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if scale >= 1 or target == image.size:
        return image
    eighths = min(image.width * 8 // size[0], image.height * 8 // size[1])
    inside = (0.0, 0.0, min(image.width, size[0] * eighths / 8), min(image.height, size[1] * eighths / 8))
    # Pillow counts the fourth byte of RGBX as a channel: a copy without it is cheaper than a third more to compute.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb.resize(target, Image.Resampling.HAMMING, inside, reducing_gap=2.0)


def encode_jpeg(rgb: Rgb, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] to JPEG, 4:4:4, without any metadata."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "444")
    return encoded


@dataclass(frozen=True, slots=True)
class ShapeConfig:
    """How a picture is kept: shorter side at most `size_px`, JPEG quality, with `full_chroma` at 4:4:4 and else 4:2:0.

    Faces are looked for in at most `analysis_px` (longer side). `c2pa_trust_anchors`: certificates in PEM of those
    whose C2PA signature is trusted. `blur_from`: faces with this score or a higher one are blurred in what is kept;
    None: none are.
    """

    size_px: int = 256
    quality: int = 95
    full_chroma: bool = True
    analysis_px: int = 1024
    c2pa_trust_anchors: str | None = None
    blur_from: float | None = None


@dataclass(frozen=True, slots=True)
class Shaped:
    """A picture as measured and as kept.

    `width`, `height`: of the original as displayed, in pixels; face boxes are in those. `faces` None: not looked for,
    or the detector failed (`analyser_error`). `jpeg`: resized and encoded anew, without metadata. `embedded`, `c2pa`:
    what the original bytes say of rights. `faces_blurred`: whether a new look at what is kept finds none of them any
    more; None: there was nothing to blur. `transforms`: what was done to the pixels before they were resized. All
    digests are the original's.
    """

    content_sha256: str
    media_type: str
    width: int
    height: int
    pdq: str
    pdq_quality: int
    jpeg: bytes
    faces: tuple[Face, ...] | None = None
    face_detector: str | None = None
    analyser_error: str | None = None
    embedded: Embedded | None = None
    c2pa: C2pa | None = None
    content_md5: str | None = None
    faces_blurred: bool | None = None
    transforms: tuple[str, ...] = ()


class Analyser(Protocol):
    """Looks at decoded pixels in the worker; `curation.face_detection.FaceDetector` is one."""

    @property
    def id(self) -> str: ...

    def detect(self, rgb: Rgb) -> tuple[Face, ...]: ...


def shape(
    body: bytes,
    config: ShapeConfig | None = None,
    limits: DecodeLimits | None = None,
    analyser: Analyser | None = None,
) -> Shaped:
    """Decode, measure, look for faces, shrink and encode one picture in this process. Raises DecodeError."""
    config, limits = config or ShapeConfig(), limits or DecodeLimits()
    header, image = _open(body, limits)
    least_px = config.size_px if analyser is None else _analysis_side(header, config)
    picture = _decoded(body, header, image, least_px)
    size = header.size_in_file
    faces = _NO_FACES if analyser is None else _faces(header, picture, analyser, config.analysis_px)
    kept = _turned(_shrunk(picture, size, config.size_px / min(size)), header.orientation)
    luma = np.frombuffer(kept.convert("L").tobytes(), np.uint8).reshape(kept.height, kept.width)
    digest, quality = pdq_of_luma(luma, (header.width, header.height))
    is_blurred: bool | None = None
    transforms: tuple[str, ...] = ()
    if analyser is not None and (named := _to_blur(faces.faces, config)):
        kept, is_blurred, transforms = _blurred(header, picture, kept.size, named, analyser, config)
    rgbx = np.frombuffer(kept.tobytes("raw", "RGBX"), np.uint8).reshape(kept.height, kept.width, 4)
    jpeg: bytes = simplejpeg.encode_jpeg(rgbx, config.quality, "RGBX", "444" if config.full_chroma else "420")
    return Shaped(
        content_sha256=sha256(body),
        media_type=header.media_type,
        width=header.width,
        height=header.height,
        pdq=digest,
        pdq_quality=quality,
        jpeg=jpeg,
        faces=faces.faces,
        face_detector=faces.detector,
        analyser_error=faces.error,
        embedded=read_embedded(body),
        c2pa=read_c2pa(body, config.c2pa_trust_anchors),
        content_md5=hashlib.md5(body, usedforsecurity=False).hexdigest(),
        faces_blurred=is_blurred,
        transforms=transforms,
    )


def _analysis_side(header: Header, config: ShapeConfig) -> int:
    """The shorter side a decode needs so that the longer one suffices the detector."""
    shorter, longer = sorted((header.width, header.height))
    return max(config.size_px, math.ceil(shorter * min(1.0, config.analysis_px / longer)))


@dataclass(frozen=True, slots=True)
class _Faces:
    """What a detector said; faces None: it was not asked, or failed."""

    faces: tuple[Face, ...] | None = None
    detector: str | None = None
    error: str | None = None


_NO_FACES = _Faces()
_LEAST_LOOKED_PX = 16  # a side: of the least face that detectors find


def is_too_long(size: tuple[int, int], analysis_px: int) -> bool:
    """Whether a picture of so many pixels a side shows no face that it may have, in `analysis_px` of the longer."""
    shorter, longer = sorted(size)
    return max(1, round(shorter * min(1.0, analysis_px / longer))) < _LEAST_LOOKED_PX <= shorter


def _faces(header: Header, picture: Image.Image, analyser: Analyser, analysis_px: int) -> _Faces:
    """What the detector finds in a picture as it lies in the file.

    A long one that has to be shrunk until no face would be left of a size that any detector finds is not looked at: to
    have seen nothing there is not to have seen that there is none.
    """
    if is_too_long(header.size_in_file, analysis_px):
        return _Faces(error=f"{header.width}x{header.height} is too long to be looked at in {analysis_px} px")
    small = _shrunk(picture, header.size_in_file, analysis_px / max(header.size_in_file))
    return _looked(header, _turned(small, header.orientation), analyser)


def _looked(header: Header, upright: Image.Image, analyser: Analyser) -> _Faces:
    """The faces that a detector finds in a picture of any size, in pixels of the original."""
    scale_x, scale_y = header.width / upright.width, header.height / upright.height
    try:
        found = analyser.detect(np.asarray(upright.convert("RGB")))
    except MemoryError:
        raise
    except Exception as error:  # whatever a detector stumbles over: the faces are then not observed, and that defers
        return _Faces(error=f"{type(error).__name__}: {error}"[:200])
    faces = tuple(Face(f.x * scale_x, f.y * scale_y, f.w * scale_x, f.h * scale_y, f.score) for f in found)
    return _Faces(faces, analyser.id)


# ── blur ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _to_blur(faces: tuple[Face, ...] | None, config: ShapeConfig) -> tuple[Face, ...]:
    if config.blur_from is None:
        return ()
    return tuple(face for face in faces or () if not face.score < config.blur_from)  # NaN is a face


def _blurred(
    header: Header,
    picture: Image.Image,
    size: tuple[int, int],
    faces: tuple[Face, ...],
    analyser: Analyser,
    config: ShapeConfig,
) -> tuple[Image.Image, bool, tuple[str, ...]]:
    """The picture with these faces blurred and in the size that is kept; whether a new look proves it; the transform.

    They are blurred in as many pixels as the detector sees, which is more than are kept. Both are looked at anew: while
    one still shows a face, a round more blurs it as well, and a wider margin of all. A detector that fails proves
    nothing.
    """
    fine = _shrunk(picture, header.size_in_file, _analysis_side(header, config) / min(header.size_in_file))
    fine = _turned(fine, header.orientation).convert("RGB")
    found, is_proven, kept = faces, False, fine
    for margin, cells in BLUR_ROUNDS:
        blurred = blur_boxes(fine, found, scale=fine.width / header.width, margin=margin, cells=cells)
        kept = blurred if blurred.size == size else blurred.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)
        seen = (_shrunk(upright, upright.size, config.analysis_px / max(upright.size)) for upright in (blurred, kept))
        looks = [_looked(header, upright, analyser) for upright in seen]
        left = [face for look in looks for face in _to_blur(look.faces, config)]
        is_proven = not left and all(look.faces is not None for look in looks)
        if is_proven:
            break
        found = (*found, *(face for face in left if not any(_has_middle_of(box, face) for box in found)))
    return kept, is_proven, (f"{BLUR_ID} n={len(found)} from={config.blur_from:g}",)


def _has_middle_of(box: Face, face: Face) -> bool:
    x, y = face.x + face.w / 2, face.y + face.h / 2
    return box.x <= x <= box.x + box.w and box.y <= y <= box.y + box.h
