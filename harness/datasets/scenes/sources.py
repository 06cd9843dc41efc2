"""What scenes are made of: handwritten digits and photographs, divided between the splits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.identity import digest
from harness.task import Image

_OF_TWENTY = {"train": (0, 14), "validation": (14, 17), "test": (17, 20)}  # 70/15/15 of each class's glyphs
_COLUMNS = {"test": (0.0, 0.25), "train": (0.25, 0.75), "validation": (0.75, 1.0)}  # strips of a photograph


@dataclass(frozen=True, eq=False)
class Sources:
    """The raw material of one split; no glyph and no pixel of a photograph serves two splits."""

    glyphs: tuple[NDArray[np.uint8], ...]  # per digit [n, 8, 8], ink 0–255
    photographs: tuple[Image, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every byte."""
        return digest(array.tobytes() for array in (*self.glyphs, *self.photographs))


@cache
def sources(split: str) -> Sources:
    """Load one split's share of what scikit-learn ships: 1,797 digits of 8×8 and two photographs of 427×640.

    The writers of the digits are not recorded, so a writer may occur in several splits; a glyph may not.
    """
    from sklearn.datasets import load_digits, load_sample_images  # 1–3 s to import: only when needed

    digits = load_digits()
    ink = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn counts ink from 0 to 16
    first, end = _OF_TWENTY[split]
    glyphs = []
    for digit in range(10):
        of_class = ink[digits.target == digit]
        place = np.arange(len(of_class)) % 20
        glyphs.append(of_class[(place >= first) & (place < end)])
    left, right = _COLUMNS[split]
    photographs = tuple(
        np.ascontiguousarray(photograph[:, round(left * width) : round(right * width)])
        for photograph in load_sample_images().images
        for width in (photograph.shape[1],)
    )
    return Sources(tuple(glyphs), photographs)
