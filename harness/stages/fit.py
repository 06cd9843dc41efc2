"""The training loop: AdamW, linear warm-up, cosine decay, gradient clipping, early stopping.

Every step draws its samples and its randomness from (seed, step) alone, and the state is written at each
validation: a training that was killed and is started again ends, on the same CPU and number of threads,
with the same weights to the bit.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.adapter import Adapter, Runtime, TrainableAdapter
from harness.datasets.dataset import Dataset
from harness.errors import HarnessError
from harness.metrics.metric import Metric
from harness.recipe import Recipe
from harness.stages.data_parallel import ALONE, Loss, Part, shared_loss
from harness.stages.training_state import TrainingState, read_state, write_state
from harness.task import Sample, Scores

Report = Callable[[str], None]

REPORT_SECONDS = 15.0
CACHED = 512 << 20  # bytes of training samples kept in memory; scenes: 64 KB and 7 ms to make each
SHUFFLE, STEP, POOL = 0, 1, 2  # what a random stream is for


def evaluate(
    adapter: Adapter, samples: list[Sample], metric: Metric, batch_size: int, resamples: int
) -> Scores:
    """Predict samples and score them; 0 resamples: no intervals."""
    statistics: list[Any] = []
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        predictions = adapter.predict([Sample(sample.id, sample.input) for sample in batch])
        statistics += [metric.statistics(s.target, p) for s, p in zip(batch, predictions, strict=True)]
    return metric.summarise(statistics, resamples)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of the 0-based step: linear from 0 over the warm-up, then half a cosine to the final fraction."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    floor = recipe.final_learning_rate
    return recipe.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def batch_indices(
    recipe: Recipe,
    step: int,
    size: int,
    pooled: int = 1,
    size_of: Callable[[int], int] | None = None,
    competence: float = 1.0,
) -> list[int]:
    """Which of `size` samples step number `step` sees: consecutive items of one permutation per epoch.

    The samples of `pooled` batches are sorted by size before they are cut into batches, and these take turns
    at random (see `TrainableAdapter.pooled_batches`). Below a competence of 1 only the first of them do.
    """
    turn = step % pooled
    places = range((step - turn) * recipe.batch_size, (step - turn + pooled) * recipe.batch_size)
    pool = [int(_order(recipe.seed, place // size, size)[place % size]) for place in places]
    if pooled > 1:
        pool.sort(key=size_of)
        turns = np.random.default_rng([recipe.seed, POOL, step - turn]).permutation(pooled)
        turn = int(turns[turn] * competence)
    return pool[turn * recipe.batch_size : (turn + 1) * recipe.batch_size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, SHUFFLE, epoch]).permutation(size)


@dataclass
class Fit:
    """The loop and what it works on; the adapter has been built."""

    recipe: Recipe
    adapter: TrainableAdapter
    data: Dataset
    held_out: list[Sample]
    metric: Metric
    report: Report
    part: Part = ALONE
    kept: Callable[[Path], None] | None = None
    """Called with the state file whenever it has been written."""
    cache: dict[int, Sample] = field(default_factory=dict)
    cached: int = 0
    """Bytes of the inputs in the cache."""
    sizes: dict[int, int] = field(default_factory=dict)
    """Of samples, see `TrainableAdapter.training_size`."""
    units: Counter[str] = field(default_factory=Counter)
    """What was trained on since the last validation: see `TrainableAdapter.training_units`."""
    step_seconds: float = 0.0
    """That took so long, without the validation."""

    def run(self, state_file: Path) -> TrainingState:
        """Train from the state file, if there is one, to the end or until patience runs out."""
        recipe, module = self.recipe, self.adapter.module
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        identity = f"{recipe.hash}:{self.data.fingerprint}"
        state = read_state(state_file, identity) or TrainingState(identity)
        if state.step:
            module.load_state_dict(state.module)
            optimiser.load_state_dict(state.optimiser)
            self.report(f"continuing at step {state.step}")
        loss_of = shared_loss(self.adapter, self.part)
        clock = _Clock(state.wall_seconds, state.cpu_seconds)
        told, first, total = time.perf_counter(), state.step, 0.0
        started = told
        while state.step < recipe.steps and not self._out_of_patience(state):
            loss = self._step(optimiser, loss_of, state.step)
            total += loss
            state.step += 1
            now = time.perf_counter()
            if now - told > REPORT_SECONDS:
                told = now
                self.report(_progress(state.step, recipe.steps, loss, (state.step - first) / (now - started)))
            if state.step % recipe.validate_every == 0 or state.step == recipe.steps:
                since = (state.step - 1) % recipe.validate_every + 1
                if self.part.leads:
                    self._validate(state, total / since, clock)
                    state.module, state.optimiser = module.state_dict(), optimiser.state_dict()
                    write_state(state, state_file)
                    if self.kept:
                        self.kept(state_file)
                state.validations_since_best = self.part.told(state.validations_since_best)
                total = 0.0
        return state

    def _step(self, optimiser: torch.optim.Optimizer, loss_of: Loss, step: int) -> float:
        """One optimiser step; returns the loss over the whole batch.

        Raises:
            HarnessError: the loss is NaN or infinite.
        """
        started = time.perf_counter()
        generator = np.random.default_rng(self.part.stream(self.recipe.seed, STEP, step))
        torch.manual_seed(int(generator.integers(2**63)))  # dropout
        batch = self.adapter.training_batch(self._samples(step), generator)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        module = self.adapter.module.train()
        with autocast(self.adapter.runtime):
            terms = loss_of(batch)
        total = torch.stack(list(terms.values())).sum()
        loss = self.part.total(total.item()) / self.part.of
        if not math.isfinite(loss):
            parts = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
            raise HarnessError(f"training {self.recipe.adapter}: the loss is {loss} at step {step} ({parts})")
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.recipe.clip_norm)
        optimiser.step()
        self.units.update(self.adapter.training_units(batch))
        self.step_seconds += time.perf_counter() - started
        return loss

    def _samples(self, step: int) -> list[Sample]:
        pooled, competence = self.adapter.pooled_batches, self.adapter.competence(step)
        batch = batch_indices(self.recipe, step, len(self.data), pooled, self._size, competence)
        return [self._sample(index) for index in self.part.share(batch)]

    def _sample(self, index: int) -> Sample:
        if index in self.cache:
            return self.cache[index]
        sample = self.data[index]
        size = getattr(sample.input, "nbytes", None) or sys.getsizeof(sample.input)
        if self.cached + size <= CACHED:
            self.cache[index] = sample
            self.cached += size
        return sample

    def _size(self, index: int) -> int:
        if index not in self.sizes:
            self.sizes[index] = self.adapter.training_size(self._sample(index))
        return self.sizes[index]

    def _validate(self, state: TrainingState, loss: float, clock: _Clock) -> None:
        """Score the current weights, keep them if they are the best so far, and note it in the history."""
        self.adapter.module.eval()
        headline = self.metric.names[0]
        scores = evaluate(self.adapter, self.held_out, self.metric, self.recipe.batch_size, resamples=0)
        value = scores.metrics[headline].value
        reached = -math.inf if value is None else value
        better = not state.best or reached > state.best_value
        state.validations_since_best = 0 if better else state.validations_since_best + 1
        if better:
            state.best_value = reached
            state.best = {name: tensor.clone() for name, tensor in self.adapter.module.state_dict().items()}
        state.wall_seconds, state.cpu_seconds = clock.read()
        entry = {"step": state.step, "loss": round(loss, 5)}
        if value is not None:
            entry[headline] = round(value, 5)
        seconds = {"wall_seconds": state.wall_seconds, "cpu_seconds": state.cpu_seconds}
        state.history.append(entry | {name: round(spent, 1) for name, spent in seconds.items()})
        state.history[-1] |= {
            f"{name}_per_second": round(count / self.step_seconds) for name, count in self.units.items()
        }
        self.units.clear()
        self.step_seconds = 0.0
        mark = " (best)" if better else ""
        self.report(f"step {state.step}/{self.recipe.steps}  loss {loss:.3f}  {headline} {reached:.4f}{mark}")

    def _out_of_patience(self, state: TrainingState) -> bool:
        return self.recipe.patience is not None and state.validations_since_best >= self.recipe.patience


class _Clock:
    """Seconds of this process, added to those of the processes before it."""

    def __init__(self, wall: float, cpu: float) -> None:
        self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def _progress(step: int, steps: int, loss: float, rate: float) -> str:
    minutes, seconds = divmod(round((steps - step) / rate), 60)
    return f"step {step}/{steps}  loss {loss:.3f}  {rate:.1f} steps/s  ETA {minutes}:{seconds:02d}"


def autocast(runtime: Runtime) -> torch.autocast:
    """bf16 where the runtime says so: it has the range of fp32, so the loss needs no scaling."""
    device = torch.device(runtime.device).type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=runtime.precision == "bf16")
