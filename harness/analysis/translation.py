"""Analysis of translation: rates of failures, and sentences ranked by chrF."""

from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.analysis.analyser import Analyser, ImageFiles, Pick, ratios
from harness.analysis.record import ShownTranslation, TranslationAnalysis
from harness.metrics.bleu import Bleu, Chrf
from harness.task import Figure, References, Sample, Translation

VERSION = 1  # of the signatures; raise it when the meaning of a rate changes
REPEATED_WORDS = 4  # length of an n-gram whose repetition counts: the longest that BLEU uses
UNKNOWN = ("⁇", "<unk>")  # how sentencepiece and others print a token outside the vocabulary


class TranslationAnalyser(Analyser[Translation, ShownTranslation]):
    """Collects the source length, the n-gram counts, the chrF and the failures of each sentence."""

    weight = "source words"

    def __init__(self) -> None:
        self._bleu, self._chrf = Bleu(), Chrf()
        self._words: list[list[str]] = []
        self._counts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._scores: list[float] = []
        self._failures: list[dict[str, bool]] = []

    def add(self, sample: Sample, prediction: Translation) -> None:
        source, references = _texts(sample)
        chrf = self._chrf.statistics(references, prediction)
        self._words.append(source.lower().split())
        self._counts.append((self._bleu.statistics(references, prediction), chrf))
        self._scores.append(self._chrf.summarise([chrf], intervals=False).metrics["chrf"].value or 0.0)
        self._failures.append(failures(source, references, prediction.text))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the source's length, and how often its rarest word occurs in all sources."""
        occurrences = Counter(word for words in self._words for word in words)
        rarest = [min((occurrences[word] for word in words), default=np.nan) for words in self._words]
        return {
            "score": np.array(self._scores, dtype=np.float64),
            "source words": np.array([len(words) for words in self._words], dtype=np.float64),
            "rarest source word": np.array(rarest, dtype=np.float64),
        }

    def show(
        self, pick: Pick, sample: Sample, prediction: Translation
    ) -> tuple[ShownTranslation, ImageFiles]:
        source, references = _texts(sample)
        shown = ShownTranslation(
            **vars(pick), id=sample.id, source=source, references=list(references), hypothesis=prediction.text
        )
        return shown, {}

    def conclude(self, shown: Sequence[ShownTranslation]) -> TranslationAnalysis:
        return TranslationAnalysis(
            n=len(self._words),
            ranked_by="chrF of the sentence",
            rates=self._rates(),
            samples=list(shown),
            alignments=[],
        )

    def _rates(self) -> dict[str, Figure]:
        names = list(failures("", (), ""))
        flags = np.array([[failed[name] for name in names] for failed in self._failures]).reshape(
            -1, len(names)
        )
        rates = {
            name: ratios(flags[:, [column]], np.ones((len(flags), 1)), f"{name}|v:{VERSION}")[0]
            for column, name in enumerate(names)
        }
        # The first two counts of sacrebleu's BLEU are the lengths of hypothesis and reference.
        lengths = np.array([bleu[:2] for bleu, _ in self._counts]).reshape(-1, 2)
        signature = f"length_ratio|tok:13a|reference:closest|v:{VERSION}"
        return rates | {"length_ratio": ratios(lengths[:, :1], lengths[:, 1:], signature, "ratio")[0]}


def failures(source: str, references: References, hypothesis: str) -> dict[str, bool]:
    """Return whether each of these statements is true of a hypothesis.

    - exact_match: it equals one of its references.
    - repetition: a sequence of four words occurs more than once, and more often than in any reference.
    - copied: it equals its source, and no reference does.
    - unknown: it contains the mark of a token outside the vocabulary, and its source does not.
    - empty: it has no words.
    """
    counts = _count_ngrams(hypothesis)
    reference_counts: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        reference_counts |= _count_ngrams(reference)
    return {
        "exact_match": hypothesis in references,
        "repetition": any(count > max(1, reference_counts[ngram]) for ngram, count in counts.items()),
        "copied": hypothesis == source and bool(source) and source not in references,
        "unknown": any(mark in hypothesis and mark not in source for mark in UNKNOWN),
        "empty": not hypothesis.strip(),
    }


def _count_ngrams(text: str) -> Counter[tuple[str, ...]]:
    """Count how often each sequence of REPEATED_WORDS words occurs."""
    words = text.split()
    starts = range(len(words) - REPEATED_WORDS + 1)
    return Counter(tuple(words[start : start + REPEATED_WORDS]) for start in starts)


def _texts(sample: Sample) -> tuple[str, References]:
    return cast(str, sample.input), cast(References, sample.target)
