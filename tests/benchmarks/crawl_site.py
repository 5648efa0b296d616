"""A loopback web of pictures as cheap as Python can serve it: one epoll loop in a process of its own.

    with CrawlSite(folder, SiteSpec("512", 10_000, hosts=200, tls=True)) as site:
        site.url(7), site.addresses, site.ca_file, site.counts()

Picture n is one of a few dozen base pictures with n in a comment segment, so that no two have the same bytes and none
has to be stored. Hosts are addresses of 127.0.0.0/8 at one port. robots.txt allows everything; what else a crawler
may ask for is not there (404). Connections are kept open unless the client asks otherwise.
"""

from __future__ import annotations

import heapq
import io
import ipaddress
import json
import select
import socket
import ssl
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
Size = Literal["512", "1600", "64"]
_PHOTOGRAPHS = ("coffee", "chelsea", "rocket", "immunohistochemistry", "retina", "hubble_deep_field", "gravel", "brick")
# Bases a size, and the JPEG quality that gives 30-60 KB, 200-400 KB and 1-2 KB.
_BASES: dict[str, tuple[int, int]] = {"512": (64, 80), "1600": (24, 80), "64": (64, 75)}

# What picture n of a site with faults does instead of being one: remainder of n by 50 -> what happens.
FAULTS: dict[int, str] = {
    7: "missing",  # 404
    11: "broken-server",  # 500
    17: "moved",  # 302 to the next host, where the picture is
    23: "cut-off",  # the connection ends in mid-body
    29: "no-picture",  # HTML where a picture was announced
    31: "damaged",  # a complete response with half a JPEG
    37: "slow",  # 0.3 s late
}
_SLOW_S = 0.3


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """Which pictures, how many, on how many hosts. `port` 0: the system's choice, the same for every host."""

    size: Size
    pictures: int
    hosts: int = 4
    tls: bool = False
    faults: bool = False
    port: int = 0

    def fault(self, n: int) -> str | None:
        return FAULTS.get(n % 50) if self.faults else None

    def host(self, n: int) -> str:
        """The address of host n."""
        return f"127.0.{10 + n // 200}.{1 + n % 200}"


class CrawlSite:
    """The site in its own process, from `with` to its end; what it makes (pictures, certificates) stays in `folder`."""

    def __init__(self, folder: Path, spec: SiteSpec) -> None:
        self.folder, self.spec = folder, spec
        self.ca_file = folder / "ca.pem"

    def __enter__(self) -> Self:
        make_bases(self.folder, self.spec.size)
        if self.spec.tls:
            _make_certificates(self.folder, [self.spec.host(n) for n in range(self.spec.hosts)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.crawl_site", str(self.folder), json.dumps(asdict(self.spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self.port = int(self._line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every "ip:port" that listens."""
        return tuple(f"{self.spec.host(n)}:{self.port}" for n in range(self.spec.hosts))

    def url(self, n: int) -> str:
        """Where picture n hangs."""
        scheme = "https" if self.spec.tls else "http"
        return f"{scheme}://{self.spec.host(n % self.spec.hosts)}:{self.port}/p/{n}.jpg"

    def counts(self) -> Counter[str]:
        """How often each path was asked for so far, on whatever host; pictures as "/p/n.jpg"."""
        return Counter(self._ask("counts"))

    def total(self) -> int:
        """How many pictures were asked for so far, whatever was answered."""
        return int(self._ask("total"))

    def forget(self) -> None:
        """Count from nought again."""
        self._ask("forget")

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the site ended with {self._process.wait()}")
        return line


# ── what it serves ─────────────────────────────────────────────────────────────────────────────────────────────────


def make_bases(folder: Path, size: Size) -> Path:
    """The base pictures: crops of photographs at different places and scales, as JPEGs, always the same ones."""
    directory = folder / f"bases-{size}"
    count, quality = _BASES[size]
    if directory.is_dir():
        return directory
    making = directory.with_name(directory.name + ".making")
    making.mkdir(parents=True, exist_ok=True)
    for n, pixels in enumerate(_tiny(count) if size == "64" else _photographs(int(size), count)):
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "JPEG", quality=quality)
        (making / f"{n:03}.jpg").write_bytes(held.getvalue())
    making.rename(directory)
    return directory


def _photographs(side: int, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Crops of photographs that scikit-image brings along: some smooth, some of fine texture."""
    from skimage import data

    photos = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in _PHOTOGRAPHS]
    drawn = np.random.default_rng(20261121)
    for n in range(count):
        photo = photos[n % len(photos)]
        cut = int(min(photo.size) * drawn.uniform(0.6, 1.0))
        left, top = (int(drawn.integers(0, extent - cut + 1)) for extent in photo.size)
        crop = photo.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.BICUBIC)
        # The grain that enlarging takes away, as a camera has it.
        grain = drawn.normal(0.0, 2.5, (side, side, 1))
        yield (np.asarray(crop, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8)


def _tiny(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """64 px of coloured clouds."""
    drawn = np.random.default_rng(20261121)
    for _ in range(count):
        coarse = Image.fromarray(drawn.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        yield np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC))


def _make_certificates(folder: Path, addresses: list[str]) -> None:
    """ca.pem: the system's certificate authorities and one of our own; site.pem: a certificate for the addresses."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.now(UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, is_ca: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(a)) for a in addresses])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate("loopback CA", ca_key, "loopback CA", ca_key, True)
    leaf = certificate("loopback site", key, "loopback CA", ca_key, False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    # With the authorities that every client loads, so that loading them costs what it costs on the web.
    cafile = ssl.get_default_verify_paths().cafile
    system = Path(cafile).read_bytes() if cafile is not None else b""
    (folder / "ca.pem").write_bytes(system + b"\n" + ca.public_bytes(pem))
    (folder / "site.pem").write_bytes(secret + leaf.public_bytes(pem))


# ── the server ─────────────────────────────────────────────────────────────────────────────────────────────────────

_ROBOTS = b"User-agent: *\nAllow: /\n"
_MODIFIED = "Wed, 04 Feb 2026 07:28:00 GMT"


class _Connection:
    """One client: what it has sent so far, what it is still to be sent."""

    __slots__ = ("buffer", "closing", "handshaking", "host", "out", "socket")

    def __init__(self, accepted: socket.socket, host: int, handshaking: bool) -> None:
        self.socket, self.host, self.handshaking = accepted, host, handshaking
        self.buffer = b""
        self.out: deque[memoryview] = deque()
        self.closing = False


class _Server:
    def __init__(self, folder: Path, spec: SiteSpec) -> None:
        self.spec = spec
        files = sorted(make_bases(folder, spec.size).iterdir())
        # The comment stands behind the first segment, which is JFIF's by its own rules.
        self.bases = [(body[: _first_end(body)], body[_first_end(body) :]) for body in (f.read_bytes() for f in files)]
        self.context: ssl.SSLContext | None = None
        if spec.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(folder / "site.pem")
        self.epoll = select.epoll()
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        self.connections: dict[int, _Connection] = {}
        self.late: list[tuple[float, int, _Connection, tuple[bytes, ...]]] = []
        self.asked = array("H", bytes(2 * spec.pictures))
        self.others: Counter[str] = Counter()
        self.turn = 0
        self.date, self.date_until = b"", 0.0
        self.port = self._listen(spec.port)

    def _listen(self, port: int) -> int:
        for n in range(self.spec.hosts):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.spec.host(n), port))
            port = port or listener.getsockname()[1]
            listener.listen(512)
            listener.setblocking(False)
            self.listeners[listener.fileno()] = (listener, n)
            self.epoll.register(listener, select.EPOLLIN)
        return port

    def serve(self) -> None:
        """Serve until standard input ends; on it, "counts", "total" and "forget" are answered by a line of JSON."""
        self.epoll.register(0, select.EPOLLIN)
        print(self.port, flush=True)
        while True:
            timeout = max(0.0, self.late[0][0] - time.monotonic()) if self.late else -1
            for descriptor, events in self.epoll.poll(timeout):
                if descriptor in self.listeners:
                    self._accept(*self.listeners[descriptor])
                elif descriptor == 0:
                    if not self._told(sys.stdin.readline()):
                        return
                elif (connection := self.connections.get(descriptor)) is not None:
                    try:
                        self._serve(connection, events)
                    except OSError:  # the client has gone
                        self._drop(connection)
            while self.late and self.late[0][0] <= time.monotonic():
                _, _, connection, parts = heapq.heappop(self.late)
                if connection.socket.fileno() in self.connections:
                    try:
                        self._send(connection, parts)
                    except OSError:
                        self._drop(connection)

    def _told(self, line: str) -> bool:
        if not line:
            return False
        if line.strip() == "forget":
            self.asked = array("H", bytes(2 * self.spec.pictures))
            self.others.clear()
            print("null", flush=True)
        elif line.strip() == "total":
            print(sum(self.asked), flush=True)
        else:
            counts = {f"/p/{n}.jpg": asked for n, asked in enumerate(self.asked) if asked}
            print(json.dumps(counts | dict(self.others)), flush=True)
        return True

    def _accept(self, listener: socket.socket, host: int) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is not None:
                accepted = self.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
            self.connections[accepted.fileno()] = _Connection(accepted, host, self.context is not None)
            self.epoll.register(accepted, select.EPOLLIN)

    def _drop(self, connection: _Connection) -> None:
        self.connections.pop(connection.socket.fileno(), None)
        connection.socket.close()  # epoll forgets it by itself

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.handshaking:
            try:
                connection.socket.do_handshake()  # type: ignore[attr-defined]  # an SSLSocket's
            except ssl.SSLWantReadError:
                self.epoll.modify(connection.socket, select.EPOLLIN)
                return
            except ssl.SSLWantWriteError:
                self.epoll.modify(connection.socket, select.EPOLLOUT)
                return
            connection.handshaking = False
            self.epoll.modify(connection.socket, select.EPOLLIN)
        if events & select.EPOLLOUT and connection.out:
            self._flush(connection)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        if not data:
            self._drop(connection)
            return
        connection.buffer += data
        while (end := connection.buffer.find(b"\r\n\r\n")) >= 0:
            head, connection.buffer = connection.buffer[:end], connection.buffer[end + 4 :]
            self._answer(connection, head)

    def _answer(self, connection: _Connection, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if b"\r\nconnection: close" in head.lower():
            connection.closing = True
        if path.startswith(b"/p/") and path.endswith(b".jpg"):
            self._answer_picture(connection, int(path[3:-4]), head)
            return
        self.others[path.decode("latin-1")] += 1
        if path == b"/robots.txt":
            self._send(connection, self._response(b"200 OK", b"text/plain", (_ROBOTS,), b'"robots"'))
        elif path.startswith(b"/moved/"):
            self._send(connection, self._picture(int(path[7:-4])))
        else:
            self._send(connection, self._response(b"404 Not Found", b"text/plain", (b"nothing here\n",)))

    def _answer_picture(self, connection: _Connection, n: int, head: bytes) -> None:
        self.asked[n] = min(self.asked[n] + 1, 65535)
        fault = self.spec.fault(n)
        if fault is None:
            if b'\r\nif-none-match: "%d"\r\n' % n in head.lower() + b"\r\n":
                self._send(connection, self._response(b"304 Not Modified", b"image/jpeg", (), b'"%d"' % n))
            else:
                self._send(connection, self._picture(n))
        elif fault == "missing":
            self._send(connection, self._response(b"404 Not Found", b"text/html", (b"<html>gone</html>",)))
        elif fault == "broken-server":
            self._send(connection, self._response(b"500 Internal Server Error", b"text/plain", (b"sorry\n",)))
        elif fault == "moved":
            scheme = "https" if self.spec.tls else "http"
            place = f"{scheme}://{self.spec.host((n + 1) % self.spec.hosts)}:{self.port}/moved/{n}.jpg"
            more = b"Location: " + place.encode() + b"\r\n"
            self._send(connection, self._response(b"302 Found", b"text/plain", (b"moved\n",), more=more))
        elif fault == "cut-off":
            head_and_body = self._picture(n)
            connection.closing = True
            self._send(connection, (head_and_body[0], b"".join(head_and_body[1:])[:500]))
        elif fault == "no-picture":
            body = b"<!doctype html><title>%d</title>" % n
            self._send(connection, self._response(b"200 OK", b"image/jpeg", (body,)))
        elif fault == "damaged":
            body = b"".join(self._picture(n)[1:])
            self._send(connection, self._response(b"200 OK", b"image/jpeg", (body[: len(body) * 2 // 3],)))
        else:
            self.turn += 1
            heapq.heappush(self.late, (time.monotonic() + _SLOW_S, self.turn, connection, self._picture(n)))

    def _picture(self, n: int) -> tuple[bytes, ...]:
        begin, end = self.bases[n % len(self.bases)]
        words = b"picture %d" % n
        comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words
        return self._response(b"200 OK", b"image/jpeg", (begin, comment, end), b'"%d"' % n)

    def _response(
        self, status: bytes, media_type: bytes, body: tuple[bytes, ...], etag: bytes = b"", more: bytes = b""
    ) -> tuple[bytes, ...]:
        now = time.time()
        if now >= self.date_until:
            self.date, self.date_until = formatdate(now, usegmt=True).encode(), float(int(now) + 1)
        if etag:
            more += b"ETag: %s\r\nLast-Modified: %s\r\nCache-Control: max-age=86400\r\n" % (etag, _MODIFIED.encode())
        head = b"HTTP/1.1 %s\r\nServer: loopback\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
        return (head % (status, self.date, media_type, sum(map(len, body)), more), *body)

    def _send(self, connection: _Connection, parts: tuple[bytes, ...]) -> None:
        if self.context is not None:
            connection.out.append(memoryview(b"".join(parts)))
        else:
            connection.out.extend(map(memoryview, parts))
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        out = connection.out
        try:
            while out:
                # OpenSSL has no gathering write.
                whole = self.context is None
                sent = connection.socket.sendmsg(out) if whole else connection.socket.send(out[0])
                while out and sent >= len(out[0]):
                    sent -= len(out.popleft())
                if sent:
                    out[0] = out[0][sent:]
        except (BlockingIOError, ssl.SSLWantWriteError):
            self.epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
            return
        if connection.closing:
            self._drop(connection)
        else:
            self.epoll.modify(connection.socket, select.EPOLLIN)


def _first_end(jpeg: bytes) -> int:
    """Where the first segment of a JPEG ends."""
    return 4 + int.from_bytes(jpeg[4:6], "big")


if __name__ == "__main__":
    _Server(Path(sys.argv[1]), SiteSpec(**json.loads(sys.argv[2]))).serve()
