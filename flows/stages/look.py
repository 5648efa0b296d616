"""Look: what models and measures make of the pictures that every cheaper rule lets pass.

Cheapest first: measures of quality, then the search for near duplicates, then the models; what one of them keeps out
the next does not look at. A score is kept by (content, scorer's digest), and the digest covers weights and
preprocessing, so that nothing is computed twice and nothing of another model counts. Scores are appended a unit at a
time; evidence is written anew for the pairs whose pictures have something new to be said of, and judged.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from flows.home import Home, utc_now
from flows.pace import Pace
from flows.stages.decide import DecideSummary, decide, judge_pairs
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.stages.removing.suppressing import SUPPRESSED_BY, alike
from flows.terminal import Progress, silent
from policy.duplicates import DUPLICATE
from policy.errors import InputError
from policy.evidence import REMOVED_LIKENESS, DuplicateOf, Evidence, Score
from policy.ledger import Ledger
from policy.quality import QUALITY
from policy.ruleset import judge
from policy.safety import SAFETY
from policy.tombstones import Tombstones
from policy.verdict import Verdict

if TYPE_CHECKING:
    from curation.pixel_store import PixelStore
    from curation.scores import Scorer

OBSERVER = "custody-look/1"
UNIT = 2_000  # pictures of one unit of work, and of one append
BATCH = 16  # pictures that a scorer is given at once
PAIRS_AT_ONCE = 2_000  # whose evidence is written anew in one append
COMPARED_AT_ONCE = 50_000  # whose evidence is compared with what is known of their pictures

# The rules that rest on looking, cheapest first: `text` is not among them, since a caption may still come.
LOOKED = (QUALITY, DUPLICATE, SAFETY)

# Pairs that every other rule lets pass, with their contents; a text that is refused refuses the pair.
_PASSING = """
WITH passing AS (
    SELECT pair_key FROM latest_decision GROUP BY pair_key
    HAVING bool_and(verdict IN ('allow', 'unset') OR list_contains($looked::VARCHAR[], rule)
                    OR (rule = 'text' AND verdict = 'defer'))
)
SELECT pair_key, content_sha256 FROM evidence SEMI JOIN passing USING (pair_key)
WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
ORDER BY pair_key
"""
_SAID = """
SELECT pair_key, json_extract(body_json, '$.scores')::VARCHAR, json_extract(body_json, '$.duplicate')::VARCHAR,
    json_exists(body_json, '$.alt') AND NOT json_exists(body_json, '$.text_language') AS lacks_language
FROM evidence WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
"""
_SCORES = """
SELECT content_sha256, name, value FROM score WHERE model_digest = ? AND content_sha256 IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY content_sha256, name ORDER BY batch_seq DESC, row_no DESC) = 1
    AND value IS NOT NULL  -- taken back: its pixels were replaced
"""


@dataclass(frozen=True, slots=True)
class Looked:
    """What one mechanism looked at: `pictures` that had come so far, of which `measured` in this run, in `seconds`."""

    mechanism: str
    pictures: int
    measured: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LookSummary:
    """What a run did. `pictures`: those that every cheaper rule lets pass.

    `unreadable`: pictures whose kept pixels cannot be decoded. `duplicates`: those that another picture stands for.
    `pairs`: whose evidence was written anew. `decided`: what judging them made of it.
    """

    pictures: int
    looked: tuple[Looked, ...]
    unreadable: int
    duplicates: int
    pairs: int
    decided: DecideSummary


class Known:
    """What is known by now of N contents: a column of float64 [N] a score, NaN where it was not measured; and what
    stands for each.
    """

    def __init__(self, contents: Sequence[str]) -> None:
        self._place = {content: number for number, content in enumerate(contents)}
        self._columns: dict[str, tuple[str, npt.NDArray[np.float64]]] = {}
        self.duplicates: dict[str, DuplicateOf] = {}

    def add(self, by: str, names: Sequence[str], said: Iterable[tuple[str, str, float]]) -> None:
        """Take over (content, name, value) of what `by` has measured."""
        for name in names:
            self._columns[name] = by, np.full(len(self._place), np.nan)
        for content, name, value in said:
            if content in self._place and name in self._columns:
                self._columns[name][1][self._place[content]] = value

    def scores(self, content: str) -> tuple[Score, ...]:
        """Of one content, in the order of their names."""
        place = self._place.get(content)
        if place is None:
            return ()
        found = ((name, float(values[place]), by) for name, (by, values) in sorted(self._columns.items()))
        return tuple(Score(name, value, by) for name, value, by in found if not math.isnan(value))


def look(home: Home, progress: Progress = silent) -> LookSummary:
    """Measure what passes all cheaper rules, write the evidence anew, judge.

    Raises:
        ConfigurationError: the weights of a model are missing, or are not those that are expected.
    """
    looking = Looking(home, progress)
    for mechanism in looking.mechanisms:
        for unit in range(looking.begin(mechanism)):
            looking.do(unit)
    return looking.finish()


@dataclass(frozen=True, slots=True)
class _Turn:
    """A mechanism that is being looked at: who measures (None: the search for duplicates), and what is missing."""

    mechanism: str
    scorer: Scorer | None
    passing: list[str]
    missing: list[str]
    pace: Pace
    started: float = field(default_factory=time.monotonic)


class Looking:
    """A run of the stage: one mechanism after another, each in units. What was done of it stands in the ledger, so
    that a run that was killed is begun anew and goes on where it stopped.

    ::

        looking = Looking(home, progress)
        for mechanism in looking.mechanisms:
            for unit in range(looking.begin(mechanism)):
                looking.do(unit)
        summary = looking.finish()
    """

    def __init__(self, home: Home, progress: Progress = silent) -> None:
        self._home, self._progress = home, progress
        self.mechanisms = tuple(name for name in LOOKED if name in home.ruleset.mechanisms)
        # All of them at once: a model that is missing is told before hours are spent on what comes before it.
        self._scorers = {name: scorer_of(home, name) for name in self.mechanisms if name != DUPLICATE}
        self._passing, self._contents = _settled(home, progress)
        self._known = Known(self._contents)
        # What is like a removed picture is looked at by a person, and by no model before that.
        self._held = alike(home, self._contents, progress=progress)
        held = [(content, REMOVED_LIKENESS, likeness) for content, likeness in self._held.items()]
        self._known.add(SUPPRESSED_BY, (REMOVED_LIKENESS,), held)
        self._contents = [content for content in self._contents if content not in self._held]
        self._looked: list[Looked] = []
        self._unreadable: set[str] = set()
        self._turn: _Turn | None = None

    def begin(self, mechanism: str) -> int:
        """Turn to the next mechanism; returns the number of its units."""
        self._end_turn()
        passing = self._still_passing()
        if mechanism == DUPLICATE:
            self._turn = _Turn(mechanism, None, passing, passing, Pace(silent, "", 0))
            return 1 if passing else 0
        scorer = self._scorers[mechanism]
        missing = _unscored(self._home, scorer, passing)
        pace = Pace(self._progress, f"look: {mechanism}", len(missing))
        self._turn = _Turn(mechanism, scorer, passing, missing, pace)
        return -(-len(missing) // UNIT)

    def do(self, unit: int) -> int:
        """Do one unit of it; returns how many pictures that were."""
        turn = self._turn
        assert turn is not None  # begin() came before
        if turn.scorer is None:
            from flows.stages.duplicates import find_duplicates

            self._known.duplicates |= find_duplicates(self._home, turn.passing, self._progress)
            return len(turn.passing)
        part = turn.missing[unit * UNIT : (unit + 1) * UNIT]
        self._unreadable |= _score_unit(self._home, turn.scorer, part, turn.pace)
        return len(part)

    def finish(self) -> LookSummary:
        """Write the evidence anew of what has something new to be said of, and judge."""
        self._end_turn()
        pairs = _record(self._home, self._passing, self._known, self._progress)
        decided = decide(self._home, self._progress)
        stood_for = sum(found.representative != content for content, found in self._known.duplicates.items())
        return LookSummary(len(self._contents), tuple(self._looked), len(self._unreadable), stood_for, pairs, decided)

    def _end_turn(self) -> None:
        """Know what a mechanism's units have measured."""
        if (turn := self._turn) is None:
            return
        if (scorer := turn.scorer) is not None:
            with self._home.ledger(readonly=True) as ledger:
                self._known.add(by(scorer), scorer.names, ledger.query(_SCORES, [scorer.digest]))
        seconds = time.monotonic() - turn.started
        self._looked.append(Looked(turn.mechanism, len(turn.passing), len(turn.missing), seconds))
        self._turn = None

    def _still_passing(self) -> list[str]:
        """The contents that nothing known so far keeps out: a model is not asked of what a cheaper look has settled."""
        rules, now = self._home.ruleset, utc_now()
        passing = []
        for content in self._contents:
            seen = _alone(content, self._known, now)
            judged = [judge(rules, name, seen, now) for name in self.mechanisms]
            if all(j.verdict in (None, Verdict.ALLOW) or j.reason.code == "not-observed" for j in judged):
                passing.append(content)
        return passing


# ── what is to be looked at ────────────────────────────────────────────────────────────────────────────────────────


def _settled(home: Home, progress: Progress) -> tuple[pa.Table, list[str]]:
    """The pairs that every cheaper rule lets pass as of now, with their contents; and those of these contents whose
    pixels are kept and that nobody asked to go. Asked once a run: it is a tenth of one in which nothing is new.
    """
    from curation.pixel_store import PixelStore

    with home.ledger() as ledger:
        judge_pairs(ledger, home.ruleset, home, progress)
        passing = ledger.query_arrow(_PASSING, {"looked": list(LOOKED)})
        tombstones = home.tombstones(ledger)
    found = sorted(sha for sha in passing.column("content_sha256").unique().to_pylist() if sha is not None)
    kept = frozenset(PixelStore(home.pixels_path).keys())
    return passing, [sha for sha in found if sha in kept and not tombstones.covers_content(sha)]


def _alone(content: str, known: Known, now: datetime) -> Evidence:
    """A picture by itself, as far as it has been looked at."""
    return Evidence(
        page_url=None,
        image_url="",
        observed_at=now,
        observer=OBSERVER,
        observer_version="",
        content_sha256=content,
        scores=known.scores(content),
        duplicate=known.duplicates.get(content),
    )


# ── scores ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def scorer_of(home: Home, mechanism: str) -> Scorer:
    """What measures for this rule, as custody.toml names it. Raises ConfigurationError."""
    if mechanism == QUALITY:
        from curation.scores import QualityScorer

        return QualityScorer()
    from curation.nsfw import NsfwScorer

    settings = home.settings.images
    if not settings.nsfw_model:
        return NsfwScorer()
    return NsfwScorer(home.path / settings.nsfw_model, settings.nsfw_sha256)


def _unscored(home: Home, scorer: Scorer, contents: Sequence[str]) -> list[str]:
    """Those of which this very scorer has not said all it says."""
    with home.ledger(readonly=True) as ledger:
        said = Counter(sha for sha, name, _ in ledger.query(_SCORES, [scorer.digest]) if name in scorer.names)
    return [sha for sha in contents if said[sha] < len(scorer.names)]


def _score_unit(home: Home, scorer: Scorer, contents: Sequence[str], pace: Pace) -> set[str]:
    """Score the contents of one unit and append what was measured; returns those that cannot be decoded."""
    now = utc_now().replace(tzinfo=None)
    measured = list(_scored(home, scorer, contents, pace))
    rows = [
        {"content_sha256": content, "name": name, "value": value, "model_digest": scorer.digest, "observed_at": now}
        for content, values in measured
        for name, value in zip(scorer.names, values, strict=True)
    ]
    if rows:
        with home.ledger() as ledger:
            tombstones = home.tombstones(ledger)  # what was removed while it was being measured leaves no row
            rows = [row for row in rows if not tombstones.covers_content(str(row["content_sha256"]))]
            head, _ = ledger.head()  # the same contents may be measured once more, of other pixels
            ledger.append("score", rows, key=f"look/{head}/{scorer.digest[:16]}/{unit_id(*contents)}")
    return set(contents) - {content for content, _ in measured}


def _scored(home: Home, scorer: Scorer, contents: Sequence[str], pace: Pace) -> Iterator[tuple[str, tuple[float, ...]]]:
    """(content, its scores) of those that can be decoded; batches go to as many threads as pictures are decoded by."""
    from curation.images import DecodeError, decode
    from curation.pixel_store import PixelStore

    store = PixelStore(home.pixels_path)

    def score(bodies: Sequence[tuple[str, bytes]]) -> list[tuple[str, tuple[float, ...]]]:
        there, pictures = [], []
        for content, body in bodies:
            try:
                pictures.append(decode(body))
            except DecodeError:
                continue  # it stays without a score, which keeps it out
            there.append(content)
        return list(zip(there, scorer.score(pictures), strict=True)) if there else []

    workers = home.settings.images.decode_workers
    batches = (list(_bodies(store, part)) for part in _parts(contents, BATCH))
    with ThreadPoolExecutor(workers) as threads:
        # A few batches ahead, so that memory does not grow with the unit.
        waiting = [(batch, threads.submit(score, batch)) for batch in itertools.islice(batches, 2 * workers)]
        while waiting:
            batch, future = waiting.pop(0)
            yield from future.result()
            pace.add(len(batch))
            waiting += [(batch, threads.submit(score, batch)) for batch in itertools.islice(batches, 1)]


def _bodies(store: PixelStore, contents: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(content, its kept picture) of those that are there: one that was removed meanwhile is not."""
    for sha in contents:
        with suppress(InputError):
            yield sha, store.get(sha)


def by(scorer: Scorer) -> str:
    """The scorer as evidence names it."""
    return f"{scorer.id}@{scorer.digest[:16]}"


# ── evidence ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(home: Home, passing: pa.Table, known: Known, progress: Progress) -> int:
    """Write the evidence anew of every pair whose picture has something to be said of that its evidence lacks.

    Where the ruleset asks for languages, that of its text as well. What a removal has erased meanwhile is passed over.
    """
    languages = bool(home.ruleset.text.languages)
    with home.ledger(readonly=True) as ledger:
        parts = passing.to_batches(max_chunksize=COMPARED_AT_ONCE)
        outdated = [pair for part in parts for pair in _outdated(ledger, part, known, languages)]
    done = 0
    for part in _parts(outdated, PAIRS_AT_ONCE):
        with home.ledger() as ledger:
            evidence = newest_evidence(ledger, part)
            tombstones = home.tombstones(ledger)
            written = [
                (pair, _named_by_nobody(looked_at(evidence[pair], known, languages), tombstones))
                for pair in part
                if pair in evidence
            ]
            head, _ = ledger.head()
            ledger.append_many(evidence_batches(ledger, written, "look", f"look/{head}/{unit_id(*part)}"))
        done += len(part)
        progress(done, len(outdated), "look: evidence")
    return done


def _named_by_nobody(evidence: Evidence, tombstones: Tombstones) -> Evidence:
    """The evidence, as not compared where what stood for it was removed since it was compared."""
    found = evidence.duplicate
    if found is None or not tombstones.covers_content(found.representative):
        return evidence
    return replace(evidence, duplicate=None)


def looked_at(evidence: Evidence, known: Known, languages: bool = False) -> Evidence:
    """The evidence with what is known of its picture; what others have measured stays."""
    content = evidence.content_sha256 or ""
    new = known.scores(content)
    names = {score.name for score in new}
    scores = (*(score for score in evidence.scores if score.name not in names), *new)
    duplicate = known.duplicates.get(content, evidence.duplicate)
    seen = replace(evidence, scores=scores, duplicate=duplicate, observer=OBSERVER)
    if languages and seen.alt is not None and seen.text_language is None:
        from curation.language import detect

        return replace(seen, text_language=detect(seen.alt))
    return seen


def _outdated(ledger: Ledger, pairs: pa.RecordBatch, known: Known, languages: bool) -> Iterator[str]:
    """The pairs whose newest evidence lacks something, or says of their pictures something else than is known."""
    keys, contents = (pairs.column(name).to_pylist() for name in ("pair_key", "content_sha256"))
    said = {pair: stored for pair, *stored in ledger.query(_SAID, [keys])}
    for pair, content in zip(keys, contents, strict=True):
        if pair not in said:
            continue  # erased since
        scores, duplicate, lacks_language = said[pair]
        measured = {Score(**score) for score in _read(scores, [])}
        found = DuplicateOf(**_read(duplicate, {})) if duplicate is not None else None
        if (
            not measured.issuperset(known.scores(content))
            or known.duplicates.get(content, found) != found
            or (languages and lacks_language)
        ):
            yield pair


def _read(text: str | None, default: Any) -> Any:
    return default if text is None else orjson.loads(text)


def _parts(values: Sequence[Any], size: int) -> Iterator[Any]:
    return (values[start : start + size] for start in range(0, len(values), size))
