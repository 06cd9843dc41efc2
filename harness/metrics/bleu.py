"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) through sacrebleu, with bootstrap intervals.

sacrebleu counts the n-grams of a sentence and turns summed counts into a score; this module only adds
the counts up, once over all sentences and once a resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from harness.metrics.metric import RESAMPLES, SEED, Metric
from harness.statistics.bootstrap import figure, resample_sums
from harness.task import References, Scores, Translation


class CorpusScore(Metric):
    """A sacrebleu metric with its default options, on detokenised text; 0–100 points."""

    task = "translation"
    scorer: ClassVar[type[BLEU] | type[CHRF]]

    def __init__(self, classes: Sequence[str] = (), **options: Any) -> None:
        super().__init__(classes, **options)
        self._scorer = self.scorer()

    def statistics(self, target: References, prediction: Translation) -> NDArray[np.int64]:
        """sacrebleu's counts of one sentence, then its number of references: [counts + 1]."""
        counts = self._scorer._extract_corpus_statistics([prediction.text], [[text] for text in target])[0]
        return np.array([*counts, len(target)], dtype=np.int64)

    def summarise(self, statistics: Sequence[Any], resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
        """The corpus score; undefined without sentences."""
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
        self, statistics: Sequence[Any], resamples: int = RESAMPLES, seed: int = SEED
    ) -> dict[str, NDArray[np.float64]]:
        """The corpus score of every resample; none without sentences."""
        if not statistics:
            return {self.names[0]: np.empty(0)}
        counts = np.stack(statistics)[:, :-1]
        scores = [self._score(sums) for sums in resample_sums(counts, resamples, seed)]
        return {self.names[0]: np.array(scores, dtype=np.float64)}

    def _score(self, sums: NDArray[Any]) -> float:
        return float(self._scorer._compute_score_from_stats([int(count) for count in sums]).score)

    def _signature(self, references: int) -> str:
        """sacrebleu's own: number of references, case, tokeniser, smoothing, version."""
        self._scorer.num_refs = references
        return str(self._scorer.get_signature())


class Bleu(CorpusScore):
    """Corpus BLEU, 4-grams, 13a tokeniser, exponential smoothing."""

    names = ("bleu",)
    scorer = BLEU


class Chrf(CorpusScore):
    """Corpus chrF2, character 6-grams; of several references a sentence's best."""

    names = ("chrf",)
    scorer = CHRF
