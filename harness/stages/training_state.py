"""The saved state of an unfinished training, and the lock that reserves it for one process at a time."""

import fcntl
import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import UsageError
from harness.recipe import Report


@dataclass
class TrainingState:
    """Everything besides recipe and data that a training needs to continue.

    It contains only numbers, tensors, and lists and mappings of them, so that it loads without running code.
    """

    identity: str
    """Hash of recipe and training data; only a training with the same hash may continue from the state."""
    step: int = 0
    """Number of finished steps."""
    module: dict[str, Tensor] = field(default_factory=dict)
    """The current weights."""
    optimiser: dict[str, object] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights with the best validation so far."""
    best_value: float = float("-inf")
    """The validation figure of the best weights."""
    validations_since_best: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry per validation (see `Provenance.history`)."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def training_lock(weights: Path, report: Report) -> Iterator[None]:
    """Let only one process at a time train these weights; make the others wait.

    The lock is released when its holder ends, even if it is killed. The holder removes the lock file
    (NAME.lock beside the weights).
    """
    path = weights.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as streams:
        while True:
            stream = streams.enter_context(path.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"another process is training {weights.name}; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            # The previous holder may have removed the file that was opened, so lock the file that exists now.
            if path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino:
                break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_state(state: TrainingState, path: Path) -> None:
    """Replace a state file in one step, so that a kill leaves either the old or the new state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    torch.save({item.name: getattr(state, item.name) for item in fields(state)}, temporary)
    temporary.replace(path)


def read_state(path: Path, identity: str) -> TrainingState | None:
    """Read a state file; return None if it does not exist or belongs to another recipe or other data."""
    if not path.exists():
        return None
    try:
        state = TrainingState(**torch.load(path, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path}: not a training state; delete it to start over") from error
    return state if state.identity == identity else None
