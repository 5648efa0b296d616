"""A stopgap for one run: a checkpoint that was made to forget (training/unlearning.py) stands in until a replay.

It is possible while the removed pictures are still stored: after the approval, before they are gone. Where it is not
possible the run is withdrawn without one, and what was in the way is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.stages.removing.exposure import Exposures, origin_of
from flows.stages.train import code_version, open_dataset, register_run, run_lock
from flows.terminal import Progress
from policy.errors import InputError
from policy.provenance import CheckpointRecord

if TYPE_CHECKING:
    from pathlib import Path

    from training.conditioning import TextEncoder
    from training.membership import Samples


def approximate(
    home: Home,
    exposures: Exposures,
    run: str,
    names: Sequence[str],
    *,
    text_encoder: TextEncoder | None,
    progress: Progress,
) -> tuple[CheckpointRecord | None, str]:
    """The record of a run's last checkpoint, made to forget what these removals took away; or None, and why not."""
    from curation.clip_model import PackagedTextEncoder
    from training.checkpoint import list_checkpoints, load_run, read_record
    from training.unlearning import seen_by, unlearn

    run_dir = home.runs_path / run
    there, record = list_checkpoints(run_dir), load_run(run_dir)
    if not there or record is None:
        return None, "none of its checkpoints is left"
    seen = seen_by(run_dir, read_record(there[-1]))
    with ExitStack() as open_readers:
        reader = open_readers.enter_context(open_dataset(home, record.dataset))
        removed = {}
        for name in names:
            slots = [o for o in exposures.reach([name]).slots.get(record.dataset, ()) if seen[o]]
            if any(not reader.is_live(ordinal) for ordinal in slots):
                return None, "what was removed is stored no more: forgetting needs it"
            if slots:
                removed[name] = slots
        if not removed:
            return None, "none of its slots was fed what was removed"
        ordinals = sorted({o for slots in removed.values() for o in slots})
        digest = hashlib.blake2b(",".join(map(str, ordinals)).encode(), digest_size=4).hexdigest()
        out = home.runs_path / f"{origin_of(run)}-unlearnt-{digest}"
        reasons = []
        for held_out in _held_out(home, exposures, run_dir, there[-1], reader, open_readers):
            try:
                with run_lock(out):
                    done = unlearn(
                        run_dir,
                        there[-1],
                        removed,
                        reader,
                        held_out=held_out,
                        out_run_dir=out,
                        text_encoder=text_encoder or PackagedTextEncoder(),
                        now=utc_now,
                        withheld=exposures.emptied(record.dataset),
                        tombstones_dir=home.tombstones_path,
                        unmeasured=True,  # too few to measure: the record says so
                        on_progress=lambda step, steps, loss: progress(step, steps, f"unlearn {run}: loss {loss:.3f}"),
                        code_version=code_version(),
                    )
            except InputError as error:
                reasons.append(error.what)
                continue
            register_run(home, out)
            return done.checkpoint, ""
    return None, "; ".join(dict.fromkeys(reasons)) or "nothing is held out that it never saw"


def _held_out(
    home: Home,
    exposures: Exposures,
    run_dir: Path,
    checkpoint: Path,
    reader: DatasetReader,
    open_readers: ExitStack,
) -> list[Samples]:
    """What the checkpoint never saw: of its own dataset; else of others."""
    from training.unlearning import LEAST_TARGETS, never_fed

    own = never_fed(run_dir, checkpoint, reader, withheld=exposures.emptied(reader.manifest.dataset))
    found = [own] if len(own.ordinals) >= 2 * LEAST_TARGETS else []
    for name in home.dataset_names():
        if name == reader.manifest.dataset:
            continue
        other = open_readers.enter_context(open_dataset(home, name))
        strange = never_fed(run_dir, checkpoint, reader, among=other, withheld=exposures.emptied(name))
        if len(strange.ordinals) >= 2 * LEAST_TARGETS:
            found.append(strange)
    return found
