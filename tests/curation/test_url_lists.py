"""Lists of URLs, in whatever format: each row becomes a pair or is told as a problem."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.pair import ImageTextPair
from curation.url_lists import ENDINGS, PROBLEMS, Listed, Problem, read_url_list
from policy.errors import InputError
from policy.evidence import Evidence, Hop, LicenceClaim
from policy.ruleset import Ruleset
from policy.verdict import Verdict
from tests.curation.archives import as_zstd

ROWS = [
    {"URL": "https://E.org:443/a b.png#x", "TEXT": " a \n pear ", "license": "CC-BY-4.0", "Page URL": "http://e.org"},
    {"URL": "https://e.org/2", "TEXT": "", "license": "", "Page URL": ""},
]
BY = LicenceClaim("CC-BY-4.0", "given", "image", where="license")
EXPECTED = [
    Listed(1, ImageTextPair("http://e.org/", "https://e.org/a%20b.png", "a pear", "given", licence_claims=(BY,))),
    Listed(2, ImageTextPair(None, "https://e.org/2", None, None)),
]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    """A list in the format that the path's ending names."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return str(path)
    if name.endswith((".jsonl", ".ndjson")):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif name.endswith(".txt"):
        data = "".join(next(iter(row.values())) + "\r\n" for row in rows).encode()
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    packed = gzip.compress(data) if path.suffix == ".gz" else as_zstd(data) if path.suffix == ".zst" else data
    path.write_bytes(packed)
    return str(path)


def read(path: Path, content: bytes | str, **columns: str) -> list[Listed | Problem]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_url_list(str(path), columns=columns))


def told(items: list[Listed | Problem]) -> list[str]:
    return [item.code if isinstance(item, Problem) else item.pair.image_url for item in items]


FORMATS = [
    *(ending for ending in ENDINGS if ending != ".txt"),
    *(f"{ending}{packing}" for ending in (".csv", ".tsv", ".jsonl") for packing in (".gz", ".zst")),
]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_says_the_same(ending: str, tmp_path: Path) -> None:
    """The same rows give the same pairs: canonical addresses, given texts and licences, in order."""
    assert list(read_url_list(write(tmp_path / f"list{ending}", ROWS))) == EXPECTED


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.zst", ".TXT"])
def test_a_text_file_holds_a_url_a_line(ending: str, tmp_path: Path) -> None:
    """Rows are numbered by their lines; empty lines and comments are none."""
    path = tmp_path / f"list{ending}"
    rows = [
        {"u": "\ufeffhttps://e.org/1"},
        {"u": ""},
        {"u": "# https://e.org/2"},
        {"u": " https://e.org/3 "},
        {"u": "x"},
    ]
    location = write(path, rows)
    assert [(item.row, told([item])) for item in read_url_list(location)] == [
        (1, ["https://e.org/1"]),
        (4, ["https://e.org/3"]),
        (5, ["bad-url"]),
    ]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("Image-URL,url", "https://e.org/i,https://e.org/page", "https://e.org/i"),
        ("IMG_URL", "https://e.org/i", "https://e.org/i"),
        ("x;src", "1;https://e.org/i", "https://e.org/i"),
        ("x\turl", "1\thttps://e.org/i", "https://e.org/i"),
        ('"url","caption"', '"https://e.org/i","a, ""b"""', "https://e.org/i"),
        ("\ufeffurl", "https://e.org/i", "https://e.org/i"),
    ],
)
def test_columns_are_known_by_their_names(header: str, row: str, expected: str, tmp_path: Path) -> None:
    """Case, "-" and spaces do not matter, an image's URL goes before a mere URL; the header tells the separator."""
    (item,) = read(tmp_path / "list.csv", f"{header}\n{row}\n")
    assert told([item]) == [expected]


def test_all_that_a_row_says_is_kept(tmp_path: Path) -> None:
    """Licence, its address, title, creator, credit and hash go with the pair."""
    sha = "ab" * 32
    path = tmp_path / "list.jsonl"
    row = {"url": "https://e.org/i", "license": "CC BY", "license_url": "https://creativecommons.org/licenses/by/4.0/"}
    row |= {"title": "A  pear", "Author": "Ada", "credit": "Museum", "sha256": sha.upper(), "alt": "x", "y": [1]}
    (item,) = read(path, json.dumps(row))
    assert isinstance(item, Listed)
    assert [(c.value, c.where, c.title, c.creator, c.credit) for c in item.pair.licence_claims] == [
        ("CC BY", "license", "A pear", "Ada", "Museum"),
        ("https://creativecommons.org/licenses/by/4.0/", "license_url", "A pear", "Ada", "Museum"),
    ]
    assert {(c.source, c.scope, c.kind) for c in item.pair.licence_claims} == {("given", "image", "licence")}
    assert (item.sha256, item.pair.alt) == (sha, "x")


def test_columns_can_be_named(tmp_path: Path) -> None:
    """Where names do not tell, they are told; what is named is not guessed beside it."""
    content = "a,b,url\nhttps://e.org/i,a pear,https://e.org/no\n"
    (item,) = read(tmp_path / "list.csv", content, url="A", text="b")
    assert isinstance(item, Listed)
    assert (item.pair.image_url, item.pair.alt) == ("https://e.org/i", "a pear")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "no-url"),
        ("  ", "no-url"),
        ("e.org/i", "bad-url"),
        ("/i.png", "bad-url"),
        ("ftp://e.org/i", "bad-url"),
        ("data:image/png;base64,AA", "bad-url"),
        ("https://" + "x" * 9000, "bad-url"),
        ("https://u:geheim@e.org/i", "userinfo"),
        ("https://e.org/i?X-Amz-Signature=geheim", "signed-url"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_addresses_that_cannot_be_used_are_told(value: str, code: str, ending: str, tmp_path: Path) -> None:
    """Each costs its row alone, and a secret is not shown."""
    rows = [{"url": value, "x": "1"}, {"url": "https://e.org/2", "x": "2"}]
    items = list(read_url_list(write(tmp_path / f"list{ending}", rows)))
    assert told(items) == [code, "https://e.org/2"]
    assert code in PROBLEMS
    assert isinstance(items[0], Problem)
    assert "geheim" not in items[0].detail


@pytest.mark.parametrize("page", ["https://u:p@e.org/", "nowhere", "https://e.org/?sig=1"])
def test_a_page_that_cannot_be_asked_costs_its_row(page: str, tmp_path: Path) -> None:
    """Without the page that a row names, what the page's site says would go unheard."""
    (item,) = read(tmp_path / "list.jsonl", json.dumps({"url": "https://e.org/i", "page_url": page}))
    assert isinstance(item, Problem)


@pytest.mark.parametrize(
    ("ending", "content", "expected"),
    [
        (".csv", b"url,text\nhttps://e.org/1,\xff\nhttps://e.org/2,x\n", ["bad-encoding", "https://e.org/2"]),
        (".csv", b"url,t\nhttps://e.org/1\nhttps://e.org/2,x\na,b,c\n", ["bad-row", "https://e.org/2", "bad-row"]),
        (".csv", b'url,t\n"https://e.org/1,x\n' + b"y\n" * 90_000 + b"https://e.org/2,x\n", ["bad-row"]),
        (".csv", b"url,t\n\n,\nhttps://e.org/2,x", ["no-url", "https://e.org/2"]),
        (".csv", b"url\rhttps://e.org/1\rhttps://e.org/2", ["https://e.org/1", "https://e.org/2"]),
        (".csv", b'url,caption\nhttps://e.org/1,"two\r\nlines"\n', ["https://e.org/1"]),
        (".txt", b"https://e.org/\xff\nhttps://e.org/2", ["bad-encoding", "https://e.org/2"]),
        (".txt", b"x" * 5_000_000 + b"\nhttps://e.org/2", ["bad-url", "https://e.org/2"]),
        (
            ".jsonl",
            b'{"url": "https://e.org/1"}\n{"url": \n[1]\n{"url": "\xff"}\n{"x": 1}\n{"url": 7}\n\n{"url": ["a"]}\n'
            b'{"URL": "https://e.org/2"}\n' + b"[" * 9_000,
            [
                *("https://e.org/1", "bad-row", "bad-row", "bad-encoding", "no-url", "bad-url", "no-url"),
                *("https://e.org/2", "bad-row"),
            ],
        ),
        (".jsonl", b'{"url": "https://e.org/1", "caption": "\\ud800"}', ["bad-row"]),
    ],
)
def test_bad_rows_cost_themselves_alone(ending: str, content: bytes, expected: list[str], tmp_path: Path) -> None:
    """What cannot be read is numbered and named; the rows around it are used."""
    items = read(tmp_path / f"list{ending}", content)
    seen = told(items)
    assert seen[: len(expected)] == expected
    assert all(isinstance(item, Problem) for item in items[len(expected) :]) or seen[-1] == "https://e.org/2"


def test_text_in_parquet_need_not_be_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 in a column of strings are told, whatever the column's type."""
    raw = pa.array([b"https://e.org/1", b"https://e.org/\xff", None], pa.binary())
    table = pa.table({"url": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert told(list(read_url_list(str(tmp_path / "a.parquet")))) == ["https://e.org/1", "bad-encoding", "no-url"]
    for kind in (pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array(["https://e.org/1", None], pa.string()).cast(kind)
        pq.write_table(pa.table({"url": column, "n": [1, 2]}), tmp_path / "b.parquet")
        assert told(list(read_url_list(str(tmp_path / "b.parquet")))) == ["https://e.org/1", "no-url"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2\n", "columns are 'a', 'b'"),
        ("a.csv", b"", "columns are none"),
        ("a.jsonl", b'{"a": 1}\n', "columns are 'a'"),
        ("a.xlsx", b"PK", "ending"),
        ("a.parquet.gz", b"PK", "ending"),
        ("a.parquet", b"url\nhttps://e.org/", "is no Parquet file"),
        ("a.parquet", b"PAR1" + bytes(100), "footer"),
        ("a.csv", b"PAR1" + bytes(100), "Parquet"),
        ("a.csv", b"\x1f\x8b\x08", "gzip"),
        ("a.csv", b"url\n\0\0\0", "no text"),
        ("a.csv.gz", b"url\nhttps://e.org/", "not what its ending says"),
        ("a.csv.gz", gzip.compress(b"PAR1", mtime=0), "Parquet"),
        ("a.csv.zst", b"url\n", "not what its ending says"),
        ("a.csv", b"url,x,url\n1,2,3\n", "twice"),
    ],
)
def test_what_is_no_list_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """The message names the file, what was found and what is expected."""
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / name, content)
    assert caught.value.where == str(tmp_path / name)


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    """A named column that is not there, or holds no text, and a field that does not exist, are refused."""
    with pytest.raises(InputError, match="no column 'c'"):
        read(tmp_path / "a.csv", "a,b\n", url="c")
    with pytest.raises(InputError, match="no field colour"):
        read(tmp_path / "a.csv", "a,b\n", colour="c")
    pq.write_table(pa.table({"url": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no text, but int64"):
        list(read_url_list(str(tmp_path / "a.parquet")))
    with pytest.raises(InputError, match="no such file"):
        list(read_url_list(str(tmp_path / "none.csv")))


@pytest.mark.parametrize("ending", [".parquet", ".csv.gz", ".csv.zst"])
def test_a_list_that_ends_early_is_told_after_what_was_there(ending: str, tmp_path: Path) -> None:
    """A cut file is refused by name, and says how many rows came before."""
    rows = [{"url": f"https://e.org/{number}", "caption": f"pear {number * 7919}"} for number in range(60_000)]
    path = Path(write(tmp_path / f"list{ending}", rows))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found: list[Listed | Problem] = []
    with pytest.raises(InputError) as caught:
        found.extend(read_url_list(str(path)))  # keeps what came before
    assert caught.value.where == str(path)
    assert ("footer" if ending == ".parquet" else f"{len(found):,} rows came before") in str(caught.value)
    assert len(found) > 1_000 or ending == ".parquet"


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_each_row_of_a_long_list_comes_once(ending: str, tmp_path: Path) -> None:
    """Of 100,000 rows none is lost, doubled or out of order."""
    rows = [{"url": f"https://e.org/{number}"} for number in range(100_000)]
    number = 0
    for number, item in enumerate(read_url_list(write(tmp_path / f"list{ending}", rows)), 1):
        assert isinstance(item, Listed)
        assert (item.row, item.pair.image_url) == (number, rows[number - 1]["url"])
    assert number == 100_000


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl.gz", ".txt.zst"])
def test_long_lists_are_streamed(ending: str, tmp_path: Path) -> None:
    """Of a list of 30 MB, in one row group, a few are in memory at a time."""
    rows = [{"url": f"https://e.org/{number:02000}"} for number in range(15_000)]
    location = write(tmp_path / f"list{ending}", rows)
    del rows
    tracemalloc.start()
    count = sum(isinstance(item, Listed) for item in read_url_list(location, batch_rows=500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 15_000
    assert peak < 6_000_000


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=20))
def test_csv_and_json_agree_on_any_text(rows: list[tuple[str, str]]) -> None:
    """Whatever texts a list holds, the format does not change what is read."""
    with tempfile.TemporaryDirectory() as folder:
        # A NUL in the beginning tells that a file is no text.
        given = [{"url": f"https://e.org/{a}", "caption": b.replace("\0", "")} for a, b in rows if "\0" not in a]
        if not given:
            return
        first = list(read_url_list(write(Path(folder) / "a.csv", given)))
        assert first == list(read_url_list(write(Path(folder) / "a.jsonl", given)))
        assert first == list(read_url_list(write(Path(folder) / "a.parquet", given)))


def test_a_given_licence_is_weighed_as_the_images_own(tmp_path: Path) -> None:
    """What the list says of a picture's licence covers that picture: one is used, a forbidding one denies."""
    verdicts = []
    for licence in ("CC-BY-4.0", "CC-BY-NC-4.0", "all rights reserved", "?"):
        (item,) = read(tmp_path / "a.jsonl", json.dumps({"url": "https://e.org/i", "license": licence}))
        assert isinstance(item, Listed)
        verdicts.append(_licence(item.pair))
    assert verdicts == [Verdict.ALLOW, Verdict.DENY, Verdict.DENY, Verdict.DENY]


def _licence(pair: ImageTextPair) -> Verdict | None:
    rules, now = Ruleset.default(), datetime.now(UTC)
    evidence = Evidence(
        pair.page_url,
        pair.image_url,
        now,
        "test",
        "1",
        hops=(Hop(pair.image_url, 200, ()),),
        licence_claims=pair.licence_claims,
    )
    return next(judged.verdict for judged in rules.decide(evidence, now) if judged.mechanism == "licence")
