"""What disturbs a timing: fake machines and traces of a GPU, replayed while windows are timed."""

# ruff: noqa: N802 (the fake has the names of pynvml)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest
from sample_results import document

from harness.rundir.results import ScenarioRecord
from harness.scenarios.figures import energy
from harness.scenarios.loop import Workload, fixed_queries, time_windows
from harness.scenarios.settings import Profile
from harness.stages import sensors
from harness.stages.sensors import ENERGY_SECONDS, Gpu, Machine, Sensors
from reports.figures import disturbances

NONE = pynvml.nvmlClocksThrottleReasonNone
THERMAL = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
HARDWARE = pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
BRAKE = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
CAPPED = pynvml.nvmlClocksThrottleReasonSwPowerCap
WATTS = 400
SECONDS = 0.1  # of every window


@dataclass(frozen=True)
class State:
    """The GPU while a window runs."""

    mhz: int = 1980
    reasons: int = NONE
    celsius: int = 60


QUIET, HOT = State(), State(1300, THERMAL, 87)
TRACES: dict[str, Sequence[State]] = {
    "quiet": [QUIET],
    "at the power limit": [State(1980, CAPPED, 70)],
    "clock varies by 3%": [State(1980), State(1935), State(1950)],
    "becomes warm": [State(1980, NONE, celsius) for celsius in range(40, 80)],
    "throttled at first": [HOT] * 8 + [QUIET] * 200,
    "throttled in the middle": [QUIET] * 10 + [HOT] * 9 + [QUIET] * 200,
    "every other window": [QUIET, HOT],
    "hardware slowdown, four of five": [State(900, HARDWARE, 95)] * 4 + [QUIET],
    "power brake, then low clock": [QUIET] * 6 + [State(600, BRAKE)] * 3 + [State(1500)] * 3 + [QUIET] * 200,
    "throttled throughout": [HOT],
}
THROTTLED = {name for name, trace in TRACES.items() if any(state.mhz < 1800 for state in trace)}


class FakeNvml:
    """The functions of pynvml that the sensors call, with the state of a trace."""

    NVMLError = pynvml.NVMLError

    def __init__(self, trace: Sequence[State], processes: int = 1) -> None:
        self.trace = trace
        self.processes = processes
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return constants of the real module."""
        return getattr(pynvml, name)

    @property
    def state(self) -> State:
        """The state of the window that ends now."""
        return self.trace[(round(self.seconds / SECONDS) - 1) % len(self.trace)]

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1-2"
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert (handle, kind) == ("handle", pynvml.NVML_CLOCK_SM)
        return self.state.mhz

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        assert (handle, kind) == ("handle", pynvml.NVML_TEMPERATURE_GPU)
        return self.state.celsius

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return WATTS * 1000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.state.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        return [object()] * self.processes

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return round(WATTS * 1000 * self.seconds)


class Replay:
    """Windows of 0.1 s on a GPU that follows a trace."""

    def __init__(self, nvml: FakeNvml, seconds: float = 2.0) -> None:
        self.nvml = nvml
        self.states: list[State] = []
        """The state during each timing of a window, in the order of timing."""
        self.sensors = Sensors([Gpu("1-2", nvml=nvml)], lambda: nvml.seconds)
        work = Workload(
            predict=lambda _: None,
            synchronise=lambda: None,
            queries=fixed_queries(20, 1),
            generator=np.random.default_rng(0),
            check=self.sensors.check,
        )
        timed, disturbed = time_windows(work, Profile(seconds, 1, 1, passes=1), self.time_window)
        self.counted = [self.states[durations[0] - round(SECONDS * 1e9)] for _, durations in timed]
        """The states of the timings that count."""
        self.positions = [position for position, _ in timed]
        self.disturbed = disturbed

    def time_window(self, _: object) -> list[int]:
        self.nvml.seconds += SECONDS
        self.states.append(self.nvml.state)
        return [round(SECONDS * 1e9) + len(self.states) - 1]  # durations tell the timings apart


@pytest.mark.parametrize("name", TRACES)
def test_throttled_windows_are_repeated_and_quiet_ones_never(name: str) -> None:
    replay = Replay(FakeNvml(TRACES[name]))
    bad = [state for state in replay.states if state.mhz < 1800]
    assert len(replay.disturbed) == len(bad), "each disturbed window is rejected, and no quiet one"
    assert bool(bad) == (name in THROTTLED)
    assert sorted(replay.positions) == sorted(list(range(20)) * (len(replay.positions) // 20))
    assert len(replay.counted) >= 20, "no measurement is empty"
    if all(window.replaced for window in replay.disturbed):
        assert all(state.mhz >= 1800 for state in replay.counted)
    quiet_enough = len(bad) <= 0.8 * len(replay.states)
    assert (replay.sensors.why_not_valid() == []) == quiet_enough == (name != "throttled throughout")


def test_the_traces_are_ten_and_the_budget_replaces_all_but_the_worst() -> None:
    assert len(TRACES) == 10
    spent = {
        name
        for name in TRACES
        if not all(window.replaced for window in Replay(FakeNvml(TRACES[name])).disturbed)
    }
    assert spent == {"hardware slowdown, four of five", "throttled throughout"}


def test_the_reasons_name_the_causes() -> None:
    replay = Replay(FakeNvml(TRACES["throttled throughout"]))
    assert replay.sensors.why_not_valid() == [
        "disturbed: under 20% of the windows were undisturbed: the GPU was throttled (SwThermalSlowdown)"
    ]
    replay = Replay(FakeNvml(TRACES["power brake, then low clock"]))
    assert dict(replay.sensors.disturbed) == {
        "the GPU was throttled (HwPowerBrakeSlowdown)": 3,
        "the clock of the GPU was low": 3,
    }


def test_readings_and_energy_are_recorded() -> None:
    replay = Replay(FakeNvml(TRACES["becomes warm"]), seconds=2 * ENERGY_SECONDS)
    assert replay.sensors.spreads() == {
        "gpu_mhz": (1980, 1980, 1980),
        "gpu_celsius": (40, pytest.approx(59.5, abs=10), 79),
        "gpu_watts": (WATTS, WATTS, WATTS),
    }
    samples = len(replay.states)
    assert replay.sensors.joules_per_sample(samples) == pytest.approx(WATTS * SECONDS)
    assert replay.sensors.joules_per_sample(0) is None
    brief = Replay(FakeNvml([QUIET]))
    assert brief.sensors.joules_per_sample(20) is None, "the counter is too coarse for 2 s"


def test_another_process_on_the_gpu_disturbs_and_a_planned_tenant_does_not() -> None:
    nvml = FakeNvml([QUIET], processes=2)
    assert Gpu("GPU-1-2", nvml=nvml).read(1.0)[1] == "other processes used the GPU"
    assert Gpu("1-2", tenants=2, nvml=nvml).read(1.0)[1] == ""
    assert Gpu("1-2", nvml=FakeNvml([QUIET], processes=0)).read(1.0)[1] == "", "a driver may list nobody"


def test_what_a_driver_does_not_support_is_unknown_and_disturbs_nothing() -> None:
    class Refusing(FakeNvml):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetHandleByUUID":
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return super().__getattribute__(name)

    gpu = Gpu("1-2", nvml=Refusing([HOT]))
    assert gpu.read(1.0) == ({}, "")
    assert gpu.joules() is None


def test_a_gpu_without_a_working_driver_library_is_unknown() -> None:
    class Broken(FakeNvml):
        def nvmlInit(self) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    gpu = Gpu("1-2", nvml=Broken([HOT]))
    assert gpu.read(1.0) == ({}, "")
    assert gpu.joules() is None


def test_the_fake_has_only_names_of_the_real_module() -> None:
    fake = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(fake) == 8
    assert all(callable(getattr(pynvml, name)) for name in fake)


class FakeMachine:
    """The counters of a machine with two cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, tells_waits: bool = True) -> None:
        self.wall = self.busy = self.own = 0.0
        self.waited: dict[str, int] = {"1": 0, "2": 0} if tells_waits else {}
        monkeypatch.setattr(sensors, "cpu_times", lambda: (self.wall, self.busy, self.own))
        monkeypatch.setattr(sensors, "waits", lambda: dict(self.waited))
        self.machine = Machine(spare_cores=1, root=root)

    def advance(self, seconds: float, others: float, waited: float = 0.0) -> None:
        """Let the process use one core and others some."""
        self.wall += seconds
        self.own += seconds
        self.busy += seconds * (1 + others)
        for thread in self.waited:
            self.waited[thread] += round(waited * 1e9)

    def run(self, seconds: float, others: float, waited: float = 0.0) -> str:
        """Advance, and return why that disturbed."""
        self.advance(seconds, others, waited)
        return self.machine.read(seconds)[1]


def test_others_disturb_if_a_thread_waited_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = FakeMachine(monkeypatch, tmp_path)
    assert machine.run(0.125, others=1.0) == "", "there was a free core for them"
    assert machine.run(0.125, others=0.5, waited=0.001) == ""
    assert machine.run(0.125, others=0.5, waited=0.003) == "waited for a core"
    assert machine.run(0.125, others=0.0, waited=0.003) == "", "its own threads, more than there are cores"
    assert machine.machine.foreign_cores() == pytest.approx(0.5)


def test_what_happens_before_a_reset_neither_disturbs_nor_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = FakeMachine(monkeypatch, tmp_path)
    watched = Sensors([machine.machine], lambda: machine.wall)
    machine.advance(0.5, others=1.0, waited=0.1)
    watched.reset()
    machine.advance(0.05, others=0.0)
    assert watched.check() == ""
    machine.advance(0.5, others=1.0, waited=0.1)
    assert watched.check() == "waited for a core"
    assert (watched.windows, watched.disturbed.total()) == (2, 1)


def test_where_waiting_is_unknown_others_may_use_the_spare_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = FakeMachine(monkeypatch, tmp_path, tells_waits=False)
    assert machine.run(0.125, others=1.2) == ""
    assert machine.run(0.125, others=1.3) == "other processes used the cores"


def test_the_load_is_averaged_over_a_tenth_of_a_second_at_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = FakeMachine(monkeypatch, tmp_path)
    machine.wall += 0.02
    machine.busy += 0.03  # a step of the counter
    assert machine.machine.read(0.02)[0]["foreign_cores"] == 0, "too early to say"
    machine.wall += 0.08
    assert machine.machine.read(0.08)[0]["foreign_cores"] == pytest.approx(0.3)
    machine.wall += 0.05
    assert machine.machine.read(0.05)[0]["foreign_cores"] == pytest.approx(0.3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a machine with one processor package."""
    for path, text in {
        "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\nfull total=0\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/class/powercap/intel-rapl:0/energy_uj": "900\n",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000\n",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "5\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def known(machine: Machine) -> dict[str, float]:
    """Return the readings that do not concern other processes."""
    return {
        name: value
        for name, value in machine.read(0.1)[0].items()
        if name not in ("foreign_cores", "waiting")
    }


def test_memory_pressure_frequency_and_energy_are_read_from_the_system(root: Path) -> None:
    machine = Machine(1, root)
    assert machine.governor == "performance"
    assert machine.joules() == 0
    assert known(machine) == {"memory_stall": 0.0, "cpu_mhz": 2400.0}
    (root / "proc/pressure/memory").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=7000\n")
    values, reason = machine.read(0.1)
    assert values["memory_stall"] == pytest.approx(0.06)
    assert "memory was short" in reason
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("300\n")
    assert machine.joules() == pytest.approx(400e-6), "the counter starts again at 1000"


def test_what_the_system_does_not_tell_is_missing_and_never_zero(tmp_path: Path) -> None:
    machine = Machine(1, tmp_path)
    assert machine.governor is None
    assert known(machine) == {}
    assert machine.joules() is None


def test_the_real_machine_can_be_read_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between readings, a check only asks for the time."""
    seconds = 0.0
    watched = Sensors([Machine(1)], lambda: seconds)
    assert watched.check() == "" and watched.spreads() == {}
    seconds = 1.0
    monkeypatch.setattr(sensors, "FOREIGN_CORES", 99.0)
    watched.check()
    assert (
        {"foreign_cores"}
        <= watched.spreads().keys()
        <= {"foreign_cores", "waiting", "memory_stall", "cpu_mhz"}
    )
    assert watched.windows == 2


def test_energy_has_an_interval_over_processes_and_needs_all_of_them() -> None:
    figure = energy([0.5, 0.4, 0.6])
    assert figure is not None
    assert figure.value == pytest.approx(0.495, abs=0.01)
    assert (figure.n, figure.unit) == (3, "J")
    assert energy([0.5, None]) is None and energy([0.0]) is None and energy([]) is None


def test_a_report_says_how_many_windows_were_disturbed() -> None:
    content = next(trial["speed"]["offline"] for trial in document()["trials"] if "offline" in trial["speed"])
    place = {"node": "n", "reserved": {}, "started": "", "finished": "", "foreign_cores": 0}
    places = [
        {**place, "windows": 40, "disturbed": {"waited for a core": 3}},
        {**place, "windows": 60, "disturbed": {"waited for a core": 2, "memory was short": 1}},
    ]
    scenario = ScenarioRecord.model_validate({**content, "timed_on": places})
    assert disturbances(scenario) == "6 of 100 windows disturbed (waited for a core: 5; memory was short: 1)"
    assert disturbances(ScenarioRecord.model_validate({**content, "timed_on": [place]})) == ""
