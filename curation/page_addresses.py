"""The addresses of a page made canonical, many at once.

One that is written as most are (letters, digits, a few signs; no dot segments) is put together here, to what the
parser of `curation.pair` would make of it, in less than half its time; any other goes to that parser.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from string import ascii_letters, digits

from curation.pair import MAX_URL_CHARS, UrlBase
from policy.errors import InputError

# What stands in a path or a query as it is (WHATWG URL, 1.3), and what a plain address may hold beside it.
_AS_IT_IS = (ascii_letters + digits + "_~!$&()*+,;=@-./").encode()
_PLAIN = frozenset({b"", b"#", b"?", b"?#"})
_WITH_SCHEME = frozenset({b":", b":#", b":?", b":?#"})
_HOST = re.compile(r"(?:https?:)?//[^/?#]+\Z")
_NO_PAGES = ("javascript:", "mailto:", "tel:")  # the commonest of what is no http(s) URL, wherever it stands


class PageBase:
    """A page's base URL, parsed once for its many addresses."""

    __slots__ = ("_base", "_before", "_directory", "_own", "_room")

    def __init__(self, url: str) -> None:
        self._base = UrlBase(url)
        self._own = self.join("")
        root, directory = self.join("/"), self.join("x")
        self._directory = directory[:-1] if directory else ""
        # What an address begins with, up to its path -> what its URL does.
        self._before = {"": root[:-1] if root else ""}
        # How long an address may be that surely gives no URL that is too long, even if its host is an IPv4 number.
        self._room = MAX_URL_CHARS - len(self._directory) - 20 if root and directory else -1

    def join(self, address: str) -> str | None:
        """The canonical URL of one address, or None where it is no http(s) URL."""
        try:
            return self._base.join(address)
        except InputError:
            return None

    def join_all(self, addresses: Collection[str]) -> list[str | None]:
        """`join` of each."""
        text = "\n".join(addresses).encode("utf-8", "surrogatepass")
        left = text.translate(None, _AS_IT_IS).split(b"\n")  # what is unusual about each
        if len(left) != len(addresses) or max(map(len, addresses), default=0) > self._room:
            return [self.join(address) for address in addresses]  # line breaks, which URLs do not have, or long ones
        directory, before, parsed = self._directory, self._before, self.join
        has_dots, joined = b"/." in text, list[str | None]()
        for address, signs in zip(addresses, left, strict=True):
            start = address[:1]
            if signs in _PLAIN and start != "/":  # a page beside this one
                written = address.partition("#")[0] if signs else address
                if written == "":
                    joined.append(self._own)
                elif start == "." or start == "?" or "//" in written or (has_dots and "/." in written):
                    joined.append(parsed(address))
                else:
                    joined.append(directory + written)
                continue
            if signs in _PLAIN:
                at = address.find("/", 2) if address[:2] == "//" else 0
            elif signs in _WITH_SCHEME:
                at = address.find("/", 8)
            else:
                joined.append(None if address.startswith(_NO_PAGES) else parsed(address))
                continue
            # On this host, or on one that is named: its path begins at `at`.
            host, path = address[:at], address[at:]
            if at < 0 or "//" in path or (has_dots and "/." in path):
                joined.append(parsed(address))
                continue
            written = path.partition("#")[0] if signs else path
            if (known := before.get(host)) is not None:
                joined.append(known + written)
                continue
            joined.append(url := parsed(address))
            if url is not None and url.endswith(written) and _HOST.match(host) is not None:
                before[host] = url.removesuffix(written)
        return joined
