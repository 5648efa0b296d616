"""Origin documents: asked once, kept a day, absence and silence told apart."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from curation.fetch import Fetched, Gate, Request
from curation.hosts import DeclaredDocuments, FileClaims, OriginDocuments, document_of, renewed, request_for
from policy.errors import ConfigurationError
from policy.evidence import Document, Hop, OriginEvidence

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
        wake: int | None = None,
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


def test_documents_stand_in_one_order_whichever_answered_first() -> None:
    """What is the same is the same evidence: the order of arrival is chance."""
    answers = {name: Document(f"https://a.org/{name}", 404, NOW) for name in ("trust_txt", "robots", "ai_txt")}
    kept = []
    for names in (("trust_txt", "robots", "ai_txt"), ("ai_txt", "trust_txt", "robots")):
        documents = OriginDocuments(FakeTransport({}), ("robots", "ai_txt", "trust_txt"))
        for name in names:
            documents.keep("https://a.org", {name: answers[name]})
        kept.append(documents.cache["https://a.org"])
    assert kept[0] == kept[1]


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


# ── since when ─────────────────────────────────────────────────────────────────────────────────────────────────────


def answer(days: float, status: int | None, body: bytes | None = None) -> Document:
    digest = None if body is None else Document.digest(body)
    error = "timeout" if status is None else None
    return Document(f"{ORIGIN}/x", status, NOW + timedelta(days=days), body=body, body_sha256=digest, error=error)


@pytest.mark.parametrize(
    ("answers", "status", "since"),
    [
        # (days, status, body) one after the other; what is kept at the end, and the day since when
        ([(0, 200, b"a")], 200, None),
        ([(0, 200, b"a"), (2, 200, b"a")], 200, 0),
        ([(0, 200, b"a"), (2, 200, b"a"), (9, 200, b"a")], 200, 0),
        ([(0, 200, b"a"), (2, 200, b"b")], 200, None),
        ([(0, 200, b"a"), (2, 200, b"b"), (3, 200, b"b")], 200, 2),
        ([(0, 404, None), (2, 404, None)], 404, 0),
        ([(0, 404, None), (2, 403, None)], 403, None),
        ([(0, None, None), (2, 503, None), (3, None, None)], None, 0),
        ([(0, None, None), (2, 200, b"a")], 200, None),
        # a silence within 30 days leaves the copy, and its date; beyond them it counts from the copy's date
        ([(0, 200, b"a"), (2, None, None)], 200, None),
        ([(0, 200, b"a"), (31, None, None)], None, 0),
        ([(0, 200, b"a"), (31, None, None), (40, 503, None)], 503, 0),
        # not modified: what is stored stays
        ([(0, 200, b"a"), (2, 304, None)], 200, 0),
        ([(0, 304, None)], 304, None),
    ],
)
def test_since_says_how_long_a_document_has_said_what_it_says(
    answers: list[tuple[float, int | None, bytes | None]], status: int | None, since: float | None
) -> None:
    """Equal answers and silences in a row carry the date of the first; a different answer begins anew."""
    kept: Document | None = None
    for one in answers:
        kept = renewed(kept, answer(*one))
    assert kept is not None
    assert kept.status == status
    assert kept.since == (None if since is None else NOW + timedelta(days=since))
    if status == 200:
        assert kept.body is not None


def test_a_304_keeps_what_is_stored() -> None:
    """Not modified confirms the copy: its body, with the date of the confirmation."""
    robots = f"{ORIGIN}/robots.txt"
    documents = OriginDocuments(FakeTransport({robots: ("ok", 200, b"rules")}))
    documents.for_origins([ORIGIN], NOW)
    later = NOW + timedelta(days=2)
    documents.transport = FakeTransport({robots: ("http-304", 304, b"")}, later)
    document = documents.for_origins([ORIGIN], later)[ORIGIN].get("robots")
    assert document is not None
    assert (document.body, document.fetched_at, document.since) == (b"rules", later, NOW)


def test_an_origin_that_is_silent_over_a_copy_is_asked_again_after_an_hour_and_not_at_once() -> None:
    """The copy counts meanwhile, and the silence is on record with the time since when; an answer ends it."""
    robots = f"{ORIGIN}/robots.txt"
    documents = OriginDocuments(FakeTransport({robots: ("ok", 200, b"rules")}))
    documents.for_origins([ORIGIN], NOW)
    asked = []
    for hours in (25, 25.5, 26, 26.5):
        now = NOW + timedelta(hours=hours)
        documents.transport = FakeTransport({robots: ("timeout", None, b"")}, now)
        document = documents.for_origins([ORIGIN], now)[ORIGIN].get("robots")
        assert document is not None
        assert (document.body, document.fetched_at) == (b"rules", NOW)
        asked.append(len(documents.transport.asked))
    assert asked == [1, 0, 1, 0]
    silence = documents.silences[robots]
    assert (silence.error, silence.fetched_at) == ("timeout", NOW + timedelta(hours=26))
    assert silence.since == NOW + timedelta(hours=25)
    documents.transport = FakeTransport({robots: ("ok", 200, b"new")}, NOW + timedelta(hours=28))
    documents.for_origins([ORIGIN], NOW + timedelta(hours=28))
    assert documents.silences == {}


# ── conditions ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ValidatingTransport(FakeTransport):
    """Has one document with an entity tag, and answers 304 to who knows it."""

    def __init__(self, url: str, *, by_redirect: bool = False) -> None:
        super().__init__({})
        self.url, self.by_redirect = url, by_redirect
        self.conditions: list[tuple[tuple[str, str], ...]] = []

    def fetch_all(
        self,
        requests: Iterable[Request | None],
        *,
        gate: Gate,
        concurrency: int | None = None,
        delay_s: Callable[[str], float] | None = None,
        wake: int | None = None,
    ) -> Iterator[Fetched]:
        for request in requests:
            assert request is not None
            assert not request.gated
            self.conditions.append(request.headers)
            hops = (Hop(request.url, 302, (("Location", "/x"),)),) if self.by_redirect else ()
            if request.headers:
                hops += (Hop(request.url, 304, ()),)
                yield Fetched(request, "not-modified", 304, hops, started_at=self.now)
            else:
                hops += (Hop(request.url, 200, (("ETag", '"1"'),)),)
                yield Fetched(request, "ok", 200, hops, b"rules", started_at=self.now)


def test_a_document_that_is_known_is_asked_for_only_if_it_changed() -> None:
    """The copy's validators go with the next request, and a 304 confirms it: own documents and declared ones."""
    url = f"{ORIGIN}/robots.txt"
    transport = ValidatingTransport(url)
    own, declared = OriginDocuments(transport), DeclaredDocuments(transport)
    for days in (0, 2):
        transport.now = NOW + timedelta(days=days)
        found = [own.for_origins([ORIGIN], transport.now)[ORIGIN].get("robots")]
        found.append(declared.for_urls([f"{ORIGIN}/a.xml"], transport.now)[f"{ORIGIN}/a.xml"])
        assert [d.body for d in found if d is not None] == [b"rules", b"rules"]
        assert [d.fetched_at for d in found if d is not None] == [transport.now] * 2
    assert transport.conditions == [(), (), (("If-None-Match", '"1"'),), (("If-None-Match", '"1"'),)]


def test_a_document_that_came_by_a_redirect_is_asked_for_whole() -> None:
    """Its validators are about another address than the one that would be asked."""
    transport = ValidatingTransport(f"{ORIGIN}/robots.txt", by_redirect=True)
    documents = OriginDocuments(transport)
    for days in (0, 2):
        documents.for_origins([ORIGIN], NOW + timedelta(days=days))
    assert transport.conditions == [(), ()]


@pytest.mark.parametrize(
    "known",
    [
        Document("{url}", 404, NOW, (("ETag", '"1"'),)),
        Document("{url}", 200, NOW, (("ETag", '"1"'),)),
        Document("{url}", 200, NOW, (("ETag", '"1"'),), b"cut", Document.digest(b"cut"), truncated=True),
        Document("elsewhere", 200, NOW, (("ETag", '"1"'),), b"x", Document.digest(b"x")),
    ],
)
def test_only_a_whole_copy_of_this_very_address_can_be_confirmed(known: Document) -> None:
    """Of an absence, a body that is not here, one that was cut and one of another address all is asked anew."""
    url = f"{ORIGIN}/robots.txt"
    assert request_for(url, replace(known, url=known.url.format(url=url))) == Request(url, "document", gated=False)


# ── trust.txt ──────────────────────────────────────────────────────────────────────────────────────────────────────

WELL_KNOWN, ROOT = f"{ORIGIN}/.well-known/trust.txt", f"{ORIGIN}/trust.txt"
NO = b"datatrainingallowed=no"


@pytest.mark.parametrize(
    ("answers", "url", "status", "asked"),
    [
        ({WELL_KNOWN: ("ok", 200, NO)}, WELL_KNOWN, 200, 1),
        ({ROOT: ("ok", 200, NO)}, ROOT, 200, 2),
        ({WELL_KNOWN: ("http-410", 410, b""), ROOT: ("ok", 200, NO)}, ROOT, 200, 2),
        ({WELL_KNOWN: ("ok", 200, b"<!DOCTYPE html><p>Oops"), ROOT: ("ok", 200, NO)}, ROOT, 200, 2),
        ({}, WELL_KNOWN, 404, 2),
        ({ROOT: ("ok", 200, b"<html>")}, WELL_KNOWN, 404, 2),
        ({ROOT: ("http-403", 403, b"")}, ROOT, 403, 2),
        ({ROOT: ("http-503", 503, b"")}, ROOT, 503, 2),
        ({WELL_KNOWN: ("http-403", 403, b"")}, WELL_KNOWN, 403, 1),
        ({WELL_KNOWN: ("timeout", None, b"")}, WELL_KNOWN, None, 1),
    ],
)
def test_trust_txt_is_looked_for_in_both_places(
    answers: dict[str, tuple[str, int | None, bytes]], url: str, status: int | None, asked: int
) -> None:
    """Where /.well-known/trust.txt is absent /trust.txt is asked for, and the one that says something is kept."""
    transport = FakeTransport(answers)
    documents = OriginDocuments(transport, ("trust_txt",))
    document = documents.for_origins([ORIGIN], NOW)[ORIGIN].get("trust_txt")
    assert document is not None
    assert (document.url, document.status) == (url, status)
    assert len(transport.asked) == asked
    documents.for_origins([ORIGIN], NOW + timedelta(minutes=1))
    assert len(transport.asked) == asked


def test_a_trust_txt_at_the_root_carries_its_since_from_day_to_day() -> None:
    """The absence at the first place does not come between two equal answers of the second."""
    documents = OriginDocuments(FakeTransport({ROOT: ("ok", 200, NO)}), ("trust_txt",))
    documents.for_origins([ORIGIN], NOW)
    later = NOW + timedelta(days=2)
    documents.transport = FakeTransport({ROOT: ("ok", 200, NO)}, later)
    document = documents.for_origins([ORIGIN], later)[ORIGIN].get("trust_txt")
    assert document is not None
    assert (document.body, document.since) == (NO, NOW)


# ── declared documents ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_declared_document_is_asked_for_once_however_many_declare_it() -> None:
    """One request an address and day; absence, text and silence are kept as for an origin's own documents."""
    urls = [f"{ORIGIN}/a.xml", "https://other.org/b.xml", f"{ORIGIN}/c.xml"]
    transport = FakeTransport({urls[0]: ("ok", 200, b"<rsl/>"), urls[2]: ("http-503", 503, b"")})
    documents = DeclaredDocuments(transport)
    for hours in (0, 0.5):
        found = documents.for_urls([*urls, *urls], NOW + timedelta(hours=hours))
        assert [found[url].status for url in urls] == [200, 404, 503]
    assert transport.asked == urls
    documents.for_urls(urls, NOW + timedelta(hours=1))
    assert transport.asked == [*urls, urls[2]]
    documents.for_urls(urls, NOW + timedelta(hours=24))
    assert len(transport.asked) == 7
    assert len(documents.take_fetched()) == 7


def test_a_declared_document_outlives_a_silence() -> None:
    """The older copy counts while its address does not answer, up to 30 days."""
    url = f"{ORIGIN}/a.xml"
    documents = DeclaredDocuments(FakeTransport({url: ("ok", 200, b"<rsl/>")}))
    documents.for_urls([url], NOW)
    for days, status in ((2, 200), (31, None)):
        now = NOW + timedelta(days=days)
        documents.transport = FakeTransport({url: ("dns", None, b"")}, now)
        assert documents.for_urls([url], now)[url].status == status
    assert documents.cache[url].since == NOW


# ── claims ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ours", [True, False])
def test_a_name_is_claimed_once_and_others_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """Who holds a name keeps out everybody, itself included, from that name alone, until it gives it back."""
    if not ours:
        monkeypatch.delattr("fcntl.F_OFD_SETLK")
    mine, yours = FileClaims(tmp_path / "new" / "place"), FileClaims(tmp_path / "new" / "place")
    release = mine.take(ORIGIN, wait_s=0)
    assert release is not None
    assert (mine.take(ORIGIN, wait_s=0), yours.take(ORIGIN, wait_s=0.1)) == (None, None)
    other = yours.take(f"{ORIGIN}:8080", wait_s=0)
    assert other is not None
    release()
    release()  # a second time changes nothing
    again = yours.take(ORIGIN, wait_s=0)
    assert again is not None
    assert mine.take(ORIGIN, wait_s=0) is None
    again()
    other()


def test_a_claim_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    """kill -9 gives back what a process had claimed."""
    code = (
        "import sys, time; from pathlib import Path; from curation.hosts import FileClaims; "
        "held = FileClaims(Path(sys.argv[1])).take(sys.argv[2], wait_s=0); "
        "print(bool(held), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), ORIGIN], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "True\n"
        assert FileClaims(tmp_path).take(ORIGIN, wait_s=0) is None
        it.kill()
        it.wait()
    assert FileClaims(tmp_path).take(ORIGIN, wait_s=0) is not None


def test_a_worker_that_dies_while_asking_leaves_its_claim_to_the_next(tmp_path: Path) -> None:
    """A claim ends with its holder; whoever waited asks then."""
    claims = FileClaims(tmp_path)
    release = claims.take(ORIGIN, wait_s=0)
    assert release is not None
    assert FileClaims(tmp_path).take(ORIGIN, wait_s=0) is None
    threading.Timer(0.2, release).start()
    transport = FakeTransport({})
    found = OriginDocuments(transport, claims=claims).for_origins([ORIGIN], NOW)
    assert found[ORIGIN].documents[0][1].status == 404
    assert transport.asked == [f"{ORIGIN}/robots.txt"]
