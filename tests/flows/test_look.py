"""Looking: what passes every cheaper rule is measured once, and judged by what was measured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.pixel_store import PixelStore
from flows.home import Home
from flows.stages import look as stage
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.look import Looking, look
from flows.stages.removing import approving, requests
from policy.evidence import Score
from tests.builders import policy_without, replaced
from tests.flows.sealable import sealable_home

PICTURES = 12
BLANK, DAMAGED = 3, 5


def jpeg(number: int) -> bytes:
    """A picture of coloured squares; the fourth one is blank, the sixth is no picture."""
    if number == DAMAGED:
        return b"no picture"
    squares = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(squares if number != BLANK else np.full_like(squares, 90))
    held = io.BytesIO()
    picture.resize((96, 96), Image.Resampling.NEAREST).save(held, "JPEG", quality=90)
    return held.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = sealable_home(tmp_path / "home", PICTURES, jpeg, looked_at=False)
    # Squares of noise are like one another: what is like a removed picture is not what is tested here.
    exact = {'suppression = "near"': 'suppression = "exact"'}
    made.policy_path.write_text(replaced(policy_without("duplicate"), exact))
    return Home.open(made.path)


def scores(home: Home) -> dict[str, int]:
    """How many contents have each score."""
    with home.ledger(readonly=True) as ledger:
        return dict(ledger.query("SELECT name, count(DISTINCT content_sha256) FROM score GROUP BY name"))


def standing(home: Home) -> dict[str, int]:
    with home.ledger(readonly=True) as ledger:
        return dict(ledger.query("SELECT verdict || ' ' || reason_code, count(*) FROM standing GROUP BY ALL"))


@dataclass(frozen=True)
class Counting:
    """A scorer that tells whom it was asked of."""

    digest: str
    asked: list[int]
    value: float = 0.25
    id: str = "counting/1"
    names: tuple[str, ...] = ("nsfw",)

    def score(self, pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> list[tuple[float, ...]]:
        self.asked.append(len(pictures))
        return [(self.value,)] * len(pictures)


def use(monkeypatch: pytest.MonkeyPatch, scorer: Counting) -> None:
    """This one in place of the model that looks for what is not safe."""
    real = stage.scorer_of
    monkeypatch.setattr(stage, "scorer_of", lambda home, name: scorer if name == "safety" else real(home, name))


def test_real_models_measure_everything_once(home: Home) -> None:
    """A first run scores what passes and judges it; a second one finds everything known and changes nothing."""
    first = look(home)
    assert (first.pictures, first.unreadable) == (PICTURES, 1)
    assert [(seen.mechanism, seen.measured) for seen in first.looked] == [("quality", 12), ("safety", 11)]
    assert scores(home)["nsfw"] == PICTURES - 2
    assert standing(home) == {"allow licence-allowed": PICTURES - 2, "deny too-plain": 1, "defer not-observed": 1}
    with home.ledger(readonly=True) as ledger:
        rows = ledger.query("SELECT count(*) FROM evidence")
    again = look(home)
    assert [(seen.mechanism, seen.measured) for seen in again.looked] == [("quality", 1), ("safety", 1)]  # the damaged
    assert (again.pairs, again.decided.changed) == (0, 0)
    with home.ledger(readonly=True) as ledger:
        assert ledger.query("SELECT count(*) FROM evidence") == rows


def test_what_a_cheaper_look_keeps_out_no_model_sees(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blank picture is refused by its entropy before the model is asked, and its pixels go."""
    use(monkeypatch, counting := Counting("a" * 64, []))
    look(home)
    assert sum(counting.asked) == PICTURES - 2
    assert len(set(PixelStore(home.pixels_path).keys())) == PICTURES - 1


def test_what_was_refused_before_is_not_looked_at(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that a removal holds, or that another rule refuses, costs no model anything."""
    use(monkeypatch, counting := Counting("a" * 64, []))
    with home.ledger(readonly=True) as ledger:
        [(url,), (sha,)] = ledger.query(
            "(SELECT image_url FROM occurrence ORDER BY url_key LIMIT 1) UNION ALL "
            "(SELECT content_sha256 FROM content ORDER BY url_key LIMIT 1 OFFSET 1)"
        )
    for kind, value in (("url", url), ("sha256", sha)):
        request = requests.add(home, kind, value)
        approving.approve(home, request.id, by="somebody")
    assert look(home).pictures == PICTURES - 2
    assert sum(counting.asked) == PICTURES - 4


def test_a_run_that_ended_early_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed run had measured is not measured again, and the verdicts come out the same."""
    use(monkeypatch, counting := Counting("a" * 64, []))
    monkeypatch.setattr(stage, "UNIT", 4)
    early = Looking(home)
    for unit in range(early.begin("quality")):
        early.do(unit)
    assert early.begin("safety") == 3
    early.do(0)
    done = sum(counting.asked)
    look(home)
    assert sum(counting.asked) == PICTURES - 2
    assert done in (3, 4)  # the damaged one may have been among them
    assert standing(home) == {"allow licence-allowed": PICTURES - 2, "deny too-plain": 1, "defer not-observed": 1}


def test_another_model_is_asked_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score of other weights does not count: all is measured with the new ones, and judged by what they say."""
    use(monkeypatch, Counting("a" * 64, [], value=0.1))
    look(home)
    use(monkeypatch, newer := Counting("b" * 64, [], value=0.9))
    look(home)
    assert sum(newer.asked) == PICTURES - 2
    assert standing(home)["deny nsfw"] == PICTURES - 2


def test_evidence_keeps_what_others_have_measured(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of other stages stay beside those of this one, which say who gave them."""
    use(monkeypatch, Counting("a" * 64, []))
    other = Score("clip-agreement", 0.3, "clip@1")
    with home.ledger() as ledger:
        [(pair,)] = ledger.query("SELECT pair_key FROM evidence ORDER BY pair_key LIMIT 1")
        observed = replace(newest_evidence(ledger, [pair])[pair], scores=(other,))
        ledger.append_many(evidence_batches(ledger, [(pair, observed)], "test", "test"))
    look(home)
    with home.ledger(readonly=True) as ledger:
        found = newest_evidence(ledger, [pair])[pair]
    assert found.score("clip-agreement") == 0.3
    assert Score("nsfw", 0.25, f"counting/1@{'a' * 16}") in found.scores


def test_languages_are_told_where_the_ruleset_asks(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ruleset that names languages has every text's told, once; one that names none costs nothing."""
    use(monkeypatch, Counting("a" * 64, []))
    look(home)
    assert "text_language" not in newest(home)
    home.policy_path.write_text(replaced(home.policy_path.read_text(), {"languages = []": 'languages = ["de"]'}))
    asked = look(Home.open(home.path))
    assert asked.pairs == PICTURES
    assert '"text_language":{"code":"en"' in newest(home)
    assert look(Home.open(home.path)).pairs == 0


def newest(home: Home) -> str:
    """The newest evidence of one pair."""
    with home.ledger(readonly=True) as ledger:
        [(body,)] = ledger.query(
            "SELECT arg_max(body_json, batch_seq) FROM evidence WHERE pair_key = (SELECT max(pair_key) FROM evidence)"
        )
    return str(body)


def test_progress_says_how_long_it_takes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar names what is looked for and its rate; the last word is that all is done."""
    use(monkeypatch, Counting("a" * 64, []))
    told: list[tuple[int, int, str]] = []
    look(home, lambda done, total, note="": told.append((done, total, note)))
    mine = [row for row in told if row[2].startswith("look: safety")]
    assert mine[-1][:2] == (PICTURES - 1, PICTURES - 1)
    assert mine[-1][2].endswith("/s")
