"""What exactness costs a step of training, beside a bare torch loop with the same model, optimizers and average.

Ours is `train` itself: order, keyed draws, schedule, a tombstone file that is looked at, digests, the log written
ahead, the tally, deterministic kernels. The bare loop reads the same shards by the same reader and decoder, shuffles by
torch.randperm, draws by torch.randn, keeps no record, and lets torch choose its kernels. A second bare loop has its
batches in memory, decoded: beside it, ours pays for reading as well. After each of our steps each bare loop does one of
its own in the same process, the one that comes first in turn: so all of them meet the same neighbours on the machine.
One thread; medians over steps. Every part of exactness is timed by itself, too, as what it adds to what a bare loop
would do in its place: on a busy machine their sum is the better figure. Saving stands apart, as a share of the steps
between two saves, beside torch.save of the same tensors without a flush.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from curation.images import encode_jpeg
from curation.shard_reader import DatasetReader
from policy.keys import KeyRing
from policy.tombstones import Tombstones
from tests.benchmarks.table import Table
from tests.training.toy_dataset import HashedWords, noise, noon, seal
from training.batches import Batcher, EmptySlots, TombstoneWatch, _draw
from training.conditioning import CaptionTokens
from training.config import TrainingConfig, preset
from training.denoiser import Denoiser
from training.diffusion import flow_loss
from training.ema import Ema
from training.loading import GenerationWatch
from training.loop import _optimizers, train
from training.order import Order, whole_epochs
from training.step_log import StepLog, StepRow
from training.tally import Tally

SLOTS, SAVE_EVERY, USUAL = 512, 10, 250
STEPS = {"tiny": 600, "demo": 60}
ROUNDS = {"tiny": 3, "demo": 1}
WARM = 5
FIRST = "tally of slots met for the first time"  # their metadata are read: an epoch long, and not in the sum
BAR = 0.03

Clocks = tuple[float, float]
"""(seconds of CPU, seconds by the wall)."""


def run() -> Table:
    """A column a model."""
    with tempfile.TemporaryDirectory() as folder:
        columns = {name: _measured(name, Path(folder) / name) for name in STEPS}
    rows = [(what, *(column[what] for column in columns.values())) for what in next(iter(columns.values()))]
    loads = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    above = [
        f"One thread, {loads}. CPU, and by the wall in brackets. The bar is {BAR:.0%} of a step of the bare loop that "
        "reads. `tiny`: 16 px, batch 4, the worst case that there is; `demo`: what `custody demo` trains, 32 px, batch "
        "32, 5M parameters."
    ]
    return Table(("a step", *columns), rows, above)


def _measured(name: str, folder: Path) -> dict[str, str]:
    config = replace(preset(name), steps=STEPS[name], threads=1, checkpoint_every=SAVE_EVERY, keep_checkpoints=1)
    side = config.denoiser.image_size
    seal(folder / "toys", SLOTS, lambda n: encode_jpeg(noise(n, side, side)))
    stones = folder / "tombstones"
    Tombstones().with_added("rem-1", keys=KeyRing.create(stones / "keys"), slots={"elsewhere": [1]}).store(stones)
    with DatasetReader.open(folder / "toys") as reader:
        took = Took([], [], [], [], [])
        for n in range(ROUNDS[name]):
            _steps(reader, config, folder / f"run-{n}", stones, took)
        parts = _parts(reader, config, stones, folder)
    return _told(took, parts, preset(name).checkpoint_every if name != "tiny" else USUAL)


@dataclass(frozen=True, slots=True)
class Took:
    """What each step took; `saving`: our steps that a save was part of, `bare_saving`: torch.save alone."""

    ours: list[Clocks]
    saving: list[Clocks]
    reading: list[Clocks]
    in_memory: list[Clocks]
    bare_saving: list[Clocks]


def _told(took: Took, parts: dict[str, float], usual: int) -> dict[str, str]:
    ours, reading, in_memory = (_medians(steps) for steps in (took.ours, took.reading, took.in_memory))
    saving, bare_saving = _medians(took.saving), _medians(took.bare_saving)
    # Steps side by side, so that what the machine does to one it does to the other.
    share = _median([o[0] / r[0] - 1 for o, r in zip(took.ours, took.reading, strict=True)])
    wall = _median([o[1] / r[1] - 1 for o, r in zip(took.ours, took.reading, strict=True)])
    save_s = tuple(s - o for s, o in zip(saving, ours, strict=True))
    total = sum(seconds for what, seconds in parts.items() if what != FIRST)
    return {
        "bare loop, reading the same shards": _ms(reading),
        "bare loop, batches in memory": _ms(in_memory),
        "ours": _ms(ours),
        "ours beside the bare loop that reads": f"{share:+.1%} ({wall:+.1%})",
        "ours beside batches in memory": f"{ours[0] / in_memory[0] - 1:+.1%} ({ours[1] / in_memory[1] - 1:+.1%})",
        **{f"part: {what}": f"{1e6 * seconds:+.0f} µs" for what, seconds in parts.items()},
        "all parts, of the bare step": f"{1e3 * total:.2f} ms, {total / reading[0]:+.1%}",
        "saving a checkpoint": _ms(save_s),
        "torch.save of the same": _ms(bare_saving),
        "that save, of the steps between two": f"{save_s[0] / usual / reading[0]:+.2%} "
        f"({save_s[1] / usual / reading[1]:+.2%}), every {usual}",
    }


def _medians(steps: Sequence[Clocks]) -> Clocks:
    return _median([cpu for cpu, _ in steps]), _median([wall for _, wall in steps])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _ms(seconds: Sequence[float]) -> str:
    return f"{1e3 * seconds[0]:.2f} ms ({1e3 * seconds[1]:.2f})"


def _clocks() -> Clocks:
    return time.process_time(), time.perf_counter()


def _since(then: Clocks) -> Clocks:
    now = _clocks()
    return now[0] - then[0], now[1] - then[1]


# ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _steps(reader: DatasetReader, config: TrainingConfig, run_dir: Path, stones: Path, took: Took) -> None:
    """A run of ours, with a step of each bare loop after each of its own."""
    reading, in_memory = Bare(reader, config, held=0), Bare(reader, config, held=16)
    begun = _clocks()

    def after_ours(done: int, loss: float, rate: float) -> None:
        nonlocal begun
        ours = _since(begun)
        torch.use_deterministic_algorithms(False)
        arms = [(reading, took.reading), (in_memory, took.in_memory)]
        steps: list[tuple[list[Clocks], Clocks]] = []
        for bare, list_of_it in arms if done % 2 else reversed(arms):
            at = _clocks()
            bare.step(done - 1)
            steps.append((list_of_it, _since(at)))
        was_saving = done % SAVE_EVERY == 1 and done > 1  # the save follows the call before this one
        if was_saving:
            took.saving.append(ours)
        elif done > WARM:
            took.ours.append(ours)
            for list_of_it, clocks in steps:
                list_of_it.append(clocks)
        if was_saving:
            at = _clocks()
            reading.save(run_dir.parent / "bare.pt")
            took.bare_saving.append(_since(at))
        torch.use_deterministic_algorithms(True)
        begun = _clocks()

    train(
        reader,
        config,
        run_dir,
        upstream=(),
        text_encoder=HashedWords(),
        progress=after_ours,
        now=noon,
        tombstones_dir=stones,
    )


class Bare:
    """A training loop as one writes it. `held`: batches that are made beforehand and used in turn; 0: it reads."""

    def __init__(self, reader: DatasetReader, config: TrainingConfig, *, held: int) -> None:
        self._reader, self._config = reader, config
        torch.manual_seed(config.seed)
        self._model = Denoiser(config.denoiser).train()
        self._optimizers = _optimizers(self._model, config)
        self._ema = Ema(self._model, config.ema_length)
        self._captions = CaptionTokens(HashedWords(), config.denoiser.text_tokens)
        self._parameters = list(self._model.parameters())
        self._left: list[int] = []
        self._real = torch.ones(config.batch_size, dtype=torch.bool)
        self._held = [self._read() for _ in range(held)]

    def step(self, step: int) -> float:
        """Read, draw, and train one step."""
        config = self._config
        pixels, text, mask = self._held[step % len(self._held)] if self._held else self._read()
        noise = torch.randn_like(pixels)
        t = torch.sigmoid(config.timestep_mean + config.timestep_std * torch.randn(len(pixels)))
        for optimizer, _ in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss = flow_loss(self._model, pixels, noise, t, text, mask, self._real, config)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        factor = config.learning_rate_factor(step)
        for optimizer, base_rate in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = base_rate * factor
            optimizer.step()
        self._ema.update(step)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """As most do: into place, and without asking that it reach the disk."""
        optimizers = {name: optimizer.state_dict() for name, (optimizer, _) in self._optimizers.items()}
        torch.save({"model": self._model.state_dict(), "ema": self._ema.weights, **optimizers}, path)

    def _read(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config, size = self._config, self._config.denoiser.image_size
        if len(self._left) < config.batch_size:
            self._left += torch.randperm(self._reader.slots).tolist()
        ordinals, self._left = self._left[: config.batch_size], self._left[config.batch_size :]
        rgb, captions = np.empty((len(ordinals), size, size, 3), dtype=np.uint8), []
        draws = torch.rand(len(ordinals), 4, dtype=torch.float64).numpy()
        kept = torch.rand(len(ordinals)) >= config.caption_dropout
        for i, ordinal in enumerate(ordinals):
            pair = self._reader.pair(ordinal)
            assert pair is not None
            _draw(rgb[i], pair[0], draws[i], config.crop, config.flip)
            captions.append(pair[1])
        pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        text, mask = self._captions.batch([c if k else "" for c, k in zip(captions, kept.tolist(), strict=True)])
        return pixels, text, mask


# ── parts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(reader: DatasetReader, config: TrainingConfig, stones: Path, folder: Path) -> dict[str, float]:
    """Seconds of CPU that each part of exactness adds to a step."""
    size, batch = config.denoiser.image_size, config.batch_size
    order = Order("key", whole_epochs(reader.slots, 10_000, batch), batch)
    batcher, empty = Batcher(reader, order, config), EmptySlots()
    watch, generations = TombstoneWatch(stones, reader.manifest.dataset), GenerationWatch(reader)
    tally, watched = Tally(reader), watch.look()
    assert watched == frozenset()
    draft = batcher.draft(3, empty)
    made = batcher.finished(draft, empty)
    ordinals, left = made.ordinals, list(range(reader.slots))

    def keyed(step: int) -> None:
        _, _, draws = batcher.drawn(step)
        draws.kept_captions(config.caption_dropout)
        draws.timesteps(config.timestep_mean, config.timestep_std)

    def drawn(step: int) -> None:
        torch.rand(batch, 4, dtype=torch.float64).numpy()
        torch.rand(batch) >= config.caption_dropout  # noqa: B015  the draw is what is timed
        torch.sigmoid(config.timestep_mean + config.timestep_std * torch.randn(batch))

    def looks(step: int) -> None:
        empty.enter(watch.look() or (), step)
        generations.look()
        for ordinal in ordinals.tolist():
            empty.is_empty(ordinal, step)

    digest = hashlib.sha256(b"fed").digest()
    with StepLog(folder / "timed.log") as log:

        def write(step: int) -> None:
            log.write(StepRow(step, step * batch, batch, 0, 1e-3, 0.5, digest))

        return {
            "order": _cpu_s(order.at_step) - _cpu_s(lambda step: left[step % 9 : step % 9 + batch]),
            "keyed draws but the noise": _cpu_s(keyed) - _cpu_s(order.at_step) - _cpu_s(drawn),
            "keyed noise": _cpu_s(lambda step: batcher.drawn(step)[2].noise(size))
            - _cpu_s(batcher.drawn)
            - _cpu_s(lambda step: torch.randn(batch, 3, size, size)),
            "tombstones, generation, schedule": _cpu_s(looks),
            "what is empty by now, and the digest": _cpu_s(lambda step: batcher.finished(draft, empty)),
            "tally": _cpu_s(lambda step: tally.add(ordinals)),
            FIRST: _cpu_s(lambda step: Tally(reader).add(ordinals)),
            "the log's row": _cpu_s(write),
        }


def _cpu_s(call: Callable[[int], object], rounds: int = 7, calls: int = 100) -> float:
    """Seconds of CPU a call, the median of some rounds."""
    found = []
    for n in range(rounds):
        at = time.process_time()
        for step in range(n * calls, (n + 1) * calls):
            call(step)
        found.append((time.process_time() - at) / calls)
    return statistics.median(found)
