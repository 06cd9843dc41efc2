"""The pace of one trial's predictions, and the time after which a shard counts as hanging. Pure."""

HANG_FACTOR = 20  # a shard hangs if it takes this many times the slowest measured time per sample …
MIN_DEADLINE_SECONDS = 60.0  # … but never before this, which absorbs a stall of the machine …
SLOW_FACTOR = 3  # … nor before this many times the expected time, even beyond the first shard's deadline
AVERAGE_WEIGHT = 0.2  # weight of the newest shard in the moving average of seconds per sample


class Pace:
    """Measured seconds per sample and seconds per model load of one trial.

    Until a shard without loading has been timed, `seconds_per_sample` is None and `slowest_per_sample`
    includes loading; both are None before the first shard is finished.
    """

    def __init__(self) -> None:
        self.seconds_per_sample: float | None = None
        """Moving average, without loading."""
        self.slowest_per_sample: float | None = None
        self.loading_seconds = 0.0
        """Duration of the last load."""
        self._slowest_first_shard = 0.0  # seconds, loading included

    def record(self, samples: int, seconds: float, loaded_model: bool) -> None:
        """Record how long a worker took for a shard, and whether that includes loading the model."""
        per_sample = seconds / samples
        if loaded_model:
            self._slowest_first_shard = max(seconds, self._slowest_first_shard)
            if self.seconds_per_sample is None:
                self.slowest_per_sample = max(per_sample, self.slowest_per_sample or 0.0)
            else:
                self.loading_seconds = max(0.0, seconds - self.seconds_per_sample * samples)
        elif self.seconds_per_sample is None:
            self.seconds_per_sample = self.slowest_per_sample = per_sample
        else:
            average = self.seconds_per_sample
            self.seconds_per_sample = (1 - AVERAGE_WEIGHT) * average + AVERAGE_WEIGHT * per_sample
            self.slowest_per_sample = max(per_sample, self.slowest_per_sample or 0.0)

    def allowed_seconds(self, samples: int, loads_model: bool, retried: bool, first_deadline: float) -> float:
        """Return the seconds after which a shard counts as hanging.

        Args:
            retried: Whether a worker was lost with this shard, or with one that it is a part of.
            first_deadline: Seconds for a shard that loads the model. No shard gets more unless the measured
                pace requires it.
        """
        if self.slowest_per_sample is None:
            return first_deadline
        expected = self.slowest_per_sample * samples + (self._slowest_first_shard if loads_model else 0.0)
        deadline = first_deadline
        if retried or not loads_model:
            deadline = min(first_deadline, max(MIN_DEADLINE_SECONDS, HANG_FACTOR * expected))
        return max(deadline, SLOW_FACTOR * expected)
