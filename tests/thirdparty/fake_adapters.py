"""A third party's adapters, found through their distribution's entry points; they fail on request."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.adapter import Adapter, AdapterOptions, TranslationAdapter
from harness.checkpoint import Checkpoint
from harness.task import Detections, Prediction, Sample, Translation


class FaultOptions(AdapterOptions):
    """On the sample at this index: raise, end the process, end it only the first time, or hang."""

    raise_at: int | None = None
    exit_at: int | None = None
    exit_once_at: int | None = None
    hang_at: int | None = None
    marker: str = ""
    drop: int = 1
    """Number of words omitted from a translation."""
    delay: float = 0.0
    glossary: Path | None = None
    parameters: int | None = None
    """The number of parameters that the adapter pretends to have."""


class FakeTranslation(TranslationAdapter):
    """Answers with the source, shortened by some words: some n-grams match, none perfectly."""

    Options = FaultOptions
    probes: ClassVar[Mapping[str, str]] = {"kept": "words", "omitted": "words"}

    def load(self, checkpoint: Checkpoint | None) -> None:
        self.loaded = True

    def probe(self, samples: Sequence[Sample]) -> dict[str, float | list[float]]:
        self._misbehave(-1)
        kept: list[float] = [len(str(sample.input).split()) - self.options.drop for sample in samples]
        return {"kept": kept, "omitted": float(self.options.drop)}

    def parameters(self) -> int | None:
        return self.options.parameters

    def preprocess(self, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)

    def forward(self, batch: list[Sample]) -> list[str]:
        for sample in batch:
            self._misbehave(int(sample.id.rsplit("-", 1)[1]))
        return [str(sample.input) for sample in batch]

    def postprocess(self, raw: Any, batch: list[Sample]) -> list[Prediction]:
        return [Translation(" ".join(text.split()[: -self.options.drop]) or text) for text in raw]

    def _misbehave(self, index: int) -> None:
        time.sleep(self.options.delay)
        if index == self.options.raise_at:
            raise RuntimeError(f"poison at {index}")
        if index == self.options.exit_at:
            os._exit(1)
        if index == self.options.exit_once_at and not Path(self.options.marker).exists():
            Path(self.options.marker).touch()
            os._exit(1)
        if index == self.options.hang_at:
            time.sleep(3600)


class FakeDetection(Adapter):
    """Guesses boxes from the image's mean, the same for the same image."""

    task = "detection"

    def load(self, checkpoint: Checkpoint | None) -> None:
        self.loaded = True

    def preprocess(self, samples: Sequence[Sample]) -> Any:
        return np.array([np.mean(sample.input) for sample in samples])

    def forward(self, batch: Any) -> Any:
        return batch

    def postprocess(self, raw: Any, batch: Any) -> list[Prediction]:
        found: list[Prediction] = []
        for mean in raw:
            generator = np.random.default_rng(int(mean * 1000))
            corners = generator.uniform(0, 64, (5, 2))
            boxes = np.concatenate([corners, corners + generator.uniform(10, 64, (5, 2))], axis=1)
            found.append(
                Detections(
                    boxes.astype(np.float32),
                    generator.uniform(0, 1, 5).astype(np.float32),
                    generator.integers(0, 10, 5),
                )
            )
        return found
