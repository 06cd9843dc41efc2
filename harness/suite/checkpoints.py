"""Checkpoints of a suite's adapters: weights, recipes and trainings that the suite describes itself."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from harness.adapter import ADAPTERS
from harness.datasets.dataset import DATASETS
from harness.errors import UnavailableError, UsageError
from harness.recipe import CheckpointRef, Recipe, RecipeData, resolve_checkpoint, trained_checkpoint
from harness.registry import unknown
from harness.suite.loading import LoadedSuite
from harness.suite.paths import dataset_options
from harness.suite.schema import AdapterEntry
from harness.trial import DatasetUse
from harness.yaml_source import KeyPath


def resolve_checkpoints(
    loaded: LoadedSuite, entry: AdapterEntry, keys: KeyPath
) -> dict[int | None, CheckpointRef]:
    """Return the checkpoint of an adapter entry by seed, None for the recipe's own; empty if it has none."""
    if entry.train is not None:
        if entry.checkpoint is not None:
            raise loaded.error([*keys, "train"], "set either 'checkpoint' or 'train'")
        # Named after the adapter, so that entries with the same training share the weights.
        path = loaded.folder([*keys, "train"]) / f"{entry.adapter}.yaml"
        recipe = Recipe(
            **entry.train.model_dump(exclude={"dataset"}),
            dataset=_declared(loaded, [*keys, "train", "dataset"], entry.train.dataset),
            adapter=entry.adapter,
            task=ADAPTERS.get(entry.adapter).task,
        )
        names = {
            seed: f"{keys[-1]}" + ("" if seed in (None, recipe.seed) else f"-seed-{seed}")
            for seed in entry.seeds
        }
        return {
            seed: replace(trained_checkpoint(recipe, path, seed), name=name) for seed, name in names.items()
        }
    if entry.checkpoint is None:
        if entry.seed is not None:
            raise loaded.error([*keys, "seed"], "a seed applies to a recipe: set 'checkpoint' or 'train'")
        return {}
    where: KeyPath = [*keys, "checkpoint"]
    reference, folder = loaded.expand_text(where, entry.checkpoint), loaded.folder(where)
    try:
        return {
            seed: resolve_checkpoint(
                reference, entry.adapter, folder, seed, lambda name: _named(loaded, name)
            )
            for seed in entry.seeds
        }
    except (UsageError, UnavailableError) as error:
        raise type(error)(str(loaded.error(where, str(error)))) from error


def with_training_data(
    loaded: LoadedSuite, references: Mapping[int | None, CheckpointRef], keys: KeyPath
) -> dict[int | None, CheckpointRef]:
    """Fill in the data of checkpoints that must be trained, and open both splits that training reads.

    Paths and variables mean the same as in the suite's own data sets. The recipes of the references differ in
    the seed only.
    """
    recipe = next((reference.recipe for reference in references.values() if reference.missing), None)
    if recipe is None or recipe.data.name not in DATASETS.entries():
        return dict(references)
    cls = DATASETS.get(recipe.data.name)
    options = dataset_options(loaded, keys, cls, recipe.data.options)
    try:
        cls.Options(**options)
    except ValidationError:
        return dict(references)  # the check of the recipe names the option
    if recipe.task in cls.tasks:
        for split in ("train", "validation"):
            if split in cls.splits:
                DatasetUse(recipe.data.name, options, split, recipe.task).open()
    data = RecipeData(name=recipe.data.name, options=options)
    return {
        seed: replace(reference, data=data) if reference.missing else reference
        for seed, reference in references.items()
    }


def _declared(loaded: LoadedSuite, keys: KeyPath, dataset: RecipeData | str) -> RecipeData:
    try:
        return _named(loaded, dataset) if isinstance(dataset, str) else dataset
    except UsageError as error:
        raise loaded.error(keys, str(error)) from error


def _named(loaded: LoadedSuite, name: str) -> RecipeData:
    """Return the data set of a suite, or the registered data set, with a name."""
    datasets = loaded.suite.datasets
    if name in datasets:
        return RecipeData(name=datasets[name].dataset, options=datasets[name].options)
    if name not in DATASETS.entries():
        raise UsageError(unknown("data set", name, [*datasets, *DATASETS.entries()]))
    return RecipeData(name=name)
