"""Removal: a request from its arrival until the samples are out of shards, kept pixels and the ledger.

Approval puts the tombstones in force, as a file; the ledger follows. Applying can be killed anywhere and run again:
which slots are to be emptied stands in the tombstones, and every step looks at what is left to do.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from curation.pair import canonical_url
from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from curation.shards import prune, reseal
from flows.home import Home, utc_now
from flows.stages.duplicates import forget_vectors, nearby, release
from flows.stages.seal import record_generation
from flows.terminal import Progress, silent
from policy import removals
from policy.durable import sweep_unfinished
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.removals import Match, RemovalRequest, State
from policy.snapshot import publish

# Each request has a rule of its own, so that the end of one lifts no other.
HOLD_RULE = "removal/{removal}"
SOON = timedelta(days=7)

_SLOTS_OF = """
SELECT DISTINCT dataset, ordinal FROM slot
WHERE content_sha256 IN (
    SELECT content_sha256 FROM removal_match WHERE removal = $removal AND content_sha256 IS NOT NULL
)
   OR sample_key IN (SELECT sample_key FROM removal_match WHERE removal = $removal AND sample_key IS NOT NULL)
   OR pair_key IN (SELECT pair_key FROM removal_match WHERE removal = $removal AND pair_key IS NOT NULL)
ORDER BY dataset, ordinal
"""
_URLS_OF = """
SELECT DISTINCT image_url FROM occurrence
WHERE url_key IN (SELECT url_key FROM removal_match WHERE removal = $removal AND url_key IS NOT NULL)
ORDER BY image_url
"""
_SHOWING = """
SELECT content_sha256, count(DISTINCT pair_key) FROM evidence
WHERE pair_key IS NOT NULL AND content_sha256 IN (SELECT unnest(?::VARCHAR[])) GROUP BY content_sha256
"""
_NEWEST_EVIDENCE_OF = """
SELECT pair_key, evidence_id FROM evidence
WHERE pair_key IN (SELECT pair_key FROM removal_match WHERE removal = $removal AND pair_key IS NOT NULL)
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY pair_key
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a sealed dataset."""

    dataset: str
    ordinal: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Other bytes that were verified to show what a request matches: for whoever decides to take in or leave out.

    `method`, `distance`: how they were found, and of the pixels, as in `policy.evidence.DuplicateOf`; of one that is
    like a third which stands for both, its own match to that one. `occurrences`: pairs that show it.
    """

    content_sha256: str
    method: str
    distance: float
    occurrences: int


@dataclass(frozen=True, slots=True)
class Removal:
    """The contract of `custody removal … --json`. `advice` says what to do next; `proposals`: until it is decided."""

    id: str
    kind: str
    regime: str
    state: str
    received_at: datetime
    due_at: datetime
    matches: tuple[Match, ...]
    slots: tuple[Slot, ...]
    advice: tuple[str, ...]
    proposals: tuple[Proposal, ...] = ()


# ── from arrival to a decision ─────────────────────────────────────────────────────────────────────────────────────


def add(home: Home, named: str, value: str, *, kind: str = "erasure", regime: str = "gdpr") -> Removal:
    """File a request by url, domain, sha256 or sample; hold what it matches until it is decided.

    A request that matches nothing is kept all the same: once approved it keeps out what a future crawl finds.

    Raises:
        InputError: the value is no URL, host, digest or key.
    """
    now = utc_now()
    with home.ledger() as ledger:
        home.tombstones(ledger)  # lost ones are no place to begin
        named_kind, named_value = _named(ledger, named, value)
        request = RemovalRequest.receive(named_kind, named_value, now=now, kind=kind, regime=regime)
        removals.record(ledger, request)
        removals.record_matches(ledger, request.removal, removals.match(ledger, named_kind, named_value), now=now)
        _decide(ledger, home, request.removal, "defer", "removal-held")
        removals.advance(ledger, request.removal, State.HELD, now=now)
        publish(ledger, home.snapshot_path, now=now)
        return _shown(ledger, home, request.removal)


def approve(
    home: Home, removal: str, *, by: str, reason: str = "", with_near: bool = False, near: Sequence[str] = ()
) -> Removal:
    """Approve: the tombstones are in force, for every stage and every running training, when this returns.

    `with_near`: what is proposed as near duplicates goes, too; `near`: of that these alone, by their sha256.

    Raises:
        InputError: no such request, nobody's name, or a content that is not proposed. RefusedError: it was rejected
            before, or approved without these.
    """
    _require_name(by)
    now = utc_now()
    with home.ledger() as ledger:
        request = removals.find(ledger, removal)
        if request.state is State.REJECTED:
            raise RefusedError("it was rejected, and a decision is final", where=removal, remedy="File a new request")
        tombstones = home.tombstones(ledger)
        if removal not in tombstones.removals:
            if request.named_value is not None:  # what was crawled since the request came belongs to it, too
                matches = removals.match(ledger, request.named_kind, request.named_value)
                removals.record_matches(ledger, removal, matches, now=now)
            removals.record_matches(ledger, removal, _taken_in(ledger, removal, with_near, near), now=now)
            rows = ledger.query("SELECT content_sha256, sample_key FROM removal_match WHERE removal = ?", [removal])
            urls = {url for (url,) in ledger.query(_URLS_OF, {"removal": removal})}
            named_url = request.named_kind in ("image_url", "page_url") and request.named_value
            tombstones = tombstones.with_added(
                removal,
                urls=sorted(urls | ({named_url} if named_url else set())),
                contents=sorted({sha for sha, _ in rows if sha} | _named_content(request)),
                samples=sorted({key for _, key in rows if key}),
                domains=[request.named_value] if request.named_kind == "domain" and request.named_value else [],
                slots=_by_dataset(_slots(ledger, removal)),
            )
            tombstones.store(home.tombstones_path)
        elif request.state is not State.APPLIED and _taken_in(ledger, removal, with_near, near):
            raise RefusedError(
                "it is in force already, without these near duplicates",
                where=removal,
                remedy="File a request for each: custody removal add --sha256",
            )
        ledger.append("tombstone", tombstones.rows(removal, now), key=f"tombstones/{removal}")
        _decide(ledger, home, removal, "deny", "tombstoned")
        if request.state is not State.APPLIED:
            removals.advance(ledger, removal, State.APPROVED, now=now, by_whom=by, reason=reason)
        publish(ledger, home.snapshot_path, now=now)
        return _shown(ledger, home, removal)


def reject(home: Home, removal: str, *, by: str, reason: str) -> Removal:
    """Reject, with a reason: the hold ends.

    Raises:
        InputError: no such request, nobody's name, no reason. RefusedError: it was approved before.
    """
    _require_name(by)
    if not reason.strip():
        raise InputError("a rejection carries a reason", where="--reason")
    with home.ledger() as ledger:
        removals.advance(ledger, removal, State.REJECTED, now=utc_now(), by_whom=by, reason=reason)
        _decide(ledger, home, removal, "unset", "removal-rejected")
        publish(ledger, home.snapshot_path, now=utc_now())
        return _shown(ledger, home, removal)


# ── carrying it through ────────────────────────────────────────────────────────────────────────────────────────────


def apply(home: Home, removal: str, progress: Progress = silent) -> Removal:
    """Carry an approved request through: shards resealed, kept pixels and caches deleted, the ledger's rows erased.

    Raises:
        RefusedError: it is not approved.
    """
    with home.ledger(readonly=True) as ledger:
        request = removals.find(ledger, removal)
        if request.state not in (State.APPROVED, State.APPLIED):
            raise RefusedError(
                f"the request is {request.state.value}, not approved",
                where=removal,
                remedy=f"custody removal approve {removal} --by NAME",
            )
        contents = ledger.query(
            "SELECT DISTINCT content_sha256 FROM removal_match WHERE removal = ? AND content_sha256 IS NOT NULL",
            [removal],
        )
    emptied = home.tombstones().slot_removals
    datasets = sorted(d for d, slots in emptied.items() if removal in slots.values())
    for done, dataset in enumerate(datasets):
        progress(done, len(datasets) + 2, "removal: resealing")
        _reseal(home, dataset, [o for o, by in emptied[dataset].items() if by == removal], removal)
    store = PixelStore(home.pixels_path)
    store.delete_all(sha for (sha,) in contents)
    # A process that was killed may have left a copy in the middle of a write.
    sweep_unfinished(home.path)
    # What is cached is made anew from what is left; embeddings, of which each takes its time, go one by one.
    shutil.rmtree(home.path / "cache", ignore_errors=True)
    forget_vectors(home, [sha for (sha,) in contents])
    progress(len(datasets) + 1, len(datasets) + 2, "removal: the ledger")
    with home.ledger() as ledger:
        if request.state is not State.APPLIED:
            release(ledger, [sha for (sha,) in contents], removal)
            ledger.erase(removal, removals.erasure_predicates(), {"removal": removal})
            ledger.compact()
            removals.advance(ledger, removal, State.APPLIED, now=utc_now())
        publish(ledger, home.snapshot_path, now=utc_now(), force=True)
        progress(len(datasets) + 2, len(datasets) + 2, "removal: done")
        return _shown(ledger, home, removal)


def _reseal(home: Home, dataset: str, ordinals: Sequence[int], removal: str) -> None:
    place = home.dataset(dataset)
    # A reseal checks what it touches; of a bucket all the rest would have to be fetched for it.
    with DatasetReader.open(place, verify=home.remote_datasets is None) as reader:
        live = [o for o in ordinals if reader.is_live(o)]
        generation = reader.generation
    if live:
        generation = reseal(place, live, removal)
    with home.ledger() as ledger:
        record_generation(ledger, generation, removal)
    prune(place)


# ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(home: Home, removal: str) -> Removal:
    """One request as it stands. Raises InputError when there is none."""
    with home.ledger(readonly=True) as ledger:
        return _shown(ledger, home, removal)


def list_removals(home: Home) -> tuple[Removal, ...]:
    """All requests, the oldest first."""
    with home.ledger(readonly=True) as ledger:
        return tuple(_shown(ledger, home, request.removal) for request in removals.requests(ledger))


def check_deadlines(home: Home) -> dict[str, int]:
    """Requests by state, and of the undecided how many are due within a week or overdue."""
    now = utc_now()
    counts: Counter[str] = Counter()
    for request in list_removals(home):
        counts[request.state] += 1
        if request.state not in (State.APPLIED.value, State.REJECTED.value):
            counts["overdue"] += request.due_at < now
            counts["due within a week"] += now <= request.due_at < now + SOON
    return dict(counts)


def _shown(ledger: Ledger, home: Home, removal: str) -> Removal:
    request = removals.find(ledger, removal)
    names = ("pair_key", "url_key", "content_sha256", "sample_key", "method", "score")
    rows = ledger.query(
        "SELECT pair_key, url_key, content_sha256, sample_key, method, score FROM removal_match WHERE removal = ? "
        "ORDER BY batch_seq, row_no",
        [removal],
    )
    emptied = [
        Slot(dataset, ordinal)
        for dataset, known in sorted(home.tombstones(ledger).slot_removals.items())
        for ordinal, by in sorted(known.items())
        if by == removal
    ]
    undecided = request.state in (State.RECEIVED, State.HELD)
    proposals = _proposals(ledger, removal) if undecided else ()
    return Removal(
        removal,
        request.kind,
        request.regime,
        request.state.value,
        request.received_at,
        request.due_at,
        tuple(Match(**dict(zip(names, row, strict=True))) for row in rows),
        tuple(emptied or _slots(ledger, removal)),
        _advice(request, len(proposals)),
        proposals,
    )


def _advice(request: RemovalRequest, proposed: int) -> tuple[str, ...]:
    match request.state:
        case State.RECEIVED | State.HELD:
            held = f"held until decided: custody removal approve {request.removal} --by NAME"
            look = f"{proposed} near duplicates are not held: approve with --with-near, or --near SHA256, takes them in"
            return (held, look) if proposed else (held,)
        case State.APPROVED:
            return ("in force: nothing new may use it", f"next: custody removal apply {request.removal}")
        case State.APPLIED:
            return ("carried through: `custody trace` names the checkpoints that saw it",)
        case State.REJECTED:
            return ("the hold has ended",)


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _named(ledger: Ledger, named: str, value: str) -> tuple[str, str]:
    """The kind and value as policy.removals knows them; a URL is an image's unless only pages are known by it."""
    match named:
        case "url":
            url = canonical_url(value)
            pages_only = not removals.match(ledger, "image_url", url) and removals.match(ledger, "page_url", url)
            return ("page_url" if pages_only else "image_url"), url
        case "domain":
            host = value.strip().lower().rstrip(".")
            if not host or "/" in host or " " in host:
                raise InputError(f"{value!r} is no host name", where="--domain", remedy="Write it as example.org")
            return "domain", host
        case "sha256":
            return "content", _hex(value, 64, "--sha256")
        case _:
            return "sample_key", _hex(value, 32, "--key")


def _hex(value: str, digits: int, where: str) -> str:
    text = value.strip().lower()
    if len(text) != digits or set(text) - set("0123456789abcdef"):
        raise InputError(f"{value!r} is not {digits} hex digits", where=where)
    return text


def _proposals(ledger: Ledger, removal: str) -> tuple[Proposal, ...]:
    """What was verified to show the same as the request's matches, and is not among them."""
    matched = ledger.query(
        "SELECT DISTINCT content_sha256 FROM removal_match WHERE removal = ? AND content_sha256 IS NOT NULL", [removal]
    )
    found = nearby(ledger, [sha for (sha,) in matched])
    showing = dict(ledger.query(_SHOWING, [[sha for sha, *_ in found]])) if found else {}
    return tuple(Proposal(sha, method, distance, showing.get(sha, 0)) for sha, method, distance in found)


def _taken_in(ledger: Ledger, removal: str, with_near: bool, near: Sequence[str]) -> tuple[Match, ...]:
    """The occurrences of the proposed near duplicates that were asked for, each with how it was found."""
    if not with_near and not near:
        return ()
    wanted, proposed = {_hex(sha, 64, "--near") for sha in near}, _proposals(ledger, removal)
    already = ledger.query("SELECT DISTINCT content_sha256 FROM removal_match WHERE removal = ?", [removal])
    if strangers := wanted - {one.content_sha256 for one in proposed} - {sha for (sha,) in already}:
        raise InputError(
            f"{len(strangers)} of these contents are not proposed for this request",
            where="--near",
            remedy=f"`custody removal show {removal}` lists those that are",
        )
    return tuple(
        replace(match, method=f"near-{one.method or 'representative'}", score=round(1 - one.distance, 4))
        for one in proposed
        if with_near or one.content_sha256 in wanted
        for match in removals.match(ledger, "content", one.content_sha256)
    )


def _named_content(request: RemovalRequest) -> set[str]:
    return {request.named_value} if request.named_kind == "content" and request.named_value else set()


def _require_name(by: str) -> None:
    if not by.strip():
        raise InputError("nobody's name: a decision says who made it", where="--by")


def _slots(ledger: Ledger, removal: str) -> list[Slot]:
    return [Slot(dataset, ordinal) for dataset, ordinal in ledger.query(_SLOTS_OF, {"removal": removal})]


def _by_dataset(slots: Sequence[Slot]) -> dict[str, list[int]]:
    by_dataset: dict[str, list[int]] = {}
    for slot in slots:
        by_dataset.setdefault(slot.dataset, []).append(slot.ordinal)
    return by_dataset


def _decide(ledger: Ledger, home: Home, removal: str, verdict: str, code: str) -> None:
    """A decision of the request on each pair that it matches, resting on the pair's newest evidence."""
    rows: list[dict[str, Any]] = [
        {
            "pair_key": pair,
            "evidence_id": evidence,
            "rule": HOLD_RULE.format(removal=removal),
            "rule_version": 1,
            "verdict": verdict,
            "reason_code": code,
            "reason_detail": removal,
            "where_found": "",
            "ruleset_digest": home.ruleset.digest,
            "decide_id": removal,
            "decided_at": utc_now().replace(tzinfo=None),
        }
        for pair, evidence in ledger.query(_NEWEST_EVIDENCE_OF, {"removal": removal})
    ]
    if rows:
        ledger.append("decision", rows, key=f"{removal}/{code}")
