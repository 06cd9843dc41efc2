"""Regions that selective search has found in an image, kept on disk: training sees each image many times."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.detection.selective_search import VERSION, Strategy, propose
from harness.cache import cache_folder
from harness.task import Image

VERSIONS = f"{VERSION} {version('scikit-image')} {version('scipy')}"  # what decides which regions are found


def searched(image: Image, strategy: Strategy) -> NDArray[np.int32]:
    """What `propose` gives, from disk if it is there. Any number of processes may do this at once."""
    path = _path(image, strategy)
    try:
        kept: NDArray[np.int32] = np.load(path)
        return kept
    except (FileNotFoundError, EOFError, ValueError):  # the last two: cut short, as by a full disk
        found = propose(image, strategy)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.save(stream, found)
    temporary.replace(path)  # whole or not at all
    return found


def _path(image: Image, strategy: Strategy) -> Path:
    """By content: of the image, the options and the versions."""
    digest = hashlib.sha256(f"{VERSIONS} {image.shape} {strategy}".encode())
    digest.update(image.tobytes())
    name = digest.hexdigest()
    return cache_folder().with_name("proposals") / name[:2] / f"{name[2:]}.npy"
