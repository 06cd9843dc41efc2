"""Recipes speak of the suite's data: by its names, from its data root, and in the suite itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.errors import UnavailableError, UsageError
from harness.recipe import CheckpointRef, Recipe, RecipeData
from harness.suite.loading import load_suite
from harness.suite.plan import plan

TEXT = {"directory": "text", "source": "{split}.en", "references": ["{split}.de"]}
STEPS = {"steps": 5, "batch_size": 2, "learning_rate": 0.001, "metric": "bleu"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with sentence pairs under `data`, and a working directory that has none."""
    text = tmp_path / "data" / "text"
    text.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        for language in ("en", "de"):
            (text / f"{split}.{language}").write_text("a b\nc d\n")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(folder: Path, adapter: dict[str, object], **benchmark: object) -> CheckpointRef:
    suite = {
        "name": "s",
        "data_root": str(folder / "data"),
        "datasets": {"pairs": {"dataset": "parallel-text", "options": TEXT}},
        "adapters": {"mine": {"adapter": "rnn", **adapter}},
        "benchmarks": {"b": {"dataset": "pairs", "adapters": ["mine"], "metrics": ["bleu"], **benchmark}},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(suite))
    (trial,) = plan(load_suite(folder / "s.yaml")).trials
    assert trial.checkpoint is not None
    return trial.checkpoint


def write_recipe(folder: Path, dataset: object) -> dict[str, object]:
    recipe = {"adapter": "rnn", "task": "translation", "dataset": dataset, **STEPS}
    (folder / "r.yaml").write_text(yaml.safe_dump({"recipe": recipe}))
    return {"checkpoint": "r.yaml"}


def test_a_name_a_definition_and_an_inline_training_are_one_recipe(folder: Path) -> None:
    expected = Recipe(
        adapter="rnn",
        task="translation",
        dataset=RecipeData(name="parallel-text", options=TEXT),
        steps=5,
        batch_size=2,
        learning_rate=0.001,
        metric="bleu",
    )
    references = [
        planned(folder, write_recipe(folder, "pairs")),
        planned(folder, write_recipe(folder, {"name": "parallel-text", "options": TEXT})),
        planned(folder, {"train": {"dataset": "pairs", **STEPS}}),
    ]
    for reference in references:
        assert reference.missing and reference.recipe is not None
        assert reference.recipe.hash == expected.hash, "the hash must not contain a path of this machine"
        assert reference.data is not None
        assert reference.data.options["directory"] == str(folder / "data" / "text")
    assert references[2].weights.name == "mine.safetensors"


def test_seeds_of_an_inline_training_differ(folder: Path) -> None:
    first, second = (
        planned(folder, {"train": {"dataset": "pairs", **STEPS}, "seed": seed}).weights for seed in (0, 1)
    )
    assert first != second


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"train": {"dataset": "pair", **STEPS}}, r"s.yaml:\d+: adapters.mine.train.dataset: .*mean 'pairs'"),
        ({"train": {"dataset": "pairs", **STEPS, "stepz": 1}}, "unknown key 'stepz'; did you mean 'steps'"),
        ({"train": {"dataset": "pairs", **STEPS}, "checkpoint": "x"}, "set either 'checkpoint' or 'train'"),
        (
            {"checkpoint": "r.yaml"},
            r"adapters.mine.checkpoint: unknown data set 'pear'; did you mean 'pairs'",
        ),
    ],
)
def test_mistakes_name_the_line_and_the_nearest_name(
    folder: Path, adapter: dict[str, object], message: str
) -> None:
    write_recipe(folder, "pear")
    with pytest.raises(UsageError, match=message):
        planned(folder, adapter)


def test_data_that_training_lacks_are_missed_before_it_starts(folder: Path) -> None:
    elsewhere = {"name": "parallel-text", "options": {**TEXT, "directory": "elsewhere"}}
    adapter = write_recipe(folder, elsewhere)
    with pytest.raises(UnavailableError, match="data/elsewhere"):
        planned(folder, adapter)
    outside = {"name": "parallel-text", "options": {**TEXT, "directory": "../x"}}
    with pytest.raises(UsageError, match="leaves the data root"):
        planned(folder, write_recipe(folder, outside))
    (folder / "data" / "text" / "validation.de").write_text("a b\n")
    with pytest.raises(UsageError, match=r"validation.de: has 1 lines"):
        planned(folder, write_recipe(folder, "pairs"))
