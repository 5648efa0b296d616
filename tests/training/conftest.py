"""The toy dataset and text encoder that the tests of training share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from curation.shard_reader import DatasetReader
from tests.training.toy_dataset import HashedWords, seal


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed dataset of ten slots."""
    return seal(tmp_path_factory.mktemp("dataset") / "toys")


@pytest.fixture
def reader(dataset_dir: Path) -> Iterator[DatasetReader]:
    with DatasetReader.open(dataset_dir) as opened:
        yield opened


@pytest.fixture
def encoder() -> HashedWords:
    return HashedWords()
