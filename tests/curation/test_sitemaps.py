"""Sitemaps are read for what they list, within bounds."""

from __future__ import annotations

import gzip
import time
import tracemalloc

import pytest

from curation.sitemaps import MAX_BYTES, MAX_URLS, Sitemap, read_sitemap, sitemap_urls
from policy.errors import InputError

URL = "https://e.org/maps/sitemap.xml"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
NS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
IMAGE = 'xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"'


def urlset(inner: str, attributes: str = f"{NS} {IMAGE}") -> bytes:
    return f"{HEAD}<urlset {attributes}>{inner}</urlset>".encode()


def listed(*urls: str) -> bytes:
    return urlset("".join(f"<url><loc>{url}</loc><lastmod>2026-01-01</lastmod></url>" for url in urls))


@pytest.mark.parametrize(
    ("body", "urls"),
    [
        (listed("https://e.org/a", " \n https://e.org:443/b#x \n", "https://e.org/a"), ["a", "b"]),
        (listed("/relative", "../up"), ["relative", "up"]),
        (listed("https://e.org/?a=1&amp;b=2"), ["?a=1&b=2"]),
        (listed("<![CDATA[https://e.org/c]]>"), ["c"]),
        (gzip.compress(listed("https://e.org/a")), ["a"]),
        (listed("https://e.org/ä").decode().replace("UTF-8", "UTF-16").encode("utf-16"), ["%C3%A4"]),
        (urlset("<url><loc>https://e.org/a</loc></url>", ""), ["a"]),
        (urlset("<url><loc>https://e.org/a</loc></url>", 'xmlns="http://www.google.com/schemas/sitemap/0.84"'), ["a"]),
        (
            b"<s:urlset xmlns:s='http://www.sitemaps.org/schemas/sitemap/0.9'><s:url><s:loc>/a</s:loc></s:url></s:urlset>",
            ["a"],
        ),
        (urlset("<url><x:loc xmlns:x='urn:x'>/no</x:loc><loc>/a</loc></url>"), ["a"]),
        (b"\xef\xbb\xbfhttps://e.org/a\r\n\r\nhttps://e.org/b\n", ["a", "b"]),
        (urlset(""), []),
        (b"", []),
    ],
)
def test_pages_are_listed(body: bytes, urls: list[str]) -> None:
    """XML, gzipped or not, in its encoding, and plain text give canonical URLs, each once, in order."""
    read = read_sitemap(body, URL)
    assert read == Sitemap(tuple(f"https://e.org/{url}" for url in urls))
    assert read.is_whole


def test_an_index_lists_sitemaps() -> None:
    """Of an index its sitemaps are known, and no pages."""
    body = f"{HEAD}<sitemapindex {NS}><sitemap><loc>https://e.org/1.xml.gz</loc></sitemap></sitemapindex>"
    assert read_sitemap(body.encode(), URL) == Sitemap(sitemaps=("https://e.org/1.xml.gz",))


def test_pictures_come_with_their_pages() -> None:
    """The image extension gives pairs: caption before title, the licence a claim of the picture."""
    body = urlset(
        "<url><image:image><image:loc>/a.png</image:loc><image:caption> A \n pear </image:caption>"
        "<image:title>Pear</image:title><image:license>https://e.org/terms</image:license></image:image>"
        "<image:image><image:loc>/b.png</image:loc><image:title>B</image:title></image:image>"
        "<image:image><image:loc>/c.png</image:loc></image:image><loc>/page</loc></url>"
        "<url><image:image><image:loc>/no-page.png</image:loc></image:image></url>"
    )
    read = read_sitemap(body, URL)
    assert [(p.page_url, p.image_url[-5:], p.alt, p.text_origin) for p in read.pairs] == [
        ("https://e.org/page", "a.png", "A pear", "sitemap"),
        ("https://e.org/page", "b.png", "B", "sitemap"),
        ("https://e.org/page", "c.png", None, None),
    ]
    (claim,) = read.pairs[0].licence_claims
    assert (claim.value, claim.source, claim.scope, claim.title) == ("https://e.org/terms", "sitemap", "image", "Pear")
    assert read.pairs[1].licence_claims == ()


def test_secrets_and_rubbish_are_counted_and_left_out() -> None:
    """An address that is none, or that carries a secret, is not listed."""
    image = "<url><loc>/p</loc><image:image><image:loc>https://u:p@e.org/i</image:loc></image:image></url>"
    body = listed("https://u:p@e.org/", "/?X-Amz-Signature=1", "ftp://e.org/", "http://").replace(
        b"</urlset>", image.encode() + b"</urlset>"
    )
    read = read_sitemap(body, URL)
    assert (read.urls, read.pairs, read.refused) == (("https://e.org/p",), (), 5)


@pytest.mark.parametrize(
    ("body", "problem", "kept"),
    [
        (listed("/a", "/b")[:-30], "bad-xml", 2),
        (listed("/a").replace(b"</urlset>", b"<url><loc>/b</loc></bad></urlset>"), "bad-xml", 2),
        (gzip.compress(listed("/a"), mtime=0)[:-12], "cut", 0),
        (gzip.compress(listed("/a"), mtime=0)[:-8] + bytes(8), "bad-compression", 0),
        (b"<!doctype html><title>404</title>", "not-a-sitemap", 0),
        (b"<rss><channel/></rss>", "not-a-sitemap", 0),
        (b"\x89PNG\0\0", "not-a-sitemap", 0),
        (listed(*(f"/{n}" for n in range(MAX_URLS + 5))), "too-many", MAX_URLS),
        (b"https://e.org/\n" * (MAX_URLS + 5), "too-many", 1),
        (urlset("<x>" * 100 + "</x>" * 100 + "<url><loc>/a</loc></url>"), "bad-xml", 0),
    ],
)
def test_what_ends_a_reading_is_said(body: bytes, problem: str, kept: int) -> None:
    """What stood before an error or a limit is kept, and the reader is told that there was one."""
    read = read_sitemap(body, URL)
    assert (read.problem, len(read.urls), read.is_whole) == (problem, kept, False)


ENTITY = '<!DOCTYPE u [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "body",
    [
        urlset("<url><loc>/&b;</loc></url>").replace(HEAD.encode(), f"{HEAD}{ENTITY}".encode()),
        urlset("<url><loc>/&f;</loc></url>").replace(
            HEAD.encode(), f'{HEAD}<!DOCTYPE u [<!ENTITY f SYSTEM "file:///etc/passwd">]>'.encode()
        ),
    ],
)
def test_entities_are_refused(body: bytes) -> None:
    """A document that declares entities is not read: neither expanded nor fetched."""
    assert read_sitemap(body, URL) == Sitemap(problem="bad-xml")


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(bytes(MAX_BYTES + 1)),
        gzip.compress(b"<urlset>" + b"<a>" * 1_000_000),
        urlset("<url><loc>" + "/" + "x" * 5_000_000 + "</loc></url>"),
        urlset("<url " + " ".join(f"a{n}='x'" for n in range(50_000)) + "><loc>/a</loc></url>"),
        urlset("<url><loc>/a</loc>" + "<image:image><image:loc>/i</image:loc></image:image>" * 50_000 + "</url>"),
        b"Sitemap: " + b"x" * 5_000_000,
    ],
)
def test_hostile_documents_stay_bounded(body: bytes) -> None:
    """Bombs, depth, endless texts and attributes end within bounds of memory."""
    tracemalloc.start()
    began = time.process_time()
    read = read_sitemap(body, URL)
    assert time.process_time() - began < 30  # a second or two on an idle machine
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read.pairs) <= 1_000
    assert peak < 3 * MAX_BYTES


def test_robots_txt_names_sitemaps() -> None:
    """Sitemap lines count wherever they stand, in any case; nothing else does."""
    body = (
        b"\xef\xbb\xbfSitemap: https://e.org/1.xml\nUser-agent: *\nDisallow: /\n  SITEMAP : /2.xml # here\r\n"
        b"sitemap:\nSite-map:https://e.org/1.xml\n# Sitemap: /no.xml\nX-Sitemap: /no.xml\rSitemap:\thttps://f.org/3.xml"
    )
    assert sitemap_urls(body) == ("https://e.org/1.xml", "/2.xml", "https://f.org/3.xml")
    assert sitemap_urls("\ufeffSitemap: /a".encode("utf-16-le")) == ("/a",)
    assert len(sitemap_urls(b"".join(b"Sitemap: /%d\n" % n for n in range(5_000)))) == 1_000


def test_a_base_that_is_no_url_is_refused() -> None:
    """A sitemap must know where it came from."""
    with pytest.raises(InputError):
        read_sitemap(b"", "nowhere")
