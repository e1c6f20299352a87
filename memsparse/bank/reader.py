"""Stage 2 in one process: score every document of a bank, take the best, map in their chunks.

B requests, T tokens, H query heads, G kv heads, D head_dim, W = G*D, C chunks, N documents, M chunk slots.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.records import Layout
from memsparse.bank.segments import SegmentFiles
from memsparse.errors import BankMismatchError, ConfigError, ShapeError
from memsparse.ops.routing import TILE, RoutingRule, chunk_scores, document_scores, top_documents
from memsparse.types import MemoryKV, empty_memory

CACHE_BYTES = 2 * 2**30
"""Routing keys a reader keeps in memory; a larger bank is scored from its mapped files."""
BLOCK_CHUNKS = TILE


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A run of documents scored together, ascending; where its C chunks lie."""

    first: int
    """Index of its first document."""
    documents: int
    document_of_chunk: Tensor
    """(C,) counted from `first`."""
    segments: Tensor
    """(C,)"""
    rows: Tensor
    """(C,) within the segment."""


class BankReader:
    """A `MemoryReader` over one consistent view of a bank: documents removed, expired or outside the
    namespace are not in it at all, so they never take a place in the top k.

    Document INDEX 0..N-1 runs over the visible passages by ascending number; `numbers` maps it back.
    """

    def __init__(
        self,
        layout: Layout,
        files: SegmentFiles,
        fingerprint: Fingerprint,
        *,
        top_k: int,
        rule: RoutingRule,
        cache_bytes: int = CACHE_BYTES,
        allowed: Tensor | None = None,
    ) -> None:
        """Lay out the view; nothing is read from the segments yet.

        Raises: ConfigError if top_k is below 1; BankMismatchError if `rule` scores otherwise than the bank.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; it must be at least 1")
        if rule.score != fingerprint.routing_score:
            raise BankMismatchError(
                f"the bank's routing keys are for the {fingerprint.routing_score} score, the rule asks for "
                f"{rule.score}; use the bank's score, or encode its documents again"
            )
        table = torch.tensor(layout.rows, dtype=torch.long).view(-1, 4)
        self.numbers, self._segments, self._offsets, self._chunks = table.T.contiguous()
        self.top_k = top_k
        self.rule = rule
        self.allowed = allowed
        """(B, N) bool, True where a request may read a document. None: everywhere."""
        self._rows = layout.rows
        self._records = layout.segments
        self._files = files
        self._fingerprint = fingerprint
        self._blocks = list(self._cut_blocks())
        chunk_bytes = fingerprint.width * fingerprint.torch_dtype.itemsize * len(fingerprint.memory_layers)
        needed = int(self._chunks.sum()) * chunk_bytes
        self._caches = needed <= cache_bytes
        self._keys: dict[tuple[int, int, torch.device], Tensor] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        """N, the documents it can route to."""
        return len(self.numbers)

    @torch.no_grad()
    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Route each request to its top_k documents and return their chunks, ascending by number.

        Device and dtype of K and V are those of `routing_q`; ties go to the lower number.

        Raises: ConfigError for a layer the bank lacks; ShapeError; BankCorruptError for a damaged file.
        """
        if layer_idx not in self._fingerprint.memory_layers:
            raise ConfigError(
                f"layer {layer_idx} has no memory in this bank; {self._fingerprint.memory_layers} have"
            )
        if not len(self):
            return empty_memory(
                len(routing_q), self._fingerprint.kv_heads, self._fingerprint.head_dim, like=routing_q
            )
        scores_BN = self.scores(layer_idx, routing_q, query_mask)
        best, documents = top_documents(scores_BN, min(self.top_k, len(self)))
        gathered = self._gather(layer_idx, routing_q, documents, best, scores_BN)
        return replace(gathered, chunks=self._best_chunks(layer_idx, routing_q, query_mask, documents))

    @torch.no_grad()
    def scores(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> Tensor:
        """(B, N) float32, -inf where `allowed` says no."""
        parts = [
            document_scores(
                routing_q,
                self._block_keys(layer_idx, index, routing_q.device),
                block.document_of_chunk.to(routing_q.device),
                query_mask,
                rule=self.rule,
                num_documents=block.documents,
                tile=len(block.rows),
            )
            for index, block in enumerate(self._blocks)
        ]
        scores_BN = (
            torch.cat(parts, dim=1) if parts else routing_q.new_zeros(len(routing_q), 0, dtype=torch.float32)
        )
        if self.allowed is None:
            return scores_BN
        if self.allowed.shape != scores_BN.shape:
            raise ShapeError(
                f"allowed is {tuple(self.allowed.shape)}, scores are {tuple(scores_BN.shape)}; "
                "pass one row per request"
            )
        return scores_BN.masked_fill(~self.allowed.to(scores_BN.device), float("-inf"))

    def _best_chunks(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, k) which chunk of each document scores highest; the first of equal ones."""
        best = torch.full_like(documents, -1, device="cpu")
        for b, row in enumerate(documents.tolist()):
            chosen = [
                (column, *self._rows[document][1:]) for column, document in enumerate(row) if document >= 0
            ]
            if not chosen:
                continue
            keys = [
                self._files.get(self._records[segment]).tensor(layer_idx, "routing_k")[
                    offset : offset + count
                ]
                for _, segment, offset, count in chosen
            ]
            here = slice(b, b + 1)
            scores = chunk_scores(
                routing_q[here], torch.cat(keys).to(routing_q.device), query_mask[here], rule=self.rule
            )
            parts = scores[0].cpu().split([len(part) for part in keys])
            for (column, *_), part in zip(chosen, parts, strict=True):
                best[b, column] = int(part.argmax())
        return best.to(documents.device)

    def _cut_blocks(self) -> Iterator[_Block]:
        """Cut the documents into runs of about BLOCK_CHUNKS chunks."""
        if not len(self):
            return
        ends = self._chunks.cumsum(0)
        first_chunk = ends - self._chunks
        _, runs = torch.unique_consecutive(first_chunk // BLOCK_CHUNKS, return_counts=True)
        first = 0
        for count in runs.tolist():
            these = slice(first, first + count)
            document_of_chunk = torch.repeat_interleave(torch.arange(count), self._chunks[these])
            within = (
                torch.arange(len(document_of_chunk))
                - (first_chunk[these] - first_chunk[first])[document_of_chunk]
            )
            yield _Block(
                first=first,
                documents=count,
                document_of_chunk=document_of_chunk,
                segments=self._segments[these][document_of_chunk],
                rows=self._offsets[these][document_of_chunk] + within,
            )
            first += count

    def _block_keys(self, layer_idx: int, index: int, device: torch.device) -> Tensor:
        """(C, W) routing keys of a block, kept when the cache is large enough for all of them.

        In the dtype they are stored in: half of float32 to read, and turned into it block by block.
        """
        if not self._caches:
            return self._load_keys(layer_idx, self._blocks[index], device)
        key = (layer_idx, index, device)
        with self._mutex:
            if key not in self._keys:
                self._keys[key] = self._load_keys(layer_idx, self._blocks[index], device)
            return self._keys[key]

    def _load_keys(self, layer_idx: int, block: _Block, device: torch.device) -> Tensor:
        segments, counts = torch.unique_consecutive(block.segments, return_counts=True)
        runs = []
        for segment, rows in zip(segments.tolist(), block.rows.split(counts.tolist()), strict=True):
            stored = self._files.get(self._records[segment]).tensor(layer_idx, "routing_k")
            first, last = int(rows[0]), int(rows[-1])
            consecutive = last - first + 1 == len(rows) and bool((rows.diff() == 1).all())
            runs.append(stored[first : last + 1] if consecutive else stored[rows])
        return torch.cat(runs).to(device)

    def _gather(
        self, layer_idx: int, routing_q: Tensor, documents: Tensor, best: Tensor, scores_BN: Tensor
    ) -> MemoryKV:
        """Lay the chunks of the documents (B, k) side by side, each row ascending by document."""
        fingerprint = self._fingerprint
        rows = [
            sorted((document, column) for column, document in enumerate(row) if document >= 0)
            for row in documents.tolist()
        ]
        lengths = [[self._rows[document][3] for document, _ in row] for row in rows]
        batch, slots = len(rows), max(sum(row) for row in lengths)
        k = torch.zeros(batch, fingerprint.kv_heads, slots, fingerprint.head_dim, dtype=routing_q.dtype)
        v = torch.zeros_like(k)
        mask = torch.zeros(batch, 1, slots, dtype=torch.bool)
        document_of_slot = torch.zeros(batch, slots, dtype=torch.long)
        for b, row in enumerate(rows):
            start = 0
            for (document, column), count in zip(row, lengths[b], strict=True):
                _, segment_id, offset, _ = self._rows[document]
                segment = self._files.get(self._records[segment_id])
                here = slice(start, start + count)
                k[b, :, here] = segment.tensor(layer_idx, "k")[offset : offset + count].transpose(0, 1)
                v[b, :, here] = segment.tensor(layer_idx, "v")[offset : offset + count].transpose(0, 1)
                document_of_slot[b, here] = column
                start += count
            mask[b, :, :start] = True
        device = routing_q.device
        return MemoryKV(
            k=k.to(device),
            v=v.to(device),
            mask=mask.to(device),
            documents=documents,
            scores=best,
            document_of_slot=document_of_slot.to(device),
            all_scores=scores_BN,
        )
