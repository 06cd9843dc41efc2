"""torchvision's `ssd300_vgg16` behind the adapter interface."""

import numpy as np
from numpy.typing import NDArray

from adapters.detection import ssd_augmentation
from adapters.detection.torchvision_weights import FIRST_MAP_BOXES, SSD_LOGITS
from adapters.detection.training_images import AugmentedImage
from adapters.torchvision.builders import DenseDetector
from adapters.torchvision.detector import SelectionOptions
from harness.task import Image


class TorchvisionSsd(DenseDetector):
    """torchvision's `ssd300_vgg16`."""

    name = "torchvision/ssd300_vgg16"
    Options = SelectionOptions
    architecture_options = ()
    logits = SSD_LOGITS
    anchors = FIRST_MAP_BOXES
    by_level = False
    difficult = True

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        return ssd_augmentation.augment(image, boxes, generator)
