"""Archives say what the live fetcher would have said, and damage costs what is damaged."""

from __future__ import annotations

import gzip
import io
import socketserver
import threading
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastwarc.stream_io import BrotliWriter
from fastwarc.warc import ArchiveIterator
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import FetchConfig, Fetched, Fetcher, Request
from curation.pages import read_page
from curation.warc import START, ArchivedPage, Damage, Place, read_warc
from policy.errors import InputError
from tests.curation.archives import as_zstd, compressed, http, page, record, response, sha1

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "warc"
LIMIT = 1_000_000


def read(archive: bytes, start: Place = START) -> tuple[list[ArchivedPage], list[Damage], Counter[str]]:
    counts: Counter[str] = Counter()
    found = list(read_warc(io.BytesIO(archive), max_page_bytes=LIMIT, start_offset=start, counts=counts))
    pages = [one for one in found if isinstance(one, ArchivedPage)]
    return pages, [one for one in found if isinstance(one, Damage)], counts


def only(archive: bytes) -> Fetched:
    ((found,), damage, _) = read(archive)
    assert damage == []
    return found.fetched


def addresses(archive: bytes, start: Place = START) -> list[str]:
    return [found.fetched.url.rpartition("/")[2] for found in read(archive, start)[0]]


# ── what a response becomes ────────────────────────────────────────────────────────────────────────────────────────

EXCHANGES = {
    "/plain": http(b"<meta name=robots content=noai><img src=a.png alt='a pear'>", "Content-Type: text/html\nX-A: 1"),
    "/latin": http("<img src=i alt='Äpfel'>".encode("latin-1"), "content-type:  text/html; charset=ISO-8859-1 "),
    "/twice": http(b"<img src=i alt=x>", "X-Robots-Tag: noai\nX-Robots-Tag: a,\n b\nContent-Type: text/html"),
    "/gone": http(b"<img src=i>", status="404 Not Found"),
    "/picture": http(b"\x89PNG", "Content-Type: image/png"),
    "/no-type": http(b"<img src=i alt=x>", "Server: x"),
    "/203": http(b"<img src=i alt=x>", status="203 Non-Authoritative Information"),
    "/gzip": http(gzip.compress(b"<img src=i alt=x>"), "Content-Type: text/html\nContent-Encoding: gzip"),
    "/deflate": http(zlib.compress(b"<img src=i alt=x>"), "Content-Type: text/html\nContent-Encoding: deflate"),
    "/raw": http(zlib.compress(b"<img src=i>" * 9)[2:-4], "Content-Type: text/html\nContent-Encoding: deflate"),
    "/short": http(b"<img src=i>", "Content-Type: text/html\nContent-Length: 20"),
    "/chunked": http(
        b"5;a=b\r\n<img \r\n6\r\nsrc=i>\r\n0\r\n\r\n", "Content-Type: text/html\nTransfer-Encoding: chunked"
    ),
    "/cut-chunks": http(b"5\r\n<img \r\n", "Content-Type: text/html\nTransfer-Encoding: chunked"),
    "/unknown": http(b"<b>", "Content-Type: text/html\nContent-Encoding: rot13"),
    "/large": http(b"<b>" + b"x" * LIMIT),
    "/bomb": http(gzip.compress(b"x" * (LIMIT + 1)), "Content-Type: text/html\nContent-Encoding: gzip"),
    "/exact": http(b"x" * LIMIT),
    "/lf": b"HTTP/1.0 200 OK\nContent-Type: text/html\n\n<img src=i alt=x>",
}


@contextmanager
def served(exchanges: dict[str, bytes]) -> Iterator[int]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            self.wfile.write(exchanges[path])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_an_archive_tells_what_the_fetcher_told() -> None:
    """The same exchange, fetched and archived: outcome, status, headers, body and everything on the page are equal."""
    with served(EXCHANGES) as port:
        endpoint = f"127.0.0.1:{port}"
        fetcher = Fetcher(FetchConfig(allow_addresses=(endpoint,), max_page_bytes=LIMIT, origin_failures_max=99))
        live = {path: fetcher.fetch(Request(f"http://{endpoint}{path}", "page")) for path in EXCHANGES}
        fetcher.close()
    for path, exchange in EXCHANGES.items():
        url = f"http://{endpoint}{path}"
        archived = only(record("response", url, exchange, WARC_IP_Address="127.0.0.1"))
        here, there = archived, live[path]
        assert (path, here.outcome, here.status, here.hops) == (path, there.outcome, there.status, there.hops)
        assert (here.final_url, here.address) == (there.final_url, there.address)
        assert here.started_at == datetime(2026, 11, 2, 3, 4, 5, tzinfo=UTC)
        if there.ok and path != "/picture":
            assert here.body == there.body
            kind = there.header("content-type")
            assert read_page(here.body, url, kind) == read_page(there.body, url, kind)
    assert {path for path, told in live.items() if told.ok} == {
        *("/plain", "/latin", "/twice", "/picture", "/no-type", "/203", "/gzip", "/deflate", "/raw", "/chunked"),
        *("/exact", "/lf"),
    }


def _brotli(data: bytes) -> bytes:
    out = io.BytesIO()
    writer = BrotliWriter(out)
    writer.write(data)
    writer.close()
    return out.getvalue()


@pytest.mark.parametrize(
    ("head", "body", "outcome"),
    [
        ("Content-Encoding: br", _brotli(b"<p>"), "ok"),
        ("Content-Encoding: zstd", as_zstd(b"<p>"), "ok"),
        ("Content-Encoding: gzip\nTransfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n", "ok"),
        ("Content-Encoding: gzip, br", _brotli(gzip.compress(b"<p>", mtime=0)), "ok"),
        # stored decoded, the header left as it was
        ("Content-Encoding: gzip\nContent-Length: 900", b"<p>", "ok"),
        ("Content-Encoding: br", b"<p>", "ok"),
        ("Transfer-Encoding: chunked", b"<p>", "ok"),
        ("Content-Encoding: gzip", b"no markup", "bad-encoding"),
        ("Content-Encoding: gzip", gzip.compress(b"<p>" * 99, mtime=0)[:-9], "truncated"),
        ("Content-Encoding: " + "gzip, " * 9, b"<p>", "bad-encoding"),
        ("Content-Encoding: br", _brotli(b"x" * (LIMIT + 1)), "too-large"),
        ("Content-Encoding: zstd", as_zstd(b"x" * (LIMIT + 1)), "too-large"),
    ],
)
def test_encodings_are_undone_within_the_limit(head: str, body: bytes, outcome: str) -> None:
    """What an archive stored encoded is decoded; what it stored decoded stays; nothing grows over the limit."""
    if b"%s" in body:
        body = body % (len(gzip.compress(b"<p>")), gzip.compress(b"<p>"))
    fetched = only(response("https://e.org/", body, f"Content-Type: text/html\n{head}"))
    assert (fetched.outcome, fetched.body) == (outcome, b"<p>" if outcome == "ok" else b"")


@pytest.mark.parametrize(
    ("archived", "outcome"),
    [
        (record("response", "https://e.org/", http(b"<p>"), WARC_Truncated="length"), "truncated"),
        (record("response", "https://e.org/", http(b"<p>"), WARC_Segment_Number="1"), "truncated"),
        (record("response", "https://e.org/", b"no http\r\n\r\n"), "bad-response"),
        (record("response", "https://e.org/", http(b"", "A: " + "x" * 70_000)), "too-large"),
        (record("response", "https://e.org/", b"HTTP/1.1 200 OK\r\nA: b"), "truncated"),
        (response("https://e.org/", b"", "Location: /x", "301 Moved"), "http-301"),
    ],
)
def test_what_an_archive_kept_in_part_is_no_page(archived: bytes, outcome: str) -> None:
    """A response that the archive cut, or that is none, has an outcome and no body."""
    fetched = only(archived)
    assert (fetched.outcome, fetched.body) == (outcome, b"")


def test_a_picture_is_reported_without_its_bytes() -> None:
    """An answer that is no HTML keeps outcome and headers; pictures are asked live."""
    pages, _, counts = read(response("https://e.org/i", b"\x89PNG", "Content-Type: image/png") + page(1))
    assert [(p.fetched.outcome, p.fetched.body[:4]) for p in pages] == [("ok", b""), ("ok", b"<img")]
    assert counts["not-html"] == 1


def test_a_resource_has_no_headers_that_could_have_said_no() -> None:
    """A payload that was kept without its response comes without a hop: its headers were not observed."""
    fetched = only(record("resource", "https://e.org/", b"<p>", Content_Type="text/html"))
    assert (fetched.outcome, fetched.body, fetched.hops, fetched.status) == ("ok", b"<p>", (), None)
    assert only(record("resource", "https://e.org/", b"GIF8", Content_Type="image/gif")).body == b""


def test_everything_else_is_counted() -> None:
    """Requests, revisits and other kinds are passed over, and addresses that are none or secrets are left out."""
    pages, damage, counts = read(
        record("warcinfo", "", b"software: x")
        + record("request", "https://e.org/1", b"GET / HTTP/1.1\r\n\r\n")
        + page(1)
        + record("revisit", "https://e.org/2", http(b""))
        + record("metadata", "https://e.org/2", b"x: y")
        + record("conversion", "https://e.org/2", b"text")
        + record("made-up", "https://e.org/2", b"text")
        + response("https://u:p@e.org/", b"<p>")
        + response("https://e.org/?X-Amz-Signature=1", b"<p>")
        + response("http://", b"<p>")
        + response("dns:e.org", b"<p>")
        + response("<https://e.org/3>", b"<p>")
    )
    assert [found.fetched.url for found in pages] == ["https://e.org/1", "https://e.org/3"]
    assert damage == []
    assert counts == {
        **{"warcinfo": 1, "request": 1, "response": 6, "revisit": 1, "metadata": 1, "conversion": 1, "unknown": 1},
        **{"userinfo": 1, "signed-url": 1, "bad-url": 1, "not-http": 1},
    }


@pytest.mark.parametrize(
    ("date", "microsecond"),
    [("2026-11-02T03:04:05Z", 0), ("2026-11-02T03:04:05.5Z", 500_000), ("2026-11-02T03:04:05.123456789Z", 123_456)],
)
def test_dates_are_moments_in_utc(date: str, microsecond: int) -> None:
    """WARC-Date says when the exchange was, with a fraction or without."""
    fetched = only(record("response", "https://e.org/", http(b""), WARC_Date=date))
    assert fetched.started_at == datetime(2026, 11, 2, 3, 4, 5, microsecond, tzinfo=UTC)


@pytest.mark.parametrize("date", ["", "2026-11", "yesterday", "2026-13-02T03:04:05Z", "2026-11-02T03:04:05"])
def test_a_page_of_no_known_time_is_damage(date: str) -> None:
    """Evidence has an age; a record that does not say when it was made is none."""
    pages, (damage,), counts = read(record("response", "https://e.org/", http(b""), WARC_Date=date) + page(2))
    assert (damage.what, len(pages), counts["damaged"]) == ("bad-header", 1, 1)


# ── places ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["plain", "members", "one member", "mixed", "zstd"])
def test_reading_goes_on_where_it_was_left(form: str) -> None:
    """From the end of any page the rest is read, whatever way the archive is compressed."""
    records = [page(number) for number in range(6)]
    archive = {
        "plain": b"".join(records),
        "members": compressed(*records),
        "one member": compressed(b"".join(records)),
        "mixed": compressed(records[0], b"".join(records[1:4]), *records[4:]),
        "zstd": as_zstd(b"".join(records)),
    }[form]
    pages, damage, _ = read(archive)
    assert damage == []
    assert [found.fetched.url[-1] for found in pages] == list("012345")
    for number, found in enumerate(pages):
        assert addresses(archive, found.end_offset) == list("012345")[number + 1 :]
        assert addresses(archive, found.offset) == list("012345")[number:]


def test_places_are_bytes_of_the_file_where_records_are_compressed_one_by_one() -> None:
    """In the usual archive a place is an offset, as an index of the archive has it."""
    first = compressed(page(0))
    pages, _, _ = read(first + compressed(page(1)))
    assert [found.offset for found in pages] == [Place(0, 0), Place(len(first), 0)]
    assert pages[0].end_offset == Place(len(first))


# ── damage ─────────────────────────────────────────────────────────────────────────────────────────────────────────

LYING = record("response", "https://e.org/x", http(b"<p>lying"), length=40)
BOASTING = record("response", "https://e.org/x", http(b"<p>boasting"), length=10**12)
HEADLESS = page(7).replace(b"WARC/1.0", b"WRAC/1.0")
NO_LENGTH = page(7).replace(b"Content-Length: ", b"Content-Length: x")
TWICE = page(7).replace(b"WARC-Type: response", b"WARC-Type: response\r\nWARC-Target-URI: https://other.example/")
NO_COLON = page(7).replace(b"WARC-Type", b"rubbish\r\nWARC-Type")
LONG_HEADER = page(7).replace(b"WARC-Type", b"X: " + b"x" * 100_000 + b"\r\nWARC-Type")
BAD_DIGEST = record("response", "https://e.org/x", http(b"<p>"), WARC_Block_Digest="sha1:" + "A" * 32)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (LYING, "bad-length"),
        (BOASTING, "bad-length"),
        (HEADLESS, "bad-header"),
        (NO_LENGTH, "bad-header"),
        (TWICE, "bad-header"),
        (NO_COLON, "bad-header"),
        (LONG_HEADER, "too-large"),
        (page(7).replace(b"Content-Length: ", b"Content-Length: " + b"9" * 30), "bad-length"),
    ],
)
@pytest.mark.parametrize("form", ["plain", "members", "one member", "zstd"])
def test_a_bad_record_costs_itself_alone(bad: bytes, what: str, form: str) -> None:
    """Lying lengths and broken headers are named, and the records around them are read."""
    records = [page(0), page(1), bad, page(2), page(3)]
    joined = b"".join(records)
    archive = {
        "plain": joined,
        "members": compressed(*records),
        "one member": compressed(joined),
        "zstd": as_zstd(joined),
    }[form]
    pages, damage, counts = read(archive)
    assert [found.fetched.url[-1] for found in pages] == ["0", "1", "2", "3"]
    if form == "plain" and bad == BOASTING:
        what = "cut"  # nothing tells a length that lies from a file that was cut
    assert [found.what for found in damage] == [what]
    assert counts["damaged"] == 1


def test_a_block_that_changed_is_told_by_its_digest() -> None:
    """Where no checksum of the compression guards a block, its own digest does."""
    good = record("response", "https://e.org/8", http(b"<p>"), WARC_Block_Digest="sha1:" + sha1(http(b"<p>")))
    for archive in (page(0) + BAD_DIGEST + good, as_zstd(page(0) + BAD_DIGEST + good)):
        pages, (damage,), _ = read(archive)
        assert ([found.fetched.url[-1] for found in pages], damage.what) == (["0", "8"], "bad-digest")


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_broken_member_costs_itself_alone(at: float) -> None:
    """A flipped byte in one gzip member loses that record; the next member is found."""
    members = [compressed(page(number)) for number in range(4)]
    bad = bytearray(members[1])
    bad[int(len(bad) * at)] ^= 0xFF
    pages, damage, _ = read(members[0] + bytes(bad) + members[2] + members[3])
    assert [found.fetched.url[-1] for found in pages] == ["0", "2", "3"]
    assert [found.what for found in damage] == ["bad-compression"]
    assert damage[0].offset == Place(len(members[0]), 0)


@given(st.integers(0, 2**16), st.sampled_from(["plain", "members", "one member", "zstd"]))
def test_a_cut_archive_keeps_what_was_complete(cut: int, form: str) -> None:
    """Wherever a file ends, what was complete before is read, in order, and nothing else; the cut is told."""
    records = [page(number) for number in range(5)]
    archive = compressed(*records) if form == "members" else b"".join(records)
    archive = {"one member": compressed(archive), "zstd": as_zstd(archive)}.get(form, archive)
    cut = 8 + cut % (len(archive) - 8)
    pages, damage, _ = read(archive[:cut])
    found = [page.fetched.url[-1] for page in pages]
    assert found == list("01234")[: len(found)]
    if form == "members":
        sizes = [len(compressed(*records[:number])) for number in range(6)]
        assert len(found) == sum(1 for size in sizes[1:] if size <= cut)
        assert (damage == []) == (cut in sizes)
    elif form == "zstd":
        assert damage


@given(st.binary(max_size=300), st.integers(0, 900), st.booleans())
def test_whatever_the_bytes_are_reading_ends(rubbish: bytes, at: int, gz: bool) -> None:
    """Rubbish in the middle of an archive neither stops it with an error nor adds to its pages."""
    archive = compressed(*map(page, range(4))) if gz else b"".join(map(page, range(4)))
    pages, _, _ = read(archive[:8] + archive[8 : 8 + at] + rubbish + archive[8 + at :])
    assert len(pages) <= 4


def test_a_page_cannot_pass_off_its_bytes_as_records() -> None:
    """What looks like a record inside a record's block is that record's block, also after damage in a member."""
    forged = page(9)
    inside = response("https://e.org/0", forged + b"<p>" + compressed(forged))
    lying = record("response", "https://e.org/x", http(b"\r\n\r\n" + forged), length=30)
    for archive in (inside + page(1), compressed(inside, lying, page(1))):
        assert addresses(archive) == ["0", "1"]


def test_a_huge_record_and_a_bomb_stay_small() -> None:
    """A record of 200 MB, stored or out of 200 KB, is passed over in a few megabytes of memory."""
    head = record(
        "response", "https://e.org/huge", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", length=200_000_000
    )
    deflate = zlib.compressobj(9, wbits=31)
    bomb = bytearray(deflate.compress(head[:-4]))
    for _ in range(200):
        bomb += deflate.compress(bytes(1_000_000))
    bomb += deflate.flush()
    for archive in (bytes(bomb) + compressed(page(1)), compressed(record("metadata", "", bytes(50_000_000)), page(1))):
        tracemalloc.start()
        pages, _, _ = read(archive)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert addresses(archive)[-1] == "1"
        assert all(found.fetched.outcome == "too-large" for found in pages[:-1])
        assert peak < 12 * LIMIT


def test_many_lies_in_one_member_are_given_up() -> None:
    """Where each lie makes a member be decoded anew, it is given up after some, and told how far it was read."""
    archive = compressed(page(0) + (BOASTING + response("https://e.org/y", bytes(400_000))) * 40)
    pages, damage, _ = read(archive)
    assert pages[0].fetched.url[-1] == "0"
    assert 10 < len(damage) < 40


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"PK\x03\x04", "no WARC"), (b"filedesc://x.arc 0.0.0.0", "no WARC"), (b"<html>", "no WARC")],
)
def test_a_file_that_is_no_archive_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """What is no WARC file is named, with what is expected."""
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        list(read_warc(str(path), max_page_bytes=LIMIT))
    assert caught.value.where == str(path)
    with pytest.raises(InputError, match="there is no such file"):
        list(read_warc(str(tmp_path / "none"), max_page_bytes=LIMIT))


def test_a_location_may_be_a_url(tmp_path: Path) -> None:
    """Archives are opened where curation.storage finds them, and what lies on the web is not."""
    (tmp_path / "a.warc.gz").write_bytes(compressed(page(1)))
    found = list(read_warc((tmp_path / "a.warc.gz").as_uri(), max_page_bytes=LIMIT))
    assert [one.fetched.url for one in found if isinstance(one, ArchivedPage)] == ["https://e.org/1"]
    with pytest.raises(InputError, match="not opened"):
        list(read_warc("https://e.org/a.warc.gz", max_page_bytes=LIMIT))


@pytest.mark.parametrize("name", ["commoncrawl-16.warc.gz", "one-page.warc.gz"])
@pytest.mark.parametrize("form", ["as it is", "plain", "one member"])
def test_common_crawl_is_read_as_fastwarc_reads_it(name: str, form: str) -> None:
    """On real records our cutting agrees with FastWARC's: the same responses, places, bodies."""
    if not FIXTURES.is_dir():
        pytest.skip("the shared fixtures are not beside this checkout")
    archive = (FIXTURES / name).read_bytes()
    if form != "as it is":
        archive = gzip.decompress(archive)
        archive = archive if form == "plain" else gzip.compress(archive)
    theirs = [
        (one.headers["WARC-Target-URI"], one.stream_pos if form != "one member" else 0, one.reader.read())
        for one in ArchiveIterator(io.BytesIO(archive), parse_http=True)
        if one.http_headers is not None and one.headers["WARC-Type"] == "response"
    ]
    pages, damage, _ = read(archive)
    assert damage == []
    assert [(p.fetched.url, p.offset.offset, p.fetched.body) for p in pages] == theirs
    assert all(p.fetched.ok and read_page(p.fetched.body, p.fetched.url).links for p in pages)
