"""Of a model in bfloat16: linear layers, requests that attend to their own keys, changes of every token, the
means of chunks.

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


def can_attend(queries: Tensor) -> bool:
    """Whether `attend` takes such queries (..., D) here."""
    return (
        queries.dtype == torch.bfloat16
        and queries.is_cpu
        and not queries.shape[-1] % _COLUMNS
        and has_bfloat16()
    )


def attend(
    q_NHD: Tensor,
    tokens: Sequence[int],
    keys: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    scale: float,
    own: tuple[Tensor, Tensor, Sequence[int]] | None = None,
) -> Tensor:
    """What `ops.attention.attend_each` returns; args as there.

    A request's outcome does not depend on the others, nor on the number of threads.

    Args:
        q_NHD: such as `can_attend` takes.
        keys: each row lies in one piece; bias float32.

    Raises: ShapeError for others.
    """
    heads, width = q_NHD.shape[1:]
    groups = keys[0][0].shape[0]
    q = q_NHD.contiguous()
    attended = torch.empty_like(q)
    attended[sum(tokens) :].zero_()
    added = [0] * len(tokens) if own is None else own[2]
    own_k, own_v = (q, q) if own is None else (each.contiguous() for each in own[:2])
    fits = can_attend(q) and heads % groups == 0 and sum(tokens) <= len(q)
    if own is not None:
        rows = groups, width
        fits &= own_k.shape == own_v.shape and own_k.shape[1:] == rows and sum(added) <= len(own_k)
        fits &= all(each.dtype == torch.bfloat16 and each.is_cpu for each in (own_k, own_v))
    of_token, of_key = 2 * heads * width, 2 * groups * width
    at_q, at_out, at_k, at_v = (each.data_ptr() for each in (q, attended, own_k, own_v))
    requests, work = [], 0
    for count, more, (k, v, bias) in zip(tokens, added, keys, strict=True):
        seen, k_strides, v_strides = k.shape[1], k.stride(), v.stride()
        if not (
            fits
            and k.shape == v.shape == (groups, seen, width)
            and k.dtype == v.dtype == torch.bfloat16
            and k.is_cpu
            and v.is_cpu
            and k_strides[2] == v_strides[2] == 1
            and (bias is None or is_readable(bias, torch.float32, (seen,)))
            and seen >= count > 0
            and seen >= more >= 0
        ):
            raise ShapeError(
                f"{count} tokens of {tuple(q.shape)} {q.dtype} queries, {more} of their own, for "
                f"{tuple(k.shape)} keys and {tuple(v.shape)} values; pass (tokens, {heads}, {width}) for "
                f"({groups}, as many or more, {width}), bfloat16, on the CPU, rows in one piece of a "
                f"multiple of {_COLUMNS}"
            )
        requests += [
            *(at_q, at_k, at_v, k.data_ptr(), v.data_ptr(), 0 if bias is None else bias.data_ptr(), at_out),
            *(count, more, seen, *(2 * stride for stride in (*k_strides[:2], *v_strides[:2]))),
        ]
        at_q, at_out = at_q + count * of_token, at_out + count * of_token
        at_k, at_v = at_k + more * of_key, at_v + more * of_key
        work += count * seen * heads * width
    problem = loaded().memsparse_attend(
        (ctypes.c_int64 * len(requests))(*requests),
        len(tokens),
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


def linear(tokens_NK: Tensor, weight_OK: Tensor, passed_OK: Tensor | None = None) -> Tensor:
    """Tokens times the weights of a linear layer: (N, O) bfloat16, rounded from sums of float32.

    A token's outcome depends neither on the other tokens nor on the number of threads.

    Args:
        tokens_NK: such as `can_apply` takes.
        weight_OK: the same.
        passed_OK: the same, of what the others gate: the outcome is `gate` of both products, each of which is
            rounded. None: that of one product.

    Raises: ShapeError for others.
    """
    weights = [weight_OK] if passed_OK is None else [weight_OK, passed_OK]
    if not all(can_apply(each, tokens_NK) and each.shape == weight_OK.shape for each in weights):
        raise ShapeError(
            f"tokens are {tuple(tokens_NK.shape)} {tokens_NK.dtype}, weights "
            f"{[tuple(each.shape) for each in weights]} {weight_OK.dtype}; pass bfloat16 on the CPU, of one "
            f"width, and multiples of {_COLUMNS}"
        )
    (tokens, width), outputs = tokens_NK.shape, len(weight_OK)
    given = tokens_NK.contiguous()
    out = given.new_empty(tokens, outputs)
    problem = loaded().memsparse_linear(
        given.data_ptr(),
        tokens,
        weight_OK.data_ptr(),
        None if passed_OK is None else passed_OK.data_ptr(),
        outputs,
        2 * width,
        out.data_ptr(),
        has_tiles(torch.bfloat16),
        *threads_for(len(weights) * tokens * outputs * width, _MULTIPLIED),
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


def pool(rows: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """Means (C, ...) of `counts` (C,) rows (N, ...) from each of `starts` (C,) on, sums in float32, rounded.

    Args:
        rows: whose numbers, as one row, `can_change` takes.
        starts, counts: int64 on the CPU; counts at least 1.

    Raises: ShapeError for others, or for runs that do not lie in the rows.
    """
    flat, shape = rows.flatten(1), starts.shape
    fits = is_readable(starts, torch.int64, shape) and is_readable(counts, torch.int64, shape)
    if not can_change(flat) or not fits or starts.ndim != 1:
        raise _unchangeable(rows, starts, counts)
    inside = (counts > 0) & (starts >= 0) & (starts <= len(flat) - counts)
    if not bool(inside.all()):
        raise ShapeError(f"windows do not lie in {len(flat)} rows, or have none")
    means = flat.new_empty(len(starts), flat.shape[1])
    if means.numel():
        problem = loaded().memsparse_pool(
            flat.data_ptr(),
            flat.shape[1],
            starts.data_ptr(),
            counts.data_ptr(),
            len(starts),
            means.data_ptr(),
            *threads_for(flat.numel(), _CHANGED),
        )
        check(problem)
    return means.view(len(starts), *rows.shape[1:])


def are_torchs(*given: Tensor) -> bool:
    """Whether our kernels must not be asked: for gradients, for a compiler, for tensors of other kinds."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or any(type(each) is not Tensor for each in given)
    )


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
