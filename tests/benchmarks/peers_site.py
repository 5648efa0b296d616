"""The loopback web of the cases: an origin (a port of 127.0.0.1) for each, and another for each one's neighbours."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered under a path; `status` None: the connection is closed without a word.

    "{origin}" in the body and in headers stands for the origin that answers, "{target}" for that of the redirect.
    `cut`: the body ends halfway, short of the length that was announced.
    """

    body: bytes = b""
    status: int | None = 200
    headers: Headers = ()
    media_type: str = "text/plain; charset=utf-8"
    cut: bool = False


NOT_FOUND = Answer(b"nothing here\n", 404)


class Origin:
    """One server: its answers by path, which may be changed while it runs, and how often each path was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.target = ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.server.daemon_threads = True
        self.server.timeout = 0

    @property
    def address(self) -> str:
        """ "127.0.0.1:port"."""
        return f"127.0.0.1:{self.server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def filled(self, body: bytes) -> bytes:
        return body.replace(b"{origin}", self.url.encode()).replace(b"{target}", self.target.encode())


def _handler_of(origin: Origin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            origin.asked[self.path] += 1
            answer = origin.answers.get(self.path, NOT_FOUND)
            if answer.status is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = origin.filled(answer.body)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.media_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers:
                self.send_header(name, origin.filled(value.encode("latin-1")).decode("latin-1"))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if answer.cut else body)

        def log_message(self, *_: object) -> None:
            return

    return Handler


class Web:
    """`with Web() as web:` origins that answer until the end; one thread accepts for all of them."""

    def __init__(self) -> None:
        self.origins: list[Origin] = []
        self._selector = selectors.DefaultSelector()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def origin(self, answers: Mapping[str, Answer]) -> Origin:
        """A new origin; to be made before the web opens."""
        origin = Origin()
        origin.answers.update(answers)
        self._selector.register(origin.server, selectors.EVENT_READ, origin)
        self.origins.append(origin)
        return origin

    def take_asked(self) -> Counter[str]:
        """How often each path was asked for since the last call, on whatever origin."""
        asked: Counter[str] = Counter()
        for origin in self.origins:
            asked += origin.asked
            origin.asked.clear()
        return asked

    def _serve(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select(0.1):
                key.data.server.handle_request()

    def open(self) -> None:
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        if self._thread.is_alive():
            self._thread.join()
        for origin in self.origins:
            origin.server.server_close()
        self._selector.close()
