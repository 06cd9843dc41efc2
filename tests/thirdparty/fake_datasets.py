"""A third party's data set that changes the working directory while it is used."""

from __future__ import annotations

import os
import tempfile

from harness.datasets.parallel_text import ParallelText, ParallelTextOptions
from harness.task import Sample, TaskName


class Wandering(ParallelText):
    """Sentence pairs from files; opening and reading them changes to another folder."""

    def __init__(self, options: ParallelTextOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        os.chdir(tempfile.gettempdir())

    def __getitem__(self, index: int) -> Sample:
        os.chdir("/")
        return super().__getitem__(index)
