"""One whole model out of what is trained: adapters merged, shards joined."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training.lora import LoraSettings, add_lora, merge_lora
from memsparse.training.sharding import joined
from memsparse.training.start import empty_model


def whole_model(
    model: MemSparseForCausalLM, lora: LoraSettings | None, dtype: torch.dtype
) -> MemSparseForCausalLM | None:
    """The model that training has made so far: itself, or a copy where it has adapters or is sharded.

    Args:
        lora: of its adapters, which are merged. None: it has none, or they stay.
        dtype: of a copy made of shards.

    Returns: None in all processes but the first where the model is sharded; all must ask then.
    """
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return _joined_model(model, lora, dtype)
    if lora is None:
        return model
    copy = deepcopy(model)
    merge_lora(copy)
    return copy


def _joined_model(
    model: MemSparseForCausalLM, lora: LoraSettings | None, dtype: torch.dtype
) -> MemSparseForCausalLM | None:
    held: dict[str, Tensor] = model.state_dict()
    weights = {
        name: joined(each.to_local() if isinstance(each, DTensor) else each, each).cpu()
        for name, each in held.items()
    }
    if torch.distributed.get_rank() != 0:
        return None
    whole: Any = empty_model(model.config, torch.float32)
    if lora is not None:
        add_lora(whole, lora)
    whole.load_state_dict(weights)
    whole.tie_weights()
    if lora is not None:
        merge_lora(whole)
    for parameter in whole.parameters():
        parameter.data = parameter.data.to(dtype)
    return whole  # type: ignore[no-any-return]
