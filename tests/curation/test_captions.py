"""Captions: what may enter the bank, what is answered from it, and what is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation import captions
from curation.captions import BankEntry, BankText, CaptionBank, RetrievalCaptioner, unqualified
from curation.clip_model import Embeddings, Rgb
from policy.errors import ConfigurationError

COLOURS = {"a red square": (255, 0, 0), "a green square": (0, 255, 0), "a blue square": (0, 0, 255)}


class ColourClip:
    """A CLIP that knows colours: a picture is its mean colour, a text the colour that it names."""

    digest = "c" * 64
    scale = 10.0

    def __init__(self) -> None:
        self.texts_encoded = 0

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings:
        means = np.array([picture.reshape(-1, 3).mean(axis=0) for picture in pictures], np.float32).reshape(-1, 3)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        self.texts_encoded += len(texts)
        found = [next((c for name, c in COLOURS.items() if name in text), (1, 1, 1)) for text in texts]
        rows = np.array(found, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def listed(*texts: str) -> list[BankEntry]:
    return [BankEntry(text, f"list:colours:{i}", "list", ()) for i, text in enumerate(texts, 1)]


def seen(text: str, *sites: str) -> list[BankEntry]:
    return [BankEntry(text, f"pair:{site}", "ledger", (site,)) for site in sites]


def plain(*colour: int) -> Rgb:
    return np.full((9, 7, 3), colour, np.uint8)


def test_a_text_of_one_site_never_enters_the_bank() -> None:
    """An alt text counts only when as many registrable domains use it as the ruleset asks; occurrences do not count."""
    entries = seen("Jane Doe at home", "a.example", "a.example", "a.example") + seen("a lake", "a.example", "b.example")
    assert CaptionBank.build(entries, min_origins=2).texts == ("a lake",)
    assert CaptionBank.build(entries, min_origins=3).texts == ()


def test_equal_texts_are_one_and_keep_every_source() -> None:
    """Spelling and spaces make no second entry; all sources stay with it, for the day one of them is removed."""
    entries = seen("A  Lake", "a.example", "b.example") + seen("a lake", "c.example", "d.example", "e.example")
    (entry,) = CaptionBank.build(entries, min_origins=3).entries
    assert entry.text == "a lake"
    assert entry.sources == tuple(f"pair:{site}.example" for site in "abcde")
    assert entry.source_kind == "ledger"


def test_a_phrase_list_vouches_alone() -> None:
    """A listed phrase needs no domains, and alt texts that equal it are not sources of it."""
    entries = listed("Red Apple") + seen("red apple", "a.example", "b.example")
    (entry,) = CaptionBank.build(entries, min_origins=2).entries
    assert (entry.text, entry.sources, entry.source_kind) == ("Red Apple", ("list:colours:1",), "list")


def test_tombstoned_texts_are_left_out() -> None:
    """A text that a removal names is in no bank, from whatever source and in whatever spelling it was removed."""
    entries = listed("a lake", "a hill", "a tree") + seen("A Tree", "a.example") + seen("a tree", "b.example")
    bank = CaptionBank.build(entries, min_origins=2, is_tombstoned=lambda text: text in ("a lake", "A Tree"))
    assert bank.texts == ("a hill",)


@pytest.mark.parametrize(
    "text",
    [
        "Click to enlarge", "Photo by someone", "Share on anything", "© 2024 A Company", "logo.png", "--", "12",
        "Image may contain: person", "Opens in a new window", "user@example.org", "Profile picture", "Read more",
    ],
)  # fmt: skip
def test_boilerplate_is_no_caption(text: str) -> None:
    """What sites write under any picture never becomes a caption, however many domains write it."""
    assert CaptionBank.build(seen(text, "a.example", "b.example", "c.example"), min_origins=2).texts == ()


@pytest.mark.parametrize(
    "text", ["a red apple", "two photographers at work", "backpack", "sharing a meal", "猫と犬の絵"]
)
def test_descriptions_are_no_boilerplate(text: str) -> None:
    """Words that merely begin like boilerplate stay."""
    assert not captions.is_boilerplate(text)


def test_the_digest_names_the_bank() -> None:
    """The same texts in another order are the same bank, other texts another one."""
    one, two = listed("a lake", "a hill"), listed("a hill", "a lake")
    banks = [CaptionBank.build(entries, min_origins=1) for entries in (one, two, one[:1])]
    assert banks[0].digest == banks[1].digest != banks[2].digest


def test_a_picture_gets_the_nearest_text_and_where_it_came_from() -> None:
    """Each result carries text, sources, origin, model and score; below the threshold it is not kept."""
    captioner = RetrievalCaptioner(ColourClip(), CaptionBank.build(listed(*COLOURS), min_origins=1), threshold=0.9)
    red, grey, blue = captioner.caption_images([plain(250, 5, 5), plain(120, 110, 115), plain(0, 0, 200)])
    assert (red.text, red.kept, red.origin) == ("a red square", True, "clip-retrieval")
    assert red.source == "list:colours:1"
    assert red.cosine > 0.99
    assert red.score == pytest.approx(red.cosine, abs=0.01)
    assert red.model_digest == ColourClip.digest
    assert (blue.text, blue.kept) == ("a blue square", True)
    assert not grey.kept
    assert grey.score == pytest.approx(grey.cosine / 3, abs=0.1)  # three colours are as near
    assert captioner.caption_images([]) == []


def test_a_bank_of_one_text_still_answers() -> None:
    """Where there is no second best, the cosine is the score."""
    captioner = RetrievalCaptioner(
        ColourClip(), CaptionBank.build(listed("a red square"), min_origins=1), threshold=0.5
    )
    (result,) = captioner.caption_images([plain(9, 0, 0)])
    assert result.score == pytest.approx(result.cosine)


def test_what_may_not_be_given_any_more_is_passed_over() -> None:
    """A proposal that does not stand is not given: the next that does is, with the sources that it has left."""
    captioner = RetrievalCaptioner(ColourClip(), CaptionBank.build(listed(*COLOURS), min_origins=1), threshold=0.1)
    proposed = captioner.propose([plain(200, 100, 0), plain(0, 0, 9)])
    assert [p.text.text for p in proposed[0]] == ["a red square", "a green square", "a blue square"]

    def standing(texts: Sequence[BankText]) -> list[BankText | None]:
        return [None if "red" in text.text else replace(text, sources=("list:left:1",)) for text in texts]

    first, second = captions.chosen(captioner, proposed, standing)
    assert first is not None
    assert second is not None
    assert (first.text, first.sources, second.text) == ("a green square", ("list:left:1",), "a blue square")
    assert first.cosine == proposed[0][1].cosine
    assert captions.chosen(captioner, proposed, lambda texts: [None] * len(texts)) == [None, None]


def test_embeddings_are_computed_once_a_bank(tmp_path: Path) -> None:
    """The cache serves the same model, bank and templates, and no others; what is damaged is computed again."""
    clip, bank = ColourClip(), CaptionBank.build(listed(*COLOURS), min_origins=1)
    first = RetrievalCaptioner(clip, bank, threshold=0.5, cache_dir=tmp_path)
    again = RetrievalCaptioner(clip, bank, threshold=0.5, cache_dir=tmp_path)
    assert clip.texts_encoded == 3
    pictures = [plain(9, 1, 0), plain(0, 3, 9)]
    assert first.caption_images(pictures) == again.caption_images(pictures)
    RetrievalCaptioner(clip, bank, threshold=0.5, cache_dir=tmp_path, templates=("a photo of {}",))
    assert clip.texts_encoded == 6
    for file in tmp_path.rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:40])
    RetrievalCaptioner(clip, bank, threshold=0.5, cache_dir=tmp_path)
    assert clip.texts_encoded == 9


def test_templates_are_averaged() -> None:
    """A text's embedding is the normalised mean over the templates."""
    bank = CaptionBank.build(listed(*COLOURS), min_origins=1)
    captioner = RetrievalCaptioner(ColourClip(), bank, threshold=0.5, templates=("{}", "a drawing of {}"))
    assert captioner.caption_images([plain(0, 0, 9)])[0].cosine == pytest.approx(1.0)


def test_what_cannot_caption_says_so() -> None:
    """Without a threshold, with an empty bank, a useless template or an unknown source, nothing is captioned."""
    bank = CaptionBank.build(listed("a red square"), min_origins=1)
    with pytest.raises(ConfigurationError, match="score"):
        RetrievalCaptioner(ColourClip(), bank, threshold=None)
    with pytest.raises(ConfigurationError, match="empty"):
        RetrievalCaptioner(ColourClip(), CaptionBank.build([], min_origins=1), threshold=0.5)
    with pytest.raises(ConfigurationError, match="template"):
        RetrievalCaptioner(ColourClip(), bank, threshold=0.5, templates=("a picture",))
    with pytest.raises(ConfigurationError, match="source kind"):
        CaptionBank.build([BankEntry("a lake", "x", "guess", ())], min_origins=1)
    with pytest.raises(ConfigurationError, match="bank_min_origins"):
        CaptionBank.build([], min_origins=0)


def test_importing_captions_loads_no_torch() -> None:
    """`import curation.captions` brings neither torch nor open_clip."""
    code = "import sys, curation.captions\nassert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(captions.__file__).parents[1])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("man: light skin tone", "Woman: beard", True),
        ("man cook", "cook", True),
        ("flag: Norway", "flag: Oman", True),
        ("red apple", "green apple", False),
        ("woman", "woman", True),
        ("waving hand: medium-dark skin tone", "waving hand", True),
        ("man: beard", "person", True),
        (": a colon", "person", False),
    ],
)
def test_qualifiers_are_left_out(one: str, other: str, same: bool) -> None:
    """Sex, skin tone and what follows a colon are no part of an unqualified text, which is never empty."""
    assert (unqualified(one) == unqualified(other)) is same
