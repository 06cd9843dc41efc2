"""Checks of a plan before anything is written: a bad checkpoint or recipe stops the run at once."""

import logging
from collections.abc import Callable, Sequence

from harness.adapter import ADAPTERS, Adapter, Runtime, TrainableAdapter
from harness.errors import HarnessError, InfrastructureError, UsageError, describe
from harness.stages.child import LOAD_SECONDS, Child, HungChildError
from harness.stages.labels import class_map
from harness.suite.plan import Plan
from harness.trial import Trial

logger = logging.getLogger(__name__)


def require_trials(planned: Plan) -> None:
    """Reject a plan without trials, because a quality gate must not pass if nothing was measured."""
    if not planned.trials:
        reasons = "; ".join(f"{skipped.benchmark}: {skipped.reason}" for skipped in planned.skipped)
        raise UsageError(f"nothing to run, every benchmark is skipped ({reasons})")


def preflight(trials: Sequence[Trial], report_crash: Callable[[str], None] | None = None) -> None:
    """Load every checkpoint once on the CPU, or check the recipe of a missing one, in a child process.

    The adapters of one distribution share the process, which opens each data set once.

    Args:
        report_crash: Receives a message if an adapter ends its process or hangs. The trial is not refused,
            because its predictions will fail for the same reason. None raises an error instead.

    Raises:
        InfrastructureError: An adapter ended its process or hangs.
        UsageError: A checkpoint does not fit its adapter or the classes of the data set, stored predictions
            are incomplete, or a recipe cannot be trained.
    """
    # A missing checkpoint is not part of the id yet, and seeds of one recipe differ only in the file name.
    distinct = {(trial.id, trial.checkpoint and trial.checkpoint.weights.name): trial for trial in trials}
    children: dict[str, Child] = {}
    try:
        for trial in distinct.values():
            cls = ADAPTERS.get(trial.spec.adapter)
            needs_nothing = not issubclass(cls, TrainableAdapter) and cls.bind is Adapter.bind
            if trial.checkpoint is None and needs_nothing:
                continue
            try:
                notes = _check(trial, children)
            except HarnessError as error:
                _refuse(trial, error, report_crash)
            else:
                for note in notes:
                    logger.warning("%s: %s", trial.name, note)
    finally:
        for child in children.values():
            child.close()


def _check(trial: Trial, children: dict[str, Child]) -> tuple[str, ...]:
    """Check a trial in the process of its distribution, and return the notes of its model.

    An error in a process that earlier trials have used counts only if a fresh process raises it again.
    """
    origin = ADAPTERS.entries()[trial.spec.adapter].origin
    used = origin in children
    child = children[origin] if used else children.setdefault(origin, Child())
    try:
        return child.call(_check_model, trial, seconds=LOAD_SECONDS)
    except HarnessError as error:
        children.pop(origin).close()
        if used and not isinstance(error, HungChildError):
            return _check(trial, children)
        raise


def _refuse(trial: Trial, error: HarnessError, report_crash: Callable[[str], None] | None) -> None:
    """Raise an error that names the trial and its checkpoint, or report a crash."""
    reference = trial.checkpoint
    source = f" ({reference.name if reference.missing else reference.weights})" if reference else ""
    if not isinstance(error, InfrastructureError):  # any exception of an adapter: its checkpoint is unusable
        message = str(error) if isinstance(error, UsageError) else describe(error)
        raise UsageError(f"{trial.name}{source}: {message}") from error
    message = f"{trial.name}{source}: {error}"
    if report_crash is None:
        raise InfrastructureError(message) from error
    report_crash(message)


def _check_model(trial: Trial) -> tuple[str, ...]:
    """Check a trial's model and its classes, or the recipe of a missing one, and return its notes."""
    if trial.checkpoint and trial.checkpoint.missing:
        from harness.stages.train import check  # imports torch, which takes seconds

        assert trial.checkpoint.recipe is not None
        check(trial.checkpoint.recipe, trial.checkpoint.data)
        return ()
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options.model_validate(trial.options), Runtime())
    dataset = trial.dataset.open()
    adapter.bind(dataset)
    adapter.load(trial.load_checkpoint())
    class_map(trial.spec.task, adapter.classes, dataset.classes)
    return tuple(adapter.notes)
