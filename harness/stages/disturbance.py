"""What else a machine was busy with while something was timed on it, and whether that disturbed it."""

from __future__ import annotations

import os
import time
from collections import defaultdict

from harness.suite.profiles import Exclusive

FOREIGN_CORES = 0.25  # more than the idle daemons of a local Ray (0.07–0.1 of a core as measured)
LISTED = 5  # of the processes that were busy meanwhile


def disturbances(exclusive: Exclusive, foreign: float, spare: float, on_gpu: int) -> list[str]:
    """Why a timing does not count; empty if nothing came in its way.

    With a node to itself any load of others counts. With one GPU others may keep busy the cores that the
    timed process does not use, but no process beside it may use that GPU.

    Args:
        foreign: cores that other processes kept busy.
        spare: cores of the machine that the timed process does not use.
        on_gpu: other processes on its GPU.
    """
    allowed = FOREIGN_CORES + (spare if exclusive == "gpu" else 0)
    found = []
    if foreign > allowed:
        beside = f", with {spare:g} to spare" if exclusive == "gpu" else ""
        found.append(f"disturbed: other processes used {foreign:.2f} cores{beside}")
    if on_gpu:
        found.append(f"disturbed: {on_gpu} other process{'es' if on_gpu > 1 else ''} on the same GPU")
    return found


def others_on_gpu(uuid: str) -> int:
    """Processes that use a GPU beside this one, which must use it as well.

    Counted, not told by their ids: in a container the driver's ids are those of the host, or it tells none.

    Args:
        uuid: as torch and the driver's library give it.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        return max(0, len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1)
    except pynvml.NVMLError:  # not every driver says who is there
        return 0
    finally:
        pynvml.nvmlShutdown()


class CpuLoad:
    """How many cores processes other than this one keep busy, over a stretch of time."""

    def __init__(self) -> None:
        self._processes = self._by_process()
        self._start = self._read()

    def foreign_cores(self) -> float:
        (wall, busy, own), (wall0, busy0, own0) = self._read(), self._start
        return max(0.0, ((busy - busy0) - (own - own0)) / max(wall - wall0, 1e-9))

    def others(self) -> dict[str, float]:
        """The busiest of these processes, by name: cores; those of other containers are not seen."""
        wall = max(time.monotonic() - self._start[0], 1e-9)
        cores: defaultdict[str, float] = defaultdict(float)
        for (process, name), seconds in self._by_process().items():
            cores[name] += (seconds - self._processes.get((process, name), 0.0)) / wall
        busiest = sorted(cores.items(), key=lambda item: -item[1])[:LISTED]
        return {name: round(used, 3) for name, used in busiest if used >= 0.001}

    @staticmethod
    def _by_process() -> dict[tuple[int, str], float]:
        """CPU seconds of each process so far, this one aside."""
        import psutil

        return {
            (process.pid, process.info["name"]): process.info["cpu_times"].user
            + process.info["cpu_times"].system
            for process in psutil.process_iter(["name", "cpu_times"])
            if process.info["cpu_times"] is not None and process.pid != os.getpid()
        }

    @staticmethod
    def _read() -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        waiting = times.idle + getattr(times, "iowait", 0.0)
        return time.monotonic(), sum(times) - waiting - getattr(times, "guest", 0.0), time.process_time()
