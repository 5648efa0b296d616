"""The size of an ONNX model's input made free, where its export nailed it to a size that nobody means.

CenterFace is published with an input of 10 x 3 x 32 x 32 and works at any. Of the file only the declared shapes of
inputs and outputs are rewritten (protocol buffers, onnx.proto): not a single weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_VARINT, _BYTES = 0, 2  # wire types
# Fields of onnx.proto: ModelProto.graph; GraphProto.input and output; ValueInfoProto.name and type;
# TypeProto.tensor_type; Tensor.shape; TensorShapeProto.dim; Dimension.dim_value and dim_param.
_GRAPH, _INPUT, _OUTPUT, _NAME, _TYPE, _TENSOR, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 7, 11, 12, 1, 2, 1, 2, 1, 1, 2


def with_free_input(model: bytes, name: str) -> bytes:
    """The model with height, width and number of the input `name` free, and all shapes of outputs unsaid.

    Raises ValueError for what is no protocol buffer.
    """

    def graph(body: bytes) -> bytes:
        body = _mapped(body, _INPUT, lambda value: _freed(value) if _name_of(value) == name else value)
        return _mapped(body, _OUTPUT, _unsaid)

    return _mapped(model, _GRAPH, graph)


def _freed(value: bytes) -> bytes:
    """An input's [N, 3, H, W] with all but the channels free."""
    dims = [_field(_DIM, _named(letter)) for letter in ("N", "", "H", "W")]
    dims[1] = _field(_DIM, _varint(_DIM_VALUE << 3 | _VARINT) + _varint(3))
    return _mapped(value, _TYPE, lambda t: _mapped(t, _TENSOR, lambda s: _mapped(s, _SHAPE, lambda _: b"".join(dims))))


def _unsaid(value: bytes) -> bytes:
    """An output's dimensions, each one of any size."""

    def shape(body: bytes) -> bytes:
        return b"".join(_field(_DIM, b"") for number, _, _ in _fields(body) if number == _DIM)

    return _mapped(value, _TYPE, lambda t: _mapped(t, _TENSOR, lambda s: _mapped(s, _SHAPE, shape)))


def _named(letter: str) -> bytes:
    return _field(_DIM_PARAM, letter.encode())


def _name_of(value: bytes) -> str:
    return next((body.decode() for number, _, body in _fields(value) if number == _NAME and body is not None), "")


def _mapped(message: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with every field of that number changed, all others byte for byte as they are."""
    parts = []
    for number, raw, body in _fields(message):
        parts.append(_field(number, change(body)) if number == wanted and body is not None else raw)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Each field's number, its bytes as they lie there, and its body where it has a length."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        body: bytes | None = None
        match key & 7:
            case 0:  # a number
                _, position = _read_varint(message, position)
            case 1:  # eight bytes
                position += 8
            case 5:  # four bytes
                position += 4
            case 2:  # so many bytes
                length, position = _read_varint(message, position)
                body = message[position : position + length]
                position += length
            case kind:
                raise ValueError(f"no protocol buffer: wire type {kind}")
        if position > len(message):
            raise ValueError("no protocol buffer: it ends in the middle of a field")
        yield key >> 3, message[start:position], body


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("no protocol buffer: a number without an end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(body)) + body
