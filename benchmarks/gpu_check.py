"""Check every model on a GPU, and measure speed, memory, energy and training, in at most eight minutes.

    python benchmarks/gpu_check.py [--device cuda] [--seconds 450] [--quick] [--out gpu_check.json]

It needs no network, Ray or MLflow. Each section runs in its own process, because an error of CUDA spoils the
process in which it occurs, and is stopped 30 s after its share of `--seconds` at the latest. Errors are
recorded in the JSON file, which grows by every part, and the other parts run; parts without time left are
listed as skipped. `--quick` takes small models and few repetitions, to try the script itself on a CPU. Exit
code 1 means that a part failed, or that a model computes other numbers than the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from detection_peers import calibrated, photographs
from interleaved import median_interval, pairs_of
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from adapters.segmentation.fcn_resnet import FcnResNet50
from adapters.torch_adapter import TorchAdapter
from adapters.torchvision.segmentation import TorchvisionFcnResNet50
from harness import environment
from harness.adapter import ADAPTERS, Exportable, Precision, Runtime
from harness.backends.backend import BACKENDS, substitute
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import DATASETS
from harness.stages.device import free_memory, set_tf32
from harness.stages.predict import Predictor
from harness.stages.shards import Shard
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.task import Sample

TOLERANCE = 1e-3  # of the largest output, between the fp32 of a CPU and of a GPU
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4 ": 121e12}  # dense FLOP/s, data sheets

SMALL: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {})
        for name in ("yolo", "ssd", "rcnn", "fast-rcnn", "faster-rcnn", "fcn-8s", "full-resolution")
    ),
    *((name, {}) for name in ("rnn", "lstm", "attention")),
]
LARGE: list[tuple[str, dict[str, Any]]] = [
    ("yolo", {"backbone": "yolov1"}),
    ("ssd", {"backbone": "vgg16"}),
    ("rcnn", {"backbone": "vgg16"}),
    ("fast-rcnn", {"backbone": "vgg16"}),
    ("faster-rcnn", {"backbone": "resnet50-fpn"}),
    ("fcn-8s", {"backbone": "vgg16"}),
    ("fcn-resnet50", {}),
]

Item = TypeVar("Item")


@dataclass
class Check:
    """The settings, and what the sections report."""

    device: str
    quick: bool
    deadline: float
    out: Path
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> list[tuple[str, dict[str, Any]]]:
        return SMALL[:2] + SMALL[-1:] if self.quick else SMALL + LARGE

    def timely(self, section: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items until the deadline, and record the rest as skipped."""
        for item in items:
            if time.monotonic() < self.deadline:
                yield item
            else:
                self.report.setdefault(section, {})[str(item)] = {"skipped": "no time left"}
                self.write()

    def write(self) -> None:
        self.out.write_text(json.dumps(self.report, indent=1) + "\n")

    @contextmanager
    def part(self, section: str, name: str) -> Iterator[dict[str, Any]]:
        """Yield the record of a part of a section; an exception becomes its `error`."""
        record: dict[str, Any] = {}
        self.report.setdefault(section, {})[name] = record
        started = time.monotonic()
        try:
            yield record
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
            where = traceback.extract_tb(error.__traceback__)[-4:]
            record["where"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where]
        record["seconds"] = round(time.monotonic() - started, 2)
        print(f"{section}/{name}: {json.dumps(record)[:300]}", flush=True)
        self.write()
        free_memory()  # raises after an error of CUDA


def title(model: tuple[str, dict[str, Any]]) -> str:
    return " ".join([model[0], *map(str, model[1].values())])


def build(model: tuple[str, dict[str, Any]], device: str, precision: Precision = "fp32") -> TorchAdapter:
    """Return a model of seeded random weights."""
    torch.manual_seed(0)
    cls = ADAPTERS.get(model[0])
    data = DATASETS.get("phrases" if cls.task == "translation" else "scenes")
    adapter = cls(cls.Options(**model[1]), Runtime(device, precision))
    adapter.build(data(data.Options(size=200), "train", cls.task))
    adapter.module.eval()
    return adapter


def inputs_of(adapter: TorchAdapter, count: int) -> list[Sample]:
    data = DATASETS.get("phrases" if adapter.task == "translation" else "scenes")
    opened = data(data.Options(size=200), "test", adapter.task)
    return [Sample(opened[index].id, opened[index].input) for index in range(min(count, len(opened)))]


def outputs(adapter: TorchAdapter, part: Exportable) -> list[torch.Tensor]:
    """Run a part on seeded random pixels, or on its example."""
    generator = torch.Generator().manual_seed(1)
    leaves, structure = pytree.tree_flatten(part.example)
    device = adapter.runtime.device
    random = [
        (torch.rand(leaf.shape, generator=generator) if leaf.is_floating_point() else leaf).to(device)
        for leaf in leaves
    ]
    with torch.inference_mode(), adapter.autocast():
        result = getattr(part.module, part.method)(*pytree.tree_unflatten(random, structure))
    return [leaf.float().cpu() for leaf in pytree.tree_leaves(result)]


def difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Return the largest difference as a fraction of the largest output; inf if other values are finite."""
    worst = 0.0
    for one, other in zip(first, second, strict=True):
        finite = one.isfinite()
        if not torch.equal(finite, other.isfinite()):
            return math.inf
        if finite.any():
            scale = max(float(one[finite].abs().max()), 1e-12)
            worst = max(worst, float((one - other)[finite].abs().max()) / scale)
    return worst


def correctness(check: Check) -> None:
    """Compare the networks with those of the CPU, and in half precision with fp32; predict to the end."""
    for model in check.timely("correctness", check.models):
        with check.part("correctness", title(model)) as record:
            reference = build(model, "cpu")
            own = build(model, check.device)
            own.module.load_state_dict(reference.module.state_dict())
            half: list[Precision] = ["bf16"] if check.quick else ["bf16", "fp16"]
            for name, part in reference.exportable().items():
                expected = outputs(reference, part)
                record[name] = difference(expected, outputs(own, own.exportable()[name]))
                for precision in half:
                    own.runtime = Runtime(check.device, precision)
                    record[f"{name} {precision}"] = difference(expected, outputs(own, own.exportable()[name]))
                own.runtime = Runtime(check.device)
                assert record[name] <= TOLERANCE, f"{name}: differs by {record[name]:g}"
            samples = inputs_of(own, 4)
            assert len(own.predict(samples)) == len(samples)


def memory(check: Check) -> None:
    """Exhaust the GPU's memory, which must halve the batch, and measure the peaks of the models."""
    if check.device != "cuda":
        return
    for model in check.timely("peak memory", check.models):
        with check.part("peak memory", title(model)) as record:
            adapter = build(model, check.device)
            for batch in (1, 8):
                torch.cuda.reset_peak_memory_stats()
                adapter.predict(inputs_of(adapter, batch))
                record[f"batch {batch} MB"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    with check.part("out of memory", "yolo") as record, tempfile.TemporaryDirectory() as folder:
        suite = Path(folder, "suite.yaml")
        suite.write_text(
            "name: memory\n"
            "adapters: {yolo: {adapter: yolo, checkpoint: yolo-scenes, batch_size: 512, device: cuda}}\n"
            "benchmarks: {b: {dataset: scenes, task: detection, limit: 512, adapters: [yolo], "
            "metrics: [coco]}}\n"
        )
        (trial,) = plan(load_suite(suite)).trials
        predictor = Predictor(trial, trial.load_checkpoint())
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300e6) / total)
        try:
            (result,) = predictor.run_shard(Shard(trial, 0, 512))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        record["batch size"] = result.execution.batch_size
        assert result.execution.batch_size < 512 and len(result.predictions) == 512


def rivals(check: Check, name: str) -> tuple[TorchAdapter, TorchAdapter]:
    """Return this project's model and torchvision's, with the same random weights."""
    if name != "fcn-resnet50":
        own, peer = calibrated(name, check.device, 200 if check.quick else 800, 300)
        return own, peer
    state = build(("fcn-resnet50", {}), "cpu").module.state_dict()
    pair = [cls(cls.Options(), Runtime(check.device)) for cls in (FcnResNet50, TorchvisionFcnResNet50)]
    for adapter in pair:
        adapter.load(Checkpoint(state, "", {}))
    return pair[0], pair[1]


def scenes_of_speed(check: Check, section: str) -> Iterator[tuple[str, int]]:
    """Yield the models and batch sizes that are timed."""
    large = [(name, batch) for name in ("faster-rcnn", "ssd", "fcn-resnet50") for batch in (1, 8)]
    return check.timely(section, [("ssd", 1)] if check.quick else large)


def speed(check: Check) -> None:
    """Time the models against torchvision's, in interleaved pairs."""
    for name, batch in scenes_of_speed(check, "speed"):
        with check.part("speed", f"{name} batch {batch}") as record:
            own, peer = rivals(check, name)
            samples = photographs(batch)
            taken = compared(check, own, peer, samples)
            record["samples/s"] = batch / float(np.median([mine.wall for mine, _ in taken]))
            record["torchvision's time / own"] = ratios(taken)
            record["phases ms"] = phases(own, samples)
            record["joules per sample"] = energy(check, own, samples)


def compiled(check: Check) -> None:
    """Time the models against those that torch.compile has compiled, in interleaved pairs."""
    for name, batch in scenes_of_speed(check, "compiled"):
        with check.part("compiled", f"{name} batch {batch}") as record:
            (own, _), (other, _) = rivals(check, name), rivals(check, name)
            for part in other.exportable().values():
                substitute(part, BACKENDS.get("compile")().load(part, None))
            record["compiled time / own"] = ratios(compared(check, own, other, photographs(batch)))


def compared(check: Check, own: TorchAdapter, other: TorchAdapter, samples: list[Sample]) -> list[Any]:
    return pairs_of(lambda: own.predict(samples), lambda: other.predict(samples), 2 if check.quick else 11)


def ratios(taken: list[Any]) -> list[float]:
    """Return the median of the other's time divided by our own, and its 95% interval."""
    return [round(value, 4) for value in median_interval([other.wall / own.wall for own, other in taken])]


def phases(adapter: TorchAdapter, samples: list[Sample]) -> list[float]:
    """Return the ms of preprocess, forward and postprocess."""
    marks = [time.perf_counter()]

    def mark() -> None:
        synchronise(adapter.runtime.device)
        marks.append(time.perf_counter())

    batch = adapter.preprocess(samples)
    mark()
    raw = adapter.forward(batch)
    mark()
    adapter.postprocess(raw, batch)
    mark()
    return [round(1e3 * seconds, 3) for seconds in np.diff(marks)]


def energy(check: Check, adapter: TorchAdapter, samples: list[Sample]) -> float | None:
    """Return the joules per sample over two seconds by the GPU's counter, idle power included."""
    if check.device != "cuda":
        return None
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before, predicted, end = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), 0, time.monotonic() + 2
    while time.monotonic() < end:
        adapter.predict(samples)
        predicted += len(samples)
    synchronise(check.device)
    return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3 / predicted  # mJ


def training(check: Check) -> None:
    """Measure training steps in bf16: units per second, and the FLOPs as a fraction of the peak."""
    names = torch.cuda.get_device_name() if check.device == "cuda" else ""
    peak = next((flops for name, flops in PEAK_BF16.items() if name in names), None)
    models = [("attention", {}), ("ssd", {"backbone": "vgg16"}), ("fcn-resnet50", {})]
    for model in check.timely("training", models[:1] if check.quick else models):
        with check.part("training", title(model)) as record:
            adapter = build(model, check.device, "bf16")
            data = DATASETS.get("phrases" if adapter.task == "translation" else "scenes")
            train = data(data.Options(size=200), "train", adapter.task)
            size = 64 if adapter.task == "translation" else 16
            batch = adapter.training_batch([train[k] for k in range(size)], np.random.default_rng(0))
            optimiser = torch.optim.AdamW(adapter.module.parameters())
            step = trainer(adapter, batch, optimiser)
            with FlopCounterMode(display=False) as counter:
                losses = [step()]
            seconds = []
            for _ in range(3 if check.quick else 20):
                started = time.perf_counter()
                losses.append(step())
                synchronise(check.device)
                seconds.append(time.perf_counter() - started)
            typical = float(np.median(seconds))
            assert np.isfinite(losses).all() and losses[-1] < losses[0], "the loss does not fall"
            record |= {"samples/s": size / typical, "losses": [losses[0], losses[-1]]}
            record |= {f"{unit}/s": count / typical for unit, count in adapter.training_units(batch).items()}
            if not any(isinstance(part, torch.nn.RNNBase) for part in adapter.module.modules()):
                flops = counter.get_total_flops()
                record["TFLOP/s"] = flops / typical / 1e12
                record["fraction of peak"] = flops / typical / peak if peak else None


def trainer(adapter: TorchAdapter, batch: Any, optimiser: torch.optim.Optimizer) -> Callable[[], float]:
    def step() -> float:
        adapter.module.train()
        with adapter.autocast():
            total = torch.stack(list(adapter.loss(batch).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        return float(total.detach())

    return step


def graphs(check: Check) -> None:
    """Time the decoding step as a CUDA graph against the same step launched kernel by kernel."""
    if check.device != "cuda":
        return
    for name in ("attention", "lstm"):
        with check.part("CUDA graph", name) as record, torch.inference_mode():
            part = build((name, {}), check.device).exportable()["step"]
            run = getattr(part.module, part.method)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run(*part.example)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = pytree.tree_leaves(run(*part.example))
            graph.replay()
            expected = pytree.tree_leaves(run(*part.example))
            record["difference"] = difference([t.cpu() for t in expected], [t.cpu() for t in captured])
            taken = pairs_of(graph.replay, lambda: run(*part.example), 51)  # noqa: B023
            record["eager time / graph"] = ratios(taken)
            record["graph us"] = 1e6 * float(np.median([own.wall for own, _ in taken]))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


SECTIONS: dict[str, tuple[Callable[[Check], None], float]] = {  # with their shares of the time
    "correctness": (correctness, 0.27),
    "memory": (memory, 0.12),
    "graphs": (graphs, 0.08),
    "training": (training, 0.16),
    "speed": (speed, 0.2),
    "compiled": (compiled, 0.17),
}


def in_processes(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run every section in a process of its own, and return what all of them report."""
    report: dict[str, Any] = {}
    end = time.monotonic()
    for section, (_, share) in SECTIONS.items():
        end += share * chosen.seconds  # time that a section leaves is the next one's
        left = max(end - time.monotonic(), 1)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "section.json")
            command = [
                sys.executable,
                __file__,
                "--section",
                section,
                "--out",
                str(out),
                "--device",
                chosen.device,
            ]
            command += ["--seconds", str(left), *["--quick"] * chosen.quick]
            try:
                code = subprocess.run(command, timeout=left + 30, check=False).returncode
                problem = f"ended with exit code {code}" if code else None
            except subprocess.TimeoutExpired:
                problem = "stopped: no time left"
            for name, parts in (json.loads(out.read_text()) if out.exists() else {}).items():
                report.setdefault(name, {}).update(parts)
        if problem:
            report[f"process of {section}"] = {"itself": {"error": problem}}
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    arguments.add_argument("--seconds", type=float, default=440, help="start no part after this time")
    arguments.add_argument("--quick", action="store_true", help="few models and repetitions")
    arguments.add_argument("--section", choices=SECTIONS, help="run this one in this process")
    arguments.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    chosen = arguments.parse_args()
    if chosen.section:
        set_tf32("fp32")
        check = Check(chosen.device, chosen.quick, time.monotonic() + chosen.seconds, chosen.out)
        with check.part("environment", chosen.section) as record:
            record.update(environment.describe().model_dump(mode="json"))
        SECTIONS[chosen.section][0](check)
        return
    report = in_processes(chosen)
    failed = [
        f"{section}/{name}" for section, parts in report.items() for name in parts if "error" in parts[name]
    ]
    print(f"{len(failed)} failed: {', '.join(failed) or 'none'}; {chosen.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
