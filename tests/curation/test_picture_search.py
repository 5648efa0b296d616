"""A picture in somebody's hand: read within bounds, found in any orientation, and only called a copy if it is one."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from curation import picture_search
from curation.decode_pool import DecodePool
from curation.fingerprints import pdq, sha256
from curation.geometry import oriented
from curation.images import DecodeLimits, encode_jpeg
from curation.near_embedding import WIDTH
from curation.picture_search import Asked, Known, asking_pool, known_words, read_asked, search
from policy.errors import InputError
from tests.curation.drawn import face, photo_like

Rgb = np.ndarray

PHOTO = photo_like(1, 240, 180)


def bordered(rgb: Rgb) -> Rgb:
    return np.pad(rgb, ((14, 14), (14, 14), (0, 0)), constant_values=255)


def overlaid(rgb: Rgb) -> Rgb:
    image = Image.fromarray(rgb)
    ImageDraw.Draw(image).text((20, 150), "PHOTO BY SOMEBODY", fill="white", font_size=16)
    return np.asarray(image)


COPIES: Mapping[str, Rgb] = {
    "itself": PHOTO,
    "recompressed": np.asarray(Image.open(io.BytesIO(encode_jpeg(PHOTO, 35)))),
    "smaller": np.asarray(Image.fromarray(PHOTO).resize((160, 120), Image.Resampling.LANCZOS)),
    "mirrored": PHOTO[:, ::-1],
    "turned": np.rot90(PHOTO),
    "cropped": PHOTO[12:170, 14:226],
    "bordered": bordered(PHOTO),
    "overlaid": overlaid(PHOTO),
}
OTHERS: Mapping[str, Rgb] = {"another": photo_like(2, 240, 180), "smile": face("smile"), "frown": face("frown")}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with asking_pool(DecodeLimits(max_pixels=1_000_000, wall_s=20.0)) as made:
        yield made


@pytest.fixture
def asking(tmp_path: Path, pool: DecodePool) -> Callable[[Rgb], Asked]:
    """Reads a picture from a file, as a request's is read."""

    def ask(rgb: Rgb) -> Asked:
        file = tmp_path / "asked.png"
        Image.fromarray(np.ascontiguousarray(rgb)).save(file)
        return read_asked(file, pool)

    return ask


def known(pictures: Mapping[str, Rgb]) -> Known:
    """Contents, by their names, that all look alike to the embedding: it proposes everything."""
    hashes = [value if quality >= 50 else None for value, quality in map(pdq, pictures.values())]
    vectors = np.full((len(pictures), WIDTH), 5, np.int8)
    return Known(list(pictures), *known_words(hashes), vectors, np.ones(len(pictures), np.bool_))


def found(asked: Asked, pictures: Mapping[str, Rgb], **options: int) -> tuple[picture_search.PictureMatch, ...]:
    everything = np.full((8, WIDTH), 5, np.int8)
    return search(asked, everything, known(pictures), lambda name: pictures[name], max_distance=31, **options)


def names(matches: Sequence[picture_search.PictureMatch], *, verified: bool) -> set[str]:
    return {match.content_sha256 for match in matches if match.verified is verified}


# ── the search ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_copies_are_verified_and_others_are_not(asking: Callable[[Rgb], Asked]) -> None:
    """Recompressed, smaller, mirrored, turned, cropped, bordered and written over: each is verified; others stay
    proposals, though their embeddings say they are the same.
    """
    matches = found(asking(PHOTO), {**COPIES, **OTHERS})
    assert names(matches, verified=True) == set(COPIES)
    assert names(matches, verified=False) == set(OTHERS)
    by_name = {match.content_sha256: match for match in matches}
    assert by_name["mirrored"].method == by_name["turned"].method == "pdq-turned"
    assert by_name["recompressed"].method == "pdq"
    assert by_name["cropped"].method == by_name["bordered"].method == "embedding"


def test_what_is_sure_comes_first_and_each_best_first(asking: Callable[[Rgb], Asked]) -> None:
    """Verified copies stand before proposals, and within each the scores fall."""
    matches = found(asking(COPIES["smaller"]), {**OTHERS, **COPIES})
    assert [match.verified for match in matches] == [True] * len(COPIES) + [False] * len(OTHERS)
    for sure in (True, False):
        scores = [match.score for match in matches if match.verified is sure]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    assert min(m.score for m in matches if m.verified) > max(m.score for m in matches if not m.verified)


@pytest.mark.parametrize("orientation", range(8))
def test_a_hash_finds_every_orientation(asking: Callable[[Rgb], Asked], orientation: int) -> None:
    """Whichever way the picture is turned or mirrored, its hash alone proposes it, and its pixels verify it."""
    asked = asking(np.asarray(oriented(PHOTO, orientation)))
    no_vectors = np.zeros((0, WIDTH), np.int8)
    pictures = {"photo": PHOTO, **OTHERS}
    (match,) = search(asked, no_vectors, known(pictures), lambda name: pictures[name], max_distance=31)
    assert (match.content_sha256, match.verified) == ("photo", True)
    assert match.method.startswith("pdq")


def test_equal_bytes_are_found_by_nothing_else(asking: Callable[[Rgb], Asked]) -> None:
    """A picture with nothing to see in it is found by its bytes; another one as blank is not called the same."""
    blank = np.full((90, 120, 3), 200, np.uint8)
    asked = asking(blank)
    pictures = {asked.content_sha256: blank, "blank too": np.full((90, 121, 3), 200, np.uint8)}
    matches = found(asked, pictures)
    assert matches[0] == picture_search.PictureMatch(asked.content_sha256, "exact", 0.0, 1.0, True, True)
    assert names(matches, verified=True) == {asked.content_sha256}


def test_without_pixels_nothing_is_verified(asking: Callable[[Rgb], Asked]) -> None:
    """Of contents whose pixels are gone nobody can tell: they are proposals, and say that they were not compared."""
    asked, pictures = asking(PHOTO), {"recompressed": COPIES["recompressed"], "another": OTHERS["another"]}
    matches = search(asked, np.full((8, WIDTH), 5, np.int8), known(pictures), lambda name: None, max_distance=31)
    assert {(m.content_sha256, m.verified, m.compared) for m in matches} == {
        ("recompressed", False, False),
        ("another", False, False),
    }
    near = next(m for m in matches if m.content_sha256 == "recompressed")
    assert near.method == "pdq"
    assert near.distance <= 8
    assert near.score == round(1 - near.distance / 128, 4)


def test_the_search_by_embedding_ends(asking: Callable[[Rgb], Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates by embedding are compared until enough in a row show something else; the best proposals are named."""
    monkeypatch.setattr(picture_search, "GIVE_UP", 3)
    pictures = {f"other {seed}": photo_like(seed, 48, 36) for seed in range(10, 30)}
    asked, read = asking(PHOTO), []

    def pixels(name: str) -> Rgb:
        read.append(name)
        return pictures[name]

    everything = np.full((8, WIDTH), 5, np.int8)
    matches = search(asked, everything, known(pictures), pixels, max_distance=31, similar=2)
    assert len(read) == 3
    assert len(matches) == 2
    assert search(asked, everything, known({}), pixels, max_distance=31) == ()


# ── the file ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_read_is_the_file(tmp_path: Path, pool: DecodePool) -> None:
    """Digest, size and hashes are the file's own; a large picture is held smaller."""
    large = photo_like(3, 1400, 1200)[:700]
    file = tmp_path / "large.png"
    Image.fromarray(large).save(file)
    asked = read_asked(file, pool)
    assert asked.content_sha256 == sha256(file.read_bytes())
    assert (asked.width, asked.height) == (1400, 700)
    assert asked.hashes[0] == pdq(large)[0]
    assert len(asked.hashes) == len(set(asked.hashes)) == 8
    assert asked.faces is None


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds nothing."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "unknown-format"),
    "page": (b"<!doctype html><p>no picture", "unknown-format"),
    "vector": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unknown-format"),
    "cut": (encode_jpeg(PHOTO)[:4000], "truncated"),
    "huge": (png_header(60_000, 60_000), "too-many-pixels"),
    "hollow": (png_header(64, 64), "truncated"),
    "long": (encode_jpeg(photo_like(4, 700, 700), 100), "larger than"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, pool: DecodePool, name: str) -> None:
    """What cannot be decoded, or not within the bounds, is an InputError that names the file and what to do."""
    body, word = BAD[name]
    file = tmp_path / f"{name}.jpg"
    file.write_bytes(body)
    most = 1 << 20 if name != "long" else len(body) - 1
    with pytest.raises(InputError, match=word) as raised:
        read_asked(file, pool, max_bytes=most)
    assert raised.value.where == str(file)
    assert raised.value.remedy


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, pool: DecodePool) -> None:
    """A missing file, a directory, a pipe, a device without an end and an impossible name are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "missing.jpg", tmp_path, tmp_path / "pipe", Path("/dev/zero"), Path("no\0name")):
        with pytest.raises(InputError) as raised:
            read_asked(name, pool)
        assert raised.value.where == str(name)
