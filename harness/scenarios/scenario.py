"""Speed scenarios: ways to measure how fast a model is.

A scenario is one module of this package plus its line in `SCENARIOS`. The module contains the timed loop, the
models of the raw timings, the figures, and the times that are compared between two runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from harness.registry import Registry
from harness.scenarios.loop import Workload
from harness.scenarios.settings import Profile
from harness.scenarios.timings import Conditions, ProcessTiming, ScenarioFigures, ScenarioTimings
from harness.task import Figure

OFFLINE, SINGLE_STREAM = "offline", "single-stream"  # the scenarios with columns of their own in reports


class Scenario(ABC):
    """One way to measure speed; it holds no state."""

    timings: ClassVar[type[ScenarioTimings]]
    """Model of its raw timings."""
    headline_name: ClassVar[str]
    """Name of the headline figure."""

    @abstractmethod
    def batch_size(self, trial: int) -> int:
        """Return the samples per query, given the batch size of the trial."""

    @abstractmethod
    def run(self, work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> ProcessTiming:
        """Time queries for at least the duration and number that the profile requires.

        Args:
            conditions: To be called once, right after the timed loop.
        """

    @abstractmethod
    def headline(self, figures: ScenarioFigures) -> Figure | None:
        """Return the figure that tables and comparisons show first, or None if it is undefined."""


SCENARIOS: Registry[type[Scenario]] = Registry(
    "scenario",
    "harness.scenarios",
    {
        OFFLINE: "harness.scenarios.offline:Offline",
        SINGLE_STREAM: "harness.scenarios.single_stream:SingleStream",
    },
)
