"""What stands, and what may be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.ledger import Ledger
from policy.verdict import Verdict, combine

_keys = count()
SAMPLE = {"page_url": "https://a.example/p", "image_url": "https://a.example/i.jpg"}


def decide(ledger: Ledger, pair: str, rule: str, verdict: str | None, **more: object) -> None:
    row = {"pair_key": pair, "rule": rule, "verdict": verdict, "reason_code": f"{rule}-{verdict}", **more}
    ledger.append("decision", [row], key=f"{next(_keys)}")


def observe(
    ledger: Ledger, pair: str, url: str, content: str, *, sample: str | None = None, state: str = "kept"
) -> None:
    """An occurrence, what was found under its URL, and its caption."""
    key = f"{next(_keys)}"
    ledger.append("occurrence", [{"pair_key": pair, "url_key": url, **SAMPLE}], key=key)
    ledger.append("content", [{"url_key": url, "content_sha256": content, "width": 640, "face_count": 0}], key=key)
    if sample is not None:
        caption(ledger, pair, content, sample, state)


def caption(ledger: Ledger, pair: str | None, content: str, sample: str, state: str) -> None:
    row = {"pair_key": pair, "content_sha256": content, "sample_key": sample, "caption": "an apple", "state": state}
    ledger.append("caption", [{**row, "caption_origin": "alt", "score": 0.5}], key=f"{next(_keys)}")


def stands(ledger: Ledger) -> dict[str, tuple[str, str]]:
    return {p: (v, r) for p, v, r in ledger.query("SELECT pair_key, verdict, rule FROM standing")}


def trainable(ledger: Ledger) -> Mapping[str, str]:
    return dict(ledger.query("SELECT sample_key, pair_key FROM trainable"))


class TestStanding:
    def test_the_last_word_of_each_rule_counts(self, ledger: Ledger) -> None:
        """A rule's later decision replaces its earlier one, and nobody else's."""
        decide(ledger, "p", "robots", "deny")
        decide(ledger, "p", "licence", "allow")
        assert stands(ledger) == {"p": ("deny", "robots")}
        decide(ledger, "p", "robots", "allow")
        assert stands(ledger) == {"p": ("allow", "licence")}
        decide(ledger, "p", "licence", "defer")
        assert stands(ledger) == {"p": ("defer", "licence")}

    def test_within_a_batch_the_later_row_counts(self, ledger: Ledger) -> None:
        """Rows of one batch are ordered by row_no."""
        rows = [{"pair_key": "p", "rule": "robots", "verdict": verdict} for verdict in ("deny", "defer", "allow")]
        ledger.append("decision", rows, key="k")
        assert stands(ledger) == {"p": ("allow", "robots")}

    def test_the_earliest_of_the_worst_decides(self, ledger: Ledger) -> None:
        """`since` is when the standing verdict began, with the reason and evidence of that decision."""
        for day, rule in enumerate(["faces", "robots"], start=1):
            moment = datetime(2026, 1, day, tzinfo=UTC)
            decide(ledger, "p", rule, "deny", evidence_id=f"e{day}", ruleset_digest="d", decided_at=moment)
        decide(ledger, "p", "size", "defer")
        [row] = ledger.query("SELECT rule, reason_code, evidence_id, ruleset_digest, since FROM standing")
        assert row == ("faces", "faces-deny", "e1", "d", datetime(2026, 1, 1))  # noqa: DTZ001 - naive UTC in DuckDB

    def test_a_reason_that_was_seen_decides_before_what_nobody_looked_at(self, ledger: Ledger) -> None:
        """Of what defers; what nobody looked at defers by itself, and the deferral began with it all the same. A deny
        is still a deny, and an allow waits for what is not observed.
        """
        days = {"safety": ("defer", "not-observed"), "duplicate": ("defer", "duplicate"), "text": ("defer", "too-long")}
        for day, (rule, (verdict, code)) in enumerate(days.items(), start=1):
            moment = datetime(2026, 1, day, tzinfo=UTC)
            decide(ledger, "p", rule, verdict, reason_code=code, evidence_id=f"e{day}", decided_at=moment)
        since = datetime(2026, 1, 1)  # noqa: DTZ001 - naive UTC in DuckDB
        row = "SELECT verdict, rule, reason_code, evidence_id, since FROM standing"
        assert ledger.query(row) == [("defer", "duplicate", "duplicate", "e2", since)]
        decide(ledger, "p", "robots", "deny")
        assert stands(ledger) == {"p": ("deny", "robots")}
        for rule in ("duplicate", "text", "robots"):
            decide(ledger, "p", rule, "allow")
        assert ledger.query(row) == [("defer", "safety", "not-observed", "e1", since)]

    @pytest.mark.parametrize("verdict", ["DENY", "", "maybe", None])
    def test_what_is_no_verdict_denies(self, ledger: Ledger, verdict: str | None) -> None:
        """A word that nobody knows is not permission."""
        decide(ledger, "p", "robots", verdict)
        assert stands(ledger) == {"p": ("deny", "robots")}

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([None, *Verdict]), min_size=1))
    def test_it_agrees_with_combine(self, ledger: Ledger, verdicts: dict[str, Verdict | None]) -> None:
        """The view and verdict.combine are one rule."""
        pair = f"pair {next(_keys)}"
        rows = [{"pair_key": pair, "rule": r, "verdict": v.value if v else "unset"} for r, v in verdicts.items()]
        ledger.append("decision", rows, key=pair)
        [(verdict,)] = ledger.query("SELECT verdict FROM standing WHERE pair_key = ?", [pair])
        assert verdict == combine(verdicts.values()).value


class TestTrainable:
    @pytest.fixture
    def filled(self, ledger: Ledger) -> Ledger:
        observe(ledger, "p", "u", "c", sample="s")
        decide(ledger, "p", "robots", "unset")
        decide(ledger, "p", "licence", "allow", reason_detail="CC-BY-4.0")
        return ledger

    def test_a_sample_with_all_it_needs(self, filled: Ledger) -> None:
        """Each column comes from where it is decided: licence from its rule, size from the content."""
        [row] = filled.query_arrow("SELECT * FROM trainable").to_pylist()
        assert row == {
            **SAMPLE,
            **{"sample_key": "s", "pair_key": "p", "content_sha256": "c", "caption": "an apple"},
            **{"caption_origin": "alt", "caption_run": None, "licence": "CC-BY-4.0", "width": 640, "height": None},
            **{"face_count": 0, "score": 0.5},
        }

    @pytest.mark.parametrize("verdict", ["deny", "defer"])
    def test_what_stands_otherwise_is_out(self, filled: Ledger, verdict: str) -> None:
        """One rule's deny or defer takes the sample out."""
        decide(filled, "p", "faces", verdict)
        assert trainable(filled) == {}

    def test_undecided_is_out(self, ledger: Ledger) -> None:
        """What nobody judged is not trained on."""
        observe(ledger, "p", "u", "c", sample="s")
        assert trainable(ledger) == {}

    def test_equal_bytes_share_a_deny(self, filled: Ledger) -> None:
        """A DENY of another occurrence of the same bytes counts; a DEFER of it does not."""
        observe(filled, "q", "v", "c")
        decide(filled, "q", "x_robots", "defer")
        assert trainable(filled) == {"s": "p"}
        decide(filled, "q", "x_robots", "deny")
        assert trainable(filled) == {}
        assert filled.query("SELECT * FROM standing_content") == [("c", 2, 1, True)]

    def test_a_deny_reaches_bytes_that_only_evidence_names(self, filled: Ledger) -> None:
        """Bytes are tied to a pair by its evidence, too: they need not have become a content row."""
        filled.append("evidence", [{"evidence_id": "e", "pair_key": "q", "content_sha256": "c"}], key="e")
        decide(filled, "q", "x_robots", "deny")
        assert trainable(filled) == {}

    def test_bytes_that_were_replaced_take_the_caption_with_them(self, filled: Ledger) -> None:
        """A caption belongs to the bytes it was made for; when the URL gives others, it is out."""
        observe(filled, "p", "u", "other")
        assert trainable(filled) == {}

    def test_the_last_caption_row_of_a_sample_counts(self, filled: Ledger) -> None:
        """A caption that was withdrawn is out, and in again when it was kept again."""
        caption(filled, "p", "c", "s", "dropped")
        assert trainable(filled) == {}
        caption(filled, "p", "c", "s", "kept")
        assert trainable(filled) == {"s": "p"}

    def test_withdrawn_for_one_pair_is_withdrawn_for_the_sample(self, filled: Ledger) -> None:
        """The newest row of a sample key decides, whichever pair it came with."""
        observe(filled, "a", "v", "c", sample="s", state="dropped")
        decide(filled, "a", "licence", "allow")
        assert trainable(filled) == {}

    def test_pairs_that_share_a_sample(self, filled: Ledger) -> None:
        """The smallest allowed pair stands for a sample that several pairs show: one row a sample key."""
        observe(filled, "a", "v", "c", sample="s")
        assert trainable(filled) == {"s": "p"}
        decide(filled, "a", "licence", "allow")
        assert trainable(filled) == {"s": "a"}

    def test_seen_again_is_one_row(self, filled: Ledger) -> None:
        """A second crawl and a second caption row do not double a sample."""
        observe(filled, "p", "u", "c", sample="s")
        assert filled.query("SELECT count(*) FROM trainable") == [(1,)]

    def test_the_licence_is_the_last_allow(self, filled: Ledger) -> None:
        """A newer licence decision replaces the older; one without detail leaves none rather than the old."""
        decide(filled, "p", "licence", "allow", reason_detail="CC0-1.0")
        assert filled.query("SELECT licence FROM trainable") == [("CC0-1.0",)]
        decide(filled, "p", "licence", "allow")
        assert filled.query("SELECT licence FROM trainable") == [(None,)]

    def test_tombstones(self, filled: Ledger) -> None:
        """What the rule 'tombstone' denied is out, and listed with its removal."""
        decide(filled, "p", "tombstone", "unset")
        assert filled.query("SELECT * FROM tombstoned") == []
        decide(filled, "p", "tombstone", "deny", reason_detail="removal-1")
        assert trainable(filled) == {}
        assert filled.query("SELECT pair_key, removal FROM tombstoned") == [("p", "removal-1")]

    def test_erased_rows_match_nothing(self, filled: Ledger) -> None:
        """Erased rows have NULL for every key: no view fails on them, joins them or counts them."""
        for pair in "xyz":
            observe(filled, pair, f"u{pair}", f"c{pair}", sample=f"s{pair}")
            decide(filled, pair, "licence", "deny")
            filled.append("evidence", [{"evidence_id": pair, "pair_key": pair, "content_sha256": "c"}], key=pair)
        filled.append("removal_event", [{"removal": "r", "state": "approved"}], key="r")
        gone = "pair_key IN ('x', 'y', 'z')"
        erased: dict[str, Any] = dict.fromkeys(["occurrence", "decision", "caption", "evidence"], gone)
        filled.erase("r", {**erased, "content": "content_sha256 <> 'c'"})
        assert trainable(filled) == {"s": "p"}
        assert set(stands(filled)) == {"p"}
        assert filled.query("SELECT content_sha256 FROM standing_content") == [("c",)]
        assert filled.query("SELECT count(*) FROM latest_decision WHERE pair_key IS NULL") == [(0,)]
