"""custody.toml's [images] c2pa_trust_anchors: whose C2PA signatures are believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flows import settings
from flows.home import Home
from flows.stages.crawling.observer import trust_anchors
from policy.errors import ConfigurationError


def _home(tmp_path: Path, named: str) -> Home:
    text = settings.DEFAULT_TEXT.replace('c2pa_trust_anchors = ""', f'c2pa_trust_anchors = "{named}"')
    return Home.create(tmp_path / "home", settings_text=text)


def _certificate() -> str:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_nobody_is_trusted_without_a_file(tmp_path: Path) -> None:
    """The default believes nobody's allowed."""
    assert trust_anchors(_home(tmp_path, "")) is None


def test_the_certificates_are_read_from_the_home(tmp_path: Path) -> None:
    """A relative path is the home's, and what it holds goes to the decode workers as it stands."""
    home, pem = _home(tmp_path, "anchors.pem"), _certificate()
    (home.path / "anchors.pem").write_text(pem)
    assert trust_anchors(home) == pem


def test_a_file_that_is_missing_or_empty_refuses(tmp_path: Path) -> None:
    """Trusting nobody in silence would be a surprise: file and key are named."""
    home = _home(tmp_path, "anchors.pem")
    with pytest.raises(ConfigurationError, match=r"images\.c2pa_trust_anchors: .*anchors\.pem cannot be read"):
        trust_anchors(home)
    for content in (b"", b"no certificate", b"\xff\xfe"):
        (home.path / "anchors.pem").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"anchors\.pem"):
            trust_anchors(home)
