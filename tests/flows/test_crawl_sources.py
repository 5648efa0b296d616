"""Where a crawl's pictures come from beside seeds, and what is asked again: lists, archives, folders, the ledger."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pixel_store import PixelStore
from flows import settings
from flows.home import Home
from flows.stages import crawl, decide, recheck
from flows.stages.crawl import CrawlSummary, Job
from policy import audit
from policy.errors import InputError, IntegrityError
from tests.builders import LOOKED, ask, leftovers, policy_without, replaced
from tests.curation.archives import compressed, response
from tests.flows.downloaded import downloaded
from tests.flows.site import Answer, Site, picture

BY = "https://creativecommons.org/licenses/by/4.0/"


@pytest.fixture
def site() -> Iterator[Site]:
    pictures = {f"/{name}.png": Answer(picture(n), "image/png") for n, name in enumerate(("a", "b", "c"))}
    page = f'<link rel=license href="{BY}"><img src=a.png alt="a red apple"><img src=b.png alt="a green pear">'
    with Site({"/": Answer(page.encode()), "/robots.txt": Answer(b"", "text/plain"), **pictures}) as site:
        yield site


@pytest.fixture
def make(tmp_path: Path, site: Site, fresh_home: Callable[..., Home]) -> Callable[..., Home]:
    """A home that may crawl the site; keyword arguments replace settings."""

    def make(**changes: str) -> Home:
        lines = {
            "allow_addresses = [] ": f'allow_addresses = ["{site.address}"] ',
            "decode_workers = 2": "decode_workers = 1",
            "retries = 2 ": "retries = 0 ",
            **{_line(name): f"{name} = {value} " for name, value in changes.items()},
        }
        # Faces are looked for elsewhere: their detector takes longer to load than these pictures to crawl.
        text, policy = replaced(settings.DEFAULT_TEXT, lines), policy_without("faces", *LOOKED)
        return fresh_home(tmp_path / "home", settings_text=text, policy_text=policy)

    return make


def _line(name: str) -> str:
    """The default line of a setting, up to its comment."""
    line = next(line for line in settings.DEFAULT_TEXT.splitlines() if line.startswith(f"{name} = "))
    return line.partition("#")[0].rstrip() + (" " if "#" in line else "")


def outcomes(summary: CrawlSummary, kind: str) -> dict[str, int]:
    return {outcome: n for (k, outcome), n in summary.outcomes if k == kind}


def verdicts(home: Home) -> dict[str, tuple[str, str]]:
    """Path of each picture -> its standing verdict and reason."""
    decide.decide(home)
    rows = ask(
        home,
        "SELECT DISTINCT image_url, verdict, reason_code FROM occurrence JOIN standing USING (pair_key)",
    )
    return {url.rpartition("/")[2]: (verdict, reason) for url, verdict, reason in rows}


def crawled(home: Home, *sources: crawl.Source, **job: Any) -> CrawlSummary:
    return crawl.crawl(home, Job(sources=sources, **job))


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_is_crawled_and_judged_by_what_it_says(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """Each picture of a list is asked once, behind its origin's documents; text and licence are the list's."""
    home = make()
    rows = [
        ("url", "caption", "license"),
        (site.url("/a.png"), "a red apple", BY),
        (site.url("/b.png"), "a green pear", ""),
        (site.url("/a.png"), "the apple of my eye", BY),
        (site.url("/none.png"), "nothing", BY),
        ("no url", "x", BY),
    ]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    summary = crawled(home, crawl.source("url-list", str(tmp_path / "list.csv")))
    assert outcomes(summary, "picture") == {"ok": 2, "http-404": 1}
    assert outcomes(summary, "source") == {"list: bad-url": 1}
    assert summary.pairs == 4
    assert site.requests["/a.png"] == 1
    said = verdicts(home)
    assert said["a.png"][0] == "allow"
    assert said["b.png"][1] == "licence-unknown"
    assert ask(home, "SELECT DISTINCT text_origin FROM occurrence") == [("given",)]
    assert not leftovers(home)


def test_bytes_that_are_not_the_lists_keep_the_sample_out(
    make: Callable[..., Home], site: Site, tmp_path: Path
) -> None:
    """What a list says of other bytes than those that hang there now is said of nothing here."""
    home = make()
    right = hashlib.sha256(site.answers["/a.png"].body).hexdigest()
    table = pa.table(
        {
            "url": [site.url("/a.png"), site.url("/b.png")],
            "caption": ["a red apple", "a green pear"],
            "license": [BY, BY],
            "sha256": [right, right],
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    crawled(home, crawl.source("url-list", str(tmp_path / "list.parquet")))
    said = verdicts(home)
    assert said["a.png"][0] == "allow"
    assert said["b.png"] == ("defer", "fetch-failed")


def test_columns_of_other_names_are_named(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """Where no column is known as the address, those found and those expected are named; one may say which it is."""
    home = make()
    pq.write_table(pa.table({"link": [site.url("/a.png")], "words": ["a red apple"]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match="link"):
        crawl.source("url-list", str(tmp_path / "list.parquet"))
    columns = crawl.read_columns(["url=link", "text=words"])
    summary = crawled(home, crawl.source("url-list", str(tmp_path / "list.parquet"), columns))
    assert summary.pairs == 1


def test_the_page_that_a_list_names_has_a_say(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """Its origin's documents are asked though the page itself is not; its robots.txt can keep the picture out."""
    with Site({"/robots.txt": Answer(b"User-agent: *\nDisallow: /closed\n", "text/plain")}) as pages:
        home = make(allow_addresses=f'["{site.address}", "{pages.address}"]')
        rows = f"url,page_url\n{site.url('/a.png')},{pages.url('/closed')}\n{site.url('/b.png')},{pages.url('/open')}\n"
        (tmp_path / "list.csv").write_text(rows)
        crawled(home, crawl.source("url-list", str(tmp_path / "list.csv")))
        assert pages.requests["/robots.txt"] == 1
        assert pages.requests["/closed"] == pages.requests["/open"] == 0
    assert verdicts(home) == {"a.png": ("deny", "robots-disallow"), "b.png": ("defer", "caption-missing")}


def test_a_list_that_ends_early_is_refused_and_leaves_no_crawl(
    make: Callable[..., Home], site: Site, tmp_path: Path
) -> None:
    """It is named, with how many rows came before, and nothing stays that would have to be finished."""
    home = make()
    whole = gzip.compress(b"".join(f"{site.url('/a.png')}?{n}\n".encode() for n in range(20_000)))
    (tmp_path / "list.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="rows came before"):
        crawled(home, crawl.source("url-list", str(tmp_path / "list.txt.gz")))
    assert crawl.unfinished(home) == []


@pytest.mark.parametrize(("kind", "name"), [("url-list", "no.csv"), ("warc", "no.warc"), ("img2dataset", "no")])
def test_what_is_not_there_is_named(make: Callable[..., Home], tmp_path: Path, kind: Any, name: str) -> None:
    """A source that does not exist ends in one message, before a crawl is begun."""
    home = make()
    with pytest.raises(InputError, match=r"[Nn]o such file"):
        crawled(home, crawl.source(kind, str(tmp_path / name)))
    assert crawl.unfinished(home) == []


# ── archives ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pages_of_a_warc_are_as_if_they_had_been_asked(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """An archive's pages give the same pairs as asking them; their pictures are asked live, the pages are not."""
    home = make()
    page = site.answers["/"].body
    (tmp_path / "pages.warc.gz").write_bytes(compressed(response(site.url("/"), page)))
    summary = crawled(home, crawl.source("warc", str(tmp_path / "pages.warc.gz")))
    assert outcomes(summary, "picture") == {"ok": 2}
    assert site.requests["/"] == 0
    archived = ask(home, "SELECT image_url, alt, hints_json FROM occurrence ORDER BY ALL")
    crawl.crawl(home, (site.url("/"),))
    live = ask(home, "SELECT DISTINCT image_url, alt, hints_json FROM occurrence ORDER BY ALL")
    assert archived == live
    [(observed,)] = ask(home, "SELECT DISTINCT observed_at FROM evidence ORDER BY 1 LIMIT 1")
    assert observed.isoformat() == "2026-11-02T03:04:05"  # as old as the archive


def test_an_archive_that_ends_early_gives_what_came_before(
    make: Callable[..., Home], site: Site, tmp_path: Path
) -> None:
    """The damage is named and counted; the pages before it count."""
    home = make()
    page = site.answers["/"].body
    whole = compressed(response(site.url("/"), page), response(site.url("/other"), page))
    (tmp_path / "cut.warc.gz").write_bytes(whole[:-40])
    summary = crawled(home, crawl.source("warc", str(tmp_path / "cut.warc.gz")))
    assert summary.pairs == 2
    assert [what for what in outcomes(summary, "source") if "damage" in what]


def test_a_killed_reading_of_an_archive_goes_on_where_it_was(
    make: Callable[..., Home], site: Site, tmp_path: Path
) -> None:
    """Parts that are there are used, whatever became of the rest; nothing is read twice."""
    home = make(pages_per_unit="2")
    pages = [response(site.url(f"/p{n}"), f'<img src="/a.png" alt="a red apple {n}">'.encode()) for n in range(7)]
    file = tmp_path / "pages.warc.gz"
    file.write_bytes(compressed(*pages))
    name = crawl.open_crawl(home, Job(sources=(crawl.source("warc", str(file)),)))
    crawl.read_sources(home, name)
    parts = sorted((home.crawls_path / name / "parts" / "pages").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    times = {p.name: p.stat().st_mtime_ns for p in parts[:2]}
    for part in parts[2:]:
        part.unlink()
    summary = crawled(home, crawl.source("warc", str(file)))
    assert summary.crawl == name
    assert summary.pairs == 7
    assert outcomes(summary, "page") == {"ok": 7}
    assert times.keys() <= {p.name for p in parts}


# ── folders of img2dataset ─────────────────────────────────────────────────────────────────────────────────────────


def _folder(site: Site, path: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """What img2dataset would have left of the site's pictures, with all re-encoding off."""
    return downloaded(path, {site.url(f"/{name}.png"): site.answers[f"/{name}.png"].body for name in names}, BY)


def test_what_others_fetched_waits_until_we_have_asked(make: Callable[..., Home], site: Site, tmp_path: Path) -> None:
    """Nothing of an img2dataset folder is used before our own fetcher has seen headers, hops and the same bytes."""
    home = make()
    summary = crawled(home, crawl.source("img2dataset", str(_folder(site, tmp_path / "folder"))))
    assert outcomes(summary, "picture") == {"imported": 2}
    assert not site.requests["/a.png"]
    assert {v for v in verdicts(home).values()} == {("defer", "not-observed")}
    site.answers["/b.png"] = Answer(picture(77), "image/png")
    done = recheck.recheck(home)
    assert done.imported == 2
    assert site.requests["/a.png"] == 1
    said = verdicts(home)
    assert said["a.png"][0] == "allow"
    _, rows = audit.run(home.snapshot_path, "changed_content", {})
    assert [row[0].rpartition("/")[2] for row in rows] == ["b.png"]
    # The bytes that were imported are not those that hang there, and are used for nothing.
    now = hashlib.sha256(site.answers["/b.png"].body).hexdigest()
    assert ask(home, "SELECT content_sha256 FROM trainable WHERE image_url LIKE '%b.png'") in ([], [(now,)])
    assert recheck.recheck(home).imported == 0


def test_a_folder_with_missing_parts_is_told_and_the_rest_goes_on(
    make: Callable[..., Home], site: Site, tmp_path: Path
) -> None:
    """Rows without bytes are counted, pictures that are there are imported."""
    home = make()
    folder = _folder(site, tmp_path / "folder")
    with (folder / "00000.tar").open("r+b") as tar:
        tar.truncate(4096)
    summary = crawled(home, crawl.source("img2dataset", str(folder)))
    assert any(what.startswith("folder: ") for what in outcomes(summary, "source"))


# ── asked again ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_failed_in_passing_is_retried(make: Callable[..., Home], site: Site) -> None:
    """--retry transient asks what may answer now, nothing else; the pair's evidence then holds the picture."""
    home = make()
    site.answers["/b.png"] = Answer(b"", "text/plain", 503)
    first = crawl.crawl(home, (site.url("/"),))
    assert outcomes(first, "picture") == {"ok": 1, "http-503": 1}
    site.answers["/b.png"] = Answer(picture(1), "image/png")
    before = site.requests.copy()
    again = crawl.crawl(home, Job(again="transient"))
    assert outcomes(again, "picture") == {"ok": 1}
    assert site.requests - before == {"/b.png": 1}
    assert verdicts(home)["b.png"][0] == "allow"
    assert crawl.crawl(home, Job(again="transient")).pictures == 0


def test_a_seed_that_failed_is_retried_with_what_hangs_on_it(make: Callable[..., Home], site: Site) -> None:
    """A page that answers on a later try gives its pairs then."""
    home = make()
    page, site.answers["/"] = site.answers["/"], Answer(b"", "text/plain", 502)
    with pytest.raises(InputError, match="http-502"):
        crawl.crawl(home, (site.url("/"),))
    site.answers["/"] = page
    assert crawl.crawl(home, Job(again="transient")).pairs == 2


def test_what_has_not_changed_is_confirmed_not_fetched(make: Callable[..., Home], site: Site) -> None:
    """A crawl of what is stale asks by ETag; a 304 renews the evidence, and hears what its headers say."""
    home = make()
    for path in ("/", "/a.png", "/b.png"):
        site.answers[path].headers.append(("ETag", f'"{path}"'))
    crawl.crawl(home, (site.url("/"),))
    assert verdicts(home)["a.png"][0] == "allow"
    before = ask(home, "SELECT count(*) FROM evidence")
    site.answers["/b.png"].headers.append(("X-Robots-Tag", "noai"))
    again = crawl.crawl(home, Job(again="stale"))
    assert outcomes(again, "page") == {"not-modified": 1}
    assert outcomes(again, "picture") == {"not-modified": 2}
    assert site.confirmed == {"/": 1, "/a.png": 1, "/b.png": 1}
    assert again.changed == 0
    assert ask(home, "SELECT count(*) FROM evidence") > before
    said = verdicts(home)
    assert said["a.png"][0] == "allow"
    assert said["b.png"] == ("deny", "x-robots-noai")


def test_a_no_that_a_304_does_not_repeat_still_stands(make: Callable[..., Home], site: Site) -> None:
    """Headers that a confirmation leaves out are those of before (RFC 9111, 3.2)."""
    home = make()
    site.answers["/a.png"].headers += [("ETag", '"a"'), ("X-Robots-Tag", "noai")]
    page = site.answers["/"]
    crawl.crawl(home, (site.url("/"),))
    site.answers["/a.png"].headers.remove(("X-Robots-Tag", "noai"))
    site.answers["/"] = page
    crawl.crawl(home, Job(again="stale"))
    assert verdicts(home)["a.png"] == ("deny", "x-robots-noai")


def test_other_bytes_under_the_same_url_are_flagged(make: Callable[..., Home], site: Site) -> None:
    """A re-crawl counts what has changed; the audit names it, with what was seen first."""
    home = make()
    crawl.crawl(home, (site.url("/"),))
    first = hashlib.sha256(site.answers["/a.png"].body).hexdigest()
    site.answers["/a.png"] = Answer(picture(99), "image/png")
    again = crawl.crawl(home, Job(again="stale"))
    assert again.changed == 1
    columns, rows = audit.run(home.snapshot_path, "changed_content", {})
    [row] = [dict(zip(columns, row, strict=True)) for row in rows]
    assert row["url"] == site.url("/a.png")
    assert row["first_sha256"] == first
    assert row["sha256_now"] == hashlib.sha256(site.answers["/a.png"].body).hexdigest()


def test_a_source_that_is_silent_leaves_what_stands(make: Callable[..., Home], site: Site) -> None:
    """A re-crawl that gets no picture changes no verdict: what was observed counts until its age is over."""
    home = make()
    crawl.crawl(home, (site.url("/"),))
    site.answers["/a.png"] = Answer(b"", "text/plain", 503)
    crawl.crawl(home, Job(again="stale"))
    assert verdicts(home)["a.png"][0] == "allow"


# ── sitemaps and paths ─────────────────────────────────────────────────────────────────────────────────────────────


def test_sitemaps_that_robots_names_are_followed(make: Callable[..., Home], site: Site) -> None:
    """What a seed's sitemaps list is crawled as its links are: on the same site, and once."""
    home = make()
    locations = "".join(f"<url><loc>{u}</loc></url>" for u in (site.url("/deep"), "http://elsewhere.example/x"))
    site.answers["/robots.txt"] = Answer(f"Sitemap: {site.url('/index.xml')}\n".encode(), "text/plain")
    opening = '<?xml version="1.0"?><{} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    index = opening.format("sitemapindex") + f"<sitemap><loc>{site.url('/map.xml')}</loc></sitemap></sitemapindex>"
    site.answers["/index.xml"] = Answer(index.encode(), "application/xml")
    site.answers["/map.xml"] = Answer((opening.format("urlset") + locations + "</urlset>").encode(), "application/xml")
    site.answers["/deep"] = Answer(b'<img src="/c.png" alt="a blue plum">')
    crawl.crawl(home, (site.url("/"),))
    assert site.requests["/deep"] == site.requests["/c.png"] == 1
    assert ask(home, "SELECT count(*) FROM occurrence WHERE image_url LIKE '%/c.png'") == [(1,)]


def test_links_are_followed_where_paths_let_them(make: Callable[..., Home], site: Site) -> None:
    """`paths` and `skip_paths` say which links are followed; seeds are asked whatever they say."""
    home = make(paths='["/in/"]', skip_paths='["/in/*secret"]')
    site.answers["/"] = Answer(
        b'<a href="/in/1">1</a><a href="/in/my-secret">2</a><a href="/out/3">3</a><img src=a.png alt="a red apple">'
    )
    for path in ("/in/1", "/in/my-secret", "/out/3"):
        site.answers[path] = Answer(b"<p>nothing")
    crawl.crawl(home, (site.url("/"),))
    assert [site.requests[p] for p in ("/", "/in/1", "/in/my-secret", "/out/3")] == [1, 1, 0, 0]


# ── what is asked for on the command line ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retry": "transient", "stale": "30d"}, "not for both"),
        ({"retry": "transient", "seeds": ("http://a.example/",)}, "comes from the ledger"),
        ({"stale": "soon"}, "is no age"),
        ({"engine": "img2dataset", "seeds": ("http://a.example/",)}, "downloads lists"),
        ({"seeds": ("no-url",)}, "no http"),
    ],
)
def test_what_does_not_go_together_is_refused(
    make: Callable[..., Home], arguments: dict[str, Any], message: str
) -> None:
    """Options that contradict each other end in one message, and no crawl is begun."""
    home = make()
    with pytest.raises(InputError, match=message):
        crawl.job(home, arguments.pop("seeds", ()), **arguments)
    assert not list(home.crawls_path.glob("*"))


def test_pixels_that_no_row_speaks_of_go(make: Callable[..., Home], site: Site) -> None:
    """What a killed unit had kept and did not find again leaves no orphan behind."""
    home = make()
    store = PixelStore(home.pixels_path)
    store.put("0" * 64, b"left by a kill")
    store.settle()
    crawl.crawl(home, (site.url("/"),))
    assert "0" * 64 not in store
    assert len(list(store.keys())) == 2


def test_a_part_that_cannot_be_read_is_named(make: Callable[..., Home], site: Site) -> None:
    """A damaged part stops the command with its name; deleting it runs its unit again."""
    home = make()
    name = crawl.open_crawl(home, (site.url("/"),))
    while units := crawl.page_units(home, name):
        for unit in units:
            crawl.run_page_unit(home, name, unit)
    crawl.run_image_units(home, name, crawl.image_units(home, name))
    [part] = (home.crawls_path / name / "parts" / "pictures").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=part.name):
        crawl.append_crawl(home, name)
    part.unlink()
    assert crawl.crawl(home, (site.url("/"),)).pairs == 2
