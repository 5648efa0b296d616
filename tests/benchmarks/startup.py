"""How long a person waits at the prompt: imports, `--help`, `why`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.home import Home

REPEATS = 7


def run() -> list[tuple[str, str]]:
    """Median and best wall time of fresh processes."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home.create(Path(directory) / "home")
        query = "https://example.org/picture.png"
        commands = {
            "python -c 'pass'": ["-c", "pass"],
            "import of the policy package's ledger and ruleset": ["-c", "import policy.ledger, policy.ruleset"],
            "custody --help": ["-m", "flows.cli", "--help"],
            "custody why URL": ["-m", "flows.cli", "why", query, "--home", str(home.path)],
        }
        return [(name, _measured(arguments)) for name, arguments in commands.items()]


def _measured(arguments: list[str]) -> str:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        times.append(time.perf_counter() - began)
    return f"{statistics.median(times):.2f} s (best {min(times):.2f} s of {REPEATS})"
