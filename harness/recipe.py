"""Recipes: how checkpoints are made, what came of it, and where both are looked for.

A recipe is a YAML file; training writes NAME.safetensors beside a copy of it with what came of it:

    recipe:      adapter, options, data set, optimiser, seed, steps       (input, hashed)
    provenance:  data fingerprint, hardware, wall time, figures reached   (output)

The weights carry the recipe's hash, so a recipe that has changed since is seen to need training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.adapter import ADAPTERS
from harness.cache import cache_folder
from harness.checkpoint import WEIGHTS, parsed, read_metadata
from harness.errors import UnavailableError, UsageError
from harness.registry import unknown
from harness.task import TaskName
from harness.yaml_source import read_source, validate


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeData(_Strict):
    """What a checkpoint is trained on."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Recipe(_Strict):
    """How a checkpoint is made. AdamW, linear warm-up, cosine decay, gradient clipping."""

    adapter: str
    task: TaskName
    options: dict[str, Any] = Field(default_factory=dict)
    dataset: RecipeData
    seed: int = 0
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(0.02, ge=0, le=1, description="fraction of learning_rate at the end")
    warmup_steps: int = Field(60, ge=0)
    weight_decay: float = Field(5e-4, ge=0)
    clip_norm: float = Field(10.0, gt=0)
    metric: str = Field(description="metric family whose headline figure picks the best weights")
    validate_every: int = Field(500, gt=0, description="steps between validations")
    validation_size: int = Field(200, gt=0, description="samples of the validation split")
    patience: int | None = Field(None, gt=0, description="validations without improvement before stopping")

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the recipe's content."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


class Provenance(_Strict):
    """What came of a recipe."""

    sha256: str
    dataset_fingerprint: str
    steps: int
    hardware: str
    threads: int
    workers: int = Field(1, description="how many shared each batch")
    precision: str
    wall_seconds: float
    cpu_seconds: float
    parameters: int
    figures: dict[str, Any] = Field(description="validation figures of the weights that were kept")
    history: list[dict[str, float]] = Field(description="step, training loss, validation figure, seconds")
    versions: dict[str, str]


@dataclass(frozen=True)
class CheckpointRef:
    """Where a suite's checkpoint is, or how it will be made."""

    name: str
    weights: Path
    """Exists unless `missing`; where training will write it if `missing`."""
    recipe: Recipe | None
    missing: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    """The adapter options that it was, or will be, made with; a suite may not contradict them."""


def read_recipe(path: Path) -> Recipe:
    """Read the recipe part of a recipe file.

    Raises:
        UsageError: not there, not YAML, or not a recipe; names the file, the line and the key.
    """
    source = read_source(path)
    if "recipe" not in source.document:
        raise UsageError(f"{path}:1: recipe: this key is needed")
    return validate(Recipe, source.document["recipe"], [source], ("recipe",))


def resolve(reference: str, adapter: str, relative_to: Path | None, seed: int | None = None) -> CheckpointRef:
    """Find what a suite's `checkpoint:` names.

    A path to weights (`*.safetensors`, or `*.pth` as published elsewhere) or to a recipe (`*.yaml`), relative
    to the suite; or the name of a recipe that ships in the `checkpoints` folder of the package that offers
    the adapter. A seed takes the place of the recipe's own.

    Raises:
        UsageError: no recipe of that name, with the nearest one; a recipe or weights of another adapter; a
            seed for weights without a recipe.
        UnavailableError: no such file of weights.
    """
    if reference.endswith(WEIGHTS):
        if seed is not None:
            raise UsageError(f"checkpoint {reference}: weights have their seed already; name a recipe")
        weights = (relative_to or Path()) / reference
        if not weights.is_file():
            raise UnavailableError(f"checkpoint {weights}: no such file")
        metadata = read_metadata(weights)
        if metadata.get("adapter", adapter) != adapter:
            raise UsageError(f"checkpoint {weights}: of adapter '{metadata['adapter']}', not '{adapter}'")
        made_with: dict[str, Any] = parsed(weights, metadata, "options", {})
        return CheckpointRef(weights.stem, weights, None, missing=False, options=made_with)
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
    name = path.stem
    if seed is not None and seed != recipe.seed:
        recipe, name = recipe.model_copy(update={"seed": seed}), f"{path.stem}-seed-{seed}"
    trained = cache_folder() / f"{path.stem}-{recipe.hash[:12]}" / f"{path.stem}.safetensors"
    beside = path.parent / trained.parent.name / trained.name  # as a package for a cluster holds it
    for candidate in (path.with_suffix(".safetensors"), beside, trained):
        if candidate.is_file() and read_metadata(candidate).get("recipe") == recipe.hash:
            return CheckpointRef(name, candidate, recipe, missing=False, options=recipe.options)
    return CheckpointRef(name, trained, recipe, missing=True, options=recipe.options)


def shipped_recipes(adapter: str) -> dict[str, Path]:
    """Recipes by name that ship with the package that offers the adapter.

    Raises:
        UsageError: no such adapter.
    """
    entries = ADAPTERS.entries()
    if adapter not in entries:
        raise UsageError(unknown("adapter", adapter, entries))
    package = entries[adapter].target.partition(":")[0].partition(".")[0]
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None  # a single module has none, and ships none
    return {
        path.stem: path for folder in folders or () for path in Path(folder, "checkpoints").glob("*.yaml")
    }
