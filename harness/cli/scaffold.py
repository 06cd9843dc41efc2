"""`harness new adapter`: a small package with a working adapter, its test and a suite that runs it."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from harness.adapter import ADAPTERS
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import TASKS

_NAME = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
_EXAMPLE = {  # task → data set and metric of its first suite
    "translation": ("phrases", "bleu"),
    "detection": ("scenes", "coco"),
    "segmentation": ("scenes", "iou"),
}


def new_adapter(name: str, task: str, out: Path) -> list[Path]:
    """Write the package into the new folder `out`/`name`.

    Returns:
        The files written.

    Raises:
        UsageError: the folder exists, the task is unknown, or the name is malformed or taken.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(_NAME, name):
        raise UsageError(f"adapter name '{name}': expected lower-case words joined by '-', such as my-model")
    if name in ADAPTERS.entries():
        raise UsageError(f"adapter name '{name}' is taken by {ADAPTERS.entries()[name].origin}")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or find_spec(module) is not None:
        raise UsageError(f"adapter name '{name}': Python has a module or keyword '{module}' already")
    if task not in TASKS:
        raise UsageError(unknown("task", task, TASKS))
    folder = out / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
    dataset, metric = _EXAMPLE[task]
    words = {
        "name": name,
        "module": module,
        "cls": "".join(word.capitalize() for word in name.split("-")) + "Adapter",
        "task": task,
        "dataset": dataset,
        "metric": metric,
    }
    templates = {
        "pyproject.toml": "pyproject.toml.txt",
        f"{module}.py": f"{task}.py.txt",
        f"test_{module}.py": "test.py.txt",
        "suite.yaml": "suite.yaml.txt",
    }
    for file, template in templates.items():
        text = (files("harness.cli") / "templates" / template).read_text(encoding="utf-8")
        (folder / file).write_text(Template(text).substitute(words), encoding="utf-8")
    return [folder / file for file in templates]
