"""The addresses of a page made canonical, many at once.

One that is written as most are (letters, digits, a few signs; no dot segments) is put together here, to what the
parser of `curation.pair` would make of it, in less than half its time; any other goes to that parser.
"""

from __future__ import annotations

from collections.abc import Collection
from string import ascii_letters, digits

from curation.pair import MAX_URL_CHARS, UrlBase
from policy.errors import InputError

# What stands in a path or a query as it is (WHATWG URL, 1.3), and what an address may hold beside it, in this order.
_AS_IT_IS = (ascii_letters + digits + "_~!$&()*+,;=@-./").encode()
_PLAIN = frozenset({b"", b"#", b"?", b"?#"})
_OTHER_STARTS = frozenset({"", "/", ".", "?"})


class PageBase:
    """A page's base URL; what it made of an address once is remembered."""

    __slots__ = ("_base", "_known", "_own", "_room", "_root", "_stem")

    def __init__(self, url: str) -> None:
        self._base = UrlBase(url)
        self._known: dict[str, str | None] = {}
        # What "#a" is, what is put before "/a" and before "a"; no address is plain where none of it is a URL.
        self._own = self._parsed("")
        self._root = (self._parsed("/") or "/")[:-1]
        self._stem = (self._parsed("x") or "x")[:-1]
        self._room = MAX_URL_CHARS - len(self._stem) if self._root and self._stem else -1

    def learn(self, addresses: Collection[str]) -> dict[str, str | None]:
        """Every address that was learned so far -> its canonical URL, or None where it is no http(s) URL."""
        known, room, root, stem = self._known, self._room, self._root, self._stem
        text = "\n".join(addresses).encode("utf-8", "surrogatepass")
        left = text.translate(None, _AS_IT_IS).split(b"\n")
        if len(left) != len(addresses):  # line breaks, which the parser leaves out
            left = [b"\n"] * len(addresses)
        # Each is looked at closely only where one of them may be a long one, or have dot segments or empty ones.
        is_close = max(map(len, addresses), default=0) > room or b"/." in text or text.count(b"//") > text.count(b"://")
        for address, signs in zip(addresses, left, strict=True):
            if signs not in _PLAIN or (is_close and ("/." in address or "//" in address or len(address) > room)):
                known[address] = self._parsed(address)
                continue
            written = address.partition("#")[0] if signs else address
            first = written[:1]
            if first in _OTHER_STARTS:
                known[address] = self._own if not written else root + written if first == "/" else self._parsed(address)
            else:
                known[address] = stem + written
        return known

    def join(self, address: str) -> str | None:
        """The canonical URL of one address, or None."""
        if address not in self._known:
            self._known[address] = self._parsed(address)
        return self._known[address]

    def _parsed(self, address: str) -> str | None:
        try:
            return self._base.join(address)
        except InputError:
            return None
