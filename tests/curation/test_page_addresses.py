"""Many addresses at once come to what the parser makes of each."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curation.page_addresses import PageBase
from curation.pair import MAX_URL_CHARS, UrlBase
from policy.errors import InputError

BASES = (
    "https://e.org/gallery/page?q=1",
    "https://e.org",
    "http://u:p@[::1]:8080/a%20b/../c/",
    "ftp://e.org/x",
    "https://e.org/" + "d/" * 4000,
)
PIECES = (
    *(
        "http://",
        "https://",
        "HTTP:",
        "//",
        "/",
        "./",
        "../",
        ".",
        "..",
        "%2e",
        "?",
        "#",
        "&",
        "=",
        ":",
        "@",
        "\\",
        "'",
    ),
    *(" ", "\t", "\n", "\0", "\x7f", "ä", "\u3000", "|", "^", "{", '"', "<", "a", "b.html", "B", "1", "e.org", "xn--"),
    *("0x7f", ".hidden", "...", "javascript:", "data:,", "~u", "+", "-", "_", "(x)", "x" * MAX_URL_CHARS),
)


def one_by_one(base: str, addresses: list[str]) -> list[str | None]:
    parsed, joined = UrlBase(base), list[str | None]()
    for address in addresses:
        try:
            joined.append(parsed.join(address))
        except InputError:
            joined.append(None)
    return joined


@given(
    st.sampled_from(BASES),
    st.lists(st.one_of(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), st.text(max_size=12)), max_size=12),
)
@example(BASES[0], ["a", "/a", "a#b", "a?b#c", "#top", "", "?x", "./a", "/../a", "a//b", "/a/.b", "http://e.org/x y"])
@example(BASES[0], ["https://f.org/a", "https://f.org/b#c", "//f.org/a", "//f.org/b?c", "https://f.org", "//f.org"])
@example(BASES[0], ["https://f.org?x/y", "https://f.org?x/z", "https://f.org#x/", "https://f.org#x/y", "http:///x/y"])
@example(BASES[0], ["HTTPS://F.org/a", "HTTPS://F.org/b", "https://1/a", "https://1/b", "//u@f.org/a", "//u@f.org/b"])
@example(BASES[0], [":", "a:", "//", "https://", "https:///", "http://a", "javascript:x", "https://f.org:443/a"])
@example(BASES[0], ["a", "a\nb"])
@example(BASES[0], ["a #x", "a ", "\ud800"])
def test_many_at_once_are_what_each_is_alone(base: str, addresses: list[str]) -> None:
    """However they are spelled and whatever stands beside them, nothing differs from parsing one after another."""
    assert PageBase(base).join_all(addresses) == one_by_one(base, addresses)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("p.html#x", "https://e.org/gallery/p.html"),
        ("/p?a=b&c=%20", "https://e.org/p?a=b&c=%20"),
        ("#x", "https://e.org/gallery/page?q=1"),
        ("../p", "https://e.org/p"),
        ("//f.org", "https://f.org/"),
        ("mailto:x@e.org", None),
        ("http://[", None),
        ("x" * (MAX_URL_CHARS + 1), None),
    ],
)
def test_an_address_is_joined_to_its_page(address: str, url: str | None) -> None:
    """An address is canonical and without its fragment; what is no http(s) URL is None."""
    base = PageBase("https://e.org/gallery/page?q=1")
    assert base.join(address) == url
    assert base.join_all([address]) == [url]


def test_a_base_that_is_no_url_is_refused() -> None:
    """A page must know where it came from."""
    with pytest.raises(InputError):
        PageBase("nowhere")
