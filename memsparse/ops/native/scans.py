"""Of a scan: heads folded, tokens rounded, best products with keys, bounds of documents, exact scores.

M keys, N documents, W routing width, B requests, R routing tokens of all requests, V vectors of 16 tokens.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.native.library import (
    KINDS,
    MIXED,
    TILED,
    all_threads,
    check,
    has,
    has_tiles,
    is_readable,
    loaded,
    takes,
    threads_for,
)
from memsparse.ops.quantization import ScanKeys

LANES = 16
"""Tokens of a vector."""
TILE_BYTES = 64
"""Of a row of a tile."""
WIDEST = 2**16
"""Columns of int8 up to which no sum overflows."""
_WIDENED = 3
"""int8 keys, float32 tokens."""
_STEP = 4
"""Bytes of a token that lie together in a vector."""
_EXACT = (torch.bfloat16, torch.float32)
_SHARE = 2**24
"""Multiply-adds of a thread, at least: to wake it takes some ten microseconds."""
_EXACT_SHARE = 2**21
"""Those of exact scores, likewise."""
_ROWS = 96
"""Threads take a multiple of so many keys: of the 12 and the 32 that the kernels multiply together."""
_PARTS = 16
"""That the work of a thread is cut into, about, so that none waits long for another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """Routing tokens as the kernel takes them."""

    lanes: Tensor
    """(V, W * itemsize / 4, 16, 4 / itemsize)"""
    request: Tensor
    """(V,) int32, ascending: whose tokens a vector holds."""
    requests: int
    """B"""
    dtype: torch.dtype
    """Of the tokens and of the keys."""


def can_multiply(dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel was built, this processor has its instructions, and keys are of a width it takes."""
    if dtype not in KINDS or width * dtype.itemsize % _STEP or not width:
        return False
    if dtype == torch.int8 and width > WIDEST:
        return False
    return has("memsparse_can_multiply", KINDS[dtype])


def can_score(blocks: Sequence[Tensor]) -> bool:
    """Whether `score_stored` takes such keys here: of one dtype, bfloat16 or float32, on the CPU."""
    dtype = blocks[0].dtype
    return (
        dtype in _EXACT
        and has("memsparse_can_score")
        and all(
            block.dtype == dtype and block.device.type == "cpu" and block.is_contiguous() for block in blocks
        )
    )


class StoredBlocks:
    """Keys that `can_score` takes, as C reads them."""

    def __init__(self, blocks: Sequence[Tensor]) -> None:
        self._blocks = tuple(blocks)  # whose memory it is
        self.kind = KINDS[blocks[0].dtype]
        self.width = blocks[0].shape[1]
        self.count = len(blocks)
        self.at = (ctypes.c_void_p * self.count)(*(block.data_ptr() for block in blocks))
        self.chunks = (ctypes.c_int64 * self.count)(*(block.shape[0] for block in blocks))


def can_collapse(q_BTHD: Tensor) -> bool:
    """Whether `collapse_queries` takes such queries: float32 in host memory, no gradient."""
    return takes(q_BTHD)


def collapse_queries(q_BTHD: Tensor, kv_heads: int, factor: float, *, normalize: bool) -> Tensor:
    """As `ops.routing.collapse_queries`, for heads that divide into so many; `factor` is on every sum."""
    heads = q_BTHD.contiguous()
    batch, tokens, of_a_token, width = heads.shape
    collapsed = torch.empty(batch, tokens, kv_heads * width, dtype=torch.float32, device="cpu")
    loaded().memsparse_collapse_queries(
        heads.data_ptr(),
        batch * tokens,
        kv_heads,
        of_a_token // kv_heads,
        width,
        normalize,
        factor,
        collapsed.data_ptr(),
    )
    return collapsed


def round_tokens(
    tokens_RW: Tensor, tokens: Sequence[int], dtype: torch.dtype
) -> tuple[Vectors, Tensor, Tensor, Tensor]:
    """Round routing tokens as `ops.products.round_queries` does, and lay them into vectors of one request,
    the last of each filled up with its last token.

    Args:
        tokens_RW: float32, on the CPU.
        tokens: how many of them each request has, in order; at least 1.
        dtype: int8, bfloat16 or float32, of whose size a multiple of four bytes makes a token.

    Returns: the vectors; units (B,) float32; longest and lost (B,) float64. All three are not numbers for a
        request with a token that is not finite.

    Raises: ShapeError for others.
    """
    given, width = tokens_RW.contiguous(), tokens_RW.shape[-1]
    shape = sum(tokens), width
    fits = is_readable(given, torch.float32, shape) and min(tokens, default=1) > 0
    if not fits or dtype not in KINDS or width * dtype.itemsize % _STEP:
        raise ShapeError(
            f"tokens are {tuple(tokens_RW.shape)} {tokens_RW.dtype}, to be {dtype}; "
            f"pass {shape} float32 on the CPU, of a multiple of four bytes when rounded"
        )
    count = sum(-(-own // LANES) for own in tokens)
    request = torch.empty(count, dtype=torch.int32, device="cpu")
    lanes = torch.empty(
        count,
        width * dtype.itemsize // _STEP,
        LANES,
        _STEP // dtype.itemsize,
        dtype=dtype,
        device="cpu",
    )
    units = torch.empty(len(tokens), dtype=torch.float32, device="cpu")
    norms_2B = torch.empty(2, len(tokens), dtype=torch.float64, device="cpu")
    longest, lost = norms_2B.unbind()
    problem = loaded().memsparse_round_tokens(
        KINDS[dtype],
        given.data_ptr(),
        width,
        (ctypes.c_int64 * len(tokens))(*tokens),
        len(tokens),
        lanes.data_ptr(),
        *(each.data_ptr() for each in (request, units, longest, lost)),
    )
    check(problem)
    vectors = Vectors(lanes=lanes, request=request, requests=len(tokens), dtype=dtype)
    return vectors, units, longest, lost


def half_widths(
    units_B: Tensor, longest_B: Tensor, lost_B: Tensor, slack: float, over: float
) -> tuple[Tensor, Tensor]:
    """Factors (B,) float32 of a chunk's error and of its norm, rounded up; `ops.scan` explains them.

    Args:
        units_B: float32; longest_B and lost_B: float64, as `round_tokens` returns them.

    Raises: ShapeError for others.
    """
    for tensor, dtype in (units_B, torch.float32), (longest_B, torch.float64), (lost_B, torch.float64):
        if not is_readable(tensor, dtype, (len(units_B),)):
            raise ShapeError(
                f"a figure of tokens is {tuple(tensor.shape)} {tensor.dtype}; "
                f"pass {(len(units_B),)} {dtype} on the CPU"
            )
    factors_2B = torch.empty(2, len(units_B), dtype=torch.float32, device="cpu")
    of_errors, of_norms = factors_2B.unbind()
    given = (each.data_ptr() for each in (units_B, longest_B, lost_B))
    loaded().memsparse_half_widths(
        *given, len(units_B), slack, over, of_errors.data_ptr(), of_norms.data_ptr()
    )
    return of_errors, of_norms


def best_products(keys_MW: Tensor, vectors: Vectors) -> Tensor:
    """The best inner product of each key with each request's tokens: (M, B) float32.

    Sums are of int32, exact, or of float32, in an order that the kernel chooses; threads are as many as
    torch's. What is not a number may be passed over.

    Args:
        keys_MW: on the CPU, of the vectors' dtype, or int8 with vectors of float32; of a width `can_multiply`
            agrees to.

    Raises: ShapeError for other keys.
    """
    best_BM = torch.full((vectors.requests, len(keys_MW)), float("-inf"), dtype=torch.float32, device="cpu")
    product = _Product(keys_MW, vectors)
    check(loaded().memsparse_raise_best_products(*product.factors, best_BM.data_ptr(), *product.threads))
    return best_BM.T


def scan(
    keys_MW: Tensor,
    vectors: Vectors,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    units_B: Tensor,
    of_errors_B: Tensor,
    of_norms_B: Tensor,
    bounds_2NB: Tensor,
) -> bool:
    """Do what `best_products` and then `raise_bounds` do, without writing down a product.

    Returns: whether it was done: not where documents do not ascend; some bounds may be raised then, rightly.

    Raises: ShapeError as they do.
    """
    product = _Product(keys_MW, vectors)
    rows = _Rows(
        keys, doc_of_chunk, (units_B, of_errors_B, of_norms_B), bounds_2NB, len(keys_MW), vectors.requests
    )
    problem = loaded().memsparse_scan(
        *product.factors, *rows.of_chunks, 0.0, *rows.of_documents, *product.threads
    )
    if problem == MIXED:
        return False
    check(problem)
    return True


def score_stored(
    tokens_RW: Tensor,
    tokens: Sequence[int],
    blocks: StoredBlocks,
    block_BM: Tensor,
    start_BM: Tensor,
    count_BM: Tensor,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    """What `ops.exact_scores.score_stored` returns; sums run over the columns in their order.

    Args:
        tokens_RW: float32, of all requests.
        tokens: how many of them each request has, in order.
        block_BM, start_BM, count_BM: int64 on the CPU, of one shape.
        k: documents wanted of each request; None: all.

    Raises: ShapeError for other tokens, or a run that does not lie in its block.
    """
    given = tokens_RW.contiguous()
    if not is_readable(given, torch.float32, (sum(tokens), blocks.width)):
        raise ShapeError(
            f"tokens are {tuple(given.shape)} {given.dtype}; pass {(sum(tokens), blocks.width)} float32 on "
            "the CPU"
        )
    runs = block_BM.contiguous(), start_BM.contiguous(), count_BM.contiguous()
    scores = torch.empty(count_BM.shape, dtype=torch.float32, device="cpu")
    chunks = torch.empty(count_BM.shape, dtype=torch.int64, device="cpu")
    problem = loaded().memsparse_score_stored(
        blocks.kind,
        blocks.width,
        given.data_ptr(),
        (ctypes.c_int64 * len(tokens))(*tokens),
        len(tokens),
        blocks.at,
        blocks.chunks,
        blocks.count,
        *(each.data_ptr() for each in runs),
        count_BM.shape[1],
        k or 0,
        scores.data_ptr(),
        chunks.data_ptr(),
        *all_threads(),
        _EXACT_SHARE,
    )
    check(problem)
    return scores, chunks


def raise_bounds(
    best_MB: Tensor,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    units_B: Tensor,
    of_errors_B: Tensor,
    of_norms_B: Tensor,
    rounded_sum: float,
    bounds_2NB: Tensor,
) -> None:
    """Raise lower and upper bounds of documents to those of their chunks; `ops.scan` explains the arithmetic.

    Args:
        best_MB: float32, on the CPU; copied unless its transpose is contiguous.
        doc_of_chunk: (M,) int64, contiguous, at least 0 and below N.
        units_B, of_errors_B, of_norms_B: float32.
        bounds_2NB: float32, contiguous; lower ones first.

    Raises: ShapeError if a tensor is not what it must be, or a document is out of range.
    """
    chunks, requests = best_MB.shape
    best_BM = best_MB.T.contiguous()
    if not is_readable(best_BM, torch.float32, (requests, chunks)):
        raise ShapeError(f"best products are {tuple(best_MB.shape)} {best_MB.dtype}; pass float32 on the CPU")
    rows = _Rows(keys, doc_of_chunk, (units_B, of_errors_B, of_norms_B), bounds_2NB, chunks, requests)
    check(
        loaded().memsparse_raise_bounds(
            best_BM.data_ptr(), chunks, requests, *rows.of_chunks, rounded_sum, *rows.of_documents
        )
    )


class _Product:
    """Keys and tokens as C takes them; must outlive the call."""

    def __init__(self, keys_MW: Tensor, vectors: Vectors) -> None:
        keys, lanes = keys_MW.contiguous(), vectors.lanes
        width = lanes.shape[1] * lanes.shape[3]
        widen = keys.dtype == torch.int8 and vectors.dtype == torch.float32
        alike = widen or keys.dtype == vectors.dtype
        if not alike or keys.device.type != "cpu" or keys.shape[1:] != (width,):
            raise ShapeError(
                f"keys are {tuple(keys.shape)} {keys.dtype}; "
                f"pass (chunks, {width}) {vectors.dtype} on the CPU"
            )
        self._held = keys, vectors
        self.factors = (
            _WIDENED if widen else _kind_for(vectors.dtype, width),
            keys.data_ptr(),
            len(keys),
            keys.shape[1] * keys.element_size(),
            lanes.data_ptr(),
            len(vectors.request),
            vectors.request.data_ptr(),
            vectors.requests,
        )
        work = keys.numel() * len(vectors.request) * LANES
        at_once, threads = threads_for(work, _SHARE)
        self.threads = at_once, threads, _ROWS * -(-max(len(keys), 1) // (_ROWS * _PARTS * threads))


class _Rows:
    """What bounds are made of besides products, as C takes it; must outlive the call."""

    def __init__(
        self,
        keys: ScanKeys,
        doc_of_chunk: Tensor,
        factors: tuple[Tensor, Tensor, Tensor],
        bounds_2NB: Tensor,
        chunks: int,
        requests: int,
    ) -> None:
        documents = bounds_2NB.shape[1]
        given = keys.scales, keys.errors, keys.norms
        held = [None if each is None else each.contiguous() for each in given]
        for name, tensor, shape in (
            *(
                (name, each, (chunks,))
                for name, each in zip(("scales", "errors", "norms"), held, strict=True)
            ),
            *(("factors", each, (requests,)) for each in factors),
            ("bounds", bounds_2NB, (2, documents, requests)),
            ("documents", doc_of_chunk, (chunks,)),
        ):
            dtype = torch.int64 if tensor is doc_of_chunk else torch.float32
            if tensor is not None and not is_readable(tensor, dtype, shape):
                raise ShapeError(
                    f"{name} are {tuple(tensor.shape)} {tensor.dtype}; pass {shape} {dtype} on the CPU"
                )
        self._held = held, doc_of_chunk, factors, bounds_2NB
        self.of_chunks = (
            documents,
            *(None if each is None else each.data_ptr() for each in held),
            doc_of_chunk.data_ptr(),
            *(factor.data_ptr() for factor in factors),
        )
        self.of_documents = [bound.data_ptr() for bound in bounds_2NB.unbind()]


def _kind_for(dtype: torch.dtype, width: int) -> int:
    """Which kernel multiplies keys of that dtype and width."""
    is_whole = width * dtype.itemsize % TILE_BYTES == 0
    return TILED[dtype] if is_whole and has_tiles(dtype) else KINDS[dtype]
