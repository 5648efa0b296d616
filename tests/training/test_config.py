"""A diffusion run's settings: what decides the weights is in their digest, and only that."""

import pytest

from policy.errors import ConfigurationError
from training.config import TrainingConfig, preset


def test_runs_of_builds_without_windows_keep_their_digest():
    """A run directory is named by the digest: it must not change where no windows are asked for."""
    assert preset("tiny").digest == "ea95014dc5a39606565ec274a3dd0dd1"
    assert preset("tiny", window_shards=3).digest != preset("tiny").digest


def test_what_only_says_where_and_how_often_is_not_in_the_digest():
    """Threads, devices, intervals and workers may change between a run and its resume."""
    changed = preset("tiny", threads=2, checkpoint_every=9, keep_checkpoints=7, loader_workers=3)
    assert changed.digest == preset("tiny").digest
    assert preset("tiny", seed=1).digest != preset("tiny").digest


def test_a_config_comes_back_from_its_json_and_impossible_ones_are_refused():
    """What a checkpoint keeps is what was trained with; an older one has no windows."""
    config = preset("tiny", window_shards=3)
    assert TrainingConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigurationError, match="window_shards has an impossible value"):
        preset("tiny", window_shards=-1)
    with pytest.raises(ConfigurationError, match="not a training config"):
        TrainingConfig.from_json("{}")
