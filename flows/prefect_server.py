"""A Prefect server of our own, for whoever has none configured.

It is bound to loopback, asks for a password, keeps its SQLite file in the home, sends no analytics, and
ends with the process that started it, however that one ends. One server a home: a second process finds the
first one's address in `server.json` and uses that.

Run as a module (`python -m flows.prefect_server PARENT_PID SOCKET_FD`) this file *is* the server.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from policy.errors import BusyError, StorageError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0

# What this process and its children say to Prefect, wherever its server is.
_CLIENT_SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # The extra loggers would ship other libraries' messages, and with them URLs, to the server.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Prefect's API answers. `auth` None: somebody else's server, its credentials are Prefect's own settings."""

    api_url: str
    auth: str | None
    started_here: bool

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/api")


@contextmanager
def prefect_server(directory: Path, *, start_timeout_s: float = START_TIMEOUT_S) -> Iterator[Endpoint]:
    """The configured server, or one of our own in `directory` for as long as the block lasts.

    Within the block this process, and every process it starts, talks to that server. Raises StorageError when the
    server cannot start, BusyError when another process is starting one and does not get done.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment({k: v for k, v in _CLIENT_SETTINGS.items() if k not in os.environ}))
        if configured := _configured_api_url():
            yield Endpoint(configured, None, started_here=False)
            return
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if lock := _take_lock(directory / "server.lock"):
            stack.callback(os.close, lock)
            endpoint = stack.enter_context(_running_server(directory, start_timeout_s))
        else:
            endpoint = _running_elsewhere(directory, start_timeout_s)
        stack.enter_context(_environment(_access(directory, endpoint)))
        stack.callback(_send_what_is_queued)
        yield endpoint


def _configured_api_url() -> str | None:
    """PREFECT_API_URL from the environment or from the user's active profile."""
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    return url


def _access(directory: Path, endpoint: Endpoint) -> dict[str, str]:
    return {
        "PREFECT_API_URL": endpoint.api_url,
        "PREFECT_API_AUTH_STRING": endpoint.auth or "",
        "PREFECT_HOME": str(directory),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of the block, also for a Prefect that is imported already."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _reread_settings()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread_settings()


def _reread_settings() -> None:
    # Prefect reads the environment once, when it is imported.
    if context := sys.modules.get("prefect.context"):
        context.refresh_global_settings_context()


def _take_lock(path: Path) -> int | None:
    """A file descriptor that holds the lock until it is closed, or None: another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _running_server(directory: Path, start_timeout_s: float) -> Iterator[Endpoint]:
    record, log = directory / "server.json", directory / "server.log"
    record.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, log.open("wb") as output:
        # The child inherits the bound socket: no port is chosen twice, and early requests wait instead of failing.
        port = listener.getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/api", f"custody:{secrets.token_urlsafe(24)}", started_here=True)
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(os.getpid()), str(listener.fileno())],
            env=_server_environment(directory, endpoint, port),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the prompt must reach the flows first; they still report to it.
        )
    try:
        _wait_until_healthy(endpoint, start_timeout_s, server, log)
        _write_record(record, endpoint)
        yield endpoint
    finally:
        record.unlink(missing_ok=True)
        _stop(server)


def _server_environment(directory: Path, endpoint: Endpoint, port: int) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    our_packages = str(Path(__file__).resolve().parent.parent)
    return {
        **inherited,
        **_CLIENT_SETTINGS,
        "PYTHONPATH": os.pathsep.join(filter(None, (our_packages, inherited.get("PYTHONPATH", "")))),
        "PREFECT_HOME": str(directory),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": endpoint.auth or "",
        "PREFECT_API_AUTH_STRING": endpoint.auth or "",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{directory.resolve() / 'prefect.db'}",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # no block is used, and registering them takes seconds
        "PREFECT__SERVER_FINAL": "1",
    }


def _write_record(path: Path, endpoint: Endpoint) -> None:
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(endpoint), file)
    temporary.rename(path)


def _running_elsewhere(directory: Path, timeout_s: float) -> Endpoint:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            record = json.loads((directory / "server.json").read_text())
            return Endpoint(record["api_url"], record["auth"], started_here=False)
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.2)
    raise BusyError(
        "another process holds the home's Prefect server and it does not answer",
        where=str(directory),
        remedy="End that process, or set PREFECT_API_URL to a server of yours",
    )


def _wait_until_healthy(endpoint: Endpoint, timeout_s: float, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            # No proxy: this is loopback, whatever the environment says.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{endpoint.api_url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.1)
    raise StorageError("the Prefect server did not start", where=str(log), remedy="The file says why")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _send_what_is_queued() -> None:
    """Logs and events wait in background threads; once the server is gone they would only complain."""
    if "prefect.flow_engine" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def _serve(parent: int, listener_fd: int) -> None:
    """Serve on an inherited socket until told to stop, or until the parent is gone."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, fd=listener_fd, log_level="warning", lifespan="on"
    )
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    uvicorn.Server(config).run()


def _end_with(parent: int) -> None:
    # An orphan gets another parent; this also sees a kill -9, which no signal handler of the parent's would.
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
