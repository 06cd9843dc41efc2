"""Folder for files that can be recreated: trained checkpoints, downloads and region proposals."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return the folder of trained checkpoints, inside $HARNESS_CACHE or the user's cache folder."""
    configured = os.environ.get("HARNESS_CACHE")
    return (Path(configured) if configured else user_cache_path("harness")) / "checkpoints"
