"""The JSON that `--json` prints (DESIGN, section 9): fields may be added, never renamed or retyped."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from flows.home import Home
from flows.stages.anchoring import Anchored
from flows.stages.removing.drill import Drilled
from flows.stages.removing.receipts import Issued
from flows.stages.removing.restoring import Restored
from flows.terminal import print_json
from tests.builders import DATASET, Custody, Journey, Removed

pytestmark = pytest.mark.timeout(900)  # the first test to ask for the journey waits for it

SEAL = {
    "dataset": str,
    "root": str,
    "slots": int,
    "shards": [{"path": str, "sha256": str, "count": int}],
    "classes": [{"revocability": int, "words": str, "slots": int}],
}
TRAIN = {
    "run": str,
    "steps": int,
    "checkpoints": [{"id": str, "path": str, "step": int}],
    "expected_redo": {"steps": int, "of_any": {"slots": int, "asked": int, "mean": float, "worst": float}},
    "order_note": str,
}
TRACE = {
    "query": str,
    "samples": [{"key": str, "dataset": str, "ordinal": int, "state": str}],
    "checkpoints": [{"id": str, "step": int, "tier": str, "count": int, "steps": [int]}],
}
REMOVAL: dict[str, Any] = {"id": str, "state": str, "due_at": str, "matches": [{}], "slots": [{}]}
ISSUED = {"removal": str, "number": int, "path": str, "page": str, "sha256": str, "scan": str, "new": bool}
CHECKED = {
    "ok": bool,
    "removal": str,
    "number": int,
    "public_key": str,
    "trusted_key": bool,
    "checked": [str],
    "failures": [{"what": str, "where": str}],
}
RESTORED = {
    "home": str,
    "epoch_before": int,
    "epoch": int,
    "removals": [REMOVAL | {"scan": str, "receipt": str}],
    "left": int,
    "clean": bool,
}
DRILLED = {
    "samples": int,
    "seed": int,
    "parts": [{"name": str, "seconds": float}],
    "hits": int,
    "unread": int,
    "left": int,
    "checkpoints": int,
    "redo_s": float,
    "deadline_s": float,
    "in_time": bool,
    "failures": [str],
    "copy": str,
}
ANCHORED = {"seq": int, "chain": str, "anchored_at": str, "place": str, "public_key": str, "new": bool}
VERIFY: dict[str, Any] = {"ok": bool, "failures": []}
AUDITS = [{"name": str, "question": str}]
FACES = {
    "path": str,
    "width": int,
    "height": int,
    "faces": [{"box": [float], "score": float}],
    "detector": str,
}
JUDGED = {
    "url": str,
    "verdict": str,
    "decisions": [{"mechanism": str, "verdict": str, "reason": str, "detail": str, "where": str}],
}


def fits(value: Any, shape: Any, where: str = "$") -> list[str]:
    """What of a value does not have the shape; more keys than those named are welcome."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        return [
            found
            for key, inner in shape.items()
            for found in (fits(value[key], inner, f"{where}.{key}") if key in value else [f"{where}.{key} is missing"])
        ]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is no array"]
        return [found for inner in shape for i, v in enumerate(value) for found in fits(v, inner, f"{where}[{i}]")]
    exact = isinstance(value, shape) and isinstance(value, bool) == (shape is bool)
    return [] if exact or (shape is float and type(value) is int) else [f"{where} is {value!r}, no {shape.__name__}"]


def _a_sealed_key(journey: Journey, custody: Custody) -> str:
    slots = custody(journey.home, "audit", "samples_of_dataset", f"dataset={DATASET}")
    return str(slots[0]["sample_key"])


def test_seal_and_train(journey: Journey) -> None:
    """`seal` and `train` name the dataset's root and shards, and the run's checkpoints."""
    assert fits(journey.said["seal"], SEAL) == []
    assert journey.said["seal"]["shards"]
    assert fits(journey.said["train"], TRAIN) == []
    assert journey.said["train"]["checkpoints"]


def test_trace(journey: Journey, custody: Custody) -> None:
    """`trace` names the slots and the checkpoints, each with tier, count and steps."""
    traced = custody(journey.home, "trace", _a_sealed_key(journey, custody))
    assert fits(traced, TRACE) == []
    assert traced["samples"]
    assert traced["checkpoints"]
    assert {c["tier"] for c in traced["checkpoints"]} <= {"direct", "indirect"}


def test_verify_and_the_list_of_audits(journey: Journey, custody: Custody) -> None:
    """`verify` says ok and what failed; `audit` without a name lists names and questions."""
    assert fits(custody(journey.home, "verify"), VERIFY) == []
    audits = custody(journey.home, "audit")
    assert fits(audits, AUDITS) == []
    assert all(a["question"].endswith(("?", "(must be empty)")) or "?" in a["question"] for a in audits)


def test_removal(removed: Removed) -> None:
    """Every step of a removal prints the same shape, before and after its subject is erased."""
    for step in ("add", "approve", "apply", "show"):
        assert fits(removed.said[step], REMOVAL) == []
        assert removed.said[step]["matches"]
        assert fits(removed.said[step]["slots"], [{"dataset": str, "ordinal": int}]) == []


def test_checking_a_receipt(removed: Removed, custody: Custody, tmp_path: Path) -> None:
    """`removal verify` says what it looked at, and what does not hold with its field."""
    file = removed.home.path / removed.said["show"]["receipt"]
    checked = custody(removed.home, "removal", "verify", str(file))
    assert fits(checked, CHECKED) == []
    assert (checked["ok"], checked["failures"]) == (True, [])
    altered = tmp_path / "altered.json"
    altered.write_text(file.read_text().replace('"regime":"gdpr"', '"regime":"ccpa"'))
    told = custody.run(removed.home, "removal", "verify", str(altered))
    assert told.status == 1
    assert fits(json.loads(told.out), CHECKED) == []
    assert json.loads(told.out)["failures"]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Issued, ISSUED), (Restored, RESTORED), (Drilled, DRILLED), (Anchored, ANCHORED)],
    ids=lambda given: given.__name__ if isinstance(given, type) else "",
)
def test_what_is_said_of_receipts_restores_drills_and_anchors(
    kind: type, shape: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`removal receipt`, `restore`, `removal drill` and `anchor` print all that their results promise."""
    print_json(one_of(kind))
    assert fits(json.loads(capsys.readouterr().out), shape) == []


def one_of(kind: Any) -> Any:
    """A value of a type; of a result every field is filled, down to the items of its lists."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: one_of(hints[field.name]) for field in fields(kind)})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        return tuple(one_of(inner) for inner in get_args(kind) if inner is not ...)
    if given := [inner for inner in get_args(kind) if inner is not NoneType]:
        return one_of(given[0])
    return datetime.now(UTC) if kind is datetime else kind(1)


def test_inspect_faces(journey: Journey, custody: Custody, tmp_path: Path) -> None:
    """`inspect faces` prints a line a picture: boxes and scores, or an error for what cannot be read."""
    import skimage

    astronaut = f"{skimage.__path__[0]}/data/astronaut.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = custody.run(journey.home, "inspect", "faces", astronaut, str(tmp_path / "broken.png"))
    found, unreadable = (json.loads(line) for line in done.out.splitlines())
    assert done.status == 2
    assert fits(found, FACES) == []
    assert [len(face["box"]) for face in found["faces"]] == [4]
    assert fits(unreadable, {"path": str, "error": str}) == []


def test_inspect_judge(journey: Journey, custody: Custody, tmp_path: Path) -> None:
    """`inspect judge` answers a line for a line, and a line that is no case does not stop it."""
    cases = tmp_path / "cases.jsonl"
    case = {"url": "https://a.example/x.png", "robots": {"status": 200, "body": "User-agent: *\nDisallow: /"}}
    cases.write_text(json.dumps(case) + "\nno case\n" + json.dumps(case | {"robots": {"status": 404}}) + "\n")
    done = custody.run(journey.home, "inspect", "judge", str(cases))
    denied, error, allowed = (json.loads(line) for line in done.out.splitlines())
    assert done.status == 0
    assert fits(denied, JUDGED) == []
    assert (denied["verdict"], allowed["verdict"]) == ("deny", "allow")
    assert {d["verdict"] for d in denied["decisions"]} <= {"allow", "deny", "defer", "unset"}
    assert "error" in error


def test_lists_and_grants(custody: Custody, tmp_path: Path) -> None:
    """`policy import` and `lists` say what counts and since when; every step of a grant prints the same shape."""
    home = Home.create(tmp_path / "home")
    file = tmp_path / "optouts.txt"
    file.write_text("nobody.example\n")
    listed = {"name": str, "kind": str, "rows": int, "dated_at": str, "max_age_days": int, "sha256": str}
    imported = custody(home, "policy", "import", str(file), "--kind", "domain")
    assert fits(imported, listed | {"skipped": int, "changed": bool}) == []
    states = custody(home, "policy", "lists")
    assert fits(states, [listed | {"state": str, "age_days": int, "required": bool}]) == []
    given = ("--giver", "A. Giver", "--capacity", "rights-holder", "--domain", "a.example", "--document", str(file))
    added = custody(home, "grant", "add", *given)
    grant = {"id": str, "state": str, "capacity": str, "scope_kind": str, "scope": str, "mechanisms": [str]}
    for shown in (
        added,
        *custody(home, "grant", "list"),
        custody(home, "grant", "end", added["id"], "--reason", "over"),
    ):
        assert fits(shown, grant | {"valid_from": str, "document_sha256": str}) == []


def test_why_audit_and_sql(journey: Journey, custody: Custody) -> None:
    """`why` tells pairs and rulings; `audit` and `sql` print rows as objects by column."""
    story = custody(journey.home, "why", _a_sealed_key(journey, custody))
    ruling = {"rule": str, "verdict": str, "code": str, "words": str, "ruleset_digest": str, "evidence_id": str}
    pair = {"pair_key": str, "image_url": str, "verdict": str, "rulings": [ruling | {"standing": bool}]}
    assert fits(story, {"query": str, "pairs": [pair]}) == []
    assert story["pairs"]
    assert fits(custody(journey.home, "audit", "licences"), [{"dataset": str, "licence": str, "samples": int}]) == []
    assert custody(journey.home, "sql", "SELECT 1 AS one, 'x' AS two") == [{"one": 1, "two": "x"}]
