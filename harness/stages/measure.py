"""Measure: one trial's speed in a process of its own, through the same adapter code as its accuracy."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import environment
from harness.adapter import ADAPTERS, Adapter
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import Dataset
from harness.stages import timing
from harness.stages.disturbance import CpuLoad, disturbances, others_on_gpu
from harness.stages.predict import pick_device
from harness.suite.profiles import PROFILES, Exclusive, Profile
from harness.task import Prediction, Sample
from harness.trial import Trial

PHASE_REPEATS = 8


@dataclass(frozen=True)
class SpeedSettings:
    """What is asked for; the effective values are recorded beside the measurements."""

    profile: str
    threads: int | None
    samples: int
    exclusive: Exclusive = "node"

    def deadline(self, scenarios: int) -> float:
        """Seconds after which a process that times so many scenarios is taken to hang.

        Ten times what the profile asks for at a query a second, and ten minutes to load.
        """
        profile = PROFILES[self.profile]
        return 10 * scenarios * (profile.warmup_cap + max(profile.seconds, profile.queries)) + 600


def measure(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> dict[str, Any]:
    """Time a trial in this process, which must do nothing else.

    Returns raw measurements by scenario, durations by phase, cost, and the environment.
    """
    import torch

    dataset = trial.check_here()
    device = pick_device(trial.spec.device)
    described = environment.describe()
    exclusive = settings.exclusive if device == "cuda" else "node"
    share = max(1, len(described["gpus"])) if exclusive == "gpu" else 1
    threads = settings.threads or max(1, environment.usable_cores() // share)
    torch.set_num_threads(threads)
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options(**trial.spec.options), trial.runtime(device))
    adapter.load(checkpoint)
    samples = _samples(dataset, trial, settings.samples)
    profile = PROFILES[settings.profile]

    predictions: dict[int, Prediction] = {}  # by sample, from the warm-up

    def run(indices: list[int]) -> list[Prediction]:
        return adapter.predict([samples[index] for index in indices])

    synchronise: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if device == "cuda" else ""

    def disturbed(foreign: float) -> list[str]:
        spare = (os.cpu_count() or 1) - threads
        return disturbances(exclusive, foreign, spare, others_on_gpu(gpu) if gpu else 0)

    size = trial.spec.batch_size
    measured = {
        name: _scenario(name, run, synchronise, profile, len(samples), size, predictions, disturbed)
        for name in scenarios
    }
    return {
        "environment": described,
        "settings": asdict(settings) | {"effective_threads": threads, "device": device},
        "samples": [sample.id for sample in samples],
        "units": adapter.units(samples, [predictions[index] for index in range(len(samples))]),
        "flags": {
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        },
        "scenarios": measured,
        "phases": _phases(adapter, samples, synchronise, trial.spec.batch_size),
        "cost": _cost(adapter, samples[:1], device),
    }


def _samples(dataset: Dataset, trial: Trial, wanted: int) -> list[Sample]:
    """Decoded inputs: a whole number of batches, samples repeated where the data set has too few."""
    size = trial.spec.batch_size
    count = -(-wanted // size) * size
    loaded = [dataset[index] for index in range(min(count, trial.spec.size))]
    inputs = [Sample(sample.id, sample.input) for sample in loaded]
    return [inputs[index % len(inputs)] for index in range(count)]


def _scenario(
    name: str,
    run: Callable[[list[int]], list[Prediction]],
    synchronise: Callable[[], None],
    profile: Profile,
    count: int,
    batch_size: int,
    predictions: dict[int, Prediction],
    disturbed: Callable[[float], list[str]],
) -> dict[str, Any]:
    """Warm up, which fills `predictions`, and time.

    Args:
        disturbed: says why so many cores that others kept busy, and whatever else, spoil a timing.
    """
    clock = time.perf_counter_ns
    size = batch_size if name == "offline" else 1
    orders = timing.permutations(count, seed=0)

    def one_pass() -> int:
        groups = list(timing.batches(next(orders), size))
        for group in groups:
            predictions.update(zip(group, run(group), strict=True))
        synchronise()
        return len(groups)

    started = datetime.now(UTC)
    warm = timing.warm_up(one_pass, clock, profile)
    busy = CpuLoad()
    result: dict[str, Any] = {}
    if name == "offline":
        result["windows"] = timing.offline(run, synchronise, clock, profile, count, size, orders)
    else:
        timed: list[list[int]] = []
        noted = _noting(orders, timed)
        result["latencies_ns"] = timing.single_stream(run, synchronise, clock, profile, noted)
        result["indices"] = [index for order in timed for index in order]
    foreign, others = busy.foreign_cores(), busy.others()
    reasons = [] if warm.stable else [f"warm-up: no steady state after {warm.seconds:.1f} s"]
    reasons += disturbed(foreign)
    return result | {
        "batch_size": size,
        "warm_up": asdict(warm),
        "timed_on": {
            "node": platform.node(),
            "reserved": {},
            "started": started.isoformat(),
            "finished": datetime.now(UTC).isoformat(),
            "foreign_cores": foreign,
            "others": others,
        },
        "reasons": reasons,
    }


def _noting(orders: Iterator[list[int]], taken: list[list[int]]) -> Iterator[list[int]]:
    """The same orders; those that were asked for stand in `taken`."""
    for order in orders:
        taken.append(order)
        yield order


def _phases(
    adapter: Adapter, samples: Sequence[Sample], synchronise: Callable[[], None], batch_size: int
) -> dict[str, list[float]]:
    """Seconds a sample by phase, from a pass of its own: its synchronisations would distort throughput."""
    durations: dict[str, list[float]] = {"preprocess": [], "model": [], "postprocess": []}
    for repeat in range(PHASE_REPEATS):
        first = (repeat * batch_size) % len(samples)
        chosen = samples[first : first + batch_size]
        synchronise()
        stamps = [time.perf_counter_ns()]
        batch = adapter.preprocess(chosen)
        synchronise()
        stamps.append(time.perf_counter_ns())
        raw = adapter.forward(batch)
        synchronise()
        stamps.append(time.perf_counter_ns())
        adapter.postprocess(raw, batch)
        synchronise()
        stamps.append(time.perf_counter_ns())
        for phase, start, end in zip(durations, stamps, stamps[1:], strict=False):
            durations[phase].append((end - start) / 1e9 / len(chosen))
    return durations


def _cost(adapter: Adapter, sample: Sequence[Sample], device: str) -> dict[str, Any]:
    """Parameters, FLOPs of one sample, and the most memory this process (or its GPU) held.

    On a CPU the memory is the process's peak resident size, libraries included.
    """
    import torch

    if device == "cuda":
        memory: int | None = int(torch.cuda.max_memory_allocated())
    else:
        memory = peak_resident()
    return {
        "parameters": adapter.parameters(),
        "flops": adapter.flops(sample),
        "peak_memory_bytes": memory,
    }


def peak_resident() -> int | None:
    """The most memory that this process has held, bytes; None where the system does not say.

    Not `ru_maxrss`, which a process inherits from the one that started it: of a small model it would tell
    what the driver held.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
