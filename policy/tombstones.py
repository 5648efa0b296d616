"""Tombstones: what was removed and may never come back.

They take force as one file, `tombstones/current.json`: keyed tokens of what is kept out, and the slots of datasets
that are empty from now on, so that a trainer needs neither the ledger nor a key. The ledger's rows follow.

What was removed by a name or a text is known by it as well, in the form in which it is compared. A name may be
somebody else's, too: what a reviewer left in though it has the name stays, by a token of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from policy.durable import write_durably
from policy.errors import IntegrityError, KeyFileError, StorageError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.names import HEARD_KINDS, Said, compared
from policy.provenance import canonical_json

TOMBSTONES_FILE: Final = "current.json"
TOMBSTONES_VERSION: Final = 2  # 1: without names; a file that has none is still written so, for readers of before
STAYS: Final = "stays"  # contents and addresses that no name keeps out
_FIRST_KINDS: Final = ("url", "content", "sample", "domain")
TOKEN_KINDS: Final = (*_FIRST_KINDS, *HEARD_KINDS, STAYS)
_NO_TOKENS: Final[Mapping[str, Mapping[str, str]]] = {kind: {} for kind in TOKEN_KINDS}


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What may never come back. `epoch` rises with every change; 0: nothing was ever removed.

    `tokens`: kind -> token -> removal id. `slots`: dataset -> ordinal -> removal id. `key_id`: the token key's.
    """

    epoch: int = 0
    key_id: str | None = None
    tokens: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=lambda: _NO_TOKENS)
    slot_removals: Mapping[str, Mapping[int, str]] = dataclasses.field(default_factory=dict)
    keys: KeyRing | None = dataclasses.field(default=None, repr=False, compare=False)

    # ── asking ─────────────────────────────────────────────────────────────────────────────────────────────────

    def covers_url(self, canonical: str) -> str | None:
        """The removal that keeps this URL (page or image), or its domain, out; None: none does.

        Raises `KeyFileError` without the key: nobody may be told "not covered" by who cannot tell.
        """
        keys = self._key()
        found = self._covers(keys, "url", canonical)
        if found is None and self.tokens["domain"]:
            found = next(filter(None, (self._covers(keys, "domain", name) for name in _domains(canonical))), None)
        return found

    def covers_content(self, sha256: str) -> str | None:
        """The removal that keeps these bytes out, by their sha256 in hex; None: none does."""
        return self._covers(self._key(), "content", sha256)

    def covers_sample(self, sample_key: str) -> str | None:
        """The removal that keeps this sample out; None: none does."""
        return self._covers(self._key(), "sample", sample_key)

    @property
    def hears(self) -> bool:
        """Whether any name or text is kept out; while none is, nothing need be compared."""
        return any(self.tokens.get(kind) for kind in HEARD_KINDS)

    def covers_said(self, said: Said, *, content: str | None = None, url: str | None = None) -> str | None:
        """The removal that keeps out what this is said of (`policy.names.said`); None: none does.

        `content`, `url` (canonical): of the picture, as far as they are known; one that a reviewer left in stays.
        """
        keys = self._key()
        if not self.hears:
            return None
        found = next(
            filter(
                None,
                (
                    self._covers(keys, kind, form)
                    for kind in HEARD_KINDS
                    if self.tokens.get(kind)
                    for form in {compared(text) for text in said.get(kind, ()) if text}
                ),
            ),
            None,
        )
        return None if found is None or self.stays(content, url) else found

    def stays(self, *known: str | None) -> bool:
        """Whether a reviewer left something in that has a removed name, known by one of these: content, address."""
        keys = self._key()
        return any(value is not None and self._covers(keys, STAYS, value) is not None for value in known)

    def slots(self, dataset: str) -> frozenset[int]:
        """The ordinals of a dataset that are empty from now on; needs no key."""
        return frozenset(self.slot_removals.get(dataset, {}))

    @property
    def removals(self) -> tuple[str, ...]:
        """The removals that have a tombstone, sorted."""
        by_token = {by for kind, known in self.tokens.items() if kind != STAYS for by in known.values()}
        by_slot = {removal for known in self.slot_removals.values() for removal in known.values()}
        return tuple(sorted(by_token | by_slot))

    # ── changing ───────────────────────────────────────────────────────────────────────────────────────────────

    def with_added(
        self,
        removal: str,
        *,
        keys: KeyRing | None = None,
        urls: Iterable[str] = (),
        contents: Iterable[str] = (),
        samples: Iterable[str] = (),
        domains: Iterable[str] = (),
        said: Said | None = None,
        stays: Iterable[str] = (),
        slots: Mapping[str, Iterable[int]] | None = None,
    ) -> Self:
        """With these kept out for a removal, one epoch on; what is kept out already stays with its first removal.

        `said`: names and texts. `stays`: contents and addresses that these do not keep out.
        """
        ring = dataclasses.replace(self, keys=keys or self.keys)._key()
        named: dict[str, Iterable[str]] = {"url": urls, "content": contents, "sample": samples, "domain": domains}
        for kind in HEARD_KINDS:
            named[kind] = sorted({form for text in (said or {}).get(kind, ()) if text and (form := compared(text))})
        named[STAYS] = stays
        tokens = {
            kind: {**{ring.token(kind, value): removal for value in values}, **self.tokens.get(kind, {})}
            for kind, values in named.items()
        }
        emptied = {dataset: dict(known) for dataset, known in self.slot_removals.items()}
        for dataset, ordinals in (slots or {}).items():
            emptied[dataset] = {**dict.fromkeys(ordinals, removal), **emptied.get(dataset, {})}
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            key_id=ring.key_id("token"),
            tokens=tokens,
            slot_removals=emptied,
            keys=ring,
        )

    # ── the file ───────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(cls, directory: Path, keys: KeyRing | None = None) -> Self:
        """Read `current.json`; none there: empty, which `check_against` tells from lost.

        `keys`: needed for every question but `slots`. Raises `IntegrityError` for a damaged file or one of a newer
        version, `KeyFileError` when the tokens were made with another key.
        """
        path = directory / TOMBSTONES_FILE
        try:
            data = json.loads(path.read_bytes())
            body = data["tombstones"]
            if data["version"] > TOMBSTONES_VERSION:
                raise IntegrityError("written by a newer version", where=str(path), remedy="Update Custody")
            if data["sha256"] != _digest(body):
                raise IntegrityError("the tombstones were changed or damaged", where=str(path))
            tombstones = cls(
                epoch=body["epoch"],
                key_id=body["key_id"],
                tokens={kind: dict(body["tokens"].get(kind, {})) for kind in TOKEN_KINDS},
                slot_removals={
                    dataset: {int(ordinal): removal for ordinal, removal in known.items()}
                    for dataset, known in body["slots"].items()
                },
                keys=keys,
            )
        except FileNotFoundError:
            return cls(keys=keys)
        except OSError as error:
            raise StorageError(f"cannot read the tombstones ({error.strerror})", where=str(path)) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"not a tombstone file ({error!r})", where=str(path)) from error
        if keys is not None and tombstones.key_id != keys.key_id("token"):
            raise KeyFileError("the tombstones were made with another key", where=str(path), remedy="Restore keys/")
        return tombstones

    def store(self, directory: Path) -> None:
        """Put these in force: written, fsynced, renamed. Stored already: nothing is done.

        Where there is no file any may begin one, empty ones too: a copy that was begun is told from a lost one.
        Raises `IntegrityError` when they would not continue what is in force (an epoch that does not rise, a tombstone
        that would be lost: load again and add), `StorageError`.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                current = type(self).load(directory)
                if current == self:
                    return
                is_first = not (directory / TOMBSTONES_FILE).exists()
                if (self.epoch <= current.epoch and not is_first) or not current.is_within(self):
                    raise IntegrityError(
                        f"epoch {self.epoch} does not continue epoch {current.epoch}",
                        where=str(directory / TOMBSTONES_FILE),
                        remedy="Load the tombstones again and add to them",
                    )
                write_durably(directory / TOMBSTONES_FILE, self._to_json().encode())
        except OSError as error:
            raise StorageError(f"cannot store the tombstones ({error.strerror})", where=str(directory)) from error

    def rows(self, removal: str, now: datetime) -> list[dict[str, object]]:
        """The ledger's `tombstone` rows of one removal; a slot's token is "<dataset>:<ordinal>"."""
        return self.rows_of([removal], now)[removal]

    def rows_of(self, removals: Iterable[str], now: datetime) -> dict[str, list[dict[str, object]]]:
        """`rows` of each of many removals, in one pass."""
        slots = {
            f"{dataset}:{ordinal}": by for dataset, known in self.slot_removals.items() for ordinal, by in known.items()
        }
        rows: dict[str, list[dict[str, object]]] = {removal: [] for removal in removals}
        for kind, known in {**self.tokens, "slot": slots}.items():
            key_id = None if kind == "slot" else self.key_id
            for token, by in sorted(known.items()):
                if by in rows:
                    row = {"removal": by, "kind": kind, "token": token, "key_id": key_id}
                    rows[by].append({**row, "epoch": self.epoch, "in_force_at": now})
        return rows

    def check_against(self, ledger: Ledger) -> None:
        """Every tombstone on the ledger's record is in this file; the file may be ahead, it takes force first.

        Raises `IntegrityError`: the file was lost or is an old copy, and nothing may be let in by it.
        """
        known = {(kind, token) for kind, tokens in self.tokens.items() for token in tokens}
        known |= {("slot", f"{name}:{ordinal}") for name, slots in self.slot_removals.items() for ordinal in slots}
        # `near` and `spared` are policy/suppression.py's, which counts epochs of its own.
        on_record = ledger.query(
            "SELECT DISTINCT kind, token, epoch FROM tombstone "
            "WHERE token IS NOT NULL AND kind NOT IN ('near', 'spared')"
        )
        missing = [row for row in on_record if (row[0], row[1]) not in known]
        if missing or max((epoch for _, _, epoch in on_record), default=0) > self.epoch:
            raise IntegrityError(
                f"{len(missing)} tombstones on record are not in the tombstone file, which is of epoch {self.epoch}",
                where=TOMBSTONES_FILE,
                remedy="Restore the file from its copy before anything else runs",
            )

    # ── within ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self) -> KeyRing:
        if self.keys is None:
            raise KeyFileError("tombstones cannot be asked without the token key", remedy="Restore keys/")
        if self.key_id is not None and self.key_id != self.keys.key_id("token"):
            raise KeyFileError("the tombstones were made with another key", remedy="Restore keys/")
        return self.keys

    def _covers(self, keys: KeyRing, kind: str, value: str) -> str | None:
        known = self.tokens.get(kind)
        return known.get(keys.token(kind, value)) if known else None

    def is_within(self, other: Self) -> bool:
        """Whether the other knows all of this, each with the same removal."""
        return all(known.items() <= other.tokens.get(kind, {}).items() for kind, known in self.tokens.items()) and all(
            known.items() <= other.slot_removals.get(name, {}).items() for name, known in self.slot_removals.items()
        )

    def _to_json(self) -> str:
        body: dict[str, Any] = {
            "epoch": self.epoch,
            "key_id": self.key_id,
            "tokens": {k: dict(known) for k, known in self.tokens.items() if known or k in _FIRST_KINDS},
            "slots": {
                dataset: {str(ordinal): removal for ordinal, removal in sorted(known.items())}
                for dataset, known in sorted(self.slot_removals.items())
            },
        }
        version = TOMBSTONES_VERSION if any(self.tokens.get(kind) for kind in (*HEARD_KINDS, STAYS)) else 1
        return canonical_json({"version": version, "sha256": _digest(body), "tombstones": body}) + "\n"


class StandingTombstones:
    """The tombstones of a directory as they are at the moment of asking: read anew whenever the file changes.

    One `stat` a question. Begun with what was held against the ledger; from there on they may only grow.
    """

    def __init__(self, directory: Path, known: Tombstones) -> None:
        self._path, self._known = directory / TOMBSTONES_FILE, known
        self._state: tuple[int, int, int] | None = None  # the first look reads the file

    def now(self) -> Tombstones:
        """Those in force. Raises `IntegrityError` for a file that is damaged, older than before, or gone."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            if not self._known.epoch:
                return self._known
            raise self._lost() from error
        state = found.st_mtime_ns, found.st_ino, found.st_size
        if state != self._state:
            tombstones = Tombstones.load(self._path.parent, self._known.keys)
            if tombstones.epoch < self._known.epoch:
                raise self._lost()
            self._known, self._state = tombstones, state
        return self._known

    def _lost(self) -> IntegrityError:
        remedy = "Restore the file from its copy before anything else runs"
        return IntegrityError("the tombstones were there, and are gone or older", where=str(self._path), remedy=remedy)


def _digest(body: object) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _domains(canonical: str) -> Iterator[str]:
    """The host of a URL with its port, without it, and every domain above it that is not a bare top level."""
    parts = urlsplit(canonical)
    host = parts.hostname or ""
    if parts.port is not None:
        yield parts.netloc.lower()
    yield host
    while host.count(".") > 1 and not host.replace(".", "").isdigit():
        host = host.partition(".")[2]
        yield host


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One storer at a time, of whichever file in this directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
