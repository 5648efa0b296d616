from __future__ import annotations

from datetime import datetime
from itertools import count

import pytest

from policy.errors import InputError
from policy.ledger import Ledger
from policy.removal_matches import Match, erasure_selections, match, record_matches
from policy.removals import RemovalRequest, State, advance, find, record

_keys = count()


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
