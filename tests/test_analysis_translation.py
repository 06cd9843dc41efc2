"""Analysis of translation: length ratio against sacrebleu, rates and slices by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from harness.analysis.analyser import pick_samples
from harness.analysis.translation import TranslationAnalyser, failures
from harness.task import Sample, Translation

WORDS = ["der", "Hund", "bellt", "laut", "und", "die", "Katze", "schläft", "nicht", "."]


def sentences(count=60, seed=0):
    """Return (source, references, hypothesis): sources of 1 to 60 words, hypotheses with some wrong words."""
    generator = np.random.default_rng(seed)
    triples = []
    for _ in range(count):
        length = int(generator.integers(1, 61))
        reference = [WORDS[i] for i in generator.integers(0, len(WORDS), length)]
        hypothesis = [word if generator.random() < 0.8 else "sehr" for word in reference]
        triples.append((" ".join(["word"] * length), (" ".join(reference),), " ".join(hypothesis)))
    return triples


def analyser_of(triples):
    analyser = TranslationAnalyser()
    for index, (source, references, hypothesis) in enumerate(triples):
        analyser.add(Sample(str(index), source, references), Translation(hypothesis))
    return analyser


def analysed(triples):
    return analyser_of(triples).conclude([])


def test_slices_are_cut_by_source_length_and_by_the_rarest_word():
    columns = analyser_of([("The cat", ("a",), "a"), ("the the dog", ("b",), "b"), ("", ("",), "")]).columns()
    np.testing.assert_array_equal(columns["source words"], [2, 3, 0])
    np.testing.assert_array_equal(columns["rarest source word"], [1, 1, np.nan])  # "the" occurs three times
    assert len(columns["score"]) == 3


def test_the_length_ratio_equals_that_of_sacrebleus_lengths():
    triples = [(s, r, h + " noch mehr") for s, r, h in sentences()]
    score = BLEU().corpus_score([t[2] for t in triples], [[t[1][0] for t in triples]])
    ratio = analysed(triples).rates["length_ratio"]
    assert ratio.value == pytest.approx(score.sys_len / score.ref_len)
    assert ratio.low < ratio.value < ratio.high
    assert ratio.unit == "ratio"


@pytest.mark.parametrize(
    ("hypothesis", "references", "repeats"),
    [
        ("a b c d a b c d", ["a b c d"], True),
        ("ja ja ja ja ja", ["ja"], True),  # "ja ja ja ja" twice, overlapping
        ("a b c d a b c d", ["a b c d a b c d", "x"], False),  # as often in a reference
        ("a b c d a b c d a b c d", ["a b c d a b c d"], True),  # more often than in the reference
        ("a b c a b c", ["a b c"], False),  # only three words
        ("a b c d", [""], False),  # one occurrence is not a repetition
    ],
)
def test_repetition_is_four_words_that_recur_more_often_than_in_any_reference(
    hypothesis, references, repeats
):
    assert failures("source", tuple(references), hypothesis)["repetition"] is repeats


@pytest.mark.parametrize(
    ("source", "reference", "hypothesis", "true"),
    [
        ("File", "Datei", "Datei", {"exact_match"}),
        ("File", "Datei", "File", {"copied"}),
        ("GIMP", "GIMP", "GIMP", {"exact_match"}),  # copying is correct
        ("File", "Datei", "", {"empty"}),
        ("", "", "", {"exact_match", "empty"}),
        ("File", "Datei", "Datei ⁇ ", {"unknown"}),
        ("<unk> File", "Datei", "<unk> Datei", set()),  # the mark is in the source
        ("File", "Datei", "datei", set()),
    ],
)
def test_failures_of_a_hypothesis(source, reference, hypothesis, true):
    flags = failures(source, (reference,), hypothesis)
    assert {name for name, value in flags.items() if value} == true


def test_rates_are_fractions_of_all_sentences_with_intervals():
    analysis = analysed([("File", ("Datei",), "Datei")] * 30 + [("File", ("Datei",), "File")] * 10)
    rate = analysis.rates["exact_match"]
    assert (rate.value, rate.n) == (0.75, 40)
    # Normal interval of a fraction: .75 ± 1.96 · √(.75 · .25 / 40) = .75 ± .134
    assert (rate.low, rate.high) == (pytest.approx(0.616, abs=0.03), pytest.approx(0.884, abs=0.03))
    assert analysis.rates["copied"].value == 0.25


class TestPicks:
    def test_worst_median_and_best_of_many(self):
        picks = pick_samples([float(score) for score in range(100)], [1.0] * 100)
        indices = {role: [p.index for p in picks if p.role == role] for role in ("worst", "median", "best")}
        assert indices == {"worst": [0, 1, 2, 3], "median": [49, 50], "best": [99, 98]}

    def test_of_equal_scores_the_heaviest_sample_is_picked(self):
        picks = pick_samples([1.0] * 20, [float(words) for words in range(20)])
        assert picks[0].index == 19, "the longest is shown first, as the worst"
        assert [p.index for p in picks if p.role == "best"] == [15, 14]
        assert all(p.index for p in picks), "the empty sentence is not shown"

    def test_samples_of_weight_zero_are_picked_only_if_there_are_no_others(self):
        assert [p.index for p in pick_samples([1.0, 0.2, 1.0], [0.0, 3.0, 0.0])] == [1]
        assert [p.index for p in pick_samples([1.0, 1.0], [0.0, 0.0])] == [0, 1]

    def test_of_few_samples_each_is_picked_once(self):
        assert sorted(p.index for p in pick_samples([3.0, 1.0, 2.0], [1.0] * 3)) == [0, 1, 2]
        assert pick_samples([], []) == []

    def test_a_shown_sample_has_its_own_chrf(self):
        triples = sentences(20)
        analyser = analyser_of(triples)
        for pick in analyser.picks():
            source, references, hypothesis = triples[pick.index]
            sample = Sample(f"id {pick.index}", source, references)
            shown, images = analyser.show(pick, sample, Translation(hypothesis))
            assert shown.score == pytest.approx(CHRF().sentence_score(hypothesis, list(references)).score)
            assert (shown.hypothesis, shown.references, images) == (hypothesis, list(references), {})
