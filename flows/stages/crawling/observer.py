"""The network as a crawl sees it: the fetcher behind the gate of tombstones, lists and the origins' documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

from curation.crawler import Crawler, Wanted
from curation.duplicates import MIN_QUALITY
from curation.fetch import FetchConfig, Fetched, Fetcher, Request
from curation.hosts import DeclaredDocuments, FileClaims, OriginDocuments
from curation.images import Shaped
from curation.pair import canonical_url, origin_of, secret_in_url
from flows.home import Home, utc_now
from flows.stages.crawling.recognising import COPY, NAMED, TOMBSTONED, InForce
from flows.stages.origins import DocumentFiles, OriginFiles
from policy.errors import ConfigurationError, InputError
from policy.evidence import Document, Evidence, OriginEvidence
from policy.grants import Grants
from policy.ledger import Ledger
from policy.names import said
from policy.registries import Registries
from policy.ruleset import Ruleset
from policy.signals import registry, robots, rsl
from policy.signals.c2pa import check_trust_anchors
from policy.signals.places import asked_urls
from policy.verdict import Judgement, Stance, Verdict


def trust_anchors(home: Home) -> str | None:
    """The certificates of [images] c2pa_trust_anchors in PEM; None trusts nobody. A relative path is the home's.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    named = home.settings.images.c2pa_trust_anchors
    if not named:
        return None
    file, where = home.path / named, f"{home.settings_path}, images.c2pa_trust_anchors"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigurationError(
            f"{file} cannot be read ({told})", where=where, remedy='Name a PEM file, or "" to trust nobody'
        ) from error
    try:
        check_trust_anchors(text)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}", where=where) from error
    return text


OBSERVER = "custody-crawl/1"


class Observer:
    """The network as one unit sees it: the fetcher behind the gate of tombstones, lists and the origins' documents."""

    def __init__(
        self,
        fetcher: Fetcher,
        origins: OriginDocuments,
        ruleset: Ruleset,
        in_force: InForce,
        agent: str,
        registries: Registries | None = None,
        grants: Grants | None = None,
        declared: DeclaredDocuments | None = None,
    ) -> None:
        self.ruleset, self.in_force = ruleset, in_force
        self.registries, self.grants = registries or Registries(), grants or Grants()
        self._origins, self._agent, self._declared = origins, agent, declared
        self._known: dict[str, OriginEvidence] = {}
        self._said: set[str] = set()
        self._crawler = Crawler(
            fetcher,
            origins,
            gate=self.gate,
            kept_out=self.kept_out,
            now=utc_now,
            known=self._known,
            crawl_delay=lambda document: robots.crawl_delay(document, agent, ruleset.robots),
            delay_s=fetcher.config.per_origin_delay_s,
            crawl_delay_max_s=fetcher.config.crawl_delay_max_s,
        )

    def fetch(
        self, urls: Iterable[str], kind: Literal["page", "image"], max_bytes: int | None = None
    ) -> Iterator[Fetched]:
        """Ask each URL once, its origin's documents before it; each redirect target's before it is contacted."""
        return self.ask(Request(url, kind, max_bytes) for url in urls)

    def ask(self, requests: Iterable[Request | Wanted | None], *, wake: int | None = None) -> Iterator[Fetched]:
        """Ask as `fetch` does, in one stream in which no origin waits for another; None: nothing at the moment.

        `wake`: a descriptor; when it is readable there may be something to ask again. Of an origin that is `Wanted` the
        documents are asked, and nothing else.
        """
        for fetched in self._crawler.fetch_all(requests, wake=wake):
            self._origins.take_fetched()  # documents stand in the cache; what came of asking for them is not kept twice
            yield fetched

    def renew(self, home: Home, ledger: Ledger) -> None:
        """Hear what was asked to go, listed or granted since: from now on it counts."""
        self.in_force, self.grants = InForce.at(home, ledger, self.in_force), home.grants(ledger)
        if registry.MECHANISM in self.ruleset.mechanisms:
            self.registries = home.registries(ledger)

    def gate(self, url: str) -> str | None:
        """Why a URL may not be contacted as far as its origin says so, whose documents are known; or None."""
        origin = self._known[origin_of(url)]
        if "robots" not in self.ruleset.mechanisms:
            return None
        judged = robots.may_fetch(origin.get("robots"), url, self._agent, utc_now(), self.ruleset.robots)
        if judged.verdict in (None, Verdict.ALLOW) or self._is_let_in(url, judged):
            return None
        return judged.reason.code

    def kept_out(self, url: str) -> str | None:
        """Why a canonical URL is out whatever its origin says."""
        if self.in_force.tombstones.covers_url(url):
            return TOMBSTONED
        if url in self._said:
            return NAMED
        return "registry-listed" if self.registries.covers_url(url) else None

    def keep_out(self, urls: Iterable[str]) -> None:
        """Ask none of these pictures: whoever shows them says that they are somebody's, or what, was removed."""
        self._said.update(urls)

    def keeps_out(self, picture: Shaped) -> str | None:
        """Why a picture is never kept: a removal or a list names its bytes, or it is a removed one's copy; or None."""
        if self.in_force.tombstones.covers_content(picture.content_sha256):
            return TOMBSTONED
        if self.in_force.is_copy(picture.content_sha256, picture.pdq if picture.pdq_quality >= MIN_QUALITY else None):
            return COPY
        if self.in_force.tombstones.covers_said(said(embedded=picture.embedded), content=picture.content_sha256):
            return NAMED
        answers = self.registries.answers(sha256=picture.content_sha256, md5=picture.content_md5, pdq=picture.pdq)
        return "registry-listed" if any(answer.match for answer in answers) else None

    def _is_let_in(self, url: str, judged: Judgement) -> bool:
        """Whether who runs the site has agreed, whatever its robots.txt says; silence is no answer to that."""
        said_no = any(signal.stance is Stance.DENY for signal in judged.signals)
        return said_no and self.grants.may_fetch(canonical_url(url), robots.MECHANISM, utc_now())

    def known(self) -> Mapping[str, OriginEvidence]:
        """What the origins asked so far say of themselves."""
        return self._known

    def documents(self, origins: Iterable[str]) -> dict[str, OriginEvidence]:
        """What these origins say of themselves, asked once each (and not again within 24 hours)."""
        wanted = sorted(set(origins) - self._known.keys())
        if wanted:
            self._known |= self._origins.for_origins(wanted, utc_now())
        return dict(self._known)

    def declared(self, seen: Iterable[Evidence]) -> dict[str, Document]:
        """The licence documents that this evidence declares, by address, asked once each (and again after 24 hours)."""
        return self.ask_declared({url for evidence in seen for url in self.declared_in(evidence)})

    def declared_in(self, evidence: Evidence) -> set[str]:
        """The addresses of the licence documents that this evidence declares, together with its origins' robots.txt."""
        if self._declared is None or rsl.MECHANISM not in self.ruleset.mechanisms:
            return set()
        if not evidence.origins:
            about = dict.fromkeys(origin_of(url) for url in asked_urls(evidence))
            known = self.known()
            evidence = replace(evidence, origins=tuple(known[origin] for origin in about if origin in known))
        return set(rsl.declared_urls(evidence, self.ruleset.robots))

    def declared_by(self, fetched: Fetched) -> set[str]:
        """The addresses of the licence documents that an answer declares, or its origins' robots.txt: mostly none."""
        if self._declared is None or rsl.MECHANISM not in self.ruleset.mechanisms:
            return set()
        origins = {origin_of(url) for url in (fetched.url, *(hop.url for hop in fetched.hops))}
        if not (
            fetched.refused_url is not None
            or any(rsl.link_in(hop.headers) for hop in fetched.hops)
            or any(rsl.speaks_of_licences(self._known[origin]) for origin in origins if origin in self._known)
        ):
            return set()
        return self.declared_in(seen_alone(fetched))

    def ask_declared(self, urls: Iterable[str]) -> dict[str, Document]:
        """What stands at these addresses, as far as they may be contacted."""
        if self._declared is None:
            return {}
        return self._declared.for_urls(sorted(url for url in urls if self._may_be_read(url)), utc_now())

    def _may_be_read(self, url: str) -> bool:
        """Whether a declared address may be contacted: a web address without secrets, that nothing keeps out."""
        try:
            canonical = canonical_url(url)
            return secret_in_url(canonical) is None and self.kept_out(canonical) is None
        except InputError:
            return False


def seen_alone(fetched: Fetched, rsl: tuple[tuple[str, str], ...] | None = None) -> Evidence:
    """A page or a picture by itself, as far as it may declare licence documents."""
    return Evidence(
        page_url=None,
        image_url=fetched.url,
        observed_at=fetched.started_at or utc_now(),
        observer=OBSERVER,
        observer_version="",
        page_rsl=rsl,
        hops=fetched.hops,
    )


def fetch_config(home: Home) -> FetchConfig:
    """How the fetcher presents and bounds itself, as custody.toml says."""
    settings = home.settings.crawl
    return FetchConfig(
        product=home.product,
        contact=settings.contact or None,
        allow_addresses=settings.allow_addresses,
        concurrency=settings.concurrency,
        per_origin_concurrency=settings.concurrency_per_origin,
        per_address_concurrency=settings.concurrency_per_address,
        per_origin_delay_s=settings.delay_per_origin_s,
        crawl_delay_max_s=settings.crawl_delay_max_s,
        retries=settings.retries,
        retry_after_max_s=settings.retry_after_max_s,
        deadline_s=settings.deadline_s,
        min_rate_bytes_per_s=settings.min_rate_bytes_s,
        max_redirects=settings.max_redirects,
        max_page_bytes=settings.max_page_bytes,
        max_image_bytes=settings.max_image_bytes,
        max_document_bytes=home.ruleset.robots.max_bytes,
        ca_file=_ca_file(home),
    )


def _ca_file(home: Home) -> Path | None:
    """The file of [crawl] ca_file; a relative path is the home's. Raises ConfigurationError."""
    named = home.settings.crawl.ca_file
    if not named:
        return None
    file = home.path / named
    if not file.is_file():
        raise ConfigurationError(
            f"{file} is no file",
            where=f"{home.settings_path}, crawl.ca_file",
            remedy='Name a file of certificates (PEM), or "" for those of the system',
        )
    return file


def observer_at(home: Home, ledger: Ledger | None = None) -> Observer:
    """An observer as the home sets it up: rules, tombstones, lists, grants; origins are asked again after 24 hours.

    `ledger`: the one that the caller has open, if any.
    """
    fetcher = Fetcher(fetch_config(home))
    silences = DocumentFiles(home.silences_path)
    origins = OriginDocuments(
        fetcher,
        home.ruleset.origin_documents,
        OriginFiles(home.origins_path),
        claims=FileClaims(home.origins_path),
        silences=silences,
    )
    declared = DeclaredDocuments(
        fetcher, DocumentFiles(home.declared_path), claims=FileClaims(home.declared_path), silences=silences
    )
    with home.ledger(readonly=True) if ledger is None else nullcontext(ledger) as opened:
        in_force, grants = InForce.at(home, opened), home.grants(opened)
        registries = home.registries(opened) if registry.MECHANISM in home.ruleset.mechanisms else None
    return Observer(fetcher, origins, home.ruleset, in_force, home.product, registries, grants, declared)
