"""Disturbances of a timing that has a node, or one of its GPUs, to itself, with fake loads and drivers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from harness.scenarios.settings import Exclusive
from harness.stages.disturbance import disturbances, others_on_gpu


@pytest.mark.parametrize(
    ("exclusive", "foreign_cores", "on_gpu", "reasons"),
    [
        ("node", 0.2, 0, []),
        ("node", 0.3, 0, ["disturbed: other processes used 0.30 cores"]),
        ("gpu", 0.3, 0, []),
        ("gpu", 6.1, 0, []),  # every core that is not ours, and the daemons
        ("gpu", 6.5, 0, ["disturbed: other processes used 6.50 cores, with 6 to spare"]),
        ("gpu", 0.3, 1, ["disturbed: 1 other process on the same GPU"]),
        ("node", 0.0, 2, ["disturbed: 2 other processes on the same GPU"]),
    ],
)
def test_a_gpu_of_a_shared_node_is_disturbed_by_its_own_guests_and_by_a_lack_of_cores(
    exclusive: Exclusive, foreign_cores: float, on_gpu: int, reasons: list[str]
) -> None:
    assert disturbances(exclusive, foreign_cores, spare_cores=6, on_gpu=on_gpu) == reasons


@pytest.mark.parametrize("uuid", ["1-2", "GPU-1-2"])  # torch gives it without the prefix, the driver with it
def test_processes_on_a_gpu_are_counted_without_our_own(monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    running = {"GPU-1-2": [SimpleNamespace(pid=1), SimpleNamespace(pid=2)], "GPU-3": []}
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: name)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", running.__getitem__)
    assert others_on_gpu(uuid) == 1
    assert others_on_gpu("3") == 0, "a driver in a container may list nobody, not even us"


def test_a_driver_that_does_not_tell_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", refuse)
    assert others_on_gpu("1") == 0
