"""Greedy and beam search against exhaustive search and a plain loop, on a random model of few tokens."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters.translation.options import length_batches
from adapters.translation.search import (
    Hypotheses,
    beam_search,
    best_extensions,
    greedy_search,
    length_penalty,
)
from adapters.translation.vocabulary import BEGIN, END

TOKENS = (END, 4, 5)  # what the toy model writes; of its 6 tokens the rest has probability 0
MOST = 4  # tokens of a translation, END included


@dataclass(frozen=True)
class Prefixes:
    """A state that consists of the whole prefixes, on which the toy model depends."""

    sentences: Tensor  # [B], which table
    prefixes: Tensor  # [B, K, length]

    def select(self, rows: Tensor, parents: Tensor) -> Prefixes:
        return Prefixes(self.sentences[rows], self.prefixes[rows.unsqueeze(1), parents])


class Toy:
    """Random log-probabilities for every prefix of every sentence."""

    def __init__(self, seed: int, sentences: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sentences = sentences
        self.tables: list[dict[tuple[int, ...], Tensor]] = []
        for _ in range(sentences):
            table = {}
            for length in range(MOST + 1):
                for prefix in itertools.product(TOKENS[1:], repeat=length):
                    row = torch.full((6,), -torch.inf)
                    row[list(TOKENS)] = (2 * torch.randn(3, generator=generator)).log_softmax(0)
                    table[prefix] = row
            self.tables.append(table)

    def start(self) -> Prefixes:
        return Prefixes(torch.arange(self.sentences), torch.empty(self.sentences, 1, 0, dtype=torch.long))

    def step(self, tokens: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
        prefixes = torch.cat([state.prefixes, tokens.unsqueeze(-1)], dim=-1)
        rows = [
            [self.after(sentence, tuple(prefix[1:])) for prefix in hypotheses]
            for sentence, hypotheses in zip(state.sentences.tolist(), prefixes.tolist(), strict=True)
        ]
        return torch.stack([torch.stack(row) for row in rows]), Prefixes(state.sentences, prefixes)

    def after(self, sentence: int, prefix: tuple[int, ...]) -> Tensor:
        return self.tables[sentence].get(prefix, torch.full((6,), -torch.inf))  # never met: END went before

    def exhaustive(self, sentence: int, limit: int, alpha: float) -> tuple[float, tuple[int, ...]]:
        """Return the best of all complete translations of at most `limit` tokens, END included."""
        found = []
        for length in range(limit):
            for words in itertools.product(TOKENS[1:], repeat=length):
                whole = (*words, END)
                total = sum(
                    self.after(sentence, whole[:place])[token].item() for place, token in enumerate(whole)
                )
                found.append((total / ((5 + len(whole)) / 6) ** alpha, words))
        return max(found)


def words(found: Hypotheses) -> list[tuple[int, ...]]:
    return [tuple(itertools.takewhile(lambda token: token != END, row)) for row in found.tokens.tolist()]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_everything_finds_what_exhaustive_search_finds(seed: int, alpha: float) -> None:
    toy = Toy(seed, sentences=5)
    limits = torch.tensor([1, 2, 3, 4, 4])
    found = beam_search(toy.step, toy.start(), limits, beam=len(TOKENS) ** MOST, alpha=alpha)
    expected = [toy.exhaustive(sentence, int(limit), alpha) for sentence, limit in enumerate(limits)]
    assert words(found) == [best for _, best in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for score, _ in expected]))


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_a_beam_of_one_equals_greedy_search_and_a_plain_loop(seed: int, alpha: float) -> None:
    toy = Toy(seed, sentences=4)
    limits = torch.tensor([4, 1, 3, 2])
    greedy = greedy_search(toy.step, toy.start(), limits)
    beam = beam_search(toy.step, toy.start(), limits, beam=1, alpha=alpha)
    assert words(greedy) == words(beam)
    for sentence, (found, score) in enumerate(zip(words(greedy), greedy.scores.tolist(), strict=True)):
        prefix: tuple[int, ...] = ()
        total = 0.0
        while len(prefix) < limits[sentence]:
            row = toy.after(sentence, prefix)
            total += row.max().item()
            if int(row.argmax()) == END:
                break
            prefix = (*prefix, int(row.argmax()))
        assert found == prefix
        assert score == pytest.approx(total, abs=1e-5)


@given(seed=st.integers(0, 10_000), beam=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_a_sentence_has_the_same_translation_in_a_batch_and_alone(seed: int, beam: int) -> None:
    toy = Toy(seed, sentences=4)
    limits = torch.tensor([3, 4, 1, 2])
    together = beam_search(toy.step, toy.start(), limits, beam, alpha=0.6)
    for sentence in range(4):
        row = torch.tensor([sentence])
        alone = toy.start().select(row, torch.zeros(1, 1, dtype=torch.long))
        found = beam_search(toy.step, alone, limits[row], beam, alpha=0.6)
        assert words(found) == [words(together)[sentence]]
        assert found.scores.item() == together.scores[sentence].item()


def test_a_wider_beam_finds_what_greedy_search_misses() -> None:
    # Greedy takes 4 (0.6), after which nothing is likely; 5 (0.4) goes on with certainty.
    toy = Toy(0, sentences=1)
    toy.tables[0][()] = log(end=0.0, four=0.6, five=0.4)
    toy.tables[0][(4,)] = log(end=0.34, four=0.33, five=0.33)
    toy.tables[0][(5,)] = log(end=1.0, four=0.0, five=0.0)
    limits = torch.tensor([2])
    assert words(greedy_search(toy.step, toy.start(), limits)) == [(4,)]
    found = beam_search(toy.step, toy.start(), limits, beam=2, alpha=0.0)
    assert words(found) == [(5,)]
    assert found.scores.item() == pytest.approx(math.log(0.4))


def test_the_length_penalty_lets_a_longer_translation_win() -> None:
    # END at once: log .5 = −0.693. "4 END": log .4 = −0.916; divided by lp(2) = (7/6)^2 = 1.361: −0.673.
    toy = Toy(0, sentences=1)
    toy.tables[0][()] = log(end=0.5, four=0.4, five=0.1)
    toy.tables[0][(4,)] = log(end=1.0, four=0.0, five=0.0)
    limits = torch.tensor([MOST])
    assert words(beam_search(toy.step, toy.start(), limits, beam=2, alpha=0.0)) == [()]
    found = beam_search(toy.step, toy.start(), limits, beam=2, alpha=2.0)
    assert words(found) == [(4,)]
    assert found.scores.item() == pytest.approx(math.log(0.4) / (7 / 6) ** 2)


def test_improbable_translations_do_not_end_the_search_of_a_certain_one() -> None:
    toy = Toy(0, sentences=1)
    sure = {prefix: log(end=1e-4, four=1 - 2e-4, five=1e-4) for prefix in toy.tables[0]}
    sure[4, 4, 4] = log(end=1.0, four=0.0, five=0.0)
    toy.tables[0] = sure
    found = beam_search(toy.step, toy.start(), torch.tensor([MOST]), beam=2, alpha=0.6)
    assert words(found) == [(4, 4, 4)]


def test_length_penalty_by_hand() -> None:
    # lp(1) = 1 for any α; α = 1: (5 + 7) / 6 = 2; α = .5: √(5 + 19 / 6) = 2
    assert length_penalty(torch.tensor(1), 0.6).item() == 1.0
    assert length_penalty(torch.tensor(7), 1.0).item() == 2.0
    assert length_penalty(torch.tensor(19), 0.5).item() == 2.0
    assert length_penalty(torch.tensor(100), 0.0).item() == 1.0


@pytest.mark.parametrize("beam", [1, 3])
def test_a_translation_without_end_is_cut_at_its_limit(beam: int) -> None:
    toy = Toy(0, sentences=1)
    for prefix in toy.tables[0]:
        toy.tables[0][prefix] = log(end=0.0, four=0.3, five=0.7)
    limits = torch.tensor([3])
    assert words(greedy_search(toy.step, toy.start(), limits)) == [(5, 5, 5)]
    assert words(beam_search(toy.step, toy.start(), limits, beam, alpha=0.6)) == [(5, 5, 5)]


def test_a_limit_of_zero_gives_no_tokens_and_an_empty_batch_nothing() -> None:
    toy = Toy(0, sentences=2)
    limits = torch.tensor([0, 3])
    for found in (
        greedy_search(toy.step, toy.start(), limits),
        beam_search(toy.step, toy.start(), limits, beam=2, alpha=0.6),
    ):
        assert words(found)[0] == ()
        assert found.scores[0] == 0
        assert words(found)[1] or found.scores[1] < 0
    nobody = Toy(0, sentences=2).start().select(torch.arange(0), torch.zeros(0, 1, dtype=torch.long))
    assert greedy_search(toy.step, nobody, limits[:0]).tokens.shape == (0, 0)
    assert beam_search(toy.step, nobody, limits[:0], beam=2, alpha=0.6).tokens.shape == (0, 0)


@pytest.mark.parametrize("beam", [1, 2])
def test_finished_sentences_leave_the_batch(beam: int) -> None:
    toy = Toy(3, sentences=3)
    toy.tables[1][()] = log(end=1.0, four=0.0, five=0.0)
    seen: list[list[int]] = []

    def step(tokens: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
        assert tokens.shape[0] == len(state.sentences)
        assert seen or bool((tokens == BEGIN).all())
        seen.append(state.sentences.tolist())
        return toy.step(tokens, state)

    limits = torch.tensor([1, 3, 3])
    if beam == 1:
        greedy_search(step, toy.start(), limits)
    else:
        beam_search(step, toy.start(), limits, beam, 0.6)
    assert len(seen) > 1
    assert seen[0] == [0, 1, 2]
    assert all(sentences == [2] for sentences in seen[1:])


def log(end: float, four: float, five: float) -> Tensor:
    return torch.tensor([0.0, 0.0, 0.0, end, four, five]).log()


@pytest.mark.parametrize("size", [1, 2, 4, 23, 24, 25, 1000])
def test_the_best_extensions_are_those_of_a_full_sort(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(3, 5, generator=generator)
    log_probabilities = (3 * torch.randn(3, 5, size, generator=generator)).log_softmax(-1)
    whole = (scores.unsqueeze(-1) + log_probabilities).flatten(1)
    totals, parents, tokens = best_extensions(scores, log_probabilities, 10)
    expected, places = whole.sort(dim=-1, descending=True)
    count = min(10, whole.shape[1])
    torch.testing.assert_close(totals, expected[:, :count])
    assert (parents * size + tokens).tolist() == places[:, :count].tolist()


def test_sentences_of_similar_length_share_a_batch() -> None:
    # In order of length 1 2 2 3 7 9; 2 + 2 + 2 + 3 would be 4 × 3 > 8 tokens with padding, 9 alone is > 8.
    assert length_batches([9, 2, 1, 7, 2, 3], 8) == [[2, 1, 4], [5], [3], [0]]
    assert length_batches([], 8) == []


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_contain_every_sentence_once_within_the_maximum(lengths: list[int], most: int) -> None:
    batches = length_batches(lengths, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most
