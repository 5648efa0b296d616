"""Removals in careless or hostile hands: what is wrong is refused in one message, and nothing real is touched."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.home import Home, utc_now
from flows.stages.removing import applying, approving, drill, requests
from flows.stages.removing.receipts import _scan, _Step
from flows.stages.removing.requests import host_name
from flows.stages.removing.standing import scan_outcome
from flows.stages.removing.withdrawing import carry_through
from flows.terminal import silent
from policy.anchors import Anchor
from policy.errors import CustodyError, InputError
from policy.filed import load_filed
from policy.keys import KeyRing
from policy.receipts import _due
from policy.removals import same_name
from policy.suppression import Suppression
from policy.tombstones import Tombstones
from policy.withdrawal_list import WithdrawalList
from tests.flows.removable import copied, made_once, refused, said


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that only messages are asked of."""
    return copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("misuse") / "home")


def with_removals(home: Home, path: Path, lines: str) -> Home:
    """A home whose [removals] has these lines instead of its own of those names."""
    (path / "keys").mkdir(parents=True)
    text = home.settings_path.read_text()
    for name in re.findall(r'(?m)^"?(\w+)"? =', lines):
        text = re.sub(rf"(?m)^{name} = .*\n", "", text)
    (path / "custody.toml").write_text(re.sub(r"(?m)^\[removals\].*$", rf"[removals]\n{lines}", text))
    for file in ("ledger.duckdb", "policy.toml", *(f"keys/{key.name}" for key in home.keys_path.iterdir())):
        (path / file).write_bytes((home.path / file).read_bytes())
        (path / file).chmod(0o600)
    return Home.open(path)


# ── the drill ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_drill_has_no_place_outside_its_copy(home: Home, tmp_path: Path) -> None:
    """Whatever custody.toml names outside the home is the real one's, which a drill neither reads on nor writes."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mark").touch()
    named = {
        "anchors": str(tmp_path / "anchors"),
        "withdrawal_list_copy": str(tmp_path / "public.json"),
        "suppression_copy": "../copy",
    }
    real = with_removals(home, tmp_path / "home", "\n".join(f"{k} = {json.dumps(v)}" for k, v in named.items()))
    with drill._copied(real, tmp_path / "kept", drill._Clock(silent)) as copy:
        removals = copy.settings.removals
        assert (removals.anchors, removals.withdrawal_list_copy, removals.suppression_copy) == ("", "", drill.COPY)
    kept = Home(tmp_path / "kept")
    assert kept.copy_path is not None
    assert (kept.copy_path / "mark").exists(), "one that is kept can be opened"


def test_a_drill_that_would_touch_what_is_not_in_the_home_is_refused(home: Home, tmp_path: Path) -> None:
    """A setting that cannot be set anew, and a link that leads out: no copy is left of either home."""
    quoted = with_removals(home, tmp_path / "one", f'"suppression_copy" = {json.dumps(str(tmp_path / "copy"))}')
    with pytest.raises(InputError, match="suppression_copy cannot be set anew"):
        drill.drill(quoted, samples=1)
    linked = with_removals(home, tmp_path / "two", 'anchors = ""')
    (tmp_path / "far").mkdir()
    (linked.path / "pixels").symlink_to(tmp_path / "far")
    with pytest.raises(InputError, match="a link to files that are not in the home") as caught:
        drill.drill(linked, samples=1)
    assert caught.value.where == "pixels"
    assert not list(tmp_path.glob(f"{drill.PREFIX}*"))


def test_only_the_real_home_reaches_what_was_exported(home: Home, tmp_path: Path) -> None:
    """Withdrawing in a copy of a home leaves the weights that the real one handed out, and the pictures it drew."""
    real = with_removals(home, tmp_path / "home", 'anchors = ""')
    weights, picture = tmp_path / "export" / "model.safetensors", tmp_path / "drawn.png"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    picture.touch()
    now, files = utc_now(), json.dumps({weights.name: hashlib.sha256(b"weights").hexdigest()})
    at = {"checkpoint": "run-1", "run": "run"}
    with real.ledger() as ledger:
        ledger.append(
            "withdrawal",
            [{**at, "removal": "r", "tier": "direct", "action": "withdrawn", "withdrawn_at": now}],
            key="withdrawal",
        )
        export = {"export": "e", "checkpoint": "run-1", "path": str(weights.parent), "files_json": files}
        ledger.append("export", [{**export, "exported_at": now}], key="export")
        drawn = {"kind": "picture-drawn", "subject": "run-1", "detail": str(picture), "happened_at": now}
        ledger.append("event", [drawn], key="drawn")
    carry_through(real, outside=False)
    assert (weights.exists(), picture.exists()) == (True, True)
    carry_through(real)
    assert (weights.exists(), picture.exists()) == (False, False)


# ── what is named ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "other", ["Ann\ufe0f", "A\u034fnn", "Ann\u3164", "\u2800Ann", "Ann\x08", "\x7fAnn", "A\u115fnn"]
)
def test_what_nobody_sees_makes_no_second_approver(other: str) -> None:
    """Selectors, fillers, blanks and controls are not part of a name."""
    assert same_name("Ann", other)


@pytest.mark.parametrize("name", ["co.uk", "com", "*.example.org", ".example.org", "example..org", "https://a.example"])
def test_a_domain_that_is_none_is_refused(name: str) -> None:
    """A pattern would match nothing for ever, a public suffix all of it: neither is filed."""
    with pytest.raises(InputError, match=r"is no host name|public suffix"):
        host_name(name, "--domain")


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1:80", "[::1]", "github.io", "museum:8000", "xn--mnchen-3ya.de"]
)
def test_a_domain_that_is_one_is_taken(name: str) -> None:
    """Addresses, ports, hosts that customers have names under, and names in their ASCII form."""
    assert host_name(name, "--domain") == name


def test_what_matches_nothing_is_said(home: Home) -> None:
    """A slip in an address is seen when it is filed; who is to be credited is asked for where it is needed."""
    told = said(home, "add", "--kind", "attribution", "--creator", "Nobody")
    assert any("nothing here matches it yet" in line for line in told["advice"])
    assert any("--credit-line" in line for line in told["advice"])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"url;kind\nhttps://a.example/;erasure\n", "semicolons stand between the columns. Save it with commas"),
        (b"creator\nJos\xe9\n", "Save it as UTF-8"),
        (b"picture\n" + b"a" * 300 + b"\n", "row 2, column picture: no such file"),
    ],
)
def test_a_spreadsheet_that_was_saved_otherwise_is_told_how(home: Home, tmp_path: Path, body: bytes, why: str) -> None:
    """Semicolons, another encoding, a name that no file can have."""
    file = tmp_path / "many.csv"
    file.write_bytes(body)
    assert why in refused(home, "add", "--csv", str(file))


def test_values_in_another_encoding_are_refused(home: Home, tmp_path: Path) -> None:
    """Values to scan for come from files that others wrote."""
    file = tmp_path / "values"
    file.write_bytes(b"\xff\xfe\n")
    assert "not UTF-8 text" in refused(home, "scan", "--needle-file", str(file))


def test_who_asked_in_vain_leaves_nothing_of_what_goes(home: Home) -> None:
    """A request that was rejected names and matches what another one takes out: that goes with it, and the scan is
    clean.
    """
    url = "https://site1.example/pictures/11.jpg"
    vain, granted = requests.add(home, "url", url), requests.add(home, "url", url)
    requests.reject(home, vain.id, by="Ann", reason="no proof")
    approving.approve(home, granted.id, by="Ann")
    [applied] = applying.apply(home, granted.id)
    assert applied.scan == "clean"
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT named_value FROM removal WHERE removal = ?", [vain.id]) == [(None,)]
        assert not ledger.verify()


# ── what was altered ───────────────────────────────────────────────────────────────────────────────────────────────

DEEP = "[" * 100_000


def read_anchor(_: Path) -> object:
    said = {"seq": 1, "chain": "a" * 64, "anchored_at": "x", "public_key": "b" * 64, "key_id": "k"}
    text = json.dumps({"format": "custody-anchor", "version": 1, "anchor": said, "signature": "00"})
    return Anchor.read(text.replace('"seq": 1', '"seq": 1e999').encode(), where="anchor")


def read_filed(directory: Path) -> object:
    return load_filed(directory, KeyRing.create(directory / "keys"))


@pytest.mark.parametrize(
    "read",
    [read_anchor, lambda _: WithdrawalList.verified(DEEP), Tombstones.load, Suppression.load, read_filed],
    ids=["anchor", "withdrawal list", "tombstones", "marks", "requests"],
)
def test_a_file_made_to_break_its_reader_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    """Numbers that are none, and nesting without end."""
    for name in ("current.json", "suppression.json", "requests.json"):
        (tmp_path / name).write_text(DEEP)
    with pytest.raises(CustodyError, match=r"^(?!.*Traceback).*not a"):
        read(tmp_path)


@pytest.mark.parametrize("received", ["9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00"])
def test_a_receipt_of_a_day_that_no_calendar_has_is_not_true(received: str) -> None:
    """It is due on no day, so whatever deadline it names is wrong."""
    due = _due(datetime.fromisoformat(received), "gdpr", extended=False)
    assert due is not None
    assert due > datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_scan_without_values_does_not_hide_what_one_with_them_had_found() -> None:
    """Applied again, a request that left something behind gets a receipt that still says so."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    report = {"requests": 1, "hits": 20, "unread": 0}
    after = {"why": "values-gone", "left": {"rows": 0, "pictures": 0, "slots": 0}, "unread": 0}
    seen = _Step("scan", "needles", "home", None, json.dumps(report), now)
    blind = _Step("scan", "tokens", "home", None, json.dumps(after), now)
    assert "20 places" in _scan([seen, blind])["detail"]
    assert "places" not in _scan([blind])["detail"]
    assert scan_outcome("tokens", after) == "values-gone"
    assert scan_outcome("tokens", after | {"before": "hits"}) == "hits", "and the command ends with 1 again"
