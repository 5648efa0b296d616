"""Applying: the bytes of what approved requests name leave shards, kept pixels, caches and the ledger.

It can be killed anywhere and run again: which slots are to be emptied stands in the tombstones, and every step looks at
what is left to do. Many requests go in one pass: a shard is copied once, the ledger's file once. What was done is
written down step by step (`policy.removals.record_steps`), and the receipt is made of that.

The needles are gathered before anything is erased and held in memory alone: an apply that was killed after the erasure
and is run again has none. Then what is left is looked for by tokens, and the receipt says so.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curation import contact_sheet
from curation.pixel_store import PixelStore
from curation.shard_files import files_of, newest_generation
from curation.shards import drop_generation, prune, reseal
from flows.home import LEDGER_WAIT_S, Home, utc_now
from flows.stages.duplicates import forget_vectors, release
from flows.stages.removing import suppressing
from flows.stages.removing.exposure import record_reach
from flows.stages.removing.generations import changed_shards, generation_before
from flows.stages.removing.keyed import covered_matches, leftovers
from flows.stages.removing.needles import Needles, gather
from flows.stages.removing.scanning import ScanReport, scan_home
from flows.stages.removing.standing import Removal, all_shown, scan_outcomes
from flows.stages.seal import record_generation
from flows.terminal import Progress, silent
from policy import removals
from policy.durable import sweep_unfinished
from policy.errors import InputError, RefusedError, StorageError
from policy.ledger import Ledger
from policy.lock import FileLock
from policy.names import named_token
from policy.removal_matches import erasure_selections, record_matches
from policy.removals import Done, State
from policy.snapshot import publish
from policy.tombstones import Tombstones

LISTED = 1_000  # matches that stand in a receipt one by one; of more, their number
_PLACES = 50  # of a scan's findings that are told one by one

_CONTENTS = """
SELECT DISTINCT removal, content_sha256 FROM removal_taken
WHERE list_contains($removals::VARCHAR[], removal) AND content_sha256 IS NOT NULL ORDER BY ALL
"""
_KEYED = """
WITH taken AS (SELECT * FROM removal_taken WHERE list_contains($removals::VARCHAR[], removal)),
known AS (SELECT url_key, min(image_url) AS url FROM occurrence SEMI JOIN taken USING (url_key) GROUP BY url_key)
SELECT removal, method, score, known.url, content_sha256, sample_key FROM taken LEFT JOIN known USING (url_key)
ORDER BY ALL
"""
_SINCE = """
SELECT coalesce(min(batch_seq), 0) FROM tombstone WHERE list_contains($removals::VARCHAR[], removal)
"""


def apply(
    home: Home,
    *requested: str,
    progress: Progress = silent,
    scan: bool = True,
    receipts: bool = True,
    despite_models: bool = False,
) -> tuple[Removal, ...]:
    """Carry approved requests through: shards resealed, kept pixels and caches deleted, the ledger's rows erased.

    Then everything under the home is scanned for what was removed (`scan`), and each request gets its receipt. Applied
    already: what has come since, if anything, goes as well. `despite_models`: also where a model is to be approximated
    and was not yet: that needs the pictures, so that the model is withdrawn then.

    Raises:
        InputError: none is named, or there is none of that id. RefusedError: one is not approved, or a model has to
            forget it first. BusyError: another one is being applied.
    """
    if not requested:
        raise InputError("no request is named", where="custody removal apply", remedy="custody removal list")
    names = sorted(set(requested))
    with _one_at_a_time(home):
        with home.ledger() as ledger:
            waiting, known = _standing(ledger, names)
        if not despite_models:
            _require_forgotten(home, waiting)
        with home.ledger() as ledger:
            tombstones = _take_in_late(home, ledger, names)
            contents = [tuple(row) for row in ledger.query(_CONTENTS, {"removals": names})]
            record_reach(ledger, home, known)
            removals.record_steps(ledger, list(_keyed(home, ledger, known)), now=utc_now())
        suppressing.suppress(home, *known)  # an approval that was killed may have left some of it unmarked
        needles = None
        if scan and known:
            with home.ledger(readonly=True) as ledger:
                needles = gather(home, ledger, known)
        _empty_datasets(home, names, tombstones, progress)
        progress(1, 4, "removal: kept pixels and caches")
        sheets = _delete_copies(home, contents)
        from flows.stages.removing.unfinished import take_out  # it knows crawls, which few applies meet

        emptied = take_out(home)
        progress(2, 4, "removal: the ledger")
        with home.ledger() as ledger:
            crawls = [Done(name, "bytes", "rows-emptied", "crawls", after={"rows": emptied}) for name in names]
            removals.record_steps(ledger, [*_told(contents, sheets), *(crawls if emptied else ())], now=utc_now())
            _erase(home, ledger, names, waiting, [sha for _, sha in contents])
        if scan:
            progress(3, 4, "removal: looking for what is left")
            _scan(home, names, known, needles, progress)
        if receipts:
            from flows.stages.removing.receipts import issue  # it asks what is exposed, which imports the order

            issue(home, names)
        with home.ledger(readonly=True) as ledger:
            progress(4, 4, "removal: done")
            return all_shown(ledger, home, names)


def _require_forgotten(home: Home, names: Sequence[str]) -> None:
    """To forget a picture it must be there: what is to be approximated comes before the bytes go."""
    from flows.stages.removing.models import to_approximate  # it issues receipts, and who does that asks us

    runs = sorted({run for runs in to_approximate(home, names).values() for run in runs})
    if runs:
        asked = " ".join(names)
        raise RefusedError(
            f"{', '.join(runs)} {'are' if len(runs) > 1 else 'is'} to be approximated first (models.on_exposure of "
            "policy.toml), and to forget pictures takes the pictures",
            where=asked,
            remedy=f"custody removal replay {asked}; or apply with --despite-models, which leaves the models to be "
            "withdrawn, or replayed with --exact",
        )


@contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    lock = FileLock(home.path / "applying.lock", exclusive=True, wait_s=LEDGER_WAIT_S)
    try:
        yield
    finally:
        lock.release()


def _standing(ledger: Ledger, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of these, what is not applied yet; and of that what the ledger still has the values of."""
    states = {request.removal: request for request in removals.requests(ledger)}
    for name in names:
        if name not in states:
            removals.find(ledger, name)  # which says so
        state = states[name].state
        if state not in (State.APPROVED, State.APPLIED):
            remedy = f"custody removal approve {name} --by NAME" if state.is_undecided else ""
            raise RefusedError(f"the request is {state.value}, not approved", where=name, remedy=remedy)
    waiting = tuple(name for name in names if states[name].state is State.APPROVED)
    erased = ledger.query(
        "SELECT removal FROM removal WHERE list_contains($removals::VARCHAR[], removal) AND erased_by = removal",
        {"removals": list(waiting)},
    )
    return waiting, tuple(name for name in waiting if (name,) not in set(erased))


# ── what is known, before it goes ──────────────────────────────────────────────────────────────────────────────────


def _take_in_late(home: Home, ledger: Ledger, names: Sequence[str]) -> Tombstones:
    """What came in since the approval, by whoever was at work then, is matched by its token and goes with the rest."""
    tombstones = home.tombstones(ledger)
    [(since,)] = ledger.query(_SINCE, {"removals": list(names)})
    found = covered_matches(ledger, tombstones, since=since)
    for name in sorted(found.keys() & set(names)):
        record_matches(ledger, name, found[name], now=utc_now())
    return with_found_slots(home, ledger, tombstones, {n: found[n] for n in found.keys() & set(names)})


def with_found_slots(
    home: Home, ledger: Ledger, tombstones: Tombstones, found: Mapping[str, Collection[Any]]
) -> Tombstones:
    """The tombstones with the slots that hold one of these matches as well, in force and on record."""
    for name in sorted(found):
        slots: dict[str, list[int]] = {}
        keys = [match.sample_key for match in found[name] if match.sample_key is not None]
        for dataset, ordinal in ledger.query(
            "SELECT DISTINCT dataset, ordinal FROM slot WHERE sample_key IN (SELECT unnest($keys::VARCHAR[]))",
            {"keys": sorted(set(keys))},
        ):
            if ordinal not in tombstones.slots(dataset):
                slots.setdefault(dataset, []).append(ordinal)
        if slots:
            tombstones = tombstones.with_added(name, slots=slots)
            tombstones.store(home.tombstones_path)
            key = f"tombstones/{name}/{tombstones.epoch}"
            known = {
                (kind, token)
                for kind, token in ledger.query("SELECT kind, token FROM tombstone WHERE removal = ?", [name])
            }
            rows = [r for r in tombstones.rows(name, utc_now()) if (r["kind"], r["token"]) not in known]
            ledger.append("tombstone", rows, key=key)
    return tombstones


def _keyed(home: Home, ledger: Ledger, names: Sequence[str]) -> Iterator[Done]:
    """What each of these matched, as tokens: once the rows are erased nobody can say it any more."""
    token = home.keys.token
    taken: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}
    for name, *found in ledger.query(_KEYED, {"removals": list(names)}):
        taken[name].append(tuple(found))
    named = {name: (kind, value) for name, kind, value in ledger.query(_NAMED, {"removals": list(names)})}
    for name in names:
        kind, value = named[name]
        methods = Counter(method for method, *_ in taken[name])
        lowest = {method: min(score for m, score, *_ in taken[name] if m == method) for method in methods}
        after = {
            "named": named_token(home.keys, kind, value) if value else None,
            "methods": [{"method": m, "count": n, "lowest_score": lowest[m]} for m, n in sorted(methods.items())],
            "listed": [
                {
                    "method": method,
                    "score": score,
                    "url": token("url", url) if url else None,
                    "content": token("content", content) if content else None,
                    "sample": token("sample", sample) if sample else None,
                }
                for method, score, url, content, sample in taken[name][:LISTED]
            ],
        }
        yield Done(name, "matches", "keyed", kind, after=after)


_NAMED = "SELECT removal, named_kind, named_value FROM removal WHERE list_contains($removals::VARCHAR[], removal)"


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _empty_datasets(home: Home, names: Sequence[str], tombstones: Tombstones, progress: Progress) -> None:
    """Every dataset with a slot of these removals gets a generation without it; the one before goes."""
    ours = set(names)
    emptied = {
        dataset: {ordinal: by for ordinal, by in known.items() if by in ours}
        for dataset, known in sorted(tombstones.slot_removals.items())
    }
    emptied = {dataset: slots for dataset, slots in emptied.items() if slots}
    for done, (dataset, slots) in enumerate(emptied.items()):
        progress(done, len(emptied), "removal: resealing")
        _reseal(home, dataset, slots)


def _reseal(home: Home, dataset: str, emptied: Mapping[int, str]) -> None:
    """A generation of a dataset without these slots (ordinal -> removal), recorded; the one before it is let go."""
    place = home.dataset(dataset)
    files, by_removal = files_of(place), sorted(set(emptied.values()))
    if not files.has("dataset.json"):
        # Sealing was killed before the first byte, or the directory was moved away: the receipt says so.
        _record(home, [Done(name, "bytes", "dataset-absent", dataset) for name in by_removal])
        return
    if newest_generation(files) is None:
        # Sealing was killed: what it wrote goes whole, and it goes on without the slots.
        for number in files.generations():
            drop_generation(place, number)
        _record(home, [Done(name, "bytes", "unfinished-dropped", dataset) for name in by_removal])
        return
    generation = reseal(place, list(emptied), by_removal)
    steps: list[Done] = []
    if (before := generation_before(files, generation)) is not None:
        changed = changed_shards(files, before, generation, emptied)
        steps = [
            Done(name, "bytes", "resealed", dataset, before=was, after=now) for name, (was, now) in changed.items()
        ]
    with home.ledger() as ledger:
        record_generation(ledger, generation, ",".join(by_removal))
        removals.record_steps(ledger, steps, now=utc_now())
    prune(place)
    if (remote := home.remote_datasets) is not None:
        listed = remote.lists_versions()
        after = {"versions_listed": listed}
        _record(home, [Done(name, "bytes", "versions-purged", dataset, after=after) for name in by_removal])


def _delete_copies(home: Home, contents: Sequence[tuple[str, str]]) -> int:
    """Kept pixels, embeddings, what is cached or drawn, and what killed processes left in the middle of a write.

    How many contact sheets that were.
    """
    digests = sorted({sha for _, sha in contents})
    PixelStore(home.pixels_path).delete_all(digests)
    sweep_unfinished(home.path)
    # What is cached is made anew from what is left; embeddings, of which each takes its time, go one by one.
    if (cache := home.path / "cache").exists():
        shutil.rmtree(cache, ignore_errors=True)
        if cache.exists() and any(path.is_file() for path in cache.rglob("*")):
            raise StorageError("the cache cannot be deleted", where=str(cache), remedy="Mend the permissions")
    forget_vectors(home, digests)
    return _delete_sheets(home) if digests else 0


def _delete_sheets(home: Home) -> int:
    """Every contact sheet in the home: which pictures a PNG shows nobody can read out of it, and all are drawn anew."""
    sheets = []
    for directory, _, names in os.walk(home.path):
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in contact_sheet.SUFFIXES and path.is_file():
                with suppress(OSError):  # what cannot be read is named by the scan
                    if contact_sheet.is_sheet(path):
                        sheets.append(path)
    for path in sheets:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            what = f"a contact sheet cannot be deleted ({error.strerror})"
            raise StorageError(what, where=str(path), remedy="Mend the permissions") from error
    return len(sheets)


def _told(contents: Sequence[tuple[str, str]], sheets: int) -> Iterator[Done]:
    for name, count in sorted(Counter(removal for removal, _ in contents).items()):
        yield Done(name, "bytes", "pictures-deleted", "pixels", after={"contents": count})
        yield Done(name, "bytes", "embeddings-overwritten", "vectors", after={"contents": count})
        yield Done(name, "bytes", "emptied", "cache")
        yield Done(name, "bytes", "sheets-deleted", "sheets", after={"sheets": sheets})


def _record(home: Home, steps: Sequence[Done]) -> None:
    with home.ledger() as ledger:
        removals.record_steps(ledger, steps, now=utc_now())


# ── the ledger ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _erase(home: Home, ledger: Ledger, names: Sequence[str], waiting: Sequence[str], contents: Sequence[str]) -> None:
    """The rows about these removals lose what is personal, and the file the bytes of it."""
    if contents:
        release(ledger, contents, f"{names[0]}/{ledger.head()[0]}")
    _forget_same(home, ledger, names)
    erased = ledger.erase_rows(erasure_selections(), {"removals": list(names)})
    if not erased and not waiting:
        return  # applied before, and nothing has come since
    now = utc_now()
    if home.settings.removals.keep_requester_days == 0:
        for name in waiting:
            removals.forget_requester(ledger, name, now=now, reason="the request is closed")
    ledger.compact()
    done = [Done(name, "ledger", "compacted", "ledger.duckdb") for name in names]
    removals.record_steps(ledger, done, now=now)
    removals.advance_many(ledger, waiting, State.APPLIED, now=now)
    publish(ledger, home.snapshot_path, now=now, force=True)


def _forget_same(home: Home, ledger: Ledger, names: Sequence[str]) -> None:
    """What these name is named by nobody any more who asked for it in vain: of that a token stays."""
    requests = removals.requests(ledger)
    named = {(r.named_kind, r.named_value) for r in requests if r.removal in names and r.named_value is not None}
    for request in requests:
        if request.state.is_spent and (request.named_kind, request.named_value) in named:
            token = named_token(home.keys, request.named_kind, request.named_value or "")
            removals.forget_named(ledger, request.removal, token, now=utc_now(), reason="it was removed")


# ── what is left ───────────────────────────────────────────────────────────────────────────────────────────────────


def _scan(home: Home, names: Sequence[str], known: Sequence[str], needles: Needles | None, progress: Progress) -> None:
    """Look for what was removed everywhere under the home, and write down what was found for each request."""
    report = None if needles is None else scan_home(home, needles, progress=progress)
    with home.ledger() as ledger:
        steps = (
            [] if report is None else [Done(n, "scan", "needles", "home", after=_said(report, known)) for n in known]
        )
        before = dict(scan_outcomes(ledger, names))
        if blind := [name for name in names if name not in known and before.get(name) != "clean"]:
            left = leftovers(home, ledger, home.tombstones(ledger))
            for name in blind:
                after = {"why": "values-gone", "left": left.of(name), "unread": len(left.unread)}
                after |= {"before": "hits"} if before.get(name) == "hits" else {}
                steps.append(Done(name, "scan", "tokens", "home", after=after))
        removals.record_steps(ledger, steps, now=utc_now())


def _said(report: ScanReport, known: Sequence[str]) -> dict[str, Any]:
    """A scan as a receipt tells it: nothing of what was looked for, and of the findings the first places."""
    return {
        "requests": len(known),
        "files": report.files,
        "bytes": report.bytes,
        "pictures": report.pictures,
        "pictures_alike": report.alike,
        "forms": dict(report.needles),
        "not_looked_for": {"too_common": dict(report.too_common), "shared": dict(report.shared)},
        "hits": sum(hit.count for hit in report.hits),
        "places": [{"where": h.where, "kind": h.kind, "count": h.count} for h in report.hits[:_PLACES]],
        "unread": len(report.unread),
        "unread_places": [{"where": one.where, "why": one.why} for one in report.unread[:_PLACES]],
        "seconds": round(report.seconds, 1),
    }
