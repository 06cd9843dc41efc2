"""Rows of the results table: variants of equal accuracy share one, with their speeds beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.rundir.results import Results, TrialRecord
from reports.page.details import Detail
from reports.page.filters import filter_values


@dataclass(frozen=True)
class Member:
    """A trial of a row."""

    index: int  # in `results.trials`
    trial: TrialRecord
    settings: Mapping[str, str]  # value by filter
    label: str  # the settings in which it differs from the other members


@dataclass(frozen=True)
class Row:
    """Trials of equal accuracy, in the order of the suite."""

    members: Sequence[Member]
    about: str  # the settings that all members share

    def timed(self, scenario: str) -> Sequence[Member]:
        """Return the members, or only the first if all share one timing of a scenario."""
        first, *others = (_timing(member.trial, scenario) for member in self.members)
        return self.members[:1] if all(timing == first for timing in others) else self.members


def equal_accuracy(results: Results, details: Sequence[Detail]) -> dict[int, int]:
    """Return trial → first trial of the same model with equal accuracy and analysis, both by index.

    The first trial refers to itself. Trials without metrics equal no other.
    """
    evidence: list[object] = [(detail.analysis, detail.images) for detail in details]
    evidence = evidence or [()] * len(results.trials)
    compared_fields = {"benchmark", "adapter", "checkpoint", "status", "metrics", "per_class"}
    first: dict[str, int] = {}
    originals = {}
    for index, trial in enumerate(results.trials):
        original = first.setdefault(trial.model_dump_json(include=compared_fields), index)
        equal = trial.metrics and evidence[original] == evidence[index]
        originals[index] = original if equal else index
    return originals


def table_rows(results: Results, originals: Mapping[int, int]) -> list[Row]:
    """Return the rows of all trials, as `equal_accuracy` groups them."""
    groups: dict[int, list[int]] = {}
    for index, original in originals.items():
        groups.setdefault(original, []).append(index)
    return [_row(results, group) for group in groups.values()]


def _row(results: Results, group: Sequence[int]) -> Row:
    trials = [results.trials[index] for index in group]
    settings = [filter_values(results, trial) for trial in trials]
    different = [key for key in settings[0] if len({values[key] for values in settings}) > 1]
    shared = [key for key in settings[0] if key not in different and key != "hardware"]
    return Row(
        [
            Member(index, trial, values, _text(values, different) or _matrix_values(trial))
            for index, trial, values in zip(group, trials, settings, strict=True)
        ],
        _text(settings[0], shared),
    )


def _timing(trial: TrialRecord, scenario: str) -> object:
    record = trial.speed.get(scenario)
    return record and (record.environment, record.figures, record.valid, record.reasons)


def _matrix_values(trial: TrialRecord) -> str:
    return trial.variant.partition("[")[2].removesuffix("]") or trial.variant


def _text(settings: Mapping[str, str], keys: Sequence[str]) -> str:
    return " · ".join(f"batch {settings[key]}" if key == "batch" else settings[key] for key in keys)
