"""Image files, checked up to the last pixel."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from harness.errors import HarnessError, UsageError
from harness.task import Image

_PNG_HEADER_SIZE = 26  # bytes up to bit depth and colour type, PNG specification §11.2.2
PICTURES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of these formats in lower case."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever the suffix of a file says.

Pillow would run Ghostscript on an EPS file, and the readers of rarer formats are little tested."""

_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr")  # of at most 8 bits, convertible to RGB

# Pillow warns about an image of more than MAX_IMAGE_PIXELS, but the warning only names a line of Python.
# Above twice this number it raises an error, which `open_image` reports.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def read_image(path: Path, drawn_on: tuple[int, int] | None = None) -> Image:
    """Read an image as [height, width, 3], RGB.

    Args:
        drawn_on: None takes the pixels as stored, without their EXIF orientation. With the width and height
            of the image on which boxes were drawn (0 if unknown), the image is turned upright as annotation
            tools show it, unless only the stored pixels have this size.

    Raises:
        UsageError: the file is not an image, is truncated, or has more than 8 bits per channel.
    """
    with open_image(path) as image:
        # Pillow silently truncates 16 bits per colour to 8.
        depth = png_bit_depth(path) if image.format == "PNG" else 8
        if image.mode not in _MODES or depth > 8:
            bits = f" with {depth} bits" if image.mode in _MODES else ""
            raise UsageError(
                f"{path}: expected an image with 8 bits per channel, found mode {image.mode}{bits}"
            )
        image.load()
        is_turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
        if drawn_on and not (is_turned and drawn_on == image.size and image.width != image.height):
            PIL.ImageOps.exif_transpose(image, in_place=True)
        return np.array(image.convert("RGB"), dtype=np.uint8)


@contextmanager
def open_image(path: Path, file_format: str | None = None) -> Iterator[PIL.Image.Image]:
    """Open an image file, and report any defect, including those that its pixels reveal on access.

    `verify` compares a PNG's checksums. Without it, 7% of single flipped bits change pixels without an error.
    The file must have Pillow's format of this name, or one of FORMATS.

    Raises:
        UsageError: the file is not an image of the format, is corrupt, or is too large.
    """
    formats = [file_format] if file_format else FORMATS
    try:
        with PIL.Image.open(path, formats=formats) as image:
            image.verify()
        with PIL.Image.open(path, formats=formats) as image:
            yield image
    except PIL.UnidentifiedImageError as error:
        expected = f"a {file_format} file" if file_format else f"an image file ({', '.join(FORMATS)})"
        raise UsageError(f"{path}: not {expected}") from error
    except PIL.Image.DecompressionBombError as error:
        assert PIL.Image.MAX_IMAGE_PIXELS
        raise UsageError(
            f"{path}: more than {2 * PIL.Image.MAX_IMAGE_PIXELS:,} pixels; cut it into smaller files"
        ) from error
    except (HarnessError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything; libavif, for one, a RuntimeError
        raise UsageError(f"{path}: cannot be read: {error}") from error


def png_bit_depth(path: Path) -> int:
    """Return the bits per channel of a PNG file, which Pillow does not expose."""
    with path.open("rb") as file:
        return file.read(_PNG_HEADER_SIZE)[24]
