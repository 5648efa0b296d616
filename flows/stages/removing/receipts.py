"""Receipts: what the ledger says was done for a removal, signed, as JSON and as a page, in receipts/ of the home.

A receipt is made of rows alone (requests, matches, tombstones, erasures, steps, withdrawals) and of the arithmetic of
orders. Issued again it is a new one, with the next number, and only where something has changed since the last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from flows.home import Home, utc_now
from flows.stages.anchoring import anchor_head
from flows.stages.removing.exposure import Exposures
from flows.stages.removing.standing import scan_outcome
from flows.stages.train import code_version
from flows.terminal import say
from policy import removals
from policy.durable import write_durably
from policy.errors import CustodyError, InputError, RefusedError, StorageError
from policy.ledger import Ledger
from policy.provenance import canonical_json
from policy.receipt_page import receipt_page
from policy.receipts import NEVER_SEEN, Receipt, sign_receipt
from policy.removals import State
from policy.snapshot import publish
from policy.tombstones import STAYS

_OURS: Final = "list_contains($removals::VARCHAR[], removal)"
_EVENTS = f"""
SELECT removal, max(happened_at) FILTER (state = 'approved'), max(happened_at) FILTER (state = 'applied'),
    count(DISTINCT coalesce(by_whom, batch_seq::VARCHAR)) FILTER (state IN ('approved', 'awaiting-second'))
FROM removal_event WHERE {_OURS} GROUP BY removal
"""  # noqa: S608 - a constant of ours, here and below
_TOMBSTONES = (
    # What stays all the same is not kept out.
    f"SELECT removal, kind, token, key_id, epoch, in_force_at FROM tombstone WHERE {_OURS} AND kind <> '{STAYS}'"  # noqa: S608
    " ORDER BY kind, token"
)
_ERASURES = f"""
SELECT removal, table_name, sum(row_count)::BIGINT, max(erased_at), max(batch_seq) FROM erasure
WHERE {_OURS} GROUP BY removal, table_name ORDER BY removal, table_name
"""  # noqa: S608
_STEPS = f"""
SELECT removal, part, action, subject, before_json, after_json, done_at FROM removal_step
WHERE {_OURS} ORDER BY batch_seq, row_no
"""  # noqa: S608
_ISSUED = f"""
SELECT removal, count(*), arg_max(sha256, batch_seq), arg_max(path, batch_seq) FROM receipt WHERE {_OURS} GROUP BY 1
"""  # noqa: S608
_DATASETS = "SELECT dataset, root, slots FROM dataset"
_EXPORTS = "SELECT export, checkpoint, exported_at FROM export ORDER BY exported_at, export"
_RECORDS = "SELECT checkpoint, files_json FROM checkpoint ORDER BY batch_seq, row_no"
# What differs between two receipts that say the same.
_OF_THE_TIME: Final = ("receipt", "ledger", "erased_up_to", "key")


@dataclass(frozen=True, slots=True)
class Issued:
    """The contract of `custody removal receipt --json`. Paths: relative to the home; `new`: False for one as before."""

    removal: str
    number: int
    path: str
    page: str
    sha256: str
    scan: str
    new: bool


def issue(home: Home, names: Sequence[str]) -> tuple[Issued, ...]:
    """The receipts of requests that were carried through, written and recorded; one that would say the same stays.

    Where removals.anchors is set the head of the chain is published first.

    Raises:
        InputError: there is no such request. RefusedError: one is not applied yet.
    """
    with home.ledger() as ledger:
        known = {request.removal: request for request in removals.requests(ledger)}
        for name in names:
            if name not in known:
                removals.find(ledger, name)  # which says so
            if known[name].state is not State.APPLIED:
                raise RefusedError(
                    f"the request is {known[name].state.value}, and a receipt says what was done",
                    where=name,
                    remedy=f"custody removal apply {name}" if known[name].state is State.APPROVED else "",
                )
        before = {name: tuple(rest) for name, *rest in ledger.query(_ISSUED, {"removals": list(names)})}
        bodies = _bodies(home, ledger, [known[name] for name in names])
        unchanged = {n: last for n in names if (last := _last(home, before.get(n))) and _same(last.body, bodies[n])}
        changed = [name for name in names if name not in unchanged]
        if changed:
            _anchor_first(home, ledger)
            rows = [_write(home, ledger, name, bodies[name], before.get(name)) for name in changed]
            digest = hashlib.sha256(canonical_json([row["sha256"] for row in rows]).encode()).hexdigest()
            ledger.append("receipt", rows, key=f"receipts:{digest[:32]}")
            publish(ledger, home.snapshot_path, now=utc_now())
        issued = {name: tuple(rest) for name, *rest in ledger.query(_ISSUED, {"removals": list(names)})}
    return tuple(
        Issued(
            *(name, number, path, str(Path(path).with_suffix(".html")), sha256),
            scan=bodies[name]["scan"]["outcome"],
            new=name in changed,
        )
        for name, (number, sha256, path) in ((name, issued[name]) for name in names)
    )


def issue_again(home: Home, names: Sequence[str]) -> tuple[Issued, ...]:
    """The receipts of those of these requests that are applied by now: after more was done for them, as by a replay."""
    with home.ledger(readonly=True) as ledger:
        applied = {r.removal for r in removals.requests(ledger) if r.state is State.APPLIED}
    ready = [name for name in dict.fromkeys(names) if name in applied]
    return issue(home, ready) if ready else ()


def copy_to(home: Home, issued: Sequence[Issued], folder: Path) -> None:
    """Put copies of receipts and pages into a folder, under the removal's name: the newest replaces older ones.

    Raises StorageError.
    """
    try:
        for one in issued:
            for path in (one.path, one.page):
                write_durably(folder / f"{one.removal}{Path(path).suffix}", (home.path / path).read_bytes(), mode=0o600)
    except OSError as error:
        raise StorageError(f"the receipt cannot be copied ({error.strerror})", where=str(folder)) from error


def read_issued(home: Home, path: str) -> Receipt:
    """A receipt that was issued, as it lies in the home. Raises InputError."""
    try:
        return Receipt.read((home.path / path).read_bytes(), where=path)
    except OSError as error:
        raise InputError(f"the receipt cannot be read ({error.strerror})", where=path) from error


def _last(home: Home, issued: tuple[Any, ...] | None) -> Receipt | None:
    """The newest receipt, if it lies here as it was recorded."""
    if issued is None:
        return None
    _, sha256, path = issued
    try:
        receipt = read_issued(home, path)
    except InputError:
        return None
    page_is_here = (home.path / path).with_suffix(".html").is_file()
    return receipt if receipt.sha256 == sha256 and page_is_here else None


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    said = ({name: part for name, part in body.items() if name not in _OF_THE_TIME} for body in (one, other))
    return len({canonical_json(each) for each in said}) == 1


def _anchor_first(home: Home, ledger: Ledger) -> None:
    if not home.settings.removals.anchors:
        return
    try:
        anchor_head(home, ledger)
    except CustodyError as error:  # the receipt says that nothing covers it; it is issued again when that is mended
        say(f"the chain could not be anchored: {error}")


def _write(
    home: Home, ledger: Ledger, name: str, body: Mapping[str, Any], before: tuple[Any, ...] | None
) -> dict[str, object]:
    """Sign a receipt, write it and its page; the row that says so."""
    now = utc_now()
    number, replaces = (before[0] + 1, before[1]) if before else (1, None)
    head, chain = ledger.head()
    whole = {
        **body,
        "receipt": {
            "removal": name,
            "number": number,
            "issued_at": now.isoformat(),
            "code_version": code_version(),
            "replaces": replaces,
        },
        "ledger": {
            "seq": head,
            "chain": chain,
            "anchor": _anchor(ledger, body["erased_up_to"]),
            "erased_up_to": body["erased_up_to"],
        },
    }
    del whole["erased_up_to"]
    receipt = sign_receipt(whole, home.keys)
    path = home.receipts_path / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
    write_durably(path.with_suffix(".html"), receipt_page(receipt).encode(), mode=0o600)
    write_durably(path, receipt.to_text().encode(), mode=0o600)
    where = str(path.relative_to(home.path))
    row = {"removal": name, "sha256": receipt.sha256, "path": where, "chain_seq": head, "chain": chain}
    return {**row, "issued_at": now}


def _anchor(ledger: Ledger, erased_up_to: int) -> dict[str, Any] | None:
    rows = ledger.query("SELECT seq, chain, anchored_at FROM anchor ORDER BY seq DESC LIMIT 1")
    if not rows:
        return None
    seq, chain, at = rows[0]
    return {"seq": seq, "chain": chain, "anchored_at": _iso(at), "covers_erasure": seq >= erased_up_to}


# ── what it says ───────────────────────────────────────────────────────────────────────────────────────────────────


def _bodies(home: Home, ledger: Ledger, asked: Sequence[removals.RemovalRequest]) -> dict[str, dict[str, Any]]:
    """Removal -> all that its receipt says but for its own number and place in the chain."""
    names = [request.removal for request in asked]
    params = {"removals": names}
    events = {name: rest for name, *rest in ledger.query(_EVENTS, params)}
    tombstones, erasures, steps = (_by_removal(ledger.query(sql, params)) for sql in (_TOMBSTONES, _ERASURES, _STEPS))
    datasets = {name: (root, slots) for name, root, slots in ledger.query(_DATASETS)}
    models = _Models(home, ledger)
    bodies = {}
    for request in asked:
        name = request.removal
        approved, applied, approvers = events[name]
        done = [_Step(*row) for row in steps.get(name, ())]
        keyed = next((each for each in reversed(done) if (each.part, each.action) == ("matches", "keyed")), None)
        checkpoints = models.of(name)
        bodies[name] = {
            "request": {
                "kind": request.kind,
                "regime": request.regime,
                "named_kind": request.named_kind,
                "named": keyed.after["named"] if keyed else None,
                "received_at": _iso(request.received_at),
                "due_at": _iso(request.due_at),
                "decided_at": _iso(approved),
                "applied_at": _iso(applied),
                "approvers": approvers,
            },
            "matches": {
                "count": sum(each["count"] for each in keyed.after["methods"]) if keyed else 0,
                "methods": keyed.after["methods"] if keyed else [],
                "listed": keyed.after["listed"] if keyed else [],
            },
            "in_force": _in_force(tombstones.get(name, ()), approved),
            "datasets": _datasets(tombstones.get(name, ()), done, datasets),
            "rows": [
                {"table": table, "rows": count, "erased_at": _iso(at)} for table, count, at, _ in erasures.get(name, ())
            ],
            "steps": [each.told() for each in done if (each.part, each.action) not in _TOLD_ELSEWHERE],
            "checkpoints": checkpoints,
            "scan": _scan(done),
            "not_reached": _not_reached(home, done, applied, models.exports(checkpoints)),
            "erased_up_to": max((seq for *_, seq in erasures.get(name, ())), default=0),
        }
    return bodies


_TOLD_ELSEWHERE: Final = frozenset(
    {("matches", "keyed"), ("bytes", "resealed"), ("scan", "needles"), ("scan", "tokens")}
)


@dataclass(frozen=True, slots=True)
class _Step:
    """A row of `removal_step` but for its removal."""

    part: str
    action: str
    subject: str
    before_json: str | None
    after_json: str | None
    done_at: datetime

    @property
    def before(self) -> Any:
        return None if self.before_json is None else json.loads(self.before_json)

    @property
    def after(self) -> Any:
        return None if self.after_json is None else json.loads(self.after_json)

    def told(self) -> dict[str, Any]:
        told = {"part": self.part, "action": self.action, "subject": self.subject}
        return {**told, "before": self.before, "after": self.after, "done_at": _iso(self.done_at)}


def _by_removal(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, *rest in rows:
        found.setdefault(name, []).append(tuple(rest))
    return found


def _in_force(rows: Sequence[tuple[Any, ...]], approved: datetime) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for kind, *_ in rows:
        counts[kind] = counts.get(kind, 0) + 1
    tokens = "\n".join(f"{kind} {token}" for kind, token, *_ in rows)
    return {
        "since": _iso(min((at for *_, at in rows), default=approved)),
        "epoch": max((epoch for _, _, _, epoch, _ in rows), default=0),
        "key_id": next((key for _, _, key, _, _ in rows if key is not None), None),
        "tokens": [{"kind": kind, "count": count} for kind, count in sorted(counts.items())],
        "tokens_sha256": hashlib.sha256(tokens.encode()).hexdigest(),
    }


def _datasets(
    tombstones: Sequence[tuple[Any, ...]], done: Sequence[_Step], known: Mapping[str, tuple[str, int]]
) -> list[dict[str, Any]]:
    """The datasets with slots that were emptied, and how their shards changed, each change with its proof."""
    emptied: dict[str, list[int]] = {}
    for kind, token, *_ in tombstones:
        if kind == "slot":
            dataset, _, ordinal = token.rpartition(":")
            emptied.setdefault(dataset, []).append(int(ordinal))
    changes: dict[str, list[dict[str, Any]]] = {}
    for step in done:
        if (step.part, step.action) == ("bytes", "resealed"):
            changes.setdefault(step.subject, []).append(_change(step.before, step.after))
    told = []
    for dataset, ordinals in sorted(emptied.items()):
        root, slots = known[dataset]
        left = {o for change in changes.get(dataset, ()) for shard in change["shards"] for o in shard["emptied"]}
        told.append(
            {
                "dataset": dataset,
                "root": root,
                "slots": slots,
                "emptied": sorted(ordinals),
                "already_empty": sorted(set(ordinals) - left),
                "generations": changes.get(dataset, []),
            }
        )
    return told


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    named = ("generation", "root", "shards")
    return {
        "before": {name: before[name] for name in named},
        "after": {name: after[name] for name in named},
        "shards": [
            {
                "number": was["number"],
                "emptied": before["emptied"][str(was["number"])],
                "before": was["shard"],
                "after": now["shard"],
            }
            for was, now in zip(before["parts"], after["parts"], strict=True)
        ],
    }


class _Models:
    """What every checkpoint on record has to do with a removal."""

    def __init__(self, home: Home, ledger: Ledger) -> None:
        self._exposures = Exposures(ledger, home)
        self._exports = ledger.query(_EXPORTS)
        self._digests = {c: json.loads(files or "{}").get("provenance.json") for c, files in ledger.query(_RECORDS)}
        self._roots = {run: record.dataset_root for run, record in self._exposures.records.runs.items()}

    def of(self, removal: str) -> list[dict[str, Any]]:
        """Every checkpoint: how it was exposed, and what became of it."""
        seen = {each.id: each for each in self._exposures.exposed([removal])}
        told = []
        for checkpoint, run, _, step, _, state in self._exposures.records.checkpoints:
            found, gone = seen.get(checkpoint), self._exposures.withdrawn.get(checkpoint)
            if gone is not None:
                became = gone.action
            elif found is None:
                became = "stays"
            else:
                became = "open" if self._exposures.unserved(checkpoint) else "named"
            told.append(
                {
                    "checkpoint": checkpoint,
                    "run": run,
                    "step": step,
                    "state": state,
                    "dataset_root": self._roots.get(run),
                    "record_sha256": self._digests.get(checkpoint),
                    "tier": found.tier if found else NEVER_SEEN,
                    "times_fed": found.count if found else 0,
                    "through": found.through if found else "",
                    "became": became,
                    "replaced_by": gone.replaced_by if gone else None,
                    "since": _iso(datetime.fromisoformat(gone.withdrawn_at)) if gone else None,
                }
            )
        return told

    def exports(self, checkpoints: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, datetime]]:
        """What was handed out of checkpoints that saw it."""
        seen = {each["checkpoint"] for each in checkpoints if each["tier"] != NEVER_SEEN}
        return [(export, checkpoint, at) for export, checkpoint, at in self._exports if checkpoint in seen]


def _scan(done: Sequence[_Step]) -> dict[str, Any]:
    step = next((each for each in reversed(done) if (each.part, each.action) in _SCANS), None)
    if step is None:
        return {"outcome": "not-asked", "detail": "", "hits": None, "report": None}
    outcome, report = scan_outcome(step.action, step.after), step.after
    if step.action == "tokens":
        left = sum(report["left"].values())
        detail = (
            "The values to look for were gone before the scan could run, since they went with the process that erased "
            "them. What is kept in keyed form was compared instead: rows, kept pictures, live slots."
        )
        earlier = next((s.after["hits"] for s in reversed(done) if (s.part, s.action) == ("scan", "needles")), 0)
        if earlier:
            detail = f"The scan before, by values, had found {earlier} places that may still be there. {detail}"
        return {"outcome": outcome, "detail": detail, "hits": left or None, "report": report}
    together = f"One scan for {report['requests']} requests. " if report["requests"] > 1 else ""
    return {"outcome": outcome, "detail": together.strip(), "hits": report["hits"], "report": report}


_SCANS: Final = frozenset({("scan", "needles"), ("scan", "tokens")})


def _not_reached(
    home: Home, done: Sequence[_Step], applied: datetime, exports: Sequence[tuple[str, str, datetime]]
) -> list[dict[str, Any]]:
    days = home.settings.removals.backups_days
    until = _iso(applied + timedelta(days=days)) if days else None
    kept = f"The last backup that holds it expires {days} days after it was carried through."
    unsaid = "The operator has not said how long backups of the home are kept (removals.backups_days)."
    told = [
        _place(
            "backups", (kept if days else unsaid) + " A restored one refuses all use until removals are applied.", until
        ),
        _place("copies outside the home", "Reports, sampled pictures and snapshots of the ledger that were taken out."),
    ]
    for export, checkpoint, at in exports:
        told.append(_place(f"export {export}", f"of {checkpoint}, handed out on {at:%Y-%m-%d}"))
    for step in done:
        if step.action == "dataset-absent":
            told.append(_place(f"dataset {step.subject}", "its directory is not where it was sealed"))
        elif step.action == "versions-purged" and not step.after["versions_listed"]:
            told.append(_place(f"object store of {step.subject}", "it does not list the older versions it may keep"))
    return told


def _place(what: str, detail: str, until: str | None = None) -> dict[str, Any]:
    return {"what": what, "detail": detail, "until": until}


def _iso(moment: datetime) -> str:
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)).isoformat()
