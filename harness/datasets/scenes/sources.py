"""Source material of scenes: handwritten glyphs and background images, divided between the splits."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.datasets.image_files import read_image
from harness.datasets.scenes.shapes import Glyph
from harness.errors import UnavailableError
from harness.identity import digest, source_file
from harness.task import Image

_GLYPH_TWENTIETHS = {"train": (0, 14), "validation": (14, 17), "test": (17, 20)}  # 70/15/15 of each class
_IMAGE_WIDTH = 640  # px
_IMAGE_STRIPS = {"test": (0.0, 0.25), "train": (0.25, 0.75), "validation": (0.75, 1.0)}  # of the width


@dataclass(frozen=True, eq=False)
class Sources:
    """The source material of one split. No glyph and no pixel of an image is in two splits."""

    glyphs: tuple[NDArray[np.uint8], ...]  # per digit [n, 8, 8], ink 0–255
    images: tuple[Image, ...]

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of all bytes."""
        return digest(array.tobytes() for array in (*self.glyphs, *self.images))

    def random_glyph(self, rng: np.random.Generator) -> tuple[int, Glyph]:
        """Draw a digit and one of its glyphs."""
        digit = int(rng.integers(10))
        glyphs = self.glyphs[digit]
        return digit, glyphs[rng.integers(len(glyphs))]


@cache
def load_sources(split: str) -> Sources:
    """Load a split's part of scikit-learn's data: 1,797 digits of 8×8 and two images of 427×640.

    The writers of the digits are not recorded. A writer may occur in several splits; a glyph occurs in one.

    Raises:
        UnavailableError: scikit-learn is not installed.
    """
    package = source_file("sklearn")  # its files are read directly, because importing it takes 1–3 s
    if package is None:
        raise UnavailableError("scenes: the package scikit-learn is missing; pip install scikit-learn")
    folder = package.with_name("datasets")
    rows = np.loadtxt(folder / "data/digits.csv.gz", delimiter=",")  # 64 of ink and the digit
    ink = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # scikit-learn's ink is 0–16
    start, stop = _GLYPH_TWENTIETHS[split]
    glyphs = []
    for digit in range(10):
        of_class = ink[rows[:, -1] == digit]
        remainder = np.arange(len(of_class)) % 20
        glyphs.append(of_class[(remainder >= start) & (remainder < stop)])
    left, right = (round(edge * _IMAGE_WIDTH) for edge in _IMAGE_STRIPS[split])
    photographs = (read_image(folder / "images" / name) for name in ("china.jpg", "flower.jpg"))
    strips = tuple(np.ascontiguousarray(image[:, left:right]) for image in photographs)
    return Sources(tuple(glyphs), strips)
