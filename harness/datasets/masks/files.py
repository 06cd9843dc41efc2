"""Picture files and PNG masks: class ids as palette indices or grey levels, or classes as colours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.errors import UsageError
from harness.task import Image as Pixels
from harness.task import Mask

GREY_STEP = {2: 85, 4: 17}  # Pillow stretches grey levels of fewer than 8 bits to 0–255
HEADER = 26  # bytes up to a PNG's bit depth and colour type, PNG specification §11.2.2
PICTURES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr")  # modes of 8 bits that turn into RGB

# Files of twice as many pixels are refused, in words; this one would only name a line of Python.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def pair_masks(annotations: Path, predictions: Path) -> list[tuple[Path, Path]]:
    """Pair two files, or by stem, ascending, the PNG files of two folders that are not hidden.

    Raises:
        UsageError: a path is missing, a folder meets a file, has no PNG file, two of one
            stem or one without a partner.
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
    with _opened(path, "PNG") as image:
        if image.mode not in ("P", "L", "1"):
            raise UsageError(
                f"{path}: expected a palette or grey PNG of up to 8 bits whose values are classes, "
                f"found mode {image.mode}"
            )
        values = np.array(image, dtype=np.uint8)
        depth = _depth(path)
        grey = image.mode == "L"
    return values // GREY_STEP[depth] if grey and depth in GREY_STEP else values


def read_colours(path: Path) -> NDArray[np.int32]:
    """Read an RGB or palette PNG of 8 bits a channel as colours 0xRRGGBB: [height, width].

    Raises:
        UsageError: the file is no PNG, is truncated, or holds no colours or deeper ones.
    """
    with _opened(path, "PNG") as image:
        depth = _depth(path)
        if image.mode not in ("RGB", "P") or depth > 8:
            raise UsageError(
                f"{path}: expected an RGB or palette PNG of 8 bits whose colours are classes, "
                f"found mode {image.mode} of {depth} bits"
            )
        channels = np.array(image.convert("RGB"), dtype=np.int32)
    return channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]


def read_image(path: Path) -> Pixels:
    """Read a picture of any format that Pillow knows as [height, width, 3].

    Pixels are taken as stored: an EXIF rotation is not applied, as masks are drawn on stored pixels.

    Raises:
        UsageError: the file is no picture, is truncated, or deeper than 8 bits a channel.
    """
    with _opened(path) as image:
        depth = _depth(path) if image.format == "PNG" else 8  # Pillow cuts 16 bits of colour to 8 unasked
        if image.mode not in PICTURES or depth > 8:
            found = f"mode {image.mode}" + (f" of {depth} bits" if image.mode in PICTURES else "")
            raise UsageError(f"{path}: expected a picture of 8 bits a channel, found {found}")
        return np.array(image.convert("RGB"), dtype=np.uint8)


@contextmanager
def _opened(path: Path, kind: str | None = None) -> Iterator[Image.Image]:
    """Open a file; whatever is wrong with it, up to the last pixel, is a UsageError.

    Pillow decodes a PNG without its checksums, and 7% of flipped bits then give other pixels without an
    error (measured: 146 of 2,000); `verify` compares them.
    """
    formats = [kind] if kind else None
    try:
        with Image.open(path, formats=formats) as image:
            image.verify()
        with Image.open(path, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise UsageError(f"{path}: not a {kind or 'picture'} file") from error
    except Image.DecompressionBombError as error:
        assert Image.MAX_IMAGE_PIXELS
        raise UsageError(
            f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; cut it into smaller files"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _depth(path: Path) -> int:
    """Bits a channel of a PNG; Pillow does not say."""
    with path.open("rb") as file:
        return file.read(HEADER)[24]


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() != ".png" or file.name.startswith("."):
            continue
        if file.stem in files:
            raise UsageError(
                f"{file}: expected one file of the stem '{file.stem}', found {files[file.stem]} too"
            )
        files[file.stem] = file
    if not files:
        raise UsageError(f"{folder}: found no .png file")
    return files


def _kind(path: Path) -> str:
    return "the folder" if path.is_dir() else "the file"
