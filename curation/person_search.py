"""Whether a face in a request's photo is among the faces of other pictures: asked for one request, and forgotten.

The one place where faces are matched, and only with the extra `person-search`. Nobody is recognised by this: it
proposes pictures, and a person confirms each by looking.

A face becomes 128 numbers (dlib's ResNet; King, "High Quality Face Recognition with Deep Metric Learning", 2017), and
two photos of one person lie near each other. The numbers are biometric data. They are reckoned in worker processes
(curation/worker_pool.py: anonymous memory, no core dump) that end with the request, overwritten after each comparison,
and never leave them: what comes back are boxes and distances, rounded to hundredths, so that many distances do not add
up to a face. Nothing is written to a disk, a cache or a log by anybody here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from curation.face_detection import DetectorChoice, FaceDetector, chosen_detector
from curation.images import DecodeError, decode, encode_jpeg
from curation.picture_search import Asked
from curation.weights import read_weights
from curation.worker_pool import Do, NotDone, WorkerPool, serve
from policy.errors import ConfigurationError, InputError
from policy.evidence import Face

Rgb = npt.NDArray[np.uint8]
Descriptor = npt.NDArray[np.float64]  # [128], or whatever a matcher makes of a face
Box = tuple[float, float, float, float]  # left, top, width, height in shares of the picture

THRESHOLD: Final = 0.55
MIN_FACE_PX: Final = 24  # of a face in kept pixels: docs/benchmarks.md (person_search) says what is found below
MIN_ASKED_PX: Final = 48
_MARGIN: Final = 0.8  # of the box, around it on each side: what the landmarks and the chip need, mirrored too

EXTRA: Final = "person-search"
MODULE: Final = "face_recognition_models"
# shape_predictor_68_face_landmarks.dat, which the package carries as well, is not for commercial use: never loaded.
LANDMARKS: Final = (
    "models/shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
)
NET: Final = (
    "models/dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)
DLIB: Final = "curation.person_search:DlibMatcher"
_REMEDY: Final = f'pip install "image-custody[{EXTRA}]"'


class FaceMatcher(Protocol):
    """Faces to descriptors: those of one person lie near each other (Euclidean)."""

    def describe(self, rgb: Rgb, box: Box) -> Descriptor:
        """The descriptor of the face in a box (shares) of uint8 [H, W, 3]; the caller overwrites it."""

    def forget(self) -> None:
        """Overwrite what the last picture left within."""


@dataclass(frozen=True, slots=True)
class PersonMatch:
    """A content that may show the person: a proposal, for somebody to confirm.

    `box`: the nearest face in it, left, top, width and height in shares of the picture. `distance`: Euclidean, to
    hundredths; at 0.55, 94 in 100 pairs of photos of one person lie below it. `score`: one less the distance.
    """

    content_sha256: str
    box: Box
    distance: float
    score: float


@dataclass(frozen=True, slots=True)
class FaceSeen:
    """A face of a candidate. `distance` None: too small in what is kept to be told."""

    box: Box
    distance: float | None


# ── the asked face ─────────────────────────────────────────────────────────────────────────────────────────────────


def require_extra() -> None:
    """Raises ConfigurationError, with the command that installs it, where the extra is missing or its files altered."""
    if find_spec("dlib") is None or find_spec(MODULE) is None:
        what = "photos of persons cannot be searched for: dlib and its models are not installed"
        raise ConfigurationError(what, where=EXTRA, remedy=_REMEDY)
    for name, sha256 in (LANDMARKS, NET):
        read_weights(_path(name), sha256, _REMEDY, of="the face matching")


def chosen_face(asked: Asked, *, min_score: float, number: int | None, where: str) -> Face:
    """The face that is searched for: the only one of the photo, or the `number`-th from the left, counted from 1.

    `min_score`: a detection below it is none.

    Raises:
        ConfigurationError: faces could not be looked for.
        InputError: there is none, there are several and none was chosen, or the one is too small; it says how many.
    """
    if asked.faces is None:
        what = f"faces cannot be looked for in it ({asked.analyser_error or 'no detector'})"
        raise ConfigurationError(what, where=where, remedy="`custody inspect faces` tries the detector alone")
    faces = sorted((f for f in asked.faces if f.score >= min_score), key=lambda f: (f.x + f.w / 2, f.y))
    count = len(faces)
    if not count:
        raise InputError(
            "0 faces were found in the photo", where=where, remedy="Give one that shows the face from the front, larger"
        )
    if number is None and count > 1:
        raise InputError(
            f"{count} faces were found in the photo, and it must be said which one",
            where=where,
            remedy=f"Give the number of one, 1 to {count} from the left, or cut the photo to one face",
        )
    if number is not None and not 1 <= number <= count:
        what = f"{count} {'face was' if count == 1 else 'faces were'} found in the photo: there is no number {number}"
        raise InputError(what, where=where, remedy=f"Count from the left: 1 to {count}")
    face = faces[(number or 1) - 1]
    if min(face.w, face.h) * asked.rgb.shape[1] / asked.width < MIN_ASKED_PX:
        what = f"the face is too small: less than {MIN_ASKED_PX} pixels where the photo is held at {asked.rgb.shape[1]}"
        raise InputError(what, where=where, remedy="Cut the photo to the face, or give a larger one")
    return face


def _cut(asked: Asked, face: Face) -> tuple[Rgb, Box]:
    """The face with what is around it, and its box in that."""
    height, width = asked.rgb.shape[:2]
    scale = width / asked.width
    x, y, w, h = (side * scale for side in (face.x, face.y, face.w, face.h))
    left, top = (max(0, round(at - _MARGIN * side)) for at, side in ((x, w), (y, h)))
    right, bottom = min(width, round(x + (1 + _MARGIN) * w)), min(height, round(y + (1 + _MARGIN) * h))
    cut = np.ascontiguousarray(asked.rgb[top:bottom, left:right])
    return cut, ((x - left) / cut.shape[1], (y - top) / cut.shape[0], w / cut.shape[1], h / cut.shape[0])


# ── the workers ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PersonLimits:
    """Bounds of one candidate, of which a crowd may have hundreds of faces."""

    memory_bytes: int = 768 << 20
    cpu_s: int = 240
    wall_s: float = 480.0


Result = tuple[FaceSeen, ...] | NotDone


class PersonPool(WorkerPool[Result]):
    """Workers that hold one face against those of candidates, and end with it.

    `matcher`: "module:factory" of a `FaceMatcher`. `detector`: looks for faces where nobody has yet.

    ::

        with PersonPool(asked, face) as pool:
            pool.submit_candidate(sha256, jpeg, boxes)
            for tag, seen in pool.drain(): …
    """

    def __init__(
        self,
        asked: Asked,
        face: Face,
        *,
        workers: int = 1,
        detector: DetectorChoice | None = None,
        matcher: str = DLIB,
        limits: PersonLimits | None = None,
    ) -> None:
        limits = limits or PersonLimits()
        cut, box = _cut(asked, face)
        super().__init__(
            workers,
            entry="curation.person_search:work",
            greeting={
                "limits": asdict(limits),
                "matcher": matcher,
                "detector": list((detector or DetectorChoice()).arguments),
                "face": base64.b64encode(encode_jpeg(cut)).decode(),  # the photo, in memory; no descriptor
                "box": list(box),
            },
            limits=limits,
            queue_depth=2,
            max_bytes=8 << 20,
        )

    def submit_candidate(self, tag: object, jpeg: bytes, boxes: Sequence[Box] | None) -> None:
        """Hand in a picture. `boxes`: of its faces, in shares; None: they have not been looked for."""
        self.submit_piece(tag, json.dumps(boxes).encode(), jpeg)

    def made(self, made: bytes, told: Any) -> Result:
        return tuple(FaceSeen((x, y, w, h), distance) for x, y, w, h, distance in told)

    def not_made(self, why: NotDone) -> Result:
        return why


def nearest(content_sha256: str, seen: Sequence[FaceSeen], threshold: float) -> PersonMatch | None:
    """The nearest face of a candidate, if it is within the threshold."""
    told = [(face.distance, face.box) for face in seen if face.distance is not None and face.distance <= threshold]
    if not told:
        return None
    distance, box = min(told)
    return PersonMatch(content_sha256, box, distance, round(max(0.0, 1 - distance), 2))


def work() -> None:
    """A worker's whole life."""
    serve(_prepare)


def _prepare(greeting: Mapping[str, Any]) -> Do:
    module, _, name = greeting["matcher"].partition(":")
    matcher: FaceMatcher = getattr(import_module(module), name)()
    detector = chosen_detector(*greeting["detector"])
    detector.detect(np.zeros((256, 256, 3), np.uint8))  # what is loaded on first use is loaded before memory is limited
    asking = _Asking(matcher, decode(base64.b64decode(greeting["face"])), tuple(greeting["box"]))

    def do(head: bytes, body: bytes) -> tuple[bytes, bytes] | NotDone:
        try:
            rgb = decode(body)
        except DecodeError as error:
            return NotDone(error.code)
        told = [[*box, asking.distance(rgb, box)] for box in _boxes(json.loads(head), rgb, detector)]
        matcher.forget()
        return b"", json.dumps(told).encode()

    return do


def _boxes(given: Sequence[Box] | None, rgb: Rgb, detector: FaceDetector) -> Iterator[Box]:
    if given is not None:
        yield from ((x, y, w, h) for x, y, w, h in given)
        return
    height, width = rgb.shape[:2]
    for face in detector.detect(rgb):
        yield face.x / width, face.y / height, face.w / width, face.h / height


class _Asking:
    """The asked face, as it is and mirrored, for as long as the worker lives."""

    __slots__ = ("_descriptors", "_matcher")

    def __init__(self, matcher: FaceMatcher, rgb: Rgb, box: Box) -> None:
        self._matcher = matcher
        x, y, w, h = box
        mirrored = np.ascontiguousarray(rgb[:, ::-1])
        self._descriptors = [matcher.describe(rgb, box), matcher.describe(mirrored, (1 - x - w, y, w, h))]
        matcher.forget()

    def distance(self, rgb: Rgb, box: Box) -> float | None:
        """To the face in the box, rounded to hundredths; None where that one is too small."""
        if min(box[2] * rgb.shape[1], box[3] * rgb.shape[0]) < MIN_FACE_PX:
            return None
        found = self._matcher.describe(rgb, box)
        try:
            return round(min(float(np.linalg.norm(found - mine)) for mine in self._descriptors), 2)
        finally:
            found.fill(0)


# ── dlib ───────────────────────────────────────────────────────────────────────────────────────────────────────────

# From our detector's box to one as the landmarks were trained with: a square of its area, a little lower.
_LOWER: Final = 0.05


class DlibMatcher:
    """dlib's ResNet on the CPU, aligned by its five landmarks. Raises ConfigurationError where the extra is missing."""

    def __init__(self) -> None:
        require_extra()
        import dlib  # of the extra

        self._dlib = dlib
        self._landmarks = dlib.shape_predictor(str(_path(LANDMARKS[0])))
        self._net = dlib.face_recognition_model_v1(str(_path(NET[0])))
        self.forget()

    def describe(self, rgb: Rgb, box: Box) -> Descriptor:
        height, width = rgb.shape[:2]
        x, y, w, h = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        side, middle = (w * h) ** 0.5, (x + w / 2, y + h / 2 + _LOWER * h)
        left, top = (round(at - side / 2) for at in middle)
        square = self._dlib.rectangle(left, top, left + round(side), top + round(side))
        found = self._net.compute_face_descriptor(rgb, self._landmarks(rgb, square))
        copied: Descriptor = np.array(found, np.float64)
        for number in range(len(found)):
            found[number] = 0.0
        return copied

    def forget(self) -> None:
        """The net keeps the layers of its last picture: let that be an empty one."""
        grey = np.full((150, 150, 3), 128, np.uint8)
        self._net.compute_face_descriptor(grey)


def _path(name: str) -> Path:
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ConfigurationError("the models of the face matching are missing", where=MODULE, remedy=_REMEDY)
    return Path(spec.origin).parent / name
