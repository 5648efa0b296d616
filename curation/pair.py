"""The thing that travels: an image on a page with the text beside it, and the keys everything is known by.

URLs are parsed as browsers do (WHATWG URL Standard, by Ada), so that every spelling of an address is one address:
`http://0x7f.1/` is `http://127.0.0.1/` before anybody judges it.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from urllib.parse import unquote_plus

import can_ada

from policy.errors import InputError
from policy.evidence import LicenceClaim

MAX_URL_CHARS = 8192

# Query parameters that make a URL a bearer's secret or a signed, expiring grant (AWS, Google, Azure, Alibaba, Tencent,
# CloudFront, OAuth). Such URLs are neither fetched nor stored: they were given to somebody, not published.
SIGNATURE_PARAMETERS = frozenset(
    {
        *("x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid"),
        *("x-goog-signature", "x-goog-credential", "googleaccessid"),
        *("x-oss-signature", "ossaccesskeyid", "x-cos-signature", "q-signature"),
        *("signature", "sig", "key-pair-id", "access_token", "auth_token"),
    }
)


@dataclass(frozen=True, slots=True)
class ImageTextPair:
    """An image as it occurs on a page.

    `alt` is the text beside it (whitespace normalised) and `text_origin` says where that came from
    (alt | figcaption | title); both are None where there is none. `raw_alt` is the attribute as written: None when it
    is missing, "" when the author declared the image decorative. `alternates` are the other URLs under which the page
    offers the same picture (srcset, <picture>). `licence_claims` are all that cover it, the page's own included.
    """

    page_url: str | None
    image_url: str
    alt: str | None
    text_origin: str | None
    raw_alt: str | None = None
    licence_claims: tuple[LicenceClaim, ...] = ()
    alternates: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The pair's key, in hex."""
        return pair_key(self.page_url, self.image_url, self.alt)

    @property
    def url_key(self) -> str:
        """The key of the image's URL, in hex."""
        return url_key(self.image_url)

    @property
    def page_key(self) -> str | None:
        """The key of the page's URL, in hex."""
        return None if self.page_url is None else url_key(self.page_url)


def canonical_url(url: str, base: str | None = None) -> str:
    """The one spelling of an http(s) URL: WHATWG parsing against `base`, default port and fragment dropped.

    Raises InputError when it cannot be parsed, is no http(s) URL, or is longer than `MAX_URL_CHARS`.
    """
    if len(url) > MAX_URL_CHARS:
        raise InputError(f"the URL is longer than {MAX_URL_CHARS} characters", where=url[:80] + "…")
    return UrlBase(base).join(url) if base is not None else _canonical(_parse(url), url)


class UrlBase:
    """A page's base URL, parsed once for its many links."""

    __slots__ = ("_base",)

    def __init__(self, base: str) -> None:
        self._base = _parse(base)

    def join(self, url: str) -> str:
        """`canonical_url(url, base)`; raises InputError."""
        if len(url) > MAX_URL_CHARS:
            raise InputError(f"the URL is longer than {MAX_URL_CHARS} characters", where=url[:80] + "…")
        try:
            parsed = self._base + url
        except (ValueError, TypeError) as error:
            raise _no_url(url) from error
        return _canonical(parsed, url)


def secret_in_url(canonical: str) -> str | None:
    """Why this canonical URL may be neither fetched nor stored ("userinfo", "signed-url"), or None."""
    authority = canonical.split("/", 3)[2]
    if "@" in authority:
        return "userinfo"
    _, mark, query = canonical.partition("?")
    if mark and any(_parameter_name(part) in SIGNATURE_PARAMETERS for part in query.split("&")):
        return "signed-url"
    return None


@functools.lru_cache(maxsize=16_384)  # the crawler asks of the same URL four times
def origin_of(url: str) -> str:
    """`https://host[:port]` of a URL, the default port left out; raises InputError."""
    parsed = _parse(url)
    if parsed.protocol not in ("http:", "https:"):
        raise _no_url(url)
    origin: str = parsed.origin
    return origin


def host_of(url: str) -> str:
    """The host of a URL without its port: a name in ASCII, an IPv4 address, or an IPv6 address in brackets."""
    host: str = _parse(url).hostname
    return host


def port_of(url: str) -> int:
    """The port a URL is asked at."""
    parsed = _parse(url)
    return int(parsed.port) if parsed.port else {"http:": 80, "https:": 443}.get(parsed.protocol, 0)


def url_key(canonical: str) -> str:
    """blake2b-16 of a canonical URL, in hex."""
    return _blake2b_16(canonical)


def pair_key(page_url: str | None, image_url: str, alt: str | None) -> str:
    """blake2b-16 of page URL, image URL and text, joined by NUL, in hex."""
    return _blake2b_16("\0".join((page_url or "", image_url, alt or "")))


def sample_key(content_sha256: str, caption: str, caption_origin: str) -> str:
    """blake2b-16 of content digest, caption and its origin, joined by NUL, in hex: the WebDataset `__key__`."""
    return _blake2b_16("\0".join((content_sha256, caption, caption_origin)))


def _blake2b_16(text: str) -> str:
    # A lone surrogate can reach us from a JSON escape; it must give a key, not an exception.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _parse(url: str) -> can_ada.URL:
    try:
        return can_ada.parse(url)
    except (ValueError, TypeError) as error:  # TypeError: not valid Unicode
        raise _no_url(url) from error


def _canonical(parsed: can_ada.URL, given: str) -> str:
    if parsed.protocol not in ("http:", "https:"):
        raise _no_url(given)
    if parsed.has_hash():
        parsed.hash = ""
    href: str = parsed.href
    if len(href) > MAX_URL_CHARS:
        raise InputError(f"the URL is longer than {MAX_URL_CHARS} characters", where=href[:80] + "…")
    return href


def _parameter_name(parameter: str) -> str:
    name = parameter.partition("=")[0]
    return unquote_plus(name).strip().lower()


def _no_url(url: str) -> InputError:
    return InputError("not an http or https URL", where=repr(url[:200]), remedy="Write it as https://host/path")
