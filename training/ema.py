"""The moving average of the weights that samples are drawn from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Power-function average (Karras et al. 2024, section 3.1): its window is a fixed share of the training so far.

    The only state is the averaged weights; the decay follows from the step, so a resume needs nothing else.
    `length` is the relative standard deviation of the window, below about 0.28.
    """

    def __init__(self, model: nn.Module, length: float) -> None:
        self._model = model
        self._gamma = _gamma_of(length)
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 0."""
        decay = (1 - 1 / (step + 1)) ** (self._gamma + 1)
        torch._foreach_lerp_(list(self.weights.values()), list(self._model.state_dict().values()), 1 - decay)

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])


def _gamma_of(length: float) -> float:
    """Solve length^2 = (g + 1) / ((g + 2)^2 (g + 3)) for g (Karras et al. 2024, eq. 123) by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        if (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > length**2:
            low = middle
        else:
            high = middle
    return low
