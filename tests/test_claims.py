"""Claims of a suite are parsed, never executed; checked, with their line; and decided by a test."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from lxml import html
from raw_timings import offline_timings
from sacrebleu.metrics.bleu import BLEU
from scipy import stats
from small_suite import planned, run_suite

from harness.decisions.claims import ClaimEntry, Condition, Quantity, Statement, parse_claim, parse_condition
from harness.decisions.margin import BoundTest
from harness.driver.claims import UndecidableError, measure_claim
from harness.driver.run import exit_code
from harness.errors import UsageError
from harness.rundir.results import ClaimRecord, Results
from harness.rundir.store import RunDirectory
from harness.tracking.entries import ranks, run_entry
from reports.ci.junit import to_junit
from reports.markdown import to_markdown
from reports.page.html import to_html
from reports.verdict import is_clean, verdict


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        (
            "attention.bleu > lstm.bleu + 1",
            Statement(Quantity("attention", "bleu"), ">", 1, Quantity("lstm", "bleu"), 1),
        ),
        ("a.bleu > b.bleu - 0.5", Statement(Quantity("a", "bleu"), ">", 1, Quantity("b", "bleu"), -0.5)),
        (
            "ssd300.v2[batch_size=1].single-stream<2.5*yolo.single-stream",
            Statement(
                Quantity("ssd300.v2[batch_size=1]", "single-stream"),
                "<",
                2.5,
                Quantity("yolo", "single-stream"),
                0,
            ),
        ),
        ("yolo.ap50 > 0.4", Statement(Quantity("yolo", "ap50"), ">", 1, None, 0.4)),
        ("a.score < -3", Statement(Quantity("a", "score"), "<", 1, None, -3)),
    ],
)
def test_a_claim_is_parsed(text: str, statement: Statement) -> None:
    assert parse_claim(text) == statement


@pytest.mark.parametrize(
    "text",
    ["", "a.bleu", "a.bleu >", "a > 3", "a.bleu >= 3", "a.bleu > b.bleu > 1", "__import__('os').x > 1"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected ADAPTER"):
        parse_claim(text)


def test_a_condition_is_parsed() -> None:
    assert parse_condition("source words >= 21") == Condition("source words", ">=", "21")
    assert parse_condition("weather=night") == Condition("weather", "=", "night")
    with pytest.raises(ValueError, match="expected COLUMN"):
        parse_condition("words > ")


SIZE = 60


def suite(folder: Path, texts: dict[str, list[str]], **claims: dict[str, Any]) -> dict[str, Any]:
    """Return a suite of stored translations with claims about them."""
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "name": "claims",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": SIZE, "max_tokens": 30}}},
        "adapters": {name: {"adapter": "predictions", "options": {"file": f"{name}.txt"}} for name in texts},
        "benchmarks": {"words": {"dataset": "few", "adapters": list(texts), "metrics": ["bleu", "chrf"]}},
        "claims": {name: {"benchmark": "words", **claim} for name, claim in claims.items()},
    }


@pytest.fixture
def references(tmp_path: Path) -> list[str]:
    data = planned(tmp_path, suite(tmp_path, {"a": ["x"] * SIZE})).trials[0].dataset.open()
    return [data[index].target[0] for index in range(SIZE)]  # type: ignore[index]


def verdicts(results: Results) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in results.claims}


def claim(results: Results, name: str) -> ClaimRecord:
    return next(record for record in results.claims if record.name == name)


def test_claims_about_stored_predictions(tmp_path: Path, references: list[str]) -> None:
    good = [text if index % 3 else f"{text} noch" for index, text in enumerate(references)]
    bad = [" ".join(text.split()[:-3]) or "x" for text in good]
    content = suite(
        tmp_path,
        {"good": good, "bad": bad},
        better={"claim": "good.bleu > bad.bleu", "source": "A paper 1997", "refuted_if": "bad wins"},
        backwards={"claim": "bad.bleu > good.bleu"},
        required={"claim": "good.bleu < 1", "required": True},
        huge={"claim": "good.bleu > bad.bleu + 90"},
        long={"claim": "good.chrf > bad.chrf", "where": "source words >= 6"},
        same={"claim": "good.bleu > good.bleu"},
        nowhere={"claim": "good.bleu > 1", "where": "weather = fog"},
        cost={"claim": "good.parameters > 2 * bad.parameters"},
    )
    results = run_suite(tmp_path, content)
    assert verdicts(results) == {
        "better": "supported",
        "backwards": "refuted",
        "required": "refuted",
        "huge": "refuted",
        "long": "supported",
        "same": "inconclusive",
        "nowhere": "not decided",
        "cost": "not decided",
    }
    assert exit_code(results) == 1  # a required claim is refuted
    better = claim(results, "better")
    bleu = [BLEU().corpus_score(lines, [references]).score for lines in (good, bad)]
    assert better.effect is not None and better.effect.value == pytest.approx(bleu[0] - bleu[1])
    assert (better.seeds, better.family, better.effect.n) == ((1, 1), 6, SIZE)
    long = claim(results, "long").effect
    assert long is not None and 0 < long.n < SIZE
    assert "no column 'weather' (known: source words" in (claim(results, "nowhere").reason or "")
    assert "not counted" in (claim(results, "cost").reason or "")

    only = run_suite(tmp_path, content, out="fresh", only="words/good")  # the family is not complete
    assert set(verdicts(only).values()) == {"not decided"}
    assert exit_code(only) == 0, "a run of some trials owes no decision"
    assert verdicts(run_suite(tmp_path, content, out="fresh")) == verdicts(results)
    assert verdicts(run_suite(tmp_path, content, only="words/good")) == verdicts(results), "from the disk"


def test_a_required_claim_that_cannot_be_decided_is_an_incomplete_run(
    tmp_path: Path, references: list[str]
) -> None:
    claims = {"c": {"claim": "a.bleu > 1", "where": "source words >= many", "required": True}}
    results = run_suite(tmp_path, suite(tmp_path, {"a": references}, **claims))
    assert exit_code(results) == 3
    assert claim(results, "c").reason == "the column 'source words' has numbers, 'many' is none"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"claim": "good.blue > 1"}, r"suite\.yaml:\d+: claims\.c\.claim: unknown quantity 'blue'.*'bleu'"),
        ({"claim": "goof.bleu > 1"}, r"claims\.c\.claim: unknown variant 'goof'.*'good'"),
        ({"claim": "good.bleu > 1", "benchmark": "word"}, r"claims\.c\.benchmark: .*'word'.*'words'"),
        ({"claim": "good.bleu ≥ 1"}, r"claims\.c\.claim: expected ADAPTER\.QUANTITY"),
        ({"claim": "good.bleu > 1", "where": "words"}, r"claims\.c\.where: expected COLUMN"),
        ({"claim": "good.flops > 2 * good.parameters"}, r"compare flops with flops of another adapter"),
        ({"claim": "good.flops > 2", "where": "source words >= 3"}, "`where` does not apply"),
        ({"claim": "good.bleu > 1", "source_": "x"}, r"claims\.c\.source_: unknown key 'source_'.*'source'"),
    ],
)
def test_a_mistake_in_a_claim_names_its_line(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, suite(tmp_path, {"good": ["x"] * SIZE}, c=entry))


def test_seeds_are_trainings_whose_spread_counts(tmp_path: Path, references: list[str]) -> None:
    shortened = {
        f"s{cut}": [" ".join(text.split()[:-cut]) or "x" for text in references] for cut in (1, 2, 3)
    }
    content = suite(tmp_path, {"one": [text + " noch" for text in references], **shortened})
    plan = planned(tmp_path, content)
    run_suite(tmp_path, content)
    trials = [
        replace(trial, variant=f"many[seed={trial.variant[1:]}]") if trial.variant != "one" else trial
        for trial in plan.trials
    ]
    directory = RunDirectory(tmp_path / "run")
    evidence = measure_claim(directory, trials, ClaimEntry(claim="one.bleu > many.bleu", benchmark="words"))
    bleu = {
        name: BLEU().corpus_score(lines, [references]).score
        for name, lines in {"one": [text + " noch" for text in references], **shortened}.items()
    }
    many = [bleu[name] for name in shortened]
    effect = evidence.effect
    assert evidence.seeds == (1, 3)
    assert effect.value == pytest.approx(bleu["one"] - np.mean(many))
    assert effect.low is not None and effect.high is not None
    between = 2 * stats.t.ppf(0.975, 2) * stats.sem(many)  # the interval from the seeds alone
    assert effect.high - effect.low > 0.8 * between


def test_speeds_are_compared_by_ranks_over_processes(tmp_path: Path, references: list[str]) -> None:
    content = suite(tmp_path, {"fast": references, "slow": references[::-1]})
    plan = planned(tmp_path, content)
    run_suite(tmp_path, content)
    directory = RunDirectory(tmp_path / "run")
    seconds = {"fast": [1.0, 1.1, 1.2, 1.15, 1.05], "slow": [2.13, 2.31, 2.22, 2.61, 2.43]}
    for trial in plan.trials:
        timings = offline_timings([[(8, 8 * second)] * 3 for second in seconds[trial.variant]])
        last = directory.trial(trial.id)
        last.write_record(last.path / "speed" / "offline.json", timings)
    for factor, side in ((1.0, "greater"), (2.0, "greater")):
        entry = ClaimEntry(claim=f"fast.offline > {factor} * slow.offline", benchmark="words")
        evidence = measure_claim(directory, plan.trials, entry)
        rates = [-np.log(seconds[name]) for name in ("fast", "slow")]
        expected = stats.mannwhitneyu(rates[0], rates[1] + np.log(factor), alternative=side, method="exact")
        assert isinstance(evidence.test, BoundTest)
        assert evidence.test.p_if_false == pytest.approx(expected.pvalue)
        ratios = [slow / fast for slow in seconds["slow"] for fast in seconds["fast"]]
        assert evidence.effect.value == pytest.approx(np.median(ratios))
    entry = ClaimEntry(claim="fast.offline > slow.offline", benchmark="words")
    for changes, message in (
        ({"environment": "another"}, "the environment of the timings differ"),
        ({"settings": {**timings.settings.model_dump(), "profile": "smoke"}}, "profile smoke never decides"),
    ):
        spoilt = offline_timings([[(8, 1.0)] * 3] * 5, **changes)
        last.write_record(last.path / "speed" / "offline.json", spoilt)
        with pytest.raises(UndecidableError, match=message):
            measure_claim(directory, plan.trials, entry)


def test_reports_show_claims_and_a_required_one_that_is_refuted_fails(
    tmp_path: Path, references: list[str]
) -> None:
    content = suite(
        tmp_path,
        {"good": references, "bad": ["x y z"] * SIZE},
        sure={"claim": "good.bleu > bad.bleu", "source": "<Hochreiter> 1997", "refuted_if": "bad | wins"},
        wrong={"claim": "bad.bleu > good.bleu", "required": True},
    )
    results = run_suite(tmp_path, content)
    assert "claims: 1 supported, 1 refuted" in verdict(results)
    assert not is_clean(results)
    summary = to_markdown(results)
    assert re.search(r"\| \*\*sure\*\* good\.bleu .* \| \*\*supported\*\* \| .*n=60 \| 1 and 1 \|", summary)
    page = html.fromstring(to_html(results))
    rows = [row.text_content() for row in page.xpath("//section[@id='claims']//tbody/tr")]
    assert "supported" in rows[0] and "<Hochreiter> 1997" in rows[0] and "Refuted if bad | wins" in rows[0]
    assert "(required)" in rows[1] and "refuted" in rows[1]
    entry = run_entry(results, ranks(results), {})
    assert {entry.tags[f"claim.{record.name}"] for record in results.claims} == {"supported", "refuted"}
    claims = ET.fromstring(to_junit(results)).find("testsuite[@name='claims']")
    assert claims is not None and claims.get("failures") == "1"
