"""Images of VOC's size with known objects: digits and pieces of images pasted onto images.

The source images are those in the packages of scikit-image and scikit-learn. Nothing is downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from skimage import data
from sklearn.datasets import load_digits, load_sample_images

from harness.datasets.scenes.canvas import log_uniform
from harness.datasets.scenes.shapes import Coverage, GlyphStyle, superellipse
from harness.task import Annotations, Image, Sample

HEIGHT, WIDTH = 375, 500  # px, as most of VOC's images
OBJECTS = (4, 12)  # per image
EXTENTS = (16.0, 280.0)  # px of an object's height; its logarithm is uniform
MIN_VISIBLE = 0.6  # fraction of an object's pixels, as in `scenes`
JPEG_QUALITY = 85
DIGIT_FRACTION = 0.5  # of the objects; the others are pieces of images
OUTLINES = (1.5, 2.0, 3.0, 8.0)  # powers of the superellipses that outline the pieces


def composed_images(count: int) -> list[Sample]:
    """Compose images that are the same on every call. Boxes are tight around the visible pixels."""
    sources = [*load_sample_images().images]
    sources += [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    glyphs = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    return [_compose(index, sources, glyphs) for index in range(count)]


def _compose(index: int, sources: Sequence[Image], glyphs: NDArray[np.uint8]) -> Sample:
    rng = np.random.default_rng(index)
    background = int(rng.integers(len(sources)))
    pixels = _random_window(rng, sources[background], HEIGHT, WIDTH).astype(np.float32)
    instances = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    areas: list[int] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        extent = log_uniform(rng, *EXTENTS)
        if rng.random() < DIGIT_FRACTION:
            coverage, colours = _random_digit(rng, extent, glyphs)
        else:
            coverage = superellipse(extent * rng.uniform(0.5, 2), extent, float(rng.choice(OUTLINES)))
            source = sources[(background + 1 + int(rng.integers(len(sources) - 1))) % len(sources)]
            colours = _random_window(rng, source, *coverage.shape).astype(np.float32)
        height, width = coverage.shape
        if height > HEIGHT or width > WIDTH:
            continue
        top, left = int(rng.integers(HEIGHT - height + 1)), int(rng.integers(WIDTH - width + 1))
        window = slice(top, top + height), slice(left, left + width)
        covered = instances.copy()
        covered[window][coverage >= 0.5] = len(areas) + 1
        visible = np.bincount(covered.ravel(), minlength=len(areas) + 1)[1 : len(areas) + 1]
        if (visible < MIN_VISIBLE * np.array(areas)).any():
            continue
        instances = covered
        areas.append(int((coverage >= 0.5).sum()))
        pixels[window] += coverage[..., None] * (colours - pixels[window])
    boxes = [_box(instances == number) for number in range(1, len(areas) + 1)]
    return Sample(str(index), _compress(pixels), Annotations.of_boxes(boxes, np.zeros(len(boxes))))


def _random_digit(
    rng: np.random.Generator, extent: float, glyphs: NDArray[np.uint8]
) -> tuple[Coverage, NDArray[np.float64]]:
    """Draw a digit and its colours [height, width, 3]: one colour in light that falls off across it."""
    glyph = glyphs[rng.integers(len(glyphs))]
    coverage = GlyphStyle(extent, *rng.uniform((0.8, -0.2, -0.25, 0), (1.25, 0.2, 0.25, 1))).render(glyph)
    colour = rng.uniform(0, 255, 3)
    down, across = rng.uniform(-30, 30, 2)
    y, x = (np.linspace(-0.5, 0.5, length) for length in coverage.shape)
    return coverage, colour + (y[:, None] * down + x * across)[..., None]


def _random_window(rng: np.random.Generator, image: Image, height: int, width: int) -> Image:
    """Crop a part with the given proportions, at least half as large as possible, and resize it."""
    max_scale = min(image.shape[0] / height, image.shape[1] / width)
    scale = max_scale * rng.uniform(0.5, 1)
    top = rng.uniform(0, image.shape[0] - height * scale)
    left = rng.uniform(0, image.shape[1] - width * scale)
    box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC, box))


def _box(visible: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the corners x1, y1, x2, y2 of the visible pixels."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _compress(pixels: NDArray[np.float32]) -> Image:
    """Save the image as JPEG and read it back, for the artefacts of real data."""
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(PIL.Image.open(buffer).convert("RGB"))
