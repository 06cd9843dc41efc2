"""The attention adapter: equations in plain loops, padding, training on a few sentences, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters.translation.attention import Attention, AttentionOptions
from adapters.translation.attention_model import AdditiveAttention, AttentionModel, Memory, State
from adapters.translation.cells import unfuse
from adapters.translation.translator import Batch
from adapters.translation.vocabulary import BEGIN, END, PAD, UNKNOWN, VocabularyKind
from harness import checkpoint as checkpoints
from harness.adapter import ADAPTERS, Runtime
from harness.datasets.dataset import Dataset, DatasetOptions
from harness.errors import UsageError
from harness.metrics.metric import METRICS
from harness.task import Sample, Translation

SENTENCES = [
    ("the red house", "das rote Haus"),
    ("the red car", "das rote Auto"),
    ("the old car", "das alte Auto"),
    ("the old man", "der alte Mann"),
    ("the man is old", "der Mann ist alt"),
    ("the car is red", "das Auto ist rot"),
    ("the house is old, the car is red", "das Haus ist alt, das Auto ist rot"),
    ("a house", "ein Haus"),
    ("a man and a woman", "ein Mann und eine Frau"),
    ("the woman is old", "die Frau ist alt"),
    ("where is the car?", "wo ist das Auto?"),
    ("where is the old man?", "wo ist der alte Mann?"),
    ("the man sees the woman", "der Mann sieht die Frau"),
    ("the woman sees the man", "die Frau sieht den Mann"),
    ("I see the house", "ich sehe das Haus"),
    ("I see the old woman", "ich sehe die alte Frau"),
    ("we see a red car and a house", "wir sehen ein rotes Auto und ein Haus"),
    ("we are old", "wir sind alt"),
    ("I am not old", "ich bin nicht alt"),
    ("the red car is not old", "das rote Auto ist nicht alt"),
]

TINY = {"embedding_size": 24, "encoder_size": 20, "decoder_size": 28, "attention_size": 16}


class Toy(Dataset):
    tasks = ("translation",)

    def __init__(self, pairs: Sequence[tuple[str, str]] = SENTENCES) -> None:
        super().__init__(DatasetOptions(), "train", "translation")
        self.pairs = pairs

    @property
    def fingerprint(self) -> str:
        return "toy"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        source, target = self.pairs[index]
        return Sample(f"toy-{index:02d}", source, (target,))


def built(vocabulary: VocabularyKind = "word", **options: object) -> Attention:
    adapter = Attention(
        AttentionOptions.model_validate(
            {"vocabulary": vocabulary, "vocabulary_size": 120, **TINY, **options}
        ),
        Runtime(),
    )
    torch.manual_seed(0)
    adapter.build(Toy())
    adapter.module.eval()
    return adapter


def untargeted(dataset: Dataset) -> list[Sample]:
    return [replace(dataset[index], target=None) for index in range(len(dataset))]


def texts(adapter: Attention, samples: Sequence[Sample]) -> list[str]:
    predictions = adapter.predict(samples)
    assert all(isinstance(prediction, Translation) for prediction in predictions)
    return [prediction.text for prediction in predictions if isinstance(prediction, Translation)]


def test_the_adapter_is_registered() -> None:
    assert ADAPTERS.get("attention") is Attention


@pytest.mark.parametrize("scale", [1, 12])  # saturated at 12: up to about 38 inside tanh
def test_attention_equals_its_equation_position_by_position(scale: int) -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(query_size=3, value_size=4, size=5).double()
    query, values = scale * torch.randn(2, 2, 3).double(), scale * torch.randn(2, 6, 4).double()
    bias = torch.zeros(2, 6).double()
    bias[1, 4:] = -torch.inf
    context, weights = attention(query, attention.keys(values), values, bias)
    for b, k, length in [(0, 0, 6), (0, 1, 6), (1, 0, 4), (1, 1, 4)]:
        W, V, v = attention.W.weight, attention.V.weight, attention.v
        e = torch.stack(
            [v @ torch.tanh(W @ query[b, k] + V @ values[b, j] + attention.V.bias) for j in range(length)]
        )
        a = e.exp() / e.exp().sum()
        torch.testing.assert_close(weights[b, k, :length], a)
        torch.testing.assert_close(context[b, k], (a.unsqueeze(1) * values[b, :length]).sum(0))
        assert weights[b, k, length:].eq(0).all()


def test_gradients_of_attention_are_correct() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(query_size=2, value_size=3, size=4).double()
    bias = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]]).double()

    def run(query: Tensor, values: Tensor, W: Tensor, V: Tensor, v: Tensor) -> Tensor:
        weights = {"W.weight": W, "V.weight": V, "v": v}
        keys = values @ V.T + attention.V.bias
        found: Tensor = torch.func.functional_call(attention, weights, (query, keys, values, bias))[0]
        return found

    inputs = [
        torch.randn(2, 2, 2),
        torch.randn(2, 3, 3),
        torch.randn(4, 2),
        torch.randn(4, 3),
        torch.randn(4),
    ]
    assert torch.autograd.gradcheck(run, [tensor.double().requires_grad_() for tensor in inputs])


SOURCE = torch.tensor([[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]])
LENGTHS = torch.tensor([5, 3])
TARGET = torch.tensor([[BEGIN, 5, 6, 7], [BEGIN, 10, 9, PAD]])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("tied", "layers"), [(True, 1), (False, 2)])
def test_teacher_forcing_equals_a_loop_written_from_the_equations(
    tied: bool, layers: int, fused: bool
) -> None:
    torch.manual_seed(1)
    model = AttentionModel(11, 6, 5, 7, 4, layers, dropout=0.3, tied_embeddings=tied)
    model = model.double().eval()
    if not fused:
        unfuse(model)
    source, lengths, target = SOURCE, LENGTHS, TARGET
    mask = target != PAD
    logits, weights = model(source, lengths, target, mask)
    expected = [plain(model, source[b, : lengths[b]], target[b, : mask[b].sum()]) for b in range(2)]
    torch.testing.assert_close(logits, torch.cat([rows for rows, _ in expected]))
    for b, (_, alphas) in enumerate(expected):
        torch.testing.assert_close(weights[b, : mask[b].sum(), : lengths[b]], alphas)


def plain(model: AttentionModel, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits [T, n] and α [T, S] of one sentence with torch's LSTMCell, position by position."""
    E = model.embedding.weight
    D = E if model.target_embedding is None else model.target_embedding.weight
    U = E if model.output_embedding is None else model.output_embedding.weight
    size = model.initial.out_features

    def cell_of(weights: nn.RNNBase) -> nn.LSTMCell:
        cell = nn.LSTMCell(weights.input_size, weights.hidden_size).double()
        cell.load_state_dict(
            {name.removesuffix("_l0"): tensor for name, tensor in weights.state_dict().items()}
        )
        return cell

    def read(weights: nn.RNNBase, inputs: list[Tensor]) -> list[Tensor]:
        hidden, state, cell = [], None, cell_of(weights)
        for x in inputs:
            state = cell(x, state)
            hidden.append(state[0])
        return hidden

    h = [E[token] for token in source]
    for there, back in zip(model.encoder.forwards, model.encoder.backwards, strict=True):
        forward, backward = read(there.weights, h), read(back.weights, h[::-1])
        h = [torch.cat(pair) for pair in zip(forward, backward[::-1], strict=True)]
    last, first = forward[-1], backward[-1]

    cell = cell_of(model.decoder.weights)
    W, V, v = model.attention.W, model.attention.V, model.attention.v
    s, memory = torch.tanh(model.initial(torch.cat([last, first]))), torch.zeros(size).double()
    logits, alphas = [], []
    for y in target:
        e = torch.stack([v @ torch.tanh(W(s) + V(h_j)) for h_j in h])
        alpha = e.softmax(0)
        context = sum((a * h_j for a, h_j in zip(alpha, h, strict=True)), torch.zeros(len(h[0])).double())
        s, memory = cell(torch.cat([D[y], context]), (s, memory))
        logits.append(U @ torch.tanh(model.readout(torch.cat([s, context, D[y]]))) + model.output_bias)
        alphas.append(alpha)
    return torch.stack(logits), torch.stack(alphas)


def test_kernels_and_equations_agree_in_loss_and_gradients() -> None:
    torch.manual_seed(3)
    gradients, state = [], None
    for fused in (True, False):
        model = AttentionModel(11, 6, 5, 7, 4, 2)
        if not fused:
            unfuse(model)
        state = state or model.state_dict()
        model.load_state_dict(state)
        logits, _ = model(SOURCE, LENGTHS, TARGET, TARGET != PAD)
        logits.log_softmax(-1)[:, 5].sum().backward()
        gradients.append([logits, *(parameter.grad for parameter in model.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_whole_model_are_correct() -> None:
    torch.manual_seed(4)
    model = AttentionModel(7, 2, 2, 3, 2).double().eval()
    source, target = SOURCE.clamp(max=6), TARGET.clamp(max=6)
    names, values = zip(*model.named_parameters(), strict=True)

    def run(*weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        found: Tensor = torch.func.functional_call(model, given, (source, LENGTHS, target, target != PAD))[0]
        return found.log_softmax(-1)

    assert torch.autograd.gradcheck(run, [value.detach().requires_grad_() for value in values])


def test_step_by_step_equals_teacher_forcing() -> None:
    torch.manual_seed(2)
    model = AttentionModel(11, 6, 5, 7, 4).double().eval()
    source, lengths = torch.tensor([[4, 5, 6, END], [8, 9, END, PAD]]), torch.tensor([4, 3])
    target = torch.tensor([[BEGIN, 5, 6], [BEGIN, 10, 9]])
    logits, weights = model(source, lengths, target, torch.ones_like(target, dtype=torch.bool))
    logits = logits.view(2, 3, 11)
    state = model.encode(source, lengths)
    for position in range(3):
        found, state, alpha = model.step(target[:, position : position + 1], state)
        assert found[..., [PAD, UNKNOWN, BEGIN]].eq(-torch.inf).all()
        torch.testing.assert_close(found[:, 0, END:], logits[:, position].log_softmax(-1)[:, END:])
        torch.testing.assert_close(alpha[:, 0], weights[:, position])


def test_weights_sum_to_one_over_real_tokens_only() -> None:
    adapter = built()
    sources = ["the red house", "we see a red car and a house", ""]
    samples = [Sample(str(number), source) for number, source in enumerate(sources)]
    written = [Translation("das Haus"), Translation(""), Translation("wir sehen ein Haus")]
    alignments = adapter.alignments(samples, written)
    assert alignments[0].source == ("▁the", "▁red", "▁house", "</s>")
    assert alignments[0].target == ("▁das", "▁Haus", "</s>")
    assert [alignment.weights.shape for alignment in alignments] == [(3, 4), (1, 9), (5, 1)]
    for alignment in alignments:
        assert alignment.weights.shape == (len(alignment.target), len(alignment.source))
        np.testing.assert_allclose(alignment.weights.sum(axis=1), 1, atol=1e-6)
        assert (alignment.weights > 0).all()


def test_alignments_do_not_depend_on_the_batch() -> None:
    adapter = trained()
    samples = untargeted(Toy())
    predictions = adapter.predict(samples)
    together = adapter.alignments(samples, predictions)
    for sample, prediction, expected in zip(samples, predictions, together, strict=True):
        [alone] = adapter.alignments([sample], [prediction])
        assert (alone.source, alone.target) == (expected.source, expected.target)
        np.testing.assert_allclose(alone.weights, expected.weights, atol=1e-6)


@pytest.mark.parametrize("beam", [1, 4])
def test_batch_composition_and_order_change_no_translation(beam: int) -> None:
    adapter = trained(beam=beam)
    samples = [*untargeted(Toy()), Sample("long", "the old man and " * 12, None), Sample("empty", "", None)]
    together = texts(adapter, samples)
    assert together[::-1] == texts(adapter, samples[::-1])
    assert together == [texts(adapter, [sample])[0] for sample in samples]


@pytest.mark.parametrize("beam", [1, 4])
def test_the_parts_of_a_batch_change_no_translation(beam: int) -> None:
    samples = [*untargeted(Toy()), Sample("long", "the old man and " * 12, None), Sample("empty", "", None)]
    whole = trained(beam=beam, maximum_batch_tokens=100_000)
    parts = trained(beam=beam, maximum_batch_tokens=30)
    assert len(whole.preprocess(samples).parts) == 1 < len(parts.preprocess(samples).parts)
    assert texts(whole, samples) == texts(parts, samples)
    assert texts(whole, []) == []


def test_padding_changes_no_loss() -> None:
    adapter = built(dropout=0.0)
    samples = [Toy()[index] for index in range(len(SENTENCES))]
    generator = np.random.default_rng(0)

    def loss(batch: Sequence[Sample]) -> float:
        return adapter.loss(adapter.training_batch(batch, generator))["cross_entropy"].item()

    tokens = [len(adapter.vocabulary.encode(target)) + 1 for _, target in SENTENCES]  # with END
    alone = [loss([sample]) for sample in samples]
    assert loss(samples) == pytest.approx(np.average(alone, weights=tokens), rel=1e-5)


def test_loss_is_smoothed_cross_entropy_per_token() -> None:
    adapter = built(dropout=0.0, label_smoothing=0.2)
    [pairs] = adapter.training_batch([Toy()[0]], np.random.default_rng(0))
    target = pairs.targets[0]
    logits, _ = plain(adapter.module.double(), pairs.sources.tokens[0], target[:-1])
    log_p = logits.log_softmax(-1)
    n = log_p.shape[1]
    expected = [
        -(0.8 * row[y] + 0.2 / n * row.sum()).item() for row, y in zip(log_p, target[1:], strict=True)
    ]
    assert adapter.loss([pairs])["cross_entropy"].item() == pytest.approx(np.mean(expected))


def test_one_of_several_references_is_drawn() -> None:
    adapter = built()
    sample = Sample("two", "the car", ("das Auto", "ein Haus"))
    generator = np.random.default_rng(0)
    drawn = {
        adapter.vocabulary.decode(adapter.training_batch([sample], generator)[0].targets[0].tolist())
        for _ in range(20)
    }
    assert drawn == {"das Auto", "ein Haus"}


TRAINED: dict[str, checkpoints.Checkpoint] = {}


def trained(vocabulary: VocabularyKind = "word", **options: object) -> Attention:
    """Overfitted to SENTENCES; trained once, then loaded."""
    if vocabulary not in TRAINED:
        adapter = built(vocabulary, dropout=0.0, label_smoothing=0.0)
        optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=0.02)
        samples, generator = [Toy()[index] for index in range(len(SENTENCES))], np.random.default_rng(0)
        adapter.module.train()
        for _ in range(120):
            optimiser.zero_grad()
            adapter.loss(adapter.training_batch(samples, generator))["cross_entropy"].backward()
            nn.utils.clip_grad_norm_(adapter.module.parameters(), 1.0)
            optimiser.step()
        TRAINED[vocabulary] = adapter.checkpoint()
    adapter = Attention(AttentionOptions.model_validate(options), Runtime())
    adapter.load(TRAINED[vocabulary])
    return adapter


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("vocabulary", ["word", "unigram"])
def test_twenty_sentences_are_learnt_to_bleu_100(vocabulary: VocabularyKind, beam: int) -> None:
    dataset = Toy()
    predictions = trained(vocabulary, beam=beam).predict(untargeted(dataset))
    bleu = METRICS.get("bleu")()
    statistics = [bleu.statistics(dataset[i].target, predictions[i]) for i in range(len(dataset))]
    value = bleu.summarise(statistics, intervals=False).metrics["bleu"].value
    assert value == pytest.approx(100)


@pytest.mark.parametrize("vocabulary", ["word", "bpe"])
def test_a_stored_checkpoint_gives_the_same_translations(vocabulary: VocabularyKind, tmp_path: Path) -> None:
    adapter = trained(vocabulary, beam=3)
    path = tmp_path / "toy.safetensors"
    checkpoints.save(adapter.checkpoint(), path)
    restored = Attention(AttentionOptions(beam=3), Runtime())
    restored.load(checkpoints.load(path))
    assert restored.options.vocabulary == vocabulary
    assert restored.assets() == adapter.assets()
    for name, tensor in restored.module.state_dict().items():
        assert torch.equal(tensor, adapter.module.state_dict()[name].half().float())
    samples = untargeted(Toy())
    assert texts(restored, samples) == texts(adapter, samples)


def test_tied_embeddings_are_stored_once() -> None:
    untied = built(tied_embeddings=False)
    tied = built()
    size = len(tied.vocabulary) * TINY["embedding_size"]
    assert sum(tensor.numel() for tensor in tied.checkpoint().tensors.values()) == tied.parameters()
    assert (untied.parameters() or 0) - (tied.parameters() or 0) == 2 * size


def test_a_vocabulary_that_does_not_fit_is_an_error() -> None:
    made = built().checkpoint()
    smaller = "▁das\n▁Haus".encode()
    for assets, message in [
        ({}, "contains no vocabulary"),
        ({"vocabulary": b""}, "vocabulary is empty"),
        ({"vocabulary": b"\xff\xff"}, "not of kind 'word'"),
        ({"vocabulary": smaller}, "a vocabulary of 6 tokens does not fit weights of 50"),
    ]:
        with pytest.raises(UsageError, match=message):
            Attention(AttentionOptions(), Runtime()).load(replace(made, assets=assets))


def test_an_option_that_contradicts_the_checkpoint_is_an_error() -> None:
    with pytest.raises(UsageError, match="'vocabulary' is 'bpe'"):
        Attention(AttentionOptions(vocabulary="bpe"), Runtime()).load(built().checkpoint())


@pytest.mark.parametrize("beam", [1, 3])
def test_an_empty_source_has_an_empty_translation(beam: int) -> None:
    adapter = trained(beam=beam)
    assert texts(adapter, [Sample("0", "", None), Sample("1", " \n", None)]) == ["", ""]


def test_units_are_tokens_with_their_end() -> None:
    adapter = built()
    samples = [Sample("0", "the red house", None), Sample("1", "", None)]
    counted = adapter.work_units(samples, [Translation("ein Haus"), Translation("")])
    assert counted == {"source_tokens": [4, 1], "target_tokens": [3, 1]}
    batch = adapter.training_batch([Toy()[0], Toy()[7]], np.random.default_rng(0))  # 3 and 2 words each
    assert adapter.training_units(batch) == {"source_tokens": 7, "target_tokens": 7}


def test_a_very_long_source_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    adapter = trained(maximum_tokens=50)
    with caplog.at_level(logging.WARNING):
        batch = adapter.preprocess([Sample("a", "car " * 10_000, None), Sample("b", "the car", None)])
    assert isinstance(batch, Batch)
    assert batch.indices == (1, 0)
    assert batch.parts[-1].tokens.shape[1] == 50
    assert batch.parts[-1].tokens[-1, -1] == END
    assert "1 sources cut to 50 tokens, the first: a" in caplog.text
    assert texts(adapter, [Sample("a", "car " * 10_000, None)])[0]


def test_a_source_at_the_limit_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    adapter = trained(maximum_tokens=5)  # four words and END
    with caplog.at_level(logging.WARNING):
        assert adapter.preprocess([Sample("a", "the car is red", None)]).parts[0].tokens.shape == (1, 5)
        assert not caplog.records
        adapter.preprocess([Sample("b", "the car is not red", None)])
        assert len(caplog.records) == 1


def test_sources_with_unknown_words_and_cut_ones_are_named() -> None:
    adapter = Attention(AttentionOptions(maximum_tokens=6), Runtime())
    adapter.load(trained().checkpoint())
    samples = [Sample(str(n), text) for n, text in enumerate(["the red car", "the 漢字 car", "old " * 9, ""])]
    assert adapter.lossy_inputs(samples) == {
        "unknown_source": [False, True, False, False],
        "cut_source": [False, False, True, False],
    }


def test_long_training_texts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        built(maximum_tokens=9)
    # the house is old , the car is red: nine tokens in either language, and no room for the end
    assert "attention: 2 of 40 training texts are cut to 9 tokens" in caplog.text


def test_unknown_words_are_read_and_never_written() -> None:
    adapter = trained()
    batch = adapter.preprocess([Sample("0", "the 漢字 car 🚗", None)])
    assert batch.parts[0].tokens[0].tolist().count(UNKNOWN) == 2
    with torch.no_grad():
        adapter.module.output_bias[UNKNOWN] = 100.0
    assert "⁇" not in texts(adapter, [Sample("0", "the 漢字 car 🚗", None)])[0]


@pytest.mark.parametrize("beam", [1, 5])
def test_bf16_stays_near_fp32(beam: int) -> None:
    adapter = trained()
    low = Attention(AttentionOptions(beam=beam), Runtime(precision="bf16"))
    low.load(adapter.checkpoint())
    samples = untargeted(Toy())
    same = [a == b for a, b in zip(texts(adapter, samples), texts(low, samples), strict=True)]
    assert sum(same) >= 18


@pytest.mark.parametrize("beam", [1, 5])
def test_the_equations_give_the_same_translations_as_the_kernels(beam: int) -> None:
    adapter = Attention(AttentionOptions(beam=beam), Runtime())
    adapter.load(trained().checkpoint())
    samples = untargeted(Toy())
    fused = texts(adapter, samples)
    unfuse(adapter.module)
    assert texts(adapter, samples) == fused


def test_flops_are_those_of_the_equations() -> None:
    adapter = trained()
    sample = untargeted(Toy())[0]  # three words and END read, three words and END written
    assert texts(adapter, [sample]) == ["das rote Haus"]
    n, e, h, d, a = len(adapter.vocabulary), *TINY.values()
    encoder = 4 * 2 * 4 * h * (e + h) + 2 * h * d + 4 * 2 * h * a  # two LSTMs, s_0, V h_j
    attention = d * a + 4 * a + 4 * 2 * h  # W s, v of 4 positions, the context
    step = attention + 4 * d * (e + 2 * h + d) + (d + 2 * h + e) * e + e * n
    assert adapter.flops([sample]) == pytest.approx(2 * (encoder + 4 * step), rel=0.01)


def test_select_keeps_sentences_and_hypotheses() -> None:
    values = torch.arange(3.0).view(3, 1, 1)
    hidden = torch.arange(6.0).view(3, 2, 1)
    state = State(Memory(values, values, values[..., 0]), (hidden, hidden + 10))
    kept = state.select(torch.tensor([0, 2]), torch.tensor([[1, 1], [0, 1]]))
    assert kept.memory.values.flatten().tolist() == [0, 2]
    assert kept.layer[0].flatten().tolist() == [1, 1, 4, 5]
    assert kept.layer[1].flatten().tolist() == [11, 11, 14, 15]
