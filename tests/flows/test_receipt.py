"""A receipt says what was done, is checked without a home, and is issued again when more was done."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.home import Home
from flows.stages.removing import applying, approving, receipts, requests
from flows.stages.removing.checking import check
from flows.stages.verify import verify
from policy import removals
from policy.errors import InputError, RefusedError
from policy.receipts import NEVER_SEEN, Receipt, sign_receipt
from policy.removals import Done
from tests.builders import replaced
from tests.flows.trained import DATASET, RUN, trained_home

GONE = 5  # of the pictures there, one that no other equals


def url_of(n: int) -> str:
    return f"https://site1.example/pictures/{n}.jpg"


def settings_with(home: Home, **named: str) -> Home:
    """The home with other settings in [removals], each as TOML."""
    text = home.settings_path.read_text()
    for name, value in named.items():
        text = re.sub(rf"(?m)^{name} = [^#\n]*", f"{name} = {value} ", text)
    home.settings_path.write_text(text)
    return Home.open(home.path)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str, dict[str, Any]]:
    """A home with a trained model, one of whose samples was removed: the removal, and its receipt's body."""
    place = tmp_path_factory.mktemp("receipt")
    home = trained_home(place / "home")
    policy = replaced(home.policy_path.read_text(), {'suppression = "near"': 'suppression = "exact"'})
    home.policy_path.write_text(policy)  # no model is needed
    home = settings_with(home, backups_days="30", anchors=json.dumps(str(place / "anchors")))
    request = requests.add(home, "url", url_of(GONE))
    approving.approve(home, request.id, by="a test", reason="it was asked for")
    [told] = applying.apply(home, request.id)
    assert told.scan == "clean"
    return home, request.id, json.loads((home.path / told.receipt).read_text())["body"]


@pytest.fixture
def copied(applied: tuple[Home, str, dict[str, Any]], tmp_path: Path) -> Home:
    """A copy of that home."""
    shutil.copytree(applied[0].path, tmp_path / "home")
    return Home.open(tmp_path / "home")


def test_a_receipt_says_what_was_asked_matched_done_and_not_reached(applied: tuple[Home, str, dict[str, Any]]) -> None:
    """Each section holds what happened, in keyed form, and nothing else of the sample."""
    home, removal, body = applied
    with home.ledger(readonly=True) as ledger:
        erased = dict(
            ledger.query("SELECT table_name, sum(row_count)::INT FROM erasure WHERE removal = ? GROUP BY 1", [removal])
        )
    assert (body["request"]["named_kind"], body["request"]["approvers"]) == ("image_url", 1)
    assert body["request"]["named"] == body["matches"]["listed"][0]["url"]
    assert {row["table"]: row["rows"] for row in body["rows"]} == erased
    [dataset] = body["datasets"]
    assert (dataset["dataset"], len(dataset["emptied"]), dataset["already_empty"]) == (DATASET, 1, [])
    [change] = dataset["generations"]
    assert (change["before"]["generation"], change["after"]["generation"]) == (0, 1)
    told = {c["checkpoint"]: (c["tier"], c["times_fed"] > 0) for c in body["checkpoints"] if c["run"] == RUN}
    assert told
    assert all((tier == "direct") is fed for tier, fed in told.values())
    assert {tier for tier, _ in told.values()} >= {"direct"}
    assert (body["scan"]["outcome"], body["scan"]["hits"]) == ("clean", 0)
    backups = next(place for place in body["not_reached"] if place["what"] == "backups")
    assert backups["until"] is not None
    assert body["ledger"]["anchor"]["covers_erasure"]
    text = json.dumps(body)
    assert "a test" not in text
    assert "it was asked for" not in text
    assert "https://" not in text


def test_a_receipt_is_a_private_file_and_a_page_that_loads_nothing(applied: tuple[Home, str, dict[str, Any]]) -> None:
    """0600, escaped, without scripts; issued again without anything new it stays the one there is."""
    home, removal, _ = applied
    [issued] = receipts.issue(home, [removal])
    assert (issued.number, issued.new) == (1, False)
    for name in (issued.path, issued.page):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    page = (home.path / issued.page).read_text()
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=", page)
    assert issued.sha256 in page
    assert verify(home) == []


def test_a_receipt_is_checked_without_a_home(
    applied: tuple[Home, str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file and a public key alone; with dataset, run, ledger and anchors beside it each is held against it."""
    home, removal, _ = applied
    file = tmp_path / "receipt.json"
    file.write_bytes((home.receipts_path / f"{removal}.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(
        cli, ["removal", "verify", str(file), "--public-key", home.keys.public_key.hex(), "--json"]
    )
    assert (said.exit_code, json.loads(said.stdout)["failures"]) == (0, [])
    beside = {"dataset": home.dataset(DATASET), "run": home.runs_path / RUN, "ledger": home.snapshot_path}
    checked = check(file, anchors=home.settings.removals.anchors, **beside)  # type: ignore[arg-type]
    assert checked.failures == ()
    assert checked.checked == ("digests", "signature", "arithmetic", "dataset", "run", "ledger", "anchors")
    changed = file.read_text().replace('"regime":"gdpr"', '"regime":"ccpa"')
    file.write_text(changed)
    said = CliRunner().invoke(cli, ["removal", "verify", str(file)])
    assert said.exit_code == 1
    assert "request.regime: it was altered" in said.stdout
    file.write_text("no receipt")
    assert CliRunner().invoke(cli, ["removal", "verify", str(file)]).exit_code == 2


def test_what_an_operator_says_wrongly_is_found_by_who_is_given_more(
    applied: tuple[Home, str, dict[str, Any]], tmp_path: Path
) -> None:
    """A signed lie about a checkpoint, a root, a slot or the chain holds by itself, and not against run, dataset and
    ledger."""
    home, _, body = applied

    def lied(name: str, change: Any) -> Path:
        lying = json.loads(json.dumps(body))
        change(lying)
        path = tmp_path / f"{name}.json"
        path.write_text(sign_receipt(lying, home.keys).to_text())
        return path

    seen = next(n for n, c in enumerate(body["checkpoints"]) if c["tier"] == "direct")
    never = lied("never", lambda b: b["checkpoints"][seen].update(tier=NEVER_SEEN, times_fed=0))
    assert check(never).ok
    assert [p.field for p in check(never, run=home.runs_path / RUN).failures] == [f"checkpoints[{seen}].tier"]
    [gone] = body["datasets"][0]["emptied"]
    other = (gone + 1) % body["datasets"][0]["slots"]
    live = lied("live", lambda b: b["datasets"][0].update(emptied=[other], already_empty=[other], generations=[]))
    assert check(live).ok
    assert "datasets[0].emptied" in {p.field for p in check(live, dataset=home.dataset(DATASET)).failures}
    rows = lied("rows", lambda b: b["rows"].pop())
    assert {"rows", "receipt"} <= {p.field for p in check(rows, ledger=home.snapshot_path).failures}
    chain = lied("chain", lambda b: b["ledger"].update(chain="0" * 64))
    assert "ledger.chain" in {p.field for p in check(chain, ledger=home.snapshot_path).failures}


def test_more_that_was_done_makes_a_second_receipt(copied: Home, applied: tuple[Home, str, dict[str, Any]]) -> None:
    """A step more, and the next receipt has the next number and names the one that it replaces."""
    removal = applied[1]
    first = receipts.issue(copied, [removal])[0]
    with copied.ledger() as ledger:
        step = Done(removal, "models", "served", "models", after={"runs": 1})
        removals.record_steps(ledger, [step], now=removals.datetime.now(removals.UTC))
    [second] = receipts.issue_again(copied, [removal, "removal-unknown"])
    assert (second.number, second.new, second.path) == (2, True, f"receipts/{removal}-2.json")
    body = Receipt.read((copied.path / second.path).read_bytes()).body
    assert body["receipt"]["replaces"] == first.sha256
    assert check(copied.path / first.path).ok
    assert check(copied.path / second.path).ok


def test_an_apply_killed_after_the_erasure_says_that_it_could_not_scan(
    copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are gone with the process: the receipt says so, and what tokens could still be compared with."""
    request = requests.add(copied, "url", url_of(GONE + 1))
    approving.approve(copied, request.id, by="a test", reason="asked")

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(applying.removals, "advance_many", killed)
        with pytest.raises(KeyboardInterrupt):
            applying.apply(copied, request.id)
    [told] = applying.apply(copied, request.id)
    assert (told.state, told.scan) == ("applied", "values-gone")
    body = json.loads((copied.path / told.receipt).read_text())["body"]
    assert body["scan"]["report"]["left"] == {"rows": 0, "pictures": 0, "slots": 0}
    assert "gone before the scan could run" in body["scan"]["detail"]
    assert body["matches"]["count"] == 1
    assert check(copied.path / told.receipt).ok
    assert verify(copied) == []


def test_a_receipt_needs_an_applied_request(copied: Home) -> None:
    """Unknown or not applied: one message each."""
    with pytest.raises(InputError, match="no such removal"):
        receipts.issue(copied, ["removal-none"])
    request = requests.add(copied, "url", url_of(4))
    with pytest.raises(RefusedError, match="held"):
        receipts.issue(copied, [request.id])
