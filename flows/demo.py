"""`custody demo`: the whole job on the loopback museum, as Prefect flows, told as it goes.

Killed at any moment and started again it goes on where it was: what is done stands in the home, and `demo.json`
there remembers the museum's ports and which stages were told of.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import settings
from flows.home import Home
from flows.museum import PICTURES_PER_PAGE, PORT_BASE, Museum, cldr_names
from flows.terminal import escape, print_json, say, silent
from policy.durable import write_durably
from policy.errors import HomeError, InputError

if TYPE_CHECKING:
    from rich.table import Table

# The demo's museum stays where it was for as long as its home exists; these are tried for a new one.
PORT_BASES = (PORT_BASE, 8831, 9731, 18731, 28731)
# A model this small, trained for minutes on a CPU, learns a theme: these rooms hold what the prompts ask for.
THEMES = ("food", "shapes", "faces")
SELECTION = " OR ".join(f"page_url LIKE '%/{theme}/%'" for theme in THEMES)
DATASET = "picture-book"
PROMPTS = ("red apple", "green apple", "banana", "green banana", "watermelon", "smiling face")
PHRASES = "cldr-names.txt"


@dataclass(slots=True)
class Notes:
    """demo.json: where the museum stood, what is done, and what only a stage's own run knows."""

    port_base: int
    pages: int
    done: dict[str, float] = field(default_factory=dict)  # stage -> seconds
    facts: dict[str, Any] = field(default_factory=dict)

    def store(self, home: Path) -> None:
        write_durably(home / "demo.json", json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, home: Path) -> Notes | None:
        file = home / "demo.json"
        return cls(**json.loads(file.read_text())) if file.is_file() else None


def run_demo(path: Path, *, fresh: bool = False, as_json: bool = False, pages: int = 0, preset: str = "demo") -> int:
    """Run the whole job in the home at `path` (made if it is not there), or what is left of it; the exit code.

    `fresh` starts over; `pages` opens only so many pages of the museum (0: all); `preset` is the trainer's.

    Raises:
        HomeError: the path holds a home that is no demo's.
        InputError: the museum's ports are taken.
    """
    from flows.commands import Bars
    from flows.prefect_server import prefect_server
    from flows.steps import shown

    started = time.monotonic()
    notes = _prepare(path, fresh=fresh, pages=pages)
    with _open_museum(path, notes) as museum:
        home = _open_home(path, museum, notes)
        say(f"A museum of {len(museum.truth):,} pictures has opened on this machine: {museum.seeds[0]}")
        with prefect_server(home.path / "prefect") as prefect:
            say(
                f"Prefect shows its flows at {prefect.ui_url}" + (f" (password {prefect.auth})" if prefect.auth else "")
            )
            with shown(Bars()):
                _run_job(home, notes, preset)
        story = _story(home, museum, notes)
    story["seconds"] = round(time.monotonic() - started, 1)
    if as_json:
        print_json(story)
    else:
        _print_story(story, path)
    return 0


# ── the job ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run_job(home: Home, notes: Notes, preset: str) -> None:
    """The stages in order. Each can be called again; one that was told of before is not."""
    stages: tuple[tuple[str, str, Callable[[Home, Notes], None]], ...] = (
        ("crawl", "Crawl the museum, ask every opt-out, decide with evidence", _crawl),
        ("look", "Look at what passed: quality, near duplicates, safety; models last", _look),
        ("caption", "Train a CLIP on the pairs that have alt text; caption those that have none", _caption),
        ("seal", f"Seal what is allowed and hangs in {', '.join(THEMES)}", _seal),
        ("train", "Train a text-to-image diffusion model on it", lambda h, n: _train(h, n, preset)),
        ("sample", "Draw pictures from words", _sample),
        ("remove", "Honour a removal request", _remove),
        ("audit", "Answer the auditor", _audit),
    )
    for number, (name, title, stage) in enumerate(stages, 1):
        if name in notes.done:
            say(f"{number}/{len(stages)} {title}: done before")
            continue
        say(f"{number}/{len(stages)} {title}")
        begun = time.monotonic()
        stage(home, notes)
        notes.done[name] = round(time.monotonic() - begun, 1)
        notes.store(home.path)


def _crawl(home: Home, notes: Notes) -> None:
    from flows.crawl_pages import crawl_pages
    from flows.stages import crawl, decide
    from flows.steps import run

    if crawl.finished(home) and not crawl.unfinished(home):
        decide.decide(home)  # killed between the crawl and its verdicts
    else:
        run(crawl_pages, str(home.path))


def _look(home: Home, notes: Notes) -> None:
    from flows.look_at_images import look_at_images
    from flows.steps import run

    run(look_at_images, str(home.path))


def _caption(home: Home, notes: Notes) -> None:
    from flows.caption_images import caption_images
    from flows.steps import run

    run(caption_images, str(home.path))


def _seal(home: Home, notes: Notes) -> None:
    from flows.seal_shards import seal_shards
    from flows.steps import run

    run(seal_shards, str(home.path), where=SELECTION, name=DATASET)


def _train(home: Home, notes: Notes, preset: str) -> None:
    from flows.steps import run
    from flows.train_model import train_model

    trained = run(train_model, str(home.path), DATASET, preset=preset)
    notes.facts.update(trained)


def _sample(home: Home, notes: Notes) -> None:
    from flows.stages.sample import sample

    run_name = notes.facts["run"]
    notes.facts["grid"] = sample(home, PROMPTS, run=run_name, out=home.samples_path / "grid.png").path
    strip = sample(home, PROMPTS[:2], run=run_name, strip=True, out=home.samples_path / "strip.png")
    notes.facts["strip"] = strip.path


def _remove(home: Home, notes: Notes) -> None:
    """Someone names one URL of a sealed picture; everything with the same bytes goes."""
    from flows.handle_removals import handle_removals
    from flows.stages.removing import approving, requests
    from flows.stages.removing.receipts import issue
    from flows.steps import run

    if "clip" not in notes.facts:
        # Asked now: from the approval on, what saw the picture is refused to everybody, until it is replayed.
        notes.facts["clip"] = _clip_scores(home)
        notes.store(home.path)
    filed = requests.list_removals(home)
    if not filed:
        url = _sealed_url(home)
        filed = (requests.add(home, "url", url),)
        # Asked now: once the request is carried through, nothing here knows that URL any more.
        notes.facts["seen_by"] = _seen_by(home, url)
        notes.store(home.path)
    if filed[0].state in {"received", "held"}:
        approving.approve(home, filed[0].id, by="demo", reason="asked for by the demo")
    notes.facts["removal"] = filed[0].id
    run(handle_removals, str(home.path))
    [receipt] = issue(home, [filed[0].id])
    notes.facts |= {"receipt": receipt.path, "scan": receipt.scan}


def _seen_by(home: Home, url: str) -> list[dict[str, Any]]:
    """The checkpoints that saw a picture, without a word about the picture."""
    from flows.stages.trace import trace

    return [
        {"id": c.id, "step": c.step, "tier": c.tier, "count": c.count, "through": c.through}
        for c in trace(home, url).checkpoints
    ]


def _audit(home: Home, notes: Notes) -> None:
    from flows.publish_reports import publish_reports
    from flows.stages.verify import verify
    from flows.steps import run

    notes.facts["audits"] = run(publish_reports, str(home.path))
    notes.facts["failures"] = [f"{f.where}: {f.what}" for f in verify(home)]


def _sealed_url(home: Home) -> str:
    """A sealed picture, by preference one that hangs in two places."""
    rows = _ask(
        home,
        f"""
        SELECT min(o.image_url) FROM slot s
        JOIN evidence e USING (content_sha256) JOIN occurrence o ON o.pair_key = e.pair_key
        WHERE s.dataset = '{DATASET}' AND o.image_url IS NOT NULL
        GROUP BY s.ordinal ORDER BY count(DISTINCT o.image_url) DESC, s.ordinal LIMIT 1
        """,  # noqa: S608  # a constant of this module
    )
    return str(rows[0][0])


# ── its home and its museum ────────────────────────────────────────────────────────────────────────────────────────


def _prepare(path: Path, *, fresh: bool, pages: int) -> Notes:
    notes = Notes.load(path) if path.is_dir() else None
    if notes is None and (path / "ledger.duckdb").exists():
        raise HomeError("is a home, but not the demo's", where=str(path), remedy="Name another with --home")
    if notes is not None and fresh:
        shutil.rmtree(path)
        notes = None
    return notes or Notes(port_base=0, pages=pages)


@contextmanager
def _open_museum(path: Path, notes: Notes) -> Iterator[Museum]:
    limit = notes.pages * PICTURES_PER_PAGE or None
    bases = (notes.port_base,) if notes.port_base else PORT_BASES
    for number, base in enumerate(bases, 1):
        museum = Museum(base, limit=limit)
        try:
            museum.__enter__()
        except InputError:
            if number == len(bases):
                raise
            continue
        notes.port_base = base
        break
    try:
        yield museum
    finally:
        museum.__exit__(None, None, None)


def _open_home(path: Path, museum: Museum, notes: Notes) -> Home:
    if not (path / "ledger.duckdb").exists():
        path.mkdir(parents=True, exist_ok=True)
        notes.store(path)
        write_durably(path / PHRASES, "".join(f"{name}\n" for name in cldr_names()).encode())
        Home.create(path, settings_text=settings_text(museum, notes.pages))
    return Home.open(path)


def settings_text(museum: Museum, pages: int = 0) -> str:
    """custody.toml for the museum: its entrances, its addresses and no others, and little patience."""
    replacements = {
        "seeds = []": f"seeds = {json.dumps(list(museum.seeds))}",
        "allow_addresses = []": f"allow_addresses = {json.dumps(list(museum.addresses))}",
        "deadline_s = 30.0": "deadline_s = 6.0",
        "phrase_lists = []": f"phrase_lists = {json.dumps([PHRASES])}",
        "unique = false": "unique = true",  # no name hangs twice in this museum
        # A CLIP that learnt from 1,000 emoji proves no 9 in 10: the demo shows what it can prove.
        "target_precision = 0.9": "target_precision = 0.5",
        "confidence = 0.95": "confidence = 0.8",
    }
    if pages:
        replacements["held_out = 250"] = f"held_out = {pages * PICTURES_PER_PAGE // 8}"
    return _replaced(settings.DEFAULT_TEXT, replacements, "custody.toml")


def _replaced(text: str, replacements: dict[str, str], name: str) -> str:
    for old, new in replacements.items():
        if old not in text:
            raise InputError(f"the packaged {name} has no line {old!r} for the demo to change")
        text = text.replace(old, new, 1)
    return text


# ── what came of it ────────────────────────────────────────────────────────────────────────────────────────────────

_FETCHED = "SELECT kind, outcome, count(*) FROM \"fetch\" WHERE kind IN ('page', 'image') GROUP BY ALL ORDER BY ALL"
_STANDING = """
SELECT verdict, coalesce(rule, '') AS rule, coalesce(reason_code, '') AS reason, count(*) AS pairs
FROM standing GROUP BY ALL ORDER BY verdict, pairs DESC, rule
"""
_CAPTIONED = """
SELECT o.image_url, c.caption, c.score, c.state = 'kept' AS kept
FROM caption c JOIN occurrence o ON o.pair_key = c.pair_key
WHERE c.caption_origin = 'clip-retrieval'
QUALIFY row_number() OVER (PARTITION BY c.sample_key ORDER BY c.batch_seq DESC, o.image_url) = 1
ORDER BY o.image_url
"""
_FACES = """
SELECT DISTINCT o.image_url FROM standing s JOIN occurrence o USING (pair_key)
WHERE s.rule = 'faces' AND s.verdict = 'deny' ORDER BY o.image_url
"""
_SHARDS = f"SELECT count(*), sum(live) FROM shard WHERE dataset = '{DATASET}' AND generation = 0"  # noqa: S608  # constant
_ROOT = f"SELECT root, slots FROM dataset WHERE dataset = '{DATASET}'"  # noqa: S608  # constant


def _story(home: Home, museum: Museum, notes: Notes) -> dict[str, Any]:
    """Everything the closing table tells, as one JSON-able dict."""
    fetched = _ask(home, _FETCHED)
    captions = _ask(home, _CAPTIONED)
    kept = [(url, text, score) for url, text, score, is_kept in captions if is_kept]
    right = [text for url, text, _ in kept if museum.is_right(url, text)]
    faces = [url for (url,) in _ask(home, _FACES)]
    ((root, slots),) = _ask(home, _ROOT)
    ((shards, live),) = _ask(home, _SHARDS)
    return {
        "found": {
            "pages": sum(n for kind, outcome, n in fetched if kind == "page" and outcome == "ok"),
            "pictures": sum(n for kind, outcome, n in fetched if kind == "image" and outcome == "ok"),
            "not_taken": _added((outcome, n) for _, outcome, n in fetched if outcome != "ok"),
        },
        "standing": [list(row) for row in _ask(home, _STANDING)],
        "faces": {
            "pictures": len(faces),
            "photographs": sum(url.startswith(museum.url("photos")) for url in faces),
            "of_the_prompts": sorted({museum.truth[u] for u in faces if museum.truth.get(u) in PROMPTS}),
        },
        "captions": {
            "asked": len(captions),
            "kept": len(kept),
            "deferred": len(captions) - len(kept),
            "right": len(right),
            "examples": [
                {"picture": url, "caption": text, "score": round(score, 3), "truth": museum.truth.get(url, "")}
                | {"right": museum.is_right(url, text)}
                for url, text, score in kept[:: max(1, len(kept) // 5)][:5]
            ],
        },
        "clip": notes.facts["clip"],
        "sealed": {"dataset": DATASET, "root": root, "slots": slots, "shards": shards, "live_then": live},
        "trained": _training_figures(home, notes),
        "grid": notes.facts.get("grid"),
        "strip": notes.facts.get("strip"),
        "removal": _removal_story(home, notes),
        "audits": notes.facts.get("audits"),
        "failures": notes.facts.get("failures"),
        "stages_s": notes.done,
        "try_urls": _urls_to_try(home),
    }


def _added(counted: Iterable[tuple[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for name, count in counted:
        total[name] += count
    return dict(total)


_OF_THE_CALIBRATION = ("threshold", "precision", "reached", "target_precision", "lower_bound")


def _clip_scores(home: Home) -> dict[str, Any]:
    """What the captioner's CLIP reached on pairs it had not learnt from."""
    from curation.clip_model import read_retrieval
    from flows.stages.captioning.calibration import calibrated
    from flows.stages.captioning.models import CaptionerChoice
    from flows.stages.train import newest_run

    retrieval = read_retrieval(newest_run(home, "clip"))
    calibration = asdict(calibrated(home, CaptionerChoice(home), silent))
    return {"r_at_1": retrieval.r_at_1, "r_at_5": retrieval.r_at_5, "heldout_pairs": retrieval.heldout_pairs} | {
        name: calibration[name] for name in _OF_THE_CALIBRATION
    }


def _training_figures(home: Home, notes: Notes) -> dict[str, Any]:
    from training.checkpoint import list_checkpoints

    kept = list_checkpoints(home.runs_path / notes.facts["run"])
    return {name: notes.facts[name] for name in ("run", "steps", "images_per_s")} | {"checkpoints": len(kept)}


def _removal_story(home: Home, notes: Notes) -> dict[str, Any]:
    from flows.stages.removing import requests

    shown = requests.show(home, notes.facts["removal"])
    return {
        "id": shown.id,
        "state": shown.state,
        "due_at": shown.due_at,
        "occurrences": len(shown.matches),
        "slots": [asdict(slot) for slot in shown.slots],
        "checkpoints": notes.facts.get("seen_by", []),
        "receipt": notes.facts.get("receipt"),
        "scan": notes.facts.get("scan"),
    }


def _urls_to_try(home: Home) -> dict[str, str]:
    """URLs that show something: rule -> a picture it denied, and "sealed" -> one that is in."""
    denied = _ask(
        home,
        """
        SELECT s.rule, min(o.image_url) FROM standing s JOIN occurrence o USING (pair_key)
        WHERE s.verdict = 'deny' AND o.image_url IS NOT NULL GROUP BY s.rule ORDER BY s.rule
        """,
    )
    return {"sealed": _sealed_url(home)} | {str(rule): str(url) for rule, url in denied}


def _ask(home: Home, sql: str) -> list[tuple[Any, ...]]:
    from flows.stages import audits

    _, rows = audits.sql(home, sql)
    return rows


# What the reason codes of the museum's pictures mean.
_IN_WORDS = {
    "licence-unknown": "no licence that anyone can recognise",
    "face-found": "a face, and nobody's consent",
    "robots-disallow": "robots.txt disallows it, so it was never asked for",
    "x-robots-noai": "its X-Robots-Tag says noai",
    "x-robots-noimageai": "its page's robots meta says noimageai",
    "too-small": "too small to learn from",
    "caption-missing": "no text of its own, and CLIP is not sure enough",
    "caption-uncertain": "no text of its own, and CLIP is not sure enough",
    "text-file-name": "a file name for a text, and CLIP is not sure enough",
    "text-boilerplate": "a text about the page, and CLIP is not sure enough",
    "text-keywords": "a text for search engines, and CLIP is not sure enough",
    "duplicate": "another picture that is the same to the eye stands for it",
    "too-plain": "hardly anything to be seen",
    "too-blurred": "blurred",
    "screenshot": "a screenshot",
    "nsfw-unsure": "the model that looks for what is not safe for work is in doubt",
    "nsfw": "not safe for work, says a model",
    "robots-unreachable": "its host did not say what robots.txt allows",
    "fetch-failed": "not to be had, or no readable picture",
    "tdmrep-reserved": "its site's tdmrep.json reserves text and data mining",
    "content-usage-disallowed": "its site's robots.txt says train-ai=n of it",
    "not-observed": "something that must be known could not be seen",
    "tombstoned": "removed on request, for good",
}

# ── told to a person ───────────────────────────────────────────────────────────────────────────────────────────────


def _print_story(story: dict[str, Any], path: Path) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    console.print()
    console.print(Padding(_table(story), (0, 1)))
    console.print()
    console.print(Text("The museum has closed; all of this works without it:", style="bold"))
    for command, what in _next_commands(story, path):
        console.print(Text(f"  # {what}", style="dim"))
        console.print(Text(f"  {command}", style="cyan"), soft_wrap=True)


def _table(story: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="What became of the museum's pictures", box=box.SIMPLE_HEAD, title_style="bold", show_header=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")

    def section(head: str, rows: Sequence[tuple[object, str]]) -> None:
        for number, (count, text) in enumerate(rows):
            shown = f"{count:,}" if isinstance(count, int) else str(count)
            table.add_row(Text(head if number == 0 else ""), Text(shown), Text(escape(text)))
        table.add_section()

    section("Found", _found_rows(story))
    for verdict, head in (("allow", "Allowed"), ("deny", "Denied"), ("defer", "Deferred")):
        section(head, _standing_rows(story, verdict))
    section("CLIP", _clip_rows(story))
    section("Captioned", _caption_rows(story))
    section("Sealed", _sealed_rows(story))
    section("Trained", _trained_rows(story))
    section("Removed", _removal_rows(story))
    section("Audited", _audit_rows(story))
    stages = story["stages_s"]
    section("Took", [(f"{sum(stages.values()):.0f} s", ", ".join(f"{k} {v:.0f}" for k, v in stages.items()))])
    return table


_Rows = list[tuple[object, str]]


def _found_rows(story: dict[str, Any]) -> _Rows:
    found = story["found"]
    refused = ", ".join(f"{what} {count}" for what, count in sorted(found["not_taken"].items()))
    return [
        (found["pictures"], f"pictures taken, on {found['pages']} pages"),
        (sum(found["not_taken"].values()), f"pictures and pages refused or given up: {refused}"),
    ]


def _standing_rows(story: dict[str, Any], verdict: str) -> _Rows:
    chosen = [(rule, reason, pairs) for v, rule, reason, pairs in story["standing"] if v == verdict]
    if verdict == "allow":
        return [
            (
                sum(pairs for _, _, pairs in chosen),
                "image-text pairs under a licence that allows it, with no word against",
            )
        ]
    rows: _Rows = [(pairs, f"{rule}: {_IN_WORDS.get(reason, reason)}") for rule, reason, pairs in chosen]
    faces = story["faces"]
    if verdict == "deny" and faces["pictures"]:
        drawn = faces["pictures"] - faces["photographs"]
        lost = ", ".join(faces["of_the_prompts"]) or "none"
        rows.append(("", f"(faces: {faces['photographs']} photographed, {drawn} drawn; of the grid's prompts: {lost})"))
    return rows or [(0, "")]


def _clip_rows(story: dict[str, Any]) -> _Rows:
    clip = story["clip"]
    return [
        (f"{clip['r_at_1']:.1%}", f"image-to-text R@1 over {clip['heldout_pairs']} pairs it never learnt from"),
        (f"{clip['r_at_5']:.1%}", "R@5"),
        (f"{clip['threshold']:.2f}", f"and above: kept, since {clip['target_precision']:.0%} or more are proven right")
        if clip["reached"]
        else ("none", f"kept: {clip['target_precision']:.0%} right could not be proven"),
    ]


def _caption_rows(story: dict[str, Any]) -> _Rows:
    captions = story["captions"]
    asked, kept = max(captions["asked"], 1), max(captions["kept"], 1)
    rows: _Rows = [
        (captions["kept"], f"of {captions['asked']} without alt text ({captions['kept'] / asked:.0%})"),
        (f"{captions['right'] / kept:.0%}", "of these right, says the museum, which knows every name"),
        (captions["deferred"], f"not sure enough: deferred ({captions['deferred'] / asked:.0%})"),
    ]
    for e in captions["examples"]:
        rows.append(
            (f"{e['score']:.2f}", f"“{e['caption']}”" + ("" if e["right"] else f", though it is “{e['truth']}”"))
        )
    return rows


def _sealed_rows(story: dict[str, Any]) -> _Rows:
    sealed = story["sealed"]
    return [
        (sealed["slots"], f"slots in {sealed['shards']} WebDataset shards: {', '.join(THEMES)}"),
        ("", f"{sealed['dataset']}, root {sealed['root'][:32]}…"),
    ]


def _trained_rows(story: dict[str, Any]) -> _Rows:
    trained = story["trained"]
    return [
        (trained["steps"], f"steps, {trained['images_per_s']} images/s, {trained['checkpoints']} checkpoints"),
        ("", f"{story['grid']}  ({', '.join(PROMPTS)})"),
        ("", f"{story['strip']}  (noise becoming a picture)"),
    ]


def _removal_rows(story: dict[str, Any]) -> _Rows:
    removal = story["removal"]
    slots = ", ".join(f"{s['ordinal']} of {s['dataset']}" for s in removal["slots"])
    rows: _Rows = [
        (
            removal["occurrences"],
            f"places where the one picture hung that someone named by URL; slot {slots} is empty now",
        ),
        ("", f"{removal['id']}: {removal['state']}, was due {removal['due_at']:%Y-%m-%d}"),
    ]
    for c in removal["checkpoints"]:
        times = "once" if c["count"] == 1 else f"{c['count']} times"
        saw = f"saw it {times}" if c["tier"] == "direct" else f"through {c['through']}"
        rows.append(("", f"{c['id']}: {c['tier']}, {saw}"))
    return [*rows, ("", f"{removal['receipt']}: signed; every file here was read for what is gone: {removal['scan']}")]


def _audit_rows(story: dict[str, Any]) -> _Rows:
    rows: _Rows = [(count, name.replace("_", " ")) for name, count in (story["audits"] or {}).items()]
    failures = story["failures"] or []
    verified = "chain, commitments, shards and checkpoints verify" if not failures else "; ".join(failures[:3])
    return [*rows, (len(failures), f"failures: {verified}")]


def _next_commands(story: dict[str, Any], path: Path) -> list[tuple[str, str]]:
    home, counted = f"--home {path}", "SELECT verdict, count(*) FROM standing GROUP BY ALL"
    urls = story["try_urls"]
    return [
        (f"custody why {urls.get('x_robots', urls['sealed'])} {home}", "why it is out, with evidence"),
        (f"custody trace {urls['sealed']} {home}", "which checkpoints saw this one"),
        (f"custody removal verify {path / story['removal']['receipt']}", "check the receipt, without this home"),
        (f"custody removal models {story['removal']['id']} {home}", "what ridding the model of it would take"),
        (f"custody removal replay {story['removal']['id']} --offline {home}", "the models anew, without it; minutes"),
        (f'custody sample "purple heart" lemon {home}', "then draw something else: before, the old ones are refused"),
        (f"custody audit {home}", "what an auditor may ask"),
        (f'custody sql "{counted}" {home}', "or in SQL"),
        (f"custody verify {home}", "recompute everything"),
        (f"custody schedule {home}", "the flows on their schedules, with Prefect's own page"),
    ]
