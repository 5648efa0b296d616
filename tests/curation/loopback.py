"""Real servers on loopback for the fetcher and the crawler: they answer exactly the bytes they are told."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answer = bytes | Callable[[socket.socket, threading.Event], None]


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
                plain, connection = connection, self.tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.remove(plain)
                    self._open.append(connection)
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

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        with self._lock:
            self.requests.append(path)
            self.heads.append(head)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            answer = self.routes.get(path, response(b"404", status="404 Not Found"))
            if callable(answer):
                answer(connection, self.stopping)
            else:
                connection.sendall(answer)
        finally:
            with self._lock:
                self.busy -= 1


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
