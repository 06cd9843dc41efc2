"""Image files are decoded by few readers, and every defect is an error of its file."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest

from harness.datasets.image_files import FORMATS, open_image, read_image
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
