"""What a removal would cost: the share of a run's steps that a replay trains again, known before the first step.

It follows from the order (where a slot comes up first) and from which checkpoints retention keeps (the first of all,
the first at or after every end of an epoch or phase, and the last ones). It counts a removal that arrives once the run
is complete, alone; one that comes earlier redoes less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policy.provenance import ClassRange
from policy.revocability import REVOCABLE_FROM
from training.order import Ints, Order

# Slots whose first position is looked up: all of them up to this many, else as many of every class as its share.
MOST_SLOTS = 10_000


@dataclass(frozen=True, slots=True)
class Redo:
    """What removing one slot of a group redoes. `asked`: how many of the group's `slots` that was computed from.

    `mean`, `worst`: as shares of the run's steps.
    """

    slots: int
    asked: int
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class ExpectedRedo:
    """The redo of a removal of any slot, and of a revocable one (None: there is none)."""

    steps: int
    of_any: Redo
    of_revocable: Redo | None


def expected_redo(
    order: Order,
    steps: int,
    classes: Sequence[ClassRange],
    *,
    checkpoint_every: int,
    keep_last: int,
    most_slots: int = MOST_SLOTS,
) -> ExpectedRedo:
    """What a removal would redo of an undisturbed run of `steps` steps with this order."""
    kept = kept_steps(order, steps, checkpoint_every=checkpoint_every, keep_last=keep_last)
    total = sum(each.stop - each.start for each in classes)
    groups: list[tuple[ClassRange, Ints]] = []
    for each in classes:
        size = each.stop - each.start
        asked = size if total <= most_slots else max(1, size * most_slots // total)
        ordinals = each.start + (np.arange(asked, dtype=np.int64) * size) // asked
        groups.append((each, redone_steps(order, steps, kept, ordinals)))
    revocable = [group for group in groups if group[0].revocability >= REVOCABLE_FROM]
    return ExpectedRedo(steps, _redo(groups, steps), _redo(revocable, steps) if revocable else None)


def _redo(groups: Sequence[tuple[ClassRange, Ints]], steps: int) -> Redo:
    """Over several classes, each with as much weight as it has slots."""
    slots = sum(each.stop - each.start for each, _ in groups)
    mean = sum(float(redone.mean()) * (each.stop - each.start) for each, redone in groups) / slots
    worst = max(int(redone.max()) for _, redone in groups)
    return Redo(slots, sum(len(redone) for _, redone in groups), mean / steps, worst / steps)


def redone_steps(order: Order, steps: int, kept: Ints, ordinals: npt.ArrayLike) -> Ints:
    """How many steps a replay without each of the ordinals [N] trains, given the steps of the checkpoints kept; [N].

    0 for a slot that the run never feeds.
    """
    first = first_steps(order, ordinals)
    bases = np.concatenate([[0], np.sort(kept)])
    base = bases[np.searchsorted(bases, first, side="right") - 1]
    return np.asarray(np.where(first < steps, steps - base, 0), dtype=np.int64)


def first_steps(order: Order, ordinals: npt.ArrayLike) -> Ints:
    """The step at which each of the ordinals [N] comes up first; `order.steps` for those that never do. [N]."""
    given = np.asarray(ordinals, dtype=np.int64).reshape(-1)
    found = np.full(given.shape, order.steps, dtype=np.int64)
    # A slot comes up in the first epoch of the first phase that has it: one inverse each.
    missing, begin = np.arange(len(given)), 0
    for phase in order.phases:
        which, positions = order.positions_of_each(given[missing], begin + phase.slots)
        found[missing[which]] = positions // order.batch_size
        missing = np.delete(missing, which)
        begin += phase.slots * phase.epochs
    return found


def kept_steps(order: Order, steps: int, *, checkpoint_every: int, keep_last: int) -> Ints:
    """The steps of the checkpoints that an undisturbed run leaves behind, rising (training/checkpoint.py)."""
    every = range(checkpoint_every, steps + 1, checkpoint_every)
    saved = np.unique([*every, *(end for end in order.phase_ends() if end <= steps), steps])
    # The first at or after every end of an epoch, and the first of all, are the bases of replays.
    ends = np.unique([order.epochs_done(int(step)) for step in saved], return_index=True)[1]
    return np.asarray(np.union1d(saved[ends], saved[-keep_last:]), dtype=np.int64)
