"""Annotated objects and detections: COCO's JSON files, VOC's XML files and VOC's submission files."""

from pathlib import Path

from harness.datasets.coco.annotations import read_annotations as read_coco
from harness.datasets.coco.results import read_results
from harness.datasets.image_set import restrict
from harness.datasets.voc.annotations import read_annotations as read_voc
from harness.datasets.voc.submission import read_submission
from harness.errors import UsageError, checked
from harness.evaluation.annotation_files import AnnotationFiles, Predictions
from harness.registry import unknown
from harness.task import Sample

PROTOCOLS = ("coco", "voc07", "voc10")
IOU = 0.5  # VOCopts.minoverlap of the VOC devkit


class AnnotatedBoxes(AnnotationFiles):
    """The annotated objects of images. Sample ids are the images' ids."""

    tasks = ("detection",)
    classes: tuple[str, ...] = ()

    @checked
    def __init__(
        self,
        annotations: str | Path,
        protocol: str | None = None,
        iou: float = IOU,
        image_set: str | Path | None = None,
        iou_type: str = "bbox",
    ) -> None:
        """Read annotations.

        Args:
            annotations: COCO instances JSON, or a folder of VOC XML files.
            protocol: one of PROTOCOLS. None means coco for JSON and voc10 for XML.
            iou: matching threshold of voc07 and voc10. COCO prescribes its own, so it accepts only the
                default.
            image_set: a list of image ids, one per line, as in VOC's ImageSets. Only these images count.
            iou_type: `segm` compares instance masks in place of boxes, under coco only.
        """
        annotations = Path(annotations)
        if not annotations.exists():
            raise UsageError(f"{annotations}: no such file or folder")
        self._is_voc = annotations.is_dir()
        files = sorted(annotations.glob("*.xml")) if self._is_voc else [annotations]
        name = protocol or ("voc10" if self._is_voc else "coco")
        if name not in PROTOCOLS:
            raise UsageError(unknown("protocol", name, PROTOCOLS))
        if name == "coco" and iou != IOU:
            raise UsageError(f"iou {iou:g} applies to voc07 and voc10; coco averages over 0.50:0.05:0.95")
        if iou_type != "bbox" and (iou_type != "segm" or self._is_voc or name != "coco"):
            raise UsageError(
                f"iou_type: expected bbox, or segm with COCO's JSON and protocol coco, found {iou_type} with "
                f"{annotations.name} and protocol {name}"
            )
        if annotations.suffix.lower() == ".png":
            raise UsageError(f"{annotations}: is a picture; name the classes of masks with --classes")
        super().__init__("detection", annotations, files)
        self.metric_names = (name,)
        self.metric_options = {"iou_type": iou_type} if name == "coco" else {"iou": iou}
        if self._is_voc:
            annotated = read_voc(annotations, self._notes.append)
        else:
            annotated = read_coco(annotations, self._notes.append, with_masks=iou_type == "segm")
        self._annotated = restrict(annotated, Path(image_set), self._notes.append) if image_set else annotated
        self.classes, self._targets = self._annotated.classes, list(self._annotated.targets.items())

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> Sample:
        image_id, target = self._targets[index]
        return Sample(str(image_id), "", target)

    def read_predictions(self, path: Path) -> Predictions:
        """Read COCO results JSON; with VOC annotations, a VOC submission is also accepted."""
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        is_submission = self._is_voc and (path.is_dir() or path.suffix.lower() == ".txt")
        read = read_submission if is_submission else read_results
        detections = read(path, self._annotated, self._notes.append)
        return [(str(image_id), detections[image_id]) for image_id, _ in self._targets]
