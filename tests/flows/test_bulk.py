"""Approved lists through img2dataset: what refuses to start, how it asks, and that each URL has one outcome."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.fetch import OUTCOMES, FetchConfig
from curation.img2dataset import Problem
from flows import img2dataset_job
from flows.stages import bulk
from flows.stages.bulk import BULK_OUTCOMES, BulkOutcome, BulkSettings, outcome_of, reconcile, run
from policy.errors import BusyError, ConfigurationError, CustodyError, InputError, RefusedError
from policy.lock import FileLock
from tests.curation.loopback import Authority, closing, dripping, flooding, hang, redirect, response, serving
from tests.curation.test_img2dataset import Shard, body

GUARDED = BulkSettings(egress_guard="the tests' machine has no inside", urls_per_shard=4, processes=1)
ROOT = Path(__file__).resolve().parents[2]


def approve(path: Path, urls: list[str], **columns: list[object]) -> Path:
    """An approved list."""
    pq.write_table(pa.table({"url": urls} | columns), path)
    return path


def asking(*endpoints: str, **more: object) -> FetchConfig:
    """Who asks, and how long it waits."""
    values: dict[str, object] = {"contact": "https://custody.example/", "deadline_s": 1.5, "max_image_bytes": 10_000}
    return FetchConfig(allow_addresses=endpoints, **(values | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that is trusted where its file is named."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def stand_in(tmp_path: Path) -> BulkSettings:
    """Settings whose interpreter says that all is well and then fails."""
    said = json.dumps({"versions": {"img2dataset": bulk.VERSION}, "java": False, "reached": []})
    path = tmp_path / "python"
    path.write_text(
        f"#!/bin/sh\n[ \"$3\" = check ] && echo '{said}' && exit 0\necho http://secret.example/ >&2\nexit 3\n"
    )
    path.chmod(0o755)
    return replace(GUARDED, python=str(path))


# --- what refuses to start


@pytest.mark.parametrize("guard", ["", "   ", "yes"])
def test_nothing_starts_without_a_declared_guard(tmp_path: Path, guard: str) -> None:
    """img2dataset asks whatever a name leads to: somebody must have said, in words, what stands in its way."""
    with pytest.raises(RefusedError) as refused:
        run(tmp_path / "none", tmp_path / "unit", BulkSettings(egress_guard=guard), asking())
    assert refused.value.where == "bulk.egress_guard"
    assert refused.value.remedy
    assert not (tmp_path / "unit").exists()


def test_nothing_starts_where_the_guard_does_not_hold(tmp_path: Path) -> None:
    """An address that must not be reachable is tried from the very interpreter, and what answers is named."""
    with serving() as inside, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        probes = (f"127.0.0.1:{closed.getsockname()[1]}", inside.endpoint)
        settings = replace(GUARDED, python=sys.executable, egress_probes=probes)
        with pytest.raises(RefusedError) as refused:
            run(tmp_path / "none", tmp_path / "unit", settings, asking())
    assert inside.endpoint in str(refused.value)
    assert probes[0] not in str(refused.value)
    assert refused.value.where == "bulk.egress_probes"


WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "no environment": ({"python": "/nonexistent/python"}, "/nonexistent/python", "make bulk-env"),
    "no img2dataset in it": ({"python": sys.executable}, sys.executable, "make bulk-env"),
    "no Python": ({"python": "/bin/false"}, "/bin/false", "make bulk-env"),
    "no environment of a cluster": (
        {"distributor": "ray", "python": "/nonexistent/python"},
        "/nonexistent/python",
        "make bulk-cluster-env",
    ),
    "unknown distributor": ({"distributor": "dask"}, "bulk.distributor", "multiprocessing, pyspark, ray"),
    "no threads": ({"threads": 0}, "bulk.threads", ""),
    "a probe by name": ({"egress_probes": ("localhost:80",)}, "bulk.egress_probes", "127.0.0.1:8001"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_environment_that_cannot_do_it_says_what_to_do(tmp_path: Path, case: str) -> None:
    """A missing, foreign or wrong environment is one message that says where and what to do."""
    changed, where, remedy = WRONG[case]
    with pytest.raises(ConfigurationError) as refused:
        run(tmp_path / "none", tmp_path / "unit", replace(GUARDED, **changed), asking())  # type: ignore[arg-type]
    assert refused.value.where == where
    assert remedy in refused.value.remedy


def test_a_distributor_that_is_not_installed_says_how_to_install_it(tmp_path: Path, stand_in: BulkSettings) -> None:
    """Spark and Ray are asked for only by who wants them."""
    for distributor in ("pyspark", "ray"):
        with pytest.raises(ConfigurationError, match="make bulk-cluster-env"):
            run(tmp_path / "none", tmp_path / "unit", replace(stand_in, distributor=distributor), asking())


def test_nobody_is_asked_without_a_contact(tmp_path: Path, stand_in: BulkSettings) -> None:
    """Without a contact only allowed addresses may be on the list, by this engine too."""
    approved = approve(tmp_path / "list.parquet", ["http://127.0.0.1:8001/a", "https://site.example/b"])
    with pytest.raises(RefusedError) as refused:
        run(approved, tmp_path / "unit", stand_in, asking("127.0.0.1:8001", contact=None))
    assert refused.value.where == "crawl.contact"


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, stand_in: BulkSettings) -> None:
    """Other columns, a URL that stands there twice in two spellings, and no Parquet are each said."""
    lists = {
        "Expected are the columns url": approve(tmp_path / "a", [], picture=[]),
        "Name each URL once": approve(tmp_path / "b", ["http://site.example/", "HTTP://SITE.example:80/#top"]),
        "cannot be read as Parquet": tmp_path / "c",
        "cannot be read": tmp_path / "missing",
    }
    pq.write_table(pa.table({"picture": ["x"]}), tmp_path / "a")
    (tmp_path / "c").write_text("url\n")
    for said, path in lists.items():
        with pytest.raises(InputError, match=said):
            run(path, tmp_path / f"unit-{path.name}", stand_in, asking())


def test_a_run_that_fails_names_its_log_and_no_url(tmp_path: Path, stand_in: BulkSettings) -> None:
    """What img2dataset printed stays in the unit; the message says where. Two at once are refused."""
    approved = approve(tmp_path / "list.parquet", ["https://site.example/a"])
    unit = tmp_path / "unit"
    with pytest.raises(CustodyError, match="exit code 3") as failed:
        run(approved, unit, stand_in, asking())
    assert failed.value.where == str(unit / "bulk.log")
    assert "secret.example" in (unit / "bulk.log").read_text()
    assert "secret.example" not in str(failed.value)
    lock = FileLock(unit / ".lock", exclusive=True, wait_s=0.0)
    try:
        with pytest.raises(BusyError):
            run(approved, unit, stand_in, asking())
    finally:
        lock.release()
    with pytest.raises(InputError, match="another list"):
        run(approve(tmp_path / "other", ["https://site.example/b"]), unit, stand_in, asking())
    with pytest.raises(InputError, match="other shards"):
        run(approved, unit, replace(stand_in, urls_per_shard=5), asking())


# --- how it asks


def ask(url: str, ca_file: Path | None = None, **more: object) -> str:
    """What becomes of a URL, as img2dataset asks: its outcome, or the body."""
    job = {
        "proxy": "",
        "ca_file": ca_file,
        "user_agent": "custody/0.1 (+x)",
        "max_bytes": 10_000,
        "deadline_s": 1.0,
    } | more
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
    with img2dataset_job.Deadlines(float(str(job["deadline_s"]))) as deadlines:
        try:
            with img2dataset_job.opener(job, deadlines).open(request, timeout=0.5) as answer:
                return f"ok {answer.read().decode()}"
        except Exception as error:  # as img2dataset does
            with suppress(AttributeError):
                error.close()  # type: ignore[attr-defined]
            return " ".join(filter(None, outcome_of(str(error))))
        finally:
            assert not deadlines.running


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
ANSWERS: dict[str, tuple[object, str]] = {
    "whole": (response(b"body"), "ok body"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "ok body"),
    "203": (response(b"body", status="203 Non-Authoritative"), "ok body"),
    "204": (response(status="204 No Content"), "http-204"),
    "206": (response(b"part", status="206 Partial Content"), "http-206"),
    "404": (response(status="404 Not Found"), "http-404"),
    "503": (response(status="503 Busy"), "http-503"),
    "redirect": (redirect("/whole"), "http-302"),
    "redirect 308": (redirect("/whole", "308 Permanent Redirect"), "http-308"),
    "encoded": (response(b"\x1f\x8b", "Content-Encoding: gzip"), "bad-encoding"),
    "too large": (response(bytes(10_001)), "too-large body"),
    "endless": (flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096), "too-large body"),
    "cut": (closing(response(b"half", length=100)), "truncated"),
    "cut chunk": (closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"), "truncated"),
    "closed": (closing(b""), "reset"),
    "reset": (closing(b"", reset=True), "reset"),
    "hang": (hang, "timeout rate"),
    "drip": (dripping(HEAD), "timeout deadline"),
    "drip without length": (dripping(b"HTTP/1.1 200 OK\r\n\r\n"), "timeout deadline"),
    "drip in headers": (dripping(b"HTTP/1.1 200 OK\r\nX: "), "timeout deadline"),
    "header flood": (response(b"", *(f"X-{n}: y" for n in range(200))), "too-large headers"),
    "long header": (response(b"", "X: " + "y" * 70_000), "too-large headers"),
    "no HTTP": (closing(b"SSH-2.0-OpenSSH\r\n"), "bulk-failed unknown-error"),
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_becomes_an_outcome_within_bounds(case: str, secure: bool, authority: Authority) -> None:
    """Size, total time, encodings and redirects are bounded as they are not by img2dataset alone."""
    answer, expected = ANSWERS[case]
    tls = authority.context("127.0.0.1") if secure else None
    with serving({"/x": answer, "/whole": response(b"elsewhere")}, tls=tls) as server:  # type: ignore[dict-item]
        outcome = ask(server.url("/x"), authority.path if secure else None)
    if secure and case in {"closed", "reset"}:
        expected = outcome if outcome in {"tls", "reset"} else expected
    assert outcome == expected
    assert server.requests == ["/x"]
    assert all(b"custody/0.1 (+x)" in head and b"Mozilla" not in head for head in server.heads)


def test_connections_that_fail_have_their_outcomes(authority: Authority) -> None:
    """Nobody listening, a certificate nobody signed, and what is not the web's."""
    with serving(tls=authority.context("127.0.0.1")) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ask(f"http://127.0.0.1:{closed.getsockname()[1]}/") == "connect"
        assert ask(server.url()) == "tls"
        assert server.requests == []
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"):
        assert ask(url) == "bulk-failed unknown-error"


def test_only_a_proxy_that_was_named_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxies are nobody's decision; a guard that is a proxy is."""
    with serving({"/": response(b"direct")}) as server, serving({server.url(): response(b"by proxy")}) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.endpoint}")
        assert ask(server.url()) == "ok direct"
        assert ask(server.url(), proxy=f"http://{proxy.endpoint}") == "ok by proxy"


MESSAGES = {
    "<urlopen error [Errno -2] Name or service not known>": ("dns", ""),
    "<urlopen error [Errno -3] Temporary failure in name resolution>": ("dns", ""),
    "<urlopen error [Errno 101] Network is unreachable>": ("connect", ""),
    "<urlopen error timed out>": ("timeout", "connect"),
    "<urlopen error _ssl.c:990: The handshake operation timed out>": ("timeout", "connect"),
    "The read operation timed out": ("timeout", "rate"),
    "HTTP Error 418: I'm a teapot": ("http-418", ""),
    "HTTP Error 999: Denied": ("bulk-failed", "unknown-error"),
    "Use of image disallowed by X-Robots-Tag directive": ("refused-by-policy", "x-robots-tag"),
    "[Errno 104] Connection reset by peer": ("reset", ""),
    "hash mismatch": ("bulk-failed", "unknown-error"),
    "": ("bulk-failed", "unknown-error"),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_that_no_loopback_gives_are_read_too(message: str) -> None:
    """The messages of urllib that need a wider network."""
    assert outcome_of(message) == MESSAGES[message]


# --- one outcome a row


def finished(tmp_path: Path, urls: list[str], *, per_shard: int) -> tuple[Path, Path]:
    """A list and a unit that was run with it, without its output."""
    approved, unit = approve(tmp_path / "list.parquet", urls), tmp_path / "unit"
    (unit / "output").mkdir(parents=True)
    digest = hashlib.sha256(approved.read_bytes()).hexdigest()
    (unit / "job.json").write_text(json.dumps({"list_sha256": digest, "urls_per_shard": per_shard}))
    return approved, unit


def test_every_row_of_the_list_has_exactly_one_outcome(tmp_path: Path) -> None:
    """Whatever img2dataset lost, changed, repeated or broke: a row is ok, failed or missing, and only once."""
    urls = [f"https://site.example/{row}.jpg" for row in range(16)]
    urls[2] = "ftp://site.example/"
    urls[5] = "https://user:secret@site.example/"
    approved, unit = finished(tmp_path, urls, per_shard=4)
    # Shards of handed-over rows: 0 = 0 1 3 4, 1 = 6 7 8 9, 2 = 10..13 (never done), 3 = 14 15.
    rows = {0: [0, 1, 3, 4], 1: [6, 7, 8, 9], 3: [14, 15]}

    def shard(number: int, **more: object) -> Shard:
        changed = {i: {"url": urls[row], "custody_row": str(row)} for i, row in enumerate(rows[number])}
        return Shard(number, len(changed), changed=changed, **more)  # type: ignore[arg-type]

    first = shard(0, failed={1: "HTTP Error 404: Not Found"}, stored={2: b"encoded anew"})
    first.write(unit / "output", "webdataset")
    second = shard(1)
    second.changed[1]["url"] = "https://else.example/"  # type: ignore[index]
    second.changed[2]["custody_row"] = "6"  # type: ignore[index]
    second.write(unit / "output", "webdataset")
    shard(3).write(unit / "output", "webdataset")
    (unit / "output/00003.tar").unlink()

    read = list(reconcile(approved, unit, max_bytes=10_000))
    outcomes = [item for item in read if isinstance(item, BulkOutcome)]
    said = {item.row: (item.outcome, item.detail) for item in outcomes}
    assert len(outcomes) == len(urls)
    assert said == {
        0: ("ok", ""),
        1: ("http-404", ""),
        2: ("bad-url", "not-a-url"),
        3: ("bulk-failed", "not-original"),
        4: ("ok", ""),
        5: ("bad-url", "userinfo"),
        6: ("ok", ""),
        7: ("bulk-missing", "row-missing"),
        8: ("bulk-missing", "row-missing"),
        9: ("ok", ""),
        **dict.fromkeys(range(10, 14), ("bulk-missing", "shard-missing")),
        **dict.fromkeys((14, 15), ("bulk-failed", "bytes-missing")),
    }
    for item in outcomes:
        assert (item.imported is not None) == (item.outcome == "ok")
        assert item.url == ("" if item.row in {2, 5} else urls[item.row])
        assert item.outcome in OUTCOMES | BULK_OUTCOMES | {"ok", "http-404"}
    (first_row,) = (item.imported for item in outcomes if item.row == 0)
    assert first_row is not None
    assert first_row.stored == body(0)
    problems = Counter(item.code for item in read if isinstance(item, Problem))
    assert problems == {"key-mismatch": 2, "bytes-missing": 2}


def test_a_unit_without_any_output_misses_everything(tmp_path: Path) -> None:
    """Nothing written is not nothing asked for: each URL is missing. Another list is not reconciled."""
    approved, unit = finished(tmp_path, ["https://a.example/", "no url", "https://b.example/"], per_shard=10)
    read = list(reconcile(approved, unit, max_bytes=10))
    assert [(o.row, o.outcome) for o in read if isinstance(o, BulkOutcome)] == [
        (1, "bad-url"),
        (0, "bulk-missing"),
        (2, "bulk-missing"),
    ]
    with pytest.raises(InputError):
        list(reconcile(approve(tmp_path / "other", ["https://c.example/"]), unit, max_bytes=10))


# --- img2dataset itself


def installed(distributor: str) -> pytest.MarkDecorator:
    """Skips where the environment of a distributor is not there."""
    _, target, directory = bulk.DISTRIBUTORS[distributor]
    missing = not (ROOT / directory / "bin/python").is_file()
    return pytest.mark.skipif(missing, reason=f"img2dataset is not there: run `make {target}`")


# In make test: multiprocessing. Spark and Ray are slow to start: `DISTRIBUTORS=pyspark,ray pytest …`
RUN_WITH = [
    pytest.param(distributor, marks=installed(distributor))
    for distributor in os.environ.get("DISTRIBUTORS", "multiprocessing").split(",")
]


@pytest.mark.parametrize("distributor", RUN_WITH)
def test_img2dataset_brings_the_original_bytes_and_asks_as_we_do(
    tmp_path: Path, distributor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real run: bytes as served with their hash, refusals and failures by name, no redirect followed, no env used."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    with serving({"/inside": response(b"secret")}) as inside:
        routes: dict[str, object] = {
            f"/{n}": response(picture + bytes([n]), "Content-Type: image/png") for n in range(8)
        }
        routes |= {
            "/noai": response(picture, "X-Robots-Tag: noai"),
            "/ours": response(picture, "X-Robots-Tag: custody: none"),
            "/theirs": response(picture, "X-Robots-Tag: otherbot: noai"),
            "/moved": redirect(inside.url("/inside")),
            "/drip": dripping(HEAD),
            "/large": response(bytes(20_000)),
            "/busy": response(b"", "Retry-After: 100", status="429 Too Many Requests"),
        }
        with serving(routes) as server:  # type: ignore[arg-type]
            paths = [*routes, "/none"]
            urls = [server.url(path) for path in paths]
            approved = approve(
                tmp_path / "list.parquet", [*urls, "ftp://x/"], caption=[*paths, None], kept=[*paths, ""]
            )
            monkeypatch.setenv("http_proxy", f"http://{inside.endpoint}")
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
            (tmp_path / "img2dataset.py").write_text("raise SystemExit('not this one')")
            told: list[tuple[int, int]] = []
            settings = replace(GUARDED, distributor=distributor)
            done = run(
                approved,
                tmp_path / "unit",
                settings,
                asking(server.endpoint),
                progress=lambda done, total, note="": told.append((done, total)),
            )
    assert (done.urls, done.refused, done.shards, done.complete) == (16, 1, 4, True)
    assert told[-1] == (16, 16)
    assert inside.connections == 0
    assert set(server.requests) == set(paths)
    assert len(server.requests) == len(paths)
    agents = {line for head in server.heads for line in head.split(b"\r\n") if line.lower().startswith(b"user-agent")}
    assert agents == {b"User-Agent: custody/0.1 (+https://custody.example/)"}

    read = list(reconcile(approved, tmp_path / "unit", max_bytes=10_000))
    outcomes = {item.row: item for item in read if isinstance(item, BulkOutcome)}
    assert len(outcomes) == len(read) == 17
    said = {path: (outcomes[row].outcome, outcomes[row].detail) for row, path in enumerate([*paths, "ftp"])}
    assert said == {
        **{f"/{n}": ("ok", "") for n in range(8)},
        "/noai": ("refused-by-policy", "x-robots-tag"),
        "/ours": ("refused-by-policy", "x-robots-tag"),
        "/theirs": ("ok", ""),
        "/moved": ("http-302", ""),
        "/drip": ("timeout", "deadline"),
        "/large": ("too-large", "body"),
        "/busy": ("http-429", ""),
        "/none": ("http-404", ""),
        "ftp": ("bad-url", "not-a-url"),
    }
    for number in range(8):
        imported = outcomes[number].imported
        assert imported is not None
        assert (imported.stored, imported.is_original) == (picture + bytes([number]), True)
        assert (imported.caption, imported.hash_name) == (f"/{number}", "sha256")


@pytest.mark.parametrize("distributor", RUN_WITH)
def test_a_killed_run_leaves_nobody_behind_and_is_finished_by_running_it_again(
    tmp_path: Path, distributor: str
) -> None:
    """kill -9 of ours ends img2dataset and its workers; the next run asks nothing of finished shards again."""
    picture = response(b"picture")
    with serving({f"/{n}": picture if n < 4 else hang for n in range(8)}) as server:
        approved = approve(tmp_path / "list.parquet", [server.url(f"/{n}") for n in range(8)])
        unit = tmp_path / "unit"
        settings = replace(GUARDED, distributor=distributor, timeout_s=100)
        program = (
            "from pathlib import Path; from flows.stages.bulk import BulkSettings, run;"
            f"from tests.flows.test_bulk import asking; fetch = asking({server.endpoint!r}, deadline_s=100.0);"
            f"run(Path({str(approved)!r}), Path({str(unit)!r}), {settings!r}, fetch)"
        )
        ours = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        try:
            until(lambda: len(server.requests) >= 8 and (unit / "output/00000_stats.json").exists())
            group = next(pid for pid, line in processes() if str(unit / "job.json") in line)
            workers = [pid for pid, _ in processes() if group_of(pid) == group]
            assert len(workers) > 1
        finally:
            ours.kill()
            ours.wait()
        until(lambda: all(group_of(pid) is None for pid in workers))
        assert list(Path(tempfile.gettempdir()).glob(f"custody-bulk-{ours.pid}-*"))
        server.routes = dict.fromkeys(server.routes, picture)
        server.requests.clear()
        # Torn by a power cut: to img2dataset this would be a finished shard.
        (unit / "output/00001_stats.json").write_text('{"count"')
        assert run(approved, unit, settings, asking(server.endpoint)).complete
        assert sorted(server.requests) == [f"/{n}" for n in range(4, 8)]
    assert not list(Path(tempfile.gettempdir()).glob(f"custody-bulk-{ours.pid}-*"))
    outcomes = [item for item in reconcile(approved, unit, max_bytes=100) if isinstance(item, BulkOutcome)]
    assert Counter(item.outcome for item in outcomes) == {"ok": 8}


def until(happened: Callable[[], bool]) -> None:
    """Wait; the test's own timeout ends what never happens."""
    while not happened():
        time.sleep(0.05)


def processes() -> Iterator[tuple[int, str]]:
    """Number and command line of what runs here."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def group_of(pid: int) -> int | None:
    """The process group of a process that still runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[2])
