"""What a plan will take, against hand calculation."""

from __future__ import annotations

from pathlib import Path

from small_suite import document, planned

from harness.estimate import estimate
from harness.store import RunDirectory, write_json
from harness.task import Translation


def test_timing_is_at_least_what_the_profile_asks_for_and_predicting_follows_measured_throughput(
    tmp_path: Path,
) -> None:
    suite = document(20, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["offline", "single-stream"]
    plan = planned(tmp_path, suite)
    directory = RunDirectory(tmp_path / "run")
    place = directory.trial(plan.trials[0].id)

    (before,) = estimate(plan, directory, "ci")["trials"]
    assert before["seconds"] == {"predict": None, "time": (2 + 5) * 6 * 2}
    assert (before["done"], before["timed"]) == (0, [])

    place.write_shard("translation", 0, [f"{i}" for i in range(8)], [Translation("x")] * 8, "here")
    measured = {"processes": [{"windows": [[16, 2.0], [16, 2.0]]}]}  # 8 samples/s
    write_json(place.path / "speed" / "offline.json", measured)
    (after,) = estimate(plan, directory, "ci")["trials"]
    assert after["seconds"] == {"predict": 12 / 8, "time": (2 + 5) * 6 * 1}
    assert (after["done"], after["timed"]) == (8, ["offline"])
