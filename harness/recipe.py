"""Recipes: how checkpoints are trained, the result of each training, and where to find both.

A recipe is a YAML file. Training writes NAME.safetensors, and a copy of the recipe with the result in the
same folder:

    recipe:      adapter, options, data set, optimiser, seed, steps       (input, hashed)
    provenance:  data fingerprint, hardware, wall time, figures reached   (output)

The weights carry the recipe's hash, so weights of an older version of a recipe are detected and retrained.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from pydantic import Field

from harness.adapter import ADAPTERS
from harness.cache import cache_folder
from harness.checkpoint import WEIGHTS, parse_metadata, read_metadata
from harness.errors import UnavailableError, UsageError
from harness.files import StrictModel
from harness.registry import unknown
from harness.task import Figure, TaskName
from harness.yaml_source import read_source, validate


@dataclass(frozen=True)
class TrainingStep:
    """Progress of a training; its text is one line."""

    step: int
    steps: int
    loss: float
    figure: str = ""  # the last validation's, such as `ap 0.2000`
    rate: float | None = None  # steps/s; None for a validation

    def __str__(self) -> str:
        parts = [f"step {self.step}/{self.steps}", f"loss {self.loss:.3f}", self.figure]
        if self.rate:
            minutes, seconds = divmod(round((self.steps - self.step) / self.rate), 60)
            parts += [f"{self.rate:.1f} steps/s", f"ETA {minutes}:{seconds:02d}"]
        return "  ".join(filter(None, parts))


Report: TypeAlias = Callable[[TrainingStep | str], None]
"""Called with each step of progress, and with notes on a training."""


class RecipeData(StrictModel):
    """The data set that a checkpoint is trained on."""

    name: str = Field(description="Registered name of the data set.")
    options: dict[str, object] = Field(default_factory=dict, description="Options of the data set.")


class Training(StrictModel):
    """The training of an adapter with AdamW, a linear warm-up, a cosine decay and gradient clipping."""

    options: dict[str, object] = Field(default_factory=dict, description="Options of the adapter.")
    dataset: RecipeData | str = Field(
        description="Registered data set with options, or the name of one of the suite's data sets."
    )
    seed: int = Field(0, description="Seed of initialisation, sampling, augmentation and dropout.")
    steps: int = Field(gt=0, description="Optimiser steps.")
    batch_size: int = Field(gt=0, description="Samples per step.")
    learning_rate: float = Field(gt=0, description="Learning rate at the end of the warm-up.")
    final_learning_rate: float = Field(
        0.02, ge=0, le=1, description="Learning rate at the last step, as a fraction of `learning_rate`."
    )
    warmup_steps: int = Field(60, ge=0, description="Steps of the linear warm-up.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of AdamW.")
    clip_norm: float = Field(10.0, gt=0, description="Largest L2 norm of the gradient.")
    metric: str = Field(description="Metric whose first figure selects the best weights.")
    validate_every: int = Field(500, gt=0, description="Steps between validations.")
    validation_size: int = Field(200, gt=0, description="Samples of the validation split to evaluate.")
    patience: int | None = Field(
        None, gt=0, description="Validations without improvement before training stops."
    )


class Recipe(Training):
    """The training of a checkpoint, complete with its adapter."""

    adapter: str = Field(description="Registered name of the adapter.")
    task: TaskName

    @property
    def data(self) -> RecipeData:
        """Return the data set; a name without a suite is a registered one."""
        return RecipeData(name=self.dataset) if isinstance(self.dataset, str) else self.dataset

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the recipe's content in hex digits."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


class Provenance(StrictModel):
    """The record of a training: its results, data and hardware."""

    sha256: str = Field(description="SHA-256 of the weights file.")
    dataset_fingerprint: str = Field(description="Fingerprint of the training split.")
    steps: int = Field(description="Steps done; fewer than in the recipe after an early stop.")
    hardware: str
    threads: int = Field(description="CPU threads.")
    workers: int = Field(1, description="Processes that shared each batch, as earlier versions allowed.")
    precision: str
    wall_seconds: float
    cpu_seconds: float
    parameters: int = Field(description="Number of parameters of the model.")
    figures: dict[str, Figure] = Field(description="Validation figures of the stored weights.")
    history: list[dict[str, float]] = Field(
        description="One entry per validation: step, training loss, validation figure, seconds."
    )
    versions: dict[str, str] = Field(description="Versions of Python and of packages.")


@dataclass(frozen=True)
class CheckpointRef:
    """The location of a suite's checkpoint, or where training will write it."""

    name: str
    weights: Path
    """The file of weights; it exists unless `missing`."""
    recipe: Recipe | None
    """None for weights that the suite names directly."""
    missing: bool
    """True if the weights must be trained first."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The adapter options with which the weights are made; a suite must not contradict them."""
    data: RecipeData | None = None
    """The recipe's data set with the variables and paths of its options filled in, for a training here."""


def read_recipe(path: Path) -> Recipe:
    """Read the recipe part of a recipe file."""
    source = read_source(path)
    if "recipe" not in source.document:
        raise UsageError(f"{path}:1: recipe: this key is required")
    return validate(Recipe, source.document["recipe"], [source], ("recipe",))


def resolve_checkpoint(
    reference: str,
    adapter: str,
    relative_to: Path | None,
    seed: int | None = None,
    named_data: Callable[[str], RecipeData] | None = None,
) -> CheckpointRef:
    """Find the checkpoint that a suite's `checkpoint:` names.

    Args:
        reference: One of

            - a path to weights (`*.safetensors`, or `*.pth` for published weights),
            - a path to a recipe (`*.yaml`),
            - the name of a recipe in the `checkpoints` folder of the package that provides the adapter.
        adapter: Registered name of the adapter that will load the weights.
        relative_to: Folder that relative paths start from; None for the working directory.
        seed: Replaces the recipe's own seed.
        named_data: Finds a data set that the recipe names; by default a registered one.
    """
    if reference.endswith(WEIGHTS):
        if seed is not None:
            raise UsageError(f"checkpoint {reference}: weights have a fixed seed; name a recipe instead")
        return _existing_weights((relative_to or Path()) / reference, adapter)
    if reference.endswith((".yaml", ".yml")):
        path = (relative_to or Path()) / reference
    else:
        shipped = shipped_recipes(adapter)
        if reference not in shipped:
            raise UsageError(unknown("checkpoint", reference, shipped))
        path = shipped[reference]
    recipe = read_recipe(path)
    if recipe.adapter != adapter:
        raise UsageError(f"{path}: a recipe for adapter '{recipe.adapter}', not '{adapter}'")
    if isinstance(recipe.dataset, str) and named_data is not None:
        recipe = recipe.model_copy(update={"dataset": named_data(recipe.dataset)})
    return trained_checkpoint(recipe, path, seed)


def trained_checkpoint(recipe: Recipe, path: Path, seed: int | None = None) -> CheckpointRef:
    """Find the weights of a recipe, or where training will write them.

    The recipe's file NAME.yaml need not exist. Weights may be beside it. `seed` replaces the recipe's own.
    """
    name = path.stem
    recipe = recipe.model_copy(update={"dataset": recipe.data})
    if seed is not None and seed != recipe.seed:
        recipe, name = recipe.model_copy(update={"seed": seed}), f"{path.stem}-seed-{seed}"
    cached = cache_folder() / f"{path.stem}-{recipe.hash[:12]}" / f"{path.stem}.safetensors"
    packaged = path.parent / cached.parent.name / cached.name  # its place in a package for a cluster
    for candidate in (path.with_suffix(".safetensors"), packaged, cached):
        if candidate.is_file() and read_metadata(candidate).get("recipe") == recipe.hash:
            return CheckpointRef(name, candidate, recipe, missing=False, options=recipe.options)
    return CheckpointRef(name, cached, recipe, missing=True, options=recipe.options)


def _existing_weights(weights: Path, adapter: str) -> CheckpointRef:
    if not weights.is_file():
        raise UnavailableError(f"checkpoint {weights}: no such file")
    metadata = read_metadata(weights)
    if metadata.get("adapter", adapter) != adapter:
        raise UsageError(f"checkpoint {weights}: made by adapter '{metadata['adapter']}', not '{adapter}'")
    options: dict[str, object] = parse_metadata(weights, metadata, "options", {})
    return CheckpointRef(weights.stem, weights, None, missing=False, options=options)


def shipped_recipes(adapter: str) -> dict[str, Path]:
    """Return the recipes that ship with the package that provides an adapter, by name."""
    package = ADAPTERS.entry(adapter).module.partition(".")[0]
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None  # None for a single module: ships no recipes
    return {
        path.stem: path for folder in folders or () for path in Path(folder, "checkpoints").glob("*.yaml")
    }
