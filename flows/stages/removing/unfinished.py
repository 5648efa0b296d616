"""What an unfinished crawl still holds of what was removed is taken out of its files; it goes on as if it had not been.

A crawl that was killed keeps parts, pairs and lists of URLs until it is run again, and nobody may ever do that. When it
is, the ledger would take none of what tombstones cover (flows/stages/crawling/recording.py); until then it lies there.
So each row that they cover is replaced by an empty one, group by group: the ledger's batches are named by groups, and
an import goes on by the number of rows. Nothing is lost beside, and nothing counted twice.

Every file is written anew and renamed. Pictures that only their bytes gave away are known by their rows alone, which
are emptied last: killed anywhere, it is run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.duplicates import MIN_QUALITY
from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.crawling import plan
from flows.stages.crawling.plan import Unit
from flows.stages.crawling.recognising import TOMBSTONED, InForce, is_said_on_page, said_urls
from flows.stages.crawling.rows import PAGES, PAIRS, PICTURES, said_by
from flows.stages.parts import PartWriter, part_groups, part_notes

Row = Mapping[str, Any]

_KNOWN = "SELECT DISTINCT content_sha256 FROM content WHERE list_contains($contents::VARCHAR[], content_sha256)"


def take_out(home: Home) -> int:
    """Empty the rows of unfinished crawls that tombstones cover, and delete what they kept of pictures; how many rows.

    What a job itself names, its seeds and its sources, stays in its plan: it is what the crawl is known by.
    """
    crawls = [str(each["crawl"]) for each in plan.plans(home) if not each["finished"]]
    if not crawls:
        return 0
    with home.ledger(readonly=True) as ledger:
        in_force = InForce.at(home, ledger)
    if not in_force.tombstones.removals:
        return 0
    return sum(_Crawl(home, crawl, in_force).clean() for crawl in crawls)


class _Crawl:
    """One unfinished crawl's files."""

    def __init__(self, home: Home, crawl: str, in_force: InForce) -> None:
        self.home, self.crawl, self.in_force = home, crawl, in_force
        self.tombstones = in_force.tombstones
        self.gone: set[str] = set()  # addresses of pictures that are removed ones
        self.left_in: set[str] = set()
        self.contents: set[str] = set()

    def clean(self) -> int:
        parts = {kind: plan.parts(self.home, self.crawl, kind) for kind in plan.PART_KINDS}
        pairs = sorted(plan.pairs_file(self.home, self.crawl, "").parent.glob("*.parquet"))
        self.gone.update(url for path in pairs for url in said_urls(self.tombstones, path))
        for part in parts["pictures"]:
            for rows in part_groups(part):
                self._meet(rows)
        self._shorten_lists()
        count = sum(_rewritten(part, PAGES, self._page) for part in parts["pages"])
        for path in pairs:
            count += _rewritten(path, PAIRS, self._pair)
            self._end_if_empty(path)
        self._delete_pixels()
        return count + sum(_rewritten(part, PICTURES, self._picture) for part in parts["pictures"])

    def _meet(self, rows: list[dict[str, Any]]) -> None:
        """Which pictures of a part are removed ones: by address, bytes, hash, or what is said of them."""
        for row in rows:
            sha = row["content_sha256"]
            if sha is not None and row["url"] in self.gone and self.tombstones.stays(sha):
                self.gone.discard(row["url"])  # a reviewer left it in, whatever is said of it
                self.left_in.add(row["url"])
            if row["url"] in self.gone or self._is_removed(row):
                self.gone.add(row["url"])
                if sha is not None:
                    self.contents.add(sha)

    def _is_removed(self, row: Row) -> bool:
        sha = row["content_sha256"]
        told = row["pdq"] if (row["pdq_quality"] or 0) >= MIN_QUALITY else None
        return (
            self._is_covered(row)
            or (sha is not None and self.tombstones.covers_content(sha) is not None)
            or (sha is not None and self.in_force.is_copy(sha, told))
            or self.tombstones.covers_said(said_by(row), content=sha, url=row["url"]) is not None
        )

    def _is_covered(self, row: Row) -> bool:
        """Whether an address on the way of a page or a picture is."""
        hops = (hop["url"] for hop in json.loads(row["hops_json"] or "[]"))
        return any(self._covers(url) for url in {row["url"], row["final_url"], row["refused_url"], *hops})

    def _covers(self, url: str | None) -> bool:
        return bool(url) and self.tombstones.covers_url(str(url)) is not None

    # ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _page(self, row: Row) -> Row:
        """A page's row, without HTML and pairs that show what was removed; empty where it was removed itself."""
        if self._is_covered(row):
            return _empty(PAGES, row)
        if row["page_json"] is None:
            return row
        page = json.loads(row["page_json"])
        kept = {
            "pairs": [pair for pair in page["pairs"] if not self._shows(pair)],
            "links": [url for url in page["links"] if not self._covers(url)],
        }
        if all(len(kept[name]) == len(page[name]) for name in kept):
            return row
        told = json.dumps(page | kept, ensure_ascii=False)
        return dict(row) | {"body": None, "body_sha256": None, "page_json": told}

    def _shows(self, pair: Row) -> bool:
        url = pair["image_url"]
        is_asked = url in self.gone or self._covers(url)
        return is_asked or (url not in self.left_in and is_said_on_page(self.tombstones, pair))

    def _pair(self, row: Row) -> Row:
        url = row["image_url"]
        if url in self.gone or self._covers(url) or self._covers(row["page_url"]):
            return dict.fromkeys(PAIRS.names) | {"image_url": ""}
        return row

    def _picture(self, row: Row) -> Row:
        gone = row["url"] in self.gone or row["content_sha256"] in self.contents
        return _empty(PICTURES, row) if gone and row["url"] else row

    # ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _shorten_lists(self) -> None:
        """Pages that are covered are asked no more."""
        depth = 0
        while (units := plan.frontier(self.home, self.crawl, depth)) is not None:
            left = [Unit(u.unit, tuple(url for url in u.urls if not self._covers(url))) for u in units]
            if left != units:
                plan.store_frontier(self.home, self.crawl, depth, left)
            depth += 1

    def _end_if_empty(self, pairs: Path) -> None:
        """A unit of which no picture is left to be asked is done."""
        part = plan.part(self.home, self.crawl, "pictures", pairs.stem)
        if not part.exists() and not any(
            row["image_url"] for rows in part_groups(pairs, ["image_url"]) for row in rows
        ):
            with PartWriter(part, PICTURES) as writer:
                writer.finish()

    def _delete_pixels(self) -> None:
        """What this crawl kept; what the ledger knows goes with its own removal."""
        if not self.contents:
            return
        with self.home.ledger(readonly=True) as ledger:
            known = {sha for (sha,) in ledger.query(_KNOWN, {"contents": sorted(self.contents)})}
        PixelStore(self.home.pixels_path).delete_all(sorted(self.contents - known))


def _empty(schema: pa.Schema, row: Row) -> Row:
    """A row that says nothing but that something was refused, and when: the ledger takes none of it."""
    told = {"url": "", "outcome": "refused-by-policy", "detail": TOMBSTONED, "hops_json": "[]"}
    return dict.fromkeys(schema.names) | told | {"started_at": row["started_at"], "elapsed_ms": 0.0}


def _rewritten(path: Path, schema: pa.Schema, change: Callable[[Row], Row]) -> int:
    """Write a part anew with its rows changed, in the same groups; how many were. None was: it stays as it is."""
    changed = sum(change(row) is not row for rows in part_groups(path) for row in rows)
    if changed:
        notes = part_notes(path)
        with PartWriter(path, schema) as writer:
            for rows in part_groups(path):
                for row in rows:
                    writer.add(change(row))
                writer.flush()
            writer.finish(notes)
    return changed
