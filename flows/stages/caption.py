"""Caption: what has no alt text is asked of CLIP; where CLIP is one of our own, it learns first from what has some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.pair import sample_key
from flows.home import Home, utc_now
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.stages.seal import seal
from flows.stages.train import newest_run, register_run, train_clip
from flows.terminal import Progress, silent
from policy.errors import ConfigurationError
from policy.evidence import Evidence
from policy.ledger import Ledger
from policy.origins import host_of, site_of

if TYPE_CHECKING:
    from curation.captions import CaptionBank, CaptionResult, RetrievalCaptioner
    from curation.clip_model import ClipModel
    from training.clip import ClipResult

CAPTION_ORIGIN = "clip-retrieval"
OBSERVER = "custody-caption/1"
CHUNK = 128
CALIBRATION = "calibration.json"

# Pairs that only lack a text: every other rule lets them pass. One a content; equal bytes get the same caption.
_LACKING_TEXT = """
WITH newest AS (
    SELECT pair_key, rule, verdict, reason_code FROM decision WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key, rule ORDER BY batch_seq DESC, row_no DESC) = 1
), lacking AS (
    SELECT pair_key FROM newest GROUP BY pair_key
    HAVING bool_and(verdict IN ('allow', 'unset') OR rule = 'text')
       AND bool_or(rule = 'text' AND reason_code IN ('caption-missing', 'caption-uncertain'))
), content_of AS (
    SELECT pair_key, content_sha256 FROM evidence WHERE pair_key IS NOT NULL AND content_sha256 IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT content_sha256, list(pair_key ORDER BY pair_key)
FROM lacking JOIN content_of USING (pair_key)
WHERE content_sha256 NOT IN (
    SELECT content_sha256 FROM caption WHERE model_digest = $model AND content_sha256 IS NOT NULL
)
GROUP BY content_sha256 ORDER BY content_sha256
"""
_BANK_TEXTS = """
SELECT t.caption, t.pair_key, t.page_url FROM trainable t
WHERE t.caption_origin IN ('alt', 'figcaption', 'title') ORDER BY t.caption, t.pair_key
"""
_ASKED = """
SELECT state, score, caption, sample_key FROM caption WHERE model_digest = ? AND caption_origin = ?
ORDER BY score DESC, sample_key
"""


@dataclass(frozen=True, slots=True)
class CaptionSummary:
    """What the captioner's model has captioned so far. `examples`: (score, caption, sample key)."""

    model: str
    model_digest: str
    run: str | None
    threshold: float
    bank: int
    asked: int
    kept: int
    deferred: int
    examples: tuple[tuple[str, str, str], ...]


def needs_training(home: Home) -> bool:
    """Whether custody.toml asks for a CLIP of our own that is not trained to its end yet."""
    if home.settings.captions.pretrained != "trained:latest":
        return False
    return not any((d / CALIBRATION).is_file() for d in home.runs_path.glob("clip-*"))


def train_captioner(home: Home, progress: Progress = silent, *, dataset: str | None = None) -> ClipResult:
    """Train the captioner's CLIP on allowed pairs that have a text of their own: a CLIP whose pairs can be listed."""
    if dataset is None:
        own_text = "caption_origin IN ('alt', 'figcaption', 'title')"
        dataset = seal(home, where=own_text, purpose="clip", progress=progress).dataset
    return train_clip(home, dataset, progress=progress)


def caption(home: Home, progress: Progress = silent) -> CaptionSummary:
    """Caption what lacks only a text, keep what is sure enough, then judge anew.

    Raises:
        ConfigurationError: the model of custody.toml cannot be had, or a phrase list cannot be read.
    """
    clip, run, threshold = load_captioner_model(home)
    if run is not None:
        register_run(home, home.runs_path / run)  # its training may have been killed after its last file
    with home.ledger(readonly=True) as ledger:
        waiting = ledger.query(_LACKING_TEXT, {"model": clip.digest})
    captioner, bank = build_captioner(home, clip, threshold)
    tombstones = home.tombstones()
    waiting = [(sha, pairs) for sha, pairs in waiting if not tombstones.covers_content(sha)]
    for start in range(0, len(waiting), CHUNK):
        chunk = waiting[start : start + CHUNK]
        results = captioner.caption_images([_pixels(home, sha) for sha, _ in chunk])
        with home.ledger() as ledger:
            _append(ledger, chunk, results, clip, run, captioner.threshold)
        progress(min(start + CHUNK, len(waiting)), len(waiting), "caption: ")
    decide(home, progress)
    return summary(home, clip, run, captioner.threshold, len(bank))


def load_captioner_model(home: Home) -> tuple[ClipModel, str | None, float | None]:
    """The CLIP of custody.toml, the run it came from if it is ours, and its calibrated threshold if it has one."""
    from curation.clip_model import ClipSpec, load_clip, read_calibration

    settings = home.settings.captions
    if not settings.pretrained.startswith("trained:"):
        threshold = settings.threshold or None
        return load_clip(ClipSpec(settings.architecture or None, settings.pretrained)), None, threshold
    name = settings.pretrained.removeprefix("trained:")
    run_dir = newest_run(home, "clip", None if name == "latest" else name)
    threshold = settings.threshold or read_calibration(run_dir).threshold
    return load_clip(ClipSpec(None, f"trained:{run_dir}")), run_dir.name, threshold


def build_captioner(home: Home, clip: ClipModel, threshold: float | None) -> tuple[RetrievalCaptioner, CaptionBank]:
    """The retrieval captioner over the bank: allowed texts of the ledger and the phrase lists of custody.toml."""
    from curation.captions import CaptionBank, RetrievalCaptioner

    bank = CaptionBank.build(_bank_entries(home), min_origins=home.ruleset.bank_min_origins)
    if not len(bank):
        raise ConfigurationError(
            "the caption bank is empty",
            where=str(home.settings_path),
            remedy="Name phrase_lists under [captions], or crawl pages with alt text on more domains",
        )
    return RetrievalCaptioner(clip, bank, threshold=threshold, cache_dir=home.path / "cache"), bank


def summary(home: Home, clip: ClipModel, run: str | None, threshold: float, bank: int) -> CaptionSummary:
    """What a model has captioned, from the ledger."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(_ASKED, [clip.digest, CAPTION_ORIGIN])
    kept = [r for r in rows if r[0] == "kept"]
    examples = kept[:: max(len(kept) // 5, 1)][:5]
    return CaptionSummary(
        clip.name,
        clip.digest,
        run,
        threshold,
        bank,
        len(rows),
        len(kept),
        len(rows) - len(kept),
        tuple((f"{score:.2f}", text, key) for _, score, text, key in examples),
    )


def _bank_entries(home: Home) -> Iterator[Any]:
    from curation.captions import BankEntry
    from curation.clip_model import normalised_text

    tombstones = home.tombstones()
    with home.ledger(readonly=True) as ledger:
        texts = ledger.query(_BANK_TEXTS)
    unique = home.settings.captions.unique
    carried = {normalised_text(text) for text, _, _ in texts} if unique else set()
    for text, pair, page_url in texts:
        if not unique and not tombstones.covers_url(page_url):
            yield BankEntry(text, f"pair:{pair}", "ledger", (site_of(host_of(page_url)),))
    for text, source in phrases(home):
        if normalised_text(text) not in carried:
            yield BankEntry(text, source, "list", ())


def phrases(home: Home) -> Iterator[tuple[str, str]]:
    """The phrases of custody.toml's phrase lists, each with its source, "list:<file>:<line>".

    Raises:
        ConfigurationError: a list cannot be read.
    """
    for name in home.settings.captions.phrase_lists:
        path = Path(name) if Path(name).is_absolute() else home.path / name
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"the phrase list cannot be read ({error})", where=str(path), remedy="See [captions] phrase_lists"
            ) from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield line.strip(), f"list:{path.stem}:{number}"


def _append(
    ledger: Ledger,
    chunk: Sequence[tuple[str, list[str]]],
    results: Sequence[CaptionResult],
    clip: ClipModel,
    run: str | None,
    threshold: float,
) -> None:
    evidence = newest_evidence(ledger, [pair for _, pairs in chunk for pair in pairs])
    now = utc_now().replace(tzinfo=None)
    captions, evidences = [], []
    for (sha, pairs), result in zip(chunk, results, strict=True):
        captions.append(
            {
                "sample_key": sample_key(sha, result.text, CAPTION_ORIGIN),
                "pair_key": pairs[0],
                "content_sha256": sha,
                "caption": result.text,
                "caption_origin": CAPTION_ORIGIN,
                "source": ",".join(result.sources),
                "source_kind": result.source_kind,
                "model_name": clip.name,
                "model_digest": clip.digest,
                "model_run": run,
                "score": result.score,
                "threshold": threshold,
                "state": "kept" if result.kept else "deferred",
                "captioned_at": now,
            }
        )
        for pair in pairs:
            evidences.append((pair, captioned(evidence[pair], result)))
    key = f"caption/{clip.digest[:16]}/{unit_id(*(sha for sha, _ in chunk))}"
    observed = evidence_batches(ledger, evidences, "caption", key)
    ledger.append_many([("caption", captions, f"{key}/caption"), *observed])


def captioned(evidence: Evidence, result: CaptionResult) -> Evidence:
    """The evidence with what the captioner said; a caption that is not sure enough is a score without a caption."""
    return replace(
        evidence, caption=result.text if result.kept else None, caption_score=result.score, observer=OBSERVER
    )


def _pixels(home: Home, sha: str) -> Any:
    from curation.images import decode
    from curation.pixel_store import PixelStore

    return decode(PixelStore(home.pixels_path).get(sha))
