"""Real pictures with rights metadata in their own bytes: XMP in every container, and signed C2PA manifests."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image, PngImagePlugin

# A picture out of the origin that serves it ("http://127.0.0.1:4711"): some name an address there.
Picture = Callable[[str], bytes]

PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
TDM = "http://www.w3.org/ns/tdmrep/"
PADDING = "x" * 400


@functools.cache
def picture(kind: str = "JPEG") -> bytes:
    """96 x 96 pixels without a word of metadata."""
    held = io.BytesIO()
    _pixels().save(held, kind)
    return held.getvalue()


def _pixels() -> Image.Image:
    red, green = Image.linear_gradient("L").resize((96, 96)), Image.radial_gradient("L").resize((96, 96))
    return Image.merge("RGB", (red, green, red.rotate(90)))


def plain(kind: str = "JPEG") -> Picture:
    return lambda _: picture(kind)


# ── XMP (ISO 16684-1; PLUS Data Mining as of IPTC Photo Metadata 2023.1 and later) ────────────────────────────────────


def packet(description: str, attributes: str = "") -> bytes:
    """An XMP packet with one rdf:Description."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" {attributes}>'
        f"{description}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()


def data_mining(word: str, *, prefix: str = "plus", namespace: str = PLUS) -> bytes:
    """plus:DataMining as an element; `word` is the vocabulary's, as PROHIBITED."""
    said = f"<{prefix}:DataMining>{VOCABULARY}DMI-{word}</{prefix}:DataMining>"
    return packet(said, f'xmlns:{prefix}="{namespace}"')


def data_mining_attribute(word: str) -> bytes:
    """plus:DataMining as an attribute of the description."""
    return packet("", f'xmlns:plus="{PLUS}" plus:DataMining="{VOCABULARY}DMI-{word}"')


def data_mining_resource(word: str) -> bytes:
    """plus:DataMining as an element that points to the vocabulary."""
    return packet(f'<plus:DataMining rdf:resource="{VOCABULARY}DMI-{word}"/>', f'xmlns:plus="{PLUS}"')


def tdm_reservation(value: str) -> bytes:
    """tdm:reservation as an element."""
    return packet(f"<tdm:reservation>{value}</tdm:reservation>", f'xmlns:tdm="{TDM}"')


def with_xmp(xmp: bytes, kind: str = "JPEG", *, compressed: bool = False) -> Picture:
    """The picture with a packet, where its format keeps one."""
    return lambda _: _with_xmp(xmp, kind, compressed)


def _with_xmp(xmp: bytes, kind: str, compressed: bool) -> bytes:
    held = io.BytesIO()
    match kind:
        case "JPEG":
            return _after_start(picture(), _segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp))
        case "PNG":
            texts = PngImagePlugin.PngInfo()
            texts.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=compressed)
            _pixels().save(held, "PNG", pnginfo=texts)
        case "TIFF":
            _pixels().save(held, "TIFF", tiffinfo={700: xmp})
        case _:
            _pixels().save(held, kind, xmp=xmp)
    return held.getvalue()


def with_extended_xmp(xmp: bytes) -> Picture:
    """A JPEG whose standard packet only names the extended one, in which everything stands, in two segments."""
    guid = hashlib.md5(xmp, usedforsecurity=False).hexdigest().upper()
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    standard = packet(f"<dc:source>{PADDING}</dc:source>", f'{note} xmpNote:HasExtendedXMP="{guid}"')
    half = len(xmp) // 2
    parts = [_segment(b"http://ns.adobe.com/xap/1.0/\0" + standard)]
    for start, piece in ((0, xmp[:half]), (half, xmp[half:])):
        head = guid.encode() + len(xmp).to_bytes(4, "big") + start.to_bytes(4, "big")
        parts.append(_segment(b"http://ns.adobe.com/xmp/extension/\0" + head + piece))
    return lambda _: _after_start(picture(), b"".join(parts))


def cut(xmp: bytes, after: bytes) -> bytes:
    """The packet as far as `after`, and no further."""
    return xmp[: xmp.index(after) + len(after)]


def _segment(content: bytes) -> bytes:
    """An APP1 segment of a JPEG."""
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def _after_start(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


# ── C2PA (specification 2.2; CAWG training and data mining assertion 1.1) ────────────────────────────────────────────


@functools.cache
def signer() -> tuple[bytes, bytes, str]:
    """A certificate chain and its key (PEM) of a signer below a root of our own, and that root."""
    now = datetime.now(UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = (
        x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Custody")]
        )
        for text in ("Benchmark root", "Benchmark signer")
    )
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, is_root: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(issuer_name=root_name, subject_name=subject, public_key=public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=is_root, crl_sign=is_root, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    root = builder(root_name, root_key.public_key(), True).sign(root_key, hashes.SHA256())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    leaf = (
        builder(name, key.public_key(), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return leaf.public_bytes(pem) + root.public_bytes(pem), private, root.public_bytes(pem).decode()


def trusted_root() -> str:
    """The certificate (PEM) of whom the operator of these cases trusts."""
    return signer()[2]


def signed(
    entries: Mapping[str, str] | None,
    *,
    kind: str = "JPEG",
    label: str = "cawg.training-mining",
    ingredient: Picture | None = None,
    remote: bool = False,
) -> Picture:
    """A picture whose manifest says `use` of each of `entries` (None: nothing); `remote`: it lies at /x.c2pa."""

    def sign(origin: str) -> bytes:
        data = None if entries is None else {"entries": {name: {"use": use} for name, use in entries.items()}}
        part = ingredient(origin) if ingredient is not None else None
        return _signed(data, kind, label, part, f"{origin}/x.c2pa" if remote else "")

    return sign


def _signed(data: Mapping[str, Any] | None, kind: str, label: str, ingredient: bytes | None, remote: str) -> bytes:
    import c2pa

    art = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalArt"
    assertions: list[dict[str, Any]] = [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": art}]},
        }
    ]
    if data is not None:
        assertions.insert(0, {"label": label, "data": data})
    chain, key, _ = signer()
    settings = {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    manifest = {"claim_generator_info": [{"name": "custody benchmark", "version": "1"}], "assertions": assertions}
    media_type, out = f"image/{kind.lower()}", io.BytesIO()
    with (
        c2pa.Context.from_dict(settings) as context,
        c2pa.Builder(manifest, context) as builder,
        c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, key, None)) as signing,
    ):
        if ingredient is not None:
            builder.add_ingredient({"title": "part", "relationship": "componentOf"}, media_type, io.BytesIO(ingredient))
        if remote:
            builder.set_remote_url(remote)
            builder.set_no_embed()
        builder.sign(signing, media_type, io.BytesIO(picture(kind)), out)
    return out.getvalue()


def with_changed_pixels(signed_picture: Picture) -> Picture:
    """One byte of the pixels is another: the manifest is as it was, its binding to the picture is broken."""
    return lambda origin: _flipped(signed_picture(origin), -100)


def with_broken_signature(signed_picture: Picture) -> Picture:
    """One byte of the claim's signature is another."""

    def change(origin: str) -> bytes:
        body = signed_picture(origin)
        start = body.rindex(b"c2pa.signature\0") - 33  # the superbox around its description
        return _flipped(body, start + int.from_bytes(body[start : start + 4], "big") - 10)

    return change


def with_cut_store(signed_picture: Picture) -> Picture:
    """A store that ends in the middle of a box, in a JPEG that decodes."""

    def change(origin: str) -> bytes:
        body = signed_picture(origin)
        start = body.index(b"\xff\xeb")
        length = int.from_bytes(body[start + 2 : start + 4], "big")
        kept = body[start + 4 : start + 600]
        return body[:start] + b"\xff\xeb" + (len(kept) + 2).to_bytes(2, "big") + kept + body[start + 2 + length :]

    return change


def _flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1
    return bytes(changed)
