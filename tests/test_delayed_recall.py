"""Delayed recall: form of sentences, disjoint splits, equal on all machines, any size."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from harness.datasets.dataset import DATASETS, Dataset
from harness.datasets.delayed_recall import DelayedRecall, DelayedRecallOptions

SPLITS = ("train", "validation", "test")


def recalls(split: str = "train", **options: object) -> DelayedRecall:
    return DelayedRecall(DelayedRecallOptions(**options), split, "translation")


def rows(dataset: Dataset, count: int = 400) -> list[tuple[list[str], list[str]]]:
    """Return source and target tokens of the first samples."""
    samples = [dataset[index] for index in range(count)]
    return [(str(sample.input).split(" "), sample.target[0].split(" ")) for sample in samples]


@pytest.mark.parametrize("lag", [0, 1, 37])
def test_the_target_of_recall_is_the_letters_before_the_distractors(lag):
    for source, target in rows(recalls(lag=lag, recall=6, symbols=5)):
        assert source[:6] == target and len(source) == 6 + lag
        assert set(target) <= set("abcde") and set(source[6:]) <= set("xyz")


def test_letters_and_distractors_are_uniform():
    pairs = rows(recalls(lag=10, recall=5, symbols=8), 1000)
    letters = "".join(letter for _, target in pairs for letter in target)
    distractors = "".join(letter for source, _ in pairs for letter in source[5:])
    assert sum((letters.count(c) - 625) ** 2 / 625 for c in "abcdefgh") < 24.32  # 7 degrees of freedom, 99.9%
    assert sum((distractors.count(c) - 10_000 / 3) ** 2 / (10_000 / 3) for c in "xyz") < 13.82  # 2


def test_lags_vary_between_min_lag_and_lag():
    lags = {len(source) - 5 for source, _ in rows(recalls(lag=4, min_lag=2))}
    assert lags == {2, 3, 4}


def test_no_target_is_in_two_splits_with_any_seed_and_lag():
    targets = {
        split: {
            tuple(target)
            for seed, lag in ((0, 0), (1, 3))
            for _, target in rows(recalls(split, recall=4, symbols=6, seed=seed, lag=lag))
        }
        for split in SPLITS
    }
    assert all(len(targets[split]) > 30 for split in SPLITS)
    assert not (targets["train"] & targets["test"] or targets["train"] & targets["validation"])
    assert not targets["validation"] & targets["test"]


def test_the_first_samples_do_not_depend_on_the_size():
    many = recalls(size=10_000_000)
    few = recalls(size=10)
    assert (len(many), len(few), len(recalls("test"))) == (10_000_000, 10, 1_000)
    assert [many[i].input for i in range(10)] == [few[i].input for i in range(10)]
    assert many[9_999_999].id == "train-9999999"
    assert all(first.id < second.id for first, second in pairwise(few))
    for index in (-1, 10):
        with pytest.raises(IndexError):
            few[index]


def test_the_fingerprint_depends_on_options_and_split():
    different = [
        recalls().fingerprint,
        recalls("test").fingerprint,
        recalls(lag=21).fingerprint,
        recalls(recall=6).fingerprint,
        recalls(symbols=9).fingerprint,
        recalls(seed=1).fingerprint,
        recalls(size=7).fingerprint,
        recalls(min_lag=0).fingerprint,
    ]
    assert len(set(different)) == len(different)
    assert recalls(size=40_000).fingerprint == recalls().fingerprint  # the default size


def test_another_process_generates_the_same_sentences():
    program = (
        "from harness.datasets.delayed_recall import DelayedRecall, DelayedRecallOptions as Options;"
        "d = DelayedRecall(Options(seed=3), 'test', 'translation'); print(d.fingerprint, d[17])"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "5"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    dataset = recalls("test", seed=3)
    assert process.stdout.strip() == f"{dataset.fingerprint} {dataset[17]}"


def test_sentences_of_ten_thousand_tokens():
    assert len(rows(recalls("test", lag=10_000), 1)[0][0]) == 10_005


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lag": 3, "min_lag": 4}, r"lag \(3\) must be at least min_lag \(4\)"),
        ({"recall": 3, "symbols": 9}, "allow 729 different targets"),
        ({"lag": -1}, "greater than or equal to 0"),
        ({"symbols": 24}, "less than or equal to 23"),
    ],
)
def test_impossible_recall_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        DelayedRecallOptions(**options)


def test_the_data_set_is_registered():
    assert DATASETS.get("delayed-recall") is DelayedRecall
