"""Cost of segmentation networks with any weights: parameters, FLOPs, memory and throughput.

    python benchmarks/segmentation_cost.py [--rounds 11] [--batch 16] [--threads 1] [--only fcn-8s ...]

Networks: FCNs whose upsampling is learnt (one kernel per class), learnt with the paper's dense kernels (one
per pair of classes) or bilinear, and networks without strides; random weights, `scenes`, fp32. The networks
take turns, so that other work on the machine affects all of them. Times relative to `fcn-8s` are medians over
rounds with the distribution-free 95% interval, in CPU seconds of this process. Memory is the peak size of
live tensors (weights, pixels and maps; not the scratch space inside an operator).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from interleaved import Seconds, median_interval, timed
from live_bytes import LiveBytes
from torch import nn

from adapters.segmentation.fcn import Fcn, Fcn8s, Fcn16s, Fcn32s, FcnOptions, Upsample
from adapters.segmentation.full_resolution import FullResolution, FullResolutionOptions
from adapters.segmentation.segmenter import Segmenter
from harness.adapter import Runtime
from harness.datasets.scenes.scenes import Scenes, ScenesOptions

BASE = "fcn-8s"
WIDE = 141  # channels with which full-resolution has the parameters of fcn-8s


def dense(network: nn.Module) -> None:
    """Give every upsampling one kernel per pair of classes, as in the paper, instead of one per class."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Upsample):
                classes, factor = layer.in_channels, layer.stride[0]
                kernels = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, factor // 2, bias=False)
                setattr(parent, name, kernels)


def networks(data: Scenes) -> dict[str, Segmenter]:
    """Return adapters with random weights, ready to predict, by name."""
    made: dict[str, Segmenter] = {}
    nets: Sequence[type[Fcn]] = (Fcn32s, Fcn16s, Fcn8s)
    for net in nets:
        made[net.name] = net(FcnOptions(), Runtime())
        made[f"{net.name}, dense kernels"] = net(FcnOptions(), Runtime())
        made[f"{net.name}, bilinear"] = net(FcnOptions(upsampling="bilinear"), Runtime())
    narrow = FullResolutionOptions()
    for options in (narrow, FullResolutionOptions(width=WIDE)):
        made[f"full-resolution, {options.width} channels"] = FullResolution(options, Runtime())
    for name, adapter in made.items():
        torch.manual_seed(0)
        adapter.build(data)
        if "dense" in name:
            dense(adapter.module)
        adapter.module.eval()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], help="prefixes of names, besides fcn-8s")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    data = Scenes(ScenesOptions(size=chosen.batch), "test", "segmentation")
    samples = [data[index] for index in range(chosen.batch)]
    made = {
        name: adapter
        for name, adapter in networks(data).items()
        if not chosen.only or name == BASE or name.startswith(tuple(chosen.only))
    }
    memory = {}
    for name, adapter in made.items():  # also warms them up
        with LiveBytes() as watched:
            adapter.predict(samples)
        memory[name] = watched.peak
    taken: dict[str, list[Seconds]] = {name: [] for name in made}
    for round_ in range(chosen.rounds):
        order = list(made) if round_ % 2 else list(reversed(made))
        for name in order:
            taken[name].append(timed(partial(made[name].predict, samples)))
    print(f"{chosen.threads} thread(s), {chosen.rounds} rounds, batches of {chosen.batch}\n")
    print("| network | parameters | MFLOPs per image | tensors, MiB | images per CPU s | time / fcn-8s |")
    print("|---|---|---|---|---|---|")
    for name, adapter in made.items():
        flops = adapter.flops(samples)
        assert flops is not None
        ratios = [network.cpu / base.cpu for network, base in zip(taken[name], taken[BASE], strict=True)]
        rate = chosen.batch / float(np.median([seconds.cpu for seconds in taken[name]]))
        print(
            f"| {name} | {adapter.parameters():,} | {flops / chosen.batch / 1e6:,.1f} "
            f"| {memory[name] / 2**20:.1f} | {rate:,.1f} "
            "| {:.2f} [{:.2f}, {:.2f}] |".format(*median_interval(ratios)),
            flush=True,
        )


if __name__ == "__main__":
    main()
