"""The pages of docs/ that speak of code hold what the code holds: codes, keys, formulas, layouts, examples."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from PIL import Image, PngImagePlugin

import policy
from curation.addresses import _FORBIDDEN_V4, _FORBIDDEN_V6
from curation.fetch import OUTCOMES
from curation.images import DECODE_ERROR_CODES
from curation.page_pool import FAILED, TOO_COSTLY
from flows.settings import DEFAULT_TEXT
from flows.stages.bulk import BULK_OUTCOMES
from flows.stages.crawling.rows import IMPORT_FAILED, IMPORTED
from flows.stages.judge import READERS
from policy.audit import list_audits
from policy.judge import judge_line
from policy.judgements import SENTENCES
from policy.keys import KeyRing
from policy.ledger import Ledger
from policy.personal import PERSONAL_COLUMNS
from policy.provenance import CheckpointRecord, NumericContract
from policy.ruleset import KNOWN, Ruleset
from policy.snapshot import publish
from policy.tombstones import TOKEN_KINDS, Tombstones

DOCS = Path(policy.__file__).parent.parent / "docs"
POLICY, LEDGER, TRAINING, CRAWL = (
    (DOCS / f"{name}.md").read_text("utf-8") for name in ("policy", "ledger", "training", "crawl")
)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is said of any document of an origin; RSL, which is declared, has its own words for two of them.
SEPARATE_DOCUMENTS = re.compile(
    r"(?:robots|tdmrep|ai-txt|trust-txt)-(?:absent|forbidden|unreachable(?:-long)?|unreadable|too-large)"
    r"|rsl-(?:forbidden|unreachable(?:-long)?|too-large)"
)
SHARED = Path(__file__).parents[3] / "shared" / "fixtures" / "images"
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def words(text: str) -> set[str]:
    """Everything a page sets as code."""
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(text: str) -> list[list[str]]:
    """The cells of every table row of a page."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


# ── policy.md ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_reason_code_stands_in_the_page_with_its_sentence() -> None:
    """A code that somebody counts can be looked up; the five documents of an origin share their sentences."""
    said = {cells[0].strip("`"): cells[1] for cells in rows(POLICY)}
    own = {code: sentence for code, sentence in SENTENCES.items() if not SEPARATE_DOCUMENTS.fullmatch(code)}
    assert {code: said.get(code) for code in own} == own
    assert SENTENCES.keys() <= words(POLICY)


def test_every_key_of_the_default_ruleset_stands_in_the_page() -> None:
    """No setting is without its explanation."""
    assert set(_keys(tomllib.loads(Ruleset.default_text()))) <= words(POLICY)


def _keys(table: dict[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict) and value and name != "table":
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_defaults_in_the_page_are_those_of_the_default_ruleset() -> None:
    """Whatever the key table prints as a plain value is the value that `custody init` writes."""
    said = {cells[0].strip("`"): cells[1] for cells in rows(POLICY) if len(cells) == 3}
    defaults = dict(_defaults(tomllib.loads(Ruleset.default_text())))
    printed = {key: value for key, value in said.items() if key in defaults and not isinstance(defaults[key], list)}
    assert len(printed) > 30
    assert printed == {key: _as_printed(defaults[key]) for key in printed}


def _defaults(table: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict) and value and name != "table":
            yield from _defaults(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _as_printed(value: object) -> str:
    if isinstance(value, dict):
        return f"{len(value)} rows" if value else "empty"
    return json.dumps(value) if isinstance(value, bool) or value == "" else str(value)


def test_every_mechanism_stands_in_the_page() -> None:
    """Those that are built and those that are only known, each in words and in an example."""
    assert words(POLICY) >= KNOWN
    assert {decision["mechanism"] for answer in EXAMPLES[1::2] for decision in answer.get("decisions", ())} == KNOWN


EXAMPLES = [json.loads(body) for kind, body in FENCED.findall(POLICY) if kind == "json"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files that the examples name: made here, but for the C2PA project's signed sample."""
    folder = tmp_path_factory.mktemp("pictures")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", RESERVED)
    Image.new("RGB", (640, 480)).save(folder / "reserved.png", pnginfo=info)
    body = (folder / "reserved.png").read_bytes()
    (folder / "cut.png").write_bytes(body[: body.index(b"PROHIBITED") + 20])
    for sample in SHARED.glob("C_with_CAWG_data.jpg"):
        shutil.copy(sample, folder)
    return folder


RESERVED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<r:Description r:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"><plus:DataMining>'
    "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"
    "</plus:DataMining></r:Description></r:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize(("line", "answer"), list(zip(EXAMPLES[::2], EXAMPLES[1::2], strict=True)))
def test_the_worked_examples_answer_as_the_page_says(
    line: dict[str, Any], answer: object, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed beside an input is what `custody inspect judge` answers."""
    monkeypatch.chdir(pictures)
    file = line.get("image", {}).get("path")
    if file == "C_with_CAWG_data.jpg" and not Path(file).exists():
        pytest.skip("the shared fixtures are not beside this checkout")
    assert judge_line(json.dumps(line), Ruleset.default(), READERS, now=NOW) == answer


# ── ledger.md ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def snapshot(ledger: Ledger, tmp_path: Path) -> Path:
    """A published ledger: decisions in two batches, one row of them erased for an approved removal."""
    decision = {"rule": "size", "rule_version": 1, "verdict": "allow", "reason_code": "size-ok", "decided_at": NOW}
    first = [{**decision, "pair_key": f"{i:032x}", "evidence_id": "e", "reason_detail": "64 x 64"} for i in range(3)]
    ledger.append("decision", first, key="1")
    second = {**decision, "pair_key": "ü;=", "where_found": "", "verdict": "unset", "reason_detail": None}
    ledger.append("decision", [second], key="2")
    ledger.append("decision", [], key="3")
    ledger.append("removal_event", [{"removal": "r", "state": "approved", "happened_at": NOW}], key="4")
    assert ledger.erase("r", {"decision": "pair_key = $pair"}, {"pair": f"{0:032x}"}) == {"decision": 1}
    publish(ledger, tmp_path / "audit.duckdb", now=NOW)
    return tmp_path / "audit.duckdb"


def outsider(path: Path) -> list[list[tuple[object, ...]]]:
    """The answers of the page's queries, asked by plain DuckDB, read-only."""
    [script] = [body for kind, body in FENCED.findall(LEDGER) if kind == "sql"]
    with duckdb.connect(str(path), read_only=True) as connection:
        return [connection.execute(sql).fetchall() for sql in script.split(";\n\n")][1:]


def test_an_outsider_can_recompute_chain_digests_and_commitments(snapshot: Path) -> None:
    """The page's SQL finds nothing wrong in a ledger that nobody touched, an erasure included."""
    assert outsider(snapshot) == [[], [], []]


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE batch SET idempotency_key = 'x' WHERE seq = 2", [[(2, "decision")], [], []]),
        ("UPDATE decision SET verdict = 'deny' WHERE batch_seq = 3", [[], [(3,)], []]),
        ("UPDATE decision SET pair_key = NULL WHERE batch_seq = 3", [[], [], [(3, 0)]]),
        ("DELETE FROM decision WHERE batch_seq = 2 AND row_no = 0", [[], [(2,)], []]),
    ],
)
def test_an_outsider_finds_what_was_changed(
    snapshot: Path, tampering: str, found: list[list[tuple[object, ...]]]
) -> None:
    """The page's SQL names the batch, or the row."""
    changed = Path(shutil.copy(snapshot, snapshot.with_name("changed.duckdb")))
    with duckdb.connect(str(changed)) as connection:
        connection.execute(tampering)
    assert outsider(changed) == found


def test_every_table_stands_in_the_page_with_its_personal_columns(ledger: Ledger) -> None:
    """What an erasure empties is listed as the code lists it."""
    listed = {
        cells[0].strip("`"): () if cells[2] == "-" else tuple(cells[2].replace("`", "").split(", "))
        for cells in rows(LEDGER)
        if len(cells) == 3
    }
    expected = {table: PERSONAL_COLUMNS.get(table, ()) for table in ledger.tables}
    assert {table: listed.get(table) for table in expected} == expected


def test_every_view_and_audit_stands_in_the_page(ledger: Ledger) -> None:
    """Each audit with its question."""
    questions = {cells[0].strip("`"): cells[1] for cells in rows(LEDGER) if len(cells) == 2}
    views = {name for (name,) in ledger.query("SELECT view_name FROM duckdb_views() WHERE NOT internal")}
    assert views <= questions.keys()
    audits = {audit.name: audit.question for audit in list_audits()}
    assert {name: questions.get(name) for name in audits} == audits


def test_the_tombstone_file_is_as_the_page_says(keys: KeyRing, tmp_path: Path) -> None:
    """Its keys, the kinds of tokens, its digest."""
    Tombstones().with_added("r", keys=keys, urls=["https://a.example/"], slots={"d": [1]}).store(tmp_path)
    document = json.loads((tmp_path / "current.json").read_bytes())
    assert {*document, *document["tombstones"], *TOKEN_KINDS} <= words(LEDGER)
    assert document["tombstones"].keys() <= {cells[0].strip("`") for cells in rows(LEDGER)}


# ── training.md ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_step_logs_layout_is_as_the_page_says() -> None:
    """Offset, name and size of every field of a row."""
    from training.step_log import ROW

    sizes = {"u8": 8, "u4": 4, "f8": 8, "32 bytes": 32}
    layout = [(int(c[0]), c[1].strip("`"), sizes[c[2]]) for c in rows(TRAINING) if c[0].isdigit()]
    assert ROW.fields is not None
    assert layout == [(place[1], name, place[0].itemsize) for name, place in ROW.fields.items()]
    assert sum(size for _, _, size in layout) == ROW.itemsize == 80


def test_every_field_of_a_checkpoint_record_and_a_contract_stands_in_the_page() -> None:
    """What is recorded is explained."""
    explained = {word.strip("` ") for cells in rows(TRAINING) for word in cells[0].split(",")}
    assert {field.name for record in (CheckpointRecord, NumericContract) for field in fields(record)} <= explained


# ── crawl.md ───────────────────────────────────────────────────────────────────────────────────────────────────────


READ_CODES = (TOO_COSTLY, FAILED)


def test_every_outcome_stands_in_the_page() -> None:
    """Those of the fetcher and those of the decoder, and no others."""
    start = CRAWL.index("## Outcomes")
    listed = words("\n".join(cells[0] for cells in rows(CRAWL[start : CRAWL.index("## Units")])))
    ours = {"ok", "http-<status>", IMPORTED, IMPORT_FAILED} | {f"read-{code}" for code in READ_CODES} | BULK_OUTCOMES
    assert listed == OUTCOMES | ours | {f"decode-{code}" for code in DECODE_ERROR_CODES}


def test_the_address_table_is_the_one_that_refuses() -> None:
    """Every range of the code, with its reason, and no other."""
    pairs = {cells[i]: cells[i + 1] for cells in rows(CRAWL) if len(cells) == 4 for i in (0, 2)}
    assert {text: why for text, why in pairs.items() if "/" in text} == {**_FORBIDDEN_V4, **_FORBIDDEN_V6}


def test_the_limits_defaults_are_those_of_a_new_home() -> None:
    """Every setting of the table has the default that `custody init` writes."""
    settings = tomllib.loads(DEFAULT_TEXT)
    limits = [cells for cells in rows(CRAWL) if len(cells) == 3 and re.match(r"`(crawl|images)\.", cells[0])]
    assert len(limits) == 12
    for names, defaults, _ in limits:
        values = [tomllib.loads(f"value = {value.replace(',', '')}")["value"] for value in defaults.split(", ")]
        for name, value in zip(re.findall(r"`(\w+)\.(\w+)`", names), values, strict=True):
            assert settings[name[0]][name[1]] == value
