"""The result of a comparison: one change per figure, grouped by trial, and one outcome over all."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

from harness.checkpoint import sha256
from harness.compare.frontier import FrontierChange
from harness.decisions.margin import BoundTest
from harness.errors import InfrastructureError
from harness.files import read_json
from harness.task import Figure, TaskName

FigureKind = Literal["accuracy", "speed", "cost"]
Verdict = Literal[
    "regression", "improvement", "inconclusive", "incomparable", "unchanged", "pass", "not decided"
]
Outcome = Literal["regression", "incomplete", "inconclusive", "pass"]
URGENCY: tuple[Verdict, ...] = (
    *("regression", "incomparable", "inconclusive", "improvement"),
    *("unchanged", "pass", "not decided"),
)
"""All verdicts, the worst first."""
State = Literal["compared", "missing", "new", "incomplete", "incomparable"]

SCHEMA = "harness-comparison/3"  # of compare.json
REGRESSION = 1  # exit codes of the command line's contract
INCONCLUSIVE = 4
SHOWN_IDS = 10  # maximum number of listed ids per trial of samples whose prediction differs


@dataclass(frozen=True)
class Change:
    """One figure in the baseline and in the run."""

    figure_kind: FigureKind
    name: str
    base: Figure | None = None
    head: Figure | None = None
    difference: Figure | None = None
    """For accuracy: head − base in the figure's unit, over the same samples. For speed: the extra time per
    sample as a fraction of the baseline's; above 0 is slower."""
    verdict: Verdict = "incomparable"
    reason: str = ""
    decides: bool = False  # the verdict counts towards the outcome; otherwise it is only reported
    p_value: float | None = None
    """Two-sided p-value of no difference in accuracy, before Holm's correction; None if not tested."""
    detectable: float | None = None
    """The smallest slowdown that would have been called a regression with a probability of about 90%."""
    limit: str = ""
    """The limit that the figure is held against, such as `max_drop 0.005`; empty if no loss is allowed."""
    test: BoundTest | None = None
    """The test of whether the limit is kept, before Holm's correction; None if the verdict needs none."""
    is_floor: bool = False
    """The run's figure is held against the smallest value that a rule allows; the baseline has no part."""

    def relative_text(self) -> str:
        """Return the difference relative to the baseline's value, such as `+2.6%`; empty if there is none.

        For speed, `time` is appended: next to a throughput that fell, `+25%` alone would read as a gain.
        """
        difference = self.difference
        if difference is None or difference.value is None or not (self.base and self.base.value):
            return ""
        is_speed = self.figure_kind == "speed"
        ratio = difference.value if is_speed else difference.value / self.base.value
        return f"{ratio:+.1%}{' time' if is_speed else ''}".replace("-", "−")

    def difference_text(self) -> str:
        """Return the difference with its interval: `+0.81 [−0.12, +1.7]`, or `+5.1% [+2.0%, +8.3%] time`."""
        difference = self.difference
        if difference is None or difference.value is None:
            return ""
        form, suffix = ("+.1%", " time") if self.figure_kind == "speed" else ("+.3g", "")
        bounds = [format(bound, form) for bound in difference.interval or ()]
        interval = ", ".join(bounds) or "no interval"
        return f"{difference.value:{form}} [{interval}]{suffix}".replace("-", "−")


@dataclass(frozen=True)
class TrialComparison:
    """The comparison of one variant in one benchmark, or of a model that was trained several times.

    The accuracy of such a model is decided over all its trainings. Each training also has an entry of its
    own, whose accuracy does not decide.
    """

    benchmark: str
    variant: str
    task: TaskName
    state: State
    reason: str = ""
    samples: int = 0
    flipped: int | None = None
    """Number of samples whose prediction differs; None if the predictions were not compared."""
    flipped_ids: tuple[str, ...] = ()  # ids of the first `SHOWN_IDS` samples whose prediction differs
    changes: tuple[Change, ...] = ()
    trainings: tuple[int, int] = (1, 1)
    """Number of trainings in the baseline and in the run."""

    @property
    def name(self) -> str:
        """BENCHMARK/VARIANT."""
        return f"{self.benchmark}/{self.variant}"

    @property
    def verdict(self) -> str:
        """The worst verdict of the changes that decide, or the state if there is none."""
        verdicts = {change.verdict for change in self.changes if change.decides}
        return next((verdict for verdict in URGENCY if verdict in verdicts), self.state)


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run with a baseline, by trial: those of the run, then the baseline's other ones."""

    suite: str
    run: str
    run_revision: str | None
    baseline: str
    baseline_revision: str | None
    trials: tuple[TrialComparison, ...]
    software: tuple[str, ...]
    """Differences in software between the drivers' machines, such as `torch 2.6.0 → 2.7.0`."""
    frontier: tuple[FrontierChange, ...] = ()
    results: str = ""  # SHA-256 of the run's results.json, which changes if the run is resumed
    notes: tuple[str, ...] = ()  # what was left out of prediction files, or is doubtful in them

    def decisive(self) -> Iterator[Change]:
        """Yield the changes that decide."""
        return (change for trial in self.trials for change in trial.changes if change.decides)

    @property
    def compares_speed(self) -> bool:
        """Return whether any speed was compared."""
        changes = (change for trial in self.trials for change in trial.changes)
        return any(change.figure_kind == "speed" and change.difference is not None for change in changes)

    def count(self, state: State) -> int:
        """Count the trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def outcome(self) -> Outcome:
        """The worst result. A proven regression takes precedence over incomplete or missing trials."""
        verdicts = {change.verdict for change in self.decisive()}
        if "regression" in verdicts:
            return "regression"
        if self.count("incomplete"):
            return "incomplete"
        undecided = self.count("missing") + self.count("incomparable")
        return "inconclusive" if undecided or verdicts & {"inconclusive", "incomparable"} else "pass"

    def exit_code(self, strict: bool) -> int:
        """Return 1 for a regression, 3 for incomplete trials, 4 if inconclusive and strict, else 0."""
        codes: dict[Outcome, int] = {
            "regression": REGRESSION,
            "incomplete": InfrastructureError.exit_code,
            "inconclusive": INCONCLUSIVE if strict else 0,
            "pass": 0,
        }
        return codes[self.outcome]

    def verdict(self) -> str:
        """Return one line: the outcome and the counts that it follows from."""
        parts: list[str] = [self.outcome]
        for figure_kind in get_args(FigureKind):
            tally = Counter(change.verdict for change in self.decisive() if change.figure_kind == figure_kind)
            if tally:
                parts.append(f"{figure_kind}: " + ", ".join(f"{n} {verdict}" for verdict, n in tally.items()))
        states: list[State] = ["incomplete", "incomparable", "missing", "new"]
        trials = [f"{n} {state}" for state in states if (n := self.count(state))]
        if trials:
            parts.append(f"trials: {', '.join(trials)}")
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [
            (trial.name, change.name, change.difference_text(), change.verdict, change.reason)
            for trial in self.trials
            for change in trial.changes
        ]
        table = pd.DataFrame(rows, columns=["trial", "figure", "difference", "verdict", "reason"])
        return f"<p>{escape(self.verdict())}</p>{table.to_html(index=False)}"

    def document(self) -> dict[str, object]:
        """Return the content of compare.json."""
        trials = [{**asdict(trial), "verdict": trial.verdict} for trial in self.trials]
        head = {"schema": SCHEMA, "outcome": self.outcome, "verdict": self.verdict()}
        return {**head, **asdict(self), "trials": trials}


def last_comparison(run_dir: Path) -> dict[str, Any]:
    """Return compare.json if it has this version's form and is about the current results.json, else {}.

    Raises:
        UsageError: compare.json is damaged.
    """
    document = read_json(run_dir / "report" / "compare.json")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return {}
    return document if document.get("results") == sha256(run_dir / "results.json") else {}
