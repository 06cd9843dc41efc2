"""Search for the most probable translation: greedy search, and beam search with a length penalty.

Both decode a whole batch, drop a sentence from the batch when it is finished, and give every sentence the
same translation as alone. Shapes: B sentences, K hypotheses per sentence, n tokens in the vocabulary; B'
sentences are unfinished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from adapters.translation.vocabulary import BEGIN, END


class SearchState(Protocol):
    """The state that a model carries from step to step."""

    def select(self, rows: Tensor, parents: Tensor) -> Self:
        """Keep the sentences `rows` [B'], and of sentence b the hypotheses `parents[b]` [B', K']."""


S = TypeVar("S", bound=SearchState)

Step = Callable[[Tensor, S], tuple[Tensor, S]]
"""Last tokens [B, K] and state → log-probabilities of the next tokens [B, K, n] and the next state.

The search may overwrite the log-probabilities."""


@dataclass(frozen=True)
class Hypotheses:
    """The translations found for B sentences."""

    tokens: Tensor  # [B, largest limit], each sentence followed by END
    scores: Tensor  # [B], log-probability; in beam search divided by the length penalty


class Extensions(NamedTuple):
    """Hypotheses extended by one token, best first, each tensor [B, count]."""

    scores: Tensor  # log-probabilities
    parents: Tensor  # index of the extended hypothesis, 0 … K−1
    tokens: Tensor


def length_penalty(length: Tensor, alpha: float) -> Tensor:
    """Return lp(Y) = (5 + |Y|)^α / (5 + 1)^α (Wu et al. 2016, §7, equation 14).

    |Y| includes END, like the sum of log-probabilities. α = 0 means no penalty; α > 0 favours long
    translations.
    """
    return ((5 + length) / 6) ** alpha


def greedy_search(step: Step[S], state: S, limits: Tensor) -> Hypotheses:
    """Choose the most probable token at each position, up to END or `limits` [B] tokens (0: no tokens)."""
    device = limits.device
    tokens = torch.full((len(limits), _largest(limits)), END, device=device)
    scores = torch.zeros(len(limits), device=device)
    rows, state = _keep_running(limits > 0, torch.arange(len(limits), device=device), state)
    last = torch.full((len(rows), 1), BEGIN, device=device)
    for position in range(tokens.shape[1]):
        log_probabilities, state = step(last, state)
        best, last = log_probabilities[:, 0].max(dim=-1, keepdim=True)
        tokens[rows, position] = last[:, 0]
        scores[rows] += best[:, 0]
        running = (last[:, 0] != END) & (position + 1 < limits[rows])
        if not running.all():
            rows, state = _keep_running(running, rows, state)
            last = last[running]
        if not len(rows):
            break
    return Hypotheses(tokens, scores)


def beam_search(step: Step[S], state: S, limits: Tensor, beam: int, alpha: float) -> Hypotheses:
    """Return the best complete translation found by extending the `beam` best prefixes at each step.

    A prefix is complete if its extension by END is among the `beam` best extensions. The best extensions by
    other tokens are the next prefixes. `_Finished.running` decides when the search for a sentence ends.

    Args:
        state: of B sentences with one hypothesis each.
        limits: [B], maximum number of tokens per translation, including END (0: no tokens).
        beam: prefixes per sentence; 1 is greedy search.
        alpha: exponent of the length penalty, ≥ 0.
    """
    finished = _Finished(limits, beam, alpha)
    rows, state = _keep_running(limits > 0, torch.arange(len(limits), device=limits.device), state)
    prefixes = torch.full((len(rows), 1, 1), BEGIN, device=limits.device)
    scores = torch.zeros(len(rows), 1, device=limits.device)
    smallest_limit, any_complete = int(limits[rows].min()) if len(rows) else 0, False
    for length in range(1, _largest(limits) + 1):
        log_probabilities, state = step(prefixes[..., -1], state)
        # At most `beam` of the 2·beam extensions end in END, so enough remain to go on.
        extensions = best_extensions(scores, log_probabilities, 2 * beam)
        any_complete |= finished.add_complete(rows, prefixes, extensions)
        prefixes, scores, parents = _next_prefixes(prefixes, extensions, beam)
        if not any_complete and length < smallest_limit:  # no sentence can be finished yet
            state = state.select(torch.arange(len(rows), device=rows.device), parents)
            continue
        running = finished.running(rows, scores, length)
        finished.add_incomplete(rows, prefixes, scores)
        rows, state = rows[running], state.select(running.nonzero()[:, 0], parents[running])
        prefixes, scores = prefixes[running], scores[running]
        if not len(rows):
            break
        any_complete = bool((finished.scores[rows] > -torch.inf).any())
    return Hypotheses(finished.tokens, finished.scores.where(limits > 0, 0.0))


class _Finished:
    """The best complete translation of each sentence so far."""

    def __init__(self, limits: Tensor, beam: int, alpha: float) -> None:
        largest = _largest(limits)
        self.limits, self.beam = limits, beam
        self.length_penalties = length_penalty(torch.arange(largest + 1, device=limits.device), alpha)
        self.tokens = torch.full((len(limits), largest), END, device=limits.device)
        self.scores = torch.full((len(limits),), -torch.inf, device=limits.device)
        self.complete = torch.zeros(len(limits), dtype=torch.long, device=limits.device)  # how many

    def add_complete(self, rows: Tensor, prefixes: Tensor, extensions: Extensions) -> bool:
        """Add the prefixes [B', K, length] of the sentences `rows` [B'] that END completes, if there are any.

        Return whether there are.
        """
        scores, parents, tokens = (part[:, : self.beam] for part in extensions)
        complete = (tokens == END) & (scores > -torch.inf)
        if not complete.any():
            return False
        length = prefixes.shape[-1]
        scores = scores / self.length_penalties[length]
        best, which = torch.where(complete, scores, -torch.inf).max(dim=-1)
        better = best > self.scores[rows]
        self.scores[rows[better]] = best[better]
        self.tokens[rows[better], : length - 1] = prefixes[better, parents[better, which[better]], 1:]
        self.complete[rows] += complete.sum(dim=-1)
        return True

    def running(self, rows: Tensor, scores: Tensor, length: int) -> Tensor:
        """Return whether the search goes on for each of the sentences `rows` [B']: [B'], boolean.

        The search for a sentence ends

        - at the limit of its length,
        - when no prefix can beat the best complete translation any more, or
        - when `beam` translations are complete and no prefix is currently better than the best of them.
          Their number alone is no criterion, because improbable prefixes end soon beside a probable one.

        The scores [B', K] are log-probabilities of the prefixes of `length` tokens, best first.
        """
        # Scores only decrease and the length penalty only increases, so that no translation can reach a
        # higher score than this.
        attainable = scores[:, 0] / self.length_penalties[self.limits[rows]]
        best = self.scores[rows]
        promising = (self.complete[rows] < self.beam) | (scores[:, 0] / self.length_penalties[length] > best)
        return (length < self.limits[rows]) & promising & (attainable > best)

    def add_incomplete(self, rows: Tensor, prefixes: Tensor, scores: Tensor) -> None:
        """Add the best prefix [B', K, 1 + length] of sentences at their limit without a translation."""
        length = prefixes.shape[-1] - 1
        stranded = (length >= self.limits[rows]) & self.scores[rows].isinf()
        attained = scores[:, 0] / self.length_penalties[self.limits[rows]]
        self.scores[rows[stranded]] = attained[stranded]
        self.tokens[rows[stranded], :length] = prefixes[stranded, 0, 1:]


# Members per group in `best_extensions`. Measured on one CPU thread, 5 hypotheses: 64 sentences and 4,000
# tokens take 0.62 ms with 8, 0.50 ms with 16, 0.77 ms with 32 and 1.77 ms with `topk` over all; 25 sentences
# and 1,419 tokens 0.14, 0.19, 0.20 and 0.22 ms.
_MEMBERS = 12


def best_extensions(scores: Tensor, log_probabilities: Tensor, count: int) -> Extensions:
    """Return the `count` best extensions of each sentence's hypotheses, or all if there are fewer.

    `topk` over all K·n extensions is slow. They are therefore dealt to small groups. Each of the `count` best
    is in one of the `count` groups with the best maxima, so only the members of these groups are compared.

    Args:
        scores: [B, K], log-probabilities of the hypotheses.
        log_probabilities: [B, K, n], of their next tokens; overwritten.
    """
    size = log_probabilities.shape[-1]
    totals = log_probabilities.add_(scores.unsqueeze(-1)).flatten(1)  # [B, K·n]
    total = totals.shape[1]
    members = min(total, _MEMBERS)
    groups = total // members  # extension i is in group i mod `groups`; those from `dealt` on are in no group
    dealt = groups * members
    maxima = totals[:, :dealt].view(len(totals), members, groups).amax(dim=1)
    chosen = maxima.topk(min(count, groups), dim=-1).indices
    candidates = (chosen.unsqueeze(-1) + torch.arange(0, dealt, groups, device=scores.device)).flatten(1)
    undealt = torch.arange(dealt, total, device=scores.device).expand(len(candidates), -1)
    candidates = torch.cat([candidates, undealt], dim=1)
    best, which = totals.gather(1, candidates).topk(min(count, candidates.shape[1]), dim=-1)
    indices = candidates.gather(1, which)
    return Extensions(best, indices // size, indices % size)


def _next_prefixes(prefixes: Tensor, extensions: Extensions, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """Extend prefixes [B', K, length] by their best tokens besides END.

    Return the new prefixes [B', beam, 1 + length], their log-probabilities and parents [B', beam].
    """
    scores = torch.where(extensions.tokens == END, -torch.inf, extensions.scores)
    scores, chosen = scores.topk(min(beam, scores.shape[1]), dim=-1)
    parents, tokens = extensions.parents.gather(1, chosen), extensions.tokens.gather(1, chosen)
    extended = prefixes.gather(1, parents.unsqueeze(-1).expand(-1, -1, prefixes.shape[-1]))
    return torch.cat([extended, tokens.unsqueeze(-1)], dim=-1), scores, parents


def _keep_running(running: Tensor, rows: Tensor, state: S) -> tuple[Tensor, S]:
    """Keep only the running sentences, with one hypothesis each."""
    indices = running.nonzero()[:, 0]
    return rows[indices], state.select(indices, torch.zeros_like(indices).unsqueeze(1))


def _largest(limits: Tensor) -> int:
    return int(limits.max()) if len(limits) else 0
