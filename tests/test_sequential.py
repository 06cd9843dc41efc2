"""The sequential test of two versions timed in turns: error rates against exact ones, and when it stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import quantile_test

from harness.compare.sequential import LOOKS, judge_pairs, turns_changes
from harness.compare.speed_verdict import PROVEN, Judgement
from harness.rundir.results import TurnsRecord
from harness.statistics.ranks import median
from harness.task import Figure

LIMIT = 0.05
REPETITIONS = 1500


def exact_rate() -> float:
    """Return the probability that fair signs reject at any look, by walking through their sums."""
    allowed = {}
    for pairs, alpha in LOOKS.items():
        tails = np.cumsum([math.comb(pairs, k) / 2**pairs for k in range(pairs + 1)])
        allowed[pairs] = int((tails <= alpha).sum()) - 1  # at most so many signs against
    against, rejected = {0: 1.0}, 0.0
    for pairs in range(1, max(LOOKS) + 1):
        stepped: dict[int, float] = {}
        for count, probability in against.items():
            for after in (count, count + 1):
                stepped[after] = stepped.get(after, 0.0) + probability / 2
        if pairs in LOOKS:
            rejected += sum(p for count, p in stepped.items() if count <= allowed[pairs])
            stepped = {count: p for count, p in stepped.items() if count > allowed[pairs]}
        against = stepped
    return rejected


def judge_in_turn(
    differences: np.ndarray, comparisons: int = 1, resolution: float = 0.0
) -> tuple[Judgement, int]:
    """Judge after every pair, as a gate does; return the judgement and the number of pairs."""
    for pairs in range(1, len(differences) + 1):
        judgement = judge_pairs(differences[:pairs].tolist(), LIMIT, comparisons, resolution)
        if judgement is not None:
            return judgement, pairs
    raise AssertionError("never judged")


def simulate(
    slowdown: float, spread: float = 0.01, comparisons: int = 1, heavy: bool = False
) -> dict[str, float]:
    """Return the share of each verdict, if 6% of the processes of each version are 12% slower for life."""
    generator = np.random.default_rng(0)
    verdicts: dict[str, float] = {}
    for _ in range(REPETITIONS):
        pairs = max(LOOKS)
        noise = spread * (generator.standard_t(2, pairs) if heavy else generator.normal(0, 1, pairs))
        slow = np.log(1.12) * ((generator.random(pairs) < 0.06) - 1.0 * (generator.random(pairs) < 0.06))
        judgement, _ = judge_in_turn(np.log1p(slowdown) + noise + slow, comparisons)
        verdicts[judgement.verdict] = verdicts.get(judgement.verdict, 0.0) + 1 / REPETITIONS
    return verdicts


class TestErrorRates:
    def test_the_looks_spend_at_most_the_promised_error(self) -> None:
        assert sum(LOOKS.values()) == pytest.approx(0.025)
        assert 0.005 < exact_rate() <= 0.025

    @pytest.mark.parametrize("heavy", [False, True])
    def test_a_slowdown_at_the_margin_is_called_a_regression_at_the_exact_rate(self, heavy: bool) -> None:
        found = simulate(PROVEN * LIMIT, heavy=heavy).get("regression", 0.0)
        rate = exact_rate()
        assert found == pytest.approx(rate, abs=4 * math.sqrt(rate / REPETITIONS))

    def test_equal_versions_pass_and_faster_ones_are_never_a_regression(self) -> None:
        equal, faster = simulate(0.0), simulate(-0.05)
        assert equal["pass"] > 0.95 and equal.get("regression", 0.0) < 0.002
        assert faster["pass"] > 0.99 and "regression" not in faster

    def test_a_slowdown_at_the_limit_is_found(self) -> None:
        assert simulate(0.05)["regression"] > 0.97
        assert simulate(0.10)["regression"] > 0.99
        assert simulate(0.05, comparisons=16)["regression"] > 0.9

    def test_a_slowdown_at_the_limit_passes_at_most_at_the_promised_rate(self) -> None:
        assert simulate(0.05, spread=0.03).get("pass", 0.0) < 0.025


class TestJudgement:
    def test_stops_at_the_first_look_if_all_pairs_agree(self) -> None:
        judgement, pairs = judge_in_turn(np.full(24, np.log(1.2)))
        assert (judgement.verdict, pairs) == ("regression", 8)
        assert judgement.slowdown is not None and judgement.slowdown.value == pytest.approx(0.2)
        assert judge_in_turn(np.zeros(24))[0].verdict == "pass"

    def test_eight_pairs_prove_nothing_among_many_comparisons(self) -> None:
        assert judge_pairs([0.2] * 8, LIMIT, 2, 0.0) is None
        judgement = judge_pairs([0.2] * 14, LIMIT, 16, 0.0)
        assert judgement is not None and judgement.verdict == "regression"

    def test_too_few_pairs_for_the_correction_pass_only_what_is_faster(self) -> None:
        slower, equal, faster = (judge_pairs([x] * 8, LIMIT, 2, 0.0, last=True) for x in (0.3, 0.0, -0.3))
        assert slower is not None and equal is not None and faster is not None
        assert [slower.verdict, equal.verdict, faster.verdict] == ["inconclusive", "inconclusive", "pass"]
        assert slower.reason == "8 pairs are too few for 2 comparisons"
        assert slower.detectable is None and faster.detectable is None

    def test_never_passes_what_this_node_is_known_not_to_resolve(self) -> None:
        judgement, pairs = judge_in_turn(np.zeros(24), resolution=0.02)
        assert (judgement.verdict, pairs) == ("inconclusive", 24)
        assert judgement.detectable == pytest.approx(PROVEN * LIMIT + 1.65 * 0.02)
        assert "could have been missed; detectable with 24 pairs: 5.8%" in judgement.reason

    def test_too_few_pairs_are_inconclusive_when_the_budget_ends(self) -> None:
        judgement = judge_pairs([0.2] * 3, LIMIT, 1, 0.0, last=True)
        assert judgement is not None and judgement.verdict == "inconclusive"
        assert judgement.reason == "3 pairs are too few for an interval"

    def test_the_budget_may_end_between_two_looks(self) -> None:
        assert judge_pairs([0.2] * 10, LIMIT, 1, 0.0) is None
        judgement = judge_pairs([0.2] * 10, LIMIT, 1, 0.0, last=True)
        assert judgement is not None and judgement.verdict == "regression"


def test_the_interval_of_the_median_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).normal(0, 1, 24)
    expected = quantile_test(values, q=0, p=0.5).confidence_interval(0.97)
    found = median(values, 0.97)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.value == np.median(values)
    assert median(values[:5], 0.95).low is None


def test_a_record_becomes_a_change() -> None:
    base, head = (Figure(value, None, None, 8, "s", "") for value in (0.002, 0.0021))
    record = TurnsRecord(
        baseline="abc", verdict="pass", reason="r", base=base, head=head, pairs=8, decides=False
    )
    [change] = turns_changes({"offline": record})
    assert (change.base, change.head, change.verdict, change.decides) == (base, head, "pass", False)
