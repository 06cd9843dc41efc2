"""Composes one scene: what is placed where, in which colours, and what remains visible of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

from harness.datasets.scenes import parts
from harness.datasets.scenes.parts import Floats
from harness.datasets.scenes.sources import Sources
from harness.task import Image, Mask

SIZE = 128  # px, height and width of a scene

# The figures below are those of the prototype that the recipes were tuned on.
_MAX_SCATTERED = 6
_MAX_DISTRACTORS = 4
_HEIGHTS = (12, 84)  # px
_ROW_SHARE = 0.35
_ROW_LENGTHS = (2, 5)
_NARROWEST_IN_ROW = 6  # px
_BADGE_SHARE = 0.45
_LEAST_VISIBLE = 0.6  # of a digit's pixels
_TRIES = 8  # places or colours tried before a part is left out
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 §2.5.1


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and what can be seen in it, in order of placement."""

    image: Image
    digits: tuple[int, ...]
    owner: NDArray[np.int16]  # [SIZE, SIZE], the index in `digits` of the topmost digit + 1, 0 for none
    drawn: tuple[int, ...]  # pixels of each digit before others covered it

    @property
    def mask(self) -> Mask:
        """0 background, 1–10 the digits 0–9."""
        classes = np.array([0, *(digit + 1 for digit in self.digits)], dtype=np.uint8)
        return classes[self.owner]

    @property
    def boxes(self) -> NDArray[np.float64]:
        """[n, 4], tight around the visible pixels of each digit, as COCO draws them."""
        boxes = np.zeros((len(self.digits), 4))
        for index in range(len(self.digits)):
            seen = self.owner == index + 1
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes


def compose(rng: np.random.Generator, sources: Sources) -> Scene:
    """The scene that the generator's state determines."""
    canvas = _Canvas(parts.background(rng, sources.photographs, SIZE))
    jobs = [_scattered_digit] * int(rng.integers(_MAX_SCATTERED + 1))
    jobs += [_distractor] * int(rng.integers(_MAX_DISTRACTORS + 1))
    jobs += [_row] * int(rng.random() < _ROW_SHARE)
    for index in rng.permutation(len(jobs)):
        jobs[index](rng, sources, canvas)
    return Scene(_expose(rng, canvas.pixels), tuple(canvas.digits), canvas.owner, tuple(canvas.drawn))


@dataclass
class _Canvas:
    """The picture being painted and who owns each pixel."""

    pixels: Floats  # [SIZE, SIZE, 3], 0–255
    owner: NDArray[np.int16] = field(default_factory=lambda: np.zeros((SIZE, SIZE), dtype=np.int16))
    digits: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)

    def may_cover(self, shape: Floats, left: int, top: int) -> bool:
        """Whether every digit would keep enough of its pixels."""
        window, part = _overlap(shape, left, top)
        hidden = self.owner.copy()
        hidden[window][shape[part] >= 0.5] = 0
        visible = np.bincount(hidden.ravel(), minlength=len(self.digits) + 1)[1:]
        return bool((visible >= _LEAST_VISIBLE * np.array(self.drawn)).all())

    def paint(self, shape: Floats, left: int, top: int, colour: Floats, opacity: float = 1.0) -> None:
        """Blend a colour, [3] or [height, width, 3] of the shape, into the pixels."""
        window, part = _overlap(shape, left, top)
        alpha = shape[part][..., None] * np.float32(opacity)
        below = self.pixels[window]
        below += alpha * ((colour[part] if colour.ndim == 3 else colour) - below)

    def own(self, shape: Floats, left: int, top: int, digit: int | None) -> None:
        """Record that the shape's solid pixels now show the digit, or none."""
        window, part = _overlap(shape, left, top)
        solid = shape[part] >= 0.5
        if digit is not None:
            self.digits.append(digit)
            self.drawn.append(int(solid.sum()))
        self.owner[window][solid] = len(self.digits) if digit is not None else 0


def _overlap(shape: Floats, left: int, top: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the canvas that a shape lies on, and the part of the shape that lies on the canvas."""
    (y0, y1), (x0, x1) = (
        (min(max(start, 0), SIZE), min(max(start + length, 0), SIZE))
        for start, length in zip((top, left), shape.shape, strict=True)
    )
    window = slice(y0, y1), slice(x0, x1)
    part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    return window, part


def _scattered_digit(rng: np.random.Generator, sources: Sources, canvas: _Canvas) -> None:
    digit, glyph = _pick(rng, sources)
    shape = _lettering(rng, parts.log_uniform(rng, *_HEIGHTS))(glyph)
    plate = _plate_for(rng, shape) if rng.random() < _BADGE_SHARE else None
    for _ in range(_TRIES):
        place = _place_inside(rng, shape)
        if place is None:
            return
        left, top = place
        if plate is None:
            if canvas.may_cover(shape, left, top):
                _ink(rng, canvas, [(digit, shape, left, top)])
                return
        else:
            height, width = plate.shape
            at = left + (shape.shape[1] - width) // 2, top + (shape.shape[0] - height) // 2
            if canvas.may_cover(plate, *at):
                _badge(rng, canvas, plate, *at)
                _ink(rng, canvas, [(digit, shape, left, top)])
                return


def _row(rng: np.random.Generator, sources: Sources, canvas: _Canvas) -> None:
    """Adjacent digits in one hand and colour, as on a house number."""
    lettering = _lettering(
        rng, parts.log_uniform(rng, _HEIGHTS[0] * 1.2, 48)
    )  # 5 of 48 px still fit the width
    gap = int(rng.integers(0, 4))
    chosen = []
    width = height = 0
    for _ in range(rng.integers(_ROW_LENGTHS[0], _ROW_LENGTHS[1] + 1)):
        digit, glyph = _pick(rng, sources)
        shape = lettering(glyph)
        if shape.shape[1] - 2 < _NARROWEST_IN_ROW or width + shape.shape[1] > SIZE:
            continue
        chosen.append((digit, shape, width))
        width += shape.shape[1] - 2 + gap
        height = max(height, shape.shape[0])
    if len(chosen) < _ROW_LENGTHS[0]:
        return
    extent = np.zeros((height, min(width + 2, SIZE)), dtype=np.float32)
    for _, shape, offset in chosen:
        part = extent[: shape.shape[0], offset : offset + shape.shape[1]]
        np.maximum(part, shape, out=part)
    plate = _plate_for(rng, extent, power=rng.choice((5.0, 20.0))) if rng.random() < _BADGE_SHARE else None
    for _ in range(_TRIES):
        place = _place_inside(rng, extent)
        if place is None:
            return
        left, top = place
        cover, at = extent, place
        if plate is not None:
            at = left + (extent.shape[1] - plate.shape[1]) // 2, top + (height - plate.shape[0]) // 2
            cover = plate
        if canvas.may_cover(cover, *at):
            if plate is not None:
                _badge(rng, canvas, plate, *at)
            _ink(rng, canvas, [(digit, shape, left + offset, top) for digit, shape, offset in chosen])
            return


def _distractor(rng: np.random.Generator, sources: Sources, canvas: _Canvas) -> None:
    """Something that is no digit: an empty badge, a scrambled glyph, a stroke or an arc."""
    kind = rng.integers(4)
    extent = parts.log_uniform(rng, *_HEIGHTS)
    thickness = max(1.5, extent * rng.uniform(0.06, 0.2))
    if kind == 0:
        shape = parts.badge(extent * rng.uniform(0.7, 1.4), extent, _badge_power(rng))
    elif kind == 1:
        shape = _lettering(rng, extent)(parts.scrambled(rng, _pick(rng, sources)[1]))
    elif kind == 2:
        away = rng.uniform(np.pi / 5, np.pi / 2) * rng.choice((-1, 1))  # an upright stroke would be a 1
        shape = parts.stroke(extent, thickness, np.pi / 2 + away)
    else:
        shape = parts.arc(extent, thickness, rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.1) * np.pi)  # no 0
    for _ in range(_TRIES):
        left, top = (int(v) for v in rng.integers(-8, SIZE - 8, 2))
        if canvas.may_cover(shape, left, top):
            if kind == 0:
                _badge(rng, canvas, shape, left, top)
            else:
                _ink(rng, canvas, [(None, shape, left, top)])
            return


def _pick(rng: np.random.Generator, sources: Sources) -> tuple[int, NDArray[np.uint8]]:
    digit = int(rng.integers(10))
    glyphs = sources.glyphs[digit]
    return digit, glyphs[rng.integers(len(glyphs))]


def _lettering(rng: np.random.Generator, height: float) -> Callable[[NDArray[np.uint8]], Floats]:
    """One hand: how glyphs of this height are stretched, turned, slanted and how bold they are."""
    return partial(
        parts.glyph_shape,
        height=height,
        width_factor=rng.uniform(0.8, 1.25),
        angle=rng.uniform(-0.2, 0.2),
        shear=rng.uniform(-0.25, 0.25),
        weight=rng.random(),
    )


def _place_inside(rng: np.random.Generator, shape: Floats) -> tuple[int, int] | None:
    """Left and top for a shape whose ink (all but its margin of one pixel) is within the picture."""
    height, width = shape.shape
    if height == 0 or max(height, width) > SIZE + 2:
        return None
    return int(rng.integers(-1, SIZE - width + 2)), int(rng.integers(-1, SIZE - height + 2))


def _badge_power(rng: np.random.Generator) -> float:
    return float(rng.choice((1.5, 2.0, 5.0, 20.0)))


def _plate_for(rng: np.random.Generator, shape: Floats, power: float | None = None) -> Floats:
    """A badge around the shape: at least the superellipse through the corners of its bounding box."""
    power = _badge_power(rng) if power is None else power
    factor = 2 ** (1 / power) * rng.uniform(1.05, 1.35)
    height, width = shape.shape
    return parts.badge(max(width, 0.6 * height) * factor, height * factor, power)


def _badge(rng: np.random.Generator, canvas: _Canvas, shape: Floats, left: int, top: int) -> None:
    colour = _colour_against(rng, canvas, shape, left, top, 25)
    canvas.paint(shape, left, top, colour, rng.uniform(0.75, 1))
    if rng.random() < 0.4:  # a rim of the first colour around an inner badge of another
        rim = int(rng.integers(1, 4))
        inner = np.zeros_like(shape)
        if min(shape.shape) > 4 * rim:
            shrunk = PIL.Image.fromarray(shape).resize((shape.shape[1] - 2 * rim, shape.shape[0] - 2 * rim))
            inner[rim:-rim, rim:-rim] = np.asarray(shrunk)
            canvas.paint(inner, left, top, _colour_against(rng, canvas, shape, left, top, 25), 1)
    canvas.own(shape, left, top, None)


def _ink(
    rng: np.random.Generator, canvas: _Canvas, placed: list[tuple[int | None, Floats, int, int]]
) -> None:
    """Paint shapes in one colour that stands out, shaded, some with a shadow; digits become findable."""
    _, shape, left, top = placed[len(placed) // 2]
    colour = _colour_against(rng, canvas, shape, left, top, 45)
    slope = rng.uniform(-30, 30, 2).astype(np.float32)
    shadow = rng.integers(1, 3, 2) * rng.choice((-1, 1), 2) if rng.random() < 0.3 else None
    for digit, shape, left, top in placed:
        if shadow is not None:
            canvas.paint(shape, left + int(shadow[0]), top + int(shadow[1]), np.zeros(3, np.float32), 0.4)
        y = np.linspace(-0.5, 0.5, shape.shape[0], dtype=np.float32)[:, None, None]
        x = np.linspace(-0.5, 0.5, shape.shape[1], dtype=np.float32)[None, :, None]
        canvas.paint(shape, left, top, colour + y * slope[0] + x * slope[1])
        canvas.own(shape, left, top, digit)


def _colour_against(
    rng: np.random.Generator, canvas: _Canvas, shape: Floats, left: int, top: int, contrast: float
) -> Floats:
    """A random colour whose brightness differs by at least `contrast` (of 255) from what the shape hides."""
    window, part = _overlap(shape, left, top)
    weight = shape[part][..., None]
    hidden = (canvas.pixels[window] * weight).sum((0, 1), dtype=np.float64)
    below = float(hidden @ _LUMA / max(weight.sum(dtype=np.float64), 1e-6))
    colours = rng.uniform(0, 255, (_TRIES, 3))
    differences = np.abs(colours @ _LUMA - below)
    enough = np.flatnonzero(differences >= contrast)
    return colours[enough[0] if len(enough) else int(differences.argmax())].astype(np.float32)


def _expose(rng: np.random.Generator, pixels: Floats) -> Image:
    """Uneven light over everything, some blur, sensor noise."""
    pixels = pixels * (1 + np.float32(rng.uniform(0, 0.3)) * parts.smooth_field(rng, 3, SIZE))[..., None]
    if rng.random() < 0.4:
        soft = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        pixels = np.asarray(
            soft.filter(PIL.ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0))), dtype=np.float32
        )
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0, 9))
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
