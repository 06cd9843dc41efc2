"""Checkpoints in MLflow's model registry: each distinct content of a name's weights is one version."""

from __future__ import annotations

import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder
from harness.checkpoint import sha256
from harness.recipe import shipped_recipes
from harness.rundir.results import CheckpointRecord, Results, TrialRecord
from harness.tracking.names import cut, key
from harness.tracking.tracking_store import quoted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_ALIAS = 200  # characters; MLflow takes 255
FOLDER = "model"  # folder in the artifacts of the first trial that used the weights


@dataclass(frozen=True)
class Registration:
    """The result of registering one checkpoint."""

    name: str
    sha256: str
    version: str | None  # None if the weights are not on this machine
    created: bool

    def describe(self) -> str:
        """Return one line for the terminal."""
        if self.version is None:
            return f"model '{self.name}': not registered, no weights {self.sha256[:12]}… (SHA-256) here"
        return f"model '{self.name}' version {self.version}: {'registered' if self.created else 'unchanged'}"


def register(
    client: MlflowClient, results: Results, children: Mapping[tuple[str, str], str]
) -> tuple[Registration, ...]:
    """Register the checkpoints of complete trials, each distinct content once.

    `models:/NAME@ALIAS` is the version used by the last synced run of the suite (`alias`). `children` has the
    MLflow run id by benchmark and trial id.
    """
    used: dict[tuple[str, str], TrialRecord] = {}
    for trial in results.trials:
        if trial.checkpoint and trial.status == "complete":
            used.setdefault((trial.checkpoint.name, trial.checkpoint.sha256), trial)
    return tuple(
        _register(client, results.suite, trial, children[trial.benchmark, trial.id])
        for trial in used.values()
    )


def alias(suite: str) -> str:
    """Return the name of the suite as an alias that MLflow accepts. An altered name ends in a checksum.

    An alias consists of letters, digits, `_` and `-`. MLflow reserves `latest` and `v1`.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", suite)[:_ALIAS]
    reserved = re.fullmatch(r"latest|v\d+", plain, re.IGNORECASE)
    return plain if plain == suite and not reserved else f"{plain}-{zlib.crc32(suite.encode()):08x}"


def _register(client: MlflowClient, suite: str, trial: TrialRecord, run_id: str) -> Registration:
    checkpoint = trial.checkpoint
    assert checkpoint is not None
    name = key(checkpoint.name)
    known = client.search_model_versions(f"name = {quoted(name)}")
    for version in known:
        if version.tags.get("sha256") == checkpoint.sha256:
            _set_alias(client, name, suite, str(version.version))
            return Registration(name, checkpoint.sha256, str(version.version), created=False)
    weights = next(_weights(trial.adapter, checkpoint), None)
    if weights is None:
        return Registration(name, checkpoint.sha256, None, created=False)
    with tempfile.TemporaryDirectory() as temporary:
        for file in (weights, weights.with_suffix(".yaml")):  # the recipe and its provenance
            if file.is_file():
                shutil.copy(file, temporary)
        client.log_artifacts(run_id, temporary, FOLDER)
    if not known and not client.search_registered_models(f"name = {quoted(name)}"):
        client.create_registered_model(name, description=f"Checkpoint of adapter {trial.adapter}.")
    tags = {"sha256": checkpoint.sha256, "recipe": checkpoint.recipe or "none"}
    tags |= {"adapter": trial.adapter, "task": trial.task, "suite": cut(suite, 500)}
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    version = client.create_model_version(name, source, run_id, tags=tags)
    _set_alias(client, name, suite, str(version.version))
    return Registration(name, checkpoint.sha256, str(version.version), created=True)


def _set_alias(client: MlflowClient, name: str, suite: str, version: str) -> None:
    """Point the alias of the suite at a version."""
    if str(client.get_registered_model(name).aliases.get(alias(suite))) != version:
        client.set_registered_model_alias(name, alias(suite), version)


def _weights(adapter: str, checkpoint: CheckpointRecord) -> Iterator[Path]:
    """Yield files on this machine with exactly these weights: shipped ones, then trained ones."""
    file = f"{checkpoint.name}.safetensors"
    recipes = [shipped_recipes(adapter).get(checkpoint.name)]
    candidates = [path.with_name(file) for path in recipes if path]
    candidates += sorted(cache_folder().glob(f"*/{file}"))
    return (path for path in candidates if path.is_file() and sha256(path) == checkpoint.sha256)
