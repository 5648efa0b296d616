"""Approval: tombstones take force, as a file, for every stage and every running training; the ledger follows.

An objection becomes a reservation, a wrong credit line a right one: nothing is taken out. A whole site, or more samples
than the ruleset's `four_eyes_over`, takes a proof of control and a second person; what is asked of both is counted anew
each time. Where reviewers have answered, only what they accepted is taken, and nothing that they have not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curation.pair import canonical_url
from flows.home import Home, utc_now
from flows.stages.removing.guarding import guard_of
from flows.stages.removing.requests import decide_pairs, forget_closed, hex_digits, release, require_name, reserve
from flows.stages.removing.standing import Removal, Slot, proposals_for, removal_slots, shown
from flows.stages.removing.suppressing import begin_copy, suppress
from policy import removals
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.names import HEARD_KINDS
from policy.removal_matches import (
    APPROVED,
    LIKELY,
    PROPOSED,
    REJECTED,
    SAME_CONTENT,
    TAKEN,
    Match,
    match,
    match_many,
    matches_of,
    record_matches,
    record_matches_of,
    record_state,
    reviews,
)
from policy.removals import RemovalRequest, State
from policy.snapshot import publish

# Where what is removed hangs, and where the way there ended.
_URLS_OF = """
WITH named AS (SELECT DISTINCT url_key FROM removal_taken WHERE removal = $removal AND url_key IS NOT NULL)
SELECT image_url FROM occurrence SEMI JOIN named USING (url_key) WHERE image_url IS NOT NULL
UNION SELECT final_url FROM "fetch" SEMI JOIN named USING (url_key)
WHERE kind = 'image' AND outcome = 'ok' AND final_url IS NOT NULL
ORDER BY image_url
"""
# The newest attribution of each slot that is taken, or nothing where it had none.
_CREDITS_OF = """
WITH slots AS (SELECT unnest($datasets::VARCHAR[]) AS dataset, unnest($ordinals::VARCHAR[])::BIGINT AS ordinal),
newest AS (
    SELECT * FROM attribution SEMI JOIN slots USING (dataset, ordinal)
    QUALIFY row_number() OVER (PARTITION BY dataset, ordinal ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT dataset, ordinal, title, creator, source_url, licence, licence_url, changes
FROM slots LEFT JOIN newest USING (dataset, ordinal) ORDER BY dataset, ordinal
"""
_CREDIT = ("title", "creator", "source_url", "licence", "licence_url", "changes")


def approve(
    home: Home,
    removal: str,
    *,
    by: str,
    reason: str = "",
    with_near: bool = False,
    near: Sequence[str] = (),
    credit_line: str = "",
) -> Removal:
    """Approve. An erasure's tombstones are in force, for every stage and every running training, when this returns.

    `with_near`: what is proposed as near duplicates goes, too; `near`: of that these alone, by their sha256.
    `credit_line`: of an attribution request, who is to be credited from now on. Where four eyes are needed the first
    approval leaves the request waiting for a second one, by somebody else.

    Raises:
        InputError: no such request, nobody's name, the same name twice, no credit line, or a content that is not
            proposed. RefusedError: it was rejected before, needs a proof or a review, or is in force without these.
    """
    require_name(by)
    with home.ledger() as ledger:
        request = removals.find(ledger, removal)
        _require_approvable(request, credit_line)
        in_force = removal in home.tombstones(ledger).removals
        accepted = () if request.state is State.APPLIED else _taken_in(ledger, removal, with_near, near)
        if request.state.is_undecided and not in_force:
            _match_anew(ledger, [request])
        elif accepted:
            raise RefusedError(
                "it is in force already, without these near duplicates",
                where=removal,
                remedy="File a request for each: custody removal add --sha256",
            )
        _carry_out(ledger, home, request, accepted, in_force=in_force, by=by, reason=reason, credit_line=credit_line)
    return _finished(home, [request])[0]


def approve_all(home: Home, *names: str, by: str, reason: str = "") -> tuple[Removal, ...]:
    """Approve many requests, each as `approve` does, in one pass over the ledger and with one new snapshot.

    What may not be approved is said of the first such one: those before it are in force, and named again do no harm.

    Raises:
        InputError, RefusedError: as `approve`; none is named.
    """
    require_name(by)
    if not names:
        raise InputError("no request is named", where="custody removal approve", remedy="custody removal list")
    with home.ledger() as ledger:
        known = {request.removal: request for request in removals.requests(ledger)}
        requests = [known[name] if name in known else removals.find(ledger, name) for name in dict.fromkeys(names)]
        for request in requests:
            _require_approvable(request, "")
        done = home.tombstones(ledger).removals
        _match_anew(ledger, [r for r in requests if r.state.is_undecided and r.removal not in done])
        for request in requests:
            in_force = request.removal in done
            _carry_out(ledger, home, request, (), in_force=in_force, by=by, reason=reason, credit_line="")
    return _finished(home, requests)


def _carry_out(
    ledger: Ledger,
    home: Home,
    request: RemovalRequest,
    accepted: Sequence[Match],
    *,
    in_force: bool,
    by: str,
    reason: str,
    credit_line: str,
) -> None:
    """What an approval does but for what takes long; the first of two is recorded, and does nothing yet."""
    waiting = request.state.is_undecided and not in_force
    if waiting and not _is_settled(ledger, home, request, accepted, by=by, reason=reason):
        return
    match request.kind:
        case "objection":
            _object(ledger, home, request, by=by, reason=reason)
        case "attribution":
            _credit(ledger, request, credit_line.strip(), by=by, reason=reason)
        case _:
            _erase(ledger, home, request, by=by, reason=reason)
    release(ledger, home, request.removal, "removal-rejected", frozenset({REJECTED, LIKELY, PROPOSED}))


def _finished(home: Home, requests: Sequence[RemovalRequest]) -> tuple[Removal, ...]:
    """What takes longer, once it is in force: marks by which copies are known, and the auditors' snapshot."""
    with home.ledger() as ledger:
        forgotten = forget_closed(ledger, home, now=utc_now())
        in_force = home.tombstones(ledger).removals
    if erased := [r.removal for r in requests if r.kind == "erasure" and r.removal in in_force]:
        suppress(home, *erased)
    with home.ledger() as ledger:
        publish(ledger, home.snapshot_path, now=utc_now(), force=forgotten > 0)
        return tuple(shown(ledger, home, request.removal) for request in requests)


# ── whether ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _require_approvable(request: RemovalRequest, credit_line: str) -> None:
    removal = request.removal
    if request.state is State.REJECTED:
        raise RefusedError("it was rejected, and a decision is final", where=removal, remedy="File a new request")
    if request.state is State.LIFTED:
        raise RefusedError("the objection was taken back", where=removal, remedy="File a new request")
    if request.kind == "access":
        raise InputError(
            "a request that asks what is held is answered, not approved",
            where=removal,
            remedy=f"custody removal answer {removal} --by NAME",
        )
    if request.kind == "attribution" and request.state.is_undecided and not removals.folded(credit_line):
        raise InputError("say who is to be credited", where="--credit-line")
    if request.kind != "attribution" and credit_line:
        raise InputError("only a request of the kind attribution sets a credit line", where="--credit-line")


def _match_anew(ledger: Ledger, requests: Sequence[RemovalRequest]) -> None:
    """What was crawled since the requests came belongs to them, too: one pass for all."""
    asked = [(r.removal, r.named_kind, r.named_value) for r in requests if r.named_value is not None]
    record_matches_of(ledger, match_many(ledger, asked), now=utc_now())


def _take(ledger: Ledger, removal: str, accepted: Sequence[Match]) -> None:
    """What the approver takes in; and bytes that are taken are taken wherever they hang by now."""
    now = utc_now()
    record_state(ledger, removal, accepted, APPROVED, now=now)
    taken = sorted({m.content_sha256 for m in matches_of(ledger, removal) if m.state in TAKEN and m.content_sha256})
    placed = match_many(ledger, [(sha, "content", sha) for sha in taken])
    spread = [replace(found, method=SAME_CONTENT) for sha in taken for found in placed[sha]]
    record_matches(ledger, removal, spread, now=now)


def _is_settled(
    ledger: Ledger, home: Home, request: RemovalRequest, accepted: Sequence[Match], *, by: str, reason: str
) -> bool:
    """Whether this approval is all that was missing; the first of two is recorded. Raises what stands in the way: then
    nothing was taken in.
    """
    removal = request.removal
    found = {one.keys: one for one in matches_of(ledger, removal)}
    found |= {one.keys: replace(one, state=APPROVED) for one in accepted}
    matches = tuple(found.values())
    if reviews(ledger, removal) and (
        unseen := len({m.group for m in matches if m.state in ("matched", LIKELY) and m.group is not None})
    ):
        raise RefusedError(
            f"{unseen} of its matches have not been reviewed",
            where=removal,
            remedy=f"custody removal review {removal}",
        )
    if any(m.state == REJECTED for m in matches) and not any(m.state in TAKEN for m in matches):
        raise RefusedError(
            "every match was rejected in review",
            where=removal,
            remedy=f"custody removal reject {removal} --by NAME --reason TEXT",
        )
    guard = guard_of(ledger, home, request, matches)
    if not guard.is_guarded:
        _take(ledger, removal, accepted)
        return True
    if not guard.is_proven:
        concerned = "a whole domain" if request.named_kind == "domain" else f"{guard.samples} samples"
        raise RefusedError(
            f"it concerns {concerned}: whoever asks must prove that it is theirs",
            where=removal,
            remedy=f"custody removal prove {removal}",
        )
    if request.state is not State.AWAITING_SECOND:
        _take(ledger, removal, accepted)
        removals.advance(ledger, removal, State.AWAITING_SECOND, now=utc_now(), by_whom=by, reason=reason)
        return False
    first = removals.events(ledger, removal, State.AWAITING_SECOND)[-1][0] or ""
    if removals.same_name(first, by):
        raise InputError(f"{by.strip()} has approved it already; it takes a second person", where="--by")
    _take(ledger, removal, accepted)
    return True


# ── what then ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _erase(ledger: Ledger, home: Home, request: RemovalRequest, *, by: str, reason: str) -> None:
    removal, now = request.removal, utc_now()
    tombstones = home.tombstones(ledger)
    if removal not in tombstones.removals:
        matches = matches_of(ledger, removal)
        taken = [m for m in matches if m.state in TAKEN]
        rejected = {m.content_sha256 for m in matches if m.state == REJECTED}
        urls = {_as_asked(url) for (url,) in ledger.query(_URLS_OF, {"removal": removal})}
        named_url = request.named_kind in ("image_url", "page_url") and request.named_value
        tombstones = tombstones.with_added(
            removal,
            urls=sorted(urls | ({named_url} if named_url else set())),
            contents=sorted({m.content_sha256 for m in taken if m.content_sha256} | _named_content(request) - rejected),
            samples=sorted({m.sample_key for m in taken if m.sample_key}),
            domains=[request.named_value] if request.named_kind == "domain" and request.named_value else [],
            said=_named_words(request),
            stays=sorted(_left_in(ledger, matches)) if _named_words(request) else (),
            slots=_by_dataset(removal_slots(ledger, removal)),
        )
        begin_copy(home, home.tombstones(ledger))
        tombstones.store(home.tombstones_path)
    ledger.append("tombstone", tombstones.rows(removal, now), key=f"tombstones/{removal}")
    decide_pairs(ledger, home, removal, "deny", "tombstoned")
    if request.state is not State.APPLIED:
        removals.advance(ledger, removal, State.APPROVED, now=now, by_whom=by, reason=reason)


def _object(ledger: Ledger, home: Home, request: RemovalRequest, *, by: str, reason: str) -> None:
    """No new use from now on, and nothing erased: a reservation, which can be lifted."""
    reserve(ledger, home, {request.removal: matches_of(ledger, request.removal)}, now=utc_now())
    removals.advance(ledger, request.removal, State.RESERVED, now=utc_now(), by_whom=by, reason=reason)


def _credit(ledger: Ledger, request: RemovalRequest, credit_line: str, *, by: str, reason: str) -> None:
    """A new attribution for every slot that is concerned; the newest counts."""
    removal = request.removal
    if credit_line:
        slots = removal_slots(ledger, removal)
        asked = {"datasets": [s.dataset for s in slots], "ordinals": [str(s.ordinal) for s in slots]}
        known = [
            dict(zip(("dataset", "ordinal", *_CREDIT), row, strict=True)) for row in ledger.query(_CREDITS_OF, asked)
        ]
        rows = [{**row, "creator": credit_line} for row in known if row["creator"] != credit_line]
        if rows:
            ledger.append("attribution", rows, key=f"credited:{removal}")
        removals.record_step(
            ledger, removal, "attribution", "credited", "slots", now=utc_now(), after={"slots": len(slots)}
        )
    removals.advance(ledger, removal, State.CREDITED, now=utc_now(), by_whom=by, reason=reason)


def _taken_in(ledger: Ledger, removal: str, with_near: bool, near: Sequence[str]) -> tuple[Match, ...]:
    """The occurrences of what is not exact and was asked for all the same, each with how it was found."""
    if not with_near and not near:
        return ()
    wanted, proposed = {hex_digits(sha, 64, "--near") for sha in near}, proposals_for(ledger, removal)
    matches = matches_of(ledger, removal)
    unsure = [m for m in matches if m.state in (LIKELY, PROPOSED) and m.content_sha256]
    already = {m.content_sha256 for m in matches}
    if strangers := wanted - {one.content_sha256 for one in proposed} - already:
        raise InputError(
            f"{len(strangers)} of these contents are not proposed for this request",
            where="--near",
            remedy=f"`custody removal show {removal}` lists those that are",
        )
    return (
        *(m for m in unsure if m.content_sha256 in wanted or (with_near and m.state == LIKELY)),
        *(
            replace(found, method=f"near-{one.method or 'representative'}", score=round(1 - one.distance, 4))
            for one in proposed
            if with_near or one.content_sha256 in wanted
            for found in match(ledger, "content", one.content_sha256)
        ),
    )


def _as_asked(url: str) -> str:
    """An address as tombstones are asked for it: the last of some redirects stands on record as it was written."""
    try:
        return canonical_url(url)
    except InputError:
        return url


def _named_content(request: RemovalRequest) -> set[str]:
    return {request.named_value} if request.named_kind in ("content", "picture") and request.named_value else set()


def _named_words(request: RemovalRequest) -> dict[str, list[str]]:
    """The name or text that is kept out from now on, whatever picture it is said of."""
    heard = request.named_kind in HEARD_KINDS and request.named_value is not None
    return {request.named_kind: [request.named_value]} if heard and request.named_value else {}


_PLACES_OF = "SELECT DISTINCT image_url FROM occurrence WHERE list_contains($pairs::VARCHAR[], pair_key)"


def _left_in(ledger: Ledger, matches: Sequence[Match]) -> set[str]:
    """What a reviewer left in, by its bytes and where it hangs: the name is somebody else's as well."""
    rejected = [m for m in matches if m.state == REJECTED]
    pairs = sorted({m.pair_key for m in rejected if m.pair_key})
    places = {_as_asked(url) for (url,) in ledger.query(_PLACES_OF, {"pairs": pairs}) if url} if pairs else set()
    return places | {m.content_sha256 for m in rejected if m.content_sha256}


def _by_dataset(slots: Sequence[Slot]) -> dict[str, list[int]]:
    by_dataset: dict[str, list[int]] = {}
    for slot in slots:
        by_dataset.setdefault(slot.dataset, []).append(slot.ordinal)
    return by_dataset
