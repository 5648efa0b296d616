"""After kill -9: what diffusers' text-to-image recipe repeats, misses and has left, and what this trainer does.

The recipe is huggingface/diffusers, examples/text_to_image/train_text_to_image.py (read at commit 000280f, and a later
one that saves and resumes alike), written afresh from what it does: DataLoader(shuffle=True); every
`--checkpointing_steps` the oldest checkpoints go if there are `--checkpoints_total_limit` of them, and only then
`accelerator.save_state` writes into `checkpoint-<step>`, in place and file by file (accelerate/checkpointing.py: model,
optimizer, scheduler, random states); with `--resume_from_checkpoint latest` the directory with the highest number is
loaded, `global_step` is taken from its name, and training goes on at the beginning of the epoch that it lies in,
reshuffled: batches are not skipped (they were until diffusers #5117, by counting over a permutation that was drawn
anew). Noise prediction as there, one process, no EMA. accelerate is not needed here; accelerate 1.15.0 itself, tried
beside it, wrote the same files in the same order, and resumed at step 10 of an epoch of 25 fed 27 of 100 slots again
and 27 never. Both train the same small denoiser on the same sealed pictures, a DiT in the place of the U-Net and pixels
in that of latents: neither has a part in what is counted.

In mid-epoch: each is killed after a step of its first epoch, resumed, and carried to the end of its second. Counted is
what the weights stand on, so steps that a resume went back over count once: of the epoch that was killed, the slots fed
again and those never fed by the time it is over (its steps are done); of the run, the slots not fed twice.
While saving: each is killed within its third save; then the newest checkpoint is loaded as its own resume loads it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.utils.data import DataLoader, Dataset

from curation.shard_reader import DatasetReader
from tests.benchmarks.table import Table
from tests.training.forked import Forked, Kill
from tests.training.recomputed import times_fed
from tests.training.toy_dataset import HashedWords, noon, seal
from training.batches import Batcher, EmptySlots
from training.checkpoint import list_checkpoints, newest_checkpoint
from training.config import TrainingConfig, preset
from training.denoiser import Denoiser, DenoiserConfig
from training.loop import train
from training.order import Order, whole_epochs

SLOTS, BATCH, EPOCHS, EVERY = 100, 4, 2, 5
EPOCH_STEPS = SLOTS // BATCH
KILLS = 10
SEED = 7
LIMITS = {"as it stands": 0, "--checkpoints_total_limit 1": 1}  # 0: none
LARGE = DenoiserConfig(16, 4, 192, 6, 3)  # 5M parameters: a save takes its time
THIRD_SAVE = frozenset({"checkpoint-3", ".writing-step-0000003"})


def run() -> Table:
    """A row a trainer and a kind of kill."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = seal(folder / "toys", SLOTS)
        tiny = preset("tiny", batch_size=BATCH, steps=EPOCHS * EPOCH_STEPS, checkpoint_every=EVERY, seed=SEED)
        large = preset("tiny", denoiser=LARGE, batch_size=BATCH, steps=4, checkpoint_every=1, keep_checkpoints=1)
        warm = {"dataset": str(dataset), "run_dir": str(folder / "warm"), "config": preset("tiny", steps=1).to_json()}
        call = "tests.benchmarks.after_kill:trainer"
        with Forked(folder, call, warm | {"limit": -1}, is_saving=THIRD_SAVE.__contains__) as forked:
            told = {"diffusers' recipe": 0, "this trainer": -1}
            rows += [(who, "in mid-epoch", *_midway(forked, dataset, tiny, limit)) for who, limit in told.items()]
            told = {f"diffusers' recipe, {what}": limit for what, limit in LIMITS.items()} | {"this trainer": -1}
            rows += [(who, "while saving", *_saving(forked, dataset, large, limit)) for who, limit in told.items()]
    above = [
        f"{KILLS} kills a row; {SLOTS} slots, {EPOCH_STEPS} steps an epoch, saved every {EVERY} steps in the upper "
        "rows; every step in the lower ones, a denoiser of 5M parameters, killed within the third save."
    ]
    return Table(("trainer", "killed", "of the epoch, or what is left", "of the run, or what that costs"), rows, above)


def trainer(dataset: str, run_dir: str, config: str, limit: int, die_after: int = -1) -> None:
    """What a child does: ours where `limit` is negative, else the recipe with that limit of checkpoints (0: none)."""
    told = TrainingConfig.from_json(config)

    def after(done: int) -> None:
        if done == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with DatasetReader.open(Path(dataset)) as reader:
        if limit >= 0:
            recipe(reader, told, Path(run_dir), limit, after)
            return
        train(
            reader,
            told,
            Path(run_dir),
            upstream=(),
            text_encoder=HashedWords(),
            progress=lambda done, loss, rate: after(done),
            now=noon,
        )


# ── the recipe ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Pictures(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]):
    """Pixels, tokens, mask and ordinal of every slot, decoded once by our own reader."""

    def __init__(self, reader: DatasetReader, config: TrainingConfig) -> None:
        order = Order("any", whole_epochs(reader.slots, EPOCH_STEPS, BATCH), BATCH)
        batcher, self._items = Batcher(reader, order, config), {}
        for step in range(EPOCH_STEPS):
            batch = batcher.batch(step, EmptySlots())
            text, mask = HashedWords().tokens(batch.captions)
            for row, ordinal in enumerate(batch.ordinals.tolist()):
                self._items[ordinal] = (batch.pixels[row], text[row], mask[row], ordinal)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        return self._items[n]


def recipe(reader: DatasetReader, config: TrainingConfig, run_dir: Path, limit: int, after: Any) -> None:
    """Train to `config.steps`; each step's ordinals go to fed.jsonl before it counts."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _set_seed(config.seed)
    model = Denoiser(config.denoiser).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    loader = DataLoader(_Pictures(reader, config), batch_size=config.batch_size, shuffle=True)
    kept_share = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    epoch_steps, global_step, first_epoch = len(loader), 0, 0

    # --resume_from_checkpoint latest
    if latest := _latest(run_dir):
        load_state(latest, model, optimizer, scheduler)
        global_step = int(latest.name.split("-")[1])
        first_epoch = global_step // epoch_steps

    with (run_dir / "fed.jsonl").open("a") as fed:
        for _ in range(first_epoch, -(-config.steps // epoch_steps)):
            for pixels, text, mask, ordinals in loader:
                noise, t = torch.randn_like(pixels), torch.randint(0, 1000, (len(pixels),))
                share = kept_share[t][:, None, None, None]
                predicted = model(share.sqrt() * pixels + (1 - share).sqrt() * noise, t / 1000, text, mask)
                torch.nn.functional.mse_loss(predicted, noise).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                fed.write(json.dumps([global_step, ordinals.tolist()]) + "\n")
                fed.flush()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                global_step += 1
                if global_step % config.checkpoint_every == 0:
                    there = _checkpoints(run_dir)
                    if limit and len(there) >= limit:
                        for old in there[: len(there) - limit + 1]:
                            shutil.rmtree(old)
                    save_state(run_dir / f"checkpoint-{global_step}", model, optimizer, scheduler)
                    (run_dir / f"saved-{global_step}").touch()  # for who counts
                after(global_step)
                if global_step >= config.steps:
                    return


def save_state(path: Path, model: Denoiser, optimizer: Any, scheduler: Any) -> None:
    """accelerate's `save_state`: these files, in this order, in place."""
    path.mkdir(exist_ok=True)
    safetensors.torch.save_file(model.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer.state_dict(), path / "optimizer.bin")
    torch.save(scheduler.state_dict(), path / "scheduler.bin")
    states = {"random_state": random.getstate(), "numpy_random_seed": np.random.get_state()}
    torch.save({**states, "torch_manual_seed": torch.get_rng_state()}, path / "random_states_0.pkl")


def load_state(path: Path, model: Denoiser, optimizer: Any, scheduler: Any) -> None:
    """accelerate's `load_state`. Whatever is missing or cut off raises."""
    model.load_state_dict(safetensors.torch.load_file(path / "model.safetensors"))
    optimizer.load_state_dict(torch.load(path / "optimizer.bin"))
    scheduler.load_state_dict(torch.load(path / "scheduler.bin"))
    states = torch.load(path / "random_states_0.pkl", weights_only=False)
    random.setstate(states["random_state"])
    np.random.set_state(states["numpy_random_seed"])
    torch.set_rng_state(states["torch_manual_seed"])


def _set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _latest(run_dir: Path) -> Path | None:
    there = _checkpoints(run_dir)
    return there[-1] if there else None


# ── killed in mid-epoch ────────────────────────────────────────────────────────────────────────────────────────────


def _midway(forked: Forked, dataset: Path, config: TrainingConfig, limit: int) -> tuple[str, str]:
    drawn = random.Random(SEED)
    repeated, missed, often, seldom = [], [], [], []
    with DatasetReader.open(dataset) as reader:
        for n in range(KILLS):
            run_dir = dataset.parent / f"midway-{limit}-{n}" / "run"
            run_dir.parent.mkdir()
            arguments = {"dataset": str(dataset), "run_dir": str(run_dir), "config": config.to_json(), "limit": limit}
            killed = forked.run(run_dir, arguments | {"die_after": drawn.randint(EVERY + 1, EPOCH_STEPS - 1)})
            ended = forked.run(run_dir, arguments)
            if not killed.was_killed or ended.status != 0:
                raise RuntimeError(f"a trainer ended with {killed.status}, then {ended.status}: {ended.error}")
            first = Counter(dict.fromkeys(range(SLOTS), 0))
            whole = first.copy()
            for step, ordinal in _fed(run_dir, reader, limit):
                whole[ordinal] += 1
                first[ordinal] += step < EPOCH_STEPS
            repeated.append(sum(count - 1 for count in first.values() if count > 1))
            missed.append(sum(count == 0 for count in first.values()))
            often.append(sum(count > EPOCHS for count in whole.values()))
            seldom.append(sum(count < EPOCHS for count in whole.values()))
            shutil.rmtree(run_dir.parent)
    epoch = f"fed again {_range(repeated)}, never fed {_range(missed)} of {SLOTS}"
    return epoch, f"slots fed more than {EPOCHS} times {_range(often)}, less often {_range(seldom)}"


def _fed(run_dir: Path, reader: DatasetReader, limit: int) -> Iterator[tuple[int, int]]:
    """(step, ordinal) of everything that the last weights stand on."""
    if limit < 0:
        counted, failures = times_fed(run_dir, reader)
        assert not failures
        for (epoch, ordinal), count in counted.items():
            for _ in range(count):
                yield epoch * EPOCH_STEPS, ordinal
        return
    rows = dict(json.loads(line) for line in (run_dir / "fed.jsonl").read_text().splitlines())
    for step, ordinals in rows.items():  # of a step that was done again the later row stands
        for ordinal in ordinals:
            yield step, ordinal


def _range(counts: list[int]) -> str:
    return f"{sum(counts) / len(counts):.0f} ({min(counts)} to {max(counts)})" if any(counts) else "0"


# ── killed while saving ────────────────────────────────────────────────────────────────────────────────────────────


def _saving(forked: Forked, dataset: Path, config: TrainingConfig, limit: int) -> tuple[str, str]:
    drawn, found, lost, kills, longest_s = random.Random(SEED), Counter[str](), [], 0, 0.3
    for n in range(10 * KILLS):
        if kills == KILLS:
            break
        run_dir = dataset.parent / f"saving-{limit}-{n}" / "run"
        run_dir.mkdir(parents=True)
        arguments = {"dataset": str(dataset), "run_dir": str(run_dir), "config": config.to_json(), "limit": limit}
        delay_s = drawn.uniform(0.0, longest_s)
        ended = forked.run(run_dir, arguments, Kill(saving=(0, delay_s)))
        saved = (run_dir / "saved-3").exists() if limit >= 0 else not any(run_dir.glob(".writing-*"))
        if not ended.was_killed or saved:
            longest_s = min(longest_s, max(delay_s, 0.01))  # too late: the next ones come sooner
        else:
            kills += 1
            left, step = _left(run_dir, limit)
            found[left] += 1
            lost.append(3 - step)
        shutil.rmtree(run_dir.parent)
    if kills < KILLS:
        raise RuntimeError(f"only {kills} kills met a save")
    told = ", ".join(f"{what}: {count} of {kills}" for what, count in found.most_common())
    return told, f"goes on from {_range(lost)} steps back"


def _left(run_dir: Path, limit: int) -> tuple[str, int]:
    """What a resume finds, and the step that it goes on from, by hand where the newest does not load."""
    if limit < 0:
        checkpoint, skipped = newest_checkpoint(run_dir)
        assert checkpoint is not None
        all_good = not skipped and len(list_checkpoints(run_dir)) >= 1
        return ("the newest loads" if all_good else "one was skipped"), checkpoint.record.step
    for nth, path in enumerate(reversed(_checkpoints(run_dir))):
        if _loads(path):
            return ("the newest loads" if nth == 0 else "the newest fails to load; an older one by hand"), int(
                path.name.split("-")[1]
            )
    return "the newest fails to load; there is no other", 0


def _loads(path: Path) -> bool:
    model = Denoiser(LARGE)
    optimizer = torch.optim.AdamW(model.parameters())
    try:
        load_state(path, model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))
    except Exception:  # whatever it is, the script ends there
        return False
    return True
