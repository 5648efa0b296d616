"""The ruleset: nothing misspelt, missing or of the wrong kind is taken; its digest says what counted."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policy.errors import ConfigurationError
from policy.evidence import (
    ORIGIN_DOCUMENTS,
    C2pa,
    Document,
    DuplicateOf,
    Embedded,
    Evidence,
    Hop,
    LicenceClaim,
    OriginEvidence,
    Score,
    Shared,
)
from policy.judgements import SENTENCES, reason, sentence
from policy.ruleset import KNOWN, Ruleset
from policy.verdict import Verdict

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TEXT = Ruleset.default_text()
GOOD = Evidence(
    page_url="https://a.example/",
    image_url="https://a.example/x.jpg",
    observed_at=NOW,
    observer="test",
    observer_version="1",
    origins=(
        OriginEvidence(
            "https://a.example",
            tuple(
                (name, Document("https://a.example" + path, 404, NOW))
                for name, path in ORIGIN_DOCUMENTS.items()
                if name != "rsl"
            ),
        ),
    ),
    page_headers=(),
    page_meta=(),
    page_rsl=(),
    embedded=Embedded("image/jpeg"),
    c2pa=C2pa("absent"),
    registry=(),
    hops=(Hop("https://a.example/x.jpg", 200, ()),),
    licence_claims=(LicenceClaim("https://creativecommons.org/licenses/by/4.0/", "rel-license", "page"),),
    content_sha256="0" * 64,
    width=640,
    height=480,
    faces=(),
    alt="red apple",
    text_origin="alt",
    tombstoned="",
    scores=tuple(
        Score(name, value, "test")
        for name, value in {"entropy": 6.0, "sharpness": 1.5, "flatness": 0.5, "screenshot": 0.1, "nsfw": 0.01}.items()
    ),
    duplicate=DuplicateOf("0" * 64, "none", 0.0),
)


def test_the_packaged_ruleset_is_whole() -> None:
    """The default loads, judges every mechanism that is built, and explains every key it has."""
    ruleset = Ruleset.default()
    assert set(ruleset.mechanisms) == KNOWN
    assert ruleset.text_body == TEXT
    assert all(name in TEXT for name in KNOWN)


def test_a_file_is_loaded_like_its_text(tmp_path: Path) -> None:
    """`custody init` writes the default text; loading it gives the default ruleset."""
    path = tmp_path / "policy.toml"
    path.write_text(TEXT, encoding="utf-8")
    assert Ruleset.load(path).digest == Ruleset.default().digest


def test_the_digest_is_of_what_counts() -> None:
    """Comments and layout leave the digest as it is; any value changes it."""
    digest = Ruleset.default().digest
    assert re.fullmatch(r"[0-9a-f]{32}", digest)
    assert Ruleset.parse("# another comment\n" + TEXT).digest == digest
    assert Ruleset.parse(TEXT.replace("min_side = 64", "min_side = 65")).digest != digest
    old, new = '"CC-BY-2.5" = { commercial = "allow"', '"CC-BY-2.5" = { commercial = "deny"'
    assert Ruleset.parse(TEXT.replace(old, new)).digest != digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1\n", "", "the key 'version' is missing"),
        ("version = 1\n", "version = 2\n", "version is 2"),
        ("version = 1\n", 'version = "1"\n', "'version' must be a whole number"),
        ("version = 1\n", "version = true\n", "'version' must be a whole number"),
        ("defer_days", "defer_dais", "unknown key 'defer_dais'; did you mean 'defer_days'?"),
        ("defer_days = 30\n", "", "the key 'defer_days' is missing"),
        ("max_aspect", "max_aspct", "unknown key 'size.max_aspct'; did you mean 'max_aspect'?"),
        ("max_aspect = 4.0", 'max_aspect = "4"', "'size.max_aspect' must be a number"),
        ("max_aspect = 4.0", "max_aspect = 0.5", "max_aspect must be at least 1"),
        ("max_aspect = 4.0", "max_aspect = nan", "max_aspect must be at least 1"),
        ("min_side = 64", "min_side = 64.0", "'size.min_side' must be a whole number"),
        ("[size]", "[sise]", "unknown key 'sise'; did you mean 'size'?"),
        ("[faces]", "[[faces]]", "faces must be a section"),
        ('mode = "deny"', 'mode = "denny"', "'faces.mode' must be 'deny' or 'blur' or 'allow', is 'denny'"),
        ("min_score = 0.7", "min_score = 1.5", "min_score must lie in [0, 1]"),
        ("share_alike = false", 'share_alike = "no"', "'licence.share_alike' must be true or false"),
        ('"robots", "ai_agents"', '"robotz", "ai_agents"', "'robotz', which is not known; did you mean 'robots'?"),
        ('"robots", "ai_agents"', '"robots", "robots"', "each only once"),
        ('"robots", "ai_agents"', '"robots", 3', "'mechanisms' must be a text"),
        ('["custody"]', "[]", "product_tokens must name at least one"),
        ('["custody"]', '["my bot"]', "product_tokens must name at least one"),
        ('["custody"]', '"custody"', "'product_tokens' must be a list"),
        ('{ commercial = "allow", research = "allow" }', '"allow"', "'licence.table.CC0-1.0' must be a table"),
        (
            '{ commercial = "allow", research = "allow" }',
            '{ commercial = "allow" }',
            "'licence.table.CC0-1.0.research'",
        ),
        ('{ commercial = "allow", research', '{ comercial = "allow", research', "did you mean 'commercial'?"),
        ("trust_txt = 30\n", "", "the key 'max_evidence_age_days.trust_txt' is missing"),
        ("licence = 90", "license = 90", "unknown key 'max_evidence_age_days.license'"),
        ("[licence.asset_hosts]", '[licence.asset_hosts]\n"a.example" = "b.example"', "must be a list"),
        ("[robots]", "[robots]\nmax_age_days = 3", "unknown key 'robots.max_age_days'"),
        ("version = 1\n", "version = \n", "not TOML"),
        ("version = 1\n", "version = 1" + "0" * 5000 + "\n", "too many digits"),
        ("defer_days = 30", "defer_days = 999999999999", "defer_days must lie in 0 to 36500, is 999999999999"),
        ("defer_days = 30", "defer_days = -1", "defer_days must lie in 0 to 36500, is -1"),
        ("unreachable_deny_days = 30", "unreachable_deny_days = 99999999999", "unreachable_deny_days must lie in 0 to"),
        ("invalid_deny_days = 30", "invalid_deny_days = 36501", "invalid_deny_days must lie in 0 to 36500, is 36501"),
        ("licence = 90", "licence = 9999999999", "licence must lie in 0 to 36500"),
        ("\nrobots = 30", "\nrobots = 999999999999", "robots must lie in 0 to 36500"),
        ("\ntrust_txt = 30", "\ntrust_txt = -3", "trust_txt must lie in 0 to 36500, is -3"),
        ("bank_min_origins = 3", "bank_min_origins = 0", "bank_min_origins must be at least 1"),
        ("four_eyes_over = 100", "four_eyes_over = -1", "four_eyes_over must be at least 0"),
        ("max_bytes = 5_242_880", "max_bytes = 511_999", "robots.max_bytes must lie in 512000 to"),
        ("max_bytes = 5_242_880", "max_bytes = 67_108_865", "robots.max_bytes must lie in 512000 to"),
    ],
)
def test_what_is_misspelt_missing_or_wrong_refuses(old: str, new: str, message: str) -> None:
    """One message names the file, the key and what would be right; nothing falls back on a default."""
    assert old in TEXT
    with pytest.raises(ConfigurationError) as caught:
        Ruleset.parse(TEXT.replace(old, new, 1), where="home/policy.toml")
    assert message in str(caught.value)
    assert "home/policy.toml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_or_unreadable_file_refuses(tmp_path: Path) -> None:
    """No ruleset is no permission to use the packaged one."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Ruleset.load(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        Ruleset.load(tmp_path / "policy.toml")


def test_good_evidence_is_allowed() -> None:
    """A licensed picture of which nothing objects passes, one judgement a mechanism in the ruleset's order."""
    ruleset = Ruleset.default()
    judgements = ruleset.decide(GOOD, NOW)
    assert tuple(j.mechanism for j in judgements) == ruleset.mechanisms
    assert ruleset.verdict(judgements) is Verdict.ALLOW


@pytest.mark.parametrize(
    "field",
    [
        *("page_headers", "page_meta", "page_rsl", "hops", "embedded", "c2pa", "registry", "licence_claims"),
        *("width", "height", "faces", "alt", "tombstoned"),
    ],
)
def test_no_single_observation_can_be_missing(field: str) -> None:
    """Take away any one thing that was observed, and the sample is out."""
    ruleset = Ruleset.default()
    assert ruleset.verdict(ruleset.decide(replace(GOOD, **{field: None}), NOW)) is Verdict.DEFER


@pytest.mark.parametrize("name", [score.name for score in GOOD.scores if score.name != "flatness"])
def test_no_score_can_be_missing(name: str) -> None:
    """A picture of which one measure is not known is out until it is."""
    ruleset = Ruleset.default()
    others = tuple(score for score in GOOD.scores if score.name != name)
    assert ruleset.verdict(ruleset.decide(replace(GOOD, scores=others), NOW)) is Verdict.DEFER


def test_origins_that_were_not_asked_keep_out() -> None:
    """Without the origins' documents nothing passes."""
    ruleset = Ruleset.default()
    assert ruleset.verdict(ruleset.decide(replace(GOOD, origins=()), NOW)) is Verdict.DEFER


def test_old_evidence_keeps_out() -> None:
    """What was observed too long ago must be observed again before it permits."""
    ruleset = Ruleset.default()
    judgements = ruleset.decide(GOOD, NOW + timedelta(days=31))
    assert ruleset.verdict(judgements) is Verdict.DEFER
    stale = {j.mechanism for j in judgements if j.reason.code == "evidence-stale"}
    # The licence may be older; what lies in the bytes, and what is asked anew each time, does not age.
    young = {"licence", "xmp", "c2pa", "registry", "faces", "size", "text", "tombstone"}
    young |= {"quality", "safety", "duplicate"}
    assert stale == set(ruleset.mechanisms) - young


def test_evidence_at_rest_is_judged_alike() -> None:
    """Evidence out of the ledger, its bodies by digest, gives the same judgements, signals included."""
    ruleset = Ruleset.default()
    body = b"User-agent: *\nDisallow: /x\n"
    robots = Document("https://a.example/robots.txt", 200, NOW, body=body, body_sha256=Document.digest(body))
    evidence = replace(GOOD, origins=(OriginEvidence("https://a.example", (("robots", robots),)),))
    again = replace(Evidence.from_json(evidence.to_json(), Shared.of(evidence)), registry=())  # it is asked anew
    assert ruleset.decide(again, NOW) == ruleset.decide(evidence, NOW)
    lost = Evidence.from_json(evidence.to_json(), Shared({n: t for n, (_, t) in evidence.parts().items()}))
    assert ruleset.decide(lost, NOW)[0].reason.code == "evidence-incomplete"


def test_decisions_carry_evidence_and_ruleset() -> None:
    """No decision goes on record without the evidence it rests on and the ruleset it was made under."""
    ruleset = Ruleset.default()
    for decision in ruleset.decisions("pair", GOOD, GOOD.evidence_id, NOW):
        assert decision.evidence_id == GOOD.evidence_id
        assert decision.ruleset_digest == ruleset.digest
        assert decision.rule_version == ruleset.rule_version(decision.rule) >= 1
        assert decision.reason.code in SENTENCES


def test_the_documents_to_ask_follow_from_the_mechanisms() -> None:
    """robots.txt is always asked for; another document where its mechanism is honoured."""
    ruleset = Ruleset.default()
    assert ruleset.origin_documents == ("robots", "tdmrep", "ai_txt", "trust_txt")
    assert ruleset.with_mechanisms(("licence",)).origin_documents == ("robots",)
    more = ruleset.with_mechanisms(("tdmrep", "content_usage", "trust_txt"))
    assert more.origin_documents == ("robots", "tdmrep", "trust_txt")


def test_every_reason_has_a_sentence() -> None:
    """Codes are kebab-case and each says itself in words; an unknown one is admitted, not invented."""
    for code, words in SENTENCES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z]+)*", code)
        assert words.endswith(".")
        assert "{" not in words
    assert "another version" in sentence("never-heard-of")
    with pytest.raises(KeyError):
        reason("never-heard-of")
