"""Reading for training: pictures a CPU second, in random order, of this loader, webdataset's and torch's.

The same pictures, photographs from scikit-image, square and as large as they are trained: as `custody crawl` keeps them
(quality 95, 4:4:4), and as the web mostly has them (quality 75, 4:2:0). Each row is a process of its own, and its CPU
that of all its processes. Ours reads shards whose digests were checked when they were opened, and gives batches of 256
as bytes [B, S, S, 3] with captions and the digest of what was fed. webdataset shuffles shards and 1,000 samples and
gives PIL pictures with captions, one by one. torch's DataLoader reads a folder of files by PIL, in batches of 256.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg  # type: ignore[import-untyped]  # it ships no types
from PIL import Image

from policy.provenance import DatasetManifest, dataset_root
from tests.benchmarks.crawl_site import _PHOTOGRAPHS
from tests.benchmarks.table import Table

BATCH, SHARD_SLOTS, SEED = 256, 1_000, 7
ROUNDS, ROUNDS_S = 2, 3.0  # at least so many, more while there is time
SAMPLES = {64: 10_000, 256: 2_600}
KINDS = {"q95 4:4:4": (95, "444"), "q75 4:2:0": (75, "420")}
BARS = {64: 25_000, 256: 3_000}
DISTINCT = 400
LOADERS = {
    "ours": "ours",
    "ours, 2 threads ahead": "ours_ahead",
    "ours, and as float32 [B, 3, S, S]": "ours_float",
    "nothing but simplejpeg, bytes in memory": "bare_decode",
    'webdataset .decode("pil")': "webdataset_pil",
    "torch DataLoader, PIL": "torch_loader",
    "torch DataLoader, PIL, 2 workers": "torch_loader_workers",
}


def run() -> Table:
    """Pictures a CPU second, the best of all rounds."""
    columns = [(size, kind) for size in SAMPLES for kind in KINDS]
    found: dict[str, list[float]] = {what: [] for what in LOADERS}
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for size, kind in columns:
            place = Path(folder) / f"{size}-{KINDS[kind][0]}"
            sizes.append(f"{size} px {kind} {_write(place, size, *KINDS[kind]) / 1000:.1f} KB")
            for what, loader in LOADERS.items():
                found[what].append(_measured(loader, place, size))
    rows = [(what, *(f"{rate:,.0f}" for rate in rates)) for what, rates in found.items()]
    bars = tuple(f"{BARS[size]:,}" for size, _ in columns)
    names = tuple(f"{size} px, {kind}" for size, kind in columns)
    above = [f"A picture has {', '.join(sizes)} on average; one thread of OpenMP. The bar is the last row."]
    return Table(("pictures a CPU second", *names), [*rows, ("the bar", *bars)], above)


def _measured(loader: str, place: Path, size: int) -> float:
    code = f"from tests.benchmarks.loader import measured; print(measured({loader!r}, {str(place)!r}, {size}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WDS_SECURE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def measured(loader: str, place: str, size: int) -> float:
    """Pictures a CPU second of one loader, in this process and its children."""
    work: Callable[[Path, int], Iterable[int]] = globals()[loader]
    best, rounds, started = 0.0, 0, time.monotonic()
    while rounds < ROUNDS or time.monotonic() - started < ROUNDS_S:
        rounds += 1
        begun, count = 0.0, 0
        for given in work(Path(place), size):
            if not begun:  # what is made ready once, and the first batch with it, is not counted
                begun = _cpu_s()
                continue
            count += given
        best = max(best, count / (_cpu_s() - begun))
    return best


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# ── loaders: each yields how many pictures came ────────────────────────────────────────────────────────────────────


def ours(place: Path, size: int, *, workers: int = 0, as_float: bool = False) -> Iterable[int]:
    """training.loading over a sealed dataset."""
    from curation.shard_reader import DatasetReader
    from training.batches import Batcher, EmptySlots
    from training.config import preset
    from training.denoiser import DenoiserConfig
    from training.loading import Loader
    from training.order import Order, whole_epochs

    config = preset("tiny", denoiser=DenoiserConfig(size, 4, 32, 1, 2), batch_size=BATCH, seed=SEED, flip=False)
    with DatasetReader.open(place / "sealed") as reader:
        steps = reader.slots // BATCH
        order = Order("key", whole_epochs(reader.slots, steps, BATCH), BATCH)
        with Loader(Batcher(reader, order, config), workers=workers, stop=steps) as loader:
            for step in range(steps):
                batch = loader.batch(step, EmptySlots())
                assert not as_float or batch.pixels.shape == (BATCH, 3, size, size)
                yield int(batch.real.sum())


def ours_ahead(place: Path, size: int) -> Iterable[int]:
    """The same, batches made ahead."""
    return ours(place, size, workers=2)


def ours_float(place: Path, size: int) -> Iterable[int]:
    """The same, as a CPU trains on them."""
    return ours(place, size, as_float=True)


def bare_decode(place: Path, size: int) -> Iterable[int]:
    """The decoder alone: what no reader in Python can be faster than."""
    bodies = [path.read_bytes() for path in sorted((place / "files").iterdir())]
    out = np.empty((size, size, 3), dtype=np.uint8)
    for start in range(0, len(bodies), BATCH):
        for body in bodies[start : start + BATCH]:
            simplejpeg.decode_jpeg(body, "RGB", buffer=out)
        yield len(bodies[start : start + BATCH])


def webdataset_pil(place: Path, size: int) -> Iterable[int]:
    """Its pipeline as its documentation has it."""
    import webdataset

    shards = sorted(str(path) for path in (place / "sealed" / "generation-0000").glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False, seed=SEED)
    for picture, caption in dataset.shuffle(1_000).decode("pil").to_tuple("jpg", "txt"):
        assert picture.size == (size, size)
        assert caption
        yield 1


def torch_loader(place: Path, size: int, *, workers: int = 0) -> Iterable[int]:
    """A map-style dataset over a folder of files."""
    import torch

    loader = torch.utils.data.DataLoader(
        _Folder(place / "files"),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        generator=torch.Generator().manual_seed(SEED),
    )
    for pictures, _ in loader:
        assert pictures.shape[1:] == (size, size, 3)
        yield len(pictures)


def torch_loader_workers(place: Path, size: int) -> Iterable[int]:
    """The same in two worker processes."""
    return torch_loader(place, size, workers=2)


class _Folder:
    """Pictures and their captions, by number."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, n: int) -> tuple[Any, str]:
        import torch

        with Image.open(self.paths[n]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))), _caption(n)


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(place: Path, size: int, quality: int, chroma: str) -> float:
    """The pictures as a sealed dataset and as a folder of files; bytes a picture."""
    from curation.shard_files import SealedSample
    from curation.shards import write_dataset

    bodies, count = _pictures(size, quality, chroma), SAMPLES[size]
    (place / "files").mkdir(parents=True)
    for n in range(count):
        (place / "files" / f"{n:06d}.jpg").write_bytes(bodies[n % len(bodies)])

    def sample(n: int) -> SealedSample:
        key = blake2b(b"%d" % n, digest_size=16).hexdigest()
        metadata = json.dumps({"key": key, "licence": "CC0-1.0"})
        return SealedSample(n, key, bodies[n % len(bodies)], "jpg", _caption(n), metadata)

    commitments = [sha256(b"%d" % n).digest() for n in range(count)]
    root = dataset_root(commitments)
    manifest = DatasetManifest("bench", root, count, size, "training", "-", "-", None, "2026-11-29T00:00:00Z")
    write_dataset(place / "sealed", manifest, commitments, map(sample, range(count)), SHARD_SLOTS)
    return sum(map(len, bodies)) / len(bodies)


def _pictures(size: int, quality: int, chroma: str) -> Sequence[bytes]:
    """Squares out of photographs, of a quarter to the whole of their shorter side."""
    import skimage.data

    rng, found = np.random.default_rng(SEED), []
    photographs = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in _PHOTOGRAPHS]
    for n in range(DISTINCT):
        photograph = photographs[n % len(photographs)]
        side = max(size, int(min(photograph.size) * rng.uniform(0.25, 1)))
        left, top = (int(rng.integers(0, most - side + 1)) for most in photograph.size)
        square = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
        found.append(simplejpeg.encode_jpeg(np.ascontiguousarray(square), quality, "RGB", chroma))
    return found


def _caption(n: int) -> str:
    return f"a photograph of something, number {n}"
