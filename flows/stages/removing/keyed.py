"""What a home still holds of what was removed, found by keyed means: tokens recomputed over its rows and files.

Tombstones hold no values, so what they name cannot be looked up; but every URL, digest and key that a home has can be
made into a token and held against them. That finds what came while a request was carried through, and all of it in a
home that was restored from a backup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from curation.pixel_store import PixelStore
from curation.shard_reader import DatasetReader
from flows.home import Home
from policy.errors import CustodyError
from policy.ledger import Ledger
from policy.removal_matches import Match, match_heard
from policy.tombstones import Tombstones

METHOD = "tombstone"  # of a match that was found by its token
_ROWS_AT_ONCE = 50_000

# (what it is, value, pair_key, url_key, content_sha256, sample_key) of every row behind a batch that a token may name.
_ROWS = """
SELECT 'url' AS kind, image_url AS value, pair_key, url_key, NULL AS content_sha256, NULL AS sample_key
FROM occurrence WHERE image_url IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'url', page_url, pair_key, url_key, NULL, NULL
FROM occurrence WHERE page_url IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'url', url, NULL, url_key, NULL, NULL
FROM "fetch" WHERE kind = 'image' AND url IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'url', final_url, NULL, url_key, NULL, NULL
FROM "fetch" WHERE kind = 'image' AND final_url IS NOT NULL AND final_url <> url AND batch_seq > $since
UNION ALL SELECT 'content', content_sha256, NULL, url_key, content_sha256, NULL
FROM content WHERE content_sha256 IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'content', content_sha256, pair_key, NULL, content_sha256, NULL
FROM evidence WHERE content_sha256 IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'content', content_sha256, pair_key, NULL, content_sha256, sample_key
FROM caption WHERE content_sha256 IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'sample', sample_key, pair_key, NULL, content_sha256, sample_key
FROM caption WHERE sample_key IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'content', content_sha256, pair_key, NULL, content_sha256, sample_key
FROM slot WHERE content_sha256 IS NOT NULL AND batch_seq > $since
UNION ALL SELECT 'sample', sample_key, pair_key, NULL, content_sha256, sample_key
FROM slot WHERE sample_key IS NOT NULL AND batch_seq > $since
"""
_ASKED = {"url": Tombstones.covers_url, "content": Tombstones.covers_content, "sample": Tombstones.covers_sample}


def covered_matches(ledger: Ledger, tombstones: Tombstones, *, since: int = 0) -> dict[str, tuple[Match, ...]]:
    """Removal -> what rows behind batch `since` name something that its tombstones keep out, each once.

    Names and texts are asked of all rows, whenever they came. Two microseconds a value. Raises `KeyFileError` without
    the token key.
    """
    found: dict[str, dict[Match, None]] = {}
    if not tombstones.removals:
        return {}
    known: dict[tuple[str, str], str | None] = {}
    for batch in ledger.query_batches(_ROWS, {"since": since}, rows=_ROWS_AT_ONCE):
        columns = [column.to_pylist() for column in batch.columns]
        for kind, value, pair, url, content, sample in zip(*columns, strict=True):
            if (kind, value) not in known:
                known[kind, value] = _ASKED[kind](tombstones, value)
            if (removal := known[kind, value]) is not None:
                found.setdefault(removal, {})[Match(pair, url, content, sample, METHOD)] = None
        if len(known) > 4_000_000:
            known.clear()
    for removal, said in _said_matches(ledger, tombstones).items():
        keys = {match.keys for match in found.get(removal, ())}
        found.setdefault(removal, {}).update((match, None) for match in said if match.keys not in keys)
    return {removal: tuple(matches) for removal, matches in found.items() if matches}


_HANGS = "SELECT DISTINCT pair_key, image_url FROM occurrence WHERE list_contains($pairs::VARCHAR[], pair_key)"


def _said_matches(ledger: Ledger, tombstones: Tombstones) -> dict[str, list[Match]]:
    """Removal -> what its names and texts are said of; not what stays all the same."""
    if not tombstones.hears:
        return {}
    located = match_heard(ledger, lambda kind, text: tombstones.covers_said({kind: (text,)}))
    pairs = sorted({m.pair_key for matches in located.values() for m in matches if m.pair_key})
    hangs: dict[str, list[str]] = {}
    for pair, url in ledger.query(_HANGS, {"pairs": pairs}) if pairs else ():
        hangs.setdefault(pair, []).append(url)
    return {
        removal: [
            replace(m, method=METHOD)
            for m in matches
            if not tombstones.stays(m.content_sha256, *hangs.get(m.pair_key or "", ()))
        ]
        for removal, matches in located.items()
    }


@dataclass(slots=True)
class Leftovers:
    """How many rows, kept pictures and live slots are still there of what tombstones keep out, by removal."""

    rows: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def of(self, removal: str) -> dict[str, int]:
        """By kind, of one removal."""
        kinds = {"rows": self.rows, "pictures": self.pictures, "slots": self.slots}
        return {name: known.get(removal, 0) for name, known in kinds.items()}


def leftovers(home: Home, ledger: Ledger, tombstones: Tombstones) -> Leftovers:
    """Count them: in the ledger, among the kept pixels, in the datasets that lie here or in a bucket."""
    found = Leftovers({name: len(matches) for name, matches in covered_matches(ledger, tombstones).items()})
    for sha in PixelStore(home.pixels_path).keys():  # noqa: SIM118 - it is no mapping
        if (removal := tombstones.covers_content(sha)) is not None:
            found.pictures[removal] = found.pictures.get(removal, 0) + 1
    for name in home.dataset_names():
        try:
            for key in _live_keys(home, name):
                if (removal := tombstones.covers_sample(key)) is not None:
                    found.slots[removal] = found.slots.get(removal, 0) + 1
        except CustodyError:
            found.unread.append(name)
    return found


def _live_keys(home: Home, dataset: str) -> Iterator[str]:
    with DatasetReader.open(home.dataset(dataset), verify=False) as reader:
        for shard in range(len(reader.generation.shards)):
            rows = reader.rows(shard)
            for key in rows["key"][rows["live"] == 1]:
                yield key.tobytes().hex()
