"""What origins say of themselves, kept on the disk between units, crawls and rechecks: one file an origin."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.stages.parts import unit_id
from policy.durable import write_durably
from policy.evidence import Document, OriginEvidence


class OriginFiles(MutableMapping[str, OriginEvidence]):
    """Origin -> its documents, each origin a JSON file that is written atomically and read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, OriginEvidence] = {}

    def __getitem__(self, origin: str) -> OriginEvidence:
        if origin not in self._read:
            path = self._path(origin)
            if not path.is_file():
                raise KeyError(origin)
            self._read[origin] = _from_json(path.read_text("utf-8"))
        return self._read[origin]

    def __setitem__(self, origin: str, evidence: OriginEvidence) -> None:
        write_durably(self._path(origin), _to_json(evidence).encode())
        self._read[origin] = evidence

    def __delitem__(self, origin: str) -> None:
        del self._read[origin]
        self._path(origin).unlink()

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._directory.glob("*.json")):
            yield _from_json(path.read_text("utf-8")).origin

    def __len__(self) -> int:
        return sum(1 for _ in self._directory.glob("*.json"))

    def _path(self, origin: str) -> Path:
        return self._directory / f"{unit_id(origin)}.json"


def _to_json(evidence: OriginEvidence) -> str:
    documents = [
        [
            name,
            asdict(d)
            | {"body": None if d.body is None else base64.b64encode(d.body).decode()}
            | {"fetched_at": d.fetched_at.isoformat()},
        ]
        for name, d in evidence.documents
    ]
    return json.dumps({"origin": evidence.origin, "documents": documents})


def _from_json(text: str) -> OriginEvidence:
    data: dict[str, Any] = json.loads(text)
    return OriginEvidence(data["origin"], tuple((name, _document(d)) for name, d in data["documents"]))


def _document(data: dict[str, Any]) -> Document:
    return Document(
        **data
        | {
            "body": None if data["body"] is None else base64.b64decode(data["body"]),
            "fetched_at": datetime.fromisoformat(data["fetched_at"]),
            "headers": tuple((n, v) for n, v in data["headers"]),
        }
    )
