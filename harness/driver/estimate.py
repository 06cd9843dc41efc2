"""Estimate of a plan: the work on disk, and the resources and time that the rest needs."""

from collections import Counter
from collections.abc import Iterator
from statistics import mean

from harness.files import StrictModel, read_record
from harness.metrics.metric import METRICS
from harness.rundir.results import Results, Skipped
from harness.rundir.speed import read_timings
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.scenarios.scenario import OFFLINE
from harness.scenarios.settings import PROFILES, Profile
from harness.statistics.paired import smallest_effect
from harness.suite.plan import Plan
from harness.suite.schema import SpeedEntry
from harness.task import TaskName
from harness.trial import Trial


class TrialEstimate(StrictModel):
    """State and remaining work of one trial."""

    id: str  # final unless the checkpoint, whose content is part of it, must be trained
    trial: str  # BENCHMARK/VARIANT
    task: TaskName
    adapter: str
    samples: int
    done: int  # samples with a prediction on disk
    checkpoint: str | None
    train: bool  # True if the checkpoint must be trained first
    scenarios: tuple[str, ...]
    timed: tuple[str, ...]  # scenarios that have timings
    worker: str  # resources of one worker that predicts
    predict_seconds: float | None  # with one worker at the measured throughput; None before a timing
    time_seconds: float  # at least, by the speed profile


class TrainingEstimate(StrictModel):
    """A checkpoint that must be trained."""

    checkpoint: str
    steps: int | None
    weights: str  # path that training writes to


class EffectEstimate(StrictModel):
    """The smallest difference between two models that a benchmark can show (see `smallest_effect`)."""

    benchmark: str
    metric: str  # headline figure
    effect: float | None  # for the pair of the earlier run with the widest interval; None without one


class PlanEstimate(StrictModel):
    """State and remaining work of a plan."""

    trials: tuple[TrialEstimate, ...]
    train: tuple[TrainingEstimate, ...]
    timing_needs: str  # resources that a timed process reserves
    skipped: tuple[Skipped, ...]
    effects: tuple[EffectEstimate, ...]


def estimate(planned: Plan, directory: RunDirectory, speed: SpeedEntry) -> PlanEstimate:
    """Estimate the remaining work of a plan from the contents of its run directory."""
    profile = PROFILES[speed.profile]
    return PlanEstimate(
        trials=tuple(_trial(trial, directory.trial(trial.id), profile) for trial in planned.trials),
        train=tuple(
            TrainingEstimate(
                checkpoint=reference.name,
                steps=reference.recipe.steps if reference.recipe else None,
                weights=str(reference.weights),
            )
            for reference in planned.missing_checkpoints
        ),
        timing_needs="one GPU and its share of the CPUs, or every CPU of a node if it runs on a CPU"
        if speed.exclusive == "gpu"
        else "every CPU and GPU of a node",
        skipped=planned.skipped,
        effects=tuple(_effects(planned, read_record(directory.path / "results.json", Results))),
    )


def _effects(planned: Plan, earlier: Results | None) -> Iterator[EffectEstimate]:
    """Yield the smallest effects of the benchmarks that have something to compare."""
    trials = Counter(trial.benchmark for trial in planned.trials)
    headlines = {
        (trial.benchmark, METRICS.get(name).names[0]): trial.spec.size
        for trial in planned.trials
        for name in trial.metrics
        if trials[trial.benchmark] > 1
    }
    for (benchmark, metric), size in headlines.items():
        effects = [
            smallest_effect(*pair.difference.interval, pair.difference.n / size)
            for pair in (earlier.pairs if earlier else ())
            if (pair.benchmark, pair.metric) == (benchmark, metric)
            # An interval without width does not show how samples vary.
            if pair.difference.interval and pair.difference.interval[0] < pair.difference.interval[1]
            # The spread between trainings does not shrink with more samples.
            if max(pair.trainings) == 1 or pair.difference.n == size
        ]
        yield EffectEstimate(benchmark=benchmark, metric=metric, effect=max(effects, default=None))


def _trial(trial: Trial, trial_dir: TrialDirectory, profile: Profile) -> TrialEstimate:
    missing = trial_dir.predictions.count_missing(trial.spec.size)
    timings = {name: read_timings(trial_dir.path, name) for name in trial.scenarios}
    timed = {name: raw for name, raw in timings.items() if raw is not None and raw.processes}
    speed = timed.get(OFFLINE)
    per_scenario = (profile.warmup_seconds + profile.seconds) * profile.processes
    cpu, gpu = f"{trial.resources.cpu:g} CPU", f"{trial.resources.gpu:g} GPU"
    worker = {"cpu": cpu, "cuda": f"{cpu}, {gpu}", "auto": f"{cpu}, {gpu} if there is one"}[trial.spec.device]
    return TrialEstimate(
        id=trial.id,
        trial=trial.name,
        task=trial.spec.task,
        adapter=trial.spec.adapter,
        samples=trial.spec.size,
        done=trial.spec.size - missing,
        checkpoint=trial.checkpoint.name if trial.checkpoint else None,
        train=trial.needs_training,
        scenarios=trial.scenarios,
        timed=tuple(timed),
        worker=worker,
        predict_seconds=missing * mean(speed.seconds_by_process()) if speed else None if missing else 0.0,
        time_seconds=per_scenario * (len(trial.scenarios) - len(timed)),
    )
