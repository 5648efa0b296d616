"""Origins, paths and registrable domains of URLs: which documents a URL answers to, and what a site is."""

from __future__ import annotations

import functools
import ipaddress
from urllib.parse import urlsplit

import tldextract

from policy.errors import InputError

_DEFAULT_PORTS = {"http": 80, "https": 443}

# The public suffix list that the package carries; never fetched. Private suffixes count, since
# alice.github.io and bob.github.io are two people.
_SUFFIXES = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)


@functools.lru_cache(maxsize=65_536)
def origin_of(url: str) -> str:
    """The origin "scheme://host[:port]" of an http(s) URL: lower case, default port dropped.

    Raises InputError where the URL has no such origin.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"not a URL ({error})", where=url[:200]) from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise InputError("not an http or https URL", where=url[:200])
    host = f"[{host}]" if ":" in host else host
    suffix = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{suffix}"


def path_of(url: str) -> str:
    """Path and query of a URL, as robots rules are matched against: begins with "/", no fragment.

    Dot segments and backslashes are resolved as a browser does (WHATWG), so that "/a/../b" is "/b".
    """
    rest = url.partition("#")[0]
    _, double_slash, after = rest.partition("//")
    if double_slash and ("://" in rest or rest.startswith("//")):
        rest = after
    starts = [i for i in (rest.find(c) for c in "/\\?;") if i >= 0]
    if not starts:
        return "/"
    rest = rest[min(starts) :]
    path, question, query = rest.partition("?")
    if "\\" in path:
        path = path.replace("\\", "/")
    if not path.startswith("/"):
        path = "/" + path
    if "/." in path or "/%2" in path:
        path = _without_dot_segments(path)
    return path + question + query


def _without_dot_segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for i, segment in enumerate(segments):
        dots = segment.replace("%2e", ".").replace("%2E", ".")
        last = i == len(segments) - 1
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
        if last and dots in (".", ".."):
            kept.append("")
    return "/" + "/".join(kept)


def host_of(url: str) -> str:
    """The host of a URL without its port, lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@functools.lru_cache(maxsize=65_536)
def site_of(host: str) -> str:
    """The registrable domain of a host; an IP address, localhost and a bare suffix stand for themselves."""
    host = host.rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        parts = _SUFFIXES.extract_str(host, include_psl_private_domains=True)
    if parts.suffix:
        return f"{parts.domain}.{parts.suffix}" if parts.domain else host
    # The list's default rule: an unlisted top-level domain is a suffix of one label.
    return ".".join(host.split(".")[-2:])


def same_site(a: str, b: str) -> bool:
    """Whether two URLs lie on one registrable domain (IP addresses and localhost: one host, any port)."""
    host_a, host_b = host_of(a), host_of(b)
    return bool(host_a) and site_of(host_a) == site_of(host_b)
