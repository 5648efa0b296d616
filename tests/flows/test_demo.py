"""The demo around its job: its home, its museum's place, and the table it ends with."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("emoji", reason="the demo needs the extra `demo`")

from flows import demo, settings
from flows.demo import Notes, run_demo, settings_text
from flows.home import Home
from flows.museum import Museum
from policy.errors import HomeError, InputError


@pytest.mark.parametrize("fresh", [False, True])
def test_a_home_that_is_not_the_demos_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    """Neither run nor `--fresh` touches a home that somebody made for work."""
    Home.create(tmp_path / "work")
    before = sorted(p.name for p in (tmp_path / "work").rglob("*"))
    with pytest.raises(HomeError, match="not the demo's"):
        run_demo(tmp_path / "work", fresh=fresh)
    assert sorted(p.name for p in (tmp_path / "work").rglob("*")) == before


def test_fresh_starts_over_in_the_demos_own_home(tmp_path: Path) -> None:
    """What an earlier demo left is gone, and nothing counts as done."""
    Notes(port_base=9731, pages=3, done={"crawl": 1.0}).store(tmp_path)
    assert demo._prepare(tmp_path, fresh=False, pages=0).done == {"crawl": 1.0}
    assert demo._prepare(tmp_path, fresh=True, pages=0) == Notes(port_base=0, pages=0)
    assert not tmp_path.exists()


def _free_base() -> int:
    """Seven free ports in a row, below those that the system hands out by itself."""
    for base in range(20_000 + os.getpid() % 1000 * 10, 32_000, 10):
        try:
            with Museum(port_base=base, limit=1):
                return base
        except InputError:
            continue
    raise AssertionError("no free ports")


def test_a_taken_port_moves_a_new_museum_but_not_an_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first free ports are taken and remembered; a home's museum opens where it stood, or not at all."""
    base = _free_base()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(demo, "PORT_BASES", (taken, base))
        notes = Notes(port_base=0, pages=0)
        with demo._open_museum(tmp_path, notes) as museum:
            assert notes.port_base == base
            assert museum.addresses[0] == f"127.0.0.1:{base}"
        with pytest.raises(InputError, match=str(taken)), demo._open_museum(tmp_path, Notes(taken, 0)):
            pass


def test_its_settings_allow_the_museum_and_nothing_else() -> None:
    """custody.toml names the museum's addresses and entrances; policy.toml is the strict one."""
    with Museum(port_base=0, limit=1) as museum:
        parsed = settings.parse(settings_text(museum))
        assert parsed.crawl.allow_addresses == museum.addresses
        assert parsed.crawl.seeds == museum.seeds


def _story() -> dict[str, Any]:
    return {
        "found": {"pages": 82, "pictures": 1927, "not_taken": {"timeout": 2}},
        "standing": [
            ["allow", "", "", 1553],
            ["deny", "faces", "face-found", 31],
            ["deny", "robots", "a-code-without-words", 5],
            ["defer", "text", "caption-missing", 296],
        ],
        "faces": {"pictures": 31, "photographs": 2, "of_the_prompts": ["smiling face"]},
        "captions": {
            "asked": 391,
            "kept": 97,
            "deferred": 294,
            "right": 50,
            "examples": [
                {"caption": "pear", "score": 0.61, "truth": "pear", "right": True},
                {"caption": "men\x1b[31m", "score": 0.56, "truth": "women wrestling", "right": False},
            ],
        },
        "clip": {
            **{"r_at_1": 0.28, "r_at_5": 0.52, "heldout_pairs": 250},
            **{"threshold": 0.53, "reached": True, "target_precision": 0.5},
        },
        "sealed": {"dataset": "picture-book", "root": "b6" * 32, "slots": 415, "shards": 1},
        "trained": {"run": "r", "steps": 1500, "images_per_s": 88.0, "checkpoints": 4},
        "grid": "samples/grid.png",
        "strip": "samples/strip.png",
        "removal": {
            "id": "removal-1",
            "state": "applied",
            "due_at": datetime(2026, 12, 21, tzinfo=UTC),
            "occurrences": 2,
            "slots": [{"dataset": "picture-book", "ordinal": 7}],
            "checkpoints": [{"id": "c-100", "step": 100, "tier": "direct", "count": 21, "through": ""}],
            "receipt": "receipts/removal-1.json",
            "scan": "clean",
        },
        "audits": {"decisions_without_evidence": 0},
        "failures": [],
        "stages_s": {"crawl": 40.0, "train": 200.0},
        "try_urls": {"sealed": "http://127.0.0.1:8732/72x72/1f34e.png"},
    }


def test_the_closing_table_tells_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Found, allowed, denied and deferred by reason, captions, CLIP, shards, training, removal, audits, what next."""
    demo._print_story(_story(), Path("demo-home"))
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "1,927 pictures taken, on 82 pages",
        "31 faces: a face",
        "5 robots: a-code-without-words",
        "of the grid's prompts: smiling face",
        "296 text: no text of its own",
        "97 of 391 without alt text (25%)",
        "52% of these right",
        "though it is “women wrestling”",
        "28.0% image-to-text R@1 over 250 pairs",
        "415 slots in 1 WebDataset shards",
        "1,500 steps, 88.0 images/s, 4 checkpoints",
        "c-100: direct, saw it 21 times",
        "receipts/removal-1.json: signed; every file here was read for what is gone: clean",
        "custody removal verify demo-home/receipts/removal-1.json",
        "0 decisions without evidence",
        "240 s crawl 40, train 200",
        "custody trace http://127.0.0.1:8732/72x72/1f34e.png --home demo-home",
    ):
        assert part in said
    assert "\x1b[31m" not in said
