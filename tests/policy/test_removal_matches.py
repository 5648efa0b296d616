from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from policy.errors import InputError
from policy.ledger import Ledger
from policy.provenance import canonical_json
from policy.removal_matches import (
    Match,
    erasure_selections,
    likeness,
    match,
    match_many,
    matches_of,
    record_matches,
    record_review,
    reviews,
)
from policy.removals import RemovalRequest, State, advance, find, folded, record

BEACH = "Ann on a \u201cbeach\u201d"


@pytest.fixture
def crawled(ledger: Ledger) -> Ledger:
    """p1 and p2 on a.example; p3 on b.example shows p1's bytes; p4 on c.example its own; p5 was never fetched."""
    rows = [
        ("p1", "https://a.example/page", "https://img.a.example/1.jpg", "u1", "c1"),
        ("p2", "https://a.example/page", "https://img.a.example/2.jpg", "u2", "c2"),
        ("p3", "http://b.example:8001/", "http://b.example:8001/copy.jpg", "u3", "c1"),
        ("p4", "https://c.example/", "https://notaa.example/4.jpg", "u4", "c4"),
        ("p5", "https://c.example/", "https://c.example/5.jpg", "u5", None),
    ]
    names = ("pair_key", "page_url", "image_url", "url_key")
    captions = [{"sample_key": f"s{p[1]}", "pair_key": p, "content_sha256": c} for p, *_, c in rows if c]
    evidence = [{"evidence_id": f"e{p}", "pair_key": p, "content_sha256": c} for p, *_, c in rows]
    images: list[dict[str, object]] = [{"url": row[2], "url_key": row[3], "kind": "image"} for row in rows]
    tables: dict[str, list[dict[str, object]]] = {
        "occurrence": [dict(zip(names, row[:4], strict=True)) for row in rows],
        "content": [{"url_key": row[3], "content_sha256": row[4]} for row in rows if row[4]],
        "caption": [dict(row) for row in captions],
        "fetch": [*images, {"url": rows[0][1], "url_key": "page", "kind": "page"}],
        "evidence": [dict(row) for row in evidence],
        "decision": [{"evidence_id": row["evidence_id"], "pair_key": row["pair_key"]} for row in evidence],
        "slot": [{"dataset": "d", "ordinal": i, **row} for i, row in enumerate(captions)],
        "attribution": [{"dataset": "d", "ordinal": i, "creator": f"creator-{i}"} for i in range(4)],
        "score": [{"content_sha256": "c1", "name": "nsfw", "value": 0.1}],
    }
    ledger.append_many([(table, found, "crawl") for table, found in tables.items()])
    return ledger


M1 = Match("p1", "u1", "c1", "s1", "image_url")


class TestMatching:
    def pairs(self, ledger: Ledger, kind: str, value: str) -> dict[str | None, str]:
        return {found.pair_key: found.method for found in match(ledger, kind, value)}

    def test_an_image_url_and_its_copies(self, crawled: Ledger) -> None:
        """A URL is named, the same bytes elsewhere go with it, and the page's other pictures do not."""
        assert match(crawled, "image_url", "https://img.a.example/1.jpg") == (
            M1,
            Match("p3", "u3", "c1", "s3", "same-content"),
        )

    def test_a_page(self, crawled: Ledger) -> None:
        """A page means every picture on it, and their copies."""
        assert self.pairs(crawled, "page_url", "https://a.example/page") == {
            "p1": "page_url",
            "p2": "page_url",
            "p3": "same-content",
        }

    @pytest.mark.parametrize(
        ("domain", "direct"),
        [
            ("a.example", {"p1", "p2"}),
            ("img.a.example", {"p1", "p2"}),
            ("b.example", {"p3"}),
            ("b.example:8001", {"p3"}),
            ("b.example:8002", set()),
            ("aa.example", set()),
            ("c.example", {"p4", "p5"}),
            ("example.c", set()),
        ],
    )
    def test_a_domain(self, crawled: Ledger, domain: str, direct: set[str]) -> None:
        """A host, what is below it, with its port or without; page or image; never a name that only ends alike."""
        assert {pair for pair, method in self.pairs(crawled, "domain", domain).items() if method == "domain"} == direct

    def test_content_and_sample(self, crawled: Ledger) -> None:
        """Bytes by sha256, a sample by its key: every occurrence."""
        assert self.pairs(crawled, "content", "c1") == {"p1": "content", "p3": "content"}
        assert self.pairs(crawled, "sample_key", "s1") == {"p1": "sample_key", "p3": "same-content"}

    def test_what_was_never_fetched(self, crawled: Ledger) -> None:
        """An occurrence without bytes matches by its URL."""
        assert match(crawled, "image_url", "https://c.example/5.jpg") == (Match("p5", "u5", None, None, "image_url"),)

    def test_a_redirect_target(self, crawled: Ledger) -> None:
        """The URL that finally answered is a name of the picture, too."""
        row = {"url": "https://x.example/", "final_url": "https://cdn.example/1", "url_key": "u1", "kind": "image"}
        crawled.append("fetch", [row], key="redirect")
        assert set(self.pairs(crawled, "image_url", "https://cdn.example/1")) == {"p1", "p3"}

    def test_many_at_once(self, crawled: Ledger) -> None:
        """Each is matched as if it were alone."""
        asked = [
            ("r1", "image_url", "https://img.a.example/1.jpg"),
            ("r2", "domain", "c.example"),
            ("r3", "content", "c1"),
            ("r4", "domain", "a.example"),
            ("r5", "person", None),
        ]
        found = match_many(crawled, asked)
        assert found == {name: match(crawled, kind, value) for name, kind, value in asked}
        assert [len(found[name]) for name, *_ in asked] == [2, 2, 2, 3, 0]

    def test_nothing(self, crawled: Ledger) -> None:
        """What the ledger never saw matches nothing, and an unknown kind is an error."""
        assert match(crawled, "image_url", "https://nowhere.example/") == ()
        assert match(crawled, "domain", "") == ()
        with pytest.raises(InputError):
            match(crawled, "face", "x")

    def test_erased_rows_match_nothing(self, crawled: Ledger, now: datetime) -> None:
        """After the erasure no row is about what was removed, what others share stays, and the chain holds."""
        request = RemovalRequest.receive("image_url", "https://img.a.example/1.jpg", now=now)
        record(crawled, request)
        found = match(crawled, "image_url", "https://img.a.example/1.jpg")
        assert record_matches(crawled, request.removal, found, now=now)
        assert not record_matches(crawled, request.removal, found, now=now)
        advance(crawled, request.removal, State.APPROVED, now=now)
        counts = crawled.erase_rows(erasure_selections(), {"removals": [request.removal]})[request.removal]
        expected = {"occurrence": 2, "content": 2, "caption": 2, "fetch": 2, "evidence": 2, "decision": 2, "slot": 2}
        expected |= {"attribution": 2, "score": 1, "removal": 1, "removal_match": 2}
        assert {table: n for table, n in counts.items() if n} == expected
        assert match(crawled, "image_url", "https://img.a.example/1.jpg") == ()
        assert match(crawled, "content", "c1") == ()
        assert self.pairs(crawled, "domain", "a.example") == {"p2": "domain"}
        assert find(crawled, request.removal).named_value is None
        assert crawled.query("SELECT creator FROM attribution ORDER BY ordinal") == [
            *((None,), ("creator-1",), (None,), ("creator-3",)),
        ]
        assert crawled.verify() == ()


class TestNamesAndTexts:
    """What a name or a text finds: where it is said, whole or in part."""

    @pytest.fixture
    def told(self, crawled: Ledger) -> Ledger:
        claim = {"value": "v", "source": "json-ld", "scope": "figure", "kind": "licence"}
        hints = [{**claim, "creator": "Ann  B\u00c9E"}, {**claim, "credit": "Photo: Ann B\u00e9e / Agency"}]
        body = {
            "licence_claims": [{**claim, "value": "https://terms.example/", "kind": "terms", "creator": "Studio"}],
            "embedded": {"fields": [{"name": "exif:Artist", "value": "Ann B\u00e9e", "where": "EXIF"}]},
        }
        page, hinted = {"page_url": "https://d.example/"}, [canonical_json([hint]) for hint in hints]
        first = {"pair_key": "p6", "url_key": "u6", "alt": BEACH, "hints_json": hinted[0]}
        second = {"pair_key": "p7", "url_key": "u7", "alt": f"{BEACH.upper()} ", "hints_json": hinted[1]}
        third = {"pair_key": "p8", "url_key": "u8", "alt": "Hannah on a beach"}
        grant = {"giver": "Ann B\u00e9e", "scope_kind": "domain", "scope": "c.example", "state": "given"}
        crawled.append_many(
            [
                ("occurrence", [page | one for one in (first, second, third)], "told"),
                ("evidence", [{"pair_key": "p9", "evidence_id": "e9", "body_json": canonical_json(body)}], "told"),
                ("occurrence", [{"pair_key": "p9", "page_url": "https://e.example/", "url_key": "u9"}], "told9"),
                ("attribution", [{"dataset": "d", "ordinal": 1, "creator": "ann b\u00e9e"}], "told"),
                ("consent", [grant], "g"),
            ]
        )
        return crawled

    def found(self, ledger: Ledger, kind: str, value: str) -> dict[str | None, tuple[str, str]]:
        return {one.pair_key: (one.method, one.state) for one in match(ledger, kind, value)}

    def test_a_creator(self, told: Ledger) -> None:
        """A page's hint, a file's own field and the attribution match, however written; a longer line is proposed."""
        exact, proposed = ("creator", "matched"), ("creator-contains", "proposed")
        assert self.found(told, "creator", " ann   B\u00e9e") == {"p6": exact, "p9": exact, "p2": exact, "p7": proposed}
        assert self.found(told, "creator", "Bob") == {}

    def test_a_licensor(self, told: Ledger) -> None:
        """What somebody's grant covers, and whatever names them or their terms."""
        found = self.found(told, "licensor", "Ann B\u00e9e")
        assert {found[pair] for pair in ("p4", "p5", "p6")} == {("licensor", "matched")}
        assert self.found(told, "licensor", "https://TERMS.example/") == {"p9": ("licensor", "matched")}

    def test_a_text(self, told: Ledger) -> None:
        """Equal texts match but for case, width and spaces; what contains one as words is proposed with its share."""
        exact, proposed = ("text", "matched"), ("text-contains", "proposed")
        assert self.found(told, "text", BEACH) == {"p6": exact, "p7": exact}
        assert self.found(told, "text", "Ann") == {"p6": proposed, "p7": proposed}
        [score] = {one.score for one in match(told, "text", "Ann")}
        assert score == round(3 / len(BEACH), 4)

    @pytest.mark.parametrize(
        ("named", "text", "found"),
        [
            ("ann", "hannah", False),
            ("an", "an apple", False),  # too short to mean anything
            ("ann bee", "by ann bee.", True),
            ("c++", "learn c++ now", True),
            (
                "\u7530\u4e2d\u82b1\u5b50",
                "\u5199\u771f\u7530\u4e2d\u82b1\u5b50\u64ae\u5f71",
                True,
            ),  # no spaces between words
        ],
    )
    def test_what_counts_as_contained(self, named: str, text: str, found: bool) -> None:
        """Whole words, in scripts that have them."""
        assert (0 < likeness(folded(named), folded(text)) < 1) is found


class TestReviews:
    """What a reviewer says of a match counts from then on."""

    @pytest.fixture
    def removal(self, crawled: Ledger, now: datetime) -> str:
        request = RemovalRequest.receive("page_url", "https://a.example/page", now=now)
        record(crawled, request)
        record_matches(crawled, request.removal, match(crawled, "page_url", "https://a.example/page"), now=now)
        return request.removal

    def taken(self, ledger: Ledger, removal: str) -> set[str | None]:
        rows = ledger.query("SELECT pair_key FROM removal_taken WHERE removal = ?", [removal])
        return {pair for (pair,) in rows}

    def test_the_newest_answer_counts(self, crawled: Ledger, removal: str, now: datetime) -> None:
        """Equal bytes are answered for as one; who said what of how many, and why, is on record, each change once."""
        assert self.taken(crawled, removal) == {"p1", "p2", "p3"}
        answers = {"c1": ("reject", "not hers"), "c2": ("approve", "")}
        assert record_review(crawled, removal, answers, by_whom="Ann", now=now) == 3  # type: ignore[arg-type]
        assert record_review(crawled, removal, answers, by_whom="Ann", now=now) == 0  # type: ignore[arg-type]
        assert self.taken(crawled, removal) == {"p2"}
        assert record_review(crawled, removal, {"c1": ("approve", "it is")}, by_whom="Bob", now=now) == 2
        assert self.taken(crawled, removal) == {"p1", "p2", "p3"}
        told = [(r.verdict, r.matches, r.by_whom, r.reason) for r in reviews(crawled, removal)]
        assert told == [("approve", 1, "Ann", None), ("reject", 2, "Ann", "not hers"), ("approve", 2, "Bob", "it is")]

    def test_an_answer_holds_for_what_comes_later(self, crawled: Ledger, removal: str, now: datetime) -> None:
        """Another occurrence of rejected bytes is rejected as it comes."""
        record_review(crawled, removal, {"c1": ("reject", "not hers")}, by_whom="Ann", now=now)
        record_matches(crawled, removal, [Match("p9", "u9", "c1", None, "same-content")], now=now)
        assert {one.state for one in matches_of(crawled, removal) if one.content_sha256 == "c1"} == {"rejected"}
        assert self.taken(crawled, removal) == {"p2"}

    @pytest.mark.parametrize("answers", [{"c9": ("approve", "")}, {"c1": ("reject", " ")}, {"c1": ("maybe", "")}])
    def test_wrong_answers(self, crawled: Ledger, removal: str, now: datetime, answers: Any) -> None:
        """A stranger's key, a rejection without a reason, no answer: nothing of it is recorded."""
        with pytest.raises(InputError):
            record_review(crawled, removal, {"c2": ("approve", ""), **answers}, by_whom="Ann", now=now)
        assert reviews(crawled, removal) == ()

    def test_only_what_is_taken_is_erased(self, crawled: Ledger, removal: str, now: datetime) -> None:
        """What was rejected keeps its rows; that it was looked at is erased with the rest of the request."""
        record_review(crawled, removal, {"c1": ("reject", "no"), "c2": ("approve", "")}, by_whom="Ann", now=now)
        advance(crawled, removal, State.APPROVED, now=now)
        crawled.erase_rows(erasure_selections(), {"removals": [removal]})
        left = {pair for (pair,) in crawled.query("SELECT pair_key FROM occurrence")}
        assert left == {"p1", "p3", "p4", "p5", None}
        assert [one.state for one in matches_of(crawled, removal)] == ["approved"]
        assert crawled.query("SELECT count(*) FROM removal_match WHERE erased_by IS NULL") == [(0,)]
        assert crawled.verify() == ()
