from __future__ import annotations

from pathlib import Path

import pytest

from policy.errors import KeyFileError
from policy.keys import PURPOSES, KeyRing


def test_keys_survive_the_files(tmp_path: Path) -> None:
    """What was created is what is loaded, in files that only their owner may read."""
    made = KeyRing.create(tmp_path / "keys")
    assert KeyRing.load(tmp_path / "keys") == made
    assert len({made.key_id(purpose) for purpose in PURPOSES}) == 3
    assert all((tmp_path / "keys" / f"{purpose}.key").stat().st_mode & 0o777 == 0o600 for purpose in PURPOSES)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    """A second creation refuses: what the first keys protect would be lost."""
    first = KeyRing.create(tmp_path / "keys")
    with pytest.raises(KeyFileError, match="already"):
        KeyRing.create(tmp_path / "keys")
    assert KeyRing.load(tmp_path / "keys") == first


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33, "ab " * 32, "\xe9" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """A damaged key file is an error that names the file, never another key."""
    KeyRing.create(tmp_path / "keys")
    (tmp_path / "keys" / "token.key").write_text(text, "latin-1")
    with pytest.raises(KeyFileError, match=r"token\.key"):
        KeyRing.load(tmp_path / "keys")


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    """A missing key is an error that names the file."""
    KeyRing.create(tmp_path / "keys")
    (tmp_path / "keys" / "signing.key").unlink()
    with pytest.raises(KeyFileError, match=r"signing\.key: the key is missing"):
        KeyRing.load(tmp_path / "keys")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A key file that is open to the group is refused until somebody looks."""
    KeyRing.create(tmp_path / "keys")
    (tmp_path / "keys" / "token.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="others may read"):
        KeyRing.load(tmp_path / "keys")


def test_tokens_differ_by_kind_value_and_key(tmp_path: Path) -> None:
    """A token is the same for the same (kind, value, key) only, and says which key made it."""
    one, other = KeyRing.create(tmp_path / "one"), KeyRing.create(tmp_path / "other")
    tokens = {ring.token(kind, value) for ring in (one, other) for kind in ("url", "content") for value in ("a", "b")}
    assert len(tokens) == 8
    assert one.token("url", "a").split(":")[0] == one.key_id("token")
    assert one.token("u", "rl:a") != one.token("u:rl", "a")


def test_encryption_binds_text_and_context(tmp_path: Path) -> None:
    """What is encrypted is read back under the same key and context, and under nothing else."""
    one, other = KeyRing.create(tmp_path / "one"), KeyRing.create(tmp_path / "other")
    sealed = one.encrypt(b"somebody", b"removal-1")
    assert one.decrypt(sealed, b"removal-1") == b"somebody"
    assert sealed != one.encrypt(b"somebody", b"removal-1")
    for ring, text, context in [
        (other, sealed, b"removal-1"),
        (one, sealed, b"removal-2"),
        (one, sealed[:-1], b"removal-1"),
        (one, b"", b"removal-1"),
    ]:
        with pytest.raises(KeyFileError):
            ring.decrypt(text, context)


def test_signatures_verify_under_the_public_key(tmp_path: Path) -> None:
    """A signature verifies with the public key and stock Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    ring = KeyRing.create(tmp_path / "keys")
    Ed25519PublicKey.from_public_bytes(ring.public_key).verify(ring.sign(b"receipt"), b"receipt")


def test_a_key_ring_does_not_print_its_keys(tmp_path: Path) -> None:
    """What reaches a log by accident are key ids."""
    ring = KeyRing.create(tmp_path / "keys")
    assert not any(key.hex() in repr(ring) for key in (ring.token_key, ring.encryption_key, ring.signing_key))
