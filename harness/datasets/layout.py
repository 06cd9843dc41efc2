"""The layout of a data set in a folder of the user: its root, and paths that contain the split's name."""

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from harness.datasets.dataset import SPLITS
from harness.datasets.files import check_inside
from harness.errors import UnavailableError, UsageError

SPLIT_PLACEHOLDER = "{split}"

SplitName: TypeAlias = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
SplitNames: TypeAlias = tuple[SplitName, SplitName, SplitName]
"""Names that the files use for train, validation and test, in this order."""


def insert_split(path: str, split: str, names: tuple[str, str, str]) -> str:
    """Replace `{split}` in a path by the name that the files use for the split."""
    return path.replace(SPLIT_PLACEHOLDER, names[SPLITS.index(split)])


def check_root(root: Path) -> None:
    """Raise an UnavailableError if the root of a data set is not a folder."""
    if not root.is_dir():
        raise UnavailableError(f"{root}: folder not found (root of the data set)")


def check_option_path(path: str, root: str = "data set's root") -> None:
    """Raise a ValueError if the path that an option names leaves the root."""
    try:
        check_inside("the path", path, root)
    except UsageError as error:
        raise ValueError(str(error)) from error
