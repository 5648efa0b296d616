"""What origins say of themselves, and what was declared, kept on the disk between units, crawls and rechecks.

One file an origin or a document, written atomically. Other processes write there too: a file that has changed is read
anew.
"""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from flows.stages.parts import unit_id
from policy.durable import write_durably
from policy.evidence import Document, OriginEvidence

V = TypeVar("V")


class _Files(MutableMapping[str, V]):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, tuple[tuple[int, int], V]] = {}

    @abstractmethod
    def _to_plain(self, value: V) -> dict[str, Any]: ...

    @abstractmethod
    def _from_plain(self, data: dict[str, Any]) -> V: ...

    @abstractmethod
    def _key(self, value: V) -> str: ...

    def __getitem__(self, key: str) -> V:
        path = self._path(key)
        try:
            found = path.stat()
            version = found.st_ino, found.st_mtime_ns
            known = self._read.get(key)
            if known is None or known[0] != version:
                known = self._read[key] = version, self._load(path)
        except FileNotFoundError:
            raise KeyError(key) from None
        return known[1]

    def __setitem__(self, key: str, value: V) -> None:
        write_durably(self._path(key), json.dumps(self._to_plain(value)).encode())

    def __delitem__(self, key: str) -> None:
        self._read.pop(key, None)
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._directory.glob("*.json")):
            yield self._key(self._load(path))

    def __len__(self) -> int:
        return sum(1 for _ in self._directory.glob("*.json"))

    def _load(self, path: Path) -> V:
        return self._from_plain(json.loads(path.read_text("utf-8")))

    def _path(self, key: str) -> Path:
        return self._directory / f"{unit_id(key)}.json"


class OriginFiles(_Files[OriginEvidence]):
    """Origin -> its documents."""

    def _key(self, value: OriginEvidence) -> str:
        return value.origin

    def _to_plain(self, value: OriginEvidence) -> dict[str, Any]:
        return {"origin": value.origin, "documents": [[name, _plain(d)] for name, d in value.documents]}

    def _from_plain(self, data: dict[str, Any]) -> OriginEvidence:
        return OriginEvidence(data["origin"], tuple((name, _document(d)) for name, d in data["documents"]))


class DocumentFiles(_Files[Document]):
    """A document's address -> the document."""

    def _key(self, value: Document) -> str:
        return value.url

    def _to_plain(self, value: Document) -> dict[str, Any]:
        return _plain(value)

    def _from_plain(self, data: dict[str, Any]) -> Document:
        return _document(data)


def _plain(document: Document) -> dict[str, Any]:
    return asdict(document) | {
        "body": None if document.body is None else base64.b64encode(document.body).decode(),
        "fetched_at": document.fetched_at.isoformat(),
        "since": None if document.since is None else document.since.isoformat(),
    }


def _document(data: dict[str, Any]) -> Document:
    since = data.get("since")
    return Document(
        **data
        | {
            "body": None if data["body"] is None else base64.b64decode(data["body"]),
            "fetched_at": datetime.fromisoformat(data["fetched_at"]),
            "headers": tuple((n, v) for n, v in data["headers"]),
            "since": None if since is None else datetime.fromisoformat(since),
        }
    )
