"""Batches: a pure function of dataset, config, schedule and step."""

import numpy as np
import pytest
import torch

from policy.provenance import ScheduleEntry
from training.batches import Batcher, EmptySlots, crop_to_square
from training.config import preset
from training.order import Order, whole_epochs
from training.step_log import fed_digest


def a_batcher(reader, **changes):
    config = preset("tiny", **changes)
    order = Order("k", whole_epochs(reader.slots, config.steps, config.batch_size), config.batch_size)
    return Batcher(reader, order, config), order


def test_a_batch_is_what_the_order_says(reader):
    """Ordinals, captions and the digest of what was fed follow from the order and the dataset alone."""
    batcher, order = a_batcher(reader)
    batch = batcher.batch(2, EmptySlots())
    assert batch.first_position == 8
    assert batch.ordinals.tolist() == order.at_step(2)[0].tolist()
    assert batch.captions == tuple(reader.caption(o) for o in batch.ordinals.tolist())
    assert batch.fed_sha256 == fed_digest([(o, reader.commitment(o)) for o in batch.ordinals.tolist()])
    assert batch.pixels.shape == (4, 3, 16, 16)
    assert batch.pixels.min() >= -1
    assert batch.pixels.max() <= 1
    again = batcher.batch(2, EmptySlots())
    assert torch.equal(batch.pixels, again.pixels)


def test_a_removed_slot_is_empty_from_its_step_on(reader):
    """A tombstoned sample never reaches a batch: zero pixels, no caption, not real, not in the digest."""
    batcher, order = a_batcher(reader)
    gone = int(order.at_step(2)[0][1])
    empty = EmptySlots([ScheduleEntry(gone, 2)])
    assert not empty.is_empty(gone, 1)
    batch = batcher.batch(2, empty)
    assert batch.real.tolist() == [True, False, True, True]
    assert batch.pixels[1].abs().max() == 0
    assert batch.captions[1] == ""
    full = batcher.batch(2, EmptySlots())
    assert torch.equal(batch.pixels[[0, 2, 3]], full.pixels[[0, 2, 3]])
    left = [o for o in batch.ordinals.tolist() if o != gone]
    assert batch.fed_sha256 == fed_digest([(o, reader.commitment(o)) for o in left])


def test_a_sample_looks_the_same_in_any_batch_size(reader):
    """Crop and flip are keyed by epoch and ordinal, not by the place in a batch."""
    one, order_of_one = a_batcher(reader, batch_size=1, crop=0.7)
    four, _ = a_batcher(reader, batch_size=4, crop=0.7)
    batch = four.batch(1, EmptySlots())
    for i in range(4):
        alone = one.batch(4 + i, EmptySlots())
        assert alone.ordinals[0] == batch.ordinals[i]
        assert torch.equal(alone.pixels[0], batch.pixels[i])
    assert order_of_one.positions >= 8


def test_positions_past_the_end_are_empty(reader):
    """The last batch is filled up with nothing."""
    batcher, order = a_batcher(reader, batch_size=7, steps=1)
    batch = batcher.batch(1, EmptySlots())
    assert order.positions == 10
    assert batch.real.tolist() == [True] * 3 + [False] * 4


def test_the_schedule_only_grows_and_a_resume_pulls_later_entries_forward():
    """An entry keeps its first step; entries that took force after the resumed step take force at it."""
    empty = EmptySlots()
    assert empty.enter([5, 3], 4) == (3, 5)
    assert empty.enter([5, 7], 9) == (7,)
    assert empty.entries == (ScheduleEntry(3, 4), ScheduleEntry(5, 4), ScheduleEntry(7, 9))
    assert EmptySlots.resumed(empty.entries, 6).entries[-1] == ScheduleEntry(7, 6)


@pytest.mark.parametrize("shape", [(30, 20, 3), (20, 30, 3), (20, 20, 3)])
def test_without_random_crops_the_centre_square_is_taken(shape):
    """A picture with its middle marked keeps the mark in the middle; a flip mirrors it."""
    rgb = np.zeros(shape, dtype=np.uint8)
    rgb[shape[0] // 2 - 1 : shape[0] // 2 + 1, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 255
    square = crop_to_square(rgb, 20, np.array([0.3, 0.9, 0.9, 0.9]), 1.0, True)
    assert square[9:11, 9:11].min() > 200
    assert square.sum() == pytest.approx(4 * 3 * 255, rel=0.05)
    rgb[:, : shape[1] // 2] = 100
    plain = crop_to_square(rgb, 20, np.array([0.3, 0.9, 0.9, 0.9]), 1.0, True)
    mirrored = crop_to_square(rgb, 20, np.array([0.3, 0.9, 0.9, 0.1]), 1.0, True)
    assert np.array_equal(plain[:, ::-1], mirrored)
