"""The caption bank of a home: the ledger's allowed texts and custody.toml's phrase lists, and what of it still stands.

The ledger is grouped in SQL and read in batches; the bank is an Arrow file. Which texts a removal has taken away is
asked twice: when the bank is built, and again of every text that is about to be given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from curation.caption_bank import LEDGER, LIST, BankEntry, BankText, CaptionBank, check_min_origins
from curation.clip_model import normalised_text
from flows.home import Home
from policy.errors import ConfigurationError
from policy.ledger import Ledger
from policy.origins import host_of, site_of
from policy.tombstones import Tombstones

if TYPE_CHECKING:
    import pyarrow as pa

# A text that thousands of pages use needs no more of them to be in the bank; sites take turns in being named.
MOST_SOURCES = 64

_AUTHORITY = "regexp_extract(page_url, '^[a-z]+://([^/?#]+)', 1)"
_AUTHORITIES = f"SELECT DISTINCT {_AUTHORITY} FROM occurrence WHERE page_url IS NOT NULL"  # noqa: S608  # ours
_OWN_TEXT = "caption_origin IN ('alt', 'figcaption', 'title')"
# Who says which text, less what a removal has taken away: read twice, found once.
_TEXTS = f"""
WITH site AS (SELECT unnest($authorities::VARCHAR[]) AS authority, unnest($sites::VARCHAR[]) AS site),
said AS MATERIALIZED (
    SELECT trim(regexp_replace(caption, '\\s+', ' ', 'g')) AS spelling, pair_key, site.site
    FROM trainable JOIN site ON site.authority = {_AUTHORITY}
    WHERE {_OWN_TEXT} AND NOT list_contains($removed::VARCHAR[], pair_key)
), used AS (
    SELECT lower(spelling) AS plain FROM said GROUP BY plain HAVING count(DISTINCT site) >= $min_origins
), named AS (
    SELECT lower(spelling) AS plain, spelling, pair_key, site,
        row_number() OVER (PARTITION BY lower(spelling), site ORDER BY pair_key) AS turn,
        count(*) OVER (PARTITION BY spelling) AS uses
    FROM said SEMI JOIN used ON used.plain = lower(said.spelling)
)
SELECT arg_min(spelling, (-uses, spelling)) AS text,
    list(pair_key ORDER BY turn, pair_key)[:{MOST_SOURCES}] AS pairs,
    list(DISTINCT site ORDER BY site) AS sites
FROM named GROUP BY plain ORDER BY plain
"""  # noqa: S608  # names of ours
_CARRIED = f"SELECT DISTINCT caption FROM trainable WHERE {_OWN_TEXT}"  # noqa: S608  # ours
_WHOSE = f"SELECT pair_key, page_url, image_url, content_sha256, sample_key FROM trainable WHERE {_OWN_TEXT}"  # noqa: S608  # ours
# A pair without a row was erased.
_SOURCES = """
SELECT DISTINCT c.pair_key, o.page_url, o.image_url, c.content_sha256, c.sample_key
FROM caption c JOIN occurrence o USING (pair_key) WHERE c.pair_key IN (SELECT unnest(?::VARCHAR[]))
"""


def build_bank(home: Home, path: Path | None = None) -> CaptionBank:
    """The bank as the ledger, the tombstones and the phrase lists have it now, in an Arrow file.

    Raises:
        ConfigurationError: it is empty, or a phrase list cannot be read.
    """
    min_origins = home.ruleset.bank_min_origins
    check_min_origins(min_origins)
    file = path or bank_path(home)
    with home.ledger(readonly=True) as ledger:
        listed = list_entries(home, ledger)
        texts = _ledger_texts(home, ledger, min_origins) if not home.settings.captions.unique else iter(())
        bank = CaptionBank.stored(file, texts, listed, min_origins=min_origins)
    if not len(bank):
        raise ConfigurationError(
            "the caption bank is empty",
            where=str(home.settings_path),
            remedy="Name phrase_lists under [captions], or crawl pages with alt text on more domains",
        )
    return bank


def bank_path(home: Home) -> Path:
    """Where the bank that was built last lies."""
    return home.path / "cache" / "captions" / "bank.arrow"


def list_entries(home: Home, ledger: Ledger) -> Iterator[BankEntry]:
    """The phrases that captions may be chosen from; in a catalogue, less those that a picture carries already."""
    carried = _carried(home, ledger) if home.settings.captions.unique else frozenset()
    for text, source in phrases(home):
        if not carried or normalised_text(text) not in carried:
            yield BankEntry(text, source, LIST, ())


def _carried(home: Home, ledger: Ledger) -> frozenset[str]:
    """The listed phrases, in their normalised form, that are a picture's own text."""
    offered = {normalised_text(text) for text, _ in phrases(home)}
    texts = (text for batch in ledger.query_batches(_CARRIED) for text in batch["caption"].to_pylist())
    return frozenset(plain for text in texts if (plain := normalised_text(text)) in offered)


def phrases(home: Home) -> Iterator[tuple[str, str]]:
    """The phrases of custody.toml's phrase lists, each with its source, "list:<file>:<line>".

    Raises:
        ConfigurationError: a list cannot be read.
    """
    for path in phrase_files(home):
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield line.strip(), f"list:{path.stem}:{number}"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"the phrase list cannot be read ({error})", where=str(path), remedy="See [captions] phrase_lists"
            ) from error


def phrase_files(home: Home) -> list[Path]:
    """Where custody.toml's phrase lists lie; relative ones in the home."""
    return [home.path / name for name in home.settings.captions.phrase_lists]  # an absolute path stays what it is


def _ledger_texts(home: Home, ledger: Ledger, min_origins: int) -> Iterator[BankText]:
    authorities = [authority for (authority,) in ledger.query(_AUTHORITIES)]
    given = {
        "authorities": authorities,
        "sites": [site_of(host_of(f"http://{authority}")) for authority in authorities],
        "removed": _removed(ledger, home.tombstones(ledger)),
        "min_origins": min_origins,
    }
    for batch in ledger.query_batches(_TEXTS, given):
        yield from _bank_texts(batch)


def _bank_texts(batch: pa.RecordBatch) -> Iterator[BankText]:
    columns = (batch[name].to_pylist() for name in ("text", "pairs", "sites"))
    for text, pairs, sites in zip(*columns, strict=True):
        yield BankText(text, tuple(f"pair:{pair}" for pair in pairs), LEDGER, tuple(sites))


def _removed(ledger: Ledger, tombstones: Tombstones) -> list[str]:
    """The pairs whose texts a removal covers though nobody has decided on them since."""
    if not tombstones.removals:
        return []
    rows = (row for batch in ledger.query_batches(_WHOSE) for row in zip(*_columns(batch), strict=True))
    return [pair for pair, *named in rows if _is_covered(tombstones, *named)]


def _columns(batch: pa.RecordBatch) -> list[list[str]]:
    return [column.to_pylist() for column in batch.columns]


def _is_covered(
    tombstones: Tombstones, page_url: str | None, image_url: str | None, content: str | None, sample: str | None
) -> bool:
    return bool(
        (page_url and tombstones.covers_url(page_url))
        or (image_url and tombstones.covers_url(image_url))
        or (content and tombstones.covers_content(content))
        or (sample and tombstones.covers_sample(sample))
    )


class StandingTexts:
    """What of the bank's texts may be given now, asked under the ledger's lock with the tombstones in force.

    A source that a removal covers, or that was erased, is no source any more; a text of the ledger that is left with
    fewer domains than the ruleset asks for is not given, nor is a text that was itself removed, whoever says it.
    """

    def __init__(self, ledger: Ledger, tombstones: Tombstones, min_origins: int) -> None:
        self._ledger, self._tombstones, self._min_origins = ledger, tombstones, min_origins

    def __call__(self, texts: Sequence[BankText]) -> list[BankText | None]:
        if not self._tombstones.removals:
            return list(texts)
        pairs = {source.removeprefix("pair:") for t in texts if t.source_kind == LEDGER for source in t.sources}
        sites: dict[str, str] = {}
        covered = set()
        for pair, page_url, *named in self._ledger.query(_SOURCES, [sorted(pairs)]):
            sites[f"pair:{pair}"] = site_of(host_of(page_url or ""))
            if _is_covered(self._tombstones, page_url, *named):
                covered.add(f"pair:{pair}")
        return [self._left_of(text, {s: sites[s] for s in text.sources if s in sites and s not in covered})
                for text in texts]  # fmt: skip

    def _left_of(self, text: BankText, sites: dict[str, str]) -> BankText | None:
        if self._tombstones.covers_said({"text": (text.text,)}):
            return None
        if text.source_kind != LEDGER or len(sites) == len(text.sources):
            return text
        origins = tuple(sorted(set(sites.values())))
        if len(origins) < self._min_origins:
            return None
        return replace(text, sources=tuple(sites), origins=origins)
