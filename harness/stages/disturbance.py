"""Load of other processes on the machine while a trial is timed, and whether it invalidates the timing."""

import os
import time
from collections import defaultdict

from harness.scenarios.settings import Exclusive

FOREIGN_CORES = 0.25  # allowed load; the idle daemons of a local Ray use 0.07–0.1 of a core (measured)
LISTED = 5  # number of busy processes to list


def disturbances(exclusive: Exclusive, foreign_cores: float, spare_cores: float, on_gpu: int) -> list[str]:
    """Return why a timing is not valid, or nothing if it was not disturbed.

    If the timed process has a node to itself, any load of other processes counts. If it has one GPU, other
    processes may use the cores that it leaves free, but not its GPU.

    Args:
        foreign_cores: Number of cores kept busy by other processes.
        spare_cores: Number of cores that the timed process does not use.
        on_gpu: Number of other processes on its GPU.
    """
    allowed = FOREIGN_CORES + (spare_cores if exclusive == "gpu" else 0)
    reasons = []
    if foreign_cores > allowed:
        spare = f", with {spare_cores:g} to spare" if exclusive == "gpu" else ""
        reasons.append(f"disturbed: other processes used {foreign_cores:.2f} cores{spare}")
    if on_gpu:
        reasons.append(f"disturbed: {on_gpu} other process{'es' if on_gpu > 1 else ''} on the same GPU")
    return reasons


def others_on_gpu(uuid: str) -> int:
    """Count the other processes that use a GPU. This process must be using it too.

    Processes are counted, not identified, because the driver reports the host's ids or none in a container.

    Args:
        uuid: As reported by torch or by the driver's library.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        return max(0, len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1)
    except pynvml.NVMLError:  # not every driver lists the processes
        return 0
    finally:
        pynvml.nvmlShutdown()


class CpuLoad:
    """CPU load of other processes since this object was created."""

    def __init__(self) -> None:
        self._seconds_by_process = _seconds_by_process()
        self._start = _read_times()

    def foreign_cores(self) -> float:
        """Return the average number of cores kept busy by other processes."""
        now = _read_times()
        wall, busy, this_process = (end - start for end, start in zip(now, self._start, strict=True))
        return max(0.0, (busy - this_process) / max(wall, 1e-9))

    def busiest(self) -> dict[str, float]:
        """Return the busiest of these processes: name → cores. Those of other containers are not visible."""
        wall = max(time.monotonic() - self._start[0], 1e-9)
        cores: defaultdict[str, float] = defaultdict(float)
        for (process, name), seconds in _seconds_by_process().items():
            cores[name] += (seconds - self._seconds_by_process.get((process, name), 0.0)) / wall
        ranked = sorted(cores.items(), key=lambda item: -item[1])[:LISTED]
        return {name: round(used, 3) for name, used in ranked if used >= 0.001}


def _seconds_by_process() -> dict[tuple[int, str], float]:
    """Return the CPU seconds that every other process has used: (id, name) → seconds."""
    import psutil

    return {
        (process.pid, process.info["name"]): process.info["cpu_times"].user + process.info["cpu_times"].system
        for process in psutil.process_iter(["name", "cpu_times"])
        if process.info["cpu_times"] is not None and process.pid != os.getpid()
    }


def _read_times() -> tuple[float, float, float]:
    """Return seconds of wall time, of busy time of all cores, and of CPU time of this process."""
    import psutil

    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    return time.monotonic(), sum(times) - waiting - getattr(times, "guest", 0.0), time.process_time()
