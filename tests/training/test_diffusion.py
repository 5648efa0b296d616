"""The flow: keyed draws, and empty slots that weigh nothing."""

import numpy as np
import pytest
import torch

from policy.errors import ConfigurationError
from training.conditioning import CaptionTokens
from training.config import PRESETS, TrainingConfig, preset
from training.denoiser import Denoiser
from training.diffusion import draw_kept_captions, draw_noise, draw_timesteps, flow_loss
from training.ema import Ema


def a_batch(config, encoder):
    ordinals, epochs = np.arange(4), np.zeros(4, dtype=np.int64)
    text, mask = CaptionTokens(encoder, config.denoiser.text_tokens).batch(["red apple", "plum", "", "blue plum"])
    noise = draw_noise(0, epochs, ordinals, config.denoiser.image_size)
    t = draw_timesteps(0, epochs, ordinals, 0.0, 1.0)
    return torch.rand(4, 3, 16, 16) * 2 - 1, noise, t, text, mask


def a_model(config):
    torch.manual_seed(0)
    model = Denoiser(config.denoiser)
    for parameter in model.parameters():  # away from adaLN-zero, where everything is zero
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model, *inputs):
    model.zero_grad()
    loss = flow_loss(model, *inputs)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def test_what_an_empty_slot_holds_changes_no_bit(encoder):
    """Pixels, noise, caption and timestep of a slot that is not real do not reach loss or gradient."""
    config = preset("tiny")
    model = a_model(config)
    pixels, noise, t, text, mask = a_batch(config, encoder)
    real = torch.tensor([True, False, True, True])
    loss, grads = gradients(model, pixels, noise, t, text, mask, real, config)
    other = [pixels.clone(), noise.clone(), t.clone(), text.clone(), mask.clone()]
    for tensor in other[:4]:
        tensor[1] = 0.77
    other[4][1] = True
    other_loss, other_grads = gradients(model, *other, real, config)
    assert torch.equal(loss, other_loss)
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))


def test_the_divisor_stays_the_nominal_batch(encoder):
    """Emptying slots takes away their share and leaves the others' as it was."""
    config = preset("tiny", precision="fp32")
    model = a_model(config)
    inputs = a_batch(config, encoder)
    parts = [
        float(flow_loss(model, *inputs, torch.tensor([i in kept for i in range(4)]), config).detach())
        for kept in ([0, 1, 2, 3], [0, 1], [2, 3])
    ]
    assert parts[0] == pytest.approx(parts[1] + parts[2], rel=1e-5)
    assert flow_loss(model, *inputs, torch.zeros(4, dtype=torch.bool), config).item() == 0


def test_draws_belong_to_the_exposure():
    """Noise, timestep and dropped caption of (epoch, ordinal) are the same in any batch."""
    ordinals, epochs = np.array([3, 8, 3]), np.array([0, 0, 2])
    noise = draw_noise(5, epochs, ordinals, 16)
    assert torch.equal(noise[2], draw_noise(5, epochs[2:], ordinals[2:], 16)[0])
    assert not torch.equal(noise[0], noise[2])
    t = draw_timesteps(5, epochs, ordinals, 0.0, 1.0)
    assert torch.equal(t[1:], draw_timesteps(5, epochs[1:], ordinals[1:], 0.0, 1.0))
    assert torch.equal(draw_kept_captions(5, epochs, ordinals, 0.0), torch.ones(3, dtype=torch.bool))


def test_timesteps_are_logit_normal_and_epochs_cover_the_quantiles():
    """Median and quartiles are those of the distribution; one sample's epochs spread over all of it."""
    many = draw_timesteps(0, np.zeros(4000, dtype=np.int64), np.arange(4000), 0.5, 1.0)
    assert torch.logit(many).mean() == pytest.approx(0.5, abs=0.06)
    assert torch.logit(many).std() == pytest.approx(1.0, abs=0.06)
    epochs = draw_timesteps(0, np.arange(8), np.full(8, 3), 0.0, 1.0)
    quantiles = torch.special.ndtr(torch.logit(epochs.double())).sort().values
    assert (quantiles.diff() > 0.05).all()


def test_dropped_captions_are_as_many_as_asked():
    """Caption dropout holds on average."""
    kept = draw_kept_captions(0, np.zeros(4000, dtype=np.int64), np.arange(4000), 0.1)
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.02)


def test_the_average_forgets_the_start():
    """The first update takes the weights over whole; later ones keep a share of what was."""
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, 0.1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        ema.update(0)
        assert ema.weights["weight"].item() == 1.0
        model.weight.fill_(0.0)
        ema.update(99)
    assert 0.9 < ema.weights["weight"].item() < 0.95


def test_a_caption_is_encoded_once_and_can_be_forgotten(encoder):
    """Tokens are kept by caption; the empty caption has no tokens; capacity is bounded."""
    captions = CaptionTokens(encoder, 4, capacity=2)
    first = captions.batch(["red apple", "", "red apple"])
    assert first[1].sum(1).tolist() == [2, 0, 2]
    assert torch.equal(first[0][0], first[0][2])
    captions.forget("red apple")
    assert torch.equal(captions.batch(["red apple"])[0][0], first[0][0])
    assert captions.batch(["a", "b", "c"])[0].shape == (3, 4, 384)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    """What is stored with a run gives the same config back."""
    assert TrainingConfig.from_json(PRESETS[name].to_json()) == PRESETS[name]
    assert preset(name, threads=7, checkpoint_every=3).digest == PRESETS[name].digest
    assert preset(name, seed=1).digest != PRESETS[name].digest


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("huge", {}, "no preset"),
        ("tiny", {"colour": 1}, "unknown setting colour"),
        ("tiny", {"steps": 0}, "steps"),
        ("tiny", {"precision": "fp8"}, "precision"),
    ],
)
def test_impossible_settings_are_refused(name, changes, says):
    """A config that cannot be trained is refused before anything starts."""
    with pytest.raises(ConfigurationError, match=says):
        preset(name, **changes)
