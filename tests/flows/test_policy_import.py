"""`custody policy import` and `lists`: a file becomes a list that every stage obeys, or it is refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from curation.pixel_store import PixelStore
from flows import settings
from flows.cli import cli
from flows.home import Home
from flows.stages.registries import _Reading
from flows.terminal import silent
from policy.errors import InputError
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.site import Answer, Site, picture

TODAY = datetime.now(UTC).date()
PAGE = b"""<title>Fruit</title><a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>
<img src="/a.png" alt="a green pear"><img src="/b.png" alt="a red apple"><img src="/moved.png" alt="a blue plum">"""
MORE = PAGE + b'<img src="/d.png" alt="a yellow quince">'
MECHANISMS = '["robots", "x_robots", "registry", "licence"]'


@pytest.fixture
def site() -> Iterator[Site]:
    pictures = {f"/{name}.png": Answer(picture(n), "image/png") for n, name in enumerate("abcd")}
    moved = Answer(b"", "text/plain", 302, [("Location", "/c.png")])
    with Site({"/": Answer(PAGE), "/more": Answer(MORE), "/moved.png": moved, **pictures}) as opened:
        yield opened


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("new") / "home").path


@pytest.fixture
def home(new_home: Path, tmp_path: Path) -> Home:
    """A new home that asks the lists and may crawl nobody."""
    return Home.open(shutil.copytree(new_home, tmp_path / "home"))


def make_home(path: Path, address: str = "", required: str = "[]") -> Home:
    default = Ruleset.default_text()
    mechanisms = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    return Home.create(
        path,
        settings_text=replaced(
            settings.DEFAULT_TEXT,
            {"allow_addresses = []": f'allow_addresses = ["{address}"]', "decode_workers = 2": "decode_workers = 1"}
            if address
            else {},
        ),
        policy_text=replaced(default, {mechanisms: MECHANISMS, "\nrequired = []": f"\nrequired = {required}"}),
    )


def run(home: Home, *arguments: object) -> Result:
    """A command in this process, through the console script's own door."""
    given = [*map(str, arguments), "--home", str(home.path)]
    return CliRunner().invoke(cli, given, prog_name="custody")


def told(home: Home, *arguments: object) -> Any:
    """What a command that must succeed prints as JSON."""
    result = run(home, *arguments, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def refused(result: Result, code: int, *said: str) -> None:
    """One line on standard error, this exit code, and nothing on output."""
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    messages = [line for line in result.stderr.splitlines() if line.startswith("custody: ")]
    assert len(messages) == 1, result.stderr
    assert result.stdout == ""
    for text in said:
        assert text in messages[0], messages[0]


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def standing(home: Home) -> dict[str, tuple[str, str, str]]:
    """Image path -> verdict, reason, detail."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT DISTINCT image_url, s.verdict, s.reason_code, s.reason_detail FROM standing s "
            "JOIN occurrence USING (pair_key) WHERE image_url IS NOT NULL"
        )
    return {"/" + url.rpartition("/")[2]: (verdict, code, detail) for url, verdict, code, detail in rows}


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

THREE = {
    "url": ["https://a.example/x.jpg", "HTTP://A.example:80/y.jpg#top", "https://b\u00fccher.example/\u00e4"],
    "domain": ["example.org", "*.B\u00fccher.example", "https://www.example.net/"],
    "sha256": ["ab" * 32, "CD" * 32, "01" * 32],
    "md5": ["ab" * 16, "CD" * 16, "01" * 16],
    "pdq": ["ab" * 32, "CD" * 32, "01" * 32],
}


def _plain(path: Path, kind: str) -> Path:
    return written(path / "list.txt", "\ufeff# ours\n\n" + "\r\n".join([*THREE[kind], THREE[kind][0]]))


def _zipped(path: Path, kind: str) -> Path:
    return written(path / "list.txt.gz", gzip.compress("\n".join(THREE[kind] + THREE[kind][:1]).encode()))


def _csv(path: Path, kind: str) -> Path:
    rows = [f'"{v}","a, ""comment""",1' for v in THREE[kind] + THREE[kind][:1]]
    return written(path / "list.csv", "\n".join([f"{kind.upper()},note,n", *rows, '"",none,2', ""]))


def _column(path: Path, kind: str) -> Path:
    return written(path / "list.csv", "\n".join(THREE[kind] + THREE[kind][:1]))


def _parquet(path: Path, kind: str) -> Path:
    table = pa.table({"n": range(5), kind: [*THREE[kind], THREE[kind][0], None]})
    pq.write_table(table, path / "list.parquet")
    return path / "list.parquet"


@pytest.mark.parametrize("kind", THREE)
def test_a_list_is_what_its_lines_say_whatever_the_file(home: Home, tmp_path: Path, kind: str) -> None:
    """Text, CSV, Parquet, zipped or not: the same entries make the same list, each counted once."""
    digests = set()
    for write in (_plain, _zipped, _csv, _column, _parquet):
        (folder := tmp_path / write.__name__).mkdir()
        said = told(home, "policy", "import", write(folder, kind), "--kind", kind)
        assert (said["name"], said["kind"], said["rows"], said["lines"], said["skipped"]) == ("list", kind, 3, 4, 0)
        digests.add(said["sha256"])
    assert len(digests) == 1


def test_hashes_may_come_as_their_bytes(home: Home, tmp_path: Path) -> None:
    """A Parquet file of raw digests is the list of their hex."""
    pq.write_table(pa.table({"sha256": [bytes.fromhex(v) for v in THREE["sha256"]]}), tmp_path / "list.parquet")
    raw = told(home, "policy", "import", tmp_path / "list.parquet", "--kind", "sha256")
    assert raw["sha256"] == told(home, "policy", "import", _plain(tmp_path, "sha256"), "--kind", "sha256")["sha256"]


def test_a_column_is_named_or_numbered(home: Home, tmp_path: Path) -> None:
    """Where a file does not say which column holds the entries, the operator does."""
    named = written(tmp_path / "named.csv", "id,Address\n1,https://a.example/\n")
    bare = written(tmp_path / "bare.tsv", "1\thttps://a.example/\n")
    assert told(home, "policy", "import", named, "--kind", "url", "--column", "address")["rows"] == 1
    assert told(home, "policy", "import", bare, "--kind", "url", "--column", "2")["rows"] == 1
    refused(
        run(home, "policy", "import", named, "--kind", "url"), 2, "which of its 2 columns", "id, Address", "--column"
    )
    refused(run(home, "policy", "import", named, "--kind", "url", "--column", "adress"), 2, "no column 'adress'")


@pytest.mark.parametrize(
    ("kind", "name", "body", "said"),
    [
        ("url", "l.txt", "https://a.example/\nnot a url\n", ("l.txt:2", "'not a url' is no http(s) URL", "--skip-bad")),
        ("url", "l.txt", "example.org/x.jpg\n", ("l.txt:1",)),
        ("url", "l.txt", b"https://a.example/\nhttps://a.example/\xff\n", ("l.txt:2",)),
        ("url", "l.txt", "https://a.example/x https://a.example/y\n", ("l.txt:1", "more than one")),
        ("url", "l.txt", "https://a.example/x,https://a.example/y\n", ("l.txt:1", "more than one")),
        ("url", "l.txt", "https://a.example/x\tred apple\n", ("l.txt:1", "more than one")),
        ("url", "l.csv", 'url,n\n"https://a.example/,1\nhttps://b.example/,2\n', ("no CSV",)),
        ("url", "l.csv", 'url,n\n"https://a.example/,1\nhttps://b.example/",2\n', ("l.csv:3", "more than one")),
        ("domain", "l.csv", 'domain,n\n"a.example\nb.example",2\n', ("l.csv:3", "more than one")),
        ("domain", "l.csv", b"domain,n\nb\xfccher.example,1\n", ("l.csv:2",)),
        ("url", "l.csv", 'url,n\n"https://a.example/\n",1\nftp://x/,2\n', ("l.csv:4", "ftp://x/")),
        ("url", "l.csv", "url,n\n\nhttps://a.example/\nhttps://b.example/,2\nonly-one\n", ("l.csv:5",)),
        ("url", "l.csv", "n,url\n1,https://a.example/\n2\n", ("l.csv:3", "the row has 1 columns")),
        ("url", "l.txt", "https://a.example/" + "x" * 30_000, ("l.txt:1", "longer than")),
        ("domain", "l.txt", "example.org\nco.uk\n", ("l.txt:2", "public suffix")),
        ("domain", "l.txt", "com", ("public suffix",)),
        ("domain", "l.txt", "*.com", ("public suffix",)),
        ("domain", "l.txt", "example.org/page", ("no domain name",)),
        ("domain", "l.txt", "example.org:8080", ("no domain name",)),
        ("domain", "l.txt", "me@example.org", ("no domain name",)),
        ("domain", "l.txt", "0.0.0.0 example.org", ("no domain name",)),
        ("sha256", "l.txt", "ab" * 16, ("no sha256 (64 hex digits)",)),
        ("md5", "l.txt", "xy" * 16, ("no md5 (32 hex digits)",)),
        ("pdq", "l.txt", "ab" * 31 + "g0", ("no pdq (64 hex digits)",)),
        ("sha256", "l.txt", b"\xff\xfe" + ("ab" * 32).encode("utf-16-le"), ("l.txt:1",)),
        ("sha256", "l.txt", b"\x00\x01\x02", ("l.txt:1",)),
        ("url", "l.txt", "# nothing\n", ("holds no url",)),
        ("url", "l.csv", "url,n\n", ("holds no url",)),
        ("url", "l.txt", "", ("holds no url",)),
        ("url", "l.txt.gz", b"no gzip", ("cannot be read",)),
        ("url", "l.txt.gz", gzip.compress(b"https://a.example/\n" * 99, mtime=0)[:-9], ("cannot be read",)),
        ("url", "l.parquet", b"PAR1 and no more", ("no Parquet file",)),
        ("url", "no/such.txt", None, ("cannot be read",)),
        ("url", "", None, ("cannot be read", "directory")),
    ],
)
def test_a_file_that_is_not_understood_whole_is_not_imported(
    home: Home, tmp_path: Path, kind: str, name: str, body: str | bytes | None, said: tuple[str, ...]
) -> None:
    """One bad line and there is no list: exit 2, file and line, and nothing in home or ledger."""
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / name
    if body is not None:
        written(file, body)
    refused(run(home, "policy", "import", file, "--kind", kind, "--name", "mine"), 2, *said)
    assert told(home, "policy", "lists") == []
    assert list(home.path.glob("registries/*")) == list(home.path.glob("registries/.*")) == []


@given(st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_it_is_a_list_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut, flipped and spliced files of every form: read, or refused with one explained error, nothing else."""
    path = tmp_path_factory.mktemp("damaged")
    write = data.draw(st.sampled_from([_plain, _zipped, _csv, _parquet]))
    file = write(path, "url")
    body = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    file.write_bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body)
    with contextlib.suppress(InputError):
        list(_Reading(file, "url", data.draw(st.booleans()), silent).keys(None))


def test_bad_lines_may_be_left_out_and_are_counted(home: Home, tmp_path: Path) -> None:
    """What an operator chose to skip is said; a file of nothing else is still none."""
    file = written(tmp_path / "list.txt", "example.org\nco.uk\nnot a name\n")
    said = told(home, "policy", "import", file, "--kind", "domain", "--skip-bad")
    assert (said["rows"], said["skipped"]) == (1, 2)
    written(file, "co.uk\n")
    refused(run(home, "policy", "import", file, "--kind", "domain", "--skip-bad"), 2, "holds no domain", "1 lines")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "../x"], "cannot name a list"),
        (["--name", ""], "cannot name a list"),
        (["--dated", "yesterday"], "'yesterday' is no date"),
        (["--dated", "2999-01-01"], "has not come yet"),
    ],
)
def test_a_name_or_a_date_that_is_none(home: Home, tmp_path: Path, options: list[str], said: str) -> None:
    """Refused before anything is read."""
    refused(run(home, "policy", "import", _plain(tmp_path, "url"), "--kind", "url", *options), 2, said)


@pytest.mark.parametrize("days", ["0", "-1", "x"])
def test_a_limit_that_is_none_is_a_wrong_use(home: Home, tmp_path: Path, days: str) -> None:
    """At least a day."""
    result = run(home, "policy", "import", _plain(tmp_path, "url"), "--kind", "url", "--max-age-days", days)
    assert result.exit_code == 2
    assert "--max-age-days" in result.stderr


# ── on record ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_is_dated_by_its_file_unless_somebody_knows_better(home: Home, tmp_path: Path) -> None:
    """The time of change is what a file says of itself, and it is said that this was taken."""
    file = _plain(tmp_path, "url")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    said = told(home, "policy", "import", file, "--kind", "url")
    assert (said["dated_at"], said["dated_by"]) == ("2023-11-14T22:13:20+00:00", "file")
    assert "file's time of change" in run(home, "policy", "import", file, "--kind", "url").stderr
    said = told(home, "policy", "import", file, "--kind", "url", "--dated", str(TODAY))
    assert (said["dated_at"], said["dated_by"]) == (f"{TODAY}T00:00:00+00:00", "option")


def test_importing_again_replaces_and_keeps_the_record(home: Home, tmp_path: Path) -> None:
    """One list a name, the newest; the older one's row stays, its keys do not; the very same changes nothing."""
    file = written(tmp_path / "list.txt", "a.example\nb.example\n")
    first = told(home, "policy", "import", file, "--kind", "domain", "--dated", TODAY - timedelta(days=300))
    other = told(home, "policy", "import", file, "--kind", "domain", "--name", "list-2")
    written(file, "a.example\n")
    second = told(home, "policy", "import", file, "--kind", "domain", "--dated", str(TODAY))
    assert (second["changed"], second["replaces"]) == (True, first["sha256"])
    same = told(home, "policy", "import", file, "--kind", "domain", "--dated", str(TODAY))
    assert (same["changed"], same["replaces"]) == (False, None)
    written(file, "a.example\nb.example\n")
    back = told(home, "policy", "import", file, "--kind", "domain", "--dated", str(TODAY))
    assert (back["changed"], back["sha256"]) == (True, first["sha256"])
    states = [(r["name"], r["state"], r["row_count"], r["dated_at"]) for r in told(home, "audit", "registries")]
    assert [(name, state, rows) for name, state, rows, _ in states] == [
        ("list", "replaced", 2),
        ("list", "replaced", 1),
        ("list", "ok", 2),
        ("list-2", "ok", 2),
    ]
    files = {f"list-{first['sha256'][:12]}.keys", f"list-2-{other['sha256'][:12]}.keys"}
    assert {path.name for path in home.registries_path.iterdir()} == files
    assert told(home, "verify")["ok"]


def test_a_name_does_not_change_what_it_lists(home: Home, tmp_path: Path) -> None:
    """A list of URLs must not vanish under one of domains."""
    told(home, "policy", "import", _plain(tmp_path, "url"), "--kind", "url")
    refused(run(home, "policy", "import", _plain(tmp_path, "domain"), "--kind", "domain"), 2, "kind url", "--name")


def test_lists_say_what_counts(tmp_path: Path) -> None:
    """Ok, overdue, missing (required, never imported) and lost (its file is gone); a table and JSON."""
    home = make_home(tmp_path / "home", required='["missing", "fine"]')
    file = written(tmp_path / "list.txt", "a.example\n")
    for name, days in (("fine", 3), ("old", 31), ("lost", 1)):
        told(
            home, "policy", "import", file, "--kind", "domain", "--name", name, "--dated", TODAY - timedelta(days=days)
        )
    next(home.registries_path.glob("lost-*")).unlink()
    listed = told(home, "policy", "lists")
    assert {r["name"]: (r["state"], r["required"], r["age_days"]) for r in listed} == {
        "fine": ("ok", True, 3),
        "old": ("overdue", False, 31),
        "lost": ("lost", False, 1),
        "missing": ("missing", True, None),
    }
    assert "overdue" in run(home, "policy", "lists").stdout


def test_no_entry_of_a_list_is_in_the_ledger_or_readable_in_its_file(home: Home, tmp_path: Path) -> None:
    """What somebody else's list holds is kept as digests only, once."""
    told(home, "policy", "import", written(tmp_path / "list.txt", "https://a.example/needle.jpg\n"), "--kind", "url")
    assert [f for f in home.path.rglob("*") if f.is_file() and b"needle" in f.read_bytes()] == []
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT count(*) FROM registry_entry") == [(0,)]


# ── obeyed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_list_names_is_not_contacted(tmp_path: Path, site: Site) -> None:
    """Neither a picture nor a redirect's target."""
    home = make_home(tmp_path / "home", site.address)
    urls = written(tmp_path / "urls.txt", f"{site.url('/a.png')}\n{site.url('/c.png')}\n")
    told(home, "policy", "import", urls, "--kind", "url")
    told(home, "crawl", site.url("/"))
    assert {path for path in site.requests if path.endswith("png")} == {"/b.png", "/moved.png"}
    told(home, "decide")
    stood = standing(home)
    assert stood["/b.png"][0] == "allow"
    assert stood["/a.png"][:2] == stood["/moved.png"][:2] == ("deny", "registry-listed")
    assert f"url {site.url('/c.png')}" in stood["/moved.png"][2]
    audited = {r["name"]: r["pairs_denied"] for r in told(home, "audit", "registries")}
    assert audited == {"urls": 2}


def test_of_a_listed_domain_nothing_is_asked(tmp_path: Path, site: Site) -> None:
    """Not so much as its robots.txt, by a crawler that was never there."""
    home = make_home(tmp_path / "home", site.address)
    told(home, "policy", "import", written(tmp_path / "sites.txt", "127.0.0.1"), "--kind", "domain")
    refused(run(home, "crawl", site.url("/")), 2, "page refused-by-policy (registry-listed): 1")
    assert not site.requests


def test_hash_lists_deny_what_was_crawled_before_they_came(tmp_path: Path, site: Site) -> None:
    """By the original bytes, or by the look of them; at the next decide, from what is stored."""
    home = make_home(tmp_path / "home", site.address)
    told(home, "crawl", site.url("/more"))
    told(home, "decide")
    assert {verdict for verdict, _, _ in standing(home).values()} == {"allow"}
    bodies = {"sha256": picture(0), "md5": picture(1), "pdq": picture(2)}
    shown = {"sha256": "/a.png", "md5": "/b.png", "pdq": "/moved.png"}
    sha256 = {kind: hashlib.sha256(body).hexdigest() for kind, body in bodies.items()}
    with home.ledger(readonly=True) as ledger:
        [(pdq,)] = ledger.query("SELECT pdq FROM content WHERE content_sha256 = ?", [sha256["pdq"]])
    near = f"{int(pdq, 16) ^ 0b1011:064x}"
    md5 = hashlib.md5(bodies["md5"], usedforsecurity=False).hexdigest()
    for kind, value in (("sha256", sha256["sha256"]), ("md5", md5), ("pdq", near)):
        told(home, "policy", "import", written(tmp_path / f"by-{kind}.txt", value), "--kind", kind)
    told(home, "decide")
    stood = standing(home)
    for kind, path in shown.items():
        assert stood[path][:2] == ("deny", "registry-listed")
        assert f"by-{kind} of {TODAY}: {kind} " in stood[path][2]
    assert stood["/d.png"][0] == "allow"
    told(home, "crawl", site.url("/more"))  # met again, they are known by their digests, and no pixels are kept
    assert not {*sha256.values()} & {*PixelStore(home.pixels_path).keys()}
    told(home, "decide")
    assert {path: standing(home)[path][:2] for path in shown.values()} == dict.fromkeys(
        shown.values(), ("deny", "registry-listed")
    )


def test_nothing_is_sealed_without_a_list_that_is_required(tmp_path: Path, site: Site) -> None:
    """Missing: name and the command that imports it; overdue: date and limit too; before anything is written."""
    home = make_home(tmp_path / "home", site.address, required='["optouts"]')
    told(home, "crawl", site.url("/"))
    file = written(tmp_path / "optouts.txt", "nobody.example\n")
    with home.ledger(readonly=True) as ledger:
        head = ledger.head()
    refused(run(home, "seal", "--name", "x"), 1, "'optouts'", "never imported", "custody policy import FILE")
    with home.ledger(readonly=True) as ledger:
        assert ledger.head() == head
    told(home, "decide")
    assert {(verdict, code) for verdict, code, _ in standing(home).values()} == {("defer", "registry-missing")}
    old = TODAY - timedelta(days=8)
    told(home, "policy", "import", file, "--kind", "domain", "--dated", old, "--max-age-days", "7")
    refused(run(home, "seal", "--name", "x"), 1, "'optouts'", str(old), "7 days", "--kind domain --name optouts")
    told(home, "decide")
    assert {(verdict, code) for verdict, code, _ in standing(home).values()} == {("defer", "registry-overdue")}
    assert not home.datasets_path.exists()
    told(home, "policy", "import", file, "--kind", "domain", "--dated", TODAY)
    assert told(home, "seal", "--name", "x")["slots"] == 3


def test_a_lost_or_damaged_list_lets_nothing_in(tmp_path: Path, site: Site) -> None:
    """Without the keys that the ledger knows, no stage runs (exit 1), verify fails; imported again, all goes on."""
    home = make_home(tmp_path / "home", site.address)
    told(home, "crawl", site.url("/"))
    file = written(tmp_path / "optouts.txt", "nobody.example\nno.example\n")
    told(home, "policy", "import", file, "--kind", "domain", "--dated", TODAY)
    [keys] = home.registries_path.iterdir()
    body = keys.read_bytes()
    for damaged in (None, body[:-8], b""):
        keys.unlink()
        if damaged is not None:
            keys.write_bytes(damaged)
        for command in (("decide",), ("seal", "--name", "x"), ("crawl", site.url("/?2"))):
            refused(run(home, *command), 1, keys.name, "custody policy import FILE --kind domain --name optouts")
        verified = run(home, "verify", "--json")
        assert verified.exit_code == 1
        assert keys.name in json.loads(verified.stdout)["failures"][0]["where"]
        told(home, "policy", "import", file, "--kind", "domain", "--dated", TODAY)
        assert keys.read_bytes() == body
    told(home, "decide")
    assert told(home, "verify")["ok"]


def test_a_list_that_the_ruleset_does_not_ask_is_said_to_be_idle(tmp_path: Path) -> None:
    """Importing is not enough: policy.toml names the mechanism."""
    home = Home.create(
        tmp_path / "home",
        policy_text=make_home(tmp_path / "other").policy_path.read_text().replace('"registry", ', "", 1),
    )
    file = written(tmp_path / "optouts.txt", "nobody.example\n")
    assert told(home, "policy", "import", file, "--kind", "domain")["asked"] is False
    assert 'does not name the mechanism "registry"' in run(home, "policy", "import", file, "--kind", "domain").stderr


def test_a_homes_lists_judge_its_own_cases(home: Home, tmp_path: Path) -> None:
    """`inspect judge` in a home asks that home's lists, however a line spells an address."""
    told(home, "policy", "import", written(tmp_path / "urls.txt", "https://a.example/x.jpg\n"), "--kind", "url")
    told(home, "policy", "import", written(tmp_path / "sites.txt", "b.example\n"), "--kind", "domain")
    urls = ["HTTPS://A.EXAMPLE:443/./x.jpg#top", "http://img.B.example/y", "https://c.example/x.jpg"]
    cases = "\n".join(json.dumps({"url": url, "mechanisms": ["registry"]}) for url in urls)
    result = run(home, "inspect", "judge", written(tmp_path / "cases.jsonl", cases))
    said = [json.loads(line)["decisions"][0] for line in result.stdout.splitlines()]
    assert [d["reason"] for d in said] == ["registry-listed", "registry-listed", "registry-not-listed"]
