"""BLEU, chrF and TER, checked against sacrebleu on whole corpora and without each sentence."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from jackknife_oracle import jackknife_interval
from sacrebleu.significance import PairedTest

from harness.metrics.bleu import Bleu, Chrf, Ter
from harness.statistics.paired import difference
from harness.task import Translation

WORDS = st.sampled_from(["the", "a", "cat", "sat", "on", "mat", ".", ",", "Übung", "don't", "3.5", "猫"])
SENTENCE = st.lists(WORDS, max_size=9).map(" ".join)
ORACLES = [(Bleu, sacrebleu.metrics.BLEU), (Chrf, sacrebleu.metrics.CHRF), (Ter, sacrebleu.metrics.TER)]


def scored(metric, hypotheses, references, **options):
    rows = [
        metric.statistics(targets, Translation(text))
        for text, targets in zip(hypotheses, references, strict=True)
    ]
    return metric.summarise(rows, **options).metrics[metric.names[0]]


@pytest.mark.parametrize(("ours", "oracle"), ORACLES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_score_and_signature_equal_sacrebleus_with_any_number_of_references(ours, oracle, data):
    count = data.draw(st.integers(1, 3))
    corpus = data.draw(st.lists(st.tuples(SENTENCE, *[SENTENCE] * count), min_size=1, max_size=6))
    hypotheses = [row[0] for row in corpus]
    scorer = oracle()
    expected = scorer.corpus_score(
        hypotheses, [list(column) for column in zip(*(row[1:] for row in corpus), strict=True)]
    )
    figure = scored(ours(), hypotheses, [row[1:] for row in corpus])
    # sacrebleu adds the thirds of TER's mean lengths as floating-point numbers.
    tolerance = 1e-14 if ours is Ter and count == 3 else 0
    assert figure.value == pytest.approx(expected.score, rel=tolerance, abs=0)
    assert figure.signature == f"{scorer.get_signature()}|interval:jackknife"
    assert (figure.n, figure.unit) == (len(corpus), "points")


@pytest.mark.parametrize(("ours", "oracle"), ORACLES)
def test_the_interval_equals_that_of_rescoring_the_corpus_without_each_sentence(ours, oracle):
    hypotheses = ["the cat sat on the mat .", "a cat", "on the mat the cat sat down", "a dog barks at me"]
    references = [("the cat sat on a mat .",), ("the cat",), ("the cat sat on the mat",), ("a dog barks",)]
    naive = [
        oracle().corpus_score([hypotheses[i] for i in rest], [[references[i][0] for i in rest]]).score
        for rest in ([i for i in range(4) if i != left_out] for left_out in range(4))
    ]
    figure = scored(ours(), hypotheses, references)
    assert (figure.low, figure.high) == pytest.approx(jackknife_interval(figure.value, naive, 100))


def test_sentences_may_have_different_numbers_of_references():
    figure = scored(
        Bleu(), ["a cat sat here", "a dog ran there"], [("a cat sat here",), ("a dog ran", "it ran")]
    )
    assert "nrefs:var" in figure.signature


def test_without_sentences_the_score_is_undefined():
    figure = Bleu().summarise([]).metrics["bleu"]
    assert (figure.value, figure.low, figure.high, figure.n) == (None, None, None, 0)


def system(references, hardness, shift, generator):
    """Return the references with wrong words: more in hard sentences, and more the higher the shift."""
    lines = []
    for words, difficulty in zip(references, hardness, strict=True):
        share = np.clip(difficulty + shift + generator.normal(0, 0.08), 0, 1)
        lines.append(" ".join(np.where(generator.random(len(words)) < share, "wrong", words)))
    return lines


@pytest.mark.parametrize(("ours", "oracle"), [(Bleu, sacrebleu.metrics.BLEU), (Chrf, sacrebleu.metrics.CHRF)])
def test_paired_differences_agree_with_sacrebleus_approximate_randomisation(ours, oracle, monkeypatch):
    """Fifteen systems against one: the same verdicts at 5%, and p within .03 wherever p < .1."""
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    generator = np.random.default_rng(2)
    lengths = np.maximum(3, generator.lognormal(2.7, 0.5, 120).astype(int))
    references = [np.array([f"w{number % 500}" for number in generator.zipf(1.2, n)]) for n in lengths]
    hardness = generator.beta(2, 3, len(references))
    targets = [" ".join(words) for words in references]
    systems = [
        (str(index), system(references, hardness, shift, generator))
        for index, shift in enumerate([0, *np.linspace(-0.08, 0.08, 15)])
    ]
    _, tested = PairedTest(systems, {"score": oracle()}, [targets], test_type="ar", n_samples=2000)()
    expected = [result.p_value for result in tested[next(name for name in tested if name != "System")][1:]]
    metric = ours()
    base, *heads = (
        metric.jackknife(
            [
                metric.statistics((target,), Translation(line))
                for target, line in zip(targets, lines, strict=True)
            ]
        )[metric.names[0]]
        for _, lines in systems
    )
    p_values = [difference([base], [head]).p for head in heads]
    assert [p < 0.05 for p in p_values] == [p < 0.05 for p in expected]
    assert 3 < sum(p < 0.05 for p in expected) < 12  # neither all nor none
    for ours_p, theirs in zip(p_values, expected, strict=True):
        if theirs < 0.1:
            assert ours_p == pytest.approx(theirs, abs=0.03)
