"""PNG masks: classes as palette indices, grey levels or colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.image_files import open_image, png_bit_depth
from harness.errors import UsageError
from harness.task import Mask

_GREY_STEP = {2: 85, 4: 17}  # by bit depth: Pillow scales grey levels of fewer than 8 bits to 0–255


def pair_masks(annotations: Path, predictions: Path) -> list[tuple[Path, Path]]:
    """Pair two files, or the PNG files of two folders by stem in ascending order. Hidden files are excluded.

    Raises:
        UsageError: a path does not exist, one is a folder and the other a file, a folder has no PNG file or
            two with the same stem, or a file has no partner.
    """
    for path in (annotations, predictions):
        if not path.exists():
            raise UsageError(f"{path}: file or folder not found")
    if annotations.is_dir() != predictions.is_dir():
        raise UsageError(
            f"expected two folders or two PNG files, found "
            f"{_describe(annotations)} {annotations} and {_describe(predictions)} {predictions}"
        )
    if not annotations.is_dir():
        return [(annotations, predictions)]
    annotated, predicted = _files_by_stem(annotations), _files_by_stem(predictions)
    for files, partners, folder in ((annotated, predicted, predictions), (predicted, annotated, annotations)):
        unpaired = sorted(files.keys() - partners.keys())
        if unpaired:
            more = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
            raise UsageError(f"{files[unpaired[0]]}: {unpaired[0]}.png not found in {folder}{more}")
    return [(annotated[stem], predicted[stem]) for stem in sorted(annotated)]


def read_mask(path: Path) -> Mask:
    """Read an indexed or grey PNG of at most 8 bits: [height, width].

    Raises:
        UsageError: the file is not a PNG, is truncated, or contains colours instead of class indices.
    """
    with open_image(path, "PNG") as image:
        if image.mode not in ("P", "L", "1"):
            raise UsageError(
                f"{path}: expected a palette or grey PNG of up to 8 bits whose values are classes, "
                f"found mode {image.mode}"
            )
        values = np.array(image, dtype=np.uint8)
        depth = png_bit_depth(path)
        is_grey = image.mode == "L"
    return values // _GREY_STEP[depth] if is_grey and depth in _GREY_STEP else values


def read_colours(path: Path) -> NDArray[np.int32]:
    """Read an RGB or palette PNG with 8 bits per channel as colours 0xRRGGBB: [height, width].

    Raises:
        UsageError: the file is not a PNG, is truncated, contains no colours, or has more than 8 bits per
            channel.
    """
    with open_image(path, "PNG") as image:
        depth = png_bit_depth(path)
        if image.mode not in ("RGB", "P") or depth > 8:
            raise UsageError(
                f"{path}: expected an RGB or palette PNG of 8 bits whose colours are classes, "
                f"found mode {image.mode} of {depth} bits"
            )
        channels = np.array(image.convert("RGB"), dtype=np.int32)
    return channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]


def _files_by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() != ".png" or file.name.startswith("."):
            continue
        if file.stem in files:
            raise UsageError(f"{file}: {files[file.stem]} has the same stem; expected one file per stem")
        files[file.stem] = file
    if not files:
        raise UsageError(f"{folder}: found no .png file")
    return files


def _describe(path: Path) -> str:
    return "the folder" if path.is_dir() else "the file"
