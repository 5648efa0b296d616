"""open_clip made importable: a torchvision whose compiled part does not fit is cured, and nothing reaches the network.

open_clip, transformers and diffusers import torchvision, and a torchvision whose compiled part does not fit the torch
beside it fails at import ("operator torchvision::nms does not exist").
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
from typing import Any


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


def import_open_clip() -> Any:
    """The module open_clip, with torchvision cured and the hub offline."""
    stay_offline()
    cure_torchvision()
    import open_clip  # type: ignore[import-untyped]

    return open_clip


def stay_offline() -> None:
    """Tell huggingface_hub to use what is on the disk; call it before the first import that brings it along."""
    # Read once, when huggingface_hub is first imported; a model that is not on the disk is then an error, not a visit.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
