"""ONNX files of a few nodes, written by hand (onnx.proto3): enough to act as a detector whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FLOAT, INT64 = 1, 7
_INT, _INTS = 2, 7  # AttributeProto.type


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)


def _bytes(field: int, body: bytes | str) -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def tensor(name: str, values: npt.ArrayLike) -> bytes:
    """A constant by its name: float32, or int64 for whole numbers."""
    array = np.asarray(values)
    is_whole = array.dtype.kind == "i"
    dims = b"".join(_number(1, side) for side in array.shape)
    raw = array.astype("<i8" if is_whole else "<f4").tobytes()
    return dims + _number(2, INT64 if is_whole else FLOAT) + _bytes(8, name) + _bytes(9, raw)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    """One operation."""
    body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            body += _bytes(5, _bytes(1, name) + _number(3, value) + _number(20, _INT))
        else:
            ints = b"".join(_number(8, one) for one in value)
            body += _bytes(5, _bytes(1, name) + ints + _number(20, _INTS))
    return body


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> bytes:
    """An input or output; a side that is a word is free."""
    dims = b"".join(_bytes(1, _bytes(2, side) if isinstance(side, str) else _number(1, side)) for side in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))


def model(
    nodes: Sequence[bytes], constants: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A whole file, opset 13."""
    graph = b"".join(
        _bytes(field, part)
        for field, parts in ((1, nodes), (5, constants), (11, inputs), (12, outputs))
        for part in parts
    )
    return _number(1, 8) + _bytes(7, graph + _bytes(2, "tiny")) + _bytes(8, _bytes(1, "") + _number(2, 13))


# ── detectors that take blocks of one colour for faces ─────────────────────────────────────────────────────────────
def _mean_of(channel: int, cell: int, outputs: int = 1) -> npt.NDArray[np.float32]:
    """Weights of a convolution that gives the mean of a channel in each cell."""
    weights = np.zeros((outputs, 3, cell, cell), np.float32)
    weights[:, channel] = 1 / cell**2
    return weights


def _constant(name: str, value: Sequence[float], cell: int) -> tuple[bytes, list[bytes]]:
    """A convolution that gives these numbers in every cell."""
    weights = tensor(f"{name}_w", np.zeros((len(value), 3, cell, cell), np.float32))
    made = node("Conv", ["x", f"{name}_w", f"{name}_b"], name, strides=[cell, cell], kernel_shape=[cell, cell])
    return made, [weights, tensor(f"{name}_b", np.asarray(value, np.float32))]


def centerface(shape: Sequence[int | str], log_size: tuple[float, float], offset: tuple[float, float]) -> bytes:
    """CenterFace's outputs: the heat is the share of red in 4 px cells; (height, width) and (y, x) as given."""
    nodes = [node("Conv", ["x", "heat_w"], "537", strides=[4, 4], kernel_shape=[4, 4])]
    constants = [tensor("heat_w", _mean_of(0, 4) / 255)]
    for name, numbers in (("538", log_size), ("539", offset), ("540", (0.0,) * 10)):
        made, more = _constant(name, numbers, 4)
        nodes.append(made)
        constants += more
    outputs = [value(name, [shape[0], n, 8, 8]) for name, n in (("537", 1), ("538", 2), ("539", 2), ("540", 10))]
    return model(nodes, constants, [value("x", shape)], outputs)


def yunet(shape: Sequence[int | str], box: tuple[float, float, float, float]) -> bytes:
    """YuNet's outputs: cls is the share of blue, which stands first, in 8 px cells; all coarser strides see nothing."""
    nodes, outputs = [], []
    constants = [tensor("one", [1, -1, 1]), tensor("four", [1, -1, 4]), tensor("ten", [1, -1, 10])]
    for stride in (8, 16, 32):
        weights = _mean_of(0, stride) / 255 * (stride == 8)
        constants.append(tensor(f"w{stride}", weights))
        nodes.append(node("Conv", ["x", f"w{stride}"], f"c{stride}", strides=[stride] * 2, kernel_shape=[stride] * 2))
        nodes.append(node("Reshape", [f"c{stride}", "one"], f"cls_{stride}"))
        for part, numbers, how in (("obj", (1.0,), "one"), ("bbox", box, "four"), ("kps", (0.0,) * 10, "ten")):
            made, more = _constant(f"{part}{stride}", numbers, stride)
            turned = node("Transpose", [f"{part}{stride}"], f"{part}t{stride}", perm=[0, 2, 3, 1])
            nodes += [made, turned, node("Reshape", [f"{part}t{stride}", how], f"{part}_{stride}")]
            constants += more
    for part, n in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        outputs += [value(f"{part}_{stride}", [1, f"n{stride}", n]) for stride in (8, 16, 32)]
    return model(nodes, constants, [value("x", shape)], outputs)


def scrfd(shape: Sequence[int | str], distances: tuple[float, float, float, float], anchors: int = 2) -> bytes:
    """SCRFD's outputs without landmarks: the score is the normalised mean of red in 8 px cells, for every anchor."""
    nodes, outputs = [], []
    constants = [tensor("one", [-1, 1]), tensor("four", [-1, 4])]
    for stride in (8, 16, 32):
        constants.append(tensor(f"w{stride}", _mean_of(0, stride, anchors) * (stride == 8)))
        nodes.append(node("Conv", ["x", f"w{stride}"], f"c{stride}", strides=[stride] * 2, kernel_shape=[stride] * 2))
        nodes.append(node("Transpose", [f"c{stride}"], f"t{stride}", perm=[0, 2, 3, 1]))
        nodes.append(node("Reshape", [f"t{stride}", "one"], f"score{stride}"))
        made, more = _constant(f"d{stride}", distances * anchors, stride)
        turned = node("Transpose", [f"d{stride}"], f"dt{stride}", perm=[0, 2, 3, 1])
        nodes += [made, turned, node("Reshape", [f"dt{stride}", "four"], f"bbox{stride}")]
        constants += more
    outputs = [value(f"score{stride}", [f"n{stride}", 1]) for stride in (8, 16, 32)]
    outputs += [value(f"bbox{stride}", [f"n{stride}", 4]) for stride in (8, 16, 32)]
    return model(nodes, constants, [value("x", shape)], outputs)


def without_numbers() -> bytes:
    """A CenterFace whose heat is no number: log(-1)."""
    nodes = [
        node("Conv", ["x", "w"], "c", strides=[4, 4], kernel_shape=[4, 4]),
        node("Add", ["c", "minus"], "less"),
        node("Log", ["less"], "537"),
    ]
    constants = [tensor("w", _mean_of(0, 4) * 0), tensor("minus", np.float32([-1]))]
    for name, n in (("538", 2), ("539", 2), ("540", 10)):
        made, more = _constant(name, (0.0,) * n, 4)
        nodes.append(made)
        constants += more
    outputs = [value(name, ["N", n, "h", "w"]) for name, n in (("537", 1), ("538", 2), ("539", 2), ("540", 10))]
    return model(nodes, constants, [value("x", ["N", 3, "H", "W"])], outputs)


def no_detector(shape: Sequence[int | str]) -> bytes:
    """A model that is no detector: the input itself."""
    return model([node("Identity", ["x"], "y")], [], [value("x", shape)], [value("y", shape)])
