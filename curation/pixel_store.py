"""The pixels that are kept: our JPEGs by the sha256 of the original bytes, in packs."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from policy.durable import sync_directory
from policy.errors import InputError, IntegrityError, StorageError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBERS = count()

# A pack: JPEGs one after another, a record for each, the trailer. Of a picture that was deleted all are zeros.
_RECORD = struct.Struct("<32sQII")  # sha256 of the original bytes, offset, bytes, CRC-32 of the JPEG
_TRAILER = struct.Struct("<QQ8s")  # offset of the records, how many they are
_MAGIC = b"pixels01"
_AS_ARRAY = np.dtype([("sha", "u1", (32,)), ("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
_TICK_NS = 2_000_000_000  # the coarsest clock of a file system


class PixelStore:
    """JPEGs in files of many; a picture is whole or absent, whatever is killed and whenever the power goes.

    A million pictures can be neither flushed nor named one by one. So `put` appends to a pack that has a temporary
    name, and `settle` writes behind them what is in it, flushes it, and gives it its name (POSIX rename is atomic): a
    pack that has a name is whole. After a kill or a power cut a picture that was not settled is absent, and what is
    left of it is a temporary file that `policy.durable.sweep_unfinished` removes. Until it is settled a picture is here
    for this object alone. Settle before the file that speaks of the pictures gets its name::

        store.put(sha256, jpeg) …
        store.settle()
        write_part(…)           # a part that exists has its pixels

    `delete` overwrites a picture where it lies, gives its place back to the file system, and then forgets its digest;
    a pack whose last picture went goes with it. Not for several threads; other processes may use the same directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: _OpenPack | None = None
        self._index = _Index(directory)
        self._relied_on = False  # a pack of somebody else's, whose name may not be on the disk yet

    def put(self, content_sha256: str, jpeg: bytes) -> None:
        """Write a picture, durable with the next `settle`; one that is here already, the same, is left alone.

        Raises StorageError when the disk refuses, InputError where there are no bytes.
        """
        key = _key(content_sha256)
        if not jpeg:
            raise InputError("a picture without bytes cannot be kept", where=content_sha256)
        try:
            if self._open is not None and key in self._open.entries:
                if self._open.read(key) == jpeg:
                    return
                self._open.drop(key)
            elif any(entry.read() == jpeg for entry in self._index.find(key)[-1:]):
                self._relied_on = True
                return
            if self._open is None:
                self._open = _OpenPack(self.directory)
            self._open.append(key, jpeg)
        except OSError as error:
            raise _refused(error, self.directory) from error

    def settle(self) -> None:
        """Make every put since the last call durable; raises StorageError, and may then be called again."""
        try:
            if self._relied_on:
                sync_directory(self.directory)
                self._relied_on = False
            if self._open is None:
                return
            self._open.finish()
            # Of each digest one copy is kept: those that these take the place of go.
            former = [entry for key in self._open.entries for entry in self._index.find(key)]
            self._open = None
            _erase(former)
            if former:
                self._index.forget()
            self._index.refresh()
        except OSError as error:
            raise _refused(error, self.directory) from error

    def discard(self) -> None:
        """Drop what was put and not settled."""
        if self._open is not None:
            self._open.discard()
            self._open = None

    def get(self, content_sha256: str) -> bytes:
        """The JPEG; raises InputError when it is not here."""
        key = _key(content_sha256)
        held = self._open.read(key) if self._open is not None and key in self._open.entries else None
        if held is None:
            self._index.refresh()
            held = next(filter(None, (entry.read() for entry in reversed(self._index.find(key)))), None)
        if held is None:
            where = f"{self.directory}, {content_sha256}"
            raise InputError("the picture's pixels are not kept", where=where, remedy="Crawl it again")
        return held

    def delete(self, content_sha256: str) -> bool:
        """Remove a picture for good; False when there was none."""
        return self.delete_all([content_sha256]) > 0

    def delete_all(self, content_sha256s: Iterable[str]) -> int:
        """Remove pictures for good; how many of them were here. Raises StorageError."""
        keys, gone, entries = [_key(sha) for sha in content_sha256s], set(), []
        self._index.refresh()
        try:
            for key in keys:
                if self._open is not None and self._open.drop(key):
                    gone.add(key)
                if found := self._index.find(key):
                    entries += found
                    gone.add(key)
            _erase(entries)
        except OSError as error:
            raise _refused(error, self.directory) from error
        if entries:
            self._index.forget()
        return len(gone)

    def __contains__(self, content_sha256: str) -> bool:
        key = _key(content_sha256)
        if self._open is not None and key in self._open.entries:
            return True
        self._index.refresh()
        return any(entry.is_there(key) for entry in self._index.find(key))

    def keys(self) -> Iterator[str]:
        """The sha256 of every picture that is settled, sorted."""
        self._index.refresh()
        return self._index.keys()


# ── packs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a picture lies. `record`: the offset of what the pack says of it."""

    pack: Path
    offset: int
    length: int
    crc: int
    record: int

    def read(self) -> bytes | None:
        """The JPEG; None where it was deleted meanwhile, or is no longer what it was."""
        held = self._pread(self.length, self.offset)
        return held if len(held) == self.length and zlib.crc32(held) == self.crc else None

    def is_there(self, key: bytes) -> bool:
        """Whether nobody has deleted it meanwhile."""
        return self._pread(len(key), self.record) == key

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            descriptor = os.open(self.pack, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


class _OpenPack:
    """A pack that is written, under a temporary name."""

    def __init__(self, directory: Path) -> None:
        # Names sort by time: of two copies of a picture the later counts.
        self.path = directory / f"{time.time_ns():020d}-{os.getpid()}-{next(_NUMBERS)}.pack"
        self.entries: dict[bytes, _Entry] = {}
        self._temporary = directory / f".{self.path.name}.{os.getpid()}.tmp"
        self._end = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            self._descriptor = os.open(self._temporary, flags, 0o644)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
            sync_directory(directory.parent)
            self._descriptor = os.open(self._temporary, flags, 0o644)

    def append(self, key: bytes, jpeg: bytes) -> None:
        self._write(jpeg, self._end)
        self.entries[key] = _Entry(self._temporary, self._end, len(jpeg), zlib.crc32(jpeg), 0)
        self._end += len(jpeg)

    def _write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # a full disk may take a part, and then say so
            written += os.pwrite(self._descriptor, data[written:], offset + written)

    def read(self, key: bytes) -> bytes:
        entry = self.entries[key]
        return os.pread(self._descriptor, entry.length, entry.offset)

    def drop(self, key: bytes) -> bool:
        """Forget a picture; whether it was here."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return False
        _zero(self._descriptor, entry.offset, entry.length)
        return True

    def finish(self) -> None:
        """Write what is in the pack behind it, make it durable and give it its name; may be called again."""
        if not self.entries:
            self.discard()
            return
        records = b"".join(_RECORD.pack(key, e.offset, e.length, e.crc) for key, e in self.entries.items())
        self._write(records + _TRAILER.pack(self._end, len(self.entries), _MAGIC), self._end)
        if not self.path.exists():  # named, and not known to be durable, by a call before
            os.ftruncate(self._descriptor, self._end + len(records) + _TRAILER.size)  # half a picture may lie behind it
            os.fsync(self._descriptor)
            os.replace(self._temporary, self.path)
        sync_directory(self.path.parent)
        os.close(self._descriptor)

    def discard(self) -> None:
        os.close(self._descriptor)
        self._temporary.unlink(missing_ok=True)


def _erase(entries: Collection[_Entry]) -> None:
    """Overwrite pictures, and only when that is durable their records; packs that hold no more go. Raises OSError."""
    by_pack: dict[Path, list[_Entry]] = {}
    for entry in entries:
        by_pack.setdefault(entry.pack, []).append(entry)
    for path, gone in by_pack.items():
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            for entry in gone:
                _zero(descriptor, entry.offset, entry.length)
            os.fsync(descriptor)
            for entry in gone:
                os.pwrite(descriptor, bytes(_RECORD.size), entry.record)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not len(_records(path)[0]):
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        os.utime(path.parent)  # others look at the packs again when their directory has changed


def _zero(descriptor: int, offset: int, length: int) -> None:
    """Overwrite a range; where the file system can, its blocks are given back (fallocate(2), FALLOC_FL_PUNCH_HOLE)."""
    if length == 0:
        return
    punch = _fallocate()
    keep_size_and_punch_hole = 0x01 | 0x02
    if punch is not None and punch(descriptor, keep_size_and_punch_hole, offset, length) == 0:
        return
    if punch is not None and (number := ctypes.get_errno()) not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise OSError(number, os.strerror(number))
    for start in range(0, length, 1 << 20):
        os.pwrite(descriptor, bytes(min(1 << 20, length - start)), offset + start)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        found = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return cast("Callable[[int, int, int, int], int]", found)


# ── what is in them ──────────────────────────────────────────────────────────────────────────────────────────────

# Of each picture the first four bytes of its digest, and its pack's place in the list of names.
_KNOWN = np.dtype([("prefix", "<u4"), ("pack", "<u4")])
_SEGMENTS = 8  # that a search looks through; merging the small ones costs less than sorting all with every pack
_PACKS_AT_HAND = 16  # whose records are kept in memory


class _Index:
    """Which packs may hold which picture: of all that had a name when they were last looked for.

    8 bytes a picture in memory; the pack itself says whether it does. Packs that came are sorted by themselves, and
    merged when there are many.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changed_ns: int | None = None
        self._packs: list[str] = []
        self._written_ns: dict[str, int] = {}
        self._segments: list[npt.NDArray[np.void]] = []
        self._at_hand: OrderedDict[str, _Records] = OrderedDict()

    def find(self, key: bytes) -> list[_Entry]:
        """Every copy of a picture, the latest last."""
        if self._changed_ns is None:
            self.refresh()
        wanted = np.uint32(int.from_bytes(key[:4], "big"))
        packs: set[str] = set()
        for known in self._segments:
            first, last = known["prefix"].searchsorted(wanted), known["prefix"].searchsorted(wanted, "right")
            packs.update(self._packs[pack] for pack in known["pack"][first:last])
        return [entry for pack in sorted(packs) for entry in self._entries(pack, key)]

    def _entries(self, pack: str, key: bytes) -> Iterator[_Entry]:
        try:
            records, places = self._records_of(pack)
        except FileNotFoundError:
            return  # its last picture has just been deleted
        for number in np.flatnonzero((records["sha"] == np.frombuffer(key, np.uint8)).all(axis=1)):
            record = records[number]
            offset, length, crc = (int(record[name]) for name in ("offset", "length", "crc"))
            yield _Entry(self._directory / pack, offset, length, crc, int(places[number]))

    def _records_of(self, pack: str) -> _Records:
        found = self._at_hand.get(pack)
        if found is None:
            found = self._at_hand[pack] = _records(self._directory / pack)
            if len(self._at_hand) > _PACKS_AT_HAND:
                self._at_hand.popitem(last=False)
        self._at_hand.move_to_end(pack)
        return found

    def keys(self) -> Iterator[str]:
        digits = set()
        for pack in self._packs:
            with suppress(FileNotFoundError):
                shas = _records(self._directory / pack)[0]["sha"].tobytes().hex()
                digits |= {shas[at : at + 64] for at in range(0, len(shas), 64)}
        return iter(sorted(digits))

    def forget(self) -> None:
        """Something was deleted: what was read is read again before it is used."""
        self._changed_ns, self._packs, self._written_ns, self._segments = None, [], {}, []
        self._at_hand.clear()

    def refresh(self) -> None:
        """Read the packs that came since. Raises IntegrityError where one is damaged."""
        try:
            changed_ns = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            self.forget()
            self._changed_ns = 0
            return
        if changed_ns == self._changed_ns:
            return
        with os.scandir(self._directory) as found:
            named = [entry for entry in found if entry.name.endswith(".pack") and entry.name[0] != "."]
        there = {}
        for entry in named:
            with suppress(FileNotFoundError):  # its last picture has just been deleted
                there[entry.name] = entry.stat().st_mtime_ns
        if any(there.get(name) != written_ns for name, written_ns in self._written_ns.items()):
            self.forget()  # pictures of it were deleted, or all
        for name in sorted(there.keys() - self._written_ns.keys()):
            with suppress(FileNotFoundError):
                self._add(name)
                self._written_ns[name] = there[name]
        # Two changes within a tick of the file system's clock look like one.
        self._changed_ns = changed_ns if time.time_ns() - changed_ns > _TICK_NS else 0

    def _add(self, name: str) -> None:
        shas = _records(self._directory / name)[0]["sha"]
        known = np.zeros(len(shas), _KNOWN)
        known["prefix"] = np.ascontiguousarray(shas[:, :4]).view(">u4")[:, 0]
        known["pack"] = len(self._packs)
        self._packs.append(name)
        self._segments.append(known[np.argsort(known["prefix"], kind="stable")])
        if len(self._segments) > _SEGMENTS:
            self._segments.sort(key=len)
            small, self._segments = self._segments[: _SEGMENTS - 2], self._segments[_SEGMENTS - 2 :]
            merged = np.concatenate(small)
            self._segments.append(merged[np.argsort(merged["prefix"], kind="stable")])


# A pack's records, and the offset of each.
_Records = tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]


def _records(pack: Path) -> _Records:
    """A pack's records of what was not deleted, and the offset of each. Raises IntegrityError."""
    with open(pack, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        trailer = os.pread(file.fileno(), _TRAILER.size, max(0, size - _TRAILER.size))
        if len(trailer) == _TRAILER.size:
            begin, number, magic = _TRAILER.unpack(trailer)
            if magic == _MAGIC and begin + number * _RECORD.size + _TRAILER.size == size:
                records = np.frombuffer(os.pread(file.fileno(), number * _RECORD.size, begin), _AS_ARRAY)
                there = np.flatnonzero(records["length"])
                return records[there], begin + there * _RECORD.size
    raise IntegrityError(
        "a pack of kept pixels is damaged", where=str(pack), remedy="Delete it and crawl again what it held"
    )


# ── on the disk ──────────────────────────────────────────────────────────────────────────────────────────────────


def _key(content_sha256: str) -> bytes:
    """The digest as bytes; raises InputError for what is none."""
    if not _SHA256.fullmatch(content_sha256):
        raise InputError("not a sha256 in hex", where=repr(content_sha256[:80]))
    return bytes.fromhex(content_sha256)


def _refused(error: OSError, path: Path) -> StorageError:
    what = f"the pictures could not be written ({error.strerror or error})"
    return StorageError(what, where=str(path), remedy="Free some space")
