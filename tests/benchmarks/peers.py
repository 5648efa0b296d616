"""Custody, datadiligence and img2dataset, really run, on the same cases on a loopback web."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peers_cases import TITLES, Case, Right, cases
from tests.benchmarks.peers_ours import Placed, judge_all, place
from tests.benchmarks.peers_site import Web
from tests.benchmarks.table import Table

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("Custody", "datadiligence", "img2dataset")
_IN_WORDS: Mapping[Right, str] = {"no": "no", "wait": "not known: wait", "nothing": "nothing said", "yes": "yes"}


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program: its environment, the make target that sets that up, and the script that asks it."""

    name: str
    environment: str
    target: str
    script: str

    @property
    def python(self) -> Path:
        return ROOT / self.environment / "bin" / "python"


DATADILIGENCE = Peer("datadiligence", ".peers-venv", "peers-env", "peers_datadiligence.py")
IMG2DATASET = Peer("img2dataset", ".bulk-venv", "bulk-env", "peers_img2dataset.py")


@dataclass(frozen=True, slots=True)
class Said:
    """What a program said of one case, in words, and whether that is right."""

    words: str
    right: bool

    @property
    def shown(self) -> str:
        return self.words if self.right else f"{self.words} ✗"


def run() -> Table:
    """Every case with the three answers; exits 2 where an environment is missing."""
    missing = [peer for peer in (DATADILIGENCE, IMG2DATASET) if not (ROOT / peer.environment / ".installed").is_file()]
    if missing:
        for peer in missing:
            sys.stderr.write(f"{peer.name} is not installed in {peer.environment}: run `make {peer.target}` first\n")
        raise SystemExit(2)
    table = cases()
    asked: dict[str, Counter[str]] = {}
    with Web() as web, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        placed = place(web, table)
        web.open()
        ours = judge_all(placed, folder)
        asked["Custody"] = web.take_asked()
        for one in placed:
            one.origins[0].answers.update(one.case.documents)  # as they were on the first of the two days
        theirs = _run(DATADILIGENCE, placed, folder)
        asked["datadiligence"] = web.take_asked()
        with_key = _run(DATADILIGENCE, placed[:1], folder, {"SPAWNING_OPTS_KEY": "none"})
        web.take_asked()
        taken = _run(IMG2DATASET, placed, folder)
        asked["img2dataset"] = web.take_asked()
    rows = [
        (
            Said(_IN_WORDS[our.together], our.own == our.together == case.right),
            _of_datadiligence(case, their),
            _of_img2dataset(case, its),
        )
        for case, our, their, its in zip(table, ours, theirs["answers"], taken["answers"], strict=True)
    ]
    key = with_key["answers"][0]["is_allowed(urls=[image])"]
    return Table(
        ("", "what stands there", "right", *NAMES),
        [
            (f"{case.number}", _cell(case), _IN_WORDS[case.right], *(said.shown for said in row))
            for case, row in zip(table, rows, strict=True)
        ],
        (
            *_summary(table, rows),
            _how(theirs["version"], taken["version"]),
            *_right_and_wrong(table, rows),
            *_NOTES,
            _asked(asked),
            f"With a key for Spawning's service, which cannot be reached here, datadiligence's `urls` way "
            f"raises `{str(key).partition(':')[0]}` for every URL, opted out or not; without one it answers allowed.",
            f"Of the images that img2dataset kept, {taken['still_marked']} still hold the words of a reservation that "
            "stood in their bytes: it encodes them anew, without metadata.",
        ),
    )


def _run(peer: Peer, placed: Sequence[Placed], folder: Path, more: Mapping[str, str] | None = None) -> Any:
    """Ask a peer in its own process and environment, which reaches loopback and nothing else."""
    given, answered = folder / "in.json", folder / "out.json"
    asked = [
        {"image_url": one.image_url, "page_url": one.page_url, "path": str(folder / f"{n}.{one.case.extension}")}
        for n, one in enumerate(placed)
    ]
    given.write_text(json.dumps(asked), encoding="utf-8")
    nowhere = "http://127.0.0.1:9"  # nobody listens there
    proxies = {name: nowhere for scheme in ("http", "https", "all") for name in _cases_of(f"{scheme}_proxy")}
    direct = dict.fromkeys(_cases_of("no_proxy"), "127.0.0.1")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPAWNING_OPTS_KEY")},
        **proxies,
        **direct,
        **{"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"},
        **(more or {}),
    }
    # -P: the scripts' neighbours are named like packages that a peer may import.
    command = [str(peer.python), "-P", str(Path(__file__).with_name(peer.script)), str(given), str(answered)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{peer.name} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return json.loads(answered.read_bytes())


def _cases_of(name: str) -> tuple[str, str]:
    return name, name.upper()


# ── what they answered ─────────────────────────────────────────────────────────────────────────────────────────────


def _is_right(case: Case, used: bool) -> bool:
    """A yes or no is all they have: kept out is right where the answer is no or wait, used where it is not."""
    return used == (case.right in ("nothing", "yes"))


def _of_datadiligence(case: Case, answers: Mapping[str, bool | str]) -> Said:
    """One no is a no; an exception keeps the sample out."""
    refusing = [way for way, answer in answers.items() if answer is False]
    if refusing:
        return Said("refused", _is_right(case, False))
    raised = [answer for answer in answers.values() if isinstance(answer, str)]
    if raised:
        return Said(f"raises {raised[0].partition(':')[0]}", _is_right(case, False))
    return Said("allowed", _is_right(case, True))


def _of_img2dataset(case: Case, row: Mapping[str, str]) -> Said:
    match row["status"]:
        case "success":
            return Said("used", _is_right(case, True))
        case "failed_to_download" if "X-Robots-Tag" in row["error"]:
            return Said("refused", _is_right(case, False))
        case _:
            return Said(f"{row['status'].replace('_', ' ')}: {row['error'][:60]}", _is_right(case, False))


# ── in words ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _cell(case: Case) -> str:
    mark = " †" if case.is_a_choice else ""
    return case.what.replace("|", "\\|") + mark


def _summary(table: Sequence[Case], rows: Sequence[tuple[Said, ...]]) -> Iterable[str]:
    """How many are right: of all, without the choices of policy, by what is right, and by mechanism."""

    def count(wanted: Iterable[bool]) -> tuple[int, list[int]]:
        chosen = [row for row, keep in zip(rows, wanted, strict=True) if keep]
        return len(chosen), [sum(row[i].right for row in chosen) for i in range(len(NAMES))]

    def line(wanted: Iterable[bool]) -> str:
        total, right = count(wanted)
        return ", ".join(f"{name} {n}/{total}" for name, n in zip(NAMES, right, strict=True))

    yield f"**Right: {line(True for _ in table)}.**"
    firm = line(not case.is_a_choice for case in table)
    yield f"Without the rows marked †, which no specification settles and where ours is the strict reading: {firm}."
    for said, what in (("no", "a plain or hidden no"), ("wait", "what cannot be known")):
        yield f"Where {what} must keep the image out: {line(case.right == said for case in table)}."
    silent = line(case.right in ("nothing", "yes") for case in table)
    yield f"Where nothing is said, or yes (who uses everything is always right here): {silent}."
    by_mechanism = ["| | mechanism | cases | " + " | ".join(NAMES) + " |", "|---|---|---|" + "---|" * len(NAMES)]
    for number, title in TITLES.items():
        total, right = count(case.number == number for case in table)
        kept_out, hit = count(case.number == number and case.right in ("no", "wait") for case in table)
        cells = " | ".join(f"{n} ({k} of {kept_out})" for n, k in zip(right, hit, strict=True))
        by_mechanism.append(f"| {number} | {title} | {total} | {cells} |")
    yield "\n".join(by_mechanism)
    yield "In brackets: of those that must keep the image out."


def _how(datadiligence: str, img2dataset: str) -> str:
    return (
        f"How it was run: datadiligence {datadiligence} is asked about image and page in every way that it offers "
        "(`url`, `urls`, `response` with `body`, `headers`, `path`), told our agent's name, without an API key; one no "
        f"is a no. img2dataset {img2dataset} downloads the list with its own default directives (noai, noimageai, "
        "noindex, noimageindex) and our agent's name. Of their yes and no, keeping out counts as right where the "
        "answer is no or wait, using where it is yes or nothing said; ours must be the very answer, of the mechanism "
        "alone and of all twelve rules together."
    )


def _asked(asked: Mapping[str, Counter[str]]) -> str:
    """What each asked the servers for: who asks for no policy document cannot know what it says."""

    def documents(paths: Counter[str]) -> int:
        return sum(n for path, n in paths.items() if not path.startswith(("/pictures/", "/page")))

    counts = ", ".join(f"{name} {documents(asked[name]) - asked[name]['/x.c2pa']}" for name in NAMES)
    remote = ", ".join(f"{name} {asked[name]['/x.c2pa']}" for name in NAMES)
    return (
        f"Requests for robots.txt and its fellows that the servers saw: {counts}. Requests for the remote C2PA "
        f"manifest, which is never to be fetched: {remote}."
    )


def _right_and_wrong(table: Sequence[Case], rows: Sequence[tuple[Said, ...]]) -> Iterable[str]:
    """Where theirs keep out what must stay out, and what need not."""
    for i, name in enumerate(NAMES[1:], 1):
        kept_out = [(case, row[i].right) for case, row in zip(table, rows, strict=True) if _keeps_out(row[i])]
        for right, what in ((True, "rightly keeps out"), (False, "keeps out what may be used")):
            named = [f"{case.number} {case.what}" for case, is_right in kept_out if is_right is right]
            yield f"{name} {what} {len(named)}: {'; '.join(named) or 'none'}."


def _keeps_out(said: Said) -> bool:
    return said.words not in ("allowed", "used")


# Why, by the source of the two versions that are pinned.
_NOTES = (
    "datadiligence reads of the last response the headers `X-Robots-Tag` and `tdm-reservation`, of the image the "
    "legacy assertion `c2pa.training-mining` of the active manifest, and asks Spawning's service if it has a key. It "
    "compares noai and noimageai letter by letter and takes a word for its own whatever agent it is addressed to, "
    "unless the agent's name stands right before it; so it hears noai behind a directive with a colon, which "
    "img2dataset does not. A no under a broken signature it hears, as one should. Its option `respect_noindex`, off "
    "by default, would refuse the index family.",
    "img2dataset reads the headers `X-Robots-Tag` of the last response, all of them and in any case, and takes what "
    "stands before the first colon of each for an agent's name, a directive's with a value too. It asks for no page, "
    "no robots.txt (nor for the group that bears its own name) and reads nothing in the image.",
    "Neither has a place for lists of one's own (13): whoever uses them has to filter the URLs beforehand.",
)
