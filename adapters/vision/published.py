"""Class names of published weights."""

from __future__ import annotations


def published_classes(count: int) -> tuple[str, ...]:
    """COCO's, where a file has as many as the published ones; else so many without a name."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # 6–9 s to import

    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return tuple(names) if len(names) == count else ("",) * count
