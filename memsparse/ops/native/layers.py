"""Of a model in bfloat16: linear layers, requests that attend to their own keys, changes of every token.

N tokens, K inputs and O outputs of a layer; T tokens of a request, S keys, H query heads, G kv heads, D
head_dim.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.native.library import check, has, has_tiles, is_readable, loaded, threads_for

_COLUMNS = 32
"""Whose multiples are the widths, and the outputs, that are multiplied."""
_WIDEST = 4096
"""Columns up to which a linear layer is no slower than torch's, by tiles; a quarter of it by vectors."""
_MULTIPLIED = 2**24
"""Multiply-adds of a thread, at least: to wake it takes some ten microseconds."""
_ATTENDED = 2**18
"""Those of attention, likewise."""
_CHANGED = 2**17
"""Numbers a thread changes, likewise."""
_NORM, _ROTATION, _GATE = range(3)
"""What C calls these changes."""


def has_bfloat16() -> bool:
    """Whether this processor has what `attend` and `linear` multiply with."""
    return has("memsparse_has_bfloat16", False)


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
            and (bias is None or is_readable(bias, torch.float32, (seen,)))
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
    problem = loaded().memsparse_attend(
        (ctypes.c_int64 * len(requests))(*requests),
        len(queries),
        groups,
        heads // groups,
        width,
        scale,
        has_tiles(torch.bfloat16),
        *threads_for(work, _ATTENDED),
    )
    check(problem)
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
        and width <= (_WIDEST if has_tiles(torch.bfloat16) else _WIDEST // 4)
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
    problem = loaded().memsparse_linear(
        given.data_ptr(),
        tokens,
        weight_OK.data_ptr(),
        outputs,
        2 * width,
        out.data_ptr(),
        has_tiles(torch.bfloat16),
        *threads_for(tokens * outputs * width, _MULTIPLIED),
    )
    check(problem)
    return out


def can_change(*rows: Tensor) -> bool:
    """Whether `rms_norm`, `rotate` and `gate` take such tensors (..., width) here."""
    return has_bfloat16() and all(
        each.dtype == torch.bfloat16
        and each.is_cpu
        and each.shape[-1] % _COLUMNS == 0
        and each.is_contiguous()
        for each in rows
    )


def rms_norm(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Rows (..., D) over the root of their mean square, rounded, times weights (D,).

    Args:
        rows, weight: such as `can_change` takes.

    Raises: ShapeError for others.
    """
    if not can_change(rows, weight) or weight.shape != rows.shape[-1:]:
        raise _unchangeable(rows, weight)
    return _changed(_NORM, rows, weight, epsilon=epsilon)


def rotate(rows: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rows (..., H, D) turned to their positions: x cos + (-x2, x1) sin, x1 and x2 the halves of a row.

    Args:
        rows: such as `can_change` takes.
        cosines, sines: (..., D), likewise; of a token's heads the same.

    Raises: ShapeError for others.
    """
    tokens = rows.shape[:-2] + rows.shape[-1:]
    if not can_change(rows, cosines, sines) or not cosines.shape == sines.shape == tokens:
        raise _unchangeable(rows, cosines, sines)
    return _changed(_ROTATION, rows, cosines, sines, heads=rows.shape[-2])


def gate(rows: Tensor, passed: Tensor) -> Tensor:
    """What a feed-forward lets through: SiLU of rows (..., D), rounded, times others of that shape.

    Args:
        rows, passed: such as `can_change` takes.

    Raises: ShapeError for others.
    """
    if not can_change(rows, passed) or passed.shape != rows.shape:
        raise _unchangeable(rows, passed)
    return _changed(_GATE, rows, passed)


def _changed(
    what: int,
    rows: Tensor,
    first: Tensor,
    second: Tensor | None = None,
    *,
    heads: int = 1,
    epsilon: float = 0,
) -> Tensor:
    out = torch.empty_like(rows)
    if not out.numel():
        return out
    width = rows.shape[-1]
    problem = loaded().memsparse_change_tokens(
        what,
        rows.data_ptr(),
        rows.numel() // width,
        width,
        heads,
        first.data_ptr(),
        None if second is None else second.data_ptr(),
        epsilon,
        out.data_ptr(),
        *threads_for(rows.numel(), _CHANGED),
    )
    check(problem)
    return out


def _unchangeable(*given: Tensor) -> ShapeError:
    told = ", ".join(f"{tuple(each.shape)} {each.dtype}" for each in given)
    return ShapeError(
        f"rows and what changes them are {told}; pass bfloat16 on the CPU, in one piece, that fit, of a "
        f"width that is a multiple of {_COLUMNS}"
    )
