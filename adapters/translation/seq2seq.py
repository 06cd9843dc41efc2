"""`rnn` and `lstm`: translation through one vector between recurrent networks (seq2seq_model.py)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from adapters.translation.cells import LstmRecurrence, VanillaRecurrence
from adapters.translation.options import TranslatorOptions
from adapters.translation.seq2seq_model import ContextUse, Seq2SeqModel, State
from adapters.translation.translator import Sources, Translator


class Seq2SeqOptions(TranslatorOptions):
    """Of both cells."""

    encoder_size: int = Field(192, ge=1)
    """Width of one direction."""
    decoder_size: int = Field(256, ge=1)
    layers: int = Field(1, ge=1)
    """Of the encoder and of the decoder each."""
    bidirectional: bool = True
    """The encoder reads the sentence forwards and backwards."""
    reversed_source: bool = False
    """The source's last word is read first (Sutskever, Vinyals and Le 2014 §3.3)."""
    context: ContextUse = "every-step"
    """Where the decoder sees what the encoder kept: at every step, or in its initial state only."""


class Seq2Seq(Translator):
    """An encoder–decoder of one kind of cell."""

    Options = Seq2SeqOptions
    options: Seq2SeqOptions
    architecture_options = (
        *Translator.architecture_options,
        "encoder_size",
        "decoder_size",
        "layers",
        "bidirectional",
        "reversed_source",
        "context",
    )
    recurrence: ClassVar[type[VanillaRecurrence | LstmRecurrence]]

    module: Seq2SeqModel

    def make_module(self) -> Seq2SeqModel:
        options = self.options
        return Seq2SeqModel(
            self.recurrence,
            vocabulary_size=len(self.vocabulary),
            embedding_size=options.embedding_size,
            encoder_size=options.encoder_size,
            decoder_size=options.decoder_size,
            layers=options.layers,
            bidirectional=options.bidirectional,
            context=options.context,
            dropout=options.dropout,
            tied_embeddings=options.tied_embeddings,
            path=options.cell,
        )

    def start(self, sources: Sources) -> State:
        return self.module.encode(sources.tokens, sources.lengths)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.module.step(tokens, state)

    def logits(self, sources: Sources, given: Tensor, wanted: Tensor) -> Tensor:
        logits: Tensor = self.module(sources.tokens, sources.lengths, given, wanted)
        return logits

    def reading_order(self, tokens: list[int]) -> list[int]:
        return tokens[::-1] if self.options.reversed_source else tokens


class Rnn(Seq2Seq):
    """The vanilla tanh network."""

    name = "rnn"
    recurrence = VanillaRecurrence


class Lstm(Seq2Seq):
    """The long short-term memory; without attention, all of a sentence must fit its last state."""

    name = "lstm"
    recurrence = LstmRecurrence
