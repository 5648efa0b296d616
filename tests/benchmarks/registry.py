"""Imported lists at size: importing, a million candidates against ten million entries, a pair at a time, PDQ."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from policy.evidence import Evidence
from policy.registries import ImportedList, Keys, NearHashes, Registries, found_in, keys_of, write_keys

ROWS = 10_000_000
CANDIDATES = 1_000_000
PAIRS = 50_000
HASHES = (10_000, 100_000, 1_000_000)


def run() -> list[tuple[str, str]]:
    """Wall times on this machine; the list's pages are in the page cache, as after an import."""
    with tempfile.TemporaryDirectory() as directory:
        path, now = Path(directory), datetime.now(UTC)
        memory = _memory(path)  # first: a child begins with the size of who starts it
        began = time.perf_counter()
        written = write_keys(path, "list", "url", _batches())
        importing = time.perf_counter() - began
        row = ImportedList("list", "url", written.sha256, written.rows, now, 30, now)
        lists = Registries.load(path, [row])
        urls = [_url(n) for n in range(ROWS - CANDIDATES // 2, ROWS + CANDIDATES // 2)]
        began = time.perf_counter()
        wanted = keys_of("url", urls)
        hashing = time.perf_counter() - began
        began = time.perf_counter()
        found = int(found_in(lists.lists[0].keys, wanted).sum())
        searching = time.perf_counter() - began
        assert found == CANDIDATES // 2
        pairs = [Evidence(f"https://p{n % 99}.example/", f"https:{_url(n)}?", now, "bench", "1") for n in range(PAIRS)]
        one_by_one = _timed(lambda: [lists.answers_for(pair) for pair in pairs]) / PAIRS
        at_once = _timed(lambda: lists.answers_for_all(pairs)) / PAIRS
        rows = [
            (f"sort {ROWS:,} URLs into a list, hashing included", f"{importing:.1f} s"),
            ("memory of `custody policy import` of them, at most", memory),
            (
                f"anti-join of {CANDIDATES:,} URLs against {ROWS:,}",
                f"{hashing + searching:.2f} s, of which {hashing:.2f} s hashing, one core",
            ),
            ("a pair (page and picture) against that list, one by one", f"{one_by_one * 1e6:.1f} µs"),
            ("the same, 50,000 pairs at once", f"{at_once * 1e6:.1f} µs"),
        ]
    return rows + [_pdq(count) for count in HASHES]


def _url(number: int) -> str:
    return f"//images{number % 1000}.example.org/a/{number}.jpg"


def _batches() -> Iterator[Keys]:
    for start in range(0, ROWS, 65_536):
        yield keys_of("url", [_url(n) for n in range(start, min(start + 65_536, ROWS))])


def _memory(path: Path) -> str:
    """The command itself, in a process of its own: its largest resident set."""
    home, file = path / "home", path / "list.txt"
    with file.open("w") as lines:
        lines.writelines(f"https:{_url(n)}\n" for n in range(ROWS))
    custody = [sys.executable, "-m", "flows.cli"]
    subprocess.run([*custody, "init", "--home", str(home)], check=True, capture_output=True)
    command = [*custody, "policy", "import", str(file), "--kind", "url", "--home", str(home)]
    took = _timed(lambda: subprocess.run(command, check=True, capture_output=True))
    return f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB (the command took {took:.0f} s)"


def _pdq(count: int) -> tuple[str, str]:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, (count, 4), dtype=np.uint64)
    wanted = [row.astype(">u8").tobytes().hex() for row in rng.integers(0, 2**64, (500, 4), dtype=np.uint64)]
    near = NearHashes(hashes, 31)
    indexing = _timed(lambda: near.nearest(wanted[0]))
    each = _timed(lambda: [near.nearest(pdq) for pdq in wanted]) / len(wanted)
    return (
        f"a PDQ hash against {count:,}, distance 31",
        f"{each * 1e6:.0f} µs (index made in {indexing:.2f} s, once)",
    )


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
