"""One run, trained again without what was removed, in a directory of its own: bit for bit as if it had never been fed.

The new run's name follows from the old one's and from the slots that are emptied, so that a replay that was killed goes
on, and one that other removals have overtaken does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.stages.removing.exposure import origin_of
from flows.stages.train import clear, code_version, open_dataset, register_run, run_lock, train_beside
from flows.terminal import Progress, silent
from policy.errors import IntegrityError
from policy.provenance import CheckpointRecord, TrainingRun, UpstreamModel

if TYPE_CHECKING:
    from training.conditioning import TextEncoder
    from training.replay import ReplayPlan


@dataclass(frozen=True, slots=True)
class Planned:
    """Where a replay begins. `ordinals`: what it empties from step 0, with all that the old run's schedule has."""

    old_run: TrainingRun
    name: str
    base: str | None
    first_step: int
    last_step: int
    ordinals: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many are trained again."""
        return max(0, self.last_step - self.first_step)


def replay_name(run: str, ordinals: Collection[int]) -> str:
    """The name of the run of this origin in which these slots were empty from step 0."""
    digest = hashlib.blake2b(",".join(map(str, sorted(ordinals))).encode(), digest_size=4).hexdigest()
    return f"{origin_of(run)}-without-{digest}"


def plan(home: Home, run: str, *, removed: Collection[int], last_step: int) -> Planned:
    """What replaying a run without these slots (and without all that its dataset has lost) would begin from.

    Raises:
        InputError: there is no such run's directory, or its dataset is gone. IntegrityError: its files are damaged.
    """
    found = _replay_plan(home, run, removed)
    ordinals = tuple(entry.ordinal for entry in found.schedule)
    base = found.base.record.checkpoint if found.base else None
    return Planned(found.run, replay_name(run, ordinals), base, min(found.first_step, last_step), last_step, ordinals)


def replay(
    home: Home,
    planned: Planned,
    *,
    offline: bool = False,
    text_encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> CheckpointRecord:
    """Carry a replay to its last step, from wherever it has got to; the record of its last checkpoint.

    What its samples rest on is asked again where that is due (`offline`: judged from what is known), as for any
    training: what may not be used any more is left out from the first new step on.

    Raises:
        As `custody train` does. ConfigurationError: the directory holds something else.
    """
    from training.replay import begin_replay

    old = planned.old_run
    new_dir = home.runs_path / planned.name
    _drop_overtaken(home, planned)
    withheld = clear(home, old.dataset, offline=offline, progress=progress)
    with run_lock(new_dir):
        # The base may be gone from the old run's directory by now, if it was laid out before a kill.
        if not (new_dir / "run.json").is_file():
            again = _replay_plan(home, old.run, planned.ordinals)
            begin_replay(again, home.runs_path / old.run, new_dir)
        try:
            with open_dataset(home, old.dataset) as reader:
                if old.kind == "clip":
                    last = _replay_clip(home, planned, reader, new_dir, withheld, progress)
                else:
                    last = train_like(
                        home,
                        old,
                        reader,
                        new_dir,
                        upstream=old.upstream[1:],  # the first is the text encoder's, which the trainer adds
                        last_step=planned.last_step,
                        withheld=withheld,
                        text_encoder=text_encoder,
                        progress=progress,
                        what="replay",
                    )
        finally:
            register_run(home, new_dir)
    if last.step < planned.last_step:
        raise IntegrityError(f"it ended at step {last.step}, not {planned.last_step}", where=str(new_dir))
    return last


def not_stored(home: Home, dataset: str) -> frozenset[int]:
    """The slots of a dataset whose pixels are gone."""
    with DatasetReader.open(home.dataset(dataset), verify=False) as reader:
        return frozenset(np.flatnonzero(~reader.live()).tolist())


def _replay_plan(home: Home, run: str, removed: Collection[int]) -> ReplayPlan:
    from training.replay import plan_replay

    return plan_replay(home.runs_path / run, removed)


def train_like(
    home: Home,
    old: TrainingRun,
    reader: DatasetReader,
    new_dir: Path,
    *,
    upstream: Sequence[UpstreamModel],
    last_step: int,
    withheld: Collection[int],
    text_encoder: TextEncoder | None,
    progress: Progress,
    what: str,
) -> CheckpointRecord:
    """Train a diffusion run as an old one was, its ranks included, to a step. `upstream`: without the text encoder."""
    from curation.clip_model import PackagedTextEncoder
    from training.config import TrainingConfig
    from training.loop import train
    from training.ranks import train_together

    config = TrainingConfig.from_json(old.config_json, where=old.run)
    settings = home.settings.training
    encoder = text_encoder or PackagedTextEncoder()
    result = train_together(
        lambda ranks: train(
            reader,
            config,
            new_dir,
            upstream=upstream,
            text_encoder=encoder,
            reopen_s=settings.reopen_hours * 3600,
            tokens_dir=home.tokens_path if settings.token_cache_bytes else None,
            tokens_bytes=settings.token_cache_bytes,
            progress=lambda step, loss, speed: progress(
                step, last_step, f"{what} {new_dir.name}: loss {loss:.3f}, {speed:.0f} images/s"
            ),
            now=utc_now,
            tombstones_dir=home.tombstones_path,
            withheld=withheld,
            stop_after=last_step,
            code_version=code_version(),
            ranks=ranks,
        ),
        old.segments[-1].contract.world_size,
        others=functools.partial(train_beside, home.path, reader.manifest.dataset, config, new_dir, last_step),
        device=config.device,
    )
    return result.last


def _replay_clip(
    home: Home,
    planned: Planned,
    reader: DatasetReader,
    new_dir: Path,
    withheld: Collection[int],
    progress: Progress,
) -> CheckpointRecord:
    from training.clip import train_clip
    from training.clip_config import ClipConfig

    config = ClipConfig(**json.loads(planned.old_run.config_json)["config"])
    return train_clip(
        reader,
        config,
        new_dir,
        now=utc_now,
        tombstones_dir=home.tombstones_path,
        withheld=withheld,
        reopen_s=home.settings.training.reopen_hours * 3600,
        stop_after=planned.last_step,
        progress=lambda what, done, total: progress(done, total, f"replay {planned.name}, {what}: "),
        code_version=code_version(),
    ).last


def _drop_overtaken(home: Home, planned: Planned) -> None:
    """Directories of replays of the same run that were begun and killed, and that the ledger never heard of."""
    with home.ledger(readonly=True) as ledger:
        known = {run for (run,) in ledger.query("SELECT DISTINCT run FROM run")}
    origin = origin_of(planned.old_run.run)
    for place in home.runs_path.glob(f"{origin}-without-*"):
        if place.name not in known and place.name != planned.name and origin_of(place.name) == origin:
            with run_lock(place):
                shutil.rmtree(place)
