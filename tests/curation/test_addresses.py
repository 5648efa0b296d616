"""The table of addresses that may never be connected to."""

from __future__ import annotations

import ipaddress

import pytest

from curation.addresses import endpoint_text, forbidden_address, parse_endpoint
from policy.errors import ConfigurationError

FORBIDDEN = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:808:808::", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "2001:10::1", "2001:2::1"),
    *("100::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "3fff::1", "5f00::1", "4000::1"),
    *("fe80::1%eth0", "localhost", "", "127.1", "0x7f000001"),
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_special_purpose_addresses_are_forbidden(address: str) -> None:
    """Everything that is not plainly a public unicast address is refused, in every disguise."""
    assert forbidden_address(address, 80) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"])
def test_public_addresses_are_allowed(address: str) -> None:
    """A public unicast address may be connected to, on a port where HTTP is spoken."""
    assert forbidden_address(address, 443) is None
    assert forbidden_address(address, 8080) is None
    assert forbidden_address(address, 25) == "port 25"


def test_both_ends_of_every_special_v4_range_are_forbidden() -> None:
    """The table agrees with the standard library wherever that calls an IPv4 address non-global."""
    for first_octet in range(256):
        for second in (0, 18, 31, 64, 88, 127, 168, 255):
            address = f"{first_octet}.{second}.99.1"
            if not ipaddress.ip_address(address).is_global:
                assert forbidden_address(address, 80) is not None, address


def test_endpoints_are_exact() -> None:
    """An allow-list entry names one address and one port, and reads back as written."""
    for text in ("127.0.0.1:8001", "[::1]:80"):
        assert endpoint_text(*parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.0.0.1:", "localhost:80", "127.0.0.0/8:80", "127.0.0.1:0", "::1:80", "*:80", "1.1.1.1:٣"]
)
def test_anything_but_an_exact_endpoint_is_refused(text: str) -> None:
    """Names, ranges, wildcards and missing ports never become an exception to the rule."""
    with pytest.raises(ConfigurationError):
        parse_endpoint(text)
