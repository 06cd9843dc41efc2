"""`parallel-text`: sentence pairs of files: aligned lines, tables with tabs, or an exported corpus."""

from __future__ import annotations

import codecs
import difflib
import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from harness.datasets.dataset import DatasetOptions
from harness.datasets.exported_text import read_exported
from harness.datasets.files import check_inside, read_lines
from harness.datasets.sentence_pairs import SentencePairs, split_of
from harness.errors import UnavailableError, UsageError
from harness.task import Sample, TaskName

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
_PLACE = "{split}"
_OF_FILES = ("split_names", "encoding", "merge_sources")  # options without meaning for an exported corpus
_OF_LINES, _OF_TABLES = ("references",), ("source_column", "reference_columns")


class ParallelTextOptions(DatasetOptions):
    """Where the sentences are, and which of them.

    Files are named relative to `directory`. `{split}` in a name stands for the split's name; names without
    it are of one corpus whose pairs are divided 90/5/5 by a hash of the source. A name that ends in `.gz` is
    of a compressed file. Without `source` and `table` the directory holds an exported corpus.
    """

    directory: Path
    source: str | None = None
    """A sentence a line: `train.en`, `{split}.en.gz`."""
    references: tuple[str, ...] = ()
    """Files with as many lines as `source`, one for each reference translation."""
    table: str | None = None
    """Instead of these two, columns between tabs: `deu.txt`, `{split}.tsv`. Quotes have no meaning."""
    source_column: int = Field(default=1, ge=1)
    """Counted from 1."""
    reference_columns: tuple[int, ...] = (2,)
    split_names: tuple[str, str, str] = _SPLITS
    """What `{split}` stands for in train, validation and test."""
    encoding: str = "utf-8"
    merge_sources: bool = False
    """Pairs with the same source become one sample with several references, in the order of the file."""
    min_words: int = Field(default=1, ge=1)
    """Shorter sources are left out."""
    max_words: int | None = Field(default=None, ge=1)
    """Pairs with a longer source or reference are left out."""
    size: int | None = Field(default=None, ge=1)
    """At most so many samples: the first of the split."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            "a".encode(name)  # refuses codecs that are not of text, such as hex
            return codecs.lookup(name).name
        except LookupError:
            raise ValueError("expected an encoding that Python knows, such as utf-8 or cp1252") from None

    @field_validator("reference_columns")
    @classmethod
    def _counted(cls, columns: tuple[int, ...]) -> tuple[int, ...]:
        if not columns or min(columns) < 1:
            raise ValueError("expected at least one column, counted from 1")
        return columns

    @model_validator(mode="after")
    def _consistent(self) -> ParallelTextOptions:
        if self.table is not None and self.source is not None:
            raise ValueError("expected either 'source' with 'references' or 'table', not both")
        if self.source is not None and not self.references:
            raise ValueError("'source' needs at least one file in 'references' beside it")
        for keys, owner, there in (
            (_OF_LINES, "'source'", self.source is not None),
            (_OF_TABLES, "'table'", self.table is not None),
            (_OF_FILES, "'source' or 'table'", bool(self.files)),
        ):
            for key in keys:
                if not there and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' has a meaning beside {owner} only")
        for name in (file.replace(_PLACE, split) for file in self.files for split in self.split_names):
            try:
                check_inside("parallel-text", name, "directory")
            except UsageError as error:
                raise ValueError(str(error)) from error
        if len({_PLACE in name for name in self.files}) > 1:
            raise ValueError(f"either every file's name has {_PLACE} or none has: {', '.join(self.files)}")
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError(f"max_words ({self.max_words}) must be at least min_words ({self.min_words})")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Every file name as given; none for an exported corpus."""
        return tuple(name for name in (self.table, self.source, *self.references) if name is not None)


class ParallelText(SentencePairs):
    """Pairs in the order of their files; a sample's id has the number of its line.

    A pair without source, or without any reference, is left out and counted (`skipped`, and one warning), as
    are those out of the limits. Without white space around, sentences are as they stand in the file.

    Raises:
        UnavailableError: there is no such directory.
        UsageError: a file is missing, badly encoded, malformed, or has another number of lines than its
            partner; an exported file has changed; no pair is left.
    """

    Options = ParallelTextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        samples, self.skipped = _select(self.options, split)
        self.samples = samples[: self.options.size]


@lru_cache(maxsize=8)
def _select(options: ParallelTextOptions, split: str) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """The samples of a split and what was left out, once per process."""
    if not options.directory.is_dir():
        raise UnavailableError(f"parallel-text: there is no folder {options.directory}")
    samples = _read(options, split) if options.files else read_exported(options.directory, split)
    whole = not options.files or _PLACE in options.files[0]
    kept: dict[str, Sample] = {}
    left_out: Counter[str] = Counter()
    for sample in samples:
        assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
        words = len(sample.input.split())
        longest = max([words, *(len(text.split()) for text in sample.target)])
        if not (sample.input and sample.target):
            left_out["without source or translation"] += 1
        elif not whole and split_of(sample.input) != split:
            continue
        elif words < options.min_words:
            left_out[f"shorter than {options.min_words} words"] += 1
        elif options.max_words is not None and longest > options.max_words:
            left_out[f"longer than {options.max_words} words"] += 1
        else:
            key = sample.input if options.merge_sources else sample.id
            kept[key] = _merged(kept[key], sample) if key in kept else sample
    skipped = tuple(f"{count} pairs {reason}" for reason, count in sorted(left_out.items()))
    what = f"parallel-text: split '{split}' of {options.directory}"
    told = f" ({', '.join(skipped)})" if skipped else ""
    if not kept:
        raise UsageError(f"{what}: no pair is left{told}")
    if skipped:
        logger.warning("%s: %d samples%s", what, len(kept), told)
    return tuple(kept.values()), skipped


def _merged(first: Sample, other: Sample) -> Sample:
    assert isinstance(first.target, tuple) and isinstance(other.target, tuple)
    return Sample(first.id, first.input, tuple(dict.fromkeys((*first.target, *other.target))))


def _read(options: ParallelTextOptions, split: str) -> Iterator[Sample]:
    """Every line of the split's files, empty ones too."""
    name = options.split_names[_SPLITS.index(split)]
    paths = [_existing(options.directory, file.replace(_PLACE, name)) for file in options.files]
    columns = [read_lines(path, options.encoding) for path in paths]
    if options.table is not None:
        places = [options.source_column - 1, *(column - 1 for column in options.reference_columns)]
        rows: Iterator[tuple[str, ...]] = _cells(paths[0], columns[0], places)
    else:
        for path, lines in zip(paths[1:], columns[1:], strict=True):
            if len(lines) != len(columns[0]):
                raise UsageError(
                    f"{path}: has {len(lines)} lines, {paths[0]} has {len(columns[0])}; "
                    "expected one line a sentence in both"
                )
        rows = zip(*columns, strict=True)
    for number, row in enumerate(rows, start=1):
        source, *references = (text.strip() for text in row)
        yield Sample(f"{split}-{number:09d}", source, tuple(filter(None, references)))


def _existing(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        there = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, there, n=1)
        raise UsageError(f"{path}: no such file{f'; did you mean {close[0]!r}?' if close else ''}")
    return path


def _cells(path: Path, lines: list[str], places: list[int]) -> Iterator[tuple[str, ...]]:
    """The chosen cells of each line; an empty line has empty ones."""
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if not line.strip():
            cells = [""] * (max(places) + 1)
        if len(cells) <= max(places):
            raise UsageError(
                f"{path}:{number}: expected at least {max(places) + 1} columns between tabs, "
                f"found {len(cells)}"
            )
        yield tuple(cells[place] for place in places)
