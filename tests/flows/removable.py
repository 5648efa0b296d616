"""A home of allowed, sealed samples for the tests of removal requests, made once and copied for each of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flows import settings
from flows.cli import cli
from flows.home import Home
from flows.stages.decide import decide
from flows.stages.seal import seal
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.sealable import sealable_home
from tests.flows.site import picture

COUNT = 60
DATASET = "fruit"


def jpeg(n: int) -> bytes:
    """A small picture that is no other one."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(picture(n))).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def text_of(n: int) -> str:
    """Texts: 7 has Ann Bee's name, 8 a longer one with it, the rest their number."""
    return {7: "a portrait of Ann Bee", 8: "a portrait of Ann Bee, by a friend"}.get(n, f"apple number {n} on a table")


def make(path: Path, **changed: str) -> Home:
    """Sixty pictures: of n the page is on site{n // 25}.example, the picture on site{n // 25 + 1}.example."""
    text = replaced(settings.DEFAULT_TEXT, {"decode_workers = 2": "decode_workers = 1", **changed})
    policy = replaced(Ruleset.default_text(), {'suppression = "near"': 'suppression = "exact"'})  # no marks are made
    home = sealable_home(path, COUNT, jpeg, alt=text_of, settings_text=text, policy_text=policy)
    decide(home)
    seal(home, name=DATASET)
    return home


_made: list[Home] = []


def made_once(factory: pytest.TempPathFactory) -> Home:
    """The home of `make`, the same for every module of a process; no test may change it."""
    if not _made:
        _made.append(make(factory.mktemp("removable") / "home"))
    return _made[0]


def copied(home: Home, path: Path) -> Home:
    return Home.open(Path(shutil.copytree(home.path, path)))


def run(home: Home, *arguments: str, given: str | None = None) -> Result:
    """`custody removal …` on a home, with `given` on standard input."""
    command = ["removal", *arguments, "--home", str(home.path)]
    return CliRunner().invoke(cli, command, prog_name="custody", input=given)


def said(home: Home, *arguments: str, given: str | None = None, code: int = 0) -> Any:
    """What a command that ends with this code says as JSON."""
    done = run(home, *arguments, "--json", given=given)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def refused(home: Home, *arguments: str, code: int = 2) -> str:
    """How a command is refused: one message, without a traceback."""
    done = run(home, *arguments)
    assert done.exit_code == code, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stderr


def image_url(n: int) -> str:
    return f"https://site{n // 25 + 1}.example/pictures/{n}.jpg"


def page_url(n: int) -> str:
    return f"https://site{n // 25}.example/page/{n // 25}.html"


def verdicts(home: Home, removal: str) -> dict[str, int]:
    """What the request's own rule says of pairs, counted."""
    sql = "SELECT verdict || ' ' || reason_code, count(*) FROM latest_decision WHERE rule = ? GROUP BY ALL"
    with home.ledger(readonly=True) as ledger:
        return dict(ledger.query(sql, [f"removal/{removal}"]))


def ask(home: Home, sql: str, *params: object) -> list[tuple[Any, ...]]:
    with home.ledger(readonly=True) as ledger:
        return ledger.query(sql, list(params))
