"""The step log: one fixed-size row a step, written ahead of the optimizer step it stands for.

`steps.log` = a 16-byte header, then rows of 80 bytes, little-endian: step, first position, slots really fed, segment,
learning rate, loss, sha256 over (ordinal, commitment) of the slots fed, and a CRC-32 over the row. Rows are only ever
appended: a resume goes back to its checkpoint and writes the following steps anew, and these supersede the rows with
the same or a higher step before them. The log is flushed to the operating system a row at a time (a killed process
loses nothing) and to the disk with every checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from policy.errors import IntegrityError, StorageError

HEADER = b"custody-steps\x00\x01\x50"  # name, version 1, 80-byte rows
ROW = np.dtype(
    [
        ("step", "<u8"),
        ("first_position", "<u8"),
        ("real", "<u4"),
        ("segment", "<u4"),
        ("learning_rate", "<f8"),
        ("loss", "<f8"),
        ("fed_sha256", "V32"),
        ("reserved", "<u4"),
        ("crc32", "<u4"),
    ]
)
_BODY = struct.Struct("<QQIIdd32sI")


@dataclass(frozen=True, slots=True)
class StepRow:
    """What one step fed. `step` counts from 0; `real`: slots with weight; `fed_sha256`: see `fed_digest`."""

    step: int
    first_position: int
    real: int
    segment: int
    learning_rate: float
    loss: float
    fed_sha256: bytes


def fed_digest(slots: Iterable[tuple[int, bytes]]) -> bytes:
    """sha256 over (ordinal as 8 bytes big-endian, 32-byte commitment) of the slots fed, in batch order."""
    digest = hashlib.sha256()
    for ordinal, commitment in slots:
        digest.update(ordinal.to_bytes(8, "big") + commitment)
    return digest.digest()


FED = np.dtype([("ordinal", ">u8"), ("commitment", "V32")])
"""What is hashed of a slot: 40 bytes."""


def fed_digests(
    ordinals: npt.NDArray[np.int64], fed: npt.NDArray[np.bool_], commitments: npt.NDArray[np.void]
) -> list[bytes]:
    """`fed_digest` of many steps at once: ordinals and fed [steps, batch size], commitments V32 [slots]."""
    flat = ordinals[fed]
    buffer = np.empty(len(flat), dtype=FED)
    buffer["ordinal"], buffer["commitment"] = flat, commitments[flat]
    data = buffer.view(np.uint8).data
    ends = np.cumsum(fed.sum(axis=1)) * FED.itemsize
    edges = itertools.pairwise([0, *ends.tolist()])
    return [hashlib.sha256(data[start:end]).digest() for start, end in edges]


class StepLog:
    """The open log of a run, as a context manager. Errors: StorageError (disk), IntegrityError (a damaged log)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._fd).st_size
            if size < len(HEADER):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, HEADER, 0)
                size = len(HEADER)
        except OSError as error:
            raise StorageError(f"cannot write ({error.strerror})", where=str(self.path)) from error
        complete = read_steps(self.path)
        # A row torn by a power cut stands for a step that never counted.
        end = len(HEADER) + len(complete) * ROW.itemsize
        if end < size:
            os.ftruncate(self._fd, end)
        self.rows = len(complete)
        self._sha256 = hashlib.sha256(HEADER + complete.tobytes())
        os.lseek(self._fd, end, os.SEEK_SET)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def write(self, row: StepRow) -> None:
        """Append one row and hand it to the operating system; call this before `optimizer.step()`."""
        body = _BODY.pack(
            row.step, row.first_position, row.real, row.segment, row.learning_rate, row.loss, row.fed_sha256, 0
        )
        data = body + zlib.crc32(body).to_bytes(4, "little")
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(28, "only a part of the row fitted")
        except OSError as error:
            raise StorageError(
                f"step {row.step} could not be logged ({error.strerror})",
                where=str(self.path),
                remedy="Free some space; the run resumes from its last checkpoint",
            ) from error
        self._sha256.update(data)
        self.rows += 1

    def seal(self) -> tuple[int, str]:
        """Flush to the disk; returns (rows, sha256 of the whole file), which a checkpoint records."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StorageError(f"cannot flush ({error.strerror})", where=str(self.path)) from error
        return self.rows, self._sha256.hexdigest()


def read_steps(path: Path) -> npt.NDArray[np.void]:
    """All complete rows, superseded ones included, as a structured array of `ROW`; IntegrityError names a damaged row.

    A torn last row is left out: it stands for a step that never counted.
    """
    data = _bytes_of(path)
    if data[: len(HEADER)] != HEADER:
        raise IntegrityError("not a step log of this version", where=str(path))
    count = (len(data) - len(HEADER)) // ROW.itemsize
    rows = np.frombuffer(data, dtype=ROW, count=count, offset=len(HEADER))
    view = memoryview(data)[len(HEADER) :]
    for i, expected in enumerate(rows["crc32"].tolist()):
        start = i * ROW.itemsize
        if zlib.crc32(view[start : start + _BODY.size]) != expected:
            after = f"after step {int(rows['step'][i - 1])}" if i else "the first step"
            raise IntegrityError(
                f"row {i} ({after}) is damaged: its checksum does not fit",
                where=str(path),
                remedy="Restore the log from a backup; what the damaged steps fed can no longer be shown",
            )
    return rows


def steps_of(rows: npt.NDArray[np.void]) -> Iterator[StepRow]:
    """Rows of the log as values."""
    for row in rows:
        yield StepRow(
            step=int(row["step"]),
            first_position=int(row["first_position"]),
            real=int(row["real"]),
            segment=int(row["segment"]),
            learning_rate=float(row["learning_rate"]),
            loss=float(row["loss"]),
            fed_sha256=bytes(row["fed_sha256"]),
        )


def check_prefix(path: Path, rows: int, sha256: str) -> None:
    """The first `rows` rows are those a checkpoint recorded; IntegrityError otherwise."""
    data = _bytes_of(path)[: len(HEADER) + rows * ROW.itemsize]
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"the first {rows} rows are not those the checkpoint has recorded", where=str(path))


def prefix_digests(path: Path, rows: Sequence[int]) -> list[str]:
    """sha256 of the log's first `rows` rows for each number asked, in one pass; of what there is where there is less.

    IntegrityError: the log cannot be read.
    """
    digests: dict[int, str] = {}
    running, at = hashlib.sha256(), 0
    data = memoryview(_bytes_of(path))
    for count in sorted(set(rows)):
        end = len(HEADER) + count * ROW.itemsize
        running.update(data[at:end])
        at = end
        digests[count] = running.hexdigest()
    return [digests[count] for count in rows]


def counting(rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which rows count: of each step the last one written. bool [rows]."""
    steps = rows["step"].astype(np.int64)
    if not len(steps):
        return np.zeros(0, dtype=np.bool_)
    # A row counts if no later row has the same or a lower step.
    lowest_later = np.minimum.accumulate(steps[::-1])[::-1]
    return np.asarray(steps < np.append(lowest_later[1:], np.iinfo(np.int64).max))


def effective_rows(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The rows that count, in step order."""
    return rows[counting(rows)]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"the step log is unreadable ({error.strerror})", where=str(path)) from error
