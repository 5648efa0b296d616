"""Looking at pictures: what each rule costs a picture, and what a second run costs when everything is known."""

from __future__ import annotations

import io
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from flows.home import Home
from flows.stages.look import LookSummary, look
from policy.ruleset import Ruleset
from tests.benchmarks.table import Table
from tests.flows.sealable import sealable_home

PICTURES = 1_500
SIDE = 256


def run() -> Table:
    """A home of allowed pictures is looked at twice."""
    scratch = Path(tempfile.mkdtemp(prefix="looking-"))
    try:
        home = sealable_home(scratch / "home", PICTURES, _jpeg, looked_at=False)
        home.policy_path.write_text(Ruleset.default_text())
        first, first_cpu, first_s = _looked(home)
        again, again_cpu, again_s = _looked(home)
        assert again.pairs == again.decided.changed == 0
    finally:
        shutil.rmtree(scratch)
    rows = [
        (f"{seen.mechanism}: a picture", f"{1000 * seen.seconds / max(seen.measured, 1):.2f} ms wall")
        for seen in first.looked
    ]
    rows += [
        ("first run, evidence and verdicts with it", f"{first_s:.1f} s, {first_cpu:.1f} s of CPU"),
        ("second run", f"{again_s:.2f} s, {again_cpu:.2f} s of CPU"),
        ("second run, share of the first", f"{again_s / first_s:.2%} of the time, {again_cpu / first_cpu:.2%} of CPU"),
    ]
    above = [f"{first.pictures:,} pictures of {SIDE} px, {first.duplicates} near duplicates among them; two threads."]
    return Table(("what", "measured"), rows, above)


def _looked(home: Home) -> tuple[LookSummary, float, float]:
    """What a run says, its seconds of CPU, and its seconds."""
    began, used = time.monotonic(), _cpu()
    summary = look(Home.open(home.path))
    return summary, _cpu() - used, time.monotonic() - began


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _jpeg(number: int) -> bytes:
    """A picture of overlapping coloured shapes, each number's another one."""
    rng = np.random.default_rng(number)
    canvas = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(24):
        left, top = rng.integers(0, SIDE - 8, 2)
        width, height = rng.integers(8, SIDE // 2, 2)
        canvas[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    held = io.BytesIO()
    Image.fromarray(canvas).save(held, "JPEG", quality=92)
    return held.getvalue()
