"""The ledger at size: appending, standing verdicts, verification."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from policy.keys import KeyRing
from policy.ledger import Ledger

RULES = ("robots", "x_robots", "licence", "faces", "size", "text", "tombstone")
PAIRS = 200_000
BATCH = 70_000


def run() -> list[tuple[str, str]]:
    """Decisions of 200,000 pairs by seven rules: rates per second of wall time."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.duckdb"
        keys, now = KeyRing.create(Path(directory) / "keys"), datetime.now(UTC)
        Ledger.create(path, keys, now)
        rows = PAIRS * len(RULES)
        with Ledger.open(path, keys=keys) as ledger:
            appending = _timed(lambda: _append(ledger, rows))
            standing = _timed(lambda: ledger.query("SELECT verdict, count(*) FROM standing GROUP BY ALL"))
            verifying = _timed(lambda: ledger.verify(keys))
        return [
            (f"append {rows:,} decisions in batches of {BATCH:,}", f"{rows / appending:,.0f} rows/s"),
            (f"standing verdicts of {PAIRS:,} pairs x {len(RULES)} rules", f"{standing:.2f} s"),
            (f"verify {rows:,} rows: chain, digests, commitments", f"{rows / verifying:,.0f} rows/s"),
        ]


def _append(ledger: Ledger, rows: int) -> None:
    for start in range(0, rows, BATCH):
        numbers = range(start, min(start + BATCH, rows))
        table = pa.table(
            {
                "pair_key": [f"{n // len(RULES):032x}" for n in numbers],
                "evidence_id": [f"{n // len(RULES):032x}" for n in numbers],
                "rule": [RULES[n % len(RULES)] for n in numbers],
                "rule_version": pa.array([1] * len(numbers), pa.int32()),
                "verdict": ["deny" if n % 41 == 0 else "allow" for n in numbers],
                "reason_code": ["robots-disallow" if n % 41 == 0 else "robots-allow" for n in numbers],
                "reason_detail": ["Disallow: /private/"] * len(numbers),
                "where_found": ["https://a.example/robots.txt:12"] * len(numbers),
                "ruleset_digest": ["0" * 32] * len(numbers),
                "decide_id": ["bench"] * len(numbers),
            }
        )
        ledger.append("decision", table, key=f"bench/{start}")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
