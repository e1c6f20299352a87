"""Muon or AdamW for matrices and AdamW for the rest, stepping float32 masters of a model's parameters.

A parameter that is float32 is its own master. Of a sharded one, the master is this process's part.
"""

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from memsparse.errors import ConfigError
from memsparse.training.processes import Processes
from memsparse.training.sharding import joined, own_part

MATRICES = ("muon", "adamw")
_ROUTERS = ("router_q_proj", "router_k_proj", "routing_gate")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Settings of the optimizers."""

    matrices: str = "muon"
    """What steps the matrices inside the layers: "muon" or "adamw". All else is stepped by AdamW."""
    matrix_lr: float = 0.02
    """Peak learning rate of the matrices. Muon takes about 0.02, AdamW far less."""
    other_lr: float = 2e-3
    """Peak learning rate of the rest: embeddings, output head, norms, gates."""
    router_lr: float | None = None
    """Peak learning rate of the routers' projections and gates, by AdamW. None: as the other matrices and
    gates."""
    embedding_lr: float | None = None
    """Peak learning rate of the embeddings and the output head. None: `other_lr`."""
    momentum: float = 0.95
    """Of Muon."""
    weight_decay: float = 0.0
    """Of matrices, routers' included."""
    clip: float = 1.0
    """Largest global gradient norm."""

    def __post_init__(self) -> None:
        if self.matrices not in MATRICES:
            raise ConfigError(f"matrices is {self.matrices!r}; use one of {', '.join(MATRICES)}")
        rates = ("matrix_lr", "other_lr", "router_lr", "embedding_lr")
        for name in (*rates, "clip", "weight_decay"):
            value, at_zero = getattr(self, name), name == "weight_decay"
            if value is not None and (not math.isfinite(value) or value < 0 or (value == 0 and not at_zero)):
                raise ConfigError(f"{name} is {value}; it must be {'0 or more' if at_zero else 'above 0'}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; it must be at least 0 and below 1")


class MasterOptimizer:
    """Steps float32 masters and writes them back into the model's parameters; those that are frozen stay."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: OptimizerConfig,
        processes: Processes | None = None,
    ) -> None:
        """Args: processes: those that train together. None: this one alone."""
        self.config = config
        self.processes = processes
        named = [pair for module in modules.values() for pair in module.named_parameters()]
        self.parameters = [parameter for _, parameter in named if parameter.requires_grad]
        self.masters = [own_part(parameter.detach()).float() for parameter in self.parameters]
        inner = [part for module in modules.values() for part in module.modules()]
        embeddings = {id(part.weight) for part in inner if isinstance(part, nn.Embedding)}
        kinds = [_kind(name, p, embeddings, config) for name, p in named if p.requires_grad]
        groups: dict[str, list[Tensor]] = {}
        for kind, master in zip(kinds, self.masters, strict=True):
            groups.setdefault(kind, []).append(master)
        self.optimizers = _optimizers(groups, config)
        self._sums: list[Tensor] | None = None

    def collect(self) -> None:
        """Take the gradients of a micro-batch from the parameters, and add them to those of earlier ones."""
        gradients = [
            torch.zeros_like(master) if parameter.grad is None else own_part(parameter.grad).float()
            for parameter, master in self._pairs()
        ]
        for parameter in self.parameters:
            parameter.grad = None
        if self._sums is None:
            self._sums = gradients
            return
        for held, gradient in zip(self._sums, gradients, strict=True):
            held += gradient

    @torch.no_grad()
    def step(self, factor: float, *, micro_steps: int = 1) -> float:
        """Apply the gradients at `factor` times the peak learning rates; return the gradient norm.

        The gradients are the mean over all processes and the `micro_steps` micro-batches that each of them
        collected; with one, it need not be collected. Nothing is changed when the norm is not finite.
        """
        if self._sums is None:
            self.collect()
        gradients, self._sums = self._sums or [], None
        if self.processes is not None:
            gradients = self.processes.mean(gradients, self.parameters)
        if micro_steps > 1:
            gradients = [gradient / micro_steps for gradient in gradients]
        norm = self._norm(gradients)
        if not torch.isfinite(norm):
            return float(norm)
        scale = (self.config.clip / (norm + 1e-6)).clamp_max(1.0)
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient * scale
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        self._write_back()
        return float(norm)

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        if self.processes is None or not any(isinstance(p, DTensor) for p in self.parameters):
            return torch.linalg.vector_norm(norms)  # type: ignore[no-any-return]
        parts = torch.tensor([isinstance(p, DTensor) for p in self.parameters], device=norms.device)
        whole = norms[~parts].square().sum()
        return (self.processes.sum(norms[parts].square().sum()) + whole).sqrt()

    def _write_back(self) -> None:
        for parameter, master in self._pairs():
            held = own_part(parameter)
            if held.data_ptr() != master.data_ptr():
                held.copy_(master)

    def _pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        return zip(self.parameters, self.masters, strict=True)

    def state_dict(self) -> dict[str, Any]:
        """Masters and the optimizers' states, whole: where parameters are sharded, all processes must ask."""
        like = {id(master): parameter for parameter, master in self._pairs()}
        optimizers = []
        for optimizer in self.optimizers:
            held = optimizer.state_dict()
            ordered = [each for group in optimizer.param_groups for each in group["params"]]
            held["state"] = {
                index: {name: joined(value, like[id(ordered[index])]) for name, value in values.items()}
                for index, values in held["state"].items()
            }
            for group in held["param_groups"]:
                group.pop("peak")
            optimizers.append(held)
        return {"masters": [joined(m, p) for p, m in self._pairs()], "optimizers": optimizers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises: ConfigError if it belongs to parameters of other shapes, or other optimizers.
        """
        own = [tuple(parameter.shape) for parameter in self.parameters]
        held = [tuple(master.shape) for master in state["masters"]]
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
        for (parameter, master), saved in zip(self._pairs(), state["masters"], strict=True):
            master.copy_(own_part(saved, parameter))
        like = {id(master): parameter for parameter, master in self._pairs()}
        try:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                _restore(optimizer, saved, like)
        except (ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                "the state belongs to other optimizers; keep matrices, router_lr and embedding_lr as they "
                "were set or unset, or use another folder"
            ) from error
        self._write_back()


def _kind(name: str, parameter: nn.Parameter, embeddings: set[int], config: OptimizerConfig) -> str:
    """Which group of the optimizers a parameter belongs to."""
    if config.router_lr is not None and any(part in name for part in _ROUTERS):
        return "routers"
    is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1
    if id(parameter) in embeddings or (is_matrix and "lm_head" in name):
        return "others" if config.embedding_lr is None else "embeddings"
    return "matrices" if is_matrix else "others"


def _optimizers(groups: Mapping[str, list[Tensor]], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon, where it is asked for and there are matrices, then AdamW; either has a group of each kind."""
    peaks = {
        "matrices": config.matrix_lr,
        "others": config.other_lr,
        "routers": config.router_lr,
        "embeddings": config.embedding_lr,
    }
    decays = {"matrices": config.weight_decay, "routers": config.weight_decay}
    optimizers: list[torch.optim.Optimizer] = []
    matrices = groups.get("matrices")
    if config.matrices == "muon" and matrices:
        group = {"params": matrices, "peak": config.matrix_lr}
        optimizers.append(
            torch.optim.Muon([group], momentum=config.momentum, weight_decay=config.weight_decay)
        )
    rest = [
        {"params": groups[kind], "peak": peak, "weight_decay": decays.get(kind, 0.0)}
        for kind, peak in peaks.items()
        if kind in groups and (kind != "matrices" or config.matrices == "adamw")
    ]
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=config.other_lr, betas=(0.9, 0.95)))
    return optimizers


def _restore(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], like: Mapping[int, nn.Parameter]
) -> None:
    """Load a saved state into an optimizer that keeps its own rates."""
    ordered = [each for group in optimizer.param_groups for each in group["params"]]
    groups = [
        {**held, **{name: group[name] for name in ("peak", "weight_decay")}}
        for held, group in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    state = {
        index: {name: own_part(value, like[id(ordered[index])]) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    optimizer.load_state_dict(deepcopy({"state": state, "param_groups": groups}))
