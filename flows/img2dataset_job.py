"""Runs img2dataset in its own environment: `python -I img2dataset_job.py check|run JOB.json`. Imports nothing of ours.

img2dataset 1.47.0 does the work: it cuts the list into shards, spreads them over its multiprocessing, Spark or Ray
distributor, downloads and writes. What it asks with is ours, in each worker: its urllib follows no redirect (nobody
has asked about the target), speaks http and https only, uses no proxy that was not named, says who asks, and ends by
size and by total time what its own timeout, one of single reads, would let go on for ever.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Job = dict[str, Any]  # a JSON document; what stands in it: flows/stages/bulk.py, _job

PACKAGES = ("img2dataset", "pyspark", "ray")
PROBE_TIMEOUT_S = 3.0


def main() -> None:
    command, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_bytes())
    if command == "check":
        sys.stdout.write(json.dumps(check(job)))
    else:
        threading.Thread(target=end_with_the_parent, daemon=True).start()
        run(job)


# --- before the start


def check(job: Job) -> Job:
    """The versions that are here, whether Java is, and which of the addresses that must not answer did."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    java = shutil.which("java", path=f"{job['java_home']}/bin" if job["java_home"] else None)
    return {"versions": versions, "java": java is not None, "reached": reached(job["probes"])}


def reached(endpoints: list[list[Any]]) -> list[int]:
    """The places in the list of endpoints ([ip, port]) that a TCP connection could be made to."""
    found = []

    def probe(place: int, ip: str, port: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=PROBE_TIMEOUT_S):
            found.append(place)

    threads = [threading.Thread(target=probe, args=(n, ip, port)) for n, (ip, port) in enumerate(endpoints)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


# --- the run


def end_with_the_parent() -> None:
    """Standard input is a pipe that the parent holds alone: when it ends, so do we and what was started here."""
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def run(job: Job) -> None:
    main_module: Any = importlib.import_module("img2dataset.main")  # the package's attribute of that name is a function
    downloader = main_module.Downloader
    main_module.Downloader = lambda **arguments: AskingAsUs(downloader(**arguments), job)
    with cluster(job):
        main_module.download(
            url_list=job["list"],
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            save_additional_columns=[job["row_column"]],
            output_folder=job["output"],
            output_format="webdataset",
            number_sample_per_shard=job["urls_per_shard"],
            # The original bytes, and their hash to prove it.
            disable_all_reencoding=True,
            resize_mode="no",
            compute_hash="sha256",
            extract_exif=True,
            distributor=job["distributor"],
            processes_count=job["processes"],
            thread_count=job["threads"],
            timeout=job["timeout_s"],
            retries=job["retries"],
            max_shard_retry=1,
            incremental_mode="incremental",
            user_agent_token=job["product"],
            disallowed_header_directives=job["directives"],
            enable_wandb=False,
        )


@contextlib.contextmanager
def cluster(job: Job) -> Any:
    """The Spark session or Ray connection that img2dataset then finds; on this machine unless a cluster is named."""
    if job["distributor"] == "pyspark":
        sql = importlib.import_module("pyspark.sql")
        builder = sql.SparkSession.builder.appName("custody-bulk").master(
            job["cluster"] or f"local[{job['processes']}]"
        )
        settings = {"spark.ui.enabled": "false", "spark.local.dir": job["temporary"], "spark.task.maxFailures": "2"}
        if not job["cluster"]:
            settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        try:
            yield
        finally:
            session.stop()
    elif job["distributor"] == "ray":
        ray = importlib.import_module("ray")
        if job["cluster"]:
            ray.init(address=job["cluster"], log_to_driver=True)
        else:
            ray.init(
                num_cpus=job["processes"],
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=job["temporary"],
                object_store_memory=100 * 1024 * 1024,
            )
        try:
            yield
        finally:
            ray.shutdown()
    else:
        yield


class AskingAsUs:
    """img2dataset's downloader of a shard, with our opener under it: what the distributors carry to their workers.

    Spark and Ray carry it by value, so it leans on no state of this module.
    """

    def __init__(self, downloader: Any, job: Job) -> None:
        self.downloader, self.job = downloader, job

    def __call__(self, shard: Any) -> Any:
        with Deadlines(self.job["deadline_s"]) as deadlines:
            urllib.request.install_opener(opener(self.job, deadlines))
            return self.downloader(shard)


def opener(job: Job, deadlines: Deadlines) -> urllib.request.OpenerDirector:
    """urllib's opener without redirects, without ftp, file and data, and without the environment's proxies."""
    proxies = {"http": job["proxy"], "https": job["proxy"]} if job["proxy"] else {}
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        Http(deadlines),
        Https(deadlines, ssl.create_default_context(cafile=job["ca_file"])),
        Bounds(job, deadlines),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    return director


class Http(urllib.request.HTTPHandler):
    """http with a total deadline."""

    def __init__(self, deadlines: Deadlines) -> None:
        super().__init__()
        self.deadlines = deadlines

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        with self.deadlines.kept():
            return self.do_open(self.deadlines.maker(http.client.HTTPConnection), request)


class Https(urllib.request.HTTPSHandler):
    """https with a total deadline, and one TLS context a shard instead of one a request."""

    def __init__(self, deadlines: Deadlines, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self.deadlines, self.context = deadlines, context

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        with self.deadlines.kept():
            return self.do_open(self.deadlines.maker(http.client.HTTPSConnection, context=self.context), request)


class Bounds(urllib.request.BaseHandler):
    """Says who asks; takes 200 and 203 without an encoding, within the limit of bytes."""

    handler_order = 100  # before the error processor

    def __init__(self, job: Job, deadlines: Deadlines) -> None:
        self.job, self.deadlines = job, deadlines

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        request.add_header("User-Agent", self.job["user_agent"])  # img2dataset's calls itself Firefox
        return request

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status in (200, 203) and encoding in ("", "identity"):
            response.read = functools.partial(read_within, response, self.job["max_bytes"], self.deadlines)
            return response
        self.deadlines.forget()
        if not 200 <= response.status < 300:
            return response  # the error processor's
        response.close()
        raise ValueError(
            "custody: bad-encoding" if response.status in (200, 203) else f"HTTP Error {response.status}: no picture"
        )

    https_request = http_request
    https_response = http_response


def read_within(response: http.client.HTTPResponse, max_bytes: int, deadlines: Deadlines) -> bytes:
    """The whole body. Raises ValueError over the limit, IncompleteRead when it ends early, TimeoutError."""
    body = bytearray()
    with deadlines.kept():
        while chunk := response.read1(64 * 1024):
            body += chunk
            if len(body) > max_bytes:
                raise ValueError("custody: too-large")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    if deadlines.forget():
        raise TimeoutError("custody: deadline")
    return bytes(body)


class Deadlines:
    """Shuts down connections that are past their time. Each of img2dataset's threads has one connection at a time.

    A thread of its own does it, since reads block; where it had to act, `forget` says so.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lock = threading.Lock()
        self.running: dict[int, tuple[float, socket.socket]] = {}
        self.late: set[int] = set()
        self.over = threading.Event()

    def __enter__(self) -> Deadlines:
        threading.Thread(target=self.watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def watch(self) -> None:
        """Until the shard is done: look ten times a second."""
        while not self.over.wait(0.1):
            with self.lock:
                now = time.monotonic()
                for thread in [thread for thread, (until, _) in self.running.items() if until <= now]:
                    _, held = self.running.pop(thread)
                    self.late.add(thread)
                    with contextlib.suppress(OSError):
                        held.shutdown(socket.SHUT_RDWR)
                    held.close()

    def maker(self, kind: Any, **more: Any) -> Any:
        """Makes connections that have their time from the connect to the last byte of the body."""

        def connect(*arguments: Any) -> socket.socket:
            connected = socket.create_connection(*arguments)
            self.forget()
            # A second descriptor of the same connection: TLS takes the first one away from its socket.
            held = connected.dup()
            with self.lock:
                self.running[threading.get_ident()] = (time.monotonic() + self.seconds, held)
            return connected

        def make(host: str, **asked: Any) -> Any:
            made = kind(host, **more, **asked)
            made._create_connection = connect
            return made

        return make

    def forget(self) -> bool:
        """End the watch over this thread's connection; whether it was cut off."""
        me = threading.get_ident()
        with self.lock:
            _, held = self.running.pop(me, (0.0, None))
            was_late = me in self.late
            self.late.discard(me)
        if held is not None:
            held.close()
        return was_late

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Ends this thread's watch on an error, and calls the error by its name where the watch made it."""
        try:
            yield
        except Exception as error:
            if self.forget():
                raise TimeoutError("custody: deadline") from error
            raise


if __name__ == "__main__":
    main()
