"""Why: every decision on a picture in words: who was asked, what it said, which won, under which ruleset."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.markup import escape as literal

from flows.home import Home
from flows.stages.lookup import covering, pairs_of, read_query
from flows.terminal import escape, stdout_console
from policy.judge import MECHANISMS
from policy.judgements import sentence
from policy.ledger import Ledger
from policy.remedies import what_would_change

_STANDING = """
SELECT o.pair_key, o.page_url, o.image_url, o.alt, s.verdict, s.rule, s.reason_code, s.since, s.ruleset_digest
FROM (
    SELECT * FROM occurrence WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
) o LEFT JOIN standing s USING (pair_key) ORDER BY o.pair_key
"""
_DECISIONS = """
SELECT pair_key, rule, verdict, reason_code, coalesce(reason_detail, ''), coalesce(where_found, ''), ruleset_digest,
       evidence_id, decided_at, decide_id
FROM decision WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
ORDER BY pair_key, batch_seq, row_no
"""
# What the evidence said, statement by statement: those that stood when a rule spoke last.
_SIGNALS = """
SELECT pair_key, mechanism, decide_id, stance, coalesce(where_found, ''), coalesce(value, '')
FROM signal WHERE pair_key IN (SELECT unnest(?::VARCHAR[])) ORDER BY pair_key, batch_seq, row_no
"""
_CONFIRMED = "SELECT ruleset_digest, decided_at FROM confirmation ORDER BY batch_seq DESC, row_no DESC LIMIT 1"
_RESERVED = "SELECT pair_key, mechanism, since FROM reserved WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))"
_USES = """
SELECT pair_key, dataset, ordinal, caption, caption_origin FROM slot WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
ORDER BY dataset, ordinal
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """What was found in one place: allow, deny, constrained, unset, error or unreachable."""

    stance: str
    where: str
    value: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """One decision on record, in words too. `standing`: no later one of the same rule replaced it.

    `statements`: all that its rule found, not only what won. `change`: what would change it, of one that keeps out.
    """

    rule: str
    verdict: str
    code: str
    words: str
    detail: str
    where: str
    ruleset_digest: str
    evidence_id: str
    decided_at: datetime
    standing: bool
    statements: tuple[Statement, ...] = ()
    change: str = ""


@dataclass(frozen=True, slots=True)
class PairStory:
    """One occurrence of the picture, its standing verdict and every decision on it."""

    pair_key: str
    page_url: str | None
    image_url: str | None
    text: str | None
    verdict: str | None
    rule: str | None
    code: str | None
    since: datetime | None
    ruleset_digest: str | None
    rulings: tuple[Ruling, ...]
    slots: tuple[tuple[str, int], ...]
    reserved: tuple[tuple[str, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """The answer to `custody why`. `removal`: the removal whose tombstone covers what was named.

    `confirmed_under`, `confirmed_at`: the ruleset and time of the newest `custody decide`, by which all still stands.
    """

    query: str
    pairs: tuple[PairStory, ...]
    removal: str | None
    confirmed_under: str | None = None
    confirmed_at: datetime | None = None


def why(home: Home, query: str) -> Story:
    """Tell why a picture is in or out.

    Raises:
        InputError: the query is neither URL, key, sha256 nor file.
    """
    named = read_query(query)
    with home.ledger(readonly=True) as ledger:
        tombstones = home.tombstones(ledger)
        pairs = pairs_of(ledger, named)
        stories = _stories(ledger, pairs)
        confirmed = ledger.query(_CONFIRMED)
    under, at = confirmed[0] if confirmed else (None, None)
    return Story(query, stories, covering(tombstones, named), under, at)


def _stories(ledger: Ledger, pairs: list[str]) -> tuple[PairStory, ...]:
    decisions = ledger.query(_DECISIONS, [pairs])
    last = {(row[0], row[1]): i for i, row in enumerate(decisions)}
    found: dict[tuple[str, str, str], list[Statement]] = {}
    for pair, mechanism, decide, stance, where, value in ledger.query(_SIGNALS, [pairs]):
        found.setdefault((pair, mechanism, decide), []).append(Statement(stance, where, value))
    rulings: dict[str, list[Ruling]] = {}
    for i, (pair, rule, verdict, code, detail, where, digest, evidence, at, decide) in enumerate(decisions):
        ruling = Ruling(
            rule=rule,
            verdict=verdict,
            code=code,
            words=sentence(code),
            detail=detail,
            where=where,
            ruleset_digest=digest,
            evidence_id=evidence,
            decided_at=at,
            standing=last[(pair, rule)] == i,
            statements=tuple(dict.fromkeys(found.get((pair, rule, decide), ()))),
            change=what_would_change(code) if verdict in ("deny", "defer") else "",
        )
        rulings.setdefault(pair, []).append(ruling)
    reserved: dict[str, list[tuple[str, datetime]]] = {}
    for pair, mechanism, since in ledger.query(_RESERVED, [pairs]):
        reserved.setdefault(pair, []).append((mechanism, since))
    slots: dict[str, list[tuple[str, int]]] = {}
    for pair, dataset, ordinal, _, _ in ledger.query(_USES, [pairs]):
        slots.setdefault(pair, []).append((dataset, ordinal))
    return tuple(
        PairStory(
            pair,
            page,
            image,
            alt,
            verdict,
            rule,
            code,
            since,
            digest,
            tuple(rulings.get(pair, ())),
            tuple(slots.get(pair, ())),
            tuple(reserved.get(pair, ())),
        )
        for pair, page, image, alt, verdict, rule, code, since, digest in ledger.query(_STANDING, [pairs])
    )


_ENDS_OF_A_YES = "a no at a recheck, an approved removal, or evidence that grows too old"
_MARK = {"allow": "[green]allow[/]", "deny": "[red]deny [/]", "defer": "[yellow]defer[/]", "unset": "[dim]  -  [/]"}


def tell(story: Story) -> None:
    """Print a story for a person."""
    console = stdout_console(soft_wrap=True)
    if not story.pairs:
        console.print(f"Nothing on record for {_shown(story.query)}.")
    for pair in story.pairs:
        if pair.image_url is None:
            console.print(
                f"\n[bold]Quarantined[/], pair {pair.pair_key}: only hashes, times and states are kept of it."
            )
        else:
            console.print(f"\n[bold]{_shown(pair.image_url)}[/]")
            console.print(f"  on    {_shown(pair.page_url)}")
            console.print(f"  text  {_shown(pair.text) or '(none)'}")
        if pair.verdict is None:
            console.print("  not judged yet: custody decide")
            continue
        since = f"{pair.since:%Y-%m-%d %H:%M} UTC" if pair.since else "?"
        console.print(f"  stands {_MARK[pair.verdict].strip()} since {since}, under ruleset {pair.ruleset_digest}")
        if story.confirmed_at is not None and story.confirmed_at != pair.since:
            confirmed = f"{story.confirmed_at:%Y-%m-%d %H:%M} UTC, under ruleset {story.confirmed_under}"
            console.print(f"    last judged {confirmed}")
        for ruling in sorted(pair.rulings, key=_order):
            if ruling.standing:
                _tell_ruling(console, ruling, deciding=ruling.rule == pair.rule and pair.verdict != "allow")
        for mechanism, at in pair.reserved:
            console.print(f"  reserved by {mechanism} since {at:%Y-%m-%d %H:%M} UTC: a recheck saw the no")
        keeping_out = [r for r in sorted(pair.rulings, key=_order) if r.standing and r.change]
        if keeping_out:
            console.print("  what would change it: all of")
            for ruling in keeping_out:
                console.print(f"    {ruling.rule:<14} {literal(ruling.change)}")
        elif pair.verdict == "allow":
            console.print(
                "  what would change it: a no at a recheck, an approved removal, or evidence that grows too old"
            )
        for ruling in pair.rulings:
            if not ruling.standing:
                console.print(
                    f"    [dim]before {ruling.decided_at:%Y-%m-%d %H:%M}: {ruling.rule} {ruling.verdict}, "
                    f"{ruling.words}[/]"
                )
        for dataset, ordinal in pair.slots:
            console.print(f"  sealed in {dataset}, slot {ordinal}")
    if story.removal:
        console.print(f"\nIt was removed: {story.removal}. Nothing may bring it back.")


def _tell_ruling(console: Console, ruling: Ruling, *, deciding: bool) -> None:
    """One rule's last word, and below it the other statements that it found."""
    detail = f": {_shown(ruling.detail)}" if ruling.detail else "."
    where = f"  [dim]({_shown(ruling.where)})[/]" if ruling.where else ""
    mark = " [bold]← decides[/]" if deciding else ""
    console.print(f"    {_MARK[ruling.verdict]}  {ruling.rule:<14} {ruling.words.rstrip('.')}{detail}{where}{mark}")
    for statement in ruling.statements:
        is_it = statement.where == ruling.where and statement.stance == ruling.verdict  # in other words, perhaps
        if statement.value and not is_it:
            said, place = _shown(statement.value), _shown(statement.where)
            console.print(f"           [dim]{'':<14} {statement.stance}: {said}  ({place})[/]")


def _order(ruling: Ruling) -> int:
    """Mechanisms as the judge answers them; a removal's rule after all."""
    return MECHANISMS.index(ruling.rule) if ruling.rule in MECHANISMS else len(MECHANISMS)


def _shown(text: str | None) -> str:
    """Text from the web, for a terminal and within markup."""
    return literal(escape(text or ""))
