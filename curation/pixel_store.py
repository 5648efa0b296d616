"""The pixels that are kept: our JPEGs by the sha256 of the original bytes."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import cast

from policy.durable import sync_directory, sync_file
from policy.errors import InputError, StorageError

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A flush of the whole file system costs about what so many files cost one by one.
_ONE_BY_ONE = 16
_NUMBERS = count()


class PixelStore:
    """JPEGs as files `<aa>/<sha256>.jpg`; a picture is whole or absent, whatever is killed and whenever the power goes.

    A million pictures cannot be flushed one by one. So `put` writes under a temporary name and flushes nothing, and
    `settle` flushes all that was put since and only then gives each its name (POSIX rename is atomic), and flushes the
    names. A name therefore never stands over bytes that the disk has not got: after a kill or a power cut a picture
    that was not settled is absent, and what is left of it is a temporary file that `policy.durable.sweep_unfinished`
    removes. Until it is settled a picture is here for this object alone.

    Settle before the file that speaks of the pictures gets its name::

        store.put(sha256, jpeg) …
        store.settle()
        write_part(…)           # a part that exists has its pixels
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._unsettled: dict[str, str] = {}  # sha256 -> the temporary file
        self._unsynced: set[Path] = set()  # folders with names that may not be on the disk yet

    def path(self, content_sha256: str) -> Path:
        """Where a picture is or would be; raises InputError for what is no sha256, so that none can name a path."""
        if not _SHA256.fullmatch(content_sha256):
            raise InputError("not a sha256 in hex", where=repr(content_sha256[:80]))
        return self.directory / content_sha256[:2] / f"{content_sha256}.jpg"

    def put(self, content_sha256: str, jpeg: bytes) -> None:
        """Write a picture, durable with the next `settle`; one that is here already, the same, is left alone.

        Raises StorageError when the disk refuses.
        """
        path = self.path(content_sha256)
        try:
            held = self._unsettled.get(content_sha256)
            if _read(held or path) == jpeg:
                self._unsynced.add(path.parent)  # somebody else may have named it a moment ago
                return
            temporary = held or f"{path.parent}/.{path.name}.{next(_NUMBERS)}.{os.getpid()}.tmp"
            self._unsettled[content_sha256] = temporary
            _write(temporary, jpeg)
        except OSError as error:
            self._forget(content_sha256)
            raise _refused(error, path) from error

    def settle(self) -> None:
        """Make every put since the last call durable; raises StorageError, and may then be called again.

        By syncfs(2) where there are many: it flushes the whole file system once, for what each fsync would cost.
        """
        if not self._unsettled and not self._unsynced:
            return
        path = self.directory
        try:
            many = len(self._unsettled) + len(self._unsynced) > _ONE_BY_ONE
            if not (many and _sync_file_system(self.directory)):
                for temporary in self._unsettled.values():
                    path = Path(temporary)
                    sync_file(path)
            for sha, temporary in list(self._unsettled.items()):
                path = self.path(sha)
                os.replace(temporary, path)
                self._unsynced.add(path.parent)
                del self._unsettled[sha]
            if not (many and _sync_file_system(self.directory)):
                for path in (*self._unsynced, self.directory, self.directory.parent):  # each may be new
                    sync_directory(path)
        except OSError as error:
            raise _refused(error, path) from error
        self._unsynced.clear()

    def discard(self) -> None:
        """Drop what was put and not settled."""
        for sha in list(self._unsettled):
            self._forget(sha)

    def get(self, content_sha256: str) -> bytes:
        """The JPEG; raises InputError when it is not here."""
        path = self.path(content_sha256)
        held = _read(self._unsettled.get(content_sha256) or path)
        if held is None:
            raise InputError("the picture's pixels are not kept", where=str(path), remedy="Crawl it again")
        return held

    def delete(self, content_sha256: str) -> bool:
        """Remove a picture for good; False when there was none."""
        path = self.path(content_sha256)
        dropped = self._forget(content_sha256)
        try:
            path.unlink()
        except FileNotFoundError:
            return dropped
        sync_directory(path.parent)
        return True

    def __contains__(self, content_sha256: str) -> bool:
        return content_sha256 in self._unsettled or self.path(content_sha256).exists()

    def keys(self) -> Iterator[str]:
        """The sha256 of every picture that is settled, sorted."""
        if not self.directory.is_dir():
            return
        for folder in sorted(self.directory.iterdir()):
            if folder.is_dir():
                yield from sorted(p.stem for p in folder.glob("*.jpg") if _SHA256.fullmatch(p.stem))

    def _forget(self, content_sha256: str) -> bool:
        temporary = self._unsettled.pop(content_sha256, None)
        if temporary is None:
            return False
        Path(temporary).unlink(missing_ok=True)
        return True


def _refused(error: OSError, path: Path) -> StorageError:
    what = f"the picture could not be written ({error.strerror or error})"
    return StorageError(what, where=str(path), remedy="Free some space")


def _read(path: str | Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return file.readall()


def _write(path: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    try:
        written = os.write(descriptor, data)
        while written < len(data):  # a full disk may take a part, and then say so
            written += os.write(descriptor, data[written:])
    finally:
        os.close(descriptor)


def _sync_file_system(directory: Path) -> bool:
    """syncfs(2); False where there is none, or none that reports what could not be written (Linux before 5.8)."""
    syncfs = _syncfs()
    if syncfs is None:
        return False
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
    return True


@cache
def _syncfs() -> Callable[[int], int] | None:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if sys.platform != "linux" or release is None or (int(release[1]), int(release[2])) < (5, 8):
        return None
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None, use_errno=True).syncfs)
    except (OSError, AttributeError):
        return None
