"""Analyse: where figures come from, and samples to look at; computed beside the score, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from harness.adapter import ADAPTERS, Runtime, TranslationAdapter
from harness.analysis.analyser import Analyser, Pictures
from harness.analysis.detection import DetectionAnalyser
from harness.analysis.ratios import ratios
from harness.analysis.record import (
    Analysis,
    ShownAlignment,
    ShownSample,
    ShownTranslation,
    TranslationAnalysis,
)
from harness.analysis.segmentation import SegmentationAnalyser
from harness.analysis.translation import VERSION, TranslationAnalyser
from harness.datasets.dataset import Dataset
from harness.errors import describe
from harness.task import Prediction
from harness.trial import Trial

ALIGNED_WORDS = 30  # of source and hypothesis: the heat map of a longer one cannot be read on a page


def make_analyser(dataset: Dataset) -> Analyser:
    """A collector for the task that the data set was opened for."""
    if dataset.task == "translation":
        return TranslationAnalyser()
    return (DetectionAnalyser if dataset.task == "detection" else SegmentationAnalyser)(dataset.classes)


def analyse(
    trial: Trial,
    dataset: Dataset,
    analyser: Analyser,
    read: Callable[[Collection[int]], Mapping[int, Prediction]],
    note: Callable[[str], None],
) -> tuple[Analysis, Pictures]:
    """The analysis of all that the analyser was given, with the samples that it picks.

    Args:
        read: predictions of samples by their places in the data set.
        note: told why there are no alignments where the adapter fails to give them; that alone fails no run.
    """
    shown: list[ShownSample] = []
    pictures: Pictures = {}
    picks = analyser.picks()
    predictions = read([pick.index for pick in picks])
    for pick in picks:
        sample, files = analyser.show(pick, dataset[pick.index], predictions[pick.index])
        shown.append(sample)
        pictures |= files
    analysis = analyser.conclude(shown)
    if isinstance(analysis, TranslationAnalysis):
        try:
            analysis = _with_the_model(trial, dataset, analysis, predictions)
        except Exception as error:  # an adapter's own
            note(f"{trial.name}: no alignments and no rates of what is not read: {describe(error)}")
    return analysis, pictures


def _with_the_model(
    trial: Trial, dataset: Dataset, analysis: TranslationAnalysis, predictions: Mapping[int, Prediction]
) -> TranslationAnalysis:
    """Add what only the model knows, on the CPU: its alignments, and what of the sources it cannot read."""
    cls = ADAPTERS.get(trial.spec.adapter)
    if not issubclass(cls, TranslationAdapter):
        return analysis
    adapter = cls(cls.Options(**trial.spec.options), Runtime())
    adapter.load(trial.load_checkpoint())
    lossy = adapter.lossy_inputs([dataset[index] for index in range(analysis.n)])
    rates = {
        name: ratios(np.array(flags).reshape(-1, 1), np.ones((analysis.n, 1)), f"{name}|v:{VERSION}")[0]
        for name, flags in lossy.items()
    }
    alignments = _alignments(adapter, dataset, analysis.samples, predictions)
    return analysis.model_copy(update={"alignments": alignments, "rates": analysis.rates | rates})


def _alignments(
    adapter: TranslationAdapter,
    dataset: Dataset,
    shown: Sequence[ShownTranslation],
    predictions: Mapping[int, Prediction],
) -> list[ShownAlignment]:
    """Of the longest readable sample of each role; none where the model has none."""
    short = [each for each in shown if 0 < len(each.hypothesis.split()) <= ALIGNED_WORDS]
    short = [each for each in short if 0 < len(each.source.split()) <= ALIGNED_WORDS]
    short.sort(key=lambda each: len(each.source.split()))
    wanted = [each.index for each in {each.role: each for each in short}.values()]
    if not wanted:
        return []
    samples = [dataset[index] for index in wanted]
    found = adapter.alignments(samples, [predictions[index] for index in wanted])
    return [
        ShownAlignment(
            index=index,
            source=list(alignment.source),
            target=list(alignment.target),
            weights=np.round(alignment.weights.astype(np.float64), 3).tolist(),
        )
        for index, alignment in zip(wanted, found or [], strict=bool(found))
    ]
