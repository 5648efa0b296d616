"""Captions for pictures without alt text: the nearest of texts that are known, never words made up.

A `RetrievalCaptioner` asks CLIP which text of a bank fits a picture best. A text enters the bank from a named phrase
list, or from the ledger's alt texts when several registrable domains use it: that keeps private names, and texts that
one site has planted, out. Every answer says where its text came from and which model gave it which score.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from curation.clip_model import Embeddings, Rgb, best_matches, normalised_text, texts_digest
from policy.durable import write_durably
from policy.errors import ConfigurationError, StorageError
from policy.provenance import canonical_json

CAPTION_ORIGIN: Final = "clip-retrieval"
LEDGER: Final = "ledger"
LIST: Final = "list"
MAX_CHARS: Final = 200

# What sites write under pictures whatever they show. It comes from many domains, so their number does not stop it.
_BOILERPLATE: Final = re.compile(
    r"""
    \b(?:click|tap|press)\s+(?:here|to|for|on)\b | \bopens?\s+in\s+(?:a\s+)?new\b | \b(?:read|learn|see|show)\s+more\b
    | \b(?:share|follow|like)\s+(?:\w+\s+)?(?:on|us)\b | \bsubscribe\b | \bsign\s*(?:in|up)\b | \blog\s*(?:in|out|o)\b
    | \ball\s+rights\s+reserved\b | \bcopyright\b | © | \bcookies?\b | \badvert(?:isement|ising)?\b | \bsponsored\b
    | \b(?:photo|image|picture|illustration)\s*(?:by|credit|courtesy|source|from|may\s+contain|not\s+available)\b
    | \bplaceholder\b | \bloading\b | \bthumbnail\b | \bavatar\b | \bprofile\s+(?:photo|picture|image)\b
    | \bgo\s+back\b | \bback\s+to\s+top\b | \bskip\s+to\b | \bhome\s*page\b | \b(?:next|previous)\s+(?:page|slide)\b
    | https?:// | \bwww\. | @ | \.(?:jpe?g|png|gif|webp|svg)\b
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class BankEntry:
    """One occurrence of a text. `source`: who it comes from, as it shall stand beside a caption that uses it.

    `source_kind`: "list" (a named phrase list) or "ledger" (an allowed alt text). `origins`: the registrable domains
    it was seen on; lists need none.
    """

    text: str
    source: str
    source_kind: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BankText:
    """A text of the bank with everything it stands on."""

    text: str
    sources: tuple[str, ...]
    source_kind: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaptionBank:
    """The texts that captions are chosen from, each once, in the order of their normalised form."""

    entries: tuple[BankText, ...]
    digest: str

    @classmethod
    def build(
        cls,
        entries: Iterable[BankEntry],
        *,
        min_origins: int,
        is_tombstoned: Callable[[str], bool] = lambda text: False,
    ) -> CaptionBank:
        """Merge equal texts; leave out what is tombstoned, and of the ledger's what is boilerplate or too rarely used.

        min_origins: how many registrable domains must use an alt text. is_tombstoned: asked of every text, in each
        spelling it was found in.
        """
        if min_origins < 1:
            raise ConfigurationError(f"bank_min_origins must be at least 1, not {min_origins}", where="policy.toml")
        found: defaultdict[str, list[BankEntry]] = defaultdict(list)
        for entry in entries:
            if entry.source_kind not in (LEDGER, LIST):
                raise ConfigurationError(f"unknown source kind {entry.source_kind!r}", where=entry.source)
            found[normalised_text(entry.text)].append(entry)
        texts = []
        for plain, group in sorted(found.items()):
            if not plain or len(plain) > MAX_CHARS or any(is_tombstoned(text) for text in {e.text for e in group}):
                continue
            # A list vouches for its texts alone: what only adds to it is no source of the caption.
            listed = [entry for entry in group if entry.source_kind == LIST]
            group = listed or group
            origins = tuple(sorted({origin for entry in group for origin in entry.origins}))
            if not listed and (len(origins) < min_origins or is_boilerplate(plain)):
                continue
            sources = tuple(sorted({entry.source for entry in group}))
            texts.append(BankText(_usual_spelling(group), sources, group[0].source_kind, origins))
        return cls(tuple(texts), texts_digest([text.text for text in texts]))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(entry.text for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def is_boilerplate(text: str) -> bool:
    """Whether a text is about the page rather than the picture, or names no word at all."""
    plain = normalised_text(text)
    return sum(map(str.isalpha, plain)) < 3 or _BOILERPLATE.search(plain) is not None


def _usual_spelling(group: Sequence[BankEntry]) -> str:
    spellings = Counter(" ".join(entry.text.split()) for entry in group)
    return min(spellings, key=lambda text: (-spellings[text], text))


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """The best text for one picture. `score`: cosine; `margin`: by how much the second best text is behind.

    `kept`: whether the score reaches the threshold. `sources`: everyone the text comes from, for the day one of them
    is removed.
    """

    text: str
    sources: tuple[str, ...]
    source_kind: str
    score: float
    margin: float
    kept: bool
    model_digest: str
    bank_digest: str
    origin: str = CAPTION_ORIGIN

    @property
    def source(self) -> str:
        """The sources as one line."""
        return ",".join(self.sources)


class Captioner(Protocol):
    """Anything that gives pictures a text and says how sure it is."""

    threshold: float

    def caption_images(self, pictures: Sequence[Rgb]) -> list[CaptionResult]:
        """[H, W, 3] uint8 pictures -> one result each, in their order."""


class Encoder(Protocol):
    """What the captioner needs of a CLIP; `curation.clip_model.ClipModel` is one."""

    digest: str

    def encode_images(self, pictures: Sequence[Rgb]) -> Embeddings: ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings: ...


class RetrievalCaptioner:
    """The text of the bank that CLIP finds nearest, kept from `threshold` (a cosine) on.

    templates: a text is embedded as the mean over them ("{}" stands for it), which helps CLIPs that learnt from
    sentences. cache_dir: where the bank's embeddings are kept between processes, one file a model; a bank that
    changed, because a text was removed from it, replaces it.
    """

    def __init__(
        self,
        clip: Encoder,
        bank: CaptionBank,
        *,
        threshold: float | None,
        cache_dir: Path | None = None,
        templates: tuple[str, ...] = ("{}",),
    ) -> None:
        if threshold is None:
            raise ConfigurationError(
                "there is no score from which on a caption of this CLIP is kept",
                where="[captions]",
                remedy="Set threshold (a cosine: about 0.3 for ViT-B/32), or use a CLIP that was calibrated",
            )
        if not len(bank):
            raise ConfigurationError("the caption bank is empty", where="[captions]", remedy="Name a phrase list")
        if not templates or any("{}" not in template for template in templates):
            raise ConfigurationError('a template without "{}"', where="[captions]")
        self.clip, self.bank, self.threshold, self.templates = clip, bank, threshold, templates
        self._embeddings = self._cached(cache_dir) if cache_dir else self._embed()

    def caption_images(self, pictures: Sequence[Rgb]) -> list[CaptionResult]:
        """[H, W, 3] uint8 pictures -> the bank's best text for each."""
        matches = best_matches(self.clip.encode_images(pictures), self._embeddings)
        results = []
        for index, score, margin in zip(matches.index, matches.cosine, matches.margin, strict=True):
            entry = self.bank.entries[int(index)]
            results.append(
                CaptionResult(
                    text=entry.text,
                    sources=entry.sources,
                    source_kind=entry.source_kind,
                    score=float(score),
                    margin=float(margin),
                    kept=bool(score >= self.threshold),
                    model_digest=self.clip.digest,
                    bank_digest=self.bank.digest,
                )
            )
        return results

    def rank(self, pictures: Sequence[Rgb], top: int) -> list[list[tuple[BankText, float]]]:
        """The `top` texts of the bank for each picture, best first, with their cosines."""
        cosines = self.clip.encode_images(pictures) @ self._embeddings.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        return [
            [(self.bank.entries[int(i)], float(row[i])) for i in chosen]
            for row, chosen in zip(cosines, best, strict=True)
        ]

    def _embed(self) -> Embeddings:
        total = sum(
            self.clip.encode_texts([template.replace("{}", text) for text in self.bank.texts])
            for template in self.templates
        )
        normalised: Embeddings = np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True), dtype=np.float32)
        return normalised

    def _cached(self, folder: Path) -> Embeddings:
        model = hashlib.sha256(self.clip.digest.encode()).hexdigest()[:16]
        inputs = canonical_json([self.bank.digest, list(self.templates)])
        path = folder / f"bank-{model}-{hashlib.sha256(inputs.encode()).hexdigest()[:32]}.npy"
        known = _read(path, len(self.bank))
        if known is not None:
            return known
        embeddings = self._embed()
        _store(path, embeddings)
        for outdated in folder.glob(f"bank-{model}-*.npy"):
            if outdated != path:
                outdated.unlink(missing_ok=True)
        return embeddings


def _read(path: Path, rows: int) -> Embeddings | None:
    """Cached embeddings, or None where there are none that can be used: they are then computed again."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.ndim == 2 and len(found) == rows and found.dtype == np.float32 and bool(np.isfinite(found).all())
    return found if whole else None


def _store(path: Path, embeddings: Embeddings) -> None:
    buffer = io.BytesIO()
    np.save(buffer, embeddings, allow_pickle=False)
    try:
        write_durably(path, buffer.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write ({error.strerror})", where=str(path)) from error
