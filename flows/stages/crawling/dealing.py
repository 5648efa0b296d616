"""Pairs are dealt out to picture units by the key of their picture's URL: each URL lies in one unit, whoever shows it.

A unit then asks a picture once, and any number of pairs needs only as much memory as one hand of cards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from curation.pair import url_key
from flows.stages.crawling.rows import PAIRS
from flows.stages.parts import PartWriter, part_groups

PILES = 256  # files that are written at once
HAND = 20_000  # pairs in memory

Row = Mapping[str, Any]


def deal(pairs: Iterable[Row], units: int, path_of: Callable[[int], Path], scratch: Path) -> Mapping[int, int]:
    """Write every pair into the file of its unit, `path_of(unit)`; how many pairs each unit has that has any.

    Where there are more than `PILES` units the pairs are first dealt into piles, files below `scratch`.
    """

    def unit_of(row: Row) -> int:
        return int(url_key(row["image_url"])[:16], 16) * units >> 64

    if units <= PILES:
        return _deal(pairs, unit_of, path_of)
    piles = _deal(pairs, lambda row: unit_of(row) // PILES, lambda pile: scratch / f"{pile}.parquet")
    counts: Counter[int] = Counter()
    for pile in sorted(piles):
        file = scratch / f"{pile}.parquet"
        counts.update(_deal((row for rows in part_groups(file) for row in rows), unit_of, path_of))
        file.unlink()
    return counts


def _deal(pairs: Iterable[Row], place: Callable[[Row], int], path_of: Callable[[int], Path]) -> Counter[int]:
    counts: Counter[int] = Counter()
    with ExitStack() as stack:
        writers: dict[int, PartWriter] = {}
        for hand in _hands(pairs):
            dealt: dict[int, list[Row]] = {}
            for row in hand:
                dealt.setdefault(place(row), []).append(row)
            for number, rows in dealt.items():
                if number not in writers:
                    writers[number] = stack.enter_context(PartWriter(path_of(number), PAIRS))
                for row in rows:
                    writers[number].add(row)
                writers[number].flush()  # a hand at a time is held, not a hand a unit
                counts[number] += len(rows)
        for writer in writers.values():
            writer.finish()
    return counts


def _hands(pairs: Iterable[Row]) -> Iterator[list[Row]]:
    hand: list[Row] = []
    for row in pairs:
        hand.append(row)
        if len(hand) >= HAND:
            yield hand
            hand = []
    if hand:
        yield hand
