"""Document routing (paper Eq. 2 and the maxima that follow it), collapsed to one inner product.

The score of query token t and chunk c is the mean over heads of a cosine. The mean is linear, so with
normalised vectors it equals one inner product of width W = G*D between the sum of a kv group's query heads
(over H) and the concatenated keys. Document scores are then a max over tokens and over a document's chunks.

B requests, T tokens, H query heads, G kv heads, D head_dim, W = G*D, C chunks, N documents, k selected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize as l2_normalize

from memsparse.errors import ConfigError, InputError, ShapeError
from memsparse.ops.native import scans
from memsparse.ops.native import selection as native
from memsparse.ops.native.library import NO_NUMBER

Score = Literal["cosine", "dot"]
HeadReduce = Literal["mean", "max"]
QueryReduce = Literal["max", "mean", "last"]
ChunkReduce = Literal["max", "mean"]

TILE = 16_384
"""Chunks scored at a time: takes B*T*TILE floats, H times as many where heads are not averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingRule:
    """How routing vectors become document scores; fixed by a checkpoint, never by a call."""

    score: Score = "cosine"
    """Normalise routing vectors (the paper, and how routers are trained), or take the raw dot product."""
    scale: float = 1.0
    """Factor on every score: 1 for a decoupled cosine router, head_dim**-0.5 otherwise."""
    head_reduce: HeadReduce = "mean"
    query_reduce: QueryReduce = "max"
    chunk_reduce: ChunkReduce = "max"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("score", Score),
            ("head_reduce", HeadReduce),
            ("query_reduce", QueryReduce),
            ("chunk_reduce", ChunkReduce),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(allowed))}"
                )

    def queries(self, q_BTHD: Tensor, kv_heads: int) -> Tensor:
        """Routing queries as a reader takes them: (B, T, W), or (B, T, H, D) where heads are not averaged."""
        normalized = self.score == "cosine"
        if self.head_reduce == "mean":
            return collapse_queries(q_BTHD, kv_heads, normalize=normalized, scale=self.scale)
        q_BTHD = q_BTHD.float()
        return (l2_normalize(q_BTHD, dim=-1) if normalized else q_BTHD) * self.scale

    def keys(self, k_CGD: Tensor) -> Tensor:
        """Routing keys as a bank stores them: (C, W), normalised after pooling when the score is a cosine."""
        return collapse_keys(k_CGD, normalize=self.score == "cosine")


def collapse_queries(q_BTHD: Tensor, kv_heads: int, *, normalize: bool = True, scale: float = 1.0) -> Tensor:
    """Fold H query heads into one vector per token whose inner product with a key is the mean over heads.

    Returns: (B, T, G*D) float32.

    Raises: ShapeError if H is not a multiple of `kv_heads`.
    """
    batch, tokens, heads, width = q_BTHD.shape
    if heads % kv_heads:
        raise ShapeError(
            f"{heads} query heads do not divide into {kv_heads} kv heads; check the model's config"
        )
    q_BTHD, factor = q_BTHD.float(), scale / heads
    if scans.can_collapse(q_BTHD):
        return scans.collapse_queries(q_BTHD, kv_heads, factor, normalize=normalize)
    if normalize:
        q_BTHD = l2_normalize(q_BTHD, dim=-1)
    grouped = q_BTHD.view(batch, tokens, kv_heads, heads // kv_heads, width)
    return (grouped.sum(3) * factor).flatten(2)


def collapse_keys(k_CGD: Tensor, *, normalize: bool = True) -> Tensor:
    """Lay a chunk's kv heads side by side, each normalised on its own: (C, G*D) in the dtype of the keys."""
    if normalize:
        k_CGD = l2_normalize(k_CGD.float(), dim=-1).to(k_CGD.dtype)
    return k_CGD.flatten(1)


def routing_tokens(routing_q: Tensor, query_mask: Tensor, counts: Sequence[int]) -> Tensor:
    """(R, W) the tokens (B, T, W) that route, given how many of each request do; not copied where all do."""
    return routing_q.flatten(0, 1) if sum(counts) == query_mask.numel() else routing_q[query_mask]


def score_documents(
    routing_q: Tensor, routing_k: Tensor, doc_of_chunk: Tensor, query_mask: Tensor, *, tile: int = TILE
) -> Tensor:
    """Relevance of every document to every request: max over its chunks of the max over query tokens.

    Args:
        routing_q: (B, T, W) from `collapse_queries`.
        routing_k: (C, W) from `collapse_keys`.
        doc_of_chunk: (C,) int64, ascending document indices from 0.
        query_mask: (B, T) bool, True on the tokens that route.
        tile: chunks scored at a time; memory only.

    Returns: (B, N) float32 with N = last document index + 1; -inf for a document without chunks and for a
        request without routing tokens.

    Raises: ShapeError if sizes do not fit, or `doc_of_chunk` is not ascending from 0.
    """
    return document_scores(routing_q, routing_k, doc_of_chunk, query_mask, rule=RoutingRule(), tile=tile)


def document_scores(
    routing_q: Tensor,
    routing_k: Tensor,
    doc_of_chunk: Tensor,
    query_mask: Tensor,
    *,
    rule: RoutingRule,
    num_documents: int | None = None,
    tile: int = TILE,
) -> Tensor:
    """`score_documents` for any reduction: heads first, then query tokens, then chunks.

    Args:
        routing_q: (B, T, W) where heads are averaged, else (B, T, H, D), as `RoutingRule.queries` gives.
        num_documents: N, where the caller knows it: documents without chunks may then follow the last one
            with chunks, and `doc_of_chunk` is taken on trust (any order, below N); looking at it costs a pass
            and, on an accelerator, a wait.

    Returns, Raises: as `score_documents`.
    """
    _check_routing(routing_q, routing_k, doc_of_chunk, query_mask)
    if tile < 1:
        raise ConfigError(f"tile is {tile}; score at least 1 chunk at a time")
    documents = num_documents if num_documents is not None else _count_documents(doc_of_chunk)
    padding = ~query_mask.view(*query_mask.shape, *[1] * (routing_q.ndim - 2))
    routing_q = routing_q.masked_fill(padding, 0)  # so that what lies there reaches no gradient either
    chunk_scores = [
        reduce_tokens(
            _token_scores(routing_q, routing_k[start : start + tile], rule), query_mask, rule.query_reduce
        )
        for start in range(0, routing_k.shape[0] if query_mask.numel() else 0, tile)
    ]
    if not chunk_scores:
        return routing_q.new_full((routing_q.shape[0], documents), float("-inf"), dtype=torch.float32)
    return reduce_chunks(torch.cat(chunk_scores, dim=1), doc_of_chunk, documents, rule.chunk_reduce)


def inner_products(q_BTW: Tensor, k_CW: Tensor) -> Tensor:
    """(B, T, C). Without gradients CPUs take oneDNN's product: as exact, and twice as fast on some."""
    wants_gradient = torch.is_grad_enabled() and (q_BTW.requires_grad or k_CW.requires_grad)
    if q_BTW.device.type == "cpu" and not wants_gradient and _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(q_BTW, k_CW, None, "none", [], "")
        return product
    return q_BTW @ k_CW.T


@cache
def _has_onednn() -> bool:
    """Whether this build of torch has oneDNN's product, and it multiplies."""
    one = torch.ones(1, 1, 1)
    try:
        product = torch.ops.mkldnn._linear_pointwise(one, one[0], None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(product, one)


def _token_scores(routing_q: Tensor, routing_k: Tensor, rule: RoutingRule) -> Tensor:
    """(B, T, C) float32 scores of one tile of chunks."""
    if routing_q.ndim == 3:
        return inner_products(routing_q.float(), routing_k.float())
    batch, tokens, _, width = routing_q.shape
    k_GDC = routing_k.float().reshape(len(routing_k), -1, width).permute(1, 2, 0)
    q_GND = routing_q.float().reshape(batch * tokens, k_GDC.shape[0], -1, width).transpose(0, 1).flatten(1, 2)
    per_head = (q_GND @ k_GDC).view(k_GDC.shape[0], batch, tokens, -1, len(routing_k))
    return per_head.mean((0, 3)) if rule.head_reduce == "mean" else per_head.amax((0, 3))


def chunk_scores(routing_q: Tensor, routing_k: Tensor, query_mask: Tensor, *, rule: RoutingRule) -> Tensor:
    """Relevance of every chunk to every request, before documents are formed: (B, C) float32.

    Shapes: as `document_scores` takes them.

    Raises: ShapeError if sizes do not fit.
    """
    _check_routing(routing_q, routing_k, routing_k.new_zeros(len(routing_k)), query_mask)
    return reduce_tokens(_token_scores(routing_q, routing_k, rule), query_mask, rule.query_reduce)


def reduce_tokens(scores_BTC: Tensor, query_mask_BT: Tensor, how: QueryReduce) -> Tensor:
    """Reduce over the tokens that route: (B, C); -inf for a request without any."""
    routed = query_mask_BT.any(1, keepdim=True)
    if how == "max":
        # Without a token to leave out, the usual case, a CPU is spared a copy of the scores; an accelerator
        # would have to wait for the answer.
        if query_mask_BT.device.type == "cpu" and query_mask_BT.numel() and bool(query_mask_BT.all()):
            return scores_BTC.amax(1)
        return scores_BTC.masked_fill(~query_mask_BT[:, :, None], float("-inf")).amax(1)
    if how == "mean":
        sums = scores_BTC.masked_fill(~query_mask_BT[:, :, None], 0).sum(1)
        return (sums / query_mask_BT.sum(1, keepdim=True).clamp_min(1)).masked_fill(~routed, float("-inf"))
    token = torch.arange(query_mask_BT.shape[1], device=query_mask_BT.device)
    last = torch.where(query_mask_BT, token, 0).amax(1)
    picked = scores_BTC[torch.arange(len(last), device=last.device), last]
    return picked.masked_fill(~routed, float("-inf"))


def reduce_chunks(scores_BC: Tensor, doc_of_chunk_C: Tensor, documents: int, how: ChunkReduce) -> Tensor:
    """Reduce over each document's chunks: (B, N); -inf for a document without chunks."""
    index = doc_of_chunk_C.expand_as(scores_BC)
    empty = scores_BC.new_full((scores_BC.shape[0], documents), float("-inf"))
    if how == "max":
        return empty.scatter_reduce(1, index, scores_BC, "amax")
    counts = torch.bincount(doc_of_chunk_C, minlength=documents)
    sums = torch.zeros_like(empty).scatter_add(1, index, scores_BC)
    return (sums / counts.clamp_min(1)).masked_fill(counts == 0, float("-inf"))


def top_documents(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best documents of every request, best first; ties go to the lower index.

    Args:
        scores: (B, N) float32; -inf marks a document that may not be chosen.

    Returns: scores (B, k) and document indices (B, k) int64; -inf and -1 where there are fewer than k.

    Raises: ShapeError if `scores` is no matrix; InputError if k is negative or a score is NaN.
    """
    if scores.ndim != 2:
        raise ShapeError(f"scores are {tuple(scores.shape)}; pass (requests, documents)")
    if k < 0:
        raise InputError(f"k is {k}; ask for 0 documents or more")
    batch, documents = scores.shape
    if native.can_select(k, scores):
        return native.top_documents(scores, k)
    taken = min(k, documents)
    best = scores.new_full((batch, k), float("-inf"))
    index = torch.full((batch, k), -1, dtype=torch.long, device=scores.device)
    if taken == 0:
        return best, index
    # torch.topk breaks ties as it likes: take what lies above the k-th score, then the first equal to it.
    ranked = scores.detach().topk(taken, dim=1).values
    cut, sound = ranked[:, -1:], ~ranked[:, :1].isnan()  # NaN ranks first
    above, equal = scores > cut, scores == cut
    missing = taken - above.sum(1, keepdim=True)
    chosen = (sound & (above | (equal & (equal.cumsum(1) <= missing)))).nonzero()
    if len(chosen) != batch * taken:
        raise InputError(NO_NUMBER)
    ascending = chosen[:, 1].view(batch, taken)
    values, order = scores.gather(1, ascending).sort(dim=1, descending=True, stable=True)
    best[:, :taken] = values
    index[:, :taken] = ascending.gather(1, order).masked_fill(values == float("-inf"), -1)
    return best, index


def _check_routing(routing_q: Tensor, routing_k: Tensor, doc_of_chunk: Tensor, query_mask: Tensor) -> None:
    if routing_q.ndim not in (3, 4) or routing_k.ndim != 2:
        raise ShapeError(
            f"queries are {tuple(routing_q.shape)}, keys {tuple(routing_k.shape)}; pass (B, T, W) or "
            "(B, T, H, D), and (C, W)"
        )
    width = routing_k.shape[-1]
    if routing_q.ndim == 3 and routing_q.shape[-1] != width:
        raise ShapeError(f"routing queries are {routing_q.shape[-1]} wide, keys {width}; they must agree")
    if routing_q.ndim == 4:
        heads, head_dim = routing_q.shape[2:]
        if width % head_dim or heads % (width // head_dim):
            raise ShapeError(f"{heads} query heads of {head_dim} do not divide into keys of width {width}")
    if query_mask.shape != routing_q.shape[:2]:
        raise ShapeError(f"query_mask is {tuple(query_mask.shape)}, queries are {tuple(routing_q.shape[:2])}")
    if doc_of_chunk.shape != routing_k.shape[:1]:
        raise ShapeError(
            f"{len(doc_of_chunk)} document indices for {len(routing_k)} chunks; pass one per chunk"
        )


def _count_documents(doc_of_chunk: Tensor) -> int:
    if not len(doc_of_chunk):
        return 0
    # One wait for all three numbers.
    falls = (doc_of_chunk[1:] < doc_of_chunk[:-1]).any()
    first, last, unsorted = torch.stack([doc_of_chunk[0], doc_of_chunk[-1], falls.to(doc_of_chunk)]).tolist()
    if unsorted or first < 0:
        raise ShapeError("doc_of_chunk is not ascending from 0; sort chunks by document, and number from 0")
    return int(last) + 1
