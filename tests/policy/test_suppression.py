"""The suppression list: marks come out as they went in, nobody reads them without the keys, and none gets lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.errors import IntegrityError, KeyFileError
from policy.keys import KEY_BYTES, KeyRing
from policy.ledger import Ledger
from policy.suppression import SUPPRESSION_FILE, Marks, Suppression, store_copy
from policy.tombstones import Tombstones

RING = KeyRing(b"t" * KEY_BYTES, b"e" * KEY_BYTES, b"s" * KEY_BYTES)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
marks = st.builds(
    Marks,
    st.lists(hashes, max_size=3).map(tuple),
    st.text("0123456789abcdef", max_size=8),
    st.lists(st.binary(min_size=4, max_size=4), max_size=3).map(tuple),
)
listed = st.dictionaries(st.sampled_from("abcdefgh"), marks, max_size=4)
steps = st.lists(st.tuples(listed, st.lists(st.sampled_from("vwxyz"), max_size=2)), max_size=5)
once = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ONE = Marks(("0f" * 32,), "m", (b"\x01\x02",))


def built(added: list[tuple[Mapping[str, Marks], list[str]]]) -> Suppression:
    """A list to which these were added one after the other, each for a removal of its own."""
    found = Suppression(keys=RING)
    for number, (contents, spared) in enumerate(added):
        found = found.with_added(f"r{number}", contents, spared=spared)
    return found


@once
@given(steps)
def test_what_is_stored_is_what_is_loaded(added: list[tuple[Mapping[str, Marks], list[str]]]) -> None:
    """Marks, spared contents and epoch go through the file; what was marked twice stays with its first removal."""
    found = built(added)
    expected: dict[str, tuple[str, Marks]] = {}
    for number, (contents, _) in enumerate(added):
        for content, of in contents.items():
            expected.setdefault(content, (f"r{number}", of))
    assert sorted(found.marks(), key=repr) == sorted(expected.values(), key=repr)
    assert {c for c in "abcdefgh" if found.is_marked(c)} == set(expected)
    assert {c for c in "vwxyz" if found.is_spared(c)} == {c for _, spared in added for c in spared}
    for _, of in expected.values():
        assert Marks.from_bytes(of.to_bytes()) == of


@once
@given(steps, steps)
def test_it_only_grows(
    before: list[tuple[Mapping[str, Marks], list[str]]], more: list[tuple[Mapping[str, Marks], list[str]]]
) -> None:
    """Whatever is added, all that was there is there, as it was; the epoch rises if and only if something is new."""
    one = built(before)
    other = one
    for number, (contents, spared) in enumerate(more):
        added = other.with_added(f"s{number}", contents, spared=spared)
        is_new = any(not other.is_marked(c) for c in contents) or any(not other.is_spared(c) for c in spared)
        assert added.epoch == other.epoch + is_new
        other = added
    assert one.entries.items() <= other.entries.items()
    assert one.spared.items() <= other.spared.items()


@once
@given(steps)
def test_the_file_never_goes_back(
    tmp_path_factory: pytest.TempPathFactory, added: list[tuple[Mapping[str, Marks], list[str]]]
) -> None:
    """The file takes every later list, itself again, and none that is older or lacks something."""
    directory = tmp_path_factory.mktemp("suppression")
    found = built(added)
    if not found.epoch:
        return
    found.store(directory)
    assert Suppression.load(directory, RING) == found
    found.store(directory)
    later = found.with_added("later", {"z": ONE})
    later.store(directory)
    lacking = Suppression(keys=RING).with_added("r", {"y": ONE})
    for stale in (found, lacking, Suppression(later.epoch + 1, later.key_id, {}, {}, RING)):
        with pytest.raises(IntegrityError, match="does not continue"):
            stale.store(directory)
    assert Suppression.load(directory, RING) == later


def test_nothing_is_readable_in_the_file(keys: KeyRing, tmp_path: Path) -> None:
    """Neither hash nor vector nor content stands there, and marks of one removal cannot be moved to another's."""
    found = Suppression().with_added("r1", {"a" * 64: ONE}, spared=["b" * 64], keys=keys)
    found.store(tmp_path)
    text = (tmp_path / SUPPRESSION_FILE).read_text()
    for value in (ONE.hashes[0], "a" * 64, "b" * 64, "AQI="):
        assert value not in text
    [(token, entry)] = found.entries.items()
    moved = Suppression(1, found.key_id, {token: type(entry)("r2", entry.sealed)}, {}, keys)
    with pytest.raises(KeyFileError):
        moved.marks()


def test_no_key_no_answer(keys: KeyRing, tmp_path: Path) -> None:
    """Without the keys, or with others, nobody is told "like nothing"."""
    found = Suppression().with_added("r1", {"a": ONE}, spared=["b"], keys=keys)
    found.store(tmp_path)
    with pytest.raises(KeyFileError, match="another key"):
        Suppression.load(tmp_path, KeyRing.create(tmp_path / "other"))
    without = Suppression.load(tmp_path)
    for ask in (without.marks, lambda: without.is_marked("a"), lambda: without.is_spared("b")):
        with pytest.raises(KeyFileError):
            ask()
    with pytest.raises(KeyFileError):
        Suppression().with_added("r1", {"a": ONE})


@pytest.mark.parametrize("damage", ["", "{}", "[]", "null", '{"version":1,"suppression":{}}', "changed", "newer"])
def test_a_damaged_file_lets_nothing_in(keys: KeyRing, tmp_path: Path, damage: str) -> None:
    """What cannot be read, was changed, or was written by a newer version is refused."""
    Suppression().with_added("r1", {"a": ONE}, keys=keys).store(tmp_path)
    path = tmp_path / SUPPRESSION_FILE
    if damage in ("changed", "newer"):
        data = json.loads(path.read_bytes())
        data = (
            {**data, "version": 99}
            if damage == "newer"
            else {**data, "suppression": {**data["suppression"], "near": {}}}
        )
        damage = json.dumps(data)
    path.write_text(damage)
    with pytest.raises(IntegrityError):
        Suppression.load(tmp_path, keys)


def test_the_ledger_tells_a_lost_or_old_file(keys: KeyRing, ledger: Ledger, now: datetime, tmp_path: Path) -> None:
    """The file may be ahead of the ledger, never behind; tombstones and marks are told apart, and recorded once."""
    Suppression().check_against(ledger)
    first = Suppression().with_added("r1", {"a": ONE}, spared=["b"], keys=keys)
    first.check_against(ledger)
    assert first.record(ledger, now) == 2
    assert first.record(ledger, now) == 0
    second = first.with_added("r2", {"c": ONE})
    second.check_against(ledger)
    assert second.record(ledger, now) == 1
    for behind in (first, Suppression(keys=keys), Suppression.load(tmp_path / "lost", keys)):
        with pytest.raises(IntegrityError, match="on record"):
            behind.check_against(ledger)
    Tombstones().check_against(ledger)
    kinds = ledger.query("SELECT kind, count(*) FROM tombstone GROUP BY kind ORDER BY kind")
    assert kinds == [("near", 2), ("spared", 1)]


def test_a_copy_outside_is_brought_up_to_date_and_tells_a_home_that_is_behind(keys: KeyRing, tmp_path: Path) -> None:
    """Both files are there as they are in force; a home that was restored does not overwrite them."""
    copy = tmp_path / "outside" / "copy"
    store_copy(copy, Tombstones(), Suppression())
    assert not copy.exists()
    stones = Tombstones().with_added("r1", keys=keys, contents=["a"])
    listed = Suppression().with_added("r1", {"a": ONE}, keys=keys)
    store_copy(copy, stones, listed)
    assert (Tombstones.load(copy, keys), Suppression.load(copy, keys)) == (stones, listed)
    store_copy(copy, stones.with_added("r2", contents=["b"]), listed.with_added("r2", {"b": ONE}))
    with pytest.raises(IntegrityError, match="does not continue"):
        store_copy(copy, stones, listed)
    assert Suppression.load(copy, keys).epoch == 2
