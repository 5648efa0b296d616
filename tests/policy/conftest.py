"""A home with keys and an empty ledger, made once and copied for each test that wants one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policy.keys import KeyRing
from policy.ledger import Ledger


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("empty")
    keys = KeyRing.create(home / "keys")
    Ledger.create(home / "ledger.duckdb", keys, datetime(2026, 11, 21, tzinfo=UTC))
    return home


@pytest.fixture
def home(empty_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(empty_home, tmp_path / "home")


@pytest.fixture
def keys(home: Path) -> KeyRing:
    return KeyRing.load(home / "keys")


@pytest.fixture
def ledger(home: Path, keys: KeyRing, now: datetime) -> Iterator[Ledger]:
    with Ledger.open(home / "ledger.duckdb", keys, clock=lambda: now) as opened:
        yield opened
