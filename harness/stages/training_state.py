"""What a training needs to go on after it was killed, in one file that is replaced atomically; its lock."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from harness.errors import UsageError


@dataclass
class TrainingState:
    """Everything besides recipe and data; numbers, tensors, and lists and mappings of these."""

    identity: str
    """Of recipe and training data: a state of others is not continued."""
    step: int = 0
    """Steps done."""
    module: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """Weights of the best validation so far."""
    best_value: float = float("-inf")
    validations_since_best: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def training_lock(weights: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time train these weights; others wait.

    The lock file (NAME.lock beside the weights) goes with its holder, killed or not, and is removed by it.
    """
    path = weights.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while True:
            stream = held.enter_context(path.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"another process trains {weights.name}: waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            # The holder before may have removed the file that was opened: only the one that is there counts.
            if path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino:
                break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_state(state: TrainingState, path: Path) -> None:
    """Replace the file in one step, so that a kill leaves the old or the new state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    torch.save({part.name: getattr(state, part.name) for part in fields(state)}, temporary)
    temporary.replace(path)


def read_state(path: Path, identity: str) -> TrainingState | None:
    """The state to continue from; None where there is none, or one of another recipe or other data.

    Raises:
        UsageError: the file is not a training state.
    """
    if not path.exists():
        return None
    try:
        state = TrainingState(**torch.load(path, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path}: not the state of a training; delete it to start anew") from error
    return state if state.identity == identity else None
