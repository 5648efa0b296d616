"""Languages: where the ruleset asks for some, each alt text's is told and kept in its evidence."""

from __future__ import annotations

from dataclasses import replace

from flows.home import Home
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.text import TEXT
from policy.verdict import Verdict

OBSERVER = "custody-language/1"
PAIRS_AT_ONCE = 2_000

# A text that a crawl brings comes in new evidence, which says nothing of its language yet.
_UNTOLD = """
WITH passing AS (
    SELECT pair_key FROM latest_decision GROUP BY pair_key
    HAVING bool_and(verdict IN ('allow', 'unset') OR verdict = $defer)
       AND coalesce(bool_or(rule = $text AND reason_code IN ('not-observed', 'alt-text', 'text-language')), false)
), newest AS (
    SELECT pair_key, body_json FROM evidence SEMI JOIN passing USING (pair_key) WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT pair_key FROM newest WHERE body_json LIKE '%"alt":"%' AND json_extract(body_json, '$.text_language') IS NULL
ORDER BY pair_key
"""


def tell_languages(home: Home, progress: Progress = silent) -> int:
    """Tell the language of every alt text of which it is not known and on which it hangs; returns of how many.

    Nothing is judged: `decide` does that. Raises ConfigurationError when the detector's weights are missing.
    """
    if not home.ruleset.text.languages:
        return 0
    from curation.language import detect_all

    with home.ledger(readonly=True) as ledger:
        untold = [pair for (pair,) in ledger.query(_UNTOLD, {"text": TEXT, "defer": Verdict.DEFER.value})]
    for start in range(0, len(untold), PAIRS_AT_ONCE):
        part = untold[start : start + PAIRS_AT_ONCE]
        with home.ledger() as ledger:
            evidence = newest_evidence(ledger, part)
            told = detect_all([evidence[pair].alt or "" for pair in part])
            written = [
                (pair, replace(evidence[pair], text_language=language, observer=OBSERVER))
                for pair, language in zip(part, told, strict=True)
            ]
            head, _ = ledger.head()
            ledger.append_many(evidence_batches(ledger, written, "language", f"language/{head}/{unit_id(*part)}"))
        progress(min(start + PAIRS_AT_ONCE, len(untold)), len(untold), "languages: ")
    return len(untold)
