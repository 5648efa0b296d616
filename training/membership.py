"""Membership inference against a diffusion checkpoint: does it still know pictures that it should not know?

A model's loss on what it was trained on is lower than on what it never saw. The score of a picture is its log loss at
fixed draws of (timestep, noise), the same for every picture and every model, averaged and with its sign turned
(Matsumoto et al. 2023, "Membership Inference Attacks against Diffusion Models"; Carlini et al. 2023, "Extracting
Training Data from Diffusion Models", section 5; Duan et al. 2023 take the error of one deterministic step instead).
Logs, because losses of pictures differ by factors. Some pictures are easy for every model: calibrated, a score is what
a reference model that never saw the picture loses more (Watson et al. 2022, "On the Importance of Difficulty
Calibration in Membership Inference Attacks"; one reference model of the many of Carlini et al. 2022, "Membership
Inference Attacks From First Principles").

What is told is how well scores tell removed pictures from pictures that were never seen: the area under the ROC curve,
with its interval. 0.5 says that this test finds nothing, never that there is nothing to find: stronger attacks exist.
Far below 0.5 tells as much as far above: a removed picture that is done worse than an unknown one stands out, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from curation.images import DecodeError, decode
from curation.shard_reader import DatasetReader
from policy.errors import InputError
from policy.provenance import Auc, Difference, Forgetting
from training.batches import crop_to_square
from training.conditioning import CaptionTokens
from training.diffusion import flow_errors
from training.randomness import normals, sample_keys
from training.sampling import LoadedDenoiser, load_denoiser

Losses = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float64]

DRAWS = 16
DRAWS_SEED = 20_261_129
LOWEST_T, HIGHEST_T = 0.2, 0.9  # below, every model sees the picture; above, none does
CONFIDENCE = 0.95
MOST_UNCERTAIN = 0.3  # how far the interval may reach to either side where scores say nothing
LOW_FPR = 0.01
TINY = 1e-12  # a loss of nothing has no log


@dataclass(frozen=True, slots=True)
class Samples:
    """Slots of a sealed dataset."""

    reader: DatasetReader
    ordinals: tuple[int, ...]


# ── losses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def sample_losses(
    model: Path | LoadedDenoiser,
    reader: DatasetReader,
    ordinals: Sequence[int],
    *,
    captions: CaptionTokens,
    draws: int = DRAWS,
    seed: int = DRAWS_SEED,
) -> Losses:
    """The velocity's loss of each slot at each draw, [N, draws], under its caption, in fp32, upright and uncropped.

    model: a checkpoint's directory (its averaged weights are taken) or a loaded one. A slot's losses depend on nothing
    but model, slot, draws and seed. Raises InputError for a slot that is empty or cannot be decoded, IntegrityError
    for a damaged checkpoint.
    """
    if draws < 1:
        raise InputError(f"a loss needs at least one draw, not {draws}", where="membership")
    loaded = load_denoiser(model) if isinstance(model, Path) else model
    config, device = replace(loaded.config, precision="fp32"), next(loaded.model.parameters()).device
    t, noise = (draw.to(device) for draw in fixed_draws(seed, draws, config.denoiser.image_size))
    real = torch.ones(draws, dtype=torch.bool, device=device)
    losses = np.empty((len(ordinals), draws))
    # One slot at a time: the shapes are then always the same, and no neighbour changes a bit.
    for row, ordinal in enumerate(ordinals):
        picture, caption = shown(reader, ordinal, config.denoiser.image_size)
        pixels = picture.to(device).expand(draws, *picture.shape)
        text, mask = (tokens.to(device) for tokens in captions.batch([caption] * draws))
        losses[row] = flow_errors(loaded.model, pixels, noise, t, text, mask, real, config).double().cpu().numpy()
    return losses


def fixed_draws(seed: int, draws: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Timesteps [draws], spread evenly, and keyed noise [draws, 3, S, S]: those of every slot and model."""
    t = LOWEST_T + (HIGHEST_T - LOWEST_T) * (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    keys = sample_keys(seed, np.arange(draws), np.zeros(draws, dtype=np.int64), "membership")
    noise = torch.from_numpy(normals(keys, 3 * image_size**2)).reshape(draws, 3, image_size, image_size)
    return t.float(), noise


def shown(reader: DatasetReader, ordinal: int, size: int) -> tuple[Tensor, str]:
    """A slot's picture, [3, S, S] float32 in [-1, 1], its centre square, and its caption. InputError: it has none."""
    pair = reader.pair(ordinal) if 0 <= ordinal < reader.slots else None
    if pair is None:
        there = "holds no sample" if 0 <= ordinal < reader.slots else f"is none of {reader.slots}"
        raise InputError(f"slot {ordinal} {there}: what it would lose cannot be measured", where=reader.directory)
    try:
        rgb = crop_to_square(decode(pair[0], min_side_px=size), size, np.zeros(4), 1.0)
    except DecodeError as error:
        raise InputError(
            f"the picture of slot {ordinal} cannot be decoded ({error})", where=reader.directory
        ) from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float().div_(127.5).sub_(1), pair[1]


# ── statistics ─────────────────────────────────────────────────────────────────────────────────────────────────────


def auc(members: npt.ArrayLike, non_members: npt.ArrayLike, *, confidence: float = CONFIDENCE) -> Auc:
    """How well scores tell members [M] from non-members [N], higher meaning member: P(m > n) + P(m = n) / 2.

    That is Mann and Whitney's U over M * N. Interval: Newcombe 2006, "Confidence intervals for an effect size measure
    based on the Mann-Whitney statistic. Part 2", method 5: a score interval on the variance of Hanley and McNeil 1982,
    which keeps a width where a few members are all told rightly (DeLong's and the bootstrap's have none there).
    Where non-members are many enough, `tpr`: the share of members found when at most 1 % of non-members are taken for
    some. Raises InputError for no scores, or one that is no number.
    """
    inside, outside = _checked(members), np.sort(_checked(non_members))
    value = int(_twice_below(inside, outside).sum()) / (2 * len(inside) * len(outside))
    low, high = _interval(value, len(inside), len(outside), confidence)
    allowed = math.floor(LOW_FPR * len(outside))
    tpr = float((inside > outside[-1 - allowed]).mean()) if allowed else None
    return Auc(value, low, high, len(inside), len(outside), tpr)


def difference(
    one: tuple[npt.ArrayLike, npt.ArrayLike],
    other: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    confidence: float = CONFIDENCE,
) -> Difference:
    """By how much the AUC of `one` (members, non-members) is above that of `other`, scores of the very same samples.

    Paired, so much narrower than two intervals side by side (DeLong, DeLong and Clarke-Pearson 1988). Raises InputError
    where the samples are not as many.
    """
    (m_1, n_1), (m_2, n_2) = (tuple(map(_checked, pair)) for pair in (one, other))
    if (len(m_1), len(n_1)) != (len(m_2), len(n_2)):
        raise InputError("the scores are not of the same samples", where="membership")
    over_members = _placements(m_1, n_1) - _placements(m_2, n_2)
    over_others = _placements(n_2, m_2) - _placements(n_1, m_1)
    value = float(over_members.mean())
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (over_members, over_others) if len(part) > 1)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return Difference(value, max(-1.0, value - reach), min(1.0, value + reach))


def reach_at_chance(members: int, non_members: int, confidence: float = CONFIDENCE) -> float:
    """How far the interval of an AUC reaches to either side of 0.5 when scores say nothing."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return z * math.sqrt((members + non_members + 1) / (12 * members * non_members))


def says_anything(removed: int, held_out: int) -> bool:
    """Whether so many samples can say anything of forgetting, whatever their scores."""
    return removed > 0 and held_out > 0 and reach_at_chance(removed, held_out) <= MOST_UNCERTAIN


def refuse_too_few(removed: int, held_out: int) -> None:
    """InputError where so many samples cannot say anything of forgetting."""
    if not says_anything(removed, held_out):
        reach = f" (at chance the interval reaches ±{reach_at_chance(removed, held_out):.2f})" * (
            removed * held_out > 0
        )
        raise InputError(
            f"{removed} removed and {held_out} held-out samples are too few to measure forgetting{reach}: "
            f"beyond ±{MOST_UNCERTAIN} an AUC says nothing",
            where="membership",
            remedy="Batch removals or hold out more (5 removed need 15, 4 need 41); or replay, or withdraw",
        )


# ── forgetting ─────────────────────────────────────────────────────────────────────────────────────────────────────


def forgetting(
    before: Path | LoadedDenoiser,
    after: Path | LoadedDenoiser,
    reference: Path | LoadedDenoiser | None,
    removed: Samples,
    held_out: Samples,
    *,
    captions: CaptionTokens,
    draws: int = DRAWS,
    seed: int = DRAWS_SEED,
) -> Forgetting:
    """How well removed samples are told from held-out ones, before, after, and in a reference that saw neither.

    held_out: samples that none of the models ever saw, of the same kind as the removed; whose they are is for the
    caller to know (training/unlearning.py asks the order and the keys). reference: the exact replay where there is one.
    It also calibrates: what it loses more than a model is that model's score. Raises InputError for too few samples to
    say anything, or for slots without a picture.
    """
    refuse_too_few(len(removed.ordinals), len(held_out.ordinals))

    def losses_of(model: Path | LoadedDenoiser) -> tuple[Losses, Losses]:
        loaded = load_denoiser(model) if isinstance(model, Path) else model
        of_removed, of_held_out = (
            sample_losses(loaded, each.reader, each.ordinals, captions=captions, draws=draws, seed=seed)
            for each in (removed, held_out)
        )
        return of_removed, of_held_out

    return compared(losses_of(before), losses_of(after), losses_of(reference) if reference is not None else None)


def compared(
    before: tuple[Losses, Losses], after: tuple[Losses, Losses], reference: tuple[Losses, Losses] | None
) -> Forgetting:
    """The same from losses, each (of the removed [M, draws], of the held-out [N, draws])."""
    was, now = _scores(before), _scores(after)
    exact = _scores(reference) if reference is not None else None
    return Forgetting(
        draws=before[0].shape[1],
        auc_before=auc(*was),
        auc_after=auc(*now),
        lowered=difference(was, now),
        auc_reference=auc(*exact) if exact else None,
        above_reference=difference(now, exact) if exact else None,
        calibrated_before=auc(was[0] - exact[0], was[1] - exact[1]) if exact else None,
        calibrated_after=auc(now[0] - exact[0], now[1] - exact[1]) if exact else None,
    )


def log_losses(losses: Losses) -> Scores:
    """Each slot's log loss, averaged over its draws: [N, draws] -> [N]."""
    return np.asarray(np.log(np.maximum(losses, TINY)).mean(axis=1), dtype=np.float64)


def _scores(losses: tuple[Losses, Losses]) -> tuple[Scores, Scores]:
    """Higher means member."""
    return -log_losses(losses[0]), -log_losses(losses[1])


def _twice_below(scores: Scores, others: Scores) -> npt.NDArray[np.int64]:
    """How many of the others [N], sorted, each score [M] is above, doubled: equal ones count one."""
    below, up_to = np.searchsorted(others, scores, side="left"), np.searchsorted(others, scores, side="right")
    return np.asarray(below + up_to, dtype=np.int64)


def _placements(scores: Scores, others: Scores) -> Scores:
    """The same as a share of the others, in any order."""
    return _twice_below(scores, np.sort(others)) / (2 * len(others))


def _interval(value: float, members: int, non_members: int, confidence: float) -> tuple[float, float]:
    """All theta with (value - theta)^2 <= z^2 V(theta), by bisection to either side."""
    z, between = NormalDist().inv_cdf((1 + confidence) / 2), (members + non_members) / 2 - 1

    def is_outside(theta: float) -> bool:
        spread = 1 + between * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (members * non_members)
        return (value - theta) ** 2 > z * z * variance

    def edge(far: float) -> float:
        near = value
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if is_outside(middle) else (middle, far)
        return near

    return min(value, edge(0.0)), max(value, edge(1.0))


def _checked(scores: npt.ArrayLike) -> Scores:
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not len(values) or not np.isfinite(values).all():
        what = "a score is no number" if len(values) else "there are no scores"
        raise InputError(what, where="membership")
    return values
