"""Pairs of files, such as images and their masks, that two path patterns match with the same id.

A pattern is a path relative to the root of the data set. `{id}` stands for the id and `*` for any text, both
within the name of one folder or file: `gtFine/val/*/{id}_gtFine_labelIds.png`. An id does not start with a
dot, which excludes hidden files.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.datasets.content_hashes import content_hashes
from harness.datasets.files import composed, is_hidden
from harness.datasets.image_files import PICTURES
from harness.datasets.image_set import read_image_set
from harness.errors import UsageError

ID_PLACEHOLDER = "{id}"
_REGEXES = {ID_PLACEHOLDER: r"(?P<id>[^/.][^/]*)", "*": "[^/]*"}


@dataclass(frozen=True)
class PathPattern:
    """Paths of all files of one role."""

    role: str  # for messages: image, label
    path: str
    complete: bool = True
    """True if all matching files belong to the split; a file without a partner is then an error."""

    def path_of(self, sample_id: str) -> str:
        """Return the path of the file with an id."""
        return self.path.replace(ID_PLACEHOLDER, sample_id)


@dataclass(frozen=True)
class FilePair:
    """The two files of a sample, such as an image and its mask."""

    id: str
    image: Path
    target: Path


def find_pairs(
    root: Path, images: PathPattern, targets: PathPattern, id_list: Path | None = None
) -> list[FilePair]:
    """Pair the files under `root` that match the patterns, all or those with listed ids, in order of id.

    Two files of one id, a file without a partner and a pattern or list without any are UsageErrors.
    """
    image_files, target_files = _files_by_id(root, images), _files_by_id(root, targets)
    if id_list is not None:
        ids = read_image_set(id_list, image_files.keys())
        for sample_id, line in ids.items():
            for pattern, files in ((images, image_files), (targets, target_files)):
                if sample_id not in files:
                    missing = f"{pattern.role} file not found: {root / pattern.path_of(sample_id)}"
                    raise UsageError(f"{id_list}:{line}: '{sample_id}': {missing}")
    else:
        if images.complete:
            _check_partners(root, image_files, target_files, targets)
        if targets.complete:
            _check_partners(root, target_files, image_files, images)
        ids = dict.fromkeys(image_files.keys() & target_files.keys(), 0)
    return [FilePair(sample_id, image_files[sample_id], target_files[sample_id]) for sample_id in sorted(ids)]


def pair_hashes(pairs: Sequence[FilePair]) -> list[str | bytes]:
    """Return for each pair its id and the SHA-256 of both files' content, which do not depend on paths."""
    hashes = iter(content_hashes(path for pair in pairs for path in (pair.image, pair.target)))
    return [part for pair in pairs for part in (pair.id, next(hashes), next(hashes))]


def _files_by_id(root: Path, pattern: PathPattern) -> dict[str, Path]:
    parts = re.split(r"(\{id\}|\*)", pattern.path)
    regex = re.compile("".join(_REGEXES.get(part) or re.escape(part) for part in parts))
    files: dict[str, Path] = {}
    for path in sorted(root.glob(pattern.path_of("*"))):
        match = regex.fullmatch(path.relative_to(root).as_posix())
        if not match or not path.is_file() or _is_extra(path.relative_to(root), pattern):
            continue
        try:
            match["id"].encode()
        except UnicodeEncodeError as error:
            escaped = os.fsencode(path).decode(errors="backslashreplace")
            raise UsageError(f"{escaped}: expected a file name in UTF-8") from error
        first = files.setdefault(composed(match["id"]), path)
        if first is not path:
            raise UsageError(f"{path}: id '{match['id']}' already has the {pattern.role} file {first}")
    if not files:
        raise UsageError(f"{root}: no {pattern.role} file matches {pattern.path}")
    return files


def _check_partners(
    root: Path, files: Mapping[str, Path], partners: Mapping[str, Path], pattern: PathPattern
) -> None:
    unpaired = sorted(files.keys() - partners.keys())
    if unpaired:
        missing = root / pattern.path_of(unpaired[0])
        more = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
        raise UsageError(f"{files[unpaired[0]]}: {pattern.role} file not found: {missing}{more}")


def _is_extra(path: Path, pattern: PathPattern) -> bool:
    """Return whether a path leads to a file that operating systems add, or to no picture for `{id}.*`."""
    names = zip((*[*reversed(path.parents)][1:], path), PurePosixPath(pattern.path).parts, strict=True)
    if any(is_hidden(name) for name, expected in names if not expected.startswith(".")):
        return True
    return pattern.path.endswith(".*") and path.suffix.lower() not in PICTURES
