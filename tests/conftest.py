"""One museum, one warm process and one finished journey for all tests that look at the whole job."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.home import Home
from flows.museum import Museum
from tests.builders import Custody, Journey, Removed, make_home, remove, travel


@pytest.fixture(scope="session")
def museum() -> Iterator[Museum]:
    """A small museum on free ports, the same for every home of the session."""
    with Museum(0, limit=90) as museum:
        yield museum


@pytest.fixture(scope="session")
def custody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Custody]:
    """The command line, each command a process of its own."""
    with Custody(tmp_path_factory.mktemp("warm")) as custody:
        yield custody


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory, museum: Museum, custody: Custody) -> Journey:
    """A home that was crawled, decided, captioned, sealed, trained and sampled from; no test may change it."""
    before = museum.requests
    home = make_home(tmp_path_factory.mktemp("journey") / "home", museum)
    said = travel(custody, home, museum)
    said["sample"] = custody(home, "sample", "red apple", "banana", "--per-prompt", "1")
    return Journey(home, said, Counter(museum.requests - before))


@pytest.fixture(scope="session")
def removed(tmp_path_factory: pytest.TempPathFactory, museum: Museum, custody: Custody, journey: Journey) -> Removed:
    """The journey's home again, in which one picture was asked to be removed; no test may change it."""
    home = Home.open(shutil.copytree(journey.home.path, tmp_path_factory.mktemp("removed") / "home"))
    return remove(custody, home, museum)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Home], Home]:
    """A home that a test may change: a copy."""

    def copy(home: Home) -> Home:
        return Home.open(shutil.copytree(home.path, tmp_path / "copy"))

    return copy
