"""Low-rank adapters for backbone and routers: injected into a model in place, merged back into it.

An adapter adds `alpha / rank * B(A x)` to a frozen projection. B begins as zeros, so that a model with fresh
adapters computes what it did before. Files are PEFT's own, with the gates beside the adapters, so that
`PeftModel.from_pretrained` reads them too.
"""

import json
import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memsparse.errors import ConfigError, ModelError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training.checkpoint import replacing

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BACKBONE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROUTERS = ("router_q_proj", "router_k_proj")
_NAME = "default"
_PREFIX = "base_model.model."
"""What a `PeftModel` puts before the names of the model inside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """What is adapted, and by how much."""

    rank: int = 16
    alpha: float = 32.0
    """The adapters' output is scaled by `alpha / rank`."""
    dropout: float = 0.0
    """Chance that an input of an adapter is dropped in training."""
    targets: list[str] | None = None
    """Projections of every layer that has them. None: all of `BACKBONE`, and `ROUTERS` where the model has
    them."""
    train_gates: bool = True
    """Train the scales of the routing gates beside the adapters."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora: rank is {self.rank}; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"lora: alpha is {self.alpha}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora: dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.targets is None:
            return
        known = (*BACKBONE, *ROUTERS)
        if unknown := [name for name in self.targets if name not in known]:
            raise ConfigError(f"lora: targets has {unknown[0]!r}; use some of {', '.join(known)}")
        if not self.targets:
            raise ConfigError(
                "lora: targets is empty; name a projection, or leave targets out for all of them"
            )


def add_lora(model: MemSparseForCausalLM, settings: LoraSettings) -> None:
    """Put fresh adapters into a model and freeze everything else, the gates excepted if they are trained.

    The model's own calls work as before. The adapters take the dtype of the weights beside them.

    Raises: ConfigError if the model has adapters already or lacks a target, or if peft is not installed.
    """
    peft = _peft()
    _check_plain(model)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_target_modules(model, settings.targets),
        base_model_name_or_path=model.name_or_path or None,
    )
    peft.inject_adapter_in_model(config, model, _NAME)
    _train_gates(model, settings.train_gates)


def merge_lora(model: MemSparseForCausalLM) -> None:
    """Add the adapters to the weights they adapt and take them out; nothing is frozen afterwards.

    Names and shapes of the weights are again those of a model without adapters.

    Raises: ConfigError if the model has no adapters; ModelError if a merged weight would not be finite.
    """
    _check_adapted(model)
    for _, layer in _adapters(model):
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"the adapters cannot be merged: {error}; train them again") from error
    _unload(model)


def adapter_state(model: MemSparseForCausalLM) -> dict[str, Tensor]:
    """What is trained beside the frozen weights, adapters and gates, by the names PEFT's files use.

    Raises: ConfigError if the model has no adapters.
    """
    _check_adapted(model)
    state = _peft().get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    gates = {f"{name}.routing_gate": gate.detach() for name, gate in _gates(model) if gate.requires_grad}
    return {_PREFIX + name: tensor for name, tensor in (state | gates).items()}


def save_adapter(model: MemSparseForCausalLM, folder: Path) -> None:
    """Write `adapter_state` and its configuration as PEFT does.

    Raises: ConfigError if the model has no adapters; EngineError where the disk is full or cannot be written:
        what was there is as before.
    """
    state = {name: tensor.contiguous() for name, tensor in adapter_state(model).items()}
    config: Any = copy(model.peft_config[_NAME])  # set by PEFT
    config.target_modules = sorted(config.target_modules)  # a set there, whose order is chance
    config.inference_mode = True
    with replacing(folder) as aside:
        config.save_pretrained(str(aside))
        save_file(state, aside / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: MemSparseForCausalLM, folder: Path) -> None:
    """Put the adapters of a folder into a model, ready to train on; everything else is frozen.

    The model is as before if that fails.

    Raises: ConfigError if the model has adapters already, or peft is not installed; ModelError if the folder
        holds no LoRA adapter, is damaged, or belongs to a model of other sizes.
    """
    peft = _peft()
    _check_plain(model)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"no {name} in {folder}; give the folder of an adapter")
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]
        if kind != "LORA":
            raise ModelError(f"{folder} holds an adapter of type {kind}; only LoRA is supported")
        config = peft.LoraConfig.from_pretrained(str(folder))
        held = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the adapter in {folder} is damaged ({reason}); fetch it again") from error
    config.inference_mode = False
    try:
        peft.inject_adapter_in_model(config, model, _NAME)
    except ValueError as error:  # no target fits
        raise ModelError(f"the adapter in {folder} fits no layer of this model; give its own") from error
    has_gates = any(name.endswith(".routing_gate") for name in held)
    _train_gates(model, has_gates)
    own = {name: tuple(tensor.shape) for name, tensor in adapter_state(model).items()}
    if own != {name: tuple(tensor.shape) for name, tensor in held.items()}:
        differing = sorted(
            name for name in own | held if name not in held or own.get(name) != tuple(held[name].shape)
        )
        _unload(model)
        raise ModelError(
            f"the adapter in {folder} belongs to another model ({differing[0].removeprefix(_PREFIX)} is "
            "missing, unknown or of another shape); give the model it was trained on"
        )
    names = {name.removeprefix(_PREFIX): tensor for name, tensor in held.items()}
    peft.set_peft_model_state_dict(model, names, adapter_name=_NAME)


def _target_modules(model: nn.Module, targets: list[str] | None) -> list[str]:
    """Targets as PEFT matches them, by the ends of module names.

    A router's projection is a Sequential of one, and its Linear called 0.
    """
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    spelt = {target: f"{target}.0" if target in ROUTERS else target for target in (*BACKBONE, *ROUTERS)}
    present = [each for each, end in spelt.items() if any(name.endswith(f".{end}") for name in names)]
    for target in targets or ():
        if target not in present:
            raise ConfigError(f"lora: targets has {target!r}, but the model has only {', '.join(present)}")
    return [spelt[target] for target in targets or present]


def _adapters(model: nn.Module) -> list[tuple[str, Any]]:
    layer: type = import_module("peft.tuners.lora").LoraLayer
    return [(name, module) for name, module in model.named_modules() if isinstance(module, layer)]


def _gates(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The attention modules that have a gate, by name, and the gate."""
    for name, module in model.named_modules():
        if isinstance(gate := getattr(module, "routing_gate", None), nn.Parameter):
            yield name, gate


def _train_gates(model: nn.Module, wanted: bool) -> None:
    for _, gate in _gates(model):
        gate.requires_grad_(wanted)


def _unload(model: nn.Module) -> None:
    """Put back the projections that adapters wrap."""
    for name, layer in _adapters(model):
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    model.requires_grad_(True)


def _check_plain(model: nn.Module) -> None:
    if hasattr(model, "peft_config"):
        raise ConfigError("the model has adapters already; merge them before adding others")


def _check_adapted(model: nn.Module) -> None:
    if not hasattr(model, "peft_config"):
        raise ConfigError("the model has no adapters; add or load them first")


def _peft() -> Any:
    """The package, which comes with an extra.

    Raises: ConfigError if it is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise ConfigError(
            f"adapters need the package peft ({error}); pip install 'memsparse[train]'"
        ) from error
