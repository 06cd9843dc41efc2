"""Probes: quantities of a model itself, such as the gradient at the start of a sentence."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from harness.adapter import ADAPTERS, Runtime
from harness.errors import UsageError
from harness.stages.child import Child
from harness.trial import Trial

SAMPLES = 100  # at most, the first of the trial
SECONDS = 900.0  # until a probe counts as hanging


def probe(trial: Trial) -> dict[str, float | list[float]]:
    """Measure the probes of a trial's model on the CPU, in a child process.

    Raises:
        HarnessError: The adapter failed, or returned something else than it names in `probes`.
    """
    with Child() as child:
        return child.call(_probe, trial, seconds=SECONDS)


def _probe(trial: Trial) -> dict[str, float | list[float]]:
    cls, dataset = ADAPTERS.get(trial.spec.adapter), trial.dataset.open()
    adapter = cls(cls.Options(**trial.options), Runtime())
    adapter.load(trial.load_checkpoint())
    samples = [replace(dataset[index], target=None) for index in range(min(SAMPLES, trial.spec.size))]
    measured = adapter.probe(samples)
    if set(measured) != set(cls.probes):
        raise UsageError(f"probe() returned {sorted(measured)}, expected {sorted(cls.probes)}")
    return {name: _checked(name, value, len(samples)) for name, value in measured.items()}


def _checked(name: str, measured: float | Sequence[float], count: int) -> float | list[float]:
    values = list(measured) if isinstance(measured, Sequence) else [measured]
    if isinstance(measured, Sequence) and len(values) != count:
        raise UsageError(f"probe() returned {len(values)} values of {name}, expected {count}")
    for index, value in enumerate(values):
        if not isfinite(value):
            raise UsageError(f"probe() returned {value} as value {index} of {name}, expected a finite number")
    return [float(value) for value in values] if isinstance(measured, Sequence) else float(measured)
