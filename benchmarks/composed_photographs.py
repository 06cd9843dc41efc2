"""Pictures of VOC's size whose objects are known: digits and pieces of photographs pasted onto photographs.

Photographs are those in the packages of scikit-image and scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from skimage import data
from sklearn.datasets import load_digits, load_sample_images

from harness.datasets.scenes import parts
from harness.task import Annotations, Image, Sample

HEIGHT, WIDTH = 375, 500  # px, of most of VOC's pictures
OBJECTS = (4, 12)
EXTENTS = (16.0, 280.0)  # px, of an object's height; logarithms are uniform
VISIBLE = 0.6  # of an object's pixels at least, as in `scenes`
QUALITY = 85  # of the JPEG that a picture goes through
DIGIT = 0.5  # of the objects; the others are pieces of photographs
OUTLINES = (1.5, 2.0, 3.0, 8.0)  # powers of the superellipses that the pieces are


def composed(count: int) -> list[Sample]:
    """The same pictures on every call; boxes are tight around what is seen of each object."""
    photographs = [*load_sample_images().images]
    photographs += [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    glyphs = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    return [_picture(index, photographs, glyphs) for index in range(count)]


def _picture(index: int, photographs: list[Image], glyphs: NDArray[np.uint8]) -> Sample:
    rng = np.random.default_rng(index)
    behind = int(rng.integers(len(photographs)))
    pixels = _window(rng, photographs[behind], HEIGHT, WIDTH).astype(np.float32)
    owner = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    drawn: list[int] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        extent = parts.log_uniform(rng, *EXTENTS)
        if rng.random() < DIGIT:
            glyph = glyphs[rng.integers(len(glyphs))]
            shape = parts.glyph_shape(
                glyph, extent, *rng.uniform((0.8, -0.2, -0.25, 0), (1.25, 0.2, 0.25, 1))
            )
            paint = np.broadcast_to(rng.uniform(0, 255, 3), (*shape.shape, 3)) + _shade(rng, shape)
        else:
            shape = parts.badge(extent * rng.uniform(0.5, 2), extent, float(rng.choice(OUTLINES)))
            other = photographs[(behind + 1 + int(rng.integers(len(photographs) - 1))) % len(photographs)]
            paint = _window(rng, other, *shape.shape).astype(np.float32)
        height, width = shape.shape
        if height > HEIGHT or width > WIDTH:
            continue
        top, left = int(rng.integers(HEIGHT - height + 1)), int(rng.integers(WIDTH - width + 1))
        place = slice(top, top + height), slice(left, left + width)
        covered = owner.copy()
        covered[place][shape >= 0.5] = len(drawn) + 1
        left_over = np.bincount(covered.ravel(), minlength=len(drawn) + 1)[1 : len(drawn) + 1]
        if (left_over < VISIBLE * np.array(drawn)).any():
            continue
        owner = covered
        drawn.append(int((shape >= 0.5).sum()))
        pixels[place] += shape[..., None] * (paint - pixels[place])
    boxes = [_box(owner == number) for number in range(1, len(drawn) + 1)]
    return Sample(str(index), _stored(pixels), Annotations.of_boxes(boxes, np.zeros(len(boxes))))


def _window(rng: np.random.Generator, photograph: Image, height: int, width: int) -> Image:
    """A part of these proportions, at least half as large as it can be, scaled to this size."""
    most = min(photograph.shape[0] / height, photograph.shape[1] / width)
    scale = most * rng.uniform(0.5, 1)
    top = rng.uniform(0, photograph.shape[0] - height * scale)
    left = rng.uniform(0, photograph.shape[1] - width * scale)
    box = (left, top, left + width * scale, top + height * scale)
    picture = PIL.Image.fromarray(photograph)
    return np.asarray(picture.resize((width, height), PIL.Image.Resampling.BICUBIC, box))


def _shade(rng: np.random.Generator, shape: parts.Floats) -> NDArray[np.float64]:
    """Light that falls off across an object: [height, width, 1]."""
    down, across = rng.uniform(-30, 30, 2)
    y, x = (np.linspace(-0.5, 0.5, length) for length in shape.shape)
    return (y[:, None] * down + x * across)[..., None]


def _box(seen: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _stored(pixels: NDArray[np.float32]) -> Image:
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=QUALITY)
    return np.asarray(PIL.Image.open(buffer).convert("RGB"))
