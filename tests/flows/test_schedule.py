"""A real Prefect server of our own: it starts, keeps to itself, and what is scheduled really runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import connect
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("emoji", reason="the museum needs the extra `demo`")

from flows.crawl_pages import crawl_pages
from flows.demo import settings_text
from flows.deployments import Plan, deployment, deployment_name, plans
from flows.home import Home
from flows.museum import Museum
from flows.prefect_server import Endpoint, prefect_server
from flows.publish_reports import publish_reports
from flows.settings import DEFAULT_TEXT
from flows.stages.removing import approving, requests
from flows.stages.removing.needles import Needles, gather
from flows.stages.removing.scanning import scan
from flows.stages.seal import seal
from flows.steps import run, sole_writer
from flows.train_model import train_model
from policy.errors import BusyError
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import flat_picture

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

ROOT = Path(__file__).resolve().parents[2]

_FLOWS = """
from pathlib import Path

from flows.steps import ProgressReport, custody_flow, custody_task, report_counts, run

SECRET = "http://private.example/the-name-of-a-person.png"


@custody_flow("tiny")
def tiny(home: str) -> dict[str, int]:
    with (Path(home) / "runs.txt").open("a") as file:
        file.write("ran\\n")
    return report_counts("tiny", {"ran": unit("u1")})


@custody_task("unit")
def unit(name: str) -> int:
    ProgressReport("tiny")(1, 1, "units: ")
    ProgressReport("tiny")(1, 1, "replay clip-A_b.2, read-texts: ")
    return 1


@custody_flow("failing")
def failing(home: str) -> int:
    return broken("u1")


@custody_task("broken")
def broken(name: str) -> int:
    raise ValueError(f"cannot read {SECRET}")
"""
_SERVE = """
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from flows import deployments
from flows.deployments import Plan, deployment, serve_deployments
from scheduled_for_a_test import tiny

deployments.PROCESS_LIMIT = 1  # one run is what is waited for: the next ones would only take its time
serve_deployments([deployment(Plan(tiny, interval=timedelta(seconds=3)), Path(sys.argv[1]))], poll_s=1.0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that holds a home's path and a module with flows, importable here and in children."""
    path = tmp_path_factory.mktemp("prefect")
    (path / "scheduled_for_a_test.py").write_text(_FLOWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), str(ROOT)]))
        patch.syspath_prepend(str(path))
        for name in [n for n in os.environ if n.startswith("PREFECT_")]:
            patch.delenv(name)
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Endpoint]:
    with prefect_server(folder / "prefect") as endpoint:
        yield endpoint


def _wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_the_server_answers_on_loopback_and_only_with_the_password(server: Endpoint) -> None:
    """The server is bound to 127.0.0.1 and refuses whoever does not know this home's password."""
    assert server.started_here
    assert server.api_url.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.api_url}/admin/version", timeout=30)
    with refused.value:
        assert refused.value.code == 401


def test_its_password_is_for_the_owner_alone(server: Endpoint, folder: Path) -> None:
    """The file through which a second process finds the server can be read by its owner only."""
    assert stat.S_IMODE((folder / "prefect" / "server.json").stat().st_mode) == 0o600


def test_a_second_process_uses_the_same_server(server: Endpoint, folder: Path) -> None:
    """One server a home: who comes second is told the address of the first one's."""
    code = "import sys; from pathlib import Path; from flows.prefect_server import prefect_server\n" + (
        "with prefect_server(Path(sys.argv[1])) as e: print(e.api_url, e.started_here)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    told = subprocess.run(
        [sys.executable, "-c", code, str(folder / "prefect")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [server.api_url, "False"]


def test_a_configured_server_is_used_as_it_is(server: Endpoint, folder: Path) -> None:
    """Where PREFECT_API_URL is set no server is started."""
    with prefect_server(folder / "elsewhere") as endpoint:
        assert endpoint == Endpoint(server.api_url, None, started_here=False)
    assert not (folder / "elsewhere").exists()


def test_a_schedule_really_fires(server: Endpoint, folder: Path) -> None:
    """A deployment made and served as `custody schedule` does it is run by the scheduler, and completes."""
    home = folder / "home"
    home.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(home), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        _wait_for((home / "runs.txt").exists)
        _wait_for(lambda: any(state == "COMPLETED" and auto for state, auto in _runs("tiny")))
    finally:
        child.send_signal(signal.SIGINT)
        try:
            said, _ = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()  # or what is left of it fails whatever test comes next
            child.communicate()
            raise
    assert child.returncode == 0, said.decode()


def _runs(flow: str) -> list[tuple[str, bool]]:
    """(state, made by the scheduler) of every run of a flow."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))
    return [(str(run.state_type and run.state_type.value), run.auto_scheduled) for run in runs]


def test_a_flow_reports_progress_and_counts_as_artifacts(server: Endpoint, folder: Path) -> None:
    """Units leave a progress artifact, the flow a table of counts, and the flow's result comes back."""
    from prefect.client.orchestration import get_client

    home = folder / "by-hand"
    home.mkdir()
    assert run(importlib.import_module("scheduled_for_a_test").tiny, str(home)) == {"ran": 1}
    with get_client(sync_client=True) as client:
        artifacts = {a.key: a for a in client.read_artifacts()}
    assert artifacts["tiny-units"].data == 100.0
    assert artifacts["tiny-replay-clip-a-b-2-read-texts"].data == 100.0  # whatever stands in a run's name
    assert json.loads(str(artifacts["tiny"].data)) == [{"outcome": "ran", "count": 1}]


def test_no_error_message_reaches_prefect(server: Endpoint, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A failing step tells Prefect the kind of error and the place; the message stays with the caller."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    module = importlib.import_module("scheduled_for_a_test")
    with pytest.raises(ValueError, match=module.SECRET):
        run(module.failing, "nowhere")
    said = capfd.readouterr()
    assert "private.example" not in said.out + said.err
    with get_client(sync_client=True) as client:
        (failed,) = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["failing"])))
    assert failed.state is not None
    assert failed.state.message is not None
    assert "ValueError at" in failed.state.message
    stored = b"".join(p.read_bytes() for p in (folder / "prefect").glob("prefect.db*"))
    assert b"private.example" not in stored


def test_training_as_a_flow_tells_what_a_removal_will_cost(server: Endpoint, tmp_path: Path) -> None:
    """What `custody train` prints before the first step is an artifact of the run."""
    from prefect.client.orchestration import get_client

    settings = DEFAULT_TEXT.replace('preset = "demo"', 'preset = "tiny"').replace("threads = 2", "threads = 1")
    home = sealable_home(tmp_path / "home", 12, flat_picture, settings_text=settings)
    seal(home, name="apples")
    assert run(train_model, str(home.path), "apples")["steps"] == 12
    with get_client(sync_client=True) as client:
        (told,) = (a for a in client.read_artifacts() if a.key == "expected-redo")
    assert re.fullmatch(r"A replay without one slot trains again \d+\.\d% of the 12 steps .*", str(told.data))


def test_the_removals_flow_ends_as_failed_while_a_request_is_overdue(
    server: Endpoint, folder: Path, tmp_path: Path
) -> None:
    """It needs attention, and says so in days and ids alone; approvals are carried through all the same. Answered, it
    completes. Nothing that was removed stands in Prefect's database or logs."""
    from prefect.client.orchestration import get_client

    text = DEFAULT_TEXT.replace("decode_workers = 2", "decode_workers = 1")
    rules = replaced(Ruleset.default_text(), {'suppression = "near"': 'suppression = "exact"'})
    home = sealable_home(tmp_path / "home", 6, flat_picture, settings_text=text, policy_text=rules)
    seal(home, name="apples")
    asked, late = (f"https://site1.example/pictures/{n}.jpg" for n in (2, 4))
    gone = requests.add(home, "url", asked, requester="Nora Quillfeather of Lake Osk").id
    long_ago = requests.Ask("url", late, received_at=datetime.now(UTC) - timedelta(days=70))
    [filed] = requests.file(home, [(long_ago, requests.NOTHING)])
    overdue = filed.removal
    approving.approve(home, gone, by="A. Reviewer")
    with home.ledger(readonly=True) as ledger:
        needles = gather(home, ledger, [gone, overdue])
    served = {plan.flow.name: deployment(plan, home.path) for plan in plans(home)}

    def serve(name: str) -> State[Any]:
        """Run what a deployment names, with what it is told, as the serving process does."""
        module, _, flow = str(served[name].entrypoint).rpartition(".")
        ended: State[Any] = getattr(importlib.import_module(module), flow)(**served[name].parameters, return_state=True)
        return ended

    ended = serve("handle-removals")
    assert (ended.name, ended.is_failed()) == ("NeedsAttention", True)
    assert ended.message == "1 removal requests are overdue: custody removal list"
    assert {one.id: one.state for one in requests.list_removals(home)} == {overdue: "held", gone: "applied"}
    with get_client(sync_client=True) as client:
        [told] = [a for a in client.read_artifacts() if a.key == "removals-due"]
    [pressing] = json.loads(str(told.data))
    assert (set(pressing), pressing["removal"]) == ({"removal", "days left"}, overdue)
    assert -45 < pressing["days left"] < 0

    requests.reject(home, overdue, by="A. Reviewer", reason="it is not theirs")
    assert serve("handle-removals").is_completed()
    assert serve("replay-models").is_completed()
    assert scan(folder / "prefect", needles).hits == ()
    assert scan(folder / "prefect", Needles.of_values([overdue])).hits  # the id is there, and is found


@pytest.fixture(scope="module")
def crawled(server: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Museum]]:
    """A home whose crawl of a small museum ran as a Prefect flow."""
    path = tmp_path_factory.mktemp("crawled") / "home"
    with Museum(port_base=0, limit=24) as museum:
        # What hangs on purpose is waited for less than in the demo.
        text = replaced(settings_text(museum), {"deadline_s = 6.0": "deadline_s = 2.5"})
        home = Home.create(path, settings_text=text)
        counts = run(crawl_pages, str(path))
        assert counts["page ok"] > 20
        assert counts["picture ok"] > 60
        yield home, museum


def test_the_crawl_flow_never_contacts_what_is_disallowed(crawled: tuple[Home, Museum]) -> None:
    """What robots.txt disallows was not asked for even once, though pages link to it; the rest was."""
    _, museum = crawled
    asked = museum.requests
    assert not [url for url in asked if url.startswith(museum.url("reserved", "/private/"))]
    assert asked[museum.url("reserved", "/robots.txt")] == 1
    assert asked[museum.url("reserved", "/private.html")] == 1


def test_prefect_knows_no_url_of_what_was_crawled(crawled: tuple[Home, Museum], folder: Path) -> None:
    """Neither the URLs asked nor the names of pictures stand in Prefect's database: only ids, codes and counts."""
    _, museum = crawled
    stored = b"".join(p.read_bytes() for p in (folder / "prefect").glob("prefect.db*"))
    assert b"licence-unknown" in stored  # the standing verdicts' table is there
    assert not [url for url in museum.requests if url.encode() in stored]
    assert not [name for name in museum.truth.values() if len(name) > 12 and name.encode() in stored]


def test_the_audits_flow_finds_nothing_that_must_not_be(crawled: tuple[Home, Museum]) -> None:
    """The snapshot is published, no decision lacks evidence, and nothing that is not allowed lies in a shard."""
    home, _ = crawled
    assert run(publish_reports, str(home.path)) == {"decisions_without_evidence": 0, "denied_or_deferred_in_shard": 0}
    assert home.snapshot_path.is_file()


def test_every_scheduled_flow_can_be_imported_by_its_name(crawled: tuple[Home, Museum]) -> None:
    """What `custody schedule` registers are module paths that lead back to the flows, with the home's cron lines."""
    home, _ = crawled
    for plan in plans(home):
        module, _, name = str(deployment(plan, home.path).entrypoint).rpartition(".")
        assert getattr(importlib.import_module(module), name) is plan.flow
    assert {plan.cron for plan in plans(home)} >= {home.settings.schedule.crawl, home.settings.schedule.removals}


def test_writing_flows_take_turns(crawled: tuple[Home, Museum]) -> None:
    """While one flow writes, another waits, and says so when it has waited long enough."""
    home, _ = crawled
    busy = pytest.raises(BusyError, match="another flow is writing")
    with sole_writer(home), busy, sole_writer(home, wait_s=0.0):
        pass
    with sole_writer(home, wait_s=0.0):
        pass


def test_deployments_of_two_homes_do_not_collide(folder: Path) -> None:
    """Flows are named by module path, told their home, and named after it."""
    module = importlib.import_module("scheduled_for_a_test")
    made = deployment(Plan(module.tiny, cron="0 3 * * *"), folder / "a")
    assert made.entrypoint == "scheduled_for_a_test.tiny"
    assert made.parameters == {"home": str(folder / "a")}
    assert deployment_name(folder / "a") != deployment_name(folder / "b")
    assert deployment(Plan(module.tiny, interval=timedelta(hours=1)), folder).schedules


def test_the_server_ends_with_its_parent(server: Endpoint, folder: Path) -> None:
    """A parent that is killed with -9 takes its server along."""
    killed = folder / "killed"
    killed.mkdir()
    # A database that is there already: to make one takes Prefect longer than all the rest of its start.
    with closing(connect(folder / "prefect" / "prefect.db")) as old, closing(connect(killed / "prefect.db")) as new:
        old.backup(new)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom flows.prefect_server import prefect_server\n"
        "with prefect_server(Path(sys.argv[1])) as e:\n    print(e.api_url, flush=True)\n    time.sleep(600)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(killed)], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        parent.kill()

    def gone() -> bool:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            return True
        return False

    _wait_for(gone)
