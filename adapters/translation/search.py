"""Search for the most probable translation: greedy, and beam search with a length penalty.

Both decode a batch at once, take a finished sentence out of the batch, and give every sentence what it
would get alone. Shapes: B sentences, K hypotheses a sentence, n tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from adapters.translation.vocabulary import BEGIN, END


class SearchState(Protocol):
    """What a model carries from step to step."""

    def select(self, rows: Tensor, parents: Tensor) -> Self:
        """Keep the sentences `rows` [B'], and of sentence b the hypotheses `parents[b]` [B', K']."""


S = TypeVar("S", bound=SearchState)

Step = Callable[[Tensor, S], tuple[Tensor, S]]
"""Last tokens [B, K] and the state → log-probabilities of the next tokens [B, K, n], the next state."""


@dataclass(frozen=True)
class Hypotheses:
    """The translation found for each of B sentences."""

    tokens: Tensor  # [B, longest limit], END behind each sentence
    scores: Tensor  # [B], log-probability; of beam search divided by the length penalty


def length_penalty(length: Tensor, alpha: float) -> Tensor:
    """lp(Y) = (5 + |Y|)^α / (5 + 1)^α (Wu et al. 2016, §7, equation 14).

    |Y| counts END, as the sum of log-probabilities does. α = 0: no penalty; α > 0 favours longer ones.
    """
    return ((5 + length) / 6) ** alpha


def greedy_search(step: Step[S], state: S, limits: Tensor) -> Hypotheses:
    """The most probable token at each position, until END or `limits` [B] tokens (0: no token at all)."""
    device = limits.device
    tokens = torch.full((len(limits), _longest(limits)), END, device=device)
    scores = torch.zeros(len(limits), device=device)
    rows, state = _retire(limits > 0, torch.arange(len(limits), device=device), state, 1)
    last = torch.full((len(rows), 1), BEGIN, device=device)
    for position in range(tokens.shape[1]):
        log_probabilities, state = step(last, state)
        best, last = log_probabilities[:, 0].max(dim=-1, keepdim=True)
        tokens[rows, position] = last[:, 0]
        scores[rows] += best[:, 0]
        running = (last[:, 0] != END) & (position + 1 < limits[rows])
        if not running.all():
            rows, state = _retire(running, rows, state, 1)
            last = last[running]
        if not len(rows):
            break
    return Hypotheses(tokens, scores)


def beam_search(step: Step[S], state: S, limits: Tensor, beam: int, alpha: float) -> Hypotheses:
    """The best of the complete translations met while the `beam` best prefixes are extended.

    A prefix whose extension by END is among the `beam` best extensions is complete; the best extensions
    by other tokens go on. A sentence ends
    - when no prefix can beat the best complete translation any more,
    - when `beam` translations are complete and no prefix is now better than the best of them (their number
      alone says nothing: beside one certain prefix, improbable ones soon end), or
    - at its limit; there the best prefix stands in where none is complete.

    Args:
        state: of B sentences with one hypothesis each.
        limits: [B], tokens of a translation at most, END included (0: no token at all).
        beam: hypotheses kept a sentence; 1 is greedy search.
        alpha: exponent ≥ 0 of the length penalty.
    """
    device = limits.device
    found = torch.full((len(limits), _longest(limits)), END, device=device)
    best = torch.full((len(limits),), -torch.inf, device=device)
    complete = torch.zeros(len(limits), dtype=torch.long, device=device)

    rows, state = _retire(limits > 0, torch.arange(len(limits), device=device), state, beam)
    prefixes = torch.full((len(rows), beam, 1), BEGIN, device=device)
    scores = torch.full((len(rows), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all hypotheses are equal at first: only one may count
    for length in range(1, found.shape[1] + 1):
        log_probabilities, state = step(prefixes[..., -1], state)
        totals, parents, tokens = _best_extensions(scores, log_probabilities, 2 * beam)

        # Of 2·beam extensions at most `beam` end in END, so enough are left to go on.
        ended = (tokens == END) & (totals > -torch.inf)
        ended[:, beam:] = False
        penalty = length_penalty(torch.tensor(length, device=device), alpha)
        score, which = torch.where(ended, totals / penalty, -torch.inf).max(dim=-1)
        better = score > best[rows]
        winners = rows[better]
        best[winners] = score[better]
        chosen = parents[better, which[better]]
        found[winners] = END
        found[winners, : length - 1] = prefixes[better, chosen, 1:]
        complete[rows] += ended.sum(dim=-1)

        scores, kept = torch.where(tokens == END, -torch.inf, totals).topk(beam, dim=-1)
        parents, tokens = parents.gather(1, kept), tokens.gather(1, kept)
        prefixes = torch.cat([_of_parents(prefixes, parents), tokens.unsqueeze(-1)], dim=-1)

        # Scores only fall and the penalty only grows: nothing can end better than what is attainable.
        attainable = scores[:, 0] / length_penalty(limits[rows], alpha)
        promising = (complete[rows] < beam) | (scores[:, 0] / penalty > best[rows])
        at_limit = length >= limits[rows]
        stranded = at_limit & best[rows].isinf()
        found[rows[stranded], :length] = prefixes[stranded, 0, 1:]
        best[rows[stranded]] = attainable[stranded]
        running = ~at_limit & promising & (attainable > best[rows])
        rows, state = rows[running], state.select(running.nonzero()[:, 0], parents[running])
        prefixes, scores = prefixes[running], scores[running]
        if not len(rows):
            break
    return Hypotheses(found, best.where(limits > 0, 0.0))


def _best_extensions(scores: Tensor, log_probabilities: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, K], [B, K, n] → totals, parents and tokens [B, count], the best first."""
    size = log_probabilities.shape[-1]
    totals = (scores.unsqueeze(-1) + log_probabilities).flatten(1)
    totals, flat = totals.topk(min(count, totals.shape[1]), dim=-1)
    return totals, flat // size, flat % size


def _of_parents(prefixes: Tensor, parents: Tensor) -> Tensor:
    return prefixes.gather(1, parents.unsqueeze(-1).expand(-1, -1, prefixes.shape[-1]))


def _retire(running: Tensor, rows: Tensor, state: S, hypotheses: int) -> tuple[Tensor, S]:
    """Go on with the running sentences only, `hypotheses` of each, all from the first."""
    parents = torch.zeros(int(running.sum()), hypotheses, dtype=torch.long, device=rows.device)
    return rows[running], state.select(running.nonzero()[:, 0], parents)


def _longest(limits: Tensor) -> int:
    return int(limits.max()) if len(limits) else 0
