"""Rights fields in the image's own bytes: XMP (IPTC/PLUS Data Mining, tdm:, cc:, xmpRights:), EXIF and IPTC IIM.

`read_embedded` reads every packet of every place where a format keeps one (image_parts, xmp_packet); what is damaged is
recorded and searched for the words of a reservation. What is said in a foreign structure, or by a packet that stands in
no such place, is named "nested/…": its no counts, its yes does not.
`judge_xmp` weighs the PLUS Data Mining property alone: tdm: is TDMRep's to judge, the licence is the licence rule's.
PLUS vocabulary: https://ns.useplus.org/LDF/ldf-XMPSpecification, IPTC Photo Metadata Standard 2025.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from policy.evidence import Embedded, EmbeddedField, Evidence
from policy.judgements import judgement, not_observed, worst
from policy.signals.image_parts import Damage, Part, parts
from policy.signals.xmp_packet import MAX_PACKET_BYTES, MAX_VALUE_CHARS, NESTED, Budget, read_packet
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM: Final = "xmp"
DATA_MINING: Final = "plus:DataMining"
NEEDLES: Final = ("DMI-PROHIBITED", "tdm:reservation")

_MAX_FIELDS = 500
_MAX_ERRORS = 20
_MAX_PARTS = 1_000
_MAX_DATASETS = 20_000


@dataclass(frozen=True, slots=True)
class XmpRules:
    """`damaged`: what metadata means that is there and cannot be read."""

    damaged: Literal["deny", "defer"]


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_embedded(body: bytes) -> Embedded:
    """What an image's original bytes say of rights; never raises for what the bytes hold."""
    media_type, found = parts(body)
    reader = _Reader(len(body))
    for number, part in enumerate(found):
        if number == _MAX_PARTS:
            reader.damaged(Damage("more pieces of metadata than are read", (memoryview(body),)))
            break
        reader.take(part)
    if not reader.has_packets:
        for packet in _packets_anywhere(body):
            reader.stray(packet)
    return reader.result(media_type)


def _packets_anywhere(body: bytes) -> Iterator[memoryview]:
    """XMP packets by their text alone (XMP part 1, 7.3.2), where no place that the format has for them held one.

    Somebody may have misspelt the place, or it is a preview's inside a block that nobody reads here.
    """
    view = memoryview(body)
    for begin, end in ((b"<?xpacket begin", b"<?xpacket end"), (b"<x:xmpmeta", b"</x:xmpmeta>")):
        at = body.find(begin)
        for _ in range(_MAX_STRAY):
            if at < 0:
                break
            stop = body.find(end, at)
            stop = min(len(body), stop + len(end) + 16 if stop >= 0 else len(body), at + MAX_PACKET_BYTES)
            close = body.find(b">", max(at, stop - 17), stop)
            yield view[at : close + 1 if close >= 0 else stop]
            at = body.find(begin, stop)


_MAX_STRAY = 8


class _Reader:
    """Collects fields, errors and needles over the parts of one image."""

    def __init__(self, size: int) -> None:
        self._fields: dict[tuple[str, str], EmbeddedField] = {}
        self._errors: dict[str, None] = {}
        self._needles: set[str] = set()
        self._digests: dict[bytes, None] = {}
        self._budget = Budget()
        self._datasets = _MAX_DATASETS
        self._to_scan = 2 * size + 4 * MAX_PACKET_BYTES
        self._extended: set[str] = set()
        self._extended_wanted: set[str] = set()

    @property
    def has_packets(self) -> bool:
        return bool(self._digests)

    def stray(self, packet: memoryview) -> None:
        """A packet that stands where nobody looks: what it forbids counts; it neither permits nor is damage."""
        properties, error = read_packet(bytes(packet), self._budget)
        for name, value in properties:
            self._field(NESTED + name.removeprefix(NESTED), value, "XMP, outside of its place")
        if error and (needles := find_needles((packet,))):
            self._needles |= needles

    def take(self, part: Part | Damage) -> None:
        if isinstance(part, Damage):
            self.damaged(part)
        elif part.kind == "iptc":
            self._iim(bytes(part.data[:MAX_PACKET_BYTES]), f"IPTC, {part.where}")
        elif part.kind == "text":
            self._field(part.name, _text(part.data), part.where)
        elif part.data:
            self._extended.add(part.name)
            self._packet(part.data, f"XMP, {part.where}")

    def damaged(self, damage: Damage) -> None:
        if len(self._errors) < _MAX_ERRORS:
            self._errors[damage.what] = None
        size = sum(map(len, damage.around))
        if size <= self._to_scan:
            self._to_scan -= size
            self._needles |= find_needles(damage.around)

    def result(self, media_type: str) -> Embedded:
        if missing := self._extended_wanted - self._extended:
            self.damaged(Damage(f"JPEG extended XMP that is missing ({', '.join(sorted(missing))[:100]})", ()))
        digests = list(self._digests)
        packet = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
        return Embedded(
            media_type,
            tuple(self._fields.values()),
            packet.hex() if digests else None,
            tuple(self._errors),
            tuple(needle for needle in NEEDLES if needle in self._needles),
        )

    def _packet(self, data: bytes | memoryview, where: str) -> None:
        packet = bytes(data[: MAX_PACKET_BYTES + 1])
        digest = hashlib.sha256(packet).digest()
        if digest in self._digests and len(packet) <= MAX_PACKET_BYTES:
            return
        self._digests[digest] = None
        properties, error = read_packet(packet, self._budget)
        for name, value in properties:
            if name == "xmpNote:HasExtendedXMP":
                self._extended_wanted.add(value.upper())
            else:
                self._field(name, value, where)
        if error:
            self.damaged(Damage(f"{where}: {error}", (data,)))

    def _field(self, name: str, value: str, where: str) -> None:
        value = value[:MAX_VALUE_CHARS]
        if not value and name.removeprefix(NESTED) not in (DATA_MINING, "tdm:reservation"):
            return
        if len(self._fields) >= _MAX_FIELDS:
            self.damaged(Damage("more fields than are read", ()))
        else:
            self._fields.setdefault((name, value), EmbeddedField(name, value, where))

    def _iim(self, data: bytes, where: str) -> None:
        """IPTC IIM 4.2: records of marker, record and dataset number, length, value."""
        at, coding = 0, ""
        while at + 5 <= len(data) and data[at] == 0x1C and self._datasets > 0:
            self._datasets -= 1
            number, size, start = data[at + 1 : at + 3], int.from_bytes(data[at + 3 : at + 5], "big"), at + 5
            if size & 0x8000:  # a length of so many bytes follows
                start += size & 0x7FFF
                size = int.from_bytes(data[at + 5 : min(start, at + 13)], "big")
            value = data[start : start + size]
            if start + size > len(data):
                break
            if number == b"\x01\x5a":
                coding = "utf-8" if value == b"\x1b%G" else ""
            elif number in _IIM_FIELDS:
                self._field(_IIM_FIELDS[number], _text(value, coding), where)
            at = start + size
        if data[at:].strip(b"\0"):
            self.damaged(Damage(f"{where}: IPTC records that are damaged", (data[at:],)))


_IIM_FIELDS = {
    b"\x02\x05": "iptc:ObjectName",
    b"\x02\x28": "iptc:SpecialInstructions",
    b"\x02\x50": "iptc:By-line",
    b"\x02\x6e": "iptc:Credit",
    b"\x02\x73": "iptc:Source",
    b"\x02\x74": "iptc:CopyrightNotice",
}


def _text(data: bytes | memoryview, coding: str = "") -> str:
    """Text of EXIF and IPTC, which mostly do not say in what it is coded: UTF-8, else Western European."""
    raw = bytes(data[: 8 * MAX_VALUE_CHARS])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(data) > len(raw) and error.start > len(raw) - 4
        text = raw.decode("utf-8", errors="replace") if cut or coding else raw.decode("cp1252", errors="replace")
    # EXIF's Copyright parts photographer and editor by a NUL, and ends with one.
    return "; ".join(piece for piece in map(str.strip, text.split("\0")) if piece)


# ── searching what cannot be parsed ────────────────────────────────────────────────────────────────────────────────

_CHUNK_BYTES = 1 << 20
_CARRY_BYTES = 256
_REFERENCE = re.compile(rb"&#(x[0-9a-f]{1,6}|[0-9]{1,7});")


def find_needles(around: Iterable[bytes | memoryview]) -> frozenset[str]:
    """The words of a reservation in bytes of whatever encoding, in any case, also where character references spell it.

    Without its zeros, ASCII in UTF-16 and UTF-32 of either order is ASCII.
    """
    found, carry = set[str](), b""
    for data in around:
        for at in range(0, len(data), _CHUNK_BYTES):
            plain = carry + bytes(data[at : at + _CHUNK_BYTES]).replace(b"\0", b"").lower()
            found |= _needles_in(plain)
            if b"&#" in plain:
                found |= _needles_in(_REFERENCE.sub(_referred, plain, count=10_000))
            if len(found) == len(NEEDLES):
                return frozenset(found)
            carry = plain[-_CARRY_BYTES:]
    return frozenset(found)


def _needles_in(plain: bytes) -> set[str]:
    return {needle for needle in NEEDLES if needle.lower().encode() in plain}


def _referred(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    code = int(digits[1:], 16) if digits.startswith(b"x") else int(digits)
    return bytes([code]).lower() if code < 128 else b"?"


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────

_VOCABULARY = re.compile(r"(?:https?://ns\.useplus\.org/ldf/vocab/)?(DMI-[A-Z0-9-]+)\Z", re.IGNORECASE)


def judge_xmp(evidence: Evidence, rules: XmpRules) -> Judgement:
    """What plus:DataMining in the image says, and what damage to its metadata means. Neither ages."""
    embedded = evidence.embedded
    if embedded is None:
        if evidence.fetch_error:
            return judgement(MECHANISM, Verdict.DEFER, "fetch-failed", evidence.fetch_error)
        return not_observed(MECHANISM, "the image's own metadata", evidence.image_url)
    absent = judgement(MECHANISM, None, "xmp-absent", where=evidence.image_url)
    if not (embedded.fields or embedded.needles or embedded.errors):
        return absent
    return worst((*_statements(embedded, evidence.image_url), *_damages(embedded, evidence.image_url, rules), absent))


def _statements(embedded: Embedded, url: str) -> Iterator[Judgement]:
    constraints = next((f.value for f in embedded.fields if f.name == "plus:OtherConstraints"), "")
    for field in embedded.fields:
        if field.name not in (DATA_MINING, NESTED + DATA_MINING):
            continue
        verdict, code, stance = _meaning(field.value)
        if field.name != DATA_MINING and verdict is not Verdict.DENY:
            continue  # another picture's, kept in this one's metadata: its no counts, its yes does not
        where = f"{field.where}, {url}"
        detail = f"{field.name}={field.value}"
        if stance is Stance.CONSTRAINED and constraints:
            detail += f" plus:OtherConstraints={constraints}"
        yield judgement(
            MECHANISM, verdict, code, detail, where, (Signal(MECHANISM, where, stance, field.value or '""'),)
        )


def _meaning(value: str) -> tuple[Verdict | None, str, Stance]:
    """A value of the PLUS vocabulary: its address there or its bare code; one that is not known keeps out."""
    if "DMI-PROHIBITED-SEE" in value.upper():
        return Verdict.DENY, "xmp-constrained", Stance.CONSTRAINED
    if "DMI-PROHIBITED" in value.upper():
        return Verdict.DENY, "xmp-prohibited", Stance.DENY
    match = _VOCABULARY.match(value.strip())
    code = match[1].upper() if match is not None else ""
    if code == "DMI-ALLOWED":
        return Verdict.ALLOW, "xmp-allowed", Stance.ALLOW
    if code == "DMI-UNSPECIFIED":
        return None, "xmp-unspecified", Stance.UNSET
    return Verdict.DEFER, "xmp-unknown-value", Stance.ERROR


def _damages(embedded: Embedded, url: str, rules: XmpRules) -> Iterator[Judgement]:
    for needle in embedded.needles:
        where = f"damaged metadata, {url}"
        yield judgement(
            MECHANISM, Verdict.DENY, "xmp-damaged-reservation", needle, where, _signals(where, Stance.DENY, needle)
        )
    for error in embedded.errors:
        verdict = Verdict.DENY if rules.damaged == "deny" else Verdict.DEFER
        yield judgement(MECHANISM, verdict, "xmp-damaged", error, url, _signals(url, Stance.ERROR, error))


def _signals(where: str, stance: Stance, value: str) -> tuple[Signal, ...]:
    return (Signal(MECHANISM, where, stance, value),)
