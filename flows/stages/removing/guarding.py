"""What a request needs beside one person's yes: proof that who asks controls what it names, and a second approver.

Whoever asks for a whole site, or for more samples than the ruleset's `four_eyes_over`, may be somebody else: a
competitor, a prankster, somebody who took a domain over. Until the proof is there nothing of it is held either, so that
a false claim stops nobody's data; what names one picture, or its one address, is held at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from flows.home import Home
from policy.ledger import Ledger
from policy.removal_matches import SAME_CONTENT, TAKEN, Match
from policy.removal_proofs import is_within, proofs, proven_domains, vouched_for
from policy.removals import RemovalRequest

PROOF, SECOND = "proof", "second-approver"
# Kinds that change what may be used: whoever only asks what is held is told no more than what they proved.
GUARDED = frozenset({"erasure", "objection", "attribution"})
HOLDING = frozenset({"erasure", "objection"})
# What names one picture: its copies may be many, and are that one picture all the same.
_ONE_PICTURE = frozenset({"image_url", "content", "sample_key", "picture"})

_PLACES = """
SELECT DISTINCT pair_key, page_url, image_url FROM occurrence
WHERE pair_key IN (SELECT unnest($pairs::VARCHAR[])) ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands between a request and its approval. `samples`: those that it takes as things stand.

    `is_guarded`: four eyes and a proof are needed; `is_proven`: who asks controls it, or an operator vouched.
    """

    samples: int
    is_guarded: bool
    is_proven: bool

    @property
    def may_hold(self) -> bool:
        """Whether what it matches is held before anybody has decided."""
        return self.is_proven or not self.is_guarded


def guard_of(ledger: Ledger, home: Home, request: RemovalRequest, matches: Sequence[Match]) -> Guard:
    """What a request needs, counted anew: of what it matches now."""
    taken = [one for one in matches if one.state in TAKEN and one.group is not None]
    samples = len({one.sample for one in taken})
    guarded = request.kind in GUARDED and (request.named_kind == "domain" or samples > home.ruleset.four_eyes_over)
    return Guard(samples, guarded, not guarded or is_proven(ledger, request, taken))


def is_proven(ledger: Ledger, request: RemovalRequest, taken: Sequence[Match]) -> bool:
    """Whether all that a request names lies within domains whose control was proven, or an operator vouched."""
    found = proofs(ledger, request.removal)
    if vouched_for(found):
        return True
    if not (domains := proven_domains(found)):
        return False
    match request.named_kind:
        case "domain":
            places = [request.named_value or ""]
        case "image_url" | "page_url":
            places = [place_of(request.named_value or "")]
        case _:
            # One address of each that it names: the page, or the picture on it.
            pairs = sorted({one.pair_key for one in taken if one.pair_key and one.method != SAME_CONTENT})
            rows = ledger.query(_PLACES, {"pairs": pairs})
            return bool(rows) and all(
                any(is_within(place_of(url), domain) for url in urls if url for domain in domains) for _, *urls in rows
            )
    return all(any(is_within(place, domain) for domain in domains) for place in places)


def place_of(url: str) -> str:
    """The host of a canonical URL, with its port where it has one."""
    return urlsplit(url).netloc.lower()


def holds_at_once(request: RemovalRequest, guard: Guard) -> bool:
    """Whether what a request matches is held before it is decided: nothing of what needs a proof that is not there."""
    if request.kind not in HOLDING:
        return False
    return guard.may_hold or request.named_kind in _ONE_PICTURE


def needs(request: RemovalRequest, guard: Guard) -> tuple[str, ...]:
    """What an undecided request waits for: `proof`, `second-approver`."""
    if not request.state.is_undecided or not guard.is_guarded:
        return ()
    return (SECOND,) if guard.is_proven else (PROOF, SECOND)
