"""The documents a step's questions are told apart from: all of them, or the hardest of a sample.

C chunks, P passages, N documents of a pool, B questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from memsparse.ops.lookup import find_ascending
from memsparse.training.router_pairs import Pair, PairSet
from memsparse.training.router_states import Rows

_CANDIDATES = 2
"""Pools' worth of chunks that are looked through for hard negatives."""
_HARDEST = 0.5
"""Share of a sampled pool that is chosen for its scores; the rest is chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Some documents, their passages and chunks, numbered from 0."""

    documents: Tensor
    """(N,) ascending indices into the corpus."""
    document_of_passage: Tensor
    """(P,)"""
    passage_of_chunk: Tensor
    """(C,)"""
    chunks: Tensor | None
    """(C,) indices into the corpus's chunks; None: all of them."""

    @property
    def size(self) -> int:
        """N"""
        return len(self.documents)

    def positives(self, pairs: Sequence[Pair]) -> Tensor:
        """(B, N) bool; every document that is asked for must be in the pool."""
        wanted = torch.zeros(len(pairs), self.size, dtype=torch.bool)
        for row, pair in zip(wanted, pairs, strict=True):
            row[torch.searchsorted(self.documents, torch.tensor(pair.positives))] = True
        return wanted


class PoolMaker:
    """Draws the pool of every step from the seed and its number; held-out documents are in none of them."""

    def __init__(self, pairs: PairSet, rows: Rows, *, limit: int, seed: int) -> None:
        """Args: limit: chunks of a pool, about; documents that are asked for are never left out."""
        self.limit, self.seed, self.rows = limit, seed, rows
        self._document_of_chunk = rows.document_of_passage[rows.passage_of_chunk]
        count = len(pairs.documents)
        self._sizes = torch.bincount(self._document_of_chunk, minlength=count)
        every = torch.arange(count)
        self.whole = Pool(
            documents=every,
            document_of_passage=rows.document_of_passage,
            passage_of_chunk=rows.passage_of_chunk,
            chunks=None,
        )
        self._open = [index for index in range(count) if index not in pairs.heldout]
        fits = int(self._sizes[self._open].sum()) <= limit
        self._fixed = (self.whole if not pairs.heldout else self.of(self._open)) if fits else None

    def pool(self, step: int, pairs: Sequence[Pair], hardness: Callable[[Pool], Tensor]) -> Pool:
        """The pool of a step.

        Args:
            hardness: (N,) of a pool of candidates; what is high is worth telling apart.
        """
        if self._fixed is not None:
            return self._fixed
        asked = dict.fromkeys(index for pair in pairs for index in pair.positives)
        others = [index for index in self._open if index not in asked]
        Random(f"{self.seed}/pool/{step}").shuffle(others)
        candidates = self.of([*asked, *self._cut(others, _CANDIDATES * self.limit)])
        order = hardness(candidates).sort(descending=True, stable=True).indices
        hardest = [each for each in candidates.documents[order].tolist() if each not in asked]
        room = self.limit - int(self._sizes[list(asked)].sum())
        chosen = dict.fromkeys([*asked, *self._cut(hardest, int(_HARDEST * room))])
        room = self.limit - int(self._sizes[list(chosen)].sum())
        return self.of([*chosen, *self._cut([each for each in others if each not in chosen], room)])

    def of(self, documents: Sequence[int]) -> Pool:
        """The pool of these documents."""
        chosen = torch.tensor(sorted(documents), dtype=torch.long)
        document_of_passage, passages = find_ascending(chosen, self.rows.document_of_passage)
        passage_of_chunk, chunks = find_ascending(passages, self.rows.passage_of_chunk)
        return Pool(
            documents=chosen,
            document_of_passage=document_of_passage,
            passage_of_chunk=passage_of_chunk,
            chunks=chunks,
        )

    def _cut(self, documents: Sequence[int], chunks: int) -> list[int]:
        """The first documents, as many as have at most so many chunks together."""
        total = self._sizes[list(documents)].cumsum(0)
        return list(documents[: int((total <= chunks).sum())])
