"""Slices: named parts of a benchmark's samples, by a property of the samples or a column of the user's table.

A numeric property with known edges is cut there. Another numeric column with more than 8 distinct values is
cut at its quartiles; with fewer, each value is a slice. Of text, the 12 most frequent values are slices.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.files import read_lines
from harness.decisions.claims import parse_condition
from harness.errors import UsageError

EDGES: Mapping[str, Sequence[int]] = {
    # Published curves of quality by length reach 50 words and more (Bahdanau et al. 2015, figure 2); the
    # first three ranges separate short messages of programs.
    "source words": (1, 3, 6, 11, 16, 21, 31, 41, 51, 101),
    "rarest source word": (1, 2, 3, 6, 21),
    "objects": (0, 1, 2, 4, 8, 16),
    "classes": (0, 1, 2, 3, 5, 9),
}
"""Property → the value at which each slice begins."""
NOT_SLICED = ("score", "shown")  # columns of statistics/samples.npz that only rank samples
DISTINCT = 8  # values of a numeric column that are slices of their own
FREQUENT = 12  # values of a text column that are slices

Column = NDArray[np.float64] | NDArray[np.str_]
"""Values of a column, one per sample; a sample with NaN or an empty text is in no slice."""


@dataclass(frozen=True, eq=False)
class Slice:
    """The samples of a slice, as positions in the data set's split."""

    column: str
    name: str
    members: NDArray[np.intp]


def cut(column: str, values: Column) -> Iterator[Slice]:
    """Yield the slices of a column that have samples, in ascending order, text by frequency."""
    if values.dtype.kind in "US":
        frequent = Counter(value for value in values.tolist() if value).most_common(FREQUENT)
        for name, _ in frequent:
            yield Slice(column, name, np.flatnonzero(values == name))
        return
    numbers = values.astype(np.float64)
    distinct = np.unique(numbers[~np.isnan(numbers)])
    edges = np.asarray(EDGES.get(column, distinct), dtype=np.float64)
    if column not in EDGES and len(distinct) > DISTINCT:
        edges = np.unique(np.nanpercentile(numbers, (0, 25, 50, 75), method="inverted_cdf"))
    bins = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right") - 1)
    for index in range(len(edges)):
        members = np.flatnonzero(bins == index)
        if len(members):
            following = edges[index + 1] if index + 1 < len(edges) else None
            known = column in EDGES
            yield Slice(column, _range(numbers[members], edges[index], following, known), members)


def select(columns: Mapping[str, Column], text: str) -> NDArray[np.intp]:
    """Return the positions of the samples that satisfy a condition, such as `source words >= 21`."""
    condition = parse_condition(text)
    if (values := columns.get(condition.column)) is None:
        raise UsageError(f"the samples have no column '{condition.column}' (known: {', '.join(columns)})")
    if values.dtype.kind in "US":
        if condition.sign != "=":
            raise UsageError(f"the column '{condition.column}' is text, which only = applies to")
        return np.flatnonzero(values == condition.value)
    try:
        bound = float(condition.value)
    except ValueError:
        message = f"the column '{condition.column}' has numbers, '{condition.value}' is none"
        raise UsageError(message) from None
    compare = {"=": np.equal, ">=": np.greater_equal, "<=": np.less_equal}[condition.sign]
    return np.flatnonzero(compare(values.astype(np.float64), bound))


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Read a table with one row per sample: column → sample id → value.

    A `.csv` has commas, a `.tsv` tabs; the first line names the columns, one of which is `id`.
    """
    rows = csv.reader(read_lines(path), delimiter="\t" if path.suffix == ".tsv" else ",")
    header = next(rows, [])
    if "id" not in header or len(set(header)) < max(2, len(header)):
        raise UsageError(
            f"{path}:1: expected distinct columns with 'id' and at least one other, found {header}"
        )
    place = header.index("id")
    columns: dict[str, dict[str, str]] = {name: {} for name in header if name != "id"}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise UsageError(f"{path}:{number}: {len(row)} columns; expected {len(header)}")
        if row and row[place] in seen:
            raise UsageError(f"{path}:{number}: the id '{row[place]}' occurs twice")
        seen |= set(row[place : place + 1])
        for name, value in zip(header, row, strict=False):
            if name != "id":
                columns[name][row[place]] = value
    return columns


def align(path: Path, ids: Sequence[str]) -> dict[str, Column]:
    """Return the columns of a table in the order of the samples; rows of other samples are not used."""
    columns = {}
    for name, by_id in read_table(path).items():
        if not by_id.keys() & set(ids):
            raise UsageError(f"{path}: no id is one of the {len(ids)} samples, such as '{ids[0]}'")
        columns[name] = _numbers([by_id.get(sample_id, "") for sample_id in ids])
    return columns


def _numbers(texts: Sequence[str]) -> Column:
    """Convert a column to numbers if every value is one."""
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts)


def _range(values: NDArray[np.float64], first: float, following: float | None, edged: bool) -> str:
    """Name a slice: by its edges if they are whole numbers known in advance, else by its extreme values."""
    if edged:
        last = None if following is None else following - 1
        return f"≥ {first:g}" if last is None else f"{first:g}" if last == first else f"{first:g}–{last:g}"
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
