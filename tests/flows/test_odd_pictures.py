"""Odd pictures from the web to the last verdict: as good as any, or out with a reason; never a number made up."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from flows import settings
from flows.home import Home
from flows.stages import crawl, decide, look
from flows.stages.crawl import Job
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.flows.site import Answer, Site
from tests.flows.test_faces import BY, MODEL


def squares(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Dark squares: what is bright red, or white, is a face to the model here."""
    colours = np.random.default_rng(seed).integers(0, 80, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **options)  # type: ignore[arg-type]
    return held.getvalue()


DEEP = Image.fromarray(np.asarray(squares(2).convert("L")).astype(np.uint16) * 257)
AS_GOOD_AS_ANY = {
    "rgb.png": saved(squares(0), "PNG"),
    "grey.png": saved(squares(1).convert("L"), "PNG"),
    "deep.png": saved(DEEP, "PNG"),
    "palette.png": saved(squares(3).quantize(16), "PNG"),
    "inks.jpg": saved(squares(4).convert("CMYK"), "JPEG"),
    "moving.gif": saved(squares(5), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 96))]),
    "moving.webp": saved(squares(6), "WEBP", save_all=True, append_images=[squares(7)]),
    "moving.png": saved(squares(8), "PNG", save_all=True, append_images=[squares(9)]),
}
DEFERRED = {
    "pixel.png": (saved(Image.new("RGB", (1, 1), (10, 90, 90)), "PNG"), "quality", "not-observed"),
    "thread.png": (saved(squares(10, (20_000, 10)), "PNG"), "quality", "not-observed"),
    "tower.png": (saved(squares(11, (10, 20_000)), "PNG"), "quality", "not-observed"),
    "ribbon.png": (saved(squares(12, (20_000, 100)), "PNG"), "faces", "not-observed"),
    "cut.jpg": (saved(squares(13), "JPEG")[:600], "xmp", "fetch-failed"),
    "words.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "xmp", "fetch-failed"),
    "nothing.png": (b"", "xmp", "fetch-failed"),
}


def test_odd_pictures_are_as_good_as_any_or_wait_with_a_reason(tmp_path: Path, fresh_home: Callable[..., Home]) -> None:
    """Under bounds of size that let all of them pass: crawled, looked at for faces, quality and safety, judged."""
    bodies = AS_GOOD_AS_ANY | {name: body for name, (body, _, _) in DEFERRED.items()}
    shown = "".join(f'<img src="/{name}" alt="a pattern of squares">' for name in bodies)
    page = f'<link rel="license" href="{BY}">{shown}'.encode()
    answers = {"/": Answer(page), "/robots.txt": Answer(b"", "text/plain")}
    answers |= {f"/{name}": Answer(body, "image/png") for name, body in bodies.items()}
    default = Ruleset.default_text()
    asked = default.partition("\nmechanisms = ")[2].partition("\n")[0]
    rules = {
        asked: '["xmp", "licence", "faces", "size", "quality", "safety", "text", "tombstone"]',
        "min_side = 64": "min_side = 1",
        "max_aspect = 4.0": "max_aspect = 100000.0",
        "max_screenshot = 0.6": "max_screenshot = 1.0",
        "max_nsfw = 0.8": "max_nsfw = 1.0",
        "defer_nsfw = 0.3": "defer_nsfw = 1.0",
    }
    with Site(answers) as site:
        text = replaced(
            settings.DEFAULT_TEXT,
            {
                "allow_addresses = [] ": f'allow_addresses = ["{site.address}"] ',
                "decode_workers = 2": "decode_workers = 1",
                'face_detector = ""': 'face_detector = "mine.onnx"',
            },
        )
        home = fresh_home(tmp_path / "home", settings_text=text, policy_text=replaced(default, rules))
        (home.path / "mine.onnx").write_bytes(MODEL)
        crawl.crawl(home, Job(seeds=(site.url("/"),)))
    decide.decide(home)
    look.look(home)
    rows = ask(home, "SELECT image_url, s.verdict, rule, reason_code FROM standing s JOIN occurrence USING (pair_key)")
    stood = {url.rpartition("/")[2]: (verdict, rule, code) for url, verdict, rule, code in rows}
    assert {name: stood[name][0] for name in AS_GOOD_AS_ANY} == dict.fromkeys(AS_GOOD_AS_ANY, "allow")
    assert {name: stood[name] for name in DEFERRED} == {
        name: ("defer", rule, code) for name, (_, rule, code) in DEFERRED.items()
    }
    scored = ask(
        home,
        "SELECT DISTINCT image_url FROM occurrence JOIN evidence USING (pair_key)"
        " WHERE json_array_length(body_json, '$.scores') > 0",
    )
    assert {url.rpartition("/")[2] for (url,) in scored} == AS_GOOD_AS_ANY.keys()
