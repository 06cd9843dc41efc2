"""Answers that a model gave under load, against its stored predictions of the same samples."""

from collections.abc import Sequence
from typing import cast

from harness.rundir.predictions import check, to_table
from harness.rundir.store import TrialDirectory
from harness.scenarios.scenario import AnswerCheck, ProcessTiming
from harness.stages.labels import class_map, relabel
from harness.stages.score import make_metrics
from harness.task import Figure, Prediction
from harness.trial import Trial

LEAST_SHARE = (
    0.99  # of the figure of the stored predictions: the quality target of the MLPerf Inference rules
)


def with_checked_answers(
    timing: ProcessTiming, trial: Trial, trial_dir: TrialDirectory, classes: Sequence[str]
) -> ProcessTiming:
    """Return a timing with the check of its answers, which are scored like the predictions.

    Batches under load differ in size from those of the predictions, so answers may differ by rounding. A
    timing is not valid if a headline figure is worse than 99% of that of the stored predictions of the same
    samples, or if an answer is no prediction.

    Args:
        classes: Label names of the model.
    """
    if not timing.outputs:
        return timing
    dataset, task = trial.dataset.open(), trial.spec.task
    answers = {index % trial.spec.size: answer for index, answer in timing.outputs.items()}
    samples = [dataset[index] for index in sorted(answers)]
    outputs = [cast(Prediction, answers[index]) for index in sorted(answers)]
    labels = class_map(task, classes, dataset.classes)
    problem = check(task, samples, outputs, len(dataset.classes if labels is None else labels))
    if problem:
        return timing.model_copy(update={"reasons": [*timing.reasons, f"under load: {problem}"]})
    outputs = outputs if labels is None else relabel(outputs, labels)
    stored = [*trial_dir.predictions.read_at(task, answers.keys()).values()]
    figures, reasons = {}, [*timing.reasons]
    for metric in make_metrics(trial.metrics, dataset):
        name = metric.names[0]
        before, after = (
            metric.summarise(
                [metric.statistics(sample.target, row) for sample, row in zip(samples, rows, strict=True)],
                intervals=False,
            ).metrics[name]
            for rows in (stored, outputs)
        )
        figures[name] = (before.value, after.value)
        if _is_worse(before, after):
            reasons.append(f"answers under load are worse: {name} {before.value:.4g} → {after.value}")
    changed = sum(
        to_table(task, [""], [old]) != to_table(task, [""], [new])
        for old, new in zip(stored, outputs, strict=True)
    )
    result = AnswerCheck(samples=len(samples), changed=changed, figures=figures)
    return timing.model_copy(update={"answers": result, "reasons": reasons})


def _is_worse(before: Figure, after: Figure) -> bool:
    if before.value is None or after.value is None:
        return before.value is not None
    if before.better == "lower":
        return after.value * LEAST_SHARE > before.value
    return after.value < LEAST_SHARE * before.value
