"""Checkpoints: one safetensors file with the weights and everything else needed to load them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PICKLED = (".pth", ".pt")  # written by torch.save, the usual format of published weights
WEIGHTS = (".safetensors", *PICKLED)
ASSET = "asset:"  # name prefix of tensors that contain the bytes of a file, such as a vocabulary


@dataclass(frozen=True)
class Checkpoint:
    """Everything that `Adapter.load` needs besides the options of the suite."""

    tensors: Mapping[str, torch.Tensor]
    adapter: str
    """Registered name of the only adapter that may load the file; empty for weights from elsewhere."""
    options: Mapping[str, object]
    """The architecture options of the adapter (widths, depths, vocabulary size)."""
    classes: tuple[str, ...] = ()
    """Names of the model's classes, by index; empty if it has none or they are unknown."""
    assets: Mapping[str, bytes] = field(default_factory=dict)
    """Contents of the files that belong to the weights, such as the vocabulary, by name."""
    recipe: str = ""
    """Hash of the recipe that the weights were trained with; empty for weights from elsewhere."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(checkpoint: Checkpoint, path: Path) -> str:
    """Write a checkpoint atomically, with floating-point tensors as fp16, and return the file's SHA-256."""
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
    """Return a safetensors file with its metadata sorted; safetensors writes them in a random order.

    Layout: length of the header (8 bytes, little-endian), header (JSON, padded to 8 bytes), data. Tensor
    offsets are relative to the start of the data.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, with fp16 weights converted to fp32.

    Raises:
        UsageError: The file is missing or truncated, or contains anything besides weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in PICKLED:
        return Checkpoint(_state_dict(path), adapter="", options={})
    metadata = read_metadata(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError for a shape beyond 64 bits
        reason, _, _ = str(error).partition("\n")  # torch adds its stack
        raise UsageError(f"checkpoint {path}: truncated or not safetensors ({reason})") from error
    for name, tensor in stored.items():
        if name.startswith(ASSET) and tensor.dtype != torch.uint8:
            raise UsageError(f"checkpoint {path}: tensor '{name}' is {tensor.dtype}, not bytes of a file")
    return Checkpoint(
        tensors={
            name: tensor.float() if tensor.dtype == torch.float16 else tensor
            for name, tensor in stored.items()
            if not name.startswith(ASSET)
        },
        adapter=metadata.get("adapter", ""),
        options=parse_metadata(path, metadata, "options", {}),
        classes=tuple(parse_metadata(path, metadata, "classes", [])),
        assets={
            name.removeprefix(ASSET): tensor.numpy().tobytes()
            for name, tensor in stored.items()
            if name.startswith(ASSET)
        },
        recipe=metadata.get("recipe", ""),
    )


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict written by torch.save without running code that the file may contain."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"checkpoint {path}: no such file") from error
    except Exception as error:  # a malformed pickle may raise anything
        raise UsageError(
            f"checkpoint {path}: truncated, or not a file of weights alone "
            f"(other objects are refused because they may run code)"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise UsageError(f"checkpoint {path}: expected a state dict (tensors by name)")
    return dict(content)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a checkpoint: adapter, options, classes and recipe.

    Empty for weights from elsewhere. Pickled weights have no metadata and are not opened.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix in PICKLED:
        return {}
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
        with path.open("rb") as stream:
            json.loads(stream.read(int.from_bytes(stream.read(8), "little")), object_pairs_hook=_unique)
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"checkpoint {path}: truncated or not safetensors ({error})") from error
    return metadata


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; safetensors itself takes the last of two equal keys in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key in values if sum(key == name for name, _ in pairs) > 1)
        raise ValueError(f"key {twice!r} occurs twice in the header")
    return values


def parse_metadata(path: Path, metadata: Mapping[str, str], key: str, default: T) -> T:
    """Return the JSON value of a metadata key, or the default if the key is absent."""
    try:
        value = json.loads(metadata[key]) if key in metadata else default
    except (ValueError, RecursionError):  # ValueError also for a number of over 4,300 digits
        value = None
    if not isinstance(value, type(default)):
        raise UsageError(
            f"checkpoint {path}: metadata key '{key}' was not written by this harness: {metadata[key]!r:.100}"
        )
    return value


def load_into(module: torch.nn.Module, checkpoint: Checkpoint, adapter: str) -> None:
    """Copy a checkpoint's tensors into a module of the same architecture."""
    if checkpoint.adapter and checkpoint.adapter != adapter:
        raise UsageError(f"checkpoint of adapter '{checkpoint.adapter}' cannot be loaded by '{adapter}'")
    expected = module.state_dict()
    for name in sorted(expected.keys() ^ checkpoint.tensors.keys()):
        reason = "is missing from the file" if name in expected else "is unexpected"
        raise UsageError(f"checkpoint does not fit adapter '{adapter}': tensor '{name}' {reason}")
    for name, tensor in checkpoint.tensors.items():
        if tensor.shape != expected[name].shape:
            raise UsageError(
                f"checkpoint does not fit adapter '{adapter}': tensor '{name}' has shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UsageError(f"checkpoint of adapter '{adapter}': tensor '{name}' has NaN or infinite values")
    module.load_state_dict(dict(checkpoint.tensors))
