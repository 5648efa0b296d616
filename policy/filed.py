"""What the copy outside the home knows of requests: of each that is in force its kind, regime and dates, encrypted.

Tombstones and marks say what was removed, not until when somebody had to be answered. A home that is put back from an
older backup may know nothing of a request; with this its deadline survives. What it named, and who asked, is not in it.

`requests.json`: canonical JSON with `version`, `sha256` (of the canonical JSON of the next) and `requests`: `key_id` of
the encryption key, and `sealed`, removal -> AES-256-GCM in base64, bound to the removal.
"""

from __future__ import annotations

import base64
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
from policy.provenance import canonical_json
from policy.removals import RemovalRequest
from policy.tombstones import locked

REQUESTS_FILE: Final = "requests.json"
REQUESTS_VERSION: Final = 1
_REMEDY: Final = "Restore it from another copy, or delete it: kinds and dates of restored requests are lost then"


@dataclass(frozen=True, slots=True)
class Filed:
    """Of one request: what was asked for, by which law, when it came, and until when it had to be answered."""

    kind: str
    regime: str
    received_at: datetime
    due_at: datetime

    @classmethod
    def of(cls, request: RemovalRequest) -> Self:
        return cls(request.kind, request.regime, request.received_at, request.due_at)

    def to_bytes(self) -> bytes:
        """As it is encrypted."""
        dates = {"received_at": self.received_at.isoformat(), "due_at": self.due_at.isoformat()}
        return canonical_json({"kind": self.kind, "regime": self.regime, **dates}).encode()

    @classmethod
    def from_bytes(cls, plain: bytes) -> Self:
        """Undo `to_bytes`. Raises ValueError, KeyError or TypeError for anything else."""
        said = json.loads(plain)
        dates = (datetime.fromisoformat(said[name]) for name in ("received_at", "due_at"))
        return cls(str(said["kind"]), str(said["regime"]), *dates)


def load_filed(directory: Path, keys: KeyRing) -> dict[str, Filed]:
    """What the copy knows, by removal; without the file nothing, as in copies of before there was one.

    Raises `IntegrityError` for a damaged file or one of a newer version, `KeyFileError` for another key's, or
    `StorageError`.
    """
    path = directory / REQUESTS_FILE
    sealed = _read(path, keys)
    try:
        return {name: Filed.from_bytes(keys.decrypt(text, _associated(name))) for name, text in sealed.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"not what a request is known by ({error!r})", where=str(path), remedy=_REMEDY) from error


def store_filed(directory: Path, requests: Iterable[RemovalRequest], keys: KeyRing) -> None:
    """Tell the copy of these requests; what it knows of others stays. Nothing new: nothing is written.

    Raises as `load_filed` does.
    """
    wanted = {request.removal: Filed.of(request) for request in requests}
    if not wanted:
        return
    path = directory / REQUESTS_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            known = load_filed(directory, keys)
            if new := {name: filed for name, filed in wanted.items() if known.get(name) != filed}:
                added = {name: keys.encrypt(filed.to_bytes(), _associated(name)) for name, filed in new.items()}
                texts = {
                    name: base64.b64encode(sealed).decode() for name, sealed in (_read(path, keys) | added).items()
                }
                body = {"key_id": keys.key_id("encryption"), "sealed": texts}
                text = canonical_json({"version": REQUESTS_VERSION, "sha256": _digest(body), "requests": body})
                write_durably(path, f"{text}\n".encode())
    except OSError as error:
        raise StorageError(f"the copy of the requests cannot be written ({error.strerror})", where=str(path)) from error


def _read(path: Path, keys: KeyRing) -> dict[str, bytes]:
    try:
        data = json.loads(path.read_bytes())
        body = data["requests"]
        if data["version"] > REQUESTS_VERSION:
            raise IntegrityError("written by a newer version", where=str(path), remedy="Update Custody")
        if data["sha256"] != _digest(body):
            raise IntegrityError("the copy of the requests was changed or damaged", where=str(path), remedy=_REMEDY)
        key_id, sealed = body["key_id"], {n: base64.b64decode(t, validate=True) for n, t in body["sealed"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"the copy of the requests cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"not a copy of requests ({error!r})", where=str(path), remedy=_REMEDY) from error
    if key_id != keys.key_id("encryption"):
        raise KeyFileError("the requests were encrypted under another key", where=str(path), remedy="Restore keys/")
    return sealed


def _associated(removal: str) -> bytes:
    """What the ciphertext is bound to: nobody gives one request the dates of another."""
    return f"custody request/1\n{removal}".encode()


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()
