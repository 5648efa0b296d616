"""In a world where every address on earth answers, the fetcher reaches the public ones and no other.

    make prove PROOF=ssrf                      100,000 addresses
    ADDRESSES=1000000 make prove PROOF=ssrf    more of them

The proof runs in a network of its own (unshare: no privilege is needed, Linux only), in which the loopback interface
holds all addresses of IPv4 and IPv6: whatever is connected to, a socket here accepts it and writes down which address
was meant. In it are asked for: every spelling of tests/curation/ssrf_table.py, directly, over https and by redirect;
addresses drawn from every special-purpose block, its edges and its translations, of which ssrfguard (an oracle with
IANA's registries) says which may be reached; every port that belongs to another protocol; and names whose server, a
real one that libcurl's own resolver asks, mixes public and forbidden addresses and changes its mind.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from ssrfguard import DEFAULT_DENIED

from curation.addresses import forbidden_address
from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate
from tests.builders import ROOT
from tests.curation.ssrf_table import SECRET, Canary, look_up, table
from tests.curation.test_ssrf import OUTSIDE, STRICTER, Outside, drawn, is_literal, oracle_boundaries

RESULTS = ROOT / "docs" / "proofs.md"
PORT, OUTSIDE_PORT = 8099, 8100
PUBLIC, PUBLIC_V6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
CONFIG = FetchConfig(
    contact="https://crawler.example/",
    concurrency=256,
    per_origin_concurrency=64,
    per_address_concurrency=64,
    retries=0,
    connect_timeout_s=5.0,
    deadline_s=20.0,
    origin_failures_max=10**9,
)
# Ports that belong to other protocols, as the Fetch standard lists them.
BAD_PORTS = (
    *(1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109),
    *(110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530),
    *(531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190),
    *(5060, 5061, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, 11211),
)


def main() -> int:
    """Start the proof in its own network, and publish what it found; 1 where something forbidden was reached."""
    if sys.argv[1:] == ["--inside"]:
        return inside()
    began = time.monotonic()
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable, "-m", "tests.proofs.ssrf"]
    done = subprocess.run([*command, "--inside"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.stderr.write("the proof needs Linux with unprivileged user namespaces (unshare --user --net)\n")
        return 2
    found = json.loads(done.stdout.splitlines()[-1])
    text = (
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: ssrf\nIn a network where every address answers: "
        f"{'; '.join(found['told'])}. {time.monotonic() - began:.0f} s. "
        f"Connections to a forbidden address: {found['reached']}. Other failures: {len(found['failures'])}.\n"
    )
    text += "".join(f"* {line}\n" for line in found["failures"][:20])
    sys.stdout.write(text)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text)
    return done.returncode


class Record:
    """What was told, and what should not have happened."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failures: list[str] = []
        self.reached = 0

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.failures.append(what[:400])

    def nobody_came(self, canary: Canary, what: str) -> None:
        """Judge who came to a canary: public addresses may, no other."""
        canary.count()
        visits = Counter(canary.came)
        visits.subtract(canary.own)
        bad = [end for end in visits.elements() if forbidden_address(_canonical(end[0]), 80) is not None]
        self.reached += len(bad)
        self.check(not bad, f"{what}: reached {bad[:5]}")
        canary.forget()


def inside() -> int:
    """Everything, within the network of its own."""
    for command in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
    ):
        subprocess.run(command.split(), check=True)
    record = Record()
    outside = Outside(PUBLIC, OUTSIDE_PORT)
    with outside.server, Canary(PORT) as canary:
        the_table(record, outside, canary)
        addresses(record, canary, int(os.environ.get("ADDRESSES", "100000")))
        ports(record)
        names(record, canary)
    sys.stdout.write(json.dumps({"told": record.told, "reached": record.reached, "failures": record.failures}) + "\n")
    return 1 if record.failures else 0


def fetch(urls: Iterable[str], fetcher: Fetcher) -> Iterable[Fetched]:
    return fetcher.fetch_all((Request(url, "image") for url in urls), gate=open_gate)


def the_table(record: Record, outside: Outside, canary: Canary) -> None:
    """Every spelling: directly, over https, without our resolver, and as the target of redirects."""
    rows = table()
    named = Fetcher(CONFIG, resolver=lambda host, port: tuple(look_up(host, port)))
    plain = Fetcher(CONFIG)
    asked = 0
    for scheme in ("http", "https"):
        by_url = {row.at(PORT, outside.endpoint).replace("http:", f"{scheme}:", 1): row for row in rows}
        for fetched in fetch(by_url, named):
            row = by_url[fetched.url]
            if scheme == "https" and row.outcome == "ok":
                continue
            record.check(fetched.outcome == row.outcome, f"{row.kind}, {fetched.url!r}: {fetched.outcome}")
            asked += 1
        literal = [url for url, row in by_url.items() if is_literal(url) and row.outcome != "ok"]
        for fetched in fetch(literal, plain):
            record.check(fetched.outcome == "forbidden-address", f"{fetched.url!r}: {fetched.outcome}")
            asked += 1
    urls = []
    for i, row in enumerate(rows):
        if not set(row.url) & {"\r", "\n", "\0"}:
            target = outside.redirect_to(row.at(PORT, outside.endpoint))
            for _ in range(i % 4):
                target = outside.redirect_to(target)
            urls.append(target)
    ends = Counter(fetched.outcome for fetched in fetch(urls, named) if _is_clean(record, fetched))
    record.check(set(ends) <= {"forbidden-address", "bad-url", "ok", "too-many-redirects"}, f"redirects: {ends}")
    for fetcher in (named, plain):
        fetcher.close()
    record.nobody_came(canary, "the table")
    record.told.append(
        f"{len(rows):,} spellings asked {asked:,} times directly and {len(urls):,} times by redirects of 1 to 4 hops"
    )


def _is_clean(record: Record, fetched: Fetched) -> bool:
    record.check(fetched.body in (b"", OUTSIDE), f"{fetched.url!r} brought {fetched.body[:20]!r}")
    return True


def addresses(record: Record, canary: Canary, count: int) -> None:
    """Addresses by the block, each really asked: what comes to the canary is exactly what the table lets pass."""
    chosen = dict.fromkeys(oracle_boundaries())
    rng = random.Random(count)
    while len(chosen) < count:
        chosen.update(dict.fromkeys(drawn(rng, 1000)))
    asked = list(chosen)[:count]
    stricter: Counter[str] = Counter()
    passed = set()
    for address in asked:
        ours, oracle = forbidden_address(address, PORT), DEFAULT_DENIED.classify(address)
        record.check(ours is not None or not oracle.blocked, f"{address} passes: {oracle.reason}")
        if ours is None:
            passed.add(address)
        elif not oracle.blocked:
            stricter[ours] += 1
    record.check(set(stricter) <= STRICTER, f"stricter for reasons that are not listed: {stricter}")
    fetcher = Fetcher(CONFIG)
    by_url = {f"http://{f'[{a}]' if ':' in a else a}:{PORT}/": a for a in asked}
    ends: Counter[str] = Counter()
    for fetched in fetch(by_url, fetcher):
        ends[fetched.outcome] += 1
        expected = "ok" if by_url[fetched.url] in passed else "forbidden-address"
        record.check(fetched.outcome == expected, f"{fetched.url}: {fetched.outcome} {fetched.detail}")
        record.check(fetched.body == (SECRET if expected == "ok" else b""), f"{fetched.url}: {fetched.body[:20]!r}")
    fetcher.close()
    came = {_canonical(address) for address, _ in canary.came}
    missing = passed - came
    record.check(not missing, f"public addresses that were not reached: {sorted(missing)[:5]}")
    record.nobody_came(canary, "addresses")
    told = ", ".join(f"{why} {n:,}" for why, n in stricter.most_common())
    record.told.append(
        f"{len(asked):,} addresses asked, of which {ends['ok']:,} are public and were reached, and the oracle denies "
        f"none that passed (stricter than it: {told})"
    )


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address.partition("%")[0]))


def ports(record: Record) -> None:
    """Ports of other protocols, at a public address where somebody listens."""
    fetcher = Fetcher(CONFIG)
    came = 0
    for port in BAD_PORTS:
        with Canary(port) as canary:
            for host in (PUBLIC, f"[{PUBLIC_V6}]"):
                fetched = fetcher.fetch(Request(f"http://{host}:{port}/", "image"))
                record.check(fetched.detail == f"port {port}", f"port {port}: {fetched.outcome} {fetched.detail}")
            came += canary.count()
    fetcher.close()
    record.reached += came
    record.check(not came, f"{came} came to ports of other protocols")
    record.told.append(f"{len(BAD_PORTS)} ports of other protocols")


# ── a name server of its own mind ────────────────────────────────────────────────────────────────────────────────
class NameServer:
    """Answers on UDP port 53; what it says of a name is another mixture of addresses each time, and good for 0 s."""

    def __init__(self) -> None:
        self.asked = 0
        self.said: dict[str, set[str]] = {}
        self._rng = random.Random(53)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._socket.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                query, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while (length := query[at]) != 0:
            labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        (kind,) = struct.unpack_from(">H", query, at + 1)
        question = query[12 : at + 5]
        name = ".".join(labels).lower()
        addresses = self._addresses(name, 4 if kind == 1 else 6) if kind in (1, 28) else []
        self.asked += 1
        self.said.setdefault(name, set()).update(addresses)
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(packed)) + packed
            for packed in (ipaddress.ip_address(address).packed for address in addresses)
        )
        return query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(addresses), 0, 0) + question + records

    def _addresses(self, name: str, version: int) -> list[str]:
        if name.startswith("evil"):  # nothing but what is forbidden
            return self._forbidden(version, 3)
        if name.startswith("turns") and self._rng.random() < 0.5:
            return self._forbidden(version, 1)
        good = PUBLIC if version == 4 else PUBLIC_V6
        mixed = [good, *self._forbidden(version, 3)]
        self._rng.shuffle(mixed)
        return mixed

    def _forbidden(self, version: int, count: int) -> list[str]:
        v4 = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "0.0.0.0", "100.64.0.1", "172.16.0.1"]
        v6 = ["::1", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "fc00::1"]
        return self._rng.sample(v4 if version == 4 else v6, count)


def names(record: Record, canary: Canary) -> None:
    """Names that libcurl looks up by itself, at a server that mixes addresses and changes its mind."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write("nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
        conf.flush()
        Path(conf.name).chmod(0o644)
        real = Path("/etc/resolv.conf").resolve()
        subprocess.run(["mount", "--bind", conf.name, str(real)], check=True)
        server = NameServer()
        ends: Counter[tuple[str, str]] = Counter()
        try:
            for _ in range(3):  # a fetcher keeps what it was told for a minute; a new one asks anew
                fetcher = Fetcher(CONFIG)
                hosts = [f"{kind}-{i}.example" for i in range(100) for kind in ("evil", "turns", "mixed")]
                for fetched in fetch((f"http://{host}:{PORT}/{n}" for host in hosts for n in range(3)), fetcher):
                    kind = fetched.url[7:].partition("-")[0]
                    ends[kind, fetched.outcome] += 1
                    public = fetched.address is None or fetched.address.startswith((PUBLIC, f"[{PUBLIC_V6}]"))
                    record.check(public, f"{fetched.url} was answered by {fetched.address}")
                fetcher.close()
        finally:
            server.close()
            subprocess.run(["umount", str(real)], check=True)
    record.check(ends["evil", "forbidden-address"] == 900, f"names that lead inside alone: {ends}")
    record.check(ends["mixed", "ok"] == 900, f"names with one good address among others: {ends}")
    record.check(ends["turns", "ok"] + ends["turns", "forbidden-address"] == 900, f"names that turn: {ends}")
    record.nobody_came(canary, "names")
    told = ", ".join(f"{kind} {outcome} {n}" for (kind, outcome), n in sorted(ends.items()))
    record.told.append(f"{server.asked:,} answers of a lying name server to libcurl's own resolver ({told})")


if __name__ == "__main__":
    sys.exit(main())
