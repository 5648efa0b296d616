"""Models that saw what was removed: planned, replayed to the bit, named where that is not all, and withdrawn."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from curation.images import encode_jpeg
from flows.home import Home, utc_now
from flows.settings import DEFAULT_TEXT
from flows.stages.export import export
from flows.stages.removing import replaying
from flows.stages.removing.applying import apply
from flows.stages.removing.approving import approve
from flows.stages.removing.exposure import (
    Withdrawn,
    captioned_with_removed,
    record_reach,
    require_standing,
    standing_name,
    withdrawals,
)
from flows.stages.removing.models import plan_models, serve_models, to_approximate, waiting
from flows.stages.removing.requests import add
from flows.stages.removing.withdrawing import Withdrawal, carry_through, read_list, record_drawn, withdraw
from flows.stages.sample import sample
from flows.stages.seal import seal
from flows.stages.train import clear, newest_run, open_dataset, register_run, run_lock
from flows.stages.verify import verify
from policy import removals
from policy.errors import IntegrityError, RefusedError
from policy.provenance import UpstreamModel
from policy.ruleset import Ruleset
from policy.withdrawal_list import WithdrawalList
from tests.flows.sealable import sealable_home
from tests.training.toy_dataset import NAMES, HashedWords, noise
from training.checkpoint import list_checkpoints, load_run, read_record, save_run
from training.clip import train_clip
from training.clip_config import for_tower
from training.config import preset
from training.loop import train
from training.order import exposure

DATASET, OTHER, SLOTS, STEPS = "apples", "pears", 24, 12
PICTURES, CAPTIONED, CLIP, TUNED = "diffusion-apples-0", "diffusion-apples-1", "clip-apples-0", "diffusion-pears-0"
CONFIG = preset("tiny", checkpoint_every=2, keep_checkpoints=9)
CLIP_CONFIG = for_tower(
    "scratch",
    **{"image_size": 32, "scratch_model": "test_vit", "steps": 40, "batch_size": 6, "held_out": 2, "warmup_steps": 2},
    **{"checkpoint_every": 2, "keep_checkpoints": 9},
)
CAPTIONER = UpstreamModel("captioner", "ours", "0" * 32, "see its run", f"run:{CLIP}")


def train_pictures(
    home: Home,
    run: str,
    dataset: str = DATASET,
    upstream: Sequence[UpstreamModel] = (),
    withheld: Sequence[int] = (),
    stop_after: int = STEPS,
) -> None:
    with open_dataset(home, dataset) as reader:
        train(
            reader,
            CONFIG,
            home.runs_path / run,
            upstream=upstream,
            text_encoder=HashedWords(),
            progress=lambda step, loss, speed: None,
            now=utc_now,
            withheld=withheld,
            stop_after=stop_after,
        )


def train_captioner(home: Home, run: str, withheld: Sequence[int] = ()) -> None:
    with open_dataset(home, DATASET) as reader:
        train_clip(reader, CLIP_CONFIG, home.runs_path / run, now=utc_now, withheld=withheld, stop_after=4)


def weights(home: Home, run: str) -> dict[str, str]:
    files = read_record(list_checkpoints(home.runs_path / run)[-1]).files
    return {name: sha for name, sha in files if name.endswith(".safetensors")}


def victims(home: Home) -> tuple[int, int]:
    """Two slots that the pictures' run was fed first after a checkpoint, and the CLIP, if it is there, as well."""
    pictures, clip = load_run(home.runs_path / PICTURES), load_run(home.runs_path / CLIP)
    assert pictures is not None
    late = [o for o in range(SLOTS) if exposure(pictures, (), o, STEPS)[0] >= 3]
    if clip is not None:
        late = [o for o in late if exposure(clip, (), o, 4)]
    return late[0], late[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run of pictures, and one of other data that began from its last checkpoint."""
    settings = DEFAULT_TEXT.replace("shard_slots = 1000", "shard_slots = 5")
    path = tmp_path_factory.mktemp("pictures") / "home"
    rules = Ruleset.default_text().replace('suppression = "near"', 'suppression = "exact"')
    home = sealable_home(path, 2 * SLOTS, picture, alt=text, settings_text=settings, policy_text=rules)
    number = "CAST(regexp_extract(image_url, '([0-9]+).jpg', 1) AS INT)"
    seal(home, name=DATASET, where=f"{number} < {SLOTS}")
    seal(home, name=OTHER, where=f"{number} >= {SLOTS}")
    train_pictures(home, PICTURES)
    train_pictures(home, "begun", OTHER, stop_after=1)
    begun = load_run(home.runs_path / "begun")
    assert begun is not None
    save_run(home.runs_path / TUNED, replace(begun, run=TUNED, parent_checkpoint=f"{PICTURES}-{STEPS:07d}"))
    shutil.rmtree(home.runs_path / "begun")
    train_pictures(home, TUNED, OTHER, stop_after=2)
    for run in (PICTURES, TUNED):
        register_run(home, home.runs_path / run)
    return home


@pytest.fixture(scope="module")
def trained(pictures: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same; a CLIP; and a run whose captions came from that CLIP."""
    home = Home(Path(shutil.copytree(pictures.path, tmp_path_factory.mktemp("trained") / "home")))
    train_captioner(home, CLIP)
    train_pictures(home, CAPTIONED, upstream=(CAPTIONER,))
    for run in (CLIP, CAPTIONED):
        register_run(home, home.runs_path / run)
    return home


def text(n: int) -> str:
    return f"{NAMES[n % len(NAMES)]} no. {n}"


def picture(n: int) -> bytes:
    return encode_jpeg(noise(n, 20, 24))


@pytest.fixture
def home(pictures: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(pictures.path, tmp_path / "home")))


def ask(home: Home, ordinal: int, *, approved: bool = True) -> str:
    """A request to remove what a slot of the apples holds, in force unless only filed."""
    with home.ledger(readonly=True) as ledger:
        [(key,)] = ledger.query("SELECT sample_key FROM slot WHERE dataset = ? AND ordinal = ?", [DATASET, ordinal])
    name = add(home, "key", key).id
    if approved:
        approve(home, name, by="A. Reviewer")
    return name


def serve(home: Home, *names: str):  # type: ignore[no-untyped-def]  # what it returns is what is tested
    return serve_models(home, *names, offline=True, text_encoder=HashedWords())


def steps_of(home: Home, name: str, action: str) -> dict[str, dict[str, object]]:
    """What was written down of a removal's models: subject -> after."""
    with home.ledger(readonly=True) as ledger:
        done = [s for s in removals.steps(ledger, name) if s.part == "models" and s.action == action]
    return {step.subject: json.loads(step.after or step.before or "{}") for step in done}


def test_the_plan_says_what_it_costs_before_anything_changes(trained: Home, tmp_path: Path) -> None:
    """Runs that saw it in the order of their lineage, where each replay begins, and what will stay indirect."""
    home = Home(Path(shutil.copytree(trained.path, tmp_path / "home")))
    victim, _ = victims(home)
    name = ask(home, victim, approved=False)
    before = sorted(p.relative_to(home.path) for p in home.runs_path.rglob("*"))
    planned = plan_models(home, name)
    assert [(r.run, r.action) for r in planned.runs] == [
        (CLIP, "replay"),
        (PICTURES, "replay"),
        (CAPTIONED, "replay"),
        (TUNED, "withdraw"),
    ]
    clip, pictures, captioned, _ = planned.runs
    run = load_run(home.runs_path / PICTURES)
    assert run is not None
    first = exposure(run, (), victim, STEPS)[0]
    assert pictures.base == f"{PICTURES}-{pictures.first_step:07d}"
    assert pictures.first_step == first - first % 2
    assert pictures.steps == STEPS - pictures.first_step
    assert {seen.id for seen in pictures.exposed}.isdisjoint(pictures.never)
    assert len(pictures.exposed) + len(pictures.never) == STEPS // 2
    assert (pictures.through, clip.through, captioned.through) == ("", "", f"captions of the model {CLIP}")
    assert planned.steps == clip.steps + pictures.steps + captioned.steps
    assert planned.estimated_s is not None
    assert planned.estimated_s > 0
    assert sorted(p.relative_to(home.path) for p in home.runs_path.rglob("*")) == before


def test_what_saw_it_is_refused_from_the_approval_on(home: Home) -> None:
    """Nothing is drawn any more by a checkpoint that was fed it, while one that was not may draw."""
    victim, _ = victims(home)
    name = ask(home, victim)
    with pytest.raises(RefusedError, match="took away") as refused:
        sample(home, ["red apple"], run=PICTURES)
    assert name in refused.value.remedy
    assert waiting(home) == (name,)
    base = plan_models(home, name).runs[0].base
    assert base is not None
    require_standing(home, base)
    with run_lock(home.runs_path / PICTURES):  # somebody trains it
        assert [(one.run, one.action) for one in serve(home, name).runs] == [(PICTURES, "busy"), (TUNED, "withdraw")]
    assert waiting(home) == (name,)


@pytest.fixture(scope="module")
def served(trained: Home, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Two removals, one of them applied, served in one pass; and the same runs from scratch without these slots."""
    home = Home(Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("served") / "home")))
    gone = victims(home)
    never = Home(Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("never") / "home")))
    for run, train_again in ((PICTURES, train_pictures), (CLIP, train_captioner)):
        shutil.rmtree(never.runs_path / run)
        train_again(never, run, withheld=gone)
    home.samples_path.mkdir()
    for step, file in (
        (STEPS, "strip"),
        (STEPS, f"{PICTURES}-step-{STEPS:07d}-1a2b"),
        (2, f"{PICTURES}-step-0000002-1"),
    ):
        (home.samples_path / f"{file}.png").write_bytes(b"drawn")
        if file == "strip":
            record_drawn(home, f"{PICTURES}-{step:07d}", home.samples_path / f"{file}.png")
    export(home, PICTURES, home.path / "given", recipient="Somebody & Co")
    names = ask(home, gone[0]), ask(home, gone[1])
    apply(home, names[0], scan=False, receipts=False)
    return home, never, names, serve(home, *names)


def test_a_replay_is_the_run_that_never_saw_it(served) -> None:  # type: ignore[no-untyped-def]
    """Of pictures and of a CLIP: the same weights, bit for bit, as training from scratch with those slots empty."""
    home, never, names, done = served
    by_run = {one.run: one for one in done.runs}
    for run in (PICTURES, CLIP):
        assert (by_run[run].action, by_run[run].tier, by_run[run].through) == ("replay", "exact", "")
        assert weights(home, by_run[run].becomes) == weights(never, run)
        told = steps_of(home, names[0], "replayed")[run]
        assert told["weights"] == weights(never, run)
        assert told["emptied_from_step_0"] == 2
    assert verify(home) == []


def test_captions_of_a_model_that_saw_it_leave_a_replay_indirect(served) -> None:  # type: ignore[no-untyped-def]
    """It was trained again without the samples; that its captions stand on the old CLIP is named, not passed over."""
    home, _, names, done = served
    captioned = next(one for one in done.runs if one.run == CAPTIONED)
    assert (captioned.action, captioned.tier) == ("replay", "indirect")
    assert CLIP in captioned.through
    last = read_record(list_checkpoints(home.runs_path / captioned.becomes)[-1]).checkpoint
    assert steps_of(home, names[1], "named")[last] == {"tier": "indirect", "through": captioned.through}


def test_what_saw_it_and_what_began_from_it_is_gone(served) -> None:  # type: ignore[no-untyped-def]
    """Weights and pictures are deleted, records stay; checkpoints from before, and their pictures, are as they were."""
    home, _, names, done = served
    gone = {each.checkpoint: each for each in withdrawals(home)}
    tuned = next(one for one in done.runs if one.run == TUNED)
    assert (tuned.action, tuned.becomes) == ("withdraw", "")
    for run in (PICTURES, CLIP, CAPTIONED, TUNED):
        left = {read_record(path).checkpoint for path in list_checkpoints(home.runs_path / run)}
        assert left.isdisjoint(gone)
        records = list((home.runs_path / run / "withdrawn").glob("step-*/provenance.json"))
        assert len(records) == len([each for each in gone.values() if each.run == run])
        assert not list((home.runs_path / run / "withdrawn").rglob("*.safetensors"))
    assert [p.name for p in home.samples_path.iterdir()] == [f"{PICTURES}-step-0000002-1.png"]
    for name in names:
        never = steps_of(home, name, "never-seen")
        seen = steps_of(home, name, "exposed")
        assert f"{PICTURES}-{STEPS:07d}" in seen
        assert next(one.becomes for one in done.runs if one.run == PICTURES) in never
    with pytest.raises(RefusedError, match="withdrawn"):
        newest_run(home, "diffusion", PICTURES)
    becomes = next(one.becomes for one in done.runs if one.run == PICTURES)
    assert standing_name(gone.values(), PICTURES) == becomes
    assert waiting(home) == ()


def test_whoever_has_it_is_told_and_what_took_its_place_may_leave(served, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A signed notice without a name for each removal; what was exported is gone here, and is never exported again."""
    home, _, names, done = served
    becomes = next(one.becomes for one in done.runs if one.run == PICTURES)
    with home.ledger(readonly=True) as ledger:
        [(given,)] = ledger.query("SELECT export FROM export WHERE recipient = 'Somebody & Co'")
        rows = ledger.query("SELECT removal, export, checkpoint, path, sha256 FROM notice ORDER BY removal")
    assert done.notices == len(rows) == 2
    for row, name in zip(rows, sorted(names), strict=True):
        notice = (home.path / row[3]).read_bytes()
        assert row[:3] == (name, given, f"{PICTURES}-{STEPS:07d}")
        assert (hashlib.sha256(notice).hexdigest(), b"Somebody" in notice) == (row[4], False)
        told = json.loads(notice)
        assert (told["export"], told["replaced_by"]) == (given, f"{becomes}-{STEPS:07d}")
    assert sorted(p.name for p in (home.path / "given").iterdir()) == [
        *("MANIFEST.json", "README.md", "config.json", "provenance.json", "run.json"),
    ]
    for what in (PICTURES, f"{PICTURES}-{STEPS:07d}"):
        with pytest.raises(RefusedError, match="withdrawn"):
            export(home, what, tmp_path / "model", despite=True)
    replayed = export(home, becomes, tmp_path / "model")
    assert (replayed.despite, replayed.unserved) == ((), ())
    assert "2 of 2 removals in force: never seen" in (tmp_path / "model" / "README.md").read_text()
    captioned = next(one.becomes for one in done.runs if one.run == CAPTIONED)
    export(home, captioned, tmp_path / "captioned")
    assert f"{names[0]}: INDIRECT, through the model {CLIP}" in (tmp_path / "captioned" / "README.md").read_text()


def test_the_list_of_withdrawn_models_cannot_be_changed(served) -> None:  # type: ignore[no-untyped-def]
    """It verifies with the public key alone, and not any more once a byte is another one; nor does the home then."""
    home, *_ = served
    text = home.withdrawn_path.read_text("utf-8")
    listed = WithdrawalList.verified(text, public_key=home.keys.public_key)
    assert {each.checkpoint for each in listed.withdrawn} == {each.checkpoint for each in withdrawals(home)}
    assert listed == read_list(home)
    some = listed.withdrawn[0]
    assert listed.find({"renamed.safetensors": some.weights[0][1]}) == some
    assert listed.find({"renamed.safetensors": "0" * 64}) is None
    reasons = {each.checkpoint: each.reason for each in listed.withdrawn}
    assert (reasons[f"{PICTURES}-{STEPS:07d}"], reasons[f"{TUNED}-0000002"]) == ("removal", "lineage")
    for at in range(0, len(text), 97):
        changed = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        with pytest.raises(IntegrityError):
            WithdrawalList.verified(changed, public_key=home.keys.public_key)
    with pytest.raises(IntegrityError, match="another key"):
        WithdrawalList.verified(text, public_key=b"0" * 32)
    home.withdrawn_path.write_text(text.replace('"removal"', '"lineage"', 1))
    assert [failure.where for failure in verify(home)] == ["withdrawn.json"]
    carry_through(home)
    assert home.withdrawn_path.read_text("utf-8") == text
    # A home that was restored may know of less than was published: nothing comes off the list again.
    more = replace(listed, number=99, withdrawn=(*listed.withdrawn, replace(some, checkpoint="zz-0000001")))
    home.withdrawn_path.write_text(more.signed(home.keys))
    carry_through(home)
    assert read_list(home) == more


def test_killed_between_its_parts_it_goes_on(home: Home) -> None:
    """Killed in a replay, after it, or after withdrawals went on record: run again, it ends as if nothing had been."""
    victim, _ = victims(home)
    name = ask(home, victim)
    # In the midst of a replay, beside one that another removal has overtaken.
    work = replaying.plan(home, PICTURES, removed=[victim], last_step=STEPS)
    replaying.replay(home, replace(work, last_step=STEPS - 2), offline=True, text_encoder=HashedWords())
    overtaken = home.runs_path / f"{PICTURES}-without-00000000"
    shutil.copytree(home.runs_path / work.name, overtaken)
    # On record as withdrawn, and all is still there.
    with home.ledger() as ledger:
        withdraw(ledger, [Withdrawal(f"{TUNED}-0000002", TUNED, name, "indirect", "withdrawn")])
    assert "its weights are still there" in verify(home)[0].what
    done = serve(home, name)
    assert [(one.run, one.action, one.becomes) for one in done.runs] == [
        (PICTURES, "replay", work.name),
        (TUNED, "settled", ""),
    ]
    assert not overtaken.exists()
    assert not list_checkpoints(home.runs_path / TUNED)
    assert verify(home) == []
    again = serve(home, name)
    assert [(one.action, one.becomes, one.tier) for one in again.runs] == [
        ("settled", work.name, "exact"),
        ("settled", "", ""),
    ]
    assert again.withdrawal_list == done.withdrawal_list


def test_a_ruleset_that_withdraws_trains_nothing(home: Home) -> None:
    """The plan has no replay; asked for again, a run that is withdrawn begins anew, under another name each time."""
    rules = home.policy_path.read_text("utf-8").replace('on_exposure = "replay"', 'on_exposure = "withdraw"')
    home.policy_path.write_text(rules)
    planned = plan_models(Home(home.path), ask(home, victims(home)[0], approved=False))
    assert {one.action for one in planned.runs} == {"withdraw"}
    assert (planned.steps, planned.estimated_s) == (0, 0)
    gone = Withdrawn(f"{PICTURES}-0000004", PICTURES, "removal-1", "direct", "withdrawn", None, "2026-01-01T00:00:00Z")
    again = replace(gone, checkpoint=f"{PICTURES}-2-0000004", run=f"{PICTURES}-2")
    assert standing_name([], PICTURES) == PICTURES
    assert standing_name([gone], PICTURES) == f"{PICTURES}-2"
    assert standing_name([gone, again], PICTURES) == f"{PICTURES}-3"
    assert standing_name([gone, replace(again, replaced_by="other-run-0000004")], PICTURES) == "other-run"


def test_what_only_approximates_forgetting_is_a_stopgap(home: Home) -> None:
    """It stands in while the old model is gone, tainted and named as not exact; a replay then takes its place."""
    rules = home.policy_path.read_text("utf-8").replace('on_exposure = "replay"', 'on_exposure = "approximate"')
    home.policy_path.write_text(rules)
    home = Home(home.path)
    name = ask(home, victims(home)[0])
    with pytest.raises(RefusedError, match=f"{PICTURES} is to be approximated first") as refused:
        apply(home, name)
    assert "--despite-models" in refused.value.remedy
    with open_dataset(home, DATASET) as reader:
        assert reader.is_live(victims(home)[0])
    pictures, tuned = serve(home, name).runs
    assert to_approximate(home, [name]) == {}
    assert (pictures.action, pictures.tier, tuned.action) == ("approximate", "approximate", "withdraw")
    record = read_record(list_checkpoints(home.runs_path / pictures.becomes)[-1])
    assert record.state == "tainted"
    told = steps_of(home, name, "approximated")[PICTURES]
    assert (told["method"], told["forgetting"]) == ("loss-matching", None)  # one slot says nothing
    require_standing(home, record.checkpoint)
    with pytest.raises(RefusedError, match="withdrawn"):
        require_standing(home, f"{PICTURES}-{STEPS:07d}")
    assert waiting(home) == ()
    exactly = serve_models(home, name, exact=True, offline=True, text_encoder=HashedWords())
    assert {(one.run, one.action, one.tier) for one in exactly.runs} == {
        (PICTURES, "replay", "exact"),
        (TUNED, "settled", ""),
        (pictures.becomes, "withdraw", ""),
    }
    with pytest.raises(RefusedError, match="withdrawn"):
        require_standing(home, record.checkpoint)
    assert verify(home) == []


def test_what_was_to_be_forgotten_and_is_gone_is_withdrawn(home: Home) -> None:
    """Applied all the same, a removal leaves nothing to forget it by: the old model goes, and nothing stands in."""
    rules = home.policy_path.read_text("utf-8").replace('on_exposure = "replay"', 'on_exposure = "approximate"')
    home.policy_path.write_text(rules)
    home = Home(home.path)
    name = ask(home, victims(home)[0])
    apply(home, name, scan=False, receipts=False, despite_models=True)
    pictures, _ = serve(home, name).runs
    assert (pictures.action, pictures.becomes) == ("withdraw", "")
    assert "stored no more" in pictures.through
    apply(home, name, scan=False, receipts=False)  # nothing waits for it any more


def test_a_slot_whose_caption_was_the_removed_text_is_left_out_too(home: Home) -> None:
    """Where nobody else has said the text, replays and new trainings are not fed what was captioned with it."""
    victim, other = victims(home)
    with home.ledger() as ledger:
        [(pair,)] = ledger.query("SELECT pair_key FROM slot WHERE dataset = ? AND ordinal = ?", [DATASET, victim])
        [row] = ledger.query(
            "SELECT sample_key, pair_key, content_sha256, caption FROM slot WHERE dataset = ? AND ordinal = ?",
            [DATASET, other],
        )
        lent = dict(zip(("sample_key", "pair_key", "content_sha256", "caption"), row, strict=True))
        lent |= {"caption_origin": "clip-retrieval", "source": f"pair:{pair}", "source_kind": "ledger", "state": "kept"}
        ledger.append("caption", [lent], key="lent")
    name = ask(home, victim)
    with home.ledger() as ledger:
        record_reach(ledger, home, [name])
        assert captioned_with_removed(ledger, home, DATASET) == {other}
    reach = steps_of(home, name, "reach")[DATASET]
    assert (reach["slots"], reach["captions_lent"]) == ([victim], [other])
    assert plan_models(home, name).runs[0].becomes == replaying.replay_name(PICTURES, [victim, other])
    assert clear(home, DATASET, offline=True) == {victim, other}
