"""Weights and the recipe that makes them: files, identity, and where they are looked for.

A recipe is a YAML file; training writes NAME.safetensors beside a copy of it with what came of it:

    recipe:      adapter, options, data set, optimiser, seed, steps       (input, hashed)
    provenance:  data fingerprint, hardware, wall time, figures reached   (output)

The weights carry the recipe's hash, so a recipe that has changed since is seen to need training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field

from harness.adapter import ADAPTERS
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import TaskName
from harness.yaml_source import read_source, validate

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
ASSET = "asset:"  # prefix of the tensors that hold bytes (a vocabulary model), not weights


@dataclass(frozen=True)
class Checkpoint:
    """Everything `Adapter.load` needs besides the options: one file, one hash."""

    tensors: Mapping[str, torch.Tensor]
    adapter: str
    """The adapter's registered name; another adapter refuses the file."""
    options: Mapping[str, Any]
    """The adapter options that shape the weights (widths, depths, vocabulary size)."""
    classes: tuple[str, ...] = ()
    assets: Mapping[str, bytes] = field(default_factory=dict)
    """Files that belong to the weights, such as the vocabulary."""
    recipe: str = ""
    """Hash of the recipe that made it; empty for weights from elsewhere."""


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


def resolve(reference: str, adapter: str, relative_to: Path | None) -> CheckpointRef:
    """Find what a suite's `checkpoint:` names.

    A path to weights (`*.safetensors`) or to a recipe (`*.yaml`), relative to the suite; or the name of a
    recipe that ships in the `checkpoints` folder of the package that offers the adapter.

    Raises:
        UsageError: nothing of that name, with the nearest one.
    """
    if reference.endswith(".safetensors"):
        weights = (relative_to or Path()) / reference
        if not weights.is_file():
            raise UsageError(f"checkpoint {weights}: no such file")
        made_with: dict[str, Any] = _parsed(weights, _metadata(weights), "options", {})
        return CheckpointRef(weights.stem, weights, None, missing=False, options=made_with)
    if reference.endswith((".yaml", ".yml")):
        path = (relative_to or Path()) / reference
    else:
        shipped = _shipped(adapter)
        if reference not in shipped:
            raise UsageError(unknown("checkpoint", reference, shipped))
        path = shipped[reference]
    recipe = read_recipe(path)
    if recipe.adapter != adapter:
        raise UsageError(f"{path}: a recipe for adapter '{recipe.adapter}', not '{adapter}'")
    trained = cache_folder() / f"{path.stem}-{recipe.hash[:12]}" / f"{path.stem}.safetensors"
    for candidate in (path.with_suffix(".safetensors"), trained):
        if candidate.is_file() and _metadata(candidate).get("recipe") == recipe.hash:
            return CheckpointRef(path.stem, candidate, recipe, missing=False, options=recipe.options)
    return CheckpointRef(path.stem, trained, recipe, missing=True, options=recipe.options)


def cache_folder() -> Path:
    """Where trained checkpoints are kept: $HARNESS_CACHE, or the user's cache folder."""
    configured = os.environ.get("HARNESS_CACHE")
    return (Path(configured) if configured else user_cache_path("harness")) / "checkpoints"


def _shipped(adapter: str) -> dict[str, Path]:
    entries = ADAPTERS.entries()
    if adapter not in entries:
        raise UsageError(unknown("adapter", adapter, entries))
    package = entries[adapter].target.partition(":")[0].partition(".")[0]
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None  # a single module has none, and ships none
    return {
        path.stem: path for folder in folders or () for path in Path(folder, "checkpoints").glob("*.yaml")
    }


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(checkpoint: Checkpoint, path: Path) -> str:
    """Write atomically, floating-point tensors as fp16; returns the file's SHA-256."""
    import torch
    from safetensors.torch import save as serialise

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in checkpoint.tensors.items()
    }
    for name, content in checkpoint.assets.items():
        tensors[ASSET + name] = torch.tensor(list(content), dtype=torch.uint8)
    metadata = {
        "adapter": checkpoint.adapter,
        "options": json.dumps(dict(checkpoint.options), sort_keys=True),
        "classes": json.dumps(checkpoint.classes),
        "recipe": checkpoint.recipe,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(_reproducible(serialise(tensors, metadata)))
    temporary.replace(path)
    return sha256(path)


def _reproducible(content: bytes) -> bytes:
    """The same file with sorted metadata: safetensors writes it in an order that differs from call to call.

    Layout: length of the header (8 bytes, little-endian), header (JSON, padded to 8 bytes), data; offsets
    count from the start of the data.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def load(path: Path) -> Checkpoint:
    """Read weights as float32, and their assets.

    Raises:
        UsageError: missing, truncated, or not safetensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata = _metadata(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path}: truncated or not safetensors ({error})") from error
    return Checkpoint(
        tensors={
            name: tensor.float() if tensor.dtype == torch.float16 else tensor
            for name, tensor in stored.items()
            if not name.startswith(ASSET)
        },
        adapter=metadata.get("adapter", ""),
        options=_parsed(path, metadata, "options", {}),
        classes=tuple(_parsed(path, metadata, "classes", [])),
        assets={
            name.removeprefix(ASSET): tensor.numpy().tobytes()
            for name, tensor in stored.items()
            if name.startswith(ASSET)
        },
        recipe=metadata.get("recipe", ""),
    )


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            return stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path}: truncated or not safetensors ({error})") from error


def _parsed(path: Path, metadata: Mapping[str, str], key: str, default: T) -> T:
    """Metadata of ours is JSON; another tool's file may use the same key for something else."""
    try:
        value = json.loads(metadata[key]) if key in metadata else default
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, type(default)):
        raise UsageError(f"checkpoint {path}: its metadata '{key}' is not this harness's: {metadata[key]!r}")
    return value


def load_into(module: torch.nn.Module, checkpoint: Checkpoint, adapter: str) -> None:
    """Copy a checkpoint's tensors into a module of the same shape.

    Raises:
        UsageError: made by another adapter, or tensors are missing, left over, of another shape or NaN.
    """
    if checkpoint.adapter and checkpoint.adapter != adapter:
        raise UsageError(f"checkpoint of adapter '{checkpoint.adapter}' cannot be loaded by '{adapter}'")
    expected = module.state_dict()
    for name in sorted(expected.keys() ^ checkpoint.tensors.keys()):
        where = "is missing from" if name in expected else "is left over in"
        raise UsageError(f"checkpoint does not fit adapter '{adapter}': tensor '{name}' {where} the file")
    for name, tensor in checkpoint.tensors.items():
        if tensor.shape != expected[name].shape:
            raise UsageError(
                f"checkpoint does not fit adapter '{adapter}': tensor '{name}' has shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UsageError(f"checkpoint of adapter '{adapter}': tensor '{name}' has NaN or infinite values")
    module.load_state_dict(dict(checkpoint.tensors))
