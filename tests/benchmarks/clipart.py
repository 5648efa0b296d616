"""Pictures with names for benchmarks: Debian's openclipart and tuxpaint stamps, fetched by apt, installed nowhere.

openclipart (8,121 drawings, almost all public domain) states title, creator and licence in each SVG's RDF; tuxpaint's
stamps (GPL-2) come with a sentence. Both are unpacked beside one another in a folder that later runs find again.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curation.clip_model import Rgb
from curation.images import decode
from policy.errors import ConfigurationError, CustodyError

PACKAGES = ("openclipart-png", "openclipart-svg", "tuxpaint-stamps-default")
PUBLIC_DOMAIN = frozenset(
    {"http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/"}
)
# A title that more drawings than this carry names their collection ("Lemon SVG theme"), not what they show.
MOST_USES = 3


@dataclass(frozen=True, slots=True)
class Clipart:
    """A picture and the English text beside it. `licence`: an SPDX id, or "" where none is stated.

    `text_from`: "title" (openclipart's RDF), "file name" (where the title is its collection's) or "sentence"
    (tuxpaint).
    """

    package: str
    name: str
    path: Path
    text: str
    text_from: str
    creator: str
    licence: str

    def pixels(self) -> Rgb:
        """[H, W, 3] uint8, transparent parts on white; raises a CustodyError for what is beyond our bounds."""
        return decode(self.path.read_bytes())


def clipart_folder() -> Path:
    """Where the packages lie unpacked, fetched if they are not there yet; CLIPART_DIR names another place.

    Raises:
        ConfigurationError: there is no apt, or it cannot fetch them.
    """
    folder = Path(os.environ.get("CLIPART_DIR") or Path(tempfile.gettempdir()) / "custody-clipart")
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (folder / package).is_dir():
            fetch_package(package, folder)
    return folder


def openclipart(folder: Path | None = None) -> list[Clipart]:
    """The drawings that have a text, in the order of their names."""
    place = folder or clipart_folder()
    svgs = place / "openclipart-svg/usr/share/openclipart/svg"
    pngs = place / "openclipart-png/usr/share/openclipart/png"
    described = [(svg, _rdf(svg)) for svg in sorted(svgs.rglob("*.svg"))]
    uses = Counter(title.casefold() for _, (title, _, _) in described)
    found = []
    for svg, (title, creator, licence) in described:
        own = bool(title) and uses[title.casefold()] <= MOST_USES
        text = title if own else _words(svg.stem, creator)
        png = pngs / svg.relative_to(svgs).with_suffix(".png")
        if text and png.is_file():
            name = str(svg.relative_to(svgs).with_suffix(""))
            spdx = "CC0-1.0" if licence in PUBLIC_DOMAIN else ""
            found.append(Clipart("openclipart", name, png, text, "title" if own else "file name", creator, spdx))
    return found


def tuxpaint(folder: Path | None = None) -> list[Clipart]:
    """The stamps that are PNG files with a sentence beside them, in the order of their names."""
    stamps = (folder or clipart_folder()) / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    found = []
    for png in sorted(stamps.rglob("*.png")):
        sentences = png.with_suffix(".txt")
        if not sentences.is_file():  # a mirror image or a second resolution of a stamp
            continue
        text = sentences.read_text("utf-8", "replace").partition("\n")[0].strip()
        if text and "utf8=" not in text:
            name = str(png.relative_to(stamps).with_suffix(""))
            found.append(Clipart("tuxpaint", name, png, text, "sentence", "", "GPL-2.0-only"))
    return found


def readable(cliparts: list[Clipart]) -> Iterator[tuple[Clipart, Rgb]]:
    """Each with its pixels; what our decoder refuses (one drawing has 168 megapixels) is left out."""
    for clipart in cliparts:
        try:
            yield clipart, clipart.pixels()
        except CustodyError:
            continue


def fetch_package(package: str, folder: Path) -> None:
    """`apt-get download` and unpack one package; under its name only once it is whole."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            subprocess.run(["apt-get", "-q", "download", package], cwd=scratch, check=True, capture_output=True)
            (deb,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", deb.name, "unpacked"], cwd=scratch, check=True, capture_output=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                f"the Debian package {package} cannot be fetched ({error})",
                where=str(folder),
                remedy="Run apt-get update, or name a folder that has it unpacked in CLIPART_DIR",
            ) from error
        shutil.move(Path(scratch) / "unpacked", folder / package)


_TITLE = re.compile(r"<dc:title>([^<]*)</dc:title>")
_CREATOR = re.compile(r"<dc:creator>.*?<dc:title>([^<]*)</dc:title>", re.DOTALL)
_LICENCE = re.compile(r"<(?:cc:)?license[^>]*rdf:resource=\"([^\"]*)\"")


def _rdf(svg: Path) -> tuple[str, str, str]:
    """Title, creator and licence URL as the drawing states them, "" each where it does not."""
    body = svg.read_text("utf-8", "replace")
    first = (pattern.search(body) for pattern in (_TITLE, _CREATOR, _LICENCE))
    # The titles are escaped twice.
    title, creator, licence = (html.unescape(html.unescape(m.group(1))).strip() if m else "" for m in first)
    return " ".join(title.replace("_", " ").split()), creator, licence


def _words(stem: str, creator: str) -> str:
    """A file name's words, less the creator's name and numbers; "" where nothing like a word is left."""
    names = set(re.findall(r"[a-z]+", creator.casefold()))
    words = [w for w in re.findall(r"[a-z]{2,}", stem.casefold().replace("_", " ")) if w not in names]
    return " ".join(words) if sum(map(len, words)) >= 3 else ""
