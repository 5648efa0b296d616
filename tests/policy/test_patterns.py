"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import re

import pytest

import policy.licence_words
import policy.personal_data
from policy.patterns import lazily


def test_a_lazy_pattern_is_used_like_any_other() -> None:
    """Every method answers as the compiled pattern's does, the first time and later."""
    lazy, eager = lazily(r"(?P<x>a+)b", re.IGNORECASE), re.compile(r"(?P<x>a+)b", re.IGNORECASE)
    for _ in range(2):
        for text in ("xAAbab", "", "b"):
            assert [m.span("x") for m in lazy.finditer(text)] == [m.span("x") for m in eager.finditer(text)]
            assert bool(lazy.match(text)) is bool(eager.match(text))
            assert lazy.sub("-", text) == eager.sub("-", text)
    assert (lazy.pattern, lazy.flags, lazy.groups) == (eager.pattern, eager.flags, eager.groups)


def test_nothing_is_compiled_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one costs no compilation; using it costs one."""
    compiled = []
    real = re.compile
    monkeypatch.setattr(re, "compile", lambda *given: (compiled.append(given), real(*given))[1])
    pattern = lazily("a|b")
    assert compiled == []
    assert pattern.search("b")
    assert pattern.search("a")
    assert compiled == [("a|b", 0)]


def test_every_lazy_pattern_of_the_policy_compiles() -> None:
    """What would have failed at import fails here."""
    for module in (policy.licence_words, policy.personal_data):
        found = [value for value in vars(module).values() if type(value).__name__ == "_Lazy"]
        assert len(found) > 5
        assert all(isinstance(lazy.groups, int) for lazy in found)
    assert all(isinstance(pattern.groups, int) for pattern, _ in policy.licence_words._NAMES)
