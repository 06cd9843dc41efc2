"""The training of a trial's weights as an MLflow run of its own, with its curves."""

from contextlib import suppress
from urllib.parse import quote

import yaml

from harness.cache import cache_folder
from harness.errors import UsageError
from harness.recipe import Provenance, Recipe, read_recipe, shipped_recipes
from harness.rundir.results import TrialRecord
from harness.stages.schedule import learning_rate
from harness.tracking.entries import Curve, Entry
from harness.tracking.names import PARAM, RUN_NAME, cut, flat, key

_OTHERS = ("step", "loss", "wall_seconds", "cpu_seconds")  # keys of an entry that are not curves of this name


def training_entry(trial: TrialRecord, experiment: str) -> Entry | None:
    """Return the entry of the training of a trial's weights, or None if its record is not on this machine."""
    checkpoint = trial.checkpoint
    if checkpoint is None:
        return None
    paths = list(cache_folder().glob(f"*-{(checkpoint.recipe or 'none')[:12]}/*.yaml"))
    with suppress(UsageError):  # the run of another machine may have an adapter that is not installed here
        paths += filter(None, [shipped_recipes(trial.adapter).get(checkpoint.name)])
    for path in paths:
        content = yaml.safe_load(path.read_text(encoding="utf-8")).get("provenance")
        if content and content["sha256"] == checkpoint.sha256:
            training, recipe = Provenance.model_validate(content), read_recipe(path)
            break
    else:
        return None
    query = quote(f"tags.`checkpoint.sha256` = '{checkpoint.sha256}'")
    trials = f"#/experiments/{experiment}/runs?workflowType=machine_learning&searchFilter={query}"
    return Entry(
        identity={"harness.kind": "training", "harness.checkpoint": checkpoint.sha256},
        status="FINISHED",
        tags={
            RUN_NAME: f"training · {checkpoint.name}",
            "hardware": training.hardware,
            "checkpoint.sha256": checkpoint.sha256,
            "mlflow.source.name": "harness",
            "mlflow.note.content": f"[Trials that use these weights]({trials})",
        },
        params={key(name): cut(value, PARAM) for name, value in flat(recipe.model_dump())},
        metrics={"train/minutes": training.wall_seconds / 60, "train/steps": float(training.steps)},
        series=_curves(recipe, training),
    )


def _curves(recipe: Recipe, training: Provenance) -> dict[str, Curve]:
    """Return loss, learning rate, speed and validation figure at each validation."""
    curves: dict[str, Curve] = {}
    for entry in training.history:
        step = int(entry["step"])
        points = {"train/loss": entry["loss"], "train/learning_rate": learning_rate(recipe, step - 1)}
        for name in entry.keys() - _OTHERS:
            points[f"{'train' if name.endswith('_per_second') else 'validation'}/{key(name)}"] = entry[name]
        for name, value in points.items():
            curves.setdefault(name, []).append((step, value))
    return curves
