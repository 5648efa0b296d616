"""What a person names when they ask: a URL, a key, a sha256 or a picture file, resolved to pairs of the ledger."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from curation.pair import canonical_url, url_key
from policy.errors import InputError
from policy.ledger import Ledger
from policy.tombstones import Tombstones

_PAIRS_BY = {
    "url": "SELECT DISTINCT pair_key FROM occurrence WHERE url_key = $value OR page_key = $value",
    "key": """
        SELECT pair_key FROM occurrence WHERE pair_key = $value OR url_key = $value OR page_key = $value
        UNION SELECT e.pair_key FROM caption c JOIN evidence e USING (content_sha256) WHERE c.sample_key = $value
    """,
    "sha256": "SELECT DISTINCT pair_key FROM evidence WHERE content_sha256 = $value AND pair_key IS NOT NULL",
}


@dataclass(frozen=True, slots=True)
class Named:
    """What was named: kind url | key | sha256, and the value that the ledger knows it by (a URL: its key)."""

    query: str
    kind: str
    value: str
    url: str | None = None


def read_query(query: str) -> Named:
    """Understand a query.

    Raises:
        InputError: it is neither a URL, nor a key, nor a sha256, nor a file.
    """
    text = query.strip()
    if re.fullmatch(r"[0-9a-f]{32}", text):
        return Named(query, "key", text)
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return Named(query, "sha256", text.lower())
    if "://" in text:
        url = canonical_url(text)
        return Named(query, "url", url_key(url), url)
    if Path(text).is_file():
        return Named(query, "sha256", hashlib.sha256(Path(text).read_bytes()).hexdigest())
    raise InputError(
        f"{query!r} is no http(s) URL, key (32 hex digits), sha256 (64 hex digits) or file",
        where="query",
        remedy="Name the picture by one of these",
    )


def pairs_of(ledger: Ledger, named: Named) -> list[str]:
    """The pairs that a query names, in order of their keys."""
    return sorted(p for (p,) in ledger.query(_PAIRS_BY[named.kind], {"value": named.value}) if p is not None)


def covering(tombstones: Tombstones, named: Named) -> str | None:
    """The removal whose tombstone covers what was named; None: none does. Raises KeyFileError without the key."""
    if named.url is not None:
        return tombstones.covers_url(named.url)
    if named.kind == "sha256":
        return tombstones.covers_content(named.value)
    return tombstones.covers_sample(named.value)
