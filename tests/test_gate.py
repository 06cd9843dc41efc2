"""A gate allows the losses that its rules name: a smaller one passes and a larger one blocks, if proven."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from harness.compare.accuracy import FigurePair, judge_loss
from harness.compare.correction import correct_verdicts
from harness.compare.outcome import Change, Comparison, TrialComparison
from harness.decisions.margin import ALPHA, BoundTest, bound_test, decide
from harness.decisions.policy import GatePolicy, GateRule
from harness.errors import UsageError
from harness.statistics.jackknife import Estimate, JackknifedFigure, figure, student
from harness.suite.loading import read_gate

BLANK = Change("accuracy", "score", decides=True)


def mean_of(values: np.ndarray, better: Any = None) -> JackknifedFigure:
    """Return the mean of one value per sample as a figure with its replicates."""
    n = len(values)
    replicates = (values.sum() - values) / (n - 1)
    return JackknifedFigure(
        figure(np.r_[values.mean(), replicates], n, "points", "s", better=better), replicates
    )


def sides(loss: float, noise: float = 1.0, n: int = 40, better: Any = None) -> FigurePair:
    """Return two figures whose paired difference is exactly −loss, with standard error noise/√n."""
    generator = np.random.default_rng(0)
    base, paired = generator.normal(50, 10, n), generator.normal(size=n)
    paired = (paired - paired.mean()) / paired.std(ddof=1) * noise
    return [mean_of(base, better)], [mean_of(base - loss + paired, better)]


@pytest.mark.parametrize(
    ("loss", "rule", "verdict"),
    [
        (0.4, {"max_drop": 1.0}, "pass"),  # proven worse than before, and proven not worse by 1
        (0.7, {"max_drop": 1.0}, "inconclusive"),
        (1.4, {"max_drop": 1.0}, "regression"),
        (0.4, {"max_drop": 0.0}, "regression"),
        (-0.4, {"max_drop": 0.0}, "improvement"),
        (0.1, {"max_drop": 0.0}, "inconclusive"),
        (0.4, {"max_relative_drop": 0.02}, "pass"),  # 1 of 50
        (1.4, {"max_relative_drop": 0.02}, "regression"),
    ],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_loss_is_held_against_its_limit(
    loss: float, rule: dict[str, float], verdict: str, better: str
) -> None:
    sign = 1 if better == "higher" else -1
    change = judge_loss(BLANK, sides(sign * loss, better=better), GateRule(**rule))
    assert change.verdict == verdict


def test_the_bound_test_a_limit_is_scipys_t_test_of_the_differences() -> None:
    base, head = sides(0.4)
    change = judge_loss(BLANK, (base, head), GateRule(max_drop=0.5))
    generator = np.random.default_rng(0)
    generator.normal(50, 10, 40)
    noise = generator.normal(size=40)
    differences = (noise - noise.mean()) / noise.std(ddof=1) - 0.4
    assert change.test is not None
    for side, p in (("greater", change.test.p_if_false), ("less", change.test.p_if_true)):
        assert p == pytest.approx(stats.ttest_1samp(differences, -0.5, alternative=side).pvalue)


def suite_outcome(changes: list[Change]) -> str:
    trials = [
        TrialComparison("b", str(i), "translation", "compared", changes=(change,))
        for i, change in enumerate(changes)
    ]
    return Comparison("s", "r", None, "b", None, tuple(correct_verdicts(trials)), ()).outcome


def test_error_rates_hold_for_the_suite() -> None:
    """1,000 suites of 12 trials at the limit: any wrong pass in ≤ 2.5% (± .5), and as many wrong blocks."""
    generator, n = np.random.default_rng(4), 50
    passed = blocked = 0
    for _ in range(1000):
        estimates = [
            student(values.mean() - 1, [(values.var(ddof=1) / n, n - 1)])
            for values in generator.normal(size=(12, n))  # the true loss is 1
        ]
        decisions = decide([bound_test(estimate, -1.0, "higher") for estimate in estimates])
        passed += "supported" in decisions
        blocked += "refuted" in decisions
    assert 10 <= passed <= 40
    assert 10 <= blocked <= 40


def test_among_many_comparisons_a_doubtful_loss_is_undecided() -> None:
    loss = judge_loss(BLANK, sides(0.36), None)
    equal = judge_loss(BLANK, sides(0.0), None)
    assert loss.test is not None and ALPHA / 12 < loss.test.p_if_true < ALPHA
    assert suite_outcome([loss]) == "regression"
    assert suite_outcome([loss, *[equal] * 11]) == "inconclusive"


def test_the_direction_of_a_bound_follows_the_metric() -> None:
    estimate = Estimate(0.5, 0.05, 30.0)
    higher, lower = (bound_test(estimate, 0.3, side) for side in ("higher", "lower"))  # type: ignore[arg-type]
    assert higher == BoundTest(lower.p_if_true, lower.p_if_false)
    assert decide([higher]) == ["supported"] and decide([lower]) == ["refuted"]


POLICY = """
gate:
  - {max_drop: 0.5}
  - {trials: "b/small[batch_size=*]", metric: chrf, max_drop: 1, tier: advisory}
  - {task: detection, max_relative_drop: 0.01}
  - {speed: offline, max_slowdown: 0.1}
  - {cost: parameters, max_growth: 0}
"""


def test_the_last_rule_about_a_figure_decides(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(POLICY)
    policy = read_gate(tmp_path / "gate.yaml")
    small = policy.of("translation", "b/small[batch_size=1]")
    assert small.rule("metric", "bleu", headline=True) == GateRule(max_drop=0.5)
    chrf = small.rule("metric", "chrf")
    assert chrf is not None and (chrf.max_drop, chrf.tier) == (1, "advisory")
    assert policy.of("translation", "b/large").rule("metric", "chrf") is None
    detector = policy.of("detection", "b/yolo").rule("metric", "ap", headline=True)
    assert detector is not None and detector.max_relative_drop == 0.01
    for scenario, limit in (("offline", 0.1), ("single-stream", 0.05)):
        rule = small.rule("speed", scenario)
        assert rule is not None and rule.max_slowdown == limit


def test_a_rule_that_could_never_fail_is_told() -> None:
    trials = [("b/yolo", "detection", {"ap", "ap50", "offline"})]
    rules = [
        {"trials": "c/*", "max_drop": 0.1},
        {"metric": "ap5", "max_drop": 0.1},
        {"task": "translation", "max_drop": 0.1},
        {"metric": "ap50", "max_drop": 0.1},
    ]
    lines = GatePolicy.model_validate(rules).idle(trials)  # type: ignore[arg-type]
    assert lines == (
        "gate, rule 1: no trial matches 'c/*'",
        "gate, rule 2: its trials have no figure 'ap5'; did you mean 'ap50'?",
        "gate, rule 3: no trial of task translation matches '*'",
    )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "ap"}, "a rule about a metric needs one of floor, max_drop, max_relative_drop"),
        ({"metric": "ap", "max_slowdown": 0.1}, "a rule about a metric needs"),
        ({"metric": "ap", "speed": "offline", "max_drop": 0.1}, "one of metric, speed and cost"),
        ({"max_drop": 0.1, "max_relative_drop": 0.1}, "not both"),
        ({"max_drop": -0.1}, "greater than or equal to 0"),
        ({"floor": 0.1, "where": "objects >= 4"}, "where limits the loss of a metric only"),
        ({"speed": "offline", "max_slowdown": 0.1, "where": "objects >= 4"}, "where limits the loss"),
        ({"max_drop": 0.1, "where": "objects > 4"}, "expected COLUMN >= VALUE"),
        ({"max_dorp": 0.1}, "Extra inputs"),
    ],
)
def test_a_malformed_rule_is_refused(rule: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GateRule.model_validate(rule)


def test_a_file_that_is_named_as_a_gate_must_have_one(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("gates:\n  - {max_drop: 0.5}\n")
    with pytest.raises(UsageError, match=r"expected the key 'gate' .*found: gates"):
        read_gate(tmp_path / "gate.yaml")


def test_a_mistake_in_a_file_of_rules_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("gate:\n  - {max_drop: 0.5}\n  - {max_dorp: 1}\n")
    with pytest.raises(UsageError, match=r"gate\.yaml:3: .*max_dorp.*max_drop"):
        read_gate(tmp_path / "gate.yaml")


def test_a_relative_drop_of_a_negative_figure_is_a_loss() -> None:
    base, head = (mean_of(np.linspace(-12, -8, 40) - loss) for loss in (0.0, 0.001))
    assert judge_loss(BLANK, ([base], [head]), GateRule(max_relative_drop=0.1)).verdict == "pass"
    much = mean_of(np.linspace(-12, -8, 40) - 2)
    assert judge_loss(BLANK, ([base], [much]), GateRule(max_relative_drop=0.1)).verdict == "regression"


def test_a_file_of_rules_may_include_others_whose_rules_come_first(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("gate:\n  - {max_drop: 0.5}\n  - {metric: chrf, max_drop: 1}\n")
    (tmp_path / "gate.yaml").write_text("include: [common.yaml]\ngate:\n  - {metric: chrf, max_drop: 2}\n")
    policy = read_gate(tmp_path / "gate.yaml")
    assert [rule.max_drop for rule in policy.root] == [0.5, 1, 2]
    (tmp_path / "gate.yaml").write_text("include: [common.yaml]\n")
    assert len(read_gate(tmp_path / "gate.yaml").root) == 2
    (tmp_path / "gate.yaml").write_text("include: [nowhere.yaml]\n")
    with pytest.raises(UsageError, match=r"gate\.yaml:1: include: nowhere\.yaml: no such file"):
        read_gate(tmp_path / "gate.yaml")
