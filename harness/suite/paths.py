"""Paths in the options of a suite: where relative ones start, and which folder none may leave."""

from collections.abc import Collection, Mapping
from pathlib import Path

from harness.datasets.dataset import Dataset
from harness.suite.loading import LoadedSuite
from harness.trial import path_fields
from harness.yaml_source import KeyPath


def resolve_paths(
    loaded: LoadedSuite, keys: KeyPath, options: Mapping[str, object], names: Collection[str]
) -> dict[str, object]:
    """Return the options with these names, which are paths or lists of paths, as absolute paths.

    Relative paths start at `data_root`, which no path may leave, or without it at the folder of the suite
    file that sets the option. Values of another type are unchanged, so that their validation reports them.
    """
    resolved: dict[str, object] = {}
    for name in filter(names.__contains__, options):
        value, where = options[name], [*keys, name]
        if isinstance(value, list):
            resolved[name] = [_resolve(loaded, where, part) for part in value]
        else:
            resolved[name] = _resolve(loaded, where, value)
    return resolved


def dataset_options(
    loaded: LoadedSuite, keys: KeyPath, cls: type[Dataset], options: Mapping[str, object]
) -> dict[str, object]:
    """Return a data set's options with variables filled in, and with absolute paths.

    Without a data root, relative paths start at the working directory.
    """
    expanded, names = loaded.expand_options(keys, options), path_fields(cls.Options)
    if loaded.suite.data_root is not None:
        return expanded | resolve_paths(loaded, keys, expanded, names)
    texts = {name: value for name, value in expanded.items() if name in names and isinstance(value, str)}
    return expanded | {name: str(Path(value).absolute()) for name, value in texts.items()}


def _resolve(loaded: LoadedSuite, keys: KeyPath, value: object) -> object:
    if not isinstance(value, str):
        return value
    root_keys: KeyPath = ["data_root"]
    data_root = loaded.suite.data_root
    if data_root is None:
        return str((loaded.folder(keys) / value).resolve())
    root = (loaded.folder(root_keys) / loaded.expand_text(root_keys, data_root)).resolve()
    path = (root / value).resolve()
    if not path.is_relative_to(root):
        raise loaded.error(keys, f"path '{value}' leaves the data root {root}")
    return str(path)
