"""Near duplicates in a home: found once, kept in the ledger, and taking the place of what went."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from curation.fingerprints import pdq
from curation.images import encode_jpeg
from curation.near_embedding import WIDTH, NearEmbedder, VectorCache, Vectors
from curation.pixel_store import PixelStore
from flows.cli import cli
from flows.home import Home
from flows.stages import duplicates as stage
from flows.stages import inspection
from flows.stages.decide import decide
from flows.stages.duplicates import find_duplicates
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing import applying, approving, requests
from flows.stages.seal import seal
from policy import audit
from policy.errors import InputError, RefusedError
from policy.evidence import DuplicateOf
from policy.personal import PERSONAL_COLUMNS
from policy.provenance import DatasetManifest
from tests.builders import ask, policy_without
from tests.curation.drawn import face, photo_like
from tests.flows.sealable import sealable_home

Rgb = np.ndarray

ONE = photo_like(1, 240, 180)
PICTURES: Mapping[str, Rgb] = {
    "photo": ONE,
    "recompressed": np.asarray(Image.open(io.BytesIO(encode_jpeg(ONE, 40)))),
    "smaller": np.asarray(Image.fromarray(ONE).resize((160, 120), Image.Resampling.LANCZOS)),
    "mirrored": ONE[:, ::-1],
    "cropped": ONE[9:171, 12:228],
    "another": photo_like(2, 240, 180),
    "smile": face("smile"),
    "frown": face("frown"),
    "blank": np.full((120, 120, 3), 200, np.uint8),
    "blank too": np.full((130, 120, 3), 200, np.uint8),
    "dot": np.zeros((1, 1, 3), np.uint8),
    "stripe": np.tile(np.arange(2_000, dtype=np.uint8)[None, :, None], (4, 1, 3)),
}


class Colours:
    """An embedder without a model: the mean colours of sixteen by sixteen cells less their mean, the darker half cut.

    It counts what it embeds.
    """

    digest = "c0" * 32

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, pictures: Sequence[Rgb]) -> Vectors:
        self.embedded += len(pictures)
        cells = [np.asarray(Image.fromarray(p).resize((9, 9), Image.Resampling.BOX), np.float32) for p in pictures]
        flat = np.stack([np.resize(c - c.mean(), WIDTH) for c in cells])
        return np.rint(flat / np.maximum(1, np.abs(flat).max(axis=1, keepdims=True)) * 127).astype(np.int8)


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def put(home: Home, *names: str) -> list[str]:
    """Keep these pictures as a crawl would: pixels, and a row of what was measured."""
    store, rows = PixelStore(home.pixels_path), []
    for name in names:
        rgb = np.ascontiguousarray(PICTURES[name])
        store.put(sha(name), encode_jpeg(rgb))
        value, quality = pdq(rgb)
        rows.append(
            {
                "content_sha256": sha(name),
                "url_key": sha(name)[:32],
                "width": rgb.shape[1],
                "height": rgb.shape[0],
                "pdq": value,
                "pdq_quality": quality,
            }
        )
    store.settle()
    with home.ledger() as ledger:
        ledger.append("content", rows, key="/".join(names))
    return [sha(name) for name in names]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


def named(found: Mapping[str, DuplicateOf]) -> dict[str, str]:
    """Which picture stands for which, by their names."""
    names = {sha(name): name for name in PICTURES}
    return {names[content]: names[duplicate.representative] for content, duplicate in found.items()}


def test_copies_find_the_largest_and_variants_stay_apart(home: Home) -> None:
    """Recompressed, smaller, mirrored and cropped copies find their picture; a face with another mouth is another."""
    found = find_duplicates(home, put(home, *PICTURES), embedder=Colours())
    copies = dict.fromkeys(("photo", "recompressed", "smaller", "mirrored", "cropped"), "photo")
    assert named(found) == {name: copies.get(name, name) for name in PICTURES}
    assert found[sha("mirrored")].method.endswith("-turned")
    assert found[sha("photo")] == DuplicateOf(sha("photo"), "", 0.0)


def test_nothing_is_looked_for_twice(home: Home) -> None:
    """A second run embeds nothing, compares nothing and writes nothing, and says what the first said."""
    contents, embedder = put(home, *PICTURES), Colours()
    first = find_duplicates(home, contents, embedder=embedder)
    rows = ask(home, "SELECT count(*) FROM duplicate")
    embedder.embedded = 0
    assert find_duplicates(home, contents, embedder=embedder) == first
    assert embedder.embedded == 0
    assert ask(home, "SELECT count(*) FROM duplicate") == rows == [(len(PICTURES),)]


def test_what_comes_later_is_held_against_what_is_known(home: Home) -> None:
    """A picture that stands for itself goes on doing so, though a larger copy of it comes later."""
    early = put(home, "smaller", "another")
    find_duplicates(home, early, embedder=Colours())
    late = put(home, "photo", "mirrored", "smile")
    found = find_duplicates(home, early + late, embedder=Colours())
    assert named(found) == {
        "smaller": "smaller",
        "another": "another",
        "photo": "smaller",
        "mirrored": "smaller",
        "smile": "smile",
    }


def test_a_copy_takes_the_place_of_what_went(home: Home) -> None:
    """Where the picture that stood for others is refused or removed, the largest of its copies stands for the rest."""
    contents = put(home, "photo", "recompressed", "smaller")
    find_duplicates(home, contents, embedder=Colours())
    found = find_duplicates(home, contents[1:], embedder=Colours())
    assert named(found) == {"recompressed": "recompressed", "smaller": "recompressed"}


def test_a_run_that_is_cut_off_is_run_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off between two appends, a run leaves what it settled, and the next one ends where one alone would have."""
    contents = put(home, *PICTURES)
    monkeypatch.setattr(stage, "RECORDED_AT_ONCE", 3)
    record, calls = stage._record, 0

    def cut_off(at: Home, new: Sequence[tuple[str, DuplicateOf]]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        record(at, new)

    monkeypatch.setattr(stage, "_record", cut_off)
    with pytest.raises(KeyboardInterrupt):
        find_duplicates(home, contents, embedder=Colours())
    assert ask(home, "SELECT count(*) FROM duplicate") == [(6,)]
    monkeypatch.setattr(stage, "_record", record)
    found = find_duplicates(home, contents, embedder=Colours())
    assert named(found)["cropped"] == named(found)["mirrored"] == "photo"
    assert ask(home, "SELECT count(*) FROM duplicate") == [(len(PICTURES),)]


def test_a_copy_of_a_reserved_picture_is_reserved(home: Home) -> None:
    """A picture near to one whose own bytes reserve it is reserved as well, though nothing is left of that one."""
    reserved, _, *rest = put(home, "photo", "recompressed", "mirrored", "another")
    with home.ledger() as ledger:
        ledger.append("evidence", [{"evidence_id": "e", "pair_key": "p", "content_sha256": reserved}], key="e")
        said = {"pair_key": "p", "evidence_id": "e", "rule": "xmp", "verdict": "deny", "reason_code": "reserved"}
        ledger.append("decision", [said], key="d")
    PixelStore(home.pixels_path).delete(reserved)
    found = find_duplicates(home, [sha("recompressed"), *rest], embedder=Colours())
    assert {name: found[sha(name)].reserved for name in ("recompressed", "mirrored", "another")} == {
        "recompressed": "xmp",
        "mirrored": "xmp",
        "another": "",
    }
    assert found[sha("mirrored")].representative == reserved


def test_a_picture_without_pixels_stands_for_itself(home: Home) -> None:
    """What cannot be compared, its pixels gone or damaged meanwhile, is nobody's duplicate and breaks nothing."""
    contents = put(home, "photo", "recompressed")
    PixelStore(home.pixels_path).delete(contents[1])
    assert named(find_duplicates(home, contents, embedder=Colours())) == {
        "photo": "photo",
        "recompressed": "recompressed",
    }


def test_the_packaged_model_brings_a_crop_to_its_picture(home: Home) -> None:
    """With the packaged model a crop is proposed by its embedding, and matched by its pixels."""
    found = find_duplicates(home, put(home, "photo", "cropped", "another", "smile", "frown"))
    assert named(found)["cropped"] == "photo"
    assert sorted(set(named(found).values())) == ["another", "frown", "photo", "smile"]
    vectors, there = VectorCache(home.vectors_path, NearEmbedder.digest).load([sha("smile"), sha("nobody")])
    assert there.tolist() == [True, False]
    assert vectors[0].any()


def test_what_shows_the_same_is_proposed_for_review(home: Home) -> None:
    """Of a removed picture all its verified copies are named, whichever of them stands for the others."""
    contents = put(home, "photo", "recompressed", "mirrored", "another")
    find_duplicates(home, contents, embedder=Colours())
    with home.ledger(readonly=True) as ledger:
        of_copy, of_head = (stage.nearby(ledger, [sha(name)]) for name in ("mirrored", "photo"))
        assert stage.nearby(ledger, [sha("another")]) == ()
    assert {content for content, *_ in of_copy} == {sha("photo"), sha("recompressed")}
    assert {(content, method) for content, method, _ in of_head} == {
        (sha("recompressed"), "pdq"),
        (sha("mirrored"), "pdq-turned"),
    }


def test_a_removed_picture_leaves_no_vector(home: Home) -> None:
    """Embeddings and thumbnails of removed contents are overwritten; the others need not be computed again."""
    contents, embedder = put(home, "photo", "another"), Colours()
    find_duplicates(home, contents, embedder=embedder)
    assert stage.forget_vectors(home, contents[:1]) == 2
    held = b"".join(path.read_bytes() for path in home.vectors_path.rglob("*.vectors"))
    assert bytes.fromhex(contents[0]) not in held
    assert bytes.fromhex(contents[1]) in held
    embedder.embedded = 0
    find_duplicates(home, contents, embedder=embedder)
    assert embedder.embedded == 1


def test_inspecting_names_what_stands_for_each(tmp_path: Path) -> None:
    """Of files that are named at the prompt each is told what stands for it; one that is no picture is told so."""
    names = ("smaller", "photo", "smile", "frown", "blank")
    files = [tmp_path / f"{name}.png" for name in names]
    for name, file in zip(names, files, strict=True):
        Image.fromarray(np.ascontiguousarray(PICTURES[name])).save(file)
    (tmp_path / "no.png").write_bytes(b"no picture")
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[-1].read_bytes())
    lines = list(inspection.duplicates([*files, tmp_path / "no.png", copy]))
    assert [Path(line["representative"]).stem for line in lines if "error" not in line] == [
        "photo",
        "photo",
        "smile",
        "frown",
        "blank",
        "blank",
    ]
    assert lines[-1]["method"] == "pixels"
    assert [Path(line["path"]).name for line in lines if "error" in line] == ["no.png"]


def test_a_removed_picture_is_named_by_no_copy(tmp_path: Path) -> None:
    """Once a picture is removed, nothing in the home names it, the evidence of what it stood for included; its copy
    is judged as not compared yet, and everything else that was observed of it stays.
    """
    asking = policy_without("quality", "safety")
    drawn = {0: PICTURES["photo"]}
    home = sealable_home(
        tmp_path / "home", 3, lambda n: encode_jpeg(drawn.get(n, PICTURES["another"])), policy_text=asking
    )
    pairs = ask(home, "SELECT pair_key, content_sha256 FROM evidence ORDER BY content_sha256")
    (_, gone), (copy, _), _ = pairs
    with home.ledger() as ledger:
        before = newest_evidence(ledger, [copy])[copy]
        stood_for = replace(before, duplicate=DuplicateOf(gone, "pdq", 0.01))
        ledger.append_many(evidence_batches(ledger, [(copy, stood_for)], "look", "look"))
    decide(home)
    request = requests.add(home, "sha256", gone)
    approving.approve(home, request.id, by="A. Reviewer")
    applying.apply(home, request.id)
    with home.ledger(readonly=True) as ledger:
        assert newest_evidence(ledger, [copy])[copy] == replace(before, duplicate=None)
        for table, columns in PERSONAL_COLUMNS.items():
            for column in columns:
                said = ledger.query(f'SELECT count(*) FROM "{table}" WHERE {column}::VARCHAR LIKE ?', [f"%{gone}%"])  # noqa: S608  # our own names
                assert said == [(0,)], (table, column)
    decide(home)
    said = "SELECT verdict, reason_code FROM latest_decision WHERE rule = 'duplicate' AND pair_key = ?"
    assert ask(home, said, copy) == [("defer", "not-observed")]


def near_home(path: Path) -> tuple[Home, list[tuple[str, str]]]:
    """A home of three pictures of which the second and the third were verified to show the first; (pair, content)."""
    home = sealable_home(path, 4, lambda n: encode_jpeg(PICTURES[("photo", "smaller", "mirrored", "another")[n]]))
    pairs = ask(home, "SELECT pair_key, content_sha256 FROM evidence ORDER BY batch_seq, row_no")
    first = pairs[0][1]
    matches = [(first, DuplicateOf(first, "", 0.0))]
    matches += [(pairs[1][1], DuplicateOf(first, "pdq", 0.01)), (pairs[2][1], DuplicateOf(first, "pdq-turned", 0.02))]
    stage._record(home, matches)
    decide(home)
    return home, [(str(pair), str(sha)) for pair, sha in pairs]


def test_near_duplicates_are_proposed_and_stay_unless_taken_in(tmp_path: Path) -> None:
    """What was verified to show a removed picture is listed for the reviewer, is not held, and an approval that takes
    none of it in leaves it be.
    """
    home, ((_, first), (pair, second), (_, third), _) = near_home(tmp_path / "home")
    request = requests.add(home, "sha256", first)
    assert {(p.content_sha256, p.method, p.distance, p.occurrences) for p in request.proposals} == {
        (second, "pdq", 0.01, 1),
        (third, "pdq-turned", 0.02, 1),
    }
    assert requests.show(home, request.id).proposals == request.proposals
    held = "SELECT verdict FROM latest_decision WHERE rule = ? AND pair_key = ?"
    assert ask(home, held, f"removal/{request.id}", pair) == []
    assert approving.approve(home, request.id, by="A. Reviewer").proposals == ()
    assert home.tombstones().covers_content(second) is None
    applying.apply(home, request.id)
    assert ask(home, "SELECT count(*) FROM content WHERE content_sha256 IN (?, ?)", second, third) == [(2,)]


def test_what_is_in_force_without_them_takes_no_near_duplicates_in(tmp_path: Path) -> None:
    """An approval that is in force is not widened afterwards: that is refused, and the way to it is named."""
    home, ((_, first), (_, second), *_) = near_home(tmp_path / "home")
    request = requests.add(home, "sha256", first)
    approving.approve(home, request.id, by="A. Reviewer")
    with pytest.raises(RefusedError, match="in force already") as refused:
        approving.approve(home, request.id, by="A. Reviewer", with_near=True)
    assert "--sha256" in refused.value.remedy
    assert home.tombstones().covers_content(second) is None


def test_the_prompt_names_what_may_be_taken_in(tmp_path: Path) -> None:
    """`removal show` names each near duplicate in words and in JSON, `approve --near` takes one of them in, and one
    that is not proposed is refused without a traceback.
    """
    home, ((_, first), (_, second), (_, third), _) = near_home(tmp_path / "home")
    request = requests.add(home, "sha256", first)

    def said(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["removal", *arguments, "--home", str(home.path)], prog_name="custody")

    words = said("show", request.id).output
    assert f"{second} (pdq, distance 0.01, 1 occurrence)" in words
    assert "--with-near" in words
    proposals = json.loads(said("show", request.id, "--json").stdout)["proposals"]
    assert {(p["content_sha256"], p["method"]) for p in proposals} == {(second, "pdq"), (third, "pdq-turned")}
    wrong = said("approve", request.id, "--by", "Ada", "--near", "b" * 64)
    assert wrong.exit_code == 2
    assert "not proposed" in wrong.output
    done = said("approve", request.id, "--by", "Ada", "--near", third, "--json")
    assert {match["method"] for match in json.loads(done.stdout)["matches"]} == {"content", "near-pdq-turned"}


@pytest.mark.parametrize("chosen", [True, False])
def test_near_duplicates_that_are_taken_in_are_removed(tmp_path: Path, chosen: bool) -> None:
    """Taken in, all of them or those that are named, they are tombstoned, denied and erased with what was asked for."""
    home, ((_, first), (pair, second), (_, third), _) = near_home(tmp_path / "home")
    request = requests.add(home, "sha256", first)
    with pytest.raises(InputError, match="not proposed"):
        approving.approve(home, request.id, by="A. Reviewer", near=["a" * 64])
    near = {"near": [second.upper()]} if chosen else {"with_near": True}
    approved = approving.approve(home, request.id, by="A. Reviewer", **near)
    methods = {match.content_sha256: (match.method, match.score) for match in approved.matches}
    assert methods[second] == ("near-pdq", 0.99)
    assert (third in methods) is not chosen
    tombstones = home.tombstones()
    assert tombstones.covers_content(second) == request.id
    assert (tombstones.covers_content(third) == request.id) is not chosen
    denied = "SELECT verdict FROM latest_decision WHERE rule = ? AND pair_key = ?"
    assert ask(home, denied, f"removal/{request.id}", pair) == [("deny",)]
    applying.apply(home, request.id)
    left = {sha for (sha,) in ask(home, "SELECT content_sha256 FROM content WHERE content_sha256 IS NOT NULL")}
    assert {first, second} & left == set()
    assert (third in left) is chosen
    assert second not in PixelStore(home.pixels_path)


def test_a_dataset_says_what_its_slots_stand_for(tmp_path: Path) -> None:
    """The manifest counts the occurrences of the sealed pictures and the near duplicates left out for them, as they
    were when the slots were fixed; the audit says it slot by slot, and a manifest of before is read as not counted.
    """
    asking = policy_without("quality", "safety")
    home = sealable_home(
        tmp_path / "home", 3, lambda n: encode_jpeg(PICTURES[("photo", "smaller", "another")[n]]), policy_text=asking
    )
    pairs = ask(home, "SELECT pair_key, content_sha256 FROM evidence ORDER BY batch_seq, row_no")
    (first, photo), (copy, smaller), (_, another) = pairs
    with home.ledger() as ledger:
        known = newest_evidence(ledger, [first, copy])
        again = replace(known[first], image_url="https://elsewhere.example/photo.jpg", page_url=None)
        left_out = replace(known[copy], duplicate=DuplicateOf(photo, "pdq", 0.01))
        ledger.append_many(evidence_batches(ledger, [("ab" * 16, again), (copy, left_out)], "look", "look"))
    stage._record(home, [(sha, DuplicateOf(sha, "", 0.0)) for sha in (photo, another)])
    stage._record(home, [(smaller, DuplicateOf(photo, "pdq", 0.01))])
    decide(home)
    sealed = seal(home, name="counted")
    assert (sealed.slots, sealed.occurrences, sealed.near_duplicates) == (2, 3, 1)
    file = home.datasets_path / "counted" / "dataset.json"
    manifest = DatasetManifest.from_json(file.read_text())
    assert (manifest.occurrences, manifest.near_duplicates) == (3, 1)
    columns, rows = audit.run(home.snapshot_path, "samples_of_dataset", {"dataset": "counted"})
    told = [columns.index(name) for name in ("content_sha256", "occurrences", "near_duplicates")]
    assert {tuple(row[c] for c in told) for row in rows} == {(photo, 2, 1), (another, 1, 0)}
    stage._record(home, [(sha("later"), DuplicateOf(photo, "pdq", 0.02))])
    assert seal(home, name="counted").near_duplicates == 1
    older = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("occurrences", "near_duplicates")}
    assert DatasetManifest.from_json(json.dumps(older)).occurrences is None
