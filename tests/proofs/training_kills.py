"""Kill -9 of the trainer at any instant, while saving too, again and again: it ends as if nothing had happened.

    make prove PROOF=training_kills              200 kills
    KILLS=1000 make prove PROOF=training_kills   more of them

A small model is trained over a little more than one epoch and saved after every second step; in bf16 and fp32, with
batches made when they are due and ahead by two threads. Every run is killed again and again: half of the kills are
aimed into a save, a quarter come after a time drawn over what is left of its life, a quarter at a file event. After
each of them every checkpoint that had been complete must verify, or be one that newer ones have replaced. At its end a
run must have the weights, average, optimizers, tally and step log of a run that was left alone, bit for bit; by its log
every slot was fed exactly once in the whole epoch; and all of it must verify. Interrupted, the proof goes on with the
next run. What is under .proofs/training_kills can be deleted.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from curation.shard_reader import DatasetReader
from tests.builders import ROOT
from tests.proofs.resumable import Resumable, publish
from tests.training.forked import Ended, Forked, Kill
from tests.training.recomputed import good_checkpoints, run_failures, times_fed
from tests.training.toy_dataset import seal
from training.checkpoint import Checkpoint
from training.config import TrainingConfig, preset
from training.step_log import effective_rows, read_steps

FOLDER = ROOT / ".proofs" / "training_kills"
TRAINER = "tests.training.toy_trainer:train_toys"
KINDS = tuple((precision, workers) for precision in ("bf16", "fp32") for workers in (0, 2))


@dataclass(frozen=True, slots=True)
class Scenario:
    """How large a run is. `kills`: meant for each."""

    slots: int
    steps: int
    kills: int
    checkpoint_every: int = 2

    def config(self, precision: str, workers: int) -> TrainingConfig:
        return preset(
            "tiny",
            steps=self.steps,
            checkpoint_every=self.checkpoint_every,
            precision=precision,
            loader_workers=workers,
        )


LONG = Scenario(slots=100, steps=30, kills=12)  # 25 steps an epoch


@dataclass(slots=True)
class Found(Resumable):
    """What came of it. `kills`: by kind, those that met a living trainer."""

    runs: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    while_saving: int = 0  # of any kind: a checkpoint was half written or half deleted
    too_late: int = 0  # the trainer had ended
    checked: int = 0  # complete checkpoints looked at after kills
    most_in_an_epoch: int = 0
    epochs_of_ten: int = 0  # whole epochs with ten kills or more within

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


@dataclass(frozen=True, slots=True)
class Life:
    """A trainer that was left alone: how long it took, how much of that a resume and a save, and its file events."""

    seconds: float
    begin_s: float
    save_s: float
    events: int


def trainers(folder: Path) -> Forked:
    """The warm process; what it trains first is thrown away."""
    shutil.rmtree(folder / "warm", ignore_errors=True)
    config = preset("tiny", steps=1).to_json()
    warm_up = {"dataset": str(seal(folder / "warm/toys")), "run_dir": str(folder / "warm/run"), "config": config}
    return Forked(folder, TRAINER, warm_up)


class Runs:
    """Runs of one dataset: those left alone, and those that are killed."""

    def __init__(self, folder: Path, scenario: Scenario, forked: Forked) -> None:
        self.folder, self.scenario, self._forked = folder, scenario, forked
        dataset = folder / "toys"
        if not dataset.exists():
            seal(dataset, slots=scenario.slots)
        self._dataset, self.reader = dataset, DatasetReader.open(dataset)
        self._lives: dict[str, Life] = {}

    def prove(self, precision: str, workers: int, seed: str, found: Found) -> None:
        """Kill one run so many times, carry it to its end, and compare."""
        life = self._left_alone(precision)
        config = self.scenario.config(precision, workers)
        run_dir, drawn, at_steps = self._new(f"killed-{precision}-{workers}"), random.Random(seed), []
        for left in range(self.scenario.kills, 0, -1):
            before, _ = good_checkpoints(run_dir)
            kill = self._draw(drawn, life, before, left)
            what = f"{precision}, {workers} workers, {seed}, {kill}"
            ended = self._train(run_dir, config, kill)
            if not ended.was_killed:
                found.too_late += 1
                found.check(ended.status == 0, f"{what}: exit {ended.status}: {ended.error}")
                break
            found.kills[kill.kind] = found.kills.get(kill.kind, 0) + 1
            found.while_saving += any(run_dir.glob(".writing-*")) or any(run_dir.glob(".retired-*"))
            at_steps.append(self._step(run_dir))
            self._check_kept(run_dir, before, what, found)
            if found.failures:
                return
        ended = self._train(run_dir, config, None)
        found.check(ended.status == 0, f"{precision}, {workers} workers, {seed}: exit {ended.status}: {ended.error}")
        if not found.failures:
            self._compare(self.folder / precision / "run", run_dir, f"{precision}, {workers} workers, {seed}", found)
            self._count_epochs(at_steps, found)
        found.runs += 1

    # ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _draw(self, drawn: random.Random, life: Life, before: list[Checkpoint], left: int) -> Kill:
        """The next kill, of any kind, such that so many of them come before the end."""
        rest = 1 - (before[-1].record.step if before else 0) / self.scenario.steps
        share = min(1.0, 2 * rest / (left + 1))
        match drawn.randrange(4):
            case 0:
                return Kill(after_s=drawn.uniform(0.0, life.begin_s + share * life.seconds))
            case 1 | 2:
                most = max(0, round(share * self.scenario.steps / self.scenario.checkpoint_every) - 1)
                return Kill(saving=(drawn.randint(0, most), drawn.uniform(0.0, life.save_s / 2)))
            case _:
                return Kill(event=drawn.randint(1, max(2, round(share * life.events))))

    def _check_kept(self, run_dir: Path, before: list[Checkpoint], what: str, found: Found) -> None:
        """No good checkpoint is lost: all that is there verifies, and what is gone is what retention lets go."""
        now, failures = good_checkpoints(run_dir)
        found.failures.extend(f"{what}: {failure}" for failure in failures)
        found.checked += len(now)
        there, gone = {c.record.step for c in now}, {c.record.step for c in before}
        config, epochs = self.scenario.config("bf16", 0), self._epochs_done
        for step in gone - there:
            is_newest = sum(other > step for other in there) < config.keep_checkpoints
            is_base = not any(epochs(other) == epochs(step) and other < step for other in there | gone)
            found.check(not is_newest and not is_base, f"{what}: the checkpoint of step {step} is lost")

    def _epochs_done(self, step: int) -> int:
        return step * self.scenario.config("bf16", 0).batch_size // self.scenario.slots

    def _count_epochs(self, at_steps: list[int], found: Found) -> None:
        """Kills within each epoch that ended before the run did."""
        by_epoch = Counter(self._epochs_done(step) for step in at_steps)
        whole = [by_epoch[epoch] for epoch in range(self._epochs_done(self.scenario.steps))]
        found.most_in_an_epoch = max([found.most_in_an_epoch, *whole])
        found.epochs_of_ten += sum(kills >= 10 for kills in whole)

    def _step(self, run_dir: Path) -> int:
        """How far the log had got."""
        log = run_dir / "steps.log"
        rows = read_steps(log) if log.exists() and log.stat().st_size >= 16 else ()
        return int(rows[-1]["step"]) if len(rows) else 0

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _left_alone(self, precision: str) -> Life:
        """The undisturbed run of a precision, and how long it lived."""
        if precision not in self._lives:
            config = self.scenario.config(precision, 0)
            run_dir = self._new(precision)
            whole = self._train(run_dir, config, None)
            again = self._train(run_dir, config, None)  # nothing left to do: what it takes to begin
            rare = self._train(self._new("rare"), replace(config, checkpoint_every=config.steps), None)
            for ended in (whole, again, rare):
                if ended.status != 0:
                    raise RuntimeError(f"an undisturbed run ended with {ended.status}: {ended.error}")
            saves = self.scenario.steps / self.scenario.checkpoint_every
            save_s = max(0.005, (whole.seconds - rare.seconds) / saves)
            self._lives[precision] = Life(whole.seconds, again.seconds, save_s, whole.events)
        return self._lives[precision]

    def _train(self, run_dir: Path, config: TrainingConfig, kill: Kill | None) -> Ended:
        arguments = {"dataset": str(self._dataset), "run_dir": str(run_dir), "config": config.to_json()}
        return self._forked.run(run_dir, arguments, kill)

    def _new(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name / "run"

    # ── comparison ───────────────────────────────────────────────────────────────────────────────────────────────

    def _compare(self, reference: Path, run_dir: Path, what: str, found: Found) -> None:
        expected, got = (good_checkpoints(place)[0] for place in (reference, run_dir))
        by_step = {c.record.step: c for c in got}
        for ours in expected:
            other = by_step.get(ours.record.step)
            found.check(
                other is not None and _content(ours) == _content(other), f"{what}: the checkpoint {ours.path.name}"
            )
        rows = [effective_rows(read_steps(place / "steps.log")) for place in (reference, run_dir)]
        found.check(np.array_equal(rows[0], rows[1]), f"{what}: the step log's rows that count")
        found.failures.extend(f"{what}: {failure}" for failure in run_failures(run_dir, self.reader))
        fed, failures = times_fed(run_dir, self.reader)
        found.failures.extend(f"{what}: {failure}" for failure in failures)
        epochs = self._epochs_done(self.scenario.steps)
        once = {(epoch, ordinal): 1 for epoch in range(epochs) for ordinal in range(self.scenario.slots)}
        found.check({slot: n for slot, n in fed.items() if slot[0] < epochs} == once, f"{what}: a slot not fed once")
        found.check(not any(run_dir.glob(".*")), f"{what}: left behind: {sorted(run_dir.glob('.*'))}")


def _content(checkpoint: Checkpoint) -> object:
    """What a checkpoint holds and says it saw. The log's digest, superseded rows included, is its own."""
    record = checkpoint.record
    tensors = tuple(pair for pair in record.files if pair[0].endswith(".safetensors"))
    seen = (record.positions, record.tally, record.origins, record.schedule)
    return tensors, seen, record.state, record.parent, record.upstream


# ── the proof ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Run until enough kills are done; 0 when nothing differed."""
    wanted = int(os.environ.get("KILLS", "200"))
    found = Found.begin(FOLDER)
    started, before = time.monotonic(), found.killed
    with trainers(FOLDER) as forked:
        runs = Runs(FOLDER, LONG, forked)
        while found.killed < wanted and not found.failures:
            runs.prove(*KINDS[found.runs % len(KINDS)], f"{found.code}/{found.runs}", found)
            found.store(FOLDER)
            print(f"run {found.runs}: {found.killed} of {wanted} kills, {found.kills}", flush=True)
    for failure in found.failures:
        print(failure, file=sys.stderr)
    if found.killed > before or found.failures:
        _publish(found, time.monotonic() - started)
    return 1 if found.failures else 0


def _publish(found: Found, seconds: float) -> None:
    """Append the result, dated, to docs/proofs.md."""
    differences = (
        "no difference"
        if not found.failures
        else "DIFFERENCES: " + "; ".join(failure[:300] for failure in found.failures)
    )
    by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(found.kills.items()))
    told = (
        f"{found.killed} kills with -9 over {found.runs} runs of {LONG.steps} steps, saved after every second one, in "
        f"bf16 and fp32 and with 0 and 2 loader workers ({by_kind}; {found.while_saving} of all met a checkpoint half "
        f"written or half deleted, {found.too_late} more came after the end). Against runs that were left alone: "
        f"{differences} in weights, average, optimizers, tallies, schedules, and the step log's rows that count; every "
        f"slot fed exactly once in every whole epoch, {found.epochs_of_ten} of which had 10 kills or more within (at "
        f"most {found.most_in_an_epoch}); all verified. After the kills {found.checked} checkpoints were looked at: "
        f"{'none' if not found.failures else 'see above'} was lost. This run took {seconds:.0f} s. Code {found.code}."
    )
    publish("training_kills", told)


if __name__ == "__main__":
    sys.exit(main())
