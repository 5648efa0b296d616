"""Why: every decision on a picture in words: who was asked, what it said, which won, under which ruleset."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flows.home import Home
from flows.stages.lookup import covering, pairs_of, read_query
from flows.terminal import escape, stdout_console
from policy.judgements import sentence
from policy.ledger import Ledger

_STANDING = """
SELECT o.pair_key, o.page_url, o.image_url, o.alt, s.verdict, s.rule, s.reason_code, s.since, s.ruleset_digest
FROM (
    SELECT * FROM occurrence WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
) o LEFT JOIN standing s USING (pair_key) ORDER BY o.pair_key
"""
_DECISIONS = """
SELECT pair_key, rule, verdict, reason_code, coalesce(reason_detail, ''), coalesce(where_found, ''), ruleset_digest,
       evidence_id, decided_at
FROM decision WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
ORDER BY pair_key, batch_seq, row_no
"""
_USES = """
SELECT pair_key, dataset, ordinal, caption, caption_origin FROM slot WHERE pair_key IN (SELECT unnest(?::VARCHAR[]))
ORDER BY dataset, ordinal
"""


@dataclass(frozen=True, slots=True)
class Ruling:
    """One decision on record, in words too. `standing`: no later one of the same rule replaced it."""

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


@dataclass(frozen=True, slots=True)
class Story:
    """The answer to `custody why`. `removal`: the removal whose tombstone covers what was named."""

    query: str
    pairs: tuple[PairStory, ...]
    removal: str | None


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
    removal = covering(tombstones, named)
    return Story(query, stories, removal)


def _stories(ledger: Ledger, pairs: list[str]) -> tuple[PairStory, ...]:
    decisions = ledger.query(_DECISIONS, [pairs])
    last = {(row[0], row[1]): i for i, row in enumerate(decisions)}
    rulings: dict[str, list[Ruling]] = {}
    for i, (pair, rule, verdict, code, detail, where, digest, evidence, at) in enumerate(decisions):
        rulings.setdefault(pair, []).append(
            Ruling(rule, verdict, code, sentence(code), detail, where, digest, evidence, at, last[(pair, rule)] == i)
        )
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
        )
        for pair, page, image, alt, verdict, rule, code, since, digest in ledger.query(_STANDING, [pairs])
    )


_MARK = {"allow": "[green]allow[/]", "deny": "[red]deny [/]", "defer": "[yellow]defer[/]", "unset": "[dim]  -  [/]"}


def tell(story: Story) -> None:
    """Print a story for a person."""
    from rich.markup import escape as literal

    console = stdout_console(soft_wrap=True)

    def shown(text: str | None) -> str:
        return literal(escape(text or ""))

    if not story.pairs:
        console.print(f"Nothing on record for {shown(story.query)}.")
    for pair in story.pairs:
        console.print(f"\n[bold]{shown(pair.image_url)}[/]")
        console.print(f"  on    {shown(pair.page_url)}")
        console.print(f"  text  {shown(pair.text) or '(none)'}")
        if pair.verdict is None:
            console.print("  not judged yet: custody decide")
            continue
        since = f"{pair.since:%Y-%m-%d %H:%M} UTC" if pair.since else "?"
        console.print(f"  stands {_MARK[pair.verdict].strip()} since {since}, ruleset {pair.ruleset_digest}")
        for ruling in pair.rulings:
            if ruling.standing:
                detail = f": {shown(ruling.detail)}" if ruling.detail else "."
                where = f"  [dim]({shown(ruling.where)})[/]" if ruling.where else ""
                deciding = " [bold]← decides[/]" if ruling.rule == pair.rule and pair.verdict != "allow" else ""
                words = ruling.words.rstrip(".")
                console.print(f"    {_MARK[ruling.verdict]}  {ruling.rule:<13} {words}{detail}{where}{deciding}")
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
