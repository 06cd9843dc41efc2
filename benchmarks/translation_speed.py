"""Decoding and training speed of the translation model.

    python benchmarks/translation_speed.py [decoding] [beam] [lengths] [training]

Without an argument, all parts run. Times are CPU seconds of one thread, which other work on the machine
affects less. Sides take turns (ABAB…); a ratio is the median of the pairs' ratios. Sentences are those of the
shipped checkpoints' test splits (`gettext` is skipped on a machine without catalogues).
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.translation.attention import Attention, AttentionOptions
from adapters.translation.attention_model import AttentionModel
from adapters.translation.cells import unfuse
from adapters.translation.vocabulary import BEGIN, END, PAD, UNKNOWN
from harness.adapter import Runtime
from harness.checkpoint import load
from harness.datasets.dataset import DATASETS
from harness.errors import UnavailableError
from harness.task import Sample

ROOT = Path(__file__).parent.parent
CORPORA = ("gettext", "phrases")
SENTENCES = 256
PAIRS = 5


def taking_turns(*sides: Callable[[], object]) -> list[list[float]]:
    """Return the CPU seconds of each side in each of PAIRS turns, after a warm-up turn."""
    turns = []
    for _ in range(PAIRS + 1):
        turn = []
        for side in sides:
            start = time.thread_time()
            side()
            turn.append(time.thread_time() - start)
        turns.append(turn)
    return turns[1:]


def ratio(turns: Sequence[Sequence[float]], above: int, below: int) -> str:
    """Return the median ratio over the turns, with the range."""
    ratios = sorted(turn[above] / turn[below] for turn in turns)
    return f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def head(*names: str) -> None:
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def shipped(corpus: str, **options: Any) -> Attention:
    adapter = Attention(AttentionOptions(**options), Runtime())
    adapter.load(load(ROOT / "adapters" / "checkpoints" / f"attention-{corpus}-en-de.safetensors"))
    return adapter


def samples(corpus: str, split: str = "test", count: int = SENTENCES) -> list[Sample]:
    """Return the first samples by id, which is unrelated to length; none if the corpus is unavailable."""
    cls = DATASETS.get(corpus)
    try:
        dataset = cls(cls.Options(), split, "translation")
    except UnavailableError:
        return []
    return [dataset[index] for index in range(min(count, len(dataset)))]


def batches(adapter: Attention, given: Sequence[Sample], size: int) -> list[Any]:
    return [adapter.preprocess(given[first : first + size]) for first in range(0, len(given), size)]


def plain_loop(model: AttentionModel, cell: nn.LSTMCell, source: Tensor, lengths: Tensor) -> Tensor:
    """Decode greedily in the simplest way: LSTMCell, tanh attention, until all sentences have ended."""
    state = model.encode(source, lengths)
    h, attention = state.memory.values, model.attention
    keys, bias = attention.V(h), state.memory.bias
    s, memory = (part[:, 0] for part in state.layer)
    y = torch.full((len(source),), BEGIN)
    limits = torch.where(lengths > 1, 2 * lengths + 10, 0)
    ended, written = limits == 0, []
    while not ended.all():
        e = torch.tanh(attention.W(s).unsqueeze(1) + keys) @ attention.v
        alpha = torch.softmax(e + bias, dim=-1)
        context = (alpha.unsqueeze(-1) * h).sum(dim=1)
        embedded = model.embedding(y)
        s, memory = cell(torch.cat([embedded, context], dim=-1), (s, memory))
        readout = torch.tanh(model.readout(torch.cat([s, context, embedded], dim=-1)))
        logits = nn.functional.linear(readout, model.embedding.weight, model.output_bias)
        logits[:, [PAD, UNKNOWN, BEGIN]] = -torch.inf
        y = logits.softmax(dim=-1).argmax(dim=-1).masked_fill(ended, END)
        written.append(y)
        ended = ended | (y == END) | (len(written) >= limits)
    return torch.stack(written, dim=1)


def cell_of(model: AttentionModel) -> nn.LSTMCell:
    """Return torch's cell with the weights of the decoder, whose input is [y; c]."""
    weights = model.decoder.weights
    cell = nn.LSTMCell(weights.input_size, weights.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): part for name, part in weights.state_dict().items()})
    return cell


def decoding() -> None:
    """Measure greedy decoding of the shipped checkpoints against the plain loop, batch 64."""
    head("corpus", "ours, tokens/s", "plain loop of `LSTMCell`, tokens/s", "ratio (range of pairs)")
    for corpus in CORPORA:
        adapter = shipped(corpus, maximum_batch_tokens=10**6)
        cell = cell_of(adapter.module)
        parts = [part for batch in batches(adapter, samples(corpus), 64) for part in batch.parts]
        if not parts:
            continue
        model = adapter.module

        def theirs(parts: Any = parts, model: Any = model, cell: Any = cell) -> list[Tensor]:
            return [plain_loop(model, cell, part.tokens, part.lengths) for part in parts]

        def ours(parts: Any = parts, adapter: Attention = adapter) -> list[Tensor]:
            return [adapter.search(part).tokens for part in parts]

        tokens = 0
        for mine, plain in zip(ours(), theirs(), strict=True):
            kept = mine[:, : plain.shape[1]]
            differing = int((kept != plain).any(dim=1).sum())
            assert differing == 0, f"{differing} translations differ"
            tokens += int((kept != END).sum()) + len(kept)
        turns = taking_turns(ours, theirs)
        speeds = [tokens / median(turn[side] for turn in turns) for side in (0, 1)]
        print(f"| {corpus} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio(turns, 1, 0)}× |", flush=True)


def beam() -> None:
    """Measure the cost of a beam relative to greedy search."""
    head("corpus", "batch", "greedy, sentences/s", "beam 5, sentences/s", "cost (range of pairs)")
    for corpus in CORPORA:
        given = samples(corpus)
        sides = [shipped(corpus, beam=width) for width in (1, 5)]
        for size in (1, 8, 32, 64):
            work = batches(sides[0], given, size)
            if not work:
                continue
            turns = taking_turns(*(_forward(side, work) for side in sides))
            speeds = [len(given) / median(turn[side] for turn in turns) for side in (0, 1)]
            row = f"| {corpus} | {size} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio(turns, 1, 0)}× |"
            print(row, flush=True)


def lengths() -> None:
    """Measure batches in the order of arrival against parts of similar length of a larger batch."""
    head(
        "corpus", "search", "64 as they come, s", "512 in parts of ≤ 2,048 tokens, s", "gain (range of pairs)"
    )
    for corpus in CORPORA:
        given = samples(corpus, count=512)
        if not given:
            continue
        for width in (1, 5):
            whole = shipped(corpus, beam=width, maximum_batch_tokens=10**6)
            parts = shipped(corpus, beam=width)
            arrival, sorted_ = batches(whole, given, 64), batches(parts, given, 512)
            turns = taking_turns(_forward(whole, arrival), _forward(parts, sorted_))
            seconds = [median(turn[side] for turn in turns) for side in (0, 1)]
            name = "greedy" if width == 1 else f"beam {width}"
            row = f"| {corpus} | {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio(turns, 0, 1)}× |"
            print(row, flush=True)


def _forward(adapter: Attention, work: Sequence[Any]) -> Callable[[], object]:
    return lambda: [adapter.forward(batch) for batch in work]


def training() -> None:
    """Measure optimiser steps on `phrases` by batch size: tokens and floating-point operations per second."""
    given = samples("phrases", "train", 256)
    adapter = shipped("phrases")
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=1e-4)
    adapter.module.train()
    sizes = (8, 16, 32, 64, 128, 256)
    work = [list(_training_batches(adapter, given, size)) for size in sizes]

    def step(batch: Any) -> None:
        optimiser.zero_grad()
        sum(adapter.loss(batch).values(), torch.zeros(())).backward()
        optimiser.step()

    def epoch(parts: Sequence[Any]) -> None:
        for batch in parts:
            step(batch)

    turns = taking_turns(*(partial(epoch, parts) for parts in work))
    counted = shipped("phrases")
    unfuse(counted.module)  # torch counts no FLOPs for its fused kernels
    counted.module.train()
    head("batch", "source + target tokens/s", "MFLOP per token", "GFLOP/s")
    for side, (size, parts) in enumerate(zip(sizes, work, strict=True)):
        seconds = median(turn[side] for turn in turns)
        tokens = sum(sum(adapter.training_units(batch).values()) for batch in parts)
        with FlopCounterMode(display=False) as counter:
            for batch in parts:
                sum(counted.loss(batch).values(), torch.zeros(())).backward()
        flops = counter.get_total_flops() / 1e6
        print(f"| {size} | {tokens / seconds:,.0f} | {flops / tokens:.2f} | {flops / seconds / 1e3:.1f} |")


def _training_batches(adapter: Attention, given: Sequence[Sample], size: int) -> Iterator[Any]:
    for first, last in pairwise(range(0, len(given) + 1, size)):
        yield adapter.training_batch(given[first:last], np.random.default_rng(0))


PARTS = {part.__name__: part for part in (decoding, beam, lengths, training)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in parser.parse_args().parts or PARTS:
        print(f"\n### {name}\n", flush=True)
        if name == "training":
            PARTS[name]()
            continue
        with torch.inference_mode():
            PARTS[name]()


if __name__ == "__main__":
    main()
