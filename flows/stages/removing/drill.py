"""The drill: the whole way of a removal, on samples picked at random, in a copy of the home that is deleted after it.

Filed, approved, applied, the models' cost reckoned (or the models served, if asked), scanned, receipts checked, all
verified: how long each part took, and what was left. The home itself is only read, but for one event row with counts
and times.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from flows.home import Home, utc_now
from flows.stages.removing import applying, approving, requests
from flows.stages.removing.checking import check
from flows.stages.removing.keyed import leftovers
from flows.stages.removing.standing import Removal
from flows.stages.verify import verify
from flows.terminal import Progress, silent
from policy.errors import InputError, RefusedError, StorageError
from policy.provenance import canonical_json
from policy.receipts import Problem
from policy.removals import due_at

PREFIX = ".drill-"  # of the copy's directory, beside the home; its name ends with who made it
COPY = "tombstones-copy"  # in the copy, what removals.suppression_copy names: so one that is kept can be opened
BY_WHOM = "custody removal drill"
ROOM = 2.2  # times the home: the copy, and the ledger, its snapshot and the touched shards written anew in it

_LIVE = """
SELECT DISTINCT dataset, ordinal, sample_key FROM slot WHERE sample_key IS NOT NULL ORDER BY dataset, ordinal
"""
_SCANNED = """
SELECT coalesce(max((after_json->>'$.hits')::BIGINT), 0), coalesce(max((after_json->>'$.unread')::BIGINT), 0)
FROM removal_step WHERE part = 'scan' AND action = 'needles' AND list_contains($removals::VARCHAR[], removal)
"""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the way, and how long it took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Drilled:
    """The contract of `custody removal drill --json`. `hits`, `unread`: of the needle scan; `left`: by tokens.

    `checkpoints`: that had seen a sample; `redo_s`: what replaying them would take, by the pace of their own training,
    None where nothing is known of it. `deadline_s`: of the shortest deadline by law; `in_time`: all of it fits there.
    `failures`: what verifying the home and the receipts found. `copy`: where it was kept, if that was asked for.
    """

    samples: int
    seed: int
    parts: tuple[Part, ...]
    hits: int
    unread: int
    left: int
    checkpoints: int
    redo_s: float | None
    deadline_s: float
    in_time: bool
    failures: tuple[str, ...]
    copy: str = ""

    @property
    def passed(self) -> bool:
        """Nothing was left, and everything verified."""
        return not self.hits and not self.left and not self.failures and self.in_time


def drill(
    home: Home,
    *,
    samples: int = 3,
    seed: int | None = None,
    keep: Path | None = None,
    models: bool = False,
    progress: Progress = silent,
) -> Drilled:
    """Remove `samples` live samples, picked by `seed`, in a copy of the home. `models`: serve the models, too.

    Raises:
        InputError: there are not so many live samples, or datasets lie in a bucket, of which no copy is made.
        StorageError: there is no room for the copy. RefusedError: what `keep` names is there already.
    """
    if samples < 1:
        raise InputError("a drill takes one sample at least", where="--samples")
    if home.remote_datasets is not None or not home.datasets_path.resolve().is_relative_to(home.path.resolve()):
        raise InputError(
            f"the datasets lie in {home.datasets_where}, and a drill must not touch them there",
            where="custody removal drill",
            remedy="Drill in a home whose datasets are a copy within it (seal.store empty)",
        )
    if keep is not None and keep.exists():
        raise RefusedError("something is here already", where=str(keep), remedy="Name a new directory with --keep")
    sweep_drills(home)
    picked_by = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    keys = _picked(home, samples, picked_by)
    clock = _Clock(progress)
    with _copied(home, keep, clock) as copy:
        found = _gone_through(copy, keys, models, clock)
    hits, unread, left, checkpoints, redo_s, failures = found
    received = utc_now()
    # The shortest of the laws': what is due first must fit.
    deadline_s = min((due_at(received, law) - received) / timedelta(seconds=1) for law in ("gdpr", "ccpa"))
    taken_s = sum(part.seconds for part in clock.parts) + (redo_s or 0)
    done = Drilled(
        *(samples, picked_by, tuple(clock.parts), hits, unread, left, checkpoints, redo_s),
        deadline_s=round(deadline_s),
        in_time=taken_s < deadline_s,
        failures=failures,
        copy=str(keep) if keep is not None else "",
    )
    _record(home, done)
    return done


def sweep_drills(home: Home) -> int:
    """Remove what killed drills left beside the home; how many there were."""
    swept = 0
    for path in home.path.absolute().parent.glob(f"{PREFIX}{home.path.absolute().name}-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
            swept += 1
    return swept


# ── the copy ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _picked(home: Home, samples: int, seed: int) -> list[str]:
    """So many live sample keys, by the seed."""
    with home.ledger(readonly=True) as ledger:
        tombstones = home.tombstones(ledger)
        live = [key for dataset, ordinal, key in ledger.query(_LIVE) if ordinal not in tombstones.slots(dataset)]
    known = list(dict.fromkeys(live))
    if len(known) < samples:
        raise InputError(f"there are {len(known)} live samples, not {samples}", where="--samples")
    return sorted(random.Random(seed).sample(known, samples))


@contextmanager
def _copied(home: Home, keep: Path | None, clock: _Clock) -> Iterator[Home]:
    """A copy of the home, every byte its own, with its copy of tombstones in it; gone in the end, unless kept."""
    source = home.path.absolute()
    place = source.parent / f"{PREFIX}{source.name}-{os.getpid()}"
    _require_own_files(source)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    free = shutil.disk_usage(source.parent).free
    if free < size * ROOM:
        what = f"a copy of the home takes {size * ROOM / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free"
        raise StorageError(what, where=str(source.parent), remedy="Make room, or drill with a smaller home")
    try:
        place.mkdir(mode=0o700)
        with home.ledger(readonly=True):  # nobody writes while it is copied
            clock.measure("copy", lambda: shutil.copytree(source, place / "home", symlinks=True))
        copy = Home(place / "home")
        _own_places(home, copy)
        yield Home.open(copy.path)
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(copy.path, keep)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _own_places(home: Home, copy: Home) -> None:
    """What custody.toml names outside the home is the real one's: the copy gets its own, or none."""
    text = copy.settings_path.read_text("utf-8")
    if (outside := home.copy_path) is not None and outside.is_dir():
        shutil.copytree(outside, copy.path / COPY)
    named = {"suppression_copy": COPY if outside is not None else "", "anchors": "", "withdrawal_list_copy": ""}
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0].strip()
        lines.append(f"{name} = {_toml(named[name])}" if name in named else line)
    copy.settings_path.write_text("\n".join(lines) + "\n", "utf-8")
    removals = Home(copy.path).settings.removals
    if wrong := [name for name, value in named.items() if getattr(removals, name) != value]:
        raise InputError(
            f"[removals] {', '.join(wrong)} cannot be set anew for the copy",
            where="custody.toml",
            remedy='Write each on a line of its own, as in: suppression_copy = "/a/place"',
        )


def _require_own_files(source: Path) -> None:
    """A link is copied as a link: what it leads to is the real one, and would be deleted from."""
    for path in source.rglob("*"):
        if path.is_symlink() and (path.readlink().is_absolute() or not path.resolve().is_relative_to(source.resolve())):
            raise InputError(
                "is a link to files that are not in the home, and a drill must not touch those",
                where=str(path.relative_to(source)),
                remedy="Drill in a home that is a whole copy (cp -rL)",
            )


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ── the way ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Clock:
    """How long each part took."""

    def __init__(self, progress: Progress) -> None:
        self.parts: list[Part] = []
        self.progress = progress

    def measure(self, name: str, work: Callable[[], Result]) -> Result:
        self.progress(len(self.parts), 8, f"drill: {name}")
        began = time.perf_counter()
        found = work()
        self.parts.append(Part(name, round(time.perf_counter() - began, 3)))
        return found


def _gone_through(
    home: Home, keys: list[str], models: bool, clock: _Clock
) -> tuple[int, int, int, int, float | None, tuple[str, ...]]:
    """Hits, places not read, what tokens still find, checkpoints that saw it, seconds to redo them, failures."""
    from flows.stages.removing.models import plan_models, serve_models, to_approximate

    names = clock.measure("file", lambda: [requests.add(home, "key", key).id for key in keys])
    clock.measure("approve", lambda: _approve(home, names))
    plan = clock.measure("models, reckoned", lambda: plan_models(home, *names))
    first = models and bool(to_approximate(home, names))  # of what is to forget it: while it is there
    if first:
        clock.measure("models, served", lambda: serve_models(home, *names, outside=False))
    done: tuple[Removal, ...] = clock.measure(
        "apply, scan and receipts",
        lambda: applying.apply(home, *names, progress=clock.progress, despite_models=not models),
    )
    if models and not first:
        clock.measure("models, served", lambda: serve_models(home, *names, outside=False))
    failures = [f"receipt of {one.id}: {p.field}: {p.what}" for one in done for p in _checked(home, one)]
    with home.ledger(readonly=True) as ledger:
        still = leftovers(home, ledger, home.tombstones(ledger))
        [(hits, unread)] = ledger.query(
            _SCANNED,
            {"removals": names},
        )
    failures += [f"{one.where}: {one.what}" for one in clock.measure("verify", lambda: verify(home))]
    left = sum(sum(known.get(name, 0) for name in names) for known in (still.rows, still.pictures, still.slots))
    saw = {each.id for run in plan.runs for each in run.exposed}
    return hits, unread, left, len(saw), plan.estimated_s, tuple(failures)


def _approve(home: Home, names: list[str]) -> None:
    """Approve, by a second one where four eyes are needed: a drill drills the work, not the reviewers."""
    for name in names:
        for by in (BY_WHOM, f"{BY_WHOM}, second"):
            if approving.approve(home, name, by=by, reason="a drill").state != "awaiting-second":
                break


def _checked(home: Home, one: Removal) -> tuple[Problem, ...]:
    return check(home.path / one.receipt, public_key=home.keys.public_key.hex()).failures


def _record(home: Home, done: Drilled) -> None:
    """Counts and times alone."""
    now = utc_now()
    detail = {
        "samples": done.samples,
        "seconds": {part.name: part.seconds for part in done.parts},
        "hits": done.hits,
        "left": done.left,
        "checkpoints": done.checkpoints,
        "failures": len(done.failures),
        "passed": done.passed,
    }
    event = {"kind": "drill", "subject": None, "detail": canonical_json(detail), "happened_at": now}
    with home.ledger() as ledger:
        ledger.append("event", [event], key=f"drill:{now.isoformat()}")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
