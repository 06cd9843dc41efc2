"""One worker's shard: exhausted memory halves batches, bad samples are named, the others are predicted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_adapters
import pytest
import torch
from small_suite import document, planned, run_suite

from harness.errors import is_out_of_memory
from harness.rundir.store import RunDirectory
from harness.stages.predict import MAX_CULPRITS, Predictor
from harness.stages.prefetch import prefetch
from harness.stages.shards import Outcome, Shard, ShardError, ShardResult
from harness.task import Sample

Forward = Callable[[list[Sample]], Any]


def predictor(folder: Path, batch_size: int = 4, size: int = 20) -> Predictor:
    (trial,) = planned(folder, document(size, ok={"batch_size": batch_size})).trials
    return Predictor(trial, None, "here")


def replace_forward(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Forward, list[Sample]], Any]) -> None:
    real = fake_adapters.FakeTranslation.forward
    monkeypatch.setattr(
        fake_adapters.FakeTranslation, "forward", lambda self, batch: wrap(lambda b: real(self, b), batch)
    )


def run_shard(
    worker: Predictor, start: int = 0, stop: int = 20, batch_limit: int | None = None
) -> list[Outcome]:
    return worker.run_shard(Shard(worker.trial, start, stop), batch_limit)


def summary(outcomes: Sequence[Outcome]) -> list[tuple[int, int, bool]]:
    return [(o.shard.start, o.shard.stop, isinstance(o, ShardResult)) for o in outcomes]


def index(sample: Sample) -> int:
    return int(sample.id.rsplit("-", 1)[1])


class TestExhaustedMemory:
    @pytest.fixture
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Sizes of the batches that were tried; more than two samples do not fit into memory."""
        tried: list[int] = []

        def forward(real: Forward, batch: list[Sample]) -> Any:
            tried.append(len(batch))
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(batch)

        replace_forward(monkeypatch, forward)
        return tried

    def test_batches_are_halved_and_the_size_is_remembered(self, tmp_path: Path, sizes: list[int]) -> None:
        (result,) = run_shard(predictor(tmp_path, batch_size=7), 0, 14)
        assert sizes == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1], "7 in parts of 4, then of 2"
        assert isinstance(result, ShardResult)
        assert (result.execution.batch_size, len(result.predictions)) == (2, 14)

    @pytest.mark.usefixtures("forked")
    def test_halving_changes_no_figure_and_is_recorded(self, tmp_path: Path, sizes: list[int]) -> None:
        halved = run_suite(tmp_path, document(20, ok={"batch_size": 7}), out="halved").trials[0]
        fitting = run_suite(tmp_path, document(20, ok={"batch_size": 2}), out="fitting").trials[0]
        assert halved.metrics == fitting.metrics
        assert (halved.halved, fitting.halved, halved.status) == (20, 0, "complete")
        provenance = RunDirectory(tmp_path / "halved").trial(halved.id).predictions.provenance()
        assert {shard.batch_size for shard in provenance.values()} == {2}

    def test_a_single_sample_that_does_not_fit_is_a_bad_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(real: Forward, batch: list[Sample]) -> Any:
            if 6 in map(index, batch):
                raise MemoryError
            return real(batch)

        replace_forward(monkeypatch, forward)
        outcomes = run_shard(predictor(tmp_path))
        assert summary(outcomes) == [(0, 4, True), (4, 8, False), (8, 20, True)]
        assert isinstance(outcomes[1], ShardError) and outcomes[1].culprits == (6,)

    def test_a_size_that_failed_on_another_worker_is_not_tried_again(
        self, tmp_path: Path, sizes: list[int]
    ) -> None:
        run_shard(predictor(tmp_path), 0, 8, batch_limit=2)
        assert sizes == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried …"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory of the author"), False),
    ],
)
def test_exhausted_memory_is_distinguished_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


class TestBadSamples:
    def test_two_bad_samples_of_a_batch_are_both_named_and_the_whole_batch_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(real: Forward, batch: list[Sample]) -> Any:
            bad = sorted({5, 7} & set(map(index, batch)))
            if bad:
                raise RuntimeError(f"poison at {bad[0]}")
            return real(batch)

        replace_forward(monkeypatch, forward)
        outcomes = run_shard(predictor(tmp_path))
        assert summary(outcomes) == [(0, 4, True), (4, 8, False), (8, 20, True)]
        error = outcomes[1]
        assert isinstance(error, ShardError)
        assert (error.culprits, error.error) == ((5, 7), "RuntimeError: poison at 5")

    def test_a_batch_that_fails_only_as_a_whole_names_no_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(real: Forward, batch: list[Sample]) -> Any:
            if len(batch) == 4:
                raise ValueError("stack expects each tensor to be equal size")
            return real(batch)

        replace_forward(monkeypatch, forward)
        (error,) = run_shard(predictor(tmp_path), 0, 4)
        assert isinstance(error, ShardError) and error.culprits == ()

    def test_an_adapter_that_always_fails_is_not_run_on_every_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def forward(real: Forward, batch: list[Sample]) -> Any:
            calls.append(batch)
            raise RuntimeError("broken")

        replace_forward(monkeypatch, forward)
        outcomes = run_shard(predictor(tmp_path, size=100), 0, 100)
        assert summary(outcomes) == [(0, 4, False), (4, 8, False), (8, 100, False)]
        assert len(calls) == 2 + MAX_CULPRITS
        last = outcomes[-1]
        assert isinstance(last, ShardError)
        assert last.error == f"skipped after {MAX_CULPRITS} bad samples: RuntimeError: broken"

    def test_a_broken_gpu_is_not_blamed_on_a_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forward(real: Forward, batch: list[Sample]) -> Any:
            raise RuntimeError("CUDA error: device-side assert triggered")

        replace_forward(monkeypatch, forward)
        with pytest.raises(RuntimeError, match="device-side assert"):
            run_shard(predictor(tmp_path))


class TestPrefetch:
    def test_gives_the_same_results_as_reading_batch_by_batch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serial, ahead = predictor(tmp_path), predictor(tmp_path)
        monkeypatch.setattr(ahead, "_prefetch", True)  # as on a GPU
        threads = set()
        real = fake_adapters.FakeTranslation.preprocess

        def preprocess(self: Any, samples: Sequence[Sample]) -> Any:
            threads.add(threading.current_thread())
            return real(self, samples)

        monkeypatch.setattr(fake_adapters.FakeTranslation, "preprocess", preprocess)
        (expected,), (actual,) = run_shard(serial), run_shard(ahead)
        assert isinstance(actual, ShardResult) and isinstance(expected, ShardResult)
        assert (actual.ids, actual.predictions) == (expected.ids, expected.predictions)
        assert len(threads) == 2, "the main thread and the one that loads ahead"

    def test_a_read_error_fails_only_its_own_batch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = predictor(tmp_path)
        monkeypatch.setattr(worker, "_prefetch", True)
        real = worker._read

        def read(at: int) -> Sample:
            if at == 9:
                raise OSError("image 9 is truncated")
            return real(at)

        monkeypatch.setattr(worker, "_read", read)
        assert summary(run_shard(worker)) == [(0, 8, True), (8, 12, False), (12, 20, True)]

    def test_the_next_job_runs_while_a_result_is_in_use(self) -> None:
        started = [threading.Event() for _ in range(3)]
        for position, result in enumerate(prefetch([event.set for event in started])):
            if position < 2:
                assert started[position + 1].wait(timeout=5), "while the current result is in use"
            result()
        assert list(prefetch([])) == []
