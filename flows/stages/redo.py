"""What removals from a run will cost, told before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curation.shard_reader import DatasetReader
from policy.revocability import classes_of

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.redo import ExpectedRedo


def foretold(reader: DatasetReader, config: TrainingConfig) -> tuple[ExpectedRedo, str]:
    """What a removal from a diffusion run of this configuration will redo, and what its curriculum cannot have."""
    from training.curriculum import plan
    from training.order import Order, order_key
    from training.redo import expected_redo

    classes = classes_of(reader.manifest)
    curriculum = plan(config, reader.slots, classes, shard_slots=reader.generation.shards[0].slots)
    order = Order(order_key("diffusion", config.seed), curriculum.phases, config.batch_size)
    redo = expected_redo(
        order, config.steps, classes, checkpoint_every=config.checkpoint_every, keep_last=config.keep_checkpoints
    )
    return redo, curriculum.note


def in_words(redo: ExpectedRedo) -> str:
    """In a sentence, such as "… trains again 81.0% of the 1,500 steps on average, 100% at most; none is revocable"."""
    said = (
        f"A replay without one slot trains again {redo.of_any.mean:.1%} of the {redo.steps:,} steps on average, "
        f"{redo.of_any.worst:.0%} at most"
    )
    if redo.of_revocable is None:
        return f"{said}; none is revocable"
    if redo.of_revocable.slots == redo.of_any.slots:
        return f"{said}; all are revocable"
    own = f"{redo.of_revocable.mean:.1%} on average, {redo.of_revocable.worst:.0%} at most"
    return f"{said}; without one of the {redo.of_revocable.slots:,} revocable ones {own}"
