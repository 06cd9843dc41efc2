"""Small pictures of samples: images as WebP, masks as palette PNGs of the same size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PILImage

from harness.task import Image, Mask

LONGEST = 256  # px of the longest side: what a page of some dozens of pictures can show, and stays small
QUALITY = 80  # WebP's; measured: a picture of `scenes`, 128×128, takes about 4 kB
WRONG, IGNORED = (214, 39, 40, 255), (127, 127, 127, 255)  # RGBA
IGNORED_COLOUR = (224, 224, 192)  # VOC's cream for pixels that do not count


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of the picture: never enlarged, at least one pixel."""
    scale = min(1.0, LONGEST / max(height, width, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_file(image: Image) -> bytes:
    """The image as WebP."""
    picture = PILImage.fromarray(np.ascontiguousarray(image), "RGB")
    picture = picture.resize(shown_size(*image.shape[:2]), PILImage.Resampling.LANCZOS)
    return _encoded(picture, "WEBP", quality=QUALITY)


def mask_file(mask: Mask, classes: int) -> bytes:
    """The mask as palette PNG; values that are no class, the ignore index, are cream."""
    picture = _nearest(np.ascontiguousarray(mask))
    palette = [
        value for label in range(256) for value in (colour(label) if label < classes else IGNORED_COLOUR)
    ]
    picture.putpalette(palette)
    return _encoded(picture, "PNG", optimize=True)


def error_file(target: Mask, prediction: Mask, classes: int) -> bytes:
    """Where the prediction is wrong, as palette PNG that is transparent elsewhere."""
    codes = np.where(target >= classes, 2, target != prediction).astype(np.uint8)
    picture = _nearest(codes)
    picture.putpalette([0, 0, 0, 0, *WRONG, *IGNORED], "RGBA")
    return _encoded(picture, "PNG", optimize=True)


def colour(label: int) -> tuple[int, int, int]:
    """VOC's colour of a class (VOClabelcolormap.m): the label's bits, spread from the highest down."""
    channels = [0, 0, 0]
    for shift in range(8):
        for channel in range(3):
            channels[channel] |= (label >> (3 * shift + channel) & 1) << (7 - shift)
    return channels[0], channels[1], channels[2]


def _nearest(codes: Mask) -> PILImage.Image:
    """Shown size, the values as palette indices."""
    picture = PILImage.fromarray(codes, "L").resize(shown_size(*codes.shape), PILImage.Resampling.NEAREST)
    return PILImage.frombytes("P", picture.size, picture.tobytes())


def _encoded(picture: PILImage.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
