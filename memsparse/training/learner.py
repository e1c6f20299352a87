"""Everything that training computes, as one module: this is what is sharded, so all calls go through it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training.data import IGNORED, Step
from memsparse.training.objective import DigitReader, LossWeights, StepResult, run_step, span_loss


class Learner(nn.Module):
    """A model and the readout that is trained beside it."""

    def __init__(self, model: MemSparseForCausalLM, reader: DigitReader) -> None:
        super().__init__()
        self.model = model
        self.reader = reader

    def forward(self, task: str, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of a task: "calls", "spans", or "copy" and "induction", which are `tokens`."""
        compute: Any = {"calls": self.calls, "spans": self.spans, "idle": self.idle}.get(task, self.tokens)
        return compute(*args, **kwargs)

    def calls(self, step: Step, weights: LossWeights, **kwargs: Any) -> StepResult:
        """`run_step`."""
        return run_step(self.model, step, weights, reader=self.reader, **kwargs)

    def spans(self, ids: Tensor, repeats: Tensor) -> Tensor:
        """`span_loss`."""
        return span_loss(self.model, ids, repeats)

    def idle(self) -> Tensor:
        """Zero, with a gradient of zero for all that is trained; sharded parts are gathered on the way."""
        for part in self.modules():
            if isinstance(part, FSDPModule):
                part.unshard()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.stack([parameter.flatten()[0].float() * 0 for parameter in trained]).sum()

    def tokens(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the labelled tokens of plain rows."""
        states = self.model.model(input_ids=ids).last_hidden_state
        where = labels[:, 1:] != IGNORED
        logits = self.model.lm_head(states[:, :-1][where]).float()
        targets = labels[:, 1:][where]
        accuracy = (logits.detach().argmax(1) == targets).float().mean()
        return cross_entropy(logits, targets), accuracy


def checkpoint_layers(model: MemSparseForCausalLM) -> None:
    """Compute each layer's activations again in the backward pass."""
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = _again


def _again(function: Any, *args: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)
