"""Kill -9 at random moments of crawl, decide, caption, seal and train, again and again: nothing changes.

    make prove PROOF=kills            40 kills
    KILLS=200 make prove PROOF=kills  more of them

One home is never disturbed. In every round another one goes the same way; each of its stages is killed twice at
moments drawn over the time that the stage takes, and started again. At the round's end the ledger's content, the
shards and the last checkpoint's weights of both must be the same (tests/builders.py says what is compared) and
everything must verify. Interrupted, the proof goes on with the next round. What is under .proofs/kills can be deleted.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from flows.home import Home
from flows.museum import Museum
from flows.stages import crawl
from tests.builders import (
    ROOT,
    Custody,
    differences,
    final_weights,
    ledger_content,
    leftovers,
    make_home,
    shard_content,
    stages,
)
from tests.proofs.resumable import Resumable, publish

FOLDER = ROOT / ".proofs" / "kills"
PORT_BASE = 27431
PICTURES = 90
KILLS_A_STAGE = 2


@dataclass(slots=True)
class State(Resumable):
    """What is done, on the disk after every round. `kills`: stage -> kills that met a living process."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, undisturbed
    rounds: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    too_late: int = 0  # drawn at the very end: the process had left

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def main() -> int:
    """Run until enough kills are done; 0 when nothing differed."""
    wanted = int(os.environ.get("KILLS", "40"))
    state = State.begin(FOLDER)
    started, before = time.monotonic(), state.killed
    with Museum(PORT_BASE, limit=PICTURES) as museum, Custody(FOLDER) as custody:
        if not state.seconds:
            _undisturbed(custody, museum, state)
        reference = Home.open(FOLDER / "undisturbed")
        while state.killed < wanted and not state.failures:
            _round(custody, museum, reference, state)
            print(f"round {state.rounds}: {state.killed} of {wanted} kills, {state.kills}", flush=True)
    for failure in state.failures:
        print(failure, file=sys.stderr)
    if state.killed > before or state.failures:
        _publish(state, time.monotonic() - started)
    return 1 if state.failures else 0


def _undisturbed(custody: Custody, museum: Museum, state: State) -> None:
    shutil.rmtree(FOLDER / "undisturbed", ignore_errors=True)
    home = make_home(FOLDER / "undisturbed", museum)
    custody(home, "audit")  # the warm process is warm before the clock runs
    seconds = {}
    for name, command in stages(museum).items():
        started = time.monotonic()
        custody(home, *command)
        seconds[name] = time.monotonic() - started
    state.seconds = seconds
    state.store(FOLDER)


def _round(custody: Custody, museum: Museum, reference: Home, state: State) -> None:
    """One home, every stage killed so often; then it must be what the undisturbed one is."""
    number = state.rounds + 1
    drawn = random.Random(f"{state.code}/{number}")
    shutil.rmtree(FOLDER / "killed", ignore_errors=True)
    home = make_home(FOLDER / "killed", museum)
    moments = []
    for name, command in stages(museum).items():
        for _ in range(KILLS_A_STAGE):
            if name == "crawl" and _is_crawled(home):
                break
            after_s = drawn.uniform(0.0, state.seconds[name])
            started = time.monotonic()
            done = custody.run(home, *command, kill_after_s=after_s)
            moments.append(f"{name} after {after_s:.2f} s")
            if done.was_killed:
                state.kills[name] = state.kills.get(name, 0) + 1
            else:
                state.too_late += 1
                # The machine was busier when it was first measured: the next moments are drawn closer.
                state.seconds[name] = min(state.seconds[name], time.monotonic() - started)
                _check(done.status == 0, f"round {number}, {name}: exit {done.status}: {done.err}", state)
                break
        if not (name == "crawl" and _is_crawled(home)):  # asked again, a finished crawl would be a second one
            done = custody.run(home, *command)
            _check(done.status == 0, f"round {number}, {moments[-1]}: exit {done.status}: {done.err}", state)
            if done.status != 0:
                break
    if not state.failures:
        _compare(custody, reference, home, state, f"round {number} ({', '.join(moments)})")
    state.rounds = number
    state.store(FOLDER)
    if not state.failures:
        shutil.rmtree(home.path)


def _compare(custody: Custody, reference: Home, home: Home, state: State, what: str) -> None:
    for told in differences(ledger_content(reference), ledger_content(home)):
        _check(False, f"{what}: {told}", state)
    for dataset in _names(reference.datasets_path) | _names(home.datasets_path):
        _check(shard_content(home, dataset) == shard_content(reference, dataset), f"{what}: shards of {dataset}", state)
    for run in _names(reference.runs_path) | _names(home.runs_path):
        _check(final_weights(home, run) == final_weights(reference, run), f"{what}: weights of {run}", state)
    verified = custody.run(home, "verify")
    _check(verified.status == 0, f"{what}: {verified.out}", state)
    _check(not leftovers(home), f"{what}: left behind: {leftovers(home)}", state)


def _is_crawled(home: Home) -> bool:
    return bool(crawl.finished(home)) and not crawl.unfinished(home)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def _check(holds: bool, what: str, state: State) -> None:
    if not holds:
        state.failures.append(what)


def _publish(state: State, seconds: float) -> None:
    """Append the result, dated, to docs/proofs.md."""
    found = "no difference" if not state.failures else "DIFFERENCES: " + "; ".join(f[:300] for f in state.failures)
    by_stage = ", ".join(f"{name} {state.kills.get(name, 0)}" for name in state.seconds)
    told = (
        f"{state.killed} kills with -9 at random moments over {state.rounds} homes ({by_stage}; "
        f"{state.too_late} more came after the process had ended by itself). Against a home that was never disturbed: "
        f"{found} in the ledger's content, the samples and their order in the shards, and the last checkpoints' "
        f"weights, average and optimizers (CLIP and diffusion). This run took {seconds:.0f} s. Code {state.code}."
    )
    publish("kills", told)


if __name__ == "__main__":
    sys.exit(main())
