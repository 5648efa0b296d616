"""Regular expressions that are compiled when they are first used: a command pays for those that it needs."""

from __future__ import annotations

import re
from typing import Any, cast


def lazily(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """What `re.compile` gives, to be used like it; an expression that is wrong raises re.error at its first use."""
    return cast("re.Pattern[str]", _Lazy(pattern, flags))


class _Lazy:
    def __init__(self, pattern: str, flags: int) -> None:
        self._given = pattern, flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # who copies or inspects it does not compile it
        compiled = re.compile(*self._given)
        # From now on a method is found at once, as fast as the pattern's own.
        self.__dict__ |= {known: getattr(compiled, known) for known in dir(compiled) if not known.startswith("__")}
        return getattr(compiled, name)
