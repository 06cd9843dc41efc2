"""Compare the speed of faster-rcnn and ssd with torchvision's: same weights and images, interleaved pairs.

    python benchmarks/detection_peers.py [--models faster-rcnn ssd] [--device cpu] [--threads 2]
        [--batch-sizes 1] [--shorter-side 800] [--candidates 300] [--pairs 11]

Times run from images in memory to detections in host memory. torchvision's model runs as its users call it
(contiguous tensors, a list of images) and in its fastest layout (channels last), which is ours. Ratios are
torchvision's time divided by ours, so that ours is faster above 1. They are medians over pairs with the
distribution-free 95% interval of a median. Before anything is timed, detections must be paired: boxes within
.05 px, the same labels, scores within 1e-3. At most one in fifty may remain unpaired, since rounding decides
which of two nearly equal boxes suppression keeps; their number is printed.

The time of suppression depends on the number of boxes, and the weights are random: the background's bias is
set so that about `--candidates` boxes per image pass the score threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from interleaved import pairs_of, ratio
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, ssd300_vgg16

from adapters.detection.faster_rcnn import FasterRcnn, FasterRcnnOptions
from adapters.detection.ssd import Ssd, SsdOptions
from adapters.torch_adapter import TorchAdapter
from adapters.torchvision.faster_rcnn import TorchvisionFasterRcnn
from adapters.torchvision.ssd import TorchvisionSsd
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint
from harness.task import Detections, Sample

CLASSES = 91  # with the background
# Maximum fraction of an image's detections; measured: one of 123 with ssd, none with faster-rcnn.
UNPAIRED = 0.02


def photographs(count: int) -> list[Sample]:
    """Return windows of 384 × 512 px of scikit-learn's two photographs."""
    generator = np.random.default_rng(0)
    samples = []
    for index in range(count):
        image = load_sample_images().images[index % 2]
        top, left = (int(generator.integers(0, limit)) for limit in (427 - 384 + 1, 640 - 512 + 1))
        samples.append(Sample(str(index), np.ascontiguousarray(image[top : top + 384, left : left + 512])))
    return samples


def background(name: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return the biases of the background's logits."""
    if name == "faster-rcnn":
        return [tensors["roi_heads.box_predictor.cls_score.bias"][:1]]
    heads = [key for key in tensors if key.startswith("head.classification_head") and key.endswith("bias")]
    return [tensors[key][::CLASSES] for key in heads]


def adapters(name: str, tensors: dict[str, Tensor], device: str, shorter: int) -> list[TorchAdapter]:
    """Return this project's adapter and torchvision's, with the same weights."""
    runtime = Runtime(device=device)
    longer = shorter * 1333 // 800
    if name == "faster-rcnn":
        own: TorchAdapter = FasterRcnn(FasterRcnnOptions(shorter_side=shorter, longer_side=longer), runtime)
        options = TorchvisionFasterRcnn.Options(shorter_side=shorter, longer_side=longer)
        peer: TorchAdapter = TorchvisionFasterRcnn(options, runtime)
    else:
        own, peer = Ssd(SsdOptions(), runtime), TorchvisionSsd(TorchvisionSsd.Options(), runtime)
    for adapter in (own, peer):
        adapter.load(Checkpoint(tensors, "", {}))
    return [own, peer]


def calibrated(name: str, device: str, shorter: int, candidates: int) -> list[TorchAdapter]:
    """Return adapters with random weights for which about `candidates` boxes per image pass the threshold."""
    torch.manual_seed(0)
    build = fasterrcnn_resnet50_fpn if name == "faster-rcnn" else ssd300_vgg16
    tensors = build(weights=None, weights_backbone=None).state_dict()
    biases = background(name, tensors)
    (own, _), sample = adapters(name, tensors, device, shorter), photographs(1)
    raw = own.forward(own.preprocess(sample))
    logits = (raw[0].logits if name == "faster-rcnn" else raw.logits[0]).float().cpu()
    low, high = -20.0, 40.0
    for _ in range(40):
        shift = (low + high) / 2
        moved = logits + shift * nn.functional.one_hot(torch.tensor(0), CLASSES)
        passing = int((moved.softmax(dim=-1)[:, 1:] > own.options.score_threshold).sum())
        low, high = (shift, high) if passing > candidates else (low, shift)
    for bias in biases:
        bias.add_(high)
    return adapters(name, tensors, device, shorter)


def as_published(
    peer: TorchAdapter, samples: Sequence[Sample], device: str
) -> Callable[[], list[Detections]]:
    """Return a function that runs torchvision's model as its users call it."""
    model = peer.module.to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def run() -> list[Detections]:
        inputs = [torch.from_numpy(s.input).to(device).permute(2, 0, 1).float() / 255 for s in samples]
        detections = model(inputs)
        return [
            Detections(
                *(image[key].cpu().numpy() for key in ("boxes", "scores")), image["labels"].cpu().numpy() - 1
            )
            for image in detections
        ]

    return run


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument(
        "--models", nargs="+", default=["faster-rcnn", "ssd"], choices=["faster-rcnn", "ssd"]
    )
    arguments.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    arguments.add_argument("--shorter-side", type=int, default=800, help="px, of faster-rcnn's input")
    arguments.add_argument("--candidates", type=int, default=300, help="boxes that pass the threshold")
    arguments.add_argument("--pairs", type=int, default=11)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{chosen.device}, {chosen.threads} thread(s), {chosen.candidates} candidates")
    for name in chosen.models:
        own, peer = calibrated(name, chosen.device, chosen.shorter_side, chosen.candidates)
        size = f" {chosen.shorter_side} px" if name == "faster-rcnn" else " 300 px"
        for batch_size in chosen.batch_sizes:
            samples = photographs(batch_size)
            rivals = {
                "channels last": lambda: peer.predict(samples),  # noqa: B023  called within the round
                "as published": as_published(peer, samples, chosen.device),
            }
            for form, other in rivals.items():
                layout = torch.channels_last if form == "channels last" else torch.contiguous_format
                peer.module.to(memory_format=layout)
                compare(
                    f"{name}{size}, batch {batch_size}, torchvision {form}", own, other, samples, chosen.pairs
                )


def unpaired(first: Detections, second: Detections) -> int:
    """Count the detections of the longer list without a similar one in the other: box, label and score."""
    similar = np.abs(first.boxes[:, None] - second.boxes).max(axis=2) <= 0.05  # px
    similar &= first.labels[:, None] == second.labels
    similar &= np.abs(first.scores[:, None] - second.scores) <= 1e-3
    return int(max(similar.shape) - similar[linear_sum_assignment(~similar)].sum())


def compare(
    title: str, own: TorchAdapter, other: Callable[[], list], samples: Sequence[Sample], pairs: int
) -> None:
    ours, theirs = own.predict(samples), other()
    for own_image, peer_image in zip(ours, theirs, strict=True):
        assert len(own_image.scores) > 0, "no detections"
        assert unpaired(own_image, peer_image) <= UNPAIRED * len(own_image.scores), "other detections"
    timings = pairs_of(lambda: own.predict(samples), other, pairs)
    seconds = float(np.median([own_timing.wall for own_timing, _ in timings])) / len(samples)
    clocks = ("wall",) if own.runtime.device == "cuda" else ("cpu", "wall")
    figures = " · ".join(ratio(timings, clock) for clock in clocks)
    count = sum(len(image.scores) for image in ours) / len(ours)
    mean_unpaired = sum(map(unpaired, ours, theirs)) / len(ours)
    print(
        f"{title}: {count:.0f} detections per image, {mean_unpaired:.1f} unpaired · {figures}, "
        f"{len(timings)} pairs · own {seconds:.4f} s per image",
        flush=True,
    )


if __name__ == "__main__":
    main()
