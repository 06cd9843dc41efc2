"""Measure how long the vanilla RNN and the LSTM remember, by accuracy and by gradient.

    python benchmarks/memory.py        about 20 CPU minutes; trained models are cached

Both are trained with equal settings: on `delayed-recall` with a single lag, and on all lags up to the
longest, each with the best of three learning rates on validation sentences. The encoder reads forwards only,
which puts the letters to remember furthest from its last state. Prints Markdown tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from adapters.translation.seq2seq import Lstm, Rnn, Seq2Seq
from harness.adapter import Runtime
from harness.cache import cache_folder
from harness.checkpoint import load
from harness.datasets.dataset import DATASETS, Dataset
from harness.recipe import Recipe, RecipeData
from harness.stages.train import train
from harness.task import Translation

CELLS: dict[str, type[Seq2Seq]] = {"rnn": Rnn, "lstm": Lstm}
LAGS = (0, 2, 5, 10, 20)
DISTANCES = (0, 1, 2, 5, 10, 15, 20, 21, 23, 25)  # at lag 20, 21 to 25 are the letters to remember
LEARNING_RATES = (0.0003, 0.001, 0.003)
COLUMNS = [f"{cell}, {column}" for cell in CELLS for column in ("rate", "letters", "sentences")]
SENTENCES = 500
BATCH_SIZE = 100


def recipe_for(cell: str, options: dict[str, object]) -> Recipe:
    return Recipe(
        adapter=cell,
        task="translation",
        options={
            "vocabulary": "word",
            "vocabulary_size": 64,
            "embedding_size": 64,
            "encoder_size": 128,
            "decoder_size": 128,
            "bidirectional": False,
            "dropout": 0.0,
            "label_smoothing": 0.0,
        },
        dataset=RecipeData(name="delayed-recall", options=options),
        steps=2500,
        batch_size=32,
        learning_rate=LEARNING_RATES[-1],
        weight_decay=0.0,
        clip_norm=1.0,
        metric="bleu",
        validate_every=500,
    )


def open_split(recipe: Recipe, split: str) -> Dataset:
    cls = DATASETS.get(recipe.dataset.name)
    return cls(cls.Options(**recipe.dataset.options), split, "translation")


def make_model(recipe: Recipe) -> Seq2Seq:
    cls = CELLS[recipe.adapter]
    return cls(cls.Options(**recipe.options), Runtime())


def untrained_model(recipe: Recipe) -> Seq2Seq:
    model = make_model(recipe)
    torch.manual_seed(recipe.seed)
    model.build(open_split(recipe, "train"))
    return model


def trained_model(recipe: Recipe, rate: float) -> Seq2Seq:
    """Train with a learning rate, or load the cached weights."""
    recipe = recipe.model_copy(update={"learning_rate": rate})
    weights = cache_folder() / f"memory-{recipe.hash[:12]}" / "memory.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    if not weights.is_file():
        train(recipe, weights, Runtime(), report=lambda _: None)
    model = make_model(recipe)
    model.load(load(weights))
    return model


_BEST_MODELS: dict[str, tuple[float, Seq2Seq]] = {}


def best_model(recipe: Recipe) -> tuple[float, Seq2Seq]:
    """Return the learning rate with the best validation accuracy (the first of equals) and its model."""
    if recipe.hash not in _BEST_MODELS:
        validation = open_split(recipe, "validation")
        models = {rate: trained_model(recipe, rate) for rate in LEARNING_RATES}
        best = max(LEARNING_RATES, key=lambda rate: accuracy(models[rate], validation).letters.mean())
        _BEST_MODELS[recipe.hash] = best, models[best]
    return _BEST_MODELS[recipe.hash]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy per sentence: [sentences]."""

    letters: NDArray[np.float64]  # fraction of the target's letters at their position, 0–1
    exact: NDArray[np.bool_]  # whether the whole sentence is correct

    def cells(self) -> list[str]:
        """Format letters, and sentences with their 95% Wilson interval, in percent."""
        low, high = binomtest(int(self.exact.sum()), len(self.exact)).proportion_ci(method="wilson")
        sentences = f"{100 * self.exact.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        return [f"{100 * self.letters.mean():.1f}", sentences]


def accuracy(model: Seq2Seq, dataset: Dataset) -> Accuracy:
    letters, exact = [], []
    samples = [dataset[index] for index in range(SENTENCES)]
    for first in range(0, SENTENCES, BATCH_SIZE):
        batch = samples[first : first + BATCH_SIZE]
        for sample, prediction in zip(batch, model.predict(batch), strict=True):
            assert isinstance(prediction, Translation) and isinstance(sample.target, tuple)
            target, output = sample.target[0].split(), prediction.text.split()
            correct = [expected == actual for expected, actual in itertools.zip_longest(target, output)]
            letters.append(sum(correct[: len(target)]) / len(target))
            exact.append(all(correct))
    return Accuracy(np.array(letters), np.array(exact))


def gradient_by_distance(model: Seq2Seq, dataset: Dataset) -> NDArray[np.float64]:
    """Return the mean over sentences of |∂ loss / ∂ x_{S−d}|, by d.

    This is the gradient of the loss with respect to the source embedding d steps before the last encoder
    step, where the decoder starts (d = 0 is the end mark).
    """
    embeddings: list[torch.Tensor] = []

    def retain_gradient(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        embeddings.append(inputs[0])

    handle = model.module.encoder.register_forward_pre_hook(retain_gradient)
    model.module.eval()
    samples = [dataset[index] for index in range(BATCH_SIZE)]
    batch = model.training_batch(samples, np.random.default_rng(0))
    # The loss is a mean over target tokens. Times the number of sentences it is that of each sentence's loss.
    (torch.stack(list(model.loss(batch).values())).sum() * len(samples)).backward()
    handle.remove()
    norms = torch.cat([part.grad.norm(dim=-1) for part in embeddings if part.grad is not None])
    return norms.mean(dim=0).flip(0).numpy().astype(np.float64)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def one_lag(cell: str, lag: int) -> Recipe:
    return recipe_for(cell, {"lag": lag})


def all_lags(cell: str, lag: int) -> Recipe:  # noqa: ARG001
    return recipe_for(cell, {"lag": LAGS[-1], "min_lag": 0})


def print_recall_by_lag(recipe_of: Callable[[str, int], Recipe]) -> None:
    rows = []
    for lag in LAGS:
        row = [str(lag)]
        for cell in CELLS:
            test = open_split(one_lag(cell, lag), "test")
            rate, model = best_model(recipe_of(cell, lag))
            row += [str(rate), *accuracy(model, test).cells()]
        rows.append(row)
    lags = recipe_of.__name__.replace("_", " ")
    print(f"`delayed-recall`, trained on {lags}: correct letters and sentences, % (chance: 12.5, 0.003)\n")
    print_table(["lag", *COLUMNS], rows)


def print_gradients() -> None:
    lag = LAGS[-1]
    models = {f"{cell}, untrained": untrained_model(all_lags(cell, lag)) for cell in CELLS}
    models |= {f"{cell}, trained": best_model(all_lags(cell, lag))[1] for cell in CELLS}
    test = open_split(one_lag("lstm", lag), "test")
    norms = {name: gradient_by_distance(model, test) for name, model in models.items()}
    print(f"Gradient norm by distance at lag {lag}, relative to that of the end mark (d = 0)\n")
    rows = [[str(d), *(f"{norm[d] / norm[0]:.1e}" for norm in norms.values())] for d in DISTANCES]
    print_table(["d", *norms], rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_recall_by_lag(one_lag)
    print_recall_by_lag(all_lags)
    print_gradients()
