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
dataset (flock on its directory); readers need no lock, and what they have open stays readable after a prune.
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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import BinaryIO, Self

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


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write_dataset(
    dataset_dir: Path,
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
    with _storing(dataset_dir):
        dataset_dir.mkdir(parents=True, exist_ok=True)
    with _locked(dataset_dir):
        _fix_slots(dataset_dir, manifest, commitments)
        if _newest(dataset_dir) is not None:
            with DatasetReader.open(dataset_dir) as reader:
                return reader.generation
        directory = _generation_dir(dataset_dir, 0)
        with _storing(directory):
            directory.mkdir(exist_ok=True)
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
        return _publish(directory, manifest.dataset, 0, shards, removals)


def reseal(dataset_dir: Path, removed_ordinals: Collection[int], removal_id: str) -> Generation:
    """Makes a new generation without the given ordinals and returns it; their slots stay, empty.

    Shards that hold none of them are hard-linked, the others are checked and their live extents copied. The previous
    generation still lies beside the new one: `prune` takes it, and the removed bytes with it. Run again after a crash
    it starts the new generation over; run again after it finished it returns that generation.
    Raises InputError for an ordinal that is no slot, IntegrityError when a touched shard is damaged.
    """
    with _locked(dataset_dir), DatasetReader.open(dataset_dir, verify=False) as reader:
        removed = frozenset(int(ordinal) for ordinal in removed_ordinals)
        strange = [ordinal for ordinal in removed if not 0 <= ordinal < reader.slots]
        if strange:
            raise InputError(f"ordinal {min(strange)} is no slot of {reader.slots}", where=str(dataset_dir))
        current = reader.generation
        doomed = sorted(ordinal for ordinal in removed if reader.is_live(ordinal))
        if not doomed and (not removed or removal_id in current.removals):
            return current
        directory = _generation_dir(dataset_dir, current.number + 1)
        with _storing(directory):
            shutil.rmtree(directory, ignore_errors=True)  # what a killed reseal left
            directory.mkdir()
        shards = []
        for number, shard in enumerate(current.shards):
            here = {o for o in doomed if shard.first_ordinal <= o < shard.first_ordinal + shard.slots}
            if here:
                check_shard(reader.directory, shard)
                shards.append(_copy_live(reader, number, here, directory))
            else:
                _link_shard(reader.directory, shard, directory)
                shards.append(shard)
        removals = (*current.removals, *(() if removal_id in current.removals else (removal_id,)))
        return _publish(directory, current.dataset, current.number + 1, shards, removals)


def drop_generation(dataset_dir: Path, number: int) -> None:
    """Unlinks a superseded or unfinished generation; one that is gone already is fine. Refuses the current one."""
    with _locked(dataset_dir):
        if _newest(dataset_dir) == number:
            raise InputError(
                "the current generation cannot be dropped", where=str(_generation_dir(dataset_dir, number))
            )
        _drop(_generation_dir(dataset_dir, number))


def prune(dataset_dir: Path) -> tuple[int, ...]:
    """Keeps only the newest complete generation; returns the numbers of those that went, unfinished ones included.

    Afterwards no byte of a removed sample lies under the directory. Raises IntegrityError when none is complete.
    """
    with _locked(dataset_dir):
        keep = _current(dataset_dir)
        dropped = tuple(number for number in _generations(dataset_dir) if number != keep)
        for number in dropped:
            _drop(_generation_dir(dataset_dir, number))
        with _storing(dataset_dir):
            for directory in (dataset_dir, _generation_dir(dataset_dir, keep)):
                for leftover in directory.glob(".*.tmp"):
                    leftover.unlink()
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


def _fix_slots(dataset_dir: Path, manifest: DatasetManifest, commitments: Sequence[bytes]) -> None:
    """Writes dataset.json and leaves.bin, or checks those that lie there; only the time of sealing may differ."""
    path = dataset_dir / "dataset.json"
    if path.exists():
        known = read_manifest(dataset_dir)
        if asdict(known) | {"sealed_at": ""} != asdict(manifest) | {"sealed_at": ""}:
            raise IntegrityError(
                f"the directory belongs to another dataset ({known.dataset}, root {known.root[:16]})",
                where=str(path),
                remedy="Seal into a directory of its own, or delete this one if its sealing was never finished",
            )
    else:
        _write_whole(path, manifest.to_json().encode())
    leaves = dataset_dir / "leaves.bin"
    if leaves.exists():
        read_commitments(dataset_dir, manifest)
    else:
        _write_whole(leaves, b"".join(commitments))


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
        offsets = [self._add_member(f"{sample.key}.{ext}", data, sample.ordinal) for ext, data in members]
        lengths = [len(data) for _, data in members]
        ext = IMAGE_EXTENSIONS.index(sample.image_ext)
        row = _ROW.pack(sample.ordinal, *offsets, *lengths, 1, ext, bytes.fromhex(sample.key))
        self._rows[sample.ordinal - self._first] = np.frombuffer(row, INDEX_DTYPE)[0]

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

    def _add_member(self, name: str, data: bytes, ordinal: int) -> int:
        if len(data) > _MAX_MEMBER_BYTES:
            raise InputError(f"{len(data)} bytes are more than a member may have (2 GiB)", where=f"slot {ordinal}")
        offset = self._tar.size_bytes + _BLOCK
        self._tar.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK))
        return offset


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


def _link_shard(source: Path, shard: ShardManifest, directory: Path) -> None:
    for name in (shard.path, _index_name(shard)):
        with _storing(directory / name):
            try:
                os.link(source / name, directory / name, follow_symlinks=False)
            except FileNotFoundError as error:
                raise IntegrityError("the file is missing", where=str(source / name), remedy=_RESTORE) from error
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS):
                    raise
                # A file system without hard links: a copy costs space, nothing else.
                shutil.copyfile(source / name, directory / name)
                with (directory / name).open("rb") as copy:
                    os.fsync(copy.fileno())


def _publish(
    directory: Path, dataset: str, number: int, shards: Sequence[ShardManifest], removals: Sequence[str]
) -> Generation:
    """Takes away what is not in `shards` (left by an earlier attempt), then writes generation.json."""
    known = {name for shard in shards for name in (shard.path, _index_name(shard))}
    generation = Generation(dataset, number, Generation.root_of(shards), tuple(shards), tuple(removals))
    with _storing(directory):
        for path in directory.iterdir():
            if path.name not in known:
                path.unlink()
        _sync_dir(directory)
        _sync_dir(directory.parent)
    _write_whole(directory / "generation.json", generation.to_json().encode())
    return generation


def _drop(directory: Path) -> None:
    with _storing(directory):
        # generation.json goes first, so that a half-dropped generation never passes for a complete one.
        (directory / "generation.json").unlink(missing_ok=True)
        if directory.is_dir():
            _sync_dir(directory)
            shutil.rmtree(directory)
            _sync_dir(directory.parent)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


class DatasetReader:
    """Random access to a sealed dataset's current generation. Safe across threads and forks; a context manager.

    Every method that takes an ordinal raises IndexError outside [0, slots) and gives None for an empty slot.
    """

    def __init__(
        self, directory: Path, manifest: DatasetManifest, generation: Generation, leaves: bytes, verify: bool
    ) -> None:
        self.directory = directory
        """The generation's directory."""
        self.manifest, self.generation = manifest, generation
        self._leaves, self._slots = leaves, manifest.slots
        self._shard_slots = generation.shards[0].slots
        self._index: list[bytes] = []
        self._tars: list[mmap.mmap] = []
        try:
            for shard in generation.shards:
                rows = _read_index(directory, shard)
                self._index.append(rows.tobytes())
                self._tars.append(_open_tar(directory, shard))
                if verify:
                    _check_tar(self._tars[-1], rows, shard, str(directory / shard.path))
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, dataset_dir: Path, verify: bool = True) -> Self:
        """Opens the newest complete generation after checking it against its manifests.

        `verify=False` leaves out what needs every byte of the tars (their sha256 and headers); sizes, indexes, leaves
        and roots are always checked. Raises InputError when there is no dataset, IntegrityError naming the file.
        """
        manifest = read_manifest(dataset_dir)
        leaves = read_commitments(dataset_dir, manifest)
        while True:
            number = _current(dataset_dir)
            try:
                generation = read_generation(dataset_dir, number)
                _check_cover(dataset_dir, manifest, generation)
                return cls(_generation_dir(dataset_dir, number), manifest, generation, leaves, verify)
            except IntegrityError:
                # A newer generation may have been published and this one taken away while it was being opened.
                if _newest(dataset_dir) == number:
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
        return bool(_ROW.unpack_from(self._index[shard], row)[7])

    def image_bytes(self, ordinal: int) -> bytes | None:
        """The encoded picture."""
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._index[shard], row)
        return self._tars[shard][fields[1] : fields[1] + fields[4]] if fields[7] else None

    def image_ext(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._index[shard], row)
        return IMAGE_EXTENSIONS[fields[8]] if fields[7] else None

    def caption(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._index[shard], row)
        return self._text(shard, fields[2], fields[5]) if fields[7] else None

    def metadata_json(self, ordinal: int) -> str | None:
        """The member <key>.json as it was sealed."""
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._index[shard], row)
        return self._text(shard, fields[3], fields[6]) if fields[7] else None

    def metadata(self, ordinal: int) -> Mapping[str, object] | None:
        """The member <key>.json, parsed."""
        text = self.metadata_json(ordinal)
        if text is None:
            return None
        if not _is_json_object(text):
            raise IntegrityError(f"the metadata of slot {ordinal} are no JSON object", where=self._path_of(ordinal))
        parsed: dict[str, object] = json.loads(text)
        return parsed

    def key(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = _ROW.unpack_from(self._index[shard], row)
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
        return np.concatenate([self.rows(number)["live"] == 1 for number in range(len(self._index))])

    def rows(self, shard: int) -> npt.NDArray[np.void]:
        """The index of one shard: INDEX_DTYPE [slots of the shard], read-only."""
        return np.frombuffer(self._index[shard], INDEX_DTYPE)

    def tar(self, shard: int) -> mmap.mmap:
        """The bytes of one shard."""
        return self._tars[shard]

    def close(self) -> None:
        for tar in self._tars:
            tar.close()
        self._tars = []

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

    def _text(self, shard: int, offset: int, length: int) -> str:
        try:
            return self._tars[shard][offset : offset + length].decode()
        except UnicodeDecodeError as error:
            where = str(self.directory / self.generation.shards[shard].path)
            raise IntegrityError(f"a text at byte {offset} is not UTF-8", where=where, remedy=_RESTORE) from error

    def _path_of(self, ordinal: int) -> str:
        return str(self.directory / self.generation.shards[ordinal // self._shard_slots].path)


def samples_in(dataset_dir: Path) -> Iterator[SealedSample]:
    """Every live sample of the current generation, by ordinal, after the strict reader has checked all of it."""
    with DatasetReader.open(dataset_dir) as reader:
        yield from reader.samples()


def verify_dataset(dataset_dir: Path) -> list[str]:
    """Checks every file of every complete generation, going on after a failure; one message each, [] if sound."""
    failures: list[str] = []
    with _noting(failures):
        manifest = read_manifest(dataset_dir)
        with _noting(failures):
            read_commitments(dataset_dir, manifest)
        with _noting(failures):
            _current(dataset_dir)
        for number in _generations(dataset_dir):
            if _is_complete(dataset_dir, number):
                found = _verify_generation(dataset_dir, manifest, number)
                # What a prune took away meanwhile is no failure.
                failures.extend(found if _is_complete(dataset_dir, number) else ())
    return failures


def _verify_generation(dataset_dir: Path, manifest: DatasetManifest, number: int) -> list[str]:
    failures: list[str] = []
    directory = _generation_dir(dataset_dir, number)
    with _noting(failures):
        generation = read_generation(dataset_dir, number)
        _check_cover(dataset_dir, manifest, generation)
        for shard in generation.shards:
            with _noting(failures):
                check_shard(directory, shard)
        known = {name for shard in generation.shards for name in (shard.path, _index_name(shard))}
        present: set[str] = set()
        with suppress(FileNotFoundError):  # a prune was faster
            present.update(os.listdir(directory))
        strays = sorted(present - known - {"generation.json"})
        failures.extend(f"{directory / name}: no file of this dataset. Move it away" for name in strays)
    return failures


@contextmanager
def _noting(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except CustodyError as error:
        failures.append(str(error))


def read_manifest(dataset_dir: Path) -> DatasetManifest:
    """dataset.json. Raises InputError when there is none, IntegrityError when it is not a dataset's manifest."""
    path = dataset_dir / "dataset.json"
    if not path.is_file():
        raise InputError("there is no dataset (dataset.json is missing)", where=str(dataset_dir))
    manifest = DatasetManifest.from_json(_read_text(path), where=str(path))
    if not isinstance(manifest.slots, int) or manifest.slots < 1 or not isinstance(manifest.root, str):
        raise IntegrityError("slots and root are not what a manifest holds", where=str(path), remedy=_RESTORE)
    return manifest


def read_commitments(dataset_dir: Path, manifest: DatasetManifest) -> bytes:
    """leaves.bin, 32 bytes a slot. Raises IntegrityError unless it gives the manifest's root."""
    path = dataset_dir / "leaves.bin"
    leaves = _read_bytes(path)
    if len(leaves) != manifest.slots * COMMITMENT_BYTES:
        what = f"{len(leaves)} bytes are not {COMMITMENT_BYTES} for each of {manifest.slots} slots"
        raise IntegrityError(what, where=str(path), remedy=_RESTORE)
    commitments = [leaves[at : at + COMMITMENT_BYTES] for at in range(0, len(leaves), COMMITMENT_BYTES)]
    if dataset_root(commitments) != manifest.root:
        what = "the commitments do not give the root in dataset.json: one of the two files was altered"
        raise IntegrityError(what, where=str(path), remedy=_RESTORE)
    return leaves


def read_generation(dataset_dir: Path, number: int) -> Generation:
    """One generation's manifest, its root recomputed. Raises IntegrityError naming the file."""
    path = _generation_dir(dataset_dir, number) / "generation.json"
    generation = Generation.from_json(_read_text(path), where=str(path))
    if generation.number != number:
        raise IntegrityError(f"it says generation {generation.number}", where=str(path), remedy=_RESTORE)
    return generation


def check_shard(directory: Path, shard: ShardManifest) -> None:
    """Holds a shard against its manifest and index to the last byte; IntegrityError names the file."""
    rows = _read_index(directory, shard)
    with _open_tar(directory, shard) as tar:
        _check_tar(tar, rows, shard, str(directory / shard.path))


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


def _check_cover(dataset_dir: Path, manifest: DatasetManifest, generation: Generation) -> None:
    where = str(_generation_dir(dataset_dir, generation.number) / "generation.json")
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


def _read_index(directory: Path, shard: ShardManifest) -> npt.NDArray[np.void]:
    """The index, after its digest, shape and arithmetic were checked: extents follow each other without a gap."""
    path = directory / _index_name(shard)
    data = _read_bytes(path)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=str(path), remedy=_RESTORE)
    rows = _parse_index(data, shard.slots)
    if rows is None or not _is_sound(rows, shard):
        raise IntegrityError("the index does not describe its shard", where=str(path), remedy=_RESTORE)
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


def _open_tar(directory: Path, shard: ShardManifest) -> mmap.mmap:
    path = directory / shard.path
    tar = _map(path)
    if len(tar) != shard.size_bytes:
        found = len(tar)
        tar.close()
        what = f"{found} bytes where {shard.size_bytes} were sealed: truncated or overgrown"
        raise IntegrityError(what, where=str(path), remedy=_RESTORE)
    return tar


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(name: str, size_bytes: int) -> bytes:
    """A ustar header of a regular file: mode 0644, owner, group and time 0 (POSIX.1-2017, pax)."""
    header = bytearray(_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size_bytes
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 0x20)  # the checksum field counts as eight spaces
    return bytes(header)


def _blank_header() -> bytes:
    header = bytearray(_BLOCK)
    for at, text in ((100, b"0000644"), (108, b"0000000"), (116, b"0000000"), (136, b"00000000000"), (156, b"0")):
        header[at : at + len(text)] = text
    for at, text in ((257, b"ustar\x0000"), (329, b"0000000"), (337, b"0000000")):
        header[at : at + len(text)] = text
    return bytes(header)


_HEADER = _blank_header()


def _index_name(shard: ShardManifest) -> str:
    return f"{shard.path.removesuffix('.tar')}.index.npy"


def _generation_dir(dataset_dir: Path, number: int) -> Path:
    return dataset_dir / f"generation-{number:04d}"


def _generations(dataset_dir: Path) -> list[int]:
    names = [_GENERATION_NAME.fullmatch(p.name) for p in dataset_dir.iterdir()] if dataset_dir.is_dir() else []
    return sorted(int(name[1]) for name in names if name)


def _is_complete(dataset_dir: Path, number: int) -> bool:
    return (_generation_dir(dataset_dir, number) / "generation.json").is_file()


def _newest(dataset_dir: Path) -> int | None:
    return max((n for n in _generations(dataset_dir) if _is_complete(dataset_dir, n)), default=None)


def _current(dataset_dir: Path) -> int:
    number = _newest(dataset_dir)
    if number is None:
        remedy = "Run the sealing again: it goes on where it stopped"
        raise IntegrityError("no generation is complete", where=str(dataset_dir), remedy=remedy)
    return number


@contextmanager
def _locked(dataset_dir: Path) -> Iterator[None]:
    """One writer a dataset; the lock goes with its process, however that ends."""
    try:
        handle = os.open(dataset_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"there is no dataset ({error.strerror})", where=str(dataset_dir)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError("another process is sealing this dataset", where=str(dataset_dir)) from error
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


def _read_bytes(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("not UTF-8", where=str(path), remedy=_RESTORE) from error


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
