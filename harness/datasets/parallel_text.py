"""`parallel-text`: sentence pairs in files: aligned lines, or tab-separated tables."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from harness.datasets.dataset import SPLITS, DatasetOptions
from harness.datasets.files import SPLIT_PLACEHOLDER, check_option_path, insert_split, read_lines
from harness.datasets.sentence_pairs import SentencePairs, SentencePairsOptions, split_of_source
from harness.errors import UnavailableError, UsageError
from harness.task import Sample, TaskName

logger = logging.getLogger(__name__)

_REQUIRED = {
    **{"references": "source", "groups": "source"},
    **{"source_column": "table", "reference_columns": "table"},
}
"""Option → the option without which it has no meaning."""


class ParallelTextOptions(SentencePairsOptions):
    """Location of the sentences, and a selection from them.

    File names are relative to `directory`. `{split}` in a name stands for the split's name. Files without it
    are one corpus, whose pairs are divided 90/5/5 by a hash of the source. A file whose name ends in `.gz` is
    compressed.
    """

    directory: Path
    """Folder that contains the files."""
    source: str | None = None
    """File with one sentence per line: `train.en`, `{split}.en.gz`."""
    references: tuple[str, ...] = ()
    """Files with as many lines as `source`, one file per reference translation."""
    groups: str | None = None
    """File with as many lines as `source`: the document of each sentence. Sentences of one document are not
    independent, so an interval leaves them out together."""
    table: str | None = None
    """File with tab-separated columns, to use instead of `source` and `references`: `deu.txt`, `{split}.tsv`.
    Quotes are literal."""
    source_column: int = Field(default=1, ge=1)
    """Column of the source, counted from 1."""
    reference_columns: tuple[int, ...] = (2,)
    """Columns of the reference translations, counted from 1."""
    split_names: tuple[str, str, str] = SPLITS
    """Values of `{split}` for train, validation and test."""
    max_words: int | None = Field(default=None, ge=1)
    """Pairs with a longer source or reference are excluded."""
    size: int | None = Field(default=None, ge=1)
    """Maximum number of samples. The first of the split are used."""

    @field_validator("reference_columns")
    @classmethod
    def _check_columns(cls, columns: tuple[int, ...]) -> tuple[int, ...]:
        if not columns or min(columns) < 1:
            raise ValueError("expected at least one column, counted from 1")
        return columns

    @model_validator(mode="after")
    def _check_files(self) -> ParallelTextOptions:
        for key, required in _REQUIRED.items():
            is_set = getattr(self, key) != type(self).model_fields[key].default
            if is_set and getattr(self, required) is None:
                raise ValueError(f"'{key}' requires '{required}'")
        if self.source is not None and not self.references:
            raise ValueError("'source' requires at least one file in 'references'")
        if (self.table is None) == (self.source is None):
            raise ValueError("expected either 'source' with 'references' or 'table'")
        for file in self.files:
            for split in SPLITS:
                check_option_path(insert_split(file, split, self.split_names), "directory")
        if len({SPLIT_PLACEHOLDER in file for file in self.files}) > 1:
            raise ValueError(
                f"expected {SPLIT_PLACEHOLDER} in all file names or in none, found: {', '.join(self.files)}"
            )
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Return all file names as given."""
        return tuple(filter(None, (self.table, self.source, *self.references, self.groups)))


class ParallelText(SentencePairs):
    """Pairs in the order of their files. The id of a sample contains its line number.

    Pairs without a source or without any reference, and pairs outside the limits, are excluded and counted
    in one warning. Sentences are as in the file, without surrounding white space.
    """

    Options = ParallelTextOptions
    options: ParallelTextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self.samples = _select(self.options, split)[: self.options.size]


@lru_cache(maxsize=8)
def _select(options: ParallelTextOptions, split: str) -> tuple[Sample, ...]:
    """Return the samples of a split. They are read once per process."""
    if not options.directory.is_dir():
        raise UnavailableError(f"parallel-text: folder not found: {options.directory}")
    split_by_hash = SPLIT_PLACEHOLDER not in options.files[0]
    selected: list[Sample] = []
    excluded: Counter[str] = Counter()
    for sample in _read_files(options, split):
        source = str(sample.input)
        reason = _reason_to_exclude(options, sample)
        if source and sample.target and split_by_hash and split_of_source(source) != split:
            continue
        if reason:
            excluded[reason] += 1
        else:
            selected.append(sample)
    corpus = f"parallel-text: split '{split}' of {options.directory}"
    reasons = ", ".join(f"{count} pairs {reason}" for reason, count in sorted(excluded.items()))
    details = f" ({reasons})" if reasons else ""
    if not selected:
        raise UsageError(f"{corpus}: no pair remains{details}")
    if excluded:
        logger.warning("%s: %d samples%s", corpus, len(selected), details)
    return tuple(selected)


def _reason_to_exclude(options: ParallelTextOptions, sample: Sample) -> str | None:
    assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
    if not (sample.input and sample.target):
        return "without source or translation"
    words = max(len(text.split()) for text in (sample.input, *sample.target))
    if options.max_words is not None and words > options.max_words:
        return f"longer than {options.max_words} words"
    return None


def _read_files(options: ParallelTextOptions, split: str) -> Iterator[Sample]:
    """Yield all lines of the split's files, including empty ones."""
    paths = [
        _find(options.directory, insert_split(file, split, options.split_names)) for file in options.files
    ]
    lines = [read_lines(path) for path in paths]
    if options.table is not None:
        columns = [column - 1 for column in (options.source_column, *options.reference_columns)]
        rows = _read_cells(paths[0], lines[0], columns)
    else:
        rows = _align(paths, lines)
    for number, row in enumerate(rows, start=1):
        source, *references = (text.strip() for text in row)
        group = references.pop() or None if options.groups else None
        yield Sample(f"{split}-{number:09d}", source, tuple(filter(None, references)), group)


def _find(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        names = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        similar = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise UsageError(f"{path}: file not found{hint}")
    return path


def _align(paths: Sequence[Path], lines: Sequence[list[str]]) -> Iterator[tuple[str, ...]]:
    for path, file_lines in zip(paths, lines, strict=True):
        if len(file_lines) != len(lines[0]):
            raise UsageError(
                f"{path}: has {len(file_lines)} lines, {paths[0]} has {len(lines[0])}; "
                "expected one sentence per line in both"
            )
    yield from zip(*lines, strict=True)


def _read_cells(path: Path, lines: Sequence[str], columns: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each line in the given columns, counted from 0; a blank line has empty cells."""
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t") if line.strip() else [""] * (max(columns) + 1)
        if len(cells) <= max(columns):
            raise UsageError(
                f"{path}:{number}: expected at least {max(columns) + 1} columns between tabs, "
                f"found {len(cells)}"
            )
        yield tuple(cells[column] for column in columns)
