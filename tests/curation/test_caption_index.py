"""A bank's embeddings: each computed once, gone with their text; and the search, exact or measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from curation import caption_index
from curation.caption_bank import BankEntry, CaptionBank, text_ids
from curation.caption_index import BankIndex, bank_embeddings, exact_nearest
from curation.clip_model import Embeddings
from policy.errors import ConfigurationError

WIDTH = 24


class Encoder:
    """A text's embedding is drawn from its words' seeds, so that texts that share words are near one another."""

    def __init__(self, *, fails_after: int = 10**9) -> None:
        self.encoded: list[str] = []
        self.fails_after = fails_after

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        if len(self.encoded) + len(texts) > self.fails_after:
            raise KeyboardInterrupt
        self.encoded += texts
        return embeddings(texts)


def embeddings(texts: Sequence[str]) -> Embeddings:
    rows = np.zeros((len(texts), WIDTH))
    for row, text in zip(rows, texts, strict=True):
        for word in text.split():
            row += np.random.default_rng(list(word.encode())).normal(size=WIDTH)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def bank_of(texts: Sequence[str]) -> CaptionBank:
    return CaptionBank.build([BankEntry(t, f"list:x:{i}", "list", ()) for i, t in enumerate(texts)], min_origins=1)


def test_only_new_texts_are_embedded_and_old_ones_are_gone(tmp_path: Path) -> None:
    """A bank that changed costs what is new in it; of a text that left nothing stays in the folder."""
    first, encoder = bank_of([f"lake {i}" for i in range(40)]), Encoder()
    bank_embeddings(encoder, first, ("{}",), tmp_path)
    second, again = bank_of([f"lake {i}" for i in range(20, 40)] + ["new hill"]), Encoder()
    found = bank_embeddings(again, second, ("{}",), tmp_path)
    assert again.encoded == ["new hill"]
    assert np.allclose(found, embeddings(second.texts), atol=1e-6)
    left = embeddings(["lake 3"])[0].tobytes()
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".ids"}
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(left in file.read_bytes() for file in tmp_path.iterdir())


def test_a_killed_embedding_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed before a kill is not computed again, and the result is the same as without the kill."""
    monkeypatch.setattr(caption_index, "PART_TEXTS", 8)
    bank = bank_of([f"hill {i}" for i in range(30)])
    killed, rest = Encoder(fails_after=20), Encoder()
    with pytest.raises(KeyboardInterrupt):
        bank_embeddings(killed, bank, ("{}",), tmp_path)
    found = bank_embeddings(rest, bank, ("{}",), tmp_path)
    assert (len(killed.encoded), len(rest.encoded)) == (16, 14)
    assert np.allclose(found, bank_embeddings(Encoder(), bank, ("{}",), None), atol=1e-6)


def test_embeddings_that_are_no_numbers_are_refused() -> None:
    """A model that answers with NaN is no model for captions."""

    class Broken:
        def encode_texts(self, texts: Sequence[str]) -> Embeddings:
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(ConfigurationError, match="no numbers"):
        bank_embeddings(Broken(), bank_of(["a lake"]), ("{}",), None)


@given(
    arrays.arrays(np.float32, (37, 3), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([-1.0, 0.25, 1.0])),
    st.integers(1, 37),
)
def test_the_exact_search_sorts_all(rows: Embeddings, queries: Embeddings, top: int) -> None:
    """It gives what sorting all cosines gives, of equal ones the first, however the rows are cut into blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_index, "BLOCK_ROWS", 16)
        found, cosines = exact_nearest(rows, queries, top)
    expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :top]
    assert np.array_equal(found, expected)
    assert np.allclose(cosines, np.take_along_axis(queries @ rows.T, expected, 1))


def test_a_large_bank_is_searched_by_a_graph_whose_recall_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pictures are answered exactly and measure the graph; the others get what it finds, exactly scored."""
    monkeypatch.setattr(caption_index, "MEASURED_ON", 64)
    texts = bank_of([f"{a} {b} {c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz"]).texts
    rows, ids = embeddings(texts), text_ids(texts)
    rng = np.random.default_rng(3)
    queries = rows[rng.integers(0, len(rows), 200)] + 0.1 * rng.normal(size=(200, WIDTH)).astype(np.float32)
    told: list[tuple[int, int]] = []

    def index() -> BankIndex:
        return BankIndex(
            rows, ids, folder=tmp_path, name="one", exact_up_to=100, expected=10**6, told=lambda *t: told.append(t)
        )

    searched = index()
    assert np.array_equal(searched.search(queries[:64], 3)[0], exact_nearest(rows, queries[:64], 3)[0])
    assert searched.recall is not None
    assert searched.recall.recall >= 0.99
    assert searched.recall.measured == 64
    assert not searched.is_exact
    found, cosines = searched.search(queries[64:], 3)
    best, best_cosines = exact_nearest(rows, queries[64:], 3)
    assert (found[:, 0] == best[:, 0]).mean() > 0.95
    assert np.allclose(cosines[found == best], best_cosines[found == best], atol=1e-6)

    # A second process finds the graph and what was measured; nothing is built again.
    built = len(told)
    again = index()
    assert again.recall == searched.recall
    assert np.array_equal(again.search(queries[64:], 3)[0], found)
    assert len(told) == built


def test_a_text_that_left_is_never_found_by_an_old_graph(tmp_path: Path) -> None:
    """A graph that still holds a few texts of before answers with those of now only, and the new ones are in it."""
    texts = [f"lake {i}" for i in range(400)]
    before = embeddings(texts)
    BankIndex(before, text_ids(texts), folder=tmp_path, name="one", exact_up_to=100, expected=10**6)
    now = [*texts[:397], "new hill"]
    rows = embeddings(now)
    index = BankIndex(rows, text_ids(now), folder=tmp_path, name="two", exact_up_to=100, expected=10**6)
    index.recall = caption_index.Recall(128, 1.0, 64)
    found, _ = index.search(before[[397, 398, 399]], 5)
    assert np.array_equal(found[:, 0], exact_nearest(rows, before[[397, 398, 399]], 1)[0][:, 0])
    assert index.search(embeddings(["new hill"]), 1)[0].tolist() == [[397]]
    assert [file.stem for file in tmp_path.glob("*.usearch")] == ["index-two"]


def test_a_graph_that_finds_too_little_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no expansion reaches the least recall, every answer is exact."""
    monkeypatch.setattr(caption_index, "MEASURED_ON", 8)
    monkeypatch.setattr(caption_index, "WANTED_RECALL", 1.1)
    monkeypatch.setattr(caption_index, "MIN_RECALL", 1.1)
    texts = [f"lake {i}" for i in range(300)]
    index = BankIndex(embeddings(texts), text_ids(texts), exact_up_to=100, expected=10**6)
    assert not index.is_exact
    index.search(embeddings(texts[:8]), 1)
    assert index.is_exact


def test_a_graph_that_costs_more_than_it_saves_is_not_built() -> None:
    """For a few pictures a large bank is searched exactly."""
    texts = [f"lake {i}" for i in range(300)]
    assert BankIndex(embeddings(texts), text_ids(texts), exact_up_to=100, expected=10).is_exact
