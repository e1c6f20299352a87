"""Muon for matrices and AdamW for the rest, stepping float32 masters of a model kept in a lower precision."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from memsparse.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Settings of the two optimizers."""

    matrix_lr: float = 0.02
    """Peak learning rate of Muon."""
    other_lr: float = 2e-3
    """Peak learning rate of AdamW: embeddings, norms, gates."""
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest global gradient norm."""

    def __post_init__(self) -> None:
        for name, at_zero in (
            ("matrix_lr", False),
            ("other_lr", False),
            ("clip", False),
            ("weight_decay", True),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and not at_zero):
                raise ConfigError(f"{name} is {value}; it must be {'0 or more' if at_zero else 'above 0'}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; it must be at least 0 and below 1")


class MasterOptimizer:
    """Steps float32 masters and writes them back into the model's parameters."""

    def __init__(self, modules: Mapping[str, nn.Module], config: OptimizerConfig) -> None:
        self.config = config
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        self.masters = [p.detach().float().clone() for p in self.parameters]
        inner = [part for module in modules.values() for part in module.modules()]
        embeddings = {id(part.weight) for part in inner if isinstance(part, nn.Embedding)}
        is_matrix = [p.ndim == 2 and id(p) not in embeddings and min(p.shape) > 1 for p in self.parameters]
        matrices = [m for m, yes in zip(self.masters, is_matrix, strict=True) if yes]
        others = [m for m, yes in zip(self.masters, is_matrix, strict=True) if not yes]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=config.matrix_lr, momentum=config.momentum, weight_decay=config.weight_decay
            ),
            torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self._peaks = [config.matrix_lr, config.other_lr]

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Apply the gradients at `factor` times the peak learning rates; return the gradient norm.

        Where several processes train together, each applies the mean of their gradients. Nothing is changed
        when the norm is not finite.
        """
        gradients = [torch.zeros_like(m) if p.grad is None else p.grad.float() for p, m in self._pairs()]
        if distributed.is_initialized():
            gradients = _average(gradients)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        if not torch.isfinite(norm):
            return float(norm)
        scale = (self.config.clip / (norm + 1e-6)).clamp_max(1.0)
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient * scale
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
        for parameter, master in self._pairs():
            parameter.copy_(master)
            parameter.grad = None
        return float(norm)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.parameters, self.masters, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Masters and both optimizers' states."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"masters": self.masters, "optimizers": optimizers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises: ConfigError if it belongs to parameters of other shapes.
        """
        own, held = ([tuple(master.shape) for master in each] for each in (self.masters, state["masters"]))
        if own != held:
            differing = [(a, b) for a, b in zip(own, held, strict=False) if a != b]
            told = (
                f"a shape is {differing[0][1]}, not {differing[0][0]}"
                if differing
                else f"{len(held)} of them"
            )
            raise ConfigError(
                f"the state belongs to another model ({told}, of {len(own)} parameters); use the recipe it "
                "was made with, or another folder"
            )
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(deepcopy(saved))  # it would keep the tensors it is given
        for parameter, master in self._pairs():
            parameter.copy_(master)


def _average(gradients: list[Tensor]) -> list[Tensor]:
    """The mean over all processes, in one collective."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
