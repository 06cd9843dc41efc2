"""Trials are scored while others are predicted, and not after the run has been stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from small_suite import document, figures, run_suite

import harness.driver.scoring as scoring
from harness.errors import UsageError
from harness.executors.inline import InlineExecutor
from harness.rundir.store import RunDirectory
from harness.stages.shards import Outcome, Work

SECONDS = 60.0  # until a test gives up


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Event:
    """An event that is set once a trial is scored."""
    score_trial, event = scoring.score_trial, Event()

    def score(*arguments: Any) -> None:
        score_trial(*arguments)
        event.set()

    monkeypatch.setattr(scoring, "score_trial", score)
    return event


def suite() -> dict[str, Any]:
    return document(20, first={}, second={"options": {"drop": 2}})


def test_a_trial_is_scored_before_the_next_one_is_predicted(tmp_path: Path, scored: Event) -> None:
    class Waiting(InlineExecutor):
        """Withhold the outcomes of the second trial until the first is scored."""

        def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
            first = work[0].trial.id
            for outcome in super().predict(work):
                assert outcome.shard.trial.id == first or scored.wait(SECONDS)
                yield outcome

    results = run_suite(tmp_path, suite(), Waiting, shard_size=4)
    assert [trial.status for trial in results.trials] == ["complete", "complete"]
    assert figures(results) == figures(run_suite(tmp_path, suite(), out="again"))


def test_an_error_of_scoring_is_an_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("a mask of another size")

    monkeypatch.setattr(scoring, "score_trial", refuse)
    with pytest.raises(UsageError, match="a mask of another size"):
        run_suite(tmp_path, suite())


def test_a_stopped_run_ends_the_score_of_one_trial_and_begins_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    running, released = Event(), Event()

    def score(trial_dir: Any, *_: object) -> None:
        begun.append(trial_dir.path.name)
        running.set()
        assert released.wait(SECONDS)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            released.set()
            super().shutdown(wait)

    monkeypatch.setattr(scoring, "score_trial", score)
    monkeypatch.setattr(scoring, "ThreadPoolExecutor", Pool)
    trials: Any = [SimpleNamespace(id="a"), SimpleNamespace(id="b")]
    with (
        pytest.raises(KeyboardInterrupt),
        scoring.scoring(RunDirectory(tmp_path), trials, lambda _: None) as begin,
    ):
        begin("a")
        begin("b")
        assert running.wait(SECONDS)
        raise KeyboardInterrupt
    assert begun == ["a"]
