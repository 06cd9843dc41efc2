"""Score what is predicted and not scored yet; the driver keeps figures and what they follow from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import combinations, groupby
from typing import Any

from harness.analysis.analyser import Analyser
from harness.analysis.pairs import Standing, paired, standings
from harness.analysis.record import AnalysisFile
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import describe
from harness.files import read_json, write_json
from harness.identity import code_version, content_id
from harness.metrics.metric import METRICS
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.analyse import analyse, make_analyser
from harness.stages.score import restored, score
from harness.trial import Trial


def score_trial(place: TrialDirectory, trial: Trial, note: Callable[[str], None]) -> None:
    """Write metrics.json, the statistics of samples and analysis.json, or what they lack.

    That is: metrics that are new, or what was made of other code or predictions.

    Two benchmarks may want different metrics of the same predictions, and figures of one name.
    """
    if place.todo(trial.spec.size):
        return
    known = read_json(place.path / "metrics.json") or {}
    predictions = place.fingerprint()
    targets = {name: METRICS.entries()[name].target.partition(":")[0] for name in trial.metrics}
    keys = {name: _key(module, trial.dataset.name, predictions) for name, module in targets.items()}
    stale = [
        name
        for name in trial.metrics
        if known.get(name, {}).get("key") != keys[name] or not place.statistics(name).is_file()
    ]
    analysis = read_json(place.path / "analysis.json") or {}
    analysis_key = _key(f"harness.analysis.{trial.spec.task}", trial.dataset.name, predictions)
    analysed = analysis.get("key") == analysis_key
    if not stale and analysed:
        return
    dataset = trial.dataset.open()
    analyser = None if analysed else make_analyser(dataset)
    observer = analyser.add if analyser else None
    scored = score(dataset, trial.spec.size, place.read(trial.spec.task), stale, observer)
    for name, found in scored.items():
        place.write_statistics(name, found.statistics)
        known[name] = {"key": keys[name], **asdict(found.scores)}
    if stale:
        write_json(place.path / "metrics.json", known)
    if analyser:
        _analyse(place, trial, dataset, analyser, analysis_key, note)


def _analyse(
    place: TrialDirectory,
    trial: Trial,
    dataset: Dataset,
    analyser: Analyser,
    key: str,
    note: Callable[[str], None],
) -> None:
    """Write analysis.json and pictures; a figure is no worse for a picture that cannot be drawn."""
    try:
        read = partial(place.read_at, trial.spec.task)
        analysis, pictures = analyse(trial, dataset, analyser, read, note)
    except Exception as error:
        note(f"{trial.name}: no analysis: {describe(error)}")
        return
    document = AnalysisFile(schema="harness-analysis/1", key=key, analysis=analysis)
    place.write_analysis(document.model_dump(mode="json", by_alias=True), pictures)


def score_pairs(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Write pairs.json, or the pairs it lacks: complete trials of one benchmark, two by two.

    Of trials with the same predictions (another batch size, say) the first stands for all.
    """
    path = directory.path / "pairs.json"
    known: dict[str, list[dict[str, Any]]] = read_json(path) or {}
    found = dict(known)
    for benchmark, group in groupby(trials, key=lambda trial: trial.benchmark):
        scored: dict[str, tuple[Trial, TrialDirectory]] = {}
        for trial in group:
            place = directory.trial(trial.id)
            if not place.todo(trial.spec.size):
                scored.setdefault(place.fingerprint(), (trial, place))
        old = {(entry["first"], entry["second"]): entry for entry in known.get(benchmark, [])}
        new = _pairs(list(scored.values()), old)
        if new:
            found[benchmark] = list((old | new).values())
    if found != known:
        write_json(path, found)


def _pairs(
    scored: Sequence[tuple[Trial, TrialDirectory]], known: Mapping[tuple[str, str], dict[str, Any]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Entries of pairs.json that are not known."""
    keys = {}
    for trial, place in scored:
        figures = read_json(place.path / "metrics.json") or {}
        keys[trial.id] = [figures[name]["key"] for name in trial.metrics]
    code = code_version("harness.analysis.pairs")
    stale = {}
    for (first, _), (second, _) in combinations(scored, 2):
        key = content_id([keys[first.id], keys[second.id], code])
        if known.get((first.id, second.id), {}).get("key") != key:
            stale[first.id, second.id] = key
    involved = {trial_id for pair in stale for trial_id in pair}
    standing = {trial.id: _standings(trial, place) for trial, place in scored if trial.id in involved}
    return {
        (first, second): {
            "key": key,
            "first": first,
            "second": second,
            "metrics": {
                metric: {name: asdict(paired(own[name], standing[second][metric][name])) for name in own}
                for metric, own in standing[first].items()
            },
        }
        for (first, second), key in stale.items()
    }


def _standings(trial: Trial, place: TrialDirectory) -> dict[str, dict[str, Standing]]:
    """By metric and figure, from the statistics that the score left."""
    return {name: standings(*restored(name, place.read_statistics(name))) for name in trial.metrics}


def _key(module: str, dataset: str, predictions: str) -> str:
    """Of all that a result follows from beside what the trial's id stands for."""
    modules = [module, DATASETS.entries()[dataset].target.partition(":")[0]]
    libraries = {name: version(name) for name in ("numpy", "scipy", "sacrebleu", "pillow")}
    code = [code_version(name) for name in modules]
    return content_id({"code": code, "libraries": libraries, "predictions": predictions})
