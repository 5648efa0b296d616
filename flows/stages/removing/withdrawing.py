"""Withdrawing: a checkpoint that may be used no more goes, with what it drew, and everybody who has it is told.

First the ledger says so, then the weights go: from then on `carry_through` finishes what a killed process left. What
stays are records, in `runs/<run>/withdrawn/step-…`: what a checkpoint had learnt from can be shown after its weights
are gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.home import Home, utc_now
from flows.stages.removing.exposure import PART, Withdrawn, withdrawals
from policy import removals
from policy.durable import sync_directory, write_durably
from policy.errors import CustodyError, IntegrityError, StorageError
from policy.ledger import Ledger
from policy.provenance import canonical_json
from policy.removals import Done
from policy.snapshot import publish
from policy.verification import Failure
from policy.withdrawal_list import WithdrawalList, WithdrawnModel

WITHDRAWN = "withdrawn"  # of a run's directory: records whose weights are gone
DRAWN = "picture-drawn"  # an event: subject the checkpoint, detail the picture's path
_WEIGHTS = ".safetensors"
_RECORD = "provenance.json"
_MEASURED = "retrieval.json"  # of a CLIP, by its last checkpoint

_ALL = """
SELECT removal, checkpoint, tier, withdrawn_at FROM withdrawal ORDER BY batch_seq, row_no
"""
_FILES = """
SELECT checkpoint, path, files_json FROM checkpoint
QUALIFY row_number() OVER (PARTITION BY checkpoint ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_DRAWN = """
SELECT subject, detail FROM event WHERE kind = 'picture-drawn' AND detail IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY detail ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_EXPORTS = "SELECT DISTINCT export, checkpoint, path, files_json FROM export ORDER BY export"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A checkpoint to withdraw for a removal.

    `tier`: direct | indirect, how it was touched. `action`: replayed | withdrawn | approximated. `detail`: the path.
    """

    checkpoint: str
    run: str
    removal: str
    tier: str
    action: str
    replaced_by: str | None = None
    detail: str = ""


def withdraw(ledger: Ledger, each: Sequence[Withdrawal]) -> None:
    """Put withdrawals on record, in one batch: in force when this returns. Those on record stay as they are."""
    known = set(
        ledger.query(
            "SELECT removal, checkpoint, action, replaced_by FROM withdrawal"
            " WHERE list_contains($removals::VARCHAR[], removal)",
            {"removals": sorted({one.removal for one in each})},
        )
    )
    new = [
        one for one in dict.fromkeys(each) if (one.removal, one.checkpoint, one.action, one.replaced_by) not in known
    ]
    if not new:
        return
    now, digest = utc_now(), hashlib.sha256(canonical_json([asdict(one) for one in new]).encode()).hexdigest()
    rows = [{**asdict(one), "detail": one.detail or None, "withdrawn_at": now} for one in new]
    ledger.append("withdrawal", rows, key=f"withdrawal/{digest[:32]}")


def carry_through(home: Home, *, outside: bool = True) -> None:
    """Do what withdrawals on record ask for and is not done yet: weights, pictures, exports, notices, the list.

    `outside`: also what was drawn or exported to places outside the home; not so in a copy of a home, whose they are
    not.
    """
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(_ALL)
        if not rows:
            return
        files = {checkpoint: (path, json.loads(text)) for checkpoint, path, text in ledger.query(_FILES)}
        drawn = ledger.query(_DRAWN)
        exports = ledger.query(_EXPORTS)
        noticed = set(ledger.query("SELECT removal, export FROM notice"))
    asked_by: dict[str, list[str]] = {}
    for removal, checkpoint, *_ in rows:
        if removal not in asked_by.setdefault(checkpoint, []):
            asked_by[checkpoint].append(removal)
    gone = {each.checkpoint: each for each in withdrawals(home)}
    done: list[Done] = []
    for checkpoint in gone:
        path, recorded = files.get(checkpoint, ("", {}))
        if path:
            _delete_weights(home.path / path)
        weights = {name: sha for name, sha in sorted(recorded.items()) if name.endswith(_WEIGHTS)}
        done += [
            Done(r, PART, "weights-deleted", checkpoint, before={"weights": weights}) for r in asked_by[checkpoint]
        ]
    if not outside:
        drawn, exports = [row for row in drawn if _lies_within(home, row[1])], []
    pictures = dict(_pictures(home, gone, drawn))
    for checkpoint, paths in pictures.items():
        done += [
            Done(r, PART, "pictures-deleted", checkpoint, after={"files": len(paths)}) for r in asked_by[checkpoint]
        ]
    _write_list(home, gone.values(), files, rows)
    with home.ledger() as ledger:
        removals.record_steps(ledger, done, now=utc_now())
        for paths in pictures.values():
            for picture in paths:
                picture.unlink(missing_ok=True)
        for export, checkpoint, path, text in exports:
            if checkpoint in gone:
                _delete_exported(Path(path), json.loads(text))
                for removal in asked_by[checkpoint]:
                    if (removal, export) not in noticed:
                        _notify(home, ledger, removal, export, gone[checkpoint], files)
        publish(ledger, home.snapshot_path, now=utc_now())


def read_list(home: Home) -> WithdrawalList:
    """The withdrawal list in force, verified with the home's own key; empty where nothing was ever withdrawn.

    Raises:
        IntegrityError: it was changed, or signed with another key.
    """
    path = home.withdrawn_path
    if not path.exists():
        return WithdrawalList(0, "", ())
    return WithdrawalList.verified(path.read_text("utf-8"), public_key=home.keys.public_key, where=str(path))


def withdrawal_failures(home: Home, ledger: Ledger) -> list[Failure]:
    """What does not stand as the withdrawals on record say: weights that are there, records, the list."""
    rows = ledger.query(_ALL)
    if not rows:
        return [Failure("a list of withdrawals that the ledger knows nothing of", "withdrawn.json")] * (
            home.withdrawn_path.exists()
        )
    failures = []
    files = {checkpoint: (path, json.loads(text)) for checkpoint, path, text in ledger.query(_FILES)}
    names = {checkpoint for _, checkpoint, *_ in rows}
    for checkpoint in sorted(names & files.keys()):
        path, recorded = files[checkpoint]
        place, kept = home.path / path, _kept(home.path / path)
        if place.exists() or any(kept.glob(f"*{_WEIGHTS}")):
            failures.append(Failure("it was withdrawn, and its weights are still there", path))
        record = kept / _RECORD
        if record.exists() and hashlib.sha256(record.read_bytes()).hexdigest() != recorded.get(_RECORD):
            failures.append(Failure("its record is not the one in the ledger", str(record.relative_to(home.path))))
    try:
        listed = {each.checkpoint for each in read_list(home).withdrawn}
    except (CustodyError, OSError) as error:
        return [*failures, Failure(getattr(error, "what", str(error)), "withdrawn.json")]
    if not names <= listed:
        failures.append(Failure("the list of withdrawals is not that of the ledger", "withdrawn.json"))
    return failures


def record_drawn(home: Home, checkpoint: str, picture: Path) -> None:
    """Write down who draws a picture, before it is there: it goes when its checkpoint has to."""
    absolute, root = picture.absolute(), home.path.absolute()
    where = str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)
    now = utc_now()
    row = {"kind": DRAWN, "subject": checkpoint, "detail": where, "happened_at": now}
    with home.ledger() as ledger:
        ledger.append("event", [row], key=f"{DRAWN}/{checkpoint}/{where}/{now.isoformat()}")


# ── weights ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(place: Path) -> Path:
    """Where the records of a checkpoint's directory lie once its weights are gone."""
    return place.parent / WITHDRAWN / place.name


def _delete_weights(place: Path) -> None:
    """Records move aside, where no trainer and no loader looks for a checkpoint; then the weights are unlinked.

    Moved first: in no moment a directory that looks whole holds half of its files.
    """
    kept = _kept(place)
    try:
        if place.is_dir():
            kept.parent.mkdir(exist_ok=True)
            if kept.exists():  # a copy of it came back from somewhere
                shutil.rmtree(kept)
            os.rename(place, kept)
            measured = place.parent / _MEASURED
            if measured.exists():
                os.rename(measured, kept.parent / _MEASURED)
            sync_directory(place.parent)
            sync_directory(kept.parent)
        weights = list(kept.glob(f"*{_WEIGHTS}"))
        for path in weights:
            path.unlink(missing_ok=True)
        if weights:
            sync_directory(kept)
    except OSError as error:
        raise StorageError(
            f"the weights of a withdrawn checkpoint cannot be deleted ({error.strerror})",
            where=str(error.filename or place),
            remedy="Give access or make room, then run the same command again",
        ) from error


def _lies_within(home: Home, place: str) -> bool:
    return (home.path / place).resolve().is_relative_to(home.path.resolve())


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _pictures(
    home: Home, gone: Mapping[str, Withdrawn], drawn: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, list[Path]]]:
    """The pictures of withdrawn checkpoints that are still there: as they were recorded, or known by their name."""
    by_checkpoint: dict[str, set[Path]] = {}
    owned = set()
    for checkpoint, detail in drawn:
        owned.add(home.path / detail)
        by_checkpoint.setdefault(checkpoint, set()).add(home.path / detail)
    for checkpoint, each in gone.items():
        step = checkpoint.removeprefix(f"{each.run}-")
        by_name = {p for p in home.samples_path.glob(f"{each.run}-step-{step}-*.png") if p not in owned}
        there = sorted(p for p in by_name | by_checkpoint.get(checkpoint, set()) if p.is_file())
        if there:
            yield checkpoint, there


# ── those who have it ──────────────────────────────────────────────────────────────────────────────────────────────


def _delete_exported(place: Path, recorded: Mapping[str, str]) -> None:
    """Unlink the weights of an exported directory that is still here; only files that are what was exported."""
    for name, sha256 in recorded.items():
        path = place / name
        if name.endswith(_WEIGHTS) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == sha256:
                path.unlink(missing_ok=True)


def _notify(
    home: Home,
    ledger: Ledger,
    removal: str,
    export: str,
    gone: Withdrawn,
    files: Mapping[str, tuple[str, Mapping[str, str]]],
) -> None:
    """What an export's recipient is to be told, as a signed file; who that is stands in the ledger alone."""
    weights = {n: sha for n, sha in sorted(files.get(gone.checkpoint, ("", {}))[1].items()) if n.endswith(_WEIGHTS)}
    body: dict[str, object] = {
        "version": 1,
        "export": export,
        "checkpoint": gone.checkpoint,
        "weights": weights,
        "withdrawn_at": gone.withdrawn_at,
        "replaced_by": gone.replaced_by,
        "message": (
            f"The model {gone.checkpoint} that you were given as {export} was withdrawn: it had learnt from what has "
            "been removed since. Please delete it, with everything that was derived from it, and say so. "
            + (f"{gone.replaced_by} takes its place; ask for it." if gone.replaced_by else "Nothing takes its place.")
        ),
        "public_key": home.keys.public_key.hex(),
    }
    body["signature"] = home.keys.sign(b"custody withdrawal notice\n" + canonical_json(body).encode()).hex()
    data = (canonical_json(body) + "\n").encode()
    path = home.notices_path / f"{export}-{removal}.json"
    write_durably(path, data)
    row = {
        "removal": removal,
        "export": export,
        "checkpoint": gone.checkpoint,
        "path": str(path.relative_to(home.path)),
        "sha256": hashlib.sha256(data).hexdigest(),
        "noticed_at": utc_now(),
    }
    ledger.append("notice", [row], key=f"notice/{removal}/{export}")
    removals.record_step(
        ledger, removal, PART, "recipient-noticed", export, now=utc_now(), after={"checkpoint": gone.checkpoint}
    )


def _write_list(
    home: Home,
    gone: Iterable[Withdrawn],
    files: Mapping[str, tuple[str, Mapping[str, str]]],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Issue the list anew, and its copy, where they are not what the ledger says: the same rows give the same bytes.

    What an earlier list of ours names stays on it, and the number never falls: the ledger may be a restored one.
    """
    models: dict[str, WithdrawnModel] = {}
    for each in gone:
        recorded = files.get(each.checkpoint, ("", {}))[1]
        weights = tuple((n, sha) for n, sha in sorted(recorded.items()) if n.endswith(_WEIGHTS))
        reason = "removal" if each.tier == "direct" else "lineage"
        models[each.checkpoint] = WithdrawnModel(each.checkpoint, weights, reason, each.replaced_by, each.withdrawn_at)
    copy = home.settings.removals.withdrawal_list_copy
    places = [home.withdrawn_path, *([Path(copy).expanduser()] if copy else [])]
    earlier = [found for place in places if (found := _earlier(home, place)) is not None]
    for found in earlier:
        models = {each.checkpoint: each for each in found.withdrawn} | models
    withdrawn = tuple(models[name] for name in sorted(models))
    issued = max(each.withdrawn_at for each in withdrawn)
    number = max(
        [len(rows), *(found.number if found.withdrawn == withdrawn else found.number + 1 for found in earlier)]
    )
    text = WithdrawalList(number, issued, withdrawn).signed(home.keys)
    for path in places:
        try:
            if not path.is_file() or path.read_text("utf-8") != text:
                write_durably(path, text.encode())
        except (OSError, ValueError) as error:
            raise StorageError(
                f"the list of withdrawals cannot be written ({error})",
                where=str(path),
                remedy="Give access or make room, then run the same command again",
            ) from error


def _earlier(home: Home, place: Path) -> WithdrawalList | None:
    """The list that lies there, if it is one of ours; anything else is written over."""
    try:
        return WithdrawalList.verified(place.read_text("utf-8"), public_key=home.keys.public_key)
    except (OSError, ValueError, IntegrityError):
        return None


def refuse_listed(home: Home, digests: Mapping[str, str], where: str) -> None:
    """IntegrityError where files (name -> sha256) are those of a withdrawn model, under whatever name they lie."""
    if (found := read_list(home).find(digests)) is not None:
        raise IntegrityError(f"these are the weights of {found.checkpoint}, which was withdrawn", where=where)
