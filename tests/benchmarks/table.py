"""What a benchmark may return in the place of rows of two columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table of any number of columns, and what is written above it (Markdown, a paragraph each)."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    above: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The table in Markdown."""
        return [
            *(f"{paragraph}\n" for paragraph in self.above),
            f"| {' | '.join(self.columns)} |",
            f"|{'---|' * len(self.columns)}",
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
