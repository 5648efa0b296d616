"""The cases of the comparison with other programs (make bench BENCH=peers): our answer is the right one in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from tests.benchmarks.peers_cases import _LEFT_OPEN, TITLES, Case, cases
from tests.benchmarks.peers_ours import Ours, judge_all, place
from tests.benchmarks.peers_site import Web

CASES = cases()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ours]:
    """Every case served on loopback, fetched by our fetcher, and judged by the public judge."""
    answers: dict[str, Ours] = {}
    for start in range(0, len(CASES), 60):  # an origin a case is a socket a case
        some = CASES[start : start + 60]
        with Web() as web:
            placed = place(web, some)
            web.open()
            ours = judge_all(placed, tmp_path_factory.mktemp("peers"))
        answers |= {case.name: answer for case, answer in zip(some, ours, strict=True)}
    return answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_right_one(case: Case, answers: Mapping[str, Ours]) -> None:
    """The case's own mechanism says what is right, and no other says otherwise."""
    ours = answers[case.name]
    assert (ours.own, ours.together) == (case.right, case.right), ours.line


def test_what_is_marked_as_left_open_is_there() -> None:
    """Every name in the list of what no specification settles is a case's."""
    assert {case.name for case in CASES} >= _LEFT_OPEN
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_mechanism_has_its_no_its_silence_and_its_doubt() -> None:
    """No row of the table is left out, and none is shown by its easy cases alone."""
    found = Counter((case.number, case.right) for case in CASES)
    assert {number for number, _ in found} == set(TITLES)
    for number in TITLES:
        assert found[number, "no"]
        assert found[number, "nothing"]
    # What nobody states, nobody can state with a yes or in doubt: other agents' groups, X-Robots-Tag and lists hold
    # no yes; what stands in a picture's bytes is read or, in the strict ruleset, denies.
    assert {n for n in TITLES if not found[n, "yes"]} == {2, 8, 13}
    assert {n for n in TITLES if not found[n, "wait"]} == {11, 12}
