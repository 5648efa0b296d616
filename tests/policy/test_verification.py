"""Tampering through a plain DuckDB client, as anybody with the file could, and what verify says of it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.verification import Failure


def fill(ledger: Ledger) -> None:
    """Two batches of a few tables, and an approved removal that erased the slot with ordinal 1."""
    for batch in range(2):
        n = range(batch * 3, batch * 3 + 3)
        ledger.append_many(
            [
                ("decision", [{"pair_key": f"p{i}", "rule": "robots", "verdict": "deny"} for i in n], f"u{batch}"),
                ("content", [{"content_sha256": f"c{i}", "url_key": f"u{i}", "width": 64} for i in n], f"u{batch}"),
                ("document", [{"body_sha256": f"d{i}", "body": b"body"} for i in n], f"u{batch}"),
                ("slot", [{"dataset": "d", "ordinal": i, "sample_key": f"s{i}"} for i in n], f"u{batch}"),
                ("ruleset", [{"digest": f"r{batch}", "body": "…"}], f"u{batch}"),
                ("event", [], f"u{batch}"),
            ]
        )
    ledger.append("removal_event", [{"removal": "good", "state": "approved", "reason": "right"}], key="good")
    ledger.append("removal_event", [{"removal": "bad", "state": "rejected"}], key="bad")
    ledger.erase("good", {"slot": "ordinal = 1"})
    ledger.append("anchor", [{"seq": ledger.head()[0], "chain": ledger.head()[1]}], key="anchor")


@pytest.fixture(scope="module")
def filled_home(empty_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = shutil.copytree(empty_home, tmp_path_factory.mktemp("filled") / "home")
    with Ledger.open(home / "ledger.duckdb", clock=lambda: datetime(2026, 11, 21, tzinfo=UTC)) as ledger:
        fill(ledger)
        assert ledger.verify(KeyRing.load(home / "keys")) == ()
    return home


def verify_after(home: Path, to: Path, *statements: str) -> tuple[Failure, ...]:
    path = shutil.copytree(home, to / "home") / "ledger.duckdb"
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    with Ledger.open(path, readonly=True) as ledger:
        return ledger.verify()


@pytest.mark.parametrize(
    ("statement", "what", "where"),
    [
        # One value, in one table after the other: personal values by their row, others by their batch.
        ("UPDATE decision SET pair_key = 'x' WHERE pair_key = 'p4'", "personal value", "decision, batch 8, row 1"),
        ("UPDATE decision SET verdict = 'allow' WHERE pair_key = 'p4'", "value was changed", "decision, batch 8, rows"),
        ("UPDATE decision SET verdict = NULL WHERE pair_key = 'p4'", "value was changed", "decision, batch 8, rows"),
        ("UPDATE content SET width = 65 WHERE content_sha256 = 'c0'", "value was changed", "content, batch 3"),
        ("UPDATE content SET pdq = '' WHERE content_sha256 = 'c0'", "personal value", "content, batch 3, row 0"),
        (
            "UPDATE document SET body = 'bodY'::BLOB WHERE body_sha256 = 'd5'",
            "personal value",
            "document, batch 10, row 2",
        ),
        ("UPDATE ruleset SET body = 'lax' WHERE digest = 'r0'", "value was changed", "ruleset, batch 6"),
        ("UPDATE ruleset SET salt = NULL WHERE digest = 'r0'", "gone without", "ruleset, batch 6, row 0"),
        ("UPDATE slot SET salt = 'other'::BLOB WHERE ordinal = 0", "personal value", "slot, batch 5, row 0"),
        ("UPDATE slot SET commitment = 'c' WHERE ordinal = 0", "personal value", "slot, batch 5, row 0"),
        ("UPDATE slot SET sample_key = NULL WHERE ordinal = 0", "personal value", "slot, batch 5, row 0"),
        # Rows that come, go or move.
        ("DELETE FROM decision WHERE pair_key = 'p4'", "2 rows where 3", "decision, batch 8"),
        ("INSERT INTO decision FROM decision WHERE pair_key = 'p4'", "4 rows where 3", "decision, batch 8"),
        ("UPDATE decision SET batch_seq = 7 WHERE pair_key = 'p4'", "not appended by the ledger", "decision, batch 7"),
        (
            "UPDATE decision SET batch_seq = NULL WHERE pair_key = 'p4'",
            "not appended by the ledger",
            "decision, batch None",
        ),
        ("UPDATE decision SET row_no = 1 - row_no WHERE row_no < 2", "value was changed", "decision, batch 2"),
        ("UPDATE decision SET row_no = 7 WHERE row_no = 2", "not numbered", "decision, batch 2"),
        (
            "INSERT INTO event (kind, batch_seq, row_no) VALUES ('x', 7, 0)",
            "not appended by the ledger",
            "event, batch 7",
        ),
        ("INSERT INTO export (export) VALUES ('x')", "not appended by the ledger", "export, batch None"),
        # Erasure that was not approved, or says more than was recorded.
        (
            "UPDATE slot SET sample_key = NULL, salt = NULL WHERE ordinal = 0",
            "gone without an approved removal",
            "slot, batch 5, row 0",
        ),
        (
            "UPDATE slot SET sample_key = NULL, salt = NULL, erased_by = 'bad' WHERE ordinal = 0",
            "erased for bad, which was not approved",
            "slot, batch 5, row 0",
        ),
        (
            "UPDATE slot SET sample_key = NULL, salt = NULL, erased_by = 'good' WHERE ordinal = 0",
            "2 rows erased for good where 1",
            "slot, batch 5",
        ),
        ("UPDATE slot SET erased_by = 'good' WHERE ordinal = 0", "still holds something", "slot, batch 5, row 0"),
        ("UPDATE slot SET sample_key = 'back' WHERE ordinal = 1", "still holds something", "slot, batch 5, row 1"),
        ("UPDATE slot SET erased_by = NULL WHERE ordinal = 1", "gone without", "slot, batch 5, row 1"),
        ("UPDATE removal_event SET removal = 'other' WHERE removal = 'good'", "not approved", "slot, batch 5, row 1"),
        ("DELETE FROM erasure", "0 are on record", "slot, batch 5"),
        ("UPDATE erasure SET row_count = 2", "where 2 are on record", "slot, batch 5"),
        ("UPDATE slot SET dataset = 'e' WHERE ordinal = 1", "value was changed", "slot, batch 5"),
        # The chain itself.
        ("UPDATE batch SET chain = 'x' WHERE seq = 3", "record of the batch", "batch 3 (content)"),
        ("UPDATE batch SET appended_at = NULL WHERE seq = 3", "record of the batch", "batch 3 (content)"),
        ("UPDATE batch SET idempotency_key = 'x' WHERE seq = 3", "record of the batch", "batch 3 (content)"),
        ("DELETE FROM batch WHERE seq = 7", "does not follow", "batch 8 (decision)"),
        ("UPDATE batch SET table_name = 'nowhere' WHERE seq = 7", "does not exist", "batch of nowhere"),
        ("INSERT INTO batch FROM batch WHERE seq = 7", "does not follow", "batch 7 (event)"),
        ("DELETE FROM batch WHERE seq > 15", "that was anchored", "batch 16"),
        # Definitions.
        ("CREATE OR REPLACE VIEW trainable AS SELECT * FROM caption", "as this version defines it", "view trainable"),
        ("DROP VIEW tombstoned", "as this version defines it", "view tombstoned"),
        ("CREATE TABLE mine (i INTEGER)", "as this version defines it", "table mine"),
        ("ALTER TABLE slot DROP COLUMN licence", "as this version defines it", "table slot"),
        ("CREATE INDEX i ON slot (ordinal)", "as this version defines it", "index i"),
        ("CREATE OR REPLACE MACRO trust(x) AS x", "as this version defines it", "macro trust"),
    ],
)
def test_tampering_is_named(filled_home: Path, tmp_path: Path, statement: str, what: str, where: str) -> None:
    """One value changed behind the ledger's back is found, and table, batch and where possible row are named."""
    failures = verify_after(filled_home, tmp_path, statement)
    assert any(what in failure.what and failure.where.startswith(where) for failure in failures), failures


def test_a_recomputed_tail_is_what_anchors_are_for(filled_home: Path, tmp_path: Path) -> None:
    """Whoever cuts off the newest batches with their rows leaves a chain that holds; an anchor outside tells."""
    path = shutil.copytree(filled_home, tmp_path / "home") / "ledger.duckdb"
    with Ledger.open(path) as ledger:
        ledger.append("event", [{"kind": "inconvenient"}], key="k")
        anchor = ledger.head()
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM batch WHERE idempotency_key = 'k'")
        connection.execute("DELETE FROM event")
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.verify() == ()
        [failure] = ledger.verify(anchors=[anchor])
        assert failure.where == f"batch {anchor[0]}"


def test_large_tables_are_verified_in_ranges(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of batches cover every batch, whatever their sizes."""
    monkeypatch.setattr("policy.verification._ROWS_AT_ONCE", 5)
    for batch, count in enumerate([3, 0, 4, 1, 9, 2, 2]):
        ledger.append("event", [{"kind": f"{i}"} for i in range(count)], key=f"{batch}")
    assert ledger.verify() == ()
    [(seq,)] = ledger.query("SELECT max(batch_seq) FROM event")
    path = ledger.path
    ledger.close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE event SET kind = 'x' WHERE batch_seq = ? AND row_no = 1", [seq])
    with Ledger.open(path, readonly=True) as again:
        assert [failure.where for failure in again.verify()] == [f"event, batch {seq}, rows 0 to 1"]


def test_many_failures_are_not_a_flood(ledger: Ledger) -> None:
    """A table that was overwritten is reported with its first rows, not with a million."""
    ledger.append("slot", [{"ordinal": i, "sample_key": f"{i}"} for i in range(500)], key="k")
    path = ledger.path
    ledger.close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE slot SET sample_key = 'x'")
    with Ledger.open(path, readonly=True) as again:
        assert 1 <= len(again.verify()) <= 20
