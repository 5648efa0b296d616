"""Near hashes among many: what comparing all finds, found without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.fingerprints import hamming, pdq_orientations
from curation.hash_index import MAX_DISTANCE, HashIndex, transposed, words_of
from policy.turned_hashes import turned_hashes
from tests.curation.drawn import photo_like

HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)


def differing(pdq: str, bits: list[int]) -> str:
    value = int(pdq, 16)
    for bit in bits:
        value ^= 1 << bit
    return f"{value:064x}"


def random_hashes(count: int, seed: int) -> list[str]:
    raw = np.random.default_rng(seed).bytes(32 * count)
    return [raw[start : start + 32].hex() for start in range(0, len(raw), 32)]


@given(HASHES, HASHES)
def test_the_distance_is_the_least_over_all_orientations(one: str, other: str) -> None:
    """What the index calls a distance is the least number of bits in which any orientation differs."""
    expected = min(hamming(turned, other) for turned in turned_hashes(one))
    found = HashIndex(words_of([other]), MAX_DISTANCE).near(words_of([one]))
    assert found.distance.tolist() == ([expected] if expected <= MAX_DISTANCE else [])
    if len(found):
        assert hamming(turned_hashes(one)[found.orientation[0]], other) == expected


@pytest.mark.parametrize("distance", [0, 23, 31])
def test_none_is_missed(distance: int) -> None:
    """Among thousands every planted neighbour is found at its distance, turned or not, and none beyond the limit."""
    hashes, rng = random_hashes(4_200, 5), np.random.default_rng(6)
    index = HashIndex(words_of(hashes), distance)
    asked, expected = [], []
    for number in range(40):
        away = int(rng.choice([0, 1, max(0, distance - 1), distance, distance + 1]))
        heaped = number % 3 == 0  # all in neighbouring bits, or spread
        first = int(rng.integers(0, 257 - away))
        bits = list(range(first, first + away)) if heaped else rng.choice(256, away, replace=False).tolist()
        asked.append(turned_hashes(differing(hashes[number], bits))[number % 8])
        expected.append((number, away) if away <= distance else None)
    found = index.near(words_of(asked))
    nearest = dict(
        zip(found.query.tolist(), zip(found.row.tolist(), found.distance.tolist(), strict=True), strict=True)
    )
    assert [nearest.get(number) for number in range(40)] == expected


def test_upright_alone_finds_no_mirrored_copy() -> None:
    """An index that is not asked for turned copies finds the picture itself and not its mirror image."""
    hashes = random_hashes(4_200, 8)
    asked = words_of([hashes[4], turned_hashes(hashes[5])[4]])
    found = HashIndex(words_of(hashes), 31, turned=False).near(asked)
    assert (found.query.tolist(), found.row.tolist()) == ([0], [4])


def test_of_many_copies_the_nearest_are_given() -> None:
    """Of a picture with more near copies than are asked for, the nearest ones come, nearest first."""
    (pdq,) = random_hashes(1, 9)
    copies = [differing(pdq, list(range(bits))) for bits in range(20)]
    found = HashIndex(words_of(copies), 31).near(words_of([pdq]), most=3)
    assert (found.row.tolist(), found.distance.tolist()) == ([0, 1, 2], [0, 1, 2])


def test_answers_do_not_depend_on_how_many_ask() -> None:
    """Asked one by one, at once or by several threads, the index says the same."""
    hashes = random_hashes(4_200, 10)
    words = words_of(hashes + [differing(h, [3, 99]) for h in hashes[:50]])
    index = HashIndex(words, 20)
    at_once = index.near(words[:60], threads=2)
    for query in range(60):
        alone = index.near(words[query : query + 1])
        assert alone.row.tolist() == at_once.row[at_once.query == query].tolist()


@settings(max_examples=20)
@given(HASHES)
def test_transposing_twice_changes_nothing(pdq: str) -> None:
    """Mirroring along the diagonal is its own inverse."""
    words = words_of([pdq])
    assert (transposed(transposed(words)) == words).all()


def test_a_turned_picture_is_found_by_its_own_hash() -> None:
    """A picture's eight orientations, hashed each for itself, are all near it, each in its own orientation."""
    picture = photo_like(3, 160)
    eight = pdq_orientations(picture)
    found = HashIndex(words_of([eight[0]]), 31).near(words_of(list(eight)))
    assert found.query.tolist() == list(range(8))
    backwards = {1: 3, 3: 1}  # a quarter turn to the left is undone by one to the right
    assert found.orientation.tolist() == [backwards.get(number, number) for number in range(8)]


def test_what_cannot_be_looked_up_is_refused() -> None:
    """A distance that is beyond the index, and what is no hash, raise."""
    with pytest.raises(ValueError, match="48"):
        HashIndex(words_of([]), 48)
    with pytest.raises(ValueError, match="64 hex digits"):
        words_of(["ab"])


def test_nothing_among_nothing() -> None:
    """No hashes have no neighbours."""
    assert len(HashIndex(words_of([]), 31).near(words_of(random_hashes(2, 1)))) == 0
    assert len(HashIndex(words_of(random_hashes(2, 1)), 31).near(words_of([]))) == 0
