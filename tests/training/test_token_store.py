"""The cache of token embeddings: what comes out is what went in, bit for bit, or nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from policy.provenance import NumericContract
from tests.training.toy_dataset import NAMES, HashedWords
from training.conditioning import CaptionTokens
from training.token_store import TokenStore

CONTRACT = NumericContract(1, 1, "cpu", "bf16", True, (("torch", "2"),))


class Counting(HashedWords):
    """Knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += texts
        return super().tokens(texts)


def a_store(directory: Path, **changes: object) -> TokenStore:
    options: dict[str, object] = {"encoder_digest": "0" * 32, "contract": CONTRACT, "tokens": 8, **changes}
    return TokenStore(directory, **options)  # type: ignore[arg-type]


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("capacity", [20_000, 2])
def test_a_caption_is_encoded_once_and_then_comes_from_disk(tmp_path: Path, capacity: int) -> None:
    """Another run, or one whose memory is small, gets the encoder's bits without asking it."""
    captions = [*NAMES, "", NAMES[0]]
    expected = CaptionTokens(HashedWords(), 8).batch(captions)
    for run in range(3):
        encoder = Counting()
        tokens = CaptionTokens(encoder, 8, capacity, store=a_store(tmp_path))
        for _ in range(2):
            found = tokens.batch(captions)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
        assert encoder.asked == ([] if run else list(NAMES))
    assert len(files(tmp_path)) == len(NAMES)


def test_rows_of_zeros_cost_nothing_and_come_back(tmp_path: Path) -> None:
    """What stands behind the last token is not stored, a negative zero is, and masks of any shape are."""
    embeddings, mask = torch.zeros(8, 384), torch.tensor([True, False] * 4)
    embeddings[0], embeddings[2, 5] = 0.5, -0.0
    store = a_store(tmp_path)
    store.put("red apple", embeddings, mask)
    found = store.get("red apple")
    assert found is not None
    assert found[0].numpy().tobytes() == embeddings.numpy().tobytes()
    assert torch.equal(found[1], mask)
    assert files(tmp_path)[0].stat().st_size < 4 * 384 * 4


def test_nothing_is_shared_between_encoders_and_contracts(tmp_path: Path) -> None:
    """Another encoder, thread count or number of tokens finds nothing: its bits might be others."""
    a_store(tmp_path).put("red apple", *(part[0] for part in HashedWords().tokens(["red apple"])))
    assert a_store(tmp_path).get("red apple") is not None
    for change in ({"encoder_digest": "1" * 32}, {"contract": replace(CONTRACT, threads=2)}, {"tokens": 4}):
        assert a_store(tmp_path, **change).get("red apple") is None


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    """Whatever byte of a file is changed, or missing: the caption is encoded again and stored anew."""
    row, mask = (part[0] for part in HashedWords().tokens(["red apple"]))
    store = a_store(tmp_path)
    store.put("red apple", row, mask)
    (file,) = files(tmp_path)
    good = file.read_bytes()
    for at in (0, 16, 32, 36, 40, 48, 700, len(good) - 1):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert store.get("red apple") is None
    for length in (0, 10, 48, len(good) - 1):
        file.write_bytes(good[:length])
        assert store.get("red apple") is None
    tokens = CaptionTokens(HashedWords(), 8, store=store)
    tokens.batch(["red apple"])
    assert file.read_bytes() == good


def test_it_keeps_what_came_first_and_no_more_than_its_bound(tmp_path: Path) -> None:
    """The bound holds over runs; what has no room is encoded each time, and a disk that refuses stops nothing."""
    store = a_store(tmp_path, max_bytes=5 * 4096)
    CaptionTokens(HashedWords(), 8, store=store).batch(NAMES)
    assert len(files(tmp_path)) == 5
    assert all(store.get(name) is not None for name in NAMES[:5])
    encoder = Counting()
    CaptionTokens(encoder, 8, store=a_store(tmp_path, max_bytes=5 * 4096)).batch(NAMES)
    assert encoder.asked == list(NAMES[5:])
    (tmp_path / "file").write_bytes(b"")
    CaptionTokens(encoder, 8, store=a_store(tmp_path / "file")).batch(NAMES)


def test_a_removed_caption_is_deleted(tmp_path: Path) -> None:
    """A tombstone takes it from memory and disk, under every encoder; a removal may take the whole cache meanwhile."""
    row, mask = (part[0] for part in HashedWords().tokens(["red apple"]))
    other = a_store(tmp_path, encoder_digest="1" * 32)
    other.put("red apple", row, mask)
    encoder = Counting()
    tokens = CaptionTokens(encoder, 8, store=a_store(tmp_path))
    tokens.batch(["red apple", "blue plum"])
    tokens.forget("red apple")
    name = hashlib.blake2b(b"red apple", digest_size=16).hexdigest()
    assert [path.name for path in files(tmp_path)] != []
    assert name not in {path.name for path in files(tmp_path)}
    assert other.get("red apple") is None
    shutil.rmtree(tmp_path)
    tokens.forget("blue plum")
    tokens.batch(["blue plum"])
    assert len(files(tmp_path)) == 1
