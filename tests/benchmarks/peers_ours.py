"""Our side of the comparison: what loopback really answers, fetched by our fetcher, judged by the public judge."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from curation.fetch import FetchConfig, Fetched, Fetcher, Request, open_gate
from curation.fingerprints import pdq
from curation.hosts import OriginDocuments
from curation.images import decode
from flows.stages.judge import READERS
from policy.evidence import ORIGIN_DOCUMENTS, Document, OriginEvidence
from policy.judge import ImageFacts, judge_line
from policy.registries import ImportedList, Registries, keys_of, url_value, write_keys
from policy.ruleset import Ruleset
from policy.signals.c2pa import read_c2pa
from tests.benchmarks.peers_cases import IMAGE_PATH, PAGE_PATH, Case, Listed, Right
from tests.benchmarks.peers_images import trusted_root
from tests.benchmarks.peers_site import Answer, Origin, Web

# Every mechanism that the cases are about; each is asked in each case.
MECHANISMS = (
    *("robots", "ai_agents", "content_usage", "content_signal", "rsl", "tdmrep", "x_robots", "ai_txt", "trust_txt"),
    *("xmp", "c2pa", "registry"),
)
_RIGHTS: Mapping[str, Right] = {"deny": "no", "defer": "wait", "unset": "nothing", "allow": "yes"}
_WEIGHT = ("unset", "allow", "defer", "deny")


@dataclass(frozen=True, slots=True)
class Placed:
    """A case on the web: where its image and its page are, and the image's bytes."""

    case: Case
    image_url: str
    page_url: str
    body: bytes
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Ours:
    """Our answer: of all mechanisms together, of the case's own, and the judge's whole line."""

    together: Right
    own: Right
    line: Mapping[str, Any]


def place(web: Web, cases: Sequence[Case]) -> tuple[Placed, ...]:
    """Put every case on an origin of its own; to be called before the web opens."""
    return tuple(_place(web, case) for case in cases)


def _place(web: Web, case: Case) -> Placed:
    path = f"{IMAGE_PATH}.{case.extension}"
    media_type = f"image/{'jpeg' if case.extension == 'jpg' else case.extension}"
    origin = web.origin(case.documents)
    neighbours: list[Origin] = []
    body = case.image(origin.url)
    image = Answer(body, headers=case.image_headers, media_type=media_type)
    if case.hop is None:
        origin.answers[path] = image
    else:
        target = web.origin({**case.target_documents, path: image})
        origin.target = target.url
        origin.answers[path] = Answer(status=302, headers=(*case.hop, ("Location", f"{{target}}{path}")))
        neighbours.append(target)
    pages = origin
    if case.page_documents is not None:
        pages = web.origin(case.page_documents)
        neighbours.append(pages)
    html = f'<!DOCTYPE html><html><head>{case.head}</head><body><img src="{origin.url}{path}" alt="x"></body></html>'
    pages.answers[PAGE_PATH] = Answer(html.encode(), headers=case.page_headers, media_type="text/html; charset=utf-8")
    return Placed(case, origin.url + path, pages.url + PAGE_PATH, body, (origin, *neighbours))


def judge_all(placed: Sequence[Placed], folder: Path) -> list[Ours]:
    """Fetch and judge every case, in order; `folder` is for the images and the imported lists."""
    addresses = tuple(origin.address for one in placed for origin in one.origins)
    # Whatever fails here fails on purpose: the second attempt comes at once.
    fetcher = Fetcher(FetchConfig(allow_addresses=addresses, retry_base_s=0.01))
    try:
        now = datetime.now(UTC)
        urls = [url for one in placed for url in (one.image_url, one.page_url)]
        wanted = (Request(url, "image" if IMAGE_PATH in url else "page") for url in urls)
        fetched = {answer.url: answer for answer in fetcher.fetch_all(wanted, gate=open_gate)}
        documents = OriginDocuments(fetcher, tuple(ORIGIN_DOCUMENTS))
        known = documents.for_origins((origin.url for one in placed for origin in one.origins), now)
        later = [one for one in placed if one.case.later is not None]
        for one in later:
            one.origins[0].answers.update(one.case.later or {})
        known |= documents.for_origins((one.origins[0].url for one in later), now + timedelta(hours=25))
    finally:
        fetcher.close()
    return [_judge(number, one, fetched, known, folder, now) for number, one in enumerate(placed)]


def _judge(
    number: int,
    one: Placed,
    fetched: Mapping[str, Fetched],
    known: Mapping[str, OriginEvidence],
    folder: Path,
    now: datetime,
) -> Ours:
    case, image, page = one.case, fetched[one.image_url], fetched[one.page_url]
    path = folder / f"{number}.{case.extension}"
    path.write_bytes(image.body)
    at = now - timedelta(days=case.days_ago)
    line = {
        "url": one.image_url,
        "page_url": one.page_url,
        "mechanisms": MECHANISMS,
        "origins": {
            origin.url: {name: _document(document, at) for name, document in known[origin.url].documents}
            for origin in one.origins
        },
        "page": {
            "headers": [pair for hop in page.hops for pair in hop.headers],
            "html": page.body.decode(),
        },
        "image": {"hops": [hop.headers for hop in image.hops], "path": str(path)},
        "now": now.isoformat(),
        **_digests(image.body, case),
    }
    readers = replace(READERS, image=_read_image, registries=_registries(one, folder, now).answers_for)
    answer = judge_line(json.dumps(line), _ruleset(case.required), readers)
    verdicts = {d["mechanism"]: d["verdict"] for d in answer["decisions"]}
    return Ours(_RIGHTS[max(verdicts.values(), key=_WEIGHT.index)], _RIGHTS[verdicts[case.mechanism]], answer)


def _document(document: Document, at: datetime) -> dict[str, object]:
    body = base64.b64encode(document.body or b"").decode()
    said = {"status": document.status, "body_base64": body, "fetched_at": at.isoformat(), "error": document.error}
    return {key: value for key, value in said.items() if value is not None or key == "status"}


def _digests(body: bytes, case: Case) -> dict[str, str]:
    digests = {
        "sha256": hashlib.sha256(body).hexdigest(),
        "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
    }
    asked_by_pdq = case.listed is not None and case.listed.kind == "pdq"
    return {**digests, "pdq": pdq(decode(body))[0]} if asked_by_pdq else digests


def _read_image(path: str) -> ImageFacts:
    """As `inspect judge` reads a file, with one signer whom the operator trusts."""
    return replace(READERS.image(path), c2pa=read_c2pa(Path(path).read_bytes(), trusted_root()))


@functools.cache
def _ruleset(required: str) -> Ruleset:
    """The ruleset that Custody brings along; with a list that it requires, where one is named."""
    lists = f'["{required}"]' if required else "[]"
    return Ruleset.parse(Ruleset.default_text().replace("\nrequired = []", f"\nrequired = {lists}"))


def _registries(one: Placed, folder: Path, now: datetime) -> Registries:
    """The list that the case's operator imported, in a real key file; it is good for 30 days."""
    listed = one.case.listed
    if listed is None:
        return Registries()
    value = _listed_value(one, listed) if listed.names_it else "//c.example/other.jpg"
    name = f"list-{hashlib.sha256(one.image_url.encode()).hexdigest()[:8]}"
    written = write_keys(folder, name, listed.kind, [keys_of(listed.kind, [value])])
    dated = now - timedelta(days=listed.days_old)
    row = ImportedList(name, listed.kind, written.sha256, written.rows, dated, 30, now)
    return Registries.load(folder, [row])


def _listed_value(one: Placed, listed: Listed) -> str:
    """What the list holds that names the case; of a PDQ hash 20 bits are others."""
    if listed.kind in ("url", "domain"):
        return url_value(one.image_url) if listed.kind == "url" else "127.0.0.1"
    digest = _digests(one.body, one.case)[listed.kind]
    return f"{int(digest, 16) ^ 0xFFFFF:064x}" if listed.kind == "pdq" else digest
