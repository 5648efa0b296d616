"""A pair, what was fetched for it and what was measured: its Evidence. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from curation.fetch import Fetched
from curation.images import DecodeError, Shaped
from curation.pair import ImageTextPair, origin_of
from policy.errors import InputError
from policy.evidence import Document, Evidence, Headers, OriginEvidence, Score

OBSERVER = "custody"
QUARANTINE = "custody-quarantine/1"
WITHHELD_BY = "custody-withheld/1"
NOWHERE = "https://quarantined.invalid/"  # in the place of an address that is not kept; a name nobody has (RFC 6761)


def observe(
    pair: ImageTextPair,
    *,
    page: Fetched | None,
    page_meta: tuple[tuple[str, str], ...] | None,
    image: Fetched | None,
    origins: Mapping[str, OriginEvidence],
    facts: Shaped | DecodeError | None,
    tombstoned: str | None,
    now: datetime,
    page_rsl: tuple[tuple[str, str], ...] | None = None,
    declared: tuple[Document, ...] = (),
    observer_version: str = "0.1",
) -> Evidence:
    """Put together what was observed of one pair; what was not stays None.

    `page`, `page_meta`, `page_rsl`: the page's fetch and its `Page.meta` and `Page.rsl`, None where the page was not
    fetched. `declared`: the documents that were asked because somebody declared their address. `image`: the
    image's fetch, failed ones included; None where it was never asked for. `origins`: the documents of at least the
    origins in `origins_of(...)`, as far as they were asked. `facts`: what the decode pool made of the bytes.
    `tombstoned`: the removal whose tombstone matches, "" when asked and none does, None when not asked.
    """
    shaped = facts if isinstance(facts, Shaped) else None
    wanted = origins_of(pair, page, image)
    return Evidence(
        page_url=pair.page_url,
        image_url=pair.image_url,
        observed_at=now,
        observer=OBSERVER,
        observer_version=observer_version,
        origins=tuple(origins[origin] for origin in wanted if origin in origins),
        page_headers=_headers(page),
        page_meta=page_meta,
        page_rsl=page_rsl,
        declared=declared,
        # No hop at all is "no answer was seen", which must never read as "an answer without a reservation".
        hops=image.hops if image is not None and image.hops else None,
        # Claims are looked for on the page: one that was not asked may make some.
        licence_claims=pair.licence_claims or (() if page is not None or pair.page_url is None else None),
        alt=pair.alt,
        text_origin=pair.text_origin,
        tombstoned=tombstoned,
        refused_url=image.refused_url if image is not None else None,
        fetch_error=_fetch_error(image, facts),
        **_facts(shaped),
    )


# What is measured on a picture's bytes, by the names that `Shaped` and `Evidence` share.
_MEASURED = (
    *("content_sha256", "content_md5", "width", "height", "pdq", "faces", "face_detector", "faces_blurred"),
    *("transforms", "embedded", "c2pa"),
)
_OF_THE_PICTURE = (*_MEASURED, "hops", "refused_url", "fetch_error")


def _facts(shaped: Shaped | None) -> dict[str, Any]:
    unseen = {name: () if name == "transforms" else None for name in _MEASURED}
    return unseen if shaped is None else {name: getattr(shaped, name) for name in _MEASURED}


def observe_again(
    known: Evidence,
    *,
    page: Evidence | None = None,
    image: Fetched | None = None,
    facts: Shaped | DecodeError | None = None,
    origins: Mapping[str, OriginEvidence] | None = None,
    now: datetime | None = None,
) -> Evidence:
    """Evidence on record of which one half was observed anew: `page`, all that newer evidence of the same pair says of
    the page (its picture did not answer), or `image` with its `facts`, seen at `now` (its page was not asked).

    What was not asked again stays, with its age: the whole is as old as its older half. Origins that were asked since
    replace their like.
    """
    if page is not None:
        return replace(
            page,
            observed_at=min(known.observed_at, page.observed_at),
            origins=_merged(known.origins, {o.origin: o for o in page.origins}),
            **{name: getattr(known, name) for name in _OF_THE_PICTURE},
        )
    assert image is not None  # one of the two halves
    assert now is not None
    pair = ImageTextPair(known.page_url, known.image_url, known.alt, known.text_origin)
    newer = {o: origins[o] for o in origins_of(pair, None, image) if o in origins} if origins is not None else {}
    shaped = facts if isinstance(facts, Shaped) else None
    if shaped is None or (shaped.content_sha256, shaped.transforms) != (known.content_sha256, known.transforms):
        # What models said of other bytes, or of what was kept of them in another way, is not said of these.
        known = replace(known, caption=None, caption_score=None, **_NOTHING_SAID)
    return replace(
        known,
        observed_at=now if known.page_url is None else min(known.observed_at, now),
        origins=_merged(known.origins, newer),
        hops=image.hops or None,
        refused_url=image.refused_url,
        fetch_error=_fetch_error(image, facts),
        **_facts(shaped),
    )


# What the stages after the crawl say of a picture.
_NOTHING_SAID: dict[str, Any] = {"scores": (), "duplicate": None}


def without_picture(evidence: Evidence, why: str) -> Evidence:
    """Evidence whose picture is not the one that was meant: of that one nothing was measured, and `why` says so."""
    return replace(evidence, fetch_error=why, **_facts(None))


def quarantined(evidence: Evidence) -> Evidence:
    """What stays of the evidence of a picture that is on a hash list: its hashes, and when it was seen.

    By the hashes the lists go on naming it. Where no list does any more nothing else is known of it, which defers.
    """
    return Evidence(
        page_url=None,
        image_url=NOWHERE,
        observed_at=evidence.observed_at,
        observer=QUARANTINE,
        observer_version=evidence.observer_version,
        content_sha256=evidence.content_sha256,
        content_md5=evidence.content_md5,
        pdq=evidence.pdq,
        tombstoned=evidence.tombstoned,
    )


def withheld(page_url: str | None, image_url: str, content_sha256: str, likeness: Score, now: datetime) -> Evidence:
    """What stays of the evidence of a picture that is like a removed one: where it hangs, which bytes, how like it is.

    Somebody has to look at it there. Once it is let in the next crawl observes the rest, as if it had never been seen.
    """
    return Evidence(
        page_url=page_url,
        image_url=image_url,
        observed_at=now,
        observer=WITHHELD_BY,
        observer_version="",
        content_sha256=content_sha256,
        scores=(likeness,),
        tombstoned="",
    )


def _merged(known: tuple[OriginEvidence, ...], newer: Mapping[str, OriginEvidence]) -> tuple[OriginEvidence, ...]:
    names = dict.fromkeys((*(o.origin for o in known), *newer))
    old = {o.origin: o for o in known}
    return tuple(newer.get(name) or old[name] for name in names)


def origins_of(pair: ImageTextPair, page: Fetched | None = None, image: Fetched | None = None) -> tuple[str, ...]:
    """Every origin that has a say: the page's, the image's, and those of all redirects on the way, in that order."""
    urls = [pair.page_url, pair.image_url]
    for fetched in (page, image):
        if fetched is not None:
            urls += [hop.url for hop in fetched.hops] + [fetched.refused_url]
    return tuple(dict.fromkeys(_origins(url for url in urls if url is not None)))


def _origins(urls: Iterable[str]) -> Iterable[str]:
    for url in urls:
        try:
            yield origin_of(url)
        except InputError:
            continue  # a redirect to what is no URL has no origin to ask


def _headers(page: Fetched | None) -> Headers | None:
    """The headers of every hop to the page, in order: a reservation counts wherever it was said."""
    if page is None or not page.hops:
        return None
    return tuple(header for hop in page.hops for header in hop.headers)


def _fetch_error(image: Fetched | None, facts: Shaped | DecodeError | None) -> str | None:
    if image is not None and not image.ok:
        return image.outcome
    return f"decode-{facts.code}" if isinstance(facts, DecodeError) else None
