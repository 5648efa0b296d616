"""Personal data in texts: a labelled set of our own, its figures, and what must not be taken for somebody."""

# ruff: noqa: RUF001 - texts of several scripts

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.evidence import Evidence
from policy.personal_data import contact_data, person_name
from policy.ruleset import Ruleset
from policy.text import judge_text
from policy.verdict import Verdict

RULES = Ruleset.default().text
BARE = Evidence(None, "https://a.example/x.jpg", datetime(2026, 11, 21, tzinfo=UTC), "test", "1")

# All invented: reserved domains (RFC 2606), numbers reserved for fiction (555-01xx, Ofcom's, Arcep's, BNetzA's,
# ACMA's ranges), made-up streets, names put together from frequent ones.
E_MAIL = """
Contact jane@example.org for prints
Write to max.mustermann@example.com
info@example.net
E-Mail: verkauf@shop.example.de
mailto:press.office@example.org
Poster with the address booking+summer@example.co.uk
escríbanos a ventas@ejemplo.example
écrivez à bonjour@exemple.example.fr
jane (at) example (dot) org
jane [at] example [dot] org
jane(at)example.org
jane at example dot org
max PUNKT muster (ät) example.de
contact {at} example.com
Bestellungen: laden @ example . de
foto[at]example[punkt]de
pedidos (arroba) example.com
photo by studio_one@example.org, all rights reserved
初めての方は info@example.jp まで
пишите на info@example.ru
"""
TELEPHONE = """
Call 555-0143 for a quote
Call (202) 555-0143 today
Phone: 202-555-0178
202.555.0199 plumbing services
+1 202 555 0143
1-800-555-0199 hotline on a van
Tel. 030 23125 000
Tel.: 0171 39200 99
Rufen Sie an: +49 30 23125-000
Telefon (089) 99998-100
Fax 040 66969-123
0221 4710-123 Klempner
020 7946 0018
07700 900123
01632 960 001 shop sign
Call us now 07700900123
Tél. 01 99 00 12 34
01.99.00.12.34 boulangerie
+33 1 99 00 56 78
Teléfono: 612 345 678
612 34 56 78 se vende
+34 912 345 678
Telefono 06 5550 1234
+39 06 555 0123
(02) 5550 1234 removals
Call 1800 975 711
+61 491 570 156
whatsapp +55 11 95555-0123
(11) 95555-0123
тел. 8 (495) 555-01-23
8 (495) 555-01-23
+7 495 555-01-23
電話 03-5550-1234
03-5550-1234
tlf 55 50 12 34
☎ 555 01 23
📞 0800 555 0123
Mobile 98765 43210
+91 98765 43210
0049 30 23125 000
"""
ADDRESS = """
Musterstraße 12, 12345 Musterstadt
Shop at Hauptstr. 5a, 10999 Berlin
Bahnhofstrasse 7, 8001 Beispielstadt
Am Alten Markt 3, 99999 Musterdorf
Lange Straße 12 in 12345 Musterstadt, Musterstraße 9, Musterstadt
House for sale at 123 Example Street, Springfield, IL 62701
742 Sample Avenue, Anytown
12 Sample Road, Exampleton EX1 2MP
5 High Street, London SW1A 9ZZ
PO Box 1234, Anytown
12 rue de l'Exemple, 75000 Paris
3 bis, avenue du Modèle, 69000 Lyon
Calle del Ejemplo 12, 28000 Madrid
Avda. de la Muestra, 5, 08000 Barcelona
Via Esempio 12, 00100 Roma
Rua do Exemplo, 10, 1000-001 Lisboa
Voorbeeldstraat 12, 1000 AA Amsterdam
ul. Przykładowa 5, 00-001 Warszawa
Exempelgatan 3, 111 11 Stockholm
Eksempelvej 4, 2100 København
〒100-0001 東京都千代田区
г. Примерск, ул. Образцовая, д. 5
Postfach 12 34, 12345 Musterstadt
"""
NAMES = """
Portrait of Maria Schmidt
Dr. John A. Smith at work
Mr. Miller in his garden
Mrs Johnson with her dog
Ms. Taylor giving a talk
Prof. Anna Weber at the blackboard
Professor Huber explains a formula
Herr Müller vor seinem Haus
Frau Schneider im Büro
Mme Dupont devant la mairie
Monsieur Durand à la pêche
Señora García en la cocina
Sr. López con su perro
Signora Rossi in cucina
Pani Kowalska w ogrodzie
Jane Doe smiling at the camera
John Smith and his new car
wedding of Laura Fischer and Thomas Becker
Foto von Peter Wagner
Peter Wagner, Vorsitzender
Retrato de Carlos Fernández
Portrait de Sophie Moreau
Ritratto di Giulia Bianchi
Hans-Peter Klein on stage
Anna Maria von Berg reading
Ludwig van der Berg in the library
Jean-Pierre Lefebvre, maire
María José Pérez García
Katarzyna Nowak biegnie
Ivan Petrov playing chess
Иван Петров играет в шахматы
Портрет Ольга Смирнова
Yuki Tanaka holding a cup
Ahmed Khan at the market
Priya Sharma dancing
Erik Johansson på scenen
Lars Nielsen med sin båd
Photo by Emma Wilson
photographer: Lukas Hofmann
Headshot of Karen White
selfie with Tom Baker
interview with Aylin Demirtas
portrait of Ngozi Okonkwo
Bust of Emilia Castellani
J. Smith at the finish line
A. B. Schmidt, engineer
PORTRAIT OF MARIA SCHMIDT
portrait of maria schmidt
sarah miller in paris
Rose Miller with flowers
Will Smith waving
Jack Brown repairing a bike
Grace T. Palmer signing books
Senator Robert Allen speaking
Captain Maria Lopez in uniform
Sister Agnes in the convent
President Thomas Adams
Schmidt, Maria
王先生と犬
田中さんの誕生日
CEO Michael Roberts shaking hands
Grandma with baby Noah Evans
Elena Popescu, 24, student
Daniel O'Brien, fisherman
Marie Curie-Lambert at her desk
Team photo: Ben Foster, Alice Reed, Omar Hussain
"""
NOTHING = """
red apple
Red Apple
Red Apple On Wooden Table
Golden Gate Bridge
Golden Gate Bridge at sunset
Mona Lisa
The Mona Lisa in the Louvre
San Francisco
San Francisco skyline at night
Great Barrier Reef
Santa Claus
Mrs. Claus
Mx Claus
Santa Claus with a sack
Statue of Liberty
map of Japan
man artist
woman scientist
New York City
New York Times Square
Eiffel Tower in Paris
Virginia Beach boardwalk
Georgia Tech campus
Victoria Falls
Charlotte Harbor, Florida
Jordan River
Pearl Harbor Memorial
Rose Garden in spring
Lily Pond
Jack Russell Terrier puppy
Jack O' Lantern
Earl Grey Tea
Tom Yum Soup
Bloody Mary Cocktail
St. Martin
St. Pierre & Miquelon
Saint Helena Island
Diego Garcia
Svalbard & Jan Mayen
Mount Saint Helens
George Washington Bridge
John F. Kennedy Airport
Charles de Gaulle Airport
Martin Luther King Boulevard
Portrait of Siberian Husky
Portrait of a young woman
Portrait of Bengal Tiger
portrait of a cat
Portrait of an old man with a pipe
Photo of Lake Michigan
Photo by Getty Images
Louis Vuitton bag
Harley Davidson motorcycle
John Deere tractor
Mercedes Benz
Dr Pepper can
Captain America costume
General Motors factory
Prince Edward Island
Queen Anne Style House
Brandenburg Gate, Berlin
Kölner Dom bei Nacht
Schloss Neuschwanstein
Rotes Auto auf der Straße
Ein Mann mit Hut
La Tour Eiffel
Plaza Mayor de Madrid
Piazza San Marco
Ponte Vecchio, Firenze
東京タワー
お客さんが並ぶ店
皆さんの作品
красная площадь
Красная Площадь в Москве
May Day parade
Christmas Tree
Summer Dress Pattern
Black Forest Cake
Amber Necklace
Ruby Ring
Iris flower
Daisy Chain
Will to live
Mark the spot
the summer of 1969
Summer of 1969
1998-2003
12.05.2021
Opening hours 08:30 - 12:00
2020-01-02 03:04:05
01.02.2020 10:30
01/02/2020 - 03/04/2020
from 1914 to 1918
ISBN 978-3-16-148410-0
ISBN 0-306-40615-2
0-306-40615-2
978 3 16 148410 0
Price 1 234 567 dollars
$1,234,567.89
1.234.567,89 €
120 x 80 x 45 mm
1920x1080 pixels
300 000 000 m/s
0.123456789
3.14159265358979
Part no. 030-1234-567
Model 123-456-7890
Art.-Nr. 0800 123 456
inv. no. 1965-123-4567
EAN 4 006381 333931
0 12345 67890 5
IP 192.168.100.200
v1.2.3.4567
IMG 20200102 030405
48.8584 N, 2.2945 E
52.5200, 13.4050
population 83 240 525
1000 pieces puzzle
Boeing 747-400
Nikon D850 24-70mm
Apollo 11 launch
Route 66 sign
5th Avenue at night
Fifth Avenue in the rain
10 Downing Street
Baker Street station
Abbey Road
Musterstraße im Schnee
Unter den Linden
1950 Main Street, Springfield
Version 5, 12345 files
Room 12, second floor
icon@2x.png
logo@3x.webp
@example on a sign
50 apples @ 2 each
meet at noon
seated at red dot gallery
a laser dot at the wall
sale: 3 for 2
Highway 101, California
Flight 1549
Chapter 7: Hill
top 10 beaches
Area 51 warning sign
E=mc²
a 1920s street in Lisbon
90 degrees
24/7 open
100% cotton
A4 paper
Windows 95
Canal Street, New Orleans
12 roses in a vase
2 cats, 3 dogs
Formula 1 race
three kings
King Penguin
Lady Liberty
Venus de Milo
Petri Dish
Max Planck Institute
Hospital de San Juan
Santa Monica Pier
Fort Wayne
Cape Ann Lighthouse
"""


# Written after the rules were and run again with each later edit of them: nearly, but not strictly, held out.
NEW_CONTACT = """
Reach our curator under curator@gallery.example.org
ask.for.helen@example.com (agent)
orders AT example DOT com
photographer: lens [at] example [.] net
impressum@beispiel.example
2 tickets left, call 555-0127
Plumber, 24h: 312-555-0188
(415) 555 0132
Customer service 0800 00 55 501
Tel 0043 1 555 0123
Termin unter 030/23125-123
Ruf mich an 0152 28817386
appelez le 06 39 98 12 34
téléphone : 02 61 91 45 67
020 7946 0991 - minicab
01632 960983
móvil 600 123 456
cell. 320 555 0101
phone number 02 7010 1234
+81 3 5550 0123
+86 10 5555 0123
+48 22 555 01 23
Neue Gasse 14b, 90402 Musterburg
Zum Beispiel 8, 01234 Neudorf
Kirchweg 2, 3000 Bern
House at 48 Maple Lane, Fairview, OH 45000
1 Sample Court, Testville, TX
221 Example Close, Leeds LS1 9ZZ
14 avenue des Tilleuls, 33000 Bordeaux
Calle Mayor 7, 28013 Madrid
Piazza Modello 3, 20100 Milano
Dorpsweg 77, 1234 AB Voorbeeld
P.O. Box 556, Sampletown
"""
NEW_PEOPLE = """
Susan Walker riding a horse
A smiling Heinz Krause in front of his bakery
Two chess players, Viktor Orlov and Pavel Dusek
Mr. Okafor with students
our baker Mrs. Lindqvist
Frau Dr. Hoffmann bei der Arbeit
Herr Yılmaz verkauft Obst
Claire Dubois dans son atelier
Antonio Ricci che cucina
Beatriz Oliveira na praia
Portrait of Tendai Moyo
Portrait of Wiremu Tamahori
Anders Lindgren on skis
Zofia Kamińska, skrzypaczka
Mohammed Hassan at the harbour
Wei Zhang playing table tennis
Aiko Nakamura with an umbrella
Екатерина Волкова на сцене
Rev. Martin Clarke blessing the boats
Joe Bloggs
Engagement photo of Hannah and Lukas Brandt
Kim Nguyen, nurse
Birthday party of Oma Gertrud
Ms Chukwu
Lord Byron
Deborah O'Neill
General Antonio Vargas
Dott. Bianchi
Steve cutting the cake
Chukwuemeka Eze at graduation
"""
NEW_NOTHING = """
Tower Bridge in fog
Loch Ness
Great Wall of China
Mount Rushmore
Big Ben
Sydney Opera House
Lake Victoria at dawn
St. Peter's Basilica
St. Patrick's Day Parade
Santa Maria Novella
San Diego Zoo
Cape Cod
Porto
Rio de Janeiro
La Sagrada Família
Plaza de España
Kaiser Wilhelm Gedächtniskirche
Checkpoint Charlie
Alexanderplatz
Frankfurter Kranz
Bernese Mountain Dog
Maine Coon Cat
English Springer Spaniel
Black Eyed Susan Flowers
Sweet William
Forget Me Not
Red Delicious Apples
Granny Smith Apples
Peach Melba
Caesar Salad
Eggs Benedict
Beef Wellington
Croque Monsieur
Blue Jeans on a Line
Happy Birthday Card
Vintage Travel Poster
Young Woman Reading A Book
Old Man With Hat
Grand Central Station
Union Jack
Stars And Stripes
Windows XP Wallpaper
Raspberry Pi 4
Canon EOS 5D
iPhone 15 Pro
Boeing 737-800 taking off
population of 12 345 678
score 10-12-15
from 10.30 to 12.45
Saturday 14/02/2026, 20:00
1 000 000 visitors
Bus 100 to Zoologischer Garten
Size 38-40-42
item 4711-0815
scale 1:25 000
CAS 7732-18-5
barcode 5901234123457
Sony A7 III, 35mm f/1.8
Article 13 protest
page 123-456
2 x 4 lumber
Room 101
Wall Street
221B Baker Street
Rue de Rivoli
Via Appia
Via Appia Antica 5 km sign
at the end of the road
hand at the wheel
A @ sign on a keyboard
8 out of 10
"""


def _lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line]


CONTACT = [*_lines(E_MAIL), *_lines(TELEPHONE), *_lines(ADDRESS)]
PEOPLE, CLEAN = _lines(NAMES), _lines(NOTHING)


def test_the_labelled_set_is_large_enough_to_say_something() -> None:
    """At least 200 texts, and enough of each label."""
    assert len(CONTACT) + len(PEOPLE) + len(CLEAN) >= 300
    assert min(len(_lines(E_MAIL)), len(_lines(TELEPHONE)), len(_lines(ADDRESS)), len(PEOPLE)) >= 20
    assert len(set(CONTACT + PEOPLE + CLEAN)) == len(CONTACT + PEOPLE + CLEAN)


def _figures(found: dict[str, bool], wanted: list[str]) -> tuple[float, float]:
    """(precision, recall)"""
    hits = [text for text, hit in found.items() if hit]
    right = [text for text in hits if text in wanted]
    return len(right) / len(hits), len(right) / len(wanted)


def test_contact_data_is_found_and_little_else() -> None:
    """Precision and recall over the labelled set do not fall."""
    found = {text: contact_data(text) is not None for text in CONTACT + PEOPLE + CLEAN}
    wrong = [text for text, hit in found.items() if hit is not (text in CONTACT)]
    precision, recall = _figures(found, CONTACT)
    assert precision >= 0.99, wrong
    assert recall >= 0.97, wrong


def test_names_are_found_and_little_else() -> None:
    """Precision and recall over the labelled set do not fall; a text with contact data is refused anyway."""
    found = {text: person_name(text) is not None for text in PEOPLE + CLEAN}
    wrong = [text for text, hit in found.items() if hit is not (text in PEOPLE)]
    precision, recall = _figures(found, PEOPLE)
    assert precision >= 0.97, wrong
    assert recall >= 0.95, wrong


def test_the_figures_on_texts_that_were_not_tuned_to() -> None:
    """Of texts that the rules had not seen most are judged rightly; docs/policy.md gives the figures."""
    contact, people, clean = (_lines(block) for block in (NEW_CONTACT, NEW_PEOPLE, NEW_NOTHING))
    precision, recall = _figures({t: contact_data(t) is not None for t in contact + people + clean}, contact)
    assert precision >= 0.95
    assert recall >= 0.9
    precision, recall = _figures({t: person_name(t) is not None for t in people + clean}, people)
    assert precision >= 0.9
    assert recall >= 0.75


@pytest.mark.parametrize(
    ("block", "kind"), [(E_MAIL, "e-mail address"), (TELEPHONE, "telephone number"), (ADDRESS, "postal address")]
)
def test_what_is_found_is_called_by_its_name(block: str, kind: str) -> None:
    """The reason names the kind, so that whoever is asked can see it."""
    kinds = [found.kind for text in _lines(block) if (found := contact_data(text)) is not None]
    assert kinds.count(kind) / len(kinds) >= 0.9


def test_no_emoji_name_is_personal() -> None:
    """All names of CLDR's emoji, which the demo museum hangs, pass: countries, saints, Mrs. Claus and all."""
    emoji = pytest.importorskip("emoji")
    names = {data["en"].strip(":").replace("_", " ") for data in emoji.EMOJI_DATA.values()}
    assert len(names) > 3_000
    assert [n for n in sorted(names | {n.title() for n in names}) if contact_data(n) or person_name(n)] == []


def test_the_museums_photographs_are_nobodys() -> None:
    """The alt texts of the demo's photographs pass."""
    from flows.museum import _PHOTOS

    assert not [alt for _, _, alt in _PHOTOS if alt and (contact_data(alt) or person_name(alt))]


# ── the rule ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "verdict", "code", "shown"),
    [
        ("write to jane@example.org", Verdict.DENY, "text-contact-data", "e-mail address: 'jane@example.org'"),
        ("call (202) 555-0143", Verdict.DENY, "text-contact-data", "telephone number: '(202) 555-0143'"),
        ("Musterstraße 12, 12345 Musterstadt", Verdict.DENY, "text-contact-data", "postal address"),
        ("Portrait of Maria Schmidt", Verdict.DEFER, "text-person-name", "'Maria Schmidt'"),
        ("Maria Schmidt, jane@example.org", Verdict.DENY, "text-contact-data", "jane@example.org"),
    ],
)
def test_alt_texts_and_captions_are_held_to_the_same(text: str, verdict: Verdict, code: str, shown: str) -> None:
    """Contact data: DENY; a likely name: DEFER; the reason quotes it, and `where` says in which text."""
    alt = judge_text(replace(BARE, alt=text, text_origin="figcaption"), RULES)
    caption = judge_text(replace(BARE, alt="red apple", text_origin="alt", caption=text, caption_score=0.9), RULES)
    for judged, where in ((alt, "figcaption"), (caption, "caption")):
        assert (judged.verdict, judged.reason.code, judged.where) == (verdict, code, where)
        assert shown in judged.reason.detail


def test_contact_data_denies_whatever_else_is_wrong_with_the_text() -> None:
    """Too long, too short to describe or too uncertain: a text by which somebody can be reached is refused."""
    for alt in ("x " * 2_000 + "jane@example.org", "+49 30 23125 000"):
        assert judge_text(replace(BARE, alt=alt), RULES).verdict is Verdict.DENY
    assert judge_text(replace(BARE, caption="jane@example.org", caption_score=None), RULES).verdict is Verdict.DENY


def test_the_ruleset_may_ignore_either() -> None:
    """contact_data and person_names are keys of [text]."""
    lenient = replace(RULES, contact_data="ignore", person_names="ignore")
    for text in ("write to jane@example.org", "Portrait of Maria Schmidt"):
        assert judge_text(replace(BARE, alt=text), lenient).verdict is Verdict.ALLOW


# ── cost ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_HOSTILE = {
    "at signs": "@" * 10_000,
    "addresses without an end": "a@a." * 2_500,
    "local parts": "a" * 9_998 + "@b",
    "dots": ("a" * 60 + ".") * 160 + "@" + "a." * 100,
    "digits": "1" * 10_000,
    "digits in groups": "12 34-56 " * 1_100,
    "plus signs": "+1 " * 3_300,
    "streets": "1 A Street " * 900,
    "capitals": "A" * 10_000,
    "capitalised": "Aa " * 3_300 + "1",
    "numbers and names": "1 Main 2 Main " * 700,
    "rue": "1 rue a " * 1_250,
    "titles": "Mr. " * 2_500,
    "given names": "Maria " * 1_600,
    "initials": "J. " * 3_300,
    "cues": "portrait of " * 830,
    "hidden": "a (at) b " * 1_100,
    "spaces": " " * 9_999 + "1",
    "parentheses": "(1" * 5_000,
    "via": "Via a" * 2_000 + " 1",
    "han": "王先" * 5_000,
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_texts_are_read_to_their_end(name: str) -> None:
    """10,000 characters of anything are answered; how long that takes `make bench BENCH=judging` measures."""
    for text in (_HOSTILE[name], _HOSTILE[name] * 2):
        assert contact_data(text) is None or contact_data(text) in text
        assert person_name(text) is None or person_name(text) in text


@given(st.text(max_size=200))
def test_no_text_crashes_the_search(text: str) -> None:
    """Any characters have an answer."""
    contact_data(text)
    person_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("j\u200bane@exa\u200bmple.org", "jane\u00ad@example.org", "jane@\u2060example.org", "jane\ufe0f@example.org"),
        *("jane&#64;example.org", "jane&#x40;example.org", "jane&commat;example.org", "jane\uff20example.org"),
    ],
)
def test_what_nobody_sees_hides_no_address(text: str) -> None:
    """Soft hyphens, joiners, entities and full-width signs are read as a reader reads them."""
    assert contact_data(text) is not None


def test_what_nobody_sees_hides_no_name() -> None:
    """A name with a zero-width space in it is one."""
    assert person_name("Portrait of J\u200bohn S\u200bmith") == person_name("Portrait of John Smith") is not None
