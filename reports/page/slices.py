"""Figures by slice: one table per benchmark, metric and column."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.rundir.results import Results, SliceRecord


@dataclass(frozen=True)
class SliceGroup:
    """The slices of one column of a benchmark, in one metric."""

    benchmark: str
    metric: str
    column: str
    slices: Sequence[SliceRecord]

    @property
    def variants(self) -> list[str]:
        """Return the variants in the order of the suite."""
        return list(self.slices[0].figures)


def slice_groups(results: Results) -> list[SliceGroup]:
    """Return the slices of a run by benchmark, metric and column, in the order of results.json."""

    def column(record: SliceRecord) -> tuple[str, str, str]:
        # AP by size has a figure per slice: ap_small, ap_medium, ap_large.
        sized = record.column == "object size"
        return record.benchmark, "ap" if sized else record.metric, record.column

    return [SliceGroup(*names, list(slices)) for names, slices in groupby(results.slices, key=column)]
