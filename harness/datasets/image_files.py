"""Image files, checked up to the last pixel."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from harness.errors import HarnessError, UsageError
from harness.task import Image

# Layout of a PNG file, by section of its specification (third edition).
_PNG_HEADER = 16  # §11.2.1: offset of width, height, bit depth, colour type and interlace method
_PNG_CHUNKS = 8  # §5.2: offset of the first chunk
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # §11.2.1, by colour type
_PNG_PASSES = (  # §8.2: first column and row of each pass of an interlaced image, and the steps between them
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
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
        is_turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
        if drawn_on and not (is_turned and drawn_on == image.size and image.width != image.height):
            PIL.ImageOps.exif_transpose(image, in_place=True)
        return np.array(image.convert("RGB"), dtype=np.uint8)


@contextmanager
def open_image(path: Path, file_format: str | None = None) -> Iterator[PIL.Image.Image]:
    """Open an image file in Pillow's format of this name, or one of FORMATS; any defect is a UsageError.

    `verify` compares a PNG's checksums. Without it, 7% of single flipped bits change pixels without an error.
    """
    formats = [file_format] if file_format else FORMATS
    try:
        with PIL.Image.open(path, formats=formats) as image:
            image.verify()
        with PIL.Image.open(path, formats=formats) as image:
            image.load()
            last_row = image.crop((0, image.height - 1, *image.size))
            # Pillow leaves rows that a PNG lacks black. An interlaced image may lack others than the last.
            if image.format == "PNG" and (image.info.get("interlace") or not any(last_row.tobytes())):
                _check_rows(path)
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
        return file.read(_PNG_HEADER + 9)[-1]


def _check_rows(path: Path) -> None:
    """Raise a ValueError if the pixels of a PNG file end before its last row."""
    content = path.read_bytes()
    width, height, depth, colour, interlaced = struct.unpack_from(">IIBBxxB", content, _PNG_HEADER)
    missing = 0  # bytes
    for left, top, right_step, down_step in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // right_step), -((top - height) // down_step)
        if columns:  # a pass without columns has no rows, and each row begins with the type of its filter
            missing += rows * (1 + (columns * depth * _PNG_CHANNELS[colour] + 7) // 8)
    inflater, position = zlib.decompressobj(), _PNG_CHUNKS
    while missing and position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IDAT":
            missing -= len(inflater.decompress(content[position + 8 : position + 8 + size], missing))
        position += size + 12  # length, kind and checksum have 4 bytes each
    if missing:
        raise ValueError("image file is truncated (its last rows are missing)")
