from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import InputError, IntegrityError, KeyFileError, RefusedError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.removals import (
    TOMBSTONES_FILE,
    Match,
    RemovalRequest,
    State,
    Tombstones,
    advance,
    due_at,
    erasure_predicates,
    find,
    match,
    record,
    record_matches,
    requester_of,
    requests,
)

_keys = count()


class TestDeadlines:
    @pytest.mark.parametrize(
        ("received", "due"),
        [
            ("2026-03-05", "2026-04-06"),  # 5 April 2026 is Easter Sunday: Monday, though a holiday in many states
            ("2026-01-31", "2026-03-02"),  # 28 February is a Saturday
            ("2027-01-31", "2027-03-01"),  # 28 February is a Sunday
            ("2028-01-31", "2028-02-29"),  # a leap year's Tuesday
            ("2029-01-31", "2029-02-28"),
            ("2029-01-28", "2029-02-28"),
            ("2026-03-31", "2026-04-30"),
            ("2026-12-31", "2027-02-01"),  # 31 January 2027 is a Sunday
            ("2026-12-15", "2027-01-15"),
            ("2026-08-28", "2026-09-28"),
        ],
    )
    def test_one_month_by_the_calendar(self, received: str, due: str) -> None:
        """Regulation 1182/71: the same number a month later, or the month's last day; a weekend moves to Monday."""
        moment = datetime.combine(date.fromisoformat(received), datetime.min.time(), UTC) + timedelta(hours=13)
        assert due_at(moment, "gdpr") == datetime.fromisoformat(f"{due}T23:59:59+00:00")

    def test_days_are_utc_days(self) -> None:
        """Half past midnight in Tokyo is still the day before in UTC, which is the earlier deadline."""
        tokyo = datetime(2026, 9, 15, 0, 30, tzinfo=timezone(timedelta(hours=9)))
        assert due_at(tokyo, "gdpr").date() == date(2026, 10, 14)

    def test_ccpa(self) -> None:
        """45 calendar days, weekends or not."""
        assert due_at(datetime(2026, 1, 1, 8, tzinfo=UTC), "ccpa") == datetime(2026, 2, 15, 23, 59, 59, tzinfo=UTC)

    @given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds
    def test_a_month_is_28_to_33_days_and_a_working_day(self, received: datetime) -> None:
        """Never earlier than 28 days, never later than a month of 31 and a weekend, never on a weekend."""
        due = due_at(received, "gdpr")
        assert 28 <= (due.date() - received.date()).days <= 33
        assert due.weekday() < 5

    def test_unknown_regimes_are_refused(self) -> None:
        """A deadline is never guessed."""
        with pytest.raises(InputError, match="regime"):
            due_at(datetime(2026, 1, 1, tzinfo=UTC), "other")


class TestRequests:
    @pytest.fixture
    def request_of(self, ledger: Ledger, keys: KeyRing, now: datetime) -> RemovalRequest:
        request = RemovalRequest.receive("image_url", "https://a.example/i.jpg", now=now)
        assert record(ledger, request, by_whom="mail", requester="Jo <jo@a.example>", keys=keys)
        return request

    def test_a_request_is_read_back(self, ledger: Ledger, keys: KeyRing, request_of: RemovalRequest) -> None:
        """What was received stands, once; who asked is kept encrypted and can be read with the key."""
        assert find(ledger, request_of.removal) == request_of
        assert not record(ledger, request_of)
        assert requests(ledger) == (request_of,)
        assert requester_of(ledger, request_of.removal, keys) == "Jo <jo@a.example>"
        [(identity, key_id)] = ledger.query("SELECT identity, key_id FROM requester")
        assert b"jo@" not in identity
        assert key_id == keys.key_id("encryption")

    def test_the_way_of_a_request(self, ledger: Ledger, now: datetime, request_of: RemovalRequest) -> None:
        """received -> held -> approved -> applied; a step taken twice is one step."""
        for state in (State.HELD, State.HELD, State.APPROVED, State.APPLIED):
            assert advance(ledger, request_of.removal, state, now=now, by_whom="reviewer").state is state
        events = ledger.query("SELECT state FROM removal_event ORDER BY batch_seq")
        assert [state for (state,) in events] == ["received", "held", "approved", "applied"]

    @pytest.mark.parametrize(
        ("taken", "refused"),
        [
            ([], State.APPLIED),
            ([State.REJECTED], State.APPROVED),
            ([State.APPROVED], State.REJECTED),
            ([State.APPROVED, State.APPLIED], State.HELD),
        ],
    )
    def test_steps_that_do_not_exist(
        self, ledger: Ledger, now: datetime, request_of: RemovalRequest, taken: list[State], refused: State
    ) -> None:
        """Nothing is applied without approval, and what was decided stays decided."""
        for state in taken:
            advance(ledger, request_of.removal, state, now=now)
        with pytest.raises(RefusedError, match="cannot become"):
            advance(ledger, request_of.removal, refused, now=now)

    def test_wrong_requests(self, ledger: Ledger, now: datetime) -> None:
        """An unknown id, kind or an empty name is an error; an identity is never kept in the clear."""
        with pytest.raises(InputError, match="no such removal"):
            find(ledger, "removal-x")
        with pytest.raises(InputError, match="cannot look for"):
            RemovalRequest.receive("name", "Jo", now=now)
        with pytest.raises(InputError, match="names nothing"):
            RemovalRequest.receive("domain", "", now=now)
        with pytest.raises(KeyFileError):
            record(ledger, RemovalRequest.receive("domain", "a.example", now=now), requester="Jo")


@pytest.fixture
def crawled(ledger: Ledger) -> Ledger:
    """p1 and p2 on a.example; p3 on b.example shows p1's bytes; p4 on c.example its own; p5 was never fetched."""
    rows = [
        ("p1", "https://a.example/page", "https://img.a.example/1.jpg", "u1", "c1"),
        ("p2", "https://a.example/page", "https://img.a.example/2.jpg", "u2", "c2"),
        ("p3", "http://b.example:8001/", "http://b.example:8001/copy.jpg", "u3", "c1"),
        ("p4", "https://c.example/", "https://notaa.example/4.jpg", "u4", "c4"),
        ("p5", "https://c.example/", "https://c.example/5.jpg", "u5", None),
    ]
    names = ("pair_key", "page_url", "image_url", "url_key")
    captions = [{"sample_key": f"s{p[1]}", "pair_key": p, "content_sha256": c} for p, *_, c in rows if c]
    evidence = [{"evidence_id": f"e{p}", "pair_key": p, "content_sha256": c} for p, *_, c in rows]
    images: list[dict[str, object]] = [{"url": row[2], "url_key": row[3], "kind": "image"} for row in rows]
    tables: dict[str, list[dict[str, object]]] = {
        "occurrence": [dict(zip(names, row[:4], strict=True)) for row in rows],
        "content": [{"url_key": row[3], "content_sha256": row[4]} for row in rows if row[4]],
        "caption": [dict(row) for row in captions],
        "fetch": [*images, {"url": rows[0][1], "url_key": "page", "kind": "page"}],
        "evidence": [dict(row) for row in evidence],
        "decision": [{"evidence_id": row["evidence_id"], "pair_key": row["pair_key"]} for row in evidence],
        "slot": [{"dataset": "d", "ordinal": i, **row} for i, row in enumerate(captions)],
        "attribution": [{"dataset": "d", "ordinal": i, "creator": f"creator-{i}"} for i in range(4)],
        "score": [{"content_sha256": "c1", "name": "nsfw", "value": 0.1}],
    }
    ledger.append_many([(table, found, "crawl") for table, found in tables.items()])
    return ledger


M1 = Match("p1", "u1", "c1", "s1", "image_url")


class TestMatching:
    def pairs(self, ledger: Ledger, kind: str, value: str) -> dict[str | None, str]:
        return {found.pair_key: found.method for found in match(ledger, kind, value)}

    def test_an_image_url_and_its_copies(self, crawled: Ledger) -> None:
        """A URL is named, the same bytes elsewhere go with it, and the page's other pictures do not."""
        assert match(crawled, "image_url", "https://img.a.example/1.jpg") == (
            M1,
            Match("p3", "u3", "c1", "s3", "same-content"),
        )

    def test_a_page(self, crawled: Ledger) -> None:
        """A page means every picture on it, and their copies."""
        assert self.pairs(crawled, "page_url", "https://a.example/page") == {
            "p1": "page_url",
            "p2": "page_url",
            "p3": "same-content",
        }

    @pytest.mark.parametrize(
        ("domain", "direct"),
        [
            ("a.example", {"p1", "p2"}),
            ("img.a.example", {"p1", "p2"}),
            ("b.example", {"p3"}),
            ("b.example:8001", {"p3"}),
            ("b.example:8002", set()),
            ("aa.example", set()),
            ("c.example", {"p4", "p5"}),
            ("example.c", set()),
        ],
    )
    def test_a_domain(self, crawled: Ledger, domain: str, direct: set[str]) -> None:
        """A host, what is below it, with its port or without; page or image; never a name that only ends alike."""
        assert {pair for pair, method in self.pairs(crawled, "domain", domain).items() if method == "domain"} == direct

    def test_content_and_sample(self, crawled: Ledger) -> None:
        """Bytes by sha256, a sample by its key: every occurrence."""
        assert self.pairs(crawled, "content", "c1") == {"p1": "content", "p3": "content"}
        assert self.pairs(crawled, "sample_key", "s1") == {"p1": "sample_key", "p3": "same-content"}

    def test_what_was_never_fetched(self, crawled: Ledger) -> None:
        """An occurrence without bytes matches by its URL."""
        assert match(crawled, "image_url", "https://c.example/5.jpg") == (Match("p5", "u5", None, None, "image_url"),)

    def test_a_redirect_target(self, crawled: Ledger) -> None:
        """The URL that finally answered is a name of the picture, too."""
        row = {"url": "https://x.example/", "final_url": "https://cdn.example/1", "url_key": "u1", "kind": "image"}
        crawled.append("fetch", [row], key="redirect")
        assert set(self.pairs(crawled, "image_url", "https://cdn.example/1")) == {"p1", "p3"}

    def test_nothing(self, crawled: Ledger) -> None:
        """What the ledger never saw matches nothing, and an unknown kind is an error."""
        assert match(crawled, "image_url", "https://nowhere.example/") == ()
        assert match(crawled, "domain", "") == ()
        with pytest.raises(InputError):
            match(crawled, "face", "x")

    def test_erased_rows_match_nothing(self, crawled: Ledger, now: datetime) -> None:
        """After the erasure no row is about what was removed, what others share stays, and the chain holds."""
        request = RemovalRequest.receive("image_url", "https://img.a.example/1.jpg", now=now)
        record(crawled, request)
        found = match(crawled, "image_url", "https://img.a.example/1.jpg")
        assert record_matches(crawled, request.removal, found, now=now)
        assert not record_matches(crawled, request.removal, found, now=now)
        advance(crawled, request.removal, State.APPROVED, now=now)
        counts = crawled.erase(request.removal, erasure_predicates(), {"removal": request.removal})
        expected = {"occurrence": 2, "content": 2, "caption": 2, "fetch": 2, "evidence": 2, "decision": 2, "slot": 2}
        expected |= {"attribution": 2, "score": 1, "removal": 1, "removal_match": 2}
        assert {table: n for table, n in counts.items() if n} == expected
        assert match(crawled, "image_url", "https://img.a.example/1.jpg") == ()
        assert match(crawled, "content", "c1") == ()
        assert self.pairs(crawled, "domain", "a.example") == {"p2": "domain"}
        assert find(crawled, request.removal).named_value is None
        assert crawled.query("SELECT creator FROM attribution ORDER BY ordinal") == [
            *((None,), ("creator-1",), (None,), ("creator-3",)),
        ]
        assert crawled.verify() == ()


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
