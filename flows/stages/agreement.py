"""Agreement: CLIP is asked how well each alt text fits its picture, and what is left of that when it is mirrored.

A score is of a picture *and* a text, so it stands in the pair's evidence, beside the text; the table `score`, which is
keyed by content, gets what the best of a picture's texts has. A pair is asked once a CLIP, and again when a new crawl
has brought another text. A CLIP of ours that was trained on the very picture has been told that the two belong
together: its score says so in `by`, and a high one of that kind is no testimony.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flows.home import Home, utc_now
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.evidence import Evidence, Score, canonical_json
from policy.ledger import Ledger
from policy.text import AGREEMENT, AGREEMENT_FLIPPED, CAPTION_WANTED, TEXT
from policy.verdict import Verdict

if TYPE_CHECKING:
    from curation.agreement import Agreed, Agreement, Encoder
    from curation.clip_model import Rgb

OBSERVER = "custody-agreement/1"
CHUNK = 256  # pictures at once
TRAINED_ON_IT = ", trained on this picture"

# Texts that are none, that nobody would use however well they fit, or that a caption stands for.
_HOPELESS = ("caption", *(code for code in CAPTION_WANTED if code not in ("text-disagrees", "text-read-off")))

# Pairs that every rule but the text's lets pass, with a text of their own that may still be used.
_UNSCORED = """
WITH passing AS (
    SELECT pair_key FROM latest_decision GROUP BY pair_key
    HAVING bool_and(verdict IN ('allow', 'unset') OR (rule = $text AND verdict = $defer))
       AND NOT coalesce(bool_or(rule = $text AND list_contains($hopeless::VARCHAR[], reason_code)), false)
), newest AS (
    SELECT pair_key, content_sha256, body_json FROM evidence SEMI JOIN passing USING (pair_key)
    WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT content_sha256, list(pair_key ORDER BY pair_key) FROM newest
WHERE content_sha256 IS NOT NULL AND body_json LIKE '%"alt":"%' AND NOT contains(body_json, $by)
GROUP BY content_sha256 ORDER BY content_sha256
"""
_TRAINED_ON = """
SELECT DISTINCT slot.content_sha256 FROM slot JOIN run USING (dataset)
WHERE run.run = $run AND slot.content_sha256 IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class AgreementSummary:
    """What a run did. `pictures` and `pairs` that were asked; `unreadable`: pictures that cannot be decoded.

    `trained_on`: pairs whose pictures are in the training set of the CLIP that was asked.
    """

    by: str
    pictures: int
    pairs: int
    unreadable: int
    trained_on: int


def score_agreement(
    home: Home, clip: Encoder, progress: Progress = silent, *, run: str | None = None
) -> AgreementSummary:
    """Ask `clip` of every pair with a text that it has not been asked of. `run`: of ours, which trained it.

    Nothing is judged: `decide` does that, where the ruleset asks for it (text.min_agreement, text.max_flip_drop).
    """
    from curation.agreement import Agreement

    agreement = Agreement(clip)
    waiting, trained_on = _waiting(home, agreement.by, run)
    done = pairs = unreadable = trained = 0
    for start in range(0, len(waiting), CHUNK):
        chunk = waiting[start : start + CHUNK]
        with home.ledger() as ledger:
            evidence = newest_evidence(ledger, [pair for _, own in chunk for pair in own])
        readable = [(sha, own, rgb) for sha, own in chunk if (rgb := _pixels(home, sha)) is not None]
        scored = agreement.score(
            [rgb for _, _, rgb in readable], [[evidence[pair].alt or "" for pair in own] for _, own, _ in readable]
        )
        with home.ledger() as ledger:
            found = [(sha, own, said) for (sha, own, _), said in zip(readable, scored, strict=True)]
            _append(ledger, found, evidence, agreement, clip.digest, trained_on)
        unreadable += len(chunk) - len(readable)
        pairs += sum(len(own) for _, own, _ in readable)
        trained += sum(len(own) for sha, own, _ in readable if sha in trained_on)
        done += len(readable)
        progress(min(start + CHUNK, len(waiting)), len(waiting), "agreement: ")
    return AgreementSummary(agreement.by, done, pairs, unreadable, trained)


def _waiting(home: Home, by: str, run: str | None) -> tuple[list[tuple[str, list[str]]], frozenset[str]]:
    """Contents with the pairs to be asked of, and the contents that the CLIP's own run was trained on."""
    from curation.pixel_store import PixelStore

    given = {
        "text": TEXT,
        "defer": Verdict.DEFER.value,
        "hopeless": list(_HOPELESS),
        # In canonical JSON this stands nowhere but in a score: within a text its marks would be escaped.
        "by": canonical_json({"by": by})[1:-2],
    }
    with home.ledger() as ledger:
        waiting = [(sha, list(pairs)) for sha, pairs in ledger.query(_UNSCORED, given)]
        trained_on = frozenset(sha for (sha,) in ledger.query(_TRAINED_ON, {"run": run})) if run else frozenset()
        tombstones = home.tombstones(ledger)
    kept = frozenset(PixelStore(home.pixels_path).keys())
    return [(sha, own) for sha, own in waiting if sha in kept and not tombstones.covers_content(sha)], trained_on


def _append(
    ledger: Ledger,
    scored: Sequence[tuple[str, list[str], tuple[Agreed, ...]]],
    evidence: dict[str, Evidence],
    agreement: Agreement,
    digest: str,
    trained_on: frozenset[str],
) -> None:
    now = utc_now().replace(tzinfo=None)
    rows, written = [], []
    for sha, own, said in scored:
        by = agreement.by + (TRAINED_ON_IT if sha in trained_on else "")
        best = max(said, key=lambda agreed: agreed.score)
        rows += [
            {"content_sha256": sha, "name": name, "value": value, "model_digest": digest, "observed_at": now}
            for name, value in ((AGREEMENT, best.score), (AGREEMENT_FLIPPED, best.flipped))
        ]
        written += [(pair, agreed_on(evidence[pair], a, by)) for pair, a in zip(own, said, strict=True)]
    if rows:
        head, _ = ledger.head()
        key = f"agreement/{head}/{unit_id(digest, *(sha for sha, _, _ in scored))}"
        ledger.append_many([("score", rows, f"{key}/score"), *evidence_batches(ledger, written, "agreement", key)])


def agreed_on(evidence: Evidence, agreed: Agreed, by: str) -> Evidence:
    """The evidence with what a CLIP said of its picture and its text; what another said of the two goes."""
    others = tuple(score for score in evidence.scores if score.name not in (AGREEMENT, AGREEMENT_FLIPPED))
    new = (Score(AGREEMENT, agreed.score, by), Score(AGREEMENT_FLIPPED, agreed.flipped, by))
    return replace(evidence, scores=(*others, *new), observer=OBSERVER)


def _pixels(home: Home, content_sha256: str) -> Rgb | None:
    from curation.images import DecodeError, decode
    from curation.pixel_store import PixelStore

    try:
        return decode(PixelStore(home.pixels_path).get(content_sha256))
    except DecodeError:
        return None
