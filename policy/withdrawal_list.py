"""The withdrawal list: which checkpoints may be used no more, for all who have a copy, signed by the operator.

::

    {"version": 1, "list": {"number", "issued_at", "withdrawn": [
        {"checkpoint", "weights": [[file, sha256], …], "reason", "replaced_by", "withdrawn_at"}, …]},
     "public_key": 64 hex digits, "signature": 128 hex digits}

Canonical JSON. The signature (Ed25519, RFC 8032) is over a fixed line, then the canonical JSON of all but itself. The
number rises with every change, so that of two lists the newer one is known. It names nobody and no removal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from policy.errors import IntegrityError
from policy.keys import KeyRing
from policy.provenance import canonical_json

LIST_VERSION: Final = 1
_SIGNED: Final = b"custody withdrawal list\n"


@dataclass(frozen=True, slots=True)
class WithdrawnModel:
    """A checkpoint on the list. `weights`: (file, sha256) that whoever has a copy can compare with.

    `reason`: a code: removal (it was fed what was removed) | lineage (it stands on such a model, or on a caption).
    `replaced_by`: what took its place.
    """

    checkpoint: str
    weights: tuple[tuple[str, str], ...]
    reason: str
    replaced_by: str | None
    withdrawn_at: str


@dataclass(frozen=True, slots=True)
class WithdrawalList:
    """All withdrawn checkpoints of a home, by id. `number`: 0 before the first."""

    number: int
    issued_at: str
    withdrawn: tuple[WithdrawnModel, ...]

    def find(self, digests: Mapping[str, str]) -> WithdrawnModel | None:
        """The withdrawn checkpoint that one of these files (name -> sha256) is from, if any."""
        there = set(digests.values())
        return next((w for w in self.withdrawn if not there.isdisjoint(sha for _, sha in w.weights)), None)

    def signed(self, keys: KeyRing) -> str:
        """The document, with the public key that its signature is verified with."""
        body = {"version": LIST_VERSION, "list": asdict(self), "public_key": keys.public_key.hex()}
        signature = keys.sign(_SIGNED + canonical_json(body).encode())
        return canonical_json({**body, "signature": signature.hex()}) + "\n"

    @classmethod
    def verified(cls, text: str, *, public_key: bytes | None = None, where: str = "withdrawn.json") -> Self:
        """Read a list and check its signature; needs nothing but the list and the operator's public key.

        public_key: the 32 bytes that the operator is known by; None: the one that the list brings along, which shows
        that it was not damaged, and nothing about who wrote it. Raises IntegrityError.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            document: dict[str, Any] = json.loads(text)
            signature, claimed = bytes.fromhex(document.pop("signature")), bytes.fromhex(document["public_key"])
            if document["version"] > LIST_VERSION:
                raise IntegrityError("written by a newer version", where=where, remedy="Update Custody")
            if public_key is not None and claimed != public_key:
                raise IntegrityError("signed with another key than the operator's", where=where)
            Ed25519PublicKey.from_public_bytes(claimed).verify(signature, _SIGNED + canonical_json(document).encode())
            said = document["list"]
            models = (
                WithdrawnModel(**{**each, "weights": tuple((str(n), str(d)) for n, d in each["weights"])})
                for each in said["withdrawn"]
            )
            return cls(int(said["number"]), str(said["issued_at"]), tuple(models))
        except InvalidSignature as error:
            raise IntegrityError("the list is not the one that was signed", where=where) from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise IntegrityError(f"not a withdrawal list ({error!r})", where=where) from error
