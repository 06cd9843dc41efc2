"""Everything that a user can set is documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from harness.adapter import ADAPTERS
from harness.datasets.dataset import DATASETS
from harness.decisions.claims import ClaimEntry
from harness.decisions.policy import GateRule
from harness.recipe import Recipe
from harness.suite.schema import AdapterEntry, BenchmarkEntry, DatasetEntry, ResourcesEntry, SpeedEntry, Suite

DOCS = Path(__file__).parents[1] / "docs"
NAMES = [name for name, entry in ADAPTERS.entries().items() if entry.origin == "harness"]


def told(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def missing(model: type[BaseModel], text: str) -> list[str]:
    return [name for name in model.model_fields if f"`{name}`" not in text and f"{name}:" not in text]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_an_adapter_stands_on_its_tasks_page(name: str) -> None:
    adapter = ADAPTERS.get(name)
    for task in adapter.tasks():
        assert missing(adapter.Options, told(task)) == []


@pytest.mark.parametrize("name", DATASETS.entries())
def test_every_option_of_a_data_set_is_told(name: str) -> None:
    assert missing(DATASETS.get(name).Options, told("datasets")) == []


def test_every_key_of_recipes_and_suites_is_told() -> None:
    assert missing(Recipe, told("training")) == []
    assert missing(ClaimEntry, told("claims")) == []
    assert missing(GateRule, told("compare")) == []
    for model in (Suite, DatasetEntry, AdapterEntry, ResourcesEntry, BenchmarkEntry, SpeedEntry):
        assert missing(model, told("suites")) == []
