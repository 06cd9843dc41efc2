"""Run the exportable parts of a loaded model by the backend of its trial."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.adapter import ADAPTERS, Adapter, Exportable
from harness.backends.backend import BACKENDS, Backend, Inputs, missing_packages, substitute
from harness.cache import cache_folder
from harness.checkpoint import Checkpoint, sha256
from harness.errors import InfrastructureError
from harness.files import write_bytes
from harness.identity import code_version, content_id
from harness.rundir.results import ArtefactRecord
from harness.stages.child import LOAD_SECONDS, Child
from harness.task import Sample
from harness.trial import Trial

if TYPE_CHECKING:
    import torch


def attach_backend(trial: Trial, adapter: Adapter, checkpoint: Checkpoint | None) -> list[ArtefactRecord]:
    """Let the trial's backend run the parts of a loaded model, and return the files that it executes.

    Artefacts are in the cache. A missing one is exported in a process of its own, so that the memory of the
    exporter does not count as the model's.
    """
    name = trial.spec.backend
    if name == "eager":
        return []
    if problem := missing_packages(name):
        raise InfrastructureError(problem)
    backend = BACKENDS.get(name)()
    folder = _artefacts(trial, backend)
    if folder is not None and not folder.exists():
        with Child("spawn") as child:
            child.call(_export, trial, checkpoint, folder, seconds=LOAD_SECONDS)
    records = []
    for part_name, part in adapter.exportable().items():
        file = folder and folder / f"{part_name}{backend.suffix}"
        substitute(part, backend.load(part, file))
        if file:
            records.append(ArtefactRecord(name=part_name, sha256=sha256(file), bytes=file.stat().st_size))
    return records


def _artefacts(trial: Trial, backend: Backend) -> Path | None:
    """Return the folder of a trial's artefacts, named by all that they follow from; None if it needs none."""
    if not backend.suffix:
        return None
    spec = trial.spec
    exporter = type(backend).export.__module__
    content = {
        "adapter": [spec.adapter, spec.code, spec.options, spec.checkpoint],
        "numbers": [spec.precision, spec.calibration and spec.calibration.model_dump()],
        "exporter": [exporter, code_version(exporter)],
        "packages": {name: version(name) for name in ("torch", *backend.exporters)},
    }
    return cache_folder().with_name("exports") / content_id(content)


def _export(trial: Trial, checkpoint: Checkpoint | None, folder: Path) -> None:
    """Write the artefacts of a trial to a folder that appears once it is complete."""
    import torch

    torch.set_num_threads(1)
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options(**trial.options), trial.runtime("cpu"))
    adapter.load(checkpoint)
    backend = BACKENDS.get(trial.spec.backend)()
    parts = adapter.exportable()
    calls = _record_calls(trial, adapter)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    for name, part in parts.items():
        content = backend.export(part, trial.spec.precision, calls[name])
        write_bytes(temporary / f"{name}{backend.suffix}", content)
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)


def _record_calls(trial: Trial, adapter: Adapter) -> dict[str, list[Inputs]]:
    """Return the inputs of each part while the model predicts the calibration samples, if there are any."""
    calls: dict[str, list[Inputs]] = defaultdict(list)
    calibration = trial.spec.calibration
    if calibration is None:
        return calls
    dataset = replace(trial.dataset, split="train").open()
    indices = range(0, len(dataset), max(1, len(dataset) // calibration.samples))[: calibration.samples]
    parts = adapter.exportable()
    of_sample: dict[str, list[Inputs]] = {name: [] for name in parts}
    for name, part in parts.items():
        substitute(part, _recorder(part, of_sample[name]))
    for number, index in enumerate(indices):
        sample = dataset[index]
        adapter.predict([Sample(sample.id, sample.input)])
        for name, inputs in of_sample.items():
            if inputs:  # one call per sample, of a search every time another step
                calls[name].append(inputs[number % len(inputs)])
            inputs.clear()
    for part in parts.values():
        delattr(part.module, part.method)
    return calls


def _recorder(part: Exportable, calls: list[Inputs]) -> Callable[..., object]:
    """Return a function that calls the part's method, and records the tensors among the arguments."""
    from torch.utils import _pytree as pytree

    method: Callable[..., object] = getattr(part.module, part.method)

    def record(*arguments: object) -> object:
        tensors: list[torch.Tensor] = pytree.tree_leaves(arguments)
        calls.append([tensor.clone() for tensor in tensors])
        return method(*arguments)

    return record
