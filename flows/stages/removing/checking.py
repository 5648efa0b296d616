"""Checking a receipt: with nothing but public material, on a machine that has no home.

The signature and the receipt's own arithmetic need only the file. Whoever is given more can check more: the dataset it
speaks of, the run whose checkpoints it says never saw a sample, the auditors' copy of the ledger, published anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy.commitments import GENESIS, chain_sql
from policy.errors import CustodyError, InputError, IntegrityError
from policy.receipts import MAX_RECEIPT_BYTES, NEVER_SEEN, Problem, Receipt, altered, inconsistent, malformed

_CHAIN_AT = "SELECT chain FROM batch WHERE seq = $seq"
_BROKEN = f"""
SELECT count(*) FROM (
    SELECT *, lag(chain, 1, '{GENESIS}') OVER (ORDER BY seq) AS before FROM batch WHERE seq <= $seq
) WHERE previous IS DISTINCT FROM before OR chain IS DISTINCT FROM {chain_sql()}
"""  # noqa: S608 - constants of ours
_ERASED = (
    "SELECT table_name, sum(row_count)::BIGINT FROM erasure WHERE removal = $removal AND batch_seq <= $seq GROUP BY 1"
)
_RECORDED = "SELECT sha256 FROM receipt WHERE removal = $removal"


@dataclass(frozen=True, slots=True)
class Checked:
    """The contract of `custody removal verify --json`. `checked`: what was looked at; `failures`: what does not hold.

    `trusted_key`: whether the signature was held against a key that was given, not the receipt's own.
    """

    ok: bool
    removal: str
    number: int
    public_key: str
    trusted_key: bool
    checked: tuple[str, ...]
    failures: tuple[Problem, ...]


def check(
    file: Path,
    *,
    public_key: str = "",
    dataset: Path | None = None,
    run: Path | None = None,
    ledger: Path | None = None,
    anchors: str = "",
) -> Checked:
    """Check a receipt. `public_key`: hex, or a file that holds it. The others: what else is at hand.

    Raises:
        InputError: not a receipt, or what was given beside it cannot be read.
    """
    try:
        with file.open("rb") as opened:  # a stranger's: no more of it than there may be
            receipt = Receipt.read(opened.read(MAX_RECEIPT_BYTES + 1), where=str(file))
    except OSError as error:
        raise InputError(f"the receipt cannot be read ({error.strerror})", where=str(file)) from error
    key = _public_key(public_key) if public_key else None
    problems, checked = [*altered(receipt, key)], ["digests", "signature"]
    if not problems:
        if wrong := malformed(receipt.body):
            raise InputError(f"not a receipt of this version: {wrong[0].field}: {wrong[0].what}", where=str(file))
        problems += inconsistent(receipt.body)
        checked.append("arithmetic")
    if not problems:  # slots that a dataset cannot have need not be looked for in one
        if dataset is not None:
            problems += _check_dataset(receipt.body, dataset)
            checked.append("dataset")
        if run is not None:
            problems += _check_run(receipt.body, run)
            checked.append("run")
        if ledger is not None:
            problems += _check_ledger(receipt, ledger)
            checked.append("ledger")
        if anchors:
            problems += _check_anchors(receipt.body, anchors, key)
            checked.append("anchors")
    said = receipt.body.get("receipt")
    about: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    named = receipt.body.get("key")
    return Checked(
        not problems,
        str(about.get("removal", "")),
        number if isinstance(number := about.get("number"), int) else 0,
        str(named.get("public_key", "")) if isinstance(named, Mapping) else "",
        key is not None,
        tuple(checked),
        tuple(problems),
    )


def _public_key(given: str) -> bytes:
    text = given.strip()
    if not _is_key(text) and Path(given).is_file():
        try:
            text = Path(given).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("the file holds no public key", where=given) from error
    if not _is_key(text):
        remedy = "64 hex digits, or a file that holds them: `custody removal key` in the operator's home shows it"
        raise InputError("not a public key", where="--public-key", remedy=remedy)
    return bytes.fromhex(text)


def _is_key(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _check_dataset(body: Mapping[str, Any], directory: Path) -> Iterator[Problem]:
    """The slots are those of the root, they are empty, and the generation is the receipt's or one that follows it."""
    from curation.shard_reader import DatasetReader, read_manifest, verify_dataset

    manifest = read_manifest(directory)
    number, told = next(
        ((n, each) for n, each in enumerate(body["datasets"]) if each["dataset"] == manifest.dataset), (0, None)
    )
    if told is None:
        raise InputError(f"the receipt does not speak of the dataset {manifest.dataset}", where=str(directory))
    field = f"datasets[{number}]"
    yield from (Problem(field, what) for what in verify_dataset(directory))
    if manifest.slots != told["slots"]:
        yield Problem(f"{field}.slots", f"the dataset that was given has {manifest.slots}")
        return
    if manifest.root != told["root"]:
        yield Problem(f"{field}.root", "the dataset that was given has another root")
        return
    with DatasetReader.open(directory, verify=False) as reader:
        alive = [ordinal for ordinal in told["emptied"] if reader.is_live(ordinal)]
        generation = reader.generation
    if alive:
        yield Problem(f"{field}.emptied", f"{len(alive)} of these slots hold a sample, {alive[0]} for one")
    for at, change in enumerate(told["generations"]):
        after = change["after"]
        if generation.number < after["generation"]:
            yield Problem(f"{field}.generations[{at}].after", f"the dataset is still in generation {generation.number}")
        elif generation.number == after["generation"] and generation.root != after["root"]:
            yield Problem(f"{field}.generations[{at}].after", "the generation has another root")
        elif body["receipt"]["removal"] not in generation.removals:
            yield Problem(f"{field}.generations[{at}]", "the generation does not name the removal")


def _check_run(body: Mapping[str, Any], directory: Path) -> Iterator[Problem]:
    """By the run's order no slot of the receipt was fed to a checkpoint before its step, where it is said so."""
    import numpy as np

    from training.checkpoint import list_checkpoints, load_run, load_schedule, open_checkpoint
    from training.order import Exposures

    record = load_run(directory)
    if record is None:
        raise InputError("there is no run.json", where=str(directory))
    first_empty = {entry.ordinal: entry.first_empty_step for entry in load_schedule(directory)}
    emptied = {each["root"]: each["emptied"] for each in body["datasets"]}
    ordinals = np.array(sorted(emptied.get(record.dataset_root, ())), dtype=np.int64)
    records = {}
    for path in list_checkpoints(directory):
        try:
            opened = open_checkpoint(path).record
        except CustodyError:
            continue
        records[opened.checkpoint] = opened
    for number, each in enumerate(body["checkpoints"]):
        if each["run"] != record.run:
            continue
        field, found = f"checkpoints[{number}]", records.get(each["checkpoint"])
        if found is not None and each["record_sha256"] not in (None, found.digest):
            yield Problem(f"{field}.record_sha256", "the checkpoint that was given has another record")
        segment = found.segment if found is not None else max(s.segment for s in record.segments)
        which, steps = Exposures(record, segment).steps_of(ordinals, each["step"])
        fed = [
            step
            for at, step in zip(which.tolist(), steps.tolist(), strict=True)
            if step < each["step"] and step < first_empty.get(int(ordinals[at]), 1 << 62)
        ]
        if each["tier"] == NEVER_SEEN and fed:
            yield Problem(f"{field}.tier", f"by the run's order a slot was fed to it at step {min(fed)}")
        if each["tier"] == "direct" and len(fed) != each["times_fed"]:
            yield Problem(f"{field}.times_fed", f"by the run's order it was {len(fed)}")


def _check_ledger(receipt: Receipt, snapshot: Path) -> Iterator[Problem]:
    """The chain goes through the receipt's place, and what it says was erased is on record there."""
    from policy.audit import sql

    body, seq = receipt.body, receipt.body["ledger"]["seq"]
    removal = body["receipt"]["removal"]
    _, found = sql(snapshot, _CHAIN_AT, {"seq": seq})
    if not found:
        yield Problem("ledger.seq", "the copy of the ledger ends before it")
        return
    if found[0][0] != body["ledger"]["chain"]:
        yield Problem("ledger.chain", "the chain does not go through it")
    _, [(broken,)] = sql(snapshot, _BROKEN, {"seq": seq})
    if broken:
        yield Problem("ledger.chain", f"{broken} batches before it do not follow one another")
    _, erased = sql(snapshot, _ERASED, {"removal": removal, "seq": seq})
    if dict(erased) != {row["table"]: row["rows"] for row in body["rows"]}:
        yield Problem("rows", "the ledger has other erasures on record")
    _, recorded = sql(snapshot, _RECORDED, {"removal": removal})
    if recorded and (receipt.sha256,) not in recorded:
        yield Problem("receipt", "the ledger has other receipts on record, and not this one")


def _check_anchors(body: Mapping[str, Any], place: str, key: bytes | None) -> Iterator[Problem]:
    from flows.stages.anchoring import read_anchors

    anchor = body["ledger"]["anchor"]
    try:
        published = {(each.seq, each.chain) for each in read_anchors(place, public_key=key)}
    except IntegrityError as error:
        yield Problem("ledger.anchor", f"{error.where}: {error.what}")
        return
    if anchor is None:
        yield Problem("ledger.anchor", "the receipt names none")
    elif (anchor["seq"], anchor["chain"]) not in published:
        yield Problem("ledger.anchor", "it was not published there")
