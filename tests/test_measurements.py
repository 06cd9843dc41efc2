"""Timing in several processes: each is stored at once, and none is mixed with another machine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_timings import SETTINGS, conditions
from small_suite import document, run_suite

from harness import environment
from harness.environment import Environment
from harness.errors import InfrastructureError
from harness.executors.inline import InlineExecutor
from harness.files import read_json
from harness.rundir.results import Cost, Results, ScenarioRecord
from harness.rundir.speed import CommonFile
from harness.scenarios.loop import Window
from harness.scenarios.offline import OfflineProcess
from harness.scenarios.scenario import ProcessTiming
from harness.scenarios.single_stream import SingleStreamProcess
from harness.stages.measure import Measurement

PROCESSES = 7  # of the profile `ci`
HERE = environment.describe()


def altered(changes: dict[str, Any]) -> Environment:
    """Return the environment of this machine with changes."""
    return Environment.model_validate(HERE.model_dump() | changes)


def measured(names: list[str], reasons: dict[str, list[str]], machine: Environment) -> Measurement:
    """Return the measurement of a process."""
    windows = [Window(0, 10, 1.0), Window(0, 10, 1.1)]
    latencies, indices = [1_000_000, 9_000_000] * 32, [0, 1, 2, 3] * 16
    timings: dict[str, ProcessTiming] = {
        "offline": OfflineProcess(**dict(conditions(16, reasons.get("offline", []))), windows=windows),
        "single-stream": SingleStreamProcess(
            **dict(conditions(1, reasons.get("single-stream", []))), latencies_ns=latencies, indices=indices
        ),
    }
    return Measurement(
        environment=machine,
        settings=SETTINGS.model_copy(update={"samples": 4}),
        samples=["a", "b", "c", "d"],
        units={"source_tokens": [3, 30, 5, 21]},
        timings={name: timings[name] for name in names},
        common=CommonFile(phases={"model": [0.002]}, cost=Cost(), flags={}),
    )


def timed(
    folder: Path, process: Callable[[int], dict[str, Any]] = lambda _: {}, *scenarios: str
) -> tuple[Results, list[list[str]]]:
    """Run a suite whose n-th process reports `process(n)`; return results and each process's scenarios."""
    asked: list[list[str]] = []

    class Faking(InlineExecutor):
        def measure(self, trial: Any, names: Any, settings: Any) -> Measurement:
            asked.append(list(names))
            says = process(len(asked))
            return measured(names, says.get("reasons", {}), altered(says.get("machine", {})))

    suite = document(8)
    suite["benchmarks"]["words"]["speed"] = list(scenarios or ("offline",))
    suite["speed"] = {"profile": "ci", "threads": 1, "samples": 4}
    return run_suite(folder, suite, executor=Faking), asked


def raw(folder: Path, scenario: str = "offline") -> dict[str, Any]:
    (path,) = (folder / "run" / "trials").glob(f"*/speed/{scenario}.json")
    found: dict[str, Any] = read_json(path)
    return found


def offline(results: Results) -> ScenarioRecord:
    return results.trials[0].speed["offline"]


def dying_at(number: int) -> Callable[[int], dict[str, Any]]:
    def process(n: int) -> dict[str, Any]:
        if n == number:
            raise InfrastructureError("timing words/ok: the process died")
        return {}

    return process


def test_processes_that_are_done_are_kept_and_the_next_run_goes_on(tmp_path: Path) -> None:
    failed, _ = timed(tmp_path, dying_at(4))
    assert (offline(failed).valid, offline(failed).processes) == (False, 3)
    assert offline(failed).reasons == ["timing words/ok: the process died (after 3 of 7 processes)"]
    resumed, asked = timed(tmp_path)
    assert (offline(resumed).valid, offline(resumed).processes, len(asked)) == (
        True,
        PROCESSES,
        PROCESSES - 3,
    )
    assert timed(tmp_path) == (resumed, [])


def timed_variants(folder: Path, sizes: list[int], *scenarios: str) -> tuple[Results, list[list[str]]]:
    """Run a suite whose trials differ in batch size; return results and each process's scenarios."""
    asked: list[list[str]] = []

    class Faking(InlineExecutor):
        def measure(self, trial: Any, names: Any, settings: Any) -> Measurement:
            asked.append([f"{name} {trial.spec.batch_size}" for name in names])
            return measured(names, {}, HERE)

    suite = document(8, ok={"batch_size": sizes})
    suite["benchmarks"]["words"]["speed"] = list(scenarios)
    suite["speed"] = {"profile": "ci", "threads": 1, "samples": 4}
    return run_suite(folder, suite, executor=Faking), asked


def test_work_that_variants_share_is_timed_once_and_each_record_says_for_which(tmp_path: Path) -> None:
    results, asked = timed_variants(tmp_path, [1, 2], "offline", "single-stream")
    assert asked == [["offline 1", "single-stream 1"]] * PROCESSES + [["offline 2"]] * PROCESSES
    first, second = (trial.speed["single-stream"] for trial in results.trials)
    assert first.latency == second.latency and (first.valid, second.valid) == (True, True)
    assert (first.notes, second.notes) == (
        [],
        ["timed once, for words/ok[batch_size=1]: the work is the same"],
    )
    assert timed_variants(tmp_path, [1, 2], "offline", "single-stream") == (results, [])


def test_other_samples_are_other_work(tmp_path: Path) -> None:
    """Six is the smallest number of whole batches of three that holds four samples."""
    _, asked = timed_variants(tmp_path, [1, 3], "offline", "single-stream")
    assert asked[PROCESSES:] == [["offline 3", "single-stream 3"]] * PROCESSES


def test_a_trial_is_timed_itself_if_its_phases_would_be_missing_otherwise(tmp_path: Path) -> None:
    _, asked = timed_variants(tmp_path, [1, 2], "single-stream")
    assert asked[PROCESSES:] == [["single-stream 2"]] * PROCESSES


def test_a_phase_has_one_duration_per_process(tmp_path: Path) -> None:
    results, _ = timed(tmp_path)
    phase = results.trials[0].phases["model"]
    assert (phase.value, phase.n) == (pytest.approx(0.002), PROCESSES)


def test_a_killed_driver_leaves_what_was_measured_and_never_calls_it_complete(tmp_path: Path) -> None:
    def process(n: int) -> dict[str, Any]:
        if n == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        timed(tmp_path, process)
    assert len(raw(tmp_path)["processes"]) == 2
    assert raw(tmp_path)["error"] == "interrupted (after 2 of 7 processes)"
    assert len(timed(tmp_path)[1]) == PROCESSES - 2


def test_only_the_disturbed_scenario_is_timed_again(tmp_path: Path) -> None:
    disturbed: Iterator[dict[str, Any]] = iter([{"reasons": {"offline": ["disturbed: 2 cores"]}}])
    results, asked = timed(tmp_path, lambda _: next(disturbed, {}), "offline", "single-stream")
    assert asked == [["offline", "single-stream"]] * PROCESSES + [["offline"]]
    assert offline(results).valid


def test_after_three_attempts_an_invalid_one_counts_and_the_next_run_repeats_it_alone(tmp_path: Path) -> None:
    bad = {"reasons": {"offline": ["warm-up: no steady state"]}}
    results, asked = timed(tmp_path, lambda n: bad if n <= 3 else {})
    assert (len(asked), offline(results).valid, offline(results).processes) == (
        PROCESSES + 2,
        False,
        PROCESSES,
    )
    mended, asked = timed(tmp_path)
    assert (len(asked), offline(mended).valid) == (1, True)


def test_processes_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    elsewhere = {"machine": {"cpu": "Another CPU", "cores": 99}}
    results, _ = timed(tmp_path, lambda n: elsewhere if n == 3 else {})
    assert (offline(results).valid, offline(results).processes) == (False, 2)
    assert (
        "the processes differ in cpu, cores, so their times must not be mixed" in offline(results).reasons[0]
    )


@pytest.mark.parametrize(
    ("field", "value", "repeated"),
    [
        ("host", "another-container", 0),
        ("os", "Linux 9.9", 0),
        ("memory_bytes", HERE.memory_bytes + 4096, 0),
        ("packages", HERE.packages | {"ray": "9.9"}, 0),
        ("packages", HERE.packages | {"torch": "9.9"}, PROCESSES),
        ("cpu", "Another CPU", PROCESSES),
        ("gpus", [{"name": "Another GPU", "memory_bytes": 1, "driver": "1"}], PROCESSES),
    ],
)
def test_only_other_hardware_or_another_torch_is_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any, repeated: int
) -> None:
    timed(tmp_path)
    changed = altered({field: value})
    monkeypatch.setattr(environment, "describe", lambda: changed)
    assert len(timed(tmp_path, lambda _: {"machine": {field: value}})[1]) == repeated


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5)]
)
def test_a_containers_quota_is_read(text: str, cores: float | None) -> None:
    assert environment.cpu_quota(text) == cores


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 3), ("250000 100000", 2), ("50000 100000", 1)])
def test_threads_are_bounded_by_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert environment.usable_cores() == cores


def test_throughput_is_given_in_tokens_too(tmp_path: Path) -> None:
    results, _ = timed(tmp_path)
    [trial] = results.trials
    samples, tokens = trial.speed["offline"].throughput, trial.speed["offline"].rates["source_tokens"]
    assert samples is not None
    # 10 samples in a median of 1.05 s by each process; a sample has (3 + 30 + 5 + 21) / 4 = 14.75 tokens.
    assert (tokens.value, tokens.unit) == (pytest.approx(10 / 1.05 * 14.75), "source tokens/s")
    assert tokens.n == PROCESSES * 20 * 14.75
    assert tokens.low == pytest.approx((samples.low or 0) * 14.75)
