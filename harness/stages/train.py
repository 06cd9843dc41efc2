"""Train: a recipe → weights, and beside them the recipe with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from harness import checkpoint as checkpoints
from harness import environment
from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import UnavailableError, UsageError
from harness.metrics.metric import METRICS, RESAMPLES, Metric
from harness.recipe import Provenance, Recipe, read_recipe
from harness.registry import unknown
from harness.stages.data_parallel import ALONE, Part
from harness.stages.fit import Fit, Report, evaluate
from harness.stages.predict import pick_device
from harness.stages.training_state import TrainingState, training_lock


def train(
    recipe: Recipe,
    weights: Path,
    runtime: Runtime,
    *,
    threads: int = 1,
    report: Report,
    part: Part = ALONE,
    kept: Callable[[Path], None] | None = None,
) -> Provenance | None:
    """Fit what the recipe says, write `weights` and, beside them, the recipe with its provenance.

    A state file beside the weights (NAME.state.pt) lets a killed training continue; it is deleted at the
    end. Where another process trains the same weights, this one waits and takes what that one made: weights
    of one recipe are not made twice. The provenance's figures are those of the weights as stored, that is
    rounded to fp16.

    Args:
        part: which of several workers this is; all but the first only help, write nothing and return None.
        kept: called with the state file whenever it has been written.

    Raises:
        UsageError: the recipe asks for something that is not there.
        HarnessError: the loss is not finite.
    """
    if runtime.precision == "fp16":
        raise UsageError("training in fp16 is not supported (its loss would need scaling): use bf16 or fp32")
    adapter, data, validation, metric = _parts(recipe, runtime)
    held_out = [validation[i] for i in range(min(recipe.validation_size, len(validation)))]
    fit = Fit(recipe, adapter, data, held_out, metric, report, part, kept)
    if not part.leads:
        with _threads(threads):
            _run(fit, weights)
        return None
    with training_lock(weights, report):
        made = _made_before(recipe, weights)
        if made is not None:
            report(f"{weights} has been made meanwhile")
            return made
        return _train(fit, weights, threads)


def check(recipe: Recipe) -> None:
    """See whether a recipe can be trained, as far as this machine can tell; the one that trains has the data.

    Raises:
        UsageError: the recipe asks for something that is not there, or its options do not fit its data.
    """
    with suppress(UnavailableError):
        _parts(recipe, Runtime())


def _parts(recipe: Recipe, runtime: Runtime) -> tuple[TrainableAdapter, Dataset, Dataset, Metric]:
    """What is trained, on what, and validated on what by what."""
    data, validation = _open(recipe, "train"), _open(recipe, "validation")
    metric = METRICS.get(recipe.metric)(validation.classes, **validation.metric_options)
    if metric.task != recipe.task:
        raise UsageError(f"recipe: metric '{recipe.metric}' is for {metric.task}, not {recipe.task}")
    adapter = _adapter(recipe, runtime)
    adapter.check(data)
    return adapter, data, validation, metric


def _run(fit: Fit, weights: Path) -> TrainingState:
    torch.manual_seed(fit.recipe.seed)
    fit.adapter.build(fit.data)
    return fit.run(weights.with_suffix(".state.pt"))


def _train(fit: Fit, weights: Path, threads: int) -> Provenance:
    recipe, adapter, held_out, metric = fit.recipe, fit.adapter, fit.held_out, fit.metric
    runtime = adapter.runtime
    with _threads(threads):
        state = _run(fit, weights)
        partial = weights.with_suffix(".partial.safetensors")
        adapter.module.load_state_dict(state.best)
        made = replace(adapter.checkpoint(), adapter=recipe.adapter, recipe=recipe.hash)
        digest = checkpoints.save(made, partial)
        stored = _adapter(recipe, runtime)
        stored.load(checkpoints.load(partial))
        scores = evaluate(stored, held_out, metric, recipe.batch_size, RESAMPLES)
    described = environment.describe()
    provenance = Provenance(
        sha256=digest,
        dataset_fingerprint=fit.data.fingerprint,
        steps=state.step,
        hardware=_hardware(described, runtime),
        threads=threads,
        workers=fit.part.of,
        precision=runtime.precision,
        wall_seconds=round(state.wall_seconds, 1),
        cpu_seconds=round(state.cpu_seconds, 1),
        parameters=adapter.parameters() or 0,
        figures={name: asdict(figure) for name, figure in scores.metrics.items()},
        history=state.history,
        versions={"python": described["python"], **described["packages"]},
    )
    _write_document(weights.with_suffix(".yaml"), recipe, provenance)
    partial.replace(weights)
    weights.with_suffix(".state.pt").unlink(missing_ok=True)
    return provenance


def _made_before(recipe: Recipe, weights: Path) -> Provenance | None:
    """What the document beside the weights says, if both are there and of this recipe."""
    path = weights.with_suffix(".yaml")
    if not (weights.exists() and path.exists()):
        return None
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "provenance" not in document or read_recipe(path) != recipe:
        return None
    made = Provenance.model_validate(document["provenance"])
    return made if made.sha256 == checkpoints.sha256(weights) else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Threads of torch's operators; their number decides how sums are split, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _open(recipe: Recipe, split: str) -> Dataset:
    name = recipe.dataset.name
    cls = DATASETS.get(name)
    if recipe.task not in cls.tasks:
        raise UsageError(f"recipe: data set '{name}' has no targets for {recipe.task}")
    if split not in cls.splits:
        raise UsageError(f"recipe: data set '{name}' has no split '{split}' to train with")
    dataset = cls(_options(cls.Options, recipe.dataset.options, "dataset.options"), split, recipe.task)
    if not len(dataset):
        raise UsageError(f"recipe: data set '{name}', split '{split}', is empty")
    return dataset


def _adapter(recipe: Recipe, runtime: Runtime) -> TrainableAdapter:
    cls = ADAPTERS.get(recipe.adapter)
    if not issubclass(cls, TrainableAdapter):
        raise UsageError(f"recipe: adapter '{recipe.adapter}' cannot be trained")
    if cls.task != recipe.task:
        raise UsageError(f"recipe: adapter '{recipe.adapter}' is for {cls.task}, not {recipe.task}")
    return cls(_options(cls.Options, recipe.options, "options"), runtime)


def _options(cls: type[Any], given: dict[str, Any], key: str) -> Any:
    try:
        return cls(**given)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([key, *(str(part) for part in first["loc"])])
        wrong = first["msg"]
        if first["type"] == "extra_forbidden":
            wrong = unknown("option", str(first["loc"][0]), cls.model_fields)
        raise UsageError(f"recipe: {path}: {wrong}") from error


def _hardware(described: dict[str, Any], runtime: Runtime) -> str:
    """The device that was trained on: a machine's GPU does not count where its CPU did the work."""
    on_cpu = torch.device(runtime.device).type == "cpu"
    return environment.hardware_name({**described, "gpus": []} if on_cpu else described)


def _write_document(path: Path, recipe: Recipe, provenance: Provenance) -> None:
    """The recipe and its provenance; a recipe that is there already keeps its text, comments included."""
    text = yaml.safe_dump({"recipe": recipe.model_dump()}, sort_keys=False, allow_unicode=True)
    if path.exists() and read_recipe(path) == recipe:
        kept = path.read_text(encoding="utf-8").split("\nprovenance:\n")[0].rstrip() + "\n"
        if "recipe" in (yaml.safe_load(kept) or {}):
            text = kept
    figures = yaml.safe_dump({"provenance": provenance.model_dump()}, sort_keys=False, allow_unicode=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(f"{text}\n{figures}", encoding="utf-8")
    temporary.replace(path)


def training_runtime() -> Runtime:
    """bf16 on a GPU, fp32 on a CPU."""
    device = pick_device("auto")
    return Runtime(device=device, precision="bf16" if device == "cuda" else "fp32")
