"""Removing from a home of a million samples: one request, a thousand in one go, and a full rewrite beside them.

The home is made for it: pictures of 16 x 16 pixels, each a JPEG of its own, with evidence as a crawl stores it, sealed
by the real writer into shards of 1,000. Built without crawling, deciding and captioning, so its ledger lacks the rows
of those (one decision a sample stands for them). One request is filed, approved and applied as at the prompt, and so
are the thousand: filed together as from a CSV file, approved together (marking what comes back, half a second of one
core a picture, among it), and applied in one go.

Environment: ROWS (1,000,000), REQUESTS (1,000), SCRATCH (a folder). Takes about 10 KB a sample of scratch, two thirds
more for a moment while the ledger is copied, and leaves nothing.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import simplejpeg

from curation.pair import sample_key
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader
from curation.shards import write_dataset
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.stages.removing import applying, approving, requests
from flows.stages.removing.keyed import Leftovers, leftovers
from flows.stages.removing.receipts import issue
from flows.stages.seal import record_generation
from policy import removals
from policy.provenance import DatasetManifest, dataset_root
from policy.removal_matches import match_many, record_matches_of
from policy.removals import RemovalRequest
from tests.benchmarks.table import Table
from tests.flows.sealable import BATCH, sealable_home, text_of

ROWS = int(os.environ.get("ROWS", "1000000"))
REQUESTS = int(os.environ.get("REQUESTS", "1000"))
SCRATCH = os.environ.get("SCRATCH")
SHARD_SLOTS, NAME = 1000, "scale"
BYTES_A_ROW = 17_000


def run() -> Table:
    """Seconds of each part, by what is removed."""
    free = shutil.disk_usage(SCRATCH or tempfile.gettempdir()).free
    if free < ROWS * BYTES_A_ROW:
        raise SystemExit(
            f"{ROWS:,} samples take {ROWS * BYTES_A_ROW / 1e9:.0f} GB of scratch; {free / 1e9:.0f} are free"
        )
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        began = time.perf_counter()
        home = _built(Path(directory) / "home")
        built = time.perf_counter() - began
        sizes = {part: _bytes(home.path / part) for part in ("ledger.duckdb", "datasets", "pixels")}
        one, held = _removed_one(home), _scanned(home)
        many = _removed_many(home)
        rewritten = _rewritten(home, Path(directory))
        _check(home)
    above = [
        f"{ROWS:,} samples, built in {built:,.0f} s: ledger {sizes['ledger.duckdb'] / 1e9:.2f} GB, "
        f"shards {sizes['datasets'] / 1e9:.2f} GB, kept pixels {sizes['pixels'] / 1e9:.2f} GB. "
        f"Peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB.",
        "Bytes gone: approved, resealed, pixels deleted, rows erased, the ledger copied, the snapshot published. "
        "The needle scan and the receipt come after that.",
    ]
    names = list(dict.fromkeys([*one, *many, *rewritten]))
    rows = [(name, *(_cell(part.get(name)) for part in (one, many, rewritten))) for name in names]
    rows.append(("needle scan of the whole home", _cell(held), "", ""))
    columns = ("what", "1 request", f"{REQUESTS:,} requests", "everything written anew")
    return Table(columns, rows, above)


def _cell(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"


# ── the home ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def picture(n: int) -> bytes:
    """A JPEG of its own, of 16 x 16 pixels of noise."""
    pixels = np.random.default_rng(n).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=80))


def url_of(n: int) -> str:
    """As tests/flows/sealable.py gives them."""
    return f"https://site{(n // 25 + 1) % 50}.example/pictures/{n}.jpg"


def _built(path: Path) -> Home:
    home = sealable_home(path, ROWS, picture, settings_text=DEFAULT_TEXT)
    commitments: list[bytes] = []
    now = datetime.now(UTC)
    for start in range(0, ROWS, 4 * BATCH):
        with home.ledger() as ledger:
            slots = [_slot(n) for n in range(start, min(start + 4 * BATCH, ROWS))]
            committed = ledger.commit_rows("slot", slots)
            commitments += [bytes.fromhex(c) for c in committed.column("commitment").to_pylist()]
            ledger.append_many(
                [
                    ("slot", committed, f"scale/{start}"),
                    ("attribution", [_credit(slot["ordinal"]) for slot in slots], f"scale/{start}"),
                    ("decision", [_decision(slot, now) for slot in slots], f"scale/{start}"),
                ]
            )
    root = dataset_root(commitments)
    manifest = DatasetManifest(NAME, root, ROWS, 16, "research", home.ruleset.digest, "", None, now.isoformat())
    generation = write_dataset(home.dataset(NAME), manifest, commitments, _samples(), SHARD_SLOTS)
    with home.ledger() as ledger:
        row = {"dataset": NAME, "root": root, "slots": ROWS, "selection": "", "purpose": "research", "sealed_at": now}
        ledger.append("dataset", [{**row, "ruleset_digest": home.ruleset.digest, "image_size": 16}], key="scale")
        record_generation(ledger, generation)
        ledger.compact()
    return home


def _slot(n: int) -> dict[str, object]:
    sha, text = _sha(n), text_of(n)
    return {
        **{"dataset": NAME, "ordinal": n, "sample_key": sample_key(sha, text, "alt"), "content_sha256": sha},
        **{"pair_key": _pair(n), "caption": text, "caption_origin": "alt", "licence": "CC0-1.0", "revocability": 0},
    }


def _credit(n: object) -> dict[str, object]:
    return {"dataset": NAME, "ordinal": n, "title": f"Apple no. {n}", "source_url": url_of(int(str(n)))}


def _decision(slot: dict[str, object], now: datetime) -> dict[str, object]:
    return {
        **{"pair_key": slot["pair_key"], "rule": "licence", "rule_version": 1, "verdict": "allow"},
        **{"reason_code": "cc0", "decide_id": "scale", "decided_at": now},
    }


def _sha(n: int) -> str:
    return hashlib.sha256(n.to_bytes(8, "big")).hexdigest()


def _pair(n: int) -> str:
    return f"{n * 2654435761 % (1 << 32):08x}{n:024x}"


def _samples() -> Iterator[SealedSample]:
    for n in range(ROWS):
        text = text_of(n)
        yield SealedSample(n, sample_key(_sha(n), text, "alt"), picture(n), "jpg", text, f'{{"ordinal":{n}}}')


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def _timed(found: dict[str, float], name: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    found[name] = time.perf_counter() - began


def _removed_one(home: Home) -> dict[str, float]:
    """A request at the prompt, and its receipt."""
    found: dict[str, float] = {}
    request = requests.add(home, "url", url_of(ROWS // 3))
    _timed(found, "approve", lambda: approving.approve(home, request.id, by="a benchmark", reason="asked"))
    _timed(found, "apply", lambda: applying.apply(home, request.id, scan=False, receipts=False))
    found["bytes gone"] = found["approve"] + found["apply"]
    _timed(found, "receipt", lambda: issue(home, [request.id]))
    return found


def _scanned(home: Home) -> float:
    """What the needle scan of another request takes on top."""
    request = requests.add(home, "url", url_of(ROWS // 3 + 1))
    approving.approve(home, request.id, by="a benchmark", reason="asked")
    began = time.perf_counter()
    applying.apply(home, request.id, scan=False, receipts=False)
    without = time.perf_counter() - began
    request = requests.add(home, "url", url_of(ROWS // 3 + 2))
    approving.approve(home, request.id, by="a benchmark", reason="asked")
    began = time.perf_counter()
    [told] = applying.apply(home, request.id, receipts=False)
    assert told.scan == "clean", told.scan
    return time.perf_counter() - began - without


def _removed_many(home: Home) -> dict[str, float]:
    """Requests all over the dataset, in one go."""
    found: dict[str, float] = {}
    step = ROWS // (REQUESTS + 1)
    urls = {f"removal-many-{n:05d}": url_of(n * step) for n in range(REQUESTS)}
    _timed(found, "file", lambda: _file(home, urls))
    _timed(found, "approve", lambda: approving.approve_all(home, *urls, by="a benchmark", reason="asked"))
    _timed(found, "apply", lambda: applying.apply(home, *urls, scan=False, receipts=False))
    found["bytes gone"] = found["approve"] + found["apply"]
    _timed(found, "receipt", lambda: issue(home, list(urls)))
    return found


def _file(home: Home, urls: dict[str, str]) -> None:
    now = datetime.now(UTC)
    filed = [RemovalRequest.receive("image_url", url, now=now, removal=name) for name, url in urls.items()]
    with home.ledger() as ledger:
        removals.record_many(ledger, [(request, None) for request in filed], key="many")
        found = match_many(ledger, [(name, "image_url", url) for name, url in urls.items()])
        record_matches_of(ledger, found, now=now)


def _rewritten(home: Home, scratch: Path) -> dict[str, float]:
    """What it would take to write the dataset and the ledger anew, as they are by now."""
    found: dict[str, float] = {}

    def shards() -> None:
        with DatasetReader.open(home.dataset(NAME)) as reader:
            commitments = [reader.commitment(n) for n in range(reader.slots)]
            write_dataset(scratch / NAME, reader.manifest, commitments, reader.samples(), SHARD_SLOTS)

    def ledger() -> None:
        with home.ledger() as opened:
            opened.compact()

    _timed(found, "shards", shards)
    _timed(found, "ledger", ledger)
    found["bytes gone"] = sum(found.values())
    return found


def _check(home: Home) -> None:
    """Nothing that was removed is left, or the figures are worth nothing."""
    with home.ledger(readonly=True) as ledger:
        left = leftovers(home, ledger, home.tombstones(ledger))
        assert not ledger.verify(home.keys)
    assert left == Leftovers(), left
