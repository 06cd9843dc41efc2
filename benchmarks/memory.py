"""How long the vanilla network and the LSTM remember, by accuracy and by gradient.

    python benchmarks/memory.py        about 20 CPU minutes; what was trained before is kept in the cache

Both are trained by equal rules: on `delayed-recall` with one lag alone, on all lags up to the longest, and on
`copy`, each at the learning rate of three that does best on validation sentences. The encoder reads forwards
only, so that what is asked for lies furthest from its last state. Prints Markdown tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

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
DISTANCES = (0, 1, 2, 5, 10, 15, 20, 21, 23, 25)  # of lag 20: 21 to 25 are the letters to remember
RATES = (0.0003, 0.001, 0.003)
COLUMNS = [f"{cell}, {what}" for cell in CELLS for what in ("rate", "letters", "sentences")]
LENGTHS = ((5, 8), (9, 12), (13, 16), (17, 20))  # of what is copied
SENTENCES = 500
BATCH = 100


def recipe_for(cell: str, data: str, options: dict[str, Any]) -> Recipe:
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
        dataset=RecipeData(name=data, options=options),
        steps=2500,
        batch_size=32,
        learning_rate=RATES[-1],
        weight_decay=0.0,
        clip_norm=1.0,
        metric="bleu",
        validate_every=500,
    )


def opened(recipe: Recipe, split: str) -> Dataset:
    cls = DATASETS.get(recipe.dataset.name)
    return cls(cls.Options(**recipe.dataset.options), split, "translation")


def fresh(recipe: Recipe) -> Seq2Seq:
    cls = CELLS[recipe.adapter]
    adapter = cls(cls.Options(**recipe.options), Runtime())
    torch.manual_seed(recipe.seed)
    adapter.build(opened(recipe, "train"))
    return adapter


def trained_at(rate: float, recipe: Recipe) -> Seq2Seq:
    recipe = recipe.model_copy(update={"learning_rate": rate})
    weights = cache_folder() / f"memory-{recipe.hash[:12]}" / "memory.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    if not weights.is_file():
        train(recipe, weights, Runtime(), threads=1, report=lambda _: None)
    cls = CELLS[recipe.adapter]
    adapter = cls(cls.Options(**recipe.options), Runtime())
    adapter.load(load(weights))
    return adapter


_BEST: dict[str, tuple[float, Seq2Seq]] = {}


def trained(recipe: Recipe) -> tuple[float, Seq2Seq]:
    """The learning rate that gets most validation letters right, the first of equals, and its model."""
    if recipe.hash not in _BEST:
        data = opened(recipe, "validation")
        models = {rate: trained_at(rate, recipe) for rate in RATES}
        best = max(RATES, key=lambda rate: accuracy(models[rate], data)[0].mean())
        _BEST[recipe.hash] = best, models[best]
    return _BEST[recipe.hash]


def accuracy(
    adapter: Seq2Seq, data: Dataset
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Of each sentence: share of the target's letters at their place, whether all are, how many there are."""
    shares, exact, lengths = [], [], []
    samples = [data[index] for index in range(SENTENCES)]
    for first in range(0, SENTENCES, BATCH):
        part = samples[first : first + BATCH]
        for sample, prediction in zip(part, adapter.predict(part), strict=True):
            assert isinstance(prediction, Translation) and isinstance(sample.target, tuple)
            wanted, found = sample.target[0].split(), prediction.text.split()
            same = [one == other for one, other in itertools.zip_longest(wanted, found)]
            shares.append(sum(same[: len(wanted)]) / len(wanted))
            exact.append(all(same))
            lengths.append(len(wanted))
    return np.array(shares), np.array(exact), np.array(lengths)


def gradient_by_distance(adapter: Seq2Seq, data: Dataset) -> NDArray[np.float64]:
    """Mean over sentences of |∂ loss / ∂ x_{S−d}|, by d: what the loss after the last step, where the decoder
    starts, owes to the source's embedding d steps before (d = 0 is the end mark)."""
    embedded: list[torch.Tensor] = []

    def keep(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        embedded.append(inputs[0])

    handle = adapter.module.encoder.register_forward_pre_hook(keep)
    adapter.module.eval()
    samples = [data[index] for index in range(BATCH)]
    batch = adapter.training_batch(samples, np.random.default_rng(0))
    # A mean over all target tokens; times the sentences it is that of each sentence's own loss.
    (torch.stack(list(adapter.loss(batch).values())).sum() * len(samples)).backward()
    handle.remove()
    norms = torch.cat([part.grad.norm(dim=-1) for part in embedded if part.grad is not None])
    return norms.mean(dim=0).flip(0).numpy().astype(np.float64)


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def cells_of(shares: NDArray[np.float64], exact: NDArray[np.bool_]) -> list[str]:
    """Letters right, and sentences right with the Wilson interval of 95%, in percent."""
    low, high = binomtest(int(exact.sum()), len(exact)).proportion_ci(method="wilson")
    return [f"{100 * shares.mean():.1f}", f"{100 * exact.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"]


def one_lag(cell: str, lag: int) -> Recipe:
    return recipe_for(cell, "delayed-recall", {"lag": lag})


def all_lags(cell: str, lag: int) -> Recipe:  # noqa: ARG001
    return recipe_for(cell, "delayed-recall", {"lag": LAGS[-1], "min_lag": 0})


def recall_by_lag(recipe_of: Callable[[str, int], Recipe]) -> None:
    rows = []
    for lag in LAGS:
        row = [str(lag)]
        for cell in CELLS:
            tested = opened(one_lag(cell, lag), "test")
            rate, model = trained(recipe_of(cell, lag))
            shares, exact, _ = accuracy(model, tested)
            row += [str(rate), *cells_of(shares, exact)]
        rows.append(row)
    how = recipe_of.__name__.replace("_", " ")
    print(f"`delayed-recall`, trained on {how}: letters and whole sentences right, % (chance: 12.5, 0.003)\n")
    table(["lag", *COLUMNS], rows)


def copy_by_length() -> None:
    found = []
    for cell in CELLS:
        recipe = recipe_for(cell, "copy", {})
        rate, model = trained(recipe)
        found.append((rate, *accuracy(model, opened(recipe, "test"))))
    rows = []
    for low, high in LENGTHS:
        row = [f"{low}–{high}"]
        for rate, shares, exact, lengths in found:
            chosen = (low <= lengths) & (lengths <= high)
            row += [str(rate), *cells_of(shares[chosen], exact[chosen])]
        rows.append(row)
    print("`copy`, letters and whole sentences right, %\n")
    table(["length", *COLUMNS], rows)


def gradients() -> None:
    lag = LAGS[-1]
    models = {f"{cell}, fresh": fresh(all_lags(cell, lag)) for cell in CELLS}
    models |= {f"{cell}, trained": trained(all_lags(cell, lag))[1] for cell in CELLS}
    data = opened(one_lag("lstm", lag), "test")
    norms = {name: gradient_by_distance(model, data) for name, model in models.items()}
    print(f"Gradient norm by distance, lag {lag}, relative to the end mark's (d = 0)\n")
    rows = [[str(d), *(f"{norm[d] / norm[0]:.1e}" for norm in norms.values())] for d in DISTANCES]
    table(["d", *norms], rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    recall_by_lag(one_lag)
    recall_by_lag(all_lags)
    copy_by_length()
    gradients()
