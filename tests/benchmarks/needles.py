"""The needle scan of a home of 2 GB: how fast each kind of file is read, by how many forms are looked for.

The home is made for it: tars of 100,000 small JPEGs, no two alike, Parquet of a million rows, a ledger-like DuckDB file
of a million rows, and 400 MB of numbers such as weights are. Each needle count scans each of them by one process; the
whole home is scanned once more by as many as there are cores. Nothing that is looked for is in it, but for one value
planted in each place, which must be found.

Environment: NEEDLES_SCALE (default 1.0: of all sizes), NEEDLES_FORMS (default 10,1000,15000).
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.fingerprints import pdq
from flows.stages.removing.forms import digest_forms, text_forms, url_forms
from flows.stages.removing.likeness import RemovedPictures
from flows.stages.removing.needles import Needles
from flows.stages.removing.scanning import ScanReport, scan
from flows.stages.removing.searching import Pattern
from tests.benchmarks.table import Table

SCALE = float(os.environ.get("NEEDLES_SCALE", "1.0"))
FORMS = tuple(int(n) for n in os.environ.get("NEEDLES_FORMS", "10,1000,15000").split(","))
PICTURES, ROWS, WEIGHT_BYTES = int(100_000 * SCALE), int(1_000_000 * SCALE), int(400e6 * SCALE)
PER_TAR = 5_000
PLANTED = "https://planted.example/gallery/the one that is looked for.jpg"
FORMS_A_SAMPLE = 150  # about as many as one removed sample has


def run() -> Table:
    """Seconds and MB/s by kind of file and number of forms; and of the whole home with all cores."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        rng = np.random.default_rng(1)
        for name, make in (("tars", _tars), ("parquet", _parquet), ("duckdb", _duckdb), ("weights", _weights)):
            (home / name).mkdir()
            make(home / name, rng)
        rows = []
        for count in FORMS:
            needles = _needles(count)
            cells = [_by_one(part, needles) for part in sorted(home.iterdir())]
            whole = _found(scan(home, needles))
            cells.append(f"{whole.seconds:.1f} s, {whole.bytes / 1e6 / whole.seconds:,.0f} MB/s")
            rows.append((f"{count:,}", *cells, f"{whole.pictures:,}"))
        parts = [f"{part.name}, {_size(part) / 1e6:,.0f} MB" for part in sorted(home.iterdir())]
        cores = len(os.sched_getaffinity(0))
        columns = ("forms", *parts, f"whole, {_size(home) / 1e6:,.0f} MB, {cores} processes", "pictures compared")
    return Table(columns, rows, (f"Seconds, and MB/s of the files as they lie on disk. Scale {SCALE:g}.",))


def _found(report: ScanReport) -> ScanReport:
    assert report.unread == (), report.unread[:3]
    assert {hit.kind for hit in report.hits} == {"planted"}, report.hits[:3]
    return report


def _by_one(part: Path, needles: Needles) -> str:
    """One process: its CPU time is what counts where the machine is not idle."""
    began = time.process_time()
    report = _found(scan(part, needles, workers=1))
    cpu_s = time.process_time() - began
    return f"{report.seconds:.1f} s ({cpu_s:.1f} s CPU), {report.bytes / 1e6 / cpu_s:,.0f} MB per CPU-s"


def _needles(count: int) -> Needles:
    """So many forms of made-up values, a tenth as many pictures as values, and what is planted."""
    forms: dict[bytes, Pattern] = {}
    for number in range(count):
        key = hashlib.blake2b(f"value {number}".encode(), digest_size=16).hexdigest()
        made = {
            "url": url_forms(f"https://site{number % 97}.example/gallery/{key}/picture-{number}.jpg?size=large"),
            "sha256": digest_forms(hashlib.sha256(key.encode()).hexdigest()),
            "key": digest_forms(key),
            "text": text_forms(f"a photograph of {key[:6]} with number {number} on its side"),
        }
        for kind, some in made.items():
            forms |= {form: Pattern(kind, form, folded=kind == "text") for form in some}
        if len(forms) >= count:
            break
    planted = {form: Pattern("planted", form) for form in url_forms(PLANTED)}
    rng = np.random.default_rng(2)
    pictures = [pdq(np.array(_drawn(rng, 64)))[0] for _ in range(max(1, count // FORMS_A_SAMPLE))]
    chosen = dict(list(forms.items())[: max(0, count - len(planted))])
    return Needles(tuple((chosen | planted).values()), RemovedPictures(pdqs=tuple(pictures)))


# ── the home ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _drawn(rng: np.random.Generator, side: int) -> Image.Image:
    blocks = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    return blocks.resize((side, side), Image.Resampling.BICUBIC)


def _jpegs(rng: np.random.Generator) -> Iterator[bytes]:
    """JPEGs of 160 px, about 9 kB: some hundred drawings, each with a comment of its own."""
    drawings = []
    for _ in range(300):
        held = io.BytesIO()
        _drawn(rng, 160).save(held, "JPEG", quality=95)
        drawings.append(held.getvalue())
    for number in range(PICTURES):
        body = drawings[number % len(drawings)]
        comment = f"picture {number}".encode()
        yield body[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + body[2:]


def _tars(folder: Path, rng: np.random.Generator) -> None:
    tar, jpegs = None, _jpegs(rng)
    for number, jpeg in enumerate(jpegs):
        if number % PER_TAR == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(folder / f"shard-{number // PER_TAR:06d}.tar", "w")  # noqa: SIM115 - closed below
        key = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
        text = PLANTED if number == PICTURES // 2 else f"a picture of number {number}"
        for end, body in (("jpg", jpeg), ("txt", text.encode()), ("json", b'{"licence": "CC0-1.0"}')):
            info = tarfile.TarInfo(f"{key}.{end}")
            info.size = len(body)
            assert tar is not None
            tar.addfile(info, io.BytesIO(body))
    if tar is not None:
        tar.close()


def _table(start: int, end: int) -> pa.Table:
    numbers = range(start, end)
    return pa.table(
        {
            "url": [
                PLANTED if n == ROWS // 2 else f"https://site{n % 997}.example/gallery/{n * 7919 % 100_003}/{n}.jpg"
                for n in numbers
            ],
            "key": [hashlib.blake2b(n.to_bytes(8, "big"), digest_size=16).hexdigest() for n in numbers],
            "sha256": [hashlib.sha256(n.to_bytes(8, "big")).hexdigest() for n in numbers],
            "salt": [hashlib.sha256(b"s" + n.to_bytes(8, "big")).digest() for n in numbers],
            "body": [
                f'{{"alt":"a picture of number {n}","hops":[{{"headers":[["ETag","{n:x}"],["Server","nginx"]],'
                f'"status":200,"url":"https://site{n % 997}.example/{n}.jpg"}}],"observed_at":"2026-11-29T00:00:00"}}'
                for n in numbers
            ],
        }
    )


def _parquet(folder: Path, rng: np.random.Generator) -> None:
    step = max(1, ROWS // 10)
    for start in range(0, ROWS, step):
        pq.write_table(_table(start, min(ROWS, start + step)), folder / f"{start}.parquet", compression="zstd")


def _duckdb(folder: Path, rng: np.random.Generator) -> None:
    with duckdb.connect(str(folder / "ledger.duckdb")) as connection:
        step = max(1, ROWS // 10)
        for start in range(0, ROWS, step):
            connection.register("given", _table(start, min(ROWS, start + step)))
            connection.execute("CREATE TABLE IF NOT EXISTS evidence AS FROM given LIMIT 0")
            connection.execute("INSERT INTO evidence FROM given")
            connection.unregister("given")
        connection.execute("CHECKPOINT")


def _weights(folder: Path, rng: np.random.Generator) -> None:
    with (folder / "weights.safetensors").open("wb") as file:
        for _ in range(int(WEIGHT_BYTES // 4e6)):
            file.write(rng.standard_normal(1_000_000, dtype=np.float32).tobytes())
        file.write(PLANTED.encode())


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
