"""The bank in a file: the same texts as in memory, whoever they come from, and nothing else."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.caption_bank import BankEntry, BankText, CaptionBank, text_ids
from policy.errors import StorageError


def seen(text: str, *sites: str) -> list[BankEntry]:
    return [BankEntry(text, f"pair:{site}", "ledger", (site,)) for site in sites]


def listed(*texts: str, name: str = "words") -> list[BankEntry]:
    return [BankEntry(text, f"list:{name}:{i}", "list", ()) for i, text in enumerate(texts, 1)]


def as_sql_groups_them(entries: Iterable[BankEntry]) -> list[BankText]:
    """The ledger's part, grouped by the text in lower case, as flows/stages/caption.py asks for it."""
    groups: defaultdict[str, list[BankEntry]] = defaultdict(list)
    for entry in entries:
        groups[" ".join(entry.text.lower().split())].append(entry)
    return [
        BankText(
            min(" ".join(e.text.split()) for e in group),
            tuple(sorted({e.source for e in group})),
            "ledger",
            tuple(sorted({site for e in group for site in e.origins})),
        )
        for _, group in sorted(groups.items())
    ]


_TEXTS = st.sampled_from(["a lake", "a  lake", "A HILL", "a tree", "12", "photo by me", "Straße", "", "x" * 201])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(_TEXTS, st.sampled_from("abc")), max_size=20), st.lists(_TEXTS, max_size=6), st.integers(1, 3)
)
def test_a_stored_bank_is_the_bank_that_memory_would_hold(
    alts: list[tuple[str, str]], phrases: list[str], min_origins: int
) -> None:
    """Texts, sources, kinds and digest do not depend on where the bank is kept."""
    entries = [entry for text, site in alts for entry in seen(text, site)]
    with tempfile.TemporaryDirectory() as folder:
        stored = CaptionBank.stored(
            Path(folder) / "bank.arrow", as_sql_groups_them(entries), listed(*phrases), min_origins=min_origins
        )
        held = CaptionBank.build([*entries, *listed(*phrases)], min_origins=min_origins)
        plain = {(t.text.casefold(), t.sources, t.source_kind, t.origins) for t in stored.entries}
        assert plain == {(t.text.casefold(), t.sources, t.source_kind, t.origins) for t in held.entries}
        opened = CaptionBank.opened(Path(folder) / "bank.arrow")
        assert opened is not None
        assert (opened.digest, opened.entries) == (stored.digest, stored.entries)


def test_a_listed_phrase_replaces_the_ledgers(tmp_path: Path) -> None:
    """In a file as in memory: what a list vouches for needs nobody else, and names nobody else."""
    ledger = as_sql_groups_them(seen("red apple", "a.example", "b.example") + seen("a lake", "a.example", "b.example"))
    lists = listed("Red Apple") + listed("red  APPLE", name="more")
    bank = CaptionBank.stored(tmp_path / "bank.arrow", ledger, lists, min_origins=2)
    assert [(t.text, t.sources, t.source_kind) for t in bank.entries] == [
        ("a lake", ("pair:a.example", "pair:b.example"), "ledger"),
        ("Red Apple", ("list:more:1", "list:words:1"), "list"),
    ]


def test_a_damaged_bank_is_no_bank(tmp_path: Path) -> None:
    """A file that is missing or cut short is built again, not read; a disk that refuses is named."""
    path = tmp_path / "bank.arrow"
    assert CaptionBank.opened(path) is None
    CaptionBank.stored(path, [], listed("a lake"), min_origins=1)
    path.write_bytes(path.read_bytes()[:60])
    assert CaptionBank.opened(path) is None
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        CaptionBank.stored(tmp_path / "there", [], listed("a lake"), min_origins=1)


def test_texts_are_known_again_by_their_digests(tmp_path: Path) -> None:
    """A text has one digest wherever it stands in a bank, and another one has another."""
    bank = CaptionBank.stored(tmp_path / "bank.arrow", [], listed("a lake", "a hill", "a tree"), min_origins=1)
    assert np.array_equal(bank.ids, text_ids(bank.texts))
    assert len(np.unique(bank.ids, axis=0)) == 3
    with pytest.raises(IndexError):
        bank[3]
