"""What a removal request concerns, and which rows of the ledger are about it.

Requests arrive by URL, page, domain, content or sample; a removal acts on content: every occurrence of equal bytes is
matched.
"""

# ruff: noqa: S608 - table and column names of ours; values are parameters
from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from policy.errors import InputError
from policy.ledger import Ledger
from policy.provenance import canonical_json
from policy.removals import NAMED_KINDS


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence that a request concerns; keys in hex, None where it has none (never fetched, never captioned).

    `method`: the kind that was named, "same-content" for another occurrence of equal bytes, or "near-…" for one of a
    near duplicate that the approval took in, with how that was found; `score` then is one less its distance.
    """

    pair_key: str | None
    url_key: str | None
    content_sha256: str | None
    sample_key: str | None
    method: str
    score: float = 1.0


# Each finds (pair_key, url_key, content_sha256) of what `$value` names; any of them may be NULL.
_NAMED: Final[Mapping[str, str]] = {
    "page_url": "SELECT pair_key, url_key, NULL FROM occurrence WHERE page_url = $value",
    "image_url": """
        SELECT pair_key, url_key, NULL FROM occurrence WHERE image_url = $value
        UNION SELECT NULL, url_key, NULL FROM "fetch" WHERE kind = 'image' AND (url = $value OR final_url = $value)""",
    # The host, with or without its port, or one below it; a URL in the ledger is canonical, without userinfo.
    "domain": r"""
        SELECT pair_key, url_key, NULL FROM occurrence, LATERAL (
            SELECT unnest([page_url, image_url]) AS url
        ), LATERAL (
            SELECT regexp_extract(url, '^https?://([^/?#]+)', 1) AS place
        ), LATERAL (
            SELECT regexp_replace(place, ':[0-9]+$', '') AS host
        )
        WHERE $value IN (place, host) OR ends_with(place, '.' || $value) OR ends_with(host, '.' || $value)""",
    "content": "SELECT NULL, NULL, $value",
    "sample_key": """
        SELECT pair_key, NULL, if(pair_key IS NULL, content_sha256, NULL) FROM caption WHERE sample_key = $value
        UNION SELECT pair_key, NULL, if(pair_key IS NULL, content_sha256, NULL) FROM slot WHERE sample_key = $value""",
}

_MATCH: Final = """
    WITH named(pair_key, url_key, content_sha256) AS (
        {named}
    ),
    carried AS (  -- which pair shows which bytes: found under its URL, or said so when it was captioned or sealed
        SELECT o.pair_key, o.url_key, c.content_sha256
        FROM occurrence o LEFT JOIN content c ON c.url_key = o.url_key WHERE o.pair_key IS NOT NULL
        UNION SELECT NULL, url_key, content_sha256 FROM content WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM evidence WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM caption WHERE content_sha256 IS NOT NULL
        UNION SELECT pair_key, NULL, content_sha256 FROM slot WHERE content_sha256 IS NOT NULL
    ),
    direct AS (
        SELECT carried.* FROM carried SEMI JOIN named ON carried.pair_key = named.pair_key
        UNION SELECT carried.* FROM carried SEMI JOIN named ON carried.url_key = named.url_key
        UNION SELECT carried.* FROM carried SEMI JOIN named ON carried.content_sha256 = named.content_sha256
    ),
    concerned AS (  -- one step over equal bytes, never a chain
        SELECT *, true AS is_direct FROM direct
        UNION
        SELECT carried.*, false FROM carried SEMI JOIN direct ON carried.content_sha256 = direct.content_sha256
    ),
    placed AS (  -- what is known without its URL or pair adds nothing where the whole occurrence is known
        SELECT
            pair_key,
            coalesce(url_key, max(url_key) OVER (PARTITION BY pair_key, content_sha256)) AS url_key,
            content_sha256,
            bool_or(is_direct) AS is_direct
        FROM concerned GROUP BY pair_key, url_key, content_sha256
        QUALIFY pair_key IS NOT NULL
            OR max(pair_key) OVER (PARTITION BY url_key, content_sha256) IS NULL
    ),
    samples AS (
        SELECT sample_key, pair_key, content_sha256 FROM caption WHERE sample_key IS NOT NULL
        UNION SELECT sample_key, pair_key, content_sha256 FROM slot WHERE sample_key IS NOT NULL
    )
    SELECT placed.pair_key, placed.url_key, placed.content_sha256, samples.sample_key,
        CASE WHEN bool_or(is_direct) THEN $kind ELSE 'same-content' END
    FROM placed LEFT JOIN samples
        ON samples.content_sha256 = placed.content_sha256
        AND (samples.pair_key = placed.pair_key OR placed.pair_key IS NULL)
    GROUP BY ALL
    ORDER BY ALL
"""


def match(ledger: Ledger, named_kind: str, value: str) -> tuple[Match, ...]:
    """What a request concerns: the occurrences it names and every other occurrence of the same bytes.

    `value`: a canonical URL, a host name (with or without port), a sha256 or sample key in hex. What the ledger never
    saw matches nothing here, and is kept out by its tombstone all the same. Raises `InputError`.
    """
    if named_kind not in _NAMED:
        raise InputError(f"cannot look for a {named_kind}", remedy=f"Name one of {', '.join(NAMED_KINDS)}")
    sql = _MATCH.format(named=_NAMED[named_kind])
    return tuple(Match(*row) for row in ledger.query(sql, {"value": value, "kind": named_kind}))


def record_matches(ledger: Ledger, removal: str, matches: Sequence[Match], *, now: datetime) -> bool:
    """Write the matches down as proposed; the same set for the same removal is written once."""
    rows = [
        {"removal": removal, **dataclasses.asdict(found), "state": "matched", "matched_at": now} for found in matches
    ]
    digest = hashlib.sha256(canonical_json([dataclasses.asdict(found) for found in matches]).encode()).hexdigest()
    return ledger.append("removal_match", rows, key=f"matched:{removal}:{digest[:16]}")


# What the matches of the removals `$removals` name, each for the first removal that does.
_GONE: Final = """
    SELECT {column} AS value, min(removal) AS removal FROM removal_match
    WHERE list_contains($removals::VARCHAR[], removal) AND {column} IS NOT NULL GROUP BY {column}"""
# The evidence of a copy names what stood for it.
_STOOD_FOR: Final = "json_extract_string(body_json, '$.duplicate.representative')"


def erasure_selections() -> Mapping[str, str]:
    """What `Ledger.erase_rows` empties for removals: every row about their matches. Parameter `$removals`.

    The rows of a page and of its origin's documents stay: they are about others, too. Texts elsewhere that came from
    an erased alt text (captions of other pictures, the caption bank) are lineage and are handled there.
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

    def own(table: str) -> str:
        return f"SELECT batch_seq, row_no, removal FROM {table} WHERE list_contains($removals::VARCHAR[], removal)"

    return {
        "fetch": rows("fetch", "url_key", where="kind = 'image'"),
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
        "removal_match": own("removal_match"),
    }
