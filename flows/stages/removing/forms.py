"""The forms in which a value may stand in a file: as it is, escaped, encoded, in base64 at any offset, as raw bytes."""

from __future__ import annotations

import base64
import html
import json
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus, unquote_to_bytes

MIN_TEXT_CHARS: Final = 8  # a shorter one stands in too much that has nothing to do with it
_LONG_CHARS: Final = 96  # from here on passages are looked for: what was cut to fit is found, too
_PASSAGE_CHARS: Final = 48
WINDOW_BYTES: Final = 32  # of a vector
_MIN_DISTINCT: Final = 12  # bytes of a window that differ: a flat one is everywhere


def url_forms(url: str) -> frozenset[bytes]:
    """A URL without its scheme, so that all schemes are found: as is, decoded, encoded, escaped, in base64."""
    bare = bare_url(url)
    escaped = _json_forms(bare)
    spelled = {bare, quote(bare, safe=""), *escaped, *_html_forms(bare)}
    spelled |= {form.replace("/", slash) for form in escaped for slash in ("\\/", "\\\\/")}  # JSON out of PHP
    found = {form.encode("utf-8", "surrogatepass") for form in spelled}
    found |= {unquote_to_bytes(bare), bare.encode("utf-16-le", "surrogatepass")}
    return frozenset(found | {*base64_forms(bare.encode("utf-8", "surrogatepass"))})


def bare_url(url: str) -> str:
    """What follows `https://` or `http://`."""
    return url.partition("://")[2] or url


def passages(text: str) -> tuple[str, ...]:
    """What of a text is looked for: all of it, or of a long one its beginning, its middle and its end."""
    if len(text) <= _LONG_CHARS:
        return (text,)
    middle = (len(text) - _PASSAGE_CHARS) // 2
    parts = (text[:_PASSAGE_CHARS], text[middle : middle + _PASSAGE_CHARS], text[-_PASSAGE_CHARS:])
    return tuple(dict.fromkeys(part.strip() for part in parts))


def text_forms(text: str) -> frozenset[bytes]:
    """A text in its Unicode normal forms, case folded, escaped for JSON (once and twice), HTML and URLs,
    in UTF-16 of both orders (as EXIF has it), Latin-1 (IPTC) and base64.
    """
    spelled = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC")), text.casefold()}
    escaped = {form for one in spelled for form in _json_forms(one) | _html_forms(one)}
    escaped |= {quote(text, safe="", errors="replace"), quote_plus(text, errors="replace")}
    found = {form.encode("utf-8", "surrogatepass") for form in spelled | escaped}
    for encoding in ("utf-16-le", "utf-16-be", "latin-1"):
        try:
            found.add(text.encode(encoding))
        except UnicodeEncodeError:
            continue
    found.update(base64_forms(text.encode("utf-8", "surrogatepass")))
    return frozenset(found)


def digest_forms(digest: str) -> frozenset[bytes]:
    """A digest that is given in hex: in hex of both cases, as raw bytes, and each of them in base64.

    Not raw where its bytes are all but equal, as no digest's are: they would be found in every padding.
    """
    raw, text = bytes.fromhex(digest), digest.lower().encode()
    found = {text, text.upper(), *base64_forms(text)}
    return frozenset(found | {raw, *base64_forms(raw)} if len(set(raw)) > len(raw) // 4 else found)


def base64_forms(data: bytes) -> Iterator[bytes]:
    """What of bytes can be seen in base64 of something that holds them, at each of three offsets (RFC 4648, 4 and 5).

    The characters at both ends that depend on what stands beside them are left out.
    """
    for before, unsure in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(bytes(before) + data)[unsure : (before + len(data)) * 8 // 6]
        yield text
        if b"+" in text or b"/" in text:
            yield text.translate(_URL_SAFE)


def windows(row: bytes) -> frozenset[bytes]:
    """Some windows of raw bytes (a vector) that are not flat: its first, middle and last."""
    places = {0, max(0, (len(row) - WINDOW_BYTES) // 2), max(0, len(row) - WINDOW_BYTES)}
    found = {row[place : place + WINDOW_BYTES] for place in places}
    return frozenset(one for one in found if len(one) == WINDOW_BYTES and len(set(one)) >= _MIN_DISTINCT)


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _json_forms(text: str) -> set[str]:
    """Within a JSON string, with and without \\uXXXX, and within one within another."""
    once = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return once | {json.dumps(form)[1:-1] for form in once}


def _html_forms(text: str) -> set[str]:
    """Within HTML or XML: the quotes escaped or not, other characters as they are or as references."""
    escaped = {html.escape(text, quote=False), html.escape(text), html.escape(text).replace("&#x27;", "&#39;")}
    return escaped | {form.encode("ascii", "xmlcharrefreplace").decode() for form in escaped}
