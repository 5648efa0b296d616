"""Who stands for whom: direct matches in one order, never a chain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from curation import duplicates
from curation.duplicates import METHODS, Candidates, Match, candidates, representatives
from curation.geometry import Sketch, same
from curation.near_embedding import WIDTH
from policy.turned_hashes import turned_hashes
from tests.curation.drawn import photo_like

PHOTO = photo_like(1, 160)
LONG = photo_like(1, 400, 160)


def among(pairs: dict[int, list[int]], count: int) -> Candidates:
    """Whom each of `count` pictures may be a duplicate of, all proposed by PDQ."""
    listed = [pairs.get(place, []) for place in range(count)]
    starts = np.cumsum([0, *map(len, listed)])
    others = np.array([other for part in listed for other in part], np.int64)
    return Candidates(starts, others, np.full(len(others), METHODS.index("pdq"), np.int8))


def line_of(count: int) -> Callable[[int], np.ndarray]:
    """Windows that move over one picture, each overlapping the next: those further away have less in common."""
    return lambda place: LONG[:, place * 30 : 200 + place * 30]


def test_a_chain_of_likenesses_is_no_duplicate() -> None:
    """Where each picture is like the next alone, what stands for one is like it itself, however long the chain."""
    pictures, count = line_of(5), 5
    everyone = among({place: list(range(place))[::-1] for place in range(count)}, count)
    found = dict(representatives(everyone, pictures, places=range(count)))
    drawn = [duplicates.sketch(np.ascontiguousarray(pictures(place))) for place in range(count)]
    heads = {match.representative for match in found.values()}
    assert len(heads) > 1
    for place, match in found.items():
        one, other = drawn[match.representative], drawn[place]
        assert isinstance(one, Sketch)
        assert isinstance(other, Sketch)
        assert match.representative == place or same(one, other) is not None
        assert found[match.representative].representative == match.representative


def test_a_duplicate_leads_to_what_stands_for_it() -> None:
    """A candidate that is a duplicate itself is replaced by its representative, which is then compared."""
    pictures = [PHOTO, PHOTO[::2, ::2], PHOTO[:, ::-1]]
    found = dict(representatives(among({1: [0], 2: [1]}, 3), lambda place: pictures[place], places=range(3)))
    assert [found[place].representative for place in range(3)] == [0, 0, 0]
    assert found[2].method == "pdq-turned"
    assert found[2].distance < 0.05


def test_what_is_settled_is_not_compared_again() -> None:
    """Known matches stand as they are, and only the new ask for pixels."""
    asked: list[int] = []

    def picture(place: int) -> np.ndarray:
        asked.append(place)
        return PHOTO

    settled = {0: Match(0), 1: Match(0, "pdq", 0.1)}
    found = dict(representatives(among({1: [0], 2: [1]}, 3), picture, settled=settled, places=[2]))
    assert found[2].representative == 0
    assert set(asked) == {0, 2}


def test_a_picture_is_held_against_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are proposed, so many representatives are compared and no more."""
    compared: list[int] = []
    monkeypatch.setattr(duplicates, "same", lambda one, other: compared.append(1))
    everyone = among({place: list(range(place)) for place in range(12)}, 12)
    found = dict(representatives(everyone, lambda place: PHOTO, places=range(12)))
    assert all(match.representative == place for place, match in found.items())
    assert len(compared) == sum(min(place, duplicates.COMPARED) for place in range(12))


HASH = np.random.default_rng(2).bytes(32).hex()
NOTHING = np.zeros((5, WIDTH), np.int8)


def test_hashes_propose_in_any_orientation_where_they_say_something() -> None:
    """Equal, near and turned hashes are proposed to the later one; one of low quality, or none, to nobody."""
    near = f"{int(HASH, 16) ^ 0b111:064x}"
    found = candidates(
        [HASH, near, turned_hashes(HASH)[5], HASH, None],
        [90, 90, 90, 49, None],
        NOTHING,
        np.zeros(5, np.bool_),
        NOTHING,
    )
    assert [list(found.of(place)) for place in range(5)] == [[], [(0, "pdq")], [(0, "pdq"), (1, "pdq")], [], []]


def test_embeddings_propose_what_is_near_enough() -> None:
    """A near vector is proposed, a far one is not, and one that is not there neither asks nor answers."""
    rng = np.random.default_rng(3)
    one, other = rng.integers(-100, 100, (2, WIDTH)).astype(np.int8)
    near = np.where(np.arange(WIDTH) % 40 == 0, -one, one).astype(np.int8)
    vectors = np.stack([one, other, near, one, one])
    there = np.array([True, True, True, True, False])
    found = candidates([None] * 5, [None] * 5, vectors, there, NOTHING)
    assert list(found.of(1)) == []
    assert list(found.of(2)) == [(0, "embedding")]
    assert next(found.of(3)) == (0, "embedding")
    assert list(found.of(4)) == []


def test_pairs_of_the_known_are_not_looked_for() -> None:
    """Where only one is new, only its pairs are proposed."""
    new = np.array([2])
    found = candidates([HASH, HASH, HASH], [90] * 3, NOTHING[:3], np.zeros(3, np.bool_), NOTHING[:3], asking=new)
    assert [place for place, _ in found.of(2)] == [0]


def test_a_near_thumbnail_comes_before_near_hashes() -> None:
    """Whom the thumbnails name is held first, and is called by its hash where that is near too; zeros name nobody."""
    rng = np.random.default_rng(4)
    one, other = rng.integers(-100, 100, (2, WIDTH)).astype(np.int8)
    thumbnails = np.stack([other, one, one, 0 * one, 0 * one])
    hashes = [HASH, *(f"{int(HASH, 16) ^ bits:064x}" for bits in (0b111, 0b1)), None, None]
    missing = np.zeros(5, np.bool_)
    assert list(candidates(hashes, [90] * 5, NOTHING, missing, NOTHING).of(2)) == [(0, "pdq"), (1, "pdq")]
    assert list(candidates(hashes, [90] * 5, NOTHING, missing, thumbnails).of(2)) == [(1, "pdq"), (0, "pdq")]
    found = candidates([None] * 5, [None] * 5, NOTHING, missing, thumbnails)
    assert [list(found.of(place)) for place in range(5)] == [[], [], [(1, "thumbnail")], [], []]
