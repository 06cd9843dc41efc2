"""`harness.evaluate`: predictions on a data set → figures, without a run directory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.adapter import ADAPTERS, Adapter, Runtime
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import UsageError, checked
from harness.evaluation.annotation_files import AnnotationFiles
from harness.evaluation.systems import figures_of
from harness.registry import unknown
from harness.rundir.predictions import check
from harness.stages.labels import class_map, relabel
from harness.stages.score import score
from harness.task import Figure, Prediction, Sample, TaskName, Translation
from reports.figures import printed

if TYPE_CHECKING:
    import pandas as pd

InMemory: TypeAlias = Collection[str | Prediction] | Mapping[str, str | Prediction]
"""Predictions in the order of the samples, or by sample id. A translation may be plain text."""

Predict: TypeAlias = Callable[[Sequence[Sample]], list[Prediction]]

DEFAULT_METRICS: dict[TaskName, tuple[str, ...]] = {
    "translation": ("bleu", "chrf"),
    "detection": ("coco",),
    "segmentation": ("iou",),
}


@dataclass(frozen=True)
class Evaluation:
    """The figures of one set of predictions on one data set."""

    metrics: dict[str, Figure]
    """Figures by name, the headline first."""
    per_class: dict[str, dict[str, Figure]]
    """Class → name → figure."""
    notes: tuple[str, ...] = ()
    """Notes on what was left out, one line per kind."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per figure: value, low, high, n, unit, signature."""
        import pandas as pd

        return pd.DataFrame({name: vars(figure) for name, figure in self.metrics.items()}).T

    def _repr_html_(self) -> str:
        import pandas as pd

        texts = {name: str(printed(figure)) for name, figure in self.metrics.items()}
        notes = pd.DataFrame({"note": self.notes}).to_html(index=False) if self.notes else ""
        return pd.Series(texts, name="value [95% interval]").to_frame().to_html() + notes


@checked
def evaluate(
    dataset: str | Dataset,
    predictions: str | Path | Adapter | InMemory,
    *,
    options: Mapping[str, object] | None = None,
    split: str = "test",
    task: TaskName | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 16,
) -> Evaluation:
    """Score predictions on a data set; nothing is written.

    Args:
        dataset: Registered name of a data set, an open one, or annotation files (`harness.AnnotatedBoxes`,
            `harness.AnnotatedMasks`, `harness.ReferenceTexts`), which need no images.
        predictions: A file as the adapter `predictions` reads it, a loaded adapter, or predictions in memory.
        options, split, task: How to open the data set, if it is named. The task is needed if it has several.
        metrics: Registered names. Default: BLEU and chrF, COCO's figures, or IoU.
        limit: Evaluate only the first samples.
        batch_size: Samples per batch of an adapter.

    Raises:
        UsageError: A name or option is wrong, or a prediction is missing, malformed or of an unknown sample.
    """
    check_counts(limit=limit, batch_size=batch_size)
    data = _open(dataset, options or {}, split, task) if isinstance(dataset, str) else dataset
    size = len(data) if limit is None else min(limit, len(data))
    files = data if isinstance(data, AnnotationFiles) else None
    if isinstance(predictions, (str, Path)) and not Path(predictions).exists():
        raise UsageError(f"{predictions}: no such file or folder")
    adapter = None
    rows: Iterable[tuple[str, Prediction]]
    if files and isinstance(predictions, (str, Path)):
        rows = files.read_predictions(Path(predictions))
    elif files and data.task == "segmentation":
        raise UsageError("annotation files have no images whose size masks in memory must have: pass a path")
    elif isinstance(predictions, (str, Path, Adapter)):
        adapter = _adapter(predictions, data)
        rows = _rows(data, size, batch_size, adapter.predict, adapter.classes)
    else:
        rows = _rows(data, size, batch_size, _look_up(data, predictions))
    defaults = files.metric_names if files else DEFAULT_METRICS[data.task]
    scored = score(data, size, rows, metrics or defaults).values()
    figures, per_class = figures_of(scored, files.omitted if files else ())
    return Evaluation(figures, per_class, (*data.notes, *(adapter.notes if adapter else ())))


def check_counts(**counts: int | None) -> None:
    """Raise a UsageError for a number below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name}: expected at least 1, found {count}")


def _open(name: str, options: Mapping[str, object], split: str, task: TaskName | None) -> Dataset:
    from pydantic import ValidationError

    cls = DATASETS.get(name)
    if split not in cls.splits:
        raise UsageError(unknown(f"split of '{name}'", split, cls.splits))
    if (task is None and len(cls.tasks) > 1) or (task and task not in cls.tasks):
        raise UsageError(f"'{name}' supports {' and '.join(cls.tasks)}; task={task!r}")
    try:
        return cls(cls.Options.model_validate(dict(options)), split, task or cls.tasks[0])
    except ValidationError as error:
        mistake = error.errors()[0]
        option = ".".join(map(str, mistake["loc"]))
        raise UsageError(f"options of '{name}': {option}: {mistake['msg']}") from error


def _adapter(predictions: str | Path | Adapter, data: Dataset) -> Adapter:
    """Return a given adapter, or the adapter `predictions` for a file."""
    if isinstance(predictions, Adapter):
        return predictions
    cls = ADAPTERS.get("predictions")
    adapter = cls(cls.Options.model_validate({"file": predictions}), Runtime())
    adapter.bind(data)
    return adapter


def _look_up(data: Dataset, predictions: InMemory) -> Predict:
    """Return a function that finds predictions in memory; every sample must have one."""
    ids = [data.sample_id(index) for index in range(len(data))]
    if not isinstance(predictions, Mapping):
        if len(predictions) != len(ids):
            raise UsageError(f"{len(predictions)} predictions for {len(ids)} samples; expected one each")
        predictions = dict(zip(ids, predictions, strict=True))
    by_id = predictions
    if missing := [sample_id for sample_id in ids if sample_id not in by_id]:
        raise UsageError(
            f"{len(missing)} of {len(ids)} predictions are missing, the first for '{missing[0]}'"
        )
    if extra := by_id.keys() - set(ids):
        raise UsageError(unknown("sample", str(min(extra)), ids)[:300])

    def predict(samples: Sequence[Sample]) -> list[Prediction]:
        values = (by_id[sample.id] for sample in samples)
        return [Translation(value) if isinstance(value, str) else value for value in values]

    return predict


def _rows(
    data: Dataset, size: int, batch_size: int, predict: Predict, classes: Sequence[str] = ()
) -> Iterator[tuple[str, Prediction]]:
    """Yield sample ids with predictions, which are checked as those of a run are."""
    mapping = class_map(data.task, classes, data.classes)
    labels = len(data.classes if mapping is None else mapping)
    for start in range(0, size, batch_size):
        read = (data[index] for index in range(start, min(start + batch_size, size)))
        samples = [Sample(sample.id, sample.input) for sample in read]
        predicted = predict(samples)
        if problem := check(data.task, samples, predicted, labels):
            raise UsageError(f"samples {samples[0].id} to {samples[-1].id}: {problem}")
        predicted = predicted if mapping is None else relabel(predicted, mapping)
        yield from zip((sample.id for sample in samples), predicted, strict=True)
