"""Writing shards: our writer beside webdataset's and the standard library's, and what a whole `custody seal` costs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from curation.pixel_store import PixelStore
from curation.shard_files import SealedSample
from curation.shard_reader import DatasetReader
from curation.shards import prune, reseal, write_dataset
from flows.home import Home
from flows.stages.decide import decide
from flows.stages.seal import seal
from policy.provenance import DatasetManifest, dataset_root
from tests.benchmarks.table import Table
from tests.flows.sealable import sealable_home

SAMPLES = int(os.environ.get("SAMPLES", "10000"))
PICTURE_BYTES = 30_000
SHARD_SLOTS = 1_000
ROUNDS = 3


def run() -> Table:
    """CPU time a sample, the best of three rounds; pictures of 30 kB, a caption, 380 bytes of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        pixels = _noise()
        store, contents = PixelStore(place / "pixels"), [hashlib.sha256(b"%d" % n).hexdigest() for n in range(SAMPLES)]
        for n, sha in enumerate(contents):
            store.put(sha, _picture(pixels, n))
        store.settle()

        def kept() -> Iterator[SealedSample]:
            for n, sha in enumerate(contents):
                yield _sample(n, store.get(sha))

        def made() -> Iterator[SealedSample]:
            for n in range(SAMPLES):
                yield _sample(n, _picture(pixels, n))

        rows = [
            _row("nothing: making the samples", place, lambda to: sum(1 for _ in made())),
            _row("webdataset TarWriter(mtime=0)", place, lambda to: _webdataset(to, made())),
            _row("tarfile (ustar), sha256 of the shard", place, lambda to: _tarfile(to, made())),
            _row("ours: offsets, index, sha256, manifest", place, lambda to: _ours(to, made())),
            _row("ours from the pixel store: sealing's share", place, lambda to: _ours(to, kept())),
            _row("ours again over what is there (compared)", place, _again(place, made)),
            _row("open and check all of it", place, lambda to: DatasetReader.open(place / "whole").close()),
            _row("take one sample in a hundred out, prune", place, _removal(place, made)),
            _whole(place, pixels),
        ]
    above = [f"{SAMPLES:,} samples, {SHARD_SLOTS:,} a shard; writing includes making the samples and fsync."]
    return Table(("what", "CPU ms a sample", "samples a CPU second"), rows, above)


def _row(what: str, place: Path, work: Callable[[Path], object]) -> tuple[str, str, str]:
    best = float("inf")
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=place) as to:
            began = time.process_time()
            work(Path(to) / str(number))
            best = min(best, time.process_time() - began)
    return what, f"{best / SAMPLES * 1000:.3f}", f"{SAMPLES / best:,.0f}"


def _noise() -> bytes:
    return os.urandom(PICTURE_BYTES + 5_000)


def _picture(pixels: bytes, n: int) -> bytes:
    return pixels[n % 5_000 : n % 5_000 + PICTURE_BYTES]


def _sample(n: int, picture: bytes) -> SealedSample:
    key = hashlib.blake2b(b"%d" % n, digest_size=16).hexdigest()
    metadata = {
        "key": key,
        "ordinal": n,
        "content_sha256": key * 2,
        "caption_origin": "alt",
        "title": f"Apple no. {n}",
        "creator": "A. Painter",
        "source_url": f"https://a.example/pictures/{n}.html",
        "licence": "CC-BY-4.0",
        "licence_url": "https://creativecommons.org/licenses/by/4.0/",
        "changes": "shorter side at most 256 px, encoded anew as JPEG without metadata",
    }
    return SealedSample(n, key, picture, "jpg", f"a photograph of apple number {n}", json.dumps(metadata))


def _ours(to: Path, samples: Iterator[SealedSample]) -> None:
    commitments = [hashlib.sha256(b"%d" % n).digest() for n in range(SAMPLES)]
    root = dataset_root(commitments)
    manifest = DatasetManifest("bench", root, SAMPLES, 256, "training", "-", "-", None, "2026-11-21T00:00:00Z")
    write_dataset(to, manifest, commitments, samples, SHARD_SLOTS)


def _again(place: Path, made: Callable[[], Iterator[SealedSample]]) -> Callable[[Path], None]:
    _ours(place / "whole", made())

    def again(_: Path) -> None:
        (place / "whole" / "generation-0000" / "generation.json").unlink()
        _ours(place / "whole", made())

    return again


def _removal(place: Path, made: Callable[[], Iterator[SealedSample]]) -> Callable[[Path], None]:
    _ours(place / "thinned", made())
    rounds = iter(range(ROUNDS))

    def remove(_: Path) -> None:
        start = next(rounds)
        reseal(place / "thinned", range(start, SAMPLES, 100), f"removal-{start}")
        prune(place / "thinned")

    return remove


def _webdataset(to: Path, samples: Iterator[SealedSample]) -> None:
    import webdataset

    to.mkdir()
    with webdataset.ShardWriter(str(to / "shard-%06d.tar"), maxcount=SHARD_SLOTS, verbose=0, mtime=0) as writer:
        for sample in samples:
            writer.write(
                {
                    "__key__": sample.key,
                    "jpg": sample.image,
                    "txt": sample.caption.encode(),
                    "json": sample.metadata_json.encode(),
                }
            )


def _tarfile(to: Path, samples: Iterator[SealedSample]) -> None:
    to.mkdir()
    for number in range(0, SAMPLES, SHARD_SLOTS):
        path = to / f"shard-{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(SHARD_SLOTS):
                if (sample := next(samples, None)) is None:
                    break
                for ext, data in (
                    ("jpg", sample.image),
                    ("txt", sample.caption.encode()),
                    ("json", sample.metadata_json.encode()),
                ):
                    member = tarfile.TarInfo(f"{sample.key}.{ext}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        with path.open("rb") as written:
            hashlib.file_digest(written, "sha256")


def _whole(place: Path, pixels: bytes) -> tuple[str, str, str]:
    """`custody seal` over a ledger of its own: judging what is new (nothing), selecting, slots, attribution, shards."""
    home = Home.open(sealable_home(place / "home", SAMPLES, lambda n: _picture(pixels, n)).path)
    decide(home)
    began = time.process_time()
    seal(home, name="bench")
    spent = time.process_time() - began
    return "the whole of `custody seal`, once", f"{spent / SAMPLES * 1000:.3f}", f"{SAMPLES / spent:,.0f}"
