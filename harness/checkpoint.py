"""Weights in one safetensors file, with everything else that loading them needs, and one hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PICKLED = (".pth", ".pt")  # what torch.save writes, the form of published weights
WEIGHTS = (".safetensors", *PICKLED)
ASSET = "asset:"  # prefix of the tensors that hold bytes (a vocabulary model), not weights


@dataclass(frozen=True)
class Checkpoint:
    """Everything `Adapter.load` needs besides the options: one file, one hash."""

    tensors: Mapping[str, torch.Tensor]
    adapter: str
    """The adapter's registered name; another adapter refuses the file. Empty for weights from elsewhere."""
    options: Mapping[str, Any]
    """The adapter options that shape the weights (widths, depths, vocabulary size)."""
    classes: tuple[str, ...] = ()
    assets: Mapping[str, bytes] = field(default_factory=dict)
    """Files that belong to the weights, such as the vocabulary."""
    recipe: str = ""
    """Hash of the recipe that made it; empty for weights from elsewhere."""


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
        UsageError: missing, truncated, or not weights alone.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in PICKLED:
        return Checkpoint(_state_dict(path), adapter="", options={})
    metadata = read_metadata(path)
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
        options=parsed(path, metadata, "options", {}),
        classes=tuple(parsed(path, metadata, "classes", [])),
        assets={
            name.removeprefix(ASSET): tensor.numpy().tobytes()
            for name, tensor in stored.items()
            if name.startswith(ASSET)
        },
        recipe=metadata.get("recipe", ""),
    )


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a file of torch.save; code that such a file may hold is not run."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"checkpoint {path}: no such file") from error
    except Exception as error:  # what a malformed pickle raises is open-ended
        raise UsageError(
            f"checkpoint {path}: truncated, or not a file of weights alone (other objects are not loaded, "
            f"since they may run code)"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise UsageError(f"checkpoint {path}: expected a state dict, that is tensors by name")
    return dict(content)


def read_metadata(path: Path) -> dict[str, str]:
    """The file's header: adapter, options, classes, recipe; empty for weights from elsewhere.

    Pickled weights have none, and are not opened.

    Raises:
        UsageError: missing, truncated, or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix in PICKLED:
        return {}
    try:
        with safe_open(path, framework="numpy") as stream:
            return stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path}: truncated or not safetensors ({error})") from error


def parsed(path: Path, metadata: Mapping[str, str], key: str, default: T) -> T:
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
