"""What an origin says of itself: robots.txt, tdmrep.json and the like, asked once, kept a day.

Whatever comes of asking is a `Document`: a text, an observed absence (its status), or an origin that did not answer
(`error`). What each means is policy's business.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from curation.fetch import Fetched, Request, Transport, open_gate
from policy.errors import ConfigurationError
from policy.evidence import ORIGIN_DOCUMENTS, Document, OriginEvidence

REFRESH_AFTER = timedelta(hours=24)
RETRY_UNREACHABLE_AFTER = timedelta(hours=1)
# A copy stands in for an origin that does not answer this long (RFC 9309, 2.4 and 2.3.1.4).
KEEP_WHILE_UNREACHABLE = timedelta(days=30)

# Outcomes after which asking the same origin for its next document would only wait in vain.
_ORIGIN_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "forbidden-address", "origin-down"})


class OriginDocuments:
    """Asks origins for the documents named, through the transport (addresses checked, no policy gate).

    `cache` holds what is known, by origin: the caller may fill it from the ledger, and finds the new there.
    Redirects are followed across hosts, five at most (RFC 9309, 2.3.1.2).
    """

    def __init__(
        self,
        transport: Transport,
        names: Sequence[str] = ("robots",),
        cache: MutableMapping[str, OriginEvidence] | None = None,
    ) -> None:
        if unknown := sorted(set(names) - ORIGIN_DOCUMENTS.keys()):
            known = ", ".join(ORIGIN_DOCUMENTS)
            raise ConfigurationError(f"unknown documents: {', '.join(unknown)}", remedy=f"Known are {known}")
        # robots.txt first: when the origin does not answer for it, the others need not be waited for.
        self.names = tuple(sorted(dict.fromkeys(names), key=lambda name: name != "robots"))
        self.transport = transport
        self.cache = cache if cache is not None else {}
        self.fetched: list[Fetched] = []

    def for_origins(self, origins: Iterable[str], now: datetime) -> dict[str, OriginEvidence]:
        """The documents of each origin, asked now where they are unknown or stale."""
        wanted = tuple(dict.fromkeys(origins))
        down: dict[str, str] = {}
        for names in (self.names[:1], self.names[1:]):
            self._ask(wanted, names, now, down)
        return {origin: self.cache[origin] for origin in wanted if origin in self.cache}

    def take_fetched(self) -> list[Fetched]:
        """What was fetched since the last call: rows for the ledger."""
        fetched, self.fetched = self.fetched, []
        return fetched

    def _ask(self, origins: tuple[str, ...], names: tuple[str, ...], now: datetime, down: dict[str, str]) -> None:
        asked = {
            origin + ORIGIN_DOCUMENTS[name]: (origin, name)
            for origin in origins
            for name in names
            if self._is_due(self._known(origin, name), now)
        }
        # Lazily, so that an origin that failed meanwhile is not asked for the rest.
        requests = (Request(url, "document") for url, (origin, _) in asked.items() if origin not in down)
        answered = set()
        for fetched in self.transport.fetch_all(requests, gate=open_gate):
            origin, name = asked[fetched.url]
            answered.add(fetched.url)
            self.fetched.append(fetched)
            self._keep(origin, name, document_of(fetched, now))
            if fetched.outcome in _ORIGIN_FAILURES:
                down[origin] = fetched.outcome
        for url in asked.keys() - answered:
            origin, name = asked[url]
            self._keep(origin, name, Document(url, None, now, error=down[origin]))

    def _known(self, origin: str, name: str) -> Document | None:
        evidence = self.cache.get(origin)
        return evidence.get(name) if evidence is not None else None

    def _is_due(self, known: Document | None, now: datetime) -> bool:
        if known is None or known.error == "forbidden-address":
            return True  # our own settings' refusal, which may have been changed meanwhile; the origin was not bothered
        return now - known.fetched_at >= (RETRY_UNREACHABLE_AFTER if _unanswered(known) else REFRESH_AFTER)

    def _keep(self, origin: str, name: str, document: Document) -> None:
        known = self._known(origin, name)
        if (
            known is not None
            and _unanswered(document)
            and not _unanswered(known)
            and document.fetched_at - known.fetched_at <= KEEP_WHILE_UNREACHABLE
        ):
            return  # the older copy counts, with its own date; policy judges its age
        evidence = self.cache.get(origin, OriginEvidence(origin))
        documents = {**dict(evidence.documents), name: document}
        self.cache[origin] = replace(evidence, documents=tuple(documents.items()))


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
