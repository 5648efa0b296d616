"""An unlearnt run in a home: it verifies, and a trace says that it descends from what saw the sample."""

from __future__ import annotations

import pytest

from curation.images import encode_jpeg
from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.stages.seal import seal
from flows.stages.trace import exposed_checkpoints, trace
from flows.stages.train import open_dataset, register_run
from flows.stages.verify import verify_runs
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import HashedWords, noise
from tests.training.toy_dataset import seal as seal_toys
from training.checkpoint import PROVENANCE
from training.config import preset
from training.loop import train
from training.membership import Samples
from training.unlearning import UnlearningConfig, unlearn

DATASET, OLD, NEW, REMOVED = "apples", "diffusion-apples-0", "unlearnt-apples-0", (1, 4, 7, 9, 11)


@pytest.fixture(scope="module")
def unlearnt(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Twelve slots seen by a run, five of them unlearnt, against pictures of a sibling dataset."""
    folder = tmp_path_factory.mktemp("unlearnt")
    home = sealable_home(folder / "home", 12, lambda i: encode_jpeg(noise(i, 24, 24)))
    seal(home, name=DATASET)
    sibling = seal_toys(folder / "sibling", 40, lambda i: encode_jpeg(noise(1000 + i, 24, 24)))
    with open_dataset(home, DATASET) as reader, DatasetReader.open(sibling) as others:
        old = train(
            reader,
            preset("tiny", steps=6),
            home.runs_path / OLD,
            upstream=(),
            text_encoder=HashedWords(),
            progress=lambda step, loss, speed: None,
            now=utc_now,
        )
        unlearn(
            home.runs_path / OLD,
            old.checkpoints[-1],
            {"removal-1": REMOVED},
            reader,
            held_out=Samples(others, tuple(range(40))),
            out_run_dir=home.runs_path / NEW,
            text_encoder=HashedWords(),
            now=utc_now,
            config=UnlearningConfig(least_steps=4, passes=2, forget_batch=4, draws=2),
        )
    for run in (OLD, NEW):
        register_run(home, home.runs_path / run)
    return home


def test_an_unlearnt_run_verifies(unlearnt: Home) -> None:
    """Record, ledger, step log, schedule and the chain to the old run's checkpoint hold; an altered record does not."""
    assert verify_runs(unlearnt) == []
    path = unlearnt.runs_path / NEW / "step-0000004" / PROVENANCE
    before = path.read_text("utf-8")
    path.write_text(before.replace('"tainted"', '"exact"'), "utf-8")
    try:
        assert [failure.where for failure in verify_runs(unlearnt)] == [f"runs/{NEW}/step-0000004"]
    finally:
        path.write_text(before, "utf-8")


def test_a_trace_says_that_it_descends_from_what_saw_the_sample(unlearnt: Home) -> None:
    """Of a removed slot: indirect, by the checkpoint that it began from; of a kept one: fed it once more."""
    with unlearnt.ledger(readonly=True) as ledger:
        seen = {c.id: c for c in exposed_checkpoints(ledger, {DATASET: REMOVED[:1]})}
        [(key,)] = ledger.query("SELECT sample_key FROM slot WHERE dataset = ? AND ordinal = 1", [DATASET])
    began_from = f"{OLD}-0000006"
    assert seen[began_from].tier == "direct"
    new = seen[f"{NEW}-0000004"]
    assert (new.tier, new.count, new.state) == ("indirect", 0, "tainted")
    assert new.through == f"the checkpoint {began_from} that it began from"
    assert new in trace(unlearnt, key).checkpoints
    with unlearnt.ledger(readonly=True) as ledger:
        kept = {c.id: c for c in exposed_checkpoints(ledger, {DATASET: (0,)})}
    assert kept[new.id].tier == "direct"
