"""Files of weights: read whole, and only the one whose digest was expected; onnxruntime sessions on one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from policy.errors import ConfigurationError

Tensor = npt.NDArray[np.float32]


class Named(Protocol):
    """What is used of onnxruntime.NodeArg. `shape`: numbers, names of what is free, or None."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...
    @property
    def type(self) -> str: ...


class Net(Protocol):
    """What is used of onnxruntime.InferenceSession, which comes without types."""

    def get_inputs(self) -> Sequence[Named]: ...
    def get_outputs(self) -> Sequence[Named]: ...
    def run(self, outputs: None, inputs: Mapping[str, Tensor]) -> list[Tensor]: ...


FACES: Final = "the face detector"
CPU: Final = ("CPUExecutionProvider",)


def read_weights(path: Path, sha256: str, remedy: str, *, of: str = FACES) -> bytes:
    """The file's bytes. `sha256`: what they must be, "" for any. `of`: whose weights they are, in words.

    Raises ConfigurationError naming the file, the digest that was expected and the one that was found.
    """
    expected = f"{remedy} (sha256 {sha256})" if sha256 else remedy
    try:
        weights = path.read_bytes()
    except OSError as error:
        what = f"weights of {of} cannot be read ({error.strerror})"
        raise ConfigurationError(what, where=str(path), remedy=expected) from error
    found = hashlib.sha256(weights).hexdigest()
    if sha256 and found != sha256:
        what = f"not the weights that are expected (sha256 {found}, expected {sha256})"
        raise ConfigurationError(what, where=str(path), remedy=remedy)
    return weights


def package_directory(module: str, package: str, version: str, *, of: str = FACES) -> Path:
    """Where a package that carries weights lies; it is not imported. Raises ConfigurationError where it is missing."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the weights of {of} are missing (package {package})",
            where=package,
            remedy=f"Install {package}=={version}",
        )
    return Path(spec.origin).parent


def session(weights: bytes, path: Path, providers: Sequence[str] = CPU) -> Net:
    """A net; on the CPU it has one thread. `providers`: of onnxruntime, in the order they are tried.

    Raises ConfigurationError for what onnxruntime does not take.
    """
    import onnxruntime  # type: ignore[import-untyped]  # it ships none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        net: Net = onnxruntime.InferenceSession(weights, options, providers=list(providers))
    except Exception as error:  # it raises a dozen classes of its own, none with a base but Exception
        what = f"no ONNX model that onnxruntime can run: {str(error).splitlines()[0][:200]}"
        raise ConfigurationError(what, where=str(path), remedy="Name another file") from error
    return net
