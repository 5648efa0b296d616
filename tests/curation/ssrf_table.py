"""Spellings of addresses that must not be reached: each with the address it means to whoever is taken in by it.

`{inside}` in a URL stands for the port of a `Canary`, `{outside}` for the "ip:port" of the one server that may be
asked. What address a row means is known from how its spelling was made, never from reading it back.
"""

# ruff: noqa: RUF001  (characters that look like others are what this table is about)

from __future__ import annotations

import ipaddress
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

FORBIDDEN = "forbidden-address"
BAD_URL = "bad-url"
LOOPBACK = "127.0.0.1"
SECRET = b"secret"  # what a canary says to whoever comes

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Spelling:
    """A URL, the address it stands for, and how asking for it has to end.

    `outcome` is "bad-url" where the URL Standard has no such URL (or one with userinfo): other clients read it
    all the same. "ok": the URL's true host is the server outside, and `means` what a confused reader takes it for.
    """

    kind: str
    url: str
    means: str
    outcome: str = FORBIDDEN

    def at(self, inside: int, outside: str) -> str:
        """The URL with its ports."""
        return self.url.replace("{inside}", str(inside)).replace("{outside}", outside)


# ── one IPv4 address, written in many ways ───────────────────────────────────────────────────────────────────────
V4_TARGETS = (
    *(LOOPBACK, "127.0.0.2", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1"),
    "255.255.255.255",
)

Octets = tuple[int, int, int, int]


def _octets(address: str) -> Octets:
    a, b, c, d = ipaddress.IPv4Address(address).packed
    return a, b, c, d


def _number(o: Octets) -> int:
    return int.from_bytes(bytes(o), "big")


def _dotted(o: Octets) -> str:
    return ".".join(map(str, o))


def _digits(zero: str) -> Callable[[Octets], str]:
    """The address in the digits of another alphabet, whose zero is this one."""
    table = {ord("0") + i: chr(ord(zero) + i) for i in range(10)}
    return lambda o: _dotted(o).translate(table)


def _circled(o: Octets) -> str:
    return "".join({"0": "⓪", ".": "."}.get(c) or chr(ord("①") + int(c) - 1) for c in _dotted(o))


def _superscript(o: Octets) -> str:
    return _dotted(o).translate({ord(str(i)): c for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


def _subscript(o: Octets) -> str:
    return _dotted(o).translate({ord("0") + i: chr(0x2080 + i) for i in range(10)})


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


V4_WRITERS: Mapping[str, Callable[[Octets], str]] = {
    "plain": _dotted,
    "trailing dot": lambda o: _dotted(o) + ".",
    "decimal": lambda o: str(_number(o)),
    "decimal, trailing dot": lambda o: f"{_number(o)}.",
    "hex": lambda o: f"0x{_number(o):08x}",
    "hex, upper case": lambda o: f"0X{_number(o):08X}",
    "hex, long": lambda o: f"0x{_number(o):040x}",
    "octal": lambda o: f"0{_number(o):o}",
    "octal, long": lambda o: f"0{_number(o):040o}",
    "hex octets": lambda o: ".".join(f"0x{x:x}" for x in o),
    "hex octets, long": lambda o: ".".join(f"0x{x:010x}" for x in o),
    "octal octets": lambda o: ".".join(f"0{x:o}" for x in o),
    "octal octets, long": lambda o: ".".join(f"0{x:016o}" for x in o),
    "hex, octal, decimal": lambda o: f"0x{o[0]:x}.0{o[1]:o}.{o[2]}.0x{o[3]:X}",
    "two parts": lambda o: f"{o[0]}.{o[1] << 16 | o[2] << 8 | o[3]}",
    "two parts, hex": lambda o: f"0x{o[0]:x}.0x{o[1] << 16 | o[2] << 8 | o[3]:x}",
    "three parts": lambda o: f"{o[0]}.{o[1]}.{o[2] << 8 | o[3]}",
    "three parts, octal": lambda o: f"0{o[0]:o}.0{o[1]:o}.0{o[2] << 8 | o[3]:o}",
    "percent-encoded": lambda o: _percent(_dotted(o)),
    "percent-encoded dots": lambda o: _dotted(o).replace(".", "%2E"),
    "percent-encoded decimal": lambda o: _percent(str(_number(o))),
    "percent-encoded full-width": lambda o: _percent(_digits("０")(o)),
    "full-width": _digits("０"),
    "full-width hex": lambda o: "０ｘ" + f"{_number(o):08x}",
    "mathematical bold": _digits("\U0001d7ce"),
    "mathematical double-struck": _digits("\U0001d7d8"),
    "mathematical monospace": _digits("\U0001d7f6"),
    "segmented": _digits("\U0001fbf0"),
    "circled": _circled,
    "superscript": _superscript,
    "subscript": _subscript,
    "ideographic dots": lambda o: _dotted(o).replace(".", "。"),
    "half-width ideographic dots": lambda o: _dotted(o).replace(".", "｡"),
    "full-width dots": lambda o: _dotted(o).replace(".", "．"),
    "soft hyphens": lambda o: _dotted(o).replace(".", "\u00ad.\u00ad"),
    "zero-width spaces": lambda o: "\u200b".join(_dotted(o)),
    "variation selector": lambda o: _dotted(o) + "\ufe0f",
    "tab inside": lambda o: "\t".join(_dotted(o)),
    "newline inside": lambda o: "\r\n".join(_dotted(o)),
}
# No URL by the standard; readers that count modulo 2^32 or 2^8, or that stop at the first odd character, disagree.
BROKEN_V4_WRITERS: Mapping[str, Callable[[Octets], str]] = {
    "decimal, overflowing": lambda o: str(_number(o) + (1 << 32)),
    "hex, overflowing": lambda o: f"0x1{_number(o):08x}",
    "octet, overflowing": lambda o: f"{o[0] + 256}.{o[1]}.{o[2]}.{o[3]}",
    "five parts": lambda o: _dotted(o) + ".0",
    "two trailing dots": lambda o: _dotted(o) + "..1",
    "leading dot": lambda o: "." + _dotted(o),
    "an empty octet": lambda o: f"{o[0]}..{o[2]}.{o[3]}",
    "a space": lambda o: _dotted(o) + " ",
    "an escaped space": lambda o: _dotted(o) + "%20",
    "an escaped NUL": lambda o: _dotted(o) + "%00.example.com",
    "an escaped slash": lambda o: _dotted(o) + "%2f.example.com",
    "an escaped at sign": lambda o: "example.com%40" + _dotted(o),
    "escaped twice": lambda o: _percent(_dotted(o)).replace("%", "%25"),
    "in brackets": lambda o: f"[{_dotted(o)}]",
    "a caret": lambda o: _dotted(o) + "^",
    "not octal": lambda o: f"08.{o[1]}.{o[2]}.{o[3]}",
}


def _hextets(o: Octets) -> str:
    return f"{o[0] << 8 | o[1]:x}:{o[2] << 8 | o[3]:x}"


# IPv6 addresses whose packets, where somebody translates them, arrive at the IPv4 address inside.
V6_WRITERS: Mapping[str, Callable[[Octets], str]] = {
    "mapped": lambda o: f"[::ffff:{_dotted(o)}]",
    "mapped, hex": lambda o: f"[::ffff:{_hextets(o)}]",
    "mapped, in full": lambda o: f"[0:0:0:0:0:FFFF:{_hextets(o).upper()}]",
    "mapped, long": lambda o: f"[0000:0000:0000:0000:0000:ffff:{_dotted(o)}]",
    "translated (SIIT)": lambda o: f"[::ffff:0:{_dotted(o)}]",
    "compatible": lambda o: f"[::{_dotted(o)}]",
    "compatible, hex": lambda o: f"[::{_hextets(o)}]",
    "6to4": lambda o: f"[2002:{_hextets(o)}::]",
    "6to4, a host in it": lambda o: f"[2002:{_hextets(o)}:1::1]",
    "NAT64": lambda o: f"[64:ff9b::{_dotted(o)}]",
    "NAT64, hex": lambda o: f"[64:ff9b::{_hextets(o)}]",
    "NAT64, local": lambda o: f"[64:ff9b:1::{_dotted(o)}]",
    "Teredo server": lambda o: f"[2001:0:{_hextets(o)}::]",
    "Teredo client": lambda o: f"[2001::{_hextets((255 - o[0], 255 - o[1], 255 - o[2], 255 - o[3]))}]",
    "ISATAP, link-local": lambda o: f"[fe80::5efe:{_dotted(o)}]",
    "ISATAP, unique local": lambda o: f"[fd00::200:5efe:{_dotted(o)}]",
    "ISATAP, 6to4": lambda o: f"[2002:{_hextets(o)}::5efe:{_dotted(o)}]",
}
BROKEN_V6_WRITERS: Mapping[str, Callable[[Octets], str]] = {
    "mapped, zone": lambda o: f"[::ffff:{_dotted(o)}%25lo]",
    "mapped, escaped brackets": lambda o: f"%5B::ffff:{_dotted(o)}%5D",
    "mapped, hex octets": lambda o: "[::ffff:" + ".".join(f"0x{x:x}" for x in o) + "]",
    "mapped, no brackets": lambda o: f"::ffff:{_dotted(o)}",
    "mapped, unclosed": lambda o: f"[::ffff:{_dotted(o)}",
}


def _v4_spellings() -> Iterator[Spelling]:
    for address in V4_TARGETS:
        octets = _octets(address)
        for outcome, writers in (
            (FORBIDDEN, {**V4_WRITERS, **V6_WRITERS}),
            (BAD_URL, {**BROKEN_V4_WRITERS, **BROKEN_V6_WRITERS}),
        ):
            for kind, write in writers.items():
                yield Spelling(kind, f"http://{write(octets)}:{{inside}}/", address, outcome)


# ── addresses of IPv6's own ──────────────────────────────────────────────────────────────────────────────────────
V6_TARGETS: Mapping[str, str] = {
    **dict.fromkeys(("::1", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::0001", "0::1"), "::1"),
    **dict.fromkeys(("::0:1", "0:0::0:1", "::0.0.0.1", "0:0:0:0:0:0:0.0.0.1", "::", "::0", "0:0:0:0:0:0:0:0"), "::1"),
    **{a: a for a in ("fe80::1", "febf::1", "fec0::1", "feff::1", "fc00::1", "fd00::2", "fdff::1", "fd00:ec2::254")},
    **{a: a for a in ("ff02::1", "ff01::1", "ff05::2", "ff0e::1", "ff02::fb", "ff12::1234", "ff3e::1")},
    **{a: a for a in ("2001:db8::1", "2001:db8:ffff::1", "3fff::1", "3fff:fff::1", "3ffe::1", "5f00::1", "100::1")},
    **{a: a for a in ("100:0:0:1::1", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1")},
    **{a: a for a in ("2001:20::1", "2001:30::1", "2001:1ff::1", "2620:4f:8000::1", "64:ff9b:1::1", "64:ff9b::1")},
    **{a: a for a in ("1::1", "1fff::1", "4000::1", "8000::1", "c000::1", "e000::1", "fb00::1", "fe00::1", "200::1")},
}
_BROKEN_V6 = (
    *("[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[fe80::1%1]", "[::1", "::1]", "::1", "[::1]]", "[[::1]]"),
    *("[::1.2.3]", "[::127.0.0.1.1]", "[::256.0.0.1]", "[::ffff:127.1]", "[1:2:3:4:5:6:7]", "[0:0:0:0:0:0:0:0:1]"),
    *("[v1.127.0.0.1]", "[vF.::1]", "[::1]x", "x[::1]", "[::１]", "[::g]", "[:1]", "[:::1]", "[0:0:0:0:0:0:0:00001]"),
    *("%5B::1%5D", "[%3A%3A1]", "[::1%00]", "[]", "[127.0.0.1]", "[localhost]", "[::1\\]", "[0x1]"),
)


def _v6_spellings() -> Iterator[Spelling]:
    for written, address in V6_TARGETS.items():
        yield Spelling("IPv6", f"http://[{written}]:{{inside}}/", address)
        if written != written.upper():
            yield Spelling("IPv6, upper case", f"http://[{written.upper()}]:{{inside}}/", address)
    for host in _BROKEN_V6:
        yield Spelling("broken IPv6", f"http://{host}:{{inside}}/", "::1", BAD_URL)


# ── where the host is not where it seems to be ───────────────────────────────────────────────────────────────────
_SEEMS_OUTSIDE = (
    # Backslashes are slashes, slashes may be too few or too many, tabs and newlines are nothing.
    *(
        "http:\\\\127.0.0.1:{inside}\\",
        "http:/127.0.0.1:{inside}/",
        "http:127.0.0.1:{inside}/",
        "http:\\127.0.0.1:{inside}",
    ),
    *(
        "http:////127.0.0.1:{inside}/",
        "http:///127.0.0.1:{inside}/",
        "http:/\\/\\127.0.0.1:{inside}",
        "HTTP://127.0.0.1:{inside}",
    ),
    *("h\tt\nt\rp://127.0.0.1:{inside}/", "http:\t//127.0.0.1:{inside}/", "http:/\n/127.0.0.1:{inside}/"),
    *(" http://127.0.0.1:{inside}/", "\x00\x1f http://127.0.0.1:{inside}/ \x00", "\nhttp://127.0.0.1:{inside}/\n"),
    *(
        "http://127.0.0.1:{inside}\\@{outside}/",
        "http://127.0.0.1:{inside}/@{outside}/",
        "http://127.0.0.1:{inside}?@{outside}/",
    ),
    *("http://127.0.0.1:{inside}#@{outside}/", "http://127.0.0.1:{inside}\\.{outside}/", "HtTp:127.1:{inside}"),
    *(
        "http://127.0.0.1:{inside}//{outside}/",
        "http://127.0.0.1:{inside}/http://{outside}/",
        "http://127.0.0.1:00{inside}/",
    ),
    *(
        "http://127.0.0.1:\t{inside}/",
        "http://127.0.0.1:{inside}\t/",
        "http://@127.0.0.1:{inside}/",
        "http://:@127.0.0.1:{inside}/",
    ),
    *(
        "http://127.0.0.1:{inside}/../..//",
        "http://127.0.0.1:{inside}/%2e%2e/%00",
        "http://127.0.0.1:{inside}/\r\nHost: a.example",
    ),
    *("https://127.0.0.1:{inside}/", "https:127.0.0.1:{inside}", "hTTpS:\\\\127.0.0.1:{inside}"),
)
_USERINFO = (
    *(
        "http://{outside}@127.0.0.1:{inside}/",
        "http://user@127.0.0.1:{inside}/",
        "http://user:pass@127.0.0.1:{inside}/",
    ),
    *("http://a@b@127.0.0.1:{inside}/", "http://{outside}:80@127.0.0.1:{inside}/", "http://%40@127.0.0.1:{inside}/"),
    *("http://museum.example%2f@127.0.0.1:{inside}/", "http://museum.example%00@127.0.0.1:{inside}/"),
    *(
        "http://museum.example%23@127.0.0.1:{inside}/",
        "http://127.0.0.1:{inside}@{outside}/",
        "http://127.0.0.1@{outside}/",
    ),
    *(
        "http://127.0.0.1:{inside}%2f@{outside}/",
        "http://user@[::1]:{inside}/",
        "http://a:b:c@[::ffff:7f00:1]:{inside}/",
    ),
    *("http:\\\\user@127.0.0.1:{inside}/", "http:user@127.0.0.1:{inside}/", "http://us\ter@127.0.0.1:{inside}/"),
    *(
        "http://museum.example:80;@127.0.0.1:{inside}/",
        "http://museum.example&@127.0.0.1:{inside}/",
        "http:@@127.0.0.1:{inside}/",
    ),
    *(
        "http://[::1]:{inside}@{outside}/",
        "https://user:pass@127.0.0.1:{inside}/",
        "http://\u202eexample@127.0.0.1:{inside}/",
    ),
)
_SEEMS_INSIDE = (
    *(
        "http://{outside}#@127.0.0.1:{inside}/",
        "http://{outside}/#http://127.0.0.1:{inside}/",
        "http://{outside}?@127.0.0.1:{inside}/",
    ),
    *(
        "http://{outside}/@127.0.0.1:{inside}/",
        "http://{outside}\\@127.0.0.1:{inside}/",
        "http://{outside}//127.0.0.1:{inside}/",
    ),
    *(
        "http://{outside}/http://127.0.0.1:{inside}/",
        "http://{outside}\\\\127.0.0.1:{inside}\\",
        "http://{outside}?url=http://127.0.0.1:{inside}/",
    ),
    *(
        "http://{outside}/\r\nHost: 127.0.0.1:{inside}",
        "http://{outside}/%0d%0aHost:%20127.0.0.1:{inside}",
        "http://{outside}/..//127.0.0.1:{inside}",
    ),
    *(
        "http://{outside}/\\\\127.0.0.1:{inside}",
        "http://{outside}#\\@127.0.0.1:{inside}/",
        "http://{outside}/;@127.0.0.1:{inside}",
    ),
)
_SCHEMES = (
    *("file:///etc/passwd", "file://127.0.0.1:{inside}/etc/passwd", "file:/etc/passwd", "file:\\\\127.0.0.1\\c$"),
    *(
        "FILE:///etc/passwd",
        "fi\tle:///etc/passwd",
        "gopher://127.0.0.1:{inside}/_GET%20/",
        "ftp://127.0.0.1:{inside}/",
    ),
    *(
        "ftps://127.0.0.1:{inside}/",
        "sftp://127.0.0.1:{inside}/",
        "scp://127.0.0.1:{inside}/",
        "tftp://127.0.0.1:{inside}/x",
    ),
    *(
        "dict://127.0.0.1:{inside}/stat",
        "ldap://127.0.0.1:{inside}/",
        "ldaps://127.0.0.1:{inside}/",
        "smb://127.0.0.1:{inside}/",
    ),
    *(
        "telnet://127.0.0.1:{inside}/",
        "imap://127.0.0.1:{inside}/",
        "pop3://127.0.0.1:{inside}/",
        "smtp://127.0.0.1:{inside}/",
    ),
    *(
        "rtsp://127.0.0.1:{inside}/",
        "rtmp://127.0.0.1:{inside}/",
        "mqtt://127.0.0.1:{inside}/",
        "ws://127.0.0.1:{inside}/",
    ),
    *(
        "wss://127.0.0.1:{inside}/",
        "redis://127.0.0.1:{inside}/",
        "unix:///run/docker.sock",
        "http+unix://%2frun/x:{inside}/",
    ),
    *(
        "data:image/png;base64,aGVsbG8=",
        "data:text/html,<img src=http://127.0.0.1:{inside}/>",
        "javascript:fetch('http://127.0.0.1:{inside}/')",
    ),
    *(
        "blob:http://127.0.0.1:{inside}/x",
        "about:blank",
        "view-source:http://127.0.0.1:{inside}/",
        "feed:http://127.0.0.1:{inside}/",
    ),
    *(
        "jar:http://127.0.0.1:{inside}/x!/",
        "netdoc:http://127.0.0.1:{inside}/",
        "phar://127.0.0.1:{inside}/x",
        "php://filter/x",
    ),
    *(
        "url:http://127.0.0.1:{inside}/",
        "httpx://127.0.0.1:{inside}/",
        "http//127.0.0.1:{inside}/",
        "://127.0.0.1:{inside}/",
    ),
    *("//127.0.0.1:{inside}/", "///127.0.0.1:{inside}/", "\\\\127.0.0.1:{inside}\\", "/\\127.0.0.1:{inside}/"),
    *(
        "127.0.0.1:{inside}",
        "127.0.0.1:{inside}/x",
        "localhost:{inside}/",
        "http",
        "http:",
        "http://",
        "http:///",
        "http://:{inside}/",
    ),
    *(
        "http://127.0.0.1:{inside}0000/",
        "http://127.0.0.1:-{inside}/",
        "http://127.0.0.1:0x50/",
        "http://127.0.0.1:８０８０/",
    ),
    *(
        "http://127.0.0.1 :{inside}/",
        "http://127.0.0.1:{inside};/",
        "http://127.0.0.1:{inside}x/",
        "http://<127.0.0.1>:{inside}/",
        "http://127.0.0.1|x:{inside}/",
    ),
)


def _confusions() -> Iterator[Spelling]:
    for url in _SEEMS_OUTSIDE:
        yield Spelling("confusion", url, LOOPBACK)
    for url in _USERINFO:
        yield Spelling("userinfo", url, LOOPBACK, BAD_URL)
    for url in _SEEMS_INSIDE:
        yield Spelling("confusion, outside", url, LOOPBACK, "ok")
    for url in _SCHEMES:
        yield Spelling("no http", url, LOOPBACK, BAD_URL)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────
# Both ends of every block that is not public, and one address between them.
SPECIAL_BLOCKS = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"),
    *("100:0:0:1::/64", "2001::/23", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28"),
    *("2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20", "5f00::/16", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
)

_NAMED: Mapping[str, tuple[str, ...]] = {
    # A name as it is looked up -> what a name server says.
    **dict.fromkeys(("localhost", "localhost.", "x.localhost", "localhost.localdomain"), (LOOPBACK, "::1")),
    **dict.fromkeys(
        ("ip6-localhost", "localtest.me", "lvh.me", "vcap.me", "127.0.0.1.nip.io", "7f000001.nip.io"), (LOOPBACK,)
    ),
    **dict.fromkeys(
        ("metadata.google.internal", "metadata", "instance-data", "169.254.169.254.nip.io"), ("169.254.169.254",)
    ),
    **dict.fromkeys(
        ("metadata.tencentyun.com", "instance-data.ec2.internal", "metadata.azure.internal"), ("169.254.0.23",)
    ),
    "metadata.aliyun.example": ("100.100.100.200",),
    "metadata6.ec2.example": ("fd00:ec2::254",),
    "wireserver.azure.example": ("168.63.129.16",),
    "kubernetes.default.svc.cluster.local": ("10.96.0.1",),
    "host.docker.internal": ("172.17.0.1", "192.168.65.2"),
    "router.lan": ("192.168.0.1", "fe80::1"),
    "xn--e1afmkfd.example": (LOOPBACK,),
    "nat64.example": ("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    "mapped.example": ("::ffff:127.0.0.1", "::ffff:169.254.169.254"),
    "all-bad.example": ("127.0.0.1", "127.0.0.2", "::1", "10.0.0.1", "fe80::1"),
    "many.example": tuple(f"127.0.{i}.1" for i in range(40)),
}
_SPELLED_NAMES: Mapping[str, tuple[str, ...]] = {
    # As it is looked up -> how else it may be written.
    "localhost": (
        *("LOCALHOST", "LoCaLhOsT", "ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "%6cocalhost", "%6C%6F%63%61%6C%68%6F%73%74"),
        *("loca\u00adlhost", "lo\tcal\nhost", "𝗅𝗈𝖼𝖺𝗅𝗁𝗈𝗌𝗍", "loca\u200blhost", "ℒocalhost", "localhoſt"),
    ),
    "localhost.": ("LOCALHOST.", "localhost。", "localhost%2e"),
    "x.localhost": ("X。LOCALHOST", "x%2elocalhost"),
    "metadata.google.internal": (
        "METADATA.GOOGLE.INTERNAL",
        "metadata。google。internal",
        "metadata．google．internal",
    ),
    "xn--e1afmkfd.example": ("пример.example", "ПРИМЕР.example", "%D0%BF%D1%80%D0%B8%D0%BC%D0%B5%D1%80.example"),
}


def names() -> dict[str, tuple[str, ...]]:
    """What the table's name server knows: name -> addresses."""
    known = dict(_NAMED)
    for i, block in enumerate(SPECIAL_BLOCKS):
        for place, address in _ends(block).items():
            known[f"{place}.block-{i}.example"] = (address,)
    return known


def _ends(block: str) -> dict[str, str]:
    network = ipaddress.ip_network(block)
    middle = network[network.num_addresses // 2]
    return {"first": str(network[0]), "middle": str(middle), "last": str(network[-1])}


def _named() -> Iterator[Spelling]:
    for name, addresses in names().items():
        yield Spelling("name", f"http://{name}:{{inside}}/", addresses[0])
        for written in _SPELLED_NAMES.get(name, ()):
            yield Spelling("name, spelled", f"http://{written}:{{inside}}/", addresses[0])


def table() -> tuple[Spelling, ...]:
    """Every row."""
    return (*_v4_spellings(), *_v6_spellings(), *_confusions(), *_named())


def look_up(host: str, port: int) -> Sequence[str]:
    """The table's name server, which also takes every notation that getaddrinfo takes for an address."""
    known = _KNOWN.get(host)
    if known is not None:
        return known
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()
    return [str(address[4][0]) for address in found]


_KNOWN = names()


# ── what listens where nobody may come ───────────────────────────────────────────────────────────────────────────
class Canary:
    """Listens at one port of addresses of this machine (all of them, IPv4 and IPv6), and counts who comes."""

    def __init__(self, port: int = 0, addresses: Sequence[str] = ("0.0.0.0", "::")) -> None:
        self.came: list[Endpoint] = []  # what was connected to
        self.port = port
        self.own: Counter[Endpoint] = Counter()  # our own visits
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.create_server((address, self.port), family=family, backlog=4096)
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._listeners.append(listener)
            self._selector.register(listener, selectors.EVENT_READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def count(self) -> int:
        """How many came. A visit of our own at each listener, the last in its queue, shows that it still counts."""
        for listener in self._listeners:
            address, port = listener.getsockname()[:2]
            own = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(address, address)
            with socket.create_connection((own, port), 10.0) as connection:
                if connection.recv(1) != b"H":
                    raise AssertionError("the canary is dead")
            self.own[own, port] += 1
        return len(self.came) - self.own.total()

    def forget(self) -> None:
        """Count from here."""
        self.came.clear()
        self.own.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        for listener in self._listeners:
            listener.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(0.05):
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                with suppress(OSError):  # who came and went again has been counted or was not connected
                    connection, _ = listener.accept()
                    with connection:
                        self.came.append(connection.getsockname()[:2])
                        connection.setblocking(True)
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n" + SECRET
                        )
