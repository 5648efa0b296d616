"""What would change a verdict."""

from __future__ import annotations

import pytest

from policy.judgements import SENTENCES
from policy.remedies import REMEDIES, what_would_change


@pytest.mark.parametrize("code", SENTENCES)
def test_every_reason_has_something_that_would_change_it(code: str) -> None:
    """Whatever keeps a sample out, a person is told what could change that."""
    assert what_would_change(code)


def test_every_beginning_speaks_for_a_code() -> None:
    """No remedy is for a reason that nobody gives; the longest beginning wins."""
    assert not [b for b in REMEDIES if not any(code.startswith(b) for code in SENTENCES)]
    assert what_would_change("registry-missing") != what_would_change("registry-listed")
    assert what_would_change("tombstoned") == "nothing: a removal is final"
