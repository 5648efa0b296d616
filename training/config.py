"""What a diffusion run is told: one frozen dataclass, and one table of presets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from policy.errors import ConfigurationError
from policy.provenance import canonical_json, config_digest
from training.denoiser import DenoiserConfig

# Where and how often, not what is learnt: these may differ between a run and its resume.
# Another thread count or device breaks the numeric contract, which is recorded apart and taints.
OPERATIONAL = frozenset({"threads", "device", "checkpoint_every", "keep_checkpoints", "loader_workers"})


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """A run's settings. The number of steps is fixed beforehand, never a time budget: a run is a pure function.

    `learning_rate` is AdamW's, `matrix_learning_rate` Muon's (the blocks' weight matrices). Both warm up over
    `warmup_steps`, stay, and fall linearly to zero over the last `cooldown` (a share of the steps).
    `timestep_mean`, `timestep_std`: logit-normal timesteps, 1 is noise. `crop`: the smallest share of the picture's
    side that a random crop keeps (1: none). `smallest_divisor`: see training/diffusion.py. `ema_length`: the averaging
    window as a share of the steps done. `window_shards`: slots are mixed within so many shards (docs/order.md); 0: all.
    `curriculum`: "uniform", or "revocable-last": what can be taken back is fed in the last `revocable_steps` (a share)
    of the steps alone (training/curriculum.py).
    """

    denoiser: DenoiserConfig
    batch_size: int
    steps: int
    seed: int = 0
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.01
    warmup_steps: int = 20
    cooldown: float = 0.4
    clip_norm: float = 1.0
    caption_dropout: float = 0.1
    flip: bool = True
    crop: float = 1.0
    timestep_mean: float = 0.5
    timestep_std: float = 1.0
    smallest_divisor: float = 0.3
    ema_length: float = 0.1
    precision: str = "bf16"
    window_shards: int = 0
    curriculum: str = "uniform"
    revocable_steps: float = 0.15
    threads: int = 2
    device: str = "cpu"
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    loader_workers: int = 0

    def __post_init__(self) -> None:
        for name, good in (
            ("batch_size", self.batch_size >= 1),
            ("steps", self.steps >= 1),
            ("threads", self.threads >= 1),
            ("checkpoint_every", self.checkpoint_every >= 1),
            ("keep_checkpoints", self.keep_checkpoints >= 1),
            ("loader_workers", self.loader_workers >= 0),
            ("window_shards", self.window_shards >= 0),
            ("curriculum", self.curriculum in ("uniform", "revocable-last")),
            ("revocable_steps", 0 < self.revocable_steps < 1),
            ("precision", self.precision in ("fp32", "bf16")),
            ("crop", 0 < self.crop <= 1),
            ("caption_dropout", 0 <= self.caption_dropout < 1),
            ("denoiser.patch", self.denoiser.image_size % self.denoiser.patch == 0),
            ("denoiser.heads", self.denoiser.width % (4 * self.denoiser.heads) == 0),
        ):
            if not good:
                raise ConfigurationError(f"{name} has an impossible value", where="training config")

    @property
    def digest(self) -> str:
        """Digest of what decides the weights; operational settings apart."""
        learnt = {name: value for name, value in asdict(self).items() if name not in OPERATIONAL}
        if not self.window_shards:
            del learnt["window_shards"]  # runs of builds that had no windows keep their digest
        if self.curriculum == "uniform":
            del learnt["curriculum"], learnt["revocable_steps"]  # nor a curriculum
        return config_digest(learnt)

    def to_json(self) -> str:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str, *, where: str = "config") -> Self:
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**{**data, "denoiser": DenoiserConfig(**data["denoiser"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"not a training config of this version ({error})", where=where) from error

    def learning_rate_factor(self, step: int) -> float:
        """Warm-up, plateau, linear cool-down: a factor in (0, 1] for both learning rates."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, (self.steps - step) / max(1.0, self.cooldown * self.steps))
        return rise * fall


def preset(name: str, **changes: object) -> TrainingConfig:
    """A preset with some settings changed; ConfigurationError names unknown presets and settings."""
    if name not in PRESETS:
        raise ConfigurationError(f"no preset {name!r}", where="preset", remedy=f"Known: {', '.join(PRESETS)}")
    unknown = changes.keys() - {field.name for field in fields(TrainingConfig)}
    if unknown:
        raise ConfigurationError(f"unknown setting {', '.join(sorted(unknown))}", where=f"preset {name}")
    return replace(PRESETS[name], **changes)  # type: ignore[arg-type]


# demo: about 4 minutes on two idle cores. small-64: for a GPU; laid out, not yet trained.
# fmt: off
PRESETS = {
    "tiny":     TrainingConfig(DenoiserConfig(16, 4, 32, 1, 2, text_tokens=8), batch_size=4, steps=12, warmup_steps=2, threads=1, checkpoint_every=4),  # noqa: E501  one line a preset
    "demo":     TrainingConfig(DenoiserConfig(32, 4, 192, 6, 3), batch_size=32, steps=1500, checkpoint_every=375),
    "small-64": TrainingConfig(DenoiserConfig(64, 4, 384, 10, 6), batch_size=256, steps=20_000, device="cuda", checkpoint_every=1000),  # noqa: E501
}
# fmt: on
