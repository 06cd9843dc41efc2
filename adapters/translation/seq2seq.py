"""The adapters `rnn` and `lstm`: translation through one context vector (seq2seq_model.py)."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from adapters.translation.cells import LstmLayer, RnnLayer
from adapters.translation.options import TranslatorOptions
from adapters.translation.probes import PROBES, gradient_ratios, recurrent_parameters
from adapters.translation.seq2seq_model import ContextUse, Seq2SeqModel, State
from adapters.translation.translator import Sources, Translator
from harness.adapter import Exportable
from harness.task import Sample


class Seq2SeqOptions(TranslatorOptions):
    """Options of `rnn` and `lstm`."""

    encoder_size: int = Field(192, ge=1)
    """Hidden units of the encoder per direction."""
    decoder_size: int = Field(256, ge=1)
    """Hidden units of the decoder."""
    layers: int = Field(1, ge=1)
    """Number of layers of the encoder, and of the decoder."""
    bidirectional: bool = True
    """Let the encoder read the sentence in both directions."""
    reversed_source: bool = False
    """Read the source from its last word to its first (Sutskever, Vinyals and Le 2014 §3.3)."""
    context: ContextUse = "every-step"
    """Use of the context vector by the decoder: at every step, or only in its initial state."""


class Seq2Seq(Translator[State]):
    """Encoder–decoder with one kind of recurrent layer."""

    Options = Seq2SeqOptions
    options: Seq2SeqOptions
    architecture_options = (
        *Translator.architecture_options,
        *("encoder_size", "decoder_size", "layers", "bidirectional", "reversed_source", "context"),
    )
    layer: ClassVar[type[RnnLayer | LstmLayer]]
    probes = PROBES

    module: Seq2SeqModel

    def make_module(self) -> Seq2SeqModel:
        options = self.options
        return Seq2SeqModel(
            self.layer,
            vocabulary_size=len(self.vocabulary),
            embedding_size=options.embedding_size,
            encoder_size=options.encoder_size,
            decoder_size=options.decoder_size,
            layers=options.layers,
            bidirectional=options.bidirectional,
            context=options.context,
            dropout=options.dropout,
            tied_embeddings=options.tied_embeddings,
        )

    def encode(self, sources: Sources) -> State:
        return self.module.encode(sources.tokens, sources.lengths)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.module.step(tokens, state)

    def step_part(self, tokens: Tensor, state: State) -> Exportable:
        axes = ((0, 1), (0,), *[(0, 1)] * (len(state.layers) * self.layer.state_tensors))
        return Exportable(self.module, "decoded", (tokens, state.context, state.layers), axes)

    def logits(self, sources: Sources, target: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.module(sources.tokens, sources.lengths, target, mask)
        return logits

    def probe(self, samples: Sequence[Sample]) -> dict[str, float | list[float]]:
        sources = [self.preprocess([sample]).parts[0].tokens[0] for sample in samples]
        embedded = [self.module.scale * self.module.embedding(tokens) for tokens in sources]
        return {
            "recurrent_parameters": recurrent_parameters(self.module),
            "gradient_ratio": gradient_ratios(self.module.encoder, embedded),
        }

    def reading_order(self, tokens: list[int]) -> list[int]:
        return tokens[::-1] if self.options.reversed_source else tokens


class Rnn(Seq2Seq):
    """Encoder–decoder with vanilla RNNs."""

    name = "rnn"
    layer = RnnLayer


class Lstm(Seq2Seq):
    """Encoder–decoder with LSTMs."""

    name = "lstm"
    layer = LstmLayer
