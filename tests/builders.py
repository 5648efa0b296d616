"""What journeys and kill proofs stand on: a home for the museum, commands in processes of their own, what to compare.

`ledger_content`, `shard_content` and `final_weights` say what must be equal between a home that was never disturbed
and one whose processes were killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from curation.shard_reader import DatasetReader
from flows import settings
from flows.home import Home
from flows.museum import Museum
from flows.stages.look import LOOKED as LOOKED  # what a test leaves out that needs no model
from policy.durable import write_durably
from policy.ruleset import Ruleset
from tests.warm_process import WarmProcess, kill

ROOT = Path(__file__).resolve().parent.parent
PHRASES = "phrases.txt"
HELD_OUT = 12
SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


# ── a home ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_home(path: Path, museum: Museum) -> Home:
    """A new home that may crawl the museum and nothing else, with small units, a small CLIP and little patience."""
    path.mkdir(parents=True)
    write_durably(path / PHRASES, "".join(f"{name}\n" for name in sorted(set(museum.truth.values()))).encode())
    return Home.create(path, settings_text=settings_for(museum), policy_text=policy_for_museum())


def settings_for(museum: Museum) -> str:
    """custody.toml for a home of the tests."""
    return replaced(
        settings.DEFAULT_TEXT,
        {
            "seeds = []": f"seeds = {json.dumps(list(museum.seeds))}",
            "allow_addresses = []": f"allow_addresses = {json.dumps(list(museum.addresses))}",
            "pages_per_unit = 1000": "pages_per_unit = 15",
            "images_per_unit = 2000": "images_per_unit = 90",
            # The museum hangs and drips for as long as it is waited for; its 60 MB come at once.
            "deadline_s = 30.0": "deadline_s = 4.0",
            "max_image_bytes = 20000000": "max_image_bytes = 2000000",
            "size = 256 ": "size = 32 ",
            "decode_workers = 2": "decode_workers = 1",
            "phrase_lists = []": f"phrase_lists = {json.dumps([PHRASES])}",
            # A CLIP that saw a hundred pairs is sure of nothing: what it captions is not what is tested.
            "threshold = 0.0 ": "threshold = 0.2 ",
            "held_out = 250": f"held_out = {HELD_OUT}",
            "steps = 400": "steps = 40",
            "shard_slots = 1000": "shard_slots = 12",
            'preset = "demo"': 'preset = "tiny"',
            "threads = 2": "threads = 1",
        },
    )


def policy_for_museum() -> str:
    """The strict ruleset; any site may lend a caption."""
    return replaced(Ruleset.default_text(), {"bank_min_origins = 3": "bank_min_origins = 1"})


def policy_without(*mechanisms: str) -> str:
    """The strict ruleset, less these: for what costs a model to be loaded, and is tested elsewhere."""
    return replaced(Ruleset.default_text(), {f'"{name}", ': "" for name in mechanisms})


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The text with each of these lines changed; every one of them must be there."""
    for old, new in changes.items():
        assert old in text, f"no {old!r} to change"
        text = text.replace(old, new, 1)
    return text


# ── commands ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Moment:
    """When a command dies by its own kill -9: right after the `count`th rename to a path that matches, or before it."""

    path: str
    count: int = 1
    before: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended. `status`: its exit code, or -9."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Custody:
    """`custody` on one home after the other, each command a child of one warm process (tests/warm.py)."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CUSTODY_"))}
        self._warm = WarmProcess("tests.warm", scratch / "warm.log", cwd=ROOT, env=environment | SINGLE_THREAD)
        self._ready = False

    def __call__(self, home: Home, *arguments: str) -> Any:
        """Run a command that must succeed; what it printed as JSON."""
        done = self.run(home, *arguments)
        assert done.status == 0, f"custody {' '.join(arguments)}: exit {done.status}\n{done.err}"
        return done.json

    def run(self, home: Home, *arguments: str, die: Moment | None = None, kill_after_s: float | None = None) -> Done:
        """Run a command to its end, or until it is killed: at a moment, or from outside after so many seconds."""
        out, err = self._scratch / "out", self._scratch / "err"
        order = {
            "argv": [*arguments, "--home", str(home.path), "--json"],
            "out": str(out),
            "err": str(err),
            "moment": [die.path, die.count, die.before] if die else None,
        }
        if not self._ready:
            assert self._warm.line() == "ready"
            self._ready = True
        self._warm.order(order)
        pid = int(self._warm.line())
        if kill_after_s is not None and not self._warm.answers_within(kill_after_s):
            kill(pid)
        status = int(self._warm.line())
        return Done(status, out.read_text("utf-8"), err.read_text("utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._warm.close()


# ── the journey ────────────────────────────────────────────────────────────────────────────────────────────────────

DATASET = "book"
SAMPLE = ("sample", "red apple", "banana", "--per-prompt", "1")


@dataclass(frozen=True, slots=True)
class Journey:
    """A home at its journey's end, what each command said as JSON, and what the museum was asked for on the way."""

    home: Home
    said: Mapping[str, Any]
    requests: Counter[str]

    @property
    def run(self) -> str:
        """The diffusion run."""
        return str(self.said["train"]["run"])


def stages(museum: Museum) -> dict[str, tuple[str, ...]]:
    """The job, command by command. What is sealed: the garden's pictures with their names, and all that CLIP named."""
    garden = f"page_url LIKE '{museum.url('garden')}%' OR caption_origin = 'clip-retrieval'"
    return {
        "crawl": ("crawl",),
        "decide": ("decide",),
        "look": ("look",),
        "caption": ("caption",),
        "seal": ("seal", "--name", DATASET, "--where", garden),
        "train": ("train", "--dataset", DATASET),
    }


def travel(custody: Custody, home: Home, museum: Museum) -> dict[str, Any]:
    """The whole job, undisturbed."""
    return {name: custody(home, *command) for name, command in stages(museum).items()}


# ── a removal ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Removed:
    """A home after a removal; what each command said, and what the museum was asked for while it ran.

    urls: where the picture hung; url: the one that was named. key, sha256, jpeg: what it was known by and looked like.
    """

    home: Home
    said: Mapping[str, Any]
    requests: Mapping[str, Counter[str]]
    url: str
    urls: tuple[str, ...]
    key: str
    sha256: str
    jpeg: bytes
    ordinal: int


# A sealed picture that hangs in two places.
_TWICE = """
SELECT list(DISTINCT o.image_url ORDER BY o.image_url), s.sample_key, s.content_sha256, s.ordinal
FROM slot s JOIN evidence e USING (content_sha256) JOIN occurrence o ON o.pair_key = e.pair_key
WHERE s.dataset = ? AND s.caption_origin = 'alt'
GROUP BY ALL HAVING count(DISTINCT o.image_url) = 2 ORDER BY s.ordinal LIMIT 1
"""


def remove(custody: Custody, home: Home, museum: Museum) -> Removed:
    """One picture is named by one of its URLs: from the request to a crawl that passes by where it hung."""
    [(urls, key, sha256, ordinal)] = ask(home, _TWICE, DATASET)
    with DatasetReader.open(home.datasets_path / DATASET) as reader:
        jpeg = reader.image_bytes(ordinal)
    assert jpeg is not None
    selection = stages(museum)["seal"][-1]
    said: dict[str, Any] = {}
    requests: dict[str, Counter[str]] = {}

    def do(step: str, *command: str) -> None:
        before = museum.requests
        said[step] = custody(home, *command)
        requests[step] = museum.requests - before

    do("add", "removal", "add", "--url", urls[0])
    removal = said["add"]["id"]
    do("approve", "removal", "approve", removal, "--by", "a test", "--reason", "it was asked for")
    do("seal when approved", "seal", "--name", "approved", "--where", selection)
    do("crawl when approved", "crawl", museum.url("garden"))
    do("apply", "removal", "apply", removal)
    do("show", "removal", "show", removal)
    do("crawl when applied", "crawl", museum.url("garden"))
    do("decide when applied", "decide")
    do("audit when applied", "audit", "denied_or_deferred_in_shard")
    do("seal when applied", "seal", "--name", "applied", "--where", selection)
    do("trace", "trace", urls[0])
    do("verify", "verify")
    return Removed(home, said, requests, urls[0], tuple(urls), key, sha256, jpeg, ordinal)


def ask(home: Home, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Rows of the ledger."""
    with home.ledger(readonly=True) as ledger:
        return ledger.query(sql, list(params))


# ── what must be equal ─────────────────────────────────────────────────────────────────────────────────────────────

# What no two homes share: who wrote which batch when, the salts, and all that follows from a salt.
_BOOKKEEPING = frozenset({"batch_seq", "row_no", "salt", "commitment"})
_FROM_SALTS_OR_TIMES: Mapping[str, frozenset[str]] = {
    "evidence": frozenset({"evidence_id"}),
    "decision": frozenset({"evidence_id", "decide_id"}),
    "signal": frozenset({"evidence_id", "decide_id"}),
    "confirmation": frozenset({"decide_id"}),
    "dataset": frozenset({"root"}),
    "generation": frozenset({"root"}),
    "segment": frozenset({"dataset_root"}),
    "run": frozenset({"dataset_root"}),
    "checkpoint": frozenset({"dataset_root"}),
}
# What evidence shares is compared in the place of its ids: which pages answered with the same Date is chance.
_NOT_COMPARED = frozenset({"schema_migration", "batch", "key_check", "evidence_part"})
# Keys of the JSON within columns that carry a time, or a digest over one or over a salt.
_VOLATILE_KEYS = frozenset(
    {"observed_at", "fetched_at", "since", "started_at", "saved_at", "elapsed_s", "dataset_root", "now"}
)


def ledger_content(home: Home) -> dict[str, list[tuple[str, ...]]]:
    """Every table of the ledger as sorted rows of text, less what must differ between two homes.

    Left out: columns of time, salts and commitments, the batches and their chain, roots, evidence and decide ids
    (digests over times), the keys' check values; of the JSON in columns the times, Date headers and the digests of
    files that hold them. A confirmation of a run that changed nothing says that a command was given once more; it is
    left out as well, and so is the duration of anything.
    """
    content = {}
    with home.ledger(readonly=True) as ledger:
        for table in ledger.tables:
            if table in _NOT_COMPARED:
                continue
            left_out = _BOOKKEEPING | _FROM_SALTS_OR_TIMES.get(table, frozenset()) | {"elapsed_ms"}
            names = [
                column.name
                for column in ledger.shape(table).columns
                if column.name not in left_out and column.type != "TIMESTAMP"
            ]
            where = "WHERE changed > 0" if table == "confirmation" else ""
            rows = ledger.query(f'SELECT {", ".join(names)} FROM "{table}" {where}')  # noqa: S608  # schema names
            if table == "evidence":
                parts = dict(ledger.query("SELECT part_id, body_json FROM evidence_part"))
                at = names.index("body_json")
                rows = [(*row[:at], _with_parts(row[at], parts), *row[at + 1 :]) for row in rows]
            content[table] = sorted(
                tuple(_plain(name, value) for name, value in zip(names, row, strict=True)) for row in rows
            )
    return content


def _with_parts(text: str | None, parts: Mapping[str, str]) -> str | None:
    if text is None:
        return None
    body = json.loads(text)
    shared = {name: [json.loads(parts[i]) for i in body[name]] for name in ("origins", "declared")}
    page = json.loads(parts[body["page"]]) if "page" in body else None
    return json.dumps(body | shared | {"page": page})


def _plain(name: str, value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if name.endswith("_json") and isinstance(value, str):
        parsed = json.loads(value)
        if name == "files_json":
            parsed = {file: digest for file, digest in parsed.items() if file.endswith(".safetensors")}
        return json.dumps(_timeless(parsed), sort_keys=True)
    return repr(value)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _VOLATILE_KEYS}
    if isinstance(value, list):
        return [_timeless(v) for v in value if not _is_date_header(v)]
    return value


def _is_date_header(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]).lower() == "date"


def shard_content(home: Home, dataset: str) -> list[tuple[str, str, str, str]]:
    """What the newest generation's shards hold, in order: (member's key, extension, sha256 of its bytes, shard)."""
    return [
        (*name.split(".", 1), hashlib.sha256(body).hexdigest(), shard.name)  # type: ignore[misc]  # three and a tail
        for shard in shards_of(home, dataset)
        for name, body in members(shard)
    ]


def shards_of(home: Home, dataset: str) -> list[Path]:
    """The tar files of a dataset's newest generation."""
    newest = max((home.datasets_path / dataset).glob("generation-*"))
    return sorted(newest.glob("*.tar"))


def members(shard: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file in a tar, in its order."""
    with tarfile.open(shard) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            yield member.name, file.read()


def final_weights(home: Home, run: str) -> dict[str, str]:
    """sha256 of every tensor file of a run's last checkpoint: weights, average, optimizers."""
    last = max((home.runs_path / run).glob("step-*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(last.glob("*.safetensors"))}


def differences(
    expected: Mapping[str, Sequence[tuple[str, ...]]], found: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[str]:
    """Tables whose rows differ, with the first row that is too few and too many, for a message."""
    told = []
    for table in sorted(expected.keys() | found.keys()):
        a, b = list(expected.get(table, ())), list(found.get(table, ()))
        if a != b:
            missing = next((row for row in a if row not in b), None)
            surplus = next((row for row in b if row not in a), None)
            where = _unlike(missing, surplus)
            told.append(f"{table}: {len(a)} rows, then {len(b)}; {where}; missing {missing}; surplus {surplus}")
    return told


def _unlike(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> str:
    """Where two rows differ: the columns, and of JSON the keys; first, since a long message is cut short."""
    if one is None or other is None:
        return "no row to compare"
    said = []
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b and a.startswith(("{", "'{")) and b.startswith(("{", "'{")):
            x, y = (json.loads(text.strip("'")) for text in (a, b))
            said += [
                f"{key}: {x.get(key)!r} <> {y.get(key)!r}" for key in x.keys() | y.keys() if x.get(key) != y.get(key)
            ]
        elif a != b:
            said.append(f"column {number}: {a} <> {b}")
    return "; ".join(said)


def leftovers(home: Home) -> list[str]:
    """Files and directories that somebody was writing when they were killed."""
    named = ("*.tmp", "*.making*", "*.writing", ".writing-*", ".retired-*", ".tmp-*")
    return sorted({str(p.relative_to(home.path)) for pattern in named for p in home.path.rglob(pattern)})
