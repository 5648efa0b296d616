"""Review: what a request matches, and what it may mean, shown to a person who accepts or rejects each.

What is answered for as one is a group: equal bytes wherever they hang, or an occurrence whose bytes nobody has.
`review` is what the prompt calls, and whatever else asks a person; who answered, when and why is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.home import Home, utc_now
from flows.stages.removing.pictures import Occurrence, Pixels, clusters, review_sheet
from flows.stages.removing.requests import hold, release, require_name
from flows.stages.removing.standing import Removal, proposals_for, shown
from policy import removals
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.removal_matches import (
    APPROVED,
    LIKELY,
    PROPOSED,
    REJECTED,
    Answer,
    Match,
    match,
    matches_of,
    record_matches,
    record_review,
)
from policy.removals import State
from policy.snapshot import publish

_PLACES = """
SELECT pair_key, page_url, image_url, alt FROM occurrence WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY pair_key
"""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to answer for: bytes, or an occurrence without any, and wherever it was seen.

    `state`: matched, likely or proposed as long as nobody has answered, then approved or rejected. `alike`: contents
    that were verified to show the same. `has_pixels`: whether there is something to look at (`sheet`).
    """

    group: str
    method: str
    score: float
    state: str
    occurrences: tuple[Occurrence, ...]
    samples: int
    alike: tuple[str, ...] = ()
    has_pixels: bool = False

    @property
    def is_open(self) -> bool:
        return self.state not in (APPROVED, REJECTED)


def items(home: Home, removal: str) -> tuple[Item, ...]:
    """All that there is to answer for, the surest first. Raises InputError: no such request."""
    with home.ledger(readonly=True) as ledger:
        removals.find(ledger, removal)
        groups: dict[str, list[Match]] = {}
        for one in (*matches_of(ledger, removal), *_near(ledger, removal)):
            if one.group is not None:
                groups.setdefault(one.group, []).append(one)
        pairs = sorted({m.pair_key for found in groups.values() for m in found if m.pair_key})
        places = {row[0]: row[1:] for row in ledger.query(_PLACES, {"pairs": pairs})}
        contents = [group for group, found in groups.items() if found[0].content_sha256 is not None]
        alike = {
            member: tuple(other for other in cluster.members if other != member)
            for cluster in clusters(home, ledger, contents)
            for member in cluster.members
        }
        with Pixels.of(home, ledger) as pixels:
            seen = {content for content in contents if pixels.get(content) is not None}
    told = [
        Item(
            group,
            found[0].method,
            max(m.score for m in found),
            found[0].state,
            _occurrences(group, found, places),
            len({m.sample for m in found}),
            alike.get(group, ()),
            group in seen,
        )
        for group, found in groups.items()
    ]
    order = {state: number for number, state in enumerate(("matched", LIKELY, PROPOSED, APPROVED, REJECTED))}
    return tuple(sorted(told, key=lambda item: (order.get(item.state, 9), -item.score, item.group)))


def review(home: Home, removal: str, answers: Mapping[str, tuple[Answer, str]], *, by: str) -> Removal:
    """Record answers, by `Item.group`, or by a content or an occurrence within one: approve or reject, and why.

    What is accepted is held with the rest and taken once the request is approved; what is rejected is released from the
    hold. After a first approval of two, both are needed again: it was given to something else.

    Raises:
        InputError: no such request, nobody's name, a key that is none of its matches, a rejection without a reason:
            nothing of it is recorded. RefusedError: the request is decided.
    """
    require_name(by)
    with home.ledger() as ledger:
        now, request = utc_now(), removals.find(ledger, removal)
        if not request.state.is_undecided:
            raise RefusedError(f"the request is {request.state.value}: there is nothing to review", where=removal)
        near = [one for one in _near(ledger, removal) if one.group in answers or one.pair_key in answers]
        named = _by_group(answers, (*matches_of(ledger, removal), *near))
        record_matches(ledger, removal, near, now=now)
        if record_review(ledger, removal, named, by_whom=by, now=now):
            if request.state is State.AWAITING_SECOND:
                held = bool(removals.events(ledger, removal, State.HELD))
                before = State.HELD if held else State.RECEIVED
                removals.advance(
                    ledger, removal, before, now=now, by_whom=by, reason="reviewed after the first approval"
                )
            release(ledger, home, removal, "removal-rejected", frozenset({REJECTED}))
            hold(ledger, home, [removal], now=now)
            publish(ledger, home.snapshot_path, now=now)
        return shown(ledger, home, removal)


def sheet(home: Home, removal: str, out: Path) -> int:
    """Draw what there is to look at as a contact sheet outside the home, .html or .png; how many pictures are on it.

    Raises:
        InputError: no such request, nothing to draw, or the place is none for a sheet. StorageError.
    """
    from curation.picture_search import PictureMatch

    drawn = [
        PictureMatch(item.group, item.method, round(1 - item.score, 4), item.score, item.state != PROPOSED, True)
        for item in items(home, removal)
        if item.has_pixels
    ]
    return review_sheet(home, drawn, out)


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _near(ledger: Ledger, removal: str) -> tuple[Match, ...]:
    """What was verified to show the same as a match and is none yet, as it would stand among the matches."""
    if not removals.find(ledger, removal).state.is_undecided:
        return ()
    return tuple(
        replace(
            found,
            method=f"near-{near.method or 'representative'}",
            score=round(1 - near.distance, 4),
            state=PROPOSED,
        )
        for near in proposals_for(ledger, removal)
        for found in match(ledger, "content", near.content_sha256)
    )


def _by_group(answers: Mapping[str, tuple[Answer, str]], matches: Sequence[Match]) -> dict[str, tuple[Answer, str]]:
    """The answers by the groups that their keys lie in; two that contradict each other are an error."""
    groups = {key: one.group for one in matches for key in one.keys if key is not None and one.group is not None}
    named: dict[str, tuple[Answer, str]] = {}
    for key, answer in answers.items():
        group = groups.get(key, key)
        if named.setdefault(group, answer)[0] != answer[0]:
            raise InputError("accepted and rejected at once", where=group)
    return named


def _occurrences(
    group: str, found: Sequence[Match], places: Mapping[str, tuple[str | None, ...]]
) -> tuple[Occurrence, ...]:
    pairs = sorted({one.pair_key for one in found if one.pair_key})
    return tuple(Occurrence(group, pair, *places.get(pair, (None, None, None))) for pair in pairs)
