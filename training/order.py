"""The order in which slots are fed: a keyed permutation an epoch, computed both ways in constant time, stored nowhere.

Order version 1. A phase with n slots lays out its epochs one after the other; within an epoch the place p holds the
slot P(p), where P permutes 0..n-1. P is an alternating Feistel network of eight rounds on b = max(2, bitlength(n-1))
bits, split in a left half of b // 2 bits and a right half of the rest, walked along its cycles until the value is
below n (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). The domain is smaller than
2n, so less than two passes are needed on average. The round keys are the eight 32-bit words, big-endian, of
sha256("custody-order-1:<key>:<phase>:<epoch>"). No intermediate value leaves 64 unsigned bits, so that
policy/sql/views/0001_permutation.sql computes the same in DuckDB.

Positions count slots from the start of the run; step s holds the positions [s * batch_size, (s + 1) * batch_size).
Epochs are counted over the whole run, phases included; a slot occurs at most once in an epoch, so (epoch, ordinal)
names one exposure, whatever the batch size or the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from policy.errors import InputError
from policy.provenance import NumericContract, Phase, ScheduleEntry, Segment, TrainingRun

ORDER_VERSION = 1
ROUNDS = 8

_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER_1 = np.uint64(0x9E3779B1)  # odd 32-bit constants: 32 x 32 bits never overflow 64
_MULTIPLIER_2 = np.uint64(0x85EBCA6B)
_CHUNK = 1 << 14  # keeps the working arrays in the cache

Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


@lru_cache(maxsize=65536)
def round_keys(key: str, phase: int, epoch: int) -> tuple[int, ...]:
    """The eight 32-bit round keys of one epoch."""
    digest = hashlib.sha256(f"custody-order-{ORDER_VERSION}:{key}:{phase}:{epoch}".encode()).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(ROUNDS))


class Permutation:
    """A keyed bijection of 0..slots-1, or one for each of several epochs at once.

    `epochs` is one epoch for all values, or an array of the values' length: every value is then permuted by its own.
    """

    def __init__(self, slots: int, key: str, *, phase: int = 0, epochs: int | Ints = 0) -> None:
        if not 1 <= slots <= 1 << 62:
            raise InputError(f"an order needs between 1 and 2**62 slots, not {slots}", where="order")
        bits = max(2, (slots - 1).bit_length())
        self.slots = slots
        self._right_bits = np.uint64(bits - bits // 2)
        self._left_mask = np.uint64((1 << bits // 2) - 1)
        self._right_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        # One row a round; one column, or one a value. Epochs repeat in a batch: derive each key once.
        distinct, column = np.unique(np.asarray(epochs, dtype=np.int64).reshape(-1), return_inverse=True)
        table = np.array([round_keys(key, phase, int(epoch)) for epoch in distinct], dtype=np.uint64)
        self._keys: _Words = np.ascontiguousarray(table[column].T)

    def forward(self, places: npt.ArrayLike) -> Ints:
        """Place in the epoch -> slot. [N] int64 in and out."""
        return self._apply(places, range(ROUNDS))

    def inverse(self, slots: npt.ArrayLike) -> Ints:
        """Slot -> place in the epoch. [N] int64 in and out."""
        return self._apply(slots, range(ROUNDS - 1, -1, -1))

    def _apply(self, values: npt.ArrayLike, rounds: Sequence[int]) -> Ints:
        given = np.asarray(values, dtype=np.int64)
        flat = given.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self.slots):
            raise InputError(f"a value outside 0..{self.slots - 1}", where="order")
        result = np.empty(flat.shape, dtype=np.uint64)
        for start in range(0, flat.size, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            keys = self._keys if self._keys.shape[1] == 1 else self._keys[:, chunk]
            result[chunk] = self._walk(flat[chunk].astype(np.uint64), keys, rounds)
        return result.astype(np.int64).reshape(given.shape)

    def _walk(self, values: _Words, keys: _Words, rounds: Sequence[int]) -> _Words:
        values = self._feistel(values, keys, rounds)
        outside = np.flatnonzero(values >= self.slots)
        while outside.size:
            own = keys if keys.shape[1] == 1 else keys[:, outside]
            values[outside] = self._feistel(values[outside], own, rounds)
            outside = outside[values[outside] >= self.slots]
        return values

    def _feistel(self, values: _Words, keys: _Words, rounds: Sequence[int]) -> _Words:
        left, right = values >> self._right_bits, values & self._right_mask
        for i in rounds:  # every round is its own inverse: backwards is the rounds in reverse
            if i % 2 == 0:
                left ^= _mix(right, keys[i]) & self._left_mask
            else:
                right ^= _mix(left, keys[i]) & self._right_mask
        return (left << self._right_bits) | right


def _mix(half: _Words, key: _Words) -> _Words:
    product = (half ^ key) * _MULTIPLIER_1
    product = ((product ^ (product >> _HALF)) & _WORD) * _MULTIPLIER_2
    return product >> _HALF


class Order:
    """Where every slot of a run comes up: positions, epochs and steps, in both directions."""

    def __init__(self, key: str, phases: Sequence[Phase], batch_size: int) -> None:
        if not phases or any(phase.slots < 1 or phase.epochs < 1 for phase in phases):
            raise InputError("an order needs phases with at least one slot and one epoch each", where="order")
        if batch_size < 1:
            raise InputError(f"a batch needs at least one slot, not {batch_size}", where="order")
        self.key, self.phases, self.batch_size = key, tuple(phases), batch_size
        self._first_position = np.cumsum([0, *(p.slots * p.epochs for p in phases)])
        self._first_epoch = np.cumsum([0, *(p.epochs for p in phases)])
        self.positions = int(self._first_position[-1])
        self.epochs = int(self._first_epoch[-1])
        self.steps = -(-self.positions // batch_size)

    @classmethod
    def of(cls, segment: Segment) -> Order:
        """The order that a segment's record fixes; InputError for a version that this build cannot compute."""
        if segment.order_version != ORDER_VERSION:
            raise InputError(f"order version {segment.order_version} is not known here", where="segment")
        return cls(segment.order_key, segment.phases, segment.batch_size)

    def at_step(self, step: int) -> tuple[Ints, Ints]:
        """Ordinals and epochs of one step, [batch_size] each; ordinal -1 past the last position."""
        return self.at(np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64))

    def at(self, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Ordinals and run-wide epochs at positions, [N] each; ordinal -1 past the last position."""
        places = np.asarray(positions, dtype=np.int64)
        ordinals = np.full(places.shape, -1, dtype=np.int64)
        epochs = np.full(places.shape, -1, dtype=np.int64)
        phase_of = np.searchsorted(self._first_position, places, side="right") - 1
        for i in np.unique(phase_of):
            if not 0 <= i < len(self.phases):
                continue
            phase, here = self.phases[i], phase_of == i
            epoch, place = np.divmod(places[here] - self._first_position[i], phase.slots)
            slots = Permutation(phase.slots, self.key, phase=int(i), epochs=epoch).forward(place)
            ordinals[here] = _slot_to_ordinal(phase, slots)
            epochs[here] = self._first_epoch[i] + epoch
        return ordinals, epochs

    def positions_of(self, ordinal: int) -> Ints:
        """Every position at which an ordinal comes up, rising: one inverse an epoch."""
        found = []
        for i, phase in enumerate(self.phases):
            slot = _ordinal_to_slot(phase, ordinal)
            if slot is not None:
                epochs = np.arange(phase.epochs, dtype=np.int64)
                places = Permutation(phase.slots, self.key, phase=i, epochs=epochs).inverse(np.full_like(epochs, slot))
                found.append(self._first_position[i] + epochs * phase.slots + places)
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def epochs_done(self, step: int) -> int:
        """How many epochs are complete once `step` steps are done."""
        position = min(step * self.batch_size, self.positions)
        i = min(int(np.searchsorted(self._first_position, position, side="right")) - 1, len(self.phases) - 1)
        return int(self._first_epoch[i]) + (position - int(self._first_position[i])) // self.phases[i].slots

    def phase_ends(self) -> frozenset[int]:
        """Step counts at which a phase is complete."""
        return frozenset(-(-int(end) // self.batch_size) for end in self._first_position[1:])


def whole_epochs(slots: int, steps: int, batch_size: int) -> tuple[Phase, ...]:
    """One phase over all slots with as many epochs as `steps` need; the last one may stay unfinished."""
    return (Phase(((0, slots),), max(1, -(-steps * batch_size // slots))),)


def effective_segments(run: TrainingRun) -> tuple[tuple[Segment, int | None], ...]:
    """The segments that count, each with the position where the next takes over (None: open).

    Segments are appended, never deleted: one that a later resume went back behind has lost its stretch.
    """
    kept: list[Segment] = []
    for segment in run.segments:
        while kept and kept[-1].first_position >= segment.first_position:
            kept.pop()
        kept.append(segment)
    ends: list[int | None] = [segment.first_position for segment in kept[1:]]
    return tuple(zip(kept, [*ends, None], strict=True))


def open_segment(run: TrainingRun, contract: NumericContract, first_position: int) -> tuple[TrainingRun, Segment]:
    """The segment that goes on at a position, and the run that names it.

    A new one is appended when the numeric contract is another one than there before, or when the run goes back behind
    where a later segment had begun.
    """
    effective = [segment for segment, _ in effective_segments(run)]
    here = [segment for segment in effective if segment.first_position <= first_position][-1]
    if here == effective[-1] and here.contract == contract:
        return run, here
    number = max(segment.segment for segment in run.segments) + 1
    new = replace(here, segment=number, first_position=first_position, contract=contract)
    return replace(run, segments=(*run.segments, new)), new


def is_tainted(run: TrainingRun) -> bool:
    """True when the stretches that made up the run were trained under different numeric contracts."""
    return len({segment.contract for segment, _ in effective_segments(run)}) > 1


def exposure(run: TrainingRun, schedule: Sequence[ScheduleEntry], ordinal: int, upto_step: int) -> tuple[int, ...]:
    """The steps below `upto_step` (a checkpoint's step) at which a run has fed an ordinal, rising. Pure."""
    empty_from = min((e.first_empty_step for e in schedule if e.ordinal == ordinal), default=upto_step)
    limit = min(upto_step, empty_from)
    steps: list[int] = []
    for segment, end in effective_segments(run):
        positions = Order.of(segment).positions_of(ordinal)
        positions = positions[positions >= segment.first_position]
        if end is not None:
            positions = positions[positions < end]
        steps.extend(int(step) for step in positions // segment.batch_size if step < limit)
    return tuple(steps)


def _slot_to_ordinal(phase: Phase, slots: Ints) -> Ints:
    firsts = np.cumsum([0, *(stop - start for start, stop in phase.ranges)])
    part = np.searchsorted(firsts, slots, side="right") - 1
    starts = np.array([start for start, _ in phase.ranges], dtype=np.int64)
    return np.asarray(starts[part] + slots - firsts[part], dtype=np.int64)


def _ordinal_to_slot(phase: Phase, ordinal: int) -> int | None:
    first = 0
    for start, stop in phase.ranges:
        if start <= ordinal < stop:
            return first + ordinal - start
        first += stop - start
    return None
