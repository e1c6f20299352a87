"""Attention over [memory ; local] (paper Eq. 3 and 4): one softmax over the selected chunks and the context.

`memory_attention` takes padded rows and masks; `causal_attention` one request, whose keys lie side by side;
`attend_each` many of these. On a CPU, causal attention in bfloat16 is our own kernel's.

B rows, H query heads, G kv heads, T query tokens, S local keys, M memory slots, D head_dim.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.nn.functional import scaled_dot_product_attention

from memsparse.errors import ShapeError
from memsparse.ops.native import layers

Implementation = Literal["sdpa", "eager"]
_FASTER = 4
"""Times as fast as torch's attention our own is on one thread, at least."""


def causal_mask(key_mask_BS: Tensor, query_length: int) -> Tensor:
    """Which local keys each of the last `query_length` tokens sees: earlier or equal, and not padding.

    A token always sees itself, so that a padding row never averages over nothing.

    Args:
        key_mask_BS: (B, S) 1 on real tokens, the past included.

    Returns: (B, T, S) bool.
    """
    keys = key_mask_BS.shape[1]
    key = torch.arange(keys, device=key_mask_BS.device)
    query = torch.arange(keys - query_length, keys, device=key_mask_BS.device)[:, None]
    return ((key <= query) & key_mask_BS.bool()[:, None, :]) | (key == query)


def memory_attention(
    q_BHTD: Tensor,
    local_k_BGSD: Tensor,
    local_v_BGSD: Tensor,
    local_mask_BTS: Tensor | None,
    *,
    memory_k_BGMD: Tensor | None = None,
    memory_v_BGMD: Tensor | None = None,
    memory_mask_BTM: Tensor | None = None,
    memory_bias_BM: Tensor | None = None,
    scale: float,
    implementation: Implementation = "sdpa",
) -> Tensor:
    """Attend to the selected chunks and the local context in one softmax.

    Attention mass is not corrected for the number of tokens pooled into a chunk.

    Args:
        local_mask_BTS: bool, or None for plain causal attention without a past.
        memory_mask_BTM: (B, T or 1, M) bool; slots no token may see are padding and may hold anything.
        memory_bias_BM: added to the logits of the chunks (the routing gate).
        scale: factor on the inner products, usually head_dim**-0.5.

    Every token must see some key: what a token that sees none gets is undefined.

    Returns: (B, H, T, D).

    Raises: ShapeError if the memory's or the masks' sizes do not fit.
    """
    if memory_k_BGMD is None or memory_v_BGMD is None or memory_mask_BTM is None:
        if local_mask_BTS is None and implementation == "sdpa":
            return _attend_rows(q_BHTD, local_k_BGSD, local_v_BGSD, scale)
        mask = _local_mask(local_mask_BTS, q_BHTD)
        return _attend(q_BHTD, local_k_BGSD, local_v_BGSD, mask, None, scale, implementation)
    _check_memory(q_BHTD, local_k_BGSD, memory_k_BGMD, memory_v_BGMD, memory_mask_BTM)
    local = _local_mask(local_mask_BTS, q_BHTD)
    mask = torch.cat([memory_mask_BTM.expand(local.shape[0], local.shape[1], -1), local], dim=2)
    bias = None
    if memory_bias_BM is not None:
        bias = torch.nn.functional.pad(memory_bias_BM, (0, local.shape[-1]))
    # A weight of 0 does not stop NaN: padding is cut out of K and V themselves.
    padding = ~memory_mask_BTM.any(1)[:, None, :, None]
    k = torch.cat([memory_k_BGMD.to(local_k_BGSD.dtype).masked_fill(padding, 0), local_k_BGSD], dim=2)
    v = torch.cat([memory_v_BGMD.to(local_v_BGSD.dtype).masked_fill(padding, 0), local_v_BGSD], dim=2)
    return _attend(q_BHTD, k, v, mask, bias, scale, implementation)


def causal_attention(
    q_THD: Tensor, k_GSD: Tensor, v_GSD: Tensor, *, bias_S: Tensor | None = None, scale: float
) -> Tensor:
    """Attend for the last T of a request's S keys: every token sees the S - T keys before, then causally.

    Equal to `memory_attention` of one row, whose chunks stand before its tokens. Without a bias no mask is
    made where torch has a kernel that needs none: flash attention, in half precision on an accelerator.

    Args:
        bias_S: added to the logits of the keys (the routing gate).

    Returns: (T, H, D).

    Raises: ShapeError if there are fewer keys than tokens.
    """
    tokens, heads, width = q_THD.shape
    groups, keys, _ = k_GSD.shape
    if keys < tokens:
        raise ShapeError(f"{tokens} query tokens for {keys} keys; a token's own key is one of them")
    mask = None if bias_S is None else bias_S.to(q_THD.dtype)[None]
    if tokens == 1:  # the query heads of a group as rows that share its keys: several times as fast on a CPU
        q = q_THD.view(1, groups, heads // groups, width)
        attended = scaled_dot_product_attention(q, k_GSD[None], v_GSD[None], attn_mask=mask, scale=scale)
        return attended.view(1, heads, width)
    if mask is None:
        mask = _lower_right(tokens, keys)
    else:
        mask = mask.repeat(tokens, 1)
        mask[:, keys - tokens :] += torch.full_like(mask[:, :tokens], float("-inf")).triu(1)
    q = q_THD.transpose(0, 1)[None]
    attended = scaled_dot_product_attention(
        q, k_GSD[None], v_GSD[None], attn_mask=mask, scale=scale, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def attend_each(
    q_NHD: Tensor,
    tokens: Sequence[int],
    keys: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    *,
    scale: float,
    own: tuple[Tensor, Tensor, Sequence[int]] | None = None,
) -> Tensor:
    """`causal_attention` for each of some requests, which share nothing but a model; without gradients.

    Args:
        q_NHD: of the requests end to end; what lies behind them is idle.
        tokens: how many of these are whose, 1 or more.
        keys: k and v, (G, S, D), and the bias (S,) or None, of each.
        own: k and v, (N, G, D), end to end, too, and how many are whose, which are written into the last
            places of their request's keys first. None: they are there.

    Returns: (N, H, D), 0 where it is idle.

    Raises: ShapeError if there are fewer keys than tokens.
    """
    if not layers.are_torchs(q_NHD) and layers.can_attend(q_NHD):
        return layers.attend(q_NHD, tokens, keys, scale, own)
    if own is not None:
        own_k, own_v, added = own
        parts = (rows[: sum(added)].split(list(added)) for rows in (own_k, own_v))
        for (k, v, _), k_own, v_own in zip(keys, *parts, strict=True):
            before = k.shape[1] - len(k_own)
            k[:, before:], v[:, before:] = k_own.transpose(0, 1), v_own.transpose(0, 1)
    queries = q_NHD[: sum(tokens)].split(list(tokens))
    attended = [
        causal_attention(q, k, v, bias_S=bias, scale=scale)
        for q, (k, v, bias) in zip(queries, keys, strict=True)
    ]
    return torch.cat([*attended, torch.zeros_like(q_NHD[sum(tokens) :])])


def _lower_right(tokens: int, keys: int) -> CausalBias:
    """torch's `causal_lower_right` without the (2, tokens, keys) numbers of host memory that it reserves."""
    bias: CausalBias = CausalBias.__new__(CausalBias)
    CausalBias.__init__(bias, CausalVariant.LOWER_RIGHT, tokens, keys)
    return bias


def _check_memory(
    q_BHTD: Tensor, local_k: Tensor, memory_k: Tensor, memory_v: Tensor, mask_BTM: Tensor
) -> None:
    batch, _, tokens, width = q_BHTD.shape
    if memory_k.shape != memory_v.shape:
        raise ShapeError(f"memory K is {tuple(memory_k.shape)}, V {tuple(memory_v.shape)}; they must agree")
    want = (batch, local_k.shape[1], width)
    got = (memory_k.shape[0], memory_k.shape[1], memory_k.shape[3])
    if got != want:
        raise ShapeError(
            f"memory is for {got} rows, kv heads and head_dim, attention for {want}; use one model"
        )
    if mask_BTM.shape not in ((batch, tokens, memory_k.shape[2]), (batch, 1, memory_k.shape[2])):
        raise ShapeError(
            f"memory mask is {tuple(mask_BTM.shape)}; pass (rows, tokens or 1, slots) for {batch} rows, "
            f"{tokens} tokens, {memory_k.shape[2]} slots"
        )


def _local_mask(mask_BTS: Tensor | None, q_BHTD: Tensor) -> Tensor:
    if mask_BTS is not None:
        return mask_BTS
    batch, _, tokens, _ = q_BHTD.shape
    return causal_mask(torch.ones(batch, tokens, dtype=torch.bool, device=q_BHTD.device), tokens)


def _attend_rows(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, scale: float) -> Tensor:
    """Each row by itself, causally: `causal_attention` of as many keys as tokens.

    Our own kernel is several times as fast as torch's, but has no more threads than rows times kv heads.
    """
    batch, heads, tokens, width = q_BHTD.shape
    groups = k_BGTD.shape[1]
    ours = (
        not layers.are_torchs(q_BHTD, k_BGTD, v_BGTD)
        and layers.can_attend(q_BHTD)
        and k_BGTD.shape == v_BGTD.shape == (batch, groups, tokens, width)
        and k_BGTD.stride(3) == v_BGTD.stride(3) == 1
        and torch.get_num_threads() <= _FASTER * batch * groups
    )
    if not ours or not q_BHTD.numel():
        return scaled_dot_product_attention(
            q_BHTD, k_BGTD, v_BGTD, is_causal=True, scale=scale, enable_gqa=True
        )
    keys = [(k, v, None) for k, v in zip(k_BGTD.unbind(), v_BGTD.unbind(), strict=True)]
    attended = layers.attend(q_BHTD.transpose(1, 2).flatten(0, 1), [tokens] * batch, keys, scale)
    return attended.view(batch, tokens, heads, width).transpose(1, 2)


def _attend(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask_BTS: Tensor,
    bias_BS: Tensor | None,
    scale: float,
    implementation: Implementation,
) -> Tensor:
    blocked = torch.finfo(q_BHTD.dtype).min
    if implementation == "sdpa":
        mask = mask_BTS[:, None]
        if bias_BS is not None:
            mask = bias_BS[:, None, None, :].to(q_BHTD.dtype).masked_fill(~mask, blocked)
        return scaled_dot_product_attention(
            q_BHTD, k_BGSD, v_BGSD, attn_mask=mask, scale=scale, enable_gqa=True
        )
    batch, heads, tokens, width = q_BHTD.shape
    groups = k_BGSD.shape[1]
    # Query heads of a group become rows of one product: keys and values are never repeated.
    q_BGRD = (q_BHTD * scale).reshape(batch, groups, heads // groups * tokens, width)
    logits = (q_BGRD @ k_BGSD.transpose(2, 3)).view(batch, heads, tokens, -1)
    # Added, not filled in: a bfloat16 masked_fill is many times slower on a CPU.
    logits = logits + (mask_BTS[:, None].to(logits.dtype) - 1) * -(blocked / 2)
    if bias_BS is not None:
        logits = logits + bias_BS[:, None, None, :].to(logits.dtype)
    weights = logits.softmax(-1).to(v_BGSD.dtype)
    return (weights.view(batch, groups, -1, weights.shape[-1]) @ v_BGSD).view(batch, heads, tokens, width)
