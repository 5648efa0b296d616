"""What a page says, found whatever its HTML is like."""

from __future__ import annotations

import pytest

from curation.pages import Page, read_page
from policy.errors import InputError

BASE = "https://e.org/gallery/page"


def read(html: str, content_type: str | None = "text/html; charset=utf-8") -> Page:
    return read_page(html.encode(), BASE, content_type)


def addresses(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    return [(pair.image_url, pair.alternates) for pair in page.pairs]


@pytest.mark.parametrize(
    ("html", "alt", "origin", "raw"),
    [
        ('<img src=i alt=" red \n apple ">', "red apple", "alt", " red \n apple "),
        ("<figure><img src=i alt=x title=t><figcaption>c</figcaption></figure>", "x", "alt", "x"),
        ("<figure><img src=i title=t><figcaption>a <b>b</b>\nc</figcaption></figure>", "a b c", "figcaption", None),
        ("<figure><p><img src=i alt=''></p><figcaption>c</figcaption></figure>", "c", "figcaption", ""),
        ("<img src=i title=' t '>", "t", "title", None),
        ("<img src=i alt=''>", None, None, ""),
        ("<img src=i alt>", None, None, ""),
        ("<img src=i alt='   '>", None, None, "   "),
        ("<img src=i>", None, None, None),
        ("<figcaption>stray</figcaption><img src=i>", None, None, None),
    ],
)
def test_text_comes_from_alt_then_figcaption_then_title(
    html: str, alt: str | None, origin: str | None, raw: str | None
) -> None:
    """The text beside an image is the first of alt, figcaption and title that says something, with its origin."""
    (pair,) = read(html).pairs
    assert (pair.alt, pair.text_origin, pair.raw_alt) == (alt, origin, raw)


@pytest.mark.parametrize(
    ("html", "first", "others"),
    [
        ("<img src=i.png>", "i.png", []),
        ("<img src=i.png srcset='s.png 300w, l.png 900w'>", "i.png", ["l.png", "s.png"]),
        ("<img srcset='a.png, b.png 2x'>", "b.png", ["a.png"]),
        ("<img src='data:image/gif;base64,AA' data-src=lazy.png>", "lazy.png", []),
        ("<img src=blank.gif data-original=lazy.png>", "lazy.png", ["blank.gif"]),
        ("<img data-srcset='s.png 1x, l.png 2x'>", "l.png", ["s.png"]),
        ("<picture><source srcset='w.webp 1x'><img src=i.png></picture>", "i.png", ["w.webp"]),
        ("<noscript><img src=i.png></noscript>", "i.png", []),
    ],
)
def test_every_address_of_a_picture_is_found(html: str, first: str, others: list[str]) -> None:
    """src, srcset, picture sources and lazy-loading attributes all count; the one to fetch stands first."""
    prefix = "https://e.org/gallery/"
    assert addresses(read(html)) == [(prefix + first, tuple(prefix + other for other in others))]


def test_commas_inside_an_address_do_not_split_it() -> None:
    """A srcset is cut at the commas between candidates only."""
    page = read("<img srcset='https://x.org/a,w_3/b 3w, https://x.org/c 6w ,d,'>")
    assert addresses(page) == [
        ("https://x.org/c", ("https://x.org/a,w_3/b", "https://e.org/gallery/d")),
    ]


def test_the_same_image_with_the_same_text_counts_once() -> None:
    """Repeated images are one pair; another text is another pair."""
    page = read("<img src=i alt=a><img src=i alt=a><img src=i alt=b><img src=j alt=a>")
    assert [(p.image_url[-1], p.alt) for p in page.pairs] == [("i", "a"), ("i", "b"), ("j", "a")]


def test_secrets_and_rubbish_never_become_pairs_or_links() -> None:
    """Addresses with userinfo or signatures are left out and counted; what is no URL is left out."""
    page = read(
        "<img src='https://u:p@e.org/i'><img src='/i?X-Amz-Signature=1'><img src='ftp://e.org/i'><img src=''>"
        "<a href='https://u:p@e.org/'>x</a><a href='mailto:x@e.org'>x</a><a href='javascript:x()'>x</a>"
    )
    assert page.pairs == ()
    assert page.links == ()
    assert page.refused_images == 3


def test_links_are_canonical_and_unique_under_the_base() -> None:
    """Links follow the first <base href>, lose their fragments and come once."""
    page = read("<base href=/other/><base href=/no/><a href='p#x'>1</a><a href=p>2</a><area href=//f.org>")
    assert page.links == ("https://e.org/other/p", "https://f.org/")


def test_robots_like_metas_are_all_reported() -> None:
    """robots, anything named like a bot, TDM metas, and whatever speaks like a robots meta; nothing else."""
    page = read(
        '<meta name=ROBOTS content=NoAI><meta name=GPTBot content=x><meta name="tdm-reservation" content=1>'
        '<meta name=custody content="noimageai"><meta http-equiv="X-Robots-Tag" content="noml">'
        "<meta name=description content=robots><meta name=robots><meta charset=utf-8>"
    )
    assert page.meta == (
        ("robots", "NoAI"),
        ("gptbot", "x"),
        ("tdm-reservation", "1"),
        ("custody", "noimageai"),
        ("robots", "noml"),
    )


def test_a_page_licence_covers_every_image_and_a_figure_licence_only_its_own() -> None:
    """rel=license claims carry their scope and where they were found."""
    page = read(
        "<link rel=license href='https://creativecommons.org/licenses/by/4.0/'>"
        "<figure><img src=a><a rel='nofollow license' href='/terms'>terms</a></figure><img src=b>"
    )
    a, b = page.pairs
    assert [(c.value, c.scope, c.where) for c in a.licence_claims] == [
        ("https://e.org/terms", "figure", "rel=license on <a> in <figure>"),
        ("https://creativecommons.org/licenses/by/4.0/", "page", "rel=license on <link>"),
    ]
    assert b.licence_claims == page.licence_claims
    assert {c.source for c in a.licence_claims} == {"rel-license"}


def test_an_rsl_document_is_no_licence_of_the_picture() -> None:
    """A rel=license that declares RSL terms is not taken for a licence claim."""
    assert read("<link rel=license type='application/rsl+xml' href=/l.xml><img src=i>").licence_claims == ()


def test_creators_go_with_the_claims_of_their_place() -> None:
    """An author named in a figure belongs to its claim, the page's author to the page's."""
    page = read(
        "<meta name=author content='The Museum'><link rel=license href=/l>"
        "<figure><img src=a><a rel=license href=/f>f</a><span property='cc:attributionName'>Ada</span></figure>"
    )
    assert [claim.creator for claim in page.pairs[0].licence_claims] == ["Ada", "The Museum"]


def test_json_ld_image_objects_cover_the_image_they_name() -> None:
    """An ImageObject's licence is a claim of image scope on its image alone, with title, creator and JSON pointer."""
    page = read(
        '<script type="application/ld+json">{"broken": </script>'
        '<script type="application/ld+json">{"@graph": [{"@type": "WebPage", "license": "https://e.org/w"}, '
        '{"@type": ["ImageObject"], "contentUrl": "/a.png", "license": {"@id": "https://e.org/l"}, "name": "A title", '
        '"creator": [{"@type": "Person", "name": "Ada"}], "creditText": "credit"}]}</script>'
        "<img src=/a.png><img src=/b.png>"
    )
    a, b = page.pairs
    (claim,) = a.licence_claims
    assert (claim.value, claim.source, claim.scope) == ("https://e.org/l", "json-ld", "image")
    assert (claim.title, claim.creator, claim.credit) == ("A title", "Ada", "credit")
    assert claim.where == "script[1]#/@graph/1/license"
    assert b.licence_claims == ()


@pytest.mark.parametrize("depth", [100_000])
def test_hostile_json_ld_is_survived(depth: int) -> None:
    """Nesting without end, odd types and other people's scripts lose nothing else of the page."""
    nested = '<script type="application/ld+json">' + "[" * depth + "</script>"
    odd = '<script type="application/ld+json">[1, null, {"@type": 3, "license": [{}], "contentUrl": {"x": 1}}]</script>'
    page = read(nested + odd + "<img src=i alt=still-here>")
    assert [pair.alt for pair in page.pairs] == ["still-here"]


def test_deep_and_wide_pages_stay_linear() -> None:
    """Ten thousand nested elements around ten thousand images are read like any page."""
    page = read("<div>" * 10_000 + "".join(f"<img src={i}>" for i in range(10_000)))
    assert len(page.pairs) == 10_000
    assert len(read(f"<img srcset='{'a,' * 100_000}{', ' * 100_000}b'>").pairs) == 1


@pytest.mark.parametrize(
    ("html", "content_type"),
    [
        ("<img src=i alt='Äpfel'>".encode(), None),
        ("<img src=i alt='Äpfel'>".encode("cp1252"), "text/html; charset=ISO-8859-1"),
        ("<img src=i alt='Äpfel'>".encode("cp1252"), None),
        ("<meta charset='windows-1252'><img src=i alt='Äpfel'>".encode("cp1252"), "text/html"),
        ("\ufeff<img src=i alt='Äpfel'>".encode("utf-16-le"), "text/html; charset=utf-8"),
        ("<img src=i alt='Äpfel'>".encode(), "text/html; charset=nonsense"),
        ("<img src=i alt='Äpfel'>".encode(), "text/html; charset=zlib"),
    ],
)
def test_a_page_is_read_in_its_encoding(html: bytes, content_type: str | None) -> None:
    """Byte order mark, header, meta and the bytes themselves decide, in that order; odd names are ignored."""
    assert [pair.alt for pair in read_page(html, BASE, content_type).pairs] == ["Äpfel"]


@pytest.mark.parametrize("html", [b"", b"\x00\xff\xfe", b"not html", b"<" * 10_000, b"<img", b"%PDF-1.4"])
def test_whatever_comes_a_page_comes_out(html: bytes) -> None:
    """Bytes that are no HTML give a page without pairs."""
    assert read_page(html, BASE).pairs == ()


def test_the_title_is_the_documents() -> None:
    """The title is the head's, not one inside a drawing."""
    assert read("<svg><title>drawing</title></svg>").title is None
    assert read("<title> A\n page </title><svg><title>drawing</title></svg>").title == "A page"


def test_a_base_that_is_no_url_is_refused() -> None:
    """A page must know where it came from."""
    with pytest.raises(InputError):
        read_page(b"<img src=i>", "nowhere")
