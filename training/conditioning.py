"""Captions as the denoiser reads them: token embeddings of a frozen text encoder, computed once a caption."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from policy.provenance import UpstreamModel
from training.token_store import TokenStore


class TextEncoder(Protocol):
    """A frozen encoder; curation.clip_model.PackagedTextEncoder is the embedded one."""

    @property
    def component(self) -> UpstreamModel:
        """What it is and what it was trained on, for the record of every run."""

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, L, W] float32 and mask [B, L] bool; a text's bits do not depend on its neighbours."""


class CaptionTokens:
    """The first `length` token embeddings of captions, kept in memory under the caption and the encoder's digest.

    `capacity` bounds the captions kept; the least recently used goes first. `store`: where those that are not in memory
    are looked for before the encoder is asked. A removed sample's caption is forgotten in both.
    """

    def __init__(
        self, encoder: TextEncoder, length: int, capacity: int = 20_000, *, store: TokenStore | None = None
    ) -> None:
        self._encoder, self._length, self._capacity, self._store = encoder, length, capacity, store
        self.encoder_digest = encoder.component.digest
        self._kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._nothing: tuple[Tensor, Tensor] | None = None

    def batch(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, length, W] float32 and mask [B, length] bool; "" is the absence of a caption: no tokens."""
        new = [c for c in dict.fromkeys(captions) if c and c not in self._kept]
        if self._store is not None:
            self._kept.update((c, found) for c in new if (found := self._store.get(c)) is not None)
            new = [c for c in new if c not in self._kept]
        if new or (self._nothing is None and not self._kept):
            embeddings, mask = self._encoder.tokens(new or [""])
            for caption, row, real in zip(
                new or [""], embeddings[:, : self._length], mask[:, : self._length], strict=True
            ):
                self._kept[caption] = row.clone(), real.clone()
                if caption and self._store is not None:
                    self._store.put(caption, row, real)
        if self._nothing is None:
            row, real = next(iter(self._kept.values()))
            self._nothing = torch.zeros_like(row), torch.zeros_like(real)
        self._kept.pop("", None)
        rows = [self._kept[caption] if caption else self._nothing for caption in captions]
        for caption in captions:
            if caption:
                self._kept.move_to_end(caption)
        while len(self._kept) > max(self._capacity, len(captions)):
            self._kept.popitem(last=False)
        return torch.stack([row for row, _ in rows]), torch.stack([real for _, real in rows])

    def forget(self, caption: str) -> None:
        """Drop a caption whose sample was removed."""
        self._kept.pop(caption, None)
        if self._store is not None:
            self._store.forget(caption)
