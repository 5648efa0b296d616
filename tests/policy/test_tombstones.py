from __future__ import annotations

import dataclasses
import json
import threading
from datetime import datetime
from itertools import count
from pathlib import Path

import pytest

from policy.errors import IntegrityError, KeyFileError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.tombstones import TOMBSTONES_FILE, StandingTombstones, Tombstones

_keys = count()


class TestTombstones:
    @pytest.fixture
    def added(self, keys: KeyRing) -> Tombstones:
        return Tombstones(keys=keys).with_added(
            "r1",
            urls=["https://a.example/1.jpg"],
            contents=["c1"],
            samples=["s1"],
            domains=["gone.example", "127.0.0.1:8001"],
            slots={"d": [3, 1]},
        )

    def test_round_trip(self, added: Tombstones, keys: KeyRing, tmp_path: Path) -> None:
        """What is stored is what is loaded, and it covers what was added and nothing else."""
        added.store(tmp_path)
        loaded = Tombstones.load(tmp_path, keys)
        assert loaded == added
        assert loaded.epoch == 1
        assert loaded.covers_url("https://a.example/1.jpg") == "r1"
        assert loaded.covers_url("https://a.example/2.jpg") is None
        assert loaded.covers_content("c1") == loaded.covers_sample("s1") == "r1"
        assert loaded.covers_content("s1") is None
        assert loaded.slots("d") == {1, 3}
        assert loaded.slots("e") == frozenset()
        assert loaded.removals == ("r1",)

    def test_names_are_known_as_they_are_compared(self, added: Tombstones, keys: KeyRing, tmp_path: Path) -> None:
        """By kind, but for case, width and white space, and never what only contains them; what was left in stays. A
        file with names is of a version of its own, which readers that know none refuse; one without stays as it was.
        """
        added.store(tmp_path)
        assert json.loads((tmp_path / TOMBSTONES_FILE).read_text())["version"] == 1
        assert not Tombstones.load(tmp_path, keys).hears
        named = added.with_added("r2", said={"creator": ["Ann \uff22ee", ""]}, stays=["c2", "https://b.example/2.jpg"])
        named.store(tmp_path)
        assert json.loads((tmp_path / TOMBSTONES_FILE).read_text())["version"] == 2
        loaded = Tombstones.load(tmp_path, keys)
        assert loaded == named
        assert loaded.removals == ("r1", "r2")
        assert loaded.covers_said({"creator": [None, "", " ANN  bee "]}) == "r2"
        assert loaded.covers_said({"creator": ["Ann Bee\ud800"]}) is None
        assert (
            loaded.covers_said({"creator": ["Ann Bee and sons"], "text": ["Ann Bee"], "licensor": ["Ann Bee"]}) is None
        )
        assert loaded.covers_said({"creator": ["Ann Bee"]}, content="c1", url="https://b.example/1.jpg") == "r2"
        assert loaded.covers_said({"creator": ["Ann Bee"]}, content="c2") is None
        assert loaded.covers_said({"creator": ["Ann Bee"]}, url="https://b.example/2.jpg") is None
        with pytest.raises(KeyFileError):
            Tombstones.load(tmp_path).covers_said({"creator": ["Ann Bee"]})

    @pytest.mark.parametrize(
        ("url", "covered"),
        [
            ("https://gone.example/x", True),
            ("https://deep.below.gone.example:444/x", True),
            ("https://alsogone.example/", False),
            ("https://example/", False),
            ("http://127.0.0.1:8001/x", True),
            ("http://127.0.0.1:8002/x", False),
            ("http://127.0.0.1/x", False),
        ],
    )
    def test_domains(self, added: Tombstones, url: str, covered: bool) -> None:
        """A removed domain covers its pages and all below it; one with a port covers that port."""
        assert (added.covers_url(url) == "r1") == covered

    def test_nothing_is_readable_in_the_file(self, added: Tombstones, keys: KeyRing, tmp_path: Path) -> None:
        """The file holds tokens: neither URLs nor hashes, and nothing that could be guessed without the key."""
        added.store(tmp_path)
        text = (tmp_path / TOMBSTONES_FILE).read_text()
        assert "example" not in text
        assert '"c1"' not in text
        assert keys.token("content", "c1") in text

    def test_no_key_no_answer(self, added: Tombstones, tmp_path: Path) -> None:
        """Without the key, or with another, nobody is told "not covered"; the emptied slots need none."""
        added.store(tmp_path)
        other = KeyRing.create(tmp_path / "other")
        with pytest.raises(KeyFileError, match="another key"):
            Tombstones.load(tmp_path, other)
        without = Tombstones.load(tmp_path)
        assert without.slots("d") == {1, 3}
        for ask in (without.covers_url, without.covers_content, without.covers_sample, Tombstones().covers_url):
            with pytest.raises(KeyFileError):
                ask("https://a.example/")
        with pytest.raises(KeyFileError):
            without.with_added("r2", keys=other, contents=["c2"])
        with pytest.raises(KeyFileError):
            Tombstones().with_added("r2", contents=["c2"])

    def test_no_tombstone_is_ever_lost(self, added: Tombstones, keys: KeyRing, tmp_path: Path) -> None:
        """The epoch rises; who did not see the newest file cannot replace it; the first removal keeps its token."""
        added.store(tmp_path)
        added.store(tmp_path)
        more = added.with_added("r2", contents=["c1", "c2"])
        assert (more.epoch, more.covers_content("c1"), more.covers_content("c2")) == (2, "r1", "r2")
        more.store(tmp_path)
        for stale in (added, Tombstones(keys=keys), added.with_added("r3", contents=["c3"])):
            with pytest.raises(IntegrityError, match="does not continue"):
                stale.store(tmp_path)
        forged = dataclasses.replace(added.with_added("r3", contents=["c3"]), epoch=9)
        with pytest.raises(IntegrityError):
            forged.store(tmp_path)
        assert Tombstones.load(tmp_path, keys) == more

    def test_two_that_store_at_once(self, keys: KeyRing, tmp_path: Path) -> None:
        """Threads that load, add and store until it succeeds lose nothing."""

        def add(name: str) -> None:
            while True:
                try:
                    Tombstones.load(tmp_path, keys).with_added(name, contents=[name]).store(tmp_path)
                except IntegrityError:
                    continue
                return

        Tombstones(keys=keys).with_added("r", contents=["c"]).store(tmp_path)
        threads = [threading.Thread(target=add, args=(f"r{i}",)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(Tombstones.load(tmp_path, keys).removals) == 7

    @pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version":1,"tombstones":{}}', "\x00", "null"])
    def test_damaged_files(self, added: Tombstones, tmp_path: Path, damage: str) -> None:
        """A file that cannot be read lets nothing in."""
        added.store(tmp_path)
        (tmp_path / TOMBSTONES_FILE).write_text(damage)
        with pytest.raises(IntegrityError):
            Tombstones.load(tmp_path)

    def test_changed_and_newer_files(self, added: Tombstones, tmp_path: Path) -> None:
        """One slot less, or a newer version, is refused."""
        added.store(tmp_path)
        path = tmp_path / TOMBSTONES_FILE
        data = json.loads(path.read_text())
        del data["tombstones"]["slots"]["d"]["3"]
        path.write_text(json.dumps(data))
        with pytest.raises(IntegrityError, match="changed or damaged"):
            Tombstones.load(tmp_path)
        path.write_text(json.dumps({**data, "version": 99}))
        with pytest.raises(IntegrityError, match="newer version"):
            Tombstones.load(tmp_path)

    def test_the_file_may_be_ahead_of_the_ledger_never_behind(
        self, added: Tombstones, ledger: Ledger, now: datetime, tmp_path: Path
    ) -> None:
        """A missing or older file is told from one that never was, by the ledger's rows."""
        Tombstones().check_against(ledger)
        added.store(tmp_path)
        added.check_against(ledger)
        ledger.append("tombstone", added.rows("r1", now), key="r1")
        kinds = ledger.query("SELECT kind, count(*) FROM tombstone GROUP BY kind ORDER BY kind")
        assert kinds == [("content", 1), ("domain", 2), ("sample", 1), ("slot", 2), ("url", 1)]
        added.check_against(ledger)
        more = added.with_added("r2", contents=["c2"])
        more.check_against(ledger)
        ledger.append("tombstone", more.rows("r2", now), key="r2")
        (tmp_path / "lost").mkdir()
        for behind in (Tombstones.load(tmp_path), Tombstones.load(tmp_path / "lost")):
            with pytest.raises(IntegrityError, match="on record"):
                behind.check_against(ledger)

    def test_what_is_asked_at_every_moment_is_what_is_in_force_then(
        self, added: Tombstones, keys: KeyRing, tmp_path: Path
    ) -> None:
        """A file that appears or grows counts from the next question on; one that is lost or older is refused."""
        standing = StandingTombstones(tmp_path, Tombstones(keys=keys))
        assert standing.now().epoch == 0
        added.store(tmp_path)
        assert standing.now().covers_content("c1") == "r1"
        old = (tmp_path / TOMBSTONES_FILE).read_bytes()
        added.with_added("r2", contents=["c2"]).store(tmp_path)
        assert standing.now().covers_content("c2") == "r2"
        (tmp_path / TOMBSTONES_FILE).write_bytes(old)
        with pytest.raises(IntegrityError, match="gone or older"):
            standing.now()
        (tmp_path / TOMBSTONES_FILE).unlink()
        with pytest.raises(IntegrityError, match="gone or older"):
            standing.now()
