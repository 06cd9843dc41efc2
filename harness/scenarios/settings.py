"""Settings of speed measurements: profiles, what a timed process reserves, requested and effective values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from harness.files import StrictModel

ProfileName = Literal["smoke", "ci", "release", "mlperf"]
Exclusive = Literal["node", "gpu"]


@dataclass(frozen=True)
class Profile:
    """Duration and repetitions of a speed measurement."""

    seconds: float  # minimum duration per process
    samples: int  # minimum number of timed samples per process
    processes: int  # fresh ones, timed one after another
    passes: int = 3  # minimum number of passes over the samples per process
    warmup_seconds: float = 2.0  # minimum duration
    warmup_queries: int = 10  # minimum number
    warmup_patience: float = 15.0  # s after which it ends unless passes become faster
    warmup_cap: float = 60.0  # s after which it ends anyway; a measurement is then not valid
    gates: bool = True  # whether its measurements must be valid and decide comparisons
    forked: bool = False  # whether processes are forked, which is quick, instead of started afresh


# `mlperf` takes its number of samples and duration from the MLPerf Inference rules (offline: 24,576 samples;
# 600 s). `release`, `ci` and `smoke` take the smallest number that supports the percentiles p99, p90 and p50
# (see harness.scenarios.figures.least_queries). `smoke` only shows that measuring works.
PROFILES: Mapping[str, Profile] = {
    "smoke": Profile(
        0.2, 11, 3, 1, warmup_seconds=0.1, warmup_queries=2, warmup_patience=0.1, gates=False, forked=True
    ),
    "ci": Profile(5, 64, 7),
    "release": Profile(60, 662, 10),
    "mlperf": Profile(600, 24_576, 1),
}
GATING = frozenset(name for name, profile in PROFILES.items() if profile.gates)


class ServerSettings(StrictModel, strict=True):
    """Latency target and batching of the server scenario."""

    latency_ms: float = Field(100.0, gt=0, description="Target that a percentile of the latencies must meet.")
    percentile: float = Field(99.0, ge=50, le=99.9, description="This percentile.")
    max_batch: int = Field(16, gt=0, description="Samples per batch at most.")
    max_wait_ms: float = Field(5.0, ge=0, description="How long a query waits for others to share a batch.")


class SpeedSettings(StrictModel):
    """Requested settings of a speed measurement."""

    profile: ProfileName
    threads: int | None
    samples: int
    exclusive: Exclusive
    server: ServerSettings = ServerSettings()

    def whole_batches(self, size: int) -> int:
        """Return the number of timed samples: at least as many as requested, in whole batches."""
        return -(-self.samples // size) * size

    def deadline(self, scenarios: int) -> float:
        """Return the seconds after which a process that times this many scenarios is considered to hang.

        That is ten times what the profile requires at one sample per second, plus ten minutes for loading.
        """
        profile = PROFILES[self.profile]
        return 10 * scenarios * (profile.warmup_cap + max(profile.seconds, profile.samples)) + 600


class EffectiveSettings(SpeedSettings):
    """Settings under which a process was timed, or should have been."""

    effective_threads: int = Field(description="0 if all cores were requested but timing failed")
    device: str | None = Field(None, description="null if timing failed")
