from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import InputError, KeyFileError, RefusedError
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.names import named_token
from policy.removals import (
    RemovalRequest,
    State,
    advance,
    advance_many,
    due_at,
    escalate,
    escalated,
    events,
    extend,
    extensions,
    find,
    forget_named,
    forget_requester,
    identities,
    record,
    record_many,
    requester_of,
    requests,
    same_name,
    tokens_of_named,
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

    @pytest.mark.parametrize(
        ("received", "regime", "due"),
        [
            ("2026-11-30", "gdpr", "2027-03-01"),  # three months are 28 February 2027, a Sunday
            ("2026-03-05", "gdpr", "2026-06-05"),
            ("2026-01-01", "ccpa", "2026-04-01"),
        ],
    )
    def test_extensions_count_from_receipt(self, received: str, regime: str, due: str) -> None:
        """By two further months of the GDPR's calendar, or 45 further days of the CCPA's."""
        moment = datetime.fromisoformat(f"{received}T12:00:00+00:00")
        assert due_at(moment, regime, extended=True) == datetime.fromisoformat(f"{due}T23:59:59+00:00")

    def test_a_deadline_of_ones_own(self) -> None:
        """By a day, or by days from receipt; never before receipt, never beside a law's, and never extended."""
        received = datetime(2026, 11, 29, 12, tzinfo=UTC)
        assert due_at(received, "own", due_on=date(2026, 12, 31)) == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert due_at(received, "own", own_days=10).date() == date(2026, 12, 9)
        for regime, wrong in (
            ("own", {"due_on": date(2026, 11, 28)}),
            ("own", {}),
            ("own", {"own_days": 3, "extended": True}),
            ("gdpr", {"due_on": date(2026, 12, 31)}),
        ):
            with pytest.raises(InputError):
                due_at(received, regime, **wrong)

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

    def test_a_state_is_reached_again_by_an_event_of_its_own(
        self, ledger: Ledger, now: datetime, request_of: RemovalRequest
    ) -> None:
        """A review after the first of two approvals takes it back, and the next one is recorded as well."""
        name = request_of.removal
        for state in (State.HELD, State.AWAITING_SECOND, State.HELD, State.AWAITING_SECOND):
            assert advance(ledger, name, state, now=now, by_whom="Ann").state is state
            assert find(ledger, name).state is state
        assert len(events(ledger, name, State.AWAITING_SECOND)) == 2

    def test_an_extension(self, ledger: Ledger, now: datetime, request_of: RemovalRequest) -> None:
        """It moves the deadline once, says who granted it and why, and comes before the day or never."""
        name = request_of.removal
        for by, why in ((" ", "many"), ("Ann", "")):
            with pytest.raises(InputError, match="who grants it, and why"):
                extend(ledger, name, now=now, by_whom=by, reason=why)
        with pytest.raises(RefusedError, match="before that day only"):
            extend(ledger, name, now=request_of.due_at + timedelta(seconds=1), by_whom="Ann", reason="many")
        later = extend(ledger, name, now=request_of.due_at, by_whom="Ann", reason="there are many")
        assert later.due_at == due_at(now, "gdpr", extended=True) == find(ledger, name).due_at
        assert find(ledger, name).state is State.RECEIVED
        assert extensions(ledger, name) == ("there are many",)
        with pytest.raises(RefusedError, match="extended before"):
            extend(ledger, name, now=now, by_whom="Ann", reason="there are more")

    def test_an_escalation_is_recorded_once(self, ledger: Ledger, now: datetime, request_of: RemovalRequest) -> None:
        """Only of what is open and overdue, and not at the last second of its last day."""
        assert not escalate(ledger, request_of, now=request_of.due_at)
        late = request_of.due_at + timedelta(seconds=1)
        assert [escalate(ledger, request_of, now=late + timedelta(days=day)) for day in range(3)] == [
            True,
            False,
            False,
        ]
        assert escalated(ledger) == {request_of.removal}
        closed = advance(ledger, request_of.removal, State.REJECTED, now=late, by_whom="Ann", reason="not theirs")
        assert not escalate(ledger, closed, now=late)

    def test_who_asked_is_forgotten(
        self, ledger: Ledger, keys: KeyRing, now: datetime, request_of: RemovalRequest
    ) -> None:
        """By an erasure of its own that nobody needs to approve; everything else stands, and everything verifies."""
        name = request_of.removal
        assert identities(ledger) == {name}
        assert forget_requester(ledger, name, now=now, by_whom="Ann", reason="asked for")
        assert not forget_requester(ledger, name, now=now)
        assert requester_of(ledger, name, keys) is None
        assert identities(ledger) == frozenset()
        assert find(ledger, name) == request_of
        assert ledger.query("SELECT table_name, row_count FROM erasure") == [("requester", 1)]
        ledger.compact()
        assert ledger.verify(keys) == ()

    def test_forgetting_reaches_nothing_else(self, ledger: Ledger, now: datetime, request_of: RemovalRequest) -> None:
        """What may forget who asked may not erase what was asked."""
        forget_requester(ledger, request_of.removal, now=now)
        with pytest.raises(RefusedError, match="erases nothing else"):
            ledger.erase(f"forget:{request_of.removal}", {"removal": "true"})
        with pytest.raises(RefusedError, match="was not approved"):
            ledger.erase(request_of.removal, {"removal": "true"})

    def test_what_was_named_is_forgotten_once_it_serves_nobody(
        self, ledger: Ledger, keys: KeyRing, now: datetime, request_of: RemovalRequest
    ) -> None:
        """Only of a request that is closed and took nothing, only its own; its token stays, and everything verifies."""
        name, value = request_of.removal, request_of.named_value or ""
        token = named_token(keys, request_of.named_kind, value)
        with pytest.raises(RefusedError, match="is needed"):
            forget_named(ledger, name, token, now=now)
        advance(ledger, name, State.REJECTED, now=now, by_whom="Ann", reason="not theirs")
        other = RemovalRequest.receive("text", "a text of others", now=now)
        record(ledger, other)
        assert forget_named(ledger, name, token, now=now)
        assert not forget_named(ledger, name, token, now=now)
        assert (find(ledger, name).named_value, find(ledger, other.removal).named_value) == (None, "a text of others")
        assert tokens_of_named(ledger) == {name: token}
        with pytest.raises(RefusedError, match="erases nothing else"):
            ledger.erase(f"forget:{name}", {"removal": "true"})
        ledger.compact()
        assert value.encode() not in ledger.path.read_bytes()
        assert ledger.verify(keys) == ()

    def test_many_are_recorded_at_once_or_not_at_all(self, ledger: Ledger, keys: KeyRing, now: datetime) -> None:
        """Under one key; an identity without a key takes the others with it."""
        filed = [(RemovalRequest.receive("text", f"text {n}", now=now, kind="access"), f"Jo {n}") for n in range(3)]
        with pytest.raises(KeyFileError):
            record_many(ledger, filed, key="csv")
        assert requests(ledger) == ()
        assert record_many(ledger, filed, key="csv", keys=keys)
        assert not record_many(ledger, filed, key="csv", keys=keys)
        assert [requester_of(ledger, r.removal, keys) for r, _ in filed] == ["Jo 0", "Jo 1", "Jo 2"]

    def test_wrong_requests(self, ledger: Ledger, now: datetime) -> None:
        """An unknown id, kind or an empty name is an error; an identity is never kept in the clear."""
        with pytest.raises(InputError, match="no such removal"):
            find(ledger, "removal-x")
        with pytest.raises(InputError, match="cannot look for"):
            RemovalRequest.receive("name", "Jo", now=now)
        for named_kind, value in (("domain", ""), ("text", " "), ("picture", None)):
            with pytest.raises(InputError, match="names nothing"):
                RemovalRequest.receive(named_kind, value, now=now)
        with pytest.raises(InputError, match="unknown kind"):
            RemovalRequest.receive("domain", "a.example", now=now, kind="revenge")
        with pytest.raises(KeyFileError):
            record(ledger, RemovalRequest.receive("domain", "a.example", now=now), requester="Jo")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ann", " ANN ", True),
        ("Ann  Bee", "ann bee", True),
        ("\uff21nn", "Ann", True),  # a full-width A
        ("An\u200bn", "Ann", True),  # a zero-width space within
        ("Stra\u00dfe", "STRASSE", True),
        ("e\u0301va", "\u00c9va", True),
        ("Ann", "Anne", False),
    ],
)
def test_names_are_compared_as_people_read_them(one: str, other: str, same: bool) -> None:
    """Nobody is a second person by another spelling of the same name."""
    assert same_name(one, other) is same


def test_a_clock_that_was_set_back_makes_no_receipt_that_contradicts_itself(ledger: Ledger) -> None:
    """What is decided after something is not recorded as before it."""
    filed = datetime(2026, 3, 1, tzinfo=UTC)
    back = filed - timedelta(days=40)
    for name in ("removal-one", "removal-two"):
        request = RemovalRequest.receive("image_url", "https://example.org/a.jpg", now=filed, removal=name)
        record_many(ledger, [(request, None)], key=name)
    advance(ledger, "removal-one", State.APPROVED, now=back, by_whom="Ann")
    advance_many(ledger, ["removal-one"], State.APPLIED, now=back + timedelta(days=1))
    advance_many(ledger, ["removal-two"], State.REJECTED, now=filed + timedelta(days=1), by_whom="Ann", reason="no")
    [(earliest,)] = ledger.query("SELECT min(happened_at) FROM removal_event")
    [(latest,)] = ledger.query("SELECT max(happened_at) FROM removal_event")
    assert earliest.replace(tzinfo=UTC) == filed
    assert latest.replace(tzinfo=UTC) == filed + timedelta(days=1), "where the clock is right it is believed"
