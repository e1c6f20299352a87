"""Kernels in C, for scans and for models in bfloat16.

Of a scan: tokens rounded, best products of keys with them, bounds of documents, exact scores. Of a model:
linear layers, and requests that attend to their own keys. They are compiled when the package is built, if
there is a C compiler. Without it nothing here can be called, and on processors without AVX-512 nothing
multiplied; those who call do the same with torch.

M keys, N documents, W routing width, B requests, R routing tokens of all requests, V vectors of 16 tokens.
"""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.quantization import ScanKeys

LIBRARY = Path(__file__).with_name("scan.kernel")
VERSION = 12
"""Of the library's functions; one of another version is not used."""
LANES = 16
"""Tokens of a vector."""
TILE_BYTES = 64
"""Of a row of a tile."""
WIDEST = 2**16
"""Columns of int8 up to which no sum overflows."""
_KINDS = {torch.int8: 0, torch.bfloat16: 1, torch.float32: 2}
_WIDENED = 3
"""int8 keys, float32 tokens."""
_TILED = {torch.int8: 4, torch.bfloat16: 5}
"""The same by tiles (AMX), where the processor has them and rows are whole ones."""
_STEP = 4
"""Bytes of a token that lie together in a vector."""
_EXACT = (torch.bfloat16, torch.float32)
_EXACT_SHARE = 2**21
"""As `_SHARE`, in float64."""
_SHARE = 2**24
"""Multiply-adds of a thread, at least: to wake it takes some ten microseconds."""
_ATTENDED = 2**18
"""As `_SHARE`, of attention."""
_COLUMNS = 32
"""Whose multiples are the widths, and the outputs, that are multiplied in bfloat16."""
_WIDEST_LAYER = 4096
"""Columns up to which a linear layer is no slower than torch's, by tiles; a quarter of it by vectors."""
_NO_MEMORY, _OUTSIDE, _MIXED, _RUN_OUTSIDE = 2, 3, 4, 5
"""Problems that C reports."""
RUN_OUTSIDE = "a run does not lie in its block"
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
    library = _library()
    if library is None or dtype not in _KINDS or width * dtype.itemsize % _STEP or not width:
        return False
    if dtype == torch.int8 and width > WIDEST:
        return False
    return bool(library.memsparse_can_multiply(_KINDS[dtype]))


def has_tiles(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies such numbers by tiles (AMX), and the system lets it."""
    library = _library()
    return library is not None and dtype in _TILED and bool(library.memsparse_can_multiply(_TILED[dtype]))


def can_score(blocks: Sequence[Tensor]) -> bool:
    """Whether `score_stored` takes such keys here: of one dtype, bfloat16 or float32, on the CPU."""
    library = _library()
    if library is None or not library.memsparse_can_score():
        return False
    dtype = blocks[0].dtype
    return dtype in _EXACT and all(
        block.dtype == dtype and block.device.type == "cpu" and block.is_contiguous() for block in blocks
    )


def has_bfloat16() -> bool:
    """Whether this processor has what `attend` and `linear` multiply with."""
    library = _library()
    return library is not None and bool(library.memsparse_has_bfloat16(False))


def can_attend(q_THD: Tensor) -> bool:
    """Whether `attend` takes such queries here."""
    return q_THD.dtype == torch.bfloat16 and q_THD.is_cpu and not q_THD.shape[2] % _COLUMNS and has_bfloat16()


def attend(
    queries: Sequence[Tensor], keys: Sequence[tuple[Tensor, Tensor, Tensor | None]], scale: float
) -> Tensor:
    """What `ops.attention.causal_attention` returns for each of some requests, end to end: (N, H, D).

    A request's outcome does not depend on the others, nor on the number of threads.

    Args:
        queries: (T, H, D) of each, such as `can_attend` takes; H and D lie in one piece.
        keys: k and v, (G, S, D) of each, S at least T; rows lie in one piece. Bias (S,) float32, or None.

    Raises: ShapeError for others.
    """
    heads, width = queries[0].shape[1:]
    groups = keys[0][0].shape[0]
    attended = queries[0].new_empty(sum(len(q) for q in queries), heads, width)
    row, lies = 2 * heads * width, (width, 1)
    out, requests, work = attended.data_ptr(), [], 0
    for q, (k, v, bias) in zip(queries, keys, strict=True):
        tokens, seen = q.shape[0], k.shape[1]
        q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
        if not (
            q.shape == (tokens, heads, width)
            and can_attend(q)
            and k.shape == v.shape == (groups, seen, width)
            and k.dtype == v.dtype == torch.bfloat16
            and k.is_cpu
            and v.is_cpu
            and q_strides[1:] == k_strides[1:] == v_strides[1:] == lies
            and (bias is None or _is_readable(bias, torch.float32, (seen,)))
            and seen >= tokens > 0
            and heads % groups == 0
        ):
            raise ShapeError(
                f"{tuple(q.shape)} {q.dtype} queries for {tuple(k.shape)} keys and {tuple(v.shape)} values; "
                f"pass (tokens, {heads}, {width}) for ({groups}, as many or more, {width}), bfloat16, on "
                f"the CPU, rows in one piece of a multiple of {_COLUMNS}"
            )
        requests += [
            *(q.data_ptr(), k.data_ptr(), v.data_ptr(), 0 if bias is None else bias.data_ptr(), out),
            *(tokens, seen, 2 * q_strides[0], 2 * k_strides[0], 2 * v_strides[0]),
        ]
        out += tokens * row
        work += tokens * seen * heads * width
    problem = _loaded().memsparse_attend(
        (ctypes.c_int64 * len(requests))(*requests),
        len(queries),
        groups,
        heads // groups,
        width,
        scale,
        has_tiles(torch.bfloat16),
        _work_at_once(),
        max(1, min(torch.get_num_threads(), work // _ATTENDED)),
    )
    _check(problem)
    return attended


def can_apply(weight_OK: Tensor, tokens: Tensor) -> bool:
    """Whether `linear` takes such weights and tokens (..., K) here.

    Wide ones it leaves to torch, whose products cut columns into blocks.
    """
    outputs, width = weight_OK.shape
    return (
        tokens.dtype == weight_OK.dtype == torch.bfloat16
        and tokens.is_cpu
        and weight_OK.is_cpu
        and tokens.shape[-1] == width > 0
        and outputs % _COLUMNS == width % _COLUMNS == 0
        and weight_OK.is_contiguous()
        and has_bfloat16()
        and width <= (_WIDEST_LAYER if has_tiles(torch.bfloat16) else _WIDEST_LAYER // 4)
    )


def linear(tokens_NK: Tensor, weight_OK: Tensor) -> Tensor:
    """Tokens times the weights of a linear layer: (N, O) bfloat16, rounded from sums of float32.

    A token's outcome depends neither on the other tokens nor on the number of threads.

    Args:
        tokens_NK: such as `can_apply` takes.
        weight_OK: the same.

    Raises: ShapeError for others.
    """
    if not can_apply(weight_OK, tokens_NK):
        raise ShapeError(
            f"tokens are {tuple(tokens_NK.shape)} {tokens_NK.dtype}, weights {tuple(weight_OK.shape)} "
            f"{weight_OK.dtype}; pass bfloat16 on the CPU, of one width, and multiples of {_COLUMNS}"
        )
    (tokens, width), outputs = tokens_NK.shape, len(weight_OK)
    given = tokens_NK.contiguous()
    out = given.new_empty(tokens, outputs)
    problem = _loaded().memsparse_linear(
        given.data_ptr(),
        tokens,
        weight_OK.data_ptr(),
        outputs,
        2 * width,
        out.data_ptr(),
        has_tiles(torch.bfloat16),
        _work_at_once(),
        max(1, min(torch.get_num_threads(), tokens * outputs * width // _SHARE)),
    )
    _check(problem)
    return out


def has_threads() -> bool:
    """Whether work can be shared among torch's threads."""
    return _work_at_once() is not None


def is_built() -> bool:
    """Whether there is a library."""
    return _library() is not None


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
    fits = _is_readable(given, torch.float32, shape) and min(tokens, default=1) > 0
    if not fits or dtype not in _KINDS or width * dtype.itemsize % _STEP:
        raise ShapeError(
            f"tokens are {tuple(tokens_RW.shape)} {tokens_RW.dtype}, to be {dtype}; "
            f"pass {shape} float32 on the CPU, of a multiple of four bytes when rounded"
        )
    request = [number for number, count in enumerate(tokens) for _ in range(-(-count // LANES))]
    lanes = torch.empty(
        len(request),
        width * dtype.itemsize // _STEP,
        LANES,
        _STEP // dtype.itemsize,
        dtype=dtype,
        device="cpu",
    )
    units = torch.empty(len(tokens), dtype=torch.float32, device="cpu")
    norms_2B = torch.empty(2, len(tokens), dtype=torch.float64, device="cpu")
    longest, lost = norms_2B
    problem = _loaded().memsparse_round_tokens(
        _KINDS[dtype],
        given.data_ptr(),
        width,
        (ctypes.c_int64 * len(tokens))(*tokens),
        len(tokens),
        lanes.data_ptr(),
        *(each.data_ptr() for each in (units, longest, lost)),
    )
    _check(problem)
    vectors = Vectors(
        lanes=lanes,
        request=torch.tensor(request, dtype=torch.int32, device="cpu"),
        requests=len(tokens),
        dtype=dtype,
    )
    return vectors, units, longest, lost


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
    _check(_loaded().memsparse_raise_best_products(*product.factors, best_BM.data_ptr(), *product.threads))
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

    Returns: whether it was done: False, and nothing raised, where documents do not ascend.

    Raises: ShapeError as they do.
    """
    product = _Product(keys_MW, vectors)
    rows = _Rows(
        keys, doc_of_chunk, (units_B, of_errors_B, of_norms_B), bounds_2NB, len(keys_MW), vectors.requests
    )
    problem = _loaded().memsparse_scan(
        *product.factors, *rows.of_chunks, 0.0, *rows.of_documents, *product.threads
    )
    if problem == _MIXED:
        return False
    _check(problem)
    return True


def score_stored(
    tokens_RW: Tensor,
    tokens: Sequence[int],
    blocks: Sequence[Tensor],
    block_BM: Tensor,
    start_BM: Tensor,
    count_BM: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `ops.exact_scores.score_stored` returns; sums run over the columns in their order.

    Args:
        tokens_RW: float32, of all requests.
        tokens: how many of them each request has, in order.
        blocks: those that `can_score` takes, of one width.
        block_BM, start_BM, count_BM: int64 on the CPU, of one shape.

    Raises: ShapeError for other tokens, or a run that does not lie in its block.
    """
    given, width = tokens_RW.contiguous(), blocks[0].shape[1]
    if not _is_readable(given, torch.float32, (sum(tokens), width)):
        raise ShapeError(
            f"tokens are {tuple(given.shape)} {given.dtype}; pass {(sum(tokens), width)} float32 on the CPU"
        )
    runs = block_BM.contiguous(), start_BM.contiguous(), count_BM.contiguous()
    scores = torch.empty(count_BM.shape, dtype=torch.float32, device="cpu")
    chunks = torch.empty(count_BM.shape, dtype=torch.int64, device="cpu")
    work = int(count_BM.sum()) * max(tokens, default=0) * width
    problem = _loaded().memsparse_score_stored(
        _KINDS[blocks[0].dtype],
        width,
        given.data_ptr(),
        (ctypes.c_int64 * len(tokens))(*tokens),
        len(tokens),
        (ctypes.c_void_p * len(blocks))(*(block.data_ptr() for block in blocks)),
        (ctypes.c_int64 * len(blocks))(*(len(block) for block in blocks)),
        len(blocks),
        *(each.data_ptr() for each in runs),
        count_BM.shape[1],
        scores.data_ptr(),
        chunks.data_ptr(),
        _work_at_once(),
        max(1, min(torch.get_num_threads(), work // _EXACT_SHARE)),
    )
    _check(problem)
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
    if not _is_readable(best_BM, torch.float32, (requests, chunks)):
        raise ShapeError(f"best products are {tuple(best_MB.shape)} {best_MB.dtype}; pass float32 on the CPU")
    rows = _Rows(keys, doc_of_chunk, (units_B, of_errors_B, of_norms_B), bounds_2NB, chunks, requests)
    _check(
        _loaded().memsparse_raise_bounds(
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
        threads = max(1, min(torch.get_num_threads(), work // _SHARE))
        self.threads = _work_at_once(), threads, _ROWS * -(-max(len(keys), 1) // (_ROWS * _PARTS * threads))


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
            if tensor is not None and not _is_readable(tensor, dtype, shape):
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
        self.of_documents = [bound.data_ptr() for bound in bounds_2NB]


def _kind_for(dtype: torch.dtype, width: int) -> int:
    """Which kernel multiplies keys of that dtype and width."""
    is_whole = width * dtype.itemsize % TILE_BYTES == 0
    return _TILED[dtype] if is_whole and has_tiles(dtype) else _KINDS[dtype]


def _check(problem: int) -> None:
    """Raise what a call of C reports."""
    if problem == _NO_MEMORY:
        raise MemoryError("for what a kernel works with besides what it is given")
    if problem == _OUTSIDE:
        raise ShapeError("a chunk's document is out of range; number them from 0, below those of the bounds")
    if problem == _RUN_OUTSIDE:
        raise ShapeError(RUN_OUTSIDE)
    if problem:
        raise RuntimeError("no kernel for this processor")


def _loaded() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def _is_readable(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether C may take a tensor's memory for what it expects."""
    found = tensor.dtype, tuple(tensor.shape), tensor.device.type
    return found == (dtype, shape, "cpu") and tensor.is_contiguous()


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none, or they are another machine's or version's."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.memsparse_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    long, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    product: list[Any] = [ctypes.c_int, pointer, long, long, pointer, long, pointer, long]
    of_chunks: list[Any] = [long, *[pointer] * 7]
    threads: list[Any] = [pointer, ctypes.c_int, long]
    library.memsparse_can_multiply.argtypes = [ctypes.c_int]
    library.memsparse_has_bfloat16.argtypes = [ctypes.c_int]
    library.memsparse_linear.argtypes = [
        *(pointer, long, pointer, long, long, pointer, ctypes.c_int),
        *threads[:2],
    ]
    library.memsparse_attend.argtypes = [
        *(pointer, long, long, long, long, real, ctypes.c_int),
        *threads[:2],
    ]
    library.memsparse_round_tokens.argtypes = [
        *(ctypes.c_int, pointer, long, pointer, long),
        *(pointer, pointer, pointer, pointer),
    ]
    library.memsparse_raise_best_products.argtypes = [*product, pointer, *threads]
    library.memsparse_scan.argtypes = [*product, *of_chunks, real, pointer, pointer, *threads]
    library.memsparse_raise_bounds.argtypes = [pointer, long, long, *of_chunks, real, pointer, pointer]
    library.memsparse_score_stored.argtypes = [
        *(ctypes.c_int, long, pointer, pointer, long),
        *(pointer, pointer, long, pointer, pointer, pointer),
        *(long, pointer, pointer),
        *threads[:2],
    ]
    return library


@cache
def _openmp() -> int | None:
    """Address of what has torch's own OpenMP threads work at once; None where torch has others.

    Threads of our own would compete with torch's, which wait for their next work without going to sleep: on
    two cores both of ours were put on one for milliseconds in every other scan.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None


def _work_at_once() -> int | None:
    return None if _forked else _openmp()


_forked = False
"""Whether this is a forked process, in which OpenMP may wait for threads that only its parent has."""


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)
