"""PDQ hashes of turned pictures out of one hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.turned_hashes import ORIENTATIONS, turned_hashes

HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(HASHES)
def test_orientations_are_a_group(pdq: str) -> None:
    """Every orientation of an orientation is one of the eight, and each of them has the same eight."""
    eight = turned_hashes(pdq)
    assert len(eight) == ORIENTATIONS
    assert eight[0] == pdq
    for turned in eight:
        assert set(turned_hashes(turned)) == set(eight)


@given(HASHES)
def test_turning_four_times_and_mirroring_twice_changes_nothing(pdq: str) -> None:
    """A quarter turn four times over, or a mirror twice, is the hash itself."""
    turned = pdq
    for _ in range(4):
        turned = turned_hashes(turned)[1]
    assert turned == pdq
    assert turned_hashes(turned_hashes(pdq)[4])[4] == pdq


def test_what_is_no_hash_is_refused() -> None:
    """A digest of another length has no orientations."""
    with pytest.raises(ValueError, match="64 hex digits"):
        turned_hashes("ab" * 16)
