"""Sealed datasets: WebDataset tars with an offset index, read back only through one strict reader.

::

    dataset.json                       DatasetManifest: the slots and their root; written first, never changed
    leaves.bin                         32 bytes a slot: the commitments under that root
    generation-0000/
        shard-000000.tar               <sample key>.jpg|webp, .txt, .json of every live slot, by ordinal
        shard-000000.index.npy         one INDEX_DTYPE row a slot: where its members lie
        generation.json                Generation: digests and counts of every shard; written last

The current generation is the highest one that has its generation.json. The tars are plain ustar, byte for byte
reproducible from their samples: regular files, mode 0644, owner and time 0. The reader therefore knows what every
header must be, and takes a shard only if that is what it finds: no other name, type, order or size can pass.

Sealing and resealing may be killed at any moment and are then simply run again. One process at a time changes a
dataset; readers need no lock, and what they have open stays readable after a prune.

A dataset is named by its directory, or by `DatasetFiles` where its files lie elsewhere: curation/remote.py keeps them
in an object store, under the same names and with the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import mmap
import os
import re
import shutil
import struct
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import BinaryIO, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from policy.errors import BusyError, CustodyError, InputError, IntegrityError, StorageError
from policy.provenance import DatasetManifest, Generation, ShardManifest, dataset_root

IMAGE_EXTENSIONS = ("jpg", "webp")
COMMITMENT_BYTES = 32
MAX_SHARD_SLOTS = 1_000_000

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

_ROW = struct.Struct("<qqqqiiiBB2x16s")
_KEY = re.compile(r"[0-9a-f]{32}")
_SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
_GENERATION_NAME = re.compile(r"generation-([0-9]{4,})")
_BLOCK = 512
_END = bytes(2 * _BLOCK)  # two zero blocks close a tar (POSIX.1-2017, pax, "ustar Interchange Format")
_MAX_MEMBER_BYTES = 2**31 - 1
_COPY_BYTES = 8 << 20
_RESTORE = "Restore the file from a copy, or delete the dataset's directory and seal it again"


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


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write_dataset(
    dataset: Dataset,
    manifest: DatasetManifest,
    commitments: Sequence[bytes],
    samples: Iterable[SealedSample],
    shard_slots: int,
    removals: Sequence[str] = (),
) -> Generation:
    """Seals generation 0 of a dataset: `commitments` in the order of the ordinals, `samples` in ascending ordinals.

    An ordinal without a sample is an empty slot. Run again after a crash it compares what lies there with the samples
    and writes only what is missing or different; run again after it finished it checks the dataset and returns its
    current generation. Raises InputError for samples that cannot be sealed, IntegrityError when the commitments do
    not give the manifest's root or the directory holds another dataset, StorageError when the disk refuses.
    """
    _check_slots(manifest, commitments, shard_slots)
    files = _files_of(dataset)
    files.make()
    with files.locked():
        _fix_slots(files, manifest, commitments)
        if _newest(files) is not None:
            with DatasetReader.open(files) as reader:
                return reader.generation
        directory = files.begin(0, anew=False)
        shards = []
        stream = _checked(samples, manifest.slots)
        sample = next(stream, None)
        for number, first in enumerate(range(0, manifest.slots, shard_slots)):
            slots = min(shard_slots, manifest.slots - first)
            with _ShardWriter(directory, number, first, slots) as writer:
                while sample is not None and sample.ordinal < first + slots:
                    writer.add(sample)
                    sample = next(stream, None)
                shards.append(writer.finish())
            files.keep(0, shards[-1])
        return _publish(files, manifest.dataset, 0, shards, removals)


def reseal(dataset: Dataset, removed_ordinals: Collection[int], removal_id: str) -> Generation:
    """Makes a new generation without the given ordinals and returns it; their slots stay, empty.

    Shards that hold none of them are hard-linked (or copied by the object store), the others are checked and their
    live extents copied. The previous generation still lies beside the new one: `prune` takes it, and the removed bytes
    with it. Run again after a crash it starts the new generation over; run again after it finished it returns that
    generation. Raises InputError for an ordinal that is no slot, IntegrityError when a touched shard is damaged.
    """
    files = _files_of(dataset)
    with files.locked(), DatasetReader.open(files, verify=False) as reader:
        removed = frozenset(int(ordinal) for ordinal in removed_ordinals)
        strange = [ordinal for ordinal in removed if not 0 <= ordinal < reader.slots]
        if strange:
            raise InputError(f"ordinal {min(strange)} is no slot of {reader.slots}", where=files.where())
        current = reader.generation
        doomed = sorted(ordinal for ordinal in removed if reader.is_live(ordinal))
        if not doomed and (not removed or removal_id in current.removals):
            return current
        directory = files.begin(current.number + 1, anew=True)
        shards = []
        for number, shard in enumerate(current.shards):
            here = {o for o in doomed if shard.first_ordinal <= o < shard.first_ordinal + shard.slots}
            if here:
                check_shard(files, current.number, shard)
                shards.append(_copy_live(reader, number, here, directory))
                files.keep(current.number + 1, shards[-1])
            else:
                files.reuse(current.number, current.number + 1, shard)
                shards.append(shard)
        removals = (*current.removals, *(() if removal_id in current.removals else (removal_id,)))
        return _publish(files, current.dataset, current.number + 1, shards, removals)


def drop_generation(dataset: Dataset, number: int) -> None:
    """Deletes a superseded or unfinished generation; one that is gone already is fine. Refuses the current one."""
    files = _files_of(dataset)
    with files.locked():
        if _newest(files) == number:
            raise InputError("the current generation cannot be dropped", where=files.where(generation_name(number)))
        files.drop(number)


def prune(dataset: Dataset) -> tuple[int, ...]:
    """Keeps only the newest complete generation; returns the numbers of those that went, unfinished ones included.

    Afterwards no byte of a removed sample lies there. Raises IntegrityError when no generation is complete.
    """
    files = _files_of(dataset)
    with files.locked():
        keep = _current(files)
        dropped = tuple(number for number in files.generations() if number != keep)
        for number in dropped:
            files.drop(number)
        files.sweep(keep)
        return dropped


def _check_slots(manifest: DatasetManifest, commitments: Sequence[bytes], shard_slots: int) -> None:
    if not 1 <= shard_slots <= MAX_SHARD_SLOTS:
        raise InputError(f"a shard takes 1 to {MAX_SHARD_SLOTS} slots, not {shard_slots}", where="shard_slots")
    if manifest.slots < 1:
        raise InputError("there is nothing to seal", where=manifest.dataset, remedy="Widen the selection")
    if manifest.slots != len(commitments) or any(len(c) != COMMITMENT_BYTES for c in commitments):
        raise IntegrityError(
            f"{manifest.slots} slots need as many commitments of {COMMITMENT_BYTES} bytes, got {len(commitments)}",
            where=manifest.dataset,
        )
    if dataset_root(commitments) != manifest.root:
        raise IntegrityError("the commitments do not give the manifest's root", where=manifest.dataset)


def _fix_slots(files: DatasetFiles, manifest: DatasetManifest, commitments: Sequence[bytes]) -> None:
    """Writes dataset.json and leaves.bin, or checks those that lie there; only the time of sealing may differ."""
    if files.has("dataset.json"):
        known = read_manifest(files)
        if asdict(known) | {"sealed_at": ""} != asdict(manifest) | {"sealed_at": ""}:
            raise IntegrityError(
                f"the directory belongs to another dataset ({known.dataset}, root {known.root[:16]})",
                where=files.where("dataset.json"),
                remedy="Seal into a directory of its own, or delete this one if its sealing was never finished",
            )
    else:
        files.create("dataset.json", manifest.to_json().encode())
    if files.has("leaves.bin"):
        read_commitments(files, manifest)
    else:
        files.create("leaves.bin", b"".join(commitments))


def _checked(samples: Iterable[SealedSample], slots: int) -> Iterator[SealedSample]:
    previous = -1
    for sample in samples:
        where = f"slot {sample.ordinal}"
        if not previous < sample.ordinal < slots:
            raise InputError(f"ordinals must rise from 0 to {slots - 1}; {previous} came before", where=where)
        if not _KEY.fullmatch(sample.key):
            raise InputError("a sample key has 32 hexadecimal digits", where=where)
        if sample.image_ext not in IMAGE_EXTENSIONS:
            raise InputError(f"{sample.image_ext!r} is none of {', '.join(IMAGE_EXTENSIONS)}", where=where)
        if not sample.image:
            raise InputError("the picture is empty", where=where)
        if not _is_json_object(sample.metadata_json):
            raise InputError("the metadata are no JSON object", where=where)
        previous = sample.ordinal
        yield sample


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


class _ShardWriter:
    """Writes a shard's tar and index. Slots that get no sample are empty."""

    def __init__(self, directory: Path, number: int, first_ordinal: int, slots: int) -> None:
        self._directory, self._name = directory, f"shard-{number:06d}"
        self._first, self._slots = first_ordinal, slots
        self._tar = _ComparingFile(directory / f"{self._name}.tar")
        self._rows = _empty_rows(first_ordinal, slots)
        self._rows_bytes = self._rows.view(np.uint8).data
        self._keys: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.discard()

    def add(self, sample: SealedSample) -> None:
        if sample.key in self._keys:
            raise InputError("its sample key stands in the shard already", where=f"slot {sample.ordinal}")
        self._keys.add(sample.key)
        members = (
            (sample.image_ext, sample.image),
            ("txt", sample.caption.encode()),
            ("json", sample.metadata_json.encode()),
        )
        parts: list[bytes] = []
        offsets, at = [], self._tar.size_bytes
        for ext, data in members:
            if len(data) > _MAX_MEMBER_BYTES:
                what = f"{len(data)} bytes are more than a member may have (2 GiB)"
                raise InputError(what, where=f"slot {sample.ordinal}")
            offsets.append(at + _BLOCK)
            parts += (_header(f"{sample.key}.{ext}", len(data)), data, _ZEROS[: -len(data) % _BLOCK])
            at += _BLOCK + len(data) + -len(data) % _BLOCK
        self._tar.write(b"".join(parts))
        lengths = [len(data) for _, data in members]
        image_ext = IMAGE_EXTENSIONS.index(sample.image_ext)
        at = (sample.ordinal - self._first) * _ROW.size
        key = bytes.fromhex(sample.key)
        _ROW.pack_into(self._rows_bytes, at, sample.ordinal, *offsets, *lengths, 1, image_ext, key)

    def copy(self, source: mmap.mmap, start: int, stop: int, rows: npt.NDArray[np.void]) -> None:
        """Takes over source[start:stop], the whole members of the slots in `rows`."""
        moved = rows.copy()
        for name in ("image_offset", "text_offset", "json_offset"):
            moved[name] += self._tar.size_bytes - start
        self._rows[rows["ordinal"] - self._first] = moved
        for at in range(start, stop, _COPY_BYTES):
            self._tar.write(source[at : min(at + _COPY_BYTES, stop)])

    def finish(self) -> ShardManifest:
        self._tar.write(_END)
        self._tar.keep()
        index = io.BytesIO()
        np.save(index, self._rows, allow_pickle=False)
        _write_whole(self._directory / f"{self._name}.index.npy", index.getvalue())
        return ShardManifest(
            path=f"{self._name}.tar",
            sha256=self._tar.sha256.hexdigest(),
            size_bytes=self._tar.size_bytes,
            index_sha256=hashlib.sha256(index.getvalue()).hexdigest(),
            first_ordinal=self._first,
            slots=self._slots,
            live=int(np.count_nonzero(self._rows["live"])),
        )


class _ComparingFile:
    """A file that is written only from the first byte on that differs from what already lies there."""

    def __init__(self, path: Path) -> None:
        self._path, self._tmp = path, _tmp_of(path)
        self._old = _map(path) if path.is_file() and path.stat().st_size else None
        self._new: BinaryIO | None = None
        self.sha256, self.size_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        stop = self.size_bytes + len(data)
        if self._new is None and (self._old is None or self._old[self.size_bytes : stop] != data):
            self._differ()
        if self._new is not None:
            with _storing(self._path):
                self._new.write(data)
        self.sha256.update(data)
        self.size_bytes = stop

    def keep(self) -> None:
        if self._new is None and (self._old is None or len(self._old) != self.size_bytes):
            self._differ()
        if self._new is not None:
            with _storing(self._path):
                _sync_and_close(self._new)
                self._tmp.replace(self._path)
                _sync_dir(self._path.parent)
            self._new = None
        self.discard()

    def discard(self) -> None:
        """Frees the unfinished copy at once: on a full disk its space is what the next attempt needs."""
        if self._new is not None:
            with _storing(self._path):
                with suppress(OSError):  # a second failure to flush what is thrown away says nothing new
                    self._new.close()
                self._tmp.unlink(missing_ok=True)
            self._new = None
        if self._old is not None:
            self._old.close()
            self._old = None

    def _differ(self) -> None:
        with _storing(self._path):
            self._new = self._tmp.open("wb", buffering=1 << 20)
            for at in range(0, self.size_bytes, _COPY_BYTES):
                assert self._old is not None  # a prefix was compared, so there was something to compare with
                self._new.write(self._old[at : min(at + _COPY_BYTES, self.size_bytes)])


def _copy_live(reader: DatasetReader, number: int, removed: Collection[int], directory: Path) -> ShardManifest:
    """Writes the shard anew without the removed ordinals, by copying every run of neighbours that stay."""
    shard, rows = reader.generation.shards[number], reader.rows(number)
    stays = rows[(rows["live"] == 1) & ~np.isin(rows["ordinal"], sorted(removed))]
    starts = stays["image_offset"] - _BLOCK
    lengths = stays["json_length"].astype(np.int64)
    stops = stays["json_offset"] + lengths + -lengths % _BLOCK
    breaks = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    with _ShardWriter(directory, number, shard.first_ordinal, shard.slots) as writer:
        for run in np.split(np.arange(len(stays)), breaks):
            if run.size:
                writer.copy(reader.tar(number), int(starts[run[0]]), int(stops[run[-1]]), stays[run])
        return writer.finish()


def _publish(
    files: DatasetFiles, dataset: str, number: int, shards: Sequence[ShardManifest], removals: Sequence[str]
) -> Generation:
    """Takes away what is not in `shards` (left by an earlier attempt), then writes generation.json."""
    generation = Generation(dataset, number, Generation.root_of(shards), tuple(shards), tuple(removals))
    files.tidy(number, _names_of(shards))
    files.create(f"{generation_name(number)}/generation.json", generation.to_json().encode())
    return generation


def _names_of(shards: Iterable[ShardManifest]) -> frozenset[str]:
    return frozenset(name for shard in shards for name in (shard.path, index_name(shard)))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


class DatasetReader:
    """Random access to a sealed dataset's current generation. Safe across threads and forks; a context manager.

    Every method that takes an ordinal raises IndexError outside [0, slots) and gives None for an empty slot.
    """

    def __init__(
        self, files: DatasetFiles, manifest: DatasetManifest, generation: Generation, leaves: bytes, verify: bool
    ) -> None:
        self.directory = files.where(generation_name(generation.number))
        """The generation's directory or URL."""
        self.manifest, self.generation = manifest, generation
        self._files, self._leaves, self._slots = files, leaves, manifest.slots
        self._shard_slots = generation.shards[0].slots
        # A shard's rows and its tar change together: a thread that holds both never reads one by the other's offsets.
        self._shards: list[tuple[bytes, mmap.mmap | None]] = []
        self._fetched: deque[int] = deque()
        self._fetching = (os.getpid(), threading.RLock())
        try:
            files.check_present(generation.number, generation.shards)
            for number, shard in enumerate(generation.shards):
                rows = _read_index(files, generation.number, shard)
                tar = None if files.keep_bytes is not None else files.open_tar(generation.number, shard)
                self._shards.append((rows.tobytes(), tar))
                if verify:
                    _check_tar(self.tar(number), rows, shard, self._path_of(number))
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, dataset: Dataset, verify: bool = True) -> Self:
        """Opens the newest complete generation after checking it against its manifests.

        `verify=False` leaves out what needs every byte of the tars (their sha256 and headers); sizes, indexes, leaves
        and roots are always checked, and a tar that has to be fetched is checked whole before it is used.
        Raises InputError when there is no dataset, IntegrityError naming the file.
        """
        files = _files_of(dataset)
        manifest = read_manifest(files)
        leaves = read_commitments(files, manifest)
        while True:
            number = _current(files)
            try:
                generation = read_generation(files, number)
                _check_cover(files, manifest, generation)
                return cls(files, manifest, generation, leaves, verify)
            except IntegrityError:
                # A newer generation may have been published and this one taken away while it was being opened.
                if _newest(files) == number:
                    raise

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def root(self) -> str:
        return self.manifest.root

    def commitment(self, ordinal: int) -> bytes:
        """The slot's 32-byte commitment; empty slots keep theirs."""
        self._locate(ordinal)
        return self._leaves[ordinal * COMMITMENT_BYTES : (ordinal + 1) * COMMITMENT_BYTES]

    def is_live(self, ordinal: int) -> bool:
        shard, row = self._locate(ordinal)
        return bool(_ROW.unpack_from(self._shards[shard][0], row)[7])

    def image_bytes(self, ordinal: int) -> bytes | None:
        """The encoded picture."""
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = _ROW.unpack_from(rows, row)
        return tar[fields[1] : fields[1] + fields[4]] if fields[7] else None

    def image_ext(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._shards[shard][0], row)
        return IMAGE_EXTENSIONS[fields[8]] if fields[7] else None

    def caption(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = _ROW.unpack_from(rows, row)
        return self._text(shard, tar, fields[2], fields[5]) if fields[7] else None

    def metadata_json(self, ordinal: int) -> str | None:
        """The member <key>.json as it was sealed."""
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = _ROW.unpack_from(rows, row)
        return self._text(shard, tar, fields[3], fields[6]) if fields[7] else None

    def metadata(self, ordinal: int) -> Mapping[str, object] | None:
        """The member <key>.json, parsed."""
        text = self.metadata_json(ordinal)
        if text is None:
            return None
        if not _is_json_object(text):
            raise IntegrityError(
                f"the metadata of slot {ordinal} are no JSON object", where=self._path_of(ordinal // self._shard_slots)
            )
        parsed: dict[str, object] = json.loads(text)
        return parsed

    def key(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._shards[shard][0], row)
        return fields[9].hex() if fields[7] else None

    def sample(self, ordinal: int) -> SealedSample | None:
        """Everything of one slot."""
        image, ext, key = self.image_bytes(ordinal), self.image_ext(ordinal), self.key(ordinal)
        caption, metadata = self.caption(ordinal), self.metadata_json(ordinal)
        if image is None or ext is None or key is None or caption is None or metadata is None:
            return None
        return SealedSample(ordinal, key, image, ext, caption, metadata)

    def samples(self) -> Iterator[SealedSample]:
        """Every live sample, by ordinal."""
        for ordinal in range(self._slots):
            if (sample := self.sample(ordinal)) is not None:
                yield sample

    def live(self) -> npt.NDArray[np.bool_]:
        """Which slots hold a sample: bool [slots]."""
        return np.concatenate([self.rows(number)["live"] == 1 for number in range(len(self._shards))])

    def rows(self, shard: int) -> npt.NDArray[np.void]:
        """The index of one shard: INDEX_DTYPE [slots of the shard], read-only."""
        return np.frombuffer(self._shards[shard][0], INDEX_DTYPE)

    def tar(self, shard: int) -> mmap.mmap:
        """The bytes of one shard."""
        return self._opened(shard)[1]

    def close(self) -> None:
        for _, tar in self._shards:
            if tar is not None:
                tar.close()
        self._shards = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _locate(self, ordinal: int) -> tuple[int, int]:
        if not 0 <= ordinal < self._slots:
            raise IndexError(f"ordinal {ordinal} is no slot of {self._slots}")
        shard, row = divmod(ordinal, self._shard_slots)
        return shard, row * _ROW.size

    def _opened(self, shard: int) -> tuple[bytes, mmap.mmap]:
        rows, tar = self._shards[shard]
        return (rows, tar) if tar is not None else self._fetch(shard)

    def _fetch(self, shard: int) -> tuple[bytes, mmap.mmap]:
        if self._fetching[0] != os.getpid():  # a fork may have copied the lock while it was held
            self._fetching = (os.getpid(), threading.RLock())
        with self._fetching[1]:
            rows, tar = self._shards[shard]
            if tar is not None:
                return rows, tar
            try:
                tar = self._checked_tar(shard)
            except IntegrityError:
                if not self._follow():
                    raise
                tar = self._checked_tar(shard)
            self._shards[shard] = (self._shards[shard][0], tar)
            self._fetched.append(shard)
            self._make_room()
            return self._shards[shard][0], tar

    def _checked_tar(self, shard: int) -> mmap.mmap:
        manifest = self.generation.shards[shard]
        tar = self._files.open_tar(self.generation.number, manifest)
        try:
            _check_tar(tar, self.rows(shard), manifest, self._path_of(shard))
        except BaseException:
            tar.close()
            raise
        return tar

    def _make_room(self) -> None:
        """Lets go of the tars that were fetched first. Who is reading in one still holds it: it is not closed here."""
        mapped = {shard: len(tar) for shard, (_, tar) in enumerate(self._shards) if tar is not None}
        while len(self._fetched) > 1 and sum(mapped.values()) > (self._files.keep_bytes or 0):
            first = self._fetched.popleft()
            mapped.pop(first, None)
            self._shards[first] = (self._shards[first][0], None)

    def _follow(self) -> bool:
        """Goes on with a newer generation when a prune took this one away; False when there is none.

        Shards that were not touched are the same there, in the others the removed slots are empty.
        """
        number = _newest(self._files)
        if number in (None, self.generation.number):
            return False
        assert number is not None
        newer = read_generation(self._files, number)
        _check_cover(self._files, self.manifest, newer)
        for at, (old, new) in enumerate(zip(self.generation.shards, newer.shards, strict=True)):
            if new != old:
                self._shards[at] = (_read_index(self._files, number, new).tobytes(), None)
        self._fetched = deque(shard for shard in self._fetched if self._shards[shard][1] is not None)
        self.generation, self.directory = newer, self._files.where(generation_name(number))
        return True

    def _text(self, shard: int, tar: mmap.mmap, offset: int, length: int) -> str:
        try:
            return tar[offset : offset + length].decode()
        except UnicodeDecodeError as error:
            what = f"a text at byte {offset} is not UTF-8"
            raise IntegrityError(what, where=self._path_of(shard), remedy=_RESTORE) from error

    def _path_of(self, shard: int) -> str:
        return self._files.where(f"{generation_name(self.generation.number)}/{self.generation.shards[shard].path}")


def samples_in(dataset: Dataset) -> Iterator[SealedSample]:
    """Every live sample of the current generation, by ordinal, after the strict reader has checked all of it."""
    with DatasetReader.open(dataset) as reader:
        yield from reader.samples()


def verify_dataset(dataset: Dataset) -> list[str]:
    """Checks every file of every complete generation, going on after a failure; one message each, [] if sound."""
    failures: list[str] = []
    files = _files_of(dataset)
    with _noting(failures):
        manifest = read_manifest(files)
        with _noting(failures):
            read_commitments(files, manifest)
        with _noting(failures):
            _current(files)
        for number in files.generations():
            if _is_complete(files, number):
                found = _verify_generation(files, manifest, number)
                # What a prune took away meanwhile is no failure.
                failures.extend(found if _is_complete(files, number) else ())
    return failures


def _verify_generation(files: DatasetFiles, manifest: DatasetManifest, number: int) -> list[str]:
    failures: list[str] = []
    with _noting(failures):
        generation = read_generation(files, number)
        _check_cover(files, manifest, generation)
        for shard in generation.shards:
            with _noting(failures):
                check_shard(files, number, shard)
        failures.extend(files.strays(number, _names_of(generation.shards) | {"generation.json"}))
    return failures


@contextmanager
def _noting(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except CustodyError as error:
        failures.append(str(error))


def read_manifest(dataset: Dataset) -> DatasetManifest:
    """dataset.json. Raises InputError when there is none, IntegrityError when it is not a dataset's manifest."""
    files = _files_of(dataset)
    if not files.has("dataset.json"):
        raise InputError("there is no dataset (dataset.json is missing)", where=files.where())
    where = files.where("dataset.json")
    manifest = DatasetManifest.from_json(_read_text(files, "dataset.json"), where=where)
    if not isinstance(manifest.slots, int) or manifest.slots < 1 or not isinstance(manifest.root, str):
        raise IntegrityError("slots and root are not what a manifest holds", where=where, remedy=_RESTORE)
    return manifest


def read_commitments(dataset: Dataset, manifest: DatasetManifest) -> bytes:
    """leaves.bin, 32 bytes a slot. Raises IntegrityError unless it gives the manifest's root."""
    files = _files_of(dataset)
    leaves, where = files.read("leaves.bin"), files.where("leaves.bin")
    if len(leaves) != manifest.slots * COMMITMENT_BYTES:
        what = f"{len(leaves)} bytes are not {COMMITMENT_BYTES} for each of {manifest.slots} slots"
        raise IntegrityError(what, where=where, remedy=_RESTORE)
    commitments = [leaves[at : at + COMMITMENT_BYTES] for at in range(0, len(leaves), COMMITMENT_BYTES)]
    if dataset_root(commitments) != manifest.root:
        what = "the commitments do not give the root in dataset.json: one of the two files was altered"
        raise IntegrityError(what, where=where, remedy=_RESTORE)
    return leaves


def read_generation(dataset: Dataset, number: int) -> Generation:
    """One generation's manifest, its root recomputed. Raises IntegrityError naming the file."""
    files, name = _files_of(dataset), f"{generation_name(number)}/generation.json"
    where = files.where(name)
    generation = Generation.from_json(_read_text(files, name), where=where)
    if generation.number != number:
        raise IntegrityError(f"it says generation {generation.number}", where=where, remedy=_RESTORE)
    return generation


def check_shard(dataset: Dataset, number: int, shard: ShardManifest) -> None:
    """Holds a generation's shard, as it lies there, against its manifest and index to the last byte.

    Raises IntegrityError naming the file.
    """
    files = _files_of(dataset)
    rows = _read_index(files, number, shard)
    with files.open_tar(number, shard, fresh=True) as tar:
        _check_tar(tar, rows, shard, files.where(f"{generation_name(number)}/{shard.path}"))


def _check_tar(tar: mmap.mmap, rows: npt.NDArray[np.void], shard: ShardManifest, where: str) -> None:
    """The digest first, which tells damage from forgery; then every header, padding and the end must be exactly what
    our writer makes of the index: that leaves no room for another member, name, type or link.
    """
    digest = hashlib.sha256()
    for at in range(0, len(tar), _COPY_BYTES):
        digest.update(tar[at : at + _COPY_BYTES])
    if digest.hexdigest() != shard.sha256:
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=where, remedy=_RESTORE)
    end = 0
    for row in rows[rows["live"] == 1]:
        stem = row["key"].tobytes().hex()
        image_ext = IMAGE_EXTENSIONS[int(row["image_ext"])]
        for ext, kind in ((image_ext, "image"), ("txt", "text"), ("json", "json")):
            length = int(row[f"{kind}_length"])
            data = end + _BLOCK
            if tar[end:data] != _header(f"{stem}.{ext}", length):
                found = tar[end : end + 100].split(b"\0")[0].decode(errors="backslashreplace")
                what = f"at byte {end} the {ext} of slot {row['ordinal']} belongs; {found!r} is none, or no plain file"
                raise IntegrityError(what, where=where, remedy=_RESTORE)
            end = data + length + -length % _BLOCK
            if any(tar[data + length : end]):
                what = f"bytes are hidden behind the {ext} of slot {row['ordinal']}"
                raise IntegrityError(what, where=where, remedy=_RESTORE)
    if tar[end:] != _END:
        raise IntegrityError(f"something follows the last member, at byte {end}", where=where, remedy=_RESTORE)


def _check_cover(files: DatasetFiles, manifest: DatasetManifest, generation: Generation) -> None:
    where = files.where(f"{generation_name(generation.number)}/generation.json")
    if generation.dataset != manifest.dataset:
        what = f"it belongs to dataset {generation.dataset!r}, dataset.json to {manifest.dataset!r}"
        raise IntegrityError(what, where=where, remedy=_RESTORE)
    shards = generation.shards
    for number, shard in enumerate(shards):
        last = number == len(shards) - 1
        fits = (
            shard.path == f"shard-{number:06d}.tar"
            and _SHARD_NAME.fullmatch(shard.path)
            and shard.first_ordinal == number * shards[0].slots
            and (0 < shard.slots <= shards[0].slots if last else shard.slots == shards[0].slots)
        )
        if not fits:
            raise IntegrityError(f"shard {number} is not where its ordinals belong", where=where, remedy=_RESTORE)
    if not shards or shards[-1].first_ordinal + shards[-1].slots != manifest.slots:
        raise IntegrityError(f"the shards do not cover {manifest.slots} slots", where=where, remedy=_RESTORE)


def _read_index(files: DatasetFiles, number: int, shard: ShardManifest) -> npt.NDArray[np.void]:
    """The index, after its digest, shape and arithmetic were checked: extents follow each other without a gap."""
    name = f"{generation_name(number)}/{index_name(shard)}"
    data, where = files.read(name), files.where(name)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=where, remedy=_RESTORE)
    rows = _parse_index(data, shard.slots)
    if rows is None or not _is_sound(rows, shard):
        raise IntegrityError("the index does not describe its shard", where=where, remedy=_RESTORE)
    return rows


def _parse_index(data: bytes, slots: int) -> npt.NDArray[np.void] | None:
    """The rows of an .npy file that says it holds just `slots` of them: np.load would believe any shape, or a zip."""
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, SyntaxError, TypeError, TokenError):
        return None
    if dtype != INDEX_DTYPE or shape != (slots,) or len(data) != file.tell() + slots * INDEX_DTYPE.itemsize:
        return None
    return np.frombuffer(data, INDEX_DTYPE, offset=file.tell())


def _is_sound(rows: npt.NDArray[np.void], shard: ShardManifest) -> bool:
    live = rows[rows["live"] == 1]
    empty = _empty_rows(shard.first_ordinal, shard.slots)
    kinds = ("image", "text", "json")
    lengths = np.stack([live[f"{kind}_length"] for kind in kinds], axis=1).astype(np.int64).ravel()
    offsets = np.stack([live[f"{kind}_offset"] for kind in kinds], axis=1).ravel()
    extents = _BLOCK + lengths + -lengths % _BLOCK
    return bool(
        np.array_equal(rows["ordinal"], empty["ordinal"])
        and (rows[rows["live"] != 1] == empty[rows["live"] != 1]).all()
        and len(live) == shard.live
        and (lengths >= 0).all()
        and (live["image_ext"] < len(IMAGE_EXTENSIONS)).all()
        and np.array_equal(offsets, np.cumsum(extents) - extents + _BLOCK)
        and int(extents.sum()) + len(_END) == shard.size_bytes
    )


def _empty_rows(first_ordinal: int, slots: int) -> npt.NDArray[np.void]:
    rows: npt.NDArray[np.void] = np.zeros(slots, INDEX_DTYPE)
    rows["ordinal"] = np.arange(first_ordinal, first_ordinal + slots)
    return rows


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(name: str, size_bytes: int) -> bytes:
    """A ustar header of a regular file: mode 0644, owner, group and time 0 (POSIX.1-2017, pax)."""
    stem, size = name.encode("ascii"), b"%011o" % size_bytes
    checksum = b"%06o\0 " % (_HEADER_SUM + sum(stem) + sum(size))
    return b"".join((stem, _HEADER[len(stem) : 124], size, _HEADER[135:148], checksum, _HEADER[156:]))


def _blank_header() -> bytes:
    header = bytearray(_BLOCK)
    for at, text in ((100, b"0000644"), (108, b"0000000"), (116, b"0000000"), (136, b"00000000000"), (156, b"0")):
        header[at : at + len(text)] = text
    for at, text in ((257, b"ustar\x0000"), (329, b"0000000"), (337, b"0000000")):
        header[at : at + len(text)] = text
    return bytes(header)


_HEADER = _blank_header()
_HEADER_SUM = sum(_HEADER) + 8 * 0x20  # the checksum field counts as eight spaces
_ZEROS = bytes(_BLOCK)


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


def _is_complete(files: DatasetFiles, number: int) -> bool:
    return files.has(f"{generation_name(number)}/generation.json")


def _newest(files: DatasetFiles) -> int | None:
    # One that was not complete when it was looked at may be so, and the one before it pruned, by the time that is
    # looked at: so nothing found is looked for again.
    for _ in range(_LOOKS):
        for number in reversed(files.generations()):
            if _is_complete(files, number):
                return number
    return None


_LOOKS = 3


def _current(files: DatasetFiles) -> int:
    number = _newest(files)
    if number is None:
        remedy = "Run the sealing again: it goes on where it stopped"
        raise IntegrityError("no generation is complete", where=files.where(), remedy=remedy)
    return number


def _read_text(files: DatasetFiles, name: str) -> str:
    try:
        return files.read(name).decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("not UTF-8", where=files.where(name), remedy=_RESTORE) from error


def _files_of(dataset: Dataset) -> DatasetFiles:
    return LocalFiles(dataset) if isinstance(dataset, Path) else dataset


class LocalFiles:
    """A dataset in a directory: shards are written where they stay, linked from one generation to the next, mapped."""

    keep_bytes = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def where(self, name: str = "") -> str:
        return str(self.directory / name)

    def make(self) -> None:
        with _storing(self.directory):
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
        _write_whole(self.directory / name, data)

    def begin(self, number: int, *, anew: bool) -> Path:
        directory = self.directory / generation_name(number)
        with _storing(directory):
            if anew:
                shutil.rmtree(directory, ignore_errors=True)  # what a killed reseal left
            directory.mkdir(exist_ok=True)
        return directory

    def keep(self, number: int, shard: ShardManifest) -> None:
        """It lies where it belongs."""

    def reuse(self, source: int, number: int, shard: ShardManifest) -> None:
        for name in (shard.path, index_name(shard)):
            old, new = (self.directory / generation_name(n) / name for n in (source, number))
            with _storing(new):
                try:
                    os.link(old, new, follow_symlinks=False)
                except FileNotFoundError as error:
                    raise IntegrityError("the file is missing", where=str(old), remedy=_RESTORE) from error
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS):
                        raise
                    # A file system without hard links: a copy costs space, nothing else.
                    shutil.copyfile(old, new)
                    with new.open("rb") as copy:
                        os.fsync(copy.fileno())

    def tidy(self, number: int, known: Collection[str]) -> None:
        directory = self.directory / generation_name(number)
        with _storing(directory):
            for path in directory.iterdir():
                if path.name not in known:
                    path.unlink()
            _sync_dir(directory)
            _sync_dir(directory.parent)

    def drop(self, number: int) -> None:
        directory = self.directory / generation_name(number)
        with _storing(directory):
            # generation.json goes first, so that a half-dropped generation never passes for a complete one.
            (directory / "generation.json").unlink(missing_ok=True)
            if directory.is_dir():
                _sync_dir(directory)
                shutil.rmtree(directory)
                _sync_dir(directory.parent)

    def sweep(self, number: int) -> None:
        with _storing(self.directory):
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
    tar = _map(path)
    if len(tar) != size_bytes:
        found = len(tar)
        tar.close()
        what = f"{found} bytes where {size_bytes} were sealed: truncated or overgrown"
        raise IntegrityError(what, where=str(path), remedy=_RESTORE)
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
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Free some space or mend the permissions and run it again: finished shards are kept"
        raise StorageError(f"cannot write ({error.strerror or error})", where=str(path), remedy=remedy) from error


def _write_whole(path: Path, data: bytes) -> None:
    tmp = _tmp_of(path)
    with _storing(path):
        try:
            with tmp.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
        except OSError:
            tmp.unlink(missing_ok=True)
            raise
        _sync_dir(path.parent)


def _tmp_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _sync_and_close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _sync_dir(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _map(path: Path) -> mmap.mmap:
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise IntegrityError("the file is empty", where=str(path), remedy=_RESTORE)
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
        raise IntegrityError(f"the file cannot be read ({reason})", where=str(path), remedy=_RESTORE) from error
    with file:
        yield file
