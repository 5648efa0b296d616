"""Slots are laid out by how revocable they are, and whatever was sealed before that stays what it was."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.stages import seal as stage
from flows.stages.seal import SealedClass, seal
from flows.stages.verify import verify
from policy.errors import InputError
from policy.provenance import ClassRange
from policy.revocability import Revocability
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import flat_picture

COUNT = 12


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Twelve allowed samples without faces: the even ones CC0, the odd ones CC BY."""
    return sealable_home(tmp_path / "home", COUNT, flat_picture)


def slots(home: Home, dataset: str) -> list[tuple[str, int, int]]:
    """(sample key, revocability, number of its address) of every slot, in order."""
    with home.ledger(readonly=True) as ledger:
        return ledger.query(
            "SELECT s.sample_key, s.revocability, CAST(regexp_extract(o.image_url, '([0-9]+).jpg', 1) AS INT) "
            "FROM slot s JOIN occurrence o USING (pair_key) WHERE s.dataset = ? ORDER BY s.ordinal",
            [dataset],
        )


def test_slots_lie_by_class_and_then_by_key(home: Home) -> None:
    """What is in the public domain first, then what is licensed; ledger, manifest and output say so alike."""
    said = seal(home, name="d")
    found = slots(home, "d")
    assert [(each, key) for key, each, _ in found] == sorted((each, key) for key, each, _ in found)
    assert [each for _, each, _ in found] == [n % 2 for _, _, n in sorted(found, key=lambda s: s[2] % 2)]
    assert {(each, n % 2) for _, each, n in found} == {(0, 0), (1, 1)}
    assert said.classes == (
        SealedClass(0, Revocability.DEDICATED.words, 6),
        SealedClass(1, Revocability.LICENSED.words, 6),
    )
    with DatasetReader.open(home.dataset("d")) as reader:
        assert reader.manifest.classes == (ClassRange(0, 0, 6), ClassRange(1, 6, 12))
        assert [reader.key(o) for o in range(COUNT)] == [key for key, _, _ in found]
    assert seal(home, name="d") == said
    assert verify(home) == []
    manifest = home.datasets_path / "d" / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"revocability": 1', '"revocability": 0'))
    assert [failure.what for failure in verify(home)] == ["its classes of revocability are not those in the ledger"]


# A rule, what it said last (None: nothing), and the class that follows.
PERMISSIONS = (
    ("licence", "licence-allowed", "LicenseRef-pexels", Revocability.UNRESERVED),
    ("licence", "granted", "LicenseRef-grant-1", Revocability.CONSENTED),
    ("robots", "granted", "grant-1 (site-operator, without an end): robots-disallow", Revocability.CONSENTED),
    ("faces", "granted", "grant-1 (depicted-person, without an end): face-found", Revocability.CONSENTED),
    ("faces", "face-blur", "1 face, highest score 0.91", Revocability.CONSENTED),
    ("faces", None, "", Revocability.CONSENTED),
    ("licence", None, "", Revocability.UNRESERVED),
)


def test_the_weakest_permission_of_any_place_gives_the_class(home: Home) -> None:
    """A licence that does not last, a grant for whatever rule, a face, silence, a place that nobody judged yet."""
    seal(home, name="before")  # judges, so that there are decisions to change
    with home.ledger() as ledger:
        first = ledger.query("SELECT pair_key, sample_key, content_sha256 FROM slot ORDER BY ordinal LIMIT 8")
        said = [
            {
                "pair_key": pair,
                "rule": rule,
                "verdict": "unset" if code is None else "allow",
                "reason_code": code,
                "reason_detail": detail,
                "decided_at": utc_now().replace(tzinfo=None),
            }
            for (rule, code, detail, _), (pair, _, _) in zip(PERMISSIONS, first, strict=False)
        ]
        ledger.append("decision", said, key="said otherwise")
        elsewhere = {"pair_key": "f" * 32, "content_sha256": first[7][2], "evidence_id": "e", "body_json": "{}"}
        ledger.append("evidence", [elsewhere], key="shown elsewhere")
        selected = stage._classed(ledger, stage.select(ledger, home, "true"))
    expected = [each for *_, each in PERMISSIONS] + [Revocability.CONSENTED]
    classes = {r["sample_key"]: r["revocability"] for r in selected}
    assert [classes.pop(key) for _, key, _ in first] == expected
    assert set(classes.values()) == {1}
    assert [r["revocability"] for r in selected] == sorted(r["revocability"] for r in selected)


def test_a_dataset_of_before_is_found_again_as_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed in the order of keys, without classes, and killed before its shards: it goes on in that very order."""

    def by_key(ledger, selected):  # as it was: nothing known of classes
        return [{**r, "revocability": 0} for r in selected]

    class Killed(Exception):
        pass

    def kill(*args):
        raise Killed

    with monkeypatch.context() as before:
        before.setattr(stage, "_classed", by_key)
        before.setattr(stage, "_write", kill)
        before.setattr(stage, "classes_json", lambda ranges: None)
        with pytest.raises(Killed):
            seal(home)
    said = seal(home)
    found = [key for key, _, _ in slots(home, said.dataset)]
    assert found == sorted(found)
    assert said.classes == ()
    with DatasetReader.open(home.dataset(said.dataset)) as reader:
        assert reader.manifest.classes is None
        assert [reader.key(o) for o in range(COUNT)] == found
    assert seal(home) == said
    # A dataset of the new order with the same samples is the same dataset: its name comes from the keys alone.
    with pytest.raises(InputError, match="has other samples"):
        seal(home, name=said.dataset, where="caption LIKE '%number 1 %'")


def test_a_killed_sealing_goes_on_though_a_class_has_changed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that stand in the ledger keep their order and classes, whatever is learnt before the shards are written."""

    class Killed(Exception):
        pass

    def kill(*args):
        raise Killed

    with monkeypatch.context() as before:
        before.setattr(stage, "_write", kill)
        with pytest.raises(Killed):
            seal(home)
    [first, *_] = seal_order = _order(home)
    with home.ledger() as ledger:
        said = {"rule": "licence", "verdict": "allow", "reason_code": "licence-allowed", "reason_detail": "MIT"}
        [(pair,)] = ledger.query("SELECT pair_key FROM slot WHERE sample_key = ?", [first])
        at = (utc_now() + timedelta(seconds=1)).replace(tzinfo=None)
        ledger.append("decision", [said | {"pair_key": pair, "decided_at": at}], key="said otherwise")
        assert stage._classed(ledger, stage.select(ledger, home, "true"))[0]["sample_key"] != first
    said = seal(home)
    assert [c.slots for c in said.classes] == [6, 6]
    with DatasetReader.open(home.dataset(said.dataset)) as reader:
        assert [reader.key(o) for o in range(COUNT)] == seal_order
        assert json.loads(reader.manifest.to_json())["classes"][0] == {"revocability": 0, "start": 0, "stop": 6}


def _order(home: Home) -> list[str]:
    with home.ledger(readonly=True) as ledger:
        return [key for (key,) in ledger.query("SELECT sample_key FROM slot ORDER BY dataset, ordinal")]
