"""The addresses of a page made canonical, many at once.

One that is written as most are (letters, digits, a few signs; no dot segments) is put together here, to what the
parser of `curation.pair` would make of it, in less than half its time; any other goes to that parser.
"""

from __future__ import annotations

from collections.abc import Collection
from string import ascii_letters, digits

from curation.pair import MAX_URL_CHARS, UrlBase
from policy.errors import InputError

# What stands in a path or a query as it is (WHATWG URL, 1.3), and what a plain address may hold beside it.
_AS_IT_IS = (ascii_letters + digits + "_~!$&()*+,;=@-./").encode()
_PLAIN = frozenset({b"", b"#", b"?", b"?#"})
_OTHER_STARTS = frozenset({"", "/", ".", "?"})  # of what is not put behind the directory of the page


class PageBase:
    """A page's base URL, parsed once for its many addresses."""

    __slots__ = ("_base", "_directory", "_own", "_room", "_root")

    def __init__(self, url: str) -> None:
        self._base = UrlBase(url)
        self._own = self.join("")
        # What is put before "/a" and before "a"; no address is plain where nothing can be.
        self._root = (self.join("/") or "/")[:-1]
        self._directory = (self.join("x") or "x")[:-1]
        self._room = MAX_URL_CHARS - len(self._directory) if self._root and self._directory else -1

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
        if b"/." in text or text.count(b"//") > text.count(b"://"):  # in some of them, dot segments or empty ones
            left = [b"/" if "/." in a or "//" in a else signs for a, signs in zip(addresses, left, strict=True)]
        directory, root, joined = self._directory, self._root, list[str | None]()
        for address, signs in zip(addresses, left, strict=True):
            if signs in _PLAIN:
                written = address.partition("#")[0] if signs else address
                first = written[:1]
                if first not in _OTHER_STARTS:
                    joined.append(directory + written)
                    continue
                if first == "/" or not first:
                    joined.append(root + written if first else self._own)
                    continue
            try:
                joined.append(self._base.join(address))
            except InputError:
                joined.append(None)
        return joined
