"""Crawl: seeds, archives, lists -> pages -> pairs -> pictures, in work units whose parts the ledger takes over.

The steps, each of which goes on where it was left (flows/stages/crawling/ holds their rooms)::

    open_crawl     the unfinished crawl of this job, or the next one
    read_sources   archives become page parts, folders of img2dataset picture parts; sitemaps name pages
    page_units     pages are asked, depth by depth
    image_units    the pairs of all pages and lists are dealt out to picture units; pictures are asked
    append_crawl   the ledger takes over, then the crawl's files go
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from curation.fetch import TRANSIENT_OUTCOMES
from curation.pair import canonical_url, origin_of, secret_in_url
from curation.pixel_store import PixelStore
from curation.storage import list_files, open_input, parse_location
from curation.url_lists import LIST_FIELDS
from flows.home import Home, utc_now
from flows.stages.crawling import plan, sources
from flows.stages.crawling.asking import UnitSummary, run_page_unit, run_picture_units
from flows.stages.crawling.meter import Meter
from flows.stages.crawling.plan import Job, Source, SourceKind
from flows.stages.crawling.recording import Recorder
from flows.stages.crawling.sources import page_units
from flows.stages.faces import require_detector
from flows.stages.origins import OriginFiles
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.durable import sweep_unfinished
from policy.errors import InputError
from policy.evidence import Document, OriginEvidence
from policy.snapshot import publish

__all__ = [
    "CrawlSummary",
    "Job",
    "Source",
    "UnitSummary",
    "append_crawl",
    "crawl",
    "finished",
    "image_units",
    "open_crawl",
    "page_units",
    "read_seeds",
    "read_sources",
    "run_image_units",
    "run_page_unit",
    "unfinished",
]

# Picture units that one observer asks: what it knows of origins is let go with it.
UNITS_AT_ONCE = 32
# The ledger is held this long at a time: whoever waits for it gets a turn.
_HOLD_LEDGER_S = 5.0


@dataclass(frozen=True, slots=True)
class CrawlSummary:
    """What a crawl found. `outcomes`: ((kind, outcome), count); kind is page, picture or source (what of an archive,
    a list or a folder was counted or could not be used). `changed`: pictures that hang under a URL that had others."""

    crawl: str
    pages: int
    pairs: int
    pictures: int
    outcomes: tuple[tuple[tuple[str, str], int], ...]
    changed: int = 0


def read_seeds(arguments: Sequence[str]) -> tuple[str, ...]:
    """Seeds as canonical URLs: each argument is a URL, or a file with one a line (# begins a comment).

    Raises:
        InputError: no seed, a file that is not there, or one that is no http(s) URL (naming file and line).
    """
    seeds: dict[str, None] = {}
    for argument in arguments:
        if not _is_file(argument):
            seeds[_seed(argument, "seed")] = None
            continue
        with open_input(argument) as file:
            lines = file.read().decode("utf-8-sig", "replace").splitlines()
        for number, line in enumerate(lines, 1):
            text = "" if line.lstrip().startswith("#") else line.strip()
            if text:
                seeds[_seed(text, f"{argument}:{number}")] = None
    if not seeds:
        raise InputError("no seed given", where="custody crawl", remedy="Name a page URL, or a file of them")
    return tuple(sorted(seeds))


def _is_file(argument: str) -> bool:
    scheme, mark, _ = argument.partition("://")
    return scheme.lower() not in ("http", "https") if mark else Path(argument).is_file()


def _seed(text: str, where: str) -> str:
    try:
        url = canonical_url(text)
    except InputError as error:
        raise InputError(
            f"{text!r} is no http(s) URL and no file ({error.what})", where=where, remedy="Write it as https://host/…"
        ) from error
    if secret_in_url(url) is not None:
        raise InputError(
            "the URL carries a password or a signature", where=where, remedy="Such URLs are neither asked nor stored"
        )
    return url


def source(kind: SourceKind, location: str, columns: Mapping[str, str] | None = None) -> Source:
    """A source as a job names it: another version of the same file is another crawl.

    Raises:
        InputError: there is nothing at this location, or nothing of this kind.
    """
    found = Source(kind, location, _version_of(location), tuple(sorted((columns or {}).items())))
    sources.look_into(found)
    return found


def job(
    home: Home,
    seeds: Sequence[str],
    given: Sequence[Source] = (),
    *,
    retry: str = "",
    stale: str = "",
    engine: str = "",
) -> Job:
    """What the command line asks for: `seeds` as it took them, other sources, or what is asked again.

    Raises:
        InputError: nothing is asked for, an age that is none, or things that do not go together.
    """
    if retry and stale:
        raise InputError("ask for --retry or for --stale, not for both", where="custody crawl")
    if (retry or stale) and (seeds or given or engine):
        raise InputError(
            "what is asked again comes from the ledger",
            where="custody crawl --retry" if retry else "custody crawl --stale",
            remedy="Leave the seeds, lists and the engine out",
        )
    if engine and (seeds or not given or any(s.kind != "url-list" for s in given)):
        raise InputError(f"{engine} downloads lists", where="--engine", remedy="Give it --url-list FILE, and only that")
    if engine:
        from flows.stages.crawling import bulk_units

        bulk_units.require_ready(home)
    if retry or stale:
        return Job(again=retry or "stale", stale_days=_days(stale) if stale else 0.0)
    if seeds or not given:
        return Job(read_seeds(seeds or home.settings.crawl.seeds), tuple(given))
    return Job((), tuple(given), engine=engine)


def read_columns(arguments: Sequence[str]) -> dict[str, str]:
    """`url=MY_COLUMN` as the columns of a list. Raises InputError."""
    columns = {}
    for argument in arguments:
        field, mark, name = argument.partition("=")
        if not mark or field not in LIST_FIELDS or not name:
            known = ", ".join(LIST_FIELDS)
            raise InputError(
                f"{argument!r} names no column", where="--column", remedy=f"Write it as url=NAME; there are: {known}"
            )
        columns[field] = name
    return columns


def _days(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([dhm])", age.strip())
    if match is None:
        raise InputError(f"{age!r} is no age", where="--stale", remedy="Write it as 30d, 12h or 90m")
    return float(match[1]) * {"d": 1.0, "h": 1 / 24, "m": 1 / 1440}[match[2]]


def is_transient(outcome: str) -> bool:
    """Whether an outcome may be another one tomorrow."""
    return outcome in TRANSIENT_OUTCOMES


def _version_of(location: str) -> str:
    """What tells one version of a file from another, without reading it: its size, and where it can be had its time."""
    place = parse_location(location)
    if place.local is None:
        try:
            with open_input(location) as file:
                return str(file.seek(0, 2))
        except InputError:
            return unit_id(*list_files(location))  # a folder of a bucket, or nothing at all
    if place.local.is_dir():
        files = [place.local / Path(name).name for name in list_files(location)]
        return unit_id(*(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files))
    with open_input(location) as file:  # which says what is wrong where it cannot be read
        return f"{file.seek(0, 2)}:{place.local.stat().st_mtime_ns}"


# ── crawls and their steps ─────────────────────────────────────────────────────────────────────────────────────────


def open_crawl(home: Home, job: Job | Sequence[str]) -> str:
    """Go on with the unfinished crawl of this job (or of these seeds), or begin the next one.

    Raises:
        ConfigurationError: the detector of faces that the ruleset asks for cannot be had.
    """
    require_detector(home)
    return plan.open_crawl(home, job if isinstance(job, Job) else Job(seeds=tuple(job)))


def unfinished(home: Home) -> list[str]:
    """The crawls that were begun and not finished."""
    return [p["crawl"] for p in plan.plans(home) if not p["finished"]]


def finished(home: Home) -> list[str]:
    """The crawls that the ledger holds whole."""
    return [p["crawl"] for p in plan.plans(home) if p["finished"]]


def read_sources(home: Home, crawl: str, progress: Progress = silent) -> None:
    """Read what needs no asking of pages: sitemaps, archives, folders. Each goes on where it was left."""
    sources.ask_sitemaps(home, crawl, Meter(progress, "sitemaps"))
    sources.read_archives(home, crawl, Meter(progress, "archives"))
    sources.import_folders(home, crawl, Meter(progress, "imports"))


def image_units(home: Home, crawl: str) -> list[str]:
    """The picture units that still have to run, when all pages are known."""
    units = sources.deal_pictures(home, crawl)
    return [u.unit for u in units if not plan.part(home, crawl, "pictures", u.unit).exists()]


def run_image_units(
    home: Home, crawl: str, units: Sequence[str], progress: Progress = silent
) -> tuple[UnitSummary, ...]:
    """Ask the pictures of these units, overlapped; the parts of those that are done exist."""
    return _run_image_units(home, crawl, units, Meter(progress, "pictures", total=_pairs(home, crawl, units)))


def _pairs(home: Home, crawl: str, units: Sequence[str]) -> int:
    """How many pairs wait in these units: at least as many as pictures."""
    pairs = {u.unit: u.pairs for u in plan.picture_units(home, crawl) or ()}
    return sum(pairs[unit] for unit in units)


def _run_image_units(home: Home, crawl: str, units: Sequence[str], meter: Meter) -> tuple[UnitSummary, ...]:
    if plan.job_of(home, crawl).engine:
        from flows.stages.crawling import bulk_units  # what few crawls need

        return bulk_units.run(home, crawl, units, meter)
    return run_picture_units(home, crawl, units, meter)


def crawl(home: Home, job: Job | Sequence[str], progress: Progress = silent) -> CrawlSummary:
    """The whole crawl in this process.

    Raises:
        InputError: not one picture was found; what was asked is in the ledger all the same.
    """
    name = open_crawl(home, job)
    pages = Meter(progress, "pages")
    try:
        read_sources(home, name, progress)
        while units := page_units(home, name):
            asked = {u.unit: len(u.urls) for u in plan.all_page_units(home, name)}
            pages.total = pages.done + sum(asked[unit] for unit in units)
            for unit in units:
                run_page_unit(home, name, unit, pages)
        waiting = image_units(home, name)
    except InputError:
        plan.forget_if_empty(home, name)  # of a list that cannot be read nothing is left to go on with
        raise
    pictures = Meter(progress, "pictures")
    pictures.total = _pairs(home, name, waiting)
    for start in range(0, len(waiting), UNITS_AT_ONCE):
        _run_image_units(home, name, waiting[start : start + UNITS_AT_ONCE], pictures)
    return append_crawl(home, name, progress)


# ── the ledger takes over ──────────────────────────────────────────────────────────────────────────────────────────


def append_crawl(home: Home, crawl: str, progress: Progress = silent) -> CrawlSummary:
    """Append a crawl's parts to the ledger, part by part, then let the crawl's files go."""
    job, origins = plan.job_of(home, crawl), OriginFiles(home.origins_path)
    told = sources.told(home, crawl)
    summary = _append_parts(home, crawl, origins, progress)
    summary = replace(
        summary, outcomes=tuple(sorted([*summary.outcomes, *((("source", k), n) for k, n in told.items())]))
    )
    unanswered = {d.error for seed in job.seeds for d in _documents(origins, origin_of(seed))}
    plan.finish(home, crawl)
    sweep_unfinished(home.pixels_path)
    _drop_orphans(home)
    if not summary.pairs and not job.again:
        said = ", ".join(f"{k} {o}: {n}" for (k, o), n in summary.outcomes) or "nothing was asked"
        raise InputError(
            f"no image-text pair was found ({said})", where="custody crawl", remedy=_remedy(summary, unanswered)
        )
    return summary


def _append_parts(home: Home, crawl: str, origins: OriginFiles, progress: Progress) -> CrawlSummary:
    recorder = Recorder(home, crawl)
    work: list[Callable[[], None]] = [partial(recorder.origins_asked, origins)]
    work += [partial(recorder.pages, part) for part in plan.parts(home, crawl, "pages")]
    work += [partial(recorder.pictures, u.unit) for u in plan.picture_units(home, crawl) or ()]
    work += [recorder.documents]
    done = changed = 0
    while done < len(work):
        with home.ledger() as ledger:
            recorder.write_to(ledger)
            until = time.monotonic() + _HOLD_LEDGER_S
            while done < len(work) and time.monotonic() < until:
                work[done]()
                done += 1
                progress(done, len(work), "ledger: ")
            recorder.forget_gone()
            if done == len(work):
                changed = recorder.changed_contents()
                publish(ledger, home.snapshot_path, now=utc_now())
    outcomes = recorder.outcomes
    pictures = sum(n for (kind, _), n in outcomes.items() if kind == "picture")
    return CrawlSummary(
        crawl, outcomes.total() - pictures, recorder.pairs, pictures, tuple(sorted(outcomes.items())), changed
    )


def _drop_orphans(home: Home) -> None:
    """Delete the pixels of pictures that no row speaks of: a unit that was killed may have found others later.

    Not while another crawl is under way, whose rows are still to come.
    """
    store = PixelStore(home.pixels_path)
    kept = sorted(store.keys())
    if not kept or unfinished(home):
        return
    with home.ledger(readonly=True) as ledger:
        known = {sha for (sha,) in ledger.query(_KNOWN_CONTENT, [kept])}
    store.delete_all(sha for sha in kept if sha not in known)


_KNOWN_CONTENT = "SELECT DISTINCT content_sha256 FROM content WHERE content_sha256 IN (SELECT unnest(?::VARCHAR[]))"


def _documents(origins: Mapping[str, OriginEvidence], origin: str) -> list[Document]:
    return [d for _, d in origins[origin].documents] if origin in origins else []


def _remedy(summary: CrawlSummary, unanswered: Collection[str | None]) -> str:
    """What to try next. `unanswered`: why the seeds' origins did not answer for their documents."""
    if "forbidden-address" in unanswered:
        return "A seed leads to no public address: if it is yours, name it in allow_addresses of custody.toml"
    said = {outcome for (kind, outcome), _ in summary.outcomes if kind == "page"}
    if said == {"ok"}:
        return "The pages were read and hold no pictures: name others"
    if "refused-by-policy (robots-unreachable)" in said:
        return "The site does not answer for its robots.txt: try a page in a browser; it is asked again after an hour"
    return "Try a seed with `custody inspect fetch URL`"
