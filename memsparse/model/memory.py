"""Memory that lives in tensors: what encoding leaves, and the differentiable memory of one training step.

B rows, T tokens, C chunks, N documents, k selected documents, G kv heads, D head_dim, W = G*D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.routing import RoutingRule, document_scores, top_documents
from memsparse.types import MemoryKV, empty_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChunks:
    """The chunks one memory layer holds."""

    k: Tensor
    """(C, G, D)"""
    v: Tensor
    """(C, G, D)"""
    routing_k: Tensor
    """(C, W)"""


class ChunkCollector:
    """A `MemoryWriter` that keeps what is written, layer by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerChunks] = {}

    def write(self, layer_idx: int, pooled_k: Tensor, pooled_v: Tensor, routing_k: Tensor) -> None:
        """Keep the chunks of one layer."""
        self.layers[layer_idx] = LayerChunks(k=pooled_k, v=pooled_v, routing_k=routing_k)


class InBatchMemory(ChunkCollector):
    """The memory of one training step: its documents are written once and shared by all its questions.

    Gradients of whatever is attended to reach the documents through the pooled K and V; selection itself
    carries none.
    """

    def __init__(
        self,
        document_of_chunk: Tensor,
        num_documents: int,
        *,
        rule: RoutingRule,
        top_k: int,
        allowed: Tensor | None = None,
        selectable: Tensor | None = None,
        chunk_index: Tensor | None = None,
        token_index: Tensor | None = None,
    ) -> None:
        """Describe the memory before it is written.

        Args:
            document_of_chunk: (C,) int64, ascending.
            allowed: (B, N) bool, documents that exist for a row; others score -inf. None: all.
            selectable: (B, N) bool, documents that may be selected, though all allowed ones are scored.
            chunk_index, token_index: (C,) and (B, T) places in a packed row; a token sees only chunks that
                begin before it. None: every token sees all selected chunks.
        """
        super().__init__()
        if (chunk_index is None) != (token_index is None):
            raise ShapeError("chunk_index and token_index go together; pass both or neither")
        self.document_of_chunk = document_of_chunk
        self.num_documents = num_documents
        self.rule = rule
        self.top_k = top_k
        self.allowed = allowed
        self.selectable = selectable
        self.chunk_index = chunk_index
        self.token_index = token_index
        self.chunks_per_document = torch.bincount(document_of_chunk, minlength=num_documents)
        self.first_chunk = self.chunks_per_document.cumsum(0) - self.chunks_per_document
        self.most_chunks = int(self.chunks_per_document.max()) if num_documents else 0

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Score all documents, select the best, gather their chunks; see `MemoryReader`."""
        chunks = self.layers[layer_idx]
        if self.num_documents == 0:
            return empty_memory(len(routing_q), *chunks.k.shape[1:], like=chunks.k)
        scores_BN = document_scores(
            routing_q,
            chunks.routing_k,
            self.document_of_chunk,
            query_mask,
            rule=self.rule,
            num_documents=self.num_documents,
        )
        if self.allowed is not None:
            _check_rows("allowed", self.allowed, scores_BN)
            scores_BN = scores_BN.masked_fill(~self.allowed, float("-inf"))
        candidates = scores_BN.detach()
        if self.selectable is not None:
            _check_rows("selectable", self.selectable, scores_BN)
            candidates = candidates.masked_fill(~self.selectable, float("-inf"))
        _, selected_Bk = top_documents(candidates, min(self.top_k, self.num_documents))
        return self._gather(chunks, scores_BN, selected_Bk)

    def _gather(self, chunks: LayerChunks, scores_BN: Tensor, selected_Bk: Tensor) -> MemoryKV:
        documents = selected_Bk.clamp_min(0)
        slot = torch.arange(self.most_chunks, device=documents.device)
        # (B, k, chunks of the longest document)
        real = (slot < self.chunks_per_document[documents][..., None]) & (selected_Bk >= 0)[..., None]
        index_BM = (self.first_chunk[documents][..., None] + slot).masked_fill(~real, 0).flatten(1)
        mask = real.flatten(1)[:, None]
        if self.chunk_index is not None and self.token_index is not None:
            mask = mask & (self.chunk_index[index_BM][:, None] < self.token_index[:, :, None])
        chosen = scores_BN.gather(1, documents).masked_fill(selected_Bk < 0, float("-inf"))
        return MemoryKV(
            k=chunks.k[index_BM].transpose(1, 2),
            v=chunks.v[index_BM].transpose(1, 2),
            mask=mask,
            documents=selected_Bk,
            scores=chosen,
            document_of_slot=torch.arange(documents.shape[1], device=documents.device)
            .repeat_interleave(self.most_chunks)
            .expand(len(documents), -1),
            all_scores=scores_BN,
        )


def _check_rows(name: str, mask: Tensor, scores: Tensor) -> None:
    if mask.shape != scores.shape:
        raise ShapeError(
            f"{name} is {tuple(mask.shape)}, scores are {tuple(scores.shape)}; pass one row per request"
        )
