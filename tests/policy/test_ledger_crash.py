"""The ledger under kills, several processes and a full disk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy.errors import StorageError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.snapshot import publish

# Appends batches 0, 1, 2, … of three tables, from where it left off; compacts and publishes now and then.
WRITER = """
import sys; from datetime import UTC, datetime; from pathlib import Path
from policy.ledger import Ledger; from policy.snapshot import publish
home = Path(sys.argv[1])
with Ledger.open(home / "ledger.duckdb") as ledger:
    [(first,)] = ledger.query("SELECT count(*) FROM batch WHERE table_name = 'decision'")
    print("ready", flush=True)
    for unit in range(first - (first > 0), 10**6):
        rows = [{"pair_key": f"{unit}-{i}", "reason_detail": "x" * 300, "rule": "robots"} for i in range(300)]
        pairs = [{"pair_key": f"{unit}-{i}"} for i in range(10)]
        done = ledger.append_many([("decision", rows, f"{unit}"), ("occurrence", pairs, f"{unit}")])
        ledger.append("confirmation", [{"decide_id": f"{unit}"}], key=f"{unit}")
        print(unit, flush=True)
        if unit % 7 == 6:
            ledger.compact()
        if unit % 5 == 4:
            publish(ledger, home / "audit.duckdb", now=datetime.now(UTC))
"""


def test_a_writer_killed_at_any_moment_leaves_whole_batches(home: Path) -> None:
    """kill -9 around appends, compactions and publications: no batch twice, none by half, the chain verifies."""
    draw = random.Random(20261121)
    head = 0
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(draw.randrange(5)):
                writer.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.2))
            writer.kill()
        with Ledger.open(home / "ledger.duckdb", readonly=draw.random() < 0.5) as ledger:
            assert ledger.verify() == ()
            assert ledger.head()[0] >= head
            head = ledger.head()[0]
            [(batches, distinct)] = ledger.query(
                "SELECT count(*), count(DISTINCT (table_name, idempotency_key)) FROM batch"
            )
            assert batches == distinct
            units = "SELECT {} FROM batch WHERE table_name = '{}'"
            decided = ledger.query(units.format("list_sort(list(idempotency_key))", "decision"))
            assert ledger.query(units.format("list_sort(list(idempotency_key))", "occurrence")) == decided
            [(rows, pairs, whole)] = ledger.query(
                "SELECT count(*), count(DISTINCT pair_key), (SELECT count(*) * 300 FROM batch"
                " WHERE table_name = 'decision') FROM decision"
            )
            assert rows == pairs == whole
    assert head > 1


def test_two_writers_at_once_both_land(home: Path) -> None:
    """Processes that open, append and close in turn wait for each other; all is there, in one chain."""
    code = """
import sys; from pathlib import Path; from policy.ledger import Ledger
for i in range(6):
    with Ledger.open(Path(sys.argv[1])) as ledger:
        assert ledger.append("event", [{"kind": sys.argv[2], "subject": f"{i}"}], key=f"{sys.argv[2]}-{i}")
        ledger.append("event", [{"kind": "both"}], key=f"both-{i}")
"""
    path = home / "ledger.duckdb"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    with Ledger.open(path, readonly=True) as ledger:
        kinds = ledger.query("SELECT kind, count(*) FROM event GROUP BY kind ORDER BY kind")
        assert kinds == [("a", 6), ("b", 6), ("both", 6)]
        assert ledger.verify() == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], capture_output=True).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_costs_nothing_that_was_complete(small_disk: Path, empty_home: Path) -> None:
    """No room: StorageError; what was appended before is there, verifies, and appending goes on when there is room."""
    home = shutil.copytree(empty_home, small_disk / "home")
    keys = KeyRing.load(home / "keys")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 42_000_000)
    done: list[str] = []
    with Ledger.open(home / "ledger.duckdb", keys) as ledger:

        def fill() -> None:
            for unit in range(10_000):
                rows = [{"subject": os.urandom(500).hex()} for _ in range(200)]
                ledger.append("event", rows, key=f"{unit}")
                done.append(f"{unit}")

        with pytest.raises(StorageError, match=r"ledger\.duckdb"):
            fill()
        with pytest.raises(StorageError):
            publish(ledger, home / "audit.duckdb", now=ledger._clock())
        assert not (home / "audit.duckdb").exists()
    assert 1 <= len(done) < 10_000
    with Ledger.open(home / "ledger.duckdb", keys, readonly=True) as ledger:
        assert ledger.verify(keys) == ()
        kept = ledger.query("SELECT idempotency_key FROM batch WHERE table_name = 'event' ORDER BY seq")
        assert [key for (key,) in kept] == done
    ballast.unlink()
    with Ledger.open(home / "ledger.duckdb", keys) as ledger:
        assert ledger.append("event", [{"kind": "room again"}], key="again")
        ledger.compact()
        assert ledger.verify(keys) == ()
        assert publish(ledger, home / "audit.duckdb", now=ledger._clock())


def test_compacting_on_a_full_disk_keeps_the_ledger(small_disk: Path, empty_home: Path) -> None:
    """A compaction that has no room fails, removes its half copy, and the old file stays the ledger."""
    home = shutil.copytree(empty_home, small_disk / "home")
    with Ledger.open(home / "ledger.duckdb") as ledger:
        ledger.append("event", [{"subject": os.urandom(500).hex()} for _ in range(1000)], key="k")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"\0" * (free - 400_000))
    with Ledger.open(home / "ledger.duckdb") as ledger:
        with pytest.raises(StorageError):
            ledger.compact()
        assert ledger.verify() == ()
        assert not list(home.glob("*compacting*"))
