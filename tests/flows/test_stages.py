"""The stages by hand, on the journey's home: decided again, asked by others, and a picture taken out."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from curation.clip_model import normalised_text
from curation.pair import canonical_url, url_key
from flows.home import Home
from flows.museum import Museum
from flows.stages.captioning.bank import build_bank
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing import applying, approving, rebuilding, requests
from flows.stages.removing.models import plan_models, serve_models, waiting
from flows.stages.removing.needles import gather
from flows.stages.removing.scanning import scan
from flows.stages.sheet import sheet
from flows.stages.train import caption_models, train
from flows.stages.verify import verify
from policy.errors import IntegrityError, RefusedError
from tests.builders import (
    DATASET,
    Custody,
    Journey,
    Moment,
    Removed,
    ask,
    differences,
    ledger_content,
    members,
    replaced,
    stages,
)

pytestmark = pytest.mark.timeout(900)  # the first test to ask for the journey waits for it

_COUNTS = "SELECT (SELECT count(*) FROM decision), (SELECT count(*) FROM confirmation)"


# ── decided again ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_deciding_twice_appends_one_confirmation_and_no_decision(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """What was judged before and is judged the same is confirmed by one row a run."""
    home = copy_of(journey.home)
    [(decisions, confirmations)] = ask(home, _COUNTS)
    said = custody(home, "decide")
    assert ask(home, _COUNTS) == [(decisions, confirmations + 1)]
    assert said["changed"] == 0
    assert said["judged"] > 100


def test_an_edited_ruleset_appends_only_what_it_changed(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """`unknown` from deny to defer: the pairs without a licence are decided anew, by the licence rule, nothing else."""
    home = copy_of(journey.home)
    [(last,)] = ask(home, "SELECT max(batch_seq) FROM decision")
    [(unlicensed,)] = ask(home, "SELECT count(*) FROM standing WHERE reason_code = 'licence-unknown'")
    home.policy_path.write_text(replaced(home.policy_path.read_text(), {'unknown = "deny"': 'unknown = "defer"'}))
    said = custody(home, "decide")
    new = ask(
        home,
        "SELECT DISTINCT rule, verdict, reason_code, ruleset_digest, count(*) OVER () FROM decision "
        "WHERE batch_seq > ?",
        last,
    )
    assert said["ruleset_digest"] != journey.said["decide"]["ruleset_digest"]
    assert said["changed"] >= unlicensed > 0
    assert new == [("licence", "defer", "licence-unknown", said["ruleset_digest"], said["changed"])]
    assert custody(home, "audit", "decisions_without_evidence") == []


def test_equal_bytes_share_a_denial(
    journey: Journey, removed: Removed, museum: Museum, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """A picture that is denied where it hangs a second time is sealed from neither place."""
    home = copy_of(journey.home)
    assert removed.key in _sealed(home, DATASET)
    [(pair,)] = ask(home, "SELECT DISTINCT pair_key FROM occurrence WHERE image_url = ?", removed.urls[1])
    with home.ledger() as ledger:
        # It was looked at once more, and there it said no.
        seen = newest_evidence(ledger, [pair])[pair]
        [hop] = seen.hops or ()
        quiet = replace(seen, hops=(replace(hop, headers=(*hop.headers, ("X-Robots-Tag", "noai"))),))
        ledger.append_many(evidence_batches(ledger, [(pair, quiet)], "again", "again"))
    custody(home, "decide")
    custody(home, "seal", "--name", "without", "--where", stages(museum)["seal"][-1])
    assert _sealed(home, "without") == [key for key in _sealed(home, DATASET) if key != removed.key]


def test_a_crawl_killed_at_its_very_end_leaves_no_urls_in_files(
    journey: Journey, museum: Museum, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """Killed when the ledger has everything, a crawl's files go with the next crawl: an erasure would not find them."""
    home = copy_of(journey.home)
    killed = custody.run(home, "crawl", museum.url("garden"), die=Moment(r"/crawls/[^/]+/plan\.json$", 2))
    assert killed.was_killed
    custody(home, "crawl", museum.url("garden"))
    files = [file for file in home.crawls_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"plan.json"}
    page = url_key(canonical_url(museum.url("garden")))
    assert not [file for file in files if page in file.read_text()], "the key of a page that was the only seed"


# ── asked by others ────────────────────────────────────────────────────────────────────────────────────────────────


def test_plain_duckdb_opens_the_snapshot_while_a_writer_holds_the_ledger(
    journey: Journey, copy_of: Callable[[Home], Home]
) -> None:
    """Any DuckDB client in another process reads audit.duckdb while a flow is writing to the ledger."""
    home = copy_of(journey.home)
    client = (
        "import duckdb, sys\n"
        "connection = duckdb.connect(sys.argv[1], read_only=True)\n"
        "print(connection.execute('SELECT count(*) FROM slot').fetchall()[0][0])\n"
    )
    with home.ledger() as ledger:
        ledger.append("event", [{"kind": "a writer at work"}], key="writing")
        read = subprocess.run(
            [sys.executable, "-c", client, str(home.snapshot_path)], capture_output=True, text=True, check=True
        )
        assert [(int(read.stdout),)] == ledger.query("SELECT count(*) FROM slot")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM decision",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
    ],
)
def test_free_sql_only_reads_the_snapshot(journey: Journey, custody: Custody, statement: str) -> None:
    """`custody sql` can neither write nor look at another file: exit 2 and a message."""
    done = custody.run(journey.home, "sql", statement)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("custody: ")
    assert "Traceback" not in done.err


def test_an_address_that_is_not_allowed_gets_no_connection(journey: Journey, custody: Custody) -> None:
    """`inspect fetch` of a loopback port that custody.toml does not name connects to nothing, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
        done = custody.run(journey.home, "inspect", "fetch", url)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.status == 1
    assert done.json["outcome"] != "ok"


def test_why_tells_who_said_no(journey: Journey, museum: Museum, custody: Custody) -> None:
    """`why` of a reserved picture names the rule that decides, what it found and where."""
    url = next(u for u in sorted(museum.truth) if u.startswith(museum.url("reserved", "/quiet/")))
    (pair,) = custody(journey.home, "why", url)["pairs"]
    assert (pair["verdict"], pair["rule"], pair["code"]) == ("deny", "x_robots", "x-robots-noai")
    (ruling,) = [r for r in pair["rulings"] if r["rule"] == "x_robots" and r["standing"]]
    assert "noai" in (ruling["detail"] + ruling["where"] + ruling["words"]).lower()


def test_what_the_kill_proof_compares_tells_ledgers_apart(journey: Journey, copy_of: Callable[[Home], Home]) -> None:
    """A ledger that says one thing more, and nothing but that, is found to differ."""
    home = copy_of(journey.home)
    assert differences(ledger_content(journey.home), ledger_content(home)) == []
    with home.ledger() as ledger:
        ledger.append("event", [{"kind": "odd"}], key="one more")
    (told,) = differences(ledger_content(journey.home), ledger_content(home))
    assert told.startswith("event: ")


# ── taken out ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_matches_the_picture_wherever_it_hangs(removed: Removed) -> None:
    """Named by one URL, it is matched under both, and its slots in every dataset are listed."""
    matched = {m["url_key"] for m in removed.said["add"]["matches"]} - {None}
    assert len(matched) == 2
    assert removed.said["add"]["state"] == "held"
    assert {"dataset": DATASET, "ordinal": removed.ordinal} in removed.said["add"]["slots"]


def test_an_approved_removal_is_in_force_at_once(removed: Removed, journey: Journey) -> None:
    """Before anything is carried through, sealing leaves the picture out and a crawl does not ask for it."""
    assert removed.said["approve"]["state"] == "approved"
    assert removed.key in _sealed(journey.home, DATASET)
    assert removed.key not in _sealed(removed.home, "approved")
    assert removed.said["seal when approved"]["slots"] == len(_sealed(journey.home, DATASET)) - 1
    asked = removed.requests["crawl when approved"]
    assert sum(asked.values()) > 10
    assert [url for url in removed.urls if asked[url]] == []


def test_a_tombstone_denies_at_the_next_decide_whatever_was_observed(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """The tombstone file is asked anew for every pair: evidence gathered before it came permits nothing any more."""
    home = copy_of(journey.home)
    allowed = "SELECT min(image_url) FROM standing JOIN occurrence USING (pair_key) WHERE verdict = 'allow'"
    [(url,)] = ask(home, allowed)
    home.tombstones().with_added("removal-elsewhere", urls=[url]).store(home.tombstones_path)
    custody(home, "decide")
    stands = "SELECT DISTINCT verdict, rule, s.reason_detail FROM standing s JOIN occurrence USING (pair_key) "
    [(verdict, rule, detail)] = ask(home, stands + "WHERE image_url = ?", url)
    assert (verdict, rule) == ("deny", "tombstone")
    assert "removal-elsewhere" in detail


def test_an_applied_removal_leaves_no_byte_of_the_picture(removed: Removed, journey: Journey) -> None:
    """Its pixels are in no shard and no kept picture, its keys in no file of the home; the other samples are there."""
    assert removed.said["apply"]["state"] == "applied"
    digests = (removed.key.encode(), bytes.fromhex(removed.key), removed.sha256.encode())
    for file in (f for f in removed.home.path.rglob("*") if f.is_file()):
        body = file.read_bytes()
        assert removed.jpeg not in body, file
        assert [d for d in digests if d in body] == [], file
    left = {name for shard in _shards(removed.home, DATASET) for name, _ in members(shard)}
    assert len(left) == 3 * (len(_sealed(journey.home, DATASET)) - 1)


def test_an_applied_removal_leaves_nothing_in_any_form(
    journey: Journey, removed: Removed, copy_of: Callable[[Home], Home]
) -> None:
    """All that a picture was known by is found in a home that crawled, sealed, trained and sampled; once it is removed,
    nothing of it, in no form and no container."""
    home = copy_of(journey.home)
    request = requests.add(home, "url", removed.url)
    with home.ledger(readonly=True) as ledger:
        needles = gather(home, ledger, [request.id])
    for name in ("sheet.html", "sheet.png"):
        sheet(home, home.path / "reports" / name, limit=500)
    found = scan(home.path, needles)
    assert any("reports/sheet.html" in hit.where for hit in found.hits)
    assert {"image_url", "url_key", "pair_key", "sample_key", "sha256", "md5", "pdq", "picture", "vector"} <= {
        hit.kind for hit in found.hits
    }
    assert found.unread == ()
    approving.approve(home, request.id, by="a test")
    applying.apply(home, request.id, scan=False, receipts=False)
    left = scan(home.path, needles)
    assert (left.hits, left.unread) == ((), ())
    assert left.clean
    assert list((home.path / "reports").iterdir()) == []  # what a PNG shows no scan can tell


def test_an_applied_removal_is_still_traced(removed: Removed, journey: Journey) -> None:
    """Asked by URL, `trace` names the emptied slot and the checkpoints that saw what was in it, with their tier."""
    traced = removed.said["trace"]
    assert {"key": None, "dataset": DATASET, "ordinal": removed.ordinal, "state": "removed"} in traced["samples"]
    last = journey.said["train"]["checkpoints"][-1]["id"]
    assert [(c["tier"], c["count"] > 0) for c in traced["checkpoints"] if c["id"] == last] == [("direct", True)]


def test_a_crawl_does_not_bring_it_back(removed: Removed, journey: Journey) -> None:
    """After the erasure the pages still show it; it is not asked for, gets no row, and is in no new dataset."""
    asked = removed.requests["crawl when applied"]
    assert sum(asked.values()) > 10
    assert [url for url in removed.urls if asked[url]] == []
    for url in removed.urls:
        assert ask(removed.home, "SELECT 1 FROM occurrence WHERE image_url = ?", url) == []
        assert ask(removed.home, "SELECT 1 FROM \"fetch\" WHERE url = ? AND outcome = 'ok'", url) == []
        path = url.rpartition("/")[2]
        assert ask(removed.home, "SELECT 1 FROM document WHERE contains(body::VARCHAR, ?)", path) == []
    # What was captioned before the crawl is so after it: the same bytes need not be asked again.
    assert removed.said["audit when applied"] == []
    assert removed.said["seal when applied"]["slots"] == len(_sealed(journey.home, DATASET)) - 1


def test_after_an_erasure_everything_still_verifies(removed: Removed, custody: Custody) -> None:
    """The chain, commitments, shards and checkpoints hold; no audit finds the emptied slot in use."""
    assert removed.said["verify"] == {"ok": True, "failures": []}
    assert custody(removed.home, "audit", "denied_or_deferred_in_shard") == []
    assert custody(removed.home, "audit", "decisions_without_evidence") == []


def test_damaged_shards_and_strange_datasets_fail_verification(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """A shard with one byte changed and a dataset the ledger does not know are named; exit 1."""
    home = copy_of(journey.home)
    shard = next((home.datasets_path / DATASET).rglob("*.tar"))
    body = bytearray(shard.read_bytes())
    body[600] ^= 1
    shard.write_bytes(body)
    shutil.copytree(home.datasets_path / "book", home.datasets_path / "stranger")
    done = custody.run(home, "verify")
    assert done.status == 1
    places = {failure["where"] for failure in done.json["failures"]}
    assert {f"datasets/{DATASET}", "datasets/stranger"} <= places


def _sealed(home: Home, dataset: str) -> list[str]:
    rows = ask(home, "SELECT sample_key FROM slot WHERE dataset = ? ORDER BY sample_key", dataset)
    return [str(key) for (key,) in rows if key is not None]


def _shards(home: Home, dataset: str) -> list[Path]:
    return sorted((home.datasets_path / dataset).rglob("*.tar"))


def test_in_a_catalogue_no_text_is_given_twice(journey: Journey, copy_of: Callable[[Home], Home]) -> None:
    """With `unique = true` the captioner may choose no text that an allowed picture carries already."""
    home = copy_of(journey.home)
    home.settings_path.write_text(home.settings_path.read_text().replace("unique = false", "unique = true"))
    home = Home.open(home.path)
    carried = {normalised_text(t) for (t,) in ask(home, "SELECT caption FROM trainable WHERE caption_origin = 'alt'")}
    offered = {normalised_text(text) for text in build_bank(home).texts}
    assert offered
    assert carried
    assert not carried & offered


def test_a_dataset_whose_captioner_is_gone_trains_nothing(journey: Journey, copy_of: Callable[[Home], Home]) -> None:
    """Without the model that wrote its captions a training is refused, naming the run; with it, it is not."""
    home = copy_of(journey.home)
    (model,) = caption_models(home, DATASET)
    run = model.training_data.removeprefix("run:")
    (home.runs_path / run).rename(home.path / "elsewhere")
    with pytest.raises(IntegrityError, match=f"come from the model .* of the run {run}, and that model is gone"):
        train(home, dataset=DATASET, offline=True)
    (home.path / "elsewhere").rename(home.runs_path / run)
    assert caption_models(home, DATASET) == (model,)


def test_a_model_with_captions_of_a_clip_that_saw_it_is_rebuilt(
    journey: Journey, custody: Custody, copy_of: Callable[[Home], Home]
) -> None:
    """The CLIP is replayed, its captions are chosen anew, sealed and trained on: nothing of that saw what was removed.
    Killed in its captions and in its sealing it goes on; the old dataset is trained on no more."""
    home = copy_of(journey.home)
    (old,) = caption_models(home, DATASET)
    clip, pictures = old.training_data.removeprefix("run:"), journey.run
    # A picture that the CLIP learnt from and that the other model was never shown.
    [(dataset,)] = ask(home, "SELECT dataset FROM run WHERE run = ?", clip)
    apart = (
        "SELECT sample_key FROM slot WHERE dataset = ? AND content_sha256 NOT IN "
        "(SELECT content_sha256 FROM slot WHERE dataset = ?) ORDER BY ordinal DESC LIMIT 1"
    )
    [(key,)] = ask(home, apart, dataset, DATASET)
    name = requests.add(home, "key", key).id
    assert [(r.run, r.action) for r in plan_models(home, name).runs] == [(clip, "replay"), (pictures, "name")]
    approving.approve(home, name, by="a test")
    first, second = plan_models(home, name, rebuild=True).runs
    assert (first.action, second.action) == ("replay", "rebuild")
    captions = "SELECT ordinal, caption FROM slot WHERE dataset = ? AND caption_origin = 'clip-retrieval'"
    assert (second.captions, second.base, second.steps) == (len(ask(home, captions, DATASET)), None, second.last_step)

    command = ("removal", "replay", name, "--rebuild", "--offline")
    rebuilt = rebuilding.rebuilt_name(DATASET, first.becomes)
    assert custody.run(home, *command, die=Moment(rf"/{rebuilt}/dataset\.json$")).was_killed
    assert waiting(home) == (name,)
    done = custody(home, *command)
    assert [(r["run"], r["action"], r["tier"]) for r in done["runs"]] == [
        (clip, "settled", "exact"),
        (pictures, "rebuild", "rebuilt"),
    ]
    becomes = done["runs"][1]["becomes"]
    assert (becomes, done["runs"][1]["withdrawn"]) == (second.becomes, len(second.exposed))
    (new,) = caption_models(home, rebuilt)
    assert new.training_data == f"run:{first.becomes}" != old.training_data
    assert not any(c["run"] in (becomes, first.becomes) for c in custody(home, "trace", key)["checkpoints"])
    assert len(ask(home, "SELECT DISTINCT content_sha256 FROM trainable")) == len(ask(home, "SELECT 1 FROM trainable"))
    with pytest.raises(RefusedError, match="another dataset took its place") as refused:
        train(home, dataset=DATASET, offline=True)
    assert rebuilt in refused.value.remedy
    assert waiting(home) == ()
    assert [(r.action, r.tier, r.becomes) for r in serve_models(home, name, offline=True).runs] == [
        ("settled", "exact", first.becomes),
        ("settled", "rebuilt", becomes),
    ]
    assert verify(home) == []
