"""PNG masks: classes as palette indices, grey levels or colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.files import Note, is_hidden
from harness.datasets.image_files import open_image, png_bit_depth
from harness.datasets.image_set import read_image_set
from harness.errors import UsageError
from harness.task import IGNORED, Mask

OPAQUE = 255  # alpha
_GREY_STEP = {2: 85, 4: 17}  # by bit depth: Pillow scales grey levels of fewer than 8 bits to 0–255


def pair_masks(
    annotations: Path, predictions: Path, note: Note, image_set: Path | None = None
) -> list[tuple[Path, Path]]:
    """Pair two files, or the PNG files of two folders by stem in ascending order. Hidden files are excluded.

    Args:
        image_set: list of the stems to use.

    Raises:
        UsageError: a path does not exist, one is a folder and the other a file, a folder has no PNG file or
            two with the same stem, an annotation has no prediction, or the list is bad.
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
    annotated, predicted = files_by_stem(annotations), files_by_stem(predictions)
    if image_set is not None:
        annotated = select_listed(annotated, image_set, note)
    unpaired = sorted(annotated.keys() - predicted.keys())
    if unpaired:
        more = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
        raise UsageError(f"{annotated[unpaired[0]]}: {unpaired[0]}.png not found in {predictions}{more}")
    others = len(predicted) - len(annotated)
    if others:
        note(f"{predictions}: {others} of {len(predicted)} masks are of other images and are left out")
    return [(annotated[stem], predicted[stem]) for stem in sorted(annotated)]


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the PNG files of a folder by name without suffix. Hidden files are excluded.

    Raises:
        UsageError: there is none, or two have the same stem.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() != ".png" or is_hidden(file):
            continue
        if file.stem in files:
            raise UsageError(f"{file}: {files[file.stem]} has the same stem; expected one file per stem")
        files[file.stem] = file
    if not files:
        raise UsageError(f"{folder}: found no .png file")
    return files


def select_listed(files: Mapping[str, Path], image_set: Path, note: Note) -> dict[str, Path]:
    """Return the files whose stem a list names.

    Raises:
        UsageError: the list is malformed, or names a file that is missing.
    """
    lines = read_image_set(image_set, files.keys())
    for name, line in lines.items():
        if name not in files:
            raise UsageError(f"{image_set}:{line}: '{name}' is not an annotated image")
    others = len(files) - len(lines)
    if others:
        note(f"{image_set}: {others} of {len(files)} annotated images are outside the image set")
    return {stem: files[stem] for stem in sorted(lines)}


def read_mask(path: Path) -> Mask:
    """Read class indices from a palette or grey PNG: [height, width].

    An RGB image is grey if its channels are equal. An alpha channel must be opaque. Values of 16 bits must
    be less than 256.

    Raises:
        UsageError: the file is not a PNG, is truncated, or contains colours instead of class indices.
    """
    with open_image(path, "PNG") as image:
        depth = png_bit_depth(path)
        is_grey = image.mode == "L"
        values = np.array(image)  # palette indices, not colours
        if image.mode in ("LA", "RGB", "RGBA"):
            values = _without_alpha(path, values, image.mode)
            if depth <= 8 and (values == values[..., :1]).all():
                values = values[..., 0]
        if values.ndim != 2 or (depth > 8 and values.max(initial=0) > IGNORED):
            raise UsageError(
                f"{path}: expected a palette or grey PNG whose values 0–255 are classes, found mode "
                f"{image.mode} of {depth} bits"
            )
    values = values.astype(np.uint8)
    return values // _GREY_STEP[depth] if is_grey and depth in _GREY_STEP else values


def read_colours(path: Path) -> NDArray[np.int32]:
    """Read an RGB or palette PNG with 8 bits per channel as colours 0xRRGGBB: [height, width].

    An alpha channel must be opaque.

    Raises:
        UsageError: the file is not a PNG, is truncated, contains no colours, is transparent, or has more than
            8 bits per channel.
    """
    with open_image(path, "PNG") as image:
        depth = png_bit_depth(path)
        if image.mode not in ("RGB", "RGBA", "P") or depth > 8:
            raise UsageError(
                f"{path}: expected an RGB or palette PNG of 8 bits whose colours are classes, "
                f"found mode {image.mode} of {depth} bits"
            )
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        channels = _without_alpha(path, np.array(image.convert(mode), dtype=np.int32), mode)
    colours: NDArray[np.int32] = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    return colours


def _without_alpha(path: Path, pixels: NDArray[Any], mode: str) -> NDArray[Any]:
    """Return the channels [height, width, channels] without alpha, which must be opaque."""
    if not mode.endswith("A"):
        return pixels
    transparent = np.argwhere(pixels[..., -1] != OPAQUE)
    if len(transparent):
        row, column = transparent[0]
        raise UsageError(
            f"{path}: {len(transparent)} pixels are transparent, the first at x {column}, y {row}; "
            f"expected a mask whose alpha is {OPAQUE} everywhere"
        )
    return pixels[..., :-1]


def _describe(path: Path) -> str:
    return "the folder" if path.is_dir() else "the file"
