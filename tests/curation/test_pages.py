"""What a page says, found whatever its HTML is like."""

# ruff: noqa: UP031 - JSON is full of braces

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.pages import Page, is_secret, read_page
from curation.pair import SIGNATURE_PARAMETERS, canonical_url, secret_in_url
from policy.errors import InputError

BASE = "https://e.org/gallery/page"
BY = "https://creativecommons.org/licenses/by/4.0/"


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
        ("<figure><picture><source srcset=s></picture><figcaption>c</figcaption></figure>", "c", "figcaption", None),
        ("<figure><div><figure><img src=i></figure></div><figcaption>c</figcaption></figure>", None, None, None),
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
        ("<img src=blank.gif data-src=i.png alt=x><noscript><img src=i.png alt=x></noscript>", "i.png", ["blank.gif"]),
        (
            "<picture><source srcset='a.webp 1x, b.webp 2x'><source data-srcset=c.png></picture>",
            "b.webp",
            ["a.webp", "c.png"],
        ),
        ("<picture><noscript><img src=i.png></noscript></picture>", "i.png", []),
        ("<input type=IMAGE src=i.png alt=go><input src=no.png>", "i.png", []),
        ("<svg><image href=i.png /></svg>", "i.png", []),
        ("<svg><image xlink:href=i.png /></svg>", "i.png", []),
        ("<image src=i.png>", "i.png", []),
        ("<IMG SRC=i.png>", "i.png", []),
        ("<base target=_top><base href=/x/><base href=/gallery/><img src=../gallery/i.png>", "i.png", []),
        *(
            (f"<img src=blank.gif {name}=i.png>", "i.png", ["blank.gif"])
            for name in (
                *("data-src", "data-lazy", "data-lazy-src", "data-lazyload", "data-echo", "data-cfsrc", "data-ezsrc"),
                *(
                    "data-flickity-lazyload",
                    "data-splide-lazy",
                    "data-pagespeed-lazy-src",
                    "nitro-lazy-src",
                    "DATA-SRC",
                ),
            )
        ),
        *(
            (f"<img src=blank.gif {name}='s.png 300w, i.png 900w'>", "i.png", ["s.png", "blank.gif"])
            for name in ("data-srcset", "data-lazy-srcset", "nitro-lazy-srcset", "data-bgset")
        ),
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


def test_what_is_refused_is_counted_wherever_it_stands() -> None:
    """Each place counts, however often a page says the same."""
    page = read(f"{'<img src=ftp://e.org/i>' * 3}<img src=x srcset='https://u:p@e.org/ 2x, y'><img src='data:,x'>")
    assert (page.refused_images, len(page.pairs)) == (4, 1)


def test_pictures_are_found_in_their_figures_though_they_are_the_same() -> None:
    """The same picture in two figures, and beside them, has the text of each place, and the licences of all."""
    page = read(
        "<img src=i><figure><img src=i><figcaption>a</figcaption></figure>"
        "<figure><img src=i><figcaption>b</figcaption></figure>"
        f"<figure><img src=i><figcaption>a</figcaption><a rel=license href={BY}></a></figure>"
    )
    assert [(pair.alt, len(pair.licence_claims)) for pair in page.pairs] == [(None, 0), ("a", 1), ("b", 0)]


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


@given(
    st.text("abé@?&=%+ sigSIG-xX/.", max_size=30),
    st.sampled_from(["", *SIGNATURE_PARAMETERS]),
    st.text("?&=%2a+", max_size=4),
)
def test_the_quick_look_for_secrets_misses_none(before: str, name: str, after: str) -> None:
    """Whatever a URL holds, it is called a secret if and only if taking it apart finds one."""
    url = canonical_url(f"https://e.org/{before}{name}{after}")
    assert is_secret(url) == (secret_in_url(url) is not None)


def test_links_are_canonical_and_unique_under_the_base() -> None:
    """Links follow the first <base href>, lose their fragments and come once."""
    page = read("<base href=/other/><base href=/no/><a href='p#x'>1</a><a href=p>2</a><area href=//f.org>")
    assert page.links == ("https://e.org/other/p", "https://f.org/")


def test_links_are_left_out_where_they_are_not_wanted() -> None:
    """Without its links a page is the same page: base, licences and creators that stand on links are read."""
    html = (
        "<base target=_top><base href=/other/><title>t</title><a href=p>1</a><area href=q><img src=i>"
        f"<a href={BY} rel=license>l</a><a href=/ada rel=author>Ada</a><a href=x itemprop=license>m</a>"
        "<a name=n rel=author>Bob</a>"
    )
    page = read(html)
    assert page.links[:2] == ("https://e.org/other/p", "https://e.org/other/q")
    assert len(page.links) == 5
    assert [claim.creator for claim in page.licence_claims] == ["Ada", "Ada"]
    assert read_page(html.encode(), BASE, with_links=False) == replace(page, links=())


def test_a_link_that_says_more_is_a_link_once() -> None:
    """A link that is also a licence, a creator or an object is all of that."""
    page = read(f"<a href={BY} rel='license author' itemprop='creator license' about=x typeof=y>Ada</a><img src=i>")
    assert page.links == (BY,)
    assert [(claim.value, claim.creator) for claim in page.licence_claims] == [(BY, "Ada")]
    assert read("<svg><a xlink:href=/no><text>x</text></a></svg>").links == ()


@pytest.mark.parametrize(
    ("content", "is_robots"),
    [
        *((word, True) for word in ("noai", "NoImageAI", "noml", "NOINDEX", "noimageindex", "nofollow")),
        *((word, True) for word in ("noarchive", "noSnippet", "index,noai", "max-snippet:0;noai", "all noai.")),
        *((word, False) for word in ("xnoai", "noai_x", "noaim", "no ai", "n", "", "volcano air", "canoml")),
    ],
)
def test_what_only_a_robots_meta_says(content: str, is_robots: bool) -> None:
    """A meta of any name that says such a word is reported; a word that only holds one is not."""
    assert read(f"<meta name=any content='{content}'>").meta == ((("any", content),) if is_robots else ())


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
    claim, of_page = a.licence_claims
    assert (of_page.value, of_page.scope, of_page.where) == ("https://e.org/w", "page", "script[1]#/@graph/0/license")
    assert (claim.value, claim.source, claim.scope) == ("https://e.org/l", "json-ld", "image")
    assert (claim.title, claim.creator, claim.credit) == ("A title", "Ada", "credit")
    assert claim.where == "script[1]#/@graph/1/license"
    assert b.licence_claims == (of_page,)


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
    assert read("\ufeff<!DOCTYPE html><html><head><title>A page</title></head>").title == "A page"
    assert read("<title> </title><meta charset=utf-8><title>second</title><p>x</p><title>no</title>").title == "second"


def test_a_base_that_is_no_url_is_refused() -> None:
    """A page must know where it came from."""
    with pytest.raises(InputError):
        read_page(b"<img src=i>", "nowhere")


# ── licence claims ─────────────────────────────────────────────────────────────────────────────────────────────────

IMAGE = 'itemscope itemtype="https://schema.org/ImageObject"'


def ld(json: str) -> str:
    return f'<script type="application/ld+json">{json}</script>'


def claims(html: str, image: int = 0) -> list[tuple[str, str, str, str]]:
    """(value, source, scope, kind) of an image's claims."""
    return [(c.value, c.source, c.scope, c.kind) for c in read(html).pairs[image].licence_claims]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # by each address that it may be known by; the scheme does not matter
        *(
            ('{"@type": "ImageObject", "%s": "%s", "license": "%s"}' % (name, address, BY), [(BY, "image", "licence")])
            for name, address in (
                *(("contentUrl", "/a.png"), ("url", "https://e.org/a.png"), ("@id", "http://e.org/a.png")),
                *(("thumbnailUrl", "../a.png"), ("embedUrl", "/a.png#x"), ("schema:contentUrl", "/a.png")),
            )
        ),
        # wherever it stands
        ('{"@type": "Article", "image": {"@type": "ImageObject", "url": "/a.png", "license": "%s"}}' % BY, "image"),
        (
            '{"@type": "Article", "image": [1, {"@type": "ImageObject", "url": "/a.png", "license": "%s"}]}' % BY,
            "image",
        ),
        ('{"@graph": [{"mainEntity": {"@type": "ImageObject", "url": "/a.png", "license": "%s"}}]}' % BY, "image"),
        ('[{"@type": ["Thing", "http://schema.org/ImageObject"], "url": ["/a.png"], "license": ["%s"]}]' % BY, "image"),
        ('{"@type": "Photograph", "image": "/a.png", "license": "%s"}' % BY, "image"),
        ('{"@type": "ImageObject", "url": "/a.png", "http://schema.org/license": [{"@id": "%s"}]}' % BY, "image"),
        ('{"@type": "ImageObject", "url": "/a.png", "license": {"@type": "CreativeWork", "url": "%s"}}' % BY, "image"),
        (
            '{"@graph": [{"@type": "ImageObject", "url": "/a.png", "license": {"@id": "#l"}}, '
            '{"@id": "#l", "url": "%s"}]}' % BY,
            "image",
        ),
        # the page's own
        ('{"@type": "WebPage", "license": "%s"}' % BY, "page"),
        ('{"@graph": [{"@type": "Article", "license": "%s"}]}' % BY, "page"),
        ('{"@type": "CreativeWork", "license": "%s"}' % BY, "page"),
        # somebody else's
        ('{"@type": "ImageObject", "url": "/other.png", "license": "%s"}' % BY, []),
        ('{"@type": "Dataset", "license": "%s"}' % BY, []),
        ('{"@type": "WebPage", "hasPart": [{"@type": "Article", "license": "%s"}]}' % BY, []),
        ('{"@type": "ImageObject", "license": "%s"}' % BY, []),
        # what else is said of it
        (
            '{"@type": "ImageObject", "url": "/a.png", "acquireLicensePage": "https://e.org/buy", '
            '"copyrightNotice": "© Jane", "usageInfo": "https://e.org/terms"}',
            [
                ("© Jane", "image", "rights"),
                ("https://e.org/terms", "image", "terms"),
                ("https://e.org/buy", "image", "terms"),
            ],
        ),
    ],
)
def test_json_ld_claims_of_every_shape(script: str, expected: list[tuple[str, str, str]] | str) -> None:
    """An object that stands for the image claims for it, one that stands for the page for the page, others nothing."""
    if isinstance(expected, str):
        expected = [(BY, expected, "licence")]
    assert claims(ld(script) + "<img src=/a.png>") == [(v, "json-ld", scope, kind) for v, scope, kind in expected]


def test_a_malformed_script_loses_nothing_else() -> None:
    """Scripts that are no JSON, or hold odd things, leave the claims of the others."""
    good = ld('{"@type": "ImageObject", "url": "/a.png", "license": "%s"}' % BY)
    for bad in (
        '{"@type": "ImageObject",',
        "",
        "[" * 50_000,
        '{"@graph": 7}',
        '{"@type": {"a": []}, "license": [[[]]]}',
    ):
        assert claims(ld(bad) + good + ld(bad) + "<img src=/a.png>") == [(BY, "json-ld", "image", "licence")]


def test_a_creator_may_be_named_elsewhere_in_the_script() -> None:
    """What an object only refers to is looked up; the credit line is kept beside the creator."""
    script = (
        '{"@graph": [{"@type": "ImageObject", "url": "/a.png", "license": "%s", "creator": {"@id": "#j"}, '
        '"creditText": "Museum", "name": "Apple"}, {"@id": "#j", "@type": "Person", "name": "Jane"}]}' % BY
    )
    (claim,) = read(ld(script) + "<img src=/a.png>").pairs[0].licence_claims
    assert (claim.title, claim.creator, claim.credit) == ("Apple", "Jane", "Museum")


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        # microdata
        (f"<div {IMAGE}><img itemprop=contentUrl src=a><a itemprop=license href={BY}>l</a></div>", "microdata"),
        (f"<div {IMAGE}><img src=a><a itemprop=license href={BY}>l</a></div>", "microdata"),
        (
            f"<div {IMAGE}><img src=a><link itemprop=url href=big><meta itemprop=license content={BY}></div>",
            "microdata",
        ),
        (f"<img src=a><div {IMAGE}><link itemprop=url href=a><link itemprop=license href={BY}></div>", "microdata"),
        (f"<div {IMAGE} itemid=a><a rel=license href={BY}>l</a></div><img src=a>", "microdata"),
        (
            f"<img src=a><div {IMAGE} itemref=m><link itemprop=url href=a></div><p id=m itemprop=license>{BY}",
            "microdata",
        ),
        # RDFa, ccREL
        (
            f"<div typeof=ImageObject><img property=contentUrl src=a><a property=license href={BY}></div>",
            "rdfa",
        ),
        (
            f'<div typeof="schema:ImageObject" resource=a><a property="schema:license" href={BY}></a></div><img src=a>',
            "rdfa",
        ),
        (f"<div about=a.jpg><img src=a.jpg><a rel=license href={BY}>l</a></div>", "rdfa"),
        (f'<img src=a.jpg><a about=a.jpg rel="cc:license" href={BY}>l</a>', "rdfa"),
        (f'<img src=a.jpg><span about=a.jpg property="dct:license" content={BY}></span>', "rdfa"),
        (f'<img src=a.jpg><span about="https://e.org/gallery/a.jpg" rel="xhv:license" resource={BY}></span>', "rdfa"),
    ],
)
def test_markup_that_stands_for_the_image(html: str, expected: str) -> None:
    """Microdata and RDFa of an image object, or with the picture as subject, are claims of image scope, once."""
    assert claims(html) == [(BY, expected, "image", "licence")]


@pytest.mark.parametrize(
    "html",
    [
        f"<img src=a><div {IMAGE}><link itemprop=url href=b><link itemprop=license href={BY}></div>",
        f"<img src=a.jpg><a about=b.jpg rel=license href={BY}>l</a>",
        f"<div about=b.jpg><a rel=license href={BY}>l</a></div><img src=a.jpg>",
        f"<img src=a><div itemscope itemtype='http://schema.org/Dataset'><a itemprop=license href={BY}></a></div>",
    ],
)
def test_markup_that_stands_for_something_else(html: str) -> None:
    """A licence of another picture, or of a data set, is neither this image's nor the page's."""
    assert claims(html) == []


def test_a_nested_creator_gives_the_name() -> None:
    """The author, title and notice in the object go with its licence."""
    (licence, notice) = (
        read(
            f"<div {IMAGE}><img itemprop=contentUrl src=a><b itemprop=name>Apple</b><a itemprop=license href={BY}>l</a>"
            '<span itemprop=creator itemscope itemtype="https://schema.org/Person"><i itemprop=name>Jane</i></span>'
            "<i itemprop=copyrightNotice>© Jane</i></div>"
        )
        .pairs[0]
        .licence_claims
    )
    assert (licence.title, licence.creator, licence.credit) == ("Apple", "Jane", "© Jane")
    assert (notice.kind, notice.where.rpartition("/")[0]) == ("rights", licence.where.rpartition("/")[0])


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        # a gallery's entries have their own; the first picture is asked
        (f"<ul><li><img src=a><a rel=license href={BY}>l</a></li><li><img src=b></li></ul>", "figure"),
        (
            f"<div><div><img src=a><p><a rel=license href={BY}>l</a></p></div>"
            "<div><img src=b><p><a rel=license href=/x>l</a></p></div></div>",
            "figure",
        ),
        # a page with one picture is no gallery; two pictures share; a second licence makes it unclear
        (f"<div><img src=a><footer><a rel=license href={BY}>l</a></footer></div>", "page"),
        (f"<ul><li><img src=a><img src=b><a rel=license href={BY}>l</a></li></ul>", "page"),
        (f"<p><img src=a></p><p><img src=b></p><p><a rel=license href={BY}>l</a></p>", "page"),
    ],
)
def test_a_licence_beside_one_picture_is_that_pictures(html: str, expected: str) -> None:
    """In a list item, a table's cell, or one box among its like; in doubt the link is the page's."""
    assert (BY, "rel-license", expected, "licence") in claims(html)
    assert ((BY, "rel-license", "page", "licence") in claims(html + "<img src=z>", -1)) is (expected == "page")


@pytest.mark.parametrize(
    ("html", "value", "kind"),
    [
        ("<meta name='DC.rights' content='© Museum'>", "© Museum", "rights"),
        (f"<meta name=dcterms.license content='{BY}'>", BY, "licence"),
        (f"<meta property='dcterms:license' content='{BY}'>", BY, "licence"),
        ("<meta name=copyright content='All rights reserved'>", "All rights reserved", "rights"),
        ("<meta name=rights content=x>", "x", "rights"),
    ],
)
def test_metas_of_rights_are_claims_of_the_page(html: str, value: str, kind: str) -> None:
    """Dublin Core and the old copyright meta are heard."""
    assert (value, "meta", "page", kind) in claims(html + "<img src=a>")


def test_whom_cc_rel_attributes_to() -> None:
    """cc:attributionName is the creator, cc:attributionURL the address to be credited."""
    (claim,) = (
        read(
            '<figure><img src=a><a property="cc:attributionName" rel="cc:attributionURL" href="https://j.example/">Jane'
            f"</a><a rel=license href={BY}>l</a></figure>"
        )
        .pairs[0]
        .licence_claims
    )
    assert (claim.creator, claim.credit) == ("Jane", "https://j.example/")


@pytest.mark.parametrize(
    "html",
    [
        f"<div {IMAGE}>" + "<span itemprop=license>" * 10_000,
        "<b itemprop=creator>" * 10_000,
        f"<div {IMAGE}><img src=a>" * 10_000,
        f"<div {IMAGE}><link itemprop=url href=/a><link itemprop=license href=/l></div>" * 5_000
        + "<img src=/a>" * 5_000,
        "".join(f"<a rel=license href=/l{i}></a>" for i in range(10_000)) + "<img src=/a>" * 10_000,
        "".join(f"<li><img src=/{i}><a rel=license href=/l{i}></a></li>" for i in range(10_000)),
        "<div about='x.jpg' rel=license href=y>" * 10_000,
        "<div typeof=ImageObject>" * 20_000,
        ld("[" + ",".join('{"@type":"ImageObject","url":"/a","license":"/l%d"}' % i for i in range(15_000)) + "]"),
    ],
)
def test_markup_without_end_is_bounded(html: str) -> None:
    """Objects inside objects, and claims by the thousand, cost no more than their length."""
    started = time.perf_counter()
    read(html + "<img src=last alt=still-here>")
    assert time.perf_counter() - started < 8  # about one second on an idle machine


@pytest.mark.parametrize(
    ("script", "unread"),
    [
        ('[{"@type": "ImageObject", "license": "https://a.example/by-nc"}', True),
        (" " * 600_000 + '{"@type": "ImageObject", "copyrightNotice": "x"}', True),
        ('{"@type": "WebSite", "name": "x"', False),
        ('{"@type": "ImageObject", "license": "https://a.example/by-nc"}', False),
    ],
)
def test_linked_data_that_cannot_be_read_is_said_where_it_speaks_of_rights(script: str, unread: bool) -> None:
    """A broken or endless script is no claim, and no silence either; one that is about other things is passed over."""
    html = f'<script type="application/ld+json">{script}</script><img src="/a.png" alt="a pear">'
    page = read_page(html.encode(), "https://a.example/")
    assert [claim.kind for claim in page.licence_claims if claim.kind == "unread"] == ["unread"] * unread


def test_a_chosen_options_copy_is_no_other_picture() -> None:
    """What a browser would copy into <selectedcontent> is read where it stands in the source, once."""
    html = b"""<select><button><selectedcontent></selectedcontent></button>
    <option>one<option selected><img src=/a.png alt="an apple">two</select>"""
    assert [(pair.image_url, pair.alt) for pair in read_page(html, "https://a.example/").pairs] == [
        ("https://a.example/a.png", "an apple")
    ]
