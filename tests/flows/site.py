"""A site of a test's own on loopback: pages and pictures whose answers the test changes as it goes."""

from __future__ import annotations

import io
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image


@dataclass(slots=True)
class Answer:
    """What is answered under a path."""

    body: bytes = b""
    media_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)


def picture(seed: int) -> bytes:
    """A PNG of 96 pixels with no face in it."""
    colours = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(colours).resize((96, 96), Image.Resampling.BILINEAR).save(held, "PNG")
    return held.getvalue()


class Site:
    """`with Site({"/": Answer(…)}) as site:`; what is not there answers 404, and `stop()` makes it silent."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: Counter[str] = Counter()
        self.confirmed: Counter[str] = Counter()  # of them, those that were answered 304
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests[self.path] += 1
                answer = site.answers.get(self.path, Answer(b"", "text/plain", 404))
                tag = next((value for name, value in answer.headers if name.lower() == "etag"), None)
                if tag is not None and self.headers["If-None-Match"] == tag:
                    self._confirm(answer)
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.media_type)
                self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def _confirm(self, answer: Answer) -> None:
                site.confirmed[self.path] += 1
                self.send_response(304)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def address(self) -> str:
        """ "ip:port", as allow_addresses wants it."""
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        """A path as a URL."""
        return f"http://{self.address}{path}"

    def stop(self) -> None:
        """Answer nobody from now on."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
