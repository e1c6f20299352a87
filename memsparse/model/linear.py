"""Linear layers as a model that answers has them."""

from math import prod

import torch
from torch import Tensor, nn

from memsparse.ops import native


class Linear(nn.Linear):
    """A linear layer whose products are our own kernel's, where that has them: in bfloat16 on a CPU, without gradients.

    What it makes of a token then does not depend on how many tokens it is given, as it does with oneDNN, where
    the last bit of some sums changes with their number.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch
        """(..., in) -> (..., out)."""
        weight = self.weight
        if (
            input.dtype == weight.dtype == torch.bfloat16
            and input.is_cpu
            and self.bias is None
            and not torch.is_grad_enabled()
            and native.is_whole(weight)
            and native.has_bfloat16()
        ):
            *rows, width = input.shape
            return native.linear(input.reshape(prod(rows), width), weight).view(*rows, self.out_features)
        return super().forward(input)
