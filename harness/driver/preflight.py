"""Checks of a plan before anything is written: a bad checkpoint or recipe stops the run at once."""

import logging
from collections.abc import Callable, Sequence

from harness.adapter import ADAPTERS, Adapter, Runtime, TrainableAdapter
from harness.errors import HarnessError, InfrastructureError, UsageError, describe
from harness.recipe import CheckpointRef
from harness.stages.child import LOAD_SECONDS, Child
from harness.stages.labels import class_map
from harness.suite.plan import Plan
from harness.trial import Trial

logger = logging.getLogger(__name__)


def require_trials(planned: Plan) -> None:
    """Reject a plan without trials, because a quality gate must not pass if nothing was measured.

    Raises:
        UsageError: Every benchmark is skipped. The message contains the reasons.
    """
    if not planned.trials:
        reasons = "; ".join(f"{skipped.benchmark}: {skipped.reason}" for skipped in planned.skipped)
        raise UsageError(f"nothing to run, every benchmark is skipped ({reasons})")


def preflight(trials: Sequence[Trial], report_crash: Callable[[str], None] | None = None) -> None:
    """Load every checkpoint once on the CPU, or check the recipe of a missing one, each in a child process.

    Args:
        report_crash: Receives a message if an adapter ends its process or hangs. The trial is not refused,
            because its predictions will fail for the same reason. None raises an error instead.

    Raises:
        InfrastructureError: An adapter ended its process or hangs.
        UsageError: A checkpoint is truncated, belongs to another adapter or has another shape; a trainable
            adapter has no checkpoint; the model lacks a class of the data set; stored predictions are
            incomplete; or a recipe cannot be trained.
    """
    # A missing checkpoint is not part of the id yet, and seeds of one recipe differ only in the file name.
    distinct = {(trial.id, trial.checkpoint and trial.checkpoint.weights.name): trial for trial in trials}
    for trial in distinct.values():
        reference = trial.checkpoint
        cls = ADAPTERS.get(trial.spec.adapter)
        needs_nothing = not issubclass(cls, TrainableAdapter) and cls.bind is Adapter.bind
        if reference is None and needs_nothing:
            continue
        source = f" ({reference.name if reference.missing else reference.weights})" if reference else ""
        try:
            with Child() as child:
                if reference and reference.missing:
                    child.call(_check_recipe, reference, seconds=LOAD_SECONDS)
                    continue
                for note in child.call(_check_model, trial, seconds=LOAD_SECONDS):
                    logger.warning("%s: %s", trial.name, note)
        except InfrastructureError as error:
            message = f"{trial.name}{source}: {error}"
            if report_crash is None:
                raise InfrastructureError(message) from error
            report_crash(message)
        except HarnessError as error:  # any exception of an adapter means that its checkpoint is unusable
            message = str(error) if isinstance(error, UsageError) else describe(error)
            raise UsageError(f"{trial.name}{source}: {message}") from error


def _check_recipe(reference: CheckpointRef) -> None:
    from harness.stages.train import check  # imports torch, which takes seconds

    assert reference.recipe is not None
    check(reference.recipe, reference.data)


def _check_model(trial: Trial) -> tuple[str, ...]:
    """Load a trial's model, check that its classes include the data set's, and return its notes."""
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options.model_validate(trial.options), Runtime())
    dataset = trial.dataset.open()
    adapter.bind(dataset)
    adapter.load(trial.load_checkpoint())
    class_map(trial.spec.task, adapter.classes, dataset.classes)
    return tuple(adapter.notes)
