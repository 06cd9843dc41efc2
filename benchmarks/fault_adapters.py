"""Adapters that misbehave, between two that behave."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import yaml
from misbehaving import FAULTS
from rich.console import Console

from harness.driver.progress import RunProgress
from harness.driver.run import exit_code, run
from harness.driver.settings import RunSettings
from harness.executors.executor import Executor
from harness.executors.inline import InlineExecutor
from harness.rundir.results import Results, TrialRecord
from harness.suite.loading import load_suite

DEADLINE_SECONDS = 12.0  # for a shard, and for loading a model; the default of minutes would take hours
SIZE, SHARD = 12, 4  # samples
ENDLESS_SIZE = 2  # samples, in shards of 1, for faults that end at a deadline, at each of their tries


def misbehave(folder: Path, tries: int | None, seed: int, together: int, executor: str) -> Counter[str]:
    """Run misbehaving adapters in groups, each between two adapters that behave, and count how they ended.

    Args:
        tries: How many of FAULTS, drawn at random; None for all.
        executor: `ray` starts a local Ray of two workers for all groups.

    Returns:
        Outcome → faults: tried, noticed, did no harm; silent. Outcome → groups: figures changed, exit code.
    """
    names = random.Random(seed).sample([*FAULTS], tries or len(FAULTS))
    groups = []
    for endless in (False, True):
        alike = [name for name in names if FAULTS[name].hangs == endless]
        groups += [alike[first : first + together] for first in range(0, len(alike), together)]
    outcomes = Counter(dict.fromkeys(("tried", "noticed", "did no harm", "silent", "figures changed"), 0))
    outcomes["other exit code"] = 0
    with executor_of(executor) as execute:
        for number, group in enumerate(groups):
            outcomes.update(run_group(folder / f"group{number}", group, execute))
    return outcomes


@contextmanager
def executor_of(name: str) -> Iterator[AbstractContextManager[Executor]]:
    """Yield an executor with short deadlines, for several runs."""
    if name == "inline":
        yield InlineExecutor(first_deadline=DEADLINE_SECONDS, load_seconds=DEADLINE_SECONDS)
        return
    from harness.executors.ray.executor import RayExecutor

    with RayExecutor(max_workers=2, first_deadline=DEADLINE_SECONDS) as ray_executor:
        yield nullcontext(ray_executor)


def run_group(folder: Path, names: Sequence[str], executor: AbstractContextManager[Executor]) -> Counter[str]:
    """Run the adapters of a group between two that behave, and the two alone; return their outcomes."""
    folder.mkdir()
    size, shard = (ENDLESS_SIZE, 1) if FAULTS[names[0]].hangs else (SIZE, SHARD)
    alone = figures(run_suite(folder, [], size, shard, "alone", InlineExecutor()))
    results = run_suite(folder, names, size, shard, "run", executor)
    trials = {trial.variant: trial for trial in results.trials}
    outcomes = Counter(judge(name, trials[f"fault{number}"]) for number, name in enumerate(names))
    outcomes["tried"] = len(names)
    if {name: figures(results)[name] for name in alone} != alone:
        print(f"figures changed beside {', '.join(names)}: {figures(results)}, not {alone}", flush=True)
        outcomes["figures changed"] += 1
    whole = all(trial.status == "complete" for trial in results.trials)
    if exit_code(results) != (0 if whole else 3):
        print(f"exit code {exit_code(results)} with {', '.join(names)}", flush=True)
        outcomes["other exit code"] += 1
    return outcomes


def judge(name: str, trial: TrialRecord) -> str:
    """Return what became of a fault, and print it if its trial ended in another way than FAULTS says."""
    complete, reason = trial.status == "complete", trial.reason or ""
    named = "no answer within" if FAULTS[name].hangs else "first error: "
    if FAULTS[name].complete in (None, complete) and (complete or named in reason):
        return "did no harm" if complete else "noticed"
    print(f"{name}: {trial.status}, {reason or 'no reason'}", flush=True)
    return "silent"


def run_suite(
    folder: Path,
    names: Sequence[str],
    size: int,
    shard: int,
    out: str,
    executor: AbstractContextManager[Executor],
) -> Results:
    """Run these faults between two adapters that behave."""
    faults = {
        f"fault{number}": {"adapter": "misbehaving", "options": {"fault": name, "at": min(size - 1, 5)}}
        for number, name in enumerate(names)
    }
    last = {"adapter": "fake-translation", "options": {"drop": 2}}
    entries: dict[str, dict[str, object]] = {"first": {"adapter": "fake-translation"}, **faults, "last": last}
    suite = {
        "name": "adapters",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": size, "max_tokens": 12}}},
        "adapters": {name: {"batch_size": shard, **entry} for name, entry in entries.items()},
        "benchmarks": {"words": {"dataset": "few", "adapters": [*entries], "metrics": ["bleu", "chrf"]}},
    }
    path = folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    settings = RunSettings(folder / out, "harness run", shard_size=shard)
    return run(load_suite(path), settings, lambda: executor, RunProgress(Console(file=io.StringIO())))


def figures(results: Results) -> dict[str, object]:
    """Return the accuracy figures of each adapter, to the last digit."""
    return {
        trial.variant: {name: repr(figure) for name, figure in trial.metrics.items()}
        for trial in results.trials
    }
