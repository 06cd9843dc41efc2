"""Recipes speak of the suite's data: by its names, from its data root, and in the suite itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.errors import UnavailableError, UsageError
from harness.recipe import CheckpointRef, Recipe, RecipeData, read_recipe
from harness.suite.loading import find_suite, load_suite
from harness.suite.plan import plan

TEXT = {"directory": "text", "source": "{split}.en", "references": ["{split}.de"]}
SHIPPED = ("rcnn", "fast-rcnn", "faster-rcnn", "ssd", "yolo")
SHIPPED_FOLDER = Path(__file__).parents[1] / "adapters" / "checkpoints"
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
    assert (references[2].name, references[2].weights.name) == ("mine", "rnn.safetensors")


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


@pytest.mark.parametrize("name", ["multi30k", "bccd", "camvid"])
def test_a_suite_of_public_data_is_skipped_without_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    loaded = load_suite(find_suite(name))
    planned = plan(loaded)
    assert planned.trials == ()
    assert [skipped.benchmark for skipped in planned.skipped] == list(loaded.suite.benchmarks)
    assert all("HARNESS_DATA is not set" in skipped.reason for skipped in planned.skipped)


def test_the_detectors_of_bccd_are_trained_by_equal_rules() -> None:
    """Only the learning rate differs: R-CNN's family has half the rate, as on `scenes`."""
    names = {name: read_recipe(SHIPPED_FOLDER / f"{name}-bccd.yaml") for name in SHIPPED}
    rules = {
        name: recipe.model_dump(exclude={"adapter", "options", "learning_rate"})
        for name, recipe in names.items()
    }
    assert all(rule == rules["ssd"] for rule in rules.values())
    assert {recipe.options["augmentation"] for recipe in names.values()} == {"flip"}
    assert {str(recipe.options["input_size"]) for recipe in names.values()} == {"[320, 240]"}
