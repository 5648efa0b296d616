"""What a removal will cost is told before the first step, and is what a replay then redoes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import settings
from flows.home import Home
from flows.stages.redo import foretold, in_words
from flows.stages.seal import seal
from flows.stages.train import open_dataset
from policy.errors import ConfigurationError
from tests.builders import replaced
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import flat_picture
from training.config import preset
from training.redo import ExpectedRedo, Redo

CONFIG = preset("tiny", curriculum="revocable-last", steps=20, checkpoint_every=4)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Twelve allowed samples, CC0 and CC BY in turn."""
    return sealable_home(tmp_path / "home", 12, flat_picture)


def test_a_dataset_without_revocable_slots_is_trained_in_a_uniform_order_that_says_so(home: Home) -> None:
    """`train` tells why before it starts: there is nothing to feed last."""
    seal(home, name="d")
    with open_dataset(home, "d") as reader:
        redo, note = foretold(reader, CONFIG)
    assert note == "uniform order: none of the slots is revocable"
    assert redo.of_revocable is None
    assert (redo.steps, redo.of_any.slots, redo.of_any.asked) == (20, 12, 12)


def test_revocable_slots_are_foretold_to_redo_the_last_part_alone(home: Home) -> None:
    """Four of the samples are allowed on terms that do not say how long: their removal redoes 3 of 20 steps."""
    seal(home, name="before")
    with home.ledger() as ledger:
        first = ledger.query("SELECT pair_key FROM slot ORDER BY ordinal LIMIT 4")
        said = {"rule": "licence", "verdict": "allow", "reason_code": "licence-allowed", "reason_detail": "MIT"}
        ledger.append("decision", [said | {"pair_key": pair} for (pair,) in first], key="on other terms")
    assert [c.slots for c in seal(home, name="d").classes] == [2, 6, 4]
    with open_dataset(home, "d") as reader:
        redo, note = foretold(reader, CONFIG)
        assert note == ""
        assert redo.of_revocable == Redo(4, 4, 0.15, 0.15)
        assert redo.of_any.worst > 0.5
        uniform, _ = foretold(reader, preset("tiny", steps=20, checkpoint_every=4))
    assert uniform.of_revocable is not None
    assert uniform.of_revocable.mean > 0.5


@pytest.mark.parametrize(
    ("revocable", "words"),
    [
        (None, "A replay without one slot trains again 81.2% of the 1,500 steps on average, 100% at most; none is "),
        (Redo(40, 40, 0.15, 0.15), "; without one of the 40 revocable ones 15.0% on average, 15% at most"),
        (Redo(200, 200, 0.8, 1.0), "; all are revocable"),
    ],
)
def test_the_words_say_both_groups(revocable: Redo | None, words: str) -> None:
    """Of any slot, and of a revocable one where only some are."""
    said = in_words(ExpectedRedo(1500, Redo(200, 200, 0.812, 1.0), revocable))
    assert words in said


def test_the_settings_reach_the_configuration(tmp_path: Path) -> None:
    """[training] names the curriculum; a share beyond what can be is refused with its key."""
    text = replaced(settings.DEFAULT_TEXT, {'curriculum = "uniform" ': 'curriculum = "revocable-last" '})
    assert settings.parse(text).training.curriculum == "revocable-last"
    with pytest.raises(ConfigurationError, match=r"training\.revocable_steps must be from"):
        settings.parse(replaced(settings.DEFAULT_TEXT, {"revocable_steps = 0.15": "revocable_steps = 1.5"}))
