"""Digests and perceptual hashes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pdqhash  # type: ignore[import-untyped]  # it ships no types
import pytest
from PIL import Image

from curation.fingerprints import hamming, pdq, pdq_orientations, sha256

Rgb = npt.NDArray[np.uint8]


def picture(side: int = 256) -> Rgb:
    """Blotches: enough structure for PDQ to be sure."""
    blocks = np.random.default_rng(3).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC))


def clouds(width: int, height: int, seed: int = 0) -> Rgb:
    """Structure of every size, less of it the smaller, as photographs have it."""
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (3, 7, 15, 31, 63, 127):
        blocks = Image.fromarray(rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8))
        total += np.asarray(blocks.resize((width, height), Image.Resampling.BICUBIC)) / cells**0.7
    return ((total - total.min()) / (total.max() - total.min()) * 255).astype(np.uint8)


def drawing(width: int, height: int, seed: int = 0) -> Rgb:
    """Flat shapes with hard edges."""
    rng, rgb = np.random.default_rng(seed), np.full((height, width, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(25):
        middle, radius = rng.random(2) * (width, height), rng.uniform(0.02, 0.3) * min(width, height)
        rgb[(x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2] = rng.integers(0, 256, 3)
    return rgb


def reference(rgb: Rgb) -> str:
    bits, _ = pdqhash.compute(np.ascontiguousarray(rgb))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


SIZES = [(512, 512), (640, 480), (480, 640), (500, 333), (333, 500), (1600, 1200), (1281, 723), (900, 300)]


def test_the_digest_is_sha256() -> None:
    """The digest of nothing is the well-known one."""
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_pdq_survives_size_and_tells_pictures_apart() -> None:
    """A resized copy stays near, as far as PDQ itself is steady (its sampling leans by the size); another is far."""
    digest, quality = pdq(picture())
    assert (len(digest), quality) == (64, 100)
    assert hamming(digest, pdq(picture(640))[0]) <= 30
    large = Image.fromarray(clouds(1600, 1200))
    hashes = [pdq(np.asarray(large.resize(size)))[0] for size in ((1600, 1200), (1024, 768), (640, 480), (400, 300))]
    assert max(hamming(one, other) for one in hashes for other in hashes) <= 26
    other = np.ascontiguousarray(picture()[::-1, ::-1])
    assert hamming(digest, pdq(other)[0]) > 90


@pytest.mark.parametrize("size", [*SIZES, (64, 64), (65, 64), (40, 50), (128, 129), (257, 256)])
def test_our_pdq_is_the_reference_implementations(size: tuple[int, int]) -> None:
    """At any size the hash is pdqhash's but for a bit or two at the median, and so is the quality."""
    for rgb in (clouds(*size), drawing(*size)):
        digest, quality = pdq(rgb)
        assert hamming(digest, reference(rgb)) <= 4
        assert abs(quality - pdqhash.compute(rgb)[1]) <= 3


@pytest.mark.parametrize("make", [clouds, drawing])
def test_a_shrunk_copy_keeps_the_hash_of_what_it_was(make: Callable[[int, int, int], Rgb]) -> None:
    """From 256 px, told the original's size, PDQ stays within a few bits of itself at full size."""
    differing = []
    for seed, (width, height) in enumerate(SIZES):
        rgb = make(width, height, seed)
        scale = 256 / min(width, height)
        small = Image.fromarray(rgb).resize((round(width * scale), round(height * scale)), Image.Resampling.HAMMING)
        differing.append(hamming(pdq(np.asarray(small), (width, height))[0], reference(rgb)))
    assert np.mean(differing) < 4
    assert max(differing) <= 10


def test_a_mirrored_copy_is_one_of_the_orientations() -> None:
    """The eight orientations start with the picture's own and hold its mirror image."""
    hashes = pdq_orientations(picture())
    assert len(hashes) == 8
    assert hashes[0] == pdq(picture())[0]
    mirrored = pdq(np.ascontiguousarray(picture()[:, ::-1]))[0]
    assert min(hamming(mirrored, each) for each in hashes[1:]) <= 45


def test_the_orientations_are_the_reference_implementations() -> None:
    """All eight are those that pdqhash finds by itself, in whatever order."""
    theirs, _ = pdqhash.compute_dihedral(clouds(512, 400))
    ours = pdq_orientations(clouds(512, 400))
    for bits in theirs:
        assert min(hamming(np.packbits(bits.astype(np.uint8)).tobytes().hex(), each) for each in ours) <= 2


def test_a_plain_picture_has_no_quality() -> None:
    """Of a single colour the hash says nothing, and its quality says so."""
    assert pdq(np.full((100, 300, 3), 200, dtype=np.uint8))[1] == 0


def test_hashes_of_different_length_are_not_compared() -> None:
    """A cut hash raises instead of being close to everything."""
    assert hamming("f0", "0f") == 8
    with pytest.raises(ValueError, match="digits"):
        hamming("f0", "f")
