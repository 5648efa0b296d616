"""The needle scan: everything under a home is read, to prove that nothing of what was removed is left in it.

All files, hidden ones too, their names, extended attributes and what links name; within them whatever
`containers.Looking` opens. What could not be read is never called clean. A report says of a hit its kind and its place;
where a name is the hit, its directory and its number there.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from flows.stages.removing.containers import FileSource, Found, Looking, SourceFile, format_of, look_into_duckdb
from flows.stages.removing.likeness import Pictures
from flows.stages.removing.needles import Needles, gather
from flows.stages.removing.searching import Search
from flows.terminal import Progress, silent
from policy.column_scan import ColumnScan
from policy.errors import CustodyError, InputError

if TYPE_CHECKING:
    from curation.storage import ObjectStore, Version
    from flows.home import Home

PARALLEL_BYTES: Final = 256 << 20  # a smaller home is read before processes of its own have started
_TASK_BYTES: Final = 32 << 20
_TASK_FILES: Final = 500
_DUCKDB_ALONE_BYTES: Final = 64 << 20  # from here on each table of a DuckDB file is a task
_RANGE_BYTES: Final = 8 << 20  # of an object, at once
_PLACES: Final = 50  # that are told apart in one file
_ODD: Final = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """Something of what was removed. `where`: relative to the home; `kind`: of needle; `count`: of places."""

    where: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True, order=True)
class Unread:
    """A place and why it was not read, or not looked into."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan read and found. It holds no value that was looked for.

    `clean`: everything was read, and nothing found. `bytes`: of files as they lie on disk. `pictures`: that were
    compared; `alike`: that are as near to one which stays as to one that was removed. `skipped`: what has no bytes of
    its own. `needles`: forms that were looked for, by kind; `too_common`, `shared`: values that were not (`Needles`).
    """

    clean: bool
    files: int
    bytes: int
    pictures: int
    hits: tuple[Hit, ...]
    unread: tuple[Unread, ...]
    skipped: tuple[Unread, ...]
    alike: int
    needles: Mapping[str, int]
    too_common: Mapping[str, int]
    shared: Mapping[str, int]
    seconds: float

    def is_clean(self, *, allowing: Collection[str] = ()) -> bool:
        """Nothing was found, and what was not read is in one of the places that are named, or in none."""
        return not self.hits and all(one.where in allowing for one in self.unread)

    def counted(self) -> dict[str, object]:
        """What a receipt says of it: figures by kind, and no place."""
        hits: Counter[str] = Counter()
        for hit in self.hits:
            hits[hit.kind] += hit.count
        figures = {name: getattr(self, name) for name in ("clean", "files", "bytes", "pictures", "alike", "seconds")}
        kinds = {name: dict(getattr(self, name)) for name in ("needles", "too_common", "shared")}
        return figures | kinds | {"hits": dict(sorted(hits.items())), "unread": len(self.unread)}


def needles_of(home: Home, removal_ids: Sequence[str], values: Sequence[str] = ()) -> Needles:
    """What requests that are not applied yet are looked for by, and values that somebody names beside.

    Raises:
        InputError: nothing is named, or no such request. RefusedError: a request is applied, its needles are gone.
    """
    found = [Needles.of_values(values)] if values or not removal_ids else []
    if removal_ids:
        with home.ledger(readonly=True) as ledger:
            found.append(gather(home, ledger, removal_ids))
    return found[0] if len(found) == 1 else found[0].joined(found[1])


def scan(home_path: Path, needles: Needles, *, workers: int = 0, progress: Progress = silent) -> ScanReport:
    """Read everything under a directory. Not while this process has a ledger in it open.

    `workers`: processes; 0: as many as there are cores, and none for a small home. Memory: some chunks of 4 MiB a
    process, and up to 64 MiB of what lies within something else.

    Raises:
        InputError: there is no such directory.
    """
    if not home_path.is_dir():
        raise InputError("there is no such directory", where=str(home_path))
    began = time.perf_counter()
    search = Search(needles.patterns)
    walk = _Walk(home_path, search)
    tasks = list(_tasks(walk.files))
    total = sum(file.size for file in walk.files)
    found = walk.found
    for done, part in enumerate(_results(tasks, needles, search, workers, total), 1):
        found.merge(part)
        progress(done, len(tasks), "needle scan")
    return _report(found, len(walk.files), tuple(walk.skipped), needles, time.perf_counter() - began)


def scan_home(home: Home, needles: Needles, *, workers: int = 0, progress: Progress = silent) -> ScanReport:
    """`scan` of a home and of its datasets, wherever they lie: in it, elsewhere on disk, or in an object store.

    Raises:
        StorageError: the object store cannot be listed.
    """
    reports = [scan(home.path, needles, workers=workers, progress=progress)]
    if (remote := home.remote_datasets) is not None:
        from curation.storage import ObjectStore

        store = ObjectStore(remote.url, endpoint=home.settings.seal.store_endpoint)
        reports.append(scan_store(store, needles, progress=progress))
    elif home.datasets_path.is_dir() and not home.datasets_path.resolve().is_relative_to(home.path.resolve()):
        reports.append(scan(home.datasets_path, needles, workers=workers, progress=progress))
    return merged(reports)


def scan_store(store: ObjectStore, needles: Needles, *, progress: Progress = silent) -> ScanReport:
    """Read every version of every object below a store, and its names, those under delete markers included.

    Raises:
        StorageError: it cannot be listed.
    """
    began = time.perf_counter()
    search = Search(needles.patterns)
    looking = Looking(search, Pictures(needles.pictures))
    versions = sorted(store.versions(), key=lambda v: (v.name, v.id or ""))
    for number, version in enumerate(versions):
        hits = search.in_bytes(version.name.encode("utf-8", "surrogateescape"))
        where = f"{store.url}, object {number}" if hits.total() else store.where(version.name)
        where += "" if version.newest else f", an older version ({number})"
        looking.found.add(where, hits)
        if not version.deleted:
            try:
                looking.look(_ObjectSource(store, version), where)
            except (CustodyError, OSError) as error:
                looking.found.unread[where] = f"cannot be read ({type(error).__name__})"
        progress(number + 1, len(versions), "needle scan: objects")
    for number, _ in enumerate(store.uploads()):
        looking.found.unread[f"{store.url}, upload {number}"] = "was never finished, and its parts cannot be read"
    files = sum(not version.deleted for version in versions)
    return _report(looking.found, files, (), needles, time.perf_counter() - began)


def merged(reports: Sequence[ScanReport]) -> ScanReport:
    """Reports of several places for the same needles as one."""
    first = reports[0]
    return ScanReport(
        all(r.clean for r in reports),
        sum(r.files for r in reports),
        sum(r.bytes for r in reports),
        sum(r.pictures for r in reports),
        tuple(sorted(hit for r in reports for hit in r.hits)),
        tuple(sorted(one for r in reports for one in r.unread)),
        tuple(sorted(one for r in reports for one in r.skipped)),
        sum(r.alike for r in reports),
        first.needles,
        first.too_common,
        first.shared,
        sum(r.seconds for r in reports),
    )


def _report(found: Found, files: int, skipped: tuple[Unread, ...], needles: Needles, seconds: float) -> ScanReport:
    return ScanReport(
        not found.hits and not found.unread,
        files,
        found.bytes,
        found.pictures,
        tuple(sorted(Hit(where, kind, count) for (where, kind), count in found.hits.items())),
        tuple(sorted(Unread(where, why) for where, why in found.unread.items())),
        tuple(sorted(skipped)),
        found.alike,
        needles.kinds,
        needles.too_common,
        needles.shared,
        round(seconds, 3),
    )


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _File:
    """A file, and its place as a report may tell it."""

    path: Path
    where: str
    size: int


@dataclass(slots=True)
class _Walk:
    """All that lies under a directory; what names, links and attributes hold is found on the way."""

    root: Path
    search: Search
    files: list[_File] = field(default_factory=list)
    skipped: list[Unread] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        waiting = [(self.root, "")]
        while waiting:
            directory, where = waiting.pop()
            try:
                with os.scandir(directory) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.found.unread[where or "."] = f"the directory cannot be read ({error.strerror})"
                continue
            for number, entry in enumerate(found):
                place = self._named(entry, number, where)
                try:
                    state = entry.stat(follow_symlinks=False)
                    self._attributes(entry, place)
                    if stat.S_ISDIR(state.st_mode):
                        waiting.append((Path(entry.path), place))
                    else:
                        self._file(entry, place, state)
                except FileNotFoundError:
                    self.skipped.append(Unread(place, "was gone before it was read"))
                except OSError as error:
                    self.found.unread[place] = f"cannot be read ({error.strerror})"

    def _named(self, entry: os.DirEntry[str], number: int, where: str) -> str:
        """Its place; what its name holds, and its path from the root where a URL became directories, is a hit."""
        name = self.search.in_bytes(os.fsencode(entry.name))
        relative = os.fsencode(os.path.relpath(entry.path, self.root))
        hits = name or self.search.in_bytes(relative) - self.search.in_bytes(os.path.dirname(relative))
        place = f"{where}/" if where else ""
        place += f"(entry {number})" if hits.total() else _printable(entry.name)
        self.found.add(place, hits)
        return place

    def _attributes(self, entry: os.DirEntry[str], place: str) -> None:
        for name in os.listxattr(entry.path, follow_symlinks=False):
            value = os.getxattr(entry.path, name, follow_symlinks=False)
            self.found.add(f"{place}, an extended attribute", self.search.in_bytes(os.fsencode(name) + b"\0" + value))

    def _file(self, entry: os.DirEntry[str], place: str, state: os.stat_result) -> None:
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFLNK:
            self.found.add(f"{place}, the link", self.search.in_bytes(os.fsencode(os.readlink(entry.path))))
            if Path(os.path.realpath(entry.path)).is_relative_to(self.root):
                self.skipped.append(Unread(place, "a link: what it names is read by itself"))
            else:
                self.found.unread[place] = "a link that leads out of the home"
        elif kind in _ODD:
            self.skipped.append(Unread(place, _ODD[kind]))
        elif state.st_nlink > 1 and (state.st_dev, state.st_ino) in self._seen:
            self.skipped.append(Unread(place, "another name of a file that is read"))
        else:
            self._seen.add((state.st_dev, state.st_ino))
            self.files.append(_File(Path(entry.path), place, state.st_size))


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Task:
    """Files to read; or, of one DuckDB file, a table (None: its catalog)."""

    files: tuple[_File, ...]
    table: str | None = None
    columns: bool = False


def _tasks(files: Sequence[_File]) -> Iterator[_Task]:
    """The largest files first, each by itself; then the small ones, many at a time."""
    waiting: list[_File] = []
    size = 0
    for file in sorted(files, key=lambda file: (-file.size, file.where)):
        if file.size >= _DUCKDB_ALONE_BYTES and _is_duckdb(file.path):
            for table in _tables(file.path):
                yield _Task((file,), table, columns=True)
        waiting.append(file)
        size += file.size
        if size >= _TASK_BYTES or len(waiting) >= _TASK_FILES:
            yield _Task(tuple(waiting))
            waiting, size = [], 0
    if waiting:
        yield _Task(tuple(waiting))


def _tables(path: Path) -> tuple[str | None, ...]:
    """The tables of a DuckDB file, and None for its catalog; of one that cannot be opened None, which will say so."""
    try:
        with ColumnScan.open(path) as scan:
            return (None, *scan.tables())
    except CustodyError:
        return (None,)


def _is_duckdb(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return format_of(file.read(512)) == "duckdb"
    except OSError:
        return False


def _results(tasks: Sequence[_Task], needles: Needles, search: Search, workers: int, total: int) -> Iterator[Found]:
    count = workers or (len(os.sched_getaffinity(0)) if total >= PARALLEL_BYTES else 1)
    if count == 1 or len(tasks) < 2:
        pictures = Pictures(needles.pictures)
        for task in tasks:
            yield _done(task, search, pictures)
        return
    left = list(tasks)
    for found, task in _pooled(tasks, needles, min(count, len(tasks))):
        left.remove(task)
        yield found
    # A process died, of what one of them held: those that are left go one by one.
    for task in left:
        ended = [found for found, _ in _pooled([task], needles, 1)]
        yield from ended or [Found(unread={f.where: "the process that read it died" for f in task.files})]


def _pooled(tasks: Sequence[_Task], needles: Needles, workers: int) -> Iterator[tuple[Found, _Task]]:
    """What each came to, in no order; ends early where a process dies."""
    # Fresh interpreters: a child that is forked with DuckDB and its threads is none. Needles go through a pipe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(needles,)) as pool:
        running: dict[Future[Found], _Task] = {pool.submit(_in_process, task): task for task in tasks}
        while running:
            done, _ = wait(running, return_when="FIRST_COMPLETED")
            for future in done:
                task = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    return
                yield future.result(), task


@dataclass(slots=True)
class _Process:
    """What a worker process holds: the automaton is made once."""

    search: Search | None = None
    pictures: Pictures | None = None


_PROCESS = _Process()


def _begin(needles: Needles) -> None:
    _PROCESS.search, _PROCESS.pictures = Search(needles.patterns), Pictures(needles.pictures)


def _in_process(task: _Task) -> Found:
    assert _PROCESS.search is not None
    assert _PROCESS.pictures is not None
    return _done(task, _PROCESS.search, _PROCESS.pictures)


def _done(task: _Task, search: Search, pictures: Pictures) -> Found:
    looking = Looking(search, pictures)
    for file in task.files:
        before = looking.found
        looking.found = Found()
        if task.columns:
            look_into_duckdb(looking, file.path, file.where, task.table)
        else:
            _read(looking, file)
        before.merge(_few_places(looking.found, file.where))
        looking.found = before
    return looking.found


def _read(looking: Looking, file: _File) -> None:
    try:
        source = FileSource(file.path)
    except FileNotFoundError:
        return  # gone meanwhile
    except OSError as error:
        looking.found.unread[file.where] = f"cannot be read ({error.strerror})"
        return
    try:
        looking.look(source, file.where)
    except OSError as error:
        looking.found.unread[file.where] = f"cannot be read ({error.strerror})"
    finally:
        source.close()
    if file.size < _DUCKDB_ALONE_BYTES and _is_duckdb(file.path):
        look_into_duckdb(looking, file.path, file.where)


def _few_places(found: Found, where: str) -> Found:
    """With so many places in one file that they are told as the file."""
    if len({place for place, _ in found.hits}) > _PLACES:
        lumped: Counter[tuple[str, str]] = Counter()
        for (_, kind), count in found.hits.items():
            lumped[f"{where}, in over {_PLACES} places", kind] += count
        found.hits = lumped
    if len(found.unread) > _PLACES:
        why = next(iter(found.unread.values()))
        found.unread = {where: f"{len(found.unread)} things within, of the first: {why}"}
    return found


class _ObjectSource:
    """One version of an object, read by ranges. Raises StorageError."""

    def __init__(self, store: ObjectStore, version: Version) -> None:
        self._store, self._version = store, version
        self.size = store.size_of(version)
        self._held = (0, b"")

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(self.size, offset + length)
        start, held = self._held
        if offset >= end:
            return b""
        if not start <= offset <= end <= start + len(held):
            ahead = min(self.size, max(end, offset + _RANGE_BYTES))
            start, held = self._held = offset, self._store.read_range(self._version, offset, ahead)
        return held[offset - start : end - start]

    def open(self) -> BinaryIO:
        return io.BufferedReader(SourceFile(self), 1 << 16)
