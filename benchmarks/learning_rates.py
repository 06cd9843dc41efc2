"""Short trainings of a recipe at several learning rates, to choose one for the full training.

    python benchmarks/learning_rates.py adapters/checkpoints/full-resolution-scenes.yaml --rates .004 .016

Everything else is as in the recipe. The cosine schedule ends with the short training. All rates see
the same samples in the same order, so that their losses can be compared; a short training favours higher
rates a little. One thread is used, and nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.datasets.dataset import DATASETS
from harness.metrics.metric import METRICS
from harness.recipe import read_recipe
from harness.stages.fit import SampleCache, TrainingLoop

VALIDATIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=300)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    every = max(1, chosen.steps // VALIDATIONS)
    recipe = read_recipe(chosen.recipe).model_copy(update={"steps": chosen.steps, "validate_every": every})
    source = DATASETS.get(recipe.dataset.name)
    options = source.Options(**recipe.dataset.options)
    train, validation = (source(options, split, recipe.task) for split in ("train", "validation"))
    held_out = [validation[index] for index in range(min(recipe.validation_size, len(validation)))]
    metric = METRICS.get(recipe.metric)(validation.classes, **validation.metric_options)
    model = ADAPTERS.get(recipe.adapter)
    if not issubclass(model, TrainableAdapter):
        raise SystemExit(f"{chosen.recipe}: adapter '{recipe.adapter}' cannot be trained")
    samples = SampleCache(train)  # shared by all rates
    print(f"{chosen.recipe.stem}, {chosen.steps} steps of {recipe.batch_size}, seed {recipe.seed}\n")
    print(f"| learning rate | loss of each {every} steps | {metric.names[0]} after them | CPU s |")
    print("|---|---|---|---|")
    for rate in chosen.rates:
        adapter = model(model.Options(**recipe.options), Runtime())
        torch.manual_seed(recipe.seed)
        adapter.build(train)
        tried = recipe.model_copy(update={"learning_rate": rate})
        loop = TrainingLoop(tried, adapter, samples, held_out, metric, report=lambda _: None)
        with tempfile.TemporaryDirectory() as folder:
            history = loop.run(Path(folder, "state.pt")).history
        losses, figures = (
            " · ".join(f"{entry[name]:.3f}" for entry in history if name in entry)
            for name in ("loss", metric.names[0])
        )
        print(f"| {rate:g} | {losses} | {figures} | {history[-1]['cpu_seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
