"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) through sacrebleu.

sacrebleu counts the n-grams of a sentence and turns sums of these counts into a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from harness.metrics.metric import CountMetric, Values
from harness.task import References, Translation


class CorpusScore(CountMetric[References, Translation]):
    """A corpus score of sacrebleu with its default options, on detokenised text; 0–100 points."""

    task = "translation"
    unit = "points"
    bounds = (0.0, 100.0)
    scorer: ClassVar[type[BLEU] | type[CHRF]]

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:
        super().__init__(classes, **options)
        self._scorer = self.scorer()

    def statistics(self, target: References, prediction: Translation) -> NDArray[np.int64]:
        """Return sacrebleu's counts of one sentence, then its number of references: [counts + 1]."""
        counts = self._scorer._extract_corpus_statistics([prediction.text], [[text] for text in target])[0]
        return np.array([*counts, len(target)], dtype=np.int64)

    def figures(self, sums: NDArray[np.int64]) -> Values:
        """Compute the corpus score of each sum of counts."""
        scores = [
            self._scorer._compute_score_from_stats([int(count) for count in row]).score
            for row in sums[:, :-1]
        ]
        return {self.names[0]: np.array(scores, dtype=np.float64)}

    def signature(self, name: str, statistics: Sequence[NDArray[np.int64]]) -> str:  # noqa: ARG002
        """Return sacrebleu's signature: number of references, case, tokeniser, smoothing and version."""
        references = {int(row[-1]) for row in statistics}
        self._scorer.num_refs = references.pop() if len(references) == 1 else -1 if references else 0
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
