"""The texts that captions are chosen from: who may be in, whom each comes from, and how millions of them are kept.

A text enters from a named phrase list, or from the ledger's alt texts when several registrable domains use it: that
keeps private names, and texts that one site has planted, out. A bank is an Arrow table. In a file it is mapped into
memory, not read: a million texts then cost what is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.clip_model import normalised_text
from policy.durable import sync_directory, sync_file
from policy.errors import ConfigurationError, StorageError
from policy.wording import mentions_boilerplate

LEDGER: Final = "ledger"
LIST: Final = "list"
MODEL: Final = "model"
MAX_CHARS: Final = 200
ROWS_AT_ONCE: Final = 8_192

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class BankEntry:
    """One occurrence of a text. `source`: who it comes from, as it shall stand beside a caption that uses it.

    `source_kind`: "list" (a named phrase list) or "ledger" (an allowed alt text). `origins`: the registrable domains
    it was seen on; lists need none.
    """

    text: str
    source: str
    source_kind: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BankText:
    """A text with everything it stands on. `source_kind` is "list" or "ledger", or "model" for one that was made up."""

    text: str
    sources: tuple[str, ...]
    source_kind: str
    origins: tuple[str, ...]


_SCHEMA: Final = pa.schema(
    [
        ("text", pa.string()),
        ("sources", pa.list_(pa.string())),
        ("source_kind", pa.string()),
        ("origins", pa.list_(pa.string())),
    ]
)


class CaptionBank:
    """The texts that captions are chosen from, each once: the ledger's, then the lists', by their normalised form.

    `digest`: blake2b-16 over the texts in their order, in hex.
    """

    def __init__(self, table: pa.Table, digest: str) -> None:
        """Use `build`, `stored` or `opened`."""
        self._table, self.digest = table, digest

    @classmethod
    def build(
        cls,
        entries: Iterable[BankEntry],
        *,
        min_origins: int,
        is_tombstoned: Callable[[str], bool] = lambda text: False,
    ) -> CaptionBank:
        """Merge equal texts; leave out what is tombstoned, and of the ledger's what is boilerplate or too rarely used.

        min_origins: how many registrable domains must use an alt text. is_tombstoned: asked of every text, in each
        spelling it was found in. For a bank that fits into memory.
        """
        check_min_origins(min_origins)
        found: defaultdict[str, list[BankEntry]] = defaultdict(list)
        for entry in entries:
            if entry.source_kind not in (LEDGER, LIST):
                raise ConfigurationError(f"unknown source kind {entry.source_kind!r}", where=entry.source)
            found[normalised_text(entry.text)].append(entry)
        kept: dict[str, list[BankText]] = {LEDGER: [], LIST: []}
        for _, group in sorted(found.items()):
            if any(is_tombstoned(text) for text in {e.text for e in group}):
                continue
            # A list vouches for its texts alone: what only adds to it is no source of the caption.
            group = [entry for entry in group if entry.source_kind == LIST] or group
            origins = tuple(sorted({origin for entry in group for origin in entry.origins}))
            sources = tuple(sorted({entry.source for entry in group}))
            text = BankText(_usual_spelling(group), sources, group[0].source_kind, origins)
            if may_enter(text, min_origins):
                kept[text.source_kind].append(text)
        digest, batches = hashlib.blake2b(digest_size=16), []
        for text in (*kept[LEDGER], *kept[LIST]):
            _add_to(digest, text.text)
        for part in kept.values():
            batches.append(_batch(part))
        return cls(pa.Table.from_batches(batches, _SCHEMA), digest.hexdigest())

    @classmethod
    def stored(
        cls,
        path: Path,
        ledger_texts: Iterable[BankText],
        listed: Iterable[BankEntry] = (),
        *,
        min_origins: int,
    ) -> CaptionBank:
        """Write a bank of any size into an Arrow file, a few thousand texts in memory at a time, and open it.

        ledger_texts: each spelling once, by the text in lower case, with the domains and sources it has. listed: the
        phrases, in any order; they alone are held in memory, about 200 bytes each.

        Raises:
            StorageError: the disk refuses.
        """
        check_min_origins(min_origins)
        phrases = _merged(listed)
        taken = _Digests(_strings(phrases["plain"]))
        digest = hashlib.blake2b(digest_size=16)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        entering = itertools.chain(
            (text for text in ledger_texts if may_enter(text, min_origins) and taken.add(normalised_text(text.text))),
            (text for text in _texts_of(phrases) if may_enter(text, min_origins)),
        )
        try:
            with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
                for rows in _grouped(entering, ROWS_AT_ONCE):
                    for row in rows:
                        _add_to(digest, row.text)
                    writer.write_batch(_batch(rows))
            sync_file(temporary)
            temporary.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            raise StorageError(f"cannot write ({error.strerror})", where=str(path)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return cls(_mapped(path), digest.hexdigest())

    @classmethod
    def opened(cls, path: Path) -> CaptionBank | None:
        """The bank in a file; None where there is none, or none that can be read: it is then built again."""
        try:
            table = _mapped(path)
        except (OSError, pa.ArrowInvalid):
            return None
        bank, digest = cls(table, ""), hashlib.blake2b(digest_size=16)
        for texts in bank.batches():
            for text in texts:
                _add_to(digest, text)
        bank.digest = digest.hexdigest()
        return bank

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: int) -> BankText:
        """The text in this place; raises IndexError beyond the last."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        [found] = self._table.slice(row, 1).to_pylist()
        return BankText(found["text"], tuple(found["sources"]), found["source_kind"], tuple(found["origins"]))

    def batches(self, rows: int = ROWS_AT_ONCE) -> Iterator[list[str]]:
        """The texts in their order, so many at a time."""
        for start in range(0, len(self), rows):
            yield self._table["text"].slice(start, rows).to_pylist()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, for a bank that fits into memory."""
        return tuple(self._table["text"].to_pylist())

    @property
    def entries(self) -> tuple[BankText, ...]:
        """All texts with what they stand on, for a bank that fits into memory."""
        return tuple(self[row] for row in range(len(self)))

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """blake2b-16 of every text, [N, 2] uint64: by these its embedding is known again."""
        found = np.empty((len(self), 2), np.uint64)
        for number, texts in enumerate(self.batches()):
            start = number * ROWS_AT_ONCE
            found[start : start + len(texts)] = text_ids(texts)
        return found


def text_ids(texts: Sequence[str]) -> NDArray[np.uint64]:
    """blake2b-16 of each text as it is spelt, [N, 2] uint64."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, np.uint64).reshape(len(texts), 2)


def is_boilerplate(text: str) -> bool:
    """Whether any of a text is about the page rather than the picture, or it names no word at all.

    Such texts come from many domains, so their number does not stop them.
    """
    plain = normalised_text(text)
    return sum(map(str.isalpha, plain)) < 3 or mentions_boilerplate(plain)


def may_enter(text: BankText, min_origins: int) -> bool:
    """Whether a text may be in the bank; of one that no list vouches for, enough domains must say it of a picture."""
    plain = normalised_text(text.text)
    if not plain or len(plain) > MAX_CHARS:
        return False
    return text.source_kind == LIST or (len(text.origins) >= min_origins and not is_boilerplate(plain))


def check_min_origins(min_origins: int) -> None:
    """Raises ConfigurationError where fewer than one domain would do: then anybody's text would be in."""
    if min_origins < 1:
        raise ConfigurationError(f"bank_min_origins must be at least 1, not {min_origins}", where="policy.toml")


class _Digests:
    """Texts that are in already, by 64 bits of their digests: about 80 bytes each, whatever their length.

    Two of ten million texts share one with a chance of 3 in a million; the later of them would then be missing.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {self._of(text) for text in known}

    def add(self, text: str) -> bool:
        """Whether it is new; from now on it is known."""
        digest = self._of(text)
        if digest in self._known:
            return False
        self._known.add(digest)
        return True

    @staticmethod
    def _of(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _merged(listed: Iterable[BankEntry]) -> pa.Table:
    """Phrases as (plain, text, sources), each once, by its normalised form."""
    batches, names = [], ("plain", "text", "source")
    schema = pa.schema([(name, pa.string()) for name in names])
    for rows in _grouped(listed, ROWS_AT_ONCE):
        columns = [
            [normalised_text(r.text) for r in rows],
            [" ".join(r.text.split()) for r in rows],
            [r.source for r in rows],
        ]
        batches.append(pa.record_batch([pa.array(c, pa.string()) for c in columns], schema=schema))
    table = (
        pa.Table.from_batches(batches, schema).group_by("plain").aggregate([("text", "min"), ("source", "distinct")])
    )
    table = table.rename_columns({"text_min": "text", "source_distinct": "sources"})
    return table.take(pc.sort_indices(table, sort_keys=[("plain", "ascending")]))


def _texts_of(phrases: pa.Table) -> Iterator[BankText]:
    for batch in phrases.to_batches(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield BankText(row["text"], tuple(sorted(row["sources"])), LIST, ())


def _strings(column: pa.ChunkedArray) -> Iterator[str]:
    for start in range(0, len(column), ROWS_AT_ONCE):
        yield from column.slice(start, ROWS_AT_ONCE).to_pylist()


def _grouped(rows: Iterable[_Row], count: int) -> Iterator[list[_Row]]:
    waiting = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == count:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _batch(rows: Sequence[BankText]) -> pa.RecordBatch:
    columns = (
        [row.text for row in rows],
        [list(row.sources) for row in rows],
        [row.source_kind for row in rows],
        [list(row.origins) for row in rows],
    )
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path), "rb")).read_all()


def _add_to(digest: hashlib.blake2b, text: str) -> None:
    # A text of the bank holds no line break: its spaces are single ones.
    digest.update(text.encode() + b"\n")


def _usual_spelling(group: Sequence[BankEntry]) -> str:
    spellings = Counter(" ".join(entry.text.split()) for entry in group)
    return min(spellings, key=lambda text: (-spellings[text], text))
