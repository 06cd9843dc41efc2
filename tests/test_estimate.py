"""Estimates of a plan, compared with calculations by hand."""

from __future__ import annotations

from pathlib import Path

from raw_timings import offline_timings
from small_suite import document, planned

from harness.driver.estimate import estimate
from harness.files import write_record
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.store import RunDirectory
from harness.suite.schema import SpeedEntry
from harness.task import Translation

CI = SpeedEntry(profile="ci")


def test_the_reserved_resources_follow_the_suite(tmp_path: Path) -> None:
    plan, directory = planned(tmp_path, document()), RunDirectory(tmp_path / "run")
    assert estimate(plan, directory, CI).timing_needs == "every CPU and GPU of a node"
    shared = CI.model_copy(update={"exclusive": "gpu"})
    assert estimate(plan, directory, shared).timing_needs.startswith("one GPU")


def test_timing_takes_at_least_the_profiles_time_and_predicting_follows_measured_throughput(
    tmp_path: Path,
) -> None:
    suite = document(20, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["offline", "single-stream"]
    plan = planned(tmp_path, suite)
    directory = RunDirectory(tmp_path / "run")
    trial_dir = directory.trial(plan.trials[0].id)

    (before,) = estimate(plan, directory, CI).trials
    assert (before.predict_seconds, before.time_seconds) == (None, (2 + 5) * 7 * 2)
    assert (before.done, before.timed) == (0, ())

    trial_dir.predictions.write(
        "translation",
        0,
        [f"{i}" for i in range(8)],
        [Translation("x")] * 8,
        ShardProvenance(environment="here"),
    )
    measured = offline_timings([[(16, 2.0), (16, 2.0)]])  # 8 samples/s
    write_record(trial_dir.path / "speed" / "offline.json", measured)
    (after,) = estimate(plan, directory, CI).trials
    assert (after.predict_seconds, after.time_seconds) == (12 / 8, (2 + 5) * 7 * 1)
    assert (after.done, after.timed) == (8, ("offline",))
