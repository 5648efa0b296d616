"""Caption: what has no text, or one that does not fit, is asked of a captioner; a CLIP of our own learns first.

A unit of work is some thousand pictures. Their captions are appended a chunk at a time, with the evidence that they
change: a run that was killed asks those that have no answer yet, and nobody twice. A picture is asked once a model; it
is asked again where the answer on record would be another under the threshold of now, and where it was deferred before
that was measured, or before the bank had grown to what it is: it may have a better text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from curation.pair import sample_key
from flows.home import Home, utc_now
from flows.pace import Pace
from flows.stages.agreement import score_agreement
from flows.stages.captioning.bank import StandingTexts, bank_path, phrases
from flows.stages.captioning.growth import grown_at
from flows.stages.captioning.models import RETRIEVAL, CaptionerChoice, KeptFrom
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.stages.seal import seal
from flows.stages.train import register_run, train_clip
from flows.terminal import Progress, silent
from policy.errors import CustodyError
from policy.evidence import Evidence
from policy.ledger import Ledger
from policy.text import CAPTION_WANTED

if TYPE_CHECKING:
    from curation.captions import Captioner, CaptionResult
    from training.clip import ClipResult

__all__ = ["CAPTION_ORIGIN", "CaptionSummary", "Captioning", "caption", "needs_training", "phrases", "train_captioner"]

CAPTION_ORIGIN = "clip-retrieval"
OBSERVER = "custody-caption/1"
UNIT = 1_024  # pictures of one unit of work
CHUNK = 128  # of one append

# Pairs that only lack a text that fits: every other rule lets them pass. One a content; equal bytes get the same
# caption. `score`, `state`: what the model has said of it, if it was asked.
_LACKING_TEXT = """
WITH lacking AS (
    SELECT pair_key FROM latest_decision GROUP BY pair_key
    HAVING bool_and(verdict IN ('allow', 'unset') OR rule = 'text')
       AND bool_or(rule = 'text' AND list_contains($wanted::VARCHAR[], reason_code))
), content_of AS (
    SELECT pair_key, content_sha256 FROM evidence WHERE pair_key IS NOT NULL AND content_sha256 IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
), asked AS (
    SELECT content_sha256, score, state, captioned_at FROM caption
    WHERE model_digest = $model AND caption_origin = $origin AND ($name IS NULL OR model_name = $name)
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT content_sha256, list(pair_key ORDER BY pair_key), any_value(score), any_value(state),
    any_value(captioned_at)
FROM lacking JOIN content_of USING (pair_key) LEFT JOIN asked USING (content_sha256)
GROUP BY content_sha256 ORDER BY content_sha256
"""
_ASKED = """
SELECT state, score, caption, sample_key FROM caption
WHERE model_digest = ? AND caption_origin = ? AND content_sha256 IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
ORDER BY score DESC, sample_key
"""

Waiting = tuple[str, list[str]]
"""A content and the pairs that show it."""


@dataclass(frozen=True, slots=True)
class CaptionSummary:
    """What the captioner's model has captioned so far. `examples`: (score, caption, sample key).

    `bank`: texts that may be chosen. Of this run: `unreadable` pictures, whose pixels are gone, no picture, or too few
    to show something, and `unanswered` ones, for which no text is left that may be given.
    """

    model: str
    model_digest: str
    run: str | None
    threshold: float
    bank: int
    asked: int
    kept: int
    deferred: int
    examples: tuple[tuple[str, str, str], ...]
    unreadable: int = 0
    unanswered: int = 0


def needs_training(home: Home) -> bool:
    """Whether custody.toml asks for a CLIP of our own that is not trained to its end yet."""
    if (home.settings.captions.kind, home.settings.captions.pretrained) != (RETRIEVAL, "trained:latest"):
        return False
    from curation.clip_model import RETRIEVAL_FILE

    return not any((run / RETRIEVAL_FILE).is_file() for run in home.runs_path.glob("clip-*"))


def train_captioner(home: Home, progress: Progress = silent, *, dataset: str | None = None) -> ClipResult:
    """Train the captioner's CLIP on allowed pairs that have a text of their own: a CLIP whose pairs can be listed."""
    if dataset is None:
        own_text = "caption_origin IN ('alt', 'figcaption', 'title')"
        dataset = seal(home, where=own_text, purpose="clip", progress=progress).dataset
    return train_clip(home, dataset, progress=progress)


def caption(home: Home, progress: Progress = silent) -> CaptionSummary:
    """Caption what lacks only a text that fits, keep what is sure enough, then judge anew.

    Raises:
        ConfigurationError: the model of custody.toml cannot be had, a phrase list cannot be read, or no threshold is
            known and there are too few pairs to measure one.
    """
    captioning = Captioning(home, progress)
    for unit in range(captioning.units):
        captioning.do(unit)
    return captioning.finish()


class Captioning:
    """A run: what waits is known when it begins, its units are done one after the other, then all is judged.

    Model and bank are loaded by the first unit, so that a run in which nothing waits costs next to nothing.
    """

    def __init__(self, home: Home, progress: Progress = silent) -> None:
        self._home, self._progress = home, progress
        self.choice = CaptionerChoice(home)
        self._unreadable = self._unanswered = 0
        if self.choice.run_dir is not None:
            register_run(home, self.choice.run_dir)  # its training may have been killed after its last file
        if asks_agreement(home):
            score_agreement(home, self.choice.loaded.clip, progress, run=self.choice.run)
            decide(home, progress)
        # Of a CoCa, which writes its own texts, and of a measured threshold, which has its own time, it is not asked.
        is_set = home.settings.captions.threshold and self.choice.decoding is None
        self._grown_at = grown_at(home, self.choice) if is_set else None
        self._waiting = self._find_waiting()
        self._pace = Pace(progress, "caption", len(self._waiting))

    @property
    def units(self) -> int:
        """How many there are to do."""
        return -(-len(self._waiting) // UNIT)

    def do(self, unit: int) -> int:
        """Caption the pictures of one unit; how many that were."""
        pictures = self._waiting[unit * UNIT : (unit + 1) * UNIT]
        for start in range(0, len(pictures), CHUNK):
            chunk = pictures[start : start + CHUNK]
            self._caption(chunk)
            self._pace.add(len(chunk))
        return len(pictures)

    def finish(self) -> CaptionSummary:
        """Judge what has a caption now, and sum up."""
        decide(self._home, self._progress)
        with self._home.ledger(readonly=True) as ledger:
            rows = ledger.query(_ASKED, [self.choice.digest, self.choice.origin])
        kept = [r for r in rows if r[0] == "kept"]
        examples = kept[:: max(len(kept) // 5, 1)][:5]
        return CaptionSummary(
            self.choice.name,
            self.choice.digest,
            self.choice.run,
            self.threshold,
            self._bank_size(),
            len(rows),
            len(kept),
            len(rows) - len(kept),
            tuple((f"{score:.2f}", text, key) for _, score, text, key in examples),
            self._unreadable,
            self._unanswered,
        )

    @property
    def threshold(self) -> float:
        """From which score on a caption is kept."""
        return self.kept_from.threshold

    @cached_property
    def kept_from(self) -> KeptFrom:
        """That score, and when it was measured."""
        return self.choice.kept_from(self._progress)

    @cached_property
    def captioner(self) -> Captioner:
        """Model and bank, loaded."""
        return self.choice.captioner(self.kept_from, len(self._waiting), self._progress)

    def _find_waiting(self) -> list[Waiting]:
        given = {
            "wanted": list(CAPTION_WANTED),
            "model": self.choice.digest,
            "origin": self.choice.origin,
            # What a CoCa says depends on how its words are chosen, too.
            "name": self.choice.name if self.choice.decoding is not None else None,
        }
        with self._home.ledger(readonly=True) as ledger:
            rows = ledger.query(_LACKING_TEXT, given)
            tombstones = self._home.tombstones(ledger)
        waiting = []
        for sha, pairs, score, state, at in rows:
            if not self._is_answered(score, state, at) and not tombstones.covers_content(sha):
                waiting.append((sha, list(pairs)))
        return waiting

    def _is_answered(self, score: float | None, state: str | None, at: datetime | None) -> bool:
        """Whether what the model said of a picture still counts; None where it was not asked."""
        if score is None or state is None or at is None:
            return False
        since = self.kept_from.measured_at or self._grown_at
        is_kept = score >= self.threshold
        return is_kept == (state == "kept") and (is_kept or since is None or at >= since)

    def _caption(self, chunk: Sequence[Waiting]) -> None:
        from curation.captions import chosen

        readable = [(asked, rgb) for asked in chunk if (rgb := _pixels(self._home, asked[0])) is not None]
        self._unreadable += len(chunk) - len(readable)
        if not readable:
            return  # those wait in every run: they must not cost the loading of a model
        proposed = self.captioner.propose([rgb for _, rgb in readable])
        with self._home.ledger() as ledger:
            # Under the lock, so that no removal can be approved between asking for it and writing.
            tombstones = self._home.tombstones(ledger)
            standing = StandingTexts(ledger, tombstones, self._home.ruleset.bank_min_origins)
            results = chosen(self.captioner, proposed, standing)
            answers = [
                (asked, result)
                for (asked, _), result in zip(readable, results, strict=True)
                if result is not None
                and not tombstones.covers_content(asked[0])
                # Without its qualifiers a text may be one that was removed.
                and not tombstones.covers_said({"text": (result.text,)})
            ]
            self._append(ledger, answers)
        self._unanswered += results.count(None)

    def _append(self, ledger: Ledger, answers: Sequence[tuple[Waiting, CaptionResult]]) -> None:
        if not answers:
            return
        evidence = newest_evidence(ledger, [pair for (_, pairs), _ in answers for pair in pairs])
        now, choice = utc_now().replace(tzinfo=None), self.choice
        captions, evidences = [], []
        for (sha, pairs), result in answers:
            captions.append(
                {
                    "sample_key": sample_key(sha, result.text, result.origin),
                    "pair_key": pairs[0],
                    "content_sha256": sha,
                    "caption": result.text,
                    "caption_origin": result.origin,
                    "source": result.source,
                    "source_kind": result.source_kind,
                    "model_name": choice.name,
                    "model_digest": result.model_digest,
                    "model_run": choice.run,
                    "score": result.score,
                    "threshold": self.threshold,
                    "state": "kept" if result.kept else "deferred",
                    "captioned_at": now,
                }
            )
            evidences += [(pair, captioned(evidence[pair], result)) for pair in pairs]
        head, _ = ledger.head()
        key = f"caption/{head}/{unit_id(choice.digest, *(sha for (sha, _), _ in answers))}"
        observed = evidence_batches(ledger, evidences, "caption", key)
        ledger.append_many([("caption", captions, f"{key}/caption"), *observed])

    def _bank_size(self) -> int:
        from curation.caption_bank import CaptionBank

        if "captioner" in self.__dict__:
            return len(getattr(self.captioner, "bank", ()))
        bank = CaptionBank.opened(bank_path(self._home)) if self.choice.decoding is None else None
        return 0 if bank is None else len(bank)


def asks_agreement(home: Home) -> bool:
    """Whether every alt text is to be compared with its picture: custody.toml wants it, or the ruleset has a bound."""
    rules = home.ruleset.text
    return home.settings.captions.agreement or rules.min_agreement > 0 or rules.max_flip_drop > 0


def captioned(evidence: Evidence, result: CaptionResult) -> Evidence:
    """The evidence with what the captioner said; a caption that is not sure enough is a score without a caption."""
    return replace(
        evidence, caption=result.text if result.kept else None, caption_score=result.score, observer=OBSERVER
    )


def _pixels(home: Home, sha: str) -> Any:
    """The kept pixels of a content; None where there are none, or none that show something."""
    from curation.captions import shows_something
    from curation.images import decode
    from curation.pixel_store import PixelStore

    try:
        rgb = decode(PixelStore(home.pixels_path).get(sha))
    except CustodyError:
        return None
    return rgb if shows_something(rgb) else None
