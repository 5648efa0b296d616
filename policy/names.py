"""What is said of a picture: who made it, who licensed it, in which words. By that, too, requests name what goes.

Names and texts are compared as people read them (`policy.removals.folded`). Matching asks the same of the ledger's rows
in SQL (policy/removal_matches.py); here it is asked of one picture that arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from policy.evidence import Embedded, Evidence, LicenceClaim
from policy.keys import KeyRing
from policy.removals import folded

HEARD_KINDS: Final = ("creator", "licensor", "text")
# Properties of a picture's own bytes that name who made it, or whom to credit (policy/licences.py), or whose it is.
NAMING_FIELDS: Final = (
    *("cc:attributionName", "dc:creator", "iptc:By-line", "iptc:Byline", "exif:Artist", "plus:ImageCreatorName"),
    *("cc:attributionURL", "photoshop:Credit", "iptc:Credit"),
    *("exif:Copyright", "iptc:CopyrightNotice", "dc:rights", "dcterms:rights", "plus:CopyrightOwnerName"),
    *("xmpRights:Owner", "xmpRights:WebStatement"),
)

Said = Mapping[str, Iterable[str | None]]  # one of HEARD_KINDS -> what is said so; None and "" say nothing

# A named value has the token that its tombstone has, where there is one of its kind.
_TOKEN_KINDS: Final = {"image_url": "url", "page_url": "url", "picture": "content", "sample_key": "sample"}


def said(
    *,
    texts: Iterable[str | None] = (),
    claims: Iterable[LicenceClaim] = (),
    embedded: Embedded | None = None,
    givers: Iterable[str | None] = (),
) -> Said:
    """What is said of a picture, by its texts (alt text, caption), claims, own bytes, and who gave grants for it."""
    claims = tuple(claims)
    named = [name for claim in claims for name in (claim.creator, claim.credit)]
    return {
        "creator": [
            *named,
            *(claim.value for claim in claims if claim.kind == "rights"),
            *(field.value for field in (embedded.fields if embedded else ()) if field.name in NAMING_FIELDS),
        ],
        "licensor": [*named, *(claim.value for claim in claims if claim.kind == "terms"), *givers],
        "text": list(texts),
    }


def said_of(evidence: Evidence) -> Said:
    """What a pair's evidence says of its picture; of grants those that are for its address, site or bytes."""
    return said(
        texts=(evidence.alt, evidence.caption),
        claims=evidence.licence_claims or (),
        embedded=evidence.embedded,
        givers=(grant.giver for grant in evidence.grants if grant.scope_kind != "creator"),
    )


def compared(text: str) -> str:
    """The form of a name or a text that its token is made of; what UTF-8 has no bytes for is replaced.

    Tokens are kept for good: another form would let in what those of before keep out.
    """
    return folded(text).encode("utf-8", "replace").decode()


def named_token(keys: KeyRing, named_kind: str, value: str) -> str:
    """The token of what a request names: the one of its tombstone, where there is one."""
    kind = _TOKEN_KINDS.get(named_kind, named_kind)
    return keys.token(kind, compared(value) if kind in HEARD_KINDS else value)
