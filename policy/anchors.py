"""Anchors: the head of the ledger's chain, published where the operator cannot change it afterwards.

From inside nobody can see that the newest batches were cut off with their rows, or that the whole ledger was written
anew. An anchor is a small signed file for a place outside: an object store with a retention lock, somebody else's
machine, a mail to an auditor. Whoever has it can tell later that the chain it names is still the ledger's. When it was
made, the file itself claims; that it was not made later is for the place to show. (A time stamp of RFC 3161 would say
so by itself; it needs a server that is asked, and is not made here.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from policy.errors import InputError, IntegrityError
from policy.keys import KeyRing
from policy.provenance import canonical_json

ANCHOR_FORMAT: Final = "custody-anchor"
ANCHOR_VERSION: Final = 1
_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Anchor:
    """The chain up to batch `seq`, as the holder of a key says; times ISO 8601 with their zone, keys in hex."""

    seq: int
    chain: str
    anchored_at: str
    public_key: str
    key_id: str
    signature: str

    @classmethod
    def make(cls, seq: int, chain: str, keys: KeyRing, *, now: datetime) -> Self:
        """An anchor of this head, signed with Ed25519 (RFC 8032)."""
        unsigned = cls(seq, chain, now.isoformat(), keys.public_key.hex(), keys.key_id("signing"), "")
        signature = keys.sign(unsigned._signed()).hex()
        return cls(seq, chain, unsigned.anchored_at, unsigned.public_key, unsigned.key_id, signature)

    @classmethod
    def read(cls, data: bytes, *, where: str, public_key: bytes | None = None) -> Self:
        """Parse one and check its signature. `public_key`: the operator's, if it is known otherwise.

        Raises `InputError`: not an anchor; `IntegrityError`: altered, or of another key.
        """
        try:
            found = json.loads(data)
            if found["format"] != ANCHOR_FORMAT or found["version"] != ANCHOR_VERSION:
                raise ValueError("of another format or version")
            said = found["anchor"]
            anchor = cls(
                *(int(said["seq"]), str(said["chain"]), str(said["anchored_at"])),
                *(str(said["public_key"]), str(said["key_id"]), str(found["signature"])),
            )
            if len(anchor.chain) != 64 or not set(anchor.chain) <= _DIGITS:
                raise ValueError("no chain in it")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"not an anchor ({error})", where=where) from error
        if public_key is not None and anchor.public_key != public_key.hex():
            raise IntegrityError("the anchor was signed with another key", where=where)
        if not anchor._verifies():
            raise IntegrityError("the anchor was altered: its signature does not fit", where=where)
        return anchor

    @property
    def file_name(self) -> str:
        """Names sort by the place in the chain."""
        return f"anchor-{self.seq:012d}-{self.chain[:16]}.json"

    def to_text(self) -> str:
        """The file: canonical JSON and a line feed."""
        parts = {"format": ANCHOR_FORMAT, "version": ANCHOR_VERSION, "anchor": self._said()}
        return canonical_json({**parts, "signature": self.signature}) + "\n"

    def _said(self) -> dict[str, object]:
        said = {"seq": self.seq, "chain": self.chain, "anchored_at": self.anchored_at}
        return {**said, "public_key": self.public_key, "key_id": self.key_id}

    def _signed(self) -> bytes:
        return canonical_json({"format": ANCHOR_FORMAT, "version": ANCHOR_VERSION, "anchor": self._said()}).encode()

    def _verifies(self) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self._signed())
        except (InvalidSignature, ValueError):
            return False
        return True
