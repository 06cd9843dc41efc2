"""Backends: an axis of a suite; exported graphs compute what torch computes, for every own model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_suite import document, planned, run_suite
from torch import Tensor
from torch.utils import _pytree as pytree

from harness.adapter import ADAPTERS, Exportable, Precision, Runtime, TrainableAdapter
from harness.backends import backend as backends
from harness.backends.backend import BACKENDS, substitute
from harness.checkpoint import load, sha256
from harness.compare.accuracy import judge_loss
from harness.compare.outcome import Change
from harness.datasets.dataset import DATASETS
from harness.errors import UnavailableError, UsageError
from harness.metrics.metric import METRICS
from harness.recipe import shipped_recipes
from harness.scenarios.settings import SpeedSettings
from harness.stages.measure import load_bench

TOLERANCE = 1e-4  # of the largest output: sums in another order, in fp32
INSTALLED = [name for name in ("onnxruntime", "openvino") if backends.missing_packages(name) is None]
FAST: list[tuple[str, dict[str, Any]]] = [("yolo", {}), ("attention", {})]
SLOW: list[tuple[str, dict[str, Any]]] = [
    ("ssd", {}),
    ("ssd", {"backbone": "vgg16"}),
    ("rcnn", {}),
    ("fast-rcnn", {}),
    ("faster-rcnn", {}),
    ("faster-rcnn", {"backbone": "resnet50-fpn"}),
    ("fcn-32s", {}),
    ("fcn-8s", {}),
    ("fcn-resnet50", {}),
    ("full-resolution", {}),
    ("rnn", {"layers": 2}),
    ("lstm", {"context": "initial"}),
]


def random_model(name: str, options: dict[str, Any]) -> TrainableAdapter[Any, Any, Any]:
    """Return a model of small random weights, none of which are zero and could hide an error."""
    torch.manual_seed(0)
    cls = ADAPTERS.get(name)
    data = DATASETS.get("phrases" if cls.task == "translation" else "scenes")
    adapter = cls(cls.Options(**options), Runtime())
    assert isinstance(adapter, TrainableAdapter)
    adapter.build(data(data.Options(**{"size": 40}), "train", cls.task))
    for parameter in adapter.module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    adapter.module.eval()
    return adapter


def arguments(part: Exportable, sizes: dict[int, int]) -> tuple[object, ...]:
    """Return random arguments in which the dynamic axes have other sizes than in the example."""
    leaves, structure = pytree.tree_flatten(part.example)
    changed = []
    for tensor, axes in zip(leaves, part.axes, strict=True):
        shape = [sizes.get(n, n + 32) if axis in axes else n for axis, n in enumerate(tensor.shape)]
        if tensor.is_floating_point():
            changed.append(torch.rand(shape))
        else:  # token ids [B, S], or lengths of sentences [B]
            changed.append(torch.randint(4, 20, shape) if len(shape) == 2 else torch.full(shape, sizes[5]))
    return tuple(pytree.tree_unflatten(changed, structure))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "options"), [*FAST, *(pytest.param(*model, marks=pytest.mark.slow) for model in SLOW)]
)
def test_exported_parts_compute_what_torch_computes_at_every_size(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    for part_name, part in random_model(name, options).exportable().items():
        file = tmp_path / f"{part_name}.onnx"
        file.write_bytes(BACKENDS.get("onnxruntime")().export(part, "fp32", ()))
        for backend in INSTALLED:
            run = BACKENDS.get(backend)().load(part, file)
            # batch sizes and, in translation, numbers of hypotheses and positions; images become larger
            for sizes in ({2: 1, 3: 1, 5: 1}, {2: 5, 3: 4, 5: 9}):
                given = arguments(part, sizes)
                with torch.no_grad():
                    expected: list[Tensor] = pytree.tree_leaves(getattr(part.module, part.method)(*given))
                outputs = pytree.tree_leaves(run(*given))
                assert len(outputs) == len(expected)
                for output, tensor in zip(outputs, expected, strict=True):
                    scale = tensor[tensor.isfinite()].abs().amax() if tensor.numel() else 1
                    torch.testing.assert_close(output, tensor, rtol=0, atol=TOLERANCE * float(scale))


def test_an_axis_that_the_computation_fixes_is_an_error() -> None:
    pytest.importorskip("onnxscript")

    class Fixed(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1)

    with pytest.raises(UsageError, match="'forward' cannot be exported: it fixes axis 0 of tensor 0"):
        part = Exportable(Fixed(), "forward", (torch.zeros(2, 3),), ((0,),))
        BACKENDS.get("onnxruntime")().export(part, "fp32", ())


def test_no_regions_are_computed_by_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    part = Exportable(torch.nn.Linear(3, 4), "forward", (torch.zeros(2, 3),), ((0,),))
    (tmp_path / "linear.onnx").write_bytes(BACKENDS.get("onnxruntime")().export(part, "fp32", ()))
    run = BACKENDS.get("onnxruntime")().load(part, tmp_path / "linear.onnx")
    output = run(torch.zeros(0, 3))
    assert isinstance(output, Tensor) and output.shape == (0, 4)


def detection_suite(**entry: Any) -> dict[str, Any]:
    adapters = {"yolo": {"adapter": "yolo", "checkpoint": "yolo-scenes", **entry}}
    benchmark = {"dataset": "scenes", "task": "detection", "limit": 12, "adapters": ["yolo"]}
    return {
        "name": "backends",
        "adapters": adapters,
        "benchmarks": {"digits": {**benchmark, "metrics": ["coco"]}},
    }


class TestPlan:
    def test_the_backend_is_an_axis_and_part_of_the_identity(self, tmp_path: Path) -> None:
        (plain,) = planned(tmp_path, detection_suite()).trials
        trials = planned(tmp_path, detection_suite(backend=["eager", "compile"])).trials
        assert [trial.variant for trial in trials] == ["yolo[backend=eager]", "yolo[backend=compile]"]
        assert trials[0].id == plain.id != trials[1].id

    def test_int8_is_identified_by_its_calibration_samples(self, tmp_path: Path) -> None:
        entry = {"backend": "onnxruntime", "precision": ["fp32", "int8"]}
        few, many = (
            planned(tmp_path, detection_suite(**entry, calibration_samples=count)).trials for count in (8, 9)
        )
        assert few[0].id == many[0].id and few[1].id != many[1].id
        assert few[0].spec.calibration is None and few[1].spec.calibration is not None
        assert few[1].spec.calibration.dataset != few[1].spec.dataset  # of the train split
        assert {trial.spec.device for trial in few} == {"cpu"}

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"backend": "onxruntime"}, r"yolo\.backend: unknown .*did you mean 'onnxruntime'"),
            ({"precision": "int8"}, r"precision: backend 'eager' has no precision 'int8' \(it has fp32"),
            ({"backend": "openvino", "precision": ["fp32", "bf16"]}, "'openvino' has no precision 'bf16'"),
            ({"backend": "onnxruntime", "device": "cuda"}, "'onnxruntime' has no device 'cuda'"),
            ({"calibration_samples": 8}, "calibration_samples: it applies to the precision int8"),
        ],
    )
    def test_combinations_that_do_not_exist_are_refused(
        self, tmp_path: Path, entry: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            planned(tmp_path, detection_suite(**entry))

    def test_an_adapter_that_exports_nothing_runs_only_eagerly(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="adapter 'fake-translation' exports nothing"):
            planned(tmp_path, document(ok={"backend": "compile"}))

    def test_a_missing_backend_is_refused_with_its_command_or_skipped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends, "find_spec", lambda package: None if package == "openvino" else 1)
        suite = detection_suite(backend=["eager", "openvino"])
        needed = r"backend 'openvino' needs openvino: pip install 'harness\[openvino\]'"
        with pytest.raises(UnavailableError, match=needed):
            planned(tmp_path, suite)
        suite["benchmarks"]["digits"]["when_unavailable"] = "skip"
        plan = planned(tmp_path, suite)
        assert [trial.variant for trial in plan.trials] == ["yolo[backend=eager]"]
        assert plan.skipped[0].reason.startswith("yolo[backend=openvino]: backend 'openvino' needs")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_run_records_the_artefact_and_is_as_accurate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    suite = detection_suite(backend="onnxruntime", precision="int8", calibration_samples=4)
    suite["adapters"]["eager"] = {"adapter": "yolo", "checkpoint": "yolo-scenes"}
    suite["benchmarks"]["digits"]["adapters"] = ["eager", "yolo"]
    eager, quantised = run_suite(tmp_path, suite).trials
    assert eager.status == quantised.status == "complete" and eager.artefacts == []
    (file,) = (tmp_path / "cache/exports").rglob("*.onnx")
    (artefact,) = quantised.artefacts
    assert (artefact.name, artefact.sha256) == ("network", sha256(file))
    assert artefact.bytes == quantised.cost.artefact_bytes == file.stat().st_size < 1_000_000  # a quarter
    (before, after) = (trial.metrics["ap"].value for trial in (eager, quantised))
    assert before is not None and before != after == pytest.approx(before, abs=0.05)
    assert json.loads((tmp_path / "run/results.json").read_text())["trials"][1]["settings"]["backend"]

    plan = planned(tmp_path, suite)
    settings = SpeedSettings(profile="smoke", threads=1, samples=1, exclusive="node")
    benches = [load_bench(trial, settings, count_flops=True) for trial in plan.trials]
    assert benches[0].flops is not None
    assert benches[1].flops == benches[0].flops  # although torch does not see the exported operations


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_model_computes_the_same(precision: Precision) -> None:
    adapter = random_model("yolo", {})
    adapter.runtime = Runtime(precision=precision)
    part = adapter.exportable()["network"]
    batch = adapter.preprocess([DATASETS.get("scenes")(*_scenes())[0]])
    expected = adapter.forward(batch)
    substitute(part, BACKENDS.get("compile")().load(part, None))
    tolerance = (TOLERANCE if precision == "fp32" else 0.02) * float(expected.float().abs().amax())
    torch.testing.assert_close(adapter.forward(batch), expected, rtol=0, atol=tolerance)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def _scenes() -> tuple[Any, str, Any]:
    return DATASETS.get("scenes").Options(), "test", "detection"


@pytest.mark.slow
def test_an_int8_head_that_costs_one_point_of_ap_is_found_with_1000_samples() -> None:
    path = shipped_recipes("yolo")["yolo-scenes"].with_suffix(".safetensors")
    adapter = ADAPTERS.get("yolo")(ADAPTERS.get("yolo").Options(), Runtime())
    adapter.load(load(path))
    data = DATASETS.get("scenes")
    test = data(data.Options(), "test", "detection")
    metric = METRICS.get("coco")(test.classes, **test.metric_options)
    statistics: dict[float, list[Any]] = {0.0: [], 0.04: []}  # by step: 8 bits over a range of 10
    for first in range(0, 1000, 50):
        samples = [test[index] for index in range(first, first + 50)]
        batch = adapter.preprocess(samples)
        raw = adapter.forward(batch)
        for step, collected in statistics.items():
            coarse = (raw / step).round() * step if step else raw
            predictions = adapter.postprocess(coarse, batch)
            collected += [
                metric.statistics(sample.target, prediction)
                for sample, prediction in zip(samples, predictions, strict=True)
            ]
    base, head = (metric.jackknife(collected, None)["ap"] for collected in statistics.values())
    assert 0.005 < base.value - head.value < 0.015
    assert judge_loss(Change("accuracy", "ap", decides=True), ([base], [head]), None).verdict == "regression"
