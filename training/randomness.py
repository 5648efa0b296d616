"""Random numbers that belong to a sample, not to a stream.

Every draw is a pure function of (run seed, epoch, ordinal, purpose): neither the batch around a sample, the batch
size, the number of workers nor what was drawn before can change it. The generator is counter-based: SplitMix64
(Steele, Lea and Flood 2014) read at arbitrary counters, started at a hash of the four. Vectorised over samples.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def sample_keys(seed: int, epochs: npt.ArrayLike, ordinals: npt.ArrayLike, purpose: str) -> Words:
    """One 64-bit key a sample, [N]; `purpose` ("noise", "timestep", …) separates the draws of one sample."""
    keys = np.asarray(epochs, dtype=np.int64).astype(np.uint64) * _GOLDEN + _purpose_key(seed, purpose)
    return _mix(_mix(keys) + np.asarray(ordinals, dtype=np.int64).astype(np.uint64) * _GOLDEN)


def keys_of_purposes(
    seed: int, epochs: Ints, ordinals: Ints, purposes: tuple[str, ...], timeless: tuple[str, ...] = ()
) -> Words:
    """`sample_keys` of several purposes, [purposes, N], at once: of a small batch the calls are what it costs.

    timeless: purposes of which every epoch draws the same, as if it were epoch 0.
    """
    start, step = _purpose_keys(seed, purposes, timeless)
    keys = epochs.astype(np.uint64) * step + start
    return _mix(_mix(keys) + ordinals.astype(np.uint64) * _GOLDEN)


def words(keys: Words, count: int) -> Words:
    """`count` 64-bit words a key, [N, count]."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(keys[:, None] + counters[None, :])


def uniforms(keys: Words, count: int) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1) with 53 bits, [N, count]."""
    return np.asarray((words(keys, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def normals(keys: Words, count: int) -> npt.NDArray[np.float32]:
    """Standard normal, [N, count] float32: Box-Muller, both halves of each word, so up to 6.7 sigma."""
    raw = words(keys, (count + 1) // 2)
    high = ((raw >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    low = (raw & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2.0**-32 * 2 * np.pi)
    radius = np.sqrt(np.maximum(np.float32(-2.0) * np.log(high), np.float32(0.0)))
    result = np.empty((len(keys), 2 * raw.shape[1]), dtype=np.float32)
    result[:, 0::2] = radius * np.cos(low)
    result[:, 1::2] = radius * np.sin(low)
    return result[:, :count]


@cache
def _purpose_key(seed: int, purpose: str) -> np.uint64:
    digest = hashlib.blake2b(f"custody-draw-1:{seed}:{purpose}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))


@cache
def _purpose_keys(seed: int, purposes: tuple[str, ...], timeless: tuple[str, ...]) -> tuple[Words, Words]:
    """Where each purpose's keys start, and how far it is from an epoch to the next, [purposes, 1] each."""
    starts = [_purpose_key(seed, purpose) for purpose in purposes]
    steps = [np.uint64(0) if purpose in timeless else _GOLDEN for purpose in purposes]
    return np.array(starts, np.uint64)[:, None], np.array(steps, np.uint64)[:, None]


def _mix(z: Words) -> Words:
    # Array arithmetic on uint64 wraps without a warning; that is what SplitMix64 wants.
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
