"""The drill goes the whole way in a copy, and leaves the home as it was."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.stages.removing import drill as stage
from flows.stages.seal import seal
from policy.errors import InputError, RefusedError, StorageError
from policy.removals import requests
from policy.ruleset import Ruleset
from policy.tombstones import Tombstones
from tests.builders import replaced
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import flat_picture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with six sealed samples, whose copy of tombstones lies beside it."""
    place = tmp_path_factory.mktemp("drill")
    text = replaced(
        DEFAULT_TEXT, {'suppression_copy = ""  ': f"suppression_copy = {json.dumps(str(place / 'copy'))}  "}
    )
    exact = replaced(Ruleset.default_text(), {'suppression = "near"': 'suppression = "exact"'})  # no model is needed
    made = sealable_home(place / "home", 6, flat_picture, settings_text=text, policy_text=exact)
    seal(made, name="apples")
    return made


def test_a_drill_removes_samples_in_a_copy_and_nothing_in_the_home(home: Home) -> None:
    """Every part is timed, nothing is left, the home has one event more and no request, and the copy is gone."""
    left_behind = home.path.parent / f"{stage.PREFIX}home-999999999"
    left_behind.mkdir()
    said = CliRunner().invoke(
        cli, ["removal", "drill", "--samples", "1", "--seed", "7", "--json", "--home", str(home.path)]
    )
    assert said.exit_code == 0, said.output
    done = json.loads(said.stdout)
    assert (done["passed"], done["hits"], done["left"], done["failures"]) == (True, 0, 0, [])
    names = ["copy", "file", "approve", "models, reckoned", "apply, scan and receipts", "verify"]
    assert [part["name"] for part in done["parts"]] == names
    assert sorted(path.name for path in home.path.parent.iterdir()) == ["copy", "home"]
    assert Tombstones.load(home.path.parent / "copy").epoch == 0, "nothing that was drilled is in the real copy"
    with home.ledger(readonly=True) as ledger:
        assert requests(ledger) == ()
        [(detail,)] = ledger.query("SELECT detail FROM event WHERE kind = 'drill'")
        assert home.tombstones(ledger).epoch == 0
    assert json.loads(detail)["passed"]


def test_a_drill_that_cannot_be_one_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many samples, no room, a place that is taken: one message each, and no copy is begun."""
    with pytest.raises(InputError, match="6 live samples"):
        stage.drill(home, samples=7)
    with pytest.raises(RefusedError, match="here already"):
        stage.drill(home, keep=home.path)
    monkeypatch.setattr(stage, "ROOM", 1e9)
    with pytest.raises(StorageError, match="takes"):
        stage.drill(home)
    assert not list(home.path.parent.glob(f"{stage.PREFIX}*"))


def test_leftovers_fail_a_drill(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an apply forgets is found by the drill, which then ends with 1."""
    monkeypatch.setattr(stage.applying, "_delete_copies", lambda home, contents: None)
    done = stage.drill(home, samples=1, seed=3)
    assert done.left == 1
    assert done.hits > 0
    assert not done.passed


def test_the_same_seed_picks_the_same_samples(home: Home) -> None:
    """A drill can be gone through again."""
    assert stage._picked(home, 3, 5) == stage._picked(home, 3, 5) != stage._picked(home, 3, 6)
