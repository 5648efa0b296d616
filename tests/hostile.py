"""A server that means harm: every trick has an origin of its own on loopback, and one origin between them is honest.

    with Hostile(tricks(full=False)) as server: …          in this process
    python -m tests.hostile --full                          in one of its own; says its port, ends with its stdin

Tricks are functions of a `Wire`, the raw connection; nothing of HTTP is done for them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from PIL import Image

from curation.images import DECODE_ERROR_CODES

Answer = Callable[["Wire"], None]
ROOT = Path(__file__).resolve().parent.parent
_PAUSE_S = 0.002  # between two pieces of a flood: the machine is the tests' too


class Gone(Exception):
    """The client left, or the server is to stop."""


class Wire:
    """One connection as a trick sees it; `path` is what was asked for, "" before anything was."""

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self.connection, self.stopping = connection, stopping
        self.path = ""
        self._received = b""

    def read_request(self) -> bytes:
        """The next request's head."""
        while b"\r\n\r\n" not in self._received:
            data = self.connection.recv(65536)
            if not data:
                raise Gone
            self._received += data
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self.path = head.split(b" ", 2)[1].decode("latin-1")
        return head

    def send(self, data: bytes) -> None:
        if self.stopping.is_set():
            raise Gone
        self.connection.sendall(data)

    def flood(self, data: bytes) -> None:
        """Again and again, until the client has enough."""
        while True:
            self.send(data)
            self.wait(_PAUSE_S)

    def drip(self, data: bytes = b"x") -> None:
        """A byte at a time, slowly and without end."""
        while True:
            for byte in data:
                self.send(bytes([byte]))
                self.wait(0.1)

    def hang(self) -> None:
        """Say nothing more while the client is there."""
        while True:
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(65536):
                raise Gone
            self.wait(0.0)

    def wait(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise Gone

    def reset(self) -> None:
        """End it with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def close(self) -> None:
        raise Gone


@dataclass(frozen=True, slots=True)
class Trick:
    """What one origin does, and how a fetch of it, and then its decoding, may end.

    `unasked`: it acts on the connection, without reading a request. `decoded`: "shaped" or a code of DecodeError.
    """

    name: str
    answer: Answer
    outcomes: frozenset[str]
    kind: Literal["page", "image"] = "image"
    decoded: frozenset[str] = frozenset()
    unasked: bool = False
    path: str = ""  # what is asked for, if not the name


def _trick(name: str, answer: Answer | bytes, *outcomes: str, unasked: bool = False, path: str = "") -> Trick:
    act = answer if callable(answer) else _sending(answer)
    return Trick(name, act, frozenset(outcomes), unasked=unasked, path=path)


def _sending(data: bytes) -> Answer:
    def answer(wire: Wire) -> None:
        wire.send(data)
        wire.close()

    return answer


def _then(data: bytes, act: Callable[[Wire], None]) -> Answer:
    def answer(wire: Wire) -> None:
        if data:
            wire.send(data)
        act(wire)

    return answer


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1")


def whole(body: bytes, *lines: str) -> bytes:
    return head(f"Content-Length: {len(body)}", *lines) + body


CHUNKED = head("Transfer-Encoding: chunked")
OPEN = head("Content-Type: image/png")  # no length: until the connection ends
_LATE = ("timeout",)
_CUT = ("reset", "truncated", "bad-response")


# ── who does not answer, or not to the end ───────────────────────────────────────────────────────────────────────
_STAGES: Mapping[str, bytes] = {
    "in the status line": b"HTTP/1.1 2",
    "after the status line": b"HTTP/1.1 200 OK\r\n",
    "in a header": b"HTTP/1.1 200 OK\r\nContent-Len",
    "after the headers": head("Content-Length: 5000"),
    "in the body": head("Content-Length: 5000") + b"x" * 700,
    "before a chunk": CHUNKED,
    "in a chunk's size": CHUNKED + b"1",
    "in a chunk": CHUNKED + b"400\r\nxxx",
    "between chunks": CHUNKED + b"3\r\nxxx\r\n",
    "in the trailers": CHUNKED + b"3\r\nxxx\r\n0\r\nX-A: b",
    "in an undeclared body": OPEN + b"x" * 100,
    "in a gzip body": head("Content-Encoding: gzip", "Content-Length: 5000") + gzip.compress(b"x" * 99)[:20],
    "in an error's body": head("Content-Length: 5000", status="HTTP/1.1 404 Not Found") + b"x",
    "in a redirect's body": head("Location: /x", "Content-Length: 5000", status="HTTP/1.1 302 Found") + b"x",
    "after 100": head(status="HTTP/1.1 100 Continue"),
}


def _silent() -> Iterator[Trick]:
    yield _trick("hangs on the connection", Wire.hang, *_LATE, unasked=True)
    yield _trick("hangs on the request", Wire.hang, *_LATE)
    yield _trick("resets the connection", Wire.reset, *_CUT, "connect", unasked=True)
    yield _trick("closes the connection", Wire.close, *_CUT, "connect", unasked=True)
    yield _trick("resets on the request", Wire.reset, *_CUT)
    yield _trick("closes on the request", Wire.close, *_CUT)
    yield _trick("drips its status line", Wire.drip, *_LATE, *_CUT)
    for stage, data in _STAGES.items():
        yield _trick(f"hangs {stage}", _then(data, Wire.hang), *_LATE)
        yield _trick(
            f"drips {stage}", _then(data, Wire.drip), *_LATE, *_CUT, *(("bad-encoding",) if "gzip" in stage else ())
        )
        # An undeclared body ends with its connection: that is no harm, and no lie.
        ended = ("ok",) if stage == "in an undeclared body" else ()
        errors = ("http-404", "http-302", "too-many-redirects") if "error" in stage or "redirect" in stage else ()
        yield _trick(f"resets {stage}", _then(data, Wire.reset), *_CUT)
        yield _trick(f"closes {stage}", _then(data, Wire.close), *_CUT, *ended, *errors)


# ── lies about length ────────────────────────────────────────────────────────────────────────────────────────────
def _lies() -> Iterator[Trick]:
    body = b"x" * 1000
    yield _trick("declares less", head("Content-Length: 4") + body, "ok")
    yield _trick("declares more", head("Content-Length: 99999") + body, "truncated")
    for name, value, outcomes in (
        ("a negative length", "-1", ()),
        ("a huge length", "9" * 40, ("too-large", "truncated")),
        ("2^64 as length", str(1 << 64), ("too-large", "truncated")),
        ("2^63 - 1 as length", str((1 << 63) - 1), ("too-large",)),
        ("2^32 as length", str(1 << 32), ("too-large",)),
        ("a length in hex", "0x10", ("ok", "truncated")),
        ("a length with a sign", "+1000", ("ok",)),
        ("an empty length", "", ("ok",)),
        ("a length that is a word", "many", ("ok",)),
        ("two lengths in one", "1000, 5", ("ok", "truncated")),
        ("a length in Arabic digits", "\xd9\xa1", ("ok",)),
    ):
        yield _trick(name, head(f"Content-Length: {value}") + body, "bad-response", *outcomes)
    yield _trick("two lengths", head("Content-Length: 10", "Content-Length: 1000") + body, "bad-response", "ok")
    both = head("Content-Length: 5", "Transfer-Encoding: chunked")
    yield _trick("a length and chunks", both + b"3\r\nxxx\r\n0\r\n\r\n", "ok", "bad-response")
    yield _trick("a length for an empty status", head("Content-Length: 9", status="HTTP/1.1 204 Empty"), "http-204")
    yield _trick("a body after 304", head("Content-Length: 9", status="HTTP/1.1 304 No") + body, "http-304")
    for name, data in (
        ("a chunk size that is no number", b"zz\r\nxxx\r\n"),
        ("a negative chunk", b"-3\r\nxxx\r\n"),
        ("an empty chunk size", b"\r\nxxx\r\n"),
        ("a chunk of 2^64 - 1", b"ffffffffffffffff\r\nxxx"),
        ("a chunk of 2^68", b"fffffffffffffffff\r\nxxx"),
        ("a chunk size with 64 KB of zeros", b"0" * 65536 + b"3\r\nxxx\r\n0\r\n\r\n"),
        ("a chunk without its end", b"3\r\nxxxxxx\r\n0\r\n\r\n"),
        ("chunks that end nowhere", b"3\r\nxxx\r\n"),
        ("a chunk in spaces", b" 3 \r\nxxx\r\n0\r\n\r\n"),
    ):
        yield _trick(name, CHUNKED + data, "bad-response", "reset", "truncated", "ok")
    yield _trick(
        "an unknown transfer encoding", head("Transfer-Encoding: brotli") + b"x", "bad-response", "bad-encoding", "ok"
    )
    yield _trick(
        "chunked twice",
        head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
        "bad-response",
        "bad-encoding",
        "ok",
        "truncated",
        "reset",
    )


# ── floods ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _floods(full: bool) -> Iterator[Trick]:
    page = b"x" * 65536
    large, late = "too-large", "timeout"
    chunk = b"10000\r\n" + page + b"\r\n"
    yield _trick("a body without end", _flooding(OPEN, page), large)
    yield _trick("chunks without end", _flooding(CHUNKED, chunk), large)
    yield _trick("tiny chunks without end", _flooding(CHUNKED, b"1\r\nx\r\n" * 8000), large, late)
    yield _trick(
        "a chunk extension without end",
        _flooding(CHUNKED + b"3;", b"a=b;" * 16000),
        large,
        late,
        "bad-response",
        "reset",
    )
    yield _trick("trailers without end", _flooding(CHUNKED + b"0\r\n", b"X-Trailer: y\r\n" * 4000), large)
    yield _trick("an endless trailer", _flooding(CHUNKED + b"0\r\nX-Trailer: ", page), large, "bad-response")
    yield _trick("an error without end", _flooding(head(status="HTTP/1.1 500 No"), page), "http-500")
    yield _trick(
        "a redirect without end",
        _flooding(head("Location: http://[::1]/", status="HTTP/1.1 302 Found"), page),
        "forbidden-address",
        "refused-by-policy",
    )
    start = b"HTTP/1.1 200 OK\r\n"
    yield _trick("headers without end", _flooding(start, b"".join(b"X-%d: y\r\n" % i for i in range(4000))), large)
    yield _trick("a header without end", _flooding(start + b"X-Flood: ", page), large)
    yield _trick("a header's name without end", _flooding(start + b"X", page), large, "bad-response")
    yield _trick("a folded header without end", _flooding(start + b"X: y\r\n", b" z\r\n" * 10000), large)
    yield _trick("empty header lines", _flooding(start, b":\r\n" * 20000), large, "bad-response")
    yield _trick("a status line without end", _flooding(b"HTTP/1.1 200 ", page), large, "bad-response")
    yield _trick("one header of 10 MB", _then(start + b"X: " + b"y" * 10_000_000 + b"\r\n\r\n", Wire.close), large)
    yield _trick("100,000 headers", start + b"Set-Cookie: a=b\r\n" * 100_000 + b"\r\n", large)
    yield _trick("100 without end", _flooding(b"", head(status="HTTP/1.1 100 Continue") * 500), large, late)
    early = head("Link: </x>; rel=preload" * 20, status="HTTP/1.1 103 Early Hints")
    yield _trick("103 without end", _flooding(b"", early * 100), large, late)
    yield _trick("100 by drips", _then(b"", lambda wire: wire.drip(head(status="HTTP/1.1 100 Continue"))), late)
    yield _trick(
        "switches protocols",
        head("Upgrade: websocket", status="HTTP/1.1 101 Switching") + b"\x81\x05hello",
        "bad-response",
        "http-101",
        "reset",
        "truncated",
    )
    for i in range(20 if full else 0):
        hoards = head("Content-Length: 20000000") + bytes(1_100_000)
        yield _trick(f"declares 20 MB, sends one and drips ({i})", _then(hoards, _dripping_kilobytes), late, large)
    yield _trick("responses that nobody asked for", _flooding(whole(b"x"), whole(b"y") * 1000), "ok")


def _dripping_kilobytes(wire: Wire) -> None:
    """Faster than the least rate, and without end."""
    while True:
        wire.send(bytes(1000))
        wire.wait(0.5)


def _flooding(first: bytes, again: bytes) -> Answer:
    return _then(first, lambda wire: wire.flood(again))


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────
def _redirects() -> Iterator[Trick]:
    many = "too-many-redirects"

    def to(target: Callable[[str], str], *more: str) -> Answer:
        def answer(wire: Wire) -> None:
            while True:
                lines = (f"Location: {target(wire.path)}", "Content-Length: 0", *more)
                wire.send(head(*lines, status="HTTP/1.1 302 Found"))
                wire.read_request()

        return answer

    yield _trick("redirects to itself", to(lambda path: path), many)
    yield _trick("redirects with a growing query", to(lambda path: path + ("&x" if "?" in path else "?x") * 99), many)
    yield _trick("redirects up a path", to(lambda path: path + "/x"), many)
    yield _trick("redirects to and fro", to(lambda path: "/b" if path.endswith("a") else "/a"), many)
    yield _trick("redirects by fragment", to(lambda path: path + "#x"), many)
    yield _trick("redirects to nothing", to(lambda path: ""), many, "http-302")
    yield _trick("redirects to 60 KB", to(lambda path: "/" + "x" * 60_000), "bad-url")
    yield _trick("redirects to no URL", to(lambda path: "http://[::1"), "bad-url")
    yield _trick("redirects to a file", to(lambda path: "file:///etc/passwd"), "bad-url")
    yield _trick("redirects with a password", to(lambda path: "http://a:b@127.0.0.1/"), "bad-url")
    yield _trick("redirects inside", to(lambda path: "http://169.254.169.254/latest/"), "forbidden-address")
    yield _trick(
        "two targets",
        to(lambda path: path, "Location: http://10.0.0.1/"),
        many,
        "bad-response",
    )
    yield _trick("refreshes for ever", whole(b"", "Refresh: 0"), "ok")


# ── content encodings ────────────────────────────────────────────────────────────────────────────────────────────
def _encodings(full: bool) -> Iterator[Trick]:
    size = 1 << 30 if full else 1 << 25
    for name, encoding, body, outcomes in (
        ("a gzip bomb", "gzip", _squeezed(size, 31), ("too-large",)),
        ("a deflate bomb", "deflate", _squeezed(size, 15), ("too-large",)),
        ("a raw deflate bomb", "deflate", _squeezed(size, -15), ("too-large",)),
        ("a gzip bomb in a gzip", "gzip, gzip", gzip.compress(_squeezed(size, 31)), ("bad-encoding",)),
        (
            "a gzip in one line and another in the next",
            "gzip\r\nContent-Encoding: gzip",
            _squeezed(size, 31),
            ("bad-encoding", "too-large"),
        ),
        ("a brotli bomb", "br", bytes.fromhex("5b0000008a1f") + b"\0" * 5000, ("bad-encoding",)),
        ("a zstd bomb", "zstd", bytes.fromhex("28b52ffda4") + b"\0" * 5000, ("bad-encoding",)),
        ("gzip that is none", "gzip", b"x" * 5000, ("bad-encoding",)),
        ("gzip cut off", "gzip", gzip.compress(os.urandom(5000))[:-20], ("truncated",)),
        ("gzip with a wrong sum", "gzip", gzip.compress(b"x" * 5000)[:-8] + b"\0" * 8, ("bad-encoding",)),
        ("gzip with rubbish after it", "gzip", gzip.compress(b"x") + b"rubbish" * 999, ("ok",)),
        ("100,000 empty gzip members", "gzip", gzip.compress(b"") * 100_000, ("ok", "too-large")),
        ("an encoding of 1,000 names", ", ".join(["gzip"] * 1000), b"x", ("bad-encoding",)),
        ("an encoding nobody knows", "\xe9", b"x", ("bad-encoding",)),
    ):
        yield _trick(name, whole(body, f"Content-Encoding: {encoding}"), *outcomes)
    gzipped = head("Content-Encoding: gzip")
    named = b"\x1f\x8b\x08\x08" + b"\0" * 6  # the file's name follows, up to a NUL that never comes
    yield _trick(
        "a gzip whose name has no end", _flooding(gzipped + named, b"n" * 65536), "too-large", "timeout", "bad-encoding"
    )
    plain = b"\x1f\x8b\x08\x00" + b"\0" * 6
    yield _trick(
        "empty gzip blocks without end", _flooding(gzipped + plain, b"\0\0\0\xff\xff" * 13000), "too-large", "timeout"
    )
    yield _trick("gzip members without end", _flooding(gzipped, gzip.compress(b"") * 3000), "too-large", "timeout")


@lru_cache(maxsize=8)
def _squeezed(size: int, wbits: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=wbits)
    block = b"\0" * (1 << 20)
    return b"".join([*(squeeze.compress(block) for _ in range(size >> 20)), squeeze.flush()])


# ── what is no HTTP ──────────────────────────────────────────────────────────────────────────────────────────────
def _strange() -> Iterator[Trick]:
    wrong = ("bad-response", "reset", "truncated")
    for name, data in (
        ("HTTP/0.9", b"<html>hello</html>"),
        ("HTTP/0.9, written out", b"HTTP/0.9 200 OK\r\n\r\nx"),
        ("a status line without a status", b"HTTP/1.1\r\n\r\n"),
        ("a status that is a word", b"HTTP/1.1 OK 200\r\n\r\n"),
        ("status 0", b"HTTP/1.1 000 No\r\n\r\nx"),
        ("status 99999", b"HTTP/1.1 99999 Much\r\n\r\nx"),
        ("status -1", b"HTTP/1.1 -1 No\r\n\r\nx"),
        ("status 99", b"HTTP/1.1 099 No\r\n\r\nx"),
        ("a status line in lower case", b"http/1.1 200 ok\r\n\r\nx"),
        ("HTTP/9.9", b"HTTP/9.9 200 OK\r\n\r\nx"),
        ("HTTP/2 unasked", b"HTTP/2 200\r\n\r\nx"),
        ("HTTP/2 frames", b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18),
        ("an ICY stream", b"ICY 200 OK\r\nicy-name: x\r\n\r\nx"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("SMTP", b"220 mail ESMTP\r\n250 ok\r\n"),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46"),
        ("NUL bytes", b"\0" * 5000),
        ("noise", random.Random(4).randbytes(5000)),
        ("newlines only", b"\r\n" * 5000),
        ("bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
        ("bare carriage returns", b"HTTP/1.1 200 OK\rContent-Length: 1\r\rx"),
        ("a header without a colon", b"HTTP/1.1 200 OK\r\nwhat is this\r\nContent-Length: 1\r\n\r\nx"),
        ("a header with NUL", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 1\r\n\r\nx"),
        ("a status line amid headers", b"HTTP/1.1 200 OK\r\nX-A: b\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        ("a header that is called HTTP/x", b"HTTP/1.1 200 OK\r\nHTTP/x: y\r\nContent-Length: 1\r\n\r\nx"),
        ("a header that is called HTTP/", b"HTTP/1.1 200 OK\r\nHTTP/:\r\nContent-Length: 1\r\n\r\nx"),
        ("a trailer that is called HTTP/x", CHUNKED + b"0\r\nHTTP/x: y\r\n\r\n"),
        ("a fold before any header", b"HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 1\r\n\r\nx"),
    ):
        yield _trick(name, data, *wrong, "ok", *(f"http-{status}" for status in (0, 99)))


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
ANY_DECODED = frozenset({"shaped", *DECODE_ERROR_CODES})
_REFUSED = ANY_DECODED - {"shaped"}


def _picture(name: str, make: Callable[[], bytes], decoded: frozenset[str] | str, media: str = "image/png") -> Trick:
    made = _once(make)

    def answer(wire: Wire) -> None:
        wire.send(whole(made(), f"Content-Type: {media}"))
        wire.close()

    accepted = decoded if isinstance(decoded, frozenset) else frozenset({decoded})
    return Trick(name, answer, frozenset({"ok"}), "image", accepted)


_RECIPES: list[Callable[[], bytes]] = []


def _once(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Make it once, when it is asked for first or when the server starts."""
    made = lru_cache(maxsize=1)(make)
    _RECIPES.append(made)
    return made


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, *, rows: int | None = None, more: bytes = b""
) -> bytes:
    """A black PNG; `rows`: how many of them there really are; `more`: chunks before the picture's data."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" * (1 + (width * channels * depth + 7) // 8)
    squeeze = zlib.compressobj(1)
    data = b"".join([*(squeeze.compress(row) for _ in range(height if rows is None else rows)), squeeze.flush()])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = _chunk(b"PLTE", b"\0\0\0") if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + header + palette + more + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def saved(format_: str, size: tuple[int, int] = (300, 200), **settings: object) -> bytes:
    """An honest picture."""
    held = io.BytesIO()
    x, y = Image.linear_gradient("L").resize(size), Image.radial_gradient("L").resize(size)
    Image.merge("RGB", (x, y, x.transpose(Image.Transpose.ROTATE_180))).save(held, format_, **settings)
    return held.getvalue()


def _jpeg_says(width: int, height: int) -> bytes:
    body = bytearray(saved("JPEG"))
    at = body.index(b"\xff\xc0")
    body[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(body)


def _jpeg_of_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each time all of the picture is gone through."""
    body = saved("JPEG", size, progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:last] + body[last:-2] * scans + b"\xff\xd9"


def _jpeg_with(marker: int, data: bytes, times: int = 1) -> bytes:
    body = saved("JPEG")
    return body[:2] + (bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data) * times + body[2:]


def _gif(width: int, height: int, frames: int, *, at: tuple[int, int, int, int] | None = None) -> bytes:
    """`frames` frames of one pixel, or of the size that `at` says."""
    left, top, w, h = at or (0, 0, 1, 1)
    frame = b"," + struct.pack("<HHHHB", left, top, w, h, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0" * 6 + frame * frames + b";"


def _webp_says(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + b"\0" * 64
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def _webp_canvas(width: int, height: int) -> bytes:
    inner = saved("WEBP")[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + (width - 1).to_bytes(3, "little")
    data = canvas + (height - 1).to_bytes(3, "little") + inner
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def _avif_says(width: int, height: int) -> bytes:
    body = bytearray(saved("AVIF"))
    at = body.index(b"ispe")
    body[at + 8 : at + 16] = struct.pack(">II", width, height)
    return bytes(body)


_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(20))
    + b"]><x>&u;</x>"
)
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def _pictures(full: bool) -> Iterator[Trick]:
    many, refused, any_ = "too-many-pixels", _REFUSED, ANY_DECODED
    times = 10 if full else 1
    yield _picture("a PNG of 30,000 by 30,000", lambda: png(30_000, 30_000, 1, 0, rows=30_000 if full else 10), many)
    yield _picture("a PNG of 2^31 - 1 squared", lambda: png((1 << 31) - 1, (1 << 31) - 1, 1, 3, rows=0), refused)
    yield _picture("a PNG of 0 by 0", lambda: png(1, 1).replace(struct.pack(">II", 1, 1), bytes(8), 1), refused)
    yield _picture("a PNG that is one row", lambda: png(29_999, 1), any_)
    yield _picture("a PNG of rows that are not there", lambda: png(7000, 7000, rows=5), refused)
    yield _picture(
        "a PNG with a text of 1 GB",
        lambda: png(9, 9, more=_chunk(b"zTXt", b"a\0\0" + _squeezed(1 << (30 if full else 25), 15))),
        any_,
    )
    yield _picture(
        "a PNG with a profile of 1 GB",
        lambda: png(9, 9, more=_chunk(b"iCCP", b"a\0\0" + _squeezed(1 << (30 if full else 25), 15))),
        any_,
    )
    yield _picture(
        "a PNG with XMP of 1 GB",
        lambda: png(
            9, 9, more=_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _squeezed(1 << (30 if full else 25), 15))
        ),
        any_,
    )
    yield _picture("a PNG of 100,000 chunks", lambda: png(9, 9, more=_chunk(b"tEXt", b"a\0b") * 10_000 * times), any_)
    yield _picture("a PNG with a wrong sum", lambda: png(9, 9)[:-20] + bytes(20), refused)
    yield _picture(
        "a PNG whose chunk is longer than the file", lambda: png(9, 9)[:33] + b"\x7f\xff\xff\xffIDATx", refused
    )
    yield _picture("a GIF of 65,535 by 65,535", lambda: _gif(65535, 65535, 1), many)
    yield _picture("a GIF of 5,000 frames", lambda: _gif(7000, 7000, 500 * times), any_)
    yield _picture("a GIF whose frame is larger than it", lambda: _gif(1, 1, 1, at=(0, 0, 65535, 65535)), any_)
    yield _picture("a GIF that is a script", lambda: _gif(9, 9, 1) + b"/*<script>alert(1)</script>*/", any_)
    yield _picture("a WebP of 16,384 by 16,384", lambda: _webp_says(16384, 16384), refused, "image/webp")
    yield _picture("a WebP on a canvas of 2^24", lambda: _webp_canvas(1 << 24, 1 << 24), refused, "image/webp")
    yield _picture("an AVIF of 65,535 by 65,535", lambda: _avif_says(65535, 65535), refused, "image/avif")
    yield _picture(
        "an AVIF of 2^32 - 1 squared", lambda: _avif_says((1 << 32) - 1, (1 << 32) - 1), refused, "image/avif"
    )
    yield _picture("an honest AVIF", lambda: saved("AVIF"), any_, "image/avif")
    yield _picture("a JPEG of 65,500 by 65,500", lambda: _jpeg_says(65500, 65500), many, "image/jpeg")
    yield _picture("a JPEG of 6,900 by 6,900 that ends", lambda: _jpeg_says(6900, 6900), any_, "image/jpeg")
    yield _picture("a JPEG of 0 rows", lambda: _jpeg_says(300, 0), refused, "image/jpeg")
    yield _picture(
        "a JPEG with EXIF in a ring",
        lambda: _jpeg_with(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x08\0\0\0"),
        any_,
    )
    yield _picture(
        "a JPEG of 100 profiles", lambda: _jpeg_with(0xE2, b"ICC_PROFILE\0\1\xff" + b"x" * 60000, 10 * times), any_
    )
    yield _picture("a JPEG whose XMP laughs", lambda: _jpeg_with(0xE1, _XMP + _LAUGHS), any_)
    yield _picture("a JPEG with deep XMP", lambda: _jpeg_with(0xE1, _XMP + b"<a>" * 20_000), any_)
    yield _picture("a JPEG that is a page", lambda: _jpeg_with(0xFE, b"<html><script>alert(1)</script>"), any_)
    yield _picture("a JPEG that is an archive", lambda: saved("JPEG") + b"PK\x05\x06" + bytes(18), any_)
    yield _picture(
        "an SVG that laughs", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'>" + _LAUGHS, "unknown-format"
    )
    for name, media in (("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("WEBP", "image/webp")):
        yield _picture(f"half a {name}", lambda name=name: saved(name)[: len(saved(name)) // 2], any_, media)  # type: ignore[misc]
        yield _picture(f"the beginning of a {name}", lambda name=name: saved(name)[:20], refused, media)  # type: ignore[misc]
    for name, body in (
        ("a page for a picture", b"<!doctype html><title>no</title>" + b" " * 999),
        ("an executable for a picture", b"\x7fELF" + bytes(999)),
        ("a Windows program for a picture", b"MZ" + bytes(999)),
        ("a BMP", saved("BMP", (9, 9))),
        ("a TIFF", saved("TIFF", (9, 9))),
        ("an icon", saved("ICO", (16, 16))),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
        ("a PDF", b"%PDF-1.7\n" + bytes(999)),
        ("an archive", b"PK\x03\x04" + bytes(999)),
        ("a pickle", b"\x80\x04cos\nsystem\n."),
        ("one byte", b"x"),
    ):
        yield _picture(name, lambda body=body: body, "unknown-format")  # type: ignore[misc]
    yield _trick("an empty picture", whole(b"", "Content-Type: image/png"), "ok")
    if full:
        yield _picture("a PNG of 49 megapixels, 64 bits each", lambda: png(7000, 7000, 16, 6), any_)
        yield _picture("a PNG of 49 megapixels with alpha", lambda: png(7000, 7000, 8, 6), any_)
        yield _picture("a palette PNG of 49 megapixels", lambda: png(7000, 7000, 1, 3), any_)
        yield _picture("a GIF frame of 49 megapixels", lambda: _gif(7000, 7000, 1, at=(0, 0, 7000, 7000)), any_)
        yield _picture("a JPEG of 600 scans", lambda: _jpeg_of_scans((3000, 3000), 600), any_, "image/jpeg")
        yield _picture("a WebP of 16,383 by 3,000", lambda: saved("WEBP", (16383, 3000), quality=1), any_, "image/webp")


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _page(name: str, make: Callable[[], bytes], content_type: str = "text/html") -> Trick:
    made = _once(make)

    def answer(wire: Wire) -> None:
        wire.send(whole(made(), f"Content-Type: {content_type}"))
        wire.close()

    return Trick(name, answer, frozenset({"ok"}), "page")


def _numbered(template: bytes, count: int) -> bytes:
    return b"".join(template % i for i in range(count))


def pages(full: bool) -> Iterator[Trick]:
    """Pages that are read by `read_page`; the full ones are within the 5 MB that a page may have."""
    n = 10 if full else 1
    yield _page("10,000 elements deep", lambda: b"<div>" * 10_000 + b"<img src=a alt=b>")
    yield _page("deep, a picture in each", lambda: _numbered(b"<div><img src=%d alt=b>", 10_000 if full else 5_000))
    yield _page("many attributes", lambda: _numbered(b"<div a%d=b></div>", 2_000) * 2 * n)
    yield _page("an attribute of 5 MB", lambda: b"<img src=a alt='" + b"x" * 490_000 * n + b"'>")
    yield _page("an address of 5 MB", lambda: b"<img alt=b src='http://a.example/" + b"x" * 490_000 * n + b"'>")
    yield _page("many links", lambda: _numbered(b"<a href=%d>x</a>", 20_000 * n))
    yield _page("many pictures", lambda: _numbered(b"<img src=%d alt=b>", 10_000 * n))
    yield _page(
        "many addresses of one picture", lambda: b"<img srcset='" + _numbered(b"%d.png 1x,", 20_000 * n) + b"'>"
    )
    yield _page("many metas", lambda: _numbered(b"<meta name=robots content=noai%d>", 10_000 * n))
    yield _page("deep linked data", lambda: b"<script type='application/ld+json'>" + b"[" * 40_000 * n + b"</script>")
    yield _page(
        "linked data of many objects",
        lambda: b"<script type='application/ld+json'>[" + b'{"license":"x"},' * 3_000 * n + b"0]</script>",
    )
    yield _page(
        "deep objects of linked data",
        lambda: b"<script type='application/ld+json'>" + b'{"license":' * 4_000 * n + b"</script>",
    )
    yield _page(
        "items in items",
        lambda: (
            b"<div itemscope itemtype=http://schema.org/ImageObject>" * 1_000 * n + b"<img src=a itemprop=contentUrl>"
        ),
    )
    yield _page("10,000 tables deep", lambda: b"<table><tr><td>" * 1_000 * n)
    yield _page("misnested formatting", lambda: b"<a><b><i><u><s>" * 300 * n + b"</a></b>" * 300 * n)
    yield _page("templates", lambda: b"<template>" * 5_000 * n)
    yield _page("SVG in SVG", lambda: b"<svg><foreignObject>" * 5_000 * n)
    yield _page("less-than signs", lambda: b"<" * 490_000 * n)
    yield _page("comments that do not end", lambda: b"<!--" * 120_000 * n)
    yield _page("NUL bytes for a page", lambda: b"\0" * 490_000 * n)
    yield _page("noise for a page", lambda: random.Random(7).randbytes(490_000 * n))
    yield _page("a picture for a page", lambda: saved("PNG"), "image/png")
    yield _page("UTF-16 that is none", lambda: b"\xff\xfe<" + b"\xd8" * 99_999, "text/html; charset=utf-16")
    yield _page("a character set of 10 KB", lambda: b"<p>x", "text/html; charset=" + "x" * 10_000)
    yield _page("UTF-7", lambda: b"+ADw-img src+AD0-a+AD4-", "text/html; charset=utf-7")
    yield _page("a base that is no URL", lambda: b"<base href='http://[::1'><img src=a alt=b><a href=b>")
    yield _page("an empty page", lambda: b"")


def costly_pages(full: bool) -> Iterator[Trick]:
    """Pages of a few KB, up to 5 MB, that cost a reader without limits its memory or minutes."""
    n = 10 if full else 1
    again = b"<p>" + _numbered(b"<b id=%d>", 100 * n) + b"</p>" + b"<p>x</p>" * 1_000 * n
    yield _page("formatting that is made anew", lambda: again)
    yield _page("many different attributes", lambda: _numbered(b"<div a%d=b></div>", 4_000 * n * (5 if full else 1)))
    yield _page("one element of many attributes", lambda: b"<div " + _numbered(b"a%d=b ", 4_000 * n * n) + b">")
    yield _page("a million elements deep", lambda: b"<div>" * 10_000 * n * n)
    yield _page("figures in figures", lambda: _numbered(b"<figure><img src=%d>", 2_000 * n))
    yield _page(
        "pictures in pictures", lambda: b"<picture>" * 300 * n + _numbered(b"<source srcset=a><img src=%d>", 300 * n)
    )
    yield _page(
        "sources and pictures",
        lambda: b"<picture>" + _numbered(b"<source srcset=%d>", 300 * n) + b"<img src=a>" * 300 * n,
    )
    yield _page(
        "a long caption of many pictures",
        lambda: b"<figure>" + b"<img src=a>" * 2_000 * n + b"<figcaption>" + b"w " * 50_000 * n,
    )


def tricks(*, full: bool) -> tuple[Trick, ...]:
    """Every trick but the costly pages; `full` are the real sizes, else ones that a test has time for."""
    return (
        *_silent(),
        *_lies(),
        *_floods(full),
        *_redirects(),
        *_encodings(full),
        *_strange(),
        *_pictures(full),
        *pages(full),
    )


# ── the honest one between them ──────────────────────────────────────────────────────────────────────────────────
GOOD_PAGE = (
    b"<!doctype html><title>Museum</title><img src=/apple.png alt='a red apple on a table'><a href=/next>next</a>"
)


_honest_picture = _once(lambda: saved("PNG"))
_honest_photo = _once(lambda: saved("JPEG", (4000, 3000), quality=100))  # 1.4 MB: it needs room


def _honest(wire: Wire) -> None:
    while True:
        page = wire.path.startswith("/page")
        picture = _honest_photo() if wire.path.startswith("/large") else _honest_picture()
        wire.send(whole(GOOD_PAGE if page else picture, f"Content-Type: {'text/html' if page else 'image/png'}"))
        wire.read_request()


@dataclass(slots=True)
class Site:
    """One origin: its address, and what it does."""

    trick: Trick
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        name = "".join(c if c.isalnum() else "-" for c in self.trick.name)
        return f"http://{self.endpoint}/{self.trick.path or name}"


def sites(found: tuple[Trick, ...], port: int) -> tuple[Site, ...]:
    """Each trick's origin: 127.1.x.y, all at one port."""
    return tuple(Site(trick, f"127.1.{i // 250}.{i % 250 + 1}", port) for i, trick in enumerate(found))


def honest(port: int) -> Site:
    return Site(Trick("honest", _honest, frozenset({"ok"})), "127.2.0.1", port)


@dataclass(slots=True)
class Hostile:
    """The server, in threads of this process."""

    found: tuple[Trick, ...]
    port: int = 0
    address: str = "0.0.0.0"  # listened at; at one address alone the first trick answers
    _listener: socket.socket = field(init=False)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _by_address: dict[str, Trick] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.address, self.port), backlog=4096)
        self.port = self._listener.getsockname()[1]
        self._by_address = {site.address: site.trick for site in (*self.sites, self.honest)}
        if self.address != "0.0.0.0":
            self._by_address = {self.address: self.found[0]}
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # it may have gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    @property
    def sites(self) -> tuple[Site, ...]:
        return sites(self.found, self.port)

    @property
    def honest(self) -> Site:
        return honest(self.port)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(Gone, OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trick = self._by_address[connection.getsockname()[0]]
            wire = Wire(connection, self._stopping)
            if not trick.unasked:
                wire.read_request()
            trick.answer(wire)
        with self._lock:
            self._open.discard(connection)


class Elsewhere:
    """The same server in a process of its own, so that its memory and its time are not the crawler's.

    What it says of its tricks is all that is known here: to make them again would take what the crawler is measured by.
    """

    def __init__(self, *, full: bool, costly: bool) -> None:
        flags = (["--full"] if full else []) + (["--costly"] if costly else [])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.found = tuple(map(_retold, json.loads(self._process.stdout.readline())))

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def sites(self) -> tuple[Site, ...]:
        return sites(self.found, self.port)

    @property
    def honest(self) -> Site:
        return honest(self.port)


def _told(trick: Trick) -> list[object]:
    return [trick.name, sorted(trick.outcomes), trick.kind, sorted(trick.decoded), trick.unasked, trick.path]


def _retold(told: list[Any]) -> Trick:
    name, outcomes, kind, decoded, unasked, path = told
    return Trick(name, Wire.hang, frozenset(outcomes), kind, frozenset(decoded), unasked, path)


def main() -> int:
    """Say port and tricks, and serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--costly", action="store_true")
    options = parser.parse_args()
    found = (*tricks(full=options.full), *(costly_pages(options.full) if options.costly else ()))
    for make in _RECIPES:  # before the first who asks waits for it
        make()
    with Hostile(found) as server:
        sys.stdout.write(f"{server.port}\n{json.dumps([_told(trick) for trick in found])}\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
