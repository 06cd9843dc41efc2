"""Tables of `harness score`: overall figures, differences from the first system, figures per class."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cli.terminal import figure_text, show_table
from harness.evaluation.systems import Difference, System, differences
from reports.figures import DOUBT
from reports.text import display


def show_systems(systems: Sequence[System]) -> None:
    """Print the figures of each system, overall and per class, and each signature once.

    If there are several systems, print their differences from the first.
    """
    several = len(systems) > 1
    labels = _labels(systems)
    compared = {(entry.system, entry.change.name): entry for entry in differences(systems)}
    rows = []
    for name in systems[0].metrics:
        for system in systems:
            figure = system.metrics[name]
            cells = [name, figure_text(figure), str(figure.n)]
            if several:
                cells[1:1] = [labels[system.name]]
                cells += _difference_cells(compared.get((system.name, name)))
            rows.append(cells)
    columns = ["metric", "value [95% interval]", "n"]
    if several:
        columns[1:1] = ["system"]
        columns += ["difference from the first", "p", "p (Holm)"]
    show_table(columns, rows)
    _show_classes(systems, labels)
    for signature, names in _signatures(systems[0]).items():
        listed = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        sys.stdout.write(f"signature of {listed}: {signature}\n")
    for note in dict.fromkeys(figure.note for figure in systems[0].metrics.values() if figure.note):
        sys.stdout.write(f"{DOUBT} the interval may be wrong: {display(note, 400)}\n")


def _labels(systems: Sequence[System]) -> dict[str, str]:
    """Return the paths of the systems without the folder that contains all of them."""
    folder = os.path.commonpath([Path(system.name).parent for system in systems])
    return {system.name: display(os.path.relpath(system.name, folder or ".")) for system in systems}


def _difference_cells(entry: Difference | None) -> list[str]:
    """Return difference, p-value and adjusted p-value of a system; dashes for the first system."""
    if entry is None:
        return ["–", "–", "–"]
    p_values = (entry.change.p_value, entry.p_adjusted)
    cells = ["–" if p is None else f"{p:.2g}" for p in p_values]
    return [entry.change.difference_text() or entry.change.reason, *cells]


def _show_classes(systems: Sequence[System], labels: Mapping[str, str]) -> None:
    """Print the figures of each class that has one in any system, and count the other classes."""
    several = len(systems) > 1
    classes = systems[0].per_class
    shown = [
        name
        for name in classes
        if any(value is not None for system in systems for value in system.per_class[name].values())
    ]
    if shown:
        columns = list(classes[shown[0]])
        rows = [
            [
                *([labels[system.name]] if several else []),
                display(name),
                *(_class_text(system, name, column) for column in columns),
            ]
            for system in systems
            for name in shown
        ]
        sys.stdout.write("\n")
        show_table([*(["system"] if several else []), "class", *columns], rows)
    if len(shown) < len(classes):
        sys.stdout.write(f"not shown: {len(classes) - len(shown)} classes without a figure\n")


def _class_text(system: System, label: str, name: str) -> str:
    """Return a class's figure with its interval."""
    value, interval = system.per_class[label][name], system.class_intervals[label][name]
    if value is None:
        return "undefined"
    bounds = "[no interval]" if interval is None else f"[{interval[0]:.4g}, {interval[1]:.4g}]"
    return f"{value:.4g} {bounds}"


def _signatures(system: System) -> dict[str, list[str]]:
    """Return the names of the figures by their signature."""
    names = defaultdict(list)
    for name, figure in system.metrics.items():
        names[figure.signature].append(name)
    return names
