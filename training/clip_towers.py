"""A CLIP's image tower, cut in the part that is frozen and the part that is trained.

The frozen part gives the same for the same pixels in every step, so its output may be kept. Nothing here normalises
over a batch: BatchNorm's statistics stay the packaged ones, and models from nothing that have any are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from curation.own_clip import FINETUNE, SCRATCH
from training.clip_config import ClipConfig
from training.randomness import Ints, sample_keys, uniforms


@dataclass(frozen=True, slots=True)
class ImageTower:
    """`frozen`: pixels [B, 3, S, S] -> features [B, F]; `trunk`: features -> what the projection takes, [B, W].

    `project`: [B, W] and the dropout mask [B, `dropout_width`] -> embeddings [B, D], not normalised.
    """

    frozen: Callable[[torch.Tensor], torch.Tensor]
    trunk: Callable[[torch.Tensor], torch.Tensor]
    project: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    dropout_width: int


def image_tower(model: Any, config: ClipConfig) -> ImageTower:
    """The image tower of a model that `build_clip` made from this configuration."""
    trunk, head, side = model.visual.trunk, model.visual.head, config.image_size
    if config.image_tower == SCRATCH:
        return ImageTower(
            frozen=lambda pixels: pixels.flatten(1),
            trunk=lambda flat: trunk(flat.reshape(-1, 3, side, side)),
            project=lambda features, keep: head.proj(features * keep),
            dropout_width=head.proj.in_features,
        )

    def project(features: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """open_clip's projection of the picture, with the hidden layer's dropout drawn by us."""
        projected: torch.Tensor = head.mlp.fc2(head.mlp.act(head.mlp.fc1(features)) * keep)
        return projected

    if config.image_tower == FINETUNE:
        first = config.unlocked_from
        return ImageTower(
            frozen=lambda pixels: trunk.below_stage(pixels, first),
            trunk=lambda features: trunk.from_stage(features, first),
            project=project,
            dropout_width=head.mlp.fc1.out_features,
        )
    return ImageTower(trunk, lambda features: features, project, head.mlp.fc1.out_features)


def embed_pictures(
    tower: ImageTower, features: torch.Tensor, keep: torch.Tensor, config: ClipConfig, rows: slice
) -> torch.Tensor:
    """The trained part on some rows: features [B, F], dropout mask [B, W] -> normalised embeddings [r, D] float32."""
    with autocast(config):
        embeddings = tower.project(tower.trunk(features[rows]), keep[rows])
    return F.normalize(embeddings.float(), dim=-1)


def autocast(config: ClipConfig) -> torch.autocast:
    """bf16 where the precision says so. A new one each time: weights that one has cast without gradient have none."""
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.precision == "bf16")


def trained_tensors(model: Any, frozen: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What a checkpoint has to hold: every weight and statistic that does not come from a package, by name."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(frozen)}


def trained_parameters(model: Any, frozen: tuple[str, ...]) -> list[tuple[str, torch.nn.Parameter]]:
    """The weights that training changes, by name; gradients of all others are switched off."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) and parameter.requires_grad)
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def adamw(
    trained: list[tuple[str, torch.nn.Parameter]], config: ClipConfig
) -> tuple[torch.optim.Optimizer, tuple[float, ...]]:
    """AdamW (biases, norms and the temperature do not decay), and the peak learning rate of each of its groups."""
    groups: list[dict[str, Any]] = []
    rates: list[float] = []
    for packaged in (False, True):
        rate = config.learning_rate * (config.packaged_rate if packaged else 1.0)
        for decays in (True, False):
            chosen = [p for name, p in trained if _is_packaged(name) == packaged and (p.ndim > 1) == decays]
            if chosen:
                groups.append({"params": chosen, "weight_decay": config.weight_decay if decays else 0.0})
                rates.append(rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate), tuple(rates)


def _is_packaged(name: str) -> bool:
    return name.startswith("visual.trunk.backbone.")


def dropout_mask(config: ClipConfig, epochs: Ints, ordinals: Ints, width: int) -> torch.Tensor:
    """[B, width]: 0 or 1 / (1 - p), keyed by (seed, epoch, ordinal), so that no neighbour can change it."""
    if config.dropout == 0.0:
        return torch.ones(len(ordinals), width)
    draws = uniforms(sample_keys(config.seed, epochs, ordinals, "clip-dropout"), width)
    kept = (draws >= config.dropout).astype(np.float32) / np.float32(1.0 - config.dropout)
    return torch.from_numpy(kept)


def learning_rate_factor(config: ClipConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1.0 + float(np.cos(np.pi * step / config.steps)))
