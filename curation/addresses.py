"""Which network addresses may be connected to: an own table, by the address itself, never by its name.

Python's `ipaddress.is_global` calls NAT64, 6to4, IPv4-compatible and multicast addresses public, so it is not asked.
Sources: IANA special-purpose registries (RFC 6890 and successors), IPv6 global unicast allocation (2000::/3),
WHATWG Fetch "bad port" list.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from policy.errors import ConfigurationError

_FORBIDDEN_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared address space",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "cloud metadata",  # Azure's wire server: in public space, answers only inside
    "169.254.0.0/16": "link-local",  # and the metadata services of most clouds
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "IETF protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "AS112",
    "192.52.193.0/24": "AMT",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "AS112",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # mapped, NAT64, ULA, link-local, multicast, … all lie outside
_FORBIDDEN_V6 = {
    "2001::/23": "IETF protocol assignments",  # Teredo, ORCHID, benchmarking, AMT, …
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "AS112",
    "3ffe::/16": "6bone",
    "3fff::/20": "documentation",
}
_V4 = tuple((ipaddress.IPv4Network(net), why) for net, why in _FORBIDDEN_V4.items())
_V6 = tuple((ipaddress.IPv6Network(net), why) for net, why in _FORBIDDEN_V6.items())

# Ports where an HTTP request would be read as another protocol's words (WHATWG Fetch, "bad port").
_BAD_PORTS = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77),
        *(79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161),
        *(179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636),
        *(
            989,
            990,
            993,
            995,
            1719,
            1720,
            1723,
            2049,
            3659,
            4045,
            4190,
            5060,
            5061,
            6000,
            6379,
            6566,
            6665,
            6666,
            6667,
            6668,
        ),
        *(6669, 6679, 6697, 10080, 11211),
    }
)

Endpoint = tuple[str, int]


@lru_cache(maxsize=65536)
def forbidden_address(address: str, port: int) -> str | None:
    """Why this address may not be connected to, or None. What cannot be read as an address is forbidden."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(ip, ipaddress.IPv4Address):
        why = next((why for network, why in _V4 if ip in network), None)
    elif ip not in _GLOBAL_V6:
        why = "not global unicast"
    else:
        why = next((why for network, why in _V6 if ip in network), None)
    if why is None and port in _BAD_PORTS:
        return f"port {port}"
    return why


def parse_endpoint(text: str) -> Endpoint:
    """Read an exact "address:port" (IPv6 in brackets); raises ConfigurationError for anything else."""
    host, colon, port = text.rpartition(":")
    try:
        if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(text)
        bracketed = host.startswith("[") and host.endswith("]")
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (ip.version == 6):
            raise ValueError(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is not an address with its port",
            where="allow_addresses",
            remedy='Write it exactly, as "127.0.0.1:8001" or "[::1]:8001"',
        ) from error
    return str(ip), int(port)


def endpoint_text(address: str, port: int) -> str:
    """`127.0.0.1:8001` or `[::1]:8001`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
