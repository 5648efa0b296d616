"""A home with a sealed dataset and a small model trained on it by the real loop, without a crawl and in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flows.home import Home, utc_now
from flows.settings import DEFAULT_TEXT
from flows.stages.seal import seal
from flows.stages.train import open_dataset, register_run
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import NAMES, HashedWords, flat_picture
from training.config import preset
from training.loop import train

DATASET, RUN, SLOTS, STEPS, WITHHELD = "apples", "diffusion-apples-0", 12, 12, 3


def trained_home(path: Path, picture: Callable[[int], bytes] = flat_picture) -> Home:
    """12 slots in three shards, 12 steps of 4 in windows of two shards; stopped after 6 steps, and slot 3 is withheld
    from then on.
    """
    settings = DEFAULT_TEXT.replace("shard_slots = 1000", "shard_slots = 5")
    home = sealable_home(path, SLOTS, picture, alt=_name_of, settings_text=settings)
    seal(home, name=DATASET)
    for stop_after, withheld in ((6, ()), (STEPS, (WITHHELD,))):
        with open_dataset(home, DATASET) as reader:
            train(
                reader,
                preset("tiny", checkpoint_every=2, window_shards=2),
                home.runs_path / RUN,
                upstream=(),
                text_encoder=HashedWords(),
                progress=lambda step, loss, speed: None,
                now=utc_now,
                withheld=withheld,
                stop_after=stop_after,
            )
        register_run(home, home.runs_path / RUN)
    return home


def _name_of(n: int) -> str:
    return f"{NAMES[n % len(NAMES)]} no. {n}"
