"""Digests and perceptual hashes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.fingerprints import hamming, pdq, pdq_orientations, sha256


def picture(side: int = 256) -> npt.NDArray[np.uint8]:
    """Blotches: enough structure for PDQ to be sure."""
    blocks = np.random.default_rng(3).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC))


def test_the_digest_is_sha256() -> None:
    """The digest of nothing is the well-known one."""
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_pdq_survives_size_and_tells_pictures_apart() -> None:
    """A resized copy stays within a few bits, another picture is far away."""
    digest, quality = pdq(picture())
    assert (len(digest), quality) == (64, 100)
    assert hamming(digest, pdq(picture(640))[0]) <= 16
    other = np.ascontiguousarray(picture()[::-1, ::-1])
    assert hamming(digest, pdq(other)[0]) > 90


def test_a_mirrored_copy_is_one_of_the_orientations() -> None:
    """The eight orientations start with the picture's own and hold its mirror image."""
    hashes = pdq_orientations(picture())
    assert len(hashes) == 8
    assert hamming(hashes[0], pdq(picture())[0]) <= 4
    mirrored = pdq(np.ascontiguousarray(picture()[:, ::-1]))[0]
    assert min(hamming(mirrored, each) for each in hashes[1:]) <= 45


def test_a_plain_picture_has_no_quality() -> None:
    """Of a single colour the hash says nothing, and its quality says so."""
    assert pdq(np.full((100, 300, 3), 200, dtype=np.uint8))[1] == 0


def test_hashes_of_different_length_are_not_compared() -> None:
    """A cut hash raises instead of being close to everything."""
    assert hamming("f0", "0f") == 8
    with pytest.raises(ValueError, match="digits"):
        hamming("f0", "f")
