"""What a plan will take, against hand calculation."""

from __future__ import annotations

from pathlib import Path

from small_suite import document, planned

from harness.files import write_json
from harness.run.estimate import estimate
from harness.rundir.store import RunDirectory
from harness.suite.schema import SpeedEntry
from harness.task import Translation

CI = SpeedEntry(profile="ci")


def test_what_timing_needs_is_what_the_suite_asks_for(tmp_path: Path) -> None:
    plan, directory = planned(tmp_path, document()), RunDirectory(tmp_path / "run")
    assert estimate(plan, directory, CI)["timing_needs"] == "every CPU and GPU of a node"
    shared = CI.model_copy(update={"exclusive": "gpu"})
    assert estimate(plan, directory, shared)["timing_needs"].startswith("one GPU")


def test_timing_is_at_least_what_the_profile_asks_for_and_predicting_follows_measured_throughput(
    tmp_path: Path,
) -> None:
    suite = document(20, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["offline", "single-stream"]
    plan = planned(tmp_path, suite)
    directory = RunDirectory(tmp_path / "run")
    place = directory.trial(plan.trials[0].id)

    (before,) = estimate(plan, directory, CI)["trials"]
    assert before["seconds"] == {"predict": None, "time": (2 + 5) * 6 * 2}
    assert (before["done"], before["timed"]) == (0, [])

    place.write_shard("translation", 0, [f"{i}" for i in range(8)], [Translation("x")] * 8, "here")
    measured = {"processes": [{"windows": [[16, 2.0], [16, 2.0]]}]}  # 8 samples/s
    write_json(place.path / "speed" / "offline.json", measured)
    (after,) = estimate(plan, directory, CI)["trials"]
    assert after["seconds"] == {"predict": 12 / 8, "time": (2 + 5) * 6 * 1}
    assert (after["done"], after["timed"]) == (8, ["offline"])
