"""CLIP: pictures and texts to embeddings in one space, loaded from the disk and from nowhere else.

`load_clip` loads a CLIP by name, by file or from one of our own runs. What packages carry is in
curation/packaged_models.py, the architecture of our own in curation/own_clip.py, the cure of a torchvision that does
not fit in curation/torchvision_cure.py; their names can be had here, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from curation.own_clip import (
    FINETUNE,
    HEAD,
    IMAGE_TOWER,
    SCRATCH,
    build_clip,
    own_clip_config,
    stage_pooled_efficientnet,
)
from curation.packaged_models import (
    BATCH_ROWS,
    IMAGE_ARCHITECTURE,
    IMAGE_FILES,
    IMAGE_PACKAGE,
    PAD_ID,
    TEXT_FILES,
    TEXT_LENGTH,
    TEXT_LENGTHS,
    TEXT_PACKAGE,
    TEXT_WIDTH,
    PackagedTextEncoder,
    file_sha256,
    files_digest,
    filled,
    fixed_text_batches,
    image_encoder_component,
    load_text_encoder,
    packaged_file,
    packaged_image_weights,
    packaged_text_weights,
    text_encoder_component,
    text_encoder_folder,
    text_tokenizer,
    without_first_weights,
)
from curation.torchvision_cure import cure_torchvision, import_open_clip
from policy.errors import ConfigurationError, CustodyError, InputError, IntegrityError
from policy.provenance import CheckpointRecord, UpstreamModel, canonical_json

if TYPE_CHECKING:
    import torch

__all__ = [
    "BATCH_ROWS",
    "CONFIG_FILE",
    "FINETUNE",
    "HEAD",
    "IMAGE_ARCHITECTURE",
    "IMAGE_FILES",
    "IMAGE_PACKAGE",
    "IMAGE_TOWER",
    "PAD_ID",
    "RETRIEVAL_FILE",
    "SCRATCH",
    "TEXT_FILES",
    "TEXT_LENGTH",
    "TEXT_LENGTHS",
    "TEXT_PACKAGE",
    "TEXT_WIDTH",
    "TRAINED_PREFIX",
    "WEIGHTS_FILE",
    "ClipModel",
    "ClipSpec",
    "Embeddings",
    "PackagedTextEncoder",
    "Retrieval",
    "Rgb",
    "build_clip",
    "clip_digest",
    "cure_torchvision",
    "file_sha256",
    "files_digest",
    "filled",
    "fixed_text_batches",
    "image_encoder_component",
    "import_open_clip",
    "load_clip",
    "load_text_encoder",
    "newest_checkpoint",
    "normalised_text",
    "own_clip",
    "own_clip_config",
    "packaged_file",
    "packaged_image_weights",
    "packaged_text_weights",
    "picture_transform",
    "read_retrieval",
    "stack_filled",
    "stage_pooled_efficientnet",
    "text_encoder_component",
    "text_encoder_folder",
    "text_tokenizer",
    "trained_identity",
]

Rgb = NDArray[np.uint8]
Embeddings = NDArray[np.float32]

# What a trained CLIP's checkpoint directory holds (training/clip.py writes it).
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "open_clip_config.json"
RETRIEVAL_FILE: Final = "retrieval.json"
TRAINED_PREFIX: Final = "trained:"


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Which CLIP: `pretrained` is open_clip's tag, the path of a weights file, or "trained:<run directory>".

    `sha256`: what the weights file must have, in hex; "" takes any (a trained run's record says it itself).
    """

    architecture: str | None
    pretrained: str
    sha256: str = ""


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

    @property
    def scale(self) -> float:
        """One over the temperature: what cosines are multiplied with before they are told apart (Radford 2021)."""
        return float(self.model.logit_scale.exp())

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
            batches = [filled(ids, every[start : start + BATCH_ROWS]) for start in range(0, len(ids), BATCH_ROWS)]
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
    return _load_released(spec.architecture, spec.pretrained, spec.sha256, device)


def is_weights_file(pretrained: str) -> bool:
    """Whether weights are named by a file's path, and not by open_clip's tag."""
    return Path(pretrained).suffix in _WEIGHTS_FILES


_WEIGHTS_FILES: Final = (".safetensors", ".pt", ".pth", ".bin")


def _load_released(architecture: str, pretrained: str, expected: str, device: str) -> ClipModel:
    open_clip = import_open_clip()
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ConfigurationError(
            f"open_clip knows no architecture {architecture!r}", where="clip", remedy="See open_clip.list_models()"
        )
    is_file = is_weights_file(pretrained)
    path = Path(pretrained) if is_file else _cached_weights(open_clip, architecture, pretrained)
    if not path.is_file():
        wanted = f", expected sha256 {expected}" if expected else ""
        raise ConfigurationError(
            f"CLIP weights missing{wanted}", where=str(path), remedy="Put the file there or name another"
        )
    sha256 = file_sha256(path)
    if expected and sha256 != expected.lower():
        raise ConfigurationError(
            f"CLIP weights have sha256 {sha256}, expected {expected}",
            where=str(path),
            remedy="Fetch the file again, or name the digest of the one that is meant (pretrained_sha256)",
        )
    tag_config = {} if is_file else dict(open_clip.get_pretrained_cfg(architecture, pretrained))
    kept = ("mean", "std", "interpolation", "resize_mode")
    try:
        with without_first_weights(), _without_being_told_so():
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
    # The same weights see other things through another preprocessing or another activation.
    decides = {"model_cfg": config, **{key: tag_config[key] for key in (*kept, "quick_gelu") if tag_config.get(key)}}
    digest = files_digest([(WEIGHTS_FILE, sha256), (CONFIG_FILE, hashlib.sha256(_bytes(decides)).hexdigest())])
    return ClipModel(
        model,
        name=f"{architecture}/{path.name if is_file else pretrained}",
        digest=digest,
        preprocess=picture_transform(model.visual.preprocess_cfg),
        tokenize=lambda texts: tokenizer(list(texts)),
        device=device,
    )


@contextmanager
def _without_being_told_so() -> Iterator[None]:
    """Within it open_clip does not warn, on the root logger, that a model has no weights: they are loaded next."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded for model")

    root = logging.getLogger()
    root.addFilter(is_news)
    try:
        yield
    finally:
        root.removeFilter(is_news)


def _bytes(value: object) -> bytes:
    return canonical_json(value).encode()


def _cached_weights(open_clip: Any, architecture: str, tag: str) -> Path:
    """The file open_clip would download for this tag, if an earlier download left it on the disk."""
    from huggingface_hub import try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ConfigurationError(
            f"open_clip knows no weights {tag!r} of {architecture}",
            where="clip",
            remedy=f"It knows: {known}. A file is known by its ending: {', '.join(_WEIGHTS_FILES)}",
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
    import_open_clip()
    from open_clip.transform import PreprocessCfg, image_transform_v2  # type: ignore[import-untyped]
    from PIL import Image

    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)

    def preprocess(picture: Rgb) -> torch.Tensor:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise InputError(f"not an RGB picture: shape {picture.shape}, {picture.dtype}", where="clip")
        tensor: torch.Tensor = transform(Image.fromarray(picture))
        return tensor

    return preprocess


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


def normalised_text(text: str) -> str:
    """The form in which two captions count as the same: case folded, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What a CLIP of our own reached on pairs that no training saw: image-to-text recall at 1 and 5.

    `r_at_1`, `r_at_5`: the share of `heldout_pairs` whose own text is the nearest, or among the five nearest, of all
    their texts.
    """

    model_digest: str
    r_at_1: float
    r_at_5: float
    heldout_pairs: int


def read_retrieval(run_dir: Path) -> Retrieval:
    """What training left in a run's directory when it was done, which must be of the run's newest checkpoint.

    Raises:
        ConfigurationError: there is none. IntegrityError: it is damaged, or belongs to another model.
    """
    path = run_dir / RETRIEVAL_FILE
    if not path.is_file():
        raise ConfigurationError("this CLIP was never measured", where=str(path), remedy="Train it to its end")
    try:
        measured = Retrieval(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"not a measure of retrieval ({error})", where=str(path)) from error
    digest = clip_digest(_record_of(newest_checkpoint(run_dir)))
    if measured.model_digest != digest:
        raise IntegrityError(f"it is of model {measured.model_digest[:16]}, not {digest[:16]}", where=str(path))
    return measured


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
    installed = {"text": files_digest(TEXT_FILES), "image": files_digest(IMAGE_FILES)}
    for tower, digest in config["towers"].items():
        if digest != installed.get(tower):
            raise ConfigurationError(
                f"the {tower} tower that this CLIP was trained on is not the one installed", where=str(folder)
            )
    with without_first_weights():
        model = build_clip(config)
    missing, unexpected = model.load_state_dict(load(files[WEIGHTS_FILE]), strict=False)
    if unexpected or not all(key.startswith(tuple(config["frozen"])) for key in missing):
        raise IntegrityError("the weights do not fill the trained part", where=str(folder / WEIGHTS_FILE))
    digest = clip_digest(record)
    stands_on = ", ".join(f"{m.name}: {m.licence}" for m in record.upstream)
    component = UpstreamModel(
        role="clip",
        name=f"{config['name']} {record.checkpoint}",
        digest=digest,
        licence=f"the operator's; it stands on {stands_on or 'nothing that was trained elsewhere'}",
        training_data=f"run:{record.run}",
    )
    return own_clip(model, config, digest=digest, device=device, component=component)


def clip_digest(record: CheckpointRecord) -> str:
    """A trained CLIP's identity: its weights and its configuration, which names the frozen towers' digests."""
    files = dict(record.files)
    if not {WEIGHTS_FILE, CONFIG_FILE} <= files.keys():
        raise IntegrityError("not a checkpoint of a CLIP", where=record.checkpoint)
    return files_digest([(name, files[name]) for name in (WEIGHTS_FILE, CONFIG_FILE)])


def trained_identity(run_dir: Path) -> tuple[str, str]:
    """Name and digest that `load_clip` would give a run's newest checkpoint, from its records alone.

    Raises:
        ConfigurationError: the run has no complete checkpoint. IntegrityError: its records are damaged.
    """
    folder = newest_checkpoint(run_dir)
    record = _record_of(folder)
    config = json.loads(_recorded_bytes(folder, CONFIG_FILE, dict(record.files)))
    return str(config["name"]), clip_digest(record)


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
