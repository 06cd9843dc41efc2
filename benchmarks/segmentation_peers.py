"""Speed of fcn-resnet50 relative to torchvision's: same weights, same images, interleaved pairs.

    python benchmarks/segmentation_peers.py [--sizes 128 256 520] [--pairs 21] [--threads 1]

Ratios are torchvision's time divided by ours, above 1 if ours is faster: medians over pairs with the
distribution-free 95% interval of a median. CPU seconds are those of this process, so that they are valid on a
busy machine too. The exit code is 1 if a ratio of CPU seconds to torchvision as published is below 1.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from interleaved import median_interval, pairs_of, ratio
from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50

from adapters.segmentation.fcn_resnet import FcnResNet50, FcnResNetOptions
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint

PUBLISHED = "as published"
MINIMUM_RATIO = 1.0  # the requirement


def small_scores(model: nn.Module) -> nn.Module:
    """Set norm statistics from a batch and halve residual branches, for scores of usual size."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.constant_(parameter, 0.5)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


def rivals() -> tuple[FcnResNet50, dict[str, nn.Module]]:
    """Return our model, and torchvision's with the same weights, as published and in its fastest form."""
    torch.manual_seed(0)
    published = small_scores(fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))
    own = FcnResNet50(FcnResNetOptions(), Runtime())
    own.load(Checkpoint(published.state_dict(), adapter="", options={}))
    bare = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=False).eval()
    bare.load_state_dict(
        {name: tensor for name, tensor in published.state_dict().items() if not name.startswith("aux")}
    )
    fastest = bare.to(memory_format=torch.channels_last)
    return own, {PUBLISHED: published, "channels last, no auxiliary": fastest}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 520], help="px per side")
    arguments.add_argument("--pairs", type=int, default=21)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    own, others = rivals()
    print(f"{chosen.threads} thread(s), {chosen.pairs} pairs, batch 1; ratio = torchvision / own")
    missed = False
    for size in chosen.sizes:
        image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        pixels = own.to_input(torch.from_numpy(image))
        for name, other in others.items():
            layout = torch.contiguous_format if name == PUBLISHED else torch.channels_last
            cpu_ratio = compare(
                f"{size} px, {name}",
                own,
                other,
                pixels.contiguous(memory_format=layout),
                pixels,
                chosen.pairs,
            )
            missed |= name == PUBLISHED and cpu_ratio < MINIMUM_RATIO
    if missed:
        sys.exit("slower than torchvision as published")


@torch.inference_mode()
def compare(
    title: str, own: FcnResNet50, other: nn.Module, theirs: Tensor, ours: Tensor, pairs: int
) -> float:
    """Print the measurements and return the median ratio of CPU seconds."""
    runs = {"own": lambda: own.scores(ours), "other": lambda: other(theirs)["out"]}
    difference = (runs["own"]() - runs["other"]()).abs().max().item()
    assert difference < 1e-4, f"scores differ by {difference}"
    taken = pairs_of(runs["own"], runs["other"], pairs)
    seconds = float(np.median([own.cpu for own, _ in taken]))
    figures = " · ".join(ratio(taken, clock) for clock in ("cpu", "wall"))
    print(
        f"{title}: scores within {difference:.1e} · {figures} · own {1 / seconds:.2f} images per CPU second",
        flush=True,
    )
    return median_interval([other.cpu / own.cpu for own, other in taken])[0]


if __name__ == "__main__":
    main()
