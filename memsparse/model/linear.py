"""Linear layers as a model that answers has them."""

from math import prod

import torch
from torch import Tensor, nn

from memsparse.ops.native import layers


class Linear(nn.Linear):
    """A linear layer that our own kernel computes where it can: in bfloat16, on a CPU, without gradients.

    What it makes of a token then does not depend on how many there are. With torch the last bit of some sums
    changes with their number.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch
        """(..., in) -> (..., out)."""
        if (
            self.bias is not None
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or type(input) is not Tensor
            or not layers.can_apply(self.weight, input)
        ):
            return super().forward(input)
        *rows, width = input.shape
        tokens_NK = input.reshape(prod(rows), width)
        return layers.linear(tokens_NK, self.weight).view(*rows, self.out_features)
