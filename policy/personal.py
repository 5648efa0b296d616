"""The personal columns of the ledger: the one list that commitments, erasure and the needle scan go by.

A plain hash of something guessable is a membership test, so keys and digests of content count as personal.
Tables that are not named hold none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Who asked for a removal, and what a request named that came to nothing, is forgotten by an erasure of its own,
# "forget:<removal>", that reaches these tables alone, and of them rows of that request.
FORGETTING: Final = "forget:"
FORGETTABLE: Final = frozenset({"requester", "removal", "removal_proof"})
# The states, all of them last ones, in which what a request named serves nobody any more.
SPENT: Final = ("rejected", "lifted", "credited", "answered")

PERSONAL_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "document": ("body_sha256", "body"),
    "fetch": ("url", "url_key", "final_url", "hops_json", "body_sha256"),
    "occurrence": ("pair_key", "page_url", "page_key", "image_url", "url_key", "alt", "hints_json"),
    "content": ("content_sha256", "url_key", "pdq", "faces_json"),
    "score": ("content_sha256",),
    "duplicate": ("content_sha256", "representative_sha256"),
    "evidence": ("evidence_id", "pair_key", "content_sha256", "body_json"),
    "evidence_part": ("part_id", "body_json"),
    "caption": ("sample_key", "pair_key", "content_sha256", "caption", "source"),
    "signal": ("pair_key", "evidence_id", "where_found", "value", "document_sha256"),
    "decision": ("pair_key", "evidence_id", "reason_detail", "where_found"),
    "reservation": ("pair_key", "url_key", "evidence_id"),
    "consent": ("giver", "scope", "document_sha256"),
    "registry_entry": ("value",),
    "slot": ("sample_key", "content_sha256", "pair_key", "caption"),
    "attribution": ("title", "creator", "source_url"),
    "export": ("recipient",),
    "removal": ("named_value",),
    "requester": ("identity",),
    "removal_event": ("by_whom", "reason"),
    "removal_match": ("pair_key", "url_key", "content_sha256", "sample_key"),
    "removal_proof": ("domain", "detail"),
    "removal_review": ("by_whom", "reason"),
    "event": ("subject", "detail"),
}
