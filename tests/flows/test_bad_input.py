"""What happens to who makes mistakes: one clear message, the exit code, nothing lost, never a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flows import home as home_module
from flows.cli import cli
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from policy.lock import FileLock
from policy.ruleset import Ruleset
from tests.builders import LOOKED, Custody, policy_without, replaced

pytestmark = pytest.mark.timeout(300)

DATASET = "book"
PICTURES = 9
UNSEEN = policy_without(*LOOKED)  # what is looked at is tested elsewhere, and its models take long to load
EVIL = "a square that \u202etxet\u202c turns \x1b[31mred\x1b[0m and \x9b2Jrings \x07"


class Site(BaseHTTPRequestHandler):
    """A page of squares under CC BY, an empty page, and nothing else."""

    def log_message(self, format: str, *args: object) -> None:
        """Tests are read for what fails."""

    def do_GET(self) -> None:
        """The page, a picture, or 404."""
        status, kind, body = 200, "text/html; charset=utf-8", b"<html><body>nothing here</body></html>"
        if self.path == "/":
            pictures = "".join(f'<img src="/{n}.png" alt="a square of colour number {n}">' for n in range(PICTURES))
            licence = '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/">'
            body = f'<html><head>{licence}</head><body>{pictures}<img src="/0.png" alt="{EVIL}"></body></html>'.encode()
        elif self.path.endswith(".png"):
            kind, body = "image/png", square(int(self.path[1:-4]))
        elif self.path != "/empty":
            status = 404
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def square(number: int) -> bytes:
    """A PNG of noise, each number another."""
    pixels = np.random.default_rng(number).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The site's address, "127.0.0.1:port"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def settings_for(address: str) -> str:
    """custody.toml for a small job on one site of this machine."""
    return replaced(
        DEFAULT_TEXT,
        {
            'contact = ""': 'contact = "mailto:tests@custody.example"',
            "allow_addresses = []": f'allow_addresses = ["{address}"]',
            "retries = 2 ": "retries = 0 ",
            "size = 256 ": "size = 32 ",
            "decode_workers = 2": "decode_workers = 1",
            'preset = "demo"': 'preset = "tiny"',
            "threads = 2": "threads = 1",
        },
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, custody: Custody, site: str) -> Home:
    """A home that was crawled, decided, sealed and trained; no test may change it."""
    home = Home.create(tmp_path_factory.mktemp("done") / "home", settings_text=settings_for(site), policy_text=UNSEEN)
    custody(home, "crawl", f"http://{site}/")
    custody(home, "decide")
    custody(home, "seal", "--name", DATASET)
    custody(home, "train", "--dataset", DATASET)
    custody(home, "audit", "origins")  # publishes the snapshot, which later only a change renews
    return home


@pytest.fixture
def home(done: Home, tmp_path: Path) -> Home:
    """A copy of the finished home, to be damaged."""
    return Home(Path(shutil.copytree(done.path, tmp_path / "home")))


def run(home: Home | Path, *arguments: str, given: str | bytes | None = None) -> Result:
    """A command in this process, through the console script's own door."""
    place = home.path if isinstance(home, Home) else home
    return CliRunner().invoke(cli, [*arguments, "--home", str(place)], input=given, prog_name="custody")


def refused(result: Result, code: int, *said: str) -> str:
    """The one line on standard error of a command that ended with this code and said this; nothing on output."""
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    messages = [line for line in result.stderr.splitlines() if line.startswith("custody: ")]
    assert len(messages) == 1, result.stderr
    assert result.stdout == ""
    for text in said:
        assert text in messages[0], messages[0]
    return messages[0]


def digests(path: Path) -> dict[str, str]:
    """sha256 of every file under a directory; the lock file has no content that matters."""
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name != "ledger.lock")
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ── custody.toml and policy.toml ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_depth = 3", "max_deep = 3", "unknown key crawl.max_deep. Did you mean crawl.max_depth?"),
        ("max_depth = 3", "", "missing key crawl.max_depth"),
        ("max_depth = 3", "max_depth = true", "crawl.max_depth must be int, is True"),
        ("shard_slots = 1000", "shard_slots = 0", "seal.shard_slots must be from 1 to 1000000, is 0"),
        ("quality = 95", "quality = 101", "images.quality must be from 1 to 100, is 101"),
        ("deadline_s = 30.0", "deadline_s = nan", "crawl.deadline_s must not be negative, is nan"),
        ("[crawl]", "[crawl", "not valid TOML"),
        ('product = "custody"', 'product = "otherbot"', "'otherbot', which is not among the product_tokens"),
        ("allow_addresses = []", 'allow_addresses = ["localhost"]', "localhost"),
    ],
)
def test_custody_toml_is_refused_by_key(
    tmp_path: Path, old: str, new: str, said: str, fresh_home: Callable[..., Home]
) -> None:
    """A setting that cannot be meant stops the first command that needs it, naming file and key."""
    home = fresh_home(tmp_path / "home")
    home.settings_path.write_text(replaced(DEFAULT_TEXT, {old: new}))
    message = refused(run(home, "crawl", "https://example.org/"), 2, said)
    assert "custody.toml" in message or "allow" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("defer_days = 30", "defer_day = 30", "defer_day"),
        ("defer_days = 30", "", "defer_days"),
        ("defer_days = 30", 'defer_days = "a month"', "defer_days"),
        ('purpose = "commercial"', 'purpose = "fun"', "fun"),
        ('"faces", "size"', '"fases", "size"', "fases"),
        ("version = 1", "version = 99", "version"),
        ("[robots]", "[robots", "TOML"),
    ],
)
def test_policy_toml_is_refused_by_key(
    tmp_path: Path, old: str, new: str, said: str, fresh_home: Callable[..., Home]
) -> None:
    """A ruleset that cannot be meant judges nothing: file and key are named, by `decide` and by `policy check`."""
    home = fresh_home(tmp_path / "home")
    home.policy_path.write_text(replaced(Ruleset.default_text(), {old: new}))
    before = digests(home.path)
    for command in (("decide",), ("policy", "check")):
        refused(run(home, *command), 2, "policy.toml", said)
    assert digests(home.path) == before


def test_files_that_are_no_text_are_refused(tmp_path: Path, fresh_home: Callable[..., Home]) -> None:
    """Settings and rules in another encoding, or a directory in their place, are named as unreadable."""
    home = fresh_home(tmp_path / "home")
    home.policy_path.write_bytes(b"\xff\xfe v e r s i o n")
    refused(run(home, "decide"), 2, "policy.toml")
    home.settings_path.write_bytes(b"\xff\xfe")
    refused(run(home, "crawl"), 2, "custody.toml", "cannot be read")


# ── seeds and sites ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "seed", ["no-url", "ftp://example.org/", "https://", "http://user:secret@example.org/", "a" * 400, ""]
)
def test_a_seed_that_is_no_url_is_refused(tmp_path: Path, seed: str, fresh_home: Callable[..., Home]) -> None:
    """Nothing is asked or written down for a seed that is neither a URL nor a file, or one that carries a secret."""
    home = fresh_home(tmp_path / "home", settings_text=settings_for("127.0.0.1:1"))
    assert "secret" not in refused(run(home, "crawl", seed), 2)
    assert not home.crawls_path.exists()


def test_a_bad_line_in_a_seeds_file_is_named(tmp_path: Path, fresh_home: Callable[..., Home]) -> None:
    """A file of seeds is read whole before anything is asked; the line that is no URL is named by number."""
    home = fresh_home(tmp_path / "home")
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("# ours\nhttps://example.org/\n\nexample dot org\n")
    refused(run(home, "crawl", str(seeds)), 2, "seeds.txt:4", "'example dot org'", "https://host/")
    seeds.write_text("# nothing yet\n")
    refused(run(home, "crawl", str(seeds)), 2, "no seed given")
    refused(run(home, "crawl"), 2, "no seed given")


def test_without_a_contact_nobody_is_asked(tmp_path: Path, fresh_home: Callable[..., Home]) -> None:
    """The empty contact of a new home is the first thing a crawl asks for."""
    refused(run(fresh_home(tmp_path / "home"), "crawl", "https://example.org/"), 1, "contact", "custody.toml")


def test_an_empty_site_and_a_silent_one_say_so(
    done: Home, custody: Custody, site: str, tmp_path: Path, fresh_home: Callable[..., Home]
) -> None:
    """No picture found is a failure with its reason: what the pages answered, or that nobody did."""
    home = fresh_home(tmp_path / "home", settings_text=settings_for(site))
    empty = custody.run(home, "crawl", f"http://{site}/empty")
    assert (empty.status, empty.out) == (2, "")
    assert "no image-text pair was found (page ok: 1). The pages were read and hold no pictures" in empty.err
    silent = custody.run(home, "crawl", "http://127.0.0.1:9/")
    assert (silent.status, silent.out) == (2, "")
    assert "refused-by-policy (" in silent.err
    assert "Traceback" not in silent.err


def test_an_address_that_is_allowed_later_is_asked_at_once(
    custody: Custody, site: str, tmp_path: Path, fresh_home: Callable[..., Home]
) -> None:
    """Our own refusal of an address is not remembered as the site's silence."""
    home = fresh_home(tmp_path / "home", settings_text=settings_for("127.0.0.1:1"))
    early = custody.run(home, "crawl", f"http://{site}/")
    assert early.status == 2
    assert "allow_addresses" in early.err
    home.settings_path.write_text(settings_for(site))
    assert custody(home, "crawl", f"http://{site}/")["pairs"] == PICTURES + 1


# ── homes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    [
        ("crawl", "https://example.org/"),
        ("decide",),
        ("caption",),
        ("seal",),
        ("train", "--dataset", "x"),
        ("sample", "x"),
        ("why", "https://example.org/"),
        ("trace", "https://example.org/"),
        ("audit", "origins"),
        ("sql", "SELECT 1"),
        ("verify",),
        ("compact",),
        ("removal", "list"),
        ("removal", "add", "--url", "https://example.org/"),
        ("schedule",),
    ],
)
def test_a_folder_that_is_no_home_is_left_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Every command that needs a home says that there is none and how to make one, and leaves no file behind."""
    refused(run(tmp_path, *command), 2, str(tmp_path), "is not a home", "custody init")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_home(tmp_path: Path) -> None:
    """A file given as home is refused by init and by the rest, and stays as it was."""
    file = tmp_path / "file"
    file.write_text("mine")
    refused(run(file, "init"), 2, "is a file, not a directory")
    refused(run(file / "below", "init"), 2, "cannot be made")
    refused(run(file, "decide"), 2, "is not a home")
    assert file.read_text() == "mine"


def test_init_never_overwrites(tmp_path: Path) -> None:
    """A second init changes nothing; a file that lay there before the first is taken as it is."""
    place = tmp_path / "home"
    place.mkdir()
    policy = Ruleset.default_text().replace("defer_days = 30", "defer_days = 7")
    (place / "policy.toml").write_text(policy)
    assert run(place, "init").exit_code == 0
    assert (place / "policy.toml").read_text() == policy
    before = digests(place)
    refused(run(place, "init"), 2, "is a home already", "Nothing was changed")
    assert digests(place) == before


def test_half_a_home_names_what_is_missing(tmp_path: Path) -> None:
    """A lost ledger or custody.toml is named as lost, not as a home that never was."""
    home = Home.create(tmp_path / "home")
    for path in (home.ledger_path, home.settings_path):
        away = path.rename(tmp_path / "away")
        refused(run(home, "decide"), 2, path.name, "missing", "backup")
        away.rename(path)
    assert run(home, "decide").exit_code == 0


# ── keys, ledger, tombstones ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("purpose", ["token", "encryption", "signing"])
def test_a_key_that_is_not_the_one_refuses(tmp_path: Path, purpose: str) -> None:
    """Missing, unreadable, open to others, damaged or another home's: no command answers without the right keys."""
    home, other = Home.create(tmp_path / "home"), Home.create(tmp_path / "other")
    path = home.keys_path / f"{purpose}.key"
    key = path.read_text()

    def refuses(*said: str) -> None:
        for command in (("why", "https://example.org/"), ("verify",), ("removal", "list")):
            refused(run(home, *command), 2, *said)

    path.write_text((other.keys_path / path.name).read_text())
    refuses(f"the {purpose} key is not the one this ledger knows", "Restore keys/")
    path.write_text("no key at all")
    refuses(path.name, "64 hex digits")
    path.unlink()
    refuses(path.name, "the key is missing", "backup")
    path.mkdir(mode=0o700)
    refuses(path.name, "cannot be read")
    path.rmdir()
    path.write_text(key)
    path.chmod(0o644)
    refuses(path.name, "others may read", "chmod 600")
    path.chmod(0o600)
    assert run(home, "verify").exit_code == 0


def test_a_ledger_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    """A schema that this version does not know is refused with both versions, and nothing is written."""
    home = Home.create(tmp_path / "home")
    with duckdb.connect(str(home.ledger_path)) as connection:
        connection.execute("INSERT INTO schema_migration VALUES (99, 'later', 'x', TIMESTAMP '2030-01-01')")
    before = digests(home.path)
    for command in (("decide",), ("verify",), ("sql", "SELECT 1")):
        refused(run(home, *command), 2, "schema 99", "Update Custody")
    assert digests(home.path) == before


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
def test_a_damaged_ledger_file_is_named(tmp_path: Path, damage: str) -> None:
    """A ledger file that is no ledger any more ends in one message, exit 1 for what is damaged."""
    home = Home.create(tmp_path / "home")
    whole = home.ledger_path.read_bytes()
    home.ledger_path.write_bytes({"garbage": b"x" * 50_000, "cut": whole[:9_000], "empty": b""}[damage])
    result = run(home, "verify")
    refused(result, result.exit_code, "ledger.duckdb")
    assert result.exit_code in (1, 2)


def test_lost_or_damaged_tombstones_let_nothing_in(home: Home, custody: Custody, site: str) -> None:
    """Without the tombstone file that the ledger knows, no stage runs; with it back, all goes on."""
    url = f"http://{site}/3.png"
    removal = custody(home, "removal", "add", "--url", url)["id"]
    custody(home, "removal", "approve", removal, "--by", "a test")
    path = home.tombstones_path / "current.json"
    whole = path.read_bytes()
    commands = [
        ("crawl", f"http://{site}/"),
        ("decide",),
        ("seal", "--name", "another"),
        ("train", "--dataset", DATASET, "--steps", "4"),
        ("why", url),
        ("trace", url),
        ("removal", "add", "--url", f"http://{site}/4.png"),
    ]
    for damaged in (None, whole.replace(b"0", b"1"), b"{}"):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        for command in commands:
            refused(run(home, *command), 1, "current.json")
        verified = run(home, "verify", "--json")
        assert (verified.exit_code, json.loads(verified.stdout)["ok"]) == (1, False)
        path.write_bytes(whole)
    assert run(home, "verify").exit_code == 0
    assert len(json.loads(run(home, "removal", "list", "--json").stdout)) == 1


def test_a_held_ledger_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told at once that and for whom; who waited long enough is told to come back."""
    home = Home.create(tmp_path / "home")
    monkeypatch.setattr(home_module, "QUIET_WAIT_S", 0.01)
    monkeypatch.setattr(home_module, "LEDGER_WAIT_S", 0.05)
    lock = FileLock(home.path / "ledger.lock", exclusive=True, wait_s=0)
    try:
        result = run(home, "decide")
    finally:
        lock.release()
    refused(result, 2, "ledger.lock", f"held by the writing process {os.getpid()}", "Wait until it has finished")
    assert result.stderr.startswith("waiting for the ledger: held by")
    assert run(home, "decide").exit_code == 0


# ── shards ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_shard_is_never_trained_on(home: Home, damage: str) -> None:
    """Training refuses and verify fails, both with exit 1 and the shard's name."""
    (shard,) = (home.datasets_path / DATASET).glob("generation-0000/shard-000000.tar")
    body = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    else:
        if damage == "flipped":
            body[len(body) // 2] ^= 1
        shard.unlink()  # it may be hard-linked: never write into it
        shard.write_bytes(body[: len(body) // 2] if damage == "cut" else body)
    refused(run(home, "train", "--dataset", DATASET, "--steps", "4"), 1, "shard-000000.tar")
    verified = run(home, "verify", "--json")
    assert verified.exit_code == 1
    said = json.loads(verified.stdout)
    assert not said["ok"]
    assert any("shard-000000.tar" in f["what"] + f["where"] for f in said["failures"])
    assert run(home, "verify").stdout.startswith("FAILED  ")


# ── names that nobody knows ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", "--dataset", "nope"), f"no dataset 'nope'. There are: {DATASET}"),
        (("train", "--dataset", "../keys"), "no dataset"),
        (("train", "--dataset", DATASET, "--preset", "huge"), "no preset 'huge'. Known: tiny"),
        (("sample", "x", "--run", "nope"), "no diffusion run 'nope'. There are: diffusion-book-"),
        (("sample", "x", "--step", "5"), "no checkpoint at step 5. There are: "),
        (("seal", "--where", "colour = 'red'"), "colour"),
        (("seal", "--where", "nonsense ("), "custody seal --where"),
        (("seal", "--where", "false"), "nothing to seal"),
        (("seal", "--name", "../../x"), "cannot name a dataset"),
        (("seal", "--name", DATASET, "--where", "caption LIKE '%1'"), "exists and has other samples"),
        (("removal", "show", "nope"), "no such removal request"),
        (("removal", "approve", "nope", "--by", "me"), "no such removal request"),
        (("removal", "apply", "nope"), "no such removal request"),
        (("removal", "add"), "--licensor, --text, --csv. You gave none"),
        (("removal", "add", "--url", "https://a.example/", "--key", "x"), "You gave --url and --key"),
        (("removal", "add", "--url", "nope"), "not an http or https URL"),
        (("removal", "add", "--domain", "a b"), "is no host name"),
        (("removal", "add", "--sha256", "abc"), "is not 64 hex digits"),
        (("audit", "nope"), "no audit 'nope'. There are "),
        (("audit", "exposure"), "It takes: checkpoint=…"),
        (("audit", "exposure", "checkpoint"), "is not key=value"),
        (("audit", "origins", "x=1"), "It takes: none"),
        (("why", "nope"), "is no http(s) URL, key (32 hex digits), sha256 (64 hex digits) or file"),
        (("trace", ""), "is no http(s) URL"),
        (("sql", "DROP TABLE slot"), "one SELECT is expected"),
        (("sql", "COPY slot TO '/tmp/custody-test.csv'"), "one SELECT is expected"),
        (("sql", "SELECT 1; SELECT 2"), "one SELECT is expected"),
        (("sql", ""), "one SELECT is expected"),
        (("sql", "SELECT * FROM read_csv('/etc/passwd')"), "disabled by configuration"),
        (("sql", "SELECT * FROM '/etc/passwd'"), "does not exist"),
        (("sql", "SELECT * FROM read_text('keys/token.key')"), "disabled by configuration"),
        (("sql", "SET enable_external_access = true"), "one SELECT is expected"),
        (("sql", "what is this"), "not SQL"),
        (("inspect", "page", "nope.html", "--base", "https://a.example/"), "nope.html"),
        (("inspect", "fetch", "nope"), "not an http or https URL"),
        (("policy", "check", "nope.toml"), "nope.toml"),
        (("inspect", "judge", "--policy", "nope.toml"), "nope.toml"),
    ],
)
def test_what_nobody_knows_is_refused(done: Home, command: tuple[str, ...], said: str) -> None:
    """Unknown names, wrong parameters and SQL that is more than a question end with exit 2 and change nothing."""
    with done.ledger(readonly=True) as ledger:
        head = ledger.head()
    result = run(done, *command)
    refused(result, 2)
    assert said in result.stderr
    with done.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT DISTINCT table_name FROM batch WHERE seq > ?", [head[0]])
    assert {table for (table,) in rows} <= {"confirmation"}  # sealing judges anew first


def test_a_decision_needs_a_name_and_is_final(home: Home, site: str) -> None:
    """Nobody cannot approve; a rejection carries a reason and cannot be undone by approving."""
    added = json.loads(run(home, "removal", "add", "--url", f"http://{site}/2.png", "--json").stdout)
    refused(run(home, "removal", "approve", added["id"], "--by", " "), 2, "--by")
    refused(run(home, "removal", "apply", added["id"]), 1, "not approved", "custody removal approve")
    refused(run(home, "removal", "reject", added["id"], "--by", "me", "--reason", " "), 2, "--reason")
    assert run(home, "removal", "reject", added["id"], "--by", "me", "--reason", "not theirs").exit_code == 0
    refused(run(home, "removal", "approve", added["id"], "--by", "me"), 1, "rejected")
    missing = run(home, "removal", "approve", added["id"])
    assert missing.exit_code == 2
    assert "--by" in missing.stderr


# ── lines and files that are none ──────────────────────────────────────────────────────────────────────────────────


def test_faces_of_unreadable_files_do_not_stop_the_rest(tmp_path: Path) -> None:
    """One JSON line a picture; an unreadable one carries its error, and the exit code says that there was one."""
    names = ["bad.png", "gone.png", "cut.png", "good.png"]
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(square(1)[:200])
    (tmp_path / "good.png").write_bytes(square(1))
    result = run(tmp_path, "inspect", "faces", *(str(tmp_path / n) for n in names), "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["path"]).name for line in lines] == names
    assert ["error" in line for line in lines] == [True, True, True, False]
    assert (lines[3]["width"], lines[3]["height"]) == (96, 96)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_lines_that_are_no_cases_do_not_stop_the_judge(tmp_path: Path) -> None:
    """A line for a line: {"error"} for what is no case, however strange, and a verdict for the one that is."""
    case = '{"url": "https://a.example/x.png", "robots": {"status": 404}}'
    strange = [
        "no JSON",
        "[1]",
        "{}",
        '{"url": "nope"}',
        '{"url": 3}',
        '{"url": "https://a.example/", "robots": 7}',
        "[" * 100_000,
        '{"url": "\\ud800"}',
    ]
    given = "\n".join([*strange, case]).encode() + b'\n{"url": "\xff"}\n'
    result = run(tmp_path, "inspect", "judge", given=given)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.exception
    assert len(lines) == len(strange) + 2
    assert all("error" in line for i, line in enumerate(lines) if i != len(strange)), lines
    assert lines[len(strange)]["verdict"] == "allow"


# ── text from the web ──────────────────────────────────────────────────────────────────────────────────────────────


def test_text_from_the_web_cannot_steer_the_terminal(done: Home, site: str) -> None:
    """Escape sequences and direction marks in an alt text are shown as what they are, wherever it appears."""
    url = f"http://{site}/0.png"
    shown = [
        run(done, "why", url),
        run(done, "sql", "SELECT alt FROM occurrence WHERE alt LIKE '%square that%'"),
        run(done, "audit", "samples_of_dataset", f"dataset={DATASET}"),
        run(done, "trace", url),
        run(done, "why", f"https://a.example/{EVIL}"),
        run(done, "train", "--dataset", EVIL),
        run(done, "sql", f'"{EVIL}"'),
    ]
    for result in shown:
        for trick in ("\x1b", "\u202e", "\u202c", "\x9b", "\x07"):
            assert trick not in result.stdout + result.stderr
    assert "\\u001b[31mred" in shown[0].stdout
    assert "\\u202etxet" in shown[1].stdout


# ── a full disk ────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Callable[[int | None], None]]:
    """A file system of its own; yields a function that fills it but for so many KB (None: frees it again)."""
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a full disk is made by mounting a tmpfs, which needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "custody-test", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a full disk is made by mounting a tmpfs: {mounted.stderr.decode().strip()}")

    def fill(leave_kb: int | None) -> None:
        filler = place / "filler"
        filler.unlink(missing_ok=True)
        if leave_kb is not None:
            free = os.statvfs(place)
            filler.write_bytes(b"\0" * max(free.f_bavail * free.f_frsize - leave_kb * 1024, 0))

    try:
        yield fill
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_crawl_on_a_full_disk_loses_nothing(tmp_path: Path, custody: Custody, site: str) -> None:
    """However little room is left, the crawl ends with one message; with room again the same command finishes it."""
    with small_disk(tmp_path / "disk", 24) as fill:
        home = Home.create(tmp_path / "disk" / "home", settings_text=settings_for(site), policy_text=UNSEEN)
        for leave_kb in (0, 20, 60):
            fill(leave_kb)
            full = custody.run(home, "crawl", f"http://{site}/")
            assert full.status == 2, full.err
            assert "Traceback" not in full.err
            assert full.err.splitlines()[-1].startswith("custody: ")
            assert "room" in full.err
            fill(None)
            assert custody.run(home, "verify").status == 0
        assert custody(home, "crawl", f"http://{site}/")["pairs"] == PICTURES + 1
        custody(home, "decide")
        allowed = "SELECT count(*) n FROM standing WHERE verdict = 'allow'"
        assert custody(home, "sql", allowed) == [{"n": PICTURES + 1}]


def test_training_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, custody: Custody, done: Home) -> None:
    """No room for a checkpoint: exit 2, no half checkpoint; the same command then ends with the undisturbed weights."""
    command = ("train", "--dataset", DATASET, "--seed", "5")
    undisturbed = Home(Path(shutil.copytree(done.path, tmp_path / "undisturbed")))
    expected = custody(undisturbed, *command)
    with small_disk(tmp_path / "disk", 40) as fill:
        home = Home(Path(shutil.copytree(done.path, tmp_path / "disk" / "home")))
        for leave_kb in (8, 200):
            fill(leave_kb)
            full = custody.run(home, *command)
            assert full.status == 2, full.err
            assert "Traceback" not in full.err
            assert full.err.splitlines()[-1].startswith("custody: ")
            fill(None)
        said = custody(home, *command)
        assert [c["id"] for c in said["checkpoints"]] == [c["id"] for c in expected["checkpoints"]]
        for checkpoint in said["checkpoints"]:
            ours, theirs = (digests(h.path / checkpoint["path"]) for h in (home, undisturbed))
            weights = {name for name in ours if name.endswith(".safetensors")}
            assert weights
            assert {n: ours[n] for n in weights} == {n: theirs[n] for n in weights}
        assert custody(home, "verify") == {"ok": True, "failures": []}
