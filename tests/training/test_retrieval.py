"""Retrieval on pairs that were never fed."""

from __future__ import annotations

import numpy as np
import pytest

from training.retrieval import recall_at


def test_recall_counts_the_own_text_among_the_best() -> None:
    """R@k is the share of pictures whose own text is among the k best."""
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.9, 0.5, 0], [0.2, 0.8, 0.7]], np.float32)
    assert recall_at(images, texts, 1) == pytest.approx(2 / 3)
    assert recall_at(images, texts, 2) == 1.0
