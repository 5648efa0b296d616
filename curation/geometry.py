"""Whether two pictures are one: the same pixels, but for a crop, a border, a turn or mirror, another size or coding.

An embedding says which pictures are alike; this says which are the same. A mapping from one picture onto the other is
looked for (one of the eight orientations, a scale, an offset), refined to a fraction of a pixel, and then the two are
held against each other block by block. What a copy may differ by is no fixed number: both pictures are compressed as
strongly as their difference suggests, at the size of the smaller one, and what that does to a block is what the block
may differ by. So a copy of 72 pixels at JPEG quality 10 is one, while another emoji with the same face but for its
mouth differs in some blocks where compression does nothing.Where only the colour differs by more, the one is
compressed as the other seems to have been, on the other's own grid of blocks: what a coder made of a picture is then
known almost exactly, by the colour that it rounded.

Alignment: Lucas and Kanade (IJCAI 1981), affine, with gain and bias (Baker and Matthews, IJCV 2004).
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

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
MIN_GAIN: Final = 0.75  # a fifth darker is 0.8; 0.7 makes one skin of a hand the next
MAX_BIAS: Final = 16.0
# What is white in both: a darker copy's is grey. On white ground a brighter copy cannot be told from a hand of the next
# skin, so neither is one.
WHITE: Final = 250
MAX_WHITE_IN_BOTH: Final = 0.1
MIN_CORRELATION: Final = 0.86
# In shares of what compression explains. A copy differs everywhere alike, a variant in one place and no other: what the
# worst block of brightness and of colour may differ by, and the mean of the worst window, follow from what four in five
# blocks do: so much, and so many times that.
WORST: Final = (0.4, 2.4)
WORST_COLOUR: Final = (0.7, 1.9)
SHIFT: Final = (0.8, 2.4)
SHIFT_COLOUR: Final = (0.75, 1.8)
# Levels of colour by which the mean of a window may differ, however strong the compression: at quality 10 a coder
# rounds it to steps of 10.6, and what a window has of its neighbours comes on top.
MAX_CAST: Final = 10.0
MAX_CAST_STRONGEST: Final = 13.0
# A picture made much smaller keeps the means of its windows, whatever else it loses: of 18 pixels little else tells one
# skin or flag from the next.
MUCH_SMALLER: Final = 0.45
MAX_SHIFT_REDUCED: Final = 1.8
MAX_SHIFT_COLOUR_REDUCED: Final = 1.1
MAX_CAST_UNEXPLAINED: Final = 4.0  # where no compression explains well what they differ by
# Coding one picture as the other was explains them, if it leaves so much of what they differ by at most. Shares of what
# that coding does to a block and to the mean of a window, as above: brightness, colour, and of colour in levels.
EXPLAINED: Final = 0.8
RECODED_WORST: Final = (2.2, 1.7)
RECODED_SHIFT: Final = (2.3, 1.9)
RECODED_CAST: Final = 9.0
RECODED_TYPICAL: Final = (1.3, 0.9)
NEARLY: Final = 2.2  # by how many times the bounds of colour may be exceeded by what recoding may still explain
# Where words lie over a picture: the share of blocks that may differ; of the others, the share that must have texture;
# and the compression, since what is left of a small or spoilt picture does not tell words from another mouth.
MAX_OVERLAID: Final = 0.14
MIN_BUSY: Final = 0.65
MIN_BUSY_BLOCKS: Final = 120
MIN_OVERLAID_QUALITY: Final = 50

_GUESSES: Final = 3
_UPRIGHT: Final = (0, 4)  # orientations in which a crop is looked for; a whole picture is in all eight
_SURE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Sketch:
    """A picture at three sizes, as it is compared. `fine`: RGB; the others brightness.

    `native`: its own width and height.
    """

    fine: Rgb
    luma: Plane
    middle: Plane
    coarse: Plane
    native: tuple[int, int]

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
    luma, half, small = (np.asarray(plane, np.float32) for plane in (grey, middle, coarse))
    return Sketch(np.asarray(fine), luma, half, small, image.size)


def _at_area(image: Image.Image, side: int) -> Image.Image | None:
    """The picture at about side * side pixels, its shape kept."""
    scale = side / math.sqrt(image.width * image.height)
    size = (round(image.width * scale), round(image.height * scale))
    if min(size) < 1:
        return None
    return (
        image
        if size == image.size
        # Not BOX: shrunk by a little it doubles some pixels and not others, and copies of two sizes differ by that.
        else image.resize(size, Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC)
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


def _warped(
    image: Image.Image,
    mapping: Affine,
    size: tuple[int, int],
    resampling: Literal[Image.Resampling.BILINEAR, Image.Resampling.BICUBIC] = Image.Resampling.BILINEAR,
) -> npt.NDArray[np.generic]:
    return np.asarray(image.transform(size, Image.Transform.AFFINE, tuple(mapping.ravel()), resampling))


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


_GAIN: Final = 0.001  # of correlation: rounds that bring less, so many in a row, are the last
_PATIENCE: Final = 2


def _aligned(one: Plane, other: Plane, mapping: Affine, rounds: int) -> tuple[Affine, float]:
    """The mapping refined by Gauss and Newton's method, and the correlation of the two where they overlap."""
    size, other_size = (one.shape[1], one.shape[0]), (other.shape[1], other.shape[0])
    gradient_y, gradient_x = np.gradient(other)
    images = [Image.fromarray(np.asarray(p, np.float32)) for p in (other, gradient_x, gradient_y)]
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    best, best_score, gained = mapping, -1.0, 0
    for number in range(rounds + 1):
        inside = _inside(mapping, size, other_size, 1.0)
        if inside.sum() < 0.2 * inside.size:
            break
        values, gx, gy = (_warped(image, mapping, size)[inside].astype(np.float64) for image in images)
        target = one[inside].astype(np.float64)
        centred, wanted = values - values.mean(), target - target.mean()
        scale = math.sqrt(float(centred @ centred) * float(wanted @ wanted))
        score = float(centred @ wanted) / scale if scale > 0 else 0.0
        if score > best_score + _GAIN:
            gained = number
        if score > best_score:
            best, best_score = mapping, score
        if number == rounds or score < 0.2 or number - gained > _PATIENCE:
            break
        px, py = x[inside], y[inside]
        # target = gain * other(mapping + step) + bias, linear in gain * step
        design = np.stack([gx * px, gx * py, gx, gy * px, gy * py, gy, values, np.ones_like(values)])
        products = design @ design.T
        lengths = np.sqrt(np.diag(products)) + 1e-9
        products = products / np.outer(lengths, lengths) + 1e-6 * np.eye(8)
        solution = np.linalg.solve(products, design @ target / lengths) / lengths
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
    to compare. `quality`: of JPEG, the best that explains what most blocks differ by; 0: none does. `typical`,
    `typical_colour`: by how much four in five of the textured blocks differ at most in brightness and in colour, as a
    share of what that quality does to them; `worst`, `worst_colour`: the worst block of all. `shift`, `shift_colour`:
    the same of the mean of a window as large as the coder's blocks. `cast`: that of colour in levels of 255.
    `overlaid`: the share of blocks that were left out as drawn over; the rest was measured without them. `severed`:
    what lies beyond the overlap is a thing of its own, as the accent over a letter.
    """

    orientation: int
    correlation: float
    overlap: tuple[float, float]
    gain: float
    bias: float
    textured: int
    quality: int
    typical: float
    typical_colour: float
    worst: float
    worst_colour: float
    shift: float
    shift_colour: float
    cast: float
    overlaid: float
    severed: bool
    reduced: float


def same(one: Sketch, other: Sketch) -> Comparison | None:
    """How the second shows the first, where the two are one picture; None where they are not, or nothing says so."""
    for laid in _laid_over(one, other):
        recoded: _Recoded | None = None
        for found in _held(laid):
            if _is_copy(found):
                return found
            # A brightness that was made equal is not what the coder saw.
            if found.gain == 1 and _is_nearly(found):
                recoded = recoded or _recoded(laid)
                if recoded.confirms():
                    return found
    return None


def _is_copy(found: Comparison, colours: float = 1.0) -> bool:
    """Nowhere do they differ by more than recompression explains; in colour by no more than `colours` times that."""
    return (
        found.textured >= MIN_TEXTURED
        and max(found.overlap) >= MIN_OVERLAP[0]
        and min(found.overlap) >= MIN_OVERLAP[1]
        and MIN_GAIN <= found.gain <= 1 / MIN_GAIN
        and abs(found.bias) <= MAX_BIAS
        and found.correlation >= MIN_CORRELATION
        and found.quality > 0
        and found.worst <= _bound(WORST, found.typical)
        and found.worst_colour <= colours * _bound(WORST_COLOUR, found.typical_colour)
        and found.shift <= _bound(SHIFT, found.typical)
        and found.shift_colour <= colours * _bound(SHIFT_COLOUR, found.typical_colour)
        and found.cast <= colours * _most_cast(found)
        and (found.reduced > MUCH_SMALLER or _keeps_its_means(found))
        and not found.severed
    )


def _is_nearly(found: Comparison) -> bool:
    """It is a copy but for a colour that a strong compression may have rounded."""
    return found.overlaid == 0 and _is_copy(found, NEARLY)


def _most_cast(found: Comparison) -> float:
    if found.typical > _FITS:
        return MAX_CAST_UNEXPLAINED
    return MAX_CAST_STRONGEST if found.quality == _QUALITIES[-1] else MAX_CAST


def _keeps_its_means(found: Comparison) -> bool:
    return found.shift <= MAX_SHIFT_REDUCED and found.shift_colour <= MAX_SHIFT_COLOUR_REDUCED


def _bound(line: tuple[float, float], typical: float) -> float:
    return line[0] + line[1] * min(typical, _FITS)


@dataclass(frozen=True, slots=True)
class _Laid:
    """Two pictures, one laid over the other: `mapping` takes fine pixels of the first to those of the second."""

    one: Sketch
    other: Sketch
    mapping: Affine
    correlation: float
    orientation: int


def comparisons(one: Sketch, other: Sketch) -> Iterator[Comparison]:
    """The two laid over each other in the likeliest ways."""
    for laid in _laid_over(one, other):
        yield from _held(laid)


def _laid_over(one: Sketch, other: Sketch) -> Iterator[_Laid]:
    side = min(math.sqrt(one.native[0] * one.native[1]), math.sqrt(other.native[0] * other.native[1]))
    one, other = _as_seen_at(one, side), _as_seen_at(other, side)
    tried: list[Affine] = []
    for guess in _guesses(one, other):
        if guess.score < 0.6:
            break
        r1, r2 = one.middle.shape[1] / one.size[0], other.middle.shape[1] / other.size[0]
        mapping, score = _aligned(one.middle, other.middle, _rescaled(guess.mapping, r1, r2), 12)
        # Several guesses end in one place.
        if score < 0.8 or any(np.abs(mapping - before).max() < 0.5 for before in tried):
            continue
        tried.append(mapping)
        mapping, score = _aligned(one.luma, other.luma, _rescaled(mapping, 1 / r1, 1 / r2), 6)
        if score >= 0.85:
            yield _Laid(one, other, mapping, score, guess.orientation)


def _as_seen_at(picture: Sketch, side: float) -> Sketch:
    """The picture with its brightness as one of `side` * `side` pixels would show it, if it has more than that.

    Lines that a small copy has lost would else keep the two from being laid over each other.
    """
    if math.sqrt(picture.native[0] * picture.native[1]) < 1.25 * side:
        return picture
    luma, middle, coarse = (_shrunk_to(plane, side) for plane in (picture.luma, picture.middle, picture.coarse))
    return replace(picture, luma=luma, middle=middle, coarse=coarse)


def _shrunk_to(plane: Plane, side: float) -> Plane:
    """A brightness at about side * side pixels, and back at its size; as it is where it has no more."""
    height, width = plane.shape
    scale = side / math.sqrt(width * height)
    if scale >= 0.8:
        return plane
    image, small = Image.fromarray(plane), (max(1, round(width * scale)), max(1, round(height * scale)))
    back = image.resize(small, Image.Resampling.HAMMING).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(back, np.float32)


def _held(laid: _Laid) -> Iterator[Comparison]:
    """The two block by block, with their brightness as it is, and made equal."""
    one, other, mapping = laid.one, laid.other, laid.mapping
    # In the pixels of the one that shows the overlap larger: the other way pixels would be left out.
    swapped = abs(float(np.linalg.det(mapping[:, :2]))) > 1
    if swapped:
        one, other, mapping = other, one, _inverted(mapping)
    size, stretch = one.size, abs(float(np.linalg.det(mapping[:, :2])))
    area = float(_inside(mapping, size, other.size).sum())
    overlap = area / (size[0] * size[1]), area * stretch / (other.size[0] * other.size[1])
    inside = _well_inside(mapping, size, other.size)
    if inside.sum() < 0.2 * inside.size:
        return
    first = one.fine.astype(np.float32)
    second = _warped(Image.fromarray(other.fine), mapping, size, Image.Resampling.BICUBIC).astype(np.float32)
    colour = [float(np.abs(np.diff(p[inside], axis=-1)).mean()) for p in (first, second)]
    if min(colour) < 2.0 < max(colour) / 2:
        first, second = ((p @ _LUMA)[..., None].repeat(3, axis=-1) for p in (first, second))
    # How many pixels each of the two has for each that is compared.
    scales = one.native[0] / size[0], math.sqrt(stretch) * other.native[0] / other.size[0]
    scale = min(1.0, *scales)
    severed = _is_severed(one.luma, _inside(mapping, size, other.size)) or _is_severed(
        other.luma, _inside(_inverted(mapping), other.size, size)
    )
    for even in (False, True):
        gain, bias = _photometry(first[inside], second[inside]) if even else (1.0, 0.0)
        if even and not (MIN_GAIN <= gain <= 1 / MIN_GAIN and max(abs(gain - 1) * 128, abs(bias)) > 1):
            return
        if even and float((np.minimum(first, second)[inside].min(axis=-1) >= WHITE).mean()) > MAX_WHITE_IN_BOTH:
            return
        # First as bright, then as sharp: beside what is cut at white a brighter copy looks sharper than it is.
        brought = np.clip(gain * first + bias, 0, 255) if even else first
        blocks = _Blocks(*_equally_sharp(brought, second, inside, scales), inside, scale)
        if not blocks.counted.any():
            return
        differing = blocks.differing()
        yield Comparison(
            orientation=laid.orientation,
            correlation=laid.correlation,
            overlap=overlap[::-1] if swapped else overlap,
            gain=1 / gain if swapped else gain,
            bias=-bias / gain if swapped else bias,
            textured=int(blocks.textured.sum()),
            quality=differing.quality,
            typical=differing.typical,
            typical_colour=differing.typical_colour,
            worst=differing.worst,
            worst_colour=differing.worst_colour,
            shift=differing.shift,
            shift_colour=differing.shift_colour,
            cast=differing.cast,
            overlaid=differing.overlaid,
            severed=severed,
            reduced=min(1.0, *scales) / min(1.0, max(scales)),
        )


def _well_inside(mapping: Affine, size: tuple[int, int], other: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """`_inside` without what lies along the edge of either picture."""
    inside = _inside(mapping, size, other, _EDGE)
    edge = math.ceil(_EDGE)
    inside[:edge] = inside[-edge:] = inside[:, :edge] = inside[:, -edge:] = False
    return inside


def _is_severed(luma: Plane, overlap: npt.NDArray[np.bool_]) -> bool:
    """Whether the overlap cuts a picture where it is empty, and something else lies beyond.

    A crop cuts through what is there, or cuts empty ground off; that a picture lies on a page, with other things
    around it, shows by its edge, along which it differs from the page.
    """
    beyond = ~_grown(overlap, 4)
    if beyond.mean() < _SEVERED_FROM:
        return False
    strip = _grown(overlap, 4) & ~_grown(overlap, 1)
    if not strip.any() or np.ptp(np.quantile(luma[strip], (0.02, 0.98))) > _STEP:
        return False
    ground = float(np.median(luma[strip]))
    if (np.abs(luma[beyond] - ground) > _THING).mean() < _THING_FROM:
        return False
    edge = _grown(strip, 5) & ~_grown(~overlap, 1)
    return bool(edge.any()) and float((np.abs(luma[edge] - ground) > _STEP).mean()) < _EDGED_ALONG


_SEVERED_FROM: Final = 0.03  # of a picture: so much must lie beyond
_STEP: Final = 16.0  # levels
_THING: Final = 64.0  # levels by which a thing of its own differs from the ground that it lies on,
_THING_FROM: Final = 0.04  # and how much of what lies beyond it takes up
_EDGED_ALONG: Final = 0.75


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    image = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * by + 1))
    return np.asarray(image) > 127


_EDGE: Final = 1.5  # pixels along the edge of the overlap, in which what lies beside it shows
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_YCC: Final = np.stack([_LUMA, np.array([-0.1687, -0.3313, 0.5]), np.array([0.5, -0.4187, -0.0813])], 1).astype(
    np.float32
)
_TEXTURE: Final = 6.0  # levels: a block of less contrast is flat
_QUALITIES: Final = (92, 50, 25, 10)
_FLOOR: Final = 2.5  # levels that any two coders differ by
_OFF_PX: Final = 0.12  # by which two that were laid over each other may be off
_FITS: Final = 1.2  # what four in five blocks differ by at most, where a quality explains them


@dataclass(frozen=True, slots=True)
class _Differing:
    quality: int
    typical: float
    typical_colour: float
    worst: float
    worst_colour: float
    shift: float
    shift_colour: float
    cast: float
    overlaid: float = 0.0


class _Blocks:
    """Two pictures laid over each other, [H, W, 3], cut into blocks, and what compression does to each of these.

    `scale`: pixels of the smaller picture a pixel of these, at most 1.
    """

    def __init__(self, first: Pixels, second: Pixels, inside: npt.NDArray[np.bool_], scale: float) -> None:
        self._first, self._second, self._inside, self._scale = first, second, inside, scale
        self.counted = _blocks(inside[..., None].astype(np.float32)).mean(axis=(1, 2)) > 0.6
        self.textured = np.sqrt(_blocks(first)[self.counted].var(axis=1).mean(axis=1)) > _TEXTURE
        steep = [np.abs(np.stack(np.gradient(p @ _LUMA))).max(axis=0) for p in (first, second)]
        self._steep = np.where(inside, np.maximum(*steep), 0)[..., None]
        self._edges = _OFF_PX * np.sqrt((_blocks(self._steep)[self.counted] ** 2).mean(axis=(1, 2)))
        self._noise: dict[int, npt.NDArray[np.float32]] = {}

    def differing(self) -> _Differing:
        """By how much the second differs from the first."""
        rest, told = self._told()
        # The strongest compression first: what that does not explain nothing does, and so it is with most.
        *better, strongest = _QUALITIES
        if max(self._typical(told, strongest)) > 1.25 * _FITS:
            return _Differing(0, *[math.inf] * 7)
        quality = next((q for q in better if max(self._typical(told, q)) <= _FITS), strongest)
        typical, typical_colour = self._typical(told, quality)
        ratio = told / self._allowed(quality)
        bounds = np.array([[_bound(WORST, typical)], [_bound(WORST_COLOUR, typical_colour)]])
        changed = (ratio[0] > bounds[0]) | (ratio[1] > bounds[1])
        overlaid = float(changed.mean())
        if overlaid and quality >= MIN_OVERLAID_QUALITY and self._is_overlaid(changed):
            inside = self._inside & ~self._around(changed)
            ratio = ratio[:, ~self._around_blocks(changed)]
        else:
            overlaid, inside = 0.0, self._inside
        worst, worst_colour = ratio.max(axis=1, initial=0.0).tolist()
        shifts = self._shifts(rest, inside, quality)
        return _Differing(quality, typical, typical_colour, worst, worst_colour, *shifts, overlaid)

    def recoded(self, quality: int) -> _Differing:
        """The same where the first was made by a coder of that quality as the second was."""
        rest, told = self._told()
        worst, worst_colour = (told / self._allowed(quality)).max(axis=1, initial=0.0).tolist()
        shifts = self._shifts(rest, self._inside, quality)
        return _Differing(quality, *self._typical(told, quality), worst, worst_colour, *shifts)

    def _told(self) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """What they differ by, [H, W, 3], and each block's in brightness and in colour, in levels, [2, blocks]."""
        rest = np.where(self._inside[..., None], (self._second - self._first) @ _YCC, 0)
        return rest, _by_block(rest, self.counted)

    def _typical(self, told: npt.NDArray[np.float32], quality: int) -> tuple[float, float]:
        """What four in five of the textured blocks differ by at most, in brightness and in colour."""
        some = (told / self._allowed(quality))[:, self.textured]
        brightness, colour = np.quantile(some, 0.8, axis=1).tolist() if some.size else (math.inf, math.inf)
        return brightness, colour

    def _allowed(self, quality: int) -> npt.NDArray[np.float32]:
        """What each block may differ by in brightness and in colour, in levels, [2, blocks]."""
        if quality not in self._noise:
            both = np.maximum(*(_compressed(p, self._scale, quality) for p in (self._first, self._second)))
            squares = _blocks(both)[self.counted].mean(axis=1)
            noise = np.stack([squares[:, 0], squares[:, 1:].mean(axis=1)])
            typical = np.median(np.sqrt(noise), axis=1, keepdims=True) ** 2
            self._noise[quality] = np.sqrt(_FLOOR**2 + noise + typical + self._edges**2)
        return self._noise[quality]

    def _shifts(self, rest: Pixels, inside: npt.NDArray[np.bool_], quality: int) -> tuple[float, float, float]:
        """By how much the mean of a window differs: the worst of brightness and of colour, as shares of what rounding
        explains, and that of colour in levels. A coder keeps the mean of each of its blocks but for rounding: of 8
        pixels of brightness, of 16 of colour.
        """
        percent = 5_000 / quality if quality < 50 else 200 - 2 * quality  # as libjpeg scales its tables
        shifts, cast = [], 0.0
        for side, first, channels in ((8, 16, slice(0, 1)), (16, 17, slice(1, 3))):
            values = np.concatenate([np.where(inside[..., None], rest[..., channels], 0), self._steep], axis=-1)
            means = _means(values, inside, max(BLOCK_PX, round(side / self._scale)))
            off = np.abs(means[:, :-1]).max(axis=1)
            rounding = max(1.0, first * percent / 100) / 16  # the mean is an eighth of the first coefficient
            allowed = np.sqrt(_FLOOR**2 + rounding**2 + (_OFF_PX * means[:, -1]) ** 2)
            shifts.append(float((off / allowed).max(initial=0.0)))
            cast = float(off.max(initial=0.0))
        return shifts[0], shifts[1], cast

    def _is_overlaid(self, changed: npt.NDArray[np.bool_]) -> bool:
        """Whether what differs lies over a picture that is busy everywhere else: a flag with another emblem is not."""
        busy = self.textured & ~changed
        return (
            self._scale == 1
            and float(changed.mean()) <= MAX_OVERLAID
            and int(busy.sum()) >= MIN_BUSY_BLOCKS
            and float(busy.sum() / max(1, (~changed).sum())) >= MIN_BUSY
        )

    def _grid(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which blocks are marked or touch one that is, of the whole grid, [rows, columns]."""
        rows, columns = (side // BLOCK_PX for side in self._inside.shape)
        grid = np.zeros(rows * columns, np.bool_)
        grid[np.flatnonzero(self.counted)[marked]] = True
        padded = np.pad(grid.reshape(rows, columns), 1)
        near: npt.NDArray[np.bool_] = np.zeros((rows, columns), np.bool_)
        for y, x in np.ndindex(3, 3):
            near |= padded[y : y + rows, x : x + columns]
        return near

    def _around_blocks(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        around: npt.NDArray[np.bool_] = self._grid(marked).ravel()[self.counted]
        return around

    def _around(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        around = np.zeros(self._inside.shape, np.bool_)
        grid = self._grid(marked).repeat(BLOCK_PX, axis=0).repeat(BLOCK_PX, axis=1)
        around[: grid.shape[0], : grid.shape[1]] = grid
        return around


def _compressed(picture: Pixels, scale: float, quality: int) -> Pixels:
    """What JPEG of a quality does to a picture, where it does it: squared, brightness and colour, [H, W, 3].

    Compressed at `scale`, with colour at half the size and the coder's blocks half a block off; the mean of each block
    of 8 pixels is spread over its neighbourhood, since where the blocks of the copy lay nobody knows.
    """
    image = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
    size = max(8, round(image.width * scale)), max(8, round(image.height * scale))
    small = np.asarray(image if size == image.size else image.resize(size, Image.Resampling.HAMMING))
    shifted = np.pad(small, ((4, 0), (4, 0), (0, 0)), "edge")
    held = io.BytesIO()
    Image.fromarray(shifted).save(held, "JPEG", quality=quality, subsampling=2)
    back = np.asarray(Image.open(held))[4:, 4:]
    squares = ((back.astype(np.float32) - small) @ _YCC) ** 2
    cells = max(1, size[0] // 8), max(1, size[1] // 8)
    spread = (
        Image.fromarray(np.ascontiguousarray(squares[..., channel]))
        .resize(cells, Image.Resampling.BOX)
        .resize(image.size, Image.Resampling.BILINEAR)
        for channel in range(3)
    )
    return np.stack([np.asarray(plane) for plane in spread], axis=-1)


def _means(values: Pixels, inside: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float64]:
    """Means of values [H, W, C] over windows of side * side, every fourth, that lie mostly inside, [N, C]."""
    side = min(side, *inside.shape)
    tables = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1, values.shape[2] + 1))
    tables[1:, 1:] = np.concatenate([values, inside[..., None]], axis=-1).cumsum(axis=0).cumsum(axis=1)
    sums = tables[side:, side:] - tables[:-side, side:] - tables[side:, :-side] + tables[:-side, :-side]
    sums = sums[::4, ::4].reshape(-1, values.shape[2] + 1)
    sums = sums[sums[:, -1] > 0.7 * side**2]
    means: npt.NDArray[np.float64] = sums[:, :-1] / sums[:, -1:]
    return means


def _by_block(rest: Pixels, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    squares = (_blocks(rest)[counted] ** 2).mean(axis=1)
    told: npt.NDArray[np.float32] = np.sqrt(np.stack([squares[:, 0], squares[:, 1:].mean(axis=1)]))
    return told


def _blocks(values: Pixels) -> Pixels:
    """The whole blocks of a picture, [N, pixels, channels]."""
    h, w = values.shape[0] // BLOCK_PX, values.shape[1] // BLOCK_PX
    cut = values[: h * BLOCK_PX, : w * BLOCK_PX].reshape(h, BLOCK_PX, w, BLOCK_PX, -1)
    return cut.transpose(0, 2, 1, 3, 4).reshape(h * w, BLOCK_PX**2, -1)


_BLURS: Final = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.9, 3.5)  # standard deviations, in fine pixels


def _equally_sharp(
    first: Pixels, second: Pixels, inside: npt.NDArray[np.bool_], scales: tuple[float, float]
) -> tuple[Pixels, Pixels]:
    """The two with the sharper one blurred as far as makes them most alike: one of them may have been smaller once.

    `scales`: pixels of each a pixel of these. Where one of them is smaller, the other is the sharper one, though
    brightness that swings beside its edges may make the small one steeper; the other is made as small and large again
    as well, since no blur takes away what a drawing loses by that.
    """
    grey = [p @ _LUMA for p in (first, second)]
    steep = [float(np.abs(np.diff(p, axis=1))[inside[:, 1:]].mean()) for p in grey]
    smaller = min(scales) < _SMALLER_ONCE * min(1.0, max(scales))
    by = scales if smaller else steep
    sharper = 0 if by[0] > by[1] else 1
    sharp, target = (first, second)[sharper], grey[1 - sharper][inside]
    best, least = sharp, float((grey[sharper][inside] - target).std())
    blurred = 0.0
    for sigma in _BLURS:
        if (found := float((_blurred(grey[sharper], sigma)[inside] - target).std())) >= least:
            break
        blurred, least = sigma, found
    if blurred:
        best = _blurred(sharp, blurred)
    for filtered in (Image.Resampling.LANCZOS, Image.Resampling.BOX) if smaller else ():
        small = _small_and_back(sharp, min(scales), filtered)
        if (found := float(((small @ _LUMA)[inside] - target).std())) < least:
            best, least = small, found
    return (best, second) if sharper == 0 else (first, best)


_SMALLER_ONCE: Final = 0.8


def _small_and_back(picture: Pixels, scale: float, filtered: Image.Resampling) -> Pixels:
    image = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), filtered)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), np.float32)


def _blurred(picture: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
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
    for share in (1.0, 0.8, 0.7, 0.6, 0.6, 0.6):
        error = np.abs(b - gain * a - bias)
        kept = error <= np.quantile(error, share)
        x, y = a[kept], b[kept]
        if (variance := float(x.var())) < 1.0:
            break
        gain = float(((x - x.mean()) * (y - y.mean())).mean() / variance)
        bias = float(y.mean() - gain * x.mean())
    return gain, bias


# ── coding one as the other was ────────────────────────────────────────────────────────────────────────────────────

# Qualities that are tried, and about the best of these their neighbours: what a coder rounds colour to changes with
# each, the more the lower they are.
_TRIED: Final = {
    60: (50, 55, 70, 80),
    40: (33, 36, 45, 50),
    28: (24, 26, 30, 33),
    20: (17, 18, 22, 24),
    14: (12, 13, 15, 16),
    10: (8, 9, 11, 12),
}


class _Recoded:
    """What JPEG makes of one picture, `source`, on the blocks of another that it may have made of it, `coded`.

    Its tables are libjpeg's, colour at half the size: other coders are not known by this, and then it says nothing.
    """

    def __init__(self, coded: Sketch, source: Sketch, mapping: Affine) -> None:
        """`mapping`: fine pixels of the coded to those of the source."""
        self._inside = _well_inside(mapping, coded.size, source.size)
        self._coded = coded.fine.astype(np.float32)
        shown = _warped(Image.fromarray(source.fine), mapping, coded.size, Image.Resampling.BICUBIC)
        beyond = ~_inside(mapping, coded.size, source.size, 0.0)
        filled = np.where(beyond[..., None], coded.fine, shown)
        stretch = abs(float(np.linalg.det(mapping[:, :2])))
        scales = math.sqrt(stretch) * source.native[0] / source.size[0], coded.native[0] / coded.size[0]
        self._scale = min(1.0, *scales)
        self._counted = _blocks(self._inside[..., None].astype(np.float32)).mean(axis=(1, 2)) > 0.6
        self._at_native = _resized(Image.fromarray(filled), coded.native)
        self._plain = self._error(filled.astype(np.float32))
        self._made: dict[int, tuple[float, Pixels]] = {}

    def explained(self, *, finely: bool) -> float:
        """The share that the best quality leaves of what they differ by."""
        best = self._best(_TRIED)
        if finely:
            best = self._best((best, *_TRIED[best]))
        return self._made[best][0] / self._plain

    def differing(self) -> _Differing:
        """By how much the coded one differs from what the best quality makes of the source."""
        best = min(self._made, key=lambda quality: self._made[quality][0])
        return _Blocks(self._made[best][1], self._coded, self._inside, self._scale).recoded(best)

    def confirms(self) -> bool:
        """Whether coding explains what they differ by, all of it."""
        if self.explained(finely=True) > EXPLAINED:
            return False
        left = self.differing()
        typical = left.typical <= RECODED_TYPICAL[0] and left.typical_colour <= RECODED_TYPICAL[1]
        return typical and left.cast <= RECODED_CAST and _is_within(left, RECODED_WORST, RECODED_SHIFT)

    def _best(self, qualities: Collection[int]) -> int:
        for quality in qualities:
            if quality not in self._made:
                made = self._at(quality)
                self._made[quality] = self._error(made), made
        return min(qualities, key=lambda quality: self._made[quality][0])

    def _at(self, quality: int) -> Pixels:
        held = io.BytesIO()
        self._at_native.save(held, "JPEG", quality=quality, subsampling=2)
        back = Image.open(held).convert("RGB")
        return np.asarray(_resized(back, self._coded.shape[1::-1]), np.float32)

    def _error(self, made: Pixels) -> float:
        """What is left, by block and by the means of windows: the former know where the coder's blocks lie, the latter
        what colour was rounded to, even in a picture that was made smaller since.
        """
        rest = np.where(self._inside[..., None], (made - self._coded) @ _YCC, 0)
        rows, columns = (side // BLOCK_PX for side in self._inside.shape)
        cells = _blocks(rest).mean(axis=1).reshape(rows, columns, 3)
        windows = cells[1:, 1:] + cells[:-1, 1:] + cells[1:, :-1] + cells[:-1, :-1]
        by_block = float(_by_block(rest, self._counted).sum(axis=0).mean())
        return (by_block + _SAID_BY_NOTHING) * (float(np.abs(windows).mean()) / 4 + _SAID_BY_NOTHING)


_SAID_BY_NOTHING: Final = 0.1  # levels


def _is_within(left: _Differing, worst: tuple[float, float], shift: tuple[float, float]) -> bool:
    return (
        left.worst <= worst[0]
        and left.worst_colour <= worst[1]
        and left.shift <= shift[0]
        and left.shift_colour <= shift[1]
    )


def _recoded(laid: _Laid) -> _Recoded:
    """The likelier of the two to be what a coder made of the other."""
    both = (
        _Recoded(laid.other, laid.one, _inverted(laid.mapping)),
        _Recoded(laid.one, laid.other, laid.mapping),
    )
    return min(both, key=lambda recoded: recoded.explained(finely=False))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.HAMMING if size[0] < image.width else Image.Resampling.BICUBIC)
