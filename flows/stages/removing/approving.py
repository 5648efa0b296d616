"""Approval: tombstones take force, as a file, for every stage and every running training; the ledger follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flows.home import Home, utc_now
from flows.stages.removing.requests import decide_pairs, hex_digits, require_name
from flows.stages.removing.standing import Removal, Slot, proposals_for, removal_slots, shown
from policy import removals
from policy.errors import InputError, RefusedError
from policy.ledger import Ledger
from policy.removal_matches import Match, match, record_matches
from policy.removals import RemovalRequest, State
from policy.snapshot import publish

_URLS_OF = """
SELECT DISTINCT image_url FROM occurrence
WHERE url_key IN (SELECT url_key FROM removal_match WHERE removal = $removal AND url_key IS NOT NULL)
ORDER BY image_url
"""


def approve(
    home: Home, removal: str, *, by: str, reason: str = "", with_near: bool = False, near: Sequence[str] = ()
) -> Removal:
    """Approve: the tombstones are in force, for every stage and every running training, when this returns.

    `with_near`: what is proposed as near duplicates goes, too; `near`: of that these alone, by their sha256.

    Raises:
        InputError: no such request, nobody's name, or a content that is not proposed. RefusedError: it was rejected
            before, or approved without these.
    """
    require_name(by)
    now = utc_now()
    with home.ledger() as ledger:
        request = removals.find(ledger, removal)
        if request.state is State.REJECTED:
            raise RefusedError("it was rejected, and a decision is final", where=removal, remedy="File a new request")
        tombstones = home.tombstones(ledger)
        if removal not in tombstones.removals:
            if request.named_value is not None:  # what was crawled since the request came belongs to it, too
                matches = match(ledger, request.named_kind, request.named_value)
                record_matches(ledger, removal, matches, now=now)
            record_matches(ledger, removal, _taken_in(ledger, removal, with_near, near), now=now)
            rows = ledger.query("SELECT content_sha256, sample_key FROM removal_match WHERE removal = ?", [removal])
            urls = {url for (url,) in ledger.query(_URLS_OF, {"removal": removal})}
            named_url = request.named_kind in ("image_url", "page_url") and request.named_value
            tombstones = tombstones.with_added(
                removal,
                urls=sorted(urls | ({named_url} if named_url else set())),
                contents=sorted({sha for sha, _ in rows if sha} | _named_content(request)),
                samples=sorted({key for _, key in rows if key}),
                domains=[request.named_value] if request.named_kind == "domain" and request.named_value else [],
                slots=_by_dataset(removal_slots(ledger, removal)),
            )
            tombstones.store(home.tombstones_path)
        elif request.state is not State.APPLIED and _taken_in(ledger, removal, with_near, near):
            raise RefusedError(
                "it is in force already, without these near duplicates",
                where=removal,
                remedy="File a request for each: custody removal add --sha256",
            )
        ledger.append("tombstone", tombstones.rows(removal, now), key=f"tombstones/{removal}")
        decide_pairs(ledger, home, removal, "deny", "tombstoned")
        if request.state is not State.APPLIED:
            removals.advance(ledger, removal, State.APPROVED, now=now, by_whom=by, reason=reason)
        publish(ledger, home.snapshot_path, now=now)
        return shown(ledger, home, removal)


def _taken_in(ledger: Ledger, removal: str, with_near: bool, near: Sequence[str]) -> tuple[Match, ...]:
    """The occurrences of the proposed near duplicates that were asked for, each with how it was found."""
    if not with_near and not near:
        return ()
    wanted, proposed = {hex_digits(sha, 64, "--near") for sha in near}, proposals_for(ledger, removal)
    already = ledger.query("SELECT DISTINCT content_sha256 FROM removal_match WHERE removal = ?", [removal])
    if strangers := wanted - {one.content_sha256 for one in proposed} - {sha for (sha,) in already}:
        raise InputError(
            f"{len(strangers)} of these contents are not proposed for this request",
            where="--near",
            remedy=f"`custody removal show {removal}` lists those that are",
        )
    return tuple(
        replace(found, method=f"near-{one.method or 'representative'}", score=round(1 - one.distance, 4))
        for one in proposed
        if with_near or one.content_sha256 in wanted
        for found in match(ledger, "content", one.content_sha256)
    )


def _named_content(request: RemovalRequest) -> set[str]:
    return {request.named_value} if request.named_kind == "content" and request.named_value else set()


def _by_dataset(slots: Sequence[Slot]) -> dict[str, list[int]]:
    by_dataset: dict[str, list[int]] = {}
    for slot in slots:
        by_dataset.setdefault(slot.dataset, []).append(slot.ordinal)
    return by_dataset
