"""Sheet: a contact sheet of what a condition selects, as PNG or HTML: where people would rather look than read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.home import Home
from flows.terminal import escape
from policy.durable import write_durably
from policy.errors import InputError, StorageError
from policy.tombstones import Tombstones

if TYPE_CHECKING:
    from curation.contact_sheet import Tile

SIDE = 224
COLUMNS = 6
# What is asked of the view `tile`; a condition or an order may name any other of its columns.
_COLUMNS = (
    *("pair_key", "content_sha256", "alt", "caption", "caption_origin", "caption_score", "caption_state", "verdict"),
    *("rule", "reason_code", "licence", "width", "height", "faces_json", "scores", "image_url"),
    "page_url",
)


@dataclass(frozen=True, slots=True)
class Sheet:
    """The file that was written. `shown`: its pictures; `matching`: how many pairs the condition selects in all.

    `without_pixels`: tiles whose picture is not kept (what is refused is not).
    """

    path: str
    shown: int
    matching: int
    without_pixels: int


def sheet(
    home: Home, out: Path, *, where: str = "true", order: str = "pair_key", limit: int = 200, columns: int = COLUMNS
) -> Sheet:
    """Show the pairs of the view `tile` for which `where` holds; what a removal asked for is left out.

    Raises:
        InputError: `out` is neither .png nor .html, or the condition is no SQL, or nothing matches it.
        StorageError: the file cannot be written.
    """
    from curation import contact_sheet
    from curation.pixel_store import PixelStore

    kind = out.suffix.lower()
    if kind not in contact_sheet.SUFFIXES:
        raise InputError("a contact sheet is .png or .html", where=str(out), remedy="Name the file so")
    rows, matching = _selected(home, where, order, limit)
    store = PixelStore(home.pixels_path)
    kept = frozenset(store.keys())
    tiles = [_tile(row, store.get(sha) if (sha := row["content_sha256"]) in kept else None) for row in rows]
    if kind == ".png":
        try:
            made = contact_sheet.as_png(tiles, columns=min(columns, len(tiles)), side=SIDE)
        except ValueError as error:
            raise InputError(str(error), where=str(out), remedy="Lower --limit, or write .html") from error
    else:
        notes = (
            f"{len(tiles):,} of {matching:,} pairs for which: {escape(where)}",
            f"in the order of: {escape(order)}",
        )
        made = contact_sheet.as_html(tiles, title="Contact sheet", notes=notes, side=SIDE).encode()
    try:
        write_durably(out, made)
    except OSError as error:
        raise StorageError(f"cannot be written ({error.strerror})", where=str(out)) from error
    return Sheet(str(out), len(tiles), matching, sum(tile.picture is None for tile in tiles))


def _selected(home: Home, where: str, order: str, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The first rows of `tile` that no tombstone covers, and how many the condition selects in all."""
    rows: list[dict[str, Any]] = []
    with home.ledger(readonly=True) as ledger:
        tombstones = home.tombstones(ledger)
        try:
            # The operator's SQL, in a transaction that cannot write and reads no file: only a selection.
            [(matching,)] = ledger.query(f"SELECT count(*) FROM tile WHERE ({where})")  # noqa: S608  # see above
            for start in range(0, matching, limit):
                listed = f"SELECT {', '.join(_COLUMNS)} FROM tile WHERE ({where}) ORDER BY {order}"  # noqa: S608
                for values in ledger.query(f"{listed} LIMIT {limit} OFFSET {start}"):
                    row = dict(zip(_COLUMNS, values, strict=True))
                    if not _is_gone(row, tombstones):
                        rows.append(row)
                if len(rows) >= limit:
                    break
        except InputError as error:
            raise InputError(
                f"{where!r}, ordered by {order!r}, selects nothing that can be shown ({error.what})",
                where="custody sheet",
                remedy="Write a condition on the columns of tile, such as: verdict = 'defer' AND scores['nsfw'] > 0.3",
            ) from error
    if not rows:
        raise InputError(
            f"no pair matches {where!r}",
            where="custody sheet",
            remedy="`custody sql 'SELECT verdict, reason_code, count(*) FROM tile GROUP BY ALL'` shows what is there",
        )
    return rows[:limit], matching


def _is_gone(row: Mapping[str, Any], tombstones: Tombstones) -> bool:
    """Whether a removal covers the picture or a place where it was found, or a hash list names it (of such a pair no
    address is kept): it is shown to nobody.
    """
    if row["image_url"] is None:
        return True
    urls = [url for url in (row["image_url"], row["page_url"]) if url]
    sha = row["content_sha256"]
    return bool(sha and tombstones.covers_content(sha)) or any(map(tombstones.covers_url, urls))


def _tile(row: Mapping[str, Any], picture: bytes | None) -> Tile:
    from curation.contact_sheet import Box, Tile

    verdict = row["verdict"] or "undecided"
    badge = verdict if verdict == "allow" else f"{verdict}: {row['rule']}, {row['reason_code']}"
    origin = f"text: {row['caption_origin']}" if row["caption_origin"] else ""
    if row["caption_score"] is not None:
        origin += f" {row['caption_score']:.3f}" + (f" ({row['caption_state']})" if row["caption_state"] else "")
    facts = [origin, f"alt: {escape(row['alt'])}" if row["alt"] and row["alt"] != row["caption"] else ""]
    facts.append(" ".join(f"{name} {value:.2f}" for name, value in (row["scores"] or {}).items()))
    size = f"{row['width']} x {row['height']}" if row["width"] else ""
    facts.append(" ".join(filter(None, (size, row["licence"]))))
    facts.append(f"pair {row['pair_key']}")
    boxes: tuple[Box, ...] = ()
    shape = (row["width"], row["height"]) if row["width"] and row["height"] else None
    if row["faces_json"] and shape:
        w, h = shape
        boxes = tuple(
            Box(f["x"] / w, f["y"] / h, f["w"] / w, f["h"] / h, f"{f['score']:.2f}")
            for f in json.loads(row["faces_json"])
        )
    caption = escape(row["caption"] or "")
    if caption and row["caption_state"] == "deferred":
        caption = f"({caption}?)"  # a proposal that is nobody's text yet
    return Tile(picture, caption, verdict, badge, tuple(filter(None, facts)), boxes, shape)
