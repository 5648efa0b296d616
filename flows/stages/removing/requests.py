"""Requests: filed, listed, extended, rejected. What one names exactly is held until it is decided.

A request names a URL, a site, bytes, a sample, a picture, a person, a name or a text. What it matches exactly is held
at once, unless that takes a proof first (guarding.py); what is only like it is proposed. What it does
not match yet is matched when it comes: at every decide, and by the daily flow, for as long as the request is open.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from curation.pair import canonical_url
from flows.home import Home, utc_now
from flows.stages.removing.guarding import HOLDING, guard_of, holds_at_once
from flows.stages.removing.standing import PERSON_UNTOLD, Removal, days_left, listed, shown
from policy import removals
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.names import named_token
from policy.origins import is_registry_suffix
from policy.removal_matches import (
    HELD,
    LIKELY,
    PROPOSED,
    TAKEN,
    Match,
    match_many,
    matches_of_all,
    record_matches_of,
)
from policy.removals import RemovalRequest, State
from policy.snapshot import publish

# Each request has a rule of its own, so that the end of one lifts no other.
HOLD_RULE = "removal/{removal}"
NAMINGS: Final = (*("url", "domain", "sha256", "key", "picture", "person", "creator", "credit", "licensor", "text"),)
MAX_NAMED_CHARS: Final = 4_000

# The pairs of matches, with their newest evidence, of which the request's own rule says something else so far.
_TO_DECIDE = """
WITH concerned AS (
    SELECT unnest($removals::VARCHAR[]) AS removal, unnest($pairs::VARCHAR[]) AS pair_key
),
newest AS (
    SELECT pair_key, evidence_id FROM evidence SEMI JOIN concerned USING (pair_key)
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
said AS (
    SELECT pair_key, rule, arg_max(verdict || ' ' || reason_code, (batch_seq << 31) | row_no) AS last
    FROM decision SEMI JOIN concerned USING (pair_key) WHERE starts_with(rule, 'removal/') GROUP BY pair_key, rule
)
SELECT removal, pair_key, evidence_id FROM concerned JOIN newest USING (pair_key)
LEFT JOIN said ON said.pair_key = concerned.pair_key AND said.rule = 'removal/' || removal
WHERE said.last IS DISTINCT FROM $says AND (NOT $only_said OR said.last IS NOT NULL)
ORDER BY ALL
"""
_PAGES_AND_IMAGES = """
WITH asked AS (SELECT DISTINCT unnest($urls::VARCHAR[]) AS url)
SELECT url, 'page' FROM asked SEMI JOIN occurrence ON page_url = url
UNION SELECT url, 'image' FROM asked SEMI JOIN occurrence ON image_url = url
UNION SELECT asked.url, 'image' FROM asked
    SEMI JOIN (SELECT unnest([url, final_url]) AS known FROM "fetch" WHERE kind = 'image') ON known = asked.url
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file was found to be: its digest, and what it may be about.

    `looked_at`: of a search for a person, how many pictures and faces, and what nobody could tell of.
    """

    sha256: str | None = None
    matches: tuple[Match, ...] = ()
    looked_at: Mapping[str, int] | None = None


NOTHING: Final = Found()


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody asks, as it is filed. `named`: one of `NAMINGS`; `value`: a text, or the path of a file.

    `requester`: who asks. `received_at`: when, if that was not now. `due_on`: of the regime own. `removal`: the id, for
    who must not file the same twice.
    """

    named: str
    value: str
    kind: str = "erasure"
    regime: str = "gdpr"
    due_on: date | None = None
    requester: str | None = field(default=None, repr=False)
    received_at: datetime | None = None
    removal: str | None = None
    threshold: float | None = None
    face: int | None = None


def add(
    home: Home,
    named: str,
    value: str,
    *,
    kind: str = "erasure",
    regime: str = "gdpr",
    due_on: date | None = None,
    requester: str | None = None,
    by: str = "",
    threshold: float | None = None,
    face: int | None = None,
) -> Removal:
    """File a request by what it names; hold what it matches exactly until it is decided.

    A request that matches nothing is kept all the same: once approved it keeps out what a future crawl finds.
    `threshold`, `face`: of a person's photo (flows/stages/removing/pictures.py).

    Raises:
        InputError: the value is no URL, host, digest, key or picture, or names nothing.
    """
    ask = Ask(named, value, kind, regime, due_on, requester, threshold=threshold, face=face)
    found = look_up(home, ask)
    with home.ledger() as ledger:
        [filed] = _file(ledger, home, [(ask, found)], by=by)
        return _published(ledger, home, filed)


def file(
    home: Home, asks: Sequence[tuple[Ask, Found]], *, by: str = "", key: str | None = None
) -> tuple[RemovalRequest, ...]:
    """File requests with what was looked up for each, all or none, and hold what they match: one pass for all.

    `key`: of what is filed as one; filed before, nothing is filed again, and what was left undone is done.

    Raises:
        InputError: as `check` does; nothing is filed.
    """
    with home.ledger() as ledger:
        names = _file(ledger, home, asks, by=by, key=key)
        standing = {request.removal: request for request in removals.requests(ledger)}
        publish(ledger, home.snapshot_path, now=utc_now())
        return tuple(standing[name] for name in names)


def _published(ledger: Ledger, home: Home, removal: str, *, force: bool = False) -> Removal:
    """A request as it stands, and the auditors' snapshot of it: last, since who copies the ledger has to close it."""
    answer = shown(ledger, home, removal)
    publish(ledger, home.snapshot_path, now=utc_now(), force=force)
    return answer


def _file(
    ledger: Ledger, home: Home, asks: Sequence[tuple[Ask, Found]], *, by: str, key: str | None = None
) -> list[str]:
    now = utc_now()
    home.tombstones(ledger)  # lost ones are no place to begin
    requests = _requests_of(ledger, home, asks, now)
    names = [request.removal for request in requests]
    removals.record_many(
        ledger,
        [(request, ask.requester) for request, (ask, _) in zip(requests, asks, strict=True)],
        key=key or f"received:{names[0]}",
        by_whom=by,
        keys=home.keys,
    )
    proposed = {name: found.matches for name, (_, found) in zip(names, asks, strict=True)}
    hold(ledger, home, names, proposed, now=now)
    searched = [
        removals.Done(name, "search", "person", "", after=found.looked_at)
        for name, (_, found) in zip(names, asks, strict=True)
        if found.looked_at is not None
    ]
    removals.record_steps(ledger, searched, now=now)
    return names


def check(home: Home, ask: Ask) -> tuple[str, str | None]:
    """The kind and value that a request would be filed with; neither the ledger nor a file is looked into.

    Raises:
        InputError: the value is no URL, host, digest or key, or names nothing; or the date is none.
    """
    if ask.named not in NAMINGS:
        raise InputError(f"cannot name a {ask.named}", remedy=f"Name one of {', '.join(NAMINGS)}")
    request = _request_of(home, ask, *_named(ask.named, ask.value, frozenset()), utc_now())
    return request.named_kind, request.named_value


def hold(
    ledger: Ledger,
    home: Home,
    names: Sequence[str],
    proposed: Mapping[str, Sequence[Match]] | None = None,
    *,
    now: datetime,
) -> None:
    """Match undecided requests anew, and hold what they match and may hold; what is held already stays so.

    `proposed`: what else may be meant by each. An objection that was granted reserves what has come since.
    """
    known = {request.removal: request for request in removals.requests(ledger)}
    requests = [known[name] for name in names if known[name].state.is_undecided or known[name].state is State.RESERVED]
    asked = [(r.removal, r.named_kind, r.named_value) for r in requests]
    found: dict[str, tuple[Match, ...]] = match_many(ledger, asked)
    for name, more in (proposed or {}).items():
        if name not in found:
            continue
        keys = {(m.pair_key, m.content_sha256) for m in found[name]}
        found[name] += tuple(m for m in more if (m.pair_key, m.content_sha256) not in keys)
    record_matches_of(ledger, found, now=now)
    matches = matches_of_all(ledger, sorted(found))
    holding = [
        r
        for r in requests
        if r.state.is_undecided and holds_at_once(r, guard_of(ledger, home, r, matches.get(r.removal, ())))
    ]
    held = {r.removal: _pairs(matches.get(r.removal, ()), HELD) for r in holding}
    decide(ledger, home, held, "defer", "removal-held")
    waiting = [request.removal for request in holding if request.state is State.RECEIVED]
    removals.advance_many(ledger, waiting, State.HELD, now=now)
    reserved = {r.removal: matches.get(r.removal, ()) for r in requests if r.state is State.RESERVED}
    reserve(ledger, home, reserved, now=now)


def hold_anew(ledger: Ledger, home: Home) -> int:
    """Match what is open against what has come since, and hold or reserve it; how many requests were looked for."""
    names = [
        r.removal
        for r in removals.requests(ledger)
        if (r.state.is_undecided or r.state is State.RESERVED) and r.kind in HOLDING
    ]
    if names:
        hold(ledger, home, names, now=utc_now())
    return len(names)


def look_again(home: Home) -> int:
    """`hold_anew`, and of what is closed who asked, and for what, forgotten when its time has come; how many were
    looked for.
    """
    with home.ledger() as ledger:
        now = utc_now()
        looked = hold_anew(ledger, home)
        forgotten = forget_closed(ledger, home, now=now, daily=True)
        publish(ledger, home.snapshot_path, now=now, force=forgotten > 0)
        return looked


def reserve(ledger: Ledger, home: Home, objected: Mapping[str, Sequence[Match]], *, now: datetime) -> None:
    """No new use of what these granted objections match, from now on; what is reserved already stays so."""
    if not objected:
        return
    pairs = {name: _pairs(matches, TAKEN) for name, matches in objected.items()}
    decide(ledger, home, pairs, "deny", "objected")
    urls = {m.pair_key: m.url_key for matches in objected.values() for m in matches if m.pair_key and m.url_key}
    known = set(ledger.query("SELECT pair_key, mechanism FROM reserved WHERE starts_with(mechanism, 'removal/')"))
    rows: list[dict[str, object]] = [
        {
            "pair_key": pair,
            "url_key": urls.get(pair),
            "mechanism": rule,
            "reason_code": "objected",
            "state": "reserved",
            "observed_at": now,
        }
        for name, found in sorted(pairs.items())
        for pair in found
        if (pair, rule := HOLD_RULE.format(removal=name)) not in known
    ]
    if rows:
        ledger.append("reservation", rows, key=f"objected/{_digest(rows)}")


def extend(home: Home, removal: str, *, by: str, reason: str) -> Removal:
    """Give a request more time, once, as its regime allows, and say why: the requester is to be told.

    Raises:
        InputError: no such request, nobody's name, no reason. RefusedError: too late, done before, or closed.
    """
    require_name(by)
    with home.ledger() as ledger:
        removals.extend(ledger, removal, now=utc_now(), by_whom=by, reason=reason)
        return _published(ledger, home, removal)


def reject(home: Home, removal: str, *, by: str, reason: str) -> Removal:
    """Reject, with a reason: the hold ends.

    Raises:
        InputError: no such request, nobody's name, no reason. RefusedError: it was approved before.
    """
    require_name(by)
    if not reason.strip():
        raise InputError("a rejection carries a reason", where="--reason")
    return _end(home, removal, State.REJECTED, "removal-rejected", by=by, reason=reason)


def lift(home: Home, removal: str, *, by: str, reason: str) -> Removal:
    """Take a granted objection back, with whoever objected: what it kept out is judged by all else again.

    Raises:
        InputError: no such request, nobody's name, no reason. RefusedError: it is no granted objection.
    """
    require_name(by)
    if not reason.strip():
        raise InputError("say how it was taken back", where="--reason")
    return _end(home, removal, State.LIFTED, "objection-lifted", by=by, reason=reason)


def _end(home: Home, removal: str, state: State, code: str, *, by: str, reason: str) -> Removal:
    with home.ledger() as ledger:
        now = utc_now()
        if removals.find(ledger, removal).state.is_undecided and removal in home.tombstones(ledger).removals:
            raise RefusedError(
                "its approval is in force, though it was killed before it was written down",
                where=removal,
                remedy=f"custody removal approve {removal} --by NAME",
            )
        removals.advance(ledger, removal, state, now=now, by_whom=by, reason=reason)
        release(ledger, home, removal, code)
        forgotten = forget_closed(ledger, home, now=now)
        return _published(ledger, home, removal, force=forgotten > 0)


def release(ledger: Ledger, home: Home, removal: str, code: str, states: frozenset[str] | None = None) -> None:
    """End what a request's own rule says of its matches, or of those in these states and none that counts."""
    matches = matches_of_all(ledger, [removal]).get(removal, ())
    if states is None:
        ended = frozenset(m.pair_key for m in matches if m.pair_key)
    else:
        ended = _pairs(matches, states) - _pairs(matches, TAKEN)
    decide(ledger, home, {removal: ended}, "unset", code, only_said=True)
    rule = HOLD_RULE.format(removal=removal)
    lifted: list[dict[str, object]] = [
        {
            "pair_key": pair,
            "url_key": url,
            "mechanism": rule,
            "reason_code": code,
            "state": "lifted",
            "observed_at": utc_now(),
        }
        for pair, url in ledger.query("SELECT pair_key, url_key FROM reserved WHERE mechanism = ?", [rule])
        if pair in ended
    ]
    if lifted:
        ledger.append("reservation", lifted, key=f"{code}/{removal}/{_digest([row['pair_key'] for row in lifted])}")


def show(home: Home, removal: str) -> Removal:
    """One request as it stands. Raises InputError when there is none."""
    with home.ledger(readonly=True) as ledger:
        return shown(ledger, home, removal)


def list_removals(home: Home) -> tuple[Removal, ...]:
    """All requests: those that somebody waits for by the day they are due, then the closed ones, the oldest first.

    Without what is proposed, and of slots with those alone that are emptied: `show` has them.
    """
    with home.ledger(readonly=True) as ledger:
        told = listed(ledger, home)
    far = max((r.due_at for r in told), default=utc_now())
    return tuple(sorted(told, key=lambda r: (r.days_left is None, far if r.days_left is None else r.due_at)))


def check_deadlines(home: Home) -> dict[str, int]:
    """Requests by state, and of the open ones how many are due soon, overdue, or escalated by now."""
    return dict(deadlines(home).counts)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How requests stand against their deadlines. `pressing`: (id, days left) of those due soon or overdue."""

    counts: Mapping[str, int]
    pressing: tuple[tuple[str, int], ...]

    @property
    def overdue(self) -> int:
        return self.counts.get("overdue", 0)


def deadlines(home: Home) -> Deadlines:
    """Count the requests by state and by deadline; what was not answered in time is written down, once."""
    now, soon = utc_now(), timedelta(days=home.settings.removals.due_soon_days)
    counts: Counter[str] = Counter()
    pressing: list[tuple[str, int]] = []
    with home.ledger(readonly=True) as ledger:
        requests = removals.requests(ledger)
    late = [r for r in requests if r.state.is_open and now > r.due_at]
    if late:
        with home.ledger() as ledger:
            for request in late:
                removals.escalate(ledger, request, now=now)
            publish(ledger, home.snapshot_path, now=now)
    for request in requests:
        counts[request.state.value] += 1
        left = days_left(request, now)
        if left is None or request.due_at >= now + soon:
            continue
        counts["overdue" if request.due_at < now else "due soon"] += 1
        pressing.append((request.removal, left))
    counts["escalated"] = len(late)
    return Deadlines(counts, tuple(sorted(pressing, key=lambda one: (one[1], one[0]))))


# ── who asked ──────────────────────────────────────────────────────────────────────────────────────────────────────


def forget(home: Home, removal: str, *, by: str, reason: str = "") -> Removal:
    """Forget who asked: erased in the ledger, and the bytes gone from its file and the auditors' snapshot.

    Of a request that is closed and took nothing out also what it named; its token stays.

    Raises:
        InputError: no such request, or nobody's name.
    """
    require_name(by)
    with home.ledger() as ledger:
        now, why = utc_now(), reason or "asked for"
        removals.forget_requester(ledger, removal, now=now, by_whom=by, reason=why)
        request = removals.find(ledger, removal)
        if request.state.is_spent and request.named_value is not None:
            token = named_token(home.keys, request.named_kind, request.named_value)
            removals.forget_named(ledger, removal, token, now=now, by_whom=by, reason=why)
        _compact_if_forgotten(ledger)
        return _published(ledger, home, removal, force=True)


def forget_closed(ledger: Ledger, home: Home, *, now: datetime, daily: bool = False) -> int:
    """Forget who asked, of requests that are closed for as long as the settings keep it; how many were forgotten.

    What they named goes with it, where it serves nobody any more: `daily`, and whenever the ledger is copied for who
    asked, since a copy of the whole file for each rejection is too dear. The bytes are gone from the ledger's file when
    this returns; the snapshot follows with `publish(…, force=True)`.
    """
    keep = timedelta(days=home.settings.removals.keep_requester_days)
    known = removals.identities(ledger)
    closed = [
        r
        for r in removals.requests(ledger)
        if not r.state.is_open and (r.removal in known or (r.state.is_spent and r.named_value is not None))
    ]
    due = [r for r in closed if _closed_at(ledger, r) + keep <= now]
    asked = [r for r in due if r.removal in known]
    why = "the request is closed"
    for request in asked:
        removals.forget_requester(ledger, request.removal, now=now, reason=why)
    named = [r for r in due if r.state.is_spent and r.named_value is not None] if daily or asked else []
    for request in named:
        token = named_token(home.keys, request.named_kind, request.named_value or "")
        removals.forget_named(ledger, request.removal, token, now=now, reason=why)
    _compact_if_forgotten(ledger)
    return len({r.removal for r in (*asked, *named)})


def _closed_at(ledger: Ledger, request: RemovalRequest) -> datetime:
    return removals.events(ledger, request.removal, request.state)[-1][2]


_FORGOTTEN_SINCE = """
SELECT coalesce((SELECT max(batch_seq) FROM erasure WHERE starts_with(removal, 'forget:')), 0)
    > coalesce((SELECT max(batch_seq) FROM event WHERE kind = 'compacted'), 0)
"""


def _compact_if_forgotten(ledger: Ledger) -> None:
    """Also after a kill between the erasure and this: what is on record says that it is still to be done."""
    if ledger.query(_FORGOTTEN_SINCE) == [(True,)]:
        ledger.compact()


# ── what is named ──────────────────────────────────────────────────────────────────────────────────────────────────


def look_up(home: Home, ask: Ask) -> Found:
    """What a picture or a photo shows of what this home holds; nothing of a photo is kept, of a picture its digest.

    Raises:
        InputError: it cannot be named so, or the file is no picture that can be decoded. ConfigurationError: what finds
            persons is not installed.
    """
    check(home, ask)
    if ask.named not in ("picture", "person"):
        return NOTHING
    from flows.stages.removing import pictures

    path = Path(ask.value)
    if ask.named == "person":
        seen = pictures.search_person(home, None, path, threshold=ask.threshold, face=ask.face)
        shown_in = [(one.content_sha256, "person", one.score, PROPOSED) for one in seen.matches]
        counts = {name: getattr(seen, name) for name in ("pictures", "faces", *PERSON_UNTOLD)}
        return Found(None, _of_contents(home, shown_in), counts)
    alike = [
        (one.content_sha256, f"picture-{one.method}", one.score, LIKELY if one.verified else PROPOSED)
        for one in pictures.find_by_picture(home, None, path)
        if one.method != "exact"
    ]
    return Found(_sha256_of(path), _of_contents(home, alike))  # within bounds: it was decoded


def _of_contents(home: Home, found: Sequence[tuple[str, str, float, str]]) -> tuple[Match, ...]:
    """The occurrences of contents that were found in another way: (content, method, score, state)."""
    if not found:
        return ()
    with home.ledger(readonly=True) as ledger:
        placed = match_many(ledger, [(sha, "content", sha) for sha, *_ in found])
    return tuple(
        replace(one, method=method, score=round(score, 4), state=state)
        for sha, method, score, state in found
        for one in placed[sha]
    )


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error


def _requests_of(ledger: Ledger, home: Home, asks: Sequence[tuple[Ask, Found]], now: datetime) -> list[RemovalRequest]:
    urls = [canonical_url(ask.value) for ask, _ in asks if ask.named == "url"]
    known = frozenset(ledger.query(_PAGES_AND_IMAGES, {"urls": urls})) if urls else frozenset()
    requests = []
    for ask, found in asks:
        kind, value = _named(ask.named, ask.value, known)
        requests.append(_request_of(home, ask, kind, found.sha256 if kind == "picture" else value, now))
    return requests


def _request_of(home: Home, ask: Ask, named_kind: str, value: str | None, now: datetime) -> RemovalRequest:
    if ask.received_at is not None and ask.received_at > now:
        raise InputError("it was not received yet", where=f"received {ask.received_at:%Y-%m-%d}")
    return RemovalRequest.receive(
        named_kind,
        value,
        now=ask.received_at or now,
        kind=ask.kind,
        regime=ask.regime,
        removal=ask.removal,
        due_on=ask.due_on,
        own_days=home.ruleset.own_regime_days,
    )


def _named(named: str, value: str, known: frozenset[tuple[str, str]]) -> tuple[str, str | None]:
    """The kind and value as policy.removals knows them; a URL is an image's unless only pages are `known` by it."""
    match named:
        case "url":
            url = canonical_url(value)
            pages_only = (url, "page") in known and (url, "image") not in known
            return ("page_url" if pages_only else "image_url"), url
        case "domain":
            return "domain", host_name(value, "--domain")
        case "sha256":
            return "content", hex_digits(value, 64, "--sha256")
        case "key":
            return "sample_key", hex_digits(value, 32, "--key")
        case "picture":
            return "picture", "0" * 64  # until it is read
        case "person":
            return "person", None
        case "creator" | "credit":
            return "creator", _words(value, f"--{named}")
        case _:
            return named, _words(value, f"--{named}")


def host_name(value: str, where: str) -> str:
    """A host name as URLs have it, with its port where one is given. Raises InputError: none, or a public suffix."""
    host = value.strip().lower().rstrip(".")
    try:
        place = canonical_url(f"https://{host}/").removeprefix("https://").removesuffix("/")
    except InputError:
        place = ""
    if not _PLACE.fullmatch(place) or any(c in host for c in "/@?# \\"):
        remedy = "Write it as example.org; what lies below it is meant as well"
        raise InputError(f"{value!r} is no host name", where=where, remedy=remedy)
    if _NAME.fullmatch(place) and place != "localhost" and is_registry_suffix(place):
        raise InputError(f"{value!r} is a public suffix: nobody controls all below it", where=where)
    return place


_NAME: Final = re.compile(r"(?![0-9.]+$)[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PLACE: Final = re.compile(r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]+)?")


def _words(value: str, where: str) -> str:
    if len(value) > MAX_NAMED_CHARS:
        raise InputError(f"longer than {MAX_NAMED_CHARS} characters", where=where)
    if not removals.folded(value):
        raise InputError("names nothing", where=where)
    return value.strip()


def hex_digits(value: str, digits: int, where: str) -> str:
    text = value.strip().lower()
    if len(text) != digits or set(text) - set("0123456789abcdef"):
        raise InputError(f"{value!r} is not {digits} hex digits", where=where)
    return text


def require_name(by: str) -> None:
    if not removals.folded(by):
        raise InputError("nobody's name: a decision says who made it", where="--by")


# ── decisions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def decide(
    ledger: Ledger,
    home: Home,
    pairs: Mapping[str, frozenset[str]],
    verdict: str,
    code: str,
    *,
    only_said: bool = False,
) -> None:
    """A decision of each request on each of its pairs, resting on the pair's newest evidence; what is said already is
    not said again. `only_said`: of pairs alone of which the request said something before.
    """
    flat = [(removal, pair) for removal, found in sorted(pairs.items()) for pair in sorted(found)]
    if not flat:
        return
    asked = {
        "removals": [removal for removal, _ in flat],
        "pairs": [pair for _, pair in flat],
        "says": f"{verdict} {code}",
        "only_said": only_said,
    }
    rows: list[dict[str, Any]] = [
        {
            "pair_key": pair,
            "evidence_id": evidence,
            "rule": HOLD_RULE.format(removal=removal),
            "rule_version": 1,
            "verdict": verdict,
            "reason_code": code,
            "reason_detail": removal,
            "where_found": "",
            "ruleset_digest": home.ruleset.digest,
            "decide_id": removal,
        }
        for removal, pair, evidence in ledger.query(_TO_DECIDE, asked)
    ]
    if rows:
        at = utc_now().replace(tzinfo=None)
        key = f"removals/{code}/{_digest(rows)}/{ledger.head()[0]}"
        ledger.append("decision", [{**row, "decided_at": at} for row in rows], key=key)


def decide_pairs(ledger: Ledger, home: Home, names: Sequence[str], verdict: str, code: str) -> None:
    """A decision of each request on each pair that it takes, or waits to take."""
    matches = matches_of_all(ledger, names)
    decide(ledger, home, {name: _pairs(found, TAKEN) for name, found in matches.items()}, verdict, code)


def _pairs(matches: Sequence[Match], states: frozenset[str]) -> frozenset[str]:
    return frozenset(m.pair_key for m in matches if m.pair_key and m.state in states)


def _digest(rows: Sequence[object]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]
