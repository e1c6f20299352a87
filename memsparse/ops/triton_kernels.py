"""The Triton kernels behind `triton_scan`; importing this module needs triton.

B requests, T tokens, R = B*T rows of queries, W routing width, C chunks, N documents. A program of the scan
takes `CHUNKS` chunks and `REQUESTS * TOKENS` columns of queries. Codes lie in `PLANES` planes of W/PLANES
columns that share bytes: 1, 2 (int4) or 8 (binary).
"""

from collections.abc import Mapping, Sequence

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
UNSAFE = tl.constexpr(2.0**90)
"""Norms and half widths from here on may have overflowed on the way: nothing is known of such a score."""
TINY = tl.constexpr(2.0**-100)
"""Above what underflow can cost."""
EMPTY = tl.constexpr(-(2**63))
"""A key below that of any score."""

# What a program of the scan holds, at W = 1024. A stage keeps one tile of codes and one of queries in shared
# memory: CHUNKS * DEPTH codes, and REQUESTS * TOKENS * DEPTH * PARTS * PLANES components of queries. 128 x 64
# codes of bf16 and 32 tokens in two parts are 16 + 8 KiB, 96 KiB in four stages, and 160 registers a thread:
# two programs on a multiprocessor of an H200 (227 KiB), each with 48 KiB of keys on their way. 26 KiB would
# cover the latency (4.3 TB/s over 132 multiprocessors, times 0.8 us).
# Sums take CHUNKS * REQUESTS * TOKENS of 65,536 registers, and spill beyond 64 a thread, because both bounds
# of a sum live beside it for a moment.
# A bank of 1M tokens has 15,625 chunks: 123 programs of 128, not one each, but 245 of 64.
CONFIGS = [
    triton.Config({"CHUNKS": chunks, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for chunks, depth, warps, stages in (
        (64, 64, 4, 4),
        (64, 128, 4, 3),
        (128, 64, 4, 4),
        (128, 128, 4, 3),
        (128, 64, 8, 4),
        (128, 128, 8, 3),
        (256, 64, 8, 3),
    )
]
SUMS_PER_THREAD = 64
WORTH_TUNING = 7
"""The `size` of a scan (half the bits of its number of chunks) from which configurations are compared."""
INTERPRETER = [triton.Config({"CHUNKS": 32, "DEPTH": 32})]
"""Small, so that small tests cross the borders of programs and tiles; alone, because it cannot be timed."""


def fitting(
    configs: Sequence[triton.Config], named_args: Mapping[str, object], **meta: int
) -> list[triton.Config]:
    """The configurations whose sums fit into registers at these column and part counts; never none.

    One for a few thousand chunks, which are scanned sooner than configurations are compiled to be compared.
    """
    sums = meta["REQUESTS"] * meta["TOKENS"] * (meta["PARTS"] if meta["INTEGER"] else 1)
    fits = [
        config
        for config in configs
        if config.kwargs["CHUNKS"] * sums <= SUMS_PER_THREAD * 32 * config.num_warps
    ] or list(configs[:1])
    return fits if meta["size"] >= WORTH_TUNING else fits[:1]


@triton.jit(do_not_specialize=["rows"])
def split_queries(
    routing_q: tl.tensor,
    query_mask: tl.tensor,
    parts: tl.tensor,
    bounds: tl.tensor,
    rows: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    OUTWARD: tl.constexpr,
) -> None:
    """One routing token a program: the operands of the product, and the norms its error bound needs.

    q = factor * sum of parts + rest, where the second part of integers counts 1/128.

    Shapes: parts (PARTS, R, W); bounds (4, R) float32: factor, ||q|| and ||rest|| rounded up, and what the
    token adds to a score, 0, or -inf where it does not route.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    routes = tl.load(query_mask + row) != 0
    q = tl.where(routes, tl.load(routing_q + row * WIDTH + column, mask=inside, other=0.0), 0.0)
    # A power of two brings the largest component into [1, 2), exactly: no square below over- or underflows.
    largest = tl.max(tl.abs(q), 0)
    exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 27), 253)
    factor = (exponent << 23).to(tl.float32, bitcast=True)
    q *= ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    rest = q
    step = 1.0
    if parts.dtype.element_ty == tl.int8:
        step = tl.maximum(tl.max(tl.abs(q), 0), TINY) / 127
    unit = step
    for part in tl.static_range(PARTS):
        if parts.dtype.element_ty == tl.int8:
            rounded = tl.floor(rest / unit + 0.5)
            code = tl.minimum(tl.maximum(rounded, -127), 127).to(tl.int8)
            rest -= code.to(tl.float32) * unit
            unit *= 2.0**-7
        else:
            code = rest.to(parts.dtype.element_ty)
            rest -= code.to(tl.float32)
        tl.store(parts + (part * rows + row) * WIDTH + column, code, mask=inside)
    length = tl.sqrt(tl.sum(q * q, 0))
    lost = tl.sqrt(tl.sum(rest * rest, 0)) + length * 2.0**-22 + 2.0**-40
    tl.store(bounds + row, factor * step)
    tl.store(bounds + rows + row, length * OUTWARD * factor)
    tl.store(bounds + 2 * rows + row, lost * OUTWARD * factor)
    tl.store(bounds + 3 * rows + row, tl.where(routes, 0.0, float("-inf")))


@triton.constexpr_function
def _unpacking(plane: int, planes: int) -> str:
    """PTX that takes one plane out of four packed bytes at once, each code to a signed byte.

    Signs: with n = 1 for -1 and 0 for +1 in every byte, 255 n | 1 is 0xFF or 0x01.
    Nibbles: code + 8 with its top bit flipped is the code in 4 bits; 0x1E times that bit fills the upper 4.
    """
    if planes == 8:
        steps = (
            f"shr.b32 t, $1, {plane}; and.b32 t, t, 0x01010101; xor.b32 t, t, 0x01010101; "
            "mul.lo.u32 t, t, 255; or.b32 $0, t, 0x01010101;"
        )
    else:
        steps = (
            f"shr.b32 t, $1, {4 * plane}; and.b32 t, t, 0x0F0F0F0F; xor.b32 t, t, 0x08080808; "
            "and.b32 u, t, 0x08080808; mul.lo.u32 u, u, 0x1E; or.b32 $0, t, u;"
        )
    return "{ .reg .b32 t, u; " + steps + " }"


@triton.jit
def _plane(codes: tl.tensor, plane: tl.constexpr, PLANES: tl.constexpr) -> tl.tensor:
    """The columns of one plane as the product takes them."""
    if PLANES == 1:
        return codes.to(tl.float16) if codes.dtype == tl.float8e4nv else codes
    elif not INTERPRETED:
        return tl.inline_asm_elementwise(_unpacking(plane, PLANES), "=r,r", [codes], tl.int8, True, 4)
    elif PLANES == 2:
        return ((codes >> (4 * plane)) & 15).to(tl.int8) - 8
    else:
        return ((codes >> plane) & 1).to(tl.int8) * 2 - 1


@triton.jit
def _multiply(values: tl.tensor, queries: tl.tensor, sums: tl.tensor, SUM: tl.constexpr) -> tl.tensor:
    """Add values @ queries to the sums; the interpreter multiplies bf16 as float32, which is as exact."""
    if INTERPRETED and values.dtype == tl.bfloat16:
        return tl.dot(values.to(tl.float32), queries.to(tl.float32), sums, out_dtype=SUM)
    return tl.dot(values, queries, sums, out_dtype=SUM)


@triton.jit
def _same_document(
    doc_a: tl.tensor,
    low_a: tl.tensor,
    high_a: tl.tensor,
    doc_b: tl.tensor,
    low_b: tl.tensor,
    high_b: tl.tensor,
) -> tl.tensor:
    same = doc_a == doc_b
    low = tl.where(same, tl.maximum(low_a, low_b), low_b)
    return doc_b, low, tl.where(same, tl.maximum(high_a, high_b), high_b)


@triton.autotune(
    configs=INTERPRETER if INTERPRETED.value else CONFIGS,
    key=["size", "WIDTH", "REQUESTS", "TOKENS", "PARTS", "PLANES"],
    prune_configs_by={"early_config_prune": fitting},
    cache_results=True,
)
@triton.jit(
    do_not_specialize=["size", "chunks", "documents", "batch", "tokens"],
    # Where a tile of a bank begins, these lie anywhere; a variant for every alignment takes seconds to make.
    do_not_specialize_on_alignment=["scales", "errors", "norms", "doc_of_chunk", "lower", "upper"],
)
def scan(
    parts: tl.tensor,
    bounds: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    errors: tl.tensor,
    norms: tl.tensor,
    doc_of_chunk: tl.tensor,
    allowed: tl.tensor,
    lower: tl.tensor,
    upper: tl.tensor,
    size: tl.tensor,
    chunks: tl.tensor,
    documents: tl.tensor,
    batch: tl.tensor,
    tokens: tl.tensor,
    WIDTH: tl.constexpr,
    REQUESTS: tl.constexpr,
    TOKENS: tl.constexpr,
    PARTS: tl.constexpr,
    PLANES: tl.constexpr,
    INTEGER: tl.constexpr,
    SLACK: tl.constexpr,
    CHUNKS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Raise lower and upper (B, N) to the bounds of the chunks and tokens of this program.

    Programs that share chunks follow one another, so their second reading of the codes comes from the cache.
    A run of chunks of one document is reduced here; where it crosses programs, the atomic maximum joins it.
    """
    PLANE: tl.constexpr = WIDTH // PLANES
    COLUMNS: tl.constexpr = REQUESTS * TOKENS
    SUM: tl.constexpr = tl.int32 if INTEGER else tl.float32
    token_blocks = tl.cdiv(tokens, TOKENS)
    column_blocks = token_blocks * tl.cdiv(batch, REQUESTS)
    column_block = tl.program_id(0) % column_blocks
    place = tl.arange(0, CHUNKS)
    chunk = (tl.program_id(0) // column_blocks).to(tl.int64) * CHUNKS + place
    document = tl.load(doc_of_chunk + chunk, mask=chunk < chunks, other=-1)
    there = (document >= 0) & (document < documents)
    request = column_block // token_blocks * REQUESTS + tl.arange(0, REQUESTS)
    target = request.to(tl.int64)[None, :] * documents + document[:, None]
    wanted = there[:, None] & (request < batch)[None, :]
    if allowed is not None:
        wanted &= tl.load(allowed + target, mask=wanted, other=0) != 0
        if tl.max(tl.max(wanted.to(tl.int32), 1), 0) == 0:
            return

    column = tl.arange(0, COLUMNS)
    asker = column_block // token_blocks * REQUESTS + column // TOKENS
    token = column_block % token_blocks * TOKENS + column % TOKENS
    real = (asker < batch) & (token < tokens)
    rows = batch * tokens
    row = tl.where(real, asker * tokens + token, 0)
    depth = tl.arange(0, DEPTH)
    code_at = codes + tl.minimum(chunk, chunks - 1)[:, None] * PLANE + depth[None, :]
    query_at = parts + row.to(tl.int64)[None, :] * WIDTH + depth[:, None]
    sums = tl.zeros((CHUNKS, COLUMNS), dtype=SUM)
    fine = sums
    for start in tl.range(0, PLANE, DEPTH):
        inside = (start + depth < PLANE) | (PLANE % DEPTH == 0)
        tile = tl.load(code_at + start, mask=inside[None, :], other=0.0)
        for plane in tl.static_range(PLANES):
            values = _plane(tile, plane, PLANES)
            at = query_at + (plane * PLANE + start)
            sums = _multiply(values, tl.load(at, mask=inside[:, None], other=0.0), sums, SUM)
            if PARTS == 2:
                queries = tl.load(at + rows.to(tl.int64) * WIDTH, mask=inside[:, None], other=0.0)
                if INTEGER:
                    fine = _multiply(values, queries, fine, SUM)
                else:
                    sums = _multiply(values, queries, sums, SUM)

    products = sums.to(tl.float32)
    if PARTS == 2 and INTEGER:
        products += fine.to(tl.float32) * 2.0**-7
    factor = tl.load(bounds + row)
    length = tl.load(bounds + rows + row)
    lost = tl.load(bounds + 2 * rows + row)
    routing = tl.where(real, tl.load(bounds + 3 * rows + row), float("-inf"))
    error = tl.load(errors + chunk, mask=there, other=0.0)
    norm = tl.load(norms + chunk, mask=there, other=0.0)
    scale = tl.full((CHUNKS,), 1.0, tl.float32)
    if scales is not None:
        scale = tl.load(scales + chunk, mask=there, other=0.0)
    spread = tl.where(norm < UNSAFE, error + SLACK * (error + norm) + TINY, float("inf"))
    score = products * (scale[:, None] * factor[None, :]) + routing[None, :]
    half = length[None, :] * spread[:, None] + (lost[None, :] * norm[:, None] + TINY)
    safe = half < UNSAFE
    low = tl.where(safe, score - half, float("-inf"))
    high = tl.where(safe, score + half, tl.where(routing == 0, float("inf"), float("-inf"))[None, :])
    low = tl.max(tl.reshape(low, (CHUNKS, REQUESTS, TOKENS)), 2)
    high = tl.max(tl.reshape(high, (CHUNKS, REQUESTS, TOKENS)), 2)

    following = tl.load(doc_of_chunk + chunk + 1, mask=(place + 1 < CHUNKS) & (chunk + 1 < chunks), other=-1)
    owner = tl.broadcast_to(document.to(tl.int32)[:, None], (CHUNKS, REQUESTS))
    _, low, high = tl.associative_scan((owner, low, high), 0, _same_document)
    last = wanted & (document != following)[:, None]
    tl.atomic_max(lower + target, low, mask=last, sem="relaxed")
    tl.atomic_max(upper + target, high, mask=last, sem="relaxed")


@triton.jit(do_not_specialize=["length"])
def select(
    source: tl.tensor,
    keys: tl.tensor,
    scores: tl.tensor,
    index: tl.tensor,
    length: tl.tensor,
    BLOCK: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """The KEPT largest of one block of a row: first of scores, then of the keys the last pass left.

    A key orders as (score, lower index first): the score's bits, made to count upwards, over the index's
    complement. A pass of one block writes scores and indices, -inf and -1 where there are fewer.
    """
    row = tl.program_id(1).to(tl.int64)
    blocks = tl.num_programs(0)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < length
    if source.dtype.element_ty == tl.float32:
        score = tl.load(source + row * length + place, mask=there, other=float("-inf"))
        bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
        upward = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
        key = (upward << 32) | (0x7FFFFFFF - place).to(tl.int64)
        key = tl.where(there, key, EMPTY)
    else:
        key = tl.load(source + row * length + place, mask=there, other=EMPTY)
    for rank in tl.range(KEPT):
        best = tl.max(key, 0)
        key = tl.where(key == best, EMPTY, key)
        if scores is None:
            tl.store(keys + (row * blocks + tl.program_id(0)) * KEPT + rank, best)
        else:
            bits = (best >> 32).to(tl.int32)
            score = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
            found = (best != EMPTY) & (score > float("-inf"))
            document = 0x7FFFFFFF - (best & 0xFFFFFFFF)
            tl.store(scores + row * KEPT + rank, tl.where(found, score, float("-inf")))
            tl.store(index + row * KEPT + rank, tl.where(found, document, -1))
