"""Membership inference: the statistic's algebra, its interval, and losses that depend on nothing but what is asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curation.shard_reader import DatasetReader
from policy.errors import InputError
from tests.training.toy_dataset import HashedWords, noise, seal
from training.conditioning import CaptionTokens
from training.config import preset
from training.denoiser import Denoiser
from training.diffusion import flow_loss
from training.membership import (
    Samples,
    auc,
    compared,
    difference,
    fixed_draws,
    forgetting,
    log_losses,
    reach_at_chance,
    refuse_too_few,
    sample_losses,
    says_anything,
    shown,
)
from training.sampling import LoadedDenoiser

CONFIG = preset("tiny")
# Few values, so that there are ties; whole, so that a transform of them stays exact.
SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def brute_force(members, non_members):
    """Every pair, one by one."""
    won = sum((m > n) + (m == n) / 2 for m in members for n in non_members)
    return won / (len(members) * len(non_members))


@given(SCORES, SCORES)
def test_the_auc_is_the_share_of_pairs_that_are_told_rightly(members, non_members):
    """Equal scores count half; turned round it is the rest; each with the mirrored interval around it."""
    found, turned = auc(members, non_members), auc(non_members, members)
    assert found.value == pytest.approx(brute_force(members, non_members), abs=1e-12)
    assert found.value + turned.value == pytest.approx(1, abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (1 - found.high, 1 - found.low) == pytest.approx((turned.low, turned.high), abs=1e-9)
    assert (found.members, found.non_members) == (len(members), len(non_members))


@given(SCORES, SCORES)
def test_only_the_order_of_scores_counts(members, non_members):
    """A rising transform changes nothing, nor does the order in which samples are named."""
    rising = [3 * s**3 + s for s in reversed(members)], [3 * s**3 + s for s in reversed(non_members)]
    assert auc(*rising) == auc(members, non_members)


@given(SCORES, SCORES)
def test_a_difference_is_that_of_the_two_aucs(members, non_members):
    """Against itself it is nothing for sure; against the scores turned round it is 2 AUC - 1, and antisymmetric."""
    one, turned = (members, non_members), ([-s for s in members], [-s for s in non_members])
    same = difference(one, one)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    found, back = difference(one, turned), difference(turned, one)
    assert found.value == pytest.approx(2 * brute_force(*one) - 1, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Normal scores, 12 against 40, one of them shifted: 95 % intervals cover the true AUC in 93 to 97 % of draws."""
    rng, shift = np.random.default_rng(7), 1.2
    truth = 0.5 * (1 + torch.erf(torch.tensor(shift / 2)).item())
    found = [auc(rng.normal(shift, 1, 12), rng.normal(0, 1, 40)) for _ in range(1000)]
    assert 0.93 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.97


def test_the_interval_of_a_perfect_auc_still_has_a_width():
    """Five members told without a mistake do not prove that all are; more of them say more."""
    few, many = auc(np.arange(5) + 100, np.arange(50)), auc(np.arange(80) + 100, np.arange(80))
    assert few.value == many.value == few.high == 1
    assert 0.5 < few.low < many.low < 1


def test_members_found_at_one_per_cent_false_alarms():
    """Of 200 non-members the two highest may be taken for members; below 100 nothing can be said."""
    non_members = np.arange(200)
    assert auc([197, 198, 199, 300], non_members).tpr_at_1pct == 0.75
    assert auc([300], np.arange(99)).tpr_at_1pct is None


def test_scores_that_are_none_are_refused():
    """No scores, a score that is no number, or scores of other samples."""
    for bad in ([], [1.0, np.nan], [np.inf]):
        with pytest.raises(InputError):
            auc(bad, [1.0])
        with pytest.raises(InputError):
            auc([1.0], bad)
    with pytest.raises(InputError, match="same samples"):
        difference(([1.0], [2.0]), ([1.0, 2.0], [2.0]))


@given(st.integers(1, 60), st.integers(1, 300))
def test_too_few_samples_are_refused_whatever_they_say(removed, held_out):
    """So few that chance alone reaches beyond ±0.3; with more on either side never."""
    assert says_anything(removed, held_out) is (reach_at_chance(removed, held_out) <= 0.3)
    if says_anything(removed, held_out):
        refuse_too_few(removed, held_out)
        assert says_anything(removed + 1, held_out)
        assert says_anything(removed, held_out + 1)
    else:
        with pytest.raises(InputError, match=f"{removed} removed and {held_out} held-out"):
            refuse_too_few(removed, held_out)


# ── losses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """Thirty pictures, each unlike the others."""
    from curation.images import encode_jpeg

    folder = seal(tmp_path_factory.mktemp("spots") / "toys", 30, lambda i: encode_jpeg(noise(i, 20, 24)))
    with DatasetReader.open(folder) as reader:
        yield reader


@pytest.fixture(scope="module")
def captions():
    return CaptionTokens(HashedWords(), CONFIG.denoiser.text_tokens)


def a_model(seed: int) -> LoadedDenoiser:
    """A denoiser with weights from a seed, in its last layers, too."""
    torch.manual_seed(seed)
    model = Denoiser(CONFIG.denoiser).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return LoadedDenoiser(model, CONFIG, None)  # type: ignore[arg-type]  # a record is not looked at


@pytest.fixture(scope="module")
def model():
    return a_model(1)


def test_a_slots_losses_are_its_own(model, spots, captions):
    """The same, bit for bit, alone, beside others and again; others under another seed, or of another model."""
    together = sample_losses(model, spots, [3, 7, 11], captions=captions, draws=4)
    assert together.shape == (3, 4)
    assert (together > 0).all()
    assert len(np.unique(together)) == 12
    again = CaptionTokens(HashedWords(), CONFIG.denoiser.text_tokens)
    assert np.array_equal(sample_losses(model, spots, [7], captions=again, draws=4), together[1:2])
    assert not np.isclose(sample_losses(model, spots, [7], captions=captions, draws=4, seed=1), together[1]).any()
    assert not np.isclose(sample_losses(a_model(2), spots, [7], captions=captions, draws=4), together[1]).any()


def test_a_loss_is_the_one_that_training_descends_on(model, spots, captions):
    """At each draw: flow matching's loss of the upright picture under its caption, in fp32."""
    losses = sample_losses(model, spots, [5], captions=captions, draws=3)
    picture, caption = shown(spots, 5, 16)
    t, noise_drawn = fixed_draws(20_261_129, 3, 16)
    text, mask = captions.batch([caption])
    one = replace(CONFIG, precision="fp32", batch_size=1)
    for draw in range(3):
        with torch.no_grad():
            loss = flow_loss(
                model.model,
                picture[None],
                noise_drawn[draw : draw + 1],
                t[draw : draw + 1],
                text,
                mask,
                torch.ones(1, dtype=torch.bool),
                one,
            )
        assert float(loss) == pytest.approx(losses[0, draw], rel=1e-4)


def test_draws_are_spread_over_the_timesteps_that_tell(spots):
    """Timesteps rise evenly within (0.2, 0.9); noise is keyed by seed and draw."""
    t, drawn = fixed_draws(1, 8, 16)
    assert t.diff().allclose(torch.full((7,), 0.7 / 8))
    assert 0.2 < t[0] < t[-1] < 0.9
    assert torch.equal(drawn[:4], fixed_draws(1, 4, 16)[1])
    assert not torch.equal(drawn, fixed_draws(2, 8, 16)[1])


def test_slots_without_a_picture_are_refused(model, spots, captions, tmp_path):
    """One that is none, one that cannot be decoded, and no draws at all."""
    with pytest.raises(InputError, match="slot 99 is none of 30"):
        sample_losses(model, spots, [99], captions=captions)
    with pytest.raises(InputError, match="at least one draw"):
        sample_losses(model, spots, [1], captions=captions, draws=0)
    with (
        DatasetReader.open(seal(tmp_path / "broken", 4, lambda i: b"no picture")) as broken,
        pytest.raises(InputError, match="slot 2 cannot be decoded"),
    ):
        sample_losses(model, broken, [2], captions=captions)


def test_forgetting_states_its_numbers(model, spots, captions):
    """Samples, draws and intervals stand in it; a model that is its own reference has nothing above it, for sure."""
    removed, held_out = Samples(spots, tuple(range(6))), Samples(spots, tuple(range(6, 30)))
    told = forgetting(model, a_model(2), a_model(2), removed, held_out, captions=captions, draws=4)
    assert told.draws == 4
    assert (told.auc_before.members, told.auc_before.non_members) == (6, 24)
    assert told.lowered.value == pytest.approx(told.auc_before.value - told.auc_after.value)
    assert told.auc_reference == told.auc_after
    assert told.above_reference is not None
    assert (told.above_reference.low, told.above_reference.high) == (0, 0)
    assert told.calibrated_after is not None
    assert told.calibrated_after.value == 0.5
    alone = forgetting(model, a_model(2), None, removed, held_out, captions=captions, draws=4)
    assert (alone.auc_before, alone.auc_after) == (told.auc_before, told.auc_after)
    assert (alone.auc_reference, alone.above_reference, alone.calibrated_before) == (None, None, None)
    with pytest.raises(InputError, match="too few"):
        forgetting(model, model, None, Samples(spots, (1, 2)), held_out, captions=captions)


def test_what_is_remembered_is_told_and_calibration_sees_through_what_is_easy():
    """Removed pictures that lose half: hidden among easy and hard ones, certain beside a reference."""
    rng = np.random.default_rng(3)
    never = np.exp(rng.normal(0, 2, 60))[:, None] * np.ones((1, 4))
    remembered = never[:20] / 2
    told = compared((remembered, never[20:]), (never[:20], never[20:]), (never[:20], never[20:]))
    assert told.calibrated_before is not None
    assert told.auc_before.value < 0.8
    assert told.calibrated_before.value == 1
    assert told.lowered.low > 0
    assert log_losses(np.zeros((1, 2))).item() < -20
