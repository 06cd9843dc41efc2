"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) through sacrebleu, with bootstrap intervals.

sacrebleu counts the n-grams of a sentence and turns summed counts into a score. This module only sums the
counts, once over all sentences and once per resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from harness.metrics.metric import CountMetric, Resampled
from harness.statistics.bootstrap import RESAMPLES, SEED, figure, resample_sums
from harness.task import References, Scores, Translation


class CorpusScore(CountMetric[References, Translation]):
    """A corpus score of sacrebleu with its default options, on detokenised text; 0–100 points."""

    task = "translation"
    scorer: ClassVar[type[BLEU] | type[CHRF]]

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:
        super().__init__(classes, **options)
        self._scorer = self.scorer()

    def statistics(self, target: References, prediction: Translation) -> NDArray[np.int64]:
        """Return sacrebleu's counts of one sentence, then its number of references: [counts + 1]."""
        counts = self._scorer._extract_corpus_statistics([prediction.text], [[text] for text in target])[0]
        return np.array([*counts, len(target)], dtype=np.int64)

    def summarise(
        self, statistics: Sequence[NDArray[np.int64]], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Scores:
        """Compute the corpus score, 0–100; undefined without sentences."""
        if not statistics:
            return Scores({self.names[0]: figure(np.nan, np.empty(0), 0, "points", self._signature(0))})
        rows = np.stack(statistics)
        counts = rows[:, :-1]
        number_of_references = np.unique(rows[:, -1])
        references = int(number_of_references[0]) if len(number_of_references) == 1 else -1  # −1: "var"
        return Scores(
            {
                self.names[0]: figure(
                    self._score(counts.sum(axis=0)),
                    self.resample(statistics, resamples, seed)[self.names[0]],
                    len(rows),
                    "points",
                    self._signature(references),
                )
            }
        )

    def resample(
        self, statistics: Sequence[NDArray[np.int64]], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Resampled:
        """Compute the corpus score of every resample; an empty array without sentences."""
        if not statistics:
            return {self.names[0]: np.empty(0)}
        counts = np.stack(statistics)[:, :-1]
        scores = [self._score(sums) for sums in resample_sums(counts, resamples, seed)]
        return {self.names[0]: np.array(scores, dtype=np.float64)}

    def _score(self, sums: Iterable[float]) -> float:
        return float(self._scorer._compute_score_from_stats([int(count) for count in sums]).score)

    def _signature(self, references: int) -> str:
        """Return sacrebleu's signature: number of references, case, tokeniser, smoothing and version."""
        self._scorer.num_refs = references
        return str(self._scorer.get_signature())


class Bleu(CorpusScore):
    """Corpus BLEU: 4-grams, 13a tokeniser, exponential smoothing (Papineni et al. 2002; Post 2018).

    The geometric mean of the n-gram precisions, times the brevity penalty; 0–100.
    """

    names = ("bleu",)
    scorer = BLEU


class Chrf(CorpusScore):
    """Corpus chrF2: F-score of character 1- to 6-grams, recall weighted twice (Popović 2015, 2016); 0–100.

    If a sentence has several references, the best one counts.
    """

    names = ("chrf",)
    scorer = CHRF
