"""Whether two pictures are one: the same pixels, but for a crop, a border, a turn or mirror, another size or coding.

An embedding says which pictures are alike; this says which are the same. A mapping from one picture onto the other is
looked for (one of the eight orientations, a scale, an offset), refined to a fraction of a pixel, and then the two are
held against each other block by block: a copy differs nowhere by more than recompression explains, while another emoji
with the same face but for its mouth differs in some blocks and in no other.

Alignment: Lucas and Kanade (IJCAI 1981), affine, with gain and bias (Baker and Matthews, IJCV 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Rgb = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]  # [H, W]
Pixels = npt.NDArray[np.float32]  # [H, W, 3]
Affine = npt.NDArray[np.float64]  # [2, 3]: a point of the first picture to one of the second, continuous pixels

# A picture is held at about so many pixels in all, whatever its shape: coarsely to find, finely to compare.
COARSE_PX: Final = 40
MIDDLE_PX: Final = 64
FINE_PX: Final = 128
MIN_SIDE_PX: Final = 24  # of the fine one: narrower than that there is nothing to align by
BLOCK_PX: Final = 8

SMALLEST_SCALE: Final = 0.62  # of a crop, in length
# What makes two pictures one; measured in docs/benchmarks.md (duplicates).
MIN_TEXTURED: Final = 12
MIN_OVERLAP: Final = (0.9, 0.35)  # of the one of which more lies in the other, and of the other
MIN_GAIN: Final = 0.6
MAX_BIAS: Final = 16.0
MIN_CORRELATION: Final = 0.86
# A copy differs everywhere alike, a variant in one place and no other: what the worst block may differ by, and what
# mean colour may differ by, follow from what the median block does.
SHIFT: Final = 5.0
SHIFT_BY: Final = 28.0
MAX_SHIFT: Final = 24.0
SPARED: Final = 0.5
SPARED_BY: Final = 3.2
MAX_WORST: Final = 1.95

_GUESSES: Final = 3
_UPRIGHT: Final = (0, 4)  # orientations in which a crop is looked for; a whole picture is in all eight
_SURE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Sketch:
    """A picture at three sizes, as it is compared. `fine`: RGB; the others brightness."""

    fine: Rgb
    luma: Plane
    middle: Plane
    coarse: Plane

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the fine one."""
        return self.fine.shape[1], self.fine.shape[0]


def sketch(rgb: Rgb) -> Sketch | None:
    """What is compared of a uint8 [H, W, 3] picture; None where it is too narrow for that."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    fine = _at_area(image, FINE_PX)
    if fine is None or min(fine.size) < MIN_SIDE_PX:
        return None
    grey = fine.convert("L")
    middle, coarse = (_at_area(grey, side) for side in (MIDDLE_PX, COARSE_PX))
    if middle is None or coarse is None:
        return None
    return Sketch(np.asarray(fine), *(np.asarray(one, np.float32) for one in (grey, middle, coarse)))


def _at_area(image: Image.Image, side: int) -> Image.Image | None:
    """The picture at about side * side pixels, its shape kept."""
    scale = side / math.sqrt(image.width * image.height)
    size = (round(image.width * scale), round(image.height * scale))
    if min(size) < 1:
        return None
    return (
        image
        if size == image.size
        else image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    )


# ── the eight orientations ─────────────────────────────────────────────────────────────────────────────────────────


def oriented(plane: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """A picture in one of its eight orientations, numbered as `curation.fingerprints.pdq_orientations` has them."""
    side = plane[:, ::-1] if orientation >= 4 else plane
    return np.ascontiguousarray(np.rot90(side, orientation % 4))


def _orienting(orientation: int, size: tuple[int, int]) -> Affine:
    """Maps points of the oriented picture to points of the picture itself, of (width, height) `size`."""
    width, height = size
    turn: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    w, h = (width, height)
    # rot90 once: output (x, y) shows input (w - y, x)
    for _ in range(orientation % 4):
        turn = _compose(turn, np.array([[0.0, -1.0, w], [1.0, 0.0, 0.0]]))
        w, h = h, w
    if orientation >= 4:
        turn = _compose(np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0]]), turn)
    return turn


def _compose(outer: Affine, inner: Affine) -> Affine:
    """outer after inner."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.hstack([linear, (outer[:, :2] @ inner[:, 2] + outer[:, 2])[:, None]])


# ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Guess:
    score: float
    orientation: int
    mapping: Affine  # fine pixels of the first to fine pixels of the second
    framed: bool  # whole onto whole


def _guesses(one: Sketch, other: Sketch) -> Iterator[_Guess]:
    """How the two may lie over each other, the likeliest first; the whole of both first of all where it fits well."""
    whole = sorted(_whole(one, other), key=lambda guess: -guess.score)
    sure = whole[:1] if whole[0].score >= _SURE else []
    yield from sure
    found = [*whole[len(sure) :], *_within(one, other, inverse=False), *_within(other, one, inverse=True)]
    yield from sorted(found, key=lambda guess: -guess.score)[: _GUESSES - len(sure)]


def _unit(plane: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Zero mean and unit length along the last axis; zeros where there is no structure."""
    flat = plane - plane.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(flat, axis=-1, keepdims=True)
    length = np.where(norm < 2.0 * math.sqrt(plane.shape[-1]), np.inf, norm)
    unit: npt.NDArray[np.float32] = (flat / length).astype(np.float32)
    return unit


def _square(plane: Plane, side: int = 32) -> Plane:
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BOX), np.float32)


def _whole(one: Sketch, other: Sketch) -> Iterator[_Guess]:
    """The whole of one picture onto the whole of the other, whatever their shapes."""
    first, second = _unit(_square(one.middle).ravel()), _square(other.middle)
    turned = np.stack([oriented(second, o).ravel() for o in range(8)])
    for orientation, score in enumerate(_unit(turned) @ first):
        size = other.size if orientation % 2 == 0 else other.size[::-1]
        stretch = np.array([[size[0] / one.size[0], 0.0, 0.0], [0.0, size[1] / one.size[1], 0.0]])
        yield _Guess(float(score), orientation, _compose(_orienting(orientation, other.size), stretch), True)


def _within(outer: Sketch, inner: Sketch, *, inverse: bool) -> Iterator[_Guess]:
    """The inner picture somewhere in the outer one, as it is or mirrored: the best place of each.

    `inverse`: the mapping that is wanted goes from inner to outer.
    """
    height, width = outer.coarse.shape
    sums = _summed(outer.coarse)
    inner_h, inner_w = inner.coarse.shape
    largest = min(width / inner_w, height / inner_h)
    best: dict[int, tuple[float, tuple[float, float, float]]] = {}
    for scale in _scales(largest, max(inner_w, inner_h)):
        w, h = min(width, round(inner_w * scale)), min(height, round(inner_h * scale))
        if min(w, h) < 8:
            break
        windows = np.lib.stride_tricks.sliding_window_view(outer.coarse, (h, w))
        rows, columns = windows.shape[:2]
        filtered = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        template = np.asarray(Image.fromarray(inner.coarse).resize((w, h), filtered))
        templates = np.stack([template.ravel(), template[:, ::-1].ravel()])
        # The templates have no mean, so that of the windows drops out.
        products = windows.reshape(rows * columns, h * w) @ _unit(templates).T
        scores = products / _window_norms(sums, h, w).reshape(-1, 1)
        places = scores.argmax(axis=0)
        for number, orientation in enumerate(_UPRIGHT):
            score = float(scores[places[number], number])
            if score > best.get(orientation, (0.0,))[0]:
                y, x = divmod(int(places[number]), columns)
                best[orientation] = score, (x, y, w / inner_w)
    ratio_outer, ratio_inner = outer.size[0] / width, inner.size[0] / inner.coarse.shape[1]
    for orientation, (score, (x, y, scale)) in best.items():
        # outer fine -> outer coarse -> oriented inner coarse -> oriented inner fine -> inner fine
        k = ratio_inner / (scale * ratio_outer)
        into = np.array([[k, 0.0, -x * ratio_outer * k], [0.0, k, -y * ratio_outer * k]])
        mapping = _compose(_orienting(orientation, inner.size), into)
        yield _Guess(score, orientation, _inverted(mapping) if inverse else mapping, False)


def _summed(plane: Plane) -> npt.NDArray[np.float64]:
    """Summed-area tables of the values and of their squares, [2, H + 1, W + 1]."""
    values = plane.astype(np.float64)
    tables = np.zeros((2, plane.shape[0] + 1, plane.shape[1] + 1))
    tables[:, 1:, 1:] = np.stack([values, values**2]).cumsum(axis=1).cumsum(axis=2)
    return tables


def _window_norms(sums: npt.NDArray[np.float64], h: int, w: int) -> npt.NDArray[np.float32]:
    """The length of every window of h by w less its mean, [rows, columns]; infinite where it has no structure."""
    total, squares = sums[:, h:, w:] - sums[:, :-h, w:] - sums[:, h:, :-w] + sums[:, :-h, :-w]
    norms = np.sqrt(np.maximum(squares - total**2 / (h * w), 0.0))
    return np.where(norms < 2.0 * math.sqrt(h * w), np.inf, norms).astype(np.float32)


def _scales(largest: float, side: int) -> Iterator[float]:
    step = 2.0 / side
    for number in range(int((1 - SMALLEST_SCALE) / step) + 1):
        yield largest * (1 - number * step)


def _inverted(mapping: Affine) -> Affine:
    linear = np.linalg.inv(mapping[:, :2])
    return np.hstack([linear, (-linear @ mapping[:, 2])[:, None]])


# ── aligning ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _warped(image: Image.Image, mapping: Affine, size: tuple[int, int]) -> npt.NDArray[np.generic]:
    return np.asarray(image.transform(size, Image.Transform.AFFINE, tuple(mapping.ravel()), Image.Resampling.BILINEAR))


def _inside(
    mapping: Affine, size: tuple[int, int], other: tuple[int, int], margin: float = 0.5
) -> npt.NDArray[np.bool_]:
    """Which pixels of a picture of `size` map into one of size `other`; bool [H, W]."""
    x, y = np.arange(size[0]) + 0.5, (np.arange(size[1]) + 0.5)[:, None]
    u = mapping[0, 0] * x + mapping[0, 1] * y + mapping[0, 2]
    v = mapping[1, 0] * x + mapping[1, 1] * y + mapping[1, 2]
    inside: npt.NDArray[np.bool_] = (u >= margin) & (u <= other[0] - margin) & (v >= margin) & (v <= other[1] - margin)
    return inside


def _rescaled(mapping: Affine, first: float, second: float) -> Affine:
    """The same mapping between pictures scaled by these factors."""
    linear = mapping[:, :2] * (second / first)
    return np.hstack([linear, mapping[:, 2:] * second])


def _aligned(one: Plane, other: Plane, mapping: Affine, rounds: int) -> tuple[Affine, float]:
    """The mapping refined by Gauss and Newton's method, and the correlation of the two where they overlap."""
    size, other_size = (one.shape[1], one.shape[0]), (other.shape[1], other.shape[0])
    gradient_y, gradient_x = np.gradient(other)
    images = [Image.fromarray(np.asarray(p, np.float32)) for p in (other, gradient_x, gradient_y)]
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    best, best_score = mapping, -1.0
    for number in range(rounds + 1):
        inside = _inside(mapping, size, other_size, 1.0)
        if inside.sum() < 0.2 * inside.size:
            break
        values, gx, gy = (_warped(image, mapping, size)[inside].astype(np.float64) for image in images)
        target = one[inside].astype(np.float64)
        centred, wanted = values - values.mean(), target - target.mean()
        scale = math.sqrt(float(centred @ centred) * float(wanted @ wanted))
        score = float(centred @ wanted) / scale if scale > 0 else 0.0
        if score > best_score:
            best, best_score = mapping, score
        if number == rounds or score < 0.2:
            break
        px, py = x[inside], y[inside]
        # target = gain * other(mapping + step) + bias, linear in gain * step
        design = np.stack([gx * px, gx * py, gx, gy * px, gy * py, gy, values, np.ones_like(values)], axis=1)
        lengths = np.linalg.norm(design, axis=0) + 1e-9
        scaled = design / lengths
        solution = np.linalg.solve(scaled.T @ scaled + 1e-6 * np.eye(8), scaled.T @ target) / lengths
        gain = solution[6]
        if not gain > 0.2:
            break
        step = solution[:6].reshape(2, 3) / gain
        moved = float(np.abs(step[:, :2]).sum() * max(size) / 2 + np.abs(step[:, 2]).sum())
        mapping = mapping + step
        if moved < 0.02:
            rounds = number + 1  # one more look at where it has come to
    return best, best_score


# ── comparing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found of two pictures laid over each other, the second after the first.

    `orientation`: in which the second shows the first, as `curation.fingerprints.pdq_orientations` numbers them.
    `correlation`: of brightness over the overlap. `overlap`: its share of the first and of the second picture.
    `gain`, `bias`: of the pixels of the second over those of the first. `textured`: blocks in which there is something
    to compare. `typical`, `worst`: by how much textured blocks differ, the median one and the worst of all, as a share
    of what strong recompression does to a block of that contrast. `shift`: the largest difference of a block's mean
    colour, in levels of 255.
    """

    orientation: int
    correlation: float
    overlap: tuple[float, float]
    gain: float
    bias: float
    textured: int
    typical: float
    worst: float
    shift: float


def same(one: Sketch, other: Sketch) -> Comparison | None:
    """How the second shows the first, where the two are one picture; None where they are not, or nothing says so."""
    return next((found for found in comparisons(one, other) if _is_copy(found)), None)


def _is_copy(found: Comparison) -> bool:
    """Nowhere do they differ by more than recompression explains, judged by how much they differ everywhere."""
    return (
        found.textured >= MIN_TEXTURED
        and max(found.overlap) >= MIN_OVERLAP[0]
        and min(found.overlap) >= MIN_OVERLAP[1]
        and MIN_GAIN <= found.gain <= 1 / MIN_GAIN
        and abs(found.bias) <= MAX_BIAS
        and found.correlation >= MIN_CORRELATION
        and found.shift <= min(MAX_SHIFT, SHIFT + SHIFT_BY * found.typical)
        and found.worst <= min(MAX_WORST, SPARED + SPARED_BY * found.typical)
    )


def comparisons(one: Sketch, other: Sketch) -> Iterator[Comparison]:
    """The two laid over each other in the likeliest ways."""
    for guess in _guesses(one, other):
        if guess.score < 0.6:
            break
        r1, r2 = one.middle.shape[1] / one.size[0], other.middle.shape[1] / other.size[0]
        mapping, score = _aligned(one.middle, other.middle, _rescaled(guess.mapping, r1, r2), 12)
        if score < 0.8:
            continue
        mapping, score = _aligned(one.luma, other.luma, _rescaled(mapping, 1 / r1, 1 / r2), 6)
        if score < 0.85:
            continue
        yield from _held(one, other, mapping, score, guess)


# How much strong recompression changes a block: so many levels, and such a share of its contrast.
_LEVELS: Final = 8.0
_OF_CONTRAST: Final = 0.3
_TEXTURE: Final = 6.0  # levels: a block of less contrast is flat


def _held(one: Sketch, other: Sketch, mapping: Affine, score: float, guess: _Guess) -> Iterator[Comparison]:
    """The two block by block, with their brightness as it is, and made equal."""
    size = one.size
    inside = _inside(mapping, size, other.size)
    area = float(inside.sum())
    stretch = abs(float(np.linalg.det(mapping[:, :2])))
    overlap = area / inside.size, area * stretch / (other.size[0] * other.size[1])
    if area < 0.2 * inside.size:
        return
    second = _warped(Image.fromarray(other.fine), mapping, size).astype(np.float32)
    first = one.fine.astype(np.float32)
    colour = [float(np.abs(np.diff(p[inside], axis=-1)).mean()) for p in (first, second)]
    if min(colour) < 2.0 < max(colour) / 2:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        first, second = ((p @ weights)[..., None].repeat(3, axis=-1) for p in (first, second))
    first, second = _equally_sharp(first, second, inside)
    counted = _blocks(inside[..., None].astype(np.float32)).mean(axis=(1, 2)) > 0.75
    if not counted.any():
        return
    contrast = np.sqrt(_blocks(first)[counted].var(axis=1).mean(axis=1))
    textured = contrast > _TEXTURE
    for gain, bias in ((1.0, 0.0), _photometry(first[inside], second[inside])):
        rest = np.where(inside[..., None], second - np.clip(gain * first + bias, 0, 255), 0.0)
        rests = _blocks(rest)[counted]
        ratio = np.sqrt((rests**2).mean(axis=(1, 2))) / (_LEVELS + _OF_CONTRAST * contrast)
        yield Comparison(
            orientation=guess.orientation,
            correlation=score,
            overlap=overlap,
            gain=gain,
            bias=bias,
            textured=int(textured.sum()),
            typical=float(np.median(ratio[textured])) if textured.any() else 0.0,
            worst=float(ratio.max()),
            shift=float(np.abs(rests.mean(axis=1)).max()),
        )


def _blocks(values: Pixels) -> Pixels:
    """The whole blocks of a picture, [N, pixels, channels]."""
    h, w = values.shape[0] // BLOCK_PX, values.shape[1] // BLOCK_PX
    cut = values[: h * BLOCK_PX, : w * BLOCK_PX].reshape(h, BLOCK_PX, w, BLOCK_PX, -1)
    return cut.transpose(0, 2, 1, 3, 4).reshape(h * w, BLOCK_PX**2, -1)


_BLURS: Final = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.9, 3.5)  # standard deviations, in fine pixels


def _equally_sharp(first: Pixels, second: Pixels, inside: npt.NDArray[np.bool_]) -> tuple[Pixels, Pixels]:
    """The two with the sharper one blurred as far as makes them most alike: one of them may have been smaller once."""
    edges = [float(np.abs(np.diff(p, axis=1))[inside[:, 1:]].mean()) for p in (first, second)]
    sharper, duller = (first, second) if edges[0] > edges[1] else (second, first)

    def error(picture: Pixels) -> float:
        difference = (picture - duller)[inside]
        return float((difference - difference.mean(axis=0)).std())

    best, least = sharper, error(sharper)
    for sigma in _BLURS:
        blurred = _blurred(sharper, sigma)
        if (found := error(blurred)) >= least:
            break
        best, least = blurred, found
    return (best, second) if sharper is first else (first, best)


def _blurred(picture: Pixels, sigma: float) -> Pixels:
    image = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), np.float32)


def _photometry(first: Pixels, second: Pixels) -> tuple[float, float]:
    """Gain and bias of the second's values over the first's, by least squares over those that fit best.

    Values at the end of the range say nothing: a picture made brighter ends there.
    """
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    between = (b > 4) & (b < 251)
    if between.sum() < 64:
        return 1.0, 0.0
    a, b = a[between], b[between]
    gain, bias = 1.0, 0.0
    for share in (1.0, 0.8, 0.8):
        error = np.abs(b - gain * a - bias)
        kept = error <= np.quantile(error, share)
        x, y = a[kept], b[kept]
        if (variance := float(x.var())) < 1.0:
            break
        gain = float(((x - x.mean()) * (y - y.mean())).mean() / variance)
        bias = float(y.mean() - gain * x.mean())
    return gain, bias
