"""Origins, paths and registrable domains of URLs: which documents a URL answers to, and what a site is."""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from policy.errors import ConfigurationError, InputError

_DEFAULT_PORTS = {"http": 80, "https": 443}


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


@functools.lru_cache(maxsize=4096)
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
    """The registrable domain of a host; an IP address, localhost and a public suffix stand for themselves.

    Private suffixes count: alice.github.io and bob.github.io are two people.
    """
    host = host.rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        labels = host.split(".")
    suffix = _suffix_labels(labels)
    return ".".join(labels[-suffix - 1 :])


def _suffix_labels(labels: list[str]) -> int:
    """How many of a host's last labels are its public suffix (publicsuffix.org/list: exception, longest, else one)."""
    rules = _public_suffixes()
    longest = 1
    for start in range(len(labels)):
        name = ".".join(labels[start:])
        if f"!{name}" in rules:
            return len(labels) - start - 1
        if name in rules or ".".join(["*", *labels[start + 1 :]]) in rules:
            longest = max(longest, len(labels) - start)
    return longest


def is_registry_suffix(name: str) -> bool:
    """Whether names are registered directly below this one ("com", "co.uk"): nobody's site, but thousands of them.

    Not so the suffixes that a company runs (github.io): those have an owner who may speak for all of them.
    """
    rules = _public_suffixes(private=False)
    return "." not in name or (f"!{name}" not in rules and (name in rules or f"*.{name.partition('.')[2]}" in rules))


@functools.cache
def _public_suffixes(*, private: bool = True) -> frozenset[str]:
    """The rules of the public suffix list that tldextract packs, names also in their ASCII form.

    The file is read without importing the package, which would bring an HTTP client in to keep it fresh.
    `private`: those too that companies run for their customers.
    """
    package = importlib.util.find_spec("tldextract")
    if package is None or package.origin is None:
        raise ConfigurationError("the package tldextract is not installed", remedy="It carries the public suffix list")
    path = Path(package.origin).with_name(".tld_set_snapshot")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"the public suffix list cannot be read ({error.strerror})", where=str(path)
        ) from error
    if not private:
        lines = lines[: lines.index("// ===END ICANN DOMAINS===")]
    rules = {line.split()[0].lower() for line in lines if line.strip() and not line.startswith("//")}
    return frozenset(rules | {_ascii(rule) for rule in rules if not rule.isascii()})


def _ascii(rule: str) -> str:
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in rule.split(".")
    )


def same_site(a: str, b: str) -> bool:
    """Whether two URLs lie on one registrable domain (IP addresses and localhost: one host, any port)."""
    host_a, host_b = host_of(a), host_of(b)
    return bool(host_a) and site_of(host_a) == site_of(host_b)
