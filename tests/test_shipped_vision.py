"""The shipped vision checkpoints reach the figures in their documents."""

import os
from pathlib import Path

import pytest
import yaml

from harness import checkpoint as checkpoints
from harness.adapter import ADAPTERS, Runtime
from harness.datasets.dataset import DATASETS
from harness.metrics.metric import METRICS
from harness.recipe import resolve_checkpoint
from harness.stages.fit import evaluate

SHIPPED = [
    ("yolo", "yolo-scenes", "ap50", 0.70),
    pytest.param("rcnn", "rcnn-scenes", "ap50", 0.885, marks=pytest.mark.slow),  # 15 s, mostly the search
    pytest.param("fast-rcnn", "fast-rcnn-scenes", "ap50", 0.84, marks=pytest.mark.slow),
    ("ssd", "ssd-scenes", "ap50", 0.75),
    ("faster-rcnn", "faster-rcnn-scenes", "ap50", 0.80),
    ("ssd", "ssd-augmented-bccd", "ap50", 0.85),
    ("yolo", "yolo-bccd", "ap50", 0.70),
    ("fcn-32s", "fcn-32s-scenes", "miou", 0.33),
    ("fcn-16s", "fcn-16s-scenes", "miou", 0.45),
    ("fcn-8s", "fcn-8s-scenes", "miou", 0.50),
    # No minimum: these two predict only background (docs/models.md explains why), whose mIoU is no bound.
    ("full-resolution", "full-resolution-scenes", "miou", None),
    pytest.param(  # 10 s: 213 times the arithmetic of fcn-8s
        "full-resolution", "full-resolution-wide-scenes", "miou", None, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("adapter", "name", "figure", "minimum"), SHIPPED)
def test_document_and_weights_belong_together(adapter, name, figure, minimum):
    shipped = resolve_checkpoint(name, adapter, None)
    assert not shipped.missing and shipped.recipe is not None
    assert shipped.weights.stat().st_size <= 3_000_000
    document = yaml.safe_load(shipped.weights.with_suffix(".yaml").read_text())
    assert document["provenance"]["sha256"] == checkpoints.sha256(shipped.weights)
    assert minimum is None or document["provenance"]["figures"][figure]["value"] >= minimum


@pytest.mark.parametrize(("adapter", "name", "figure", "minimum"), SHIPPED)
def test_the_figure_in_the_document_is_reproduced(adapter, name, figure, minimum):
    shipped = resolve_checkpoint(name, adapter, None)
    recipe = shipped.recipe
    document = yaml.safe_load(shipped.weights.with_suffix(".yaml").read_text())
    cls, data_cls = ADAPTERS.get(adapter), DATASETS.get(recipe.dataset.name)
    options = dict(recipe.dataset.options)
    if "root" in options:
        options["root"] = Path(os.environ.get("HARNESS_DATA", "")) / options["root"]
        if not options["root"].is_dir():
            pytest.skip(f"no {options['root']}: `harness data fetch` gets it")
    data = data_cls(data_cls.Options(**options), "validation", recipe.task)
    model = cls(cls.Options(), Runtime())
    model.load(checkpoints.load(shipped.weights))
    metric = METRICS.get(recipe.metric)(data.classes, **data.metric_options)
    samples = [data[i] for i in range(recipe.validation_size)]
    scores = evaluate(model, samples, metric, batch_size=20, intervals=False)
    # Rounding on another CPU can swap two nearly equal scores; larger differences are errors.
    expected = document["provenance"]["figures"][figure]["value"]
    assert scores.metrics[figure].value == pytest.approx(expected, abs=0.005)
