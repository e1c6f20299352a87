"""What a model that answers is made of: in bfloat16, on a CPU, without gradients, our own kernels compute it.

What they make of a token does not depend on how many there are, and they pass over memory once. Elsewhere the
same is torch's.
"""

from math import prod
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.modules import module
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from memsparse.ops.native import layers


class Linear(nn.Linear):
    """A linear layer; with torch's the last bit of some sums changes with the number of tokens."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch
        """(..., in) -> (..., out)."""
        if self.bias is not None or layers.are_torchs(input) or not layers.can_apply(self.weight, input):
            return super().forward(input)
        return _product(input, self.weight)


class RMSNorm(Qwen3RMSNorm):
    """Rows over the root of their mean square, times weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if layers.are_torchs(hidden_states) or not layers.can_change(hidden_states, self.weight):
            return super().forward(hidden_states)
        return layers.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def rotate(q_BTHD: Tensor, k_BTGD: Tensor, cosines_BTD: Tensor, sines_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned to their positions."""
    given = q_BTHD, k_BTGD, cosines_BTD, sines_BTD
    are_alike = cosines_BTD.shape[:2] == q_BTHD.shape[:2]
    if layers.are_torchs(*given) or not layers.can_change(*given) or not are_alike:
        return apply_rotary_pos_emb(*given, unsqueeze_dim=2)  # type: ignore[no-any-return]
    turned = cosines_BTD, sines_BTD
    return layers.rotate(q_BTHD, *turned), layers.rotate(k_BTGD, *turned)


def silu_gate(rows: Tensor, passed: Tensor) -> Tensor:
    """silu(rows) * passed, of one shape."""
    if layers.are_torchs(rows, passed) or not layers.can_change(rows, passed):
        return silu(rows) * passed
    return layers.gate(rows, passed)


def gated_linear(tokens: Tensor, opens: nn.Module, passes: nn.Module) -> Tensor:
    """`silu_gate` of what two layers of one shape make of tokens: (..., in) -> (..., out)."""
    if layers.are_torchs(tokens) or not (_is_ours_alone(opens, tokens) and _is_ours_alone(passes, tokens)):
        return silu_gate(opens(tokens), passes(tokens))
    return _product(tokens, opens.weight, passes.weight)


def _product(tokens: Tensor, *weights: Tensor) -> Tensor:
    """`layers.linear` of tokens (..., K) that lie anyhow."""
    *rows, width = tokens.shape
    return layers.linear(tokens.reshape(prod(rows), width), *weights).view(*rows, len(weights[0]))


def _is_ours_alone(layer: nn.Module, tokens: Tensor) -> TypeGuard[Linear]:
    """Whether a layer is nothing but a product that our own kernel computes: no adapter, no hook."""
    hooks = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(module._global_forward_hooks, module._global_forward_pre_hooks),
    )
    return (
        type(layer) is Linear
        and layer.bias is None
        and "forward" not in vars(layer)
        and not any(hooks)
        and layers.can_apply(layer.weight, tokens)
    )
