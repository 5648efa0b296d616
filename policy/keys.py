"""The three keys of a home: what tokens are made with, what is encrypted under, what signs.

They lie outside the database (`keys/{token,encryption,signing}.key`: 32 bytes in hex, mode 0600), are distinct, and
the ledger keeps a check value of each. A key that is missing, readable by others or not the one the ledger knows
raises `KeyFileError`: with the wrong key a suppression list would "match nothing", which is the worst of answers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policy.durable import sync_directory
from policy.errors import KeyFileError, StorageError

KEY_BYTES = 32
NONCE_BYTES = 12  # AES-GCM, NIST SP 800-38D section 8.2.2: a random 96-bit nonce a message
PURPOSES = ("token", "encryption", "signing")


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """The keys, in memory. Never printed, pickled into a log or handed to a worker that does not need them."""

    token_key: bytes
    encryption_key: bytes
    signing_key: bytes

    def __repr__(self) -> str:
        return "KeyRing(" + ", ".join(f"{purpose}={self.key_id(purpose)}" for purpose in PURPOSES) + ")"

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make three random keys; the directory (0700) appears whole or not at all.

        Raises `KeyFileError` where one exists already: keys are never overwritten, what they protect would be lost.
        """
        if directory.exists() and any(directory.iterdir()):
            raise KeyFileError("there are keys here already", where=str(directory), remedy="Keys are never overwritten")
        making = directory.with_name(f"{directory.name}.making-{os.getpid()}")
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            making.mkdir(mode=0o700)
            for purpose in PURPOSES:
                _write_private(making / f"{purpose}.key", secrets.token_bytes(KEY_BYTES).hex() + "\n")
            sync_directory(making)
            os.replace(making, directory)
            sync_directory(directory.parent)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            raise StorageError(f"cannot write the keys ({error.strerror})", where=str(directory)) from error
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the three keys; raises `KeyFileError` when one is missing, unreadable, malformed or open to others."""
        return cls(*(_read_key(directory / f"{purpose}.key") for purpose in PURPOSES))

    def key_id(self, purpose: str) -> str:
        """16 hex digits that name a key without saying anything about it."""
        return self._derived(purpose, b"custody key id")[:16]

    def check_value(self, purpose: str) -> str:
        """What the ledger keeps to recognise the key: HMAC-SHA256 of a fixed text, in hex."""
        return self._derived(purpose, b"custody check value")

    def token(self, kind: str, value: str) -> str:
        """`<key id>:<HMAC-SHA256 hex>` of a value of a kind: a membership test only for who holds the key."""
        message = f"{len(kind)}:{kind}:{value}".encode()
        return f"{self.key_id('token')}:{hmac.digest(self.token_key, message, hashlib.sha256).hex()}"

    def encrypt(self, plain: bytes, associated: bytes = b"") -> bytes:
        """AES-256-GCM: nonce, ciphertext and tag in one; `associated` must be the same when decrypting."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.encryption_key).encrypt(nonce, plain, associated)

    def decrypt(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """Undo `encrypt`; raises `KeyFileError` when the key, the text or `associated` is another one."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self.encryption_key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
        except (InvalidTag, ValueError) as error:
            raise KeyFileError("the text was not encrypted under this key, or was changed since") from error

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature (RFC 8032), 64 bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.signing_key).sign(message)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that `sign` is verified with."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.signing_key).public_key().public_bytes_raw()

    def _derived(self, purpose: str, label: bytes) -> str:
        return hmac.digest(self._key(purpose), label + b" " + purpose.encode(), hashlib.sha256).hex()

    def _key(self, purpose: str) -> bytes:
        match purpose:
            case "token":
                return self.token_key
            case "encryption":
                return self.encryption_key
            case "signing":
                return self.signing_key
            case _:
                raise ValueError(f"no such key: {purpose!r}; there are {', '.join(PURPOSES)}")


def _read_key(path: Path) -> bytes:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise KeyFileError("others may read the key", where=str(path), remedy=f"chmod 600 {path.name}")
        text = path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError as error:
        raise KeyFileError("the key is missing", where=str(path), remedy="Restore it from its backup") from error
    except OSError as error:
        raise KeyFileError(f"the key cannot be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise KeyFileError("not a key: 64 hex digits expected", where=str(path)) from error
    if len(key) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
        raise KeyFileError("not a key: 64 hex digits expected", where=str(path))
    return key


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
