"""The canonical text of rows, held against a second, independent implementation in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy.commitments import GENESIS, TableShape
from policy.ledger import Ledger
from policy.personal import PERSONAL_COLUMNS

# Text that tries to pass for the format's own separators, and NULL beside ''.
TEXTS = st.none() | st.sampled_from(["", ";", "=", "-", "1:a;", "alt=0:;", "\0", "é", "e\u0301"]) | st.text(max_size=8)
ROWS = st.fixed_dictionaries(
    {
        "content_sha256": TEXTS,
        "url_key": TEXTS,
        "media_type": TEXTS,
        "width": st.none() | st.integers(-(2**31), 2**31 - 1),
        "pdq": TEXTS,
        "faces_json": TEXTS,
        "observed_at": st.none() | st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    }
)
_count = iter(range(1_000_000))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(values: Mapping[str, object]) -> str:
    """Fields as policy/commitments.py describes them."""

    def fields() -> Iterator[str]:
        for name, value in sorted(values.items()):
            match value:
                case None:
                    continue
                case bool():
                    text = str(value).lower()
                case datetime():
                    epoch = datetime(1970, 1, 1, tzinfo=UTC)
                    text = str((value.replace(tzinfo=UTC) - epoch) // timedelta(microseconds=1))
                case float():
                    text = f"{value:.17g}"
                case bytes():
                    text = hashlib.sha256(value).hexdigest()
                case _:
                    text = str(value)
            yield f"{name}={len(text.encode())}:{text};"

    return "".join(fields())


def stored_rows(ledger: Ledger, table: str, seq: int) -> list[dict[str, object]]:
    rows = ledger.query_arrow(f"SELECT * FROM {table} WHERE batch_seq = ? ORDER BY row_no", [seq])  # noqa: S608
    return list(rows.to_pylist())


def expected_digests(shape: TableShape, row: Mapping[str, object]) -> tuple[str, str]:
    """(commitment, row digest) of a stored row."""
    salt = row["salt"]
    assert isinstance(salt, bytes)
    personal = {column.name: row[column.name] for column in shape.columns if column in shape.personal}
    other = {column.name: row[column.name] for column in shape.columns if column not in shape.personal}
    commitment = sha(f"custody.commitment.1;{shape.name};{salt.hex()};{canonical(personal)}")
    return commitment, sha(f"custody.row.1;{shape.name};{canonical({**other, 'commitment': commitment})}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=5))
@example([])
def test_sql_and_the_description_agree(ledger: Ledger, rows: list[dict[str, object]]) -> None:
    """Commitments, digests and chain are exactly what the module's description says, recomputed without DuckDB."""
    _, previous = ledger.head()
    key = f"batch {next(_count)}"
    assert ledger.append("content", rows, key=key)
    seq, chain = ledger.head()
    shape = ledger.shape("content")
    digests = []
    for stored, given_row in zip(stored_rows(ledger, "content", seq), rows, strict=True):
        commitment, digest = expected_digests(shape, stored)
        assert stored["commitment"] == commitment
        assert all(
            stored[name] == (value.replace(tzinfo=None) if isinstance(value, datetime) else value)
            for name, value in given_row.items()
        )
        digests.append(digest)
    [(rows_digest, appended_at)] = ledger.query("SELECT rows_digest, appended_at FROM batch WHERE seq = ?", [seq])
    assert rows_digest == sha("".join(digests))
    batch = {
        "appended_at": appended_at,
        "idempotency_key": key,
        "previous": previous,
        "row_count": len(rows),
        "rows_digest": rows_digest,
        "seq": seq,
        "table_name": "content",
    }
    assert chain == sha("custody.chain.1;" + canonical(batch))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ROWS)
@example({"pdq": None}, {"pdq": ""})
@example({"pdq": "a;url_key=1:b"}, {"pdq": "a", "url_key": "b"})
@example({"pdq": "x", "url_key": None}, {"pdq": None, "url_key": "x"})
def test_different_rows_have_different_digests(
    ledger: Ledger, one: dict[str, object], other: dict[str, object]
) -> None:
    """Under one salt two rows share commitment and digest only when every value is the same, NULL apart from ''."""
    salted = [{**row, "salt": b"0" * 16} for row in (one, other)]
    key = f"pair {next(_count)}"
    ledger.append("content", salted, key=key)
    shape = ledger.shape("content")
    personal = set(PERSONAL_COLUMNS["content"])
    [(commitments, digests)] = ledger.query(
        f"SELECT count(DISTINCT commitment), count(DISTINCT {shape.row_digest_sql()})"  # noqa: S608
        " FROM content WHERE batch_seq = ?",
        [ledger.head()[0]],
    )
    names = one.keys() | other.keys()
    same_personal = all(one.get(name) == other.get(name) for name in names & personal)
    assert (commitments == 1) == same_personal
    assert (digests == 1) == all(one.get(name) == other.get(name) for name in names)


@pytest.mark.parametrize("value", [0.1, -0.0, 1e300, 5e-324, float("inf"), float("nan"), 3.0])
def test_doubles_have_one_text_each(ledger: Ledger, value: float) -> None:
    """A double enters its digest with 17 digits: what it is, whatever prints it."""
    ledger.append("score", [{"content_sha256": "c", "name": "nsfw", "value": value}], key="one")
    seq, _ = ledger.head()
    [row] = stored_rows(ledger, "score", seq)
    [(digest,)] = ledger.query("SELECT rows_digest FROM batch WHERE seq = ?", [seq])
    assert digest == sha(expected_digests(ledger.shape("score"), row)[1])


def test_a_table_without_personal_columns_commits_to_its_salt(ledger: Ledger) -> None:
    """Every row has a commitment, so that every row is opened the same way."""
    ledger.append("ruleset", [{"digest": "d", "body": "b"}], key="one")
    [row] = stored_rows(ledger, "ruleset", ledger.head()[0])
    salt = row["salt"]
    assert isinstance(salt, bytes)
    assert row["commitment"] == sha(f"custody.commitment.1;ruleset;{salt.hex()};")


def test_a_column_added_later_leaves_old_digests(ledger: Ledger) -> None:
    """NULL fields are left out of the text, so a migration that adds a column does not touch the chain."""
    shape = ledger.shape("content")
    narrow = TableShape(shape.name, tuple(column for column in shape.columns if column.name != "height"))
    ledger.append("content", [{"content_sha256": "c", "width": 3}], key="one")
    [(same,)] = ledger.query(
        f"SELECT {shape.row_digest_sql()} = {narrow.row_digest_sql()} FROM content"  # noqa: S608
    )
    assert same


def test_the_first_batch_follows_zeros(ledger: Ledger) -> None:
    """The chain begins at the batch that holds the keys' check values."""
    assert ledger.query("SELECT previous, table_name FROM batch WHERE seq = 1") == [(GENESIS, "key_check")]
    assert ledger.verify() == ()
