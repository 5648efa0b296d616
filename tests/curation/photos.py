"""What packages carry for tests: scikit-image's photographs, and the folders of others."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image


def package_dir(name: str) -> Path:
    """Where a package lies; skips the test where it is not installed."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed (extra `demo`)")
    return Path(spec.origin).parent


def photo(name: str) -> npt.NDArray[np.uint8]:
    """One of scikit-image's photographs, uint8 [H, W, 3]."""
    with Image.open(package_dir("skimage") / "data" / name) as picture:
        return np.asarray(picture.convert("RGB"))
