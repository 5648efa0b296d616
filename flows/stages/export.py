"""Export: a checkpoint as a directory that somebody else can load, with what it learnt from and how to check that.

::

    OUT/  model.safetensors  config.json (a CLIP: open_clip_config.json)   the averaged weights, and how to build it
          provenance.json  run.json                                        the records, as they stand in the home
          README.md                                                        the model card, in Hugging Face's form
          MANIFEST.json                                                    size and sha256 of every other file
          SIGNATURE.json                                                   with --sign: Ed25519 over MANIFEST.json

Written whole or not at all. The ledger knows of it before it is there: whoever got a model that has to be withdrawn
can be told.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.home import Home, utc_now
from flows.stages.removing.exposure import Exposures, Unserved, instead
from flows.stages.removing.withdrawing import refuse_listed
from flows.stages.trace import TracedCheckpoint
from flows.stages.verify import verify_run
from policy.durable import sync_directory
from policy.errors import InputError, IntegrityError, RefusedError, StorageError
from policy.keys import KeyRing
from policy.provenance import CheckpointRecord, TrainingRun, canonical_json, utc_text
from policy.snapshot import publish

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint

MANIFEST, SIGNATURE, CARD, WEIGHTS = "MANIFEST.json", "SIGNATURE.json", "README.md", "model.safetensors"
EXPORT_VERSION = 1
_SIGNED = b"custody export\n"
_CHECKPOINT = re.compile(r"(.+)-(\d{7,})")


@dataclass(frozen=True, slots=True)
class Exported:
    """The contract of `custody export --json`. `despite`: codes of what would have kept it in; `unserved`: removals."""

    export: str
    checkpoint: str
    path: str
    files: Mapping[str, str]
    despite: tuple[str, ...]
    unserved: tuple[str, ...]
    signed: bool


def export(
    home: Home, what: str, out: Path, *, recipient: str | None = None, despite: bool = False, sign: bool = False
) -> Exported:
    """Write a checkpoint (of a run: its last) to a new directory, and put on record where it went, and to whom.

    `recipient` stands in the ledger alone. `despite`: also one that is tainted, or has seen what somebody wants
    removed; its card says so.

    Raises:
        InputError: there is no such run or checkpoint, or `out` is there already. RefusedError: it was withdrawn; or
        is one of those, without `despite`. IntegrityError: it does not verify. StorageError: the disk refuses.
    """
    out = out.expanduser()
    if out.exists() or out.is_symlink():
        raise InputError("is there already", where=str(out), remedy="Name a directory that is not there yet")
    with home.ledger(readonly=True) as ledger:
        exposures = Exposures(ledger, home, undecided=True)
    path = _find(home, what, exposures)
    checkpoint, run = _verified(home, path)
    record = checkpoint.record
    unserved = exposures.unserved(record.checkpoint, undecided=True)
    reasons = (["tainted"] if record.state != "exact" else []) + (["unserved-removals"] if unserved else [])
    if reasons and not despite:
        raise RefusedError(_why_not(record, unserved), where=record.checkpoint, remedy=_remedy(unserved))
    name, now = f"export-{secrets.token_hex(6)}", utc_text(utc_now())
    card = _card(home, checkpoint, run, exposures, unserved)
    making = out.with_name(f".{out.name}.{os.getpid()}.making")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _drop_unfinished(out)
        making.mkdir()
        digests = {}
        for file, data in _files(checkpoint, run, card).items():
            digests[file] = _write(making / file, data)
        manifest = canonical_json(
            {
                "version": EXPORT_VERSION,
                "export": name,
                "checkpoint": record.checkpoint,
                "exported_at": now,
                "despite": reasons,
                "files": {
                    file: {"sha256": sha, "size_bytes": (making / file).stat().st_size} for file, sha in digests.items()
                },
            }
        ).encode()
        digests[MANIFEST] = _write(making / MANIFEST, manifest)
        if sign:
            digests[SIGNATURE] = _write(making / SIGNATURE, _signature(home.keys, manifest))
        sync_directory(making)
        _put_on_record(home, name, record.checkpoint, out, recipient, digests)
        os.rename(making, out)
        sync_directory(out.parent)
    except OSError as error:
        raise StorageError(
            f"it cannot be written ({error.strerror})", where=str(error.filename or out), remedy="Make room, then again"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Exported(
        name, record.checkpoint, str(out), digests, tuple(reasons), tuple(u.removal for u in unserved), sign
    )


def verify_export(directory: Path, *, public_key: bytes | None = None) -> str:
    """Check an exported directory with nothing but itself; the id of the checkpoint it holds.

    public_key: of the operator, who then must have signed it. Raises IntegrityError saying what does not fit.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        data = (directory / MANIFEST).read_bytes()
        manifest = json.loads(data)
        listed = {str(name): str(file["sha256"]) for name, file in manifest["files"].items()}
        if public_key is not None or (directory / SIGNATURE).exists():
            signature = json.loads((directory / SIGNATURE).read_bytes())
            claimed = bytes.fromhex(signature["public_key"])
            if public_key is not None and claimed != public_key:
                raise IntegrityError("signed with another key than the operator's", where=str(directory / SIGNATURE))
            Ed25519PublicKey.from_public_bytes(claimed).verify(bytes.fromhex(signature["signature"]), _SIGNED + data)
        present = {entry.name for entry in directory.iterdir()} - {MANIFEST, SIGNATURE}
        if odd := sorted(present ^ listed.keys()):
            raise IntegrityError(f"the files are not those of the manifest: {', '.join(odd)}", where=str(directory))
        for name, sha256 in listed.items():
            with open(directory / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise IntegrityError("its sha256 is not the one that was recorded", where=str(directory / name))
        return str(manifest["checkpoint"])
    except InvalidSignature as error:
        raise IntegrityError("the manifest is not the one that was signed", where=str(directory / MANIFEST)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"not an export of Custody ({error!r})", where=str(directory)) from error


# ── which, and whether ─────────────────────────────────────────────────────────────────────────────────────────────


def _find(home: Home, what: str, exposures: Exposures) -> Path:
    """The directory of a checkpoint, or of a run's last one."""
    from training.checkpoint import checkpoint_dir, list_checkpoints

    if Path(what).name != what or what in (".", ".."):
        raise InputError(
            f"{what!r} is no run or checkpoint", where="custody export", remedy="custody audit checkpoints"
        )
    if (gone := exposures.withdrawn.get(what)) is not None:
        raise RefusedError("this checkpoint was withdrawn", where=what, remedy=instead(gone))
    run_dir = home.runs_path / what
    if (run_dir / "run.json").is_file():
        of_run = [g for g in exposures.withdrawn.values() if g.run == what]
        if of_run:
            raise RefusedError("this run was withdrawn", where=what, remedy=instead(of_run[-1]))
        if there := list_checkpoints(run_dir):
            return there[-1]
        raise InputError("this run has no checkpoint yet", where=what, remedy="custody train")
    if (named := _CHECKPOINT.fullmatch(what)) is not None:
        path = checkpoint_dir(home.runs_path / named[1], int(named[2]))
        if path.is_dir():
            return path
    runs = sorted(p.parent.name for p in home.runs_path.glob("*/run.json"))
    raise InputError(
        f"no run or checkpoint {what!r}",
        where=str(home.runs_path),
        remedy=f"There are the runs {', '.join(runs)}" if runs else "Train one: custody train",
    )


def _verified(home: Home, path: Path) -> tuple[Checkpoint, TrainingRun]:
    """The checkpoint and its run, both as the ledger has them, and the run's log as order and dataset have it."""
    from training.checkpoint import load_run, open_checkpoint

    checkpoint = open_checkpoint(path)
    if failures := verify_run(home, path.parent.name):
        raise IntegrityError(
            f"it is not exported, for it does not verify: {failures[0].what}",
            where=failures[0].where,
            remedy="custody verify",
        )
    refuse_listed(home, dict(checkpoint.record.files), str(path))
    run = load_run(path.parent)
    if run is None or run.run != checkpoint.record.run:
        raise IntegrityError("the run's record is missing, or another one's", where=str(path.parent / "run.json"))
    return checkpoint, run


def _why_not(record: CheckpointRecord, unserved: Sequence[Unserved]) -> str:
    if unserved:
        named = ", ".join(f"{u.removal} ({u.state}; {'direct' if u.seen.count else u.seen.through})" for u in unserved)
        return f"it has seen what is to be removed: {named}"
    how = "it only approximates forgetting" if record.unlearning else "its numeric contract was broken"
    return f"it is tainted: {how}, and nothing exact can be said of it"


def _remedy(unserved: Sequence[Unserved]) -> str:
    if not unserved:
        return "--despite exports it all the same, and its card says so"
    names = " ".join(dict.fromkeys(u.removal for u in unserved))
    return f"custody removal replay {names}, once approved; --despite exports it all the same, and its card says so"


# ── what is written ────────────────────────────────────────────────────────────────────────────────────────────────


def _files(checkpoint: Checkpoint, run: TrainingRun, card: str) -> dict[str, bytes]:
    """Name -> content. The weights of a diffusion model are the averaged ones, which pictures are drawn with."""
    names = dict(checkpoint.record.files)
    weights = "ema.safetensors" if "ema.safetensors" in names else "model.safetensors"
    config = "config.json" if "config.json" in names else "open_clip_config.json"
    return {
        WEIGHTS: (checkpoint.path / weights).read_bytes(),
        config: (checkpoint.path / config).read_bytes(),
        "provenance.json": checkpoint.record.to_json().encode(),
        "run.json": run.to_json().encode(),
        CARD: card.encode(),
    }


def _write(path: Path, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _signature(keys: KeyRing, manifest: bytes) -> bytes:
    said: dict[str, Any] = {
        "algorithm": "Ed25519",
        "signs": MANIFEST,
        "after": _SIGNED.decode(),
        "public_key": keys.public_key.hex(),
        "signature": keys.sign(_SIGNED + manifest).hex(),
    }
    return canonical_json(said).encode()


def _drop_unfinished(out: Path) -> None:
    """What a killed export to the same place has left half written."""
    for left in out.parent.glob(f".{out.name}.*.making"):
        pid = left.name.removesuffix(".making").rpartition(".")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _put_on_record(
    home: Home, name: str, checkpoint: str, out: Path, recipient: str | None, digests: Mapping[str, str]
) -> None:
    """Before the directory is there: an export that nobody knows of could not be withdrawn.

    Asked once more under the ledger's lock, since a removal may have been approved meanwhile.
    """
    with home.ledger() as ledger:
        if (gone := Exposures(ledger, home).withdrawn.get(checkpoint)) is not None:
            raise RefusedError("this checkpoint was withdrawn", where=checkpoint, remedy=instead(gone))
        row = {
            "export": name,
            "checkpoint": checkpoint,
            "path": str(out.absolute()),
            "recipient": recipient,
            "files_json": canonical_json(dict(digests)),
            "exported_at": utc_now(),
        }
        ledger.append("export", [row], key=name)
        publish(ledger, home.snapshot_path, now=utc_now())


# ── the card ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _card(
    home: Home, checkpoint: Checkpoint, run: TrainingRun, exposures: Exposures, unserved: Sequence[Unserved]
) -> str:
    """The model card: front matter as Hugging Face reads it, then what can be said and checked of this model."""
    record = checkpoint.record
    is_clip = run.kind == "clip"
    tags = ["custody", "zero-shot-image-classification" if is_clip else "text-to-image"]
    lines = [
        "---",
        "license: other",
        f"pipeline_tag: {tags[1]}",
        f"tags: [{', '.join(tags)}]",
        "---",
        "",
        f"# {record.checkpoint}",
        "",
        f"A {'CLIP' if is_clip else 'text-conditional diffusion model'}, trained with its chain of custody: which "
        "samples it has seen, how often and under which licences is on record and can be recomputed.",
        "",
    ]
    if unserved:
        lines += ["> **Exported despite unserved removals.** It has seen what somebody wants removed, and nothing has"]
        lines += [
            "> been done about that yet. It will be withdrawn; ask whoever gave it to you for its replacement.",
            "",
        ]
    if record.state != "exact":
        how = "approximates having forgotten" if record.unlearning else "was trained under changing numeric contracts"
        lines += [f"> **Tainted.** It {how}: what is said below of its data is not claimed to the bit.", ""]
    lines += [
        "## What it learnt from",
        "",
        "| | |",
        "|---|---|",
        f"| dataset | {run.dataset} |",
        f"| dataset root (Merkle, SHA-256) | `{record.dataset_root}` |",
        f"| slots | {run.segments[-1].slots:,} |",
        f"| steps | {record.step:,} of batch size {run.segments[-1].batch_size} |",
        f"| schedule of emptied slots (SHA-256) | `{json.loads(record.to_json())['schedule_sha256']}` |",
        f"| state | {record.state} |",
        f"| code | {run.code_version} |",
        "",
        *_table("Exposures by licence", ("licence", "exposures"), record.tally),
        *_table("Exposures by origin of the caption", ("origin", "exposures"), record.origins),
        *_table(
            "Models it stands on",
            ("role", "name", "licence", "trained on"),
            [(u.role, u.name, u.licence, u.training_data) for u in record.upstream],
        ),
        "## Removals",
        "",
        *_removals(exposures, record.checkpoint, unserved),
        "",
        "## How to check this",
        "",
        "`MANIFEST.json` has the SHA-256 of every file here; `SIGNATURE.json`, if it is here, the operator's Ed25519",
        f"signature over the line `{_SIGNED.decode().strip()}` and the manifest. `run.json` and `provenance.json` hold",
        "order, schedule and numeric contract: with the dataset's commitments anybody can recompute which slot was fed",
        "at which step. The operator's list of withdrawn models names this one if it may be used no more: look for the",
        f"SHA-256 of `{WEIGHTS}` in it.",
    ]
    if is_clip:
        lines += ["", "Load it as an open_clip model: `open_clip_config.json` names its frozen towers by digest."]
    return "\n".join(lines) + "\n"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return []
    head = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*head, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def _removals(exposures: Exposures, checkpoint: str, unserved: Sequence[Unserved]) -> list[str]:
    """What was removed and this model never saw, what it only stands on, and what has still to be done."""
    touched: dict[str, TracedCheckpoint] = {}
    if checkpoint in {seen.id for seen in exposures.exposed(exposures.in_force)}:
        for name in exposures.in_force:
            for seen in exposures.exposed([name]):
                if seen.id == checkpoint:
                    touched[name] = seen
    open_names = {u.removal for u in unserved}
    named = {name: seen for name, seen in touched.items() if name not in open_names}
    lines = [
        f"- {len(exposures.in_force) - len(touched):,} of {len(exposures.in_force):,} removals in force: never seen by "
        "it, directly or through a model."
    ]
    lines += [f"- {name}: INDIRECT, through {seen.through}." for name, seen in sorted(named.items())]
    lines += [
        f"- {u.removal} ({u.state}): **unserved**, "
        + (f"fed {u.seen.count} times." if u.seen.count else f"through {u.seen.through}.")
        for u in unserved
    ]
    return lines
