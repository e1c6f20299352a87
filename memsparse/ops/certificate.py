"""From a coarse scan to the exact top k, with a proof: which documents to score exactly, and when to stop.

A coarse scan gives lower <= exact <= upper for every document. Only a document whose upper bound reaches the
k-th best lower bound can be among the k best; once those are scored exactly, the top k is the exact one.

B requests, N documents, M documents scored exactly, k wanted. Document indices are -1 where a row has fewer.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from memsparse.errors import InputError, ShapeError
from memsparse.ops.routing import top_documents

Rescore = Callable[[Tensor], Tensor]
"""Document indices (B, M), -1 for none, to exact scores (B, M) float32; what it says for -1 is not read."""


def candidates(lower_BN: Tensor, upper_BN: Tensor, k: int) -> Tensor:
    """Every document that can be among the k best: its upper bound reaches the k-th best lower bound.

    All documents with a chunk where there are no more than k.

    Returns: (B, N) bool.

    Raises: ShapeError if the bounds differ in shape; InputError if k is below 1.
    """
    if lower_BN.shape != upper_BN.shape or lower_BN.ndim != 2:
        raise ShapeError(f"bounds are {tuple(lower_BN.shape)} and {tuple(upper_BN.shape)}; pass (B, N) twice")
    if k < 1:
        raise InputError(f"k is {k}; ask for at least 1 document")
    there = upper_BN > -torch.inf
    if lower_BN.shape[1] <= k:
        return there
    bar = lower_BN.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    return there & (upper_BN >= bar)


def rank_candidates(lower_BN: Tensor, upper_BN: Tensor, k: int) -> Tensor:
    """The candidates of every request, most promising upper bound first: (B, M) int64, -1 where fewer."""
    chosen = candidates(lower_BN, upper_BN, k)
    longest = int(chosen.sum(1).max()) if len(chosen) else 0
    return top_documents(upper_BN.masked_fill(~chosen, -torch.inf), longest)[1]


def certify(
    upper_BN: Tensor, documents_BM: Tensor, exact_BM: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best of the documents scored exactly, and whether they are proven to be the k best of all.

    Proven: every document not scored lies below the k-th score by its upper bound, or, where fewer than k
    were scored, has no chunk.

    Args:
        documents_BM: indices without repetition, -1 for none.
        exact_BM: their exact scores.

    Returns: scores (B, k), best first, ties to the lower index, -inf where fewer; documents (B, k) int64, -1
        where fewer; certified (B,) bool.

    Raises: InputError if k is below 1 or a score is NaN.
    """
    if k < 1:
        raise InputError(f"k is {k}; ask for at least 1 document")
    requests, documents = upper_BN.shape
    scored = documents_BM.masked_fill(documents_BM < 0, documents)
    # Ascending by document, so that position breaks ties as the index does.
    scored, order = scored.sort(dim=1)
    there = scored < documents
    best, place = top_documents(exact_BM.gather(1, order).masked_fill(~there, -torch.inf), k)
    indices = torch.cat([documents_BM.gather(1, order), documents_BM.new_full((requests, 1), -1)], dim=1)
    rest = torch.cat([upper_BN, upper_BN.new_full((requests, 1), -torch.inf)], dim=1)
    highest = rest.scatter(1, scored, -torch.inf).amax(1)
    certified = (highest < best[:, -1]) | (highest == -torch.inf)
    return best, indices.gather(1, place.where(place >= 0, order.shape[1])), certified
