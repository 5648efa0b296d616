"""The strict reader of sealed datasets: nothing is used before it was held against what was sealed.

curation/shards.py draws what lies there. Shards are plain ustar, byte for byte reproducible from their samples, so the
reader knows what every header must be, and takes a shard only if that is what it finds: no other name, type, order or
size can pass. Readers need no lock, and what they have open stays readable after a prune.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from tokenize import TokenError
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from curation.shard_files import (
    BLOCK_BYTES,
    COMMITMENT_BYTES,
    COPY_BYTES,
    IMAGE_EXTENSIONS,
    INDEX_DTYPE,
    INDEX_ROW,
    RESTORE,
    TAR_END,
    Dataset,
    DatasetFiles,
    SealedSample,
    current_generation,
    empty_rows,
    files_of,
    generation_name,
    index_name,
    is_complete,
    is_json_object,
    member_header,
    names_of,
    newest_generation,
)
from policy.errors import CustodyError, InputError, IntegrityError
from policy.provenance import DatasetManifest, Generation, ShardManifest, dataset_root

_SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
_PAIR_OF_ROW = struct.Struct("<8xqq8xii4xB")  # of INDEX_ROW what `pairs` needs, which is asked for most


class DatasetReader:
    """Random access to a sealed dataset's current generation. Safe across threads and forks; a context manager.

    Every method that takes an ordinal raises IndexError outside [0, slots) and gives None for an empty slot. What is
    open stays readable when its generation is pruned; `renew` goes on with the one that took its place.
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
        self._locks = _Locks()
        try:
            files.check_present(generation.number, generation.shards)
            for number, shard in enumerate(generation.shards):
                rows = _read_index(files, generation.number, shard)
                tar = None if files.keep_bytes is not None else files.open_tar(generation.number, shard)
                self._shards.append((rows.tobytes(), tar))
                if verify and tar is not None:
                    _check_tar(tar, rows, shard, self._path_of(number))
            if verify and files.keep_bytes is not None:
                for number in range(len(generation.shards)):
                    self.fetch(number)  # which checks it
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
        files = files_of(dataset)
        manifest = read_manifest(files)
        leaves = read_commitments(files, manifest)
        while True:
            number = current_generation(files)
            try:
                generation = read_generation(files, number)
                _check_cover(files, manifest, generation)
                return cls(files, manifest, generation, leaves, verify)
            except IntegrityError:
                # A newer generation may have been published and this one taken away while it was being opened.
                if newest_generation(files) == number:
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

    def commitments(self, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The commitments of many slots, [N, 32]; IndexError for one that is none."""
        if len(ordinals) and not 0 <= int(ordinals.min()) <= int(ordinals.max()) < self._slots:
            raise IndexError(f"an ordinal is no slot of {self._slots}")
        return np.frombuffer(self._leaves, np.uint8).reshape(-1, COMMITMENT_BYTES)[ordinals]

    def is_live(self, ordinal: int) -> bool:
        shard, row = self._locate(ordinal)
        return bool(INDEX_ROW.unpack_from(self._shards[shard][0], row)[7])

    def image_bytes(self, ordinal: int) -> bytes | None:
        """The encoded picture."""
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = INDEX_ROW.unpack_from(rows, row)
        return tar[fields[1] : fields[1] + fields[4]] if fields[7] else None

    def image_ext(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = INDEX_ROW.unpack_from(self._shards[shard][0], row)
        return IMAGE_EXTENSIONS[fields[8]] if fields[7] else None

    def caption(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = INDEX_ROW.unpack_from(rows, row)
        return self._text(shard, tar, fields[2], fields[5]) if fields[7] else None

    def pair(self, ordinal: int) -> tuple[bytes, str] | None:
        """The encoded picture and the caption, from the same generation whatever happens meanwhile."""
        return next(self.pairs((ordinal,)))

    def pairs(self, ordinals: Iterable[int]) -> Iterator[tuple[bytes, str] | None]:
        """`pair` of one slot after the other, each read when it is asked for."""
        slots, shard_slots, row_bytes, fields = self._slots, self._shard_slots, INDEX_ROW.size, _PAIR_OF_ROW.unpack_from
        for ordinal in ordinals:
            if not 0 <= ordinal < slots:
                raise IndexError(f"ordinal {ordinal} is no slot of {slots}")
            shard, row = divmod(ordinal, shard_slots)
            rows, tar = self._shards[shard]
            if tar is None:
                rows, tar = self._fetch(shard)
            image, text, image_length, text_length, live = fields(rows, row * row_bytes)
            if live:
                yield tar[image : image + image_length], self._text(shard, tar, text, text_length)
            else:
                yield None

    def metadata_json(self, ordinal: int) -> str | None:
        """The member <key>.json as it was sealed."""
        shard, row = self._locate(ordinal)
        rows, tar = self._opened(shard)
        fields = INDEX_ROW.unpack_from(rows, row)
        return self._text(shard, tar, fields[3], fields[6]) if fields[7] else None

    def metadata(self, ordinal: int) -> Mapping[str, object] | None:
        """The member <key>.json, parsed."""
        text = self.metadata_json(ordinal)
        if text is None:
            return None
        if not is_json_object(text):
            raise IntegrityError(
                f"the metadata of slot {ordinal} are no JSON object", where=self._path_of(ordinal // self._shard_slots)
            )
        parsed: dict[str, object] = json.loads(text)
        return parsed

    def key(self, ordinal: int) -> str | None:
        shard, row = self._locate(ordinal)
        fields = INDEX_ROW.unpack_from(self._shards[shard][0], row)
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
        return shard, row * INDEX_ROW.size

    def _opened(self, shard: int) -> tuple[bytes, mmap.mmap]:
        rows, tar = self._shards[shard]
        return (rows, tar) if tar is not None else self._fetch(shard)

    def _fetch(self, shard: int) -> tuple[bytes, mmap.mmap]:
        with self._locks.of(shard):  # several shards may be on their way at a time, each of them once
            rows, tar = self._shards[shard]
            if tar is not None:
                return rows, tar
            number = self.generation.number
            try:
                rows, tar = self._checked_tar(shard)
            except IntegrityError:
                # A prune took this generation away, or another thread has gone on with a newer one meanwhile.
                if not self.renew() and self.generation.number == number:
                    raise
                rows, tar = self._checked_tar(shard)
            with self._locks.all:
                if self._shards[shard][0] is rows:
                    self._shards[shard] = (rows, tar)
                    self._fetched.append(shard)
                    self._make_room()
            return rows, tar

    def _checked_tar(self, shard: int) -> tuple[bytes, mmap.mmap]:
        with self._locks.all:
            generation, rows = self.generation, self._shards[shard][0]
        manifest = generation.shards[shard]
        return rows, self._open_checked(generation.number, manifest, np.frombuffer(rows, INDEX_DTYPE))

    def _open_checked(self, number: int, shard: ShardManifest, rows: npt.NDArray[np.void]) -> mmap.mmap:
        tar = self._files.open_tar(number, shard)
        try:
            _check_tar(tar, rows, shard, self._files.where(f"{generation_name(number)}/{shard.path}"))
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

    @property
    def shards_at_once(self) -> int | None:
        """How many shards may be fetched ahead without pushing out those in use; None where none has to be fetched."""
        if self._files.keep_bytes is None:
            return None
        largest = max(shard.size_bytes for shard in self.generation.shards)
        return max(1, self._files.keep_bytes // largest // 2)

    def shard_of(self, ordinal: int) -> int:
        """Which shard a slot lies in."""
        return self._locate(ordinal)[0]

    def fetch(self, shard: int) -> None:
        """Have a shard here, checked, if it is not yet; local ones are."""
        self._opened(shard)

    def renew(self) -> bool:
        """Goes on with the newest complete generation; False where that is this one.

        Shards that no removal touched stay as they are. The others are checked whole, here or when they are fetched,
        before one of them is used; in them the removed slots are empty. Who reads meanwhile gets each sample from
        one of the two. Raises IntegrityError or StorageError, and goes on with what it has.
        """
        with self._locks.renewing:
            while (number := newest_generation(self._files)) not in (None, self.generation.number):
                assert number is not None
                try:
                    self._go_on_with(number)
                except IntegrityError:
                    # Again: a newer one may have been published and this one taken away while it was looked at.
                    if newest_generation(self._files) == number:
                        raise
                else:
                    return True
            return False

    def _go_on_with(self, number: int) -> None:
        newer = read_generation(self._files, number)
        _check_cover(self._files, self.manifest, newer)
        known, changed = self.generation.shards, dict[int, tuple[bytes, mmap.mmap | None]]()
        if [shard.slots for shard in newer.shards] != [shard.slots for shard in known]:
            where = self._files.where(f"{generation_name(number)}/generation.json")
            raise IntegrityError("its shards have other slots than before", where=where, remedy=RESTORE)
        for at, (old, new) in enumerate(zip(known, newer.shards, strict=True)):
            if new != old:
                rows = _read_index(self._files, number, new)
                is_here = self._files.keep_bytes is None
                changed[at] = (rows.tobytes(), self._open_checked(number, new, rows) if is_here else None)
        with self._locks.all:
            for at, shard in changed.items():
                self._shards[at] = shard
            self._fetched = deque(shard for shard in self._fetched if self._shards[shard][1] is not None)
            self.generation, self.directory = newer, self._files.where(generation_name(number))

    def _text(self, shard: int, tar: mmap.mmap, offset: int, length: int) -> str:
        try:
            return tar[offset : offset + length].decode()
        except UnicodeDecodeError as error:
            what = f"a text at byte {offset} is not UTF-8"
            raise IntegrityError(what, where=self._path_of(shard), remedy=RESTORE) from error

    def _path_of(self, shard: int) -> str:
        return self._files.where(f"{generation_name(self.generation.number)}/{self.generation.shards[shard].path}")


class _Locks:
    """A reader's locks, made anew in a forked child: the fork may have copied one while it was held.

    Whoever needs several takes a shard's first, then `renewing`, then `all`.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._renewing, self._all = threading.Lock(), threading.Lock()
        self._shards: dict[int, threading.Lock] = {}

    @property
    def renewing(self) -> threading.Lock:
        self._look()
        return self._renewing

    @property
    def all(self) -> threading.Lock:
        """Held for a few assignments, never while a file is read."""
        self._look()
        return self._all

    def of(self, shard: int) -> threading.Lock:
        self._look()
        return self._shards.setdefault(shard, threading.Lock())

    def _look(self) -> None:
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]


def samples_in(dataset: Dataset) -> Iterator[SealedSample]:
    """Every live sample of the current generation, by ordinal, after the strict reader has checked all of it."""
    with DatasetReader.open(dataset) as reader:
        yield from reader.samples()


def verify_dataset(dataset: Dataset) -> list[str]:
    """Checks every file of every complete generation, going on after a failure; one message each, [] if sound."""
    failures: list[str] = []
    files = files_of(dataset)
    with _noting(failures):
        manifest = read_manifest(files)
        with _noting(failures):
            read_commitments(files, manifest)
        with _noting(failures):
            current_generation(files)
        for number in files.generations():
            if is_complete(files, number):
                found = _verify_generation(files, manifest, number)
                # What a prune took away meanwhile is no failure.
                failures.extend(found if is_complete(files, number) else ())
    return failures


def _verify_generation(files: DatasetFiles, manifest: DatasetManifest, number: int) -> list[str]:
    failures: list[str] = []
    with _noting(failures):
        generation = read_generation(files, number)
        _check_cover(files, manifest, generation)
        for shard in generation.shards:
            with _noting(failures):
                check_shard(files, number, shard)
        failures.extend(files.strays(number, names_of(generation.shards) | {"generation.json"}))
    return failures


@contextmanager
def _noting(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except CustodyError as error:
        failures.append(str(error))


def read_manifest(dataset: Dataset) -> DatasetManifest:
    """dataset.json. Raises InputError when there is none, IntegrityError when it is not a dataset's manifest."""
    files = files_of(dataset)
    if not files.has("dataset.json"):
        raise InputError("there is no dataset (dataset.json is missing)", where=files.where())
    where = files.where("dataset.json")
    manifest = DatasetManifest.from_json(_read_text(files, "dataset.json"), where=where)
    if not isinstance(manifest.slots, int) or manifest.slots < 1 or not isinstance(manifest.root, str):
        raise IntegrityError("slots and root are not what a manifest holds", where=where, remedy=RESTORE)
    return manifest


def read_commitments(dataset: Dataset, manifest: DatasetManifest) -> bytes:
    """leaves.bin, 32 bytes a slot. Raises IntegrityError unless it gives the manifest's root."""
    files = files_of(dataset)
    leaves, where = files.read("leaves.bin"), files.where("leaves.bin")
    if len(leaves) != manifest.slots * COMMITMENT_BYTES:
        what = f"{len(leaves)} bytes are not {COMMITMENT_BYTES} for each of {manifest.slots} slots"
        raise IntegrityError(what, where=where, remedy=RESTORE)
    commitments = [leaves[at : at + COMMITMENT_BYTES] for at in range(0, len(leaves), COMMITMENT_BYTES)]
    if dataset_root(commitments) != manifest.root:
        what = "the commitments do not give the root in dataset.json: one of the two files was altered"
        raise IntegrityError(what, where=where, remedy=RESTORE)
    return leaves


def read_generation(dataset: Dataset, number: int) -> Generation:
    """One generation's manifest, its root recomputed. Raises IntegrityError naming the file."""
    files, name = files_of(dataset), f"{generation_name(number)}/generation.json"
    where = files.where(name)
    generation = Generation.from_json(_read_text(files, name), where=where)
    if generation.number != number:
        raise IntegrityError(f"it says generation {generation.number}", where=where, remedy=RESTORE)
    return generation


def check_shard(dataset: Dataset, number: int, shard: ShardManifest) -> None:
    """Holds a generation's shard, as it lies there, against its manifest and index to the last byte.

    Raises IntegrityError naming the file.
    """
    files = files_of(dataset)
    rows = _read_index(files, number, shard)
    with files.open_tar(number, shard, fresh=True) as tar:
        _check_tar(tar, rows, shard, files.where(f"{generation_name(number)}/{shard.path}"))


def _check_tar(tar: mmap.mmap, rows: npt.NDArray[np.void], shard: ShardManifest, where: str) -> None:
    """The digest first, which tells damage from forgery; then every header, padding and the end must be exactly what
    our writer makes of the index: that leaves no room for another member, name, type or link.
    """
    digest = hashlib.sha256()
    for at in range(0, len(tar), COPY_BYTES):
        digest.update(tar[at : at + COPY_BYTES])
    if digest.hexdigest() != shard.sha256:
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=where, remedy=RESTORE)
    end = 0
    for row in rows[rows["live"] == 1]:
        stem = row["key"].tobytes().hex()
        image_ext = IMAGE_EXTENSIONS[int(row["image_ext"])]
        for ext, kind in ((image_ext, "image"), ("txt", "text"), ("json", "json")):
            length = int(row[f"{kind}_length"])
            data = end + BLOCK_BYTES
            if tar[end:data] != member_header(f"{stem}.{ext}", length):
                found = tar[end : end + 100].split(b"\0")[0].decode(errors="backslashreplace")
                what = f"at byte {end} the {ext} of slot {row['ordinal']} belongs; {found!r} is none, or no plain file"
                raise IntegrityError(what, where=where, remedy=RESTORE)
            end = data + length + -length % BLOCK_BYTES
            if any(tar[data + length : end]):
                what = f"bytes are hidden behind the {ext} of slot {row['ordinal']}"
                raise IntegrityError(what, where=where, remedy=RESTORE)
    if tar[end:] != TAR_END:
        raise IntegrityError(f"something follows the last member, at byte {end}", where=where, remedy=RESTORE)


def _check_cover(files: DatasetFiles, manifest: DatasetManifest, generation: Generation) -> None:
    where = files.where(f"{generation_name(generation.number)}/generation.json")
    if generation.dataset != manifest.dataset:
        what = f"it belongs to dataset {generation.dataset!r}, dataset.json to {manifest.dataset!r}"
        raise IntegrityError(what, where=where, remedy=RESTORE)
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
            raise IntegrityError(f"shard {number} is not where its ordinals belong", where=where, remedy=RESTORE)
    if not shards or shards[-1].first_ordinal + shards[-1].slots != manifest.slots:
        raise IntegrityError(f"the shards do not cover {manifest.slots} slots", where=where, remedy=RESTORE)


def _read_index(files: DatasetFiles, number: int, shard: ShardManifest) -> npt.NDArray[np.void]:
    """The index, after its digest, shape and arithmetic were checked: extents follow each other without a gap."""
    name = f"{generation_name(number)}/{index_name(shard)}"
    data, where = files.read(name), files.where(name)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise IntegrityError("its bytes are not those that were sealed (sha256)", where=where, remedy=RESTORE)
    rows = _parse_index(data, shard.slots)
    if rows is None or not _is_sound(rows, shard):
        raise IntegrityError("the index does not describe its shard", where=where, remedy=RESTORE)
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
    empty = empty_rows(shard.first_ordinal, shard.slots)
    kinds = ("image", "text", "json")
    lengths = np.stack([live[f"{kind}_length"] for kind in kinds], axis=1).astype(np.int64).ravel()
    offsets = np.stack([live[f"{kind}_offset"] for kind in kinds], axis=1).ravel()
    extents = BLOCK_BYTES + lengths + -lengths % BLOCK_BYTES
    return bool(
        np.array_equal(rows["ordinal"], empty["ordinal"])
        and (rows[rows["live"] != 1] == empty[rows["live"] != 1]).all()
        and len(live) == shard.live
        and (lengths >= 0).all()
        and (live["image_ext"] < len(IMAGE_EXTENSIONS)).all()
        and np.array_equal(offsets, np.cumsum(extents) - extents + BLOCK_BYTES)
        and int(extents.sum()) + len(TAR_END) == shard.size_bytes
    )


def _read_text(files: DatasetFiles, name: str) -> str:
    try:
        return files.read(name).decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("not UTF-8", where=files.where(name), remedy=RESTORE) from error
