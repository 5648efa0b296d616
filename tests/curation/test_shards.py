"""Sealing, strict reading and resealing of datasets, with real tars on a real file system."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.shard_files import INDEX_DTYPE, LocalFiles, SealedSample
from curation.shard_reader import DatasetReader, read_generation, samples_in, verify_dataset
from curation.shards import drop_generation, prune, reseal, write_dataset
from policy.errors import BusyError, CustodyError, InputError, IntegrityError, StorageError
from policy.provenance import DatasetManifest, Generation, dataset_root

SLOTS, SHARD_SLOTS, EMPTY = 23, 5, frozenset({3, 10, 11, 12, 13, 14, 22})  # shard 2 holds nothing at all
REPOSITORY = Path(__file__).parents[2]


def commitments(slots: int = SLOTS, name: str = "museum") -> list[bytes]:
    return [hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(slots)]


def manifest(slots: int = SLOTS, name: str = "museum") -> DatasetManifest:
    root = dataset_root(commitments(slots, name))
    return DatasetManifest(name, root, slots, 64, "research", "rules", "selection", None, "2026-11-21T00:00:00Z")


def sample(ordinal: int) -> SealedSample:
    """A picture of some hundred bytes, each part with a needle of its own; every third one a WebP."""
    key = hashlib.blake2b(f"key {ordinal}".encode(), digest_size=16).hexdigest()
    image = f"picture-needle-{ordinal:05d}-".encode() + bytes(range(256)) * (ordinal % 4)
    caption = f"caption-needle-{ordinal:05d}, a “red” apple é"
    metadata = json.dumps({"licence": "CC-BY-4.0", "needle": f"metadata-needle-{ordinal:05d}"})
    return SealedSample(ordinal, key, image, "webp" if ordinal % 3 == 0 else "jpg", caption, metadata)


def samples(slots: int = SLOTS, empty: Collection[int] = EMPTY) -> Iterator[SealedSample]:
    return (sample(i) for i in range(slots) if i not in empty)


def seal(directory: Path, slots: int = SLOTS, empty: Collection[int] = EMPTY) -> Generation:
    return write_dataset(directory, manifest(slots), commitments(slots), samples(slots, empty), SHARD_SLOTS)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    seal(tmp_path / "museum")
    return tmp_path / "museum"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of files are synced, and a shared disk takes its time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def needles(ordinal: int) -> tuple[bytes, ...]:
    key = sample(ordinal).key
    words = [f"{part}-needle-{ordinal:05d}".encode() for part in ("picture", "caption", "metadata")]
    return (*words, key.encode(), bytes.fromhex(key))


def lies_under(directory: Path, ordinal: int) -> bool:
    return any(needle in data for data in files(directory).values() for needle in needles(ordinal))


# ── sealing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_sealed_is_read_back(dataset: Path) -> None:
    """Every part of every sample comes back by ordinal, empty slots give None, all slots keep their commitment."""
    with DatasetReader.open(dataset) as reader:
        assert (reader.slots, reader.root) == (SLOTS, manifest().root)
        assert reader.manifest == manifest()
        assert reader.live().tolist() == [i not in EMPTY for i in range(SLOTS)]
        for i in range(SLOTS):
            expected = None if i in EMPTY else sample(i)
            assert reader.commitment(i) == commitments()[i]
            assert reader.is_live(i) is (expected is not None)
            assert reader.sample(np.int64(i)) == expected
            assert reader.image_bytes(i) == (expected and expected.image)
            assert reader.image_ext(i) == (expected and expected.image_ext)
            assert reader.caption(i) == (expected and expected.caption)
            assert reader.key(i) == (expected and expected.key)
            assert reader.metadata(i) == (expected and json.loads(expected.metadata_json))
    assert list(samples_in(dataset)) == list(samples())
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize("ordinal", [-1, SLOTS, 10**9])
def test_an_ordinal_outside_is_an_error(dataset: Path, ordinal: int) -> None:
    """No ordinal wraps around or reads past the end."""
    with DatasetReader.open(dataset) as reader:
        for read in (reader.image_bytes, reader.caption, reader.commitment, reader.is_live, reader.key):
            with pytest.raises(IndexError):
                read(ordinal)


def test_the_manifest_counts_and_covers(dataset: Path) -> None:
    """Counts, sizes, digests and ordinals of the generation are those of the files."""
    generation = read_generation(dataset, 0)
    assert [(s.first_ordinal, s.slots, s.live) for s in generation.shards] == [
        (0, 5, 4), (5, 5, 5), (10, 5, 0), (15, 5, 5), (20, 3, 2),
    ]  # fmt: skip
    for shard in generation.shards:
        data = (dataset / "generation-0000" / shard.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.size_bytes, shard.sha256)


def test_sealing_is_reproducible_byte_for_byte(tmp_path: Path) -> None:
    """Two seals of the same samples differ in no byte of any file."""
    seal(tmp_path / "a")
    seal(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_tars_are_plain_ustar(dataset: Path) -> None:
    """The standard library reads regular files, mode 0644, without owner or time."""
    with tarfile.open(dataset / "generation-0000" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        first = sample(0)
        assert [m.name for m in members[:3]] == [f"{first.key}.{ext}" for ext in ("webp", "txt", "json")]
        assert {(m.type, m.mode, m.uid, m.gid, m.mtime, m.uname) for m in members} == {
            (tarfile.REGTYPE, 0o644, 0, 0, 0, "")
        }
        image = tar.extractfile(members[0])
        assert image is not None
        assert image.read() == first.image


STOCK_READER = """
import json, sys, webdataset
for urls in json.load(sys.stdin):
    stock = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    print(json.dumps([
        (s["__key__"], s.get("jpg", s.get("webp")).hex(), s["txt"].decode(), s["json"].decode()) for s in stock
    ]))
"""


def test_stock_webdataset_reads_exactly_the_samples(dataset: Path) -> None:
    """webdataset finds every live sample of every shard, nothing else, before and after a reseal."""
    reseal(dataset, [0, 7, 20, 21], "removal-1")
    urls = [
        [str(dataset / f"generation-{number:04d}" / shard.path) for shard in read_generation(dataset, number).shards]
        for number in (0, 1)
    ]
    # In a process of its own: it leaves its files open, and Python's warnings about that would fail some other test.
    done = subprocess.run(
        [sys.executable, "-c", STOCK_READER],
        input=json.dumps(urls),
        env={**os.environ, "WDS_SECURE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for empty, samples_found in zip((EMPTY, EMPTY | {0, 7, 20, 21}), found, strict=True):
        expected = [[s.key, s.image.hex(), s.caption, s.metadata_json] for s in samples(empty=empty)]
        assert samples_found == expected


BAD_SAMPLES = {
    "a key that is a path": [replace(sample(0), key="../../../../etc/passwd")],
    "a key in capitals": [replace(sample(0), key=sample(0).key.upper())],
    "a key with a dot": [replace(sample(0), key=sample(0).key[:-2] + ".a")],
    "a strange extension": [replace(sample(0), image_ext="pkl")],
    "no picture": [replace(sample(0), image=b"")],
    "no JSON": [replace(sample(0), metadata_json="{")],
    "no JSON object": [replace(sample(0), metadata_json="[1]")],
    "ordinals that fall": [sample(4), sample(2)],
    "an ordinal twice": [sample(4), sample(4)],
    "an ordinal too many": [sample(SLOTS)],
    "a negative ordinal": [replace(sample(0), ordinal=-1)],
    "a key twice": [sample(0), replace(sample(0), ordinal=1)],
}


@pytest.mark.parametrize("name", list(BAD_SAMPLES))
def test_samples_that_cannot_be_sealed_are_refused(tmp_path: Path, name: str) -> None:
    """A bad sample stops the sealing, names its slot, and leaves nothing that reads as a dataset."""
    with pytest.raises(InputError, match="slot"):
        write_dataset(tmp_path / "d", manifest(), commitments(), BAD_SAMPLES[name], SHARD_SLOTS)
    with pytest.raises(IntegrityError, match="no generation is complete"):
        DatasetReader.open(tmp_path / "d")
    assert not list(tmp_path.rglob("*.tmp"))


def test_commitments_must_give_the_root(tmp_path: Path) -> None:
    """Commitments in another order, too few or too short are refused before anything is written."""
    swapped = commitments()[::-1]
    for wrong in (swapped, commitments()[:-1], [*commitments()[:-1], b"short"]):
        with pytest.raises(IntegrityError, match="commitments"):
            write_dataset(tmp_path / "d", manifest(), wrong, samples(), SHARD_SLOTS)
    with pytest.raises(InputError, match="nothing to seal"):
        write_dataset(tmp_path / "d", replace(manifest(), slots=0), [], [], SHARD_SLOTS)
    with pytest.raises(InputError, match="shard_slots"):
        write_dataset(tmp_path / "d", manifest(), commitments(), samples(), 0)
    assert not (tmp_path / "d").exists()


def test_a_directory_of_another_dataset_is_refused(dataset: Path) -> None:
    """Sealing does not write over another dataset, finished or not."""
    other, before = "zoo", files(dataset)
    with pytest.raises(IntegrityError, match="another dataset"):
        write_dataset(dataset, manifest(name=other), commitments(name=other), samples(), SHARD_SLOTS)
    assert files(dataset) == before


def test_sealing_again_changes_nothing(dataset: Path) -> None:
    """A finished dataset is returned as it is, at another time of day too, without asking for a sample."""
    before = files(dataset)
    later = replace(manifest(), sealed_at="2026-11-22T00:00:00Z")
    assert write_dataset(dataset, later, commitments(), iter(()), SHARD_SLOTS) == read_generation(dataset, 0)
    assert files(dataset) == before


def test_one_process_at_a_time_seals(dataset: Path) -> None:
    """While another process holds the dataset, sealing, resealing and pruning say so; reading goes on."""
    handle = os.open(dataset, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        for change in (lambda: seal(dataset), lambda: reseal(dataset, [0], "r"), lambda: prune(dataset)):
            with pytest.raises(BusyError, match="another process"):
                change()
        assert len(list(samples_in(dataset))) == SLOTS - len(EMPTY)
    finally:
        os.close(handle)


# ── crashes and full disks ───────────────────────────────────────────────────────────────────────────────────────


def test_finished_shards_are_kept_when_sealing_goes_on(tmp_path: Path, dataset: Path) -> None:
    """After a failure in shard 3 the shards before it stay the same files, and the end is the same to the byte."""

    def broken() -> Iterator[SealedSample]:
        for item in samples():
            if item.ordinal == 17:
                raise OSError("the pixel store went away")
            yield item

    directory = tmp_path / "resumed"
    with pytest.raises(OSError, match="pixel store"):
        write_dataset(directory, manifest(), commitments(), broken(), SHARD_SLOTS)
    tars = sorted((directory / "generation-0000").glob("*.tar"))
    assert [tar.name for tar in tars] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert not list(directory.rglob(".*.tmp"))
    inodes = [tar.stat().st_ino for tar in tars]
    seal(directory)
    assert [tar.stat().st_ino for tar in tars] == inodes
    assert files(directory) == files(dataset)


def test_a_finished_shard_is_not_trusted_but_compared(tmp_path: Path, dataset: Path) -> None:
    """What lies there from an unfinished attempt counts only where it equals the samples of this one."""
    directory = tmp_path / "resumed"
    shutil.copytree(dataset, directory)
    generation = directory / "generation-0000"
    (generation / "generation.json").unlink()
    flip(generation / "shard-000000.tar", 700)
    flip(generation / "shard-000001.index.npy", 300)
    truncate(generation / "shard-000003.tar", 900)
    with (generation / "shard-000004.tar").open("ab") as tar:
        tar.write(bytes(10240))
    (generation / "shard-000099.tar").write_bytes(b"from an attempt with other shards")
    seal(directory)
    assert files(directory) == files(dataset)


def test_a_sample_tombstoned_between_crash_and_rerun_stays_out(dataset: Path) -> None:
    """A shard that was finished with a sample loses it, bytes and all, when the next attempt no longer brings it."""
    (dataset / "generation-0000" / "generation.json").unlink()
    assert lies_under(dataset, 6)
    seal(dataset, empty=EMPTY | {6})
    assert not lies_under(dataset, 6)
    assert verify_dataset(dataset) == []


KILLER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_shards as t

def run(job, directory, kill_at):
    pid = os.fork()
    if pid == 0:
        left = kill_at
        def hook(event, args):
            nonlocal left
            if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        job(directory)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def seal(directory):
    t.seal(directory, slots=11, empty={{3}})

def take_out(directory):
    t.reseal(directory, [0, 10], "removal-1")
    t.prune(directory)

for name, job in (("seal", seal), ("take out", take_out)):
    expected, kills = None, 0
    while True:
        directory = Path({tmp!r}) / f"{{name}}-{{kills}}"
        if job is take_out:
            seal(directory)
        status = run(job, directory, kills)  # the first is never killed
        if kills and status == 0:
            break
        assert kills == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
        assert job is seal or t.verify_dataset(directory) == [], (kills, t.verify_dataset(directory))
        assert run(job, directory, 0) == 0
        expected = expected or t.files(directory)
        assert t.files(directory) == expected, (name, kills, set(t.files(directory)) ^ set(expected))
        assert t.verify_dataset(directory) == []
        kills += 1
    print(name, kills)
"""


def test_killed_at_any_file_operation_a_rerun_finishes(scratch: Path) -> None:
    """With kill -9 before every single open, rename, link, unlink, mkdir and rmdir, the rerun ends in the same bytes.

    While a reseal lies killed, the dataset still verifies: there is always a whole generation to read.
    """
    script = KILLER.format(tests=str(Path(__file__).parent), tmp=str(scratch))
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, env=env)
    assert done.returncode == 0, done.stderr
    kills = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert kills["seal"] > 30
    assert kills["take out"] > 30


def test_a_full_disk_is_named_and_the_rerun_finishes(tmp_path: Path, dataset: Path) -> None:
    """When the file system refuses, the message names the file, nothing half-written stays, and a rerun finishes."""
    directory = tmp_path / "resumed"
    # A limit on the size of a file stands for the full disk where tmpfs cannot be mounted: EFBIG instead of ENOSPC.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(StorageError, match=r"shard-000000\.tar: cannot write .* run it again"):
            seal(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(directory.rglob(".*.tmp"))
    seal(directory)
    assert files(directory) == files(dataset)


def test_a_full_tmpfs_loses_nothing(tmp_path: Path) -> None:
    """On a file system of 512 KiB sealing and resealing stop with StorageError; with more space both finish."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        directory = small / "museum"
        big = [replace(item, image=item.image + bytes(8192)) for item in samples()]
        (small / "ballast").write_bytes(bytes(400_000))

        def attempt() -> Generation:
            return write_dataset(directory, manifest(), commitments(), big, SHARD_SLOTS)

        with pytest.raises(StorageError, match="No space left"):
            attempt()
        (small / "ballast").unlink()
        attempt()
        (small / "ballast").write_bytes(bytes(280_000))
        with pytest.raises(StorageError, match="No space left"):
            reseal(directory, [0, 7], "removal-1")
        assert list(samples_in(directory)) == big
        (small / "ballast").unlink()
        reseal(directory, [0, 7], "removal-1")
        prune(directory)
        assert list(samples_in(directory)) == [item for item in big if item.ordinal not in (0, 7)]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ── the strict reader ────────────────────────────────────────────────────────────────────────────────────────────


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def truncate(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def link_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated tar": ("shard-000001.tar", lambda p: truncate(p, 1)),
    "tar truncated at a sample": ("shard-000001.tar", lambda p: truncate(p, 512 * 6)),
    "tar without its end": ("shard-000001.tar", lambda p: truncate(p, 1024)),
    "emptied tar": ("shard-000001.tar", lambda p: p.write_bytes(b"")),
    "tar grown": ("shard-000001.tar", lambda p: p.write_bytes(p.read_bytes() + bytes(512))),
    "flipped bit in a picture": ("shard-000001.tar", lambda p: flip(p, 515)),
    "flipped bit in a header": ("shard-000001.tar", lambda p: flip(p, 0)),
    "flipped bit in the last block": ("shard-000001.tar", lambda p: flip(p, -1)),
    "tar missing": ("shard-000001.tar", Path.unlink),
    "tar is a link": ("shard-000001.tar", link_away),
    "tar is a directory": ("shard-000001.tar", lambda p: (p.unlink(), p.mkdir())),
    "index missing": ("shard-000001.index.npy", Path.unlink),
    "index flipped": ("shard-000001.index.npy", lambda p: flip(p, 200)),
    "index truncated": ("shard-000001.index.npy", lambda p: truncate(p, 64)),
    "leaves flipped": ("../leaves.bin", lambda p: flip(p, 40)),
    "leaves truncated": ("../leaves.bin", lambda p: truncate(p, 32)),
    "leaves missing": ("../leaves.bin", Path.unlink),
    "dataset.json of other slots": ("../dataset.json", lambda p: p.write_text(manifest(name="zoo").to_json())),
    "dataset.json of another name": ("../dataset.json", lambda p: edit(p, dataset="zoo")),
    "dataset.json with other slots": ("../dataset.json", lambda p: edit(p, slots=SLOTS - 1)),
    "dataset.json with no number": ("../dataset.json", lambda p: edit(p, slots="23")),
    "dataset.json is no JSON": ("../dataset.json", lambda p: truncate(p, 1)),
    "dataset.json is not text": ("../dataset.json", lambda p: p.write_bytes(b"\xff\xfe")),
    "dataset.json of the future": ("../dataset.json", lambda p: edit(p, version=99)),
    "generation.json flipped": ("generation.json", lambda p: p.write_text(p.read_text().replace("live", "liwe"))),
    "generation.json of another dataset": ("generation.json", lambda p: edit(p, dataset="zoo")),
    "generation.json of another number": ("generation.json", lambda p: edit(p, number=1)),
    "generation.json missing": ("generation.json", Path.unlink),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DAMAGE))
def test_every_damage_is_found_and_named(dataset: Path, name: str) -> None:
    """Reader and verification both refuse, name a file and say what to do; nothing is read as a shorter dataset."""
    relative, damage = DAMAGE[name]
    path = dataset / "generation-0000" / relative
    damage(path)
    with pytest.raises(IntegrityError) as caught:
        DatasetReader.open(dataset)
    blamed = {"dataset.json", "leaves.bin", "generation.json"} if path.suffix in (".json", ".bin") else {path.name}
    assert any(file in str(caught.value) for file in blamed) or str(dataset) in str(caught.value)
    assert caught.value.where.startswith(str(dataset))
    assert str(caught.value) in verify_dataset(dataset)
    with pytest.raises(IntegrityError):
        list(samples_in(dataset))


def test_no_dataset_is_an_input_error(tmp_path: Path) -> None:
    """A directory without dataset.json, or none at all, is named as such."""
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="there is no dataset"):
            DatasetReader.open(directory)
        with pytest.raises(CustodyError):
            reseal(directory, [0], "r")
        assert len(verify_dataset(directory)) == 1


def test_verification_goes_on_after_a_failure(dataset: Path) -> None:
    """Every damaged file is listed, and files that do not belong there."""
    generation = dataset / "generation-0000"
    flip(generation / "shard-000000.tar", 600)
    truncate(generation / "shard-000003.tar", 512)
    (generation / "shard-000004.index.npy").unlink()
    (generation / "model.pkl").write_bytes(b"")
    flip(dataset / "leaves.bin", 0)
    failures = verify_dataset(dataset)
    expected = ["leaves.bin", "shard-000000.tar", "shard-000003.tar", "shard-000004.index.npy", "model.pkl"]
    assert len(failures) == len(expected)
    assert all(name in failure for name, failure in zip(expected, failures, strict=True))


def forge(dataset: Path, name: str, data: bytes) -> None:
    """Replaces a file of shard 0 and makes every digest above it fit, as an attacker with write access would."""
    directory = dataset / "generation-0000"
    (directory / name).write_bytes(data)
    generation = read_generation(dataset, 0)
    first = generation.shards[0]
    digest = hashlib.sha256(data).hexdigest()
    if name.endswith(".tar"):
        first = replace(first, sha256=digest, size_bytes=len(data))
    else:
        first = replace(first, index_sha256=digest)
    shards = (first, *generation.shards[1:])
    forged = replace(generation, shards=shards, root=Generation.root_of(shards))
    (directory / "generation.json").write_text(forged.to_json())


def retar(dataset: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> bytes:
    """Shard 0 unpacked, changed as a list of members, and packed again as ustar."""
    out = io.BytesIO()
    with tarfile.open(dataset / "generation-0000" / "shard-000000.tar") as tar:
        members = [(m, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar.getmembers()]
    change(members)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return out.getvalue()[:end] + bytes(1024)


def named(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


FORGERIES: dict[str, Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]] = {
    "an extra member": lambda m: m.append((named("0" * 32 + ".txt"), b"extra")),
    "an extra member in front": lambda m: m.insert(0, (named("0" * 32 + ".txt"), b"extra")),
    "a member less": lambda m: m.pop(),
    "a pickle": lambda m: m.append((named("0" * 32 + ".pkl"), b"\x80\x04.")),
    "a picture that became a pickle": lambda m: setattr(m[0][0], "name", m[0][0].name.replace(".webp", ".pkl")),
    "a torch file": lambda m: setattr(m[2][0], "name", m[2][0].name.replace(".json", ".pth")),
    "a positional key": lambda m: setattr(m[0][0], "name", "000000000.jpg"),
    "a wrong key": lambda m: setattr(m[0][0], "name", "f" * 32 + ".webp"),
    "an upper-case key": lambda m: setattr(m[0][0], "name", m[0][0].name.upper()),
    "a path that leads out": lambda m: setattr(m[0][0], "name", "../../" + m[0][0].name),
    "an absolute path": lambda m: setattr(m[0][0], "name", "/etc/" + m[0][0].name),
    "a symbolic link": lambda m: m.__setitem__(0, (named(m[0][0].name, tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "a hard link": lambda m: m.__setitem__(0, (named(m[0][0].name, tarfile.LNKTYPE, m[3][0].name), b"")),
    "a device": lambda m: m.__setitem__(1, (named(m[1][0].name, tarfile.CHRTYPE), b"")),
    "a time": lambda m: setattr(m[0][0], "mtime", 1_700_000_000),
    "an owner": lambda m: setattr(m[0][0], "uname", "somebody"),
    "members in another order": lambda m: m.reverse(),
    "a longer caption": lambda m: m.__setitem__(1, (m[1][0], m[1][1] + b" and more")),
}


@pytest.mark.parametrize("name", list(FORGERIES))
def test_a_forged_shard_is_refused_though_its_digests_fit(dataset: Path, name: str) -> None:
    """Only what our writer would have written for the index passes: no other name, type, order or number of members."""
    forge(dataset, "shard-000000.tar", retar(dataset, FORGERIES[name]))
    with pytest.raises(IntegrityError, match="shard-000000"):
        DatasetReader.open(dataset)
    with pytest.raises(IntegrityError, match="shard-000000"):
        reseal(dataset, [0], "removal-1")


def test_bytes_hidden_in_padding_are_found(dataset: Path) -> None:
    """Nothing can ride along between two members."""
    tar = bytearray((dataset / "generation-0000" / "shard-000000.tar").read_bytes())
    tar[512 + len(sample(0).image) + 3] = 1
    forge(dataset, "shard-000000.tar", bytes(tar))
    with pytest.raises(IntegrityError, match="hidden"):
        DatasetReader.open(dataset)


def _index(rows: np.ndarray, *, pickled: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, rows, allow_pickle=pickled)
    return out.getvalue()


def _changed(**fields: int) -> Callable[[np.ndarray], bytes]:
    def change(rows: np.ndarray) -> bytes:
        for name, value in fields.items():
            rows[name][1] = value
        return _index(rows)

    return change


BAD_INDEXES: dict[str, Callable[[np.ndarray], bytes]] = {
    "a pickle": lambda rows: _index(np.array([{"a": 1}], dtype=object), pickled=True),
    "an endless array": lambda rows: _index(rows).replace(b"'shape': (5,)", b"'shape': (9**9**9,)"),
    "an array of terabytes": lambda rows: _index(rows).replace(b"(5,), }      ", b"(5000000000,), }"[:13]),
    "half a header": lambda rows: _index(rows)[:40],
    "a header that is no dict": lambda rows: _index(rows).replace(b"{", b"(((", 1),
    "a zip": lambda rows: b"PK\x03\x04",
    "another dtype": lambda rows: _index(np.zeros(5)),
    "a row less": lambda rows: _index(rows[:-1]),
    "two dimensions": lambda rows: _index(rows.reshape(1, -1)),
    "another ordinal": _changed(ordinal=7),
    "a negative length": _changed(text_length=-5),
    "an offset beyond the end": _changed(image_offset=1 << 40),
    "an overlapping extent": _changed(text_offset=512),
    "an unknown extension": _changed(image_ext=9),
    "a slot that is half live": _changed(live=2),
    "a live slot called empty": _changed(live=0),
}


@pytest.mark.parametrize("name", list(BAD_INDEXES))
def test_a_forged_index_is_refused_though_its_digest_fits(dataset: Path, name: str) -> None:
    """An index that does not describe its tar, or is no plain array, never leads a read anywhere."""
    rows = np.load(dataset / "generation-0000" / "shard-000000.index.npy")
    assert rows.dtype == INDEX_DTYPE
    forge(dataset, "shard-000000.index.npy", BAD_INDEXES[name](rows))
    with pytest.raises(IntegrityError, match=r"shard-000000\.index\.npy"):
        DatasetReader.open(dataset)


@pytest.mark.parametrize(
    "changes",
    [{"path": "../../leaves.bin"}, {"path": "/dev/zero"}, {"path": "pipe:id"}, {"first_ordinal": 1}, {"slots": 4}],
)
def test_a_manifest_cannot_point_elsewhere(dataset: Path, changes: dict[str, object]) -> None:
    """Shards are plain names at their ordinals; anything else in generation.json is refused, though its root fits."""
    generation = read_generation(dataset, 0)
    shards = (type(generation.shards[0])(**{**asdict(generation.shards[0]), **changes}), *generation.shards[1:])
    forged = replace(generation, shards=shards, root=Generation.root_of(shards))
    (dataset / "generation-0000" / "generation.json").write_text(forged.to_json())
    with pytest.raises(IntegrityError, match=r"generation\.json"):
        DatasetReader.open(dataset)


def test_a_reader_serves_threads_and_forks(dataset: Path) -> None:
    """Threads and a forked child read the same bytes through one open reader."""
    with DatasetReader.open(dataset) as reader:
        expected = [reader.sample(i) for i in range(SLOTS)]
        results: list[bool] = []
        threads = [
            threading.Thread(target=lambda: results.append([reader.sample(i) for i in range(SLOTS)] == expected))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 4
        with warnings.catch_warnings():
            # Python 3.12 warns of numpy's idle threads; the child does nothing but read and leave.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(0 if [reader.sample(i) for i in range(SLOTS)] == expected else 1)
        assert os.waitpid(pid, 0)[1] == 0


# ── resealing ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reseal_takes_out_what_was_asked_and_nothing_else(dataset: Path) -> None:
    """Removed slots are empty and keep their commitment; all others, root and manifest are unchanged to the byte."""
    removed = {0, 7, 20, 21}
    generation = reseal(dataset, removed, "removal-1")
    assert (generation.number, generation.removals) == (1, ("removal-1",))
    with DatasetReader.open(dataset) as reader:
        assert reader.generation == generation
        assert reader.manifest == manifest()
        for i in range(SLOTS):
            assert reader.sample(i) == (None if i in EMPTY | removed else sample(i))
            assert reader.commitment(i) == commitments()[i]


def test_a_reseal_equals_a_seal_without_the_removed(dataset: Path, tmp_path: Path) -> None:
    """Copying extents gives byte for byte the shards that sealing without the removed samples would have given."""
    seal(tmp_path / "fresh", empty=EMPTY | {1, 2, 8, 15, 19})
    assert reseal(dataset, [1, 2, 8, 15, 19], "r").shards == read_generation(tmp_path / "fresh", 0).shards


def test_untouched_shards_are_the_same_files(dataset: Path) -> None:
    """Only the shards that hold a removed sample are written; the others are linked."""
    reseal(dataset, [6], "removal-1")
    same = [
        (dataset / "generation-0000" / f"shard-{i:06d}.tar").samefile(
            dataset / "generation-0001" / f"shard-{i:06d}.tar"
        )
        for i in range(5)
    ]
    assert same == [True, False, True, True, True]


def test_without_hard_links_shards_are_copied(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has no hard links the new generation is as complete."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    reseal(dataset, [6], "removal-1")
    prune(dataset)
    assert verify_dataset(dataset) == []
    assert [s.ordinal for s in samples_in(dataset)] == [i for i in range(SLOTS) if i not in EMPTY | {6}]


def test_after_a_prune_no_byte_of_the_removed_is_left(dataset: Path) -> None:
    """Picture, caption, metadata and key of a removed sample are in no file under the dataset's directory."""
    removed = (0, 7, 20, 21)
    assert all(lies_under(dataset, i) for i in removed)
    reseal(dataset, removed, "removal-1")
    (dataset / "generation-0001" / ".shard-000000.tar.tmp").write_bytes(needles(0)[0])  # what a killed writer leaves
    assert prune(dataset) == (0,)
    assert not any(lies_under(dataset, i) for i in removed)
    assert all(lies_under(dataset, i) for i in range(SLOTS) if i not in EMPTY | set(removed))
    assert verify_dataset(dataset) == []
    assert prune(dataset) == ()


def test_removals_add_up(dataset: Path) -> None:
    """One reseal after another keeps every earlier removal; the same one again changes nothing."""
    reseal(dataset, [0, 1], "removal-1")
    second = reseal(dataset, [1, 2], "removal-2")
    assert (second.number, second.removals) == (2, ("removal-1", "removal-2"))
    assert reseal(dataset, [1, 2], "removal-2") == second
    assert reseal(dataset, [0, 1], "removal-1") == second
    assert reseal(dataset, [], "removal-3") == second
    third = reseal(dataset, [1], "removal-4")
    assert third.shards == second.shards
    assert third.removals == ("removal-1", "removal-2", "removal-4")
    assert prune(dataset) == (0, 1, 2)
    with pytest.raises(InputError, match="no slot"):
        reseal(dataset, [SLOTS], "removal-5")


def test_everything_can_be_removed(dataset: Path) -> None:
    """A dataset whose last sample is gone is still a dataset, of empty slots."""
    reseal(dataset, range(SLOTS), "removal-1")
    prune(dataset)
    assert list(samples_in(dataset)) == []
    assert verify_dataset(dataset) == []
    with DatasetReader.open(dataset) as reader:
        assert not reader.live().any()


def test_sealing_after_a_reseal_brings_nothing_back(dataset: Path) -> None:
    """Running the seal again over a resealed dataset returns the resealed generation."""
    resealed = reseal(dataset, [0], "removal-1")
    prune(dataset)
    assert seal(dataset) == resealed
    assert not lies_under(dataset, 0)


def test_the_current_generation_cannot_be_dropped(dataset: Path) -> None:
    """Only superseded generations go, one that is gone already is fine, and an unfinished seal is not pruned away."""
    with pytest.raises(InputError, match="current generation"):
        drop_generation(dataset, 0)
    reseal(dataset, [0], "removal-1")
    drop_generation(dataset, 0)
    drop_generation(dataset, 0)
    assert sorted(p.name for p in dataset.iterdir()) == ["dataset.json", "generation-0001", "leaves.bin"]
    (dataset / "generation-0001" / "generation.json").unlink()
    with pytest.raises(IntegrityError, match="no generation is complete"):
        prune(dataset)
    assert (dataset / "generation-0001" / "shard-000000.tar").exists()


def test_an_open_reader_outlives_a_prune(dataset: Path) -> None:
    """A training that has the old generation open reads on: the tombstones, not missing files, tell it what to skip."""
    with DatasetReader.open(dataset) as reader:
        reseal(dataset, [0], "removal-1")
        prune(dataset)
        assert reader.sample(0) == sample(0)


def test_readers_never_notice_a_reseal(scratch: Path) -> None:
    """Opened at any moment while generations come and go, the dataset is whole and lacks no sample but removed ones."""
    directory = scratch / "d"
    seal(directory)
    done = threading.Event()

    def remove_one_after_another() -> None:
        try:
            for i in range(SLOTS):
                reseal(directory, [i], f"removal-{i}")
                prune(directory)
        finally:
            done.set()

    thread = threading.Thread(target=remove_one_after_another)
    thread.start()
    seen = [[s.ordinal for s in samples()]]
    while not done.is_set():
        seen.append([s.ordinal for s in samples_in(directory)])
        assert seen[-1] == seen[-2][len(seen[-2]) - len(seen[-1]) :]
        assert verify_dataset(directory) == []
    thread.join()
    assert list(samples_in(directory)) == []


def test_a_generation_that_is_published_and_the_last_one_pruned_between_two_looks_is_found(scratch: Path) -> None:
    """A reader that finds the new one unfinished and the old one gone looks again, and is right."""
    directory = scratch / "d"
    seal(directory)

    class Between(LocalFiles):
        """Publishes the next generation, and prunes, once it has been looked at."""

        looked = False

        def generations(self) -> list[int]:
            found = super().generations()
            if not self.looked:
                self.looked = True
                found.append(1)  # being written: it has no generation.json yet
            return found

        def has(self, name: str) -> bool:
            there = super().has(name)
            if name == "generation-0001/generation.json" and not there:
                reseal(directory, [0], "removal-0")
                prune(directory)
            return there

    with DatasetReader.open(Between(directory)) as reader:
        assert reader.generation.number == 1


def test_a_damaged_shard_is_not_resealed(dataset: Path) -> None:
    """A reseal never gives damaged bytes a fresh digest."""
    flip(dataset / "generation-0000" / "shard-000000.tar", 4000)
    with pytest.raises(IntegrityError, match=r"shard-000000\.tar"):
        reseal(dataset, [0], "removal-1")
    assert not (dataset / "generation-0001" / "generation.json").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.integers(1, 17),
    shard_slots=st.integers(1, 6),
    empty=st.frozensets(st.integers(0, 16), max_size=6),
    removals=st.lists(st.frozensets(st.integers(0, 16), max_size=8), max_size=3),
)
def test_reseal_and_removed_are_disjoint(
    scratch: Path,
    slots: int,
    shard_slots: int,
    empty: frozenset[int],
    removals: list[frozenset[int]],
) -> None:
    """After any series of removals the live samples are those sealed less those removed, each unchanged."""
    directory = scratch / "d"
    write_dataset(directory, manifest(slots), commitments(slots), samples(slots, empty), shard_slots)
    gone = set(empty)
    for number, removed in enumerate(removals):
        removed = {i for i in removed if i < slots}
        reseal(directory, removed, f"removal-{number}")
        prune(directory)
        gone |= removed
        assert list(samples_in(directory)) == list(samples(slots, gone))
        assert not any(lies_under(directory, i) for i in removed)
    shutil.rmtree(directory)
