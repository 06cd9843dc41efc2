"""Small image files of samples: images as WebP, masks as palette PNGs of the same size."""

import io

import numpy as np
from PIL import Image as PILImage

from harness.task import Image, Mask

LONGEST_SIDE = 256  # px; keeps files small, and a page with dozens of images can show no more
QUALITY = 80  # WebP's; an image of `scenes`, 128×128 px, takes about 4 kB
WRONG, IGNORED = (214, 39, 40, 255), (127, 127, 127, 255)  # RGBA
IGNORED_COLOUR = (224, 224, 192)  # VOC's cream for pixels that do not count


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Return the width and height at which an image is stored: never enlarged, at least one pixel."""
    scale = min(1.0, LONGEST_SIDE / max(height, width, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_file(image: Image) -> bytes:
    """Encode the image as WebP of the shown size."""
    original = PILImage.fromarray(np.ascontiguousarray(image), "RGB")
    resized = original.resize(shown_size(*image.shape[:2]), PILImage.Resampling.LANCZOS)
    return _encode(resized, "WEBP", quality=QUALITY)


def mask_file(mask: Mask, classes: int) -> bytes:
    """Encode the mask as palette PNG; values that are not a class, such as the ignore index, are cream."""
    image = _resize_nearest(np.ascontiguousarray(mask))
    palette = [
        value for label in range(256) for value in (colour(label) if label < classes else IGNORED_COLOUR)
    ]
    image.putpalette(palette)
    return _encode(image, "PNG", optimize=True)


def error_file(target: Mask, prediction: Mask, classes: int) -> bytes:
    """Encode where the prediction is wrong or ignored, as palette PNG that is transparent elsewhere."""
    codes = np.where(target >= classes, 2, target != prediction).astype(np.uint8)
    image = _resize_nearest(codes)
    image.putpalette([0, 0, 0, 0, *WRONG, *IGNORED], "RGBA")
    return _encode(image, "PNG", optimize=True)


def colour(label: int) -> tuple[int, int, int]:
    """Return VOC's colour of a class, RGB (VOClabelcolormap.m).

    The label's bits are spread over the channels, from the highest bit of a channel down.
    """
    red, green, blue = (
        sum((label >> 3 * shift + channel & 1) << 7 - shift for shift in range(8)) for channel in range(3)
    )
    return red, green, blue


def _resize_nearest(codes: Mask) -> PILImage.Image:
    """Resize to the shown size, with the values as palette indices."""
    image = PILImage.fromarray(codes, "L").resize(shown_size(*codes.shape), PILImage.Resampling.NEAREST)
    return PILImage.frombytes("P", image.size, image.tobytes())


def _encode(image: PILImage.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
