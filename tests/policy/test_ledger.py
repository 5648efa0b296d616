from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.errors import (
    BusyError,
    HomeError,
    InputError,
    IntegrityError,
    KeyFileError,
    RefusedError,
    StorageError,
)
from policy.keys import KeyRing
from policy.ledger import Ledger, lock_path, wal_path


def tamper(path: Path, *statements: str) -> None:
    """What anybody with a DuckDB client and write access could do."""
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code` and says "ready" on a line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


HOLD = """
import sys; from pathlib import Path; from policy.ledger import Ledger
with Ledger.open(Path(sys.argv[1]), readonly=sys.argv[2] == "reader"):
    print("ready", flush=True); sys.stdin.readline()
"""


class TestAppending:
    def test_a_batch_is_appended_once(self, ledger: Ledger) -> None:
        """The second append under the same key does nothing and says so, whatever its rows."""
        assert ledger.append("event", [{"kind": "a"}], key="k")
        head = ledger.head()
        assert not ledger.append("event", [{"kind": "b"}, {"kind": "c"}], key="k")
        assert ledger.head() == head
        assert ledger.query("SELECT kind FROM event") == [("a",)]

    def test_keys_are_by_table(self, ledger: Ledger) -> None:
        """One unit may use its id for every table that it fills."""
        assert ledger.append_many([("event", [{"kind": "a"}], "unit"), ("anchor", [{"seq": 1}], "unit")]) == (
            True,
            True,
        )
        assert ledger.append_many([("event", [{"kind": "a"}], "unit"), ("score", [], "unit")]) == (False, True)

    def test_many_batches_land_together_or_not_at_all(self, ledger: Ledger) -> None:
        """A batch that fails takes the others of its call with it."""
        head = ledger.head()
        wrong = ledger.commit_rows("slot", [{"ordinal": 1}]).to_pylist()
        wrong[0]["ordinal"], wrong[0]["caption"] = 2, "another"
        with pytest.raises(InputError, match="commitments do not fit"):
            ledger.append_many([("event", [{"kind": "a"}], "1"), ("slot", wrong, "1")])
        assert ledger.head() == head
        assert ledger.query("SELECT count(*) FROM event") == [(0,)]
        assert ledger.append("event", [{"kind": "a"}], key="1")

    def test_arrow_and_mappings_store_the_same(self, ledger: Ledger) -> None:
        """Rows may come as an Arrow table of other but fitting types: dictionary strings, zoned times, small ints."""
        moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
        row = {"url": "https://a.example/é", "kind": "image", "status": 200, "elapsed_ms": 1.5, "started_at": moment}
        arrow = pa.table(
            {
                "url": pa.array([row["url"]]).dictionary_encode(),
                "kind": pa.array(["image"]),
                "status": pa.array([200], pa.int16()),
                "elapsed_ms": pa.array([1.5], pa.float32()),
                "started_at": pa.array([moment], pa.timestamp("ms", "Europe/Berlin")).cast(pa.timestamp("us", "UTC")),
            }
        )
        arrow = arrow.set_column(4, "started_at", pa.array([moment], pa.timestamp("us", "Europe/Berlin")))
        ledger.append("fetch", [row], key="mapping")
        ledger.append("fetch", arrow, key="arrow")
        stored = ledger.query('SELECT url, kind, status, elapsed_ms, started_at FROM "fetch" ORDER BY batch_seq')
        assert stored[0] == stored[1] == (row["url"], "image", 200, 1.5, moment.replace(tzinfo=None))

    def test_times_are_stored_in_utc(self, ledger: Ledger) -> None:
        """An aware time in any zone is the same instant afterwards."""
        east = datetime(2026, 7, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
        ledger.append("event", [{"kind": "a", "happened_at": east}], key="k")
        assert ledger.query("SELECT happened_at FROM event") == [(datetime(2026, 6, 30, 23, 0),)]  # noqa: DTZ001

    @pytest.mark.parametrize(
        ("table", "row", "message"),
        [
            ("nothing", {}, "no such table"),
            ("batch", {"seq": 1}, "no such table"),
            ("event", {"kind": "a", "sort": 1}, "no such column: sort"),
            ("event", {"kind": 3}, r"event\.kind: not a VARCHAR"),
            ("event", {"kind": "\ud800"}, r"event\.kind: not a VARCHAR"),
            ("event", {"happened_at": "yesterday"}, r"event\.happened_at: not a TIMESTAMP"),
            ("content", {"width": 2**31}, r"content\.width: not a INTEGER"),
            ("event", {"erased_by": "me"}, "no such column: erased_by"),
            ("event", {"batch_seq": 1}, "no such column: batch_seq"),
            ("event", {"salt": None}, "without its salt"),
        ],
    )
    def test_rows_that_do_not_fit_are_refused(
        self, ledger: Ledger, table: str, row: dict[str, object], message: str
    ) -> None:
        """An unknown table or column or a value of another type is an error that names it, and nothing is appended."""
        head = ledger.head()
        with pytest.raises(InputError, match=message):
            ledger.append(table, [row], key="k")
        assert ledger.head() == head

    def test_commitments_are_known_before_they_are_appended(self, ledger: Ledger) -> None:
        """What commit_rows hands out is what append stores: the leaves of a dataset are its slots' commitments."""
        slots = ledger.commit_rows(
            "slot", [{"dataset": "d", "ordinal": i, "sample_key": f"{i:032x}"} for i in range(3)]
        )
        assert ledger.append("slot", slots, key="d")
        assert ledger.query_arrow("SELECT commitment FROM slot ORDER BY ordinal").column(0) == slots["commitment"]
        assert ledger.verify() == ()

    def test_salts_are_fresh_for_each_row(self, ledger: Ledger) -> None:
        """Equal rows have different commitments: nobody learns from the chain that two rows are the same."""
        ledger.append("content", [{"content_sha256": "c"}] * 50, key="k")
        assert ledger.query("SELECT count(DISTINCT salt), count(DISTINCT commitment) FROM content") == [(50, 50)]


class TestReading:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
    @given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5))
    def test_a_list_of_texts_arrives_as_it_is(self, ledger: Ledger, texts: list[str]) -> None:
        """Quotes, backslashes, commas, brackets, NULL by name: every text of a list is that text in the statement."""
        asked = "SELECT t FROM (SELECT unnest(?::VARCHAR[]) AS t, generate_subscripts(?::VARCHAR[], 1) AS n) ORDER BY n"
        assert [text for (text,) in ledger.query(asked, [texts, texts])] == texts
        named = "SELECT list_contains($texts::VARCHAR[], 'x'), len($texts::VARCHAR[])"
        assert ledger.query(named, {"texts": texts}) == [("x" in texts, len(texts))]

    def test_queries_take_parameters(self, ledger: Ledger) -> None:
        """Positional and named parameters, rows and Arrow."""
        assert ledger.query("SELECT ? + 1", [1]) == [(2,)]
        assert ledger.query_arrow("SELECT $a AS a", {"a": "x"}).to_pylist() == [{"a": "x"}]

    def test_rows_come_a_batch_at_a_time(self, ledger: Ledger) -> None:
        """All rows in their order, no batch larger than a vector of DuckDB's; nothing is held when it is left early."""
        asked = "SELECT i FROM range($n) t(i) ORDER BY i"
        batches = list(ledger.query_batches(asked, {"n": 10_000}, rows=2_048))
        assert [i for batch in batches for i in batch["i"].to_pylist()] == list(range(10_000))
        assert max(batch.num_rows for batch in batches) <= 2_048
        left = ledger.query_batches(asked, {"n": 10_000}, rows=2_048)
        next(left)
        left.close()  # type: ignore[attr-defined]  # a generator
        assert ledger.append("event", [{"kind": "a"}], key="after")
        with pytest.raises(InputError, match="one SELECT"):
            next(ledger.query_batches("DELETE FROM event"))

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM batch",
            "SELECT 1; DELETE FROM batch",
            "EXPLAIN ANALYZE DELETE FROM batch",
            "COMMIT",
            "SET threads = 1",
            "ATTACH ':memory:' AS other",
            "COPY (SELECT 1) TO 'x.csv'",
            "SELECT * FROM read_text('/etc/hostname')",
            "SELECT * FROM rows",
            "SELEC",
            "",
        ],
    )
    def test_queries_only_read(self, ledger: Ledger, sql: str) -> None:
        """What is not one SELECT over the ledger is refused, and the ledger goes on."""
        rows = pa.table({"a": [1]})  # a Python variable is not a table
        head = ledger.head()
        with pytest.raises(InputError):
            ledger.query(sql)
        assert rows.num_rows == 1
        assert ledger.head() == head
        assert ledger.append("event", [{"kind": "a"}], key="after")

    def test_a_reader_cannot_append(self, home: Path, keys: KeyRing) -> None:
        """Appending and erasing need a ledger that was opened for writing."""
        with Ledger.open(home / "ledger.duckdb", keys, readonly=True) as ledger:
            with pytest.raises(RefusedError, match="opened for reading"):
                ledger.append("event", [{"kind": "a"}], key="k")
            with pytest.raises(RefusedError):
                ledger.erase("r", {"slot": "true"})
            with pytest.raises(RefusedError):
                ledger.compact()
            assert ledger.verify(keys) == ()

    def test_a_closed_ledger_says_so(self, ledger: Ledger) -> None:
        """Use after close is a clear error."""
        ledger.close()
        ledger.close()
        with pytest.raises(StorageError, match="closed"):
            ledger.head()


class TestOpening:
    def test_no_ledger(self, tmp_path: Path) -> None:
        """A missing ledger or directory is named, and none is made by accident."""
        with pytest.raises(HomeError, match="no ledger"):
            Ledger.open(tmp_path / "ledger.duckdb")
        with pytest.raises(HomeError, match="no such directory"):
            Ledger.open(tmp_path / "nowhere" / "ledger.duckdb")
        assert not (tmp_path / "ledger.duckdb").exists()

    def test_a_ledger_is_not_made_over_another(self, home: Path, keys: KeyRing, now: datetime) -> None:
        """create refuses where a ledger is."""
        with pytest.raises(HomeError, match="already"):
            Ledger.create(home / "ledger.duckdb", keys, now)

    @pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 20_000])
    def test_damaged_files(self, home: Path, content: bytes) -> None:
        """An empty or foreign file is an integrity failure, never a fresh ledger."""
        (home / "ledger.duckdb").write_bytes(content)
        with pytest.raises(IntegrityError):
            Ledger.open(home / "ledger.duckdb")

    def test_a_file_cut_short(self, home: Path) -> None:
        """A ledger that lost its second half does not open as a smaller one."""
        path = home / "ledger.duckdb"
        with Ledger.open(path) as ledger:
            ledger.append("event", [{"kind": f"{i}" * 40} for i in range(20_000)], key="k")
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises((IntegrityError, StorageError)), Ledger.open(path) as ledger:
            ledger.query("SELECT count(DISTINCT kind) FROM event")

    def test_another_duckdb_file(self, tmp_path: Path) -> None:
        """A DuckDB file that is no ledger stays untouched."""
        tamper(tmp_path / "ledger.duckdb", "CREATE TABLE mine (i INTEGER)")
        with pytest.raises(HomeError, match="no ledger"):
            Ledger.open(tmp_path / "ledger.duckdb")

    @pytest.mark.parametrize("readonly", [False, True])
    def test_a_newer_schema(self, home: Path, readonly: bool) -> None:
        """A ledger that a newer version wrote is refused, and both versions are named."""
        tamper(home / "ledger.duckdb", "INSERT INTO schema_migration VALUES (99, 'future', 'x', NULL)")
        with pytest.raises(HomeError, match=r"has schema 99, this version knows \d+"):
            Ledger.open(home / "ledger.duckdb", readonly=readonly)

    @pytest.mark.parametrize("readonly", [False, True])
    def test_a_changed_migration(self, home: Path, readonly: bool) -> None:
        """A migration on record that reads otherwise than the installed one stops everything."""
        tamper(home / "ledger.duckdb", "UPDATE schema_migration SET sha256 = 'x' WHERE version = 1")
        with pytest.raises(IntegrityError, match="migration 1"):
            Ledger.open(home / "ledger.duckdb", readonly=readonly)

    @pytest.mark.parametrize("readonly", [False, True])
    def test_views_follow_the_version(self, home: Path, readonly: bool) -> None:
        """Views of an older version are made again at opening, for readers too."""
        tamper(
            home / "ledger.duckdb",
            "UPDATE schema_migration SET sha256 = 'older' WHERE version = 0",
            "CREATE OR REPLACE VIEW trainable AS SELECT 1 AS old",
        )
        with Ledger.open(home / "ledger.duckdb", readonly=readonly) as ledger:
            assert ledger.query("SELECT sample_key FROM trainable") == []
            assert ledger.verify() == ()

    @pytest.mark.parametrize("purpose", ["token", "encryption", "signing"])
    def test_a_wrong_key(self, home: Path, tmp_path: Path, purpose: str) -> None:
        """A key that is not the one on record refuses to open: it would "match nothing"."""
        KeyRing.create(tmp_path / "other")
        shutil.copy(tmp_path / "other" / f"{purpose}.key", home / "keys" / f"{purpose}.key")
        with pytest.raises(KeyFileError, match=f"{purpose} key is not the one"):
            Ledger.open(home / "ledger.duckdb", KeyRing.load(home / "keys"))
        with Ledger.open(home / "ledger.duckdb") as ledger:
            assert [f.where for f in ledger.verify(KeyRing.load(home / "keys"))] == ["key_check"]

    def test_it_opens_after_an_older_crash(self, home: Path) -> None:
        """What a killed process left beside the ledger, spilled rows and half a copy, is gone at the next opening."""
        left = [home / "ledger.duckdb.compacting", home / "ledger.duckdb.tmp" / "spill"]
        left[1].parent.mkdir()
        for path in left:
            path.write_bytes(b"personal")
        with Ledger.open(home / "ledger.duckdb"):
            assert not any(path.exists() for path in left)

    def test_the_settings_are_locked(self, ledger: Ledger) -> None:
        """The connection reaches no network and no other file, in UTC, and SQL cannot change that."""
        names = ("enable_external_access", "autoinstall_known_extensions", "lock_configuration", "TimeZone")
        sql = ", ".join(f"current_setting('{name}')" for name in names)
        assert ledger.query(f"SELECT {sql}") == [(False, False, True, "UTC")]


class TestLocking:
    def test_a_writer_waits_for_a_writer_and_says_who(self, home: Path) -> None:
        """Two writers: the second waits, then names the first's process."""
        with child(HOLD, home / "ledger.duckdb", "writer") as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            for readonly in (False, True):
                with pytest.raises(BusyError, match=f"writing process {other.pid}"):
                    Ledger.open(home / "ledger.duckdb", readonly=readonly, wait_s=0.05)
            waited: list[bool] = []

            def wait() -> None:
                with Ledger.open(home / "ledger.duckdb", wait_s=60) as ledger:
                    waited.append(ledger.append("event", [{"kind": "a"}], key="k"))

            thread = threading.Thread(target=wait)
            thread.start()
            other.communicate("\n")
            thread.join()
        assert waited == [True]

    def test_readers_are_together_and_keep_writers_out(self, home: Path) -> None:
        """Any number of readers, in several processes and in one; a writer waits for them."""
        with child(HOLD, home / "ledger.duckdb", "reader") as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with (
                Ledger.open(home / "ledger.duckdb", readonly=True, wait_s=0) as one,
                Ledger.open(home / "ledger.duckdb", readonly=True, wait_s=0) as two,
            ):
                assert one.head() == two.head()
            with pytest.raises(BusyError, match="reading process"):
                Ledger.open(home / "ledger.duckdb", wait_s=0.05)
            other.communicate("\n")

    def test_a_foreign_client_that_holds_the_file(self, home: Path) -> None:
        """A plain duckdb that holds the ledger is reported as busy, with what to do."""
        code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()"
        with child(code, home / "ledger.duckdb") as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(BusyError, match=r"audit\.duckdb"):
                Ledger.open(home / "ledger.duckdb", wait_s=0)
            other.communicate("\n")

    def test_the_lock_goes_with_a_failed_opening(self, home: Path) -> None:
        """An opening that fails leaves nothing held."""
        tamper(home / "ledger.duckdb", "UPDATE schema_migration SET sha256 = 'x' WHERE version = 1")
        for _ in range(2):
            with pytest.raises(IntegrityError):
                Ledger.open(home / "ledger.duckdb", wait_s=0)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_ledger_does_not_cross_a_fork(self, home: Path) -> None:
        """A forked child cannot use the parent's ledger, does not keep its lock, and its end changes nothing."""
        code = """
import os, sys; from pathlib import Path; from policy.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
ledger.append("event", [{"kind": "parent"}], key="parent")
ready, released = os.pipe(), os.pipe()
if os.fork() == 0:
    try:
        ledger.append("event", [{"kind": "child"}], key="child")
    except RuntimeError as error:
        os.write(ready[1], str(error).encode())
    ledger.close()
    os.read(released[0], 1)
    sys.exit(0)
print(os.read(ready[0], 100).decode())
ledger.append("event", [{"kind": "parent again"}], key="again")
ledger.close()
with Ledger.open(Path(sys.argv[1]), wait_s=0) as again:  # the child lives on: its copy of the lock must not
    print(again.query("SELECT count(*) FROM event"), again.verify())
    os.write(released[1], b"x")
    print(os.wait()[1])
    print(again.append("event", [{"kind": "after"}], key="after"), again.verify())
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(home / "ledger.duckdb")], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [
            "a ledger is not used across a fork: open it in the process that needs it",
            "[(2,)] ()",
            "0",
            "True ()",
        ]


class TestErasing:
    @pytest.fixture
    def filled(self, ledger: Ledger) -> Ledger:
        for name in ("a", "b"):
            ledger.append(
                "occurrence", [{"pair_key": name, "image_url": f"https://{name}.example/needle-{name}"}], key=name
            )
            ledger.append("slot", [{"dataset": "d", "ordinal": 0, "pair_key": name, "licence": "CC0-1.0"}], key=name)
        ledger.append("removal_event", [{"removal": "r", "state": "approved"}], key="r")
        return ledger

    def test_an_approved_erasure_verifies(self, filled: Ledger) -> None:
        """Values and salts are gone, the rest and the chain stay, and everything verifies."""
        chain = filled.query("SELECT seq, chain FROM batch ORDER BY seq")
        counts = filled.erase("r", {"occurrence": "pair_key = $p", "slot": "pair_key = $p"}, {"p": "a"})
        assert counts == {"occurrence": 1, "slot": 1}
        assert filled.query("SELECT pair_key, licence, salt IS NULL, erased_by FROM slot ORDER BY batch_seq") == [
            (None, "CC0-1.0", True, "r"),
            ("b", "CC0-1.0", False, None),
        ]
        assert filled.query("SELECT seq, chain FROM batch ORDER BY seq")[: len(chain)] == chain
        assert filled.query("SELECT table_name, row_count FROM erasure ORDER BY table_name") == [
            ("occurrence", 1),
            ("slot", 1),
        ]
        assert filled.verify() == ()

    def test_erasing_again_changes_nothing(self, filled: Ledger) -> None:
        """The second run finds nothing, and nothing is counted twice."""
        filled.erase("r", {"slot": "pair_key = 'a'"})
        head = filled.head()
        assert filled.erase("r", {"slot": "pair_key = 'a'"}) == {"slot": 0}
        assert filled.erase("r", {"slot": "true"}) == {"slot": 1}
        assert filled.head()[0] == head[0] + 1
        assert filled.verify() == ()

    def test_predicates_are_evaluated_before_anything_is_erased(self, filled: Ledger) -> None:
        """A predicate may look into a table that the same call empties."""
        of_slots = "pair_key IN (SELECT pair_key FROM slot)"
        assert filled.erase("r", {"slot": "true", "occurrence": of_slots}) == {"slot": 2, "occurrence": 2}

    def test_nothing_is_erased_without_approval(self, filled: Ledger) -> None:
        """A removal that was not approved erases nothing."""
        with pytest.raises(RefusedError, match="not approved"):
            filled.erase("other", {"slot": "true"})
        assert filled.query("SELECT count(*) FROM slot WHERE salt IS NULL") == [(0,)]

    @pytest.mark.parametrize(
        ("predicates", "message"),
        [
            ({"ruleset": "true"}, "no personal columns"),
            ({"batch": "true"}, "no such table"),
            ({"slot": "true); DELETE FROM batch; SELECT (1"}, "one SELECT"),
            ({"slot": "nonsense = 1"}, "nonsense"),
            ({"slot": "pair_key = $p"}, "p"),
        ],
    )
    def test_wrong_predicates(self, filled: Ledger, predicates: dict[str, str], message: str) -> None:
        """A predicate that is none, or of a table that may not be erased, erases nothing at all."""
        with pytest.raises(InputError, match=message):
            filled.erase("r", {"occurrence": "true", **predicates})
        assert filled.query("SELECT count(*) FROM occurrence WHERE salt IS NULL") == [(0,)]
        assert filled.verify() == ()

    def test_erased_bytes_are_gone_after_compacting(self, filled: Ledger) -> None:
        """Bytes survive an erasure in the file's dead blocks; compaction leaves none, and the ledger goes on."""
        filled.erase("r", {"occurrence": "pair_key = 'a'"})
        before = filled.query("SELECT * FROM batch ORDER BY seq")
        filled.compact()
        content = filled.path.read_bytes()
        assert b"needle-a" not in content
        assert b"needle-b" in content
        assert filled.query("SELECT * FROM batch ORDER BY seq")[: len(before)] == before
        assert filled.query("SELECT kind FROM event") == [("compacted",)]
        assert filled.append("event", [{"kind": "after"}], key="after")
        assert filled.verify() == ()
        assert not list(filled.path.parent.glob("*compacting*"))

    @pytest.mark.parametrize("small", [True, False])
    def test_compaction_sorts(self, filled: Ledger, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
        """Twice in a row is fine, and rows lie in the order of their batches; copied at once, or table by table."""
        monkeypatch.setattr("policy.ledger._SMALL_BYTES", 1 << 40 if small else 0)
        filled.compact()
        filled.compact()
        assert filled.query("SELECT kind FROM event") == [("compacted",)] * 2
        assert filled.verify() == ()


def test_a_small_ledger_takes_one_thread(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done before it has been shared out is not shared out; a large ledger has as many as DuckDB would take."""
    with duckdb.connect() as memory:
        [(usual,)] = memory.execute("SELECT current_setting('threads')").fetchall()
    for small_bytes, threads in ((1 << 40, 1), (0, usual)):
        monkeypatch.setattr("policy.ledger._SMALL_BYTES", small_bytes)
        with Ledger.open(home / "ledger.duckdb", readonly=True) as ledger:
            assert ledger.query("SELECT current_setting('threads')") == [(threads,)]


def test_the_log_of_a_killed_writer_is_read_by_readers(home: Path) -> None:
    """What was committed but not yet written into the file is there for the next reader."""
    code = """
import os, sys; from pathlib import Path; from policy.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1])); ledger.append("event", [{"kind": "a"}], key="k"); os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(home / "ledger.duckdb")], check=False)
    assert wal_path(home / "ledger.duckdb").exists()
    with Ledger.open(home / "ledger.duckdb", readonly=True) as ledger:
        assert ledger.query("SELECT kind FROM event") == [("a",)]
        assert ledger.verify() == ()


def test_policy_imports_fast() -> None:
    """Opening the ledger imports neither torch nor prefect, cryptography or pyarrow."""
    code = "import sys, policy.ledger, policy.removals, policy.snapshot, policy.audit; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "prefect", "cryptography", "pandas", "pyarrow"} & set(modules)


def test_commit_that_raised_is_looked_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A COMMIT that raised may have become durable: then the append has happened, else it has not."""

    class Commits:
        """The real connection, whose COMMIT raises after or before it is done."""

        def __init__(self, connection: duckdb.DuckDBPyConnection, *, lands: bool) -> None:
            self.connection, self.lands = connection, lands

        def execute(self, sql: str, *rest: Any) -> Any:
            if sql != "COMMIT":
                return self.connection.execute(sql, *rest)
            self.connection.execute("COMMIT" if self.lands else "ROLLBACK")
            raise duckdb.IOException("IO Error: could not write: No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

    monkeypatch.setattr(ledger, "_connection", Commits(ledger._connected(), lands=True))
    assert ledger.append("event", [{"kind": "landed"}], key="landed")
    monkeypatch.setattr(ledger, "_connection", Commits(ledger._connected(), lands=False))
    with pytest.raises(StorageError, match="No space"):
        ledger.append("event", [{"kind": "lost"}], key="lost")
    monkeypatch.undo()
    ledger._reconnect()
    assert ledger.query("SELECT kind FROM event") == [("landed",)]
    assert ledger.verify() == ()


def test_lock_file_lies_beside(tmp_path: Path) -> None:
    """ledger.duckdb is guarded by ledger.lock."""
    assert lock_path(tmp_path / "ledger.duckdb") == tmp_path / "ledger.lock"
