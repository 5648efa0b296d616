"""Anchoring: the head of the ledger's chain, written to a place outside, and held against the ledger later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from curation.storage import ObjectStore, list_files, open_input, parse_location
from flows.home import Home, utc_now
from policy.anchors import Anchor
from policy.durable import sync_directory
from policy.errors import BusyError, InputError, RefusedError, StorageError
from policy.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Anchored:
    """The contract of `custody anchor --json`. `place`: where the file lies; `new`: False for a head already there."""

    seq: int
    chain: str
    anchored_at: datetime
    place: str
    public_key: str
    new: bool


def anchor(home: Home, place: str = "") -> Anchored:
    """Publish the head: a signed file in `place` (a directory or s3:// folder; else removals.anchors), then a row.

    A head that is anchored there already, and behind which nothing but its own record follows, is not anchored anew.

    Raises:
        InputError: no place is named. RefusedError: it lies within the home, where it would prove nothing.
    """
    with home.ledger() as ledger:
        return anchor_head(home, ledger, place)


def anchor_head(home: Home, ledger: Ledger, place: str = "") -> Anchored:
    """`anchor`, with the ledger that the caller has open."""
    where = place or home.settings.removals.anchors
    if not where:
        remedy = "Name a directory outside the home: custody anchor --to DIR, or removals.anchors in custody.toml"
        raise InputError("there is no place for anchors", where="custody anchor", remedy=remedy)
    _require_outside(home, where)
    now, (seq, chain) = utc_now(), ledger.head()
    known = ledger.query(
        "SELECT seq, chain, anchored_at FROM anchor WHERE place = ? ORDER BY seq DESC LIMIT 1", [where]
    )
    if known and known[0][0] == seq - 1:  # the newest batch is the record of an anchor itself
        [(table,)] = ledger.query("SELECT table_name FROM batch WHERE seq = ?", [seq])
        if table == "anchor":
            last_seq, last_chain, at = known[0]
            return Anchored(last_seq, last_chain, at.replace(tzinfo=UTC), where, home.keys.public_key.hex(), False)
    made = Anchor.make(seq, chain, home.keys, now=now)
    _write(home, where, made)
    row = {"seq": seq, "chain": chain, "place": where, "anchored_at": now}
    ledger.append("anchor", [row], key=f"anchor:{seq}:{where}")
    return Anchored(seq, chain, now, where, made.public_key, True)


def read_anchors(place: str, *, public_key: bytes | None = None, endpoint: str = "") -> Iterator[Anchor]:
    """Every anchor in a place, by its place in the chain, its signature checked.

    Raises:
        InputError: no such place, or none in it. IntegrityError: one was altered, or is of another key.
    """
    files = list_files(place, "anchor-*.json", endpoint=endpoint)
    if not files:
        raise InputError("there is no anchor", where=place)
    for file in files:
        with open_input(file, endpoint=endpoint) as opened:
            yield Anchor.read(opened.read(1 << 16), where=file, public_key=public_key)


def _require_outside(home: Home, place: str) -> None:
    local = parse_location(place).local
    if local is not None and local.resolve().is_relative_to(home.path.resolve()):
        remedy = "Name one that whoever can write in the home cannot change"
        raise RefusedError("an anchor within the home proves nothing", where=place, remedy=remedy)


def _write(home: Home, place: str, made: Anchor) -> None:
    """A new file, whole or not at all; one that is there is never written over."""
    location, data = parse_location(place), made.to_text().encode()
    if location.local is None:
        try:
            ObjectStore(location.url, endpoint=home.settings.seal.store_endpoint).create(made.file_name, data)
        except BusyError:  # this head was anchored, and a crash kept it off the record
            return
        return
    path = location.local / made.file_name
    making = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        location.local.mkdir(parents=True, exist_ok=True)
        with open(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o444), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(making, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            pass
        finally:
            making.unlink(missing_ok=True)
        sync_directory(location.local)
    except OSError as error:
        raise StorageError(f"the anchor cannot be written ({error.strerror})", where=str(Path(place))) from error
