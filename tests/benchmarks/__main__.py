"""`make bench` runs every benchmark, `make bench BENCH=startup` one; results are appended to docs/benchmarks.md.

`peers`, `pages` and `crawl` need two more environments (make bulk-env peers-env), `person_search` the extra
person-search, and say so without them.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.table import Table

BENCHMARKS = (
    *("startup", "ledger", "judging", "deciding", "registry", "embedded", "peers"),
    *("pages", "wat", "pictures", "shards", "crawl"),
    *("looking", "clip", "scores", "faces", "duplicates"),
    *("captions", "caption_bank"),
    "loader",
    *("trace", "curriculum"),
    *("exactness", "after_kill", "forgetting"),
    *("person_search", "needles", "recognising", "in_force", "removal_scale"),
)
RESULTS = Path(__file__).resolve().parent.parent.parent / "docs" / "benchmarks.md"


def main() -> int:
    """Run the benchmarks that are named (all by default); exit 2 for a name that is none."""
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}\n")
        return 2
    for name in names:
        found = importlib.import_module(f"tests.benchmarks.{name}").run()
        table = found if isinstance(found, Table) else Table(("what", "measured"), found)
        now = datetime.now(UTC)
        lines = [
            f"\n## {now:%Y-%m-%d %H:%M} UTC: {name}",
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, Python {platform.python_version()}\n",
            *table.lines(),
        ]
        text = "\n".join(lines) + "\n"
        sys.stdout.write(text)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
