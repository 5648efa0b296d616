"""C2PA / CAWG: what the manifest store of an image says of training, read offline."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from policy.evidence import C2pa, C2paEntry, Embedded, Evidence, Grant, Hop
from policy.grants import under_grants
from policy.signals.c2pa import C2paRules, check_trust_anchors, judge_c2pa, read_c2pa
from policy.verdict import Judgement, Stance, Verdict

IMAGES = Path(__file__).parents[3] / "shared" / "fixtures" / "images"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STRICT, LENIENT = C2paRules("deny"), C2paRules("defer")
BARE = Evidence(None, "https://a.example/x.jpg", NOW, "test", "1")
GENERATIVE_YES = {"cawg.ai_generative_training": {"use": "allowed"}}
TRAINING_NO = {"cawg.ai_training": {"use": "notAllowed"}}


# ── signing ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Signer(NamedTuple):
    chain: bytes
    key: bytes
    root: str


@pytest.fixture(scope="module")
def signer() -> Signer:
    """One signer for all."""
    return make_signer()


def make_signer() -> Signer:
    """A root of our own and a signer below it."""
    now = datetime.now(UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Custody test"),
            ]
        )
        for name in ("Test root", "Test signer")
    ]

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, is_root: bool) -> x509.CertificateBuilder:
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("encipher_only", "decipher_only"),
            ),
            False,
        )
        return (
            x509.CertificateBuilder(issuer_name=names[0], subject_name=subject, public_key=public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=is_root, crl_sign=is_root, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    root = builder(names[0], root_key.public_key(), True).sign(root_key, hashes.SHA256())
    leaf = builder(names[1], key.public_key(), False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    pem = serialization.Encoding.PEM
    return Signer(
        leaf.sign(root_key, hashes.SHA256()).public_bytes(pem) + root.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        root.public_bytes(pem).decode(),
    )


def picture(kind: str = "JPEG") -> bytes:
    held = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(held, kind)
    return held.getvalue()


def signed(
    signer: Signer,
    data: Mapping[str, Any] | None,
    *,
    body: bytes | None = None,
    kind: str = "JPEG",
    label: str = "cawg.training-mining",
    ingredient: bytes | None = None,
    remote: str = "",
) -> bytes:
    """A picture with a manifest whose assertion `label` holds `data` (None: no such assertion)."""
    import c2pa

    created = {
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalArt",
    }
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]
    if data is not None:
        assertions.insert(0, {"label": label, "data": data})
    media_type, out = f"image/{kind.lower()}", io.BytesIO()
    settings = {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    manifest = {"claim_generator_info": [{"name": "custody test", "version": "1"}], "assertions": assertions}
    with (
        c2pa.Context.from_dict(settings) as context,
        c2pa.Builder(manifest, context) as builder,
        c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", signer.chain, signer.key, None)) as key,
    ):
        if ingredient is not None:
            builder.add_ingredient({"title": "part", "relationship": "componentOf"}, media_type, io.BytesIO(ingredient))
        if remote:
            builder.set_remote_url(remote)
            builder.set_no_embed()
        builder.sign(key, media_type, io.BytesIO(body or picture(kind)), out)
    return out.getvalue()


def judged(held: C2pa, rules: C2paRules = STRICT) -> Judgement:
    return judge_c2pa(replace(BARE, c2pa=held), rules)


def verdict(body: bytes, trust: str | None = None, rules: C2paRules = STRICT) -> tuple[str, Verdict | None, str]:
    held = read_c2pa(body, trust)
    told = judged(held, rules)
    return held.state, told.verdict, told.reason.code


# ── a small JUMBF and CBOR writer, for stores that nobody would sign ───────────────────────────────────────────────


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def superbox(kind: bytes, label: str, *content: bytes) -> bytes:
    uuid = kind + bytes.fromhex("00110010800000aa00389b71")
    return box(b"jumb", box(b"jumd", uuid + b"\x03" + label.encode() + b"\0") + b"".join(content))


def cbor(value: Any) -> bytes:
    match value:
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case dict():
            return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())
        case list():  # pairs, so that a key may stand twice
            return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value)
        case int():
            return _head(0, value)
    raise TypeError(value)


def _head(major: int, size: int) -> bytes:
    return bytes([major << 5 | size]) if size < 24 else bytes([major << 5 | 25]) + struct.pack(">H", size)


def store(content: bytes, label: str = "cawg.training-mining") -> bytes:
    assertions = superbox(b"c2as", "c2pa.assertions", superbox(b"cbor", label, box(b"cbor", content)))
    return superbox(b"c2pa", "c2pa", superbox(b"c2ma", "urn:c2pa:one", assertions))


def in_jpeg(held: bytes, segment: int = 60_000) -> bytes:
    """A JPEG with the store in APP11 segments."""
    head, rest = held[:8], held[8:]
    pieces = [rest[i : i + segment] for i in range(0, len(rest), segment)]
    parts = [b"JP\x02\x11" + struct.pack(">I", n) + head + piece for n, piece in enumerate(pieces, 1)]
    plain = picture()
    return plain[:2] + b"".join(b"\xff\xeb" + struct.pack(">H", len(p) + 2) + p for p in parts) + plain[2:]


# ── what is read ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the shared fixtures are not here")
def test_the_fixtures_entries_are_read() -> None:
    """CAWG's own example denies generative training and inference; Adobe's says nothing of either."""
    held = read_c2pa((IMAGES / "C_with_CAWG_data.jpg").read_bytes())
    assert held.state == "valid"
    assert {(e.use, e.value, e.assertion, e.ingredient) for e in held.entries} == {
        ("ai_inference", "notAllowed", "cawg.training-mining", False),
        ("ai_generative_training", "notAllowed", "cawg.training-mining", False),
    }
    told = judged(held)
    assert (told.verdict, told.reason.code) == (Verdict.DENY, "c2pa-not-allowed")
    assert told.reason.detail == "ai_generative_training: notAllowed"
    assert [s.stance for s in told.signals] == [Stance.DENY, Stance.DENY]
    silent = read_c2pa((IMAGES / "c2pa_read_CA.jpg").read_bytes())
    assert (silent.state, silent.entries) == ("valid", ())
    assert judged(silent).verdict is None


@pytest.mark.parametrize(
    ("label", "data", "code"),
    [
        (
            "cawg.training-mining",
            {"entries": {"cawg.ai_generative_training": {"use": "notAllowed"}}},
            "c2pa-not-allowed",
        ),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {"use": "notAllowed"}}}, "c2pa-not-allowed"),
        ("cawg.training-mining", {"entries": {"cawg.data_mining": {"use": "notAllowed"}}}, "c2pa-not-allowed"),
        ("cawg.training-mining", {"entries": {"cawg.ai_inference": {"use": "notAllowed"}}}, "c2pa-silent"),
        (
            "cawg.training-mining",
            {"entries": {"cawg.ai_training": {"use": "constrained", "constraint_info": "https://a.example/terms"}}},
            "c2pa-constrained",
        ),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {"use": "allowed"}}}, "c2pa-not-trusted"),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {"use": "perhaps"}}}, "c2pa-unknown-word"),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {"use": "NotAllowed"}}}, "c2pa-not-allowed"),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {"use": "Allowed"}}}, "c2pa-unknown-word"),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": {}}}, "c2pa-unknown-word"),
        ("cawg.training-mining", {"entries": {"cawg.ai_training": "notAllowed"}}, "c2pa-not-allowed"),
        ("cawg.training-mining", {"entries": {"org.example.train_models": {"use": "notAllowed"}}}, "c2pa-not-allowed"),
        ("c2pa.training-mining", {"entries": {"c2pa.ai_training": {"use": "notAllowed"}}}, "c2pa-not-allowed"),
        ("c2pa.training-mining", {"entries": {"c2pa.data_mining": {"use": "constrained"}}}, "c2pa-constrained"),
        # CAWG 1.0 left `entries` out of its grammar.
        ("cawg.training-mining", {"cawg.ai_training": {"use": "notAllowed"}}, "c2pa-not-allowed"),
        ("cawg.training-mining", {"entries": {}}, "c2pa-unreadable"),
        ("cawg.training-mining", {"entries": ["notAllowed"]}, "c2pa-not-allowed"),
    ],
)
def test_each_word_of_an_assertion_is_weighed(signer: Signer, label: str, data: dict[str, Any], code: str) -> None:
    """Both generations of the assertion, each use and each word, known or not."""
    assert verdict(signed(signer, data, label=label))[2] == code


def test_an_allowed_counts_only_from_a_valid_trusted_manifest(signer: Signer) -> None:
    """Trap: whoever signs may write allowed; only one whom the operator trusts permits."""
    body = signed(signer, {"entries": GENERATIVE_YES})
    assert verdict(body, signer.root) == ("trusted", Verdict.ALLOW, "c2pa-allowed")
    assert verdict(body) == ("valid", None, "c2pa-not-trusted")
    changed = bytearray(body)
    changed[-100] ^= 1
    assert verdict(bytes(changed), signer.root) == ("invalid", None, "c2pa-not-trusted")


@pytest.mark.parametrize(
    "others",
    [TRAINING_NO, {"cawg.data_mining": {"use": "constrained"}}, {"cawg.data_mining": {"use": "perhaps"}}],
)
def test_a_trusted_yes_needs_every_use_of_ours_allowed(signer: Signer, others: dict[str, Any]) -> None:
    """One no, one condition or one unknown word beside an allowed outweighs it."""
    body = signed(signer, {"entries": {**GENERATIVE_YES, **others}})
    assert verdict(body, signer.root)[1] in (Verdict.DENY, Verdict.DEFER)


def test_a_yes_to_other_training_is_no_yes_to_ours(signer: Signer) -> None:
    """cawg.ai_training is about models that generate nothing: allowed, it permits ours nothing."""
    body = signed(signer, {"entries": {"cawg.ai_training": {"use": "allowed"}}})
    assert verdict(body, signer.root) == ("trusted", None, "c2pa-not-trusted")


def test_an_ingredients_no_counts(signer: Signer) -> None:
    """Trap: the picture's own manifest allows, a part of it does not; at any depth."""
    part = signed(signer, {"entries": TRAINING_NO})
    whole = signed(signer, {"entries": GENERATIVE_YES}, ingredient=part)
    whole_of_whole = signed(signer, {"entries": GENERATIVE_YES}, ingredient=whole)
    for body in (whole, whole_of_whole):
        held = read_c2pa(body, signer.root)
        assert [(e.use, e.value) for e in held.entries if e.ingredient and e.value != "allowed"] == [
            ("ai_training", "notAllowed")
        ]
        told = judged(held)
        assert (told.verdict, told.reason.code) == (Verdict.DENY, "c2pa-not-allowed")
        assert "an ingredient's manifest" in told.where


def test_an_ingredients_yes_permits_nothing(signer: Signer) -> None:
    """A part that may be used does not make the whole usable."""
    part = signed(signer, {"entries": GENERATIVE_YES})
    assert verdict(signed(signer, None, ingredient=part), signer.root) == ("trusted", None, "c2pa-not-trusted")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_every_container_is_read(signer: Signer, kind: str) -> None:
    """APP11, caBX, C2PA, tag 52545, the uuid box and GIF's extension; and a picture without is absent."""
    body = signed(signer, {"entries": TRAINING_NO}, kind=kind)
    assert verdict(body, signer.root) == ("trusted", Verdict.DENY, "c2pa-not-allowed")
    assert verdict(picture(kind)) == ("absent", None, "c2pa-absent")


def test_metadata_assertions_may_hold_iptcs_property() -> None:
    """plus:DataMining in a metadata assertion of the store is a no like the one in XMP."""
    said = cbor({"plus:DataMining": "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"})
    held = read_c2pa(in_jpeg(store(said, "cawg.metadata")))
    assert [(e.use, e.value) for e in held.entries] == [("plus:DataMining", "DMI-PROHIBITED-AIMLTRAINING")]
    assert judged(held).verdict is Verdict.DENY


def test_a_key_that_stands_twice_is_two_statements() -> None:
    """use: notAllowed, use: allowed: the last one does not take the first one back."""
    twice = cbor({"entries": {"cawg.ai_training": [("use", "notAllowed"), ("use", "allowed")]}})
    held = read_c2pa(in_jpeg(store(twice)))
    assert {e.value for e in held.entries} == {"notAllowed", "allowed"}
    assert judged(held, LENIENT).verdict is Verdict.DENY


def test_a_store_in_many_segments_is_joined(signer: Signer) -> None:
    """A store larger than a segment of 64 KB is put together before it is read."""
    held = read_c2pa(in_jpeg(store(cbor({"entries": TRAINING_NO})), segment=17))
    assert [(e.use, e.value) for e in held.entries] == [("ai_training", "notAllowed")]


# ── what is broken ─────────────────────────────────────────────────────────────────────────────────────────────────


def _store_of(body: bytes) -> tuple[int, int]:
    start = body.find(b"jumb") - 4
    return start, start + int.from_bytes(body[start : start + 4], "big")


def test_a_broken_signature_never_turns_a_no_into_a_yes(signer: Signer) -> None:
    """Trap: whatever byte of the store is changed, a no keeps the picture out."""
    body = signed(signer, {"entries": {**GENERATIVE_YES, "cawg.data_mining": {"use": "notAllowed"}}})
    start, end = _store_of(body)
    places = random.Random(7).sample(range(start, end), 300) + list(range(start, start + 200))
    at = body.find(b"cawg.training-mining", start)
    for place in [*places, *range(at - 40, at + 200)]:
        changed = bytearray(body)
        changed[place] ^= 1
        assert verdict(bytes(changed), signer.root)[1] is Verdict.DENY, place - start


def test_a_changed_store_never_allows(signer: Signer) -> None:
    """A trusted yes survives no change of what is signed; what nobody signs is left out of the count."""
    body = signed(signer, {"entries": GENERATIVE_YES})
    start, end = _store_of(body)
    tag = body.find(b"c2pa.signature", start + 400)
    salts = [i for i in range(start, end) if body[i - 4 : i] == b"c2sh"]
    unsigned = {i + k for i in salts for k in range(-8, 17)}
    for place in set(random.Random(8).sample(range(start + 8, end), 400)) - unsigned:
        changed = bytearray(body)
        changed[place] ^= 1
        state, said, _ = verdict(bytes(changed), signer.root)
        assert said is not Verdict.ALLOW, (state, place - start, tag - start)


def test_a_truncated_store_never_allows_and_keeps_its_no(signer: Signer) -> None:
    """Cut anywhere within the store, it is unreadable; a no that came before the cut is heard, in lenient mode too."""
    yes, no = signed(signer, {"entries": GENERATIVE_YES}), signed(signer, {"entries": TRAINING_NO})
    start, end = _store_of(no)
    for cut in range(start + 60, end, 97):
        assert verdict(yes[:cut], signer.root)[1:] == (Verdict.DENY, "c2pa-unreadable")
    after = no.find(b"notAllowed") + len(b"notAllowed")
    for cut in range(after, end, 97):
        assert verdict(no[:cut], signer.root, LENIENT)[1] is Verdict.DENY


@pytest.mark.parametrize(("rules", "expected"), [(STRICT, Verdict.DENY), (LENIENT, Verdict.DEFER)])
def test_what_cannot_be_read_follows_the_ruleset(signer: Signer, rules: C2paRules, expected: Verdict) -> None:
    """Unreadable, changed and remote stores are what `damaged` says, never unset."""
    body = signed(signer, {"entries": GENERATIVE_YES})
    end = _store_of(body)[1]
    changed = body.replace(b"digitalsourcetype/digitalArt", b"digitalsourcetype/digitalBrt")
    assert verdict(body[: end - 50], signer.root, rules) == ("unreadable", expected, "c2pa-unreadable")
    assert verdict(changed, signer.root, rules) == ("invalid", expected, "c2pa-changed")
    away = signed(signer, {"entries": GENERATIVE_YES}, remote="https://manifests.example/x.c2pa")
    assert verdict(away, signer.root, rules) == ("remote", expected, "c2pa-remote")


def test_a_no_in_bytes_that_nobody_can_parse_is_spotted(signer: Signer) -> None:
    """The store's boxes are rubbish, the word stands there: that denies, in lenient mode too."""
    held = bytearray(store(cbor({"entries": TRAINING_NO})))
    held[40:44] = b"\xff\xff\xff\xff"  # a length beyond everything
    assert verdict(in_jpeg(bytes(held)), None, LENIENT) == ("unreadable", Verdict.DENY, "c2pa-not-allowed")


def test_two_stores_are_one_too_many(signer: Signer) -> None:
    """Which of them a reader picks must not matter: both are read, and nothing is permitted."""
    yes, no = signed(signer, {"entries": GENERATIVE_YES}), store(cbor({"entries": TRAINING_NO}))
    assert verdict(yes + no, signer.root) == ("unreadable", Verdict.DENY, "c2pa-not-allowed")
    twice = in_jpeg(store(cbor({"entries": GENERATIVE_YES})))
    start, end = _store_of(yes)
    assert verdict(yes + yes[start:end], signer.root)[1:] == (Verdict.DENY, "c2pa-unreadable")
    assert verdict(twice, signer.root)[1:] == (Verdict.DENY, "c2pa-unreadable")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_crashes_or_allows(signer: Signer, data: st.DataObject) -> None:
    """Bytes changed, cut out or doubled anywhere in the store: an answer, and it is no permission."""
    body = _damageable(signer)
    start, end = _store_of(body)
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(start, end - 1))
        match data.draw(st.sampled_from(["change", "cut", "double"])):
            case "change":
                changed[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 40))]
            case _:
                changed[at:at] = changed[at : at + data.draw(st.integers(1, 40))]
    assert verdict(bytes(changed), signer.root)[1] in (Verdict.DENY, Verdict.DEFER)


_DAMAGEABLE: dict[str, bytes] = {}


def _damageable(signer: Signer) -> bytes:
    if signer.root not in _DAMAGEABLE:
        _DAMAGEABLE[signer.root] = signed(signer, {"entries": {**GENERATIVE_YES, **TRAINING_NO}})
    return _DAMAGEABLE[signer.root]


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff\xeb", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"GIF89a"]),
)
def test_no_bytes_crash_the_reader(rest: bytes, magic: bytes) -> None:
    """Any bytes at all have an answer."""
    assert read_c2pa(magic + rest).state in {"absent", "unreadable", "remote", "invalid"}


@given(st.binary(max_size=300))
def test_no_content_of_an_assertion_crashes_the_reader(content: bytes) -> None:
    """Any bytes in the place of CBOR: unreadable at worst, and never permitted."""
    held = read_c2pa(in_jpeg(store(content)))
    assert judged(held).verdict in (Verdict.DENY, Verdict.DEFER)


def _nested(levels: int) -> bytes:
    held = b""
    for _ in range(levels):
        held = superbox(b"c2as", "x", held)
    return superbox(b"c2pa", "c2pa", held)


def _hostile() -> dict[str, bytes]:
    size = 5 * 2**20
    fill = b"\xff\xd8" + b"\xff" * size
    return {
        "boxes in boxes": in_jpeg(_nested(2_000)),
        "arrays in arrays": in_jpeg(store(b"\x81" * 50_000)),
        "a million items": in_jpeg(store(b"\x9f" + b"\0" * 2**20 + b"\xff")),
        "tags of tags": in_jpeg(store(b"\xc1" * 60_000)),
        "empty boxes": in_jpeg(superbox(b"c2pa", "c2pa", box(b"free", b"") * 100_000)),
        "a huge claim": in_jpeg(superbox(b"c2pa", "c2pa", struct.pack(">I4s", 2**32 - 1, b"jumb"))),
        "a map of 2^60 pairs": in_jpeg(store(b"\xbb" + b"\x10" + b"\0" * 7)),
        "JSON in JSON": in_jpeg(superbox(b"c2pa", "c2pa", box(b"json", b"[" * 100_000))),
        "fill bytes": fill,
        "empty segments": b"\xff\xd8" + b"\xff\xeb\0\x02" * (size // 4),
        "empty chunks": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * (size // 12),
        "empty RIFF chunks": b"RIFF\0\0\0\0WEBP" + b"VP8 \0\0\0\0" * (size // 8),
        "provenance everywhere": b"GIF89a http://purl.org/dc/terms/ " + b"provenance " * (size // 11),
        "beginnings of stores": b"GIF89a" + b"\0\0\0\x20jumb\0\0\0\x1ejumdc2pa" * (size // 20),
    }


@pytest.mark.parametrize("name", _hostile())
def test_hostile_stores_permit_nothing(name: str) -> None:
    """Nesting, floods and lengths that lie are refused, and are never read as absent permission."""
    held = read_c2pa(_hostile()[name])
    assert judged(held).verdict is not Verdict.ALLOW
    if name not in ("provenance everywhere",):
        assert held.state == "unreadable"


# ── offline ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_remote_manifest_is_never_asked_for(signer: Signer) -> None:
    """Trap: the declared server would hear of it; nobody connects, and the state says where the manifest is."""
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.c2pa"

        def listen() -> None:
            try:
                heard.append(server.accept())
            except TimeoutError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        from policy.signals import c2pa as module

        for kind in ("JPEG", "PNG"):
            body = signed(signer, {"entries": TRAINING_NO}, kind=kind, remote=url)
            assert read_c2pa(body, signer.root) == C2pa("remote", errors=(f"the manifest is said to be at {url}",))
            assert "Remote" in str(module._told_by_c2pa(body, signer.root))  # the library, asked directly, refuses too
        listener.join()
    assert not heard


@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="strace is not here")
@pytest.mark.skipif(not IMAGES.is_dir(), reason="the shared fixtures are not here")
def test_reading_makes_no_network_call(tmp_path: Path) -> None:
    """Not a socket is opened, though the file names OCSP responders, time stampers and an identity."""
    script = (
        "import sys; from policy.signals.c2pa import read_c2pa\n"
        "for name in sys.argv[1:]: print(read_c2pa(open(name, 'rb').read()).state)"
    )
    log = tmp_path / "calls"
    files = [str(IMAGES / name) for name in ("C_with_CAWG_data.jpg", "c2pa_read_CA.jpg")]
    traced = ["/usr/bin/strace", "-f", "-e", "trace=network", "-o", str(log), sys.executable, "-c", script, *files]
    done = subprocess.run(traced, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if "ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.stdout.split() == ["valid", "valid"], done.stderr
    assert not [line for line in log.read_text().splitlines() if "exited" not in line and "SIG" not in line]


def test_what_looks_like_provenance_and_is_none_is_absent() -> None:
    """Dublin Core's word is no manifest's address unless it holds a URL."""
    xmp = b'<x xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="a gift of the painter"/>'
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    plain = picture()
    body = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert read_c2pa(body).state == "absent"
    url = body.replace(b"a gift of the painter", b"https://a.example/1.c")
    assert read_c2pa(url).state == "remote"
    element = b'<d:provenance xmlns:d="http://purl.org/dc/terms/">https://a.example/1</d:provenance>'
    assert read_c2pa(b"GIF89a" + element).state == "remote"


def test_a_link_header_may_name_a_remote_manifest() -> None:
    """rel="c2pa-manifest" in the image's answer: elsewhere, and not asked for."""
    hop = Hop("https://a.example/x.jpg", 200, (("Link", '<https://m.example/1.c2pa>; rel="c2pa-manifest"'),))
    told = judge_c2pa(replace(BARE, c2pa=C2pa("absent"), hops=(hop,)), STRICT)
    assert (told.verdict, told.reason.code) == (Verdict.DENY, "c2pa-remote")
    assert told.where == "Link, hop 1, https://a.example/x.jpg"


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_not_looked_at_is_not_absent() -> None:
    """No picture, no answer: it waits; and an observed absence says nothing."""
    assert judge_c2pa(BARE, STRICT).reason.code == "not-observed"
    failed = judge_c2pa(replace(BARE, fetch_error="timeout"), STRICT)
    assert (failed.verdict, failed.reason.code) == (Verdict.DEFER, "fetch-failed")
    assert judged(C2pa("absent")).verdict is None
    assert judged(C2pa("a state of tomorrow")).verdict is Verdict.DENY


def test_a_condition_falls_under_a_grant_and_damage_does_not() -> None:
    """Constrained without a grant denies; with the rights holder's it is covered. Nobody can cover the unknown."""
    entry = C2paEntry(
        "ai_generative_training", "constrained", "cawg.training-mining", "m", constraint="https://a.example"
    )
    grant = Grant(
        *("g1", "A giver", "rights-holder", "url", BARE.image_url, ("c2pa",)),
        valid_from=NOW - timedelta(days=1),
        valid_to=None,
        document_sha256="0" * 64,
    )
    evidence = replace(BARE, c2pa=C2pa("valid", (entry,)), grants=(grant,))
    told = judge_c2pa(evidence, STRICT)
    assert (told.verdict, told.reason.code) == (Verdict.DENY, "c2pa-constrained")
    assert "https://a.example" in told.reason.detail
    assert under_grants(told, evidence, NOW).verdict is Verdict.ALLOW
    broken = replace(evidence, c2pa=C2pa("unreadable", (entry,), ("a box is cut short",)))
    assert under_grants(judge_c2pa(broken, STRICT), broken, NOW).verdict is Verdict.DENY


def test_what_was_read_survives_its_storage(signer: Signer) -> None:
    """The stored evidence judges like the fresh one."""
    from policy.evidence import c2pa_from_plain

    held = read_c2pa(signed(signer, {"entries": TRAINING_NO}))
    import dataclasses

    assert c2pa_from_plain(json.loads(json.dumps(dataclasses.asdict(held)))) == held


def test_trust_anchors_must_be_certificates(signer: Signer) -> None:
    """A file that holds none would trust nobody in silence."""
    check_trust_anchors(signer.root)
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="no certificate"):
            check_trust_anchors(text)


# ── cost ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_without_a_manifest_costs_next_to_nothing() -> None:
    """No native library is loaded for it, and 200 KB are looked through in well under a millisecond."""
    script = (
        "import sys; from policy.signals.c2pa import read_c2pa; read_c2pa(b'\\xff\\xd8'); print('c2pa' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "False"
    body = picture()
    at = body.find(b"\xff\xda") + 14
    body = body[:at] + os.urandom(200_000).replace(b"\xff", b"\xfe") + b"\xff\xd9"
    assert read_c2pa(body).state == "absent"


def test_the_library_runs_within_a_workers_memory(signer: Signer) -> None:
    """Under the decode worker's limit of address space the library loads and reads, the first time as well."""
    script = (
        "import os, sys; from curation.decode_pool import DecodeLimits, _warm_up\n"
        "from curation.worker_pool import _limit_memory, _memory_bytes\n"
        "_warm_up(None); most = _memory_bytes(os.open('/proc/self/statm', 0)) + DecodeLimits().memory_bytes\n"
        "_limit_memory(most, most)\n"
        "from policy.signals.c2pa import read_c2pa; print(read_c2pa(sys.stdin.buffer.read()).state)"
    )
    body = signed(signer, {"entries": TRAINING_NO})
    done = subprocess.run(
        [sys.executable, "-c", script], input=body, capture_output=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == b"valid", done.stderr


def test_a_file_that_was_cut_off_has_no_observed_absence() -> None:
    """What is missing of a damaged file may have been its manifest; of a whole one its absence is observed."""
    seen = replace(BARE, c2pa=C2pa("absent"), embedded=Embedded("image/jpeg", errors=("it breaks off",)))
    assert judge_c2pa(seen, C2paRules("deny")).reason.code == "c2pa-unreadable"
    whole = replace(seen, embedded=Embedded("image/jpeg"))
    assert judge_c2pa(whole, C2paRules("deny")).reason.code == "c2pa-absent"
