"""What an origin says of itself: robots.txt, tdmrep.json and the like, asked once, kept a day; and what others declare.

Whatever comes of asking is a `Document`: a text, an observed absence (its status), or an origin that did not answer
(`error`). What each means is policy's business.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from curation.fetch import Fetched, Request, Transport, open_gate, validators
from curation.pair import origin_of
from policy.errors import BusyError, ConfigurationError, StorageError
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
# So many are asked for at once.
_BATCH = 128
_WAIT_S = 600.0

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
    """Claims among the threads and processes that share a directory, gone with their holder.

    A claim is the lock of one byte of one file, which need not be that long (fcntl(2), open file description locks): a
    lock file an origin would cost ten times what the lock does. Where there are none of those, it is a lock file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._held: set[int] = set()  # by this object: the lock itself is another's only
        self._threads = threading.Lock()

    def take(self, name: str, *, wait_s: float) -> Callable[[], None] | None:
        place = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if not hasattr(fcntl, "F_OFD_SETLK"):
            return self._take_file(place.hex(), wait_s)
        byte, until = int.from_bytes(place[:8], "big") >> 2, time.monotonic() + wait_s
        while not self._try(byte):
            if (left_s := until - time.monotonic()) <= 0:
                return None
            time.sleep(min(_POLL_S, left_s))
        return partial(self._release, byte)

    def _try(self, byte: int) -> bool:
        with self._threads:
            if byte in self._held:
                return False
            try:
                fcntl.fcntl(self._opened(), fcntl.F_OFD_SETLK, _lock_of(fcntl.F_WRLCK, byte))
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody else's
                return False
            except OSError as error:
                what = f"it cannot be locked ({error.strerror or error})"
                raise StorageError(what, where=str(self._directory), remedy="Keep the home on a local disk") from error
            self._held.add(byte)
            return True

    def _release(self, byte: int) -> None:
        with self._threads:
            if byte in self._held:
                self._held.remove(byte)
                fcntl.fcntl(self._opened(), fcntl.F_OFD_SETLK, _lock_of(fcntl.F_UNLCK, byte))

    def _opened(self) -> int:
        if self._descriptor is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._directory / "claims.lock", os.O_RDWR | os.O_CREAT, 0o600)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor

    def _take_file(self, name: str, wait_s: float) -> Callable[[], None] | None:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(self._directory / f"{name}.lock", exclusive=True, wait_s=wait_s).release
        except BusyError:
            return None


_POLL_S = 0.05


def _lock_of(kind: int, byte: int) -> bytes:
    """struct flock: one byte from the file's beginning, of no process."""
    return struct.pack("hhqqi", kind, os.SEEK_SET, byte, 1, 0)


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

    def is_due(self, origin: str, now: datetime) -> bool:
        """Whether some document of an origin is unknown, or has to be asked for again."""
        return any(self._document_is_due(origin, name, now) for name in self.names)

    def inquiry(self, origin: str, now: datetime) -> Inquiry:
        """What has to be asked of an origin, step by step, for who fetches it among other things (a claim held)."""
        return Inquiry(self, origin, now)

    def _is_due(self, name: str, now: datetime) -> bool:
        return self.is_due(name, now)

    def _ask(self, names: tuple[str, ...], now: datetime) -> None:
        inquiries = [self.inquiry(origin, now) for origin in names]
        waiting = deque((request, inquiry) for inquiry in inquiries for request in inquiry.first())
        on_the_way: dict[int, Inquiry] = {}

        def requests() -> Iterator[Request | None]:
            while waiting or on_the_way:
                if waiting:
                    request, inquiry = waiting.popleft()
                    on_the_way[id(request)] = inquiry
                    yield request
                else:
                    yield None

        for fetched in self.transport.fetch_all(requests(), gate=open_gate):
            inquiry = on_the_way.pop(id(fetched.request))
            waiting.extend((request, inquiry) for request in inquiry.answered(fetched))

    def _document_is_due(self, origin: str, name: str, now: datetime) -> bool:
        return self._due(self.known(origin, name), origin + ORIGIN_DOCUMENTS[name], now)

    def known(self, origin: str, name: str) -> Document | None:
        """A document as it is known now, however old."""
        evidence = self.cache.get(origin)
        return evidence.get(name) if evidence is not None else None

    def keep(self, origin: str, answers: Mapping[str, Document]) -> None:
        """Keep what an origin answered, all of it in one go: a kill leaves all or nothing."""
        evidence = self.cache.get(origin, OriginEvidence(origin))
        documents = dict(evidence.documents)
        for name, answer in answers.items():
            if (kept := self._renew(documents.get(name), answer, origin + ORIGIN_DOCUMENTS[name])) is not None:
                documents[name] = kept
        # In one order, whichever answered first: what is the same is to be the same evidence.
        ordered = tuple((name, documents[name]) for name in ORIGIN_DOCUMENTS if name in documents)
        if ordered != evidence.documents:
            self.cache[origin] = replace(evidence, documents=ordered)


class Inquiry:
    """Asking one origin for those of its documents that are due: robots.txt first, and if it answers for the rest.

    Each answer may bring the next requests; with the last one everything is kept, and `done`. What the transport is
    given are these very requests: it hands them back with their answers.
    """

    def __init__(self, documents: OriginDocuments, origin: str, now: datetime) -> None:
        self.origin, self.done = origin, False
        self._documents, self._now = documents, now
        self._due = [n for n in documents.names if documents._document_is_due(origin, n, now)]
        self._asked: dict[int, tuple[str, Request]] = {}  # by id(request)
        self._absent: dict[str, Document] = {}
        self._answers: dict[str, Document] = {}

    def first(self) -> list[Request]:
        """What to ask for to begin with; nothing where nothing is due."""
        names, first = self._due, self._documents.names[:1]
        now_asked = [n for n in names if n in first] or names
        self._due = [n for n in names if n not in now_asked]
        if not now_asked:
            self.done = True
        return [self._request(name, ORIGIN_DOCUMENTS[name]) for name in now_asked]

    def robots(self) -> Document | None:
        """robots.txt as far as it is known by now."""
        return self._answers.get("robots") or self._documents.known(self.origin, "robots")

    def answered(self, fetched: Fetched) -> list[Request]:
        """What to ask for next, after this answer."""
        name, _ = self._asked.pop(id(fetched.request))
        self._documents.fetched.append(fetched)
        document, following = document_of(fetched, self._now), []
        if name in self._absent:
            document = self._absent[name] if _is_absent(document) else document
        elif name in ELSEWHERE and _is_absent(document):
            self._absent[name] = document
            following.append(self._request(name, ELSEWHERE[name]))
        if not following:
            self._answers[name] = document
        if fetched.outcome in _ORIGIN_FAILURES:
            for left in self._due:
                url = self.origin + ORIGIN_DOCUMENTS[left]
                self._answers[left] = Document(url, None, self._now, error=fetched.outcome)
        else:
            following += [self._request(left, ORIGIN_DOCUMENTS[left]) for left in self._due]
        self._due = []
        if not self._asked:
            self._documents.keep(self.origin, self._answers)
            self.done = True
        return following

    def _request(self, name: str, path: str) -> Request:
        request = request_for(self.origin + path, self._documents.known(self.origin, name))
        self._asked[id(request)] = name, request
        return request


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

    def _ask(self, names: tuple[str, ...], now: datetime) -> None:
        down: dict[str, str] = {}
        # Lazily, so that an origin that failed meanwhile is not asked for the rest.
        requests = (request_for(url, self.cache.get(url)) for url in names if origin_of(url) not in down)
        unanswered = dict.fromkeys(names)
        for fetched in self.transport.fetch_all(requests, gate=open_gate):
            del unanswered[fetched.url]
            self.fetched.append(fetched)
            if fetched.outcome in _ORIGIN_FAILURES:
                down[origin_of(fetched.url)] = fetched.outcome
            self._keep(fetched.url, document_of(fetched, now))
        for url in unanswered:
            self._keep(url, Document(url, None, now, error=down[origin_of(url)]))

    def _keep(self, url: str, answer: Document) -> None:
        if (kept := self._renew(self.cache.get(url), answer, url)) is not None:
            self.cache[url] = kept


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def request_for(url: str, known: Document | None) -> Request:
    """How a document is asked for: where a whole copy is known only if it has changed, and past every gate."""
    has_copy = known is not None and known.url == url and known.status in (200, 203) and known.body is not None
    if known is None or not has_copy or known.truncated:
        return Request(url, "document", gated=False)
    return Request(url, "document", headers=validators(known.headers), gated=False)


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
    """What asking for a document came to. A body is kept of a complete answer, or of one cut at the size limit.

    The headers are those of every hop: a redirect among them says that the copy is no answer about the address itself.
    """
    headers = tuple(header for hop in fetched.hops for header in hop.headers)
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
    answered = fetched.outcome.startswith("http-") or fetched.outcome == "not-modified"
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
