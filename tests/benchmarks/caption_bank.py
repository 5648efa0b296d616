"""The caption bank at size: built from a ledger's own texts in SQL, embedded incrementally, searched.

TEXTS distinct texts, each on three sites: three million occurrences for a million texts would take the ledger ten
minutes to append, so the bank from the ledger is measured at a third of TEXTS, and the search at all of them.
Embeddings are synthetic: drawn round 20,000 topics in 40 dimensions, turned into 384, as embeddings of sentences have
few directions that count; the pictures that ask are drawn the same way.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.caption_bank import BankEntry, CaptionBank
from curation.caption_index import MEASURED_ON, BankIndex, bank_embeddings, exact_nearest
from curation.clip_model import Embeddings
from flows.home import Home
from flows.stages.captioning.bank import build_bank

TEXTS = int(os.environ.get("TEXTS", "1000000"))
SITES = 3
WIDTH, INNER, TOPICS, NOISE = 384, 40, 20_000, 0.5
BATCH = 60_000
_ADJECTIVES = (
    *("red", "green", "blue", "small", "large", "old", "new", "bright"),
    *("dark", "wooden", "round", "square", "striped", "quiet", "busy"),
)
_NOUNS = (
    *("apple", "boat", "house", "tree", "bird", "chair", "lamp", "road"),
    *("river", "cloud", "train", "bridge", "garden", "door", "window"),
)


def run() -> list[tuple[str, str]]:
    """Wall seconds, on whatever else the machine does; memory is the peak of a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for name, work in (("ledger", _from_ledger), ("embed", _embedded), ("search", _searched)):
            part = place / name
            part.mkdir()
            rows += _apart(work, part)
    return rows


def text_of(n: int) -> str:
    """The n-th text: words, and a number that makes it one of its own."""
    return f"a {_ADJECTIVES[n % 15]} {_NOUNS[n // 15 % 15]} beside {_NOUNS[n // 225 % 15]} {n}"


def _apart(work: Callable[[Path], list[tuple[str, str]]], place: Path) -> list[tuple[str, str]]:
    """Run in a fresh process, whose peak memory is then this work's alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found, before, after = pool.apply(_measured, (work, place))
    return [*found, (f"peak memory of that process ({work.__name__.strip('_')})", f"{after:,} MB ({before:,} before)")]


def _measured(work: Callable[[Path], list[tuple[str, str]]], place: Path) -> tuple[list[tuple[str, str]], int, int]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = work(place)
    return found, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _from_ledger(place: Path) -> list[tuple[str, str]]:
    texts = TEXTS // SITES
    home = Home.create(place / "home")
    for start in range(0, texts * SITES, BATCH):
        _append(home, range(start, min(start + BATCH, texts * SITES)))
    (place / "words.txt").write_text("\n".join(text_of(n) for n in range(0, 2 * texts, 2)))
    began = time.perf_counter()
    bank = build_bank(home)
    built = time.perf_counter() - began
    text = home.settings_path.read_text().replace("phrase_lists = []", f'phrase_lists = ["{place}/words.txt"]')
    home.settings_path.write_text(text)
    began = time.perf_counter()
    with_list = build_bank(Home.open(home.path))
    listed = time.perf_counter() - began
    size = (home.path / "cache/captions/bank.arrow").stat().st_size
    return [
        (f"bank of {len(bank):,} texts out of a ledger of {texts * SITES:,} occurrences", f"{built:.1f} s"),
        (f"the same with a phrase list of {texts:,}, half of them in the ledger", f"{listed:.1f} s"),
        (f"the bank's file, {len(with_list):,} texts with their sources", f"{size / 1e6:,.0f} MB"),
    ]


def _append(home: Home, numbers: range) -> None:
    """Occurrence, content, caption and verdict of allowed alt texts: text n // 3 on site n % 3 and some others."""
    keys = [f"{n * 2654435761 % (1 << 32):08x}{n:024x}" for n in numbers]
    contents = [hashlib.sha256(n.to_bytes(8, "big")).hexdigest() for n in numbers]
    urls = [f"{n:032x}" for n in numbers]
    pages = [f"https://www.site{n % SITES + SITES * (n // 1000 % 500)}.example/page/{n // 40}.html" for n in numbers]
    texts = [text_of(n // SITES) for n in numbers]
    count = len(numbers)
    tables = {
        "occurrence": {"pair_key": keys, "page_url": pages, "image_url": pages, "url_key": urls, "alt": texts},
        "content": {"content_sha256": contents, "url_key": urls},
        "caption": {
            "sample_key": urls, "pair_key": keys, "content_sha256": contents, "caption": texts,
            "caption_origin": ["alt"] * count, "state": ["kept"] * count,
        },
        "decision": {"pair_key": keys, "rule": ["text"] * count, "verdict": ["allow"] * count},
    }  # fmt: skip
    with home.ledger() as ledger:
        ledger.append_many([(name, pa.table(table), f"bench/{numbers.start}") for name, table in tables.items()])


def topical(count: int, seed: int) -> Embeddings:
    """Rows round the topics, normalised: [count, WIDTH] float32."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    topics, turn = fixed.normal(size=(TOPICS, INNER)), fixed.normal(size=(INNER, WIDTH)).astype(np.float32)
    inner = topics[rng.integers(0, TOPICS, count)] + NOISE * rng.normal(size=(count, INNER))
    rows = inner.astype(np.float32) @ turn
    found: Embeddings = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


class _Drawn:
    """A text encoder that costs nothing, so that what is measured is everything else."""

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return topical(len(texts), hash(texts[0]) & 0xFFFF)


def _embedded(place: Path) -> list[tuple[str, str]]:
    entries = (BankEntry(text_of(n), f"list:x:{n}", "list", ()) for n in range(TEXTS))
    bank = CaptionBank.stored(place / "bank.arrow", (), entries, min_origins=1)
    encoder, began = _Drawn(), time.perf_counter()
    bank_embeddings(encoder, bank, ("{}",), place)
    first = time.perf_counter() - began
    began = time.perf_counter()
    bank_embeddings(encoder, bank, ("{}",), place)
    again = time.perf_counter() - began
    entries = (BankEntry(text_of(n), f"list:x:{n}", "list", ()) for n in range(100, TEXTS + 100))
    changed = CaptionBank.stored(place / "bank2.arrow", (), entries, min_origins=1)
    began = time.perf_counter()
    bank_embeddings(encoder, changed, ("{}",), place)
    incremental = time.perf_counter() - began
    return [
        (f"embeddings of {TEXTS:,} texts put down in parts and merged, the model's own time aside", f"{first:.1f} s"),
        ("the same bank again", f"{again:.2f} s"),
        ("100 texts gone and 100 new ones", f"{incremental:.1f} s"),
    ]


def _searched(place: Path) -> list[tuple[str, str]]:
    rows = np.concatenate([topical(min(50_000, TEXTS - start), start + 1) for start in range(0, TEXTS, 50_000)])
    ids = np.random.default_rng(1).integers(0, 2**63, (len(rows), 2)).astype(np.uint64)
    queries = topical(MEASURED_ON + 1_024, 10**6)
    asked = queries[MEASURED_ON:]
    began = time.perf_counter()
    best, _ = exact_nearest(rows, asked[:256], 8)
    exact = (time.perf_counter() - began) / 256
    began = time.perf_counter()
    index = BankIndex(rows, ids, folder=place, name="x", exact_up_to=0, expected=10**9)
    built = time.perf_counter() - began
    index.search(queries[:MEASURED_ON], 8)
    assert index.recall is not None
    began = time.perf_counter()
    found, _ = index.search(asked, 8)
    approximate = (time.perf_counter() - began) / len(asked)
    agreed = float((found[:256, 0] == best[:, 0]).mean())
    size = (place / "index-x.usearch").stat().st_size
    measured = index.recall
    how = f"expansion {measured.expansion}, recall {measured.recall:.1%} of {measured.measured} pictures"
    return [
        (f"exact search of {TEXTS:,} x {WIDTH}, batches of 256", f"{exact * 1e3:.1f} ms a picture"),
        ("the graph built (usearch, bf16), all cores", f"{built:.0f} s, {size / 1e6:,.0f} MB"),
        (f"approximate search as tuned ({how})", f"{approximate * 1e3:.2f} ms a picture"),
        ("nearest text found, on 256 other pictures", f"{agreed:.1%}"),
    ]
