"""Where translations are good or bad: by length of the source, and what kind of failure they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.analyser import Analyser, Pick, Pictures, pick
from harness.analysis.ratios import ratios
from harness.analysis.record import LengthBucket, ShownTranslation, TranslationAnalysis
from harness.metrics.bleu import Bleu, Chrf
from harness.task import Figure, References, Sample, Translation

VERSION = 1  # of the signatures; raise it with any change of what a rate means
# Words at which a bucket begins: those of the published curves of quality by length reach 50 and beyond
# (Bahdanau et al. 2015, figure 2); the first three part the short messages of program catalogues.
BUCKETS = (1, 3, 6, 11, 16, 21, 31, 41, 51, 101)
REPEATED = 4  # words of an n-gram whose repetition counts, the longest that BLEU looks at
UNKNOWN = ("⁇", "<unk>")  # how sentencepiece and others write a token outside the vocabulary


class TranslationAnalyser(Analyser):
    """BLEU and chrF by source length, rates of failures, and sentences ranked by their own chrF."""

    def __init__(self) -> None:
        self._bleu, self._chrf = Bleu(), Chrf()
        self._words: list[int] = []
        self._counts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._scores: list[float] = []
        self._flags: list[dict[str, bool]] = []

    def add(self, sample: Sample, prediction: Translation) -> None:
        source, references = _texts(sample)
        chrf = self._chrf.statistics(references, prediction)
        self._words.append(len(source.split()))
        self._counts.append((self._bleu.statistics(references, prediction), chrf))
        self._scores.append(self._chrf.summarise([chrf], resamples=0).metrics["chrf"].value or 0.0)
        self._flags.append(failures(source, references, prediction.text))

    def picks(self) -> list[Pick]:
        return pick(self._scores, self._words)

    def show(self, pick: Pick, sample: Sample, prediction: Translation) -> tuple[ShownTranslation, Pictures]:
        source, references = _texts(sample)
        shown = ShownTranslation(
            index=pick.index,
            id=sample.id,
            role=pick.role,
            score=pick.score,
            source=source,
            references=list(references),
            hypothesis=prediction.text,
        )
        return shown, {}

    def conclude(self, shown: Sequence[ShownTranslation]) -> TranslationAnalysis:
        return TranslationAnalysis(
            n=len(self._words),
            ranked_by="chrF of the sentence",
            by_length=self._by_length(),
            rates=self._rates(),
            samples=list(shown),
            alignments=[],
        )

    def _by_length(self) -> list[LengthBucket]:
        bucket_of = np.searchsorted(BUCKETS, self._words, side="right") - 1  # −1: an empty source
        found = []
        for bucket, shortest in enumerate(BUCKETS):
            members = np.flatnonzero(bucket_of == bucket)
            if len(members):
                following = BUCKETS[bucket + 1 : bucket + 2]
                bleu, chrf = zip(*(self._counts[index] for index in members), strict=True)
                found.append(
                    LengthBucket(
                        shortest=shortest,
                        longest=following[0] - 1 if following else None,
                        n=len(members),
                        bleu=self._bleu.summarise(bleu).metrics["bleu"],
                        chrf=self._chrf.summarise(chrf).metrics["chrf"],
                    )
                )
        return found

    def _rates(self) -> dict[str, Figure]:
        names = list(failures("", (), ""))
        flags = np.array([[each[name] for name in names] for each in self._flags]).reshape(-1, len(names))
        shares = {
            name: ratios(flags[:, [column]], np.ones((len(flags), 1)), f"{name}|v:{VERSION}")[0]
            for column, name in enumerate(names)
        }
        lengths = np.array([bleu[:2] for bleu, _ in self._counts]).reshape(
            -1, 2
        )  # sacrebleu: system, reference
        signature = f"length_ratio|tok:13a|reference:closest|v:{VERSION}"
        return shares | {"length_ratio": ratios(lengths[:, :1], lengths[:, 1:], signature, "ratio")[0]}


def failures(source: str, references: References, hypothesis: str) -> dict[str, bool]:
    """Whether a hypothesis is one of its references (exact_match), and how else it stands out.

    repetition: a run of four words occurs again, and more often than in any reference; copied: it is its
    source, and no reference is; unknown: it holds a mark of a token outside the vocabulary that its source
    does not hold; empty.
    """
    again = _runs(hypothesis)
    usual: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        usual |= _runs(reference)
    return {
        "exact_match": hypothesis in references,
        "repetition": any(count > max(1, usual[run]) for run, count in again.items()),
        "copied": hypothesis == source and bool(source) and source not in references,
        "unknown": any(mark in hypothesis and mark not in source for mark in UNKNOWN),
        "empty": not hypothesis.strip(),
    }


def _runs(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of `REPEATED` words occurs."""
    words = text.split()
    return Counter(tuple(words[at : at + REPEATED]) for at in range(len(words) - REPEATED + 1))


def _texts(sample: Sample) -> tuple[str, References]:
    source: Any = sample.input
    references: Any = sample.target
    return source, references
