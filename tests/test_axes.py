"""Axes of a suite: threads and batch sizes of the timings, TF32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from raw_timings import SAMPLES, SETTINGS, conditions
from small_suite import document, figures, planned, run_suite
from whole_page import whole

from harness.errors import UsageError
from harness.executors.inline import InlineExecutor
from harness.rundir.speed import read_timings
from harness.scenarios.batch_sweep import BatchSweep, BatchSweepProcess
from harness.scenarios.loop import Workload, fixed_queries
from harness.scenarios.scenario import Conditions, ScenarioFigures
from harness.scenarios.settings import PROFILES, Profile, SpeedSettings
from harness.stages.device import pick_device, set_tf32, torch_flags
from harness.stages.measure import Measurement, measure
from harness.stages.shards import Outcome, Work
from harness.trial import Trial
from reports.write import write_reports


class CountingExecutor(InlineExecutor):
    """Times in this process, and counts the samples that it predicts."""

    predicted: list[tuple[str, int]]

    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        self.predicted = [(part.trial.name, part.samples) for part in work]
        return super().predict(work)

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        return measure(trial, trial.load_checkpoint(), scenarios, settings)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def timed_document(threads: object, **changes: Any) -> dict[str, Any]:
    suite = document(4, ok={"batch_size": 2, **changes}, short={"options": {"drop": 2}})
    suite["benchmarks"]["words"]["speed"] = ["single-stream"]
    suite["speed"] = {"samples": 4, "threads": threads}
    return suite


class TestThreads:
    def test_a_list_makes_one_trial_per_number_that_shares_the_identity_of_its_predictions(
        self, tmp_path: Path
    ) -> None:
        (single, _) = planned(tmp_path, timed_document(1)).trials
        trials = planned(tmp_path, timed_document([1, 2], batch_size=[2, 4])).trials
        assert [trial.variant for trial in trials] == [
            *(f"ok[batch_size={size},threads={count}]" for size in (2, 4) for count in (1, 2)),
            *(f"short[threads={count}]" for count in (1, 2)),
        ]
        assert [trial.spec.prediction_id for trial in trials[:2]] == [single.id] * 2
        assert len({trial.id for trial in (single, *trials)}) == 7
        assert planned(tmp_path, timed_document([2])).trials[0].id == single.id

    def test_a_benchmark_without_timings_has_no_such_variants(self, tmp_path: Path) -> None:
        suite = timed_document([1, 2])
        del suite["benchmarks"]["words"]["speed"]
        assert [trial.variant for trial in planned(tmp_path, suite).trials] == ["ok", "short"]

    @pytest.mark.parametrize("threads", [0, [], [1, 1], [2, 0]])
    def test_no_zero_and_no_number_twice(self, tmp_path: Path, threads: object) -> None:
        with pytest.raises(UsageError, match=r"speed\.threads: .*at least 1, or a list of distinct ones"):
            planned(tmp_path, timed_document(threads))

    @pytest.mark.slow  # 45 s on two cores
    @pytest.mark.usefixtures("threads")
    def test_predictions_are_made_once_and_timings_with_each_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick = Profile(0.01, 4, 1, passes=1, warmup_seconds=0, warmup_cap=0.1, gates=False)
        monkeypatch.setitem(cast(dict[str, Profile], PROFILES), "smoke", quick)
        executor = CountingExecutor()
        results = run_suite(tmp_path, timed_document([1, 2]), executor=executor)
        assert executor.predicted == [("words/ok[threads=1]", 4), ("words/short[threads=1]", 4)]
        assert [trial.status for trial in results.trials] == ["complete"] * 4
        shown = figures(results)
        assert shown["words/ok[threads=1]"] == shown["words/ok[threads=2]"] != shown["words/short[threads=1]"]
        assert [trial.speed["single-stream"].threads for trial in results.trials] == [1, 2, 1, 2]
        assert [trial.settings["threads"] for trial in results.trials] == [1, 2, 1, 2]
        for trial in results.trials:
            timings = read_timings(tmp_path / "run" / "trials" / trial.id, "single-stream")
            assert timings is not None
            assert timings.settings.effective_threads == trial.settings["threads"]

    def test_incomplete_copies_are_replaced_and_failures_are_recorded_for_each(self, tmp_path: Path) -> None:
        suite = document(6, ok={"batch_size": 2, "options": {"raise_at": 3}})
        suite["benchmarks"]["words"]["speed"] = ["single-stream"]
        suite["speed"] = {"samples": 4, "threads": [1, 2]}
        failed = run_suite(tmp_path, suite, shard_size=2)
        assert [trial.status for trial in failed.trials] == ["partial"] * 2
        assert failed.trials[0].failures == failed.trials[1].failures
        # A shard of the second trial that the first no longer has would overlap with a new one.
        folder = tmp_path / "run" / "trials" / failed.trials[0].id / "predictions"
        for shard in folder.glob("*.parquet"):
            shard.unlink()
        again = run_suite(tmp_path, suite, shard_size=6)
        ranges = [
            sorted(path.name for path in (tmp_path / "run" / "trials" / trial.id / "predictions").iterdir())
            for trial in again.trials
        ]
        assert ranges[0] == ranges[1]


def swept(limit: int = 4096, error: str = "CUDA out of memory", slow: int = 0) -> BatchSweepProcess:
    """Sweep a model that takes 8 ms per batch and 2 ms per sample, up to a batch size.

    Args:
        slow: Batch size that takes twice as long.
    """
    now = 0

    def predict(indices: list[int]) -> None:
        nonlocal now
        now += (8 + 2 * len(indices)) * 1_000_000 * (1 + (len(indices) == slow))
        if len(indices) > limit:
            raise RuntimeError(error)

    queries = fixed_queries(24, 1)
    generator = np.random.default_rng(0)
    work = Workload(predict, lambda: None, queries, generator, clock=lambda: now)

    def powered() -> Conditions:
        known = conditions()
        timed_on = known.timed_on.model_copy(update={"joules_per_sample": 1.0})
        return known.model_copy(update={"timed_on": timed_on})

    return BatchSweep.run(work, Profile(0.5, 11, 1), powered)


class TestBatchSweep:
    """n samples per batch give n / (8 + 2n) samples per ms, at most 0.5."""

    def figures(self, *processes: BatchSweepProcess) -> ScenarioFigures:
        fields = {"processes": processes, "environment": "", "settings": SETTINGS}
        return BatchSweep(scenario="batch-sweep", batch_size=1, samples=SAMPLES, **fields).summarise()

    def test_ends_when_two_sizes_gain_too_little_and_chooses_the_smallest_near_the_best(self) -> None:
        """512 gives 2.3% more than 128 and 5.4% more than 64; 256 gives 1.5% more than 128."""
        found = self.figures(swept(), swept())
        expected = {
            f"batch size {n}": pytest.approx(1000 * n / (8 + 2 * n)) for n in map(int, 2 ** np.arange(10))
        }
        assert {name: figure.value for name, figure in found.rates.items()} == expected
        assert found.throughput == found.rates["batch size 128"]
        assert found.notes == [
            "batch size 128 is chosen, the smallest within 3% of the best throughput; "
            "the sweep ended at 512: batches of 256 and 512 gain less than 3%"
        ]

    def test_one_size_that_gains_nothing_does_not_decide(self) -> None:
        found = self.figures(swept(slow=2))
        assert found.rates["batch size 2"].value == pytest.approx(1000 / 12)  # less than of size 1
        assert found.throughput == found.rates["batch size 128"]

    def test_energy_is_not_that_of_one_size_and_therefore_unknown(self) -> None:
        assert swept(limit=8).timed_on.joules_per_sample is None

    def test_exhausted_memory_ends_the_sweep_and_fails_nothing(self) -> None:
        process = swept(limit=8)
        assert [step.batch_size for step in process.steps] == [1, 2, 4, 8] and not process.reasons
        found = self.figures(process)
        assert found.throughput == found.rates["batch size 8"]
        (note,) = found.notes
        assert note.endswith("the sweep ended at 8: memory does not suffice for batches of 16")

    @pytest.mark.parametrize(("limit", "error"), [(8, "shapes differ"), (0, "CUDA out of memory")])
    def test_another_error_is_one_and_so_is_a_single_sample_that_does_not_fit(
        self, limit: int, error: str
    ) -> None:
        with pytest.raises(RuntimeError, match=error):
            swept(limit, error)

    def test_sizes_that_a_process_did_not_time_are_not_shown(self) -> None:
        found = self.figures(swept(), swept(limit=4))
        assert list(found.rates) == ["batch size 1", "batch size 2", "batch size 4"]

    @pytest.mark.usefixtures("threads")
    def test_a_suite_sweeps_with_one_trial_and_shows_a_row_per_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick = Profile(
            0.001, 1, 1, passes=1, warmup_seconds=0, warmup_queries=1, warmup_cap=0.1, gates=False
        )
        monkeypatch.setitem(cast(dict[str, Profile], PROFILES), "smoke", quick)
        monkeypatch.setattr("harness.scenarios.batch_sweep.SIZES", (1, 2, 4))
        suite = document(4, ok={"batch_size": "sweep"})
        assert planned(tmp_path, suite).trials[0].scenarios == (), "where nothing is timed, no batch size is"
        suite["benchmarks"]["words"]["speed"] = ["offline"]
        suite["speed"] = {"samples": 4, "threads": 1}
        (trial,) = run_suite(tmp_path, suite, executor=CountingExecutor()).trials
        assert (trial.variant, trial.settings["batch_size"]) == ("ok", 16)
        assert list(trial.speed) == ["offline", "batch-sweep"] and trial.speed["batch-sweep"].throughput
        page = whole(write_reports(tmp_path / "run").read_text())
        rows = [f"batch size {size}" for size in (1, 2, 4)]
        assert list(trial.speed["batch-sweep"].rates)[:3] == rows
        assert all(f">{row}<" in page for row in rows) and "is chosen, the smallest" in page


class TestTf32:
    def test_is_refused_where_it_would_be_fp32(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"adapters\.ok\.precision: tf32 needs an NVIDIA GPU"):
            planned(tmp_path, document(ok={"precision": ["fp32", "tf32"], "device": "cpu"}))
        with pytest.raises(UsageError, match="precision 'tf32' needs an NVIDIA GPU since Ampere"):
            pick_device("cpu", "tf32")

    def test_is_part_of_the_identity(self, tmp_path: Path) -> None:
        trials = planned(tmp_path, document(ok={"precision": ["fp32", "tf32"]})).trials
        assert [trial.variant for trial in trials] == ["ok[precision=fp32]", "ok[precision=tf32]"]
        assert trials[0].id != trials[1].id

    def test_products_of_fp32_are_rounded_only_if_asked(self) -> None:
        set_tf32("tf32")
        assert torch_flags()["cudnn.tf32"] is torch.backends.cuda.matmul.allow_tf32 is True
        set_tf32("fp32")
        assert torch_flags()["cudnn.tf32"] is torch.backends.cuda.matmul.allow_tf32 is False
