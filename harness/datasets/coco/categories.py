"""The categories of a COCO file, and the classes that they stand for."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.coco.ids import Id
from harness.datasets.files import JsonObject, Note
from harness.errors import UsageError


def read_classes(
    path: Path, categories: Mapping[Id, JsonObject], uses: NDArray[np.int64], note: Note
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names in ascending order of category id, and the label of each category or −1.

    A category without annotations is left out if another has its name, or if it is the root that Roboflow
    writes: id 0, without a supercategory, and the supercategory of others.

    Two categories with annotations that have the same name are a UsageError.

    Args:
        categories: category id → its entry, in the order of the file.
        uses: [categories], number of annotations.
    """
    ids, entries = [*categories], [*categories.values()]
    order = sorted(range(len(ids)), key=lambda kind: ids[kind])
    namesakes: defaultdict[str, list[int]] = defaultdict(list)
    for kind in order:
        namesakes[str(entries[kind]["name"])].append(kind)
    parents = {str(entry.get("supercategory")) for entry in entries}
    label_of_kind = np.full(len(ids), -1, dtype=np.int64)
    names: list[str] = []
    for kind in order:
        name = str(entries[kind]["name"])
        used = [other for other in namesakes[name] if uses[other]]
        if len(used) > 1:
            raise UsageError(
                f"{path}: categories: {ids[used[0]]} and {ids[used[1]]} have the same name '{name}', and "
                f"both have annotations; rename or merge them"
            )
        is_root = ids[kind] == 0 and entries[kind].get("supercategory") == "none" and name in parents
        if kind != (used or namesakes[name])[-1] or (is_root and not used):
            reason = "is the supercategory of others" if is_root else "shares its name with another"
            note(f"{path}: category {ids[kind]} '{name}' has no annotation, {reason}, and is left out")
            continue
        label_of_kind[kind] = len(names)
        names.append(name)
    return tuple(names), label_of_kind
