"""CoCa's own words: a small one, trained for seconds on coloured shapes, says what they are, however it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import coca as coca_module
from curation.captions import chosen
from curation.clip_model import ClipSpec, Rgb
from curation.coca import CocaCaptioner, CocaModel, Decoding, detokenised, load_coca
from policy.errors import ConfigurationError
from tests.curation.tiny_coca import ARCHITECTURE, CAPTIONS, drawn, known_to_open_clip, trained_weights

GREEDY, BEAMS, SAMPLED = Decoding("greedy", 8), Decoding("beam", 8, beams=4), Decoding("top-k", 8, top_k=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A CoCa that has learnt six captions, as a safetensors file."""
    folder = tmp_path_factory.mktemp("coca")
    with known_to_open_clip(folder):
        yield trained_weights(folder / "coca.safetensors")


@pytest.fixture(scope="module")
def coca(weights: Path) -> CocaModel:
    return load_coca(ClipSpec(ARCHITECTURE, str(weights)))


@pytest.fixture(scope="module")
def pictures() -> list[Rgb]:
    return [drawn(caption, 1000) for caption in CAPTIONS]


def test_greedy_says_what_is_there(coca: CocaModel, pictures: list[Rgb]) -> None:
    """After some seconds of training the likeliest words are the right ones, end in time, and are well written."""
    said = [first for (first,) in coca.generate(pictures, GREEDY)]
    assert [g.text for g in said] == CAPTIONS
    assert all(g.length == len(g.tokens) + 1 for g in said)
    assert all(g.mean_log_probability <= 0 for g in said)


def test_beams_are_never_worse_than_greedy(coca: CocaModel) -> None:
    """Under every length penalty, with one beam or many, on pictures it knows and on noise it does not."""
    noise = [np.random.default_rng(n).integers(0, 256, (16, 16, 3)).astype(np.uint8) for n in range(5)]
    for penalty in (0.0, 1.0, 2.0):
        for beams in (1, 4):
            decoding = Decoding("beam", 8, beams=beams, length_penalty=penalty)
            by_beams = coca.generate(noise, decoding)
            for (best,), (greedy,) in zip(by_beams, coca.generate(noise, GREEDY), strict=True):
                assert best.ranked_by(penalty) >= greedy.ranked_by(penalty) - 1e-5


def test_beams_give_several_texts_the_likeliest_first(coca: CocaModel, pictures: list[Rgb]) -> None:
    """Asked for three, a picture has three different texts in the order of their scores; the first is right."""
    several = coca.generate(pictures, BEAMS, 3)
    for caption, three in zip(CAPTIONS, several, strict=True):
        assert three[0].text == caption
        assert len({g.text for g in three}) == 3
        assert [g.ranked_by(1.0) for g in three] == sorted((g.ranked_by(1.0) for g in three), reverse=True)


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS, SAMPLED], ids=lambda d: d.method)
def test_a_picture_is_captioned_alone_as_among_others(coca: CocaModel, pictures: list[Rgb], decoding: Decoding) -> None:
    """The same bits, whichever pictures share the batch and in whatever order: also where words are drawn."""
    noise = [np.random.default_rng(n).integers(0, 256, (16, 16, 3)).astype(np.uint8) for n in range(4)]
    among = coca.generate([*pictures, *noise], decoding, 2)
    assert coca.generate(noise[2:3], decoding, 2) == among[len(pictures) + 2 : len(pictures) + 3]
    assert coca.generate([*noise, *pictures], decoding, 2) == among[len(pictures) :] + among[: len(pictures)]


def test_what_is_drawn_follows_the_seed(coca: CocaModel) -> None:
    """Sampling with another seed says something else somewhere, with one candidate it is greedy."""
    noise = [np.random.default_rng(n).integers(0, 256, (16, 16, 3)).astype(np.uint8) for n in range(12)]
    hot = replace(SAMPLED, temperature=3.0)
    assert coca.generate(noise, hot) != coca.generate(noise, replace(hot, seed=1))
    assert coca.generate(noise, replace(SAMPLED, top_k=1)) == coca.generate(noise, GREEDY)


def test_no_words_are_repeated_where_that_is_asked(coca: CocaModel) -> None:
    """With no_repeat_ngram = 1 no token comes twice; a text stops at max_tokens at the latest."""
    noise = [np.random.default_rng(n).integers(0, 256, (16, 16, 3)).astype(np.uint8) for n in range(6)]
    for decoding in (GREEDY, BEAMS):
        for (said,) in coca.generate(noise, replace(decoding, no_repeat_ngram=1)):
            assert len(set(said.tokens)) == len(said.tokens)
    for (said,) in coca.generate(noise, replace(GREEDY, max_tokens=2)):
        assert len(said.tokens) == 2 == said.length
    assert coca_module._would_repeat((1, 2, 3, 1, 2), 3) == {3}


def test_captions_carry_their_model_and_a_confidence(coca: CocaModel, pictures: list[Rgb]) -> None:
    """Source, kind and origin say that a model made the words; the score is the cosine under its other half."""
    captioner = CocaCaptioner(coca, threshold=0.3, decoding=BEAMS)
    results = captioner.caption_images(pictures)
    assert [r.text for r in results] == CAPTIONS
    assert {(r.origin, r.source_kind, r.source) for r in results} == {("coca", "model", f"generated:{coca.digest}")}
    own = coca.clip.encode_texts(CAPTIONS)
    for result, image, text in zip(results, coca.clip.encode_images(pictures), own, strict=True):
        assert result.score == pytest.approx(float(image @ text), abs=1e-6)
    assert all(r.kept for r in results)
    unsure = CocaCaptioner(coca, threshold=1.1, decoding=GREEDY).propose(pictures[:1])
    [result] = chosen(CocaCaptioner(coca, threshold=1.1, decoding=GREEDY), unsure)
    assert result is not None
    assert not result.kept


def test_what_cannot_write_says_so(weights: Path, tmp_path: Path) -> None:
    """No text decoder, a downloaded tokenizer, no weights, another model's weights, unknown decodings: one message."""
    with pytest.raises(ConfigurationError, match="no text decoder"):
        load_coca(ClipSpec("ViT-B-32", str(weights)))
    with pytest.raises(ConfigurationError, match="downloaded"):
        load_coca(ClipSpec("coca_roberta-ViT-B-32", str(weights)))
    with pytest.raises(ConfigurationError, match="weights"):
        load_coca(ClipSpec(ARCHITECTURE, str(tmp_path / "none.safetensors")))
    with pytest.raises(ConfigurationError, match=f"expected sha256 {'0' * 64}"):
        load_coca(ClipSpec(ARCHITECTURE, str(tmp_path / "none.safetensors"), "0" * 64))
    with pytest.raises(ConfigurationError, match=f"have sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        load_coca(ClipSpec(ARCHITECTURE, str(weights), "0" * 64))
    with pytest.raises(ConfigurationError, match="cannot be loaded into coca_ViT-B-32"):
        load_coca(ClipSpec("coca_ViT-B-32", str(weights)))
    with pytest.raises(ConfigurationError, match="not on this machine"):
        load_coca(ClipSpec("coca_ViT-B-32", "laion2b_s13b_b90k"))
    with pytest.raises(ConfigurationError, match="greedy"):
        Decoding("best")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="beams"):
        Decoding("beam", beams=0)
    with pytest.raises(ConfigurationError, match="no score"):
        CocaCaptioner(load_coca(ClipSpec(ARCHITECTURE, str(weights))), threshold=None, decoding=GREEDY)


@given(st.lists(st.sampled_from(["a", "dog", ",", ".", "'s", "(", ")", " "])))
def test_texts_are_written_as_people_write(pieces: list[str]) -> None:
    """No double space, none before punctuation or after an opening bracket; doing it twice changes nothing."""
    text = detokenised(" ".join(pieces))
    assert not any(wrong in text for wrong in ("  ", " ,", " .", " )", "( "))
    assert detokenised(text) == text


def test_a_decoded_sentence() -> None:
    """Spaces as the tokenizer leaves them become spaces as they are read."""
    assert detokenised("a dog 's ball , red ( and wet ) . ") == "a dog's ball, red (and wet)."
