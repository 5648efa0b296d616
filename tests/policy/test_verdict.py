"""Verdicts combine as an algebra: whatever the order and grouping, a no stays a no."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policy.verdict import Verdict, combine

VERDICTS = st.one_of(st.none(), st.sampled_from(Verdict))
JUDGED = st.lists(VERDICTS, min_size=1)


def test_nothing_judged_is_no_permission() -> None:
    """Without a single judgement the sample stays out."""
    assert combine([]) is Verdict.DEFER


def test_unset_everywhere_permits() -> None:
    """Where every mechanism was asked and none objected, nothing keeps the sample out."""
    assert combine([None, None]) is Verdict.ALLOW


@given(JUDGED)
def test_deny_absorbs(verdicts: list[Verdict | None]) -> None:
    """One DENY decides, whatever stands beside it."""
    assert combine([*verdicts, Verdict.DENY]) is Verdict.DENY


@given(JUDGED)
def test_defer_keeps_out(verdicts: list[Verdict | None]) -> None:
    """Nothing that holds a DEFER is ever allowed."""
    assert combine([*verdicts, Verdict.DEFER]) is not Verdict.ALLOW


@given(JUDGED)
def test_unset_is_neutral(verdicts: list[Verdict | None]) -> None:
    """An unset mechanism changes nothing."""
    assert combine([*verdicts, None]) is combine(verdicts)


@given(JUDGED, JUDGED, st.randoms(use_true_random=False))
def test_order_and_grouping_do_not_matter(a: list[Verdict | None], b: list[Verdict | None], random: object) -> None:
    """Combining is commutative, associative and idempotent."""
    whole = combine([*a, *b])
    assert combine([*b, *a]) is whole
    assert combine([combine(a), combine(b)]) is whole
    assert combine([*a, *a]) is combine(a)
