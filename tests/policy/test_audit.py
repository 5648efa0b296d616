"""The snapshot, and what may be asked of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from policy import audit
from policy.errors import HomeError, InputError, IntegrityError
from policy.ledger import Ledger
from policy.snapshot import publish

SECOND = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def snapshot(ledger: Ledger, home: Path, now: datetime) -> Path:
    ledger.append_many(
        [
            (
                "decision",
                [
                    {"pair_key": "p", "rule": "robots", "verdict": "deny", "reason_code": "disallow"},
                    {"pair_key": "q", "rule": "robots", "verdict": "allow", "evidence_id": "e", "ruleset_digest": "r"},
                ],
                "k",
            ),
            ("evidence", [{"evidence_id": "e", "pair_key": "q"}], "k"),
            ("ruleset", [{"digest": "r", "body": ""}], "k"),
            (
                "slot",
                [{"dataset": "d", "ordinal": i, "pair_key": p, "licence": "CC0-1.0"} for i, p in enumerate("pqz")],
                "k",
            ),
            ("run", [{"run": "run-1", "parent_checkpoint": "c0"}, {"run": "run-0"}], "k"),
            (
                "segment",
                [{"run": f"run-{i}", "segment": 0, "dataset": "d", "order_key": f"{i}"} for i in range(2)],
                "k",
            ),
            (
                "checkpoint",
                [{"checkpoint": f"c{i}", "run": f"run-{i}", "segment": 0, "step": 5} for i in range(2)],
                "k",
            ),
        ]
    )
    assert publish(ledger, home / "audit.duckdb", now=now)
    return home / "audit.duckdb"


@pytest.fixture(scope="module")
def empty_snapshot(empty_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "audit.duckdb"
    with Ledger.open(empty_home / "ledger.duckdb", readonly=True) as ledger:
        assert publish(ledger, path, now=SECOND)
    return path


def test_any_client_opens_the_snapshot_while_a_writer_works(snapshot: Path, ledger: Ledger) -> None:
    """Plain duckdb in another process reads tables and views though the ledger is held for writing."""
    code = "import sys, json, duckdb; print(json.dumps(duckdb.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"
    sql = "SELECT pair_key, verdict FROM standing ORDER BY ALL"
    done = subprocess.run([sys.executable, "-c", code, snapshot, sql], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["p", "deny"], ["q", "allow"]]
    assert ledger.append("event", [{"kind": "a"}], key="the writer goes on")


def test_a_snapshot_is_published_when_something_changed(snapshot: Path, ledger: Ledger) -> None:
    """The same chain is not published twice, unless asked; a new batch is; a damaged snapshot is replaced."""
    assert not publish(ledger, snapshot, now=SECOND)
    assert publish(ledger, snapshot, now=SECOND, force=True)
    ledger.append("event", [{"kind": "a"}], key="k")
    assert publish(ledger, snapshot, now=SECOND)
    assert audit.sql(snapshot, "SELECT seq, chain FROM snapshot")[1] == [ledger.head()]
    snapshot.write_bytes(b"damaged")
    assert publish(ledger, snapshot, now=SECOND)
    assert sorted(path.name for path in snapshot.parent.iterdir() if "audit" in path.name) == ["audit.duckdb"]


def test_a_copy_elsewhere_is_no_publication(snapshot: Path, ledger: Ledger, tmp_path: Path) -> None:
    """Who has appended is ahead of every copy until the next one, and a snapshot is held against the ledger itself."""
    assert not ledger.is_ahead
    for expected in (True, False):  # the same batch once more is none
        ledger.append("event", [{"kind": "a"}], key="k")
        assert ledger.is_ahead is expected
        ledger.copy_to(tmp_path / "backup.duckdb")
        assert not ledger.is_ahead
        assert publish(ledger, snapshot, now=SECOND) is expected


def test_a_reader_publishes_what_is_still_in_the_log(snapshot: Path, ledger: Ledger) -> None:
    """Whoever holds the ledger, for reading too, publishes all that was committed."""
    ledger.append("event", [{"kind": "a"}], key="k")
    path = ledger.path
    ledger.close()
    with Ledger.open(path, readonly=True) as reader:
        assert publish(reader, snapshot, now=SECOND)
        assert reader.verify() == ()
    assert audit.sql(snapshot, "SELECT kind FROM event")[1] == [("a",)]


def test_nothing_erased_is_in_a_snapshot_of_a_compacted_ledger(snapshot: Path, ledger: Ledger) -> None:
    """Erase, compact, publish: the snapshot's bytes do not hold what was erased."""
    ledger.append("occurrence", [{"pair_key": "x", "image_url": "https://a.example/needle"}], key="x")
    publish(ledger, snapshot, now=SECOND)
    ledger.append("removal_event", [{"removal": "r", "state": "approved"}], key="r")
    ledger.erase("r", {"occurrence": "true"})
    publish(ledger, snapshot, now=SECOND)
    ledger.compact()
    assert publish(ledger, snapshot, now=SECOND)
    assert b"needle" not in snapshot.read_bytes()


def test_every_audit_runs_and_says_what_it_answers(snapshot: Path) -> None:
    """All named audits run on the snapshot, open with a question, and name their parameters."""
    audits = audit.list_audits()
    names = {found.name for found in audits}
    assert names >= {
        *(
            "why_excluded",
            "denied_or_deferred_in_shard",
            "decisions_without_evidence",
            "licences",
            "origins",
            "captions",
        ),
        *("samples_of_dataset", "checkpoints", "lineage", "removals", "tombstones", "ruleset_history"),
        "appended_batches",
    }
    for name, question, parameters in audits:
        assert "?" in question, question
        columns, _ = audit.run(snapshot, name, dict.fromkeys(parameters, "x"))
        assert columns


def test_audits_find_what_must_not_be(snapshot: Path) -> None:
    """A denied and an undecided pair in a shard, and a decision without evidence, are found."""
    columns, rows = audit.run(snapshot, "denied_or_deferred_in_shard")
    verdicts = {row[columns.index("pair_key")]: row[columns.index("verdict")] for row in rows}
    assert verdicts == {"p": "deny", "z": "undecided"}
    columns, rows = audit.run(snapshot, "decisions_without_evidence")
    assert [row[columns.index("pair_key")] for row in rows] == ["p"]
    assert audit.run(snapshot, "why_excluded")[1][0][:4] == ("deny", "robots", "disallow", 1)
    assert audit.run(snapshot, "why", {"pair_key": "p"})[1][0][:3] == ("robots", "deny", "disallow")


def test_the_lineage_is_followed(snapshot: Path) -> None:
    """A checkpoint's segments include those of the checkpoint its run began from."""
    columns, rows = audit.run(snapshot, "lineage", {"checkpoint": "c1"})
    assert [row[columns.index("order_key")] for row in rows] == ["1", "0"]


def test_slots_that_a_tombstone_empties_are_no_alarm(snapshot: Path, ledger: Ledger) -> None:
    """A removed slot keeps its row and its deny; it is not in use, so the audit is quiet about it."""
    ledger.append(
        "tombstone", [{"removal": "r", "kind": "slot", "token": f"d:{i}", "epoch": 1} for i in (0, 2)], key="t"
    )
    publish(ledger, snapshot, now=SECOND)
    assert audit.run(snapshot, "denied_or_deferred_in_shard")[1] == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE mine (i INTEGER)",
        "INSERT INTO event (kind) VALUES ('x')",
        "DELETE FROM batch",
        "EXPLAIN ANALYZE DELETE FROM batch",
        "SELECT 1; DELETE FROM batch",
        "COPY batch TO 'stolen.csv'",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "EXPORT DATABASE 'stolen'",
        "ATTACH 'other.duckdb' AS other",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('*')",
        "SELECT * FROM query('DELETE FROM batch')",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "PRAGMA enable_profiling",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "SELECT nonsense",
        "SELECT $undefined",
        "no sql",
        "",
    ],
)
def test_free_sql_neither_writes_nor_reads_files(
    empty_snapshot: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not a question to the snapshot is refused, and leaves nothing behind."""
    snapshot = empty_snapshot
    monkeypatch.chdir(snapshot.parent)
    before, files = snapshot.read_bytes(), sorted(snapshot.parent.iterdir())
    with pytest.raises(InputError):
        audit.sql(snapshot, sql)
    assert snapshot.read_bytes() == before
    assert sorted(snapshot.parent.iterdir()) == files


def test_free_sql_answers(snapshot: Path) -> None:
    """Columns by name, rows as tuples, parameters by name."""
    assert audit.sql(snapshot, "SELECT $n::INTEGER + 1 AS n", {"n": "2"}) == (("n",), [(3,)])


def test_wrong_questions(snapshot: Path, tmp_path: Path) -> None:
    """An unknown audit, a parameter too few or too many, no snapshot or a damaged one: said clearly."""
    with pytest.raises(InputError, match="no audit 'nonsense'"):
        audit.run(snapshot, "nonsense")
    for params in ({}, {"checkpoint": "c", "more": "x"}):
        with pytest.raises(InputError, match="checkpoint=…"):
            audit.run(snapshot, "lineage", params)
    with pytest.raises(HomeError, match="no snapshot"):
        audit.sql(tmp_path / "audit.duckdb", "SELECT 1")
    (tmp_path / "audit.duckdb").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        audit.sql(tmp_path / "audit.duckdb", "SELECT 1")


def test_audits_run_side_by_side(snapshot: Path) -> None:
    """Threads of one process may ask at once, though DuckDB shares the instance between them."""
    answers: list[int] = []

    def ask() -> None:
        answers.append(len(audit.run(snapshot, "appended_batches")[1]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with duckdb.connect(str(snapshot), read_only=True) as connection:
        assert answers == [connection.execute("SELECT count(*) FROM batch").fetchall()[0][0]] * 4
