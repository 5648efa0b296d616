"""[images] face_detector of custody.toml and [faces] of the ruleset: who looks, what is blurred, what is kept."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.face_detection import DetectorChoice
from curation.images import decode
from curation.pixel_store import PixelStore
from flows import settings
from flows.home import Home
from flows.stages import crawl, decide, inspection
from flows.stages.crawl import Job
from flows.stages.faces import blur_from, detector_choice
from policy.errors import ConfigurationError
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.curation import tiny_onnx
from tests.flows.site import Answer, Site

BY = "https://creativecommons.org/licenses/by/4.0/"
MODEL = tiny_onnx.centerface((1, 3, "H", "W"), (math.log(8), math.log(8)), (0.0, 0.0))
DIGEST = hashlib.sha256(MODEL).hexdigest()


def red_dot() -> bytes:
    """What the model takes for one face: four red pixels a side."""
    pixels = np.full((160, 200, 3), (30, 90, 90), np.uint8)
    pixels[80:84, 40:44] = (255, 0, 0)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def plain() -> bytes:
    """A picture without any red."""
    held = io.BytesIO()
    Image.linear_gradient("L").resize((96, 96)).point(lambda v: v // 4).convert("RGB").save(held, "PNG")
    return held.getvalue()


def red_left(jpeg: bytes) -> int:
    """How many pixels of a picture are clearly red."""
    pixels = decode(jpeg).astype(int)
    return int((pixels[..., 0] - pixels[..., 1:].max(axis=2) > 60).sum())


@pytest.fixture
def site() -> Iterator[Site]:
    page = f'<link rel=license href="{BY}"><img src=dot.png alt="a red dot"><img src=plain.png alt="a green pear">'
    tag = [("ETag", '"1"')]
    answers = {
        "/": Answer(page.encode()),
        "/robots.txt": Answer(b"", "text/plain"),
        "/dot.png": Answer(red_dot(), "image/png", headers=tag),
        "/plain.png": Answer(plain(), "image/png", headers=tag),
    }
    with Site(answers) as site:
        yield site


@pytest.fixture
def make(tmp_path: Path, site: Site, fresh_home: Callable[..., Home]) -> Callable[[str], Home]:
    """A home that may crawl the site and looks for faces with the model, under a mode of the face rule."""

    def make(mode: str) -> Home:
        text = replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = [] ": f'allow_addresses = ["{site.address}"] ',
                "decode_workers = 2": "decode_workers = 1",
                'face_detector = ""': 'face_detector = "mine.onnx"',
                'face_detector_sha256 = ""': f'face_detector_sha256 = "{DIGEST}"',
            },
        )
        home = fresh_home(tmp_path / "home", settings_text=text, policy_text=_policy(mode))
        (home.path / "mine.onnx").write_bytes(MODEL)
        return home

    return make


def _policy(mode: str) -> str:
    return replaced(Ruleset.default_text(), {'mode = "deny"': f'mode = "{mode}"'})


def crawled(home: Home, site: Site) -> dict[str, tuple[str, str]]:
    """Picture -> what the face rule says of it, after a crawl and a decide; a home is opened anew, as commands do."""
    home = Home.open(home.path)
    crawl.crawl(home, Job(seeds=(site.url("/"),)))
    decide.decide(home)
    rows = ask(
        home,
        "SELECT image_url, verdict, reason_code FROM latest_decision d JOIN occurrence o USING (pair_key)"
        " WHERE d.rule = 'faces'",
    )
    return {url.rpartition("/")[2]: (verdict, reason) for url, verdict, reason in rows}


def kept(home: Home, name: str) -> bytes:
    ((sha,),) = ask(
        home,
        "SELECT DISTINCT content_sha256 FROM content WHERE url_key = (SELECT any_value(url_key) FROM"
        " occurrence WHERE image_url LIKE ?)",
        f"%/{name}",
    )
    return PixelStore(home.pixels_path).get(sha)


def test_a_face_is_blurred_in_what_is_kept_and_recorded(make: Callable[[str], Home], site: Site) -> None:
    """Under "blur" the kept pixels have no face, the digests are the original's, the transform is in the evidence."""
    home = make("blur")
    assert crawled(home, site) == {"dot.png": ("allow", "face-blur"), "plain.png": ("allow", "no-face")}
    assert red_left(kept(home, "dot.png")) == 0
    said = {
        e["content_sha256"]: e
        for (body,) in ask(home, "SELECT body_json FROM evidence WHERE body_json IS NOT NULL")
        if "content_sha256" in (e := json.loads(body))
    }
    dot = said[hashlib.sha256(red_dot()).hexdigest()]
    assert (dot["faces_blurred"], dot["transforms"]) == (True, ["blur-faces/1 n=1 from=0.7"])
    assert [(f["x"], f["y"], f["w"], f["h"]) for f in dot["faces"]] == [(26, 66, 32, 32)]
    assert dot["face_detector"].endswith(f"sha256:{DIGEST}")
    faceless = said[hashlib.sha256(plain()).hexdigest()]
    assert "faces_blurred" not in faceless
    assert "transforms" not in faceless


def test_a_face_is_denied_by_default(make: Callable[[str], Home], site: Site) -> None:
    """Under "deny" nothing is blurred."""
    home = make("deny")
    assert crawled(home, site)["dot.png"] == ("deny", "face-found")


def test_pictures_are_asked_for_anew_when_the_rule_wants_other_pixels(make: Callable[[str], Home], site: Site) -> None:
    """A 304 would confirm pixels that were kept under another mode: it is not asked for where there is a face."""
    home = make("deny")
    crawled(home, site)
    (home.path / "policy.toml").write_text(_policy("blur"))
    assert crawled(home, site)["dot.png"] == ("allow", "face-blur")
    assert site.confirmed["/dot.png"] == 0
    assert red_left(kept(home, "dot.png")) == 0
    assert crawled(home, site)["dot.png"] == ("allow", "face-blur")
    assert site.confirmed["/dot.png"] == 1
    (home.path / "policy.toml").write_text(_policy("allow"))
    assert crawled(home, site)["dot.png"] == ("defer", "face-without-consent")
    assert site.confirmed["/dot.png"] == 1
    assert red_left(kept(home, "dot.png")) > 0


def test_inspect_faces_looks_with_the_homes_detector(make: Callable[[str], Home], tmp_path: Path) -> None:
    """In a home it is the model of custody.toml that looks."""
    home = make("deny")
    (tmp_path / "dot.png").write_bytes(red_dot())
    (tmp_path / "no.png").write_bytes(b"nothing")
    seen, unreadable = inspection.faces([tmp_path / "dot.png", tmp_path / "no.png"], home)
    assert seen["faces"] == [{"box": [26.0, 66.0, 32.0, 32.0], "score": 1.0}]
    assert seen["doubtful"] == []
    assert DIGEST in seen["detector"]
    assert "unknown-format" in unreadable["error"]


def test_inspect_faces_says_of_a_picture_too_long_to_be_looked_at_that_it_was_not(tmp_path: Path) -> None:
    """As in a crawl, nothing seen in a picture that is shrunk until no face is left is not "no face"."""
    Image.new("RGB", (4000, 40), (30, 90, 90)).save(tmp_path / "banner.png")
    (said,) = inspection.faces([tmp_path / "banner.png"])
    assert "too long to be looked at" in said["error"]
    assert "faces" not in said


def test_inspect_faces_tells_what_the_ruleset_takes_for_a_face(make: Callable[[str], Home], tmp_path: Path) -> None:
    """What scores less than the rule's least is told apart from the faces, not mixed with them."""
    home = make("deny")
    pixels = np.full((160, 200, 3), (30, 90, 90), np.uint8)
    pixels[80:84, 40:44] = (150, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "dim.png")
    (seen,) = inspection.faces([tmp_path / "dim.png"], home)
    assert (seen["faces"], seen["min_score"]) == ([], Ruleset.default().faces.min_score)
    assert [face["score"] for face in seen["doubtful"]] == [round(150 / 255, 4)]


def test_a_detector_that_is_not_there_or_is_another_is_told_before_anything_is_crawled(
    make: Callable[[str], Home], site: Site, tmp_path: Path
) -> None:
    """File, digest and setting are named; a crawl does not begin without the eyes that it was told to use."""
    home = make("deny")
    (home.path / "mine.onnx").write_bytes(MODEL + b"\n")
    with pytest.raises(ConfigurationError, match="not the weights that are expected") as other:
        crawled(home, site)
    assert all(word in str(other.value) for word in (str(home.path / "mine.onnx"), DIGEST))
    (home.path / "mine.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigurationError, match="not the weights that are expected"):
        crawled(home, site)
    assert not site.requests
    (home.path / "mine.onnx").unlink()
    with pytest.raises(ConfigurationError, match=r"images\.face_detector: .*mine\.onnx is no file") as missing:
        detector_choice(home)
    assert DIGEST in str(missing.value)


def test_a_digest_without_a_file_refuses(tmp_path: Path) -> None:
    """A digest that belongs to no file is a mistake, and is told as one."""
    text = replaced(settings.DEFAULT_TEXT, {'face_detector_sha256 = ""': f'face_detector_sha256 = "{DIGEST}"'})
    with pytest.raises(ConfigurationError, match="face_detector_sha256 is given"):
        detector_choice(Home.create(tmp_path / "home", settings_text=text))


def test_by_default_the_packaged_detector_looks_and_nothing_is_blurred(tmp_path: Path) -> None:
    """Two empty settings mean the packaged detector; only the mode "blur" blurs, and only from the least score."""
    home = Home.create(tmp_path / "home")
    assert detector_choice(home) == DetectorChoice()
    assert blur_from(home) is None
    (home.path / "policy.toml").write_text(_policy("blur"))
    assert blur_from(Home.open(home.path)) == Ruleset.default().faces.min_score
