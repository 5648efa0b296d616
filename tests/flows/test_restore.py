"""A backup that was put back gets the removals that were filed since, before anybody uses it."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.home import Home
from flows.settings import DEFAULT_TEXT
from flows.stages.removing import applying, approving, requests, restoring
from flows.stages.removing.checking import check
from flows.stages.removing.needles import Needles
from flows.stages.removing.scanning import scan_home
from flows.stages.seal import seal
from flows.stages.verify import verify
from policy.copies import RESTORING
from policy.errors import HomeError, InputError, KeyFileError, RefusedError
from policy.filed import REQUESTS_FILE
from policy.ruleset import Ruleset
from tests.builders import ask, replaced
from tests.flows.sealable import sealable_home, text_of
from tests.training.toy_dataset import flat_picture

COUNT, GONE, LATER = 8, 3, 5


def url_of(n: int) -> str:
    return f"https://site1.example/pictures/{n}.jpg"


def removed(home: Home, n: int) -> str:
    request = requests.add(home, "url", url_of(n))
    approving.approve(home, request.id, by="a test", reason="it was asked for")
    applying.apply(home, request.id, scan=False)
    return request.id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with `home` (two removals applied), `backup` (made between them) and `copy`; the removals' ids."""
    place = tmp_path_factory.mktemp("restore")
    text = replaced(
        DEFAULT_TEXT,
        {
            "shard_slots = 1000": "shard_slots = 4",
            'suppression_copy = ""  ': f"suppression_copy = {json.dumps(str(place / 'copy'))}  ",
        },
    )
    exact = replaced(Ruleset.default_text(), {'suppression = "near"': 'suppression = "exact"'})  # no model is needed
    home = sealable_home(place / "home", COUNT, flat_picture, settings_text=text, policy_text=exact)
    seal(home, name="book")
    first = removed(home, GONE)
    shutil.copytree(home.path, place / "backup")
    return place, first, removed(home, LATER)


@pytest.fixture
def place(made: tuple[Path, str, str], tmp_path: Path) -> Path:
    """A copy of all that, whose home names its own copy."""
    shutil.copytree(made[0], tmp_path / "place")
    for home in ("home", "backup"):
        path = tmp_path / "place" / home / "custody.toml"
        path.write_text(path.read_text().replace(str(made[0]), str(tmp_path / "place")))
    return tmp_path / "place"


def put_back(place: Path) -> Path:
    shutil.rmtree(place / "home")
    (place / "backup").rename(place / "home")
    return place / "home"


def test_a_restored_backup_refuses_everything_until_what_was_removed_since_is_removed_again(
    place: Path, made: tuple[Path, str, str]
) -> None:
    """Every command ends with 2 and says what to do; after `custody restore` nothing of the removal is left, and all
    verifies."""
    path, removal = put_back(place), made[2]
    asked = "SELECT kind, regime, received_at, due_at FROM removal WHERE removal = ?"
    [dates] = ask(Home.open(made[0] / "home"), asked, removal)
    for command in (["why", url_of(1)], ["seal"], ["verify"], ["removal", "list"], ["sql", "SELECT 1"], ["crawl"]):
        said = CliRunner().invoke(cli, [*command, "--home", str(path)])
        assert (said.exit_code, "custody restore" in said.output) == (2, True), said.output
    assert CliRunner().invoke(cli, ["--version"]).exit_code == 0
    told = CliRunner().invoke(cli, ["restore", "--home", str(path), "--json"])
    assert told.exit_code == 0, told.output
    done = json.loads(told.stdout)
    assert (done["left"], [one["id"] for one in done["removals"]]) == (0, [removal])
    assert (done["epoch_before"], done["epoch"]) == (1, 2)
    assert done["removals"][0]["scan"] == "clean"
    home = Home.open(path)
    assert verify(home) == []
    needles = Needles.of_values([url_of(LATER), text_of(LATER)])
    assert scan_home(home, needles).hits == ()
    assert ask(home, asked, removal) == [dates]  # its deadline survives
    assert removal.encode() in (place / "copy" / REQUESTS_FILE).read_bytes()
    assert b"gdpr" not in (place / "copy" / REQUESTS_FILE).read_bytes()
    receipt = check(path / done["removals"][0]["receipt"])
    assert receipt.ok
    body = json.loads((path / done["removals"][0]["receipt"]).read_text())["body"]
    assert [step["action"] for step in body["steps"] if step["part"] == "restore"] == ["applied-again"]
    assert body["datasets"][0]["emptied"]
    assert body["datasets"][0]["already_empty"] == []
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT count(*) FROM event WHERE kind = 'restored'") == [(1,)]
    with pytest.raises(RefusedError, match="not behind"):
        restoring.restore(home)


def test_a_restore_that_was_killed_goes_on(
    place: Path, made: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the tombstones are in force, or before the receipt, it stays closed, and the next one finishes."""
    path = put_back(place)

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    for name in ("apply", "leftovers"):
        with monkeypatch.context() as patched:
            patched.setattr(restoring, name, killed)
            with pytest.raises(KeyboardInterrupt):
                restoring.restore(Home.open(path, to_restore=True))
        with pytest.raises(HomeError, match="is being restored"):
            Home.open(path)
    done = restoring.restore(Home.open(path, to_restore=True))
    assert (done.left, done.clean, done.epoch_before, done.epoch) == (0, True, 1, 2)
    assert verify(Home.open(path)) == []
    assert len(list((path / "receipts").glob(f"{made[2]}*.json"))) == 1


def test_a_backup_is_copied_to_where_a_home_is_to_be(place: Path) -> None:
    """`custody restore BACKUP` leaves the backup as it was, and never writes over anything."""
    target = place / "new"
    with pytest.raises(InputError, match="never written over"):
        restoring.put_back(place / "backup", place / "home")
    with pytest.raises(InputError, match="no backup"):
        restoring.put_back(place / "copy", target)
    restoring.put_back(place / "backup", target)
    assert (target / RESTORING).exists()
    with pytest.raises(HomeError, match="is being restored"):
        Home.open(target)
    with pytest.raises(HomeError, match="custody restore"):
        Home.open(place / "backup")


def test_without_its_copy_a_home_is_not_trusted(place: Path) -> None:
    """A copy that is gone or damaged refuses, also the restore; a copy that is lost is made anew only when told so."""
    shutil.rmtree(place / "copy")
    with pytest.raises(HomeError, match="--write-copy"):
        Home.open(place / "home")
    with pytest.raises(HomeError, match="is missing"):
        restoring.restore(Home.open(place / "home", to_restore=True))
    assert CliRunner().invoke(cli, ["restore", "--write-copy", "--home", str(place / "home")]).exit_code == 0
    Home.open(place / "home")
    with pytest.raises(RefusedError, match="knows removals"):
        restoring.write_copy(Home.open(place / "backup", to_restore=True))
    for file in (place / "copy").iterdir():
        file.write_text("{}")
    for path in ("home", "backup"):
        with pytest.raises(HomeError, match="cannot be relied on"):
            Home.open(place / path)
        with pytest.raises(HomeError, match="cannot be relied on"):
            restoring.restore(Home.open(place / path, to_restore=True))


def test_a_backup_from_before_the_first_removal_is_not_used_without_its_copy(tmp_path: Path) -> None:
    """The copy is begun by the first command that writes, and a home knows that it has one: unmounted, it is missed."""
    text = replaced(DEFAULT_TEXT, {'suppression_copy = ""  ': 'suppression_copy = "../copy"  '})
    home = Home.create(tmp_path / "home", settings_text=text)
    Home.open(home.path)
    with home.ledger() as ledger:
        ledger.append("event", [{"kind": "a-test", "happened_at": datetime(2026, 1, 1)}], key="a-test")  # noqa: DTZ001
    Home.open(home.path)
    shutil.move(tmp_path / "copy", tmp_path / "elsewhere")
    with pytest.raises(HomeError, match="is missing"):
        Home.open(home.path)
    shutil.move(tmp_path / "elsewhere", tmp_path / "copy")
    Home.open(home.path)


def test_the_wrong_key_matches_nothing_and_says_so(place: Path) -> None:
    """Tokens of another key would name nothing: the restore refuses instead."""
    path = put_back(place)
    (path / "keys" / "token.key").write_text("ab" * 32 + "\n")
    with pytest.raises((KeyFileError, HomeError), match="another key"):
        restoring.restore(Home.open(path, to_restore=True))
