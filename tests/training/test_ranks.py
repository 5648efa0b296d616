"""Several processes feed the same samples in the same order as one, and train one model."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from curation.shard_reader import DatasetReader
from policy.errors import ConfigurationError, InputError, StorageError
from policy.provenance import ScheduleEntry
from tests.training.toy_dataset import HashedWords, file_tombstone, noon
from training.checkpoint import load_schedule
from training.config import preset
from training.loop import TrainResult, train
from training.ranks import ALONE, Ranks, _other, _told_why, train_together
from training.step_log import effective_rows, read_steps

CONFIG = preset("tiny")
FED = ["step", "first_position", "real", "fed_sha256"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What two processes came to, one thing after the other; `gathered`: their parts of a batch."""

    gathered: list[slice]
    summed: float
    refused: str
    whole: TrainResult
    again: TrainResult
    interrupted: str


def run_to(ranks: Ranks, dataset: Path, run_dir: Path, **arguments: object) -> TrainResult:
    given: dict[str, object] = {"progress": lambda *_: None, **arguments}
    with DatasetReader.open(dataset) as reader:
        return train(reader, CONFIG, run_dir, upstream=(), text_encoder=HashedWords(), now=noon, ranks=ranks, **given)  # type: ignore[arg-type]


def filing(stones: Path, at: int) -> Callable[[int, float, float], None]:
    """A progress that files a tombstone of slot 3 after so many steps; only the first process's is called."""

    def progress(done: int, loss: float, speed: float) -> None:
        if done == at:
            file_tombstone(stones, [3])

    return progress


def act(ranks: Ranks, dataset: Path, folder: Path) -> Seen:
    """All that the tests look at, so that two processes are started once."""
    gathered = ranks.gathered(ranks.part(CONFIG.batch_size))
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), 0.25 * (1 + ranks.rank))
    ranks.sum_gradients([parameter])

    def refuse() -> None:
        if ranks.rank == 1:
            raise InputError("the second one cannot", where="there")

    try:
        ranks.together(refuse, lambda _: None)
        refused = ""
    except InputError as error:
        refused = str(error)
    whole = run_to(ranks, dataset, folder / "whole", progress=filing(folder, 5), tombstones_dir=folder)
    run_to(ranks, dataset, folder / "half", stop_after=4)
    for stop_after in (3, 12):
        again = run_to(ranks, dataset, folder / "again", stop_after=stop_after)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        ranks.gathered(0)
        interrupted = ""
    except StorageError as error:
        interrupted = str(error)
    return Seen(gathered, float(parameter.grad[0]), refused, whole, again, interrupted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def seen(dataset_dir: Path, folder: Path) -> Seen:
    return train_together(functools.partial(act, dataset=dataset_dir, folder=folder), 2)


def rows_of(run_dir: Path) -> np.ndarray:
    return effective_rows(read_steps(run_dir / "steps.log"))


def test_each_process_takes_its_part_and_sums_are_those_of_all(seen: Seen) -> None:
    """Two processes share a batch by halves; gradients are added up over both."""
    half = CONFIG.batch_size // 2
    assert seen.gathered == [slice(0, half), slice(half, 2 * half)]
    assert seen.summed == 0.25 + 0.5


def test_what_one_process_refuses_stops_all_with_its_words(seen: Seen) -> None:
    """An error of the second process is raised in the first one as it was."""
    assert seen.refused == "there: the second one cannot"


def test_two_feed_what_one_feeds_in_the_same_order(seen: Seen, dataset_dir: Path, folder: Path) -> None:
    """Steps, positions and the digests of what was fed are those of one process; weights differ by rounding alone."""
    alone = run_to(ALONE, dataset_dir, folder / "alone")
    two, one = rows_of(folder / "again"), rows_of(folder / "alone")
    assert (two[FED] == one[FED]).all()
    assert np.allclose(two["loss"], one["loss"], rtol=1e-2)
    weights = [
        safetensors.torch.load_file(result.checkpoints[-1] / "model.safetensors") for result in (seen.again, alone)
    ]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=0.02), name
    assert [r.run.segments[0].contract.world_size for r in (seen.again, alone)] == [2, 1]
    assert seen.again.last.tally == alone.last.tally


def test_a_removal_reaches_both_at_the_same_step(seen: Seen, folder: Path) -> None:
    """A tombstone that is filed during the run empties its slot in whoever's part it lies, from the next step on."""
    assert load_schedule(folder / "whole") == (ScheduleEntry(3, 5),)
    whole, again = rows_of(folder / "whole"), rows_of(folder / "again")
    assert (whole[:5] == again[:5]).all()  # stopped and resumed, and not: the same bits of loss
    assert int(again["real"].sum()) > int(whole["real"].sum())


def test_a_run_goes_on_exactly_with_as_many_processes_only(seen: Seen, dataset_dir: Path, folder: Path) -> None:
    """Gone on with by one process, a run of two is tainted: it was added up in another order."""
    assert seen.again.last.state == "exact"
    broken: list[str] = []
    alone = run_to(
        ALONE, dataset_dir, folder / "half", stop_after=5, on_event=lambda kind, _, detail: broken.append(detail)
    )
    assert alone.last.state == "tainted"
    assert broken == ["world_size: 2, now 1"]


def test_a_process_that_dies_stops_the_run_with_a_clear_message(seen: Seen) -> None:
    """The first process says that another one ended, and what to do."""
    assert "another process of this run ended" in seen.interrupted
    assert "goes on from the last checkpoint" in seen.interrupted


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """Three processes and a batch of four: one message that says what to take."""
    with pytest.raises(ConfigurationError, match="cannot be shared equally by 3"):
        Ranks(0, 3).part(4)


def broken(ranks: Ranks) -> None:
    """What nobody has foreseen, with words that are nobody's to read."""
    raise TypeError("http://private.example/a-name.png")


def test_what_nobody_has_foreseen_in_another_process_is_told_by_kind_and_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback of it reaches the terminal: the first process names the error and the line, and what to do."""
    store = tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=_other, args=(broken, 0, 1, store, "cpu", os.getpid()))
    process.start()
    process.join(60)
    said = capfd.readouterr()
    assert (process.exitcode, "Traceback" in said.err, "private.example" in said.out + said.err) == (1, False, False)
    with pytest.raises(StorageError, match=r"ended \(TypeError at [a-z_.]+:\d+\)") as told, _told_why(store, 1):
        raise StorageError("another process of this run ended (Connection closed)", where="training")
    assert "ranks = 1" in told.value.remedy


class Stillborn:
    """Ends the process that it is handed to, before that can begin."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (3,)

    def __call__(self, ranks: Ranks) -> None:
        """Never called."""


def test_a_process_that_never_begins_is_not_waited_for() -> None:
    """Where another process ends before it joins, the run stops at once and says so."""
    with pytest.raises(StorageError, match=r"ended before it began \(exit status 3\)"):
        train_together(lambda ranks: None, 2, others=Stillborn())
