"""Training: from a recipe to weights and a document with the recipe and its provenance."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from pydantic import BaseModel, ValidationError

from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.checkpoint import load, save, sha256
from harness.datasets.dataset import DATASETS, Dataset
from harness.environment import describe
from harness.errors import UnavailableError, UsageError
from harness.files import write_text
from harness.metrics.metric import METRICS, AnyMetric
from harness.recipe import Provenance, Recipe, RecipeData, Report, read_recipe
from harness.registry import first_mistake
from harness.stages.device import pick_device
from harness.stages.fit import SampleCache, TrainingLoop, evaluate
from harness.stages.training_state import training_lock

M = TypeVar("M", bound=BaseModel)


def train(
    recipe: Recipe,
    weights: Path,
    runtime: Runtime,
    *,
    report: Report,
    data: RecipeData | None = None,
    on_state_saved: Callable[[Path], None] | None = None,
) -> Provenance:
    """Train a recipe, and write the weights and, beside them, the recipe with its provenance.

    A state file beside the weights (NAME.state.pt) lets a killed training continue; it is deleted at the end.
    If another process trains the same weights, wait for it and use its result. The figures of the provenance
    are those of the stored weights, which are rounded to fp16.

    Args:
        data: The recipe's data set as this machine finds it; by default as the recipe describes it.
        on_state_saved: Called with the state file whenever it has been written.

    Raises:
        HarnessError: The recipe does not fit its adapter, data or this machine, or the loss is not finite.
    """
    if runtime.precision == "fp16":
        raise UsageError("training in fp16 is not supported (its loss would need scaling): use bf16 or fp32")
    adapter, training, validation, metric = _prepare(recipe, runtime, data)
    samples = [validation[i] for i in range(min(recipe.validation_size, len(validation)))]
    cache = SampleCache(training)
    loop = TrainingLoop(recipe, adapter, cache, samples, metric, report, on_state_saved)
    with training_lock(weights, report):
        provenance = existing_provenance(recipe, weights)
        if provenance is not None:
            report(f"{weights} has already been trained by another process")
            return provenance
        return _train(loop, weights)


def check(recipe: Recipe, data: RecipeData | None = None) -> None:
    """Check that a recipe can be trained, ignoring data that this machine lacks but a worker may have."""
    with suppress(UnavailableError):
        _prepare(recipe, Runtime(), data)


def training_runtime() -> Runtime:
    """Return the runtime for training on this machine: bf16 on a GPU, or fp32 on the CPU."""
    device = pick_device("auto")
    return Runtime(device=device, precision="bf16" if device == "cuda" else "fp32")


def _prepare(
    recipe: Recipe, runtime: Runtime, data: RecipeData | None
) -> tuple[TrainableAdapter, Dataset, Dataset, AnyMetric]:
    """Return the adapter, not built yet, the training and the validation split, and the metric."""
    training, validation = (_open(recipe, data or recipe.data, split) for split in ("train", "validation"))
    metric = METRICS.get(recipe.metric)(validation.classes, **validation.metric_options)
    if metric.task != recipe.task:
        raise UsageError(f"recipe: metric '{recipe.metric}' is for {metric.task}, not {recipe.task}")
    adapter = _adapter(recipe, runtime)
    adapter.check(training)
    return adapter, training, validation, metric


def _train(loop: TrainingLoop, weights: Path) -> Provenance:
    """Run the loop, and write the best weights and the document beside them."""
    recipe, adapter = loop.recipe, loop.adapter
    runtime = adapter.runtime
    torch.set_num_threads(1)  # the number decides how sums are split and rounded
    torch.manual_seed(recipe.seed)
    adapter.build(loop.samples.dataset)
    state = loop.run(weights.with_suffix(".state.pt"))
    partial = weights.with_suffix(".partial.safetensors")
    adapter.module.load_state_dict(state.best)
    digest = save(replace(adapter.checkpoint(), adapter=recipe.adapter, recipe=recipe.hash), partial)
    stored = _adapter(recipe, runtime)
    stored.load(load(partial))
    scores = evaluate(stored, loop.validation_samples, loop.metric, recipe.batch_size, intervals=True)
    environment = describe()
    if torch.device(runtime.device).type == "cpu":
        environment = environment.model_copy(update={"gpus": ()})  # unused
    provenance = Provenance(
        sha256=digest,
        dataset_fingerprint=loop.samples.dataset.fingerprint,
        steps=state.step,
        hardware=environment.hardware_name,
        threads=1,
        precision=runtime.precision,
        wall_seconds=round(state.wall_seconds, 1),
        cpu_seconds=round(state.cpu_seconds, 1),
        parameters=adapter.parameters() or 0,
        figures=scores.metrics,
        history=state.history,
        versions={"python": environment.python, **environment.packages},
    )
    _write_document(weights.with_suffix(".yaml"), recipe, provenance)
    partial.replace(weights)
    weights.with_suffix(".state.pt").unlink(missing_ok=True)
    return provenance


def existing_provenance(recipe: Recipe, weights: Path) -> Provenance | None:
    """Return the provenance beside the weights, if the weights exist and were trained with this recipe."""
    path = weights.with_suffix(".yaml")
    if not (weights.exists() and path.exists()):
        return None
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "provenance" not in document or read_recipe(path) != recipe:
        return None
    provenance = Provenance.model_validate(document["provenance"])
    return provenance if provenance.sha256 == sha256(weights) else None


def _open(recipe: Recipe, data: RecipeData, split: str) -> Dataset:
    name = data.name
    cls = DATASETS.get(name)
    if recipe.task not in cls.tasks:
        raise UsageError(f"recipe: data set '{name}' has no targets for {recipe.task}")
    if split not in cls.splits:
        raise UsageError(f"recipe: data set '{name}' has no split '{split}', which training needs")
    dataset = cls(_validate(cls.Options, data.options, "dataset.options"), split, recipe.task)
    if not len(dataset):
        raise UsageError(f"recipe: split '{split}' of data set '{name}' is empty")
    return dataset


def _adapter(recipe: Recipe, runtime: Runtime) -> TrainableAdapter:
    cls = ADAPTERS.get(recipe.adapter)
    if not issubclass(cls, TrainableAdapter):
        raise UsageError(f"recipe: adapter '{recipe.adapter}' cannot be trained")
    if cls.task != recipe.task:
        raise UsageError(f"recipe: adapter '{recipe.adapter}' is for {cls.task}, not {recipe.task}")
    return cls(_validate(cls.Options, recipe.options, "options"), runtime)


def _validate(model: type[M], options: dict[str, object], key: str) -> M:
    """Return options as an instance of their model. Errors name the key of the recipe."""
    try:
        return model(**options)
    except ValidationError as error:
        path, message = first_mistake(error, model)
        raise UsageError(f"recipe: {'.'.join(filter(None, [key, path]))}: {message}") from error


def _write_document(path: Path, recipe: Recipe, provenance: Provenance) -> None:
    """Write recipe and provenance. If the file has an equal recipe, keep its text and comments."""
    content = {"adapter": recipe.adapter, "task": recipe.task, **recipe.model_dump()}
    text = yaml.safe_dump({"recipe": content}, sort_keys=False, allow_unicode=True)
    if path.exists() and read_recipe(path) == recipe:
        existing = path.read_text(encoding="utf-8").split("\nprovenance:\n")[0].rstrip() + "\n"
        if "recipe" in (yaml.safe_load(existing) or {}):
            text = existing
    result = yaml.safe_dump({"provenance": provenance.model_dump()}, sort_keys=False, allow_unicode=True)
    write_text(path, f"{text}\n{result}")
