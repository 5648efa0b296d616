"""Embeddings for near duplicates: the model, the search, and what is kept on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from curation import near_embedding
from curation.images import decode, encode_jpeg
from curation.near_embedding import WIDTH, NearEmbedder, VectorCache, cosines, forget, nearest, unframed
from policy.errors import IntegrityError
from tests.curation.drawn import face, photo_like


def vectors(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, (count, WIDTH)).astype(np.int8)


def shas(count: int) -> list[str]:
    return [hashlib.sha256(bytes([number])).hexdigest() for number in range(count)]


@pytest.fixture(scope="module")
def embedder() -> NearEmbedder:
    return NearEmbedder()


def test_a_crop_is_nearer_than_another_picture(embedder: NearEmbedder) -> None:
    """A crop of a tenth, and a recoloured margin, leave an embedding nearer to its own picture than to any other."""
    photo, drawn = photo_like(1, 240), face("smile")
    pictures = [photo, photo[12:228, 12:228], drawn, drawn[7:137, 7:137], photo_like(2, 240)]
    found = embedder.embed(pictures)
    assert found.shape == (5, WIDTH)
    assert cosines(found[0:1], found[1:2])[0] > max(cosines(found[[0, 0, 0]], found[[2, 3, 4]]))
    assert cosines(found[2:3], found[3:4])[0] > max(cosines(found[[2, 2, 2]], found[[0, 1, 4]]))


def test_a_frame_is_cut_and_the_ground_of_a_drawing_is_not() -> None:
    """A flat border goes, whatever its colour and though it was compressed; a drawing keeps the white around it."""
    photo, drawn = photo_like(1, 200, 160), face("smile")
    for picture in (photo, drawn):
        for colour in ((0, 0, 0), (90, 20, 140)):
            framed = ImageOps.expand(Image.fromarray(picture), 14, colour)
            cut = unframed(decode(encode_jpeg(np.asarray(framed), 60)))
            assert max(abs(a - b) for a, b in zip(cut.shape[:2], picture.shape[:2], strict=True)) <= 4
        assert unframed(picture).shape == picture.shape
    blank = np.full((40, 50, 3), 200, np.uint8)
    assert unframed(blank).shape == blank.shape
    assert unframed(blank[:1, :1]).shape == (1, 1, 3)


def test_neighbours_in_a_batch_change_no_bit(embedder: NearEmbedder) -> None:
    """A picture has the same vector alone and among others, whatever their sizes; none at all have none."""
    pictures = [photo_like(3, 200, 90), np.zeros((1, 1, 3), np.uint8), photo_like(4, 64)]
    together = embedder.embed(pictures)
    assert (embedder.embed(pictures[:1]) == together[:1]).all()
    assert embedder.embed([]).shape == (0, WIDTH)


@pytest.mark.parametrize("outright", [True, False])
def test_the_nearest_are_found_and_never_oneself(outright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted neighbours are found, outright and by the graph; a vector that another equals still is not its own."""
    monkeypatch.setattr(near_embedding, "_COMPARED_ROWS", 10_000 if outright else 10)
    known = vectors(400)
    known[200:240] = np.where(np.arange(WIDTH) % 10 == 0, 0, known[:40])
    known[390] = known[391]
    rows, found = nearest(known, np.arange(400), 3, threads=1)
    assert (rows[200:240, 0] == np.arange(40)).all()
    assert (found[200:240, 0] > 0.9).all()
    assert rows[390, 0] == 391
    assert rows[391, 0] == 390
    assert not (rows == np.arange(400)[:, None]).any()


def test_few_vectors_have_few_neighbours() -> None:
    """One vector has no neighbour, two have one each, and nobody asking gets no answer."""
    assert nearest(vectors(1), np.array([0]), 5)[0].shape == (1, 0)
    assert nearest(vectors(2), np.array([0, 1]), 5)[0].tolist() == [[1], [0]]
    assert nearest(vectors(4), np.array([], np.int64), 2)[0].shape == (0, 2)


def test_vectors_are_kept_by_content_and_model(tmp_path: Path) -> None:
    """What was kept is read back, under its own model's digest and no other's."""
    contents, kept = shas(6), vectors(6)
    VectorCache(tmp_path, "ab" * 32).add(contents[:2], kept[:2])
    VectorCache(tmp_path, "ab" * 32).add(contents[2:4], kept[2:4])
    found, there = VectorCache(tmp_path, "ab" * 32).load(contents)
    assert there.tolist() == [True] * 4 + [False] * 2
    assert (found[:4] == kept[:4]).all()
    assert not VectorCache(tmp_path, "cd" * 32).load(contents)[1].any()


def test_forgetting_overwrites_where_it_lies(tmp_path: Path) -> None:
    """A forgotten vector and its digest are in no file any more, of any model; the others stay."""
    contents, kept = shas(4), vectors(4)
    for digest in ("ab" * 32, "cd" * 32):
        VectorCache(tmp_path, digest).add(contents, kept)
    assert forget(tmp_path, contents[:1]) == 2
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*.vectors"))
    assert bytes.fromhex(contents[0]) not in held
    assert kept[0].tobytes() not in held
    assert VectorCache(tmp_path, "ab" * 32).load(contents)[1].tolist() == [False, True, True, True]
    assert forget(tmp_path, contents[:1]) == 0


def test_a_cut_file_is_told_and_still_forgets(tmp_path: Path) -> None:
    """A file that lost its end says which it is; what is to be forgotten is overwritten in it all the same."""
    cache, contents = VectorCache(tmp_path, "ab" * 32), shas(3)
    cache.add(contents, vectors(3))
    (path,) = tmp_path.rglob("*.vectors")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(IntegrityError, match="cut"):
        cache.load(contents)
    assert forget(tmp_path, contents[:1]) == 1
    assert bytes.fromhex(contents[0]) not in path.read_bytes()
    assert cache.load(contents)[1].tolist() == [False, True, False]
