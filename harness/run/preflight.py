"""Checks of a plan before anything is written: a bad checkpoint or recipe stops the run at once."""

from __future__ import annotations

from collections.abc import Sequence

from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.errors import UsageError, describe
from harness.stages.labels import class_map
from harness.suite.plan import Plan
from harness.trial import Trial


def require_trials(planned: Plan) -> None:
    """Reject a plan without trials, because a quality gate must not pass if nothing was measured.

    Raises:
        UsageError: Every benchmark is skipped. The message contains the reasons.
    """
    if not planned.trials:
        reasons = "; ".join(f"{skipped.benchmark}: {skipped.reason}" for skipped in planned.skipped)
        raise UsageError(f"nothing to run, every benchmark is skipped ({reasons})")


def preflight(trials: Sequence[Trial]) -> None:
    """Load every checkpoint once on the CPU, or check the recipe of a missing one.

    Raises:
        UsageError: A checkpoint is truncated, belongs to another adapter or has another shape; a trainable
            adapter has no checkpoint; the model lacks a class of the data set; or a recipe cannot be trained.
    """
    # A missing checkpoint is not part of the id yet, and seeds of one recipe differ only in the file name.
    distinct = {(trial.id, trial.checkpoint and trial.checkpoint.weights.name): trial for trial in trials}
    for trial in distinct.values():
        reference = trial.checkpoint
        if reference is None and not issubclass(ADAPTERS.get(trial.spec.adapter), TrainableAdapter):
            continue
        try:
            if reference and reference.missing:
                from harness.stages.train import check  # imports torch, which takes seconds

                assert reference.recipe is not None
                check(reference.recipe)
            else:
                _check_model(trial)
        except Exception as error:  # any exception of an adapter means that its checkpoint is unusable
            source = f" ({reference.name if reference.missing else reference.weights})" if reference else ""
            message = str(error) if isinstance(error, UsageError) else describe(error)
            raise UsageError(f"{trial.name}{source}: {message}") from error


def _check_model(trial: Trial) -> None:
    """Load a trial's model and check that its classes include the data set's."""
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options.model_validate(trial.options), Runtime())
    adapter.load(trial.load_checkpoint())
    class_map(trial.spec.task, adapter.classes, trial.dataset.open().classes)
