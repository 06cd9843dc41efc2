"""Score complete predictions: write metrics.json, sample statistics and analysis.json of a trial."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

from harness.analysis.record import AnalysisFile
from harness.datasets.dataset import DATASETS
from harness.driver.derived import read_derived
from harness.errors import describe
from harness.identity import code_version, content_id
from harness.metrics.metric import METRICS
from harness.rundir.records import MetricRecord, MetricsFile
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.analyse import analyse, explain, make_analyser
from harness.stages.score import score
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


def score_trial(
    trial_dir: TrialDirectory, trial: Trial, note: Callable[[str], None], with_model: bool = True
) -> None:
    """Update metrics.json, sample statistics and analysis.json of a trial with all predictions.

    Only metrics that are new, or whose code or predictions have changed, are computed. Two benchmarks may
    request different metrics of the same predictions, so the files keep the metrics of both.

    Args:
        with_model: Add the parts of the analysis for which the model runs.
    """
    if trial_dir.predictions.missing_ranges(trial.spec.size):
        return
    metrics = trial_dir.read_metrics()
    predictions = trial_dir.predictions.fingerprint()
    keys = {name: _key(METRICS.entries()[name].module, trial, predictions) for name in trial.metrics}
    stale = [
        name
        for name, key in keys.items()
        if name not in metrics or metrics[name].key != key or not trial_dir.statistics_path(name).is_file()
    ]
    analysis_key = _key(f"harness.analysis.{trial.spec.task}", trial, predictions)
    known = read_derived(trial_dir.path / "analysis.json", AnalysisFile)
    analysed = known and known.key == analysis_key and trial_dir.statistics_path("samples").is_file()
    if not stale and analysed:
        return
    dataset = trial.dataset.open()
    analyser = None if analysed else make_analyser(dataset)
    rows = trial_dir.predictions.read(trial.spec.task)
    scored = score(dataset, trial.spec.size, rows, stale, analyser.add if analyser else None)
    for name, result in scored.items():
        trial_dir.write_statistics(name, result.statistics)
        metrics[name] = MetricRecord(key=keys[name], **vars(result.scores))
    if stale:
        trial_dir.write_record(trial_dir.metrics_file, MetricsFile(metrics))
    if analyser is None:
        return
    try:
        read = partial(trial_dir.predictions.read_at, trial.spec.task)
        analysis, images = analyse(dataset, analyser, read)
        if with_model:
            analysis = explain(trial, analysis, read, note)
    except Exception as error:  # the figures stay valid
        note(f"{trial.name}: no analysis: {describe(error)}")
        return
    trial_dir.write_statistics("samples", analyser.columns())
    file = AnalysisFile(schema="harness-analysis/1", key=analysis_key, analysis=analysis)
    trial_dir.write_analysis(file, images)


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
