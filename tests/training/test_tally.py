"""The tally: exposures by licence and origin of exactly what was fed, also across a resume."""

from collections.abc import Mapping

import numpy as np

from policy.provenance import CheckpointRecord
from training.tally import Tally

KNOWN: dict[int, Mapping[str, object] | None] = {
    0: {"licence": "CC0-1.0", "caption_origin": "alt"},
    1: {"licence": "CC-BY-4.0", "caption_origin": "alt"},
    2: {"licence": "CC0-1.0", "caption_origin": "clip"},
    3: {"licence": None},
    4: None,
}


class Slots:
    """Five slots, and how often each was asked."""

    slots = 5

    def __init__(self) -> None:
        self.asked: list[int] = []

    def metadata(self, ordinal: int) -> object:
        self.asked.append(ordinal)
        return KNOWN[ordinal]


def a_record(tally: tuple[tuple[str, int], ...], origins: tuple[tuple[str, int], ...] = ()) -> CheckpointRecord:
    return CheckpointRecord("c", "r", 0, 1, 1, "d", "root", (), tally, (), None, (), "exact", "", origins)


def test_exposures_are_counted_by_licence_and_by_origin():
    """What has none counts as unknown; a slot's metadata are asked once, however often it is fed."""
    slots = Slots()
    tally = Tally(slots)
    assert (tally.licences, tally.origins) == ((), ())
    for fed in ([0, 1], [2, 0, 0], [], [3, 4, 1]):
        tally.add(np.array(fed, dtype=np.int64))
    assert tally.licences == (("CC-BY-4.0", 2), ("CC0-1.0", 4), ("unknown", 2))
    assert tally.origins == (("alt", 5), ("clip", 1), ("unknown", 2))
    assert sorted(slots.asked) == [0, 1, 2, 3, 4]


def test_a_resumed_tally_goes_on_from_the_checkpoint():
    """Stopped and resumed it counts the same; of a record without origins those before it are unknown."""
    whole = Tally(Slots())
    whole.add(np.array([0, 1, 2]))
    first = Tally(Slots())
    first.add(np.array([0, 1]))
    second = Tally(Slots(), a_record(first.licences, first.origins))
    second.add(np.array([2]))
    assert (second.licences, second.origins) == (whole.licences, whole.origins)
    older = Tally(Slots(), a_record(first.licences))
    older.add(np.array([2]))
    assert older.origins == (("clip", 1), ("unknown", 2))
