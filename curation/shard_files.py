"""What a sealed dataset is made of, and where its files lie: names, rows, headers, and the directory that holds them.

A dataset is named by its directory, or by `DatasetFiles` where its files lie elsewhere: curation/remote.py keeps them
in an object store, under the same names and with the same bytes. What they hold, curation/shards.py draws.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import re
import shutil
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from policy.durable import sweep_unfinished, sync_directory, write_durably
from policy.errors import BusyError, InputError, IntegrityError, StorageError
from policy.provenance import ShardManifest

IMAGE_EXTENSIONS = ("jpg", "webp")
COMMITMENT_BYTES = 32

INDEX_DTYPE = np.dtype(
    [
        ("ordinal", "<i8"),
        ("image_offset", "<i8"),
        ("text_offset", "<i8"),
        ("json_offset", "<i8"),
        ("image_length", "<i4"),
        ("text_length", "<i4"),
        ("json_length", "<i4"),
        ("live", "u1"),
        ("image_ext", "u1"),  # place in IMAGE_EXTENSIONS
        ("reserved", "u1", (2,)),
        ("key", "u1", (16,)),
    ]
)
"""A slot's row: offsets of the members' data from the start of the tar. An empty slot is zero but for its ordinal."""

INDEX_ROW = struct.Struct("<qqqqiiiBB2x16s")
BLOCK_BYTES = 512
TAR_END = bytes(2 * BLOCK_BYTES)  # two zero blocks close a tar (POSIX.1-2017, pax, "ustar Interchange Format")
COPY_BYTES = 8 << 20
_GENERATION_NAME = re.compile(r"generation-([0-9]{4,})")
RESTORE = "Restore the file from a copy, or delete the dataset's directory and seal it again"


@dataclass(frozen=True, slots=True)
class SealedSample:
    """One slot's content as it goes into a shard. `key`: 32 hex digits; `metadata_json`: one JSON object."""

    ordinal: int
    key: str
    image: bytes
    image_ext: str
    caption: str
    metadata_json: str


class DatasetFiles(Protocol):
    """Where the files of one dataset lie. Names are relative to it: "dataset.json", "generation-0000/…"."""

    @property
    def keep_bytes(self) -> int | None:
        """None: tars are local files, mapped when a dataset is opened. Else they are fetched when first asked for,
        and a reader keeps so many bytes of them mapped (one shard at least).
        """

    def where(self, name: str = "") -> str:
        """How messages call a file."""

    def make(self) -> None:
        """Prepares the place for a dataset."""

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other writers out; BusyError while there is one, InputError where there is no dataset."""

    def generations(self) -> list[int]:
        """The numbers of all generations, unfinished ones included, ascending."""

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """A whole file; IntegrityError when it cannot be read."""

    def create(self, name: str, data: bytes) -> None:
        """Writes a whole file or none."""

    def begin(self, number: int, *, anew: bool) -> Path:
        """The local directory that a generation's shards are written in. `anew`: nothing of it may lie there yet."""

    def keep(self, number: int, shard: ShardManifest) -> None:
        """Takes a shard that stands written in that directory into the generation."""

    def reuse(self, source: int, number: int, shard: ShardManifest) -> None:
        """Takes a shard over from an earlier generation, as it is."""

    def tidy(self, number: int, known: Collection[str]) -> None:
        """Takes away what is in a generation beside these files, so that nothing of an earlier attempt stays."""

    def drop(self, number: int) -> None:
        """Takes a generation away, its generation.json first."""

    def sweep(self, number: int) -> None:
        """Takes away what killed writers and overwriting left behind, in the dataset and in this generation."""

    def open_tar(self, number: int, shard: ShardManifest, *, fresh: bool = False) -> mmap.mmap:
        """A shard's tar, of the right size; IntegrityError otherwise. `fresh`: not from a cache."""

    def check_present(self, number: int, shards: Sequence[ShardManifest]) -> None:
        """IntegrityError for a tar that is missing or of another size, where that is known without opening it."""

    def strays(self, number: int, known: Collection[str]) -> list[str]:
        """What lies in a generation and does not belong there, as messages."""


Dataset: TypeAlias = "Path | DatasetFiles"


# ── names, rows, headers ─────────────────────────────────────────────────────────────────────────────────────────


def member_header(name: str, size_bytes: int) -> bytes:
    """A ustar header of a regular file: mode 0644, owner, group and time 0 (POSIX.1-2017, pax)."""
    stem, size = name.encode("ascii"), b"%011o" % size_bytes
    checksum = b"%06o\0 " % (_HEADER_SUM + sum(stem) + sum(size))
    return b"".join((stem, _HEADER[len(stem) : 124], size, _HEADER[135:148], checksum, _HEADER[156:]))


def _blank_header() -> bytes:
    header = bytearray(BLOCK_BYTES)
    for at, text in ((100, b"0000644"), (108, b"0000000"), (116, b"0000000"), (136, b"00000000000"), (156, b"0")):
        header[at : at + len(text)] = text
    for at, text in ((257, b"ustar\x0000"), (329, b"0000000"), (337, b"0000000")):
        header[at : at + len(text)] = text
    return bytes(header)


_HEADER = _blank_header()
_HEADER_SUM = sum(_HEADER) + 8 * 0x20  # the checksum field counts as eight spaces


def index_name(shard: ShardManifest) -> str:
    """The file that holds a shard's index, beside its tar."""
    return f"{shard.path.removesuffix('.tar')}.index.npy"


def generation_name(number: int) -> str:
    """The directory of a generation."""
    return f"generation-{number:04d}"


def generation_number(name: str) -> int | None:
    """The generation that a directory of this name holds; None when it is none's."""
    found = _GENERATION_NAME.fullmatch(name)
    return int(found[1]) if found else None


def is_json_object(text: str) -> bool:
    """Whether a text is what a member <key>.json may hold."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def names_of(shards: Iterable[ShardManifest]) -> frozenset[str]:
    """Every file of these shards within their generation."""
    return frozenset(name for shard in shards for name in (shard.path, index_name(shard)))


def empty_rows(first_ordinal: int, slots: int) -> npt.NDArray[np.void]:
    """The index of a shard that holds nothing: INDEX_DTYPE [slots]."""
    rows: npt.NDArray[np.void] = np.zeros(slots, INDEX_DTYPE)
    rows["ordinal"] = np.arange(first_ordinal, first_ordinal + slots)
    return rows


# ── generations ──────────────────────────────────────────────────────────────────────────────────────────────────


def is_complete(files: DatasetFiles, number: int) -> bool:
    """Whether a generation has its generation.json."""
    return files.has(f"{generation_name(number)}/generation.json")


def newest_generation(files: DatasetFiles) -> int | None:
    """The highest complete generation, None where there is none."""
    # One that was not complete when it was looked at may be so, and the one before it pruned, by the time that is
    # looked at: so nothing found is looked for again.
    for _ in range(_LOOKS):
        for number in reversed(files.generations()):
            if is_complete(files, number):
                return number
    return None


_LOOKS = 3


def current_generation(files: DatasetFiles) -> int:
    """The same; IntegrityError where there is none."""
    number = newest_generation(files)
    if number is None:
        remedy = "Run the sealing again: it goes on where it stopped"
        raise IntegrityError("no generation is complete", where=files.where(), remedy=remedy)
    return number


# ── a directory ──────────────────────────────────────────────────────────────────────────────────────────────────


def files_of(dataset: Dataset) -> DatasetFiles:
    """Where the files of a dataset lie that is named by its directory, or by them."""
    return LocalFiles(dataset) if isinstance(dataset, Path) else dataset


class LocalFiles:
    """A dataset in a directory: shards are written where they stay, linked from one generation to the next, mapped."""

    keep_bytes = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def where(self, name: str = "") -> str:
        return str(self.directory / name)

    def make(self) -> None:
        with storing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def locked(self) -> AbstractContextManager[None]:
        return lock_directory(self.directory, where=str(self.directory))

    def generations(self) -> list[int]:
        names = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        return sorted(number for name in names if (number := generation_number(name)) is not None)

    def has(self, name: str) -> bool:
        return (self.directory / name).is_file()

    def read(self, name: str) -> bytes:
        with _opened(self.directory / name) as file:
            return file.read()

    def create(self, name: str, data: bytes) -> None:
        path = self.directory / name
        with storing(path):
            sweep_unfinished(path.parent, below=False)  # what a killed writer of it left
            write_durably(path, data)

    def begin(self, number: int, *, anew: bool) -> Path:
        directory = self.directory / generation_name(number)
        with storing(directory):
            if anew:
                shutil.rmtree(directory, ignore_errors=True)  # what a killed reseal left
            directory.mkdir(exist_ok=True)
        return directory

    def keep(self, number: int, shard: ShardManifest) -> None:
        """It lies where it belongs."""

    def reuse(self, source: int, number: int, shard: ShardManifest) -> None:
        for name in (shard.path, index_name(shard)):
            old, new = (self.directory / generation_name(n) / name for n in (source, number))
            with storing(new):
                try:
                    os.link(old, new, follow_symlinks=False)
                except FileNotFoundError as error:
                    raise IntegrityError("the file is missing", where=str(old), remedy=RESTORE) from error
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS):
                        raise
                    # A file system without hard links: a copy costs space, nothing else.
                    shutil.copyfile(old, new)
                    with new.open("rb") as copy:
                        os.fsync(copy.fileno())

    def tidy(self, number: int, known: Collection[str]) -> None:
        directory = self.directory / generation_name(number)
        with storing(directory):
            for path in directory.iterdir():
                if path.name not in known:
                    path.unlink()
            sync_directory(directory)
            sync_directory(directory.parent)

    def drop(self, number: int) -> None:
        directory = self.directory / generation_name(number)
        with storing(directory):
            # generation.json goes first, so that a half-dropped generation never passes for a complete one.
            (directory / "generation.json").unlink(missing_ok=True)
            if directory.is_dir():
                sync_directory(directory)
                shutil.rmtree(directory)
                sync_directory(directory.parent)

    def sweep(self, number: int) -> None:
        with storing(self.directory):
            for directory in (self.directory, self.directory / generation_name(number)):
                for leftover in directory.glob(".*.tmp"):
                    leftover.unlink()

    def open_tar(self, number: int, shard: ShardManifest, *, fresh: bool = False) -> mmap.mmap:
        return map_tar(self.directory / generation_name(number) / shard.path, shard.size_bytes)

    def check_present(self, number: int, shards: Sequence[ShardManifest]) -> None:
        """Opening them says it."""

    def strays(self, number: int, known: Collection[str]) -> list[str]:
        directory = self.directory / generation_name(number)
        present: set[str] = set()
        with suppress(FileNotFoundError):  # a prune was faster
            present.update(os.listdir(directory))
        return [f"{directory / name}: no file of this dataset. Move it away" for name in sorted(present - set(known))]


def map_tar(path: Path, size_bytes: int) -> mmap.mmap:
    """A file of just this size, mapped; IntegrityError otherwise."""
    tar = map_file(path)
    if len(tar) != size_bytes:
        found = len(tar)
        tar.close()
        what = f"{found} bytes where {size_bytes} were sealed: truncated or overgrown"
        raise IntegrityError(what, where=str(path), remedy=RESTORE)
    return tar


@contextmanager
def lock_directory(directory: Path, *, where: str) -> Iterator[None]:
    """One writer a dataset; the lock goes with its process, however that ends."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"there is no dataset ({error.strerror})", where=where) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError("another process is sealing this dataset", where=where) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """What the disk refuses as a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        remedy = "Free some space or mend the permissions and run it again: finished shards are kept"
        raise StorageError(f"cannot write ({error.strerror or error})", where=str(path), remedy=remedy) from error


def tmp_of(path: Path) -> Path:
    """The name of a file while it is being written."""
    return path.with_name(f".{path.name}.tmp")


def sync_and_close(file: BinaryIO) -> None:
    """Flushed to the disk, then closed. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def map_file(path: Path) -> mmap.mmap:
    """A regular, non-empty file, mapped for reading; IntegrityError otherwise."""
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise IntegrityError("the file is empty", where=str(path), remedy=RESTORE)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading; a symbolic link is refused, it may lead anywhere."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StorageError("too many open files", where=str(path), remedy="Raise ulimit -n") from error
        reason = "a symbolic link" if error.errno == errno.ELOOP else (error.strerror or "unreadable").lower()
        raise IntegrityError(f"the file cannot be read ({reason})", where=str(path), remedy=RESTORE) from error
    with file:
        yield file
