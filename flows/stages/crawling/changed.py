"""Pixels that are kept in another way than before: what was measured and said of the old ones stands no more.

An edited face rule changes what is kept of the same bytes: faces are blurred now, or are not any more. Scores, captions
and duplicates are of the kept pixels, and are looked up by the bytes. So the crawl that replaces the pixels takes back
what was said of them, by rows that say nothing in its place; `custody look` and `custody caption` then ask anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flows.home import Home
from flows.stages.duplicates import forget_vectors
from policy.ledger import Ledger

# How the pixels of each content were changed, as its newest evidence has it.
_TRANSFORMS = """
SELECT content_sha256, json_extract(body_json, '$.transforms')::VARCHAR FROM evidence
WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[])) AND body_json IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_SCORES = """
SELECT DISTINCT content_sha256, name, model_digest FROM score
WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL
"""
_COMPARED = "SELECT DISTINCT content_sha256 FROM duplicate WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[]))"
_CAPTION = (
    *("sample_key", "pair_key", "content_sha256", "caption", "caption_origin", "source", "source_kind", "model_name"),
    *("model_digest", "model_run"),
)
_CAPTIONS = f"""
SELECT {", ".join(_CAPTION)} FROM caption
WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[])) AND model_digest IS NOT NULL AND sample_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY sample_key, pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    AND state <> 'withdrawn'
ORDER BY ALL
"""  # noqa: S608  # names of ours
TAKEN_BACK = "taken-back"  # a method of `duplicate` by which nothing was compared

Batches = list[tuple[str, list[dict[str, object]], str]]


def changed_contents(ledger: Ledger, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The contents of a picture part whose kept pixels are another version than those on record, in order.

    To be asked before the part's evidence is appended. Of what nobody looked at no pixels were kept.
    """
    kept = {str(row["content_sha256"]): row["transforms_json"] for row in rows if row["faces_json"] is not None}
    if not kept:
        return []
    before = ledger.query(_TRANSFORMS, [list(kept)])
    return sorted(sha for sha, said in before if json.loads(said or "[]") != json.loads(kept[sha] or "[]"))


def taken_back(home: Home, ledger: Ledger, contents: Sequence[str], key: str, now: datetime) -> Batches:
    """What takes back all that was measured and said of these contents' former pixels; their embeddings are forgotten.

    Texts of their pages stay, and so does what was measured on their original bytes.
    """
    if not contents:
        return []
    forget_vectors(home, contents)
    scores: list[dict[str, object]] = [
        {"content_sha256": sha, "name": name, "value": None, "model_digest": digest, "observed_at": now}
        for sha, name, digest in ledger.query(_SCORES, [list(contents)])
    ]
    compared: list[dict[str, object]] = [
        {
            "content_sha256": sha,
            "representative_sha256": sha,
            "method": TAKEN_BACK,
            "distance": 0.0,
            "verified": True,
            "observed_at": now,
        }
        for (sha,) in ledger.query(_COMPARED, [list(contents)])
    ]
    captions: list[dict[str, object]] = [
        dict(zip(_CAPTION, row, strict=True)) | {"state": "withdrawn", "captioned_at": now}
        for row in ledger.query(_CAPTIONS, [list(contents)])
    ]
    named = (("score", scores), ("duplicate", compared), ("caption", captions))
    return [(table, rows, f"{key}/{table}/{TAKEN_BACK}") for table, rows in named if rows]
