"""Recheck: what a standing yes rests on is asked again before it grows too old, and judged anew.

Of origins their documents, of pages their headers, hints and licences, of pictures the headers of every hop. What
answers replaces what is on record; what does not answer leaves it, and its age, as it is: the standing verdict stays
until the ruleset's age for that evidence is over. A "no" that is observed here ends new use from now on (a row of
`reservation`), and the same source's taking it back lifts it. Within an observation's age nothing is asked twice: what
is asked again is what has used up nine tenths of it, so that a regular recheck leaves no gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from curation.fetch import Fetched
from curation.observe import QUARANTINE
from curation.page_pool import ReadPage
from curation.pages import Page
from curation.pair import origin_of
from flows.home import Home, utc_now
from flows.stages import crawl
from flows.stages.crawling.asking import page_pool
from flows.stages.crawling.observer import Observer, observer_at
from flows.stages.crawling.recording import append_declared, append_origins
from flows.stages.crawling.rows import IMPORTED
from flows.stages.crawling.sources import UNSEEN
from flows.stages.decide import decide
from flows.stages.evidence import evidence_batches, newest_evidence
from flows.stages.parts import unit_id
from flows.terminal import Progress, silent
from policy.errors import InputError
from policy.evidence import Document, Evidence, LicenceClaim, OriginEvidence
from policy.ledger import Ledger
from policy.people import FACES
from policy.ruleset import Ruleset
from policy.signals import rsl
from policy.signals.places import asked_urls

OBSERVER = "custody-recheck/1"
DUE_SHARE = 0.9  # of an observation's age
SLICE = 5_000

# Whose sources are asked: what stands allowed, what was reserved (a later yes lifts it), and what waits for an answer.
_WAITING = """
SELECT pair_key FROM standing
WHERE verdict = 'allow'
   OR (verdict = 'defer' AND (reason_code IN ('evidence-stale', 'not-observed') OR reason_code LIKE '%-unreachable'))
   OR pair_key IN (SELECT pair_key FROM reserved)
ORDER BY pair_key
"""
_OF_DATASET = "SELECT DISTINCT pair_key FROM slot WHERE dataset = ? AND pair_key IS NOT NULL ORDER BY pair_key"
# Whether there is a picture whose newest fetch was somebody else's, or at which nobody has looked while it was refused.
_UNOBSERVED = f"""
SELECT count(*) FROM (
    SELECT url_key, outcome FROM "fetch" WHERE kind = 'image' AND url_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1
) WHERE outcome = $outcome OR url_key IN ({UNSEEN})
"""  # noqa: S608  # a query of ours
# A no that a recheck observed, of a rule that the pair passed before; and reservations whose source has taken it back.
_NEW_RESERVATIONS = """
WITH rechecked AS (SELECT pair_key, evidence_id FROM evidence WHERE observer = $observer),
places AS (SELECT DISTINCT pair_key, url_key FROM occurrence WHERE pair_key IS NOT NULL)
SELECT d.pair_key, p.url_key, d.rule, d.reason_code, 'reserved' AS state, d.evidence_id
FROM latest_decision d
JOIN rechecked USING (pair_key, evidence_id)
LEFT JOIN places p ON p.pair_key = d.pair_key
ANTI JOIN reserved r ON r.pair_key = d.pair_key AND r.mechanism = d.rule
WHERE d.verdict = 'deny' AND d.rule IN (SELECT unnest($rules::VARCHAR[]))
UNION ALL BY NAME
SELECT r.pair_key, r.url_key, r.mechanism AS rule, d.reason_code, 'lifted' AS state, d.evidence_id
FROM reserved r JOIN latest_decision d ON d.pair_key = r.pair_key AND d.rule = r.mechanism
WHERE d.verdict <> 'deny' AND d.reason_code <> 'not-asked' AND d.evidence_id <> r.evidence_id
ORDER BY ALL
"""
# The rules by which a source says no; a list of ours, a face or a size is not the source's word.
SOURCES = (
    *("robots", "ai_agents", "content_usage", "content_signal", "rsl", "tdmrep", "x_robots", "ai_txt", "trust_txt"),
    "licence",
)
_BY_DOCUMENT = {"robots": SOURCES[:5], "tdmrep": ("tdmrep",), "ai_txt": ("ai_txt",), "trust_txt": ("trust_txt",)}
_BY_RESPONSE = ("content_usage", "content_signal", "rsl", "tdmrep", "x_robots", "licence")


@dataclass(frozen=True, slots=True)
class RecheckSummary:
    """Origins, pages and pictures that were asked, those of them that did not answer, pairs looked at, pairs with new
    evidence and with changed decisions, and reservations made and lifted. `imported`: pictures that somebody else had
    fetched, or that were refused and not looked at, asked for by ourselves."""

    origins: int
    pages: int
    pictures: int
    unreachable: int
    pairs: int
    new_evidence: int
    changed: int
    reserved: int
    lifted: int
    imported: int = 0


def recheck(home: Home, progress: Progress = silent, *, dataset: str | None = None) -> RecheckSummary:
    """Ask the sources of every standing yes (or of a dataset's samples) again where it is due, and decide.

    What is appended is keyed by what was asked: a recheck that was killed is run again and asks what is still due.
    """
    imported = _observe_pictures(home, progress) if dataset is None else 0
    with home.ledger(readonly=True) as ledger:
        pairs = [p for (p,) in ledger.query(*((_OF_DATASET, [dataset]) if dataset is not None else (_WAITING,)))]
    observer, counts = observer_at(home), _Counts()
    for start in range(0, len(pairs), SLICE):
        chunk = pairs[start : start + SLICE]
        with home.ledger(readonly=True) as ledger:
            found = newest_evidence(ledger, chunk, bodies=True)
        evidence = {pair: e for pair, e in found.items() if e.observer != QUARANTINE}  # which has no source any more
        counts.new_evidence += _renew(home, observer, evidence, counts)
        progress(min(start + SLICE, len(pairs)), len(pairs), "recheck: ")
    decided = decide(home, progress)
    reserved, lifted = _reserve(home)
    return RecheckSummary(
        origins=len(counts.origins),
        pages=counts.pages,
        pictures=counts.pictures,
        unreachable=len(counts.silent),
        pairs=len(pairs),
        new_evidence=counts.new_evidence,
        changed=decided.changed,
        reserved=reserved,
        lifted=lifted,
        imported=imported,
    )


def _observe_pictures(home: Home, progress: Progress) -> int:
    """Ask for the pictures that others have fetched (headers, hops and the bytes that hang there now), and for those
    that nothing refuses any more and in which nobody has looked for faces.
    """
    with home.ledger(readonly=True) as ledger:
        [(waiting,)] = ledger.query(_UNOBSERVED, {"outcome": IMPORTED, "faces": FACES})
    return crawl.crawl(home, crawl.Job(again="unobserved"), progress).pictures if waiting else 0


@dataclass(slots=True)
class _Counts:
    origins: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    pages: int = 0
    pictures: int = 0
    new_evidence: int = 0


def _renew(home: Home, observer: Observer, evidence: Mapping[str, Evidence], counts: _Counts) -> int:
    """Ask what is due of some pairs and append their new evidence; how many have any."""
    now, rules = utc_now(), home.ruleset
    due = {o for e in evidence.values() for o in _due_origins(e, rules, now)}
    if due:
        observer.documents(due)
    responses = {pair: e for pair, e in evidence.items() if _is_due(e.observed_at, _age(rules, _BY_RESPONSE), now)}
    pages = _fetched(observer, "page", (e.page_url for e in responses.values()))
    pictures = _fetched(observer, "image", (e.image_url for e in responses.values()))
    fresh = observer.known()
    counts.origins |= due
    counts.pages, counts.pictures = counts.pages + len(pages), counts.pictures + len(pictures)
    asked = [*pages.values(), *pictures.values()]
    counts.silent |= {f.url for f in asked if not f.hops} | {
        o for o in due if any(not _answered(d) for _, d in fresh[o].documents)
    }
    read = _read(home, pages)
    newer = {
        pair: _with_origins(_with_responses(e, pages, pictures, read) if pair in responses else e, fresh)
        for pair, e in evidence.items()
    }
    licences = observer.declared(
        e for pair, e in newer.items() if e != evidence[pair] or _has_due_licence(e, rules, now)
    )
    if licences:
        newer = {pair: _with_declared(e, licences, rules) for pair, e in newer.items()}
    changed = [(p, replace(e, observer=OBSERVER)) for p, e in sorted(newer.items()) if e != evidence[p]]
    if not (changed or due):
        return 0
    with home.ledger() as ledger:
        key = f"recheck/{ledger.head()[0]}/{unit_id(*(p for p, _ in changed), *sorted(due))[:12]}"
        append_origins(ledger, key, {o: fresh[o] for o in due if o in fresh})
        append_declared(ledger, key, licences)
        event = {"kind": "recheck", "subject": None, "detail": key, "happened_at": now.replace(tzinfo=None)}
        ledger.append_many([*evidence_batches(ledger, changed, key, key), ("event", [event], f"{key}/event")])
    return len(changed)


# ── what is due ────────────────────────────────────────────────────────────────────────────────────────────────────


def _age(rules: Ruleset, mechanisms: Iterable[str]) -> timedelta | None:
    """The least age that counts among the mechanisms the ruleset names; None where it names none of them."""
    days = [getattr(rules.ages, m) for m in mechanisms if m in rules.mechanisms]
    return timedelta(days=min(days)) if days else None


def _is_due(observed_at: datetime, age: timedelta | None, now: datetime) -> bool:
    return age is not None and now - observed_at >= age * DUE_SHARE


def _due_origins(evidence: Evidence, rules: Ruleset, now: datetime) -> Iterator[str]:
    """Origins that have a say and a document that is due, or was never asked for."""
    for origin in dict.fromkeys(origin_of(url) for url in asked_urls(evidence)):
        known = evidence.origin(origin)
        for name in rules.origin_documents:
            document = known.get(name) if known is not None else None
            age = _age(rules, _BY_DOCUMENT[name])
            if document is None or not _answered(document) or _is_due(document.fetched_at, age, now):
                yield origin


def _has_due_licence(evidence: Evidence, rules: Ruleset, now: datetime) -> bool:
    age = _age(rules, ("rsl",))
    return any(not _answered(d) or _is_due(d.fetched_at, age, now) for d in evidence.declared)


# ── what was answered ──────────────────────────────────────────────────────────────────────────────────────────────


def _fetched(observer: Observer, kind: str, urls: Iterable[str | None]) -> dict[str, Fetched]:
    """The answers by URL. Of a picture the headers are wanted: its transfer ends with the first bytes of the body."""
    wanted = sorted({url for url in urls if url is not None})
    if kind == "page":
        return {f.url: f for f in observer.fetch(wanted, "page")}
    return {f.url: f for f in observer.fetch(wanted, "image", max_bytes=1)}


def _read(home: Home, pages: Mapping[str, Fetched]) -> dict[str, Page]:
    """What stands on the pages that answered; one that takes too much to read is as one that did not answer."""
    asked = ((url, f.body, f.final_url or url, _content_type(f)) for url, f in pages.items() if f.ok)
    with page_pool(with_links=False) as pool:
        return {str(url): result.page() for url, result in pool.read_all(asked) if isinstance(result, ReadPage)}


def _with_responses(
    evidence: Evidence, pages: Mapping[str, Fetched], pictures: Mapping[str, Fetched], read: Mapping[str, Page]
) -> Evidence:
    """The evidence with what answered in its place; as old as the older of what did and what did not."""
    picture = pictures.get(evidence.image_url)
    seen = picture is not None and picture.outcome in ("ok", "too-large")
    newer = evidence
    if picture is not None and seen:
        newer = replace(newer, hops=picture.hops)
    elif picture is not None and picture.hops:
        # No picture came; whatever its answer says of use is heard all the same.
        newer = replace(newer, hops=tuple(dict.fromkeys((*(newer.hops or ()), *picture.hops))))
    complete = seen
    if evidence.page_url is not None:
        answer, page = pages.get(evidence.page_url), read.get(evidence.page_url)
        claims = _claims(page, evidence.image_url) if page is not None else None
        if answer is not None and answer.hops:
            newer = replace(newer, page_headers=tuple(header for hop in answer.hops for header in hop.headers))
        if page is not None:
            newer = replace(newer, page_meta=page.meta, page_rsl=page.rsl)
        if claims is not None:
            newer = replace(newer, licence_claims=claims)
        complete = complete and claims is not None
    if newer == evidence and not complete:
        return evidence
    return replace(newer, observed_at=utc_now()) if complete else newer


def _claims(page: Page, image_url: str) -> tuple[LicenceClaim, ...] | None:
    """What the page says of this picture's licence now; None where the picture hangs there no more."""
    found = [pair.licence_claims for pair in page.pairs if image_url in (pair.image_url, *pair.alternates)]
    return tuple(dict.fromkeys(claim for claims in found for claim in claims)) if found else None


def _content_type(fetched: Fetched) -> str | None:
    kinds = [v for h in fetched.hops[-1:] for n, v in h.headers if n.lower() == "content-type"]
    return kinds[-1] if kinds else None


def _with_origins(evidence: Evidence, fresh: Mapping[str, OriginEvidence]) -> Evidence:
    """The evidence with every origin that has a say, in the order it was asked."""
    known = {o.origin: o for o in evidence.origins}
    names = dict.fromkeys((*known, *_origins(asked_urls(evidence))))
    merged = (_merged(known.get(name), fresh.get(name)) for name in names)
    return replace(evidence, origins=tuple(o for o in merged if o is not None))


def _origins(urls: Sequence[str]) -> Iterator[str]:
    for url in urls:
        try:
            yield origin_of(url)
        except InputError:
            continue


def _merged(known: OriginEvidence | None, fresh: OriginEvidence | None) -> OriginEvidence | None:
    """What answered replaces what is known; what did not answer leaves it, and its age, as it is."""
    if known is None or fresh is None:
        return known or fresh
    old, new = dict(known.documents), dict(fresh.documents)
    names = [*old, *(name for name in new if name not in old)]
    return OriginEvidence(known.origin, tuple((n, _newer(old.get(n), new.get(n))) for n in names))


def _with_declared(evidence: Evidence, fresh: Mapping[str, Document], rules: Ruleset) -> Evidence:
    """The evidence with the documents that it declares now, each as it answered last."""
    known = {d.url: d for d in evidence.declared}
    urls = rsl.declared_urls(evidence, rules.robots)
    documents = (_newer(known.get(url), fresh.get(url)) for url in urls if url in known or url in fresh)
    return replace(evidence, declared=tuple(documents))


def _newer(old: Document | None, new: Document | None) -> Document:
    if new is None or (old is not None and _answered(old) and not _answered(new)):
        assert old is not None  # one of the two holds this name
        return old
    return new


def _answered(document: Document) -> bool:
    return document.status is not None and document.status < 500 and document.status != 429


# ── reservations ───────────────────────────────────────────────────────────────────────────────────────────────────


def _reserve(home: Home) -> tuple[int, int]:
    """Record the noes that rechecks observed, and those that were taken back; (reserved, lifted).

    It follows from what the ledger holds, so a run that was killed before it is made good by the next.
    """
    with home.ledger() as ledger:
        rows = _new_reservations(ledger)
        if rows:
            ledger.append("reservation", rows, key=f"reservation/{ledger.head()[0]}")
    states = [row["state"] for row in rows]
    return states.count("reserved"), states.count("lifted")


def _new_reservations(ledger: Ledger) -> list[dict[str, object]]:
    names = ("pair_key", "url_key", "mechanism", "reason_code", "state", "evidence_id")
    now = utc_now().replace(tzinfo=None)
    found = ledger.query(_NEW_RESERVATIONS, {"observer": OBSERVER, "rules": list(SOURCES)})
    return [dict(zip(names, row, strict=True)) | {"observed_at": now} for row in found]
