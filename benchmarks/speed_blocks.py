"""Record long blocks of live processes that take turns, and judge many comparisons that are made of them.

    python benchmarks/speed_blocks.py record yolo blocks.npz --minutes 40
    python benchmarks/speed_blocks.py judge blocks.npz [--comparisons 300]

In a block, three fresh interpreters load a model of the quickstart: A and B are the same, C repeats one query
per window of twenty, which is 5% more work. They take turns in the timed loop of `offline` at batch size 1.
The file has every raw window.

The second mode draws comparisons from the blocks and judges them as the product does: *in turns*, by one pair
per block (`harness run --baseline-checkout`), and *apart*, by processes of consecutive blocks against those
of the following ones (`harness compare`). Slower and faster versions are B with its times multiplied. Under
drift, all times of the second half (of each block, or of the comparison) are 5% longer. Blocks are used many
times, so the shares are less precise than those of as many independent comparisons. The output is Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.compare.sequential import LOOKS, judge_pairs
from harness.compare.speed import slowdown
from harness.compare.speed_verdict import judge
from harness.decisions.policy import MAX_SLOWDOWN
from harness.scenarios.loop import Query, Window, Workload
from harness.scenarios.offline import Offline, OfflineProcess
from harness.scenarios.scenario import LOW, Conditions
from harness.scenarios.settings import Profile, SpeedSettings
from harness.stages.child import Child
from harness.stages.measure import Bench, load_bench, prepare
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.trial import Trial

MODELS = {"yolo": "digit-detection/yolo", "attention": "phrases-translation/attention-phrases"}
SAMPLES = 20  # also the queries of a window, so that one more is 5%
TURNS = 6
TURN = Profile(seconds=0.4, samples=1, processes=1, passes=1, warmup_seconds=1, warmup_cap=3)
PROCESSES = 7  # of a run that `harness compare` reads, as in profile `ci`
Raw = NDArray[np.float64]  # rows of turn, position of the window, seconds

_model: tuple[Workload, Callable[[], Conditions]]  # of a child


def begin(trial: Trial, extra: bool) -> None:
    """Load and warm up a model in a child."""
    global _model
    settings = SpeedSettings(profile="ci", threads=1, samples=SAMPLES, exclusive="node")
    bench = load_bench(trial, settings)
    work, conditions = prepare("offline", bench, 1, TURN, window=SAMPLES)
    queries = work.queries
    if extra:
        queries = [*queries, average_query(bench, queries)]
    _model = replace(work, queries=queries, window_queries=len(queries)), conditions


def average_query(bench: Bench, queries: Sequence[Query]) -> Query:
    """Return the query whose duration is nearest to the mean."""
    durations = []
    for query in queries:
        start = time.perf_counter()
        bench.predict(query)
        durations.append(time.perf_counter() - start)
    return queries[int(np.argmin(abs(np.array(durations) - np.mean(durations))))]


def turn() -> list[Window]:
    """Time a turn in a child."""
    work, conditions = _model
    return Offline.run(work, TURN, conditions).windows


def record(model: str, file: Path, minutes: float) -> None:
    """Record blocks until the time is over; the file is replaced after each block."""
    sys.path.insert(0, str(Path(__file__).parent))  # children import these functions from this file
    this = importlib.import_module("speed_blocks")
    trials = plan(load_suite(Path("suites/quickstart.yaml"), ["speed.threads=1"])).trials
    trial = next(trial for trial in trials if trial.name.startswith(MODELS[model]))
    trial = replace(trial, spec=trial.spec.model_copy(update={"batch_size": 1}))
    blocks: dict[str, Raw] = {}
    end, block = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        start = time.monotonic()
        with ExitStack() as stack:
            children = {version: stack.enter_context(Child("spawn")) for version in "ABC"}
            for version, child in children.items():
                child.call(this.begin, trial, version == "C", seconds=600)
            rows: dict[str, list[tuple[float, float, float]]] = {version: [] for version in "ABC"}
            for number in range(TURNS):
                for version in np.roll(list("ABC"), block + number)[:: -1 if number % 2 else 1]:
                    timed = children[version].call(this.turn, seconds=600)
                    rows[version] += [(number, window.position, window.seconds) for window in timed]
        blocks |= {f"{block}/{version}": np.array(rows[version]) for version in "ABC"}
        blocks[f"{block}/seconds"] = np.array(time.monotonic() - start)
        np.savez_compressed(file, **blocks)
        block += 1
        print(f"block {block}: {time.monotonic() - start:.0f} s", file=sys.stderr)


def process_seconds(raw: Raw, drift: float) -> float:
    """Return the time of a process, the second half of whose turns is longer by the drift."""
    factors = np.where(raw[:, 0] >= TURNS / 2, 1 + drift, 1)
    windows = [
        Window(int(row[1]), SAMPLES, row[2] * factor) for row, factor in zip(raw, factors, strict=True)
    ]
    return OfflineProcess.model_construct(windows=windows).seconds_per_sample(LOW)


def verdicts(
    base: Raw, head: Raw, comparisons: int, drift_apart: float, generator: np.random.Generator
) -> tuple[Counter[str], Counter[str], float]:
    """Return the verdicts in turns and apart, and the pairs of a comparison in turns on average.

    Args:
        base, head: Seconds per sample of a process of each block.
    """
    in_turns, apart, pairs = Counter[str](), Counter[str](), 0
    differences, most = np.log(head / base), max(LOOKS)
    for _ in range(comparisons):
        chosen = differences[generator.permutation(len(differences))[:most]].tolist()
        for count in range(1, len(chosen) + 1):
            judged = judge_pairs(chosen[:count], MAX_SLOWDOWN, 1, 0.0, last=count == len(chosen))
            if judged is not None:
                break
        assert judged is not None
        in_turns[judged.verdict] += 1
        pairs += count
        first = generator.integers(0, len(base) - 2 * PROCESSES + 1)
        before = base[first : first + PROCESSES]
        after = head[first + PROCESSES : first + 2 * PROCESSES] * (1 + drift_apart)
        apart[judge(slowdown(before.tolist(), after.tolist())).verdict] += 1
    return in_turns, apart, pairs / comparisons


def show(file: Path, comparisons: int) -> None:
    """Print the verdicts on versions of known speed."""
    raw = dict(np.load(file))
    count = sum(name.endswith("/A") for name in raw)
    if count < (needed := max(*LOOKS, 2 * PROCESSES)):
        sys.exit(f"{file}: has {count} blocks; comparisons need {needed}")
    block_seconds = np.median([raw[f"{block}/seconds"] for block in range(count)]) * 2 / 3
    print(
        "| version | drift | in turns: regression / inconclusive / pass | apart: the same | pairs | seconds |"
    )
    print("|---|---|---|---|---|---|")
    for drift in (0.0, 0.05):
        times = {
            version: np.array([process_seconds(raw[f"{block}/{version}"], drift) for block in range(count)])
            for version in "ABC"
        }
        measured = np.expm1(np.median(np.log(times["C"] / times["A"])))
        heads = {"A again": times["B"], f"5% more work (all blocks: {measured:+.1%})": times["C"]}
        heads |= {f"{change:+.0%}": times["B"] * (1 + change) for change in (0.05, 0.1, -0.05)}
        for name, head in heads.items():
            generator = np.random.default_rng(0)
            in_turns, apart, pairs = verdicts(times["A"], head, comparisons, drift, generator)
            shares = [
                " / ".join(
                    f"{called[verdict] / comparisons:.1%}"
                    for verdict in ("regression", "inconclusive", "pass")
                )
                for called in (in_turns, apart)
            ]
            print(
                f"| {name} | {drift:.0%} | {' | '.join(shares)} | {pairs:.1f} | {pairs * block_seconds:.0f} |"
            )
    logs = {version: np.log(times[version]) for version in "AB"}
    spread = np.median([abs(log - np.median(log)).mean() for log in logs.values()])
    print(f"\n{count} blocks; processes differ by {spread:.2%} from their median on average.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    recorder = modes.add_parser("record")
    recorder.add_argument("model", choices=MODELS)
    recorder.add_argument("file", type=Path)
    recorder.add_argument("--minutes", type=float, default=40)
    judging = modes.add_parser("judge")
    judging.add_argument("file", type=Path)
    judging.add_argument("--comparisons", type=int, default=300)
    options = parser.parse_args()
    if options.mode == "record":
        record(options.model, options.file, options.minutes)
    else:
        show(options.file, options.comparisons)


if __name__ == "__main__":
    main()
