"""The README is true: every command in it runs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pixel_store import PixelStore
from flows.home import Home
from flows.museum import Museum
from flows.stages import grants
from flows.stages.removing import requests
from tests.builders import DATASET, ROOT, Custody, Journey, ask
from tests.curation.archives import compressed, described, response, wat_record
from tests.flows.downloaded import downloaded

pytestmark = pytest.mark.timeout(900)

README = (ROOT / "README.md").read_text("utf-8")
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
CASE = {"url": "https://a.example/p.png", "robots": {"status": 404}}


def test_every_command_of_the_readme_runs(
    journey: Journey,
    museum: Museum,
    custody: Custody,
    copy_of: Callable[[Home], Home],
    tmp_path: Path,
) -> None:
    """Each `custody` line, in the README's order and with this test's names for its examples, ends with exit 0."""
    home = copy_of(journey.home)
    names = _examples(home, museum, journey, tmp_path)
    ran = []
    for line in LINES:
        if not line.startswith("custody "):
            continue
        if " ID" in line or "/ID" in line:
            names["ID"] = requests.list_removals(home)[-1].id
            names["papers/ID.json"] = f"{names['papers']}/{names['ID']}.json"
        if " GRANT " in line:
            names["GRANT"] = grants.list_grants(home)[-1].id
        arguments = [names.get(a, a) for a in shlex.split(line)[1:]]
        arguments = [a.replace("NAME", names["NAME"]) for a in arguments]
        target = home
        if "--home" in arguments:  # a home of its own
            at = arguments.index("--home")
            target, arguments = Home(tmp_path / arguments[at + 1]), arguments[:at] + arguments[at + 2 :]
        if arguments == ["schedule"]:
            arguments.append("--once")  # else it serves until it is interrupted
        done = custody.run(target, *arguments)
        assert done.status == 0, f"{line}\n{done.err}"
        ran.append(arguments[0])
    assert set(ran) >= {"init", "crawl", "caption", "train", "why", "audit", "removal", "trace", "schedule", "inspect"}
    assert set(ran) >= {"policy", "recheck", "grant"}


def _examples(home: Home, museum: Museum, journey: Journey, folder: Path) -> dict[str, str]:
    """What stands for the README's example names: a URL that was sealed and is allowed, files, a checkpoint."""
    [(url, sha256)] = ask(
        home,
        "SELECT o.image_url, s.content_sha256 FROM slot s JOIN occurrence o USING (pair_key) "
        "WHERE s.dataset = ? AND s.caption_origin = 'alt' ORDER BY s.ordinal DESC LIMIT 1",
        DATASET,
    )
    picture, page, cases = folder / "picture.jpg", folder / "saved.html", folder / "cases.jsonl"
    picture.write_bytes(PixelStore(home.pixels_path).get(sha256))
    page.write_text('<img src="/apple.png" alt="red apple">')
    cases.write_text(json.dumps(CASE) + "\n")
    opt_out, agreement = folder / "opt-out.csv", folder / "agreement.pdf"
    opt_out.write_text("url\nhttps://example.org/gallery/pear.png\n")
    agreement.write_bytes(b"%PDF-1.7 signed")
    pages = museum.url("garden")
    warc, wat, listed = folder / "pages.warc.gz", folder / "pages.warc.wat.gz", folder / "pictures.parquet"
    html = f'<img src="{url}" alt="red apple">'.encode()
    warc.write_bytes(compressed(response(f"{pages}archived", html)))
    wat.write_bytes(compressed(wat_record(f"{pages}archived", described(html))))
    pq.write_table(pa.table({"picture_link": [url], "caption": ["red apple"]}), listed)
    return {
        "https://example.org/gallery/": pages,
        "pages.warc.gz": str(warc),
        "pages.warc.wat.gz": str(wat),
        "pictures.parquet": str(listed),
        "downloaded/": str(downloaded(folder / "downloaded", {url: picture.read_bytes()})),
        "https://example.org/gallery/apple.png": url,
        "picture.png": str(picture),
        "saved.html": str(page),
        "cases.jsonl": str(cases),
        "opt-out.csv": str(opt_out),
        "agreement.pdf": str(agreement),
        "apples.png": str(folder / "apples.png"),
        "noise-to-apple.png": str(folder / "strip.png"),
        "captioned.html": str(folder / "captioned.html"),
        "doubtful.png": str(folder / "doubtful.png"),
        "papers": str(folder / "papers"),
        "NAME": str(journey.said["train"]["checkpoints"][-1]["id"]),
    }


def test_plain_duckdb_answers_the_readme_question(journey: Journey, custody: Custody) -> None:
    """The SQL that the README gives an auditor runs in plain DuckDB on the published snapshot."""
    [line] = [line for line in LINES if line.startswith("duckdb ")]
    custody(journey.home, "audit", "licences")
    with duckdb.connect(str(journey.home.snapshot_path), read_only=True) as connection:
        assert len(connection.execute(shlex.split(line)[-1]).fetchall()) == 5


def test_the_two_commands_are_targets() -> None:
    """`make demo` and `make test` exist, and CI calls nothing else."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in LINES:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text("utf-8").strip().endswith("exec make test")


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """Every file that the README links is in the repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
