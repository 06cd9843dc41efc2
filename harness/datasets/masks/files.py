"""PNG masks: classes as palette indices, grey levels or colours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.files import Note, composed, visible_files
from harness.datasets.image_files import open_image, png_bit_depth
from harness.datasets.image_set import read_image_set
from harness.errors import UsageError
from harness.task import IGNORED, Mask

OPAQUE = 255  # alpha
_GREY_STEP = {2: 85, 4: 17}  # by bit depth: Pillow scales grey levels of fewer than 8 bits to 0–255


def list_masks(path: Path, note: Note, image_set: Path | None = None) -> dict[str, Path]:
    """Return a PNG file, or those of a folder that an image set lists, by stem in ascending order."""
    if not path.exists():
        raise UsageError(f"{path}: file or folder not found")
    if not path.is_dir():
        return {path.stem: path}
    masks: dict[str, Path] = {}
    for file in visible_files(path, ".png"):
        stem = composed(file.stem)
        if stem in masks:
            raise UsageError(f"{file}: {masks[stem]} has the same stem; expected one file per stem")
        masks[stem] = file
    if decomposed := sum(file.stem != stem for stem, file in masks.items()):
        note(f"{path}: {decomposed} file names are decomposed Unicode, and read as composed")
    if not masks:
        raise UsageError(f"{path}: found no .png file")
    lines = dict.fromkeys(masks, 0) if image_set is None else read_image_set(image_set, masks.keys())
    for name, line in lines.items():
        if name not in masks:
            raise UsageError(f"{image_set}:{line}: '{name}' is not an annotated image")
    if len(lines) < len(masks):
        others = len(masks) - len(lines)
        note(f"{image_set}: {others} of {len(masks)} annotated images are outside the image set")
    return {stem: masks[stem] for stem in sorted(lines)}


def find_predictions(
    annotations: Path, annotated: Mapping[str, Path], predictions: Path, note: Note
) -> dict[str, Path]:
    """Return the predicted mask of each annotated one by stem; two single files fit whatever their names."""
    predicted = list_masks(predictions, note)
    if annotations.is_dir() != predictions.is_dir():
        kinds = [f"the {'folder' if path.is_dir() else 'file'} {path}" for path in (annotations, predictions)]
        raise UsageError(f"expected two folders or two PNG files, found {' and '.join(kinds)}")
    if not annotations.is_dir():
        return {annotations.stem: predictions}
    unpaired = sorted(annotated.keys() - predicted.keys())
    if unpaired:
        more = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
        raise UsageError(f"{annotated[unpaired[0]]}: {unpaired[0]}.png not found in {predictions}{more}")
    if others := len(predicted) - len(annotated):
        note(f"{predictions}: {others} of {len(predicted)} masks are of other images and are left out")
    return {stem: predicted[stem] for stem in annotated}


def read_mask(path: Path) -> Mask:
    """Read class indices from a palette or grey PNG: [height, width].

    An RGB image is grey if its channels are equal. An alpha channel must be opaque. Values of 16 bits must
    be less than 256. Transparent entries of a palette are labels like any other.
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
    """Read an opaque RGB or palette PNG of 8 bits per channel as colours 0xRRGGBB: [height, width]."""
    with open_image(path, "PNG") as image:
        depth = png_bit_depth(path)
        if image.mode not in ("RGB", "RGBA", "P") or depth > 8:
            raise UsageError(
                f"{path}: expected an RGB or palette PNG of 8 bits whose colours are classes, "
                f"found mode {image.mode} of {depth} bits"
            )
        mode = "RGBA" if image.has_transparency_data else "RGB"
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
