"""A removal that came in parts: the small version of tests/proofs/replays.py."""

from pathlib import Path

from tests.proofs.replays import Found, Removal, Trainers, prove


def test_what_was_removed_while_training_and_after_it_is_replayed_away(tmp_path: Path) -> None:
    """Two tombstones arrive in mid-run and one after the end: the replay is the run that never saw any of them."""
    found = Found()
    removal = Removal("diffusion", "bf16", midway=((3, (7, 20)), (9, (31,))), afterwards=(50,))
    prove(Trainers(tmp_path), removal, tmp_path / "removal", found)
    assert found.failures == []
    assert (found.removals, found.slots, found.midway) == (1, 4, 1)
