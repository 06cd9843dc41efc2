"""Class names of published weights."""

from __future__ import annotations


def published_classes(count: int) -> tuple[str, ...]:
    """Return COCO's class names if torchvision publishes weights with this many classes, else empty names."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # 6–9 s to import

    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return tuple(names) if len(names) == count else ("",) * count
