"""Loading ahead: the same batches for any number of threads, whatever happens to the dataset meanwhile."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from curation.images import encode_jpeg
from curation.shard_files import LocalFiles
from curation.shard_reader import DatasetReader
from curation.shards import prune, reseal
from policy.errors import IntegrityError, StorageError
from policy.provenance import ScheduleEntry, ShardManifest
from tests.training.toy_dataset import HashedWords, assert_same, file_tombstone, flat_picture, noise, noon, seal
from training.batches import Batch, Batcher, EmptySlots, TombstoneWatch
from training.checkpoint import load_schedule
from training.config import preset
from training.loading import GenerationWatch, Loader
from training.loop import train
from training.order import Order, whole_epochs

SLOTS, BROKEN, STEPS = 22, 5, 12  # six shards; four slots a step, so a bit more than two epochs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-two pictures that differ, one of which cannot be decoded."""
    return sealed(tmp_path_factory.mktemp("pictures") / "toys")


def sealed(directory: Path) -> Path:
    def image(i: int) -> bytes:
        return b"no picture" if i == BROKEN else encode_jpeg(noise(i, 16 + i % 3, 16 + i % 5))

    return seal(directory, SLOTS, image)


def a_batcher(reader: DatasetReader) -> Batcher:
    config = preset("tiny", crop=0.8)
    return Batcher(reader, Order("k", whole_epochs(reader.slots, STEPS, config.batch_size), config.batch_size), config)


def run(loader: Loader, empty: EmptySlots, watch: TombstoneWatch | None = None) -> Iterator[Batch]:
    """What the training loop does with a loader."""
    for step in range(STEPS):
        if watch is not None:
            empty.enter(watch.look() or (), step)
        batch = loader.batch(step, empty)
        empty.enter((o for o, _ in batch.undecodable), step)
        yield batch


@pytest.mark.parametrize(("workers", "ahead"), [(1, None), (1, 1), (3, None), (3, 50)])
def test_the_batches_do_not_depend_on_workers(pictures: Path, workers: int, ahead: int | None) -> None:
    """Any number of threads, however far ahead, gives bit for bit the batches that are made without one.

    A picture that cannot be decoded is told of once, though it was drafted again before that was known.
    """
    with DatasetReader.open(pictures) as reader:
        with Loader(a_batcher(reader)) as inline:
            expected = list(run(inline, EmptySlots([ScheduleEntry(3, 4)])))
        with Loader(a_batcher(reader), workers=workers, ahead=ahead) as loader:
            found = list(run(loader, EmptySlots([ScheduleEntry(3, 4)])))
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert [o for batch in found for o, _ in batch.undecodable] == [BROKEN]


def test_a_removal_filed_now_is_out_of_the_next_batch(pictures: Path, tmp_path: Path) -> None:
    """A tombstone file that is written while batches lie ready: none of the slots that it names is in a later one."""
    with DatasetReader.open(pictures) as reader, Loader(a_batcher(reader), workers=2, ahead=STEPS) as loader:
        empty, watch = EmptySlots(), TombstoneWatch(tmp_path, "toys")
        batches = run(loader, empty, watch)
        before = [next(batches) for _ in range(4)]
        for future in loader._drafts.values():
            future.result()  # all that is left of the run is drafted, the removed slots with it
        drafted = loader._drafts[4].result()
        gone, loader_had_it = drafted.ordinals[:2].tolist(), bool(drafted.decoded[:2].all())
        file_tombstone(tmp_path, gone)
        after = list(batches)
        assert loader_had_it
        for batch in after:
            closed = np.isin(batch.ordinals, gone)
            assert not (batch.real & closed).any()
            assert not batch.rgb[closed].any()
            assert not any(c for c, is_closed in zip(batch.captions, closed.tolist(), strict=True) if is_closed)
        entries = [e for e in empty.entries if e.ordinal in gone]
        assert entries == [ScheduleEntry(o, 4) for o in sorted(gone)]
        again = EmptySlots(empty.entries)
        for batch, expected in zip(
            before + after, (a_batcher(reader).batch(s, again) for s in range(STEPS)), strict=True
        ):
            assert batch.fed_sha256 == expected.fed_sha256
            assert np.array_equal(batch.rgb, expected.rgb)


def test_a_loader_starts_anywhere_and_ends_with_the_order(pictures: Path) -> None:
    """A resume begins in the middle, a second look goes back, and nothing is made beyond the last step."""
    with DatasetReader.open(pictures) as reader, Loader(a_batcher(reader), workers=2, stop=9) as loader:
        batcher = a_batcher(reader)
        for step in (7, 8, 2, 3, 11):
            assert_same(loader.batch(step, EmptySlots()), batcher.batch(step, EmptySlots()))
            assert max(loader._drafts, default=0) < 9


def test_no_thread_is_left(pictures: Path) -> None:
    """Leaving the block ends every thread; the dataset can then be closed."""
    before = threading.active_count()
    with DatasetReader.open(pictures) as reader:
        with Loader(a_batcher(reader), workers=3) as loader:
            loader.batch(0, EmptySlots())
            assert threading.active_count() > before
        assert threading.active_count() == before


KILLED = """
import sys, time
from pathlib import Path
from tests.training.test_loading import DatasetReader, EmptySlots, Loader, a_batcher
with DatasetReader.open(Path(sys.argv[1])) as reader, Loader(a_batcher(reader), workers=3) as loader:
    loader.batch(0, EmptySlots())
    print("ready", flush=True)
    time.sleep(300)
"""


def test_a_killed_trainer_leaves_no_process(pictures: Path) -> None:
    """After kill -9 nothing of its session runs any more."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(pictures)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


# ── shards that have to be fetched ───────────────────────────────────────────────────────────────────────────────


class Fetched(LocalFiles):
    """A directory whose shards count as far away: fetched when asked for, `shards` of them kept; `broken` cannot be."""

    def __init__(self, directory: Path, shards: int, broken: str = "") -> None:
        super().__init__(directory)
        self.broken, self.fetched, self._changed = broken, list[str](), threading.Condition()
        self.keep_bytes = shards * max(path.stat().st_size for path in directory.rglob("*.tar"))  # type: ignore[assignment]

    def open_tar(self, number: int, shard: ShardManifest, *, fresh: bool = False) -> mmap.mmap:
        if shard.path == self.broken:
            raise StorageError("the connection breaks", where=shard.path)
        with self._changed:
            self.fetched.append(shard.path)
            self._changed.notify_all()
        return super().open_tar(number, shard, fresh=fresh)

    def wait_for(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.fetched) >= count, timeout=60)


def in_ordinal_order(reader: DatasetReader) -> Batcher:
    """Two steps a shard, one shard after the other, as windows of an order have it."""
    batcher = a_batcher(reader)

    class Rising(Order):
        def at_step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
            ordinals = np.arange(2 * step, 2 * step + 2) % SLOTS
            return ordinals, np.zeros_like(ordinals)

    order = Rising("k", batcher.order.phases, 2)
    return Batcher(reader, order, preset("tiny", batch_size=2))


def test_the_shards_of_coming_steps_are_fetched_ahead(pictures: Path) -> None:
    """As many as the cache holds beside those in use, in the order of the steps, each of them once."""
    files = Fetched(pictures, shards=6)
    with (
        DatasetReader.open(files, verify=False) as reader,
        Loader(in_ordinal_order(reader), workers=1, ahead=1, stop=11) as loader,
    ):
        assert reader.shards_at_once == 3
        loader.batch(0, EmptySlots())
        assert files.wait_for(3)
        assert len(files.fetched) == 3
        for step in range(1, 11):
            assert_same(loader.batch(step, EmptySlots()), in_ordinal_order(reader).batch(step, EmptySlots()))
            assert files.wait_for(min(6, 3 + step // 2))
        assert sorted(files.fetched) == [f"shard-{n:06d}.tar" for n in range(6)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_failure_in_a_worker_is_the_loops(pictures: Path, workers: int) -> None:
    """A shard that cannot be had is the same error at the same step for any number of workers; those before it come."""
    files = Fetched(pictures, shards=4, broken="shard-000002.tar")
    with (
        DatasetReader.open(files, verify=False) as reader,
        Loader(in_ordinal_order(reader), workers=workers, stop=11) as loader,
    ):
        for step in range(4):
            assert loader.batch(step, EmptySlots()).real.sum() + (step == BROKEN // 2) == 2
        for _ in range(2):
            with pytest.raises(StorageError, match=r"shard-000002\.tar: the connection breaks"):
                loader.batch(4, EmptySlots())


# ── generations ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_with_the_current_generation(tmp_path: Path, workers: int) -> None:
    """Files that were unlinked while they were mapped are let go within the time, and no batch differs for it."""
    now, dataset = 0.0, sealed(tmp_path / "toys")
    with (
        DatasetReader.open(dataset) as whole,
        DatasetReader.open(dataset) as reader,
        Loader(a_batcher(reader), workers=workers) as loader,
    ):
        watch = GenerationWatch(reader, max_age_s=24.0, clock=lambda: now)
        batches, entries = [], EmptySlots()
        for step in range(STEPS):
            if step == 3:
                entries.enter([1, 8], step)
                reseal(dataset, [1, 8], "rem-1")
                prune(dataset)
                now = 0.9
                assert watch.look() is None
                assert reader.generation.number == 0
            if step == 5:
                now = 1.0
                gone = watch.look()
                assert gone == {1, 8}
                assert not entries.enter(gone, step)
                assert not mapped(dataset / "generation-0000/shard-000000.tar")
            batches.append(loader.batch(step, entries))
        assert (reader.generation.number, reader.generation.removals) == (1, ("rem-1",))
        for step, batch in enumerate(batches):
            assert_same(batch, a_batcher(whole).batch(step, entries))


def mapped(path: Path) -> bool:
    """Whether this process still reads in a file by more than the one reader of the test that keeps it on purpose."""
    return Path("/proc/self/maps").read_text().count(f"{path} (deleted)") > 1


def test_a_reader_that_cannot_reopen_is_stopped_in_time(tmp_path: Path) -> None:
    """A generation that cannot be opened is tried again and again; once a day is over the run ends, saying why."""
    now, dataset = 0.0, seal(tmp_path / "toys", image=flat_picture)
    with DatasetReader.open(dataset) as reader:
        watch = GenerationWatch(reader, clock=lambda: now)
        reseal(dataset, [1], "rem-1")
        prune(dataset)
        shard = dataset / "generation-0001/shard-000000.tar"
        good = shard.read_bytes()
        shard.write_bytes(good[:-1] + b"x")
        for hour in range(1, 24):
            now = hour * 3600.0
            assert watch.look() is None
        assert reader.image_bytes(1) == flat_picture(1)  # what it has it can read
        now = 24 * 3600.0
        with pytest.raises(IntegrityError, match=r"shard-000000\.tar.* 24\.0 hours ago"):
            watch.look()
        shard.write_bytes(good)
        now += 3600
        assert watch.look() == {1}
        assert reader.image_bytes(1) is None


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_ends_with_the_same_bits_for_any_number_of_workers(tmp_path: Path) -> None:
    """A removal is filed in mid-run, in one of them resealed and pruned as well: equal schedules, equal weights."""
    results = []
    for workers, is_resealed in ((0, False), (3, True)):
        place = tmp_path / str(workers)
        dataset, events = seal(place / "toys"), list[tuple[str, str, str]]()

        def after(done: int, place: Path = place, dataset: Path = dataset, is_resealed: bool = is_resealed) -> None:
            if done == 6:
                file_tombstone(place / "tombstones", [3, 7])
                if is_resealed:
                    reseal(dataset, [3, 7], "rem-1")
                    prune(dataset)

        with DatasetReader.open(dataset) as reader:
            result = train(
                reader,
                preset("tiny", loader_workers=workers),
                place / "run",
                upstream=(),
                text_encoder=HashedWords(),
                progress=lambda done, loss, rate, after=after: after(done),  # type: ignore[misc]
                now=noon,
                tombstones_dir=place / "tombstones",
                reopen_s=1e-9,
                tokens_dir=tmp_path / "tokens",
                on_event=lambda *event, events=events: events.append(event),  # type: ignore[misc]
            )
        expected = ["tombstones-entered", *(["generation-reopened"] if is_resealed else [])]
        assert [(kind, subject) for kind, subject, _ in events] == [(kind, "step 6") for kind in expected]
        results.append({name: sha256 for name, sha256 in result.last.files if name.endswith(".safetensors")})
        assert load_schedule(place / "run") == (ScheduleEntry(3, 6), ScheduleEntry(7, 6))
    assert results[0] == results[1]
    assert len(results[0]) == 4
