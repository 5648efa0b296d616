"""How soon an approval counts: on a large home until its file is in force, and in a training until the first batch
without the sample.

The home is written as a crawl would have written it (tests/flows/sealable.py), sealed, and asked to remove single
pictures by their digests. Measured in this process, without the start of the interpreter: from the call of `approve`
until `tombstones/current.json` is in its place, which is what every stage and trainer reads; and until the call
returns, the ledger's rows written, the marks made and the snapshot published. Then a training runs in another thread
while slots of its dataset are approved to go: from the call until the next batch, in time and in steps that begin.

Environment: IN_FORCE_PAIRS (default 100,000), IN_FORCE_REMOVALS (default 5).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from curation.images import encode_jpeg
from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.stages.decide import judge_pairs
from flows.stages.removing import approving, requests
from flows.stages.seal import seal
from flows.stages.train import open_dataset
from policy.snapshot import publish
from policy.tombstones import TOMBSTONES_FILE
from tests.benchmarks.table import Table
from tests.builders import policy_without
from tests.curation.drawn import photo_like
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import HashedWords
from training.config import preset
from training.loop import train

PAIRS = int(os.environ.get("IN_FORCE_PAIRS", "100000"))
REMOVALS = int(os.environ.get("IN_FORCE_REMOVALS", "5"))
TRAINED = 64  # slots of the dataset that is trained on


def run() -> Table:
    """Seconds until in force and until returned; seconds and steps until a training does without it."""
    with tempfile.TemporaryDirectory(prefix="in-force-") as folder:
        home = _large(Path(folder) / "large")
        rows = [*_approvals(home), *_training(Path(folder) / "small")]
    above = (
        f"A home of {PAIRS:,} pairs, decided and sealed; {REMOVALS} removals of single pictures one after the other."
    )
    return Table(("what", "median", "worst"), rows, (above,))


def _large(path: Path) -> Home:
    body = encode_jpeg(photo_like(1, 64))
    home = sealable_home(path, PAIRS, lambda n: body, policy_text=policy_without("quality", "safety", "duplicate"))
    with home.ledger() as ledger:
        judge_pairs(ledger, home.ruleset, home)
        publish(ledger, home.snapshot_path, now=utc_now())
    seal(home, name="large")
    return home


# ── approving ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _approvals(home: Home) -> Iterator[tuple[str, str, str]]:
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT content_sha256 FROM slot ORDER BY content_sha256 LIMIT ?", [REMOVALS + 1])
    filed, asked = [], []
    for (sha,) in rows:
        started = time.perf_counter()
        asked.append(requests.add(home, "sha256", sha).id)
        filed.append(time.perf_counter() - started)
    approving.approve(home, asked[0], by="A. Reviewer")  # the model is loaded once a process
    in_force, returned = [], []
    for removal in asked[1:]:
        with _watched(home.tombstones_path / TOMBSTONES_FILE) as moments:
            started = time.perf_counter()
            approving.approve(home, removal, by="A. Reviewer")
            returned.append(time.perf_counter() - started)
        in_force.append(moments[0] - started)
    yield "a request is filed, and what it matches held", *_told(filed)
    yield "approve called -> tombstones in force", *_told(in_force)
    yield "approve called -> returned (marks, ledger, snapshot)", *_told(returned)


@contextmanager
def _watched(path: Path) -> Iterator[list[float]]:
    """When a file is replaced, seen within a millisecond."""
    moments: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        before = _state(path)
        while not stop.is_set():
            if (now := _state(path)) != before:
                moments.append(time.perf_counter())
                before = now
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield moments
    finally:
        stop.set()
        watcher.join()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


# ── a training ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _training(path: Path) -> Iterator[tuple[str, str, str]]:
    """A training in another thread; slots of its dataset are approved to go one after the other."""
    home = sealable_home(
        path,
        TRAINED,
        lambda n: encode_jpeg(photo_like(n, 64)),
        policy_text=policy_without("quality", "safety", "duplicate"),
    )
    seal(home, name="small")
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT ordinal, content_sha256 FROM slot WHERE dataset = 'small' ORDER BY ordinal LIMIT ?", [REMOVALS + 1]
        )
    asked = [(ordinal, requests.add(home, "sha256", sha).id) for ordinal, sha in rows]
    approving.approve(home, asked[0][1], by="A. Reviewer")
    begun: list[float] = []  # when each step was done
    entered: list[float] = []  # when the training told that slots are empty from now on
    is_over = threading.Event()

    def told(what: str, where: str, detail: str) -> None:
        if what == "tombstones-entered":
            entered.append(time.perf_counter())

    def step(done: int, loss: float, images_per_s: float) -> None:
        begun.append(time.perf_counter())
        if is_over.is_set():
            raise KeyboardInterrupt

    def work() -> None:
        with open_dataset(home, "small") as reader:
            _train(reader, home, step, told)

    training = threading.Thread(target=work, daemon=True)
    training.start()
    while len(begun) < 5:
        time.sleep(0.05)
    waits, steps = [], []
    for _, removal in asked[1:]:
        before = len(entered)
        approving.approve(home, removal, by="A. Reviewer")
        returned = time.perf_counter()
        while len(entered) == before:
            time.sleep(0.002)
        waits.append(max(0.0, entered[before] - returned))
        steps.append(sum(returned < moment < entered[before] for moment in begun))
    is_over.set()
    training.join(60)
    yield "approve returned -> first batch without it", *_told(waits)
    yield "steps that began in between", f"{statistics.median(steps):g}", f"{max(steps)}"


def _train(
    reader: DatasetReader, home: Home, step: Callable[[int, float, float], None], told: Callable[[str, str, str], None]
) -> None:
    with suppress(KeyboardInterrupt):
        train(
            reader,
            preset("tiny", steps=1_000_000, checkpoint_every=1_000_000),
            home.runs_path / "diffusion-small-0",
            upstream=(),
            text_encoder=HashedWords(),
            tombstones_dir=home.tombstones_path,
            progress=step,
            on_event=told,
            now=utc_now,
        )


def _told(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(seconds):.3f} s", f"{max(seconds):.3f} s"
