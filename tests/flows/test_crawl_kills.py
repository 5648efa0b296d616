"""A killed crawl: the small version of tests/proofs/crawl_kills.py."""

from __future__ import annotations

from pathlib import Path

from tests.builders import Custody
from tests.proofs.crawl_kills import Scenario, prove


def test_a_crawl_that_is_killed_ends_as_an_undisturbed_one(tmp_path: Path, custody: Custody) -> None:
    """Kill -9 twice at random moments: one terminal state a URL, no unit twice, the same shards, no file left."""
    found = prove(tmp_path, Scenario(urls=150, kills=2, hosts=6, unit=15, seed="two kills"), custody)
    assert found.failures == []
    assert found.kills >= 1  # the last one may come after the end
