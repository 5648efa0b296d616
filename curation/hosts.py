"""What an origin says of itself: robots.txt, tdmrep.json and the like, asked once, kept a day; and what others declare.

Whatever comes of asking is a `Document`: a text, an observed absence (its status), or an origin that did not answer
(`error`). What each means is policy's business.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from curation.fetch import Fetched, Request, Transport, open_gate
from curation.pair import origin_of
from policy.errors import BusyError, ConfigurationError
from policy.evidence import ORIGIN_DOCUMENTS, Document, OriginEvidence
from policy.lock import FileLock
from policy.signals.origin_document import sniffs_as_html

REFRESH_AFTER = timedelta(hours=24)
RETRY_UNREACHABLE_AFTER = timedelta(hours=1)
# A copy stands in for an origin that does not answer this long (RFC 9309, 2.4 and 2.3.1.4).
KEEP_WHILE_UNREACHABLE = timedelta(days=30)
# Where a document is looked for when it is not at its own place.
ELSEWHERE: Mapping[str, str] = {"trust_txt": "/trust.txt"}

# Outcomes after which asking the same origin for its next document would only wait in vain.
_ORIGIN_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "forbidden-address", "origin-down"})
# So many are asked for at once: each is an open lock file meanwhile.
_BATCH = 128
_WAIT_S = 600.0

Key = TypeVar("Key")


# ── who asks ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Claims(Protocol):
    """Sees to it that of all who want the same documents at the same time one asks for them."""

    def take(self, name: str, *, wait_s: float) -> Callable[[], None] | None:
        """Claim a name, trying for so long: what gives it back, or None where somebody else holds it."""


class NoClaims:
    """For a cache that nobody else knows of."""

    def take(self, name: str, *, wait_s: float) -> Callable[[], None] | None:
        return _nothing


def _nothing() -> None: ...


class FileClaims:
    """Claims among the threads and processes that share a directory: a lock file a name, gone with its holder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, name: str, *, wait_s: float) -> Callable[[], None] | None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.lock"
        try:
            return FileLock(path, exclusive=True, wait_s=wait_s).release
        except BusyError:
            return None


# ── asking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Documents(ABC):
    """What asking for an origin's own documents and for declared ones has in common.

    `silences`: by a document's address, the newest request that nobody answered while an older copy counts.
    """

    def __init__(
        self, transport: Transport, claims: Claims | None, silences: MutableMapping[str, Document] | None
    ) -> None:
        self.transport = transport
        self.claims = claims if claims is not None else NoClaims()
        self.silences = silences if silences is not None else {}
        self.fetched: list[Fetched] = []

    def take_fetched(self) -> list[Fetched]:
        """What was fetched since the last call: rows for the ledger."""
        fetched, self.fetched = self.fetched, []
        return fetched

    def _refresh(self, names: Sequence[str], now: datetime) -> None:
        """Ask for what is due; for what somebody else is asking for, wait for what comes of it."""
        for start in range(0, len(names), _BATCH):
            due = [name for name in names[start : start + _BATCH] if self._is_due(name, now)]
            for name in self._ask_claimed(due, now, wait_s=0):
                if self._ask_claimed((name,), now, wait_s=_WAIT_S):
                    self._ask((name,), now)  # whoever asks hangs: two requests are better than none

    def _ask_claimed(self, names: Sequence[str], now: datetime, *, wait_s: float) -> list[str]:
        """Ask for those that can be claimed and are still due; the rest."""
        held: dict[str, Callable[[], None]] = {}
        try:
            for name in names:
                if (release := self.claims.take(name, wait_s=wait_s)) is not None:
                    held[name] = release
            # Asked anew: somebody may have been quicker, and have gone since.
            if due := tuple(name for name in held if self._is_due(name, now)):
                self._ask(due, now)
        finally:
            for release in held.values():
                release()
        return [name for name in names if name not in held]

    @abstractmethod
    def _is_due(self, name: str, now: datetime) -> bool:
        """Whether what goes by this name is unknown, or has to be asked for again."""

    @abstractmethod
    def _ask(self, names: tuple[str, ...], now: datetime) -> None:
        """Ask for these now, and keep what comes of it."""

    def _answers(self, asked: Mapping[str, Key], down: dict[str, str], now: datetime) -> Iterator[tuple[Key, Document]]:
        """Every address that is asked for with what came of it; an origin that is down is asked for nothing more."""
        # Lazily, so that an origin that failed meanwhile is not asked for the rest.
        requests = (Request(url, "document") for url in asked if origin_of(url) not in down)
        answered = set()
        for fetched in self.transport.fetch_all(requests, gate=open_gate):
            answered.add(fetched.url)
            self.fetched.append(fetched)
            if fetched.outcome in _ORIGIN_FAILURES:
                down[origin_of(fetched.url)] = fetched.outcome
            yield asked[fetched.url], document_of(fetched, now)
        for url in asked.keys() - answered:
            yield asked[url], Document(url, None, now, error=down[origin_of(url)])

    def _due(self, known: Document | None, url: str, now: datetime) -> bool:
        silence = self.silences.get(url)
        last = silence if silence is not None and known is not None and silence.fetched_at > known.fetched_at else known
        if last is None or last.error == "forbidden-address":
            return True  # our own settings' refusal, which may have been changed meanwhile; the origin was not bothered
        return now - last.fetched_at >= (RETRY_UNREACHABLE_AFTER if _unanswered(last) else REFRESH_AFTER)

    def _renew(self, known: Document | None, answer: Document, url: str) -> Document | None:
        """The document to keep from now on, None where the one that is known still counts."""
        kept = renewed(known, answer)
        silence = self.silences.get(url)
        if kept is known:
            since = silence.since or silence.fetched_at if silence is not None else None
            self.silences[url] = replace(answer, since=since)
            return None
        if silence is not None:
            del self.silences[url]
        return kept


class OriginDocuments(_Documents):
    """Asks origins for the documents named, through the transport (addresses checked, no policy gate).

    `cache` holds what is known, by origin: the caller may fill it from the ledger, and finds the new there.
    Redirects are followed across hosts, five at most (RFC 9309, 2.3.1.2).
    """

    def __init__(
        self,
        transport: Transport,
        names: Sequence[str] = ("robots",),
        cache: MutableMapping[str, OriginEvidence] | None = None,
        *,
        claims: Claims | None = None,
        silences: MutableMapping[str, Document] | None = None,
    ) -> None:
        super().__init__(transport, claims, silences)
        if unknown := sorted(set(names) - ORIGIN_DOCUMENTS.keys()):
            known = ", ".join(ORIGIN_DOCUMENTS)
            raise ConfigurationError(f"unknown documents: {', '.join(unknown)}", remedy=f"Known are {known}")
        # robots.txt first: when the origin does not answer for it, the others need not be waited for.
        self.names = tuple(sorted(dict.fromkeys(names), key=lambda name: name != "robots"))
        self.cache = cache if cache is not None else {}

    def for_origins(self, origins: Iterable[str], now: datetime) -> dict[str, OriginEvidence]:
        """The documents of each origin, asked now where they are unknown or stale."""
        wanted = tuple(dict.fromkeys(origins))
        self._refresh(wanted, now)
        return {origin: self.cache[origin] for origin in wanted if origin in self.cache}

    def _is_due(self, origin: str, now: datetime) -> bool:
        return any(self._document_is_due(origin, name, now) for name in self.names)

    def _ask(self, origins: tuple[str, ...], now: datetime) -> None:
        down: dict[str, str] = {}
        for names in (self.names[:1], self.names[1:]):
            asked = {
                origin + ORIGIN_DOCUMENTS[name]: (origin, name)
                for origin in origins
                for name in names
                if self._document_is_due(origin, name, now)
            }
            absent: dict[tuple[str, str], Document] = {}
            for (origin, name), document in self._answers(asked, down, now):
                if name in ELSEWHERE and _is_absent(document):
                    absent[origin, name] = document
                else:
                    self._keep(origin, name, document)
            elsewhere = {origin + ELSEWHERE[name]: (origin, name) for origin, name in absent}
            for (origin, name), document in self._answers(elsewhere, down, now):
                self._keep(origin, name, absent[origin, name] if _is_absent(document) else document)

    def _document_is_due(self, origin: str, name: str, now: datetime) -> bool:
        return self._due(self._known(origin, name), origin + ORIGIN_DOCUMENTS[name], now)

    def _known(self, origin: str, name: str) -> Document | None:
        evidence = self.cache.get(origin)
        return evidence.get(name) if evidence is not None else None

    def _keep(self, origin: str, name: str, answer: Document) -> None:
        kept = self._renew(self._known(origin, name), answer, origin + ORIGIN_DOCUMENTS[name])
        if kept is not None:
            evidence = self.cache.get(origin, OriginEvidence(origin))
            documents = {**dict(evidence.documents), name: kept}
            self.cache[origin] = replace(evidence, documents=tuple(documents.items()))


class DeclaredDocuments(_Documents):
    """Asks for documents whose addresses somebody declared (RSL licences), each once however many declare it.

    They are asked for as an origin's own documents are, without regard to robots.txt: who declares a licence asks for
    it to be read. `cache` holds what is known, by address.
    """

    def __init__(
        self,
        transport: Transport,
        cache: MutableMapping[str, Document] | None = None,
        *,
        claims: Claims | None = None,
        silences: MutableMapping[str, Document] | None = None,
    ) -> None:
        super().__init__(transport, claims, silences)
        self.cache = cache if cache is not None else {}

    def for_urls(self, urls: Iterable[str], now: datetime) -> dict[str, Document]:
        """The document at each address, asked for now where it is unknown or stale."""
        wanted = tuple(dict.fromkeys(urls))
        self._refresh(wanted, now)
        return {url: self.cache[url] for url in wanted if url in self.cache}

    def _is_due(self, url: str, now: datetime) -> bool:
        return self._due(self.cache.get(url), url, now)

    def _ask(self, urls: tuple[str, ...], now: datetime) -> None:
        for url, document in self._answers({url: url for url in urls}, {}, now):
            if (kept := self._renew(self.cache.get(url), document, url)) is not None:
                self.cache[url] = kept


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def renewed(known: Document | None, answer: Document) -> Document:
    """What is to be kept of an answer and the document that is known: `known` itself where it still counts.

    A copy outlives a silence of 30 days, with its own date; policy judges its age. "Not modified" confirms the copy.
    `since` goes on from answer to equal answer, and from silence to silence.
    """
    if known is None:
        return answer
    silent, was_silent = _unanswered(answer), _unanswered(known)
    if silent and not was_silent:
        within = answer.fetched_at - known.fetched_at <= KEEP_WHILE_UNREACHABLE
        return known if within else replace(answer, since=known.fetched_at)
    if answer.status == 304 and not was_silent:
        return replace(known, fetched_at=answer.fetched_at, since=known.since or known.fetched_at)
    if (silent and was_silent) or _said(answer) == _said(known):
        return replace(answer, since=known.since or known.fetched_at)
    return answer


def _said(document: Document) -> tuple[int | None, str | None, str | None, bool]:
    return document.status, document.body_sha256, document.error, document.truncated


def document_of(fetched: Fetched, now: datetime) -> Document:
    """What asking for a document came to. A body is kept of a complete answer, or of one cut at the size limit."""
    headers = fetched.hops[-1].headers if fetched.hops else ()
    truncated = fetched.outcome == "too-large" and bool(fetched.body)
    if fetched.ok or truncated:
        return Document(
            url=fetched.url,
            status=fetched.status,
            fetched_at=fetched.started_at or now,
            headers=headers,
            body=fetched.body,
            body_sha256=Document.digest(fetched.body),
            truncated=truncated,
        )
    answered = fetched.outcome.startswith("http-")
    return Document(
        url=fetched.url,
        status=fetched.status if answered else None,
        fetched_at=fetched.started_at or now,
        headers=headers if answered else (),
        error=None if answered else fetched.outcome,
    )


def _unanswered(document: Document) -> bool:
    return document.status is None or document.status == 429 or document.status >= 500


def _is_absent(document: Document) -> bool:
    """Not at this address: 404, 410, or the HTML page that the site shows for whatever it does not have."""
    html = document.body is not None and sniffs_as_html(document.body)
    return document.status in (404, 410) or (document.status in (200, 203) and html)
