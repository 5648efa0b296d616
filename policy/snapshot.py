"""The auditors' copy of the ledger: `audit.duckdb`, which any DuckDB client may open while writers work."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import duckdb

from policy.durable import sweep_unfinished, sync_directory, sync_file
from policy.errors import StorageError
from policy.ledger import Ledger, connect, utc_naive, wal_path


def publish(ledger: Ledger, destination: Path, *, now: datetime, force: bool = False) -> bool:
    """Copy the ledger and put the copy in place at one stroke; False when the chain has not moved since the last.

    The copy has one table more, `snapshot` (seq, chain, published_at). It is made while `ledger` holds the lock, so it
    is one state. What was erased but not yet compacted is still in its bytes, as in the ledger's: compact first.
    Raises `StorageError`; the published snapshot then stays as it was.
    """
    head = ledger.head()
    if not (force or ledger.is_ahead) and _published_head(destination) == head:
        return False
    sweep_unfinished(destination.parent, below=False)
    making = destination.with_name(f".{destination.name}.{os.getpid()}.making")
    try:
        ledger.copy_to(making)
        with connect(making, readonly=False) as connection:
            connection.execute("CREATE TABLE snapshot (seq BIGINT, chain VARCHAR, published_at TIMESTAMP)")
            connection.execute("INSERT INTO snapshot VALUES (?, ?, ?)", [*head, utc_naive(now)])
            connection.execute("CHECKPOINT")
        sync_file(making)
        os.replace(making, destination)
        sync_directory(destination.parent)
    except (duckdb.Error, OSError) as error:
        raise StorageError(f"cannot publish the snapshot ({error})", where=str(destination)) from error
    finally:
        for left in (making, wal_path(making)):
            left.unlink(missing_ok=True)
    return True


def _published_head(destination: Path) -> tuple[int, str] | None:
    """The head of the snapshot in place; None when there is none that can be read, which is then made anew."""
    if not destination.is_file():
        return None
    try:
        with connect(destination, readonly=True) as connection:
            [head] = connection.execute("SELECT seq, chain FROM snapshot").fetchall()
    except (duckdb.Error, ValueError):
        return None
    return (int(head[0]), str(head[1]))
