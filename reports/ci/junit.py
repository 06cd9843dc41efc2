"""junit.xml: a run, or its comparison, as test cases for the test reports of Jenkins, GitLab and others."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar
from xml.etree import ElementTree as ET

from harness.compare.outcome import Change, Comparison, TrialComparison, Verdict
from harness.compare.sequential import turns_changes
from harness.rundir.results import ClaimRecord, Results, ScenarioRecord, TrialRecord
from harness.scenarios.settings import GATING
from harness.task import Figure
from reports.figures import printed
from reports.text import display

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 §2.2, Char
Kind = Literal["error", "failure", "skipped"]
_PROBLEMS: dict[Verdict, Kind] = {
    "regression": "failure",
    "inconclusive": "skipped",
    "incomparable": "skipped",
}
T = TypeVar("T", TrialRecord, TrialComparison)


@dataclass(frozen=True)
class _Case:
    name: str
    seconds: float = 0.0
    output: str = ""
    problem: Kind | None = None
    reason: str = ""


def to_junit(results: Results) -> str:
    """Return one test suite per benchmark with one case per trial and metric.

    An incomplete trial is one case with an `error`. An invalid speed measurement is a `failure` if its
    profile gates, else `skipped`. A skipped benchmark is one `skipped` case. A refuted claim that is required
    is a `failure`; an undecided claim is `skipped`.
    """
    root = ET.Element("testsuites", name=_text(results.suite))
    environment = results.environments.get(results.run.environment)
    attributes = {
        "timestamp": results.run.started[:19],
        "hostname": _text(environment.host if environment else results.run.environment),
    }
    for benchmark, trials in _by_benchmark(results.trials):
        _suite(root, benchmark, attributes, [case for trial in trials for case in _cases(trial)])
    if results.claims:
        _suite(root, "claims", attributes, [_claim(claim) for claim in results.claims])
    for skipped in results.skipped:
        case = _Case("not run here", problem="skipped", reason=skipped.reason)
        _suite(root, skipped.benchmark, attributes, [case])
    return _document(root)


def comparison_to_junit(comparison: Comparison) -> str:
    """Return one test suite per benchmark with one case per trial and figure.

    A regression that decides is a `failure`. A figure that could not be decided or compared is `skipped`
    with the reason. An incomplete trial is an `error`. Figures that do not decide pass.
    """
    root = ET.Element("testsuites", name=_text(comparison.suite))
    for benchmark, trials in _by_benchmark(comparison.trials):
        _suite(root, benchmark, {}, [case for trial in trials for case in _compared(trial)])
    return _document(root)


def _claim(claim: ClaimRecord) -> _Case:
    verdict = f"{claim.verdict}: {claim.reason}" if claim.reason else claim.verdict
    effect = str(printed(claim.effect)) if claim.effect else ""
    problem: Kind | None = None if claim.verdict == "supported" else "skipped"
    if claim.verdict == "refuted":
        problem = "failure" if claim.required else None
    return _Case(
        f"{claim.name}: {claim.claim}", output=f"{effect}\n{verdict}", problem=problem, reason=verdict
    )


def _by_benchmark(trials: Iterable[T]) -> Iterable[tuple[str, list[T]]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for trial in trials:
        groups[trial.benchmark].append(trial)
    return groups.items()


def _document(root: ET.Element) -> str:
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _compared(trial: TrialComparison) -> Iterator[_Case]:
    if trial.state != "compared":
        problem: Kind = "error" if trial.state == "incomplete" else "skipped"
        yield _Case(trial.variant, problem=problem, reason=f"{trial.state}: {trial.reason}")
    yield from (_change(trial.variant, change) for change in trial.changes)


def _change(variant: str, change: Change) -> _Case:
    figures = " → ".join(str(printed(side)) if side else "none" for side in (change.base, change.head))
    difference, verdict = change.difference_text(), f"{change.verdict}: {change.reason}"
    return _Case(
        f"{variant} {change.name}",
        output="\n".join(filter(None, [figures, difference, verdict])),
        problem=_PROBLEMS.get(change.verdict) if change.decides else None,
        reason=f"{verdict} ({difference})" if difference else verdict,
    )


def _suite(root: ET.Element, name: str, attributes: dict[str, str], cases: list[_Case]) -> None:
    problems = [case.problem for case in cases]
    suite = ET.SubElement(
        root,
        "testsuite",
        attributes,
        name=_text(name),
        tests=str(len(cases)),
        failures=str(problems.count("failure")),
        errors=str(problems.count("error")),
        skipped=str(problems.count("skipped")),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname=_text(name), name=_text(case.name), time=f"{case.seconds:.3f}"
        )
        if case.problem == "skipped":
            ET.SubElement(element, "skipped", message=_text(case.reason))
        elif case.problem:
            problem = ET.SubElement(element, case.problem, message=_text(case.reason), type=case.problem)
            problem.text = _text(case.reason)
        if case.output:
            ET.SubElement(element, "system-out").text = _text(case.output)


def _cases(trial: TrialRecord) -> Iterator[_Case]:
    if trial.status != "complete":
        reason = f"{trial.status}: {trial.reason or 'no reason recorded'}"
        yield _Case(trial.variant, problem="error", reason=reason)
        return
    for name, figure in trial.metrics.items():
        yield _Case(f"{trial.variant} {name}", output=_figure(name, figure))
    for name, scenario in trial.speed.items():
        yield _speed(f"{trial.variant} {name}", scenario)
    yield from (_change(trial.variant, change) for change in turns_changes(trial.turns))


def _speed(name: str, scenario: ScenarioRecord) -> _Case:
    output = "\n".join(_figure(label, figure) for label, figure in scenario.figures.items())
    if scenario.valid:
        return _Case(name, scenario.seconds, output)
    kind: Kind = "failure" if scenario.profile in GATING else "skipped"
    return _Case(name, scenario.seconds, output, kind, f"not valid: {'; '.join(scenario.reasons)}")


def _figure(name: str, figure: Figure) -> str:
    return f"{name}: {printed(figure)} ({figure.signature})"


def _text(value: object) -> str:
    """Return text that is valid in XML, with control and direction-changing characters made visible."""
    return _NO_XML.sub("\ufffd", display(value, 2000, lines=True))
