"""Tables of `harness score`: figures overall and per class, differences from the first system, signatures."""

import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cli.terminal import figure_text, show_table
from harness.evaluation.systems import Difference, System, differences
from reports.figures import DOUBT
from reports.text import display

_OF_SEVERAL = ("system", "difference from the first", "p", "p (Holm)")  # columns that one system lacks


def show_systems(systems: Sequence[System]) -> None:
    """Print the figures of each system, and each signature and note once."""
    folder = os.path.commonpath([Path(system.name).absolute().parent for system in systems])
    labels = [display(os.path.relpath(system.name, folder)) for system in systems]
    compared = {(entry.system, entry.change.name): entry for entry in differences(systems)}
    first, several = systems[0], len(systems) > 1
    rows = [
        {
            "metric": name,
            "system": label,
            "value [95% interval]": figure_text(system.metrics[name]),
            "n": str(system.metrics[name].n),
            **_difference_cells(compared.get((system.name, name))),
        }
        for name in first.metrics
        for system, label in zip(systems, labels, strict=True)
    ]
    _show_table(rows, several)
    # Data sets may declare many classes that they lack, such as VOC's twenty.
    shown = [name for name in first.per_class if any(_has_figure(system, name) for system in systems)]
    if shown:
        sys.stdout.write("\n")
        rows = [
            {"system": label, "class": display(name)}
            | {metric: figure_text(figure, unit=False) for metric, figure in system.per_class[name].items()}
            for system, label in zip(systems, labels, strict=True)
            for name in shown
        ]
        _show_table(rows, several)
    if len(shown) < len(first.per_class):
        sys.stdout.write(f"not shown: {len(first.per_class) - len(shown)} classes without a figure\n")
    for signature, names in _shared({name: figure.signature for name, figure in first.metrics.items()}):
        sys.stdout.write(f"signature of {names}: {signature}\n")
    for note, names in _shared({name: figure.note for name, figure in first.metrics.items()}):
        sys.stdout.write(f"{DOUBT} the interval of {names} may be wrong: {display(note, 400)}\n")


def _shared(texts: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Return each text with the figures that it is about."""
    figures = defaultdict(list)
    for name, text in texts.items():
        if text:
            figures[text].append(name)
    return [
        (text, ", ".join(names) if len(names) < max(3, len(texts)) else f"{names[0]} … {names[-1]}")
        for text, names in figures.items()
    ]


def _show_table(rows: Sequence[Mapping[str, str]], several: bool) -> None:
    columns = [column for column in rows[0] if several or column not in _OF_SEVERAL]
    show_table(columns, [[row[column] for column in columns] for row in rows])


def _difference_cells(entry: Difference | None) -> dict[str, str]:
    """Return difference, p-value and adjusted p-value of a system; dashes for the first system."""
    change, p_adjusted = (entry.change, entry.p_adjusted) if entry else (None, None)
    difference = change.difference_text() or change.reason if change else "–"
    p_values = (change.p_value if change else None, p_adjusted)
    texts = [difference, *("–" if p is None else f"{p:.2g}" for p in p_values)]
    return dict(zip(_OF_SEVERAL[1:], texts, strict=True))


def _has_figure(system: System, label: str) -> bool:
    return any(figure.value is not None for figure in system.per_class[label].values())
