"""Documents on the disk: kept whole, seen by all who share the directory, asked for once however many want them."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from curation.fetch import FetchConfig, Fetcher
from curation.hosts import DeclaredDocuments, FileClaims, OriginDocuments
from flows.stages.origins import DocumentFiles, OriginFiles
from policy.evidence import Document, OriginEvidence

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ORIGIN = "https://e.org"


def test_files_keep_documents_whole_and_see_what_others_write(tmp_path: Path) -> None:
    """What is stored is read back equal, dates and bytes included, by this reader and by one that read before."""
    body = b"\x00\xff"
    whole = Document(f"{ORIGIN}/x", 200, NOW, (("A", "b"),), body, Document.digest(body))
    whole = replace(whole, since=NOW - timedelta(days=3), truncated=True)
    silent = Document(f"{ORIGIN}/robots.txt", None, NOW, error="timeout")
    mine, yours = OriginFiles(tmp_path), OriginFiles(tmp_path)
    with pytest.raises(KeyError):
        mine[ORIGIN]
    for documents in ((), (("robots", whole),), (("robots", silent), ("tdmrep", whole))):
        yours[ORIGIN] = OriginEvidence(ORIGIN, documents)
        assert mine[ORIGIN] == OriginEvidence(ORIGIN, documents)
        assert dict(mine) == dict(yours)
    del yours[ORIGIN]
    assert ORIGIN not in mine
    assert len(mine) == 0
    files = DocumentFiles(tmp_path / "declared")
    files[whole.url] = whole
    assert dict(DocumentFiles(tmp_path / "declared")) == {whole.url: whole}


# ── many at once, on a real server ─────────────────────────────────────────────────────────────────────────────────


class SlowServer(ThreadingHTTPServer):
    """Answers every path after a moment, and counts who asked."""

    request_queue_size = 64

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), SlowHandler)


class SlowHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, SlowServer)
        self.server.requests[self.path] += 1
        time.sleep(0.15)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def slow() -> Iterator[SlowServer]:
    server = SlowServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def ask(port: int, directory: Path) -> tuple[list[Document], dict[str, Document]]:
    """What a unit does: the documents of an origin, and two that somebody declared."""
    fetcher = Fetcher(FetchConfig(allow_addresses=(f"127.0.0.1:{port}",)))
    own, others = directory / "origins", directory / "declared"
    origin = f"http://127.0.0.1:{port}"
    origins = OriginDocuments(fetcher, ("robots", "tdmrep"), OriginFiles(own), claims=FileClaims(own))
    declared = DeclaredDocuments(fetcher, DocumentFiles(others), claims=FileClaims(others))
    now = datetime.now(UTC)
    try:
        found = origins.for_origins([origin], now)
        return [d for _, d in found[origin].documents], declared.for_urls([f"{origin}/a.xml", f"{origin}/b.xml"], now)
    finally:
        fetcher.close()


@pytest.mark.parametrize(("kind", "workers"), [("threads", 8), ("processes", 3)])
def test_one_fetch_an_origin_however_many_workers_ask(
    kind: str, workers: int, slow: SlowServer, tmp_path: Path
) -> None:
    """Units that want the same documents at the same time send one request each document, and all get them."""
    pool: Executor
    if kind == "threads":
        pool = ThreadPoolExecutor(workers)
    else:
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        asked = [pool.submit(ask, slow.server_port, tmp_path) for _ in range(workers)]
        results = [one.result() for one in asked]
    assert slow.requests == dict.fromkeys(("/robots.txt", "/.well-known/tdmrep.json", "/a.xml", "/b.xml"), 1)
    for own, declared in results:
        assert [d.body for d in own] == [b"ok", b"ok"]
        assert [d.body for d in declared.values()] == [b"ok", b"ok"]
