"""One museum, one warm process and one finished journey for all tests that look at the whole job.

`make test` shares the tests out to two workers (pytest-xdist, `--dist loadgroup`), each with fixtures of its own. What
is set up once a module or a session must not be set up in both: a module goes to one worker as a whole, and modules
that share a dear fixture go together.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.home import Home
from flows.museum import Museum
from tests.builders import Custody, Journey, Removed, make_home, remove, travel

# Fixtures that take long to set up -> the group of the modules that ask for them.
SHARED = {"custody": "the journey", "s3": "the S3 server"}
# What takes longest, longest first: a worker that begins a long one last ends long after the other.
LONGEST = (
    "the journey",
    "the S3 server",
    "tests/flows/test_schedule.py",
    "tests/flows/test_crawl_sources.py",
    "tests/flows/test_grants.py",
    "tests/flows/test_policy_import.py",
    "tests/flows/test_decide.py",
    "tests/training/test_clip.py",
    "tests/flows/test_recheck.py",
    "tests/curation/test_clip_model.py",
    "tests/flows/test_licences_declared.py",
    "tests/curation/test_decode_pool.py",
    "tests/training/test_loop.py",
    "tests/policy/test_verification.py",
    "tests/policy/test_ledger.py",
    "tests/curation/test_politeness.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests: who goes together, and what is begun first."""
    if not getattr(config.option, "loadgroup", False):  # of a worker; who hands out the tests collects none
        return
    module = {item: item.nodeid.partition("::")[0] for item in items}
    group = dict.fromkeys(module.values(), "")
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            group[module[item]] = group[module[item]] or SHARED.get(fixture, "")
    begun = {name: number for number, name in enumerate(LONGEST)}
    for item in items:
        name = group[module[item]] or module[item]
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: begun.get(group[module[item]] or module[item], len(begun)))


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
