"""The museum: real pictures, right names, and every kind of bad neighbour."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

pytest.importorskip("emoji", reason="the museum needs the extra `demo`")

from flows import museum as museum_module
from flows.museum import ORIGINS, Museum, alt_text, cldr_names, pictures
from policy.errors import InputError

_IMG = re.compile(r'<img src="([^"]+)"(?: alt="([^"]*)")?>')
_LINK = re.compile(r'<a href="([^"]+)"')


@pytest.fixture(scope="module")
def museum() -> Iterator[Museum]:
    with Museum(port_base=0) as opened:
        yield opened


class _Still(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Still)
    try:
        with opener.open(url, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def _text(url: str) -> str:
    return _get(url)[2].decode()


def _walk(museum: Museum, origin: str) -> dict[str, str]:
    """Every page that can be reached from an origin's entrance: url -> html."""
    found: dict[str, str] = {}
    waiting = [museum.url(origin)]
    while waiting:
        url = waiting.pop()
        if url not in found:
            found[url] = _text(url)
            waiting += [museum.url(origin, path) for path in _LINK.findall(found[url])]
    return found


def test_more_than_fifteen_hundred_pictures_hang_in_the_galleries(museum: Museum) -> None:
    """The galleries show at least 1,500 named pictures, each reachable from the entrance and each a real PNG."""
    shown = [src for o in ("gallery", "garden") for page in _walk(museum, o).values() for src, _ in _IMG.findall(page)]
    assert len(set(shown)) >= 1500
    assert all(url in museum.truth for url in shown)
    assert _get(shown[0])[2].startswith(b"\x89PNG")


def test_a_fifth_has_no_usable_alt_text() -> None:
    """About a fifth of the pictures have no alt text, or one that says nothing; the choice is the same every time."""
    useless = [p for p in pictures() if alt_text(p) != p.name]
    assert 0.15 < len(useless) / len(pictures()) < 0.25
    assert {alt_text(p) for p in useless} >= {None, "", "image", "logo"}
    assert [p.code for p in useless] == [p.code for p in pictures() if alt_text(p) != p.name]


def test_pages_do_not_betray_the_names_they_leave_out(museum: Museum) -> None:
    """The name of a picture without alt text appears neither in its URL nor elsewhere on the page."""
    names = {url: name for url, name in museum.truth.items() if urlsplit(url).port == _port(museum, "media")}
    page = _text(museum.url("gallery", "/food/1.html"))
    hidden = [names[src] for src, alt in _IMG.findall(page) if alt != names[src]]
    assert hidden
    assert not [name for name in hidden if re.search(rf"\b{re.escape(name)}\b", page)]


def test_gallery_pages_state_their_licence_and_credit(museum: Museum) -> None:
    """A gallery page holds about forty pictures, CC BY 4.0 as rel=license, the credit line and its neighbours."""
    page = _text(museum.url("gallery", "/food/2.html"))
    assert len(_IMG.findall(page)) == museum_module.PICTURES_PER_PAGE
    assert 'rel="license" href="https://creativecommons.org/licenses/by/4.0/"' in page
    assert museum_module.TWEMOJI_CREDIT in page
    assert 'rel="prev" href="/food/1.html"' in page
    assert 'rel="next" href="/food/3.html"' in page


def test_the_grids_pictures_hang_on_themed_pages_with_their_names(museum: Museum) -> None:
    """What the demo's prompts name can be selected by a page's path, and is shown with its name."""
    by_name = {p.name: p for p in pictures()}
    for name, theme in {"red apple": "food", "banana": "food", "watermelon": "food", "smiling face": "faces"}.items():
        assert (by_name[name].theme, alt_text(by_name[name])) == (theme, name)
    assert {"shapes", "animals"} <= {p.theme for p in pictures()}


def test_photographs_state_their_licence_each_in_one_way(museum: Museum) -> None:
    """Every photograph's page carries CC0 or the public domain mark, as JSON-LD or as rel=license."""
    pages = [_text(museum.url("photos", f"/{n}.html")) for n in range(1, 11)]
    json_ld = [m for page in pages for m in re.findall(r'<script type="application/ld\+json">(.*?)</script>', page)]
    rel = [page for page in pages if 'rel="license"' in page]
    assert len(json_ld) == len(rel) == 5
    assert all(
        json.loads(claim)["license"].startswith("https://creativecommons.org/publicdomain/") for claim in json_ld
    )


def test_every_reservation_stands_where_its_mechanism_looks(museum: Museum) -> None:
    """The reserved origin says no in robots.txt, a header, a meta element, tdmrep.json and Content-Usage."""
    robots = _text(museum.url("reserved", "/robots.txt"))
    assert "Disallow: /private/" in robots
    assert "Content-Usage: /no-training/ train-ai=n" in robots
    tdmrep = json.loads(_text(museum.url("reserved", "/.well-known/tdmrep.json")))
    assert tdmrep == [{"location": "/mined-not/*", "tdm-reservation": 1}]
    assert '<meta name="robots" content="noimageai">' in _text(museum.url("reserved", "/meta.html"))
    for room in ("private", "quiet", "meta", "mined-not", "no-training"):
        page = _text(museum.url("reserved", f"/{room}.html"))
        sources = [src for src, _ in _IMG.findall(page)]
        assert len(sources) == 5
        assert ("noai" in (_get(sources[0])[1]["X-Robots-Tag"] or "")) == (room == "quiet")


def test_no_picture_hangs_on_two_walls(museum: Museum) -> None:
    """Reserved, unlicensed and rude origins show other pictures than the galleries; only `again` repeats some."""
    names = Counter(museum.truth.values())
    repeated = {name for name, count in names.items() if count > 1}
    pages = [_text(museum.url("garden", f"/again/{page}")) for page in ("1.html", "food/1.html")]
    again = {museum.truth[src] for page in pages for src, _ in _IMG.findall(page)}
    assert repeated == again
    assert len(again) >= 20


def test_the_bare_origin_says_nothing_of_licences(museum: Museum) -> None:
    """Pictures without any licence claim."""
    page = _text(museum.url("bare"))
    assert len(_IMG.findall(page)) == 24
    assert "icense" not in page


def test_the_rude_origin_misbehaves_as_announced(museum: Museum) -> None:
    """Gone, redirected to where nobody should go, in circles, mislabelled, bombs: each is what it says."""
    rude = {path: _get(museum.url("rude", path)) for path in ("/missing.png", "/to-private.png", "/circle-a.png")}
    assert rude["/missing.png"][0] == 404
    assert rude["/to-private.png"][1]["Location"] == "http://10.0.0.1/picture.png"
    assert _get(museum.url("rude", "/to-metadata.png"))[1]["Location"].startswith("http://169.254.169.254/")
    assert rude["/circle-a.png"][1]["Location"] == "/circle-b.png"
    assert _get(museum.url("rude", "/circle-b.png"))[1]["Location"] == "/circle-a.png"
    status, headers, bomb = _get(museum.url("rude", "/bomb.png"))
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert len(bomb) < 300_000
    assert len(_get(museum.url("rude", "/long.html"))[2]) > 5_000_000
    assert int(_get(museum.url("rude", "/huge.png"))[1]["Content-Length"]) == 60 * 2**20
    assert not _get(museum.url("rude", "/cut.jpg"))[2].endswith(b"\xff\xd9")


def test_requests_are_counted_by_url(museum: Museum) -> None:
    """What was asked can be proven, and so can what was not."""
    url = museum.url("bare", "/counted")
    before = museum.requests[url]
    _get(url)
    assert museum.requests[url] == before + 1
    assert museum.requests[museum.url("reserved", "/private/1.html")] == 0


def test_truth_knows_equal_drawings(museum: Museum) -> None:
    """A caption is right if it names the picture, or another that is drawn with the very same bytes."""
    url, name = next(iter(museum.truth.items()))
    assert museum.is_right(url, name)
    assert not museum.is_right(url, "something else entirely")
    equal = [group for group in museum._same_bytes.values() if len(group) > 1]
    assert equal, "some flags are drawn alike"


def test_the_phrase_list_holds_every_name() -> None:
    """The caption bank of the demo holds all CLDR names, also of pictures that are never shown."""
    assert set(cldr_names()) == {p.name for p in pictures()}
    assert cldr_names() == tuple(sorted(cldr_names()))


def test_closing_leaves_no_thread_behind_though_someone_hangs() -> None:
    """The museum closes at once while clients hang on its pictures, and leaves neither threads nor ports."""
    before = set(threading.enumerate())
    with Museum(port_base=0, limit=10) as opened:
        port = _port(opened, "rude")
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for client, path in zip(clients, (b"/hang.png", b"/drip.png", b"/"), strict=True):
            client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: museum\r\n\r\n")
        assert clients[2].recv(1)
    for client in clients:
        client.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_client_that_hangs_up_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection that is reset ends its thread without a word."""
    with Museum(port_base=0, limit=10) as opened:
        client = socket.create_connection(("127.0.0.1", _port(opened, "rude")))
        client.sendall(b"GET /huge.png HTTP/1.1\r\nHost: museum\r\n\r\n")
        assert client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
        client.close()
    assert capfd.readouterr().err == ""


def test_a_taken_port_is_named() -> None:
    """Fixed ports that something else uses are refused by name, and those already taken are given back."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(InputError, match=str(taken)), Museum(port_base=taken):
            pass


def test_a_small_museum_keeps_all_origins() -> None:
    """`limit` hangs fewer gallery pictures and leaves the other origins as they are."""
    with Museum(port_base=0, limit=60) as small:
        shown = [u for u in small.truth if urlsplit(u).port in {_port(small, "media"), _port(small, "garden")}]
        assert 60 <= len(shown) <= 75
        assert len(small.addresses) == len(ORIGINS)


def _port(museum: Museum, origin: str) -> int:
    port = urlsplit(museum.url(origin)).port
    assert port is not None
    return port
