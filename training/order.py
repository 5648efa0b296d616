"""The order in which slots are fed: a keyed permutation an epoch, computed both ways in constant time, stored nowhere.

Order version 1. A phase with n slots lays out its epochs one after the other; within an epoch the place p holds the
slot P(p), where P permutes 0..n-1. P is an alternating Feistel network of eight rounds on b = max(2, bitlength(n-1))
bits, split in a left half of b // 2 bits and a right half of the rest, walked along its cycles until the value is
below n (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). The domain is smaller than
2n, so less than two passes are needed on average. The round keys are the eight 32-bit words, big-endian, of
sha256("custody-order-1:<key>:<phase>:<epoch>"). No intermediate value leaves 64 unsigned bits, so that
policy/sql/views/0001_permutation.sql computes the same in DuckDB.

Order version 2 adds windows, for shards that are fetched: a phase's slots are cut into shards of B slots (the last
one may be short). An epoch permutes the shards, then deals them out in windows of W shards, and permutes the slots of
each window: at any time W shards hold all that is read. Both permutations are those of version 1, under the keys
sha256("custody-order-2:<key>:<phase>:<epoch>:shards") and sha256("custody-order-2:<key>:<phase>:<epoch>:<window>").
All windows hold W * B slots but the last one and the one with the short shard, so a place's window is one division,
and the order stays O(1) both ways. A phase without windows is the same in both versions.

Positions count slots from the start of the run; step s holds the positions [s * batch_size, (s + 1) * batch_size).
Epochs are counted over the whole run, phases included; a slot occurs at most once in an epoch, so (epoch, ordinal)
names one exposure, whatever the batch size or the number of workers and ranks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from policy.errors import InputError
from policy.provenance import NumericContract, Phase, ScheduleEntry, Segment, TrainingRun

ORDER_VERSION = 1
WINDOWED_VERSION = 2
ROUNDS = 8

_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER_1 = np.uint64(0x9E3779B1)  # odd 32-bit constants: 32 x 32 bits never overflow 64
_MULTIPLIER_2 = np.uint64(0x85EBCA6B)
_CHUNK = 1 << 14  # keeps the working arrays in the cache
_AHEAD = 4096  # positions that are computed together where steps are asked for one after the other

Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


@lru_cache(maxsize=65536)
def round_keys(key: str, phase: int, epoch: int) -> tuple[int, ...]:
    """The eight 32-bit round keys of one epoch."""
    return _words_of(f"custody-order-{ORDER_VERSION}:{key}:{phase}:{epoch}")


@lru_cache(maxsize=65536)
def window_keys(key: str, phase: int, epoch: int, window: int | None) -> tuple[int, ...]:
    """The round keys of one window's slots in an epoch; None: those of the shards."""
    part = "shards" if window is None else window
    return _words_of(f"custody-order-{WINDOWED_VERSION}:{key}:{phase}:{epoch}:{part}")


def _words_of(text: str) -> tuple[int, ...]:
    digest = hashlib.sha256(text.encode()).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(ROUNDS))


class Permutation:
    """A keyed bijection of 0..slots-1, or one for each of several epochs at once.

    `epochs` is one epoch for all values, or an array of the values' length: every value is then permuted by its own.
    """

    def __init__(self, slots: int, key: str, *, phase: int = 0, epochs: int | Ints = 0) -> None:
        # Epochs repeat in a batch: derive each key once.
        distinct, column = _distinct(epochs)
        keys = [round_keys(key, phase, epoch) for epoch in distinct.tolist()]
        self._set(slots, np.array(keys, dtype=np.uint64), column)

    @classmethod
    def with_keys(cls, slots: int, keys: _Words, column: Ints | None = None) -> Self:
        """The bijection under given round keys [K, 8]: the first of them, or the one that each value's column names."""
        made = cls.__new__(cls)
        made._set(slots, keys, np.zeros(1, dtype=np.int64) if column is None else column)
        return made

    def _set(self, slots: int, keys: _Words, column: Ints) -> None:
        if not 1 <= slots <= 1 << 62:
            raise InputError(f"an order needs between 1 and 2**62 slots, not {slots}", where="order")
        bits = max(2, (slots - 1).bit_length())
        self.slots = slots
        self._right_bits = np.uint64(bits - bits // 2)
        self._left_mask = np.uint64((1 << bits // 2) - 1)
        self._right_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys, self._column = keys.T, column  # a row a round

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
            result[chunk] = self._walk(flat[chunk].astype(np.uint64), self._keys_of(chunk), rounds)
        return result.astype(np.int64).reshape(given.shape)

    def _keys_of(self, chunk: slice) -> _Words:
        """The keys of some values, a row a round: one column where they share theirs, as neighbours mostly do."""
        column = self._column if len(self._column) == 1 else self._column[chunk]
        if (column == column[0]).all():
            return self._keys[:, int(column[0]), None]
        return self._keys[:, column]

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
    product ^= product >> _HALF
    product &= _WORD
    product *= _MULTIPLIER_2
    product >>= _HALF
    return product


class WindowedPermutation:
    """Order version 2 within an epoch: shards permuted, slots mixed within windows of `window_shards` of them.

    `epochs` as in Permutation. The window of a place, and the place of a shard, follow by arithmetic.
    """

    def __init__(
        self, slots: int, shard_slots: int, window_shards: int, key: str, *, phase: int = 0, epochs: int | Ints = 0
    ) -> None:
        if shard_slots < 1 or window_shards < 1:
            raise InputError(
                f"a window needs at least one shard of at least one slot, not {window_shards} of {shard_slots}",
                where="order",
            )
        self.slots, self.shards = slots, -(-slots // shard_slots)
        self._shard_slots, self._window_shards, self._key, self._phase = shard_slots, window_shards, key, phase
        self._missing = self.shards * shard_slots - slots  # what the last shard is short of
        self._epochs, self._column = _distinct(epochs)
        keys = [window_keys(key, phase, epoch, None) for epoch in self._epochs.tolist()]
        self._table = np.array(keys, dtype=np.uint64)
        # Where the last shard comes up in each epoch: from its window on, places are early by what it is short of.
        self._short_at = np.array([_place_of_last(self.shards, own) for own in keys], dtype=np.int64)

    def forward(self, places: npt.ArrayLike) -> Ints:
        """Place in the epoch -> slot. [N] int64 in and out."""
        return self._apply(places, self._slots_at)

    def inverse(self, slots: npt.ArrayLike) -> Ints:
        """Slot -> place in the epoch. [N] int64 in and out."""
        return self._apply(slots, self._places_of)

    def _apply(self, values: npt.ArrayLike, direction: Callable[[Ints, Ints], Ints]) -> Ints:
        given = np.asarray(values, dtype=np.int64)
        flat = given.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self.slots):
            raise InputError(f"a value outside 0..{self.slots - 1}", where="order")
        column = self._column if len(self._column) > 1 else np.zeros(flat.shape, dtype=np.int64)
        result = np.empty(flat.shape, dtype=np.int64)
        for start in range(0, flat.size, _CHUNK):  # neighbours mostly share a window, and then a key
            chunk = slice(start, start + _CHUNK)
            result[chunk] = direction(flat[chunk], column[chunk])
        return result.reshape(given.shape)

    def _slots_at(self, place: Ints, column: Ints) -> Ints:
        size, short_at = self._shard_slots * self._window_shards, self._short_at[column]
        short_window = short_at // self._window_shards
        late = place >= (short_window + 1) * size - self._missing
        window = (place + late * self._missing) // size
        is_short = window == short_window
        local = place - window * size + (window > short_window) * self._missing
        at = self._mixed(local, window, is_short, column, inverse=False)
        # Behind the short shard its missing slots are stepped over.
        beyond = (short_at - window * self._window_shards + 1) * self._shard_slots - self._missing
        at += (is_short & (at >= beyond)) * self._missing
        in_window, rest = np.divmod(at, self._shard_slots)
        shard = self._shuffled(column).forward(window * self._window_shards + in_window)
        return np.asarray(shard * self._shard_slots + rest, dtype=np.int64)

    def _places_of(self, slot: Ints, column: Ints) -> Ints:
        size, short_at = self._shard_slots * self._window_shards, self._short_at[column]
        short_window = short_at // self._window_shards
        shard, rest = np.divmod(slot, self._shard_slots)
        shard_at = self._shuffled(column).inverse(shard)
        window = shard_at // self._window_shards
        is_short = window == short_window
        at = (shard_at - window * self._window_shards) * self._shard_slots + rest
        at -= (is_short & (shard_at > short_at)) * self._missing
        local = self._mixed(at, window, is_short, column, inverse=True)
        return np.asarray(window * size - (window > short_window) * self._missing + local, dtype=np.int64)

    def _shuffled(self, column: Ints) -> Permutation:
        return Permutation.with_keys(self.shards, self._table, column)

    def _mixed(
        self, values: Ints, window: Ints, is_short: npt.NDArray[np.bool_], column: Ints, *, inverse: bool
    ) -> Ints:
        """Values permuted within their windows, each by its window's key; windows of one size together."""
        shards = np.minimum(self._window_shards, self.shards - window * self._window_shards)
        sizes = shards * self._shard_slots - is_short * self._missing
        names = window * len(self._epochs) + column
        both, row = _distinct(names[:1] if names.size and (names == names[0]).all() else names)
        epochs = self._epochs.tolist()
        table = np.array(
            [
                window_keys(self._key, self._phase, epochs[name % len(epochs)], name // len(epochs))
                for name in both.tolist()
            ],
            dtype=np.uint64,
        )
        result = np.empty_like(values)
        for size in np.unique(sizes).tolist():
            here = sizes == size
            permutation = Permutation.with_keys(size, table, row[here] if len(row) > 1 else None)
            result[here] = permutation.inverse(values[here]) if inverse else permutation.forward(values[here])
        return result


@lru_cache(maxsize=65536)
def _place_of_last(shards: int, keys: tuple[int, ...]) -> int:
    return int(Permutation.with_keys(shards, np.array([keys], dtype=np.uint64)).inverse([shards - 1])[0])


def _distinct(epochs: int | Ints) -> tuple[Ints, Ints]:
    """The distinct epochs, rising, and for each value the number of its own."""
    values = np.asarray(epochs, dtype=np.int64).reshape(-1)
    if values.size and (values[1:] >= values[:-1]).all():  # as those of positions mostly are: nothing to sort
        new = np.concatenate([[True], values[1:] != values[:-1]])
        return values[new], np.cumsum(new) - 1
    distinct, column = np.unique(values, return_inverse=True)
    return distinct, column.astype(np.int64, copy=False)


class _Layout:
    """A phase in arrays: which ordinals its slots are, and how they are permuted."""

    def __init__(self, phase: Phase, number: int, key: str) -> None:
        self.phase, self._number, self._key = phase, number, key
        ranges = np.array([r for r in phase.ranges if r[0] < r[1]], dtype=np.int64).reshape(-1, 2)
        self._starts = ranges[:, 0]
        self._firsts = np.cumsum([0, *(ranges[:, 1] - ranges[:, 0]).tolist()], dtype=np.int64)
        self.slots = int(self._firsts[-1])
        # Ranges may be given in any order; ordinals are looked up in a sorted copy.
        self._by_start = np.argsort(self._starts)
        self._sorted_starts, self._sorted_stops = ranges[self._by_start].T
        if (self._sorted_starts[1:] < self._sorted_stops[:-1]).any():
            raise InputError(f"the ranges of phase {number} overlap: a slot would be fed twice an epoch", where="order")

    def permutation(self, epochs: int | Ints) -> Permutation | WindowedPermutation:
        if not self.phase.window_shards:
            return Permutation(self.slots, self._key, phase=self._number, epochs=epochs)
        windows = self.phase.shard_slots, self.phase.window_shards
        return WindowedPermutation(self.slots, *windows, self._key, phase=self._number, epochs=epochs)

    def ordinals(self, slots: Ints) -> Ints:
        if len(self._starts) == 1:
            return np.asarray(slots + self._starts[0], dtype=np.int64)
        part = np.searchsorted(self._firsts, slots, side="right") - 1
        return np.asarray(self._starts[part] + slots - self._firsts[part], dtype=np.int64)

    def slots_of(self, ordinals: Ints) -> Ints:
        """The slots that ordinals have in this phase; -1 for those it does not feed."""
        near = np.searchsorted(self._sorted_starts, ordinals, side="right") - 1
        inside = (near >= 0) & (ordinals < self._sorted_stops[near])
        part = self._by_start[near]
        return np.asarray(np.where(inside, self._firsts[part] + ordinals - self._starts[part], -1), dtype=np.int64)


class Order:
    """Where every slot of a run comes up: positions, epochs and steps, in both directions."""

    def __init__(self, key: str, phases: Sequence[Phase], batch_size: int) -> None:
        if not phases or any(phase.slots < 1 or phase.epochs < 1 for phase in phases):
            raise InputError("an order needs phases with at least one slot and one epoch each", where="order")
        if any(phase.window_shards < 0 or (phase.window_shards and phase.shard_slots < 1) for phase in phases):
            raise InputError("a window needs at least one shard of at least one slot", where="order")
        if batch_size < 1:
            raise InputError(f"a batch needs at least one slot, not {batch_size}", where="order")
        self.key, self.phases, self.batch_size = key, tuple(phases), batch_size
        self._layouts = tuple(_Layout(phase, number, key) for number, phase in enumerate(phases))
        self._first_position = np.cumsum([0, *(p.slots * p.epochs for p in phases)])
        self._first_epoch = np.cumsum([0, *(p.epochs for p in phases)])
        self.positions = int(self._first_position[-1])
        self.epochs = int(self._first_epoch[-1])
        self.steps = -(-self.positions // batch_size)
        self._steps_at_once = max(1, _AHEAD // batch_size)
        # (which steps, their ordinals, epochs); replaced as a whole, so that threads may share it.
        self._at_once: tuple[int, Ints, Ints] = (-1, np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def of(cls, segment: Segment) -> Order:
        """The order that a segment's record fixes; InputError for a version that this build cannot compute."""
        if segment.order_version not in (ORDER_VERSION, WINDOWED_VERSION):
            raise InputError(f"order version {segment.order_version} is not known here", where="segment")
        if order_version(segment.phases) > segment.order_version:
            raise InputError("a phase has windows, which order version 1 does not know", where="segment")
        return cls(segment.order_key, segment.phases, segment.batch_size)

    def at_step(self, step: int) -> tuple[Ints, Ints]:
        """Ordinals and epochs of one step, [batch_size] each; ordinal -1 past the last position."""
        # A small array costs as much as a large one, some tenths of a millisecond: the steps around come along.
        chunk, row = divmod(step, self._steps_at_once)
        held = self._at_once
        if held[0] != chunk:
            first = chunk * self._steps_at_once * self.batch_size
            positions = np.arange(first, first + self._steps_at_once * self.batch_size, dtype=np.int64)
            ordinals, epochs = self.at(positions.reshape(self._steps_at_once, self.batch_size))
            self._at_once = held = (chunk, ordinals, epochs)
        return held[1][row].copy(), held[2][row].copy()

    def at(self, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Ordinals and run-wide epochs at positions, [N] each; ordinal -1 past the last position."""
        places = np.asarray(positions, dtype=np.int64)
        ordinals = np.full(places.shape, -1, dtype=np.int64)
        epochs = np.full(places.shape, -1, dtype=np.int64)
        phase_of = np.searchsorted(self._first_position, places, side="right") - 1
        first, last = (max(0, int(phase_of.min())), int(phase_of.max())) if places.size else (0, -1)
        for i, layout in enumerate(self._layouts[first : last + 1], first):
            here = phase_of == i
            epoch, place = np.divmod(places[here] - self._first_position[i], layout.slots)
            ordinals[here] = layout.ordinals(layout.permutation(epoch).forward(place))
            epochs[here] = self._first_epoch[i] + epoch
        return ordinals, epochs

    def positions_of(self, ordinal: int) -> Ints:
        """Every position at which an ordinal comes up, rising: one inverse an epoch."""
        return self.positions_of_each(np.array([ordinal]))[1]

    def positions_of_each(self, ordinals: npt.ArrayLike, end: int | None = None) -> tuple[Ints, Ints]:
        """Every position below `end` (None: all) at which any of the ordinals [N] comes up.

        Two arrays: which of the N it is, rising, and the position, rising for each. Epochs that begin at or behind
        `end` cost nothing.
        """
        given = np.asarray(ordinals, dtype=np.int64).reshape(-1)
        end = self.positions if end is None else min(end, self.positions)
        which: list[Ints] = []
        positions: list[Ints] = []
        for i, layout in enumerate(self._layouts):
            first = int(self._first_position[i])
            epochs_begun = min(layout.phase.epochs, -(-(end - first) // layout.slots))
            slots = layout.slots_of(given)
            fed = np.flatnonzero(slots >= 0)
            if epochs_begun < 1 or not fed.size:
                continue
            epochs = np.tile(np.arange(epochs_begun, dtype=np.int64), fed.size)
            places = layout.permutation(epochs).inverse(np.repeat(slots[fed], epochs_begun))
            found = first + epochs * layout.slots + places
            below = found < end
            which.append(np.repeat(fed, epochs_begun)[below])
            positions.append(found[below])
        if not which:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        if len(which) == 1:
            return which[0], positions[0]
        of, at = np.concatenate(which), np.concatenate(positions)
        rising = np.argsort(of, kind="stable")  # phases were appended in the order of their positions
        return of[rising], at[rising]

    def epochs_done(self, step: int) -> int:
        """How many epochs are complete once `step` steps are done."""
        position = min(step * self.batch_size, self.positions)
        i = min(int(np.searchsorted(self._first_position, position, side="right")) - 1, len(self.phases) - 1)
        return int(self._first_epoch[i]) + (position - int(self._first_position[i])) // self.phases[i].slots

    def phase_ends(self) -> frozenset[int]:
        """Step counts at which a phase is complete."""
        return frozenset(-(-int(end) // self.batch_size) for end in self._first_position[1:])


def order_version(phases: Iterable[Phase]) -> int:
    """The version that a segment with these phases has to name: 2 where there are windows, else 1."""
    return WINDOWED_VERSION if any(phase.window_shards for phase in phases) else ORDER_VERSION


def order_key(kind: str, seed: int) -> str:
    """The key of a run's order, from its seed alone: one that followed from a root or a salt would not outlive them.

    InputError: a kind of run that this build does not know.
    """
    if kind == "diffusion":
        return hashlib.blake2b(f"custody-order:{seed}".encode(), digest_size=16).hexdigest()
    if kind == "clip":
        return hashlib.sha256(f"custody-clip-order:{seed}".encode()).hexdigest()
    if kind == "unlearning":
        return hashlib.blake2b(f"custody-unlearning-order:{seed}".encode(), digest_size=16).hexdigest()
    raise InputError(f"how a run of kind {kind!r} is ordered is not known here", where="run", remedy="Update Custody")


def whole_epochs(
    slots: int, steps: int, batch_size: int, *, shard_slots: int = 0, window_shards: int = 0
) -> tuple[Phase, ...]:
    """One phase over all slots with as many epochs as `steps` need; the last one may stay unfinished."""
    epochs = max(1, -(-steps * batch_size // slots))
    return (Phase(((0, slots),), epochs, shard_slots if window_shards else 0, window_shards),)


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


def is_tainted(run: TrainingRun, segments: tuple[Segment, ...] | None = None) -> bool:
    """True when the stretches that made up the run were trained under different numeric contracts.

    segments: those alone that a checkpoint had behind it; None: all.
    """
    so_far = run if segments is None else replace(run, segments=segments)
    return len({segment.contract for segment, _ in effective_segments(so_far)}) > 1


def exposure(run: TrainingRun, schedule: Sequence[ScheduleEntry], ordinal: int, upto_step: int) -> tuple[int, ...]:
    """The steps below `upto_step` (a checkpoint's step) at which a run has fed an ordinal, rising. Pure."""
    empty_from = min((e.first_empty_step for e in schedule if e.ordinal == ordinal), default=upto_step)
    _, steps = Exposures(run).steps_of([ordinal], min(upto_step, empty_from))
    return tuple(steps.tolist())


class Exposures:
    """At which steps a run's order feeds which slots: the orders of its segments, made once, asked often.

    upto_segment: of the segments up to this one alone, as they counted for a checkpoint of that segment.
    """

    def __init__(self, run: TrainingRun, upto_segment: int | None = None) -> None:
        segments = tuple(s for s in run.segments if upto_segment is None or s.segment <= upto_segment)
        effective = effective_segments(replace(run, segments=segments))
        self._stretches: list[tuple[Order, int, int | None]] = []
        # Segments that only differ in their numeric contract go on with one order.
        for _, group in itertools.groupby(effective, key=lambda stretch: _order_of(stretch[0])):
            (segment, end), *more = group
            self._stretches.append((Order.of(segment), segment.first_position, more[-1][1] if more else end))

    def steps_of(self, ordinals: npt.ArrayLike, upto_step: int) -> tuple[Ints, Ints]:
        """The steps below `upto_step` at which any of the ordinals [N] comes up, if no slot were empty.

        Two arrays: which of the N it is, rising, and the step, rising for each.
        """
        given = np.asarray(ordinals, dtype=np.int64).reshape(-1)
        found = []
        for order, first, end in self._stretches:
            last = upto_step * order.batch_size
            which, positions = order.positions_of_each(given, last if end is None else min(end, last))
            inside = positions >= first
            found.append((which[inside], positions[inside] // order.batch_size))
        if len(found) == 1:
            return found[0]
        which = np.concatenate([w for w, _ in found]) if found else np.empty(0, dtype=np.int64)
        steps = np.concatenate([s for _, s in found]) if found else np.empty(0, dtype=np.int64)
        rising = np.argsort(which, kind="stable")
        return which[rising], steps[rising]

    def epochs_begun(self, upto_step: int) -> int:
        """How many epochs have begun below a step, at most; 1 at least: what one slot of `steps_of` costs."""
        return max([1, *(order.epochs_done(upto_step) + 1 for order, _, _ in self._stretches)])

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ordinals that come up at all, as ranges [start, stop), rising."""
        merged: list[tuple[int, int]] = []
        phases = (phase for order, _, _ in self._stretches for phase in order.phases)
        for start, stop in sorted(r for phase in phases for r in phase.ranges if r[0] < r[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return tuple(merged)


def _order_of(segment: Segment) -> tuple[object, ...]:
    return segment.dataset_root, segment.order_version, segment.order_key, segment.batch_size, segment.phases
