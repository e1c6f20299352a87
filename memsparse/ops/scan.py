"""One pass over the routing keys for all requests: an interval around every document's score.

For a token q, a key k, what stands for the key k~ and for the token q~:

    <q, k> - <q~, k~>  =  <q, k - k~> + <q - q~, k~>,  so that  |...| <= ||q|| ||k - k~|| + ||q - q~|| ||k~||

and what the float32 sum of <q~, k~> lost is at most proportional to ||q|| ||k~||. With the longest token and
the worst rounding of a request, the half width depends on the chunk alone, and the max over tokens is taken
of the products as they are. Keys in fewer columns (`projection`) are multiplied with tokens in these, and the
reach of a token stands for ||q||.

B requests, T tokens, W routing width, C chunks, N documents, R routing tokens of all requests, M chunks of a
tile.
"""

from dataclasses import replace

import torch
from torch import Tensor

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops import triton_scan
from memsparse.ops.native import library, scans
from memsparse.ops.products import (
    FINER,
    BestProducts,
    RoundedQueries,
    fastest_arithmetic,
    float_slack,
    kernel_multiplies,
    round_queries,
)
from memsparse.ops.projection import project_tokens, rounding
from memsparse.ops.quantization import ScanKeys, round_up
from memsparse.ops.routing import routing_tokens

Factors = tuple[Tensor, Tensor, Tensor]
"""(B,) float32 each: units, and the factors of a chunk's error and of its norm."""
_BOUNDS = 2**18
"""Chunks times requests bounded at a time, about."""
_UNIT_SLACK = 2.0**-20
"""Over the relative error of the few float32 operations after the sum."""
_UNDERFLOW = 2.0**-80
"""Norms below count as this, so that products too small for float32 lie inside the interval."""


@torch.no_grad()
def scan_documents(
    routing_q: Tensor,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    query_mask: Tensor,
    *,
    num_documents: int,
    finer: bool = False,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Bounds of the score of every document: lower <= exact score <= upper, whatever was rounded on the way.

    The exact score is the max over routing tokens and a document's chunks of the inner product with the keys
    that were quantised. The interval holds it in real numbers, and as any float32 sum in whatever order.

    Args:
        routing_q: (B, T, W) float32.
        keys: C chunks.
        doc_of_chunk: (C,) int64, below `num_documents`; in any order, fastest when equal ones are together.
        query_mask: (B, T) bool, True on the tokens that route; requests may have different numbers of them.
        num_documents: N.
        finer: round the queries to next to nothing, which takes a processor several times as long; for keys
            of documents that a first scan left over.
        tile: chunks bounded at a time; memory only. None: fewer for more requests.

    Returns: lower, upper, both (B, N) float32; -inf in both where a document has no chunk or a request no
        routing token; (-inf, inf) where a query is not finite, or too long for float32.

    Raises: ShapeError if sizes do not fit; ConfigError for a tile below 1.
    """
    return Scan(routing_q, query_mask, finer=finer, tile=tile).bounds(
        keys, doc_of_chunk, num_documents=num_documents
    )


class Scan:
    """`scan_documents` for one question after another part of the keys: its tokens are rounded once."""

    def __init__(
        self, routing_q: Tensor, query_mask: Tensor, *, finer: bool = False, tile: int | None = None
    ) -> None:
        """Take what asks; args and raises as in `scan_documents`."""
        if query_mask.shape != routing_q.shape[:2]:
            raise ShapeError(
                f"query_mask is {tuple(query_mask.shape)}, queries are {tuple(routing_q.shape[:2])}"
            )
        if tile is not None and tile < 1:
            raise ConfigError(f"tile is {tile}; score at least 1 chunk at a time")
        self._routing_q = routing_q
        self._query_mask = query_mask
        self._finer = finer
        counts: list[int] = query_mask.sum(1).tolist()
        self._asking = [request for request, count in enumerate(counts) if count]
        self._counts = [count for count in counts if count]
        self._tile = tile or max(_BOUNDS // max(len(self._asking), 1), 1)
        self._prepared: dict[tuple[str, torch.device, Tensor | None], tuple[BestProducts, Factors]] = {}

    @torch.no_grad()
    def bounds(self, keys: ScanKeys, doc_of_chunk: Tensor, *, num_documents: int) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds, (B, N) each; args and raises as in `scan_documents`."""
        routing_q, asking = self._routing_q, self._asking
        _check(routing_q, keys, doc_of_chunk)
        if triton_scan.can_scan(keys):
            return triton_scan.scan_documents(
                routing_q, keys, doc_of_chunk, self._query_mask, num_documents=num_documents
            )
        bounds = routing_q.new_full((2, num_documents, len(routing_q)), float("-inf"), dtype=torch.float32)
        if len(asking) and len(keys):
            products, factors = self._products(keys)
            part = bounds if len(asking) == len(routing_q) else bounds[:, :, asking]
            in_c = keys.device.type == "cpu" and library.is_built()
            raise_bounds = scans.raise_bounds if in_c else _raise_bounds
            for start in range(0, len(keys), self._tile):
                here = keys.narrow(start, min(self._tile, len(keys) - start))
                owners = doc_of_chunk[start : start + self._tile].contiguous()
                if not products.raise_bounds(here, owners, *factors, part):
                    raise_bounds(products.of(here), here, owners, *factors, products.rounded_sum, part)
            if part is not bounds:
                bounds[:, :, asking] = part
        lower_NB, upper_NB = bounds.unbind()
        return lower_NB.T.contiguous(), upper_NB.T.contiguous()

    def _products(self, keys: ScanKeys) -> tuple[BestProducts, Factors]:
        """What multiplies such keys, and what bounds are made of besides."""
        key = keys.format, keys.device, keys.basis
        if key not in self._prepared:
            arithmetic = fastest_arithmetic(keys.format, keys.columns, keys.device)
            if self._finer:
                arithmetic = FINER.get(arithmetic, arithmetic)
            by_kernel = keys.device.type == "cpu" and kernel_multiplies(arithmetic, keys.columns)
            tokens_RW = routing_tokens(self._routing_q, self._query_mask, self._counts)
            reach_R = None
            if keys.basis is not None:
                tokens_RW, reach_R = project_tokens(tokens_RW, keys.basis)
            queries = round_queries(tokens_RW, self._counts, arithmetic, by_kernel=by_kernel)
            if reach_R is not None:
                longest = torch.stack([own.max() for own in reach_R.split(self._counts)])
                queries = replace(queries, longest=longest / queries.units.double())
            factors = queries.units, *_half_width(queries, keys)
            self._prepared[key] = BestProducts(queries, self._counts), factors
        return self._prepared[key]


def _half_width(queries: RoundedQueries, keys: ScanKeys) -> tuple[Tensor, Tensor]:
    """Factors (B,) float32 of a chunk's error and of its norm, rounded up."""
    slack = 2 * float_slack(keys.width) + _UNIT_SLACK  # this sum's, and that of whoever sums the exact score
    if keys.basis is not None:
        slack += rounding(keys.basis)  # of the tokens' new columns
    if keys.device.type != "cpu":
        slack += 2.0**-9  # an accelerator may cut float32 factors to TF32, and the queries are float32 always
    over = (1 + slack) * (1 + _UNIT_SLACK)
    if keys.device.type == "cpu" and library.is_built():
        return scans.half_widths(queries.units, queries.longest, queries.lost, slack, over)
    lost = torch.add(queries.lost, queries.longest.clamp_min(0.5), alpha=slack)
    factors = torch.stack([queries.longest, lost]) * (queries.units.double() * over)
    of_errors, of_norms = round_up(factors).unbind()
    return of_errors, of_norms


def _raise_bounds(
    best_MB: Tensor,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    units_B: Tensor,
    of_errors_B: Tensor,
    of_norms_B: Tensor,
    rounded_sum: float,
    bounds_2NB: Tensor,
) -> None:
    """Raise lower and upper bounds of documents to those of their chunks: as `scans.raise_bounds`."""
    runs = torch.unique_consecutive(doc_of_chunk, return_counts=True)
    interval = _interval(best_MB, keys, units_B, of_errors_B, of_norms_B, rounded_sum)
    for bound_NB, of_chunk_MB in zip(bounds_2NB, interval, strict=True):
        _raise_documents(bound_NB, runs, of_chunk_MB)


def _interval(
    best_MB: Tensor,
    keys: ScanKeys,
    units_B: Tensor,
    of_errors_B: Tensor,
    of_norms_B: Tensor,
    rounded_sum: float,
) -> tuple[Tensor, Tensor]:
    """Bounds of every chunk's score, both (M, B); -inf or inf where float32 does not hold them."""
    if keys.scales is not None:
        best_MB.mul_(keys.scales[:, None])
    best_MB.mul_(units_B)
    half_MB = torch.outer(keys.errors, of_errors_B).add_(2.0**-120)
    half_MB.addr_(keys.norms.clamp_min(_UNDERFLOW), of_norms_B)
    if rounded_sum:
        half_MB.add_(best_MB.abs(), alpha=rounded_sum)
    inf = float("inf")
    return (
        (best_MB - half_MB).nan_to_num_(nan=-inf, posinf=-inf, neginf=-inf),
        (best_MB + half_MB).nan_to_num_(nan=inf, posinf=inf, neginf=inf),
    )


def _raise_documents(bounds_NB: Tensor, runs: tuple[Tensor, Tensor], scores_MB: Tensor) -> None:
    """Raise documents' bounds to those of their chunks, given the document and the length of each run."""
    documents, counts = runs
    # The max of a run needs no index of every chunk, and is several times faster than to scatter the chunks.
    best_RB = torch.segment_reduce(scores_MB, "max", lengths=counts, axis=0, unsafe=True)
    bounds_NB.scatter_reduce_(0, documents[:, None].expand_as(best_RB), best_RB, "amax")


def _check(routing_q: Tensor, keys: ScanKeys, doc_of_chunk: Tensor) -> None:
    if routing_q.ndim != 3 or routing_q.shape[2] != keys.width or routing_q.dtype != torch.float32:
        raise ShapeError(
            f"queries are {tuple(routing_q.shape)} {routing_q.dtype}; "
            f"pass (requests, tokens, {keys.width}) float32 for these keys"
        )
    if doc_of_chunk.shape != (len(keys),):
        raise ShapeError(f"{len(doc_of_chunk)} document indices for {len(keys)} chunks; pass one per chunk")
    if doc_of_chunk.dtype != torch.int64:
        raise ShapeError(f"document indices are {doc_of_chunk.dtype}; pass int64")
