"""The policy alone, offline: `custody inspect judge`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from curation.pages import read_page
from policy.judge import judge_line
from policy.ruleset import Ruleset


def judge_lines(lines: Iterable[str], policy_file: Path | None) -> Iterator[dict[str, Any]]:
    """Judge JSON lines one by one; a line that is no case answers {"error": …} and the rest goes on.

    Raises:
        ConfigurationError: the policy file cannot be used.
    """
    ruleset = Ruleset.load(policy_file) if policy_file is not None else Ruleset.default()
    for line in lines:
        if line.strip():
            yield judge_line(line, ruleset, read_page=read_page)
