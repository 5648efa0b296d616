"""From a checkpoint and prompts to pictures: guided integration of the flow, grids and strips as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from policy.errors import InputError, IntegrityError
from policy.provenance import CheckpointRecord
from training.checkpoint import open_checkpoint, write_durably
from training.conditioning import CaptionTokens, TextEncoder
from training.config import TrainingConfig
from training.denoiser import Denoiser
from training.diffusion import expected_picture
from training.randomness import normals, sample_keys

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class LoadedDenoiser:
    """A denoiser ready to sample, with the config and the record it came with."""

    model: Denoiser
    config: TrainingConfig
    record: CheckpointRecord


def load_denoiser(checkpoint_dir: Path, *, ema: bool = True, device: str = "cpu") -> LoadedDenoiser:
    """Load a checkpoint's averaged (or, with ema=False, last) weights after verifying its MANIFEST.

    Raises IntegrityError for a damaged checkpoint or weights of another shape, InputError where none is.
    """
    if not checkpoint_dir.is_dir():
        raise InputError("no such checkpoint", where=str(checkpoint_dir), remedy="Name a step-* directory of a run")
    checkpoint = open_checkpoint(checkpoint_dir)
    path = checkpoint_dir / CONFIG
    if not path.is_file():
        raise InputError("not the checkpoint of a diffusion run: it has no config", where=str(path))
    config = TrainingConfig.from_json(path.read_text(), where=str(path))
    model = Denoiser(config.denoiser)
    try:
        model.load_state_dict(checkpoint.tensors("ema" if ema else "model"))
    except RuntimeError as error:
        raise IntegrityError("the weights are not those of the config", where=str(checkpoint_dir)) from error
    return LoadedDenoiser(model.to(device).eval(), config, checkpoint.record)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the integration: x_t and the picture expected from it, [B, 3, S, S] each, at time t (1 is noise)."""

    t: float
    x_t: Tensor
    expected: Tensor


def sample(
    model: Denoiser,
    text_encoder: TextEncoder,
    prompts: Sequence[str],
    config: TrainingConfig,
    *,
    seed: int = 0,
    steps: int = 24,
    guidance: float = 3.0,
) -> Tensor:
    """Pictures for prompts, [B, 3, S, S] in [-1, 1]. A prompt's picture depends on seed, its place and itself only."""
    for moment in integrate(model, text_encoder, prompts, config, seed=seed, steps=steps, guidance=guidance):
        last = moment.x_t
    return last.clamp(-1, 1)


@torch.no_grad()
def integrate(
    model: Denoiser,
    text_encoder: TextEncoder,
    prompts: Sequence[str],
    config: TrainingConfig,
    *,
    seed: int,
    steps: int,
    guidance: float,
) -> Iterator[Moment]:
    """The way from noise (t = 1) to pictures (t = 0) by Heun's method, steps + 1 moments.

    Classifier-free guidance (Ho and Salimans 2022): v = v_none + guidance * (v_caption - v_none).
    """
    if not prompts or steps < 1:
        raise InputError("sampling needs at least one prompt and one step", where="sample")
    size, count = config.denoiser.image_size, len(prompts)
    device = next(model.parameters()).device
    text, mask = CaptionTokens(text_encoder, config.denoiser.text_tokens).batch(prompts)
    text = torch.cat((text, torch.zeros_like(text))).to(device)
    mask = torch.cat((mask, torch.zeros_like(mask))).to(device)
    keys = sample_keys(seed, np.zeros(count, dtype=np.int64), np.arange(count), "sample")
    x = torch.from_numpy(normals(keys, 3 * size**2)).reshape(count, 3, size, size).to(device)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        both = x_t.repeat(2, 1, 1, 1)
        pictures = expected_picture(model, both, t.expand(2 * count), text, mask, config.precision)
        captioned, plain = ((both - pictures) / t).chunk(2)
        return plain + guidance * (captioned - plain)

    times = torch.linspace(1, 0, steps + 1, device=device)
    for t, after in pairwise(times):
        v = guided(x, t)
        yield Moment(float(t), x.cpu(), (x - t * v).cpu())
        following = x + (after - t) * v
        if after > 0:  # Heun's correction (Karras et al. 2022, algorithm 1), but for the last step
            following = x + (after - t) * (v + guided(following, after)) / 2
        x = following
    yield Moment(0.0, x.cpu(), x.cpu())


def grid_png(images: Tensor, prompts: Sequence[str], path: Path, *, columns: int = 3, scale: int = 6) -> None:
    """Write pictures [B, 3, S, S] in [-1, 1] as one PNG, each with its prompt below."""
    rows = math.ceil(len(images) / columns)
    side, gap, caption = images.shape[-1] * scale, 12, 26
    canvas = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + caption + gap) + gap), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for i, (picture, prompt) in enumerate(zip(images, prompts, strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + caption + gap)
        canvas.paste(_to_image(picture).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        draw.rectangle((x - 1, y - 1, x + side, y + side), outline="#dddddd")
        draw.text((x + side / 2, y + side + 4), _fitting(prompt, font, side), fill="black", font=font, anchor="ma")
    _write_png(canvas, path)


def strip_png(moments: Sequence[Moment], prompts: Sequence[str], path: Path, *, shown: int = 9, scale: int = 4) -> None:
    """Write how noise becomes a picture, a row a prompt: x_t from left to right at `shown` times, t above each."""
    picked = [moments[round(i * (len(moments) - 1) / (shown - 1))] for i in range(shown)]
    side, gap, caption = picked[0].x_t.shape[-1] * scale, 6, 22
    height = caption + len(prompts) * (side + caption + gap)
    canvas = Image.new("RGB", (shown * (side + gap) + gap, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for column, moment in enumerate(picked):
        x = gap + column * (side + gap)
        draw.text((x + side / 2, 3), f"t = {moment.t:.2f}", fill="#777777", font=font, anchor="ma")
        for row in range(len(prompts)):
            picture = _to_image(moment.x_t[row]).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (x, caption + row * (side + caption + gap)))
    for row, prompt in enumerate(prompts):
        place = (gap, caption + row * (side + caption + gap) + side + 2)
        draw.text(place, _fitting(prompt, font, canvas.width - 2 * gap), fill="black", font=font)
    _write_png(canvas, path)


def _to_image(picture: Tensor) -> Image.Image:
    pixels: npt.NDArray[np.uint8] = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, shortened to fit a width in pixels; characters that Pillow's own font lacks are drawn as boxes."""
    while len(text) > 1 and font.getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _write_png(image: Image.Image, path: Path) -> None:
    data = io.BytesIO()
    image.save(data, "PNG")
    write_durably(path, data.getvalue())
