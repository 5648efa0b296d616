"""One museum, one warm process and one finished journey for all tests that look at the whole job.

`make test` shares the tests out to two workers (pytest-xdist), each with fixtures of its own. What is set up once a
module or a session must not be set up in both: a module goes to one worker as a whole, and modules that share a dear
fixture go together.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.home import Home
from flows.museum import Museum
from tests.builders import SAMPLE, Custody, Journey, Removed, make_home, remove, travel
from tests.warm import say_no_pandas

# A shell starts what it puts in the background deaf to Ctrl-C, and so would be every command that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

say_no_pandas()  # under pytest the search for it is a tenth of all work

# Modules that stay together, and what is begun first: longest first, since a worker that begins a long one last ends
# long after the other. What is not named comes after these, each module by itself.
BY_WORKER: tuple[tuple[str, ...], ...] = (
    (
        "tests/test_journey.py",
        "tests/flows/test_stages.py",
        "tests/test_readme.py",
        "tests/contracts/test_json_shapes.py",
        "tests/flows/test_bad_input.py",
        "tests/flows/test_crawl_kills.py",
    ),
    ("tests/curation/test_storage.py", "tests/flows/test_seal_s3.py"),
    ("tests/flows/test_schedule.py",),
    ("tests/flows/test_caption.py", "tests/curation/test_coca.py"),  # they share a small CoCa
    ("tests/training/test_clip_towers.py",),
    ("tests/flows/test_crawl_sources.py",),
    ("tests/flows/test_removing_models.py",),
    (  # they share a home that requests are made on
        "tests/flows/test_removal_requests.py",
        "tests/flows/test_removal_proof.py",
        "tests/flows/test_removal_review.py",
        "tests/flows/test_removal_answers.py",
    ),
    ("tests/flows/test_needles.py",),
    ("tests/flows/test_in_force.py",),
    ("tests/flows/test_receipt.py",),
    ("tests/flows/test_restore.py",),
    ("tests/flows/test_reentry.py",),
    ("tests/flows/test_removing_pictures.py",),
    ("tests/flows/test_faces_last.py",),
    ("tests/flows/test_grants.py",),
    ("tests/flows/test_bulk.py",),
    ("tests/flows/test_policy_import.py",),
    ("tests/training/test_clip.py",),
    ("tests/flows/test_duplicates.py",),
    ("tests/flows/test_recheck.py",),
    ("tests/curation/test_decode_pool.py",),
    ("tests/flows/test_decide.py",),
    ("tests/policy/test_verification.py",),
    ("tests/curation/test_politeness.py",),
    ("tests/policy/test_peers_cases.py",),
    ("tests/curation/test_clip_model.py",),
    ("tests/flows/test_look.py",),
    ("tests/flows/test_quarantine.py",),
    ("tests/policy/test_bounds.py",),
    ("tests/flows/test_faces.py",),
    ("tests/flows/test_licences_declared.py",),
    ("tests/training/test_loop.py",),
    ("tests/policy/test_ledger.py",),
)
_PLACE = {module: number for number, modules in enumerate(BY_WORKER) for module in modules}
_SHARED = {"custody": 0, "s3": 1}  # fixtures that are dear: their modules' place above


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, and who asks for a dear fixture stands where it is set up once."""
    for item in items:
        module = item.nodeid.partition("::")[0]
        for fixture, place in _SHARED.items():
            if fixture in getattr(item, "fixturenames", ()) and _PLACE.get(module) != place:
                raise pytest.UsageError(f"{module} asks for {fixture}: name it in BY_WORKER of {__file__}")
    items.sort(key=lambda item: _PLACE.get(item.nodeid.partition("::")[0], len(BY_WORKER)))


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with the modules of one line of BY_WORKER as if they were one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module: str = super()._split_scope(nodeid)
            return BY_WORKER[_PLACE[module]][0] if module in _PLACE else module

    return Together(config, log)


@pytest.fixture(scope="session")
def museum() -> Iterator[Museum]:
    """A small museum on free ports, the same for every home of the session."""
    with Museum(0, limit=60) as museum:
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
    said["sample"] = custody(home, *SAMPLE)
    return Journey(home, said, Counter(museum.requests - before))


@pytest.fixture(scope="session")
def removed(tmp_path_factory: pytest.TempPathFactory, museum: Museum, custody: Custody, journey: Journey) -> Removed:
    """The journey's home again, in which one picture was asked to be removed; no test may change it."""
    home = Home.open(shutil.copytree(journey.home.path, tmp_path_factory.mktemp("removed") / "home"))
    return remove(custody, home, museum)


@pytest.fixture(scope="session")
def fresh_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Home]:
    """What `Home.create` makes, sooner: a copy of one that was made once, with these texts. All have the same keys."""
    made = Home.create(tmp_path_factory.mktemp("fresh") / "home")

    def fresh_home(path: Path, *, settings_text: str | None = None, policy_text: str | None = None) -> Home:
        home = Home(Path(shutil.copytree(made.path, path)))
        for file, text in ((home.settings_path, settings_text), (home.policy_path, policy_text)):
            if text is not None:
                file.write_text(text)
        return home

    return fresh_home


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Home], Home]:
    """A home that a test may change: a copy."""

    def copy(home: Home) -> Home:
        return Home.open(shutil.copytree(home.path, tmp_path / "copy"))

    return copy
