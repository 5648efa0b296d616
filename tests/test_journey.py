"""The whole job on the museum: what reaches a shard, what was never asked for, and what a kill -9 changes (nothing)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from curation.shard_reader import DatasetReader
from flows.home import Home
from flows.museum import Museum
from policy.provenance import TrainingRun
from tests.builders import (
    DATASET,
    HELD_OUT,
    SAMPLE,
    Custody,
    Journey,
    Moment,
    ask,
    differences,
    final_weights,
    ledger_content,
    leftovers,
    make_home,
    shard_content,
    shards_of,
    stages,
)
from training.order import Order
from training.step_log import effective_rows, fed_digest, read_steps, steps_of

pytestmark = pytest.mark.timeout(900)  # the first test to ask for the journey waits for it

_READ_WITH_WEBDATASET = """
import hashlib, json, sys
import webdataset
samples = [
    (s["__key__"], hashlib.sha256(s["jpg"]).hexdigest(), s["txt"].decode(), json.loads(s["json"])["ordinal"])
    for shard in sys.argv[1:] for s in webdataset.WebDataset(shard, shardshuffle=False)
]
print(json.dumps(samples))
"""


# ── what reaches a shard ───────────────────────────────────────────────────────────────────────────────────────────


def test_stock_webdataset_reads_exactly_the_samples_of_the_manifest(journey: Journey) -> None:
    """webdataset itself, told nothing of us, finds in the sealed shards the manifest's samples, all and in order."""
    read = subprocess.run(
        [sys.executable, "-c", _READ_WITH_WEBDATASET, *map(str, shards_of(journey.home, DATASET))],
        capture_output=True,
        text=True,
        check=True,
    )
    with DatasetReader.open(journey.home.datasets_path / DATASET) as reader:
        expected = [
            [reader.key(o), hashlib.sha256(reader.image_bytes(o) or b"").hexdigest(), reader.caption(o), o]
            for o in range(reader.slots)
        ]
    assert json.loads(read.stdout) == expected
    assert len(expected) == journey.said["seal"]["slots"]
    assert len(journey.said["seal"]["shards"]) > 1


def test_nothing_denied_or_deferred_is_in_a_shard(journey: Journey, custody: Custody) -> None:
    """SQL finds no sample in a shard that stands deny or defer, though the museum is full of such."""
    assert custody(journey.home, "audit", "denied_or_deferred_in_shard") == []
    said_no = set(ask(journey.home, "SELECT DISTINCT verdict, rule FROM decision WHERE verdict IN ('deny', 'defer')"))
    assert said_no >= {
        ("deny", "robots"),
        ("deny", "x_robots"),
        ("deny", "licence"),
        ("deny", "faces"),
        ("deny", "tdmrep"),
        ("deny", "content_usage"),
        ("defer", "text"),
    }


def test_no_decision_stands_without_evidence_and_ruleset(journey: Journey, custody: Custody) -> None:
    """Every decision names stored evidence and a ruleset whose text is on record."""
    assert custody(journey.home, "audit", "decisions_without_evidence") == []
    ((decisions,),) = ask(journey.home, "SELECT count(*) FROM decision")
    assert decisions > 500


def test_the_audits_find_what_should_not_be(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """A denial appended after sealing, and one on evidence that nobody has, each come to light."""
    home = copy_of(journey.home)
    ((pair, evidence, digest),) = ask(
        home,
        "SELECT s.pair_key, d.evidence_id, d.ruleset_digest FROM slot s JOIN decision d USING (pair_key) "
        "WHERE s.dataset = ? AND s.ordinal = 3 AND d.rule = 'licence' LIMIT 1",
        DATASET,
    )
    denial = {"pair_key": pair, "evidence_id": evidence, "rule": "licence", "rule_version": 1, "verdict": "deny"}
    with home.ledger() as ledger:
        ledger.append("decision", [denial | {"reason_code": "x", "ruleset_digest": digest}], key="a late denial")
    found = custody(home, "audit", "denied_or_deferred_in_shard")
    assert {(row["verdict"], row["rule"]) for row in found} == {("deny", "licence")}
    slots = set(ask(home, "SELECT dataset, ordinal FROM slot WHERE pair_key = ?", pair))  # of the CLIP's dataset too
    assert {(row["dataset"], row["ordinal"]) for row in found} == slots
    assert (DATASET, 3) in slots
    assert custody(home, "audit", "decisions_without_evidence") == []

    with home.ledger() as ledger:
        ledger.append("decision", [denial | {"evidence_id": "0" * 32, "ruleset_digest": "1" * 32}], key="out of air")
    (found,) = custody(home, "audit", "decisions_without_evidence")
    assert (found["evidence_missing"], found["ruleset_missing"]) == (True, True)


def test_captions_below_the_threshold_reach_no_shard(journey: Journey) -> None:
    """A caption is in a shard only if its score reached the threshold; its source, model and run are on record."""
    rows = ask(
        journey.home,
        "SELECT c.score, c.threshold, c.state, c.source, c.model_digest, c.model_run FROM slot s "
        "JOIN caption c USING (sample_key) WHERE s.dataset = ? AND c.caption_origin = 'clip-retrieval'",
        DATASET,
    )
    assert len(rows) > 5
    for score, threshold, state, source, digest, run in rows:
        assert state == "kept"
        assert score >= threshold
        assert source.startswith(("list:", "pair:"))
        assert len(digest) == 64
        assert (journey.home.runs_path / run / "run.json").is_file()


# ── what was never asked for ───────────────────────────────────────────────────────────────────────────────────────


def test_what_robots_txt_disallows_is_never_contacted(journey: Journey, museum: Museum) -> None:
    """No request reached the private room, though a page links to it and shows its pictures."""
    private = museum.url("reserved", "/private/")
    asked = [url for url in journey.requests if url.startswith(private)]
    shown = [url for url in museum.truth if url.startswith(private)]
    assert shown
    assert asked == []
    assert journey.requests[museum.url("reserved", "/robots.txt")] == 1


def test_a_redirect_to_a_private_address_is_not_followed(journey: Journey, museum: Museum) -> None:
    """The redirect itself was asked for; of its target no hop, status or byte is on record."""
    for path, target in (("/to-private.png", "10.0.0.1"), ("/to-metadata.png", "169.254.169.254")):
        url = museum.url("rude", path)
        assert journey.requests[url] >= 1
        [(outcome, hops, body)] = ask(
            journey.home, 'SELECT outcome, hops_json, body_sha256 FROM "fetch" WHERE url = ?', url
        )
        assert outcome != "ok"
        assert [hop["url"] for hop in json.loads(hops)] == [url]
        assert body is None
        documents = ask(journey.home, "SELECT status FROM \"fetch\" WHERE contains(url, ?) AND kind <> 'image'", target)
        assert {status for (status,) in documents} <= {None}


def test_every_picture_was_asked_for_at_most_once(journey: Journey, museum: Museum) -> None:
    """One crawl asks no picture twice, on however many pages it hangs."""
    pictures = Counter({url: n for url, n in journey.requests.items() if url in museum.truth})
    assert len(pictures) > 100
    assert max(pictures.values()) == 1


# ── a model's memory ───────────────────────────────────────────────────────────────────────────────────────────────


def test_trace_counts_what_was_fed(journey: Journey, custody: Custody) -> None:
    """For each of several samples, `trace` names the steps at which the step log's own digests say it was fed."""
    run_dir = journey.home.runs_path / journey.run
    run = TrainingRun.from_json((run_dir / "run.json").read_text())
    order = Order.of(run.segments[0])
    fed: dict[int, list[int]] = {}
    with DatasetReader.open(journey.home.datasets_path / DATASET) as reader:
        rows = list(steps_of(effective_rows(read_steps(run_dir / "steps.log"))))
        for row in rows:
            ordinals = [o for o in order.at_step(row.step)[0].tolist() if o >= 0]
            assert row.fed_sha256 == fed_digest((o, reader.commitment(o)) for o in ordinals)
            for ordinal in ordinals:
                fed.setdefault(ordinal, []).append(row.step)
        asked = [0, 7, reader.slots - 1]
        keys = [reader.key(o) for o in asked]
    assert len(rows) == journey.said["train"]["steps"]
    for ordinal, key in zip(asked, keys, strict=True):
        traced = custody(journey.home, "trace", str(key))
        direct = [c for c in traced["checkpoints"] if c["run"] == journey.run and c["tier"] == "direct"]
        for checkpoint in journey.said["train"]["checkpoints"]:
            steps = [s for s in fed.get(ordinal, []) if s < checkpoint["step"]]
            found = [c for c in direct if c["step"] == checkpoint["step"]]
            assert [(c["steps"], c["count"]) for c in found] == ([(steps, len(steps))] if steps else [])


def test_what_the_captioner_learnt_from_is_traced_into_the_pictures_model(journey: Journey, custody: Custody) -> None:
    """A sample that only CLIP was trained on touches the diffusion checkpoints indirectly, and trace names the path."""
    clip = str(journey.said["caption"]["run"])
    record = TrainingRun.from_json((journey.home.runs_path / clip / "run.json").read_text())
    held_out = json.loads(record.config_json)["held_out"]
    assert len(held_out) == HELD_OUT
    rows = ask(
        journey.home,
        "SELECT sample_key, ordinal FROM slot s WHERE dataset = ? "
        "AND content_sha256 NOT IN (SELECT content_sha256 FROM slot WHERE dataset = ?) AND 'pair:' || pair_key NOT IN "
        "(SELECT unnest(string_split(source, ',')) FROM caption WHERE source IS NOT NULL) ORDER BY ordinal",
        record.dataset,
        DATASET,
    )
    learnt = next(key for key, ordinal in rows if ordinal not in held_out)
    traced = custody(journey.home, "trace", learnt)
    assert {(s["dataset"], s["state"]) for s in traced["samples"]} == {(record.dataset, "live")}
    by_run = {(c["run"], c["tier"]) for c in traced["checkpoints"]}
    assert by_run == {(clip, "direct"), (journey.run, "indirect")}
    indirect = [c for c in traced["checkpoints"] if c["tier"] == "indirect"]
    assert {c["id"] for c in indirect} == {c["id"] for c in journey.said["train"]["checkpoints"]}
    assert all(clip in c["through"] for c in indirect)

    kept_apart = next(key for key, ordinal in rows if ordinal in held_out)
    assert custody(journey.home, "trace", kept_apart)["checkpoints"] == []


def test_a_sample_is_drawn(journey: Journey) -> None:
    """`sample` writes a PNG and names the checkpoint that drew it."""
    assert Path(journey.said["sample"]["path"]).read_bytes().startswith(b"\x89PNG")
    assert journey.said["sample"]["checkpoint"] == journey.said["train"]["checkpoints"][-1]["id"]


def test_all_of_it_verifies(journey: Journey, custody: Custody) -> None:
    """At the journey's end the chain, every commitment, shard and checkpoint are what was recorded."""
    assert custody(journey.home, "verify") == {"ok": True, "failures": []}


# ── kill -9 ────────────────────────────────────────────────────────────────────────────────────────────────────────

KILLS = (
    # A unit's pictures are written and have no name yet.
    ("crawl", Moment(r"/pixels/.*\.pack$", before=True)),
    # One unit's pictures are whole; the other's are not asked for yet.
    ("crawl", Moment(r"/parts/pictures/[0-9a-f]+\.parquet$")),
    # CLIP is trained and measured; the ledger does not know of its last checkpoint yet.
    ("caption", Moment(r"/retrieval\.json$")),
    # The dataset's directory is there, with the first shard.
    ("seal", Moment(rf"/datasets/{DATASET}/.*\.tar$")),
    # The auditors' copy of the ledger is written and not yet named.
    ("seal", Moment(r"/audit\.duckdb$", before=True)),
    # The first checkpoint is there.
    ("train", Moment(r"/diffusion-[^/]*/step-\d+$")),
)


def test_kills_change_nothing(journey: Journey, museum: Museum, custody: Custody, tmp_path: Path) -> None:
    """Killed with -9 in every stage and started again, a home ends with the same ledger, shards and weights."""
    home = make_home(tmp_path / "killed", museum)
    for name, command in stages(museum).items():
        for moment in (moment for stage, moment in KILLS if stage == name):
            assert custody.run(home, *command, die=moment).was_killed, (name, moment)
        custody(home, *command)
    custody(home, *SAMPLE)  # what was drawn is on record, too

    assert differences(ledger_content(journey.home), ledger_content(home)) == []
    for dataset in sorted(p.name for p in journey.home.datasets_path.iterdir()):
        assert shard_content(home, dataset) == shard_content(journey.home, dataset)
    for run in sorted(p.name for p in journey.home.runs_path.iterdir()):
        assert final_weights(home, run) == final_weights(journey.home, run)
    assert custody(home, "verify") == {"ok": True, "failures": []}
    assert leftovers(home) == []
