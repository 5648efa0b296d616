"""A crawl's own files: what it was told to do, which units there are, which are done.

::

    crawls/<id>/plan.json            the job; at the end only that it is finished
    crawls/<id>/pages-<depth>.json   page units of a depth
    crawls/<id>/pictures.json        picture units, when the pairs have been dealt out to them
    crawls/<id>/pairs/<unit>.parquet           the pairs that wait for a unit's pictures
    crawls/<id>/parts/pages/<unit>.parquet     what came of a page unit: its part
    crawls/<id>/parts/pictures/<unit>.parquet  what came of a picture unit

All of it can be killed anywhere: a unit without its part is run again, a part that is there is used. The files go when
the ledger has everything: URLs stay in the ledger alone, where an erasure finds them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flows.home import Home, utc_now
from flows.stages.parts import unit_id
from policy.durable import write_durably
from policy.errors import InputError

SourceKind = Literal["warc", "wat", "url-list", "img2dataset"]
PartKind = Literal["pages", "pictures"]
PART_KINDS: tuple[PartKind, ...] = ("pages", "pictures")


@dataclass(frozen=True, slots=True)
class Source:
    """Where pairs come from beside pages that are asked: a kind and a location (a path or an fsspec URL).

    `columns`: for a list, which column is what.
    """

    kind: SourceKind
    location: str
    version: str = ""  # of the file: another one is another crawl
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What a crawl is told to do: pages to begin from, other sources, or what of the ledger is asked again.

    `again`: "", "transient" (what failed and may not tomorrow), "unobserved" (what no fetcher of ours has seen, or
    nobody has looked at for faces), or "stale" (what was asked more than `stale_days` ago). `engine`: who fetches the
    pictures, "" for our own fetcher.
    """

    seeds: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    again: str = ""
    stale_days: float = 0.0
    engine: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What makes this job this job: two with the same parts are one crawl to be finished, or the next of a kind."""
        sources = tuple(json.dumps(asdict(s), sort_keys=True) for s in self.sources)
        again = (f"again:{self.again}:{self.stale_days:g}",) if self.again else ()
        engine = (f"engine:{self.engine}",) if self.engine else ()
        return (*self.seeds, *sources, *again, *engine)

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Job:
        """The job of a plan that is not finished. Raises InputError for a plan of before there were jobs."""
        if "job" not in plan:
            raise InputError(
                "this crawl was begun by an older version, and cannot be gone on with",
                where=f"crawls/{plan['crawl']}",
                remedy="Delete this folder and crawl the same seeds again; what the ledger holds stays",
            )
        data = plan["job"]
        sources = tuple(
            Source(**s | {"columns": tuple((name, column) for name, column in s["columns"])}) for s in data["sources"]
        )
        return cls(tuple(data["seeds"]), sources, data["again"], data["stale_days"], data["engine"])


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work of seconds to minutes: its id and the URLs it asks."""

    unit: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PictureUnit:
    """A picture unit: its id and how many pairs wait in it."""

    unit: str
    pairs: int


# ── crawls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_crawl(home: Home, job: Job) -> str:
    """Go on with the unfinished crawl of this job, or begin the next one."""
    # Keyed: of a single seed it would else be the page's own key, which a removal of the page has to find nowhere.
    plain = unit_id(*job.parts)
    asked_before, digest = -1, home.keys.token("seeds", plain)
    for plan in plans(home):
        if plan["finished"]:
            let_go(home, plan["crawl"])  # killed after its last word, it may have left its files
        if plan["seeds_digest"] in (digest, plain):  # as it is, or was before it was keyed
            if not plan["finished"]:
                return str(plan["crawl"])
            asked_before = max(asked_before, plan["number"])
    number = asked_before + 1
    crawl = unit_id("crawl", str(number), *job.parts)[:16]
    plan = {
        "crawl": crawl,
        "number": number,
        "seeds_digest": digest,
        "job": asdict(job),
        "finished": False,
        "opened_at": utc_now().isoformat(),
    }
    write_durably(directory(home, crawl) / "plan.json", json.dumps(plan).encode())
    return crawl


def plans(home: Home) -> list[dict[str, Any]]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(home.crawls_path.glob("*/plan.json"))]


def plan_of(home: Home, crawl: str) -> dict[str, Any]:
    """A crawl's plan. Raises InputError when there is no such crawl."""
    path = directory(home, crawl) / "plan.json"
    if not path.is_file():
        raise InputError(f"no crawl {crawl!r}", where=str(home.path))
    plan: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return plan


def job_of(home: Home, crawl: str) -> Job:
    return Job.of(plan_of(home, crawl))


def finish(home: Home, crawl: str) -> None:
    """Mark the crawl finished, then let its files go."""
    plan = plan_of(home, crawl)
    done = {k: plan[k] for k in ("crawl", "number", "seeds_digest")} | {"finished": True}
    write_durably(directory(home, crawl) / "plan.json", json.dumps(done).encode())
    let_go(home, crawl)


def forget_if_empty(home: Home, crawl: str) -> None:
    """Drop a crawl that has found nothing yet."""
    if not any(parts(home, crawl, kind) for kind in PART_KINDS):
        shutil.rmtree(directory(home, crawl))


def let_go(home: Home, crawl: str) -> None:
    for path in directory(home, crawl).iterdir():
        if path.name != "plan.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# ── units and parts ────────────────────────────────────────────────────────────────────────────────────────────────


def directory(home: Home, crawl: str) -> Path:
    return home.crawls_path / crawl


def part(home: Home, crawl: str, kind: PartKind, unit: str) -> Path:
    return directory(home, crawl) / "parts" / kind / f"{unit}.parquet"


def parts(home: Home, crawl: str, kind: PartKind) -> list[Path]:
    """The parts of a kind that are done, by their units' ids."""
    return sorted((directory(home, crawl) / "parts" / kind).glob("*.parquet"))


def pairs_file(home: Home, crawl: str, unit: str) -> Path:
    """The pairs that wait for a picture unit."""
    return directory(home, crawl) / "pairs" / f"{unit}.parquet"


def frontier(home: Home, crawl: str, depth: int) -> list[Unit] | None:
    """The page units of a depth; None where they are not laid out yet."""
    path = _frontier_path(home, crawl, depth)
    if not path.is_file():
        return None
    return [Unit(u["unit"], tuple(u["urls"])) for u in json.loads(path.read_text("utf-8"))]


def store_frontier(home: Home, crawl: str, depth: int, units: Sequence[Unit]) -> None:
    write_durably(_frontier_path(home, crawl, depth), json.dumps([asdict(u) for u in units]).encode())


def all_page_units(home: Home, crawl: str) -> Iterator[Unit]:
    depth = 0
    while (units := frontier(home, crawl, depth)) is not None:
        yield from units
        depth += 1


def split(urls: Sequence[str], size: int, what: str) -> list[Unit]:
    """Units of so many URLs, each known by what is in it."""
    step = max(size, 1)
    groups = (tuple(urls[i : i + step]) for i in range(0, len(urls), step))
    return [Unit(unit_id(what, *group), group) for group in groups]


def picture_units(home: Home, crawl: str) -> list[PictureUnit] | None:
    """The picture units; None where the pairs are not dealt out yet."""
    path = _pictures_path(home, crawl)
    if not path.is_file():
        return None
    return [PictureUnit(u["unit"], u["pairs"]) for u in json.loads(path.read_text("utf-8"))]


def store_picture_units(home: Home, crawl: str, units: Sequence[PictureUnit]) -> None:
    write_durably(_pictures_path(home, crawl), json.dumps([asdict(u) for u in units]).encode())


def _frontier_path(home: Home, crawl: str, depth: int) -> Path:
    return directory(home, crawl) / f"pages-{depth}.json"


def _pictures_path(home: Home, crawl: str) -> Path:
    return directory(home, crawl) / "pictures.json"
