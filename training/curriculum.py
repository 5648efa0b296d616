"""Curriculum: what can be taken back is fed last, so that a removal redoes little of a run.

A replay begins at the last checkpoint that had not seen the removed slot (training/replay.py). In a uniform order that
is near the start for almost every slot. Under "revocable-last" no slot of a revocable class (policy/revocability.py)
comes up before the last `revocable_steps` of the steps, and the checkpoint at that boundary is one that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policy.provenance import ClassRange, Phase
from policy.revocability import REVOCABLE_FROM
from training.config import TrainingConfig
from training.order import whole_epochs

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A run's phases. `revocable_from`: the first step that may feed revocable slots; `note`: why the order is uniform
    although another one was asked for, or what else of it cannot be had; "" mostly.
    """

    phases: tuple[Phase, ...]
    revocable_from: int = 0
    note: str = ""


def plan(config: TrainingConfig, slots: int, classes: Sequence[ClassRange], *, shard_slots: int = 0) -> Curriculum:
    """The phases of a run over `slots` slots of these classes. Pure: a resume, a replay and a verification agree on it.

    Of the steps, the last `floor(revocable_steps * steps)` (one at least) are the last phase; the positions before it
    are whole epochs of the permanent slots and, so that they end with a step, one more pass over some of them. The last
    phase mixes all revocable slots with at least as many permanent ones (as far as there are), those that were fed
    least; with more of them where revocable slots would otherwise come up more often than in a uniform order.
    shard_slots: what a shard holds, for a configuration with windows. They are cut from a phase's own slots, so a
    window of W shards then lies in up to 2 W of them, and a few more where ranges meet.
    """
    windows = {"shard_slots": shard_slots, "window_shards": config.window_shards}
    if config.curriculum == "uniform":
        return Curriculum(whole_epochs(slots, config.steps, config.batch_size, **windows))

    def uniform(why: str) -> Curriculum:
        return Curriculum(whole_epochs(slots, config.steps, config.batch_size, **windows), note=f"uniform order: {why}")

    permanent = tuple((c.start, c.stop) for c in classes if c.revocability < REVOCABLE_FROM)
    revocable = tuple((c.start, c.stop) for c in classes if c.revocability >= REVOCABLE_FROM)
    last_steps = max(1, int(config.revocable_steps * config.steps + 1e-9))  # 0.15 * 20 is a little less than 3
    boundary = (config.steps - last_steps) * config.batch_size
    if not revocable:
        return uniform("none of the slots is revocable")
    if not permanent:
        return uniform("every slot is revocable, or was sealed before slots had classes: nothing can be fed first")
    if not boundary:
        return uniform(f"{config.steps} steps are too few to feed anything first")

    # Before the boundary: permanent slots alone, and exactly so many positions.
    epochs, rest = divmod(boundary, _size(permanent))
    part, fed_least = _split(permanent, rest)
    phases = [Phase(permanent, epochs)] if epochs else []
    phases += [Phase(part, 1)] if rest else []

    # Behind it: a revocable slot comes up as often as in a uniform order, at most, and beside permanent ones.
    left = config.steps * config.batch_size - boundary
    as_uniform = -(-left * slots // (config.steps * config.batch_size))
    count = _size(revocable)
    beside = min(_size(permanent), max(count, as_uniform - count))
    mixed, _ = _split(fed_least, min(beside, _size(fed_least)))
    mixed += _split(part, beside - _size(mixed))[0]
    mixed = _joined(mixed + revocable)
    phases.append(Phase(mixed, -(-left // _size(mixed))))
    if config.window_shards:
        phases = [Phase(p.ranges, p.epochs, shard_slots, config.window_shards) for p in phases]
    note = "" if beside >= count else f"{count:,} revocable slots, and only {beside:,} others to mix them with"
    return Curriculum(tuple(phases), config.steps - last_steps, note)


def _size(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _split(ranges: Ranges, count: int) -> tuple[Ranges, Ranges]:
    """The first `count` slots, of every range its share, and the others; both without empty ranges.

    Within a class slots lie by sample key, which is a hash, so that the first ones are a fair sample of it.
    """
    size, before, first, others = _size(ranges), 0, [], []
    for start, stop in ranges:
        # What is due up to its end, less what was due up to its start: shares that add up to `count`.
        behind = before + stop - start
        cut = start + count * behind // size - count * before // size
        first.append((start, cut))
        others.append((cut, stop))
        before = behind
    return tuple(r for r in first if r[0] < r[1]), tuple(r for r in others if r[0] < r[1])


def _joined(ranges: Ranges) -> Ranges:
    """The same slots, rising, with ranges that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return tuple(joined)
