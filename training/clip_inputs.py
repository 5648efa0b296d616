"""What a CLIP step feeds: the frozen towers' outputs for its slots, kept in memory where they fit.

In memory only: on the disk they would be one more personal thing to erase. Every slot has its own place in the batches
that the frozen tower is asked with, so that a removed neighbour changes no bit of those that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curation import clip_model
from curation.clip_model import BATCH_ROWS, Rgb
from curation.images import DecodeError, decode
from curation.shard_reader import DatasetReader
from policy.errors import InputError
from training.augmentation import draw_variants, draw_views, may_be_mirrored, varied
from training.clip_config import ClipConfig
from training.clip_towers import ImageTower, autocast
from training.randomness import Ints

# Many together need fewer batches that are filled up.
TEXTS_AT_ONCE = 1024

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """One step's input on the device: `images` [B, F] and `texts` [B, D], zero where `fed` [B] is False.

    `caption_ids` [B]: equal for equal captions, -1 where not fed. `undecodable`: ordinals whose picture could not be
    decoded, with the reason; they are fed as empty.
    """

    images: torch.Tensor
    texts: torch.Tensor
    caption_ids: torch.Tensor
    fed: npt.NDArray[np.bool_]
    undecodable: tuple[tuple[int, str], ...]


class ClipInputs:
    """Pictures through the frozen part of the image tower, captions through the frozen text tower."""

    def __init__(self, reader: DatasetReader, model: Any, tower: ImageTower, config: ClipConfig) -> None:
        self._reader, self._model, self._tower, self._config = reader, model, tower, config
        self._preprocess = clip_model.picture_transform(config.model["preprocess_cfg"])
        self._tokenize = clip_model.text_tokenizer()
        self._texts: dict[str, torch.Tensor] = {}
        self._images: torch.Tensor | None = None

    def read(self, left_out: Collection[int], progress: Progress) -> tuple[tuple[int, str], ...]:
        """Run the frozen part once over every variant of every slot but those left out, if memory may hold that.

        Returns the ordinals whose picture could not be decoded, with the reason.
        """
        config, slots = self._config, self._reader.slots
        width = self._run(torch.zeros(BATCH_ROWS, 3, config.image_size, config.image_size)).shape[1]
        if config.views == 0 or 4 * slots * config.views * width > config.feature_bytes:
            return ()
        self._images = torch.zeros(slots, config.views, width, device=config.device)
        out = set(left_out)
        wanted = [o for o in range(slots) if o not in out]
        for start in range(0, len(wanted), TEXTS_AT_ONCE):
            self._text_features([_caption(self._reader, o) for o in wanted[start : start + TEXTS_AT_ONCE]])
            progress("read texts", min(start + TEXTS_AT_ONCE, len(wanted)), len(wanted))
        undecodable: dict[int, str] = {}
        for done, block in enumerate(_blocks(wanted)):
            pictures = self._decoded(block, undecodable)
            for view in range(config.views):
                pixels = torch.zeros(BATCH_ROWS, 3, config.image_size, config.image_size)
                for i, variant in self._variants(pictures, np.full(len(block), view), block):
                    pixels[block[i] % BATCH_ROWS] = variant
                places = [ordinal % BATCH_ROWS for ordinal in pictures]
                self._images[list(pictures), view] = self._run(pixels)[places]
            progress("read pictures", min((done + 1) * BATCH_ROWS, len(wanted)), len(wanted))
        return tuple(sorted(undecodable.items()))

    def batch(self, ordinals: Ints, epochs: Ints, fed: npt.NDArray[np.bool_]) -> ClipBatch:
        """The input of a step's slots, [B] each."""
        undecodable: dict[int, str] = {}
        if self._images is not None:
            places = np.where(fed, ordinals, 0)
            views = draw_views(self._config.seed, epochs, places, self._config.views)
            rows = torch.from_numpy(places).to(self._config.device), torch.from_numpy(views).to(self._config.device)
            images = self._images[rows]
        else:
            images, undecodable = self._fresh(ordinals, epochs, fed)
            fed = fed & ~np.isin(ordinals, list(undecodable))
        weight = torch.from_numpy(fed).to(self._config.device)
        captions = [_caption(self._reader, int(o)) if is_fed else "" for o, is_fed in zip(ordinals, fed, strict=True)]
        number: dict[str, int] = {}
        ids = [number.setdefault(c, len(number)) if is_fed else -1 for c, is_fed in zip(captions, fed, strict=True)]
        return ClipBatch(
            images=images * weight.unsqueeze(1),
            texts=self._text_features(captions) * weight.unsqueeze(1),
            caption_ids=torch.tensor(ids, device=self._config.device),
            fed=fed,
            undecodable=tuple(sorted(undecodable.items())),
        )

    def forget(self, ordinals: Iterable[int]) -> None:
        """Drop what is known of slots that were removed while training."""
        for ordinal in ordinals:
            self._texts.pop(self._reader.caption(ordinal) or "", None)
            if self._images is not None:
                self._images[ordinal] = 0.0

    def _fresh(self, ordinals: Ints, epochs: Ints, fed: npt.NDArray[np.bool_]) -> tuple[torch.Tensor, dict[int, str]]:
        """The frozen part of what a step feeds, made now: a slot's place in the batch is its place here."""
        config, undecodable = self._config, dict[int, str]()
        views = draw_views(config.seed, epochs, ordinals, config.views) if config.views else epochs
        parts = []
        for start in range(0, len(ordinals), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            pixels = torch.zeros(BATCH_ROWS, 3, config.image_size, config.image_size)
            places = np.flatnonzero(fed[part])
            shown = ordinals[part][places].tolist()  # a slot may come up twice, where an epoch ends
            pictures = self._decoded(shown, undecodable)
            for i, variant in self._variants(pictures, views[part][places], shown):
                pixels[places[i]] = variant
            parts.append(self._run(pixels)[: len(ordinals[part])])
        return torch.cat(parts), undecodable

    def _variants(
        self, pictures: dict[int, Rgb], variants: Ints, ordinals: Sequence[int]
    ) -> Iterable[tuple[int, torch.Tensor]]:
        """(i, pixels [3, S, S]): the variant `variants[i]` of the slot `ordinals[i]`, where its picture is there."""
        config = self._config
        draws = draw_variants(config.seed, variants, np.array(ordinals, dtype=np.int64))
        for i, ordinal in enumerate(ordinals):
            if ordinal not in pictures:
                continue
            picture = pictures[ordinal]
            if config.views == 0 or variants[i] > 0:  # of fixed variants the first is the picture as it is
                mirror = config.flip and may_be_mirrored(_caption(self._reader, ordinal))
                picture = varied(picture, draws[i], crop_area=config.crop_area, jitter=config.jitter, mirror=mirror)
            yield i, self._preprocess(picture)

    def _decoded(self, ordinals: Sequence[int], undecodable: dict[int, str]) -> dict[int, Rgb]:
        pictures = {}
        for ordinal in dict.fromkeys(ordinals):
            try:
                pictures[ordinal] = picture(self._reader, ordinal)
            except DecodeError as error:
                undecodable[ordinal] = str(error)
        return pictures

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        """The frozen part over [32, 3, S, S], float32."""
        with torch.no_grad(), autocast(self._config):
            return self._tower.frozen(pixels.to(self._config.device)).float()

    def _text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """The frozen text tower's normalised sentence embeddings [B, D]."""
        missing = sorted(set(captions) - self._texts.keys())
        for rows, ids in clip_model.fixed_text_batches(self._tokenize(missing)) if missing else ():
            with torch.no_grad():
                out = self._model.encode_text(ids.to(self._config.device), normalize=True)[: len(rows)]
            self._texts.update(zip((missing[i] for i in rows.tolist()), out.clone(), strict=True))
        return torch.stack([self._texts[caption] for caption in captions])


def picture(reader: DatasetReader, ordinal: int) -> Rgb:
    """A live slot's pixels, [H, W, 3] uint8; DecodeError where they cannot be decoded."""
    data = reader.image_bytes(ordinal)
    if data is None:
        raise InputError(f"slot {ordinal} is empty", where=str(reader.directory))
    return decode(data)


def _caption(reader: DatasetReader, ordinal: int) -> str:
    caption = reader.caption(ordinal)
    if caption is None:
        raise InputError(f"slot {ordinal} is empty", where=str(reader.directory))
    return caption


def _blocks(ordinals: Sequence[int]) -> list[list[int]]:
    """Rising ordinals in groups of those that share a batch of the frozen tower."""
    blocks: dict[int, list[int]] = {}
    for ordinal in ordinals:
        blocks.setdefault(ordinal // BATCH_ROWS, []).append(ordinal)
    return list(blocks.values())
