"""Probes: quantities of a model itself, such as the gradient at the start of a sentence."""

from dataclasses import replace
from math import isfinite

from harness.adapter import ADAPTERS, Runtime
from harness.errors import UsageError
from harness.stages.child import Child
from harness.trial import Trial

SAMPLES = 100  # at most, the first of the trial
SECONDS = 900.0  # until a probe counts as hanging


def probe(trial: Trial) -> dict[str, list[float]]:
    """Measure the probes of a trial's model on the CPU, in a child process: name → n values, or 1.

    Raises:
        HarnessError: The adapter failed, or returned something else.
    """
    with Child() as child:
        return child.call(_probe, trial, seconds=SECONDS)


def _probe(trial: Trial) -> dict[str, list[float]]:
    cls, dataset = ADAPTERS.get(trial.spec.adapter), trial.dataset.open()
    adapter = cls(cls.Options(**trial.options), Runtime())
    adapter.load(trial.load_checkpoint())
    samples = [replace(dataset[index], target=None) for index in range(min(SAMPLES, trial.spec.size))]
    values = {name: list(map(float, series)) for name, series in adapter.probe(samples).items()}
    if set(values) != set(cls.probes):
        raise UsageError(f"{trial.name}: probe() returned {sorted(values)}, expected {sorted(cls.probes)}")
    for name, series in values.items():
        if len(series) not in (1, len(samples)) or not all(map(isfinite, series)):
            raise UsageError(f"{trial.name}: expected {len(samples)} finite values of {name}, found {series}")
    return values
