"""Where the documents of a view lie: four numbers a document, whatever the number of chunks and layers.

N documents, C chunks of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from memsparse.bank.keys import KeyBlock
from memsparse.ops.lookup import find_ascending, rows_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Some chunks of a block that end where a document does."""

    chunks: range
    columns: range
    """Of the documents that a scan counts."""
    seen: range
    """The documents of the view among them, as the span has them in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Documents as a scan of a block counts them."""

    count: int
    of_chunk: Tensor
    """(C,) int64, ascending: the document of each chunk."""
    chosen: Tensor | None
    """(n,) int64, which of them the view sees: every other one. None: all."""
    _tiles: dict[int, list[Tile]] = field(default_factory=dict, repr=False)

    def tiles(self, size: int) -> list[Tile]:
        """The block in tiles of `size` chunks or a document more; made once for each size."""
        if size not in self._tiles:
            self._tiles[size] = list(self._cut(size))
        return self._tiles[size]

    def _cut(self, size: int) -> Iterator[Tile]:
        start, chunks = 0, len(self.of_chunk)
        while start < chunks:
            stop = min(start + size, chunks)
            last = self.of_chunk[stop - 1 : stop]
            stop = int(torch.searchsorted(self.of_chunk, last, right=True))
            columns = range(int(self.of_chunk[start]), int(last) + 1)
            seen = columns if self.chosen is None else range(columns.start // 2, columns.stop // 2)
            yield Tile(chunks=range(start, stop), columns=columns, seen=seen)
            start = stop


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
    reach: range
    """The chunks of the block from the first of the view to the last of it."""
    ascending: bool
    """Whether the indices ascend."""
    _columns: dict[torch.device, Columns] = field(default_factory=dict, repr=False)

    @property
    def sparse(self) -> bool:
        """Whether more than half of its reach is of documents the view does not see."""
        return 2 * self.visible < len(self.reach)

    def where(self, some: range) -> slice | Tensor:
        """The indices of some documents, as a slice where they are consecutive."""
        documents = self.documents[some.start : some.stop]
        if self.ascending and len(some):
            first, last = int(documents[0]), int(documents[-1])
            if last - first + 1 == len(some):
                return slice(first, last + 1)
        return documents

    def find(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Of ascending indices (m,): the places of those that are here, and which of the m they are."""
        if self.ascending:
            return find_ascending(self.documents, documents)
        places = torch.isin(self.documents, documents).nonzero()[:, 0]
        return places, torch.searchsorted(documents, self.documents[places])

    def columns(self, device: torch.device) -> Columns:
        """For a scan of its reach, in which each gap before a document counts as one too; of `rows` alone
        where the view is `sparse`. Made once and shared by all layers."""
        if device not in self._columns:
            self._columns[device] = self._lay(device)
        return self._columns[device]

    def rows(self) -> Tensor:
        """(visible,) int64 chunks of the documents within the block, document by document."""
        return rows_of(self.starts, self.counts)

    def _lay(self, device: torch.device) -> Columns:
        every = torch.arange(len(self.documents))
        if self.sparse or self.visible == len(self.reach):
            of_chunk = torch.repeat_interleave(every, self.counts)
            return Columns(count=len(every), of_chunk=of_chunk.to(device), chosen=None)
        ends = self.starts + self.counts
        gaps = self.starts - torch.cat([self.starts[:1], ends[:-1]])
        counts = torch.stack([gaps, self.counts], dim=1).flatten()
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

    @cached_property
    def segment_ids(self) -> Tensor:
        """Those of `segments`, each once, ascending."""
        ids: Tensor = self.segments.unique()
        return ids

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
            starts, counts = start[these], self.chunks[these]
            spans.append(
                Span(
                    block=key_block,
                    documents=these,
                    starts=starts,
                    counts=counts,
                    visible=int(counts.sum()),
                    reach=range(int(starts[0]), int(starts[-1] + counts[-1])),
                    ascending=bool((these.diff() > 0).all()),
                )
            )
        return spans
