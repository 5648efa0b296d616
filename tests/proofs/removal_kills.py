"""Kill -9 at random moments of `removal approve` and `removal apply`, again and again: it always ends in the same.

    make prove PROOF=removal_kills            40 kills
    KILLS=200 make prove PROOF=removal_kills  more of them

A home with a sealed dataset and a model that was trained on it is copied for every round. Its request is approved and
applied by commands that are killed at moments drawn over the time that each takes, and run again until one ends by
itself. Then, whatever was killed: everything verifies, the request was approved once and applied once, the tombstones
are in force here and in the copy outside, its slots are empty and no other is, neither pixels nor rows nor shards nor
any file hold what was removed, and nothing half written lies about. At the end two commands at once, for each of
approving and applying, and an approval while a dataset is being sealed. Interrupted, the proof goes on with the next
round. What is under .proofs/removal_kills can be deleted.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from curation.shard_reader import DatasetReader
from flows.home import Home
from flows.stages.removing import requests
from flows.stages.removing.keyed import leftovers as still_held
from policy.durable import write_durably
from policy.suppression import Suppression
from policy.tombstones import Tombstones
from tests.builders import ROOT, SINGLE_THREAD, Custody, ask, leftovers, replaced
from tests.flows.removable import jpeg
from tests.flows.trained import DATASET, SLOTS, trained_home
from tests.proofs.resumable import Resumable, publish

FOLDER = ROOT / ".proofs" / "removal_kills"
COMMANDS = ("approve", "apply")
KILLS_A_COMMAND = 2
REMOVED = 4  # the slot whose picture is asked to go
COPY = "outside"


@dataclass(slots=True)
class State(Resumable):
    """What is done, on the disk after every round. `kills`: command -> kills that met a living process."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each command, undisturbed
    rounds: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    too_late: int = 0
    together: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """The request of a home, and what must be gone once it is carried through."""

    removal: str
    values: tuple[str, ...]


def main() -> int:
    """Run until enough kills are done; 0 when every home ended as it must."""
    wanted = int(os.environ.get("KILLS", "40"))
    state, before, started = State.begin(FOLDER), 0, time.monotonic()
    before = state.killed
    with Custody(FOLDER) as custody:
        asked = _prepared(FOLDER / "prepared")
        if not state.seconds:
            _undisturbed(custody, asked, state)
        while state.killed < wanted and not state.failures:
            _round(custody, asked, state)
            print(f"round {state.rounds}: {state.killed} of {wanted} kills, {state.kills}", flush=True)
        if not state.failures and not state.together:
            _together(custody, asked, state)
    for failure in state.failures:
        print(failure, file=sys.stderr)
    if state.killed > before or state.failures:
        _publish(state, time.monotonic() - started)
    return 1 if state.failures else 0


# ── a home ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _prepared(path: Path) -> Asked:
    """A home with a model and a request that is held; made once."""
    told = path / "asked.json"
    if told.is_file():
        data = json.loads(told.read_text())
        return Asked(data["removal"], tuple(data["values"]))
    shutil.rmtree(path, ignore_errors=True)
    asked = prepare(path / "home")
    write_durably(told, json.dumps(asdict(asked)).encode())
    return asked


def prepare(path: Path) -> Asked:
    """Make a home with a sealed dataset, a model trained on it and a request for one of its pictures."""
    home = trained_home(path, jpeg)
    text = replaced(home.settings_path.read_text("utf-8"), {'suppression_copy = ""': f'suppression_copy = "../{COPY}"'})
    write_durably(home.settings_path, text.encode())
    [(sha, key, pair, url)] = ask(
        home,
        "SELECT slot.content_sha256, slot.sample_key, slot.pair_key, image_url "
        "FROM slot JOIN occurrence USING (pair_key) WHERE dataset = ? AND ordinal = ?",
        DATASET,
        REMOVED,
    )
    return Asked(requests.add(home, "sha256", sha).id, (sha, key, pair, url))


def copied(prepared: Path, path: Path) -> Home:
    """A copy of a prepared home, with the place for its list outside beside it."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(prepared, path / "home", symlinks=True)
    return Home.open(path / "home")


def command(name: str, asked: Asked) -> list[str]:
    """The words of `approve` and `apply`."""
    named = ["--by", "A. Reviewer"] if name == "approve" else []
    return ["removal", name, asked.removal, *named]


def wrong(home: Home, asked: Asked, *, applied: bool = True) -> list[str]:
    """What is not as it must be once a request was carried through, whatever was killed on the way."""
    found = []
    for state in ("approved", *(("applied",) if applied else ())):
        events = ask(home, "SELECT count(*) FROM removal_event WHERE removal = ? AND state = ?", asked.removal, state)
        if events != [(1,)]:
            found.append(f"{state} {events[0][0]} times")
    tombstones, suppression = home.tombstones(), home.suppression()
    if asked.removal not in tombstones.removals or not tombstones.covers_content(asked.values[0]):
        found.append("the tombstones are not in force")
    if not suppression.is_marked(asked.values[0]):
        found.append("what was removed left no marks")
    outside = home.path.parent / COPY
    if (Tombstones.load(outside), Suppression.load(outside)) != (tombstones, suppression):
        found.append("the copy outside is another")
    if not applied:
        return found
    with DatasetReader.open(home.dataset(DATASET)) as reader:
        live = {ordinal for ordinal in range(SLOTS) if reader.is_live(ordinal)}
    if live != set(range(SLOTS)) - {REMOVED}:
        found.append(f"these slots are live: {sorted(live)}")
    with home.ledger(readonly=True) as ledger:
        held = still_held(home, ledger, tombstones)
    if held.rows or held.pictures or held.slots or held.unread:
        found.append(f"still held: {held}")
    return [*found, *(f"left behind: {name}" for name in leftovers(home)), *_needles(home, asked)]


def _needles(home: Home, asked: Asked) -> list[str]:
    """Files in which a value of the removed sample stands, as text or as the bytes that it is in hex."""
    values = [value.encode() for value in asked.values] + [bytes.fromhex(value) for value in asked.values[:3]]
    found = []
    for path in sorted(home.path.rglob("*")):
        if path.is_file() and "keys" not in path.relative_to(home.path).parts:
            body = path.read_bytes()
            found += [
                f"{path.relative_to(home.path)} holds value {n}" for n, value in enumerate(values) if value in body
            ]
    return found


# ── rounds ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _undisturbed(custody: Custody, asked: Asked, state: State) -> None:
    home = copied(FOLDER / "prepared" / "home", FOLDER / "undisturbed")
    custody(home, "audit")  # the warm process is warm before the clock runs
    for name in COMMANDS:
        started = time.monotonic()
        custody(home, *command(name, asked))
        state.seconds[name] = time.monotonic() - started
    _check(custody, home, asked, state, "undisturbed")
    state.store(FOLDER)


def _round(custody: Custody, asked: Asked, state: State) -> None:
    """One home, each command killed so often and then let end."""
    number = state.rounds + 1
    drawn = random.Random(f"{state.code}/{number}")
    home = copied(FOLDER / "prepared" / "home", FOLDER / "killed")
    moments = []
    for name in COMMANDS:
        for _ in range(KILLS_A_COMMAND):
            after_s = drawn.uniform(0.0, state.seconds[name])
            started = time.monotonic()
            done = custody.run(home, *command(name, asked), kill_after_s=after_s)
            moments.append(f"{name} after {after_s:.2f} s")
            if done.was_killed:
                state.kills[name] = state.kills.get(name, 0) + 1
                continue
            state.too_late += 1
            # The machine was busier when it was first measured: the next moments are drawn closer.
            state.seconds[name] = min(state.seconds[name], time.monotonic() - started)
        done = custody.run(home, *command(name, asked))
        if done.status != 0:
            state.failures.append(f"round {number} ({', '.join(moments)}), {name}: exit {done.status}: {done.err}")
            break
        if name == "approve":
            state.failures += [f"round {number} ({', '.join(moments)}): {w}" for w in wrong(home, asked, applied=False)]
    if not state.failures:
        _check(custody, home, asked, state, f"round {number} ({', '.join(moments)})")
    state.rounds = number
    state.store(FOLDER)


def _together(custody: Custody, asked: Asked, state: State) -> None:
    """Each command twice at once: one outcome."""
    home = copied(FOLDER / "prepared" / "home", FOLDER / "together")
    for name in COMMANDS:
        both = [_started(home, *command(name, asked)) for _ in range(2)]
        codes = sorted(process.wait() for process in both)
        state.together.append(f"{name}: exit {codes[0]} and {codes[1]}")
        if codes[0] != 0:
            state.failures.append(f"{name} twice at once: {codes}")
    _check(custody, home, asked, state, "twice at once")
    state.store(FOLDER)


def _started(home: Home, *arguments: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", "from flows.cli import main; main()", *arguments, "--home", str(home.path), "--json"]
    return subprocess.Popen(
        words, cwd=ROOT, env=os.environ | SINGLE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _check(custody: Custody, home: Home, asked: Asked, state: State, what: str) -> None:
    state.failures += [f"{what}: {found}" for found in wrong(home, asked)]
    verified = custody.run(home, "verify")
    if verified.status != 0:
        state.failures.append(f"{what}: {verified.out}")


def _publish(state: State, seconds: float) -> None:
    """Append the result, dated, to docs/proofs.md."""
    found = (
        "as it must in all of them" if not state.failures else "WRONG: " + "; ".join(f[:300] for f in state.failures)
    )
    by_command = ", ".join(f"{name} {state.kills.get(name, 0)}" for name in COMMANDS)
    told = (
        f"{state.killed} kills with -9 at random moments of approving and applying over {state.rounds} homes "
        f"({by_command}; {state.too_late} more came after the process had ended by itself), each command twice at "
        f"once ({'; '.join(state.together)}). It ended {found}: everything verifies, approved once and "
        "applied once, tombstones in force here and outside, the slot empty and no other, no row, picture, slot or "
        f"file with a value of what was removed, nothing half written. This run took {seconds:.0f} s. "
        f"Code {state.code}."
    )
    publish("removal_kills", told)


if __name__ == "__main__":
    sys.exit(main())
