"""Image files are decoded by few readers, and every defect is an error of its file."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest

from harness.datasets.image_files import FORMATS, open_image, read_image
from harness.datasets.masks.files import read_colours, read_mask
from harness.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def test_a_postscript_file_never_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL.Image.fromarray(PIXELS).save(tmp_path / "x.jpg", "EPS")
    started = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(True))
    with pytest.raises(UsageError, match=r"x\.jpg: not an image file \(AVIF, BMP, GIF, JPEG"):
        read_image(tmp_path / "x.jpg")
    assert not started


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.dat"
    PIL.Image.fromarray(PIXELS).save(path, name, **({"quality": 100} if name in ("AVIF", "JPEG") else {}))
    assert read_image(path).shape == PIXELS.shape


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_is_an_error_of_this_file(tmp_path: Path, name: str) -> None:
    path, damaged = tmp_path / "x.dat", tmp_path / "y.dat"
    PIL.Image.fromarray(PIXELS).save(path, name)
    content, generator = path.read_bytes(), random.Random(1)
    for _ in range(60):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 2, 50])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        damaged.write_bytes(changed[: generator.choice([len(changed), generator.randrange(len(changed))])])
        try:
            read_image(damaged)
        except UsageError as error:
            assert str(damaged) in str(error)


def test_an_error_of_a_decoder_names_the_file(tmp_path: Path) -> None:
    PIL.Image.fromarray(PIXELS).save(tmp_path / "x.png")
    for error in (RuntimeError("Failed to decode frame 0"), struct.error("unpack requires 4 bytes")):
        with pytest.raises(UsageError, match=rf"x\.png: cannot be read: {error}"):  # noqa: SIM117
            with open_image(tmp_path / "x.png"):
                raise error


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file (specification §5.3)."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: bytes, interlaced: bool = False) -> bytes:
    """Return an RGB image of 4×4 px as PNG with these filtered rows: a whole stream, whatever its length."""
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, interlaced)
    packed = zlib.compress(rows)
    parts = [(b"IHDR", header), (b"IDAT", packed[:9]), (b"IDAT", packed[9:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# Lengths of an interlaced 4×4 image's rows: passes 1, 4, 5, 6 and 7 have 1, 1, 1, 2 and 2 of them.
INTERLACED = (1, 1, 2, 2, 2, 4, 4)


@pytest.mark.parametrize("grey", [0, 200])
@pytest.mark.parametrize(("lengths", "interlaced"), [((4, 4, 4, 4), False), (INTERLACED, True)])
def test_a_png_whose_compressed_rows_end_early_is_an_error(
    tmp_path: Path, lengths: tuple[int, ...], interlaced: bool, grey: int
) -> None:
    rows = [b"\0" + bytes([grey] * 3 * length) for length in lengths]
    path = tmp_path / "x.png"
    path.write_bytes(png(b"".join(rows), interlaced))
    assert (read_image(path) == grey).all()
    assert (read_mask(path) == grey).all()
    for size in (sum(map(len, rows)) - 1, len(b"".join(rows[:-1])), len(rows[0]), 0):
        path.write_bytes(png(b"".join(rows)[:size], interlaced))
        for read in (read_image, read_mask, read_colours):
            with pytest.raises(UsageError, match=r"x\.png: cannot be read: image file is truncated"):
                read(path)
