"""Photos that scikit-image's package carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image


def photo(name: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]; skips the test where the package is not installed."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image is not installed (extra `demo`)")
    with Image.open(Path(spec.origin).parent / "data" / name) as picture:
        return np.asarray(picture.convert("RGB"))
