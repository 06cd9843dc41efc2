"""Sensors of what disturbs a timing: other processes, lack of memory, throttling; read between windows.

A reading that the system does not provide is missing from the record and disturbs nothing.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from harness.scenarios.scenario import Spread

READ_SECONDS = 0.03  # between readings, which take about 0.1 ms; until the next, windows share the last one
WAITING = 0.02  # share of the time that a thread may wait for a core while others use it
FOREIGN_CORES = 0.1  # of others; a thread that waits below it does so for its own process
FOREIGN_BEYOND_SPARE = 0.25  # limit where waiting is unknown; daemons of a local Ray use 0.07–0.1 (measured)
LOAD_SPAN = 0.1  # s; at least, because the system counts in steps of 10 ms per core
STALLED = 0.05  # share of the time that some process may wait for memory
CLOCKS, CLOCK_RATIO = 100, 0.95  # the least GPU clock is this share of the median of the last readings
THROTTLING = ("HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown")
UNDISTURBED = 0.2  # share of the timings that must be undisturbed, for a low quantile of those that count
ENERGY_SECONDS = 5.0  # of a timing at least, because counters of energy change every 0.1 s


class Machine:
    """Other processes, memory pressure, frequency of the first core, energy of the processor packages (RAPL).

    Others on cores that are free anyway hardly lengthen a timing. Where it is unknown how long threads
    waited for a core, others disturb if they use more than the free ones.
    """

    def __init__(self, spare_cores: float, root: Path = Path("/")) -> None:
        self._spare, self._joules = spare_cores, 0.0
        self._pressure = root / "proc/pressure/memory"
        self._frequency = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
        self.governor = _text(self._frequency.with_name("scaling_governor"))
        self._packages = sorted((root / "sys/class/powercap").glob("intel-rapl:?"))
        self._microjoules: dict[Path, int] = {}
        self.reset()
        self._start = self._times

    def reset(self) -> None:
        """Begin the next reading now."""
        self._foreign, self._times, self._waits, self._stalled = 0.0, cpu_times(), waits(), self._stall()

    def read(self, seconds: float) -> tuple[dict[str, float], str]:
        """Return the readings since the last call, and why they disturb a timing or an empty string."""
        self.joules()  # so often that no counter wraps twice
        waited, stalled, times = self._waits, self._stalled, cpu_times()
        self._waits, self._stalled = waits(), self._stall()
        if times[0] - self._times[0] >= LOAD_SPAN:
            self._foreign, self._times = foreign_cores(self._times, times), times
        values, reasons = {"foreign_cores": self._foreign}, []
        if self._waits:
            longest = max(total - waited.get(thread, 0) for thread, total in self._waits.items())
            values["waiting"] = longest / 1e9 / seconds
            if values["waiting"] > WAITING and self._foreign > FOREIGN_CORES:
                reasons.append("waited for a core")
        elif self._foreign > self._spare + FOREIGN_BEYOND_SPARE:
            reasons.append("other processes used the cores")
        if stalled is not None and self._stalled is not None:
            values["memory_stall"] = (self._stalled - stalled) / 1e6 / seconds
            if values["memory_stall"] > STALLED:
                reasons.append("memory was short")
        if kilohertz := _text(self._frequency):
            values["cpu_mhz"] = int(kilohertz) / 1000
        return values, "; ".join(reasons)

    def _stall(self) -> int | None:
        """Return the microseconds of the line `some … total=N`."""
        text = _text(self._pressure)
        return int(text.splitlines()[0].rpartition("=")[2]) if text else None

    def joules(self) -> float | None:
        """Return the energy used since the first call, or None if it is unknown."""
        for package in self._packages:
            text, limit = _text(package / "energy_uj"), _text(package / "max_energy_range_uj")
            if not text or not limit:
                return None  # only the administrator may read it
            now = int(text)
            self._joules += (now - self._microjoules.get(package, now)) % int(limit) / 1e6
            self._microjoules[package] = now
        return self._joules if self._packages else None

    def foreign_cores(self) -> float:
        """Return the average number of cores that other processes have kept busy."""
        return foreign_cores(self._start, cpu_times())


class Gpu:
    """Clock, throttling, temperature, power, energy and other processes of a GPU.

    A power limit (SwPowerCap) is normal under load and disturbs nothing. Without a working driver library,
    nothing is known about the GPU.

    Args:
        uuid: As reported by torch or by the driver's library.
        tenants: Number of processes that are meant to use it.
    """

    def __init__(self, uuid: str, tenants: int = 1, nvml: Any = None) -> None:
        nvml = nvml or import_module("pynvml")  # only where there is a GPU
        self._nvml, self._tenants = nvml, tenants
        self._handle: Any = None
        with suppress(nvml.NVMLError):
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        self._clocks: deque[int] = deque(maxlen=CLOCKS)
        self._masks = {name: getattr(nvml, f"nvmlClocksThrottleReason{name}") for name in THROTTLING}

    def _ask(self, question: str, *arguments: object) -> Any:
        """Return the driver's answer, or None if it has none."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, f"nvmlDeviceGet{question}")(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def read(self, seconds: float) -> tuple[dict[str, float], str]:  # noqa: ARG002
        clock = self._ask("ClockInfo", self._nvml.NVML_CLOCK_SM)
        milliwatts = self._ask("PowerUsage")
        readings = {
            "gpu_mhz": clock,
            "gpu_celsius": self._ask("Temperature", self._nvml.NVML_TEMPERATURE_GPU),
            "gpu_watts": None if milliwatts is None else milliwatts / 1000,
        }
        throttled = self._ask("CurrentClocksThrottleReasons") or 0
        reasons = [f"the GPU was throttled ({name})" for name in THROTTLING if throttled & self._masks[name]]
        if clock is not None:
            self._clocks.append(clock)
            if not reasons and clock < CLOCK_RATIO * median(self._clocks):
                reasons.append("the clock of the GPU was low")
        # Processes are counted, because a container sees the ids of the host or none.
        if len(self._ask("ComputeRunningProcesses") or ()) > self._tenants:
            reasons.append("other processes used the GPU")
        return {name: value for name, value in readings.items() if value is not None}, "; ".join(reasons)

    def joules(self) -> float | None:
        millijoules = self._ask("TotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000


class Sensors:
    """The sensors of a timed loop, which begins when this object is created."""

    def __init__(self, sensors: Sequence[Machine | Gpu], clock: Callable[[], float] = time.monotonic) -> None:
        self._sensors, self._clock = sensors, clock
        self._start = self._last = clock()
        self._reason = ""
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._joules = [sensor.joules() for sensor in sensors]
        self.windows = 0
        self.disturbed: Counter[str] = Counter()
        """Number of disturbed windows by reason."""

    def check(self) -> str:
        """Return why the window that has just ended was disturbed, or an empty string."""
        seconds = self._clock() - self._last
        if seconds >= READ_SECONDS:
            self._last += seconds
            readings = [sensor.read(seconds) for sensor in self._sensors]
            self._reason = "; ".join(reason for _, reason in readings if reason)
            for values, _ in readings:
                for name, value in values.items():
                    self._values[name].append(value)
        self.windows += 1
        if self._reason:
            self.disturbed[self._reason] += 1
        return self._reason

    def reset(self) -> None:
        """Forget what happened since the last reading, as after a pause."""
        self._last, self._reason = self._clock(), ""
        for sensor in self._sensors:
            if isinstance(sensor, Machine):  # a GPU's readings are of the moment
                sensor.reset()

    def spreads(self) -> dict[str, Spread]:
        """Return the smallest, median and largest reading by name."""
        return {name: Spread(min(v), float(median(v)), max(v)) for name, v in self._values.items()}

    def joules_per_sample(self, samples: int) -> float | None:
        """Return the energy per sample since the loop began, by the first sensor that knows it."""
        if self._clock() - self._start < ENERGY_SECONDS or samples == 0:
            return None
        used = (
            (now - before) / samples
            for sensor, before in zip(self._sensors, self._joules, strict=True)
            if before is not None and (now := sensor.joules()) is not None
        )
        return next(used, None)

    def why_not_valid(self) -> list[str]:
        """Return why a low quantile of the timings is not to be trusted, or nothing."""
        undisturbed = self.windows - self.disturbed.total()
        if undisturbed >= UNDISTURBED * self.windows:
            return []
        causes = ", ".join(sorted(self.disturbed))  # without numbers, so that processes have the same reason
        return [f"disturbed: under {UNDISTURBED:.0%} of the windows were undisturbed: {causes}"]


def waits() -> dict[str, int]:
    """Return the nanoseconds that each thread of this process has waited for a core; none if unknown."""
    schedules = {thread.name: _text(thread / "schedstat") for thread in Path("/proc/self/task").glob("*")}
    return {thread: int(text.split()[1]) for thread, text in schedules.items() if text}


def cpu_times() -> tuple[float, float, float]:
    """Return seconds of wall time, of busy time of all cores, and of CPU time of this process."""
    import psutil

    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    return time.monotonic(), sum(times) - waiting - getattr(times, "guest", 0.0), time.process_time()


def foreign_cores(start: tuple[float, float, float], end: tuple[float, float, float]) -> float:
    """Return the average number of cores that other processes kept busy between two `cpu_times`."""
    wall, busy, this_process = (later - earlier for later, earlier in zip(end, start, strict=True))
    return max(0.0, (busy - this_process) / max(wall, 1e-9))


def _text(file: Path) -> str | None:
    """Return the content of a file of the system, or None if it cannot be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None
