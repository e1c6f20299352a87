"""From a coarse scan to the exact top k, with a proof: which documents to score again, and when to stop.

A coarse scan gives lower <= exact <= upper for every document. Only a document whose upper bound reaches the
k-th best exact score known so far can be among the k best; once no such document is left, the top k is the
exact one.

B requests, N documents, M documents scored again, k wanted. Document indices are -1 where a row has fewer.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.ops.native import selection as native
from memsparse.ops.routing import top_documents
from memsparse.ops.selection import (
    ascend,
    check_wanted,
    count_promising,
    count_reaching,
    lowest,
    raise_best,
    reaching,
    take_best,
)

_SIFTED = 4096
"""Documents that are looked at again together, at least."""
Rescore = Callable[[Tensor], Tensor]
"""Document indices (B, M), -1 for none, to scores (B, M) float32, -inf for none: exact of the k best of each
request, of others no less than they are, and less than those."""
BoundAgain = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Document indices (m,) int64, ascending, to tighter bounds of these, (B, m) each."""

GUESS = 0.49
"""Where in its interval a score is taken to lie before any is known, as a share of the width: most lie close
to the middle, and a bar that is a little too low costs less than another turn."""
FIRST = 64
"""Documents of a request scored again before others are looked at again, where the guess is too many."""
AGAIN = 256
"""So many documents left are bounded again before any is scored: to score fewer costs less. Where a limit
lets not all of them be scored, fewer are bounded again, too."""
WIDENING = 3
"""Documents scored again in one more turn, at most, for each scored before, which count as FIRST at least:
every turn raises the bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Documents scored again, and what is known of all."""

    documents: Tensor
    """(B, M) int64, in the order scored; -1 for none."""
    scores: Tensor
    """(B, M) float32, -inf for none: exact of the k best, of others no less than they are and below those."""
    lower: Tensor
    """(B, N) float32, of all documents by their bounds."""
    upper: Tensor
    """(B, N) float32."""


class Sieve:
    """Documents that may be among the k best, while bounds of more and more of them come in.

    A document whose upper bound lies below the k-th best lower bound of any others is out, whatever follows;
    what is kept of all the others that are out is one bound. So what it holds depends on how close documents
    are to each other, not on how many there are.
    """

    def __init__(self, requests: int, k: int, *, device: torch.device) -> None:
        """Begin without documents.

        Raises: InputError if k is below 1.
        """
        check_wanted(k)
        self._best_Bk = lowest(requests, k, device=device)
        self._bar_B = torch.full((requests,), -torch.inf, device=device)
        nothing = torch.empty(requests, 0, device=device)
        self._nothing = torch.empty(0, dtype=torch.int64, device=device), nothing, nothing
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sifted = 0
        self.beyond = torch.full((requests,), -torch.inf, device=device)
        """(B,) float32: no document that is out scores above it; -inf where none is that has a score."""

    def add(self, documents: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Take bounds (B, n) of other documents (n,) int64; -inf in both for no score."""
        self._bar_B = raise_best(self._best_Bk, lower)
        self._parts.append(self._fit(documents, lower, upper))
        if sum(len(part[0]) for part in self._parts) - self._sifted > max(_SIFTED, self._sifted):
            self._sift()

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is not out: documents (M,) ascending, and their bounds (B, M)."""
        if len(self._parts) > 1:  # the last one has met the last bar already
            self._sift()
        documents, lower, upper = (self._parts or [self._nothing])[0]
        if not ascend(documents):
            documents, order = documents.sort()
            lower, upper = lower[:, order], upper[:, order]
        return documents, lower, upper

    def _sift(self) -> None:
        """Make one part of all."""
        documents, lower, upper = zip(*self._parts, strict=True)
        self._parts = [self._fit(torch.cat(documents), torch.cat(lower, dim=1), torch.cat(upper, dim=1))]
        self._sifted = len(self._parts[0][0])

    def _fit(self, documents: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those that are not out."""
        columns = reaching(upper, self._bar_B, self.beyond)
        return (
            documents.index_select(0, columns),
            lower.index_select(1, columns),
            upper.index_select(1, columns),
        )


def score_promising(
    lower_BN: Tensor,
    upper_BN: Tensor,
    k: int,
    rescore: Rescore,
    *,
    limit: int | None = None,
    bound_again: BoundAgain | None = None,
    bounded: bool = True,
) -> Scored:
    """Score documents again, most promising first, until no other can be among the k best.

    First come those that would have to be scored if every score lay where it is guessed to: as a rule that
    is all. The k-th best of their scores is the bar for the others: those that may still reach it are bounded
    again if they are many, then scored in turn. What is scored of a request does not depend on the others,
    but for what is bounded again because of them.

    Args:
        limit: documents to score in each request, at most; at least k. None: as many as the proof takes.
        bounded: whether no score lies above its upper bound. Where some may, no fewer are scored first than
            where the guess is too many.

    Raises: InputError if k is below 1.
    """
    check_wanted(k)
    most = sys.maxsize if limit is None else limit
    unscored = upper_BN.clone(memory_format=torch.contiguous_format)
    best_Bk = lowest(len(unscored), k, device=unscored.device)
    wanted = _first(lower_BN, upper_BN, k, most, bounded=bounded)
    spent = [0] * len(wanted)
    turns: list[tuple[Tensor, Tensor]] = []
    while any(wanted):
        documents = take_best(unscored, wanted)
        turns.append((documents, rescore(documents)))
        spent = [before + own for before, own in zip(spent, wanted, strict=True)]
        bar_B = raise_best(best_Bk, turns[-1][1])
        left = count_reaching(unscored, bar_B)
        if bound_again is not None and _are_many(left, spent, most):
            nothing = torch.full_like(bar_B, -torch.inf)
            again = reaching(unscored, bar_B, nothing)
            lower, upper = bound_again(again)
            lower_BN = lower_BN.index_copy(1, again, lower_BN[:, again].maximum(lower))
            upper_BN = upper_BN.index_copy(1, again, upper_BN[:, again].minimum(upper))
            unscored[:, again] = unscored[:, again].minimum(upper)
            left = count_reaching(unscored, bar_B)
            bound_again = None
        wanted = [
            min(own, most - before, WIDENING * max(before, FIRST))
            for own, before in zip(left, spent, strict=True)
        ]
    if not turns:
        none = upper_BN.new_empty(len(upper_BN), 0)
        turns.append((none.long(), none))
    documents, scores = turns[0]
    if len(turns) > 1:
        documents, scores = (torch.cat(parts, dim=1) for parts in zip(*turns, strict=True))
    return Scored(documents=documents, scores=scores, lower=lower_BN, upper=upper_BN)


def _first(lower_BN: Tensor, upper_BN: Tensor, k: int, most: int, *, bounded: bool) -> list[int]:
    """How many documents of each request, up to `most`, to score before any score is known."""
    few = max(2 * k, FIRST)
    least, enough = 0 if bounded else few, min(most, max(few, FIRST + AGAIN - 1))
    counts = count_promising(lower_BN, upper_BN, k, GUESS)
    promising = [max(own, least) if own <= enough else few for own in counts]
    return [min(own, most, upper_BN.shape[1]) for own in promising]


def _are_many(left: list[int], spent: list[int], most: int) -> bool:
    """Whether some request has so many documents left that to bound them again costs less."""
    return any(own >= min(AGAIN, most - before + 1) for own, before in zip(left, spent, strict=True))


def certify(
    upper_BN: Tensor, documents_BM: Tensor, scores_BM: Tensor, k: int, *, beyond: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best of the documents scored again, and whether they are proven to be the k best of all.

    Proven: every document not scored lies below the k-th score by its upper bound, or, where fewer than k
    were scored, has no chunk.

    Args:
        documents_BM: indices below N without repetition, -1 for none.
        scores_BM: their scores, as `Scored` has them.
        beyond: (B,) float32, what no document besides these N scores above; -inf where there is none. None:
            there is none for any request.

    Returns: scores (B, k), best first, ties to the lower index, -inf where fewer; documents (B, k) int64, -1
        where fewer; certified (B,) bool.

    Raises: InputError if k is below 1 or a score is NaN.
    """
    check_wanted(k)
    requests, documents = upper_BN.shape
    beyond_B = upper_BN.new_full((requests,), -torch.inf) if beyond is None else beyond
    if native.can_select(k, upper_BN, scores_BM, beyond_B):
        return native.certify(upper_BN, documents_BM, scores_BM, k, beyond_B)
    scored = documents_BM.masked_fill(documents_BM < 0, documents)
    # Ascending by document, so that position breaks ties as the index does.
    scored, order = scored.sort(dim=1)
    there = scored < documents
    best, place = top_documents(scores_BM.gather(1, order).masked_fill(~there, -torch.inf), k)
    indices = torch.cat([documents_BM.gather(1, order), documents_BM.new_full((requests, 1), -1)], dim=1)
    rest = torch.cat([upper_BN, upper_BN.new_full((requests, 1), -torch.inf)], dim=1)
    highest = rest.scatter(1, scored, -torch.inf).amax(1).maximum(beyond_B)
    certified = (highest < best[:, -1]) | (highest == -torch.inf)
    return best, indices.gather(1, place.where(place >= 0, order.shape[1])), certified
