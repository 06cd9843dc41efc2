"""BLEU (Papineni et al. 2002), chrF (Popović 2015) and TER (Snover et al. 2006) through sacrebleu.

sacrebleu counts the n-grams or edits of a sentence and turns sums of these counts into a score.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from harness.errors import UsageError
from harness.metrics.metric import CountMetric, Values
from harness.registry import unknown
from harness.task import References, Translation

TOKENIZER = "13a"
UNSPACED_TOKENIZERS = ("zh", "char", "ja-mecab", "flores101", "flores200")
"""Tokenizers that divide text without spaces."""
TOKENIZERS = (TOKENIZER, "intl", "none", "ko-mecab", *UNSPACED_TOKENIZERS)

PARTS = 720_720  # lcm of 1 … 16: a mean length over up to 16 references is a whole number of such parts


class CorpusScore(CountMetric[References, Translation]):
    """A corpus score of sacrebleu on detokenised text, in points."""

    task = "translation"
    unit = "points"
    bounds = (0.0, 100.0)
    scorer: BLEU | CHRF | TER

    def statistics(self, target: References, prediction: Translation) -> NDArray[np.int64]:
        """Return sacrebleu's counts of one sentence, then its number of references: [counts + 1]."""
        return np.array([*self._counts(target, prediction), len(target)], dtype=np.int64)

    def figures(self, sums: NDArray[np.int64]) -> Values:
        return {self.names[0]: np.array([self._score(row[:-1].tolist()) for row in sums], dtype=np.float64)}

    def signature(self, name: str, statistics: Sequence[NDArray[np.int64]]) -> str:  # noqa: ARG002
        """Return sacrebleu's signature: number of references, case, tokeniser, smoothing and version."""
        references = {int(row[-1]) for row in statistics}
        self.scorer.num_refs = references.pop() if len(references) == 1 else -1 if references else 0
        return str(self.scorer.get_signature())

    def _counts(self, target: References, prediction: Translation) -> Sequence[float]:
        counts: Sequence[float] = self.scorer._extract_corpus_statistics(
            [prediction.text], [[text] for text in target]
        )[0]
        return counts

    def _score(self, counts: list[Any]) -> float:
        return float(self.scorer._compute_score_from_stats(counts).score)


class Bleu(CorpusScore):
    """Corpus BLEU: 4-grams, exponential smoothing (Papineni et al. 2002; Post 2018).

    The geometric mean of the n-gram precisions, times the brevity penalty; 0–100.

    Options: `tokenize`, one of TOKENIZERS; `lowercase`, to ignore case.
    """

    names = ("bleu",)

    def __init__(
        self,
        classes: Sequence[str] = (),
        tokenize: str = TOKENIZER,
        lowercase: bool = False,
        **options: object,
    ) -> None:
        """Load the tokenizer; if it is unknown, or its package or model file missing, it is a UsageError."""
        super().__init__(classes, **options)
        if tokenize not in TOKENIZERS:
            raise UsageError(unknown("tokenizer", tokenize, TOKENIZERS))
        if tokenize in SPM_MODELS:
            url = SPM_MODELS[tokenize]["url"]
            model = Path(SACREBLEU_DIR, "models", Path(url).name)
            if not model.is_file():
                raise UsageError(f"tokenizer {tokenize}: its model is missing; download {url} to {model}")
        try:
            self.scorer = BLEU(lowercase=lowercase, tokenize=tokenize)
        except (ImportError, RuntimeError) as error:  # sacrebleu raises either for a missing package
            raise UsageError(
                f"tokenizer {tokenize}: its package is missing; pip install 'sacrebleu[{tokenize[:2]}]'"
            ) from error


class Chrf(CorpusScore):
    """Corpus chrF2: F-score of character 1- to 6-grams, recall weighted twice (Popović 2015, 2016); 0–100.

    If a sentence has several references, the best one counts.
    """

    names = ("chrf",)

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:
        super().__init__(classes, **options)
        self.scorer = CHRF()


class Ter(CorpusScore):
    """Translation edit rate (Snover et al. 2006): edits and shifts per 100 words of the references.

    Words are divided at spaces, without regard to case. If a sentence has several references, the fewest
    edits count, over the mean length.
    """

    names = ("ter",)
    bounds = (0.0, inf)
    lower_is_better = frozenset({"ter"})

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:
        super().__init__(classes, **options)
        self.scorer = TER()

    def _counts(self, target: References, prediction: Translation) -> Sequence[float]:
        edits, mean_length = super()._counts(target, prediction)
        return edits, round(mean_length * PARTS)

    def _score(self, counts: list[Any]) -> float:
        edits, parts = counts
        return float(self.scorer._compute_score_from_stats([edits, parts / PARTS]).score)
