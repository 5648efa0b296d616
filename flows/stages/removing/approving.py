"""Approval: tombstones take force, as a file, for every stage and every running training; the ledger follows.

An objection becomes a reservation, a wrong credit line a right one: nothing is taken out. A whole site, or more samples
than the ruleset's `four_eyes_over`, takes a proof of control and a second person; what is asked of both is counted anew
each time. Where reviewers have answered, only what they accepted is taken, and nothing that they have not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from curation.pair import canonical_url
from flows.home import Home, utc_now
from flows.stages.removing.guarding import guard_of
from flows.stages.removing.requests import decide_pairs, forget_closed, hex_digits, release, require_name, reserve
from flows.stages.removing.standing import (
    Removal,
    Slot,
    all_shown,
    proposals_for,
    removal_slots,
    shown,
    slots_of_removals,
)
from flows.stages.removing.suppressing import suppress
from policy import removals
from policy.errors import CustodyError, InputError, RefusedError
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
    matches_of_all,
    record_matches_of,
    record_state,
    reviewed,
)
from policy.removals import RemovalRequest, State
from policy.snapshot import publish
from policy.tombstones import Tombstones

# Where what is removed hangs, and where the way there ended.
_URLS_OF = """
WITH named AS (
    SELECT DISTINCT removal, url_key FROM removal_taken
    WHERE list_contains($removals::VARCHAR[], removal) AND url_key IS NOT NULL
)
SELECT removal, image_url FROM occurrence JOIN named USING (url_key) WHERE image_url IS NOT NULL
UNION SELECT removal, final_url FROM "fetch" JOIN named USING (url_key)
WHERE kind = 'image' AND outcome = 'ok' AND final_url IS NOT NULL
ORDER BY ALL
"""
_RECORDED = "SELECT removal, kind, token FROM tombstone WHERE list_contains($removals::VARCHAR[], removal)"
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
        tombstones = home.tombstones(ledger)
        accepted = () if request.state is State.APPLIED else _taken_in(ledger, removal, with_near, near)
        if accepted and (not request.state.is_undecided or removal in tombstones.removals):
            raise RefusedError(
                "it is in force already, without these near duplicates",
                where=removal,
                remedy="File a request for each: custody removal add --sha256",
            )
        approval = _Approval(ledger, home, tombstones, by, reason, credit_line.strip())
        approval.carry_out([request], {removal: accepted})
    return _finished(home, [request])[0]


def approve_all(home: Home, *names: str, by: str, reason: str = "") -> tuple[Removal, ...]:
    """Approve many requests, each as `approve` does, in one pass over the ledger: all are in force at one moment.

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
        _Approval(ledger, home, home.tombstones(ledger), by, reason, "").carry_out(requests, {})
    return _finished(home, requests)


def _finished(home: Home, requests: Sequence[RemovalRequest]) -> tuple[Removal, ...]:
    """What takes longer, once it is in force: marks by which copies are known, and the auditors' snapshot."""
    with home.ledger() as ledger:
        forgotten = forget_closed(ledger, home, now=utc_now())
        in_force = home.tombstones(ledger).removals
    if erased := [r.removal for r in requests if r.kind == "erasure" and r.removal in in_force]:
        suppress(home, *erased)
    with home.ledger() as ledger:
        if len(requests) > 1:
            answers = all_shown(ledger, home, [request.removal for request in requests])
        else:
            answers = tuple(shown(ledger, home, request.removal) for request in requests)
        publish(ledger, home.snapshot_path, now=utc_now(), force=forgotten > 0)  # last: who copies the ledger closes it
        return answers


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


@dataclass(frozen=True, slots=True)
class _Approval:
    """One person's yes to some requests, in one pass over the ledger, whose lock is held all the while."""

    ledger: Ledger
    home: Home
    tombstones: Tombstones  # before it
    by: str
    reason: str
    credit_line: str

    def carry_out(self, requests: Sequence[RemovalRequest], accepted: Mapping[str, Sequence[Match]]) -> None:
        """What an approval does but for what takes long. The first of two is recorded, and does nothing yet.

        `accepted`: removal -> what the approver takes in beside the exact matches. Raises what stands in the way of the
        first request that has something in its way; those before it are carried out, of it and those behind it nothing
        is.
        """
        done = frozenset(self.tombstones.removals)  # where one was killed after its tombstones took force
        waiting = [r for r in requests if r.state.is_undecided and r.removal not in done]
        spread = self._match_anew(waiting)
        settled, firsts, stopped = self._settled(requests, waiting, accepted)
        reached = {r.removal for r in (*settled, *firsts)}
        self._take({r.removal: accepted.get(r.removal, ()) for r in waiting if r.removal in reached}, spread)
        for request in firsts:
            self._advance([request], State.AWAITING_SECOND)
        self._erase([r for r in settled if r.kind == "erasure"])
        for request in settled:
            match request.kind:
                case "objection":
                    self._object(request)
                case "attribution":
                    self._credit(request)
        self._release([r.removal for r in settled])
        if stopped is not None:
            raise stopped

    # ── whether ────────────────────────────────────────────────────────────────────────────────────────────────

    def _match_anew(self, requests: Sequence[RemovalRequest]) -> frozenset[str]:
        """What was crawled since the requests came belongs to them, too: one pass for all. The contents of which every
        occurrence was matched by it.
        """
        asked = [(r.removal, r.named_kind, r.named_value) for r in requests if r.named_value is not None]
        found = match_many(self.ledger, asked)
        record_matches_of(self.ledger, found, now=utc_now())
        exact = (m for matches in found.values() for m in matches if m.state in TAKEN)
        return frozenset(m.content_sha256 for m in exact if m.content_sha256)

    def _settled(
        self,
        requests: Sequence[RemovalRequest],
        waiting: Sequence[RemovalRequest],
        accepted: Mapping[str, Sequence[Match]],
    ) -> tuple[list[RemovalRequest], list[RemovalRequest], CustodyError | None]:
        """Those of which nothing is missing, those that this is the first of two approvals of, and what is in the way
        of the next, where anything is: nothing of that one was taken in.
        """
        names = [r.removal for r in waiting]
        asked, matches, answered = set(names), matches_of_all(self.ledger, names), reviewed(self.ledger, names)
        settled: list[RemovalRequest] = []
        firsts: list[RemovalRequest] = []
        for request in requests:
            if request.removal not in asked:
                settled.append(request)
                continue
            found = {one.keys: one for one in matches.get(request.removal, ())}
            found |= {one.keys: replace(one, state=APPROVED) for one in accepted.get(request.removal, ())}
            try:
                is_last = self._is_last(request, tuple(found.values()), request.removal in answered)
            except CustodyError as error:
                return settled, firsts, error
            (settled if is_last else firsts).append(request)
        return settled, firsts, None

    def _is_last(self, request: RemovalRequest, matches: Sequence[Match], is_reviewed: bool) -> bool:
        """Whether this approval is all that was missing. Raises what stands in the way."""
        removal = request.removal
        if is_reviewed and (
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
        guard = guard_of(self.ledger, self.home, request, matches)
        if not guard.is_guarded:
            return True
        if not guard.is_proven:
            concerned = "a whole domain" if request.named_kind == "domain" else f"{guard.samples} samples"
            raise RefusedError(
                f"it concerns {concerned}: whoever asks must prove that it is theirs",
                where=removal,
                remedy=f"custody removal prove {removal}",
            )
        if request.state is not State.AWAITING_SECOND:
            return False
        first = removals.events(self.ledger, removal, State.AWAITING_SECOND)[-1][0] or ""
        if removals.same_name(first, self.by):
            raise InputError(f"{self.by.strip()} has approved it already; it takes a second person", where="--by")
        return True

    # ── what then ──────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, accepted: Mapping[str, Sequence[Match]], spread: frozenset[str]) -> None:
        """What the approver takes in; and bytes that are taken are taken wherever they hang by now. Of those in
        `spread` that is known.
        """
        now, ledger = utc_now(), self.ledger
        for removal, matches in accepted.items():
            if matches:
                record_state(ledger, removal, matches, APPROVED, now=now)
        taken = {
            removal: {m.content_sha256 for m in matches if m.state in TAKEN and m.content_sha256} - spread
            for removal, matches in matches_of_all(ledger, list(accepted)).items()
        }
        contents = sorted(set().union(*taken.values()))
        placed = match_many(ledger, [(sha, "content", sha) for sha in contents])
        found = {
            removal: [replace(m, method=SAME_CONTENT) for sha in sorted(shas) for m in placed[sha]]
            for removal, shas in taken.items()
        }
        record_matches_of(ledger, found, now=now)

    def _erase(self, requests: Sequence[RemovalRequest]) -> None:
        """Tombstones, of all of them at one moment; then what the ledger says of it."""
        if not requests:
            return
        ledger, home, now, tombstones = self.ledger, self.home, utc_now(), self.tombstones
        done, names = frozenset(tombstones.removals), [r.removal for r in requests]
        if fresh := [r for r in requests if r.removal not in done]:
            tombstones = self._with_added(fresh)
            tombstones.store(home.tombstones_path)
        self._record(tombstones, names, now)
        decide_pairs(ledger, home, names, "deny", "tombstoned")
        self._advance([r for r in requests if r.state is not State.APPLIED], State.APPROVED)

    def _record(self, tombstones: Tombstones, names: Sequence[str], now: datetime) -> None:
        """The ledger's rows of what is in force for these, in one batch; those that are there already stay."""
        known = set(self.ledger.query(_RECORDED, {"removals": list(names)}))
        found = [row for rows in tombstones.rows_of(names, now).values() for row in rows]
        if rows := [row for row in found if (row["removal"], row["kind"], row["token"]) not in known]:
            self.ledger.append("tombstone", rows, key=f"tombstones/{names[0]}/{tombstones.epoch}")

    def _with_added(self, requests: Sequence[RemovalRequest]) -> Tombstones:
        """The tombstones with what these matched, and name."""
        ledger, tombstones = self.ledger, self.tombstones
        names = [r.removal for r in requests]
        matched, slots = matches_of_all(ledger, names), slots_of_removals(ledger, names)
        urls: dict[str, set[str]] = {name: set() for name in names}
        for name, url in ledger.query(_URLS_OF, {"removals": names}):
            urls[name].add(_as_asked(url))
        for request in requests:
            name, matches = request.removal, matched.get(request.removal, ())
            taken = [m for m in matches if m.state in TAKEN]
            rejected = {m.content_sha256 for m in matches if m.state == REJECTED}
            if request.named_kind in ("image_url", "page_url") and request.named_value:
                urls[name].add(request.named_value)
            words = _named_words(request)
            tombstones = tombstones.with_added(
                name,
                urls=sorted(urls[name]),
                contents=sorted(
                    {m.content_sha256 for m in taken if m.content_sha256} | _named_content(request) - rejected
                ),
                samples=sorted({m.sample_key for m in taken if m.sample_key}),
                domains=[request.named_value] if request.named_kind == "domain" and request.named_value else [],
                said=words,
                stays=sorted(_left_in(ledger, matches)) if words else (),
                slots=_by_dataset(slots.get(name, ())),
            )
        return tombstones

    def _object(self, request: RemovalRequest) -> None:
        """No new use from now on, and nothing erased: a reservation, which can be lifted."""
        matches = matches_of(self.ledger, request.removal)
        reserve(self.ledger, self.home, {request.removal: matches}, now=utc_now())
        self._advance([request], State.RESERVED)

    def _credit(self, request: RemovalRequest) -> None:
        """A new attribution for every slot that is concerned; the newest counts."""
        ledger, removal = self.ledger, request.removal
        if self.credit_line:
            slots = removal_slots(ledger, removal)
            asked = {"datasets": [s.dataset for s in slots], "ordinals": [str(s.ordinal) for s in slots]}
            known = [
                dict(zip(("dataset", "ordinal", *_CREDIT), row, strict=True))
                for row in ledger.query(_CREDITS_OF, asked)
            ]
            rows = [{**row, "creator": self.credit_line} for row in known if row["creator"] != self.credit_line]
            if rows:
                ledger.append("attribution", rows, key=f"credited:{removal}")
            removals.record_step(
                ledger, removal, "attribution", "credited", "slots", now=utc_now(), after={"slots": len(slots)}
            )
        self._advance([request], State.CREDITED)

    def _release(self, names: Sequence[str]) -> None:
        """What was held and is not taken is held no more."""
        unsure = frozenset({REJECTED, LIKELY, PROPOSED})
        for name, matches in matches_of_all(self.ledger, names).items():
            if any(m.state in unsure for m in matches):
                release(self.ledger, self.home, name, "removal-rejected", unsure)

    def _advance(self, requests: Sequence[RemovalRequest], state: State) -> None:
        names = [r.removal for r in requests]
        removals.advance_many(self.ledger, names, state, now=utc_now(), by_whom=self.by, reason=self.reason)


# ── of one request ─────────────────────────────────────────────────────────────────────────────────────────────────


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
