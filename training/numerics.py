"""The numeric contract: what has to be equal for two runs to be equal bit for bit, and how it is put in force."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import numpy as np
import PIL
import torch

from policy.provenance import NumericContract


def enforce_determinism(threads: int) -> None:
    """Fix torch's thread count and forbid non-deterministic kernels, for this process."""
    # cuBLAS reads this once, when its first handle is made; without it deterministic mode raises on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills every new tensor with NaN, a thousand times a step, which costs some per cent of it
    # and decides nothing unless an operation reads what it never wrote; the proofs of kills and replays would show one.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set through __setattr__
    torch.backends.cudnn.benchmark = False


def observe_contract(device: str, precision: str, *, world_size: int = 1) -> NumericContract:
    """The contract as it is in this process now, not as it was asked for."""
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(torch.device(device))
    else:
        hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions = {
        "cuda": str(torch.version.cuda),
        "hardware": hardware,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "simplejpeg": version("simplejpeg"),
        "tokenizers": version("tokenizers"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    return NumericContract(
        threads=torch.get_num_threads(),
        world_size=world_size,
        device=device,
        precision=precision,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        versions=tuple(sorted(versions.items())),
    )


def differences(recorded: NumericContract, now: NumericContract) -> tuple[str, ...]:
    """What differs between two contracts, in words ("threads: 2, now 1"); empty when bit-equality may be claimed."""
    names = ("threads", "world_size", "device", "precision", "deterministic")
    found = [
        f"{name}: {getattr(recorded, name)}, now {getattr(now, name)}"
        for name in names
        if getattr(recorded, name) != getattr(now, name)
    ]
    before, after = dict(recorded.versions), dict(now.versions)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            found.append(f"{name}: {before.get(name)}, now {after.get(name)}")
    return tuple(found)
