"""Real servers on loopback for the fetcher and the crawler: they answer exactly the bytes they are told."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamReset

Page = tuple[int, tuple[tuple[str, str], ...], bytes]


@dataclass(frozen=True)
class After:
    """The answer, so much later."""

    seconds: float
    answer: bytes


Send = Callable[[socket.socket, threading.Event], None]
Answer = bytes | After | Send


class Server:
    """A loopback HTTP server that answers exactly the bytes it is told, and counts who came."""

    def __init__(
        self,
        routes: dict[str, Answer] | None = None,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.routes, self.tls = routes or {}, tls
        self.connections = 0
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.busy = self.most_busy = 0
        self.resumed: list[bool] = []  # of each TLS connection: whether it went on with an earlier session
        self.stopping = threading.Event()
        self._listener = socket.create_server((address, 0))
        self.address, self.port = self._listener.getsockname()[:2]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    def url(self, path: str = "/", host: str | None = None) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{host or self.address}:{self.port}{path}"

    def close(self) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # it may have gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self._wrapped(connection, self.tls)
            buffer = b""
            while not self.stopping.is_set():
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                self._answer(connection, head)
        except OSError:
            return
        finally:
            with self._lock:
                self._open.remove(connection)
                connection.close()

    def _wrapped(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        connection = tls.wrap_socket(plain, server_side=True)
        with self._lock:
            self.resumed.append(bool(connection.session_reused))
            self._open.remove(plain)
            self._open.append(connection)
        return connection

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        with self._lock:
            self.requests.append(path)
            self.heads.append(head)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        answer = self.routes.get(path, response(b"404", status="404 Not Found"))
        try:
            if isinstance(answer, After):
                self.stopping.wait(answer.seconds)
            elif callable(answer):
                answer(connection, self.stopping)
        finally:
            # Before the answer goes out: who has it may ask for the next while this thread has not had its turn.
            with self._lock:
                self.busy -= 1
        if isinstance(answer, After):
            connection.sendall(answer.answer)
        elif isinstance(answer, bytes):
            connection.sendall(answer)


@contextmanager
def serving(
    routes: dict[str, Answer] | None = None, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(routes, address, tls)
    try:
        yield server
    finally:
        server.close()


def response(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def redirect(target: str, status: str = "302 Found", *headers: str) -> bytes:
    return response(b"moved", f"Location: {target}", *headers, status=status)


def hang(connection: socket.socket, stopping: threading.Event) -> None:
    stopping.wait()


def dripping(head: bytes) -> Answer:
    def drip(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(head)
        while not stopping.wait(0.02):
            connection.sendall(b"x")

    return drip


def flooding(head: bytes, chunk: bytes) -> Answer:
    def flood(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(head)
        while not stopping.is_set():
            connection.sendall(chunk)

    return flood


def closing(answer: bytes, *, reset: bool = False) -> Answer:
    def close(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(answer)
        if reset:  # lingering for 0 seconds makes close() send RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()
        else:
            connection.shutdown(socket.SHUT_RDWR)
        raise OSError("closed on purpose")

    return close


def in_turn(*answers: bytes | Send) -> Send:
    """One answer a request, the last one again and again."""
    left = list(answers)
    lock = threading.Lock()

    def answer(connection: socket.socket, stopping: threading.Event) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        if callable(now):
            now(connection, stopping)
        else:
            connection.sendall(now)

    return answer


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "museum authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        signed = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self.path = directory / "authority.pem"
        self.path.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """What a server of these names (or addresses) needs for TLS."""
        key = ec.generate_private_key(ec.SECP256R1())
        known = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "museum")]), key)
        signed = builder.add_extension(known, critical=False).sign(self._key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._directory / f"{key.public_key().public_numbers().x:x}.pem"
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        number = x509.random_serial_number()
        return x509.CertificateBuilder(
            self._name, name, key.public_key(), number, start, start + timedelta(days=36_500)
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Http2Server(Server):
    """A loopback HTTP/2 server: `routes` gives (status, headers, body) by path; None never answers."""

    def __init__(self, tls: ssl.SSLContext, pages: dict[str, Page | None]) -> None:
        self.pages = pages
        super().__init__({}, tls=tls)

    def _serve(self, connection: socket.socket) -> None:
        assert self.tls is not None
        try:
            connection = self._wrapped(connection, self.tls)
            self._talk(connection)
        except OSError:
            return
        finally:
            with self._lock:
                self._open.remove(connection)
                connection.close()

    def _talk(self, connection: socket.socket) -> None:
        talk = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        talk.initiate_connection()
        connection.sendall(talk.data_to_send())
        unsent: dict[int, bytes] = {}
        while data := connection.recv(65536):
            for event in talk.receive_data(data):
                if isinstance(event, RequestReceived):
                    self._begin(talk, event, unsent)
                elif isinstance(event, StreamReset):
                    unsent.pop(event.stream_id, None)
            for stream, body in list(unsent.items()):
                while body and (room := min(talk.local_flow_control_window(stream), 16_384)):
                    talk.send_data(stream, body[:room])
                    body = body[room:]
                unsent[stream] = body
                if not body:
                    talk.end_stream(stream)
                    del unsent[stream]
            connection.sendall(talk.data_to_send())

    def _begin(self, talk: H2Connection, event: RequestReceived, unsent: dict[int, bytes]) -> None:
        path = next(str(value) for name, value in event.headers if name == ":path")
        with self._lock:
            self.requests.append(path)
        page = self.pages.get(path, (404, (), b""))
        if page is not None:
            status, headers, body = page
            talk.send_headers(event.stream_id, [(":status", str(status)), *headers])
            unsent[event.stream_id] = body
