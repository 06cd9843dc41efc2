"""Write docs/model-cards.md: data, recipe, figures, limits and licence of each checkpoint that ships.

    harness run bccd --only 'bccd/yolo?seed=0?' --out runs/yolo
    python benchmarks/model_cards.py runs/yolo > docs/model-cards.md

Figures of test data are those of the run directories whose trials used the weights. Without one, a card says
so, and has the figures of the training's validation samples alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from results import CHECKPOINTS, FIGURES

from harness.errors import UsageError
from harness.rundir.results import TrialRecord, read_results
from harness.task import Figure
from reports.figures import printed
from reports.text import markdown

GENERATED = {"phrases", "scenes"}
LICENCES = {
    "BCCD": "MIT, © 2017 shenggan; notice in `adapters/checkpoints/LICENCES.md`",
    "gettext": "texts of installed programs and their translations (docs/datasets.md)",
}
INTRODUCTION = """# Model cards

One card per checkpoint in `adapters/checkpoints/`, written by `python benchmarks/model_cards.py RUN…`.
Brackets are 95% intervals over samples. Every checkpoint is of one training, so no
interval has the spread of seeds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*")
    options = parser.parse_args()
    try:
        trials = [trial for run in options.runs for trial in read_results(run).trials]
    except UsageError as error:
        parser.error(str(error))
    print(INTRODUCTION)
    for weights in sorted(CHECKPOINTS.glob("*.safetensors")):
        document = yaml.safe_load(weights.with_suffix(".yaml").read_text(encoding="utf-8"))
        digest = document["provenance"]["sha256"]
        tested = [t for t in trials if t.checkpoint and t.checkpoint.sha256 == digest and t.metrics]
        print(card(weights, document["recipe"], document["provenance"], tested))


def card(weights: Path, recipe: dict, provenance: dict, tested: list[TrialRecord]) -> str:
    """Return the card of one checkpoint as Markdown."""
    data = recipe["dataset"]
    name = data["options"].get("root", data["name"]) if data.get("options") else data["name"]
    settings = {key: recipe[key] for key in ("steps", "batch_size", "learning_rate", "seed")}
    options = {**(recipe.get("options") or {})}
    rows = {
        "Model": f"`{recipe['adapter']}`, {provenance['parameters']:,} parameters, "
        f"{weights.stat().st_size / 1e6:.2f} MB; options `{options}`",
        "Data": f"{markdown(name)}, fingerprint `{provenance['dataset_fingerprint'][:16]}`"
        + (" (generated)" if data["name"] in GENERATED else ""),
        "Recipe": f"{', '.join(f'{key} {value}' for key, value in settings.items())}; "
        f"{provenance['cpu_seconds'] / 60:.1f} CPU minutes on {provenance['hardware']}",
        "Validation": figures({key: Figure(**value) for key, value in provenance["figures"].items()}),
        **{
            f"Test: {markdown(trial.benchmark)}/{markdown(trial.variant)}": figures(
                {key: trial.metrics[key] for key in FIGURES[trial.task] if key in trial.metrics}
            )
            for trial in tested
        },
        "Limits": limits(data["name"], bool(tested)),
        "Licence of the data": LICENCES.get(str(name), "made by this project"),
    }
    return "\n".join(
        [f"## {weights.stem}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items()), ""]
    )


def figures(values: dict[str, Figure]) -> str:
    """Return the defined figures, such as `ap 0.526 [0.497, 0.548] fraction, n=87`."""
    return "; ".join(f"{key} {printed(value)}" for key, value in values.items() if value.value is not None)


def limits(dataset: str, tested: bool) -> str:
    """Return what the figures do not cover."""
    generated = "generated data say nothing of photographs or other texts" if dataset in GENERATED else ""
    scope = generated or "the data come from one source, and others were not tried"
    return "; ".join(
        filter(None, ["one seed", scope, "" if tested else "no figures of test data in the runs given"])
    )


if __name__ == "__main__":
    main()
