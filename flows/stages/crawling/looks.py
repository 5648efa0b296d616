"""What was measured of pictures that a crawl sees again: it stays said, whenever and wherever the same bytes are seen.

Without it every pair that is crawled again would be deferred until somebody has looked once more. What was measured of
pixels that are kept in another way by now (`changed`) is not said of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import orjson

from policy.evidence import DuplicateOf, Evidence, Score
from policy.ledger import Ledger
from policy.text import AGREEMENT, AGREEMENT_FLIPPED

# The newest evidence of every pair that shows these contents, as far as it tells of their pictures.
_SAID = """
SELECT pair_key, content_sha256, json_extract_string(body_json, '$.alt'),
    json_extract(body_json, '$.scores')::VARCHAR, json_extract(body_json, '$.duplicate')::VARCHAR,
    json_extract(body_json, '$.transforms')::VARCHAR
FROM evidence
WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[])) AND pair_key IS NOT NULL
    AND (contains(body_json, '"scores":[') OR contains(body_json, '"duplicate":{'))
QUALIFY row_number() OVER (PARTITION BY pair_key, content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
ORDER BY batch_seq, row_no
"""
_OF_THE_PAIR = frozenset({AGREEMENT, AGREEMENT_FLIPPED})  # of a picture and its text


_Pixels = tuple[str, tuple[str, ...]]  # a content, and what was done to what is kept of it


@dataclass(slots=True)
class Looks:
    """What is on record of some contents, and of the pairs that show them."""

    _scores: dict[_Pixels, tuple[Score, ...]] = field(default_factory=dict)
    _duplicates: dict[_Pixels, DuplicateOf] = field(default_factory=dict)
    _agreement: dict[tuple[str, _Pixels, str | None], tuple[Score, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, ledger: Ledger, contents: Sequence[str]) -> Self:
        """What the ledger holds; of several pairs' words on one content the latest count."""
        looks = cls()
        for pair, content, alt, scores, duplicate, transforms in (
            ledger.query(_SAID, [list(contents)]) if contents else ()
        ):
            pixels = content, tuple(orjson.loads(transforms)) if transforms else ()
            said = tuple(Score(**score) for score in orjson.loads(scores)) if scores else ()
            if mine := tuple(score for score in said if score.name not in _OF_THE_PAIR):
                looks._scores[pixels] = mine
            looks._agreement[pair, pixels, alt] = tuple(score for score in said if score.name in _OF_THE_PAIR)
            if duplicate:
                looks._duplicates[pixels] = DuplicateOf(**orjson.loads(duplicate))
        return looks

    def onto(self, pair: str, evidence: Evidence) -> Evidence:
        """Evidence that was just observed, with what was measured of its picture before; what it tells itself stays."""
        if evidence.content_sha256 is None:
            return evidence
        pixels = evidence.content_sha256, evidence.transforms
        if pixels not in self._scores and pixels not in self._duplicates:
            return evidence
        agreement = self._agreement.get((pair, pixels, evidence.alt), ())
        return replace(
            evidence,
            scores=evidence.scores or (*self._scores.get(pixels, ()), *agreement),
            duplicate=evidence.duplicate or self._duplicates.get(pixels),
        )
