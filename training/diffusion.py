"""Rectified flow (Liu et al. 2022; Lipman et al. 2022): x_t = (1 - t) x_0 + t e, and the velocity v = e - x_0.

The network predicts the picture x_0, the loss is on the velocity (Li and He 2025, "Back to Basics: Let Denoising
Generative Models Denoise"): what it has to learn then lies where pictures lie, and few steps show colours and shapes.

Every draw is keyed by (seed, epoch, ordinal, purpose): see training/randomness.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.config import TrainingConfig
from training.denoiser import Denoiser
from training.randomness import keys_of_purposes, normals, uniforms

Ints = npt.NDArray[np.int64]

_GOLDEN_RATIO = 0.6180339887498949


_PURPOSES, _TIMELESS = ("crop", "caption", "timestep", "noise"), ("timestep",)


class _Noise:
    """Standard normal noise of exposures, made when it is asked for: for all of them at once."""

    def __init__(self, keys: npt.NDArray[np.uint64]) -> None:
        self._keys = keys
        self._made: dict[int, Tensor] = {}

    def of_all(self, image_size: int) -> Tensor:
        flat = normals(self._keys, 3 * image_size**2)
        return torch.from_numpy(flat).reshape(-1, 3, image_size, image_size)

    def of_some(self, rows: slice, image_size: int) -> Tensor:
        if image_size not in self._made:
            self._made = {image_size: self.of_all(image_size)}
        return self._made[image_size][rows]


@dataclass(frozen=True, slots=True)
class Draws:
    """All that is drawn for B exposures, each by its own key; what is dear, the noise, when it is asked for.

    `crop`: [B, 4] uniforms (scale, top, left, mirrored).
    """

    crop: npt.NDArray[np.float64]
    _epochs: Ints
    _captions: npt.NDArray[np.float64]
    _starts: npt.NDArray[np.float64]
    _noise: _Noise
    _rows: slice | None = None

    @classmethod
    def of(cls, seed: int, epochs: Ints, ordinals: Ints) -> Draws:
        keys = keys_of_purposes(seed, epochs, ordinals, _PURPOSES, _TIMELESS)
        few = uniforms(keys[:3].reshape(-1), 4).reshape(3, -1, 4)
        return cls(few[0], epochs, few[1, :, 0], few[2, :, 0], _Noise(keys[3]))

    def some(self, rows: slice) -> Draws:
        """The draws of some of these exposures. Their noise is made together, and only to be read."""
        own = self.crop[rows], self._epochs[rows], self._captions[rows], self._starts[rows]
        return Draws(*own, self._noise, rows)

    def noise(self, image_size: int) -> Tensor:
        """Standard normal noise of each exposure, [B, 3, S, S] float32."""
        return self._noise.of_all(image_size) if self._rows is None else self._noise.of_some(self._rows, image_size)

    def timesteps(self, mean: float, std: float) -> Tensor:
        """Logit-normal timesteps (Esser et al. 2024), [B] float32 in (0, 1).

        The epochs of one sample walk through its quantiles by the golden ratio from a keyed start, which covers them
        more evenly than independent draws would and still depends on nothing but (seed, epoch, ordinal).
        """
        quantile = np.clip((self._starts + self._epochs * _GOLDEN_RATIO) % 1.0, 1e-4, 1 - 1e-4)
        return torch.sigmoid(mean + std * torch.special.ndtri(torch.from_numpy(quantile))).float()

    def kept_captions(self, dropout: float) -> npt.NDArray[np.bool_]:
        """Which exposures keep their caption, [B]; the rest learn the unconditional field for guidance."""
        return self._captions >= dropout


def draw_noise(seed: int, epochs: Ints, ordinals: Ints, image_size: int) -> Tensor:
    """Noise alone, as `Draws.noise`."""
    return Draws.of(seed, epochs, ordinals).noise(image_size)


def draw_timesteps(seed: int, epochs: Ints, ordinals: Ints, mean: float, std: float) -> Tensor:
    """Timesteps alone, as `Draws.timesteps`."""
    return Draws.of(seed, epochs, ordinals).timesteps(mean, std)


def draw_kept_captions(seed: int, epochs: Ints, ordinals: Ints, dropout: float) -> Tensor:
    """Kept captions alone, as `Draws.kept_captions`."""
    return torch.from_numpy(Draws.of(seed, epochs, ordinals).kept_captions(dropout))


def expected_picture(denoiser: Denoiser, x_t: Tensor, t: Tensor, text: Tensor, mask: Tensor, precision: str) -> Tensor:
    """The picture that the network expects behind x_t, [B, 3, S, S] float32."""
    with torch.autocast(x_t.device.type, torch.bfloat16, enabled=precision == "bf16"):
        picture: Tensor = denoiser(x_t, t, text, mask)
    return picture.float()


def flow_loss(
    denoiser: Denoiser,
    pixels: Tensor,
    noise: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    real: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Mean squared error of the velocity (Lipman et al. 2022, eq. 23), over the nominal batch.

    pixels, noise [B, 3, S, S]; t [B]; text [B, T, W]; mask [B, T]; real [B] bool: the batch, or a rank's part of it.
    A slot that is not real is fed zeros and weighs nothing, while the divisor stays the batch size: the others' share
    does not depend on it, and the parts' losses add up to the batch's.
    """
    error = flow_errors(denoiser, pixels, noise, t, text, mask, real, config)
    return (error * real.to(pixels.dtype)).sum() / config.batch_size


def flow_errors(
    denoiser: Denoiser,
    pixels: Tensor,
    noise: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    real: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """The velocity's squared error of each slot, [B]; arguments as in `flow_loss`. Of a slot that is not real: void."""
    weight = real.to(pixels.dtype)
    noise, pixels = noise * weight[:, None, None, None], pixels * weight[:, None, None, None]
    t = torch.where(real, t, 1.0)
    at = t[:, None, None, None]
    x_t = (1 - at) * pixels + at * noise
    picture = expected_picture(denoiser, x_t, t, text, mask & real[:, None], config.precision)
    # v = (x_t - x_0) / t, so the velocity's error is the picture's, divided by t. The division stops at
    # `smallest_divisor`: below it only fine grain is left to decide, and it would take the loss for itself.
    return ((picture - pixels) / at.clamp(min=config.smallest_divisor)).square().mean(dim=(1, 2, 3))
