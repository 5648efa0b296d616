"""What is in force while a crawl runs: its tombstones, and the pictures that come back as other bytes.

Both are files, looked at before every address that is asked and every picture that is kept: an approval counts from the
next one on, not from the next unit on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from curation.images import Shaped, decode
from curation.near_embedding import Embedder, NearEmbedder, VectorCache, Vectors
from curation.recognition import Recognised, Recogniser, is_plain, views_of
from flows.home import Home
from flows.stages.crawling.rows import said_in
from flows.stages.parts import part_groups
from flows.stages.removing.suppressing import recogniser_of
from policy.errors import IntegrityError
from policy.evidence import LicenceClaim
from policy.ledger import Ledger
from policy.names import said
from policy.suppression import SUPPRESSION_FILE, Suppression
from policy.tombstones import StandingTombstones, Tombstones

# Why a picture, or an address, leaves nothing on record; the last: a name or text says that it is what was removed.
TOMBSTONED, COPY, NAMED = "tombstoned", "tombstoned-copy", "tombstoned-name"
REMOVED = frozenset({TOMBSTONED, COPY, NAMED})
WITHHELD = "withheld"  # the outcome of a picture that waits for a person, since it is like a removed one
EMBEDDED_AT_ONCE = 32  # pictures: what the model makes of fewer takes as long
VECTORS_AT_ONCE = 2_048  # embeddings between two files of them

_State = tuple[int, int, int] | None


class InForce:
    """The tombstones and the suppression list, as their files are at the moment of asking."""

    def __init__(self, home: Home, tombstones: Tombstones, suppression: Suppression) -> None:
        self._home, self._begun = home, tombstones
        self._standing = StandingTombstones(home.tombstones_path, tombstones)
        self._path = home.tombstones_path / SUPPRESSION_FILE
        self._state, self._suppression = _state(self._path), suppression
        self._recogniser: Recogniser | None = recogniser_of(home, suppression.marks()) if suppression else None

    @classmethod
    def at(cls, home: Home, ledger: Ledger, before: Self | None = None) -> Self:
        """As they are now, held against the ledger. `before`: what was in force; nothing new leaves it as it is.

        Raises IntegrityError where a file is not the one that the ledger knows.
        """
        tombstones, suppression = home.tombstones(ledger), home.suppression(ledger)
        if before is not None and (before._begun, before._suppression) == (tombstones, suppression):
            return before
        return cls(home, tombstones, suppression)

    @property
    def tombstones(self) -> Tombstones:
        """Those that are in force at this moment. Raises IntegrityError where the file is lost or damaged."""
        return self._standing.now()

    @property
    def epochs(self) -> tuple[int, int]:
        """Of the tombstones and of the suppression list: what is judged by both may be judged otherwise by others."""
        self._look()
        return self.tombstones.epoch, self._suppression.epoch

    @property
    def embeds(self) -> bool:
        """Whether pictures have to be embedded: while nothing was removed none need be."""
        self._look()
        return self._recogniser is not None and self._recogniser.embeds

    def is_copy(self, content_sha256: str, pdq: str | None) -> bool:
        """Whether a picture's hash is that of a copy of a removed one, and nobody has let it in."""
        self._look()
        if self._recogniser is None or self._recogniser.by_hash([pdq])[0] is None:
            return False
        return not self._suppression.is_spared(content_sha256)

    def alike(self, pictures: Sequence[Shaped], embedder: Embedder) -> tuple[list[Recognised | None], Vectors]:
        """What each of these pictures is like, by the embedding of what is kept of it; and their embeddings."""
        views = views_of([decode(picture.jpeg) for picture in pictures], embedder)
        recogniser = self._recogniser
        found = recogniser.by_views(views) if recogniser is not None else [None] * len(pictures)
        let_in = [is_plain(one.pdq_quality) or self._suppression.is_spared(one.content_sha256) for one in pictures]
        return [None if is_in else like for is_in, like in zip(let_in, found, strict=True)], views.own

    def _look(self) -> None:
        state = _state(self._path)
        if state == self._state:
            return
        suppression = Suppression.load(self._home.tombstones_path, keys=self._home.keys)
        if suppression.epoch < self._suppression.epoch:
            raise IntegrityError(
                "the suppression list was there, and is gone or older",
                where=str(self._path),
                remedy="Restore the file from its copy before anything else runs",
            )
        self._recogniser = recogniser_of(self._home, suppression.marks()) if suppression else None
        self._suppression, self._state = suppression, state


def is_said(tombstones: Tombstones, row: Mapping[str, Any]) -> bool:
    """Whether a pair's row says of its picture that it is somebody's, or shows in words, what was removed."""
    return tombstones.hears and tombstones.covers_said(said_in(row), url=row["image_url"]) is not None


def is_said_on_page(tombstones: Tombstones, pair: Mapping[str, Any]) -> bool:
    """The same of a pair as `curation.pages.page_json` writes it."""
    if not tombstones.hears:
        return False
    claims = (LicenceClaim(**claim) for claim in pair["licence_claims"])
    return tombstones.covers_said(said(texts=(pair["alt"],), claims=claims), url=pair["image_url"]) is not None


def said_urls(tombstones: Tombstones, pairs: Path) -> frozenset[str]:
    """The pictures of which a file of pairs says so."""
    if not tombstones.hears:
        return frozenset()
    groups = part_groups(pairs, ["image_url", "alt", "claims_json"])
    return frozenset(row["image_url"] for rows in groups for row in rows if is_said(tombstones, row))


def _state(path: Path) -> _State:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class Embedded:
    """Embeddings that were made on the way, kept for whoever looks for near duplicates later."""

    def __init__(self, home: Home, embedder: Callable[[], Embedder] = NearEmbedder) -> None:
        self._home, self._made = home, embedder
        self._embedder: Embedder | None = None
        self._contents: list[str] = []
        self._vectors: list[bytes] = []

    @property
    def embedder(self) -> Embedder:
        """The packaged model, loaded with its first picture."""
        self._embedder = self._embedder or self._made()
        return self._embedder

    def add(self, content_sha256: str, vector: bytes) -> None:
        """Keep the embedding of a picture that is kept."""
        self._contents.append(content_sha256)
        self._vectors.append(vector)
        if len(self._contents) >= VECTORS_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Write what was added. Raises OSError."""
        if self._contents:
            import numpy as np

            vectors = np.frombuffer(b"".join(self._vectors), np.int8).reshape(len(self._contents), -1)
            VectorCache(self._home.vectors_path, self.embedder.digest).add(self._contents, vectors)
            self._contents, self._vectors = [], []
