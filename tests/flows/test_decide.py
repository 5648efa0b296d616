"""Decide: what is left out as unchanged is what judging it again would have said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.home import Home
from flows.stages import decide as stage
from flows.stages.basis import Anew
from flows.stages.evidence import evidence_batches
from flows.stages.judging import Judges
from policy.evidence import C2pa, Document, Embedded, Evidence, Face, Hop, LicenceClaim, OriginEvidence
from policy.ruleset import KNOWN, RULES, Ruleset, judge

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROBOTS = (
    b"User-agent: *\nDisallow: /private/\nContent-Usage: /no/ train-ai=n\n\nUser-agent: GPTBot\nDisallow: /members/\n"
)
TDMREP = b'[{"location": "/no/*", "tdm-reservation": 1}]'
MECHANISMS = tuple(RULES)
FOLDERS = ("pictures", "private", "no", "members")
LICENCES = ("by/4.0", "by-nc/4.0", "by-sa/4.0", "by-nd/4.0")


def _origin(number: int, at: datetime) -> OriginEvidence:
    name = f"https://site{number}.example"

    def document(path: str, body: bytes | None, status: int) -> Document:
        sha = None if body is None else Document.digest(body)
        return Document(name + path, status, at, body=body, body_sha256=sha)

    tdmrep = document("/.well-known/tdmrep.json", *((TDMREP, 200) if number % 2 else (None, 404)))
    return OriginEvidence(
        name,
        (
            ("robots", document("/robots.txt", *((ROBOTS, 200) if number % 3 else (None, 404)))),
            ("tdmrep", tdmrep),
            ("ai_txt", document("/ai.txt", None, 404)),
            ("trust_txt", document("/.well-known/trust.txt", None, 503 if number == 4 else 404)),
        ),
    )


def _evidence(n: int, at: datetime) -> Evidence:
    page, image = _origin(n % 5, at), _origin((n + 1) % 5, at)
    url = f"{image.origin}/{FOLDERS[n % 4]}/{n}.jpg"
    headers = (("Content-Type", "image/jpeg"), *((("X-Robots-Tag", "noindex"),) if n % 7 == 0 else ()))
    return Evidence(
        page_url=f"{page.origin}/page/{n // 4}.html",
        image_url=url,
        observed_at=at,
        observer="test",
        observer_version="1",
        origins=(page, image),
        page_headers=(("Content-Type", "text/html"),),
        page_meta=(),
        page_rsl=(),
        hops=(Hop(url, 200, headers),),
        embedded=Embedded("image/jpeg"),
        c2pa=C2pa("absent"),
        licence_claims=(
            LicenceClaim(f"https://creativecommons.org/licenses/{LICENCES[n % 4]}/", "rel-license", "figure"),
        ),
        content_sha256=f"{n:064x}",
        content_md5=f"{n:032x}",
        width=100 + 10 * n,
        height=100,
        faces=(Face(1.0, 1.0, 9.0, 9.0, 0.9),) if n % 5 == 0 else (),
        face_detector="test",
        alt=f"a pear, number {n}" if n % 6 else None,
        text_origin="alt" if n % 6 else None,
        tombstoned="",
    )


def _append(home: Home, numbers: range, at: datetime) -> None:
    documents = [{"body_sha256": Document.digest(b), "body": b, "size_bytes": len(b)} for b in (ROBOTS, TDMREP)]
    fetches = [{"kind": "origin", "body_sha256": d["body_sha256"], "url": "https://site.example/"} for d in documents]
    with home.ledger() as ledger:
        key = f"test/{ledger.head()[0]}"
        pairs = [(f"{n * 2654435761 % (1 << 32):08x}{n:024x}", _evidence(n, at)) for n in numbers]
        ledger.append_many([("document", documents, key), ("fetch", fetches, key)])
        ledger.append_many(evidence_batches(ledger, pairs, "test", key))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with forty judged pairs, on the day NOW; no test may change it."""
    names = ", ".join(f'"{name}"' for name in MECHANISMS)
    text = Ruleset.default_text()
    old = text.partition("\nmechanisms = ")[2].partition("\n")[0]
    path = tmp_path_factory.mktemp("judged") / "home"
    made = Home.create(path, policy_text=text.replace(old, f"[{names}]", 1))
    _append(made, range(40), NOW)
    with pytest.MonkeyPatch.context() as patched:
        _decide(made, patched, NOW)
    return made


@pytest.fixture
def home(judged: Home, tmp_path: Path) -> Home:
    """A copy of it."""
    return Home.open(Path(shutil.copytree(judged.path, tmp_path / "home")))


def _decide(home: Home, monkeypatch: pytest.MonkeyPatch, now: datetime, *, fully: bool = False) -> stage.DecideSummary:
    monkeypatch.setattr(stage, "utc_now", lambda: now)
    with monkeypatch.context() as patched:
        if fully:
            everything = Anew(home.ruleset.mechanisms, tuple(KNOWN - set(home.ruleset.mechanisms)), -1)
            patched.setattr(stage, "to_judge", lambda *_: everything)
        return stage.decide(home)


def _said(home: Home) -> list[tuple[Any, ...]]:
    with home.ledger(readonly=True) as ledger:
        return ledger.query(
            "SELECT pair_key, rule, rule_version, verdict, reason_code, reason_detail, where_found FROM latest_decision"
            " ORDER BY ALL"
        )


def _edited(old: str, new: str) -> Callable[[Home], Home]:
    def edit(home: Home) -> Home:
        text = home.policy_path.read_text()
        assert old in text
        home.policy_path.write_text(text.replace(old, new, 1))
        return Home.open(home.path)

    return edit


def _with_more(home: Home) -> Home:
    _append(home, range(30, 50), NOW + timedelta(hours=1))
    return home


CHANGES: dict[str, tuple[Callable[[Home], Home], timedelta]] = {
    "nothing": (lambda home: home, timedelta(hours=1)),
    "new evidence of old pairs, and new pairs": (_with_more, timedelta(hours=2)),
    "size": (_edited("min_side = 64", "min_side = 200"), timedelta(hours=1)),
    "purpose": (_edited('purpose = "commercial"', 'purpose = "research"'), timedelta(hours=1)),
    "share-alike": (_edited("share_alike = false", "share_alike = true"), timedelta(hours=1)),
    "tokens": (_edited('product_tokens = ["custody"]', 'product_tokens = ["custody", "gptbot"]'), timedelta(hours=1)),
    "agents": (_edited('honour = "any"', 'honour = "none"'), timedelta(hours=1)),
    "index family": (_edited('index_family = "deny"', 'index_family = "ignore"'), timedelta(hours=1)),
    "a mechanism less": (_edited('"tdmrep", ', ""), timedelta(hours=1)),
    "an age": (_edited("\ntdmrep = 30", "\ntdmrep = 1"), timedelta(days=2)),
    "a day later": (lambda home: home, timedelta(days=1)),
    "31 days later": (lambda home: home, timedelta(days=31)),
    "91 days later": (lambda home: home, timedelta(days=91)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_judged_anew_would_have_said_the_same(
    change: str, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After every kind of change, judging only what it may touch leaves what judging everything leaves."""
    apply, later = CHANGES[change]
    home = apply(home)
    whole = Home.open(shutil.copytree(home.path, tmp_path / "whole"))
    quick = _decide(home, monkeypatch, NOW + later)
    full = _decide(whole, monkeypatch, NOW + later, fully=True)
    assert _said(home) == _said(whole)
    assert (quick.changed, quick.judged, quick.standing, quick.changes) == (
        *(full.changed, full.judged, full.standing, full.changes),
    )
    assert _decide(home, monkeypatch, NOW + later + timedelta(seconds=1)).changed == 0


def test_the_changes_of_the_table_change_something(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits and ages that are compared above are such that judgements differ; a quiet hour is not one of them."""
    assert _decide(home, monkeypatch, NOW + timedelta(hours=1)).changed == 0
    assert _decide(_edited("min_side = 64", "min_side = 200")(home), monkeypatch, NOW + timedelta(hours=2)).changed > 0
    assert _decide(home, monkeypatch, NOW + timedelta(days=31)).changed > 0


def test_what_changed_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run says of each rule how many pairs went from which answer to which."""
    edited = _edited("[size]\n# Pixels of the original picture.\nmin_side = 64", "[size]\nmin_side = 200")(home)
    said = _decide(edited, monkeypatch, NOW + timedelta(hours=1))
    assert {(rule, became) for rule, _, became, _ in said.changes} == {("size", "deny too-small")}
    assert said.changes[0] == ("size", "allow size-ok", "deny too-small", 31)
    assert sum(pairs for *_, pairs in said.changes) == said.changed == 40


@pytest.mark.parametrize(("workers", "here"), [(2, False), (1, True)])
def test_workers_say_what_one_judge_says(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int, here: bool
) -> None:
    """Judged in processes of their own or in this one as well, in chunks of a few, the answers are the same."""
    edited = _edited('purpose = "commercial"', 'purpose = "research"')(home)
    other = Home.open(shutil.copytree(edited.path, tmp_path / "other"))
    _decide(edited, monkeypatch, NOW + timedelta(hours=1))
    monkeypatch.setattr(stage, "CHUNK", 7)
    monkeypatch.setattr(stage, "Judges", lambda case, *_, **__: Judges(case, workers, here=here))
    _decide(other, monkeypatch, NOW + timedelta(hours=1))
    assert _said(edited) == _said(other)


class _Recorded:
    """Notes which attributes of a ruleset are read, by path."""

    def __init__(self, value: Any, read: set[str], path: str = "") -> None:
        self._value, self._read, self._path = value, read, path

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}{name}"
        value = getattr(self._value, name)
        if name == "ages":
            return _Recorded(value, self._read, f"{path}.")
        self._read.add(path)
        return value


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_rule_names_what_it_reads(mechanism: str) -> None:
    """No rule reads a section of the ruleset that it does not name: an edit of it would go unnoticed."""
    read: set[str] = set()
    judge(_Recorded(Ruleset.default(), read), mechanism, _evidence(1, NOW), NOW)  # type: ignore[arg-type]
    assert read <= set(RULES[mechanism].reads)
    assert all(_exists(path) for path in RULES[mechanism].reads)


def _exists(path: str) -> bool:
    found: Any = Ruleset.default()
    for name in path.split("."):
        found = getattr(found, name)
    return found is not None


def test_deferred_pixels_go_after_their_days(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of what nobody has decided otherwise for `defer_days` are deleted; until then they wait."""
    from curation.pixel_store import PixelStore

    store = PixelStore(home.pixels_path)
    with home.ledger(readonly=True) as ledger:
        held = _contents(ledger.query("SELECT content_sha256, verdict FROM evidence JOIN standing USING (pair_key)"))
    deferred = {sha for sha, verdicts in held if verdicts == {"defer"}}
    assert deferred
    for sha, _ in held:
        store.put(sha, b"jpeg")
    store.settle()
    _decide(home, monkeypatch, NOW + timedelta(days=29))
    assert deferred <= set(store.keys())
    _decide(home, monkeypatch, NOW + timedelta(days=31))
    assert not deferred & set(store.keys())


def _contents(rows: list[tuple[Any, ...]]) -> list[tuple[str, set[str]]]:
    found: dict[str, set[str]] = {}
    for sha, verdict in rows:
        found.setdefault(sha, set()).add(verdict)
    return list(found.items())
