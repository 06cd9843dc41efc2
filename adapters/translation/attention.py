"""The adapter `attention`: translation with additive attention between LSTMs (attention_model.py)."""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from adapters.translation.attention_model import AttentionModel, State
from adapters.translation.options import TranslatorOptions
from adapters.translation.translator import Sources, Translator, source_of, text_of
from adapters.translation.vocabulary import PAD
from harness.adapter import Exportable
from harness.task import Alignment, Prediction, Sample


class AttentionOptions(TranslatorOptions):
    """Options of `attention`. With 4,000 subwords, the default sizes give a checkpoint of 2.8 MB."""

    encoder_size: int = Field(128, ge=1)
    """Hidden units of the encoder per direction."""
    encoder_layers: int = Field(1, ge=1)
    """Number of layers of the encoder."""
    decoder_size: int = Field(192, ge=1)
    """Hidden units of the decoder."""
    attention_size: int = Field(96, ge=1)
    """Hidden units of the alignment model (Bahdanau et al. 2015 §A.1.2)."""


class Attention(Translator[State]):
    """Encoder–decoder whose decoder attends to every source position."""

    name = "attention"
    Options = AttentionOptions
    options: AttentionOptions
    architecture_options = (
        *Translator.architecture_options,
        *("encoder_size", "encoder_layers", "decoder_size", "attention_size"),
    )

    module: AttentionModel

    def make_module(self) -> AttentionModel:
        options = self.options
        return AttentionModel(
            vocabulary_size=len(self.vocabulary),
            embedding_size=options.embedding_size,
            encoder_size=options.encoder_size,
            decoder_size=options.decoder_size,
            attention_size=options.attention_size,
            encoder_layers=options.encoder_layers,
            dropout=options.dropout,
            tied_embeddings=options.tied_embeddings,
        )

    def encode(self, sources: Sources) -> State:
        return self.module.encode(sources.tokens, sources.lengths)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probabilities, state, _ = self.module.step(tokens, state)
        return log_probabilities, state

    def step_part(self, tokens: Tensor, state: State) -> Exportable:
        memory = state.memory
        example = (tokens, memory.values, memory.keys, memory.bias, state.layer)
        return Exportable(self.module, "decoded", example, ((0, 1),) * 6)

    def logits(self, sources: Sources, target: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.module(sources.tokens, sources.lengths, target, mask)[0]
        return logits

    def alignments(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Alignment]:
        """Return the attention weights α of teacher forcing with the predictions, including END."""
        encode = self.vocabulary.encode
        pairs = self.sentence_pairs(
            [(encode(source_of(s)), encode(text_of(p))) for s, p in zip(samples, predictions, strict=True)]
        )
        sources, following = pairs.sources, pairs.targets[:, 1:]
        with torch.inference_mode(), self.autocast():
            _, weights = self.module(sources.tokens, sources.lengths, pairs.targets[:, :-1], following != PAD)
        alignments = []
        for source, target, alpha in zip(sources.tokens, following, weights.float().cpu(), strict=True):
            read, written = self._tokens(source), self._tokens(target)
            alignments.append(Alignment(read, written, np.asarray(alpha[: len(written), : len(read)])))
        return alignments

    def _tokens(self, ids: Tensor) -> tuple[str, ...]:
        """Return the tokens of ids [n], without padding."""
        return tuple(self.vocabulary.token(id) for id in ids.tolist() if id != PAD)
