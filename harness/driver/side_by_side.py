"""Show the samples on which the models of a benchmark disagree most, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.analysis.analyser import Pick
from harness.analysis.record import AnyShown, DetectionAnalysis, Disagreement, SideBySideFile, read_analysis
from harness.driver.derived import complete_trials, read_derived
from harness.identity import code_version, content_id
from harness.rundir.store import RunDirectory
from harness.stages.analyse import make_analyser
from harness.trial import Trial

SHOWN = 6  # samples per benchmark; with images of at most 256 px, about 15 kB per sample and model
FEWEST, MOST = 2, 8  # models; of more than 8, the first are shown


def show_disagreements(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Update side-by-side/BENCHMARK/samples.json and the images to which it refers.

    The samples have the greatest range of the score by which a trial's samples are ranked (docs/analysis.md).
    Of several trials with the same predictions, the first is shown.
    """
    for benchmark, complete in complete_trials(directory, trials).items():
        distinct: dict[str, Trial] = {}
        for trial in complete:
            trial_dir = directory.trial(trial.id)
            if trial_dir.statistics_path("samples").is_file():
                distinct.setdefault(trial_dir.predictions.fingerprint(), trial)
        chosen = dict(list(distinct.items())[:MOST])
        if len(chosen) >= FEWEST:
            folder = directory.path / "side-by-side" / benchmark
            _update(directory, folder, chosen)


def _update(directory: RunDirectory, folder: Path, trials: Mapping[str, Trial]) -> None:
    """Show the disagreements of trials, given by the fingerprint of their predictions."""
    named = [(trial.variant, predictions) for predictions, trial in trials.items()]
    key = content_id([named, code_version("harness.analysis.record"), code_version(__name__)])
    path = folder / "samples.json"
    known = read_derived(path, SideBySideFile)
    if known and known.key == key:
        return
    columns = [directory.trial(trial.id).read_statistics("samples") for trial in trials.values()]
    scores = np.array([column["score"] for column in columns], dtype=np.float64)  # [trials, samples]
    spread = scores.max(axis=0) - scores.min(axis=0)
    picked = [int(index) for index in np.argsort(-spread, kind="stable")[:SHOWN] if spread[index] > 0]
    samples: dict[int, dict[str, AnyShown]] = {index: {} for index in picked}
    for trial, row in zip(trials.values(), scores, strict=True):
        for index, shown in _show(directory, folder, trial, picked, row.tolist()).items():
            samples[index][trial.variant] = shown
    directory.write_record(
        path,
        SideBySideFile(
            key=key,
            variants={trial.variant: trial.id for trial in trials.values()},
            samples=[
                Disagreement(index=index, spread=float(spread[index]), shown=samples[index])
                for index in picked
            ],
        ),
    )


def _show(
    directory: RunDirectory, folder: Path, trial: Trial, picked: Sequence[int], scores: Sequence[float]
) -> dict[int, AnyShown]:
    """Return the records of a trial's samples by index, and write their images below the trial's id."""
    trial_dir = directory.trial(trial.id)
    dataset = trial.dataset.open()
    analysis = read_analysis(trial_dir.path)
    score = analysis.operating_point.score if isinstance(analysis, DetectionAnalysis) else None
    analyser = make_analyser(dataset, np.inf if score is None else score)
    predictions = trial_dir.predictions.read_at(trial.spec.task, picked)
    records = {}
    for index in picked:
        pick = Pick(index, "disagreement", scores[index])
        records[index], images = analyser.show(pick, dataset[index], predictions[index])
        for name, content in images.items():
            directory.digests.write(folder / trial.id / name, content)
    return records
