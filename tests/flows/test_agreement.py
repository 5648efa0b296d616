"""Agreement in a home: asked once, kept beside the text, judged when the ruleset asks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.clip_model import Embeddings
from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages.agreement import TRAINED_ON_IT, score_agreement
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.removing import approving, requests
from policy.evidence import Evidence, Score
from policy.ruleset import Ruleset
from tests.builders import replaced
from tests.flows.sealable import sealable_home

PICTURES = 6
RED, BLUE = (250, 10, 10), (10, 10, 250)


class ColourClip:
    """A CLIP that knows red from blue, and counts what it is asked."""

    name: Final = "colour"

    def __init__(self, digest: str = "c" * 64) -> None:
        self.digest = digest
        self.pictures = 0

    def encode_images(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Embeddings:
        self.pictures += len(pictures)
        found = np.stack([p[..., (0, 2)].mean(axis=(0, 1)) for p in pictures]).astype(np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        found = np.array([[1.0, 0.05] if "red" in t or "rot" in t else [0.05, 1.0] for t in texts], np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def jpeg(number: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (96, 96), (RED, BLUE)[number % 2]).save(held, "JPEG", quality=95, comment=f"{number}".encode())
    return held.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three red and three blue pictures, each but the last said to be red."""
    home = sealable_home(tmp_path_factory.mktemp("agreement") / "home", PICTURES, jpeg)
    pairs = sorted(evidence_of(home))
    texts = ["A red square", "a red square ", "ein rotes Quadrat auf weissem Grund", "red", "red wall", None]
    rewrite(home, dict(zip(pairs, texts, strict=True)))
    decide(home)
    return home.path


@pytest.fixture
def home(tmp_path: Path, made: Path) -> Home:
    """A copy of it."""
    return Home.open(Path(shutil.copytree(made, tmp_path / "home")))


def is_blue(pair: str) -> bool:
    """Whether the pair's picture is: its key ends with the picture's number."""
    return int(pair[8:], 16) % 2 == 1


def evidence_of(home: Home) -> dict[str, Evidence]:
    """The newest evidence of every pair."""
    with home.ledger(readonly=True) as ledger:
        return newest_evidence(ledger, [p for (p,) in ledger.query("SELECT DISTINCT pair_key FROM evidence")])


def of_the_picture(evidence: Evidence) -> tuple[Score, ...]:
    return tuple(score for score in evidence.scores if not score.name.startswith("clip-"))


def of_the_text(evidence: Evidence) -> tuple[Score, ...]:
    return tuple(score for score in evidence.scores if score.name.startswith("clip-"))


def rewrite(home: Home, texts: dict[str, str | None]) -> None:
    """As if a crawl had found other texts."""
    known = evidence_of(home)
    new = [
        (
            pair,
            replace(known[pair], alt=text, text_origin="alt", scores=of_the_picture(known[pair]), text_language=None),
        )
        for pair, text in texts.items()
    ]
    with home.ledger() as ledger:
        head, _ = ledger.head()
        ledger.append_many(evidence_batches(ledger, new, "test", f"test/{head}"))


def ask(home: Home, **keys: str) -> Home:
    """The home with these lines of [text] in its ruleset."""
    text = Ruleset.default_text()
    for key, value in keys.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"{key} =")]
        text = replaced(text, {f"\n{line}\n": f"\n{key} = {value}\n"})
    home.policy_path.write_text(text)
    return Home.open(home.path)


def reasons(home: Home) -> list[str]:
    """What the text's rule says of each pair, by the pairs' keys."""
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT reason_code FROM latest_decision WHERE rule = 'text' ORDER BY pair_key")
    return [code for (code,) in rows]


def test_every_text_that_may_be_used_is_asked_once(home: Home) -> None:
    """Each pair's score stands in its evidence under the CLIP's name; a second run asks nothing; another CLIP all."""
    clip = ColourClip()
    found = score_agreement(home, clip)
    assert (found.by, found.pictures, found.pairs, found.trained_on) == ("colour@" + "c" * 16, 5, 5, 0)
    evidence = evidence_of(home)
    assert all(e.score("clip-agreement") is not None for e in evidence.values() if e.alt)
    assert [of_the_text(e) for e in evidence.values() if not e.alt] == [()]
    assert {score.by for e in evidence.values() for score in of_the_text(e)} == {found.by}
    assert all(of_the_picture(e) for e in evidence.values())
    asked = clip.pictures
    assert score_agreement(home, clip).pairs == 0
    assert clip.pictures == asked == 10  # mirrored ones too
    assert score_agreement(home, ColourClip("d" * 64)).pairs == 5
    [names] = {tuple(score.name for score in of_the_text(e)) for e in evidence_of(home).values() if e.alt}
    assert names == ("clip-agreement", "clip-agreement-flipped")


def test_the_table_of_scores_has_them_by_content(home: Home) -> None:
    """What the audits read: one row a content, name and CLIP."""
    score_agreement(home, ColourClip())
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query(
            "SELECT name, model_digest, count(*), count(DISTINCT content_sha256), round(min(value), 1), max(value) "
            "FROM score WHERE name LIKE 'clip-%' GROUP BY ALL ORDER BY name"
        )
    assert [row[:5] for row in rows] == [
        ("clip-agreement", "c" * 64, 5, 5, 0.1),
        ("clip-agreement-flipped", "c" * 64, 5, 5, 0.1),
    ]
    assert all(row[5] > 0.9 for row in rows)


def test_a_new_text_is_asked_anew(home: Home) -> None:
    """A score is of a picture and a text: where a crawl finds another text, the old score is nobody's any more."""
    score_agreement(home, clip := ColourClip())
    pair, before = next((pair, e) for pair, e in sorted(evidence_of(home).items()) if e.alt)
    rewrite(home, {pair: "a blue square"})
    decide(home)
    assert score_agreement(home, clip).pairs == 1
    assert evidence_of(home)[pair].score("clip-agreement") != before.score("clip-agreement")


def test_a_text_that_clip_does_not_find_waits_for_a_caption(home: Home) -> None:
    """Asked by the ruleset, what disagrees is deferred and what agrees allowed; unasked before, nothing is either."""
    home = ask(home, min_agreement="0.5")
    decide(home)
    assert set(reasons(home)) == {"not-observed", "caption-missing"}
    score_agreement(home, ColourClip())
    decide(home)
    said = ("alt-text", "text-disagrees")
    wanted = [said[is_blue(pair)] if e.alt else "caption-missing" for pair, e in sorted(evidence_of(home).items())]
    assert reasons(home) == wanted
    home = ask(home, min_agreement="0.01")  # the ruleset alone, without a model
    decide(home)
    assert reasons(home).count("alt-text") == 5


def test_a_clip_that_was_trained_on_a_picture_says_so(home: Home) -> None:
    """Scores of pictures in the CLIP's own training set are marked where they stand."""
    shas = sorted(e.content_sha256 or "" for e in evidence_of(home).values() if e.alt)
    with home.ledger() as ledger:
        ledger.append("slot", [{"dataset": "D", "ordinal": 0, "content_sha256": shas[0]}], key="slots")
        ledger.append("run", [{"run": "clip-1", "kind": "clip", "dataset": "D"}], key="run")
    found = score_agreement(home, ColourClip(), run="clip-1")
    assert (found.pairs, found.trained_on) == (5, 1)
    marked = [e for e in evidence_of(home).values() if any(s.by.endswith(TRAINED_ON_IT) for s in e.scores)]
    assert [e.content_sha256 for e in marked] == [shas[0]]
    assert score_agreement(home, ColourClip(), run="clip-1").pairs == 0


def test_what_is_refused_held_or_gone_is_not_asked(home: Home) -> None:
    """A removal, a denial and pixels that are no longer there cost no model anything."""
    evidence = sorted((p, e) for p, e in evidence_of(home).items() if e.alt)
    request = requests.add(home, "url", evidence[0][1].image_url)
    approving.approve(home, request.id, by="somebody")
    PixelStore(home.pixels_path).delete(evidence[1][1].content_sha256 or "")
    decide(home)
    clip = ColourClip()
    assert score_agreement(home, clip).pairs == 3
    assert clip.pictures == 6


def test_damaged_pixels_are_counted_and_left_without_a_score(home: Home) -> None:
    """A picture that cannot be read is not scored by accident, and the others are."""
    sha = next(e.content_sha256 for e in evidence_of(home).values() if e.alt)
    store = PixelStore(home.pixels_path)
    store.put(sha or "", b"no picture")
    store.settle()
    found = score_agreement(home, ColourClip())
    assert (found.pairs, found.unreadable) == (4, 1)
