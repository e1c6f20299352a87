"""The scan of `memsparse.ops.scan` in Triton, for CUDA devices: each key is read from memory once.

The product runs on tensor cores: exactly for int8, int4 and binary keys (int8 queries, int32 sums), in
float32 sums for bf16 and fp8 (float16 holds fp8 keys exactly; queries are rounded to it). Both maxima are
taken where the sums lie, so that only document bounds are written. What rounding queries and keys lost is
measured, what summing may lose is bounded, and all of it lies inside the interval.

The kernels are in `triton_kernels`, imported at the first call: this module needs torch alone. The first call
at a new size tries every configuration there, some seconds, and keeps the fastest on disk.

B requests, T tokens, W routing width, C chunks, N documents.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from memsparse.errors import ConfigError, InputError, ShapeError
from memsparse.ops import routing
from memsparse.ops.quantization import KeyFormat, ScanKeys

FORMATS: dict[KeyFormat, tuple[int, int]] = {
    "bf16": (8, 0),
    "fp8": (8, 9),
    "int8": (8, 0),
    "int4": (8, 0),
    "binary": (8, 0),
}
"""Key formats with a kernel, and the compute capability each needs; float32 keys are torch's own business."""
PLANES: dict[KeyFormat, int] = {"int4": 2, "binary": 8}
"""Columns that share a byte."""
_OPERANDS: dict[KeyFormat, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp8": torch.float16,
    "int8": torch.int8,
    "int4": torch.int8,
    "binary": torch.int8,
}
"""What a query is rounded to."""
COLUMNS = 128
"""Routing tokens one program holds sums for."""
FREE_COLUMNS = 64
"""Up to so many routing tokens the second part of a query costs no time. While an H200 reads one component of
a key it does some 180 products, in bf16 (790 TFLOP/s, 4.3 TB/s) as in int8, which doubles both."""
WIDEST = 2**17
"""Columns of a key up to which int32 holds a sum of int8 products."""
LARGEST_K = 128
"""`top_documents` takes the best one by one: for many, sorting is faster."""
BLOCK = 2048
"""Scores one program of `top_documents` takes, many times more than it keeps."""


@cache
def has_triton() -> bool:
    """Whether triton can be imported."""
    return find_spec("triton") is not None


def can_scan(keys: ScanKeys) -> bool:
    """Whether `scan_documents` takes these keys where they lie: on a CUDA device that has their format."""
    if keys.device.type != "cuda" or torch.version.cuda is None or keys.format not in FORMATS:
        return False
    if keys.basis is not None:
        return False
    return torch.cuda.get_device_capability(keys.device) >= FORMATS[keys.format] and has_triton()


def scan_documents(
    routing_q: Tensor,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    query_mask: Tensor,
    *,
    num_documents: int,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Bounds of every document's score: lower <= exact <= upper, as `scan.scan_documents` promises.

    Nothing waits for the device, and no memory is taken beyond the result and the split queries.

    Args:
        routing_q: (B, T, W) float32.
        keys: C chunks of a format in `FORMATS`.
        doc_of_chunk: (C,) int64 or int32, below `num_documents`; fastest when ascending.
        query_mask: (B, T) bool, True on the tokens that route; requests may have different numbers of them.
        num_documents: N.
        allowed: (B, N) bool, True where a request may read a document. None: everywhere. Keys that no request
            may read are not read, as far as they lie together.

    Returns: lower, upper, both (B, N) float32; -inf in both where a document has no chunk or is not allowed,
        or a request has no routing token; (-inf, inf) where a query is not finite, or too long for float32.

    Raises: ShapeError if sizes do not fit; ConfigError for a format without a kernel, or without triton.
    """
    _check(routing_q, keys, doc_of_chunk, query_mask, num_documents, allowed)
    batch, tokens, width = routing_q.shape
    bounds = routing_q.new_full((2, batch, num_documents), float("-inf"), dtype=torch.float32)
    if not bounds.numel() or not query_mask.numel() or not len(keys):
        return bounds[0], bounds[1]
    kernels = _kernels()
    integer = _OPERANDS[keys.format] == torch.int8
    requests, tokens_each = _column_shape(batch, tokens)
    two = keys.format in ("bf16", "int8") and requests * tokens_each <= FREE_COLUMNS
    split = _split_queries(kernels, routing_q, query_mask, _OPERANDS[keys.format], parts=2 if two else 1)

    def grid(meta: dict[str, int]) -> tuple[int]:
        columns = -(-batch // meta["REQUESTS"]) * -(-tokens // meta["TOKENS"])
        return (-(-len(keys) // meta["CHUNKS"]) * columns,)

    with torch.cuda.device_of(keys.codes):
        kernels.scan[grid](
            *split,
            keys.codes.contiguous(),
            None if keys.scales is None else keys.scales.contiguous(),
            keys.errors.contiguous(),
            keys.norms.contiguous(),
            doc_of_chunk.contiguous(),
            None if allowed is None else allowed.contiguous(),
            bounds[0],
            bounds[1],
            size=len(keys).bit_length() // 2,
            chunks=len(keys),
            documents=num_documents,
            batch=batch,
            tokens=tokens,
            WIDTH=width,
            REQUESTS=requests,
            TOKENS=tokens_each,
            PARTS=len(split[0]),
            PLANES=PLANES.get(keys.format, 1),
            INTEGER=integer,
            SLACK=sum_slack(width, exact=integer),
        )
    return bounds[0], bounds[1]


def sum_slack(width: int, *, exact: bool) -> float:
    """What summing may cost, relative to ||q|| ||k||, over W products.

    A float32 sum in any order, by which others may tell the exact score: 2^-24 a product. A tensor core
    aligns a few products to the largest and cuts them to 24 bits or more: n at a time cost (n + 2) / n 2^-23
    a product, below 2^-22 for any n above 2. Integer sums are exact. The rest is for what follows the sum.
    """
    return (width + 8) * (2.0**-23 if exact else 2.0**-23 + 2.0**-22)


def top_documents(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`routing.top_documents` in two launches up to some 250,000 documents (k = 16), without waiting.

    The scores of 100M tokens (195,000 documents of 8 chunks) are 0.8 MB beside 3.2 GB of bf16 keys, 0.02 % of
    the floor; what costs is launches, some ten for torch's, and its wait for what `nonzero` finds.

    Args:
        scores: (B, N) float32 without NaN; -inf marks a document that may not be chosen.
        k: beyond 128 the work is left to `routing.top_documents`.

    Returns: scores (B, k), best first, ties to the lower index, and document indices (B, k) int64; -inf and
        -1 where there are fewer than k.

    Raises: ShapeError if `scores` is no matrix; InputError if k is negative; ConfigError without triton.
    """
    if scores.ndim != 2:
        raise ShapeError(f"scores are {tuple(scores.shape)}; pass (requests, documents)")
    if k < 0:
        raise InputError(f"k is {k}; ask for 0 documents or more")
    if k > LARGEST_K:
        return routing.top_documents(scores, k)
    batch, length = scores.shape
    best = scores.new_full((batch, k), float("-inf"))
    index = torch.full((batch, k), -1, dtype=torch.long, device=scores.device)
    if not best.numel() or not length:
        return best, index
    kernels = _kernels()
    source = scores.contiguous()
    with torch.cuda.device_of(scores):
        while (blocks := -(-length // BLOCK)) > 1:
            keys = torch.empty(batch, blocks * k, dtype=torch.long, device=scores.device)
            kernels.select[(blocks, batch)](source, keys, None, None, length, BLOCK=BLOCK, KEPT=k)
            source, length = keys, blocks * k
        kernels.select[(1, batch)](source, None, best, index, length, BLOCK=BLOCK, KEPT=k)
    return best, index


def _split_queries(
    kernels: Any, routing_q: Tensor, query_mask: Tensor, dtype: torch.dtype, *, parts: int
) -> tuple[Tensor, Tensor]:
    """Operands (parts, R, W) of a dtype and bounds (4, R), as the kernel of that name describes them."""
    batch, tokens, width = routing_q.shape
    rows = batch * tokens
    operands = torch.empty(parts, rows, width, dtype=dtype, device=routing_q.device)
    bounds = torch.empty(4, rows, device=routing_q.device)
    with torch.cuda.device_of(operands):
        kernels.split_queries[(rows,)](
            routing_q.float().contiguous(),
            query_mask.contiguous(),
            operands,
            bounds,
            rows,
            WIDTH=width,
            BLOCK=_power_of_two(width),
            PARTS=parts,
            OUTWARD=1 + (width + 64) * 2.0**-21,
        )
    return operands, bounds


def _column_shape(batch: int, tokens: int) -> tuple[int, int]:
    """Requests and tokens of one program, both powers of two: at least 16 sums a chunk, at most `COLUMNS`."""
    per_request = min(_power_of_two(tokens), COLUMNS)
    requests = min(_power_of_two(batch), COLUMNS // per_request)
    return requests, max(per_request, 16 // requests)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _kernels() -> Any:
    """The kernels' module; Any, because triton ships no types."""
    if not has_triton():
        raise ConfigError("the scan on CUDA needs the package triton; install it, or scan with torch")
    return import_module("memsparse.ops.triton_kernels")


def _check(
    routing_q: Tensor,
    keys: ScanKeys,
    doc_of_chunk: Tensor,
    query_mask: Tensor,
    num_documents: int,
    allowed: Tensor | None,
) -> None:
    if keys.format not in FORMATS:
        raise ConfigError(f"no kernel scans {keys.format} keys; use one of {', '.join(FORMATS)}")
    if routing_q.ndim != 3 or routing_q.shape[2] != keys.width:
        raise ShapeError(
            f"routing queries are {tuple(routing_q.shape)}; pass (requests, tokens, {keys.width})"
        )
    if keys.width > WIDEST:
        raise ShapeError(f"routing keys are {keys.width} wide; the kernel sums up to {WIDEST} products")
    if query_mask.shape != routing_q.shape[:2]:
        raise ShapeError(f"query_mask is {tuple(query_mask.shape)}, queries are {tuple(routing_q.shape[:2])}")
    if doc_of_chunk.shape != (len(keys),):
        raise ShapeError(f"{len(doc_of_chunk)} document indices for {len(keys)} chunks; pass one per chunk")
    if allowed is not None and allowed.shape != (len(routing_q), num_documents):
        raise ShapeError(
            f"allowed is {tuple(allowed.shape)}, bounds are {(len(routing_q), num_documents)}; "
            "pass one row per request"
        )
