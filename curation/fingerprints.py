"""What a picture is known by: sha256 of its bytes, PDQ of its pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pdqhash  # type: ignore[import-untyped]  # it ships no types
from PIL import Image

Rgb = npt.NDArray[np.uint8]

# PDQ reduces to 64x64 by its own filter: from 256 px it gives the same hash within a few of 256 bits, 12 times faster.
PDQ_MAX_SIDE_PX = 256


def sha256(body: bytes) -> str:
    """sha256 of bytes, in hex."""
    return hashlib.sha256(body).hexdigest()


def pdq(rgb: Rgb) -> tuple[str, int]:
    """PDQ hash of uint8 [H, W, 3] as 64 hex digits, and its quality in [0, 100] (below 50: hardly any structure)."""
    bits, quality = pdqhash.compute(_reduced(rgb))
    return _hex(bits), int(quality)


def pdq_orientations(rgb: Rgb) -> tuple[str, ...]:
    """The hashes of all eight orientations, the picture's own first: a mirrored copy is found by one of them."""
    hashes, _ = pdqhash.compute_dihedral(_reduced(rgb))
    return tuple(_hex(bits) for bits in hashes)


def hamming(one: str, other: str) -> int:
    """Differing bits of two hashes in hex; raises ValueError when they are not of one length."""
    if len(one) != len(other):
        raise ValueError(f"hashes of {len(one)} and {len(other)} digits cannot be compared")
    return (int(one, 16) ^ int(other, 16)).bit_count()


def _reduced(rgb: Rgb) -> Rgb:
    height, width = rgb.shape[:2]
    longest = max(height, width)
    if longest <= PDQ_MAX_SIDE_PX:
        return np.ascontiguousarray(rgb)
    size = (
        max(1, round(width * PDQ_MAX_SIDE_PX / longest)),
        max(1, round(height * PDQ_MAX_SIDE_PX / longest)),
    )
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def _hex(bits: npt.NDArray[np.int64]) -> str:
    return np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes().hex()
