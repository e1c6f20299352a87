"""Where the documents of a view lie: four numbers a document, whatever the number of chunks and layers.

N documents, C chunks of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from memsparse.bank.keys import KeyBlock


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Documents as a scan of a block counts them."""

    count: int
    of_chunk: Tensor
    """(C,) int64, ascending: the document of each chunk."""
    chosen: Tensor | None
    """(n,) int64, which of them the view sees. None: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The documents of a view in one block, n of them, in the order their chunks lie."""

    block: KeyBlock
    documents: Tensor
    """(n,) int64 indices."""
    starts: Tensor
    """(n,) int64, their first chunks within the block."""
    counts: Tensor
    """(n,) int64 chunks."""
    visible: int
    """Chunks of all of them; the rest of the block is of documents the view does not see."""
    _columns: dict[torch.device, Columns] = field(default_factory=dict, repr=False)

    @property
    def sparse(self) -> bool:
        """Whether more than half of the block is of documents the view does not see."""
        return 2 * self.visible < self.block.chunks

    def where(self) -> slice | Tensor:
        """The indices of the documents, as a slice where they are consecutive."""
        first, last = int(self.documents[0]), int(self.documents[-1])
        ascending = last - first + 1 == len(self.documents) and bool((self.documents.diff() == 1).all())
        return slice(first, last + 1) if ascending else self.documents

    def columns(self, device: torch.device) -> Columns:
        """For a scan of the whole block, in which each gap before a document counts as one too; of `rows`
        alone where the view is `sparse`. Made once and shared by all layers."""
        if device not in self._columns:
            self._columns[device] = self._lay(device)
        return self._columns[device]

    def rows(self) -> Tensor:
        """(visible,) int64 chunks of the documents within the block, document by document."""
        return rows_of(self.starts, self.counts)

    def _lay(self, device: torch.device) -> Columns:
        every = torch.arange(len(self.documents))
        if self.sparse or self.visible == self.block.chunks:
            of_chunk = torch.repeat_interleave(every, self.counts)
            return Columns(count=len(every), of_chunk=of_chunk.to(device), chosen=None)
        ends = self.starts + self.counts
        gaps = self.starts - torch.cat([ends.new_zeros(1), ends[:-1]])
        counts = torch.stack([gaps, self.counts], dim=1).flatten()
        counts = torch.cat([counts, self.block.chunks - ends[-1:]])
        of_chunk = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return Columns(count=len(counts), of_chunk=of_chunk.to(device), chosen=(2 * every + 1).to(device))


class Places:
    """The documents of a view, ascending by number."""

    def __init__(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """Take rows of (number, segment, offset, chunks), ascending by number."""
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=4 * len(rows))
        table = torch.from_numpy(flat).view(-1, 4)
        numbers, segments, offsets, chunks = table.T.contiguous().unbind()
        self.numbers: Tensor = numbers
        """(N,) int64, ascending."""
        self.segments: Tensor = segments
        """(N,) int64 ids."""
        self.offsets: Tensor = offsets
        """(N,) int64, their first chunks within the segments."""
        self.chunks: Tensor = chunks
        """(N,) int64."""

    def __len__(self) -> int:
        """N, the documents."""
        return len(self.numbers)

    def spans(self, blocks: dict[int, KeyBlock]) -> list[Span]:
        """The view block by block, given the block of every segment in it."""
        order = {block: index for index, block in enumerate(dict.fromkeys(blocks.values()))}
        ids = torch.tensor(sorted(blocks), dtype=torch.long)
        block_of_id = torch.tensor([order[blocks[id_]] for id_ in ids.tolist()], dtype=torch.long)
        start_of_id = torch.tensor([blocks[id_].starts[id_] for id_ in ids.tolist()], dtype=torch.long)
        known = torch.searchsorted(ids, self.segments)
        block, start = block_of_id[known], start_of_id[known] + self.offsets
        by_place = torch.argsort(block * (int(start.max()) + 1) + start) if len(self) else block
        spans = []
        for these, key_block in zip(
            by_place.split(torch.bincount(block, minlength=len(order)).tolist()), order, strict=True
        ):
            spans.append(
                Span(
                    block=key_block,
                    documents=these,
                    starts=start[these],
                    counts=self.chunks[these],
                    visible=int(self.chunks[these].sum()),
                )
            )
        return spans


def rows_of(starts: Tensor, counts: Tensor) -> Tensor:
    """Positions start, start + 1, ... of runs (n,) of `counts` each, one after the other."""
    first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return first + torch.arange(len(first), device=first.device)
