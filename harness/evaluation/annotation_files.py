"""Annotation files as a data set whose samples have targets but no input."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from harness.datasets.content_hashes import content_hashes
from harness.datasets.dataset import Dataset, DatasetOptions
from harness.identity import digest
from harness.task import Prediction, TaskName

Predictions: TypeAlias = Iterable[tuple[str, Prediction]]
"""(sample id, prediction) of every sample, in their order. It can be iterated over several times."""


class AnnotationFiles(Dataset):
    """The targets of annotation files. A subclass knows the forms of prediction files that fit them."""

    metric_names: tuple[str, ...]
    """Registered names of the metrics to compute, the headline first."""
    omitted: frozenset[str] = frozenset()
    """Figures that these files cannot define."""
    metric_options: dict[str, object] = {}  # noqa: RUF012  an instance replaces it

    def __init__(
        self, task: TaskName, source: Path, files: Sequence[Path], notes: Sequence[str] = ()
    ) -> None:
        """Open annotation files: `files` decide the targets, and `source` is the path that the user named."""
        super().__init__(DatasetOptions(), "test", task)
        self.name = source.stem
        self._files = files
        self._notes = [*notes]

    @property
    def fingerprint(self) -> str:
        return digest(content_hashes(self._files))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._notes))

    @abstractmethod
    def read_predictions(self, path: Path) -> Predictions:
        """Read the predictions of one system, and add to `notes`."""
