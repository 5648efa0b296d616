"""The suppression list: by what a removed picture is recognised that comes back as other bytes.

Tombstones know a removed picture by keyed tokens, which a copy that was encoded anew escapes. So each removed content
leaves marks: PDQ hashes and embeddings, encrypted, in `tombstones/suppression.json`. What they name is opened in memory
only, by who holds the keys. A content that is like a removed one and was left in by a person is spared, by its token.

The file has the discipline of `tombstones/current.json`: a rising epoch, nothing is ever lost, the ledger's rows follow
(kinds `near` and `spared`), and a file that is damaged, lost or old lets nothing in.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from policy.durable import write_durably
from policy.errors import IntegrityError, KeyFileError, StorageError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.provenance import canonical_json
from policy.tombstones import Tombstones, locked

SUPPRESSION_FILE: Final = "suppression.json"
SUPPRESSION_VERSION: Final = 1
SUPPRESSION_KINDS: Final = ("near", "spared")


@dataclass(frozen=True, slots=True)
class Marks:
    """By what one removed picture is recognised.

    `hashes`: PDQ, 64 hex digits each, of the picture and of copies of it, those with enough structure; the eight
    orientations of each are reckoned when it is compared. `vectors`: embeddings of the same, int8 of one length, made
    by the model of digest `model`; empty where no pixels were left to look at.
    """

    hashes: tuple[str, ...] = ()
    model: str = ""
    vectors: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """As it is encrypted."""
        vectors = [base64.b64encode(vector).decode() for vector in self.vectors]
        return canonical_json({"hashes": self.hashes, "model": self.model, "vectors": vectors}).encode()

    @classmethod
    def from_bytes(cls, plain: bytes) -> Self:
        """Undo `to_bytes`. Raises ValueError, KeyError or TypeError for anything else."""
        said = json.loads(plain)
        vectors = tuple(base64.b64decode(vector, validate=True) for vector in said["vectors"])
        return cls(tuple(said["hashes"]), said["model"], vectors)


@dataclass(frozen=True, slots=True)
class Entry:
    """The marks of one removed content: for which removal, and encrypted (AES-256-GCM)."""

    removal: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Suppression:
    """The marks of everything that was removed. `epoch` rises with every change; 0: there never were any.

    `entries`: the removed content's keyed token -> its marks. `spared`: token of a content that is like a removed one
    and stays all the same -> the removal that it is like. `key_id`: the encryption key's.
    """

    epoch: int = 0
    key_id: str | None = None
    entries: Mapping[str, Entry] = dataclasses.field(default_factory=dict)
    spared: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keys: KeyRing | None = dataclasses.field(default=None, repr=False, compare=False)

    # ── asking ─────────────────────────────────────────────────────────────────────────────────────────────────

    def __bool__(self) -> bool:
        """Whether anything was ever marked: while nothing was, nothing need be compared."""
        return bool(self.entries)

    def is_marked(self, content_sha256: str) -> bool:
        """Whether a removed content has left its marks. Raises `KeyFileError` without the keys."""
        return bool(self.entries) and self._key().token("near", content_sha256) in self.entries

    def is_spared(self, content_sha256: str) -> bool:
        """Whether a person let a content in though it is like a removed one. Raises `KeyFileError` without the keys."""
        return bool(self.spared) and self._key().token("spared", content_sha256) in self.spared

    def marks(self) -> tuple[tuple[str, Marks], ...]:
        """(removal, marks) of every removed content, decrypted. Raises `KeyFileError`, `IntegrityError`."""
        if not self.entries:
            return ()
        keys = self._key()
        try:
            return tuple(
                (entry.removal, Marks.from_bytes(keys.decrypt(entry.sealed, _associated(token, entry.removal))))
                for token, entry in self.entries.items()
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"not the marks of a picture ({error!r})", where=SUPPRESSION_FILE) from error

    # ── changing ───────────────────────────────────────────────────────────────────────────────────────────────

    def with_added(
        self,
        removal: str,
        marks: Mapping[str, Marks],
        *,
        spared: Iterable[str] = (),
        keys: KeyRing | None = None,
    ) -> Self:
        """With the marks of these removed contents (sha256 -> marks), and these contents spared, one epoch on.

        What is marked or spared already stays as it is, with its first removal. Nothing new: the list as it is.
        """
        ring = dataclasses.replace(self, keys=keys or self.keys)._key()
        entries, left_in = dict(self.entries), dict(self.spared)
        for content, found in sorted(marks.items()):
            token = ring.token("near", content)
            if token not in entries:
                entries[token] = Entry(removal, ring.encrypt(found.to_bytes(), _associated(token, removal)))
        for content in sorted(spared):
            left_in.setdefault(ring.token("spared", content), removal)
        if len(entries) == len(self.entries) and len(left_in) == len(self.spared):
            return self
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            key_id=ring.key_id("encryption"),
            entries=entries,
            spared=left_in,
            keys=ring,
        )

    # ── the file ───────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(cls, directory: Path, keys: KeyRing | None = None) -> Self:
        """Read `suppression.json`; none there: empty, which `check_against` tells from lost.

        `keys`: needed for every question. Raises `IntegrityError` for a damaged file or one of a newer version,
        `KeyFileError` when the marks were encrypted under another key, `StorageError`.
        """
        path = directory / SUPPRESSION_FILE
        try:
            data = json.loads(path.read_bytes())
            body = data["suppression"]
            if data["version"] > SUPPRESSION_VERSION:
                raise IntegrityError("written by a newer version", where=str(path), remedy="Update Custody")
            if data["sha256"] != _digest(body):
                raise IntegrityError("the suppression list was changed or damaged", where=str(path))
            found = cls(
                epoch=body["epoch"],
                key_id=body["key_id"],
                entries={
                    token: Entry(removal, base64.b64decode(sealed, validate=True))
                    for token, (removal, sealed) in body["near"].items()
                },
                spared=dict(body["spared"]),
                keys=keys,
            )
        except FileNotFoundError:
            return cls(keys=keys)
        except OSError as error:
            raise StorageError(f"cannot read the suppression list ({error.strerror})", where=str(path)) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"not a suppression list ({error!r})", where=str(path)) from error
        if keys is not None and found.key_id != keys.key_id("encryption"):
            raise KeyFileError("the marks were encrypted under another key", where=str(path), remedy="Restore keys/")
        return found

    def store(self, directory: Path) -> None:
        """Put these in force: written, fsynced, renamed. Stored already: nothing is done.

        Raises `IntegrityError` when they would not continue what is in force (an epoch that does not rise, a mark that
        would be lost: load again and add), `StorageError`.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                current = type(self).load(directory)
                if current == self:
                    return
                if self.epoch <= current.epoch or not current.is_within(self):
                    raise IntegrityError(
                        f"epoch {self.epoch} does not continue epoch {current.epoch}",
                        where=str(directory / SUPPRESSION_FILE),
                        remedy="Load the suppression list again and add to it",
                    )
                write_durably(directory / SUPPRESSION_FILE, self._to_json().encode())
        except OSError as error:
            raise StorageError(f"cannot store the suppression list ({error.strerror})", where=str(directory)) from error

    def rows(self, now: datetime) -> list[dict[str, object]]:
        """The ledger's `tombstone` rows of all that is marked and spared."""
        named = {"near": {token: entry.removal for token, entry in self.entries.items()}, "spared": self.spared}
        return [
            {
                "removal": removal,
                "kind": kind,
                "token": token,
                "key_id": token.partition(":")[0],
                "epoch": self.epoch,
                "in_force_at": now,
            }
            for kind, known in named.items()
            for token, removal in sorted(known.items())
        ]

    def record(self, ledger: Ledger, now: datetime) -> int:
        """Append the rows that the ledger lacks; how many there were."""
        known = {(kind, token) for kind, token, _ in _on_record(ledger)}
        rows = [row for row in self.rows(now) if (row["kind"], row["token"]) not in known]
        if rows:
            named = hashlib.sha256("\n".join(f"{row['kind']} {row['token']}" for row in rows).encode()).hexdigest()
            ledger.append("tombstone", rows, key=f"suppression/{self.epoch}/{named[:16]}")
        return len(rows)

    def check_against(self, ledger: Ledger) -> None:
        """Everything that the ledger knows as marked or spared is in this file; the file may be ahead.

        Raises `IntegrityError`: the file was lost or is an old copy, and nothing may be let in by it.
        """
        on_record = _on_record(ledger)
        missing = [
            token for kind, token, _ in on_record if token not in (self.entries if kind == "near" else self.spared)
        ]
        if missing or max((epoch for _, _, epoch in on_record), default=0) > self.epoch:
            raise IntegrityError(
                f"{len(missing)} marks on record are not in the suppression list, which is of epoch {self.epoch}",
                where=SUPPRESSION_FILE,
                remedy="Restore the file from its copy before anything else runs",
            )

    # ── within ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self) -> KeyRing:
        if self.keys is None:
            raise KeyFileError("the suppression list cannot be asked without the keys", remedy="Restore keys/")
        if self.key_id is not None and self.key_id != self.keys.key_id("encryption"):
            raise KeyFileError("the marks were encrypted under another key", remedy="Restore keys/")
        return self.keys

    def is_within(self, other: Self) -> bool:
        """Whether the other knows all of this, each with the same removal."""
        return self.entries.items() <= other.entries.items() and self.spared.items() <= other.spared.items()

    def _to_json(self) -> str:
        body: dict[str, object] = {
            "epoch": self.epoch,
            "key_id": self.key_id,
            "near": {
                token: [entry.removal, base64.b64encode(entry.sealed).decode()] for token, entry in self.entries.items()
            },
            "spared": dict(self.spared),
        }
        return canonical_json({"version": SUPPRESSION_VERSION, "sha256": _digest(body), "suppression": body}) + "\n"


def store_copy(directory: Path, tombstones: Tombstones, suppression: Suppression) -> None:
    """Bring the copy outside the home up to date: `current.json` and `suppression.json` as they are in force.

    A home that was restored from a backup is told by it to be behind: it does not continue this copy. Raises
    `IntegrityError` then, `StorageError` where the directory cannot be written.
    """
    # Files that never were are not made: an empty one would have no key of its own to be checked against.
    if tombstones.epoch:
        tombstones.store(directory)
    if suppression.epoch:
        suppression.store(directory)


def _associated(token: str, removal: str) -> bytes:
    """What the ciphertext is bound to: nobody moves the marks of one removal to another's place."""
    return f"custody suppression/1\n{token}\n{removal}".encode()


def _on_record(ledger: Ledger) -> list[tuple[str, str, int]]:
    rows = ledger.query(
        "SELECT kind, token, max(epoch) FROM tombstone "
        "WHERE token IS NOT NULL AND kind IN ('near', 'spared') GROUP BY ALL"
    )
    return [(kind, token, epoch) for kind, token, epoch in rows]


def _digest(body: object) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()
