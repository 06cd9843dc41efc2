"""What a comparison found: a change a figure, gathered by trial, and one outcome over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.checkpoint import sha256
from harness.compare.frontier import FrontierChange
from harness.errors import InfrastructureError
from harness.files import read_json
from harness.task import Figure, TaskName

Kind = Literal["accuracy", "speed"]
Verdict = Literal[
    "regression", "improvement", "inconclusive", "incomparable", "unchanged", "pass", "not decided"
]
Outcome = Literal["regression", "incomplete", "inconclusive", "pass"]
URGENCY: tuple[Verdict, ...] = (
    *("regression", "incomparable", "inconclusive", "improvement"),
    *("unchanged", "pass", "not decided"),
)
"""The worst first."""
State = Literal["compared", "missing", "new", "incomplete", "incomparable"]

REGRESSION = 1  # exit codes of the command line's contract
INCONCLUSIVE = 4
SHOWN_IDS = 10


@dataclass(frozen=True)
class Change:
    """One figure, before and after.

    `difference` of an accuracy is head − base in the figure's unit, over the same samples; that of a speed
    is how much longer a sample takes, as a fraction of the baseline's time: above 0 is slower. Where
    `decides` is false the change is reported and moves no exit code.
    """

    kind: Kind
    name: str
    base: Figure | None
    head: Figure | None
    difference: Figure | None
    verdict: Verdict
    reason: str
    decides: bool
    p_value: float | None = None
    """Of no difference in accuracy: two-sided, of this comparison alone; None where nothing was tested."""

    def relative_text(self) -> str:
        """The difference as a share of the baseline's value, such as `+2.6%`; empty if there is none.

        That of a speed says `time`: beside a throughput that fell, `+25%` alone would read as a gain.
        """
        found = self.difference
        if found is None or found.value is None or not (self.base and self.base.value):
            return ""
        share = found.value if self.kind == "speed" else found.value / self.base.value
        return f"{share:+.1%}{' time' if self.kind == 'speed' else ''}".replace("-", "−")

    def difference_text(self) -> str:
        """`+0.81 [−0.12, +1.7]`, or for speed `+5.1% [+2.0%, +8.3%] time`; empty if there is none."""
        found = self.difference
        if found is None or found.value is None:
            return ""
        form, tail = ("{:+.1%}", " time") if self.kind == "speed" else ("{:+.3g}", "")
        interval = "[no interval]"
        if found.low is not None and found.high is not None:
            interval = f"[{form.format(found.low)}, {form.format(found.high)}]"
        return f"{form.format(found.value)} {interval}{tail}".replace("-", "−")


@dataclass(frozen=True)
class TrialComparison:
    """One (benchmark, variant) of either run."""

    benchmark: str
    variant: str
    task: TaskName
    state: State
    reason: str = ""
    samples: int = 0
    flipped: int | None = None
    """Samples whose prediction is another one than before; None where that was not compared."""
    flipped_ids: tuple[str, ...] = ()
    """The first `SHOWN_IDS` of them."""
    changes: tuple[Change, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.benchmark}/{self.variant}"

    @property
    def verdict(self) -> str:
        """The worst of the changes that decide; the state where nothing could be compared."""
        found = {change.verdict for change in self.changes if change.decides}
        return next((verdict for verdict in URGENCY if verdict in found), self.state)


@dataclass(frozen=True)
class Comparison:
    """A run against a baseline, trials in the run's order, then those only the baseline has."""

    suite: str
    run: str
    run_revision: str | None
    baseline: str
    baseline_revision: str | None
    trials: tuple[TrialComparison, ...]
    software: tuple[str, ...]
    """What differs between the drivers' machines besides the hardware, such as `torch 2.6.0 → 2.7.0`."""
    frontier: tuple[FrontierChange, ...] = ()
    results: str = ""
    """SHA-256 of the run's results.json: a run that was resumed since has another."""

    def decisive(self) -> Iterator[Change]:
        """The changes that decide."""
        return (change for trial in self.trials for change in trial.changes if change.decides)

    @property
    def compares_speed(self) -> bool:
        """Whether any two timings were set against each other."""
        changes = (change for trial in self.trials for change in trial.changes)
        return any(change.kind == "speed" and change.difference is not None for change in changes)

    def count(self, state: State) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def outcome(self) -> Outcome:
        """The worst of what was found; a proven regression outweighs what is missing beside it."""
        verdicts = {change.verdict for change in self.decisive()}
        if "regression" in verdicts:
            return "regression"
        if self.count("incomplete"):
            return "incomplete"
        undecided = self.count("missing") + self.count("incomparable")
        return "inconclusive" if undecided or verdicts & {"inconclusive", "incomparable"} else "pass"

    def exit_code(self, strict: bool) -> int:
        """1 regression, 3 the run has incomplete trials, 4 inconclusive (if strict), else 0."""
        strictly = INCONCLUSIVE if strict else 0
        codes = {
            "regression": REGRESSION,
            "incomplete": InfrastructureError.exit_code,
            "inconclusive": strictly,
            "pass": 0,
        }
        return codes[self.outcome]

    def verdict(self) -> str:
        """One line: the outcome and the counts that it rests on."""
        kinds = []
        for kind in ("accuracy", "speed"):
            tally = Counter(change.verdict for change in self.decisive() if change.kind == kind)
            if tally:
                kinds.append(f"{kind}: " + ", ".join(f"{n} {verdict}" for verdict, n in tally.items()))
        states: list[State] = ["incomplete", "incomparable", "missing", "new"]
        trials = [f"{n} {state}" for state in states if (n := self.count(state))]
        if trials:
            kinds.append(f"trials: {', '.join(trials)}")
        return "; ".join([self.outcome, *kinds])

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        trials = [{**asdict(trial), "verdict": trial.verdict} for trial in self.trials]
        return {"outcome": self.outcome, "verdict": self.verdict(), **asdict(self), "trials": trials}


def last_comparison(run_dir: Path) -> dict[str, Any]:
    """What `harness compare` last found of these very results; empty if that was of others, or nothing.

    Raises:
        UsageError: its file is damaged.
    """
    found: dict[str, Any] = read_json(run_dir / "report" / "compare.json") or {}
    return found if found.get("results") == sha256(run_dir / "results.json") else {}
