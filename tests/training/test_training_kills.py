"""A killed trainer: the small version of tests/proofs/training_kills.py."""

from pathlib import Path

from tests.proofs.training_kills import Found, Runs, Scenario, trainers


def test_a_trainer_killed_at_random_moments_ends_as_one_left_alone(tmp_path: Path) -> None:
    """Kill -9 at any instant, in a save and at a file event: the same bits, every slot once, no checkpoint lost."""
    found = Found()
    with trainers(tmp_path) as forked:
        Runs(tmp_path, Scenario(slots=24, steps=8, kills=4), forked).prove("bf16", 2, "a small one", found)
    assert found.failures == []
    assert found.killed >= 1
