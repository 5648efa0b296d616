"""Our own CLIP's architecture: open_clip's CustomTextCLIP, a frozen packaged text tower, one of three image towers.

`head`: the packaged EfficientNet-Lite0, frozen, under a projection that is trained. `finetune`: the same, unlocked from
a stage on (Zhai et al. 2022, "LiT", turned round: here the text is locked). `scratch`: a small timm model that starts
from nothing. What is trained is in a run's checkpoint; what is frozen comes from the packages, checked by digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from curation.packaged_models import (
    IMAGE_ARCHITECTURE,
    IMAGE_FILES,
    TEXT_FILES,
    TEXT_LENGTH,
    TEXT_PACKAGE,
    TEXT_WIDTH,
    files_digest,
    packaged_image_weights,
    packaged_text_weights,
    text_encoder_folder,
)
from curation.torchvision_cure import import_open_clip
from policy.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

IMAGE_TOWER: Final = "stage_pooled_efficientnet"
HEAD: Final = "head"
FINETUNE: Final = "finetune"
SCRATCH: Final = "scratch"

# EfficientNet-Lite0: channels that enter stage 1, 2, … 7 and the last convolution, and those pooled on the way.
_ENTERING: Final = (32, 16, 24, 40, 80, 112, 192, 320)
_POOLED: Final = {2: 24, 3: 40, 5: 112, 7: 320}
LAST_STAGE: Final = 8


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
            """Pictures [B, 3, S, S] -> [B, 1776]."""
            return self.from_stage(self.below_stage(x, 1), 1)

        def below_stage(self, x: torch.Tensor, first: int) -> torch.Tensor:
            """What enters stage `first` (1 to 8, the last convolution), flat, with the means pooled by then: [B, F]."""
            x = self.backbone.bn1(self.backbone.conv_stem(x))
            means = []
            for number in range(1, first):
                x = self.backbone.blocks[number - 1](x)
                if number in _POOLED:
                    means.append(x.mean((2, 3)))
            return torch.cat((x.flatten(1), *means), dim=1)

        def from_stage(self, flat: torch.Tensor, first: int) -> torch.Tensor:
            """The rest of the network over what `below_stage` gave: [B, F] -> [B, 1776]."""
            widths = [width for number, width in _POOLED.items() if number < first]
            area = flat.shape[1] - sum(widths)
            side = round((area / _ENTERING[first - 1]) ** 0.5)
            entering, *means = torch.split(flat, [area, *widths], dim=1)
            x = entering.reshape(-1, _ENTERING[first - 1], side, side)
            for number in range(first, LAST_STAGE):
                x = self.backbone.blocks[number - 1](x)
                if number in _POOLED:
                    means.append(x.mean((2, 3)))
            x = self.backbone.bn2(self.backbone.conv_head(x))
            return torch.cat((x.mean((2, 3)), *means), dim=1)

    return StagePooled()


def build_clip(config: dict[str, Any]) -> Any:
    """open_clip's CustomTextCLIP of an open_clip_config.json, packaged weights in place, the rest untrained.

    `model_cfg` is open_clip's own, but for the text tower's `hf_model_name`, which reads "package:<name>".

    Raises:
        ConfigurationError: a tower that is not known, or one that normalises over the batch.
    """
    open_clip = import_open_clip()
    import timm
    import timm.models
    import torch

    if not timm.models.is_model(IMAGE_TOWER):
        timm.models.register_model(stage_pooled_efficientnet)
    model_config = json.loads(json.dumps(config["model_cfg"]))
    text_config, image_config = model_config["text_cfg"], model_config["vision_cfg"]
    if text_config.get("hf_model_name") != f"package:{TEXT_PACKAGE}":
        raise ConfigurationError(
            f"unknown text tower {text_config.get('hf_model_name')!r}", where=str(config["name"]), remedy="Train anew"
        )
    name = str(image_config.get("timm_model_name"))
    if not timm.models.is_model(name):
        raise ConfigurationError(
            f"timm knows no model {name!r}", where=str(config["name"]), remedy="vit_tiny_patch16_224 is a small one"
        )
    text_config["hf_model_name"] = str(text_encoder_folder())
    model = open_clip.CustomTextCLIP(**model_config)
    model.text.transformer.load_state_dict(packaged_text_weights())
    trunk = model.visual.trunk
    if name == IMAGE_TOWER:
        trunk.backbone.load_state_dict(packaged_image_weights())
    elif any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in trunk.modules()):
        # What one picture gives would depend on its neighbours, and taking one out would change the others.
        raise ConfigurationError(
            f"{name} normalises over the batch", where=str(config["name"]), remedy="Take a ViT or a ConvNeXt"
        )
    elif hasattr(trunk, "set_input_size"):
        size = image_config["image_size"]
        trunk.set_input_size(img_size=(size, size))
    open_clip.set_model_preprocess_cfg(model, config["preprocess_cfg"])
    return model.eval()


def own_clip_config(
    image_size: int, tower: str = HEAD, *, unlocked_from: int = LAST_STAGE, scratch_model: str = ""
) -> dict[str, Any]:
    """The open_clip_config.json of our own CLIP: the frozen text tower and the image tower `tower`.

    Pictures are padded to a square and scaled to `image_size` pixels, so that nothing is cropped away.
    unlocked_from: of `finetune`, the first stage of EfficientNet that is trained, 1 to 8 (its last convolution).
    scratch_model: of `scratch`, timm's name of the model.
    """
    packaged = tower != SCRATCH
    frozen = ["text.transformer."]
    if tower == HEAD:
        frozen.append("visual.trunk.")
    elif tower == FINETUNE:
        layers = ("conv_stem", "bn1", *(f"blocks.{number - 1}" for number in range(1, unlocked_from)))
        frozen += [f"visual.trunk.backbone.{layer}." for layer in layers]
    return {
        "name": "custody-clip",
        "model_cfg": {
            "embed_dim": TEXT_WIDTH,
            "vision_cfg": {
                "timm_model_name": IMAGE_TOWER if packaged else scratch_model,
                "timm_model_pretrained": False,
                "timm_pool": "avg" if packaged else "",
                "timm_proj": "mlp" if packaged else "linear",
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
        "towers": ({"image": files_digest(IMAGE_FILES)} if packaged else {}) | {"text": files_digest(TEXT_FILES)},
        "frozen": frozen,
    }
