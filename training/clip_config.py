"""What a CLIP run is told: one frozen dataclass, and what differs by image tower."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from curation.own_clip import FINETUNE, HEAD, LAST_STAGE, SCRATCH, own_clip_config
from policy.errors import ConfigurationError
from policy.provenance import config_digest

# Where and how often, not what is learnt: these may differ between a run and its resume, as in training/config.py.
OPERATIONAL = frozenset({"threads", "device", "checkpoint_every", "keep_checkpoints", "feature_bytes"})


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """A CLIP run.

    `image_size`: side in pixels that pictures are padded and scaled to. `batch_size`: pairs that are told apart in one
    step; `micro_batch`: how many of them are in memory at once (0: all; else it divides the batch).

    `image_tower`: "head", "finetune" or "scratch" (curation/own_clip.py); `unlocked_from`: the first stage of
    EfficientNet that "finetune" trains; `scratch_model`: timm's name of what "scratch" trains.

    `views`: 1 shows every picture as it is; more are fixed variants of a slot, the first of them the picture as it is,
    of which each epoch draws one; 0 makes a new variant every time. A variant is a crop of at least `crop_area` of the
    picture, its colours changed by up to `jitter`, mirrored half of the time if `flip` and its caption allow it
    (training/augmentation.py). `feature_bytes`: what a tower's frozen part gives is kept in memory up to this size.

    `learning_rate` of what starts from nothing; packaged weights that are unlocked take `packaged_rate` times as much.
    `initial_scale`: one over the temperature; learned and at most `max_scale`, or fixed where `learn_scale` is false.
    `dropout` of the projection's hidden layer.

    `held_out`: pairs never fed.
    """

    image_size: int = 128
    steps: int = 400
    batch_size: int = 256
    micro_batch: int = 0
    image_tower: str = HEAD
    unlocked_from: int = 6
    scratch_model: str = "vit_tiny_patch16_224"
    views: int = 1
    crop_area: float = 0.5
    jitter: float = 0.2
    flip: bool = True
    feature_bytes: int = 2_000_000_000
    learning_rate: float = 2e-3
    packaged_rate: float = 0.1
    warmup_steps: int = 20
    weight_decay: float = 0.2
    clip_norm: float = 1.0
    dropout: float = 0.5
    initial_scale: float = 14.0
    max_scale: float = 100.0
    learn_scale: bool = True
    held_out: int = 200
    precision: str = "fp32"
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("image_size", 32 <= self.image_size <= 1024, "from 32 to 1024"),
            ("steps", self.steps >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("micro_batch", _divides(self.micro_batch, self.batch_size), f"0 or a divisor of {self.batch_size}"),
            ("image_tower", self.image_tower in (HEAD, FINETUNE, SCRATCH), f"{HEAD}, {FINETUNE} or {SCRATCH}"),
            ("unlocked_from", 1 <= self.unlocked_from <= LAST_STAGE, f"from 1 to {LAST_STAGE}"),
            ("views", 0 <= self.views <= 1000, "from 0 to 1000"),
            ("crop_area", 0 < self.crop_area <= 1, "above 0, at most 1"),
            ("jitter", 0 <= self.jitter < 1, "from 0 to below 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("packaged_rate", self.packaged_rate > 0, "above 0"),
            ("clip_norm", self.clip_norm > 0, "above 0"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("initial_scale", 1 <= self.initial_scale <= self.max_scale, f"from 1 to {self.max_scale:g}"),
            ("held_out", self.held_out >= 1, "at least 1"),
            ("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16"),
            ("checkpoint_every", self.checkpoint_every >= 1, "at least 1"),
            ("keep_checkpoints", self.keep_checkpoints >= 1, "at least 1"),
            ("threads", self.threads >= 1, "at least 1"),
        ):
            if not good:
                raise ConfigurationError(
                    f"{name} must be {expected}, is {getattr(self, name)!r}", where="CLIP's training ([clip])"
                )

    @property
    def digest(self) -> str:
        """Digest of what decides the weights; operational settings apart."""
        return config_digest(self.learnt)

    @property
    def learnt(self) -> dict[str, Any]:
        """The settings that decide the weights."""
        return {name: value for name, value in asdict(self).items() if name not in OPERATIONAL}

    @property
    def rows_at_once(self) -> int:
        """How many pairs' activations are in memory at once."""
        return self.micro_batch or self.batch_size

    @property
    def model(self) -> dict[str, Any]:
        """The open_clip_config.json of the model that this run trains."""
        return own_clip_config(
            self.image_size, self.image_tower, unlocked_from=self.unlocked_from, scratch_model=self.scratch_model
        )


def for_tower(image_tower: str, **changes: object) -> ClipConfig:
    """The settings that suit an image tower, some of them changed; ConfigurationError names unknown ones."""
    if image_tower not in TOWERS:
        known = ", ".join(TOWERS)
        raise ConfigurationError(
            f"no image tower {image_tower!r}", where="[clip] image_tower", remedy=f"Known: {known}"
        )
    unknown = changes.keys() - {field.name for field in fields(ClipConfig)}
    if unknown:
        raise ConfigurationError(f"unknown setting {', '.join(sorted(unknown))}", where="CLIP's training ([clip])")
    return replace(TOWERS[image_tower], **changes)  # type: ignore[arg-type]


def _divides(part: int, whole: int) -> bool:
    return part == 0 or (0 < part <= whole and whole % part == 0)


TOWERS = {
    HEAD: ClipConfig(),
    FINETUNE: ClipConfig(image_tower=FINETUNE),
    SCRATCH: ClipConfig(image_tower=SCRATCH, learning_rate=1e-3, dropout=0.0),
}
