"""Sample: pictures drawn by a checkpoint, as a grid or as a strip from noise to picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.home import Home
from flows.stages.removing.exposure import require_standing
from flows.stages.removing.withdrawing import record_drawn, refuse_listed
from flows.stages.train import newest_run
from policy.errors import InputError

SAMPLING_STEPS = 24
GUIDANCE = 3.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """The PNG that was written, and the checkpoint that drew it."""

    path: str
    checkpoint: str
    prompts: tuple[str, ...]
    seed: int


def sample(
    home: Home,
    prompts: Sequence[str],
    *,
    run: str | None = None,
    step: int | None = None,
    seed: int = 1,
    per_prompt: int = 4,
    guidance: float | None = None,
    strip: bool = False,
    out: Path | None = None,
) -> Drawn:
    """Draw the prompts and write a PNG.

    Raises:
        InputError: no such run or step. RefusedError: the checkpoint was withdrawn, or saw what was removed since.
        IntegrityError: its files are not what was saved.
    """
    from curation.clip_model import PackagedTextEncoder
    from training.checkpoint import checkpoint_dir, list_checkpoints
    from training.numerics import enforce_determinism
    from training.sampling import grid_png, integrate, load_denoiser, strip_png

    run_dir = newest_run(home, "diffusion", run, step=step)
    there = list_checkpoints(run_dir)
    path = checkpoint_dir(run_dir, step) if step is not None else there[-1]
    if not path.is_dir():
        steps = ", ".join(str(int(p.name.removeprefix("step-"))) for p in there)
        raise InputError(f"no checkpoint at step {step}", where=str(run_dir), remedy=f"There are: {steps}")
    enforce_determinism(home.settings.training.threads)
    loaded = load_denoiser(path)
    checkpoint = loaded.record.checkpoint
    require_standing(home, checkpoint)
    refuse_listed(home, dict(loaded.record.files), str(path))
    drawn = list(prompts) if strip else list(prompts) * per_prompt
    moments = list(
        integrate(
            loaded.model,
            PackagedTextEncoder(),
            drawn,
            loaded.config,
            seed=seed,
            steps=SAMPLING_STEPS,
            guidance=GUIDANCE if guidance is None else guidance,
        )
    )
    name = hashlib.blake2b("\0".join([*drawn, str(seed), str(strip)]).encode(), digest_size=4).hexdigest()
    target = out or home.samples_path / f"{run_dir.name}-{path.name}-{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    record_drawn(home, checkpoint, target)
    if strip:
        strip_png(moments, drawn, target)
    else:
        # One column a prompt, as long as the columns fit on a page.
        grid_png(moments[-1].x_t, drawn, target, columns=min(len(prompts), 8) if len(prompts) > 1 else per_prompt)
    return Drawn(str(target), checkpoint, tuple(prompts), seed)
