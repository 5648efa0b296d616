"""The denoiser: a small diffusion transformer that reads the caption's tokens by cross-attention.

DiT (Peebles and Xie 2023) on pixels: patches as tokens, adaLN-zero on time and the caption's mean, then in every block
self-attention with normalised queries and keys, cross-attention to the caption's tokens (PixArt-alpha, Chen et al.
2023), and an MLP. Every shape is fixed by the config, whatever the captions: which samples share a batch
then changes no bit of another sample's result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """Shape of a denoiser. `text_tokens`: how many of the encoder's tokens are read; `text_width`: their size."""

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    text_tokens: int = 16
    text_width: int = 384
    mlp_ratio: int = 4

    @property
    def grid(self) -> int:
        return self.image_size // self.patch


class Denoiser(nn.Module):
    """(x_t, t, caption) -> the picture expected, in the shape of x_t."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width, patch_values = config.width, 3 * config.patch**2
        self.patch_in = nn.Linear(patch_values, width)
        self.place = nn.Parameter(_places(config.grid, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.text_norm = nn.LayerNorm(config.text_width, elementwise_affine=False)
        self.text_in = nn.Linear(config.text_width, width)
        self.text_mean = nn.Sequential(nn.Linear(config.text_width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, patch_values)
        for layer in (self.modulation_out, self.patch_out):  # adaLN-zero: the network starts as zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """x_t [B, 3, S, S], t [B] in [0, 1], text [B, T, text_width], mask [B, T] bool (all False: no caption)."""
        c = self.config
        tokens = x_t.reshape(len(x_t), 3, c.grid, c.patch, c.grid, c.patch).permute(0, 2, 4, 1, 3, 5)
        tokens = tokens.reshape(len(x_t), c.grid**2, -1)
        hidden = self.patch_in(tokens) + self.place

        text = self.text_norm(text) * mask.unsqueeze(-1)
        mean = text.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        condition = F.silu(self.time(_time_features(t)) + self.text_mean(mean))
        # A caption of no tokens attends to one zero token instead of to nothing (softmax over nothing is NaN).
        context = self.text_in(text)
        attend = torch.cat((mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]), 1)[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, condition, context, attend)

        scale, shift = self.modulation_out(condition).unsqueeze(1).chunk(2, -1)
        out: Tensor = self.patch_out(self.norm_out(hidden) * (1 + scale) + shift)
        out = out.reshape(len(x_t), c.grid, c.grid, 3, c.patch, c.patch).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(x_t.shape)


class Block(nn.Module):
    """Self-attention, cross-attention, MLP; each scaled, shifted and gated by the condition."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.self_out = nn.Linear(width, width, bias=False)
        self.cross_q = nn.Linear(width, width, bias=False)
        self.cross_kv = nn.Linear(width, 2 * width, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, config.mlp_ratio * width, bias=False)
        self.mlp_out = nn.Linear(config.mlp_ratio * width, width, bias=False)
        self.modulation = nn.Linear(width, 8 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor, attend: Tensor) -> Tensor:
        """x [B, N, W], condition [B, W], context [B, T, W], attend [B, 1, 1, T] bool."""
        scale_1, shift_1, gate_1, gate_2, scale_3, shift_3, gate_3, scale_2 = (
            self.modulation(condition).unsqueeze(1).chunk(8, -1)
        )
        q, k, v = self._heads(self.qkv(torch.addcmul(shift_1, self.norm(x), 1 + scale_1)), 3)
        x = torch.addcmul(x, gate_1, self.self_out(_attention(q, k, v)))
        (q,) = self._heads(self.cross_q(self.norm(x) * (1 + scale_2)), 1)
        k, v = self._heads(self.cross_kv(context), 2)
        x = torch.addcmul(x, gate_2, self.cross_out(_attention(q, k, v, attend)))
        inner = self.mlp_in(torch.addcmul(shift_3, self.norm(x), 1 + scale_3))
        # Squared ReLU (So et al. 2021): as good as GELU here, and a tenth of a step cheaper on a CPU.
        inner = inner.relu()
        return torch.addcmul(x, gate_3, self.mlp_out(inner * inner))

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, N, parts * W] -> `parts` tensors [B, heads, N, W / heads]."""
        return x.reshape(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _attention(q: Tensor, k: Tensor, v: Tensor, attend: Tensor | None = None) -> Tensor:
    """[B, H, N, D] queries over [B, H, M, D] keys and values -> [B, N, H * D].

    Written out: on a CPU the backward pass of torch's fused kernel takes three times as long at these sizes, and on a
    GPU it is not deterministic.
    """
    # Normalised queries and keys (Henry et al. 2020) keep the logits bounded at high learning rates.
    q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
    logits: Tensor = q @ k.mT * q.shape[-1] ** -0.5
    if attend is not None:
        logits = logits.masked_fill(~attend, -torch.inf)
    mixed: Tensor = logits.softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def _time_features(t: Tensor) -> Tensor:
    """Sinusoids of t, [B] -> [B, 256]."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128, device=t.device, dtype=torch.float32) / 128)
    angles = 1000 * t[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), 1)


def _places(grid: int, width: int) -> Tensor:
    """2-D sinusoidal places (Vaswani et al. 2017, one half an axis), [grid^2, width]; learnt from there."""
    quarter = width // 4
    frequencies = torch.exp(-math.log(10_000) * torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * frequencies
    axis = torch.cat((angles.sin(), angles.cos()), 1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    return torch.cat((rows, columns), 2).reshape(grid**2, 4 * quarter)
