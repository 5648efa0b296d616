"""What would change a verdict."""

from __future__ import annotations

import re

import pytest

from policy.judgements import SENTENCES
from policy.remedies import REMEDIES, what_would_change


@pytest.mark.parametrize("code", SENTENCES)
def test_every_reason_has_something_that_would_change_it(code: str) -> None:
    """Whatever keeps a sample out, a person is told what could change that."""
    assert what_would_change(code)


# Reasons that are no statement, which alone a grant can answer: what is silent, broken or not understood stays out.
NO_STATEMENT = re.compile(
    r"-(?:unreachable|unreadable|bad-encoding|too-large|damaged|invalid|missing|remote|changed)\Z"
)


@pytest.mark.parametrize("code", [code for code in SENTENCES if NO_STATEMENT.search(code)])
def test_no_grant_is_promised_where_none_would_help(code: str) -> None:
    """`why` names a grant only where one could cover what was said."""
    assert "a grant" not in what_would_change(code)


def test_every_beginning_speaks_for_a_code() -> None:
    """No remedy is for a reason that nobody gives; the longest beginning wins."""
    assert not [b for b in REMEDIES if not any(code.startswith(b) for code in SENTENCES)]
    assert what_would_change("registry-missing") != what_would_change("registry-listed")
    assert what_would_change("tombstoned") == "nothing: a removal is final"
