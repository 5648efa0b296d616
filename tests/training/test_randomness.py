"""Random numbers belong to a sample, not to a stream."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.diffusion import Draws
from training.randomness import keys_of_purposes, normals, sample_keys, uniforms, words

PINNED = ["0x15ff2adb2df19b3f", "0xafdc953f97cfbd50", "0x8db7ad2eebfd6c84", "0x29bd41e67f623efa"]


def test_a_draw_does_not_depend_on_the_batch_around_it():
    """The same sample in another batch, place or batch size gets the same numbers, bit for bit."""
    whole = normals(sample_keys(3, [1, 1, 2, 2], [5, 6, 5, 7], "noise"), 101)
    alone = normals(sample_keys(3, [2], [5], "noise"), 101)
    assert np.array_equal(whole[2], alone[0])


def test_every_part_of_the_key_matters():
    """Seed, epoch, ordinal and purpose each give other numbers."""
    base = sample_keys(3, [1], [5], "noise")[0]
    others = [
        sample_keys(4, [1], [5], "noise")[0],
        sample_keys(3, [5], [1], "noise")[0],
        sample_keys(3, [1], [6], "noise")[0],
        sample_keys(3, [1], [5], "timestep")[0],
    ]
    assert len({int(k) for k in [base, *others]}) == 5


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.tuples(st.integers(-1, 2**40), st.integers(-1, 2**40)), min_size=1, max_size=9),
)
def test_draws_at_once_are_those_of_each_purpose(seed, slots):
    """All that a batch draws comes of one call, and is what each purpose's own key gives, bit for bit."""
    epochs, ordinals = (np.array(each, dtype=np.int64) for each in zip(*slots, strict=True))
    keys = keys_of_purposes(seed, epochs, ordinals, ("noise", "timestep", "crop"), ("timestep",))
    first = np.zeros_like(epochs)
    expected = [
        sample_keys(seed, e, ordinals, p) for e, p in ((epochs, "noise"), (first, "timestep"), (epochs, "crop"))
    ]
    assert np.array_equal(keys, expected)
    draws = Draws.of(seed, epochs, ordinals)
    assert np.array_equal(draws.crop, uniforms(keys[2], 4))
    assert np.array_equal(draws.noise(2).numpy().reshape(len(slots), -1), normals(keys[0], 12))
    caption = uniforms(sample_keys(seed, epochs, ordinals, "caption"), 1)[:, 0]
    assert np.array_equal(draws.kept_captions(0.4), caption >= 0.4)
    start = uniforms(keys[1], 1)[:, 0] + epochs * 0.6180339887498949
    quantile = torch.from_numpy(np.clip(start % 1.0, 1e-4, 1 - 1e-4))
    assert torch.equal(draws.timesteps(0.2, 1.5), torch.sigmoid(0.2 + 1.5 * torch.special.ndtri(quantile)).float())


def test_the_numbers_are_pinned():
    """A change of the generator would break every recorded run: these values are its version."""
    keys = sample_keys(0, [0, 3], [0, 9], "noise")
    assert [hex(int(w)) for w in words(keys, 2).reshape(-1)] == PINNED


def test_the_distributions_are_right():
    """Uniforms fill [0, 1), normals have the moments of a standard normal, samples are uncorrelated."""
    keys = sample_keys(0, np.zeros(256), np.arange(256), "x")
    u = uniforms(keys, 400)
    assert 0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    z = normals(keys, 401)
    assert z.dtype == np.float32
    assert z.shape == (256, 401)
    moments = [(z**k).mean() for k in (1, 2, 3, 4)]
    assert np.allclose(moments, [0, 1, 0, 3], atol=0.06)
    assert np.abs(np.corrcoef(z) - np.eye(256)).max() < 6 / np.sqrt(401)
