"""The last word on a document's score: float64 products with its keys as they are stored, where they lie.

    score(q, document) = max over its chunks c of max over tokens t of <q_t, k_c>

Few documents of a bank are scored so, those that a scan could not tell apart. Sums are in float64 and results
float32, so that a score does not depend on what it is computed beside.

B requests, T tokens, W routing width, M documents scored, C chunks of a block, R routing tokens of a request.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.lookup import rows_of
from memsparse.ops.native import scans
from memsparse.ops.native.library import OUTSIDE_ITS_BLOCK
from memsparse.ops.routing import routing_tokens
from memsparse.ops.selection import check_wanted

_ROWS = 8192
"""Chunks torch multiplies at a time."""


class StoredKeys:
    """Blocks of keys as they are stored, (C, W) each, all finite; fastest in host memory or mapped files.

    Looked at once: whoever scores with the same blocks again may keep it.
    """

    def __init__(self, blocks: Sequence[Tensor]) -> None:
        """Raises: ShapeError for blocks of different widths."""
        self.blocks = tuple(blocks)
        self.width = self.blocks[0].shape[-1] if self.blocks else None
        """None without blocks."""
        shapes = [tuple(block.shape) for block in self.blocks]
        if any(len(shape) != 2 or shape[1] != self.width for shape in shapes):
            raise ShapeError(f"blocks are {shapes}; pass (chunks, width), of one width")
        self.on_cpu = all(block.device.type == "cpu" for block in self.blocks)
        self.in_c = scans.StoredBlocks(self.blocks) if self.blocks and scans.can_score(self.blocks) else None
        """What C reads them by; None where torch scores."""


@torch.no_grad()
def score_stored(
    routing_q: Tensor,
    query_mask: Tensor,
    keys: StoredKeys,
    block_BM: Tensor,
    start_BM: Tensor,
    count_BM: Tensor,
    *,
    k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Score documents, each of which is a run of one block's chunks.

    Args:
        routing_q: (B, T, W).
        query_mask: (B, T) bool, True on the tokens that route.
        block_BM: (B, M) int64 on the CPU, in which block a document is.
        start_BM, count_BM: likewise, its chunks there; 0 for no document.
        k: documents that are wanted of each request; that saves most of the work where there are many. Others
            may have what their score does not lie above, less than the k-th best score, and -1 for the chunk.
            None: all are.

    Returns: scores (B, M) float32, and which chunk of the document has it (B, M) int64, the first of equal
        ones; -inf and -1 where there is no document, or the request has no routing token; NaN where one of
        its tokens is not finite. On the CPU.

    Raises: ShapeError for runs that do not lie in their blocks, or sizes that do not fit; InputError if k is
        below 1.
    """
    if k is not None:
        check_wanted(k)
    _check(routing_q, query_mask, keys, block_BM, start_BM, count_BM)
    blocks = keys.blocks
    if not block_BM.numel() or not blocks:
        _check_runs(blocks, block_BM, start_BM, count_BM)
        return torch.full(block_BM.shape, float("-inf")), torch.full(block_BM.shape, -1)
    if keys.on_cpu:
        routing_q, query_mask = routing_q.cpu(), query_mask.cpu()
    if keys.in_c is not None and routing_q.dtype != torch.float64 and routing_q.device.type == "cpu":
        counts = query_mask.sum(1).tolist()
        tokens_RW = routing_tokens(routing_q, query_mask, counts).float()
        return scans.score_stored(tokens_RW, counts, keys.in_c, block_BM, start_BM, count_BM, k)
    _check_runs(blocks, block_BM, start_BM, count_BM)
    rows = zip(routing_q, query_mask, block_BM, start_BM, count_BM, strict=True)
    scored_rows = [_score_one(q[mask].double(), blocks, *runs) for q, mask, *runs in rows]
    scores, chunks = (torch.stack(part) for part in zip(*scored_rows, strict=True))
    return scores, chunks


def _score_one(
    tokens_RW: Tensor, blocks: Sequence[Tensor], block_M: Tensor, start_M: Tensor, count_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores and chunks (M,) of one request, by torch."""
    scores, chunks = torch.full(block_M.shape, float("-inf")), torch.full(block_M.shape, -1)
    columns = (count_M > 0).nonzero()[:, 0]
    if not len(columns) or not len(tokens_RW):
        return scores, chunks
    columns = columns[block_M[columns].argsort()]
    counts = count_M[columns]
    numbers, runs = block_M[columns].unique_consecutive(return_counts=True)
    split = zip(start_M[columns].split(runs.tolist()), counts.split(runs.tolist()), strict=True)
    keys = [blocks[i][rows_of(*those)] for i, those in zip(numbers.tolist(), split, strict=True)]
    parts = torch.cat(keys).split(_ROWS)
    of_chunk = torch.cat([(part.to(tokens_RW.device).double() @ tokens_RW.T).amax(1) for part in parts])
    of_chunk = of_chunk.float().cpu()
    if not bool(tokens_RW.isfinite().all()):
        of_chunk.fill_(torch.nan)
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    best = scores[columns].scatter_reduce(0, owner, of_chunk, "amax")
    place = torch.arange(len(owner)).masked_fill(of_chunk < best[owner], len(owner))
    first = torch.full_like(counts, len(owner)).scatter_reduce(0, owner, place, "amin")
    scores[columns], chunks[columns] = best, first - (counts.cumsum(0) - counts)
    return scores, chunks


def _check(
    routing_q: Tensor,
    query_mask: Tensor,
    keys: StoredKeys,
    block_BM: Tensor,
    start_BM: Tensor,
    count_BM: Tensor,
) -> None:
    width = routing_q.shape[-1]
    if routing_q.ndim != 3 or query_mask.shape != routing_q.shape[:2] or query_mask.dtype != torch.bool:
        raise ShapeError(
            f"queries are {tuple(routing_q.shape)}, query_mask is {tuple(query_mask.shape)} "
            f"{query_mask.dtype}; pass (requests, tokens, width), and bool for every token"
        )
    for name, runs in (("block", block_BM), ("start", start_BM), ("count", count_BM)):
        fits = runs.dtype == torch.int64 and runs.device.type == "cpu" and runs.ndim == 2
        if not fits or runs.shape != block_BM.shape or len(runs) != len(routing_q):
            raise ShapeError(
                f"{name} is {tuple(runs.shape)} {runs.dtype}; pass int64 on the CPU, a row for each request"
            )
    if keys.width not in (None, width):
        raise ShapeError(f"keys are {keys.width} wide, queries {width}")


def _check_runs(blocks: Sequence[Tensor], block_BM: Tensor, start_BM: Tensor, count_BM: Tensor) -> None:
    lengths = torch.tensor([0, *map(len, blocks)])
    there = (count_BM > 0) & (block_BM >= 0) & (block_BM < len(blocks))
    ends = lengths[block_BM.add(1).where(there, 0)]
    if bool(((count_BM != 0) & ((count_BM < 0) | (start_BM < 0) | (start_BM > ends - count_BM))).any()):
        raise ShapeError(OUTSIDE_ITS_BLOCK)
