"""Profile what bounds the speed of a backend: time inside the exported parts of a model and outside of them.

    python benchmarks/backend_profile.py [--models fcn-8s attention] [--backends openvino] [--clock cpu]

The trials are those of the suite `deploy` in fp32, with its weights, data and batch sizes. Per backend, the
script prints the time of a batch, the share of it inside the exported parts, and the speed relative to eager,
of the whole and of the parts alone. If a share p of eager's time is inside, a backend can be at most
1 / (1 - p) times as fast (Amdahl 1967), because the rest (preprocessing, selection of regions and boxes,
search) is the adapter's code under every backend. Last come eager's operations by their own time.

On a machine that does other work, `--clock cpu --threads 1` gives shares of this process's CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from harness.adapter import ADAPTERS, Adapter
from harness.backends.backend import missing_packages, substitute
from harness.stages.export import attach_backend
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.task import Sample
from harness.trial import Trial

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
SUITE = Path(__file__).parents[1] / "suites/deploy.yaml"


def loaded(trial: Trial) -> Adapter:
    """Return the model of a trial, run by its backend."""
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options(**trial.options), trial.runtime("cpu"))
    checkpoint = trial.load_checkpoint()
    adapter.load(checkpoint)
    attach_backend(trial, adapter, checkpoint)
    return adapter


def batch_of(trial: Trial) -> list[Sample]:
    """Return the first batch of the trial's data."""
    data = trial.dataset.open()
    return [Sample(data[index].id, data[index].input) for index in range(trial.spec.batch_size)]


def count_time(adapter: Adapter, clock: Clock) -> dict[str, float]:
    """Let the parts of a model add the seconds of their calls to the returned dictionary."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            started = clock()
            try:
                return method(*arguments)
            finally:
                seconds[name] += clock() - started

        return call

    for name, part in adapter.exportable().items():
        substitute(part, timed(name, getattr(part.module, part.method)))
    return seconds


def measure(trial: Trial, repetitions: int, clock: Clock) -> tuple[float, dict[str, float]]:
    """Return the median seconds of a batch, and those inside each part."""
    adapter, batch = loaded(trial), batch_of(trial)
    seconds = count_time(adapter, clock)
    for _ in range(2):  # the first call compiles
        adapter.predict(batch)
    totals, parts = [], []
    for _ in range(repetitions):
        seconds.clear()
        started = clock()
        adapter.predict(batch)
        totals.append(clock() - started)
        parts.append(dict(seconds))
    return float(np.median(totals)), {name: float(np.median([p[name] for p in parts])) for name in parts[0]}


def operations(trial: Trial, top: int) -> list[tuple[str, float, int]]:
    """Return eager's most expensive operations: name, share of the time of all operations, and calls."""
    adapter, batch = loaded(trial), batch_of(trial)
    adapter.predict(batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        adapter.predict(batch)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / total, event.count) for event in events[:top]]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--models", nargs="+", default=["fcn-8s", "faster-rcnn", "attention"])
    arguments.add_argument("--backends", nargs="+", default=["compile", "onnxruntime", "openvino"])
    arguments.add_argument("--repetitions", type=int, default=5)
    arguments.add_argument("--top", type=int, default=8)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--clock", choices=CLOCKS, default="wall")
    chosen = arguments.parse_args()
    clock = CLOCKS[chosen.clock]
    torch.set_num_threads(chosen.threads)
    trials = {
        (trial.spec.adapter, trial.spec.backend): trial
        for trial in plan(load_suite(SUITE)).trials
        if trial.spec.precision == "fp32"
    }
    print(
        "| model | backend | ms per batch | inside the parts | speed | speed of the parts |\n"
        + "|---" * 6
        + "|"
    )
    for model in chosen.models:
        eager = measure(trials[model, "eager"], chosen.repetitions, clock)
        inside = sum(eager[1].values())
        for backend in ["eager", *chosen.backends]:
            if missing_packages(backend):
                continue
            total, parts = (
                eager if backend == "eager" else measure(trials[model, backend], chosen.repetitions, clock)
            )
            own = sum(parts.values())
            listed = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in parts.items())
            figures = f"{1e3 * total:.1f} | {own / total:.0%} ({listed}) | {eager[0] / total:.2f}×"
            print(f"| {model} | {backend} | {figures} | {inside / own:.2f}× |", flush=True)
        print(f"| {model} | bound | | | {eager[0] / max(eager[0] - inside, 1e-9):.2f}× | |")
    for model in chosen.models:
        print(f"\n{model}, eager: operations by their own time")
        for name, share, count in operations(trials[model, "eager"], chosen.top):
            print(f"- {share:.0%} `{name}` ({count} calls)")


if __name__ == "__main__":
    main()
