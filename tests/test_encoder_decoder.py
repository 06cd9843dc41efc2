"""`rnn` and `lstm`: teacher forcing against a plain loop, both paths, padding, options, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from test_attention import SENTENCES, Toy, texts, untargeted
from torch import Tensor, nn

from adapters.translation.attention import Attention, AttentionOptions
from adapters.translation.cells import LstmLayer, RnnLayer, unfuse
from adapters.translation.options import curriculum_fraction
from adapters.translation.search import greedy_search
from adapters.translation.seq2seq import Lstm, Rnn, Seq2Seq, Seq2SeqOptions
from adapters.translation.seq2seq_model import Seq2SeqModel, State
from adapters.translation.vocabulary import BEGIN, END, PAD, UNKNOWN
from harness import checkpoint as checkpoints
from harness.adapter import ADAPTERS, Runtime
from harness.datasets.dataset import DATASETS
from harness.errors import UsageError
from harness.metrics.metric import METRICS
from harness.recipe import Recipe, RecipeData, resolve_checkpoint
from harness.stages.fit import batch_indices, evaluate
from harness.task import Sample

TINY = {"embedding_size": 24, "encoder_size": 20, "decoder_size": 32, "vocabulary_size": 120}
CELLS = {"rnn": RnnLayer, "lstm": LstmLayer}
FORMS = [
    {},
    {"layers": 2},
    {"layers": 2, "bidirectional": False},
    {"context": "initial"},
    {"context": "initial", "layers": 2, "tied_embeddings": False},
]


def built(cls: type[Seq2Seq], **options: Any) -> Seq2Seq:
    adapter = cls(Seq2SeqOptions(**{"vocabulary": "word", **TINY, **options}), Runtime())
    torch.manual_seed(0)
    adapter.build(Toy())
    adapter.module.eval()
    return adapter


def model(cell: str, **form: Any) -> Seq2SeqModel:
    torch.manual_seed(1)
    return Seq2SeqModel(CELLS[cell], 11, 6, 5, 7, **form).double().eval()


SOURCE, LENGTHS = torch.tensor([[4, 5, 6, 7, END], [8, 9, END, PAD, PAD]]), torch.tensor([5, 3])
TARGET = torch.tensor([[BEGIN, 5, 6, 7], [BEGIN, 10, 9, PAD]])


def plain(model: Seq2SeqModel, cell: str, source: Tensor, target: Tensor) -> Tensor:
    """Compute logits [T, n] of one sentence with torch's RNNCell or LSTMCell, position by position."""
    E = model.embedding.weight
    D = E if model.target_embedding is None else model.target_embedding.weight
    U = E if model.output_embedding is None else model.output_embedding.weight
    E, D = E * E.shape[1] ** 0.5, D * D.shape[1] ** 0.5

    def cell_of(weights: nn.RNNBase) -> Any:
        made = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell}[cell](weights.input_size, weights.hidden_size)
        made.double().load_state_dict(
            {name.removesuffix("_l0"): tensor for name, tensor in weights.state_dict().items()}
        )
        return made

    def read(weights: nn.RNNBase, inputs: list[Tensor]) -> list[Tensor]:
        state, found, step = None, [], cell_of(weights)
        for x in inputs:
            state = step(x, state)
            found.append(state if cell == "rnn" else state[0])
        return found

    layer_inputs, finals = [E[token] for token in source], []
    for number, forward in enumerate(model.encoder.forwards):
        there = read(forward.weights, layer_inputs)
        finals.append(there[-1])
        layer_inputs_back = layer_inputs[::-1]
        layer_inputs = there
        if model.encoder.backwards:
            back = read(model.encoder.backwards[number].weights, layer_inputs_back)
            finals[-1] = torch.cat([there[-1], back[-1]])
            layer_inputs = [torch.cat(pair) for pair in zip(there, back[::-1], strict=True)]
    states: list[Any] = []
    for final, initial in zip(finals, model.initial, strict=True):
        h, *c = initial(final).split(model.decoder[0].weights.hidden_size)
        states.append((torch.tanh(h), *c) if c else torch.tanh(h))
    context = [finals[-1]] if model.context == "every-step" else []
    steps, logits = [cell_of(layer.weights) for layer in model.decoder], []
    for y in target:
        hidden = torch.cat([D[y], *context])
        for number, step in enumerate(steps):
            states[number] = step(hidden, states[number])
            hidden = states[number] if cell == "rnn" else states[number][0]
        logits.append(U @ torch.tanh(model.readout(torch.cat([hidden, D[y], *context]))) + model.output_bias)
    return torch.stack(logits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_teacher_forcing_equals_a_loop_over_torchs_cells(cell: str, form: dict[str, Any]) -> None:
    ours = model(cell, **form)
    mask = TARGET != PAD
    logits = ours(SOURCE, LENGTHS, TARGET, mask)
    expected = [plain(ours, cell, SOURCE[b, : LENGTHS[b]], TARGET[b, : mask[b].sum()]) for b in range(2)]
    torch.testing.assert_close(logits, torch.cat(expected))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_and_equations_agree_in_loss_and_gradients(cell: str, form: dict[str, Any]) -> None:
    fused, unfused = model(cell, **form).float(), model(cell, **form).float()
    unfuse(unfused)
    unfused.load_state_dict(fused.state_dict())
    gradients = []
    for network in (fused, unfused):
        logits = network(SOURCE, LENGTHS, TARGET, TARGET != PAD)
        logits.log_softmax(-1)[:, 5].sum().backward()
        gradients.append([logits, *(parameter.grad for parameter in network.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_equals_teacher_forcing(cell: str, form: dict[str, Any], fused: bool) -> None:
    ours = model(cell, **form)
    if not fused:
        unfuse(ours)
    logits = ours(SOURCE, LENGTHS, TARGET, torch.ones_like(TARGET, dtype=torch.bool)).view(2, 4, 11)
    state = ours.encode(SOURCE, LENGTHS)
    for position in range(4):
        found, state = ours.step(TARGET[:, position : position + 1], state)
        assert found[..., [PAD, UNKNOWN, BEGIN]].eq(-torch.inf).all()
        torch.testing.assert_close(found[:, 0, END:], logits[:, position].log_softmax(-1)[:, END:])


def test_gradients_of_the_whole_model_are_correct() -> None:
    for cell in CELLS:
        ours = model(cell)
        names = [name for name, _ in ours.named_parameters()]

        def run(*parameters: Tensor, ours: Any = ours, names: Any = names) -> Tensor:
            arguments = (SOURCE, LENGTHS, TARGET, TARGET != PAD)
            found: Tensor = torch.func.functional_call(
                ours, dict(zip(names, parameters, strict=True)), arguments
            )
            return found.log_softmax(-1)

        parameters = [parameter.detach().requires_grad_() for parameter in ours.parameters()]
        assert torch.autograd.gradcheck(run, parameters, fast_mode=True)


def test_select_keeps_sentences_and_hypotheses() -> None:
    hidden = torch.arange(6.0).view(3, 2, 1)
    state = State(torch.arange(3.0).view(3, 1), ((hidden, hidden + 10), (hidden + 20, hidden + 30)))
    kept = state.select(torch.tensor([0, 2]), torch.tensor([[1, 1], [0, 1]]))
    assert kept.context.flatten().tolist() == [0, 2]
    assert [[part.flatten().tolist() for part in layer] for layer in kept.layers] == [
        [[1, 1, 4, 5], [11, 11, 14, 15]],
        [[21, 21, 24, 25], [31, 31, 34, 35]],
    ]


def test_the_decoder_sees_the_context_at_every_step_or_only_in_its_initial_state() -> None:
    for context in ("every-step", "initial"):
        ours = model("rnn", context=context)
        state = ours.encode(SOURCE, LENGTHS)
        forgotten = State(state.context, ((torch.zeros_like(state.layers[0][0]),),))
        found, _ = ours.step(torch.full((2, 1), 5), forgotten)
        assert torch.equal(found[0], found[1]) is (context == "initial")


def read_tokens(adapter: Seq2Seq, text: str) -> list[int]:
    """Return the source tokens in the order in which the encoder reads them."""
    tokens: list[int] = (
        adapter.sentence_pairs([(adapter.vocabulary.encode(text), [])]).sources.tokens[0].tolist()
    )
    return tokens


def test_a_reversed_source_is_read_from_its_last_word_and_end_last() -> None:
    forwards, backwards = built(Lstm), built(Lstm, reversed_source=True)
    text = "where is the old man?"
    assert read_tokens(backwards, text) == [*read_tokens(forwards, text)[-2::-1], END]
    [pairs] = backwards.training_batch([Toy()[0]], np.random.default_rng(0))
    assert pairs.sources.tokens[0].tolist() == read_tokens(backwards, SENTENCES[0][0])
    assert backwards.vocabulary.decode(pairs.targets[0].tolist()) == SENTENCES[0][1]


def test_a_reversed_source_is_cut_at_its_end_not_at_its_beginning() -> None:
    adapter = built(Lstm, reversed_source=True, maximum_tokens=3)
    assert read_tokens(adapter, "the old man") == [*adapter.vocabulary.encode("the old")[::-1], END]


def test_a_reversed_source_is_translated_as_it_was_learnt() -> None:
    dataset, adapter = Toy(), trained(Lstm, reversed_source=True)
    found = texts(adapter, untargeted(dataset))
    assert found == [translation for _, translation in SENTENCES]


def test_a_curriculum_starts_with_the_shortest_sentences_and_ends_with_all() -> None:
    assert [curriculum_fraction(t, 100) for t in (0, 50, 100, 1000)] == pytest.approx([0.01, 0.505, 1, 1])
    assert curriculum_fraction(0, 0) == 1
    adapter = built(Rnn, pooled_batches=4, curriculum=12)
    assert (adapter.pooled_batches, adapter.curriculum_fraction(6)) == (4, pytest.approx(0.505))
    assert adapter.bucketing_key(Sample("0", "the old man", ("",))) == 3
    recipe = Recipe(
        adapter="rnn", task="translation", dataset=RecipeData(name="toy"), steps=40, batch_size=5,
        learning_rate=0.1, metric="bleu",
    )  # fmt: skip
    words = [len(source.split()) for source, _ in SENTENCES]
    quarters = np.sort(words).reshape(4, 5).tolist()
    seen = [
        sorted(
            words[i]
            for i in batch_indices(recipe, t, 20, 4, words.__getitem__, adapter.curriculum_fraction(t))
        )
        for t in range(40)
    ]
    assert seen[:3] == [quarters[0]] * 3  # a third of the way: the second quarter may come
    assert all(batch in quarters[:3] for batch in seen[:9])
    assert all(sorted(seen[first : first + 4]) == quarters for first in range(12, 40, 4))


def test_a_curriculum_without_pooled_batches_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"curriculum: it orders .* set pooled_batches > 1"):
        Seq2SeqOptions(curriculum=10)


@pytest.mark.parametrize("cls", [Rnn, Lstm])
def test_padding_changes_no_loss(cls: type[Seq2Seq]) -> None:
    adapter = built(cls, dropout=0.0, layers=2)
    samples, generator = [Toy()[index] for index in range(len(SENTENCES))], np.random.default_rng(0)

    def loss(batch: Sequence[Sample]) -> float:
        return adapter.loss(adapter.training_batch(batch, generator))["cross_entropy"].item()

    tokens = [len(adapter.vocabulary.encode(target)) + 1 for _, target in SENTENCES]  # with END
    alone = [loss([sample]) for sample in samples]
    assert loss(samples) == pytest.approx(np.average(alone, weights=tokens), rel=1e-5)


TRAINED: dict[tuple[type[Seq2Seq], bool], checkpoints.Checkpoint] = {}


def trained(cls: type[Seq2Seq] = Lstm, reversed_source: bool = False, **options: Any) -> Seq2Seq:
    """Return an adapter overfitted to SENTENCES, which is trained once and then loaded."""
    if (cls, reversed_source) not in TRAINED:
        adapter = built(cls, dropout=0.0, label_smoothing=0.0, reversed_source=reversed_source)
        optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=0.01)
        samples, generator = [Toy()[index] for index in range(len(SENTENCES))], np.random.default_rng(0)
        adapter.module.train()
        for _ in range(150):
            optimiser.zero_grad()
            adapter.loss(adapter.training_batch(samples, generator))["cross_entropy"].backward()
            nn.utils.clip_grad_norm_(adapter.module.parameters(), 1.0)
            optimiser.step()
        TRAINED[cls, reversed_source] = adapter.checkpoint()
    adapter = cls(Seq2SeqOptions(**options), Runtime())
    adapter.load(TRAINED[cls, reversed_source])
    return adapter


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("cls", [Rnn, Lstm])
def test_twenty_sentences_are_learnt_to_bleu_100(cls: type[Seq2Seq], beam: int) -> None:
    dataset, bleu = Toy(), METRICS.get("bleu")()
    predictions = trained(cls, beam=beam).predict(untargeted(dataset))
    statistics = [bleu.statistics(dataset[i].target, predictions[i]) for i in range(len(dataset))]
    assert bleu.summarise(statistics, intervals=False).metrics["bleu"].value == pytest.approx(100)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("cls", [Rnn, Lstm])
def test_batch_composition_and_order_change_no_translation(cls: type[Seq2Seq], beam: int) -> None:
    adapter = trained(cls, beam=beam)
    samples = [*untargeted(Toy()), Sample("long", "the old man and " * 12, None), Sample("empty", "", None)]
    together = texts(adapter, samples)
    assert together[::-1] == texts(adapter, samples[::-1])
    assert together == [texts(adapter, [sample])[0] for sample in samples]
    assert together[-1] == ""


@pytest.mark.parametrize("cls", [Rnn, Lstm])
def test_the_equations_give_the_same_translations_as_the_kernels(cls: type[Seq2Seq]) -> None:
    adapter, samples = trained(cls), untargeted(Toy())
    fused = texts(adapter, samples)
    unfuse(adapter.module)
    assert texts(adapter, samples) == fused


@pytest.mark.parametrize("beam", [1, 5])
def test_bf16_stays_near_fp32(beam: int) -> None:
    adapter, low = trained(), Lstm(Seq2SeqOptions(beam=beam), Runtime(precision="bf16"))
    low.load(adapter.checkpoint())
    samples = untargeted(Toy())
    same = [a == b for a, b in zip(texts(adapter, samples), texts(low, samples), strict=True)]
    assert sum(same) >= 18


@pytest.mark.parametrize("name", ["rnn", "lstm", "attention"])
def test_no_samples_have_no_predictions(name: str) -> None:
    cls = ADAPTERS.get(name)
    for beam in (1, 3):
        if name == "attention":
            adapter: Any = Attention(AttentionOptions(vocabulary="word", beam=beam), Runtime())
            adapter.build(Toy())
        else:
            adapter = built(cls, beam=beam)
        assert adapter.predict([]) == []


def test_flops_are_those_of_the_equations() -> None:
    adapter = trained()
    sample = untargeted(Toy())[0]  # three words and END read, three words and END written
    assert texts(adapter, [sample]) == ["das rote Haus"]
    n, e, h, d = len(adapter.vocabulary), 24, 20, 32
    encoder = 4 * 2 * 4 * h * (e + h) + 2 * h * 2 * d  # two LSTMs of four steps, s_0
    step = 4 * d * (e + 2 * h + d) + (d + 2 * h + e) * e + e * n
    assert adapter.flops([sample]) == pytest.approx(2 * (encoder + 4 * step), rel=0.01)


def test_a_stored_checkpoint_gives_the_same_translations(tmp_path: Path) -> None:
    for cls in (Rnn, Lstm):
        adapter, path = trained(cls), tmp_path / f"{cls.name}.safetensors"
        checkpoints.save(adapter.checkpoint(), path)
        restored = cls(Seq2SeqOptions(), Runtime())
        restored.load(checkpoints.load(path))
        assert restored.options.context == "every-step" and restored.options.decoder_size == 32
        samples = untargeted(Toy())
        assert texts(restored, samples) == texts(adapter, samples)


def test_a_checkpoint_that_does_not_fit_is_one_clear_error() -> None:
    made = trained().checkpoint()
    for options, message in [
        ({"layers": 2}, "'layers' is 2, but the checkpoint was trained with 1"),
        ({"reversed_source": True}, "'reversed_source' is True"),
        ({"context": "initial"}, "'context' is 'initial'"),
    ]:
        with pytest.raises(UsageError, match=message):
            Lstm(Seq2SeqOptions(**options), Runtime()).load(made)
    with pytest.raises(UsageError, match="checkpoint of adapter 'lstm' cannot be loaded by 'rnn'"):
        Rnn(Seq2SeqOptions(), Runtime()).load(made)
    smaller = replace(made, assets={"vocabulary": "▁das\n▁Haus".encode()})
    with pytest.raises(UsageError, match="a vocabulary of 6 tokens does not fit weights of 50"):
        Lstm(Seq2SeqOptions(), Runtime()).load(smaller)
    with pytest.raises(UsageError, match="needs a checkpoint"):
        Lstm(Seq2SeqOptions(), Runtime()).load(None)


@pytest.mark.parametrize(
    "option", [{"layers": 0}, {"context": "last"}, {"cell": "reference"}, {"dropout": 1.0}, {"gates": 3}]
)
def test_a_wrong_option_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Seq2SeqOptions(**option)


def test_greedy_search_ends_at_the_limits() -> None:
    ours = model("lstm")
    with torch.no_grad():
        ours.output_bias[END] = -100.0
        found = greedy_search(ours.step, ours.encode(SOURCE, LENGTHS), torch.tensor([4, 2]))
    assert [row.tolist().count(END) for row in found.tokens] == [0, 2]


SHIPPED = [
    ("rnn", "rnn-phrases-en-de", 9.0),
    ("lstm", "lstm-phrases-en-de", 58.0),
    ("lstm", "lstm-12000-phrases-en-de", 72.0),
    ("attention", "attention-phrases-en-de", 99.0),
]


@pytest.mark.parametrize(("adapter", "name", "least"), SHIPPED)
def test_shipped_weights_match_their_document(adapter: str, name: str, least: float) -> None:
    found = resolve_checkpoint(name, adapter, None)
    assert not found.missing
    assert found.weights.stat().st_size <= 3_000_000
    provenance = yaml.safe_load(found.weights.with_suffix(".yaml").read_text())["provenance"]
    assert provenance["sha256"] == checkpoints.sha256(found.weights)
    assert provenance["figures"]["bleu"]["value"] >= least


@pytest.mark.parametrize(("adapter", "name", "least"), SHIPPED)
def test_shipped_weights_reach_the_documents_figure(adapter: str, name: str, least: float) -> None:
    found = resolve_checkpoint(name, adapter, None)
    assert found.recipe is not None
    document = yaml.safe_load(found.weights.with_suffix(".yaml").read_text())
    data_cls = DATASETS.get(found.recipe.dataset.name)
    data = data_cls(data_cls.Options(**found.recipe.dataset.options), "validation", "translation")
    cls = ADAPTERS.get(adapter)
    ours = cls(cls.Options(), Runtime())
    ours.load(checkpoints.load(found.weights))
    samples = [data[i] for i in range(found.recipe.validation_size)]
    scores = evaluate(ours, samples, METRICS.get("bleu")(), batch_size=16, intervals=False)
    # Another CPU rounds otherwise, which can swap two nearly equal tokens; no more than that.
    expected = document["provenance"]["figures"]["bleu"]["value"]
    assert scores.metrics["bleu"].value == pytest.approx(expected, abs=0.5)
