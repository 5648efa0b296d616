"""Imported lists of what may not be used: sorted, immutable key files, asked for one pair or for a million.

A list is one file, `<name>-<first digits of its sha256>.keys`: a header of 256 bytes, then its keys, sorted, as
unsigned 64-bit integers: two of blake2b-16 of each value, or the four of a PDQ hash itself, which is compared by
distance. It is memory-mapped, so that asking costs no loading. The ledger's table `registry` says which file of a
name counts, since when and for how long; its `registry_entry` stays empty, for ten million URLs of a list would be a
second copy of somebody else's personal data, and the file's digest is what a decision rests on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from policy.durable import sweep_unfinished, sync_directory
from policy.errors import IntegrityError
from policy.evidence import Evidence, RegistryAnswer
from policy.origins import host_of
from policy.turned_hashes import turned_hashes

if TYPE_CHECKING:
    from policy.ledger import Ledger

KINDS: Final = ("url", "domain", "sha256", "md5", "pdq")
FILE_VERSION: Final = 1
HEADER_BYTES: Final = 256

Keys = npt.NDArray[np.uint64]  # [rows, 2] of a digest, [rows, 4] of a PDQ hash
Key = tuple[int, int]

_RUN_ROWS: Final = 1 << 20  # sorted at once: 16 MB of keys, 60 MB with all that sorting takes
_BUCKETS: Final = 256  # merged one after the other, by the first byte
_CACHED_HOSTS: Final = 65_536


@dataclass(frozen=True, slots=True)
class ImportedList:
    """The newest row of the ledger's table `registry` under a name. Times are UTC."""

    name: str
    kind: str
    sha256: str
    row_count: int
    dated_at: datetime
    max_age_days: int
    imported_at: datetime

    def is_overdue(self, now: datetime) -> bool:
        return now - self.dated_at > timedelta(days=self.max_age_days)

    def path(self, directory: Path) -> Path:
        """Where its keys lie."""
        return directory / f"{self.name}-{self.sha256[:12]}.keys"


_NEWEST = """
SELECT name, kind, sha256, row_count, dated_at, max_age_days, imported_at FROM registry
QUALIFY row_number() OVER (PARTITION BY name ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY name
"""


def imported_lists(ledger: Ledger) -> tuple[ImportedList, ...]:
    """The lists that count, by name: of each name the one that was imported last."""
    return tuple(
        ImportedList(name, kind, sha256, rows, dated_at.replace(tzinfo=UTC), days, imported_at.replace(tzinfo=UTC))
        for name, kind, sha256, rows, dated_at, days, imported_at in ledger.query(_NEWEST)
    )


# ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def url_value(canonical: str) -> str:
    """What of a canonical URL is compared: all but http or https, which are two doors to one thing."""
    return canonical.partition(":")[2]


def domains_of(host: str) -> tuple[str, ...]:
    """A host and every domain above it that is not a bare top level; an address stands for itself.

    A public suffix such as co.uk is among them: no list that was imported names one.
    """
    host = host.rstrip(".").lower()
    names = [host]
    while host.count(".") > 1 and not host.replace(".", "").isdigit():
        host = host.partition(".")[2]
        names.append(host)
    return tuple(names)


def keys_of(kind: str, values: Iterable[str]) -> Keys:
    """The keys of canonical values, in their order; a PDQ hash (64 hex digits) is its own."""
    if kind == "pdq":
        raw = b"".join(map(bytes.fromhex, values))
    else:
        blake2b = hashlib.blake2b
        raw = b"".join([blake2b(v.encode("utf-8", "surrogatepass"), digest_size=16).digest() for v in values])
    return np.frombuffer(raw, ">u8").astype(np.uint64).reshape(-1, _width(kind))


def _width(kind: str) -> int:
    return 4 if kind == "pdq" else 2


@functools.lru_cache(maxsize=_CACHED_HOSTS)
def _key(value: str) -> Key:
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


@functools.lru_cache(maxsize=_CACHED_HOSTS)
def _names_at(url: str) -> tuple[str, ...]:
    return domains_of(host_of(url))


def found_in(keys: Keys, wanted: Keys) -> npt.NDArray[np.bool_]:
    """Which of the wanted digests [m, 2] are among sorted keys [n, 2]: one binary search each, in order of place."""
    order = np.argsort(wanted[:, 0])
    high, low = wanted[order, 0], wanted[order, 1]
    place = np.searchsorted(keys[:, 0], high)
    found = np.zeros(len(order), dtype=np.bool_)
    waiting = np.arange(len(order))
    while len(waiting):  # once, unless two keys begin with the same 64 bits
        waiting = waiting[place[waiting] < len(keys)]
        at = keys[place[waiting]]
        waiting, at = waiting[same := at[:, 0] == high[waiting]], at[same]
        hit = at[:, 1] == low[waiting]
        found[waiting[hit]] = True
        waiting = waiting[~hit]
        place[waiting] += 1
    answer = np.empty_like(found)
    answer[order] = found
    return answer


def _holds(keys: Keys, key: Key) -> bool:
    high, low = key
    place = int(keys[:, 0].searchsorted(np.uint64(high)))
    while place < len(keys) and keys[place, 0] == high:
        if keys[place, 1] == low:
            return True
        place += 1
    return False


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file that was written: where, the sha256 of its keys, how many."""

    path: Path
    sha256: str
    rows: int


def write_keys(directory: Path, name: str, kind: str, batches: Iterable[Keys]) -> KeyFile:
    """Sort keys that come in any order and number into a file, each once: whole or not at all, in bounded memory.

    Sorted runs are spilled to a temporary file beside it and merged bucket by bucket. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(directory, below=False)
    spill, making = (directory / f".{name}.{what}.{os.getpid()}.tmp" for what in ("runs", "keys"))
    width, digest, rows = _width(kind), hashlib.sha256(), 0
    try:
        with spill.open("w+b") as runs, making.open("wb") as file:
            starts = _spill(runs, batches)
            file.write(b" " * HEADER_BYTES)
            for bucket in range(_BUCKETS):
                keys = _merged(runs, starts, bucket, width)
                body = keys.astype("<u8").tobytes()
                digest.update(body)
                file.write(body)
                rows += len(keys)
            file.seek(0)
            file.write(_header(kind, rows, digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        path = directory / f"{name}-{digest.hexdigest()[:12]}.keys"
        making.replace(path)
        sync_directory(directory)
    finally:
        spill.unlink(missing_ok=True)
        making.unlink(missing_ok=True)
    return KeyFile(path, digest.hexdigest(), rows)


def _header(kind: str, rows: int, sha256: str) -> bytes:
    text = json.dumps({"custody_registry": FILE_VERSION, "kind": kind, "rows": rows, "sha256": sha256})
    return text.ljust(HEADER_BYTES - 1).encode() + b"\n"


def _spill(runs: IO[bytes], batches: Iterable[Keys]) -> list[npt.NDArray[np.int64]]:
    """Write sorted runs; for each, the row in the file at which each of its buckets begins, and its end."""
    starts: list[npt.NDArray[np.int64]] = []
    firsts = np.arange(_BUCKETS, dtype=np.uint64) << np.uint64(56)
    row = 0
    for run in _runs(batches):
        keys = _sorted(run)
        runs.write(keys.tobytes())
        starts.append(row + np.append(np.searchsorted(keys[:, 0], firsts), len(keys)))
        row += len(keys)
    runs.flush()
    return starts


def _runs(batches: Iterable[Keys]) -> Iterator[Keys]:
    held: list[Keys] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _RUN_ROWS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _merged(runs: IO[bytes], starts: Sequence[npt.NDArray[np.int64]], bucket: int, width: int) -> Keys:
    parts = []
    for begins in starts:
        first, end = int(begins[bucket]), int(begins[bucket + 1])
        runs.seek(first * 8 * width)
        parts.append(np.frombuffer(runs.read((end - first) * 8 * width), np.uint64).reshape(-1, width))
    return _sorted(np.concatenate(parts)) if parts else np.empty((0, width), np.uint64)


def _sorted(keys: Keys) -> Keys:
    """In order, each once."""
    keys = keys[np.lexsort(keys.T[::-1])]
    fresh = np.ones(len(keys), dtype=np.bool_)
    fresh[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return keys[fresh]


def open_keys(directory: Path, listed: ImportedList) -> Keys:
    """The keys of a list, memory-mapped; its header and its size are checked, its digest by `check_keys`.

    Raises `IntegrityError`: lost, cut, or not the file that the ledger knows; nothing may be let in without it.
    """
    path, width = listed.path(directory), _width(listed.kind)
    try:
        with path.open("rb") as file:
            header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
        if header != _header(listed.kind, listed.row_count, listed.sha256):
            raise _damaged(listed, path, "its header is not what the ledger knows")
        if size != HEADER_BYTES + listed.row_count * 8 * width:
            raise _damaged(listed, path, f"it has {size:,} bytes, which is not the size of {listed.row_count:,} keys")
        # Asked through the class memmap, every search would make objects of that class.
        return np.asarray(np.memmap(path, "<u8", "r", HEADER_BYTES, (listed.row_count, width)))
    except OSError as error:
        raise _damaged(listed, path, f"it cannot be read ({error.strerror})") from error


def check_keys(directory: Path, listed: ImportedList) -> None:
    """Read a list's file whole: its digest and order are what they were. Raises `IntegrityError`."""
    keys, digest = open_keys(directory, listed), hashlib.sha256()
    for start in range(0, len(keys), _RUN_ROWS):
        digest.update(keys[start : start + _RUN_ROWS].tobytes())
    if digest.hexdigest() != listed.sha256:
        raise _damaged(listed, listed.path(directory), "its keys are not those that were imported")


def _damaged(listed: ImportedList, path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"the list {listed.name!r} was imported, but its file is lost or damaged: {what}",
        where=str(path),
        remedy=f"Import it again: custody policy import FILE --kind {listed.kind} --name {listed.name}",
    )


# ── PDQ ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_CHUNKS: Final = 16  # of 16 bits each
_INDEXED_ROWS: Final = range(4_096, 4_000_000)  # below, comparing all is as quick; above, the index takes 260 MB
_COMPARED_ROWS: Final = 65_536


class NearHashes:
    """Hashes of 256 bits, asked by distance: all are compared, or those that an index finds (multi-index hashing).

    Of two hashes that differ in at most d bits some 16-bit chunk differs in at most d // 16 (Norouzi, Punjani and
    Fleet, CVPR 2012): looking up each chunk and its neighbours misses none. The index is made when first asked.
    Each hash is asked in all eight orientations.
    """

    def __init__(self, hashes: Keys, max_distance: int) -> None:
        self._hashes, self._max = hashes, max_distance
        self._index: tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]] | None = None
        near = max_distance // _CHUNKS
        flips = [sum(1 << bit for bit in bits) for n in range(near + 1) for bits in combinations(range(16), n)]
        self._flips = np.array(flips, dtype=np.uint16)
        self._indexed = len(hashes) in _INDEXED_ROWS and near <= 1

    def nearest(self, pdq: str) -> tuple[int, bool] | None:
        """The distance of the nearest hash to this one (64 hex digits), if it is near enough, and whether it is near
        to the picture as it is (False) or only to a mirrored or turned one (True).
        """
        found = [min(self._distances(way), default=self._max + 1) for way in keys_of("pdq", turned_hashes(pdq))]
        nearest = min(found)
        return (nearest, found[0] > nearest) if nearest <= self._max else None

    def _distances(self, wanted: Keys) -> Iterator[int]:
        if self._indexed:
            rows = self._candidates(wanted)
            if len(rows):
                yield int(_distance(self._hashes[rows], wanted).min())
            return
        for start in range(0, len(self._hashes), _COMPARED_ROWS):
            yield int(_distance(self._hashes[start : start + _COMPARED_ROWS], wanted).min())

    def _candidates(self, wanted: Keys) -> npt.NDArray[np.uint32]:
        """The rows that share a chunk with it, or nearly so; some more than once."""
        starts, rows = self._index = self._index or _index(self._hashes)
        values = (wanted.view(np.uint16)[:, None] ^ self._flips).astype(np.int64)
        place = values + np.arange(_CHUNKS)[:, None] * (1 << 16)
        first, end = starts[place].ravel(), starts[place + 1].ravel()
        count = end - first
        ends = np.cumsum(count)
        found: npt.NDArray[np.uint32] = rows[np.arange(ends[-1]) + np.repeat(first - (ends - count), count)]
        return found


def _distance(hashes: Keys, wanted: Keys) -> npt.NDArray[np.uint16]:
    bits: npt.NDArray[np.uint16] = np.bitwise_count(hashes ^ wanted).sum(axis=1, dtype=np.uint16)
    return bits


def _index(hashes: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Rows by the value of each chunk: where a (chunk, value) begins, and the rows themselves, chunk after chunk."""
    chunks = np.ascontiguousarray(hashes).view(np.uint16)
    rows = np.empty((_CHUNKS, len(hashes)), dtype=np.uint32)
    starts = np.empty(_CHUNKS * (1 << 16) + 1, dtype=np.int64)
    for chunk in range(_CHUNKS):
        column = np.ascontiguousarray(chunks[:, chunk])
        rows[chunk] = np.argsort(column, kind="stable")
        counts = np.bincount(column, minlength=1 << 16)
        starts[chunk << 16 : (chunk + 1) << 16] = chunk * len(hashes) + np.cumsum(counts) - counts
    starts[-1] = rows.size
    return starts, rows.ravel()


# ── asking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A list as it is asked. `silent`: its answer where it has nothing to say."""

    silent: RegistryAnswer
    keys: Keys
    near: NearHashes | None = None
    at_urls: dict[tuple[str, ...], str] = field(default_factory=dict)  # what was found for these domain names


@dataclass(frozen=True, slots=True)
class Registries:
    """All imported lists, opened. `silent`: what they answer where none has anything to say.

    Another process is handed `source`, not the keys: it opens the files itself.
    """

    lists: tuple[_Loaded, ...] = ()
    silent: tuple[RegistryAnswer, ...] = ()
    source: tuple[Path, tuple[ImportedList, ...], int] = (Path(), (), 0)

    @classmethod
    def load(cls, directory: Path, rows: Iterable[ImportedList], *, pdq_max_distance: int = 31) -> Self:
        """Open the lists that the ledger knows. Raises `IntegrityError` where one is lost or damaged."""
        loaded, rows = [], tuple(rows)
        for row in rows:
            answer = RegistryAnswer(row.name, row.kind, row.dated_at, row.max_age_days, row.sha256)
            keys = open_keys(directory, row)
            loaded.append(_Loaded(answer, keys, NearHashes(keys, pdq_max_distance) if row.kind == "pdq" else None))
        return cls(tuple(loaded), tuple(one.silent for one in loaded), (directory, rows, pdq_max_distance))

    def __reduce__(self) -> tuple[object, ...]:
        return _load, self.source

    def answers(
        self,
        *,
        urls: Iterable[str] = (),
        sha256: str | None = None,
        md5: str | None = None,
        pdq: str | None = None,
    ) -> tuple[RegistryAnswer, ...]:
        """What every list says of one pair, by its canonical URLs and digests: the very `silent` where none matches."""
        if not self.lists:
            return self.silent
        asked = {"sha256": sha256, "md5": md5, "pdq": pdq}
        known = tuple(dict.fromkeys(urls))
        found = {i: match for i, one in enumerate(self.lists) if (match := _match(one, known, asked))}
        return self._with(found)

    def answers_for(self, evidence: Evidence) -> tuple[RegistryAnswer, ...]:
        """What every list says of the pair, wherever its page and its picture were found."""
        if not self.lists:
            return self.silent
        return self.answers(
            urls=_urls(evidence), sha256=evidence.content_sha256, md5=evidence.content_md5, pdq=evidence.pdq
        )

    def answers_for_all(self, evidence: Sequence[Evidence]) -> list[tuple[RegistryAnswer, ...]]:
        """`answers_for` of each, every list asked once for all of them."""
        found: list[dict[int, str]] = [{} for _ in evidence]
        places = [_urls(e) for e in evidence]
        for number, one in enumerate(self.lists):
            if one.near is not None:
                for i, e in enumerate(evidence):
                    found[i] |= {number: match} if (match := _match(one, (), {"pdq": e.pdq})) else {}
                continue
            values, owners = _values(one.silent.kind, evidence, places)
            if values:
                hits = np.flatnonzero(found_in(one.keys, keys_of(one.silent.kind, [value for value, _ in values])))
                for hit in hits:
                    found[owners[hit]].setdefault(number, values[hit][1])
        return [self._with(matches) for matches in found]

    def covers_url(self, url: str) -> str | None:
        """The list that names this URL, or a domain it lies on; None: none does. For what is not contacted yet."""
        named = (one for one in self.lists if one.silent.kind in ("url", "domain") and _match(one, (url,), {}))
        return next((one.silent.name for one in named), None)

    def _with(self, found: Mapping[int, str]) -> tuple[RegistryAnswer, ...]:
        if not found:
            return self.silent
        return tuple(replace(a, match=found[i]) if i in found else a for i, a in enumerate(self.silent))


def _load(directory: Path, rows: tuple[ImportedList, ...], pdq_max_distance: int) -> Registries:
    return Registries.load(directory, rows, pdq_max_distance=pdq_max_distance)


def _urls(evidence: Evidence) -> tuple[str, ...]:
    hops = (hop.url for hop in evidence.hops or ())
    urls = (evidence.image_url, evidence.page_url, *hops, evidence.refused_url)
    return tuple(dict.fromkeys(url for url in urls if url is not None))


def _match(one: _Loaded, urls: Sequence[str], asked: Mapping[str, str | None]) -> str:
    """What of a pair is on one list, in words; "" where nothing is."""
    kind = one.silent.kind
    if kind == "url":
        return next((f"url {url}" for url in urls if _holds(one.keys, _key(url_value(url)))), "")
    if kind == "domain":
        return next((match for url in urls if (match := _match_domain(one, _names_at(url)))), "")
    value = asked.get(kind)
    if not value:
        return ""
    if one.near is None:
        return f"{kind} {value}" if _holds(one.keys, _key(value.lower())) else ""
    if not _PDQ.fullmatch(value) or (found := one.near.nearest(value)) is None:
        return ""
    distance, turned = found
    return f"pdq {value}, {distance} of 256 bits away{', mirrored or turned' if turned else ''}"


_PDQ: Final = re.compile(r"[0-9a-fA-F]{64}")


def _match_domain(one: _Loaded, names: tuple[str, ...]) -> str:
    if (known := one.at_urls.get(names)) is None:
        if len(one.at_urls) >= _CACHED_HOSTS:
            one.at_urls.clear()
        known = next((f"domain {name}" for name in names if _holds(one.keys, _key(name))), "")
        one.at_urls[names] = known
    return known


def _values(
    kind: str, evidence: Sequence[Evidence], places: Sequence[Sequence[str]]
) -> tuple[list[tuple[str, str]], list[int]]:
    """(value, in words) of every pair that may stand on a list of this kind, and whose each is."""
    values: list[tuple[str, str]] = []
    owners: list[int] = []
    for i, (e, urls) in enumerate(zip(evidence, places, strict=True)):
        match kind:
            case "url":
                mine = [(url_value(url), f"url {url}") for url in urls]
            case "domain":
                mine = [(name, f"domain {name}") for url in urls for name in _names_at(url)]
            case _:
                value = e.content_sha256 if kind == "sha256" else e.content_md5
                mine = [(value.lower(), f"{kind} {value}")] if value else []
        values += mine
        owners += [i] * len(mine)
    return values, owners
