"""Removals at random, while the model trains and after it: replayed, it is the model that never saw them, bit for bit.

    make prove PROOF=replays                20 removals
    REMOVALS=100 make prove PROOF=replays   more of them

For each, a run in bf16 or fp32, of the denoiser or (every fifth) of CLIP. The removal names one slot or some; of them
none, some or all are put under a tombstone while the run trains, by a file as an approved removal writes it, and the
others once it has ended. Then it is replayed without them all from the last checkpoint that had seen none, and another
run that never saw them is trained from the start. Weights, average, optimizers, tallies and the step log's rows must
be equal, and all three runs must verify. Interrupted, the proof goes on with the next removal. What is under
.proofs/replays can be deleted.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curation.shard_reader import DatasetReader
from policy.keys import KeyRing
from policy.provenance import CheckpointRecord, ScheduleEntry
from policy.tombstones import Tombstones
from tests.builders import ROOT
from tests.proofs.resumable import Resumable, publish
from tests.training.recomputed import run_failures, times_fed
from tests.training.toy_dataset import COLOURS, SHAPES, HashedWords, noise, noon, seal
from training.checkpoint import load_schedule
from training.clip import held_out_of, train_clip
from training.clip_config import ClipConfig
from training.config import preset
from training.loop import train
from training.order import exposure
from training.replay import begin_replay, plan_replay
from training.step_log import effective_rows, read_steps

FOLDER = ROOT / ".proofs" / "replays"
SLOTS, STEPS, CLIP_SLOTS, CLIP_STEPS = 60, 30, 60, 9  # two epochs of the denoiser, and of CLIP
MOST = 4  # slots a removal
CLIP_EVERY = 5


@dataclass(frozen=True, slots=True)
class Removal:
    """What is removed, and when: slots by the step after which their tombstone is filed, and those filed at the end."""

    kind: str  # "diffusion" or "clip"
    precision: str
    midway: tuple[tuple[int, tuple[int, ...]], ...]
    afterwards: tuple[int, ...]

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(sorted({*self.afterwards, *(o for _, ordinals in self.midway for o in ordinals)}))


@dataclass(slots=True)
class Found(Resumable):
    """What came of it."""

    removals: int = 0
    slots: int = 0
    midway: int = 0  # removals with a tombstone that came while the run trained
    kinds: dict[str, int] = field(default_factory=dict)
    replayed_steps: int = 0
    steps: int = 0


Filed = Callable[[int], None]
"""Called with the steps done."""


class Trainers:
    """Both trainers over a dataset each, sealed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, slots in (("diffusion", SLOTS), ("clip", CLIP_SLOTS)):
            if not (folder / name).exists():
                seal(folder / name, slots, **({"image": _spots, "captions": _NAMES} if name == "clip" else {}))
        self.readers = {name: DatasetReader.open(folder / name) for name in ("diffusion", "clip")}

    def train(
        self, removal: Removal, run_dir: Path, tombstones: Path, progress: Filed = lambda done: None
    ) -> CheckpointRecord:
        """To the end, from wherever the run has got to."""
        reader = self.readers[removal.kind]
        if removal.kind == "clip":
            return train_clip(
                reader,
                ClipConfig(
                    image_size=64,
                    steps=CLIP_STEPS,
                    batch_size=12,
                    held_out=6,
                    checkpoint_every=1,
                    keep_checkpoints=99,
                    warmup_steps=2,
                    precision=removal.precision,
                ),
                run_dir,
                now=noon,
                progress=lambda what, done, total: progress(done) if what == "train" else None,
                tombstones_dir=tombstones,
            ).last
        return train(
            reader,
            preset("tiny", steps=STEPS, precision=removal.precision, checkpoint_every=2, keep_checkpoints=99),
            run_dir,
            upstream=(),
            text_encoder=HashedWords(),
            progress=lambda done, loss, rate: progress(done),
            now=noon,
            tombstones_dir=tombstones,
        ).last

    def held_out(self) -> frozenset[int]:
        """What CLIP never feeds: it is measured on it, and cannot be replayed out."""
        run_dir = self.folder / "held-out" / "run"
        shutil.rmtree(run_dir.parent, ignore_errors=True)
        result = train_clip(
            self.readers["clip"], ClipConfig(image_size=64, held_out=6), run_dir, now=noon, stop_after=1
        )
        return frozenset(held_out_of(result.run))


_NAMES = tuple(
    f"{size} {colour} {shape} {n}"
    for n in range(3)
    for size in ("small", "large")
    for colour in COLOURS
    for shape in SHAPES
)


def _spots(n: int) -> bytes:
    from curation.images import encode_jpeg

    return encode_jpeg(noise(n, 64, 64))


def draw(number: int, seed: str, held_out: frozenset[int]) -> Removal:
    """A removal, by its number."""
    drawn = random.Random(f"{seed}/{number}")
    kind = "clip" if number % CLIP_EVERY == CLIP_EVERY - 1 else "diffusion"
    slots, steps = (SLOTS, STEPS) if kind == "diffusion" else (CLIP_SLOTS, CLIP_STEPS)
    precision = drawn.choice(("bf16", "fp32"))
    named = drawn.sample(sorted(set(range(slots)) - (held_out if kind == "clip" else set())), drawn.randint(1, MOST))
    early = named[: drawn.randint(0, len(named))] if number % 2 else []
    moments: dict[int, list[int]] = {}
    for ordinal in early:
        moments.setdefault(drawn.randint(1, steps - 1), []).append(ordinal)
    midway = tuple((step, tuple(ordinals)) for step, ordinals in sorted(moments.items()))
    return Removal(kind, precision, midway, tuple(named[len(early) :]))


def prove(trainers: Trainers, removal: Removal, folder: Path, found: Found) -> None:
    """Train, remove, replay; train without; compare."""
    shutil.rmtree(folder, ignore_errors=True)
    reader, midway = trainers.readers[removal.kind], dict(removal.midway)
    stones = folder / "tombstones"

    def file_what_is_due(done: int) -> None:
        if done in midway:
            file(stones, reader.manifest.dataset, midway[done])

    # The run, and what was removed while it trained.
    old_dir, new_dir, never_dir = (folder / name / "run" for name in ("old", "new", "never"))
    old = trainers.train(removal, old_dir, stones, file_what_is_due)
    entered = tuple(ScheduleEntry(o, step) for step, ordinals in removal.midway for o in sorted(ordinals))
    found.check(load_schedule(old_dir) == entered, f"{removal}: the run's schedule is {load_schedule(old_dir)}")

    # The replay.
    if removal.afterwards:
        file(stones, reader.manifest.dataset, removal.afterwards)
    plan = plan_replay(old_dir, removal.slots)
    run = begin_replay(plan, old_dir, new_dir)
    new = trainers.train(removal, new_dir, stones)

    # The run that never saw them.
    never = trainers.train(removal, never_dir, stones)
    found.check(_tensors(new) == _tensors(never), f"{removal}: weights, from step {plan.first_step}")
    for what in ("schedule", "tally", "origins", "positions", "state"):
        found.check(getattr(new, what) == getattr(never, what), f"{removal}: {what}")
    rows = [effective_rows(read_steps(place / "steps.log")) for place in (new_dir, never_dir)]
    found.check(np.array_equal(rows[0], rows[1]), f"{removal}: the step log's rows")
    for ordinal in removal.slots:
        found.check(exposure(run, new.schedule, ordinal, new.step) == (), f"{removal}: slot {ordinal} was seen")
    fed, _ = times_fed(new_dir, reader)
    found.check(not {o for _, o in fed} & {*removal.slots}, f"{removal}: the log says that it was fed")
    # A tombstone that came before its slot's turn left nothing to replay away.
    was_seen = any(exposure(run, old.schedule, ordinal, old.step) for ordinal in removal.slots)
    found.check((_tensors(new) != _tensors(old)) is was_seen, f"{removal}: seen {was_seen}, and the weights say not so")
    for place in (old_dir, new_dir, never_dir):
        failures = run_failures(place, reader) + times_fed(place, reader)[1]
        found.failures.extend(f"{removal}: {place.parent.name}: {failure}" for failure in failures)

    found.removals += 1
    found.slots += len(removal.slots)
    found.midway += bool(removal.midway)
    kind = f"{removal.kind} {removal.precision}"
    found.kinds[kind] = found.kinds.get(kind, 0) + 1
    found.replayed_steps += new.step - plan.first_step
    found.steps += new.step


def file(folder: Path, dataset: str, ordinals: Sequence[int]) -> None:
    """Put slots under a tombstone, as an approved removal does."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = KeyRing.load(folder / "keys") if (folder / "keys").exists() else KeyRing.create(folder / "keys")
    before = Tombstones.load(folder, keys)
    removal = f"rem-{len(before.removals) + 1}"
    before.with_added(removal, keys=keys, slots={dataset: ordinals}).store(folder)


def _tensors(record: CheckpointRecord) -> list[tuple[str, str]]:
    """The digests of weights, average and optimizers."""
    return [pair for pair in record.files if pair[0].endswith(".safetensors")]


# ── the proof ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Run until enough removals are done; 0 when nothing differed."""
    wanted = int(os.environ.get("REMOVALS", "20"))
    found = Found.begin(FOLDER)
    started, before = time.monotonic(), found.removals
    trainers = Trainers(FOLDER)
    held_out = trainers.held_out()
    while found.removals < wanted and not found.failures:
        removal = draw(found.removals, found.code, held_out)
        prove(trainers, removal, FOLDER / "removal", found)
        found.store(FOLDER)
        print(f"{found.removals} of {wanted}: {removal.kind} {removal.precision}, slots {removal.slots}", flush=True)
    for failure in found.failures:
        print(failure, file=sys.stderr)
    if found.removals > before or found.failures:
        _publish(found, time.monotonic() - started)
    return 1 if found.failures else 0


def _publish(found: Found, seconds: float) -> None:
    """Append the result, dated, to docs/proofs.md."""
    told = "no difference" if not found.failures else "DIFFERENCES: " + "; ".join(f[:300] for f in found.failures)
    by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(found.kinds.items()))
    said = (
        f"{found.removals} removals of 1 to {MOST} slots, {found.slots} in all ({by_kind}), {found.midway} of them "
        "with tombstones that came while the run trained, the others after its end. Replayed from the last checkpoint "
        f"that had seen none of the slots ({found.replayed_steps} of {found.steps} steps), against runs from the "
        f"start that never saw them: {told} in weights, average, optimizers, tallies, schedules and the step log's "
        f"rows; all {3 * found.removals} runs verified. This run took {seconds:.0f} s. Code {found.code}."
    )
    publish("replays", said)


if __name__ == "__main__":
    sys.exit(main())
