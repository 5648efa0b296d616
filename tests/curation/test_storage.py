"""Places by URL, and datasets in a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from curation.remote import RemoteDatasets, RemoteFiles
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader, read_generation, samples_in, verify_dataset
from curation.shards import drop_generation, prune, reseal, write_dataset
from curation.storage import ObjectStore, list_files, open_input
from policy.errors import BusyError, InputError, IntegrityError, StorageError
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
    s3.sign_in(s3.environment(), monkeypatch)
    return s3


def datasets_at(url: str, home: Path, endpoint: str, *, cache_bytes: int = 1 << 30) -> RemoteDatasets:
    return RemoteDatasets(url, spool=home / "spool", cache=home / "shards", cache_bytes=cache_bytes, endpoint=endpoint)


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
        return datasets_at(self.url, self.scratch / scratch, self.server.endpoint, cache_bytes=cache_bytes)

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
    """No object, bucket, folder, permission, credentials or server: each is an InputError of its own, soon."""
    url = f"s3://{plain.name}"
    plain.server.write(plain.name, "there.txt", b"x")
    with pytest.raises(InputError, match="no such object"):
        open_input(f"{url}/nowhere.txt")
    with pytest.raises(InputError, match="no such folder"):
        list_files(f"{url}/nowhere")
    for look in (open_input, list_files):
        with pytest.raises(InputError, match="no such bucket"):
            look("s3://b-nowhere/x")
        with socket.socket() as nobody, monkeypatch.context() as once:
            nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused, at every attempt
            once.setattr("curation.storage._ATTEMPTS", 1)
            with pytest.raises(InputError, match="cannot be reached"):
                look(f"{url}/there.txt", endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}")
    plain.server.sign_in({"AWS_SECRET_ACCESS_KEY": "not the keeper's"}, monkeypatch)
    with pytest.raises(InputError, match="the server refuses"):
        open_input(f"{url}/there.txt")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    plain.server.sign_in({}, monkeypatch)
    with pytest.raises(InputError, match="no credentials"):
        open_input(f"{url}/there.txt")


class Cutter:
    """A way to the server on which the first `cuts` answers end after 2 MB."""

    def __init__(self, endpoint: str, cuts: int) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._target, self.cuts = (host, int(port)), cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, sink, answers), daemon=True))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                passed += len(data)
                if answers and self.cuts and passed > 2 << 20:
                    self.cuts -= 1
                    break
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Cutter:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)


@pytest.mark.parametrize(("cuts", "comes"), [(2, True), (1000, False)])
def test_a_connection_that_breaks_is_taken_up_again_and_then_named(plain: Bucket, cuts: int, comes: bool) -> None:
    """A transfer that breaks is begun anew, three times in all; then the failure is said."""
    body = os.urandom(8 << 20)
    plain.server.write(plain.name, "big.bin", body)
    target = plain.scratch / "big.bin"
    with Cutter(plain.server.endpoint, cuts) as cutter:
        store = ObjectStore(f"s3://{plain.name}", endpoint=cutter.endpoint)
        if comes:
            assert store.read("big.bin") == body
            cutter.cuts = cuts
            store.fetch("big.bin", target)
            assert target.read_bytes() == body
        else:
            for attempt in (lambda: store.read("big.bin"), lambda: store.fetch("big.bin", target)):
                with pytest.raises(StorageError, match=r"big\.bin: the connection breaks"):
                    attempt()


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
        work(t.datasets_at(url + "/" + name, scratch / name, endpoint).files(t.NAME))
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


def test_killed_at_any_moment_a_rerun_finishes(account: S3Server, tmp_path: Path) -> None:
    """kill -9 before and after requests all along sealing, resealing and pruning: what is there reads whole or not at
    all, and running it again ends in the same bytes, without an older version of anything.

    Every 41st moment; KILL_STRIDE=1 takes them all (minutes).
    """
    bucket = new_bucket(account, tmp_path, versioned=True)
    seal(tmp_path / "local")
    expected = [local(tmp_path / "local")]
    reseal(tmp_path / "local", [0, 5], "removal-1")
    prune(tmp_path / "local")
    expected.append(local(tmp_path / "local"))
    arguments = [bucket.url, bucket.server.endpoint, str(bucket.scratch), os.environ.get("KILL_STRIDE", "41")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    for whole, line in zip(expected, done.stdout.splitlines(), strict=True):
        names = json.loads(line)
        assert len(names) > 2
        for name in names:
            prefix = f"keep/here/{name}/{NAME}/"
            found = bucket.server.objects(bucket.name, prefix)
            assert {key.removeprefix(prefix): data for key, data in found.items()} == whole, name
            assert len(bucket.server.versions(bucket.name, prefix)) == len(whole), name


# ── datasets: reading ────────────────────────────────────────────────────────────────────────────────────────────


def truncated(server: S3Server, bucket: str, key: str) -> None:
    server.write(bucket, key, server.read(bucket, key)[:-512])


def flipped(server: S3Server, bucket: str, key: str) -> None:
    data = bytearray(server.read(bucket, key))
    data[-1] ^= 1
    server.write(bucket, key, bytes(data))


def missing(server: S3Server, bucket: str, key: str) -> None:
    server.delete(bucket, key)


@pytest.fixture(scope="module")
def sealed(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with a sealed dataset, for tests that leave it as it was."""
    with pytest.MonkeyPatch.context() as patched:
        s3.sign_in(s3.environment(), patched)
        bucket = new_bucket(s3, tmp_path_factory.mktemp("sealed"), versioned=False)
        seal(bucket.files())
    return bucket.name


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
@pytest.mark.parametrize(
    "name",
    [
        "generation-0000/shard-000001.tar",
        "generation-0000/shard-000001.index.npy",
        "generation-0000/generation.json",
        "leaves.bin",
        "dataset.json",
    ],
)
def test_every_damaged_object_is_found_and_named(
    account: S3Server, sealed: str, tmp_path: Path, name: str, damage: Callable[[S3Server, str, str], None]
) -> None:
    """Truncated, changed or missing: reader and verification refuse and name it; nothing reads as a shorter dataset."""
    plain = Bucket(account, sealed, tmp_path)
    whole = account.read(sealed, plain.key(name))
    damage(account, sealed, plain.key(name))
    kind = InputError if (name, damage) == ("dataset.json", missing) else IntegrityError
    with pytest.raises(kind) as caught:
        DatasetReader.open(plain.files())
    incomplete = (name, damage) in {("generation-0000/generation.json", missing), ("dataset.json", missing)}
    assert caught.value.where == (plain.files().where() if incomplete else plain.files().where(name))
    assert str(caught.value) in verify_dataset(plain.files())
    account.write(sealed, plain.key(name), whole)
    assert verify_dataset(plain.files()) == []


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
def test_a_shard_that_changes_after_opening_is_not_read(
    plain: Bucket, damage: Callable[[S3Server, str, str], None]
) -> None:
    """A shard is fetched when it is first asked for, and refused then; the others go on being read."""
    seal(plain.files())
    with DatasetReader.open(plain.files(), verify=False) as reader:
        damage(plain.server, plain.name, plain.key("generation-0000/shard-000001.tar"))
        for _ in range(2):
            with pytest.raises(IntegrityError, match=r"shard-000001\.tar"):
                reader.image_bytes(5)
        assert reader.sample(0) == sample(0)
    assert not list((plain.scratch / "home" / "shards").glob(".*"))


def test_a_damaged_copy_in_the_cache_is_fetched_again(plain: Bucket) -> None:
    """The cache is believed no more than the server: a copy that changed, shrank or became a link is replaced."""
    seal(plain.files())
    assert list(samples_in(plain.files())) == list(samples())
    first, second, third, fourth = sorted((plain.scratch / "home" / "shards").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    data = bytearray(second.read_bytes())
    data[600] ^= 1
    second.write_bytes(bytes(data))
    third.rename(plain.scratch / "elsewhere")
    third.symlink_to(plain.scratch / "elsewhere")
    fourth.write_bytes(b"")
    assert list(samples_in(plain.files())) == list(samples())


def test_the_cache_is_bounded_and_reading_goes_on(plain: Bucket) -> None:
    """Where one large shard fits, no more lies there or is mapped, and every sample still comes back, in any order."""
    generation = seal(plain.files())
    room = max(shard.size_bytes for shard in generation.shards)
    cache = plain.scratch / "small" / "shards"
    with DatasetReader.open(plain.files(cache_bytes=room, scratch="small")) as reader:
        for ordinal in [*range(SLOTS), *reversed(range(SLOTS)), 0, 12, 1, 11, 2, 10]:
            assert reader.sample(ordinal) == (None if ordinal in EMPTY else sample(ordinal))
            assert sum(path.stat().st_size for path in cache.iterdir()) <= room
            mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(cache) in line]
            assert len(mapped) <= 2  # the last shard is of 1 KiB and fits beside another
    with DatasetReader.open(plain.files(cache_bytes=0, scratch="none")) as reader:
        assert [s.ordinal for s in reader.samples()] == [s.ordinal for s in samples()]
        assert len(list((plain.scratch / "none" / "shards").iterdir())) == 1


def test_the_cache_is_bounded_when_shards_come_at_once(plain: Bucket) -> None:
    """Four shards that are fetched at the same time into room for two leave two; a killed fetch's remains are swept."""
    generation = seal(plain.files())
    room = 2 * max(shard.size_bytes for shard in generation.shards)
    cache = plain.scratch / "small" / "shards"
    cache.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (cache / f".{'0' * 64}.tar.1.{dead.pid}.tmp").write_bytes(b"half a shard")
    with DatasetReader.open(plain.files(cache_bytes=room, scratch="small"), verify=False) as reader:
        assert reader.shards_at_once == 1
        threads = [threading.Thread(target=reader.fetch, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(path.stat().st_size for path in cache.iterdir()) <= room
        assert not list(cache.glob(".*"))
        assert list(reader.samples()) == list(samples())


def test_a_shard_comes_by_ranges_whatever_its_size(plain: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, one, several rounds of ranges, a last one that is short: the file is the object."""
    monkeypatch.setattr("curation.storage._RANGE_BYTES", 1000)
    store = ObjectStore(f"s3://{plain.name}")
    for size in (0, 1, 999, 1000, 4000, 4001, 9_876):
        body = os.urandom(size)
        plain.server.write(plain.name, "shard.tar", body)
        store.fetch("shard.tar", plain.scratch / "shard.tar")
        assert (plain.scratch / "shard.tar").read_bytes() == body
    with pytest.raises(FileNotFoundError):
        store.fetch("none.tar", plain.scratch / "none.tar")


def test_what_is_cached_is_not_fetched_again(plain: Bucket) -> None:
    """A second reader, and a later process, asks the server for manifests and indexes only."""
    seal(plain.files())
    list(samples_in(plain.files()))
    with DatasetReader.open(plain.files(), verify=False) as reader:
        for shard in reader.generation.shards:
            plain.server.delete(plain.name, plain.key(f"generation-0000/{shard.path}"))
        assert list(reader.samples()) == list(samples())


def test_a_reader_serves_threads_and_forks(plain: Bucket) -> None:
    """Threads fetch through one open reader, shards coming and going; a forked child fetches for itself."""
    generation = seal(plain.files())
    room = max(shard.size_bytes for shard in generation.shards)
    expected = [None if i in EMPTY else sample(i) for i in range(SLOTS)]
    with DatasetReader.open(plain.files(cache_bytes=room, scratch="small"), verify=False) as reader:
        results: list[bool] = []

        def read(start: int) -> None:
            order = [(start + i) % SLOTS for i in range(SLOTS)]
            results.append(all(reader.sample(i) == expected[i] for i in order))

        threads = [threading.Thread(target=read, args=(5 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of threads that are idle here
            pid = os.fork()
        if pid == 0:
            os._exit(0 if [reader.sample(i) for i in range(SLOTS)] == expected else 1)
        assert os.waitpid(pid, 0)[1] == 0
    plain.server.let_clients_go()  # the child was given their connections, and has closed them


STOCK_READER = """
import json, sys
import fsspec, webdataset
from webdataset.tariterators import tar_file_expander, group_by_keys
found = {"streams": [], "files": []}
urls, paths = json.load(sys.stdin)
def plain(s):
    return [s["__key__"], s["jpg"].hex(), s["txt"].decode(), s["json"].decode()]
for url in urls:
    with fsspec.open(url, "rb") as stream:
        members = tar_file_expander([{"url": url, "stream": stream}])
        found["streams"] += [plain(s) for s in group_by_keys(members)]
stock = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
found["files"] = [plain(s) for s in stock]
print(json.dumps(found))
"""


def test_stock_webdataset_reads_the_objects(plain: Bucket) -> None:
    """With WDS_SECURE=1, without a pipe: from the server through fsspec's streams, and from the cache's copies."""
    seal(plain.files())
    list(samples_in(plain.files()))
    shards = read_generation(plain.files(), 0).shards
    urls = [plain.files().where(f"generation-0000/{shard.path}") for shard in shards]
    paths = [str(plain.scratch / "home" / "shards" / f"{shard.sha256}.tar") for shard in shards]
    done = subprocess.run(
        [sys.executable, "-c", STOCK_READER],
        input=json.dumps([urls, paths]),
        env={**os.environ, "WDS_SECURE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = [[s.key, s.image.hex(), s.caption, s.metadata_json] for s in samples()]
    assert json.loads(done.stdout) == {"streams": expected, "files": expected}


# ── datasets: removing ───────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_prune_no_version_holds_the_removed(bucket: Bucket) -> None:
    """Objects, older versions, delete markers, unfinished uploads and the cache: a removed sample is in none of them,
    and every other sample is where it was.
    """
    removed = (0, 5)
    seal(bucket.files())
    list(samples_in(bucket.files()))
    cache = bucket.scratch / "home" / "shards"
    bucket.server.write(
        bucket.name,
        bucket.key("generation-0000/shard-000000.tar"),
        bucket.objects()["generation-0000/shard-000000.tar"],
    )
    bucket.server.call(
        "create_multipart_upload", Bucket=bucket.name, Key=bucket.key("generation-0001/shard-000000.tar")
    )
    reseal(bucket.files(), removed, "removal-1")
    list(samples_in(bucket.files()))
    assert prune(bucket.files()) == (0,)
    versions = bucket.server.versions(bucket.name)
    assert {key for key, _, _ in versions} == {bucket.key(name) for name in bucket.objects()}
    assert len(versions) == len(bucket.objects())
    held = [data or b"" for _, _, data in versions] + [path.read_bytes() for path in cache.iterdir()]
    for ordinal in removed:
        assert not any(lies_in(data, ordinal) for data in held)
    assert not bucket.server.call("list_multipart_uploads", Bucket=bucket.name).get("Uploads")
    assert list(samples_in(bucket.files())) == list(samples(EMPTY | set(removed)))
    assert verify_dataset(bucket.files()) == []
    assert prune(bucket.files()) == ()


def test_a_reseal_in_a_bucket_is_a_reseal_in_a_directory(bucket: Bucket, tmp_path: Path) -> None:
    """Same bytes in the end; shards that hold nothing removed are copied by the server, neither fetched nor sent."""
    for place in (bucket.files(), tmp_path / "local"):
        seal(place)
        reseal(place, [0], "removal-1")
        prune(place)
    assert bucket.objects() == local(tmp_path / "local")
    fetched = {path.stem for path in (bucket.scratch / "home" / "shards").iterdir()}
    assert fetched.isdisjoint(shard.sha256 for shard in read_generation(bucket.files(), 1).shards)


def test_a_damaged_object_is_not_resealed(plain: Bucket) -> None:
    """A reseal gives damaged bytes no fresh digest, even where the cache still holds good ones; one that is missing
    stops it.
    """
    seal(plain.files())
    list(samples_in(plain.files()))
    flipped(plain.server, plain.name, plain.key("generation-0000/shard-000001.tar"))
    with pytest.raises(IntegrityError, match=r"shard-000001\.tar"):
        reseal(plain.files(), [5], "removal-1")
    plain.server.delete(plain.name, plain.key("generation-0000/shard-000002.index.npy"))
    with pytest.raises(IntegrityError, match=r"shard-000002\.index\.npy"):
        reseal(plain.files(), [0], "removal-1")
    assert read_generation(plain.files(), 0).number == 0
    assert "generation-0001/generation.json" not in plain.objects()


def test_an_open_reader_goes_on_after_a_prune(plain: Bucket) -> None:
    """What it has mapped it keeps; the rest comes from the newer generation, where removed slots are empty."""
    seal(plain.files())
    with DatasetReader.open(plain.files(scratch="trainer"), verify=False) as reader:
        assert reader.sample(0) == sample(0)
        reseal(plain.files(), [1, 5], "removal-1")
        prune(plain.files())
        assert reader.sample(1) == sample(1)
        assert reader.sample(5) is None
        assert reader.sample(8) == sample(8)
        assert (reader.is_live(5), reader.generation.number) == (False, 1)
        assert reader.commitment(5) == commitments()[5]


def test_only_superseded_generations_are_dropped(plain: Bucket) -> None:
    """The current one stays, one that is gone already is fine, an unfinished sealing is not pruned away."""
    seal(plain.files())
    with pytest.raises(InputError, match="current generation"):
        drop_generation(plain.files(), 0)
    reseal(plain.files(), [0], "removal-1")
    drop_generation(plain.files(), 0)
    drop_generation(plain.files(), 0)
    assert {name.partition("/")[0] for name in plain.objects()} == {"dataset.json", "leaves.bin", "generation-0001"}
    plain.server.delete(plain.name, plain.key("generation-0001/generation.json"))
    with pytest.raises(IntegrityError, match="no generation is complete"):
        prune(plain.files())
    assert "generation-0001/shard-000000.tar" in plain.objects()


def test_verification_names_what_does_not_belong(account: S3Server, tmp_path: Path) -> None:
    """Strange objects, versions beneath others and unfinished uploads are failures, though all else is sound."""
    bucket = new_bucket(account, tmp_path, versioned=True)
    seal(bucket.files())
    tar = bucket.key("generation-0000/shard-000000.tar")
    bucket.server.write(bucket.name, tar, bucket.server.read(bucket.name, tar))
    bucket.server.write(bucket.name, bucket.key("generation-0000/model.pkl"), b"")
    bucket.server.call("create_multipart_upload", Bucket=bucket.name, Key=tar)
    failures = verify_dataset(bucket.files())
    expected = ["model.pkl: no file", "shard-000000.tar: the bucket keeps an older version", "never finished"]
    assert len(failures) == len(expected)
    assert all(words in failure for words, failure in zip(expected, failures, strict=True))


def test_an_object_under_a_delete_marker_is_not_pruned_away(account: S3Server, tmp_path: Path) -> None:
    """A shard that somebody deleted by mistake can be brought back from its version after a prune, too."""
    bucket = new_bucket(account, tmp_path, versioned=True)
    seal(bucket.files())
    bucket.server.delete(bucket.name, bucket.key("generation-0000/shard-000003.tar"))
    assert prune(bucket.files()) == ()
    [marker] = bucket.server.call("list_object_versions", Bucket=bucket.name)["DeleteMarkers"]
    bucket.server.call("delete_object", Bucket=bucket.name, Key=marker["Key"], VersionId=marker["VersionId"])
    assert list(samples_in(bucket.files())) == list(samples())


# ── a server that refuses ────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_only_read_reads_and_changes_nothing(plain: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """With credentials that may read, the dataset is read and verified; writing and removing are refused in words."""
    seal(plain.files())
    before = plain.objects()
    plain.server.sign_in(plain.server.environment(may_write=False), monkeypatch)
    reader = plain.files(scratch="reader")
    assert list(samples_in(reader)) == list(samples())
    assert verify_dataset(reader) == []
    with pytest.raises(StorageError, match="the server refuses"):
        reseal(reader, [0], "removal-1")
    assert plain.objects() == before


def test_a_bucket_that_is_not_there_is_said(account: S3Server, tmp_path: Path) -> None:
    """Sealing into no bucket makes none, and says so before anything is written."""
    nowhere = datasets_at("s3://b-nowhere/x", tmp_path, account.endpoint)
    with pytest.raises(StorageError, match="no such bucket"):
        seal(nowhere.files(NAME))
    with pytest.raises(StorageError, match="no such bucket"):
        nowhere.names()


def test_a_full_disk_is_named(plain: Bucket) -> None:
    """Where the spool or the cache cannot be written, the message names it; with room again all goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(StorageError, match=r"spool.*cannot write"):
            seal(plain.files())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    seal(plain.files())
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(StorageError, match=r"shards.*cannot write"):
            DatasetReader.open(plain.files())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(samples_in(plain.files())) == list(samples())
