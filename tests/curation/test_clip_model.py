"""open_clip where torchvision is broken, the packaged encoders, and what happens when weights are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from curation import clip_model
from curation.clip_model import ClipSpec, PackagedTextEncoder
from curation.packaged_models import without_first_weights
from policy.errors import ConfigurationError, InputError


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(clip_model.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def encoder() -> PackagedTextEncoder:
    return clip_model.load_text_encoder()


def test_open_clip_imports_after_the_cure_in_a_fresh_process() -> None:
    """open_clip imports once torchvision was cured, and a second cure changes nothing."""
    out = run_python(
        "from curation.clip_model import cure_torchvision\n"
        "first = cure_torchvision()\n"
        "assert cure_torchvision() == ()\n"
        "import open_clip, torchvision\n"
        "print(open_clip.__version__, first)"
    )
    assert out.strip()


def test_operators_that_exist_are_left_alone() -> None:
    """The cure declares only what is missing: an operator that is there keeps its schema and its kernel."""
    run_python(
        "import torch\n"
        "own = torch.library.Library('torchvision', 'DEF')\n"
        "own.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "own.impl('nms', lambda d, s, t: torch.zeros(1), 'CPU')\n"
        "from curation import clip_model, torchvision_cure\n"
        "torchvision_cure._compiled_torchvision = lambda: None\n"
        "assert clip_model.cure_torchvision() == ('qnms',)\n"
        "x = torch.zeros(1)\n"
        "assert torch.ops.torchvision.nms(x, x, 0.5).shape == (1,)"
    )


def test_importing_the_module_loads_no_model_library() -> None:
    """`import curation.clip_model` stays light: neither torch nor open_clip comes along."""
    run_python("import sys, curation.clip_model\nassert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)")


def test_tokens_have_their_shape_and_padding_is_zero(encoder: PackagedTextEncoder) -> None:
    """Token embeddings are [B, 32, 384], zero wherever the mask says there is no token."""
    embeddings, mask = encoder.tokens(["red apple", "a very long text " * 20, ""])
    assert embeddings.shape == (3, 32, 384)
    assert embeddings.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [4, 32, 2]
    assert not embeddings[~mask].any()


def test_a_text_has_the_same_bits_in_any_company(encoder: PackagedTextEncoder) -> None:
    """Removing or adding other texts changes no bit of a text's embedding, which replay stands on."""
    texts = ["red apple", "green apple", "a smiling face with sunglasses on a yellow ball", "tree"] * 9 + ["boat"]
    many, _ = encoder.tokens(texts)
    alone, _ = encoder.tokens(["boat"])
    assert torch.equal(many[-1], alone[0])
    assert torch.equal(encoder.sentences(texts)[-1], encoder.sentences(["boat"])[0])


def test_weights_that_are_replaced_are_not_drawn() -> None:
    """A packaged encoder takes nothing from anybody's random stream, and outside its loading modules draw as ever."""
    torch.manual_seed(3)
    expected = torch.nn.Linear(4, 4).weight
    torch.manual_seed(3)
    clip_model.load_text_encoder()
    with without_first_weights():
        torch.nn.Linear(4, 4)
        torch.empty(4).normal_()
    assert torch.equal(torch.nn.Linear(4, 4).weight, expected)


def test_sentences_know_what_belongs_together(encoder: PackagedTextEncoder) -> None:
    """A kitten is nearer to a cat than to a truck: the packaged weights are in place."""
    cat, kitten, truck = encoder.sentences(["a cat", "a kitten", "a truck"])
    assert float(cat @ kitten) > 0.6 > float(cat @ truck)
    assert float(cat.norm()) == pytest.approx(1.0, abs=1e-5)


def test_a_changed_model_file_is_refused() -> None:
    """A packaged file with another digest is named with both digests instead of being used."""
    with pytest.raises(ConfigurationError, match="expected 0000"):
        clip_model.packaged_file(clip_model.TEXT_PACKAGE, "model/config.json", "0000")
    with pytest.raises(ConfigurationError, match="missing"):
        clip_model.packaged_file(clip_model.TEXT_PACKAGE, "model/none.bin", "0000")
    with pytest.raises(ConfigurationError, match="not installed"):
        clip_model.packaged_file("no_such_package_here", "model/none.bin", "0000")


def test_image_weights_answer_like_imagenet() -> None:
    """The released weights under timm's names see a cat in a cat and an espresso in a cup of coffee."""
    data = pytest.importorskip("skimage.data")
    clip_model.cure_torchvision()
    import timm

    ((name, sha256),) = clip_model.IMAGE_FILES
    released = torch.load(clip_model.packaged_file(clip_model.IMAGE_PACKAGE, name, sha256), weights_only=True)
    model = timm.create_model(clip_model.IMAGE_ARCHITECTURE).eval()
    head = {"classifier.weight": released["_fc.weight"], "classifier.bias": released["_fc.bias"]}
    model.load_state_dict(clip_model.packaged_image_weights() | head)
    for picture, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {967, 968, 504})):
        square = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, :, :, 50:350] / 127.5 - 1
        with torch.inference_mode():
            best = model(torch.nn.functional.interpolate(square, (224, 224), mode="bilinear")).argmax().item()
        assert best in classes


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (ClipSpec("ViT-B-32", "laion2b_s34b_b79k"), "CLIP-ViT-B-32-laion2B-s34B-b79K"),
        (ClipSpec("ViT-B-32", "no-such-tag"), "no-such-tag"),
        (ClipSpec("NoSuchModel", "openai"), "NoSuchModel"),
        (ClipSpec("ViT-B-32", "nowhere/weights.safetensors"), "nowhere/weights.safetensors"),
        (ClipSpec(None, "weights.safetensors"), "architecture"),
        (ClipSpec(None, "trained:nowhere"), "nowhere"),
    ],
)
def test_missing_weights_are_named_and_nothing_is_downloaded(spec: ClipSpec, named: str) -> None:
    """Weights that are not on the machine end in a ConfigurationError that names them."""
    with pytest.raises(ConfigurationError, match=named):
        clip_model.load_clip(spec)


def test_a_file_of_weights_by_path_loads_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A safetensors file loads into a named architecture, and nobody is told that it has no weights; one that does not
    fit, or a pickle with code, is refused.
    """
    from safetensors.torch import save_file

    open_clip = clip_model.import_open_clip()
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    assert "No pretrained weights" in caplog.text  # what is drawn at random here has none
    caplog.clear()
    clip = clip_model.load_clip(ClipSpec("ViT-S-32-alt", str(path)))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    pictures = [np.full((40, 60, 3), value, np.uint8) for value in (0, 128, 255)]
    embeddings = clip.encode_images(pictures)
    assert embeddings.shape == (3, 256)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(clip.encode_images(pictures[2:]), embeddings[2:])
    assert clip.encode_texts(["one", "two"]).shape == (2, 256)
    assert clip.encode_texts([]).shape == clip.encode_images([]).shape == (0, 256)
    with pytest.raises(InputError):
        clip.encode_images([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        clip_model.load_clip(ClipSpec("ViT-B-32", str(path)))
    hostile = tmp_path / "hostile.pt"
    torch.save({"state_dict": Path}, hostile)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        clip_model.load_clip(ClipSpec("ViT-S-32-alt", str(hostile)))
