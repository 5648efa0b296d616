"""An approval counts at once: for what is being sealed, for what nobody compared yet, and when it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from curation.images import encode_jpeg
from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from flows.home import Home
from flows.stages.decide import decide
from flows.stages.look import Looking, look
from flows.stages.removing import applying, approving, requests, suppressing
from flows.stages.removing.keyed import Leftovers, leftovers
from flows.stages.seal import seal
from policy.errors import RefusedError
from policy.quality import QUALITY
from policy.suppression import Suppression
from policy.tombstones import Tombstones
from tests.builders import ROOT, ask, policy_without, replaced
from tests.curation.drawn import face, photo_like
from tests.flows.comebacks import jpeg
from tests.flows.sealable import sealable_home
from tests.proofs.removal_kills import Asked, command, copied, prepare, wrong

DATASET = "apples"
NO_MODEL = policy_without("quality", "safety", "duplicate")


def drawn(n: int) -> bytes:
    """Pictures of which the second is a copy of the first, and the third a crop of it."""
    one = photo_like(1, 96)
    return [encode_jpeg(one), jpeg(one, 40), encode_jpeg(one[4:91, 6:94]), encode_jpeg(face("line"))][min(n, 3)]


EXACT = replaced(NO_MODEL, {'suppression = "near"': 'suppression = "exact"'})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Six pictures, of which nothing is marked when they are removed."""
    return sealable_home(tmp_path / "home", 6, drawn, policy_text=EXACT)


def contents(home: Home) -> list[str]:
    """The contents of a home in the order in which they were drawn."""
    return [sha for (sha,) in ask(home, "SELECT content_sha256 FROM content ORDER BY url_key")]


def remove(home: Home, sha: str) -> str:
    request = requests.add(home, "sha256", sha)
    return approving.approve(home, request.id, by="A. Reviewer").id


# ── while something else is going on ───────────────────────────────────────────────────────────────────────────────


def test_what_is_removed_while_it_is_sealed_is_not_in_it(home: Home) -> None:
    """An approval between the first slot and the last leaves its slot empty, and its bytes in no file; one that is
    applied meanwhile, as well.
    """
    removals: list[str] = []
    approved_only, applied = contents(home)[:2]

    def approved(done: int, total: int, note: str = "") -> None:
        if not removals and note == "seal: ":
            removals.extend(remove(home, gone) for gone in (approved_only, applied))
            PixelStore(home.pixels_path).delete(applied)  # as applying does, which waits for the dataset

    sealed = seal(home, name=DATASET, progress=approved)
    assert removals
    with DatasetReader.open(home.dataset(DATASET)) as reader:
        live = [ordinal for ordinal in range(sealed.slots) if reader.is_live(ordinal)]
    assert len(live) == sealed.slots - 2
    assert frozenset(range(sealed.slots)) - set(live) == home.tombstones().slots(DATASET)
    written = [path.read_bytes() for path in home.datasets_path.rglob("*") if path.is_file()]
    assert not [body for body in written if drawn(0) in body or drawn(1) in body]
    applying.apply(home, *removals, scan=False, receipts=False)
    with home.ledger(readonly=True) as ledger:
        held = leftovers(home, ledger, home.tombstones(ledger))
    assert held == Leftovers()


def test_what_is_removed_while_it_is_looked_at_leaves_nothing(tmp_path: Path) -> None:
    """A removal that is carried through between two units of a look: neither a score nor a comparison names it after,
    and the look goes on without it.
    """
    policy = replaced(policy_without("safety"), {'suppression = "near"': 'suppression = "exact"'})
    home = sealable_home(tmp_path / "home", 4, drawn, policy_text=policy, looked_at=False)
    removed = contents(home)[0]
    looking = Looking(home)
    for mechanism in looking.mechanisms:
        units = looking.begin(mechanism)
        if mechanism == QUALITY:
            applying.apply(home, remove(home, removed), scan=False, receipts=False)
        for unit in range(units):
            looking.do(unit)
    looking.finish()
    with home.ledger(readonly=True) as ledger:
        assert leftovers(home, ledger, home.tombstones(ledger)) == Leftovers()
        for sql in (
            "SELECT count(*) FROM score WHERE content_sha256 = $sha",
            "SELECT count(*) FROM duplicate WHERE $sha IN (content_sha256, representative_sha256)",
            "SELECT count(*) FROM evidence WHERE contains(body_json, $sha)",
        ):
            assert ledger.query(sql, {"sha": removed}) == [(0,)], sql
    assert not [path for path in home.vectors_path.rglob("*.vectors") if bytes.fromhex(removed) in path.read_bytes()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Asked]:
    """A home with a model and a request that is held, to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    return home, prepare(home)


def test_two_at_once_come_to_one(prepared: tuple[Path, Asked], tmp_path: Path) -> None:
    """The same request approved twice at once is approved once, applied twice at once it is applied once."""
    asked = prepared[1]
    home = copied(prepared[0], tmp_path / "both")
    at_once(lambda: approving.approve(home, asked.removal, by="A. Reviewer"))
    assert wrong(home, asked, applied=False) == []
    at_once(lambda: applying.apply(home, asked.removal, scan=False, receipts=False))
    assert wrong(home, asked) == []


def at_once(act: Callable[[], object]) -> None:
    """Do it in two threads; what either raises is raised."""
    failed: list[BaseException] = []

    def one() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# ── what was in the home before ────────────────────────────────────────────────────────────────────────────────────


def test_what_nobody_compared_is_kept_out_with_what_it_is_like(tmp_path: Path) -> None:
    """What is like a removed picture and was in the home before is held until somebody has looked: its pixels stay for
    that, and what is released is in again. Another picture is as it was.
    """
    home = sealable_home(tmp_path / "home", 4, drawn, policy_text=NO_MODEL)
    removed, copy, crop, *others = contents(home)
    decide(home)
    remove(home, removed)
    marked = home.suppression()
    assert marked.is_marked(removed)
    assert not marked.spared
    look(home)
    said = dict(
        ask(
            home,
            "SELECT content_sha256, verdict || ' ' || reason_code FROM latest_decision JOIN evidence USING (pair_key) "
            "WHERE rule = 'tombstone' GROUP BY ALL",
        )
    )
    assert said[removed] == "deny tombstoned"
    assert said[copy] == said[crop] == "defer near-tombstoned"  # of neither a hash was measured
    assert {said[other] for other in others} == {"unset not-tombstoned"}
    assert set(PixelStore(home.pixels_path).keys()) == {copy, crop, *others}
    assert {held.content_sha256 for held in suppressing.held(home)} == {copy, crop}
    suppressing.release(home, crop, by="A. Reviewer", reason="another picture")
    decide(home)
    assert {held.content_sha256 for held in suppressing.held(home)} == {copy}
    assert ask(home, "SELECT DISTINCT content_sha256 FROM trainable ORDER BY ALL") == [
        (c,) for c in sorted([crop, *others])
    ]


def test_exact_suppression_marks_nothing(home: Home) -> None:
    """Where the ruleset says so a removed picture leaves keyed tokens alone."""
    removed = contents(home)[0]
    remove(home, removed)
    assert home.suppression() == Suppression()
    assert home.tombstones().covers_content(removed)


# ── killed ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import json, os, sys
from tests.warm import _be_the_command
import flows.cli, flows.stages.removing.applying, flows.stages.removing.approving
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        _be_the_command(order)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
MOMENTS = (
    ("approve", r"/tombstones/current\.json$", 1, False),
    ("approve", r"/tombstones/suppression\.json$", 1, True),
    ("apply", rf"/datasets/{DATASET}/", 1, False),
    ("apply", r"/ledger\.duckdb$", 1, True),
    ("apply", r"/ledger\.duckdb$", 1, False),
)


def test_killed_and_run_again_it_ends_in_the_same(prepared: tuple[Path, Asked], tmp_path: Path) -> None:
    """kill -9 after the tombstones and before the ledger, among the marks, between generations, and around the ledger's
    new file: run again each comes to what one that nobody disturbed comes to. Until then a request is not rejected.
    """
    asked = prepared[1]
    home = copied(prepared[0], tmp_path / "killed")
    with home.ledger():
        pass  # its copy outside is begun, and the first file of tombstones is the approval's
    out = tmp_path / "out"
    orders = [
        {
            "argv": [*command(name, asked), "--home", str(home.path), "--json"],
            "out": str(out),
            "err": str(out),
            "moment": [pattern, count, before],
        }
        for name, pattern, count, before in MOMENTS
    ]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for (name, *_), order in zip(MOMENTS, orders, strict=True):
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "-9", (name, order["moment"], out.read_text())
            if order is orders[0]:
                assert asked.removal in Tombstones.load(home.tombstones_path, home.keys).removals
                with pytest.raises(RefusedError, match="in force"):
                    requests.reject(home, asked.removal, by="A. Reviewer", reason="too late")
            if order is orders[1]:
                approving.approve(home, asked.removal, by="A. Reviewer")
                assert wrong(home, asked, applied=False) == []
    applying.apply(home, asked.removal, scan=False, receipts=False)
    assert wrong(home, asked) == []
