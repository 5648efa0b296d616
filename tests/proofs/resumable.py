"""What long proofs share: where one stands is on the disk, so that it goes on; what it found goes to docs/proofs.md.

Only the code that began a proof goes on with it, and not after a failure: otherwise it begins anew.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from flows.stages.train import code_version
from policy.durable import write_durably
from tests.builders import ROOT

RESULTS = ROOT / "docs" / "proofs.md"
TITLE = "# Proofs\n\nLong proofs (`make prove PROOF=name`) and what they found, newest last.\n"
_STATE = "state.json"


@dataclass(slots=True)
class Resumable:
    """What came of a proof so far; no failures: it holds. Its further fields are numbers, texts, lists and dicts.

    `code`: the version that it is about; "" of one that is not stored.
    """

    code: str = ""
    failures: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        """A failure, unless it holds."""
        if not holds:
            self.failures.append(what)

    def store(self, folder: Path) -> None:
        write_durably(folder / _STATE, json.dumps(asdict(self)).encode())

    @classmethod
    def begin(cls, folder: Path) -> Self:
        """Where the proof stands, or a new one in an empty folder."""
        file, code = folder / _STATE, code_version()
        data: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        if data.get("code") == code and not data.get("failures"):
            return cls(**data)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begun = cls(code=code)
        begun.store(folder)
        return begun


def publish(name: str, told: str) -> None:
    """Append a result, dated, to docs/proofs.md."""
    text = RESULTS.read_text("utf-8") if RESULTS.is_file() else TITLE
    write_durably(RESULTS, f"{text}\n## {datetime.now(UTC):%Y-%m-%d} {name}\n{told}\n".encode())
