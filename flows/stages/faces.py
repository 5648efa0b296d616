"""Which face detector a home looks with, and what is blurred: custody.toml and the ruleset, for the decode workers."""

from __future__ import annotations

from curation.face_detection import DetectorChoice, chosen_detector
from flows.home import Home
from policy.errors import ConfigurationError
from policy.people import FACES


def detector_choice(home: Home) -> DetectorChoice:
    """The detector of [images] face_detector; a relative path is the home's.

    Raises:
        ConfigurationError: a digest without a file, or a file that is none.
    """
    images = home.settings.images
    where = f"{home.settings_path}, images.face_detector"
    if not images.face_detector:
        if images.face_detector_sha256:
            what = "face_detector_sha256 is given, and no file that should have it"
            raise ConfigurationError(what, where=where, remedy='Name an ONNX file, or leave both ""')
        return DetectorChoice()
    file = home.path / images.face_detector
    if not file.is_file():
        expected = f" with sha256 {images.face_detector_sha256}" if images.face_detector_sha256 else ""
        what = f"{file} is no file"
        raise ConfigurationError(what, where=where, remedy=f'Put the model{expected} there, or "" for the packaged one')
    return DetectorChoice(str(file), images.face_detector_sha256.lower())


def require_detector(home: Home) -> None:
    """Refuse before anything is fetched: where the ruleset asks for faces, the detector has to be there and to fit.

    Raises:
        ConfigurationError: its file is missing, is another than the digest says, or is no detector.
    """
    if FACES in home.ruleset.mechanisms:
        chosen_detector(*detector_choice(home).arguments)


def blur_from(home: Home) -> float | None:
    """The score from which the ruleset wants a face blurred in the pixels that are kept; None where it wants none."""
    ruleset = home.ruleset
    return ruleset.faces.blur_from if FACES in ruleset.mechanisms else None
