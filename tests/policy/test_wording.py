"""What a text is made of: labelled by hand, texts that describe and texts that do not."""

# ruff: noqa: RUF001 - texts in several scripts

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.ruleset import Ruleset
from policy.wording import boilerplate, is_written_in, keywords, mentions_boilerplate, script

EMPTY_WORDS = frozenset(word.casefold() for word in Ruleset.default().text.generic_words)

BOILERPLATE = (
    *("Click here to enlarge", "click image to zoom", "Tap for full size", "Opens in a new window", "Read more"),
    *(
        "Learn more",
        "See more photos",
        "Share on Facebook",
        "Follow us on Instagram",
        "Like us",
        "Subscribe",
        "Sign in",
    ),
    *("Log in", "Sign up here", "Cookie policy", "We use cookies", "Accept all cookies", "Advertisement", "Sponsored"),
    *("Image not available", "No image available", "No photo", "Photo coming soon", "image unavailable", "Loading…"),
    *(
        "Placeholder image",
        "Profile picture",
        "User avatar",
        "Back to top",
        "Skip to content",
        "Home page",
        "Next page",
    ),
    *("Add to cart", "Zum Warenkorb", "Bild: hier klicken", "Cliquez pour agrandir", "En savoir plus", "Leer más"),
    *("© 2024 Example Ltd. All rights reserved", "Copyright Jane Doe", "(c) 2008 J. Doe", "All rights reserved"),
    *("Photo by Jane Doe", "Photo credit: Reuters", "Image courtesy of NASA", "Quelle: dpa", "Credit: J. Doe / AP"),
    *("Photograph by J. Doe, 2019", "Illustration by Jo", "Fotografie: A. Maier", "https://example.com/a", "@someone"),
)
DESCRIPTIONS = (
    *(
        "A stop sign in the snow",
        "Cookies on a plate",
        "a cookie",
        "A woman loading hay onto a cart",
        "Two men log wood",
    ),
    *("An advertisement for soap from 1920, with a child in a tub", "A child clicking through a picture book"),
    *("A click beetle on a leaf", "A page of a medieval book of hours", "A sign up on the hill", "A share of the cake"),
    *("A cat, photographed by moonlight on a roof in Naples", "portrait of a sponsor", "a subscription box with fruit"),
    *(
        "A copyrighted-looking stamp on an envelope with three flowers, © Jane Doe",
        "back of a chair",
        "a home on a hill",
    ),
    *(
        "Photo from the summit of a snowy mountain under a blue sky",
        "A profile of a Roman emperor",
        "sliding down a hill",
    ),
    *("Two photographers at work", "A placeholder stone on the board of a game of go", "ein Schild hinter dem Haus"),
    *(
        "A woman following a dog",
        "Lézard vert",
        "LÃ©zard vert",
        "A cart",
        "fish in a new tank",
        "猫と犬の絵",
        "Кот на окне",
    ),
    *("Image may contain two people walking a dog on a beach", "A tram in Lisbon, source of many postcards"),
)


@pytest.mark.parametrize("text", BOILERPLATE)
def test_boilerplate_is_told(text: str) -> None:
    """Words about the page, its maker or its address, and nothing of the picture."""
    assert boilerplate(text, EMPTY_WORDS)
    assert mentions_boilerplate(text)


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_a_description_is_no_boilerplate_whatever_words_it_holds(text: str) -> None:
    """A sign, cookies, an advertisement and a page can be seen; a credit behind a description is no harm."""
    assert boilerplate(text, EMPTY_WORDS) == ""


STUFFED = (
    *("red apple, green apple, apple fruit, fresh apple, apple tree, apple juice", "shoes shoes shoes cheap shoes buy"),
    *(
        "shoes, boots, sneakers, sandals, heels, slippers",
        "cat|dog|bird|fish|horse|cow",
        "Sofa / Couch / Bed / Desk / Lamp / Rug",
    ),
    *("wedding photographer london, wedding photography, london wedding, bride, groom, venue",),
    *(
        "Buy red shoes online - free shipping",
        "Best price guaranteed! Free delivery on all sofas",
        "50 % off, sale, discount",
    ),
    *(
        "iPhone case black SKU: 12345 $12.99",
        "Art.-Nr. 4711 Lampe 39,90 € kaufen",
        "Red dress, cheap, sale, women, 2024, fashion",
    ),
    *("Hotel Rome Hotel cheap Hotel center Hotel deals Hotel booking", "Sneaker günstig kaufen versandkostenfrei"),
    *(
        "Lampe; Leuchte; Licht; Beleuchtung; Deckenlampe; Wohnzimmer",
        "Canon EOS 5D, kamera, foto, objektiv, dslr, tasche",
    ),
    *("кошка, собака, птица, рыба, лошадь, корова", "りんご、果物、赤、青森、通販、送料無料", "купить диван недорого"),
    *(
        "Table | Chair | Bench | Stool | Shelf | Furniture Store Berlin",
        "logo design · branding · web · print · seo · ads",
    ),
    *(
        "In stock: vacuum cleaner, wholesale, best prices",
        "Poster 30x40 – Kunstdruck – Wandbild – Deko – Geschenk – Bild",
    ),
    *("apples apples apples apples and pears in a bowl",),
)
PLAIN = (
    *(
        "A US 25 cent piece ($.25) called a quarter.",
        "Euro mince - 10 centů (0,10 €).",
        "A price tag of $5 on a pumpkin",
    ),
    *(
        "apples, pears, grapes and bananas on a table",
        "A red apple, a green apple and a yellow apple",
        "Cat, dog, bird",
    ),
    *(
        "family: man, woman, girl, boy",
        "flag: St. Kitts & Nevis",
        "woman and man holding hands: medium, light skin tone",
    ),
    *(
        "The letter A, the letter B, the letter C, the letter D, the letter E and the letter F",
        "oil, egg, flour, milk, salt",
    ),
    *("An old shop with a sign that says SALE", "A discount store at night", "Rome, Italy", "1,000,000 marks, 1923"),
    *("A row of houses: red, yellow, blue, green, and white, each with a door in the colour of its neighbour",),
    *(
        "Buffalo buffalo in a field",
        "a big big big dog",
        "Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem Kind",
    ),
    *("Toolbox, options of the Ellipse Select tool", "A market stall with fish for sale", "New York - Brooklyn Bridge"),
    *(
        "Ölgemälde: Mädchen mit Perlenohrring, um 1665",
        "Кошка сидит на окне и смотрит на птицу",
        "赤いりんごがテーブルの上にある",
    ),
    *(
        "The tortoise and the hare and the tortoise again",
        "Fig. 3: a) seed, b) sprout, c) tree with a swing",
        "3/4 view of a car",
    ),
)


@pytest.mark.parametrize("text", STUFFED)
def test_keywords_in_a_row_are_told(text: str) -> None:
    """Lists for a search engine, a word over and over, and the words of a shop."""
    assert keywords(text)


@pytest.mark.parametrize("text", PLAIN)
def test_a_description_is_no_list_of_keywords(text: str) -> None:
    """Things in a picture may be listed, repeated and priced."""
    assert keywords(text) == ""


@given(st.sampled_from((*BOILERPLATE, *DESCRIPTIONS, *STUFFED, *PLAIN)), st.data())
def test_white_space_and_case_change_nothing(text: str, data: st.DataObject) -> None:
    """A text that is shouted, spread over lines or indented is the same text."""
    gaps = st.sampled_from((" ", "  ", "\n", "\t ", "\u00a0", "\r\n"))
    spread = "".join(data.draw(gaps) if part.isspace() else part for part in re.split(r"(\s+)", text))
    change = data.draw(st.sampled_from((str.upper, str.lower, str.swapcase, str.title)))
    changed = data.draw(gaps) + spread + data.draw(gaps)
    if change(changed).casefold() == changed.casefold():  # "ß" is not
        changed = change(changed)
    assert bool(boilerplate(changed, EMPTY_WORDS)) == bool(boilerplate(text, EMPTY_WORDS))
    assert bool(keywords(changed)) == bool(keywords(text))
    assert mentions_boilerplate(changed) == mentions_boilerplate(text)


@given(st.text(max_size=300))
def test_any_text_can_be_asked(text: str) -> None:
    """Whatever characters a text holds, each question has an answer, and the words found stand in the text."""
    found = boilerplate(text, EMPTY_WORDS)
    assert not found or mentions_boilerplate(text)
    assert isinstance(keywords(text), str)
    assert script(text) == "" or any(map(str.isalpha, text))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red apple", "Latin"),
        ("Äpfel und Öl", "Latin"),
        ("Кошка на окне", "Cyrillic"),
        ("Η γάτα", "Greek"),
        ("قطة على النافذة", "Arabic"),
        ("חתול", "Hebrew"),
        ("窓の上の猫", "Han"),
        ("りんごとネコ", "Kana"),
        ("고양이", "Hangul"),
        ("बिल्ली", "Devanagari"),
        ("แมว", "Thai"),
        ("iPhone 15 в магазине на площади", "Cyrillic"),
        ("12 + 3", ""),
        ("", ""),
        ("ᚠᚢᚦ", ""),
    ],
)
def test_the_script_of_most_letters(text: str, name: str) -> None:
    """One script a text: that of most of its letters; none for numbers, or runes."""
    assert script(text) == name


@pytest.mark.parametrize(
    ("text", "language", "may_be"),
    [
        ("A red apple", "en", True),
        ("Кошка", "en", False),
        ("Кошка", "uk", True),
        ("猫", "ja", True),
        ("猫", "zh", True),
        ("ねこ", "zh", False),
        ("A cat", "ja", False),
        ("Jabuka", "sr", True),
        ("Јабука", "sr", True),
        ("ᚠᚢᚦ", "en", True),
        ("apple", "xx", True),
    ],
)
def test_a_language_has_its_scripts(text: str, language: str, may_be: bool) -> None:
    """What is certain: a text in another script is in another language; what is not known may be."""
    assert is_written_in(text, language) == may_be
