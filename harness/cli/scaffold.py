"""`harness new adapter`: create a small package with a working adapter, its test and a suite."""

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
_FIRST_SUITE = {  # task → data set and metric
    "translation": ("phrases", "bleu"),
    "detection": ("scenes", "coco"),
    "segmentation": ("scenes", "iou"),
}


def new_adapter(name: str, task: str, out: Path) -> list[Path]:
    """Write the package into the new folder `out`/`name`, and return its files.

    Raises:
        UsageError: The folder exists, the task is unknown, or the name is malformed or taken.
    """
    module = name.replace("-", "_")
    _check_name(name, module)
    if task not in TASKS:
        raise UsageError(unknown("task", task, TASKS))
    folder = out / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created: {error.strerror}") from error
    dataset, metric = _FIRST_SUITE[task]
    words = "".join(word.capitalize() for word in name.split("-"))
    variables = {"name": name, "module": module, "cls": f"{words}Adapter", "options": f"{words}Options"}
    variables |= {"task": task, "dataset": dataset, "metric": metric}
    templates = {
        "pyproject.toml": "pyproject.toml.txt",
        f"{module}.py": f"{task}.py.txt",
        f"test_{module}.py": "test.py.txt",
        "suite.yaml": "suite.yaml.txt",
    }
    for file, template in templates.items():
        text = (files("harness.cli") / "templates" / template).read_text(encoding="utf-8")
        (folder / file).write_text(Template(text).substitute(variables), encoding="utf-8")
    return [folder / file for file in templates]


def _check_name(name: str, module: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"invalid adapter name '{name}': expected lower-case words joined by '-', such as my-model"
        )
    if name in ADAPTERS.entries():
        raise UsageError(f"adapter name '{name}' is taken by {ADAPTERS.entries()[name].origin}")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or find_spec(module) is not None:
        raise UsageError(f"adapter name '{name}': '{module}' is a Python keyword or an existing module")
