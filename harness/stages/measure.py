"""The measure stage: time one trial in its own process, with the same adapter code as for predictions."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness import environment
from harness.adapter import ADAPTERS, Adapter, TranslationAdapter
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import Dataset
from harness.environment import Environment
from harness.rundir.results import ArtefactRecord, Cost
from harness.rundir.speed import CommonFile
from harness.scenarios.loop import Workload, fixed_queries, window_length
from harness.scenarios.scenario import SCENARIOS, Conditions, ProcessTiming, TimedOn
from harness.scenarios.settings import PROFILES, EffectiveSettings, Exclusive, Profile, SpeedSettings
from harness.scenarios.warm_up import warm_up
from harness.stages.device import pick_device, set_tf32, torch_flags
from harness.stages.export import attach_backend
from harness.stages.sensors import Gpu, Machine, Sensors
from harness.task import Prediction, Sample
from harness.trial import Trial


@dataclass(frozen=True)
class Measurement:
    """All measurements of a trial by one process."""

    environment: Environment
    settings: EffectiveSettings
    samples: list[str]
    """Ids of the timed samples, in the order of their indices."""
    units: dict[str, list[int]]
    """Other units of work, such as source_tokens, and their number per sample."""
    timings: dict[str, ProcessTiming]
    """By scenario."""
    common: CommonFile
    classes: tuple[str, ...] = ()
    """Label names of the model (see `Adapter.classes`)."""

    def on_node(self, node: str, reserved: Mapping[str, float]) -> Measurement:
        """Return a copy that records the node's name on the cluster and the resources reserved there."""
        update = {"node": node, "reserved": dict(reserved)}
        timings = {
            name: timing.model_copy(update={"timed_on": timing.timed_on.model_copy(update=update)})
            for name, timing in self.timings.items()
        }
        return replace(self, timings=timings)


def measure(
    trial: Trial,
    checkpoint: Checkpoint | None,
    scenarios: Sequence[str],
    settings: SpeedSettings,
    count_flops: bool = True,
) -> Measurement:
    """Time a trial in this process, which must do nothing else."""
    bench = load_bench(trial, settings, checkpoint, count_flops)
    size, profile = trial.spec.batch_size, PROFILES[settings.profile]
    timings: dict[str, ProcessTiming] = {}
    for name in scenarios:
        work, conditions = prepare(name, bench, size, profile)
        timings[name] = SCENARIOS.get(name).run(work, profile, conditions)
    digests = {f"artefact {file.name}": file.sha256 for file in bench.artefacts}
    return Measurement(
        environment=environment.describe(),
        settings=EffectiveSettings(
            **dict(settings), effective_threads=bench.threads, device=bench.adapter.runtime.device
        ),
        samples=[sample.id for sample in bench.samples],
        timings=timings,
        units=_work_units(bench),
        common=CommonFile(phases=_phases(bench, size), cost=_cost(bench), flags=torch_flags() | digests),
        classes=tuple(bench.adapter.classes),
    )


@dataclass
class Bench:
    """A loaded model, its resources, and the samples on which it is timed."""

    adapter: Adapter
    samples: list[Sample]
    """Decoded inputs."""
    synchronise: Callable[[], None]
    """Waits until the device has finished its queued work."""
    flops: float | None
    """Per sample, counted before a backend took over, because torch does not see its operations."""
    artefacts: list[ArtefactRecord]
    threads: int
    gpu: str
    """UUID of the GPU; empty on a CPU."""
    settings: SpeedSettings
    predictions: dict[int, Prediction] = field(default_factory=dict)
    """By index of the sample, from the warm-up."""
    predicted: int = 0
    """Number of samples so far."""

    def predict(self, indices: list[int]) -> list[Prediction]:
        self.predicted += len(indices)
        return self.adapter.predict([self.samples[index] for index in indices])


def load_bench(
    trial: Trial, settings: SpeedSettings, checkpoint: Checkpoint | None = None, count_flops: bool = False
) -> Bench:
    """Load the model of a trial, by default from its file, and decode the samples on which it is timed."""
    import torch

    dataset, checkpoint = trial.open_planned_dataset(), checkpoint or trial.load_checkpoint()
    device = pick_device(trial.spec.device, trial.spec.precision)
    set_tf32(trial.spec.precision)
    on_gpu = device == "cuda"
    exclusive: Exclusive = settings.exclusive if on_gpu else "node"
    processes = max(1, len(environment.describe().gpus)) if exclusive == "gpu" else 1
    threads = settings.threads or max(1, environment.usable_cores() // processes)
    torch.set_num_threads(threads)
    cls = ADAPTERS.get(trial.spec.adapter)
    adapter = cls(cls.Options(**trial.options), trial.runtime(device))
    adapter.load(checkpoint)
    samples = _samples(dataset, trial, settings.whole_batches(trial.spec.batch_size))
    flops = adapter.flops(samples[:1]) if count_flops else None  # imports modules for seconds
    artefacts = attach_backend(trial, adapter, checkpoint)
    return Bench(
        adapter,
        samples,
        torch.cuda.synchronize if on_gpu else lambda: None,
        flops,
        artefacts,
        threads,
        str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if on_gpu else "",
        settings,
    )


def _samples(dataset: Dataset, trial: Trial, count: int) -> list[Sample]:
    """Decode this many inputs; repeat samples if the data set has too few."""
    loaded = [dataset[index] for index in range(min(count, trial.spec.size))]
    inputs = [Sample(sample.id, sample.input) for sample in loaded]
    return [inputs[index % len(inputs)] for index in range(count)]


def prepare(
    name: str,
    bench: Bench,
    batch_size: int,
    profile: Profile,
    part: slice = slice(None),
    window: int = 0,
    tenants: int = 1,
) -> tuple[Workload, Callable[[], Conditions]]:
    """Warm a model up for a scenario, which also fills `bench.predictions`, and return its conditions too.

    Args:
        part: Queries of a pass that are timed; by default all.
        window: Queries per window, or 0 to choose their number from the time of a pass.
        tenants: Number of processes that are timed in turns. The energy of several is not known apart.
    """
    size = SCENARIOS.get(name).query_size(batch_size)
    queries = fixed_queries(len(bench.samples), size)[part]

    def run_pass() -> int:
        for query in queries:
            bench.predictions.update(zip(query, bench.predict(query), strict=True))
        bench.synchronise()
        return len(queries)

    started = datetime.now(UTC)
    warm = warm_up(run_pass, time.perf_counter_ns, profile)
    machine = Machine((os.cpu_count() or 1) - bench.threads)
    sensors = Sensors([Gpu(bench.gpu, tenants), machine] if bench.gpu else [machine])
    work = Workload(
        bench.predict,
        bench.synchronise,
        queries,
        np.random.default_rng(os.getpid()),
        window or window_length(warm.curve[-1][1], len(queries)),
        check=sensors.check,
        reset=sensors.reset,
        server=bench.settings.server,
    )
    before = bench.predicted

    def conditions() -> Conditions:
        timed_on = TimedOn(
            node=platform.node(),
            reserved={},
            started=started.isoformat(),
            finished=datetime.now(UTC).isoformat(),
            foreign_cores=machine.foreign_cores(),
            governor=machine.governor,
            readings=sensors.spreads(),
            windows=sensors.windows,
            disturbed=dict(sensors.disturbed),
            joules_per_sample=None if tenants > 1 else sensors.joules_per_sample(bench.predicted - before),
        )
        reasons = sensors.why_not_valid()
        if not warm.stable:
            reasons.append(f"warm-up: passes still became faster after {warm.seconds:.0f} s")
        return Conditions(batch_size=size, warm_up=warm, timed_on=timed_on, reasons=reasons)

    return work, conditions


def _work_units(bench: Bench) -> dict[str, list[int]]:
    """Return the tokens of each sample by kind, or nothing if the adapter does not translate."""
    if not isinstance(bench.adapter, TranslationAdapter):
        return {}
    predictions = [bench.predictions[index] for index in range(len(bench.samples))]
    return bench.adapter.work_units(bench.samples, predictions)


def _phases(bench: Bench, batch_size: int) -> dict[str, list[float]]:
    """Time the phases in seconds per sample, separately because their synchronisation distorts throughput."""
    adapter, samples, synchronise = bench.adapter, bench.samples, bench.synchronise
    durations: dict[str, list[float]] = {"preprocess": [], "model": [], "postprocess": []}

    def time_phase(phase: str, function: Callable[..., Any], *arguments: object) -> Any:
        synchronise()
        start = time.perf_counter()
        result = function(*arguments)
        synchronise()
        durations[phase].append((time.perf_counter() - start) / batch_size)
        return result

    adapter.predict(samples[:batch_size])  # single-stream may have been last
    for repeat in range(PROFILES[bench.settings.profile].passes):  # their median counts
        first = (repeat * batch_size) % len(samples)
        batch = time_phase("preprocess", adapter.preprocess, samples[first : first + batch_size])
        raw = time_phase("model", adapter.forward, batch)
        time_phase("postprocess", adapter.postprocess, raw, batch)
    return {phase: [float(np.median(seconds))] for phase, seconds in durations.items()}


def _cost(bench: Bench) -> Cost:
    import torch

    return Cost(
        parameters=bench.adapter.parameters(),
        flops=bench.flops,
        peak_memory_bytes=int(torch.cuda.max_memory_allocated()) if bench.gpu else peak_resident(),
    )


def peak_resident() -> int | None:
    """Return the peak resident size of this process in bytes, or None if the system does not report it.

    `ru_maxrss` is not suitable: a process inherits it from its parent, so a small model would be charged with
    the driver's memory.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
