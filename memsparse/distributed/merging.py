"""One `MemoryKV` from those of many shards, as pure functions: the same as one reader of all of them gives.

B requests, k_r candidates of shard r, k documents selected of all, N documents, G kv heads, D head_dim,
M chunk slots, S chunks that travel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from memsparse.types import MemoryKV


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """What a shard routed to, best first, without its chunks; documents by their index in the whole bank."""

    documents: Tensor
    """(B, k_r) int64; -1 where there are fewer."""
    scores: Tensor
    """(B, k_r) float32; -inf where there are fewer."""
    chunks: Tensor
    """(B, k_r) int64, which chunk of each document matched best; -1 for none."""
    slots: Tensor
    """(B, k_r) int64, how many chunks each document has."""
    all_scores: Tensor | None = None
    """(B, N_r) float32, every document of the shard. None: not asked for."""
    errors: Tensor | None = None
    """(B, N_r) float32, how far those may be off. None: they are exact."""
    certified: Tensor | None = None
    """(B,) bool. None: nothing to prove."""

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        there = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in there.items() if tensor is not None}


def cut_evenly(weights: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Cut a sequence into contiguous runs of about equal weight, some of them empty where it must be.

    Returns: (first, end) of each run; no run outweighs an even share by more than the heaviest item.
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(weights, dtype=np.int64))])
    shares = ends[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(ends, shares)
    before = np.maximum(after - 1, 0)
    cuts = np.where(shares - ends[before] < ends[after] - shares, before, after)
    bounds = [0, *cuts.tolist(), len(weights)]
    return list(pairwise(bounds))


def candidates(kv: MemoryKV, first: int, *, all_scores: bool = True) -> Candidates:
    """What one shard read, on its way to the others.

    Args:
        first: index in the whole bank of the shard's first document.
        all_scores: whether the scores of all documents are wanted.
    """
    slots = torch.zeros_like(kv.documents)
    if slots.shape[1]:
        slots = slots.scatter_add(1, kv.document_of_slot, kv.mask[:, 0].to(slots.dtype))
    return Candidates(
        documents=torch.where(kv.documents >= 0, kv.documents + first, -1),
        scores=kv.scores,
        chunks=torch.full_like(kv.documents, -1) if kv.chunks is None else kv.chunks,
        slots=slots,
        all_scores=kv.all_scores if all_scores else None,
        errors=kv.errors if all_scores else None,
        certified=kv.certified,
    )


def merge(parts: Sequence[Candidates], k: int) -> tuple[Candidates, list[Tensor]]:
    """The k best candidates of all shards; ties go to the lower document.

    Args:
        parts: of the shards in order of their documents, each best first.

    Returns: the best, and for every shard (B, k_r) bool: which of its candidates are among them.
    """
    documents = torch.cat([part.documents for part in parts], dim=1)
    scores = torch.cat([part.scores for part in parts], dim=1)
    # Equal scores stand by ascending document, in a shard and across them: a stable sort keeps that.
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    order = order[:, :k]
    kept = torch.zeros_like(documents, dtype=torch.bool).scatter(1, order, True) & (documents >= 0)
    best = Candidates(
        documents=documents.gather(1, order),
        scores=scores[:, :k],
        chunks=torch.cat([part.chunks for part in parts], dim=1).gather(1, order),
        slots=torch.cat([part.slots for part in parts], dim=1).gather(1, order),
        all_scores=_side_by_side([part.all_scores for part in parts]),
        errors=_errors(parts),
        certified=_all_certified([part.certified for part in parts]),
    )
    return best, list(kept.split([part.documents.shape[1] for part in parts], dim=1))


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=1) if len(there) == len(parts) else None


def _errors(parts: Sequence[Candidates]) -> Tensor | None:
    """Of all documents; a shard without any is exact."""
    if all(part.errors is None for part in parts):
        return None
    return _side_by_side(
        [
            torch.zeros_like(part.all_scores)
            if part.errors is None and part.all_scores is not None
            else part.errors
            for part in parts
        ]
    )


def _all_certified(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.stack(there).all(0) if there else None


def contents(kv: MemoryKV, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The chunks of some of the documents a shard read: K and V (S, G, D), request by request.

    Args:
        kept: (B, k_r) bool, True on the documents wanted.
    """
    if not kept.shape[1]:
        return kv.k.new_empty(0, kv.k.shape[1], kv.k.shape[3]), kv.v.new_empty(
            0, kv.v.shape[1], kv.v.shape[3]
        )
    wanted = kv.mask[:, 0] & kept.gather(1, kv.document_of_slot)
    return kv.k.transpose(1, 2)[wanted], kv.v.transpose(1, 2)[wanted]


def narrow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in another dtype if that loses nothing, else as they are."""
    narrowed = values.to(dtype)
    return narrowed if torch.equal(narrowed.to(values.dtype), values) else values


def join(
    best: Candidates,
    lengths: Sequence[Sequence[int]],
    pieces: Sequence[tuple[Tensor, Tensor]],
) -> MemoryKV:
    """Lay the chunks of all shards side by side, each request's ascending by document.

    Args:
        lengths: of every shard, how many chunks it sends for each request.
        pieces: of every shard, K and V (S, G, D) as `contents` gives them.
    """
    batch = len(best.documents)
    totals = [sum(shard[b] for shard in lengths) for b in range(batch)]
    like = pieces[0][0]
    k = like.new_zeros(batch, like.shape[1], max(totals, default=0), like.shape[2])
    v = torch.zeros_like(k)
    mask = torch.zeros(batch, 1, k.shape[2], dtype=torch.bool, device=like.device)
    document_of_slot = torch.zeros(batch, k.shape[2], dtype=torch.long, device=like.device)
    starts = [0] * batch
    for shard, (k_SGD, v_SGD) in zip(lengths, pieces, strict=True):
        rows = zip(k_SGD.split(list(shard)), v_SGD.split(list(shard)), strict=True)
        for b, (k_part, v_part) in enumerate(rows):
            here = slice(starts[b], starts[b] + len(k_part))
            k[b, :, here], v[b, :, here] = k_part.transpose(0, 1), v_part.transpose(0, 1)
            starts[b] += len(k_part)
    for b, total in enumerate(totals):
        columns = (best.documents[b] >= 0).nonzero()[:, 0]
        columns = columns[best.documents[b][columns].argsort()]
        document_of_slot[b, :total] = columns.repeat_interleave(best.slots[b][columns])
        mask[b, :, :total] = True
    return MemoryKV(
        k=k,
        v=v,
        mask=mask,
        documents=best.documents,
        scores=best.scores,
        document_of_slot=document_of_slot,
        all_scores=best.all_scores,
        chunks=best.chunks,
        errors=best.errors,
        certified=best.certified,
    )
