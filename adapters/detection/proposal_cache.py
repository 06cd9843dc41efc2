"""Regions found by selective search, cached on disk because training uses each image many times."""

import hashlib
import io
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.detection.selective_search import VERSION, Strategy, propose
from harness.cache import cache_folder
from harness.files import write_bytes
from harness.task import Image

VERSIONS = f"{VERSION} {version('scikit-image')} {version('scipy')}"  # everything that affects the regions


def cached_proposals(image: Image, strategy: Strategy) -> NDArray[np.int32]:
    """Return the result of `propose`, from disk if cached. Safe to call from several processes at once."""
    path = _path(image, strategy)
    try:
        cached: NDArray[np.int32] = np.load(path)
        return cached
    except (FileNotFoundError, EOFError, ValueError):  # the last two: a truncated file, e.g. on a full disk
        proposals = propose(image, strategy)
    content = io.BytesIO()
    np.save(content, proposals)
    write_bytes(path, content.getvalue())
    return proposals


def _path(image: Image, strategy: Strategy) -> Path:
    """Return the cache file. Its name is a hash of the image, the strategy and `VERSIONS`."""
    digest = hashlib.sha256(f"{VERSIONS} {image.shape} {strategy}".encode())
    digest.update(image.tobytes())
    name = digest.hexdigest()
    return cache_folder().with_name("proposals") / name[:2] / f"{name[2:]}.npy"
