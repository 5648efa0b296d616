"""C2PA / CAWG: training-mining assertions of the manifest store and its ingredients, read offline.

The entries are read by a walk of our own over JUMBF boxes and CBOR (ISO 19566-5, RFC 8949), because a no must be
heard whatever is wrong with its signature. c2pa-python is asked whether the store is valid and its signer trusted,
which only an "allowed" needs, and for what compressed manifests say. It is never let onto the network.

Sources: C2PA technical specification 2.2 (sections 9, 11, 15, annex A); CAWG training and data mining assertion 1.1.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from policy.evidence import C2pa, C2paEntry, Evidence
from policy.judgements import judgement, not_observed, worst
from policy.signals.asked import asked
from policy.verdict import Judgement, Signal, Stance, Verdict

MECHANISM = "c2pa"

# What may not be done to what we train on. ai_inference is another matter.
_AGAINST_TRAINING = frozenset({"ai_generative_training", "ai_training", "data_mining"})
_OUR_PURPOSE = "ai_generative_training"

_MAX_BOXES = 10_000
_MAX_DEPTH = 24
_MAX_ITEMS = 40_000
_MAX_CONTENT_BYTES = 4 * 2**20
_MAX_ENTRIES = 200
_MAX_WORD = 200
_MAX_STORE_BYTES = 48 * 2**20


@dataclass(frozen=True, slots=True)
class C2paRules:
    """`damaged`: what a manifest store means that is there and cannot be read, or is declared to be elsewhere."""

    damaged: Literal["deny", "defer"]


def check_trust_anchors(text: str) -> None:
    """Raise ValueError for what is no list of certificates in PEM: nobody would be trusted, in silence."""
    from cryptography import x509  # here: only who trusts somebody needs it

    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ValueError("holds no certificate in PEM") from error


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_c2pa(body: bytes, trust_anchors: str | None = None) -> C2pa:
    """The training-mining entries of an image's manifest store; never raises for what the bytes hold, asks nobody.

    `trust_anchors`: certificates in PEM of those whose signature is trusted.
    """
    held = _look(body)
    if held is None:
        return C2pa("absent")
    if isinstance(held, str):
        return C2pa("remote", errors=(f"the manifest is said to be at {held[:_MAX_WORD]}",))
    walked = _walked(held)
    if walked.errors:  # a store that we cannot read is not shown to the library either
        spotted = () if _denies(walked.entries) else _spotted([*held, memoryview(body)])
        return C2pa("unreadable", _first([*walked.entries, *spotted]), tuple(walked.errors[:20]))
    told = _told_by_c2pa(body, trust_anchors)
    if isinstance(told, str):
        return C2pa("unreadable", _first(walked.entries), (told[:_MAX_WORD],))
    failures = (*told.failures, *walked.doubts[:20])
    return C2pa(told.state, _first([*walked.entries, *told.entries]), failures)


def _first(entries: list[C2paEntry]) -> tuple[C2paEntry, ...]:
    """Each entry once, those that deny before others, as many as are kept."""
    return tuple(sorted(dict.fromkeys(entries), key=lambda e: _stance(e) is Stance.ALLOW)[:_MAX_ENTRIES])


def _denies(entries: list[C2paEntry]) -> bool:
    return any(_stance(e) is Stance.DENY and _is_about_training(e.use) for e in entries)


# ── is there a store at all ────────────────────────────────────────────────────────────────────────────────────────

# No chance coincidence, nor what a text about C2PA would say.
_NEEDLES = (b"jumdc2pa", b"c2pa.assertions", b"c2pa.claim", b"c2pa.signature", b"training-mining")
_BMFF_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


@dataclass(frozen=True, slots=True)
class _Container:
    """A picture's file as far as it concerns us.

    `declares`: whether it has the part in which its format keeps a store. `stores`: those that only a walk of its own
    puts together. `head`: bytes in which XMP may name a remote manifest. `rest`: where stores in one piece may lie.
    """

    declares: bool
    stores: tuple[bytes, ...] = ()
    head: bytes | memoryview = b""
    rest: int = 0


def _look(body: bytes) -> list[memoryview] | str | None:
    """The stores that the bytes hold or seem to hold, else the URL of a remote one, else None. Cheap where none is.

    An empty list: something of a store is there, but not its beginning.
    """
    held = _container(body)
    if held.declares or held.stores or (b"c2pa" in body and any(needle in body for needle in _NEEDLES)):
        return [*(memoryview(store) for store in held.stores), *_carved(body, held.rest)]
    return _remote(bytes(held.head))


def _container(body: bytes) -> _Container:
    if body[:2] == b"\xff\xd8":
        return _jpeg(body)
    if body[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(body)
    if body[:4] == b"RIFF":
        return _Container(_riff_declares(body), head=body)
    if body[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _Container(_tiff_declares(body), head=body)
    if body[:4] == b"GIF8":
        return _gif(body)
    return _Container(body[4:8] == b"ftyp" and _BMFF_UUID in body, head=body)


def _jpeg(body: bytes) -> _Container:
    """JUMBF boxes of the APP11 segments, joined by their box instance number (ISO 19566-5, annex D)."""
    pieces: dict[bytes, list[tuple[int, memoryview]]] = {}
    at, end, declares, view = 2, len(body), False, memoryview(body)
    for _ in range(_MAX_PARTS):
        if at + 4 > end or body[at] != 0xFF or body[at + 1] in (0xDA, 0xD9):  # to the pixels, the end, or nonsense
            break
        marker, length = body[at + 1], (body[at + 2] << 8) | body[at + 3]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xEB and body[at + 4 : at + 6] == b"JP":
            segment = view[at + 4 : at + 2 + length]
            declares = declares or b"c2pa" in bytes(segment[:64])
            if len(segment) >= 16:
                pieces.setdefault(bytes(segment[2:4]), []).append((int.from_bytes(segment[4:8], "big"), segment[8:]))
        at += 2 + max(length, 2)
    else:
        declares = True  # so many segments has no picture: what they hide is not looked for
    stores = tuple(store for parts in pieces.values() if _is_store(store := _joined(parts)))
    return _Container(declares, stores, view[:at], at if stores else 0)


_MAX_PARTS = 50_000


def _joined(parts: list[tuple[int, memoryview]]) -> bytes:
    """The box of numbered parts, each of which repeats the box's header."""
    parts = sorted(parts, key=lambda part: part[0])
    header = 16 if bytes(parts[0][1][:4]) == b"\0\0\0\x01" else 8
    return b"".join(part[header:] if n else part for n, (_, part) in enumerate(parts))


def _is_store(box: bytes) -> bool:
    """Whether a superbox describes itself as a C2PA manifest store, by its type or by its label."""
    return b"jumb" in box[:8] and (b"jumdc2pa" in box[:32] or b"c2pa\0" in box[:64])


def _png(body: bytes) -> _Container:
    """Whether there is a caBX chunk; and the text chunks, inflated, in which XMP may name a remote manifest."""
    at, declares = 8, False
    texts: list[bytes] = []
    for _ in range(_MAX_PARTS):
        if at + 8 > len(body):
            break
        length, kind = int.from_bytes(body[at : at + 4], "big"), body[at + 4 : at + 8]
        declares = declares or kind == b"caBX"
        if kind == b"iTXt" and len(texts) < 8:
            texts.append(_itxt(body[at + 8 : at + 8 + length]))
        at += 12 + length
    else:
        declares = True
    return _Container(declares, head=b"\n".join(texts))


def _itxt(chunk: bytes) -> bytes:
    """A text chunk's text; what cannot be inflated is for the rule `xmp` to say."""
    keyword, _, rest = chunk.partition(b"\0")
    if keyword == b"XML:com.adobe.xmp" and rest[:1] == b"\x01":
        packed = rest[2:].split(b"\0", 2)[-1]
        try:
            return zlib.decompressobj().decompress(packed, _MAX_HEAD)
        except zlib.error:
            return b""
    return chunk[:_MAX_HEAD]


_MAX_HEAD = 2**20


def _riff_declares(body: bytes) -> bool:
    at = 12
    for _ in range(_MAX_PARTS):
        if at + 8 > len(body):
            return False
        if body[at : at + 4] == b"C2PA":
            return True
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        at += 8 + length + (length & 1)
    return True


def _tiff_declares(body: bytes) -> bool:
    """Whether one of the first directories has the tag 0xCD41 (52545)."""
    order = "<" if body[:2] == b"II" else ">"
    big = body[2:4] in (b"+\0", b"\0+")
    size, count_format, offset_format = (20, "Q", "Q") if big else (12, "H", "I")
    counted = struct.calcsize(count_format)
    try:
        (at,) = struct.unpack_from(order + offset_format, body, 8 if big else 4)
        for _ in range(16):
            if not at:
                break
            (entries,) = struct.unpack_from(order + count_format, body, at)
            directory = body[at + counted : at + counted + min(entries, 4096) * size]
            tag = b"\x41\xcd" if order == "<" else b"\xcd\x41"
            if any(directory[i : i + 2] == tag for i in range(0, len(directory), size)):
                return True
            (at,) = struct.unpack_from(order + offset_format, body, at + counted + entries * size)
    except (struct.error, OverflowError):
        return False
    return False


def _gif(body: bytes) -> _Container:
    """The application extension "C2PA_GIF", its sub-blocks joined."""
    start = body.find(b"\x21\xff\x0bC2PA_GIF\x01\0\0")
    if start < 0:
        return _Container(False, head=body)
    at, blocks = start + 14, []
    while at < len(body) and (length := body[at]):
        blocks.append(body[at + 1 : at + 1 + length])
        at += 1 + length
    return _Container(True, (b"".join(blocks),), body, at)


def _carved(body: bytes, start: int) -> Iterator[memoryview]:
    """Stores that lie in one piece somewhere in the bytes: that is how most containers hold theirs."""
    at = body.find(b"jumdc2pa", start)
    for _ in range(2):  # one is what there may be, two are one too many
        if at < 0:
            return
        for header in (8, 16):
            first = at - 4 - header
            if first >= 0 and body[first + 4 : first + 8] == b"jumb":
                length = int.from_bytes(body[first : first + 4], "big")
                if length == 1:
                    length = int.from_bytes(body[first + 8 : first + 16], "big")
                yield memoryview(body)[first : first + length if length else None]
                break
        at = body.find(b"jumdc2pa", at + 8)


_DC_TERMS = b"http://purl.org/dc/terms/"
_PROVENANCE = re.compile(
    rb"""provenance\s{0,64}(?:=\s{0,64}["']|(?:\s[^<>]{0,512})?>)\s{0,64}([a-z]+://[^"'<>\s]{1,2000})""", re.IGNORECASE
)


def _remote(head: bytes) -> str | None:
    """The URL that XMP names as the place of the manifest (dcterms:provenance), if it is one."""
    at = head.find(b"provenance")
    for _ in range(64):
        if at < 0 or _DC_TERMS not in head:
            return None
        if found := _PROVENANCE.match(head, at):
            return found[1].decode("utf-8", "replace")
        at = head.find(b"provenance", at + 1)
    return "(too many places to tell)"


# ── the walk over the boxes ────────────────────────────────────────────────────────────────────────────────────────


class _Broken(Exception):
    """The bytes are no JUMBF or CBOR, or more of it than is read."""


class _Map(tuple[tuple[Any, Any], ...]):
    """A map as the pairs that were written: a key that stands there twice is two statements."""

    __slots__ = ()

    def values_of(self, key: str) -> list[Any]:
        return [value for k, value in self if k == key]


@dataclass(slots=True)
class _Walk:
    """What the walk over one file's stores found."""

    entries: list[C2paEntry] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # what no reader need mind, but nobody writes
    manifests: list[str] = field(default_factory=list)
    boxes: int = 0
    items: int = 0


def _walked(stores: list[memoryview]) -> _Walk:
    """Everything that the stores say; the last manifest of a store is the active one, others are ingredients'."""
    walk = _Walk()
    if not stores:
        walk.errors.append("parts of a manifest store without its beginning")
    elif len(stores) > 1:
        walk.errors.append("more than one manifest store")
    for store in stores[:2]:
        read = len(walk.entries)
        try:
            _store(walk, store)
        except _Broken as error:
            walk.errors.append(str(error))
        active = walk.manifests[-1] if walk.manifests else ""
        walk.entries[read:] = [replace(e, ingredient=e.manifest != active) for e in walk.entries[read:]]
    return walk


def _store(walk: _Walk, store: memoryview) -> None:
    if len(store) > _MAX_STORE_BYTES:
        raise _Broken("the manifest store is too large")
    for kind, start, end in _boxes(store, 0, len(store), walk):
        if kind != b"jumb":
            raise _Broken("the manifest store is no JUMBF superbox")
        _superbox(walk, store, start, end, ())
        if any(store[end:]):
            raise _Broken("bytes after the manifest store")
        return
    raise _Broken("the manifest store is empty")


def _boxes(data: memoryview, at: int, end: int, walk: _Walk) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the contents of each box between two places; raises _Broken where they do not add up."""
    while at < end:
        walk.boxes += 1
        if walk.boxes > _MAX_BOXES:
            raise _Broken("the manifest store has too many boxes")
        if not any(data[at : min(end, at + 8)]):  # padding
            if any(data[at:end]):
                raise _Broken("a box has neither length nor type")
            return
        if at + 8 > end:
            raise _Broken("a box is cut short")
        length, kind, start = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8]), at + 8
        if length == 1:
            if at + 16 > end:
                raise _Broken("a box is cut short")
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        stop = end if length == 0 else at + length
        if stop < start or stop > end:
            raise _Broken(f"a box {kind!r} does not end where it should")
        yield kind, start, stop
        at = stop


def _superbox(walk: _Walk, data: memoryview, start: int, end: int, labels: tuple[str, ...]) -> None:
    """One superbox: its description, then what it holds."""
    if len(labels) > _MAX_DEPTH:
        raise _Broken("boxes are nested too deeply")
    inside: tuple[str, ...] | None = None
    for kind, first, last in _boxes(data, start, end, walk):
        if inside is None:
            if kind != b"jumd" or last - first < 17:
                raise _Broken("a superbox does not describe itself")
            label = _label(data, first, last)
            inside = (*labels, label)
            if len(inside) == 1 and label != "c2pa":
                walk.doubts.append(f"a manifest store by another name: {label[:60]!r}")
            elif len(inside) == 2:
                walk.manifests.append(label)
            elif len(inside) == 3 and not _PARTS_OF_A_MANIFEST.match(label):
                walk.doubts.append(f"a part of a manifest that is not known: {label[:60]!r}")
        elif kind == b"jumb":
            _superbox(walk, data, first, last, inside)
        elif kind in (b"cbor", b"json"):
            _content(walk, kind, data[first:last], inside)
        elif kind not in _OTHER_BOXES and len(inside) > 2:
            walk.errors.append(f"an unknown box {kind!r} in {inside[-1][:60]!r}")
    if inside is None:
        raise _Broken("a superbox is empty")


_PARTS_OF_A_MANIFEST = re.compile(r"c2pa\.(?:assertions|claim|signature|credentials|databoxes)(?:\.v\d+)?\Z")
# Unprotected headers of a claim's signature: RFC 9360's certificates, time stamps, revocations, padding.
_UNPROTECTED = frozenset(map(repr, (33, "x5chain", "sigTst", "sigTst2", "rVals", "pad", "pad1", "pad2")))
_OTHER_BOXES = frozenset({b"bfdb", b"bidb", b"free", b"uuid", b"c2sh", b"jp2c", b"xml ", b"jumd", b"brob"})


def _label(data: memoryview, start: int, end: int) -> str:
    if not data[start + 16] & 2:
        return ""
    text, ended, _ = bytes(data[start + 17 : min(end, start + 17 + 1024)]).partition(b"\0")
    if not ended:
        raise _Broken("a label does not end")
    return text.decode("utf-8", "replace")


def _content(walk: _Walk, kind: bytes, content: memoryview, labels: tuple[str, ...]) -> None:
    """A content box: everything is read, so that what is broken is known; entries are taken from what holds some."""
    try:
        value = _json(content) if kind == b"json" else _Cbor(content, walk).read()
    except _Broken as error:
        walk.errors.append(f"{labels[-1][:60]}: {error}")
        if _is_training_mining(labels[-1]):
            walk.entries += _words_in(bytes(content), labels[-1])
        return
    manifest = labels[1] if len(labels) > 1 else ""
    if _is_training_mining(labels[-1]):
        found = list(_entries(value, labels[-1], manifest))
        if not found:
            walk.errors.append(f"{labels[-1][:60]}: no entries that can be read")
        walk.entries += found
    elif labels[-1] == "c2pa.signature":
        unprotected = value[1] if isinstance(value, list) and len(value) == 4 else None
        if not isinstance(unprotected, _Map) or any(repr(k) not in _UNPROTECTED for k, _ in unprotected):
            walk.doubts.append("a signature with unknown headers")
    elif b"DMI-PROHIBITED" in bytes(content):  # IPTC's property in a metadata assertion
        said = re.search(rb"DMI-PROHIBITED[A-Z-]{0,60}", bytes(content))
        word = said[0].decode() if said else "DMI-PROHIBITED"
        walk.entries.append(C2paEntry("plus:DataMining", word, labels[-1][:_MAX_WORD], manifest[:_MAX_WORD]))


def _is_training_mining(label: str) -> bool:
    """cawg.training-mining, c2pa.training-mining, with version and instance ("__1") or in a spelling near it."""
    return "trainingmining" in label.lower().replace("-", "").replace("_", "")


def _json(content: memoryview) -> Any:
    text = bytes(content[: _MAX_CONTENT_BYTES + 1])
    if len(text) > _MAX_CONTENT_BYTES or sum(map(text.count, (b"[", b"{", b","))) > _MAX_ITEMS:
        raise _Broken("too large")
    try:
        return json.loads(text, object_pairs_hook=_Map)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"not JSON ({type(error).__name__})") from error


def _entries(value: Any, assertion: str, manifest: str) -> Iterator[C2paEntry]:
    """The entries of an assertion: those in its map `entries`, or the map itself (an older grammar left that out)."""
    if not isinstance(value, _Map):
        return
    maps = value.values_of("entries") or [value]
    for entries in maps:
        if isinstance(entries, _Map):
            for name, said in entries[:_MAX_ENTRIES]:
                yield from _entry(str(name), said, assertion, manifest)


def _entry(name: str, said: Any, assertion: str, manifest: str) -> Iterator[C2paEntry]:
    words = said.values_of("use") if isinstance(said, _Map) else [said]
    if not isinstance(said, _Map) and name in ("metadata", "constraint_info", "constraints_info"):
        return
    info = ""
    if isinstance(said, _Map):
        info = " ".join(str(v) for k, v in said if k in ("constraint_info", "constraints_info"))
    for word in words or [None]:
        shown = word if isinstance(word, str) else repr(word)[:_MAX_WORD]
        use = re.sub(r"\A(?:cawg|c2pa)\.", "", name)
        yield C2paEntry(
            *(use[:_MAX_WORD], shown[:_MAX_WORD], assertion[:_MAX_WORD], manifest[:_MAX_WORD]),
            constraint=info[:_MAX_WORD],
        )


def _words_in(content: bytes, assertion: str) -> list[C2paEntry]:
    """What a content that cannot be decoded says all the same, spotted in its bytes."""
    words = [word for word in ("notAllowed", "constrained") if word.encode() in content]
    return [C2paEntry("", word, assertion[:_MAX_WORD], "") for word in words]


def _spotted(places: list[memoryview]) -> Iterator[C2paEntry]:
    """A no that stands somewhere in the bytes of a store that cannot be read."""
    for word, needle in (
        ("notAllowed", b"notAllowed"),
        ("constrained", b"kconstrained"),
        ("DMI-PROHIBITED", b"DMI-PROHIBITED"),
    ):
        if any(re.search(needle, place) for place in places):
            yield C2paEntry("", word, "found by scanning the bytes", "")


class _Cbor:
    """A bounded reader of one CBOR item (RFC 8949): no tags' meanings, maps as pairs."""

    __slots__ = ("at", "data", "walk")

    def __init__(self, data: memoryview, walk: _Walk) -> None:
        if len(data) > _MAX_CONTENT_BYTES:
            raise _Broken("too large")
        self.data, self.at, self.walk = bytes(data), 0, walk

    def read(self) -> Any:
        value = self._item(0)
        if any(self.data[self.at :]):
            raise _Broken("bytes after the CBOR item")
        return value

    def _item(self, depth: int) -> Any:
        self.walk.items += 1
        if depth > _MAX_DEPTH or self.walk.items > _MAX_ITEMS:
            raise _Broken("CBOR too deep or too large")
        if self.at >= len(self.data):
            raise _Broken("CBOR cut short")
        first = self.data[self.at]
        self.at += 1
        major, info = first >> 5, first & 31
        if major == 7:
            return self._simple(info)
        size = self._argument(info)
        if major < 2:
            if size is None:
                raise _Broken("not CBOR")
            return size if major == 0 else -1 - size
        if major < 4:
            return self._string(major, size, depth)
        if major == 6:
            if size is None:
                raise _Broken("not CBOR")
            return self._item(depth + 1)
        pairs = self._items(size, depth, 2 if major == 5 else 1)
        if major == 4:
            return pairs
        read = _Map(zip(pairs[::2], pairs[1::2], strict=True))
        if any(key in ("pad", "pad1", "pad2") and isinstance(v, bytes) and any(v) for key, v in read):
            self.walk.doubts.append("padding that is not empty")  # what no signature covers
        return read

    def _argument(self, info: int) -> int | None:
        """The number that a head carries; None: the length is not told in advance."""
        if info < 24:
            return info
        if info == 31:
            return None
        if info > 27:
            raise _Broken("not CBOR")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise _Broken("CBOR cut short")
        self.at += size
        return taken

    def _simple(self, info: int) -> Any:
        if info in (25, 26, 27):
            self._take(1 << (info - 24))
            return 0.0
        if info == 24:
            self._take(1)
        elif info > 24:
            raise _Broken("not CBOR")
        if info < 20 or info == 23:
            self.walk.doubts.append("a CBOR value that means nothing")
        return {20: False, 21: True}.get(info)

    def _string(self, major: int, size: int | None, depth: int) -> str | bytes:
        if size is None:
            parts = []
            while not self._ends():
                if self.at >= len(self.data) or self.data[self.at] >> 5 != major:
                    raise _Broken("not CBOR")
                parts.append(self._item(depth + 1))
            return "".join(parts) if major == 3 else b"".join(parts)
        held = self._take(size)
        if major == 2:
            return held
        try:
            return held.decode()
        except UnicodeDecodeError as error:
            raise _Broken("CBOR text that is not UTF-8") from error

    def _items(self, size: int | None, depth: int, each: int) -> list[Any]:
        if size is None:
            items = []
            while not self._ends():
                items.append(self._item(depth + 1))
            if len(items) % each:
                raise _Broken("a CBOR map with a key without a value")
            return items
        if size * each > len(self.data) - self.at:
            raise _Broken("CBOR cut short")
        return [self._item(depth + 1) for _ in range(size * each)]

    def _ends(self) -> bool:
        if self.data[self.at : self.at + 1] != b"\xff":
            return False
        self.at += 1
        return True


# ── what c2pa-python says of it ────────────────────────────────────────────────────────────────────────────────────

# Nothing that the library could ask the network for; what is not asked is not trusted either.
_OFFLINE: dict[str, dict[str, Any]] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
    "core": {
        "decode_identity_assertions": False,  # identities are looked up in the web (did:web)
        "allowed_network_hosts": [],
        "allow_redirects": False,
        "max_decompressed_manifest_size_in_mb": 32,
    },
}
_TYPES = (
    (b"\xff\xd8", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"RIFF", "image/webp"),
    (b"II", "image/tiff"),
    (b"MM", "image/tiff"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class _Told:
    """The library's answer. `failures`: codes of its validation."""

    state: str
    entries: tuple[C2paEntry, ...]
    failures: tuple[str, ...]


def _told_by_c2pa(body: bytes, trust_anchors: str | None) -> _Told | str:
    """State, failures and entries as c2pa-python reads them; a string: why it could not."""
    import c2pa  # here: 23 MB that the pictures without a manifest need not load

    try:
        with c2pa.Reader(_media_type(body), io.BytesIO(body), context=_context(trust_anchors)) as reader:
            told = json.loads(reader.json())
            state = reader.get_validation_state()
    except (c2pa.C2paError, ValueError, RecursionError) as error:
        return f"{type(error).__name__.lstrip('_')}: {error}"
    return _told(told, state, trusting=trust_anchors is not None)


@functools.lru_cache(maxsize=2)
def _context(trust_anchors: str | None) -> Any:
    import c2pa

    trust = {} if trust_anchors is None else {"trust": {"trust_anchors": trust_anchors}}
    return c2pa.Context.from_dict({**_OFFLINE, **trust})


def _media_type(body: bytes) -> str | None:
    if body[4:8] == b"ftyp":
        return "image/avif" if body[8:12] in (b"avif", b"avis") else "image/heic"
    return next((kind for magic, kind in _TYPES if body.startswith(magic)), None)


def _told(told: Any, state: str | None, trusting: bool) -> _Told | str:
    manifests = told.get("manifests") if isinstance(told, dict) else None
    if not isinstance(manifests, dict):
        return "c2pa-python lists no manifests"
    active = told.get("active_manifest")
    entries = []
    for label, manifest in manifests.items():
        for assertion in manifest.get("assertions") or ():
            if _is_training_mining(name := str(assertion.get("label", ""))):
                read = _entries(_as_map(assertion.get("data")), name, label)
                entries += [replace(entry, ingredient=label != active) for entry in read]
    known = {"Trusted": "trusted" if trusting else "valid", "Valid": "valid"}.get(state or "", "invalid")
    return _Told(known, tuple(entries), tuple(_failures(told.get("validation_results"))))


def _as_map(value: Any) -> Any:
    return _Map((k, _as_map(v)) for k, v in value.items()) if isinstance(value, dict) else value


def _failures(results: Any) -> list[str]:
    """The codes of everything that failed, the active manifest's and its ingredients'."""
    if not isinstance(results, dict):
        return []
    deltas = [d.get("validationDeltas") for d in results.get("ingredientDeltas") or () if isinstance(d, dict)]
    parts = [p for p in (results.get("activeManifest"), *deltas) if isinstance(p, dict)]
    return sorted({str(f.get("code")) for p in parts for f in p.get("failure") or () if isinstance(f, dict)})[:20]


# ── judging ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Failures that leave the store itself whole: the pixels are others, or it is not known who signed. All others mean
# that something in the store was changed, and what was changed may have been a no.
_STORE_IS_WHOLE = ("signingCredential.", "timeStamp.", "timeOfSigning.", "assertion.dataHash.", "assertion.bmffHash.")


def judge_c2pa(evidence: Evidence, rules: C2paRules) -> Judgement:
    """What the manifest store says of training: a no counts whoever says it, a yes only from those whom we trust."""
    held = evidence.c2pa
    where = evidence.image_url
    if held is None:
        if evidence.fetch_error is not None:
            return judgement(MECHANISM, Verdict.DEFER, "fetch-failed", evidence.fetch_error, where)
        return not_observed(MECHANISM, "the image's manifest store", where)
    if held.state == "absent" and not held.entries and not _may_be_elsewhere(evidence):
        return judgement(MECHANISM, None, "c2pa-absent", where=where)
    judged = [_judge_entry(entry, where) for entry in held.entries]
    judged += _judge_state(held, rules, where)
    if held.state == "absent" and evidence.embedded is not None and evidence.embedded.errors:
        # Absence in a whole file is one; what was cut off or broken may have been the manifest.
        judged.append(_damaged("c2pa-unreadable", "; ".join(evidence.embedded.errors), where, rules))
    if held.state == "absent" and (link := _manifest_link(evidence)) is not None:
        place, value = link
        judged.append(_damaged("c2pa-remote", value, place, rules))
    if _permits(held):
        shown = f"{_OUR_PURPOSE}: allowed, signed by somebody whom the operator trusts"
        judged.append(judgement(MECHANISM, Verdict.ALLOW, "c2pa-allowed", shown, where))
    return worst(judged)


def _may_be_elsewhere(evidence: Evidence) -> bool:
    """Whether something may tell of a store that was not found: a header, or damage."""
    return "link" in asked(evidence).header_names or (evidence.embedded is not None and bool(evidence.embedded.errors))


def _judge_entry(entry: C2paEntry, image: str) -> Judgement:
    """One entry: a no or a condition against training decides, a word that nobody knows waits, a yes is noted."""
    stance = _stance(entry)
    told = f"{entry.use or 'a use that cannot be read'}: {entry.value}"
    shown = f"{told} ({entry.constraint})" if entry.constraint else told
    whose = "an ingredient's manifest" if entry.ingredient else "manifest"
    where = f"{image}, {whose} {entry.manifest}, {entry.assertion}"
    signal = (Signal(MECHANISM, where, stance, shown),)
    if not _is_about_training(entry.use):
        return judgement(MECHANISM, None, "c2pa-silent", shown, where, signal)
    if stance is Stance.DENY:
        return judgement(MECHANISM, Verdict.DENY, "c2pa-not-allowed", shown, where, signal)
    if stance is Stance.CONSTRAINED:
        return judgement(MECHANISM, Verdict.DENY, "c2pa-constrained", shown, where, signal)
    if stance is Stance.ERROR:
        return judgement(MECHANISM, Verdict.DEFER, "c2pa-unknown-word", shown, where, signal)
    return judgement(MECHANISM, None, "c2pa-not-trusted", shown, where, signal)


def _stance(entry: C2paEntry) -> Stance:
    word = re.sub(r"[\s_-]", "", entry.value).lower()
    if word == "notallowed" or entry.value.startswith("DMI-PROHIBITED"):
        return Stance.DENY
    if word == "constrained":
        return Stance.CONSTRAINED
    return Stance.ALLOW if entry.value == "allowed" else Stance.ERROR


def _is_about_training(use: str) -> bool:
    """The three uses, by whoever's prefix; a use that could not be read; one of somebody's own that names training."""
    name = use.rpartition(".")[2].lower()
    return not name or name in _AGAINST_TRAINING or any(word in use.lower() for word in ("train", "mining"))


def _judge_state(held: C2pa, rules: C2paRules, where: str) -> Iterator[Judgement]:
    told = "; ".join(held.errors)
    if held.state == "absent":
        yield judgement(MECHANISM, None, "c2pa-absent", where=where)
    elif held.state == "remote":
        yield _damaged("c2pa-remote", told, where, rules)
    elif held.state == "invalid" and any(not code.startswith(_STORE_IS_WHOLE) for code in held.errors or ("?",)):
        yield _damaged("c2pa-changed", told, where, rules)
    elif held.state in ("trusted", "valid", "invalid"):
        yield judgement(MECHANISM, None, "c2pa-silent", f"the manifest store is {held.state}", where)
    else:
        yield _damaged("c2pa-unreadable", told, where, rules)


def _damaged(code: str, detail: str, where: str, rules: C2paRules) -> Judgement:
    verdict = Verdict.DENY if rules.damaged == "deny" else Verdict.DEFER
    stance = Stance.UNREACHABLE if code == "c2pa-remote" else Stance.ERROR
    return judgement(MECHANISM, verdict, code, detail, where, (Signal(MECHANISM, where, stance, detail[:200]),))


def _permits(held: C2pa) -> bool:
    """Whether a trusted store allows generative training itself, and nothing in it says otherwise of a use of ours."""
    relevant = [entry for entry in held.entries if _is_about_training(entry.use)]
    return (
        held.state == "trusted"
        and not held.errors
        and all(_stance(entry) is Stance.ALLOW for entry in relevant)
        and any(entry.use == _OUR_PURPOSE and not entry.ingredient for entry in relevant)
    )


def _manifest_link(evidence: Evidence) -> tuple[str, str] | None:
    """(place, value) of a Link header by which the image's answer says that its manifest is elsewhere."""
    for number, hop in enumerate(evidence.hops or (), 1):
        for name, value in hop.headers:
            if name.strip().lower() == "link" and "c2pa-manifest" in value.lower():
                return f"Link, hop {number}, {hop.url}", value.strip()
    return None
