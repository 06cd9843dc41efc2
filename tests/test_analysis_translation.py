"""By length against sacrebleu on the same sentences; rates by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from harness.analysis.analyser import pick_samples
from harness.analysis.translation import BUCKETS, TranslationAnalyser, failures
from harness.task import Sample, Translation

WORDS = ["der", "Hund", "bellt", "laut", "und", "die", "Katze", "schläft", "nicht", "."]


def sentences(count=60, seed=0):
    """(source, references, hypothesis): sources of 1 to 60 words, hypotheses with some words changed."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(generator.integers(1, 61))
        reference = [WORDS[i] for i in generator.integers(0, len(WORDS), length)]
        hypothesis = [word if generator.random() < 0.8 else "sehr" for word in reference]
        found.append((" ".join(["word"] * length), (" ".join(reference),), " ".join(hypothesis)))
    return found


def analyser_of(triples):
    analyser = TranslationAnalyser()
    for index, (source, references, hypothesis) in enumerate(triples):
        analyser.add(Sample(str(index), source, references), Translation(hypothesis))
    return analyser


def analysed(triples):
    return analyser_of(triples).conclude([])


def test_each_bucket_is_sacrebleu_of_its_sentences():
    triples = sentences()
    found = analysed(triples)
    assert sum(bucket.n for bucket in found.by_length) == len(triples)
    for bucket in found.by_length:
        members = [t for t in triples if bucket.shortest <= len(t[0].split()) <= (bucket.longest or 10**9)]
        assert len(members) == bucket.n
        hypotheses, references = [t[2] for t in members], [[t[1][0] for t in members]]
        assert bucket.bleu.value == pytest.approx(BLEU().corpus_score(hypotheses, references).score)
        assert bucket.chrf.value == pytest.approx(CHRF().corpus_score(hypotheses, references).score)
        assert bucket.n == 1 or bucket.bleu.low <= bucket.bleu.value <= bucket.bleu.high


def test_the_last_bucket_has_no_end_and_an_empty_source_is_in_none():
    found = analysed([(" ".join(["word"] * 500), ("a",), "a"), ("", ("",), "")])
    assert [(bucket.shortest, bucket.longest, bucket.n) for bucket in found.by_length] == [
        (BUCKETS[-1], None, 1)
    ]
    assert found.n == 2


def test_the_length_ratio_is_sacrebleus_lengths():
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
        ("a b c d a b c d", ["a b c d a b c d", "x"], False),  # a reference says it as often
        ("a b c d a b c d a b c d", ["a b c d a b c d"], True),  # but not that often
        ("a b c a b c", ["a b c"], False),  # runs of three
        ("a b c d", [""], False),  # once is no repetition, whatever the reference
    ],
)
def test_repetition_is_a_run_of_four_words_again_and_more_often_than_in_any_reference(
    hypothesis, references, repeats
):
    assert failures("source", tuple(references), hypothesis)["repetition"] is repeats


@pytest.mark.parametrize(
    ("source", "reference", "hypothesis", "true"),
    [
        ("File", "Datei", "Datei", {"exact_match"}),
        ("File", "Datei", "File", {"copied"}),
        ("GIMP", "GIMP", "GIMP", {"exact_match"}),  # to be copied, and was
        ("File", "Datei", "", {"empty"}),
        ("", "", "", {"exact_match", "empty"}),
        ("File", "Datei", "Datei ⁇ ", {"unknown"}),
        ("<unk> File", "Datei", "<unk> Datei", set()),  # the source's own
        ("File", "Datei", "datei", set()),
    ],
)
def test_what_a_hypothesis_is_counted_as(source, reference, hypothesis, true):
    found = failures(source, (reference,), hypothesis)
    assert {name for name, value in found.items() if value} == true


def test_rates_are_shares_of_all_sentences_with_intervals():
    found = analysed([("File", ("Datei",), "Datei")] * 30 + [("File", ("Datei",), "File")] * 10)
    rate = found.rates["exact_match"]
    assert (rate.value, rate.n) == (0.75, 40)
    # Normal interval of a share: .75 ± 1.96 · √(.75 · .25 / 40) = .75 ± .134
    assert (rate.low, rate.high) == (pytest.approx(0.616, abs=0.03), pytest.approx(0.884, abs=0.03))
    assert found.rates["copied"].value == 0.25


class TestPicks:
    def test_worst_median_and_best_of_many(self):
        picks = pick_samples([float(score) for score in range(100)], [1.0] * 100)
        found = {role: [p.index for p in picks if p.role == role] for role in ("worst", "median", "best")}
        assert found == {"worst": [0, 1, 2, 3], "median": [49, 50], "best": [99, 98]}

    def test_of_equal_scores_the_one_that_says_most(self):
        picks = pick_samples([1.0] * 20, [float(words) for words in range(20)])
        assert picks[0].index == 19, "the longest is shown first, as worst"
        assert [p.index for p in picks if p.role == "best"] == [15, 14]
        assert all(p.index for p in picks), "the empty one says nothing"

    def test_samples_with_nothing_to_get_wrong_are_shown_only_where_there_are_no_others(self):
        assert [p.index for p in pick_samples([1.0, 0.2, 1.0], [0.0, 3.0, 0.0])] == [1]
        assert [p.index for p in pick_samples([1.0, 1.0], [0.0, 0.0])] == [0, 1]

    def test_few_samples_are_each_shown_once(self):
        assert sorted(p.index for p in pick_samples([3.0, 1.0, 2.0], [1.0] * 3)) == [0, 1, 2]
        assert pick_samples([], []) == []

    def test_a_sample_shown_has_its_own_chrf(self):
        triples = sentences(20)
        analyser = analyser_of(triples)
        for each in analyser.picks():
            source, references, hypothesis = triples[each.index]
            sample = Sample(f"id {each.index}", source, references)
            shown, pictures = analyser.show(each, sample, Translation(hypothesis))
            assert shown.score == pytest.approx(CHRF().sentence_score(hypothesis, list(references)).score)
            assert (shown.hypothesis, shown.references, pictures) == (hypothesis, list(references), {})
