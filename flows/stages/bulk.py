"""An approved list through img2dataset: its own distributors, in an environment of its own, its results taken back.

img2dataset checks no address, so nothing starts before somebody has said what keeps this process from inside
addresses, and before what was named as unreachable was found to be so. What comes back is bytes and hashes; headers
and hops were not observed, so everything stays deferred until our fetcher has asked for itself.

A unit is a directory: `job.json` (what was begun; another list or other shards refuse), `urls.parquet` (what is
handed over), `output/` (img2dataset's folder) and `bulk.log` (its messages, which hold URLs). A killed run is finished
by running it again: shards that have their statistics are done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.addresses import parse_endpoint
from curation.fetch import FetchConfig
from curation.img2dataset import Imported, Problem, read_img2dataset
from curation.pair import canonical_url, host_of, port_of, secret_in_url
from flows import img2dataset_job
from flows.terminal import Progress, silent
from policy.durable import write_durably
from policy.errors import ConfigurationError, CustodyError, InputError, RefusedError
from policy.lock import FileLock

VERSION: Final = "1.47.0"  # of img2dataset: what its options and messages were read from
# What a distributor needs besides img2dataset, and the environment that has it.
DISTRIBUTORS: Final = {
    "multiprocessing": (None, "bulk-env", ".bulk-venv"),
    "pyspark": ("pyspark", "bulk-cluster-env", ".bulk-cluster-venv"),
    "ray": ("ray", "bulk-cluster-env", ".bulk-cluster-venv"),
}
# Outcomes of a URL besides ok, http-<status> and curation.fetch.OUTCOMES.
BULK_OUTCOMES: Final = frozenset(
    {
        "bulk-failed",  # detail: unknown-error, not-original, bytes-missing, too-large
        "bulk-missing",  # img2dataset said nothing of it; detail: shard-missing, row-missing
    }
)
# More than img2dataset's own four. It hears them of the last answer alone, and after the download has begun.
DIRECTIVES: Final = ("noai", "noimageai", "noml", "none", "noindex", "noimageindex")
ROW_COLUMN: Final = "custody_row"

_JOB_SCRIPT: Final = Path(img2dataset_job.__file__)
_ROOT: Final = Path(__file__).resolve().parents[2]
_PRIVATE: Final = "custody-bulk-"
_POLL_S: Final = 0.25
_CHECK_TIMEOUT_S: Final = 60
_ROWS_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class BulkSettings:
    """[bulk]: img2dataset as the engine of approved lists.

    `distributor`: multiprocessing | pyspark | ray; `cluster`: a Spark master or a Ray address, "" this machine.
    `python`: its interpreter, or an executable that starts it elsewhere (in a network namespace, as another user); ""
    is that of `make bulk-env`, for Spark and Ray of `make bulk-cluster-env`; `java_home` is for Spark.
    `threads` connections are open in each of `processes`, without regard to hosts. `timeout_s` is img2dataset's, of one
    read; the total deadline, the size limit and who asks are the fetcher's. `retries` are made at once and of every
    failure, refusals too. `egress_guard`: in words, what keeps it from inside addresses; `egress_probes`: "ip:port"
    where something listens and which it must not reach; `proxy`: the guard's, where it is one.
    """

    python: str = ""
    distributor: str = "multiprocessing"
    cluster: str = ""
    processes: int = 2
    threads: int = 16
    urls_per_shard: int = 1000
    timeout_s: int = 10
    retries: int = 0
    egress_guard: str = ""
    egress_probes: tuple[str, ...] = ()
    proxy: str = ""
    java_home: str = ""


@dataclass(frozen=True, slots=True)
class BulkRun:
    """How far a unit has come. Not complete: shards failed; running it again tries them anew."""

    unit: Path
    urls: int
    refused: int
    shards: int
    shards_done: int
    egress_guard: str

    @property
    def complete(self) -> bool:
        return self.shards_done == self.shards


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What became of a row of the approved list; each has exactly one.

    `row` counts from 0. `url` is canonical, "" where it may not be kept. `outcome`: ok, http-<status>, a word of
    curation.fetch.OUTCOMES or of BULK_OUTCOMES. `imported` holds the bytes where it is ok: 200 or 203, whole,
    unencoded, with the hash that was taken of them as downloaded. Nothing else of the answer was observed.
    """

    row: int
    url: str
    outcome: str
    detail: str = ""
    imported: Imported | None = None


def require_guard(settings: BulkSettings) -> None:
    """Refuse to go on where nobody has said what keeps img2dataset from inside addresses. Raises RefusedError."""
    if len(settings.egress_guard.split()) < 2:
        raise RefusedError(
            "img2dataset checks no addresses, and no guard is declared that keeps it from internal ones",
            where="bulk.egress_guard",
            remedy="Say in a sentence what does: a network namespace, a firewall rule, a proxy that checks",
        )


def check_environment(settings: BulkSettings) -> None:
    """See that img2dataset is there in the version we know, with what its distributor needs, and held by its guard.

    Raises:
        ConfigurationError: a setting that cannot be, no such environment, or another version.
        RefusedError: one of `egress_probes` can be reached from there.
    """
    if settings.distributor not in DISTRIBUTORS:
        raise ConfigurationError(
            f"unknown distributor {settings.distributor!r}",
            where="bulk.distributor",
            remedy=f"One of: {', '.join(DISTRIBUTORS)}",
        )
    for name in ("processes", "threads", "urls_per_shard", "timeout_s"):
        if getattr(settings, name) < 1:
            raise ConfigurationError("must be at least 1", where=f"bulk.{name}")
    package, target, _ = DISTRIBUTORS[settings.distributor]
    remedy = f"Run `make {target}`, or name its interpreter as bulk.python"
    probes = [_probe(text) for text in settings.egress_probes]
    python = _python(settings)
    if not python.is_file() or not os.access(python, os.X_OK):
        raise ConfigurationError("img2dataset's environment is not there", where=str(python), remedy=remedy)
    with _private_directory() as private:
        asked = private / "probes.json"
        asked.write_text(json.dumps({"probes": probes, "java_home": settings.java_home}))
        try:
            answer = subprocess.run(
                [str(python), "-I", str(_JOB_SCRIPT), "check", str(asked)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=_environment(settings, private),
                timeout=_CHECK_TIMEOUT_S,
                check=True,
            ).stdout
            said = json.loads(answer)
            versions, java, reached = said["versions"], said["java"], said["reached"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"img2dataset's environment cannot be used ({type(error).__name__})",
                where=str(python),
                remedy=remedy,
            ) from error
    if reached:
        named = ", ".join(settings.egress_probes[place] for place in reached)
        raise RefusedError(
            f"the declared guard does not hold: {named} can be reached from img2dataset's environment",
            where="bulk.egress_probes",
            remedy="Mend the guard; bulk.python may name an executable that starts Python behind it",
        )
    if versions.get("img2dataset") != VERSION:
        found = versions.get("img2dataset") or "none"
        raise ConfigurationError(f"img2dataset {VERSION} is needed, here is {found}", where=str(python), remedy=remedy)
    if package is not None and not versions.get(package):
        raise ConfigurationError(f"{package} is not there", where=str(python), remedy=remedy)
    if package == "pyspark" and not java:
        raise ConfigurationError(
            "Spark needs Java",
            where="bulk.java_home",
            remedy="Install Java 17, or name its directory as bulk.java_home",
        )


def run(approved: Path, unit: Path, settings: BulkSettings, fetch: FetchConfig, progress: Progress = silent) -> BulkRun:
    """Download an approved list into a unit, or go on with it where it was.

    `approved`: Parquet with `url`, each once, and optionally `caption`; other columns stay where they are, to be joined
    by row. URLs that may not be asked are not handed over, and have their outcome. `progress` counts URLs.

    Raises:
        RefusedError: no guard, one that does not hold, or no contact for what is not in `allow_addresses`.
        ConfigurationError: see `check_environment`.
        InputError: the list cannot be read, names a URL twice, or is not the one that this unit was begun with.
        BusyError: another process runs this unit.
        CustodyError: img2dataset failed.
    """
    require_guard(settings)
    check_environment(settings)
    unit.mkdir(parents=True, exist_ok=True)
    lock = FileLock(unit / ".lock", exclusive=True, wait_s=0.0)
    try:
        return _run(approved, unit.resolve(), settings, fetch, progress)
    finally:
        lock.release()


def reconcile(approved: Path, unit: Path, *, max_bytes: int) -> Iterator[BulkOutcome | Problem]:
    """Exactly one outcome for each row of the approved list, and what was wrong with img2dataset's folder.

    In the order of shards; within one in the order they came in, what is missing last. One picture in memory at a time.
    Raises InputError where this is not the list that the unit was begun with.
    """
    begun = _begun(unit)
    if begun is None or begun[0] != _file_digest(approved):
        raise _other_list(unit)
    shards = _shards_of(_read_list(approved), begun[1])
    for name, items in groupby(_items(unit / "output", max_bytes), key=lambda item: item.shard):
        expected = (yield from _missing_before(int(name), shards)) if name else {}
        yield from _reconciled(items, expected)
    yield from _missing_before(None, shards)


def outcome_of(error: str) -> tuple[str, str]:
    """Our outcome and detail for img2dataset's error message, which is that of Python's urllib, or of our opener."""
    if matched := re.match(r"HTTP Error ([1-5][0-9]{2}):", error):
        return f"http-{matched[1]}", ""
    for pattern, outcome, detail in _MESSAGES:
        if pattern.search(error):
            return outcome, detail
    return "bulk-failed", "unknown-error"


# The first that fits counts.
_MESSAGES: Final = tuple(
    (re.compile(pattern), outcome, detail)
    for pattern, outcome, detail in (
        (r"^custody: deadline$", "timeout", "deadline"),
        (r"^custody: too-large$", "too-large", "body"),
        (r"^custody: bad-encoding$", "bad-encoding", ""),
        (r"^Use of image disallowed by X-Robots-Tag directive$", "refused-by-policy", "x-robots-tag"),
        (r"^<urlopen error \[Errno -\d+\]", "dns", ""),  # getaddrinfo(3)'s
        (r"^<urlopen error (timed out|.*handshake operation timed out)", "timeout", "connect"),
        (r"^<urlopen error \[Errno 110\]", "timeout", "connect"),
        (r"timed out", "timeout", "rate"),
        (
            r"\[SSL\b|\[X509\b|certificate verify failed|EOF occurred in violation of protocol",
            "tls",
            "",
        ),
        (r"\[Errno 104\]|\[Errno 32\]|^Remote end closed connection without response$", "reset", ""),
        (r"^<urlopen error (\[Errno \d+\]|Tunnel connection failed)", "connect", ""),
        (r"^IncompleteRead\(", "truncated", ""),
        (r"^got more than \d+ (bytes|headers)", "too-large", "headers"),
    )
)


def _items(output: Path, max_bytes: int) -> Iterator[Imported | Problem]:
    if output.is_dir() and any(output.iterdir()):
        yield from read_img2dataset(output, max_bytes=max_bytes, keep=(ROW_COLUMN,))


def _shards_of(rows: Iterator[_Listed], urls_per_shard: int) -> Iterator[tuple[int, list[BulkOutcome], dict[int, str]]]:
    """The list as img2dataset cuts it: a shard's number, rows that were not handed over, and the URLs of its rows.

    Many rows in a row that were not handed over come by themselves, as of the shard -1.
    """
    number, refused, expected = 0, list[BulkOutcome](), dict[int, str]()
    for listed in rows:
        if listed.refused is not None:
            refused.append(BulkOutcome(listed.row, "", "bad-url", listed.refused))
            if len(refused) == _ROWS_AT_ONCE:
                yield -1, refused, {}
                refused = []
            continue
        expected[listed.row] = listed.url
        if len(expected) == urls_per_shard:
            yield number, refused, expected
            number, refused, expected = number + 1, [], {}
    if refused or expected:
        yield number if expected else -1, refused, expected


def _missing_before(
    shard: int | None, shards: Iterator[tuple[int, list[BulkOutcome], dict[int, str]]]
) -> Generator[BulkOutcome, None, dict[int, str]]:
    """The rows of shards that are not there, up to this one (None: all), whose rows are returned."""
    for number, refused, expected in shards:
        yield from refused
        if number == shard:
            return expected
        yield from (BulkOutcome(row, url, "bulk-missing", "shard-missing") for row, url in expected.items())
    return {}


def _reconciled(items: Iterator[Imported | Problem], expected: dict[int, str]) -> Iterator[BulkOutcome | Problem]:
    """One shard's rows against what was handed over as that shard."""
    for item in items:
        if isinstance(item, Problem):
            yield item
            continue
        row = dict(item.kept).get(ROW_COLUMN, "")
        known = int(row) if row.isascii() and row.isdigit() and len(row) < 19 else -1
        if expected.get(known) != item.url:
            yield Problem(
                "key-mismatch", item.shard, f"{item.shard}:{item.key}", detail="of no row that was handed over"
            )
            continue
        del expected[known]
        yield BulkOutcome(known, item.url, *_became(item))
    for row_number, url in expected.items():
        yield BulkOutcome(row_number, url, "bulk-missing", "row-missing")


def _became(item: Imported) -> tuple[str, str, Imported | None]:
    if item.status != "success":
        return *outcome_of(item.error or ""), None
    if item.stored is None:
        return "bulk-failed", "bytes-missing", None
    if not item.is_original:
        return "bulk-failed", "not-original", None
    return "ok", "", item


# --- the list


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row of the approved list: `refused` is the detail of a URL that may not be asked, which then is ""."""

    row: int
    url: str
    caption: str | None
    refused: str | None


def _read_list(approved: Path) -> Iterator[_Listed]:
    row = 0
    try:
        with pq.ParquetFile(approved) as parquet:
            names = parquet.schema_arrow.names
            if "url" not in names:
                raise InputError(
                    f"no column url; there are: {', '.join(names)[:200]}",
                    where=str(approved),
                    remedy="Expected are the columns url and, optionally, caption",
                )
            columns = [name for name in ("url", "caption") if name in names]
            for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                for values in batch.to_pylist():
                    yield _listed(row, values.get("url"), values.get("caption"))
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot be read as Parquet ({type(error).__name__})", where=str(approved)) from error


def _listed(row: int, url: object, caption: object) -> _Listed:
    text = caption if isinstance(caption, str) else None
    if not isinstance(url, str):
        return _Listed(row, "", text, "not-text")
    try:
        canonical = canonical_url(url)
    except InputError:
        return _Listed(row, "", text, "not-a-url")
    secret = secret_in_url(canonical)
    return _Listed(row, canonical if secret is None else "", text, secret)


def _hand_over(approved: Path, path: Path, fetch: FetchConfig) -> tuple[int, int]:
    """Write what img2dataset is to read; how many rows it has, and how many were not handed over."""
    schema = pa.schema([("url", pa.string()), ("caption", pa.string()), (ROW_COLUMN, pa.int64())])
    keys = array("Q")
    refused = 0
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            rows = _read_list(approved)
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                good = [listed for listed in batch if listed.refused is None]
                refused += len(batch) - len(good)
                for listed in good:
                    _require_contact(listed.url, fetch)
                    keys.frombytes(hashlib.blake2b(listed.url.encode(), digest_size=8).digest())
                writer.write_table(
                    pa.table(
                        [
                            [listed.url for listed in good],
                            [listed.caption for listed in good],
                            [listed.row for listed in good],
                        ],
                        schema=schema,
                    )
                )
        repeated = len(keys) - len(np.unique(np.frombuffer(keys, dtype=np.uint64))) if keys else 0
        if repeated:
            raise InputError(
                f"{repeated} of its URLs stand there before",
                where=str(approved),
                remedy="Name each URL once; it would be asked again for each",
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(keys), refused


def _require_contact(url: str, fetch: FetchConfig) -> None:
    if fetch.contact is None and f"{host_of(url)}:{port_of(url)}" not in fetch.allow_addresses:
        raise RefusedError(
            "nobody is asked without a contact in the user agent",
            where="crawl.contact",
            remedy="Set it to a URL or mail address of yours",
        )


# --- the run


def _run(approved: Path, unit: Path, settings: BulkSettings, fetch: FetchConfig, progress: Progress) -> BulkRun:
    output, handed = unit / "output", unit / "urls.parquet"
    digest = _file_digest(approved)
    begun = _begun(unit)
    if begun is not None and begun != (digest, settings.urls_per_shard):
        raise _other_list(unit)
    urls, refused = _hand_over(approved, handed, fetch)
    shards = -(-urls // settings.urls_per_shard)
    job = {
        "list_sha256": digest,
        "list": str(handed),
        "output": str(output),
        "row_column": ROW_COLUMN,
        "urls_per_shard": settings.urls_per_shard,
        "distributor": settings.distributor,
        "cluster": settings.cluster,
        "processes": max(1, min(settings.processes, shards)),
        "threads": settings.threads,
        "timeout_s": settings.timeout_s,
        "deadline_s": fetch.deadline_s,
        "max_bytes": fetch.max_image_bytes,
        "retries": settings.retries,
        "product": fetch.product,
        "user_agent": fetch.user_agent,
        "directives": list(DIRECTIVES),
        "proxy": settings.proxy,
        "ca_file": None if fetch.ca_file is None else str(fetch.ca_file),
        "egress_guard": settings.egress_guard,
    }
    output.mkdir(exist_ok=True)
    finished = _Finished(output)
    finished.drop_torn()
    if len(finished.look()) < shards:
        with _private_directory() as private:
            write_durably(unit / "job.json", json.dumps(job | {"temporary": str(private)}, indent=1).encode())
            _work(unit, settings, private, lambda: progress(finished.urls(), urls, settings.distributor))
    elif begun is None:
        write_durably(unit / "job.json", json.dumps(job, indent=1).encode())
    done = len(finished.look())
    progress(finished.urls(), urls, settings.distributor)
    return BulkRun(unit, urls, refused, shards, done, settings.egress_guard)


def _work(unit: Path, settings: BulkSettings, private: Path, tell: Callable[[], None]) -> None:
    """Run the job to its end; however this ends, nothing of it goes on."""
    log = unit / "bulk.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [str(_python(settings)), "-I", str(_JOB_SCRIPT), "run", str(unit / "job.json")],
            stdin=subprocess.PIPE,  # its end tells the job that we are gone, even by kill -9
            stdout=descriptor,
            stderr=descriptor,
            cwd=private,
            env=_environment(settings, private),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    with process:
        try:
            # Not reaped before its group is ended: until then the number is its own.
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                time.sleep(_POLL_S)
                tell()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise CustodyError(
            f"img2dataset ended with {how}",
            where=str(log),
            remedy="Its messages are there; the same command goes on where it was",
        )


@dataclass(slots=True)
class _Finished:
    """The shards that img2dataset has finished: it writes their statistics last."""

    output: Path
    counts: dict[str, int]

    def __init__(self, output: Path) -> None:
        self.output, self.counts = output, {}

    def look(self) -> dict[str, int]:
        """Shards done, with the number of their URLs."""
        for path in self.output.glob("*_stats.json"):
            if path.name not in self.counts:
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    self.counts[path.name] = int(json.loads(path.read_bytes())["count"])
        return self.counts

    def urls(self) -> int:
        return sum(self.look().values())

    def drop_torn(self) -> None:
        """Statistics that were cut off by a kill: to img2dataset they would be those of a finished shard."""
        self.look()
        for path in self.output.glob("*.json"):
            if path.name not in self.counts:
                path.unlink()


def _environment(settings: BulkSettings, private: Path) -> dict[str, str]:
    """All of the job's environment: nothing of ours is inherited, neither proxies nor paths nor credentials."""
    environment = {
        "PATH": os.defpath,
        "HOME": str(private),
        "TMPDIR": str(private),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        # Nobody is called: neither for updates nor with statistics.
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "WANDB_MODE": "disabled",
        "WANDB_ERROR_REPORTING": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "PYSPARK_PYTHON": str(_python(settings)),
        "PYSPARK_DRIVER_PYTHON": str(_python(settings)),
    }
    if not settings.cluster:
        environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    if settings.java_home:
        environment["JAVA_HOME"] = settings.java_home
    return environment


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """For what it writes besides the unit: gone afterwards, or with the next run after a kill.

    Of the system's directory, since Ray's socket names must be short.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        owner = left.name.removeprefix(_PRIVATE).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"{_PRIVATE}{os.getpid()}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _python(settings: BulkSettings) -> Path:
    # Not resolved: a virtual environment is known by its link.
    named = settings.python or _ROOT / DISTRIBUTORS[settings.distributor][2] / "bin" / "python"
    return Path(named).absolute()


def _probe(text: str) -> tuple[str, int]:
    try:
        return parse_endpoint(text)
    except ConfigurationError as error:
        raise ConfigurationError(error.what, where="bulk.egress_probes", remedy=error.remedy) from error


def _begun(unit: Path) -> tuple[str, int] | None:
    """The digest of the list that a unit was begun with, and its URLs a shard; raises InputError."""
    try:
        data = json.loads((unit / "job.json").read_bytes())
        return str(data["list_sha256"]), int(data["urls_per_shard"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("cannot be read", where=str(unit / "job.json"), remedy="Begin another unit") from error


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _other_list(unit: Path) -> InputError:
    return InputError(
        "this unit was begun with another list, or with other shards",
        where=str(unit),
        remedy="Give it the list and bulk.urls_per_shard that it was begun with, or begin another unit",
    )
