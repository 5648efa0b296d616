"""The policy alone, offline: `custody inspect judge`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.images import DecodeError, DecodeLimits, read_header
from curation.pages import read_page
from curation.pair import canonical_url
from flows.home import Home
from flows.stages.crawling.observer import trust_anchors
from policy.errors import InputError
from policy.evidence import Evidence, RegistryAnswer
from policy.judge import ImageFacts, Readers, judge_line
from policy.registries import Registries
from policy.ruleset import Ruleset
from policy.signals.c2pa import read_c2pa
from policy.signals.embedded import read_embedded


def judge_lines(lines: Iterable[str], policy_file: Path | None, home: Home | None = None) -> Iterator[dict[str, Any]]:
    """Judge JSON lines one by one; a line that is no case answers {"error": …} and the rest goes on.

    `home`: whose imported lists are asked and whose C2PA trust anchors are believed; None: none and nobody's.

    Raises:
        ConfigurationError: the policy file cannot be used.
    """
    ruleset = Ruleset.load(policy_file) if policy_file is not None else Ruleset.default()
    readers = READERS
    if home is not None:
        image = functools.partial(_read_image, anchors=trust_anchors(home))
        readers = replace(readers, image=image, registries=_asked(home.registries()))
    for line in lines:
        if line.strip():
            yield judge_line(line, ruleset, readers)


def _asked(lists: Registries) -> Callable[[Evidence], tuple[RegistryAnswer, ...]]:
    """The lists, asked by canonical URLs, as the crawler writes them; a line may spell an address in any way."""

    def answers(evidence: Evidence) -> tuple[RegistryAnswer, ...]:
        page = None if evidence.page_url is None else _canonical(evidence.page_url)
        hops = None if evidence.hops is None else tuple(replace(hop, url=_canonical(hop.url)) for hop in evidence.hops)
        return lists.answers_for(replace(evidence, image_url=_canonical(evidence.image_url), page_url=page, hops=hops))

    return answers


def _canonical(url: str) -> str:
    try:
        return canonical_url(url)
    except InputError:
        return url


def _read_image(path: str, anchors: str | None = None) -> ImageFacts:
    try:
        body = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the file cannot be read ({reason})", where="image.path") from error
    width, height = _size(body)
    return ImageFacts(
        hashlib.sha256(body).hexdigest(),
        hashlib.md5(body, usedforsecurity=False).hexdigest(),
        read_embedded(body),
        read_c2pa(body, anchors),
        width,
        height,
    )


def _size(body: bytes) -> tuple[int | None, int | None]:
    """Width and height as displayed; None of what does not decode."""
    try:
        header = read_header(body, DecodeLimits())
    except DecodeError:
        return None, None
    return header.width, header.height


READERS = Readers(read_page, _read_image)
