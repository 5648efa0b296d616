"""What knowing every exposure costs: traces, key lookups, recomputing a step log, streaming a checkpoint's samples.

ROWS (50,000,000 by default) is the size of the slot table in which keys are looked up; it takes about 150 bytes a row
of scratch space, and is made smaller where the disk has less. Slots are written past the ledger's chain, which this
does not measure.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np

from flows.home import Home
from flows.stages import audits
from flows.stages.trace import exposed_checkpoints, trace_keys
from flows.stages.trace import trace as trace_query
from policy.provenance import CheckpointRecord, NumericContract, Phase, ScheduleEntry, Segment, TrainingRun
from tests.benchmarks.table import Table
from training.order import Exposures, Order, order_version
from training.recompute import check_steps
from training.step_log import ROW, StepLog, StepRow, fed_digests, read_steps

ROWS = int(os.environ.get("ROWS", "50000000"))
BYTES_A_ROW = 200
SLOTS, EPOCHS, BATCH, CHECKPOINTS = 10**9, 3, 512, 1000
KEYS = 10_000
WINDOW = (10_000, 16)  # shards of 10,000 slots, mixed 16 at a time
Row = tuple[str, str]


def run() -> Table:
    """All figures of one process on one core (DuckDB: all cores), the machine's load beside them."""
    with tempfile.TemporaryDirectory(prefix="custody-trace-") as directory:
        place = Path(directory)
        rows = [*_ordinals("order 1", (0, 0)), *_ordinals("windows", WINDOW), *_log(place), *_records()]
        count = min(ROWS, shutil.disk_usage(place).free * 2 // 3 // BYTES_A_ROW)
        rows += [*_keys(place, count), *_streamed(place)]
    above = [
        f"A run over {SLOTS:,} slots, {EPOCHS} epochs, batches of {BATCH}; windows: {WINDOW[1]} shards of "
        f"{WINDOW[0]:,} slots. p50 of what is asked often, CPU seconds of what is done once."
    ]
    return Table(("what", "measured"), rows, above)


def _a_run(slots: int, window: tuple[int, int] = (0, 0), *, name: str = "big", batch: int = BATCH) -> TrainingRun:
    phases = (Phase(((0, slots),), EPOCHS, *window),)
    contract = NumericContract(1, 1, "cpu", "fp32", True, ())
    segment = Segment(0, name, "root", slots, order_version(phases), "00ff", 0, batch, phases, contract)
    return TrainingRun(name, "diffusion", "c", "{}", "v", name, "root", 0, (), None, "2026-01-01T00:00:00Z", (segment,))


def _p50(work: Callable[[int], object], times: int) -> str:
    spent = []
    for i in range(times):
        began = time.perf_counter()
        work(i)
        spent.append(time.perf_counter() - began)
    return f"{statistics.median(spent) * 1000:.3f} ms (worst of {times}: {max(spent) * 1000:.2f})"


def _ordinals(name: str, window: tuple[int, int]) -> list[Row]:
    """One ordinal's steps, and the order's speed both ways."""
    run, steps = _a_run(SLOTS, window), SLOTS * EPOCHS // BATCH
    known, asked = Exposures(run), [i * 7_654_321 % SLOTS for i in range(1000)]
    known.steps_of([1], steps)
    order, places = Order.of(run.segments[0]), np.arange(2_000_000, dtype=np.int64)
    began = time.process_time()
    ordinals, _ = order.at(places)
    middle = time.process_time()
    order.positions_of_each(ordinals, SLOTS)
    end = time.process_time()
    there, back = len(places) / (middle - began) / 1e6, len(places) / (end - middle) / 1e6
    return [
        (f"ordinal -> steps, {name}", _p50(lambda i: known.steps_of([asked[i]], steps), 1000)),
        (
            f"the same from the run's record on, {name}",
            _p50(lambda i: Exposures(run).steps_of([asked[i]], steps), 1000),
        ),
        (
            f"positions -> ordinals / ordinals -> positions, {name}",
            f"{there:.1f} / {back:.1f} million/s",
        ),
        (f"a step's {BATCH} ordinals, {name}", _p50(order.at_step, 1000)),
    ]


def _log(place: Path) -> list[Row]:
    """A log of two million samples read, and recomputed from order, schedule and commitments."""
    slots, rows = 1_000_000, []
    commitments = np.frombuffer(np.random.default_rng(0).bytes(32 * slots), dtype="V32")
    schedule = [ScheduleEntry(int(o), int(o) % 5000) for o in np.random.default_rng(1).integers(0, slots, 10_000)]
    for name, window, batch in (
        ("batch 512", (0, 0), 512),
        ("batch 512, windows", WINDOW, 512),
        ("batch 32", (0, 0), 32),
    ):
        run, path = _a_run(slots, window, batch=batch), place / f"{name}.log"
        order, steps = Order.of(run.segments[0]), 2 * slots // batch
        empty = {e.ordinal: e.first_empty_step for e in schedule}
        with StepLog(path) as log:
            for step in range(steps):
                ordinals, _ = order.at_step(step)
                fed = np.array([[empty.get(o, step + 1) > step for o in ordinals.tolist()]])
                (digest,) = fed_digests(ordinals[None], fed, commitments)
                log.write(StepRow(step, step * batch, int(fed.sum()), 0, 1e-3, 0.5, digest))
        began = time.process_time()
        read = read_steps(path)
        failures = check_steps(run, [ScheduleEntry(*e) for e in empty.items()], read, commitments, settled_rows=steps)
        spent = time.process_time() - began
        assert failures == [], failures
        rows.append(
            (
                f"step log recomputed, {name}, 10,000 slots emptied",
                f"{steps * batch / spent / 1e6:.2f} million samples/s",
            )
        )
    return rows


def _records() -> list[Row]:
    """What is stored for each checkpoint and each step."""
    schedule = tuple(ScheduleEntry(o, 1) for o in range(100_000))
    record = CheckpointRecord(
        "diffusion-apples-00112233-0100000", "diffusion-apples-00112233", 0, 100_000, 51_200_000, "apples", "0" * 64,
        schedule, (("CC0-1.0", 1),), (), "diffusion-apples-00112233-0099000", (), "exact", "2026-01-01T00:00:00Z",
        (("alt", 1),), "0" * 64,
    )  # fmt: skip
    stored = json.loads(record.to_json())
    for aside in ("tally", "origins", "files", "upstream"):
        del stored[aside]
    return [
        (
            "a checkpoint's record, 100,000 slots emptied, hashes of files, tally, models aside",
            f"{len(json.dumps(stored))} bytes",
        ),
        ("a step", f"{ROW.itemsize} bytes"),
    ]


def _keys(place: Path, count: int) -> list[Row]:
    """Keys among many slots of a ledger, sorted as a dataset is sealed, and many keys at once."""
    home = Home.create(place / "home")
    run = _a_run(count, name="keyed")
    last = count * EPOCHS // BATCH
    checkpoints = [
        {"checkpoint": f"keyed-{i}", "run": "keyed", "segment": 0, "step": last * i // CHECKPOINTS, "state": "exact",
         "schedule_json": json.dumps({"sha256": "x"} | ({"entries": [[5, 9]]} if i == 1 else {}))}
        for i in range(1, CHECKPOINTS + 1)
    ]  # fmt: skip
    with home.ledger() as ledger:
        ledger.append("run", [{"run": "keyed", "record_json": run.to_json()}], key="keyed")
        ledger.append("checkpoint", checkpoints, key="keyed")
    began = time.perf_counter()
    with duckdb.connect(home.ledger_path) as connection:
        connection.execute(
            """
            INSERT INTO slot (dataset, ordinal, sample_key, content_sha256, pair_key, caption_origin, licence)
            SELECT 'keyed', i, format('{:08x}', (i * $1)::UBIGINT) || substr(h, 1, 24), h || reverse(h),
                   substr(h, 9) || substr(h, 1, 8), 'alt', 'CC0-1.0'
            FROM (SELECT i, md5(i::VARCHAR) AS h FROM range($2) AS r (i))
            """,
            [(1 << 32) // count, count],
        )
    made_s = time.perf_counter() - began
    size = home.ledger_path.stat().st_size
    keys = [_key_of(i * 999_983 % count, count) for i in range(KEYS)]
    by_key = "SELECT dataset, ordinal FROM slot WHERE sample_key = ?"
    by_content = "SELECT dataset, ordinal FROM slot WHERE content_sha256 = ?"
    content = _md5(str(7)) + _md5(str(7))[::-1]
    rows = [(f"a table of {count:,} slots, written once", f"{made_s:.0f} s, {size / 1e9:.1f} GB")]
    with home.ledger(readonly=True) as ledger:
        assert ledger.query(by_content, [content]) == [("keyed", 7)]
        rows += [
            ("key -> ordinal", _p50(lambda i: ledger.query(by_key, [keys[i]]), 200)),
            ("content -> ordinals (not sorted by content)", _p50(lambda i: ledger.query(by_content, [content]), 5)),
            (
                f"one slot -> {CHECKPOINTS:,} checkpoints, ledger's rows read and all",
                _p50(lambda i: exposed_checkpoints(ledger, {"keyed": [i]}), 100),
            ),
        ]
        began = time.perf_counter()
        traced = list(trace_keys(ledger, keys))
        spent = time.perf_counter() - began
        pairs = sum(len(t.checkpoints) for t in traced)
        assert len(traced) == KEYS
        rows.append((f"{KEYS:,} keys x {CHECKPOINTS:,} checkpoints ({pairs:,} exposures)", f"{spent:.2f} s"))
    rows.append(("`custody trace KEY`, whole, in process", _p50(lambda i: trace_query(home, keys[i]), 3)))
    shutil.rmtree(home.path)
    return rows


def _streamed(place: Path) -> list[Row]:
    """All samples of a checkpoint over two million slots, keys and all, and the memory it took."""
    slots = 2_000_000
    home = Home.create(place / "streamed")
    run = _a_run(slots, name="keyed")
    row = {"checkpoint": "last", "run": "keyed", "segment": 0, "step": slots * EPOCHS // BATCH, "schedule_json": "[]"}
    with home.ledger() as ledger:
        ledger.append("run", [{"run": "keyed", "record_json": run.to_json()}], key="keyed")
        ledger.append("checkpoint", [row], key="keyed")
    with duckdb.connect(home.ledger_path) as connection:
        connection.execute(
            "INSERT INTO slot (dataset, ordinal, sample_key) SELECT 'keyed', i, md5(i::VARCHAR) FROM range(?) AS r (i)",
            [slots],
        )
    _, found = audits.run(home, "exposure", {"checkpoint": "last"})
    seen = sum(1 for _, _ in zip(found, range(100_000), strict=False))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    count = sum(1 for _ in found)
    spent, after = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert count + seen >= slots - 1
    return [
        (f"checkpoint -> its {slots:,} samples, {EPOCHS} steps each, streamed", f"{count / spent:,.0f} samples/s"),
        ("peak memory from sample 100,000 to the last", f"+{(after - before) / 1024:.0f} MiB"),
    ]


def _key_of(ordinal: int, count: int) -> str:
    return f"{ordinal * ((1 << 32) // count):08x}" + _md5(str(ordinal))[:24]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
