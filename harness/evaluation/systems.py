"""Systems: predictions of the same samples, scored and compared with each other."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.compare.accuracy import accuracy_changes, find_flips
from harness.compare.correction import correct_verdicts
from harness.compare.outcome import SHOWN_IDS, Change, Comparison, TrialComparison
from harness.decisions.policy import GatePolicy
from harness.errors import UsageError
from harness.evaluation.annotation_files import AnnotationFiles, Predictions
from harness.metrics.metric import StoredArrays
from harness.stages.score import ScoredMetric, score
from harness.statistics.holm import holm
from harness.task import Figure


@dataclass(frozen=True, eq=False)
class System:
    """The predictions of one system and their figures; a side of a comparison."""

    name: str
    """The path of the predictions."""
    metrics: Mapping[str, Figure]
    """The headline first."""
    per_class: Mapping[str, Mapping[str, Figure]]
    """Class → name → figure."""
    statistics: Mapping[str, StoredArrays]
    """Metric → its packed sample statistics, as in trials/ID/statistics."""
    predictions: Predictions

    def read_predictions(self) -> Predictions:
        return self.predictions

    def read_statistics(self, metric: str) -> StoredArrays:
        """Return a metric's packed sample statistics, or an empty mapping if it was not computed."""
        return self.statistics.get(metric, {})


@dataclass(frozen=True)
class Difference:
    """The difference of one figure: a system's value minus the first system's, on the same samples."""

    system: str
    change: Change
    p_adjusted: float | None
    """The change's p-value, adjusted for the number of systems (Holm 1979)."""


def read_systems(annotations: AnnotationFiles, paths: Sequence[Path]) -> list[System]:
    """Read and score several systems; a file that is malformed or named twice is a UsageError."""
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise UsageError(f"{path}: named twice; expected another file per system")
    return [read_system(annotations, path) for path in paths]


def read_system(annotations: AnnotationFiles, path: Path) -> System:
    """Read and score the predictions of one system; a malformed file is a UsageError."""
    predictions = annotations.read_predictions(path)
    scored = score(annotations, len(annotations), predictions, annotations.metric_names)
    shown, per_class = figures_of(scored.values(), annotations.omitted)
    statistics = {metric: entry.statistics for metric, entry in scored.items()}
    return System(str(path), shown, per_class, statistics, predictions)


def figures_of(
    scored: Iterable[ScoredMetric], omitted: Collection[str] = ()
) -> tuple[dict[str, Figure], dict[str, dict[str, Figure]]]:
    """Return the figures of all metrics by name, without those to omit, and by class and name."""
    metrics: dict[str, Figure] = {}
    per_class: defaultdict[str, dict[str, Figure]] = defaultdict(dict)
    for metric in scored:
        metrics |= metric.scores.metrics
        for label, values in metric.scores.per_class.items():
            per_class[label].update(values)
    return {name: figure for name, figure in metrics.items() if name not in omitted}, dict(per_class)


def compare_systems(files: AnnotationFiles, head: System, base: System, gate: GatePolicy) -> Comparison:
    """Compare two systems by the rules for two runs, as one trial."""
    flips = find_flips(base, head)
    name = f"{files.name}/{Path(head.name).stem}"
    rules = gate.of(files.task, name)
    trial = TrialComparison(
        files.name,
        Path(head.name).stem,
        files.task,
        "compared",
        samples=len(files),
        flipped=len(flips),
        flipped_ids=flips[:SHOWN_IDS],
        changes=tuple(accuracy_changes([base], [head], bool(flips), rules)),
    )
    corrected = tuple(correct_verdicts([trial]))
    notes = (*files.notes, *gate.idle([(name, files.task, head.metrics.keys())]))
    return Comparison(files.name, head.name, None, base.name, None, corrected, (), notes=notes)


def differences(systems: Sequence[System]) -> list[Difference]:
    """Compare each system with the first. The p-values of each figure are adjusted together."""
    first, *others = systems
    changes = [
        (system.name, change)
        for system in others
        for change in accuracy_changes([first], [system], bool(find_flips(first, system)), GatePolicy())
    ]
    adjusted: dict[tuple[str, str], float] = {}
    for figure in first.metrics:
        tested = [
            (system, change.p_value)
            for system, change in changes
            if change.name == figure and change.p_value is not None
        ]
        corrected = holm([p for _, p in tested])
        adjusted |= {(system, figure): p for (system, _), p in zip(tested, corrected, strict=True)}
    return [Difference(system, change, adjusted.get((system, change.name))) for system, change in changes]


def to_document(systems: Sequence[System], notes: Sequence[str]) -> dict[str, object]:
    """Return what `harness score --json` prints: one system's figures, or those of several by name."""
    figures = [
        {
            "metrics": {name: asdict(figure) for name, figure in system.metrics.items()},
            "per_class": {
                label: {name: asdict(figure) for name, figure in figures.items()}
                for label, figures in system.per_class.items()
            },
        }
        for system in systems
    ]
    if len(systems) == 1:
        return {**figures[0], "notes": list(notes)}
    by_system: dict[str, dict[str, object]] = {system.name: {} for system in systems[1:]}
    for entry in differences(systems):
        difference = entry.change.difference
        by_system[entry.system][entry.change.name] = {
            "difference": difference and asdict(difference),
            "p": entry.change.p_value,
            "p_adjusted": entry.p_adjusted,
        }
    names = [system.name for system in systems]
    return {"systems": dict(zip(names, figures, strict=True)), "differences": by_system, "notes": list(notes)}
