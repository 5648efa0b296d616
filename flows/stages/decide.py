"""Decide: every pair is judged from its newest stored evidence; what changed is appended, the rest confirmed.

Pairs go through in slices of their keys, so that a million of them need little memory: DuckDB fetches a slice's newest
evidence and a digest of what each rule said last, worker processes judge it and return only what differs. A run that
was killed is run again: what it had appended stands by then and is no difference any more.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from curation.pixel_store import PixelStore
from flows.home import Home, utc_now
from flows.stages.basis import Anew, Basis, to_judge
from flows.stages.evidence import shared_texts
from flows.stages.judging import Asked, Case, Judges
from flows.stages.parts import unit_id
from flows.stages.quarantine import quarantine
from flows.terminal import Progress, silent
from policy.ledger import Ledger
from policy.ruleset import KNOWN, Ruleset
from policy.snapshot import publish

SLICE = 100_000  # pairs that are fetched and appended at once
CHUNK = 2_000  # pairs that a worker judges at once
HELPED_FROM, WORKERS_FROM = 6_000, 20_000  # fewer pairs are judged here before a worker has started

# A slice's newest evidence, and a digest of the last words of each rule that is judged anew (flows/stages/judging.py
# makes the same). `fresh`: evidence that no complete run has judged yet, or whose age begins to count otherwise.
_SLICE = """
WITH observed AS (
    SELECT pair_key, evidence_id, body_json, batch_seq > $after OR ({crossed}) AS fresh
    FROM evidence WHERE pair_key >= $low AND pair_key < $high
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
wanted AS (SELECT * FROM observed WHERE fresh OR $everyone),
last_words AS (
    SELECT decision.pair_key, rule, arg_max(
        md5_number_lower(concat(rule_version, chr(31), verdict, chr(31), reason_code, chr(31),
                                coalesce(reason_detail, ''), chr(31), coalesce(where_found, ''))),
        (batch_seq << 31) | row_no
    ) AS said
    FROM decision JOIN wanted USING (pair_key)
    WHERE decision.pair_key >= $low AND decision.pair_key < $high
      AND (wanted.fresh OR list_contains($rules::VARCHAR[], rule))
    GROUP BY decision.pair_key, rule
),
stood AS (SELECT pair_key, list(rule) AS rules, list(said) AS said FROM last_words GROUP BY pair_key)
SELECT pair_key, evidence_id, body_json, fresh, coalesce(rules, []) AS rules, coalesce(said, []) AS said
FROM wanted LEFT JOIN stood USING (pair_key) ORDER BY pair_key
"""
_STANDING = """
SELECT verdict, CASE verdict WHEN 'allow' THEN '' ELSE rule END AS decided_by,
       CASE verdict WHEN 'allow' THEN '' ELSE reason_code END AS reason, count(*) AS pairs
FROM standing GROUP BY ALL ORDER BY verdict, pairs DESC, decided_by, reason
"""
_CHANGES = """
WITH said AS (SELECT pair_key, rule, verdict, reason_code FROM decision WHERE decide_id = $decide),
before AS (
    SELECT pair_key, rule, arg_max(verdict || ' ' || reason_code, (batch_seq << 31) | row_no) AS was
    FROM decision SEMI JOIN said USING (pair_key, rule) WHERE decide_id <> $decide GROUP BY pair_key, rule
)
SELECT rule, coalesce(was, '') AS was, verdict || ' ' || reason_code AS became, count(*) AS pairs
FROM said LEFT JOIN before USING (pair_key, rule) GROUP BY ALL ORDER BY pairs DESC, rule, was, became
"""
# Where no rule ever objected, nothing stands denied or deferred.
_ANY_OBJECTION = "SELECT 1 FROM decision WHERE verdict IS NULL OR verdict NOT IN ('allow', 'unset') LIMIT 1"
# Contents of which nothing is allowed and nothing was decided otherwise for so long: nobody waits for them any more.
_DEFERRED_LONG = """
SELECT content_sha256 FROM evidence JOIN standing USING (pair_key)
WHERE content_sha256 IS NOT NULL
GROUP BY content_sha256
HAVING bool_and(verdict = 'defer') AND max(since) < $before
"""


@dataclass(frozen=True, slots=True)
class DecideSummary:
    """What a run did. `standing`: (verdict, deciding rule, reason code, pairs) after it. `changes`: (rule, what it said
    before, what it says now, pairs); "" before: it had not been asked."""

    decide: str
    judged: int
    changed: int
    ruleset_digest: str
    standing: tuple[tuple[str, str, str, int], ...]
    changes: tuple[tuple[str, str, str, int], ...]
    pixels_deleted: int


def decide(home: Home, progress: Progress = silent) -> DecideSummary:
    """Judge every pair under the home's ruleset; append changed decisions; delete the pixels of what is denied.

    So are the pixels of what has been deferred for longer than the ruleset's `defer_days`.
    """
    ruleset = home.ruleset
    with home.ledger() as ledger:
        changed, judged, decide_id = judge_pairs(ledger, ruleset, home, progress)
        standing = tuple((v, r, c, n) for v, r, c, n in ledger.query(_STANDING))
        changes = tuple((r, w, b, n) for r, w, b, n in ledger.query(_CHANGES, {"decide": decide_id})) if changed else ()
        gone, listed = unwanted(ledger, home), quarantine(home, ledger)
        publish(ledger, home.snapshot_path, now=utc_now(), force=True)  # the confirmation is new, whatever else is
    deleted = PixelStore(home.pixels_path).delete_all(gone | listed)
    return DecideSummary(decide_id, judged, changed, ruleset.digest, standing, changes, deleted)


def unwanted(ledger: Ledger, home: Home) -> frozenset[str]:
    """The contents whose pixels are kept and need not be: denied, or deferred for longer than the ruleset waits."""
    kept = frozenset(PixelStore(home.pixels_path).keys())
    if not kept or not ledger.query(_ANY_OBJECTION):
        return frozenset()
    gone = {s for (s,) in ledger.query("SELECT content_sha256 FROM standing_content WHERE denied")}
    before = _naive(utc_now()) - home.ruleset.defer_for
    return kept & (gone | {s for (s,) in ledger.query(_DEFERRED_LONG, {"before": before})})


def judge_pairs(ledger: Ledger, ruleset: Ruleset, home: Home, progress: Progress = silent) -> tuple[int, int, str]:
    """Judge all pairs that have evidence. Returns (pairs changed, pairs judged, decide id)."""
    head, _ = ledger.head()
    decide_id = unit_id("decide", ruleset.digest, str(len(ledger.query("SELECT decide_id FROM confirmation"))))
    [(pairs,)] = ledger.query("SELECT count(DISTINCT pair_key) FROM evidence WHERE pair_key IS NOT NULL")
    ledger.append(
        "ruleset",
        [{"digest": ruleset.digest, "body": ruleset.text_body, "first_used_at": _naive(utc_now())}],
        key=f"ruleset/{ruleset.digest}",
    )
    asked, now = Asked.at(home, ledger), utc_now()
    parts, bodies = shared_texts(ledger)
    basis = Basis.of(ruleset, asked, now)
    anew = to_judge(ledger, basis, asked, parts.values(), KNOWN)
    case = Case(ruleset.text_body, now, asked, parts, bodies, anew.mechanisms, anew.dropped)
    given = {"decide_id": decide_id, "ruleset_digest": ruleset.digest, "decided_at": _naive(now)}
    done, cores = 0, len(os.sched_getaffinity(0))
    workers, here = _share(pairs if anew.mechanisms else 0, cores)
    with Judges(case, workers, here=here) as judges:
        slices = list(_slices(pairs)) if _is_any(ledger, anew) else []
        for number, slice_ in enumerate(slices):
            found = _fetch(ledger, anew, *slice_)
            judged = []
            for chunk in judges.judge(_chunks(found)):
                judged.append(chunk)
                progress(min(done + len(judged) * CHUNK, pairs), pairs, "decide: ")
            done = min(done + SLICE, pairs)
            progress(done, pairs, "decide: ")
            judged.sort(key=lambda chunk: chunk[0])
            decisions = _with(pa.concat_tables(d for _, d, _ in judged), given) if judged else None
            signals = _with(pa.concat_tables(s for _, _, s in judged), {"decide_id": decide_id}) if judged else None
            key = f"decide/{decide_id}/{head}/{number}"
            tables = (("decision", decisions), ("signal", signals))
            ledger.append_many([(name, t, f"{key}/{name}") for name, t in tables if t is not None and t.num_rows])
    from flows.stages.removing.requests import hold_anew  # it asks what is near, and that module asks this one

    # What has come since a request for removal did is held with what was there before.
    hold_anew(ledger, home)
    # Counted from the ledger, not while judging: a run that was killed and run again says the same.
    ((changed,),) = ledger.query("SELECT count(DISTINCT pair_key) FROM decision WHERE decide_id = ?", [decide_id])
    confirmation = given | {"judged": pairs, "unchanged": pairs - changed, "changed": changed}
    confirmation["basis_json"] = basis.to_json()
    ledger.append("confirmation", [confirmation], key=f"decide/{decide_id}/{head}/confirmation")
    return changed, pairs, decide_id


def _share(pairs: int, cores: int) -> tuple[int, bool]:
    """How many processes judge beside this one, and whether this one does: where there is much it deals out."""
    if cores < 2 or pairs < HELPED_FROM:
        return 0, True
    return (1, True) if pairs < WORKERS_FROM else (cores, False)


def _is_any(ledger: Ledger, anew: Anew) -> bool:
    """Whether any pair has to be judged: nearly never before a sealing or a training that follows a decide."""
    if anew.mechanisms or anew.dropped:
        return True
    # Named rows, not pairs: a pair's newest evidence is fresh if any of its is.
    fresh = f"SELECT 1 FROM evidence WHERE batch_seq > ? OR ({_crossed(anew)}) LIMIT 1"  # noqa: S608  # times of ours
    return bool(ledger.query(fresh, [anew.after]))


def _crossed(anew: Anew) -> str:
    """The condition that an observation's age begins to count otherwise."""
    ranges = (
        f"(observed_at BETWEEN TIMESTAMP '{_naive(since)}' AND TIMESTAMP '{_naive(until)}')"
        for since, until in anew.observed
    )
    return " OR ".join(ranges) or "false"


def _fetch(ledger: Ledger, anew: Anew, low: str, high: str) -> pa.Table:
    """A slice's pairs that have to be judged."""
    return ledger.query_arrow(
        _SLICE.format(crossed=_crossed(anew)),
        {
            "low": low,
            "high": high,
            "after": anew.after,
            "everyone": bool(anew.mechanisms or anew.dropped),
            "rules": [*anew.mechanisms, *anew.dropped],
        },
    )


def _slices(pairs: int) -> Iterator[tuple[str, str]]:
    """Ranges of pair keys (hex, spread evenly: they are digests), each of about SLICE pairs."""
    count = max(1, -(-pairs // SLICE))
    bounds = ["", *(f"{(i << 32) // count:08x}" for i in range(1, count)), "~"]
    return itertools.pairwise(bounds)


def _with(table: pa.Table, given: Mapping[str, object]) -> pa.Table:
    """The table with these values in every row."""
    for name, value in given.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _chunks(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, CHUNK):
        yield table.slice(start, CHUNK)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)
