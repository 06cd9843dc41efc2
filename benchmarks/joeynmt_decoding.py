"""Greedy decoding speed of `attention` and of joeynmt's recurrent model of the same sizes.

    pip install joeynmt tensorboard matplotlib importlib_metadata    # and this project, in a new environment
    python benchmarks/joeynmt_decoding.py

Both have random weights of the same sizes (embedding, decoder and attention 192, encoder 2 × 128, 4,000
tokens, all embeddings tied), read sentences of 20 tokens and write 30. END is forbidden, so that both do the
same number of steps. CPU seconds of one thread, in turns.
"""

from __future__ import annotations

import os
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from joeynmt.model import build_model
from joeynmt.search import recurrent_greedy
from torch import Tensor
from translation_speed import head, ratio, taking_turns

from adapters.translation.attention_model import AttentionModel
from adapters.translation.search import greedy_search
from adapters.translation.vocabulary import BEGIN, END, PAD, UNKNOWN


class Vocabulary:
    """The attributes of a vocabulary that joeynmt's model needs."""

    pad_index, unk_index, bos_index, eos_index = PAD, UNKNOWN, BEGIN, END
    sep_index = None
    lang_tags = specials = ()

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    tokens, width, encoder, steps = 4000, 192, 128, 30
    torch.manual_seed(0)
    ours = AttentionModel(tokens, width, encoder, width, width).eval()
    ours.output_bias.data[END] = -torch.inf
    vocabulary = Vocabulary(tokens)
    sizes = {"rnn_type": "lstm", "embeddings": {"embedding_dim": width}}
    peer = build_model(
        {
            "encoder": {**sizes, "type": "recurrent", "hidden_size": encoder, "bidirectional": True},
            "decoder": {**sizes, "type": "recurrent", "hidden_size": width, "attention": "bahdanau"},
            "tied_embeddings": True,
            "tied_softmax": True,
        },
        vocabulary,
        vocabulary,
    ).eval()
    head("batch", "ours, tokens/s", "joeynmt, tokens/s", "ratio (range of pairs)")
    for size in (1, 16, 64):
        source, lengths = torch.randint(4, tokens, (size, 20)), torch.full((size,), 20)
        limits = torch.full((size,), steps)

        def mine(source: Tensor = source, lengths: Tensor = lengths, limits: Tensor = limits) -> None:
            def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
                log_probabilities, state, _ = ours.step(tokens, state)
                return log_probabilities, state

            hypotheses = greedy_search(step, ours.encode(source, lengths), limits)
            assert (hypotheses.tokens != END).all()

        def theirs(source: Tensor = source, lengths: Tensor = lengths) -> None:
            mask = torch.ones(len(source), 1, 20, dtype=torch.bool)
            output, hidden, _, _ = peer(return_type="encode", src=source, src_length=lengths, src_mask=mask)
            tokens, _, _ = recurrent_greedy(mask, steps, peer, output, hidden, min_output_length=steps)
            assert tokens.shape == (len(source), steps)

        turns = taking_turns(mine, theirs)
        speeds = [size * steps / median(turn[side] for turn in turns) for side in (0, 1)]
        print(f"| {size} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio(turns, 1, 0)}× |", flush=True)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, peer)]
    print(f"\nparameters: ours {counts[0]:,}, joeynmt {counts[1]:,}")


if __name__ == "__main__":
    main()
