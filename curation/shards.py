"""Sealed datasets: WebDataset tars with an offset index, written here, read back only by curation/shard_reader.py.

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

import hashlib
import io
import mmap
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

from curation.shard_files import (
    BLOCK_BYTES,
    COMMITMENT_BYTES,
    COPY_BYTES,
    IMAGE_EXTENSIONS,
    INDEX_ROW,
    TAR_END,
    Dataset,
    DatasetFiles,
    SealedSample,
    current_generation,
    empty_rows,
    files_of,
    generation_name,
    is_json_object,
    map_file,
    member_header,
    names_of,
    newest_generation,
    storing,
    sync_and_close,
    tmp_of,
)
from curation.shard_reader import DatasetReader, check_shard, read_commitments, read_manifest
from policy.durable import sync_directory, write_durably
from policy.errors import InputError, IntegrityError
from policy.provenance import DatasetManifest, Generation, ShardManifest, dataset_root

MAX_SHARD_SLOTS = 1_000_000

_KEY = re.compile(r"[0-9a-f]{32}")
_MAX_MEMBER_BYTES = 2**31 - 1
_ZEROS = bytes(BLOCK_BYTES)


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
    files = files_of(dataset)
    files.make()
    with files.locked():
        _fix_slots(files, manifest, commitments)
        if newest_generation(files) is not None:
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


def reseal(dataset: Dataset, removed_ordinals: Collection[int], removed_for: str | Collection[str]) -> Generation:
    """Makes a new generation without the given ordinals and returns it; their slots stay, empty.

    `removed_for`: the removal, or all those, that this carries through.

    Shards that hold none of them are hard-linked (or copied by the object store), the others are checked and their
    live extents copied. The previous generation still lies beside the new one: `prune` takes it, and the removed bytes
    with it. Run again after a crash it starts the new generation over; run again after it finished it returns that
    generation. Raises InputError for an ordinal that is no slot, IntegrityError when a touched shard is damaged.
    """
    files = files_of(dataset)
    with files.locked(), DatasetReader.open(files, verify=False) as reader:
        removed = frozenset(int(ordinal) for ordinal in removed_ordinals)
        strange = [ordinal for ordinal in removed if not 0 <= ordinal < reader.slots]
        if strange:
            raise InputError(f"ordinal {min(strange)} is no slot of {reader.slots}", where=files.where())
        current = reader.generation
        doomed = sorted(ordinal for ordinal in removed if reader.is_live(ordinal))
        names = {removed_for} if isinstance(removed_for, str) else set(removed_for)
        added = sorted(names.difference(current.removals))
        if not doomed and (not removed or not added):
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
        return _publish(files, current.dataset, current.number + 1, shards, (*current.removals, *added))


def drop_generation(dataset: Dataset, number: int) -> None:
    """Deletes a superseded or unfinished generation; one that is gone already is fine. Refuses the current one."""
    files = files_of(dataset)
    with files.locked():
        if newest_generation(files) == number:
            raise InputError("the current generation cannot be dropped", where=files.where(generation_name(number)))
        files.drop(number)


def prune(dataset: Dataset) -> tuple[int, ...]:
    """Keeps only the newest complete generation; returns the numbers of those that went, unfinished ones included.

    Afterwards no byte of a removed sample lies there. Raises IntegrityError when no generation is complete.
    """
    files = files_of(dataset)
    with files.locked():
        keep = current_generation(files)
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


# Of a manifest: when it was sealed, and what was counted then. A sealing that goes on later counts differently.
_OF_THE_TIME: Final = {"sealed_at": "", "occurrences": None, "near_duplicates": None}


def _fix_slots(files: DatasetFiles, manifest: DatasetManifest, commitments: Sequence[bytes]) -> None:
    """Writes dataset.json and leaves.bin, or checks those that lie there; only what was true at the time may differ."""
    if files.has("dataset.json"):
        known = read_manifest(files)
        if asdict(known) | _OF_THE_TIME != asdict(manifest) | _OF_THE_TIME:
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
        if not is_json_object(sample.metadata_json):
            raise InputError("the metadata are no JSON object", where=where)
        previous = sample.ordinal
        yield sample


class _ShardWriter:
    """Writes a shard's tar and index. Slots that get no sample are empty."""

    def __init__(self, directory: Path, number: int, first_ordinal: int, slots: int) -> None:
        self._directory, self._name = directory, f"shard-{number:06d}"
        self._first, self._slots = first_ordinal, slots
        self._tar = _ComparingFile(directory / f"{self._name}.tar")
        self._rows = empty_rows(first_ordinal, slots)
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
            offsets.append(at + BLOCK_BYTES)
            parts += (member_header(f"{sample.key}.{ext}", len(data)), data, _ZEROS[: -len(data) % BLOCK_BYTES])
            at += BLOCK_BYTES + len(data) + -len(data) % BLOCK_BYTES
        self._tar.write(b"".join(parts))
        lengths = [len(data) for _, data in members]
        image_ext = IMAGE_EXTENSIONS.index(sample.image_ext)
        at = (sample.ordinal - self._first) * INDEX_ROW.size
        key = bytes.fromhex(sample.key)
        INDEX_ROW.pack_into(self._rows_bytes, at, sample.ordinal, *offsets, *lengths, 1, image_ext, key)

    def copy(self, source: mmap.mmap, start: int, stop: int, rows: npt.NDArray[np.void]) -> None:
        """Takes over source[start:stop], the whole members of the slots in `rows`."""
        moved = rows.copy()
        for name in ("image_offset", "text_offset", "json_offset"):
            moved[name] += self._tar.size_bytes - start
        self._rows[rows["ordinal"] - self._first] = moved
        for at in range(start, stop, COPY_BYTES):
            self._tar.write(source[at : min(at + COPY_BYTES, stop)])

    def finish(self) -> ShardManifest:
        self._tar.write(TAR_END)
        self._tar.keep()
        index = io.BytesIO()
        np.save(index, self._rows, allow_pickle=False)
        path = self._directory / f"{self._name}.index.npy"
        with storing(path):
            write_durably(path, index.getvalue())
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
        self._path, self._tmp = path, tmp_of(path)
        self._old = map_file(path) if path.is_file() and path.stat().st_size else None
        self._new: BinaryIO | None = None
        self.sha256, self.size_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        stop = self.size_bytes + len(data)
        if self._new is None and (self._old is None or self._old[self.size_bytes : stop] != data):
            self._differ()
        if self._new is not None:
            with storing(self._path):
                self._new.write(data)
        self.sha256.update(data)
        self.size_bytes = stop

    def keep(self) -> None:
        if self._new is None and (self._old is None or len(self._old) != self.size_bytes):
            self._differ()
        if self._new is not None:
            with storing(self._path):
                sync_and_close(self._new)
                self._tmp.replace(self._path)
                sync_directory(self._path.parent)
            self._new = None
        self.discard()

    def discard(self) -> None:
        """Frees the unfinished copy at once: on a full disk its space is what the next attempt needs."""
        if self._new is not None:
            with storing(self._path):
                with suppress(OSError):  # a second failure to flush what is thrown away says nothing new
                    self._new.close()
                self._tmp.unlink(missing_ok=True)
            self._new = None
        if self._old is not None:
            self._old.close()
            self._old = None

    def _differ(self) -> None:
        with storing(self._path):
            self._new = self._tmp.open("wb", buffering=1 << 20)
            for at in range(0, self.size_bytes, COPY_BYTES):
                assert self._old is not None  # a prefix was compared, so there was something to compare with
                self._new.write(self._old[at : min(at + COPY_BYTES, self.size_bytes)])


def _copy_live(reader: DatasetReader, number: int, removed: Collection[int], directory: Path) -> ShardManifest:
    """Writes the shard anew without the removed ordinals, by copying every run of neighbours that stay."""
    shard, rows = reader.generation.shards[number], reader.rows(number)
    stays = rows[(rows["live"] == 1) & ~np.isin(rows["ordinal"], sorted(removed))]
    starts = stays["image_offset"] - BLOCK_BYTES
    lengths = stays["json_length"].astype(np.int64)
    stops = stays["json_offset"] + lengths + -lengths % BLOCK_BYTES
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
    files.tidy(number, names_of(shards))
    files.create(f"{generation_name(number)}/generation.json", generation.to_json().encode())
    return generation
