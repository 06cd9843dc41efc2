"""Score complete predictions: write metrics.json, sample statistics and analysis.json of a trial."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

from harness.analysis.analyser import AnyAnalyser
from harness.analysis.record import AnalysisFile
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import UsageError, describe
from harness.files import read_record
from harness.identity import code_version, content_id
from harness.metrics.metric import METRICS
from harness.rundir.records import MetricRecord, MetricsFile
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.analyse import analyse, explain, make_analyser
from harness.stages.score import ScoredMetric, score
from harness.trial import Trial

LIBRARIES = ("numpy", "scipy", "sacrebleu", "pillow")  # their versions may change a figure


@contextmanager
def scoring(
    directory: RunDirectory, trials: Sequence[Trial], note: Callable[[str], None]
) -> Iterator[Callable[[str], None]]:
    """Score trials in a thread while others are predicted; yield a function that starts one, given its id."""
    with ThreadPoolExecutor(1) as pool:
        futures: list[Future[None]] = []

        def begin(trial_id: str) -> None:
            for trial in trials:
                if trial.id == trial_id:
                    futures.append(pool.submit(score_trial, directory.trial(trial_id), trial, note))

        try:
            yield begin
            for future in futures:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def score_trial(trial_dir: TrialDirectory, trial: Trial, note: Callable[[str], None]) -> None:
    """Update metrics.json, sample statistics and analysis.json of a trial with all predictions.

    Only metrics that are new, or whose code or predictions have changed, are computed. Two benchmarks may
    request different metrics of the same predictions, so the files keep the metrics of both.
    """
    if trial_dir.predictions.missing_ranges(trial.spec.size):
        return
    metrics = trial_dir.read_metrics()
    predictions = trial_dir.predictions.fingerprint()
    modules = {name: METRICS.entries()[name].module for name in trial.metrics}
    keys = {name: _key(module, trial, predictions) for name, module in modules.items()}
    stale = [
        name
        for name, key in keys.items()
        if name not in metrics or metrics[name].key != key or not trial_dir.statistics_path(name).is_file()
    ]
    analysis_key = _key(f"harness.analysis.{trial.spec.task}", trial, predictions)
    analysed = _analysis_key(trial_dir) == analysis_key and trial_dir.statistics_path("samples").is_file()
    if not stale and analysed:
        return
    dataset = trial.dataset.open()
    analyser = None if analysed else make_analyser(dataset)
    rows = trial_dir.predictions.read(trial.spec.task)
    scored = score(dataset, trial.spec.size, rows, stale, analyser.add if analyser else None)
    if stale:
        write_scores(trial_dir, scored, keys, metrics)
    if analyser:
        _analyse(trial_dir, trial, dataset, analyser, analysis_key, note)


def write_scores(
    trial_dir: TrialDirectory,
    scored: Mapping[str, ScoredMetric],
    keys: Mapping[str, str],
    others: Mapping[str, MetricRecord],
) -> dict[str, MetricRecord]:
    """Write sample statistics and metrics.json, in which other metrics stay; return the latter's content."""
    records = dict(others)
    for name, result in scored.items():
        trial_dir.write_statistics(name, result.statistics)
        records[name] = MetricRecord(key=keys[name], **vars(result.scores))
    trial_dir.write_record(trial_dir.metrics_file, MetricsFile(records))
    return records


def _analysis_key(trial_dir: TrialDirectory) -> str | None:
    """Return the key of analysis.json, or None if the file is missing or has a different schema."""
    try:
        analysis = read_record(trial_dir.path / "analysis.json", AnalysisFile)
    except UsageError:
        return None
    return analysis.key if analysis else None


def _analyse(
    trial_dir: TrialDirectory,
    trial: Trial,
    dataset: Dataset,
    analyser: AnyAnalyser,
    key: str,
    note: Callable[[str], None],
) -> None:
    """Write analysis.json and its images. An analysis that fails is noted; the figures stay valid."""
    try:
        read = partial(trial_dir.predictions.read_at, trial.spec.task)
        analysis, images = analyse(dataset, analyser, read)
        analysis = explain(trial, analysis, read, note)
    except Exception as error:
        note(f"{trial.name}: no analysis: {describe(error)}")
        return
    trial_dir.write_statistics("samples", analyser.columns())
    trial_dir.write_analysis(AnalysisFile(schema="harness-analysis/1", key=key, analysis=analysis), images)


def _key(module: str, trial: Trial, predictions: str) -> str:
    """Return a hash of everything that a result depends on: code, libraries and predictions."""
    modules = [module, DATASETS.entries()[trial.dataset.name].module]
    return content_id(
        {
            "code": [code_version(name) for name in modules],
            "libraries": {name: version(name) for name in LIBRARIES},
            "predictions": predictions,
        }
    )
