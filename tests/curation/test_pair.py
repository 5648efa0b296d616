"""Canonical URLs and the keys that stand on them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.pair import (
    MAX_URL_CHARS,
    ImageTextPair,
    canonical_url,
    host_of,
    origin_of,
    pair_key,
    sample_key,
    secret_in_url,
    url_key,
)
from policy.errors import InputError

SPELLINGS = [
    ("HTTP://EXAMPLE.com:80/a/../b?x=1#frag", "http://example.com/b?x=1"),
    ("https://example.com:443", "https://example.com/"),
    ("https://example.com:8443/", "https://example.com:8443/"),
    ("http://0x7f.1/", "http://127.0.0.1/"),
    ("http://2130706433/", "http://127.0.0.1/"),
    ("http://0177.0.0.1/", "http://127.0.0.1/"),
    ("http://①②⑦.⓪.0.1/", "http://127.0.0.1/"),
    ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
    ("http:\\\\example.com\\a", "http://example.com/a"),
    ("https://faß.de/ä b", "https://xn--fa-hia.de/%C3%A4%20b"),
    (" \thttps://exa\nmple.com/ ", "https://example.com/"),
]


@pytest.mark.parametrize(("written", "canonical"), SPELLINGS)
def test_every_spelling_of_a_url_becomes_the_one_a_browser_would_ask(written: str, canonical: str) -> None:
    """Two spellings that a browser sends to one place have one key."""
    assert canonical_url(written) == canonical
    assert canonical_url(canonical) == canonical


@pytest.mark.parametrize(
    ("relative", "absolute"),
    [("i.png", "https://e.org/a/i.png"), ("/i.png", "https://e.org/i.png"), ("//cdn.org/i", "https://cdn.org/i")],
)
def test_a_relative_address_is_read_against_its_base(relative: str, absolute: str) -> None:
    """Links are joined as browsers join them."""
    assert canonical_url(relative, "https://e.org/a/page") == absolute


@pytest.mark.parametrize(
    "written",
    ["", "no url", "ftp://h/x", "javascript:alert(1)", "data:image/gif;base64,AA", "http://", "http://a b/", "\ud800"],
)
def test_what_is_no_http_url_is_refused(written: str) -> None:
    """Anything but http and https raises InputError, whatever it is."""
    with pytest.raises(InputError):
        canonical_url(written)


def test_an_endless_url_is_refused() -> None:
    """A URL longer than the limit raises, also when only escaping makes it so."""
    with pytest.raises(InputError, match="longer"):
        canonical_url("https://e.org/" + "a" * MAX_URL_CHARS)
    with pytest.raises(InputError, match="longer"):
        canonical_url("https://e.org/" + "ä" * (MAX_URL_CHARS // 2))


@given(st.text(max_size=40))
def test_canonical_form_is_a_fixed_point(text: str) -> None:
    """Canonicalising twice changes nothing, whatever the path and query."""
    once = canonical_url("https://e.org/" + text)
    assert canonical_url(once) == once


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://user:password@e.org/i.png", "userinfo"),
        ("https://user@e.org/i.png", "userinfo"),
        ("https://e.org/i.png?X-Amz-Signature=ab", "signed-url"),
        ("https://e.org/i.png?w=2&sig=ab", "signed-url"),
        ("https://e.org/i.png?%53ignature=ab", "signed-url"),
        ("https://e.org/i.png?design=ab", None),
        ("https://e.org/@user/i.png", None),
    ],
)
def test_urls_that_carry_a_secret_are_known(url: str, secret: str | None) -> None:
    """Userinfo and signature parameters are found in every spelling, and nothing else is taken for them."""
    assert secret_in_url(canonical_url(url)) == secret


def test_origin_and_host_leave_out_what_is_not_theirs() -> None:
    """An origin has scheme, host and a port that is not the default; a host has neither."""
    assert origin_of("https://E.org:443/x?y") == "https://e.org"
    assert origin_of("http://[::1]:8001/x") == "http://[::1]:8001"
    assert host_of("http://[::1]:8001/x") == "[::1]"
    with pytest.raises(InputError):
        origin_of("file:///etc/passwd")


def test_keys_are_128_bits_and_depend_on_every_part() -> None:
    """Keys are 32 hex digits; parts cannot run into each other."""
    keys = {
        url_key("https://e.org/"),
        pair_key("https://e.org/", "https://e.org/i", "text"),
        pair_key("https://e.org/", "https://e.org/itext", ""),
        pair_key(None, "https://e.org/i", None),
        sample_key("00" * 32, "a caption", "alt"),
        sample_key("00" * 32, "a caption", "clip"),
    }
    assert len(keys) == 6
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


def test_a_pair_knows_its_keys() -> None:
    """A pair's properties are the module's functions of its fields."""
    pair = ImageTextPair("https://e.org/", "https://e.org/i", "text", "alt")
    assert pair.key == pair_key("https://e.org/", "https://e.org/i", "text")
    assert pair.url_key == url_key("https://e.org/i")
    assert pair.page_key == url_key("https://e.org/")
    assert ImageTextPair(None, "https://e.org/i", None, None).page_key is None
