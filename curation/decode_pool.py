"""Worker processes that decode untrusted pictures: a bomb kills its worker, not the run, and costs its picture alone.

How a picture travels, and what becomes of one that its worker dies of, `curation.worker_pool` says.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from curation.decode_memory import bytes_wanted, webp_bytes_wanted
from curation.images import Analyser, DecodeError, DecodeLimits, ShapeConfig, Shaped, encode_jpeg, read_header, shape
from curation.worker_pool import KILLED, OUT_OF_MEMORY, Do, NotDone, WorkerPool, alone, serve
from policy.errors import ConfigurationError
from policy.evidence import C2pa, Embedded, Face, c2pa_from_plain, embedded_from_plain

Result = Shaped | DecodeError
# What a worker may take at any time, and what a picture may want for it to be decoded then: all others are decoded by
# one worker at a time, so that several hostile ones do not take the limit's memory each.
_USUAL_BYTES, _WANTED_BYTES = 96 << 20, 80 << 20
_PLAIN = b"plain"  # the head of a picture that the analyser is not asked about


class DecodePool(WorkerPool[Result]):
    """Shapes untrusted pictures in worker processes, within `limits` of memory, CPU and time for each.

    `analyser`: "module:factory" of an `Analyser`, built once a worker with `analyser_arguments`. Workers are fresh
    interpreters (no fork, no import of the caller's main module, no torch), one thread each, started by the first
    picture or by `start`. At most `queue_depth` pictures are laid out for each; up to `max_bytes` of bodies may be
    waiting in all. Not for several threads.

    ::

        with DecodePool(2, analyser="curation.face_detection:default_detector") as pool:
            for fetched in fetcher.fetch_all(…):        # a loop of its own may sleep on pool.fileno()
                pool.submit(fetched.url, fetched.body)
                for tag, result in pool.ready(): …
            for tag, result in pool.drain(): …

    A worker that cannot start raises out of whatever is called then, with its analyser's own words.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        config: ShapeConfig | None = None,
        limits: DecodeLimits | None = None,
        analyser: str | None = None,
        analyser_arguments: tuple[str, ...] = (),
        queue_depth: int = 4,
        max_bytes: int = 24 << 20,
    ) -> None:
        self.config, self.limits, self.analyser = config or ShapeConfig(), limits or DecodeLimits(), analyser
        super().__init__(
            workers,
            entry="curation.decode_pool:work",
            greeting={
                "config": asdict(self.config),
                "limits": asdict(self.limits),
                "analyser": None if analyser is None else [analyser, *analyser_arguments],
            },
            limits=self.limits,
            queue_depth=queue_depth,
            max_bytes=max_bytes,
            usual_bytes=_USUAL_BYTES if analyser is None else None,
        )

    def submit(self, tag: object, body: bytes, *, analyse: bool = True) -> None:
        """Hand in a picture; waits only while `max_bytes` of pictures are unanswered.

        Without `analyse` the analyser, where there is one, is not asked: faces stay not observed, and none is blurred.
        """
        self.submit_piece(tag, b"" if analyse else _PLAIN, body)

    def shape_all(self, pictures: Iterable[tuple[object, bytes]]) -> Iterator[tuple[object, Result]]:
        """Shape a stream of (tag, bytes), results as they finish."""
        for tag, body in pictures:
            self.submit(tag, body)
            yield from self.ready()
        yield from self.drain()

    def made(self, made: bytes, told: Any) -> Result:
        return _shaped(told, made)

    def not_made(self, why: NotDone) -> Result:
        return DecodeError("decoder-killed" if why.code == KILLED else why.code, why.detail)


# ── what was measured, as JSON ───────────────────────────────────────────────────────────────────────────────────
def _told(shaped: Shaped) -> list[Any]:
    """Everything but the JPEG, in order; metadata that hold nothing as one word, which most do."""
    embedded, c2pa, faces = shaped.embedded, shaped.c2pa, shaped.faces
    return [
        shaped.content_sha256,
        shaped.content_md5,
        shaped.media_type,
        shaped.width,
        shaped.height,
        shaped.pdq,
        shaped.pdq_quality,
        None if faces is None else [(f.x, f.y, f.w, f.h, f.score) for f in faces],
        shaped.face_detector,
        shaped.analyser_error,
        embedded and (embedded.media_type if embedded == Embedded(embedded.media_type) else asdict(embedded)),
        c2pa and (c2pa.state if c2pa == C2pa(c2pa.state) else asdict(c2pa)),
        shaped.faces_blurred,
        shaped.transforms,
    ]


def _shaped(told: list[Any], jpeg: bytes) -> Shaped:
    sha256, md5, media_type, width, height, pdq, pdq_quality, faces, detector, error, embedded, c2pa, *rest = told
    is_blurred, transforms = rest
    return Shaped(
        content_sha256=sha256,
        media_type=media_type,
        width=width,
        height=height,
        pdq=pdq,
        pdq_quality=pdq_quality,
        jpeg=jpeg,
        faces=None if faces is None else tuple(Face(*face) for face in faces),
        face_detector=detector,
        analyser_error=error,
        embedded=Embedded(embedded) if isinstance(embedded, str) else embedded and embedded_from_plain(embedded),
        c2pa=C2pa(c2pa) if isinstance(c2pa, str) else c2pa and c2pa_from_plain(c2pa),
        content_md5=md5,
        faces_blurred=is_blurred,
        transforms=tuple(transforms),
    )


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────
def work() -> None:
    """A worker's whole life."""
    serve(_prepare)


def _prepare(greeting: Mapping[str, Any]) -> Do:
    limits, config = DecodeLimits(**greeting["limits"]), ShapeConfig(**greeting["config"])
    analyser = None if greeting["analyser"] is None else _build(*greeting["analyser"])
    _warm_up(analyser, config)

    def do(head: bytes, body: bytes) -> tuple[bytes, bytes] | NotDone:
        try:
            wanted = webp_bytes_wanted(body) or bytes_wanted(body, read_header(body, limits))
            with alone() if wanted > _WANTED_BYTES else nullcontext():
                shaped = shape(body, config, limits, analyser if head != _PLAIN else None)
        except DecodeError as error:
            if error.code == "corrupt" and webp_bytes_wanted(body) > limits.memory_bytes:
                return NotDone(OUT_OF_MEMORY)  # libwebp does not say which
            return NotDone(error.code, error.detail)
        return shaped.jpeg, json.dumps(_told(shaped)).encode()

    return do


def _build(factory: str, *arguments: str) -> Analyser:
    module, colon, name = factory.partition(":")
    if not colon:
        raise ConfigurationError(f"{factory!r} is not written as module:factory", where="analyser")
    analyser: Analyser = getattr(import_module(module), name)(*arguments)
    return analyser


def _warm_up(analyser: Analyser | None, config: ShapeConfig | None = None) -> None:
    """Everything that is loaded on first use is loaded before memory is limited."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "WEBP", "GIF", "JPEG"):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, kind)
        shape(held.getvalue(), None, None, analyser)
    if analyser is not None and config is not None:
        # A detector keeps the buffers of its largest picture: as its first one they would look like a leak.
        largest = np.zeros((config.analysis_px, config.analysis_px, 3), dtype=np.uint8)
        shape(encode_jpeg(largest), config, None, analyser)
