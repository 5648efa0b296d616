from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import InputError, KeyFileError, RefusedError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.removals import RemovalRequest, State, advance, due_at, find, record, requester_of, requests

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
