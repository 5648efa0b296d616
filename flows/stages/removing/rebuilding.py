"""A run whose captions a model chose that saw what was removed: captioned, sealed and trained again without it.

A replay of such a run is never fed what was removed, but what it is fed is still what that model said. So the model's
captions are taken back, pictures that lack a text are asked of the captioner that stands now, what the old dataset's
selection selects is sealed under a new name, and a run of the same configuration is trained on it from step 0. Nothing
of it saw what was removed, by the same arithmetic that shows it of any run. It is not called exact: the dataset is what
is allowed today, its slots have an order of their own, and no run from before has to have its bits.

Names follow from the old dataset's and from the captioner, so that what was killed goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from curation.shard_files import files_of, newest_generation
from flows.home import Home, utc_now
from flows.stages.caption import OBSERVER, caption
from flows.stages.captioning.models import CaptionerChoice
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing.replaying import train_like
from flows.stages.seal import seal
from flows.stages.train import (
    REPLACED,
    caption_models,
    clear,
    open_dataset,
    register_run,
    run_lock,
    run_name,
)
from flows.terminal import Progress
from policy.errors import InputError, IntegrityError
from policy.ledger import Ledger
from policy.provenance import CheckpointRecord, TrainingRun

if TYPE_CHECKING:
    from training.conditioning import TextEncoder

WITHDRAWN = "withdrawn"  # the state of a caption that was taken back

_REBUILT = re.compile(r"-rebuilt-[0-9a-f]{8}$")
_SELECTION = "SELECT selection, purpose FROM dataset WHERE dataset = ? ORDER BY batch_seq, row_no LIMIT 1"
_COLUMNS = (
    *("sample_key", "pair_key", "content_sha256", "caption", "caption_origin", "source", "source_kind"),
    *("model_name", "model_digest", "model_run", "score", "threshold", "state", "captioned_at"),
)
# Captions that stand, of these runs: the newest word on a sample and its pair.
_STANDING = f"""
SELECT {", ".join(_COLUMNS)} FROM caption
WHERE sample_key IS NOT NULL AND pair_key IS NOT NULL AND content_sha256 IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY sample_key, pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    AND state = 'kept' AND list_contains($runs::VARCHAR[], model_run)
ORDER BY sample_key, pair_key
"""  # noqa: S608  # names of ours
_SHOWING = """
SELECT pair_key FROM evidence WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    AND list_contains($contents::VARCHAR[], content_sha256)
ORDER BY pair_key
"""
_FROM_THEM = """
SELECT count(*) FROM slot WHERE dataset = $dataset AND list_contains($runs::VARCHAR[], caption_run)
"""
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Planned:
    """A rebuild. `captioners`: runs that saw it, whose captions go; `captions`: how many slots have one of theirs."""

    old_run: TrainingRun
    captioners: tuple[str, ...]
    dataset: str
    run: str
    captions: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What took a run's place. `captioner`: the model that chose its captions, by run or digest."""

    last: CheckpointRecord
    dataset: str
    run: str
    captioner: str


def can_rebuild(run: TrainingRun) -> bool:
    """Whether a run can be made anew: it is of pictures, and began from nothing."""
    return run.kind == "diffusion" and run.parent_checkpoint is None


def plan(ledger: Ledger, run: TrainingRun, captioners: Collection[str], successor: str, *, last_step: int) -> Planned:
    """What making a run anew takes. `successor`: the captioner's run that will stand then, as far as is known."""
    runs = tuple(sorted(captioners))
    [(captions,)] = ledger.query(_FROM_THEM, {"dataset": run.dataset, "runs": list(runs)})
    dataset = rebuilt_name(run.dataset, successor)
    return Planned(run, runs, dataset, run_name("diffusion", dataset, run.config_digest), int(captions), last_step)


def rebuild(
    home: Home,
    planned: Planned,
    *,
    offline: bool = False,
    text_encoder: TextEncoder | None = None,
    progress: Progress,
) -> Rebuilt:
    """Take back the captions, caption, seal and train anew, each from wherever it has got to.

    Raises:
        As `custody caption`, `seal` and `train` do: then the old run stays, refused.
    """
    old = planned.old_run
    choice = CaptionerChoice(home)  # refuses what saw it, or was withdrawn
    captioner = choice.run or choice.digest
    dataset = _sealed_anew(home, planned, captioner, progress)
    run_dir = home.runs_path / run_name("diffusion", dataset, old.config_digest)
    withheld = clear(home, dataset, offline=offline, progress=progress)
    with run_lock(run_dir):
        try:
            with open_dataset(home, dataset) as reader:
                last = train_like(
                    home,
                    old,
                    reader,
                    run_dir,
                    upstream=caption_models(home, dataset),
                    last_step=planned.last_step,
                    withheld=withheld,
                    text_encoder=text_encoder,
                    progress=progress,
                    what="rebuild",
                )
        finally:
            register_run(home, run_dir)
    if last.step < planned.last_step:
        raise IntegrityError(f"it ended at step {last.step}, not {planned.last_step}", where=str(run_dir))
    with home.ledger() as ledger:
        row = {"kind": REPLACED, "subject": old.dataset, "detail": dataset, "happened_at": utc_now()}
        ledger.append("event", [row], key=f"{REPLACED}/{old.dataset}/{dataset}")
    return Rebuilt(last, dataset, run_dir.name, captioner)


def _sealed_anew(home: Home, planned: Planned, captioner: str, progress: Progress) -> str:
    """The dataset that takes the old one's place, with captions chosen anew; its name.

    One whose slots were fixed before a kill is finished. Where what may be sealed has changed since, what was written
    of it goes, and another one is begun.
    """
    old = planned.old_run.dataset
    with home.ledger(readonly=True) as ledger:
        [(where, purpose)] = ledger.query(_SELECTION, [old])
    for attempt in itertools.count(1):
        dataset = rebuilt_name(old, captioner, attempt)
        if _is_sealed(home, dataset):
            return dataset
        with home.ledger(readonly=True) as ledger:
            [(begun,)] = ledger.query("SELECT count(*) FROM slot WHERE dataset = ?", [dataset])
        if not begun:
            retract(home, planned.captioners)
            decide(home, progress)  # what has no caption any more waits for one
            caption(home, progress)
        try:
            seal(home, where=where, name=dataset, purpose=purpose, progress=progress)
        except InputError:
            if not begun:
                raise
            if home.remote_datasets is None:  # in a bucket it stays as it is, and `custody verify` names it
                shutil.rmtree(home.datasets_path / dataset, ignore_errors=True)
            continue
        return dataset
    raise AssertionError("counted to the end")


def retract(home: Home, runs: Sequence[str]) -> int:
    """Take back every caption that stands and that one of these runs chose; how many. Again is harmless.

    A sample that has the very same text from another model later stands again, by that one.
    """
    now = utc_now().replace(tzinfo=None)
    with home.ledger() as ledger:
        standing = [dict(zip(_COLUMNS, row, strict=True)) for row in ledger.query(_STANDING, {"runs": list(runs)})]
        for start in range(0, len(standing), _AT_ONCE):
            chunk = standing[start : start + _AT_ONCE]
            rows = [{**row, "state": WITHDRAWN, "captioned_at": now} for row in chunk]
            said = {(row["content_sha256"], row["caption"]) for row in chunk}
            pairs = ledger.query(_SHOWING, {"contents": sorted({content for content, _ in said})})
            taken = [
                (pair, replace(seen, caption=None, caption_score=None, observer=OBSERVER))
                for pair, seen in newest_evidence(ledger, [pair for (pair,) in pairs]).items()
                if (seen.content_sha256, seen.caption) in said
            ]
            head, _ = ledger.head()
            digest = hashlib.blake2b("".join(row["sample_key"] for row in chunk).encode(), digest_size=16).hexdigest()
            key = f"caption-withdrawn/{head}/{digest}"
            ledger.append_many(
                [("caption", rows, f"{key}/caption"), *evidence_batches(ledger, taken, "caption-withdrawn", key)]
            )
    return len(standing)


def rebuilt_name(dataset: str, captioner: str, attempt: int = 1) -> str:
    """The name of the dataset that takes another's place, with captions of this captioner, by its run or digest."""
    captioner += f"/{attempt}" if attempt > 1 else ""
    digest = hashlib.blake2b(captioner.encode(), digest_size=4).hexdigest()
    return f"{_REBUILT.sub('', dataset)}-rebuilt-{digest}"


def _is_sealed(home: Home, dataset: str) -> bool:
    return dataset in home.dataset_names() and newest_generation(files_of(home.dataset(dataset))) is not None
