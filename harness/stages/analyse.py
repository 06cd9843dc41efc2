"""Analysis of a trial: the causes of its figures, and samples to look at."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from harness.adapter import ADAPTERS, Runtime, TranslationAdapter
from harness.analysis.analyser import AnyAnalyser, ImageFiles, ratios
from harness.analysis.detection import DetectionAnalyser
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
from harness.errors import HarnessError, describe
from harness.stages.child import Child
from harness.task import Prediction
from harness.trial import Trial

EXPLAIN_SECONDS = 900.0  # until a model that explains its predictions counts as hanging
MAX_ALIGNED_WORDS = 30  # limit for source and for hypothesis; a larger heat map is unreadable on a page

PredictionReader = Callable[[Collection[int]], Mapping[int, Prediction]]
"""Reads predictions by the index of their sample in the data set."""


def make_analyser(dataset: Dataset, min_score: float | None = None) -> AnyAnalyser:
    """Return an empty analyser for the data set's task. `min_score` is the operating point of detection."""
    if dataset.task == "translation":
        return TranslationAnalyser()
    if dataset.task == "detection":
        return DetectionAnalyser(dataset.classes, min_score)
    return SegmentationAnalyser(dataset.classes)


def analyse(dataset: Dataset, analyser: AnyAnalyser, read: PredictionReader) -> tuple[Analysis, ImageFiles]:
    """Return the analysis of the samples that were added to an analyser, and the images that it shows."""
    shown: list[ShownSample] = []
    images: ImageFiles = {}
    picks = analyser.picks()
    predictions = read([pick.index for pick in picks])
    for pick in picks:
        sample, files = analyser.show(pick, dataset[pick.index], predictions[pick.index])
        shown.append(sample)
        images |= files
    return analyser.conclude(shown), images


def explain(
    trial: Trial, analysis: Analysis, read: PredictionReader, note: Callable[[str], None]
) -> Analysis:
    """Return the analysis of a translation model with its alignments and its rates of lossy inputs.

    If the model fails, this is noted, and the analysis is returned without these parts.
    """
    cls, base = ADAPTERS.get(trial.spec.adapter), TranslationAdapter
    if not isinstance(analysis, TranslationAnalysis) or not issubclass(cls, base):
        return analysis
    if cls.alignments is base.alignments and cls.lossy_inputs is base.lossy_inputs:
        return analysis
    try:
        predictions = read([sample.index for sample in analysis.samples])
        with Child() as child:
            return child.call(_explain, trial, analysis, predictions, seconds=EXPLAIN_SECONDS)
    except HarnessError as error:
        note(f"{trial.name}: no alignments and no rates of lossy inputs: {describe(error)}")
        return analysis


def _explain(
    trial: Trial, analysis: TranslationAnalysis, predictions: Mapping[int, Prediction]
) -> TranslationAnalysis:
    """Run the model on the CPU, for its alignments and the rates of inputs that it cannot read completely."""
    cls, dataset = ADAPTERS.get(trial.spec.adapter), trial.dataset.open()
    assert issubclass(cls, TranslationAdapter)
    adapter = cls(cls.Options(**trial.options), Runtime())
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
    """Align the longest readable sample of each role; return none if the model has no alignments."""
    readable = [
        sample
        for sample in shown
        if 0 < len(sample.hypothesis.split()) <= MAX_ALIGNED_WORDS
        and 0 < len(sample.source.split()) <= MAX_ALIGNED_WORDS
    ]
    readable.sort(key=lambda sample: len(sample.source.split()))
    longest = {sample.role: sample for sample in readable}
    indices = [sample.index for sample in longest.values()]
    if not indices:
        return []
    samples = [dataset[index] for index in indices]
    alignments = adapter.alignments(samples, [predictions[index] for index in indices])
    if alignments is None:
        return []
    return [
        ShownAlignment(
            index=index,
            source=list(alignment.source),
            target=list(alignment.target),
            weights=np.round(alignment.weights.astype(np.float64), 3).tolist(),
        )
        for index, alignment in zip(indices, alignments, strict=True)
    ]
