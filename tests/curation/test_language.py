"""The language of a text: what can be told, what cannot, and weights that are checked."""

# ruff: noqa: RUF001 - texts in many languages

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import language
from curation.language import LANGUAGES, detect
from policy.errors import ConfigurationError

SENTENCES = (
    ("en", "A red apple lies on a wooden table next to a glass of water"),
    ("de", "Ein roter Apfel liegt auf einem Holztisch neben einem Glas Wasser"),
    ("fr", "Une pomme rouge est posée sur une table en bois à côté d'un verre d'eau"),
    ("es", "Una manzana roja está sobre una mesa de madera junto a un vaso de agua"),
    ("it", "Una mela rossa si trova su un tavolo di legno accanto a un bicchiere d'acqua"),
    ("nl", "Een rode appel ligt op een houten tafel naast een glas water"),
    ("pl", "Czerwone jabłko leży na drewnianym stole obok szklanki wody"),
    ("tr", "Ahşap bir masanın üzerinde bir bardak suyun yanında kırmızı bir elma duruyor"),
    ("fi", "Punainen omena on puisella pöydällä vesilasin vieressä"),
    ("ru", "Красное яблоко лежит на деревянном столе рядом со стаканом воды"),
    ("ja", "木のテーブルの上に赤いりんごが置いてあります"),
    ("zh", "木桌上放着一个红苹果和一杯水"),
    ("ko", "나무 탁자 위에 물 한 잔과 빨간 사과가 놓여 있다"),
    ("el", "Ένα κόκκινο μήλο βρίσκεται πάνω σε ένα ξύλινο τραπέζι"),
    ("ar", "تفاحة حمراء على طاولة خشبية بجانب كوب من الماء"),
)


@pytest.mark.parametrize(("code", "text"), SENTENCES)
def test_a_sentence_is_in_its_language(code: str, text: str) -> None:
    """A caption of ten words is told with certainty enough for the strict ruleset."""
    found = detect(text)
    assert found.code == code
    assert found.probability >= 0.8


@pytest.mark.parametrize(
    "text",
    [
        *("apple", "A cow.", "A badger.", "red apple", "A green hat.", "The letter G.", "Tool options", "blue car"),
        *("Times Square", "A Silver Gull.", "Pinguin", "", "12:30", "???", "ok"),
    ],
)
def test_of_two_words_nothing_is_certain(text: str) -> None:
    """A short English text is never called another language with certainty, nor is what is no text at all."""
    found = detect(text)
    assert found.code == "en" or found.probability < 0.8


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_an_answer(text: str) -> None:
    """Whatever the characters: a known language, a probability, and the same again."""
    found = detect(text)
    assert found.code in LANGUAGES
    assert 0 <= found.probability <= 1
    assert detect(text) == found


@given(st.sampled_from(SENTENCES), st.sampled_from(("\n", "  ", "\t")))
def test_white_space_changes_nothing(sentence: tuple[str, str], gap: str) -> None:
    """Lines and indents are no part of a language."""
    _, text = sentence
    assert detect(f" {text.replace(' ', gap)}\n") == detect(text)


@pytest.fixture
def unloaded() -> Iterator[None]:
    """The detector as a new process has it, before and after."""
    language._identifier.cache_clear()
    yield
    language._identifier.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_weights_that_are_missing_or_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, which digest was expected, what to install: nothing is guessed without the weights."""
    with monkeypatch.context() as changed:
        changed.setattr(language, "WEIGHTS_PACKAGE", "no_such_package_of_weights")
        with pytest.raises(ConfigurationError, match=r"the language detector are missing .*Install "):
            detect("A red apple")
    with monkeypatch.context() as changed:
        changed.setattr(language, "WEIGHTS_FILE", "data/none.xz")
        with pytest.raises(
            ConfigurationError, match=rf"none\.xz: weights .* cannot be read .*{language.WEIGHTS_SHA256}"
        ):
            detect("A red apple")
    (tmp_path / "model.npz.xz").write_bytes(b"other weights")
    with monkeypatch.context() as changed:
        changed.setattr(language, "WEIGHTS_FILE", str(tmp_path / "model.npz.xz"))  # an absolute path stands for itself
        with pytest.raises(ConfigurationError, match=rf"not the weights .*expected {language.WEIGHTS_SHA256}"):
            detect("A red apple")
