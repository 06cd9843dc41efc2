"""Answers that a model gave under load, against its stored predictions of the same samples."""

from collections.abc import Sequence
from typing import cast

from harness.rundir.predictions import check, to_table
from harness.rundir.store import TrialDirectory
from harness.scenarios.scenario import AnswerCheck, ProcessTiming
from harness.stages.labels import class_map, relabel
from harness.stages.score import make_metrics
from harness.task import Prediction
from harness.trial import Trial

LEAST_SHARE = 0.99  # of the figure of the stored predictions: the quality target of MLPerf Inference


def with_checked_answers(
    timing: ProcessTiming, trial: Trial, trial_dir: TrialDirectory, classes: Sequence[str]
) -> ProcessTiming:
    """Return a timing with the check of its answers under load, if there are any.

    Batches under load differ in size from those of the predictions, so answers may differ by rounding. A
    timing is not valid if a headline figure is worse than 99% of that of the stored predictions of the same
    samples, or if an answer is no prediction. `classes` are those of the model.
    """
    if not timing.outputs:
        return timing
    dataset, task = trial.dataset.open(), trial.spec.task
    answers = {index % trial.spec.size: cast(Prediction, row) for index, row in timing.outputs.items()}
    samples, outputs = [dataset[index] for index in sorted(answers)], [answers[i] for i in sorted(answers)]
    labels = class_map(task, classes, dataset.classes)
    if problem := check(task, samples, outputs, len(dataset.classes if labels is None else labels)):
        return timing.model_copy(update={"reasons": [*timing.reasons, f"under load: {problem}"]})
    outputs = outputs if labels is None else relabel(outputs, labels)
    stored = [*trial_dir.predictions.read_at(task, answers.keys()).values()]
    figures, reasons = {}, [*timing.reasons]
    for metric in make_metrics(trial.metrics, dataset):
        name, targets = metric.names[0], [sample.target for sample in samples]
        old, new = (
            metric.summarise([*map(metric.statistics, targets, rows)], intervals=False).metrics[name].value
            for rows in (stored, outputs)
        )
        figures[name] = tuple(None if value is None else round(value, 4) for value in (old, new))
        lower = name in metric.lower_is_better
        if old is None:
            continue
        if new is None or (new * LEAST_SHARE > old if lower else new < LEAST_SHARE * old):
            reasons.append(f"answers under load are worse: {name} {old:.4g} → {new}")
    tables = [[to_table(task, [""], [row]) for row in rows] for rows in (stored, outputs)]
    changed = sum(before != after for before, after in zip(*tables, strict=True))
    result = AnswerCheck(samples=len(samples), changed=changed, figures=figures)
    return timing.model_copy(update={"answers": result, "reasons": reasons})
