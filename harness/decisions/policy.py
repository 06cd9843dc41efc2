"""The gate policy of a suite: by how much a trial may be worse than its baseline, and what then happens."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import Field, RootModel, model_validator

from harness.decisions.claims import parse_condition
from harness.files import StrictModel
from harness.identity import without_seed
from harness.task import TaskName

Tier = Literal["blocking", "advisory"]
Kind = Literal["metric", "speed", "cost"]
Cost = Literal["parameters", "flops", "memory", "energy"]

MAX_SLOWDOWN = 0.05  # of a scenario without a rule; docs/turns.md has its simulated error rates
_LIMITS: dict[Kind, frozenset[str]] = {
    "metric": frozenset({"floor", "max_drop", "max_relative_drop"}),
    "speed": frozenset({"max_slowdown"}),
    "cost": frozenset({"max_growth"}),
}


class GateRule(StrictModel, strict=True):
    """Limits for some trials. A rule that names no figure is about the headline metric of each trial."""

    trials: str = Field("*", description="Pattern of BENCHMARK/VARIANT with `*` and `?`.")
    task: TaskName | None = Field(None, description="Only the trials of this task.")
    metric: str | None = Field(None, description="Name of a figure, such as `ap50`; default: the headline.")
    speed: str | None = Field(None, description="A speed scenario.")
    where: str | None = Field(None, description="Only on these samples, such as `source words >= 21`.")
    cost: Cost | None = Field(None, description="Size, work, peak memory, or energy per sample of `offline`.")
    floor: float | None = Field(None, description="Smallest value (largest, where lower is better).")
    max_drop: float | None = Field(None, ge=0, description="Largest loss against the baseline, in the unit.")
    max_relative_drop: float | None = Field(
        None, ge=0, lt=1, description="Largest loss as a fraction of the baseline's value."
    )
    max_slowdown: float | None = Field(
        None, gt=0, description="Largest extra time per sample, as a fraction of the baseline's."
    )
    max_growth: float | None = Field(
        None, ge=0, description="Largest growth of a cost, as a fraction of the baseline's."
    )
    tier: Tier = Field("blocking", description="An `advisory` rule is reported and never decides.")

    @property
    def kind(self) -> Kind:
        """The kind of figure that the rule is about."""
        return "speed" if self.speed else "cost" if self.cost else "metric"

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if sum(name is not None for name in (self.metric, self.speed, self.cost)) > 1:
            raise ValueError("expected one of metric, speed and cost")
        limits = {name for names in _LIMITS.values() for name in names if getattr(self, name) is not None}
        allowed = _LIMITS[self.kind]
        if not limits or limits - allowed:
            raise ValueError(
                f"a rule about a {self.kind} needs one of {', '.join(sorted(allowed))}, no other"
            )
        if self.where is not None:
            parse_condition(self.where)
            if self.kind != "metric" or self.floor is not None:
                raise ValueError("where limits the loss of a metric only")
        if self.max_drop is not None and self.max_relative_drop is not None:
            raise ValueError("expected max_drop or max_relative_drop, not both")
        return self

    def covers(self, trial: str, task: TaskName) -> bool:
        """Return whether the rule is about a trial (BENCHMARK/VARIANT, with or without its seed)."""
        pattern = self.trials.replace("[", "[[]")  # names contain brackets: yolo[batch_size=1]
        matches = any(fnmatchcase(name, pattern) for name in (trial, without_seed(trial)))
        return matches and self.task in (None, task)


class GatePolicy(RootModel[tuple[GateRule, ...]]):
    """The rules of a gate. Of several rules about one figure of a trial, the last decides."""

    root: tuple[GateRule, ...] = ()

    def of(self, task: TaskName, *trials: str) -> "GatePolicy":
        """Return the rules that are about one of some trials (BENCHMARK/VARIANT)."""
        rules = (rule for rule in self.root if any(rule.covers(trial, task) for trial in trials))
        return GatePolicy(tuple(rules))

    def rule(self, kind: Kind, name: str, headline: bool = False) -> GateRule | None:
        """Return the rule about a figure, or None if its change is only reported.

        Without a rule in the policy, the headline metric must not become worse, and no scenario slower than
        `MAX_SLOWDOWN`.
        """
        for rule in reversed(self.root):
            named = rule.metric or rule.speed or rule.cost
            if rule.where is None and rule.kind == kind and (named == name or (named is None and headline)):
                return rule
        if kind == "speed":
            return GateRule(speed=name, max_slowdown=MAX_SLOWDOWN)
        return GateRule(max_drop=0.0) if headline else None

    def idle(self, trials: Iterable[tuple[str, TaskName, Collection[str]]]) -> tuple[str, ...]:
        """Return a line per rule that is about no figure of any trial, and could therefore never fail.

        Args:
            trials: BENCHMARK/VARIANT, task, and the names of the metrics' figures and the scenarios.
        """
        listed = list(trials)
        lines = []
        for number, rule in enumerate(self.root, start=1):
            covered = [figures for trial, task, figures in listed if rule.covers(trial, task)]
            name = rule.metric or rule.speed
            if not covered:
                task = f" of task {rule.task}" if rule.task else ""
                lines.append(f"gate, rule {number}: no trial{task} matches '{rule.trials}'")
            elif name and not any(name in figures for figures in covered):
                close = get_close_matches(name, {figure for figures in covered for figure in figures}, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                lines.append(f"gate, rule {number}: its trials have no figure '{name}'{hint}")
        return tuple(lines)
