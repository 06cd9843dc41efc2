"""The training loop: AdamW, linear warm-up, cosine decay, gradient clipping, early stopping.

The samples and the randomness of a step depend only on (seed, step), and the state is saved at each
validation. On the same CPU and with the same number of threads, a training that is killed and restarted
therefore ends with the same weights to the bit.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from harness.adapter import Adapter, Runtime, TrainableAdapter
from harness.datasets.dataset import Dataset
from harness.errors import HarnessError
from harness.metrics.metric import AnyMetric
from harness.recipe import Recipe, Report, TrainingStep
from harness.stages.schedule import STEP, batch_indices, learning_rate
from harness.stages.training_state import TrainingState, read_state, write_state
from harness.task import Sample, Scores

REPORT_SECONDS = 1.0  # between two lines of progress
CACHE_BYTES = 512 << 20  # of training samples; a sample of `scenes` has 64 KB and takes 7 ms to create


def evaluate(
    adapter: Adapter, samples: list[Sample], metric: AnyMetric, batch_size: int, intervals: bool
) -> Scores:
    """Predict samples and score them, with or without intervals."""
    statistics: list[object] = []
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        predictions = adapter.predict([Sample(sample.id, sample.input) for sample in batch])
        statistics += [
            metric.statistics(sample.target, prediction)
            for sample, prediction in zip(batch, predictions, strict=True)
        ]
    return metric.summarise(statistics, intervals)


class SampleCache:
    """A data set that keeps samples in memory after reading them, up to CACHE_BYTES of inputs."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._samples: dict[int, Sample] = {}
        self._bytes = 0

    def __getitem__(self, index: int) -> Sample:
        if index in self._samples:
            return self._samples[index]
        sample = self.dataset[index]
        size = getattr(sample.input, "nbytes", None) or sys.getsizeof(sample.input)
        if self._bytes + size <= CACHE_BYTES:
            self._samples[index] = sample
            self._bytes += size
        return sample


@dataclass
class TrainingLoop:
    """The loop and everything that it works on. The adapter's module has been built."""

    recipe: Recipe
    adapter: TrainableAdapter
    samples: SampleCache
    """The training samples."""
    validation_samples: list[Sample]
    metric: AnyMetric
    report: Report
    on_state_saved: Callable[[Path], None] | None = None
    """Called with the state file whenever it has been written."""

    def __post_init__(self) -> None:
        self._size_of = cache(lambda index: self.adapter.bucketing_key(self.samples[index]))
        # Since the last validation: units trained on (see `TrainableAdapter.training_units`), and their time.
        self._units: Counter[str] = Counter()
        self._step_seconds = 0.0
        self._figure = ""  # headline figure of the last validation

    def run(self, state_file: Path) -> TrainingState:
        """Train until the last step or until patience runs out, from the state file if there is one."""
        recipe = self.recipe
        optimiser = torch.optim.AdamW(
            self.adapter.module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        state = self._resume(state_file, optimiser)
        first, started = state.step, time.perf_counter()
        wall, cpu = started - state.wall_seconds, time.process_time() - state.cpu_seconds
        reported, loss_sum = started, 0.0
        patience = recipe.patience or math.inf
        while state.step < recipe.steps and state.validations_since_best < patience:
            loss = self._step(optimiser, state.step)
            loss_sum += loss
            state.step += 1
            now = time.perf_counter()
            if now - reported > REPORT_SECONDS:
                rate, reported = (state.step - first) / (now - started), now
                self.report(TrainingStep(state.step, recipe.steps, loss, self._figure, rate))
            if state.step % recipe.validate_every == 0 or state.step == recipe.steps:
                steps = (state.step - 1) % recipe.validate_every + 1
                self.adapter.module.eval()
                samples, size = self.validation_samples, recipe.batch_size
                scores = evaluate(self.adapter, samples, self.metric, size, intervals=False)
                state.wall_seconds, state.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
                self._record(scores, state, loss_sum / steps)
                state.module, state.optimiser = self.adapter.module.state_dict(), optimiser.state_dict()
                write_state(state, state_file)
                if self.on_state_saved:
                    self.on_state_saved(state_file)
                loss_sum = 0.0
        return state

    def _resume(self, state_file: Path, optimiser: torch.optim.Optimizer) -> TrainingState:
        """Return the state to start from, with its weights loaded."""
        identity = f"{self.recipe.hash}:{self.samples.dataset.fingerprint}"
        state = read_state(state_file, identity) or TrainingState(identity)
        if state.step:
            self.adapter.module.load_state_dict(state.module)
            optimiser.load_state_dict(state.optimiser)
            self.report(f"continuing at step {state.step}")
        return state

    def _step(self, optimiser: torch.optim.Optimizer, step: int) -> float:
        """Make one optimiser step and return the loss."""
        started = time.perf_counter()
        generator = np.random.default_rng([self.recipe.seed, STEP, step])
        torch.manual_seed(int(generator.integers(2**63)))  # dropout
        pooled, fraction = self.adapter.pooled_batches, self.adapter.curriculum_fraction(step)
        size = len(self.samples.dataset)
        indices = batch_indices(self.recipe, step, size, pooled, self._size_of, fraction)
        samples = [self.samples[index] for index in indices]
        batch = self.adapter.training_batch(samples, generator)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        module = self.adapter.module.train()
        with autocast(self.adapter.runtime):
            terms = self.adapter.loss(batch)
        total = torch.stack(list(terms.values())).sum()
        loss = total.item()
        if not math.isfinite(loss):
            values = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
            raise HarnessError(
                f"training {self.recipe.adapter}: the loss is {loss} at step {step} ({values})"
            )
        optimiser.zero_grad()
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.recipe.clip_norm)
        optimiser.step()
        self._units.update(self.adapter.training_units(batch))
        self._step_seconds += time.perf_counter() - started
        return loss

    def _record(self, scores: Scores, state: TrainingState, loss: float) -> None:
        """Keep the current weights if they are the best so far, and extend the history."""
        headline = self.metric.names[0]
        figure = scores.metrics[headline]
        value = figure.value
        sign = -1 if figure.better == "lower" else 1
        is_best = not state.best or (value is not None and sign * value > state.best_value)
        state.validations_since_best = 0 if is_best else state.validations_since_best + 1
        if is_best:
            state.best_value = -math.inf if value is None else sign * value
            state.best = {name: tensor.clone() for name, tensor in self.adapter.module.state_dict().items()}
        entry: dict[str, float] = {"step": state.step, "loss": round(loss, 5)}
        if value is not None:
            entry[headline] = round(value, 5)
        entry |= {
            "wall_seconds": round(state.wall_seconds, 1),
            "cpu_seconds": round(state.cpu_seconds, 1),
            **{f"{name}_per_second": round(n / self._step_seconds) for name, n in self._units.items()},
        }
        state.history.append(entry)
        self._units.clear()
        self._step_seconds = 0.0
        mark = " (best)" if is_best else ""
        self._figure = f"{headline} {'undefined' if value is None else f'{value:.4f}'}"
        self.report(TrainingStep(state.step, self.recipe.steps, loss, self._figure + mark))


def autocast(runtime: Runtime) -> torch.autocast:
    """Return the autocast context of a runtime: bf16 has the range of fp32, so the loss needs no scaling."""
    device = torch.device(runtime.device).type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=runtime.precision == "bf16")
