"""What removal requests concern, what reviewers said of it, and which rows of the ledger are about it.

Requests arrive by URL, page, domain, content, sample, picture, name or text; a removal acts on content: every
occurrence of equal bytes is matched. Names and texts match where they are equal but for case, width and white space;
where a text only contains them it is a proposal, and so is a near duplicate: not taken until a reviewer accepts it.

A match stands in `removal_match`, a row each time that its state changes, the newest counts: `matched` (exact: taken
unless a reviewer rejects it), `likely` (verified to show the same: held, not taken unless accepted), `proposed`
(neither unless accepted), `approved` or `rejected` (a reviewer's answer). The view `removal_taken` holds what is taken.
"""

# ruff: noqa: S608 - table and column names of ours; values are parameters
from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from policy.errors import InputError
from policy.ledger import Ledger
from policy.names import HEARD_KINDS, NAMING_FIELDS
from policy.personal import SPENT
from policy.provenance import canonical_json
from policy.removals import NAMED_KINDS, folded

MATCHED, LIKELY, PROPOSED, APPROVED, REJECTED = "matched", "likely", "proposed", "approved", "rejected"
TAKEN: Final = frozenset({MATCHED, APPROVED})
HELD: Final = frozenset({MATCHED, LIKELY, APPROVED})
SAME_CONTENT: Final = "same-content"
MIN_CONTAINED_CHARS: Final = 3  # a shorter name is in every other text
MAX_PROPOSED_TEXTS: Final = 1_000  # for one request, those that are most like it


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence that a request concerns; keys in hex, None where it has none (never fetched, never captioned).

    `method`: the kind that was named, "same-content" for another occurrence of equal bytes, "…-contains" for a text
    that the named one is part of, or "near-…" for one of a near duplicate, with how that was found; `score` then is
    the share of the text, or one less the distance. `state`: as the module says.
    """

    pair_key: str | None
    url_key: str | None
    content_sha256: str | None
    sample_key: str | None
    method: str
    score: float = 1.0
    state: str = MATCHED

    @property
    def keys(self) -> tuple[str | None, str | None, str | None, str | None]:
        """What makes it one match."""
        return self.pair_key, self.url_key, self.content_sha256, self.sample_key

    @property
    def group(self) -> str | None:
        """What a reviewer answers for as one: equal bytes, or an occurrence whose bytes nobody has. None: erased."""
        return self.content_sha256 or self.pair_key or self.url_key or self.sample_key

    @property
    def sample(self) -> str | None:
        """What counts as one sample."""
        return self.sample_key or self.group


# ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Each finds (removal, pair_key, url_key, content_sha256, score) of what `asked` names of its kind; keys may be NULL.
_NAMED: Final[Mapping[str, str]] = {
    "page_url": """
        SELECT removal, pair_key, url_key, NULL, 1.0 FROM occurrence
            JOIN asked ON kind = 'page_url' AND page_url = value""",
    "image_url": """
        SELECT removal, pair_key, url_key, NULL, 1.0 FROM occurrence
            JOIN asked ON kind = 'image_url' AND image_url = value
        UNION SELECT removal, NULL, url_key, NULL, 1.0 FROM (SELECT url, url_key FROM "fetch" WHERE kind = 'image')
            JOIN asked ON kind = 'image_url' AND url = value
        UNION SELECT removal, NULL, url_key, NULL, 1.0
            FROM (SELECT final_url, url_key FROM "fetch" WHERE kind = 'image')
            JOIN asked ON kind = 'image_url' AND final_url = value""",
    # The host, with or without its port, or one below it; a URL in the ledger is canonical, without userinfo.
    "domain": r"""
        WITH addresses AS (
            SELECT pair_key, url_key, regexp_extract(url, '^https?://([^/?#]+)', 1) AS place
            FROM occurrence, LATERAL (SELECT unnest([page_url, image_url]) AS url) WHERE url IS NOT NULL
        ), under AS (
            SELECT removal, place FROM (SELECT DISTINCT place, regexp_replace(place, ':[0-9]+$', '') AS host
                FROM addresses)
            JOIN asked ON kind = 'domain' AND (value IN (place, host) OR ends_with(place, '.' || value)
                OR ends_with(host, '.' || value))
        )
        SELECT removal, pair_key, url_key, NULL, 1.0 FROM addresses JOIN under USING (place)""",
    "content": "SELECT removal, NULL, NULL, value, 1.0 FROM asked WHERE kind = 'content'",
    "picture": "SELECT removal, NULL, NULL, value, 1.0 FROM asked WHERE kind = 'picture'",
    "sample_key": """
        SELECT removal, pair_key, NULL, if(pair_key IS NULL, content_sha256, NULL), 1.0 FROM (
            SELECT sample_key, pair_key, content_sha256 FROM caption
            UNION SELECT sample_key, pair_key, content_sha256 FROM slot
        ) JOIN asked ON kind = 'sample_key' AND sample_key = value""",
}


def _claims(kind: str) -> str:
    """(said, pair_key, content_sha256) of licence claims' creators and credits, and of the values of one kind."""
    return f"""
        SELECT unnest([claim.creator, claim.credit, if(claim.kind = '{kind}', claim.value, NULL)]) AS said,
            pair_key, content_sha256
        FROM (
            SELECT pair_key, NULL AS content_sha256, unnest(from_json(hints_json, '{_CLAIM}')) AS claim
            FROM occurrence WHERE hints_json LIKE '[{{%'
            UNION ALL
            SELECT pair_key, content_sha256, unnest(from_json(body_json->'$.licence_claims', '{_CLAIM}')) AS claim
            FROM evidence WHERE body_json LIKE '%"licence_claims":[{{%'
        )"""


_CLAIM: Final = '[{"value":"VARCHAR","kind":"VARCHAR","creator":"VARCHAR","credit":"VARCHAR"}]'
_FIELD: Final = '[{"name":"VARCHAR","value":"VARCHAR"}]'

# Each gives (said, pair_key, content_sha256): a text, and what it is said of.
_SAID: Final[Mapping[str, str]] = {
    "text": """
        SELECT alt AS said, pair_key, NULL AS content_sha256 FROM occurrence
        UNION ALL SELECT caption, pair_key, content_sha256 FROM caption
        UNION ALL SELECT caption, pair_key, content_sha256 FROM slot""",
    "creator": f"""
        SELECT creator AS said, pair_key, content_sha256 FROM attribution JOIN slot USING (dataset, ordinal)
        UNION ALL {_claims("rights")}
        UNION ALL SELECT field.value, pair_key, content_sha256 FROM (
            SELECT pair_key, content_sha256, unnest(from_json(body_json->'$.embedded.fields', '{_FIELD}')) AS field
            FROM evidence WHERE body_json LIKE '%"fields":[{{%'
        ) WHERE field.name IN ({", ".join(f"'{name}'" for name in NAMING_FIELDS)})""",
    "licensor": _claims("terms"),
}

_MATCH: Final = """
    WITH asked AS (
        SELECT unnest($removals::VARCHAR[]) AS removal, unnest($kinds::VARCHAR[]) AS kind,
            unnest($values::VARCHAR[]) AS value
    ),
    heard AS (
        SELECT unnest($heard_removals::VARCHAR[]) AS removal, unnest($heard_texts::VARCHAR[]) AS said,
            unnest($heard_scores::VARCHAR[])::DOUBLE AS score
    ),
    named(removal, pair_key, url_key, content_sha256, score) AS (
        {named}
    ),
    -- Which pair shows which bytes: found under its URL, or said so when it was captioned or sealed; a row may come
    -- more than once, since to tell them all apart costs more than all the rest.
    carried AS (
        SELECT o.pair_key, o.url_key, c.content_sha256
        FROM occurrence o LEFT JOIN content c ON c.url_key = o.url_key WHERE o.pair_key IS NOT NULL
        UNION ALL SELECT NULL, url_key, content_sha256 FROM content WHERE content_sha256 IS NOT NULL
        UNION ALL SELECT pair_key, NULL, content_sha256 FROM evidence WHERE content_sha256 IS NOT NULL
        UNION ALL SELECT pair_key, NULL, content_sha256 FROM caption WHERE content_sha256 IS NOT NULL
        UNION ALL SELECT pair_key, NULL, content_sha256 FROM slot WHERE content_sha256 IS NOT NULL
    ),
    direct AS (
        SELECT removal, score, carried.* FROM carried JOIN named ON carried.pair_key = named.pair_key
        UNION SELECT removal, score, carried.* FROM carried JOIN named ON carried.url_key = named.url_key
        UNION SELECT removal, score, carried.* FROM carried
            JOIN named ON carried.content_sha256 = named.content_sha256
    ),
    concerned AS (  -- one step over equal bytes, never a chain
        SELECT removal, pair_key, url_key, content_sha256, score, true AS is_direct FROM direct
        {spread}
    ),
    placed AS (  -- what is known without its URL or pair adds nothing where the whole occurrence is known
        SELECT
            removal,
            pair_key,
            coalesce(url_key, max(url_key) OVER (PARTITION BY removal, pair_key, content_sha256)) AS url_key,
            content_sha256,
            bool_or(is_direct) AS is_direct,
            max(score) AS score
        FROM concerned GROUP BY removal, pair_key, url_key, content_sha256
        QUALIFY pair_key IS NOT NULL
            OR max(pair_key) OVER (PARTITION BY removal, url_key, content_sha256) IS NULL
    ),
    samples AS (
        SELECT sample_key, pair_key, content_sha256 FROM caption WHERE sample_key IS NOT NULL
        UNION SELECT sample_key, pair_key, content_sha256 FROM slot WHERE sample_key IS NOT NULL
    )
    SELECT placed.removal, placed.pair_key, placed.url_key, placed.content_sha256, samples.sample_key,
        bool_or(is_direct), max(score)
    FROM placed LEFT JOIN samples
        ON samples.content_sha256 = placed.content_sha256
        AND (samples.pair_key = placed.pair_key OR placed.pair_key IS NULL)
    GROUP BY placed.removal, placed.pair_key, placed.url_key, placed.content_sha256, samples.sample_key
    ORDER BY ALL
"""
_TYPED: Final = "SELECT ''::VARCHAR, ''::VARCHAR, ''::VARCHAR, ''::VARCHAR, 0::DOUBLE WHERE false"
_SPREAD: Final = """
        UNION
        SELECT removal, carried.*, 1.0, false FROM carried
        JOIN (SELECT DISTINCT removal, content_sha256 FROM direct) AS direct
            ON carried.content_sha256 = direct.content_sha256"""


def match(ledger: Ledger, named_kind: str, value: str | None) -> tuple[Match, ...]:
    """What a request concerns: the occurrences it names and every other occurrence of the same bytes, then proposals.

    `value`: a canonical URL, a host name (with or without port), a sha256 or sample key in hex, a name or a text; None:
    of a person, whom no column names. What the ledger never saw matches nothing here, and is kept out by its tombstone
    all the same. Raises `InputError`.
    """
    return match_many(ledger, [("", named_kind, value)])[""]


def match_many(ledger: Ledger, asked: Sequence[tuple[str, str, str | None]]) -> dict[str, tuple[Match, ...]]:
    """What each of many requests concerns, given as (removal, kind, value), in a pass over the ledger for all of them.

    A text that contains a name, or another text, is proposed with the share that is named, the most alike
    `MAX_PROPOSED_TEXTS` texts for a request. Raises `InputError`.
    """
    for _, kind, _ in asked:
        if kind not in NAMED_KINDS:
            raise InputError(f"cannot look for a {kind}", remedy=f"Name one of {', '.join(NAMED_KINDS)}")
    kinds = {removal: kind for removal, kind, _ in asked}
    wanted = [(removal, kind, value) for removal, kind, value in asked if value]
    plain = [(r, k, v) for r, k, v in wanted if k in _NAMED]
    heard = list(_heard(ledger, [(r, k, v) for r, k, v in wanted if k in HEARD_KINDS]))
    granted = list(_granted(ledger, [(r, v) for r, k, v in wanted if k == "licensor"]))
    found: dict[str, dict[tuple[str | None, ...], Match]] = {removal: {} for removal in kinds}
    for exact in (True, False):
        named = [*(plain if exact else ()), *((r, k, v) for r, k, v, whole in granted if whole is exact)]
        said = [one for one in heard if one.is_whole is exact]
        for row in _located(ledger, named, said, spread=exact):
            removal, pair, url, content, sample, is_direct, score = row
            kind = kinds[removal]
            method = (kind if is_direct else SAME_CONTENT) if exact else f"{kind}-contains"
            if (key := (pair, url, content, sample)) not in found[removal]:
                state = MATCHED if exact else PROPOSED
                found[removal][key] = Match(*key, method, 1.0 if exact else round(score, 4), state)
    return {removal: tuple(matches.values()) for removal, matches in found.items()}


def match_heard(ledger: Ledger, removal_of: Callable[[str, str], str | None]) -> dict[str, tuple[Match, ...]]:
    """What every name and text of the ledger, (kind, text), is said of whose removal `removal_of` knows; by removal.

    For names of which only tokens are left. Equal bytes go with it, as in `match_many`; `Match.method` is the kind of
    which the text was found first.
    """
    heard, kinds = list[_Heard](), dict[str, str]()
    for kind in HEARD_KINDS:
        for (text,) in ledger.query(_DISTINCT.format(said=_SAID[kind])):
            if (removal := removal_of(kind, text)) is not None:
                heard.append(_Heard(removal, kind, text, 1.0))
                kinds.setdefault(removal, kind)
    givers = ledger.query("SELECT DISTINCT giver FROM consent WHERE state = 'given' AND giver IS NOT NULL")
    known = [(by, giver) for (giver,) in givers if (by := removal_of("licensor", giver)) is not None]
    granted = [(by, kind, scope) for by, kind, scope, whole in _granted(ledger, known) if whole]
    found: dict[str, dict[Match, None]] = {}
    for removal, pair, url, content, sample, is_direct, _ in _located(ledger, granted, heard, spread=True):
        method = kinds.get(removal, "licensor") if is_direct else SAME_CONTENT
        found.setdefault(removal, {})[Match(pair, url, content, sample, method)] = None
    return {removal: tuple(matches) for removal, matches in found.items()}


_DISTINCT: Final = "SELECT DISTINCT said FROM ({said}) WHERE said IS NOT NULL AND said <> ''"


@dataclass(frozen=True, slots=True)
class _Heard:
    """A text of the ledger that is what a request names, or contains it. `kind`: where it was said."""

    removal: str
    kind: str
    said: str
    score: float

    @property
    def is_whole(self) -> bool:
        return self.score == 1.0


def _located(
    ledger: Ledger, named: Sequence[tuple[str, str, str]], heard: Sequence[_Heard], *, spread: bool
) -> list[tuple[str, str | None, str | None, str | None, str | None, bool, float]]:
    if not named and not heard:
        return []
    parts = [_TYPED, *(_NAMED[kind] for kind in _NAMED if any(kind == k for _, k, _ in named))]
    for kind in HEARD_KINDS:
        if any(kind == one.kind for one in heard):
            parts.append(
                "SELECT removal, pair_key, NULL, content_sha256, score"
                f" FROM ({_SAID[kind]}) AS texts JOIN heard USING (said)"
            )
    sql = _MATCH.format(named=" UNION ".join(f"({part})" for part in parts), spread=_SPREAD if spread else "")
    return ledger.query(
        sql,
        {
            "removals": [removal for removal, _, _ in named],
            "kinds": [kind for _, kind, _ in named],
            "values": [value for _, _, value in named],
            "heard_removals": [one.removal for one in heard],
            "heard_texts": [one.said for one in heard],
            "heard_scores": [str(one.score) for one in heard],
        },
    )


def _heard(ledger: Ledger, asked: Sequence[tuple[str, str, str]]) -> Iterator[_Heard]:
    """The texts of the ledger that are what is asked for, or contain it, compared as people read them."""
    for kind in HEARD_KINDS:
        if not (wanted := [(removal, folded(value)) for removal, k, value in asked if k == kind]):
            continue
        said = ledger.query(_DISTINCT.format(said=_SAID[kind]))
        texts = [(text, folded(text)) for (text,) in said]
        for removal, value in wanted:
            alike = [_Heard(removal, kind, text, share) for text, plain in texts if (share := likeness(value, plain))]
            whole = [one for one in alike if one.is_whole]
            partial = sorted((one for one in alike if not one.is_whole), key=lambda one: (-one.score, one.said))
            yield from (*whole, *partial[:MAX_PROPOSED_TEXTS])


def _granted(ledger: Ledger, asked: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str, bool]]:
    """(removal, kind, value, whole) of what was granted by those who are asked for: the scopes of their grants."""
    if not asked:
        return
    rows = ledger.query(
        "SELECT DISTINCT giver, scope_kind, scope FROM consent"
        " WHERE state = 'given' AND giver IS NOT NULL AND scope IS NOT NULL ORDER BY ALL"
    )
    kinds = {"url": ("image_url", "page_url"), "domain": ("domain",), "sha256": ("content",)}
    for removal, value in asked:
        for giver, scope_kind, scope in rows:
            if share := likeness(folded(value), folded(giver)):
                yield from ((removal, kind, scope, share == 1.0) for kind in kinds.get(scope_kind, ()))


def likeness(named: str, text: str) -> float:
    """1 where two folded texts are equal; the share that is named where it stands in the other as words; else 0."""
    if named == text:
        return 1.0
    if len(named) < MIN_CONTAINED_CHARS or named not in text:
        return 0.0
    # Letters without case are of scripts most of which put no spaces between words.
    before = "" if unicodedata.category(named[0]) == "Lo" else r"(?<!\w)"
    behind = "" if unicodedata.category(named[-1]) == "Lo" else r"(?!\w)"
    return len(named) / len(text) if re.search(before + re.escape(named) + behind, text) else 0.0


# ── on record ──────────────────────────────────────────────────────────────────────────────────────────────────────


def record_matches(ledger: Ledger, removal: str, matches: Sequence[Match], *, now: datetime) -> bool:
    """Write down matches that are not on record yet, whatever their state became; False: there are none."""
    return record_matches_of(ledger, {removal: matches}, now=now)


def record_matches_of(ledger: Ledger, found: Mapping[str, Sequence[Match]], *, now: datetime) -> bool:
    """Write down what was matched for many requests, in one batch.

    What a reviewer said of a group holds for what is found of it later.
    """
    known: set[tuple[str | None, ...]] = set()
    answered: dict[tuple[str, str | None], str] = {}
    for removal, matches in matches_of_all(ledger, sorted(found)).items():
        known |= {(removal, *one.keys) for one in matches}
        answered |= {(removal, one.group): one.state for one in matches if one.state in (APPROVED, REJECTED)}
    rows = [
        {
            "removal": removal,
            **dataclasses.asdict(one),
            "state": answered.get((removal, one.group), one.state),
            "matched_at": now,
        }
        for removal, matches in sorted(found.items())
        for one in matches
        if (removal, *one.keys) not in known
    ]
    if not rows:
        return False
    plain = [{name: value for name, value in row.items() if name != "matched_at"} for row in rows]
    digest = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
    return ledger.append("removal_match", rows, key=f"matched:{digest[:32]}")


def record_state(ledger: Ledger, removal: str, matches: Sequence[Match], state: str, *, now: datetime) -> int:
    """Take matches that are on record, or new ones, to a state; how many were in another one."""
    keys = {one.keys: one for one in matches}
    known = {one.keys: one for one in matches_of(ledger, removal)}
    rows = [
        {"removal": removal, **dataclasses.asdict(known.get(key, one)), "state": state, "matched_at": now}
        for key, one in keys.items()
        if key not in known or known[key].state != state
    ]
    if rows:
        ledger.append("removal_match", rows, key=f"{state}:{removal}:{ledger.head()[0]}")
    return len(rows)


def matches_of(ledger: Ledger, removal: str) -> tuple[Match, ...]:
    """Every match of a request with its newest state, in the order in which they came.

    Once they are erased they are told apart no more: then as many as were taken, without their keys.
    """
    return matches_of_all(ledger, [removal]).get(removal, ())


def matches_of_all(ledger: Ledger, removals: Sequence[str]) -> dict[str, tuple[Match, ...]]:
    """`matches_of` each of many requests; one without matches is not among them."""
    found: dict[str, list[Match]] = {}
    erased: set[str] = set()
    for removal, *values, gone in ledger.query(_NEWEST, {"removals": list(removals)}):
        pair, url, content, sample, method, score, state = values
        found.setdefault(removal, []).append(Match(pair, url, content, sample, method, score, state))
        if gone:
            erased.add(removal)
    for removal in erased:
        # A match that a reviewer approved has two rows, and both are without keys now.
        approved = [one for one in found[removal] if one.state == APPROVED]
        found[removal] = approved or [one for one in found[removal] if one.state == MATCHED]
    return {removal: tuple(matches) for removal, matches in found.items()}


_NEWEST: Final = """
SELECT removal, pair_key, url_key, content_sha256, sample_key, method, score, state, erased FROM (
    SELECT *, erased_by IS NOT NULL AS erased,
        min((batch_seq << 31) | row_no) OVER same AS place,
        row_number() OVER (same ORDER BY batch_seq DESC, row_no DESC) AS age
    FROM removal_match WHERE list_contains($removals::VARCHAR[], removal)
    WINDOW same AS (
        PARTITION BY removal, pair_key, url_key, content_sha256, sample_key,
            if(erased_by IS NULL, NULL, (batch_seq << 31) | row_no)
    )
) WHERE age = 1 ORDER BY place
"""

Answer = Literal["approve", "reject"]


def record_review(
    ledger: Ledger, removal: str, answers: Mapping[str, tuple[Answer, str]], *, by_whom: str, now: datetime
) -> int:
    """Write down a reviewer's answers, by `Match.group`; how many matches have another state now.

    `answers`: approve or reject, and why; a rejection needs a reason. An answer that stands already is not written
    again. Raises `InputError`: nothing of it is written.
    """
    matches = [one for one in matches_of(ledger, removal) if one.group is not None]
    groups = {one.group for one in matches}
    if strangers := set(answers) - groups:
        raise InputError(
            f"{len(strangers)} of these are no matches of the request",
            where=min(strangers),
            remedy=f"`custody removal show {removal}` lists them",
        )
    states: dict[str, str] = {"approve": APPROVED, "reject": REJECTED}
    by_answer: dict[tuple[str, str], list[Match]] = {}
    for one in matches:
        if (answer := answers.get(one.group or "")) is None:
            continue
        verdict, reason = answer
        if verdict not in states:
            raise InputError(f"{verdict!r} is no answer", where=one.group or "", remedy="Say approve or reject")
        if verdict == "reject" and not reason.strip():
            raise InputError("a rejection carries a reason", where=one.group or "")
        if one.state != states[verdict]:
            by_answer.setdefault((verdict, reason.strip()), []).append(one)
    if not by_answer:
        return 0
    [(before,)] = ledger.query("SELECT count(*) FROM removal_review WHERE removal = ?", [removal])
    reviews: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    # The matches of an answer are those that came to their state at its very microsecond.
    for number, ((said, reason), answered) in enumerate(sorted(by_answer.items(), key=lambda item: item[0])):
        at = now + timedelta(microseconds=number)
        review = {"verdict": said, "matches": len(answered), "by_whom": by_whom, "reason": reason or None}
        reviews.append({"removal": removal, **review, "reviewed_at": at})
        rows += [
            {"removal": removal, **dataclasses.asdict(one), "state": states[said], "matched_at": at} for one in answered
        ]
    key = f"reviewed:{removal}:{before}"
    ledger.append_many([("removal_review", reviews, key), ("removal_match", rows, key)])
    return len(rows)


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer's answer: what was said of how many matches, by whom, why, when."""

    verdict: str
    matches: int
    by_whom: str | None
    reason: str | None
    reviewed_at: datetime


def reviews(ledger: Ledger, removal: str) -> tuple[Review, ...]:
    """What reviewers said of a request, in the order in which they did."""
    rows = ledger.query(
        "SELECT verdict, matches, by_whom, reason, reviewed_at FROM removal_review WHERE removal = ? "
        "ORDER BY batch_seq, row_no",
        [removal],
    )
    return tuple(Review(*row) for row in rows)


def reviewed(ledger: Ledger, removals: Sequence[str]) -> frozenset[str]:
    """Those of these requests of which a reviewer said anything."""
    rows = ledger.query(
        "SELECT DISTINCT removal FROM removal_review WHERE list_contains($removals::VARCHAR[], removal)",
        {"removals": list(removals)},
    )
    return frozenset(removal for (removal,) in rows)


# ── what goes ──────────────────────────────────────────────────────────────────────────────────────────────────────

# What the matches of the removals `$removals` name, each for the first removal that does.
_GONE: Final = """
    SELECT {column} AS value, min(removal) AS removal FROM removal_taken
    WHERE list_contains($removals::VARCHAR[], removal) AND {column} IS NOT NULL GROUP BY {column}"""
# The evidence of a copy names what stood for it.
_STOOD_FOR: Final = "json_extract_string(body_json, '$.duplicate.representative')"


def erasure_selections() -> Mapping[str, str]:
    """What `Ledger.erase_rows` empties for removals: every row about their matches. Parameter `$removals`.

    The HTML of pages that showed a match goes, since its address and alt text stand in it; what was observed of such a
    page for other pictures is evidence of its own, and stays. So does what was asked of the page, unless no other
    picture of it stays, and what its origin says of itself. Texts elsewhere that came from an erased alt text (captions
    of other pictures, the caption bank) are lineage and are handled there.
    """

    def rows(table: str, *columns: str, where: str = "true", **others: str) -> str:
        """(batch_seq, row_no, removal) of a table's rows that hold one of the matches' values in one of the columns.

        `others`: an expression over the table -> the column of removal_match that it is compared with.
        """
        compared = {**{column: column for column in columns}, **others}
        return " UNION ALL ".join(
            f'SELECT t.batch_seq, t.row_no, gone.removal FROM (SELECT *, {expression} AS compared FROM "{table}"'
            f" WHERE {where}) t JOIN ({_GONE.format(column=column)}) gone ON t.compared = gone.value"
            for expression, column in compared.items()
        )

    evidence = rows("evidence", "pair_key", "content_sha256", **{_STOOD_FOR: "content_sha256"})
    slots = rows("slot", "sample_key", "content_sha256", "pair_key")

    def with_evidence(table: str) -> str:
        """Rows about a matched pair, or that rest on evidence which goes."""
        return (
            f"{rows(table, 'pair_key')} UNION ALL SELECT t.batch_seq, t.row_no, gone.removal FROM {table} t JOIN ("
            f"SELECT e.evidence_id, min(g.removal) AS removal FROM evidence e JOIN ({evidence}) g"
            " USING (batch_seq, row_no) GROUP BY e.evidence_id) gone ON t.evidence_id = gone.evidence_id"
        )

    spent = f"removal IN (SELECT removal FROM removal_event WHERE state IN ({', '.join(map(repr, SPENT))}))"
    gone_pairs = _GONE.format(column="pair_key")
    shown = (
        f"SELECT o.page_url, min(gone.removal) AS removal FROM occurrence o JOIN ({gone_pairs}) gone"
        " ON o.pair_key = gone.value WHERE o.page_url IS NOT NULL GROUP BY o.page_url"
    )
    # Once by the address that was asked and once by the one that answered: with one condition for both no hash join.
    pages = " UNION ALL ".join(
        f'SELECT f.batch_seq, f.row_no, f.body_sha256, shown.page_url, shown.removal FROM "fetch" f'
        f" JOIN ({shown}) shown ON shown.page_url = f.{column} WHERE f.kind = 'page'"
        for column in ("url", "final_url")
    )
    deserted = (
        f"SELECT batch_seq, row_no, removal FROM ({pages}) p WHERE NOT EXISTS (SELECT 1 FROM occurrence o"
        f" WHERE o.page_url = p.page_url AND o.pair_key NOT IN (SELECT value FROM ({gone_pairs})))"
    )

    def own(table: str) -> str:
        return f"SELECT batch_seq, row_no, removal FROM {table} WHERE list_contains($removals::VARCHAR[], removal)"

    return {
        "document": (
            f"SELECT d.batch_seq, d.row_no, min(p.removal) AS removal FROM document d JOIN ({pages}) p"
            " ON p.body_sha256 = d.body_sha256 GROUP BY d.batch_seq, d.row_no"
        ),
        "fetch": " UNION ALL ".join((rows("fetch", "url_key", where="kind = 'image'"), deserted)),
        "occurrence": rows("occurrence", "pair_key", "url_key"),
        "content": rows("content", "content_sha256", "url_key"),
        "score": rows("score", "content_sha256"),
        "duplicate": rows("duplicate", "content_sha256", representative_sha256="content_sha256"),
        "evidence": evidence,
        "caption": rows("caption", "sample_key", "content_sha256", "pair_key"),
        "signal": with_evidence("signal"),
        "decision": with_evidence("decision"),
        "reservation": rows("reservation", "pair_key", "url_key"),
        "slot": slots,
        "attribution": (
            "SELECT t.batch_seq, t.row_no, gone.removal FROM attribution t JOIN (SELECT s.dataset, s.ordinal,"
            f" min(g.removal) AS removal FROM slot s JOIN ({slots}) g USING (batch_seq, row_no) GROUP BY ALL) gone"
            " USING (dataset, ordinal)"
        ),
        "removal": own("removal"),
        # Who asked for the same before, in vain, left keys of it as well.
        "removal_match": " UNION ALL ".join(
            (
                own("removal_match"),
                rows("removal_match", "pair_key", "url_key", "content_sha256", "sample_key", where=spent),
            )
        ),
        "removal_proof": own("removal_proof"),
    }
