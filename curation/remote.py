"""Datasets in an object store: the same files under the same names as in a directory, read only after they are checked.

Shards are written on local disk, one at a time, and uploaded; generation.json comes last and, being one object, is
there whole or not at all. A shard is fetched whole, by ranges, and held against its sha256 before a byte of it is used.
What was fetched stays in a cache on local disk, by its sha256. A single picture is never asked for: it would be a
request of its own, and an order with windows (training/order.py) uses all of a shard while it is here.

One writer a dataset: a lock on the directory its shards are written in, which belongs to one home. Two homes that
write to one place are told apart by their datasets' roots, and by conditional writes where the server knows them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from curation.shard_files import generation_name, generation_number, index_name, lock_directory, map_tar
from curation.shard_reader import read_generation
from curation.storage import ObjectStore, Version
from policy.durable import sweep_unfinished
from policy.errors import CustodyError, IntegrityError, StorageError
from policy.provenance import ShardManifest

_RESTORE = "Restore the object from a copy, or delete the dataset and seal it again"


class RemoteDatasets:
    """The datasets below a URL s3://bucket/prefix.

    `spool`: a local directory for shards being written, one a dataset at a time, and for the locks of their writers.
    `cache`: one for shards that were fetched, at most `cache_bytes` of them, but one always.
    """

    def __init__(self, url: str, *, spool: Path, cache: Path, cache_bytes: int, endpoint: str = "") -> None:
        self._store = ObjectStore(url, endpoint=endpoint)
        self._spool, self._cache = spool, ShardCache(cache, cache_bytes)

    @property
    def url(self) -> str:
        return self._store.url

    def names(self) -> tuple[str, ...]:
        """Every dataset that lies here, finished or not, sorted."""
        folders, _ = self._store.list_folder()
        return tuple(sorted(name for name in folders if self._store.head(f"{name}/dataset.json") is not None))

    def lists_versions(self) -> bool:
        """Whether the server says which versions it keeps of what was deleted."""
        return self._store.lists_versions()

    def files(self, name: str) -> RemoteFiles:
        """One of them, for the functions of curation/shards.py; it need not be there yet."""
        return RemoteFiles(self._store.below(name), self._spool / name, self._cache)


class RemoteFiles:
    """One dataset in an object store (curation.shards.DatasetFiles)."""

    def __init__(self, store: ObjectStore, spool: Path, cache: ShardCache) -> None:
        self._store, self._spool, self._cache = store, spool, cache

    @property
    def keep_bytes(self) -> int:
        return self._cache.max_bytes

    def where(self, name: str = "") -> str:
        return self._store.where(name)

    def make(self) -> None:
        self._store.check_bucket()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with _storing(self._spool):
            self._spool.mkdir(parents=True, exist_ok=True)
        with lock_directory(self._spool, where=self.where()):
            try:
                self._empty_spool()  # of what a killed writer left
                yield
            finally:
                self._empty_spool()

    def generations(self) -> list[int]:
        folders, _ = self._store.list_folder()
        numbers = {name: number for name in folders if (number := generation_number(name)) is not None}
        return sorted(number for name, number in numbers.items() if not self._store.below(name).is_empty())

    def has(self, name: str) -> bool:
        return self._store.head(name) is not None

    def read(self, name: str) -> bytes:
        with self._present(name):
            return self._store.read(name)

    def create(self, name: str, data: bytes) -> None:
        self._store.create(name, data)

    def begin(self, number: int, *, anew: bool) -> Path:
        if anew:
            self._store.below(generation_name(number)).purge(lambda version: True)
        return self._spool

    def keep(self, number: int, shard: ShardManifest) -> None:
        for name, sha256 in ((shard.path, shard.sha256), (index_name(shard), shard.index_sha256)):
            self._store.put_file(f"{generation_name(number)}/{name}", self._spool / name, sha256)
            (self._spool / name).unlink()

    def reuse(self, source: int, number: int, shard: ShardManifest) -> None:
        for name in (shard.path, index_name(shard)):
            old, new = (f"{generation_name(n)}/{name}" for n in (source, number))
            with self._present(old):
                self._store.copy(old, new)
            if (there := self._store.head(new)) != (was := self._store.head(old)):
                raise StorageError(f"the server copied {was} as {there}", where=self.where(new), remedy="Run it again")

    def tidy(self, number: int, known: Collection[str]) -> None:
        self._store.below(generation_name(number)).purge(lambda version: not (version.newest and version.name in known))

    def drop(self, number: int) -> None:
        name = generation_name(number)
        # Before the list of what was in it goes, so that a drop that is killed is not finished without it.
        self._cache.forget(self._only_in(number))
        self._store.below(name).purge(lambda version: version.name == "generation.json")
        self._store.below(name).purge(lambda version: True)

    def sweep(self, number: int) -> None:
        versions = self._store.versions()
        # An object under a delete marker may have been deleted by mistake: that is not for a prune to settle.
        hidden = {version.name for version in versions if version.newest and version.deleted}

        def doomed(version: Version) -> bool:
            generation = generation_number(version.name.partition("/")[0])
            if generation not in (None, number):
                return True  # dropped, and what versioning kept of it goes as well
            return not version.newest and version.name not in hidden

        self._store.purge(doomed)

    def open_tar(self, number: int, shard: ShardManifest, *, fresh: bool = False) -> mmap.mmap:
        name = f"{generation_name(number)}/{shard.path}"

        def fetch(path: Path) -> None:
            with self._present(name):
                self._store.fetch(name, path)

        return self._cache.open(shard.sha256, shard.size_bytes, fetch, where=self.where(name), fresh=fresh)

    def check_present(self, number: int, shards: Sequence[ShardManifest]) -> None:
        _, sizes = self._store.below(generation_name(number)).list_folder()
        for shard in shards:
            where = self.where(f"{generation_name(number)}/{shard.path}")
            if shard.path not in sizes:
                raise IntegrityError("the object is missing", where=where, remedy=_RESTORE)
            if sizes[shard.path] != shard.size_bytes:
                what = f"{sizes[shard.path]} bytes where {shard.size_bytes} were sealed: truncated or overgrown"
                raise IntegrityError(what, where=where, remedy=_RESTORE)

    def strays(self, number: int, known: Collection[str]) -> list[str]:
        below = self._store.below(generation_name(number))
        told = []
        for version in sorted(below.versions(), key=lambda v: (v.name, v.id or "")):
            where = below.where(version.name)
            if not version.newest:
                told.append(f"{where}: the bucket keeps an older version of it. The next prune deletes it")
            elif version.name not in known and not version.deleted:
                told.append(f"{where}: no file of this dataset. Move it away")
        unfinished = len(below.uploads())
        return told + [f"{below.url}: an upload that was never finished. The next prune ends it"] * unfinished

    def _only_in(self, number: int) -> frozenset[str] | None:
        """The sha256 of the shards that a generation has and the newest has not; None when that cannot be known."""
        try:
            others = (n for n in self.generations() if n != number)
            newest = max(n for n in others if self.has(f"{generation_name(n)}/generation.json"))
            mine, kept = ({shard.sha256 for shard in read_generation(self, n).shards} for n in (number, newest))
        except (CustodyError, ValueError):
            return None
        return frozenset(mine - kept)

    def _empty_spool(self) -> None:
        with _storing(self._spool):
            for path in self._spool.iterdir():
                path.unlink()

    @contextmanager
    def _present(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise IntegrityError("the object is missing", where=self.where(name), remedy=_RESTORE) from error


class ShardCache:
    """Shards on local disk by their sha256, at most `max_bytes` of them (but always one), the least used going first.

    Those that are on their way come on top. Any number of processes may use one directory; who has a shard mapped keeps
    it when it goes, and what a killed one was fetching is taken away by the next.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = directory, max_bytes

    def open(
        self, sha256: str, size_bytes: int, fetch: Callable[[Path], None], *, where: str, fresh: bool = False
    ) -> mmap.mmap:
        """A shard, mapped, its size and sha256 checked in this call; `fetch` writes it into a file if it is not here.

        `fresh`: fetched in any case, and not kept. Raises IntegrityError, naming `where` it came from, when what was
        fetched is not that shard; StorageError when the disk refuses.
        """
        path = self.directory / f"{sha256}.tar"
        temporary = path.with_name(f".{path.name}.{threading.get_ident()}.{os.getpid()}.tmp")
        with _storing(self.directory):
            if not fresh and (tar := self._cached(path, sha256, size_bytes)) is not None:
                return tar
            self.directory.mkdir(parents=True, exist_ok=True)
            self._make_room(0 if fresh else size_bytes)
            try:
                fetch(temporary)
                tar = _checked(temporary, sha256, size_bytes, where)
                if not fresh:
                    temporary.replace(path)
                    self._make_room(0, but=path)  # others may have come at the same time
                return tar
            finally:
                temporary.unlink(missing_ok=True)

    def forget(self, shards: Iterable[str] | None) -> None:
        """Deletes shards, those that are named by their sha256 or all."""
        if shards is not None:
            paths = [self.directory / f"{sha256}.tar" for sha256 in shards]
        else:
            paths = list(self.directory.iterdir()) if self.directory.is_dir() else []
        with _storing(self.directory):
            for path in paths:
                path.unlink(missing_ok=True)

    def _cached(self, path: Path, sha256: str, size_bytes: int) -> mmap.mmap | None:
        try:
            os.utime(path)
            return _checked(path, sha256, size_bytes, str(path))
        except FileNotFoundError:
            return None
        except IntegrityError:  # a damaged copy is no loss
            with suppress(FileNotFoundError):
                path.unlink()
            return None

    def _make_room(self, size_bytes: int, *, but: Path | None = None) -> None:
        sweep_unfinished(self.directory, below=False)
        found = []
        for path in self.directory.glob("*.tar"):
            with suppress(FileNotFoundError):  # another process was faster
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        total = size_bytes + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.max_bytes:
                return
            if path != but:
                path.unlink(missing_ok=True)
                total -= size


def _checked(path: Path, sha256: str, size_bytes: int, where: str) -> mmap.mmap:
    """The file, mapped, if it is just those bytes."""
    found = path.stat().st_size
    if found != size_bytes:
        what = f"{found} bytes where {size_bytes} were sealed: truncated or overgrown"
        raise IntegrityError(what, where=where, remedy=_RESTORE)
    tar = map_tar(path, size_bytes)
    if hashlib.sha256(tar).hexdigest() != sha256:
        tar.close()
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=where, remedy=_RESTORE)
    return tar


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Free some space or mend the permissions and run it again"
        raise StorageError(f"cannot write ({error.strerror or error})", where=str(path), remedy=remedy) from error
