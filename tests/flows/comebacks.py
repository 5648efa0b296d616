"""A site that shows pictures, has some of them removed, and shows copies of these under other addresses."""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from curation.pixel_store import PixelStore
from flows import settings
from flows.home import Home
from flows.stages import crawl
from flows.stages.crawl import CrawlSummary
from flows.stages.decide import decide
from flows.stages.removing import applying, approving, requests
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.flows.sealable import new_home
from tests.flows.site import Answer, Site

Rgb = npt.NDArray[np.uint8]
Change = Callable[[Image.Image], Image.Image]

CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
MECHANISMS = '["robots", "x_robots", "licence", "text", "tombstone"]'


def png(rgb: Rgb) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(held, "PNG")
    return held.getvalue()


def jpeg(rgb: Rgb, quality: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(held, "JPEG", quality=quality)
    return held.getvalue()


def cropped(share: float, x: float, y: float) -> Change:
    """Width and height each lose `share`; x and y in [0, 1] say on which side."""

    def change(picture: Image.Image) -> Image.Image:
        w, h = round(picture.width * (1 - share)), round(picture.height * (1 - share))
        left, top = round((picture.width - w) * x), round((picture.height - h) * y)
        return picture.crop((left, top, left + w, top + h))

    return change


# Which of these addresses may be trained on, and what the rule `tombstone` said of them.
_TRAINABLE = "SELECT image_url FROM trainable WHERE image_url IN (SELECT unnest(?::VARCHAR[]))"
_SAID = """
SELECT DISTINCT image_url, verdict, reason_code FROM latest_decision JOIN occurrence USING (pair_key)
WHERE rule = 'tombstone' AND image_url IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL
"""
# What must not come back.
COPIES: Mapping[str, Change] = {
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS),
    "mirrored": ImageOps.mirror,
    "turned by 90": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "crop of 10 %": cropped(0.1, 0.3, 0.8),
    "border": lambda picture: ImageOps.expand(picture, max(2, picture.width // 18), (20, 20, 20)),
}


def copies_of(rgb: Rgb, changes: Mapping[str, Change] = COPIES) -> dict[str, bytes]:
    """What a site may show in a picture's place, by name: the file of each."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    made = {name: png(np.asarray(change(picture))) for name, change in changes.items()}
    return {"the same bytes": png(rgb), "JPEG q40": jpeg(rgb, 40), **made}


def page(pictures: Mapping[str, str]) -> Answer:
    """A page under CC0 that shows pictures: address -> alt text."""
    shown = "".join(f'<img src="{url}" alt="{html.escape(alt)}">' for url, alt in pictures.items())
    return Answer(f'<a rel="license" href="{CC0}">CC0</a>{shown}'.encode())


def open_home(path: Path, *addresses: str) -> Home:
    """A home that may crawl these addresses, with the rules that need no model."""
    default = Ruleset.default_text()
    named = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    told = {"allow_addresses = []": f"allow_addresses = {json.dumps(addresses)}"}
    # The demo museum hangs and drips for as long as it is waited for; its 60 MB come at once.
    short = {"deadline_s = 30.0": "deadline_s = 4.0", "max_image_bytes = 20000000": "max_image_bytes = 2000000"}
    text = replaced(settings.DEFAULT_TEXT, told | short | {"decode_workers = 2": "decode_workers = 1"})
    return new_home(path, settings_text=text, policy_text=replaced(default, {named: MECHANISMS}))


@dataclass
class Comeback:
    """A site with pictures, by name, and a home that has crawled it."""

    home: Home
    site: Site
    pictures: Mapping[str, Rgb]
    removed: dict[str, str] = field(default_factory=dict)  # name -> removal

    @classmethod
    def begin(cls, path: Path, site: Site, pictures: Mapping[str, Rgb]) -> Comeback:
        """Show the pictures, and crawl them."""
        found = cls(open_home(path, site.address), site, pictures)
        site.answers["/robots.txt"] = Answer(b"", "text/plain")
        for name, rgb in pictures.items():
            site.answers[f"/{name}.png"] = Answer(png(rgb), "image/png")
        found.show({f"/{name}.png": text_of(name) for name in pictures})
        return found

    def show(self, pictures: Mapping[str, str]) -> CrawlSummary:
        """Show nothing but these, and crawl again."""
        self.site.answers["/"] = page(pictures)
        found = crawl.crawl(self.home, [self.site.url("/")])
        decide(self.home)
        return found

    def remove(self, *names: str, apply: bool = True) -> None:
        """Have these pictures removed, by the digests of their bytes."""
        for name in names:
            request = requests.add(self.home, "sha256", self.sha(name))
            approving.approve(self.home, request.id, by="A. Reviewer")
            self.removed[name] = request.id
        if apply:
            applying.apply(self.home, *self.removed.values(), scan=False, receipts=False)

    def show_copies(self, files: Mapping[str, Mapping[str, bytes]], *, keep: Mapping[str, str]) -> dict[str, str]:
        """Show copies (picture -> copy -> file) and what else is kept, crawl, and say what became of each address."""
        shown: dict[str, str] = {}
        for name, copies in files.items():
            for number, (copy, body) in enumerate(copies.items()):
                path = f"/again/{name}-{number}"
                kind = "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"
                self.site.answers[path] = Answer(body, kind)
                shown[path] = f"{text_of(name)}, once more as {copy}"
        self.show({**keep, **shown})
        return self.fates(*keep, *shown)

    def fate(self, path: str) -> str:
        """What became of an address: trainable, nothing on record, or what the rule `tombstone` said of it."""
        return self.fates(path)[path]

    def fates(self, *paths: str) -> dict[str, str]:
        """`fate` of many."""
        urls = {path: self.site.url(path) for path in paths}
        trainable = {url for (url,) in ask(self.home, _TRAINABLE, [*urls.values()])}
        said = {url: f"{verdict} {code}" for url, verdict, code in ask(self.home, _SAID, [*urls.values()])}
        return {
            path: "trainable" if url in trainable else said.get(url, "nothing on record") for path, url in urls.items()
        }

    def sha(self, name: str) -> str:
        return hashlib.sha256(png(self.pictures[name])).hexdigest()

    def kept(self) -> frozenset[str]:
        """The contents whose pixels are kept."""
        return frozenset(PixelStore(self.home.pixels_path).keys())


def text_of(name: str) -> str:
    """A text that describes a picture, and no other."""
    return f"a {name} beside a green hill in summer"
