"""A removal over the whole life of a home: crawled, sealed, trained, drawn from, reported on, removed; nothing is left.

    make prove PROOF=lifecycle

A photographer's page with two pictures is crawled beside the demo museum, and all of the job is done by the real flows
under a real Prefect server, whose database and logs lie in the home: crawl, look, caption (by a CLIP that saw them),
seal, train, sample, export, contact sheets. Then the photographer asks, by name, that her pictures go. What they are
known by is gathered and held in memory, and the home is read three times: before anything was decided every kind of
value must be found, or nothing would be proven; after the flow `handle-removals`, and once more after `replay-models`
rid the models of them, none may be, and everything must have been read. Prefect's database is read with the rest, which
is shown by values that must be in it.

At the end controls are laid into the home, as somebody might have: a TensorBoard file with a picture and its caption
(this project writes none), a grid without loss, a note with the requester's name. The same search must find each.
What is under .proofs/lifecycle can be deleted.
"""

from __future__ import annotations

import html
import io
import json
import os
import shutil
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import connect
from typing import Any

import numpy as np
from click.testing import CliRunner
from PIL import Image, ImageOps

from curation.shard_reader import DatasetReader
from flows.cli import cli
from flows.home import Home
from flows.museum import CC0, Museum
from flows.stages.removing.needles import Needles, gather
from flows.stages.removing.scanning import ScanReport, scan_home
from flows.stages.train import code_version
from policy.durable import write_durably
from tests.builders import DATASET, ROOT, SINGLE_THREAD, ask, make_home, replaced, stages
from tests.flows.site import Answer, Site
from tests.proofs.resumable import publish

FOLDER = ROOT / ".proofs" / "lifecycle"
MUSEUM_PICTURES = 60
CREATOR = "Nora Quillfeather"
REQUESTER = "Ottoline Quillfeather-Abernathy <ottoline@quillfeather.example>"
ALT = "a paper kite in the shape of an owl above the dunes"
CAPTION = "a blue rowing boat with a lantern on a frozen pond"
DESCRIPTION = "kite festival, frame seventeen of the second roll"
ARTIST = f"{CREATOR}, studio on the quay"
PAGE = "/portfolio/"
PATHS = ("/portfolio/osk-kite-17.jpg", "/portfolio/osk-boat-04.jpg")
# What must be found before: all that a picture is known by, but what lies encrypted, and captions: what a model chose
# is the text of others, who stay.
FOUND_BEFORE = frozenset(
    {
        *("image_url", "page_url", "address", "url_key", "page_key", "pair_key", "sample_key", "sha256", "md5", "pdq"),
        *("picture", "vector", "alt", "creator", "embedded", "page_text", "evidence_id"),
    }
)
ONLY_BY_CONTROLS = frozenset({"requester", "pixels"})  # encrypted; rows of pixels, as in a picture without loss


@dataclass(slots=True)
class Told:
    """What the home was found to hold at each reading, and what did not go as it must."""

    reports: dict[str, ScanReport] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


def main() -> int:
    """0 when every kind of value was there before, none is afterwards, and each control was found."""
    started = time.monotonic()
    os.environ.update(SINGLE_THREAD | {"PREFECT_LOGGING_LEVEL": "DEBUG"})  # as much in Prefect's logs as there can be
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    told = Told()
    with Museum(0, limit=MUSEUM_PICTURES) as museum, Site(_pages()) as site:
        site.answers |= {PAGE: _portfolio(site), "/": Answer(f'<a href="{PAGE}">Portfolio</a>'.encode())}
        home = _begin(FOLDER / "home", museum, site)
        needles, rendition, logged = _live(home, museum, site, told)
    _control(home, needles, rendition, told)
    for one in told.wrong:
        print(one, file=sys.stderr)
    _publish(told, logged, time.monotonic() - started)
    return 1 if told.wrong else 0


# ── a photographer's page ──────────────────────────────────────────────────────────────────────────────────────────


def _pages() -> dict[str, Answer]:
    answers = {path: Answer(_photo(seed), "image/jpeg") for seed, path in enumerate(PATHS, 41)}
    return answers | {"/robots.txt": Answer(b"User-agent: *\nAllow: /\n", "text/plain")}


def _photo(seed: int) -> bytes:
    """A picture with structure, unlike any other, with what a camera and its owner write into it."""
    drawn = np.random.default_rng(seed)
    blocks = drawn.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks).resize((320, 320), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = f"{DESCRIPTION} {seed}", ARTIST
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=92, exif=exif)
    return held.getvalue()


def _portfolio(site: Site) -> Answer:
    """Two pictures, one with an alt text and one with words below it, and who made them."""
    claims = [
        {
            "@context": "https://schema.org",
            "@type": "ImageObject",
            "contentUrl": site.url(path),
            "license": CC0,
            "creator": {"@type": "Person", "name": CREATOR},
        }
        for path in PATHS
    ]
    marked = "".join(f'<script type="application/ld+json">{json.dumps(claim)}</script>' for claim in claims)
    shown = (
        f'<img src="{PATHS[0]}" alt="{html.escape(ALT)}">'
        f'<figure><img src="{PATHS[1]}"><figcaption>{html.escape(CAPTION)}</figcaption></figure>'
    )
    licence = f'<a rel="license" href="{CC0}">CC0</a>'
    return Answer(f"<!doctype html><title>Portfolio</title>{marked}{licence}{shown}".encode())


# ── the life of a home ─────────────────────────────────────────────────────────────────────────────────────────────


def _begin(path: Path, museum: Museum, site: Site) -> Home:
    home = make_home(path, museum)
    lists = {
        f"seeds = {json.dumps(list(museum.seeds))}": f"seeds = {json.dumps([*museum.seeds, site.url('/')])}",
        json.dumps(list(museum.addresses)): json.dumps([*museum.addresses, site.address]),
    }
    write_durably(home.settings_path, replaced(home.settings_path.read_text("utf-8"), lists).encode())
    return Home.open(path)


def _live(home: Home, museum: Museum, site: Site, told: Told) -> tuple[Needles, bytes, Mapping[str, int]]:
    """From the crawl to the replayed models, under the home's own Prefect server.

    What to look for; the file of a sealed picture of these; rows of Prefect's tables.
    """
    from flows.caption_images import caption_images
    from flows.crawl_pages import crawl_pages
    from flows.handle_removals import handle_removals, replay_models
    from flows.look_at_images import look_at_images
    from flows.prefect_server import prefect_server
    from flows.publish_reports import publish_reports
    from flows.seal_shards import seal_shards
    from flows.steps import run
    from flows.train_model import train_model

    place = str(home.path)
    with prefect_server(home.path / "prefect"):
        for step in (crawl_pages, look_at_images, caption_images):
            run(step, place)
        where = f"{stages(museum)['seal'][-1]} OR page_url LIKE '{site.url('')}%'"
        run(seal_shards, place, where=where, name=DATASET)
        trained = run(train_model, place, DATASET)
        _report(home, str(trained["run"]), told)
        run(publish_reports, place)
        slots = ask(home, "SELECT ordinal, pair_key FROM slot JOIN occurrence USING (pair_key) WHERE dataset = ? "
                          "AND page_url = ?", DATASET, site.url(PAGE))  # fmt: skip
        told.must(len(slots) == len(PATHS), f"{len(slots)} of the {len(PATHS)} pictures were sealed")

        with DatasetReader.open(home.dataset(DATASET)) as reader:
            rendition = reader.image_bytes(slots[0][0]) or b""
        who = FOLDER / "requester.txt"
        who.write_text(REQUESTER)
        removal = str(_custody(home, "removal", "add", "--creator", CREATOR, "--requester-file", str(who))["id"])
        with home.ledger(readonly=True) as ledger:
            needles = gather(home, ledger, [removal])
        told.reports["before"] = before = scan_home(home, needles)
        kinds = {hit.kind for hit in before.hits}
        told.must(kinds >= FOUND_BEFORE, f"not found before: {sorted(FOUND_BEFORE - kinds)}")
        told.must(set(needles.kinds) >= ONLY_BY_CONTROLS, "the requester's name or the pixels are not looked for")
        told.must(any("sheet.html" in hit.where for hit in before.hits), "the contact sheet shows neither picture")

        _custody(home, "removal", "approve", removal, "--by", "A. Reviewer", "--reason", "her own pictures")
        counts = run(handle_removals, place)
        told.must(isinstance(counts, dict) and counts.get("now applied") == 1, f"the flow said {counts}")
        _must_be_clean(home, needles, told, "after handle-removals")
        served = run(replay_models, place)
        told.must(served.get("replay exact") == 1, f"the models' flow said {served}")
        run(publish_reports, place)
        _custody(home, "removal", "forget", removal, "--by", "A. Reviewer")
        _must_be_clean(home, needles, told, "after replay-models")
        told.must(_custody(home, "verify") == {"ok": True, "failures": []}, "the home does not verify")
        receipt = sorted(home.receipts_path.glob("*.json"))[-1]
        told.must(_custody(home, "removal", "verify", str(receipt))["ok"], "the receipt does not verify")
    _must_be_clean(home, needles, told, "the server ended")
    return needles, rendition, _prefect_is_read(home, told)


def _report(home: Home, run_name: str, told: Told) -> None:
    """What people draw and write out of a home, in the home."""
    _custody(home, "sample", ALT, CAPTION, "--per-prompt", "1")
    for name in ("sheet.html", "sheet.png"):
        _custody(home, "sheet", str(home.path / "reports" / name), "--limit", "500")
    export = _custody(home, "export", run_name, str(home.path / "exports" / "first"), "--recipient", "a gallery")
    told.must(bool(export), "nothing was exported")


def _custody(home: Home, *arguments: str) -> Any:
    """A command in this process, which must succeed; what it printed as JSON."""
    done = CliRunner().invoke(cli, [*arguments, "--home", str(home.path), "--json"], prog_name="custody")
    if done.exit_code != 0:
        raise RuntimeError(f"custody {arguments[:2]}: exit {done.exit_code}\n{done.stderr}") from done.exception
    return json.loads(done.stdout)


# ── what is found ──────────────────────────────────────────────────────────────────────────────────────────────────


def _must_be_clean(home: Home, needles: Needles, told: Told, when: str) -> None:
    told.reports[when] = report = scan_home(home, needles)
    places = sorted({f"{hit.kind} in {hit.where}" for hit in report.hits})
    told.must(not places, f"{when}: {places}")
    told.must(not report.unread, f"{when}, unread: {[f'{one.where}: {one.why}' for one in report.unread]}")


def _prefect_is_read(home: Home, told: Told) -> Mapping[str, int]:
    """Rows of Prefect's tables; a name of a flow that stands in its database must be found there by the same scan."""
    database = home.path / "prefect" / "prefect.db"
    with closing(connect(f"file:{database}?mode=ro", uri=True)) as opened:
        tables = ("flow_run", "task_run", "log", "artifact", "events")
        rows = {name: opened.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608
    told.must(rows["flow_run"] > 5 and rows["log"] > 0, f"Prefect's database holds {rows}")
    found = scan_home(home, Needles.of_values(["handle-removals"]))
    where = {hit.where.partition(":")[0] for hit in found.hits}
    told.must(any("prefect.db" in one for one in where), f"what stands in Prefect's database was found in {where}")
    return rows


def _control(home: Home, needles: Needles, rendition: bytes, told: Told) -> None:
    """What somebody lays into the home afterwards is found, each by its kind."""
    made = (
        ("events.out.tfevents.1", tensorboard_image(CAPTION, _png(_photo(41))), {"alt", "picture"}),
        ("grid.png", _png(rendition, beside=40), {"picture"}),
        ("note.txt", f"asked by {REQUESTER}\n".encode(), {"requester"}),
    )
    for name, body, expected in made:
        path = home.path / "reports" / name
        write_durably(path, body)
        found = {hit.kind for hit in scan_home(home, needles).hits if name in hit.where}
        told.must(found >= expected, f"in {name} {sorted(found)} was found, not {sorted(expected)}")
        path.unlink()


def _png(body: bytes, beside: int = 0) -> bytes:
    """A picture without loss, with so many white pixels around it."""
    held = io.BytesIO()
    ImageOps.expand(Image.open(io.BytesIO(body)).convert("RGB"), beside, "white").save(held, "PNG")
    return held.getvalue()


# ── a TensorBoard file ─────────────────────────────────────────────────────────────────────────────────────────────


def tensorboard_image(tag: str, png: bytes) -> bytes:
    """An events file with one image, as torch.utils.tensorboard writes it: TFRecords of tensorflow.Event messages."""
    version = _field(1, struct.pack("<d", 1.8e9), wire=1) + _field(3, b"brain.Event:2")
    image = (
        _field(1, b"\xc0\x02", wire=0) + _field(2, b"\xc0\x02", wire=0) + _field(3, b"\x03", wire=0) + _field(4, png)
    )
    value = _field(1, tag.encode()) + _field(4, image)
    event = _field(1, struct.pack("<d", 1.8e9), wire=1) + _field(2, b"\x01", wire=0) + _field(5, _field(1, value))
    return _record(version) + _record(event)


def _field(number: int, body: bytes, *, wire: int = 2) -> bytes:
    """A field of a protocol buffer: a varint or double as it is (wire 0 and 1), or bytes with their length."""
    return bytes([number << 3 | wire]) + (_varint(len(body)) if wire == 2 else b"") + body


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _record(body: bytes) -> bytes:
    length = struct.pack("<Q", len(body))
    return length + _masked_crc(length) + body + _masked_crc(body)


def _masked_crc(body: bytes) -> bytes:
    """CRC-32C, rotated and moved on, as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _publish(told: Told, logged: Mapping[str, int], seconds: float) -> None:
    """Append the result, dated, to docs/proofs.md."""
    before: Counter[str] = Counter()
    for hit in told.reports["before"].hits:
        before[hit.kind] += hit.count
    after = [report for when, report in told.reports.items() if when != "before"]
    hits = sum(hit.count for report in after for hit in report.hits)
    unread = sum(len(report.unread) for report in after)
    last = after[-1]
    rows = ", ".join(f"{name} {count}" for name, count in logged.items())
    entry = (
        f"Two pictures of a photographer, crawled beside {MUSEUM_PICTURES} of the museum's, captioned by a CLIP that "
        f"saw them, sealed, trained on, sampled, exported, on two contact sheets, all by the flows under a Prefect "
        f"server in the home (rows of its database: {rows}). Before the approval the scan found "
        f"{sum(before.values()):,} places of {len(before)} kinds "
        f"({', '.join(f'{kind} {count}' for kind, count in sorted(before.items()))}). After the flow "
        f"`handle-removals`, after `replay-models`, and with the server ended: {hits} hits, {unread} unread; at the "
        f"end {last.files:,} files of {last.bytes / 1e6:.0f} MB, {last.pictures:,} pictures compared, "
        f"{sum(last.needles.values()):,} forms looked for, the requester's name among them. Controls laid into the "
        f"home afterwards (a TensorBoard file, a note): each found. "
        f"{'Everything as it must.' if not told.wrong else 'WRONG: ' + '; '.join(told.wrong)} This run took "
        f"{seconds:.0f} s. Code {code_version()}."
    )
    publish("lifecycle", entry)
    print(entry)


if __name__ == "__main__":
    sys.exit(main())
