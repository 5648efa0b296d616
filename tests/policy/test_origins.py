"""Origins, paths and sites of URLs."""

from __future__ import annotations

import importlib

import pytest

from policy.errors import InputError
from policy.origins import _public_suffixes, origin_of, path_of, same_site, site_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example/x", "https://a.example"),
        ("https://a.example:443/x", "https://a.example"),
        ("http://a.example:443/x", "http://a.example:443"),
        ("http://user:pass@a.example:80/", "http://a.example"),
        ("http://[::1]:8080/x", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    """The default port, the path and credentials are no part of an origin."""
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "a.example", "", "https://", "http://a.example:x/", "http://[::1/"]
)
def test_what_has_no_web_origin_is_refused(url: str) -> None:
    """Other schemes and broken addresses raise InputError."""
    with pytest.raises(InputError):
        origin_of(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://a.example", "/"),
        ("https://a.example?x=1", "/?x=1"),
        ("https://a.example/a/b?c=/d/../e#f", "/a/b?c=/d/../e"),
        ("https://a.example/a/./b/../c", "/a/c"),
        ("https://a.example/a/..", "/"),
        ("https://a.example/../../a", "/a"),
        ("https://a.example/a/%2E%2e/b", "/b"),
        ("https://a.example\\a\\b", "/a/b"),
    ],
)
def test_a_path_is_resolved(url: str, path: str) -> None:
    """Path and query as a browser would ask for them, without the fragment."""
    assert path_of(url) == path


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("www.a.example", "a.example"),
        ("a.b.co.uk", "b.co.uk"),
        ("co.uk", "co.uk"),
        ("alice.github.io", "alice.github.io"),
        ("a.alice.github.io", "alice.github.io"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("A.Example.", "a.example"),
        ("a.b.ck", "a.b.ck"),
        ("x.www.ck", "www.ck"),
        ("www.a.xn--p1ai", "a.xn--p1ai"),
        ("", ""),
    ],
)
def test_a_site_is_a_registrable_domain(host: str, site: str) -> None:
    """By the public suffix list with its private part; addresses and single labels stand for themselves."""
    assert site_of(host) == site


def test_sites_agree_with_tldextract() -> None:
    """On a spread of the list's own rules our reading is that of the package that carries it."""
    tldextract = importlib.import_module("tldextract")
    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)
    for rule in sorted(r for r in _public_suffixes() if r.isascii())[::23]:
        host = "x.y." + rule.lstrip("!").replace("*", "z")
        assert site_of(host) == extract(f"http://{host}/").top_domain_under_public_suffix, host


def test_no_host_is_no_common_site() -> None:
    """Two addresses without a host have nothing in common."""
    assert not same_site("mailto:a@a.example", "mailto:b@a.example")
