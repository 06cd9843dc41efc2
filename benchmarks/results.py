"""Print the tables of docs/results.md from run directories: figures, cost of training, learning curves.

    harness run bccd --only 'bccd/ssd-augmented?seed=0?' --out runs/bccd
    python benchmarks/results.py runs/bccd

The cost and the curve of a training are those that its recipe file records beside the weights, in the project
or in the cache folder. Weights from elsewhere have none. The output is Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from harness.cache import cache_folder
from harness.errors import UsageError
from harness.rundir.results import TrialRecord, read_results
from reports.figures import printed

FIGURES = {
    "detection": ("ap", "ap50", "ap75", "map", "ap_small", "ap_medium", "ap_large"),
    "segmentation": ("miou", "mean_accuracy", "pixel_accuracy", "boundary_iou"),
    "translation": ("bleu", "chrf"),
}
CHECKPOINTS = Path(__file__).parents[1] / "adapters/checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    trainings = read_trainings([CHECKPOINTS, cache_folder()])
    for run in options.runs:
        try:
            trials = [trial for trial in read_results(run).trials if trial.status == "complete"]
        except UsageError as error:
            parser.error(str(error))
        for task in dict.fromkeys(trial.task for trial in trials):
            print_figures([trial for trial in trials if trial.task == task], FIGURES[task], trainings)
        print_curves(trials, trainings)


def read_trainings(folders: list[Path]) -> dict[str, dict]:
    """Return the provenance of all trained weights by the SHA-256 of their file."""
    documents = [yaml.safe_load(path.read_text()) for folder in folders for path in folder.rglob("*.yaml")]
    found = [document["provenance"] for document in documents if document and "provenance" in document]
    return {provenance["sha256"]: provenance for provenance in found}


def training_of(trial: TrialRecord, trainings: dict[str, dict]) -> dict | None:
    return trainings.get(trial.checkpoint.sha256) if trial.checkpoint else None


def print_figures(trials: list[TrialRecord], names: tuple[str, ...], trainings: dict[str, dict]) -> None:
    names = tuple(name for name in names if any(name in trial.metrics for trial in trials))
    print(f"\n| trial | n | {' | '.join(names)} | parameters | training: CPU min, wall min |")
    print("|---" * (len(names) + 4) + "|")
    for trial in trials:
        training = training_of(trial, trainings)
        cost = "–"
        if training:
            cost = f"{training['cpu_seconds'] / 60:.1f}, {training['wall_seconds'] / 60:.1f}"
        cells = [f"`{trial.benchmark}/{trial.variant}`", str(trial.dataset.size)]
        for name in names:
            text = printed(trial.metrics[name]) if name in trial.metrics else None
            cells.append(f"{text.value} {text.interval}" if text else "–")
        print(f"| {' | '.join(cells)} | {trial.cost.parameters:,} | {cost} |")


def print_curves(trials: list[TrialRecord], trainings: dict[str, dict]) -> None:
    """Print validation figures by step, with the CPU minutes until then."""
    print("\n| trial | validation figure by step (CPU minutes) |\n|---|---|")
    for weights in dict.fromkeys(trial.checkpoint.sha256 for trial in trials if trial.checkpoint):
        trial = next(t for t in trials if t.checkpoint and t.checkpoint.sha256 == weights)
        if training := training_of(trial, trainings):
            known = ("step", "loss", "wall_seconds", "cpu_seconds")
            points = []
            for entry in training["history"]:
                figure = next(key for key in entry if key not in known and not key.endswith("per_second"))
                points.append(f"{entry['step']:.0f} ({entry['cpu_seconds'] / 60:.1f}): {entry[figure]:.4g}")
            print(f"| `{trial.variant}` {figure} | {' · '.join(points)} |")


if __name__ == "__main__":
    main()
