"""Figures as text: value [low, high] unit, n, with the same digits in every report."""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from harness.rundir.results import ScenarioRecord
from harness.task import Figure

UNDEFINED = "undefined"
DOUBT = "†"  # marks a figure with a note
_THOUSANDS = "\u202f"  # narrow no-break space: a comma would read as the next bound of the interval
_SECONDS = re.compile(r"^s(?=$|[/ ])")


@dataclass(frozen=True)
class Printed:
    """A figure as text. `interval` is empty only if the value is undefined; † marks that it may be wrong."""

    value: str
    interval: str
    unit: str
    n: int

    @property
    def quantity(self) -> str:
        """Value, interval and unit."""
        return " ".join(filter(None, (self.value, self.interval, self.unit)))

    def __str__(self) -> str:
        return f"{self.quantity}, n={self.n}"


def printed(figure: Figure) -> Printed:
    """Round a figure to the digits that its interval supports. Seconds below one become ms or µs."""
    if figure.value is None or not math.isfinite(figure.value):
        return Printed(UNDEFINED, "", figure.unit, figure.n)
    figure = _readable_seconds(figure)
    assert figure.value is not None
    decimals, interval = _decimals(figure.value, 4), "[no interval]"
    if figure.low is not None and figure.high is not None:
        half = (figure.high - figure.low) / 2
        # Two digits of the half-width, one more than is known: rounding does not visibly move a bound.
        decimals = _decimals(half, 2) if half > 0 else decimals
        interval = f"[{_number(figure.low, decimals)}, {_number(figure.high, decimals)}]"
    mark = DOUBT if figure.note else ""
    return Printed(_number(figure.value, decimals), interval + mark, figure.unit, figure.n)


def trainings_text(trainings: tuple[int, int]) -> str:
    """Return the number of trainings behind a difference; empty if neither side has several."""
    if max(trainings) == 1:
        return ""
    only = "; other seeds may give another difference" if min(trainings) == 1 else ""
    return f"{trainings[0]} + {trainings[1]} trainings{only}"


def bounds(figure: Figure) -> tuple[float, float]:
    """Return the interval of a defined figure as it is drawn: a missing bound is the value itself."""
    assert figure.value is not None
    low, high = (figure.value if bound is None else bound for bound in (figure.low, figure.high))
    return low, high


def invalidity(scenario: ScenarioRecord | None) -> str:
    """Return why the figures of a scenario are not valid, such as `not valid: load of other processes`."""
    if scenario is None or scenario.valid:
        return ""
    return ": ".join(filter(None, ["not valid", "; ".join(scenario.reasons)]))


def disturbances(scenario: ScenarioRecord) -> str:
    """Return how many timings of windows were disturbed, and why, or an empty string."""
    reasons = sum((Counter(place.disturbed) for place in scenario.timed_on), Counter[str]())
    if not reasons:
        return ""
    causes = "; ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
    windows = sum(place.windows for place in scenario.timed_on)
    return f"{reasons.total()} of {windows} windows disturbed ({causes})"


def count(value: float, unit: str) -> str:
    """Return an exact quantity with an SI prefix: `590 k parameters`, `1.23 MB at peak`, `1.25 GFLOP`."""
    gap = "" if unit.startswith(("B", "FLOP")) else " "
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            scaled = value / factor
            return f"{scaled:.{_decimals(scaled, 3)}f} {prefix}{gap}{unit}".strip()
    return f"{value:g} {unit}".strip()


def _readable_seconds(figure: Figure) -> Figure:
    assert figure.value is not None
    if not _SECONDS.match(figure.unit) or abs(figure.value) >= 1:
        return figure
    factor, prefix = (1e3, "m") if abs(figure.value) >= 1e-3 else (1e6, "µ")
    low, high = (None if bound is None else bound * factor for bound in (figure.low, figure.high))
    return replace(figure, value=figure.value * factor, low=low, high=high, unit=prefix + figure.unit)


def _decimals(value: float, digits: int) -> int:
    """Return how many decimal places, 0 to 6, show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _number(value: float, decimals: int) -> str:
    grouped = f"{value:,.{decimals}f}"
    return grouped.replace(",", _THOUSANDS if abs(value) >= 10_000 else "").replace("-", "−")
