"""Origin documents: asked once, kept a day, absence and silence told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from curation.fetch import Fetched, Gate, Request
from curation.hosts import OriginDocuments, document_of
from policy.errors import ConfigurationError
from policy.evidence import Hop, OriginEvidence

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ORIGIN = "https://e.org"


class FakeTransport:
    """Answers from a table and remembers what it was asked."""

    def __init__(self, answers: dict[str, tuple[str, int | None, bytes]], now: datetime = NOW) -> None:
        self.answers, self.now = answers, now
        self.asked: list[str] = []

    def fetch_all(
        self,
        requests: Iterable[Request | None],
        *,
        gate: Gate,
        concurrency: int | None = None,
        delay_s: Callable[[str], float] | None = None,
    ) -> Iterator[Fetched]:
        for request in requests:
            assert request is not None
            assert request.kind == "document"
            assert gate(request.url) is None
            self.asked.append(request.url)
            outcome, status, body = self.answers.get(request.url, ("http-404", 404, b""))
            hops = () if status is None else (Hop(request.url, status, (("Content-Type", "text/plain"),)),)
            yield Fetched(request, outcome, status, hops, body, request.url, started_at=self.now)


def test_a_document_an_absence_and_a_silence_are_three_things() -> None:
    """What was answered is kept whole with its digest, an absence with its status, no answer with its error."""
    transport = FakeTransport(
        {
            "https://a.org/robots.txt": ("ok", 200, b"User-agent: *"),
            "https://c.org/robots.txt": ("timeout", None, b""),
            "https://d.org/robots.txt": ("too-large", 200, b"User-agent: *"),
            "https://e.org/robots.txt": ("http-503", 503, b""),
            "https://f.org/robots.txt": ("too-many-redirects", 302, b""),
        }
    )
    hosts = [f"https://{letter}.org" for letter in "abcdef"]
    found = OriginDocuments(transport).for_origins(hosts, NOW)
    documents = [found[host].get("robots") for host in hosts]
    assert [(d.status, d.error, d.body, d.truncated) for d in documents if d is not None] == [
        (200, None, b"User-agent: *", False),
        (404, None, None, False),
        (None, "timeout", None, False),
        (200, None, b"User-agent: *", True),
        (503, None, None, False),
        (None, "too-many-redirects", None, False),
    ]
    assert documents[0] is not None
    assert documents[0].body_sha256 == documents[0].digest(b"User-agent: *")
    assert documents[0].headers == (("Content-Type", "text/plain"),)


def test_an_origin_is_asked_once_a_day() -> None:
    """Within 24 hours the cache answers, after that the origin does."""
    transport = FakeTransport({})
    documents = OriginDocuments(transport, ("robots", "tdmrep"))
    for hours in (0, 1, 23):
        documents.for_origins([ORIGIN, ORIGIN], NOW + timedelta(hours=hours))
    assert transport.asked == [f"{ORIGIN}/robots.txt", f"{ORIGIN}/.well-known/tdmrep.json"]
    documents.for_origins([ORIGIN], NOW + timedelta(hours=24))
    assert len(transport.asked) == 4
    assert len(documents.take_fetched()) == 4
    assert documents.take_fetched() == []


def test_an_origin_that_does_not_answer_is_not_asked_for_the_rest() -> None:
    """After a failed robots.txt the other documents count as unanswered too, and are asked again an hour later."""
    transport = FakeTransport({f"{ORIGIN}/robots.txt": ("connect", None, b"")})
    documents = OriginDocuments(transport, ("ai_txt", "robots", "tdmrep"))
    found = documents.for_origins([ORIGIN], NOW)[ORIGIN]
    assert {name: document.error for name, document in found.documents} == dict.fromkeys(
        ("robots", "ai_txt", "tdmrep"), "connect"
    )
    assert transport.asked == [f"{ORIGIN}/robots.txt"]
    documents.for_origins([ORIGIN], NOW + timedelta(minutes=59))
    assert len(transport.asked) == 1
    transport.answers.clear()
    later = documents.for_origins([ORIGIN], NOW + timedelta(hours=1))[ORIGIN]
    assert {document.status for _, document in later.documents} == {404}


def test_an_older_copy_stands_in_while_the_origin_is_silent() -> None:
    """A known document survives an outage with its own date, for 30 days and not longer."""
    robots = f"{ORIGIN}/robots.txt"
    cache: dict[str, OriginEvidence] = {}
    for days, answer, expected in (
        (0, ("ok", 200, b"rules"), b"rules"),
        (2, ("http-503", 503, b""), b"rules"),
        (29, ("timeout", None, b""), b"rules"),
        (31, ("timeout", None, b""), None),
    ):
        now = NOW + timedelta(days=days)
        found = OriginDocuments(FakeTransport({robots: answer}, now), cache=cache).for_origins([ORIGIN], now)
        document = found[ORIGIN].get("robots")
        assert document is not None
        assert document.body == expected
        assert document.fetched_at == (NOW if expected else now)


def test_a_removed_document_replaces_the_older_copy() -> None:
    """A 404 is an answer: what was there before no longer counts."""
    robots = f"{ORIGIN}/robots.txt"
    documents = OriginDocuments(FakeTransport({robots: ("ok", 200, b"rules")}))
    documents.for_origins([ORIGIN], NOW)
    documents.transport = FakeTransport({}, NOW + timedelta(days=2))
    document = documents.for_origins([ORIGIN], NOW + timedelta(days=2))[ORIGIN].get("robots")
    assert document is not None
    assert (document.status, document.body) == (404, None)


def test_a_document_that_was_never_asked_has_a_date_all_the_same() -> None:
    """Where nothing was contacted the time of asking stands in."""
    document = document_of(Fetched(Request(f"{ORIGIN}/robots.txt", "document"), "bad-url"), NOW)
    assert (document.status, document.error, document.fetched_at) == (None, "bad-url", NOW)


def test_only_known_documents_are_asked_for() -> None:
    """A name that is no origin document is refused, with those that are."""
    with pytest.raises(ConfigurationError, match="robots"):
        OriginDocuments(FakeTransport({}), ("robots", "humans"))
