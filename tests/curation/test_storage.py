"""Places by URL, and datasets in a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from curation.remote import RemoteDatasets, RemoteFiles
from curation.shards import (
    DatasetReader,
    SealedSample,
    drop_generation,
    prune,
    read_generation,
    reseal,
    samples_in,
    verify_dataset,
    write_dataset,
)
from curation.storage import list_files, open_input, parse_location
from policy.errors import BusyError, ConfigurationError, InputError, IntegrityError, StorageError
from policy.provenance import DatasetManifest, Generation, dataset_root

if TYPE_CHECKING:
    from tests.s3 import S3Server

pytest_plugins = ("tests.s3",)

REPOSITORY = Path(__file__).parents[2]
SLOTS, SHARD_SLOTS = 13, 4  # four shards
EMPTY = frozenset({2, 12})
NAME = "museum"


@pytest.fixture
def account(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and the keeper's credentials where boto looks for them."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


@dataclass(frozen=True)
class Bucket:
    """A bucket of the test's own."""

    server: S3Server
    name: str
    scratch: Path

    @property
    def url(self) -> str:
        return f"s3://{self.name}/keep/here"

    def datasets(self, *, cache_bytes: int = 1 << 30, scratch: str = "home") -> RemoteDatasets:
        return RemoteDatasets(
            self.url, scratch=self.scratch / scratch, cache_bytes=cache_bytes, endpoint=self.server.endpoint
        )

    def files(self, **options: object) -> RemoteFiles:
        return self.datasets(**options).files(NAME)  # type: ignore[arg-type]

    def objects(self) -> dict[str, bytes]:
        found = self.server.objects(self.name, "keep/here/museum/")
        return {key.removeprefix("keep/here/museum/"): data for key, data in found.items()}

    def key(self, name: str) -> str:
        return f"keep/here/museum/{name}"


@pytest.fixture(params=["plain", "versioned"])
def bucket(request: pytest.FixtureRequest, account: S3Server, tmp_path: Path) -> Bucket:
    """A new bucket, without and with versioning."""
    return new_bucket(account, tmp_path, versioned=request.param == "versioned")


@pytest.fixture
def plain(account: S3Server, tmp_path: Path) -> Bucket:
    """A new bucket without versioning."""
    return new_bucket(account, tmp_path, versioned=False)


def new_bucket(server: S3Server, tmp_path: Path, *, versioned: bool) -> Bucket:
    name = "b-" + hashlib.blake2b(str(tmp_path).encode(), digest_size=8).hexdigest()
    server.make_bucket(name, versioned=versioned)
    return Bucket(server, name, tmp_path)


def commitments(name: str = NAME) -> list[bytes]:
    return [hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(SLOTS)]


def manifest(name: str = NAME) -> DatasetManifest:
    root = dataset_root(commitments(name))
    return DatasetManifest(NAME, root, SLOTS, 64, "research", "rules", "selection", None, "2026-11-21T00:00:00Z")


def sample(ordinal: int) -> SealedSample:
    key = hashlib.blake2b(f"key {ordinal}".encode(), digest_size=16).hexdigest()
    image = f"picture-needle-{ordinal:05d}-".encode() + bytes(range(256)) * (ordinal % 4)
    caption = f"caption-needle-{ordinal:05d}, a “red” apple é"
    metadata = json.dumps({"licence": "CC-BY-4.0", "needle": f"metadata-needle-{ordinal:05d}"})
    return SealedSample(ordinal, key, image, "jpg", caption, metadata)


def samples(empty: Collection[int] = EMPTY) -> Iterator[SealedSample]:
    return (sample(i) for i in range(SLOTS) if i not in empty)


def seal(place: Path | RemoteFiles, empty: Collection[int] = EMPTY) -> Generation:
    return write_dataset(place, manifest(), commitments(), samples(empty), SHARD_SLOTS)


def local(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def lies_in(data: bytes, ordinal: int) -> bool:
    words = [f"{part}-needle-{ordinal:05d}".encode() for part in ("picture", "caption", "metadata")]
    return any(word in data for word in (*words, sample(ordinal).key.encode(), bytes.fromhex(sample(ordinal).key)))


# ── locations ────────────────────────────────────────────────────────────────────────────────────────────────────


REFUSED = {
    "http": ("http://127.0.0.1/x", "http:// is not opened here"),
    "https": ("HTTPS://a.example/x.parquet", "is crawled, not opened"),
    "ftp": ("ftp://a.example/x", "ftp:// is not opened here"),
    "memory": ("memory://x", "memory:// is not opened here"),
    "a chain": ("simplecache::http://a.example/x", "no such file"),
    "another chain": ("filecache://x::http://a.example", "filecache:// is not opened here"),
    "another machine": ("file://a.example/x", "no URL of a file on this machine"),
    "no bucket": ("s3:///key", "names no bucket"),
    "a strange bucket": ("s3://a b/key", "names no bucket"),
    "credentials": ("s3://key:secret@bucket/x", "credentials do not belong"),
    "nothing": ("", "names no file"),
    "nowhere": ("/nowhere/at/all", "no such file"),
    "a directory": ("/", "is a directory"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_place_is_refused(name: str) -> None:
    """Only paths, file:// and s3:// are opened; the message says which, and never repeats a secret."""
    location, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        open_input(location)
    assert "secret" not in str(caught.value).replace("AWS_SECRET", "").lower()


def test_a_file_is_opened_by_path_and_by_url(tmp_path: Path) -> None:
    """A path, a Path, file:/// and its percent signs name the same file; folders are listed without hidden files."""
    path = tmp_path / "a list #1.txt"
    path.write_bytes(b"one\ntwo\n")
    (tmp_path / ".hidden.txt").write_bytes(b"")
    (tmp_path / "folder.txt").mkdir()
    for location in (str(path), path, path.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        with open_input(location) as file:
            assert file.read() == b"one\ntwo\n"
    assert list_files(tmp_path, "*.txt") == list_files(tmp_path.as_uri(), "*.txt") == (str(path),)
    assert list_files(tmp_path, "*.csv") == ()
    with pytest.raises(InputError, match="cannot be read"):
        list_files(tmp_path / "nowhere")


def test_an_object_is_opened_and_folders_are_listed(plain: Bucket) -> None:
    """An object reads, seeks and lists as a file does, with the address from the environment or as an argument."""
    body = os.urandom(12 << 20)
    plain.server.write(plain.name, "lists/a b?c#d%20.bin", body)
    plain.server.write(plain.name, "lists/second.csv", b"url\n")
    plain.server.write(plain.name, "lists/deeper/third.csv", b"url\n")
    url = f"s3://{plain.name}/lists"
    for endpoint in ("", plain.server.endpoint):
        with open_input(f"{url}/a b?c#d%20.bin", endpoint=endpoint) as file:
            assert hashlib.sha256(file.read()).digest() == hashlib.sha256(body).digest()
            file.seek(-5, os.SEEK_END)
            assert (file.read(), file.tell()) == (body[-5:], len(body))
        assert list_files(url, "*.csv", endpoint=endpoint) == (f"{url}/second.csv",)
    assert list_files(f"{url}/") == (f"{url}/a b?c#d%20.bin", f"{url}/second.csv")


def test_what_cannot_be_had_from_a_server_is_said(plain: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object, bucket, folder, permission, credentials or server: each is an InputError of its own, in bounded time."""
    url = f"s3://{plain.name}"
    plain.server.write(plain.name, "there.txt", b"x")
    with pytest.raises(InputError, match="no such object"):
        open_input(f"{url}/nowhere.txt")
    with pytest.raises(InputError, match="no such folder"):
        list_files(f"{url}/nowhere")
    for look in (open_input, list_files):
        with pytest.raises(InputError, match="no such bucket"):
            look("s3://b-nowhere/x")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused
            with pytest.raises(InputError, match="cannot be reached"):
                look(f"{url}/there.txt", endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the keeper's")
    with socket.socket():  # another endpoint's spelling, so that no client is kept from before
        other = plain.server.endpoint.replace("127.0.0.1", "localhost")
        with pytest.raises(InputError, match="the server refuses"):
            open_input(f"{url}/there.txt", endpoint=other)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InputError, match="no credentials"):
        open_input(f"{url}/there.txt", endpoint=plain.server.endpoint + "/")


def test_an_object_that_changes_while_it_is_read_is_said(plain: Bucket) -> None:
    """A reader gets the beginning of one object and never the end of another."""
    plain.server.write(plain.name, "list.txt", b"a" * (12 << 20))
    with open_input(f"s3://{plain.name}/list.txt") as file:
        assert file.read(1) == b"a"
        plain.server.write(plain.name, "list.txt", b"b" * (12 << 20))
        with pytest.raises(InputError, match=r"list\.txt"):
            file.read()


def test_without_the_extra_the_remedy_is_named() -> None:
    """s3:// where s3fs is not installed says what to install; all else works without it and without fsspec."""
    code = (
        "import sys\nsys.modules['s3fs'] = None\n"
        "from curation.storage import open_input\nfrom policy.errors import ConfigurationError\n"
        "open_input(sys.executable).close()\nassert 'fsspec' not in sys.modules\n"
        "try:\n    open_input('s3://bucket/key')\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "image-custody[s3]" in done.stdout


# ── datasets: writing ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_in_a_bucket_is_the_dataset_in_a_directory(bucket: Bucket, tmp_path: Path) -> None:
    """Same names, same bytes, same manifests; read back sample by sample; no spool stays and one version of each."""
    assert seal(bucket.files()) == seal(tmp_path / "local")
    assert bucket.objects() == local(tmp_path / "local")
    assert bucket.datasets().names() == (NAME,)
    assert list(samples_in(bucket.files())) == list(samples())
    assert verify_dataset(bucket.files()) == []
    assert not list((bucket.scratch / "home" / "spool").rglob("*.*"))
    assert len(bucket.server.versions(bucket.name)) == len(local(tmp_path / "local"))
    assert seal(bucket.files()) == read_generation(bucket.files(), 0)


def test_the_spool_holds_one_shard(plain: Bucket) -> None:
    """While sealing goes on, local disk never holds more than the shard that is being written."""
    most = 0

    def watched() -> Iterator[SealedSample]:
        nonlocal most
        for item in samples():
            most = max(most, len(list((plain.scratch / "home" / "spool" / NAME).glob("*"))))
            yield item

    write_dataset(plain.files(), manifest(), commitments(), watched(), SHARD_SLOTS)
    assert most == 1  # a tar that is not finished; its index comes with its end


def test_another_dataset_of_the_name_is_refused(plain: Bucket) -> None:
    """Sealing writes over no other dataset, finished or not, and two homes never mix theirs in one place."""
    seal(plain.files())
    before = plain.objects()
    with pytest.raises(IntegrityError, match="another dataset"):
        write_dataset(plain.files(scratch="b"), manifest("zoo"), commitments("zoo"), samples(), SHARD_SLOTS)
    assert plain.objects() == before


def test_a_manifest_is_only_created_where_there_is_none(plain: Bucket) -> None:
    """What another home wrote between our look and our write is not overwritten; our own lost answer is no conflict."""
    files = plain.files()
    files.create("dataset.json", b"ours")
    files.create("dataset.json", b"ours")
    with pytest.raises(BusyError, match="another one was written"):
        files.create("dataset.json", b"theirs")
    assert plain.objects() == {"dataset.json": b"ours"}


def test_one_process_of_a_home_writes_a_dataset(plain: Bucket) -> None:
    """While one writes, sealing, resealing and pruning from the same home say so; reading goes on."""
    seal(plain.files())
    with plain.files().locked():
        for change in (seal, lambda f: reseal(f, [0], "r"), prune):
            with pytest.raises(BusyError, match="another process"):
                change(plain.files())
        assert list(samples_in(plain.files())) == list(samples())


def test_what_was_uploaded_is_compared_and_not_trusted(bucket: Bucket, tmp_path: Path) -> None:
    """An interrupted sealing goes on: equal shards are not uploaded again, others are replaced, strays go."""
    seal(tmp_path / "local")
    seal(bucket.files())
    whole = bucket.server.versions(bucket.name)
    bucket.server.delete(bucket.name, bucket.key("generation-0000/generation.json"))
    bucket.server.write(bucket.name, bucket.key("generation-0000/shard-000001.tar"), b"x" * 7168)
    bucket.server.delete(bucket.name, bucket.key("generation-0000/shard-000002.index.npy"))
    bucket.server.write(bucket.name, bucket.key("generation-0000/shard-000009.tar"), b"of another attempt")
    bucket.server.call(
        "create_multipart_upload", Bucket=bucket.name, Key=bucket.key("generation-0000/shard-000003.tar")
    )
    seal(bucket.files())
    assert bucket.objects() == local(tmp_path / "local")
    versions = bucket.server.versions(bucket.name)
    assert len(versions) == len(bucket.objects())
    untouched = {v for v in whole if "shard-000000" in v[0] or "shard-000003" in v[0]}
    assert untouched <= set(versions)
    assert not bucket.server.call("list_multipart_uploads", Bucket=bucket.name).get("Uploads")


def test_a_sample_tombstoned_between_crash_and_rerun_leaves_no_version(bucket: Bucket) -> None:
    """A shard that was uploaded with a sample loses it, older versions included, when the rerun does not bring it."""
    seal(bucket.files())
    bucket.server.delete(bucket.name, bucket.key("generation-0000/generation.json"))
    assert any(lies_in(data or b"", 6) for _, _, data in bucket.server.versions(bucket.name))
    seal(bucket.files(), empty=EMPTY | {6})
    assert not any(lies_in(data or b"", 6) for _, _, data in bucket.server.versions(bucket.name))
    assert verify_dataset(bucket.files()) == []


KILLER = """
import json, os, signal, sys
from pathlib import Path
import s3fs
from fsspec.asyn import sync_wrapper
from curation.remote import RemoteDatasets
from tests.curation import test_storage as t

url, endpoint, scratch, stride = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
plain_call = s3fs.S3FileSystem._call_s3
left = 0

def moment():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def counted(self, method, *args, **request):
    moment()
    answer = await plain_call(self, method, *args, **request)
    moment()
    return answer

s3fs.S3FileSystem._call_s3, s3fs.S3FileSystem.call_s3 = counted, sync_wrapper(counted)

def take_out(files):
    t.reseal(files, [0, 5], "removal-1")
    t.prune(files)

def look(files):
    assert t.verify_dataset(files) == [], t.verify_dataset(files)

def run(work, name, kill_at):
    # This process never speaks to the server: what a fork inherits of a client is of no use.
    global left
    if (pid := os.fork()) == 0:
        left = kill_at
        work(RemoteDatasets(url + "/" + name, scratch=scratch / name, cache_bytes=1 << 30, endpoint=endpoint).files(t.NAME))
        os._exit(0)
    return os.waitpid(pid, 0)[1]

for job in (t.seal, take_out):
    at, names = 1, []
    while True:
        name = f"{job.__name__}-{at}"
        if job is take_out:
            assert run(t.seal, name, 0) == 0
        status = run(job, name, at)
        names.append(name)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        assert job is t.seal or run(look, name, 0) == 0
        assert run(job, name, 0) == 0
        assert run(look, name, 0) == 0
        at += stride
    print(json.dumps(names))
"""


def test_killed_at_any_moment_a_rerun_finishes(bucket: Bucket, tmp_path: Path) -> None:
    """kill -9 before and after requests all along sealing, resealing and pruning: what is there reads whole or not at
    all, and running it again ends in the same bytes, without an older version of anything.
    """
    seal(tmp_path / "local")
    expected = [local(tmp_path / "local")]
    reseal(tmp_path / "local", [0, 5], "removal-1")
    prune(tmp_path / "local")
    expected.append(local(tmp_path / "local"))
    arguments = [bucket.url, bucket.server.endpoint, str(bucket.scratch), os.environ.get("KILL_STRIDE", "13")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    for whole, line in zip(expected, done.stdout.splitlines(), strict=True):
        names = json.loads(line)
        assert len(names) > 4
        for name in names:
            prefix = f"keep/here/{name}/{NAME}/"
            found = bucket.server.objects(bucket.name, prefix)
            assert {key.removeprefix(prefix): data for key, data in found.items()} == whole, name
            assert len(bucket.server.versions(bucket.name, prefix)) == len(whole), name
