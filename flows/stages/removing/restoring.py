"""Restoring: a home from a backup gets the removals that were filed since applied again, before anybody uses it.

What was removed meanwhile is known from the copy outside the home: tokens, slots and marks, by removal, and of each
request its kind and dates; no value. Every row, kept picture and slot of the old home is held against the tokens; what
they name is removed as it was the first time, scanned for, and gets a receipt. A file in the home says that it is being
restored until all is done, so it can be killed anywhere and run again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.home import Home, utc_now
from flows.stages.removing.applying import apply, with_found_slots
from flows.stages.removing.keyed import covered_matches, leftovers
from flows.stages.removing.standing import Removal
from flows.stages.removing.suppressing import in_force
from flows.stages.removing.withdrawing import carry_through
from flows.terminal import Progress, silent
from policy import removals
from policy.copies import RESTORING, load_both, united, united_marks
from policy.durable import sync_directory, write_durably
from policy.errors import HomeError, InputError, RefusedError, StorageError
from policy.filed import Filed, load_filed, store_filed
from policy.ledger import Ledger
from policy.removal_matches import Match, record_matches
from policy.removals import Done, RemovalRequest, State
from policy.suppression import store_copy
from policy.tombstones import Tombstones

RESTORED_KIND = "restored"  # of a request of which the old ledger knows nothing: what it named is known by tokens alone
BY_WHOM = "custody restore"


@dataclass(frozen=True, slots=True)
class Restored:
    """The contract of `custody restore --json`. `epoch_before`, `epoch`: of the home's tombstones.

    `removals`: what was applied again, with receipts; `left`: rows, kept pictures and live slots that the tombstones
    still name: 0 is right. `clean`: every scan found nothing, and none is left.
    """

    home: str
    epoch_before: int
    epoch: int
    removals: tuple[Removal, ...]
    left: int
    clean: bool


def restore(home: Home, progress: Progress = silent) -> Restored:
    """Apply what the copy knows and this home does not; then it may be used again.

    Raises:
        InputError: no copy is configured. HomeError: the copy is missing or damaged. KeyFileError: other keys.
        RefusedError: the home is not behind.
    """
    copy = home.copy_path
    if copy is None:
        raise InputError(
            "no copy of what may never come back is configured, so nothing can be applied from it",
            where=str(home.settings_path),
            remedy="Name the one that was kept in removals.suppression_copy",
        )
    marker = home.path / RESTORING
    outside, marks_outside = load_both(copy, home.keys)
    filed = load_filed(copy, home.keys)
    own, marks = load_both(home.tombstones_path, home.keys)
    if not outside.epoch and not marks_outside.epoch and (own.epoch or marker.exists()):
        raise HomeError(
            "the copy of what may never come back is missing",
            where=str(copy),
            remedy="Mount or restore it; if this home is the newest there is: `custody restore --write-copy`",
        )
    if not marker.exists() and outside.is_within(own) and marks_outside.is_within(marks):
        raise RefusedError("the home is not behind its copy: there is nothing to restore", where=str(home.path))
    before = _begun(marker, own.epoch)
    # Whoever looks sees the marker first: with it nobody but this command opens the home.
    tombstones, both_marks = united(own, outside), united_marks(marks, marks_outside)
    tombstones.store(home.tombstones_path)
    both_marks.store(home.tombstones_path)
    with home.ledger() as ledger:
        progress(0, 3, "restore: what the tokens name")
        _file_again(ledger, tombstones, filed)
        found = covered_matches(ledger, tombstones)
        for name, matches in sorted(found.items()):
            record_matches(ledger, name, matches, now=utc_now())
        tombstones = with_found_slots(home, ledger, tombstones, found)
        both_marks.record(ledger, utc_now())
        again = _to_apply(ledger, tombstones, found)
        _say(ledger, again, found, before, tombstones.epoch)
    progress(1, 3, "restore: removals")
    # Nothing else may be done in it meanwhile: no model can be made to forget first.
    done = apply(home, *again, progress=progress, despite_models=True) if again else ()
    carry_through(home)  # weights of models that were withdrawn before the backup was made, and lie in it
    progress(2, 3, "restore: what is left")
    with home.ledger(readonly=True) as ledger:
        still = leftovers(home, ledger, home.tombstones(ledger))
    left = sum(sum(known.values()) for known in (still.rows, still.pictures, still.slots))
    store_copy(copy, tombstones, both_marks)
    if not left:
        marker.unlink(missing_ok=True)
        sync_directory(home.path)
    progress(3, 3, "restore: done")
    clean = not left and all(one.scan in ("clean", "values-gone") for one in done)
    return Restored(str(home.path), before, tombstones.epoch, done, left, clean)


def put_back(backup: Path, target: Path, progress: Progress = silent) -> Home:
    """Copy a backup to where a home is to be, as one that is being restored. Raises InputError, StorageError."""
    if not (backup / "ledger.duckdb").is_file() or not (backup / "custody.toml").is_file():
        raise InputError("is no backup of a home (no custody.toml and ledger.duckdb in it)", where=str(backup))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        remedy = "Move it away, or name an empty place with --home"
        raise InputError("something is here already, and is never written over", where=str(target), remedy=remedy)
    if Home(backup).copy_path is None:
        raise InputError(
            "it names no copy of what may never come back, so nothing can be applied from it",
            where=str(backup / "custody.toml"),
            remedy="Set removals.suppression_copy there to the one that was kept",
        )
    making = target.with_name(f".{target.name}.{os.getpid()}.restoring")
    progress(0, 1, "restore: copying the backup")
    try:
        shutil.copytree(backup, making, symlinks=True)
        write_durably(making / RESTORING, b"{}")
        if target.exists():
            target.rmdir()
        os.replace(making, target)
        sync_directory(target.absolute().parent)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise StorageError(f"the backup cannot be copied ({error.strerror or error})", where=str(target)) from error
    return Home.open(target, to_restore=True)


def write_copy(home: Home) -> int:
    """Make the copy outside anew from this home, which is said to be the newest there is; the epoch that it has now.

    Raises:
        InputError: no copy is configured. RefusedError: there is one, and it knows more than this home.
    """
    copy = home.copy_path
    if copy is None:
        raise InputError("no copy is configured", where=str(home.settings_path), remedy="Set removals.suppression_copy")
    if (home.path / RESTORING).exists():
        raise RefusedError("the home is being restored: it is not the newest", where=str(home.path))
    with home.ledger(readonly=True) as ledger:
        tombstones, marks = home.tombstones(ledger), home.suppression(ledger)
        filed = in_force(ledger, tombstones)
    outside, marks_outside = load_both(copy, home.keys)
    if not (outside.is_within(tombstones) and marks_outside.is_within(marks)):
        raise RefusedError("the copy knows removals that this home does not", where=str(copy), remedy="custody restore")
    store_filed(copy, filed, home.keys)
    store_copy(copy, tombstones, marks)
    return tombstones.epoch


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_UNTOLD = """
SELECT DISTINCT s.removal FROM removal_step s WHERE s.part = 'restore' AND NOT EXISTS (
    SELECT 1 FROM receipt r WHERE r.removal = s.removal AND r.batch_seq > s.batch_seq
)
"""


def _begun(marker: Path, epoch: int) -> int:
    """Mark the home as being restored; the epoch that it had when that began."""
    try:
        return int(json.loads(marker.read_bytes()).get("epoch", epoch))
    except FileNotFoundError:
        pass
    except (ValueError, AttributeError, OSError):
        return epoch  # it is there, and that is what counts
    write_durably(marker, json.dumps({"epoch": epoch}).encode())
    return epoch


def _file_again(ledger: Ledger, tombstones: Tombstones, filed: Mapping[str, Filed]) -> None:
    """Every removal that has a tombstone is on record as approved, and its tombstones are. `filed`: kinds and dates."""
    now = utc_now()
    known = {request.removal: request.state for request in removals.requests(ledger)}
    absent = [name for name in tombstones.removals if name not in known]
    if absent:
        # What it named, and of whom, only the lost ledger knew; of a copy from before it kept dates these, too.
        unknown = Filed("erasure", "own", now, now)
        requests = [_restored(name, filed.get(name, unknown)) for name in absent]
        removals.record_many(
            ledger, [(request, None) for request in requests], key=f"restored:{absent[0]}:{len(absent)}"
        )
    waiting = [name for name in tombstones.removals if name in absent or known[name].is_undecided]
    reason = f"it has tombstones in the copy outside the home, of epoch {tombstones.epoch}"
    removals.advance_many(ledger, waiting, State.APPROVED, now=now, by_whom=BY_WHOM, reason=reason)
    there = set(ledger.query("SELECT kind, token FROM tombstone WHERE token IS NOT NULL"))
    rows = [
        row
        for name in tombstones.removals
        for row in tombstones.rows(name, now)
        if (row["kind"], row["token"]) not in there
    ]
    if rows:
        ledger.append("tombstone", rows, key=f"restored:{tombstones.epoch}:{len(there)}")


def _restored(removal: str, filed: Filed) -> RemovalRequest:
    dates = {"received_at": filed.received_at, "due_at": filed.due_at}
    return RemovalRequest(removal, filed.kind, filed.regime, RESTORED_KIND, None, **dates, state=State.RECEIVED)


def _to_apply(ledger: Ledger, tombstones: Tombstones, found: Mapping[str, Sequence[Match]]) -> list[str]:
    """What is approved and not applied, what is applied and still there, and what has no receipt of this yet."""
    states = {request.removal: request.state for request in removals.requests(ledger)}
    waiting = {name for name in tombstones.removals if states[name] is State.APPROVED}
    return sorted(waiting | found.keys() | {name for (name,) in ledger.query(_UNTOLD)})


def _say(ledger: Ledger, names: Sequence[str], found: Mapping[str, Sequence[Match]], before: int, epoch: int) -> None:
    steps = [
        Done(
            name,
            "restore",
            "applied-again",
            "home",
            {"epoch": before},
            {"epoch": epoch, "rows": len(found.get(name, ()))},
        )
        for name in names
    ]
    told = ledger.query("SELECT DISTINCT removal FROM removal_step WHERE part = 'restore'")
    new = [step for step in steps if (step.removal,) not in told or step.removal in found]
    now = utc_now()
    removals.record_steps(ledger, new, now=now)
    detail = f"epoch {before} to {epoch}, {len(names)} removals"
    ledger.append(
        "event", [{"kind": "restored", "subject": None, "detail": detail, "happened_at": now}], key=f"restored:{epoch}"
    )
