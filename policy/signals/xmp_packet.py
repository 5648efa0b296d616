"""XMP packets (ISO 16684-1): the rights properties in them, read namespace-aware and without building a tree.

A property counts by its namespace, never by its prefix, in every form that RDF/XML gives it: element or attribute,
rdf:resource, Bag, Seq and Alt, parseType="Resource". DTDs and entities are refused (defusedxml). What a hostile
packet may cost is bounded before the parser sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from xml.parsers.expat import ExpatError, XMLParserType

from defusedxml.ElementTree import DefusedXMLParser

MAX_PACKET_BYTES: Final = 4 << 20
MAX_VALUE_CHARS: Final = 2_000
# What stands in a foreign structure (an ingredient's metadata that an editor kept) speaks of something else.
NESTED: Final = "nested/"

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LOCALS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "plus": (
        ("http://ns.useplus.org/ldf/xmp/1.0/",),
        "DataMining OtherConstraints Licensor LicensorURL LicensorName CopyrightOwner CopyrightOwnerName "
        "ImageCreatorName ImageSupplierName TermsAndConditionsText TermsAndConditionsURL CreditLineRequired",
    ),
    "tdm": (
        tuple(f"http{s}://www.w3.org/ns/tdmrep{end}" for s in ("", "s") for end in ("/", "", "#", "/#")),
        "reservation policy",
    ),
    "cc": (
        ("http://creativecommons.org/ns#", "http://web.resource.org/cc/"),
        "license attributionName attributionURL morePermissions useGuidelines",
    ),
    "xmpRights": (("http://ns.adobe.com/xap/1.0/rights/",), "WebStatement UsageTerms Marked Owner Certificate"),
    "dc": (("http://purl.org/dc/elements/1.1/",), "rights creator title publisher source"),
    "dcterms": (("http://purl.org/dc/terms/",), "license rights rightsHolder accessRights provenance"),
    "photoshop": (("http://ns.adobe.com/photoshop/1.0/",), "Credit Source Instructions"),
    "Iptc4xmpExt": (
        ("http://iptc.org/std/Iptc4xmpExt/2008-02-29/",),
        "DigitalSourceType EmbdEncRightsExpr LinkedEncRightsExpr EncRightsExpr LinkedRightsExpr RightsExprEncType",
    ),
    "xmpNote": (("http://ns.adobe.com/xmp/note/",), "HasExtendedXMP"),
    "exif": (("http://ns.adobe.com/tiff/1.0/",), "Copyright Artist"),  # XMP's mirror of the EXIF fields
}
# Expanded name ("namespace}local") -> the name it has here, whatever prefix the packet uses.
PROPERTIES: Mapping[str, str] = {
    f"{uri}}}{local}": f"{prefix}:{local}"
    for prefix, (uris, names) in _LOCALS.items()
    for uri in uris
    for local in names.split()
}
# An element of these that says nothing readable is still a statement.
_ALWAYS_SAID = frozenset({"plus:DataMining", "tdm:reservation"})

_MAX_DEPTH = 200
_MAX_NAMESPACE_CHARS = 200
_MAX_VALUES = 64  # of one name
_STEP_BYTES = 64 << 10
_MAX_STEP_BYTES = 256 << 10
_BLANK = b" \t\r\n\0"
_BOMS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


class Property(NamedTuple):
    """A rights property by the name that it has here, and its value."""

    name: str
    value: str


@dataclass(slots=True)
class Budget:
    """What all packets of one image together may cost."""

    packets: int = 64
    size: int = 2 * MAX_PACKET_BYTES  # bytes
    tags: int = 100_000
    attributes: int = 50_000

    def spend(self, data: bytes) -> None:
        """Take the cost of one document; raises _Refused where too little is left."""
        self.packets -= 1
        self.size -= len(data)
        self.tags -= data.count(b"<")
        self.attributes -= data.count(b"=")
        left = {"packets": self.packets, "bytes": self.size, "tags": self.tags, "attributes": self.attributes}
        for name, number in left.items():
            if number < 0:
                raise _Refused(f"more {name} than are read")


class _Refused(Exception):
    """The packet is not what is read here."""


def read_packet(packet: bytes, budget: Budget) -> tuple[tuple[Property, ...], str]:
    """The rights properties of a packet, and what is wrong with it ("" where nothing is).

    Of a damaged packet the properties that were complete before the damage count.
    """
    reader = _Reader()
    error = "" if len(packet) <= MAX_PACKET_BYTES else f"longer than {MAX_PACKET_BYTES} bytes"
    try:
        data, undecodable = _as_utf8(packet[:MAX_PACKET_BYTES])
        for document in _documents(data):
            budget.spend(document)
            reader.read(document)
        if undecodable:
            raise _Refused(undecodable)
    # ValueError is defusedxml's, for a DTD or an entity, and pyexpat's, for a string it cannot make.
    except (_Refused, ExpatError, ValueError) as refused:
        error = error or str(refused) or type(refused).__name__
    return tuple(dict.fromkeys(reader.found)), error


def _as_utf8(packet: bytes) -> tuple[bytes, str]:
    """The packet in UTF-8, as far as it can be decoded, and what is wrong with the rest."""
    coded = next(((bom, coding) for bom, coding in _BOMS if packet.startswith(bom)), (b"", _coding(packet[:4])))
    bom, coding = coded
    if not coding:
        return packet, ""
    try:
        return packet[len(bom) :].decode(coding).encode("utf-8"), ""
    except UnicodeDecodeError as error:
        whole = packet[len(bom) : len(bom) + error.start]
        return whole.decode(coding).encode("utf-8"), f"bytes that are no {coding}"


def _coding(start: bytes) -> str:
    """UTF-16 or UTF-32 without a byte order mark, told by where the zeros of its first ASCII characters are."""
    zeros = "".join("0" if byte == 0 else "x" for byte in start)
    return {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(zeros, "")


def _documents(data: bytes) -> Iterator[bytes]:
    """The documents of a packet: one, unless somebody wrote another behind its end. Blank ones are damage too."""
    at, said = 0, False
    while at < len(data):
        end = data.find(b"<?xpacket end", at)
        close = data.find(b"?>", end) if end >= 0 else -1
        stop = close + 2 if close >= 0 else len(data)
        document = data[at:stop].strip(_BLANK).removeprefix(b"\xef\xbb\xbf").lstrip(_BLANK)
        if document:
            said = True
            yield document
        at = stop
    if not said:
        raise _Refused("nothing in it")


class _Frame(NamedTuple):
    """An open element: the property its text belongs to, its outermost property's namespace, what it opened."""

    text_of: str
    owner: str
    said: str
    found_before: int


_OUTSIDE = _Frame("", "", "", 0)
_FOREIGN = "foreign"


class _Reader:
    """The handlers of the parser, and what they found."""

    def __init__(self) -> None:
        self.found: list[Property] = []
        self._counts: dict[str, int] = {}

    def read(self, document: bytes) -> None:
        """Parse one document; raises _Refused, ExpatError, ValueError."""
        self._open: list[_Frame] = []
        self._text: list[str] = []
        self._text_chars = 0
        self._rdf_depth, self._rdf_seen = 0, False
        # The encoding is ours to say: a declaration of another would bring in every codec that Python has.
        parser: XMLParserType = DefusedXMLParser(target=object(), encoding="utf-8", forbid_dtd=True).parser
        parser.ordered_attributes = True
        parser.buffer_text = True
        parser.DefaultHandlerExpand = None
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        self._names = parser.intern
        _feed(parser, document)
        if not self._rdf_seen:
            raise _Refused("no rdf:RDF in it")

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if uri is not None and len(uri) > _MAX_NAMESPACE_CHARS:
            raise _Refused(f"a namespace of more than {_MAX_NAMESPACE_CHARS} characters")

    def _start(self, name: str, attributes: list[str]) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise _Refused(f"nested deeper than {_MAX_DEPTH} levels")
        if len(self._names) > 1000:  # the parser keeps every name that it has ever seen
            self._names.clear()
        if not self._rdf_depth:
            self._open.append(_OUTSIDE)
            if name == f"{_RDF}RDF":
                self._rdf_depth, self._rdf_seen = len(self._open), True
            return
        parent = self._open[-1]
        self._flush(parent)
        frame = self._frame(name, parent)
        self._open.append(frame)
        for i in range(0, len(attributes), 2):
            attribute = attributes[i]
            if attribute in PROPERTIES:
                self._add(_named(attribute, frame.owner), attributes[i + 1])
            elif frame.text_of and attribute in (f"{_RDF}resource", f"{_RDF}value"):
                self._add(frame.text_of, attributes[i + 1])

    def _frame(self, name: str, parent: _Frame) -> _Frame:
        if name.startswith(_RDF):  # containers, items, nodes: they pass the property on
            return _Frame(parent.text_of, parent.owner, "", 0)
        namespace = name.rpartition("}")[0]
        owner = namespace if parent.owner in ("", namespace) else _FOREIGN
        if name not in PROPERTIES:
            return _Frame("", owner, "", 0)
        known = _named(name, parent.owner)
        return _Frame(known, owner, known, len(self.found))

    def _characters(self, text: str) -> None:
        if self._open and self._open[-1].text_of and self._text_chars <= MAX_VALUE_CHARS:
            self._text.append(text)
            self._text_chars += len(text)

    def _end(self, name: str) -> None:
        frame = self._open.pop()
        if not self._rdf_depth:
            return
        if len(self._open) < self._rdf_depth:
            self._rdf_depth = 0
            return
        self._flush(frame)
        if frame.said and frame.said.removeprefix(NESTED) in _ALWAYS_SAID:
            said = self.found[frame.found_before :]
            if not any(p.name == frame.said for p in said):
                self._add(frame.said, "", blank=True)

    def _flush(self, frame: _Frame) -> None:
        """Give the text so far to the property it stands in."""
        if self._text:
            self._add(frame.text_of, "".join(self._text))
            self._text.clear()
            self._text_chars = 0

    def _add(self, name: str, value: str, *, blank: bool = False) -> None:
        value = value.strip()
        if not (name and (value or blank)):
            return
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._counts[name] > _MAX_VALUES:
            raise _Refused(f"more than {_MAX_VALUES} values of {name}")
        self.found.append(Property(name, value[:MAX_VALUE_CHARS]))


def _named(expanded: str, owner: str) -> str:
    """The name of a property that stands in a structure of `owner`: of its own vocabulary, or a foreign one."""
    foreign = owner not in ("", expanded.rpartition("}")[0])
    return NESTED + PROPERTIES[expanded] if foreign else PROPERTIES[expanded]


def _feed(parser: XMLParserType, document: bytes) -> None:
    """Parse in steps: a refusal takes effect at the end of one, and a long token is not scanned over and over."""
    view, at, step = memoryview(document), 0, _STEP_BYTES
    while at < len(document):
        parser.Parse(view[at : at + step], False)
        at += step
        pending = at - parser.CurrentByteIndex
        step = min(max(_STEP_BYTES, pending), _MAX_STEP_BYTES)
    parser.Parse(b"", True)
