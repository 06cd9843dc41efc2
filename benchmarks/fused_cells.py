"""Speed of the LSTM encoder with fused kernels, relative to torch.nn.LSTM and to the equations.

    python benchmarks/fused_cells.py [--pairs 15] [--layers 1] [--hidden 128]

One thread, CPU seconds, the same weights, a batch of 32 sentences of 3 to 50 tokens. "train" is forward and
backward, "encode" is forward without gradients. torch.nn.LSTM reads the sentences packed, which is correct
for any padding, and padded, which is only a bound in two directions: its backward one begins in the padding.
Times alternate (A B A B …); the figure is the median of the pairs' ratios, above 1 if ours is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from adapters.translation.cells import LstmLayer, StackedEncoder, unfuse

INPUTS = 64
BATCH = 32


def ours(theirs: nn.LSTM) -> StackedEncoder:
    """Return our encoder with the weights of torch's."""
    encoder = StackedEncoder(
        LstmLayer, INPUTS, theirs.hidden_size, theirs.num_layers, theirs.bidirectional, 0.0
    )
    sides = [("", encoder.forwards), ("_reverse", encoder.backwards)][: 1 + theirs.bidirectional]
    for layer in range(theirs.num_layers):
        for suffix, side in sides:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = {f"weights.{name}_l0": getattr(theirs, f"{name}_l{layer}{suffix}") for name in names}
            side[layer].load_state_dict(weights)
    return encoder


def median_ratio(ours: Callable[[], object], other: Callable[[], object], pairs: int) -> float:
    """Return the time of `other` divided by the time of `ours`: above 1 if ours is faster."""
    ratios = []
    for _ in range(pairs + 2):  # the first two warm up
        spent = []
        for work in (ours, other):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios[2:])


def compare(theirs: nn.LSTM, pairs: int) -> None:
    fused, unfused = ours(theirs), ours(theirs)
    unfuse(unfused)
    lengths = torch.linspace(3, 50, BATCH).round().long()
    x = torch.randn(BATCH, int(lengths.max()), INPUTS)
    real = torch.arange(x.shape[1]) < lengths.unsqueeze(1)

    def packed() -> Tensor:
        sentences = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden: Tensor = pad_packed_sequence(theirs(sentences)[0], batch_first=True)[0]
        return hidden[real]

    ways: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: fused(x, lengths)[0][real],
        "torch.nn.LSTM, packed": packed,
        "torch.nn.LSTM, padded": lambda: theirs(x)[0][real],
        "the equations": lambda: unfused(x, lengths)[0][real],
    }
    for way in (packed, ways["the equations"]):
        torch.testing.assert_close(ways["fused"](), way(), rtol=1e-5, atol=1e-5)

    def train(way: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: way().sum().backward()

    for name in list(ways)[1:]:
        trained = median_ratio(train(ways["fused"]), train(ways[name]), pairs)
        with torch.inference_mode():
            encoded = median_ratio(ways["fused"], ways[name], pairs)
        print(f"  fused against {name}: train {trained:.2f}×, encode {encoded:.2f}×", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=128, help="hidden units per direction")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for bidirectional in (False, True):
        print(f"{arguments.layers} layers, {arguments.hidden} units, {1 + bidirectional} directions")
        theirs = nn.LSTM(
            INPUTS, arguments.hidden, arguments.layers, batch_first=True, bidirectional=bidirectional
        )
        compare(theirs, arguments.pairs)


if __name__ == "__main__":
    main()
