"""Bytes to pixels within bounds, and pixels to the JPEG that we keep.

Only formats on the list are decoded (JPEG, PNG, WebP, GIF's first frame), pixels are counted before anything is
unpacked, and untrusted pictures are decoded in worker processes under memory, CPU and time limits (`DecodePool`).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socketpair
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]  # it ships no types
from PIL import Image, ImageFilter

from curation.fingerprints import pdq, sha256
from policy import errors
from policy.durable import sync_directory, write_durably
from policy.errors import ConfigurationError, InputError, StorageError
from policy.evidence import C2pa, Embedded, Face, c2pa_from_plain, embedded_from_plain
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
    memory_bytes: int = 1 << 30
    cpu_s: int = 20
    wall_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded: size as displayed (EXIF orientation applied)."""

    media_type: str
    width: int
    height: int
    orientation: int


_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", "PNG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", "WEBP"),
    (re.compile(rb"GIF8[79]a"), "image/gif", "GIF"),
)


# ── decode ───────────────────────────────────────────────────────────────────────────────────────────────────────
def read_header(body: bytes, limits: DecodeLimits | None = None) -> Header:
    """Format, size and orientation; nothing is unpacked. Raises DecodeError."""
    return _open(body, limits or DecodeLimits())[0]


def decode(body: bytes, limits: DecodeLimits | None = None, *, min_side_px: int | None = None) -> Rgb:
    """Decode to uint8 RGB [H, W, 3] as displayed: oriented by EXIF, transparency on white, 8 bits, first frame.

    With `min_side_px` a JPEG may come out smaller than it is (scaled in the DCT domain), its shorter side at least so.
    In this process and under the pixel limits only: untrusted bytes belong into a `DecodePool`. Raises DecodeError.
    """
    header, image = _open(body, limits or DecodeLimits())
    try:
        if image is None:
            rgb = _decode_jpeg(body, (header.width, header.height), min_side_px, header.orientation)
        else:
            rgb = _flatten(image)
    except MemoryError as error:
        raise DecodeError("out-of-memory") from error
    except DecodeError:
        raise
    except _PILLOW_ERRORS as error:
        raise _decode_error(error) from error
    return _oriented(rgb, header.orientation)


# What Pillow and its plugins are seen to raise on damaged input.
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, TypeError)
_SIMPLEJPEG_ERRORS = (ValueError, KeyError)  # KeyError: a colour space or subsampling it has no name for


def _open(body: bytes, limits: DecodeLimits) -> tuple[Header, Image.Image | None]:
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


def _open_lazily(body: bytes, name: str) -> Image.Image:
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


def _decode_jpeg(body: bytes, displayed: tuple[int, int], min_side_px: int | None, orientation: int) -> Rgb:
    width, height = displayed if orientation < 5 else displayed[::-1]
    smaller = {}
    if min_side_px is not None and min(width, height) > min_side_px:
        smaller = {"min_height": min_side_px} if height <= width else {"min_width": min_side_px}
    try:
        rgb: Rgb = simplejpeg.decode_jpeg(body, **smaller)
    except _SIMPLEJPEG_ERRORS as error:
        if "Premature end" in str(error):
            raise DecodeError("truncated", str(error)) from error
        # libjpeg warns of much that every browser shows (stray bytes before a marker, odd Huffman codes): as they do.
        try:
            rgb = simplejpeg.decode_jpeg(body, strict=False, **smaller)
        except _SIMPLEJPEG_ERRORS as fatal:
            raise DecodeError("corrupt", str(fatal)) from fatal
    return rgb


def _flatten(image: Image.Image) -> Rgb:
    """Any mode to RGB; what is transparent lies on white."""
    image.load()
    if image.mode.startswith("I"):
        # 16-bit grey (PNG only): Pillow's own conversion clips instead of scaling.
        grey = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel("A"))
    return np.array(image.convert("RGB"))


_TURNS: dict[int, tuple[int, bool]] = {  # orientation -> quarter turns counter-clockwise, then mirrored left-right
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


def _oriented(rgb: Rgb, orientation: int) -> Rgb:
    if orientation not in _TURNS:
        return rgb
    turns, mirrored = _TURNS[orientation]
    turned = np.rot90(rgb, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


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
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    if shorter <= size_px:
        return rgb
    target = (max(1, round(width * size_px / shorter)), max(1, round(height * size_px / shorter)))
    return _resized(rgb, target)


def fit(rgb: Rgb, max_side_px: int) -> Rgb:
    """Shrink so that the longer side is at most `max_side_px`; a smaller picture stays as it is."""
    height, width = rgb.shape[:2]
    longer = max(height, width)
    if longer <= max_side_px:
        return rgb
    return _resized(rgb, (max(1, round(width * max_side_px / longer)), max(1, round(height * max_side_px / longer))))


def _resized(rgb: Rgb, size: tuple[int, int]) -> Rgb:
    # Hamming shrinks without ringing and about as sharp as bicubic, at half its time (2.3 ms, 512 to 200 px).
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.HAMMING, reducing_gap=2.0))


def encode_jpeg(rgb: Rgb, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] to JPEG without chroma subsampling and without any metadata."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "444")
    return encoded


def blur_boxes(rgb: Rgb, boxes: Iterable[Face], *, scale: float = 1.0, margin: float = 0.2) -> Rgb:
    """A copy with the boxes made unrecognisable: averaged to a few cells, then smoothed.

    Boxes are in pixels of the original picture; `scale` is this picture's width over the original's, `margin` what is
    blurred beyond each side of a box, as a share of it.
    """
    height, width = rgb.shape[:2]
    picture = Image.fromarray(rgb)
    for box in boxes:
        left = max(0, math.floor((box.x - margin * box.w) * scale))
        top = max(0, math.floor((box.y - margin * box.h) * scale))
        right = min(width, math.ceil((box.x + (1 + margin) * box.w) * scale))
        bottom = min(height, math.ceil((box.y + (1 + margin) * box.h) * scale))
        if right <= left or bottom <= top:
            continue
        area = picture.crop((left, top, right, bottom))
        cells = area.resize((4, 4), Image.Resampling.BOX).resize(area.size, Image.Resampling.BICUBIC)
        picture.paste(cells.filter(ImageFilter.GaussianBlur(max(1.0, min(area.size) / 8))), (left, top))
    return np.asarray(picture)


@dataclass(frozen=True, slots=True)
class ShapeConfig:
    """How a picture is kept: shorter side at most `size_px`, JPEG quality; faces are looked for in at most
    `analysis_px` (longer side). `c2pa_trust_anchors`: certificates in PEM of those whose C2PA signature is trusted."""

    size_px: int = 256
    quality: int = 95
    analysis_px: int = 1024
    c2pa_trust_anchors: str | None = None


@dataclass(frozen=True, slots=True)
class Shaped:
    """A picture as measured and as kept.

    `width`, `height`: of the original as displayed, in pixels; face boxes are in those. `faces` None: not looked for,
    or the detector failed (`analyser_error`). `jpeg`: resized and encoded anew, without metadata. `embedded`, `c2pa`:
    what the original bytes say of rights.
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
    header = read_header(body, limits)
    rgb = decode(body, limits, min_side_px=config.size_px if analyser is None else _analysis_side(header, config))
    shaped = Shaped(
        content_sha256=sha256(body),
        media_type=header.media_type,
        width=header.width,
        height=header.height,
        pdq="",
        pdq_quality=0,
        jpeg=b"",
        embedded=read_embedded(body),
        c2pa=read_c2pa(body, config.c2pa_trust_anchors),
        content_md5=hashlib.md5(body, usedforsecurity=False).hexdigest(),
    )
    if analyser is not None:
        shaped = _analysed(shaped, rgb, analyser, config.analysis_px)
    kept = resize(rgb, config.size_px)
    digest, quality = pdq(kept if min(kept.shape[:2]) >= 64 else rgb)
    return replace(shaped, pdq=digest, pdq_quality=quality, jpeg=encode_jpeg(kept, config.quality))


def _analysis_side(header: Header, config: ShapeConfig) -> int:
    """The shorter side a decode needs so that the longer one suffices the detector."""
    shorter, longer = sorted((header.width, header.height))
    return max(config.size_px, math.ceil(shorter * min(1.0, config.analysis_px / longer)))


def _analysed(shaped: Shaped, rgb: Rgb, analyser: Analyser, analysis_px: int) -> Shaped:
    small = fit(rgb, analysis_px)
    scale_x, scale_y = shaped.width / small.shape[1], shaped.height / small.shape[0]
    try:
        found = analyser.detect(small)
    except MemoryError:
        raise
    except Exception as error:  # whatever a detector stumbles over: the faces are then not observed, and that defers
        return replace(shaped, analyser_error=f"{type(error).__name__}: {error}"[:200])
    faces = tuple(Face(f.x * scale_x, f.y * scale_y, f.w * scale_x, f.h * scale_y, f.score) for f in found)
    return replace(shaped, faces=faces, face_detector=analyser.id)


# ── the pixels that are kept ─────────────────────────────────────────────────────────────────────────────────────
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PixelStore:
    """Our JPEGs by the sha256 of the original bytes, as files `<aa>/<sha256>.jpg`; a picture is whole or absent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, content_sha256: str) -> Path:
        if not _SHA256.fullmatch(content_sha256):
            raise InputError("not a sha256 in hex", where=repr(content_sha256[:80]))
        return self.directory / content_sha256[:2] / f"{content_sha256}.jpg"

    def put(self, content_sha256: str, jpeg: bytes) -> None:
        """Write a picture atomically; raises StorageError when the disk refuses."""
        path = self.path(content_sha256)
        try:
            write_durably(path, jpeg)
        except OSError as error:
            raise StorageError(
                f"the picture could not be written ({error.strerror})", where=str(path), remedy="Free some space"
            ) from error

    def get(self, content_sha256: str) -> bytes:
        """The JPEG; raises InputError when it is not here."""
        path = self.path(content_sha256)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise InputError("the picture's pixels are not kept", where=str(path), remedy="Crawl it again") from error

    def delete(self, content_sha256: str) -> bool:
        """Remove a picture for good; False when there was none."""
        path = self.path(content_sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_directory(path.parent)
        return True

    def __contains__(self, content_sha256: str) -> bool:
        return self.path(content_sha256).exists()

    def keys(self) -> Iterator[str]:
        """The sha256 of every picture, sorted."""
        if not self.directory.is_dir():
            return
        for folder in sorted(self.directory.iterdir()):
            if folder.is_dir():
                yield from sorted(p.stem for p in folder.glob("*.jpg") if _SHA256.fullmatch(p.stem))


# ── worker processes ─────────────────────────────────────────────────────────────────────────────────────────────
class DecodePool:
    """Shapes untrusted pictures in worker processes: a bomb kills its worker, not the run.

    `analyser`: "module:factory" of an `Analyser`, built once a worker. Workers are fresh interpreters (no fork, no
    import of the caller's main module, no torch), one thread each; what they answer is JSON and JPEG, never a pickle.

    ::

        with DecodePool(2, analyser="curation.face_detection:default_detector") as pool:
            for fetched in fetcher.fetch_all(…):
                pool.submit(fetched.url, fetched.body)
                for tag, result in pool.ready(): …
            for tag, result in pool.drain(): …
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        config: ShapeConfig | None = None,
        limits: DecodeLimits | None = None,
        analyser: str | None = None,
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers must be at least 1, not {workers}", where="decode")
        self.config, self.limits = config or ShapeConfig(), limits or DecodeLimits()
        self.analyser = analyser
        self._workers = [_Worker(self) for _ in range(workers)]
        self._waiting: deque[tuple[object, bytes]] = deque()
        self._done: deque[tuple[object, Shaped | DecodeError]] = deque()

    def submit(self, tag: object, body: bytes) -> None:
        """Hand in a picture; blocks while two a worker are waiting already."""
        self._waiting.append((tag, body))
        self._pump(0.0)
        while len(self._waiting) > 2 * len(self._workers):
            self._pump(1.0)

    def ready(self) -> Iterator[tuple[object, Shaped | DecodeError]]:
        """What is finished by now, in no order."""
        self._pump(0.0)
        while self._done:
            yield self._done.popleft()

    def drain(self) -> Iterator[tuple[object, Shaped | DecodeError]]:
        """Everything that was submitted, as it finishes."""
        while self._done or self._waiting or any(w.busy for w in self._workers):
            if not self._done:
                self._pump(1.0)
            while self._done:
                yield self._done.popleft()

    def shape_all(self, pictures: Iterable[tuple[object, bytes]]) -> Iterator[tuple[object, Shaped | DecodeError]]:
        """Shape a stream of (tag, bytes), results as they finish."""
        for tag, body in pictures:
            self.submit(tag, body)
            yield from self.ready()
        yield from self.drain()

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pump(self, timeout_s: float) -> None:
        """Give work to idle workers, and take what comes within the time."""
        self._hand_out()
        busy = {worker.connection: worker for worker in self._workers if worker.busy}
        overdue_in = min((worker.remaining_s() for worker in busy.values()), default=timeout_s)
        for connection in wait(list(busy), max(0.0, min(timeout_s, overdue_in))):
            self._done.append(busy[connection].take())  # type: ignore[index]  # wait() returns what it was given
        for worker in busy.values():
            if worker.busy and worker.remaining_s() <= 0:
                self._done.append(worker.overdue())
        self._hand_out()

    def _hand_out(self) -> None:
        if self._waiting:
            for worker in self._workers:
                worker.spawn()  # all at once: their imports overlap
        for worker in self._workers:
            if self._waiting and not worker.busy:
                worker.give(*self._waiting.popleft())


class _Worker:
    """One decoding process and the picture it has in hand."""

    def __init__(self, pool: DecodePool) -> None:
        self.pool = pool
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection
        self.busy = self.greeted = False
        self.tag: object = None
        self.deadline = 0.0

    def give(self, tag: object, body: bytes) -> None:
        try:
            self._greet()
            self.connection.send_bytes(body)
        except OSError:  # it died idle: not this picture's doing, so once more with a fresh one
            self.stop()
            self.spawn()
            self._greet()
            self.connection.send_bytes(body)
        self.busy, self.tag = True, tag
        self.deadline = time.monotonic() + self.pool.limits.wall_s

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def take(self) -> tuple[object, Shaped | DecodeError]:
        self.busy = False
        try:
            answer = json.loads(self.connection.recv_bytes())
            if (code := answer.get("error")) is not None:
                result: Shaped | DecodeError = DecodeError(code, answer["detail"])
                if code == "out-of-memory":
                    self.stop()  # its heap is in pieces: the next picture gets a fresh one
            else:
                result = _shaped(answer, self.connection.recv_bytes())
        except (EOFError, OSError):
            status = self.stop()
            result = DecodeError("decoder-killed", f"signal {-status}" if status is not None and status < 0 else "")
        return self.tag, result

    def overdue(self) -> tuple[object, DecodeError]:
        self.stop()
        self.busy = False
        return self.tag, DecodeError("timeout", f"longer than {self.pool.limits.wall_s:g} s")

    def spawn(self) -> None:
        """Start the process, if there is none; `give` waits until it is ready."""
        if self.process is not None:
            return
        ours, theirs = socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from curation.images import work; work()", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_worker_environment(),
            )
        self.connection, self.greeted = Connection(ours.detach()), False

    def stop(self) -> int | None:
        """End the process; its exit status, when it ended by itself."""
        if self.process is None:
            return None
        self.connection.close()
        try:
            # An idle worker leaves by itself when its connection is gone; a busy one is not waited for.
            status: int | None = self.process.wait(0.0 if self.busy else 2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = None
        self.process = None
        return status

    def _greet(self) -> None:
        """Tell the worker how to work and wait until it is ready (it imports and loads the analyser first)."""
        if self.greeted:
            return
        pool = self.pool
        greeting = {"config": asdict(pool.config), "limits": asdict(pool.limits), "analyser": pool.analyser}
        try:
            self.connection.send_bytes(json.dumps(greeting).encode())
            answer = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            self.stop()
            raise ConfigurationError("a decoding worker ended before it was ready", where="decode") from error
        if "failed" in answer:
            self.stop()
            kind = getattr(errors, answer["kind"], ConfigurationError)
            raise kind(answer["failed"], where=answer["where"], remedy=answer["remedy"])
        self.greeted = True


def _worker_environment() -> dict[str, str]:
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **one_thread, "PYTHONPATH": path}


def _shaped(answer: dict[str, Any], jpeg: bytes) -> Shaped:
    faces, embedded, c2pa = (answer.pop(name) for name in ("faces", "embedded", "c2pa"))
    return Shaped(
        **answer,
        jpeg=jpeg,
        faces=None if faces is None else tuple(Face(**f) for f in faces),
        embedded=None if embedded is None else embedded_from_plain(embedded),
        c2pa=None if c2pa is None else c2pa_from_plain(c2pa),
    )


def work() -> None:
    """A worker's whole life: greeted, limited, then one picture after another until its connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = Connection(int(sys.argv[1]))
    greeting = json.loads(connection.recv_bytes())
    limits, config = DecodeLimits(**greeting["limits"]), ShapeConfig(**greeting["config"])
    try:
        analyser = None if greeting["analyser"] is None else _build(greeting["analyser"])
        _warm_up(analyser)
    except Exception as error:  # anything that keeps it from starting is the parent's to report
        told = {name: str(getattr(error, name, "")) for name in ("where", "remedy")}
        what = str(getattr(error, "what", f"{type(error).__name__}: {error}"))
        connection.send_bytes(json.dumps({"failed": what, "kind": type(error).__name__, **told}).encode())
        return
    _limit_memory(limits.memory_bytes)
    connection.send_bytes(b'{"ready": true}')
    while True:
        try:
            body = connection.recv_bytes()
        except EOFError:
            return
        _limit_cpu(limits.cpu_s)
        try:
            shaped = shape(body, config, limits, analyser)
        except DecodeError as error:
            connection.send_bytes(json.dumps({"error": error.code, "detail": error.detail}).encode())
        except MemoryError:
            connection.send_bytes(b'{"error": "out-of-memory", "detail": ""}')
        else:
            answer = asdict(shaped)
            jpeg = answer.pop("jpeg")
            connection.send_bytes(json.dumps(answer).encode())
            connection.send_bytes(jpeg)


def _build(factory: str) -> Analyser:
    module, colon, name = factory.partition(":")
    if not colon:
        raise ConfigurationError(f"{factory!r} is not written as module:factory", where="analyser")
    analyser: Analyser = getattr(import_module(module), name)()
    return analyser


def _warm_up(analyser: Analyser | None) -> None:
    """Everything that is loaded on first use is loaded before memory is limited."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "WEBP", "GIF", "JPEG"):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, kind)
        shape(held.getvalue(), None, None, analyser)


def _limit_memory(beyond_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + beyond_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))
