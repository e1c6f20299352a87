"""Documents of a view scored from their stored routing keys, the last word on every score.

B requests, T tokens, W routing width, C chunks, M documents scored, k documents selected.
"""

import torch
from torch import Tensor

from memsparse.bank.places import Places
from memsparse.bank.segments import SegmentFiles, SegmentRecord
from memsparse.errors import BankCorruptError
from memsparse.ops.exact_scores import StoredKeys, score_stored
from memsparse.ops.lookup import rows_of
from memsparse.ops.routing import RoutingRule, chunk_scores

HELD = 64
"""Segments of a view, at most, all of whose keys stay at hand."""


class ExactKeys:
    """The stored routing keys of the documents of one view, by document index."""

    def __init__(self, places: Places, records: dict[int, SegmentRecord], files: SegmentFiles) -> None:
        self._places = places
        self._records = records
        self._files = files
        self._held: dict[int, StoredKeys] = {}
        """By layer, of all segments of the view; empty where they are too many."""

    def score(
        self,
        layer_idx: int,
        routing_q: Tensor,
        query_mask: Tensor,
        documents: Tensor,
        *,
        k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Exact scores (B, M) of documents (B, M), and which chunk of each has it, the first of equal ones.

        -inf and -1 where a document is -1, or a request routes no token; with k as in `score_stored`.
        """
        places, mask = self._places, query_mask.to(routing_q.device)
        wanted = ((documents >= 0) & mask.any(1, keepdim=True).to(documents.device)).cpu()
        rows = documents.cpu()[wanted]
        keys, block = self._stored(layer_idx, places.segments[rows])
        runs = torch.stack([block, places.offsets[rows], places.chunks[rows]])
        block, start, count = runs.new_zeros(3, *wanted.shape).masked_scatter_(wanted, runs)
        scores, chunks = score_stored(routing_q, mask, keys, block, start, count, k=k)
        return scores.to(documents.device), chunks.to(documents.device)

    def _stored(self, layer_idx: int, segments: Tensor) -> tuple[StoredKeys, Tensor]:
        """Keys that hold those of some segments (n,) by id, and in which block each of the n is."""
        every = self._places.segment_ids
        if len(every) > HELD or not len(segments):
            return self._some(layer_idx, segments)
        try:
            if layer_idx not in self._held:
                self._held[layer_idx] = self._opened(layer_idx, every)
        except BankCorruptError:  # of a segment that may not be asked for
            return self._some(layer_idx, segments)
        return self._held[layer_idx], torch.searchsorted(every, segments)

    def _some(self, layer_idx: int, segments: Tensor) -> tuple[StoredKeys, Tensor]:
        ids, block = segments.unique(return_inverse=True)
        return self._opened(layer_idx, ids), block

    def _opened(self, layer_idx: int, ids: Tensor) -> StoredKeys:
        records = [self._records[id_] for id_ in ids.tolist()]
        return StoredKeys([self._files.get(record).tensor(layer_idx, "routing_k") for record in records])

    def keys(self, layer_idx: int, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Stored routing keys (C, W) of documents (M,), ascending by index, and how many are whose (M,)."""
        places = self._places
        segments, offsets, counts = (
            column[documents] for column in (places.segments, places.offsets, places.chunks)
        )
        ids, runs = segments.unique_consecutive(return_counts=True)
        parts = []
        sizes = runs.tolist()
        for id_, start, count in zip(ids.tolist(), offsets.split(sizes), counts.split(sizes), strict=True):
            stored = self._files.get(self._records[id_]).tensor(layer_idx, "routing_k")
            if len(start) == 1:
                parts.append(stored[int(start) : int(start) + int(count)])
            else:
                parts.append(stored[rows_of(start, count)])
        return torch.cat(parts), counts

    def best_chunks(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor, rule: RoutingRule
    ) -> Tensor:
        """(B, k) which chunk of each document scores highest by the rule; the first of equal ones."""
        best = torch.full_like(documents, -1, device="cpu")
        for b, row in enumerate(documents.cpu()):
            columns = (row >= 0).nonzero()[:, 0]
            columns = columns[row[columns].argsort()]
            if not len(columns):
                continue
            keys, counts = self.keys(layer_idx, row[columns])
            here = slice(b, b + 1)
            scores = chunk_scores(routing_q[here], keys.to(routing_q.device), query_mask[here], rule=rule)
            for column, part in zip(columns.tolist(), scores[0].cpu().split(counts.tolist()), strict=True):
                best[b, column] = int(part.argmax())
        return best.to(documents.device)
