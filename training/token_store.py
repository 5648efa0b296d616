"""Token embeddings of captions on disk: a cache, so that a text is encoded once and not once an epoch.

One file a caption, `<first two digits>/<blake2b-16 of the caption>`, in a directory of its own for each encoder and
numeric contract: what one thread computes is not, bit for bit, what two compute, and a run may only be given what it
would have computed itself. A file that is damaged is as good as none. Nothing is written durably, since all of it can
be made anew.

A caption's digest is personal, as is what can be told from its embedding: the store lies in the home's cache, which a
removal deletes whole, and a running training takes out what a tombstone names.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policy.provenance import NumericContract, config_digest

MAX_BYTES = 10 << 30

_MAGIC = b"custody-tokens-1"
_HEAD = struct.Struct("<16s16sIII4x")  # magic, blake2b-16 of what follows it, tokens, width, rows that are kept
_BLOCK_BYTES = 4096  # what a small file takes at least


class TokenStore:
    """At most `max_bytes` of token embeddings, the first that come.

    None is put out for another: epochs go round, and who kept the newest would find none of them a round later.
    `encoder_digest`: of the text encoder, weights and tokenizer; `tokens`: how many of its tokens are asked for.
    """

    def __init__(
        self,
        directory: Path,
        encoder_digest: str,
        contract: NumericContract,
        tokens: int,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.directory = directory / config_digest([encoder_digest, asdict(contract), tokens])
        self._room = max_bytes - sum(_taken(path) for path in directory.glob("*/??/*"))

    def get(self, caption: str) -> tuple[Tensor, Tensor] | None:
        """Embeddings [tokens, W] float32 and mask [tokens] bool, as they were put; None where they are not known."""
        try:
            data = bytearray(self._path(caption).read_bytes())
            magic, digest, length, width, rows = _HEAD.unpack_from(data)
        except (OSError, struct.error):
            return None
        if magic != _MAGIC or _digest(data) != digest:
            return None
        embeddings = torch.zeros(length, width)
        kept = torch.frombuffer(data, dtype=torch.float32, offset=_HEAD.size, count=rows * width)
        embeddings[:rows] = kept.view(rows, width)
        return embeddings, torch.frombuffer(data, dtype=torch.bool, offset=len(data) - length).clone()

    def put(self, caption: str, embeddings: Tensor, mask: Tensor) -> None:
        """Keeps them, [tokens, W] float32 and [tokens] bool, where there is room; a disk that refuses is no loss."""
        kept = np.ascontiguousarray(embeddings.detach().cpu().numpy())
        # What stands behind these rows is zero, in all of its bits.
        rows = int(np.flatnonzero(kept.view(np.uint32).any(axis=1)).max(initial=-1)) + 1
        if rows == 0:
            return
        body = kept[:rows].tobytes() + mask.cpu().numpy().tobytes()
        digest = _digest(_HEAD.pack(_MAGIC, b"", *kept.shape, rows) + body)
        data = _HEAD.pack(_MAGIC, digest, *kept.shape, rows) + body
        taken = -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES
        if taken > self._room:
            return
        path = self._path(caption)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
            self._room -= taken
        except OSError:
            self._room = 0
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def forget(self, caption: str) -> None:
        """Deletes what is kept of a caption, under any encoder and contract. Raises OSError."""
        name = self._path(caption).relative_to(self.directory)
        for directory in self.directory.parent.glob("*"):
            (directory / name).unlink(missing_ok=True)

    def _path(self, caption: str) -> Path:
        name = blake2b(caption.encode(), digest_size=16).hexdigest()
        return self.directory / name[:2] / name


def _digest(data: bytes | bytearray) -> bytes:
    """Of a file, but for the magic and the digest itself."""
    return blake2b(memoryview(data)[32:], digest_size=16).digest()


def _taken(path: Path) -> int:
    with suppress(FileNotFoundError):
        return -(-path.stat().st_size // _BLOCK_BYTES) * _BLOCK_BYTES
    return 0
