"""Answers to whoever asked: where their request stands, and what is held of what they named or proved, nothing else.

Told is what the request names exactly, by its address or its digest, and what lies within domains whose control was
proven. Never told: where else the same picture hangs, whose pages those are, how many there are. A picture that hangs
on somebody else's page is told of without that page and its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.home import Home, utc_now
from flows.stages.removing.guarding import place_of
from flows.stages.removing.requests import forget_closed, require_name
from flows.stages.trace import exposed_checkpoints
from flows.terminal import counted
from policy import removals
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.removal_matches import SAME_CONTENT, match_many
from policy.removal_proofs import is_within, proofs, proven_domains, vouched_for
from policy.removals import RemovalRequest, State
from policy.snapshot import publish

_PLACES = """
SELECT pair_key, page_url, image_url, url_key, alt, seen_at FROM occurrence
WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY image_url, pair_key
"""
_CONTENTS = """
SELECT url_key, content_sha256, media_type, width, height, face_count FROM content
WHERE url_key IN (SELECT unnest($keys::VARCHAR[])) OR content_sha256 IN (SELECT unnest($contents::VARCHAR[]))
QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1 ORDER BY url_key
"""
_CAPTIONS = """
SELECT DISTINCT pair_key, caption, caption_origin FROM caption
WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[])) AND caption IS NOT NULL ORDER BY ALL
"""
_STANDING = "SELECT pair_key, verdict, reason_code FROM standing WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[]))"
_SLOTS = """
SELECT DISTINCT pair_key, content_sha256, dataset, ordinal FROM slot
WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[])) OR content_sha256 IN (SELECT unnest($contents::VARCHAR[]))
ORDER BY dataset, ordinal
"""
# Words that come from the page, as against those that a model found for the picture.
_PAGE_WORDS = frozenset({"alt", "title", "figcaption"})


@dataclass(frozen=True, slots=True)
class Use:
    """A place in a sealed dataset, and the checkpoints that saw it. `is_live`: whether it is still in it."""

    dataset: str
    ordinal: int
    is_live: bool
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Something that is held. None: not held, or not the requester's to know.

    `texts`: alt text and captions, each with where it is from. `verdict`: whether it may be used; `reason`: a code.
    """

    page_url: str | None
    image_url: str | None
    seen_at: datetime | None
    content_sha256: str | None
    media_type: str | None
    width: int | None
    height: int | None
    faces: int | None
    texts: tuple[tuple[str, str], ...]
    verdict: str | None
    reason: str | None
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What a requester may be told. `about`: what they named exactly or proved; `text`: all of it to be read."""

    id: str
    kind: str
    state: str
    received_at: datetime
    due_at: datetime
    about: tuple[str, ...]
    held: tuple[Held, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a requester may be told of: addresses, everything within domains, and bytes by their digest."""

    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    def tells(self, url: str | None) -> bool:
        return url is not None and (url in self.urls or any(is_within(place_of(url), one) for one in self.domains))


def for_requester(home: Home, removal: str) -> Told:
    """Where a request stands, as its requester may be told. Raises InputError: no such request."""
    with home.ledger(readonly=True) as ledger:
        return _told(ledger, home, removals.find(ledger, removal))


def answer(home: Home, removal: str, *, by: str = "") -> Told:
    """What is held of what was named or proven. `by`: who gives the answer, which closes a request that asked for it.

    Raises:
        InputError: no such request, or `by` for one that is approved or rejected instead. RefusedError: a domain was
            asked about and not proven.
    """
    with home.ledger(readonly=True) as ledger:
        request = removals.find(ledger, removal)
        told = _told(ledger, home, request)
    if not by:
        return told
    require_name(by)
    if request.kind != "access":
        raise InputError(
            f"a request of the kind {request.kind} is not closed by an answer",
            where=removal,
            remedy=f"custody removal approve {removal}, or reject",
        )
    if request.named_kind == "domain" and not told.about and request.state is not State.ANSWERED:
        raise RefusedError(
            "nothing can be told of a domain whose control was not proven",
            where=removal,
            remedy=f"custody removal prove {removal}",
        )
    with home.ledger() as ledger:
        now = utc_now()
        removals.advance(ledger, removal, State.ANSWERED, now=now, by_whom=by)
        told = _told(ledger, home, removals.find(ledger, removal))  # what it asked about may be forgotten right away
        forgotten = forget_closed(ledger, home, now=now)
        publish(ledger, home.snapshot_path, now=now, force=forgotten > 0)
        return told


# ── within ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(ledger: Ledger, home: Home, request: RemovalRequest) -> Told:
    scope = _scope_of(ledger, request)
    held = _held(ledger, home, request, scope)
    about = tuple(sorted(scope.urls | scope.domains | scope.contents))
    text = "\n".join((*_standing_text(ledger, request), *_held_text(request, about, held)))
    return Told(
        request.removal,
        request.kind,
        request.state.value,
        request.received_at,
        request.due_at,
        about,
        held,
        text,
    )


def _scope_of(ledger: Ledger, request: RemovalRequest) -> _Scope:
    found, value = proofs(ledger, request.removal), request.named_value
    domains = set(proven_domains(found))
    if value is None:
        return _Scope(domains=frozenset(domains))
    match request.named_kind:
        case "image_url" | "page_url":
            return _Scope(frozenset({value}), frozenset(domains))
        case "domain":
            return _Scope(domains=frozenset(domains | ({value} if vouched_for(found) else set())))
        case "content" | "picture":
            return _Scope(domains=frozenset(domains), contents=frozenset({value}))
    return _Scope(domains=frozenset(domains))


def _held(ledger: Ledger, home: Home, request: RemovalRequest, scope: _Scope) -> tuple[Held, ...]:
    asked = [
        *((f"u{n}", kind, url) for n, url in enumerate(sorted(scope.urls)) for kind in ("image_url", "page_url")),
        *((f"d{n}", "domain", domain) for n, domain in enumerate(sorted(scope.domains))),
    ]
    matches = [
        one
        for kind in ("image_url", "page_url", "domain")
        for found in match_many(ledger, [each for each in asked if each[1] == kind]).values()
        for one in found
    ]
    pairs = sorted({one.pair_key for one in matches if one.pair_key and one.method != SAME_CONTENT})
    places = [row for row in ledger.query(_PLACES, {"pairs": pairs}) if scope.tells(row[1]) or scope.tells(row[2])]
    pairs = [row[0] for row in places]
    contents = ledger.query(
        _CONTENTS, {"keys": sorted({row[3] for row in places if row[3]}), "contents": sorted(scope.contents)}
    )
    seen = {row[0]: row[1:] for row in contents}
    texts: dict[str, list[tuple[str, str]]] = {}
    for pair, caption, origin in ledger.query(_CAPTIONS, {"pairs": pairs}):
        texts.setdefault(pair, []).append((caption, origin))
    stands = {pair: (verdict, code) for pair, verdict, code in ledger.query(_STANDING, {"pairs": pairs})}
    uses = _uses(ledger, home, pairs, sorted(scope.contents))
    held = []
    for pair, page, image, url_key, alt, seen_at in places:
        on_page = scope.tells(page)
        said = [(alt, "alt")] if alt and on_page else []
        said += [(t, o) for t, o in texts.get(pair, ()) if (on_page or o not in _PAGE_WORDS) and (t, o) not in said]
        sha, media_type, width, height, faces = seen.get(url_key, _NO_FACTS)
        verdict, code = stands.get(pair, (None, None))
        held.append(
            Held(
                page_url=page if on_page else None,
                image_url=image if scope.tells(image) else None,
                seen_at=_utc(seen_at),
                content_sha256=sha,
                media_type=media_type,
                width=width,
                height=height,
                faces=faces,
                texts=tuple(said),
                verdict=verdict,
                reason=code,
                uses=uses.get(pair, ()),
            )
        )
    by_content = {row[1]: row[2:] for row in contents}
    for sha in sorted(scope.contents - {one.content_sha256 for one in held}):
        if sha in by_content or sha in uses:
            media_type, width, height, faces = by_content.get(sha, _NO_FACTS[1:])
            held.append(
                Held(None, None, None, sha, media_type, width, height, faces, (), None, None, uses.get(sha, ()))
            )
    return tuple(held)


_NO_FACTS: tuple[Any, ...] = (None,) * 5


def _uses(ledger: Ledger, home: Home, pairs: Sequence[str], contents: Sequence[str]) -> Mapping[str, tuple[Use, ...]]:
    """Where each pair, or each content, stands in datasets, and what saw it there."""
    tombstones, found, known = home.tombstones(ledger), dict[str, list[Use]](), dict[tuple[str, int], Use]()
    wanted, named = set(pairs), set(contents)
    for pair, content, dataset, ordinal in ledger.query(_SLOTS, {"pairs": list(pairs), "contents": list(contents)}):
        if (use := known.get((dataset, ordinal))) is None:
            saw = exposed_checkpoints(ledger, {dataset: [ordinal]})
            live = ordinal not in tombstones.slots(dataset)
            use = known[dataset, ordinal] = Use(dataset, ordinal, live, tuple(c.id for c in saw))
        for key in ({pair} & wanted) | ({content} & named):
            found.setdefault(key, []).append(use)
    return {key: tuple(uses) for key, uses in found.items()}


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


# ── in words ───────────────────────────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "erasure": "asks for erasure",
    "objection": "objects to use",
    "access": "asks what is held",
    "attribution": "asks for another credit line",
}
_STATES = {
    State.RECEIVED: "It was received and is being looked at.",
    State.HELD: "What it names is not used anew until it is decided.",
    State.AWAITING_SECOND: "It is being looked at.",
    State.APPROVED: "It was granted: what it names is used no more, and is being erased.",
    State.APPLIED: "It was granted and carried through.",
    State.REJECTED: "It was refused.",
    State.RESERVED: "The objection was granted: there is no new use of what it names.",
    State.LIFTED: "The objection was taken back.",
    State.CREDITED: "The credit line was set right.",
    State.ANSWERED: "It was answered.",
}


def _standing_text(ledger: Ledger, request: RemovalRequest) -> list[str]:
    """What the law has the requester told: that it came, until when, why later (GDPR Art. 12(3)), why not (12(4))."""
    lines = [
        f"Request {request.removal} {_KINDS[request.kind]}. It was received on {request.received_at:%Y-%m-%d}.",
        _STATES[request.state],
    ]
    if request.state.is_open:
        lines.append(f"It will be answered by {request.due_at:%Y-%m-%d}.")
        lines += [f"That is later than usual: {why}" for why in removals.extensions(ledger, request.removal)]
    if request.state is State.REJECTED:
        lines += [f"Why: {why}" for _, why, _ in removals.events(ledger, request.removal, State.REJECTED) if why]
    return lines


def _held_text(request: RemovalRequest, about: Sequence[str], held: Sequence[Held]) -> list[str]:
    if not about:
        told = "Nothing can be told before it is proven whose it is."
        gone = request.state.is_spent and request.named_value is None and request.named_kind != "person"
        return [told] if request.state.is_undecided else ["What was named is not kept any more."] if gone else []
    lines = ["", f"This is about {', '.join(about)} and nothing else."]
    if not held:
        return [*lines, "Nothing is held of it."]
    for number, one in enumerate(held, 1):
        lines.append(f"{number}. {one.image_url or 'a picture'}" + (f", on {one.page_url}" if one.page_url else ""))
        if one.seen_at is not None:
            lines.append(f"   last seen there on {one.seen_at:%Y-%m-%d}")
        if one.content_sha256 is not None:
            faces = "" if one.faces is None else f", {counted(one.faces, 'face')} found"
            lines.append(f"   {one.media_type}, {one.width}x{one.height} px{faces}; sha256 {one.content_sha256}")
        lines += [f'   text ({origin}): "{text}"' for text, origin in one.texts]
        if one.verdict is not None:
            lines.append(f"   use: {one.verdict} ({one.reason})")
        for use in one.uses:
            there = "in" if use.is_live else "was taken out of"
            seen = f"; seen by the checkpoints {', '.join(use.checkpoints)}" if use.checkpoints else ""
            lines.append(f"   {there} the dataset {use.dataset}, place {use.ordinal}{seen}")
    return lines
