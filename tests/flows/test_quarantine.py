"""A picture on a hash list: gone at once, hashes and states stay, told by `why`, shown by nobody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from curation.observe import NOWHERE
from curation.pixel_store import PixelStore
from flows import settings
from flows.cli import cli
from flows.home import Home
from policy.evidence import part_ids
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.flows.site import Answer, Site, picture

PAGE = b"""<a rel="license" href="https://creativecommons.org/publicdomain/zero/1.0/">CC0</a>
<img src="/a.png" alt="a green pear"><img src="/b.png" alt="a red apple">"""
LISTED = hashlib.sha256(picture(0)).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    pictures = {
        f"/{name}.png": Answer(picture(n), "image/png", headers=[("X-Whose", f"of {name}"), ("ETag", f'"{name}"')])
        for n, name in enumerate("ab")
    }
    with Site({"/": Answer(PAGE), "/robots.txt": Answer(b"", "text/plain"), **pictures}) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, site: Site) -> Home:
    default = Ruleset.default_text()
    mechanisms = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    return Home.create(
        tmp_path / "home",
        settings_text=replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = []": f'allow_addresses = ["{site.address}"]',
                "decode_workers = 2": "decode_workers = 1",
            },
        ),
        policy_text=replaced(default, {mechanisms: '["robots", "x_robots", "registry", "licence", "text"]'}),
    )


def run(home: Home, *arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments), "--home", str(home.path)], prog_name="custody")


def told(home: Home, *arguments: object) -> Any:
    """What a command that must succeed prints as JSON."""
    result = run(home, *arguments, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def listed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "hashes.txt").write_text(LISTED)
    told(home, "policy", "import", tmp_path / "hashes.txt", "--kind", "sha256")


def newest(home: Home, table: str, key: str) -> list[dict[str, Any]]:
    """The newest row of each key of a table that is about the listed picture, without what the ledger adds."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query_arrow(
            f'SELECT * EXCLUDE (batch_seq, row_no, salt, commitment, erased_by) FROM "{table}"'  # noqa: S608  # a test's
            f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY batch_seq DESC, row_no DESC) = 1"
        ).to_pylist()
    return rows


def pair_of(home: Home) -> str:
    ((pair,),) = ask(home, "SELECT DISTINCT pair_key FROM evidence WHERE content_sha256 = ?", LISTED)
    return str(pair)


def check_reduced(home: Home, site: Site) -> None:
    """What the newest rows say of the listed picture: hashes, times, states; and the other one is as it was."""
    pair = pair_of(home)
    [evidence] = [row for row in newest(home, "evidence", "pair_key") if row["pair_key"] == pair]
    said = json.loads(evidence["body_json"])
    assert said.keys() == {
        *("page_url", "image_url", "observed_at", "observer", "observer_version", "content_sha256", "content_md5"),
        *("pdq", "tombstoned", "origins", "declared"),
    } - {"page_url"}
    assert (said["image_url"], said["origins"], part_ids(evidence["body_json"])) == (NOWHERE, [], ())
    [occurrence] = [row for row in newest(home, "occurrence", "pair_key") if row["pair_key"] == pair]
    assert {name for name, value in occurrence.items() if value is not None} == {
        *("pair_key", "page_key", "url_key", "unit_id", "seen_at"),
    }
    stood = ask(home, "SELECT verdict, rule, reason_code FROM standing WHERE pair_key = ?", pair)
    assert stood == [("deny", "registry", "registry-listed")]
    assert LISTED not in PixelStore(home.pixels_path)
    assert hashlib.sha256(picture(1)).hexdigest() in PixelStore(home.pixels_path)


def test_a_crawl_that_meets_one_records_hashes_and_times_alone(home: Home, site: Site, tmp_path: Path) -> None:
    """No address, header, text or measure of it is ever written to the ledger; its neighbour is recorded whole."""
    listed(home, tmp_path)
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    check_reduced(home, site)
    url = site.url("/a.png")
    for table, column in (("fetch", "url"), ("fetch", "hops_json"), ("occurrence", "image_url"), ("occurrence", "alt")):
        held = [v for (v,) in ask(home, f'SELECT {column} FROM "{table}" WHERE {column} IS NOT NULL')]  # noqa: S608
        assert not any(url in v or "of a" in v or "green pear" in v for v in held)
    assert ask(home, "SELECT width, pdq, size_bytes FROM content WHERE content_sha256 = ?", LISTED) == [(None,) * 3]
    assert ask(home, "SELECT count(*) FROM caption WHERE content_sha256 = ?", LISTED) == [(0,)]
    assert told(home, "verify")["ok"]


def test_one_that_was_crawled_before_its_list_came_is_reduced_by_decide(home: Home, site: Site, tmp_path: Path) -> None:
    """Its pixels go at once; what is newest says no more than a crawl would, and stays so, whoever crawls again."""
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    assert LISTED in PixelStore(home.pixels_path)
    listed(home, tmp_path)
    assert told(home, "decide")["pixels_deleted"] == 1
    check_reduced(home, site)
    rows = ask(home, "SELECT count(*) FROM evidence")
    told(home, "decide")
    told(home, "decide")
    assert ask(home, "SELECT count(*) FROM evidence") == rows
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    check_reduced(home, site)
    assert told(home, "verify")["ok"]


def test_why_tells_it_and_no_sheet_shows_it(home: Home, site: Site, tmp_path: Path) -> None:
    """By its URL as by its hash `why` says which list; a sheet of everything has the other picture alone."""
    listed(home, tmp_path)
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    for query in (site.url("/a.png"), LISTED, pair_of(home)):
        text = run(home, "why", query).stdout
        assert "Quarantined" in text
        assert "An imported list names it" in text or "A list that the operator imported names it" in text
        assert f"sha256 {LISTED}" in text
        assert "green pear" not in text
        assert "/a.png" not in text
    shown = told(home, "sheet", tmp_path / "all.html")
    assert shown["shown"] == 1
    page = (tmp_path / "all.html").read_text()
    assert "red apple" in page
    assert "green pear" not in page


def test_taken_off_the_list_it_waits_for_its_page(home: Home, site: Site, tmp_path: Path) -> None:
    """Nothing is known of it by then that would permit it; the next crawl of its page sees it as for the first time."""
    listed(home, tmp_path)
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    (tmp_path / "hashes.txt").write_text("0" * 64)
    told(home, "policy", "import", tmp_path / "hashes.txt", "--kind", "sha256")
    told(home, "decide")
    pair = pair_of(home)
    ((verdict,),) = ask(home, "SELECT verdict FROM standing WHERE pair_key = ?", pair)
    assert verdict != "allow"
    told(home, "recheck")  # it has no source that could be asked
    told(home, "crawl", site.url("/"))
    told(home, "decide")
    assert ask(home, "SELECT verdict FROM standing WHERE pair_key = ?", pair) == [("allow",)]
    assert LISTED in PixelStore(home.pixels_path)
    assert "green pear" in run(home, "why", site.url("/a.png")).stdout
