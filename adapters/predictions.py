"""`predictions`: the outputs of any tool, read from a file and evaluated in place of a model."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeAlias

from harness.adapter import Adapter, AdapterOptions
from harness.checkpoint import Checkpoint
from harness.datasets.coco.annotations import AnnotatedImages, ImageFile
from harness.datasets.coco.results import read_results
from harness.datasets.dataset import Dataset
from harness.datasets.files import GZIP_RATIO, Note, composed, read_lines, visible_files
from harness.datasets.masks.files import read_mask
from harness.datasets.masks.masks import Masks
from harness.datasets.voc.submission import read_submission
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import TASKS, Annotations, Mask, Prediction, Sample, TaskName, Translation

Lookup: TypeAlias = Callable[[Sample], Prediction]
"""Returns the prediction of a sample; the sample has no target."""


class PredictionsOptions(AdapterOptions):
    """The file with the predictions. Its content is part of the trial's identity."""

    file: Path
    """Translations as lines (`.txt`), `.jsonl` or `.tsv` with ids; a COCO results file or a VOC submission;
    a folder or `.zip` of PNG masks."""


class Predictions(Adapter[Sequence[Sample], list[Prediction]]):
    """Predictions that another tool made, for any task. They are scored like a model's, but never timed.

    A missing translation or mask is an error before anything runs. An image without detections is valid.
    """

    timed = False
    Options = PredictionsOptions
    options: PredictionsOptions
    _lookup: Lookup

    @classmethod
    def tasks(cls) -> tuple[TaskName, ...]:
        return TASKS

    def bind(self, dataset: Dataset) -> None:
        notes: list[str] = []
        self._lookup = _READERS[dataset.task](self.options.file, dataset, notes.append)
        self.notes = tuple(notes)

    def load(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            raise UsageError("predictions have no checkpoint; remove the key 'checkpoint'")

    def preprocess(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        return samples

    def forward(self, batch: Sequence[Sample]) -> list[Prediction]:
        return [self._lookup(sample) for sample in batch]

    def postprocess(self, raw: list[Prediction], batch: Sequence[Sample]) -> list[Prediction]:  # noqa: ARG002
        return raw


def read_translations(path: Path, dataset: Dataset, note: Note) -> Lookup:  # noqa: ARG001
    """Read one translation per sample: by id from `.jsonl` or `.tsv`, otherwise one line each in their order.

    Raises:
        UsageError: A line is malformed, an id is unknown or occurs twice, or a translation is missing.
    """
    ids = _ids(dataset)
    lines = [line.rstrip() for line in read_lines(path)]  # as sacrebleu reads them
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _ROWS:
        rows = [_ROWS[suffix](f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line]
        texts = _by_id(rows, ids)
        _require(path, ids, texts, "translations")
    elif len(lines) != len(ids):
        raise UsageError(
            f"{path}: has {len(lines)} lines, but the split '{dataset.split}' has {len(ids)} samples; "
            "expected one line per sample in their order, or ids (.jsonl or .tsv)"
        )
    elif all((line.startswith("{") and line.endswith("}")) or "\t" in line for line in lines):
        raise UsageError(f"{path}: every line is a JSON object or has a tab; name it .jsonl or .tsv")
    else:
        texts = dict(zip(ids, lines, strict=True))
    return lambda sample: Translation(texts[sample.id])


def read_detections(path: Path, dataset: Dataset, note: Note) -> Lookup:
    """Read a COCO results file, or a VOC submission (a folder, or one .txt file).

    Raises:
        UsageError: The file is malformed, or names an unknown image or class.
    """
    ids = _ids(dataset)
    nothing, unknown_file = Annotations.of_boxes([], []), ImageFile("", 0, 0)
    annotated = AnnotatedImages(
        dataset.classes,
        dict.fromkeys(ids, nothing),
        dict(dataset.class_ids),
        dict.fromkeys(ids, unknown_file),
    )
    is_voc = path.is_dir() or path.suffix.lower() == ".txt"
    detections = (read_submission if is_voc else read_results)(path, annotated, note)
    return lambda sample: detections[sample.id]


def read_masks(path: Path, dataset: Dataset, note: Note) -> Lookup:  # noqa: ARG001
    """Find one mask per sample, ID.png in a folder or in a .zip file; each is read when it is needed.

    Pixels have the values of the annotated masks: labels that the data set declares, or class indices.

    Raises:
        UsageError: A mask is missing. On lookup: a mask is malformed, or its size or a label is wrong.
    """
    ids = _ids(dataset)
    extracted = None if path.is_dir() else _extract(path)
    folder = Path(extracted.name) if extracted else path
    files = {composed(file.stem): file for file in visible_files(folder, ".png")}
    _require(path, ids, files, "masks")
    read = dataset.read_labels if isinstance(dataset, Masks) else read_mask

    def lookup(sample: Sample, _keep: object = extracted) -> Mask:  # the folder exists as long as its object
        file, mask = files[sample.id], read(files[sample.id])
        assert not isinstance(sample.input, str)
        height, width = sample.input.shape[:2]
        if mask.shape != (height, width):
            raise UsageError(
                f"{path}: {file.name}: {mask.shape[1]}×{mask.shape[0]} pixels, but the image has "
                f"{width}×{height} (width × height)"
            )
        if mask.max(initial=0) >= len(dataset.classes):
            raise UsageError(
                f"{path}: {file.name}: has the value {mask.max()}; expected a class, 0 to "
                f"{len(dataset.classes) - 1}, at every pixel"
            )
        return mask

    return lookup


_READERS: dict[TaskName, Callable[[Path, Dataset, Note], Lookup]] = {
    "translation": read_translations,
    "detection": read_detections,
    "segmentation": read_masks,
}


def _ids(dataset: Dataset) -> list[str]:
    return [dataset.sample_id(index) for index in range(len(dataset))]


def _json_row(location: str, line: str) -> tuple[str, str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, and too many brackets
        raise UsageError(f"{location}: malformed JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "id" not in row:
        raise UsageError(f'{location}: expected {{"id": …, "text": "…"}}, found {line[:80]}')
    return location, str(row["id"]), row["text"]


def _tsv_row(location: str, line: str) -> tuple[str, str, str]:
    sample_id, _, text = line.partition("\t")
    if "\t" in text:
        raise UsageError(f"{location}: expected an id, a tab and a text, found {text.count(chr(9)) + 1} tabs")
    return location, sample_id, text  # trailing white space is removed, so an empty text has no tab


_ROWS: dict[str, Callable[[str, str], tuple[str, str, str]]] = {
    ".jsonl": _json_row,
    ".ndjson": _json_row,
    ".tsv": _tsv_row,
}


def _by_id(rows: Iterable[tuple[str, str, str]], ids: Sequence[str]) -> dict[str, str]:
    """Return text by id from rows of location, id and text."""
    known, texts = set(ids), dict[str, str]()
    for location, sample_id, text in rows:
        if sample_id not in known:
            raise UsageError(f"{location}: {unknown('sample', sample_id, ids)[:300]}")
        if sample_id in texts:
            raise UsageError(f"{location}: the sample '{sample_id}' occurs twice")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"{location}: the text has half of a surrogate pair")
        texts[sample_id] = text
    return texts


def _require(path: Path, ids: Sequence[str], predictions: Mapping[str, object], kind: str) -> None:
    missing = [sample_id for sample_id in ids if sample_id not in predictions]
    if missing:
        raise UsageError(
            f"{path}: {len(missing)} of {len(ids)} {kind} are missing, the first for sample '{missing[0]}'"
        )


def _extract(path: Path) -> TemporaryDirectory[str]:
    """Extract the PNG files of an archive, whatever their folders in it, to a temporary folder.

    Raises:
        UsageError: The file is no readable ZIP archive, unpacks to more than masks do, or two of its masks
            have the same name.
    """
    folder = TemporaryDirectory(prefix="harness-masks-")
    try:
        with zipfile.ZipFile(path) as archive:
            limit = max(GZIP_RATIO * path.stat().st_size, 1 << 26)
            if sum(member.file_size for member in archive.infolist()) > limit:
                raise UsageError(
                    f"{path}: unpacks to more than {limit:,} bytes, as no masks do; unpack it first"
                )
            for member in archive.infolist():
                name = PurePosixPath(member.filename).name  # never a path, so nothing leaves the folder
                target = Path(folder.name, name)
                if not name.lower().endswith(".png") or name.startswith("."):
                    continue
                if target.exists():
                    raise UsageError(f"{path}: two masks are called {name}; expected one per sample")
                target.write_bytes(archive.read(member))
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path}: expected a folder or a .zip file of PNG masks: {error}") from error
    return folder
