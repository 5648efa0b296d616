"""What every mechanism asks of one evidence, looked up once for all of them, one after the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from policy.evidence import Evidence, OriginEvidence
from policy.origins import origin_of


class Asked(NamedTuple):
    """`origins`: every URL whose origin has a say, with what that origin says of itself (None: it was not asked).

    `header_names`: the names of all headers that were seen, the page's and each hop's, in lower case.
    `all_seen`: whether no response is missing among them.
    """

    origins: Mapping[str, OriginEvidence | None]
    header_names: frozenset[str]
    all_seen: bool


def asked(evidence: Evidence) -> Asked:
    """The URLs are the image's, the page's, each redirect's, and a refused one if it was asked."""
    global _last
    known, found = _last
    if known is not evidence or found is None:
        found = _asked(evidence)
        _last = evidence, found
    return found


_last: tuple[Evidence | None, Asked | None] = None, None


def _asked(evidence: Evidence) -> Asked:
    page, hops, headers = evidence.page_url, evidence.hops, evidence.page_headers
    urls = [evidence.image_url, *([page] if page else []), *(hop.url for hop in hops or ())]
    if evidence.refused_url is not None and evidence.origin(origin_of(evidence.refused_url)) is not None:
        urls.append(evidence.refused_url)
    names = {name.strip().lower() for hop in hops or () for name, _ in hop.headers}
    if headers is not None:
        names.update(name.strip().lower() for name, _ in headers)
    return Asked(
        {url: evidence.origin(_origin_of(url)) for url in dict.fromkeys(urls)},
        frozenset(names),
        hops is not None and (headers is not None or page is None),
    )


def _origin_of(url: str) -> str:
    """`origin_of`, which is slow for a URL it has not seen: where all before the path is plain, that says it."""
    end = url.find("/", 8)
    return origin_of(url[:end]) if end > 0 and _PLAIN.fullmatch(url, 0, end) else origin_of(url)


_PLAIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?")
