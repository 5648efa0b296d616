"""Batches: a pure function of dataset, config, schedule and step."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from curation.images import decode, encode_jpeg
from curation.shard_reader import DatasetReader
from curation.shards import reseal
from policy.errors import IntegrityError
from policy.provenance import ScheduleEntry
from tests.training.toy_dataset import assert_same, file_tombstone, noise, seal
from training.batches import Batcher, EmptySlots, TombstoneWatch, crop_to_square
from training.config import preset
from training.diffusion import Draws
from training.order import Order, whole_epochs
from training.randomness import sample_keys, uniforms
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
    """A picture with its middle marked keeps the mark in the middle."""
    rgb = np.zeros(shape, dtype=np.uint8)
    rgb[shape[0] // 2 - 1 : shape[0] // 2 + 1, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 255
    square = crop_to_square(rgb, 20, np.array([0.3, 0.9, 0.9, 0.9]), 1.0)
    assert square[9:11, 9:11].min() > 200
    assert square.sum() == pytest.approx(4 * 3 * 255, rel=0.05)


def as_webp(rgb):
    held = io.BytesIO()
    Image.fromarray(rgb).save(held, "WEBP", lossless=True)
    return held.getvalue()


def turned(jpeg):
    """The same with EXIF that says: shown a quarter turned."""
    held, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(jpeg)).save(held, "JPEG", exif=exif, quality=95)
    return held.getvalue()


def test_pictures_of_the_trained_size_are_not_resampled(tmp_path):
    """Without a crop a picture whose shorter side is what is trained is fed as it was decoded, pixel by pixel."""
    bodies = [encode_jpeg(noise(i, *shape)) for i, shape in enumerate([(16, 16), (16, 21), (27, 16), (128, 150)])]
    bodies += [as_webp(noise(4, 16, 30)), turned(bodies[0]), turned(bodies[1])]
    with DatasetReader.open(seal(tmp_path / "toys", len(bodies), lambda i: bodies[i])) as reader:
        batcher, order = a_batcher(reader, flip=False, batch_size=len(bodies))
        batch = batcher.batch(0, EmptySlots())
        for rgb, ordinal in zip(batch.rgb, order.at_step(0)[0].tolist(), strict=True):
            decoded = decode(bodies[ordinal], min_side_px=16)  # the fourth scaled in the DCT domain, to an eighth
            top, left = (decoded.shape[0] - 16) // 2, (decoded.shape[1] - 16) // 2
            assert np.array_equal(rgb, decoded[top : top + 16, left : left + 16])


def test_a_mirrored_picture_is_the_mirror_of_the_same(tmp_path):
    """A flip is keyed by epoch and ordinal, about half of them, and mirrors pixels without touching them."""
    with DatasetReader.open(seal(tmp_path / "toys", 40, lambda i: encode_jpeg(noise(i, 16, 16 + i % 2)))) as reader:
        plain, order = a_batcher(reader, flip=False, batch_size=40)
        flipped, _ = a_batcher(reader, flip=True, batch_size=40)
        one, other = plain.batch(0, EmptySlots()).rgb, flipped.batch(0, EmptySlots()).rgb
        keys = sample_keys(0, np.zeros(40, dtype=np.int64), order.at_step(0)[0], "crop")
        is_mirrored = uniforms(keys, 4)[:, 3] < 0.5
        assert 10 < is_mirrored.sum() < 30
        expected = np.where(is_mirrored[:, None, None, None], one[:, :, ::-1], one)
        assert np.array_equal(other, expected)


def test_a_small_crop_is_decoded_large_enough(tmp_path):
    """A crop is taken from a decode that still has its pixels: it is not scaled up from a thumbnail."""
    rgb = np.indices((256, 256)).sum(0) % 2 * 255  # the finest checker there is: gone once it was scaled down
    body = encode_jpeg(np.repeat(rgb[:, :, None], 3, axis=2).astype(np.uint8), 100)
    with DatasetReader.open(seal(tmp_path / "toys", 4, lambda i: body)) as reader:
        batcher, _ = a_batcher(reader, crop=1 / 16)
        contrast = batcher.batch(0, EmptySlots()).rgb.astype(int).std(axis=(1, 2, 3))
        whole, _ = a_batcher(reader)
        assert contrast.max() > 4 * whole.batch(0, EmptySlots()).rgb.astype(int).std(axis=(1, 2, 3)).max()


def test_a_crop_is_taken_of_a_picture_of_the_trained_size_too(tmp_path):
    """Where crops are asked for, one that is as large as it is trained is not fed whole."""
    bodies = [encode_jpeg(noise(i, 16, 16)) for i in range(4)]
    with DatasetReader.open(seal(tmp_path / "toys", 4, lambda i: bodies[i])) as reader:
        batcher, order = a_batcher(reader, crop=0.5, flip=False)
        for rgb, ordinal, draws in zip(
            batcher.batch(0, EmptySlots()).rgb,
            order.at_step(0)[0].tolist(),
            batcher.draft(0, EmptySlots()).draws.crop,
            strict=True,
        ):
            whole = decode(bodies[ordinal])
            assert not np.array_equal(rgb, whole)
            assert np.array_equal(rgb, crop_to_square(whole, 16, draws, 0.5))


def test_memory_is_used_again_once_nothing_refers_to_the_batch_that_lay_there(reader):
    """A part of an older batch keeps its pixels whatever is read since; a batch that is gone makes room."""
    batcher, _ = a_batcher(reader)
    row, tensor = batcher.batch(0, EmptySlots()).rgb[1, ::-1], torch.from_numpy(batcher.batch(1, EmptySlots()).rgb)
    as_they_were = row.copy(), tensor.clone()
    places, others = [], []
    for step in range(2, 8):
        places.append(batcher.batch(step, EmptySlots()).rgb.ctypes.data)
        others.append(np.empty_like(row, shape=(4, 16, 16, 3)))  # what takes memory that was given back
    assert np.array_equal(row, as_they_were[0])
    assert torch.equal(tensor, as_they_were[1])
    assert len(set(places)) == 1
    assert places[0] % 32 == 16
    del row
    assert batcher.batch(0, EmptySlots()).rgb.ctypes.data != places[0]


@pytest.mark.parametrize("part", [slice(None), slice(2, 4)])
@pytest.mark.parametrize("at_once", [1, 1 << 16, 1 << 18])
def test_draws_of_many_steps_are_those_of_each(reader, part, at_once, monkeypatch):
    """What a step draws does not depend on how many steps are drawn at once, nor in which order they are asked for."""
    monkeypatch.setattr("training.batches._NOISE_BYTES", at_once)
    config = preset("tiny")
    order = Order("k", whole_epochs(reader.slots, 12, 4), 4)
    batcher = Batcher(reader, order, config, part)
    for step in (0, 1, 11, 6, 5, 30, 12):
        ordinals, epochs, draws = batcher.drawn(step)
        expected = tuple(each[part] for each in order.at_step(step))
        alone = Draws.of(config.seed, expected[1], expected[0])
        assert (ordinals.tolist(), epochs.tolist()) == (expected[0].tolist(), expected[1].tolist())
        assert np.array_equal(draws.crop, alone.crop)
        assert np.array_equal(draws.kept_captions(0.3), alone.kept_captions(0.3))
        assert torch.equal(draws.timesteps(0.1, 1.2), alone.timesteps(0.1, 1.2))
        assert torch.equal(draws.noise(16), alone.noise(16))
        assert torch.equal(draws.noise(8), alone.noise(8))


def test_a_slot_that_became_empty_is_taken_out_of_a_draft(reader):
    """A draft that was made before a removal gives the batch that is made after it."""
    batcher, order = a_batcher(reader)
    ordinals = order.at_step(2)[0].tolist()
    for gone in (ordinals[:1], ordinals[1:3], ordinals):
        draft = batcher.draft(2, EmptySlots())
        empty = EmptySlots([ScheduleEntry(o, 2) for o in gone])
        batch, expected = batcher.finished(draft, empty), batcher.batch(2, empty)
        assert_same(batch, expected)
        assert batch.real.tolist() == [o not in gone for o in ordinals]
        assert batch.pixels[~torch.from_numpy(batch.real)].abs().sum() == 0


def test_a_slot_that_vanished_without_a_removal_is_said(tmp_path):
    """Nothing is silently left out of a batch: a slot that is not stored any more has to stand in the schedule."""
    dataset = seal(tmp_path / "toys")
    with DatasetReader.open(dataset) as reader:
        batcher, order = a_batcher(reader)
        gone = int(order.at_step(1)[0][0])
        reseal(dataset, [gone], "rem-1")
        assert reader.renew()
        with pytest.raises(IntegrityError, match=f"slot {gone} is stored no longer"):
            batcher.batch(1, EmptySlots())
        assert batcher.batch(1, EmptySlots([ScheduleEntry(gone, 0)])).real.sum() == 3


def test_tombstones_that_vanish_stop_a_run(tmp_path):
    """A file that was there and is gone is never "nothing is removed"; one that was never there is."""
    watch = TombstoneWatch(tmp_path, "toys")
    assert watch.look() is None
    file_tombstone(tmp_path, [3])
    assert watch.look() == {3}
    assert watch.look() is None
    (tmp_path / "current.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not a tombstone file"):
        watch.look()
    with pytest.raises(IntegrityError, match="not a tombstone file"):
        watch.look()
    (tmp_path / "current.json").unlink()
    with pytest.raises(IntegrityError, match="are gone"):
        watch.look()
