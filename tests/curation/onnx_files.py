"""ONNX files of a few bytes, written as onnx.proto has it: no package that makes them is needed."""

from __future__ import annotations

from collections.abc import Sequence


def two_numbers(shape: Sequence[int | None]) -> bytes:
    """A model that gives the means of the first two channels, [N, 2], of a float32 input [N, H, W, C].

    `shape`: of the input, None: of any size.
    """
    mean = _node("ReduceMean", "x", "means", _ints("axes", 1, 2), _int("keepdims", 0))
    cut = _node("Slice", "means", "y", _ints("axes", 1), _ints("starts", 0), _ints("ends", 2))
    graph = _field(1, mean) + _field(1, cut) + _field(2, b"two numbers")
    graph += _field(11, _value("x", shape)) + _field(12, _value("y", [None, 2]))
    return _number(1, 4) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 9))


def _node(kind: str, source: str, result: str, *attributes: bytes) -> bytes:
    named = _field(1, source.encode()) + _field(2, result.encode()) + _field(4, kind.encode())
    return named + b"".join(_field(5, attribute) for attribute in attributes)


def _ints(name: str, *values: int) -> bytes:
    return _field(1, name.encode()) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _int(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _number(3, value) + _number(20, 2)


def _value(name: str, shape: Sequence[int | None]) -> bytes:
    """A float32 tensor's declaration."""
    dims = b"".join(_field(1, _number(1, side) if side is not None else _field(2, b"N")) for side in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, 1) + _field(2, dims)))


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
