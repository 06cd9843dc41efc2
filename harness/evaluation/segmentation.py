"""Annotated and predicted masks: PNG files whose values or colours are classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.datasets.masks.classes import ClassLabels, MaskClasses, binary_classes, parse_classes
from harness.datasets.masks.files import find_predictions, list_masks
from harness.errors import UsageError, checked
from harness.evaluation.annotation_files import AnnotationFiles, Predictions
from harness.task import BACKGROUND, IGNORED, Mask, Sample

_MAX_CLASSES = 256  # of 8 bits


class AnnotatedMasks(AnnotationFiles):
    """A mask per image. Sample ids are the stems of the annotated files, which are read one at a time."""

    tasks = ("segmentation",)
    metric_names = ("iou",)
    classes: tuple[str, ...] = ()

    @checked
    def __init__(
        self,
        annotations: str | Path,
        classes: str,
        first_label: int = 0,
        ignore: Sequence[str] = (),
        image_set: str | Path | None = None,
    ) -> None:
        """List the annotated masks.

        Args:
            annotations: a PNG file, or a folder of them.
            classes, first_label, ignore: the labels of annotations and predictions; see `read_classes`. If
                all annotated pixels are 0 or 255, then 255 is the second of two classes without labels.
            image_set: a list of stems, one per line. Only these masks count.
        """
        notes: list[str] = []
        annotations = Path(annotations)
        self._masks = list_masks(annotations, notes.append, Path(image_set) if image_set else None)
        self._classes = read_classes(classes, first_label, ignore)
        if len(self._classes.names) < _MAX_CLASSES and not (ignore or first_label or "=" in classes):
            self._classes = binary_classes(self._masks.values(), self._classes, notes.append)
        super().__init__("segmentation", annotations, [*self._masks.values()], notes)
        self._path, self._targets = annotations, list(self._masks.items())
        self.classes = names = self._classes.names
        if BACKGROUND not in names:
            self.omitted = frozenset({"foreground_iou"})
        # Of 256 classes, the last has the value that otherwise means ignored.
        values = self._classes.values[self._classes.values >= len(names)]
        if self._classes.rest_ignored or IGNORED in values:
            self.metric_options = {"ignore_index": IGNORED}

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> Sample:
        stem, file = self._targets[index]
        return Sample(stem, "", self._classes.read(file))

    def read_predictions(self, path: Path) -> Predictions:
        return MaskFiles(find_predictions(self._path, self._masks, path, self._notes.append), self._classes)


@dataclass(frozen=True)
class MaskFiles:
    """Predicted masks by sample id, each read when it is needed."""

    files: Mapping[str, Path]
    classes: MaskClasses

    def __iter__(self) -> Iterator[tuple[str, Mask]]:
        return ((sample_id, self.classes.read(file)) for sample_id, file in self.files.items())


def read_classes(text: str, first_label: int = 0, ignore: Sequence[str] = ()) -> MaskClasses:
    """Parse the classes of mask files and their labels, which mean the same as in the data set `masks`.

    Args:
        text: a number of classes, which are then called by their labels; or names separated by commas, all
            of them with their labels (`road=7,sidewalk=8+9`, `person=#800000`) or none.
        first_label: label of the first class, if the classes have no labels.
        ignore: values, colours or `rest`. Without any, 255 is ignored if labels are values and no class has
            it.
    """
    try:
        labels = _class_labels(text, first_label)
        classes = parse_classes(labels, [])
        if len(labels) == 1:
            raise ValueError("a single class is always right; expected at least 2, such as background,object")
        if ignore:
            return parse_classes(labels, "rest" if [*ignore] == ["rest"] else [*map(_label, ignore)])
        is_free = not classes.are_colours and IGNORED not in classes.labels
        return parse_classes(labels, [IGNORED]) if is_free else classes
    except ValueError as error:
        raise UsageError(f"--classes {text}: {error}") from error


def _class_labels(text: str, first_label: int) -> ClassLabels:
    """Return each class name with its label or labels."""
    if text.isdecimal():
        if int(text) > _MAX_CLASSES:
            raise ValueError(f"expected 1 to {_MAX_CLASSES} classes, found {int(text)}")
        return {str(label): label for label in range(first_label, first_label + int(text))}
    entries = [entry.strip().partition("=") for entry in text.split(",")]
    names = [name for name, _, _ in entries]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("expected a number of classes, or different names separated by commas")
    labelled = [labels for _, _, labels in entries if labels]
    if not labelled:
        return {name: first_label + index for index, name in enumerate(names)}
    if len(labelled) < len(names) or first_label:
        raise ValueError("expected a label for every class, without --first-label, or for none")
    return {name: [_label(label) for label in labels.split("+")] for name, _, labels in entries}


def _label(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
