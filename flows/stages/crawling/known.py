"""What the ledger knows of URLs that are asked again: validators for a conditional request, and what they stand for.

A "304 Not Modified" is as good as the body only where everything that was made of the body is still here: the page's
HTML, or the picture's facts under the present settings and its pixels. Where something is missing nothing is
conditional.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curation.face_detection import chosen_detector_id
from curation.faces.blurring import BLUR_ID
from curation.fetch import Fetched, validators
from curation.images import read_header
from curation.pair import url_key
from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.crawling.rows import hops_of
from flows.stages.faces import blur_from, detector_choice
from policy.errors import InputError
from policy.evidence import Headers, Hop
from policy.ledger import Ledger
from policy.people import FACES
from policy.signals import registry

# The newest complete answer of each URL: its final headers, and the digest of what it held.
_LAST = """
SELECT url_key, hops_json, body_sha256 FROM "fetch"
WHERE kind = $kind AND url_key IN (SELECT unnest($keys::VARCHAR[])) AND outcome IN ('ok', 'not-modified')
QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_BODIES = (
    "SELECT body_sha256, body FROM document WHERE body IS NOT NULL AND body_sha256 IN (SELECT unnest(?::VARCHAR[]))"
)
# What was measured of a picture, and the evidence of any pair that shows it: the rest of what was read in its bytes.
_FACTS = """
WITH measured AS (
    SELECT * FROM content WHERE url_key IN (SELECT unnest(?::VARCHAR[]))
    QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1
), shown AS (
    SELECT o.url_key, e.content_sha256, e.body_json
    FROM occurrence o JOIN evidence e USING (pair_key) SEMI JOIN measured USING (url_key)
    WHERE e.body_json IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY o.url_key ORDER BY e.batch_seq DESC, e.row_no DESC) = 1
)
SELECT m.url_key, m.content_sha256, m.media_type, m.size_bytes, m.width, m.height, m.pdq, m.pdq_quality, m.faces_json,
       m.face_detector, shown.body_json
FROM measured m JOIN shown ON shown.url_key = m.url_key AND shown.content_sha256 = m.content_sha256
"""
_FACT_NAMES = ("content_sha256", "media_type", "size_bytes", "width", "height", "pdq", "pdq_quality", "faces_json")


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A URL's last complete answer. `row`: the columns of a part's row that a 304 confirms; `body`: a page's HTML."""

    headers: Headers
    row: Mapping[str, Any]
    body: bytes | None = None

    @property
    def validators(self) -> tuple[tuple[str, str], ...]:
        """The headers that make a request conditional; empty where the server gave nothing to go by."""
        return validators(self.headers)

    def confirmed(self, fetched: Fetched) -> Fetched:
        """A 304 as the answer that it confirms: the stored headers, updated by those that came (RFC 9111, 3.2).

        What is not repeated stays: a "noai" of before is still said.
        """
        last = fetched.hops[-1]
        return replace(fetched, hops=(*fetched.hops[:-1], Hop(last.url, 200, updated(self.headers, last.headers))))


def updated(stored: Headers, fresh: Headers) -> Headers:
    """Stored headers updated by those of a 304: a name that came anew replaces its like, all others stay."""
    said = {name.lower() for name, _ in fresh} - _OF_THE_BODY
    kept = tuple((name, value) for name, value in stored if name.lower() not in said)
    return (*kept, *((name, value) for name, value in fresh if name.lower() in said))


# They describe the body, which did not come (RFC 9111, 3.2).
_OF_THE_BODY = frozenset({"content-length", "content-encoding", "content-range", "content-type", "transfer-encoding"})


def known_pages(ledger: Ledger, urls: Sequence[str]) -> dict[str, KnownAnswer]:
    """The last HTML of each page that the ledger holds."""
    keys = {url_key(url): url for url in urls}
    last = ledger.query(_LAST, {"kind": "page", "keys": list(keys)})
    wanted = sorted({sha for _, _, sha in last if sha is not None})
    bodies = {sha: bytes(body) for sha, body in ledger.query(_BODIES, [wanted])} if wanted else {}
    return {
        keys[key]: KnownAnswer(headers, {"body_sha256": sha}, bodies[sha])
        for key, hops, sha in last
        if sha in bodies and (headers := _direct(hops)) is not None
    }


def known_pictures(home: Home, ledger: Ledger, urls: Sequence[str]) -> dict[str, KnownAnswer]:
    """The last picture under each URL whose facts are whole and whose pixels are kept as they are kept now."""
    keys = {url_key(url): url for url in urls}
    last = {k: (hops, sha) for k, hops, sha in ledger.query(_LAST, {"kind": "image", "keys": list(keys)})}
    facts = ledger.query(_FACTS, [list(last)]) if last else []
    pixels, detector = PixelStore(home.pixels_path), _detector(home)
    needed = {"embedded", "c2pa", *(("content_md5",) if registry.MECHANISM in home.ruleset.mechanisms else ())}
    known = {}
    for key, *measured, face_detector, body in facts:
        row = dict(zip(_FACT_NAMES, measured, strict=True)) | {"face_detector": face_detector}
        hops, sha = last[key]
        headers, evidence = _direct(hops), json.loads(body)
        if headers is None or row["content_sha256"] != sha or not needed <= evidence.keys():
            continue
        if detector is not None and face_detector != detector:
            continue
        if not _is_blurred_as_asked(evidence, blur_from(home)):
            continue
        if not _is_kept(pixels, sha, home.settings.images.size, row["width"], row["height"]):
            continue
        row["content_md5"] = evidence.get("content_md5")
        row["faces_blurred"] = evidence.get("faces_blurred")
        row["transforms_json"] = json.dumps(evidence["transforms"]) if "transforms" in evidence else None
        row |= {f"{name}_json": json.dumps(evidence[name]) for name in ("embedded", "c2pa")}
        known[keys[key]] = KnownAnswer(headers, row)
    return known


def _direct(hops: str) -> Headers | None:
    """The headers of an answer without redirects: of others the validators are not the asked URL's."""
    found = hops_of(hops)
    return found[0].headers if len(found) == 1 else None


def _detector(home: Home) -> str | None:
    return chosen_detector_id(detector_choice(home)) if FACES in home.ruleset.mechanisms else None


def _is_kept(pixels: PixelStore, sha: str, size_px: int, width: int, height: int) -> bool:
    """Whether the pixels are here, in the size that the settings ask for."""
    try:
        header = read_header(pixels.get(sha))
    except InputError:  # not here, or no picture: DecodeError is one
        return False
    return min(header.width, header.height) == min(size_px, width, height)


def _is_blurred_as_asked(evidence: Mapping[str, Any], score: float | None) -> bool:
    """Whether the kept pixels were blurred where the ruleset asks for it now, from its score, and only there."""
    asked = score is not None and any(not face["score"] < score for face in evidence.get("faces", ()))
    done = any(str(transform).startswith(BLUR_ID) for transform in evidence.get("transforms", ()))
    same = score is None or any(str(t).endswith(f" from={score:g}") for t in evidence.get("transforms", ()))
    return done and same if asked else not done
