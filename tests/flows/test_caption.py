"""Captioning a home with a small CoCa: by the texts of its own ledger, or by words of the model's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from curation.caption_bank import BankText
from curation.captions import Proposal
from curation.clip_model import Rgb
from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from flows.home import Home, utc_now
from flows.settings import DEFAULT_TEXT
from flows.stages import caption as stage
from flows.stages.caption import Captioning
from flows.stages.captioning import calibration
from flows.stages.captioning.bank import bank_path, build_bank
from flows.stages.captioning.models import CaptionerChoice
from flows.stages.decide import decide
from flows.stages.inspection import captions as inspected
from flows.stages.seal import seal
from policy.errors import ConfigurationError
from tests.builders import ask, replaced
from tests.curation.tiny_coca import ARCHITECTURE, CAPTIONS, drawn, known_to_open_clip, trained_weights
from tests.flows.sealable import sealable_home

PICTURES = 84


def shown(n: int) -> str:
    return CAPTIONS[n % 6]


def alt_of(n: int) -> str | None:
    """Every eighth picture has no text, every eighth a file's name; the others say what they show."""
    return {0: None, 4: f"IMG_{n:04d}.jpg"}.get(n % 8, shown(n))


def jpeg_of(n: int) -> bytes:
    return simplejpeg.encode_jpeg(drawn(shown(n), n), quality=95, colorsubsampling="444")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("coca")
    with known_to_open_clip(folder):
        yield trained_weights(folder / "coca.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Home:
    """A decided home of 84 pictures, of which 21 wait for a caption; no test may change it."""
    text = settings(weights)
    home = sealable_home(tmp_path_factory.mktemp("made") / "home", PICTURES, jpeg_of, alt=alt_of, settings_text=text)
    decide(home)
    return home


@pytest.fixture
def home(made: Home, copy_of: Callable[[Home], Home]) -> Home:
    return copy_of(made)


def settings(weights: Path, **changed: str) -> str:
    values = {"architecture": f'"{ARCHITECTURE}"', "pretrained": f'"{weights}"', "threshold": "0.5", **changed}
    defaults = {
        "kind": '"retrieval"', "architecture": '""', "pretrained": '"trained:latest"', "threshold": "0.0",
        "phrase_lists": "[]", "decoding": '"beam"', "agreement": "false", "max_tokens": "30",
    }  # fmt: skip
    return replaced(DEFAULT_TEXT, {f"\n{key} = {defaults[key]}": f"\n{key} = {value}" for key, value in values.items()})


def reset(home: Home, text: str) -> Home:
    home.settings_path.write_text(text)
    return Home.open(home.path)


_GIVEN = (
    "SELECT content_sha256, caption, state, source, source_kind, caption_origin FROM caption WHERE score IS NOT NULL"
)


def test_what_lacks_a_text_or_has_none_that_fits_gets_one_of_the_ledgers(home: Home) -> None:
    """Each of the 21 is asked once; a caption says who it comes from, of three domains at least; the old text stays."""
    summary = stage.caption(home)
    assert (summary.asked, summary.unreadable, summary.unanswered, summary.bank) == (21, 0, 0, 6)
    assert summary.kept > 15
    given = ask(home, _GIVEN)
    assert len({row[0] for row in given}) == len(given) == 21
    truth = {sha: shown(n) for n, sha in enumerate(_contents(home))}
    kept = [row for row in given if row[2] == "kept"]
    assert sum(truth[row[0]] == row[1] for row in kept) >= 0.9 * len(kept)
    assert {row[5] for row in given} == {"clip-retrieval"}
    assert {row[4] for row in given} == {"ledger"}
    for row in given:
        pairs = [source.removeprefix("pair:") for source in row[3].split(",")]
        sites = ask(home, "SELECT DISTINCT split_part(page_url, '/', 3) FROM occurrence WHERE pair_key IN "
                          "(SELECT unnest(?::VARCHAR[]))", pairs)  # fmt: skip
        assert len(sites) >= 3
    # The texts that were replaced are in the evidence and beside the caption in the shards; those that lacked one not.
    sealed = seal(home, where="caption_origin = 'clip-retrieval'")
    with DatasetReader.open(home.dataset(sealed.dataset)) as reader:
        beside = [json.loads(reader.metadata_json(n) or "{}") for n in range(reader.slots)]
    alts = {sha: alt_of(n) for n, sha in enumerate(_contents(home))}
    assert [b.get("alt") for b in beside] == [alts[b["content_sha256"]] for b in beside]
    assert {b.get("alt") is None for b in beside} == {True, False}


def test_nobody_is_asked_twice_but_where_the_answer_would_be_another(home: Home, weights: Path) -> None:
    """A second run asks nobody; under a lower threshold those are asked again that were not sure enough for it."""
    home = reset(home, settings(weights, threshold="0.99"))
    first = stage.caption(home)
    assert first.deferred > 0
    again = Captioning(home)
    assert again.units == 0
    assert again.finish().asked == first.asked
    lower = stage.caption(reset(home, settings(weights, threshold="0.5")))
    assert (lower.asked, lower.kept > first.kept) == (first.asked, True)
    [(rows,)] = ask(home, "SELECT count(*) FROM caption WHERE score IS NOT NULL")
    assert rows == first.asked + lower.kept - first.kept


def test_what_was_deferred_is_asked_again_when_the_bank_has_grown(home: Home, weights: Path, tmp_path: Path) -> None:
    """By a tenth more texts in the ledger, or by another phrase list: once, and of what was kept nobody asks again."""
    lists = f'["{tmp_path / "more.txt"}"]'
    home = reset(home, settings(weights, threshold="0.9", phrase_lists=lists))
    (tmp_path / "more.txt").write_text("a purple ring\n")
    first = stage.caption(home)
    assert first.deferred > 0
    ((texts,),) = ask(home, "SELECT count(alt) FROM occurrence")
    row = {"pair_key": "0" * 32, "url_key": "1" * 32, "image_url": "https://a.example/x.png", "alt": "a red ring"}
    with home.ledger() as ledger:
        ledger.append("occurrence", [row] * (texts // 10), key="not a tenth")
    assert Captioning(home).units == 0
    with home.ledger() as ledger:
        ledger.append("occurrence", [row], key="a tenth")
    grown = Captioning(home)
    assert len(grown._waiting) == first.deferred
    assert len(Captioning(home)._waiting) == first.deferred  # one that is killed leaves it so
    grown.do(0)
    assert grown.finish().asked == first.asked
    assert Captioning(home).units == 0
    (tmp_path / "more.txt").write_text("a purple ring\na violet ring\n")
    assert len(Captioning(home)._waiting) == first.deferred


def test_a_run_that_was_stopped_loses_nothing_and_asks_nobody_twice(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was appended before stands; the rest is asked by the next run."""
    monkeypatch.setattr(stage, "CHUNK", 8)
    stopped = Captioning(home)
    append, chunks = stopped._append, 0

    def cut_off(*given: Any) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 2:
            raise KeyboardInterrupt
        append(*given)

    monkeypatch.setattr(stopped, "_append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        stopped.do(0)
    [(before,)] = ask(home, "SELECT count(*) FROM caption WHERE score IS NOT NULL")
    assert before == 8
    assert stage.caption(home).asked == 21
    assert ask(home, "SELECT count(*), count(DISTINCT content_sha256) FROM caption WHERE score IS NOT NULL") == [
        (21, 21)
    ]


def test_a_text_under_a_tombstone_is_never_given_though_the_index_knows_it(home: Home, tmp_path: Path) -> None:
    """Put in force after bank and index were built, it takes effect with the next picture, and with the next bank."""
    running = Captioning(home)
    bank = running.captioner.bank  # type: ignore[attr-defined]  # a retrieval captioner's
    assert set(bank.texts) == set(CAPTIONS)
    [(pairs,)] = ask(home, "SELECT list(pair_key) FROM caption WHERE caption = 'a green square'")
    urls = ask(home, "SELECT image_url FROM occurrence WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))", pairs)
    home.tombstones().with_added("rem-1", urls=[url for (url,) in urls]).store(home.tombstones_path)
    running.do(0)
    given = {row[1] for row in ask(home, _GIVEN)}
    assert "a green square" not in given
    assert given >= {"a red square", "a blue square"}
    assert set(build_bank(home, tmp_path / "bank.arrow").texts) == set(CAPTIONS) - {"a green square"}
    [line] = inspected(home, [_picture(tmp_path, "a green square")], 6)
    assert "a green square" not in {candidate["text"] for candidate in line["candidates"]}


def test_a_source_under_a_tombstone_is_no_source_any_more(home: Home) -> None:
    """A text that enough other domains use is still given, and names those alone."""
    running = Captioning(home)
    assert running.captioner.threshold == 0.5
    pair, url = ask(home, "SELECT c.pair_key, o.image_url FROM caption c JOIN occurrence o USING (pair_key) "
                          "WHERE c.caption = 'a green square' ORDER BY ALL")[0]  # fmt: skip
    home.tombstones().with_added("rem-1", urls=[url]).store(home.tombstones_path)
    running.do(0)
    sources = [row[3] for row in ask(home, _GIVEN) if row[1] == "a green square"]
    assert sources
    assert not any(f"pair:{pair}" in source for source in sources)


def test_pictures_that_cannot_be_read_are_counted_and_wait(home: Home) -> None:
    """Pixels that are gone, or that are no picture, get no caption and stop nobody."""
    waiting = [sha for n, sha in enumerate(_contents(home)) if n % 8 == 0]
    PixelStore(home.pixels_path).delete_all(frozenset(waiting[:2]))
    summary = stage.caption(home)
    assert (summary.unreadable, summary.asked) == (2, 19)
    again = Captioning(home)
    assert again.do(0) == 2
    assert "captioner" not in again.__dict__  # they wait in every run, and load neither bank nor index
    standing = ask(home, "SELECT DISTINCT reason_code FROM standing WHERE verdict = 'defer'")
    assert ("caption-missing",) in standing


@pytest.mark.parametrize("shape", [(1, 1, 3), (15, 400, 3), (20, 321, 3)])
def test_what_shows_nothing_is_not_scored(home: Home, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """A picture of one pixel, or a thin strip, gets no caption and no score: an error when inspected, else it waits."""
    strip = simplejpeg.encode_jpeg(np.full(shape, 200, np.uint8), quality=95)
    (tmp_path / "strip.jpg").write_bytes(strip)
    [line] = inspected(home, [tmp_path / "strip.jpg"], 3)
    assert line["error"].startswith(f"{shape[1]} x {shape[0]} pixels")
    store, sha = PixelStore(home.pixels_path), _contents(home)[0]
    store.delete_all(frozenset([sha]))
    store.put(sha, strip)
    store.settle()
    assert stage.caption(home).unreadable == 1
    assert sha not in {row[0] for row in ask(home, _GIVEN)}


def test_a_coca_writes_its_own(home: Home, weights: Path) -> None:
    """Origin and source say that a model made the words; decoded in another way it is another captioner."""
    home = reset(home, settings(weights, kind='"coca"', max_tokens="8"))
    summary = stage.caption(home)
    assert (summary.asked, summary.bank) == (21, 0)
    assert "6 beams" in summary.model
    given = ask(home, _GIVEN)
    assert {row[5] for row in given} == {"coca"}
    assert {(row[3], row[4]) for row in given} == {(f"generated:{summary.model_digest}", "model")}
    truth = {sha: shown(n) for n, sha in enumerate(_contents(home))}
    assert sum(truth[row[0]] == row[1] for row in given) >= 18
    assert not bank_path(home).exists()
    greedy = reset(home, settings(weights, kind='"coca"', max_tokens="8", decoding='"greedy"', threshold="0.4"))
    assert Captioning(greedy).units == (1 if summary.deferred else 0)
    [line] = inspected(home, [_picture(home.path, "a blue square")], 3)
    assert line["candidates"][0]["text"] == "a blue square"
    assert line["candidates"][0]["mean_log_probability"] <= 0


def test_agreement_is_scored_where_that_is_asked(home: Home, weights: Path) -> None:
    """Every alt text that may be used gets a score; nothing else changes."""
    before = ask(home, "SELECT verdict, count(*) FROM standing GROUP BY ALL ORDER BY ALL")
    Captioning(reset(home, settings(weights, agreement="true")))
    assert ask(home, "SELECT count(DISTINCT content_sha256) FROM score WHERE name = 'clip-agreement'") == [(63,)]
    assert ask(home, "SELECT verdict, count(*) FROM standing GROUP BY ALL ORDER BY ALL") == before


# ── a model that brings no calibration ─────────────────────────────────────────────────────────────────────────────


def numbered(n: int) -> str | None:
    """What a picture shows and a number: a text that no other picture has, and the same but for a comma."""
    return f"{shown(n)}, {n}" if n % 8 else None


def test_a_threshold_is_measured_on_pairs_of_the_ledger(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With enough pairs the score is found from which on 9 in 10 are proven right, once; with too few it is refused."""
    (tmp_path / "words.txt").write_text("\n".join(CAPTIONS))
    text = settings(weights, threshold="0.0", phrase_lists=json.dumps([str(tmp_path / "words.txt")]))
    home = sealable_home(tmp_path / "home", 120, jpeg_of, alt=numbered, settings_text=text)
    decide(home)
    monkeypatch.setattr(calibration, "FEWEST_PAIRS", 106)
    with pytest.raises(ConfigurationError, match=r"105 allowed pairs .* too few"):
        stage.caption(home)
    monkeypatch.setattr(calibration, "FEWEST_PAIRS", 100)
    running = Captioning(home)
    measured = calibration.calibrated(home, running.choice, lambda done, total, note="": None)
    assert (measured.criterion, measured.reached) == ("unqualified", True)
    assert measured.calibration_pairs == 105
    assert measured.lower_bound >= 0.9
    assert measured.calibration_kept >= 29
    assert measured.precision >= 0.9
    assert measured.precision_exact == 0.0  # no two texts are the same: no more than the unqualified one is given
    assert running.threshold == measured.threshold
    assert running.do(0) == 15
    kept = [row for row in ask(home, _GIVEN) if row[2] == "kept"]
    assert len(kept) >= 5
    assert {row[1] for row in kept} <= set(CAPTIONS)
    waiting = len(Captioning(home)._waiting)
    with monkeypatch.context() as unmeasured:
        unmeasured.setattr(calibration, "measure", None)  # what was measured is read, not measured again
        assert Captioning(home).threshold == measured.threshold
    # As if the ledger had grown: it is measured anew, and those that were deferred before are asked again.
    monkeypatch.setattr(calibration, "GROWTH", 0.0)
    monkeypatch.setattr(calibration, "utc_now", lambda: utc_now() + timedelta(seconds=5))
    again = Captioning(home)
    assert waiting == 0
    assert again.units == (1 if len(kept) < 15 else 0)
    assert len(again._waiting) == 15 - len(kept)


def test_a_text_counts_for_a_pair_only_if_others_vouch_for_it() -> None:
    """What would not be in the bank without the pair's own site is not offered when the threshold is measured."""
    text = BankText("a red circle", ("pair:1", "pair:2"), "ledger", ("a.example", "b.example", "c.example"))
    listed = replace(text, source_kind="list", origins=())
    there = calibration._is_there_without
    assert there(Proposal(text, 0.5), "d.example", 3)
    assert not there(Proposal(text, 0.5), "a.example", 3)
    assert there(Proposal(text, 0.5), "a.example", 2)
    assert there(Proposal(listed, 0.5), "a.example", 3)


def test_weights_are_named_from_the_home(home: Home, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path of custody.toml is the home's, wherever a run starts; what no file and no tag is says both."""
    known = CaptionerChoice(home).digest
    shutil.copy(weights, home.path / "coca.safetensors")
    monkeypatch.chdir("/")
    assert CaptionerChoice(reset(home, settings(Path("coca.safetensors")))).digest == known
    with pytest.raises(ConfigurationError, match=r"knows no weights 'coca\.onnx'.* known by its ending: \.safetensors"):
        _ = CaptionerChoice(reset(home, settings(Path("coca.onnx")))).digest


def test_in_a_catalogue_a_picture_is_offered_its_own_text_and_no_more_than_the_bank_has(made: Home) -> None:
    """With more pairs to measure on than texts in the bank, each picture gets a part of theirs, its own among them."""
    pairs = [calibration.CalibratingPair(f"{n}", f"{shown(n)} {n}", "a.example", jpeg_of(n)) for n in range(10)]
    own = calibration._OwnTexts(CaptionerChoice(made), pairs, bank=4)
    assert own.offered == 4
    at_once = list(own.nearest([pair.picture for pair in pairs], 0, 8))
    assert [len(offered) for offered in at_once] == [4, 3, 3, 4, 3, 3, 4, 3, 3, 4]
    for pair, offered in zip(pairs, at_once, strict=True):
        assert pair.text in {proposal.text.text for proposal in offered}
        assert [p.cosine for p in offered] == sorted((p.cosine for p in offered), reverse=True)
    later = list(own.nearest([pair.picture for pair in pairs[7:]], 7, 8))
    assert [[p.text.text for p in offered] for offered in later] == [
        [p.text.text for p in offered] for offered in at_once[7:]
    ]


@pytest.mark.parametrize(
    ("made", "own", "same"),
    [
        ("a photo of a red apple", "red apple", True),
        ("an apple", "a red apple", True),
        ("a red pear", "a red apple", False),
        ("the", "a red apple", False),
        ("A Red apple!", "a red apple", True),
    ],
)
def test_made_up_words_are_right_with_all_the_words_or_none_too_many(made: str, own: str, same: bool) -> None:
    """A made-up text says the same as a person's if one of them has all the words of the other."""
    assert calibration.says_the_same(made, own) is same


# ── settings that make no captioner ────────────────────────────────────────────────────────────────────────────────


def test_settings_that_contradict_one_another_are_refused(home: Home, weights: Path) -> None:
    """An unknown kind, a CLIP of our own as a CoCa, an unknown decoding: one message each, before anything loads."""
    with pytest.raises(ConfigurationError, match=r"captions\.kind"):
        Captioning(reset(home, settings(weights, kind='"oracle"')))
    with pytest.raises(ConfigurationError, match="writes no captions"):
        Captioning(reset(home, settings(weights, kind='"coca"', pretrained='"trained:latest"')))
    assert not stage.needs_training(reset(home, settings(weights, kind='"coca"', pretrained='"trained:latest"')))
    with pytest.raises(ConfigurationError, match="decoding"):
        Captioning(reset(home, settings(weights, kind='"coca"', decoding='"best"')))


def _contents(home: Home) -> list[str]:
    """The contents in the order of their pictures."""
    return [sha for (sha,) in ask(home, "SELECT content_sha256 FROM content ORDER BY url_key")]


def _picture(folder: Path, caption: str) -> Path:
    path = folder / "asked.jpg"
    rgb: Rgb = drawn(caption, 5000)
    path.write_bytes(simplejpeg.encode_jpeg(rgb, quality=95, colorsubsampling="444"))
    return path
