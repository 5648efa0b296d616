"""Exporting a checkpoint: whole, with what it learnt from; not one that saw what is to be removed, unless told so."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
from click.testing import CliRunner

from flows.cli import cli
from flows.home import Home, utc_now
from flows.stages.export import MANIFEST, SIGNATURE, WEIGHTS, export, verify_export
from flows.stages.removing.approving import approve
from flows.stages.removing.requests import add
from flows.stages.train import open_dataset, register_run
from flows.stages.verify import verify
from policy.errors import InputError, IntegrityError, RefusedError
from tests.flows.trained import DATASET, RUN, STEPS, trained_home
from tests.training.toy_dataset import HashedWords
from training.checkpoint import checkpoint_dir, open_checkpoint
from training.config import TrainingConfig, preset
from training.loop import train

LAST = f"{RUN}-{STEPS:07d}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = trained_home(tmp_path_factory.mktemp("exporting") / "home")
    rules = home.policy_path.read_text("utf-8").replace('suppression = "near"', 'suppression = "exact"')
    home.policy_path.write_text(rules)
    return home


@pytest.fixture
def home(trained: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(trained.path, tmp_path / "home")))


def ask(home: Home, ordinal: int = 0) -> str:
    with home.ledger(readonly=True) as ledger:
        [(key,)] = ledger.query("SELECT sample_key FROM slot WHERE dataset = ? AND ordinal = ?", [DATASET, ordinal])
    return add(home, "key", key).id


def test_what_is_exported_says_what_it_is_and_is_on_record(home: Home, tmp_path: Path) -> None:
    """The averaged weights, config and records; a card that names root, licences and how to check; who has it, only in
    the ledger.
    """
    out = tmp_path / "given" / "model"
    done = export(home, RUN, out, recipient="Somebody & Co", sign=True)
    assert (done.checkpoint, done.despite, done.unserved) == (LAST, (), ())
    assert verify_export(out, public_key=home.keys.public_key) == LAST
    checkpoint = open_checkpoint(checkpoint_dir(home.runs_path / RUN, STEPS))
    weights = safetensors.torch.load((out / WEIGHTS).read_bytes())
    assert all((weights[name] == tensor).all() for name, tensor in checkpoint.tensors("ema").items())
    TrainingConfig.from_json((out / "config.json").read_text())
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    for said in (LAST, checkpoint.record.dataset_root, "CC0-1.0", "CC-BY-4.0", "hashed-words", "exact"):
        assert said in card
    with home.ledger(readonly=True) as ledger:
        [row] = ledger.query("SELECT export, checkpoint, path, recipient, files_json FROM export")
    assert row[:4] == (done.export, LAST, str(out), "Somebody & Co")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}
    assert json.loads(row[4]) == files
    assert not any(b"Somebody" in path.read_bytes() for path in out.iterdir())
    assert sorted(p.name for p in out.parent.iterdir()) == ["model"]
    with pytest.raises(InputError, match="already"):
        export(home, RUN, out)
    assert verify(home) == []


def test_an_export_that_was_changed_does_not_verify(home: Home, tmp_path: Path) -> None:
    """Any file, the manifest, the signature, or one file more."""
    out = tmp_path / "model"
    export(home, LAST, out, sign=True)
    for name in (WEIGHTS, MANIFEST, SIGNATURE, "README.md"):
        copy = Path(shutil.copytree(out, tmp_path / f"changed-{name}"))
        body = bytearray((copy / name).read_bytes())
        body[len(body) // 2] ^= 1
        (copy / name).write_bytes(body)
        with pytest.raises(IntegrityError):
            verify_export(copy)
    (out / "more").write_bytes(b"")
    with pytest.raises(IntegrityError, match="more"):
        verify_export(out)


def test_what_saw_something_that_is_to_be_removed_stays_in(home: Home, tmp_path: Path) -> None:
    """From the day of the request; despite it, the card says so."""
    name = ask(home)
    with pytest.raises(RefusedError, match=name):
        export(home, RUN, tmp_path / "held")
    out = tmp_path / "despite"
    done = export(home, RUN, out, recipient="Somebody & Co", despite=True)
    assert (done.despite, done.unserved) == (("unserved-removals",), (name,))
    assert "Exported despite unserved removals" in (out / "README.md").read_text()
    assert f"{name} (held): **unserved**, fed" in (out / "README.md").read_text()

    approve(home, name, by="A. Reviewer")
    with pytest.raises(RefusedError, match="approved"):
        export(home, LAST, tmp_path / "approved")
    assert verify(home) == []


def test_a_tainted_checkpoint_is_exported_only_despite_that(home: Home, tmp_path: Path) -> None:
    """Trained on under another number of threads: nothing exact can be said of it, and the card does not."""
    run_dir = home.runs_path / "diffusion-apples-threads"
    for threads, stop_after in ((1, 2), (2, 4)):
        with open_dataset(home, DATASET) as reader:
            train(
                reader,
                preset("tiny", checkpoint_every=2, threads=threads),
                run_dir,
                upstream=(),
                text_encoder=HashedWords(),
                progress=lambda step, loss, speed: None,
                now=utc_now,
                stop_after=stop_after,
            )
    register_run(home, run_dir)
    with pytest.raises(RefusedError, match="tainted"):
        export(home, run_dir.name, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert export(home, run_dir.name, tmp_path / "model", despite=True).despite == ("tainted",)
    assert "**Tainted.**" in (tmp_path / "model" / "README.md").read_text()


def test_nothing_that_does_not_verify_leaves_the_home(home: Home, tmp_path: Path) -> None:
    """A flipped bit of the weights, and a checkpoint that is not there; nothing is left of either try."""
    path = checkpoint_dir(home.runs_path / RUN, STEPS) / "ema.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(IntegrityError, match="sha256"):
        export(home, RUN, tmp_path / "out" / "model", despite=True)
    for what in ("nothing", f"{RUN}-0000001", "../home", "."):
        told = CliRunner().invoke(cli, ["export", "--home", str(home.path), what, str(tmp_path / "out" / "model")])
        assert told.exit_code == 2
        assert "no run or checkpoint" in told.output
    assert not (tmp_path / "out").exists()
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT count(*) FROM export") == [(0,)]
