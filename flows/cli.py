"""The console script `custody`. Thin: each command opens the home, calls a stage, and prints.

Heavy imports live inside the commands, so that `custody --help` answers at once.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows.commands import Commands, common, open_home, progress_bar
from flows.removal_cli import removal
from flows.terminal import answer, counted, escape, print_json, print_json_list, print_table, say
from policy.errors import CustodyError, InputError, StorageError, is_interrupt

if TYPE_CHECKING:
    pass

ROWS_SHOWN = 1000  # more than a person reads, and than a table is quickly drawn for


class _Door(Commands):
    """The outermost group: no traceback for bad input, but what, where and what to do."""

    group_class = Commands

    def invoke(self, ctx: click.Context) -> Any:
        with _explained():
            return super().invoke(ctx)


@contextmanager
def _explained() -> Iterator[None]:
    """Every failure that has a reason of its own ends in one message and its exit code (policy/errors.py)."""
    try:
        yield
    except CustodyError as error:
        _fail(error)
    except BrokenPipeError:
        # The reader (head, less) has left; that is no error, and the interpreter must not flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        remedy = "Make room or give access, then run the same command again: nothing that was complete is lost"
        what, where = error.strerror or "cannot be read or written", str(error.filename or "the home")
        _fail(StorageError(what, where=where, remedy=remedy))
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        say("\ncustody: interrupted. Run the same command again and it goes on where it stopped.")
        sys.exit(130)


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def _fail(error: CustodyError) -> NoReturn:
    # One line, whatever it quotes: an error from SQL comes with a picture of the place, text from the web with tricks.
    lines = (line.strip() for line in str(error).splitlines())
    say(f"custody: {escape(' '.join(line for line in lines if line.strip('^ ')))}")
    sys.exit(error.exit_code)


@click.group(cls=_Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="image-custody", prog_name="custody")
def cli() -> None:
    """The chain of custody of the images a text-to-image model is trained on."""


# ── a home, and the whole job ──────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@common
def init(home_path: Path, as_json: bool) -> None:
    """Make a new home: custody.toml, policy.toml, keys, an empty ledger."""
    from flows.home import Home

    home = Home.create(home_path)
    if as_json:
        print_json({"home": str(home.path)})
        return
    say(f"A new home: {home.path}")
    say("  custody.toml  how it works: fill in [crawl] contact, a URL or mail address of yours, before you crawl")
    say("  policy.toml   what may be kept: read it once, it is commented")
    say("  keys/         back them up apart from the rest: without them no removal can be matched")
    say("Next, in it: custody crawl https://…")


@cli.command()
@common
@click.option("--fresh", is_flag=True, help="Start over: delete what an earlier demo left in this home.")
@click.option("--pages", type=int, default=0, hidden=True)
@click.option("--preset", default="demo", hidden=True)
def demo(home_path: Path, as_json: bool, fresh: bool, pages: int, preset: str) -> None:
    """The whole job on a museum on this machine: crawl, decide, caption, seal, train, sample, remove, audit."""
    from flows.demo import run_demo

    if home_path == Path("."):
        home_path = Path("demo-home")
    sys.exit(run_demo(home_path, fresh=fresh, as_json=as_json, pages=pages, preset=preset))


# ── the stages by hand ─────────────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@common
@click.argument("seeds", nargs=-1)
@click.option("--warc", multiple=True, metavar="FILE", help="Pages out of a WARC file; pictures are asked live.")
@click.option("--wat", multiple=True, metavar="FILE", help="Pairs out of Common Crawl's metadata of a WARC.")
@click.option("--url-list", "lists", multiple=True, metavar="FILE", help="Pictures: Parquet, CSV, JSON lines or text.")
@click.option(
    "--column", "columns", multiple=True, metavar="FIELD=NAME", help="Of --url-list: which column is url, text, …"
)
@click.option("--img2dataset", "folders", multiple=True, metavar="DIR", help="What img2dataset has downloaded.")
@click.option(
    "--engine",
    type=click.Choice(["img2dataset"]),
    default=None,
    help="Who fetches the pictures of a list; default: our own fetcher.",
)
@click.option(
    "--retry",
    type=click.Choice(["transient", "unobserved"]),
    default=None,
    help="Ask again: what failed and may not tomorrow, or what was never observed (imported; refused until now).",
)
@click.option("--stale", metavar="AGE", default=None, help="Ask again what was asked longer ago, as 30d or 12h.")
def crawl(
    home_path: Path,
    as_json: bool,
    seeds: tuple[str, ...],
    warc: tuple[str, ...],
    wat: tuple[str, ...],
    lists: tuple[str, ...],
    columns: tuple[str, ...],
    folders: tuple[str, ...],
    engine: str | None,
    retry: str | None,
    stale: str | None,
) -> None:
    """Crawl SEEDS (page URLs, or files of them, one a line): pages, the images on them, and what was said of both.

    An interrupted crawl of the same seeds is finished first. Without SEEDS those of custody.toml are taken. Archives,
    lists and folders are paths, or s3:// addresses; they may be given together, and beside seeds.
    """
    from flows.stages import crawl as stage

    home = open_home(home_path)
    named = stage.read_columns(columns)
    sources = (
        *(stage.source("warc", place) for place in warc),
        *(stage.source("wat", place) for place in wat),
        *(stage.source("url-list", place, named) for place in lists),
        *(stage.source("img2dataset", place) for place in folders),
    )
    job = stage.job(home, seeds, sources, retry=retry or "", stale=stale or "", engine=engine or "")
    summary = stage.crawl(home, job, progress_bar(as_json))
    if as_json:
        print_json(summary)
        return
    print_table(("kind", "outcome", "count"), [(k, o, n) for (k, o), n in sorted(summary.outcomes)], title="Fetched")
    pairs, pages = counted(summary.pairs, "image-text pair"), counted(summary.pages, "page")
    if summary.changed:
        say(f"{counted(summary.changed, 'picture')} changed under the URL: custody audit changed_content")
    failed = sum(n for (kind, outcome), n in summary.outcomes if kind != "source" and stage.is_transient(outcome))
    if failed:
        say(f"{failed:,} did not answer and may tomorrow: custody crawl --retry transient")
    say(f"{pairs}, {pages}, {counted(summary.pictures, 'picture')}. Next: custody decide")


@cli.command()
@common
def decide(home_path: Path, as_json: bool) -> None:
    """Judge every pair from its stored evidence under policy.toml; append what changed."""
    from flows.stages import decide as stage
    from policy.text import CAPTION_WANTED

    summary = stage.decide(open_home(home_path), progress_bar(as_json))
    if as_json:
        print_json(summary)
        return
    if summary.changes:
        print_table(("rule", "said before", "says now", "pairs"), summary.changes, title="What changed")
    print_table(("verdict", "rule", "reason", "pairs"), summary.standing, title="Standing verdicts")
    say(f"{counted(summary.judged, 'pair')} judged, {summary.changed} changed, under ruleset {summary.ruleset_digest}")
    reasons = {reason for _, rule, reason, _ in summary.standing if rule == "text"}
    if reasons.intersection(CAPTION_WANTED):
        say("Next: custody caption, for the pictures without a text; or custody seal, with those that have one")
    elif any(verdict == "allow" for verdict, *_ in summary.standing):
        say("Next: custody seal")


@cli.command()
@common
def look(home_path: Path, as_json: bool) -> None:
    """Look at the pictures that every cheaper rule lets pass: quality, near duplicates, safety; then judge anew."""
    from flows.stages import look as stage

    summary = stage.look(open_home(home_path), progress_bar(as_json))
    if as_json:
        print_json(summary)
        return
    rows = [(seen.mechanism, seen.pictures, seen.measured, f"{seen.seconds:.1f}") for seen in summary.looked]
    print_table(("rule", "pictures", "measured now", "seconds"), rows, title="Looked at")
    print_table(("verdict", "rule", "reason", "pairs"), summary.decided.standing, title="Standing verdicts")
    if summary.unreadable:
        say(f"The kept pixels of {counted(summary.unreadable, 'picture')} cannot be decoded: deferred")
    stood_for = counted(summary.duplicates, "near duplicate")
    answer(
        f"{counted(summary.pictures, 'picture')}, {stood_for} among them; {counted(summary.pairs, 'pair')} told anew"
    )
    say("Next: custody caption")


@cli.command()
@common
@click.option("--dataset", default=None, help="Only the samples of this dataset; default: all that stands allowed.")
def recheck(home_path: Path, as_json: bool, dataset: str | None) -> None:
    """Ask again what a standing yes rests on, where it is due: documents of origins, headers, licences."""
    from flows.stages import recheck as stage

    done = stage.recheck(open_home(home_path), progress_bar(as_json), dataset=dataset)
    if as_json:
        print_json(done)
        return
    asked = f"{counted(done.origins, 'origin')}, {counted(done.pages, 'page')}, {counted(done.pictures, 'picture')}"
    answer(f"Asked again for {counted(done.pairs, 'pair')}: {asked}; {done.unreachable} did not answer")
    answer(f"{done.changed} changed, {counted(done.reserved, 'reservation')} made, {done.lifted} lifted")


@cli.command()
@common
@click.option("--dataset", default=None, help="Dataset to train the captioner's CLIP on; default: seal one now.")
def caption(home_path: Path, as_json: bool, dataset: str | None) -> None:
    """Caption what has no text that fits, by the CLIP or CoCa of custody.toml; train that CLIP first if it is ours."""
    from flows.stages import caption as stage

    home = open_home(home_path)
    bar = progress_bar(as_json)
    if stage.needs_training(home):
        result = stage.train_captioner(home, bar, dataset=dataset)
        if not as_json:
            answer(
                f"CLIP {result.run.run}: held-out image-to-text R@1 {result.r_at_1:.1%}, R@5 {result.r_at_5:.1%} "
                f"over {result.n_heldout} pairs"
            )
    summary = stage.caption(home, bar)
    if as_json:
        print_json(summary)
        return
    answer(f"{summary.asked} without a text that fits: {summary.kept} captioned, {summary.deferred} deferred")
    if summary.unreadable or summary.unanswered:
        say(f"Not asked: {summary.unreadable} without pixels that show something, {summary.unanswered} without a text")
    if summary.examples:
        print_table(("score", "caption", "sample key"), summary.examples, title="Examples")


@cli.command()
@common
@click.option("--where", default="true", show_default=True, help="Selection: SQL over the view `trainable`.")
@click.option("--name", default=None, help="Name of the dataset; default: from its content.")
def seal(home_path: Path, as_json: bool, where: str, name: str | None) -> None:
    """Seal what may be used into WebDataset shards: a dataset, fixed as an ordered list of slots."""
    from flows.stages import seal as stage

    sealed = stage.seal(open_home(home_path), where=where, name=name, progress=progress_bar(as_json))
    if as_json:
        print_json(sealed)
        return
    slots, shards = counted(sealed.slots, "slot"), counted(len(sealed.shards), "shard")
    answer(f"Dataset {sealed.dataset}: {slots} in {shards}, root {sealed.root}")
    if sealed.occurrences is not None and sealed.near_duplicates is not None:
        near = counted(sealed.near_duplicates, "near duplicate")
        say(f"They stand for {counted(sealed.occurrences, 'occurrence')} of their pictures and {near}")
    if sealed.classes:
        say("Permitted: " + "; ".join(f"{each.slots:,} {each.words}" for each in sealed.classes))
    if sealed.without_pixels:
        left_out = counted(sealed.without_pixels, "allowed sample")
        say(f"{left_out} left out: the pixels went when they were denied; crawl their pages again to have them")
    say(f"Next: custody train --dataset {sealed.dataset}")


@cli.command()
@common
@click.option("--dataset", required=True, help="The dataset to learn from.")
@click.option(
    "--kind", type=click.Choice(["diffusion", "clip"]), default="diffusion", show_default=True, help="Which model."
)
@click.option("--preset", default=None, help="tiny, demo, small-64; default: custody.toml's.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Steps instead of the preset's.")
@click.option("--seed", type=int, default=None, help="Seed of order and noise; default: custody.toml's.")
@click.option("--offline", is_flag=True, help="Ask nobody again: what has grown too old is left out.")
def train(
    home_path: Path,
    as_json: bool,
    dataset: str,
    kind: str,
    preset: str | None,
    steps: int | None,
    seed: int | None,
    offline: bool,
) -> None:
    """Train on a sealed dataset; an interrupted run of the same configuration goes on where it stopped."""
    from flows.stages import train as stage

    result = stage.train(
        open_home(home_path),
        dataset=dataset,
        kind=kind,
        preset=preset,
        steps=steps,
        seed=seed,
        offline=offline,
        progress=progress_bar(as_json),
        tell=say,
    )
    if as_json:
        print_json(result)
        return
    answer(f"Run {result.run}: {counted(result.steps, 'step')}, {counted(len(result.checkpoints), 'checkpoint')}")
    for checkpoint in result.checkpoints:
        answer(f"  step {checkpoint.step:>7}  {checkpoint.id}  {checkpoint.path}")
    if kind == "diffusion":
        say('Next: custody sample "a prompt"')


@cli.command()
@common
@click.argument("prompts", nargs=-1, required=True)
@click.option("--run", default=None, help="The run to sample from; default: the newest diffusion run.")
@click.option("--step", type=int, default=None, help="The checkpoint's step; default: the last one.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another picture.")
@click.option("--per-prompt", type=click.IntRange(1, 16), default=4, show_default=True, help="Pictures a prompt.")
@click.option("--guidance", type=float, default=None, help="Classifier-free guidance; default: the preset's.")
@click.option("--strip", is_flag=True, help="Show noise becoming a picture, step by step.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="PNG to write; default: samples/ in the home."
)
def sample(
    home_path: Path,
    as_json: bool,
    prompts: tuple[str, ...],
    run: str | None,
    step: int | None,
    seed: int,
    per_prompt: int,
    guidance: float | None,
    strip: bool,
    out: Path | None,
) -> None:
    """Draw PROMPTS with a trained model: a grid (or a strip) as PNG."""
    from flows.stages import sample as stage

    drawn = stage.sample(
        open_home(home_path),
        prompts,
        run=run,
        step=step,
        seed=seed,
        per_prompt=per_prompt,
        guidance=guidance,
        strip=strip,
        out=out,
    )
    if as_json:
        print_json(drawn)
        return
    answer(f"{drawn.path}  ({drawn.checkpoint})")


@cli.command("export")
@common
@click.argument("what", metavar="RUN|CHECKPOINT")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipient", default=None, help="Who gets it: told if it has to be withdrawn. Stays in the ledger.")
@click.option(
    "--despite", is_flag=True, help="Also a tainted one, or one that saw what is to be removed; its card says so."
)
@click.option("--sign", is_flag=True, help="Sign its manifest with the operator's key.")
def export_model(
    home_path: Path, as_json: bool, what: str, out: Path, recipient: str | None, despite: bool, sign: bool
) -> None:
    """Write a checkpoint, or a run's last one, to the new directory OUT: weights, records, model card, manifest."""
    from flows.stages.export import export

    done = export(open_home(home_path), what, out, recipient=recipient, despite=despite, sign=sign)
    if as_json:
        print_json(done)
        return
    answer(f"{done.path}: {done.checkpoint}, on record as {done.export}{', signed' if done.signed else ''}")
    for reason in done.despite:
        say(f"  despite: {reason} (the card says so)")


# ── questions ──────────────────────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@common
@click.argument("query")
def why(home_path: Path, as_json: bool, query: str) -> None:
    """Every decision on QUERY (a URL, key, sha256 or picture file), in words."""
    from flows.stages import why as stage

    story = stage.why(open_home(home_path), query)
    if as_json:
        print_json(story)
    else:
        stage.tell(story)
    sys.exit(0 if story.pairs else 1)


@cli.command()
@common
@click.argument("query")
def trace(home_path: Path, as_json: bool, query: str) -> None:
    """Every checkpoint that saw QUERY (a URL, key, sha256 or picture file), how often and at which steps."""
    from flows.stages import trace as stage

    found = stage.trace(open_home(home_path), query)
    if as_json:
        print_json(found)
    else:
        stage.tell(found)
    sys.exit(0 if found.samples else 1)


@cli.command()
@common
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--where", default="true", show_default=True, help="Selection: SQL over the view `tile`.")
@click.option("--order", default="pair_key", show_default=True, help="Order: SQL, as \"scores['nsfw'] DESC\".")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Pictures at most.")
@click.option("--columns", type=click.IntRange(1, 50), default=6, show_default=True, help="Of a PNG.")
def sheet(home_path: Path, as_json: bool, out: Path, where: str, order: str, limit: int, columns: int) -> None:
    """A contact sheet, OUT.png or OUT.html: pictures with their captions, scores, boxes and verdicts."""
    from flows.stages import sheet as stage

    made = stage.sheet(open_home(home_path), out, where=where, order=order, limit=limit, columns=columns)
    if as_json:
        print_json(made)
        return
    answer(f"{made.path}: {counted(made.shown, 'picture')} of {made.matching:,} that match")
    if made.without_pixels:
        say(f"Of {counted(made.without_pixels, 'picture')} no pixels are kept: what is refused is not")


@cli.command()
@common
@click.argument("name", required=False)
@click.argument("parameters", nargs=-1)
def audit(home_path: Path, as_json: bool, name: str | None, parameters: tuple[str, ...]) -> None:
    """Answer the audit NAME with key=value PARAMETERS from the published snapshot; without a name, list the audits."""
    from flows.stages import audits as stage

    if name is None:
        listed = stage.list_audits()
        if as_json:
            print_json([{"name": a.name, "question": a.question, "parameters": a.parameters} for a in listed])
            return
        print_table(
            ("audit", "question", "parameters"),
            [(a.name, a.question, " ".join(f"{p}=…" for p in a.parameters)) for a in listed],
        )
        return
    columns, rows = stage.run(open_home(home_path), name, stage.read_parameters(parameters))
    _print_rows(columns, rows, as_json)


@cli.command()
@common
@click.argument("statement")
def sql(home_path: Path, as_json: bool, statement: str) -> None:
    """Ask the published snapshot anything: one SELECT, read-only.

    `custody sql "SHOW TABLES"` lists what there is; begin with the views standing and trainable. A table that is
    named like a word of SQL wants quotes: SELECT * FROM "fetch".
    """
    from flows.stages import audits as stage

    columns, rows = stage.sql(open_home(home_path), statement)
    _print_rows(columns, rows, as_json)


@cli.command()
@common
@click.option("--anchors", metavar="PLACE", default="", help="Where anchors were published: the chain is held to them.")
def verify(home_path: Path, as_json: bool, anchors: str) -> None:
    """Recompute everything: ledger chain and commitments, manifests, shards, checkpoints, tombstones."""
    from flows.stages import verify as stage

    failures = stage.verify(open_home(home_path), progress_bar(as_json), anchors=anchors)
    if as_json:
        print_json({"ok": not failures, "failures": [{"what": f.what, "where": f.where} for f in failures]})
    else:
        for failure in failures:
            answer(f"FAILED  {escape(failure.where)}: {escape(failure.what)}")
        answer("Everything verifies." if not failures else f"{counted(len(failures), 'check')} failed.")
    sys.exit(1 if failures else 0)


@cli.command()
@common
@click.option("--to", "place", metavar="PLACE", default="", help="A directory or s3:// folder outside the home.")
def anchor(home_path: Path, as_json: bool, place: str) -> None:
    """Publish the head of the ledger's chain, signed, where it cannot be changed afterwards."""
    from flows.stages import anchoring as stage

    made = stage.anchor(open_home(home_path), place)
    if as_json:
        print_json(made)
        return
    answer(f"Batch {made.seq}, chain {made.chain}")
    say(f"{'published in' if made.new else 'is there already:'} {escape(made.place)}")
    say("Hold the ledger to it later: custody verify --anchors PLACE")


@cli.command()
@common
def compact(home_path: Path, as_json: bool) -> None:
    """Rewrite the ledger's file without dead pages; the chain stays as it is."""
    home = open_home(home_path)
    before = home.ledger_path.stat().st_size
    with home.ledger() as ledger:
        ledger.compact()
    after = home.ledger_path.stat().st_size
    if as_json:
        print_json({"bytes_before": before, "bytes_after": after})
        return
    answer(f"ledger.duckdb: {before:,} bytes before, {after:,} after")


@cli.command()
@common
@click.argument("backup", type=click.Path(path_type=Path), required=False)
@click.option("--write-copy", is_flag=True, help="Make the lost copy anew: this home is the newest there is.")
def restore(home_path: Path, as_json: bool, backup: Path | None, write_copy: bool) -> None:
    """Make a backup usable: what was removed since it was made is removed again, from the copy outside the home.

    With BACKUP it is copied to --home first, which must be empty. A home that is behind refuses everything else.
    """
    from flows.home import Home
    from flows.stages.removing import restoring as stage

    if write_copy:
        epoch = stage.write_copy(Home.open(home_path, to_restore=True))
        if as_json:
            print_json({"home": str(home_path), "epoch": epoch})
        else:
            say(f"The copy is of epoch {epoch} now, as this home")
        return
    bar = progress_bar(as_json)
    home = stage.put_back(backup, home_path, bar) if backup is not None else Home.open(home_path, to_restore=True)
    done = stage.restore(home, bar)
    if as_json:
        print_json(done)
    else:
        for one in done.removals:
            answer(f"{one.id}: applied again, scan: {one.scan}, {home.path / one.receipt}")
        answer(f"Tombstones of epoch {done.epoch} are in force (the backup's were of epoch {done.epoch_before}).")
        if done.left:
            say(f"{done.left} rows, pictures or slots are left: run it again; the home stays closed until none is")
    sys.exit(0 if done.clean else 1)


cli.add_command(removal)


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@common
@click.option("--once", is_flag=True, help="Register the deployments and return, without serving them.")
def schedule(home_path: Path, as_json: bool, once: bool) -> None:
    """Serve the flows on the schedules of custody.toml, with Prefect; ends with Ctrl-C."""
    from flows.deployments import serve

    serve(open_home(home_path), once=once)


# ── one observer or judge alone ────────────────────────────────────────────────────────────────────────────────────


@cli.group("policy")
def policy_group() -> None:
    """The ruleset, policy.toml, and the lists it is asked with."""


@policy_group.command("check")
@common
@click.argument("file", type=click.Path(path_type=Path), required=False)
def policy_check(home_path: Path, as_json: bool, file: Path | None) -> None:
    """Read a ruleset (default: the home's policy.toml) and say its digest, or what is wrong with it."""
    from policy.ruleset import Ruleset

    path = file or home_path / "policy.toml"
    ruleset = Ruleset.load(path)
    if as_json:
        print_json({"path": str(path), "digest": ruleset.digest, "mechanisms": ruleset.mechanisms})
        return
    answer(f"{path}: good. Digest {ruleset.digest}, mechanisms: {', '.join(ruleset.mechanisms)}")


@policy_group.command("import")
@common
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(["url", "domain", "sha256", "md5", "pdq"]), required=True, help="What it lists."
)
@click.option(
    "--name", default=None, help="The list's name; default: from the file's. An older list of it is replaced."
)
@click.option("--dated", default=None, help="The day the list was made; default: when the file was last changed.")
@click.option(
    "--max-age-days", type=click.IntRange(1, 36_500), default=30, show_default=True, help="It counts for so long."
)
@click.option("--column", default=None, help="The column of a CSV or Parquet file: its name, or its number from 1.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are no entry, and count them.")
def policy_import(
    home_path: Path,
    as_json: bool,
    file: Path,
    kind: str,
    name: str | None,
    dated: str | None,
    max_age_days: int,
    column: str | None,
    skip_bad: bool,
) -> None:
    """Import FILE (CSV, Parquet, or one entry a line; .gz too) as a list of what may not be used."""
    from flows.stages import registries as stage

    said = stage.import_list(
        open_home(home_path),
        file,
        kind,
        name=name,
        dated=dated,
        max_age_days=max_age_days,
        column=column,
        skip_bad=skip_bad,
        progress=progress_bar(as_json),
    )
    if as_json:
        print_json(said)
        return
    entries = counted(said.rows, "different entry", "different entries")
    skipped = f", {counted(said.skipped, 'bad line')} skipped" if said.skipped else ""
    answer(f"List {said.name}: {entries} of {counted(said.lines, kind)}{skipped}, sha256 {said.sha256[:12]}…")
    by = "" if said.dated_by == "option" else " (the file's time of change; --dated says another)"
    say(f"Of {said.dated_at:%Y-%m-%d}{by}; counts for {counted(said.max_age_days, 'day')} from then")
    if not said.changed:
        say("The very same list was there already: nothing was changed")
    if not said.asked:
        say('policy.toml does not name the mechanism "registry": the list is not asked')
    say("Next: custody decide")


@policy_group.command("lists")
@common
def policy_lists(home_path: Path, as_json: bool) -> None:
    """Which lists were imported, of what date, and whether they still count."""
    from flows.stages import registries as stage

    listed = stage.lists(open_home(home_path))
    if as_json:
        print_json(listed)
        return
    print_table(
        ("list", "kind", "rows", "dated", "age (days)", "at most", "required", "state"),
        [
            (r.name, r.kind, r.rows, r.dated_at and r.dated_at.date(), r.age_days, r.max_age_days, r.required, r.state)
            for r in listed
        ],
    )
    if not listed:
        say("No list was imported, and the ruleset requires none: custody policy import FILE --kind …")


# ── grants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@cli.group()
def grant() -> None:
    """Consents and agreements: what somebody who may give it lets be used."""


@grant.command("add")
@common
@click.option("--giver", required=True, help="Who gives it.")
@click.option(
    "--capacity",
    type=click.Choice(["rights-holder", "site-operator", "depicted-person"]),
    required=True,
    help="As what: it decides what can be given.",
)
@click.option("--url", default=None, help="For an image, or the images of its site on a page.")
@click.option("--domain", default=None, help="For a host and all below it.")
@click.option("--creator", default=None, help="For what is said to be by somebody of this very name.")
@click.option("--sha256", default=None, help="For the picture of this digest (of its original bytes).")
@click.option("--covers", default=None, help="Mechanisms, with commas; default: all that this capacity may give.")
@click.option("--from", "valid_from", default=None, help="First day; default: from now on.")
@click.option("--to", "valid_to", default=None, help="Last day; default: without an end.")
@click.option(
    "--document", type=click.Path(path_type=Path), required=True, help="The paper it rests on; its sha256 is kept."
)
def grant_add(
    home_path: Path,
    as_json: bool,
    giver: str,
    capacity: str,
    url: str | None,
    domain: str | None,
    creator: str | None,
    sha256: str | None,
    covers: str | None,
    valid_from: str | None,
    valid_to: str | None,
    document: Path,
) -> None:
    """Record a grant; the next `custody decide` rests on it.

    Name exactly one of --url, --domain, --creator and --sha256.
    """
    from flows.stages import grants as stage

    given = (("url", url), ("domain", domain), ("creator", creator), ("sha256", sha256))
    scopes = [(kind, value) for kind, value in given if value is not None]
    if len(scopes) != 1:
        raise InputError(
            "it takes exactly one of --url, --domain, --creator, --sha256",
            where="custody grant add",
            remedy=f"You gave {' and '.join('--' + k for k, _ in scopes) or 'none'}; record one grant for each",
        )
    [(kind, value)] = scopes
    added = stage.add(
        open_home(home_path),
        giver=giver,
        capacity=capacity,
        scope_kind=kind,
        scope=value,
        document=document,
        covers=None if covers is None else [c.strip() for c in covers.split(",") if c.strip()],
        valid_from=valid_from,
        valid_to=valid_to,
    )
    _print_grant(added, as_json)
    if not as_json:
        say("Next: custody decide; the pixels of what was denied are gone, so crawl its pages again before you seal")


@grant.command("list")
@common
def grant_list(home_path: Path, as_json: bool) -> None:
    """All grants: by whom, for what, and whether they are valid now."""
    from flows.stages import grants as stage

    listed = stage.list_grants(open_home(home_path))
    if as_json:
        print_json(listed)
        return
    print_table(
        ("grant", "state", "giver", "capacity", "for", "covers", "from", "to"),
        [
            (
                *(g.id, g.state, g.giver, g.capacity, f"{g.scope_kind} {g.scope}", ", ".join(g.mechanisms)),
                *(g.valid_from.date(), g.valid_to.date() if g.valid_to else ""),
            )
            for g in listed
        ],
    )


@grant.command("end")
@common
@click.argument("grant_id")
@click.option("--reason", required=True, help="Why, for the record.")
def grant_end(home_path: Path, as_json: bool, grant_id: str, reason: str) -> None:
    """End a grant: what rested on it falls at the next `custody decide`."""
    from flows.stages import grants as stage

    _print_grant(stage.end(open_home(home_path), grant_id, reason=reason), as_json)
    if not as_json:
        say("Next: custody decide")


@cli.group()
def inspect() -> None:
    """One observer, or the policy, alone."""


@inspect.command("judge")
@common
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), default=None, help="Default: the packaged one."
)
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"), default="-")
def inspect_judge(home_path: Path, as_json: bool, policy_file: Path | None, file: Any) -> None:
    """The policy alone, offline: JSON lines in, JSON lines out (docs/policy.md has examples).

    Where --home is a home, its imported lists are asked for the mechanism registry.
    """
    from flows.home import Home
    from flows.stages import judge as stage

    home = Home(home_path) if Home(home_path).ledger_path.is_file() else None
    for line in stage.judge_lines(file, policy_file, home):
        print_json(line)


@inspect.command("page")
@common
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--base", required=True, help="The URL the page was found under.")
def inspect_page(home_path: Path, as_json: bool, file: Path, base: str) -> None:
    """What is read out of an HTML page: pairs, licence claims, links."""
    from flows.stages import inspection as stage

    page = stage.page(file, base)
    if as_json:
        print_json(page)
        return
    print_table(
        ("image", "text", "from"),
        [(p["image_url"], p["alt"], p["text_origin"]) for p in page["pairs"]],
        title=f"{counted(len(page['pairs']), 'pair')}, {counted(len(page['links']), 'link')}",
    )
    for claim in page["licence_claims"]:
        answer(f"licence: {escape(str(claim['value']))} ({claim['source']}, {claim['scope']})")


@inspect.command("fetch")
@common
@click.argument("url")
def inspect_fetch(home_path: Path, as_json: bool, url: str) -> None:
    """Fetch one URL as the crawler would: outcome, every hop's status and headers."""
    from flows.stages import inspection as stage

    fetched = stage.fetch(open_home(home_path), url)
    if as_json:
        print_json(fetched)
    else:
        why = f" ({escape(fetched['detail'])})" if fetched["detail"] else ""
        answer(f"{fetched['outcome']}{why}  {counted(fetched['bytes'], 'byte')}  {fetched['sha256'] or ''}".rstrip())
        for hop in fetched["hops"]:
            answer(f"  {hop['status']}  {escape(hop['url'])}")
            for name, value in hop["headers"]:
                answer(f"       {escape(name)}: {escape(value)}")
    sys.exit(0 if fetched["outcome"] == "ok" else 1)


@inspect.command("duplicates")
@common
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
def inspect_duplicates(home_path: Path, as_json: bool, images: tuple[Path, ...]) -> None:
    """Which of IMAGES are one picture: what stands for each, how it was found, and how far off it is."""
    from flows.stages import inspection as stage

    unreadable = False
    for line in stage.duplicates(images):
        unreadable |= "error" in line
        if as_json:
            print_json(line)
        elif "error" in line:
            say(f"{escape(line['path'])}: {escape(line['error'])}")
        elif line["representative"] == line["path"]:
            answer(f"{escape(line['path'])}: stands for itself")
        else:
            how = f"{line['method']}, distance {line['distance']:g}"
            answer(f"{escape(line['path'])}: the same as {escape(line['representative'])} ({how})")
    sys.exit(2 if unreadable else 0)


@inspect.command("faces")
@common
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
def inspect_faces(home_path: Path, as_json: bool, images: tuple[Path, ...]) -> None:
    """Faces in IMAGES: boxes in pixels of the original, and scores.

    Outside a home the packaged detector looks; in one, that of custody.toml.
    """
    from flows.home import Home
    from flows.stages import inspection as stage

    home = Home(home_path) if Home(home_path).ledger_path.is_file() else None
    unreadable = False
    for line in stage.faces(images, home):
        unreadable |= "error" in line
        if as_json:
            print_json(line)
        elif "error" in line:
            say(f"{escape(line['path'])}: {escape(line['error'])}")
        else:
            boxes = "  ".join(f"{[round(v) for v in f['box']]} {f['score']:.2f}" for f in line["faces"])
            answer(f"{escape(line['path'])}: {counted(len(line['faces']), 'face')}  {boxes}".rstrip())
    sys.exit(2 if unreadable else 0)


@inspect.command("score")
@common
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--text", help="An alt text, judged as that of each of IMAGES.")
@click.option("--clip", "with_clip", is_flag=True, help="Ask the captioner's CLIP how well the text fits.")
def inspect_score(home_path: Path, as_json: bool, images: tuple[Path, ...], text: str | None, with_clip: bool) -> None:
    """What is measured of IMAGES as they would be kept, and what the ruleset makes of it."""
    from flows.stages import inspection as stage

    if with_clip and text is None:
        raise click.UsageError("--clip asks how well a text fits: give one with --text")
    unreadable = False
    for line in stage.scores(open_home(home_path), images, text=text, with_clip=with_clip):
        unreadable |= "error" in line
        if as_json:
            print_json(line)
        elif "error" in line:
            say(f"{escape(line['path'])}: {escape(line['error'])}")
        else:
            told = (f"{s['name']} {'-' if s['value'] is None else format(s['value'], '.3f')}" for s in line["scores"])
            judged = (f"{j['mechanism']} {j['verdict']} ({j['reason']})" for j in line["judged"])
            answer(f"{escape(line['path'])}: {'  '.join(told)}")
            answer(f"  {escape('  '.join(judged))}")
    sys.exit(2 if unreadable else 0)


@inspect.command("caption")
@common
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1, 20), default=3, show_default=True, help="Candidates shown.")
def inspect_caption(home_path: Path, as_json: bool, images: tuple[Path, ...], top: int) -> None:
    """What CLIP would caption IMAGES with, and whether the score suffices."""
    from flows.stages import inspection as stage

    unreadable = False
    for line in stage.captions(open_home(home_path), images, top):
        unreadable |= "error" in line
        if as_json:
            print_json(line)
        elif "error" in line:
            say(f"{escape(line['path'])}: {escape(line['error'])}")
        else:
            ranked = ", ".join(f"{escape(c['text'])} {c['score']:.2f}" for c in line["candidates"])
            sure = f"{'kept' if line['kept'] else 'deferred'} ({line['score'] or 0:.2f})"
            answer(f"{escape(line['path'])}: {sure}  {ranked}")
    sys.exit(2 if unreadable else 0)


# ── the door ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_rows(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]], as_json: bool) -> None:
    if as_json:
        names = [f"{c}_{columns[:i].count(c)}" if c in columns[:i] else c for i, c in enumerate(columns)]
        print_json_list(dict(zip(names, row, strict=True)) for row in rows)
        return
    # Of rows that are made as they are read, what is not shown is only counted.
    every = iter(rows)
    shown = list(itertools.islice(every, ROWS_SHOWN))
    print_table(columns, shown)
    left = sum(1 for _ in every)
    more = f", of which {ROWS_SHOWN:,} are shown (--json has all)" if left else ""
    say(counted(len(shown) + left, "row") + more)


def _print_grant(shown: Any, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    until = f"until {shown.valid_to:%Y-%m-%d}" if shown.valid_to else "without an end"
    answer(f"Grant {shown.id}: {shown.state}, from {shown.valid_from:%Y-%m-%d} {until}")
    answer(f"  {shown.capacity}, for {shown.scope_kind} {escape(shown.scope)}: {', '.join(shown.mechanisms)}")


def main() -> None:
    """Entry point of the console script."""
    # Read by OpenMP when torch is imported: how long a waiting thread spins before it sleeps (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    # What a stage makes by the hundred thousand (rows, evidence, texts) lives until its end and holds no cycles:
    # looking for some after every 700 objects takes a tenth of its time.
    gc.set_threshold(50_000, 20, 50)
    cli(prog_name="custody")


if __name__ == "__main__":
    main()
