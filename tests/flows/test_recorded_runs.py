"""What the ledger knows of a run while it is trained: each checkpoint from its save on, whoever holds the ledger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.stages.seal import seal
from flows.stages.train import train
from flows.stages.verify import verify_runs
from policy.lock import FileLock
from tests.builders import ask, replaced
from tests.flows.sealable import sealable_home
from tests.flows.trained import DATASET
from tests.training.toy_dataset import flat_picture
from training.checkpoint import list_checkpoints, read_record

STEPS, SAVES = 20, [4, 8, 12, 16, 20]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """40 slots, ten steps an epoch: of five checkpoints the second is retired."""
    text = replaced(DEFAULT_TEXT, {'preset = "demo"': 'preset = "tiny"', "threads = 2": "threads = 1"})
    home = sealable_home(tmp_path_factory.mktemp("recorded") / "home", 40, flat_picture, settings_text=text)
    seal(home, name=DATASET)
    return home


@pytest.fixture
def home(sealed: Home, tmp_path: Path) -> Home:
    return Home.open(shutil.copytree(sealed.path, tmp_path / "home"))


def trained(home: Home, at_step: Callable[[int], None]) -> Path:
    done = train(home, dataset=DATASET, steps=STEPS, offline=True, progress=lambda step, total, what: at_step(step))
    return home.runs_path / done.run


def on_record(home: Home) -> dict[int, dict[str, str]]:
    """Step -> the files' digests, the record's among them."""
    rows = ask(home, "SELECT step, files_json FROM checkpoint ORDER BY step")
    assert len(rows) == len({step for step, _ in rows})
    return {step: json.loads(files) for step, files in rows}


def check_chain(home: Home, run_dir: Path) -> None:
    """All saves are on record, and the one that is gone is the one that its child stands on."""
    records = [read_record(path) for path in list_checkpoints(run_dir)]
    assert [record.step for record in records] == [4, 12, 16, 20]
    said = on_record(home)
    assert list(said) == SAVES
    assert records[1].parent_sha256 == said[8]["provenance.json"]
    assert verify_runs(home) == []


def test_a_checkpoint_is_on_record_when_it_is_saved_unless_the_ledger_is_held(home: Home) -> None:
    """Before the next step, so that what was retired by the end is on record with its digest, too. Saves pass by a
    ledger that another process holds, and what they could not say the next one says.
    """
    locks: list[FileLock] = []
    said: dict[int, list[int]] = {}

    def look(step: int) -> None:
        if step == 4:  # progress is told before the save of its step
            assert ask(home, "SELECT count(*) FROM checkpoint") == [(0,)]
        if step == 5:
            said[step] = list(on_record(home))
        if step == 7:
            locks.append(FileLock(home.ledger_path.with_suffix(".lock"), exclusive=True, wait_s=0.0))
        if step == 14:
            locks.pop().release()
        if step in (14, 17, 20):
            said[step] = list(on_record(home))

    run_dir = trained(home, look)
    assert said == {5: [4], 14: [4], 17: [4, 8, 12, 16], 20: [4, 8, 12, 16]}
    check_chain(home, run_dir)


def test_what_a_killed_trainer_left_is_on_record_before_it_is_retired(home: Home) -> None:
    """Where no save could be recorded, a run that goes on first says what it finds."""

    def hold_and_die(step: int) -> None:
        if step == 3:
            locks.append(FileLock(home.ledger_path.with_suffix(".lock"), exclusive=True, wait_s=0.0))
        if step == 17:
            os.kill(os.getpid(), signal.SIGKILL)

    locks: list[FileLock] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of threads that are idle here
        child = os.fork()
    if not child:
        trained(home, hold_and_die)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert on_record(home) == {}
    said: list[list[int]] = []
    trained(home, lambda step: said.append(list(on_record(home))) if step == 17 else None)
    assert said == [[4, 12, 16]]
    assert list(on_record(home)) == [4, 12, 16, 20]
    assert verify_runs(home) == []
