"""How the fetcher treats whoever it asks: what it asks again and when, how much at once, and who waits for whom."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import FetchConfig, Fetched, Fetcher, Request, _Run, open_gate, retry_after_s
from curation.transfer import Patience
from tests.curation.loopback import (
    After,
    Answer,
    Server,
    closing,
    dripping,
    flooding,
    hang,
    in_turn,
    redirect,
    response,
    serving,
)

OK = response(b"picture")


def fetcher(*servers: Server, **settings: object) -> Fetcher:
    """A fetcher that may reach these servers and nothing else, and does not wait long between two attempts."""
    defaults: dict[str, object] = {"deadline_s": 20.0, "retry_base_s": 0.01}
    resolver = settings.pop("resolver", None)
    endpoints = tuple(server.endpoint for server in servers)
    config = FetchConfig(allow_addresses=endpoints, **(defaults | settings))  # type: ignore[arg-type]
    return Fetcher(config, resolver=resolver, rng=random.Random(0))  # type: ignore[arg-type]


def get(server: Server, *paths: str, **settings: object) -> list[Fetched]:
    with_server = fetcher(server, **settings)
    try:
        requests = [Request(server.url(path), "image") for path in paths]
        return sorted(with_server.fetch_all(requests, gate=open_gate), key=lambda f: f.url)
    finally:
        with_server.close()


def status(code: int, *headers: str) -> bytes:
    return response(b"sorry", *headers, status=f"{code} Whatever")


# ── what is asked again ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "passing",
    [
        closing(b"", reset=True),
        closing(b""),
        closing(response(b"half", length=1000)),
        *(status(code) for code in (408, 425, 429, 500, 502, 503, 504)),
        dripping(response(length=100_000)),
    ],
)
def test_what_failed_in_passing_is_asked_again(passing: Answer) -> None:
    """Resets, early ends, a rate that is too low and the statuses that say "later" get a second chance."""
    with serving({"/": in_turn(passing, OK)}) as server:
        (fetched,) = get(server, "/", rate_window_s=0.4, min_rate_bytes_per_s=1000.0)
    assert (fetched.outcome, fetched.body, fetched.attempts) == ("ok", b"picture", 2)
    assert server.requests == ["/", "/"]


@pytest.mark.parametrize(
    ("lasting", "outcome"),
    [
        *((status(code), f"http-{code}") for code in (204, 400, 401, 403, 404, 410, 451, 501, 505)),
        (closing(b"SSH-2.0-OpenSSH_9.2\r\n"), "bad-response"),
        (flooding(response(length=60_000_000), b"x" * 65536), "too-large"),
        (hang, "timeout"),
        (redirect("/"), "too-many-redirects"),
        (redirect("http://10.0.0.1/"), "refused-by-policy"),
        (redirect("gopher://x/"), "bad-url"),
    ],
)
def test_what_will_not_pass_is_asked_once(lasting: Answer, outcome: str) -> None:
    """An answer that means what it says, a protocol that is none and a whole deadline spent are not asked again."""
    settings: dict[str, object] = {"deadline_s": 0.6} if lasting is hang else {}
    with serving({"/": in_turn(lasting, OK)}) as server:
        (fetched,) = get(server, "/", max_image_bytes=1000, **settings)
    if outcome == "refused-by-policy":
        assert fetched.outcome in (outcome, "forbidden-address")
    else:
        assert fetched.outcome == outcome
    assert fetched.attempts == 1
    assert server.requests == ["/"]


def test_nobody_there_is_asked_again_too() -> None:
    """A refused connection and a name without an address are tried as often as is set."""
    with serving() as server:
        pass
    (fetched,) = get(server, "/", retries=2)
    assert (fetched.outcome, fetched.attempts) == ("connect", 3)
    nameless = fetcher(resolver=lambda host, port: (), retries=1)
    fetched = nameless.fetch(Request("http://nowhere.example/", "page"))
    nameless.close()
    assert (fetched.outcome, fetched.attempts) == ("dns", 2)


def test_attempts_end() -> None:
    """After the last attempt its outcome is the URL's."""
    with serving({"/": in_turn(status(500), status(502), status(504), OK)}) as server:
        (fetched,) = get(server, "/", retries=2)
        assert (fetched.outcome, fetched.status, fetched.attempts) == ("http-504", 504, 3)
        (fetched,) = get(server, "/", retries=0)
        assert (fetched.outcome, fetched.attempts) == ("ok", 1)


def test_of_several_attempts_the_last_one_is_told() -> None:
    """Hops, status and time are the last attempt's; it goes the whole way again, redirects included."""
    with serving({"/a": redirect("/b"), "/b": in_turn(status(500), OK)}) as server:
        (fetched,) = get(server, "/a")
    assert [(hop.url, hop.status) for hop in fetched.hops] == [(server.url("/a"), 302), (server.url("/b"), 200)]
    assert (fetched.outcome, fetched.attempts) == ("ok", 2)
    assert server.requests == ["/a", "/b", "/a", "/b"]


def test_the_gate_is_asked_before_every_attempt() -> None:
    """A removal that arrives between two attempts is heard."""
    with serving({"/": in_turn(status(500), OK)}) as server:
        codes: Iterator[str | None] = iter([None, "tombstoned"])
        guarded = fetcher(server)
        (fetched,) = guarded.fetch_all([Request(server.url(), "image")], gate=lambda url: next(codes))
        guarded.close()
    assert (fetched.outcome, fetched.detail) == ("refused-by-policy", "tombstoned")
    assert server.requests == ["/"]


def test_a_waiting_retry_takes_nobodys_place() -> None:
    """While one URL waits for its next attempt, all the others are fetched in the only place there is."""
    with serving({"/broken": status(500)}) as broken, serving({f"/{i}": OK for i in range(10)}) as sound:
        patient = fetcher(broken, sound, concurrency=1, retry_base_s=60.0, retry_max_s=60.0)
        urls = [broken.url("/broken"), *(sound.url(f"/{i}") for i in range(10))]
        stream = patient.fetch_all([Request(url, "image") for url in urls], gate=open_gate)
        first = [next(stream) for _ in range(10)]
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        patient.close()
        assert [f.outcome for f in first] == ["ok"] * 10
        assert broken.requests == ["/broken"]


@given(st.integers(1, 500), st.floats(0, 100), st.floats(0, 100), st.randoms(use_true_random=False))
def test_pauses_grow_up_to_their_limit(failures: int, base_s: float, max_s: float, rng: random.Random) -> None:
    """The pause after n failures lies between half and the whole of base * 2^(n - 1), cut at the limit."""
    patient = Fetcher(FetchConfig(retry_base_s=base_s, retry_max_s=max_s), rng=rng)
    run = _Run(patient, None, (), open_gate, 1, None)  # type: ignore[arg-type]  # no network is needed
    longest = min(max_s, base_s * 2.0 ** min(failures - 1, 60))
    assert longest / 2 <= run._backoff_s(failures) <= longest


# ── Retry-After ──────────────────────────────────────────────────────────────────────────────────────────────────
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 20 Nov 2026 12:02:00 GMT", 120.0),
        ("Friday, 20-Nov-26 12:02:00 GMT", 120.0),
        ("Fri Nov 20 12:02:00 2026", 120.0),
        ("Thu, 19 Nov 2026 12:00:00 GMT", 0.0),
        ("9" * 400, 999_999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0661\u0662", None),
        ("Fri, 99 Nov 2026 12:02:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    """Both forms of RFC 9110, 10.2.3; what is neither says nothing."""
    assert retry_after_s((("Retry-After", "7"), ("retry-after", value)), NOW) == seconds
    assert retry_after_s((), NOW) is None


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("code", [429, 503, 500])
def test_retry_after_is_honoured(code: int, form: str) -> None:
    """The next attempt comes no earlier than it says."""
    at: list[float] = []

    def answer(connection: object, stopping: threading.Event) -> None:
        at.append(time.time())
        value = "1" if form == "seconds" else format_datetime(_second_after_next(), usegmt=True)
        connection.sendall(status(code, f"Retry-After: {value}") if len(at) == 1 else OK)  # type: ignore[attr-defined]

    with serving({"/": answer}) as server:
        (fetched,) = get(server, "/")
    assert (fetched.outcome, fetched.attempts) == ("ok", 2)
    assert at[1] - at[0] >= 0.95


def _second_after_next() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)


def test_who_wants_to_be_left_alone_for_long_is_left_alone() -> None:
    """A longer Retry-After than we wait ends the URL at once, and the origin's others unasked, in later calls too."""
    with serving({f"/{i}": status(503, "Retry-After: 3600") for i in range(5)}) as server:
        with_server = fetcher(server, per_origin_concurrency=1, retry_after_max_s=60.0)
        requests = [Request(server.url(f"/{i}"), "image") for i in range(5)]
        results = list(with_server.fetch_all(requests, gate=open_gate))
        results += list(with_server.fetch_all(requests, gate=open_gate))
        with_server.close()
    assert (results[0].outcome, results[0].attempts) == ("http-503", 1)
    assert {f.outcome for f in results[1:]} == {"origin-down"}
    assert "alone" in results[1].detail
    assert len(server.requests) == 1


# ── the origin as a whole ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("code", [429, 503])
def test_not_so_fast_is_said_for_the_whole_origin(code: int) -> None:
    """After a 429 or 503 none of the origin's URLs is asked for the time it wants, and elsewhere all goes on."""
    at: dict[str, float] = {}

    def timed(path: str, answer: bytes) -> Answer:
        def send(connection: object, stopping: threading.Event) -> None:
            at.setdefault(path, time.monotonic())
            connection.sendall(answer)  # type: ignore[attr-defined]  # a socket

        return send

    slow_down = in_turn(timed("/0", status(code, "Retry-After: 1")), OK)
    routes = {"/0": slow_down, **{f"/{i}": timed(f"/{i}", OK) for i in range(1, 4)}}
    with serving(routes) as tired, serving({"/": timed("elsewhere", OK)}) as fresh:
        both = fetcher(tired, fresh, per_origin_concurrency=1)
        urls = [*(tired.url(f"/{i}") for i in range(4)), fresh.url()]
        results = list(both.fetch_all([Request(url, "image") for url in urls], gate=open_gate))
        both.close()
    assert [f.outcome for f in results] == ["ok"] * 5
    assert results[0].url == fresh.url()
    assert all(at[f"/{i}"] - at["/0"] >= 0.95 for i in range(1, 4))


def test_who_says_not_so_fast_is_asked_less_at_once() -> None:
    """The number of transfers at once is halved, and comes back one by one with good answers."""
    first = threading.Barrier(4)
    lock = threading.Lock()
    asked = answered = 0
    busy: list[int] = []

    def too_many(connection: object, stopping: threading.Event) -> None:
        first.wait(5)
        connection.sendall(status(429))  # type: ignore[attr-defined]  # a socket

    def counted(connection: object, stopping: threading.Event) -> None:
        nonlocal asked, answered
        with lock:
            asked += 1
            busy.append(asked - answered)
        stopping.wait(0.02)
        with lock:
            answered += 1
        connection.sendall(OK)  # type: ignore[attr-defined]  # a socket

    routes = {f"/{i}": in_turn(too_many, counted) for i in range(4)} | {f"/{i}": counted for i in range(4, 20)}
    with serving(routes) as server:
        results = get(server, *(f"/{i}" for i in range(20)), per_origin_concurrency=4)
    assert [f.outcome for f in results] == ["ok"] * 20
    assert max(busy[:2]) <= 2
    assert max(busy) > 2


def test_who_never_says_anything_else_is_given_up() -> None:
    """So many times "not so fast" in a row, and the rest of the origin ends unasked."""
    with serving({f"/{i}": status(429) for i in range(12)}) as server:
        results = get(
            server,
            *(f"/{i}" for i in range(12)),
            per_origin_concurrency=1,
            origin_failures_max=3,
            retry_base_s=0.001,
        )
    assert len(server.requests) == 3
    assert {f.outcome for f in results} == {"http-429", "origin-down"}


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_many_names_at_one_address_share_its_places() -> None:
    """However many host names lead to an address, it sees no more transfers at once than it may; none counts twice."""
    with serving({"/": After(0.03, OK)}) as server, serving({"/": OK}) as other:
        shared = fetcher(
            server,
            other,
            resolver=lambda host, port: ("127.0.0.1",),
            per_address_concurrency=2,
            contact="https://museum.example/bot",
        )
        urls = [server.url(host=f"host{i % 12}.example") for i in range(36)] + [other.url(host="other.example")]
        results = list(shared.fetch_all([Request(url, "image") for url in urls], gate=open_gate))
        shared.close()
    assert [f.outcome for f in results] == ["ok"] * 37
    assert {f.attempts for f in results} == {1}
    assert server.most_busy <= 2


def test_a_refused_url_does_not_keep_a_place_from_others() -> None:
    """An origin that had its turn at a full address and was refused by the gate lets the next one pass."""
    with serving({"/": After(0.02, OK), "/no": OK}) as server:
        shared = fetcher(
            server,
            resolver=lambda host, port: ("127.0.0.1",),
            per_address_concurrency=1,
            contact="https://museum.example/bot",
        )
        paths = ("/", "/no", "/no", "/")
        urls = [server.url(path, host=f"host{i}.example") for path in paths for i in range(5)]
        requests = [Request(url, "image") for url in urls]
        results = list(shared.fetch_all(requests, gate=lambda url: "robots-disallow" if url.endswith("/no") else None))
        shared.close()
    assert sorted(f.outcome for f in results) == ["ok"] * 10 + ["refused-by-policy"] * 10
    assert server.most_busy == 1


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_large_bodies_wait_for_room_and_lose_nothing_by_it() -> None:
    """Where bodies together would take too much, those that are on go on first; the others come whole after them."""
    size = 3_000_000
    routes: dict[str, Answer] = {f"/{i}": response(bytes([i]) * size) for i in range(8)}
    routes |= {"/small": OK, "/flood": flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)}
    with serving(routes) as server:
        large = fetcher(server, per_origin_concurrency=10, max_image_bytes=size, max_buffered_bytes=size + 1000)
        reserved: list[int] = []
        requests = [Request(server.url(path), "image") for path in routes]
        results = {}
        for fetched in large.fetch_all(requests, gate=open_gate):
            results[fetched.url] = fetched
        reserved += [loop.reserved_bytes for loop in large._idle]
        large.close()
    assert [results[server.url(f"/{i}")].body for i in range(8)] == [bytes([i]) * size for i in range(8)]
    assert results[server.url("/small")].ok
    assert results[server.url("/flood")].outcome == "too-large"
    assert reserved == [0]


def test_who_stalls_with_much_in_hand_holds_the_others_up_no_longer_than_its_deadline() -> None:
    """A body that takes all the room and never ends is given up like any other; those that waited come whole."""
    size = 2_000_000

    def stalls(connection: object, stopping: threading.Event) -> None:
        connection.sendall(response(b"x" * (size - 1), length=size))  # type: ignore[attr-defined]  # a socket
        stopping.wait()

    with serving({"/": stalls}) as stalling, serving({"/": response(b"y" * size)}) as sound:
        large = fetcher(stalling, sound, max_image_bytes=size, max_buffered_bytes=size, deadline_s=1.0)

        def source() -> Iterator[Request]:
            yield Request(stalling.url(), "image")
            stalling.stopping.wait(0.3)
            yield Request(sound.url(), "image")

        outcomes = {f.url: f.outcome for f in large.fetch_all(source(), gate=open_gate)}
        large.close()
    assert outcomes == {stalling.url(): "timeout", sound.url(): "ok"}


def test_who_declares_much_and_sends_little_takes_little() -> None:
    """Room is taken as a body grows: those that hang with a promise of megabytes hold no large one up."""
    size = 3_000_000
    hanging = response(b"x" * 400_000, length=size)

    def stalls(connection: object, stopping: threading.Event) -> None:
        connection.sendall(hanging)  # type: ignore[attr-defined]  # a socket
        stopping.wait()

    with serving({f"/{i}": stalls for i in range(5)}) as stalling, serving({"/": response(b"y" * size)}) as sound:
        large = fetcher(stalling, sound, max_image_bytes=size, max_buffered_bytes=6_000_000, per_origin_concurrency=5)

        def source() -> Iterator[Request | None]:
            yield from (Request(stalling.url(f"/{i}"), "image") for i in range(5))
            while len(stalling.requests) < 5:
                yield None
            yield Request(sound.url(), "image")

        stream = large.fetch_all(source(), gate=open_gate)
        assert next(stream).body == b"y" * size
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        large.close()


def test_bodies_that_grow_together_stay_within_their_room() -> None:
    """Bodies of unknown length wait for room as they grow, none for ever, and hold no more together than they may."""
    size, room = 3_000_000, 4_000_000
    with serving({f"/{i}": closing(b"HTTP/1.1 200 OK\r\n\r\n" + bytes([i]) * size) for i in range(8)}) as server:
        large = fetcher(server, per_origin_concurrency=8, max_image_bytes=size, max_buffered_bytes=room)
        held: list[int] = []

        def source() -> Iterator[Request | None]:
            yield from (Request(server.url(f"/{i}"), "image") for i in range(8))
            while len(done) < 8:
                held.append(sum(len(transfer.body) for transfer in runs[0].loop.active.values()))
                yield None

        done: list[Fetched] = []
        runs: list[_Run] = []
        loop = large._new_loop()
        runs.append(_Run(large, loop, source(), open_gate, 64, None))
        for fetched in runs[0].results():
            done.append(fetched)
        loop.close()
    assert {fetched.body for fetched in done} == {bytes([i]) * size for i in range(8)}
    assert loop.reserved_bytes == 0
    assert max(held) <= room + size + 8 * 256 * 1024


# ── the slow and the lively ──────────────────────────────────────────────────────────────────────────────────────
def asked_of_silent_ones(count: int) -> int:
    """Fetch what a lively origin has, behind so many silent ones and with two places: how many of those were asked."""
    slow = [Server({"/": hang}) for _ in range(count)]
    try:
        with serving({f"/{i}": OK for i in range(40)}) as fast:
            few = fetcher(fast, *slow, concurrency=2)
            urls = [server.url() for server in slow] + [fast.url(f"/{i}") for i in range(40)]
            stream = few.fetch_all([Request(url, "image") for url in urls], gate=open_gate)
            first = [next(stream) for _ in range(40)]
            stream.close()  # type: ignore[attr-defined]  # it is a generator
            few.close()
        assert {f.outcome for f in first} == {"ok"}
        return sum(len(server.requests) for server in slow)
    finally:
        for server in slow:
            server.close()


def test_the_silent_take_no_places_from_the_lively() -> None:
    """With two places and six origins that never answer, one that does is fetched to its end."""
    asked_of_silent_ones(6)


def test_nobody_waits_for_all_the_slow_ones_before_it() -> None:
    """Who stands last in the list, behind more silent origins than there are places, is asked among the first."""
    # Those that had the two places at first, and in turns with the fast one those that came after it.
    assert asked_of_silent_ones(20) < 20


def test_the_silent_leave_room_for_one_that_answers() -> None:
    """Of all that may be open the silent take so many that the last ones are there for who is known to answer."""
    slow = [Server({"/a": hang, "/b": hang}) for _ in range(12)]
    try:
        with serving({"/first": OK, "/again": OK}) as fast:
            few = fetcher(fast, *slow, concurrency=1, max_open=8)

            def source() -> Iterator[Request | None]:
                yield Request(fast.url("/first"), "image")
                yield from (Request(server.url(path), "image") for server in slow for path in ("/a", "/b"))
                while sum(len(server.requests) for server in slow) < 7:
                    yield None
                yield Request(fast.url("/again"), "image")

            stream = few.fetch_all(source(), gate=open_gate)
            assert [next(stream).url for _ in range(2)] == [fast.url("/first"), fast.url("/again")]
            stream.close()  # type: ignore[attr-defined]  # it is a generator
            few.close()
        assert sum(len(server.requests) for server in slow) == 7
        # Before all is open that may be, no origin has a second one.
        assert [server.requests for server in slow if len(server.requests) > 1] == []
    finally:
        for server in slow:
            server.close()


def test_patience_is_what_answers_take() -> None:
    """A silence counts sooner where everybody answers at once, and never before 0.1 or after 0.5 s."""
    patience = Patience()
    assert patience.seconds == 0.1
    for took_s, least, most in ((0.001, 0.1, 0.1), (0.08, 0.1, 0.5), (15.0, 0.5, 0.5), (0.001, 0.1, 0.1)):
        for _ in range(100):
            patience.learn(took_s)
        assert least <= patience.seconds <= most


def test_the_lively_do_not_keep_new_origins_out() -> None:
    """While origins that answer at once have work without end, an origin that is new gets its turn."""
    with serving({"/": OK}) as busy, serving({"/": OK}) as new:
        both = fetcher(busy, new, concurrency=2, per_origin_concurrency=2, max_pending=50)

        def source() -> Iterator[Request]:
            for _ in range(200):
                yield Request(busy.url(), "image")
            yield Request(new.url(), "image")
            while True:
                yield Request(busy.url(), "image")

        stream = both.fetch_all(source(), gate=open_gate)
        assert any(next(stream).url == new.url() for _ in range(400))
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        both.close()


def test_no_more_is_open_than_may_be() -> None:
    """However many are silent, the limit of open transfers holds."""
    slow = [Server({"/": After(0.8, OK)}) for _ in range(4)]
    try:
        few = fetcher(*slow, concurrency=1, max_open=3)
        results = list(few.fetch_all([Request(server.url(), "image") for server in slow], gate=open_gate))
        few.close()
        assert [f.outcome for f in results] == ["ok"] * 4
    finally:
        for server in slow:
            server.close()
