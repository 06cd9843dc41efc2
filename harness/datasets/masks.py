"""Masks in PNG files: a class index per pixel, as palette index or grey level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.errors import UsageError
from harness.task import Mask

GREY_STEP = {2: 85, 4: 17}  # Pillow stretches grey levels of fewer than 8 bits to 0–255
HEADER = 26  # bytes up to a PNG's bit depth and colour type, PNG specification §11.2.2


def pair_masks(annotations: Path, predictions: Path) -> list[tuple[Path, Path]]:
    """Pair two files, or the PNG files of two folders by stem, in ascending order of stem.

    Raises:
        UsageError: a path is missing, a folder meets a file, has no PNG file or one without a partner.
    """
    for path in (annotations, predictions):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    if annotations.is_dir() != predictions.is_dir():
        raise UsageError(
            f"expected two folders or two PNG files, found "
            f"{_kind(annotations)} {annotations} and {_kind(predictions)} {predictions}"
        )
    if not annotations.is_dir():
        return [(annotations, predictions)]
    expected, found = _by_stem(annotations), _by_stem(predictions)
    for here, other, folder in ((expected, found, predictions), (found, expected, annotations)):
        lonely = sorted(here.keys() - other.keys())
        if lonely:
            more = f" (nor for {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise UsageError(f"{here[lonely[0]]}: found no {lonely[0]}.png in {folder}{more}")
    return [(expected[stem], found[stem]) for stem in sorted(expected)]


def read_mask(path: Path) -> Mask:
    """Read an indexed or grey PNG of up to 8 bits: [height, width].

    Raises:
        UsageError: the file is no PNG, is truncated, or holds colours instead of class indices.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("P", "L", "1"):
                raise UsageError(
                    f"{path}: expected a palette or grey PNG of up to 8 bits whose values are classes, "
                    f"found mode {image.mode}"
                )
            values = np.array(image, dtype=np.uint8)
            grey = image.mode == "L"
        with path.open("rb") as file:
            depth = file.read(HEADER)[24]
    except UnidentifiedImageError as error:
        raise UsageError(f"{path}: not a PNG file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return values // GREY_STEP[depth] if grey and depth in GREY_STEP else values


def _by_stem(folder: Path) -> dict[str, Path]:
    files = {file.stem: file for file in folder.iterdir() if file.suffix.lower() == ".png"}
    if not files:
        raise UsageError(f"{folder}: found no .png file")
    return files


def _kind(path: Path) -> str:
    return "the folder" if path.is_dir() else "the file"
