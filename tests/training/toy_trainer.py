"""The trainer on toys as a process of its own runs it: told by paths and JSON, and light to import."""

from __future__ import annotations

from pathlib import Path

from curation.shard_reader import DatasetReader
from tests.training.toy_dataset import HashedWords, noon
from training.config import TrainingConfig
from training.loop import train


def train_toys(dataset: str, run_dir: str, config: str) -> None:
    """Train to the end, from wherever the run's directory has got to."""
    with DatasetReader.open(Path(dataset)) as reader:
        train(
            reader,
            TrainingConfig.from_json(config),
            Path(run_dir),
            upstream=(),
            text_encoder=HashedWords(),
            progress=lambda done, loss, rate: None,
            now=noon,
        )
